"""Find, check, run and publish the staged notebooks."""

import difflib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import papermill
import torch
import yaml
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from chts_core.lab import records

PROFILES = ("ci", "binder", "laptop", "gpu", "paper")
# A kernel that listens on files of this user rather than on TCP ports, where the system has that.
_KERNEL_CONFIG = Config({} if sys.platform == "win32" else {"KernelManager": {"transport": "ipc"}})
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook, as its `parameters` cell declares it."""

    name: str
    type: type
    default: str
    help: str


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `below` excludes the upper one."""

    low: float
    high: float | None = None
    below: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a value lies in the range (NaN does not)."""
        if self.high is None:
            return bool(value >= self.low)
        return bool(self.low <= value < self.high if self.below else self.low <= value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"a number of at least {self.low}"
        return f"a number in [{self.low}, {self.high}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Whether a value is one of the words."""
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(word or repr('') for word in self.words)}"


# A parameter of the same name means the same in every notebook. 0 or "" is "as the profile says".
LIMITS: dict[str, Range | Choice] = {
    "profile": Choice(PROFILES),
    "seed": Range(0),
    "device": Choice(("auto", "cpu", "cuda")),
    "dataset": Choice(("", "digits", "fashion_mnist")),
    "sparsity": Range(0, 1, below=True),
    "r": Range(0, 1),
    "epochs": Range(0),
    "seeds": Range(0),
    "hidden": Range(0),
}


def folder() -> Path:
    """Where the notebooks are: in the installed package, or in the checkout that this package runs from."""
    package = Path(__file__).parents[1]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def stages() -> list[Path]:
    """All stage notebooks, in order."""
    return sorted(folder().glob("[0-9][0-9]_*.ipynb"))


def find(name: str) -> Path:
    """A notebook by stage number ("06" or "6"), name ("06_mlp") or path.

    Raises:
        ValueError: if there is none of that name.
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in stages()}
    if name.isdigit():
        for stem, path in known.items():
            if int(stem[:2]) == int(name):
                return path
    stem = name.removesuffix(".ipynb")
    if stem in known:
        return known[stem]
    raise ValueError(
        f"there is no notebook {name!r}{_nearest(stem, known)}; `chts list` shows all: {', '.join(known)}."
    )


def title(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if heading:
            return heading[1]
    return path.stem


def parameters(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name."""
    types = {"int": int, "float": float, "str": str, "bool": bool}
    return {
        name: Parameter(name, types[found["inferred_type_name"]], found["default"], found["help"])
        for name, found in papermill.inspect_notebook(str(path)).items()
    }


def profile_settings(stage: str, profile: str) -> dict[str, Any]:
    """What a profile means for a stage: its settings, the minutes and memory it is expected to take.

    Raises:
        ValueError: for an unknown profile.
    """
    _check_value("profile", profile)
    profiles = yaml.safe_load(Path(__file__).with_name("profiles.yaml").read_text(encoding="utf-8"))
    return dict(profiles[stage][profile])


def start(stage: str, profile: str, **given: Any) -> SimpleNamespace:
    """Settle a notebook's parameters: check each, and let the profile fill in those left at 0 or "".

    Args:
        stage: the notebook's name, "06_mlp".
        profile: one of `PROFILES`.
        given: the other parameters of the notebook, by name.

    Returns:
        The settings as attributes; `device` as a torch.device.

    Raises:
        ValueError: naming the parameter that is out of range and what was expected.
    """
    settings = profile_settings(stage, profile)
    minutes, memory = settings.pop("minutes"), settings.pop("memory_mb")
    for name, value in given.items():
        _check_value(name, value)
        if name not in settings or value not in (0, ""):
            settings[name] = value
    expected = f"about {minutes:g} min and {memory} MB on 2 cores" if minutes else "time and memory not measured yet"
    print(f"profile {profile}: {expected}")
    if "threads" in settings:
        torch.set_num_threads(settings.pop("threads"))
    if "device" in settings:
        settings["device"] = records.choose_device(settings["device"])
    return SimpleNamespace(**settings)


def checked_parameters(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters from the command line, converted to the notebook's types and checked.

    Raises:
        ValueError: naming an unknown parameter and the nearest known one, or a value that does not fit.
    """
    known = parameters(path)
    checked: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise ValueError(
                f"{path.stem} has no parameter {name!r}{_nearest(name, known)}; its parameters are {', '.join(known)}."
            )
        checked[name] = _convert(name, text, known[name].type)
        _check_value(name, checked[name])
    return checked


def _convert(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"parameter {name} is {text!r}; expected true or false.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"parameter {name} is {text!r}; expected {noun}.") from None


def _check_value(name: str, value: Any) -> None:
    limit = LIMITS.get(name)
    if limit is not None and not limit.accepts(value):
        nearest = _nearest(value, limit.words) if isinstance(limit, Choice) and isinstance(value, str) else ""
        raise ValueError(f"parameter {name} is {value!r}{nearest}; expected {limit}.")


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def run(path: Path, out_dir: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Execute a notebook with parameters; write it, and the record of the run, to `out_dir`.

    Args:
        path: the notebook; not changed.
        out_dir: receives `<stage>.ipynb` and `<stage>.json`.
        given: checked parameters.

    Returns:
        The record, as written: schema, notebook, status ("done" or "failed"), error, parameters, results, versions,
        device, seconds, started, git. A notebook fails when a cell raises, or a widget does.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    executed_path = out_dir / path.name
    declared = {name: parameter.default for name, parameter in parameters(path).items()}
    started, clock = datetime.now(UTC), time.perf_counter()
    error = None
    try:
        papermill.execute_notebook(
            str(path), str(executed_path), parameters=dict(given), kernel_name="python3", config=_KERNEL_CONFIG
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.cell_index}: {failure.ename}: {failure.evalue}"
    seconds = time.perf_counter() - clock
    executed = nbformat.read(executed_path, as_version=4)
    if error is None:
        error = "; ".join(widget_errors(executed)) or None

    record = {
        "schema": records.SCHEMA,
        "notebook": path.stem,
        "status": "failed" if error else "done",
        "error": error,
        "parameters": {**{name: yaml.safe_load(value) for name, value in declared.items()}, **given},
        "results": records.published(executed),
        "versions": records.versions(),
        "device": records.describe_device(records.choose_device(str(given.get("device", "auto")))),
        "seconds": round(seconds, 1),
        "started": started.isoformat(timespec="seconds"),
        "git": records.git_revision(),
    }
    records.write_json(out_dir / f"{path.stem}.json", record)
    return record


def widget_errors(notebook: Mapping[str, Any]) -> list[str]:
    """Errors that hide in widgets: raised inside `interact` or an Output, they leave a run's exit status at 0.

    Also names widgets that were shown but whose state was not saved, so that nobody can see them.
    """
    state = notebook["metadata"].get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    errors = [
        f"widget output: {output.get('ename')}: {output.get('evalue')}"
        for model in state.values()
        for output in model.get("state", {}).get("outputs", [])
        if output.get("output_type") == "error"
    ]
    shown = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    return errors + [f"widget {model} was shown but its state is missing" for model in shown if model not in state]
