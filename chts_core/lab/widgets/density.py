"""Design a decay of the density: choose its schedule, window and two sparsities, and see what the run costs."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from matplotlib.figure import Figure

from chts_core.lab import figures
from chts_core.lab.figures import DensityCourse
from chts_core.lab.widgets.explorer import Explorer, menu, slider
from chts_core.schedules import cubic_sparsity, sigmoid_sparsity
from chts_core.topology import link_count

Schedule = Literal["sigmoid", "cubic"]


@dataclass(frozen=True)
class DensityState:
    """What the density designer shows.

    start, end: the start and the end of the window, as shares of the run.
    stop: the share of the run after which there are no more updates.
    updates: the number of updates that a run would have if they never stopped.
    layer: the shape of the layer, (out_features, in_features).
    """

    schedule: Schedule = "sigmoid"
    k: float = 6.0
    initial: float = 0.5
    final: float = 0.95
    start: float = 0.0
    end: float = 0.375
    stop: float = 0.75
    updates: int = 80
    layer: tuple[int, int] = (1000, 1000)


@dataclass(frozen=True)
class DensityResult:
    """The density over the run with both schedules, the cost of the chosen schedule, and a description.

    flops: the training FLOPs with the chosen schedule, as a share of the dense layer's, if absent links cost nothing.
    other: the density with the other schedule at equal FLOPs; None if the run is impossible.
    other_end: the end of the other schedule's window, as a share of the run; it may be after the last update.
    removed: the number of links that each update removes.
    conflict: the start and the end of the part where the settings conflict, as shares of the run; otherwise None.
    """

    chosen: DensityCourse
    flops: float
    other: DensityCourse | None
    other_end: float
    removed: list[int]
    conflict: tuple[float, float] | None
    description: str


class DensityDesigner(Explorer[DensityState, DensityResult]):
    """Design a decay of the density: choose its schedule, window and two sparsities, and see what the run costs."""

    name = "density"
    State = DensityState
    recorded: ClassVar = {
        "schedule": ("sigmoid", "cubic"),
        "end": (0.125, 0.25, 0.375, 0.5, 0.75, 0.9),
        "k": (1.0, 3.0, 6.0, 12.0),
    }

    @staticmethod
    def compute(state: DensityState) -> DensityResult:
        """Compute the density over the run for a state. If the run is impossible, the description gives the reason."""
        problem = _problem(state)
        chosen = _course(state, state.schedule, state.end, state.stop)
        links = [link_count(*state.layer, density) for density in chosen.density]
        removed = [before - after for before, after in pairwise(links)]
        possible = state.layer[0] * state.layer[1]
        flops = sum(links[:-1]) / (state.updates * possible)  # an update comes after its step's backward pass
        # Over the same window, a sigmoid decay's extra links cost twice as much as a cubic decay's extra links.
        name: Schedule = "cubic" if state.schedule == "sigmoid" else "sigmoid"
        width = (state.end - state.start) * (2 if name == "cubic" else 0.5)
        other_end = round(state.start + width, 9)  # 0.75, not 0.7500000000000001
        other = None if problem else _course(state, name, other_end, 1.0)
        conflict = None
        if problem:
            conflict, reason = problem
            description = f"This run is impossible: {reason}"
        else:
            steepest = max(range(state.updates), key=lambda update: removed[update])
            constant = link_count(*state.layer, 1 - state.final) / possible
            too_late = (
                f", after the last update at {_percent(state.stop)}, so no {name} decay with this start has equal FLOPs"
                if other_end > state.stop
                else f", no later than the last update at {_percent(state.stop)}"
            )
            description = (
                f"In a {chosen.name} decay of the density, the sparsity rises from {state.initial:.2f} to "
                f"{state.final:.2f} between {_percent(state.start)} and {_percent(state.end)} of the run. The run "
                f"takes {flops:.1%} of the dense layer's training FLOPs ({constant:.1%} if the sparsity is "
                f"{state.final:.2f} from the first step on). A {_named(state, name)} decay with equal FLOPs would end "
                f"at {_percent(other_end)}{too_late}. The largest update, at {_percent(chosen.shares[steepest + 1])}, "
                f"removes {removed[steepest]:,} of {links[steepest]:,} links."
            )
        return DensityResult(chosen, flops, other, other_end, removed, conflict, description)

    @staticmethod
    def draw(state: DensityState, result: DensityResult) -> Figure:
        """Draw the density over the run beside the links that each update removes."""
        return figures.decay_design(result.chosen, result.other, 1 - state.final, state.stop, result.conflict)

    def make_controls(self, state: DensityState) -> dict[str, Any]:
        """A menu of schedules, and sliders for the steepness, the two sparsities, the window and the last update."""
        return {
            "schedule": menu("schedule", state.schedule, ["sigmoid", "cubic"]),
            "k": slider("steepness k", state.k, 1, 20, 1),
            "initial": slider("initial sparsity", state.initial, 0, 0.95, 0.05),
            "final": slider("final sparsity", state.final, 0.05, 0.99, 0.01),
            "start": slider("window start", state.start, 0, 0.9, 0.025),
            "end": slider("window end", state.end, 0.025, 1, 0.025),
            "stop": slider("last update", state.stop, 0.05, 1, 0.025),
        }


def _problem(state: DensityState) -> tuple[tuple[float, float], str] | None:
    """The part of the run where the settings conflict, and the reason in words; None if they do not conflict."""
    if state.end <= state.start:
        return (state.end, state.start), (
            f"the window would end at {_percent(state.end)} of the run, which is not after its start at "
            f"{_percent(state.start)}. Choose a later end or an earlier start."
        )
    if state.final < state.initial:
        return (state.start, state.end), (
            f"the sparsity would fall from {state.initial:.2f} to {state.final:.2f}, so links would have to be "
            f"added, not removed. Choose a final sparsity of at least {state.initial:.2f}."
        )
    if state.end > state.stop:
        reached = _course(state, state.schedule, state.end, state.stop).density[-1]
        return (state.stop, state.end), (
            f"the {state.schedule} decay would end at {_percent(state.end)} of the run, but updates stop at "
            f"{_percent(state.stop)}, so the sparsity would stay at {1 - reached:.4f} and never reach "
            f"{state.final:.2f}. End the window earlier or let the updates stop later."
        )
    return None


def _course(state: DensityState, schedule: Schedule, end: float, stop: float) -> DensityCourse:
    """The density from update to update, if the updates stop at the share `stop` of the run."""
    start, last = state.start * state.updates, stop * state.updates
    density = []
    for update in range(state.updates + 1):
        step = min(update, last)
        if end <= state.start:  # this run is impossible; a jump of the density shows the chosen settings
            density.append(1 - (state.initial if step < start else state.final))
            continue
        # The unit is a millionth of an update, because the schedules take whole steps, and half a window may not be a
        # whole number of updates.
        window = round(start * 1e6), round(end * state.updates * 1e6)
        sparsity = (
            sigmoid_sparsity(round(step * 1e6), *window, state.initial, state.final, state.k)
            if schedule == "sigmoid"
            else cubic_sparsity(round(step * 1e6), *window, state.initial, state.final)
        )
        density.append(1 - sparsity)
    return DensityCourse(
        _named(state, schedule), [update / state.updates for update in range(state.updates + 1)], density
    )


def _named(state: DensityState, schedule: Schedule) -> str:
    return f"sigmoid (k = {state.k:g})" if schedule == "sigmoid" else "cubic"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
