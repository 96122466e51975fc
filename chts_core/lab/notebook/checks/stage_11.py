"""Checks of stage 11, the paper's tables."""

import math
from collections.abc import Callable, Sequence

import torch

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results import paper
from chts_core.lab.results.statistics import mean_and_interval, standard_error

_T_6 = 2.446912  # Student's t at 97.5 % for 6 degrees of freedom


def errors_away(errors_away: float | None) -> None:
    """How far away: the distance of the paper's result from your mean, in standard errors."""
    assert errors_away is not None, "replace None in the cell above with a number."
    mine = [71.0, 73.0, 72.0, 72.0]
    right = (74 - sum(mine) / 4) / standard_error(mine)
    slips = {
        "the distance in standard deviations; the standard error of a mean of four runs is half as large": right / 2,
        "the distance in points of accuracy; divide it by the standard error": 2.0,
        "below 0, but the paper's result is above your mean": -right,
    }
    refuse(errors_away, slips, 0.01)
    assert abs(errors_away - right) < 0.02, f"{errors_away} is not right; the squares of the deviations sum to 2."


def coverage(coverage: Callable[[int, float, float, torch.Generator], float | None]) -> None:
    """What an interval covers: the share of simulated studies whose interval contains 0, the true value."""
    generator = torch.Generator().manual_seed(0)
    share = coverage(3, 4.303, 0.0, generator)
    assert share is not None, "coverage() returns None; return the share of studies whose interval contains 0."
    assert 0 < share < 1, (
        f"{share:g} is not a share between 0 and 1; simulate 20,000 studies and divide by the number of studies."
    )
    slips = {
        "the share of intervals that do not contain 0; count the intervals that contain 0": 0.05,
        "the result if you divide the sum of the squares by n; divide it by n − 1": 0.9277,
        "the result with the standard deviation itself; divide it by √n for the standard error": 0.9825,
    }
    refuse(round(float(share), 3), slips, 0.006)
    assert abs(share - 0.95) < 0.01, f"for n = 3 and t = 4.303, the share is {share:.3f}; expected 0.95."
    share = coverage(3, 1.96, 0.0, generator)
    assert share is not None, "with another factor, coverage() returns None; return a share."
    assert abs(share - 0.95) > 0.02, "with the factor 1.96, the share is still 0.95; does your interval use the factor?"
    assert abs(share - 0.811) < 0.015, f"with the factor 1.96 and n = 3, the share is {share:.3f}; expected 0.81."
    share = coverage(30, 2.045, 1.0, generator)
    assert share is not None, "with a shift, coverage() returns None; return a share."
    assert share < 0.9, (
        "a shift of 1 has almost no effect; add the shift to every run, and test whether the interval contains 0."
    )
    assert share < 0.01, (
        f"with n = 30 and a shift of 1, the share is {share:.3f}; use the same shift in all runs of a study."
    )


