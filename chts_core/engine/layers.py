"""Which layers of a model become sparse, by default or by the user's choice."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chts_core.engine.forward import output_layers
from chts_core.engine.kinds import Candidate, Layer, candidates, other_matrices
from chts_core.engine.sharding import local_shard
from chts_core.percolation import LayerGraph

# The dtypes that a weight may have. Complex numbers have no order, and integers have no gradient.
_REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# A gate, the factor that it gates, and the projection of their product, as LLaMA and T5 name them.
_GATED = (("gate_proj", "up_proj", "down_proj"), ("wi_0", "wi_1", "wo"))

# A choice of layers: by glob patterns for the names of layers or modules, or by a function of a module's name and the
# module.
Selection = str | Iterable[str] | Callable[[str, nn.Module], bool]

# Why a matrix stays dense.
EXCLUDED = "left out by exclude"
NOT_INCLUDED = "not in include"


@dataclass(frozen=True)
class Chosen:
    """The layers that become sparse, and the matrices that do not.

    layers: the sparse layers by name, in the model's order.
    frozen: the frozen weights that would become sparse if they were trained, by the name of the layer.
    dense: for every other trained matrix, the reason why it stays dense, by the name of the parameter.
    """

    layers: dict[str, Layer]
    frozen: dict[str, nn.Parameter]
    dense: dict[str, str]


def all_layers(model: nn.Module) -> dict[str, Layer]:
    """All layers of a model that could be sparse, by name (:mod:`chts_core.engine.kinds`)."""
    return {candidate.layer.name: candidate.layer for candidate in candidates(model)}


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of `torch.compile` and `DistributedDataParallel`, which rename its layers."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    inner = getattr(model, "_orig_mod", None)
    return model if inner is None else unwrap(inner)


def sparse_layers(
    model: nn.Module, include: Selection | None = None, exclude: Selection | None = None
) -> dict[str, Layer]:
    """The layers of :func:`choose_layers` that become sparse."""
    return choose_layers(model, include, exclude).layers


def choose_layers(model: nn.Module, include: Selection | None = None, exclude: Selection | None = None) -> Chosen:
    """The layers to sparsify, and why the others stay dense.

    All kinds of layers in :mod:`chts_core.engine.kinds` become sparse if they are trained. Embeddings are never sparse.
    The layers that compute the model's outputs (:func:`chts_core.engine.forward.output_layers`), the routers of
    experts, and depthwise convolutions stay dense by default. `exclude` replaces this default.

    Args:
        model: any module.
        include: which layers to take; by default all. A pattern that fits no layer may fit other matrices
            (:func:`chts_core.engine.kinds.other_matrices`).
        exclude: which of these layers to leave out; by default the layers named above.

    Raises:
        ValueError: if no layer is left, a pattern fits no layer, a pattern of `include` fits only layers that stay
            dense by default, or a weight belongs to two modules, shares memory with another parameter, or is computed
            from other parameters.
        TypeError: if a weight has no shape yet, or is not a dense tensor of real numbers; or if `include` or `exclude`
            contains anything other than names or one function.
    """
    _check_initialised(model)
    found, others = list(candidates(model)), list(other_matrices(model))
    by_default = _dense_by_default(model, found, others) if exclude is None else {}
    chosen = found if include is None else _select(found, others, include, "include", by_default)
    if exclude is None:
        dropped = by_default
    else:
        dropped = {entry.layer.name: EXCLUDED for entry in _select(found, others, exclude, "exclude", {})}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layers = {entry.layer.name: entry.layer for entry in chosen if entry.layer.name not in dropped}
    for name, layer in layers.items():
        if layer.parameter not in parameters:
            raise ValueError(
                f"layer {name!r} has no weight parameter to make sparse: its weight is computed from other parameters, "
                "for example by weight_norm. Remove the parametrization or exclude the layer."
            )
        _check_stored(name, parameters[layer.parameter])
    training = {name: layer for name, layer in layers.items() if parameters[layer.parameter].requires_grad}
    if not training:
        raise _nothing_left(model, len(found))
    _check_shared(model, training)
    sparse = {layer.parameter for layer in layers.values()}
    of_modules = {entry.path: dropped[entry.layer.name] for entry in found if entry.layer.name in dropped}
    reasons = {
        entry.layer.parameter: dropped.get(entry.layer.name)
        or of_modules.get(entry.path.partition(".parametrizations.")[0])
        or entry.why_dense
        or NOT_INCLUDED
        for entry in others + found
    }
    return Chosen(
        training,
        {name: parameters[layer.parameter] for name, layer in layers.items() if name not in training},
        {
            name: why
            for name, why in reasons.items()
            if name not in sparse and name in parameters and parameters[name].requires_grad
        },
    )


def _dense_by_default(model: nn.Module, found: list[Candidate], others: list[Candidate]) -> dict[str, str]:
    """The layers that stay dense by default, by name, with the reason for each."""
    outputs = output_layers(model)
    routers = {entry.layer.name: "chooses the experts" for entry in others if _is_router(model, entry.path)}
    dense: dict[str, str] = {}
    for entry in found:
        name = entry.layer.name
        if entry.path in outputs:
            dense[name] = outputs[entry.path]
        elif _is_router(model, entry.path):
            dense[name] = "chooses the experts"
        elif entry.why_dense:
            dense[name] = entry.why_dense
    return dense | routers


def _nothing_left(model: nn.Module, layers: int) -> ValueError:
    quantised = [path for path, module in model.named_modules() if _is_quantised(module)]
    return ValueError(
        f"{type(model).__name__} has {layers} layers that could be sparse, but none is left to sparsify; expected at "
        "least two layers that are trained. The last layer is the output layer and stays dense unless you pass "
        "exclude=()."
        + (f" {', '.join(quantised)} are quantised; sparsify the model before you quantise it." if quantised else "")
    )


def _is_router(model: nn.Module, path: str) -> bool:
    """Whether a layer is a router. A router chooses the experts for an input, so its mistakes are costly."""
    parent, _, name = path.rpartition(".")
    beside = {child for child, _ in model.get_submodule(parent).named_children()}
    named = "router" in path.lower() or "Router" in type(model.get_submodule(path)).__name__
    return named or ("gate" in name and "proj" not in name and "experts" in beside)


def gated_feed_forward(module: nn.Module) -> tuple[str, str, str] | None:
    """The names of `gate`, `up` and `down` in a module that computes down(act(gate(x)) * up(x)), or None otherwise.

    The result is also None for a module that normalises the product, as in BitNet, because each neuron of such a module
    changes all others.
    """
    if any("norm" in name for name, _ in module.named_children()):
        return None
    return next((names for names in _GATED if has_linear(module, *names)), None)


def gated_experts(module: nn.Module) -> int:
    """The number of experts that compute down(act(gate(x)) * up(x)) from weights of three dimensions, as in Mixtral.

    The number is 0 for any other module. Experts with a bias, a norm or a gate of their own do not count.
    """
    gate = getattr(type(module), "_apply_gate", None)
    usual = getattr(gate, "__name__", "") == "_default_apply_gate"
    if not usual or getattr(module, "has_bias", True) or getattr(module, "has_post_expert_norm", True):
        return 0
    packed = module._parameters.get("gate_up_proj")
    return 0 if packed is None else len(packed)


def has_linear(module: nn.Module, *names: str) -> bool:
    """Whether a module has linear layers with all these names."""
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def split_heads(layers: Mapping[str, Layer], graph: LayerGraph) -> dict[str, Layer]:
    """Make each head of queries, keys and values a separate network, and leave all other layers unchanged.

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
            part = layer if number == 1 else layer.part(f"{name}:{head}", head * head_dim, head_dim)
            parts[part.name] = part
    return parts


