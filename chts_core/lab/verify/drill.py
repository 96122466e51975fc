"""Deliberate faults: runs are killed, cannot write, or have a clock that jumps.

A run with faults must give the same result as an undisturbed run. Each drill runs the usual command once undisturbed,
and again with faults. It compares the records of the two runs, and their checkpoints bit for bit. Times and memory may
differ.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from chts_core.lab.notebook import processes
from chts_core.lab.results import records
from chts_core.lab.train import checkpoint

KILLS_OF_A_RUN = 10
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
_AT_ANY_MOMENT = 0.2  # share of kills at any moment; the other kills come shortly after a run has written a file
_LONGEST_DELAY = 1.5  # the largest number of seconds between this write and the kill
_PATIENCE = 600  # the largest number of seconds to wait for a run

# Entries that may differ between two runs that are otherwise equal: dates, durations and memory.
_OF_TIME = frozenset(
    {
        "seconds",
        "total_seconds",
        "evolution_seconds",
        "tokens_per_second",
        "mfu",
        "finished",
        "peak_memory_mb",
        "sha256",
    }
)

# Every Python process that finds this file on its path runs it. The file makes the clock jump at most once a second,
# and writes the sum of the jumps to another file.
_JUMPING_CLOCK = """
import atexit, os, random, time
real, chance = time.time, random.Random(0)
clock = {"since": 0.0, "ahead": 0, "hours": 0}

def jumping():
    if real() - clock["since"] >= 1:
        ahead = chance.choice((-24, 24))
        clock.update(since=real(), ahead=ahead, hours=clock["hours"] + abs(ahead - clock["ahead"]))
    return real() + 3600 * clock["ahead"]

def tell():
    with open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.hours"), "w") as file:
        file.write(str(clock["hours"]))

time.time = jumping
atexit.register(tell)
"""
# prctl's code for dropping a capability, and the capability that lets root write anywhere
_DROP_CAPABILITY, _OVERRIDE_PERMISSIONS = 24, 1


@dataclass(frozen=True)
class Scenario:
    """A command that trains: its arguments without the output folder, and the number of processes under torchrun.

    sweep: the content of the sweep's YAML file, if the command is a sweep.
    """

    arguments: tuple[str, ...]
    processes: int = 1
    sweep: Mapping[str, Any] | None = None

    @property
    def refusals(self) -> tuple[int, ...]:
        """The possible exit statuses of a run that cannot write: 1 under torchrun, 1 or 2 for a sweep, otherwise 2."""
        if self.processes > 1:
            return (1,)
        return (2,) if self.sweep is None else (1, 2)

    def command(self, folder: Path) -> list[str]:
        """The command that runs this scenario with `folder` as its output folder."""
        start = [sys.executable]
        if self.processes > 1:
            start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        start += ["-m", "chts_core.cli"]
        arguments = self.arguments
        if self.sweep is not None:
            spec = folder.parent / "sweep.yaml"
            spec.write_text(yaml.safe_dump(dict(self.sweep)), "utf-8")
            arguments = ("sweep", str(spec), *arguments)
        return [*start, *arguments, "--out", str(folder)]


_LANGUAGE = ("train", "tiny_ci", "--method", "chts", "--sparsity", "0.9", "-s", "steps", "40", "--save-every", "2")
SCENARIOS: dict[str, Scenario] = {
    "classifier": Scenario(("train", "mlp", "--sparsity", "0.95", "-s", "epochs", "40", "-s", "hidden", "64")),
    "classifier that stores only the links": Scenario(
        ("train", "mlp", "--method", "chtss", "--sparsity", "0.95", "-s", "epochs", "20", "-s", "execution", "csr")
    ),
    "translator": Scenario(
        ("train", "number_words_ci", "--method", "chtss", "--sparsity", "0.9", "-s", "steps", "60", "--save-every", "2")
    ),
    "language model": Scenario(_LANGUAGE),
    "language model, two processes": Scenario(_LANGUAGE, processes=2),
    "sweep": Scenario(
        ("--workers", "2"),
        sweep={
            "train": "mlp",
            "parameters": {"epochs": 20, "hidden": 64, "sparsity": 0.95},
            "grid": {"method": ["set", "rigl", "chts"], "seed": [0, 1]},
        },
    ),
}


def drill(
    kills: int,
    folder: Path,
    *,
    names: tuple[str, ...] = tuple(SCENARIOS),
    faults: tuple[str, ...] = ("no space", "full disk", "read-only", "clock"),
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Kill runs of each scenario, continue them to the end, and compare them with undisturbed runs. Also cause each
    fault once in each scenario.

    Args:
        kills: number of kills in all scenarios together.
        folder: output folder of the runs; the function first removes the runs of an earlier drill.
        names: keys of `SCENARIOS`.
        faults: keys of `FAULTS`, which do not include the kills.
        seed: decides the times of the kills and their signals.

    Yields:
        A row per kill and per other fault: the scenario, the fault, and whether the run ended like an undisturbed run.

    Raises:
        ValueError: if a name is not a scenario, or if `kills` is negative.
        KeyError: for an unknown fault.
        RuntimeError: if a run fails although no fault disturbs it.
    """
    unknown = sorted(set(names) - set(SCENARIOS))
    if kills < 0 or unknown:
        raise ValueError(
            f"kills is {kills}, and names has {', '.join(unknown or names)}; expected at least 0 kills, and names "
            f"from {', '.join(SCENARIOS)}."
        )
    chance = random.Random(seed)
    about = {"schema": records.SCHEMA, "git": records.git_revision(), "versions": records.versions()}
    about["device"] = records.describe_device(torch.device("cpu"))
    for number, name in enumerate(names):
        place = folder / name.replace(",", "").replace(" ", "_")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        scenario = SCENARIOS[name]
        uncut = place / "uncut"
        seconds = _end(scenario, uncut)
        mine = kills // len(names) + (number < kills % len(names))
        for run in range(0, mine, KILLS_OF_A_RUN):
            rows = list(_killed(scenario, place / f"killed-{run}", min(mine - run, KILLS_OF_A_RUN), seconds, chance))
            same = differences(uncut, place / f"killed-{run}") == []
            for row in rows:
                yield about | {"scenario": name, "fault": "killed"} | row | {"same": same}
        for fault in faults:
            cut = place / fault.replace(" ", "-")
            found = FAULTS[fault](scenario, cut, uncut)
            if found is not None:
                yield about | {"scenario": name, "fault": fault} | found | {"same": differences(uncut, cut) == []}


