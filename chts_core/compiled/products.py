"""The compiled inner loops of sparse layers. Activations have a row per feature and a column per sample.

Each output is computed by one thread, always in the same order, so the results are the same, bit for bit, for any
number of threads. For the number of threads, see :func:`chts_core.compiled.jit.compiled_twice`.
"""

from typing import Any

import numpy as np
from numba import prange

from chts_core.compiled.jit import compiled, compiled_twice

_STRIP = 64  # columns that are transposed at a time


@compiled_twice
def multiply(  # pragma: no cover (compiled)
    threads: int, start: Any, columns: Any, values: Any, order: Any, bias: Any, x: Any, y: Any
) -> None:
    """y = W x + bias for a compressed sparse W (out, in), x (in, samples) and y (out, samples).

    Args:
        threads: how many threads share the rows; each gets about the same number of links.
        start, columns: row i has its links in columns[start[i] : start[i + 1]].
        values: a value for each link; if an `order` is given, link k has values[order[k]].
        order: int32, or None.
        bias: (out,), or None.
        x, y: contiguous; y is overwritten.
    """
    for share in prange(threads):
        links = start[-1]
        first = np.searchsorted(start, links * share // threads)
        end = np.searchsorted(start, links * (share + 1) // threads)
        if share == threads - 1:
            end = len(y)
        for i in range(first, end):
            if bias is None:
                y[i] = 0
            else:
                y[i] = bias[i]
            row = y[i]
            k = start[i]
            # Load and store the row once for four links.
            while k + 4 <= start[i + 1]:
                if order is None:
                    w0, w1, w2, w3 = values[k], values[k + 1], values[k + 2], values[k + 3]
                else:
                    w0, w1, w2, w3 = values[order[k]], values[order[k + 1]], values[order[k + 2]], values[order[k + 3]]
                x0, x1, x2, x3 = x[columns[k]], x[columns[k + 1]], x[columns[k + 2]], x[columns[k + 3]]
                for t in range(x.shape[1]):
                    row[t] += w0 * x0[t] + w1 * x1[t] + w2 * x2[t] + w3 * x3[t]
                k += 4
            while k < start[i + 1]:
                w0 = values[k] if order is None else values[order[k]]
                x0 = x[columns[k]]
                for t in range(x.shape[1]):
                    row[t] += w0 * x0[t]
                k += 1


@compiled_twice
def multiply_one(  # pragma: no cover (compiled)
    threads: int, start: Any, columns: Any, values: Any, bias: Any, x: Any, y: Any
) -> None:
    """:func:`multiply` for one sample: x (in,) and y (out,)."""
    for share in prange(threads):
        first, end = len(y) * share // threads, len(y) * (share + 1) // threads
        for i in range(first, end):
            of_row, inputs = values[start[i] : start[i + 1]], columns[start[i] : start[i + 1]]
            total = x.dtype.type(0)
            for k in range(len(of_row)):
                # An unsigned index cannot count from the end, so processors can load several inputs at once.
                total += of_row[k] * x[np.uint32(inputs[k])]
            y[i] = total if bias is None else total + bias[i]


@compiled_twice
def multiply_at_links(  # pragma: no cover (compiled)
    threads: int, start: Any, columns: Any, x: Any, dy: Any, dw: Any
) -> None:
    """dw = the elements of dy xᵀ at the links, one for each link; for the arguments, see :func:`multiply`."""
    for share in prange(threads):
        links = start[-1]
        first = np.searchsorted(start, links * share // threads)
        end = np.searchsorted(start, links * (share + 1) // threads)
        if share == threads - 1:
            end = len(dy)
        for i in range(first, end):
            row = dy[i]
            k = start[i]
            while k + 4 <= start[i + 1]:
                x0, x1, x2, x3 = x[columns[k]], x[columns[k + 1]], x[columns[k + 2]], x[columns[k + 3]]
                s0 = s1 = s2 = s3 = x.dtype.type(0)
                for t in range(x.shape[1]):
                    s0 += row[t] * x0[t]
                    s1 += row[t] * x1[t]
                    s2 += row[t] * x2[t]
                    s3 += row[t] * x3[t]
                dw[k], dw[k + 1], dw[k + 2], dw[k + 3] = s0, s1, s2, s3
                k += 4
            while k < start[i + 1]:
                x0 = x[columns[k]]
                s0 = x.dtype.type(0)
                for t in range(x.shape[1]):
                    s0 += row[t] * x0[t]
                dw[k] = s0
                k += 1


@compiled_twice
def place_links(  # pragma: no cover (compiled)
    threads: int, start: Any, columns: Any, values: Any, weight: Any
) -> None:
    """Fill the dense weight (out, in) with the values of the links, and with zeros where there is no link."""
    for share in prange(threads):
        for i in range(len(weight) * share // threads, len(weight) * (share + 1) // threads):
            row = weight[i]
            row[:] = 0
            for k in range(start[i], start[i + 1]):
                row[np.uint32(columns[k])] = values[k]


@compiled_twice
def take_links(  # pragma: no cover (compiled)
    threads: int, start: Any, columns: Any, weight: Any, values: Any
) -> None:
    """Read the values of the links from a dense matrix (out, in)."""
    for share in prange(threads):
        for i in range(len(weight) * share // threads, len(weight) * (share + 1) // threads):
            row = weight[i]
            for k in range(start[i], start[i + 1]):
                values[k] = row[np.uint32(columns[k])]


@compiled_twice
def transpose(threads: int, x: Any, y: Any) -> None:  # pragma: no cover (compiled)
    """y = xᵀ, both contiguous. torch would use only one thread for this."""
    rows, columns = x.shape
    strips = (columns + _STRIP - 1) // _STRIP
    for share in prange(threads):
        for strip in range(strips * share // threads, strips * (share + 1) // threads):
            first, end = strip * _STRIP, min((strip + 1) * _STRIP, columns)
            i = 0
            # Eight rows at a time fill half a cache line of y in float32, and a whole line in float64.
            while i + 8 <= rows:
                x0, x1, x2, x3, x4, x5, x6, x7 = (
                    x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
                )  # fmt: skip
                for j in range(first, end):
                    y[j, i], y[j, i + 1], y[j, i + 2], y[j, i + 3] = x0[j], x1[j], x2[j], x3[j]
                    y[j, i + 4], y[j, i + 5], y[j, i + 6], y[j, i + 7] = x4[j], x5[j], x6[j], x7[j]
                i += 8
            while i < rows:
                for j in range(first, end):
                    y[j, i] = x[i, j]
                i += 1


@compiled
def zero_absent(array: Any, mask: Any) -> None:  # pragma: no cover (compiled)
    """Set a 2-D array of integers to 0 where a mask has no link. The integers can be bits of floats, even of NaN."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] = array[i, j] if mask[i, j] else 0
