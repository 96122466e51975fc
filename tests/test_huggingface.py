"""A real Trainer on a tiny LLaMA with grouped-query attention, on the CPU."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import Trainer, TrainingArguments

import chts_core as chts
from chts_core.huggingface import FILE_NAME, SparsifierCallback

STEPS, EVERY = 12, 2


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        self.ids = torch.randint(tiny.VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def trainer(folder: Path, callback: SparsifierCallback, seed: int = 0, **settings: Any) -> Trainer:
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
        model=tiny.llama(seed),
        args=TrainingArguments(**(arguments | settings)),
        train_dataset=Sentences(),
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


@pytest.mark.parametrize("method", ["rigl", "chtss"])
def test_a_resumed_trainer_ends_at_the_same_bits(method: str, tmp_path: Path) -> None:
    uncut = SparsifierCallback(method, 0.9, update_every=EVERY)
    whole = trainer(tmp_path, uncut)
    train(whole)
    assert (tmp_path / "checkpoint-5" / FILE_NAME).exists()
    resumed = SparsifierCallback(method, 0.9, update_every=EVERY)
    rest = trainer(tmp_path, resumed, seed=1)
    train(rest, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert uncut.sparsifier is not None
    assert resumed.sparsifier is not None
    assert resumed.sparsifier.steps == STEPS
    for name, mask in uncut.sparsifier.masks.items():
        assert torch.equal(resumed.sparsifier.masks[name], mask)
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_resuming_without_the_file_is_refused(tmp_path: Path) -> None:
    callback = SparsifierCallback("set", 0.9, update_every=EVERY)
    train(trainer(tmp_path, callback, max_steps=6))
    (tmp_path / "checkpoint-5" / FILE_NAME).unlink()
    again = trainer(tmp_path, SparsifierCallback("set", 0.9, update_every=EVERY), max_steps=6)
    with pytest.raises(FileNotFoundError, match=r"resumes at step 5 but .*sparsifier\.pt does not exist"):
        train(again, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


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


def test_only_masked_layers_can_be_resumed_by_the_trainer() -> None:
    with pytest.raises(ValueError, match="execution is 'csr'; the Trainer loads its checkpoints before"):
        SparsifierCallback("chts", 0.9, execution="csr")
