"""Grids of runs: which cells there are, what is skipped, and what happens to a cell that fails or is lost."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from chts_core.lab.notebook.processes import THREADS
from chts_core.lab.results import records
from chts_core.lab.train import sweeps
from chts_core.lab.train.sweeps import Cell

TINY = {"dataset": "python_reference", "steps": 4, "batch": 2, "context": 16, "update_every": 2, "device": "cpu"}
SPEC = {"train": "tiny_ci", "parameters": TINY, "grid": {"method": ["fc", "set"], "sparsity": [0.7, 0.9], "seed": [0]}}


# --- which cells ---


def test_a_grid_is_the_product_of_its_lists_and_fc_runs_but_once() -> None:
    found = sweeps.cells(SPEC)
    assert [cell.name for cell in found] == ["fc-0", "set-0.7-0", "set-0.9-0"]
    assert found[1] == Cell("set-0.7-0", "train", "tiny_ci", {**TINY, "method": "set", "sparsity": 0.7, "seed": 0})
    assert "sparsity" not in found[0].parameters


def test_methods_in_words_make_names_of_folders() -> None:
    words = "set with topology=SmallWorld(0.5)"
    (cell,) = sweeps.cells({"train": "mlp", "grid": {"method": [words], "sparsity": [0.9]}})
    assert (cell.name, cell.parameters["method"]) == ("set_with_topology_SmallWorld_0.5-0.9", words)
    (cell,) = sweeps.cells({"notebook": "09", "grid": {"method": [words]}})
    assert (cell.name, cell.parameters["method"]) == ("set_with_topology_SmallWorld_0.5", words)
    with pytest.raises(ValueError, match="would share the folder set_with_topology_ErdosRenyi"):
        sweeps.cells(
            {"train": "mlp", "grid": {"method": ["set with topology=ErdosRenyi()", "set with topology= ErdosRenyi()"]}}
        )


def test_a_sweep_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "notebook: 06\nparameters: {profile: ci}\ngrid: {sparsity: [0.5, 0.9], method: [chts/llama_code]}\n"
    )
    with pytest.raises(ValueError, match=r"has no parameter 'method'.*its parameters are"):
        sweeps.cells(path)
    path.write_text("notebook: 06\nparameters: {profile: ci}\ngrid: {sparsity: [0.5, 0.9], seed: [1]}\n")
    assert [cell.name for cell in sweeps.cells(path)] == ["0.5-1", "0.9-1"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], r"the sweep is \[\]; expected a mapping"),
        ({"grid": {"seed": [0]}}, "the sweep has grid; expected either notebook or train"),
        ({"train": "tiny", "notebook": "06", "grid": {"seed": [0]}}, "expected either notebook or train"),
        ({"train": "tiny", "grids": {"seed": [0]}}, "the sweep has train, grids; expected"),
        ({"train": "tiny"}, "expected at least one list of values in grid"),
        ({"train": "tiny", "grid": {"seed": []}}, r"grid has seed: \[\]; expected a list of values, each once"),
        ({"train": "tiny", "grid": {"seed": 0}}, r"grid has seed: 0; expected a list"),
        ({"train": "tiny", "grid": {"seed": [0, 0]}}, r"grid has seed: \[0, 0\]; expected a list of values, each once"),
        ({"train": "tiny", "grid": {"seed": [0]}, "parameters": {"seed": 1}}, "seed is both in parameters and in grid"),
        ({"train": "huge", "grid": {"seed": [0]}}, "recipe is 'huge'"),
        ({"train": "tiny", "grid": {"method": ["set", "best"]}}, "method is 'best'"),
        ({"notebook": "99", "grid": {"seed": [0]}}, "there is no notebook '99'"),
        ({"notebook": "06", "grid": {"sparsity": [2]}}, r"parameter sparsity is 2.0; expected a number in \[0, 1\)"),
    ],
)
def test_a_sweep_that_is_not_right_is_refused_before_anything_runs(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweeps.cells(spec)


def test_what_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("grid: [")
    with pytest.raises(ValueError, match="the file of the sweep is not YAML"):
        sweeps.cells(path)


# --- running them ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with one worker, a process of its own."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as found:
        yield found.scheduler_address


def one_that_is_lost_once(cell: Cell, folder: Path) -> dict[str, Any]:
    """In each cell's folder: how often it has been tried."""
    tries = len(list(folder.glob("try-*")))
    (folder / f"try-{tries}").touch()
    if cell.parameters["seed"] == 1 and tries == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.parameters["seed"] == 2:
        raise RuntimeError("no luck")
    return {"seed": cell.parameters["seed"], "threads": os.environ.get("OMP_NUM_THREADS")}


