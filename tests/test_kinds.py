"""Each kind of weight as a bipartite network: its matrix computes what PyTorch computes."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.engine.coverage import coverage
from chts_core.engine.forward import LAST
from chts_core.engine.kinds import Layer, candidates, other_matrices
from chts_core.engine.layers import choose_layers


def layers_of(model: nn.Module) -> dict[str, Layer]:
    return {candidate.layer.name: candidate.layer for candidate in candidates(model)}


def matrices_of(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: layer.matrix(parameters[layer.parameter]) for name, layer in layers_of(model).items()}


# --- positions in the parameter and in the layer ---

WHOLE = Layer("w", "w", (3, 4), (4, 1))
PLACES = {
    "a whole weight": (WHOLE, (3, 4)),
    "some rows": (Layer("w:k", "w", (2, 4), (4, 1), offset=8), (6, 4)),
    "transposed": (Layer("w", "w", (3, 4), (1, 3)), (4, 3)),
    "some columns, transposed": (Layer("w:k", "w", (2, 4), (1, 6), offset=2), (4, 6)),
    "every other row": (Layer("w:up", "w", (3, 4), (8, 1), offset=4), (6, 4)),
    "every other column, transposed": (Layer("w:0:up", "w", (3, 4), (2, 6), offset=1), (4, 6)),
    "an expert of a stack": (Layer("w:1", "w", (3, 4), (4, 1), offset=12), (3, 3, 4)),
    "a transposed expert of a stack": (Layer("w:1", "w", (3, 4), (1, 3), offset=12), (3, 4, 3)),
    "one input": (Layer("w", "w", (5, 1), (1, 1)), (5, 1)),
    "one output, transposed": (Layer("w", "w", (1, 5), (1, 1)), (5, 1)),
}


@pytest.mark.parametrize("kind", PLACES)
def test_positions_in_the_parameter_and_in_the_layer_belong_together(kind: str) -> None:
    layer, shape = PLACES[kind]
    numbers = torch.arange(math.prod(shape)).view(shape)
    matrix = layer.matrix(numbers)
    links = torch.arange(math.prod(layer.shape))
    assert torch.equal(layer.in_parameter(links), matrix.flatten())
    inside, where = layer.in_layer(numbers.flatten())
    assert torch.equal(numbers.flatten()[inside], matrix.flatten().sort().values)
    assert torch.equal(layer.in_parameter(where), numbers.flatten()[inside])


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    kernel=st.sampled_from([(), (1,), (3,), (2, 3)]),
    first=st.integers(0, 3),
    more=st.integers(0, 3),
    transposed=st.booleans(),
)
def test_any_part_of_a_matrix(
    rows: int, columns: int, kernel: tuple[int, ...], first: int, more: int, transposed: bool
) -> None:
    inputs, outputs = columns * math.prod(kernel), first + rows + more
    strides, shape = ((1, outputs), (inputs, outputs)) if transposed else ((inputs, 1), (outputs, inputs))
    layer = Layer("w", "w", (outputs, inputs), strides, kernel=kernel).part("w:1", first, rows)
    assert layer.full_shape == (rows, columns, *kernel)
    numbers = torch.arange(outputs * inputs).view(shape)
    expected = (numbers.T if transposed else numbers)[first : first + rows]
    assert torch.equal(layer.matrix(numbers), expected)
    inside, where = layer.in_layer(numbers.flatten())
    assert torch.equal(inside, torch.isin(numbers.flatten(), expected.flatten()))
    assert torch.equal(expected.flatten()[where], numbers.flatten()[inside])


def test_the_matrix_is_a_view_of_a_part_of_a_tensor() -> None:
    tensor = torch.zeros(4, 3, 4)
    Layer("w:1", "w", (3, 4), (4, 1), offset=12).matrix(tensor[1:]).fill_(1)
    assert tensor.sum((1, 2)).tolist() == [0, 0, 12, 0]


# --- convolutions ---

CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(3, 4, 5), (2, 3, 9)),
    "2d": (nn.Conv2d(3, 4, (2, 3), padding=1), (2, 3, 5, 5)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
}


def patches(x: Tensor, kernel: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """(batch, channels · positions of the kernel, places) of an input."""
    x = F.pad(x, [side for pad in reversed(padding) for side in (pad, pad)])
    for dim, size in enumerate(kernel):
        x = x.unfold(2 + dim, size, 1)
    dims = len(kernel)
    order = [0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims)]
    return x.permute(order).flatten(2 + dims).flatten(1, 1 + dims)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_matrix_of_a_convolution_reads_patches(kind: str) -> None:
    module, shape = CONVOLUTIONS[kind]
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    groups, kernel = module.groups, tuple(module.kernel_size)
    layers = layers_of(module)
    assert list(layers) == (["weight"] if groups == 1 else [f"weight:{group}" for group in range(groups)])
    outputs = []
    for (name, layer), part in zip(layers.items(), x.chunk(groups, 1), strict=True):
        assert layer.full_shape == (module.out_channels // groups, module.in_channels // groups, *kernel)
        outputs.append(matrices_of(module)[name] @ patches(part, kernel, tuple(module.padding)))
    expected = module(x).flatten(2)
    torch.testing.assert_close(torch.cat(outputs, 1) + module.bias[:, None], expected)


def test_the_rows_of_a_transposed_convolution_are_its_input_channels() -> None:
    module = nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False)
    x = torch.randn(2, 3, 5, 5)
    (matrix,) = matrices_of(module).values()
    assert layers_of(module)["weight"].full_shape == (3, 4, 2, 2)
    # With a stride as large as the kernel, every input pixel gives its own patch of the output.
    sent = torch.einsum("bihw,ip->bphw", x, matrix).view(2, 4, 2, 2, 5, 5)
    torch.testing.assert_close(module(x), sent.permute(0, 1, 4, 2, 5, 3).reshape(2, 4, 10, 10))


def test_depthwise_and_computed_convolutions_stay_dense_and_say_why() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3))
    )
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    chosen = choose_layers(model)
    assert list(chosen.layers) == ["0.0.weight"]
    computed = "0.2.parametrizations.weight.original"
    assert chosen.dense == {
        "0.1.weight": "a depthwise convolution",
        "3.weight": "gives the model's outputs",
        f"{computed}0": "part of a computed weight",
        f"{computed}1": "part of a computed weight",
    }
    assert "0.1.weight" in choose_layers(model, exclude="3").layers


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(96, 2))
    assert list(choose_layers(model).layers) == ["0.weight"]


# --- recurrent layers ---


@pytest.mark.parametrize("cell", [False, True])
def test_the_gates_of_an_lstm_are_networks(cell: bool) -> None:
    module: nn.Module = nn.LSTMCell(3, 4, bias=False) if cell else nn.LSTM(3, 4, bias=False)
    end = "" if cell else "_l0"
    assert list(layers_of(module)) == [f"weight_{side}{end}:{gate}" for side in ("ih", "hh") for gate in "ifgo"]
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    weights = matrices_of(module)
    i, f, g, o = (x @ weights[f"weight_ih{end}:{gate}"].T + h @ weights[f"weight_hh{end}:{gate}"].T for gate in "ifgo")
    memory = f.sigmoid() * c + i.sigmoid() * g.tanh()
    found = module(x, (h, c))[0] if cell else module(x[None], (h[None], c[None]))[0][0]
    torch.testing.assert_close(found, o.sigmoid() * memory.tanh())


def test_the_gates_of_a_gru_are_networks() -> None:
    module = nn.GRUCell(3, 4, bias=False)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    weights = matrices_of(module)
    reads, keeps = ({gate: weights[f"weight_{side}:{gate}"].T for gate in "rzn"} for side in ("ih", "hh"))
    r, z = ((x @ reads[gate] + h @ keeps[gate]).sigmoid() for gate in "rz")
    new = (x @ reads["n"] + r * (h @ keeps["n"])).tanh()
    torch.testing.assert_close(module(x, h), (1 - z) * new + z * h)


class Wrapped(nn.LSTM):
    """A subclass under another name."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.RNN(3, 4, nonlinearity="relu"), {"weight_ih_l0": (4, 3), "weight_hh_l0": (4, 4)}),
        (
            nn.LSTM(3, 4, num_layers=2, proj_size=2, bidirectional=True),
            {
                f"weight_{name}_l{level}{way}{gate}": shape
                for level, inputs in ((0, 3), (1, 4))
                for way in ("", "_reverse")
                for name, shape, gates in (("ih", (4, inputs), "ifgo"), ("hh", (4, 2), "ifgo"), ("hr", (2, 4), ""))
                for gate in ([f":{gate}" for gate in gates] or [""])
            },
        ),
        (Wrapped(3, 4), {f"weight_{side}_l0:{gate}": (4, n) for side, n in (("ih", 3), ("hh", 4)) for gate in "ifgo"}),
    ],
)
def test_other_recurrent_layers(module: nn.Module, expected: dict[str, tuple[int, int]]) -> None:
    assert {name: layer.shape for name, layer in layers_of(module).items()} == expected


