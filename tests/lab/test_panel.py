import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import chts_core as chts
from chts_core import diagnostics
from chts_core.engine.progress import Update
from chts_core.lab import figures
from chts_core.lab.figures import panel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BRF = chts.topology.receptive_field(40, 30, 0.15, r=0.2, generator=seeded())
MASKS = {
    "small world": BRF,
    "random": chts.topology.erdos_renyi(20, 30, 0.2, generator=seeded()),
    "none": torch.zeros(3, 4, dtype=torch.bool),
    "one": torch.ones(1, 1, dtype=torch.bool),
    "half linked": torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]], dtype=torch.bool),
}


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


@pytest.fixture(scope="module")
def topology() -> pd.DataFrame:
    return panel.topology(MASKS, seed=3)


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


def test_topology_gives_the_measures_of_the_core(topology: pd.DataFrame) -> None:
    frame = topology.set_index("layer")
    assert list(frame.index) == list(MASKS)
    for name, mask in MASKS.items():
        values = frame.loc[name]
        outputs, inputs = (degree.double().numpy() for degree in diagnostics.degrees(mask))
        holds = diagnostics.layer_percolation(mask)
        expected = {
            "outputs": mask.shape[0],
            "inputs": mask.shape[1],
            "links": int(mask.sum()),
            "density": int(mask.sum()) / mask.numel(),
            "output_degree_mean": np.mean(outputs),
            "output_degree_std": np.std(outputs),
            "output_degree_max": np.max(outputs),
            "input_degree_mean": np.mean(inputs),
            "input_degree_std": np.std(inputs),
            "input_degree_max": np.max(inputs),
            "clustering": diagnostics.clustering(mask),
            "path_length": diagnostics.path_length(mask).mean,
            "linked_outputs": holds.outputs,
            "linked_inputs": holds.inputs,
            "largest_component": holds.largest_component,
        }
        for column, value in expected.items():
            assert values[column] == pytest.approx(value, rel=1e-12, nan_ok=True), column
        beside = diagnostics.small_worldness(mask, nulls=5, sources=256, generator=seeded(3))
        for column, value in {
            "clustering_er": beside.null_clustering,
            "path_length_er": beside.null_path_length,
            "small_worldness": beside.ratio,
        }.items():
            assert values[column] == pytest.approx(value, rel=1e-12, nan_ok=True), column


def test_topology_tells_a_small_world_from_chance(topology: pd.DataFrame) -> None:
    small_world, random = (topology[topology["layer"] == name].iloc[0] for name in ("small world", "random"))
    assert small_world["clustering"] > 1.5 * small_world["clustering_er"]
    assert small_world["modularity"] > 1.3 * small_world["modularity_er"]
    assert small_world["small_worldness"] > 1.5
    for column in ("clustering", "path_length", "modularity"):
        assert random[column] == pytest.approx(random[f"{column}_er"], rel=0.25)


def test_topology_without_links_is_nan_where_it_is_not_defined(topology: pd.DataFrame) -> None:
    none = topology[topology["layer"] == "none"].iloc[0]
    undefined = {name for name, value in none.items() if isinstance(value, float) and math.isnan(value)}
    assert undefined == {"path_length", "path_length_er", "small_worldness", "modularity", "modularity_er"}


def test_a_layer_s_row_depends_on_its_mask_and_the_seed_alone(topology: pd.DataFrame) -> None:
    alone = panel.topology({"random": MASKS["random"]}, seed=3)
    pd.testing.assert_frame_equal(alone, topology[topology["layer"] == "random"].reset_index(drop=True))
    other = panel.topology({"random": MASKS["random"]}, seed=4)
    assert other["clustering_er"][0] != alone["clustering_er"][0]
    assert other["modularity_er"][0] != alone["modularity_er"][0]


def test_large_layers_are_sampled() -> None:
    mask = chts.topology.erdos_renyi(200, 150, 0.05, generator=seeded())
    frame = panel.topology({"large": mask}, seed=0)
    exact = diagnostics.path_length(mask).mean
    assert frame["path_length"][0] == pytest.approx(exact, rel=0.02)
    assert frame["path_length"][0] != exact


def test_degree_table_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    frame = panel.degree_table({"a": mask, "b": torch.ones(1, 2, dtype=torch.bool)})
    assert list(frame.columns) == ["layer", "side", "degree", "neurons"]
    assert frame.to_numpy().tolist() == [
        ["a", "output", 1, 2],
        ["a", "output", 2, 1],
        ["a", "input", 0, 1],
        ["a", "input", 1, 2],
        ["a", "input", 2, 1],
        ["b", "output", 2, 1],
        ["b", "input", 1, 2],
    ]


@pytest.mark.parametrize("measure", [lambda masks: panel.topology(masks, seed=0), panel.degree_table])
def test_tables_of_no_layers_are_empty(measure: Callable[[dict[str, torch.Tensor]], pd.DataFrame]) -> None:
    assert measure({}).empty


def test_axes_are_labelled_and_pictures_are_drawn(sparsifier: chts.Sparsifier, topology: pd.DataFrame) -> None:
    with pyplot.rc_context():
        pyplot.rcdefaults()
        before = dict(pyplot.rcParams)
        for figure in (panel.plot_evolution(panel.evolution(sparsifier.history)), panel.plot_topology(topology)):
            assert isinstance(figure, Figure)
            assert len(figure.axes) == 4
            for axes in figure.axes:
                assert axes.get_xlabel()
                assert axes.get_ylabel()
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
    for axes, name in ((anp, "ANP (%)"), (itop, "ITOP (%)"), (overlap, "overlap (%)"), (links, "links (number)")):
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


def test_layers_look_different_and_an_update_can_be_seen_by_itself() -> None:
    figure = panel.plot_evolution(panel.evolution([row(str(number), 5) for number in range(28)]))
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 28
    assert {line.get_marker() for line in figure.axes[0].lines} == {"."}
    assert len(legend_names(figure)) == 28


def test_topology_is_drawn_beside_chance(topology: pd.DataFrame) -> None:
    figure = panel.plot_topology(topology)
    assert legend_names(figure) == ["layer", "Erdős–Rényi"]
    columns = ("clustering", "path_length", "modularity", "small_worldness")
    for axes, column in zip(figure.axes, columns, strict=True):

        def points(name: str) -> list[tuple[float, float]]:
            return [(value, place) for place, value in enumerate(topology[name]) if not math.isnan(value)]

        drawn = lines(axes)
        assert drawn["layer"] == points(column)
        if column == "small_worldness":
            assert set(drawn) == {"layer"}
            assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "--"] == [[1, 1]]
        else:
            assert drawn["Erdős–Rényi"] == points(f"{column}_er")
        # From zero, and with room around the outermost dots.
        low, high = axes.get_xlim()
        assert low < 0
        assert high > max(x for points in drawn.values() for x, _ in points)
        assert axes.get_ylim() == (4.5, -0.5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(MASKS)


def test_a_figure_of_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="the frame has no rows; expected one per layer"):
        panel.plot_topology(panel.topology({}, seed=0))
