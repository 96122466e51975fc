"""The parts of a training step with only the links: the time of products and of transposes, on one thread."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from chts_core.engine import product
from chts_core.engine.kernels import CompiledKernels

from .common import Function
from .step import mlp_step, transformer_step

_SECONDS = 10.0
_PRODUCTS = ("forward", "input_gradient", "value_gradient")


def rows() -> Iterator[dict[str, Any]]:
    """The share of each part; the rival is the whole step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _parts(
            "Multi30k's Transformer at 95%, 1024 tokens", transformer_step("chts", 0.95, "csr", "float32")
        )
        yield from _parts("MLP 3×1568 at 99%, batch 32", mlp_step("chts", 32, "csr"))
    finally:
        torch.set_num_threads(threads)


def _parts(name: str, step: Function) -> Iterator[dict[str, Any]]:
    spent: Counter[str] = Counter()
    steps, started = 0, 0.0
    with ExitStack() as stack:
        for method in _PRODUCTS:
            timed = _timed(getattr(CompiledKernels, method), spent, "sparse products")
            stack.enter_context(patch.object(CompiledKernels, method, timed))
        timed = _timed(product.transposed, spent, "transposes around them")
        stack.enter_context(patch.object(product, "transposed", timed))
        for _ in range(2):  # compiles
            step()
        spent.clear()
        started = perf_counter()
        while perf_counter() - started < _SECONDS:
            step()
            steps += 1
        whole = (perf_counter() - started) / steps
    for part, seconds in spent.items():
        yield {
            "comparison": f"{part}, {name}",
            "seconds": seconds / steps,
            "rival": "the whole step",
            "rival_seconds": whole,
            "times_faster": whole / (seconds / steps),
            "share": seconds / steps / whole,
        }


def _timed(function: Callable[..., Any], spent: Counter[str], part: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        result = function(*args, **kwargs)
        spent[part] += perf_counter() - started
        return result

    return call
