"""The compiled loops of the initial networks, in a separate file so that Numba is imported only where they are used.

Random numbers come from SplitMix64, as a function of a seed and a counter. Each row has its own seed. Therefore,
threads can share the rows in any way, and a number can be computed again when it is needed.
"""

import math
from typing import Any

import numpy as np

from chts_core.compiled.jit import STEP, compiled, mixed

# Random integers have this many bits: (integer + 1/2) / 2^52 is then exact in float64, and neither 0 nor 1.
BITS = 52
_UNIT = 2.0**-BITS


@compiled
def _random(seed: Any, counter: Any) -> Any:  # pragma: no cover (compiled)
    return np.int64(mixed(seed + np.uint64(counter) * STEP) >> np.uint64(64 - BITS))


def windows(degrees: Any, columns: int, exponent: float) -> tuple[Any, Any, Any]:
    """For each row of :func:`race`, compute a window of time. The row's last link probably arrives in this window.

    This function uses NumPy, because torch's waiting threads would take cores from the threads of the loop.

    Returns:
        The index of each row's window; rows whose degrees have the same integer square root share a window. The two
        ends of each window as values of ln t, float64 (windows, 2). For each end and each column, a bound
        on the column's random integer, int64 (windows, 2, columns); :func:`race` takes it as the argument `in_by`.
    """
    _, window = np.unique(np.floor(np.sqrt(degrees)), return_inverse=True)
    fewest = np.full(window.max() + 1, columns)
    most = np.zeros_like(fewest)
    np.minimum.at(fewest, window, degrees)
    np.maximum.at(most, window, degrees)
    wanted = np.stack([fewest, most], 1)

    # Both halves of the ring share these bounds. Column k of a half is at a distance in [k, k + 1) or in (k, k + 1].
    logs = exponent * np.log1p(np.arange((columns + 1) // 2 + 1))
    nearer, farther = logs[:-1], logs[1:]
    earliest = np.full(wanted.shape, -40.0)  # with BITS random bits, ln E is never this low
    latest = np.full(wanted.shape, 5.0 + logs[-1])
    for _ in range(30):
        times = (earliest + latest) / 2
        arrived = _arrived(times, (nearer + farther) / 2)
        # The window starts where the mean number of arrivals is three standard deviations below the wanted number, and
        # ends where the mean is three standard deviations above it.
        margin = 3 * np.sqrt(2 * (arrived * (1 - arrived)).sum(-1)) * [1, -1]
        too_early = 2 * arrived.sum(-1) + margin < wanted
        earliest, latest = np.where(too_early, times, earliest), np.where(too_early, latest, times)

    # Move the bounds outwards by two units, because the probabilities are rounded.
    soon = np.floor(_arrived(times[:, 0], farther) * 2.0**BITS) - 2
    late = np.ceil(_arrived(times[:, 1], nearer) * 2.0**BITS) + 2
    bounds = np.stack([soon.clip(0), late], 1).astype(np.int64)
    return window, times, np.concatenate([bounds, bounds[..., : columns // 2][..., ::-1]], -1)


def _arrived(times: Any, logs: Any) -> Any:
    """Probability that each column has arrived by each time.

    `times` are values of ln t. `logs` are the columns' values of exponent · ln(1 + distance).
    """
    # If times - logs exceeds 4, the probability is 1 to within BITS bits. The limit of 4 prevents an overflow.
    return -np.expm1(-np.exp(np.minimum(times[..., None] - logs, 4.0)))


@compiled
def _arrival(number: int, distance: float, exponent: float) -> float:  # pragma: no cover (compiled)
    """ln t for the time t at which a column arrives, computed from its random integer and its distance."""
    uniform = (number + 0.5) * _UNIT
    return math.log(-math.log1p(-uniform)) + exponent * math.log1p(distance)


@compiled
def _set_links(  # pragma: no cover (compiled)
    row: Any, start: int, verdicts: Any, contenders: Any, num: int, arrivals: Any, last: float, needed: int
) -> None:
    """Link a row to all columns that arrive before its window, and to the first `needed` contenders that arrive.

    Columns that arrive before the window have verdict 2. The `num` contenders, which may arrive in it, have verdict 1.
    `last` is the time at which the last needed contender arrives. Column numbers in `verdicts` and `contenders` start
    with 0 at column `start` and go around the ring.
    """
    columns = len(row)
    for column in range(start, columns):
        row[column] = verdicts[column - start] == 2
    for column in range(start):
        row[column] = verdicts[column - start + columns] == 2
    for place in range(num):
        if arrivals[place] < last:
            row[(start + contenders[place]) % columns] = True
            needed -= 1
    for place in range(num):
        if arrivals[place] == last and needed > 0:  # one contender, unless rounding makes several equal
            row[(start + contenders[place]) % columns] = True
            needed -= 1


@compiled
def race(  # pragma: no cover (compiled)
    first_row: int,
    end_row: int,
    seeds: Any,
    centres: Any,
    degrees: Any,
    windows: Any,
    times: Any,
    in_by: Any,
    exponent: float,
    mask: Any,
) -> None:
    """Link row i to the degrees[i] columns that arrive first, for first_row <= i < end_row.

    A column at ring distance x from the row's centre arrives at a time t: ln t = ln E + exponent · ln(1 + x), where E
    is exponentially distributed. Only a few columns need the logarithms, because each row has a window of time in which
    its last link probably arrives: times[w, 0] <= ln t <= times[w, 1], where w = windows[i]. A column arrives before
    the window if its random integer is below in_by[w, 0], and after the window if this integer is at least in_by[w, 1].
    Exact times are computed only for the other columns, or for all columns if the last link arrives outside the window.
    """
    columns = mask.shape[1]
    verdicts = np.empty(columns, np.uint8)
    contenders = np.empty(columns + 1, np.int64)
    arrivals = np.empty(columns)
    for i in range(first_row, end_row):
        row, seed = mask[i], seeds[i]
        if degrees[i] == 0:
            row[:] = False
            continue
        start = math.ceil(centres[i])
        beyond = start - centres[i]
        soon, late = in_by[windows[i], 0], in_by[windows[i], 1]
        for step in range(columns):  # without a branch, so that a processor handles several columns at once
            number = _random(seed, step)
            verdicts[step] = np.uint8(number < soon[step]) + np.uint8(number < late[step])

        num, needed = 0, degrees[i]
        for step in range(columns):
            contenders[num] = step
            num += verdicts[step] == 1
        for step in range(columns):
            needed -= verdicts[step] == 2

        last = math.inf
        for attempt in range(2):
            if attempt == 1:
                verdicts[:] = 1
                num, needed = columns, degrees[i]
                contenders[:columns] = np.arange(columns)
            elif not 0 < needed <= num:
                continue
            for place in range(num):
                distance = contenders[place] + beyond
                number = _random(seed, contenders[place])
                arrivals[place] = _arrival(number, min(distance, columns - distance), exponent)
            last = np.partition(arrivals[:num], needed - 1)[needed - 1]
            if times[windows[i], 0] <= last <= times[windows[i], 1]:
                break

        _set_links(row, start, verdicts, contenders, num, arrivals, last, needed)


@compiled
def fill(first_row: int, end_row: int, seeds: Any, degrees: Any, mask: Any) -> None:  # pragma: no cover (compiled)
    """Set more columns of row i, all equally likely, until degrees[i] are set, for first_row <= i < end_row.

    Each free column in turn is taken with probability needed / left: the number of links that are still needed, divided
    by the number of free columns that are left (selection sampling; Knuth, volume 2, 3.4.2 S).
    """
    for i in range(first_row, end_row):
        row, seed = mask[i], seeds[i]
        linked = row.sum()
        needed, left = degrees[i] - linked, row.size - linked
        for column in range(row.size):
            free = not row[column]
            taken = free and (_random(seed, column) + 0.5) * _UNIT * left < needed
            row[column] |= taken
            needed -= taken
            left -= free
