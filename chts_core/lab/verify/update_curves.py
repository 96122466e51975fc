"""Recorded updates of small runs, healthy and faulty. Each row describes the effect of one update on one layer.

In each run, an MLP with three hidden layers of 48 units and 90 % sparsity is trained on the digits for 128 steps, with
an update every 8 steps. `observed` repeats a run. `update_curves.json` contains the rows of the second and the third
layer of each run, for the seeds 0 and 1. The mystery patient is a run of the same kind, but it has no recording: it is
trained each time, because its seed chooses its fault.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from chts_core.choices import Regrowth, Removal
from chts_core.lab.data import ImageData
from chts_core.lab.verify import injected_bugs
from chts_core.methods import METHODS, Method
from chts_core.removal import WeightedLinks

Row = dict[str, Any]

STEPS = 128  # steps of each run

_CHTS = METHODS["chts"]
_RUNS: Mapping[str, tuple[Method, str | None]] = {
    "healthy": (_CHTS, None),
    "stuck": (replace(_CHTS, regrowth=Regrowth("ch2_l3n", soft=False, history=True)), None),
    "random regrowth": (replace(_CHTS, regrowth=Regrowth("random", history=True)), None),
    "collapsed layer": (_CHTS, "collapsed layer"),
    "threshold with ties": (_CHTS, "threshold with ties"),
    "early end": (replace(_CHTS, turnover=replace(_CHTS.turnover, stop=0.3)), None),
}
NAMES = tuple(_RUNS)

_LETTERS = {
    "A": "random regrowth",
    "B": "stuck",
    "C": "threshold with ties",
    "D": "healthy",
    "E": "early end",
    "F": "collapsed layer",
}
_COLUMNS = ("step", "links", "removed", "regrown", "overlap", "anp", "itop")
_LAYERS = ("2.weight", "4.weight")


def observed(name: str, seed: int, data: ImageData) -> dict[str, list[Row]]:
    """Train one of `NAMES` on the digits again, and return its rows of `Sparsifier.history` by layer, without times."""
    method, fault = _RUNS[name]
    return _rows_of(injected_bugs.run(data, method, 0.9, fault, hidden=48, epochs=4, seed=seed))


def _rows_of(patient: injected_bugs.Patient) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {layer: [] for layer in _LAYERS}
    for row in patient.sparsifier.history:
        if row["layer"] in found:
            found[row["layer"]].append({key: value for key, value in row.items() if key in _COLUMNS})
    return found


@cache
def _recorded() -> dict[str, dict[str, dict[str, list[list[float]]]]]:
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    recorded: dict[str, dict[str, dict[str, list[list[float]]]]] = json.loads(text)
    return recorded


def recorded(name: str, seed: int, layer: str) -> list[Row]:
    """The recorded rows of one of `NAMES`, in the order of the updates; raises KeyError if there is no recording."""
    return [dict(zip(_COLUMNS, row, strict=True)) for row in _recorded()[name][str(seed)][layer]]


def patients() -> dict[str, list[Row]]:
    """The rows of the second layers of the recorded runs with seed 0, labelled with letters instead of names."""
    return {letter: recorded(name, 0, "2.weight") for letter, name in _LETTERS.items()}


def everyone() -> list[tuple[str, list[Row]]]:
    """The names and rows of all recordings; the recordings of :func:`patients` come first."""
    first = [(name, recorded(name, 0, "2.weight")) for name in _LETTERS.values()]
    rest = [(0, "4.weight"), (1, "2.weight"), (1, "4.weight")]
    return first + [(name, recorded(name, seed, layer)) for seed, layer in rest for name in NAMES]


@dataclass(frozen=True)
class _TooMany(Regrowth):
    """A regrowth that adds one and a half times as many links as it should."""

    def __call__(self, links: Tensor, shape: tuple[int, int], num: int, *given: Any, **named: Any) -> Tensor:
        return super().__call__(links, shape, num * 3 // 2, *given, **named)


@dataclass(frozen=True)
class _Place:
    """A removal score that is the index of a link's output, so the removal takes all links of the first outputs."""

    def __call__(self, links: WeightedLinks) -> Tensor:
        return links.outputs.float()


_MYSTERIES: Mapping[str, Method] = {
    "healthy": _CHTS,
    "best scores": replace(_CHTS, regrowth=Regrowth("ch2_l3n", soft=False, history=True)),
    "random regrowth": replace(_CHTS, regrowth=Regrowth("random", history=True)),
    "too many links": replace(_CHTS, regrowth=_TooMany("ch2_l3n", history=True)),
    "removal by place": replace(_CHTS, removal=Removal(_Place(), percolate=True)),
}
MYSTERIES = tuple(_MYSTERIES)


def mystery(name: str, seed: int, data: ImageData) -> list[Row]:
    """Train one of `MYSTERIES` on the digits, and return the rows of its second layer."""
    return _rows_of(injected_bugs.run(data, _MYSTERIES[name], 0.9, hidden=48, epochs=4, seed=seed))["2.weight"]


def drawn(seed: int) -> str:
    """The fault of the mystery patient with this seed: a name in `MYSTERIES` except "healthy"."""
    return random.Random(seed).choice([name for name in MYSTERIES if name != "healthy"])
