"""The style of all figures, and the function that shows a figure on a page."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

# Okabe and Ito's palette: readers with the common kinds of colour blindness can tell its colours apart.
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
GREY, BROWN, INDIGO = "#7F7F7F", "#8B5A2B", "#4818D8"  # grey is for the background
PALE = "#C0C0C0"  # curves behind the main curves of a panel
# The colour and the marker that a thing has in every figure. Readers with any kind of colour vision can tell the
# methods apart.
LOOKS = {
    "fc": (BLACK, "s"),
    "set": (ORANGE, "^"),
    "rigl": (GREEN, "v"),
    "mest": (PURPLE, "P"),
    "gmp": (INDIGO, "X"),
    "granet": (BROWN, "<"),
    "cht": (SKY, ">"),
    "chts": (BLUE, "o"),
    "chtss": (VERMILION, "D"),
    # ways to execute
    "dense": (BLACK, "s"),
    "masked": (ORANGE, "^"),
    "csr": (BLUE, "o"),
    "auto": (GREEN, "D"),
    # initial networks
    "Erdős–Rényi": (BLACK, "o"),
    "ER": (BLACK, "o"),
    "BSW": (BLUE, "s"),
    "BSF": (VERMILION, "^"),
    "BRF": (GREEN, "D"),
    "CSTI": (ORANGE, "v"),
    # scores of a removal
    "WM": (VERMILION, "^"),
    "RI": (BLUE, "o"),
    # schedules of the density
    "cubic": (BLUE, "o"),
    "sigmoid": (VERMILION, "^"),
    "sparsity 70 %": (GREEN, "^"),
    "sparsity 80 %": (PURPLE, "P"),
    "sparsity 90 %": (BLUE, "o"),
    "sparsity 95 %": (VERMILION, "D"),
    "sparsity 99 %": (BROWN, "s"),
}
# The look of all other methods, which differs from all looks above.
OTHER_LOOK = "#882255", "*"
# For things that are in only one figure.
_SERIES = ((BLUE, "o"), (VERMILION, "^"), (GREEN, "s"), (ORANGE, "v"), (BLACK, "D"), (PURPLE, "P"), (SKY, "X"))
# What happened to a link.
KEPT, REMOVED, REGROWN = GREY, VERMILION, BLUE
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
# Methods with earlier definitions, which some recorded runs used.
EARLIER_LABELS = {
    "mest/exchange": "MEST, exchange",
    "gmp/no_return": "GMP, no return",
    "cht/by_layer": "CHT, by layer",
    "chts/ri_zeros": "CHTs by RI, links from 0",
    "chtss/ri_zeros": "CHTss by RI, links from 0",
}


def method_label(name: str) -> str:
    """The label of a method on a page. A method that is not one of the paper's nine methods keeps its own name."""
    return METHOD_LABELS.get(name, name)


def method_look(name: str) -> tuple[str, str]:
    """The colour and the marker of a method. All methods other than the paper's nine methods look the same."""
    return LOOKS[name] if name in METHOD_LABELS else OTHER_LOOK


