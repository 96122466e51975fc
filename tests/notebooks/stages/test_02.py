import math
import re
from collections.abc import Callable
from typing import Any

import nbformat
import pytest

import chts_core as chts
from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def committed() -> tuple[dict[str, Any], str]:
    """What the notebook that readers see published, and all that stands in it in words."""
    notebook = nbformat.read(notebooks.find("02"), as_version=4)
    said = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            said += [output.get("text", ""), output.get("data", {}).get("text/markdown", "")]
    return records.published(notebook), "\n".join(said)


def test_stage_02_scores_what_is_counted_by_hand(executed: Executed) -> None:
    record, _ = executed("02")
    expected = {"ch2_l3n": 5, "ch3_l3n": 2, "ch3_l3p": math.sqrt(2), "ch2_l3p": 2 * math.sqrt(3)}
    assert record["results"]["scores"] == pytest.approx(expected)


def test_stage_02_finds_node_based_scores_close_to_path_based_ones(executed: Executed) -> None:
    record, _ = executed("02")
    correlation = record["results"]["rank_correlation"]
    assert min(correlation["CH3-L3n"], correlation["CH2-L3n"]) > 0.9
    assert correlation["degrees"] < 0.5


def test_stage_02_walks_as_the_score_says(executed: Executed) -> None:
    record, _ = executed("02")
    results, settings = record["results"], notebooks.profile_settings("02_link_prediction", "ci")
    assert results["chi_square"]["p"] > 1e-4
    width = settings["width"]
    assert results["drawn"] == results["asked_for"] == chts.topology.link_count(width, width, 0.01) // 10


def check_the_repeated_tests(low: dict[str, int]) -> None:
    assert (low["least"], low["most"]) == (3, 19)  # 99 % of the binomial distribution of 200 draws with chance 0.05
    assert low["least"] <= low["count"] <= low["most"]


def test_stage_02_repeats_its_test_of_the_walks(executed: Executed) -> None:
    check_the_repeated_tests(executed("02")[0]["results"]["low_p"])


def test_the_committed_stage_02_says_no_more_of_its_walks_than_its_p_value() -> None:
    results, text = committed()
    check_the_repeated_tests(results["low_p"])
    p = results["chi_square"]["p"]
    assert f"p = {p:.2f}" in text
    assert f"at least this much in {p:.0%} of such runs" in text
    assert "agree up to chance" not in text
    (count,) = re.findall(r"^(\d+) of 200 repetitions have p < 0.05", text, re.MULTILINE)
    assert int(count) == results["low_p"]["count"]


def test_stage_02_measures_every_size_and_density(executed: Executed) -> None:
    record, _ = executed("02")
    rows, sizes = record["results"]["costs"], notebooks.profile_settings("02_link_prediction", "ci")["sizes"]
    assert {row["size"] for row in rows if row["density"] == 0.04} == set(sizes)
    assert {row["density"] for row in rows if row["size"] == sizes[-2]} == {0.01, 0.02, 0.04, 0.1, 0.14}
    assert all(row[name] > 0 for row in rows for name in ("ch3_l3p", "ch2_l3n", "sample_links"))


# --- hidden links ---


def means(results: dict[str, Any], measure: str) -> dict[str, dict[str, float]]:
    """The mean over seeds, by network and score."""
    return {
        name.replace("\n", " "): {score: sum(values) / len(values) for score, values in of.items()}
        for name, of in results[measure].items()
    }


PATH_SCORES = ("CH2-L3n", "CH3-L3n", "CH3-L3p", "number of paths")


def check_what_the_text_says_of_hidden_links(results: dict[str, Any]) -> None:
    auc, precision = means(results, "auc"), means(results, "precision")
    # In a random start no score does better than chance.
    assert all(0.45 < value < 0.55 for value in auc["random start"].values())
    assert all(0.4 < of["random"] < 0.6 for of in auc.values())
    # Receptive fields have the structure before training, and CHTs keep it.
    for network in ("receptive fields", "CHTs, trained"):
        assert all(auc[network][score] > 0.85 for score in PATH_SCORES)
        assert all(precision[network][score] > 0.15 for score in PATH_SCORES)
    # The bare number of paths finds about as many as CH2-L3n everywhere; no more than two points of AUC lie between.
    assert all(abs(of["CH2-L3n"] - of["number of paths"]) < 0.02 for of in auc.values())
    assert min(results["correlation_with_paths"][score] for score in PATH_SCORES) > 0.85
    # In receptive fields hiding lowers the degree of outputs that all had the same: a product of degrees is misled.
    assert auc["receptive fields"]["degree product"] < 0.45


