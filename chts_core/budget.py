"""Compute how many links each layer has at every step and how many an update exchanges, and check these numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from chts_core.checks import check_number, check_sparsity
from chts_core.choices import Schedule, value_at
from chts_core.distributions import DISTRIBUTIONS
from chts_core.methods import Method
from chts_core.schedules import Timeline


@dataclass(frozen=True)
class Budget:
    """The exact number of links of every layer at every step, and the number of links that an update exchanges.

    Args:
        method: gives the sparsity and the turnover.
        sparsity: the final sparsity, in [0, 1).
        timeline: the updates of the run.
        shapes: (out_features, in_features), or (out_channels, in_channels, *kernel), by layer name.
        distribution: how the layers share the links, a name in `DISTRIBUTIONS`.
        least: a lower bound for the sparsity at every step. A run that continues another run begins with the links that
            are left, and no layer gains links.

    Raises:
        ValueError, TypeError: if a run would gain links, empty a layer, never update, or not reach its sparsity, or if
            a schedule leaves its range at an update or does not give a number.
    """

    method: Method
    sparsity: float
    timeline: Timeline
    shapes: Mapping[str, tuple[int, ...]]
    distribution: str = "uniform"
    least: float = 0.0
    # The links at the last sparsity, kept because it takes time to distribute them among many layers.
    _shared: dict[float, dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution is {self.distribution!r}; expected one of {', '.join(map(repr, DISTRIBUTIONS))}."
            )
        if not hasattr(self.method.sparsity, "at"):
            raise TypeError(
                f"the method's sparsity is {self.method.sparsity!r}; expected a schedule with at(step, timeline, "
                "final), such as Constant(). Pass the final sparsity as the argument `sparsity`."
            )
        first, final = self.links(0), self.links(self.timeline.total_steps)
        for name, shape in self.shapes.items():
            if final[name] == 0:
                raise ValueError(
                    f"layer {name!r} of shape {shape} would have no link at sparsity {self.sparsity}; "
                    f"choose a sparsity of at most {1 - 1 / math.prod(shape):.6g} or a wider layer."
                )
        self._check_schedules()
        if self.timeline.last_update == 0 and (first != final or self.zeta(0) > 0):
            raise ValueError(
                f"with an update every {self.timeline.update_every} steps and none after step "
                f"{self.timeline.stop_step} of {self.timeline.total_steps}, the topology would never change; "
                "update more often or train longer."
            )
        if self.links(self.timeline.last_update) != final:
            raise ValueError(
                f"the sparsity is {self.at(self.timeline.last_update)} at the last update, step "
                f"{self.timeline.last_update}, and would never reach {self.at(self.timeline.total_steps)}; "
                "end its schedule earlier or let the turnover stop later."
            )

    def _check_schedules(self) -> None:
        """Refuse settings that would fail at a later update."""
        self._check_rise(0, self.timeline.total_steps)
        for step in self.updates():
            self.zeta(step)
            self._check_temperature(step)
        for before, after in pairwise((0, *self.updates(), self.timeline.total_steps)):
            self._check_rise(before, after)

    def _check_rise(self, before: int, after: int) -> None:
        """Raise an error if a layer would gain links from one step to a later one."""
        if self.at(after) < self.at(before):
            few, many = self.links(before), self.links(after)
            gaining = [name for name in many if many[name] > few[name]]
            if gaining:
                raise ValueError(
                    f"the sparsity would fall from {self.at(before)} at step {before} to {self.at(after)} at step "
                    f"{after}, and layer {gaining[0]!r} would gain links; choose a final sparsity above the initial "
                    "one, or replace the method's sparsity with a schedule that never falls."
                )

    def _check_temperature(self, step: int) -> None:
        """Raise an error if the temperature of an update is below 0."""
        if self.method.removal.temperature is not None:
            temperature = self._value(self.method.removal.temperature, "temperature", step)
            if not temperature >= 0:
                raise ValueError(
                    f"temperature is {temperature} at step {step}; expected T >= 0. With T = 1, p ∝ score."
                )

    def _value(self, value: float | Schedule, name: str, step: int) -> float:
        """The value of a hyperparameter at a step. Raises a TypeError unless it is a number or gives one."""
        if not hasattr(value, "at"):
            check_number(value, name)
        found = value_at(value, step, self.timeline)
        check_number(found, f"{name} at step {step}")
        return found

    def at(self, step: int) -> float:
        """Scheduled sparsity at a step. Raises a ValueError or TypeError unless it is a number in [0, 1)."""
        sparsity = self.method.sparsity.at(step, self.timeline, self.sparsity)
        check_sparsity(sparsity, f"scheduled sparsity at step {step}")
        return max(sparsity, self.least)

    def zeta(self, step: int) -> float:
        """Share of the links that an update at this step exchanges.

        Raises a ValueError or TypeError if it is not a number in [0, 1].
        """
        if self.method.turnover.zeta == "excess":
            links, final = (sum(self.links(at).values()) for at in (step, self.timeline.total_steps))
            return (links - final) / links
        zeta = self._value(self.method.turnover.zeta, "zeta", step)
        if not 0 <= zeta <= 1:
            raise ValueError(
                f"zeta is {zeta} at step {step}; expected the share of links exchanged per update, in [0, 1]."
            )
        return zeta

    def links(self, step: int) -> dict[str, int]:
        """Number of links by layer after an update at this step."""
        sparsity = self.at(step)
        if sparsity not in self._shared:
            self._shared.clear()
            self._shared[sparsity] = DISTRIBUTIONS[self.distribution](self.shapes, sparsity)
        return self._shared[sparsity].copy()

    def exchanged(self, step: int) -> dict[str, int]:
        """Number of links by layer that an update at this step removes and regrows, in addition to those it prunes.

        The number is 0 for a full layer, because removed links could only return to their places, without their
        weights.
        """
        if self.method.turnover.zeta == "excess":
            final = self.links(self.timeline.total_steps)
            return {name: links - final[name] for name, links in self.links(step).items()}
        zeta = self.zeta(step)
        size = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return {name: round(zeta * links) if links < size[name] else 0 for name, links in self.links(step).items()}

    def changes(self) -> bool:
        """Whether any update changes a link."""
        decays = self.links(0) != self.links(self.timeline.total_steps)
        return decays or any(any(self.exchanged(step).values()) for step in self.updates())

    def updates(self) -> range:
        """The steps of all updates."""
        every = self.timeline.update_every
        return range(every, self.timeline.last_update + 1, every)

    def sparse_parts(self) -> list[str]:
        """The names of the layers that are not dense at the end of the run."""
        final = self.links(self.timeline.total_steps)
        return [name for name, shape in self.shapes.items() if final[name] < math.prod(shape)]
