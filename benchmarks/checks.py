"""The time of the Sparsifier's checks at every step, against the time of the training step before them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import chts_core as chts
from chts_core.lab.models import mlp

from .common import compare

# The checks should take less than a 200th of a training step.
AIM = 200


def rows() -> Iterator[dict[str, Any]]:
    """With `execution="csr"`, `Sparsifier.step` only checks. The second row needs transformers."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(32, 784, generator=generator), torch.randint(10, (32,), generator=generator)
    model = mlp(784, 1568, 10, generator=generator)
    yield _row("MLP 3×1568 at 99 % sparsity", model, lambda: nn.functional.cross_entropy(model(images), labels))

    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
    )
    llama = LlamaForCausalLM(config)
    tokens = torch.randint(32000, (4, 256), generator=generator)
    yield _row("LLaMA-60M at 99 % sparsity", llama, lambda: llama(input_ids=tokens, labels=tokens).loss)


def _row(name: str, model: nn.Module, loss: Any) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    settings: dict[str, Any] = {"total_steps": 10**9, "update_every": 10**8, "execution": "csr"}
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.99, **settings)

    def train() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        sparsifier.step()

    train()
    rival = ("its training step", train)
    return compare(f"checks of a step, {name}", lambda: sparsifier.step(skipped=True), rival, aim=AIM)
