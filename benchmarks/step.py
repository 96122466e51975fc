"""Whole training steps: the paper's MLP and its Multi30k Transformer, with only the links, under masks, and dense."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.engine.linear import Execution
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer, mlp

from .common import compare

TOKENS, LENGTH, VOCABULARY = 1024, 16, 8000
STEPS, UPDATE_EVERY = 10**9, 10**8  # no update of the topology comes during the benchmark


def rows() -> Iterator[dict[str, Any]]:
    """Each step against the same step of FC; the MLP also against an MLP of sparselab's layers, if it is installed."""
    for batch, aim in ((32, 12), (256, 15)):
        dense = mlp_step("fc", batch)
        name = f"MLP 3×1568 at 99 %, batch {batch}"
        yield compare(f"step of CHTs, {name}", mlp_step("chts", batch, "csr"), ("FC", dense), aim=aim)
        yield compare(f"masked step of CHTs, {name}", mlp_step("chts", batch), ("FC", dense))
    for precision, aims in (("float32", {0.95: 3.5, 0.9: 2.5}), ("bfloat16", {0.95: 2, 0.9: None})):
        dense = transformer_step("fc", 0.0, "masked", precision)
        for sparsity, aim in aims.items():
            yield compare(
                f"step of CHTs, Multi30k's Transformer at {sparsity:.0%}, {TOKENS} tokens, {precision}",
                transformer_step("chts", sparsity, "csr", precision),
                ("FC", dense),
                aim=aim,
            )
    if importlib.util.find_spec("sparselab"):  # last: its threads slow down everything else in the process
        for batch in (32, 256):
            rival = ("sparselab.SparseLinear", _sparselab_step(batch))
            name = f"step of CHTs, MLP 3×1568 at 99 %, batch {batch}"
            yield compare(name, mlp_step("chts", batch, "csr"), rival, aim=1.5)


def mlp_step(method: str, batch: int, execution: Execution = "masked") -> Callable[[], None]:
    """A training step of the paper's MLP at 99 % sparsity."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(784, 1568, 10, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 0.99, total_steps=STEPS, update_every=UPDATE_EVERY, execution=execution
    )
    return _on_images(model, optimizer, batch, sparsifier.step)


def _sparselab_step(batch: int) -> Callable[[], None]:
    import sparselab

    sizes = (784, 1568, 1568, 1568)
    layers = [
        part
        for inputs, outputs in itertools.pairwise(sizes)
        for part in (sparselab.SparseLinear(inputs, outputs, sparsity=0.99), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.Linear(1568, 10))
    return _on_images(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), batch, lambda: None)


def _on_images(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: int, after: Callable[[], None]
) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(batch, 784, generator=generator), torch.randint(10, (batch,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        after()

    return step


def transformer_step(method: str, sparsity: float, execution: Execution, precision: str) -> Callable[[], None]:
    """A training step of the paper's Multi30k Transformer, with dropout and label smoothing.

    The source has as many tokens as the target.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Transformer(VOCABULARY, TRANSFORMER_SIZES["multi30k"], dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.998), fused=True)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, sparsity, total_steps=STEPS, update_every=UPDATE_EVERY, execution=execution
    )
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(4, VOCABULARY, (TOKENS // LENGTH, LENGTH), generator=generator)
    target = torch.randint(4, VOCABULARY, (TOKENS // LENGTH, LENGTH + 1), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(source, target[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), target[:, 1:].flatten(), label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        sparsifier.step()

    return step
