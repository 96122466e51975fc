"""Figures of a translator: its attention weights, the links of its attention, its training, and its scores."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab.figures.networks import draw_mask
from chts_core.lab.figures.runs import Course, draw_race
from chts_core.lab.figures.style import (
    BLACK,
    BLUE,
    GREY,
    METHOD_LABELS,
    ORANGE,
    VERMILION,
    clip_shares,
    looks,
    method_label,
    new_figure,
)
from chts_core.lab.train.translation import Recipe, Run, learning_rate_at

_WIDEST = 9.2  # inches that a page has room for
_MOST_IN_A_ROW = 4
_MANY_PIECES = 16  # with more pieces, only half as many panels fit side by side


def attention_map(weights: Tensor, source: Sequence[str], target: Sequence[str], title: str = "") -> Figure:
    """Draw how much each piece of the target attends to each piece of the source, with one panel for each head.

    Args:
        weights: attention weights in [0, 1], (queries, keys) or (heads, queries, keys).
        source: the pieces that are attended to, one for each key.
        target: the pieces that attend, one for each query.
        title: the title above all panels.
    """
    heads = weights.cpu() if weights.ndim == 3 else weights.cpu()[None]
    columns = min(len(heads), _MOST_IN_A_ROW if len(source) <= _MANY_PIECES else _MOST_IN_A_ROW // 2)
    rows = math.ceil(len(heads) / columns)
    # The size of a cell in inches, a font size that fits the cell, and the length of the longest piece in inches.
    cell = min((_WIDEST - 1.9) / columns / max(len(source), 4), 0.3)
    fontsize = min(max(52 * cell, 4.5), 10)
    label = 0.011 * fontsize * max(map(len, (*source, *target)))
    width = min(max(columns * (max(len(source), 4) * cell + 0.3) + label + 1.3, 0.085 * len(title)), _WIDEST)
    height = rows * (max(len(target), 4) * cell + 0.55) + label + (0.6 if title else 0.3)
    with new_figure(width, height, rows, columns) as (figure, panels):
        for number, (axes, weight) in enumerate(zip(panels, heads, strict=False)):
            picture = axes.imshow(weight.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            # Pieces are plain text, so a dollar sign does not begin a formula.
            look: dict[str, Any] = {"fontsize": fontsize, "parse_math": False}
            axes.set_xticks(range(len(source)), source, rotation=90, **look)
            axes.set_yticks(range(len(target)), target, **look)
            axes.tick_params(labelleft=number % columns == 0, labelbottom=number + columns >= len(heads))
            axes.spines[["top", "right"]].set_visible(True)
            if weights.ndim == 3:
                axes.set_title(f"head {number}")
            axes.set_xlabel("piece attended to")
            axes.set_ylabel("piece that attends")
            axes.yaxis.label.set_visible(number % columns == 0)
            axes.xaxis.label.set_visible(number + columns >= len(heads))
        for axes in panels[len(heads) :]:
            axes.remove()
        # A longer colour bar must not be wider.
        figure.colorbar(picture, ax=panels[: len(heads)], label="attention weight", aspect=6 * height)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def attention_head(query: Tensor, key: Tensor, heads: int, head: int) -> Figure:
    """Draw the rows of one head in the masks of queries and keys, and the number of links of each row.

    Attention multiplies row i of the queries only by row i of the keys. If one of the two rows has no links, the links
    of the other row are useless. The figure marks such pairs of rows.

    Args:
        query, key: the masks of the two projections, each Boolean (out_features, in_features).
        heads: the number of heads; each head has the same number of rows.
        head: the index of the head to show, from 0.
    """
    parts = [mask.view(heads, -1, mask.shape[1])[head] for mask in (query, key)]
    with new_figure(_WIDEST, 3.4, columns=3) as (figure, (left, middle, right)):
        for axes, part, name in ((left, parts[0], "queries"), (middle, parts[1], "keys")):
            draw_mask(axes, part, f"{name} of head {head}: {int(part.sum())} links")
            axes.set_ylabel("row of the head")
        by_row = [degrees(part)[0].cpu() for part in parts]
        numbers = list(range(len(by_row[0])))
        for links, name, colour, marker in zip(by_row, ("queries", "keys"), (BLUE, ORANGE), ("o", "^"), strict=True):
            right.plot(links, numbers, color=colour, marker=marker, markersize=5, linestyle="", label=name)
        for row in ((by_row[0] == 0) != (by_row[1] == 0)).nonzero().flatten().tolist():
            right.axhspan(row - 0.5, row + 0.5, color=VERMILION, alpha=0.25, linewidth=0)
        right.plot([], [], marker="s", color=VERMILION, alpha=0.4, linestyle="", label="links on only one side")
        right.set_ylim(left.get_ylim())
        right.set_xlim(left=-0.5)
        right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        right.set_xlabel("links of the row")
        right.set_ylabel("row of the head")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


def learning_rates(recipe: Recipe, width: int, update_steps: Sequence[int]) -> Figure:
    """Draw the learning rate by step, with and without a warm-up after each update of the topology.

    Args:
        recipe: contains the number of steps and the schedule.
        width: the width of the model.
        update_steps: the steps after which there is an update, in ascending order.
    """
    steps = range(1, recipe.steps + 1)
    # An update after step 100 first affects step 101.
    counts = [bisect_left(update_steps, step) for step in steps]
    latest = [update_steps[count - 1] if count else None for count in counts]
    with new_figure(7, 3.2) as (figure, (axes,)):
        rates = [learning_rate_at(step, width, recipe, last) for step, last in zip(steps, latest, strict=True)]
        axes.plot(steps, rates, color=BLUE, linewidth=1.3, label="with a warm-up after each update")
        plain = [learning_rate_at(step, width, recipe) for step in steps]
        axes.plot(steps, plain, color=ORANGE, linestyle="--", label="without")
        axes.axvline(recipe.warmup, color=GREY, linestyle=":", label=f"end of the first warm-up: step {recipe.warmup}")
        axes.set_xlim(0, recipe.steps)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("training step")
        axes.set_ylabel("learning rate")
        figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def length_buckets(lengths: Tensor, named: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Draw the tokens and the padding of each batch, with a panel for each way to make batches.

    The y axes of all panels have the same scale.

    Args:
        lengths: the number of tokens of each pair, int (pairs,), as in `EncodedPairs.lengths`.
        named: for each way to make batches, the batches; a batch contains the indices of its pairs, int (n,). All pairs
            of a batch are padded to the length of the longest pair in it.
    """
    with new_figure(_WIDEST, 3.4, columns=len(named)) as (figure, panels):
        highest = 0
        for axes, (name, batches) in zip(panels, named.items(), strict=True):
            tokens = [int(lengths[batch].sum()) for batch in batches]
            places = [len(batch) * int(lengths[batch].max()) for batch in batches]
            numbers = range(1, len(batches) + 1)
            padding = [place - count for place, count in zip(places, tokens, strict=True)]
            axes.bar(numbers, tokens, width=1, color=BLUE, label="tokens")
            axes.bar(numbers, padding, width=1, bottom=tokens, color=ORANGE, label="padding")
            axes.set_title(f"{name}: {sum(padding) / sum(places):.1%} padding")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("batch")
            axes.set_ylabel("places in the batch")
            highest = max(highest, *places)
        for axes in panels:
            axes.set_ylim(0, 1.05 * highest)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def translation_race(runs: Sequence[Run]) -> Figure:
    """Draw the BLEU of greedy translations of the validation pairs by training step, in the style of :func:`race`."""

    def course(run: Run) -> Course:
        return [(look.step, look.bleu) for look in run.looks]

    highest = min(100, 4 + max(look.bleu for run in runs for look in run.looks))
    return draw_race(runs, course, "training step", "BLEU on the validation pairs", highest)


