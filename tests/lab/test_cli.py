import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chts_core import cli
from chts_core.lab import bench, data
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.glossary import GLOSSARY
from chts_core.lab.results import records

PARAMETERS = 'profile: str = "laptop"  # how large\nseed: int = 0  # of the run\nsparsity: float = 0.9'
ROW = {
    "method": "chts",
    "runs": 2,
    "accuracy": 0.5,
    "interval": 0.25,
    "density": 0.1,
    "active_neurons": 1,
    "seconds": 2,
}
PUBLISH = f"""
from IPython.display import display

display({{"{records.RESULTS_TYPE}": {{"methods": [{ROW}], "seed": seed}}, "text/plain": ""}}, raw=True)
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


@pytest.fixture
def tiny(tmp_path: Path, write_notebook: Callable[..., Path]) -> Path:
    return write_notebook(tmp_path / "tiny.ipynb", PUBLISH, parameters=PARAMETERS)


# --- doctor ---


@pytest.mark.usefixtures("no_fashion")
def test_the_doctor_tells_what_is_here_and_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for name, version in records.versions().items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(version)}$", shown.out, re.MULTILINE)
    device = records.describe_device(records.choose_device())
    assert f"{device['type']}: {device['name']}, {device['threads']} threads" in shown.out
    assert re.search(r"memory: \d+\.\d GB free of \d+\.\d GB", shown.out)
    assert re.search(r"^  digits +1,797 images .*found, comes with scikit-learn$", shown.out, re.MULTILINE)
    assert re.search(r"^  fashion_mnist +70,000 images .*missing; ", shown.out, re.MULTILINE)
    assert data.IMAGE_SETS["fashion_mnist"].remedy in shown.out


@pytest.mark.usefixtures("no_fashion")
def test_the_doctor_tells_where_data_is(
    tmp_path: Path,
    write_fashion: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CHTS_DATA", str(write_fashion(tmp_path / "data")))
    assert cli.main(["doctor"]) == 0
    assert f"found, {tmp_path / 'data' / 'fashion-mnist'}" in capsys.readouterr().out


@pytest.mark.parametrize("cuda", [False, True])
def test_the_doctor_says_what_to_do_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cuda: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(records, "describe_device", lambda _: {"type": "?", "name": "some device", "threads": 1})
    assert cli.main(["doctor"]) == 0
    assert ("no CUDA device: use the profile ci, binder or laptop" in capsys.readouterr().out) is not cuda


# --- glossary ---


def test_the_glossary_prints_every_term(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["glossary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(GLOSSARY)
    assert lines[2:4] == [
        "density (stage 01): Share of the possible links that exist.",
        "    chts_core.topology.link_count",
    ]


# --- list ---


def test_the_list_names_every_stage_and_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for path in notebooks.stages():
        minutes = notebooks.profile_settings(path.stem, "laptop")["minutes"]
        start = lines.index(f"{path.stem}: {notebooks.title(path)} ({minutes:g} min with the profile laptop)")
        parameters = notebooks.parameters(path).values()
        for line, parameter in zip(lines[start + 1 :], parameters, strict=False):
            words = [parameter.name, parameter.type.__name__, repr(parameter.default), parameter.help]
            assert line.split() == " ".join(words).split()


# --- run ---


def test_a_run_says_where_its_record_is(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["run", str(tiny), "-p", "seed", "5", "--profile", "ci", "-p", "sparsity", "0.5", "--out", "here"])
    assert code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("time unknown: this notebook is not a stage\n")
    assert re.search(r"^it took [\d.]+ min", shown, re.MULTILINE)
    assert re.search(r"^notebook: +here/tiny.ipynb$", shown, re.MULTILINE)
    assert re.search(r"^record: +here/tiny.json$", shown, re.MULTILINE)
    assert re.search(r"^chts +50\.0% ± 25\.0% +10\.00% +100% +2\.0$", shown, re.MULTILINE)
    record = json.loads(Path("here/tiny.json").read_text())
    assert record["status"] == "done"
    assert record["parameters"] == {"profile": "ci", "seed": 5, "sparsity": 0.5}
    assert record["results"]["seed"] == 5


def test_a_failing_run_exits_1_and_still_writes(
    tmp_path: Path, write_notebook: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_notebook(tmp_path / "broken.ipynb", "raise RuntimeError('no luck')", parameters=PARAMETERS)
    assert cli.main(["run", str(path)]) == 1
    shown = capsys.readouterr()
    assert "broken failed: In [" in shown.err
    assert "RuntimeError: no luck" in shown.err
    # The folder of a run that names none: below runs/, by name and time.
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"broken-\d{8}-\d{6}", folder.name)
    assert sorted(entry.name for entry in folder.iterdir()) == ["broken.ipynb", "broken.json"]
    assert f"{folder / 'broken.json'}" in shown.out


REFUSED = {
    "unknown parameter": (["-p", "sead", "1"], r"no parameter 'sead' \(did you mean 'seed'\?\)"),
    "wrong type": (["-p", "seed", "x"], "parameter seed is 'x'; expected a whole number"),
    "out of range": (["-p", "sparsity", "1.5"], "parameter sparsity is 1.5; expected a number in"),
    "unknown profile": (["--profile", "laptp"], r"parameter profile is 'laptp' \(did you mean 'laptop'\?\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_parameters_exit_2_and_write_nothing(tiny: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, message = REFUSED[case]
    assert cli.main(["run", str(tiny), *arguments, "--out", "out"]) == 2
    shown = capsys.readouterr()
    assert re.match(r"chts: ", shown.err)
    assert re.search(message, shown.err)
    assert shown.out == ""
    assert list(Path().iterdir()) == []


def test_an_unknown_notebook_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "06_mpl"]) == 2
    assert "there is no notebook '06_mpl' (did you mean '06_mlp'?)" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_a_device_that_is_not_there_exits_2_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["run", "06", "-p", "device", "cuda", "--profile", "ci"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
    assert not list(Path().rglob("*.ipynb"))


def test_where_nothing_can_be_written_exits_2(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("not a folder")
    assert cli.main(["run", str(tiny), "--out", "file"]) == 2
    assert "file" in capsys.readouterr().err
    assert Path("file").read_text() == "not a folder"


@pytest.mark.parametrize("profile", ["laptp", "CI"])
def test_a_tour_at_an_unknown_profile_exits_2_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    def unexpected(*_: Any) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(notebooks, "run", unexpected)
    assert cli.main(["tour", "--profile", profile]) == 2
    assert "expected one of '', ci, binder, laptop, gpu, paper" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("succeeded", "code"), [(True, 0), (False, 1)])
def test_the_tour_exits_by_its_outcome(monkeypatch: pytest.MonkeyPatch, succeeded: bool, code: int) -> None:
    asked: list[tuple[str, Path, list[Path]]] = []

    def tour(profile: str, out_dir: Path, paths: list[Path]) -> bool:
        asked.append((profile, out_dir, paths))
        return succeeded

    monkeypatch.setattr("chts_core.lab.notebook.tour.tour", tour)
    assert cli.main(["tour"]) == code
    assert cli.main(["tour", "06", "6", "--profile", "ci", "--out", "there"]) == code
    assert asked == [("laptop", Path("runs/tour"), []), ("ci", Path("there"), [notebooks.find("06")])]


# --- bench ---


@pytest.mark.parametrize(("succeeded", "code"), [(True, 0), (False, 1)])
def test_the_benchmarks_exit_by_their_outcome(monkeypatch: pytest.MonkeyPatch, succeeded: bool, code: int) -> None:
    asked: list[tuple[list[str], Path]] = []

    def run(topics: list[str], out_dir: Path) -> bool:
        asked.append((topics, out_dir))
        return succeeded

    monkeypatch.setattr(bench, "bench", run)
    assert cli.main(["bench"]) == code
    assert cli.main(["bench", "regrowth", "step", "--out", "there"]) == code
    assert asked == [([], Path("runs/bench")), (["regrowth", "step"], Path("there"))]


def test_benchmarks_are_listed_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed == bench.topics()
    assert list(Path().iterdir()) == []


def test_an_unknown_benchmark_exits_2_and_runs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "regrowth", "regroth"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "there is no benchmark 'regroth'; expected one or more of " in shown.err
    assert "regrowth" in shown.err.partition("expected")[2]
    assert list(Path().iterdir()) == []


# --- the command itself ---


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["run"], ["run", "06", "-p", "seed"]])
def test_a_wrong_command_line_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: chts" in capsys.readouterr().err


def test_the_command_explains_itself_from_anywhere() -> None:
    command = [sys.executable, "-m", "chts_core.cli", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (finished.returncode, finished.stderr) == (0, "")
    for word in ("usage: chts", "doctor", "list", "run", "bench", "tour"):
        assert word in finished.stdout


def test_the_command_is_installed() -> None:
    beside = Path(sys.executable).parent / ("chts.exe" if os.name == "nt" else "chts")
    if not beside.exists() and shutil.which("chts") is None:
        pytest.skip("the package is imported from its sources, not installed")
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="chts")
    assert entry.load() is cli.main


@pytest.mark.parametrize(
    "arguments", [["--profile", "ci", "-p", "profile", "gpu"], ["-p", "seed", "1", "-p", "seed", "2"]]
)
def test_a_parameter_given_twice_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "06", *arguments]) == 2
    assert "is given more than once" in capsys.readouterr().err


# --- lab ---


def test_lab_opens_copies_of_the_notebooks_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command: commands.append(command) or 3)
    place = tmp_path / "work"
    assert cli.main(["lab", str(place), "--no-browser"]) == 3  # as the server ends, so does this
    names = {path.name for path in notebooks.stages()}
    assert {path.name for path in place.iterdir()} == names
    assert f"{len(names)} notebooks are new in {place}" in capsys.readouterr().out
    assert commands[0][1:] == [
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={place}",
        "--ServerApp.ip=localhost",
        "--no-browser",
    ]


def test_lab_keeps_what_a_reader_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.subprocess, "call", lambda _: 0)
    (tmp_path / "06_mlp.ipynb").write_text("mine")
    assert cli.main(["lab", str(tmp_path)]) == 0
    assert (tmp_path / "06_mlp.ipynb").read_text() == "mine"
    assert (tmp_path / "05_density_decay.ipynb").read_bytes() == notebooks.find("05").read_bytes()
    assert notebooks.copy_to(tmp_path) == []


def test_lab_does_not_work_where_the_notebooks_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", str(notebooks.folder())]) == 2
    assert "choose another folder to work in" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp932", "cp437", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list"], 0, "06_mlp"),
        (["report", "Σ × →.\udcff"], 2, "has no recorded runs"),
        (["run", "Σ×→"], 2, "`chts list`"),
    ],
)
def test_what_a_console_cannot_show_is_replaced(
    encoding: str, arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(written, encoding=encoding, write_through=True))
    assert cli.main(arguments) == code
    assert said in written.getvalue().decode(encoding)
