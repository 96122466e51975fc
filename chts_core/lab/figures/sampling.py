"""Soft sampling: how a softness spreads the chances, and whether the topology moves on."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.lab.figures.networks import Links, draw_network
from chts_core.lab.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    new_figure,
    use_percent_axis,
)
from chts_core.lab.train.images import Run
from chts_core.schedules import linear_temperature

_COLOURS = (BLACK, BLUE, ORANGE, VERMILION, GREEN, PURPLE)
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def chances_and_entropy(
    scores: Tensor, chances: Mapping[str, Tensor], softness: Sequence[float], entropy: Sequence[float]
) -> Figure:
    """The chance of each score at several softnesses (left), and the entropy of such a draw by softness (right).

    Args:
        scores: (candidates,).
        chances: probabilities by label, each (candidates,).
        softness, entropy: the curve on the right; entropy in bits.
    """
    with new_figure(8.5, 3.2, columns=2) as (figure, (left, right)):
        looks = zip(cycle(_COLOURS), cycle(_LINES), cycle(_MARKERS), strict=False)
        for (label, chance), (colour, line, marker) in zip(chances.items(), looks, strict=False):
            left.plot(scores, chance, color=colour, linestyle=line, marker=marker, markersize=6, label=label)
        left.set_xlabel("score of the link")
        left.set_ylabel("chance of the first draw")
        left.set_xticks(scores.tolist())
        left.legend(fontsize=9)
        right.plot(softness, entropy, color=BLUE)
        _entropy_axis(right, math.log2(len(scores)))
        right.set_ylabel("entropy of the first draw (bits)")
    return figure


def _entropy_axis(axes: Axes, highest: float) -> None:
    axes.axhline(highest, color=GREY, linestyle=":", label=f"all chances alike: {highest:.2f} bits")
    axes.set_xlabel("softness δ (no unit; 1 is the hard rule)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, highest * 1.08)
    axes.legend(loc="lower left", fontsize=9)


def updates(steps: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Updates of one small layer, side by side: which links stayed, went, came, and went and came back at once.

    Args:
        steps: by title the links before, those removed and those regrown; Boolean (out_features, in_features) each.
    """
    with new_figure(3.5 * len(steps), 3.7, columns=len(steps)) as (figure, panels):
        for axes, (title, (before, removed, regrown)) in zip(panels, steps.items(), strict=True):
            groups = [
                Links("stayed", [before & ~removed]),
                Links("removed", [removed & ~regrown], ORANGE, ":", 2.2),
                Links("regrown", [regrown & ~removed], BLUE, "--", 2.2),
                Links("removed and regrown at once", [removed & regrown], VERMILION, "-.", 2.6),
            ]
            draw_network(axes, groups, ["inputs", "outputs"])
            axes.set_title(title)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def overlap_by_rule(runs: Sequence[Run]) -> Figure:
    """ELM overlap (left) and ITOP rate (right) over the updates, for runs labelled by how they draw.

    Means over layers and seeds.

    Raises:
        ValueError: if no run ever updated its topology.
    """
    import pandas as pd

    rows = [{"rule": run.method, **row} for run in runs for row in run.history]
    if not rows:
        raise ValueError("no run has updated its topology; train for at least 2 epochs.")
    with new_figure(8.5, 3.6, columns=2) as (figure, (left, right)):
        looks = zip(cycle(_COLOURS), cycle(_LINES), cycle(_MARKERS), strict=False)
        for (rule, table), (colour, line, marker) in zip(
            pd.DataFrame(rows).groupby("rule", sort=False), looks, strict=False
        ):
            means = table.groupby("step")[["overlap", "itop"]].mean() * 100
            for axes, column in ((left, "overlap"), (right, "itop")):
                axes.plot(
                    means.index,
                    means[column],
                    color=colour,
                    linestyle=line,
                    marker=marker,
                    markersize=5,
                    markevery=max(len(means) // 8, 1),
                    label=str(rule),
                )
        left.set_ylabel("regrown links that were\njust removed (%)")
        use_percent_axis(left)
        right.set_ylabel("links ever active (%)")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlabel("training step")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def temperature_ramps(ramps: Mapping[str, tuple[float, float]], end: int) -> Figure:
    """Temperatures that rise linearly until step `end` (left), and the softness δ = T / (1 + T) they mean (right).

    Args:
        ramps: first and last temperature by label.
        end: step at which the last one is reached.
    """
    steps = np.arange(end + 1)
    with new_figure(8.5, 3.0, columns=2) as (figure, (left, right)):
        for (label, ramp), colour, line in zip(ramps.items(), cycle((BLUE, VERMILION)), cycle(_LINES), strict=False):
            temperature = np.array([linear_temperature(step, end, *ramp) for step in range(end + 1)])
            left.plot(steps, temperature, color=colour, linestyle=line, label=label)
            right.plot(steps, temperature / (1 + temperature), color=colour, linestyle=line, label=label)
        left.set_ylabel("temperature T (no unit)")
        left.set_ylim(bottom=0)
        right.set_ylabel("softness δ (no unit)")
        right.set_ylim(0, 1)
        for axes in (left, right):
            axes.set_xlabel("training step")
            axes.legend(loc="best", fontsize=9)
    return figure


def removal_chances(
    chances: Tensor, removed: Tensor, softness: float, curve_softness: Sequence[float], curves: Mapping[str, Tensor]
) -> Figure:
    """How a soft removal treats each link (left), and how the softness moves it from random to hard (right).

    Args:
        chances: chance of each link to be removed, in [0, 1], from the weakest link to the strongest; (links,).
        removed: which of them one draw removed, Boolean (links,).
        softness: δ of that draw.
        curve_softness: where the curves on the right are measured.
        curves: by label shares in [0, 1], each (len(curve_softness),).
    """
    rank = torch.arange(1, len(chances) + 1)
    with new_figure(9, 3.6, columns=2) as (figure, (left, right)):
        left.step(
            [0.5, *(rank + 0.5).tolist()],
            [100.0, *((rank <= int(removed.sum())) * 100.0).tolist()],
            color=GREY,
            linestyle="--",
            label="hard rule",
        )
        marks = (("removed in this draw", removed, VERMILION, "x"), ("kept in this draw", ~removed, BLUE, "."))
        for label, which, colour, marker in marks:
            left.plot(rank[which], chances[which] * 100, color=colour, marker=marker, linestyle="", label=label)
        left.set_xlabel("link, from the weakest to the strongest")
        left.set_ylabel("chance to be removed (%)")
        use_percent_axis(left)
        left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        left.legend(loc="upper right", fontsize=9)
        for (label, curve), colour, line in zip(curves.items(), (GREEN, PURPLE), _LINES, strict=False):
            right.plot(curve_softness, curve * 100, color=colour, linestyle=line, label=label)
        right.axvline(softness, color=BLACK, linestyle=":", label=f"δ = {softness:.2f}")
        right.set_xlabel("softness δ (no unit; 1 is the hard rule)")
        right.set_ylabel("share (%)")
        right.set_xlim(0, 1)
        use_percent_axis(right)
        right.legend(loc="lower left", fontsize=9, frameon=True, framealpha=1, edgecolor="none")
    return figure
