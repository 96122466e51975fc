"""What one command can train, by the name of a recipe and the values of parameters."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from chts_core.cli import main
from chts_core.lab.data import TRANSLATION_SETS, TranslationData, load_images, load_translation
from chts_core.lab.results import records
from chts_core.lab.train import images, language, loop, tasks, translation


def test_settings_of_a_recipe_can_be_changed_by_their_names() -> None:
    changes = {"steps": "500", "learning_rate": "1e-3", "dense_learning_rate": "2", "compile": "true", "tokenizer": "5"}
    changed = tasks.changed_recipe("tiny", changes)
    expected = {"steps": 500, "learning_rate": 1e-3, "dense_learning_rate": 2.0, "compile": True, "tokenizer": "5"}
    assert asdict(changed) == asdict(language.RECIPES["tiny"]) | expected
    assert tasks.changed_recipe("tiny", {"steps": 500, "clip": 2}).clip == 2.0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "huge",
            {},
            "recipe is 'huge'; expected one of mlp, mlp_paper, mlp_paper_cifar10, number_words_ci, number_words_short, "
            "number_words, multi30k_small, multi30k, iwslt, wmt, tiny_ci, tiny_short, tiny, small",
        ),
        ("tiny", {"step": "5"}, r"the recipe has no setting 'step'; expected one of size, vocabulary"),
        ("tiny", {"steps": "5.5"}, r"steps is '5.5'; expected int, such as 200"),
        ("tiny", {"steps": "[5"}, r"steps is '\[5'; expected int"),
        ("tiny", {"steps": "true"}, r"steps is 'true'; expected int"),
        ("tiny", {"clip": "true"}, r"clip is 'true'; expected float"),
        ("tiny", {"steps": "-5"}, r"steps is -5; expected at least 1"),
    ],
)
def test_a_change_that_cannot_be_is_refused(name: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.changed_recipe(name, changes)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"epochs": 0}, "epochs is 0; expected at least 1"),
        ("mlp", {"execution": "fast"}, "execution is 'fast'; expected one of"),
        ("mlp", {"steps": 5}, r"the recipe has no setting 'steps'; expected one of hidden, epochs"),
        ("mlp", {"learning_rate": "fast"}, r"learning_rate is 'fast'; expected float, such as 0.05"),
    ],
)
def test_settings_of_classifiers_are_checked_too(name: str, settings: dict[str, Any], message: str) -> None:
    assert asdict(tasks.changed_recipe("mlp", {"epochs": "3"})) == asdict(images.RECIPES["mlp"]) | {"epochs": 3}
    with pytest.raises(ValueError, match=message):
        tasks.changed_recipe(name, settings)


def test_no_two_recipes_share_a_name() -> None:
    assert len(tasks.RECIPES) == len(images.RECIPES) + len(translation.RECIPES) + len(language.RECIPES)


def test_a_language_model_is_trained_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHTS_CACHE", str(tmp_path / "cache"))
    changes = {"steps": 4, "update_every": 2, "validate_every": 2, "validation_tokens": 500}
    parameters = {"method": "set", "sparsity": 0.7, "seed": 2, "device": "cpu"} | changes
    record = tasks.train("tiny_ci", parameters, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    assert (record["dataset"], record["sparsity"], record["seed"]) == ("python_reference", 0.7, 2)
    assert record["recipe"]["steps"] == 4
    assert (tmp_path / "checkpoint.safetensors").exists()
    records.check_run(record, "the record")


def test_a_classifier_is_trained_and_recorded(tmp_path: Path) -> None:
    parameters = {"method": "set", "seed": 2, "device": "cpu", "hidden": 16, "epochs": 2}
    record = tasks.train("mlp", parameters, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    assert (record["dataset"], record["method"], record["sparsity"], record["seed"]) == ("digits", "set", 0.9, 2)
    alone = images.train(load_images("digits"), "set", 0.9, replace(images.RECIPES["mlp"], hidden=16, epochs=2), seed=2)
    assert record["test_by_epoch"] == [round(value, 5) for value in alone.test_by_epoch]
    assert (tmp_path / "checkpoint.safetensors").exists()
    records.check_run(record, "the record")


SHORT = {"steps": 10, "warmup": 5, "update_every": 2, "validate_every": 5}


def load_few(name: str, data_dir: str | None = None) -> TranslationData:
    """Every twentieth pair: most of the time of a short training goes into translating."""
    whole = load_translation(name, data_dir)
    parts = {part: list(getattr(whole, part))[::20] for part in ("train", "validation", "test")}
    return replace(whole, **parts)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tasks, "load_translation", load_few)
    monkeypatch.setenv("CHTS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("few_pairs")
def test_a_translator_is_trained_and_recorded(tmp_path: Path) -> None:
    record = tasks.train("number_words_ci", {"method": "set", "seed": 2, "device": "cpu"} | SHORT, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    assert (record["dataset"], record["method"], record["sparsity"], record["seed"]) == ("number_words", "set", 0.9, 2)
    recipe = replace(translation.RECIPES["number_words_ci"], **SHORT)
    alone = translation.train(translation.prepare(load_few("number_words"), recipe), "set", 0.9, recipe, seed=2)
    assert [look["loss"] for look in record["validation"]] == [round(look.loss, 4) for look in alone.looks]
    assert record["test"] == {name: round(value, 2) for name, value in alone.test.items()}
    assert (tmp_path / "checkpoint.safetensors").exists()
    records.check_run(record, "the record")


@pytest.mark.usefixtures("few_pairs")
def test_a_translator_that_was_cut_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"method": "chts", "device": "cpu"} | SHORT
    whole = tasks.train("number_words_ci", parameters, tmp_path / "whole")
    learn = loop.Training.learn

    def cut_short(training: Any) -> None:
        if training.step == 7:
            raise KeyboardInterrupt
        learn(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "learn", cut_short)
        with pytest.raises(KeyboardInterrupt):
            tasks.train("number_words_ci", parameters, tmp_path / "cut", save_every=4)
    steps = []
    monkeypatch.setattr(loop.Training, "learn", lambda training: (steps.append(training.step), learn(training)))
    resumed = tasks.train("number_words_ci", parameters, tmp_path / "cut", save_every=4)
    assert steps == [4, 5, 6, 7, 8, 9]
    for key in ("train_loss", "validation", "test", "itop", "tokens"):
        assert resumed[key] == whole[key], key


@pytest.mark.parametrize(
    ("recipe", "dataset"),
    [
        ("mlp_paper", "digits"),
        ("mlp_paper_cifar10", "cifar10"),
        ("number_words_short", "number_words"),
        ("multi30k_small", "multi30k"),
        ("multi30k", "multi30k"),
        ("iwslt", "iwslt14"),
        ("wmt", "wmt17"),
        ("60m", "python_reference"),
    ],
)
def test_a_recipe_has_a_data_set_of_its_own_or_takes_the_one_that_needs_no_files(recipe: str, dataset: str) -> None:
    assert tasks.checked(recipe, {})[1]["dataset"] == dataset
    if recipe in translation.RECIPES:
        for other in TRANSLATION_SETS:
            assert tasks.checked(recipe, {"dataset": other})[1]["dataset"] == other


@pytest.mark.parametrize("recipe", ["mlp", "number_words", "tiny"])
def test_a_fully_connected_run_is_recorded_without_sparsity(recipe: str) -> None:
    assert tasks.checked(recipe, {"method": "fc", "sparsity": 0.95})[1]["sparsity"] == 0.0


@pytest.mark.parametrize(
    ("recipe", "parameters", "message"),
    [
        ("tiny", {"dataset": "wikipedia"}, "dataset is 'wikipedia'; expected one of python_reference"),
        ("tiny", {"dataset": "digits"}, "dataset is 'digits'; expected one of python_reference"),
        ("tiny", {"method": "best"}, "method is 'best'"),
        ("tiny", {"sparsity": 1.5}, "sparsity"),
        ("tiny", {"step": 3}, "the recipe has no setting 'step'"),
        ("mlp", {"dataset": "books"}, "dataset is 'books'; expected one of digits, fashion_mnist"),
        ("mlp", {"method": "best"}, "method is 'best'"),
        ("iwslt", {"dataset": "books"}, "dataset is 'books'; expected one of number_words, multi30k"),
        ("iwslt", {"method": "best"}, "method is 'best'"),
        ("iwslt", {"sparsity": 1.0}, "sparsity is 1.0; expected a share"),
        ("iwslt", {"beam": 0}, "beam is 0; expected at least 1"),
        ("mlp", {"sparsity": 1.0}, r"sparsity is 1.0; expected a share of absent links in \[0, 1\)"),
        ("mlp", {"sparsity": -0.1}, "sparsity is -0.1"),
        ("mlp", {"sparsity": "much"}, "sparsity is 'much'; expected a share"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(
    recipe: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.checked(recipe, parameters)


def test_the_command_trains_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "mlp", "--method", "set", "-s", "hidden", "16", "-s", "epochs", "2", "--out", str(tmp_path)]
    assert main([*command, "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    printed = capsys.readouterr().out
    assert f"test accuracy {record['test']['accuracy']:.2%} after the last epoch" in printed
    assert "2/2" in printed


@pytest.mark.usefixtures("few_pairs")
def test_the_command_trains_a_translator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for name, value in SHORT.items() for word in ("-s", name, str(value))]
    command = ["train", "number_words_ci", "--method", "set", *settings, "--device", "cpu", "--out", str(tmp_path)]
    assert main(command) == 0
    test = json.loads((tmp_path / "run.json").read_text())["test"]
    printed = capsys.readouterr().out
    assert (
        f"test BLEU {test['bleu']}, lower-case {test['bleu_lowercase']}, exact translations {test['exact']} %"
        in printed
    )
    assert "10/10" in printed
    assert main([*command, "--tensorboard", str(tmp_path / "logs")]) == 2
    assert "a classifier or translator trains in one process and writes no TensorBoard logs" in capsys.readouterr().err


def test_the_command_wants_its_options_as_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mlp", "-s", "method", "set", "--out", str(tmp_path / "run")]) == 2
    assert "method is not a setting of a recipe; write --method set" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [["--parallel", "fsdp"], ["--tensorboard", "logs"], ["torchrun"]])
def test_what_only_language_models_can_is_refused_for_classifiers(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if more == ["torchrun"]:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
        more = []
    assert main(["train", "mlp", "--out", str(tmp_path / "run"), *more]) == 2
    assert "a classifier or translator trains in one process and writes no TensorBoard logs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
