"""Networks: masks as pictures, small ones as nodes and links, and their degrees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, new_figure


def draw_mask(axes: Axes, mask: Tensor, title: str) -> None:
    """Draw one mask: a mark is a link from an input (column) to an output (row)."""
    _draw_links(axes, mask, BLUE)
    axes.set_title(title)
    axes.set_xlabel("input neuron")
    axes.set_ylabel("output neuron")


def _draw_links(axes: Axes, mask: Tensor, colour: str) -> None:
    rows, columns = mask.shape
    outputs, inputs = mask.cpu().nonzero().T.numpy()
    # Squares that fill their cell where it is large enough to be seen, dots that stay visible where it is not.
    size = max(170 / max(rows, columns), 1.5)
    axes.plot(inputs, outputs, marker="s", linestyle="", markersize=size, markeredgewidth=0, color=colour)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(True)


def masks(named: Mapping[str, Tensor]) -> Figure:
    """Masks side by side, each below its title."""
    with new_figure(2.9 * len(named), 2.7, columns=len(named)) as (figure, panels):
        for axes, (title, mask) in zip(panels, named.items(), strict=True):
            draw_mask(axes, mask, title)
    return figure


def draw_degrees(axes: Axes, named: Mapping[str, Tensor], side: str) -> None:
    """Histogram of node degrees, one outline per network."""
    highest = max(int(d.max()) for d in named.values())
    bins = [links - 0.5 for links in range(highest + 2)]
    colours, styles = cycle((BLUE, VERMILION, GREEN, ORANGE, PURPLE)), cycle(("-", "--", ":", "-."))
    for (title, degree), colour, style in zip(named.items(), colours, styles, strict=False):
        axes.hist(
            degree.cpu().numpy(), bins=bins, histtype="step", color=colour, linestyle=style, linewidth=1.8, label=title
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(f"links per {side} neuron")
    axes.set_ylabel(f"number of {side} neurons")


def degree_histograms(named: Mapping[str, Tensor]) -> Figure:
    """Degree distributions of several masks: outputs on the left, inputs on the right."""
    with new_figure(8, 3.0, columns=2) as (figure, (left, right)):
        draw_degrees(left, {title: degrees(mask)[0] for title, mask in named.items()}, "output")
        draw_degrees(right, {title: degrees(mask)[1] for title, mask in named.items()}, "input")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(named))
    return figure


def mask_and_degrees(mask: Tensor, title: str) -> Figure:
    """One mask beside the degrees of its outputs and of its inputs."""
    outputs, inputs = degrees(mask)
    with new_figure(8, 2.8, columns=2) as (figure, (left, right)):
        draw_mask(left, mask, title)
        draw_degrees(right, {"outputs": outputs, "inputs": inputs}, "")
        right.set_xlabel("links per neuron")
        right.set_ylabel("number of neurons")
        right.legend()
    return figure


def topology_change(first: Tensor, last: Tensor) -> Figure:
    """A layer before and after training, and which links stayed, went and came."""
    with new_figure(11, 3.6, columns=3) as (figure, (left, middle, right)):
        draw_mask(left, first, f"before: {int(first.sum())} links")
        draw_mask(middle, last, f"after: {int(last.sum())} links")
        draw_mask(right, torch.zeros_like(first), "what changed")
        kinds = (("removed", first & ~last, ORANGE), ("regrown", last & ~first, BLUE), ("kept", first & last, BLACK))
        for name, links, colour in kinds:
            _draw_links(right, links, colour)
            right.plot([], [], marker="s", linestyle="", color=colour, label=f"{name}: {int(links.sum())}")
        figure.legend(loc="outside lower right", ncols=3)
    return figure


@dataclass(frozen=True)
class Links:
    """Some links of a network of one or more layers, drawn alike.

    masks: Boolean (out_features, in_features) by layer, from the inputs on.
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
        axes: to draw on.
        groups: the links, later ones on top; each has a mask for every layer.
        sides: what the nodes of each side are called, one more than there are layers ("inputs", "outputs").
        inactive: for each side the neurons to draw hollow and crossed out, Boolean (features,).
    """
    shapes = [mask.shape for mask in groups[0].masks]
    sizes = [shapes[0][1], *(out_features for out_features, _ in shapes)]

    def height(side: int, node: int) -> float:
        return node - (sizes[side] - 1) / 2  # the sides are centred on one line

    for group in groups:
        for layer, mask in enumerate(group.masks):
            for output, source in mask.nonzero().tolist():
                axes.plot(
                    [layer, layer + 1],
                    [height(layer, source), height(layer + 1, output)],
                    color=group.colour,
                    linestyle=group.style,
                    linewidth=group.width,
                    zorder=1,
                )
        axes.plot([], [], color=group.colour, linestyle=group.style, linewidth=group.width, label=group.label)
    for side, size in enumerate(sizes):
        for node in range(size):
            off = inactive is not None and bool(inactive[side][node])
            place = side, height(side, node)
            axes.plot(*place, marker="o", markersize=17, color="white" if off else SKY, markeredgecolor=BLACK, zorder=2)
            if off:
                axes.plot(*place, marker="x", markersize=14, color=VERMILION, zorder=3)
            axes.annotate(str(node), place, ha="center", va="center", fontsize=9, zorder=4)
    axes.set_xlim(-0.3, len(shapes) + 0.3)
    axes.set_ylim(max(sizes) / 2 + 0.2, -max(sizes) / 2 - 0.2)
    axes.set_xticks(range(len(sizes)), sides)
    axes.set_yticks([])
    axes.set_xlabel("side of the network")
    axes.set_ylabel("neurons, numbered from 0")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
