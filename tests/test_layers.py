import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conv1d import Conv1D
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.forward import GUESSED, LAST, OF_OUTPUTS, output_layers
from chts_core.engine.kinds import Layer
from chts_core.engine.layers import all_layers, sparse_layers, split_heads, unwrap


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def packed() -> nn.Module:
    return nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 3)})


def unpacked() -> nn.Module:
    return nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, kdim=6, vdim=4), "head": nn.Linear(8, 3)})


def transposed() -> nn.Module:
    """Layers as in GPT-2: one packs queries, keys and values, another keys and values."""
    names = {"c_attn": (24, 8), "q_attn": (8, 8), "c_proj": (8, 8), "c_fc": (12, 8)}
    layers: dict[str, nn.Module] = {name: Conv1D(*sizes) for name, sizes in names.items()}
    return nn.ModuleDict(layers | {"cross": nn.ModuleDict({"c_attn": Conv1D(16, 8)}), "head": Conv1D(3, 12)})


def transformer() -> nn.Module:
    return nn.Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=12, batch_first=True)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def shapes(layers: dict[str, Layer]) -> dict[str, tuple[int, int]]:
    return {name: layer.shape for name, layer in layers.items()}


# --- what there is ---

SHAPES: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, int]]]] = {
    "mlp": (mlp, {"0.weight": (6, 4), "2.weight": (5, 6), "4.weight": (2, 5)}),
    "one layer": (lambda: nn.Linear(4, 6), {"weight": (6, 4)}),
    "packed attention": (
        packed,
        {
            "attention.in_proj_weight:q": (8, 8),
            "attention.in_proj_weight:k": (8, 8),
            "attention.in_proj_weight:v": (8, 8),
            "attention.out_proj.weight": (8, 8),
            "head.weight": (3, 8),
        },
    ),
    "unpacked attention": (
        unpacked,
        {
            "attention.q_proj_weight": (8, 8),
            "attention.k_proj_weight": (8, 6),
            "attention.v_proj_weight": (8, 4),
            "attention.out_proj.weight": (8, 8),
            "head.weight": (3, 8),
        },
    ),
    "transposed": (
        transposed,
        {
            "c_attn.weight:q": (8, 8),
            "c_attn.weight:k": (8, 8),
            "c_attn.weight:v": (8, 8),
            "q_attn.weight": (8, 8),
            "c_proj.weight": (8, 8),
            "c_fc.weight": (12, 8),
            "cross.c_attn.weight:k": (8, 8),
            "cross.c_attn.weight:v": (8, 8),
            "head.weight": (3, 12),
        },
    ),
    "transformer": (
        transformer,
        {
            "encoder.layers.0.self_attn.in_proj_weight:q": (8, 8),
            "encoder.layers.0.self_attn.in_proj_weight:k": (8, 8),
            "encoder.layers.0.self_attn.in_proj_weight:v": (8, 8),
            "encoder.layers.0.self_attn.out_proj.weight": (8, 8),
            "encoder.layers.0.linear1.weight": (12, 8),
            "encoder.layers.0.linear2.weight": (8, 12),
            "decoder.layers.0.self_attn.in_proj_weight:q": (8, 8),
            "decoder.layers.0.self_attn.in_proj_weight:k": (8, 8),
            "decoder.layers.0.self_attn.in_proj_weight:v": (8, 8),
            "decoder.layers.0.self_attn.out_proj.weight": (8, 8),
            "decoder.layers.0.multihead_attn.in_proj_weight:q": (8, 8),
            "decoder.layers.0.multihead_attn.in_proj_weight:k": (8, 8),
            "decoder.layers.0.multihead_attn.in_proj_weight:v": (8, 8),
            "decoder.layers.0.multihead_attn.out_proj.weight": (8, 8),
            "decoder.layers.0.linear1.weight": (12, 8),
            "decoder.layers.0.linear2.weight": (8, 12),
        },
    ),
    "llama": (
        llama,
        {
            "model.layers.0.self_attn.q_proj.weight": (16, 16),
            "model.layers.0.self_attn.k_proj.weight": (8, 16),
            "model.layers.0.self_attn.v_proj.weight": (8, 16),
            "model.layers.0.self_attn.o_proj.weight": (16, 16),
            "model.layers.0.mlp.gate_proj.weight": (24, 16),
            "model.layers.0.mlp.up_proj.weight": (24, 16),
            "model.layers.0.mlp.down_proj.weight": (16, 24),
            "lm_head.weight": (11, 16),
        },
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_names_and_shapes_of_all_layers(kind: str) -> None:
    build, expected = SHAPES[kind]
    model = build()
    found = all_layers(model)
    assert shapes(found) == expected
    assert all(layer.name == name for name, layer in found.items())


@pytest.mark.parametrize("kind", SHAPES)
def test_names_and_shapes_are_the_same_on_the_meta_device(kind: str) -> None:
    build, expected = SHAPES[kind]
    with torch.device("meta"):
        model = build()
    assert shapes(all_layers(model)) == expected


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "one layer"])
def test_the_last_linear_layer_stays_dense_unless_told_otherwise(kind: str) -> None:
    build, expected = SHAPES[kind]
    model = build()
    assert list(sparse_layers(model)) == list(expected)[:-1]
    assert list(sparse_layers(model, exclude=())) == list(expected)


