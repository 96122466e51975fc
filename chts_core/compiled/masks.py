"""Masks and lists of links. A list contains the positions of the links in the flattened mask, int64 in ascending order.

On a CPU, NumPy is 5 to 50 times as fast as torch for Boolean tensors.
"""

from collections.abc import Iterator, Mapping, MutableMapping

import numpy as np
import torch
from torch import Tensor


def count(mask: Tensor) -> int:
    """Number of True elements."""
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else mask.count_nonzero())


def positions(mask: Tensor) -> Tensor:
    """Positions where the flattened mask is True, int64 in ascending order."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def mask_of(links: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask that is True at the given positions."""
    mask = torch.zeros(shape, dtype=torch.bool, device=links.device)
    mask.view(-1)[links] = True
    return mask


class LinkLists(MutableMapping[str, Tensor]):
    """Lists of links by name. Long lists are stored as masks.

    A mask needs one byte per possible link. A list needs 8 bytes per link.

    Args:
        shapes: (out_features, in_features) of the masks, by name.
        lists: the lists at the start.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], lists: Mapping[str, Tensor] | None = None) -> None:
        self._shapes = shapes
        self._kept: dict[str, Tensor] = {}
        self.update(lists or {})

    def __getitem__(self, name: str) -> Tensor:
        kept = self._kept[name]
        return positions(kept) if kept.dtype == torch.bool else kept

    def __setitem__(self, name: str, links: Tensor) -> None:
        rows, columns = self._shapes[name]
        many = links.nbytes > rows * columns
        self._kept[name] = mask_of(links, (rows, columns)) if many else links

    def __delitem__(self, name: str) -> None:
        del self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Number of bytes that all lists need together."""
        return sum(kept.nbytes for kept in self._kept.values())


def among(values: Tensor, others: Tensor) -> Tensor:
    """For each of the `values`, whether it is also in `others`. Both lists are int64 in ascending order."""
    if values.device.type == "cpu":
        from chts_core.compiled.lists import mark_shared  # Numba takes about a second to import

        shared = torch.empty(len(values), dtype=torch.bool)
        mark_shared(values.numpy(), others.numpy(), shared.numpy())
        return shared
    if not len(others):
        return torch.zeros_like(values, dtype=torch.bool)
    return others[torch.searchsorted(others, values).clamp_(max=len(others) - 1)] == values


def merged(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Merge two lists without common values. Return the merged list, and which of its values come from `second`.

    All lists are int64 in ascending order.
    """
    new = torch.zeros(len(first) + len(second), dtype=torch.bool, device=first.device)
    new[torch.searchsorted(first, second) + torch.arange(len(second), device=first.device)] = True
    both = first.new_empty(len(new))
    both[~new], both[new] = first, second
    return both, new


def ends(links: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of links, from their positions in the flattened mask, int64 in ascending order.

    The function needs no divisions.
    """
    first = torch.arange(shape[0] + 1, device=links.device) * shape[1]
    rows = torch.repeat_interleave(torch.searchsorted(links, first).diff())
    return rows, links - rows * shape[1]


def pairs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each True element, int64, row by row."""
    found = positions(mask)
    rows = found // mask.shape[1]
    return rows, found - rows * mask.shape[1]


def any_along(mask: Tensor, dim: int) -> Tensor:
    """Which rows (dim=1) or columns (dim=0) contain a True element."""
    return torch.from_numpy(mask.numpy().any(dim)) if mask.device.type == "cpu" else mask.any(dim)
