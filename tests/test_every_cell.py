"""Every method on every kind of model at every sparsity: it trains, its links are exact, and it resumes to the bit."""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import tiers
import tiny
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.schedules import Timeline

STEPS, EVERY = 16, 2
LAST_UPDATE = 12  # 75 % of the run
TIMELINE = Timeline(STEPS, EVERY, 0.75)


@dataclass
class Run:
    """A model under sparse training."""

    task: tiny.Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    sparsifier: chts.Sparsifier

    def train(self, first: int = 0, last: int = STEPS) -> Iterator[int]:
        """Take the steps from `first` on; yield the number of each after it was taken, gradients still there."""
        for step in range(first + 1, last + 1):
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model, step)
            assert loss.isfinite()
            loss.backward()
            self.optimizer.step()
            self.sparsifier.step()
            yield step

    def save(self) -> io.BytesIO:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "sparsifier": self.sparsifier}
        torch.save({key: part.state_dict() for key, part in parts.items()}, file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        saved = torch.load(file, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.sparsifier.load_state_dict(saved["sparsifier"])

    def tensors(self) -> dict[str, Tensor]:
        """All that a run consists of, by name."""
        moments = {
            f"{name} {key}": value
            for name, weight in self.model.named_parameters()
            for key, value in self.optimizer.state[weight].items()
        }
        masks = {f"{name} mask": mask for name, mask in self.sparsifier.masks.items()}
        return {name: tensor.clone() for name, tensor in (self.model.state_dict() | moments | masks).items()}


def start(task: str, method: str, sparsity: float, seed: int = 0) -> Run:
    model = tiny.TASKS[task].build(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity, total_steps=STEPS, update_every=EVERY)
    return Run(tiny.TASKS[task], model, optimizer, sparsifier)


def layers_of(name: str, mask: Tensor) -> dict[str, Tensor]:
    """The networks in a parameter: the three of a packed attention count their links by themselves."""
    return dict(zip("qkv", mask.chunk(3), strict=True)) if name.endswith("in_proj_weight") else {"": mask}


def assert_exact_and_clean(run: Run, sparsity: float) -> None:
    for name, mask in run.sparsifier.masks.items():
        for role, layer in layers_of(name, mask).items():
            assert int(layer.sum()) == round((1 - sparsity) * layer.numel()), (name, role)
        weight = run.model.get_parameter(name)
        moments = [value for value in run.optimizer.state[weight].values() if value.shape == weight.shape]
        for tensor in (weight, *moments, *([] if weight.grad is None else [weight.grad])):
            assert not tensor[~mask].any(), name


@pytest.mark.parametrize(("task", "method", "sparsity"), tiers.every_pair(tiny.TASKS, chts.METHODS, [0.5, 0.9, 0.99]))
def test_trains_counts_and_resumes(task: str, method: str, sparsity: float) -> None:
    cut = random.Random(f"{task} {method} {sparsity}").randrange(1, STEPS)
    run = start(task, method, sparsity)
    initial = run.tensors()
    scheduled = chts.METHODS[method].sparsity.at
    assert_exact_and_clean(run, scheduled(0, TIMELINE, sparsity))
    for step in run.train():
        assert_exact_and_clean(run, scheduled(min(step // EVERY * EVERY, LAST_UPDATE), TIMELINE, sparsity))
        if step == cut:
            saved = run.save()
    assert_exact_and_clean(run, 0.0 if method == "fc" else sparsity)
    final = run.tensors()
    assert all(not torch.equal(final[name], initial[name]) for name, _ in run.model.named_parameters())
    assert bool(run.sparsifier.history) == (method != "fc")

    resumed = start(task, method, sparsity, seed=1)
    resumed.load(saved)
    for _ in resumed.train(first=cut):
        pass
    again = resumed.tensors()
    assert again.keys() == final.keys()
    assert [name for name, tensor in final.items() if not torch.equal(again[name], tensor)] == []
    assert without_seconds(resumed.sparsifier.history) == without_seconds(run.sparsifier.history)


def without_seconds(history: list[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]
