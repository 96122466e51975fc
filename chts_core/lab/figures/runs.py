"""Runs of training: races, and how the topology moved."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from chts_core.lab.data import ImageData
from chts_core.lab.figures.style import GREEN, METHOD_COLOURS, METHOD_LABELS, METHOD_MARKERS, new_figure
from chts_core.lab.training import Run, mean_and_interval


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