@pytest.mark.parametrize("kind", SHAPES)
def test_rows_of_the_parameters_are_covered_once(kind: str) -> None:
    model = SHAPES[kind][0]()
    counted = {name: torch.zeros(weight.shape) for name, weight in model.named_parameters()}
    for layer in all_layers(model).values():
        matrix = layer.matrix(counted[layer.parameter])
        assert matrix.shape == layer.shape
        matrix += 1  # a view: the parameter changes
    for name, count in counted.items():
        sparse = count.ndim == 2 and "embed" not in name
        assert (count == float(sparse)).all(), name


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("c_attn.weight:k", slice(8, 16)), ("cross.c_attn.weight:v", slice(8, 16)), ("c_fc.weight", slice(0, 12))],
)
def test_the_matrix_of_a_transposed_weight_computes_its_outputs(name: str, outputs: slice) -> None:
    model = transposed()
    layer = all_layers(model)[name]
    module = model.get_submodule(layer.parameter.removesuffix(".weight"))
    x = torch.linspace(-1, 1, 16).view(2, 8)
    torch.testing.assert_close(x @ layer.matrix(module.weight).T, module(x)[:, outputs])


class Doubling(Conv1D):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


STRANGERS: dict[str, Callable[[], nn.Module]] = {
    "a forward of its own": lambda: Doubling(4, 6),
    "another shape": lambda: wide(Conv1D(4, 6)),
    "no sizes": lambda: nameless(Conv1D(4, 6)),
}


def wide(layer: nn.Module) -> nn.Module:
    layer.weight = nn.Parameter(torch.zeros(4, 6))
    return layer


def nameless(layer: nn.Module) -> nn.Module:
    layer.nx = None
    return layer


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_only_looks_like_a_transposed_layer_is_none(kind: str) -> None:
    assert list(all_layers(nn.Sequential(STRANGERS[kind](), nn.Linear(4, 4)))) == ["1.weight"]


def test_another_class_of_that_name_is_no_transposed_layer() -> None:
    class Conv1D(nn.Module):
        nx, nf = 4, 6

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    assert list(all_layers(nn.Sequential(Conv1D(), nn.Linear(4, 4)))) == ["1.weight"]


def test_the_class_of_transformers_is_a_transposed_layer() -> None:
    from transformers.pytorch_utils import Conv1D as Original

    (layer,) = all_layers(Original(4, 6)).values()
    assert (layer.shape, layer.strides) == ((4, 6), (1, 4))


