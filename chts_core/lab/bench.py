"""Run the benchmarks. Each one measures the times of `chts` and of a rival in the same run, and reports their ratio."""

import ast
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from chts_core.lab.results import records

# The folder of benchmarks is imported as a package with this name, wherever the folder is.
_PACKAGE = "chts_benchmarks"


def folder() -> Path:
    """The folder with the benchmarks, in the installed package or in the checkout that this package runs from."""
    package = Path(__file__).parents[1]
    installed = package / "benchmarks"
    return installed if installed.is_dir() else package.parent / "benchmarks"


def topics() -> dict[str, str]:
    """The topic (the file name) of each benchmark, and the first line of its docstring."""
    paths = sorted(path for path in folder().glob("*.py") if path.stem != "common")
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for path in paths
    }


def bench(names: Sequence[str], out_dir: Path) -> bool:
    """Run the benchmarks of the topics `names`, or all benchmarks if `names` is empty. Print a table row by row, and
    write `out_dir`/TOPIC.json for each topic.

    If a topic raises an error, the function reports it, keeps the topic's rows so far, and runs the other topics.

    Returns:
        Whether all topics finished.

    Raises:
        ValueError: if a topic is unknown; in this case no benchmark runs.
    """
    known = topics()
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise ValueError(f"there is no benchmark {listed}; expected one or more of {', '.join(known)}.")
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder())]
    for name in [_PACKAGE, *(f"{_PACKAGE}.{topic}" for topic in ("common", *known))]:
        sys.modules.pop(name, None)
    sys.modules[_PACKAGE] = package
    print(_line("", "ours", "rival", "ratio", "aim", "against"), flush=True)
    ended = [_run(topic, out_dir) for topic in names or known]
    return all(ended)


def _run(topic: str, out_dir: Path) -> bool:
    """Run one benchmark; return whether it finished."""
    started = time.perf_counter()
    rows: list[Mapping[str, Any]] = []
    error = None
    try:
        for row in importlib.import_module(f"{_PACKAGE}.{topic}").rows():
            print(_as_text(row), flush=True)
            rows.append(row)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        print(f"chts: benchmark {topic} failed: {error}", file=sys.stderr)
    record = {
        "schema": records.SCHEMA,
        "benchmark": topic,
        "error": error,
        "rows": rows,
        "versions": records.versions(),
        "device": records.describe_device(records.choose_device()),
        "seconds": round(time.perf_counter() - started, 1),
        "git": records.git_revision(),
    }
    records.write_json(out_dir / f"{topic}.json", record)
    return error is None


def _as_text(row: Mapping[str, Any]) -> str:
    aim = f"{row['aim']:g}" if "aim" in row else "-"
    ratio = f"{row['times_faster']:.2f}"
    return _line(row["comparison"], _as_time(row["seconds"]), _as_time(row["rival_seconds"]), ratio, aim, row["rival"])


def _line(comparison: str, ours: str, rival: str, ratio: str, aim: str, name: str) -> str:
    return f"{comparison:<52} {ours:>8} {rival:>8} {ratio:>7} {aim:>5}  {name}"


def _as_time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
