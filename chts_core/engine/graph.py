"""The layer graph of a model, as far as it can be traced, with words for the rest."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from chts_core.engine.layers import Layer, Selection, sparse_layers, split_heads
from chts_core.engine.tracing import layer_graph
from chts_core.methods import Method
from chts_core.percolation import LayerGraph


class Found(NamedTuple):
    """The layers of a model that become sparse.

    layers: by name.
    parts: what evolves by itself, by name: the layers, or heads of them.
    graph: which layers feed each other.
    notes: what to say of the graph.
    """

    layers: dict[str, Layer]
    parts: dict[str, Layer]
    graph: LayerGraph
    notes: list[str]


def find_layers(
    model: nn.Module,
    method: Method,
    include: Selection | None,
    exclude: Selection | None,
    graph: LayerGraph | None,
    per_head: bool,
) -> Found:
    """The sparse layers of a model, by the settings of the Sparsifier."""
    layers = sparse_layers(model, include, exclude)
    graph, notes = find_graph(model, method, layers) if graph is None else (graph, [])
    return Found(layers, split_heads(layers, graph) if per_head else layers, graph, notes)


def find_graph(model: nn.Module, method: Method, layers: Mapping[str, Layer]) -> tuple[LayerGraph, list[str]]:
    """The layer graph of a model, and what to say of it to whoever has given none.

    A method that percolates goes by what is known: layers that could not be traced evolve all the same, and their
    incomplete links stay. Where no two layers are known to feed each other it percolates nothing, which is said too and
    is no error: all else of the method stays as it is.
    """
    graph, unknown = layer_graph(model, layers)
    if not unknown or not method.removal.percolate:
        return graph, []
    kinds: dict[str, list[str]] = {}
    for name in layers:
        if name in unknown:
            kinds.setdefault(kind_of(name), []).append(name)
    outside = ", ".join(map(label_of, kinds.values()))
    joined = any(len(chain) > 1 for chain in graph.chains) or graph.pairs or graph.attentions
    effect = "Links there evolve, but none is cut for being incomplete."
    if not joined and len(layers) > 1:
        effect = "So it cuts nothing: no two layers of this model are known to feed each other."
    return graph, [
        f"Percolation leaves out {outside}, which could not be traced. {effect} Where you know which layers feed each "
        "other, pass graph=LayerGraph(chains=((first, second, ...),)) with all of them; chts.plan(...).graph has those "
        "that were found."
    ]


def kind_of(name: str) -> str:
    """The name of a layer with * for its numbers."""
    return re.sub(r"(?<![^.:])\d+(?![^.:])", "*", name)


def label_of(names: list[str]) -> str:
    """A layer's name; of several of one kind what their names share, * for the rest, and how many there are."""
    if len(names) == 1:
        return names[0]
    parts = zip(*(re.split(r"([.:])", name) for name in names), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "*" for part in parts) + f" ({len(names)})"