def test_rows_of_a_packed_weight_are_those_that_torch_gives_the_role() -> None:
    attention = nn.MultiheadAttention(4, 1, bias=False)
    layers = all_layers(attention)
    x = torch.linspace(-1, 1, 12).view(3, 1, 4)
    with torch.no_grad():
        for role, scale in zip("qkv", (2.0, 3.0, 5.0), strict=True):
            layers[f"in_proj_weight:{role}"].matrix(attention.in_proj_weight).copy_(torch.eye(4) * scale)
        attention.out_proj.weight.copy_(torch.eye(4))
        output = attention(x, x, x)[0]
    expected = nn.functional.scaled_dot_product_attention(*(s * x.transpose(0, 1) for s in (2.0, 3.0, 5.0)))
    torch.testing.assert_close(output, expected.transpose(0, 1))


# --- which of them ---

CHOICES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "by name": ({"include": "0.weight"}, ["0.weight"]),
    "by module": ({"include": "0"}, ["0.weight"]),
    "by pattern": ({"include": "*.weight"}, ["0.weight", "2.weight"]),
    "several": ({"include": ["2", "0.weight"]}, ["0.weight", "2.weight"]),
    "by a test on the name": ({"include": lambda name, _: name == "2"}, ["2.weight"]),
    "by a test on the module": ({"include": lambda _, module: module.out_features > 5}, ["0.weight"]),
    "all but one": ({"exclude": "2"}, ["0.weight", "4.weight"]),
    "all but two": ({"exclude": ("2", "4.weight")}, ["0.weight"]),
    "all but those of a test": (
        {"exclude": lambda _, module: module.in_features == 6},
        ["0.weight", "4.weight"],
    ),
    "both": ({"include": ["0", "2"], "exclude": "0"}, ["2.weight"]),
    "the output too": ({"include": "4", "exclude": ()}, ["4.weight"]),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_layers_are_chosen_by_pattern_or_by_a_test(choice: str) -> None:
    given, expected = CHOICES[choice]
    assert list(sparse_layers(mlp(), **given)) == expected


def test_a_part_of_a_packed_weight_is_chosen_by_its_name_and_all_by_the_module() -> None:
    assert list(sparse_layers(packed(), include="*:v")) == ["attention.in_proj_weight:v"]
    assert [name[-1] for name in sparse_layers(packed(), include="attention")] == list("qkv")
    assert "attention.in_proj_weight:k" not in sparse_layers(packed(), exclude=("*:k", "head"))


def test_a_parameter_of_your_own_is_sparse_if_include_names_it() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model.register_parameter("mix", nn.Parameter(torch.zeros(2, 5, 5)))
    assert list(sparse_layers(model)) == ["0.weight"]
    assert list(sparse_layers(model, include=["0", "mix"])) == ["0.weight", "mix:0", "mix:1"]


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_fits_nothing_is_refused_with_the_names_there_are(argument: str) -> None:
    message = (
        rf"{argument} has the pattern 'encoder\.\*', which fits no layer; .* "
        r"The layers are 0\.weight, 2\.weight, 4\.weight\."
    )
    with pytest.raises(ValueError, match=message):
        sparse_layers(mlp(), **{argument: ["0", "encoder.*"]})


@pytest.mark.parametrize(
    ("include", "dense"),
    [(["0", "4"], r"4\.weight \(gives the model's outputs\)"), ("1.0", r"1\.0\.weight \(a depthwise convolution\)")],
)
def test_a_pattern_that_fits_only_layers_that_stay_dense_is_refused(include: str | list[str], dense: str) -> None:
    model = mlp()
    model[1] = nn.Sequential(nn.Conv1d(2, 2, 3, groups=2), nn.ReLU())
    with pytest.raises(ValueError, match=rf"fits only layers that stay dense by default: {dense}.* Pass exclude=\(\)"):
        sparse_layers(model, include=iter([include] if isinstance(include, str) else include))
    assert sparse_layers(model, include=include, exclude=())


