from collections.abc import Callable
from typing import Any

from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_07_measures_layers_and_training(executed: Executed) -> None:
    record, _ = executed("07")
    results, settings = record["results"], notebooks.profile_settings("07_truly_sparse", "ci")
    assert results["hidden"] == settings["hidden"]
    assert 0 <= results["crossover"] <= 1
    assert {row["samples"] for row in results["layers"]} == {32, 256}
    assert all(row[kind] > 0 for row in results["layers"] for kind in ("dense", "masked", "links"))
    costs = {row["name"]: row for row in results["training"]}
    assert list(costs) == ["FC", "CHTs, masked", "CHTs, links alone", "CHTss, links alone"]
    fc, masked, links, decaying = costs.values()
    assert masked["flops"] == links["flops"] < decaying["flops"] < fc["flops"] == 1
    assert links["memory"] < 0.1 * fc["memory"] < 0.2 * masked["memory"]
