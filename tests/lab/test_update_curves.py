"""Recorded updates of small runs: complete, and as the runs come out today."""

import pytest

from chts_core.lab import data
from chts_core.lab.notebook import checks
from chts_core.lab.verify import update_curves


def returned(rows: list[update_curves.Row]) -> float:
    """The share of all regrown links of a run that the same update had removed."""
    return float(sum(row["overlap"] * row["regrown"] for row in rows) / max(sum(row["regrown"] for row in rows), 1))


def test_each_run_is_recorded_for_two_layers_and_two_seeds() -> None:
    names = [name for name, _ in update_curves.everyone()]
    assert sorted(names) == sorted(update_curves.NAMES * 4)
    assert list(update_curves.patients().values()) == [rows for _, rows in update_curves.everyone()[:6]]
    assert all(
        set(rows[0]) == {"step", "links", "removed", "regrown", "overlap", "anp", "itop"}
        for _, rows in update_curves.everyone()
    )


def test_each_fault_shows_in_its_rows_as_the_stage_says() -> None:
    shares: dict[str, list[float]] = {name: [] for name in update_curves.NAMES}
    for name, rows in update_curves.everyone():
        shares[name].append(returned(rows))
        assert (rows[-1]["anp"] == 0) == (name == "collapsed layer")
        assert (rows[-1]["step"] < 64) == (name == "early end")
        if name not in ("collapsed layer", "threshold with ties"):
            assert {row["links"] for row in rows} == {230}
        if name == "threshold with ties":
            assert len({row["links"] for row in rows}) > 1
    rounded = {name: (round(100 * min(of)), round(100 * max(of))) for name, of in shares.items()}
    assert rounded["random regrowth"] == (1, 3)
    assert rounded["healthy"] == (11, 13)
    assert rounded["stuck"] == (62, 68)
    fastest = max(update_curves.everyone(), key=lambda run: run[1][-1]["itop"])
    assert fastest[0] == "collapsed layer"


@pytest.mark.full  # it trains
@pytest.mark.parametrize("name", ["healthy", "stuck", "random regrowth"])
def test_a_run_trained_today_looks_like_its_record(name: str) -> None:
    rows = update_curves.observed(name, 0, data.load_images("digits"))["2.weight"]
    recorded = update_curves.recorded(name, 0, "2.weight")
    assert [row["step"] for row in rows] == [row["step"] for row in recorded]
    assert returned(rows) == pytest.approx(returned(recorded), abs=0.1)
    assert rows[-1]["itop"] == pytest.approx(recorded[-1]["itop"], abs=0.02)


def test_the_seed_draws_any_mystery_but_the_healthy_one() -> None:
    assert {update_curves.drawn(seed) for seed in range(50)} == {*update_curves.MYSTERIES} - {"healthy"}


@pytest.mark.full  # it trains
@pytest.mark.parametrize("seed", [0, 1])
def test_only_the_right_diagnosis_fits_a_mystery_patient(seed: int) -> None:
    runs = {name: update_curves.mystery(name, seed, data.load_images("digits")) for name in update_curves.MYSTERIES}
    healthy = runs.pop("healthy")
    diagnosis = checks.of_stage("06b")["diagnosis"]
    for name, patient in runs.items():
        diagnosis(name, patient=patient, healthy=healthy)
        for other in runs.keys() - {name}:
            with pytest.raises(AssertionError, match="does not fit"):
                diagnosis(other, patient=patient, healthy=healthy)
