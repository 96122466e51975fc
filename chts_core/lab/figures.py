"""Figures in one style: colour-blind safe, labelled axes, readable in print."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab.data import ImageData
from chts_core.lab.training import Run, mean_and_interval

# Okabe and Ito's palette, which stays distinct under the common kinds of colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY, BROWN = "#7F7F7F", "#8B5A2B"  # for lines, where yellow is too faint
METHOD_COLOURS = {
    "fc": BLACK,
    "set": ORANGE,
    "rigl": GREEN,
    "mest": PURPLE,
    "gmp": GREY,
    "granet": BROWN,
    "cht": SKY,
    "chts": BLUE,
    "chtss": VERMILION,
}
METHOD_MARKERS = {
    "fc": "s",
    "set": "^",
    "rigl": "v",
    "mest": "P",
    "gmp": "X",
    "granet": "<",
    "cht": ">",
    "chts": "o",
    "chtss": "D",
}
METHOD_LABELS = {
    "fc": "FC",
    "set": "SET",
    "rigl": "RigL",
    "mest": "MEST",
    "gmp": "GMP",
    "granet": "GraNet",
    "cht": "CHT",
    "chts": "CHTs",
    "chtss": "CHTss",
}

_STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@contextmanager
def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure of the house style and its axes, for as long as it is drawn on."""
    # Figure objects of our own, outside pyplot, are never shown twice nor kept in memory.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG picture."""
    with mpl.rc_context(_STYLE), io.BytesIO() as buffer:
        figure.savefig(buffer, format="png")
        return buffer.getvalue()


def show(figure: Figure, description: str) -> None:
    """Show a figure in a notebook, with a description below it that also serves who cannot see it."""
    from IPython.display import display

    picture = base64.b64encode(to_png(figure)).decode()
    display(
        {"image/png": picture, "text/plain": description},
        metadata={"image/png": {"alt": description}},
        raw=True,
    )
    display({"text/markdown": f"*{description}*", "text/plain": description}, raw=True)


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


def race(runs: Sequence[Run]) -> Figure:
    """Validation accuracy by epoch: the mean over seeds, with its 95 % confidence interval as a band."""
    with new_figure(7, 3.6) as (figure, (axes,)):
        for method, curves in _by_method(runs).items():
            points = [mean_and_interval(values) for values in zip(*curves, strict=True)]
            mean, interval = np.array(points).T * 100
            epochs = np.arange(1, len(mean) + 1)
            colour = METHOD_COLOURS.get(method, GREEN)
            axes.plot(
                epochs,
                mean,
                color=colour,
                marker=METHOD_MARKERS.get(method, "v"),
                markevery=max(len(mean) // 8, 1),
                markersize=5,
                label=METHOD_LABELS.get(method, method),
            )
            axes.fill_between(
                epochs, *np.clip((mean - interval, mean + interval), 0, 100), color=colour, alpha=0.15, linewidth=0
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy (%)")
        axes.legend(loc="lower right")
    return figure


def _by_method(runs: Sequence[Run]) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {}
    for run in runs:
        curves.setdefault(run.method, []).append(run.validation_accuracy)
    return curves


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


def images(data: ImageData, count: int = 10) -> Figure:
    """The first images of the training set, each below its class."""
    with new_figure(0.8 * count, 1.2, columns=count) as (figure, panels):
        for axes, image, label in zip(panels, data.train.images, data.train.labels, strict=False):
            axes.imshow(image.view(data.image_shape).cpu().numpy(), cmap="gray_r")
            axes.set_title(str(int(label)))
            axes.set_axis_off()
    return figure


def overlap_and_itop(runs: Sequence[Run]) -> Figure:
    """ELM overlap (left) and ITOP rate (right) over the updates, averaged over layers and seeds."""
    import pandas as pd

    with new_figure(8.5, 3.2, columns=2) as (figure, (left, right)):
        rows = [{"method": run.method, **row} for run in runs for row in run.history]
        for method, table in pd.DataFrame(rows).groupby("method", sort=False):
            means = table.groupby("step")[["overlap", "itop"]].mean()
            name = str(method)
            for axes, column in ((left, "overlap"), (right, "itop")):
                axes.plot(
                    means.index,
                    means[column] * 100,
                    color=METHOD_COLOURS.get(name, GREEN),
                    marker=METHOD_MARKERS.get(name, "v"),
                    markevery=max(len(means) // 8, 1),
                    markersize=5,
                    label=METHOD_LABELS.get(name, name),
                )
        left.set_ylabel("regrown links that were\njust removed (%)")
        right.set_ylabel("links ever active (%)")
        left.set_ylim(0, 105)
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter(ScalarFormatter())
        right.yaxis.set_minor_locator(NullLocator())
        for axes in (left, right):
            axes.set_xlabel("training step")
            axes.legend()
    return figure
