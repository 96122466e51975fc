"""The compiled inner loop of the path-based scores, apart from the rest so that only its users import Numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile without the interpreter's lock, so that plain Python threads can share the outputs among them.

    Unlike Numba's own parallel loops this is safe to call from several threads at once, and quick to compile.
    """
    compiled: Callable[..., None]
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to: no cache
        compiled = njit(nogil=True)(function)
    return compiled


@_compiled
def add_paths(  # pragma: no cover (compiled)
    first_output: int,
    end_output: int,
    inputs_start: Any,
    inputs: Any,
    outputs_start: Any,
    outputs_of: Any,
    of_outputs: Any,
    of_inputs: Any,
    scores: Any,
) -> None:
    """Sum of_outputs[u, z2] * of_inputs[z1, v] over the paths u – z1 – z2 – v into scores[u, v].

    u runs over first_output <= u < end_output, whose rows of `scores` belong to this call alone.
    The inputs of output u are inputs[inputs_start[u] : inputs_start[u + 1]], and the same the other way round.
    """
    for u in range(first_output, end_output):
        sums = np.zeros(scores.shape[1])  # float64: a link can have millions of paths
        for first in range(inputs_start[u], inputs_start[u + 1]):
            z1 = inputs[first]
            weights = of_inputs[z1]
            for second in range(outputs_start[z1], outputs_start[z1 + 1]):
                z2 = outputs_of[second]
                weight = of_outputs[u, z2]
                for third in range(inputs_start[z2], inputs_start[z2 + 1]):
                    v = inputs[third]
                    sums[v] += weight * weights[v]
        scores[u] = sums
