"""The density designer, and the figures of density decay."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import chts_core as chts
from chts_core.choices import Cubic, Sigmoid
from chts_core.lab import figures, models
from chts_core.lab.figures import PruningStep
from chts_core.lab.widgets import DensityDesigner, DensityState
from chts_core.lab.widgets.density import Schedule

compute = DensityDesigner.compute


def hatched(figure: object) -> list[tuple[float, float]]:
    """From where to where a panel is hatched."""
    return [
        (float(patch.get_x()), float(patch.get_x() + patch.get_width()))
        for axes in figure.axes  # type: ignore[attr-defined]
        for patch in axes.patches
        if patch.get_hatch()
    ]


# --- the numbers ---


@pytest.mark.parametrize(
    "state",
    [
        DensityState(),
        DensityState(schedule="cubic", end=0.75),
        DensityState(start=0.25, end=0.5, k=12.0, initial=0.2, final=0.9),
        DensityState(schedule="cubic", start=0.1, end=0.7, final=0.99, stop=0.9),
    ],
)
def test_flops_are_those_of_the_planner(state: DensityState) -> None:
    # A model of one layer, which is as sparse as the designer's.
    model = models.mlp(1000, 1000, 10, layers=1, generator=torch.Generator())
    schedule = (
        Cubic(state.initial, state.start, state.end)
        if state.schedule == "cubic"
        else Sigmoid(state.initial, state.start, state.end, state.k)
    )
    base = chts.METHODS["chtss"]
    method = replace(base, sparsity=schedule, turnover=replace(base.turnover, stop=state.stop))
    steps = state.updates * 10
    planned = chts.plan(model, method, state.final, total_steps=steps, update_every=10, exclude="2")
    everything, dense = 1000 * 1000 + 1000 * 10, 1000 * 10
    sparse_share = (planned.flops * everything - dense) / (1000 * 1000)
    assert compute(state).flops == pytest.approx(sparse_share, abs=1e-9)
    (links,) = planned.budget.links(planned.budget.timeline.last_update).values()
    assert sum(compute(state).removed) == round((1 - state.initial) * 1e6) - links


def test_the_cubic_decay_by_hand() -> None:
    # Four updates in a window that is the whole run: (1 - u)³ at u = 0, 1/4, 1/2, 3/4 and 1.
    result = compute(
        DensityState(schedule="cubic", initial=0.0, final=0.5, end=1.0, stop=1.0, updates=4, layer=(8, 16))
    )
    density = [0.5 + 0.5 * (1 - u) ** 3 for u in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(result.chosen.density, density)
    links = [128, 91, 72, 65, 64]  # 128 times those, to the nearest integer
    assert result.removed == [37, 19, 7, 1]
    assert result.flops == sum(links[:-1]) / (4 * 128)


@pytest.mark.parametrize(("schedule", "end", "other_end"), [("sigmoid", 0.4, 0.7), ("cubic", 0.7, 0.4)])
def test_the_other_schedule_costs_as_much(schedule: str, end: float, other_end: float) -> None:
    result = compute(DensityState(schedule=schedule, start=0.1, end=end))  # type: ignore[arg-type]
    assert result.other_end == pytest.approx(other_end)
    assert result.other is not None
    assert sum(result.other.density[:-1]) == pytest.approx(sum(result.chosen.density[:-1]), abs=0.02)
    assert result.other.name.split()[0] == {"sigmoid": "cubic", "cubic": "sigmoid"}[schedule]


def test_half_a_window_need_not_be_a_whole_number_of_updates() -> None:
    result = compute(DensityState(schedule="cubic", end=0.025, updates=80))
    assert result.other_end == 0.0125
    assert result.other is not None
    np.testing.assert_allclose(result.other.density[:3], [0.5, 0.05, 0.05])


# --- the sentence ---


def test_the_sentence_tells_what_is_computed() -> None:
    result = compute(DensityState())
    steepest = max(result.removed)
    before = 500_000 - sum(result.removed[: result.removed.index(steepest)])
    assert f"removes {steepest:,} of {before:,} links" in result.description
    assert f"takes {result.flops:.1%} of the dense" in result.description
    assert "(5.0% if the sparsity is 0.95 from the first step on)" in result.description
    assert "would end at 75 %, no later than the last update at 75 %" in result.description
    assert re.search(r"at 18\.75 %, removes", result.description)  # the middle of 0 to 37.5 %


def test_a_rival_that_comes_too_late_is_told() -> None:
    result = compute(DensityState(end=0.5))
    assert "would end at 100 %, after the last update at 75 %, so no cubic decay" in result.description
    assert result.conflict is None


@pytest.mark.parametrize(
    ("state", "told", "where"),
    [
        (DensityState(start=0.4, end=0.2), ("end at 20 %", "start at 40 %"), (20, 40)),
        (DensityState(start=0.3, end=0.3), ("end at 30 %", "start at 30 %"), (30, 30.5)),
        (DensityState(final=0.3), ("fall from 0.50 to 0.30",), (0, 37.5)),
        (DensityState(end=0.8), ("end at 80 %", "stop at 75 %", "0.9488"), (75, 80)),
    ],
)
def test_what_cannot_be_is_explained_and_hatched(
    state: DensityState, told: tuple[str, ...], where: tuple[float, float]
) -> None:
    result = compute(state)
    assert result.description.startswith("This run is impossible: ")
    for part in told:
        assert part in result.description
    assert result.other is None
    figure = DensityDesigner.draw(state, result)
    assert hatched(figure) == [pytest.approx(where)] * 2
    assert not figure.axes[0].collections  # a run that cannot be costs nothing


def test_a_decay_that_outlives_the_updates_stays_where_it_was() -> None:
    # The published LLaMA setting: a window of 8000 of 10,000 steps, updates until 7500.
    result = compute(DensityState(final=0.9, end=0.8, updates=100))
    assert result.chosen.density[75:] == pytest.approx([0.1011] * 26, abs=5e-5)
    assert "0.8989" in result.description


EXTREMES = {
    "k": (1.0, 20.0),
    "initial": (0.0, 0.95),
    "final": (0.05, 0.99),
    "start": (0.0, 0.9),
    "end": (0.025, 1.0),
    "stop": (0.05, 1.0),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, ends in EXTREMES.items() for value in ends])
def test_extremes_are_drawn(field: str, value: float) -> None:
    # Both are drawn over both axes; a picture of either shows whether it can be.
    first: Schedule = "sigmoid" if field == "k" or value == EXTREMES[field][0] else "cubic"
    second: Schedule = "cubic" if first == "sigmoid" else "sigmoid"
    for schedule in (first, second):
        state = replace(DensityState(schedule=schedule), **{field: value})  # type: ignore[arg-type]
        result = compute(state)
        assert all(0 <= density <= 1 for density in result.chosen.density)
        figure = DensityDesigner.draw(state, result)
        if schedule == first:
            assert len(figures.to_png(figure)) > 1000


def test_the_ends_of_the_sliders_are_those_tested() -> None:
    controls = DensityDesigner().controls
    assert {name: (c.min, c.max) for name, c in controls.items() if name != "schedule"} == EXTREMES


# --- the figures ---


def step(at: int, before: int, after: int, accuracy: tuple[float, float]) -> PruningStep:
    return PruningStep(at, before, after, (0.25, 0.75), accuracy)


def curve(axes: Axes, label: str) -> list[list[float]]:
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return np.asarray(line.get_data()).T.tolist()


def test_a_pruning_step_counts_its_cost() -> None:
    one = step(20, 200, 150, (0.9, 0.6))
    assert (one.removed, one.share, one.rise) == (50, 0.25, 0.5)
    assert one.drop == pytest.approx(30)


def test_pruning_steps_are_means_over_seeds_in_percent() -> None:
    runs = [
        [step(20, 200, 150, (0.9, 0.8)), step(40, 150, 60, (0.9, 0.5))],
        [step(20, 200, 150, (0.9, 0.7)), step(40, 150, 60, (0.8, 0.6))],
    ]
    removed, share, lost = figures.pruning_steps({"cubic": runs}).axes
    assert curve(removed, "cubic") == [[20, 50], [40, 90]]
    np.testing.assert_allclose(curve(share, "cubic"), [[20, 25], [40, 60]])
    np.testing.assert_allclose(curve(lost, "cubic"), [[20, 15], [40, 30]])
    marks = [line.get_ydata() for line in lost.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(marks, [[10, 40], [20, 20]])


def test_the_excess_density_is_the_area_above_the_final_one() -> None:
    # A straight line from 50 to 10 %: 20 % on average above the final 10 %.
    left, right = figures.excess_density({"line": [0.5, 0.3, 0.1], "flat": [0.1, 0.1, 0.1]}, final=0.1).axes
    assert (left.get_title(), right.get_title()) == (
        "line: excess 20.0 % of all links",
        "flat: excess 0.0 % of all links",
    )
    assert left.get_ylim() == right.get_ylim()


def test_courses_run_over_the_whole_window() -> None:
    (axes,) = figures.sparsity_courses({"a": [0.5, 0.7, 0.9], "b": [0.5, 0.9]}).axes
    np.testing.assert_allclose(curve(axes, "a"), [[0, 0.5], [0.5, 0.7], [1, 0.9]])
    np.testing.assert_allclose(curve(axes, "b"), [[0, 0.5], [1, 0.9]])
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in axes.lines}) == 2


def test_the_design_shows_the_links_that_each_update_removes() -> None:
    state = DensityState(schedule="cubic", initial=0.0, final=0.5, end=1.0, stop=1.0, updates=4)
    left, right = DensityDesigner.figure(state).axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in right.patches]
    heights = [50 * ((1 - u) ** 3 - (0.75 - u) ** 3) for u in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(bars, list(zip((25, 50, 75, 100), heights, strict=True)))
    np.testing.assert_allclose(curve(left, "cubic")[0], [0, 100])
    assert len(left.collections) == 1  # the cost, shaded
    assert {line.get_label() for line in left.lines} == {"cubic", "sigmoid (k = 6)", "constant", "last update"}
