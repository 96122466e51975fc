import re
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from committed import questions_and_papers

from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records

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


def test_days_are_at_the_rate_of_the_dense_run_whatever_the_threads(executed: Executed) -> None:
    results = executed("10")[0]["results"]
    rate = results["dense"]["operations"] / results["dense"]["seconds"]
    for row in results["costs"]:
        # One GPU does 0.4 · 989e12 operations per second.
        assert row["days here"] * 24 * rate == pytest.approx(row["one GPU, hours"] * 0.4 * 989e12)
    committed = nbformat.read(notebooks.find("10"), as_version=4)
    code = "".join(cell.source for cell in committed.cells if cell.cell_type == "code")
    assert "get_num_threads" not in code
    published = records.published(committed)
    printed = "".join(output.get("text", "") for cell in committed.cells for output in cell.get("outputs", []))
    assert f"threads: {published['dense']['threads']}\n" in printed
    assert "this core" not in printed


def test_two_halves_have_the_gradient_that_the_text_computes_by_hand() -> None:
    committed = nbformat.read(notebooks.find("10"), as_version=4)
    halves = records.published(committed)["ranks"]
    # (6, 12, 0) and (0, 2, 2); (8, 0, 4) and (4, 4, 4).
    assert halves == {"gradients": [[3, 7, 1], [6, 2, 4]], "mean": [4.5, 4.5, 2.5]}
    text = "".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    for words in ("$(6, 12, 0)$", "$(0, 2, 2)$", "$(3, 7, 1)$"):
        assert words in text


@pytest.mark.parametrize("term", ["rank", "all-reduce", "throughput"])
def test_a_term_is_explained_where_it_is_used_first(term: str) -> None:
    cells = nbformat.read(notebooks.find("10"), as_version=4).cells[1:]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    first = re.search(rf"\*?\b{term}s?\b", text, re.IGNORECASE)
    assert first is not None
    assert first[0] == f"*{term}"


def test_stage_10_ends_with_questions_and_papers() -> None:
    questions, papers = questions_and_papers("10")
    assert questions == 3
    assert len(papers) == 6
