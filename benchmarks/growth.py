"""How the cost of a layer with 1 % of its links grows with its size, from 512×512: time and memory, on one thread."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch

import chts_core as chts

from .common import Function, medians, resident_peak
from .update import of_layer

DENSITY = 0.01
SIZES = (512, 1024, 2048, 4096, 8192, 16384)
# The paths of larger layers need many gigabytes.
LARGEST_OF_PATHS = 4096


def rows() -> Iterator[dict[str, Any]]:
    """A training step of 32 samples, updates by CHTs and SET, the construction of a run, and the scores of CH3-L3p.

    The rival is the same work for a layer of half the width, which has a quarter of the links.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        before: dict[str, float] = {}
        for size in SIZES:
            for work, (seconds, peak) in _costs(size):
                if work in before:
                    yield {
                        "comparison": f"{work}, {size}×{size}",
                        "seconds": seconds,
                        "rival": f"{size // 2}×{size // 2}",
                        "rival_seconds": before[work],
                        "times_faster": before[work] / seconds,
                        "extra_bytes": peak,
                        "work": work,
                        "size": size,
                        "links": round(DENSITY * size * size),
                    }
                before[work] = seconds
    finally:
        torch.set_num_threads(threads)


def _costs(size: int) -> Iterator[tuple[str, tuple[float, int | None]]]:
    for method in ("chts", "set"):
        update, step = of_layer(size, DENSITY, method)
        update()  # compiles
        yield f"update of {method}", _of_one(update)
        if method == "chts":
            step()
            yield "training step of 32 samples", _of_one(step)
    yield "construction of a run", _of_one(lambda: of_layer(size, DENSITY, "chts"))
    if size <= LARGEST_OF_PATHS:
        mask = chts.topology.erdos_renyi(size, size, DENSITY, generator=torch.Generator().manual_seed(0))
        chts.link_prediction.ch3_l3p(mask[:64])  # compiles
        yield "scores of CH3-L3p", _of_one(lambda: chts.link_prediction.ch3_l3p(mask))


def _of_one(function: Function) -> tuple[float, int | None]:
    """Seconds and additional memory of one call."""
    started = perf_counter()
    function()
    once = perf_counter() - started
    return once if once > _LONG else medians(function)[0], resident_peak(function)


_LONG = 5.0  # seconds; a longer call is timed only once
