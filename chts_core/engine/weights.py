"""Two ways to store the links of a weight: a dense weight with a mask, or a list of the existing links."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from chts_core.compiled import masks
from chts_core.engine.kinds import Layer
from chts_core.engine.linear import SparseLinear
from chts_core.engine.optimizer_state import first_value, moments
from chts_core.engine.sharding import full_tensor, local_rows, local_shard
from chts_core.removal import WeightedLinks


class Weight(Protocol):
    """A weight with links that evolve, and the optimizer's state for these links."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the optimizer holds."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight, as a dense tensor."""
        ...

    @property
    def mask(self) -> Tensor:
        """The mask, Boolean, contiguous and of the same shape as the weight; do not change it."""
        ...

    def count(self, part: Layer) -> int:
        """Number of links of a part."""
        ...

    def positions(self, part: Layer) -> Tensor:
        """Positions of a part's links in the flattened part, int64 in ascending order."""
        ...

    def links(self, part: Layer, gradients: bool) -> WeightedLinks:
        """The links of a part.

        Args:
            gradients: whether to include their gradients, if there are any.
        """
        ...

    def bits(self) -> Tensor:
        """The mask packed into bits (:func:`pack_bits`)."""
        ...

    def dense(self) -> Tensor:
        """The weight with zeros where there is no link; do not change it."""
        ...

    def num_zero(self, positions: Tensor) -> int:
        """How many of the links at these positions of the flattened weight tensor have the value 0.

        Args:
            positions: int64 in ascending order.
        """
        ...

    def is_finite(self) -> bool:
        """Whether the weights of all links on this rank are finite."""
        ...

    def scale(self, part: Layer, factor: float) -> None:
        """Multiply the weights of a part by a factor."""
        ...

    def rewire(self, removed: Tensor, regrown: Tensor) -> None:
        """Remove and regrow links. Regrown links start from zero; links that stay keep their values and their state.

        Args:
            removed, regrown: positions in the flattened weight, int64 in ascending order; a link may be in both.
        """
        ...

    def weights_at(self, positions: Tensor) -> Tensor:
        """Weights of the links at these positions in the flattened weight, int64 in ascending order."""
        ...

    def set_weights(self, positions: Tensor, weights: Tensor) -> None:
        """Set the weights of the links at these positions in the flattened weight."""
        ...

    def load_mask(self, mask: Tensor) -> None:
        """Replace the links with the links of a saved run. The saved weights and optimizer state are already loaded."""
        ...

    def clear_absent(self, keeps_zeros: bool) -> None:
        """Set the weights of absent links, their gradients and their optimizer state to zero.

        Args:
            keeps_zeros: whether the optimizer keeps a zero state at zero if the link has no gradient. If so, only the
                weight is set to zero.
        """
        ...


