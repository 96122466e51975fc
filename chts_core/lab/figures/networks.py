"""Figures of networks: masks as pictures, small networks as nodes and links, and their degrees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.diagnostics import SmallWorldness, degrees
from chts_core.lab.figures.style import (
    BLACK,
    BLUE,
    GREY,
    KEPT,
    REGROWN,
    REMOVED,
    SKY,
    VERMILION,
    looks,
    new_figure,
    use_log_scale,
    write_below,
)


def draw_mask(axes: Axes, mask: Tensor, title: str) -> None:
    """Draw one mask. Each mark is a link from an input (column) to an output (row)."""
    _draw_links(axes, mask, BLUE, _mark_size(mask))
    axes.set_title(title)
    axes.set_xlabel("input neuron")
    axes.set_ylabel("output neuron")


def _mark_size(mask: Tensor) -> float:
    """The size of a mark in points: the size of a cell, but at least a minimum, which is larger for sparser masks."""
    density = max(float(mask.double().mean()), 1e-4)
    return max(170 / max(mask.shape), 1.5, min(0.3 / math.sqrt(density), 4))


def _draw_links(axes: Axes, mask: Tensor, colour: str, size: float) -> None:
    rows, columns = mask.shape
    outputs, inputs = mask.cpu().nonzero().T.numpy()
    axes.plot(inputs, outputs, marker="s", linestyle="", markersize=size, markeredgewidth=0, color=colour)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(True)


def masks(named: Mapping[str, Tensor]) -> Figure:
    """Draw masks side by side, each below its title."""
    width = min(2.9, 11.6 / len(named))  # no wider than a page
    with new_figure(width * len(named), 2.7, columns=len(named)) as (figure, panels):
        for axes, (title, mask) in zip(panels, named.items(), strict=True):
            draw_mask(axes, mask, title)
    return figure


def draw_degrees(axes: Axes, named: Mapping[str, Tensor], side: str) -> None:
    """Draw a histogram of node degrees, with one outline per network."""
    highest = max(int(d.max()) for d in named.values())
    bins = [links - 0.5 for links in range(highest + 2)]
    for title, (colour, _, style) in looks(named).items():
        degree = named[title].cpu().numpy()
        axes.hist(degree, bins=bins, histtype="step", color=colour, linestyle=style, linewidth=1.8, label=title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(f"links per {side} neuron")
    axes.set_ylabel(f"number of {side} neurons")


def degree_histograms(named: Mapping[str, Tensor]) -> Figure:
    """Draw the degree distributions of several masks: outputs on the left, inputs on the right."""
    with new_figure(8, 3.0, columns=2) as (figure, (left, right)):
        draw_degrees(left, {title: degrees(mask)[0] for title, mask in named.items()}, "output")
        draw_degrees(right, {title: degrees(mask)[1] for title, mask in named.items()}, "input")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(named))
    return figure


def degree_tails(named: Mapping[str, Tensor]) -> Figure:
    """Draw the share of neurons with at least k links, by k, on logarithmic axes.

    The left panel shows the outputs, and the right panel shows the inputs. The hubs are at the right end of each curve.
    100 % means all neurons, including neurons without links.
    """
    with new_figure(9.5, 3.4, columns=2) as (figure, panels):
        for axes, side, name in zip(panels, (0, 1), ("output", "input"), strict=True):
            for title, (colour, marker, style) in looks(named).items():
                degree = degrees(named[title])[side]
                links = torch.arange(1, max(int(degree.max()), 1) + 1)
                share = (degree.cpu()[:, None] >= links).double().mean(0) * 100
                shown = share > 0  # a logarithmic axis has no place for 0
                axes.plot(
                    links[shown].numpy(),
                    share[shown].numpy(),
                    color=colour,
                    linestyle=style,
                    marker=marker,
                    markevery=0.12 if shown.any() else None,
                    markersize=5,
                    label=title,
                    clip_on=not shown.any(),  # markers at 100 % are drawn whole
                )
            neurons, others = next(iter(named.values())).shape[:: 1 if side == 0 else -1]
            axes.set_xlim(0.9, 1.1 * others)
            axes.set_ylim(80 / neurons, 100)
            use_log_scale(axes, "x", "y")
            axes.set_xlabel(f"links per {name} neuron (k)")
            axes.set_ylabel(f"{name} neurons with\nat least k links (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(named))
    return figure


def small_worlds(measured: Mapping[str, SmallWorldness]) -> Figure:
    """Draw clustering against path length, both relative to Erdős–Rényi networks.

    Small-world networks are near x = 1 and far above y = 1.
    """
    with new_figure(6, 3.6) as (figure, (axes,)):
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
        axes.axvline(1, color=GREY, linewidth=1, linestyle=":")
        for title, (colour, marker, _) in looks(measured).items():
            of = measured[title]
            place = of.path_length / of.null_path_length, of.clustering / of.null_clustering
            axes.plot(*place, color=colour, marker=marker, markersize=10, linestyle="", label=title)
            axes.annotate(title, place, (7, 5), textcoords="offset points")
        axes.margins(0.2)
        axes.set_xlabel("mean path length (multiples of Erdős–Rényi)")
        axes.set_ylabel("clustering\n(multiples of Erdős–Rényi)")
    return figure


def pixel_correlations(correlation: Tensor, image_shape: tuple[int, ...], pixel: tuple[int, int]) -> Figure:
    """Draw the correlation |r| of one pixel with the others (left), and the mean |r| of all pairs by distance (right).

    Args:
        correlation: |r| of all pairs of pixels, (pixels, pixels), 0 on the diagonal and for constant pixels.
        image_shape: rows and columns.
        pixel: row and column of the pixel in the image.
    """
    rows, columns = image_shape
    row, column = pixel
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    distance = torch.cdist(place, place)
    with new_figure(9, 3.3, columns=2) as (figure, (left, right)):
        of_one = correlation[row * columns + column].view(rows, columns)
        picture = left.imshow(of_one.numpy(), cmap="gray_r", vmin=0, vmax=1)
        left.plot(column, row, marker="*", markersize=14, color=VERMILION, linestyle="", label="the pixel itself")
        figure.colorbar(picture, ax=left, label="correlation |r| with the pixel")
        left.set_xlabel("column of the image (pixels)")
        left.set_ylabel("row of the image (pixels)")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18))

        varies = correlation.any(0)
        pairs = varies[:, None] & varies & (distance > 0)
        steps = distance[pairs].round().unique()
        means = [correlation[pairs & (distance.round() == step)].mean() for step in steps]
        right.plot(steps.numpy(), means, color=BLUE, marker="o")
        right.set_ylim(bottom=0)
        right.set_xlabel("distance between two pixels (pixels, rounded)")
        right.set_ylabel("mean |r| of their values")
    return figure


def mask_and_degrees(mask: Tensor, title: str) -> Figure:
    """Draw one mask beside the degrees of its outputs and of its inputs."""
    outputs, inputs = degrees(mask)
    with new_figure(8, 2.8, columns=2) as (figure, (left, right)):
        draw_mask(left, mask, title)
        draw_degrees(right, {"outputs": outputs, "inputs": inputs}, "")
        right.set_xlabel("links per neuron")
        right.set_ylabel("number of neurons")
        right.legend()
    return figure


def topology_change(first: Tensor, last: Tensor) -> Figure:
    """Draw a layer before and after training, and the links that were kept, removed or added."""
    with new_figure(11, 3.6, columns=3) as (figure, (left, middle, right)):
        draw_mask(left, first, f"before: {int(first.sum())} links")
        draw_mask(middle, last, f"after: {int(last.sum())} links")
        draw_mask(right, torch.zeros_like(first), "changes")
        kinds = (("kept", first & last, KEPT), ("removed", first & ~last, REMOVED), ("regrown", last & ~first, REGROWN))
        for name, links, colour in kinds:
            _draw_links(right, links, colour, _mark_size(first))
            right.plot([], [], marker="s", linestyle="", color=colour, label=f"{name}: {int(links.sum())}")
        figure.legend(loc="outside lower right", ncols=3)
    return figure


@dataclass(frozen=True)
class Links:
    """Some links of a network of one or more layers, all drawn in the same style.

    masks: one for each layer from the inputs to the outputs, Boolean (out_features, in_features).
    """

    label: str
    masks: Sequence[Tensor]
    colour: str = GREY
    style: str = "-"
    width: float = 1.8


def draw_network(
    axes: Axes, groups: Sequence[Links], sides: Sequence[str], inactive: Sequence[Tensor] | None = None
) -> None:
    """Draw a small network as nodes and links, from the inputs on the left to the outputs on the right.

    Args:
        axes: the axes to draw on.
        groups: the groups of links, each with a mask for every layer; later groups are drawn on top.
        sides: the names of the nodes of each side ("inputs", "outputs"); there is one more side than there are layers.
        inactive: for each side, the neurons to draw hollow and crossed out, Boolean (features,).
    """
    shapes = [mask.shape for mask in groups[0].masks]
    sizes = [shapes[0][1], *(out_features for out_features, _ in shapes)]

    def height(side: int, node: int) -> float:
        return node - (sizes[side] - 1) / 2  # the sides are centred on one line

    for group in groups:
        links = [
            [(layer, height(layer, source)), (layer + 1, height(layer + 1, output))]
            for layer, mask in enumerate(group.masks)
            for output, source in mask.nonzero().tolist()
        ]
        axes.plot([], [], color=group.colour, linestyle=group.style, linewidth=group.width, label=group.label)
        axes.add_collection(  # all links at once, because a line for each would be slow in a widget
            LineCollection(links, colors=group.colour, linestyles=group.style, linewidths=group.width, zorder=1)
        )
    active_places: list[tuple[int, float]] = []
    inactive_places: list[tuple[int, float]] = []
    for side, size in enumerate(sizes):
        for node in range(size):
            off = inactive is not None and bool(inactive[side][node])
            place = side, height(side, node)
            (inactive_places if off else active_places).append(place)
            number = axes.text(*place, str(node), ha="center", va="center", fontsize=9, zorder=4)
            if off:  # the number must be readable on top of the cross
                number.set_path_effects([withStroke(linewidth=3, foreground="white")])
    for places, fill in ((active_places, SKY), (inactive_places, "white")):
        x, y = [place[0] for place in places], [place[1] for place in places]
        axes.plot(x, y, marker="o", markersize=17, color=fill, markeredgecolor=BLACK, linestyle="", zorder=2)
        if places is inactive_places:
            axes.plot(x, y, marker="x", markersize=14, color=VERMILION, linestyle="", zorder=3)
    axes.set_xlim(-0.3, len(shapes) + 0.3)
    axes.set_ylim(max(sizes) / 2 + 0.2, -max(sizes) / 2 - 0.2)
    for side, name in enumerate(sides):
        write_below(axes, side, name)
    axes.set_axis_off()


def network(groups: Sequence[Links], sides: Sequence[str]) -> Figure:
    """Draw one small network as nodes and links. :func:`draw_network` explains the arguments."""
    with new_figure(5.2, 3.2) as (figure, (axes,)):
        draw_network(axes, groups, sides)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure
