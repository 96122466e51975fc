"""The sparse layers of a model: their weights and masks, and what is asked of all of them together."""

from collections.abc import Iterator, Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

from chts_core.compiled.masks import count
from chts_core.engine.distributed import Ranks
from chts_core.engine.layers import Layer
from chts_core.engine.linear import SparseLinear, convertible
from chts_core.engine.weights import LinkWeight, PastWeights, Weight, store_links
from chts_core.percolation import LayerGraph, active_neurons, percolate


class SparseNetwork:
    """Masks have one of three keys: a *weight*, a *layer* of the graph, or a *part* that evolves by itself.

    Often the three are the same. A packed weight has several layers (queries, keys and values), and where heads evolve
    by themselves a layer has several parts. The masks of layers and parts are views of those of the weights.

    Args:
        model: not wrapped.
        layers, parts: by name.
        graph: which layers feed each other.
        weights: by the name of the parameter; those of a layer that comes to store its links are replaced here.
        sparse: the names of the weights that are not dense at the end.
        ranks: the processes that train the model together.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, Layer],
        parts: dict[str, Layer],
        graph: LayerGraph,
        weights: dict[str, Weight],
        sparse: list[str],
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.layers = layers
        self.parts = parts
        self.graph = graph
        self.weights = weights
        self.sparse = sparse
        self.ranks = ranks
        self._owners = ranks.owners({name: part.shape[0] * part.shape[1] for name, part in parts.items()})
        self.percolated(self.masks)  # a graph that does not fit is refused now, not mid-run
        ranks.check_same(self.masks)

    @property
    def masks(self) -> dict[str, Tensor]:
        """By weight; not to be changed."""
        return {name: weight.mask for name, weight in self.weights.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Of the weights."""
        return {name: weight.shape for name, weight in self.weights.items()}

    @property
    def device_type(self) -> str:
        """Of the first weight."""
        return next(iter(self.weights.values())).parameter.device.type

    def by_layer(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the masks of weights, by layer."""
        return {name: layer.rows(masks[layer.parameter]) for name, layer in self.layers.items()}

    def by_part(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the masks of weights, by part."""
        return {name: part.rows(masks[part.parameter]) for name, part in self.parts.items()}

    def parts_by_weight(self) -> Iterator[tuple[str, list[tuple[str, Layer]]]]:
        """The parts of each weight; those of one follow each other."""
        for parameter, parts in groupby(self.parts.items(), key=lambda part: part[1].parameter):
            yield parameter, list(parts)

    def links(self) -> dict[str, int]:
        """Number of links by part."""
        return {name: count(mask) for name, mask in self.by_part(self.masks).items()}

    def density(self, masks: Mapping[str, Tensor]) -> float:
        """Share of the links that exist in masks of weights."""
        return share(self.by_part(masks))

    def weight_of(self, part: str) -> Weight:
        """The weight that has a part."""
        return self.weights[self.parts[part].parameter]

    def is_frozen(self, part: str) -> bool:
        """Whether the weight of a part does not train."""
        return not self.weight_of(part).parameter.requires_grad

    def is_mine(self, part: str) -> bool:
        """Whether this process works on a part."""
        return self._owners[part] == self.ranks.rank

    def share_out(self, masks: Mapping[str, Tensor]) -> None:
        """Send all processes what each has made of the masks of its parts, in place; a collective."""
        self.ranks.share(self.by_part(masks), self._owners)

    def share_generators(self, generators: Mapping[str, torch.Generator]) -> None:
        """Let all processes go on with the same random numbers, as each has drawn for its own parts; a collective."""
        if self.ranks.size > 1:
            states = {name: generator.get_state() for name, generator in generators.items()}
            self.ranks.share(states, self._owners)
            for name, state in states.items():
                generators[name].set_state(state)

    def percolated(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New masks by layer, without the links that are incomplete (:func:`chts_core.percolation.percolate`)."""
        return percolate(self.by_layer(masks), self.graph)

    def active(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which output neurons are active, by layer (:func:`chts_core.percolation.active_neurons`)."""
        return active_neurons(self.by_layer(masks), self.graph)

    def active_share(self, masks: Mapping[str, Tensor]) -> dict[str, float]:
        """Share of its output neurons that are active (ANP), by part."""
        by_weight: dict[str, Tensor] = {}
        for name, neurons in self.active(masks).items():
            layer = self.layers[name]
            outputs = masks[layer.parameter].shape[1 if layer.transposed else 0]
            everything = by_weight.setdefault(layer.parameter, torch.zeros(outputs, dtype=torch.bool))
            everything[layer.outputs] = neurons.cpu()
        return {
            name: float(by_weight[part.parameter][part.outputs].float().mean()) for name, part in self.parts.items()
        }

    def past(self, part: str, mask: Tensor, past_weights: Mapping[str, PastWeights]) -> tuple[Tensor, Tensor]:
        """Missing links of a part that existed before: where in the flattened part, and the weights they had."""
        layer = self.parts[part]
        past = past_weights[layer.parameter]
        outputs, inputs = layer.ends(past.positions, self.weight_of(part).shape[1])
        missing = (outputs >= 0) & (outputs < layer.shape[0])
        missing[missing.clone()] = ~mask[outputs[missing], inputs[missing]]
        return (outputs * layer.shape[1] + inputs)[missing], past.values[missing]

    def empty_links(self, masks: Mapping[str, Tensor]) -> int:
        """Number of links whose weight is exactly zero."""
        return sum(
            count((weight.dense() == 0) & masks[name].to(weight.parameter.device))
            for name, weight in self.weights.items()
        )

    def stored(self) -> dict[str, SparseLinear]:
        """The layers that store only their links, by the name of their weight."""
        return {name: weight.layer for name, weight in self.weights.items() if isinstance(weight, LinkWeight)}

    def clear(self, optimizer: torch.optim.Optimizer, execution: str) -> None:
        """Zero what there is outside the masks; let layers store only their links where that is wanted and can be."""
        for name in self.sparse:
            weight = self.weights[name]
            if execution != "masked" and convertible(self.model, name):
                self.weights[name] = store_links(self.model, optimizer, name, weight.mask, execution)
            else:
                weight.clear_absent(keeps_zeros=False)


def share(masks: Mapping[str, Tensor]) -> float:
    """Share of the elements of masks that are true."""
    return sum(count(mask) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
