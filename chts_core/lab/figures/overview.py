"""Figures for the first notebook: a dense run beside a sparse run, and the order of the stages."""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from chts_core.lab.figures.networks import draw_mask
from chts_core.lab.figures.style import GREY, SKY, clip_shares, method_label, method_look, new_figure
from chts_core.lab.notebook.notebooks import Stage
from chts_core.lab.train.images import Run


def dense_and_sparse(dense: Run, sparse: Run) -> Figure:
    """Draw two runs' validation accuracy by epoch (left), and the sparse run's first layer after training (right)."""
    layer, mask = next(iter(sparse.last_masks.items()))
    with new_figure(9, 3.2, columns=2) as (figure, (left, right)):
        for run in (dense, sparse):
            colour, marker = method_look(run.method)
            left.plot(
                range(1, len(run.validation_accuracy) + 1),
                [100 * accuracy for accuracy in run.validation_accuracy],
                color=colour,
                marker=marker,
                markersize=5,
                label=f"{method_label(run.method)}, {run.density:.0%} of the links",
            )
        left.set_xlabel("epoch")
        left.set_ylabel("validation accuracy (%)")
        clip_shares(left)
        left.legend(loc="lower right")
        draw_mask(right, mask, f"layer {layer} of {method_label(sparse.method)} after training")
    return figure


def stages(overview: Sequence[Stage]) -> Figure:
    """Draw the stages from left to right, with an arrow from each stage to the stages that build on it.

    The figure leaves out the arrow from a prerequisite if this prerequisite is not in `overview`, or if another
    prerequisite of the same stage already builds on it.
    """
    known = {stage.number: stage for stage in overview}
    needs: dict[str, set[str]] = {}  # all stages that a stage builds on, directly or indirectly
    before: dict[str, list[str]] = {}  # without prerequisites on which another prerequisite of the stage builds
    depth: dict[str, int] = {}
    for number, stage in known.items():  # in order: the prerequisites of a stage come before it
        direct = {other for other in stage.prerequisites if other in depth}
        needs[number] = direct.union(*(needs[other] for other in direct))
        before[number] = sorted(direct.difference(*(needs[other] for other in direct)))
        depth[number] = 1 + max((depth[other] for other in direct), default=-1)

    columns: dict[int, list[str]] = {}
    for number, column in depth.items():
        columns.setdefault(column, []).append(number)
    place: dict[str, tuple[float, float]] = {}
    for column in sorted(columns):  # at the height of its prerequisites, so that no arrow crosses a stage
        heights = [place[other][1] for number in columns[column] for other in before[number]]
        middle = sum(heights) / max(len(heights), 1) + (len(columns[column]) - 1) / 2
        place |= {number: (column, middle - row) for row, number in enumerate(columns[column])}
    lowest, highest = (choose(y for _, y in place.values()) for choose in (min, max))
    with new_figure(max(1.6 * len(columns), 4), 1.5 + 1.1 * (highest - lowest)) as (figure, (axes,)):
        boxes = {}
        for number, (x, y) in place.items():
            text = f"{number}\n{textwrap.fill(known[number].title, 13)}"
            look = {"boxstyle": "round", "facecolor": "white", "edgecolor": SKY, "linewidth": 1.5}
            boxes[number] = axes.text(x, y, text, ha="center", va="center", fontsize=12, bbox=look).get_bbox_patch()
        for number, others in before.items():
            for other in others:
                ends = {"patchA": boxes[other], "patchB": boxes[number], "shrinkA": 3, "shrinkB": 3}
                look = {"arrowstyle": "->", "color": GREY, "linewidth": 1.5, **ends}
                axes.annotate("", place[number], place[other], arrowprops=look)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(lowest - 0.6, highest + 0.6)
        axes.set_axis_off()
    return figure
