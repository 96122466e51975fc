from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from chts_core.lab import figures
from chts_core.lab.figures.style import METHOD_LABELS
from chts_core.lab.train.images import Run

FALLING = ("mest", "gmp", "granet", "chtss")


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(method: str, *validation: float) -> Run:
        full, sparse = torch.ones(2, 4), torch.eye(2, 4)
        half = sparse + sparse.flip(1)
        first = full if method == "fc" else half if method in FALLING else sparse
        last = full if method == "fc" else sparse
        return Run(
            method=method,
            seed=0,
            sparsity=0.75,
            validation_accuracy=list(validation),
            test_by_epoch=list(validation),
            density=float(last.mean()),
            active_neurons=1.0,
            itop=1.0,
            train_loss=[],
            skipped_steps=[],
            seconds=0.0,
            total_seconds=0.0,
            peak_memory_mb=None,
            history=[],
            first_masks={"0.weight": first.bool()},
            last_masks={"0.weight": last.bool()},
            snapshots=[],
        )

    return make


def labels(axes: Axes) -> list[Any]:
    return sorted(axes.texts, key=lambda text: float(text.xyann[1]), reverse=True)  # type: ignore[attr-defined]


def test_runs_without_validation_are_raced_by_test_accuracy(make_run: Callable[..., Run]) -> None:
    runs = [make_run("set", 0.5, 0.9), make_run("chts", 0.6, 0.8)]
    runs[1] = replace(runs[1], validation_accuracy=[], test_by_epoch=[0.25, 0.75])
    for chosen, label in ((runs[:1], "validation accuracy (%)"), (runs, "test accuracy (%)")):
        (axes,) = figures.race(chosen).axes
        assert axes.get_ylabel() == label
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {"SET": [50, 90], "CHTs": [25, 75]}


def test_nine_methods_are_raced_in_two_panels_with_fc_in_both(make_run: Callable[..., Run]) -> None:
    figure = figures.race([make_run(method, 0.5, 0.9) for method in METHOD_LABELS])
    constant, falling = figure.axes
    names = [{line.get_label() for line in axes.lines} for axes in (constant, falling)]
    assert names == [{"FC", "SET", "RigL", "CHT", "CHTs"}, {"FC", "MEST", "GMP", "GraNet", "CHTss"}]
    assert constant.get_ylim() == falling.get_ylim()  # they can be compared
    for axes in figure.axes:
        assert len({line.get_marker() for line in axes.lines}) == len(axes.lines)
        assert not axes.collections  # bands of five methods would hide each other


def test_methods_of_one_kind_need_one_panel(make_run: Callable[..., Run]) -> None:
    figure = figures.race([make_run(method, 0.5, 0.9) for method in ("set", "rigl", "cht", "chts", "other")])
    assert [axes.get_title() for axes in figure.axes] == ["constant number of links"]


@pytest.mark.parametrize("ends", [(0.9, 0.9, 0.9), (0.2, 0.5, 0.9), (0.99, 0.98, 0.2), (0.2, 0.21, 0.99)])
def test_each_line_is_named_at_its_end_and_no_names_overlap(
    make_run: Callable[..., Run], ends: tuple[float, ...]
) -> None:
    methods = ("set", "chts", "chtss")
    figure = figures.race([make_run(method, 0.1, end) for method, end in zip(methods, ends, strict=True)])
    (axes,) = figure.axes
    named = labels(axes)
    by_height = sorted(zip(ends, methods, strict=True), key=lambda pair: -pair[0])
    assert [text.get_text() for text in named] == [METHOD_LABELS[method] for _, method in by_height]
    for text, (end, _) in zip(named, by_height, strict=True):
        assert text.xy == (2, pytest.approx(100 * end))
    figures.to_png(figure)  # places them
    boxes = [text.get_window_extent() for text in named]
    for upper, lower in pairwise(text.xyann[1] for text in named):
        assert upper - lower > 0.05
    assert all(upper.y0 >= lower.y0 for upper, lower in pairwise(boxes))
    assert max(float(text.xyann[1]) for text in named) <= 1.0001


def test_no_line_leaves_the_picture_though_a_band_may(make_run: Callable[..., Run]) -> None:
    figure = figures.race([make_run("set", 0.8, 0.9), make_run("set", 0.4, 0.9)])
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low == pytest.approx(57)  # the mean of the first epoch is 60 %
    for line in axes.lines:
        heights = np.asarray(line.get_ydata())
        assert low < heights.min() <= heights.max() < high
