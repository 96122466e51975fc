"""Train image classifiers, one run or a race of several methods."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from chts_core.lab.data import ImageData, Split
from chts_core.lab.models import mlp
from chts_core.linear import Execution
from chts_core.methods import Method
from chts_core.planner import Plan, plan
from chts_core.sparsifier import Sparsifier, Update
from chts_core.weights import pack_bits, unpack_bits


@dataclass(frozen=True)
class Recipe:
    """How an MLP is trained: SGD with a learning rate that falls linearly to a hundredth, as in the paper's Table.

    The topology is updated once per epoch. `execution` says how sparse layers are stored and multiplied.
    """

    hidden: int = 512
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    execution: Execution = "masked"


@dataclass(frozen=True)
class Run:
    """What one training run gave. Accuracies are fractions.

    test_by_epoch: kept to show what choosing by the test images would do; nothing is chosen by them here.
    snapshots: the masks after each update by the name of the weight, as bits; empty unless they were asked for.
    """

    method: str
    seed: int
    sparsity: float
    validation_accuracy: list[float]  # after each epoch
    test_by_epoch: list[float]
    density: float
    active_neurons: float
    itop: float
    seconds: float
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]
    snapshots: list[dict[str, Tensor]]

    @property
    def test_accuracy(self) -> float:
        """That of the last epoch."""
        return self.test_by_epoch[-1]

    @property
    def chosen_test_accuracy(self) -> float:
        """That of the epoch of the highest validation accuracy, the first of equals."""
        return self.test_by_epoch[self.validation_accuracy.index(max(self.validation_accuracy))]

    def mask_after(self, update: int, layer: str) -> Tensor:
        """The mask of a layer after an update, counted from 1; 0 is before the first.

        Raises:
            IndexError: if there was no such update, or the run was trained without snapshots.
        """
        first = self.first_masks[layer]
        if not 0 <= update <= len(self.snapshots):
            raise IndexError(
                f"update is {update}, but the run kept the masks of {len(self.snapshots)} updates; "
                "train it with snapshots=True to have all of them."
            )
        return unpack_bits(self.snapshots[update - 1][layer], tuple(first.shape)) if update else first


def train(
    data: ImageData,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    label: str | None = None,
    snapshots: bool = False,
    progress: "tqdm[Any] | None" = None,
) -> Run:
    """Train one MLP by one method.

    The seed decides the initial weights, the order of the batches and the topology; the same seed gives every method
    the same weights and batches.

    Args:
        data: an image task, on any device.
        method, sparsity: of the Sparsifier.
        recipe: sizes and optimizer.
        seed, device: of the run.
        label: name of the run; by default the method's.
        snapshots: whether to keep the masks after each update.
        progress: a bar to advance by one per epoch.

    Raises:
        ValueError: if the training set is smaller than a batch, or the settings do not fit together.
    """
    data = data.to(device)
    generator = torch.Generator().manual_seed(seed)
    model, optimizer, sparsifier = _prepare(data, method, sparsity, recipe, seed, generator)
    sparsifier.rescale_weights()
    steps_per_epoch = sparsifier.timeline.update_every
    total_steps = sparsifier.timeline.total_steps
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=total_steps)
    first_masks = {name: mask.cpu().clone() for name, mask in sparsifier.masks.items()}

    validation, test = [], []
    kept: list[dict[str, Tensor]] = []
    seconds = 0.0
    for _ in range(recipe.epochs):
        started = time.perf_counter()
        order = torch.randperm(len(data.train.labels), generator=generator).to(device)
        for batch in order[: steps_per_epoch * recipe.batch_size].split(recipe.batch_size):
            loss = F.cross_entropy(model(data.train.images[batch]), data.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates = len(sparsifier.history)
            sparsifier.step()
            if snapshots and len(sparsifier.history) > updates:
                kept.append({name: pack_bits(mask) for name, mask in sparsifier.masks.items()})
            scheduler.step()
        seconds += time.perf_counter() - started
        validation.append(accuracy(model, data.validation))
        test.append(accuracy(model, data.test))
        if progress is not None:
            progress.update()

    return Run(
        method=label or (method if isinstance(method, str) else "custom"),
        seed=seed,
        sparsity=sparsity,
        validation_accuracy=validation,
        test_by_epoch=test,
        density=sparsifier.density(),
        active_neurons=sparsifier.active_neurons(),
        itop=sparsifier.itop_rate(),
        seconds=seconds,
        history=sparsifier.history,
        first_masks=first_masks,
        last_masks={name: mask.cpu().clone() for name, mask in sparsifier.masks.items()},
        snapshots=kept,
    )


def _prepare(
    data: ImageData,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    seed: int,
    generator: torch.Generator,
) -> tuple[nn.Sequential, torch.optim.SGD, Sparsifier]:
    """What a run trains, on the device of the data; refuses settings that do not fit together."""
    steps_per_epoch = _steps_per_epoch(data, recipe)
    model = mlp(data.features, recipe.hidden, data.classes, generator=generator).to(data.train.images.device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    sparsifier = Sparsifier(
        model,
        optimizer,
        method,
        sparsity,
        total_steps=recipe.epochs * steps_per_epoch,
        update_every=steps_per_epoch,
        seed=seed,
        execution=recipe.execution,
    )
    return model, optimizer, sparsifier


def _steps_per_epoch(data: ImageData, recipe: Recipe) -> int:
    steps = len(data.train.labels) // recipe.batch_size
    if steps == 0:
        raise ValueError(
            f"batch_size is {recipe.batch_size} but there are {len(data.train.labels)} training images; "
            "choose a smaller batch."
        )
    return steps


def plan_run(data: ImageData, method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """What a run of `train` with these settings would do (:func:`chts_core.plan`), without running it."""
    steps = _steps_per_epoch(data, recipe)
    with torch.device("meta"):
        model = mlp(data.features, recipe.hidden, data.classes, generator=torch.Generator("cpu"))
    return plan(model, method, sparsity, total_steps=recipe.epochs * steps, update_every=steps, moments=1)


def race(
    data: ImageData,
    methods: Sequence[str] | Mapping[str, str | Method],
    sparsity: float,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[Run]:
    """Train every method with every seed at an equal number of steps; one progress bar counts the epochs.

    Args:
        data, sparsity, recipe, device: as of `train`.
        methods: names, or methods by the name to show.
        seeds: one run of each method with each.

    Raises:
        ValueError: if the settings do not fit one of the methods, before any is trained.
    """
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    for method in named.values():
        _prepare(data, method, sparsity, recipe, seeds[0], torch.Generator().manual_seed(seeds[0]))
    runs = []
    progress: tqdm[Any]
    with tqdm(total=len(methods) * len(seeds) * recipe.epochs, unit="epoch", file=sys.stdout) as progress:
        for name, method in named.items():
            for seed in seeds:
                progress.set_description(f"{name} seed {seed}")
                runs.append(
                    train(data, method, sparsity, recipe, seed=seed, device=device, label=name, progress=progress)
                )
    return runs


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of a split's images that the model classifies correctly."""
    return float((model(split.images).argmax(dim=1) == split.labels).float().mean())


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval (Student's t); the half-width is NaN for one value."""
    from scipy import stats

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, float(stats.t.ppf(0.975, n - 1)) * error


Row = Mapping[str, Any]


def mean_scores(rows: Sequence[Row], score: Callable[[Row], float]) -> list[dict[str, Any]]:
    """Recorded runs by method and sparsity, in order of their first: "mean" of a score, "interval" the half-width of
    its 95 % confidence interval (None for a single run).

    Args:
        rows: of `as_record`.
        score: of a row.
    """
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["sparsity"]), []).append(score(row))
    found = []
    for (method, sparsity), values in groups.items():
        mean, interval = mean_and_interval(values)
        found.append(
            {
                "method": method,
                "sparsity": sparsity,
                "runs": len(values),
                "mean": mean,
                "interval": None if math.isnan(interval) else interval,
            }
        )
    return found


