"""Slow, literal versions of what the core computes, written from the definitions: loops, sets and enumerations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

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


def relative_importance_of_mlp_code(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """RI with ε added to each place of a sum, link by link."""
    rows = [[abs(value) for value in row] for row in weight.tolist()]
    columns = list(zip(*rows, strict=True))
    return torch.tensor(
        [
            [size / sum(a + eps for a in columns[j]) + size / sum(a + eps for a in row) for j, size in enumerate(row)]
            for row in rows
        ],
        dtype=torch.float64,
    )


def top(scores: Tensor, candidates: Tensor, num: int) -> Tensor:
    """The `num` candidates of highest score; the scores are distinct."""
    ranked = sorted(links_of(candidates), key=lambda link: -float(scores[link]))
    return mask_of(set(ranked[:num]), candidates.shape)


def percolate(
    masks: Mapping[str, Tensor],
    chains: Sequence[Sequence[str]],
    pairs: Sequence[tuple[str, str]] = (),
    attentions: Sequence[Any] = (),
) -> dict[str, Tensor]:
    """Take one inactive neuron at a time and cut its links, until no neuron has a link that leads nowhere."""
    links = {name: links_of(mask) for name, mask in masks.items()}

    def outputs(layer: str, neurons: Iterable[int]) -> _Wire:
        return layer, 0, frozenset(neurons)

    def inputs(layer: str, neurons: Iterable[int]) -> _Wire:
        return layer, 1, frozenset(neurons)

    # All wires that must carry something for a neuron's links to lead somewhere.
    needs: list[tuple[_Wire, _Wire]] = []
    for chain in chains:
        for before, after in pairwise(chain):
            for neuron in range(masks[before].shape[0]):
                needs.append((outputs(before, [neuron]), inputs(after, [neuron])))
    for first, second in pairs:
        for neuron in range(masks[first].shape[0]):
            needs.append((outputs(first, [neuron]), outputs(second, [neuron])))
    for attention in attentions:
        needs += _needs_of_attention(masks, attention, outputs, inputs)

    def carried(wire: _Wire) -> set[tuple[int, int]]:
        layer, side, neurons = wire
        return {link for link in links[layer] if link[side] in neurons}

    changed = True
    while changed:
        changed = False
        for one, other in needs:
            if bool(carried(one)) != bool(carried(other)):
                links[one[0]] -= carried(one)
                links[other[0]] -= carried(other)
                changed = True
    return {name: mask_of(links[name], mask.shape) for name, mask in masks.items()}


# Neurons of a layer that are only needed together: the layer, 0 for its outputs or 1 for its inputs, the neurons.
_Wire = tuple[str, int, frozenset[int]]


def _needs_of_attention(
    masks: Mapping[str, Tensor],
    attention: Any,
    outputs: Callable[[str, Iterable[int]], _Wire],
    inputs: Callable[[str, Iterable[int]], _Wire],
) -> Iterator[tuple[_Wire, _Wire]]:
    """Every query neuron and output of an attention block with the key or value neuron that it meets, head by head."""
    group = attention.heads // attention.key_heads
    for key_head in range(attention.key_heads):
        readers = range(key_head * group, (key_head + 1) * group)
        if attention.query and attention.key:
            width = masks[attention.key].shape[0] // attention.key_heads
            half = width // 2
            planes = [(j, j + half) for j in range(half)] if attention.rotary else [(j,) for j in range(width)]
            for plane in planes:
                key = outputs(attention.key, [key_head * width + j for j in plane])
                # A key is of use to any head that reads it, a head's query only with the key.
                yield key, outputs(attention.query, [head * width + j for head in readers for j in plane])
        if attention.value and attention.output:
            width = masks[attention.value].shape[0] // attention.key_heads
            for j in range(width):
                value = outputs(attention.value, [key_head * width + j])
                yield value, inputs(attention.output, [head * width + j for head in readers])