@pytest.mark.parametrize("argument", ["include", "exclude"])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (nn.Linear, "the class Linear"),
        ([nn.Linear], "the class Linear"),
        (nn.Linear(2, 2), "an object of type Linear"),
        (mlp(), "an object of type Sequential"),
        (["0", nn.Linear(2, 2)], "an object of type Linear"),
        ([lambda *_: True], "an object of type function"),
        (0, "an object of type int"),
        ([0], "an object of type int"),
    ],
)
def test_a_choice_that_is_no_name_and_no_function_is_refused(argument: str, given: Any, named: str) -> None:
    message = (
        rf"{argument} has {named}; expected names of layers or modules, or one function of a name and a module\. "
        rf"To choose by class, write {argument}=lambda name, module: isinstance\(module, nn\.Linear\)\."
    )
    with pytest.raises(TypeError, match=message):
        sparse_layers(mlp(), **{argument: given})


@pytest.mark.parametrize("given", [{"exclude": "*"}, {"include": lambda *_: False}, {"include": ()}])
def test_a_choice_that_leaves_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Sequential has 3 layers that could be sparse, but none is left to sparsify"):
        sparse_layers(mlp(), **given)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="ReLU has 0 layers that could be sparse, but none is left"):
        sparse_layers(nn.ReLU())


def test_frozen_layers_stay_dense() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    assert list(sparse_layers(model)) == ["2.weight"]
    model[2].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="none is left to sparsify; expected at least two layers that are trained"):
        sparse_layers(model)


# --- weights that are not a layer's own ---


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("given", [{}, {"exclude": ("2", "3")}, {"include": ["0", "1"]}])
def test_a_shared_weight_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight share one weight"):
        sparse_layers(tied(), **given)


def test_a_weight_shared_with_an_embedding_is_refused_unless_excluded() -> None:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert list(sparse_layers(model)) == ["1.weight"]
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight share one weight"):
        sparse_layers(model, exclude=())


def test_a_shared_weight_may_stay_dense() -> None:
    assert list(sparse_layers(tied(), exclude=("0", "2"))) == ["1.weight", "3.weight"]


def in_one_memory(first: Tensor, second: Tensor, by_data: bool = False) -> nn.Module:
    """Two layers that are not the output, with these two weights."""
    with torch.device(first.device):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    for layer, weight in zip(model, (first, second), strict=False):
        if by_data:
            layer.weight.data = weight
        else:
            layer.weight = nn.Parameter(weight)
    return model


@pytest.mark.parametrize("by_data", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("given", [{}, {"exclude": ("1", "2")}])
def test_two_weights_with_elements_in_the_same_memory_are_refused(
    by_data: bool, device: str, given: dict[str, Any]
) -> None:
    memory = torch.randn(4, 8, device=device)
    for second in (memory[:, :4].t(), memory[:, :4], memory[:, 3:7]):
        model = in_one_memory(memory[:, :4], second, by_data)
        assert list(sparse_layers(model, include="2", exclude=())) == ["2.weight"]
        with pytest.raises(ValueError, match=r"the layers 0\.weight and 1\.weight share one weight"):
            sparse_layers(model, **given)


def test_two_weights_may_lie_in_one_storage() -> None:
    memory = torch.randn(4, 8)
    for first, second in (memory.view(2, 4, 4), memory.chunk(2, dim=1), memory.view(4, 4, 2).unbind(2)):
        assert list(sparse_layers(in_one_memory(first, second))) == ["0.weight", "1.weight"]


def test_a_module_used_twice_is_one_layer() -> None:
    layer = nn.Linear(4, 4)
    assert list(sparse_layers(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2)))) == ["0.weight"]


def test_a_weight_computed_from_others_is_refused_unless_excluded() -> None:
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(ValueError, match=r"'2\.weight' has no weight parameter .* weight_norm\. .*exclude the layer"):
        sparse_layers(model)
    assert list(sparse_layers(model, exclude=("2", "4"))) == ["0.weight"]
    model[2] = nn.utils.parametrizations.weight_norm(Conv1D(5, 6))
    with pytest.raises(ValueError, match=r"'2\.weight' has no weight parameter"):
        sparse_layers(model)


# --- heads ---


