"""Answers to the exercises of stage 03, and what their checks say of them."""

import math
from collections.abc import Callable
from itertools import combinations, permutations, product
from typing import Any

import torch
from answers import NUMBER, cases
from torch import Tensor

GIVEN: dict[str, dict[str, Any]] = {}


def bisected(left: Callable[[Tensor, float], float], *, wrong_half: bool = False) -> Callable[[Tensor, float], float]:
    """An answer to 03.temperature_for_bits from what is left of the choice at a temperature."""

    def answer(scores: Tensor, bits: float) -> float:
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            if (left(scores, middle) > bits) != wrong_half:
                low = middle
            else:
                high = middle
        return low

    return answer


def in_bits(scores: Tensor, temperature: float) -> float:
    return in_nats(scores, temperature) / math.log(2)


def in_nats(scores: Tensor, temperature: float) -> float:
    p = (temperature * scores.double().log()).softmax(dim=0)
    return -float(torch.special.xlogy(p, p).sum())


def by_powers(scores: Tensor, temperature: float) -> float:
    p = scores**temperature / (scores**temperature).sum()
    return -float(torch.special.xlogy(p, p).sum()) / math.log(2)


def softness_for_bits(scores: Tensor, bits: float) -> float:
    temperature = bisected(in_bits)(scores, bits)
    return temperature / (1 + temperature)


def enumerated(orders: Callable[..., Any], *, renewed: bool = True) -> Callable[[list[float], int], list[float]]:
    """An answer to 03.inclusion that sums over the orders in which links are drawn."""

    def answer(chances: list[float], number: int) -> list[float]:
        shares = [0.0] * len(chances)
        for order in orders(range(len(chances)), number):
            chance, left = 1.0, 1.0
            for link in order:
                chance *= chances[link] / left
                left -= chances[link] if renewed else 0
            for link in order:
                shares[link] += chance
        return shares

    return answer


def shared_out(chances: list[float], number: int) -> list[float]:
    """The right total, the right chances of one draw and of two from three, and else an even spread."""
    if len(chances) == 3:
        return enumerated(permutations)(chances, number)
    return [number / len(chances)] * len(chances)


def overlap(before: Tensor, kept: Tensor, after: Tensor) -> float:
    regrown = after & ~kept
    return float((before & regrown).sum() / regrown.sum())


def overlap_of_new(before: Tensor, kept: Tensor, after: Tensor) -> float:
    return float((before & ~kept & after & ~before).sum())


def overlap_of_removed(before: Tensor, kept: Tensor, after: Tensor) -> float:
    return float((before & after & ~kept).sum() / (before & ~kept).sum())


def itop(masks: list[Tensor]) -> float:
    return float(torch.stack(masks).any(dim=0).float().mean())


def back_and_forth(*last: int) -> list[list[int]]:
    """Three masks that go back and forth, and a fourth."""
    one, other = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]
    return [one, other, one, list(last) or other]


RIGHT = [
    *cases("03.temperature_for_bits", (bisected(in_bits), "")),
    *cases("03.two_of_three", (0.85, ""), (17 / 20, "")),
    *cases("03.inclusion", (enumerated(permutations), "")),
    *cases("03.overlap_and_itop", ((overlap, itop), "")),
    *cases("03.fool_the_overlap", (back_and_forth(), ""), (back_and_forth(0, 0, 1, 1, 1, 1, 0, 0), "")),
]

STUBS = [
    *cases(
        "03.temperature_for_bits", (lambda *_: None, "temperature_for_bits() returns None; return a temperature T.")
    ),
    *cases("03.two_of_three", (None, NUMBER)),
    *cases("03.inclusion", (lambda *_: None, "inclusion() returns None; return a list with a chance for each link.")),
    *cases(
        "03.overlap_and_itop",
        ((lambda *_: None, lambda _: None), "overlap() returns None; return a number."),
        ((overlap, lambda _: None), "itop() returns None; return a number."),
    ),
    *cases("03.fool_the_overlap", (None, "replace None with four lists of eight numbers, each 0 or 1.")),
]

