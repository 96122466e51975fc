"""Checks of stage 06, the perceptron."""

from collections.abc import Sequence

from chts_core.lab.data import ImageData
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results import statistics
from chts_core.lab.train import images
from chts_core.lab.train.recipes import ImageRecipe
from chts_core.methods import Method


def mine(
    mine: Method,
    *,
    chts: Method,
    task: ImageData,
    sparsity: float,
    recipe: ImageRecipe,
    device: str,
    runs: Sequence[images.Run],
) -> None:
    """Mix a method of your own: a method that differs from CHTs in one choice.

    It is trained as the notebook trained `chts`, and compared with the runs of "chts" among `runs`.
    """
    changed = [choice for choice, value in vars(mine).items() if value != getattr(chts, choice)]
    assert changed, "mine is CHTs as it was; give replace() a choice, such as topology=..., regrowth=... or removal=..."
    assert len(changed) == 1, (
        f"{' and '.join(changed)} differ: change one, or you will not know which of them mattered."
    )
    rivals = [run for run in runs if run.method == "chts"]
    seeds = [run.seed for run in rivals]
    more = images.race(task, {"mine": mine}, sparsity, recipe, seeds=seeds, device=device)
    (row,) = statistics.paired_differences([*more, *rivals], "chts")
    interval = f" ± {100 * row['interval']:.1f}" if row["interval"] is not None else ""
    print(f"another {changed[0]}: {100 * row['difference']:+.1f}{interval} percentage points against CHTs")


def half_width(half_width: float | None) -> None:
    """An interval by hand: its half-width in percentage points."""
    assert half_width is not None, "replace None in the cell above by a number of percentage points."
    assert half_width >= 0.1, f"{half_width} looks like a fraction: give percentage points."
    slips = {
        "the standard error: multiply it by t": 2 / 3**0.5,
        "t·s, the scatter of single runs: the mean of n runs varies less, so divide by √n": 4.303 * 2,
        "1.96·s/√n, which is right for many runs: for three, t is 4.30": 1.96 * 2 / 3**0.5,
        "the result if you divide the squares by n: s divides them by n − 1": 4.303 * (8 / 3) ** 0.5 / 3**0.5,
        "the whole width, from end to end: give the half": 2 * 4.303 * 2 / 3**0.5,
    }
    refuse(half_width, slips, 0.06)
    expected = statistics.mean_and_interval([90.0, 92.0, 94.0])[1]
    assert abs(half_width - expected) < 0.06, f"{half_width} is not right; s is 2 points here, and n is 3."
