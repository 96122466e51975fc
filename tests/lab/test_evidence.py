"""Tables of records, on records that are made up."""

from typing import Any

import pytest

from chts_core.lab.results import records, tables
from chts_core.lab.train.sweeps import cells


def made_up(method: str, seed: int, jumps: list[float], last: float, **recipe: int) -> dict[str, Any]:
    updates: list[dict[str, Any]] = [
        {"step": 10 * number, "before": 4.0, "after": 4.0 + rise, "next": 4.0 + 2 * rise}
        for number, rise in enumerate(jumps, start=1)
    ]
    return {
        "task": "language",
        "method": method,
        "seed": seed,
        "recipe": {"iterative_warmup": 0, "link_warmup": 0, **recipe},
        "updates": updates,
        "validation": [{"step": 50, "loss": 9.0}, {"step": 100, "loss": last}],
    }


def test_a_jump_is_the_mean_over_the_updates_of_a_run() -> None:
    row = made_up("chts", 0, [0.1, 0.3], 3.0)
    assert tables.jump(row, "after") == pytest.approx(0.2)
    assert tables.jump(row, "next") == pytest.approx(0.4)
    row["updates"][-1]["next"] = None  # the run ended
    assert tables.jump(row, "next") == pytest.approx(0.2)


def test_updates_are_told_by_turnover_and_warmup() -> None:
    rows = [
        made_up("chts", 0, [0.1, 0.3], 3.0),
        made_up("chts", 1, [0.4, 0.4], 3.2),
        made_up("chts/paper_llama", 0, [0.05], 3.5, link_warmup=2),
        made_up("set", 0, [-0.05], 3.5, iterative_warmup=3),
    ]
    assert tables.update_warmup(rows).splitlines() == [
        "| turnover | warm-up | change of the loss at an update | change after one more step | validation loss |",
        "| --- | --- | --- | --- | --- |",
        "| ζ from 0.3 | none | 0.3000 ± 0.1000 | 0.6000 ± 0.2000 | 3.100 ± 0.100 |",
        "| ζ from 0.1 | of new links, 2 steps | 0.0500 | 0.1000 | 3.500 |",
        "| `set` | of all weights, 3 steps | -0.0500 | -0.1000 | 3.500 |",
    ]


def test_the_sweeps_compare_no_warmup_and_two() -> None:
    folder = records.results_folder()
    found = [cell for name in ("", "_iterative") for cell in cells(folder / f"update_warmup{name}.yaml")]
    assert len(found) == 18
    assert all(cell.parameters["watch_updates"] is True for cell in found)
    kinds = {(cell.parameters.get("iterative_warmup", 0), cell.parameters.get("link_warmup", 0)) for cell in found}
    assert kinds == {(0, 0), (2, 0), (0, 2)}
