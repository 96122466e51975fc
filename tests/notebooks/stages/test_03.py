import math
from collections.abc import Callable
from typing import Any

from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_03_draws_as_enumerated_and_measures_the_entropy(executed: Executed) -> None:
    results = executed("03")[0]["results"]
    bits = {row["softness"]: row["bits"] for row in results["entropy"]}
    assert bits[0.0] == 2
    by_hand = -sum(p * math.log2(p) for p in (0.01, 0.08, 0.27, 0.64))
    assert math.isclose(bits[0.75], by_hand, abs_tol=1e-5)
    assert bits[1.0] == 0
    assert sorted(bits.values(), reverse=True) == list(bits.values())
    assert {row["draw"] for row in results["p_values"]} == {"one by one", "race", "core"}
    assert all(1e-4 < row["p_value"] <= 1 for row in results["p_values"])


def test_in_stage_03_hard_regrowth_is_stuck_and_soft_regrowth_is_not(executed: Executed) -> None:
    results = executed("03")[0]["results"]
    assert len(results["toy"]) == len(results["rules"]) == 4
    for row in results["toy"]:
        stuck = row["regrowth"] == "hard"
        assert (row["last overlap"] > 0.9) == stuck
        assert (row["last overlap"] < 0.3) != stuck
        assert (row["links ever active"] > 1000) != stuck  # 410 of the start and 123 new ones, else
    for row in results["rules"]:
        stuck = "hard regrowth" in row["rule"]
        assert (row["last overlap"] > 0.8) == stuck
        assert (row["last overlap"] < 0.4) != stuck
        assert (row["itop"] > 0.09) != stuck  # 0.05 at the start


def test_stage_03_trains_as_often_as_the_profile_says_and_gives_intervals(executed: Executed) -> None:
    rows = executed("03")[0]["results"]["rules"]
    seeds = notebooks.profile_settings("03_soft_sampling", "ci")["seeds"]
    assert {row["runs"] for row in rows} == {seeds}
    assert all(0.85 < row["validation accuracy"] < 1 and row["interval"] >= 0 for row in rows)
