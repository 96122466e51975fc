"""Measures of a topology and of how it moved."""

from torch import Tensor

from chts_core.checks import check_mask, check_same_shape


def degrees(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Number of links of every output and of every input: int64 (out_features,) and (in_features,)."""
    check_mask(mask)
    return mask.sum(dim=1), mask.sum(dim=0)


def overlap(removed: Tensor, regrown: Tensor) -> float:
    """Share of the regrown links that the same update had removed, |removed ∩ regrown| / |regrown|.

    Near 1 the network is in an *epitopological local minimum* (ELM): updates change it no more (paper, ELM).
    0 when nothing was regrown.
    """
    check_mask(removed, "removed")
    check_mask(regrown, "regrown")
    check_same_shape(regrown, removed, "regrown")
    return int((removed & regrown).sum()) / max(int(regrown.sum()), 1)


def itop_rate(ever_active: Tensor) -> float:
    """In-time over-parametrisation: the share of all possible links that were active at some time (ITOP)."""
    check_mask(ever_active, "ever_active")
    return int(ever_active.sum()) / ever_active.numel()
