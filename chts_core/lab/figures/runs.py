"""Figures of training runs: races, and how the topology changed."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.engine.progress import Update
from chts_core.lab.data import ImageData
from chts_core.lab.figures.networks import draw_mask
from chts_core.lab.figures.style import (
    BLACK,
    BLUE,
    GREY,
    KEPT,
    METHOD_LABELS,
    ORANGE,
    REGROWN,
    REMOVED,
    VERMILION,
    clip_shares,
    method_label,
    method_look,
    name_ends,
    new_figure,
    use_log_scale,
    use_percent_axis,
)
from chts_core.lab.results.statistics import mean_and_interval
from chts_core.lab.train import language, translation
from chts_core.lab.train.images import Run

# More methods than this get two panels.
_ONE_PANEL = 4


RunT = TypeVar("RunT", Run, translation.Run, language.Run)
Course = list[tuple[float, float]]


def race(runs: Sequence[Run]) -> Figure:
    """Draw the validation accuracy by epoch: the mean over seeds, with its 95 % confidence interval as a band.

    If a run has no validation accuracy because it learnt from all images, the figure shows the test accuracy of all
    runs, and the axis says so. If there are more than four methods, the figure has two panels: one for methods that
    keep their number of links, and one for methods that lower it. Dense methods are in both panels, for comparison.
    These panels have no bands, because the bands would hide each other; :func:`differences_ranked` shows the intervals.
    """

    validated = all(run.validation_accuracy for run in runs)

    def course(run: Run) -> Course:
        accuracies = run.validation_accuracy if validated else run.test_by_epoch
        return [(epoch, 100 * accuracy) for epoch, accuracy in enumerate(accuracies, start=1)]

    return draw_race(runs, course, "epoch", f"{'validation' if validated else 'test'} accuracy (%)", 100)


def draw_race(
    runs: Sequence[RunT],
    course: Callable[[RunT], Course],
    xlabel: str,
    ylabel: str,
    highest: float,
    margin: float = 3.0,
) -> Figure:
    """Draw a race with any score, in the style of :func:`race`.

    Args:
        runs: the runs of the methods, with any number of seeds for each.
        course: returns the points (x, y) of a run's line; all runs of a method have the same values of x.
        xlabel, ylabel: the labels of the axes.
        highest: the upper end of the y axis.
        margin: the distance from the lower end of the y axis to the lowest line; the axis never goes below 0. The
            default margin is meant for values of y up to 100.
    """
    by_method: dict[str, list[RunT]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    panels = _panels(by_method) if len(by_method) > _ONE_PANEL else {"": list(by_method)}
    width, height = (9.2, 4.4) if len(panels) > 1 else (7, 3.4)
    with new_figure(width, height, columns=len(panels)) as (figure, all_axes):
        for axes, (title, methods) in zip(all_axes, panels.items(), strict=True):
            for method in methods:
                _draw_courses(
                    axes, method, [course(run) for run in by_method[method]], band=len(by_method) <= _ONE_PANEL
                )
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
        # The lines must fit into the picture. Wide bands, in the first epochs or with two seeds, may be cut off.
        lowest = min(float(np.min(line.get_ydata())) for axes in all_axes for line in axes.lines)
        for axes in all_axes:
            axes.set_ylim(max(lowest - margin, 0), highest)
            name_ends(axes)
    return figure


def differences_ranked(rows: Sequence[Mapping[str, Any]], rival: str) -> Figure:
    """Draw each method's test accuracy minus the test accuracy of a rival, with 95 % confidence intervals.

    The best method is on top.

    Args:
        rows: each with "method", "difference" and "interval" (None for a single run); differences and intervals are
            fractions of the test images.
        rival: the name of the rival, for the label of the axis.
    """
    points = [
        {**row} | {name: None if row[name] is None else 100 * row[name] for name in ("difference", "interval")}
        for row in rows
    ]
    return draw_differences(points, f"test accuracy minus {rival} (percentage points)", 1)


def draw_differences(
    rows: Sequence[Mapping[str, Any]], xlabel: str, digits: int, higher_is_better: bool = True
) -> Figure:
    """Draw differences of any score, in the style of :func:`differences_ranked`.

    Args:
        rows: each with "method", and with "difference" and "interval" (None for a single run) in the unit of the axis.
        xlabel: the label of the axis.
        digits: the number of digits after the decimal point.
        higher_is_better: whether the largest difference is on top; otherwise the smallest difference is on top.
    """
    ranked = sorted(rows, key=lambda row: float(row["difference"]), reverse=not higher_is_better)
    with new_figure(7, 0.9 + 0.36 * len(ranked)) as (figure, (axes,)):
        axes.axvline(0, color=GREY, linewidth=1)
        for place, row in enumerate(ranked):
            colour, marker = method_look(row["method"])
            mean, interval = row["difference"], row["interval"] or 0
            axes.errorbar(mean, place, xerr=interval, color=colour, marker=marker, markersize=7, elinewidth=1.6)
            written = f"{mean:+.{digits}f}" + (f" ± {interval:.{digits}f}" if row["interval"] is not None else "")
            axes.annotate(
                written, (1.02, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
            )
        axes.set_yticks(range(len(ranked)), [method_label(row["method"]) for row in ranked])
        axes.set_xlabel(xlabel)
        axes.set_ylabel("method")
    return figure


def learning_curves(courses: Mapping[str, Sequence[Course]], ylabel: str) -> Figure:
    """Draw a validation score by step: the mean over seeds, and a band from the lowest to the highest score.

    A variant of a method ("chts/paper_l3p") has the method's colour and a dashed or dotted line.

    Args:
        courses: for each method and seed, the points (step, score) of a line; all lines have the same steps.
        ylabel: the score and its unit.
    """
    with new_figure(9.2, 4.4) as (figure, (axes,)):
        _draw_learning_curves(axes, courses, ylabel)
    return figure


def two_compared(
    courses: Mapping[str, Sequence[Course]], ylabel: str, differences: Mapping[int, float], xlabel: str, title: str
) -> Figure:
    """Draw the learning curves of two methods, and the difference between their last scores for each seed.

    Args:
        courses, ylabel: as in :func:`learning_curves`.
        differences: the difference between the last scores of the methods, by seed.
        xlabel: the label of the axis of the differences.
        title: the title of the left panel.
    """
    with new_figure(9.2, 4.0, columns=2) as (figure, (left, right)):
        _draw_learning_curves(left, courses, ylabel)
        left.set_title(title)
        mean, interval = mean_and_interval(list(differences.values()))
        right.plot(list(differences.values()), list(differences), "o", color=BLACK)
        right.axvline(0, color=GREY, linewidth=1, linestyle=":")
        right.axvline(mean, color=BLACK)
        if not np.isnan(interval):
            right.axvspan(mean - interval, mean + interval, color=GREY, alpha=0.25, linewidth=0)
        right.set_yticks(list(differences))
        right.margins(0.1)
        right.set_xlabel(xlabel)
        right.set_ylabel("seed")
    return figure


def _draw_learning_curves(axes: Axes, courses: Mapping[str, Sequence[Course]], ylabel: str) -> None:
    broken = cycle(("--", ":", "-."))
    for method, lines in courses.items():
        colour, marker = method_look(method.partition("/")[0])
        steps = [step for step, _ in lines[0]]
        scores = np.array([[score for _, score in line] for line in lines])
        axes.plot(
            steps,
            scores.mean(axis=0),
            color=colour,
            linestyle="-" if method in METHOD_LABELS else next(broken),
            marker=marker,
            markevery=max(len(steps) // 8, 1),
            markersize=5,
            label=method_label(method),
        )
        axes.fill_between(steps, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    clip_shares(axes)
    name_ends(axes)


def _panels(by_method: Mapping[str, Sequence[RunT]]) -> dict[str, list[str]]:
    """Group methods by whether they keep or lower their number of links. Dense methods are in both groups."""
    links = {
        method: [sum(int(mask.sum()) for mask in masks.values()) for masks in (run.first_masks, run.last_masks)]
        for method, (run, *_) in by_method.items()
    }
    panels = {
        "constant number of links": [method for method, (first, last) in links.items() if first == last],
        "falling number of links": [
            method for method, (first, last) in links.items() if first > last or by_method[method][0].density == 1
        ],
    }
    return {title: methods for title, methods in panels.items() if methods}


def _draw_courses(axes: Axes, method: str, courses: Sequence[Course], band: bool) -> None:
    places = [x for x, _ in courses[0]]
    points = [mean_and_interval([y for _, y in at_one]) for at_one in zip(*courses, strict=True)]
    mean, interval = np.array(points).T
    colour, marker = method_look(method)
    axes.plot(
        places,
        mean,
        color=colour,
        marker=marker,
        linestyle="-" if method in METHOD_LABELS else "--",
        markevery=max(len(mean) // 8, 1),
        markersize=5,
        label=method_label(method),
        clip_on=False,  # the axis ends at 100 %, and a marker there is drawn whole
    )
    if band:
        axes.fill_between(
            places, *np.clip((mean - interval, mean + interval), 0, 100), color=colour, alpha=0.15, linewidth=0
        )


def images(data: ImageData, count: int = 10) -> Figure:
    """Draw the first images of the training set, each below the number of its class."""
    with new_figure(0.8 * count, 1.2, columns=count) as (figure, panels):
        some = next(data.train.chunks(count))
        for axes, image, label in zip(panels, some.images, some.labels, strict=False):
            pixels = image.view(data.image_shape).cpu().numpy()
            if pixels.ndim == 3:  # matplotlib wants colours last
                pixels = np.moveaxis(pixels, 0, -1)
            axes.imshow(pixels, cmap="gray_r")
            axes.set_title(str(int(label)))
            axes.set_axis_off()
    return figure


def overlap_and_itop(runs: Sequence[Run]) -> Figure:
    """Draw the ELM overlap (left) and the ITOP rate (right) by update, averaged over layers and seeds."""
    import pandas as pd

    with new_figure(8.5, 3.2, columns=2) as (figure, (left, right)):
        rows = [{"method": run.method, **row} for run in runs for row in run.history]
        for method, table in pd.DataFrame(rows).groupby("method", sort=False):
            means = table.groupby("step")[["overlap", "itop"]].mean()
            name = str(method)
            colour, marker = method_look(name)
            for axes, column in ((left, "overlap"), (right, "itop")):
                axes.plot(
                    means.index,
                    means[column] * 100,
                    color=colour,
                    marker=marker,
                    markevery=max(len(means) // 8, 1),
                    markersize=5,
                    label=method_label(name),
                )
        left.set_ylabel("regrown links that were\njust removed (%)")
        right.set_ylabel("links ever active (%)")
        use_percent_axis(left)
        use_log_scale(right, "y")
        clip_shares(right)
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.set_xlabel("training step")
            name_ends(axes)
    return figure


# How the links of an update are marked. Links of a later entry are drawn on top.
_LINK_STYLES = {
    "kept": (KEPT, "s"),
    "active": (BLUE, "s"),
    "gone": (ORANGE, "x"),
    "removed": (REMOVED, "x"),
    "new": (REGROWN, "o"),
}


def topology_update(links: Mapping[str, Tensor], updates: Sequence[Update], title: str, last_step: int) -> Figure:
    """Draw which links of a layer an update kept, removed or added, beside the layer's overlap and ITOP rate so far.

    Args:
        links: a Boolean mask for one or more of the keys "kept", "removed", "new", "active" and "gone". All masks have
            the same shape.
        updates: the updates of this layer so far, with the current one last; empty before the first update.
        title: the title of the left panel.
        last_step: the last step of the run; the axis of the steps ends there.
    """
    with new_figure(8.6, 3.5, columns=2) as (figure, (left, right)):
        draw_mask(left, torch.zeros_like(next(iter(links.values()))), title)
        for name, (colour, marker) in _LINK_STYLES.items():
            if name in links:
                outputs, inputs = links[name].nonzero().T.numpy()
                size = max(200 / max(links[name].shape), 3)
                label = f"{name}: {len(outputs)}"
                left.plot(inputs, outputs, color=colour, marker=marker, linestyle="", markersize=size, label=label)
        figure.legend(loc="outside lower left", ncols=len(links), handletextpad=0, columnspacing=1.2, markerscale=1.5)

        steps = [row["step"] for row in updates]
        curves = {
            "overlap": ([row["overlap"] for row in updates], VERMILION, "o"),
            "ITOP": ([row["itop"] for row in updates], BLUE, "s"),
        }
        for name, (values, colour, marker) in curves.items():
            percent = [100 * value for value in values]
            right.plot(steps, percent, color=colour, marker=marker, markersize=4, label=name)
            right.plot(steps[-1:], percent[-1:], color=colour, marker=marker, markersize=11, fillstyle="none")
        if steps:
            right.axvline(steps[-1], color=GREY, linestyle=":")
        right.set_xlim(0, last_step)
        use_percent_axis(right)
        right.set_xlabel("training step")
        right.set_ylabel("share (%)")
        right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure
