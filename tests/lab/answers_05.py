"""Answers to the exercises of stage 05, and what their checks say of them."""

from collections.abc import Callable
from typing import Any

from answers import cases

from chts_core.schedules import cubic_sparsity, sigmoid_sparsity

GIVEN: dict[str, dict[str, Any]] = {}
LINKS = "replace None in the cell above with a number of links."


def mean_density(*, ahead: int = 0, sparsity: bool = False, smooth: bool = False) -> Callable[..., float]:
    """An answer to 05.mean_density, with slips: the update after a step, the sparsity, an update at every step."""

    def answer(sparsity_at: Callable[[int], float], total_steps: int, update_every: int) -> float:
        every = 1 if smooth else update_every
        held = [sparsity_at((step // every + ahead) * every) for step in range(total_steps)]
        mean = sum(held) / total_steps
        return mean if sparsity else 1 - mean

    return answer


def ramp(start: float, end: float) -> Callable[[float], float]:
    return lambda u: min(max((u - start) / (end - start), 0.0), 1.0)


def squeezed(u: float) -> float:
    return 2 * sigmoid_sparsity(round(1000 * min(2 * u, 1.0)), 0, 1000, 0.0, 0.5)


def cubic(u: float) -> float:
    return 2 * cubic_sparsity(round(1000 * u), 0, 1000, 0.0, 0.5)


def reached(final: float, window_end: int, stop: int, update_every: int) -> float:
    return sigmoid_sparsity(stop // update_every * update_every, 0, window_end, 0.5, final)


RIGHT = [
    *cases("05.links_at_step", (3000, ""), (3000.0, "")),
    *cases("05.exchanged", (150, "")),
    *cases("05.mean_density", (mean_density(), "")),
    *cases("05.own_schedule", (ramp(0.1, 0.4), ""), (ramp(0.11, 0.39), "")),
    *cases("05.reached", (reached, "")),
]

STUBS = [
    *cases("05.links_at_step", (None, LINKS)),
    *cases("05.exchanged", (None, LINKS)),
    *cases("05.mean_density", (lambda *_: None, "mean_density() returns None; return a number.")),
    *cases("05.own_schedule", (lambda _: None, "share_of_fall() returns None; return a number from 0 to 1.")),
    *cases("05.reached", (lambda *_: None, "reached_sparsity() returns None; return a sparsity.")),
]

SLIPS = [
    *cases(
        "05.links_at_step",
        (17000, "17000 is the number of absent links; count the existing links."),
        (2927, "2927 is the number of links if every step were an update; find the last update before step 2050."),
        (
            6000,
            "6000 is the number of links in a linear or sigmoid decay; in a cubic decay, the number falls faster "
            "at first.",
        ),
        (2000, "2000 is the number of links at the end of the decay; step 2050 comes earlier."),
        (10000, "10000 is the number of links at the start; the layer has fewer links at step 2050."),
        (0.15, "0.15 is a density; multiply it by the number of places of the layer."),
        (2857, "2857 is the number of links after the next update, at step 2100; step 2050 comes before this update."),
        (1000, "1000 is the answer with the wrong sign; (1 - u)³ multiplies s_i - s_f, which is negative."),
        (3200, "3200 is not right; what is u at the last update before step 2050?"),
    ),
    *cases(
        "05.exchanged",
        (600, "600 is the number for a constant ζ; here, ζ falls along a cosine."),
        (450, "450 is the number at step 2000; at step 4000, the cosine is negative."),
        (200, "200 is the number if ζ falls linearly to 0; here, ζ falls along a cosine."),
        (300, "300 is the number at step 3000; step 4000 comes later."),
        (1500, "1500 is the number if ζ is a share of all places; instead, ζ is a share of the *links*."),
        (0.075, "0.075 is a share; multiply it by the number of links."),
        (7.5, "7.5 is a percentage; turn it into a number of links."),
        (180, "180 is not right; what is the cosine of π · 4000 / 6000?"),
    ),
    *cases(
        "05.mean_density",
        (
            mean_density(sparsity=True),
            "Your answer is the mean sparsity; subtract it from 1.",
        ),
        (mean_density(smooth=True), "Your density falls at every step, but it must stay the same between two updates."),
        (
            mean_density(ahead=1),
            "You use the density of the next update, but until then, the previous density applies.",
        ),
        (
            lambda *of: of[1] * mean_density()(*of),
            "Your answer is a sum over the steps; divide it by the number of steps.",
        ),
        (lambda *_: 0.3, "Your answer is the mean of only the first and the last density; average over all steps."),
        (lambda *of: 1.01 * mean_density()(*of), ". Do you begin at step 0?"),
    ),
    *cases(
        "05.own_schedule",
        (
            lambda u: 0.1 + 0.9 * u,
            "share_of_fall(0) is 0.1; expected 0, because the network begins at the initial sparsity.",
        ),
        (lambda u: 0.9 * u, "share_of_fall(1) is 0.9; expected 1, because the density must end at its final value."),
        (lambda u: u if u < 0.5 or u > 0.9 else 0.4, "your share falls at u = 0.499, so the network would grow."),
        (
            lambda u: u,
            "the mean of 1 - share is 0.500 for your schedule and 0.250 for the cubic schedule. Your schedule would "
            "train more "
            "links than ",
        ),
        (
            ramp(0.0, 0.2),
            "the mean of 1 - share is 0.100 for your schedule and 0.250 for the cubic schedule. Your schedule would "
            "train fewer "
            "links than ",
        ),
        (cubic, "at u = 0.1, the share is 0.271; expected at most 0.03. Let the share rise more slowly"),
        (
            squeezed,
            "one of 100 updates covers 6.0% of the fall; expected at most 4 %. (A sigmoid that ends in the middle "
            "of the window ",
        ),
        (
            ramp(0.2, 0.3),
            "one of 100 updates covers 10.0% of the fall; expected at most 4 %.",
        ),
    ),
    *cases(
        "05.reached",
        (
            lambda final, *_: final,
            "for a window that ends at step 8000, and an update every 100 steps until step 7500, you return 0.90000; "
            "expected ",
        ),
        (
            lambda final, window_end, stop, _: sigmoid_sparsity(stop, 0, window_end, 0.5, final),
            "There is no update at step 7500. The last update is at step 7400.",
        ),
        (lambda *_: 0.96, "After the window, the sparsity stays at 0.9."),
        (lambda *_: 0.7, "expected 0.89890. What is the sparsity at the last update?"),
    ),
]
