"""The rows of an initial mask: how many links each row has, and in which columns.

These functions are the simple versions (plain references) of the faster functions in
:mod:`chts_core.compiled.row_draws`. They also run on GPUs.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from chts_core.compiled.masks import count
from chts_core.sampling import gumbel

Degree = Literal["fixed", "uniform"] | Tensor

# Number of elements in the largest temporary tensor of plain torch code: 16 MB as float64 or int64.
_BLOCK = 2**21


def output_degrees(
    out_features: int, in_features: int, links: int, degree: Degree, generator: torch.Generator
) -> Tensor:
    """Degree of each output, 1-D int64. The degrees add up to `links`, and none exceeds `in_features`."""
    if isinstance(degree, Tensor):
        return _checked_degrees(out_features, in_features, links, degree)
    mean = links / out_features
    if degree == "fixed":
        wanted = torch.full((out_features,), mean, dtype=torch.float64)
    elif degree == "uniform":
        # Receptive fields at least as wide as the step between their centres leave no gap at r = 0.
        low = max(math.ceil(in_features / out_features), 2 * mean - in_features)
        low = min(low, mean)
        order = torch.randperm(out_features, generator=generator, device=generator.device).cpu().double()
        wanted = low + (order + 0.5) / out_features * 2 * (mean - low)
    else:
        raise ValueError(
            f"degree is {degree!r}; expected 'fixed', 'uniform' or a 1-D integer tensor of output degrees."
        )
    # Rounding the running sum, in float64, changes each degree by at most 1 and does not change the total.
    ends = (wanted.cumsum(0) + 0.5).long()
    return ends.diff(prepend=ends.new_zeros(1))


def _checked_degrees(out_features: int, in_features: int, links: int, degree: Tensor) -> Tensor:
    if degree.shape != (out_features,) or degree.dtype.is_floating_point or degree.dtype == torch.bool:
        raise ValueError(
            f"degree has shape {tuple(degree.shape)} and dtype {degree.dtype}; "
            f"expected {out_features} integers, one per output."
        )
    if bool(((degree < 0) | (degree > in_features)).any()):
        worst = int(degree.argmax() if degree.max() > in_features else degree.argmin())
        raise ValueError(
            f"degree[{worst}] is {int(degree[worst])} but an output of this layer has {in_features} inputs; "
            f"give every output a degree in [0, {in_features}]."
        )
    if int(degree.sum()) != links:
        raise ValueError(
            f"the degrees add up to {int(degree.sum())} links but the density gives {links}; pass "
            f"density={int(degree.sum()) / (out_features * in_features):.6g} or other degrees."
        )
    return degree.long()


def centres(degrees: Tensor, in_features: int) -> Tensor:
    """Position of each output on the ring of inputs, along the diagonal of the mask; float64 (out_features,)."""
    out_features, links = degrees.numel(), int(degrees.sum())
    if links >= in_features and int(degrees.max() - degrees.min()) <= 1:
        # The centre of an output is the middle of its share of all links. With degree="fixed", it is at most half a
        # column off the diagonal. Windows of d and d + 1 columns then still touch, even with only one link per input.
        return (degrees.cumsum(0) - degrees / 2) * (in_features / links) - 0.5
    outputs = torch.arange(out_features, device=degrees.device, dtype=torch.float64)
    return (outputs + 0.5) * (in_features / out_features) - 0.5


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that hold about _BLOCK positions each."""
    size = max(1, _BLOCK // columns)
    return (slice(first, first + size) for first in range(0, rows, size))


def any_of(size: int, number: int, generator: torch.Generator) -> Tensor:
    """Boolean tensor (size,) on the generator's device: `number` elements at uniformly random positions are True."""
    fewer = min(number, size - number)
    drawn = torch.zeros(size, dtype=torch.bool, device=generator.device)
    # Repeated draws have no effect, so a round never sets too many elements. Draw until enough elements are set.
    missing = fewer
    while missing:
        drawn[torch.randint(size, (min(missing, _BLOCK),), generator=generator, device=generator.device)] = True
        missing = fewer - count(drawn)
    return drawn if fewer == number else drawn.logical_not_()


def set_nearest(mask: Tensor, degrees: Tensor, centres: Tensor) -> None:
    """Link row i to the degrees[i] columns nearest to centres[i]. These columns form a window on the ring of inputs."""
    in_features = mask.shape[1]
    columns = torch.arange(in_features, device=mask.device)
    start = torch.floor(centres - degrees.double() / 2 + 1).long().remainder_(in_features)[:, None]
    end = start + degrees[:, None]
    for rows in _blocks(*mask.shape):
        mask[rows] = (columns >= start[rows]) & (columns < end[rows])
        mask[rows] |= columns < end[rows] - in_features


def race(mask: Tensor, degrees: Tensor, centres: Tensor, exponent: float, generator: torch.Generator) -> None:
    """Link row i to degrees[i] columns, which are drawn without replacement.

    In each draw, a column's probability is proportional to (1 + its ring distance to centres[i])^-exponent. All
    tensors are on the generator's device.
    """
    in_features = mask.shape[1]
    columns = torch.arange(in_features, device=mask.device, dtype=torch.float64)
    for rows in _blocks(*mask.shape):
        distance = (columns - centres[rows, None]).abs()
        distance = torch.minimum(distance, in_features - distance)
        keys = gumbel(distance.shape, generator=generator).sub_(distance.log1p_(), alpha=exponent)
        mask[rows] = False
        _set_highest(mask[rows], keys, degrees[rows])


def fill(mask: Tensor, degrees: Tensor, generator: torch.Generator) -> None:
    """Link row i to more columns, all equally likely, until it has degrees[i] links.

    All tensors are on the generator's device.
    """
    for rows in _blocks(*mask.shape):
        keys = torch.rand(mask[rows].shape, dtype=torch.float64, device=mask.device, generator=generator)
        _set_highest(mask[rows], keys.masked_fill_(mask[rows], -1), degrees[rows] - mask[rows].sum(1))


def _set_highest(mask: Tensor, keys: Tensor, numbers: Tensor) -> None:
    """Link row i to the numbers[i] columns with the highest keys. Random keys give a draw without replacement."""
    highest = keys.topk(int(numbers.max()), dim=1).indices
    rank = torch.arange(highest.shape[1], device=mask.device)
    mask |= torch.zeros_like(mask).scatter_(1, highest, rank < numbers[:, None])
