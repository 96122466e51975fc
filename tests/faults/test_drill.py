"""The drill in a reduced form: training runs are killed once, and what it would notice if one did not go on rightly."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chts_core.cli import main
from chts_core.lab.results import records, tables
from chts_core.lab.train import checkpoint
from chts_core.lab.verify import drill, wrong_files
from chts_core.lab.verify.drill import SCENARIOS, differences, survived

# One of each way to run; the others differ from these only in what is trained, and are killed in tests of their own.
REDUCED = [
    ("classifier that stores only the links", ("no space", "clock")),
    ("language model, two processes", ("full disk",)),
    ("sweep", ("read-only",)),
]

# Stands for a training run that saves, continues from what it saved, and exits with 2 if it cannot write: copies files.
PRETENDED = """
import pathlib, shutil, sys, time
ready, folder = map(pathlib.Path, sys.argv[1:])

def save(name, target):
    shutil.copy(ready / name, folder / "new")
    (folder / "new").replace(folder / target)

try:
    time.time()
    folder.mkdir(exist_ok=True)
    if not (folder / "checkpoint.safetensors").exists():
        save("first", "checkpoint.safetensors")
    time.sleep(0.5)
    save("last", "checkpoint.safetensors")
    save("run.json", "run.json")
except OSError:
    sys.exit(2)
"""


class Pretended(drill.Scenario):
    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-c", PRETENDED, *self.arguments, str(folder)]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP", "MKL", "NUMBA"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "1")


@pytest.mark.full
@pytest.mark.parametrize(("name", "faults"), REDUCED)
def test_a_killed_run_ends_as_one_in_peace(name: str, faults: tuple[str, ...], tmp_path: Path) -> None:
    rows = list(drill.drill(1, tmp_path, names=(name,), faults=faults, seed=3))
    assert_survived(rows, ["killed", *faults])


def test_each_fault_is_brought_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    for step, name in enumerate(("first", "last")):
        checkpoint.save(ready / name, {"weight": torch.arange(20_000 + 200_000 * step), "step": step})
    records.write_json(ready / "run.json", {"loss": [1.0]})
    monkeypatch.setattr(drill, "SCENARIOS", {"pretended": Pretended((str(ready),))})
    rows = list(drill.drill(3, tmp_path / "drill", names=("pretended",), seed=3))
    assert_survived(rows, [*["killed"] * 3, *drill.FAULTS])


def assert_survived(rows: list[dict[str, Any]], faults: list[str]) -> None:
    # A disk that is full can be made by root only.
    assert [row["fault"] for row in rows] in (faults, [fault for fault in faults if fault != "full disk"])
    assert all(row["same"] is True for row in rows)
    assert all(map(survived, rows))
    assert rows[0]["signal"] in ("SIGKILL", "SIGTERM")
    assert rows[0]["after_seconds"] > 0
    assert {"git", "versions", "device"} < rows[0].keys()
    assert all(row["hours"] >= 24 for row in rows if row["fault"] == "clock")


def test_the_clock_jumps_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(drill._JUMPING_CLOCK, "utf-8")
    code = (
        "import subprocess, sys, time, datetime\n"
        "def ahead(): time.sleep(0.01); return round((time.time() - datetime.datetime.now().timestamp()) / 3600)\n"
        "print(*{ahead() for _ in range(300)}, flush=True)\n"
        "if len(sys.argv) > 1: subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, code], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert {int(hours) for hours in line.split()} & {-24, 24}
    hours = [int(path.read_text()) for path in tmp_path.glob("*.hours")]
    assert len(hours) == 2
    assert all(24 <= each < 60 * 48 and each % 24 == 0 for each in hours)


def test_root_obeys_permissions_in_the_drill(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = subprocess.run(
        ["touch", tmp_path / "new"], preexec_fn=drill._obey_permissions, capture_output=True, check=False
    )
    tmp_path.chmod(0o755)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


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
        (lambda state: state.pop("weight"), ["only one of the runs has ['weight'] in checkpoint.safetensors"]),
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


@pytest.mark.parametrize(("kills", "names"), [(-1, ("sweep",)), (1, ("nothing",))])
def test_what_cannot_be_drilled_is_refused(tmp_path: Path, kills: int, names: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^kills is {kills}, and names has {names[0]}; expected at least 0 kills, and names from class",
    ):
        next(drill.drill(kills, tmp_path, names=names))


def test_the_command_tells_and_records_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"schema": records.SCHEMA, "scenario": "classifier", "fault": "killed", "same": True},
        {"schema": records.SCHEMA, "scenario": "classifier", "fault": "no space", "same": True, "refused": False},
    ]
    wrong = {"schema": records.SCHEMA, "scenario": "images", "fault": "input", "case": "no gzip", "refused": True}
    monkeypatch.setattr(wrong_files, "refusals", lambda folder: iter([wrong]))  # noqa: ARG005
    monkeypatch.setattr(drill, "drill", lambda kills, folder, seed: iter(rows))  # noqa: ARG005
    assert main(["drill", "--kills", "2", "--out", str(tmp_path / "faults.jsonl")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "images                         no gzip                    refused",
        "classifier                     killed                     as undisturbed",
        "classifier                     no space                   NOT as undisturbed",
        "survived 2 of 3 faults",
    ]
    assert records.read_lines(tmp_path / "faults.jsonl") == [wrong, *rows]
    monkeypatch.setattr(drill, "drill", lambda kills, folder, seed: iter(rows[:1]))  # noqa: ARG005
    assert main(["drill", "--kills", "1"]) == 0


def test_the_recorded_drill_is_whole() -> None:
    rows = list(itertools.chain(*tables.recorded_faults(of_inputs=False).values()))
    kills = [row for row in rows if row["fault"] == "killed"]
    assert len(kills) == 100
    assert {row["scenario"] for row in kills} == set(SCENARIOS)
    assert {row["signal"] for row in kills} == {"SIGKILL", "SIGTERM"}
    assert all(map(survived, rows))
    others = [(row["scenario"], row["fault"]) for row in rows if row["fault"] != "killed"]
    assert sorted(others) == sorted(itertools.product(SCENARIOS, drill.FAULTS))
    wrong = list(itertools.chain(*tables.recorded_faults(of_inputs=True).values()))
    inputs = [(row["scenario"], row["case"]) for row in wrong]
    assert inputs == [(kind, name) for kind, cases in wrong_files.CASES.items() for name in cases]
    assert all(map(survived, wrong))
    assert all(len(row["git"]) == 40 for row in [*rows, *wrong])  # of a checkout without changes
    for name in SCENARIOS:
        mine = sum(row["scenario"] == name for row in kills)
        hours = sum(row["hours"] for row in rows if (row["scenario"], row["fault"]) == (name, "clock"))
        assert hours >= 24
        assert f"| {name} | {mine} of {mine} | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 | {hours:,} |" in tables.faults()
    for kind, cases in wrong_files.CASES.items():
        assert kind in tables.inputs()
        assert f" {len(cases)} of {len(cases)} |" in tables.inputs()
