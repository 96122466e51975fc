"""Find, describe, check and run the notebooks of the stages."""

import ast
import copy
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import torch
import yaml

from chts_core.lab.data import IMAGE_SETS, TEXT_SETS, TRANSLATION_SETS
from chts_core.lab.notebook.forecast import Forecast, forecast, in_words
from chts_core.lab.notebook.limits import Choice, Choices, MethodName, Range, converted, nearest
from chts_core.lab.notebook.processes import memory_watched
from chts_core.lab.results import records
from chts_core.lab.train import images, language, translation
from chts_core.methods import METHODS, PRESETS, REVISION

PROFILES = ("ci", "binder", "laptop", "gpu", "paper")
_STAGE = r"0*(\d+[a-z]?)"  # "06", "6" and "06b"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


@dataclass(frozen=True)
class Parameter:
    """A parameter that the `parameters` cell of a notebook declares."""

    name: str
    type: type
    default: Any
    help: str


# Parameters with the same name have the same meaning in all notebooks. 0 or "" means the value of the profile.
LIMITS: dict[str, Range | Choice] = {
    "profile": Choice(("", *PROFILES)),
    "seed": Range(0, 2**63 - 1, whole=True),
    "device": Choice(("auto", "cpu", "cuda")),
    "dataset": Choice(("", *IMAGE_SETS, *TRANSLATION_SETS, *TEXT_SETS)),
    "method": MethodName((*METHODS, *PRESETS)),
    "methods": Choices((*METHODS, *PRESETS)),
    "sparsity": Range(0, 1, below=True),
    "r": Range(0, 1),
    "epochs": Range(0, whole=True),
    "seeds": Range(0, whole=True),
    "hidden": Range(0, whole=True),
    "steps": Range(0, whole=True),
    "recipe": Choice(("", *images.RECIPES, *translation.RECIPES, *language.RECIPES)),
}
# Narrower limits of single notebooks.
STAGE_LIMITS: dict[str, dict[str, Range | Choice]] = {
    "06_mlp": {"dataset": Choice(("", *IMAGE_SETS))},
    "08_translation_transformer": {
        "dataset": Choice(("", *TRANSLATION_SETS)),
        "recipe": Choice(("", *translation.RECIPES)),
    },
    "09_llama": {
        "dataset": Choice(("", *TEXT_SETS)),
        "method": MethodName(("", *METHODS, *PRESETS)),
        "recipe": Choice(("", *language.RECIPES)),
    },
}


def folder() -> Path:
    """The folder of notebooks: in the installed package, or in the checkout that this package runs from."""
    package = Path(__file__).parents[2]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def stages() -> list[Path]:
    """All stage notebooks, in order."""
    return sorted(folder().glob("[0-9][0-9]*_*.ipynb"))


def find(name: str) -> Path:
    """Find a notebook by its stage number ("06", "6" or "06b"), its name ("06_mlp") or its path.

    Raises:
        ValueError: if there is no such notebook.
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in stages()}
    number = re.fullmatch(_STAGE, name)
    if number:
        for stem, path in known.items():
            if number[1] == re.match(_STAGE, stem)[1]:  # type: ignore[index]  # all stages are named like this
                return path
    stem = name.removesuffix(".ipynb")
    if stem in known:
        return known[stem]
    raise ValueError(f"there is no notebook {name!r}{nearest(stem, known)}; `chts list` shows all: {', '.join(known)}.")


def copy_to(directory: Path) -> list[Path]:
    """Copy the notebooks to a folder to work in; files that already exist there stay unchanged.

    Returns:
        The notebooks that were copied.

    Raises:
        ValueError: if the folder is the source of the notebooks.
    """
    if directory.resolve() == folder().resolve():
        raise ValueError(f"{directory} is where the notebooks come from; choose another folder to work in.")
    directory.mkdir(parents=True, exist_ok=True)
    missing = [path for path in stages() if not (directory / path.name).exists()]
    return [Path(shutil.copy(path, directory)) for path in missing]


def title(path: Path) -> str:
    """The first heading of a notebook, or the notebook's name if there is no heading."""
    return _title(nbformat.read(path, as_version=4).cells) or path.stem


def goal(path: Path) -> str:
    """The objectives in a notebook's header ("You will be able to") as one line of Markdown; "" if there are none."""
    return "; ".join(objectives(nbformat.read(path, as_version=4).cells[0].source))


def objectives(header: str) -> list[str]:
    """The objectives in a notebook's header ("You will be able to"): the items of its list, or one sentence."""
    found = re.search(r"\*\*You will be able to\*\*\s+(.+?)\n\n", header, re.DOTALL)
    items = re.split(r"(?:^|\n)\d+\. ", found[1]) if found else []
    return [" ".join(item.split()).rstrip(";.") for item in items if item]


def _title(cells: Sequence[Any]) -> str:
    """The first heading in a list of cells; "" if there is no heading."""
    for cell in cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if heading:
            return heading[1]
    return ""


