from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from chts_core.lab.results import paper, records, report

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_11_counts_the_recorded_runs(executed: Executed) -> None:
    results = executed("11")[0]["results"]
    assert results["runs"] == {name: len(rows) for name, rows in report.read(records.results_folder()).items()}
    assert results["comparison"] == "images: fashion_mnist"


def test_stage_11_puts_fashion_mnist_beside_the_paper(executed: Executed) -> None:
    rows = {row["method"]: row for row in executed("11")[0]["results"]["fashion_mnist"]}
    assert {method: row["paper"] for method, row in rows.items()} == {
        method: accuracy for method, (accuracy, _) in paper.PAPER_MLP["fashion_mnist"].items()
    }
    assert rows["set"]["difference"] == pytest.approx(-0.09, abs=0.005)
    assert rows["set"]["standard_errors"] == pytest.approx(-1.5, abs=0.05)
    assert rows["fc"]["standard_errors"] is None  # a single run


def test_stage_11_says_what_its_text_says(executed: Executed) -> None:
    record, notebook = executed("11")
    verdicts = Counter(row["verdict"] for row in record["results"]["claims"].values())
    decided = verdicts["holds"] + verdicts["does not hold"]
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert (verdicts["holds"], decided, decided + verdicts["cannot be told"]) == (1, 2, 13)
    assert "Two of 13 are decided, and one of these goes against the paper" in text
    (against,) = [row for row in record["results"]["claims"].values() if row["verdict"] == "does not hold"]
    assert against["claim"] == "the last weight of a link is ahead of zero in translation"
    assert -against["advantage"] == pytest.approx(against["interval"], abs=0.01)
    assert [(row["size"], row["method"]) for row in record["results"]["out_of_order"]] == [
        ("60m", "set"),
        ("130m", "rigl"),
        ("130m", "granet"),
    ]
