"""Figures of percolation: small networks with their inactive neurons, and how many neurons stay active."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.lab.figures.networks import Links, draw_network
from chts_core.lab.figures.style import GREY, ORANGE, SKY, VERMILION, looks, name_ends, new_figure, use_percent_axis

_HATCHES = ("", "//", "xx")


def dead_ends(masks: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Find the hidden neurons without incoming or without outgoing links, and the links that these neurons still have.

    Args:
        masks: one for each layer of a chain, from the inputs to the outputs, Boolean (out_features, in_features).

    Returns:
        For each side of the network, its inactive neurons, Boolean (features,); inputs and outputs are never inactive.
        For each layer, its incomplete links (links of inactive neurons), Boolean (out_features, in_features).
    """
    hidden = [~(before.any(dim=1) & after.any(dim=0)) for before, after in pairwise(masks)]
    inputs, outputs = masks[0].new_zeros(masks[0].shape[1]), masks[-1].new_zeros(masks[-1].shape[0])
    inactive = [inputs, *hidden, outputs]
    incomplete = [
        mask & (after[:, None] | before) for mask, (before, after) in zip(masks, pairwise(inactive), strict=True)
    ]
    return inactive, incomplete


def percolating_network(
    present: Sequence[Tensor], sides: Sequence[str], removed: Sequence[Tensor] = (), cut: Sequence[Tensor] = ()
) -> Figure:
    """Draw a small network during percolation, with a legend that counts its links.

    Args:
        present: the present links, Boolean (out_features, in_features) by layer; links of inactive neurons are dashed.
        sides: the names of the neurons of each side; there is one more side than there are layers.
        removed: the links that the removal rule removed, by layer.
        cut: the links that percolation has cut since then, by layer.
    """
    inactive, incomplete = dead_ends(present)
    complete = [mask & ~ends for mask, ends in zip(present, incomplete, strict=True)]
    kinds = (
        ("removed", removed, GREY, ":", 1.0),
        ("cut by percolation", cut, ORANGE, ":", 1.8),
        ("complete so far", complete, GREY, "-", 1.8),
        ("incomplete", incomplete, VERMILION, "--", 1.8),
    )
    groups = [
        Links(f"{name}: {sum(int(mask.sum()) for mask in links)}", links, colour, style, width)
        for name, links, colour, style, width in kinds
        if links
    ]
    tallest = max(len(neurons) for neurons in inactive)
    with new_figure(7.2, 1.0 + 0.36 * tallest) as (figure, (axes,)):
        draw_network(axes, groups, sides, inactive)
        axes.plot(
            [], [], marker="x", color=VERMILION, linestyle="", label=f"inactive: {sum(int(n.sum()) for n in inactive)}"
        )
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def anp_by_sparsity(anp: Mapping[str, Tensor], sparsities: Sequence[float]) -> Figure:
    """Draw the ANP by sparsity, with a line (mean over seeds) and a band (lowest to highest) for each removal score.

    Args:
        anp: for each score, the ANP (active neurons after / before) as a fraction, (seeds, sparsities).
        sparsities: shares of absent links, in [0, 1).
    """
    x = 100 * np.asarray(sparsities)
    with new_figure(6.5, 3.4) as (figure, (axes,)):
        for name, (colour, marker, style) in looks(anp).items():
            percent = 100 * anp[name].numpy()
            axes.plot(x, percent.mean(axis=0), color=colour, marker=marker, linestyle=style, label=name)
            axes.fill_between(x, percent.min(axis=0), percent.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        use_percent_axis(axes)
        axes.set_xlabel("sparsity before the removal (%)")
        axes.set_ylabel("active neurons after / before\n(ANP, %)")
        name_ends(axes)
    return figure


def neurons_by_layer(counts: Mapping[str, Mapping[str, Sequence[int]]]) -> Figure:
    """Draw the active neurons of each hidden layer, with a panel per removal score and a bar per stage of the update.

    Args:
        counts: for each score and stage, the number of active neurons in each hidden layer.
    """
    with new_figure(9, 3.3, columns=len(counts)) as (figure, panels):
        for axes, (title, stages) in zip(panels, counts.items(), strict=True):
            width = 0.8 / len(stages)
            for number, ((stage, neurons), colour) in enumerate(zip(stages.items(), (GREY, SKY, ORANGE), strict=False)):
                places = np.arange(1, len(neurons) + 1) + (number - (len(stages) - 1) / 2) * width
                bars = axes.bar(
                    places, neurons, width, color=colour, edgecolor="black", hatch=_HATCHES[number], label=stage
                )
                axes.bar_label(bars, fontsize=9)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("hidden layer")
            axes.set_ylabel("active neurons")
        highest = max(axes.get_ylim()[1] for axes in panels)
        for axes in panels:
            axes.set_ylim(0, 1.05 * highest)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def anp_by_epoch(courses: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw the share of active neurons by epoch, with a line for each removal score and seed.

    Args:
        courses: for each score and seed, the shares of active neurons at the start and after each epoch, as fractions.
    """
    with new_figure(6.5, 3.2) as (figure, (axes,)):
        for name, (colour, marker, style) in looks(courses).items():
            for number, course in enumerate(courses[name]):
                axes.plot(
                    range(len(course)),
                    100 * torch.tensor(course).numpy(),
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linestyle=style,
                    label=name if number == 0 else None,
                )
        use_percent_axis(axes)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("active neurons (%)")
        name_ends(axes)
    return figure
