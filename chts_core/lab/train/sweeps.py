"""Many runs from a grid of methods, sparsities and seeds, spread over the processes of this machine or of a cluster."""

import contextlib
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from tqdm import tqdm

from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.environment import environment
from chts_core.lab.notebook.processes import THREADS
from chts_core.lab.results import records
from chts_core.lab.train import tasks
from chts_core.methods import REVISION

if TYPE_CHECKING:
    from distributed import Client

_KEYS = ("parameters", "grid")
_SECONDS_TO_ANSWER = 10  # how long to wait for the answer of a scheduler
_TRIES = 2  # the largest number of times that a cell starts if its workers are lost
_MOST_CELLS = 100_000


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    name: the run's values in the grid, joined by "-"; also the name of its folder.
    kind: the kind of run, a key of `_KINDS`.
    subject: the notebook or the recipe.
    parameters: all parameters of the run.
    """

    name: str
    kind: str
    subject: str
    parameters: dict[str, Any]

    def check(self) -> None:
        """Check that the cell can run, before anything runs.

        Raises:
            ValueError: if a parameter is unknown, or its value does not fit; the message names the parameter.
        """
        _KINDS[self.kind][0](self)

    def run(self, folder: Path) -> dict[str, Any]:
        """Run the cell in this process and return its record."""
        return _KINDS[self.kind][1](self, folder)


def _check_notebook(cell: Cell) -> None:
    path = notebooks.find(cell.subject)
    notebooks.checked_parameters(path, {name: str(value) for name, value in cell.parameters.items()})


def _run_notebook(cell: Cell, folder: Path) -> dict[str, Any]:
    path = notebooks.find(cell.subject)
    given = notebooks.checked_parameters(path, {name: str(value) for name, value in cell.parameters.items()})
    if "out_dir" in notebooks.parameters(path):
        given.setdefault("out_dir", str(folder))  # interrupted training runs continue from this folder
    record = notebooks.run(path, folder, given)
    if record["error"]:
        raise RuntimeError(f"{path.stem} failed: {record['error']}")
    return record


def _check_training(cell: Cell) -> None:
    tasks.checked(cell.subject, cell.parameters)


def _run_training(cell: Cell, folder: Path) -> dict[str, Any]:
    return tasks.train(cell.subject, cell.parameters, folder)


_KINDS: dict[str, tuple[Callable[[Cell], None], Callable[[Cell, Path], dict[str, Any]]]] = {
    "notebook": (_check_notebook, _run_notebook),
    "train": (_check_training, _run_training),
}


class _Plain(yaml.SafeLoader):
    """Read YAML without aliases, because a few lines with aliases can expand to more data than the memory can hold."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(
                f"it uses the alias *{event.anchor}, which is not supported; write the values out instead\n"
                f"{event.start_mark}"
            )
        return super().compose_node(parent, index)


