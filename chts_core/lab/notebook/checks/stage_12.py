"""Checks of stage 12, open questions."""

import math
from collections.abc import Callable, Sequence

import torch
from scipy import stats
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results.statistics import mean_and_interval, seeds_needed

_WORDS = ("holds", "does not hold", "cannot be told")


def verdict(verdict: Callable[[list[float]], str]) -> None:
    """What an interval settles: whether a claim holds, by the paired differences of the seeds."""
    given = [
        [1.0, 2.0, 3.0],
        [2.0, 2.5, 3.0],
        [-1.2, -0.9, -0.9],
        [1.1, 2.0, 2.9],
        [0.0, 1.0, 3.0],
        [-1.0, 0.0, 1.5],
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, -0.2],
    ]
    mine = [verdict(list(differences)) for differences in given]
    assert mine[0] is not None, "verdict() returns None; return one of the three verdicts."
    for word in mine:
        assert word in _WORDS, f"{word!r} is not a verdict; expected one of {', '.join(map(repr, _WORDS))}."
    right = [_by(differences, mean_and_interval(differences)[1]) for differences in given]
    for slip, half in _HALVES.items():
        wrong = [_by(differences, half(differences)) for differences in given]
        assert mine != wrong, f"these are the verdicts of {slip}."
    swapped = {"holds": "does not hold", "does not hold": "holds"}
    assert mine != [swapped.get(word, word) for word in right], "a claim holds if the differences are above 0."
    for differences, word, expected in zip(given, mine, right, strict=True):
        shown = ", ".join(f"{value:g}" for value in differences)
        mean, width = mean_and_interval(differences)
        assert word == expected, f"{shown} have the interval {mean:.2f} ± {width:.2f}, and you say {word!r}."


def _by(differences: Sequence[float], half: float) -> str:
    mean = sum(differences) / len(differences)
    if abs(mean) <= half:
        return _WORDS[2]
    return _WORDS[0] if mean > 0 else _WORDS[1]


def _spread(differences: Sequence[float]) -> float:
    """The standard deviation, which divides by one less than the number of values."""
    mean = sum(differences) / len(differences)
    return math.sqrt(sum((value - mean) ** 2 for value in differences) / (len(differences) - 1))


def _t(differences: Sequence[float]) -> float:
    return float(stats.t.ppf(0.975, len(differences) - 1))


# The half-width of an interval by the slip that leads to it.
_HALVES: dict[str, Callable[[Sequence[float]], float]] = {
    "the sign of the mean alone; the interval decides": lambda _: 0.0,
    "the standard error alone; multiply it by t": lambda values: _spread(values) / math.sqrt(len(values)),
    "the factor 1.96, which is for many seeds; for three, t is 4.30": (
        lambda values: 1.96 * _spread(values) / math.sqrt(len(values))
    ),
    "t·s, the scatter of single seeds; the mean of n seeds varies less": lambda values: _t(values) * _spread(values),
    "a deviation that divides the squares by n; divide by n - 1": (
        lambda values: _t(values) * _spread(values) * math.sqrt(len(values) - 1) / len(values)
    ),
    "the worst seed: an interval may be above 0 even though one seed is below it": (
        lambda values: math.inf if min(values) < 0 < max(values) else 0.0
    ),
}


def number_of_seeds(number_of_seeds: int | None) -> None:
    """How many seeds: the number that makes the half-width 1 for the differences 0, 2, 0 and 2."""
    assert number_of_seeds is not None, "replace None in the cell above by a number of seeds."
    slips = {
        "right for a deviation of 1; it is the root of 4/3, since the mean uses one degree of freedom": 7.0,
        "right for the factor 1.96, which is for many seeds": 6.0,
    }
    refuse(number_of_seeds, slips, 0)
    needed = seeds_needed([0.0, 2.0, 0.0, 2.0], 1.0)
    assert number_of_seeds == needed, f"{number_of_seeds} is not right; multiply the deviation by each factor."


_Link = tuple[int, int]


def swap(swap: Callable[[Tensor, _Link, _Link], Tensor]) -> None:
    """Swap two links: a mask in which two links exchanged their inputs, or the mask as it was if one would be lost."""
    diagonal = torch.eye(2, dtype=torch.bool)
    given = diagonal.clone()
    mine = swap(given, (0, 0), (1, 1))
    assert mine is not None, "swap() returns None; return a mask."
    assert torch.equal(given, diagonal), "the mask given was changed; work on a copy."
    assert not torch.equal(mine, diagonal), "the links (0, 0) and (1, 1) can be swapped, and nothing changed."
    assert int(mine.sum()) <= 2, "the two old links are still there; remove them."
    assert torch.equal(mine, diagonal.flip(0)), "(0, 0) and (1, 1) become (0, 1) and (1, 0)."
    crowded = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
    for one, other, why in (
        ((0, 0), (1, 1), "the new link (0, 1) exists already"),
        ((0, 1), (1, 3), "the new link (1, 1) exists already"),
        ((0, 0), (0, 1), "both links have the same output"),
        ((0, 1), (1, 1), "both links have the same input"),
    ):
        mine, begins = swap(crowded.clone(), one, other), f"{one} and {other}: "
        lost = 4 - int(mine.sum())
        assert not lost, f"{begins}{why}, and you lose {lost} of the 4 links. Return the mask as it was."
        assert torch.equal(mine, crowded), f"{begins}{why}, so the mask should stay as it is."
    _walk(swap)


def _walk(swap: Callable[[Tensor, _Link, _Link], Tensor]) -> None:
    """Swap many pairs of a random mask; each neuron must keep its number of links."""
    generator = torch.Generator().manual_seed(12)
    start = torch.rand(6, 8, generator=generator) < 0.3
    mask = start
    for _ in range(100):
        links = mask.nonzero()
        (a, b), (c, d) = links[torch.randperm(len(links), generator=generator)[:2]].tolist()
        allowed = not (mask[a, d] or mask[c, b])
        after = swap(mask.clone(), (a, b), (c, d))
        assert all(map(torch.equal, degrees(after), degrees(start))), (
            f"{(a, b)} and {(c, d)}: some neuron has another number of links than before."
        )
        assert torch.equal(after, mask) != allowed, (
            f"{(a, b)} and {(c, d)} {'can' if allowed else 'cannot'} be swapped, and the mask "
            f"{'stays as it was' if allowed else 'changes'}."
        )
        mask = after