def survived(row: Mapping[str, Any]) -> bool:
    """Whether the run of a row ended like an undisturbed run, reported the faults that it met, and lost nothing."""
    return all(row.get(key, True) for key in ("same", "refused", "kept", "ended"))


def _killed(
    scenario: Scenario, folder: Path, kills: int, seconds: float, chance: random.Random
) -> Iterator[dict[str, Any]]:
    """Kill a run several times and start it again after each kill; then let it end. If a run ends before it is killed,
    the function starts it again from the beginning.
    """
    done = 0
    while done < kills:
        how = chance.choice(_SIGNALS)
        anywhere = chance.random() < _AT_ANY_MOMENT
        started = time.monotonic()
        process = _start(scenario.command(folder))
        if anywhere:
            _wait(process, chance.uniform(0, seconds))
        else:
            before = _newest(folder)
            while process.poll() is None and _newest(folder) == before:
                time.sleep(0.005)
            _wait(process, chance.uniform(0, _LONGEST_DELAY))
        if process.poll() is not None:  # it had already ended
            if process.returncode:
                raise RuntimeError(f"{' '.join(scenario.command(folder)[1:])} failed before it was killed.")
            shutil.rmtree(folder)
            continue
        processes.end(process, how)
        done += 1
        yield {"signal": how.name, "after_seconds": round(time.monotonic() - started, 3), "reached": _reached(folder)}
    _end(scenario, folder)


