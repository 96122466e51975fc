"""The tour: run the stage notebooks, two at a time, and then write one page with their results."""

import contextlib
import html
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chts_core.lab.notebook import notebooks, processes
from chts_core.lab.notebook.forecast import in_words
from chts_core.lab.notebook.pages import as_html, document, markdown_as_html

AT_A_TIME = 2
_BETWEEN_LOOKS = 0.2  # seconds
_LINKS = {"html": "page", "ipynb": "notebook", "json": "record", "log": "log"}
_STYLES = {"waiting": "dim", "running": "bold", "done": "green", "failed": "bold red", "stopped": "yellow"}


@dataclass
class _Stage:
    """A stage of the tour: its description and its current state.

    path: the notebook. minutes: the expected time, or 0 if it is unknown.
    state: "waiting", "running", "done", "failed" or "stopped".
    """

    path: Path
    minutes: float
    state: str = "waiting"
    seconds: float = 0.0
    error: str = ""


def tour(profile: str, out_dir: Path, paths: Sequence[Path] = ()) -> bool:
    """Run stages with a profile, two at a time and with one thread each; write their pages and an index.

    A stage that fails does not stop the others. The stages with the longest expected time start first.

    Args:
        profile: one of `notebooks.PROFILES`.
        out_dir: the folder for the executed notebook, page, record and `<stage>.log` of each stage.
        paths: the notebooks; by default all stages.

    Returns:
        Whether all stages succeeded.

    Raises:
        ValueError: for an unknown profile.
        KeyboardInterrupt: if the tour was interrupted. The index then contains only the finished stages.
    """
    notebooks.check_value("profile", profile)
    forecasts = {path: notebooks.expected(path, {"profile": profile}) for path in paths or notebooks.stages()}
    stages = [_Stage(path, found.minutes if found else 0) for path, found in forecasts.items()]
    out_dir.mkdir(parents=True, exist_ok=True)
    minutes = max(sum(stage.minutes for stage in stages) / AT_A_TIME, *(stage.minutes for stage in stages))
    expected = f", expected to take {in_words(minutes)}" if minutes else ""
    print(f"{len(stages)} stages with profile {profile}{expected}", flush=True)
    try:
        _run_all(stages, profile, out_dir)
    finally:
        index = out_dir / "index.html"
        ended = [stage for stage in stages if stage.state in ("done", "failed")]
        records = [record for stage in ended if (record := _read(stage, out_dir))]
        index.write_text(_index(stages, records, profile, out_dir), encoding="utf-8")
        rows = comparison(records)
        if rows:
            print(f"\n{as_text(rows)}")
        for stage in stages:
            if stage.error:
                print(f"{stage.path.stem} failed: {stage.error}")
        done = sum(stage.state == "done" for stage in stages)
        print(f"\n{done} of {len(stages)} stages are done: {index}")
    return done == len(stages)


def _run_all(stages: Sequence[_Stage], profile: str, out_dir: Path) -> None:
    """Run stages and show their progress: in a terminal as a live table, and otherwise as a line for each change."""
    console = Console()
    waiting = sorted(stages, key=lambda stage: -stage.minutes)
    running: dict[subprocess.Popen[bytes], _Stage] = {}
    started: dict[subprocess.Popen[bytes], float] = {}

    def tell(stage: _Stage) -> None:
        if not console.is_terminal:
            console.print(Text(f"{stage.path.stem}: {stage.state}, {stage.seconds:.0f} s"), soft_wrap=True)

    def table() -> Table:
        for process, stage in running.items():
            stage.seconds = time.monotonic() - started[process]
        return _as_table(stages)

    live = Live(console=console, get_renderable=table, refresh_per_second=2)
    with _interrupted_when_ended(), live if console.is_terminal else contextlib.nullcontext():
        try:
            while waiting or running:
                while waiting and len(running) < AT_A_TIME:
                    stage = waiting.pop(0)
                    process = _start(stage.path, profile, out_dir)
                    running[process], started[process] = stage, time.monotonic()
                    stage.state = "running"
                for process in [process for process in running if process.poll() is not None]:
                    stage = running.pop(process)
                    stage.seconds = time.monotonic() - started[process]
                    _finish(stage, process.returncode, out_dir)
                    tell(stage)
                time.sleep(_BETWEEN_LOOKS)
        finally:
            for process, stage in running.items():
                stage.state = "stopped"
                processes.end(process)
                tell(stage)


@contextlib.contextmanager
def _interrupted_when_ended() -> Iterator[None]:
    """Within the block, treat SIGTERM like Ctrl-C. Otherwise, the stages would continue, because they get no signal."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(path: Path, profile: str, out_dir: Path) -> "subprocess.Popen[bytes]":
    """Delete an earlier run's files, and start `chts run --page` for a stage in a process that Ctrl-C does not end."""
    for name in (path.name, f"{path.stem}.json", f"{path.stem}.html"):
        (out_dir / name).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "chts_core.cli",
        "run",
        str(path),
        "--profile",
        profile,
        "--out",
        str(out_dir),
        "--page",
    ]
    with (out_dir / f"{path.stem}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict.fromkeys(processes.THREADS, "1") | os.environ,  # the user's own settings have priority
            start_new_session=True,
        )


