"""The one style of all figures, and how they reach a page."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

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
# Of methods of one's own, unlike all of those above.
OTHER_COLOUR, OTHER_MARKER = "#882255", "*"
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
# By earlier definitions, as recorded runs have them.
EARLIER_LABELS = {
    "mest/exchange": "MEST, exchange",
    "gmp/no_return": "GMP, no return",
    "cht/by_layer": "CHT, by layer",
    "chts/ri_zeros": "CHTs, RI, zeros",
    "chtss/ri_zeros": "CHTss, RI, zeros",
}


def method_label(name: str) -> str:
    """What a method is called on a page: its name, where it is none of the nine."""
    return METHOD_LABELS.get(name, name)


def method_look(name: str) -> tuple[str, str]:
    """The colour and the marker of a method; those of methods of one's own are alike."""
    return METHOD_COLOURS.get(name, OTHER_COLOUR), METHOD_MARKERS.get(name, OTHER_MARKER)


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
    """An empty figure of the house style and its axes, for as long as it is drawn on."""
    # Figure objects of our own, outside pyplot, are never shown twice nor kept in memory.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def empty(words: str, xlabel: str, ylabel: str) -> Figure:
    """A figure that says why there is nothing to see."""
    with new_figure(6, 2.6) as (figure, (axes,)):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def use_log_scale(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 of each power of ten."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def use_percent_axis(axes: Axes) -> None:
    """Let the y axis of shares go from 0 to 100 %; markers at its ends are drawn whole.

    Call it after the lines are drawn.
    """
    axes.set_ylim(0, 100)
    for line in axes.lines:
        line.set_clip_on(False)


def to_png(figure: Figure, scale: float = 1.0) -> bytes:
    """The figure as a PNG picture, `scale` times as many pixels as it has on a screen."""
    with mpl.rc_context(_STYLE), io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=scale * figure.dpi)
        return buffer.getvalue()


def show(figure: Figure, description: str) -> None:
    """Show a figure in a notebook, with a description below it that also serves who cannot see it."""
    from IPython.display import display

    picture = base64.b64encode(to_png(figure, _PRINT)).decode()
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    display(
        {"image/png": picture, "text/plain": description},
        metadata={"image/png": {"alt": description, "width": width, "height": height}},
        raw=True,
    )
    display({"text/markdown": f"*{description}*", "text/plain": description}, raw=True)
