"""Checks of stage 12, open questions."""

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results.statistics import seeds_needed


def number_of_seeds(number_of_seeds: int | None) -> None:
    """How many seeds: the number that makes the half-width 1 for the differences 0, 2, 0 and 2."""
    assert number_of_seeds is not None, "replace None in the cell above by a number of seeds."
    slips = {
        "right for a deviation of 1; it is the root of 4/3, since one degree of freedom is used by the mean": 7.0,
        "right for the factor 1.96, which is for many seeds": 6.0,
    }
    refuse(number_of_seeds, slips, 0)
    needed = seeds_needed([0.0, 2.0, 0.0, 2.0], 1.0)
    assert number_of_seeds == needed, f"{number_of_seeds} is not right; multiply the deviation by each factor."
