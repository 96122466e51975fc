import base64
import inspect
import typing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import IPython.display
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from chts_core.diagnostics import SmallWorldness
from chts_core.lab import figures
from chts_core.lab.costs import LayerTime, TrainingCost
from chts_core.lab.data import ImageData, Split
from chts_core.lab.figures.style import PALE, use_log_scale
from chts_core.lab.notebook import notebooks
from chts_core.lab.results import statistics
from chts_core.lab.results.paper import PAPER_TABLE_1
from chts_core.lab.train import images, language, translation
from chts_core.lab.train.images import Recipe, Run
from chts_core.lab.verify import injected_bugs, update_curves

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
OTHER = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)


@pytest.fixture(scope="module")
def runs(digits: ImageData) -> list[Run]:
    recipe = Recipe(hidden=16, epochs=3)
    return images.race(digits, ["fc", "set", "chts", "chtss"], 0.9, recipe, seeds=range(2))


COSTS = [
    TrainingCost("FC", 1.0, 0.02, 0.0, 4000, [(0.02, 1.0)]),
    TrainingCost("CHTss", 0.1, 0.01, 0.02, 400, [(0.01, 0.5), (0.005, 0.1)]),
]
TIMES = [LayerTime(0.01, 0.02, 0.03, 0.001), LayerTime(0.5, 0.02, 0.03, 0.04)]
FIGURES: dict[str, Callable[[list[Run], ImageData], Figure]] = {
    "blocks": lambda _, __: figures.blocks(["transformer"]),
    "class_points": lambda _, __: figures.class_points([0, 7.5, 20, 20], 20),
    "cost_meter": lambda _, __: figures.cost_meter(COSTS),
    "step_course": lambda _, __: figures.step_course(COSTS),
    "layer_times": lambda _, __: figures.layer_times(TIMES, crossover=0.3),
    "masks": lambda _, __: figures.masks({"one": MASK, "two": OTHER}),
    "degree_histograms": lambda _, __: figures.degree_histograms({"one": MASK, "two": OTHER}),
    "degree_tails": lambda _, __: figures.degree_tails({"one": MASK, "two": OTHER}),
    "local_community": lambda _, __: figures.local_community(MASK, (0, 2), (0, 1, 1, 2), "one"),
    "score_maps": lambda _, __: figures.score_maps(MASK, dict.fromkeys(("a", "b", "c"), MASK.float())),
    "score_agreement": lambda _, __: figures.score_agreement(
        torch.ones(3), {"a": torch.ones(3), "b": torch.ones(3)}, "c"
    ),
    "regrowth_costs": lambda _, __: figures.regrowth_costs(
        [
            {"size": size, "density": density, "one": 1.0, "two": 2.0}
            for size, density in ((64, 0.05), (128, 0.05), (128, 0.1))
        ]
    ),
    "walk_frequencies": lambda _, __: figures.walk_frequencies([(0, 2), (0, 3)], [5.0, 6.0], [4, 7]),
    "learning_by_links": lambda _, __: figures.learning_by_links(),
    "similar_partners": lambda _, __: figures.similar_partners(),
    "hidden_links_found": lambda _, __: figures.hidden_links_found(
        {"one": {"a": [0.5, 0.6], "b": [0.7, 0.9]}}, "AUC (fraction)", {"chance": 0.5}
    ),
    "network": lambda _, __: figures.network([figures.Links("links", [MASK])], ("inputs", "outputs")),
    "small_worlds": lambda _, __: figures.small_worlds({"one": SmallWorldness(0.4, 3.0, 0.1, 2.0, 2.7)}),
    "pixel_correlations": lambda _, data: figures.pixel_correlations(
        torch.corrcoef(data.train.images.T).nan_to_num().abs().fill_diagonal_(0), data.image_shape, (4, 3)
    ),
    "stages": lambda _, __: figures.stages(notebooks.overview("ci")),
    "dense_and_sparse": lambda runs, _: figures.dense_and_sparse(runs[0], runs[-1]),
    "mask_and_degrees": lambda _, __: figures.mask_and_degrees(MASK, "one"),
    "decay_design": lambda _, __: figures.decay_design(
        figures.DensityCourse("one", [0, 0.5, 1], [0.5, 0.2, 0.1]), None, 0.1, 0.75, conflict=(0.75, 0.8)
    ),
    "excess_density": lambda _, __: figures.excess_density({"one": [0.5, 0.2], "two": [0.5, 0.3]}, 0.2),
    "pruning_steps": lambda _, __: figures.pruning_steps(
        {"one": [[figures.PruningStep(1, 9, 5, (0.1, 0.2), (0.9, 0.8))]]}
    ),
    "sparsity_courses": lambda _, __: figures.sparsity_courses({"one": [0.5, 0.9]}),
    "race": lambda runs, _: figures.race(runs),
    "timeline": lambda _, __: figures.timeline(),
    "differences_ranked": lambda _, __: figures.differences_ranked(
        [{"method": "set", "difference": -0.02, "interval": 0.01}], "FC"
    ),
    "draw_differences": lambda _, __: figures.draw_differences(
        [{"method": "set", "difference": -0.02, "interval": 0.01}], "loss: mine minus this method", 3, False
    ),
    "topology_change": lambda _, __: figures.topology_change(MASK, OTHER),
    "images": lambda _, data: figures.images(data),
    "verdicts": lambda _, __: figures.verdicts(
        [{"claim": "one", "advantage": 0.5, "interval": 0.25, "verdict": "holds"}]
    ),
    "ranks": lambda _, __: figures.ranks(
        figures.RankStep("one", [3.0, 7.0], "1a"), figures.RankStep("two", [6.0, 2.0], "1a"), [4.5, 4.5]
    ),
    "topology_update": lambda runs, _: figures.topology_update({"kept": MASK}, runs[-1].history[:1], "one", 50),
    "overlap_and_itop": lambda runs, _: figures.overlap_and_itop([run for run in runs if run.history]),
    "overlap_by_rule": lambda runs, _: figures.overlap_by_rule(runs),
    "chances_and_entropy": lambda _, __: figures.chances_and_entropy(
        torch.tensor([1.0, 3.0]), {"T = 1": torch.tensor([0.25, 0.75])}, [0.0, 0.5], [1.0, 0.811]
    ),
    "temperature_ramps": lambda _, __: figures.temperature_ramps({"T = 1 → 3": (1.0, 3.0)}, 100),
    "updates": lambda _, __: figures.updates({"update 1": (MASK, MASK & ~OTHER, OTHER & ~MASK)}),
    "removal_chances": lambda _, __: figures.removal_chances(
        torch.tensor([0.9, 0.1]), torch.tensor([True, False]), 0.5, [0.0, 1.0], {"share": torch.tensor([0.5, 1.0])}
    ),
    "percolating_network": lambda _, __: figures.percolating_network(
        [MASK, torch.ones(2, 3, dtype=torch.bool)], ("inputs", "hidden", "outputs")
    ),
    "anp_by_sparsity": lambda _, __: figures.anp_by_sparsity({"WM": torch.rand(2, 3)}, (0.9, 0.95, 0.99)),
    "neurons_by_layer": lambda _, __: figures.neurons_by_layer({"WM": {"before": [3, 2]}, "RI": {"before": [3, 3]}}),
    "anp_by_epoch": lambda _, __: figures.anp_by_epoch({"WM": [[0.9, 0.5]], "RI": [[0.9, 0.8]]}),
    "vital_signs": lambda _, data: figures.vital_signs(
        *(injected_bugs.run(data, "chtss", 0.9, fault, hidden=16, epochs=3) for fault in (None, "forgotten mask"))
    ),
    "update_courses": lambda _, __: figures.update_courses(update_curves.patients()),
    "attention_map": lambda _, __: figures.attention_map(torch.rand(2, 1, 2), ["▁two", "</s>"], ["▁zwei"], "one"),
    "attention_head": lambda _, __: figures.attention_head(MASK, MASK, 1, 0),
    "learning_rates": lambda _, __: figures.learning_rates(translation.Recipe(), 64, [100, 200]),
    "length_buckets": lambda _, __: figures.length_buckets(torch.tensor([3, 4]), {"one": [torch.tensor([0, 1])]}),
    "translation_race": lambda _, __: figures.translation_race([translation_run()]),
    "learning_curves": lambda _, __: figures.learning_curves({"set": [[(1, 0.5), (2, 0.75)]] * 2}, "accuracy"),
    "two_compared": lambda _, __: figures.two_compared(
        {"set": [[(1, 0.5), (2, 0.75)]] * 2}, "accuracy", {0: 0.5, 1: 0.25}, "difference", "one"
    ),
    "empty": lambda _, __: figures.empty("nothing", "step", "score"),
    "loss_race": lambda _, __: figures.loss_race([language_run()]),
    "scores_by_method": lambda _, __: figures.scores_by_method(
        [{"method": "set", "sparsity": 0.9, "mean": 28.0, "interval": 2.0}], PAPER_TABLE_1["multi30k"]
    ),
}


