"""Compiled loops: how they are compiled, and the random numbers they draw. Only their users import Numba."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the interpreter's lock, so that plain Python threads can share the work among them.

    Unlike Numba's own parallel loops this is safe to call from several threads at once, and quick to compile.
    """
    return _cached(function, nogil=True)


def compiled_parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with Numba's own parallel loops, which start within microseconds; one caller at a time.

    Sums may be reordered, which lets them use whole vector registers.
    """
    return _cached(function, nogil=True, parallel=True, fastmath={"reassoc", "contract", "arcp", "nsz"})


@contextmanager
def on_threads_of_torch() -> Iterator[int]:
    """Numba's own loops run on as many threads as torch does, which is given.

    Without it they wake as many as there are cores; and when Numba starts its threads, torch takes on their number.
    """
    threads, numba_s = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        yield threads
    finally:
        numba.set_num_threads(numba_s)


def _cached(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any]
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to: no cache
        compiled = njit(**options)(function)
    return compiled


@compiled
def next_random(state: Any) -> Any:  # pragma: no cover (compiled)
    """The next 64 random bits of a state, one uint64 (SplitMix64: Steele, Lea and Flood 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def random_below(state: Any, end: int) -> Any:  # pragma: no cover (compiled)
    """A whole number in [0, end), exactly uniform: draws from an incomplete last run of `end` are taken again."""
    size = np.uint64(end)
    complete = np.uint64(0) - (np.uint64(0) - size) % size  # 2^64 - (2^64 mod end), where 0 stands for 2^64
    z = next_random(state)
    while complete != np.uint64(0) and z >= complete:
        z = next_random(state)
    return np.int64(z % size)