def half_widths(half_widths: Callable[[Sequence[float], Sequence[float]], tuple[float, float] | None]) -> None:
    """Pair them: the half-widths of the paired and of the unpaired interval of the difference between two methods."""
    a, b = [90.0, 94.0, 98.0, 92.0], [88.0, 93.0, 96.0, 91.0]
    answer = half_widths(list(a), list(b))
    assert answer is not None, "half_widths() returns None; return two half-widths, the paired one first."
    mine, apart = (round(float(number), 3) for number in answer)
    differences = [one - other for one, other in zip(a, b, strict=True)]
    errors, error = (standard_error(a), standard_error(b)), standard_error(differences)
    _, paired = mean_and_interval(differences)
    unpaired = _T_6 * math.hypot(*errors)
    assert not abs(mine - unpaired) < 0.01, f"{mine} is the unpaired half-width; return the paired half-width first."
    slips = {
        "the half-width for A only; first subtract B from A for each seed": mean_and_interval(a)[1],
        "the mean difference itself; find how much the differences vary": 1.5,
        "the standard error; multiply it by t": error,
        "the result with the factor 1.96, which is only right for many seeds": 1.96 * error,
        "the result with the standard deviation; divide it by the square root of 4": 2 * paired,
        "the result with 6 degrees of freedom; for four differences, use 3": _T_6 * error,
    }
    refuse(mine, slips, 0.005)
    assert abs(mine - paired) < 0.005, f"the paired half-width {mine} is not right; the differences are 2, 1, 2 and 1."
    t_3 = paired / error
    slips = {
        "the paired half-width again; treat the runs of A and B as independent": paired,
        "t times the sum of the standard errors; add their squares and take the square root": _T_6 * sum(errors),
        "the standard error; multiply it by t": math.hypot(*errors),
        "the result with 3 degrees of freedom; for two methods with four runs each, use 6": t_3 * math.hypot(*errors),
        "the result with the factor 1.96, which is only right for many seeds": 1.96 * math.hypot(*errors),
        "the half-width for A only; B varies, too": mean_and_interval(a)[1],
    }
    refuse(apart, slips, 0.01)
    assert abs(apart - unpaired) < 0.01, (
        f"the unpaired half-width {apart} is not right; combine the standard errors of both methods."
    )
    for name, half in (("paired", mine), ("unpaired", apart)):
        print(f"the {name} interval, 1.50 ± {half:.2f}, {'contains' if half > 1.5 else 'does not contain'} 0")
    other = half_widths([1.0, 5.0, 3.0], [3.0, 2.0, 1.0])
    assert other is not None, "for other numbers, half_widths() returns None; return two half-widths."
    assert math.isclose(other[0], 6.572, abs_tol=0.01), (
        f"for differences of -2, 3 and 2, you return {other[0]:.2f}; expected 6.57."
    )


def same_gain(same_gain: Callable[[float, float, float], float | None]) -> None:
    """The same gain elsewhere: the perplexity that has the same gain in nats over another rival."""
    found = same_gain(35.26, 33.03, 120.0)
    assert found is not None, "same_gain() returns None; return a perplexity."
    slips = {
        "the perplexity that is lower by the same number of points; the ratio of perplexities matters, so "
        "subtract logarithms": 120 - 2.23,
        "the perplexity that is higher by the same number of nats; a lower perplexity is better": 120 * 35.26 / 33.03,
        "the result of a ratio of logarithms; a gain in nats is a difference of logarithms": 120
        ** (math.log(33.03) / math.log(35.26)),
        "a number of nats; the answer is a perplexity": math.log(120 * 33.03 / 35.26),
        "the gain in nats itself; return a perplexity": math.log(33.03 / 35.26),
    }
    refuse(round(found, 4), slips, 0.01)
    assert abs(found - 120 * 33.03 / 35.26) < 0.01, f"{found:.2f} is not right; 33.03 is 0.065 nats below 35.26."
    again = same_gain(20.0, 10.0, 8.0)
    assert again is not None, "for other numbers, same_gain() returns None; return a perplexity."
    assert math.isclose(again, 4, abs_tol=0.01), (
        f"10 is half of 20, so the answer is half of 8; you return {again:.2f}."
    )


Reported = tuple[float, float]
Gap = Callable[[Sequence[float], Sequence[float], Reported, Reported], tuple[float, float] | None]