def _select(
    found: list[Candidate], others: list[Candidate], selection: Selection, argument: str, by_default: Mapping[str, str]
) -> list[Candidate]:
    """The layers and matrices that a selection chooses. A pattern chooses from `others` only if `found` has no match.

    Raise an error if a pattern fits only layers that stay dense by default; `by_default` contains the reasons.
    """
    if callable(selection) and not isinstance(selection, type | nn.Module):
        return [entry for entry in found if selection(entry.path, entry.module)]
    patterns: list[Any] = [selection]
    if isinstance(selection, Iterable) and not isinstance(selection, str | type | nn.Module):
        patterns = list(selection)
    wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
    if wrong:
        is_class = isinstance(wrong[0], type)
        given = f"the class {wrong[0].__name__}" if is_class else f"an object of type {type(wrong[0]).__name__}"
        raise TypeError(
            f"{argument} has {given}; expected names of layers or modules, or one function of a name and a module. "
            f"To choose by class, write {argument}=lambda name, module: isinstance(module, nn.Linear). To choose one "
            f"module, write {argument}=lambda name, module: module is model.head."
        )
    chosen = set()
    for pattern in patterns:
        fitting = {
            entry.layer.name
            for entry in found
            if any(fnmatchcase(name, pattern) for name in (entry.layer.name, entry.layer.parameter, entry.path))
        } or {entry.layer.name for entry in others if fnmatchcase(entry.layer.parameter, pattern)}
        if not fitting:
            raise ValueError(
                f"{argument} has the pattern {pattern!r}, which fits no layer; expected a layer's or module's name, "
                f"with * for any part of it. The layers are {', '.join(entry.layer.name for entry in found)}."
            )
        if by_default.keys() >= fitting:
            dense = ", ".join(f"{name} ({by_default[name]})" for name in sorted(fitting))
            raise ValueError(
                f"{argument} has the pattern {pattern!r}, which fits only layers that stay dense by default: {dense}; "
                "expected at least one other layer. Pass exclude=() to make all layers of include sparse, or exclude "
                "other layers by name."
            )
        chosen |= fitting
    return [entry for entry in found + others if entry.layer.name in chosen]


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
    """Refuse a weight that two modules share, and a weight that shares memory with another parameter.

    Such a weight cannot have two masks, or be sparse in one module and dense in the other.
    """
    sparse = {layer.parameter for layer in layers.values()}
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    in_storage: dict[int, list[tuple[str, Tensor, range]]] = {}
    for name, parameter in model.named_parameters():
        local = local_shard(parameter)
        if local.layout == torch.strided and local.numel():
            in_storage.setdefault(local.untyped_storage()._cdata, []).append((name, local, _span(local)))
    overlapping = (
        [name, other]
        for parameters in in_storage.values()
        for (name, first, span), (other, second, other_span) in combinations(parameters, 2)
        if span.start < other_span.stop and other_span.start < span.stop and _overlap(first, second)
    )
    for names in (*owners.values(), *overlapping):
        if len(names) > 1 and sparse & set(names):
            raise ValueError(
                f"the layers {' and '.join(names)} share one weight, which cannot have two masks; give each its own "
                "weight, or exclude them."
            )


def _overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors in the same storage, with overlapping spans, have an element in common."""
    spans = [_span(first), _span(second)]
    start, end = min(span.start for span in spans), max(span.stop for span in spans)
    memory = np.empty(end - start, np.uint8)  # laid out like the storage; nothing reads or writes this array
    one, other = (
        np.ndarray(
            tensor.shape,
            f"V{tensor.itemsize}",
            memory,
            span.start - start,
            [stride * tensor.itemsize for stride in tensor.stride()],
        )
        for tensor, span in zip((first, second), spans, strict=True)
    )
    return np.shares_memory(one, other)


def _span(tensor: Tensor) -> range:
    """The bytes of the storage from the first element of a tensor to its last one."""
    first = tensor.storage_offset()
    last = first + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(first * tensor.itemsize, (last + 1) * tensor.itemsize)
