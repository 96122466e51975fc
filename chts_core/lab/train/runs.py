"""The result of a training run, its record, and races, in which every method trains with every seed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from chts_core.engine.progress import Update
from chts_core.lab.results import records
from chts_core.lab.train.loop import Learner, LearnerT, Training, masks_of
from chts_core.lab.train.machine import is_first_rank, own_randomness, peak_memory_mb
from chts_core.methods import REVISION, Method

_STEPS_TIMED = 8


@dataclass(frozen=True)
class Run:
    """The part of the result that all kinds of training runs have in common.

    method: the label of the run.
    sparsity: the chosen sparsity; `density` is the share of links at the end.
    skipped_steps: the numbers of the steps that were skipped because the loss or a gradient was not finite.
    seconds: the time of training; `total_seconds` also includes measuring, testing and saving.
    peak_memory_mb: the peak of the memory use of one rank; None if the system does not report it.
    """

    method: str
    seed: int
    sparsity: float
    skipped_steps: list[int]
    density: float
    active_neurons: float
    itop: float
    seconds: float
    total_seconds: float
    peak_memory_mb: int | None
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]


def outcome(
    training: Training[LearnerT], method: str | Method, sparsity: float, seed: int, label: str | None
) -> dict[str, Any]:
    """The fields of `Run` for a finished training run.

    Args:
        training: the run.
        method, sparsity, seed: settings of the training.
        label: the name of the run; by default the name of the method.
    """
    sparsifier = training.learner.sparsifier
    return {
        "method": label or (method if isinstance(method, str) else "custom"),
        "seed": seed,
        "sparsity": sparsity,
        "skipped_steps": training.skips.steps,
        "density": sparsifier.density(),
        "active_neurons": sparsifier.active_neurons(),
        "itop": sparsifier.itop_rate(),
        "seconds": training.learner.seconds,
        "total_seconds": training.total_seconds,
        "peak_memory_mb": peak_memory_mb(training.learner.device),
        "history": sparsifier.history,
        "first_masks": training.first_masks,
        "last_masks": masks_of(training.learner),
    }


def as_record(run: Run, task: str, data: Any, recipe: Any, device: torch.device | str, **own: Any) -> dict[str, Any]:
    """The record of a run: everything except its masks, history and model, with rounded numbers.

    Args:
        run: a finished run.
        task: "images", "translation" or "language".
        data: the training data, which has a name and a digest.
        recipe, device: the recipe and the device of the training.
        own: further entries for this kind of run.
    """
    return {
        "schema": records.SCHEMA,
        "task": task,
        "dataset": data.name,
        "data": data.digest,
        "method": run.method,
        "methods": REVISION,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "recipe": asdict(recipe),
        "skipped_steps": run.skipped_steps,
        **own,
        "links": sum(int(mask.sum()) for mask in run.last_masks.values()),
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "itop": round(run.itop, 5),
        "seconds": round(run.seconds, 1),
        "total_seconds": round(run.total_seconds, 1),
        "evolution_seconds": round(sum(row["seconds"] for row in run.history), 1),
        "peak_memory_mb": run.peak_memory_mb,
        "device": records.describe_device(torch.device(device)),
        "versions": records.versions(),
        "git": records.git_revision(),
        "finished": records.now(),
    }


DataT = TypeVar("DataT")
RunT = TypeVar("RunT", bound=Run)


@dataclass(frozen=True)
class Trainer(Generic[DataT, RunT]):
    """How to train and record one kind of model.

    task: the name in records, such as "images".
    unit: the unit of a progress bar, "step" or "epoch"; the recipe sets the number of these units as `steps` or
        `epochs`.
    plan: refuses a task, method, sparsity and recipe that do not fit together.
    begin: creates the learner from the arguments of `plan`, a seed and a device.
    train: trains with the arguments of `plan`, and with seed, device, label, save_to and progress.
    as_record: makes the record from a run, its task, its recipe and the device.
    """

    task: str
    unit: str
    plan: Callable[[DataT, str | Method, float, Any], object]
    begin: Callable[..., Learner]
    train: Callable[..., RunT]
    as_record: Callable[[RunT, DataT, Any, torch.device | str], dict[str, Any]]

    def race(
        self,
        task: DataT,
        methods: Sequence[str] | Mapping[str, str | Method],
        sparsity: float,
        recipe: Any,
        *,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ) -> list[RunT]:
        """Train every method with every seed for an equal number of steps, with one progress bar for all runs.

        Args:
            task, sparsity, recipe, device: as in `train`.
            methods: names of methods, or a mapping whose keys are the names to show and whose values are the methods.
            seeds: each method runs once with each seed.
            folder: the folder for a checkpoint of each run, and for `runs.jsonl` with the records of finished runs; an
                interrupted race continues from these files.

        Raises:
            ValueError: if the settings do not fit one of the methods; in this case nothing is trained.
        """
        named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
        for method in named.values():
            self.plan(task, method, sparsity, recipe)
        recorded = {}
        if folder is not None and (folder / "runs.jsonl").exists():
            rows = map(records.as_named_today, records.read_lines(folder / "runs.jsonl"))
            recorded = {f"{row['method']}-{row['sparsity']:g}-{row['seed']}": row for row in rows}
        runs = []
        with self._bar(recipe, len(named) * len(seeds)) as progress:
            for (name, method), seed in product(named.items(), seeds):
                progress.set_description(f"{name} seed {seed}")
                key = f"{name}-{sparsity:g}-{seed}"
                save_to = None if folder is None else folder / f"{key}.safetensors"
                given = {"seed": seed, "device": device, "label": name, "save_to": save_to, "progress": progress}
                runs.append(self.train(task, method, sparsity, recipe, **given))
                if folder is not None and key not in recorded:
                    recorded[key] = self.as_record(runs[-1], task, recipe, device)
                    records.write_lines(folder / "runs.jsonl", recorded.values())
        return runs

    def train_and_record(
        self,
        task: DataT,
        method: str | Method,
        sparsity: float,
        recipe: Any,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        show: bool = True,
        **given: Any,
    ) -> dict[str, Any] | None:
        """Train one run with a checkpoint in a folder, and write its record to `run.json` in this folder.

        Args:
            task, method, sparsity, recipe, device: as in `train`.
            folder: the folder for the checkpoint and the record; an interrupted run continues from its checkpoint.
            show: whether to show a progress bar of steps or epochs.
            given: further arguments of `train`: a seed, and save_every for translators and language models.

        Returns:
            The record; None on all ranks except the first.
        """
        self.plan(task, method, sparsity, recipe)
        first = is_first_rank()
        with self._bar(recipe, 1, hidden=not (first and show)) as progress:
            given |= {"device": device, "save_to": folder / "checkpoint.safetensors", "progress": progress}
            run = self.train(task, method, sparsity, recipe, **given)
        if not first:
            return None
        record = self.as_record(run, task, recipe, device)
        records.write_json(folder / "run.json", record)
        return record

    def predict_seconds(
        self, task: DataT, method: str | Method, sparsity: float, recipe: Any, *, device: torch.device | str = "cpu"
    ) -> float:
        """Seconds that the training of a run will take on this machine, estimated from a few steps.

        The function discards the model of these steps. Validation and testing take additional time.
        """
        device = torch.device(device)
        with own_randomness(0, device):
            training = Training(self.begin(task, method, sparsity, recipe, 0, device))
            training.learn()
            timed = min(_STEPS_TIMED, training.steps - 1)
            if timed:
                training.learner.seconds = 0.0  # leave out the first step, which is slower
            for _ in range(timed):
                training.learn()
        return training.learner.seconds / max(timed, 1) * training.steps

    def recorded(self) -> list[dict[str, Any]]:
        """The recorded runs that the package contains, in the form that `as_record` returns."""
        return records.read_runs(records.results_folder() / f"{self.task}.jsonl")

    def _bar(self, recipe: Any, runs: int, *, hidden: bool = False) -> "tqdm[Any]":
        return tqdm(total=runs * getattr(recipe, f"{self.unit}s"), unit=self.unit, file=sys.stdout, disable=hidden)
