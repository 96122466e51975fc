"""Which cells of a large table of parameters the quick tier runs; the full tier runs them all."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def every_pair(*parameters: Iterable[Any]) -> list[Any]:
    """All combinations of the parameters' values; those that are not needed to meet every pair once are full.

    The combination with the most pairs that were not met yet comes next, the first such one in order.
    """
    cells = list(product(*parameters))
    pairs = [set(combinations(enumerate(map(str, cell)), 2)) for cell in cells]
    missing = set().union(*pairs)
    quick = set()
    while missing:
        best = max(range(len(cells)), key=lambda number: len(pairs[number] & missing))
        quick.add(best)
        missing -= pairs[best]
    return [
        cell if number in quick else pytest.param(*cell, marks=pytest.mark.full) for number, cell in enumerate(cells)
    ]


def every_second(*parameters: Iterable[Any]) -> list[Any]:
    """All combinations of two parameters' values; like the squares of a chessboard, every second one is full."""
    one, other = map(list, parameters)
    return [
        (a, b) if (i + j) % 2 == 0 else pytest.param(a, b, marks=pytest.mark.full)
        for i, a in enumerate(one)
        for j, b in enumerate(other)
    ]
