"""The record of a run as JSON: parameters, results, versions, device, seconds, git revision."""

import hashlib
import html
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SCHEMA = 1

# Today's names of the methods of revision 1 (:data:`chts_core.methods.REVISION`).
_RI_TO_3, _RI_TO_9 = (
    f"removal=Removal('relative_importance', temperature=Ramp(1.0, {end}), percolate=True)" for end in (3.0, 9.0)
)
_MAGNITUDE_TO_3 = _RI_TO_3.replace("relative_importance", "magnitude")
_FIRST_MLP_CODE = "topology=SmallWorld(beta=0.25), turnover=Turnover(Cosine(0.3), skip_optimizer=True)"
_FIRST_LLAMA_CODE = (
    "removal=Removal('relative_importance', temperature=Ramp(1.0, 9.0)), "
    "regrowth=Regrowth('ch2_l3n', soft=False), turnover=Turnover(Cosine(0.1), skip_optimizer=True)"
)
_FIRST_NAMES = {
    "mest": "mest/exchange",
    "gmp": "gmp/no_return",
    "cht": "cht/by_layer",
    "cht/ch2_l3n": "cht/by_layer with regrowth=Regrowth('ch2_l3n', soft=False)",
    "cht/history": "cht/by_layer with regrowth=Regrowth('ch3_l3p', soft=False, history=True)",
    "chts": "chts/ri_zeros",
    "chtss": "chtss/ri_zeros",
    "chts/paper_magnitude": "chts/zeros",
    "chts/paper_l3p": "chts/ri_zeros with regrowth=Regrowth('ch3_l3p')",
    "chts/paper_l3p_magnitude": "chts/zeros with regrowth=Regrowth('ch3_l3p')",
    "chts/paper_to_9": f"chts/ri_zeros with {_RI_TO_9}",
    "chtss/paper_magnitude": f"chtss/ri_zeros with {_MAGNITUDE_TO_3}",
    "chtss/paper_to_9": f"chtss/ri_zeros with {_RI_TO_9}",
    **{f"{name}/mlp_code": f"{name}/ri_zeros with {_FIRST_MLP_CODE}" for name in ("chts", "chtss")},
    **{f"{name}/llama_code": f"{name}/ri_zeros with {_FIRST_LLAMA_CODE}" for name in ("chts", "chtss")},
}

# The type of a notebook's results in a cell's output. Jupyter does not know this type, so it shows the table.
RESULTS_TYPE = "application/vnd.chts.results+json"

_WIDEST_CELL = 24  # in characters

_PACKAGES = (
    "chts",
    "torch",
    "numpy",
    "scikit-learn",
    "tokenizers",
    "sacrebleu",
    "num2words",
    "matplotlib",
    "ipywidgets",
    "papermill",
    "jupyterlab",
)


