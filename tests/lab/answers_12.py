"""Answers to the exercises of stage 12, right and wrong."""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from answers import cases
from scipy import stats
from torch import Tensor

from chts_core.lab.results import standing

Link = tuple[int, int]
Row = dict[str, Any]


def t_of(looks: int, freedom: int) -> float:
    return float(stats.t.ppf(1 - 0.05 / looks / 2, freedom))


def read(
    *,
    factor: Callable[[int, int], float] = lambda looks, n: t_of(looks, n - 1) / t_of(1, n - 1),
    margin_of: Callable[[float, float, float], bool] = lambda low, high, margin: max(-low, high) < margin,
    sign: int = 1,
    level_first: bool = False,
    untested: str = "untested",
) -> Callable[[Row, float, int], str]:
    """An answer to 12.read_row, with slips."""

    def answer(row: Row, margin: float, looks: int) -> str:
        if row["advantage"] is None:
            return untested
        half = row["interval"] * factor(looks, row["seeds"])
        low, high = sign * row["advantage"] - half, sign * row["advantage"] + half
        if level_first and margin_of(low, high, margin):
            return "level"
        if low > 0:
            return "holds"
        if high < 0:
            return "does not hold"
        return "level" if margin_of(low, high, margin) else "undecided"

    return answer


def by_normal(looks: int, _: int) -> float:
    normal = NormalDist().inv_cdf
    return normal(1 - 0.05 / looks / 2) / normal(1 - 0.05 / 2)


def swap(mask: Tensor, one: Link, other: Link) -> Tensor:
    new = torch.zeros_like(mask)
    new[one[0], other[1]] = new[other[0], one[1]] = True
    old = torch.zeros_like(mask)
    old[one], old[other] = True, True
    return mask if (mask & new).any() else (mask & ~old) | new


def careless(mask: Tensor, one: Link, other: Link) -> Tensor:
    swapped = mask.clone()
    swapped[one] = swapped[other] = False
    swapped[one[0], other[1]] = swapped[other[0], one[1]] = True
    return swapped


def swapped_in_place(mask: Tensor, one: Link, other: Link) -> Tensor:
    mask[one] = mask[other] = False
    mask[one[0], other[1]] = mask[other[0], one[1]] = True
    return mask


def only_added(mask: Tensor, one: Link, other: Link) -> Tensor:
    added = mask.clone()
    added[one[0], other[1]] = added[other[0], one[1]] = True
    return added


def only_one_end(mask: Tensor, one: Link, other: Link) -> Tensor:
    moved = mask.clone()
    moved[one], moved[one[0], other[1]] = False, True
    return moved


def removed_last(mask: Tensor, one: Link, other: Link) -> Tensor:
    """It refuses a new link that exists, and loses both if the two have an end in common."""
    if one[0] != other[0] and one[1] != other[1]:
        return swap(mask, one, other)
    lost = mask.clone()
    lost[one] = lost[other] = False
    return lost


def cleared_column(mask: Tensor, one: Link, other: Link) -> Tensor:
    """Right for small masks, and a link too many in a larger one."""
    swapped = swap(mask, one, other).clone()
    if len(mask) > 2:
        swapped[0] = True
    return swapped


def too_careful(mask: Tensor, one: Link, other: Link) -> Tensor:
    return swap(mask, one, other) if len(mask) == 2 else mask


GIVEN: dict[str, dict[str, Any]] = {
    "12.read_row": {"claims": standing.standing(), "margins": {"BLEU": 0.5, "nats": 0.02, "points": 0.5}}
}

RIGHT = [
    *cases("12.read_row", (read(), "")),
    *cases("12.swap", (swap, "")),
]

STUBS = [
    *cases("12.read_row", (lambda *_: None, "read_row() returns None; return one of the five verdicts.")),
    *cases("12.swap", (lambda *_: None, "swap() returns None; return a mask.")),
]

SLIPS = [
    *cases(
        "12.read_row",
        (lambda *_: "yes", "'yes' is not a verdict; expected one of 'holds', 'does not hold', 'level', "),
        (
            read(sign=-1),
            "A claim holds if its interval is above 0; look at the sign.",
        ),
        (
            read(margin_of=lambda *_: True),
            "An interval that contains 0 does not make two methods equal.",
        ),
        (
            read(margin_of=lambda *_: False),
            "The interval contains 0, and both ends are closer to 0 than the margin of 0.02.",
        ),
        (
            read(margin_of=lambda low, high, margin: abs(low + high) / 2 < margin),
            "beyond the margin of 0.5. An interval that contains 0 does not make two methods equal.",
        ),
        (
            read(level_first=True),
            "Use both ends of the interval, not only the mean. The margin matters only if the interval contains 0.",
        ),
        (
            read(untested="undecided"),
            "for the row 'weights in bfloat16 make RigL fall behind' and 1 look, you return 'undecided'. The row has ",
        ),
        (
            read(factor=lambda *_: 0.0),
            "for the row 'CHTs is ahead of SET in a language model' and 1 look, you return 'holds'. The interval goes ",
        ),
        (
            read(factor=lambda *_: 1.0),
            "The interval goes from -0.671 to 1.391 points for 11 looks. You used the interval for one look.",
        ),
        (
            read(factor=by_normal),
            "The factor depends on the number of seeds, here 2. Take t with 1 degrees of freedom.",
        ),
        (
            read(factor=lambda looks, _: looks),
            "Do not multiply the half-width by 11; take a larger t instead.",
        ),
    ),
    *cases(
        "12.swap",
        (swapped_in_place, "your function changed the mask that it was given; work on a copy."),
        (lambda mask, *_: mask, "the links (0, 0) and (1, 1) can be swapped, but you changed nothing."),
        (only_added, "the two old links are still there; remove them."),
        (only_one_end, "the links (0, 0) and (1, 1) must become (0, 1) and (1, 0)."),
        (
            careless,
            "0) and (1, 1), the new link (0, 1) exists already, and you lose 1 of the 4 links. Return the old mask.",
        ),
        (
            removed_last,
            "(0, 0) and (0, 1), both links have the same output, and you lose 2 of the 4 links. Return the old mask.",
        ),
        (
            lambda mask, one, other: swap(mask, one, other) if mask.sum() == 2 else mask.roll(1, 0),
            "for (0, 0) and (1, 1), the new link (0, 1) exists already, so the mask must not change.",
        ),
        (cleared_column, "a neuron has more or fewer links than before."),
        (too_careful, "(5, 1) and (2, 2) can be swapped, but your mask does not change."),
    ),
]
