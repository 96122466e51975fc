"""Modules that have moved: their names of before stay for one release, with a warning."""

import importlib
import subprocess
import sys

import pytest

from chts_core._moved import MOVED


@pytest.mark.parametrize("before", MOVED)
def test_the_name_of_before_is_that_module(before: str) -> None:
    now = importlib.import_module(MOVED[before])
    spec = now.__spec__
    sys.modules.pop(before, None)
    with pytest.warns(DeprecationWarning, match=f"{before} is now {MOVED[before]};"):
        assert importlib.import_module(before) is now
    assert now.__spec__ is spec
    assert now.__name__ == MOVED[before]


# Of the trainers' modules: what each had.
NAMES = {
    ("images", "images"): "FirstWeights Recipe RECIPES Run train plan_run race accuracy epoch_choices had_more_links "
    "summarise train_and_record as_row as_record recorded",
    ("translation", "translation"): "Recipe RECIPES Task prepare Look Best Run learning_rate_at train "
    "validation_loss plan_run predict_seconds race train_and_record as_record summarise mean_scores score_differences "
    "recorded",
    ("language", "language"): "Parallel Recipe RECIPES Task prepare Look UpdateLoss Run learning_rate_at "
    "operations_per_token train validation_loss generate plan_run predict_seconds race "
    "train_and_record as_record summarise recorded",
    ("loop", "loop"): "gradient_norm Skips refuse_correlations last_update share_after_update load_state",
    ("loop", "machine"): "forget_memory_peak memory_mb peak_memory_mb autocast processes_of_torchrun",
    ("loop", "recipes"): "check_iterative_warmup",
    ("checkpoint", "checkpoint"): "FORMAT save previous_of load",
    ("tasks", "tasks"): "Recipe RECIPES DEFAULTS changed_recipe checked train",
    ("sweeps", "sweeps"): "Cell cells sweep",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("before", "now"), NAMES)
def test_a_name_of_before_is_that_of_now(before: str, now: str) -> None:
    old, new = (importlib.import_module(f"chts_core.lab.{name}") for name in (before, f"train.{now}"))
    for name in NAMES[before, now].split():
        assert getattr(old, name) is getattr(new, name), name


def test_a_module_runs_by_its_name_of_before() -> None:
    command = [sys.executable, "-W", "always", "-m", "chts_core.lab.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: chts")
    assert "chts_core.lab.cli is now chts_core.cli;" in result.stderr


def test_the_warning_points_at_the_import_of_the_user() -> None:
    program = "import warnings\nwarnings.simplefilter('error')\nimport chts_core.weights\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "line 3, in <module>" in result.stderr
    assert "DeprecationWarning: chts_core.weights is now chts_core.engine.weights;" in result.stderr


def test_other_modules_are_still_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"chts_core\.wight"):
        __import__("chts_core.wight")
