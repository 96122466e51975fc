"""Percolation: after a removal, also remove the links that it has cut off.

A hidden neuron without incoming or without outgoing links carries no signal: it is *inactive*. Its other links are
*incomplete*, and percolation removes them too. Their removal can make more neurons inactive, backward and forward
through the network (paper, Figure 2 c-d).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from chts_core.checks import check_mask
from chts_core.compiled.masks import LinkLists, any_along, ends, mask_of, positions


@dataclass(frozen=True)
class Attention:
    """The sparse layers of one attention block, by name; None for a dense layer.

    heads: number of query heads.
    key_heads: number of key and value heads. This number is smaller in grouped-query attention: query head h uses key
        head h · key_heads // heads.
    rotary: whether the attention block has rotary position embeddings. These mix neurons j and j + head_dim/2 of
        queries and keys, so the two neurons of a pair are both active or both inactive.
    """

    query: str | None
    key: str | None
    value: str | None
    output: str | None
    heads: int
    key_heads: int
    rotary: bool = False


@dataclass(frozen=True)
class LayerGraph:
    """A graph of the sparse layers: it says which layers feed each layer.

    chains: sequences of layer names: output i of each layer is input i of the next layer. The neurons of a convolution
        are its channels. A linear layer may read flattened channels, if all positions of a channel are next to each
        other. Two chains, such as (`gate`, `down`) and (`up`, `down`), may end in the same layer if the
        outputs of `gate` and `up` are multiplied.
    pairs: pairs of layers whose outputs are multiplied neuron by neuron, so that neuron i is active in both or in
        neither.
    attentions: the attention blocks. In each head, keys and queries form pairs, and values and output form chains.
    """

    chains: tuple[tuple[str, ...], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    attentions: tuple[Attention, ...] = ()

    def layers(self) -> set[str]:
        """Names of all layers in the graph."""
        names = {name for group in (*self.chains, *self.pairs) for name in group}
        for attention in self.attentions:
            names |= {attention.query or "", attention.key or "", attention.value or "", attention.output or ""}
        return names - {""}


@dataclass(frozen=True)
class _Side:
    """The side of a layer on which it meets another layer.

    A wire connects neurons of one layer with neurons of the other layer: all of them stay, or all of them are cut.
    `wires` contains the index of each neuron's wire.
    """

    layer: str
    dim: int  # the dimension along which the links of a neuron lie: 1 for the outputs of a layer, 0 for its inputs
    wires: Tensor


def percolate(masks: Mapping[str, Tensor], graph: LayerGraph) -> dict[str, Tensor]:
    """Remove the incomplete links of inactive neurons, until no incomplete link is left.

    Each sweep goes backward through the graph, then forward. It removes all links of neurons that have no incoming or
    no outgoing links. Sweeps repeat until nothing changes; a single chain needs one sweep. They skip the inputs of a
    chain's first layer and the outputs of its last layer, because these are not connected to another sparse layer.

    `masks` gives the Boolean mask of each layer, (out_features, in_features) or (out_channels, in_channels, *kernel). A
    channel of a convolution is a neuron. The result has new masks, each a subset of the given mask. Raises a ValueError
    if the graph contains a layer that has no mask, or if its layers do not fit together.
    """
    for name, mask in masks.items():
        check_mask(mask, f"mask {name!r}", max(2, mask.ndim) if isinstance(mask, Tensor) else 2)
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    links = LinkLists(_as_matrices(shapes), {name: positions(mask) for name, mask in masks.items()})
    percolate_links(links, shapes, graph)
    return {name: mask_of(links[name], shape) for name, shape in shapes.items()}


def percolate_links(links: LinkLists, shapes: Mapping[str, tuple[int, ...]], graph: LayerGraph) -> None:
    """Do the same as :func:`percolate`, but with lists of links by layer name, and change these lists in place.

    `shapes` are the shapes of the masks.
    """
    left = _Left(links, _as_matrices(shapes))
    junctions = _junctions(shapes, graph)
    changed = True
    while changed:
        cuts = [_cut(left, junction) for junction in (*reversed(junctions), *junctions)]
        changed = any(cuts)


def check_graph(shapes: Mapping[str, tuple[int, ...]], graph: LayerGraph) -> None:
    """Raise a ValueError if the graph contains a layer that has no mask, or if its layers do not fit together.

    Args:
        shapes: the shape of each layer's mask, by name.
    """
    _junctions(shapes, graph)


def _as_matrices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The shapes of flattened masks, (out_features, in_features)."""
    return {name: (shape[0], math.prod(shape[1:])) for name, shape in shapes.items()}


def active_neurons(masks: Mapping[str, Tensor], graph: LayerGraph) -> dict[str, Tensor]:
    """Which outputs of each layer are active (have incoming links after percolation), Boolean (out_features,)."""
    return {name: any_along(mask.flatten(1), 1) for name, mask in percolate(masks, graph).items()}


class _Left:
    """The links that are left, and which neurons on each side of a layer have links."""

    def __init__(self, links: LinkLists, shapes: Mapping[str, tuple[int, int]]) -> None:
        self.links = links
        self._shapes = shapes
        self._linked: dict[str, tuple[Tensor, Tensor]] = {}  # by layer: inputs, outputs

    def linked(self, side: _Side) -> Tensor:
        """Which neurons on this side of the layer have links, Boolean."""
        if side.layer not in self._linked:
            rows, columns = self._ends(side.layer)
            outputs, inputs = self._shapes[side.layer]
            alive = tuple(torch.zeros(size, dtype=torch.bool, device=rows.device) for size in (inputs, outputs))
            alive[0][columns], alive[1][rows] = True, True
            self._linked[side.layer] = alive[0], alive[1]
        return self._linked[side.layer][side.dim]

    def cut(self, side: _Side, stays: Tensor) -> None:
        """Keep only the links of the neurons for which `stays` is True."""
        neurons = self._ends(side.layer)[1 - side.dim]
        self.links[side.layer] = self.links[side.layer][stays[neurons]]
        self._linked.pop(side.layer, None)  # a layer that feeds itself is cut on both sides at once

    def _ends(self, layer: str) -> tuple[Tensor, Tensor]:
        return ends(self.links[layer], self._shapes[layer])


