"""Which weights of a model become sparse: its linear layers, also those packed into an attention's one weight."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from chts_core.percolation import LayerGraph

# Layers by glob pattern on their name or their module's, or by a test on the module's name and the module.
Selection = str | Iterable[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Layer:
    """A bipartite network: all rows of a weight, or some of those of a weight that packs several.

    name: that of the parameter, with ":q", ":k", ":v" for the rows of a packed one and ":0", ":1"... for heads.
    parameter: the name of the parameter.
    first_row: of its rows in the parameter.
    shape: (out_features, in_features) of the network itself.
    """

    name: str
    parameter: str
    first_row: int
    shape: tuple[int, int]

    def rows(self, tensor: Tensor) -> Tensor:
        """View of this layer's rows of a tensor shaped like the parameter."""
        return tensor[self.first_row : self.first_row + self.shape[0]]


def linear_layers(model: nn.Module) -> dict[str, Layer]:
    """All layers of a model that could be sparse, by name: linear ones and those inside `nn.MultiheadAttention`."""
    return {layer.name: layer for layer, _, _ in _candidates(model)}


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of `torch.compile` and `DistributedDataParallel`, so that names stay what they were."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    inner = getattr(model, "_orig_mod", None)
    return model if inner is None else unwrap(inner)


def sparse_layers(
    model: nn.Module, include: Selection | None = None, exclude: Selection | None = None
) -> dict[str, Layer]:
    """The layers to sparsify, by name, in the model's order.

    Linear layers and the projections of `nn.MultiheadAttention` that train. Embeddings never; the model's last linear
    layer, its output, only where `exclude` says something else.

    Args:
        model: any module.
        include: which of them; by default all.
        exclude: which of those not; by default the last linear layer.

    Raises:
        ValueError: if nothing is left, a pattern fits no layer, or a weight is shared or computed from others.
    """
    found = list(_candidates(model))
    linear = [layer.name for layer, _, module in found if isinstance(module, nn.Linear)]
    chosen = found if include is None else _select(found, include, "include")
    dropped = (
        [entry for entry in found if entry[0].name == linear[-1]]
        if exclude is None and linear
        else _select(found, exclude or (), "exclude")
    )
    out = {layer.name for layer, _, _ in dropped}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layers = {layer.name: layer for layer, _, _ in chosen if layer.name not in out}
    for name, layer in layers.items():
        if layer.parameter not in parameters:
            raise ValueError(
                f"layer {name!r} has no weight of its own to make sparse: it is computed from other parameters, as "
                "weight_norm does; remove the parametrization or exclude the layer."
            )
    layers = {name: layer for name, layer in layers.items() if parameters[layer.parameter].requires_grad}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} linear layers of which none is left to sparsify; "
            "expected at least two that train: the last one is the output layer and stays dense unless "
            "exclude=() says otherwise."
        )
    _check_shared(model, layers)
    return layers


def has_gated_feed_forward(module: nn.Module) -> bool:
    """Whether a module computes down_proj(act(gate_proj(x)) * up_proj(x)), going by the names that LLaMA gave them.

    One that normalises the product, as BitNet does, is another thing: there each neuron has a say in all others.
    """
    normalises = any("norm" in name for name, _ in module.named_children())
    return has_linear(module, "gate_proj", "up_proj", "down_proj") and not normalises


def has_linear(module: nn.Module, *names: str) -> bool:
    """Whether a module has linear layers of all these names."""
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def split_heads(layers: Mapping[str, Layer], graph: LayerGraph) -> dict[str, Layer]:
    """Each head of queries, keys and values as a network of its own; all other layers as they are.

    Raises:
        ValueError: if the heads cannot share a layer's outputs evenly.
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
                f"layer {name!r} of an attention has {layer.shape[0]} neurons, which {number} heads cannot share "
                "evenly; check the numbers of heads in the graph."
            )
        head_dim = layer.shape[0] // number
        for head in range(number):
            part = Layer(
                name=name if number == 1 else f"{name}:{head}",
                parameter=layer.parameter,
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


def _check_shared(model: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Refuse a weight that two modules share: it cannot have two masks, nor be sparse here and dense there."""
    sparse = {layer.parameter for layer in layers.values()}
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    for names in owners.values():
        if len(names) > 1 and sparse & set(names):
            raise ValueError(
                f"the layers {' and '.join(names)} share one weight, which cannot have two masks; untie them, "
                "give each its own weight, or exclude them."
            )
