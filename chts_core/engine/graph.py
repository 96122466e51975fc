"""Find the layer graph of a model, as far as it can be traced, and warn about layers that cannot be traced."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from chts_core.engine.forward import GUESSED
from chts_core.engine.kinds import Layer
from chts_core.engine.layers import Chosen, Selection, choose_layers, split_heads
from chts_core.engine.tracing import layer_graph
from chts_core.methods import Method
from chts_core.percolation import LayerGraph


class Found(NamedTuple):
    """The layers of a model that become sparse.

    chosen: the sparse layers, and why the other layers stay dense.
    parts: the networks that evolve separately, by name. They are the layers or their heads.
    graph: which layer feeds which.
    notes: warnings about output layers that are only guessed, and about the graph.
    """

    chosen: Chosen
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
    """The layers of a model that a Sparsifier with these arguments makes sparse."""
    if graph is not None and not isinstance(graph, LayerGraph):
        raise TypeError(
            f"graph is a {type(graph).__name__}; expected a LayerGraph. Pass graph=LayerGraph(chains=((first, second, "
            "...),)) with names of layers; in a chain, each layer feeds the next layer."
        )
    chosen = choose_layers(model, include, exclude)
    layers = chosen.layers
    graph, notes = find_graph(model, method, layers) if graph is None else (graph, [])
    guessed = [name for name, why in chosen.dense.items() if why == GUESSED]
    if guessed:
        notes = [
            f"{', '.join(guessed)} stays dense: it is registered last, so chts guesses that it gives the model's "
            "outputs. The forward method could not be traced. Use exclude to choose the layers that give the "
            "outputs and stay dense.",
            *notes,
        ]
    return Found(chosen, split_heads(layers, graph) if per_head else layers, graph, notes)


def find_graph(model: nn.Module, method: Method, layers: Mapping[str, Layer]) -> tuple[LayerGraph, list[str]]:
    """The layer graph of a model, and warnings for a user who has given no graph.

    Percolation uses only the layers that could be traced. The other layers evolve too, but their incomplete links stay.
    If no layer is known to feed another layer, percolation removes no link, and a note says so. This is not an
    error, because the rest of the method works.
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
    effect = "The links of these layers evolve, but incomplete links stay."
    if not joined and len(layers) > 1:
        effect = "Percolation removes no link, because chts found no layer of this model that feeds another layer."
    return graph, [
        f"Percolation leaves out {outside}, which could not be traced. {effect} If you know which layer feeds "
        "which, pass graph=LayerGraph(chains=((first, second, ...),)) with the names of all layers; "
        "chts.plan(...).graph has the layers that were found."
    ]


def kind_of(name: str) -> str:
    """The name of a layer, with a * instead of each number and instead of the gate of a recurrent layer."""
    return re.sub(r":[ifgorzn]$", ":*", re.sub(r"(?<![^.:])\d+(?![^.:])", "*", name))


def label_of(names: list[str]) -> str:
    """The name of a layer, or one label for several layers of the same kind.

    Such a label contains the parts that the names have in common, a * for each other part, and the number of layers.
    """
    if len(names) == 1:
        return names[0]
    parts = zip(*(re.split(r"([.:])", name) for name in names), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "*" for part in parts) + f" ({len(names)})"
