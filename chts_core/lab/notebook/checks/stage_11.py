"""Checks of stage 11, the paper's tables."""

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results.statistics import mean_and_interval, standard_error


def errors_away(errors_away: float | None) -> None:
    """How far away: the distance of the paper from your mean, in standard errors."""
    assert errors_away is not None, "replace None in the cell above by a number."
    mine = [71.0, 73.0, 72.0, 72.0]
    right = (74 - sum(mine) / 4) / standard_error(mine)
    slips = {
        "in standard deviations: the standard error of a mean of four is half as large": right / 2,
        "in points of accuracy": 2.0,
        "below 0: the paper is above you": -right,
    }
    refuse(errors_away, slips, 0.01)
    assert abs(errors_away - right) < 0.02, f"{errors_away} is not right; the squares of the deviations sum to 2."


def paired_half_width(paired_half_width: float | None) -> None:
    """Pair them: the half-width of the interval of the paired difference."""
    assert paired_half_width is not None, "replace None in the cell above by a number."
    a, b = [90.0, 94.0, 98.0], [89.0, 93.0, 97.0]
    _, paired = mean_and_interval([one - other for one, other in zip(a, b, strict=True)])
    _, of_one = mean_and_interval(a)
    refuse(paired_half_width, {"the half-width of A alone; subtract seed by seed first": of_one}, 0.1)
    assert paired_half_width != 1, "1 is the difference itself."
    assert abs(paired_half_width - paired) < 1e-6, (
        f"{paired_half_width} is not right; write down the three differences."
    )
