from collections.abc import Callable
from typing import Any

import chts_core as chts
from chts_core.lab import notebooks
from chts_core.lab.tour import comparison

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_06_races_four_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("06")
    settings, results = notebooks.profile_settings("06_mlp", "ci"), record["results"]
    hidden, seeds, sparsity = settings["hidden"], settings["seeds"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["sparsity"]) == (settings["dataset"], sparsity)
    assert (results["recipe"]["hidden"], results["recipe"]["epochs"]) == (hidden, settings["epochs"])

    shapes = [(hidden, 64), (hidden, hidden), (hidden, hidden)]
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    sparse = links / sum(rows * columns for rows, columns in shapes)
    densities = {"fc": 1, "set": sparse, "chts": sparse, "chtss": sparse}
    assert {row["method"]: row["density"] for row in results["methods"]} == densities
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [
        (method, seed) for method in densities for seed in range(seeds)
    ]
    for run in results["runs"]:
        assert run["density"] == densities[run["method"]]
        assert len(run["validation_accuracy"]) == settings["epochs"]
    for row in results["methods"]:
        assert row["runs"] == seeds
        assert row["accuracy"] > (0.9 if row["method"] == "fc" else 0.2)  # chance is 0.1
        assert row["interval"] >= 0
    assert [row["method"] for row in comparison([record])] == list(densities)
