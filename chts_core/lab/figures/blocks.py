"""A figure of a Transformer layer and a LLaMA layer: their sparse matrices, pairs and chains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.path import Path

from chts_core.lab.figures.style import BLACK, BLUE, GREY, SKY, VERMILION, new_figure

_WIDTH, _HEIGHT = 9.2, 2.75  # inches of a drawing
_TALL = 0.36  # inches of a box
_PALE = "#EDEDED"
_FILLS = {"sparse": SKY, "dense": "white", "step": _PALE}
_KINDS = {"sparse": "sparse matrix", "dense": "dense part", "step": "step without weights"}
_PAIR, _CHAIN = "pair: output i must be active in both", "chain: each layer feeds the next"


@dataclass(frozen=True)
class _Box:
    """A box for a part of a layer: its label, the position of its middle, its width in inches, and its kind."""

    label: str
    x: float
    y: float
    width: float
    kind: Literal["sparse", "dense", "step"] = "sparse"


@dataclass(frozen=True)
class _Layer:
    """What to draw for one layer: boxes by name, the flow of the data, the pairs, and the chains."""

    title: str
    note: str
    second_half: str
    boxes: dict[str, _Box]
    flows: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str], ...]
    chains: tuple[tuple[str, str], ...]


_MIDDLE = 1.15  # height of the main path of the data
_ATTENTION = {
    "embedding": _Box("embedding", 0.53, _MIDDLE, 0.94, "dense"),
    "norm": _Box("norm", 1.65, _MIDDLE, 0.56, "dense"),
    "q": _Box("q", 2.33, 1.85, 0.42),
    "k": _Box("k", 2.33, _MIDDLE, 0.42),
    "v": _Box("v", 2.33, 0.45, 0.42),
    "attention": _Box("attention", 3.24, _MIDDLE, 0.9, "step"),
    "o": _Box("o", 4.05, _MIDDLE, 0.42),
    "sum": _Box("+", 4.5, _MIDDLE, 0.26, "step"),
    "norm 2": _Box("norm", 5.2, _MIDDLE, 0.56, "dense"),
    "sum 2": _Box("+", 8.12, _MIDDLE, 0.26, "step"),
    "output": _Box("output\nlayer", 8.8, _MIDDLE, 0.68, "dense"),
}
_INTO_ATTENTION = tuple((part, "attention") for part in "qkv")
_FLOWS = (
    ("embedding", "norm"),
    *(("norm", part) for part in "qkv"),
    *_INTO_ATTENTION,
    ("attention", "o"),
    ("o", "sum"),
    ("sum", "norm 2"),
    ("sum 2", "output"),
)
_LAYERS = {
    "transformer": _Layer(
        "One layer of a Transformer",
        "(a layer of the decoder has two attention blocks)",
        "feed-forward block",
        _ATTENTION
        | {
            "w1": _Box("w1", 5.95, _MIDDLE, 0.46),
            "relu": _Box("ReLU", 6.75, _MIDDLE, 0.58, "step"),
            "w2": _Box("w2", 7.55, _MIDDLE, 0.46),
        },
        (*_FLOWS, ("norm 2", "w1"), ("w1", "relu"), ("relu", "w2"), ("w2", "sum 2")),
        (("q", "k"),),
        (("v", "o"), ("w1", "w2")),
    ),
    "llama": _Layer(
        "One layer of a LLaMA",
        "",
        "gated block",
        _ATTENTION
        | {
            "attention": _Box("rotation,\nattention", 3.24, _MIDDLE, 0.9, "step"),
            "gate": _Box("gate", 5.88, 1.75, 0.54),
            "up": _Box("up", 5.88, 0.55, 0.54),
            "product": _Box("silu(gate)\n· up", 6.74, _MIDDLE, 0.9, "step"),
            "down": _Box("down", 7.6, _MIDDLE, 0.56),
        },
        (
            *_FLOWS,
            ("norm 2", "gate"),
            ("norm 2", "up"),
            ("gate", "product"),
            ("up", "product"),
            ("product", "down"),
            ("down", "sum 2"),
        ),
        (("q", "k"), ("gate", "up")),
        (("v", "o"), ("gate", "down"), ("up", "down")),
    ),
}


def blocks(names: Sequence[Literal["transformer", "llama"]]) -> Figure:
    """Draw one layer of each model as boxes, with the pairs and chains that percolation uses.

    Sparse matrices are blue boxes. The embedding, the norms and the output layer are white: they stay dense. A red line
    joins the two layers of a pair, and a blue arrow leads from one layer of a chain to the next.

    Args:
        names: the names of the models, from top to bottom.
    """
    with new_figure(_WIDTH, _HEIGHT * len(names) + 0.55, rows=len(names)) as (figure, panels):
        for axes, name in zip(panels, names, strict=True):
            _draw(axes, _LAYERS[name])
        handles: list[Any] = [
            Patch(facecolor=_FILLS[kind], edgecolor=_edge(kind), label=label) for kind, label in _KINDS.items()
        ]
        handles.append(Line2D([], [], color=VERMILION, linewidth=2.6, marker="o", markersize=7, label=_PAIR))
        handles.append(Line2D([], [], color=BLUE, linewidth=2.6, marker=">", markersize=9, label=_CHAIN))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=11)
    return figure


def _draw(axes: Axes, layer: _Layer) -> None:
    boxes = layer.boxes
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(0, _HEIGHT)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.text(0.06, 2.62, layer.title, fontsize=12, va="center", weight="bold")
    axes.text(2.8, 2.62, layer.note, fontsize=11, va="center")
    axes.add_patch(Rectangle((1.1, 0.08), 7.24, 2.36, facecolor="none", edgecolor=GREY, linestyle=":"))
    for x, label in ((3.24, "attention block"), (6.8, layer.second_half)):
        axes.text(x, 0.2, label, fontsize=11, ha="center", va="center", color=BLACK)
    for before, after in layer.flows:
        start, end = boxes[before], boxes[after]
        _arrow(axes, [(start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y)], GREY, 1.1)
    for before, after in (("norm", "sum"), ("norm 2", "sum 2")):  # an arrow around each half, to its sum
        left, end = boxes[before].x - 0.4, boxes[after]
        _arrow(axes, [(left, _MIDDLE), (left, 2.26), (end.x, 2.26), (end.x, end.y + 0.18)], GREY, 1.1)
    for before, after in layer.chains:
        _arrow(axes, _around(boxes[before], boxes[after]), BLUE, 2.6, f"chain {before} {after}")
    for one, other in layer.pairs:
        ends = [boxes[one].y - _TALL / 2 - 0.05, boxes[other].y + _TALL / 2 + 0.05]
        axes.plot(
            [boxes[one].x] * 2,
            ends,
            color=VERMILION,
            linewidth=2.6,
            marker="o",
            markersize=7,
            gid=f"pair {one} {other}",
        )
    for name, box in boxes.items():
        _draw_box(axes, name, box)


def _around(before: _Box, after: _Box) -> list[tuple[float, float]]:
    """The corners of a path from one box to another, around the boxes between them."""
    if before.y == after.y:
        below = before.y - _TALL / 2
        return [(before.x, below), (before.x, below - 0.3), (after.x, below - 0.3), (after.x, below)]
    side = after.y + (_TALL / 2 if before.y > after.y else -_TALL / 2)
    return [(before.x + before.width / 2, before.y), (after.x, before.y), (after.x, side)]


def _arrow(axes: Axes, corners: Sequence[tuple[float, float]], colour: str, width: float, gid: str = "") -> None:
    axes.add_patch(
        FancyArrowPatch(
            path=Path(list(corners)),
            arrowstyle="-|>",
            mutation_scale=7 + 3.2 * width,
            color=colour,
            linewidth=width,
            fill=False,
            gid=gid,
        )
    )


def _draw_box(axes: Axes, name: str, box: _Box) -> None:
    tall = 0.56 if "\n" in box.label else 0.26 if box.label == "+" else _TALL
    corner = box.x - box.width / 2, box.y - tall / 2
    rounded = "round,pad=0,rounding_size=0.1" if box.kind == "step" else "square,pad=0"
    axes.add_patch(
        FancyBboxPatch(
            corner,
            box.width,
            tall,
            boxstyle=rounded,
            facecolor=_FILLS[box.kind],
            edgecolor=_edge(box.kind),
            gid=f"{box.kind} {name}",
            zorder=3,
        )
    )
    axes.text(box.x, box.y, box.label, fontsize=11, ha="center", va="center", linespacing=1.15, zorder=4)


def _edge(kind: str) -> str:
    return _PALE if kind == "step" else BLACK
