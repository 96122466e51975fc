"""Checks of stage 10, scaling out."""

from chts_core.lab.notebook.checks.slips import refuse


def ranks(rank_0: float | None, rank_1: float | None) -> None:
    """Who evolves what: how many millions of weights each of two ranks gets."""
    stubs = "replace both None in the cell above by numbers."
    assert rank_0 is not None, stubs
    assert rank_1 is not None, stubs
    assert rank_0 + rank_1 == 20, f"together they have {rank_0 + rank_1} millions; all layers have 20."
    loads = [0, 0]
    for millions in (6, 5, 4, 3, 2):
        loads[loads.index(min(loads))] += millions
    assert [rank_0, rank_1] == loads, (
        "give the largest layer away first, and each layer to the rank that has the fewest weights so far."
    )


def hours(hours: float | None) -> None:
    """How long: the hours of a training run."""
    assert hours is not None, "replace None in the cell above by a number of hours."
    right = 6e9 * 2e10 / (8 * 1e15 * 0.3) / 3600
    slips = {
        "a third of it: a backward pass costs twice a forward one": right / 3,
        "right for one GPU; here are eight": right * 8,
        "the time without the utilisation": right * 0.3,
        "in seconds": right * 3600,
    }
    refuse(hours, slips, 0.01 * right)
    assert abs(hours - right) < 0.02 * right, f"{hours} is not right; 6 operations for each weight and token."
