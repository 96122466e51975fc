"""Checks of stage 12, open questions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results.statistics import seeds_needed

Row = Mapping[str, Any]
_WORDS = ("holds", "does not hold", "level", "undecided", "untested")
# More rows, in points. Each row reveals a slip that the rows of the table do not reveal.
_MORE_ROWS: Sequence[Row] = (
    {"claim": "a lead measured with three seeds", "unit": "points", "advantage": 0.36, "interval": 0.3, "seeds": 3},
    {"claim": "a small and certain lead", "unit": "points", "advantage": 0.2, "interval": 0.1, "seeds": 30},
    {"claim": "a small lead, which is not certain", "unit": "points", "advantage": 0.1, "interval": 0.2, "seeds": 30},
    {"claim": "a mean of 0 with a wide interval", "unit": "points", "advantage": 0.0, "interval": 3.0, "seeds": 3},
    {"claim": "a lead measured with many seeds", "unit": "points", "advantage": 1.0, "interval": 0.5, "seeds": 100},
    {"claim": "a lead measured with two seeds", "unit": "points", "advantage": 8.0, "interval": 2.0, "seeds": 2},
)


def read_row(
    read_row: Callable[[Row, float, int], str], *, claims: Sequence[Row], margins: Mapping[str, float]
) -> None:
    """Read the table of claims: a function that takes a row, a margin and a number of looks, and returns a verdict.

    The number of looks is the number of intervals that you read together.
    """
    intervals = sum(row["advantage"] is not None for row in claims)
    for looks in (1, intervals):
        for row in (*claims, *_MORE_ROWS) if looks == 1 else (*_MORE_ROWS, *claims):
            margin = margins.get(row["unit"], 0.5)
            said = read_row(dict(row), margin, looks)
            assert said is not None, "read_row() returns None; return one of the five verdicts."
            assert said in _WORDS, f"{said!r} is not a verdict; expected one of {', '.join(map(repr, _WORDS))}."
            half = None if row["advantage"] is None else row["interval"] * _wider(row["seeds"], looks)
            right = _verdict(row["advantage"], half, margin)
            if said != right:
                raise AssertionError(
                    f"for the row {row['claim']!r} and {looks} look{'s' if looks > 1 else ''}, you return {said!r}. "
                    f"{_why(said, row, margin, looks)}"
                )
    print("with one look:", _counted(read_row, claims, margins, 1))
    print(f"with {intervals} looks:", _counted(read_row, claims, margins, intervals))


def _wider(seeds: int, looks: int) -> float:
    """The factor by which the half-width of a 95 % interval grows if you read `looks` intervals together."""
    return float(stats.t.ppf(1 - 0.05 / looks / 2, seeds - 1) / stats.t.ppf(1 - 0.05 / 2, seeds - 1))


def _verdict(advantage: float | None, half: float | None, margin: float) -> str:
    if advantage is None or half is None:
        return "untested"
    if abs(advantage) > half:
        return "holds" if advantage > 0 else "does not hold"
    return "level" if abs(advantage) + half < margin else "undecided"


def _why(said: str, row: Row, margin: float, looks: int) -> str:
    """Say why a verdict on a row is wrong, and name the slip that leads to this verdict."""
    mean, half, unit = row["advantage"], row["interval"], row["unit"]
    if mean is None:
        return "The row has no runs, so its advantage is None."
    wide = half * _wider(row["seeds"], looks)
    ends = f"The interval goes from {mean - wide:.3f} to {mean + wide:.3f} {unit}"
    right = _verdict(mean, wide, margin)
    if {said, right} == {"holds", "does not hold"}:
        return f"{ends}. A claim holds if its interval is above 0; look at the sign."
    if said == "level" and right == "undecided" and said != _verdict(mean, half, margin):
        return f"{ends}, beyond the margin of {margin:g}. An interval that contains 0 does not make two methods equal."
    normal = NormalDist().inv_cdf
    if looks > 1 and said == _verdict(mean, half * normal(1 - 0.05 / looks / 2) / normal(1 - 0.05 / 2), margin):
        return (
            f"{ends}. The factor depends on the number of seeds, here {row['seeds']}. Take t with "
            f"{row['seeds'] - 1} degrees of freedom."
        )
    if looks > 1 and said == _verdict(mean, half, margin):
        return f"{ends} for {looks} looks. You used the interval for one look."
    if looks > 1 and said == _verdict(mean, half * looks, margin):
        return f"{ends}. Do not multiply the half-width by {looks}; take a larger t instead."
    if right == "level":
        return f"{ends}. The interval contains 0, and both ends are closer to 0 than the margin of {margin:g}."
    return (
        f"{ends}. Use both ends of the interval, not only the mean. The margin matters only if the interval contains 0."
    )


def _counted(
    read_row: Callable[[Row, float, int], str], claims: Sequence[Row], margins: Mapping[str, float], looks: int
) -> str:
    said = Counter(read_row(row, margins.get(row["unit"], 0.5), looks) for row in claims)
    return ", ".join(f"{said[word]} {word}" for word in _WORDS if said[word])


def number_of_seeds(number_of_seeds: int | None) -> None:
    """How many seeds: the number of seeds for a half-width of 1, if the differences are 0, 2, 0 and 2."""
    assert number_of_seeds is not None, "replace None in the cell above with a number of seeds."
    slips = {
        "the number for a standard deviation of 1; the standard deviation is √(4/3), because the mean uses one "
        "degree of freedom": 7.0,
        "the number for the factor 1.96; for few seeds, t is larger": 6.0,
    }
    refuse(number_of_seeds, slips, 0)
    needed = seeds_needed([0.0, 2.0, 0.0, 2.0], 1.0)
    assert number_of_seeds == needed, (
        f"{number_of_seeds} is not right; for each number of seeds, multiply the standard deviation by the factor for "
        "this number."
    )


_Link = tuple[int, int]


def swap(swap: Callable[[Tensor, _Link, _Link], Tensor]) -> None:
    """Swap two links: a mask in which two links exchange their inputs, or the old mask if a swap loses a link."""
    diagonal = torch.eye(2, dtype=torch.bool)
    given = diagonal.clone()
    mine = swap(given, (0, 0), (1, 1))
    assert mine is not None, "swap() returns None; return a mask."
    assert torch.equal(given, diagonal), "your function changed the mask that it was given; work on a copy."
    assert not torch.equal(mine, diagonal), "the links (0, 0) and (1, 1) can be swapped, but you changed nothing."
    assert int(mine.sum()) <= 2, "the two old links are still there; remove them."
    assert torch.equal(mine, diagonal.flip(0)), "the links (0, 0) and (1, 1) must become (0, 1) and (1, 0)."
    crowded = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
    for one, other, why in (
        ((0, 0), (1, 1), "the new link (0, 1) exists already"),
        ((0, 1), (1, 3), "the new link (1, 1) exists already"),
        ((0, 0), (0, 1), "both links have the same output"),
        ((0, 1), (1, 1), "both links have the same input"),
    ):
        mine, begins = swap(crowded.clone(), one, other), f"for {one} and {other}, "
        lost = 4 - int(mine.sum())
        assert not lost, f"{begins}{why}, and you lose {lost} of the 4 links. Return the old mask."
        assert torch.equal(mine, crowded), f"{begins}{why}, so the mask must not change."
    _walk(swap)


def _walk(swap: Callable[[Tensor, _Link, _Link], Tensor]) -> None:
    """Swap many pairs of links of a random mask; each neuron must keep its number of links."""
    generator = torch.Generator().manual_seed(12)
    start = torch.rand(6, 8, generator=generator) < 0.3
    mask = start
    for _ in range(100):
        links = mask.nonzero()
        (a, b), (c, d) = links[torch.randperm(len(links), generator=generator)[:2]].tolist()
        allowed = not (mask[a, d] or mask[c, b])
        after = swap(mask.clone(), (a, b), (c, d))
        assert all(map(torch.equal, degrees(after), degrees(start))), (
            f"after the swap of {(a, b)} and {(c, d)}, a neuron has more or fewer links than before."
        )
        assert torch.equal(after, mask) != allowed, (
            f"{(a, b)} and {(c, d)} {'can' if allowed else 'cannot'} be swapped, but your mask "
            f"{'does not change' if allowed else 'changes'}."
        )
        mask = after