def difference_of_differences(difference_of_differences: Gap) -> None:
    """A difference of differences: our advantage minus the paper's advantage, and its standard error."""
    mine, rival = [11.0, 13.0, 15.0], [10.0, 11.0, 12.0]
    answer = difference_of_differences(mine, rival, (31.0, 0.3), (28.0, 0.4))
    assert answer is not None, "difference_of_differences() returns None; return a difference and a standard error."
    gap, error = (round(float(number), 3) for number in answer)
    assert gap != -18, "-18 is the difference between the scores 13 and 31; compare the advantages over the rival."
    assert gap != 1, "1 is the paper's advantage minus ours; return ours minus the paper's."
    assert gap != 5, "5 is the sum of the two advantages; subtract them."
    assert abs(gap + 1) < 1e-3, f"{gap} is not right; our advantage is 2 on average, and the paper's is 3."
    ours = standard_error([1.0, 2.0, 3.0])
    apart = math.hypot(standard_error(mine), standard_error(rival), 0.3, 0.4)
    slips = {
        "only our standard error; the paper's numbers are uncertain, too": ours,
        "only the paper's standard error; our numbers are uncertain, too": 0.5,
        "the sum of the standard errors; add their squares and take the square root": ours + 0.5,
        "the result with 0.3 + 0.4 for the paper; add the squares of 0.3 and 0.4 instead": math.hypot(ours, 0.7),
        "the result without pairs; our two methods share their seeds, so first take each seed's difference": apart,
        "the result with our standard deviation; divide it by the square root of 3": math.hypot(1, 0.5),
    }
    refuse(error, slips, 0.005)
    assert abs(error - math.hypot(ours, 0.5)) < 0.005, (
        f"your standard error is {error}; our standard error is 0.577, and the paper's is 0.5."
    )


def by_chance(by_chance: float | None) -> None:
    """Decided by chance: the probability that at least one of 13 comparisons looks decided."""
    assert by_chance is not None, "replace None in the cell above with a number between 0 and 1."
    slips = {
        "the expected number of comparisons that look decided; this number can exceed 1": 13 * 0.05,
        "the chance that no comparison looks decided; find the chance that at least one comparison does": 0.95**13,
        "the chance for one comparison; there are 13 comparisons": 0.05,
        "the chance that all comparisons look decided; one such comparison is enough": 0.05**13,
    }
    refuse(round(by_chance, 4), slips, 0.004)
    assert by_chance <= 1, f"{by_chance:g} is not a probability; write it as a number between 0 and 1."
    assert abs(by_chance - (1 - 0.95**13)) < 0.006, (
        f"{by_chance:g} is not right; what is the chance that none of the 13 comparisons looks decided?"
    )


# Each claim has one list per task. The list contains an advantage for each seed.
_COMPARISONS: Sequence[Sequence[Sequence[float]]] = (
    [[1.0, 1.2, 1.1]],
    [[-1.0, -1.2, -1.1]],
    [[1.0, 2.0, 0.2]],
    [[0.4]],
    [],
    [[0.0, 0.0, 0.0]],
    [[1.0, 1.2, 1.1], [0.3]],
    [[1.0, 1.2, 1.1], [0.5, -0.5, 0.1]],
    [[3.0, 3.2, 3.1], [-1.0, -1.2, -1.1]],
    [[0.1, -0.1], [0.5]],
)


def verdict(verdict: Callable[[list[list[float]]], str | None]) -> None:
    """Sort a claim: a function that takes the advantage for each task and seed, and returns a verdict."""
    allowed = ("holds", "does not hold", "undecided", "untested")
    for tasks in _COMPARISONS:
        said = verdict([list(task) for task in tasks])
        given = f"for the advantages {[list(task) for task in tasks]},"
        assert said is not None, f"{given} verdict() returns None; return a verdict, such as 'holds'."
        assert said in allowed, f"{given} you say {said!r}; expected one of {', '.join(map(repr, allowed))}."
        rows = [{"claim": "", "source": "", "verdict": paper.verdict(*_interval(task))} for task in tasks]
        right = paper.by_claim(rows)[0]["verdict"] if rows else "untested"
        assert said == right, f"{given} you say {said!r}, but {'; '.join(map(_evidence, tasks)) or 'there is no run'}."


def _interval(task: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    return mean_and_interval(task) if len(task) > 1 else (None, None)


def _evidence(task: Sequence[float]) -> str:
    mean, half = _interval(task)
    if mean is None or half is None:
        return "a single seed gives no interval"
    return f"the interval of {list(task)} goes from {mean - half:.2f} to {mean + half:.2f}"
