"""One epoch of the paper's MLP on Fashion-MNIST at 99 % sparsity: with only the links, masked, and fully connected."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.engine.linear import Execution
from chts_core.lab.data import load_images
from chts_core.lab.models import mlp

HIDDEN, BATCH, SPARSITY = 1568, 32, 0.99
EPOCHS = 4  # in the schedule; we time the first epoch, which ends with an update of the topology


def rows() -> Iterator[dict[str, Any]]:
    """CHTs that stores only its links, and CHTs under masks, against FC; each epoch runs once."""
    train = load_images("fashion_mnist").train
    links, masked, dense = (
        _epoch(method, execution, train.images, train.labels)
        for method, execution in (("chts", "csr"), ("chts", "masked"), ("fc", "masked"))
    )
    for name, own, aim in (("links alone", links, 8), ("masked", masked, None)):
        row = {
            "comparison": f"epoch of CHTs, {name}, MLP 3×{HIDDEN} at {SPARSITY:.0%}",
            "seconds": own["seconds"],
            "rival": "FC of the same size",
            "rival_seconds": dense["seconds"],
            "times_faster": dense["seconds"] / own["seconds"],
            "update_seconds": own["update_seconds"],
            "state_bytes": own["state_bytes"],
            "mask_bytes": own["mask_bytes"],
            "rival_state_bytes": dense["state_bytes"],
            "state_share": own["state_bytes"] / dense["state_bytes"],
        }
        yield row | ({"aim": aim} if aim else {})


def _epoch(method: str, execution: Execution, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Seconds of an epoch and of the update in it; bytes of everything that stays in memory from step to step."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(images.shape[1], HIDDEN, 10, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4)
    steps = len(labels) // BATCH
    sparsifier = chts.Sparsifier(
        model, optimizer, method, SPARSITY, total_steps=EPOCHS * steps, update_every=steps, execution=execution
    )
    sparsifier.rescale_weights()
    order = torch.randperm(len(labels), generator=generator)[: steps * BATCH]
    _step(model, optimizer, images[:BATCH], labels[:BATCH])  # compiles
    started = time.perf_counter()
    for batch in order.split(BATCH):
        _step(model, optimizer, images[batch], labels[batch])
        sparsifier.step()
    seconds = time.perf_counter() - started
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    masks = sparsifier.masks.values() if execution == "masked" and method != "fc" else ()
    return {
        "seconds": seconds,
        "update_seconds": sum(row["seconds"] for row in sparsifier.history),
        "state_bytes": sum(t.nbytes for t in (*model.parameters(), *model.buffers(), *gradients, *moments)),
        "mask_bytes": sum(t.nbytes for t in (*masks, *sparsifier.progress.ever_active.values())),
    }


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