def scores_by_method(
    rows: Sequence[Mapping[str, Any]],
    paper: Mapping[str, Mapping[float, tuple[float, float | None]]] | None = None,
    xlabel: str = "BLEU on the test pairs",
) -> Figure:
    """Draw the score of each method at each sparsity, with FC as a line, and the paper's results if they are given.

    Args:
        rows: each with "method", "sparsity" (not used for "fc"), "mean" and "interval" (the half-width of the mean's
            95 % confidence interval, or None).
        paper: for each method and sparsity, the mean and the number after the paper's ± (None if there is none), as in
            one data set of `PAPER_TABLE_1`.
        xlabel: the label of the scores.
    """
    panels = {"measured here (bars: 95 % intervals)": rows}
    if paper is not None:
        panels["the paper (bars: its ±)"] = [
            {"method": method, "sparsity": sparsity, "mean": mean, "interval": error}
            for method, values in paper.items()
            for sparsity, (mean, error) in values.items()
        ]
    shown = {row["method"] for panel in panels.values() for row in panel} - {"fc"}
    methods = sorted(shown, key=lambda name: ([*METHOD_LABELS, name].index(name), name))
    sparsities = sorted({row["sparsity"] for panel in panels.values() for row in panel if row["method"] != "fc"})
    with new_figure(_WIDEST if paper is not None else 6.2, 1.5 + 0.36 * len(methods), columns=len(panels)) as (
        figure,
        all_axes,
    ):
        for axes, (title, panel) in zip(all_axes, panels.items(), strict=True):
            _draw_scores(axes, panel, methods, sparsities)
            axes.set_title(title)
            axes.set_yticks(range(len(methods)), [method_label(name) for name in methods])
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlabel(xlabel)
            axes.set_ylabel("method")
            clip_shares(axes)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _draw_scores(
    axes: Axes, rows: Sequence[Mapping[str, Any]], methods: Sequence[str], sparsities: Sequence[float]
) -> None:
    for row in rows:
        if row["method"] == "fc":
            axes.axvline(row["mean"], color=BLACK, linestyle="--", linewidth=1.2, label=method_label("fc"))
            if row["interval"] is not None:
                low, high = row["mean"] - row["interval"], row["mean"] + row["interval"]
                axes.axvspan(low, high, color=BLACK, alpha=0.1, linewidth=0)
    gap = 0.5 / len(sparsities)
    labels = looks(f"sparsity {100 * sparsity:g} %" for sparsity in sparsities)
    for number, (sparsity, (label, (colour, marker, _))) in enumerate(zip(sparsities, labels.items(), strict=True)):
        mine = [row for row in rows if row["method"] != "fc" and row["sparsity"] == sparsity]
        axes.errorbar(
            [row["mean"] for row in mine],
            [methods.index(row["method"]) + (number - (len(sparsities) - 1) / 2) * gap for row in mine],
            xerr=[row["interval"] or 0 for row in mine],
            color=colour,
            marker=marker,
            markersize=6,
            linestyle="",
            elinewidth=1.4,
            label=label,
        )
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
