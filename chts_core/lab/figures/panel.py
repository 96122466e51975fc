"""A table and a figure of the updates of a run.

    frame = panel.evolution(sparsifier.history)
    figures.show(panel.plot_evolution(frame), "How the updates went.")

Shares are fractions in the table and percentages in the figure.
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chts_core.engine.progress import Update
from chts_core.lab.figures.style import BLACK, PALE, before_and_after, is_flat, looks, new_figure, use_percent_axis

# CHT stops the evolution of a layer if its overlap is above this value: an epitopological local minimum (paper, ELM).
ELM_OVERLAP = 0.9
_NAMED = 5  # layers with a colour of their own


def evolution(history: Sequence[Update]) -> pd.DataFrame:
    """Return a table of what the updates of a run did, with one row per update and layer.

    Args:
        history: `Sparsifier.history`.

    Returns:
        A table with the columns step, layer, links, removed, regrown, overlap, anp, itop and seconds, as
        :class:`Update` describes them.

    Raises:
        ValueError: if a row lacks one of these columns.
    """
    columns = list(Update.__annotations__)
    for number, row in enumerate(history):
        missing = [name for name in columns if name not in row]
        if missing:
            raise ValueError(f"row {number} of the history lacks {', '.join(missing)}; pass Sparsifier.history.")
    return pd.DataFrame(list(history), columns=columns)


def plot_evolution(frame: pd.DataFrame) -> Figure:
    """Draw the active neurons, the ITOP rate, the overlap and the number of links by step, with one line per layer.

    The first five layers have colours, and the others are grey. If there are at most five layers and their active
    neurons hardly change, the figure shows the first and last shares as numbers. For CHT, a layer is in an
    epitopological local minimum (ELM) if its overlap is above the dotted line (90 %). An update that regrew no links
    has no overlap to show.

    Args:
        frame: the result of :func:`evolution`. For a model with many layers, pass only the rows of some layers, as in
            ``frame[frame.layer.str.contains("q_proj")]``.
    """
    shown = frame.assign(
        anp=frame["anp"] * 100,
        itop=frame["itop"] * 100,
        overlap=(frame["overlap"] * 100).where(frame["regrown"] > 0),
    )
    labels = {
        "anp": "active output neurons (%)",
        "itop": "links ever active,\nITOP (%)",
        "overlap": "regrown links that were\njust removed, overlap (%)",
        "links": "number of links",
    }
    layers = {str(layer): rows for layer, rows in shown.groupby("layer", sort=False)}
    named = looks(list(layers)[:_NAMED])
    legend_rows = math.ceil(min(len(layers), _NAMED + 1) / 3)
    with new_figure(8.5, 5.2 + 0.22 * legend_rows, rows=2, columns=2) as (figure, panels):
        for axes, (column, label) in zip(panels, labels.items(), strict=True):
            for number, (layer, rows) in enumerate(layers.items()):
                colour, _, style = named.get(layer, (PALE, "", "-"))
                others = f"{len(layers) - _NAMED} other layers" if number == _NAMED else None  # once in the legend
                axes.plot(
                    rows["step"],
                    rows[column],
                    color=colour,
                    linestyle=style,
                    marker=".",
                    markevery=max(len(rows) // 8, 1),
                    label=layer if layer in named else others,
                    zorder=2 if layer in named else 1,
                )
            if column == "links":
                axes.set_ylim(bottom=0)
            else:
                use_percent_axis(axes)
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(left=0)
            axes.set_xlabel("training step")
            axes.set_ylabel(label)
        _mark_elm(panels[2])
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        if len(layers) == len(named) and all(is_flat(rows["anp"].tolist()) for rows in layers.values()):
            before_and_after(
                panels[0],
                labels["anp"],
                {name: (named[name][0], *layers[name]["anp"].iloc[[0, -1]]) for name in named},
            )
    return figure


def _mark_elm(axes: Axes) -> None:
    axes.axhline(ELM_OVERLAP * 100, color=BLACK, linestyle=":", linewidth=1)
    axes.annotate(
        f"ELM above {ELM_OVERLAP * 100:.0f} %",
        xy=(1, ELM_OVERLAP * 100),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="top",
    )
