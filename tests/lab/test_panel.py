import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import chts_core as chts
from chts_core.engine.progress import Update
from chts_core.lab import figures
from chts_core.lab.figures import panel
from chts_core.lab.figures.style import PALE


@pytest.fixture(scope="module")
def sparsifier() -> chts.Sparsifier:
    """Several updates of two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, method="chtss", sparsity=0.8, total_steps=25, update_every=5)
    for _ in range(25):
        optimizer.zero_grad()
        model(torch.randn(8, 12)).square().mean().backward()
        optimizer.step()
        sparsifier.step()
    return sparsifier


def row(layer: str, step: int, **values: float) -> Update:
    empty: Update = {
        "step": step,
        "layer": layer,
        "links": 10,
        "removed": 2,
        "regrown": 2,
        "overlap": 0.5,
        "anp": 1.0,
        "itop": 0.25,
        "seconds": 0.1,
    }
    return empty | values  # type: ignore[return-value]


def test_evolution_has_a_row_per_update_and_layer(sparsifier: chts.Sparsifier) -> None:
    frame = panel.evolution(sparsifier.history)
    assert list(frame.columns) == list(Update.__annotations__)
    assert frame.to_dict("records") == sparsifier.history
    assert len(frame) == 2 * frame["step"].nunique() > 2
    assert set(frame["layer"]) == set(sparsifier.masks)


def test_evolution_before_the_first_update_is_an_empty_table() -> None:
    frame = panel.evolution([])
    assert list(frame.columns) == list(Update.__annotations__)
    assert frame.empty
    assert len(panel.plot_evolution(frame).axes) == 4


def test_evolution_says_what_a_history_lacks() -> None:
    partial = {name: value for name, value in row("a", 1).items() if name not in ("anp", "itop")}
    with pytest.raises(ValueError, match=r"row 1 of the history lacks anp, itop; pass Sparsifier\.history"):
        panel.evolution([row("a", 1), partial])  # type: ignore[list-item]


def test_axes_are_labelled_and_pictures_are_drawn(sparsifier: chts.Sparsifier) -> None:
    with pyplot.rc_context():
        pyplot.rcdefaults()
        before = dict(pyplot.rcParams)
        figure = panel.plot_evolution(panel.evolution(sparsifier.history))
        assert isinstance(figure, Figure)
        assert len(figure.axes) == 4
        for axes in figure.axes:
            assert not axes.axison or (axes.get_xlabel() and axes.get_ylabel())
        assert len(figures.to_png(figure)) > 1000
        assert dict(pyplot.rcParams) == before
    assert pyplot.get_fignums() == []


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """By label, the points of each line that is drawn over data, without those that are NaN."""
    return {
        str(line.get_label()): [
            (x, y) for x, y in np.asarray(line.get_data(), dtype=float).T.tolist() if not math.isnan(x + y)
        ]
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def legend_names(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_evolution_is_drawn_layer_by_layer() -> None:
    history = [
        row("b", 5, anp=0.5, itop=0.1, overlap=0.95, links=40),
        row("a", 5, anp=1.0, itop=0.2, overlap=0.2, links=20),
        row("b", 10, anp=0.25, itop=0.3, overlap=0.5, links=30),
        # Nothing was regrown: there is no overlap.
        row("a", 10, anp=0.75, itop=0.4, overlap=0.0, links=10, regrown=0),
    ]
    frame = panel.evolution(history)
    before = frame.copy()
    figure = panel.plot_evolution(frame)
    anp, itop, overlap, links = figure.axes
    assert lines(anp) == {"b": [(5, 50), (10, 25)], "a": [(5, 100), (10, 75)]}
    assert lines(itop) == {"b": [(5, 10), (10, 30)], "a": [(5, 20), (10, 40)]}
    assert lines(overlap) == {"b": [(5, 95), (10, 50)], "a": [(5, 20)]}
    assert lines(links) == {"b": [(5, 40), (10, 30)], "a": [(5, 20), (10, 10)]}
    for axes, name in (
        (anp, "active output neurons (%)"),
        (itop, "ITOP (%)"),
        (overlap, "overlap (%)"),
        (links, "number of links"),
    ):
        assert name in axes.get_ylabel()
        assert axes.get_xlabel() == "training step"
        assert axes.get_ylim()[0] == 0
    assert legend_names(figure) == ["b", "a"]
    pd.testing.assert_frame_equal(frame, before)


def test_the_threshold_of_the_elm_is_drawn() -> None:
    overlap = panel.plot_evolution(panel.evolution([row("a", 1)])).axes[2]
    (threshold,) = (line for line in overlap.lines if str(line.get_label()).startswith("_"))
    assert list(threshold.get_ydata()) == [90, 90]
    assert [text.get_text() for text in overlap.texts] == ["ELM above 90 %"]


def test_five_layers_have_colours_and_the_others_are_grey() -> None:
    figure = panel.plot_evolution(panel.evolution([row(str(number), 5) for number in range(28)]))
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 6
    assert {line.get_color() for line in figure.axes[0].lines[5:]} == {PALE}
    assert {line.get_marker() for line in figure.axes[0].lines} == {"."}  # one update can be seen
    assert legend_names(figure) == ["0", "1", "2", "3", "4", "23 other layers"]


def test_active_neurons_that_hardly_move_are_numbers() -> None:
    history = [row("a", 5, anp=1.0), row("a", 10, anp=0.95001), row("b", 5, anp=0.5), row("b", 10, anp=0.52)]
    anp, *others = panel.plot_evolution(panel.evolution(history)).axes
    words = [text.get_text() for text in anp.texts]
    assert words[-6:] == ["a", "100 %", "95 %", "b", "50 %", "52 %"]
    assert not anp.axison
    assert all(axes.axison for axes in others)
    assert panel.plot_evolution(panel.evolution([*history, row("b", 15, anp=0.6)])).axes[0].axison


@pytest.mark.parametrize(("layers", "as_numbers"), [(5, True), (6, False)])
def test_flat_curves_stand_as_numbers_only_where_every_layer_has_a_row(layers: int, as_numbers: bool) -> None:
    rows = [row(f"layer {number}", step) for number in range(layers) for step in (5, 10)]
    neurons = panel.plot_evolution(panel.evolution(rows)).axes[0]
    assert neurons.axison != as_numbers
    assert len(neurons.lines) == (0 if as_numbers else layers)
    if as_numbers:
        names = [text.get_text() for text in neurons.texts]
        assert all(f"layer {number}" in names for number in range(layers))
