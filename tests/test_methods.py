from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import chts_core as chts
from chts_core import methods
from chts_core.schedules import Timeline

TIMELINE = Timeline(total_steps=1000, update_every=100, stop=0.75)


def test_the_table_as_published() -> None:
    assert set(chts.METHODS) >= {"fc", "set", "chts", "chtss"}
    fc, set_, chts_, chtss = (chts.METHODS[name] for name in ("fc", "set", "chts", "chtss"))

    assert fc.turnover.zeta == 0
    assert set_.topology == methods.ErdosRenyi()
    assert set_.removal == methods.Removal("magnitude", temperature=None, percolate=False)
    assert set_.regrowth == methods.Regrowth("random")
    assert chts_.topology == methods.ReceptiveField()
    assert chts_.removal == methods.Removal("relative_importance", methods.Ramp(1.0, 3.0), percolate=True)
    assert chts_.regrowth == methods.Regrowth("ch2_l3n", soft=True)
    for method in (set_, chts_):
        assert method.sparsity == methods.Constant()
        assert method.turnover == methods.Turnover(zeta=0.3, stop=0.75)
    # CHTss is CHTs with a density that decays.
    assert chtss == replace(chts_, sparsity=methods.Sigmoid(initial=0.5, k=6.0))


@pytest.mark.parametrize("name", chts.METHODS)
def test_initial_masks_have_the_links_of_the_density(name: str) -> None:
    build = chts.METHODS[name].topology
    mask = build(20, 40, 1.0 if name == "fc" else 0.1, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (20, 40)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == (800 if name == "fc" else 80)


def test_topologies_pass_their_settings_on() -> None:
    # r = 0 leaves nothing to chance; uniform degrees differ by far more than one.
    nearest, spread = methods.ReceptiveField(r=0.0), methods.ReceptiveField(r=1.0, degree="uniform")
    masks = [nearest(20, 40, 0.25, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    degrees = spread(20, 40, 0.25, generator=torch.Generator().manual_seed(0)).sum(1)
    assert torch.equal(*masks)
    assert int(degrees.max() - degrees.min()) > 10


def test_a_method_is_found_by_name_or_taken_as_it_is() -> None:
    mine = replace(chts.METHODS["set"], regrowth=methods.Regrowth("ch2_l3n"))
    assert methods.get_method("set") is chts.METHODS["set"]
    assert methods.get_method(mine) is mine


def test_methods_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        chts.METHODS["set"].turnover = methods.Turnover(0.5)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (methods.Dense(), {0: 0.0, 500: 0.0, 1000: 0.0}),
        (methods.Constant(), {0: 0.9, 500: 0.9, 1000: 0.9}),
        # u = 1/3: 0.9 - 0.4 (2/3)³ in a window of [0, 600]
        (methods.Cubic(end=0.6), {0: 0.5, 200: 0.9 - 0.4 * 8 / 27, 300: 0.85, 600: 0.9, 1000: 0.9}),
        # The window of [0, 375] ends at the update before, 300; the middle of a sigmoid is half way.
        (methods.Sigmoid(), {0: 0.5, 150: 0.7, 300: 0.9, 1000: 0.9}),
        (methods.Sigmoid(initial=0.1, start=0.2, end=0.6), {100: 0.1, 200: 0.1, 400: 0.5, 600: 0.9, 700: 0.9}),
    ],
)
def test_sparsity_at_a_step(schedule: methods.Sparsity, expected: dict[int, float]) -> None:
    assert {step: schedule.at(step, TIMELINE, 0.9) for step in expected} == pytest.approx(expected, rel=1e-12)


def test_steepness_of_the_sigmoid_is_passed_on() -> None:
    early = [methods.Sigmoid(k=k).at(100, TIMELINE, 0.9) for k in (2.0, 6.0, 12.0)]
    assert early == sorted(early, reverse=True)
    assert early[0] > early[1] > early[2]


def test_default_windows_cost_the_same_training_flops() -> None:
    # One update per step, so that windows are not rounded to updates.
    timeline = Timeline(total_steps=8000, update_every=1, stop=0.75)
    excess = [
        sum(0.9 - schedule.at(step, timeline, 0.9) for step in range(8000))
        for schedule in (methods.Cubic(), methods.Sigmoid())
    ]
    assert excess[0] == pytest.approx(excess[1], rel=1e-3)


def test_turnover_anneals_to_the_stop() -> None:
    turnover = methods.Turnover(zeta=0.4)
    zeta = [turnover.at(step, TIMELINE) for step in (0, 250, 375, 500, 750, 1000)]
    assert zeta == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], abs=1e-15)


@pytest.mark.parametrize(("ramp", "end"), [(methods.RAMP_TO_3, 3.0), (methods.RAMP_TO_9, 9.0)])
def test_temperature_rises_to_the_stop(ramp: methods.Ramp, end: float) -> None:
    temperatures = [ramp.temperature(step, TIMELINE) for step in (0, 375, 750, 1000)]
    assert temperatures == [1.0, (1 + end) / 2, end, end]
