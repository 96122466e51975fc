"""A figure of the points of a class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chts_core.lab.figures.style import BLUE, new_figure


def class_points(totals: Sequence[float], most: float) -> Figure:
    """A histogram of the students' points, in ten bins from 0 to `most`."""
    with new_figure(6, 2.8) as (figure, (axes,)):
        edges = np.linspace(0, most, 11).tolist()
        axes.hist(totals, bins=edges, color=BLUE, edgecolor="white")
        axes.set_xticks(edges)
        axes.set_xlabel(f"points (out of {most:g})")
        axes.set_ylabel("students")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
