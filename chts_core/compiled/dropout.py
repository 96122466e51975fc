"""The compiled loop of dropout. It replaces `torch.nn.functional.dropout`, and χ² tests compare the two."""

from typing import Any

import numpy as np
from numba import prange

from chts_core.compiled.jit import STEP, compiled_twice, mixed

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_RUN = 64  # elements of a run: 64 random bits decide on one element of the first half and one of the second half


@compiled_twice
def drop(threads: int, key: Any, x: Any, y: Any) -> None:  # pragma: no cover (compiled)
    """y = scale · x where an element is kept, and 0 elsewhere. The same key drops the same elements.

    Args:
        threads: how many threads share the elements.
        key: int64 (2,): the seed, and how many of the 2^32 possible random integers keep an element.
        x, y: 1-D, of the same dtype; y is overwritten.
    """
    seed, kept = np.uint64(key[0]), np.uint64(key[1])
    scale = x.dtype.type(4294967296.0 / key[1])
    half = _RUN // 2
    runs = (len(x) + _RUN - 1) // _RUN
    for share in prange(threads):
        for run in range(runs * share // threads, runs * (share + 1) // threads):
            first = run * _RUN
            counter = seed + np.uint64(run * half) * STEP
            if first + _RUN <= len(x):
                for j in range(half):
                    bits = mixed(counter + np.uint64(j) * STEP)
                    one, other = x[first + j] * scale, x[first + half + j] * scale
                    y[first + j] = one if (bits & _LOW) < kept else x.dtype.type(0)
                    y[first + half + j] = other if (bits >> _HALF) < kept else x.dtype.type(0)
            else:
                for j in range(len(x) - first):
                    bits = mixed(counter + np.uint64(j % half) * STEP)
                    bits = bits & _LOW if j < half else bits >> _HALF
                    y[first + j] = x[first + j] * scale if bits < kept else x.dtype.type(0)