@pytest.fixture
def lucky(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep whose cells are stand-ins for training runs."""
    monkeypatch.setitem(sweeps._KINDS, "train", (lambda cell: None, one_that_is_lost_once))  # noqa: ARG005
    return {"train": "tiny", "grid": {"seed": [0, 1, 2]}}


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the package anew: the stand-in has to be told to them."""
    monkeypatch.setattr(sweeps, "_run", functools_run)


def functools_run(cell: Cell, out_dir: str) -> dict[str, Any]:
    sweeps._KINDS["train"] = (lambda cell: None, one_that_is_lost_once)  # noqa: ARG005
    return REAL_RUN(cell, out_dir)


REAL_RUN = sweeps._run


@pytest.mark.slow
@pytest.mark.full
def test_lost_and_failed_cells_do_not_stop_the_others(
    tmp_path: Path, lucky: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    rows = sweeps.sweep(lucky, tmp_path, workers=2)
    told = [line for line in re.split(r"[\r\n]+", capsys.readouterr().out) if re.match("done|failed", line)]
    assert sorted(told) == ["done    0", "done    1", "failed  2             RuntimeError: no luck"]
    assert [(row["cell"], row["status"]) for row in rows] == [("0", "done"), ("1", "done"), ("2", "failed")]
    assert rows[1]["record"]["seed"] == 1
    assert len(list((tmp_path / "1").glob("try-*"))) == 2  # it was lost, and tried again
    assert rows[2]["error"] == "RuntimeError: no luck"
    assert "one_that_is_lost_once" in (tmp_path / "2" / "error.txt").read_text()
    assert rows[0]["record"]["threads"] == "1"
    kept = {row["cell"]: row for row in records.read_lines(tmp_path / "sweep.jsonl")}
    assert [kept[name] for name in "012"] == rows


@pytest.mark.parametrize(
    ("physical", "allowed", "workers", "share"),
    [(8, 8, 1, "8"), (8, 8, 3, "2"), (8, 2, 1, "2"), (2, 4, 4, "1"), (8, 1, 1, "1")],
)
def test_workers_share_the_cores_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, physical: int, allowed: int, workers: int, share: str
) -> None:
    monkeypatch.setattr(sweeps.psutil, "cpu_count", lambda logical: physical if not logical else 2 * physical)
    monkeypatch.setattr(sweeps.os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    assert sweeps._threads(workers) == dict.fromkeys(THREADS, share)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert sweeps._threads(workers) == dict.fromkeys(THREADS, "5")


@pytest.mark.slow
@pytest.mark.full
def test_training_cells_run_and_what_is_done_is_skipped(
    tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**SPEC, "grid": {"method": ["set"], "seed": [0, 1]}}
    rows = sweeps.sweep(spec, tmp_path, scheduler=cluster)
    told = capsys.readouterr().out.replace("\r", "\n")
    assert [row["status"] for row in rows] == ["done", "done"]
    assert [row["record"]["seed"] for row in rows] == [0, 1]
    assert (tmp_path / "set-1" / "checkpoint.safetensors").exists()
    for row in rows:
        loss = row["record"]["validation"][-1]["loss"]
        line = rf"done    {row['cell']} +[\d.]+ s  {loss:.3f} validation loss \(nats per token\)$"
        assert re.search(line, told, re.MULTILINE)
    monkeypatch.setattr(sweeps, "_client", None)  # nothing is started
    assert sweeps.sweep(spec, tmp_path) == rows
    with pytest.raises(ValueError, match=r"has cell set-0 with parameters .*'steps': 4.*, but in this sweep"):
        sweeps.sweep({**spec, "parameters": {**TINY, "steps": 5}}, tmp_path)


@pytest.mark.parametrize(("method", "goes_on"), [("set", True), ("chts", False)])
def test_a_cell_that_was_done_by_an_earlier_method_of_that_name_is_no_cell_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, goes_on: bool
) -> None:
    spec = {**SPEC, "grid": {"method": [method], "seed": [0]}}
    (cell,) = sweeps.cells(spec)
    record = {"method": method, "recipe": {}, "seed": 0}  # as they were before records had a revision
    records.write_lines(tmp_path / "sweep.jsonl", [sweeps._row(cell, None, record)])
    monkeypatch.setattr(sweeps, "_client", None)  # nothing is started
    if goes_on:
        assert sweeps.sweep(spec, tmp_path)[0]["record"] == record
    else:
        with pytest.raises(ValueError, match=rf"has cell {method}-0 from an earlier version.*other folder"):
            sweeps.sweep(spec, tmp_path)


def test_notebooks_are_cells_too(
    tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str], write_notebook: Callable[..., Path]
) -> None:
    path = write_notebook(tmp_path / "small.ipynb", "assert seed != 1, 'it is one'", parameters="seed: int = 0  # any")
    file = tmp_path / "sweep.yaml"
    file.write_text(f"notebook: {path}\ngrid: {{seed: [0, 1]}}\n")
    from chts_core.cli import main  # which the workers above can do without

    command = ["sweep", str(file), "--out", str(tmp_path / "out"), "--scheduler", cluster]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "chts: 1 failed: RuntimeError: small failed: In [3]: AssertionError: it is one" in printed.err
    assert f"1 of 2 cells are done: {tmp_path / 'out' / 'sweep.jsonl'}" in printed.out
    assert (tmp_path / "out" / "0" / "small.ipynb").exists()
    assert "AssertionError" in (tmp_path / "out" / "1" / "error.txt").read_text()


