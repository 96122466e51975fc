from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chts_core as chts
from chts_core.engine.linear import SparseLinear
from chts_core.lab import costs, figures, models
from chts_core.lab.costs import LayerTime, MaskedLinear, TrainingCost
from chts_core.lab.data import ImageData


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only moves when it is told to."""
    now = [0.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    return now


def test_actions_take_turns_and_their_medians_are_told(clock: list[float]) -> None:
    calls: list[str] = []
    durations = {"a": iter([9.0, 9, 9, 1, 2, 6]), "b": iter([9.0, 9, 9, 30, 10, 20])}

    def act(name: str) -> None:
        calls.append(name)
        clock[0] += next(durations[name])

    found = costs.median_seconds({"a": lambda: act("a"), "b": lambda: act("b")}, repeats=3)
    assert found == {"a": 2, "b": 20}  # the three of warming up do not count
    assert "".join(calls) == "aaabbb" + "ababab"


def test_a_step_has_all_three_products() -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    step = costs.forward_and_backward(layer, x)
    for _ in range(2):  # every step is alike: nothing adds up
        by_input, by_weight, by_bias = step()
        torch.testing.assert_close(by_input, layer.weight.detach().sum(0).expand(5, 3))
        torch.testing.assert_close(by_weight, x.sum(0).expand(2, 3))
        torch.testing.assert_close(by_bias, torch.full((2,), 5.0))
    assert layer.weight.grad is None
    assert not x.requires_grad  # the one given is as it was


def test_a_masked_layer_multiplies_by_its_mask() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    layer = MaskedLinear(mask)
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x @ (layer.weight * mask).T + layer.bias)


def test_layers_are_timed_at_each_density(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[dict[str, nn.Module]] = []
    monkeypatch.setattr(costs, "forward_and_backward", lambda layer, _: layer)

    def note(actions: dict[str, Any], repeats: int) -> dict[str, float]:
        timed.append(actions)
        return {name: repeats + number for number, name in enumerate(actions)}

    monkeypatch.setattr(costs, "median_seconds", note)
    rows = costs.time_layers(10, 20, 4, [0.1, 0.5], repeats=7, generator=torch.Generator())
    assert rows == [LayerTime(0.1, dense=7, masked=8, links=9), LayerTime(0.5, dense=7, masked=8, links=9)]
    for layers, links in zip(timed, (20, 100), strict=True):
        assert type(layers["dense"]) is nn.Linear
        assert isinstance(layers["masked"], MaskedLinear)
        assert isinstance(layers["links"], SparseLinear)
        assert int(layers["masked"].mask.sum()) == len(layers["links"].values) == links


@pytest.fixture(scope="module")
def measured(digits: ImageData) -> dict[str, TrainingCost]:
    settings: dict[str, Any] = {"hidden": 32, "steps": 12, "updates": 2}
    return {
        "fc": costs.measure_training(digits, "fc", 0.9, **settings),
        "masked": costs.measure_training(digits, "chts", 0.9, **settings),
        "csr": costs.measure_training(digits, "chts", 0.9, execution="csr", **settings),
        "chtss": costs.measure_training(digits, "chtss", 0.9, execution="csr", name="mine", **settings),
    }


# An MLP of 64-32-32-32-10: 2048 + 1024 + 1024 weights that may be sparse, 320 that are not, 106 biases.
SPARSE, DENSE = 2048 + 2 * 1024, 320 + 106
LINKS = 205 + 102 + 102


def test_memory_is_counted_by_hand(measured: dict[str, TrainingCost]) -> None:
    numbers = 3 * 4  # weight, gradient, momentum
    ever = SPARSE // 8
    beginnings = 4 * ((32 + 1 + 64 + 1) + 2 * (32 + 1 + 32 + 1))
    assert measured["fc"].memory == numbers * (SPARSE + DENSE)
    assert measured["masked"].memory == numbers * (SPARSE + DENSE) + SPARSE + ever
    assert measured["csr"].memory == numbers * (LINKS + DENSE) + 12 * LINKS + beginnings + ever


def test_flops_are_those_of_the_plan(measured: dict[str, TrainingCost], digits: ImageData) -> None:
    model = models.mlp(digits.features, 32, digits.classes, generator=torch.Generator().manual_seed(0))
    for name, cost in measured.items():
        method = {"masked": "chts", "csr": "chts"}.get(name, name)
        assert cost.flops == chts.plan(model, method, 0.9, total_steps=12, update_every=4).flops
    assert measured["fc"].flops == 1
    assert measured["csr"].flops == measured["masked"].flops < measured["chtss"].flops < 1


def test_the_course_goes_from_update_to_update(measured: dict[str, TrainingCost]) -> None:
    (_, first), *_, (_, last) = measured["chtss"].course
    assert (first, last) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.1, abs=0.01))
    assert {round(density, 6) for _, density in measured["csr"].course} == {round(LINKS / SPARSE, 6)}
    assert all(seconds > 0 for cost in measured.values() for seconds, _ in cost.course)


def test_a_dense_model_has_no_updates_and_rows_have_names(measured: dict[str, TrainingCost]) -> None:
    assert measured["fc"].update == 0 < measured["csr"].update
    assert measured["csr"].step > 0
    assert [cost.name for cost in measured.values()] == ["fc, masked", "chts, masked", "chts, csr", "mine"]


def test_the_meter_is_in_per_cent_of_the_first() -> None:
    rival = TrainingCost("FC", 1.0, 0.2, 0.0, 1000, [(0.2, 1.0)])
    half = replace(rival, name="half", flops=0.1, step=0.05, memory=500)
    (axes,) = figures.cost_meter([rival, half]).axes
    assert not axes.containers  # a bar has no beginning on a logarithmic axis
    places = {str(line.get_label()): np.asarray(line.get_xdata()).round(6).tolist() for line in axes.lines}
    assert places | {"FLOPs, in theory": [100, 10], "time of a step, measured": [100, 25]} == places
    assert places["memory, measured"] == [100, 50]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FC", "half"]


def test_times_are_drawn_in_milliseconds_by_per_cent() -> None:
    rows = [LayerTime(0.01, 0.002, 0.003, 0.001), LayerTime(0.5, 0.002, 0.003, 0.004)]
    (axes,) = figures.layer_times(rows, crossover=0.25).axes
    *curves, mark = axes.lines
    assert list(mark.get_xdata()) == [25, 25]
    assert "crossover\n25%" in [text.get_text() for text in axes.texts]
    assert {str(line.get_label()): np.asarray(line.get_data()).tolist() for line in curves} == {
        "dense": [[1, 50], [2, 2]],
        "masked": [[1, 50], [3, 3]],
        "csr": [[1, 50], [1, 4]],
    }
    assert len(figures.layer_times(rows, crossover=1.0).axes[0].lines) == 3  # nowhere to mark


def test_a_course_is_drawn_by_its_density() -> None:
    (axes,) = figures.step_course([TrainingCost("auto", 1, 0, 0, 0, [(0.004, 0.5), (0.001, 0.01)])]).axes
    assert np.asarray(axes.lines[0].get_data()).tolist() == [[50, 1], [4, 1]]
    assert axes.xaxis_inverted()
