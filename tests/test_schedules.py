import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chts_core as chts
from chts_core.schedules import Timeline

SPARSITIES = st.floats(0, 0.999)


# --- density ---


@pytest.mark.parametrize(
    ("step", "k", "expected"),
    [
        # 0.5 + 0.45 · share, the share worked out to 30 digits from σ(x) = 1 / (1 + e^-x)
        (125, 6.0, 0.520329496878910459),
        (150, 6.0, 0.725),
        (175, 6.0, 0.929670503121089540),
        (190, 6.0, 0.947426798285270631),
        (125, 2.0, 0.588475369958666833),
        (190, 2.0, 0.921178334801907260),
    ],
)
def test_sigmoid_at_computed_points(step: int, k: float, expected: float) -> None:
    assert chts.schedules.sigmoid_sparsity(step, 100, 200, 0.5, 0.95, k) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # 0.95 - 0.45 (1 - u)³ at u = 1/5, 1/2, 9/10
        (120, 0.7196),
        (150, 0.89375),
        (190, 0.94955),
    ],
)
def test_cubic_at_computed_points(step: int, expected: float) -> None:
    assert chts.schedules.cubic_sparsity(step, 100, 200, 0.5, 0.95) == pytest.approx(expected, rel=1e-14)


DECAYS = pytest.mark.parametrize("decay", [chts.schedules.sigmoid_sparsity, chts.schedules.cubic_sparsity])


@DECAYS
@pytest.mark.parametrize(("initial", "final"), [(0.5, 0.95), (0.5, 0.9), (0.0, 0.99), (0.1, 0.7), (0.9, 0.95)])
def test_decays_start_and_end_exactly(decay: Callable[..., float], initial: float, final: float) -> None:
    assert [decay(step, 100, 200, initial, final) for step in (0, 100)] == [initial] * 2
    assert [decay(step, 100, 200, initial, final) for step in (200, 201, 10**9)] == [final] * 3


@given(initial=SPARSITIES, final=SPARSITIES, start=st.integers(0, 50), length=st.integers(1, 200))
def test_cubic_endpoints_are_exact(initial: float, final: float, start: int, length: int) -> None:
    assert chts.schedules.cubic_sparsity(start, start, start + length, initial, final) == initial
    assert chts.schedules.cubic_sparsity(start + length, start, start + length, initial, final) == final


@given(initial=SPARSITIES, final=SPARSITIES, length=st.integers(1, 200), k=st.floats(0.01, 1e4))
def test_sigmoid_endpoints_are_exact(initial: float, final: float, length: int, k: float) -> None:
    assert chts.schedules.sigmoid_sparsity(0, 0, length, initial, final, k) == initial
    assert chts.schedules.sigmoid_sparsity(length, 0, length, initial, final, k) == final


@DECAYS
def test_decays_are_strictly_monotone_inside_their_window(decay: Callable[..., float]) -> None:
    sparsities = [decay(step, 100, 200) for step in range(100, 201)]
    assert all(before < after for before, after in pairwise(sparsities))


def test_a_steep_sigmoid_is_a_step_and_a_flat_one_a_line() -> None:
    steep = [chts.schedules.sigmoid_sparsity(step, 0, 100, 0.5, 0.9, k=1e4) for step in (10, 50, 90)]
    flat = [chts.schedules.sigmoid_sparsity(step, 0, 100, 0.5, 0.9, k=1e-12) for step in (10, 50, 90)]
    assert steep == pytest.approx([0.5, 0.7, 0.9], rel=1e-12)
    assert flat == pytest.approx([0.54, 0.7, 0.86], rel=1e-12)


@given(step=st.integers(0, 200), k=st.floats(0.1, 30))
def test_sigmoid_is_symmetric_about_the_middle(step: int, k: float) -> None:
    values = [chts.schedules.sigmoid_sparsity(t, 0, 200, 0.5, 0.9, k) for t in (step, 200 - step)]
    assert sum(values) == pytest.approx(1.4, rel=1e-12)


@pytest.mark.parametrize(
    ("decay", "share"), [(chts.schedules.cubic_sparsity, 1 / 4), (chts.schedules.sigmoid_sparsity, 1 / 2)]
)
@pytest.mark.parametrize(("initial", "final"), [(0.5, 0.95), (0.2, 0.9)])
def test_excess_density_over_the_window(
    decay: Callable[..., float], share: float, initial: float, final: float
) -> None:
    # What training costs beyond the final density: (s_f - s_i) / 4 of the window for cubic, / 2 for sigmoid.
    steps = 10_000
    excess = sum(final - decay(step + 0.5, 0, steps, initial, final) for step in range(steps)) / steps
    assert excess == pytest.approx(share * (final - initial), rel=1e-6)


