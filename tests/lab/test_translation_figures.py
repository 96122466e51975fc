from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from chts_core.lab import figures
from chts_core.lab.figures.style import METHOD_LABELS
from chts_core.lab.results.paper import PAPER_TABLE_1
from chts_core.lab.train.translation import Look, Recipe, Run, learning_rate_at

FALLING = ("mest", "gmp", "granet", "chtss")
SOURCE, TARGET = ["▁for", "ty", "-", "two", "</s>"], ["▁zwei", "und", "vierzig", "</s>"]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


# --- attention ---


def test_an_attention_map_has_a_cell_for_each_pair_of_pieces() -> None:
    weights = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    axes, bar = figures.attention_map(weights, SOURCE, TARGET).axes
    assert np.array_equal(axes.images[0].get_array(), weights.numpy())
    assert axes.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == SOURCE
    assert [label.get_text() for label in axes.get_yticklabels()] == TARGET
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("piece attended to", "piece that attends")
    assert bar.get_ylabel() == "attention weight"


@pytest.mark.parametrize("heads", [1, 3, 4, 6, 8])
def test_each_head_has_a_panel(heads: int) -> None:
    weights = torch.rand(heads, 4, 5, generator=torch.Generator().manual_seed(0))
    figure = figures.attention_map(weights, SOURCE, TARGET)
    assert titles(figure) == [f"head {head}" for head in range(heads)]
    for axes, weight in zip(figure.axes, weights, strict=False):
        assert np.array_equal(axes.images[0].get_array(), weight.numpy())
    assert figure.get_figwidth() <= 9.2


def test_pieces_are_text_and_no_formulas() -> None:
    axes = figures.attention_map(torch.ones(1, 2), ["$", "^$"], ["</s>"]).axes[0]
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())


def test_a_head_shows_its_rows_and_marks_those_with_one_side_alone() -> None:
    query = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    key = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    figure = figures.attention_head(query, key, heads=2, head=0)
    left, middle, right = figure.axes
    assert (left.get_title(), middle.get_title()) == ("queries of head 0: 2 links", "keys of head 0: 3 links")
    counts = {
        str(line.get_label()): list(line.get_xdata()) for line in right.lines if line.get_label() in ("queries", "keys")
    }
    assert counts == {"queries": [2, 0], "keys": [1, 2]}
    assert [(patch.get_y(), patch.get_height()) for patch in right.patches] == [(0.5, 1.0)]  # row 1
    assert len(figures.attention_head(query, key, heads=2, head=1).axes[2].patches) == 1  # its row 0


# --- training ---


def test_learning_rates_come_back_after_each_update() -> None:
    recipe = Recipe(steps=40, warmup=10, iterative_warmup=4)
    (axes,) = figures.learning_rates(recipe, 64, [15, 30]).axes
    course, plain = (np.asarray(line.get_ydata()) for line in axes.lines[:2])
    assert plain.tolist() == [learning_rate_at(step, 64, recipe) for step in range(1, 41)]
    share = course / plain
    assert share[:15].tolist() == [1] * 15
    assert share[15:20] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert share[30:34] == pytest.approx([0.25, 0.5, 0.75, 1])


def test_length_buckets_show_tokens_and_padding() -> None:
    lengths = torch.tensor([3, 8, 4, 9])
    batches = {"as they come": [[0, 1], [2, 3]], "by length": [[0, 2], [1, 3]]}
    figure = figures.length_buckets(lengths, {name: list(map(torch.tensor, of)) for name, of in batches.items()})
    assert titles(figure) == ["as they come: 29.4% padding", "by length: 7.7% padding"]
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [11, 13, 5, 5]
    assert [bar.get_height() for bar in right.patches] == [7, 17, 1, 1]
    assert left.get_ylim() == right.get_ylim()


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(method: str, *bleu: float, seed: int = 0) -> Run:
        full, sparse = torch.ones(2, 4), torch.eye(2, 4)
        first = full if method == "fc" else sparse + sparse.flip(1) if method in FALLING else sparse
        last = full if method == "fc" else sparse
        looks = [Look(100 * number, 1.0, value) for number, value in enumerate(bleu, start=1)]
        given: dict[str, Any] = dict.fromkeys(Run.__dataclass_fields__) | {
            "method": method,
            "seed": seed,
            "looks": looks,
            "density": float(last.mean()),
            "first_masks": {"w": first.bool()},
            "last_masks": {"w": last.bool()},
        }
        return Run(**given)

    return make


def test_a_race_of_translators_is_drawn_by_step(make_run: Callable[..., Run]) -> None:
    runs = [make_run("set", 10, 20), make_run("set", 14, 24, seed=1), make_run("fc", 5, 30)]
    (axes,) = figures.translation_race(runs).axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert np.asarray(lines["SET"].get_xdata()).tolist() == [100, 200]
    assert np.asarray(lines["SET"].get_ydata()).tolist() == [12, 22]
    assert np.asarray(lines["FC"].get_ydata()).tolist() == [5, 30]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "BLEU on the validation pairs")


def test_nine_methods_are_raced_in_two_panels(make_run: Callable[..., Run]) -> None:
    figure = figures.translation_race([make_run(method, 1, 2) for method in METHOD_LABELS])
    names = [{line.get_label() for line in axes.lines} for axes in figure.axes]
    assert names == [{"FC", "SET", "RigL", "CHT", "CHTs"}, {"FC", "MEST", "GMP", "GraNet", "CHTss"}]


# --- scores ---

ROWS: list[dict[str, Any]] = [
    {"method": "fc", "sparsity": 0.95, "mean": 30.0, "interval": 1.0},
    {"method": "set", "sparsity": 0.9, "mean": 28.0, "interval": 2.0},
    {"method": "set", "sparsity": 0.95, "mean": 27.0, "interval": None},
    {"method": "chts", "sparsity": 0.9, "mean": 29.0, "interval": 0.5},
]


def points(axes: Any) -> dict[str, list[float]]:
    return {str(of.get_label()): of.lines[0].get_xdata().tolist() for of in axes.containers}


def test_scores_are_points_by_method_and_fc_is_a_line() -> None:
    (axes,) = figures.scores_by_method(ROWS, xlabel="exact (%)").axes
    assert points(axes) == {"sparsity 90 %": [28.0, 29.0], "sparsity 95 %": [27.0]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SET", "CHTs"]
    (fc,) = [line for line in axes.lines if line.get_label() == "FC"]
    assert list(fc.get_xdata()) == [30.0, 30.0]
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (29.0, 2.0)
    assert axes.get_xlabel() == "exact (%)"


def test_the_papers_scores_stand_beside_ours() -> None:
    left, right = figures.scores_by_method(ROWS, PAPER_TABLE_1["multi30k"]).axes
    names = [[label.get_text() for label in axes.get_yticklabels()] for axes in (left, right)]
    assert names[0] == names[1] == ["SET", "RigL", "MEST", "GMP", "GraNet", "CHT", "CHTs", "CHTss"]
    assert points(right)["sparsity 95 %"] == [
        PAPER_TABLE_1["multi30k"][method][0.95][0] for method in PAPER_TABLE_1["multi30k"] if method != "fc"
    ]
    assert points(left) == points(figures.scores_by_method(ROWS).axes[0])


def test_scores_without_fc_have_no_line() -> None:
    (axes,) = figures.scores_by_method([row for row in ROWS if row["method"] != "fc"]).axes
    assert not [line for line in axes.lines if line.get_label() == "FC"]
