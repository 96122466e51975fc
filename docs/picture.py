"""Make the animation of the README and the site's first page from a training run: python docs/picture.py."""

import io
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from chts_core.lab.data import load_images
from chts_core.lab.figures.networks import draw_mask
from chts_core.lab.figures.style import BLUE, GREY, VERMILION, new_figure, to_png, use_percent_axis
from chts_core.lab.train import images
from chts_core.lab.widgets.topology_player import TopologyPlayer, TopologyPlayerState

STATIC = Path(__file__).parent / "_static"
LAYER = "0.weight"
MILLISECONDS, LAST_MILLISECONDS = 450, 2500
RECIPE = images.Recipe(hidden=96, epochs=24, learning_rate=0.05)


def main() -> None:
    """Train a model, draw a frame for each update, and write the animation and its last frame."""
    torch.set_num_threads(1)
    run = images.train(load_images("digits"), "chts", 0.95, RECIPE, seed=0, snapshots=True)
    frames = [_frame(run, update) for update in range(len(run.snapshots) + 1)]
    pictures = [Image.open(io.BytesIO(to_png(figure))).convert("RGB") for figure in frames]
    durations = [MILLISECONDS] * (len(pictures) - 1) + [LAST_MILLISECONDS]
    pictures[0].save(
        STATIC / "rewiring.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        quality=80,
        method=6,
    )
    (STATIC / "rewiring.png").write_bytes(to_png(frames[-1], 2.0))


def _frame(run: images.Run, update: int) -> Figure:
    """Draw the links of the first layer next to the curves of validation accuracy and overlap up to an update."""
    links = TopologyPlayer.compute(TopologyPlayerState(update, LAYER, run=run)).links
    rows = [row for row in run.history if row["layer"] == LAYER]
    with new_figure(9.0, 4.6, rows=2, columns=2) as (figure, axes):
        grid = axes[0].get_gridspec()
        axes[0].remove()
        axes[2].remove()
        left = figure.add_subplot(grid[:, 0])
        draw_mask(left, torch.zeros_like(links["kept"]), "64 pixels to 96 neurons, 5 % of the links")
        for name, colour in (("kept", GREY), ("new", BLUE), ("removed", VERMILION)):
            outputs, inputs = links[name].nonzero().T.numpy()
            left.plot(inputs, outputs, "s", color=colour, markersize=3, label=name)
        figure.legend(loc="outside lower left", ncols=3, handletextpad=0, columnspacing=1.2, markerscale=2)
        accuracy = [100 * share for share in run.validation_accuracy[:update]]
        overlap = [100 * row["overlap"] for row in rows[:update]]
        for axis, values, colour, label in (
            (axes[1], accuracy, BLUE, "validation images\nright (%)"),
            (axes[3], overlap, VERMILION, "regrown links that were\njust removed (%)"),
        ):
            axis.plot(range(len(values) + 1), [math.nan, *values], color=colour, marker="o", markersize=4)
            axis.set_xlim(0, len(rows) + 0.5)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            use_percent_axis(axis)
            axis.set_ylabel(label)
        axes[3].set_xlabel("update (one for each epoch)")
    return figure


if __name__ == "__main__":
    main()
