"""Answers to the exercises of stage 12, right and wrong."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from answers import cases
from torch import Tensor

Link = tuple[int, int]
T = {3: 4.302653, 8: 2.364624}  # Student's t at 97.5 %, by the number of seeds


def by(half: Callable[[Sequence[float]], float]) -> Callable[[list[float]], str]:
    """An answer to 12.verdict from the half-width of the interval."""

    def answer(differences: list[float]) -> str:
        mean, width = statistics.fmean(differences), half(differences)
        return "holds" if mean > width else "does not hold" if mean < -width else "cannot be told"

    return answer


def error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def half(values: Sequence[float]) -> float:
    return T[len(values)] * error(values)


def turned(differences: list[float]) -> str:
    return by(half)([-value for value in differences])


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


GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("12.verdict", (by(half), "")),
    *cases("12.swap", (swap, "")),
]

STUBS = [
    *cases("12.verdict", (lambda _: None, "verdict() returns None; return one of the three verdicts.")),
    *cases("12.swap", (lambda *_: None, "swap() returns None; return a mask.")),
]

SLIPS = [
    *cases(
        "12.verdict",
        (lambda _: "yes", "'yes' is not a verdict; expected one of 'holds', 'does not hold', 'cannot be told'."),
        (by(lambda _: 0.0), "these are the verdicts of the sign of the mean alone; the interval decides."),
        (by(error), "these are the verdicts of the standard error alone; multiply it by t."),
        (by(lambda values: 1.96 * error(values)), "these are the verdicts of the factor 1.96, which is for many seeds"),
        (by(lambda values: T[len(values)] * statistics.stdev(values)), "these are the verdicts of t·s, the scatter of"),
        (
            by(lambda values: T[len(values)] * statistics.pstdev(values) / math.sqrt(len(values))),
            "these are the verdicts of a deviation that divides the squares by n; divide by n - 1.",
        ),
        (
            by(lambda values: math.inf if min(values) < 0 < max(values) else 0.0),
            "these are the verdicts of the worst seed",
        ),
        (turned, "a claim holds if the differences are above 0."),
        (lambda _: "cannot be told", "2, 2.5, 3 have the interval 2.50 ± 1.24, and you say 'cannot be told'."),
    ),
    *cases(
        "12.swap",
        (swapped_in_place, "the mask given was changed; work on a copy."),
        (lambda mask, *_: mask, "the links (0, 0) and (1, 1) can be swapped, and nothing changed."),
        (only_added, "the two old links are still there; remove them."),
        (only_one_end, "(0, 0) and (1, 1) become (0, 1) and (1, 0)."),
        (careless, "(0, 0) and (1, 1): the new link (0, 1) exists already, and you lose 1 of the 4 links."),
        (removed_last, "(0, 0) and (0, 1): both links have the same output, and you lose 2 of the 4 links."),
        (
            lambda mask, one, other: swap(mask, one, other) if mask.sum() == 2 else mask.roll(1, 0),
            "(0, 0) and (1, 1): the new link (0, 1) exists already, so the mask should stay as it is.",
        ),
        (cleared_column, "some neuron has another number of links than before."),
        (too_careful, " can be swapped, and the mask stays as it was."),
    ),
]
