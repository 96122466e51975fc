"""The recorded runs of classifiers: whole, in one schema, and with exactly the links that they claim."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab.results import records
from chts_core.lab.train import images, sweeps, tasks

ROWS = images.recorded()
PAPER_MLP = records.read_runs(records.results_folder() / "mlp_paper.jsonl")
ABLATIONS = records.read_runs(records.results_folder() / "ablations.jsonl")
EARLIER = records.results_folder() / "revision_1"
EARLIER_ROWS = records.read_runs(EARLIER / "images.jsonl")
EARLIER_ABLATIONS = records.read_runs(EARLIER / "ablations.jsonl")
DECAY = records.read_runs(EARLIER / "ablations_decay.jsonl")
SMALL_DENSE = records.read_runs(records.results_folder() / "small_dense.jsonl")
UNSHIFTED = records.read_runs(records.results_folder() / "cifar10_unshifted.jsonl")
EVERY = [*ROWS, *PAPER_MLP, *UNSHIFTED, *ABLATIONS, *SMALL_DENSE, *EARLIER_ROWS, *EARLIER_ABLATIONS, *DECAY]
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
FEATURES = {"cifar10": 3072, "mnist": 784, "fashion_mnist": 784, "digits": 64}


def named(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['method']} {row['sparsity']} seed {row['seed']}"


def whole_recipe_of(row: dict[str, Any]) -> images.Recipe:
    """A start from the correlations of the inputs was once a setting of it."""
    return images.Recipe(**{name: value for name, value in row["recipe"].items() if name != "csti"})


def recipe_of(row: dict[str, Any]) -> images.Recipe:
    """Without how sparse layers are stored, which does not change what is learnt."""
    return replace(whole_recipe_of(row), execution="masked")


@pytest.mark.parametrize("row", EVERY, ids=named)
def test_a_record_is_whole(row: dict[str, Any]) -> None:
    newer = {"methods", "skipped_steps", "active_neurons_published"}
    assert row.keys() - newer == KEYS.keys()
    assert all(isinstance(row[key], kind) for key, kind in KEYS.items())
    recipe = whole_recipe_of(row)
    assert len(row["test_by_epoch"]) == len(row["train_loss"]) == recipe.epochs
    steps = [step for step, _ in row["train_loss"]]
    assert steps == [steps[0] * epoch for epoch in range(1, recipe.epochs + 1)]
    assert [look["step"] for look in row["validation"]] == ([] if recipe.all_images else steps)
    assert len(row["git"]) == 40  # of a checkout without changes


@pytest.mark.parametrize("row", EVERY, ids=named)
def test_the_three_test_accuracies_are_those_of_their_epochs(row: dict[str, Any]) -> None:
    validation = [look["accuracy"] for look in row["validation"]]
    assert row["test"] == {
        "accuracy": row["test_by_epoch"][-1],
        "chosen": row["test_by_epoch"][validation.index(max(validation))] if validation else None,
        "best": max(row["test_by_epoch"]),
    }


@pytest.mark.parametrize("row", EVERY, ids=named)
def test_a_record_has_the_links_of_its_sparsity_exactly(row: dict[str, Any]) -> None:
    hidden = row["recipe"]["hidden"]
    shapes = [(hidden, FEATURES[row["dataset"]]), (hidden, hidden), (hidden, hidden)]
    density = 1.0 if row["method"] == "fc" else 1 - row["sparsity"]
    assert row["links"] == sum(chts.topology.link_count(*shape, density) for shape in shapes)
    assert row["density"] == pytest.approx(row["links"] / sum(out * in_ for out, in_ in shapes), abs=1e-12)


@pytest.mark.parametrize("rows", [ROWS, PAPER_MLP, ABLATIONS, EARLIER_ROWS, EARLIER_ABLATIONS, DECAY])
def test_no_run_is_recorded_twice(rows: list[dict[str, Any]]) -> None:
    assert max(Counter(map(named, rows)).values()) == 1


@pytest.mark.parametrize("dataset", sorted({row["dataset"] for row in ROWS}))
def test_runs_that_are_compared_differ_in_method_sparsity_seed_and_storage_alone(dataset: str) -> None:
    rows = [row for row in ROWS if row["dataset"] == dataset]
    for key in ("data", "versions"):
        assert all(row[key] == rows[0][key] for row in rows), key
    recipes = [recipe_of(row) for row in rows]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_the_paper_s_mlp_was_run_with_the_paper_s_recipe_and_before_with_another() -> None:
    paper = images.RECIPES["mlp_paper"]
    assert (paper.hidden, paper.epochs, paper.batch_size, paper.learning_rate) == (1568, 100, 32, 0.025)
    assert (paper.momentum, paper.weight_decay) == (0.9, 5e-4)
    before = replace(paper, standardise=False, first_weights="by_links", epochs_of_decay=None, all_images=False)
    earlier = [row for row in EARLIER_ROWS if row["dataset"] == "fashion_mnist"]
    for rows, recipe in ((PAPER_MLP, paper), (earlier, before)):
        for row in rows:
            assert recipe_of(row) == (images.RECIPES["mlp_paper_cifar10"] if row["dataset"] == "cifar10" else recipe)
            assert row["sparsity"] == (0.0 if row["method"] == "fc" else 0.99)


def test_the_run_without_shifted_images_differs_in_nothing_else() -> None:
    (row,) = UNSHIFTED
    (beside,) = [run for run in PAPER_MLP if named(run) == named(row)]
    assert replace(recipe_of(row), augment=True) == recipe_of(beside)
    assert row["data"] == beside["data"]


Settings = tuple[images.Recipe, str, float, int]


def settings_of(path: Path) -> list[Settings]:
    found = []
    for cell in sweeps.cells(path):
        recipe, run = tasks.checked(cell.subject, cell.parameters)
        assert isinstance(recipe, images.Recipe)
        found.append((recipe, run["method"], run["sparsity"], run["seed"]))
    return found


@pytest.mark.parametrize(
    ("rows", "made_by"),
    [
        ([row for row in ROWS if row["dataset"] == "digits"], [EARLIER.parent / "digits.yaml"]),
        (ABLATIONS, [EARLIER.parent / "ablations.yaml"]),
        (
            [row for row in SMALL_DENSE if row["dataset"] == "digits"],
            [EARLIER.parent / "small_dense.yaml"],
        ),
        (
            [row for row in EARLIER_ROWS if row["dataset"] == "fashion_mnist"],
            [EARLIER / "fashion_mnist.yaml", EARLIER / "fashion_mnist_denser.yaml"],
        ),
        ([row for row in EARLIER_ROWS if row["dataset"] == "digits"], [EARLIER / "digits.yaml"]),
        (
            [row for row in EARLIER_ABLATIONS if row["dataset"] == "digits"],
            [EARLIER / "ablations.yaml", EARLIER / "ablations_csti.yaml"],
        ),
        (
            [row for row in EARLIER_ABLATIONS if row["dataset"] == "fashion_mnist"],
            [EARLIER / f"ablations_fashion{more}.yaml" for more in ("", "_once", "_csti")],
        ),
        (DECAY, [EARLIER / "ablations_decay.yaml"]),
    ],
    ids=[
        "digits",
        "ablations",
        "small dense",
        "fashion",
        "first digits",
        "first ablations",
        "first fashion",
        "decay",
    ],
)
def test_the_sweeps_that_repeat_them_have_these_runs(rows: list[dict[str, Any]], made_by: list[Path]) -> None:
    again = {(*settings[1:], settings[0].hidden): settings[0] for path in made_by for settings in settings_of(path)}
    recorded = {
        (row["method"], row["sparsity"], row["seed"], row["recipe"]["hidden"]): whole_recipe_of(row) for row in rows
    }
    assert len(recorded) == len(rows)
    assert recorded.keys() == again.keys()
    for key, recipe in again.items():
        storage = recorded[key].execution if recipe.execution == "auto" else recipe.execution  # it chooses one of them
        assert recorded[key] == replace(recipe, execution=storage)


@pytest.mark.parametrize("rows", [PAPER_MLP, [row for row in SMALL_DENSE if row["dataset"] != "digits"]])
def test_the_sweeps_of_the_paper_s_mlp_have_all_recorded_runs(rows: list[dict[str, Any]]) -> None:
    small = rows[0]["recipe"]["hidden"] < 100
    for dataset in {row["dataset"] for row in rows}:
        path = EARLIER.parent / ("small_dense_paper.yaml" if small else f"{dataset}.yaml")
        again = {}
        for cell in sweeps.cells(path):
            recipe, run = tasks.checked(cell.subject, cell.parameters)
            assert isinstance(recipe, images.Recipe)
            if run["dataset"] != dataset:
                continue
            again[run["method"], run["sparsity"], run["seed"], recipe.hidden] = replace(recipe, execution="masked")
        for row in rows:
            if row["dataset"] == dataset:
                key = (row["method"], row["sparsity"], row["seed"], row["recipe"]["hidden"])
                assert again[key] == recipe_of(row)


def test_the_two_decays_of_equal_cost_are_in_the_ablations() -> None:
    methods = {row["method"] for row in ABLATIONS}
    timeline = chts.schedules.Timeline(1000, 1, 0.75)
    names = ("chtss", "chtss with sparsity=Cubic(initial=0.5, end=0.75)")
    schedules = {name: chts.methods.get_method(name).sparsity for name in names}
    cost = {name: sum(found.at(step, timeline, 0.99) for step in range(1000)) for name, found in schedules.items()}
    assert cost.keys() <= methods
    sigmoid, cubic = cost.values()
    assert sigmoid == pytest.approx(cubic, rel=1e-3)
