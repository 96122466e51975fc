"""A figure of the claims: how far each advantage in the recorded runs is from 0."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from chts_core.lab.figures.style import BLACK, BLUE, GREY, ORANGE, VERMILION, new_figure

_LOOKS = {"holds": (BLUE, "o"), "undecided": (ORANGE, "D"), "does not hold": (VERMILION, "s")}


def verdicts(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each claim's advantage, divided by the half-width of its 95 % interval.

    A claim is decided if the result is below -1 or above 1.

    Args:
        rows: each with claim, advantage, interval and verdict, as :func:`chts_core.lab.results.standing.standing`
            returns them; rows without runs are left out.
    """
    shown = [row for row in rows if row["advantage"] is not None]
    with new_figure(8.5, 1.3 + 0.45 * len(shown)) as (figure, (axes,)):
        axes.axvspan(-1, 1, color=GREY, alpha=0.15)
        axes.axvline(0, color=BLACK, linewidth=1)
        for verdict, (colour, marker) in _LOOKS.items():
            places = [place for place, row in enumerate(shown) if row["verdict"] == verdict]
            values = [shown[place]["advantage"] / shown[place]["interval"] for place in places]
            axes.plot(values, places, color=colour, marker=marker, markersize=8, linestyle="", label=verdict)
        axes.set_yticks(range(len(shown)), [textwrap.fill(row["claim"], 44) for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.set_xlabel("advantage, divided by the half-width of its 95 % interval")
        axes.set_ylabel("claim")
        figure.legend(loc="outside upper right", ncols=len(_LOOKS))
    return figure