class MaskedWeight:
    """A dense weight with zeros where the mask has no link. The optimizer's state has zeros in the same places.

    If `fully_shard` has sharded the weight, this rank has the whole mask, but only some rows of the weight. Reading the
    whole weight is then a collective operation.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.parameter = parameter
        self.shape = tuple(parameter.shape)
        self._mask = mask
        self._optimizer = optimizer
        self._rows = local_rows(parameter)

    @property
    def mask(self) -> Tensor:
        """See :class:`Weight`."""
        return self._mask

    @property
    def local_mask(self) -> Tensor:
        """The rows of the mask that belong to this rank's share of the weight."""
        return self._mask[self._rows]

    def count(self, part: Layer) -> int:
        """See :class:`Weight`."""
        return masks.count(part.matrix(self.mask))

    def positions(self, part: Layer) -> Tensor:
        """See :class:`Weight`."""
        return masks.positions(part.matrix(self.mask))

    def links(self, part: Layer, gradients: bool) -> WeightedLinks:
        """See :class:`Weight`."""
        outputs, inputs = masks.pairs(part.matrix(self._mask))
        gradient = self.parameter.grad if gradients else None
        return WeightedLinks(
            outputs,
            inputs,
            part.matrix(full_tensor(self.parameter.detach()))[outputs, inputs],
            None if gradient is None else part.matrix(full_tensor(gradient))[outputs, inputs],
            part.shape,
        )

    def bits(self) -> Tensor:
        """See :class:`Weight`."""
        return pack_bits(self.mask)

    def dense(self) -> Tensor:
        """See :class:`Weight`."""
        return full_tensor(self.parameter.detach())

    def num_zero(self, positions: Tensor) -> int:
        """See :class:`Weight`."""
        return masks.count(self.weights_at(positions) == 0)

    def is_finite(self) -> bool:
        """See :class:`Weight`."""
        return bool((local_shard(self.parameter.detach()).isfinite() | ~self.local_mask).all())

    def scale(self, part: Layer, factor: float) -> None:
        """See :class:`Weight`."""
        precise = torch.promote_types(self.parameter.dtype, torch.float32)
        factors = torch.ones(self.shape, dtype=precise, device=self._mask.device)
        part.matrix(factors).fill_(factor)
        local_shard(self.parameter.data).mul_(factors[self._rows])

    def rewire(self, removed: Tensor, regrown: Tensor) -> None:
        """See :class:`Weight`."""
        flat = self._mask.view(-1)
        flat[removed] = False
        for tensor in self._tensors():
            zero_absent(tensor, self.local_mask)
        flat[regrown] = True
        for key, tensor in moments(self._optimizer, self.parameter):
            if start := first_value(self._optimizer, self.parameter, key):
                local_shard(tensor)[self._local_ends(regrown)] = start

    def weights_at(self, positions: Tensor) -> Tensor:
        """See :class:`Weight`."""
        return self.dense().flatten()[positions]

    def set_weights(self, positions: Tensor, weights: Tensor) -> None:
        """See :class:`Weight`."""
        mine = self._is_local(positions)
        local_shard(self.parameter.data)[self._local_ends(positions)] = weights[mine]

    def load_mask(self, mask: Tensor) -> None:
        """See :class:`Weight`."""
        self._mask.copy_(mask)
        self.clear_absent(keeps_zeros=False)

    def clear_absent(self, keeps_zeros: bool) -> None:
        """See :class:`Weight`."""
        for tensor in (local_shard(self.parameter.data),) if keeps_zeros else self._tensors():
            zero_absent(tensor, self.local_mask)

    def _is_local(self, positions: Tensor) -> Tensor:
        """Which of the links are on this rank."""
        rows = positions // math.prod(self.shape[1:])
        return rows.ge(self._rows.start) & rows.lt(self._rows.stop)

    def _local_ends(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Where the links on this rank are in its share of the weight: one tensor of indices for each dimension."""
        mine = positions[self._is_local(positions)] - self._rows.start * math.prod(self.shape[1:])
        return torch.unravel_index(mine, self.local_mask.shape)

    def _tensors(self) -> Iterator[Tensor]:
        """This rank's share of the weight, of its gradient if it has one, and of each state of the same shape."""
        yield local_shard(self.parameter.data)
        if self.parameter.grad is not None:
            yield local_shard(self.parameter.grad)
        for _, tensor in moments(self._optimizer, self.parameter):
            yield local_shard(tensor)


class LinkWeight:
    """The weight of a layer that stores only its links (:class:`chts_core.engine.linear.SparseLinear`)."""

    def __init__(self, layer: SparseLinear, optimizer: torch.optim.Optimizer) -> None:
        self.layer = layer
        self.shape = (layer.out_features, layer.in_features)
        self._optimizer = optimizer

    @property
    def parameter(self) -> nn.Parameter:
        """See :class:`Weight`."""
        return self.layer.values

    @property
    def mask(self) -> Tensor:
        """See :class:`Weight`."""
        return self.layer.mask

    def count(self, part: Layer) -> int:
        """See :class:`Weight`."""
        own = self._range(part)
        return int(own.stop - own.start)

    def positions(self, part: Layer) -> Tensor:
        """See :class:`Weight`."""
        found: Tensor = self.layer.links.positions()[self._range(part)]
        return found - part.first_row * self.shape[1]

    def links(self, part: Layer, gradients: bool) -> WeightedLinks:
        """See :class:`Weight`."""
        own = self._range(part)
        links = self.layer.links
        values, gradient = self.parameter.detach()[own], self.parameter.grad if gradients else None
        return WeightedLinks(
            links.outputs()[own] - part.first_row,
            links.col_indices[own].long(),
            values,
            None if gradient is None else gradient[own],
            part.shape,
        )

    def bits(self) -> Tensor:
        """See :class:`Weight`."""
        bits = torch.zeros(math.ceil(math.prod(self.shape) / 8), dtype=torch.uint8)
        set_bits(bits, self.layer.links.positions())
        return bits

    def dense(self) -> Tensor:
        """See :class:`Weight`."""
        return self.layer.weight.detach()

    def num_zero(self, positions: Tensor) -> int:
        """See :class:`Weight`."""
        weighted = self.layer.links.positions()[self.parameter.detach() != 0]
        return len(positions) - masks.count(masks.among(positions, weighted))

    def is_finite(self) -> bool:
        """See :class:`Weight`."""
        return bool(self.parameter.detach().isfinite().all())

    def scale(self, part: Layer, factor: float) -> None:
        """See :class:`Weight`."""
        self.parameter.data[self._range(part)] *= factor

    def rewire(self, removed: Tensor, regrown: Tensor) -> None:
        """See :class:`Weight`."""
        kept = moments(self._optimizer, self.parameter)
        carry = self.layer.exchange(removed, regrown)
        new = self._indices(regrown)
        for key, tensor in kept:
            self._optimizer.state[self.parameter][key] = carried = carry(tensor)
            if start := first_value(self._optimizer, self.parameter, key):
                carried[new] = start

    def weights_at(self, positions: Tensor) -> Tensor:
        """See :class:`Weight`."""
        return self.parameter.detach()[self._indices(positions)]

    def set_weights(self, positions: Tensor, weights: Tensor) -> None:
        """See :class:`Weight`."""
        self.parameter.data[self._indices(positions)] = weights

    def load_mask(self, mask: Tensor) -> None:
        """See :class:`Weight`."""
        current = self.layer.mask
        if not torch.equal(current, mask):
            self.layer.rewire(mask, current & mask)

    def clear_absent(self, keeps_zeros: bool) -> None:
        """See :class:`Weight`. Absent links are not stored, so there is nothing to set to zero."""

    def _indices(self, positions: Tensor) -> Tensor:
        """Indices of the given links in the list of all links of the layer."""
        return torch.searchsorted(self.layer.links.positions(), positions)

    def _range(self, part: Layer) -> slice:
        """Where the links of a part are in the list of all links of the layer."""
        crow = self.layer.links.crow_indices
        return slice(int(crow[part.first_row]), int(crow[part.first_row + part.shape[0]]))


class PastWeights:
    """The weight that each link had when it was last removed.

    The memory depends on the number of these links, not on the size of the layer.

    positions: positions of the links in the flattened weight, int64 in ascending order.
    values: their weights.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.positions = torch.empty(0, dtype=torch.int64, device=device)
        self.values = torch.empty(0, dtype=dtype, device=device)

    def remember(self, positions: Tensor, weights: Tensor) -> None:
        """Keep the weights of removed links. They replace older weights of the same links.

        All values get the dtype of `weights`, because the user may have cast the model.
        """
        stays = ~masks.among(self.positions, positions)
        positions = torch.cat([self.positions[stays], positions])
        weights = torch.cat([self.values[stays].to(weights.dtype), weights])
        order = positions.argsort()
        self.positions, self.values = positions[order], weights[order]

    def recall(self, positions: Tensor) -> Tensor:
        """The last weights of links, with zero for a link that was never removed."""
        past = self.values.new_zeros(len(positions))
        known = masks.among(positions, self.positions)
        past[known] = self.values[torch.searchsorted(self.positions, positions[known])]
        return past


def store_links(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameter: str,
    mask: Tensor,
    execution: Any,
) -> LinkWeight:
    """Let a linear layer of a model store only its links; the optimizer continues with the same parameter.

    Args:
        parameter: name of the layer's weight; :func:`chts_core.engine.kinds.convertible` must be true for it.
        mask, execution: as in :class:`chts_core.engine.linear.SparseLinear`.
    """
    path = parameter.removesuffix(".weight")
    linear = model.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    held = linear.weight
    layer = SparseLinear.take_over(linear, mask, execution)
    if held in optimizer.state:
        optimizer.state[held] = {
            key: value[mask] if isinstance(value, Tensor) and value.shape == mask.shape else value
            for key, value in optimizer.state[held].items()
        }
    return LinkWeight(layer, optimizer)


def store_densely(model: nn.Module, optimizer: torch.optim.Optimizer, links: Mapping[str, Tensor]) -> None:
    """Undo :func:`store_links` in all layers of a model, before another Sparsifier is attached.

    Args:
        links: for each weight, the mask to which the optimizer's state belongs. Default: the layer's present links.
    """
    for path, layer in model.named_modules():
        if not isinstance(layer, SparseLinear):
            continue
        held, mask = layer.values, links.get(f"{path}.weight", layer.mask).to(layer.values.device)
        layer.give_back()
        state = optimizer.state.get(held, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == (masks.count(mask),):
                state[key] = value.new_zeros(mask.shape).masked_scatter_(mask, value)


def zero_absent(tensor: Tensor, mask: Tensor) -> None:
    """Set a tensor to zero, in place, where a mask has no link; a NaN there becomes zero too.

    On a CPU, this is as fast as the memory allows. Torch's own masked fill takes five to fifty times as long.
    """
    if tensor.device.type == "cpu" and tensor.is_contiguous() and mask.is_contiguous():
        from chts_core.compiled.products import zero_absent as zero_integers  # Numba takes about a second to import

        integers = tensor.view(_INTEGERS[tensor.dtype.itemsize])
        zero_integers(integers.flatten(1).numpy(), mask.flatten(1).numpy())
    else:
        torch.where(mask, tensor, tensor.new_zeros(()), out=tensor)  # works in place and needs no mask of absent links


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack_bits(mask: Tensor) -> Tensor:
    """A mask packed into bits, as a uint8 tensor on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def set_bits(bits: Tensor, positions: Tensor) -> None:
    """Set the bits of a packed mask at these positions in the flattened mask."""
    from chts_core.compiled import lists  # Numba takes about a second to import

    lists.set_bits(bits.numpy(), positions.cpu().numpy())


def count_bits(bits: Tensor) -> int:
    """Number of True elements of a packed mask."""
    return int(_BITS_SET[bits.numpy()].sum())


_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def unpack_bits(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask that :func:`pack_bits` packed, on the CPU."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).view(torch.bool).view(shape)