def score_differences(rows: Sequence[Row], score: Callable[[Row], float], rival: str) -> list[dict[str, Any]]:
    """A score of recorded runs (of `mean_scores`) minus that of a rival with the same seed, by method and sparsity.

    The rival "fc" has no sparsity: it is compared with all. Seeds that only one of the two has are left out.
    """
    found = []
    for method, sparsity in dict.fromkeys((row["method"], row["sparsity"]) for row in rows if row["method"] != rival):
        theirs = {
            row["seed"]: score(row)
            for row in rows
            if row["method"] == rival and (rival == "fc" or row["sparsity"] == sparsity)
        }
        differences = [
            score(row) - theirs[row["seed"]]
            for row in rows
            if (row["method"], row["sparsity"]) == (method, sparsity) and row["seed"] in theirs
        ]
        if differences:
            mean, interval = mean_and_interval(differences)
            found.append(
                {
                    "method": method,
                    "sparsity": sparsity,
                    "seeds": len(differences),
                    "difference": mean,
                    "interval": None if math.isnan(interval) else interval,
                }
            )
    return found


class Seeded(Protocol):
    """A run of a method with a seed; what else it gave is told by its other attributes."""

    @property
    def method(self) -> str:
        """Its name."""

    @property
    def seed(self) -> int:
        """Of the weights, the batches and the topology."""


