"""A real Lightning Trainer on a small perceptron, on the CPU."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.linear import SparseLinear

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed; the extra `test` has it")

from lightning.fabric.utilities.warnings import PossibleUserWarning  # noqa: E402

from chts_core.tools.lightning import SparsifierCallback  # noqa: E402

EPOCHS, BATCHES = 4, 8
SETTINGS: dict[str, Any] = {"sparsity": 0.8, "update_every": 2}
EXECUTIONS = pytest.mark.parametrize("execution", ["masked", "csr"])


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator}
    return [(torch.randn(8, 16, **draw), torch.randint(3, (8,), **draw)) for _ in range(BATCHES)]


def loader() -> torch.utils.data.DataLoader[tuple[Tensor, Tensor]]:
    return torch.utils.data.DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]


class Classifier(pl.LightningModule):
    """Its validation falls and rises: epoch 1 is the best."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, *_: Any) -> None:
        self.log("score", float(abs(self.current_epoch - 1)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def trainer(folder: Path, *more: Any, **settings: Any) -> Any:
    """With accumulation, clipping that matters, and bf16."""
    usual = {
        "max_epochs": EPOCHS,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.1,
        "precision": "bf16-mixed",
        "accelerator": "cpu",
        "default_root_dir": folder,
        "callbacks": list(more),
        "logger": False,
        "enable_checkpointing": any(isinstance(one, pl.callbacks.ModelCheckpoint) for one in more),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**(usual | settings))


def call(run: Any, what: str, *given: Any, **settings: Any) -> None:
    with warnings.catch_warnings():
        # What Lightning does with torch is its own affair, and so is its advice on workers.
        for category in (DeprecationWarning, FutureWarning, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "Checkpoint directory|The dirpath has changed|Be aware that when using")
        getattr(run, what)(*given, **settings)


def fit(run: Any, module: Classifier, **settings: Any) -> None:
    call(run, "fit", module, loader(), **settings)


def every_epoch(folder: Path, **settings: Any) -> Any:
    return pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1, **settings)


def attached(callback: SparsifierCallback) -> chts.Sparsifier:
    assert callback.sparsifier is not None
    assert chts.audit.audit(callback.sparsifier) == []
    return callback.sparsifier


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@EXECUTIONS
@pytest.mark.parametrize("method", ["chtss", "rigl"])
def test_the_trainer_does_what_the_plain_loop_does(method: str, execution: Any, tmp_path: Path) -> None:
    callback, module = SparsifierCallback(method, execution=execution, rescale=True, **SETTINGS), Classifier()
    fit(trainer(tmp_path, callback), module)

    plain = Classifier()
    optimizer = plain.configure_optimizers()
    steps = EPOCHS * BATCHES // 2
    sparsifier = chts.Sparsifier(plain, optimizer, method, execution=execution, total_steps=steps, **SETTINGS)
    sparsifier.rescale_weights()
    for _ in range(EPOCHS):
        for first, second in zip(batches()[::2], batches()[1::2], strict=True):
            optimizer.zero_grad()
            for x, y in (first, second):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = nn.functional.cross_entropy(plain(x), y)
                (loss / 2).backward()
            assert nn.utils.clip_grad_norm_(plain.parameters(), 0.1) > 0.1
            optimizer.step()
            sparsifier.step()
    assert_same(module, plain)
    ours = attached(callback)
    assert ours.steps == steps
    assert [row["links"] for row in ours.history] == [row["links"] for row in sparsifier.history]
    assert isinstance(module.model[0], SparseLinear) == (execution == "csr")


@EXECUTIONS
@pytest.mark.parametrize("method", ["chtss", "rigl"])
def test_a_resumed_run_ends_at_the_same_bits(method: str, execution: Any, tmp_path: Path) -> None:
    whole, module = SparsifierCallback(method, execution=execution, **SETTINGS), Classifier()
    run = trainer(tmp_path, whole, every_epoch(tmp_path))
    fit(run, module)
    path = tmp_path / "epoch=1.ckpt"

    resumed, other = SparsifierCallback(method, execution=execution, **SETTINGS), Classifier(seed=1)
    again = trainer(tmp_path, resumed)
    fit(again, other, ckpt_path=path)
    assert_same(module, other)
    assert attached(resumed).steps == attached(whole).steps == 16
    # and once more on the same module
    fit(trainer(tmp_path, resumed), other, ckpt_path=path)
    assert_same(module, other)
    for parameter, theirs in zip(other.parameters(), module.parameters(), strict=True):
        for key, value in attached(resumed).optimizer.state[parameter].items():
            assert torch.equal(value, attached(whole).optimizer.state[theirs][key])


@EXECUTIONS
def test_early_stopping_comes_back_to_the_best_weights_and_masks(execution: Any, tmp_path: Path) -> None:
    callback, module = SparsifierCallback("chtss", execution=execution, **SETTINGS), Classifier()
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="score")
    run = trainer(tmp_path, callback, best, pl.callbacks.EarlyStopping("score", patience=2), max_epochs=18)
    with pytest.warns(UserWarning, match=r"training ended at step 16, before .* Train to step"):
        fit(run, module, val_dataloaders=loader())
    assert attached(callback).steps == 16
    with pytest.warns(UserWarning, match=r"this checkpoint was saved at step 8, before"):
        call(run, "validate", dataloaders=loader(), ckpt_path="best")
    sparsifier = attached(callback)
    assert sparsifier.steps == 8
    saved = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    # A new process loads it into a dense model.
    other = Classifier(seed=1)
    elsewhere = trainer(tmp_path, SparsifierCallback())
    call(elsewhere, "validate", other, loader(), ckpt_path=best.best_model_path)
    for ours, theirs in zip(module.model[::2], other.model[::2], strict=True):
        assert type(theirs) is nn.Linear
        assert torch.equal(ours.weight, theirs.weight)
    torch.testing.assert_close(other(batches()[0][0]), module(batches()[0][0]))