def looks(labels: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line style of each curve of a figure.

    A look is a colour and a marker. `LOOKS` contains the looks of some labels, or of their first words. Every other
    label gets the next free look. A label whose look is already in use also gets the next free look.
    """
    table = LOOKS | {label: LOOKS[name] for name, label in METHOD_LABELS.items()}
    labels = list(labels)
    named = {label: table.get(label, table.get(label.partition(" ")[0])) for label in labels}
    free = cycle([look for look in _SERIES if look not in named.values()] or _SERIES)
    found: dict[str, tuple[str, str, str]] = {}
    taken: set[tuple[str, str]] = set()
    for label, style in zip(labels, cycle(("-", "--", ":", "-."))):
        look = named[label]
        if look is None or look in taken:
            look = next(free)
        taken.add(look)
        found[label] = (*look, style)
    return found


_FLAT = 5  # percentage points
_LINE_OF_TEXT = 0.06  # of the height of a panel
_PRINT = 2  # times the pixels of a screen, for print and for zooming in

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
    """Make an empty figure in the style of this package, with axes; draw on these axes inside a `with` block."""
    # Make the Figure without pyplot, so that it is not shown twice and pyplot does not keep it in memory.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def empty(words: str, xlabel: str, ylabel: str) -> Figure:
    """Make a figure that says why there is nothing to see."""
    with new_figure(6, 2.6) as (figure, (axes,)):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def use_log_scale(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 times each power of ten."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def use_percent_axis(axes: Axes) -> None:
    """Make the y axis reach from 0 to 100 %, and draw the markers at both ends whole.

    Call this function after you have drawn the lines.
    """
    axes.set_ylim(0, 100)
    for line in axes.lines:
        line.set_clip_on(False)


def clip_shares(axes: Axes) -> None:
    """Limit axes with % in their label to values from 0 to 100. Call this function after you have drawn the data."""
    if "%" in axes.get_xlabel():
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 0), min(high, 100))
    if "%" in axes.get_ylabel():
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 100))


def name_ends(axes: Axes) -> None:
    """Write the name of each line beside its end, without overlaps. Set the limits of the axes first."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    axes.get_ylim()  # makes matplotlib compute the limits
    to_fraction = axes.transScale + axes.transLimits
    ends = {line: (float(np.asarray(line.get_xdata())[-1]), float(np.asarray(line.get_ydata())[-1])) for line in lines}
    heights = {line: float(to_fraction.transform(end)[1]) for line, end in ends.items()}
    lines.sort(key=lambda line: heights[line], reverse=True)
    places = [min(heights[lines[0]], 1.0)]
    for line in lines[1:]:
        places.append(min(heights[line], places[-1] - _LINE_OF_TEXT))
    # Move all names up by half the shift of the last name, but keep them beside the axis.
    up = min(max((heights[lines[-1]] - places[-1]) / 2, -places[-1]), 1 - places[0])
    for line, place in zip(lines, places, strict=True):
        axes.annotate(
            str(line.get_label()),
            ends[line],
            (1.06, place + up),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 1, "relpos": (0, 0.5)},
        )


def write_below(axes: Axes, x: float, words: str) -> None:
    """Write words below a drawing, at the horizontal position x."""
    axes.annotate(
        words, (x, 0), (0, -4), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="top"
    )


def is_flat(per_cent: Sequence[float]) -> bool:
    """Whether a curve in per cent changes so little that its first and last values describe it."""
    return len(per_cent) > 1 and max(per_cent) - min(per_cent) < _FLAT


def before_and_after(axes: Axes, title: str, changes: Mapping[str, tuple[str, float, float]]) -> None:
    """Show a table of first and last values instead of curves that hardly change.

    `changes` contains the colour, the first value and the last value of each curve, by name.
    """
    axes.clear()
    axes.set_axis_off()
    axes.text(0.5, 0.95, title, ha="center", va="top", transform=axes.transAxes)
    rows = {"": (BLACK, "first update", "last update")} | {
        name: (colour, f"{first:.0f} %", f"{last:.0f} %") for name, (colour, first, last) in changes.items()
    }
    for row, (name, (colour, *numbers)) in enumerate(rows.items()):
        for x, words in zip((0.05, 0.5, 0.85), (name, *numbers), strict=True):
            axes.text(
                x,
                0.65 - 0.12 * row,
                words,
                color=colour,
                ha="left" if words == name else "center",
                transform=axes.transAxes,
            )


def to_png(figure: Figure, scale: float = 1.0) -> bytes:
    """The figure as a PNG picture; its width in pixels is `scale` times the width on a screen."""
    with mpl.rc_context(_STYLE), io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=scale * figure.dpi)
        return buffer.getvalue()


def show(figure: Figure, description: str) -> None:
    """Show a figure in a notebook, above a description that also helps readers who cannot see the figure."""
    from IPython.display import display

    picture = base64.b64encode(to_png(figure, _PRINT)).decode()
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    display(
        {"image/png": picture, "text/plain": description},
        metadata={"image/png": {"alt": description, "width": width, "height": height}},
        raw=True,
    )
    display({"text/markdown": f"*{description}*", "text/plain": description}, raw=True)
