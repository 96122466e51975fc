from collections.abc import Callable
from typing import Any

import pytest

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_10_trains_in_two_processes_that_agree(executed: Executed) -> None:
    results = executed("10")[0]["results"]
    assert results["updates_agreed"] == 6
    assert results["refused"] == "the masks of these layers are not those of rank 0: 2.weight (ranks 1)."


def test_stage_10_goes_on_with_another_number_of_processes(executed: Executed) -> None:
    results = executed("10")[0]["results"]
    assert 0 < results["killed_at"] <= results["steps"]
    assert results["resumed_loss"] == pytest.approx(results["uncut_loss"], abs=0.02)
    assert results["masks"] == 28
    assert results["equal_masks"] > 20


def test_stage_10_sweeps_a_grid(executed: Executed) -> None:
    results = executed("10")[0]["results"]
    assert [row["cell"] for row in results["sweep"]] == ["fc-0", "set-0.7-0", "set-0.95-0", "chts-0.7-0", "chts-0.95-0"]
    assert {row["status"] for row in results["sweep"]} == {"done"}
    assert len({row["perplexity"] for row in results["sweep"]}) == 5


def test_stage_10_estimates_what_larger_models_cost(executed: Executed) -> None:
    costs = executed("10")[0]["results"]["costs"]
    assert [row["size"] for row in costs] == ["60m", "130m", "1b"]
    hours = [row["one GPU, hours"] for row in costs]
    assert hours == sorted(hours)
    # Six operations for each of 41.7 million weights, and attention, on 1.31 billion tokens.
    assert hours[0] == pytest.approx(0.242, rel=0.01)
