"""The specifications of the paper's nine methods, and specifications made from the choices of other methods."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from chts_core.balance import BalancedRegrowth, BalancedRemoval, quotas
from chts_core.choices import MissingLinkScore, value_at
from chts_core.methods import Method
from chts_core.removal import LinkScore
from chts_core.schedules import Timeline

STEPS, EVERY, STOP = 48, 2, 36
SPARSITY = 0.9


@dataclass(frozen=True)
class Spec:
    """The specification of a method: one row of the paper's table of methods, as Python values and functions.

    sparsity: the sparsity at a step.
    zeta: the share of the links that the first update exchanges (the share then falls as a cosine), or a function that
        returns the share at a step, or "excess" for all links in excess of the final number of links.
    removal: the score for the removal, by its name or as a function.
    temperature: the temperature of the removal at a step; None for a hard removal.
    prune: the score by which links are pruned when the density falls; None for the score in `removal`.
    regrowth: the score for the regrowth, by its name or as a function; or "random" or "gradient".
    history: whether a regrown link starts from the last weight that it had.
    returning: whether a pruned link is regrown if its last weight is among the largest weights.
    early_stop: the overlap above which the updates of a layer stop; None if they never stop early.
    together: whether the updates of a layer stop only when all layers have been above `early_stop`.
    stop: the step of the last update.
    shares: computes the number of links in each of several equal blocks of a layer, from the layer's number of links
        and its shape.
    removes_by_block: whether a removal takes links from all blocks equally.
    shows: with True, the check `weights` fails if `history` is True but its small run regrows no removed link, and the
        check `percolation` fails if its small runs remove no incomplete link. True for the paper's methods. For all
        other methods, the check `csr` trains with SGD instead of AdamW.
    """

    sparsity: Callable[[int], float]
    zeta: float | Literal["excess"] | Callable[[int], float]
    removal: str | LinkScore = "magnitude"
    temperature: Callable[[int], float] | None = None
    percolate: bool = False
    prune: str | LinkScore | None = None
    regrowth: str | MissingLinkScore = "random"
    soft: bool = True
    history: bool = False
    returning: bool = False
    early_stop: float | None = None
    together: bool = True
    stop: int = STOP
    shares: Callable[[int, tuple[int, int]], list[int]] = lambda total, _: [total]
    removes_by_block: bool = False
    shows: bool = True


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
    "cht": Spec(constant, zeta=0.3, percolate=True, regrowth="ch3_l3p", soft=False, early_stop=0.9),
    "chts": _CHTS,
    "chtss": replace(_CHTS, sparsity=_sigmoid, prune="relative_importance"),
}


def of_choices(method: Method) -> Spec:
    """Make the specification of a method from its own schedules, scores and shares."""
    removal, regrowth, turnover = method.removal, method.regrowth, method.turnover
    timeline = Timeline(STEPS, EVERY, turnover.stop)
    zeta, temperature = turnover.zeta, removal.temperature
    share: float | Literal["excess"] | Callable[[int], float] = 0
    if zeta == "excess":
        share = zeta
    elif any(value_at(zeta, step, timeline) > 0 for step in range(EVERY, timeline.last_update + 1, EVERY)):
        share = lambda step: value_at(zeta, step, timeline)  # noqa: E731
    return Spec(
        sparsity=lambda step: method.sparsity.at(step, timeline, SPARSITY),
        zeta=share,
        removal=removal.score,
        temperature=None if temperature is None else lambda step: value_at(temperature, step, timeline),
        percolate=removal.percolate,
        prune=removal.prune,
        regrowth=regrowth.score,
        soft=regrowth.soft,
        history=regrowth.history,
        returning=removal.returning,
        early_stop=turnover.early_stop,
        together=turnover.together,
        stop=timeline.last_update,
        shares=(
            (lambda total, shape: quotas(total, shape, regrowth.block).tolist())
            if isinstance(regrowth, BalancedRegrowth)
            else Spec.shares
        ),
        removes_by_block=isinstance(removal, BalancedRemoval) and removal.by_block,
        shows=False,
    )


def links_at(spec: Spec, step: int, size: int) -> int:
    """The number of links that a layer with `size` possible links has after a step."""
    return round((1 - spec.sparsity(min(step // EVERY * EVERY, spec.stop))) * size)


def exchanged_at(spec: Spec, step: int, size: int) -> int:
    """The number of links that an update removes and regrows by scores; 0 for a full layer."""
    target = links_at(spec, step, size)
    there = min(target, links_at(spec, step - EVERY, size))  # fewer than the target if the layer gains links
    if spec.zeta == "excess":
        return max(there - links_at(spec, spec.stop, size), 0)
    if step > spec.stop or target == size:
        return 0
    share = spec.zeta(step) if callable(spec.zeta) else spec.zeta / 2 * (1 + math.cos(math.pi * step / STOP))
    return round(share * there)
