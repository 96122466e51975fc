"""Figures that show why the topology may predict where a link helps, and how well scores find hidden links."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from chts_core.lab.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, new_figure, write_below
from chts_core.lab.results.statistics import mean_and_interval

Places = Mapping[str, tuple[float, float]]
_Place = Literal["outside lower center", "outside right center"]  # of a legend

_NEURONS: Places = {"a": (0, 1), "b": (0, 0), "c": (1, 0), "d": (1, 1), "e": (2, 0), "f": (2, 1)}
# For each of several networks: the colour, the marker, and whether the marker is filled.
_LOOKS = ((BLACK, "o", False), (ORANGE, "^", True), (BLUE, "s", False), (GREEN, "D", False), (BLUE, "o", True))


def _link(axes: Axes, places: Places, pairs: Sequence[tuple[str, str]], label: str, **look: Any) -> None:
    """Draw links between named nodes in one style, with one entry in the legend."""
    ends = [[places[one], places[other]] for one, other in pairs]
    axes.plot([], [], label=label, **look)
    for (x, y), (to_x, to_y) in ends:
        axes.plot([x, to_x], [y, to_y], zorder=1, **look)


def _nodes(axes: Axes, places: Places, colour: str, marker: str, label: str) -> None:
    """Draw named nodes in one style."""
    x, y = zip(*places.values(), strict=True)
    look: dict[str, Any] = {"markersize": 20, "markeredgecolor": BLACK, "linestyle": "", "zorder": 2}
    axes.plot(x, y, marker=marker, color=colour, label=label, **look)
    for name, place in places.items():
        axes.text(*place, name, ha="center", va="center", fontsize=10, zorder=3)


def _finish(figure: Figure, panels: Sequence[Axes], right: float, loc: _Place, columns: int) -> None:
    """Hide the axes of all panels, and add one legend for all panels."""
    entries: dict[str, Any] = {}
    for axes in panels:
        entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        axes.set_xlim(-0.55, right)
        axes.set_ylim(-0.5, 1.5)
        axes.set_axis_off()
    figure.legend(list(entries.values()), list(entries), loc=loc, ncols=columns, markerscale=0.5, labelspacing=0.7)


def learning_by_links() -> Figure:
    """Draw six neurons in three panels: Hebb's rule, epitopological learning, and the local community of a new link."""
    with new_figure(10.5, 3.3, columns=3) as (figure, panels):
        for number, axes in enumerate(panels):
            _link(axes, _NEURONS, (("c", "e"), ("e", "f")), "other link", color=GREY, linewidth=1.2)
            _link(axes, _NEURONS, (("a", "b"), ("b", "c"), ("c", "d")), "link in the group", color=BLUE, linewidth=1.8)
            if number:
                _link(axes, _NEURONS, [("a", "d")], "new link", color=VERMILION, linestyle=":", linewidth=3)
            else:
                _link(axes, _NEURONS, [("a", "b")], "stronger link", color=BLUE, linewidth=5)
            active = {name: _NEURONS[name] for name in ("abcd" if number else "ab")}
            _nodes(axes, _NEURONS, "white", "o", "silent neuron")
            _nodes(axes, active, ORANGE, "o", "neuron that fires")
        border = Ellipse((0.5, 0.5), 1.85, 1.85, fill=False, edgecolor=BLACK, linestyle="--", linewidth=1.2)
        panels[2].add_patch(border)
        panels[2].plot([], [], color=BLACK, linestyle="--", linewidth=1.2, label="border of the group")
        for axes, title, below in zip(
            panels,
            ("1. Hebb's rule", "2. epitopological learning", "3. local community"),
            ("a link gets stronger", "the group gets a new link", "one link crosses the border"),
            strict=True,
        ):
            axes.set_title(title)
            write_below(axes, 1, below)
        _finish(figure, panels, 2.5, "outside lower center", 4)
    return figure


def similar_partners() -> Figure:
    """Draw plugs and sockets that fit, or do not fit, because of their links.

    Two sockets that share a plug do not fit each other (left). A socket and a plug that are three links apart fit
    each other (right).
    """
    places: Places = {"u": (0, 1), "z₂": (1, 1), "z₁": (0, 0), "v": (1, 0)}
    sockets, plugs = {name: places[name] for name in ("u", "z₂")}, {name: places[name] for name in ("z₁", "v")}
    with new_figure(9.6, 3.2, columns=2) as (figure, (left, right)):
        _link(left, places, (("u", "z₁"), ("z₂", "z₁")), "link", color=BLUE, linewidth=1.8)
        _link(left, places, [("u", "z₂")], "link that does not fit", color=GREY, linestyle=":", linewidth=3)
        _nodes(left, sockets, SKY, "s", "socket")
        _nodes(left, {"z₁": places["z₁"]}, ORANGE, "o", "plug")
        _link(right, places, (("u", "z₁"), ("z₂", "z₁"), ("z₂", "v")), "link", color=BLUE, linewidth=1.8)
        _link(right, places, [("u", "v")], "link that fits", color=VERMILION, linestyle=":", linewidth=3)
        _nodes(right, sockets, SKY, "s", "socket")
        _nodes(right, plugs, ORANGE, "o", "plug")
        for axes, title, below in zip(
            (left, right),
            ("two links apart", "three links apart"),
            ("sockets u and z₂ share plug z₁", "z₂ holds plug v, so u fits v too"),
            strict=True,
        ):
            axes.set_title(title)
            write_below(axes, 0.5, below)
        _finish(figure, (left, right), 1.55, "outside right center", 1)
    return figure


def hidden_links_found(
    measured: Mapping[str, Mapping[str, Sequence[float]]], axis: str, chance: Mapping[str, float]
) -> Figure:
    """Draw how well each score finds the hidden links of each network, as dots with 95 % confidence intervals.

    Args:
        measured: for each network (at most five) and each score, one value per seed.
        axis: the name of the values, which are fractions.
        chance: the label and the value of each dotted line.
    """
    shift = 0.8 / len(measured)
    with new_figure(8.6, 4.2) as (figure, (axes,)):
        for number, ((network, by_score), (colour, marker, filled)) in enumerate(
            zip(measured.items(), _LOOKS, strict=False)
        ):
            rows = [row + shift * (number - (len(measured) - 1) / 2) for row in range(len(by_score))]
            means, widths = zip(*map(mean_and_interval, by_score.values()), strict=True)
            look: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": colour if filled else "white"}
            drawn = axes.errorbar(
                means, rows, xerr=widths, linestyle="", capsize=3, linewidth=1.3, label=network, **look
            )
            drawn.lines[0].set_clip_on(False)  # dots at 0 and 1 are drawn whole
        for words, value in chance.items():
            axes.axvline(value, color=BLACK, linestyle=":", linewidth=1, label=words)
        names = list(next(iter(measured.values())))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, 0), min(right, 1))
        axes.set_xlabel(axis)
        axes.set_ylabel("score of missing links")
        figure.legend(loc="outside right center", labelspacing=0.8)
    return figure
