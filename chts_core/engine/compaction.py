"""Make a smaller copy of a model, without its inactive hidden neurons and with the same outputs."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, is_dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.engine.layers import gated_feed_forward
from chts_core.engine.linear import to_dense
from chts_core.percolation import LayerGraph


def compact(model: nn.Module, masks: Mapping[str, Tensor], graph: LayerGraph, *args: Any, **kwargs: Any) -> nn.Module:
    """A copy of the model without its inactive hidden neurons. In evaluation mode, both models have the same outputs.

    The function drops a hidden neuron if no output depends on it, or if it depends on no input. A neuron that depends
    on no input always sends the same value (the activation of its bias). The function takes this value from the example
    and adds its effect to the biases of the layer that the neuron feeds. It drops neurons between linear layers, in
    multilayer perceptrons and in the feed-forward blocks of Transformers. Neurons inside an attention block stay,
    because all heads of a block must have the same width. Neurons between layers other than `nn.Linear`, such as
    GPT-2's `Conv1D`, stay too.

    Args:
        model: the model, which does not change.
        masks: the masks, by layer name; weights of absent links are zero. A layer without a mask is dense.
        graph: says how the layers, sparse and dense, are connected.
        args, kwargs: an example input of the model.

    The function runs the copy and the model on the example and compares their outputs. This comparison shows whether
    anything else, such as a hook, changes the values of neurons between two layers.

    Returns:
        The copy, in evaluation mode. Its smaller layers are still `nn.Linear`; a batch norm with no features left
        becomes `nn.Identity`.

    Raises:
        ValueError: if the example does not reach a layer of the graph, or if the outputs of the copy on the example
            would differ from the outputs of the model.
    """
    whole = copy.deepcopy(model).eval()
    expected = _outputs(whole, *args, **kwargs)
    smaller = to_dense(whole)
    links, feeders = _junctions(smaller, masks, graph)
    with _same_random_numbers(smaller):
        seen = _observe(smaller, feeders, *args, **kwargs)
    constant = _constant_neurons(links, feeders, seen)
    keep = _useful_neurons(links, feeders, constant)
    with torch.no_grad():
        for after, befores in feeders.items():
            layer = _linear(smaller, after)
            bias = layer.weight[:, constant[after]] @ seen.inputs[after][0, constant[after]]
            if layer.bias is not None:
                layer.bias = _like(layer.bias, layer.bias + bias)
            elif bool(bias.any()):
                layer.bias = _like(layer.weight, bias)
            layer.weight = _like(layer.weight, layer.weight[:, keep[after]])
            layer.in_features = layer.weight.shape[1]
            for before in befores:
                _keep_outputs(_linear(smaller, before), keep[after])
            for norm in seen.norms[after]:
                _keep_features(smaller, norm, keep[after])
    _check_outputs(smaller, expected, *args, **kwargs)
    return smaller


def _outputs(model: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad(), _same_random_numbers(model):
        return [tensor.clone() for tensor in _tensors(model(*args, **kwargs))]


def _same_random_numbers(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which every model draws the same random numbers."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return torch.random.fork_rng(sorted(device.index for device in devices))


def _tensors(output: object) -> Iterator[Tensor]:
    """All tensors in the output of a model."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from (tensor for part in output.values() for tensor in _tensors(part))
    elif isinstance(output, list | tuple):
        yield from (tensor for part in output for tensor in _tensors(part))
    elif is_dataclass(output):
        yield from _tensors(vars(output))


