"""Train image classifiers, one run or a race of several methods."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from chts_core.choices import Correlated
from chts_core.diagnostics import active_neurons_published
from chts_core.lab import checkpoint, loop, records
from chts_core.lab.data import ImageData, Split
from chts_core.lab.models import mlp
from chts_core.lab.statistics import summarise_by
from chts_core.linear import Execution
from chts_core.link_prediction import PREDICTORS
from chts_core.methods import REVISION, Method, get_method
from chts_core.planner import Plan, plan
from chts_core.schedules import Timeline
from chts_core.sparsifier import Sparsifier, Update
from chts_core.topology import Correlation
from chts_core.weights import pack_bits, unpack_bits

_SAVE_EVERY = 5  # epochs

FirstWeights = Literal["by_links", "published"]


@dataclass(frozen=True)
class Recipe:
    """How an MLP is trained: SGD with a learning rate that falls linearly to a hundredth, as in the paper's Table.

    The topology is updated once per epoch. `execution` says how sparse layers are stored and multiplied.

    standardise: whether pixels have a mean of 0 and a deviation of 1 over the training images; otherwise they are in
        [0, 1].
    first_weights: "by_links": He's for the inputs that a neuron has on average; "published": as in the published code,
        normal with variance 2 / (density · outputs) for methods that predict links, 2 / inputs for the others, and
        PyTorch's defaults in the last layer and for biases.
    epochs_of_decay: share of the epochs over which the learning rate falls, once after each; None: at every step.
    all_images: whether to train on all training images, as the published code does. None are left to validate with
        then, so there is no validation accuracy.
    """

    hidden: int = 512
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    execution: Execution = "masked"
    standardise: bool = False
    first_weights: FirstWeights = "by_links"
    epochs_of_decay: float | None = None
    all_images: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if self.execution not in get_args(Execution):
            raise ValueError(f"execution is {self.execution!r}; expected one of {', '.join(get_args(Execution))}.")
        if self.first_weights not in get_args(FirstWeights):
            raise ValueError(f"first_weights is {self.first_weights!r}; expected 'by_links' or 'published'.")
        if self.epochs_of_decay is not None and not 0 < self.epochs_of_decay <= 1:
            raise ValueError(
                f"epochs_of_decay is {self.epochs_of_decay}; expected a share of the epochs in (0, 1], or None to "
                "lower the learning rate at every step."
            )


RECIPES: dict[str, Recipe] = {
    "mlp": Recipe(hidden=256, learning_rate=0.05),
    "mlp_paper": Recipe(
        hidden=1568, epochs=100, standardise=True, first_weights="published", epochs_of_decay=0.9, all_images=True
    ),
}


@dataclass(frozen=True)
class Run:
    """What one training run gave. Accuracies are fractions.

    train_loss: cross-entropy in nats, the mean over the steps of each epoch.
    skipped_steps: left out because their loss or gradient was not finite.
    validation_accuracy: after each epoch; empty if all images were trained on.
    test_by_epoch: kept to show what choosing by the test images would do; nothing is chosen by them here.
    seconds: of training alone; `total_seconds` also of testing and saving.
    peak_memory_mb: None where the system does not tell.
    snapshots: the masks after each update by the name of the weight, as bits; empty unless they were asked for.
    """

    method: str
    seed: int
    sparsity: float
    train_loss: list[float]
    skipped_steps: list[int]
    validation_accuracy: list[float]
    test_by_epoch: list[float]
    density: float
    active_neurons: float
    itop: float
    seconds: float
    total_seconds: float
    peak_memory_mb: int | None
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]
    snapshots: list[dict[str, Tensor]]

    @property
    def test_accuracy(self) -> float:
        """That of the last epoch."""
        return self.test_by_epoch[-1]

    @property
    def chosen_test_accuracy(self) -> float | None:
        """That of the epoch of the highest validation accuracy, the first of equals; None without validation."""
        if not self.validation_accuracy:
            return None
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


class _Training:
    """A run under way: everything that a checkpoint holds."""

    def __init__(self, data: ImageData, method: str | Method, sparsity: float, recipe: Recipe, seed: int) -> None:
        self.data, self.recipe = _as_trained_on(data, recipe), recipe
        method = get_method(method)
        self.generator = torch.Generator().manual_seed(seed)
        steps = _steps_per_epoch(data, recipe)
        model = mlp(data.features, recipe.hidden, data.classes, generator=self.generator)
        if recipe.first_weights == "published":
            timeline = Timeline(recipe.epochs * steps, steps, method.turnover.stop)
            density = 1 - method.sparsity.at(0, timeline, sparsity)
            predicts = method.regrowth.score in PREDICTORS
            _draw_published_weights(model, density if predicts else None, generator=self.generator)
        self.model = model.to(data.train.images.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            sparsity,
            total_steps=recipe.epochs * steps,
            update_every=steps,
            seed=seed,
            execution=recipe.execution,
            correlation=_correlation(self.data.train) if isinstance(method.topology, Correlated) else None,
        )
        if recipe.first_weights == "by_links":
            self.sparsifier.rescale_weights()
        share = recipe.epochs_of_decay
        falls = recipe.epochs * steps if share is None else max(round(share * recipe.epochs), 1)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.01, total_iters=falls)
        self.first_masks = {name: mask.cpu().clone() for name, mask in self.sparsifier.masks.items()}
        self.skips = loop.Skips(self.model)
        self.train_loss: list[float] = []
        self.validation: list[float] = []
        self.test: list[float] = []
        self.snapshots: list[dict[str, Tensor]] = []
        self.seconds = self.total_seconds = 0.0
        self._settings = {
            "task": data.name,
            "data": data.digest,
            "method": repr(method),
            "sparsity": sparsity,
            "recipe": asdict(recipe),
            "seed": seed,
        }

    @property
    def epoch(self) -> int:
        return len(self.test)

    def learn(self, *, snapshots: bool) -> None:
        """One epoch, and a look at the images it did not learn from."""
        started = time.perf_counter()
        images, labels = self.data.train.images, self.data.train.labels
        steps = self.sparsifier.timeline.update_every
        order = torch.randperm(len(labels), generator=self.generator).to(labels.device)
        total, learned = torch.zeros((), device=labels.device), 0
        for batch in order[: steps * self.recipe.batch_size].split(self.recipe.batch_size):
            compute_loss = partial(self._loss, images[batch], labels[batch])
            loss = compute_loss()
            self.optimizer.zero_grad()
            loss.backward()
            skipped = self.skips.skip(self.sparsifier.steps + 1, loop.gradient_norm(self.model), compute_loss)
            if not skipped:
                self.optimizer.step()
                total += loss.detach()
                learned += 1
            updates = len(self.sparsifier.history)
            self.sparsifier.step(skipped=skipped)
            if snapshots and len(self.sparsifier.history) > updates:
                self.snapshots.append({name: pack_bits(mask) for name, mask in self.sparsifier.masks.items()})
            if self.recipe.epochs_of_decay is None:
                self.scheduler.step()
        if self.recipe.epochs_of_decay is not None:
            self.scheduler.step()
        self.train_loss.append(float(total) / max(learned, 1))
        self.seconds += time.perf_counter() - started
        if not self.recipe.all_images:
            self.validation.append(accuracy(self.model, self.data.validation))
        self.test.append(accuracy(self.model, self.data.test))

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model(images), labels)

    def state(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "skipped_steps": self.skips.steps,
            "train_loss": self.train_loss,
            "validation": self.validation,
            "test": self.test,
            "snapshots": self.snapshots,
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "first_masks": self.first_masks,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "random": self.generator.get_state(),
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it is damaged, or of a run with other settings; nothing is changed then.
        """
        state = loop.load_state(path, self.state().keys(), self._settings, "a classifier's training")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["random"])
        self.skips.steps = state["skipped_steps"]
        self.first_masks, self.snapshots = state["first_masks"], state["snapshots"]
        self.train_loss, self.validation, self.test = state["train_loss"], state["validation"], state["test"]
        self.seconds, self.total_seconds = state["seconds"], state["total_seconds"]


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
    save_to: Path | None = None,
    progress: "tqdm[Any] | None" = None,
) -> Run:
    """Train one MLP by one method.

    The seed decides the initial weights, the order of the batches and the topology; the same seed gives every method
    the same weights and batches. A run that was cut goes on from its last checkpoint to the same bits, on the same kind
    of device with as many threads.

    Args:
        data: an image task, on any device.
        method, sparsity: of the Sparsifier.
        recipe: sizes and optimizer.
        seed, device: of the run.
        label: name of the run; by default the method's.
        snapshots: whether to keep the masks after each update.
        save_to: a checkpoint to go on from if it is there, and to save to.
        progress: a bar to advance by one per epoch.

    Raises:
        ValueError: if the training set is smaller than a batch, the settings do not fit together, or the checkpoint is
            damaged or of another run.
        RuntimeError: if the loss or a gradient is not finite in five steps in a row; a single one is left out.
    """
    device = torch.device(device)
    clock = time.perf_counter()
    loop.forget_memory_peak(device)
    training = _Training(data.to(device), method, sparsity, recipe, seed)
    if save_to is not None and save_to.exists():
        training.resume(save_to)
    if progress is not None:
        progress.update(training.epoch)
    clock -= training.total_seconds
    while training.epoch < recipe.epochs:
        training.learn(snapshots=snapshots)
        if save_to is not None and (training.epoch == recipe.epochs or training.epoch % _SAVE_EVERY == 0):
            training.total_seconds = time.perf_counter() - clock
            checkpoint.save(save_to, training.state())
        if progress is not None:
            progress.update()
    sparsifier = training.sparsifier
    return Run(
        method=label or (method if isinstance(method, str) else "custom"),
        seed=seed,
        sparsity=sparsity,
        train_loss=training.train_loss,
        skipped_steps=training.skips.steps,
        validation_accuracy=training.validation,
        test_by_epoch=training.test,
        density=sparsifier.density(),
        active_neurons=sparsifier.active_neurons(),
        itop=sparsifier.itop_rate(),
        seconds=training.seconds,
        total_seconds=time.perf_counter() - clock,
        peak_memory_mb=loop.peak_memory_mb(device),
        history=sparsifier.history,
        first_masks=training.first_masks,
        last_masks={name: mask.cpu().clone() for name, mask in sparsifier.masks.items()},
        snapshots=training.snapshots,
    )