@dataclass(frozen=True)
class Stage:
    """The description of a notebook, from its header and its profile.

    prerequisites: the numbers of the stages that this one builds on; minutes, memory_mb: the expected time and memory.
    """

    number: str
    title: str
    goal: str
    difficulty: str
    prerequisites: tuple[str, ...]
    minutes: float
    memory_mb: int
    file: str


def overview(profile: str) -> list[Stage]:
    """All stages in order, each with the description in its header and the expected time and memory for a profile.

    Raises:
        ValueError: for an unknown profile.
    """
    found = []
    for path in stages():
        cells = nbformat.read(path, as_version=4).cells
        header = cells[0].source
        number, _, name = (_title(cells) or path.stem).partition(" · ")
        table = dict(re.findall(r"^\| (\w+) \| (.+) \|$", header, re.MULTILINE))
        estimate = _forecast(path.stem, profile, {})
        found.append(
            Stage(
                number,
                name,
                "; ".join(objectives(header)),
                table.get("Difficulty", ""),
                tuple(re.findall(r"\b\d\d[a-z]?\b", table.get("Prerequisites", ""))),
                estimate.minutes,
                estimate.memory_mb,
                path.name,
            )
        )
    return found


def as_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of some rows. Its cells may contain Markdown and formulas."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parameters(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name.

    Raises:
        ValueError: if a type is not int, float, str or bool, a default is not a literal, or the file is not a notebook.
    """
    import papermill  # the import takes 40 MB, and training from the command line does not need it

    types = {"int": int, "float": float, "str": str, "bool": bool}
    declared = {}
    _check_readable(path)
    for name, found in papermill.inspect_notebook(str(path)).items():
        annotation = found["inferred_type_name"]
        if annotation not in types:
            raise ValueError(
                f"{path.name} declares parameter {name} as {annotation}; annotate it with one of {', '.join(types)}, "
                f"for example {name}: int = 0."
            )
        try:
            default = ast.literal_eval(found["default"])
        except (ValueError, SyntaxError):
            raise ValueError(
                f"{path.name} gives parameter {name} the default {found['default']}; expected a literal without #."
            ) from None
        declared[name] = Parameter(name, types[annotation], default, found["help"])
    return declared


def _check_readable(path: Path) -> None:
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
    except OSError:
        raise
    except Exception as error:  # the reader may raise any error for a file that is not a notebook
        raise ValueError(
            f"{path} cannot be read as a notebook ({type(error).__name__}); give a notebook that Jupyter wrote."
        ) from None


def chosen_profile(profile: str = "") -> str:
    """The profile to use; "" means the value of `$CHTS_PROFILE`, which Binder sets, or "laptop" without this variable.

    Raises:
        ValueError: if there is no such profile.
    """
    profile = profile or os.environ.get("CHTS_PROFILE") or "laptop"
    check_value("profile", profile)
    return profile


def profile_settings(stage: str, profile: str) -> dict[str, Any]:
    """A profile of a stage: its settings, and the expected minutes and memory.

    Raises:
        ValueError: for an unknown profile.
    """
    return copy.deepcopy(_profiles()[stage][chosen_profile(profile)])


@cache
def _profiles() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
        Path(__file__).with_name("profiles.yaml").read_text(encoding="utf-8")
    )
    return found


def start(stage: str, profile: str, **given: Any) -> SimpleNamespace:
    """Check a notebook's parameters, and replace 0 or "" with the value of the profile.

    Args:
        stage: the name of the notebook, such as "06_mlp".
        profile: one of `PROFILES`, or "" for `chosen_profile`.
        given: the other parameters of the notebook, by name.

    Returns:
        The settings as attributes; `device` as a torch.device.

    Raises:
        ValueError: if a parameter is out of range; the message names the parameter and the expected value.
    """
    for name, value in given.items():
        check_value(name, value, stage)
    profile = chosen_profile(profile)
    settings = _settled(stage, profile, given) | {"profile": profile}
    print(f"profile {profile}: {_forecast(stage, profile, given)}")
    if "threads" in settings:
        torch.set_num_threads(settings.pop("threads"))
    if "device" in settings:
        settings["device"] = records.choose_device(settings["device"])
    return SimpleNamespace(**settings)


def _settled(stage: str, profile: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the profile and the given values; a given 0 or "" keeps the value of the profile."""
    settings = profile_settings(stage, profile)
    del settings["minutes"], settings["memory_mb"]
    return settings | {name: value for name, value in given.items() if name not in settings or value not in (0, "")}


def _forecast(stage: str, profile: str, given: Mapping[str, Any]) -> Forecast:
    measured = profile_settings(stage, profile)
    if measured["minutes"] is None:
        measured = profile_settings(stage, "laptop")
    gpu = "device" in given and records.choose_device(given["device"]).type == "cuda"
    return forecast(stage, measured, _settled(stage, profile, given), gpu=gpu)


