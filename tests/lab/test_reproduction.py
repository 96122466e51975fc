"""The tables of the reproducibility report, from a few runs whose results can be worked out by hand."""

from typing import Any

import pytest

from chts_core.lab.results import paper, reproduction
from chts_core.lab.results.paper import Claim

Rows = dict[str, list[dict[str, Any]]]


def run(method: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "task": "images",
        "dataset": "digits",
        "method": method,
        "seed": seed,
        "sparsity": 0.9,
        "recipe": {},
        "test": {"accuracy": accuracy},
        "seconds": 900.0,
        **more,
    }


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Rows:
    of_digits: dict[str, Any] = {"task": "images", "dataset": "digits", "sparsity": 0.9}
    claims = (
        Claim("A is ahead of B", "Table 1", "a", "b", differs="small", **of_digits),
        Claim("A is ahead of B", "Table 1", differs="no run of words"),
        Claim("B is ahead of A", "Table 2", "b", "a", differs="small", **of_digits),
        Claim("A is ahead of C", "text", "a", "c", differs="one seed", **of_digits),
        Claim("A is ahead of D", "text", differs="no run"),
    )
    # The advantages of A over B are 1 and 2 points: 1.5 ± 12.706 · 0.5.
    rows = {
        "one: digits": [run("a", 0, 0.91), run("a", 1, 0.93), run("b", 0, 0.90), run("b", 1, 0.91)],
        "two: digits": [run("c", 0, 0.5, total_seconds=2700.0)],
    }
    monkeypatch.setattr(paper, "CLAIMS", claims)
    monkeypatch.setattr(reproduction, "_recorded", lambda: rows)
    return rows


@pytest.mark.usefixtures("recorded")
def test_a_claim_is_in_the_table_of_its_verdict_with_its_interval() -> None:
    assert reproduction.claims("undecided").splitlines() == [
        "| claim | source | difference | how our runs differ |",
        "| --- | --- | --- | --- |",
        "| A is ahead of B | Table 1 | +1.500 ± 6.353 (2 seeds) | small; no run of words |",
        "| B is ahead of A | Table 2 | -1.500 ± 6.353 (2 seeds) | small |",
    ]
    assert reproduction.claims("untested").splitlines()[2:] == [
        "| A is ahead of C | text | one seed |",
        "| A is ahead of D | text | no run |",
    ]
    assert reproduction.claims("holds") == "None."


def test_decided_claims_are_in_the_other_two_tables(recorded: Rows) -> None:
    for row in recorded["one: digits"]:  # now 2 and 2 points: an interval of width 0
        row["test"]["accuracy"] = 0.95 if row["method"] == "a" else 0.93
    assert reproduction.claims("holds").splitlines()[2:] == [
        "| A is ahead of B | Table 1 | +2.000 ± 0.000 (2 seeds) | small; no run of words |"
    ]
    assert reproduction.claims("does not hold").splitlines()[2:] == [
        "| B is ahead of A | Table 2 | -2.000 ± 0.000 (2 seeds) | small |"
    ]


@pytest.mark.usefixtures("recorded")
def test_costs_are_whole_runs_in_hours() -> None:
    # Four runs of a quarter of an hour; one of 45 minutes, of which the training took 15.
    assert reproduction.costs().splitlines() == [
        "| runs | methods | number | hours |",
        "| --- | --- | --- | --- |",
        "| one: digits | 2 | 4 | 1.0 |",
        "| two: digits | 1 | 1 | 0.8 |",
    ]


def mlp(method: str, seed: int, last: float, best: float) -> dict[str, Any]:
    return run(method, seed, last, active_neurons_published=0.25 + seed / 2, test={"accuracy": last, "best": best})


def test_the_paper_s_mlp_beside_the_paper_and_a_small_dense_network(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [mlp("chts/paper_mlp", 0, 0.97, 0.98), mlp("fc", 0, 0.985, 0.985), mlp("chts/paper_mlp", 1, 0.97, 0.99)]
    recorded = {"mlp_paper: mnist": rows, "small_dense: mnist": [mlp("fc", 1, 0.95, 0.96) | {"recipe": {"hidden": 67}}]}
    recorded["mlp_paper: fashion_mnist"] = rows[:1]
    monkeypatch.setattr(reproduction, "_recorded", lambda: recorded)
    # Best epochs of 98 and 99 %: 98.5 ± 0.707 / √2.
    assert reproduction.paper_mlp("mnist").splitlines()[2:] == [
        "| FC | 1 | 98.78 % | 98.50 % | 98.50 % | – | 25 % |",
        "| CHTs with CH2-L3n | 2 | 98.76 % | 98.50 ± 0.50 % | 97.00 ± 0.00 % | 27 % | 50 % |",
        "| FC with 67 units per layer | 1 | – | 96.00 % | 95.00 % | – | 75 % |",
    ]
    assert reproduction.paper_mlp("fashion_mnist").splitlines()[2:] == [
        "| CHTs with CH2-L3n, removal by magnitude | 1 | – | 98.00 % | 97.00 % | – | 25 % |"
    ]


def test_a_recorded_method_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "_recorded", lambda: {"mlp_paper: mnist": [run("chts/zeros", 0, 0.9)]})
    with pytest.raises(ValueError, match="'chts/zeros' is not in list"):
        reproduction.paper_mlp("mnist")