def _without_space(scenario: Scenario, folder: Path, _: Path) -> dict[str, Any]:
    """Kill a run; continue it with a file size limit that is too low for its checkpoint, and then without a limit."""
    saved = _begin(scenario, folder)
    largest = max(map(len, saved.values()))
    ended = _start(scenario.command(folder), partial(_limit_files, largest // 2)).wait(_PATIENCE)
    kept = saved == _saved(folder)
    _end(scenario, folder)
    return {"refused": ended in scenario.refusals, "kept": kept}


def _in_read_only_folder(scenario: Scenario, folder: Path, _: Path) -> dict[str, Any]:
    """Kill a run; continue it in a folder that it can only read, and then in a folder that it can write to."""
    saved = _begin(scenario, folder)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        ended = _start(scenario.command(folder), _obey_permissions).wait(_PATIENCE)
    finally:
        for path in folders:
            path.chmod(0o755)
    kept = saved == _saved(folder)
    _end(scenario, folder)
    return {"refused": ended in scenario.refusals, "kept": kept}


def _on_full_disk(scenario: Scenario, folder: Path, uncut: Path) -> dict[str, Any] | None:
    """Run on a disk that is too small, and then on a disk that is large enough; None if no such disk can be made."""
    disk = folder.with_name(f"{folder.name}.disk")
    disk.mkdir()
    room = sum(path.stat().st_size for path in uncut.rglob("*") if path.is_file()) * 6 // 10
    if not _mount(disk, f"size={room}"):
        return None
    try:
        ended = _start(scenario.command(disk)).wait(_PATIENCE)
        for path in _saved(disk):
            checkpoint.load(path)  # raises an error if a checkpoint is incomplete
        kept = bool(_saved(disk))
        _mount(disk, f"remount,size={100 * room}")
        _end(scenario, disk)
        shutil.copytree(disk, folder)
    finally:
        subprocess.run(["umount", disk], check=False)
    return {"refused": ended in scenario.refusals, "kept": kept}


def _with_jumping_clock(scenario: Scenario, folder: Path, _: Path) -> dict[str, Any]:
    """Run all processes with a clock that jumps between a day ahead and a day behind."""
    clock = folder.with_name(f"{folder.name}.clock")
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(_JUMPING_CLOCK, "utf-8")
    ended = _start(scenario.command(folder), path=clock).wait(_PATIENCE)
    return {"ended": ended == 0, "hours": sum(int(path.read_text()) for path in clock.glob("*.hours"))}


# All faults except kills.
FAULTS: dict[str, Callable[[Scenario, Path, Path], dict[str, Any] | None]] = {
    "no space": _without_space,
    "full disk": _on_full_disk,
    "read-only": _in_read_only_folder,
    "clock": _with_jumping_clock,
}


def _begin(scenario: Scenario, folder: Path) -> dict[Path, bytes]:
    """Start a run, kill it when it has saved a checkpoint, and return the saved checkpoints."""
    process = _start(scenario.command(folder))
    while process.poll() is None and not _saved(folder):
        time.sleep(0.005)
    processes.end(process, signal.SIGKILL)
    return _saved(folder)


def _saved(folder: Path) -> dict[Path, bytes]:
    """The checkpoints from which a run can continue."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*checkpoint.safetensors"))}


def _start(
    command: list[str], before: Callable[[], None] | None = None, path: Path | None = None
) -> "subprocess.Popen[bytes]":
    paths = [str(path) if path is not None else "", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=before, env=environment
    )


def _limit_files(size: int) -> None:
    import resource  # exists only on Unix

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _obey_permissions() -> None:
    """If the user is root, make the new process obey file permissions, which root may normally ignore."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _OVERRIDE_PERMISSIONS, 0, 0, 0)


def _mount(place: Path, options: str) -> bool:
    """Mount a disk in main memory, which only root can do. Return whether it worked."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(scenario: Scenario, folder: Path) -> float:
    """Start a run, wait for its end, and return the seconds that it took."""
    started = time.monotonic()
    ended = subprocess.run(scenario.command(folder), capture_output=True, text=True, check=False, timeout=_PATIENCE)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(ended.args[1:])} failed: {ended.stderr[-2000:]}")
    return time.monotonic() - started


def _newest(folder: Path) -> int:
    """The time of the last write to a file below a folder, in nanoseconds; 0 if there is no file."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found = max(found, path.stat().st_mtime_ns)
        except FileNotFoundError:
            continue
    return found


def _reached(folder: Path) -> int:
    """The number of steps, epochs or cells that a killed run has saved.

    Raises:
        ValueError: if one of the run's files is damaged.
    """
    path = folder / "checkpoint.safetensors"
    if path.exists():
        state = checkpoint.load(path)
        return int(state["step"]) if "step" in state else len(state["test"])
    return len(records.read_lines(folder / "sweep.jsonl")) if (folder / "sweep.jsonl").exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """List the differences between two runs of the same command in two folders, except differences in time and memory.

    Args:
        one, other: output folders of `chts train` or `chts sweep`.
    """
    found = []
    checkpoints = sorted(path.relative_to(one) for path in one.rglob("*checkpoint.safetensors"))
    for name in checkpoints:
        found += _unlike(checkpoint.load(one / name), checkpoint.load(other / name), str(name))
    read = _cells if (one / "sweep.jsonl").exists() else _record
    return found + _unlike(read(one), read(other), "records")


def _cells(folder: Path) -> list[dict[str, Any]]:
    return sorted(records.read_lines(folder / "sweep.jsonl"), key=lambda row: str(row["cell"]))


def _record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text("utf-8"))


def _unlike(one: Any, other: Any, place: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"only one of the runs has {sorted(map(str, one.keys() ^ other.keys()))} in {place}"]
        kept = one.keys() - _OF_TIME
        return [line for key in kept for line in _unlike(one[key], other[key], f"{place}[{key!r}]")]
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        return [
            line
            for number, pair in enumerate(zip(one, other, strict=True))
            for line in _unlike(*pair, f"{place}[{number}]")
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    else:
        same = type(one) is type(other) and (one == other or one is other or repr(one) == repr(other))
    return [] if same else [place]
