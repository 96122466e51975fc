"""What methods must do."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

STEPS, EVERY, STOP = 48, 2, 36
SPARSITY = 0.9


@dataclass(frozen=True)
class Spec:
    """What a method must do: a row of the paper's table in the plainest form.

    sparsity: at a step.
    zeta: share exchanged at the first update, or "excess": all links above the final number.
    removal: name of the score; temperature at a step, None for hard.
    prune: name of the score by which links go when there are to be fewer; None: that of the removal.
    regrowth: name of the score, or "random" or "gradient".
    history: whether a link that comes back has its last weight.
    returning: whether links that were pruned come back where they are among the largest.
    early_stop: whether all layers stop once each has come to an overlap of 0.9.
    """

    sparsity: Callable[[int], float]
    zeta: float | Literal["excess"]
    removal: str = "magnitude"
    temperature: Callable[[int], float] | None = None
    percolate: bool = False
    prune: str | None = None
    regrowth: str = "random"
    soft: bool = True
    history: bool = False
    returning: bool = False
    early_stop: bool = False


def constant(_: int) -> float:
    """The final sparsity from the first step on."""
    return SPARSITY


def _cubic(step: int) -> float:
    return SPARSITY + (0.5 - SPARSITY) * (1 - min(step / STOP, 1)) ** 3


def _sigmoid(step: int) -> float:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    u = min(step / (STOP / 2), 1)
    return 0.5 + (SPARSITY - 0.5) * (0.5 + (sigma(6 * (2 * u - 1)) - 0.5) / (sigma(6) - sigma(-6)))


def _staged(step: int) -> float:
    return SPARSITY - (0.05 if step < 0.6 * STOP else 0.025 if step < STOP else 0)


def _one_to_three(step: int) -> float:
    return 1 + 2 * step / STOP


_CHTS = Spec(constant, 0.3, temperature=_one_to_three, percolate=True, regrowth="ch2_l3n", history=True)
SPECS: dict[str, Spec] = {
    "fc": Spec(lambda _: 0.0, zeta=0),
    "set": Spec(constant, zeta=0.3),
    "rigl": Spec(constant, zeta=0.3, regrowth="gradient", soft=False),
    "mest": Spec(_staged, zeta="excess", removal="mest"),
    "gmp": Spec(_cubic, zeta=0, history=True, returning=True),
    "granet": Spec(_cubic, zeta=0.3, regrowth="gradient", soft=False),
    "cht": Spec(constant, zeta=0.3, percolate=True, regrowth="ch3_l3p", soft=False, early_stop=True),
    "chts": _CHTS,
    "chtss": replace(_CHTS, sparsity=_sigmoid, prune="relative_importance"),
}


def links_at(spec: Spec, step: int, size: int) -> int:
    """How many links a layer of so many places has after a step."""
    return round((1 - spec.sparsity(min(step // EVERY * EVERY, STOP))) * size)


def exchanged_at(spec: Spec, step: int, size: int) -> int:
    """How many links an update removes and regrows by their scores."""
    target = links_at(spec, step, size)
    if spec.zeta == "excess":
        return target - links_at(spec, STOP, size)
    return round(spec.zeta / 2 * (1 + math.cos(math.pi * step / STOP)) * target) if step < STOP else 0
