"""Figures in one style: colour-blind safe, labelled axes, readable in print.

Each returns a matplotlib Figure: `show` puts it on a page, and `figure.savefig("name.pdf")` writes it as vectors.
"""

from chts_core.lab.figures.networks import (
    Links,
    degree_histograms,
    draw_degrees,
    draw_mask,
    draw_network,
    mask_and_degrees,
    masks,
    topology_change,
)
from chts_core.lab.figures.runs import images, overlap_and_itop, race
from chts_core.lab.figures.style import new_figure, show, to_png

__all__ = [
    "Links",
    "degree_histograms",
    "draw_degrees",
    "draw_mask",
    "draw_network",
    "images",
    "mask_and_degrees",
    "masks",
    "new_figure",
    "overlap_and_itop",
    "race",
    "show",
    "to_png",
    "topology_change",
]
