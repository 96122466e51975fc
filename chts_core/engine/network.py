"""The sparse layers of a model: their weights and masks, and operations on all of them together."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

from chts_core.compiled.masks import LinkLists, among, count, ends, mask_of, positions
from chts_core.engine.distributed import Ranks
from chts_core.engine.kinds import Layer, convertible
from chts_core.engine.linear import SparseLinear
from chts_core.engine.weights import LinkWeight, PastWeights, Weight, count_bits, store_links, unpack_bits
from chts_core.percolation import LayerGraph, check_graph, percolate_links


class SparseNetwork:
    """The sparse layers of a model, with their weights and masks.

    There is a mask for each *weight*, each *layer* of the graph, and each *part* that evolves separately.

    Often, the weight, the layer and the part are the same. A packed weight has several layers (queries, keys and
    values), and if heads evolve separately, a layer has several parts. The masks of layers and parts are views of the
    masks of weights.

    An update uses lists of link positions, so its memory depends on the number of links. Scores of missing links need
    whole masks, and so does training in several processes.

    Args:
        model: the model without wrappers.
        layers, parts: the layers and the parts, by name.
        graph: which layer feeds which.
        weights: the weights, by the name of the parameter. When a layer starts to store only its links, a
            :class:`chts_core.engine.weights.LinkWeight` replaces its weight in this dictionary.
        sparse: the names of the weights that are not dense at the end of the run.
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
        # Refuse a graph that does not fit the layers. Do this here, not later during the run.
        check_graph({name: layer.full_shape for name, layer in layers.items()}, graph)
        if ranks.size > 1:
            ranks.check_same(self.lists())

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of each weight, under the name of the weight; do not change the masks."""
        return {name: weight.mask for name, weight in self.weights.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights."""
        return {name: weight.shape for name, weight in self.weights.items()}

    @property
    def device_type(self) -> str:
        """The device type of the first weight."""
        return next(iter(self.weights.values())).parameter.device.type

    def by_layer(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each layer, a view of its weight's mask, in the full shape of the layer."""
        return {
            name: layer.matrix(masks[layer.parameter]).unflatten(1, layer.full_shape[1:])
            for name, layer in self.layers.items()
        }

    def by_part(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each part, a view of its weight's mask, as a matrix (out_features, in_features)."""
        return {name: part.matrix(masks[part.parameter]) for name, part in self.parts.items()}

    def with_weights(self, masks: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each part of each sparse weight: its weight and its mask, as matrices (out_features, in_features)."""
        for parameter, parts in self.parts_by_weight():
            if parameter in self.sparse:
                weight = self.weights[parameter].dense()
                for _, part in parts:
                    yield part.matrix(weight), part.matrix(masks[parameter])

    def parts_by_weight(self) -> Iterator[tuple[str, list[tuple[str, Layer]]]]:
        """Each weight with its parts, which are consecutive entries of `parts`."""
        for parameter, parts in groupby(self.parts.items(), key=lambda part: part[1].parameter):
            yield parameter, list(parts)

    def num_links(self) -> dict[str, int]:
        """The number of links of each part."""
        return {name: self.weight_of(name).count(part) for name, part in self.parts.items()}

    def positions(self, part: str) -> Tensor:
        """The links of a part, as positions in the flattened part (int64, in ascending order)."""
        return self.weight_of(part).positions(self.parts[part])

    def lists(self) -> LinkLists:
        """The links of all parts."""
        shapes = {name: part.shape for name, part in self.parts.items()}
        return LinkLists(shapes, {name: self.positions(name) for name in self.parts})

    def in_weight(self, parameter: str, links: Mapping[str, Tensor]) -> Tensor:
        """All given links that are in one weight, as positions in the flattened weight (int64, in ascending order).

        Args:
            parameter: the name of the weight.
            links: the links of each part, as positions in the flattened part.
        """
        parts = self._parts_of(parameter)
        whole = torch.cat([part.in_parameter(links[name]) for name, part in parts])
        return whole if len(parts) == 1 and parts[0][1].keeps_order else whole.sort().values

    def gone(self, parameter: str, survivors: Mapping[str, Tensor]) -> Tensor:
        """The links of a weight that are not among the survivors, as :meth:`in_weight` returns them."""
        lists = {name: self.positions(name) for name, _ in self._parts_of(parameter)}
        return self.in_weight(parameter, {name: links[~among(links, survivors[name])] for name, links in lists.items()})

    def _parts_of(self, parameter: str) -> list[tuple[str, Layer]]:
        return [(name, part) for name, part in self.parts.items() if part.parameter == parameter]

    def density(self) -> float:
        """The number of links, divided by the number of possible links."""
        return self.share(self.num_links())

    def share(self, counts: Mapping[str, int]) -> float:
        """The density of a network with the given number of links in each part."""
        return sum(counts.values()) / sum(part.shape[0] * part.shape[1] for part in self.parts.values())

    def counts(self, packed: Mapping[str, Tensor]) -> dict[str, int]:
        """The number of links of each part in the given masks of the weights, which are stored as packed bits."""
        found = {}
        for parameter, parts in self.parts_by_weight():
            shape, bits = self.weights[parameter].shape, packed[parameter]
            if len(parts) == 1 and math.prod(parts[0][1].shape) == math.prod(shape):
                found[parts[0][0]] = count_bits(bits)
                continue
            mask = unpack_bits(bits, shape)
            found |= {name: count(part.matrix(mask)) for name, part in parts}
        return found

    def weight_of(self, part: str) -> Weight:
        """The weight that contains a part."""
        return self.weights[self.parts[part].parameter]

    def is_frozen(self, part: str) -> bool:
        """Whether the weight of a part is not trained."""
        return not self.weight_of(part).parameter.requires_grad

    def is_mine(self, part: str) -> bool:
        """Whether this process works on a part."""
        return self._owners[part] == self.ranks.rank

    def share_out(self, links: LinkLists) -> None:
        """Send the links of each part from the process that works on it to all processes, and write them into `links`.

        This is a collective operation: all processes must call it.
        """
        if self.ranks.size > 1:
            masks = {name: mask_of(links[name], part.shape) for name, part in self.parts.items()}
            self.ranks.share(masks, self._owners)
            links.update({name: positions(mask) for name, mask in masks.items()})

    def share_generators(self, generators: Mapping[str, torch.Generator]) -> None:
        """Send the generator state of each part from the process that works on it to all processes.

        This is a collective operation: all processes must call it.
        """
        if self.ranks.size > 1:
            states = {name: generator.get_state() for name, generator in generators.items()}
            self.ranks.share(states, self._owners)
            for name, state in states.items():
                generators[name].set_state(state)

    def percolated(self, links: LinkLists) -> LinkLists:
        """The links of each part, without incomplete links (:func:`chts_core.percolation.percolate`)."""
        left = self._percolated_layers(links.__getitem__)
        percolated = LinkLists({name: part.shape for name, part in self.parts.items()})
        for name, (layer, offset) in self._places().items():
            whole = left[layer]
            bounds = torch.tensor([offset, offset + math.prod(self.parts[name].shape)], device=whole.device)
            first, last = torch.searchsorted(whole, bounds).tolist()
            percolated[name] = whole[first:last] - offset
        return percolated

    def active(self, links: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Which output neurons are active, by layer (:func:`chts_core.percolation.active_neurons`).

        Args:
            links: a function that returns the links of each part, as :meth:`positions` does.
        """
        left = self._percolated_layers(links)
        neurons = {}
        for name, layer in self.layers.items():
            neurons[name] = torch.zeros(layer.shape[0], dtype=torch.bool)
            neurons[name][ends(left[name], layer.shape)[0].cpu()] = True
        return neurons

    def _percolated_layers(self, links: Callable[[str], Tensor]) -> LinkLists:
        """The links of each layer, without incomplete links."""
        parts: dict[str, list[tuple[str, int]]] = {name: [] for name in self.layers}
        for name, (layer, offset) in self._places().items():
            parts[layer].append((name, offset))
        whole = LinkLists({name: layer.shape for name, layer in self.layers.items()})
        for layer, own in parts.items():
            whole[layer] = torch.cat([links(name) + offset for name, offset in own])
        percolate_links(whole, {name: layer.full_shape for name, layer in self.layers.items()}, self.graph)
        return whole

    def _places(self) -> dict[str, tuple[str, int]]:
        """The layer that each part is in, and where the part begins in the flattened layer."""
        places = {}
        for name, part in self.parts.items():
            layer = self.layers.get(name) or self.layers[name.rpartition(":")[0]]  # a head has the name "layer:head"
            rows = (part.offset - layer.offset) // layer.strides[0]
            places[name] = layer.name, rows * part.shape[1]
        return places

    def active_share(self, links: Callable[[str], Tensor]) -> dict[str, float]:
        """For each part, the share of its output neurons that are active; see :meth:`active`."""
        active = self.active(links)
        shares = {}
        for name, (layer, offset) in self._places().items():
            part = self.parts[name]
            first = offset // part.shape[1]
            shares[name] = float(active[layer][first : first + part.shape[0]].float().mean())
        return shares

    def past(self, part: str, links: Tensor, past_weights: Mapping[str, PastWeights]) -> tuple[Tensor, Tensor]:
        """The links that a part has lost, as positions in the flattened part, and their last weights.

        Args:
            links: the existing links, as :meth:`positions` returns them.
        """
        layer = self.parts[part]
        past = past_weights[layer.parameter]
        mine, where = layer.in_layer(past.positions)
        where, order = where.sort()
        missing = ~among(where, links)
        return where[missing], past.values[mine][order][missing]

    def empty_links(self, packed: Mapping[str, Tensor]) -> int:
        """The number of links in the given masks, stored as packed bits, whose weight is exactly zero."""
        return sum(
            weight.num_zero(positions(unpack_bits(packed[name], weight.shape)).to(weight.parameter.device))
            for name, weight in self.weights.items()
        )

    def stored(self) -> dict[str, SparseLinear]:
        """The layers that store only their links, by the name of their weight."""
        return {name: weight.layer for name, weight in self.weights.items() if isinstance(weight, LinkWeight)}

    def set_crossovers(self, crossovers: Mapping[str, float | None]) -> None:
        """Give the crossover densities of a saved run to the layers that store only their links.

        These layers then use the same kernels as in the saved run.
        """
        for name, layer in self.stored().items():
            layer.crossover = crossovers.get(name, layer.crossover)

    def clear(self, optimizer: torch.optim.Optimizer, execution: str) -> None:
        """Set everything outside the masks to zero.

        If `execution` is not "masked", each layer that can become a :class:`chts_core.engine.linear.SparseLinear`
        becomes one, and stores only its links from now on.
        """
        for name in self.sparse:
            weight = self.weights[name]
            if execution != "masked" and convertible(self.model, name):
                self.weights[name] = store_links(self.model, optimizer, name, weight.mask, execution)
            else:
                weight.clear_absent(keeps_zeros=False)
