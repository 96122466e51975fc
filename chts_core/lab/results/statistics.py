"""Means, intervals and paired differences of runs in memory and of recorded runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol, TypeVar


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half-width of its 95 % confidence interval (Student's t). One value has the half-width NaN."""
    from scipy import stats

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, n - 1)) * standard_error(values)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean: the standard deviation divided by the square root of the number of values.

    Raises:
        ValueError: for fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"there are {n} values; expected at least 2 for a standard error.")
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def seeds_needed(values: Sequence[float], effect: float) -> int:
    """The smallest number of seeds that makes the 95 % interval narrow enough to show an effect.

    The function assumes that the values of new seeds vary as much as these values do.

    Args:
        values: paired differences of the available seeds.
        effect: the size of the effect, in the unit of the values. With enough seeds, the half-width of the interval is
            not larger than the effect.

    Raises:
        ValueError: for an effect of 0 or less, or fewer than two values.
    """
    from scipy import stats

    if effect <= 0:
        raise ValueError(f"effect is {effect}; expected a number above 0.")
    deviation = standard_error(values) * math.sqrt(len(values))
    seeds = max(2, math.floor((1.95 * deviation / effect) ** 2))  # t is above 1.95 for any number of seeds
    while stats.t.ppf(0.975, seeds - 1) * deviation / math.sqrt(seeds) > effect:
        seeds += 1
    return seeds


Row = Mapping[str, Any]


def mean_scores(rows: Sequence[Row], score: Callable[[Row], float]) -> list[dict[str, Any]]:
    """Return one row per method and sparsity, in the order of their first run. "mean" is the mean of a score, and
    "interval" is the half-width of its 95 % confidence interval (None for a single run).

    Args:
        rows: rows of `as_record`.
        score: returns the score of a row.
    """
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["sparsity"]), []).append(score(row))
    found = []
    for (method, sparsity), values in groups.items():
        mean, interval = mean_and_interval(values)
        found.append(
            {
                "method": method,
                "sparsity": sparsity,
                "runs": len(values),
                "mean": mean,
                "interval": None if math.isnan(interval) else interval,
            }
        )
    return found


def seed_differences(mine: Sequence[Row], theirs: Sequence[Row], score: Callable[[Row], float]) -> dict[int, float]:
    """For each seed that both sides have, the score of the run in `mine` minus the score of the run in `theirs`."""
    by_seed = {row["seed"]: score(row) for row in theirs}
    return {row["seed"]: score(row) - by_seed[row["seed"]] for row in mine if row["seed"] in by_seed}


def score_differences(rows: Sequence[Row], score: Callable[[Row], float], rival: str) -> list[dict[str, Any]]:
    """For each method and sparsity, the mean of the method's score minus the rival's score with the same seed.

    The rival "fc" has no sparsity, so it is compared with all sparsities. The function leaves out a seed if only
    one of the two methods has a run with it. The other arguments are as in `mean_scores`.
    """
    found = []
    for method, sparsity in dict.fromkeys((row["method"], row["sparsity"]) for row in rows if row["method"] != rival):
        mine = [row for row in rows if (row["method"], row["sparsity"]) == (method, sparsity)]
        theirs = [row for row in rows if row["method"] == rival and (rival == "fc" or row["sparsity"] == sparsity)]
        differences = seed_differences(mine, theirs, score)
        if differences:
            mean, interval = mean_and_interval(list(differences.values()))
            found.append(
                {
                    "method": method,
                    "sparsity": sparsity,
                    "seeds": len(differences),
                    "difference": mean,
                    "interval": None if math.isnan(interval) else interval,
                }
            )
    return found


class Seeded(Protocol):
    """A run of a method with a seed; its other attributes are its results."""

    @property
    def method(self) -> str:
        """The name of the method."""

    @property
    def seed(self) -> int:
        """The seed of the weights, the batches and the topology."""


SeededT = TypeVar("SeededT", bound=Seeded)


def paired_differences(runs: Sequence[Seeded], rival: str, measure: str = "test_accuracy") -> list[dict[str, Any]]:
    """Compare each method with the rival, in pairs of runs with equal seeds. Return one row per method.

    Runs with equal seeds share their batches and, up to a scale, their initial weights, so much of the random variation
    cancels. `difference` is the method's measure minus the rival's measure, on average over the pairs. `interval` is
    the half-width of the 95 % confidence interval of this mean, or None if there is only one seed.

    Args:
        runs: runs of the rival and of other methods.
        rival: the method to compare with.
        measure: the name of an attribute of a run. Accuracies on images are fractions, not per cent.

    Raises:
        ValueError: if a method and the rival do not have the same seeds, or if one of them has several runs with the
            same seed.
    """
    rivals = [run for run in runs if run.method == rival]
    theirs = {run.seed: getattr(run, measure) for run in rivals}
    rows = []
    for method in dict.fromkeys(run.method for run in runs if run.method != rival):
        mine = [run for run in runs if run.method == method]
        if not sorted(run.seed for run in mine) == sorted(run.seed for run in rivals) == sorted(theirs):
            raise ValueError(
                f"{method} was run with seeds {[run.seed for run in mine]} and {rival} with "
                f"{[run.seed for run in rivals]}; "
                "run both with the same seeds, once each."
            )
        mean, interval = mean_and_interval([getattr(run, measure) - theirs[run.seed] for run in mine])
        rows.append(
            {
                "method": method,
                "rival": rival,
                "runs": len(mine),
                "difference": mean,
                "interval": None if math.isnan(interval) else interval,
            }
        )
    return rows


def summarise_by(
    runs: Sequence[SeededT],
    name: str,
    score: Callable[[SeededT], float],
    **others: Callable[[SeededT], float],
) -> list[dict[str, Any]]:
    """Return one row per method. The entry called `name` is the mean of a score over the method's runs, and "interval"
    is the half-width of its 95 % confidence interval (None for a single run). The row also contains the means of the
    measures in `others` and of the measures that all tasks have, such as the density.
    """
    measures = others | {shared: attrgetter(shared) for shared in ("density", "active_neurons", "itop", "seconds")}
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        mean, interval = mean_and_interval([score(run) for run in mine])
        rows.append(
            {
                "method": method,
                "runs": len(mine),
                name: mean,
                "interval": None if math.isnan(interval) else interval,
                **{other: sum(map(measure, mine)) / len(mine) for other, measure in measures.items()},
            }
        )
    return rows