def cells(spec: Mapping[str, Any] | Path) -> list[Cell]:
    """Return the checked cells of a sweep: all combinations of the values in its grid, in the order of the file.

    FC keeps all its links at any sparsity, so it runs once for each combination of the other values.

    Args:
        spec: a mapping with "notebook" (a stage) or "train" (a recipe of `tasks`), "parameters" (for all cells) and
            "grid" (a list of values for each parameter name); or the path of a YAML file with such a mapping.

    Raises:
        ValueError: if the sweep has an error; the message says which.
    """
    if isinstance(spec, Path):
        try:
            spec = _Plain(spec.read_bytes()).get_single_data()
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise ValueError(f"the file of the sweep is not YAML: {error}") from error
    if not isinstance(spec, Mapping):
        raise ValueError(f"the sweep is {spec!r:.100}; expected a mapping with notebook or train, parameters and grid.")
    kinds = [kind for kind in _KINDS if kind in spec]
    unknown = spec.keys() - {*_KINDS, *_KEYS}
    if len(kinds) != 1 or unknown:
        raise ValueError(
            f"the sweep has {', '.join(map(str, spec)) or 'nothing'}; expected either notebook or train, and "
            "parameters and grid."
        )
    grid, fixed = spec.get("grid") or {}, spec.get("parameters") or {}
    if not isinstance(grid, Mapping) or not grid or not isinstance(fixed, Mapping):
        raise ValueError(
            f"grid is {grid!r:.100} and parameters is {fixed!r:.100}; expected at least one list of values in grid, "
            "and both as mappings from names to values."
        )
    for name, values in grid.items():
        if not isinstance(values, list) or not values or len({str(value) for value in values}) < len(values):
            raise ValueError(f"grid has {name}: {values!r}; expected a list of values, each once.")
        if name in fixed:
            raise ValueError(f"{name} is both in parameters and in grid; give it in only one of them.")
    number = math.prod(map(len, grid.values()))
    if number > _MOST_CELLS:
        raise ValueError(
            f"the grid has {number:,} cells; expected at most {_MOST_CELLS:,}. Divide the grid among several sweeps."
        )
    found: dict[str, Cell] = {}
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        if chosen.get("method") == "fc":
            chosen.pop("sparsity", None)
        name = "-".join(re.sub(r"[^\w.+-]+", "_", str(value)).strip("_") for value in chosen.values())
        cell = Cell(name, kinds[0], str(spec[kinds[0]]), {**fixed, **chosen})
        if found.setdefault(name, cell) != cell:
            raise ValueError(
                f"{found[name].parameters} and {cell.parameters} would share the folder {name}; put them into two "
                "sweeps."
            )
        if found[name] is cell:
            cell.check()
    return list(found.values())


def sweep(
    spec: Mapping[str, Any] | Path, out_dir: Path, *, workers: int | None = None, scheduler: str | None = None
) -> list[dict[str, Any]]:
    """Run all cells of a sweep, each in its own folder, and collect the records of finished cells in `sweep.jsonl`.

    An interrupted sweep continues: it skips finished cells and runs failed and interrupted cells again. Training
    runs continue from their checkpoints. If a cell fails, the traceback is written to `error.txt` in its folder, and
    the other cells continue.

    Args:
        spec: as in `cells`.
        out_dir: the folder for all cells; the workers of a scheduler must find the folder under the same path.
        workers: processes on this machine; by default one for each physical core. The processes share the cores evenly.
        scheduler: the address of a Dask scheduler whose workers run the cells.

    Returns:
        One row per cell, in the order of `cells`. Each row contains cell, status ("done" or "failed"), error,
        parameters and record.

    Raises:
        ValueError: if the sweep has an error, if the folder belongs to another sweep, or if workers have a different
            version of chts.
        OSError: if the scheduler does not answer.
    """
    wanted = cells(spec)
    path = out_dir / "sweep.jsonl"
    rows = {row["cell"]: row for row in records.read_lines(path)} if path.exists() else {}
    by_name = {cell.name: cell for cell in wanted}
    for name, row in rows.items():
        if name in by_name and row["parameters"] != by_name[name].parameters:
            raise ValueError(
                f"{path} has cell {name} with parameters {row['parameters']}, but in this sweep, this cell has "
                f"{by_name[name].parameters}; choose another folder."
            )
        record = row["record"]
        if record and record.get("methods", 1) != REVISION and _another_method(record):
            raise ValueError(
                f"{path} has cell {name} from an earlier version, in which this name may have meant another "
                "method; choose another folder, so that old and new runs stay apart."
            )
    waiting = [cell for cell in wanted if rows.get(cell.name, {}).get("status") != "done"]
    if waiting:
        with _client(workers, scheduler) as client:
            for cell, row in _results(client, waiting, out_dir):
                rows[cell.name] = row
                records.write_lines(path, rows.values())
    return [rows[cell.name] for cell in wanted]


def _another_method(record: Mapping[str, Any]) -> bool:
    """Whether the method of an older record has a different name now. The record of a notebook contains no method; for
    such a record, the result is True."""
    return "method" not in record or records.as_named_today(record)["method"] != record["method"]