def test_stage_02_finds_hidden_links_where_its_text_says(executed: Executed) -> None:
    results = executed("02")[0]["results"]
    check_what_the_text_says_of_hidden_links(results)
    seeds = notebooks.profile_settings("02_link_prediction", "ci")["seeds"]
    assert {len(values) for of in results["auc"].values() for values in of.values()} == {seeds}


def test_the_committed_stage_02_finds_hidden_links_where_its_text_says() -> None:
    results, said = committed()
    text = " ".join(said.split())
    check_what_the_text_says_of_hidden_links(results)
    auc, precision = means(results, "auc"), means(results, "precision")
    from_random, chts_trained = "CHTs from a random start, trained", "CHTs, trained"
    fields = [auc["receptive fields"][score] for score in PATH_SCORES]
    assert {f"{value:.2f}" for value in fields} == {"0.94"}
    assert "have an AUC of 0.94 before any training" in text
    assert f"an AUC of {auc[chts_trained]['CH2-L3n']:.2f} after training" in text
    assert f"and {precision[chts_trained]['CH2-L3n']:.0%} of".replace("%", " %") in text
    set_trained = auc["SET, trained"]["CH2-L3n"]
    assert f"that SET trained, CH2-L3n has an AUC of {set_trained:.2f}, which is higher than before" in text
    assert f"same random start, CH2-L3n reaches an AUC of {auc[from_random]['CH2-L3n']:.2f}" in text
    assert f"rank correlation {results['correlation_with_paths']['CH2-L3n']:.3f}" in text
    gains = {(row["network"], row["minus"]): row["AUC gain"] for row in results["gains"]}
    assert all(abs(gains[network, "degree product"]) < 0.01 for network in ("SET, trained", from_random))
    most = max(abs(gain) for (_, minus), gain in gains.items() if minus == "number of paths")
    assert f"differ by at most {most:.3f} on every network" in text
    assert auc["receptive fields"]["CH2-L3n"] > auc[chts_trained]["CH2-L3n"]  # CHTs add none


def test_the_committed_stage_02_sees_no_difference_in_accuracy() -> None:
    _, text = committed()
    found = re.findall(r"^(SET|CHTs.*): validation accuracy ([\d.]+) ± ([\d.]+) %$", text, re.MULTILINE)
    assert [name for name, _, _ in found] == ["SET", "CHTs from a random start", "CHTs"]
    low = max(float(mean) - float(half) for _, mean, half in found)
    high = min(float(mean) + float(half) for _, mean, half in found)
    assert low < high  # the intervals have a part in common


# --- the exercises ---


def test_the_committed_stage_02_holds_the_count_of_multiplications_against_the_clock() -> None:
    results, text = committed()
    assert [round((4 * size**2) ** (1 / 3)) for size in (1000, 512)] == [159, 102]
    assert "\\approx 159$, which is a density of 16 %" in " ".join(text.split())
    assert (
        "gives $d \\approx 102$, which is a density of 20 %. Yet in that table, the node-based score is many times "
        "faster than the path-based score at a density of 14 %." in " ".join(text.split())
    )
    (row,) = (row for row in results["costs"] if row["density"] == 0.14)
    assert row["size"] == 512
    assert row["ch3_l3p"] > 5 * row["ch2_l3n"]  # though the count speaks for paths


def test_stage_02_solves_the_exercise_on_two_scores_as_its_text_says(executed: Executed) -> None:
    _, notebook = executed("02")
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    line = r"^output 1 – input 2: number of L3 paths 1, CH2-L3n 4\.00, .*: number of L3 paths 2, CH2-L3n 3\.50, "
    assert re.search(line, printed, re.MULTILINE)
    assert printed.count("Correct.") == 7
