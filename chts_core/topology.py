"""Initial bipartite networks: which links a layer starts with.

A mask is a Boolean tensor shaped like `nn.Linear.weight`, (out_features, in_features). Every function returns
exactly `link_count(out_features, in_features, density)` links, for any rectangle.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from chts_core.checks import check_density, check_features, check_generator
from chts_core.sampling import gumbel

Degree = Literal["fixed", "uniform"] | Tensor


def link_count(out_features: int, in_features: int, density: float) -> int:
    """Number of links of a layer at a density: the nearest integer to density × out × in."""
    check_features(out_features, in_features)
    check_density(density)
    return round(density * out_features * in_features)


def erdos_renyi(
    out_features: int,
    in_features: int,
    density: float,
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Erdős–Rényi (ER): links placed uniformly at random, their number exact (the G(n, m) model).

    Returns:
        Boolean mask (out_features, in_features) on `device` (by default the generator's).
    """
    check_generator(generator)
    links = link_count(out_features, in_features, density)
    size = out_features * in_features
    mask = torch.zeros(size, dtype=torch.bool, device=generator.device)
    mask[torch.randperm(size, generator=generator, device=generator.device)[:links]] = True
    return mask.view(out_features, in_features).to(device or generator.device)


def receptive_field(
    out_features: int,
    in_features: int,
    density: float,
    r: float = 0.25,
    degree: Degree = "fixed",
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Bipartite receptive field network (BRF): outputs prefer the inputs near them.

    Output i looks at position (i + 1/2) · in/out - 1/2 of the input ring, the diagonal of the mask (to within half a
    column where all degrees are alike). Its degree is set first and never changes: with degree d it draws d inputs
    without replacement, with probability ∝ (1 + distance)^(-(1-r)/r). r = 0 takes the d nearest; r = 1 takes any input
    alike, so that the network is ER given the output degrees. (Paper, "Bipartite receptive field network modelling";
    the published code rounds in/out to an integer, which leaves part of a longer input side without links.)

    When there are at least as many links as inputs, r = 0 reaches every input; when there are at least as many
    as outputs, every output has a link, at any r. (Degrees given as a tensor may say otherwise.)

    Args:
        out_features, in_features: the two sides.
        density: share of the links that exist; their number is exactly link_count(...).
        r: randomness in [0, 1].
        degree: "fixed" gives all outputs the same degree (to within 1); "uniform" spreads the degrees evenly over
            the widest range symmetric about their mean that keeps each receptive field at least as wide as its
            step on the input side; a 1-D integer tensor gives the degree of each output.
        generator: the source of randomness.
        device: of the mask; by default the generator's.

    Raises:
        ValueError: for r or density out of range, or degrees that do not fit the row or the number of links.
    """
    check_generator(generator)
    if not 0 <= r <= 1:
        raise ValueError(f"r is {r}; expected a randomness in [0, 1]: 0 is nearest only, 1 is Erdős–Rényi.")
    links = link_count(out_features, in_features, density)
    where = generator.device
    degrees = _output_degrees(out_features, in_features, links, degree, generator).to(where)
    width = int(degrees.max())
    rank = torch.arange(width, device=where)
    centre = _centres(degrees.double(), in_features)

    if r == 0:
        # The d columns nearest to the centre are a window on the ring.
        start = torch.floor(centre - degrees.double() / 2 + 1).long()
        columns = (start[:, None] + rank) % in_features
    else:
        distance = (torch.arange(in_features, device=where, dtype=torch.float64) - centre[:, None]).abs()
        distance = torch.minimum(distance, in_features - distance)
        # The d highest keys of a row are d draws without replacement. (The bound on r keeps the exponent finite.)
        log_probability = -(1 - r) / max(r, 1e-9) * torch.log1p(distance)
        columns = (log_probability + gumbel(distance.shape, generator=generator)).topk(width, dim=1).indices

    mask = torch.zeros(out_features, in_features, dtype=torch.bool, device=where)
    mask.scatter_(1, columns, rank < degrees[:, None])
    return mask.to(device or where)


def _output_degrees(
    out_features: int, in_features: int, links: int, degree: Degree, generator: torch.Generator
) -> Tensor:
    """Degree of every output, 1-D int64, summing to `links`, none above `in_features`."""
    if isinstance(degree, Tensor):
        return _checked_degrees(out_features, in_features, links, degree)
    mean = links / out_features
    if degree == "fixed":
        wanted = torch.full((out_features,), mean, dtype=torch.float64)
    elif degree == "uniform":
        # Receptive fields at least as wide as the step between them leave no gap at r = 0.
        low = max(math.ceil(in_features / out_features), 2 * mean - in_features)
        low = min(low, mean)
        order = torch.randperm(out_features, generator=generator, device=generator.device).cpu().double()
        wanted = low + (order + 0.5) / out_features * 2 * (mean - low)
    else:
        raise ValueError(
            f"degree is {degree!r}; expected 'fixed', 'uniform' or a 1-D integer tensor of output degrees."
        )
    # Rounding the running sum, in float64, keeps each degree within 1 of what is wanted and the total exact.
    ends = torch.floor(wanted.cumsum(0) + 0.5).long()
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
            f"the degrees add up to {int(degree.sum())} links but the density means {links}; "
            f"pass density={int(degree.sum()) / (out_features * in_features):.6g} or other degrees."
        )
    return degree.long()


def _centres(degrees: Tensor, in_features: int) -> Tensor:
    """Position on the input ring that each output looks at, the diagonal of the mask; all in float64."""
    out_features, links = degrees.numel(), int(degrees.sum())
    if links >= in_features and int(degrees.max() - degrees.min()) <= 1:
        # Equal degrees: the middle of each output's share of all links, at most half a column off the diagonal, so that
        # windows of d and d + 1 columns still touch when there is barely one link per input.
        return (degrees.cumsum(0) - degrees / 2) * (in_features / links) - 0.5
    outputs = torch.arange(out_features, device=degrees.device, dtype=torch.float64)
    return (outputs + 0.5) * (in_features / out_features) - 0.5
