"""The links that a run starts from: drawn at random, given by the user, or the links with the largest weights."""

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from chts_core.budget import Budget
from chts_core.checks import check_mask, check_same_shape
from chts_core.choices import Correlated, ScaleFree, Topology
from chts_core.compiled.masks import count
from chts_core.engine.kinds import Layer
from chts_core.engine.sharding import full_tensor
from chts_core.engine.warm_start import Start, largest
from chts_core.percolation import LayerGraph, check_graph
from chts_core.topology import correlated


def generator_of(seed: int, part: str, device: torch.device) -> torch.Generator:
    """A generator for one part only, so that the links of this part do not depend on the other parts."""
    digest = hashlib.blake2b(f"{seed}:{part}".encode(), digest_size=8).digest()
    where = device if device.type == "cuda" else torch.device("cpu")
    return torch.Generator(where).manual_seed(int.from_bytes(digest, "big") >> 1)


def with_correlation(topology: Topology, correlation: Tensor | None, budget: Budget, start: Start) -> Topology:
    """The topology that a run starts from. It uses the correlations of the model's inputs if they are given.

    Raises:
        ValueError: if correlations are given although `start` or the topology does not use them, or if they do not fit
            the inputs of any sparse layer.
    """
    if correlation is None:
        return topology
    if start != "method":
        raise ValueError(f"correlation is given, but start is {start!r}; leave one of them out.")
    if not isinstance(topology, Correlated):
        raise ValueError(
            f"correlation is given, but the method starts from {topology!r}; leave correlation out, or use a method "
            "with topology=Correlated()."
        )
    inputs = {math.prod(shape[1:]) for shape in budget.shapes.values()}
    if correlation.ndim and len(correlation) not in inputs:
        raise ValueError(
            f"correlation has {len(correlation)} features, but the sparse layers have "
            f"{', '.join(map(str, sorted(inputs)))} inputs; give the correlation of the model's training inputs."
        )
    return partial(correlated, correlation=correlation)


def first_masks(
    start: Start,
    given: Mapping[str, Tensor] | None,
    topology: Topology,
    layers: Mapping[str, Layer],
    parts: Mapping[str, Layer],
    graph: LayerGraph,
    weights: Mapping[str, Tensor],
    budget: Budget,
    generators: Mapping[str, torch.Generator],
) -> dict[str, Tensor]:
    """The masks that a run starts from, by the name of the weight.

    Args:
        start: "method" for the topology, "magnitude" for the largest weights, "dense" for all weights.
        given: masks from the user, by part, which replace the masks of the topology.
        topology: the method's topology, with the correlations if it needs them.
        layers, parts: the layers and parts of the model, by name.
        graph: which layer feeds which.
        weights: the weights, by name.
        budget: gives the number of links of each part.
        generators: a generator for each part, by name.

    Raises:
        TypeError, ValueError: if a mask belongs to no part, or has a wrong shape or number of links; if masks are given
            although `start` is not "method".
    """
    links = budget.links(0)
    _check_given(start, given, parts)
    given = given or {}
    trained = {name: full_tensor(weight.detach()) for name, weight in weights.items() if start != "method"}
    # A packed weight may have rows that belong to no sparse layer. They stay dense.
    masks = {name: torch.ones(weight.shape, dtype=torch.bool, device=weight.device) for name, weight in weights.items()}
    by_part = {name: part.matrix(masks[part.parameter]) for name, part in parts.items()}
    for name, here in by_part.items():
        part = parts[name]
        if start != "method":
            mask, source = largest(part.matrix(trained[part.parameter]), links[name]), f"start {start!r}"
        elif name in given:
            mask, source = given[name], "initial_masks"
            if name == part.parameter:  # this part is the whole weight and has its shape
                here = masks[name]
        else:
            mask = topology(*part.shape, links[name] / here.numel(), generator=generators[name])
            source = f"topology {budget.method.topology!r}"
        check_mask(mask, f"initial mask of {name!r}", here.ndim)
        check_same_shape(mask, here, f"initial mask of {name!r}")
        found = count(mask)
        if found != links[name]:
            raise ValueError(f"{source} gave layer {name!r} {found} links; expected exactly {links[name]}.")
        if hasattr(topology, "check_mask"):
            topology.check_mask(mask.reshape(part.shape), f"the initial mask of {name!r}")
        here.copy_(mask)
    if start == "method" and isinstance(topology, ScaleFree):
        by_layer = {name: layer.matrix(masks[layer.parameter]) for name, layer in layers.items()}
        drawn = {name: mask for name, mask in by_part.items() if name not in given and not parts[name].kernel}
        check_graph({name: layer.full_shape for name, layer in layers.items()}, graph)
        _place(topology, drawn, by_layer, graph, generators)
    return masks


def _check_given(start: Start, given: Mapping[str, Tensor] | None, parts: Mapping[str, Layer]) -> None:
    if not isinstance(given, Mapping | None):
        raise TypeError(
            f"initial_masks is {given!r}; expected masks in a dictionary by layer name. To start from the largest "
            'weights, pass start="magnitude".'
        )
    if start != "method" and given is not None:
        raise ValueError(f"start is {start!r} and initial_masks is given; leave one of them out.")
    unknown = (given or {}).keys() - parts.keys()
    if unknown:
        raise ValueError(
            f"initial_masks has masks of {', '.join(sorted(unknown))}; expected only masks of the sparse layers "
            f"{', '.join(parts)}."
        )


def _place(
    topology: ScaleFree,
    by_part: Mapping[str, Tensor],
    by_layer: Mapping[str, Tensor],
    graph: LayerGraph,
    generators: Mapping[str, torch.Generator],
) -> None:
    """Fit the layers of a scale-free topology to the layers that feed them, in place.

    Convolutions, and layers that receive attention values, do not change.

    Args:
        by_part: the masks to fit.
        by_layer: the same masks, by layer.
    """
    feeds = {after: before for chain in graph.chains for before, after in pairwise(chain)}
    of_values = {attention.output for attention in graph.attentions if attention.value}
    for name, here in by_part.items():
        if name not in of_values:
            before = by_layer[feeds[name]] if name in feeds else None
            here.copy_(topology.placed(here, before, generator=generators[name]))