# --- bilinear layers, experts, and what the user names ---


def test_the_inputs_of_a_bilinear_layer_are_pairs() -> None:
    module = nn.Bilinear(2, 3, 4, bias=False)
    x, y = torch.randn(5, 2), torch.randn(5, 3)
    pairs = (x[:, :, None] * y[:, None, :]).flatten(1)
    torch.testing.assert_close(module(x, y), pairs @ matrices_of(module)["weight"].T)


class PlainExperts(nn.Module):
    def __init__(self, transposed: bool, side_by_side: bool) -> None:
        super().__init__()
        shapes = [(3, 4, 10), (3, 5, 4)] if transposed else [(3, 10, 4), (3, 4, 5)]
        self.gate_up_proj, self.down_proj = (nn.Parameter(torch.randn(shape)) for shape in shapes)
        self.gate_up_proj_bias = nn.Parameter(torch.randn(3, 10))
        self.is_concatenated = side_by_side

    def forward(self, x: Tensor) -> Tensor:
        wide = self.gate_up_proj.shape[1] == 4
        packed = torch.einsum("bi,eio->ebo" if wide else "bi,eoi->ebo", x, self.gate_up_proj)
        halves = packed.chunk(2, -1) if self.is_concatenated else (packed[..., ::2], packed[..., 1::2])
        return torch.einsum("ebi,eio->ebo" if wide else "ebi,eoi->ebo", halves[0] * halves[1], self.down_proj)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_each_matrix_of_each_expert_is_a_network(transposed: bool, side_by_side: bool) -> None:
    module = PlainExperts(transposed, side_by_side)
    weights = matrices_of(module)
    names = [f"gate_up_proj:{expert}:{role}" for expert in range(3) for role in ("gate", "up")]
    assert list(weights) == names + [f"down_proj:{expert}" for expert in range(3)]
    x = torch.randn(2, 4)
    outputs = []
    for expert in range(3):
        gate, up = (x @ weights[f"gate_up_proj:{expert}:{role}"].T for role in ("gate", "up"))
        outputs.append((gate * up) @ weights[f"down_proj:{expert}"].T)
    torch.testing.assert_close(module(x), torch.stack(outputs))