def _check_outputs(smaller: nn.Module, expected: list[Tensor], *args: Any, **kwargs: Any) -> None:
    """Raise an error unless a smaller model gives the expected outputs, up to rounding."""
    why = (
        "Something other than the layers of the graph changes or reads their neurons: a hook, a forward method "
        "that only one instance has, random numbers in evaluation mode, or weights outside the masks. Remove it, or "
        "build the Sparsifier with a graph without these layers; graph=LayerGraph() has no layers."
    )
    try:
        found = _outputs(smaller, *args, **kwargs)
    except RuntimeError as error:
        raise ValueError(f"the model without its inactive neurons does not run: {error}. {why}") from error
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        raise ValueError(f"the shapes of the outputs change if the inactive neurons are removed. {why}")
    tolerance = _tolerance(smaller, expected)
    for ours, theirs in zip(found, expected, strict=True):
        if not theirs.is_floating_point():
            same, by = torch.equal(ours, theirs), "somewhere"
        else:
            ours, theirs = ours.double(), theirs.double()
            scale = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 0.0
            same = torch.allclose(ours, theirs, rtol=0, atol=tolerance * scale, equal_nan=True)
            by = (
                f"by up to {float((ours - theirs).abs().nan_to_num().max()) if ours.numel() else 0:.3g} "
                f"(largest output: {scale:.3g})"
            )
        if not same:
            raise ValueError(
                f"the outputs of the model without its inactive neurons would differ {by} on the example. This is more "
                f"than rounding. {why}"
            )


def _tolerance(model: nn.Module, outputs: list[Tensor]) -> float:
    """The error that rounding may cause, relative to the largest output: in float32, about 200 times its epsilon."""
    dtypes = {tensor.dtype for tensor in (*model.parameters(), *outputs) if tensor.is_floating_point()}
    devices = {tensor.device.type for tensor in (*model.parameters(), *outputs)}
    dtypes |= {torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device)}
    if "cuda" in devices and torch.get_float32_matmul_precision() != "highest":
        dtypes.add(torch.float16)  # its significand has as many bits as TF32's
    return float(max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0) ** (2 / 3))


def _junctions(
    model: nn.Module, masks: Mapping[str, Tensor], graph: LayerGraph
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The links of each layer, and the layers that feed each layer through neurons that may be dropped.

    If one factor of a gated product is dense, the graph does not contain this factor. The function adds it, because
    both factors must lose the same neurons.
    """
    feeders: dict[str, list[str]] = {}
    # Layers that are packed into an attention block are not modules, so they stay as they are.
    linear = {f"{path}.weight" if path else "weight" for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    for chain in graph.chains:
        for before, after in pairwise(chain):
            if before in linear and after in linear:
                feeders.setdefault(after, []).append(before)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        gate, up, down = (f"{prefix}{name}.weight" for name in gated_feed_forward(module) or ("", "", ""))
        if down in feeders:
            feeders[down] = [gate, up]
    links = dict(masks)
    for name in {name for after, befores in feeders.items() for name in (after, *befores)} - links.keys():
        links[name] = torch.ones_like(_linear(model, name).weight, dtype=torch.bool)
    return links, feeders


@dataclass
class _Seen:
    """The values that were recorded while the example ran, by layer name.

    outputs, inputs: the values that leave a layer and the values that reach it, (samples, neurons).
    norms: names of the batch norms between a layer and the layers that feed it.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, list[str]] = field(default_factory=dict)


def _observe(model: nn.Module, feeders: Mapping[str, list[str]], *args: Any, **kwargs: Any) -> _Seen:
    """Run the example and record the values between each layer and the layers that feed it."""
    seen = _Seen()
    normed: dict[str, Tensor] = {}

    def leaving(name: str) -> Callable[..., Tensor]:
        def note(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            seen.outputs[name] = output.detach().reshape(-1, output.shape[-1])
            # Start a new autograd graph, to find out which values depend on this output.
            return output.detach().requires_grad_().clone() if torch.is_grad_enabled() else output

        return note

    def reaching(name: str) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            value: Tensor = given[0] if given else named["input"]
            seen.inputs[name] = value.detach().reshape(-1, value.shape[-1])
            # A norm is between this layer and the layers that feed it if this value depends on the norm's output.
            ways = {norm: output for norm, output in normed.items() if output.requires_grad and value.requires_grad}
            slopes = (
                torch.autograd.grad(value.sum(), list(ways.values()), retain_graph=True, allow_unused=True)
                if ways
                else ()
            )
            seen.norms[name] = [norm for norm, slope in zip(ways, slopes, strict=True) if slope is not None]

        return note

    def passing(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            normed[name] = output

        return note

    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)}
    handles = [norm.register_forward_hook(passing(name)) for name, norm in norms.items()]
    for after, befores in feeders.items():
        handles.append(_linear(model, after).register_forward_pre_hook(reaching(after), with_kwargs=True))
        handles += [_linear(model, before).register_forward_hook(leaving(before)) for before in befores]
    try:
        with torch.set_grad_enabled(bool(norms)):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()

    missing = [after for after in feeders if after not in seen.inputs or len(seen.inputs[after]) == 0]
    if missing:
        raise ValueError(
            f"the example did not reach {', '.join(sorted(missing))}; pass an input for which the model uses every "
            "layer of the graph."
        )
    return seen


