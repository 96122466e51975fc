"""The recorded runs of classifiers: whole, in one schema, and with exactly the links that they claim."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab import images, records, sweeps, tasks

ROWS = images.recorded()
KEYS = {
    "schema": int,
    "task": str,
    "dataset": str,
    "data": str,
    "method": str,
    "sparsity": float,
    "seed": int,
    "recipe": dict,
    "train_loss": list,
    "validation": list,
    "test": dict,
    "test_by_epoch": list,
    "best_had_more_links": bool,
    "links": int,
    "density": (int, float),
    "active_neurons": float,
    "itop": float,
    "seconds": float,
    "total_seconds": float,
    "evolution_seconds": (int, float),
    "peak_memory_mb": (int, type(None)),
    "device": dict,
    "versions": dict,
    "git": str,
    "finished": str,
}
FEATURES = {"fashion_mnist": 784, "digits": 64}


def named(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['method']} {row['sparsity']} seed {row['seed']}"


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_record_is_whole(row: dict[str, Any]) -> None:
    assert row.keys() == KEYS.keys()
    assert all(isinstance(row[key], kind) for key, kind in KEYS.items())
    recipe = images.Recipe(**row["recipe"])
    assert len(row["validation"]) == len(row["test_by_epoch"]) == len(row["train_loss"]) == recipe.epochs
    steps = row["validation"][0]["step"]
    assert [look["step"] for look in row["validation"]] == [steps * epoch for epoch in range(1, recipe.epochs + 1)]
    assert [step for step, _ in row["train_loss"]] == [look["step"] for look in row["validation"]]
    assert len(row["git"]) == 40  # of a checkout without changes


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_the_three_test_accuracies_are_those_of_their_epochs(row: dict[str, Any]) -> None:
    validation = [look["accuracy"] for look in row["validation"]]
    assert row["test"] == {
        "accuracy": row["test_by_epoch"][-1],
        "chosen": row["test_by_epoch"][validation.index(max(validation))],
        "best": max(row["test_by_epoch"]),
    }


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_record_has_the_links_of_its_sparsity_exactly(row: dict[str, Any]) -> None:
    hidden = row["recipe"]["hidden"]
    shapes = [(hidden, FEATURES[row["dataset"]]), (hidden, hidden), (hidden, hidden)]
    density = 1.0 if row["method"] == "fc" else 1 - row["sparsity"]
    assert row["links"] == sum(chts.topology.link_count(*shape, density) for shape in shapes)
    assert row["density"] == pytest.approx(row["links"] / sum(out * in_ for out, in_ in shapes), abs=1e-12)


def test_no_run_is_recorded_twice() -> None:
    assert max(Counter(map(named, ROWS)).values()) == 1


@pytest.mark.parametrize("dataset", sorted({row["dataset"] for row in ROWS}))
def test_runs_that_are_compared_differ_in_method_sparsity_seed_and_storage_alone(dataset: str) -> None:
    rows = [row for row in ROWS if row["dataset"] == dataset]
    for key in ("data", "versions"):
        assert all(row[key] == rows[0][key] for row in rows), key
    recipes = [{**row["recipe"], "execution": ""} for row in rows]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_fashion_mnist_has_the_paper_s_recipe() -> None:
    paper = images.RECIPES["mlp_paper"]
    assert (paper.hidden, paper.epochs, paper.batch_size, paper.learning_rate) == (1568, 100, 32, 0.025)
    assert (paper.momentum, paper.weight_decay) == (0.9, 5e-4)
    for row in ROWS:
        if row["dataset"] == "fashion_mnist":
            assert replace(images.Recipe(**row["recipe"]), execution="masked") == images.RECIPES["mlp_paper"]
            assert row["sparsity"] == (0.0 if row["method"] == "fc" else 0.99)


@pytest.mark.parametrize("dataset", ["fashion_mnist", "digits"])
def test_the_sweep_that_repeats_them_has_these_runs(dataset: str) -> None:
    mine = [row for row in ROWS if row["dataset"] == dataset]
    cells = sweeps.cells(records.results_folder() / f"{dataset}.yaml")
    recipes = [tasks.checked(cell.subject, cell.parameters)[0] for cell in cells]
    assert all(recipe == images.Recipe(**mine[0]["recipe"]) for recipe in recipes)
    again = {
        (cell.parameters["method"], cell.parameters.get("sparsity", 0.0), cell.parameters["seed"]) for cell in cells
    }
    assert {(row["method"], row["sparsity"], row["seed"]) for row in mine} == again
