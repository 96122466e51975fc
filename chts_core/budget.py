"""Compute how many links each layer has at every step and how many an update exchanges, and check these numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chts_core.balance import Balanced, BalancedRemoval
from chts_core.checks import check_number, check_repr, check_sparsity
from chts_core.choices import Schedule, value_at
from chts_core.distributions import DISTRIBUTIONS, Shares, check_links, sparsities_by_layer
from chts_core.methods import Method
from chts_core.schedules import Timeline
from chts_core.topology import link_count


@dataclass(frozen=True)
class Budget:
    """The exact number of links of every layer at every step, and the number of links that an update exchanges.

    Args:
        method: the method, with its sparsity schedule and its turnover. A layer may gain links only if the attribute
            `gains` of the schedule is true.
        sparsity: the final sparsity, in [0, 1).
        timeline: the updates of the run.
        shapes: (out_features, in_features), or (out_channels, in_channels, *kernel), by layer name.
        distribution: how the layers share the links. It is a name in `DISTRIBUTIONS`, a mapping from patterns
            of layer names to final sparsities (:func:`chts_core.distributions.sparsities_by_layer`), or your own
            :class:`chts_core.distributions.Distribution`. With patterns, each layer follows the schedule of the method
            to its own final sparsity. Your own distribution is called with the sparsity at each step.
        least: for each final sparsity, a lower bound on the scheduled sparsity at every step. If this run continues
            another run, these bounds prevent layers from getting back links that they lost in the other run.

    Raises:
        ValueError, TypeError: if a layer would gain links or have no link, if the run would never change its topology
            or would not reach its sparsity, if a schedule gives an invalid value (out of its range, or not a number) at
            an update, or if the distribution is wrong.
    """

    method: Method
    sparsity: float
    timeline: Timeline
    shapes: Mapping[str, tuple[int, ...]]
    distribution: Shares = "uniform"
    least: Mapping[float, float] = field(default_factory=dict)
    # The final sparsity of each layer, if the distribution gives sparsities by layer.
    _finals: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    # The number of links of each layer at the latest sparsity, kept because dividing the links among many layers takes
    # time.
    _shared: dict[float, dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if isinstance(self.distribution, Mapping):
            self._finals.update(sparsities_by_layer(self.distribution, self.shapes, self.sparsity))
        elif callable(self.distribution):
            check_repr(self.distribution, "distribution")
        elif self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution is {self.distribution!r}; expected one of {', '.join(map(repr, DISTRIBUTIONS))}, "
                "a mapping from patterns of layer names to sparsities, or a function of the shapes and the sparsity."
            )
        if not hasattr(self.method.sparsity, "at"):
            raise TypeError(
                f"the method's sparsity is {self.method.sparsity!r}; expected a schedule with at(step, timeline, "
                "final), such as Constant(). Pass the final sparsity as the argument `sparsity`."
            )
        for choice in (self.method.topology, self.method.removal, self.method.regrowth):
            if hasattr(choice, "check_shapes"):
                choice.check_shapes(self.shapes)
        first, final = self.links(0), self.links(self.timeline.total_steps)
        self._check_balance()
        self._check_links(final)
        self._check_schedules()
        self._check_links(self.bounds()[0])
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

    def _check_links(self, links: Mapping[str, int]) -> None:
        """Raise an error if a layer has no link."""
        for name, shape in self.shapes.items():
            if links[name] == 0:
                sparsity = self._finals.get(name, self.sparsity)
                if self.gains:
                    sparsity = max(self.at(step, sparsity) for step in self._stages())
                raise ValueError(
                    f"layer {name!r} of shape {shape} would have no link at sparsity {sparsity}; "
                    f"choose a sparsity of at most {1 - 1 / math.prod(shape):.6g} or a wider layer."
                )

    def _check_balance(self) -> None:
        """Refuse a method that keeps blocks balanced but does not start from balanced blocks."""
        topology, removal = self.method.topology, self.method.removal
        if not isinstance(removal, BalancedRemoval):
            return
        balanced = isinstance(topology, Balanced) and topology.block == removal.block
        # The network of a continued run may have fewer links, but the run started with the scheduled number.
        if not balanced and self.method.sparsity.at(0, self.timeline, self.sparsity) > 0:
            raise ValueError(
                f"the method starts from {topology} but has {removal}; expected the same number of links in each block "
                f"from the start. Choose topology={Balanced(removal.block)}, or start dense with "
                "sparsity=Cubic(initial=0)."
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
        """Raise an error if a layer would gain links between two steps, unless the schedule allows it."""
        # With a named distribution, no layer gains links as the sparsity rises. In this case, do not divide the links
        # among the layers, because this takes time.
        rises = isinstance(self.distribution, str) and self.at(after) >= self.at(before)
        if self.gains or rises:
            return
        few, many = self.links(before), self.links(after)
        gaining = [name for name in many if many[name] > few[name]]
        if gaining:
            name = gaining[0]
            first, last = (self.at(step, self._finals.get(name)) for step in (before, after))
            raise ValueError(
                f"the sparsity would fall from {first} at step {before} to {last} at step "
                f"{after}, and layer {name!r} would gain links; choose a final sparsity above the initial "
                "one, or replace the method's sparsity with a schedule that never falls. If layers may gain links, "
                "give the schedule an attribute gains = True."
            )

    @property
    def gains(self) -> bool:
        """Whether the schedule allows layers to gain links."""
        return bool(getattr(self.method.sparsity, "gains", False))

    def _stages(self) -> Sequence[int]:
        """Steps that include, for each layer, a step with its fewest links and a step with its most links."""
        ends = (0, self.timeline.total_steps)
        return (*ends, *self.updates()) if self.gains else ends

    def _check_temperature(self, step: int) -> None:
        """Raise an error if the temperature of an update is below 0."""
        if self.method.removal.temperature is not None:
            temperature = self._value(self.method.removal.temperature, "temperature", step)
            if not temperature >= 0:
                raise ValueError(
                    f"temperature is {temperature} at step {step}; expected T >= 0. With T = 1, p ∝ score."
                )

    def _value(self, value: float | Schedule, name: str, step: int) -> float:
        """The value of a hyperparameter at a step. Raises a TypeError if the value is not a number."""
        if not hasattr(value, "at"):
            check_number(value, name)
        found = value_at(value, step, self.timeline)
        check_number(found, f"{name} at step {step}")
        return found

    def at(self, step: int, final: float | None = None) -> float:
        """Scheduled sparsity at a step. Raises a ValueError or TypeError if the sparsity is not a number in [0, 1).

        Args:
            final: the sparsity at the end of the run; None for the final sparsity of the whole network.
        """
        final = self.sparsity if final is None else final
        sparsity = self.method.sparsity.at(step, self.timeline, final)
        check_sparsity(sparsity, f"scheduled sparsity at step {step}")
        return max(sparsity, self.least.get(final, 0.0))

    def least_at(self, step: int) -> dict[float, float]:
        """The scheduled sparsity at a step, by final sparsity. A run that continues this run takes it as `least`."""
        return {final: self.at(step, final) for final in {self.sparsity, *self._finals.values()}}

    @property
    def final_sparsity(self) -> float:
        """Share of absent links at the end of the run."""
        if isinstance(self.distribution, str):
            return self.at(self.timeline.total_steps)
        links = self.links(self.timeline.total_steps).values()
        return 1 - sum(links) / sum(map(math.prod, self.shapes.values()))

    def zeta(self, step: int) -> float:
        """Share of the links that an update at this step exchanges.

        Raises a ValueError or TypeError if the share is not a number in [0, 1].
        """
        if self.method.turnover.zeta == "excess":
            links, final = (sum(self.links(at).values()) for at in (step, self.timeline.total_steps))
            return max(links - final, 0) / links if links else 0.0
        zeta = self._value(self.method.turnover.zeta, "zeta", step)
        if not 0 <= zeta <= 1:
            raise ValueError(
                f"zeta is {zeta} at step {step}; expected the share of links exchanged per update, in [0, 1]."
            )
        return zeta

    def links(self, step: int) -> dict[str, int]:
        """Number of links of each layer after an update at this step. Raises the errors of :func:`check_links`."""
        if isinstance(self.distribution, Mapping):
            scheduled = {final: self.at(step, final) for final in set(self._finals.values())}
            return {
                name: link_count(shape[0], math.prod(shape[1:]), 1 - scheduled[self._finals[name]])
                for name, shape in self.shapes.items()
            }
        sparsity = self.at(step)
        if sparsity not in self._shared:
            self._shared.clear()
            if isinstance(self.distribution, str):
                shared = DISTRIBUTIONS[self.distribution](self.shapes, sparsity)
            else:
                shared = self.distribution(self.shapes, sparsity)
                check_links(shared, self.shapes, self.distribution)
            self._shared[sparsity] = shared
        return self._shared[sparsity].copy()

    def exchanged(self, step: int, before: Mapping[str, int] | None = None) -> dict[str, int]:
        """Number of links of each layer that an update at this step exchanges, that is, removes and regrows.

        Pruned links are not included. The number is a share of the links that a layer has both before and after the
        update. For a full layer, it is 0, because removed links could only return to their places, without their
        weights. With zeta="excess", the result is the number of links that the layer has both before and after the
        update, minus the layer's final number of links. This holds for a full layer, too.

        Args:
            before: the number of links of each layer before the update; None for the scheduled numbers.
        """
        links = self.links(step)
        full = {name for name, shape in self.shapes.items() if links[name] == math.prod(shape)}
        if self.gains:
            earlier = self.links(self.timeline.update_before(step - 1)) if before is None else before
            links = {name: min(links[name], earlier[name]) for name in links}
        if self.method.turnover.zeta == "excess":
            final = self.links(self.timeline.total_steps)
            return {name: max(links[name] - final[name], 0) for name in links}
        zeta = self.zeta(step)
        return {name: 0 if name in full else round(zeta * links[name]) for name in links}

    def bounds(self) -> tuple[dict[str, int], dict[str, int]]:
        """The fewest and the most links that each layer has during the run."""
        stages = [self.links(step) for step in self._stages()]
        fewest, most = ({name: pick(links[name] for links in stages) for name in self.shapes} for pick in (min, max))
        return fewest, most

    def is_final(self, step: int) -> bool:
        """Whether all layers have their final numbers of links from an update at this step to the end of the run."""
        later = [at for at in self.updates() if at > step] if self.gains else []
        final = self.links(self.timeline.total_steps)
        return all(self.links(at) == final for at in (step, *later))

    def changes(self) -> bool:
        """Whether any update changes a link."""
        fewest, most = self.bounds()
        return fewest != most or any(any(self.exchanged(step).values()) for step in self.updates())

    def updates(self) -> Sequence[int]:
        """The steps of all updates."""
        return self.timeline.updates

    def sparse_parts(self) -> list[str]:
        """The names of the layers that are sparse at some step of the run."""
        fewest, _ = self.bounds()
        return [name for name, shape in self.shapes.items() if fewest[name] < math.prod(shape)]
