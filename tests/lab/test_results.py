"""The recorded runs that come with the project: whole, in one schema, and with exactly the links that they claim."""

from collections import Counter
from typing import Any

import pytest
import torch

import chts_core as chts
from chts_core.engine.layers import sparse_layers
from chts_core.lab import data
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer
from chts_core.lab.train import translation

ROWS = translation.recorded()
KEYS = {
    "schema": int,
    "task": str,
    "dataset": str,
    "data": str,
    "subwords": int,
    "method": str,
    "sparsity": float,
    "seed": int,
    "recipe": dict,
    "train_loss": list,
    "validation": list,
    "test": dict,
    "signatures": dict,
    "links": int,
    "density": (int, float),
    "active_neurons": float,
    "itop": float,
    "tokens": int,
    "seconds": float,
    "total_seconds": float,
    "peak_memory_mb": (int, type(None)),
    "device": dict,
    "versions": dict,
    "git": str,
    "finished": str,
}


def named(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['method']} {row['sparsity']} seed {row['seed']}"


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_record_is_whole(row: dict[str, Any]) -> None:
    # The memory at the end: of runs before the peak was recorded. The others: of newer ones.
    assert row.keys() - {"memory_mb", "methods", "skipped_steps"} == KEYS.keys()
    assert all(isinstance(row[key], kind) for key, kind in KEYS.items())
    recipe = row["recipe"]
    assert [look["step"] for look in row["validation"]] == [
        *range(recipe["validate_every"], recipe["steps"] + 1, recipe["validate_every"])
    ]
    assert [step for step, _ in row["train_loss"]] == [*range(10, recipe["steps"] + 1, 10)]
    assert set(row["test"]) == {"bleu", "bleu_lowercase", "chrf", "exact"}
    assert all(0 <= score <= 100 for score in row["test"].values())
    assert ("case:mixed" in row["signatures"]["bleu"], "case:lc" in row["signatures"]["bleu_lowercase"]) == (True, True)
    assert len(row["git"]) == 40  # of a checkout without changes


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_record_has_the_links_of_its_sparsity_exactly(row: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = Transformer(row["subwords"], TRANSFORMER_SIZES[row["recipe"]["size"]])
    shapes = [layer.shape for layer in sparse_layers(model).values()]
    density = 1.0 if row["method"] == "fc" else 1 - row["sparsity"]
    assert row["links"] == sum(chts.topology.link_count(*shape, density) for shape in shapes)
    assert row["density"] == pytest.approx(row["links"] / sum(out * in_ for out, in_ in shapes), abs=1e-12)


def test_no_run_is_recorded_twice() -> None:
    assert max(Counter(map(named, ROWS)).values()) == 1


def test_number_words_were_run_by_every_method_at_two_sparsities_with_three_seeds() -> None:
    runs = {(row["method"], row["sparsity"], row["seed"]) for row in ROWS if row["dataset"] == "number_words"}
    expected = {(method, share, seed) for method in chts.METHODS for share in (0.9, 0.95) for seed in range(3)}
    assert runs == {run for run in expected if run[:2] != ("fc", 0.9)}  # FC has no sparsity


def test_the_number_words_are_still_those_of_the_records() -> None:
    digests = {row["data"] for row in ROWS if row["dataset"] == "number_words"}
    assert digests == {data.load_translation("number_words").digest}


@pytest.mark.parametrize("dataset", sorted({row["dataset"] for row in ROWS}))
def test_runs_that_are_compared_differ_in_method_sparsity_and_seed_alone(dataset: str) -> None:
    rows = [row for row in ROWS if row["dataset"] == dataset]
    for key in ("data", "subwords", "signatures"):
        assert all(row[key] == rows[0][key] for row in rows), key
    recipes = [{"test_best": False} | row["recipe"] for row in rows]  # which older records do not name
    assert all(recipe == recipes[0] for recipe in recipes)
    # Of this package each row has its revision.
    versions = [{name: version for name, version in row["versions"].items() if name != "chts"} for row in rows]
    assert all(version == versions[0] for version in versions)


def test_multi30k_was_run_by_three_methods_and_fc_with_three_seeds() -> None:
    runs = {(row["method"], row["sparsity"], row["seed"]) for row in ROWS if row["dataset"] == "multi30k"}
    sparse = {(name, share, seed) for name in ("set", "chts", "chtss") for share in (0.9, 0.95) for seed in range(3)}
    assert runs == sparse | {("fc", 0.9, seed) for seed in range(3)}


def test_differences_of_recorded_runs_are_taken_seed_by_seed() -> None:
    def row(method: str, sparsity: float, seed: int, exact: float) -> dict[str, Any]:
        looks = [{"loss": 9.0}, {"loss": exact / 10}]
        return {"method": method, "sparsity": sparsity, "seed": seed, "test": {"exact": exact}, "validation": looks}

    rows = [row("fc", 0.95, 0, 90.0), row("fc", 0.95, 1, 80.0), row("set", 0.9, 0, 70.0)]
    rows += [row("chts", 0.9, 0, 85.0), row("chts", 0.9, 1, 77.0), row("chts", 0.9, 7, 0.0)]
    against_fc = translation.score_differences(rows, "exact", "fc")
    assert [(found["method"], found["sparsity"], found["seeds"]) for found in against_fc] == [
        ("set", 0.9, 1),
        ("chts", 0.9, 2),
    ]
    assert [found["difference"] for found in against_fc] == [-20.0, -4.0]
    assert against_fc[0]["interval"] is None
    assert against_fc[1]["interval"] == pytest.approx(12.706205 * 1.0)  # t of two runs times their standard error
    (against_chts,) = (f for f in translation.score_differences(rows, "exact", "chts") if f["method"] == "set")
    assert (against_chts["seeds"], against_chts["difference"]) == (1, -15.0)
    means = translation.mean_scores(rows, "validation_loss")
    assert [(found["method"], found["runs"], found["mean"]) for found in means] == [
        ("fc", 2, 8.5),
        ("set", 1, 7.0),
        ("chts", 3, pytest.approx(5.4)),
    ]
