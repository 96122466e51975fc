import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.compaction import compact
from chts_core.engine.layers import sparse_layers
from chts_core.engine.tracing import layer_graph
from chts_core.percolation import LayerGraph


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def apply(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zero the weights of absent links, as a Sparsifier does."""
    layers = sparse_layers(model, exclude=())
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            layers[name].matrix(parameters[layers[name].parameter]).masked_fill_(~mask, 0)


def random_masks(model: nn.Module, density: float, seed: int = 0, exclude: Any = ()) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layers = sparse_layers(model, exclude=exclude)
    return {name: torch.rand(layer.shape, generator=generator) < density for name, layer in layers.items()}


def widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(in_features, out_features) of all linear layers, which are those of their weights too."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
            assert module.weight.shape == (module.out_features, module.in_features)
            assert module.bias is None or module.bias.shape == (module.out_features,)
    return found


def logits(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def check(
    model: nn.Module, masks: dict[str, Tensor], x: Tensor, others: Tensor, graph: LayerGraph | None = None
) -> nn.Module:
    """Compact by the example x; on x and on others the outputs must be the same."""
    apply(model, masks)
    if graph is None:
        graph, _ = layer_graph(model, sparse_layers(model, include=list(masks), exclude=()))
    smaller = compact(model, masks, graph, x)
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    with torch.no_grad():
        for inputs in (x, others):
            torch.testing.assert_close(logits(smaller(inputs)), logits(model(inputs)), atol=1e-6, rtol=1e-5)
    for name, module in model.named_modules():
        module.training = training[name]
    return smaller


X = torch.linspace(-1, 1, 24).sin().view(4, 6)
OTHERS = torch.linspace(3, -2, 48).cos().view(8, 6) * 2


# --- by hand ---


def as_mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def perceptron(*widths: int, bias: bool = True, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), act()]
    return nn.Sequential(*layers[:-1])


def test_neurons_without_a_way_in_or_out_go() -> None:
    # Of four hidden neurons, 1 has no outgoing link and 2 no incoming one.
    masks = {
        "0.weight": as_mask([[1, 0], [1, 1], [0, 0], [0, 1]]),
        "2.weight": as_mask([[1, 0, 1, 0], [0, 0, 1, 1]]),
    }
    model = seeded(lambda: perceptron(2, 4, 2))
    smaller = check(model, masks, X[:, :2], OTHERS[:, :2])
    assert widths(smaller) == {"0": (2, 2), "2": (2, 2)}
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 3]])
    assert torch.equal(smaller[0].bias, model[0].bias[[0, 3]])
    assert torch.equal(smaller[2].weight, model[2].weight[:, [0, 3]])
    # What neuron 2 always sent is in the biases now.
    sent = model[2].weight[:, 2] * model[0].bias[2].relu()
    torch.testing.assert_close(smaller[2].bias, model[2].bias + sent)


def test_what_hangs_on_dead_neurons_goes_too() -> None:
    # Backward: neuron 2 of the last hidden layer is not read, nor then neuron 2 before it, nor neuron 2 of the first.
    # Forward: neuron 0 of the first has no input, then neuron 0 of the others.
    through = as_mask([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    masks = {
        "0.weight": as_mask([[0, 0, 0], [1, 1, 0], [1, 0, 1]]),
        "2.weight": through,
        "4.weight": through,
        "6.weight": as_mask([[1, 1, 0], [1, 1, 0]]),
    }
    smaller = check(seeded(lambda: perceptron(3, 3, 3, 3, 2, act=nn.Sigmoid)), masks, X[:, :3], OTHERS[:, :3])
    assert widths(smaller) == {"0": (3, 1), "2": (1, 1), "4": (1, 1), "6": (1, 2)}


def test_without_biases_none_appears() -> None:
    masks = {"0.weight": as_mask([[1, 0], [0, 0], [1, 1]]), "2.weight": as_mask([[1, 1, 0]])}
    smaller = check(seeded(lambda: perceptron(2, 3, 1, bias=False)), masks, X[:, :2], OTHERS[:, :2])
    assert widths(smaller) == {"0": (2, 1), "2": (1, 1)}
    assert smaller[2].bias is None


def test_without_biases_one_appears_for_what_an_activation_sends_always() -> None:
    masks = {"0.weight": as_mask([[1, 0], [0, 0], [1, 1]]), "2.weight": as_mask([[1, 1, 0]])}
    model = seeded(lambda: perceptron(2, 3, 1, bias=False, act=nn.Sigmoid))
    smaller = check(model, masks, X[:, :2], OTHERS[:, :2])
    torch.testing.assert_close(smaller[2].bias, model[2].weight[:, 1] / 2)
    assert smaller[2].bias.requires_grad


def test_with_all_active_nothing_changes() -> None:
    model = seeded(lambda: perceptron(6, 9, 9, 3))
    masks = {name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in sparse_layers(model).items()}
    smaller = check(model, masks, X, OTHERS)
    assert widths(smaller) == widths(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in smaller.state_dict().items())


@pytest.mark.parametrize("dead", ["0.weight", "3.weight", "6.weight"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_whole_layer_may_die(dead: str, bias: bool) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 5, bias=bias),
            nn.BatchNorm1d(5),
            nn.Sigmoid(),
            nn.Linear(5, 4, bias=bias),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.Linear(4, 3, bias=bias),
        )

    model = seeded(build)
    masks = {f"{i}.weight": torch.ones(model[i].weight.shape, dtype=torch.bool) for i in (0, 3, 6)}
    masks[dead].zero_()
    smaller = check(model, masks, X, OTHERS)
    # No input has a say in the outputs any more: nothing is left but biases.
    assert widths(smaller) == {"0": (6, 0), "3": (0, 0), "6": (0, 3)}
    assert not [module for module in smaller.modules() if isinstance(module, nn.BatchNorm1d)]
    assert {name for name in smaller.state_dict() if "norm" in name} == set()


# --- all kinds of perceptrons ---


def with_norms() -> nn.Module:
    """Batch norms before and after the activation, trained for some steps, so that they shift and scale."""
    return nn.Sequential(
        nn.Linear(6, 10),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Linear(10, 8, bias=False),
        nn.GELU(),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8, affine=False),
        nn.Linear(8, 7),
        nn.BatchNorm1d(7, track_running_stats=False),
        nn.Tanh(),
        nn.Linear(7, 3),
    )


class Functional(nn.Module):
    """A forward of its own, with keyword arguments and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.fc1(input=x))
        return self.fc3(nn.functional.silu(self.fc2(input=x)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: perceptron(6, 10, 10, 3),
    "gelu": lambda: perceptron(6, 10, 10, 3, act=nn.GELU),
    "sigmoid": lambda: perceptron(6, 10, 10, 3, act=nn.Sigmoid),
    "four layers": lambda: perceptron(6, 8, 9, 10, 3, act=nn.Tanh),
    "no biases": lambda: perceptron(6, 8, 9, 10, 3, bias=False, act=nn.Sigmoid),
    "dropout": lambda: perceptron(6, 10, 10, 3, act=lambda: nn.Dropout(0.5)),
    "in place": lambda: perceptron(6, 10, 10, 3, act=lambda: nn.ReLU(inplace=True)),
    "norms": with_norms,
    "norms and in place": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    ),
    "functional": Functional,
}


