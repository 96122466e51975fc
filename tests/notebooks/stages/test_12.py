"""Stage 12: its table is made from records, and what its text says is what its outputs show."""

import math
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from committed import questions_and_papers

from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records, standing, tables
from chts_core.lab.results.statistics import mean_and_interval

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_12_runs_its_five_projects(executed: Executed) -> None:
    record, _ = executed("12")
    results, settings = record["results"], notebooks.profile_settings("12_open_questions", "ci")
    assert record["error"] is None
    assert sorted(results["shuffles"]) == ["learned", "random", "same degrees"]
    for scores in results["shuffles"].values():
        assert len(scores) == settings["seeds"]
        assert all(30 < score <= 100 for score in scores)  # chance is 10
    assert (results["popular"]["method"], results["popular"]["rival"]) == ("popular", "set")
    assert results["sweep"] == 3 * 5
    assert results["widths"] == {"0.9": 71, "0.95": 47, "0.97": 34}
    assert [row["method"] for row in results["own"]] == ["fc", "chts"]
    assert all(row["accuracy"] > 0.6 for row in results["own"])


def test_the_two_networks_of_the_diagonal_are_equally_likely(executed: Executed) -> None:
    # 100 fair draws; outside of 30 to 70 with a chance of less than 0.0001.
    assert 30 <= executed("12")[0]["results"]["swapped"] <= 70


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(notebooks.find("12"), as_version=4)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return standing.standing()


def text_of(notebook: Any) -> str:
    return " ".join("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split())


def test_the_committed_table_is_that_of_the_records(committed: Any, rows: list[dict[str, Any]]) -> None:
    shown = records.published(committed)["standing"]
    assert [row["claim"] for row in shown] == [row["claim"] for row in rows]
    for one, other in zip(shown, rows, strict=True):
        assert one == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in other.items()
        }


def test_the_text_counts_the_claims_as_the_table_does(committed: Any, rows: list[dict[str, Any]]) -> None:
    text = text_of(committed)
    assert len(rows) == 12
    assert "for how many of the twelve claims does the interval exclude 0?" in text
    verdicts = {row["claim"]: row["verdict"] for row in rows}
    assert [claim for claim, verdict in verdicts.items() if verdict == "holds"] == [
        "CHTs is ahead of SET in an MLP",
        "CHTs is ahead of SET in translation",
        "a sparse network is ahead of a dense network with as many weights, on Fashion-MNIST",
    ]
    assert [claim for claim, verdict in verdicts.items() if verdict == "does not hold"] == [
        "link prediction is ahead of random regrowth",
        "regrowth with the last weight is ahead of regrowth from zero in translation",
    ]
    assert list(verdicts.values()).count("untested") == 1
    assert "Five intervals exclude 0. Three of these five results agree with their claims" in text
    assert "we looked at eleven intervals" in text
    for row in rows:
        if row["verdict"] == "does not hold":  # "end close to 0"
            assert 1 < -row["advantage"] / row["interval"] < 1.25


def test_the_width_by_hand_is_that_of_the_text(committed: Any) -> None:
    links = round(0.1 * 64 * 256) + 2 * round(0.1 * 256 * 256)
    assert links == 14746
    width = (math.sqrt(64**2 + 8 * links) - 64) / 4
    assert width == pytest.approx(71.3, abs=0.05)
    assert "$d = 64$ and $L = 14746$. The formula gives $w = 71.3$" in text_of(committed)


def test_the_dense_network_with_as_many_weights_as_the_paper_s_mlp_has_links() -> None:
    links = round(0.01 * 784 * 1568) + 2 * round(0.01 * 1568 * 1568)
    for last, width in ((0, 67), (10, 81)):  # without and with the last layer
        sizes = {w: 784 * w + 2 * w * w + last * w for w in (width - 1, width, width + 1)}
        assert min(sizes, key=lambda w: abs(sizes[w] - links - last * 1568)) == width
        assert any(row["recipe"]["hidden"] == width for row in tables.runs("small_dense"))
    assert (10 * 1568, 10 * 67) == (15_680, 670)  # as the text says


def test_printed_differences_are_those_of_the_scores(committed: Any) -> None:
    shuffles = records.published(committed)["shuffles"]
    printed = "".join(output.get("text", "") for cell in committed.cells for output in cell.get("outputs", []))
    for name in ("same degrees", "random"):
        pairs = zip(shuffles[name], shuffles["learned"], strict=True)
        mean, half = mean_and_interval([score - other for score, other in pairs])
        assert f"difference from learned: {mean:+.2f} ± {half:.2f} points" in printed
        assert abs(mean) < half
    assert "(profile `laptop`), both intervals contain 0" in text_of(committed)


def test_stage_12_ends_with_questions_and_papers() -> None:
    questions, papers = questions_and_papers("12")
    assert questions == 3
    assert len(papers) == 6