def _cut(left: _Left, junction: tuple[_Side, _Side]) -> bool:
    """If a wire has links on only one side of a junction, cut these links. Return whether there were such links."""
    linked = [left.linked(side) for side in junction]
    num_wires = max(int(side.wires.max()) for side in junction) + 1
    alive_wires = torch.ones(num_wires, dtype=torch.bool)
    for side, alive in zip(junction, linked, strict=True):
        alive_here = torch.zeros_like(alive_wires)
        alive_here[side.wires[alive.cpu()]] = True
        alive_wires &= alive_here
    changed = False
    for side, alive in zip(junction, linked, strict=True):
        stays = alive_wires[side.wires].to(alive.device)
        if bool((alive & ~stays).any()):
            left.cut(side, stays)
            changed = True
    return changed


def _junctions(shapes: Mapping[str, tuple[int, ...]], graph: LayerGraph) -> list[tuple[_Side, _Side]]:
    """The places where two layers meet, in the graph's order. Raises the error of :func:`check_graph`."""
    for name in sorted(graph.layers()):
        if name not in shapes:
            raise ValueError(
                f"the graph contains layer {name!r}, which has no mask; the masks are {', '.join(shapes)}."
            )
    _check_feeds(graph)

    junctions = []
    for chain in graph.chains:
        for before, after in pairwise(chain):
            outputs, inputs, positions_each = shapes[before][0], shapes[after][1], math.prod(shapes[after][2:])
            if len(shapes[after]) == 2 < len(shapes[before]) and inputs % outputs == 0:  # flattened channels
                inputs, positions_each = outputs, inputs // outputs
            if outputs != inputs:
                raise ValueError(
                    f"layer {before!r} has {outputs} outputs but {after!r}, next in its chain, has {inputs} inputs; "
                    "put two layers in a chain only if output i of the first is input i of the second."
                )
            wires = torch.arange(outputs)
            junctions.append((_Side(before, 1, wires), _Side(after, 0, wires.repeat_interleave(positions_each))))
    for first, second in graph.pairs:
        if shapes[first][0] != shapes[second][0]:
            raise ValueError(
                f"layers {first!r} and {second!r} are a pair but have {shapes[first][0]} and "
                f"{shapes[second][0]} outputs; pair only layers whose outputs are multiplied neuron by neuron."
            )
        wires = torch.arange(shapes[first][0])
        junctions.append((_Side(first, 1, wires), _Side(second, 1, wires)))
    for attention in graph.attentions:
        junctions += _attention_junctions(shapes, attention)
    return junctions


def _check_feeds(graph: LayerGraph) -> None:
    """Raise an error if a layer feeds two layers: chains cannot keep a neuron that only one of these layers needs."""
    feeding = [before for chain in graph.chains for before, _ in pairwise(chain)]
    feeding += [attention.value for attention in graph.attentions if attention.value and attention.output]
    for name in feeding:
        if feeding.count(name) > 1:
            raise ValueError(
                f"layer {name!r} feeds more than one layer in the graph; expected at most one. Leave this layer out of "
                "the chains."
            )


def _attention_junctions(shapes: Mapping[str, tuple[int, ...]], attention: Attention) -> Iterator[tuple[_Side, _Side]]:
    heads, key_heads = attention.heads, attention.key_heads
    if heads < 1 or key_heads < 1 or heads % key_heads:
        raise ValueError(
            f"an attention block has {heads} heads and {key_heads} key heads; expected heads to be a multiple of key "
            "heads, both at least 1."
        )

    def neurons(layer: str, dim: int, num_heads: int) -> int:
        count = shapes[layer][1 - dim]
        if count % num_heads:
            raise ValueError(
                f"layer {layer!r} of an attention block has {count} neurons; expected a multiple of its "
                f"{num_heads} heads."
            )
        return count // num_heads

    def side(layer: str, dim: int, num_heads: int, wires_of_head: Callable[[int], int]) -> _Side:
        head_dim = neurons(layer, dim, num_heads)
        neuron = torch.arange(num_heads * head_dim)
        key_head = neuron // head_dim // (num_heads // key_heads)
        wires = wires_of_head(head_dim)
        return _Side(layer, dim, key_head * wires + neuron % head_dim % wires)

    def planes(head_dim: int) -> int:
        if attention.rotary and head_dim % 2:
            raise ValueError(
                f"an attention block with rotary positions has {head_dim} neurons per head; expected an even number, "
                "because neurons are rotated in pairs."
            )
        return head_dim // 2 if attention.rotary else head_dim

    pairs = []
    if attention.query and attention.key:
        pairs.append((side(attention.query, 1, heads, planes), side(attention.key, 1, key_heads, planes)))
    if attention.value and attention.output:
        pairs.append((side(attention.value, 1, key_heads, int), side(attention.output, 0, heads, int)))
    for first, second in pairs:
        if int(first.wires.max()) != int(second.wires.max()):
            raise ValueError(
                f"layers {first.layer!r} and {second.layer!r} of an attention block with {heads} heads and {key_heads} "
                "key heads have heads of different widths; expected equal widths. Check the numbers of heads."
            )
        yield first, second