@torch.no_grad()
def _draw_published_weights(model: nn.Module, density: float | None, *, generator: torch.Generator) -> None:
    """As in the published code for MLPs; by the density of links for methods that predict them (its `swi`)."""
    *hidden, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    for layer in hidden:
        links = layer.in_features if density is None else density * layer.out_features
        layer.weight.normal_(0, math.sqrt(2 / links), generator=generator)
    last.weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(last.in_features))
    for layer in (*hidden, last):
        layer.bias.uniform_(-1, 1, generator=generator).div_(math.sqrt(layer.in_features))


def _correlation(split: Split) -> Tensor:
    """That of the pixels, for methods that start from it."""
    correlation = Correlation()
    correlation.update(split.images)
    return correlation.matrix()


def _as_trained_on(data: ImageData, recipe: Recipe) -> ImageData:
    data = data.without_validation() if recipe.all_images else data
    return data.standardised() if recipe.standardise else data


def _steps_per_epoch(data: ImageData, recipe: Recipe) -> int:
    count = len(data.train.labels) + (len(data.validation.labels) if recipe.all_images else 0)
    if count < recipe.batch_size:
        raise ValueError(
            f"batch_size is {recipe.batch_size} but there are {count} training images; choose a smaller batch."
        )
    return count // recipe.batch_size