def train(model: nn.Module, masks: dict[str, Tensor], steps: int = 5) -> None:
    """So that biases, norms and weights are no longer what they were at first."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            model(torch.randn(16, 6) + 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        apply(model, masks)


def active(masks: dict[str, Tensor], chain: tuple[str, ...]) -> list[int]:
    """Numbers of the hidden neurons on a path from an input to an output, layer by layer, from powers of the links."""
    forward = [torch.ones(masks[chain[0]].shape[1])]
    for name in chain:
        forward.append(((masks[name].float() @ forward[-1]) > 0).float())
    backward = [torch.ones(masks[chain[-1]].shape[0])]
    for name in reversed(chain):
        backward.append(((masks[name].float().T @ backward[-1]) > 0).float())
    return [int((f * b).sum()) for f, b in zip(forward, reversed(backward), strict=True)][1:-1]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("density", [0.1, 0.25])
def test_outputs_stay_and_widths_are_those_of_active_neurons(kind: str, density: float) -> None:
    model = seeded(MODELS[kind])
    masks = random_masks(model, density)
    apply(model, masks)
    train(model, masks)
    smaller = check(model, masks, X, OTHERS)
    linear = list(widths(smaller).values())
    assert [out for _, out in linear[:-1]] == active(masks, tuple(masks))
    assert [in_ for in_, _ in linear[1:]] == active(masks, tuple(masks))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    for module in smaller.modules():
        if isinstance(module, nn.BatchNorm1d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                assert value is None or value.shape == (module.num_features,)
    if kind == "norms":
        smaller.train()(torch.randn(5, 6, generator=torch.Generator().manual_seed(0))).sum().backward()


@given(depth=st.integers(2, 5), density=st.floats(0.0, 0.7), seed=st.integers(0, 999), biased=st.booleans())
def test_outputs_stay_for_any_masks(depth: int, density: float, seed: int, biased: bool) -> None:
    sizes = (6, *(3 + (seed + i) % 5 for i in range(depth - 1)), 2)
    model = seeded(lambda: perceptron(*sizes, bias=biased, act=nn.Sigmoid), seed)
    masks = random_masks(model, density, seed)
    smaller = check(model, masks, X, OTHERS)
    assert [out for _, out in list(widths(smaller).values())[:-1]] == active(masks, tuple(masks))


def test_an_example_of_many_dimensions_or_none_will_do() -> None:
    model = seeded(MODELS["sigmoid"])
    masks = random_masks(model, 0.15)
    assert widths(check(model, masks, X.view(2, 2, 6), OTHERS)) == widths(check(model, masks, X[0], OTHERS))


def test_norms_of_a_branch_beside_are_left_alone() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
            self.beside, self.beside_norm, self.beside_out = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
            self.before = nn.BatchNorm1d(6)
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc1(self.before(x))
            beside = self.beside_norm(self.beside(x))
            hidden = self.fc2(torch.relu(self.norm(hidden)))
            return hidden + self.beside_out(beside)

    model = seeded(Branches)
    masks = random_masks(model, 0.25, exclude=("beside", "beside_out"))
    smaller = check(model, masks, X, OTHERS)
    (width,) = active(masks, ("fc1.weight", "fc2.weight"))
    assert 0 < width < 8
    assert smaller.norm.num_features == width
    assert smaller.beside_norm.num_features == 8
    assert smaller.before.num_features == 6


# --- Transformers ---


@pytest.mark.parametrize("settings", [{}, {"activation": "gelu", "norm_first": True}, {"bias": False}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_feed_forward_of_an_encoder_layer(settings: dict[str, Any], batch_first: bool) -> None:
    model = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 20, batch_first=batch_first, **settings))
    masks = random_masks(model, 0.1)
    x = torch.linspace(-1, 1, 64).cos().view(2, 4, 8)
    smaller = check(model, masks, x, x.flip(0) * 2)
    (width,) = active(masks, ("linear1.weight", "linear2.weight"))
    assert width < 20
    assert widths(smaller) == {"self_attn.out_proj": (8, 8), "linear1": (8, width), "linear2": (width, 8)}


def test_a_whole_transformer() -> None:
    model = seeded(lambda: nn.Transformer(8, 2, 2, 2, 20, batch_first=True, activation="gelu"))
    masks = random_masks(model, 0.1)
    apply(model, masks)
    graph, _ = layer_graph(model, sparse_layers(model, exclude=()))
    source, target = torch.linspace(-1, 1, 64).cos().view(2, 4, 8), torch.linspace(0, 3, 48).sin().view(2, 3, 8)
    smaller = compact(model, masks, graph, source, tgt=target)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(smaller(target, source), model(target, source), atol=1e-6, rtol=1e-5)
    for block in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"):
        (width,) = active(masks, (f"{block}.linear1.weight", f"{block}.linear2.weight"))
        assert width < 20
        assert widths(smaller)[f"{block}.linear1"] == (8, width)
        assert widths(smaller)[f"{block}.linear2"] == (width, 8)


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        **settings,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # which are 0 at first, or close to it
            parameter.normal_(0, 0.5) if "norm" not in name else None
    return model


TOKENS = torch.arange(16).view(2, 8) % 11


def gated_masks(masks: dict[str, Tensor], block: int) -> list[Tensor]:
    return [masks[f"model.layers.{block}.mlp.{role}_proj.weight"] for role in ("gate", "up", "down")]


@pytest.mark.parametrize("density", [0.06, 0.2])
def test_gated_feed_forward_of_a_llama(density: float) -> None:
    model = seeded(llama)
    masks = random_masks(model, density, exclude="lm_head")
    smaller = check(model, masks, TOKENS, TOKENS.flip(1))
    for block in range(2):
        # Without biases a neuron needs gate, up and down.
        gate, up, down = gated_masks(masks, block)
        width = int((gate.any(1) & up.any(1) & down.any(0)).sum())
        assert width < 24
        sizes = widths(smaller)
        assert [sizes[f"model.layers.{block}.mlp.{role}_proj"] for role in ("gate", "up", "down")] == [
            (16, width),
            (16, width),
            (width, 16),
        ]


def test_gated_feed_forward_with_biases() -> None:
    # A neuron without links into its gate, or without links upward, still varies with the other factor.
    model = seeded(lambda: llama(mlp_bias=True))
    masks = random_masks(model, 0.06, exclude="lm_head")
    smaller = check(model, masks, TOKENS, TOKENS.flip(1))
    for block in range(2):
        gate, up, down = gated_masks(masks, block)
        width = int(((gate.any(1) | up.any(1)) & down.any(0)).sum())
        assert width < 24
        assert widths(smaller)[f"model.layers.{block}.mlp.down_proj"] == (width, 16)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dense", ["gate_proj", "up_proj", "down_proj"])
def test_gated_feed_forward_with_a_dense_part(dense: str, bias: bool) -> None:
    model = seeded(lambda: llama(mlp_bias=bias))
    masks = random_masks(model, 0.06, exclude=("lm_head", f"*.{dense}"))
    smaller = check(model, masks, TOKENS, TOKENS.flip(1))
    full = torch.ones(24, dtype=torch.bool)
    for block in range(2):
        prefix = f"model.layers.{block}.mlp."
        gate, up = (
            masks[f"{prefix}{role}.weight"].any(1) if role != dense else full for role in ("gate_proj", "up_proj")
        )
        read = masks[f"{prefix}down_proj.weight"].any(0) if dense != "down_proj" else full
        width = int(((gate | up if bias else gate & up) & read).sum())
        # Where the layer that reads is dense nothing is known to be fed, so that nothing goes.
        assert widths(smaller)[f"{prefix}down_proj"] == (24 if dense == "down_proj" else width, 16)


def test_a_gate_that_is_shut_in_the_example_only_is_not_taken_for_constant() -> None:
    # ReLU shuts every gate on this example, where the way up of neuron 1 has no link but a bias.
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = nn.Linear(1, 3), nn.Linear(1, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))

    model = seeded(Gated)
    with torch.no_grad():
        for layer in (model.gate_proj, model.up_proj):
            layer.weight.fill_(2.0)
            layer.bias.fill_(1.0)
    masks = {
        "gate_proj.weight": as_mask([[1], [1], [1]]),
        "up_proj.weight": as_mask([[1], [0], [1]]),
        "down_proj.weight": torch.ones(2, 3, dtype=torch.bool),
    }
    smaller = check(model, masks, torch.tensor([[-5.0]]), torch.tensor([[5.0], [-0.2]]))
    assert smaller.down_proj.in_features == 3


def test_a_block_whose_gate_of_zero_lets_half_through_keeps_its_neurons() -> None:
    # The gate of neuron 0 has no link nor bias, but the sigmoid of 0 is not 0. So the block is not known.
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)
            self.down_proj = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))

    masks = {
        "gate_proj.weight": as_mask([[0, 0], [1, 1], [1, 0]]),
        "up_proj.weight": as_mask([[1, 1], [1, 1], [0, 0]]),
        "down_proj.weight": torch.ones(2, 3, dtype=torch.bool),
    }
    for example in (torch.zeros(1, 2), torch.ones(1, 2)):
        smaller = check(seeded(Gated), masks, example, torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
        assert smaller.down_proj.in_features == 3


def test_a_gate_without_input_in_the_example_is_not_taken_for_shut() -> None:
    # The way up sends its bias always; the gate has no bias, and the example is 0.
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(2, 3, bias=False), nn.Linear(2, 3)
            self.down_proj = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    full = {"gate_proj.weight": (3, 2), "up_proj.weight": (3, 2), "down_proj.weight": (2, 3)}
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in full.items()}
    masks["up_proj.weight"].zero_()
    smaller = check(seeded(Gated), masks, torch.zeros(1, 2), torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
    assert smaller.down_proj.in_features == 3


def test_a_graph_may_name_dense_layers() -> None:
    # The last layer of a model usually is, and reads neurons that nothing reaches.
    model = seeded(lambda: perceptron(6, 10, 10, 3, act=nn.Sigmoid))
    masks = random_masks(model, 0.15, exclude="4")
    graph, _ = layer_graph(model, sparse_layers(model, exclude=()))
    smaller = check(model, masks, X, OTHERS, graph)
    full = masks | {"4.weight": torch.ones(3, 10, dtype=torch.bool)}
    assert widths(smaller)["4"][0] == active(full, tuple(full))[1] < 10
    # Without the name it keeps all its inputs.
    assert widths(check(model, masks, X, OTHERS))["4"][0] == 10


def test_layers_inside_an_attention_stay() -> None:
    model = seeded(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
    layers = sparse_layers(model, exclude=())
    masks = random_masks(model, 0.1)
    apply(model, masks)
    chain = LayerGraph((("in_proj_weight:v", "out_proj.weight"),))  # of one's own, instead of an Attention
    x = torch.linspace(-1, 1, 64).cos().view(2, 4, 8)
    for graph in (chain, layer_graph(model, layers)[0]):
        smaller = compact(model, masks, graph, x, x, x)
        assert widths(smaller) == {"out_proj": (8, 8)}
        torch.testing.assert_close(smaller(x, x, x)[0], model(x, x, x)[0])


# --- the model stays as it is ---


@pytest.mark.parametrize("training", [True, False])
def test_the_model_itself_is_not_changed(training: bool) -> None:
    model = seeded(with_norms).train(training)
    model[3].eval()
    masks = random_masks(model, 0.15)
    apply(model, masks)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    graph, _ = layer_graph(model, sparse_layers(model, exclude=()))

    smaller = compact(model, masks, graph, X)

    assert [module.training for module in model.modules()] == modes
    assert not any(module.training for module in smaller.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert widths(model)["0"] == (6, 10)
    calls.clear()
    model(X)
    assert calls == ["forward"]
    for module in model.modules():
        assert len(module._forward_hooks) == (module is model[0])
        assert not module._forward_pre_hooks
    for module in smaller.modules():
        assert not module._forward_pre_hooks
    shared = {id(p) for p in model.parameters()} & {id(p) for p in smaller.parameters()}
    assert not shared
    assert all(parameter.grad is None for parameter in (*model.parameters(), *smaller.parameters()))


def test_what_is_frozen_stays_frozen() -> None:
    model = seeded(with_norms)
    frozen = {"0.bias", "1.weight", "3.weight", "12.bias"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    masks = random_masks(model, 0.2, exclude="3")
    # By hand: a frozen layer is not sparse by itself.
    masks["3.weight"] = torch.rand(8, 10, generator=torch.Generator().manual_seed(5)) < 0.2
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0)
    chain = ("0.weight", "3.weight", "7.weight", "9.weight", "12.weight")
    smaller = compact(model, masks, LayerGraph((chain,)), X)
    model.eval()
    torch.testing.assert_close(smaller(OTHERS), model(OTHERS), atol=1e-6, rtol=1e-5)
    states = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    new = states.pop("3.bias", False)  # of what the neurons before always sent; the layer is frozen
    assert not new
    assert states == {name: name not in frozen for name, _ in model.named_parameters()}


def test_gradients_are_not_needed() -> None:
    model = seeded(with_norms)
    masks = random_masks(model, 0.2)
    apply(model, masks)
    graph, _ = layer_graph(model, sparse_layers(model, exclude=()))
    with torch.no_grad():
        smaller = compact(model, masks, graph, X)
    assert smaller[1].num_features == smaller[0].out_features < 10


def test_an_example_that_does_not_reach_a_layer_is_refused() -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor, skip: bool = False) -> Tensor:
            return x if skip else self.fc2(torch.relu(self.fc1(x)))

    model = seeded(Choosy)
    masks = random_masks(model, 0.5)
    graph = LayerGraph((("fc1.weight", "fc2.weight"),))
    for args, kwargs in (((X,), {"skip": True}), ((X[:0],), {})):
        with pytest.raises(ValueError, match=r"the example did not reach fc2\.weight; pass an input for"):
            compact(model, masks, graph, *args, **kwargs)
    assert compact(model, masks, graph, X, skip=False).fc1.in_features == 6


# --- after training ---


@pytest.mark.parametrize("method", ["set", "chts", "granet"])
def test_a_trained_model_is_compacted(method: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(24, 48),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Linear(48, 48),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(48, 32),
            nn.ReLU(),
            nn.Linear(32, 3),
        )

    model = seeded(build)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(model, optimizer, method, 0.95, total_steps=40, update_every=5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(40):
            x = torch.randn(32, 24)
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long() + (x[:, 1] > 1).long()).backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
        x, others = torch.randn(3, 24), torch.randn(50, 24)

    smaller = sparsifier.compact(x)

    assert model.training
    model.eval()
    torch.testing.assert_close(smaller(others), model(others), atol=1e-6, rtol=1e-5)
    sizes = widths(smaller)
    assert [sizes["0"][1], sizes["3"][1]] == active(sparsifier.masks, ("0.weight", "3.weight", "6.weight"))
    assert sizes["0"][1] < 48
    assert smaller[1].num_features == sizes["0"][1]


# --- it refuses rather than to differ ---


def mixed(x: Tensor) -> Tensor:
    return x + x.roll(1, -1)


class Mixing(nn.Module):
    """Its branches show neither in its graph, which is given, nor in its layers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.a, self.b = way, nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.a(x))
        if self.way == "evaluation" and not self.training:
            hidden = mixed(hidden)
        if self.way == "random":
            hidden = hidden * torch.rand(hidden.shape)
        if self.way == "wide":
            return {"logits": self.b(hidden), "hidden": [hidden]}
        if self.way == "fixed width":
            hidden = hidden + torch.linspace(0, 1, 16)
        return self.b(hidden)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (
            "evaluation",
            r"would differ by up to .* \(largest output: .*\) on the example\. This is more than rounding\..*a hook",
        ),
        ("random", "would differ by up to"),
        ("wide", "the shapes of the outputs change"),
        ("fixed width", "does not run"),
        ("hook", "would differ by up to"),
        ("weights outside the masks", "would differ by up to"),
    ],
)
def test_a_smaller_model_that_would_differ_is_refused(way: str, message: str) -> None:
    model = seeded(lambda: Mixing(way))
    masks = {"a.weight": torch.ones(16, 8, dtype=torch.bool), "b.weight": torch.ones(3, 16, dtype=torch.bool)}
    masks["a.weight"][3:7] = False
    masks["b.weight"][:, 9:12] = False
    apply(model, masks)
    if way == "weights outside the masks":
        nn.init.ones_(model.a.weight)
    if way == "hook":
        model.a.register_forward_hook(lambda _, __, result: mixed(result))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        compact(model, masks, LayerGraph((("a.weight", "b.weight"),)), x)
    if way not in ("wide", "fixed width"):
        compact(model, masks, LayerGraph(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    widths = [32, 256, 256, 256, 3]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    model = seeded(lambda: nn.Sequential(*layers[:-1])).to(dtype)
    masks = random_masks(model, 0.02)
    apply(model, masks)
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = torch.get_rng_state()
    smaller = compact(model, masks, layer_graph(model, sparse_layers(model, exclude=()))[0], x)
    assert smaller[0].out_features < 256
    assert torch.equal(torch.get_rng_state(), before)
