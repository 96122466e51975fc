"""The tasks of the arena. The nine methods use recorded runs if these match the task, and new runs if not."""

import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from chts_core.lab.data import load_images, load_text, load_translation
from chts_core.lab.results import records
from chts_core.lab.results.report import Row, has_recipe
from chts_core.lab.train import images, language, translation
from chts_core.lab.train.runs import Trainer
from chts_core.lab.train.tasks import Recipe
from chts_core.methods import METHODS, Method


@dataclass(frozen=True)
class Task:
    """A task of the arena: each method trains with each of the seeds 0, 1, ..., `seeds` - 1."""

    title: str
    dataset: str
    recipe: Recipe
    sparsity: float
    seeds: int


# Most of the nine methods have recorded runs with these recipes and seeds.
TASKS = (
    Task("Handwritten digits", "digits", images.RECIPES["mlp"], 0.95, seeds=10),
    Task("Translation of number words", "number_words", translation.RECIPES["number_words"], 0.95, seeds=3),
    Task("A tiny LLaMA on Tiny Shakespeare", "tinyshakespeare", language.RECIPES["tiny"], 0.9, seeds=3),
)

# Functions from these packages do not belong to a user's custom choice.
_FOREIGN = {"chts_core", "torch", *sys.stdlib_module_names}


@dataclass(frozen=True)
class Race:
    """A task with its data and its trainer."""

    task: Task
    data: Any
    trainer: Trainer[Any, Any]

    def matching(self, rows: Iterable[Row], methods: Iterable[str]) -> list[Row]:
        """The runs of these methods that match this race in data, recipe and sparsity. For each method and seed, only
        the first run counts.
        """
        expected = (self.trainer.task, self.task.dataset, self.data.digest)
        found: dict[tuple[str, int], Row] = {}
        for row in rows:
            if (
                row["method"] in methods
                and (row["task"], row["dataset"], row["data"]) == expected
                and (row["sparsity"] == self.task.sparsity or row["method"] == "fc")  # FC is always dense
                and row["seed"] in range(self.task.seeds)
                and has_recipe(row, self.task.recipe)
            ):
                found.setdefault((row["method"], row["seed"]), row)
        return list(found.values())

    def lacking(self, rows: Sequence[Row], method: str) -> list[int]:
        """The seeds for which a method has no run."""
        return sorted(set(range(self.task.seeds)) - {row["seed"] for row in rows if row["method"] == method})

    def train(self, name: str, method: str | Method, seeds: Sequence[int], folder: Path) -> None:
        """Train a method with each of these seeds, and write checkpoints and `runs.jsonl` to the folder."""
        self.trainer.race(self.data, {name: method}, self.task.sparsity, self.task.recipe, seeds=seeds, folder=folder)


def prepared(task: Task) -> Race:
    """Load the data of a task, and return the task as a `Race`.

    Raises:
        DataNotFoundError, ValueError: if the data is missing or damaged.
    """
    recipe = task.recipe
    if isinstance(recipe, images.Recipe):
        return Race(task, load_images(task.dataset), images.TRAINER)
    if isinstance(recipe, translation.Recipe):
        return Race(task, translation.prepare(load_translation(task.dataset), recipe), translation.TRAINER)
    return Race(task, language.prepare(load_text(task.dataset), recipe), language.TRAINER)


def recorded() -> list[Row]:
    """The package's own recorded runs of the nine methods."""
    rows = [row for path in sorted(records.results_folder().glob("*.jsonl")) for row in records.read_lines(path)]
    named = [records.as_named_today(row) for row in rows if "task" in row]
    return [row for row in named if row["method"] in METHODS]


def finished(folder: Path) -> list[Row]:
    """The finished runs in the file `runs.jsonl` of a folder; none if there is no such file."""
    path = folder / "runs.jsonl"
    return list(records.read_lines(path)) if path.exists() else []


def fingerprint(method: Method) -> str:
    """A digest of a method's repr and of the files or notebook cells that define its custom choices.

    If you change a method, its digest changes too, and its earlier runs no longer count.
    """
    parts = [repr(method), *("".join(linecache.getlines(path)) for path in sorted(set(_files(method))))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _files(choice: Any) -> Iterator[str]:
    """The files or notebook cells that define the parts of a choice, without parts from packages in `_FOREIGN`."""
    for value in (value for kind in type(choice).__mro__ for value in vars(kind).values()):
        function = inspect.unwrap(getattr(value, "fget", value))
        if inspect.isfunction(function) and str(function.__module__).partition(".")[0] not in _FOREIGN:
            linecache.checkcache(function.__code__.co_filename)
            yield function.__code__.co_filename
    if is_dataclass(choice):
        for field in fields(choice):
            yield from _files(getattr(choice, field.name))
