"""Runs items in order, each in its own process and for a limited time, and keeps the results of each item."""

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chts_core.lab.results import records

Row = dict[str, Any]
Work = Callable[[Path, str, bool], Iterator[Row]]

GRACE = 20.0  # seconds in which an item that is out of time can still send its results
_SECONDS_TO_BEGIN = 60.0  # for a process, which imports torch first
_SECONDS_TO_END = 5.0  # for a process that has sent everything


class OutOfTime(BaseException):
    """Raised within an item when its time is over. No `except Exception` stops it."""


@dataclass(frozen=True)
class Item:
    """One thing to run.

    name: also the name of its folder.
    seconds: its time limit; None: all the time that is left.
    work: called with its own folder, the device ("cuda" or "cpu") and whether to run in its smallest form; it yields
        each row of JSON values as soon as it has it. A row {"run": record} is a training run.
    figure: gives the most important figure of its rows, in a few words.
    least: the item does not start if fewer seconds are left.
    """

    name: str
    seconds: float | None
    work: Work
    figure: Callable[[list[Row]], str]
    least: float = 30.0


def run(
    items: Sequence[Item], out: Path, *, seconds: float, device: str = "cuda", reduced: bool = False
) -> dict[str, Row]:
    """Run the items that are not done yet, and print a line for each item.

    The states of an item are "done", "failed" and "cut" (it was out of time). An item that failed or was cut runs again
    in the next call, in its old folder.

    Args:
        items: in the order in which they run.
        out: gets `gpu.json` with the results of all items, and a folder for each item, with its output in `log.txt`.
        seconds: for all items together.
        device: "cuda" or "cpu".
        reduced: whether each item runs in its smallest form; then the time limits of single items do not apply.

    Returns:
        The same as `read`.

    Raises:
        ValueError: if the device is not there, or the folder contains items of another kind of device or size.
    """
    end = time.monotonic() + seconds
    about = {
        "versions": records.versions(),
        "device": records.describe_device(records.choose_device(device)),
        "reduced": reduced,
        "git": records.git_revision(),
    }
    found = read(out)
    for name, kept in found.items():
        theirs, ours = _kind(kept), _kind(about)
        if theirs != ours:
            raise ValueError(f"{out} contains item {name} of {theirs}, and this is {ours}; choose another folder.")
    for item in items:
        if item.name in found and found[item.name]["state"] == "done":
            print(_line(item, found[item.name], "before"), flush=True)
            continue
        left = end - time.monotonic() - GRACE
        if left < item.least:
            print(f"{item.name:<12} left out: {max(left, 0):.0f} s are left, it needs {item.least:.0f}", flush=True)
            continue
        limit = left if item.seconds is None or reduced else min(item.seconds, left)
        began = time.monotonic()
        given = _run(item, out / item.name, device, reduced, limit)
        taken = {"seconds": round(time.monotonic() - began, 1), "finished": records.now()}
        found[item.name] = {"item": item.name, **given, **about, **taken}
        records.write_json(out / "gpu.json", {"schema": records.SCHEMA, "items": list(found.values())})
        print(_line(item, found[item.name], ""), flush=True)
    return found


def read(out: Path) -> dict[str, Row]:
    """The results of the items of a folder so far, by item name: state, error, rows, seconds, and where they ran."""
    path = out / "gpu.json"
    return {kept["item"]: kept for kept in json.loads(path.read_text("utf-8"))["items"]} if path.exists() else {}


def take_over(out: Path, timings: Path, runs: Path) -> None:
    """Add the results of a folder's items, which ran on a GPU, to the recorded results of other items.

    Args:
        out: as in `run`.
        timings: JSON file of all items, without the records of training runs.
        runs: file of JSON lines with these records.

    Raises:
        ValueError: if the folder has no results, or has results of a CPU or of a reduced size, or a record is not a
            record of a run; then nothing is written.
    """
    found = read(out)
    if not found:
        raise ValueError(f"{out} has no gpu.json with results; run `make gpu` first, or name another folder by --out.")
    for name, kept in found.items():
        if _kind(kept) != "cuda":
            raise ValueError(f"{out} contains item {name} of {_kind(kept)}; expected full results of a GPU (cuda).")
    rows = [row for kept in found.values() for row in kept["rows"]]
    trained = [row["run"] for row in rows if "run" in row]
    for number, record in enumerate(trained, start=1):
        records.check_run(record, f"{out}, run {number}")
    known = records.read_lines(runs) if runs.exists() else []
    items = {kept["item"]: kept for kept in json.loads(timings.read_text("utf-8"))["items"]} if timings.exists() else {}
    for name, kept in found.items():
        if kept["state"] == "done" or name not in items or items[name]["state"] != "done":
            items[name] = {**kept, "rows": [row for row in kept["rows"] if "run" not in row]}
    records.write_json(timings, {"schema": records.SCHEMA, "benchmark": "gpu", "items": list(items.values())})
    records.write_lines(runs, [*known, *(record for record in trained if record not in known)])
    print(f"{len(items)} items: {timings}\n{len(trained)} training runs: {runs}")


def _kind(about: Mapping[str, Any]) -> str:
    return f"{about['device']['type']}{', reduced' if about['reduced'] else ''}"


def _line(item: Item, kept: Row, when: str) -> str:
    figure = item.figure(kept["rows"]) if kept["rows"] else ""
    error = kept["error"].splitlines()[0] if kept["error"] else ""
    state = f"{kept['state']} {when}".strip()
    return f"{item.name:<12} {state:<12} {kept['seconds']:>6.1f} s  {'; '.join(filter(None, (figure, error)))}"


def _run(item: Item, folder: Path, device: str, reduced: bool, seconds: float) -> Row:
    """State, error and rows of one item."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = multiprocessing.get_context("forkserver")  # imports torch once, and never touches a GPU
    processes.set_forkserver_preload([__name__])
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=_work, args=(item.work, folder, device, reduced, seconds, send))
    rows: list[Row] = []
    state, error = "cut", None
    end = time.monotonic() + _SECONDS_TO_BEGIN
    process.start()
    send.close()
    try:
        while receive.poll(max(end - time.monotonic(), 0.0)):
            kind, content = receive.recv()
            if kind == "begun":
                end = time.monotonic() + seconds + GRACE
            elif kind == "row":
                rows.append(json.loads(content))
            else:
                state, error = kind, content
                break
        process.join(_SECONDS_TO_END)
    except (EOFError, OSError):  # the process has died
        process.join()
        state, error = "failed", f"its process ended with {process.exitcode}; see {folder / 'log.txt'}"
    finally:
        _kill(process)
    if state == "cut":
        error = f"it was stopped after {seconds:.0f} s"
    return {"state": state, "error": error, "rows": rows}


def _kill(process: Any) -> None:
    """Kill the process and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may not be a process group yet
    process.join()


def _work(work: Work, folder: Path, device: str, reduced: bool, seconds: float, send: Connection) -> None:
    """Run an item in this process, which belongs to the item, and send its rows."""
    os.setpgrp()
    with (folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _send(send, "begun", None)
    signal.signal(signal.SIGALRM, _raise_out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for row in work(folder, device, reduced):
            _send(send, "row", json.dumps(row, allow_nan=False))
        _send(send, "done", None)
    except OutOfTime:
        _send(send, "cut", None)
    except Exception as error:
        traceback.print_exc()
        _send(send, "failed", f"{type(error).__name__}: {error}")


def _send(send: Connection, kind: str, content: str | None) -> None:
    """Send a whole message: the signal at the time limit waits until it is sent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    send.send((kind, content))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def _raise_out_of_time(*_: object) -> None:
    raise OutOfTime
