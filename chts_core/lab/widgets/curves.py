"""Stored learning curves of two methods, and the difference between their last scores for each seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from matplotlib.figure import Figure

from chts_core.lab import figures
from chts_core.lab.figures.style import method_label
from chts_core.lab.results import records, report
from chts_core.lab.results.report import Row
from chts_core.lab.results.statistics import mean_and_interval, seed_differences
from chts_core.lab.widgets.explorer import Explorer, menu
from chts_core.methods import METHODS


@cache
def stored() -> dict[str, list[Row]]:
    """The recorded runs of the nine methods, by the name of their comparison.

    The result leaves out variants, runs without validation, comparisons of fewer than three methods, and comparisons
    with several runs of the same method, sparsity and seed. Only tables show these runs.
    """
    found: dict[str, list[Row]] = {}
    for name, rows in report.read(records.results_folder()).items():
        mine: list[Row] = [row for row in rows if row["method"] in METHODS and row["validation"]]
        once = len({(row["method"], row["sparsity"], row["seed"]) for row in mine}) == len(mine)
        if once and len({row["method"] for row in mine}) > 2:
            found[name] = mine
    return found


@dataclass(frozen=True)
class CurveState:
    """What the curve explorer shows: two methods from a comparison in `stored()`, at one sparsity."""

    comparison: str = "images: digits"
    sparsity: float = 0.95
    method: str = "chts"
    rival: str = "set"


@dataclass(frozen=True)
class CurveResult:
    """The curves of both methods and of FC, the difference between the two methods' last scores for each seed, and a
    description.

    If one of the methods has no stored runs, there are no curves and no differences.
    """

    courses: dict[str, list[list[tuple[float, float]]]]
    differences: dict[int, float]
    description: str


class CurveExplorer(Explorer[CurveState, CurveResult]):
    """Compare the stored learning curves of two methods."""

    name = "curves"
    State = CurveState
    recorded: ClassVar = {
        "method": tuple(name for name in METHODS if name != "fc"),
        "rival": ("set", "rigl", "chts"),
    }

    @staticmethod
    def compute(state: CurveState) -> CurveResult:
        """Return the curves of a state; if there are none, the description says which curves exist."""
        rows = stored()[state.comparison]
        mine, theirs = (_of(rows, method, state.sparsity) for method in (state.method, state.rival))
        pair = f"{method_label(state.method)} and {method_label(state.rival)}"
        place = f"{state.comparison}, {state.sparsity:.0%} sparse"
        if not mine or not theirs:
            methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
            shares = sorted({row["sparsity"] for row in rows if row["method"] != "fc"})
            return CurveResult(
                {},
                {},
                f"{place}: one or both of {pair} have no stored runs. There are stored runs of "
                f"{', '.join(map(method_label, methods))} at {', '.join(f'{share:.0%}' for share in shares)}.",
            )
        score = report.SCORES[rows[0]["task"]]
        found = seed_differences(mine, theirs, score.of)
        mean, interval = mean_and_interval(list(found.values()))
        courses = {
            method: [score.course(row) for row in _of(rows, method, state.sparsity)]
            for method in dict.fromkeys((state.method, state.rival, "fc"))
        }
        if state.method == state.rival:
            refusal = f"{place}: both methods are {method_label(state.method)}; choose two different methods."
            return CurveResult({state.method: [score.course(row) for row in mine]}, found, refusal)
        gap, certainty = f"{mean:+.{score.digits}f}", ""
        if len(found) > 1:
            gap += f" ± {interval:.{score.digits}f}"
            zero = "contains" if abs(mean) <= interval else "does not contain"
            certainty = f" The 95 % confidence interval {zero} 0."
        return CurveResult(
            {method: lines for method, lines in courses.items() if lines},
            found,
            f"{place}: in {score.name}, {method_label(state.method)} minus {method_label(state.rival)} is {gap} over "
            f"{len(found)} {'seed' if len(found) == 1 else 'seeds'}.{certainty}",
        )

    @staticmethod
    def draw(state: CurveState, result: CurveResult) -> Figure:
        """Draw the curves beside the differences; the picture is empty if there are no curves."""
        title = f"{state.comparison}, {state.sparsity:.0%} sparse"
        if not result.courses:
            return figures.empty(f"{title}:\none or both methods have no stored runs", "step", "score")
        score = report.SCORES[stored()[state.comparison][0]["task"]]
        difference = f"{method_label(state.method)} minus {method_label(state.rival)}\n{score.name}"
        return figures.two_compared(result.courses, score.course_name, result.differences, difference, title)

    def make_controls(self, state: CurveState) -> dict[str, Any]:
        """Menus for the comparison, the sparsity and both methods."""
        shares = sorted({row["sparsity"] for rows in stored().values() for row in rows if row["method"] != "fc"})
        methods = [(method_label(name), name) for name in METHODS]
        return {
            "comparison": menu("comparison", state.comparison, list(stored())),
            "sparsity": menu("sparsity", state.sparsity, [(f"{share:.0%}", share) for share in shares]),
            "method": menu("method", state.method, methods),
            "rival": menu("minus", state.rival, methods),
        }


def _of(rows: Sequence[Row], method: str, sparsity: float) -> list[Row]:
    """The rows of a method at a sparsity; FC has no sparsity."""
    return [row for row in rows if row["method"] == method and (method == "fc" or row["sparsity"] == sparsity)]