@pytest.mark.parametrize(("model", "transposed"), [("Mixtral", False), ("GptOss", True), ("Llama4Text", True)])
def test_the_experts_of_hugging_face_are_known(model: str, transposed: bool) -> None:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_local_experts": 2, "intermediate_size": 12}
    config = getattr(transformers, f"{model}Config")(
        **sizes, num_attention_heads=2, num_key_value_heads=2, vocab_size=9
    )
    name = "Llama4ForCausalLM" if model == "Llama4Text" else f"{model}ForCausalLM"
    layers = layers_of(getattr(transformers, name)(config))
    experts = {name.partition(".experts.")[2]: layer for name, layer in layers.items() if ".experts." in name}
    assert {name: layer.shape for name, layer in experts.items()} == {
        **{f"gate_up_proj:{expert}:{role}": (12, 8) for expert in range(2) for role in ("gate", "up")},
        **{f"down_proj:{expert}": (8, 12) for expert in range(2)},
    }
    assert all((layer.strides[0] < layer.strides[1]) == transposed for layer in experts.values())


class ExpertsWithBiases(nn.Module):
    """Two experts with biases and scales of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(2, 4, 6)), nn.Parameter(torch.randn(2, 6, 4))
        self.up_bias, self.down_bias = nn.Parameter(torch.zeros(2, 1, 6)), nn.Parameter(torch.zeros(2, 1, 4))
        self.shared_bias = nn.Parameter(torch.zeros(2, 3, 4))
        self.row, self.column = nn.Parameter(torch.ones(2, 1, 4)), nn.Parameter(torch.ones(2, 4, 1))


def test_biases_and_scales_of_experts_stay_dense() -> None:
    model = nn.Sequential(nn.Linear(4, 4), ExpertsWithBiases())
    chosen = choose_layers(model, exclude=())
    assert list(chosen.layers) == ["0.weight", "1.up:0", "1.up:1", "1.down:0", "1.down:1"]
    assert chosen.dense == dict.fromkeys(["1.row", "1.column"], "not a known kind of layer")
    sizes = coverage(model, chosen)
    assert (sizes.sparse, sizes.total) == (16 + 2 * 2 * 24, 16 + 2 * 2 * 24 + 2 * 2 * 4)
    assert "1.row:1" in choose_layers(model, include=["0", "1.row"], exclude=()).layers


class Raw(nn.Module):
    """Parameters of no known kind of layer: one matrix, a stack of two, and one of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.one = nn.Parameter(torch.randn(3, 4))
        self.stack = nn.Parameter(torch.randn(2, 3, 4))
        self.wide = nn.Parameter(torch.randn(2, 3, 2, 2))
        self.scale_bias = nn.Parameter(torch.randn(2, 3))
        self.table = nn.Embedding(5, 4)
        self.last = nn.Linear(4, 2)


