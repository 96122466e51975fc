"""One strange batch does not end a run: the step is skipped, named and recorded; a run of nothing else ends."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from chts_core.lab.data import ImageData, TextData, TranslationData
from chts_core.lab.models import LLAMA_SIZES, TRANSFORMER_SIZES, LlamaSize, TransformerSize
from chts_core.lab.train import checkpoint, images, language, loop, translation
from chts_core.tools.numerics import find_nonfinite

LLAMA_SIZES["micro"] = LlamaSize(16, 24, 2, 4, 2)
TRANSFORMER_SIZES["wee"] = TransformerSize(16, 24, 1, 2)
TEXTS = TextData("some", [f"the {a} sees the {b}. " * 5 for a in "abcdefgh" for b in "abcdefgh"], ["the a sees"] * 60)
PAIRS = [(f"{a} {b} and {c}", f"{c} und {b} {a}") for a in "abcdef" for b in "abcdef" for c in "abc"]
METHODS = ("fc", "rigl", "chtss")
KINDS = ("images", "translation", "language")
# Of 12 steps, with an update every third: one without an update after it, and one with.
STRANGE = (4, 6)

Train = Callable[..., Any]


@pytest.fixture(scope="module")
def trains(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Train]:
    """What trains each kind of model for 12 steps, by a method and with a checkpoint."""
    cache = tmp_path_factory.mktemp("cache")
    pairs = translation.prepare(
        TranslationData("some", ("en", "de"), tuple(PAIRS[:80]), tuple(PAIRS[80:90]), tuple(PAIRS[90:])),
        wee := translation.Recipe(
            size="wee",
            vocabulary=60,
            max_length=12,
            steps=12,
            batch_tokens=70,
            warmup=8,
            iterative_warmup=4,
            update_every=3,
            validate_every=12,
        ),
        cache,
    )
    micro = language.Recipe(
        size="micro",
        vocabulary=300,
        context=16,
        steps=12,
        batch=4,
        micro_batch=2,
        learning_rate=0.01,
        warmup=3,
        update_every=3,
        validate_every=12,
        validation_tokens=400,
    )
    text = language.prepare(TEXTS, micro, cache)

    tiny = images.Recipe(hidden=16, epochs=4, batch_size=350)

    def train_images(method: str, **given: Any) -> Any:
        return images.train(digits, method, 0.8, tiny, **given)

    def train_translator(method: str, **given: Any) -> Any:
        return translation.train(pairs, method, 0.8, wee, save_every=5, **given)

    def train_llama(method: str, **given: Any) -> Any:
        return language.train(text, method, 0.8, micro, save_every=5, **given)

    return {"images": train_images, "translation": train_translator, "language": train_llama}


def spoil(monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...]) -> None:
    """Lets the loss of some steps be taken for NaN, and what it is made of for sound."""

    def spoiled(self: loop.Skips, step: int, value: float, compute_loss: Callable[[], Tensor]) -> bool:
        return skip(self, step, math.nan if step in steps else value, compute_loss)

    skip = loop.Skips.skip
    monkeypatch.setattr(loop.Skips, "skip", spoiled)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_strange_step_is_left_out_and_the_run_ends(
    trains: dict[str, Train], kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, STRANGE)
    with pytest.warns(RuntimeWarning, match="is skipped") as warned:
        run = trains[kind](method)
    assert [str(warning.message).split(":")[0] for warning in warned] == [f"step {step} is skipped" for step in STRANGE]
    assert run.skipped_steps == list(STRANGE)
    assert run.density == pytest.approx(1.0 if method == "fc" else 0.2, abs=0.01)
    losses = [loss if kind == "images" else loss[1] for loss in run.train_loss]
    assert losses
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_left_out_changes_no_weight(
    trains: dict[str, Train], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def count(self: loop.Skips, step: int, value: float, compute_loss: Callable[[], Tensor]) -> bool:
        steps.append(step)
        return skip(self, step, math.nan if step in STRANGE else value, compute_loss)

    skip = loop.Skips.skip
    monkeypatch.setattr(loop.Skips, "skip", count)
    taken: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(steps[-1]))
    with pytest.warns(RuntimeWarning, match="is skipped"):
        trains[kind]("set")
    handle.remove()
    assert steps == list(range(1, 13))
    assert taken == [step for step in steps if step not in STRANGE]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_overflows_under_a_sound_loss_reaches_no_weight(
    trains: dict[str, Train], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    models: list[nn.Module] = []
    begin, skip = loop.Skips.__init__, loop.Skips.skip

    def begin_with_overflow(self: loop.Skips, model: nn.Module) -> None:
        begin(self, model)
        models.append(model)
        weight = next(parameter for parameter in model.parameters() if parameter.ndim == 2)
        weight.register_hook(lambda gradient: gradient * (math.inf if len(done) + 1 in STRANGE else 1))

    def count(self: loop.Skips, step: int, *given: Any) -> bool:
        done.append(step)
        return skip(self, step, *given)

    monkeypatch.setattr(loop.Skips, "__init__", begin_with_overflow)
    monkeypatch.setattr(loop.Skips, "skip", count)
    with pytest.warns(RuntimeWarning) as warned:
        run = trains[kind]("set")
    said = [str(warning.message) for warning in warned if "skipped" in str(warning.message)]
    assert [line.split(":")[0] for line in said] == [f"step {step} is skipped" for step in STRANGE]
    assert all("is the gradient of " in line for line in said)
    assert run.skipped_steps == list(STRANGE)
    assert find_nonfinite(models[0]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_left_out_steps_goes_on_to_the_same_bits(
    trains: dict[str, Train], kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cut(self: loop.Skips, step: int, *given: Any) -> bool:
        if step == 11:
            raise KeyboardInterrupt
        return spoiled(self, step, *given)

    spoil(monkeypatch, STRANGE)
    spoiled = loop.Skips.skip
    with pytest.warns(RuntimeWarning, match="is skipped"):
        uncut = trains[kind]("chtss", save_to=tmp_path / "uncut.safetensors")
    monkeypatch.setattr(images, "_SAVE_EVERY", 2)
    monkeypatch.setattr(loop.Skips, "skip", cut)
    with pytest.raises(KeyboardInterrupt), pytest.warns(RuntimeWarning, match="is skipped"):
        trains[kind]("chtss", save_to=tmp_path / "cut.safetensors")
    monkeypatch.setattr(loop.Skips, "skip", spoiled)
    resumed = trains[kind]("chtss", save_to=tmp_path / "cut.safetensors")
    assert resumed.skipped_steps == uncut.skipped_steps == list(STRANGE)
    assert resumed.train_loss == uncut.train_loss
    assert all(torch.equal(mask, uncut.last_masks[name]) for name, mask in resumed.last_masks.items())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_do_not_end_to_be_strange_end_the_run(
    trains: dict[str, Train], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, (2, *range(4, 13)))
    expected = (
        r"^the loss or a gradient was not finite in 5 steps in a row, up to step 8; "
        r"the first infinite or NaN value is .*\. Lower learning_rate"
    )
    with pytest.raises(RuntimeError, match=expected), pytest.warns(RuntimeWarning, match="is skipped") as warned:
        trains[kind]("set")
    assert len(warned) == 5


def test_what_is_strange_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    skips = loop.Skips(model)

    def loss(x: Tensor) -> Tensor:
        return model(x).sum()

    good, bad = torch.ones(1, 2), torch.tensor([[1.0, math.inf]])
    assert not skips.skip(1, loss(good).item(), partial(loss, good))
    with pytest.warns(RuntimeWarning, match=r"step 2 is skipped: the first .* is the input of 0 \(1 of 2 values\)\."):
        assert skips.skip(2, loss(bad).item(), partial(loss, bad))
    # Gradients that are finite may be too large for the sum of their squares.
    with pytest.warns(RuntimeWarning, match=r"step 3 is skipped: .* is the sum of all squared gradients\."):
        assert skips.skip(3, math.inf, partial(loss, good))
    assert not skips.skip(4, 1.0, partial(loss, good))
    assert skips.steps == [2, 3]


# --- checkpoints of earlier versions ---

LOOP = "settings seconds total_seconds train_loss skipped_steps first_masks model optimizer sparsifier"
OWN = {
    "images": "validation test snapshots scheduler random",
    "translation": "step tokens looks best best_density scaler random random_cuda",
    "language": "step tokens looks updates link_warmup feed",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_has_the_entries_of_those_of_version_0_1(
    trains: dict[str, Train], kind: str, tmp_path: Path
) -> None:
    """A run goes on only from a checkpoint with just these."""
    trains[kind]("set", save_to=tmp_path / "run.safetensors")
    assert checkpoint.load(tmp_path / "run.safetensors").keys() == {*LOOP.split(), *OWN[kind].split()}
