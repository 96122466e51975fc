"""Figures of link prediction: paths around a missing link, scores of links, computing times, and random walks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from chts_core.lab.figures.networks import Links, draw_mask, draw_network
from chts_core.lab.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    looks,
    name_ends,
    new_figure,
    use_log_scale,
)
from chts_core.lab.notebook import l3

_LINK = "#B3B3B3"  # a grey that no score has


def local_community(mask: Tensor, link: l3.Link, path: l3.Path | None = None, title: str = "") -> Figure:
    """Draw a small network with a missing link, its L3 paths and its local community; one path is highlighted.

    Args:
        mask: Boolean (out_features, in_features).
        link: (output, input), a missing link.
        path: the path to highlight.
        title: the title above the picture.
    """
    on_paths, present, missing = (torch.zeros_like(mask) for _ in range(3))
    missing[link] = True
    for u, z1, z2, v in l3.paths(mask, link):
        on_paths[u, z1] = on_paths[z2, z1] = on_paths[z2, v] = True
    if path is not None:
        u, z1, z2, v = path
        present[u, z1] = present[z2, z1] = present[z2, v] = True
    groups = [
        Links("other link", [mask & ~on_paths], GREY, "-", 1.0),
        Links("on an L3 path", [on_paths & ~present], BLUE, "--", 1.8),
        Links("missing link", [missing], BLACK, ":", 2.2),
    ]
    if path is not None:
        groups.append(Links("this path", [present], VERMILION, "-", 4.0))
    with new_figure(6.2, 3.6) as (figure, (axes,)):
        draw_network(axes, groups, ("inputs", "outputs"))
        nodes = l3.community(mask, link)
        sides = [0 if node.side == "input" else 1 for node in nodes]
        heights = [
            node.number - (mask.shape[1 - side] - 1) / 2  # where draw_network puts them
            for node, side in zip(nodes, sides, strict=True)
        ]
        axes.plot(
            sides,
            heights,
            marker="o",
            markersize=23,
            fillstyle="none",
            markeredgecolor=ORANGE,
            markeredgewidth=3,
            linestyle="",
            label="local community",
        )
        axes.set_title(title)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", labelspacing=0.9)
    return figure


def score_maps(mask: Tensor, scores: Mapping[str, Tensor]) -> Figure:
    """Draw a mask and, as heat maps, the scores of its missing links; each map has its own scale. Links are grey."""
    shades = LinearSegmentedColormap.from_list("scores", ["white", SKY, BLUE, BLACK]).with_extremes(bad=_LINK)
    links = mask.cpu().numpy()
    with new_figure(9.6, 5.2, rows=2, columns=2) as (figure, (first, *panels)):
        draw_mask(first, mask, f"the network: {int(mask.sum())} links")
        first.lines[0].set_color(_LINK)
        first.set_aspect("auto")
        for axes, (name, score) in zip(panels, scores.items(), strict=True):
            missing = np.ma.masked_where(links, score.cpu().numpy())
            picture = axes.imshow(missing, cmap=shades, aspect="auto", interpolation="nearest", vmin=0)
            axes.set_title(name)
            axes.set_xlabel("input neuron")
            axes.set_ylabel("output neuron")
            figure.colorbar(picture, ax=axes, label="score of a missing link")
    return figure


def score_agreement(reference: Tensor, others: Mapping[str, Tensor], name: str) -> Figure:
    """Draw several scores of links against a reference score of these links, on logarithmic axes. Each mark is a link.

    Args:
        reference: positive scores, 1-D.
        others: scores of the same links, by name.
        name: the name of the reference.
    """
    with new_figure(8.4, 3.2, columns=len(others)) as (figure, panels):
        for axes, (other, score) in zip(panels, others.items(), strict=True):
            axes.plot(reference.cpu().numpy(), score.cpu().numpy(), marker="o", markersize=3, linestyle="", color=BLUE)
            use_log_scale(axes, "x", "y")
            axes.set_xlabel(f"score {name} of a link")
            axes.set_ylabel(f"score {other} of a link")
    return figure


def regrowth_costs(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the time of each regrowth function by network size (left) and network density (right), on logarithmic axes.

    Args:
        rows: each contains a size, a density and, under the name of each function, the time that this function takes in
            milliseconds. The left panel shows the rows with the most frequent density, and the right panel shows the
            rows with the most frequent size.
    """
    names = [name for name in rows[0] if name not in ("size", "density")]
    with new_figure(9, 3.5, columns=2) as (figure, (left, right)):
        for axes, over, fixed in ((left, "size", "density"), (right, "density", "size")):
            values = [row[fixed] for row in rows]
            common = max(values, key=values.count)
            chosen = sorted((row for row in rows if row[fixed] == common), key=lambda row: row[over])
            _draw_times(axes, chosen, over, names)
            name_ends(axes)
            axes.set_title(f"at density {common:g}" if fixed == "density" else f"{common:g} × {common:g} neurons")
        left.set_xlabel("neurons on each side")
        right.set_xlabel("density of the network")
    return figure


def _draw_times(axes: Axes, rows: Sequence[Mapping[str, float]], over: str, names: Sequence[str]) -> None:
    for name, (colour, marker, style) in looks(names).items():
        axes.plot(
            [row[over] for row in rows],
            [row[name] for row in rows],
            color=colour,
            marker=marker,
            linestyle=style,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([row[over] for row in rows], [f"{row[over]:g}" for row in rows])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("time (ms)")


def walk_frequencies(links: Sequence[l3.Link], expected: Sequence[float], observed: Sequence[float]) -> Figure:
    """Draw the number of walks that end at each missing link, beside the number that the score of the link predicts.

    Args:
        links: (output, input) pairs.
        expected: S / ΣS of each link, times the number of walks.
        observed: the number of walks that ended at each link.
    """
    places = np.arange(len(links))
    with new_figure(8.4, 3.2) as (figure, (axes,)):
        axes.bar(places - 0.2, expected, 0.4, color=SKY, edgecolor=BLACK, label="expected from the score")
        axes.bar(places + 0.2, observed, 0.4, color=ORANGE, edgecolor=BLACK, hatch="//", label="walks counted")
        axes.set_xticks(places, [f"{output}–{source}" for output, source in links])
        axes.set_xlabel("missing link (output–input)")
        axes.set_ylabel("number of walks")
        figure.legend(loc="outside upper center", ncols=2)
    return figure