def test_two_sweeps_at_once_do_not_want_the_same_port(recwarn: pytest.WarningsRecorder) -> None:
    with sweeps._client(1, None), sweeps._client(1, None):
        pass
    assert [str(warning.message) for warning in recwarn if "Port" in str(warning.message)] == []


def test_an_interrupted_sweep_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    from chts_core.cli import main

    monkeypatch.setattr(sweeps, "sweep", interrupted)
    assert main(["sweep", "spec.yaml", "--out", str(tmp_path)]) == 130
    assert "Repeat the command to continue." in capsys.readouterr().err


def test_workers_of_another_version_are_refused(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {**records.versions(), "chts": "9.9"}
    monkeypatch.setattr(sweeps, "_check_versions", sweeps._check_versions)
    with sweeps._client(None, cluster) as client:
        real = client.run(records.versions)
    found = iter([ours])

    class Other:
        def run(self, _: object) -> dict[str, Any]:
            return real

    monkeypatch.setattr(records, "versions", lambda: next(found))
    with pytest.raises(ValueError, match=r"this is chts 9.9, but the workers have .*install the same version"):
        sweeps._check_versions(Other())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, -1])
def test_too_few_workers_are_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=rf"workers is {workers}; expected at least 1"):
        sweeps.sweep(SPEC, tmp_path, workers=workers)


def test_a_scheduler_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "_SECONDS_TO_ANSWER", 0.5)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1' .*expected an address like"):
        sweeps.sweep(SPEC, tmp_path, scheduler="tcp://127.0.0.1:1")
