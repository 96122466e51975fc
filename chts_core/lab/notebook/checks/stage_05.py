"""Checks of stage 05, density decay."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from chts_core.budget import Budget
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.methods import METHODS, Cubic, Sigmoid
from chts_core.schedules import Timeline, cosine_turnover, cubic_sparsity, sigmoid_sparsity


def exact_sigmoid(exact_sigmoid: Callable[[float, float, float, float], float]) -> None:
    """The exact sigmoid: a function that takes u, initial, final and k, and returns the sparsity."""
    points = [(number / 10, k) for k in (6.0, 3.0) for number in range(11)]
    answers = [exact_sigmoid(u, 0.5, 0.9, k) for u, k in points]
    for reason, slip in _SIGMOID_SLIPS.items():
        wrong = all(math.isclose(a, 0.5 + 0.4 * slip(*at), abs_tol=1e-9) for a, at in zip(answers, points, strict=True))
        assert not wrong, f"your function returns {answers[0]:.4f} at u = 0 and {answers[10]:.4f} at u = 1; {reason}."
    for (u, k), answer in zip(points, answers, strict=True):
        right = sigmoid_sparsity(round(10 * u), 0, 10, 0.5, 0.9, k)
        assert math.isclose(answer, right, abs_tol=1e-9), (
            f"at u = {u} and k = {k:g}, your function returns {answer}; expected {right}."
        )


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _share(exponent: float, k: float) -> float:
    """The sigmoid of an exponent, rescaled as in Equation 1 to be 0 at the exponent -k and 1 at k."""
    return 0.5 + (_sigma(exponent) - 0.5) / (_sigma(k) - _sigma(-k))


_SIGMOID_SLIPS: dict[str, Callable[[float, float], float]] = {
    "the exponent k·u is never negative. Centre the exponent first, then rescale the result": lambda u, k: _sigma(
        k * u
    ),
    "the sigmoid does not reach `initial` and `final`, so rescale it": lambda u, k: _sigma(k * (2 * u - 1)),
    "the sign is wrong, so the network would grow": lambda u, k: -_share(k * (2 * u - 1), k),
    "the exponent k·u is never negative, so centre it with 2u - 1": lambda u, k: _share(k * u, k),
    "the exponent is k(u - 1/2), half of what it should be": lambda u, k: _share(k * (u - 0.5), k),
}


def links_at_step(links: float | None) -> None:
    """Links at a step: the number of links of a 200 × 100 layer at step 2050 of a cubic decay."""
    assert links is not None, "replace None in the cell above with a number of links."
    cubic = replace(METHODS["chtss"], sparsity=Cubic(0.5, end=0.5))
    budget = Budget(cubic, 0.9, Timeline(8000, 100, 0.75), {"layer": (200, 100)})
    right = budget.links(2000)["layer"]
    slips = {
        "the number of absent links; count the existing links": 20000 - right,
        "the number of links if every step were an update; find the last update before step 2050": budget.links(2050)[
            "layer"
        ],
        "the number of links in a linear or sigmoid decay; in a cubic decay, the number falls faster at first": 6000,
        "the number of links at the end of the decay; step 2050 comes earlier": 2000,
        "the number of links at the start; the layer has fewer links at step 2050": 10000,
        "a density; multiply it by the number of places of the layer": 0.15,
        "the number of links after the next update, at step 2100; step 2050 comes before this update": budget.links(
            2100
        )["layer"],
        "the answer with the wrong sign; (1 - u)³ multiplies s_i - s_f, which is negative": 1000,
    }
    refuse(links, slips, 0.5 if links > 1 else 0.005)
    assert abs(links - right) < 0.5, f"{links} is not right; what is u at the last update before step 2050?"


def exchanged(exchanged: float | None) -> None:
    """Links of an exchange: how many of 2000 links an update at step 4000 of 6000 removes and regrows."""
    assert exchanged is not None, "replace None in the cell above with a number of links."
    right = cosine_turnover(4000, 6000, 0.3) * 2000
    slips = {
        "the number for a constant ζ; here, ζ falls along a cosine": 600,
        "the number at step 2000; at step 4000, the cosine is negative": 450,
        "the number if ζ falls linearly to 0; here, ζ falls along a cosine": 200,
        "the number at step 3000; step 4000 comes later": 300,
        "the number if ζ is a share of all places; instead, ζ is a share of the *links*": 1500,
        "a share; multiply it by the number of links": 0.075,
        "a percentage; turn it into a number of links": 7.5,
    }
    refuse(exchanged, slips, 0.5 if exchanged > 10 else 0.004)
    assert abs(exchanged - right) < 0.5, f"{exchanged} is not right; what is the cosine of π · 4000 / 6000?"


def mean_density(mean_density: Callable[[Callable[[int], float], int, int], float]) -> None:
    """Mean density of a run: a function that takes a schedule and returns the mean density over the run."""
    for every, sparsity in ((250, Cubic(0.5, end=0.75)), (100, Sigmoid(0.5, end=0.3)), (1, Cubic(0.5, end=0.75))):
        budget = Budget(
            replace(METHODS["chtss"], sparsity=sparsity), 0.9, Timeline(1000, every, 0.75), {"layer": (200, 100)}
        )
        answer = mean_density(budget.at, 1000, every)
        assert answer is not None, "mean_density() returns None; return a number."
        steps = range(1000)
        right = sum(1 - budget.at(step // every * every) for step in steps) / 1000
        said = f"with an update every {every} steps, you find {answer:.5f}"
        slips = {
            "Your answer is the mean sparsity; subtract it from 1": 1 - right,
            "Your density falls at every step, but it must stay the same between two updates": sum(
                1 - budget.at(step) for step in steps
            )
            / 1000,
            "You use the density of the next update, but until then, the previous density applies": sum(
                1 - budget.at(-(-(step + 1) // every) * every) for step in steps
            )
            / 1000,
            "Your answer is a sum over the steps; divide it by the number of steps": right * 1000,
            "Your answer is the mean of only the first and the last density; average over all steps": (0.5 + 0.1) / 2,
        }
        for slip, wrong in slips.items():
            assert abs(answer - right) < 1e-5 or abs(answer - wrong) > 1e-6, f"{said}. {slip}."
        assert abs(answer - right) < 1e-5, f"{said}; expected {right:.5f}. Do you begin at step 0?"


def sigmoid_end(sigmoid_end: float | None, *, planned: Callable[[Cubic | Sigmoid], float]) -> None:
    """A fair window: the window's end as a share of the run. `planned` returns the cost of a decay."""
    assert sigmoid_end is not None, "replace None in the cell above with a share of the run, in (0.1, 0.75]."
    assert sigmoid_end > 0.1, f"a window from 0.1 to {sigmoid_end} is empty; its end must come after its start."
    cost, rival = planned(Sigmoid(start=0.1, end=sigmoid_end)), planned(Cubic(start=0.1, end=0.7))
    compared = f"the sigmoid costs {cost:.2%} of the dense FLOPs, and the cubic decay costs {rival:.2%}"
    assert sigmoid_end != 0.35, (
        f"{compared}. You halved the end of the window; instead, halve the length of the window from 0.1 to 0.7."
    )
    assert sigmoid_end != 0.7, (
        f"{compared}. Count only the links that the decay still has to remove. Over the same window, the sigmoid "
        "keeps, on average, twice as many of these links as the cubic decay does."
    )
    assert abs(cost - rival) < 1e-3, f"{compared}. End the window {'earlier' if cost > rival else 'later'}."
    assert abs(sigmoid_end - 0.4) < 0.005, (
        f"{compared}. The costs are close only because the end of the window moves back to the last update before it; "
        "halve the length of the window from 0.1 to 0.7 exactly."
    )