def _results(client: "Client", waiting: list[Cell], out_dir: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield the row of each cell when the cell finishes, and print the row in a growing table above a progress bar."""
    from distributed import as_completed

    futures = {client.submit(_run, cell, str(out_dir), pure=False): cell for cell in waiting}
    width = max(len(cell.name) for cell in waiting)
    failed = 0
    progress: tqdm[Any]
    with tqdm(total=len(waiting), unit="cell", file=sys.stdout) as progress:
        for future in as_completed(futures):
            cell = futures[future]
            lost = future.exception()  # an error if the cell lost more than one worker
            row = future.result() if lost is None else _row(cell, f"{type(lost).__name__}: {lost}", None)
            failed += row["status"] == "failed"
            progress.write(_line(row, width))
            progress.update()
            progress.set_postfix_str(f"{failed} failed" if failed else "")
            yield cell, row


def _line(row: Mapping[str, Any], width: int) -> str:
    """A line of the table: the status of a cell, its name, its seconds, and its score or error."""
    from chts_core.lab.results import report  # imported here, because workers do not need its plotting library

    record = row["record"] or {}
    seconds = f"{record['seconds']:.1f} s" if "seconds" in record else ""
    score = report.SCORES.get(record.get("task", ""))
    came_of_it = row["error"] or (f"{score.of(record):.{score.digits}f} {score.name}" if score else "")
    return f"{row['status']:<6}  {row['cell']:<{width}}  {seconds:>9}  {came_of_it}".rstrip()


def _run(cell: Cell, out_dir: str) -> dict[str, Any]:
    """Run a cell on a worker. An error in the cell is returned in the row and never raised."""
    folder = Path(out_dir) / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = cell.run(folder)
    except Exception as error:  # an error in a notebook or a training run is reported in the row
        (folder / "error.txt").write_text(traceback.format_exc(), "utf-8")
        return _row(cell, f"{type(error).__name__}: {error}", None)
    (folder / "error.txt").unlink(missing_ok=True)
    return _row(cell, None, record)


def _row(cell: Cell, error: str | None, record: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "schema": records.SCHEMA,
        "cell": cell.name,
        "status": "failed" if error else "done",
        "error": error,
        "parameters": cell.parameters,
        "record": record,
    }


@contextlib.contextmanager
def _client(workers: int | None, scheduler: str | None) -> "Iterator[Client]":
    """Yield a Dask client of a running scheduler, or of workers on this machine that end together with the client."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_SECONDS_TO_ANSWER)
        except (OSError, ValueError) as error:
            raise OSError(
                f"no Dask scheduler answers at {scheduler!r} ({type(error).__name__}); expected an address like "
                "tcp://192.168.1.2:8786, as `dask scheduler` prints it. Without --scheduler, the sweep uses this "
                "machine."
            ) from error
        with client:
            _check_versions(client)
            yield client
        return
    number = _cores() if workers is None else workers
    if number < 1:
        raise ValueError(f"workers is {number}; expected at least 1.")
    settings = {
        "distributed.nanny.pre-spawn-environ": _threads(number),
        "distributed.scheduler.allowed-failures": _TRIES - 1,
    }
    with (
        environment(),  # Dask changes environment variables for its workers and does not restore them
        dask.config.set(settings),
        LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            # The scheduler's dashboard always listens on a port. With 0, it takes a free port, so that two sweeps do
            # not share one.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,  # errors are raised; a late heartbeat of a closing worker does not matter
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _cores() -> int:
    """Number of physical cores that this process may use."""
    physical = psutil.cpu_count(logical=False) or 1
    return min(physical, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else physical


def _threads(workers: int) -> dict[str, str]:
    """The environment variables that divide the cores among workers; if one is already set, the others get its value.

    The variables must be set before torch is imported. Without them, every worker uses all cores, and all workers
    together are slower than a single worker.
    """
    share = str(max(_cores() // workers, 1))
    given = next(filter(None, map(os.environ.get, THREADS)), share)
    return {name: os.environ.get(name) or given for name in THREADS}


def _check_versions(client: "Client") -> None:
    ours = records.versions()["chts"]
    theirs = {address: found["chts"] for address, found in client.run(records.versions).items()}
    if set(theirs.values()) != {ours}:
        raise ValueError(f"this is chts {ours}, but the workers have {theirs}; install the same version everywhere.")