def test_other_matrices_are_sparse_only_if_the_user_names_them() -> None:
    model = Raw()
    found = {entry.layer.name: entry.layer.shape for entry in other_matrices(model)}
    assert found == {"one": (3, 4), "stack:0": (3, 4), "stack:1": (3, 4), "wide": (2, 12)}
    chosen = choose_layers(model)
    assert list(chosen.layers) == ["first.weight"]
    assert chosen.dense == {
        **dict.fromkeys(["one", "stack", "wide"], "not a known kind of layer"),
        "last.weight": LAST,
    }
    assert list(choose_layers(model, include="*").layers) == ["first.weight"]
    named = choose_layers(model, include=["first", "stack", "one"])
    assert list(named.layers) == ["first.weight", "one", "stack:0", "stack:1"]
    assert "stack" not in named.dense
    with pytest.raises(ValueError, match="'table', which fits no layer"):
        choose_layers(model, include="table")


class TopKRouter(nn.Module):
    """A router with its own parameter, as in Mixtral."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))


def test_a_router_without_a_linear_layer_stays_dense_and_is_refused_in_include() -> None:
    model = nn.Sequential(nn.Linear(4, 4), TopKRouter(), nn.Linear(4, 2))
    chosen = choose_layers(model)
    assert list(chosen.layers) == ["0.weight"]
    assert chosen.dense["1.weight"] == "chooses the experts"
    with pytest.raises(ValueError, match=r"stay dense by default: 1\.weight \(chooses the experts\)"):
        choose_layers(model, include=["0", "1.weight"])


MODULES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)),
    "LSTM": lambda: nn.LSTM(3, 4, 2),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "experts": lambda: PlainExperts(True, False),
    "transposed convolution": lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
}


@pytest.mark.parametrize("kind", MODULES)
def test_each_element_of_a_matrix_belongs_to_one_layer(kind: str) -> None:
    model = MODULES[kind]()
    counts = {name: torch.zeros(weight.shape) for name, weight in model.named_parameters() if weight.dim() > 1}
    counts.pop("gate_up_proj_bias", None)
    for layer in layers_of(model).values():
        layer.matrix(counts[layer.parameter]).add_(1)
    assert all((count == 1).all() for count in counts.values())