def _finish(stage: _Stage, status: int, out_dir: Path) -> None:
    """Set the final state of a stage and, if it failed, its error."""
    record = _read(stage, out_dir)
    if record is None:
        stage.error = f"chts run ended with exit status {status} and wrote no record; see {stage.path.stem}.log"
    else:
        stage.error = record["error"] or ""
        if not stage.error and not (out_dir / f"{stage.path.stem}.html").exists():
            stage.error = f"its page was not written; see {stage.path.stem}.log"
    stage.state = "failed" if stage.error else "done"


def _read(stage: _Stage, out_dir: Path) -> dict[str, Any] | None:
    """The record of a stage, or None if the stage has no record."""
    path = out_dir / f"{stage.path.stem}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _as_table(stages: Sequence[_Stage]) -> Table:
    table = Table("stage", "state", box=None, pad_edge=False)
    table.add_column("seconds", justify="right")
    table.add_column("expected", justify="right")
    for stage in stages:
        seconds = f"{stage.seconds:.0f}" if stage.state != "waiting" else ""
        expected = f"{60 * stage.minutes:.0f}" if stage.minutes else ""
        table.add_row(stage.path.stem, Text(stage.state, _STYLES[stage.state]), seconds, expected)
    return table


def comparison(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row of text for each method that the stages compared, with means over seeds."""
    return [
        {
            "method": row["method"],
            "data": record["results"].get("dataset", ""),
            "score": _score(row),
            "density": f"{row['density']:.2%}",
            "active neurons": f"{row['active_neurons']:.0%}",
            "seconds": f"{row['seconds']:.1f}",
        }
        for record in records
        for row in record["results"].get("methods", [])
    ]


def _score(row: Mapping[str, Any]) -> str:
    """The score of a method: accuracy for images, BLEU for translations, and perplexity for language models."""
    interval = row["interval"]
    if "perplexity" in row:
        return f"perplexity {row['perplexity']:.1f}"
    if "bleu" in row:
        return f"BLEU {row['bleu']:.1f}" + (f" ± {interval:.1f}" if interval is not None else "")
    return f"{row['accuracy']:.1%}" + (f" ± {interval:.1%}" if interval is not None else "")


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of text: the first column is left-aligned, and the other columns are right-aligned."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(values: Mapping[str, str]) -> str:
        return "  ".join(
            values[name].ljust(widths[name]) if name == names[0] else values[name].rjust(widths[name]) for name in names
        )

    return "\n".join([line({name: name for name in names}), *(line(row) for row in rows)])


def _index(stages: Sequence[_Stage], records: Sequence[Mapping[str, Any]], profile: str, out_dir: Path) -> str:
    """A page with a card for each finished stage, and then the table of methods."""
    cards = "".join(_card(stage, out_dir) for stage in stages if stage.state in ("done", "failed"))
    rows = comparison(records)
    table = f"<h2>The methods that the stages compared</h2>{as_html(rows)}" if rows else ""
    about = f"Profile {profile}"
    if records:
        versions = ", ".join(f"{name} {version}" for name, version in records[0]["versions"].items())
        about += f", {records[0]['device']['name']}; {versions}; revision {records[0]['git']}"
    return document(
        "Brain-inspired sparse training: the tour",
        f'<div class="cards">{cards}</div>{table}<p><small>{html.escape(about)}</small></p>',
    )


def _card(stage: _Stage, out_dir: Path) -> str:
    """A card for a stage, with its title, its goal, its largest picture, its running time and links to its files."""
    stem = stage.path.stem
    goal = notebooks.goal(stage.path)
    able = markdown_as_html(f"You will be able to {html.escape(goal, quote=False)}") if goal else ""
    failed = f'<p class="failed">failed: {html.escape(stage.error)}</p>' if stage.error else ""
    links = [(ending, name) for ending, name in _LINKS.items() if (out_dir / f"{stem}.{ending}").exists()]
    listed = " · ".join(f'<a href="{stem}.{ending}">{name}</a>' for ending, name in links)
    first = f'<a href="{stem}.{links[0][0]}">{html.escape(notebooks.title(stage.path))}</a>'
    executed = out_dir / stage.path.name
    picture = ""
    if executed.exists() and (richest := richest_picture(nbformat.read(executed, as_version=4))):
        picture = f'<p><img src="data:image/png;base64,{richest[0]}" alt="{html.escape(richest[1])}"></p>'
    return (
        f"<article><h2>{first}</h2>{failed}{able}{picture}"
        f"<p><small>{stage.seconds:.0f} s · {listed}</small></p></article>"
    )


def richest_picture(notebook: Mapping[str, Any]) -> tuple[str, str] | None:
    """The picture with the most bytes in a notebook, as a PNG in base64, and its text alternative."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictured = [output for output in outputs if "image/png" in output.get("data", {})]
    if not pictured:
        return None
    richest = max(pictured, key=lambda output: len(output["data"]["image/png"]))
    return richest["data"]["image/png"], richest["metadata"].get("image/png", {}).get("alt", "")