SeededT = TypeVar("SeededT", bound=Seeded)


def paired_differences(runs: Sequence[Seeded], rival: str, measure: str = "test_accuracy") -> list[dict[str, Any]]:
    """A measure minus that of a rival with the same seed, one row per other method.

    Equal seeds share their initial weights and batches, so much of the luck cancels. `difference` is the mean, in the
    unit of the measure; `interval` the half-width of its 95 % confidence interval, None for a single seed.

    Args:
        runs: of the rival and of others.
        rival: the method to compare with.
        measure: which attribute of a run; the accuracy of images is a fraction.

    Raises:
        ValueError: if a method and the rival were not run with the same seeds, once each.
    """
    rivals = [run for run in runs if run.method == rival]
    theirs = {run.seed: getattr(run, measure) for run in rivals}
    rows = []
    for method in dict.fromkeys(run.method for run in runs if run.method != rival):
        mine = [run for run in runs if run.method == method]
        if not sorted(run.seed for run in mine) == sorted(run.seed for run in rivals) == sorted(theirs):
            raise ValueError(
                f"{method} was run with seeds {[run.seed for run in mine]} and {rival} with "
                f"{[run.seed for run in rivals]}; "
                "run both with the same seeds, once each."
            )
        mean, interval = mean_and_interval([getattr(run, measure) - theirs[run.seed] for run in mine])
        rows.append(
            {
                "method": method,
                "rival": rival,
                "runs": len(mine),
                "difference": mean,
                "interval": None if math.isnan(interval) else interval,
            }
        )
    return rows


def epoch_choices(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Mean test accuracy of each method by which epoch is reported: the last, the best on validation, or on test.

    `best had more links` counts the runs whose best test epoch came before their number of links had fallen to the
    final one.
    """
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        best = [max(run.test_by_epoch) for run in mine]
        early = [run.test_by_epoch.index(top) < _epochs_above(run) for run, top in zip(mine, best, strict=True)]
        rows.append(
            {
                "method": method,
                "last epoch": sum(run.test_accuracy for run in mine) / len(mine),
                "chosen on validation": sum(run.chosen_test_accuracy for run in mine) / len(mine),
                "best test epoch": sum(best) / len(mine),
                "best had more links": sum(early),
            }
        )
    return rows


def _epochs_above(run: Run) -> int:
    """How many epochs ended with more links than the last: there is one update per epoch."""
    final = {name: int(mask.sum()) for name, mask in run.last_masks.items()}
    return len({row["step"] for row in run.history if row["links"] > final[row["layer"]]})


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, means over its runs; `interval` is the half-width of the 95 % confidence interval,
    None for a single run."""
    return summarise_by(runs, "accuracy", attrgetter("test_accuracy"))


def summarise_by(
    runs: Sequence[SeededT],
    name: str,
    score: Callable[[SeededT], float],
    **others: Callable[[SeededT], float],
) -> list[dict[str, Any]]:
    """One row per method: the mean of a score over its runs, under its name, with the half-width of its 95 %
    confidence interval (None for a single run); and the means of other measures, and of those that all runs have."""
    measures = others | {shared: attrgetter(shared) for shared in ("density", "active_neurons", "itop", "seconds")}
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        mean, interval = mean_and_interval([score(run) for run in mine])
        rows.append(
            {
                "method": method,
                "runs": len(mine),
                name: mean,
                "interval": None if math.isnan(interval) else interval,
                **{other: sum(map(measure, mine)) / len(mine) for other, measure in measures.items()},
            }
        )
    return rows


def as_record(run: Run) -> dict[str, Any]:
    """What to keep of a run: all but its masks and its history, rounded where more digits say nothing."""
    return {
        "method": run.method,
        "seed": run.seed,
        "sparsity": run.sparsity,
        "validation_accuracy": [round(value, 5) for value in run.validation_accuracy],
        "test_accuracy": round(run.test_accuracy, 5),
        "test_by_epoch": [round(value, 5) for value in run.test_by_epoch],
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "itop": round(run.itop, 5),
        "seconds": round(run.seconds, 3),
    }
