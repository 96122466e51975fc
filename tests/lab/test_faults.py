from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny
import torch

import chts_core as chts
from chts_core.compiled.masks import mask_of, positions
from chts_core.engine.linear import Execution
from chts_core.lab import figures
from chts_core.lab.data import ImageData
from chts_core.lab.verify import injected_bugs
from chts_core.lab.verify.injected_bugs import FAULTS, SIGNATURES, Patient
from chts_core.methods import Removal


def sparsifier(
    method: str = "chtss",
    execution: Execution = "masked",
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
) -> chts.Sparsifier:
    model = tiny.mlp((16, 24, 24, 3))
    make = optimizer or torch.optim.Adam
    return chts.Sparsifier(
        model, make(model.parameters(), lr=0.01), method, 0.9, total_steps=40, update_every=2, execution=execution
    )


def train(owner: chts.Sparsifier, steps: int = 40) -> frozenset[str]:
    auditor = chts.audit.Auditor(owner)
    for step in range(steps):
        owner.optimizer.zero_grad()
        tiny.loss_of_mlp(owner.network.model, step).backward()
        owner.optimizer.step()
        owner.step()
        auditor.check()
    return frozenset(finding.check for finding in auditor.findings)


@pytest.fixture(scope="module")
def patient_of(digits: ImageData) -> Callable[..., Patient]:
    """Runs with a fault, or without, of a seed; each is trained once."""

    @cache
    def run(fault: str | None, seed: int = 0) -> Patient:
        return injected_bugs.run(digits, "chtss", 0.9, fault, hidden=32, epochs=4, seed=seed)

    return run


@pytest.fixture(scope="module")
def healthy(patient_of: Callable[..., Patient]) -> Patient:
    return patient_of(None)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_checks_and_no_other(fault: str, seed: int, patient_of: Callable[..., Patient]) -> None:
    patient = patient_of(fault, seed)
    assert patient.checks == SIGNATURES[fault]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_under_adam_too(fault: str) -> None:
    owner = sparsifier()
    with FAULTS[fault](owner):
        found = train(owner)
    assert found == SIGNATURES[fault]


@pytest.mark.parametrize("fault", ["collapsed layer", "outliving decay", "threshold with ties"])
def test_a_fault_of_the_links_is_found_where_they_are_stored_alone(fault: str) -> None:
    owner = sparsifier(execution="csr")
    with FAULTS[fault](owner):
        found = train(owner)
    assert found == SIGNATURES[fault]


