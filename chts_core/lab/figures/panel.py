"""Diagnostics of a run and of its layers: tables to compute with, and figures to read.

    frame = panel.evolution(sparsifier.history)
    figures.show(panel.plot_evolution(frame), "How the updates went.")
    figures.show(panel.plot_topology(panel.topology(sparsifier.masks, seed=0)), "Layers beside random networks.")

Shares are fractions in the tables and per cent in the figures.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from chts_core.diagnostics import degrees, layer_percolation, modularity, small_worldness
from chts_core.engine.progress import Update
from chts_core.lab.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure
from chts_core.topology import erdos_renyi

# CHT stops the evolution of a layer above this overlap: an epitopological local minimum (paper, ELM).
ELM_OVERLAP = 0.9
# Erdős–Rényi networks that a layer is compared with.
NULLS = 5
# Neurons whose paths are measured in layers with more: enough for two digits of the mean.
SOURCES = 256


def evolution(history: Sequence[Update]) -> pd.DataFrame:
    """What the updates of a run did: one row per update and layer.

    Args:
        history: `Sparsifier.history`.

    Returns:
        Columns step, layer, links, removed, regrown, overlap, anp, itop and seconds, as :class:`Update` describes them.

    Raises:
        ValueError: if a row lacks one of them.
    """
    columns = list(Update.__annotations__)
    for number, row in enumerate(history):
        missing = [name for name in columns if name not in row]
        if missing:
            raise ValueError(f"row {number} of the history lacks {', '.join(missing)}; pass Sparsifier.history.")
    return pd.DataFrame(list(history), columns=columns)


def topology(masks: Mapping[str, Tensor], *, seed: int) -> pd.DataFrame:
    """The network of each layer in numbers, beside Erdős–Rényi networks of the same shape and number of links.

    Layers with more than 256 neurons are measured by the shortest paths from 256 of them. Seconds for a layer of
    512 × 512 at 5 % density, a minute for 2048 × 5461 at 1 %: most goes into communities.

    Args:
        masks: Boolean (out_features, in_features) by layer name, as `Sparsifier.masks`.
        seed: of everything drawn; a layer's row depends on it and on the layer's mask alone.

    Returns:
        One row per layer, with columns

        - layer, outputs, inputs (numbers of neurons), links, density;
        - output_degree_mean, output_degree_std, output_degree_max, and the same of input_degree: links per neuron, the
          standard deviation that of these very neurons (÷ n);
        - clustering, path_length, small_worldness, modularity: of :mod:`chts_core.diagnostics`, NaN where not defined;
        - clustering_er, path_length_er, modularity_er: means over 5 Erdős–Rényi networks;
        - linked_outputs, linked_inputs, largest_component: shares of neurons, of `layer_percolation`.
    """
    return pd.DataFrame([_layer_row(name, mask, seed) for name, mask in masks.items()])


def _layer_row(name: str, mask: Tensor, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    world = small_worldness(mask, nulls=NULLS, sources=SOURCES, generator=generator)
    holds = layer_percolation(mask)
    out_features, in_features = mask.shape
    links = int(mask.sum())
    density = links / mask.numel()
    nulls = [erdos_renyi(out_features, in_features, density, generator=generator) for _ in range(NULLS)]
    outputs, inputs = degrees(mask)
    return {
        "layer": name,
        "outputs": out_features,
        "inputs": in_features,
        "links": links,
        "density": density,
        **_degree_summary("output", outputs),
        **_degree_summary("input", inputs),
        "clustering": world.clustering,
        "clustering_er": world.null_clustering,
        "path_length": world.path_length,
        "path_length_er": world.null_path_length,
        "small_worldness": world.ratio,
        "modularity": modularity(mask, generator=generator),
        "modularity_er": sum(modularity(null, generator=generator) for null in nulls) / NULLS,
        "linked_outputs": holds.outputs,
        "linked_inputs": holds.inputs,
        "largest_component": holds.largest_component,
    }


def _degree_summary(side: str, degree: Tensor) -> dict[str, float]:
    spread, mean = torch.std_mean(degree.double(), correction=0)
    return {
        f"{side}_degree_mean": float(mean),
        f"{side}_degree_std": float(spread),
        f"{side}_degree_max": int(degree.max()),
    }


def degree_table(masks: Mapping[str, Tensor]) -> pd.DataFrame:
    """Degree distributions: how many neurons have so many links.

    Args:
        masks: Boolean (out_features, in_features) by layer name.

    Returns:
        Columns layer, side ("output" or "input"), degree and neurons; one row per degree that occurs, ascending.
    """
    rows = [
        {"layer": name, "side": side, "degree": degree, "neurons": neurons}
        for name, mask in masks.items()
        for side, counted in zip(("output", "input"), degrees(mask), strict=True)
        for degree, neurons in zip(*(part.tolist() for part in counted.unique(return_counts=True)), strict=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "side", "degree", "neurons"])


def plot_evolution(frame: pd.DataFrame) -> Figure:
    """Active neurons, links ever active, overlap and links over the training steps; one line per layer.

    The dotted line at 90 % overlap is where CHT takes a layer to be in an epitopological local minimum (ELM). An
    update that regrew nothing has no overlap to show.

    Args:
        frame: of :func:`evolution`. Of a model with many layers, pass the rows of those to look at, as in
            ``frame[frame.layer.str.contains("q_proj")]``.
    """
    shown = frame.assign(
        anp=frame["anp"] * 100,
        itop=frame["itop"] * 100,
        overlap=(frame["overlap"] * 100).where(frame["regrown"] > 0),
    )
    labels = {
        "anp": "active output neurons,\nANP (%)",
        "itop": "links ever active,\nITOP (%)",
        "overlap": "regrown links that were\njust removed, overlap (%)",
        "links": "links (number)",
    }
    legend_rows = math.ceil(frame["layer"].nunique() / 3)
    with new_figure(8.5, 5.2 + 0.22 * legend_rows, rows=2, columns=2) as (figure, panels):
        for axes, (column, label) in zip(panels, labels.items(), strict=True):
            # 7 colours and 4 line styles, which change together: where lines coincide, those below show in the gaps.
            colours, styles = cycle((BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)), cycle(("-", "--", ":", "-."))
            for (layer, rows), colour, style in zip(shown.groupby("layer", sort=False), colours, styles, strict=False):
                axes.plot(
                    rows["step"],
                    rows[column],
                    color=colour,
                    linestyle=style,
                    marker=".",
                    markevery=max(len(rows) // 8, 1),
                    label=str(layer),
                )
            axes.set_ylim(0, 105 if column != "links" else None)
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("training step")
            axes.set_ylabel(label)
        overlap = panels[2]
        overlap.axhline(ELM_OVERLAP * 100, color=BLACK, linestyle=":", linewidth=1)
        overlap.annotate(
            f"ELM above {ELM_OVERLAP * 100:.0f} %",
            xy=(1, ELM_OVERLAP * 100),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="top",
        )
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def plot_topology(frame: pd.DataFrame) -> Figure:
    """Clustering, path length, modularity and small-worldness of each layer (dots), beside Erdős–Rényi (crosses).

    The small-worldness of Erdős–Rényi networks is 1, the dashed line. What is not defined is not drawn.

    Args:
        frame: of :func:`topology`.

    Raises:
        ValueError: if the frame has no rows.
    """
    if frame.empty:
        raise ValueError("the frame has no rows; expected one per layer: pass panel.topology(masks, seed=0).")
    labels = {
        "clustering": "clustering\n(share of 3-link paths closed)",
        "path_length": "characteristic path length\n(links)",
        "modularity": "modularity\n(Barber's Q)",
        "small_worldness": "small-worldness\n(ratio to Erdős–Rényi)",
    }
    names = list(frame["layer"])
    places = range(len(names))
    width = 10 + 0.07 * max(map(len, names))
    with new_figure(width, 1.7 + 0.3 * len(names), columns=4) as (figure, panels):
        for axes, (column, label) in zip(panels, labels.items(), strict=True):
            axes.plot(frame[column], places, color=BLUE, marker="o", markersize=8, linestyle="", label="layer")
            if column == "small_worldness":
                axes.axvline(1, color=ORANGE, linestyle="--")
            else:
                # On top of the dots, which are often as near as this.
                random = frame[f"{column}_er"]
                axes.plot(random, places, color=ORANGE, marker="x", markersize=7, linestyle="", label="Erdős–Rényi")
            axes.update_datalim([(0, 0)])  # lengths from zero can be compared
            axes.margins(x=0.08)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks(places, names if axes is panels[0] else [""] * len(names))
            axes.grid(axis="y", alpha=0.3)
            axes.set_xlabel(label)
            axes.set_ylabel("layer")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
