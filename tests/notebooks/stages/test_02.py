import math
from collections.abc import Callable
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


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


def test_stage_02_measures_every_size_and_density(executed: Executed) -> None:
    record, _ = executed("02")
    rows, sizes = record["results"]["costs"], notebooks.profile_settings("02_link_prediction", "ci")["sizes"]
    assert {row["size"] for row in rows if row["density"] == 0.04} == set(sizes)
    assert {row["density"] for row in rows if row["size"] == sizes[-2]} == {0.01, 0.02, 0.04, 0.1, 0.14}
    assert all(row[name] > 0 for row in rows for name in ("ch3_l3p", "ch2_l3n", "sample_links"))