def test_every_head_becomes_a_network_of_its_own() -> None:
    layers = {
        "q": Layer("q", "packed", (8, 5), (5, 1)),
        "k": Layer("k", "packed", (4, 5), (5, 1), offset=40),
        "v": Layer("v", "packed", (4, 5), (5, 1), offset=60),
        "o": Layer("o", "o", (5, 8), (8, 1)),
        "mlp": Layer("mlp", "mlp", (8, 5), (5, 1)),
    }
    graph = chts.LayerGraph(attentions=(chts.Attention("q", "k", "v", "o", heads=4, key_heads=2),))
    parts = split_heads(layers, graph)
    assert {name: (part.parameter, part.first_row, part.shape) for name, part in parts.items()} == {
        "q:0": ("packed", 0, (2, 5)),
        "q:1": ("packed", 2, (2, 5)),
        "q:2": ("packed", 4, (2, 5)),
        "q:3": ("packed", 6, (2, 5)),
        "k:0": ("packed", 8, (2, 5)),
        "k:1": ("packed", 10, (2, 5)),
        "v:0": ("packed", 12, (2, 5)),
        "v:1": ("packed", 14, (2, 5)),
        "o": ("o", 0, (5, 8)),
        "mlp": ("mlp", 0, (8, 5)),
    }
    assert all(part.name == name for name, part in parts.items())


def test_a_single_head_keeps_its_name() -> None:
    layers = {"q": Layer("q", "q", (8, 5), (5, 1)), "k": Layer("k", "k", (4, 5), (5, 1))}
    graph = chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, heads=2, key_heads=1),))
    assert list(split_heads(layers, graph)) == ["q:0", "q:1", "k"]


def test_heads_of_layers_that_stay_dense_are_no_matter() -> None:
    layers = {"v": Layer("v", "v", (4, 5), (5, 1))}
    graph = chts.LayerGraph(attentions=(chts.Attention(None, None, "v", None, heads=2, key_heads=2),))
    assert list(split_heads(layers, graph)) == ["v:0", "v:1"]


def test_heads_that_cannot_share_a_layer_are_refused() -> None:
    # No other check would see it: queries alone meet nothing in the graph.
    layers = {"q": Layer("q", "q", (8, 5), (5, 1))}
    graph = chts.LayerGraph(attentions=(chts.Attention("q", None, None, None, heads=3, key_heads=3),))
    with pytest.raises(ValueError, match="'q' of an attention block has 8 neurons; expected a multiple of its 3 heads"):
        split_heads(layers, graph)


# --- wrappers ---


def test_a_wrapped_model_is_unwrapped() -> None:
    model = mlp()
    assert unwrap(model) is model
    assert unwrap(torch.compile(model, backend="eager")) is model
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(nn.DataParallel(torch.compile(model, backend="eager"))) is model
    assert unwrap(torch.compile(nn.DataParallel(model), backend="eager")) is model


def test_an_empty_model_is_unwrapped_too() -> None:
    empty = nn.ModuleList()  # of length 0, so that its truth is False
    wrapper = nn.Module()
    wrapper._orig_mod = empty
    assert unwrap(wrapper) is empty


def test_a_model_that_calls_a_part_module_is_not_unwrapped() -> None:
    model = nn.Module()
    model.module = mlp()
    assert unwrap(model) is model


def test_names_are_those_of_the_model_inside(tmp_path: Any) -> None:
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(mlp())
        assert list(sparse_layers(unwrap(wrapped))) == ["0.weight", "2.weight"]
    finally:
        torch.distributed.destroy_process_group()


# --- weights that cannot become sparse ---


def three(**how: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8, **how), nn.ReLU(), nn.Linear(8, 8, **how), nn.ReLU(), nn.Linear(8, 2, **how))


def stored_as(change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Sequential:
    """Its second layer has a weight of another kind."""
    model = three()
    model[2].weight = nn.Parameter(change(model[2].weight.detach()), requires_grad=False)
    return model


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))


