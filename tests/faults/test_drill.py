"""The drill in a reduced form: trainings are killed once, and what it would notice if one did not go on rightly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chts_core.lab import checkpoint, drill, evidence, records
from chts_core.lab.cli import main
from chts_core.lab.drill import SCENARIOS, differences, survived

# One of each way to run; the others differ from these in what is trained alone, and are killed in tests of their own.
REDUCED = ("classifier, links alone", "language model, two processes", "sweep")
ONE_PROCESS = {"classifier", "classifier, links alone", "translator", "language model"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP", "MKL", "NUMBA"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "1")


@pytest.mark.parametrize("name", REDUCED)
def test_a_killed_run_ends_as_one_in_peace(name: str, tmp_path: Path) -> None:
    rows = list(drill.drill(1, tmp_path, names=(name,), seed=3))
    assert [row["fault"] for row in rows] == ["killed", *(["no space", "clock"] if name in ONE_PROCESS else [])]
    assert all(row["same"] is True for row in rows)
    assert all(map(survived, rows))
    assert rows[0]["signal"] in ("SIGKILL", "SIGTERM")
    assert rows[0]["after_seconds"] > 0
    assert {"git", "versions", "device"} < rows[0].keys()


# --- what it notices ---


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that differ in time alone."""
    folders = tmp_path / "one", tmp_path / "other"
    for number, folder in enumerate(folders):
        history = [{"step": 1, "seconds": 0.1 * number}]
        state = {"weight": torch.tensor([1.0, float("nan")]), "history": history, "seconds": 1.0 + number, "step": 2}
        checkpoint.save(folder / "checkpoint.safetensors", state)
        records.write_json(folder / "run.json", {"loss": [1.0, 2.0], "finished": f"day {number}", "seed": 0})
    return folders


def test_time_makes_no_difference(pair: tuple[Path, Path]) -> None:
    assert differences(*pair) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: state["weight"].view(torch.int32)[:1].add_(1), ["checkpoint.safetensors['weight']"]),
        (lambda state: state.update(weight=state["weight"].double()), ["checkpoint.safetensors['weight']"]),
        (lambda state: state.update(step=3), ["checkpoint.safetensors['step']"]),
        (lambda state: state.update(step=2.0), ["checkpoint.safetensors['step']"]),
        (lambda state: state["history"].append({"step": 2}), ["checkpoint.safetensors['history']"]),
        (lambda state: state["history"][0].update(step=2), ["checkpoint.safetensors['history'][0]['step']"]),
        (lambda state: state.pop("weight"), ["checkpoint.safetensors has ['weight'] once only"]),
    ],
)
def test_a_difference_of_one_bit_is_found(
    pair: tuple[Path, Path], change: Callable[[Any], Any], found: list[str]
) -> None:
    path = pair[1] / "checkpoint.safetensors"
    state = checkpoint.load(path)
    change(state)
    checkpoint.save(path, state)
    assert differences(*pair) == found


def test_another_record_is_found(pair: tuple[Path, Path]) -> None:
    record = json.loads((pair[1] / "run.json").read_text("utf-8"))
    records.write_json(pair[1] / "run.json", record | {"loss": [1.0, 2.5]})
    assert differences(*pair) == ["records['loss'][1]"]


def test_a_cell_that_is_lost_or_doubled_is_found(tmp_path: Path) -> None:
    rows = [
        {"schema": records.SCHEMA, "cell": f"set-{seed}", "status": "done", "record": {"seed": seed, "seconds": seed}}
        for seed in (0, 1)
    ]
    one, other = tmp_path / "one", tmp_path / "other"
    records.write_lines(one / "sweep.jsonl", rows)
    records.write_lines(other / "sweep.jsonl", rows[::-1])
    assert differences(one, other) == []
    for wrong in (rows[:1], [*rows, rows[0]], [rows[0], rows[0]]):
        records.write_lines(other / "sweep.jsonl", wrong)
        assert differences(one, other) != []


@pytest.mark.parametrize("lacks", ["same", "refused", "kept", "ended"])
def test_what_has_failed_in_one_way_is_not_survived(lacks: str) -> None:
    row = {"same": True, "refused": True, "kept": True, "ended": True}
    assert survived(row)
    assert not survived(row | {lacks: False})


# --- the command ---


@pytest.mark.parametrize(("kills", "names"), [(0, ("sweep",)), (1, ("nothing",))])
def test_what_cannot_be_drilled_is_refused(tmp_path: Path, kills: int, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{kills} kills of {names[0]}; expected at least one, of classifier, "):
        next(drill.drill(kills, tmp_path, names=names))


def test_the_command_tells_and_records_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"schema": records.SCHEMA, "scenario": "classifier", "fault": "killed", "same": True},
        {"schema": records.SCHEMA, "scenario": "classifier", "fault": "no space", "same": True, "refused": False},
    ]
    monkeypatch.setattr(drill, "drill", lambda kills, folder, seed: iter(rows))  # noqa: ARG005
    assert main(["drill", "--kills", "2", "--out", str(tmp_path / "faults.jsonl")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "classifier                     killed    as in peace",
        "classifier                     no space  NOT as in peace",
        "1 of 2 faults were survived",
    ]
    assert records.read_lines(tmp_path / "faults.jsonl") == rows
    monkeypatch.setattr(drill, "drill", lambda kills, folder, seed: iter(rows[:1]))  # noqa: ARG005
    assert main(["drill", "--kills", "1"]) == 0


def test_the_recorded_drill_is_whole() -> None:
    rows = records.read_lines(records.results_folder() / "faults.jsonl")
    kills = [row for row in rows if row["fault"] == "killed"]
    assert len(kills) == 100
    assert {row["scenario"] for row in kills} == set(SCENARIOS)
    assert {row["signal"] for row in kills} == {"SIGKILL", "SIGTERM"}
    assert all(map(survived, rows))
    assert {(row["scenario"], row["fault"]) for row in rows if row["fault"] != "killed"} == {
        (name, fault) for name in ONE_PROCESS for fault in ("no space", "clock")
    }
    assert all(len(row["git"]) == 40 for row in rows)  # of a checkout without changes
    for name in SCENARIOS:
        mine = sum(row["scenario"] == name for row in kills)
        assert f"| {name} | {mine} of {mine} |" in evidence.faults()
