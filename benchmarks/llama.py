"""CHTs on LLaMA-60M under masks: the time that masks and updates of the topology add to a training step."""

import gc
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.lab.models import LLAMA_SIZES, initialise_llama, llama
from chts_core.lab.train.machine import forget_memory_peak, peak_memory_mb

from .common import resident_peak

VOCABULARY, CONTEXT = 32000, 256
TOKENS = (4, CONTEXT)
UPDATE_EVERY = 100
STEPS = 5


def rows(device: str | None = None, size: str = "60m", tokens: tuple[int, int] = TOKENS) -> Iterator[dict[str, Any]]:
    """At 70 and 95 % sparsity; medians of a few steps, timed in turns. Needs transformers.

    Args:
        device: "cpu" or "cuda"; None: a GPU if there is one.
        size: a name in `LLAMA_SIZES`.
        tokens: the number of contexts in a step, and their length.
    """
    for sparsity in (0.7, 0.95):
        yield from _overhead(sparsity, device or ("cuda" if torch.cuda.is_available() else "cpu"), size, tokens)


def _model(device: str, size: str) -> nn.Module:
    model = llama(VOCABULARY, LLAMA_SIZES[size], CONTEXT)
    initialise_llama(model, torch.device(device), torch.Generator().manual_seed(0))
    return model


def _tokens(device: str, shape: tuple[int, int]) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0)).to(device)


def _overhead(sparsity: float, device: str, size: str, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    model = _model(device, size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    sparsifier = chts.Sparsifier(model, optimizer, "chts", sparsity, total_steps=10**6, update_every=UPDATE_EVERY)
    attaching = time.perf_counter() - started
    tokens = _tokens(device, shape)
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
        for weight in weights:  # as the gradient's hook does; the step itself does the same to the weight
            weight.clear_absent(keeps_zeros=True)

    steps, hooks, own = [], [], []
    for _ in range(STEPS):
        steps.append(timed(train))
        hooks.append(timed(enforce))
        own.append(timed(sparsifier.step))
    updates = []

    def update() -> None:
        sparsifier.progress.steps += UPDATE_EVERY - sparsifier.steps % UPDATE_EVERY - 1
        updates.append(timed(lambda: sparsifier.step(skipped=True)))  # the optimizer makes no step in between

    for _ in range(3):
        update()
    peak = resident_peak(update) if device == "cpu" else None

    def copy() -> list[Tensor]:
        return [tensor.clone() for weight in weights for tensor in (weight.dense(), weight.mask)]

    copies = [timed(copy) for _ in range(5)]
    model_name = f"LLaMA-{size.upper()} at {sparsity:.0%} on {device}"
    rival = f"the training step on {shape[0] * shape[1]} tokens"
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


def throughput(
    device: str, size: str, tokens: tuple[int, int], update_every: int = UPDATE_EVERY
) -> Iterator[dict[str, Any]]:
    """Training steps of CHTs at 70 and 95 % sparsity against dense steps: time, tokens per second, and memory.

    Products are in bfloat16, as in the recipe of this size; the topology is updated once in `update_every` steps.

    Args:
        device, size, tokens: as in `rows`.
        update_every: also the number of steps that are timed.
    """
    number = tokens[0] * tokens[1]
    what = f"LLaMA-{size.upper()}, {number} tokens, bfloat16 on {device}"
    rival, rival_mb = _training("fc", 0.0, device, size, tokens, update_every)
    for sparsity in (0.7, 0.95):
        seconds, memory_mb = _training("chts", sparsity, device, size, tokens, update_every)
        yield {
            "comparison": f"step of CHTs at {sparsity:.0%}, {what}",
            "seconds": seconds,
            "rival": "FC",
            "rival_seconds": rival,
            "times_faster": rival / seconds,
            "tokens_per_second": number / seconds,
            "rival_tokens_per_second": number / rival,
            "peak_memory_mb": memory_mb,
            "rival_peak_memory_mb": rival_mb,
        }


def _training(
    method: str, sparsity: float, device: str, size: str, shape: tuple[int, int], steps: int
) -> tuple[float, int | None]:
    """Seconds of a step, as the mean over `steps` steps with one update among them, and the peak memory."""
    gc.collect()  # a model refers to itself, so the previous one stays in memory until Python collects it
    forget_memory_peak(torch.device(device))
    model, tokens = _model(device, size), _tokens(device, shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity, total_steps=10**6, update_every=steps)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        sparsifier.step()

    for _ in range(steps):  # the first step and the first update are slower
        train()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        train()
    _wait(device)
    return (time.perf_counter() - started) / steps, peak_memory_mb(torch.device(device))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
