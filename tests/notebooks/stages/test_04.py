from collections.abc import Callable
from typing import Any

from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_04_percolates_and_compacts(executed: Executed) -> None:
    record, _ = executed("04")
    results, settings = record["results"], notebooks.profile_settings("04_percolation", "ci")
    assert results["toy links"] == 7

    anp = {(row["score"], row["sparsity"]): row["anp"] for row in results["anp"]}
    sparsities = sorted({sparsity for _, sparsity in anp})
    assert all(0 < anp["WM", s] <= anp["RI", s] <= 1 for s in sparsities)
    assert anp["WM", 0.99] < anp["RI", 0.99]
    assert anp["WM", 0.9] == anp["RI", 0.9] == 1

    layers = {(row["score"], row["stage"]): row["neurons"] for row in results["layers"]}
    assert len(layers) == 6
    assert layers["WM", "before"] == layers["RI", "before"]
    for score in ("WM", "RI"):
        linked, active = (layers[score, s] for s in ("linked on both sides after removal", "active after percolation"))
        assert all(0 < after <= before for before, after in zip(linked, active, strict=True))

    assert [(row["removal"], row["seed"]) for row in results["compacted"]] == [
        (score, seed) for score in ("WM", "RI") for seed in (0, 1)
    ]
    for row in results["compacted"]:
        assert 0 < row["hidden after"] < row["hidden before"] == 3 * settings["hidden"]
        assert row["parameters after"] < row["parameters before"]
    assert results["seconds dense"] > 0
    assert results["seconds compacted"] > 0