def own_schedule(share: Callable[[float], float]) -> None:
    """A schedule of your own: a function that takes u and returns which share of the density's fall is complete."""
    courses = [share(number / 1000) for number in range(1001)]
    assert None not in courses, "share_of_fall() returns None; return a number from 0 to 1."
    assert abs(courses[0]) < 1e-9, (
        f"share_of_fall(0) is {courses[0]:g}; expected 0, because the network begins at the initial sparsity."
    )
    assert abs(courses[-1] - 1) < 1e-9, (
        f"share_of_fall(1) is {courses[-1]:g}; expected 1, because the density must end at its final value."
    )
    falls = [number / 1000 for number, (one, other) in enumerate(pairwise(courses)) if other < one - 1e-9]
    assert not falls, f"your share falls at u = {falls[0]:g}, so the network would grow."
    mean = sum(1 - value for value in courses[:-1]) / 1000 - 0.0005
    cubic = sum(0.95 - cubic_sparsity(step, 0, 1000) for step in range(1000)) / 450 - 0.0005
    squeezed = _steepest([_share(6.0 * (2 * min(2 * number / 1000, 1) - 1), 6.0) for number in range(1001)])
    cost = f"the mean of 1 - share is {mean:.3f} for your schedule and {cubic:.3f} for the cubic schedule"
    more = "more" if mean > cubic else "fewer"
    assert abs(mean - cubic) < 0.005, (
        f"{cost}. Your schedule would train {more} links than the cubic schedule in the same number of steps."
    )
    assert courses[100] <= 0.03, (
        f"at u = 0.1, the share is {courses[100]:.3f}; expected at most 0.03. Let the share rise more slowly in the "
        "first tenth of the window."
    )
    steep = _steepest(courses)
    assert steep <= 0.04, (
        f"one of 100 updates covers {steep:.1%} of the fall; expected at most 4 %. (A sigmoid that ends in the "
        f"middle of the window covers up to {squeezed:.1%} in one update.) Spread the fall more evenly "
        "between its start and its end."
    )


def _steepest(course: list[float]) -> float:
    """The largest rise in a hundredth of the window; `course` lists the completed share at 1001 positions."""
    return max(course[number + 10] - course[number] for number in range(0, 1000, 10))


def reached(reached: Callable[[float, int, int, int], float]) -> None:
    """Whether the density reaches its target: a function that returns the sparsity at the end of a run."""
    for final, window_end, stop, every in (
        (0.9, 8000, 7500, 100),
        (0.9, 8000, 7500, 200),
        (0.95, 3750, 7500, 100),
        (0.9, 8000, 7500, 10000),
    ):
        answer = reached(final, window_end, stop, every)
        assert answer is not None, "reached_sparsity() returns None; return a sparsity."
        last = Timeline(10_000, every, stop / 10_000).last_update
        right = sigmoid_sparsity(last, 0, window_end, 0.5, final)
        said = (
            f"for a window that ends at step {window_end}, and an update every {every} steps until step {stop}, you "
            f"return {answer:.5f}; expected {right:.5f}"
        )
        late = sigmoid_sparsity(stop, 0, window_end, 0.5, final)
        assert answer <= final + 1e-9, f"{said}. After the window, the sparsity stays at {final}."
        assert abs(answer - right) < 1e-6 or abs(answer - final) > 1e-6, (
            f"{said}. The window ends after the last update, so the rest of the decay never happens."
        )
        assert abs(answer - right) < 1e-6 or abs(answer - late) > 1e-6, (
            f"{said}. There is no update at step {stop}. The last update is at step {last}."
        )
        assert abs(answer - right) < 1e-6, f"{said}. What is the sparsity at the last update?"