def expected(path: Path, given: Mapping[str, Any]) -> Forecast | None:
    """The expected time and memory of a notebook's run; None if the notebook is not a stage.

    Args:
        path: the notebook.
        given: checked parameters; all others have their defaults.
    """
    if path.stem not in _profiles():
        return None
    settled = {name: parameter.default for name, parameter in parameters(path).items()} | dict(given)
    return _forecast(path.stem, settled.pop("profile", ""), settled)


def taken(record: Mapping[str, Any]) -> str:
    """The time and memory of a run from its record, in words."""
    return f"{in_words(record['seconds'] / 60)} and {record['peak_memory_mb']} MB"


def checked_parameters(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Convert parameters from the command line to the types in the notebook, and check them.

    Raises:
        ValueError: if a parameter is unknown, or a value is not allowed; the message names the parameter and what was
            expected.
    """
    known = parameters(path)
    checked: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise ValueError(
                f"{path.stem} has no parameter {name!r}{nearest(name, known)}; its parameters are {', '.join(known)}."
            )
        checked[name] = converted(name, text, known[name].type)
        check_value(name, checked[name], path.stem)
    return checked


def check_value(name: str, value: Any, stage: str = "") -> None:
    """Refuse a value that is outside the limits of its parameter. A stage may have narrower limits.

    Raises:
        ValueError: for a value outside the limits; the message names parameter, value, limits and a similar known word.
    """
    limit = (LIMITS | STAGE_LIMITS.get(stage, {})).get(name)
    if limit is not None and not limit.accepts(value):
        meant = nearest(value, limit.words) if isinstance(limit, Choice) and isinstance(value, str) else ""
        raise ValueError(f"parameter {name} is {value!r}{meant}; expected {limit}.")


def run(path: Path, out_dir: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Execute a notebook with parameters; write the executed notebook and the record of the run to `out_dir`.

    Args:
        path: the notebook, which is not changed.
        out_dir: the folder for `<stage>.ipynb` and `<stage>.json`.
        given: checked parameters.

    Returns:
        The record, as written: schema, notebook, status ("done" or "failed"), error, parameters, results, methods,
        versions, device, expected (the forecast), seconds, peak_memory_mb (of the kernel and its processes),
        started, git. A notebook fails if a cell or a widget raises an error, or if the kernel dies.

    Raises:
        ValueError: if there is no such device, or the notebook would be overwritten. In both cases, no cell has run.
    """
    executed_path = out_dir / path.name
    if executed_path.resolve() == path.resolve():
        raise ValueError(f"{path} would be overwritten; choose another folder for the result.")
    settled = {**{name: parameter.default for name, parameter in parameters(path).items()}, **given}
    if "profile" in settled:
        settled["profile"] = chosen_profile(settled["profile"])
    device = records.describe_device(records.choose_device(settled.get("device", "auto")))
    out_dir.mkdir(parents=True, exist_ok=True)
    started, clock = records.now(), time.perf_counter()
    estimate = expected(path, given)
    error, memory = _execute(path, executed_path, given)
    seconds = time.perf_counter() - clock
    executed = nbformat.read(executed_path, as_version=4)
    if error is None:
        error = "; ".join(widget_errors(executed)) or None

    record = {
        "schema": records.SCHEMA,
        "notebook": path.stem,
        "status": "failed" if error else "done",
        "error": error,
        "parameters": settled,
        "results": records.published(executed),
        "methods": REVISION,
        "versions": records.versions(),
        "device": device,
        "expected": None if estimate is None else asdict(estimate),
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(memory / 2**20),
        "started": started,
        "git": records.git_revision(),
    }
    records.write_json(out_dir / f"{path.stem}.json", record)
    return record


def _execute(path: Path, executed_path: Path, given: Mapping[str, Any]) -> tuple[str | None, int]:
    """Execute a notebook and write it; return the error that ended the run (or None) and the peak memory in bytes."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    error = None
    with memory_watched() as memory:
        try:
            papermill.execute_notebook(
                str(path),
                str(executed_path),
                parameters=dict(given),
                kernel_name="python3",
                extra_arguments=["--log-level=ERROR"],  # otherwise the kernel warns about its own transport
            )
        except PapermillExecutionError as failure:
            error = f"In [{failure.exec_count}]: {failure.ename}: {failure.evalue}"
        except DeadKernelError:
            error = "the kernel died; if the memory ran out, choose a smaller profile"
    return error, memory[0]


def widget_errors(notebook: Mapping[str, Any]) -> list[str]:
    """The errors inside widgets, for example in `interact` or an `Output`, which papermill does not notice.

    The result also lists each widget whose state was not saved, because readers cannot see such a widget.
    """
    state = notebook["metadata"].get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    errors = [
        f"widget output: {output.get('ename')}: {output.get('evalue')}"
        for model in state.values()
        for output in model.get("state", {}).get("outputs", [])
        if output.get("output_type") == "error"
    ]
    shown = [
        output["data"][WIDGET_VIEW]["model_id"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if WIDGET_VIEW in output.get("data", {})
    ]
    return errors + [f"widget {model} was shown, but its state is missing" for model in shown if model not in state]
