from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.results import records
from chts_core.lab.results.statistics import mean_and_interval

Executed = Callable[[str], tuple[dict[str, Any], Any]]
METHODS = list(chts.METHODS)


def test_stage_06_races_nine_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("06")
    settings, results = notebooks.profile_settings("06_mlp", "ci"), record["results"]
    hidden, seeds, sparsity = settings["hidden"], settings["seeds"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["sparsity"]) == (settings["dataset"], sparsity)
    assert (results["recipe"]["hidden"], results["recipe"]["epochs"]) == (hidden, settings["epochs"])

    shapes = [(hidden, 64), (hidden, hidden), (hidden, hidden)]
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    sparse = links / sum(rows * columns for rows, columns in shapes)
    densities = {method: 1 if method == "fc" else sparse for method in METHODS}
    assert {row["method"]: row["density"] for row in results["methods"]} == densities
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [
        (method, seed) for method in densities for seed in range(seeds)
    ]
    for run in results["runs"]:
        assert run["density"] == densities[run["method"]]
        assert len(run["validation_accuracy"]) == len(run["test_by_epoch"]) == settings["epochs"]
        assert run["test_accuracy"] == run["test_by_epoch"][-1]
    for row in results["methods"]:
        assert row["runs"] == seeds
        assert row["accuracy"] > (0.9 if row["method"] == "fc" else 0.2)  # chance is 0.1
        assert row["interval"] >= 0
    assert [row["method"] for row in comparison([record])] == METHODS


def test_stage_06_tells_what_equal_steps_cost(executed: Executed) -> None:
    rows = {row["method"]: row["flops"] for row in executed("06")[0]["results"]["methods"]}
    assert rows["fc"] == 1
    constant = [rows[method] for method in ("set", "cht", "chts")]
    assert len(set(constant)) == 1
    assert all(rows[method] > constant[0] for method in ("mest", "gmp", "granet", "chtss"))


def test_stage_06_pairs_its_differences(executed: Executed) -> None:
    results = executed("06")[0]["results"]
    tests = {(run["method"], run["seed"]): run["test_accuracy"] for run in results["runs"]}
    seeds = sorted({seed for _, seed in tests})
    assert [(row["rival"], row["method"]) for row in results["differences"]] == [
        (rival, method) for rival in ("fc", "chts") for method in METHODS if method != rival
    ]
    for row in results["differences"]:
        mean, interval = mean_and_interval([tests[row["method"], s] - tests[row["rival"], s] for s in seeds])
        assert row["difference"] == pytest.approx(mean, abs=1e-4)  # accuracies are recorded to five digits
        assert row["interval"] == pytest.approx(interval, abs=1e-3)


def test_stage_06_races_a_dense_network_of_as_few_weights(executed: Executed) -> None:
    record, _ = executed("06")
    small, links = record["results"]["small"], 164 + 2 * 655  # 1 % of 256 × 64 and of 256 × 256, twice
    assert record["parameters"]["sparsity"] == 0.99
    assert (small["hidden"], small["weights"]) == (15, 15 * 64 + 2 * 15**2)
    assert small["weights"] <= links < 16 * 64 + 2 * 16**2
    assert 0.2 < small["accuracy"] <= 1
    assert [(row["rival"], row["method"]) for row in small["beside"]] == [("small", method) for method in METHODS]
    runs = record["results"]["runs"]
    fc = mean_and_interval([run["test_accuracy"] for run in runs if run["method"] == "fc"])[0]
    assert small["beside"][0]["difference"] == pytest.approx(fc - small["accuracy"], abs=1e-4)


def test_stage_06_shows_what_choosing_the_test_epoch_does(executed: Executed) -> None:
    results = executed("06")[0]["results"]
    assert results["chosen"] in ("r = 0.0", "r = 0.25", "r = 1.0")
    assert [row["method"] for row in results["epoch_choices"]] == METHODS
    for row in results["epoch_choices"]:
        assert row["best test epoch"] >= max(row["last epoch"], row["chosen on validation"])
        if row["method"] in ("fc", "set", "rigl", "cht", "chts"):
            assert row["best had more links"] == 0
    chtss = next(row for row in results["epoch_choices"] if row["method"] == "chtss")
    assert chtss["best had more links"] > 0  # it falls to its final number of links where the sigmoid is steep


def test_stage_06_keeps_its_races_in_a_folder(executed: Executed) -> None:
    record, _ = executed("06")
    kept = Path(record["parameters"]["out_dir"])
    runs = record["results"]["runs"]
    rows = records.read_runs(kept / "runs.jsonl")
    assert [row["method"] for row in rows] == [run["method"] for run in runs]
    assert [row["test_by_epoch"] for row in rows] == [run["test_by_epoch"] for run in runs]
    trials = records.read_runs(kept / "trials" / "runs.jsonl")
    assert {row["method"] for row in trials} == {"r = 0.0", "r = 0.25", "r = 1.0"}
    checkpoints = [path for path in kept.rglob("*.safetensors") if not path.stem.endswith(".previous")]
    small = records.read_runs(kept / "small" / "runs.jsonl")
    assert {(row["method"], row["recipe"]["hidden"]) for row in small} == {("small", 15)}
    assert len(checkpoints) == len(rows) + len(trials) + len(small)
