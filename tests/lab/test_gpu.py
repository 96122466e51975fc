"""What is to run on a borrowed GPU: items one by one, what stops none of the others, and where results go."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.items import ITEMS, so_far
from benchmarks.gpu.runner import Item, OutOfTime, Row
from chts_core.lab.results import records

ROOT = Path(__file__).parents[2]


def works(folder: Path, device: str, reduced: bool) -> Iterator[Row]:
    print("to the log")
    with (folder / "calls").open("a") as file:
        file.write("x")
    yield {"device": device, "reduced": reduced}
    yield {"n": 2}


def fails(folder: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001
    yield {"n": 1}
    raise RuntimeError("no luck\nat all")


def gives_nan(folder: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001
    yield {"n": float("nan")}


def dies(folder: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001
    yield {"n": 1}
    os.kill(os.getpid(), signal.SIGKILL)


def is_late(folder: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001
    yield {"n": 1}
    try:
        time.sleep(60)
    except OutOfTime:
        yield {"n": 2}
        raise


def does_not_stop(folder: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001
    child = subprocess.Popen(["sleep", "60"])
    yield {"child": child.pid}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)


def last(rows: list[Row]) -> str:
    return f"n is {rows[-1].get('n')}"


def item(work: runner.Work, seconds: float | None = 30, least: float = 0) -> Item:
    return Item(work.__name__, seconds, work, last, least)


def run(items: list[Item], out: Path, seconds: float = 60) -> dict[str, Row]:
    return runner.run(items, out, seconds=seconds, device="cpu")


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_no_item_stops_another_and_what_each_gave_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "GRACE", 2.0)
    items = [item(fails), item(gives_nan), item(dies), item(is_late, 1), item(does_not_stop, 1), item(works, None)]
    found = run(items, tmp_path)
    assert found == runner.read(tmp_path)
    assert [(kept["state"], kept["error"]) for kept in found.values()] == [
        ("failed", "RuntimeError: no luck\nat all"),
        ("failed", found["gives_nan"]["error"]),
        ("failed", f"its process ended with -9; see {tmp_path / 'dies' / 'log.txt'}"),
        ("cut", "it was stopped after 1 s"),
        ("cut", "it was stopped after 1 s"),
        ("done", None),
    ]
    assert "ValueError: Out of range float values are not JSON compliant" in found["gives_nan"]["error"]
    (child,) = found["does_not_stop"].pop("rows")
    assert not is_alive(child["child"])
    rows = {name: kept.get("rows") for name, kept in found.items()}
    assert rows == {
        "fails": [{"n": 1}],
        "gives_nan": [],
        "dies": [{"n": 1}],
        "is_late": [{"n": 1}, {"n": 2}],
        "does_not_stop": None,
        "works": [{"device": "cpu", "reduced": False}, {"n": 2}],
    }
    assert 1 <= found["is_late"]["seconds"] < 30
    assert found["works"]["git"] == records.git_revision()
    assert (tmp_path / "works" / "log.txt").read_text() == "to the log\n"
    assert "RuntimeError: no luck" in (tmp_path / "fails" / "log.txt").read_text()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"fails failed {found['fails']['seconds']} s n is 1; RuntimeError: no luck"
    assert lines[-1] == f"works done {found['works']['seconds']} s n is 2"

    run([item(fails), item(works)], tmp_path)  # the second is done
    assert (tmp_path / "works" / "calls").read_text() == "x"
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["fails", "failed", str(runner.read(tmp_path)["fails"]["seconds"])],
        ["works", "done", "before"],
    ]
    assert list(runner.read(tmp_path)) == list(found)


def test_an_item_for_which_too_little_time_is_left_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([item(works, least=30)], tmp_path, seconds=runner.GRACE + 29) == {}
    assert capsys.readouterr().out.split() == ["works", "left", "out:", "29", "s", "are", "left,", "it", "needs", "30"]
    assert list(tmp_path.iterdir()) == []


GPU = {"state": "done", "error": None, "device": {"type": "cuda", "name": "a GPU"}, "reduced": False, "seconds": 1.0}


def write(out: Path, *items: dict[str, Any]) -> None:
    records.write_json(out / "gpu.json", {"schema": 1, "items": [GPU | kept for kept in items]})


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"item": "masks", "rows": []})
    with pytest.raises(ValueError, match="contains item masks of cuda, and this is cpu; choose another folder"):
        run([item(works)], tmp_path)


@pytest.fixture(scope="module")
def runs() -> list[Row]:
    return records.read_lines(records.results_folder() / "language.jsonl")[:3]


def test_results_are_taken_over_beside_those_of_other_items(tmp_path: Path, runs: list[Row]) -> None:
    timings, lines = tmp_path / "results" / "gpu.json", tmp_path / "results" / "gpu.jsonl"
    write(tmp_path, {"item": "masks", "rows": [{"n": 1}]}, {"item": "bfloat16", "rows": [{"run": runs[0]}]})
    runner.take_over(tmp_path, timings, lines)
    cut = {"item": "masks", "rows": [{"n": 2}], "state": "cut", "error": "it was stopped after 60 s"}
    write(tmp_path, cut, {"item": "bfloat16", "rows": [{"run": row} for row in runs[:2]]}, {"item": "late", "rows": []})
    runner.take_over(tmp_path, timings, lines)
    taken = json.loads(timings.read_text())
    assert (taken["schema"], taken["benchmark"]) == (1, "gpu")
    assert taken["items"] == [GPU | {"item": name, "rows": rows} for name, rows in (
        ("masks", [{"n": 1}]), ("bfloat16", []), ("late", [])
    )]  # fmt: skip
    assert records.read_lines(lines) == runs[:2]
    assert len(records.read_runs(lines)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": {"type": "cpu"}}, r"contains item masks of cpu; expected full results of a GPU \(cuda\)"),
        ({"reduced": True}, "contains item masks of cuda, reduced; expected"),
        ({"rows": [{"run": {"schema": 1}}]}, "run 1 is not a record of a run"),
    ],
)
def test_what_is_no_result_of_a_gpu_is_not_taken_over(tmp_path: Path, change: Row, message: str) -> None:
    write(tmp_path, {"item": "masks", "rows": []} | change)
    with pytest.raises(ValueError, match=message):
        runner.take_over(tmp_path, tmp_path / "taken.json", tmp_path / "taken.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no gpu\.json with results; run `make gpu` first"):
        runner.take_over(tmp_path, tmp_path / "taken.json", tmp_path / "taken.jsonl")


@pytest.mark.slow
@pytest.mark.full
def test_every_item_runs_in_a_reduced_form(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--reduced", "--minutes", "60"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = runner.read(tmp_path)
    assert list(found) == [item.name for item in ITEMS]
    assert {kept["error"] for kept in found.values()} == {None}
    rows = {name: kept["rows"] for name, kept in found.items()}
    (tests,) = rows["tests"]
    assert (tests["passed"], tests["failed"]) == (0, 0)
    assert tests["skipped"] >= 9
    assert [row["failures"] for row in rows["conformance"]] == [{}]
    assert [len(rows[name]) for name in ("regrowth", "masks", "throughput")] == [1, 4, 2]
    assert all(row["times_faster"] > 0 for name in ("regrowth", "masks", "throughput") for row in rows[name])
    full, half = (row["run"] for row in rows["bfloat16"])
    assert [run["recipe"]["precision"] for run in (full, half)] == ["float32", "bfloat16_weights"]
    assert (full["method"], full["links"], full["data"]) == (half["method"], half["links"], half["data"])
    (translator,) = rows["multi30k"]
    for number, run in enumerate((full, half, translator["run"])):
        records.check_run(run, f"run {number}")
    far = so_far(tmp_path / "multi30k" / "checkpoint.safetensors")
    assert (far["step"], far["steps"], far["tokens"]) == (2, 2, translator["run"]["tokens"])
    assert [look["step"] for look in far["validation"]] == [1, 2]
