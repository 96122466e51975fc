"""The recorded runs of language models: whole, in one schema, and with exactly the links that they claim."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

import chts_core as chts
from chts_core.engine.layers import sparse_layers
from chts_core.lab.models import LLAMA_SIZES, llama
from chts_core.lab.results import records
from chts_core.lab.train import language

ROWS = language.recorded()
RATES = records.read_runs(records.results_folder() / "language_rates.jsonl")
KEYS = {
    "schema": int,
    "task": str,
    "dataset": str,
    "data": str,
    "tokenizer": str,
    "vocabulary": int,
    "method": str,
    "sparsity": float,
    "seed": int,
    "recipe": dict,
    "train_loss": list,
    "validation": list,
    "validation_tokens": int,
    "links": int,
    "density": (int, float),
    "active_neurons": float,
    "itop": float,
    "tokens": int,
    "seconds": float,
    "total_seconds": float,
    "evolution_seconds": (int, float),
    "tokens_per_second": int,
    "mfu": float,
    "peak_memory_mb": (int, type(None)),
    "ranks": int,
    "device": dict,
    "versions": dict,
    "git": str,
    "finished": str,
}


def named(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['recipe']['size']} {row['method']} {row['sparsity']} seed {row['seed']}"


def comparison(row: dict[str, Any]) -> tuple[str, str]:
    return row["dataset"], row["recipe"]["size"]


@pytest.mark.parametrize("row", [*ROWS, *RATES], ids=named)
def test_a_record_is_whole(row: dict[str, Any]) -> None:
    # The memory at the end: of runs before the peak was recorded. The losses around updates: of newer ones.
    assert row.keys() - {"memory_mb", "updates"} == KEYS.keys()
    assert all(isinstance(row[key], kind) for key, kind in KEYS.items())
    recipe = row["recipe"]
    language.Recipe(**recipe)
    steps = range(recipe["validate_every"], recipe["steps"] + 1, recipe["validate_every"])
    assert [look["step"] for look in row["validation"]] == [*steps]
    for look in row["validation"]:
        assert look["perplexity"] == pytest.approx(math.exp(look["loss"]), rel=1e-3)
    assert [step for step, _ in row["train_loss"]] == [*range(10, recipe["steps"] + 1, 10)]
    assert row["tokens"] == recipe["steps"] * recipe["batch"] * recipe["context"]
    assert len(row["git"]) == 40  # of a checkout without changes


@cache
def shapes_of(vocabulary: int, size: str, context: int) -> list[tuple[int, ...]]:
    model = llama(vocabulary, LLAMA_SIZES[size], context)
    return [layer.shape for layer in sparse_layers(model).values()]


@pytest.mark.parametrize("row", [*ROWS, *RATES], ids=named)
def test_a_record_has_the_links_of_its_sparsity_exactly(row: dict[str, Any]) -> None:
    recipe = row["recipe"]
    shapes = shapes_of(recipe["vocabulary"], recipe["size"], recipe["context"])
    density = 1.0 if row["method"] == "fc" else 1 - row["sparsity"]
    assert row["links"] == sum(chts.topology.link_count(*shape, density) for shape in shapes)
    assert row["density"] == pytest.approx(row["links"] / sum(out * in_ for out, in_ in shapes), abs=1e-12)


def test_no_run_is_recorded_twice() -> None:
    assert max(Counter(map(named, ROWS)).values()) == 1


@pytest.mark.parametrize("of", sorted(set(map(comparison, ROWS))), ids="-".join)
def test_runs_that_are_compared_differ_in_method_its_rate_sparsity_seed_and_storage_alone(of: tuple[str, str]) -> None:
    rows = [row for row in ROWS if comparison(row) == of]
    for key in ("data", "tokenizer", "validation_tokens", "versions"):
        assert all(row[key] == rows[0][key] for row in rows), key
    # A record from before there was a setting has what it is by default.
    recipes = [replace(language.Recipe(**row["recipe"]), execution="masked", learning_rate=0.0) for row in rows]
    assert all(recipe == recipes[0] for recipe in recipes)
    rates = {(row["method"], row["recipe"]["learning_rate"]) for row in rows}
    assert max(Counter(method for method, _ in rates).values()) == 1
    if of[1] == "tiny":  # all had one rate; FC's is `dense_learning_rate`
        assert len({value for _, value in rates}) == 1
    assert {row["device"]["threads"] for row in rows} == {1}


def rate(row: dict[str, Any]) -> float:
    recipe = row["recipe"]
    own: float | None = recipe["dense_learning_rate"] if row["method"] == "fc" else None
    return recipe["learning_rate"] if own is None else own


def best_rate(size: str, method: str) -> float:
    """Of the recorded tries that have as many steps as the recorded races of the size."""
    (steps,) = {row["recipe"]["steps"] for row in ROWS if row["recipe"]["size"] == size}
    tried = [row for row in RATES if (row["recipe"]["size"], row["recipe"]["steps"]) == (size, steps)]
    return rate(min((row for row in tried if row["method"] == method), key=lambda row: row["validation"][-1]["loss"]))


def test_the_learning_rates_come_from_the_recorded_runs() -> None:
    assert {row["seed"] for row in RATES} == {100}
    assert {row["seed"] for row in ROWS} == {0, 1, 2}
    assert best_rate("tiny", "fc") == language.RECIPES["tiny"].dense_learning_rate
    for row in ROWS:
        if row["recipe"]["size"] == "small":
            assert rate(row) == best_rate("small", row["method"]), named(row)


def test_the_first_weights_are_those_with_which_fc_learns_fastest() -> None:
    tried = [row for row in RATES if (row["recipe"]["size"], row["recipe"]["steps"]) == ("tiny", 120)]
    loss = {(row["method"], row["recipe"]["deviation"]): row["validation"][-1]["loss"] for row in tried}
    assert loss["fc", None] < loss["fc", 0.02] - 0.5
    chts = "chts/ri_zeros"  # of the first revision
    assert loss["fc", None] < loss[chts, None]
    assert loss[chts, 0.02] < loss["fc", 0.02] - 0.5  # which would have put CHTs ahead of FC