def lazy_output() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.LazyLinear(2))


STRANGE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex64": (
        lambda: three(dtype=torch.complex64),
        r"layer '0\.weight' has a weight of torch\.complex64; expected",
    ),
    "complex128": (lambda: three(dtype=torch.complex128), r"layer '0\.weight' has a weight of torch\.complex128"),
    "int8": (lambda: stored_as(lambda weight: weight.to(torch.int8)), r"layer '2\.weight' has a weight of torch\.int8"),
    "uint8": (lambda: stored_as(lambda weight: weight.to(torch.uint8)), r"'2\.weight' has a weight of torch\.uint8"),
    "bool": (lambda: stored_as(lambda weight: weight > 0), r"'2\.weight' has a weight of torch\.bool"),
    "float8": (
        lambda: stored_as(lambda weight: weight.to(torch.float8_e4m3fn)),
        r"'2\.weight' .* torch\.float8_e4m3fn",
    ),
    "sparse": (
        lambda: stored_as(torch.Tensor.to_sparse),
        r"'2\.weight' has a weight of torch\.float32 in torch.sparse_coo",
    ),
    "lazy": (lazy, r"the parameters 2\.weight, 2\.bias have no shape yet.*Call the model on a batch first"),
    "lazy output": (lazy_output, r"the parameters 4\.weight, 4\.bias have no shape yet"),
    "lazy norm": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 8), nn.Linear(8, 2)),
        r"the parameters 1\.weight, 1\.bias have no shape yet",
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("kind", STRANGE)
def test_weights_that_cannot_become_sparse_are_refused_by_name(kind: str) -> None:
    build, message = STRANGE[kind]
    model = build()
    with pytest.raises(TypeError, match=message):
        chts.plan(model, "set", 0.5, total_steps=10, update_every=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match=message):
        chts.Sparsifier(model, optimizer, "set", 0.5, total_steps=10, update_every=1)


def test_such_a_weight_may_be_left_out() -> None:
    model = stored_as(lambda weight: weight.to(torch.int8))
    assert list(sparse_layers(model, exclude=("2", "4"))) == ["0.weight"]
    assert list(sparse_layers(model, include="0")) == ["0.weight"]


@pytest.mark.parametrize("meta", [("0", "2", "4"), ("2",), ("0",)])
def test_a_sparsifier_refuses_weights_on_the_meta_device_which_a_plan_takes(meta: tuple[str, ...]) -> None:
    model = three()
    for name in meta:
        model.get_submodule(name).to("meta")
    names = ", ".join(f"{name}.weight" for name in meta if name != "4")
    chts.plan(model, "set", 0.5, total_steps=10, update_every=1)
    with pytest.raises(ValueError, match=rf"the weights {names} are on the meta device.*to_empty"):
        chts.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), "set", 0.5, total_steps=10, update_every=1)


def test_a_quantised_model_is_refused_with_the_names_of_its_layers() -> None:
    class Packed(nn.Module):
        in_features = 8

    Packed.__module__ = "torch.ao.nn.quantized.dynamic.modules.linear"
    with pytest.raises(ValueError, match=r"none is left to sparsify.* 0, 1 are quantised; sparsify the model before"):
        sparse_layers(nn.Sequential(Packed(), Packed()))


# --- the model's outputs, and routers ---


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class TwoHeads(HeadFirst):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        hidden = self.body(x)
        return {"policy": self.head(hidden).softmax(-1), "value": self.value(hidden).view(x.shape[0]), "hidden": hidden}


class Residual(HeadFirst):
    """The body's last layer reaches the output beside the head; but the head comes after it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.body(x)
        return hidden[..., :3] + self.head(hidden)


class Functional(HeadFirst):
    """It uses the head's weight without the head."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(x), self.head.weight, self.head.bias)


