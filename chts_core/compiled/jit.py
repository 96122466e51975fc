"""Compile loops, and draw random numbers in them. Only the modules that use compiled loops import Numba."""

import os
import threading
import warnings
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that runs without the interpreter's lock, so that plain Python threads can share the work.

    Unlike Numba's own parallel loops, such a loop is safe to call from several threads at once, and quick to compile.
    """
    return _cached(function, nogil=True)


def compiled_twice(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile `function(threads, ...)` twice: as an ordinary loop, and as a parallel loop over shares of the work.

    The function loops over these shares with `prange(threads)`. The compiled function takes tensors, and runs on as
    many threads as torch uses, or on the given number of `threads`. With more than one thread, only one caller runs at
    a time.

    With one thread, the compiled function runs the ordinary loop. Numba's own parallel loops start within microseconds,
    but starting their threads changes torch's number of threads and makes a fork unsafe. On a busy machine, these
    threads also take cores from other work while they wait. The ordinary loop also runs in a forked process, and in a
    process in which Numba finds no threading layer. Both loops give the same results, bit for bit.

    The compiler may reorder sums, so that it can use whole vector registers.
    """
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
    # Numba finds cached code by name and source, and ignores the options. Under one name, both loops would use the code
    # that was compiled first.
    twin = FunctionType(function.__code__, function.__globals__)
    twin.__qualname__ = f"{function.__qualname__}_in_parallel"
    serial, parallel = _cached(function, **options), _cached(twin, parallel=True, **options)

    def run(*tensors: Tensor | None, threads: int | None = None) -> None:
        arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
        threads = threads or torch.get_num_threads()
        if threads == 1 or _forked or not _shares_work():
            serial(1, *arrays)
            return
        with _one_at_a_time:
            before, wanted = numba.get_num_threads(), min(threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
            if before == wanted:  # setting the number would take longer than a small product
                parallel(threads, *arrays)
                return
            numba.set_num_threads(wanted)
            try:
                parallel(threads, *arrays)
            finally:
                numba.set_num_threads(before)

    return run


# Not every threading layer of Numba allows two callers at the same time.
_one_at_a_time = threading.Lock()


@cache
def _shares_work() -> bool:
    """Whether Numba can share work among threads in this process. This function starts the threads."""
    threads = torch.get_num_threads()
    try:
        numba.get_num_threads()
    except ValueError as error:
        warnings.warn(
            f"Numba cannot start its threads, so sparse layers run on one thread: {error} Change "
            "NUMBA_THREADING_LAYER, or call torch.set_num_threads(1).",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    finally:
        torch.set_num_threads(threads)  # starting Numba's threads has changed this number
    return True


def _after_fork() -> None:
    """Remember the fork.

    In the child process, the parent's threads no longer exist, and some of Numba's threading layers kill a process that
    starts them again.
    """
    global _forked
    _forked = True


_forked = False
if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_after_fork)


def _cached(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any]
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # Numba found no writable folder for its cache
        compiled = njit(**options)(function)
    return compiled


# The number that a SplitMix64 generator adds to its state for each draw.
STEP = np.uint64(0x9E3779B97F4A7C15)


@compiled
def mixed(z: Any) -> Any:  # pragma: no cover (compiled)
    """64 random bits from a uint64 state of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def next_random(state: Any) -> Any:  # pragma: no cover (compiled)
    """The next 64 random bits from a state, which is an array of one uint64."""
    state[0] += STEP
    return mixed(state[0])


@compiled
def random_below(state: Any, end: int) -> Any:  # pragma: no cover (compiled)
    """An exactly uniform integer in [0, end).

    The 2^64 possible draws are divided into groups of `end` consecutive numbers. A draw from an incomplete last group
    is repeated.
    """
    size = np.uint64(end)
    complete = np.uint64(0) - (np.uint64(0) - size) % size  # 2^64 - (2^64 mod end), where 0 stands for 2^64
    z = next_random(state)
    while complete != np.uint64(0) and z >= complete:
        z = next_random(state)
    return np.int64(z % size)