def _constant_neurons(links: Mapping[str, Tensor], feeders: Mapping[str, list[str]], seen: _Seen) -> dict[str, Tensor]:
    """For each layer that other layers feed: which inputs do not depend on the model's input; Boolean, 1-D."""
    constant: dict[str, Tensor] = {}

    def outputs_of(layer: str) -> Tensor:
        moving = links[layer] if layer not in feeders else links[layer] & ~inputs_of(layer)
        return ~moving.any(dim=1)

    def inputs_of(layer: str) -> Tensor:
        if layer not in constant:
            fixed = torch.stack([outputs_of(before) for before in feeders[layer]])
            nonzero = torch.stack([(seen.outputs[before] != 0).any(dim=0) for before in feeders[layer]])
            # A product of factors is always 0 if one factor is always 0 and the activation of this factor keeps the 0.
            # The example shows that the activation keeps the 0 if the product is 0 although no other factor is 0.
            silent = (fixed & ~nonzero).any(dim=0) & (seen.inputs[layer] == 0).all(dim=0)
            shown = nonzero.sum(dim=0) == len(nonzero) - 1
            constant[layer] = fixed.all(dim=0) | (silent & shown)
        return constant[layer]

    for layer in feeders:
        inputs_of(layer)
    return constant


def _useful_neurons(
    links: Mapping[str, Tensor], feeders: Mapping[str, list[str]], constant: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """For each layer that other layers feed: which inputs vary and have a link to a neuron that stays; Boolean."""
    fed_by = {before: after for after, befores in feeders.items() for before in befores}
    useful: dict[str, Tensor] = {}

    def inputs_of(layer: str) -> Tensor:
        if layer not in useful:
            stays = inputs_of(fed_by[layer]) if layer in fed_by else torch.ones_like(links[layer][:, 0])
            useful[layer] = links[layer][stays].any(dim=0) & ~constant[layer]
        return useful[layer]

    for layer in feeders:
        inputs_of(layer)
    return useful


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name.removesuffix("weight").removesuffix("."))
    assert isinstance(layer, nn.Linear)
    return layer


def _like(old: Tensor, new: Tensor) -> nn.Parameter:
    return nn.Parameter(new.clone(), old.requires_grad)


def _keep_outputs(layer: nn.Linear, keep: Tensor) -> None:
    layer.weight = _like(layer.weight, layer.weight[keep])
    if layer.bias is not None:
        layer.bias = _like(layer.bias, layer.bias[keep])
    layer.out_features = layer.weight.shape[0]


def _keep_features(model: nn.Module, name: str, keep: Tensor) -> None:
    if not bool(keep.any()):
        model.set_submodule(name, nn.Identity())  # a batch norm does not accept an empty input
        return
    norm = model.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm1d)
    for part in ("weight", "bias"):
        if getattr(norm, part) is not None:
            setattr(norm, part, _like(getattr(norm, part), getattr(norm, part)[keep]))
    for part in ("running_mean", "running_var"):
        if getattr(norm, part) is not None:
            setattr(norm, part, getattr(norm, part)[keep].clone())
    norm.num_features = int(keep.sum())