class Within(nn.Module):
    """The head is a part of a part, which a loop over data keeps from being traced; what is around it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.model = HeadFirst()
        self.before = Looping()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.before(x)
        return self.model(x if mask is None else x * mask)


class Labelled(HeadFirst):
    """With labels it gives a loss, in a way that cannot be traced."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:  # type: ignore[override]
        y = self.head(self.body(x))
        if labels is not None and labels.sum() > 0:
            return nn.functional.cross_entropy(y, labels)
        return y


class Looping(nn.Module):
    """It cannot be traced; its last registered layer is its output, as far as anybody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        while x.sum() > 100:
            x = self.body(x)
        return self.last(x)


class NamesItsOutput(Looping):
    """It has a method that returns its output layer, as models of transformers have."""

    def get_output_embeddings(self) -> nn.Module:
        return self.body


class Convolved(nn.Module):
    """A convolution comes after the linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.conv = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.body(x)[..., None])


class HeadsFirst(TwoHeads):
    """It cannot be traced, and its last registered layer is a part of its body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = self._modules.pop("body")

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(x if x.sum() > 0 else -x)


OUTPUTS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "registered first": (HeadFirst, {"head": OF_OUTPUTS}),
    "several": (TwoHeads, {"head": OF_OUTPUTS, "value": OF_OUTPUTS}),
    "beside a residual": (Residual, {"head": OF_OUTPUTS}),
    "without its module": (Functional, {"head": OF_OUTPUTS}),
    "with labels": (Labelled, {"head": OF_OUTPUTS}),
    "a part of a part": (Within, {"model.head": OF_OUTPUTS}),
    "not traced": (Looping, {"last": LAST}),
    "not traced, but named by the model": (NamesItsOutput, {"body": OF_OUTPUTS}),
    "not traced, and not last": (HeadsFirst, {"body.2": GUESSED}),
    "a convolution": (Convolved, {"conv": OF_OUTPUTS}),
}


@pytest.mark.promise("register the output layer first, or have several", "followed: they are found by the forward pass")
@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_layers_that_give_the_outputs_stay_dense(kind: str) -> None:
    build, expected = OUTPUTS[kind]
    model = build()
    model.train()
    state = torch.get_rng_state()
    assert output_layers(model) == expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    everything = {name.removesuffix(".weight") for name in sparse_layers(model, exclude=())}
    assert {name.removesuffix(".weight") for name in sparse_layers(model)} == everything - expected.keys()


def test_a_guess_of_the_output_layers_is_a_warning() -> None:
    message = (
        r"body\.2\.weight stays dense: .* guesses that it gives the model's outputs.* "
        r"Use exclude to choose the layers"
    )
    settings: dict[str, Any] = {"method": "set", "sparsity": 0.5, "total_steps": 9, "update_every": 3}
    model = HeadsFirst()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.warns(UserWarning, match=message):
        chts.Sparsifier(model, optimizer, **settings)
    plan = chts.plan(HeadsFirst(), **settings)
    assert re.search(message, plan.advice[0])
    assert plan.coverage.dense["body.2.weight"] == (16, GUESSED)
    named = chts.Sparsifier(model, optimizer, **settings, exclude=["head", "value"])
    assert list(named.masks) == ["body.0.weight", "body.2.weight"]


class Mixture(nn.Module):
    def __init__(self, router: str) -> None:
        super().__init__()
        self.add_module(router, nn.Linear(4, 2))
        self.gate_proj = nn.Linear(4, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])


class SwitchRouter(nn.Linear):
    pass


@pytest.mark.promise("attach to a mixture of experts", "followed: routers stay dense")
@pytest.mark.parametrize("name", ["router", "gate", "shared_expert_gate"])
def test_routers_of_experts_stay_dense(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Mixture(name), nn.Linear(4, 2))
    experts = ["1.gate_proj.weight", "1.experts.0.weight", "1.experts.1.weight"]
    assert list(sparse_layers(model)) == ["0.weight", *experts]
    assert f"1.{name}.weight" in sparse_layers(model, exclude=())
    assert list(sparse_layers(nn.Sequential(nn.Linear(4, 4), SwitchRouter(4, 4), nn.Linear(4, 2)))) == ["0.weight"]
