"""CHTs on LLaMA-60M under masks: what a step and an update of the topology add to a training step."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

import chts_core as chts

from .common import resident_peak

TOKENS = (4, 256)
UPDATE_EVERY = 100
STEPS = 5


def rows() -> Iterator[dict[str, Any]]:
    """At 70 and 95 % sparsity; medians of a few steps, in turns. Needs transformers."""
    for sparsity in (0.7, 0.95):
        yield from _overhead(sparsity, "cuda" if torch.cuda.is_available() else "cpu")


def _overhead(sparsity: float, device: str) -> Iterator[dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=256,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    sparsifier = chts.Sparsifier(model, optimizer, "chts", sparsity, total_steps=10**6, update_every=UPDATE_EVERY)
    attaching = time.perf_counter() - started
    tokens = torch.randint(32000, TOKENS, generator=torch.Generator().manual_seed(0)).to(device)
    weights = list(sparsifier.network.weights.values())

    def timed(work: Any) -> float:
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - started

    def train() -> None:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()

    def enforce() -> None:
        for weight in weights:  # what the gradient's hook does; the step itself does the same to the weight
            weight.clear_absent(keeps_zeros=True)

    steps, hooks, own = [], [], []
    for _ in range(STEPS):
        steps.append(timed(train))
        hooks.append(timed(enforce))
        own.append(timed(sparsifier.step))
    updates = []

    def update() -> None:
        sparsifier.steps += UPDATE_EVERY - sparsifier.steps % UPDATE_EVERY - 1
        updates.append(timed(lambda: sparsifier.step(skipped=True)))  # no step of the optimizer comes between

    for _ in range(3):
        update()
    peak = resident_peak(update) if device == "cpu" else None

    def copy() -> list[torch.Tensor]:
        return [tensor.clone() for weight in weights for tensor in (weight.dense(), weight.mask)]

    copies = [timed(copy) for _ in range(5)]
    model_name = f"LLaMA-60M at {sparsity:.0%} on {device}"
    rival = f"the training step on {TOKENS[0] * TOKENS[1]} tokens"
    added = median(hooks) + median(own) + median(updates) / UPDATE_EVERY
    step = median(steps) - median(hooks)
    yield {
        "comparison": f"masks and updates, {model_name}",
        "seconds": added,
        "rival": rival,
        "rival_seconds": step,
        "times_faster": step / added,
        "aim": 20 if device == "cpu" else 50,
        "share": added / step,
        "attaching_seconds": attaching,
    }
    row = {
        "comparison": f"one update, {model_name}",
        "seconds": median(updates),
        "rival": rival,
        "rival_seconds": step,
        "times_faster": step / median(updates),
        "floor": "copying the weights and masks",
        "floor_seconds": median(copies),
    }
    yield row | ({} if peak is None else {"peak_bytes": peak})


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