@pytest.mark.parametrize("fault", ["stale moments", "forgotten mask"])
def test_layers_of_links_alone_have_no_room_for_a_fault_outside_them(fault: str) -> None:
    owner = sparsifier(execution="csr")
    with pytest.raises(ValueError, match=r"0\.weight, 2\.weight store only their links"), FAULTS[fault](owner):
        pass


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_with_its_block(fault: str) -> None:
    broken, healthy = sparsifier(), sparsifier()
    with FAULTS[fault](broken):
        pass
    assert train(broken) == train(healthy) == frozenset()
    assert all(torch.equal(broken.masks[name], mask) for name, mask in healthy.masks.items())
    for one, other in zip(broken.network.model.parameters(), healthy.network.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_healthy_run(healthy: Patient) -> None:
    assert healthy.findings == []
    assert len(healthy.loss) == len(healthy.nonzero) == len(healthy.density) == healthy.sparsifier.steps
    assert healthy.loss[-1] < healthy.loss[0]
    assert healthy.density[0] == 0.5
    assert healthy.nonzero[0] == pytest.approx(0.5, abs=1e-3)
    assert healthy.density[-1] == healthy.sparsifier.density() == pytest.approx(0.1, abs=1e-3)


def test_stale_moments_leave_the_weights_alone(patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("stale moments")
    for name, mask in patient.sparsifier.masks.items():
        weight = patient.model.get_parameter(name)
        assert not weight[~mask].any()
        assert patient.optimizer.state[weight]["momentum_buffer"][~mask].any()


def test_a_forgotten_mask_fills_the_weight(patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("forgotten mask")
    assert patient.density[-1] < 0.11
    assert patient.nonzero[-1] > 0.5


def test_a_collapsed_layer_guesses(patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("collapsed layer")
    assert [int(mask.sum()) == 0 for mask in patient.sparsifier.masks.values()] == [False, True, False]
    assert sum(patient.loss[-10:]) / 10 == pytest.approx(np.log(10), abs=0.1)
    assert patient.sparsifier.active_neurons() == 0


def test_a_decay_that_outlives_the_updates_follows_its_formula(patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("outliving decay")
    timeline = patient.sparsifier.timeline
    u = timeline.last_update / timeline.total_steps
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    share = 0.5 + (sigma(6 * (2 * u - 1)) - 0.5) / (sigma(6) - sigma(-6))
    assert patient.sparsifier.density() == pytest.approx(0.5 - 0.4 * share, abs=1e-3)
    assert patient.sparsifier.density() > 0.115


def test_a_density_that_does_not_fall_outlives_nothing() -> None:
    with (
        pytest.raises(ValueError, match=r"0\.9 at the start and 0\.9 at the end"),
        FAULTS["outliving decay"](sparsifier("chts")),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"0\.0 at the start and 0\.0 at the end"),
        FAULTS["outliving decay"](sparsifier("fc")),
    ):
        pass


def test_a_threshold_takes_no_fewer_links_than_planned(patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("threshold with ties")
    budget = patient.sparsifier.progress.budget
    extra = [row["links"] - budget.links(row["step"])[row["layer"]] for row in patient.sparsifier.history]
    assert min(extra) == 0
    assert max(extra) > 0


def test_top_regrowth_does_not_depend_on_the_seed_and_takes_the_highest() -> None:
    survivors = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    scores = chts.link_prediction.ch2_l3n(survivors)
    outcomes: list[torch.Tensor] = []
    for seed in range(3):
        owner = sparsifier("chts")
        owner.progress.generators["0.weight"].manual_seed(seed)
        with injected_bugs.top_regrowth(owner):
            links = owner.method.regrowth(
                positions(survivors), (3, 4), 2, None, None, generator=owner.progress.generators["0.weight"]
            )
        regrown = mask_of(links, (3, 4))
        assert int(regrown.sum()) == 2
        assert not (regrown & survivors).any()
        assert scores[regrown].min() >= scores[~regrown & ~survivors].max()
        outcomes.append(regrown)
    assert all(torch.equal(outcomes[0], other) for other in outcomes)


def test_two_seeds_of_top_regrowth_gain_the_same_links(digits: ImageData) -> None:
    method = replace(chts.METHODS["chts"], removal=Removal("magnitude"))
    start = {
        name: chts.topology.erdos_renyi(32, columns, 0.1, generator=torch.Generator().manual_seed(0))
        for name, columns in {"0.weight": 64, "2.weight": 32, "4.weight": 32}.items()
    }

    def shared(fault: injected_bugs.Fault | None) -> float:
        one, other = (
            injected_bugs.run(
                digits, method, 0.9, fault, hidden=32, epochs=4, seed=seed, initial_masks=start
            ).sparsifier.masks
            for seed in (0, 1)
        )
        both = sum(int((one[name] & other[name] & ~start[name]).sum()) for name in start)
        return both / sum(int((one[name] & ~start[name]).sum()) for name in start)

    assert shared(injected_bugs.top_regrowth) > shared(None) + 0.2


def test_a_run_depends_on_its_seeds_alone(healthy: Patient, digits: ImageData) -> None:
    again = injected_bugs.run(digits, "chtss", 0.9, hidden=32, epochs=4)
    assert again.loss == healthy.loss
    assert injected_bugs.run(digits, "chtss", 0.9, hidden=32, epochs=4, seed=1).loss != healthy.loss


def test_an_unknown_fault_is_refused(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="fault is 'flu'; expected one of 'stale moments'"):
        injected_bugs.run(digits, "chtss", 0.9, "flu")


def test_signatures_tell_the_faults_apart() -> None:
    assert SIGNATURES.keys() == FAULTS.keys()
    assert len(set(SIGNATURES.values())) == len(FAULTS)


def test_vital_signs_draw_what_was_noted(healthy: Patient, patient_of: Callable[..., Patient]) -> None:
    patient = patient_of("collapsed layer")
    loss, weights, neurons = figures.vital_signs(healthy, patient).axes
    for drawn, run in enumerate((patient, healthy)):
        assert loss.lines[drawn].get_xdata()[0] == 10
        assert loss.lines[drawn].get_ydata()[0] == pytest.approx(sum(run.loss[:10]) / 10)
        assert weights.lines[drawn].get_ydata() == pytest.approx(np.array(run.nonzero) * 100)
        last = [row["anp"] for row in run.sparsifier.history[-3:]]
        assert neurons.lines[drawn].get_ydata()[-1] == pytest.approx(min(last) * 100)
    assert [text.get_text() for text in loss.figure.legends[0].texts] == ["patient", "healthy"]


def test_active_neurons_that_hardly_move_stand_as_numbers(healthy: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chts_core.lab.figures.style._FLAT", 100)  # one of 32 neurons is more than the limit for pages
    *curves, numbers = figures.vital_signs(healthy, healthy).axes
    assert [axes.axison for axes in (*curves, numbers)] == [True, True, False]
    first, last = (
        min(row["anp"] for row in healthy.sparsifier.history if row["step"] == healthy.sparsifier.history[at]["step"])
        for at in (0, -1)
    )
    words = [text.get_text() for text in numbers.texts]
    assert words[-3:] == ["healthy", f"{100 * first:.0f} %", f"{100 * last:.0f} %"]
