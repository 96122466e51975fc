"""How the number of links, the turnover and the softness change over the steps of a run.

The functions raise a ValueError for an empty window, a sparsity outside [0, 1), or another argument out of its range.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TypeGuard

from chts_core.checks import check_sparsity


def sigmoid_sparsity(
    step: int, start: int, end: int, initial: float = 0.5, final: float = 0.95, k: float = 6.0
) -> float:
    """Sparsity of CHTss at a step: a sigmoid of steepness k > 0 that goes exactly from `initial` to `final`.

        s_t = s_i + (s_f - s_i) · [1/2 + (σ(k(2u - 1)) - 1/2) / (σ(k) - σ(-k))],   u = (t - start) / (end - start)

    (Paper, Equation 1. With the paper's s_i - s_f instead of s_f - s_i, the sparsity would move away from the target.
    The rescaling is from the published code: the plain sigmoid never quite reaches s_i and s_f.)
    """
    if not k > 0:
        raise ValueError(f"k is {k}; expected a steepness above 0. The paper's experiments use 6.")
    u = _progress(step, start, end)
    # This is the formula above, with σ(x) - 1/2 = tanh(x/2)/2. It is exact at both ends and does not overflow for large
    # k.
    share = 0.5 + 0.5 * math.tanh(k * (2 * u - 1) / 2) / math.tanh(k / 2)
    return _between(initial, final, share)


def cubic_sparsity(step: int, start: int, end: int, initial: float = 0.5, final: float = 0.95) -> float:
    """Sparsity of gradual magnitude pruning at a step: s_t = s_f + (s_i - s_f)(1 - u)³ (Zhu and Gupta, 2017)."""
    u = _progress(step, start, end)
    return _between(initial, final, 1 - (1 - u) ** 3)


def exponential_sparsity(step: int, start: int, end: int, initial: float = 0.5, final: float = 0.95) -> float:
    """Sparsity at a step if the density falls by the same factor in each step: d_t = d_i · (d_f / d_i)^u."""
    u = _progress(step, start, end)
    log_ratio = math.log1p(-final) - math.log1p(-initial) if 0 <= initial < 1 and 0 <= final < 1 else 0.0
    return _between(initial, final, math.expm1(u * log_ratio) / math.expm1(log_ratio) if log_ratio else u)


def staged_sparsity(
    step: int, switch: int, end: int, final: float = 0.95, excess: tuple[float, float] = (0.05, 0.025)
) -> float:
    """Sparsity at a step in EM&S (MEST's elastic mutation with a soft bound): two stages, then the final value.

    Before step `switch`, the density exceeds the target density by `excess[0]`. Then it exceeds the target by
    `excess[1]`. From step `end` on, the density is equal to the target (Yuan et al., 2021). `switch` is at most `end`,
    and each excess is in [0, 1]. The sparsity is never below 0.
    """
    if switch > end:
        raise ValueError(
            f"the second stage begins at step {switch} but the schedule ends at step {end}; begin this stage earlier."
        )
    if not all(0 <= share <= 1 for share in excess):
        raise ValueError(f"the excess densities are {excess}; expected shares of all possible links, in [0, 1].")
    check_sparsity(final, "final sparsity")
    return final if step >= end else max(final - excess[0 if step < switch else 1], 0.0)


def cosine_turnover(step: int, end: int, zeta: float = 0.3) -> float:
    """Share ζ_t of the links that an update exchanges, 0 <= ζ <= 1: ζ/2 · (1 + cos(π t / end)), and 0 from `end` on."""
    if not 0 <= zeta <= 1:
        raise ValueError(f"zeta is {zeta}; expected the share of links exchanged per update, in [0, 1].")
    if end <= 0:
        raise ValueError(f"the turnover ends at step {end}; expected a step above 0.")
    return 0.0 if step >= end else zeta / 2 * (1 + math.cos(math.pi * step / end))


def linear_temperature(step: int, end: int, initial: float = 1.0, final: float = 3.0) -> float:
    """Temperature T >= 0 of soft removal. It rises linearly from `initial` at step 0 to `final` at step `end` > 0.

    The published MLP and Transformer code uses T = 1 → 3 (softness δ = 0.5 → 0.75), and the LLaMA code uses T = 1 → 9
    (δ = 0.5 → 0.9). Both implementations raise T linearly, not δ.
    """
    if not (initial >= 0 and final >= 0):
        raise ValueError(f"the temperature goes from {initial} to {final}; expected T >= 0 at both ends.")
    if end <= 0:
        raise ValueError(f"the temperature ramp ends at step {end}; expected a step above 0.")
    return final if step >= end else initial + (final - initial) * step / end


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy, and not a Boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _progress(step: int, start: int, end: int) -> float:
    if end <= start:
        raise ValueError(f"the decay window goes from step {start} to {end}; its end must come after its start.")
    return min(max((step - start) / (end - start), 0.0), 1.0)


def _between(initial: float, final: float, share: float) -> float:
    check_sparsity(initial, "initial sparsity")
    check_sparsity(final, "final sparsity")
    # This formula ends exactly at `final`. But initial + share * (final - initial) may not, because of rounding.
    return share * final + (1 - share) * initial


@dataclass(frozen=True)
class Timeline:
    """The steps at which a run updates its topology. Updates stop at the fraction `stop` of `total_steps`.

    update_every: the number of steps from one update to the next, or the steps of all updates in ascending order.
    """

    total_steps: int
    update_every: int | Sequence[int]
    stop: float

    def __post_init__(self) -> None:
        if not _is_whole(self.total_steps) or self.total_steps <= 0:
            raise ValueError(
                f"total_steps is {self.total_steps!r}; expected the number of optimizer steps of the run, a whole "
                "number above 0."
            )
        object.__setattr__(self, "total_steps", int(self.total_steps))
        if not 0 < self.stop <= 1:
            raise ValueError(f"stop is {self.stop}; expected the fraction of the run at which updates stop, in (0, 1].")
        given = self.update_every
        if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
            object.__setattr__(self, "update_every", self._checked(tuple(given)))
        elif _is_whole(given) and given > 0:
            object.__setattr__(self, "update_every", int(given))
        else:
            raise ValueError(
                f"update_every is {given!r}; expected a whole number of optimizer steps above 0, or a list of the "
                "steps of all updates."
            )

    def _checked(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        """Return the given steps as integers. Raises a ValueError unless the run can update at each of them."""
        if not (steps and all(map(_is_whole, steps)) and all(a < b for a, b in pairwise((0, *steps)))):
            raise ValueError(
                f"update_every is {steps}; expected the steps of the updates, whole numbers above 0 in ascending order."
            )
        if steps[-1] > self._step_at(self.stop):
            raise ValueError(
                f"update_every has an update at step {steps[-1]}, but updates stop at step {self._step_at(self.stop)} "
                f"of {self.total_steps}; leave out the later updates, or let the turnover stop later."
            )
        return tuple(map(int, steps))

    @property
    def stop_step(self) -> int:
        """Step after which the topology no longer changes."""
        return round(self.stop * self.total_steps)

    @property
    def updates(self) -> Sequence[int]:
        """The steps of all updates."""
        if isinstance(self.update_every, Sequence):
            return self.update_every
        return range(self.update_every, self._step_at(self.stop) + 1, self.update_every)

    @property
    def shortest_gap(self) -> int:
        """The smallest number of steps between two updates, or from the only update to the end of the run."""
        if not isinstance(self.update_every, Sequence):
            return self.update_every
        gaps = (after - before for before, after in pairwise(self.updates))
        return min(gaps, default=self.total_steps - self.last_update)

    @property
    def last_update(self) -> int:
        """Step of the last update; 0 when there is none."""
        return self.updates[-1] if self.updates else 0

    def is_update(self, step: int) -> bool:
        """Whether the topology is updated after optimizer step `step` (the first step is 1)."""
        return step in self.updates

    def update_before(self, step: int) -> int:
        """Step of the last update up to this step; 0 when there is none."""
        earlier = bisect_right(self.updates, step)
        return self.updates[earlier - 1] if earlier else 0

    def window(self, start: float, end: float) -> tuple[int, int]:
        """First and last step of a decay whose start and end are given as fractions of the run.

        Each of the two steps is moved back to the last update up to this step, or to step 0 if there is none. Raises a
        ValueError if the decay ends later than `stop`, or contains no update.
        """
        if not 0 <= start < end <= 1:
            raise ValueError(f"the decay goes from {start} to {end} of the run; expected 0 <= start < end <= 1.")
        if end > self.stop:
            raise ValueError(
                f"the density decay ends at step {round(end * self.total_steps)} but updates stop at step "
                f"{self.stop_step}, so the final density would never be reached; "
                "end the decay earlier or let the turnover stop later."
            )
        steps = self.update_before(self._step_at(start)), self.update_before(self._step_at(end))
        if steps[0] == steps[1]:
            given = isinstance(self.update_every, Sequence)
            when = f"at {self.update_every}" if given else f"every {self.update_every} steps"
            raise ValueError(
                f"the density decay from step {round(start * self.total_steps)} to {round(end * self.total_steps)} "
                f"contains no update, because updates come {when}; update more often or train longer."
            )
        return steps

    def _step_at(self, fraction: float) -> int:
        # For example, the fraction 0.29 of 100 steps means step 29, not 28.999...
        return math.floor(round(fraction * self.total_steps, 6))
