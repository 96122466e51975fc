"""Compiled loops over ascending lists of links, and over bits."""

from typing import Any

import numpy as np

from chts_core.compiled.jit import compiled


@compiled
def mark_shared(values: Any, others: Any, shared: Any) -> None:  # pragma: no cover (compiled)
    """Set shared[i] to whether values[i] is also in `others`. `values` and `others` are in ascending order."""
    at = 0
    for i in range(len(values)):
        while at < len(others) and others[at] < values[i]:
            at += 1
        shared[i] = at < len(others) and others[at] == values[i]


@compiled
def has(bits: Any, place: int) -> Any:  # pragma: no cover (compiled)
    """Whether a bit is set; `bits` is uint8 with eight bits per element, in the order of `numpy.packbits`."""
    return bits[place >> 3] >> (7 - (place & 7)) & 1


@compiled
def set_bits(bits: Any, places: Any) -> None:  # pragma: no cover (compiled)
    """Set the bits at the given places; see :func:`has`."""
    for place in places:
        bits[place >> 3] |= np.uint8(128 >> (place & 7))