def versions() -> dict[str, str]:
    """Versions of Python and of all relevant packages; "not installed" for a missing package."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def choose_device(name: str = "auto") -> torch.device:
    """The named device; "auto" means CUDA if there is a CUDA device, and otherwise the CPU.

    Raises:
        ValueError: if there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}; expected auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' but torch finds no CUDA device; use device='auto' or 'cpu'.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> dict[str, str | int]:
    """The type, the name and the memory of a device, the number of threads, and the platform, for a record."""
    described: dict[str, str | int] = {
        "type": device.type,
        "name": _processor(),
        "threads": torch.get_num_threads(),
        "memory_mb": round(psutil.virtual_memory().total / 2**20),
        "platform": platform.platform(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {"name": properties.name, "memory_mb": round(properties.total_memory / 2**20)}
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def git_revision() -> str:
    """Git revision of the checkout that this package runs from, with "+changes" if the checkout has changes.

    Without a checkout or without git, the revision is `$CHTS_REVISION`, or "none" if this variable is not set.
    """
    named = os.environ.get("CHTS_REVISION", "none")
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return named

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return named


def environment_line(device: torch.device) -> str:
    """One line about the versions and the device, for the top of a notebook."""
    found = versions()
    return (
        f"chts {found['chts']} · Python {found['python']} · torch {found['torch']} · "
        f"{describe_device(device)['name']} ({device.type}), threads: {torch.get_num_threads()}"
    )


def publish(results: Mapping[str, Any]) -> None:
    """Show a notebook's results as a table, and pass them on to the record of the run.

    Args:
        results: JSON values by name; each list of rows (mappings) becomes a collapsed table below the main table.

    Raises:
        TypeError, ValueError: if a value is not JSON; NaN is not JSON.
    """
    from IPython.display import display

    memory = psutil.Process().memory_info().rss / 2**20
    content = json.loads(
        json.dumps({**results, "memory_mb": round(memory), "threads": torch.get_num_threads()}, allow_nan=False)
    )
    display({RESULTS_TYPE: content, "text/html": _html(content), "text/plain": json.dumps(content)}, raw=True)


def _html(content: Mapping[str, Any]) -> str:
    import pandas as pd

    def table(rows: list[dict[str, Any]]) -> str:
        shown = [{name: value for name, value in row.items() if _fits_a_cell(value)} for row in rows]
        return str(pd.DataFrame(shown).to_html(index=False, float_format="{:.4g}".format, border=0))

    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    folded = (
        f"<details><summary>{html.escape(name)}: {len(rows)} rows</summary>{table(rows)}</details>"
        for name, rows in lists.items()
    )
    return table([dict(content)]) + "".join(folded)


def _fits_a_cell(value: object) -> bool:
    """Whether a value is short enough for a table; long values, such as digests, appear only in the record."""
    return not isinstance(value, list | dict) and len(str(value)) <= _WIDEST_CELL


def published(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """All results that the cells of an executed notebook published; if two have the same name, the later one counts."""
    results: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            results |= output.get("data", {}).get(RESULTS_TYPE, {})
    return results


def results_folder() -> Path:
    """The folder of recorded runs: in the installed package, or in the checkout that this package runs from."""
    package = Path(__file__).parents[2]
    installed = package / "results"
    return installed if installed.is_dir() else package.parent / "results"


def now() -> str:
    """The current time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    _write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines completely or not at all. Each row gets its digest as "sha256"."""
    _write_whole(path, "".join(_as_line(row) + "\n" for row in rows))


def _as_line(row: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(row, allow_nan=False))
    return json.dumps({**plain, "sha256": digest(plain)}, ensure_ascii=False)


def digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's keys and values; the order of the keys and the spaces in the file do not matter."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines, and check each row against its digest.

    Raises:
        ValueError: if a line is damaged, was changed after it was written, or has a different schema; the message gives
            the line number.
    """
    rows = []
    # Split the bytes. In text, some characters within a string, for example U+2028, would also end a line.
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}), so the record was cut short or changed. "
                "Restore the file, or delete the line and lose only this record."
            ) from error
        schema = row.get("schema") if isinstance(row, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path}, line {number} has schema {schema!r}; expected {SCHEMA}.")
        if row.pop("sha256", None) != digest(row):
            raise ValueError(
                f"{path}, line {number} does not match its sha256: it was changed after it was written. "
                "Restore the file, or delete the line and lose only this record."
            )
        rows.append(row)
    return rows


def check_run(row: Mapping[str, Any], place: str) -> None:
    """Check that a row is a record of a training run according to `run.schema.json`.

    Args:
        row: a row of `read_lines`.
        place: the file and line of the row, for the error message.

    Raises:
        ValueError: if the row is not such a record; the message gives the place and the error.
    """
    written = hash(json.dumps(row))
    if written in _FITTING:
        return
    from jsonschema.exceptions import best_match  # jsonschema takes about a second to import

    wrong = best_match(_run_schema().iter_errors(row))
    if wrong is None:
        _FITTING.add(written)
    else:
        where = "".join(f"[{key!r}]" for key in wrong.absolute_path)
        raise ValueError(f"{place} is not a record of a run: {where and f'at {where}, '}{wrong.message:.300}.")


# Records that this process has checked. A check takes some milliseconds, and many pages read the same records.
_FITTING: set[int] = set()


@cache
def _run_schema() -> "Draft202012Validator":
    from jsonschema import Draft202012Validator

    schema = json.loads(Path(__file__).with_name("run.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Read and check the training runs in a file of JSON lines. Renamed methods get their current names.

    Raises:
        ValueError: if a line is damaged, was changed, or is not a record of a run; the message gives the line number.
    """
    rows = read_lines(path)
    for number, row in enumerate(rows, start=1):
        check_run(row, f"{path}, line {number}")
    return [as_named_today(row) for row in rows]


def as_named_today(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run, with the current name of its method.

    A record without the key "methods" uses revision 1 of the methods. In revision 1, some methods had other names. For
    example, "chts" was the name of the method that removes links by relative importance and starts new links from zero.
    This method is now called "chts/ri_zeros".
    """
    if row.get("methods", 1) != 1:
        return dict(row)
    name, _, changes = row["method"].partition(" with ")
    name, _, first = _FIRST_NAMES.get(name, name).partition(" with ")
    csti = "topology=Correlated()" if row["recipe"].get("csti") else ""  # a setting of training in revision 1
    words = ", ".join(filter(None, (first, changes, csti)))
    return {**row, "method": f"{name} with {words}" if words else name}


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
