"""Modules of the trainers have moved to `chts_core.lab.train`: their names of before stay for one release."""

import importlib

import pytest

# What each had, by the name of the module it is in now.
NAMES = {
    ("images", "images"): "FirstWeights Recipe RECIPES Run train plan_run race accuracy epoch_choices had_more_links "
    "summarise train_and_record as_row as_record recorded",
    ("translation", "translation"): "Precision Recipe RECIPES Task prepare Look Best Run learning_rate_at train "
    "validation_loss plan_run predict_seconds race train_and_record as_record summarise mean_scores score_differences "
    "recorded",
    ("language", "language"): "Precision Parallel Recipe RECIPES Task prepare Look UpdateLoss Run learning_rate_at "
    "operations_per_token operations_per_second train validation_loss generate plan_run predict_seconds race "
    "train_and_record as_record summarise recorded",
    ("loop", "loop"): "gradient_norm Skips refuse_correlations last_update share_after_update load_state",
    ("loop", "machine"): "forget_memory_peak memory_mb peak_memory_mb autocast processes_of_torchrun",
    ("loop", "recipes"): "check_iterative_warmup",
    ("checkpoint", "checkpoint"): "FORMAT save previous_of load",
    ("tasks", "tasks"): "Recipe RECIPES DEFAULTS changed_recipe checked train",
    ("sweeps", "sweeps"): "Cell cells sweep",
}


@pytest.mark.parametrize(("before", "now"), NAMES)
def test_a_name_of_before_is_that_of_now(before: str, now: str) -> None:
    old, new = (importlib.import_module(f"chts_core.lab.{name}") for name in (before, f"train.{now}"))
    for name in NAMES[before, now].split():
        assert getattr(old, name) is getattr(new, name), name