@EXECUTIONS
def test_a_second_fit_begins_with_the_present_links(execution: Any, tmp_path: Path) -> None:
    callback, module = SparsifierCallback("chtss", execution=execution, rescale=True, **SETTINGS), Classifier()
    fit(trainer(tmp_path, callback), module)
    masks = {name: mask.clone() for name, mask in attached(callback).masks.items()}
    weight = module.model[2].weight.detach().clone()
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, _: Any, module: Classifier, *__: Any) -> None:
            masks = {name: mask.clone() for name, mask in attached(callback).masks.items()}
            seen.append((masks, module.model[2].weight.detach().clone()))

    fit(trainer(tmp_path, callback, Look()), module)
    assert all(torch.equal(mask, masks[name]) for name, mask in seen[0][0].items())
    assert torch.equal(seen[0][1], weight)
    sparsifier = attached(callback)
    assert sparsifier.steps == 16
    assert {row["step"] for row in sparsifier.history} >= {2, 4, 6}
    assert sparsifier.density() == pytest.approx(0.2, abs=1e-3)


def test_more_epochs_have_a_longer_schedule_and_epochs_are_logged(tmp_path: Path) -> None:
    fit(trainer(tmp_path, SparsifierCallback("set", **SETTINGS), every_epoch(tmp_path)), Classifier())
    callback = SparsifierCallback("set", **SETTINGS)
    run = trainer(tmp_path, callback, max_epochs=8)
    with pytest.warns(UserWarning, match=r"from a run of 16 steps but has 32 steps.* pass total_steps=16"):
        fit(run, Classifier(seed=1), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert max(row["step"] for row in attached(callback).history) > 16
    assert run.callback_metrics["density"] == pytest.approx(attached(callback).density())
    assert run.callback_metrics["itop"] == pytest.approx(attached(callback).itop_rate())


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    by_hand = Classifier()
    by_hand.automatic_optimization = False
    with pytest.raises(ValueError, match=r"automatic_optimization is False; expected True.* Build a Sparsifier in"):
        fit(trainer(tmp_path, SparsifierCallback(), gradient_clip_val=None, accumulate_grad_batches=1), by_hand)
    with pytest.raises(ValueError, match=r"the Trainer has no last step.* pass max_steps to the Trainer"):
        fit(trainer(tmp_path, SparsifierCallback(), max_epochs=-1), Classifier())
    fit(trainer(tmp_path, every_epoch(tmp_path), max_epochs=1), Classifier())
    with pytest.raises(ValueError, match=r"resumes at step 4 but the checkpoint has no state of this callback"):
        fit(trainer(tmp_path, SparsifierCallback()), Classifier(), ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    callback = SparsifierCallback(execution="csr", **SETTINGS)
    fit(trainer(tmp_path, callback, every_epoch(tmp_path), max_epochs=1), Classifier())
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    saved["state_dict"]["model.2.col_indices"] += 24
    torch.save(saved, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"the saved links of layer 'model\.2' have inputs outside 0 to 23"):
        fit(trainer(tmp_path, callback), Classifier(), ckpt_path=tmp_path / "damaged.ckpt")
    del saved["state_dict"]["model.2.col_indices"]
    torch.save(saved, tmp_path / "incomplete.ckpt")
    with pytest.raises(
        ValueError, match=r"lacks model\.2\.col_indices; expected the links and values of a layer in one"
    ):
        fit(trainer(tmp_path, callback), Classifier(), ckpt_path=tmp_path / "incomplete.ckpt")


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "training_loops.md").read_text("utf-8")
    (code,) = (
        code for code in re.findall(r"^```py\n(.*?)^```", guide, re.DOTALL | re.MULTILINE) if "lightning" in code
    )
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        exec(compile(code, "training_loops.md", "exec"), {"__name__": "guide"})
