"""Slow, literal versions of what the core computes, written from the definitions: loops, sets and enumerations."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy import stats
from torch import Tensor


def assert_fits(counts: Sequence[int], probabilities: Sequence[float]) -> None:
    """Assert that a chi-square test accepts `counts` as drawn with `probabilities`, those of all possible outcomes.

    Seeds are fixed, so that a fit always passes or never does; a wrong distribution ends far below the threshold.
    """
    expected = np.array(probabilities) * sum(counts)
    assert expected.min() >= 5, "too few draws for a chi-square test"
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def links_of(mask: Tensor) -> set[tuple[int, int]]:
    """The links of a mask as (output, input) pairs."""
    return {(output, source) for output, source in mask.nonzero().tolist()}


def mask_of(links: set[tuple[int, int]], shape: Sequence[int]) -> Tensor:
    """The mask of a set of (output, input) pairs."""
    mask = torch.zeros(*shape, dtype=torch.bool)
    for output, source in links:
        mask[output, source] = True
    return mask


def relative_importance(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """RI link by link: the share of the input's links plus the share of the output's links."""
    rows = [[abs(value) for value in row] for row in weight.tolist()]
    columns = list(zip(*rows, strict=True))
    return torch.tensor(
        [
            [size / (sum(columns[j]) + eps) + size / (sum(rows[i]) + eps) for j, size in enumerate(row)]
            for i, row in enumerate(rows)
        ],
        dtype=torch.float64,
    )


def top(scores: Tensor, candidates: Tensor, num: int) -> Tensor:
    """The `num` candidates of highest score; the scores are distinct."""
    ranked = sorted(links_of(candidates), key=lambda link: -float(scores[link]))
    return mask_of(set(ranked[:num]), candidates.shape)


def percolate(masks: Mapping[str, Tensor], chains: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """Take one inactive neuron at a time and cut its links, until no neuron has links on one side only."""
    links = {name: links_of(mask) for name, mask in masks.items()}
    hidden = [
        (before, after, neuron)
        for chain in chains
        for before, after in pairwise(chain)
        for neuron in range(masks[before].shape[0])
    ]
    changed = True
    while changed:
        changed = False
        for before, after, neuron in hidden:
            incoming = {link for link in links[before] if link[0] == neuron}
            outgoing = {link for link in links[after] if link[1] == neuron}
            if bool(incoming) != bool(outgoing):
                links[before] -= incoming
                links[after] -= outgoing
                changed = True
    return {name: mask_of(links[name], mask.shape) for name, mask in masks.items()}
