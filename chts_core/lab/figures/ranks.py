"""A figure of ranks that train one model together."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from chts_core.lab.figures.style import BLACK, BLUE, GREEN, GREY, new_figure

_LEFT, _MIDDLE, _RIGHT = 2.0, 6.0, 10.0  # where the columns are
_ROWS = (5.1, 3.6, 2.1, 0.6)  # from the batch down to the mask


@dataclass(frozen=True)
class RankStep:
    """The data of one rank in one step.

    examples: the examples in this rank's part of the batch, in words.
    gradient: the gradient from only these examples, one number for each link.
    fingerprint: the hash of this rank's masks after the step.
    """

    examples: str
    gradient: Sequence[float]
    fingerprint: str


def ranks(left: RankStep, right: RankStep, mean: Sequence[float]) -> Figure:
    """Draw two ranks in one step: their parts of the batch, their gradients, the mean, and the hashes of their masks.

    Args:
        left, right: rank 0 and rank 1.
        mean: the mean of the two gradients, which both ranks get.
    """
    with new_figure(7.4, 4.2) as (figure, (axes,)):
        columns = []
        for number, (x, rank) in enumerate(((_LEFT, left), (_RIGHT, right))):
            words = (
                f"rank {number}: its half of the batch\n{rank.examples}",
                f"its own gradient\n{_in_words(rank.gradient)}",
                f"gets the mean\n{_in_words(mean)}",
                f"the hash of its mask\n{rank.fingerprint}",
            )
            columns.append([_box(axes, x, y, text, BLUE) for y, text in zip(_ROWS, words, strict=True)])
        reduce = _box(axes, _MIDDLE, 2.85, f"all-reduce: the mean\n{_in_words(mean)}", GREEN)
        same = left.fingerprint == right.fingerprint
        effect = "equal: the run continues" if same else "not equal: the run stops"
        verdict = _box(axes, _MIDDLE, _ROWS[3], effect, GREY)
        for batch, gradient, mean_again, fingerprint in columns:
            for start, end in ((batch, gradient), (gradient, reduce), (reduce, mean_again), (mean_again, fingerprint)):
                _join(axes, start, end, "->", "-")
            _join(axes, fingerprint, verdict, "-", ":")
        axes.set_xlim(0, 12)
        axes.set_ylim(0, 5.7)
        axes.set_axis_off()
    return figure


def _in_words(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> Text:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
    return axes.text(x, y, text, ha="center", va="center", color=BLACK, bbox=box)


def _join(axes: Axes, start: Text, end: Text, arrow: str, line: str) -> None:
    """Draw an arrow or a line from the border of one box to the border of another."""
    patches = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(), "shrinkA": 3, "shrinkB": 3}
    look = {"arrowstyle": arrow, "linestyle": line, "color": GREY, "linewidth": 1.5}
    axes.annotate("", end.get_position(), start.get_position(), arrowprops=look | patches)