# Without titles, ticks and lines of axes.
DRAWINGS = {
    "blocks",
    "images",
    "learning_by_links",
    "local_community",
    "network",
    "percolating_network",
    "ranks",
    "similar_partners",
    "stages",
    "updates",
}


def language_run() -> language.Run:
    given: dict[str, Any] = dict.fromkeys(language.Run.__dataclass_fields__) | {
        "method": "set",
        "looks": [language.Look(100, 5.0), language.Look(200, 4.0)],
        "first_masks": {"w": MASK},
        "last_masks": {"w": MASK},
    }
    return language.Run(**given)


def translation_run() -> translation.Run:
    given: dict[str, Any] = dict.fromkeys(translation.Run.__dataclass_fields__) | {
        "method": "set",
        "looks": [translation.Look(100, 2.0, 10.0), translation.Look(200, 1.0, 20.0)],
        "first_masks": {"w": MASK},
        "last_masks": {"w": MASK},
    }
    return translation.Run(**given)


def test_every_figure_is_tested() -> None:
    public = {
        name
        for name, function in inspect.getmembers(figures, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__.startswith(f"{figures.__name__}.")
        and typing.get_type_hints(function).get("return") is Figure
    }
    assert public == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_the_picture_is_a_png_and_the_style_is_left_as_it_was(
    name: str, runs: list[Run], digits: ImageData
) -> None:
    with pyplot.rc_context():
        pyplot.rcdefaults()
        before = dict(pyplot.rcParams)
        figure = FIGURES[name](runs, digits)
        picture = figures.to_png(figure)
        assert dict(pyplot.rcParams) == before
    assert isinstance(figure, Figure)
    assert figure.axes
    for axes in figure.axes:
        if name in DRAWINGS:
            assert not axes.axison
            continue
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>", f"no x label at {axes.get_title()!r}"
        assert axes.get_ylabel(), f"no y label at {axes.get_title()!r}"
    assert picture.startswith(PNG_SIGNATURE)
    assert len(picture) > 1000
    assert pyplot.get_fignums() == []  # nothing is left for a notebook to show twice, nor in memory


@pytest.mark.parametrize("name", FIGURES)
def test_axes_show_what_can_be_with_few_curves_and_honest_bars(name: str, runs: list[Run], digits: ImageData) -> None:
    for axes in FIGURES[name](runs, digits).axes:
        for label, limits in ((axes.get_xlabel(), axes.get_xlim()), (axes.get_ylabel(), axes.get_ylim())):
            # Under a mask a step takes longer than the dense one, so the meter may have more than 100 %.
            if "%" in label and name != "cost_meter":
                assert max(limits) <= 100 + 1e-9, f"{label!r} ends at {max(limits):.1f}"
            if any(unit in label for unit in ("(%)", "(fraction)", "step", "epoch")) and " minus " not in label:
                assert min(limits) >= 0, f"{label!r} begins at {min(limits):.1f}"
        bars = [bar for container in axes.containers if isinstance(container, BarContainer) for bar in container]
        if bars:
            assert axes.get_xscale() == axes.get_yscale() == "linear"
            assert min(bar.get_height() for bar in bars) >= 0 == min(axes.get_ylim())
        curves = [line for line in axes.lines if line.get_linestyle() != "None" and line.get_color() != PALE]
        assert sum(not str(line.get_label()).startswith("_") for line in curves) <= 5 or name in DRAWINGS


def test_the_axis_of_a_race_ends_at_100_percent(with_curves: Callable[..., list[Run]]) -> None:
    (axes,) = figures.race(with_curves([0.5, 1.0], [0.6, 1.0])).axes
    assert axes.get_ylim() == (52, 100)  # three points below the lowest mean
    assert not any(line.get_clip_on() for line in axes.lines)  # so the marker at 100 % is whole


def test_differences_are_ranked_with_their_intervals() -> None:
    rows = [
        {"method": "set", "difference": -0.083, "interval": 0.066},
        {"method": "gmp", "difference": 0.0125, "interval": 0.024},
        {"method": "mine", "difference": -0.02, "interval": None},
    ]
    (axes,) = figures.differences_ranked(rows, "FC").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SET", "mine", "GMP"]  # the best on top
    assert [text.get_text() for text in axes.texts] == ["-8.3 ± 6.6", "-2.0", "+1.2 ± 2.4"]
    assert axes.get_xlabel() == "test accuracy minus FC (percentage points)"
    bars = [bar.get_segments()[0] for bar in axes.collections]
    np.testing.assert_allclose(bars[0], [[-14.9, 0], [-1.7, 0]])
    np.testing.assert_allclose(bars[2], [[-1.15, 2], [3.65, 2]])
    (axes,) = figures.draw_differences(rows, "nats", 3, higher_is_better=False).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GMP", "mine", "SET"]  # the smallest on top
    assert [text.get_text() for text in axes.texts] == ["+0.013 ± 0.024", "-0.020", "-0.083 ± 0.066"]


@pytest.mark.parametrize(("other", "told"), [("1a", "equal: the run continues"), ("2b", "not equal: the run stops")])
def test_ranks_are_drawn_with_what_they_have(other: str, told: str) -> None:
    left, right = figures.RankStep("one", [3.0, 7.0], "1a"), figures.RankStep("two", [6.0, 2.0], other)
    (axes,) = figures.ranks(left, right, [4.5, 4.5]).axes
    words = [text.get_text() for text in axes.texts if text.get_text()]
    assert words[-1] == told
    assert [word for word in words if "gradient" in word] == ["its own gradient\n3, 7", "its own gradient\n6, 2"]
    assert [word.endswith("4.5, 4.5") for word in words].count(True) == 3  # both ranks, and the all-reduce
    assert f"the hash of its mask\n{other}" in words


def test_showing_a_figure_tells_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[dict[str, str], dict[str, Any]]] = []

    def display(content: dict[str, str], *, raw: bool, metadata: dict[str, Any] | None = None) -> None:
        assert raw
        shown.append((content, metadata or {}))

    monkeypatch.setattr(IPython.display, "display", display)
    figures.show(figures.masks({"one": MASK}), "Five links.")
    (picture, metadata), (caption, _) = shown
    assert base64.b64decode(picture["image/png"]).startswith(PNG_SIGNATURE)
    assert metadata == {"image/png": {"alt": "Five links.", "width": 290, "height": 270}}
    # Twice as many pixels as it takes on a screen: width and height stand after the signature and a chunk's header.
    assert np.frombuffer(base64.b64decode(picture["image/png"])[16:24], ">u4").tolist() == [580, 540]
    assert picture["text/plain"] == caption["text/plain"] == "Five links."
    assert caption["text/markdown"] == "*Five links.*"