def test_half_the_window_costs_the_sigmoid_as_much_as_the_cubic() -> None:
    steps = 10_000
    cubic = sum(0.9 - chts.schedules.cubic_sparsity(step + 0.5, 0, steps, 0.5, 0.9) for step in range(steps))
    sigmoid = sum(0.9 - chts.schedules.sigmoid_sparsity(step + 0.5, 0, steps // 2, 0.5, 0.9) for step in range(steps))
    assert sigmoid == pytest.approx(cubic, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.85),
        (59, 0.85),
        (60, 0.875),  # the second stage
        (99, 0.875),
        (100, 0.9),  # the end
        (10**9, 0.9),
    ],
)
def test_staged_at_computed_points(step: int, expected: float) -> None:
    assert chts.schedules.staged_sparsity(step, 60, 100, 0.9) == pytest.approx(expected, rel=1e-14)


def test_staged_excess_is_what_was_asked_for() -> None:
    values = [chts.schedules.staged_sparsity(step, 5, 9, 0.8, excess=(0.3, 0.1)) for step in range(12)]
    assert values == pytest.approx([0.5] * 5 + [0.7] * 4 + [0.8] * 3, rel=1e-14)


def test_staged_density_is_at_most_1() -> None:
    values = [chts.schedules.staged_sparsity(step, 1, 2, 0.03) for step in range(3)]
    assert values == pytest.approx([0.0, 0.005, 0.03], abs=1e-15)
    assert values[0] == 0.0


@given(final=SPARSITIES, switch=st.integers(0, 50), length=st.integers(0, 50))
def test_staged_ends_exactly(final: float, switch: int, length: int) -> None:
    values = [chts.schedules.staged_sparsity(step, switch, switch + length, final) for step in range(120)]
    assert values[switch + length :] == [final] * (120 - switch - length)
    assert values == sorted(values)


def test_stages_without_a_length_are_skipped() -> None:
    assert [chts.schedules.staged_sparsity(step, 0, 0, 0.9) for step in (0, 1)] == [0.9, 0.9]
    assert [chts.schedules.staged_sparsity(step, 0, 2, 0.9) for step in (0, 1, 2)] == [0.875, 0.875, 0.9]
    assert [chts.schedules.staged_sparsity(step, 2, 2, 0.9) for step in (0, 1, 2)] == [0.85, 0.85, 0.9]


# --- turnover and temperature ---


def test_cosine_turnover_at_computed_points() -> None:
    # cos 0°, 60°, 90°, 120° = 1, 1/2, 0, -1/2
    values = [chts.schedules.cosine_turnover(step, 600, 0.4) for step in (0, 200, 300, 400)]
    assert values == pytest.approx([0.4, 0.3, 0.2, 0.1], rel=1e-14)


def test_cosine_turnover_starts_and_ends_exactly() -> None:
    assert chts.schedules.cosine_turnover(0, 600, 0.3) == 0.3
    assert [chts.schedules.cosine_turnover(step, 600, 0.3) for step in (600, 601, 10**9)] == [0.0] * 3


def test_cosine_turnover_falls_strictly() -> None:
    values = [chts.schedules.cosine_turnover(step, 600) for step in range(601)]
    assert all(before > after for before, after in pairwise(values))


def test_linear_temperature_at_computed_points() -> None:
    values = [chts.schedules.linear_temperature(step, 800, 1.0, 9.0) for step in (0, 100, 400, 700, 800, 900)]
    assert values == [1.0, 2.0, 5.0, 8.0, 9.0, 9.0]


# --- timeline ---


def test_updates_come_at_multiples_up_to_the_stop() -> None:
    timeline = Timeline(total_steps=20, update_every=4, stop=0.75)
    assert timeline.stop_step == 15
    assert timeline.last_update == 12
    assert [step for step in range(30) if timeline.is_update(step)] == [4, 8, 12]


def test_an_update_at_the_very_stop_counts() -> None:
    timeline = Timeline(total_steps=20, update_every=5, stop=0.75)
    assert [step for step in range(30) if timeline.is_update(step)] == [5, 10, 15]


def test_no_update_fits_before_the_stop() -> None:
    timeline = Timeline(total_steps=20, update_every=16, stop=0.75)
    assert timeline.last_update == 0
    assert not any(timeline.is_update(step) for step in range(30))


def test_fractions_are_meant_as_whole_steps() -> None:
    assert math.floor(0.29 * 100) == 28, "what a plain floor makes of it"
    assert Timeline(100, 1, 0.29).last_update == 29


@pytest.mark.parametrize(
    ("window", "steps"), [((0.0, 0.375), (0, 300)), ((0.0, 0.75), (0, 700)), ((0.25, 0.5), (200, 500))]
)
def test_windows_are_moved_back_to_updates(window: tuple[float, float], steps: tuple[int, int]) -> None:
    assert Timeline(total_steps=1000, update_every=100, stop=0.75).window(*window) == steps


@given(
    total=st.integers(1, 500),
    every=st.integers(1, 60),
    stop=st.floats(0.01, 1),
    share=st.floats(0.01, 1),
)
def test_a_window_ends_at_an_update_that_comes(total: int, every: int, stop: float, share: float) -> None:
    timeline = Timeline(total, every, stop)
    try:
        start, end = timeline.window(0.0, stop * share)
    except ValueError:
        assert stop * share * total < every + 1e-6, "refused although an update fits"
        return
    assert start == 0
    assert timeline.is_update(end)
    assert end <= stop * share * total + 1e-6
