"""Figures of soft sampling: how softness changes the chances of the links, and whether the topology keeps changing."""

import math
from collections.abc import Mapping, Sequence

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
    KEPT,
    ORANGE,
    PURPLE,
    REGROWN,
    REMOVED,
    looks,
    name_ends,
    new_figure,
    use_percent_axis,
)
from chts_core.lab.train.images import Run
from chts_core.schedules import linear_temperature


def chances_and_entropy(
    scores: Tensor, chances: Mapping[str, Tensor], softness: Sequence[float], entropy: Sequence[float]
) -> Figure:
    """Draw each candidate's chance of being drawn first (left), and the entropy of the first draw by softness (right).

    Args:
        scores: the scores of the candidates, (candidates,).
        chances: for each label, the probabilities of the candidates, (candidates,).
        softness, entropy: the points of the curve on the right; entropies are in bits.
    """
    with new_figure(8.5, 3.2, columns=2) as (figure, (left, right)):
        for label, (colour, marker, line) in looks(chances).items():
            left.plot(
                scores,
                chances[label],
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=6,
                label=label,
                clip_on=False,  # markers at 0 and 1 are drawn whole
            )
        left.set_ylim(0, 1)
        left.set_xlabel("score of the link")
        left.set_ylabel("chance of being drawn first")
        left.set_xticks(scores.tolist())
        name_ends(left)
        right.plot(softness, entropy, color=BLUE)
        _entropy_axis(right, math.log2(len(scores)))
        right.set_ylabel("entropy of the first draw (bits)")
    return figure


def _entropy_axis(axes: Axes, highest: float) -> None:
    axes.axhline(highest, color=GREY, linestyle=":", label=f"equal chances: {highest:.2f} bits")
    axes.set_xlabel("softness δ (no unit; 1 is the hard rule)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, highest * 1.08)
    axes.legend(loc="lower left", fontsize=9)


def updates(steps: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Draw a small layer at some updates. Each link stayed, was removed, was regrown, or was removed and then regrown.

    Args:
        steps: for each title, the links before the update, the removed links and the regrown links, as three Boolean
            masks (out_features, in_features).
    """
    with new_figure(3.5 * len(steps), 3.7, columns=len(steps)) as (figure, panels):
        for axes, (title, (before, removed, regrown)) in zip(panels, steps.items(), strict=True):
            groups = [
                Links("stayed", [before & ~removed]),
                Links("removed", [removed & ~regrown], REMOVED, ":", 2.2),
                Links("regrown", [regrown & ~removed], REGROWN, "--", 2.2),
                Links("removed, then regrown", [removed & regrown], ORANGE, "-.", 2.6),
            ]
            draw_network(axes, groups, ["inputs", "outputs"])
            axes.set_title(title)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def overlap_by_rule(runs: Sequence[Run]) -> Figure:
    """Draw the ELM overlap (left) and the ITOP rate (right) by update, with a curve for each rule that draws links.

    Each curve is a mean over layers and seeds.

    Raises:
        ValueError: if no run ever updated its topology.
    """
    import pandas as pd

    rows = [{"rule": run.method, **row} for run in runs for row in run.history]
    if not rows:
        raise ValueError("no run has updated its topology; train for at least 2 epochs.")
    with new_figure(8.5, 3.6, columns=2) as (figure, (left, right)):
        tables = {str(rule): table for rule, table in pd.DataFrame(rows).groupby("rule", sort=False)}
        for rule, (colour, marker, line) in looks(tables).items():
            table = tables[rule]
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
                    label=rule,
                )
        left.set_ylabel("regrown links that were\njust removed (%)")
        use_percent_axis(left)
        right.set_ylabel("links ever active (%)")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.set_xlabel("training step")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def temperature_ramps(ramps: Mapping[str, tuple[float, float]], end: int) -> Figure:
    """Draw temperatures that rise linearly until step `end` (left), and the softness δ = T / (1 + T) (right).

    Args:
        ramps: for each label, the first and the last temperature.
        end: the step of the last temperature.
    """
    steps = np.arange(end + 1)
    with new_figure(8.5, 3.0, columns=2) as (figure, (left, right)):
        for label, (colour, _, line) in looks(ramps).items():
            temperature = np.array([linear_temperature(step, end, *ramps[label]) for step in range(end + 1)])
            left.plot(steps, temperature, color=colour, linestyle=line, label=label)
            right.plot(steps, temperature / (1 + temperature), color=colour, linestyle=line, label=label)
        left.set_ylabel("temperature T (no unit)")
        left.set_ylim(bottom=0)
        right.set_ylabel("softness δ (no unit)")
        right.set_ylim(0, 1)
        for axes in (left, right):
            axes.set_xlim(0, end)
            axes.set_xlabel("training step")
            name_ends(axes)
    return figure


def removal_chances(
    chances: Tensor, removed: Tensor, softness: float, curve_softness: Sequence[float], curves: Mapping[str, Tensor]
) -> Figure:
    """Draw each link's chance of being removed (left), and one or two other shares by softness (right).

    Args:
        chances: each link's chance of being removed, in [0, 1], from the weakest link to the strongest; (links,).
        removed: the links that one draw removed, Boolean (links,).
        softness: the softness δ of that draw.
        curve_softness: the values of δ at the points of the curves on the right.
        curves: for each label (at most two), the shares in [0, 1] on a curve, (len(curve_softness),).
    """
    rank = torch.arange(1, len(chances) + 1)
    with new_figure(9, 3.6, columns=2) as (figure, (left, right)):
        left.step(
            [0.5, *(rank + 0.5).tolist()],
            [100.0, *((rank <= int(removed.sum())) * 100.0).tolist()],
            color=BLACK,
            linestyle="--",
            linewidth=1.2,
            label="hard rule",
        )
        marks = (("removed in this draw", removed, REMOVED, "x"), ("kept in this draw", ~removed, KEPT, "."))
        for label, which, colour, marker in marks:
            left.plot(rank[which], chances[which] * 100, color=colour, marker=marker, linestyle="", label=label)
        left.set_xlabel("link, from the weakest to the strongest")
        left.set_ylabel("chance of being removed (%)")
        use_percent_axis(left)
        left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        left.legend(loc="upper right", fontsize=9)
        for (label, curve), colour, line in zip(curves.items(), (GREEN, PURPLE), ("-", "--"), strict=False):
            right.plot(curve_softness, curve * 100, color=colour, linestyle=line, label=label)
        right.axvline(softness, color=BLACK, linestyle=":", label=f"δ = {softness:.2f}")
        right.set_xlabel("softness δ (no unit; 1 is the hard rule)")
        right.set_ylabel("share (%)")
        right.set_xlim(0, 1)
        use_percent_axis(right)
        right.legend(loc="lower left", fontsize=9, frameon=True, framealpha=1, edgecolor="none")
    return figure