def test_a_logarithmic_axis_has_plain_numbers_at_1_2_and_5() -> None:
    with figures.new_figure(3, 2) as (figure, (axes,)):
        axes.plot([1, 100], [1, 100])
        use_log_scale(axes, "x")
    figures.to_png(figure)
    low, high = axes.get_xlim()
    shown = [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
    assert shown == ["1", "2", "5", "10", "20", "50", "100"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def points(axes: Axes, line: int = 0) -> set[tuple[int, int]]:
    """Rows and columns of the marks of a line."""
    columns, rows = axes.lines[line].get_data()
    return set(zip(np.asarray(rows).tolist(), np.asarray(columns).tolist(), strict=True))


def links(mask: torch.Tensor) -> set[tuple[int, int]]:
    return {(row, column) for row, column in mask.nonzero().tolist()}


def test_a_mask_is_drawn_link_by_link_with_row_0_on_top() -> None:
    left, right = figures.masks({"one": MASK, "two": OTHER}).axes
    assert points(left) == links(MASK)
    assert points(right) == links(OTHER)
    assert [left.get_title(), right.get_title()] == ["one", "two"]
    assert left.get_xlim() == (-0.5, 3.5)
    assert left.get_ylim() == (2.5, -0.5)
    assert (left.get_xlabel(), left.get_ylabel()) == ("input neuron", "output neuron")


def test_a_mask_without_links_is_drawn_too() -> None:
    (axes,) = figures.masks({"none": torch.zeros(3, 4, dtype=torch.bool)}).axes
    assert points(axes) == set()


def histograms(axes: Axes) -> dict[str, dict[int, int]]:
    """By name, neurons by number of links, read off the outlines of histograms."""
    return {
        # An outline goes up at the left edge of each bin and holds its height to the right edge.
        patch.get_label(): {
            round((left + right) / 2): round(height)
            for (left, height), (right, same) in pairwise(np.asarray(patch.get_xy()))
            if right > left and height == same and height > 0
        }
        for patch in axes.patches
    }


def legend_names(figure: Figure) -> set[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return {text.get_text() for legend in legends if legend is not None for text in legend.get_texts()}


def test_degrees_are_counted() -> None:
    figure = figures.degree_histograms({"one": MASK, "two": OTHER})
    outputs, inputs = figure.axes
    # MASK has 2, 2 and 1 links per output and 1, 2, 1 and 1 per input; OTHER has as many per output.
    assert histograms(outputs) == {"one": {1: 1, 2: 2}, "two": {1: 1, 2: 2}}
    assert histograms(inputs) == {"one": {1: 3, 2: 1}, "two": {0: 1, 1: 2, 3: 1}}
    assert "output" in outputs.get_xlabel()
    assert "input" in inputs.get_xlabel()
    assert legend_names(figure) == {"one", "two"}


def test_a_mask_and_its_degrees() -> None:
    figure = figures.mask_and_degrees(MASK, "one")
    left, right = figure.axes
    assert points(left) == links(MASK)
    assert histograms(right) == {"outputs": {1: 1, 2: 2}, "inputs": {1: 3, 2: 1}}
    assert legend_names(figure) == {"outputs", "inputs"}


def test_no_network_is_left_out_of_the_degrees() -> None:
    named = {f"network {number}": MASK for number in range(6)}
    figure = figures.degree_histograms(named)
    assert all(set(histograms(axes)) == set(named) for axes in figure.axes)
    assert legend_names(figure) == set(named)


def test_what_changed_adds_up() -> None:
    figure = figures.topology_change(MASK, OTHER)
    before, after, changed = figure.axes
    assert (before.get_title(), after.get_title()) == ("before: 5 links", "after: 5 links")
    (legend,) = figure.legends
    drawn = {
        text.get_text(): set().union(
            *(points(changed, index) for index, line in enumerate(changed.lines) if line.get_color() == key.get_color())
        )
        for text, key in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert drawn == {
        "removed: 2": links(MASK & ~OTHER),
        "regrown: 2": links(OTHER & ~MASK),
        "kept: 3": links(MASK & OTHER),
    }


@pytest.fixture
def with_curves(runs: list[Run]) -> Callable[..., list[Run]]:
    """Runs of one method with the validation accuracies given."""

    def make(*curves: list[float], method: str = "chts") -> list[Run]:
        return [replace(runs[0], method=method, validation_accuracy=curve) for curve in curves]

    return make


def test_the_race_shows_means_in_percent(with_curves: Callable[..., list[Run]]) -> None:
    figure = figures.race([*with_curves([0.5, 0.7], [0.7, 0.9]), *with_curves([0.2, 0.4], [0.2, 0.4], method="mine")])
    (axes,) = figure.axes
    curves = {str(line.get_label()): np.asarray(line.get_data()).T.tolist() for line in axes.lines}
    assert set(curves) == {"CHTs", "mine"}
    np.testing.assert_allclose(curves["CHTs"], [[1, 60], [2, 80]])
    np.testing.assert_allclose(curves["mine"], [[1, 20], [2, 40]])


def test_bands_of_the_race_stay_between_0_and_100(with_curves: Callable[..., list[Run]]) -> None:
    # Two values so far apart have an interval of ±12.7 standard errors: below 0 and above 100 %.
    figure = figures.race(with_curves([0.05, 0.95], [0.15, 0.99]))
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == 0
    assert heights.max() == 100


def test_the_band_is_the_interval_where_it_fits(with_curves: Callable[..., list[Run]]) -> None:
    values = [0.50, 0.51, 0.52]
    figure = figures.race(with_curves(*([value, value] for value in values)))
    mean, interval = statistics.mean_and_interval(values)
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (
        pytest.approx(100 * (mean - interval)),
        pytest.approx(100 * (mean + interval)),
    )


def test_a_race_of_one_seed_has_lines_and_no_band(with_curves: Callable[..., list[Run]]) -> None:
    figure = figures.race(with_curves([0.5, 0.6]))
    assert len(figure.axes[0].lines) == 1
    assert figures.to_png(figure).startswith(PNG_SIGNATURE)


def test_overlap_and_itop_are_means_over_layers_and_seeds(runs: list[Run]) -> None:
    chts = [run for run in runs if run.method == "chts"]
    left, right = figures.overlap_and_itop(chts).axes
    steps = sorted({row["step"] for run in chts for row in run.history})
    for axes, column in ((left, "overlap"), (right, "itop")):
        (line,) = axes.lines
        expected = [
            100 * np.mean([row[column] for run in chts for row in run.history if row["step"] == step])  # type: ignore[literal-required]
            for step in steps
        ]
        np.testing.assert_allclose(np.asarray(line.get_data()), [steps, expected])


def test_colour_images_are_shown_in_their_colours() -> None:
    planes = torch.arange(3 * 2 * 4) / 23  # red, green, blue; 2 rows and 4 columns each
    part = Split(planes.repeat(2, 1), torch.tensor([7, 1]))
    panels = figures.images(ImageData("colours", part, part, part, (3, 2, 4), 10), count=2).axes
    assert [axes.get_title() for axes in panels] == ["7", "1"]
    shown = np.asarray(panels[1].images[0].get_array())
    assert shown.shape == (2, 4, 3)
    for red in range(8):
        np.testing.assert_allclose(shown[red // 4, red % 4], np.array([red, red + 8, red + 16]) / 23, rtol=1e-6)


def test_images_are_shown_below_their_classes(digits: ImageData) -> None:
    panels = figures.images(digits, count=3).axes
    assert [axes.get_title() for axes in panels] == [str(int(label)) for label in digits.train.labels[:3]]
    for axes, image in zip(panels, digits.train.images, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), image.view(8, 8))
