"""Training steps of CHTs with masked dense weights, against fully connected ones."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import chts_core as chts
from chts_core.lab.models import mlp

from .common import compare


def rows() -> Iterator[dict[str, Any]]:
    """One step of the paper's MLP."""
    yield compare(
        "masked step of CHTs, MLP 3×1568 at 99 % sparsity",
        _training_step("chts", 1568),
        ("the same step of FC", _training_step("fc", 1568)),
    )


def _training_step(method: str, hidden: int) -> Callable[[], None]:
    """One step on a batch of 32; the topology is not updated within the time of the benchmark."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(784, hidden, 10, generator=generator)
    images, labels = torch.rand(32, 784, generator=generator), torch.randint(10, (32,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity=0.99, total_steps=10**9, update_every=10**8, seed=0)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        sparsifier.step()

    return step
