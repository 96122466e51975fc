"""A real Trainer on a tiny LLaMA with grouped-query attention, on the CPU."""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import chts_core as chts
from chts_core.engine.linear import SparseLinear
from chts_core.methods import Cycling, DenseEnd
from chts_core.tools.huggingface import FILE_NAME, SparsifierCallback

STEPS, EVERY = 12, 2


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        self.ids = torch.randint(tiny.VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def trainer(
    folder: Path, callback: SparsifierCallback, seed: int = 0, *, model: Any = None, data: Any = None, **settings: Any
) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "save_steps": 5,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return Trainer(
        model=model or tiny.llama(seed),
        args=TrainingArguments(**(arguments | settings)),
        train_dataset=data or Sentences(),
        eval_dataset=data,
        callbacks=[callback],
    )


def train(it: Trainer, **how: Any) -> None:
    with warnings.catch_warnings():
        # What the Trainer does with torch's data loader and files is its own affair.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        it.train(**how)


@pytest.mark.parametrize(
    "method", ["rigl", *(pytest.param(method, marks=pytest.mark.full) for method in ("mest", "chts")), "chtss"]
)
def test_a_trainer_trains_sparsely_and_exactly(method: str, tmp_path: Path) -> None:
    callback = SparsifierCallback(method, 0.9, update_every=EVERY)
    run = trainer(tmp_path, callback, gradient_accumulation_steps=2, save_strategy="no")
    train(run)
    sparsifier = callback.sparsifier
    assert sparsifier is not None
    assert sparsifier.steps == STEPS
    assert {row["step"] for row in sparsifier.history} >= {2, 4, 6}
    assert len(sparsifier.masks) == 7
    for name, mask in sparsifier.masks.items():
        assert int(mask.sum()) == round(0.1 * mask.numel())
        assert not run.model.get_parameter(name)[~mask].any()
    assert run.model.lm_head.weight.all()


@pytest.mark.promise("resume the Trainer with `csr`, in a new process or with the same model", "followed")
@pytest.mark.parametrize(
    ("method", "execution"),
    [("rigl", "masked"), ("chtss", "masked"), ("rigl", "csr"), ("chtss", "csr"), ("chtss", "auto")],
)
def test_a_resumed_trainer_ends_at_the_same_bits(method: str, execution: Any, tmp_path: Path) -> None:
    """With accumulation, bf16, and clipping that matters."""
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "bf16": True, "max_grad_norm": 0.1}
    uncut = SparsifierCallback(method, 0.9, update_every=EVERY, execution=execution)
    whole = trainer(tmp_path, uncut, **settings)
    train(whole)
    assert (tmp_path / "checkpoint-5" / FILE_NAME).exists()
    assert isinstance(whole.model.model.layers[0].mlp.up_proj, SparseLinear) == (execution != "masked")
    assert uncut.sparsifier is not None
    assert chts.audit.audit(uncut.sparsifier) == []
    assert [int(mask.sum()) for mask in uncut.sparsifier.masks.values()] == [102, 51, 51, 102, 77, 77, 77]

    resumed = SparsifierCallback(method, 0.9, update_every=EVERY, execution=execution)
    rest = trainer(tmp_path, resumed, seed=1, **settings)
    for _ in range(2):  # in a new process, and once more with the same model
        train(rest, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert resumed.sparsifier is not None
        assert resumed.sparsifier.steps == STEPS
        for name, mask in uncut.sparsifier.masks.items():
            assert torch.equal(resumed.sparsifier.masks[name], mask)
        for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
            assert torch.equal(one, other)
            ours, theirs = uncut.sparsifier.optimizer.state[one], resumed.sparsifier.optimizer.state[other]
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_resuming_without_the_file_is_refused(tmp_path: Path) -> None:
    callback = SparsifierCallback("set", 0.9, update_every=EVERY)
    train(trainer(tmp_path, callback, max_steps=6))
    (tmp_path / "checkpoint-5" / FILE_NAME).unlink()
    again = trainer(tmp_path, SparsifierCallback("set", 0.9, update_every=EVERY), max_steps=6)
    with pytest.raises(FileNotFoundError, match=r"resumes at step 5 but .*sparsifier\.pt does not exist"):
        train(again, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_model_that_the_callback_has_not_seen_cannot_resume_with_csr(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"update_every": EVERY, "execution": "csr"}
    train(trainer(tmp_path, SparsifierCallback("set", 0.9, **settings), max_steps=5))
    late = trainer(tmp_path, SparsifierCallback("set", 0.9, **settings), max_steps=6)
    late.model = tiny.llama(1)
    late.model_wrapped = late.model
    with pytest.raises(ValueError, match=r"without this callback; expected Trainer\(model, callbacks=\["):
        train(late, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_settings_are_passed_on(tmp_path: Path) -> None:
    callback = SparsifierCallback(
        chts.METHODS["set"], 0.75, update_every=3, total_steps=30, include="*.mlp.*", exclude=(), rescale=True
    )
    run = trainer(tmp_path, callback, max_steps=1, save_strategy="no", learning_rate=0.0)
    dense = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    train(run)
    assert callback.sparsifier is not None
    assert callback.sparsifier.timeline.total_steps == 30
    assert all(".mlp." in name for name in callback.sparsifier.masks)
    for name, mask in callback.sparsifier.masks.items():
        torch.testing.assert_close(run.model.get_parameter(name).detach(), dense[name] * mask * 2)


# --- training that begins anew, elsewhere, or for longer ---


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return {"loss": (y - labels).pow(2).mean(), "logits": y}


def runs_out_of_memory(model: Net, most: int, fails_at: int) -> None:
    """Let the model fail where a batch is larger than `most`, and at one call."""
    calls = []

    def hook(_: nn.Module, __: Any, given: dict[str, torch.Tensor]) -> None:
        calls.append(len(given["x"]))
        if calls[-1] > most or len(calls) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(hook, with_kwargs=True)


def net_trainer(folder: Path, callback: SparsifierCallback, model: Net | None = None, **settings: Any) -> Trainer:
    inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    rows = [{"x": x, "labels": x[:4]} for x in inputs]
    return trainer(
        folder,
        callback,
        model=model or Net(),
        data=rows,
        **{"per_device_train_batch_size": 8, "max_steps": 20, "save_strategy": "no", "learning_rate": 1e-2} | settings,
    )


def consistent(callback: SparsifierCallback, model: nn.Module) -> chts.Sparsifier:
    assert callback.sparsifier is not None
    for name, mask in callback.sparsifier.masks.items():
        assert not model.get_submodule(name.removesuffix(".weight")).weight[~mask].any()
    assert not chts.audit.audit(callback.sparsifier)
    return callback.sparsifier


@pytest.mark.promise("let the Trainer try again with smaller batches", "followed: the weights are scaled once")
@pytest.mark.parametrize(
    ("method", "most", "fails_at"),
    [
        ("set", 7, -1),
        *(pytest.param(*case, marks=pytest.mark.full) for case in (("chtss", 99, 13), ("gmp", 99, 1), ("mest", 99, 1))),
    ],
)
def test_a_try_after_running_out_of_memory_keeps_the_links(
    method: str, most: int, fails_at: int, tmp_path: Path
) -> None:
    callback, model = SparsifierCallback(method, 0.9, update_every=2, rescale=True), Net()
    runs_out_of_memory(model, most, fails_at)
    before = float(model.b.weight.detach().std())
    run = net_trainer(tmp_path, callback, model, auto_find_batch_size=True, learning_rate=0.0)
    train(run)
    sparsifier = consistent(callback, model)
    assert sparsifier.steps == 20
    assert sparsifier.density() == pytest.approx(0.1, abs=1e-3)
    weights = model.b.weight.detach()
    initial = 1 - (sparsifier.progress.budget.method.sparsity.at(0, sparsifier.timeline, 0.9))
    assert float(weights[weights != 0].abs().max()) <= 12**0.5 / 2 * 1.05 * before * initial**-0.5


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("method", ["set", "chtss"])
def test_a_try_after_running_out_of_memory_in_a_resumed_run_keeps_the_links(
    method: str, execution: Any, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6, "auto_find_batch_size": True}
    first = SparsifierCallback(method, 0.9, update_every=2, execution=execution)
    train(net_trainer(tmp_path, first, **settings | {"max_steps": 20}))
    callback, model = SparsifierCallback(method, 0.9, update_every=2, execution=execution), Net()
    runs_out_of_memory(model, 99, 8)  # after updates that the checkpoint does not know
    run = net_trainer(tmp_path, callback, model, **settings)
    train(run, resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    sparsifier = consistent(callback, model)
    assert sparsifier.steps == 20
    assert sparsifier.density() == pytest.approx(0.1, abs=1e-3)
    steps = [row["step"] for row in sparsifier.history]
    assert steps == sorted(steps)


@pytest.mark.promise("call `train()` of the Trainer twice", "followed")
@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("method", ["chtss", "rigl"])
def test_training_again_goes_on_from_the_links_there_are(method: str, execution: Any, tmp_path: Path) -> None:
    callback = SparsifierCallback(method, 0.9, update_every=2, rescale=True, execution=execution)
    run = net_trainer(tmp_path, callback)
    train(run)
    links, weights = consistent(callback, run.model).masks["b.weight"].clone(), run.model.b.weight.detach().clone()
    run.args.learning_rate = 0.0
    run.args.max_steps = 30
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, *_: Any, model: Any, **__: Any) -> None:
            if not seen:
                seen.append((callback.sparsifier.masks["b.weight"].clone(), model.b.weight.detach().clone()))

    run.add_callback(Look())
    train(run)
    assert torch.equal(seen[0][0], links)
    assert torch.equal(seen[0][1], weights)
    sparsifier = consistent(callback, run.model)
    assert (sparsifier.steps, sparsifier.timeline.total_steps) == (30, 30)
    assert sparsifier.density() == pytest.approx(0.1, abs=1e-3)


@pytest.mark.promise("resume the Trainer into another folder", "followed")
@pytest.mark.parametrize(
    ("method", "distribution"),
    [
        ("set", {"b.*": 0.5, "*": 0.9}),
        ("granet", {"b.*": 0.7}),
        (replace(chts.METHODS["set"], sparsity=Cycling((0.8, 0.5))), "uniform"),
        (replace(chts.METHODS["set"], sparsity=DenseEnd()), "uniform"),
    ],
)
def test_training_again_works_with_sparsities_by_layer_and_with_gains(
    method: Any, distribution: Any, tmp_path: Path
) -> None:
    callback = SparsifierCallback(method, 0.9, update_every=2, distribution=distribution)
    run = net_trainer(tmp_path, callback)
    train(run)
    links = consistent(callback, run.model).network.num_links()
    train(run)
    sparsifier = consistent(callback, run.model)
    assert sparsifier.steps == 20
    assert sparsifier.network.num_links() == links == sparsifier.progress.budget.links(20)


@pytest.mark.parametrize("moved", [False, True])
def test_training_resumes_in_another_folder(moved: bool, tmp_path: Path) -> None:
    train(net_trainer(tmp_path / "old", SparsifierCallback("rigl", 0.9, update_every=2), save_strategy="steps"))
    folder = tmp_path / "old" / "checkpoint-10"
    if moved:
        folder = folder.rename(tmp_path / "moved")
        lost = net_trainer(tmp_path / "new", SparsifierCallback("rigl", 0.9, update_every=2))
        with pytest.raises(
            FileNotFoundError, match=r"have moved that checkpoint, pass its folder as SparsifierCallback\(checkpoint"
        ):
            train(lost, resume_from_checkpoint=str(folder))
    callback = SparsifierCallback("rigl", 0.9, update_every=2, checkpoint=folder if moved else None)
    run = net_trainer(tmp_path / "new", callback)
    train(run, resume_from_checkpoint=str(folder))
    whole = SparsifierCallback("rigl", 0.9, update_every=2)
    train(net_trainer(tmp_path / "whole", whole))
    assert whole.sparsifier is not None
    ours = consistent(callback, run.model).masks
    assert all(torch.equal(mask, ours[name]) for name, mask in whole.sparsifier.masks.items())


@pytest.mark.promise("resume the Trainer for more epochs", "followed with a longer schedule")
@pytest.mark.filterwarnings("ignore:this is step 21 of a run of 20")
@pytest.mark.parametrize(("method", "at"), [("set", 20), ("chtss", 10), ("gmp", 20)])
def test_more_epochs_go_on_with_a_longer_schedule(method: str, at: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 10, "max_steps": 20}
    train(net_trainer(tmp_path, SparsifierCallback(method, 0.9, update_every=2), **settings))
    folder = str(tmp_path / f"checkpoint-{at}")
    saved = torch.load(Path(folder) / FILE_NAME, weights_only=True)
    before = sum(int(mask.sum()) for mask in saved["masks"].values())

    callback = SparsifierCallback(method, 0.9, update_every=2)
    run = net_trainer(tmp_path, callback, **settings | {"max_steps": 40})
    with pytest.warns(
        UserWarning, match="from a run of 20 steps but has 40 steps.* pass total_steps=20 to the callback"
    ):
        train(run, resume_from_checkpoint=folder)
    sparsifier = consistent(callback, run.model)
    totals = [sum(r["links"] for r in sparsifier.history if r["step"] == s) for s in range(at + 2, 31, 2)]
    assert all(now <= earlier for earlier, now in pairwise([before, *(total for total in totals if total)]))
    assert sparsifier.density() == pytest.approx(0.1, abs=1e-3)
    if method == "set":
        assert max(row["step"] for row in sparsifier.history) > 20

    # and from there as if nothing had been
    again = SparsifierCallback(method, 0.9, update_every=2)
    train(
        net_trainer(tmp_path, again, **settings | {"max_steps": 40}),
        resume_from_checkpoint=str(tmp_path / "checkpoint-30"),
    )
    assert again.sparsifier is not None
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in again.sparsifier.masks.items())

    old = SparsifierCallback(method, 0.9, update_every=2, total_steps=20)
    run = net_trainer(tmp_path / "old", old, **settings | {"max_steps": 40})
    train(run, resume_from_checkpoint=folder)
    assert max(row["step"] for row in consistent(old, run.model).history) <= 20


@pytest.mark.promise(
    "load the Trainer's best checkpoint", "followed, with its masks; a warning if it was before the final sparsity"
)
@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_the_best_checkpoint_comes_with_its_masks(execution: Any, tmp_path: Path) -> None:
    def run_to(greater: bool) -> tuple[SparsifierCallback, Trainer]:
        callback = SparsifierCallback("chtss", 0.9, update_every=2, execution=execution)
        every_five = {f"{what}_strategy": "steps" for what in ("save", "eval", "logging")} | dict.fromkeys(
            ("save_steps", "eval_steps", "logging_steps"), 5
        )
        folder = tmp_path / str(greater)
        run = net_trainer(folder, callback, **every_five, load_best_model_at_end=True, greater_is_better=greater)
        return callback, run

    callback, run = run_to(greater=True)  # the first, as the loss falls
    run.add_callback(EarlyStoppingCallback(early_stopping_patience=2))
    with pytest.warns(
        UserWarning, match=r"best checkpoint was saved at step 5, before .* density is 0\.\d+ but 0\.0996"
    ):
        train(run)
    sparsifier = consistent(callback, run.model)
    assert run.state.global_step == 15
    assert sparsifier.steps == 5
    assert sparsifier.density() > 0.12
    saved = load_file(tmp_path / "True" / "checkpoint-5" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in run.model.state_dict().items())
    rows = run.state.log_history
    assert all({"density", "anp", "itop"} <= row.keys() for row in rows)
    assert rows[0]["density"] > rows[-1]["density"] == pytest.approx(0.1, abs=1e-3)

    # Training continues with the weights and links of the best step.
    run.args.load_best_model_at_end = False
    run.args.max_steps = 25
    train(run)
    assert consistent(callback, run.model).density() == pytest.approx(0.1, abs=1e-3)

    callback, run = run_to(greater=False)
    train(run)
    assert consistent(callback, run.model).steps >= 15


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("total_steps", [10, 22, 60])
def test_a_sparsifier_takes_the_state_of_a_run_of_another_length(execution: Any, total_steps: int) -> None:
    def attach(model: nn.Module, **settings: Any) -> chts.Sparsifier:
        return chts.Sparsifier(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            "granet",
            0.9,
            update_every=2,
            execution=execution,
            **settings,
        )

    def step(model: Net, sparsifier: chts.Sparsifier) -> None:
        model(torch.randn(8, 16), torch.randn(8, 4))["loss"].backward()
        sparsifier.optimizer.step()
        sparsifier.step()
        sparsifier.optimizer.zero_grad()

    first = Net()
    short = attach(first, total_steps=20)
    for _ in range(12):
        step(first, short)
    state = short.state_dict()
    model = Net()
    sparsifier = attach(model, total_steps=total_steps)
    model.load_state_dict(first.state_dict(), strict=False)
    with pytest.raises(ValueError, match=r"total_steps 20 but this .* load it with reschedule=True"):
        sparsifier.load_state_dict(state)
    if total_steps == 10:
        with pytest.raises(
            ValueError, match=r"from step 12 and has \d+ links. .* no update left that could reach the final"
        ):
            sparsifier.load_state_dict(state, reschedule=True)
        return
    sparsifier.load_state_dict(state, reschedule=True)
    assert sparsifier.density() == short.density()
    while sparsifier.steps < total_steps:
        step(model, sparsifier)
    assert sparsifier.density() == pytest.approx(0.1, abs=1e-3)
