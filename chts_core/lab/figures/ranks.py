"""Ranks that train one model together: a drawing of one step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chts_core.lab.figures.style import BLACK, BLUE, GREEN, GREY, new_figure

_HALF_WIDTH, _HALF_HEIGHT = 1.6, 0.45  # of a box, in units of the drawing
_LEFT, _MIDDLE, _RIGHT = 2.0, 6.0, 10.0  # where the columns are
_ROWS = (5.1, 3.6, 2.1, 0.6)  # from the batch down to the mask


@dataclass(frozen=True)
class RankStep:
    """What one rank has in a step.

    examples: of its part of the batch, in words.
    gradient: from these examples alone, one number for each link.
    fingerprint: hash of its masks after the step.
    """

    examples: str
    gradient: Sequence[float]
    fingerprint: str


def ranks(left: RankStep, right: RankStep, mean: Sequence[float]) -> Figure:
    """Two ranks in one step: a part of the batch each, their own gradients, the mean, and hashes of their masks.

    Args:
        left, right: rank 0 and rank 1.
        mean: of the two gradients, which both ranks get.
    """
    with new_figure(7.4, 4.2) as (figure, (axes,)):
        for number, (x, rank) in enumerate(((_LEFT, left), (_RIGHT, right))):
            words = (
                f"rank {number}: its half of the batch\n{rank.examples}",
                f"its own gradient\n{_in_words(rank.gradient)}",
                f"gets the mean\n{_in_words(mean)}",
                f"the hash of its mask\n{rank.fingerprint}",
            )
            for y, text in zip(_ROWS, words, strict=True):
                _box(axes, x, y, text, BLUE)
            for above, below in pairwise(_ROWS):
                if above != _ROWS[1]:  # between the two comes the all-reduce
                    _arrow(axes, (x, above - _HALF_HEIGHT), (x, below + _HALF_HEIGHT))
            inward = 1 if x < _MIDDLE else -1
            inner, edge = x + inward * _HALF_WIDTH, _MIDDLE - inward * _HALF_WIDTH
            _arrow(axes, (inner, _ROWS[1]), (edge, 3.1))
            _arrow(axes, (edge, 2.6), (inner, _ROWS[2]))
        _box(axes, _MIDDLE, 2.85, f"all-reduce: the mean\n{_in_words(mean)}", GREEN)
        axes.plot((_LEFT + _HALF_WIDTH, _RIGHT - _HALF_WIDTH), (_ROWS[3],) * 2, color=GREY, linestyle=":")
        same = left.fingerprint == right.fingerprint
        _box(axes, _MIDDLE, _ROWS[3], "equal: the run goes on" if same else "not equal: the run stops", GREY)
        axes.set_xlim(0, 12)
        axes.set_ylim(0, 5.7)
        axes.set_axis_off()
    return figure


def _in_words(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
    axes.text(x, y, text, ha="center", va="center", color=BLACK, bbox=box)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 1.5})
