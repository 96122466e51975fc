"""Figures of the cost of sparse training: time by density, and theoretical costs beside measured costs."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from chts_core.lab.costs import LayerTime, TrainingCost
from chts_core.lab.figures.style import (
    GREY,
    LOOKS,
    PURPLE,
    VERMILION,
    looks,
    name_ends,
    new_figure,
    use_log_scale,
)


def layer_times(times: Sequence[LayerTime], crossover: float | None = None) -> Figure:
    """Draw the time of a layer's training step against the density of the layer, on logarithmic axes.

    Args:
        times: the results of `costs.time_layers`, in order of ascending density.
        crossover: the density up to which sparse products are faster than products with the dense weight, from
            :func:`chts_core.engine.kernels.crossover_density`. The figure marks it; with None, the figure has no mark.
    """
    lines = (("dense", "dense"), ("masked", "masked"), ("links", "csr"))
    with new_figure(6.8, 3.6) as (figure, (axes,)):
        density = [100 * row.density for row in times]
        use_log_scale(axes, "x", "y")
        for field, execution in lines:
            colour, marker = LOOKS[execution]
            seconds = [getattr(row, field) for row in times]
            axes.plot(density, [1e3 * value for value in seconds], color=colour, marker=marker, label=execution)
        name_ends(axes)
        if crossover is not None and 0 < crossover < 1:
            axes.axvline(100 * crossover, color=GREY, linestyle=":")
            axes.annotate(
                f"crossover\n{crossover:.0%}",
                (100 * crossover, 0.02),
                (-4, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                va="bottom",
            )
        axes.set_xlabel("links that exist (% of all possible)")
        axes.set_ylabel("forward and backward pass (ms)")
    return figure


def step_course(costs: Sequence[TrainingCost]) -> Figure:
    """Draw the time of a training step by density, with a point for each interval between two updates.

    A run that gets sparser moves to the right.
    """
    with new_figure(6.8, 3.6) as (figure, (axes,)):
        for cost, (colour, marker, _) in zip(costs, looks(cost.name for cost in costs).values(), strict=True):
            seconds, density = zip(*cost.course, strict=True)
            per_cent, milliseconds = [100 * value for value in density], [1e3 * value for value in seconds]
            axes.plot(per_cent, milliseconds, color=colour, marker=marker, markersize=5, label=cost.name)
        axes.invert_xaxis()
        axes.set_xlim(min(100, axes.get_xlim()[0]), 0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("links that exist (% of all possible), falling during the run")
        axes.set_ylabel("time of a step (ms)")
        name_ends(axes)
    return figure


def cost_meter(costs: Sequence[TrainingCost]) -> Figure:
    """Draw each run's theoretical FLOPs and its measured step time and memory, in per cent of the first (dense) run."""
    rival = costs[0]
    meters = (
        ("FLOPs, in theory", [cost.flops / rival.flops for cost in costs], GREY, "D"),
        ("time of a step, measured", [cost.step / rival.step for cost in costs], VERMILION, "o"),
        ("memory, measured", [cost.memory / rival.memory for cost in costs], PURPLE, "s"),
    )
    height = 0.26
    with new_figure(7.4, 1.1 + 0.62 * len(costs)) as (figure, (axes,)):
        axes.axvline(100, color=GREY, linestyle=":", linewidth=1)
        for number, (label, shares, colour, marker) in enumerate(meters):
            places = [row + (number - 1) * height for row in range(len(costs))]
            per_cent = [100 * share for share in shares]
            axes.plot(per_cent, places, color=colour, marker=marker, markersize=7, linestyle="", label=label)
            for value, place in zip(per_cent, places, strict=True):
                axes.annotate(
                    f"{value:.3g} %",
                    (value, place),
                    (8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
        use_log_scale(axes, "x")
        every = [100 * share for _, shares, _, _ in meters for share in shares]
        axes.set_xlim(min(0.5, min(every) / 2), max(400, 3 * max(every)))  # room for the numbers
        axes.set_yticks(range(len(costs)), [cost.name for cost in costs])
        axes.set_ylim(len(costs) - 0.5, -0.5)
        axes.set_xlabel(f"share of {rival.name} (%), logarithmic")
        axes.set_ylabel("method, execution")
        figure.legend(loc="outside upper center", ncols=3)
    return figure
