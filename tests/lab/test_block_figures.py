"""The drawing of a layer says of each matrix and each relation what the core says of the model."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

from chts_core.engine.layers import sparse_layers
from chts_core.engine.tracing import layer_graph
from chts_core.lab import figures, models
from chts_core.lab.figures.style import SKY

# What the drawing calls the matrices that our models name otherwise.
NAMES = {"feed_forward.0": "w1", "feed_forward.3": "w2"} | {
    f"{name}_proj": name for name in ("q", "k", "v", "o", "gate", "up", "down")
}
KINDS = ("sparse", "dense", "step")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: models.Transformer(11, models.TransformerSize(8, 16, 1, 2)),
    "llama": lambda: models.llama(11, models.LlamaSize(8, 16, 1, 2, 2), 8),
}


def drawn(figure: Figure, kind: str) -> set[tuple[str, ...]]:
    """The names of all that is drawn as "sparse", "pair", "chain" ..., once for each."""
    gids = [str(artist.get_gid() or "") for axes in figure.axes for artist in (*axes.patches, *axes.lines)]
    found = [tuple(gid.split()[1:]) for gid in gids if gid.startswith(f"{kind} ")]
    assert len(found) == len(set(found))
    return set(found)


def named(layer: str) -> str:
    (name,) = (short for long, short in NAMES.items() if layer.removesuffix(".weight").endswith(long))
    return name


def relations(model: nn.Module) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """The pairs and the chains of a model as the core traces them."""
    graph, unknown = layer_graph(model, sparse_layers(model))
    assert not unknown
    pairs, chains = list(graph.pairs), [link for chain in graph.chains for link in pairwise(chain)]
    for attention in graph.attentions:
        assert attention.query
        assert attention.key
        assert attention.value
        assert attention.output
        pairs.append((attention.query, attention.key))
        chains.append((attention.value, attention.output))
    return tuple({tuple(map(named, link)) for link in links} for links in (pairs, chains))  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_the_drawing_has_the_relations_that_the_core_finds(name: str) -> None:
    figure = figures.blocks([name])  # type: ignore[list-item]
    pairs, chains = relations(MODELS[name]())
    assert drawn(figure, "pair") == pairs
    assert drawn(figure, "chain") == chains


@pytest.mark.parametrize("name", MODELS)
def test_exactly_the_matrices_that_become_sparse_are_blue(name: str) -> None:
    figure = figures.blocks([name])  # type: ignore[list-item]
    matrices = {(named(layer),) for layer in sparse_layers(MODELS[name]())}
    assert drawn(figure, "sparse") == matrices
    blue = {str(patch.get_gid()) for patch in figure.axes[0].patches if to_hex(patch.get_facecolor()) == SKY.lower()}
    assert blue == {f"sparse {name}" for (name,) in matrices}
    assert drawn(figure, "dense") == {("embedding",), ("norm",), ("norm", "2"), ("output",)}


def test_drawings_stand_below_each_other_and_have_no_axes() -> None:
    figure = figures.blocks(["transformer", "llama"])
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["One layer of a Transformer", "One layer of a LLaMA"]
    assert not any(axes.axison for axes in figure.axes)
    assert figure.get_figwidth() <= 9.2


@pytest.mark.parametrize("name", MODELS)
def test_no_box_covers_another_and_every_label_fits_its_box(name: str) -> None:
    figure = figures.blocks([name])  # type: ignore[list-item]
    figures.to_png(figure)
    (axes,) = figure.axes
    boxes = [
        patch.get_window_extent() for patch in axes.patches if str(patch.get_gid() or "").partition(" ")[0] in KINDS
    ]
    assert not [(one, other) for one in boxes for other in boxes if one is not other and one.overlaps(other)]
    for label in axes.texts[-len(boxes) :]:
        inside = label.get_window_extent()
        assert any(box.x0 <= inside.x0 and inside.x1 <= box.x1 for box in boxes), label.get_text()
