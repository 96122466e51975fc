"""Find the layers of a model that become sparse.

These are its linear layers. An attention block may pack several of them into one weight.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chts_core.engine.forward import is_transposed_linear, output_layers
from chts_core.percolation import LayerGraph

# The dtypes that a weight may have. Complex numbers have no order, and integers have no gradient.
_REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# A gate, the factor that it gates, and the projection of their product, as LLaMA and T5 name them.
_GATED = (("gate_proj", "up_proj", "down_proj"), ("wi_0", "wi_1", "wo"))

# A choice of layers: by glob patterns for the names of layers or modules, or by a function of a module's name and the
# module.
Selection = str | Iterable[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Layer:
    """A bipartite network: all rows of a weight, or some rows of a weight that packs several layers.

    name: the name of the parameter, followed by ":q", ":k" or ":v" for rows of a packed weight, and by ":0", ":1"...
        for heads.
    parameter: the name of the parameter.
    first_row: the layer's first row in the parameter, or its first column if the parameter is transposed.
    shape: (out_features, in_features) of this network.
    transposed: whether the parameter has the shape (in_features, out_features), as in Hugging Face's `Conv1D`.
    """

    name: str
    parameter: str
    first_row: int
    shape: tuple[int, int]
    transposed: bool = False

    @property
    def outputs(self) -> slice:
        """The range of the parameter's output neurons that belong to this layer."""
        return slice(self.first_row, self.first_row + self.shape[0])

    def rows(self, tensor: Tensor) -> Tensor:
        """A view of this layer's rows in a tensor shaped like the parameter.

        Its shape is (out_features, in_features).
        """
        return (tensor.T if self.transposed else tensor)[self.outputs]

    def ends(self, positions: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """The output and input neurons of links, from their positions in the flattened parameter.

        The parameter has `columns` columns. Outputs are counted from this layer's first output, so outputs of other
        layers in the parameter are negative or too large.
        """
        quotient, rest = positions // columns, positions % columns
        outputs, inputs = (rest, quotient) if self.transposed else (quotient, rest)
        return outputs - self.first_row, inputs

    def in_parameter(self, links: Tensor, columns: int) -> Tensor:
        """Positions of links in the flattened parameter, from their positions in the flattened layer.

        The parameter has `columns` columns.
        """
        if not self.transposed:
            return links + self.first_row * columns
        return links % self.shape[1] * columns + links // self.shape[1] + self.first_row


def linear_layers(model: nn.Module) -> dict[str, Layer]:
    """All layers of a model that could be sparse, by name.

    These are linear layers, the layers inside `nn.MultiheadAttention`, and Hugging Face's `Conv1D`.
    """
    return {layer.name: layer for layer, _, _ in _candidates(model)}


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of `torch.compile` and `DistributedDataParallel`, which change names."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    inner = getattr(model, "_orig_mod", None)
    return model if inner is None else unwrap(inner)


def sparse_layers(
    model: nn.Module, include: Selection | None = None, exclude: Selection | None = None
) -> dict[str, Layer]:
    """The layers to sparsify, by name, in the model's order.

    These are the linear layers, the `Conv1D` layers of Hugging Face, and the projections of `nn.MultiheadAttention`
    that train. Embeddings are never sparse. The layers that give the model's outputs
    (:func:`chts_core.engine.forward.output_layers`) and the routers of experts stay dense, unless `exclude` says
    otherwise.

    Args:
        model: any module.
        include: which layers to take. Default: all of them.
        exclude: which layers to leave out. Default: the output layers and the routers.

    Raises:
        ValueError: if no layer is left, a pattern fits no layer, or a weight is shared or computed from other
            parameters.
        TypeError: if a weight has no shape yet, or is not a dense tensor of real numbers.
    """
    layers, parameters = _selected(model, include, exclude)
    for name, layer in layers.items():
        if layer.parameter not in parameters:
            raise ValueError(
                f"layer {name!r} has no weight parameter to make sparse: its weight is computed from other parameters, "
                "for example by weight_norm. Remove the parametrization or exclude the layer."
            )
        _check_stored(name, parameters[layer.parameter])
    layers = {name: layer for name, layer in layers.items() if parameters[layer.parameter].requires_grad}
    if not layers:
        quantised = [path for path, module in model.named_modules() if _is_quantised(module)]
        raise ValueError(
            f"{type(model).__name__} has {len(linear_layers(model))} linear layers, but none is left to sparsify; "
            "expected at least two that train. The last one is the output layer and stays dense unless you pass "
            "exclude=()."
            + (
                f" {', '.join(quantised)} are quantised; sparsify the model before you quantise it."
                if quantised
                else ""
            )
        )
    _check_shared(model, layers)
    return layers


def frozen_layers(
    model: nn.Module, include: Selection | None = None, exclude: Selection | None = None
) -> dict[str, nn.Parameter]:
    """The frozen weights, by layer. :func:`sparse_layers` would take these layers if they trained."""
    layers, parameters = _selected(model, include, exclude)
    weights = {name: parameters[layer.parameter] for name, layer in layers.items() if layer.parameter in parameters}
    return {name: weight for name, weight in weights.items() if not weight.requires_grad}


def _selected(
    model: nn.Module, include: Selection | None, exclude: Selection | None
) -> tuple[dict[str, Layer], dict[str, nn.Parameter]]:
    """The chosen layers, whether they train or not, and all parameters of the model by name."""
    _check_initialised(model)
    found = list(_candidates(model))
    chosen = found if include is None else _select(found, include, "include")
    if exclude is None:
        outputs = output_layers(model)
        dropped = [entry for entry in found if entry[1] in outputs or _is_router(model, entry[1])]
    else:
        dropped = _select(found, exclude, "exclude")
    out = {layer.name for layer, _, _ in dropped}
    layers = {layer.name: layer for layer, _, _ in chosen if layer.name not in out}
    return layers, dict(model.named_parameters(remove_duplicate=False))


def _is_router(model: nn.Module, path: str) -> bool:
    """Whether a linear layer is a router: it chooses the experts for an input, so a mistake there is costly."""
    parent, _, name = path.rpartition(".")
    beside = {child for child, _ in model.get_submodule(parent).named_children()}
    named = "router" in path.lower() or "Router" in type(model.get_submodule(path)).__name__
    return named or ("gate" in name and "proj" not in name and "experts" in beside)


def gated_feed_forward(module: nn.Module) -> tuple[str, str, str] | None:
    """The names of gate, up and down in a module that computes down(act(gate(x)) * up(x)), or None for other modules.

    A module that normalises the product, as in BitNet, does not count, because there each neuron changes all others.
    """
    if any("norm" in name for name, _ in module.named_children()):
        return None
    return next((names for names in _GATED if has_linear(module, *names)), None)


def has_linear(module: nn.Module, *names: str) -> bool:
    """Whether a module has linear layers of all these names."""
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def split_heads(layers: Mapping[str, Layer], graph: LayerGraph) -> dict[str, Layer]:
    """Each head of queries, keys and values as a separate network, and all other layers unchanged.

    Raises:
        ValueError: if a layer's number of outputs is not a multiple of its number of heads.
    """
    heads: dict[str | None, int] = {}
    for attention in graph.attentions:
        heads[attention.query] = attention.heads
        heads[attention.key] = heads[attention.value] = attention.key_heads
    parts = {}
    for name, layer in layers.items():
        number = heads.get(name, 1)
        if layer.shape[0] % number:
            raise ValueError(
                f"layer {name!r} of an attention block has {layer.shape[0]} neurons; expected a multiple of its "
                f"{number} heads. Check the numbers of heads in the graph."
            )
        head_dim = layer.shape[0] // number
        for head in range(number):
            part = replace(
                layer,
                name=name if number == 1 else f"{name}:{head}",
                first_row=layer.first_row + head * head_dim,
                shape=(head_dim, layer.shape[1]),
            )
            parts[part.name] = part
    return parts


def _candidates(model: nn.Module) -> Iterator[tuple[Layer, str, nn.Module]]:
    """Every layer that could be sparse, with its module's name and its module."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, nn.Linear):
            name = f"{prefix}weight"
            yield Layer(name, name, 0, (module.out_features, module.in_features)), path, module
        elif is_transposed_linear(module):
            for layer in _transposed_layers(f"{prefix}weight", module):
                yield layer, path, module
        elif isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                packed, width = f"{prefix}in_proj_weight", module.embed_dim
                for part, role in enumerate("qkv"):
                    yield Layer(f"{packed}:{role}", packed, part * width, (width, width)), path, module
            else:
                for role in "qkv":
                    name = f"{role}_proj_weight"
                    out_features, in_features = getattr(module, name).shape
                    yield Layer(prefix + name, prefix + name, 0, (out_features, in_features)), path, module


def _transposed_layers(name: str, module: nn.Module) -> Iterator[Layer]:
    """The layers in a transposed weight.

    GPT-2 packs queries, keys and values into one weight, or only keys and values.
    """
    in_features, out_features = (int(getattr(module, size)) for size in ("nx", "nf"))
    packs = f".{name}".endswith(".c_attn.weight")
    roles = {3: "qkv", 2: "kv"}.get(out_features // in_features) if packs and out_features % in_features == 0 else None
    if roles is None:
        yield Layer(name, name, 0, (out_features, in_features), transposed=True)
    else:
        for part, role in enumerate(roles):
            yield Layer(f"{name}:{role}", name, part * in_features, (in_features, in_features), transposed=True)


def _select(
    found: list[tuple[Layer, str, nn.Module]], selection: Selection, argument: str
) -> list[tuple[Layer, str, nn.Module]]:
    if callable(selection):
        return [entry for entry in found if selection(entry[1], entry[2])]
    chosen = set()
    for pattern in (selection,) if isinstance(selection, str) else selection:
        fitting = {
            layer.name for layer, path, _ in found if fnmatchcase(layer.name, pattern) or fnmatchcase(path, pattern)
        }
        if not fitting:
            raise ValueError(
                f"{argument} has the pattern {pattern!r}, which fits no linear layer; expected a layer's or module's "
                f"name, with * for any part of it. The layers are {', '.join(layer.name for layer, _, _ in found)}."
            )
        chosen |= fitting
    return [entry for entry in found if entry[0].name in chosen]


def check_in_memory(weights: Mapping[str, Tensor]) -> None:
    """Raise an error if a weight is on the meta device, where it has a shape but no values."""
    absent = [name for name, weight in weights.items() if weight.is_meta]
    if absent:
        raise ValueError(
            f"the weights {', '.join(absent)} are on the meta device and have no values; expected weights in memory. "
            "Call model.to_empty(device=...) and initialise or load the weights, then build the optimizer. If you "
            "only need a plan, chts.plan accepts such a model."
        )


def _check_initialised(model: nn.Module) -> None:
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise TypeError(
            f"the parameters {', '.join(lazy)} have no shape yet, because lazy layers get their shape from the first "
            "input; expected initialised parameters. Call the model on a batch first, then build the optimizer."
        )


def _check_stored(name: str, weight: Tensor) -> None:
    if weight.dtype not in _REAL or weight.layout != torch.strided:
        how = weight.dtype if weight.layout == torch.strided else f"{weight.dtype} in {weight.layout}"
        raise TypeError(
            f"layer {name!r} has a weight of {how}; expected a dense tensor of {', '.join(map(str, _REAL))}. Build the "
            "layer with one of these dtypes and quantise it after training, or leave it out with include or exclude."
        )


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear layer with a weight that torch's quantisation has packed."""
    return "quantized" in type(module).__module__ and hasattr(module, "in_features")


def _check_shared(model: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Refuse a weight that two modules share.

    It cannot have two masks, or be sparse in one module and dense in the other.
    """
    sparse = {layer.parameter for layer in layers.values()}
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    for names in owners.values():
        if len(names) > 1 and sparse & set(names):
            raise ValueError(
                f"the layers {' and '.join(names)} share one weight, which cannot have two masks; give each its own "
                "weight, or exclude them."
            )