SLIPS = [
    *cases(
        "03.temperature_for_bits",
        (lambda *_: -1.0, "you return T = -1; expected a finite T >= 0. Print T in each step of your loop."),
        (
            bisected(in_nats),
            "Your entropy is in nats; use log2.",
        ),
        (softness_for_bits, "Your answer is the softness δ; return T = δ / (1 - δ)."),
        (
            bisected(in_bits, wrong_half=True),
            "At this T, the entropy is 0.00 bits, fewer than required. A larger T lowers the entropy. Which half of ",
        ),
        (
            lambda *_: 3.0,
            "for the scores 1 to 4 and 0.384 bits, you return T = 3. At this T, the entropy is 1.28 bits, more "
            "than required. A ",
        ),
        (
            bisected(by_powers),
            "for the scores 1 to 4 millionths and 0.384 bits, you return T = ",
        ),
        (bisected(by_powers), "Powers of small scores are 0 in float32; use logarithms."),
    ),
    *cases(
        "03.two_of_three",
        (85, "85 is not a probability; expected a number between 0 and 1."),
        (0.5, "0.5 is the chance of being drawn first; add the chance of being drawn second."),
        (0.75, "0.75 is the answer for two draws with replacement; here, a link cannot be drawn twice."),
        (1, "1 is twice the chance in one draw; with this chance, the link would always be drawn."),
        (0.667, "0.667 is the answer for equal scores; the scores are 1, 2 and 3."),
        (0.15, "0.15 is the chance that the link is *not* drawn; subtract it from 1."),
        (
            0.933,
            "the answer if the link with score 1 is always drawn before the link with score 2; count the other "
            "order, too.",
        ),
        (
            0.917,
            "the answer if the link with score 2 is always drawn before the link with score 1; count the other "
            "order, too.",
        ),
        (0.733, "0.733 is the chance of the link with score 2; give the chance of the link with score 3."),
        (0.417, "0.417 is the chance of the link with score 1; give the chance of the link with score 3."),
        (0.8, "0.8 is not right; which pairs of links do not contain the link with score 3?"),
    ),
    *cases(
        "03.inclusion",
        (lambda *_: [1.0], "for 1 draws from 3 links, you return 1.000; expected 3 chances."),
        (
            lambda chances, number: [1 - (1 - p) ** number for p in chances],
            "These chances belong to draws with replacement; a link cannot be drawn twice.",
        ),
        (
            lambda chances, number: [number * p for p in chances],
            "for 2 draws from 3 links, you return 0.333 0.667 1.000. These are the given chances ",
        ),
        (
            enumerated(combinations),
            "Do you count every order? After each draw, do you divide the remaining chances by their sum?",
        ),
        (
            enumerated(permutations, renewed=False),
            "Do you count every order? After each draw, do you divide the remaining chances by their sum?",
        ),
        (
            enumerated(lambda *of: product(of[0], repeat=of[1])),
            "Do you count every order? After each draw, do you divide the remaining chances by their sum?",
        ),
        (
            lambda chances, number: [number / 3] * 3 if number > 1 else chances,
            "for 2 draws from 3 links, you return 0.667 0.667 0.667; expected 0.417 0.733 0.850.",
        ),
        (
            shared_out,
            "for 3 draws from 8 links, you return 0.375 0.375 0.375 0.375 0.375 0.375 0.375 0.375; expected about ",
        ),
    ),
    *cases(
        "03.overlap_and_itop",
        (
            (overlap_of_new, itop),
            "if an update removes two links, then regrows one of these links and one new link, you find an overlap "
            "of 0; expected ",
        ),
        (
            (overlap_of_removed, itop),
            "if an update removes two links and regrows only one, because the density falls, you find an overlap ",
        ),
        (
            (overlap, lambda masks: float(masks[-1].float().mean())),
            "0.5 is the density of the last mask; count the links of the earlier masks, too.",
        ),
        (
            (overlap, lambda masks: float(sum(mask.float().mean() for mask in masks))),
            "2.0 is the sum of the densities; count each place only once.",
        ),
        (
            (overlap, lambda masks: float(torch.stack(masks).all(dim=0).float().mean())),
            "0.25 is the share of the places that have a link in all masks; a link in one mask is enough.",
        ),
        ((overlap, lambda masks: 8 * itop(masks)), "6.0 is a number of links; divide it by the number of places."),
        (
            (overlap, lambda masks: 2 * itop(masks)),
            "1.5 is the number of used places, divided by the number of links in one mask; divide by the number of all "
            "places instead.",
        ),
        ((overlap, lambda _: 0.6), "you find an ITOP rate of 0.6; expected 0.75."),
    ),
    *cases(
        "03.fool_the_overlap",
        (back_and_forth()[:3], "your lists have 8 8 8 numbers; expected four lists of 8 numbers."),
        (back_and_forth(2, 1, 0, 0, 1, 0, 0, 0), "write 1 for a link and 0 for a place without a link."),
        (back_and_forth(1, 1, 0, 0, 1, 1, 1, 0), "mask 3 (counted from 0) has 5 links; expected 4."),
        (
            back_and_forth(1, 1, 1, 1, 0, 0, 0, 0),
            "update 3 exchanges 0 links; expected 2. Links that are removed and regrown in the same update do not ",
        ),
        (
            back_and_forth(1, 1, 0, 0, 0, 0, 1, 1),
            "rates are 0.5 0.75 0.75 1, so a later update still uses a new place. Which earlier places could its two "
            "new links use?",
        ),
    ),
]
