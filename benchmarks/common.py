"""Code that all benchmarks share: it times one to three functions in turns, in one run.

Every other module of this folder is a topic of `chts bench`: rows() yields one dictionary, made by
:func:`compare`, as soon as a comparison ends. Topics import this module as `from .common import compare`.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

Function = Callable[[], object]

_SECONDS_AT_LEAST = 3.0
_ROUNDS_AT_LEAST = 3
_SECONDS_OF_A_TURN = 0.05


def compare(
    comparison: str,
    ours: Function,
    rival: tuple[str, Function],
    *,
    floor: tuple[str, Function] | None = None,
    aim: float | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Time our function and a rival in turns, and return a row of a benchmark.

    Args:
        comparison: what the functions do, and on what data.
        ours: our function; all functions are called without arguments.
        rival: its name and the function.
        floor: name and function of the least work that both must do; it is timed too.
        aim: how many times as fast as the rival ours should be.
        device: where they run; on "cuda" the row also has the peak memory of one call.

    Returns:
        comparison, seconds, rival, rival_seconds, times_faster; if they apply, also floor, floor_seconds,
        aim, peak_bytes and rival_peak_bytes. Seconds are medians over rounds in which every function has its turn.
    """
    name, other = rival
    seconds = medians(ours, other, *([floor[1]] if floor else []))
    row = {
        "comparison": comparison,
        "seconds": seconds[0],
        "rival": name,
        "rival_seconds": seconds[1],
        "times_faster": seconds[1] / seconds[0],
    }
    if floor:
        row |= {"floor": floor[0], "floor_seconds": seconds[2]}
    if aim is not None:
        row["aim"] = aim
    if device == "cuda":
        row |= {"peak_bytes": _peak_bytes(ours), "rival_peak_bytes": _peak_bytes(other)}
    return row


def medians(*functions: Function) -> list[float]:
    """Median seconds of one call of each function, timed in turns, each turn after one call that does not count."""
    threads = torch.get_num_threads()
    timers = [
        Timer("function()", globals={"function": function}, num_threads=threads)  # waits for a GPU to finish
        for function in functions
    ]
    turns: list[list[float]] = [[] for _ in timers]
    started = perf_counter()
    while perf_counter() - started < _SECONDS_AT_LEAST or len(turns[0]) < _ROUNDS_AT_LEAST:
        for timer, its_turns in zip(timers, turns, strict=True):
            its_turns.append(timer.blocked_autorange(min_run_time=_SECONDS_OF_A_TURN).median)
    return [median(its_turns) for its_turns in turns]


def _peak_bytes(function: Function) -> int:
    """Peak GPU memory of one call, beyond the memory in use before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def resident_peak(function: Function) -> int | None:
    """Peak resident memory of one call, in bytes beyond the memory in use before it; None if the system is not Linux.

    This is the minimum of three calls, because memory that the system pages in meanwhile can add to one of them.
    """
    peaks = []
    for _ in range(3):
        try:
            ctypes.CDLL(None).malloc_trim(0)  # otherwise memory that is kept for the next call would hide its peak
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        except (OSError, AttributeError):
            return None
        before = _status("VmRSS")
        function()
        peaks.append(max(0, _status("VmHWM") - before))
    return min(peaks)


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def matrix_products(mask: Tensor) -> tuple[str, Function]:
    """Name and function of the least work of a dense node-based score: its four matrix products."""
    links = mask.float()
    of_outputs, of_inputs = links @ links.T, links.T @ links

    def products() -> tuple[Tensor, ...]:
        return links @ links.T, links.T @ links, of_outputs @ links, links @ of_inputs

    return "its four matrix products", products
