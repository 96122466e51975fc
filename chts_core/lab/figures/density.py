"""Figures of densities that fall during a run: schedules, their costs, and the accuracy that pruning steps cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chts_core.lab.figures.style import (
    BLACK,
    GREY,
    VERMILION,
    looks,
    name_ends,
    new_figure,
    use_percent_axis,
)

_HATCHES = ("//", "\\\\", "..", "xx")


@dataclass(frozen=True)
class PruningStep:
    """One update of a run whose density falls.

    at: optimizer step.
    before, after: the number of links in all sparse layers before and after the update.
    loss, accuracy: a pair of values, measured on the validation images before and after the update; accuracies are
        fractions.
    """

    at: int
    before: int
    after: int
    loss: tuple[float, float]
    accuracy: tuple[float, float]

    @property
    def removed(self) -> int:
        """The number of links that the update removed and did not replace."""
        return self.before - self.after

    @property
    def share(self) -> float:
        """The number of removed links as a share of the links before the update."""
        return self.removed / self.before

    @property
    def drop(self) -> float:
        """Drop in accuracy at the update, in percentage points; negative if the accuracy rose."""
        return 100 * (self.accuracy[0] - self.accuracy[1])

    @property
    def rise(self) -> float:
        """Rise in validation loss at the update, in nats."""
        return self.loss[1] - self.loss[0]


def sparsity_courses(named: Mapping[str, Sequence[float]], label: str = "sparsity") -> Figure:
    """Draw curves that span a window or a run. Each curve is a sequence of equally spaced values from start to end."""
    with new_figure(7, 3.4) as (figure, (axes,)):
        for name, (colour, _, style) in looks(named).items():
            places = np.linspace(0, 1, len(named[name]))
            axes.plot(places, named[name], color=colour, linestyle=style, label=name, clip_on=False)
        axes.set_xlabel("share of the window, u")
        axes.set_ylabel(label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        name_ends(axes)
    return figure


def excess_density(named: Mapping[str, Sequence[float]], final: float) -> Figure:
    """Draw each run's density in its own panel; shade and measure the area between the curve and the final density.

    Args:
        named: for each name, the densities of a run, in [0, 1], at equally spaced steps.
        final: the final density.
    """
    with new_figure(4.2 * len(named), 3, columns=len(named)) as (figure, panels):
        for axes, (name, values), (colour, _, _), hatch in zip(
            panels, named.items(), looks(named).values(), cycle(_HATCHES), strict=False
        ):
            share, density = np.linspace(0, 100, len(values)), 100 * np.asarray(values)
            excess = (density[:-1] + density[1:]).mean() / 2 - 100 * final
            axes.plot(share, density, color=colour)
            axes.fill_between(share, density, 100 * final, color=colour, alpha=0.25, hatch=hatch, linewidth=0)
            axes.axhline(100 * final, color=BLACK, linestyle="--", linewidth=1)
            axes.set_title(f"{name}: excess {excess:.1f} % of all links")
            axes.set_xlim(0, 100)
            axes.set_xlabel("share of the run (%)")
            axes.set_ylabel("density (%)")
            axes.set_ylim(0, min(100, 105 * max(map(max, named.values()))))
    return figure


def pruning_steps(named: Mapping[str, Sequence[Sequence[PruningStep]]]) -> Figure:
    """Draw three effects of each update: the number and the share of the removed links, and the lost accuracy.

    Args:
        named: for each schedule, the pruning steps of one run per seed; all runs of a schedule prune at the same steps.
            The figure shows the mean accuracy loss over the seeds, and a small mark for each seed.
    """
    with new_figure(9.5, 3.3, columns=3) as (figure, (removed, share, lost)):
        for name, (colour, marker, style) in looks(named).items():
            runs = named[name]
            at = [step.at for step in runs[0]]
            look: dict[str, Any] = {
                "color": colour,
                "linestyle": style,
                "marker": marker,
                "markersize": 4,
                "label": name,
            }
            removed.plot(at, [step.removed for step in runs[0]], **look)  # the same for every seed
            share.plot(at, [100 * step.share for step in runs[0]], **look)
            drops = np.array([[step.drop for step in run] for run in runs])
            lost.plot(at, drops.mean(axis=0), **look)
            lost.plot(at, drops.T, color=colour, linestyle="", marker=marker, markersize=2.5, alpha=0.6)
        lost.axhline(0, color=GREY, linewidth=1)
        removed.set_ylabel("links removed by the update")
        share.set_ylabel("links removed by the update\n(% of the links before it)")
        lost.set_ylabel("validation accuracy lost\nby the update (percentage points)")
        for axes in (removed, share):
            axes.set_ylim(bottom=0)
        for axes in (removed, share, lost):
            axes.set_xlabel("training step")
        removed.legend()
    return figure


@dataclass(frozen=True)
class DensityCourse:
    """The density of a run. It is `density[j]` between the shares `shares[j]` and `shares[j + 1]` of the run."""

    name: str
    shares: Sequence[float]
    density: Sequence[float]


def decay_design(
    chosen: DensityCourse,
    other: DensityCourse | None,
    final: float,
    stop: float,
    conflict: tuple[float, float] | None = None,
) -> Figure:
    """Draw a density that falls over a run, with its cost shaded (left), and the links that updates remove (right).

    Args:
        chosen: the decay that the reader designs.
        other: a decay to compare it with, or None.
        final: the final density, which a constant schedule has throughout.
        stop: the share of the run at which the updates stop.
        conflict: the start and the end (as shares of the run) of the part in which the settings contradict each other.
            The figure hatches this part and does not shade the cost. None if there is no such part.
    """
    with new_figure(9, 3.3, columns=2) as (figure, (left, right)):
        courses = {course.name: course for course in (chosen, other) if course is not None}
        for name, (colour, _, style) in looks(courses).items():
            _draw_course(left, courses[name], colour, style)
        colour, _, _ = looks(courses)[chosen.name]
        shares, density = 100 * np.array(chosen.shares), 100 * np.array(chosen.density)
        left.axhline(100 * final, color=BLACK, linestyle=":", linewidth=1.2, label="constant")
        if conflict is None:
            left.fill_between(shares, 0, density, step="post", color=colour, alpha=0.2, linewidth=0)
        right.bar(shares[1:], -np.diff(density), width=80 / len(shares), color=colour)
        right.axhline(0, color=BLACK, linewidth=0.8)
        for axes in (left, right):
            if conflict is not None:
                begin, end = 100 * conflict[0], max(100 * conflict[1], 100 * conflict[0] + 0.5)  # wide enough to see
                axes.axvspan(
                    begin, end, facecolor="none", edgecolor=VERMILION, hatch="//", linewidth=0, label="conflict"
                )
            axes.axvline(100 * stop, color=GREY, linestyle="-.", linewidth=1.2, label="last update")
            axes.set_xlim(0, 100)
            axes.set_xlabel("share of the run (%)")
        use_percent_axis(left)
        left.set_ylabel("density (%)")
        right.set_ylabel("links removed by the update\n(% of all possible)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _draw_course(axes: Axes, course: DensityCourse, colour: str, style: str) -> None:
    shares, density = 100 * np.array(course.shares), 100 * np.array(course.density)
    axes.step(shares, density, where="post", color=colour, linestyle=style, label=course.name)