def plan_run(data: ImageData, method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """What a run of `train` with these settings would do (:func:`chts_core.plan`), without running it."""
    steps = _steps_per_epoch(data, recipe)
    with torch.device("meta"):
        model = mlp(data.features, recipe.hidden, data.classes, generator=torch.Generator("cpu"))
    return plan(
        model,
        method,
        sparsity,
        total_steps=recipe.epochs * steps,
        update_every=steps,
        execution=recipe.execution,
        moments=1,
    )


def race(
    data: ImageData,
    methods: Sequence[str] | Mapping[str, str | Method],
    sparsity: float,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> list[Run]:
    """Train every method with every seed at an equal number of steps; one progress bar counts the epochs.

    Args:
        data, sparsity, recipe, device: as of `train`.
        methods: names, or methods by the name to show.
        seeds: one run of each method with each.
        folder: of :func:`chts_core.lab.loop.race`.

    Raises:
        ValueError: if the settings do not fit one of the methods, before any is trained.
    """
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    for method in named.values():
        plan_run(data, method, sparsity, recipe)

    def one(label: str, method: str | Method, seed: int, save_to: Path | None, progress: "tqdm[Any]") -> Run:
        return train(
            data, method, sparsity, recipe, seed=seed, device=device, label=label, save_to=save_to, progress=progress
        )

    return loop.race(
        one,
        named,
        sparsity,
        seeds,
        length=(recipe.epochs, "epoch"),
        as_record=lambda run: as_record(run, data, recipe, device),
        folder=folder,
    )


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of a split's images that the model classifies correctly."""
    return float((model(split.images).argmax(dim=1) == split.labels).float().mean())


def epoch_choices(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Mean test accuracy of each method by which epoch is reported: the last, the best on validation, or on test.

    `chosen on validation` is None for a method with a run that had no validation images. `best had more links` counts
    the runs whose best test epoch came before their number of links had fallen to the final one.
    """
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        chosen = [run.chosen_test_accuracy for run in mine if run.chosen_test_accuracy is not None]
        rows.append(
            {
                "method": method,
                "last epoch": sum(run.test_accuracy for run in mine) / len(mine),
                "chosen on validation": sum(chosen) / len(mine) if len(chosen) == len(mine) else None,
                "best test epoch": sum(max(run.test_by_epoch) for run in mine) / len(mine),
                "best had more links": sum(map(had_more_links, mine)),
            }
        )
    return rows


def had_more_links(run: Run) -> bool:
    """Whether the best test epoch came before the number of links had fallen to the final one."""
    final = {name: int(mask.sum()) for name, mask in run.last_masks.items()}
    epochs_above = len({row["step"] for row in run.history if row["links"] > final[row["layer"]]})  # an update in each
    return run.test_by_epoch.index(max(run.test_by_epoch)) < epochs_above


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, means over its runs; `interval` is the half-width of the 95 % confidence interval,
    None for a single run."""
    return summarise_by(runs, "accuracy", attrgetter("test_accuracy"))


def train_and_record(
    data: ImageData,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """Train one classifier, with a checkpoint in a folder, and write the record of the run there, `run.json`.

    Args:
        data, method, sparsity, recipe, seed, device: as of `train`.
        folder: a run that was cut goes on from what is there.
        show: a bar that counts the epochs.
    """
    plan_run(data, method, sparsity, recipe)
    record = loop.train_and_record(
        lambda save_to, progress: train(
            data, method, sparsity, recipe, seed=seed, device=device, save_to=save_to, progress=progress
        ),
        folder,
        length=(recipe.epochs, "epoch"),
        as_record=lambda run: as_record(run, data, recipe, device),
        show=show,
    )
    assert record is not None  # there is but one process
    return record


def as_row(run: Run) -> dict[str, Any]:
    """The scores of a run, rounded where more digits say nothing."""
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


def as_record(run: Run, data: ImageData, recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """What to keep of a run: all but its masks and its history, rounded where more digits say nothing."""
    steps, chosen = _steps_per_epoch(data, recipe), run.chosen_test_accuracy
    return {
        "schema": records.SCHEMA,
        "task": "images",
        "dataset": data.name,
        "data": data.digest,
        "method": run.method,
        "methods": REVISION,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "recipe": asdict(recipe),
        "train_loss": [[steps * epoch, round(loss, 4)] for epoch, loss in enumerate(run.train_loss, start=1)],
        "skipped_steps": run.skipped_steps,
        "validation": [
            {"step": steps * epoch, "accuracy": round(value, 5)}
            for epoch, value in enumerate(run.validation_accuracy, start=1)
        ],
        "test": {
            "accuracy": round(run.test_accuracy, 5),
            "chosen": None if chosen is None else round(chosen, 5),
            "best": round(max(run.test_by_epoch), 5),
        },
        "test_by_epoch": [round(value, 5) for value in run.test_by_epoch],
        "best_had_more_links": had_more_links(run),
        "links": sum(int(mask.sum()) for mask in run.last_masks.values()),
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "active_neurons_published": round(active_neurons_published(list(run.last_masks.values())), 5),
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


def recorded() -> list[dict[str, Any]]:
    """The recorded runs that come with the package, rows of `as_record`."""
    return records.read_runs(records.results_folder() / "images.jsonl")
