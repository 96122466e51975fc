"""Answers to the exercises of stage 11."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from answers import cases
from scipy import stats
from torch import Tensor

from chts_core.lab.results.statistics import mean_and_interval, standard_error


def covered(
    *,
    correction: int = 1,
    root: bool = True,
    misses: bool = False,
    factor: float | None = None,
    shifted: Callable[[Tensor, float], Tensor] = lambda runs, shift: runs + shift,
    percent: float = 1,
) -> Callable[[int, float, float, torch.Generator], float]:
    """An answer to 11.coverage, with slips."""

    def answer(n: int, t: float, shift: float, generator: torch.Generator) -> float:
        runs = shifted(torch.randn(20000, n, generator=generator), shift)
        error = runs.std(dim=1, correction=correction) / (n**0.5 if root else 1)
        inside = runs.mean(dim=1).abs() <= (factor or t) * error
        return percent * float((inside ^ misses).float().mean())

    return answer


def gained(rival: float, better: float, other: float) -> float:
    return other * better / rival


def decided(
    *,
    factor: float | None = None,
    all_agree: bool = False,
    majority: bool = False,
    single: str = "untested",
    pooled: bool = False,
) -> Callable[[list[list[float]]], str]:
    """An answer to 11.verdict, with slips."""

    def one(task: Sequence[float]) -> str:
        if len(task) < 2:
            return single
        mean, half = mean_and_interval(task)
        half = half if factor is None else factor * standard_error(task)
        return "undecided" if abs(mean) <= half else "holds" if mean > 0 else "does not hold"

    def answer(tasks: list[list[float]]) -> str:
        found = [one(task) for task in tasks if len(task) > 1 or single != "untested"]
        if pooled and tasks:
            return one([value for task in tasks for value in task])
        sides = {said for said in found if said in ("holds", "does not hold")}
        if not found:
            return "untested"
        if majority:
            return max(sorted(set(found), key="undecided".__ne__), key=found.count)  # undecided if words tie
        if all_agree:
            return found[0] if len(set(found)) == 1 else "undecided"
        return sides.pop() if len(sides) == 1 else "undecided"

    return answer


def half_widths(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    n, errors = len(a), (standard_error(a), standard_error(b))
    return mean_and_interval(paired(a, b))[1], float(stats.t.ppf(0.975, 2 * n - 2)) * math.hypot(*errors)


def paired(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(a, b, strict=True)]


RIGHT = [
    *cases("11.coverage", (covered(), "")),
    *cases("11.half_widths", (half_widths, "")),
    *cases("11.same_gain", (gained, "")),
    *cases("11.difference_of_differences", (lambda *_: (-1.0, math.hypot(3**-0.5, 0.5)), "")),
    *cases("11.by_chance", (1 - 0.95**13, ""), (0.49, "")),
    *cases("11.verdict", (decided(), "")),
]

STUBS = [
    *cases("11.coverage", (lambda *_: None, "coverage() returns None; return the share of studies whose interval")),
    *cases("11.half_widths", (lambda *_: None, "half_widths() returns None; return two half-widths, the paired one")),
    *cases("11.same_gain", (lambda *_: None, "same_gain() returns None; return a perplexity.")),
    *cases("11.difference_of_differences", (lambda *_: None, "difference_of_differences() returns None; return a ")),
    *cases("11.by_chance", (None, "replace None in the cell above with a number between 0 and 1.")),
    *cases("11.verdict", (lambda _: None, "for the advantages [[1.0, 1.2, 1.1]], verdict() returns None; return a")),
]

SLIPS = [
    *cases(
        "11.coverage",
        (
            covered(percent=100),
            "is not a share between 0 and 1; simulate 20,000 studies and divide by the number of studies.",
        ),
        (
            covered(misses=True),
            "is the share of intervals that do not contain 0; count the intervals that contain 0.",
        ),
        (covered(correction=0), "is the result if you divide the sum of the squares by n; divide it by n − 1."),
        (covered(root=False), "is the result with the standard deviation itself; divide it by √n for the standard"),
        (lambda *_: 0.5, "for n = 3 and t = 4.303, the share is 0.500; expected 0.95."),
        (covered(factor=4.303), "with the factor 1.96, the share is still 0.95; does your interval use the factor?"),
        (lambda _, t, *__: {4.303: 0.95, 1.96: 0.7}[t], "with the factor 1.96 and n = 3, the share is 0.700; expected"),
        (
            covered(shifted=lambda runs, _: runs),
            "a shift of 1 has almost no effect; add the shift to every run, and test whether the interval contains 0.",
        ),
        (
            covered(shifted=lambda runs, shift: torch.cat([runs[:, :20], runs[:, 20:] + shift], dim=1)),
            "with n = 30 and a shift of 1, the share is 0.6",
        ),
    ),
    *cases(
        "11.half_widths",
        (lambda a, b: half_widths(a, b)[::-1], "5.867 is the unpaired half-width; return the paired half-width first."),
        (
            lambda a, _: (mean_and_interval(a)[1], 5.869),
            "5.435 is the half-width for A only; first subtract B from A for each seed.",
        ),
        (lambda *_: (1.5, 5.869), "1.5 is the mean difference itself; find how much the differences vary."),
        (lambda a, b: (standard_error(paired(a, b)), 5.869), "0.289 is the standard error; multiply it by t."),
        (lambda *_: (0.566, 5.869), "0.566 is the result with the factor 1.96, which is only right for many seeds."),
        (
            lambda *_: (1.837, 5.869),
            "1.837 is the result with the standard deviation; divide it by the square root of 4.",
        ),
        (lambda *_: (0.706, 5.869), "0.706 is the result with 6 degrees of freedom; for four differences, use 3."),
        (lambda *_: (0.5, 5.869), "the paired half-width 0.5 is not right; the differences are 2, 1, 2 and 1."),
        (
            lambda *_: (0.919, 0.919),
            "0.919 is the paired half-width again; treat the runs of A and B as independent.",
        ),
        (
            lambda *_: (0.919, 8.299),
            "8.299 is t times the sum of the standard errors; add their squares and take the square root.",
        ),
        (lambda *_: (0.919, 2.398), "2.398 is the standard error; multiply it by t."),
        (
            lambda *_: (0.919, 7.632),
            "7.632 is the result with 3 degrees of freedom; for two methods with four runs each, use 6.",
        ),
        (lambda *_: (0.919, 4.7), "4.7 is the result with the factor 1.96, which is only right for many seeds."),
        (lambda *_: (0.919, 5.435), "5.435 is the half-width for A only; B varies, too."),
        (
            lambda *_: (0.919, 1.0),
            "the unpaired half-width 1.0 is not right; combine the standard errors of both methods.",
        ),
        (lambda *_: (0.919, 5.869), "for differences of -2, 3 and 2, you return 0.92; expected 6.57."),
    ),
    *cases(
        "11.same_gain",
        (
            lambda rival, better, other: other + better - rival,
            "117.77 is the perplexity that is lower by the same number of points; the ratio of perplexities "
            "matters, so subtract ",
        ),
        (
            lambda rival, better, other: other * rival / better,
            "128.1017 is the perplexity that is higher by the same number of nats; a lower perplexity is better.",
        ),
        (lambda rival, better, other: other ** (math.log(better) / math.log(rival)), "is the result of a ratio of log"),
        (lambda *given: math.log(gained(*given)), "4.7222 is a number of nats; the answer is a perplexity."),
        (lambda rival, better, _: math.log(better / rival), "-0.0653 is the gain in nats itself; return a perplexity."),
        (lambda *_: 100, "100.00 is not right; 33.03 is 0.065 nats below 35.26."),
        (lambda *_: 112.41, "10 is half of 20, so the answer is half of 8; you return 112.41."),
    ),
    *cases(
        "11.difference_of_differences",
        (
            lambda *_: (-18, 0.764),
            "-18 is the difference between the scores 13 and 31; compare the advantages over the rival.",
        ),
        (lambda *_: (1, 0.764), "1 is the paper's advantage minus ours; return ours minus the paper's."),
        (lambda *_: (5, 0.764), "5 is the sum of the two advantages; subtract them."),
        (lambda *_: (2, 0.764), "2.0 is not right; our advantage is 2 on average, and the paper's is 3."),
        (lambda *_: (-1, 0.577), "0.577 is only our standard error; the paper's numbers are uncertain, too."),
        (lambda *_: (-1, 0.5), "0.5 is only the paper's standard error; our numbers are uncertain, too."),
        (
            lambda *_: (-1, 1.077),
            "1.077 is the sum of the standard errors; add their squares and take the square root.",
        ),
        (
            lambda *_: (-1, 0.907),
            "0.907 is the result with 0.3 + 0.4 for the paper; add the squares of 0.3 and 0.4 instead.",
        ),
        (
            lambda *_: (-1, 1.384),
            "1.384 is the result without pairs; our two methods share their seeds, so first take each seed's "
            "difference.",
        ),
        (lambda *_: (-1, 1.118), "1.118 is the result with our standard deviation; divide it by the square root of 3."),
        (lambda *_: (-1, 3), "your standard error is 3.0; our standard error is 0.577, and the paper's is 0.5."),
    ),
    *cases(
        "11.by_chance",
        (0.65, "0.65 is the expected number of comparisons that look decided; this number can exceed 1."),
        (
            0.513,
            "0.513 is the chance that no comparison looks decided; find the chance that at least one comparison does.",
        ),
        (0.05, "0.05 is the chance for one comparison; there are 13 comparisons."),
        (0, "0 is the chance that all comparisons look decided; one such comparison is enough."),
        (48.67, "48.67 is not a probability; write it as a number between 0 and 1."),
        (0.3, "0.3 is not right; what is the chance that none of the 13 comparisons looks decided?"),
    ),
    *cases(
        "11.verdict",
        (
            lambda _: "yes",
            "for the advantages [[1.0, 1.2, 1.1]], you say 'yes'; expected one of 'holds', 'does",
        ),
        (
            lambda _: "holds",
            "for the advantages [[-1.0, -1.2, -1.1]], you say 'holds', but the interval of [-1.0, -1.2, -1.1] goes ",
        ),
        (
            decided(factor=1.96),
            "for the advantages [[1.0, 2.0, 0.2]], you say 'holds', but the interval of [1.0, 2.0, 0.2] goes from ",
        ),
        (decided(single="holds"), "for the advantages [[0.4]], you say 'holds', but a single seed gives no interval."),
        (
            lambda tasks: decided()(tasks) if tasks else "undecided",
            "for the advantages [], you say 'undecided', but there is no run.",
        ),
        (
            decided(all_agree=True),
            "for the advantages [[1.0, 1.2, 1.1], [0.5, -0.5, 0.1]], you say 'undecided', but the interval of [1.0, ",
        ),
        (
            decided(majority=True),
            "for the advantages [[1.0, 1.2, 1.1], [0.5, -0.5, 0.1]], you say 'undecided', but the interval of [1.0, ",
        ),
        (
            decided(pooled=True),
            "for the advantages [[1.0, 1.2, 1.1], [0.5, -0.5, 0.1]], you say 'undecided', but the interval of [1.0, ",
        ),
    ),
]

GIVEN: dict[str, dict[str, Any]] = {}
