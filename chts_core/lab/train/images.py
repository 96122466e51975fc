"""Train image classifiers, in one run or in a race of several methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.choices import Correlated
from chts_core.diagnostics import active_neurons_published
from chts_core.engine.distributed import ranks_of
from chts_core.engine.weights import pack_bits, unpack_bits
from chts_core.lab.data import ImageData, Split, shifted_and_mirrored
from chts_core.lab.models import mlp
from chts_core.lab.results.statistics import summarise_by
from chts_core.lab.train import loop, recipes, runs
from chts_core.link_prediction import PREDICTORS
from chts_core.methods import Method, get_method
from chts_core.schedules import Timeline
from chts_core.sparsifier import Sparsifier
from chts_core.tools.planner import Plan, plan
from chts_core.topology import Correlation

if TYPE_CHECKING:
    from tqdm import tqdm

FirstWeights = recipes.FirstWeights
Recipe = recipes.ImageRecipe
RECIPES = recipes.IMAGE_RECIPES

_SAVE_EVERY = 5  # epochs


@dataclass(frozen=True)
class Run(runs.Run):
    """The result of one training run. Accuracies are fractions.

    train_loss: cross-entropy in nats, the mean over the steps of each epoch.
    validation_accuracy: the accuracy on the validation images after each epoch; empty if the recipe trains on all
        images.
    test_by_epoch: the accuracy on the test images after each epoch. These values show what would change if you chose an
        epoch by the test images; chts never chooses an epoch in this way.
    snapshots: for each update, a dict from the name of each weight to its mask after the update, packed into bits;
        empty if the run was trained without snapshots.
    """

    train_loss: list[float]
    validation_accuracy: list[float]
    test_by_epoch: list[float]
    snapshots: list[dict[str, Tensor]]

    @property
    def test_accuracy(self) -> float:
        """Test accuracy after the last epoch."""
        return self.test_by_epoch[-1]

    @property
    def chosen_test_accuracy(self) -> float | None:
        """Test accuracy after the first epoch with the highest validation accuracy; None without validation images."""
        if not self.validation_accuracy:
            return None
        return self.test_by_epoch[self.validation_accuracy.index(max(self.validation_accuracy))]

    def mask_after(self, update: int, layer: str) -> Tensor:
        """The mask of the weight with the name `layer` after update number `update`; 0 means before the first update.

        Raises:
            IndexError: if there was no such update, or the run was trained without snapshots.
        """
        first = self.first_masks[layer]
        if not 0 <= update <= len(self.snapshots):
            raise IndexError(
                f"update is {update}, but the run kept the masks of {len(self.snapshots)} updates; "
                f"expected 0 to {len(self.snapshots)}. To keep the masks of all updates, train with snapshots=True."
            )
        return unpack_bits(self.snapshots[update - 1][layer], tuple(first.shape)) if update else first


class _Learner(loop.Learner):
    """An MLP that learns to classify images. It is trained with SGD and momentum, and measured after each epoch."""

    kind = "a classifier's training"

    def __init__(
        self,
        data: ImageData,
        method: str | Method,
        sparsity: float,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        snapshots: bool = False,
    ) -> None:
        self.data, self.recipe, self.device = _as_trained_on(data.to(device), recipe), recipe, device
        self.generator = torch.Generator().manual_seed(seed)
        method = get_method(method)
        self.look_every = self.bar_every = steps = _steps_per_epoch(data, recipe)
        model = mlp(data.features, recipe.hidden, data.classes, generator=self.generator)
        if recipe.first_weights == "published":
            timeline = Timeline(recipe.epochs * steps, steps, method.turnover.stop)
            density = 1 - method.sparsity.at(0, timeline, sparsity)
            predicts = method.regrowth.score in PREDICTORS
            _draw_published_weights(model, density if predicts else None, generator=self.generator)
        self.model = self.replica = model.to(self.device)
        self.ranks = ranks_of(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        correlation = _correlation(self.data.train) if isinstance(method.topology, Correlated) else None
        given = {"seed": seed, "correlation": correlation, **recipe.topology(steps)}
        self.sparsifier = Sparsifier(self.model, self.optimizer, method, sparsity, **given)
        if recipe.first_weights == "by_links":
            self.sparsifier.rescale_weights()
        share = recipe.epochs_of_decay
        falls = recipe.epochs * steps if share is None else max(round(share * recipe.epochs), 1)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.01, total_iters=falls)
        self.settings = loop.settings(method, sparsity, recipe, seed, task=data.name, data=data.digest)
        self.train_loss: list[float] = []
        self.validation: list[float] = []
        self.test: list[float] = []
        self.keeps_snapshots, self.snapshots = snapshots, list[dict[str, Tensor]]()
        self._order: list[Tensor] = []  # the remaining batches of the epoch
        # The sum of the losses in this epoch so far. A list of all losses would fragment the memory.
        self._loss, self._steps = torch.zeros((), device=device), 0

    def rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def next_batch(self) -> tuple[Sequence[Tensor], int]:
        if not self._order:
            order = torch.randperm(len(self.data.train.labels), generator=self.generator).to(self.device)
            batches = order[: self.look_every * self.recipe.batch_size].split(self.recipe.batch_size)
            self._order = list(reversed(batches))
        return [self._order.pop()], 1

    def loss(self, model: nn.Module, part: Tensor) -> Tensor:
        batch = self.data.train.take(part)
        if self.recipe.augment:
            pixels = shifted_and_mirrored(batch.pixels, self.data.image_shape, generator=self.generator)
            batch = replace(batch, pixels=pixels)
        return F.cross_entropy(model(batch.images), batch.labels)

    def evolve(self, *, skipped: bool) -> None:
        updates = len(self.sparsifier.history)
        self.sparsifier.step(skipped=skipped)
        if self.keeps_snapshots and len(self.sparsifier.history) > updates:
            self.snapshots.append({name: pack_bits(mask) for name, mask in self.sparsifier.masks.items()})
        if self.recipe.epochs_of_decay is None or not self._order:
            self.scheduler.step()

    def keep_loss(self, loss: Tensor, *, skipped: bool) -> None:
        if not skipped:
            self._loss += loss
            self._steps += 1
        if not self._order:
            self.train_loss.append(float(self._loss) / max(self._steps, 1))
            self._loss.zero_()
            self._steps = 0

    def look(self) -> None:
        if not self.recipe.all_images:
            self.validation.append(accuracy(self.model, self.data.validation))
        self.test.append(accuracy(self.model, self.data.test))

    def state(self) -> dict[str, Any]:
        return {
            "validation": self.validation,
            "test": self.test,
            "snapshots": self.snapshots,
            "scheduler": self.scheduler.state_dict(),
            "random": self.generator.get_state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["random"])
        self.validation, self.test, self.snapshots = state["validation"], state["test"], state["snapshots"]


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
    """Train one MLP with one method. The loop is explained in :func:`chts_core.lab.train.loop.train`.

    The seed decides the initial weights, the order of the batches and the topology. With the same seed, every method
    gets the same batches, and initial weights that differ only in their scale.

    Args:
        data: an image task, on any device.
        method, sparsity: arguments of the Sparsifier.
        recipe: sizes and optimizer.
        label: name of the run; by default the name of the method.
        snapshots: whether to keep the masks after each update.
        seed, device, save_to, progress: arguments of the loop, which saves a checkpoint every five epochs.

    Raises:
        ValueError: if the training set is smaller than a batch, if the settings do not fit together, or if the
            checkpoint is damaged or from another run.
    """
    training = loop.train(
        lambda: _Learner(data, method, sparsity, recipe, seed, torch.device(device), snapshots),
        seed=seed,
        device=torch.device(device),
        save_to=save_to,
        save_every=_SAVE_EVERY * _steps_per_epoch(data, recipe),
        progress=progress,
    )
    learner = training.learner
    return Run(
        **runs.outcome(training, method, sparsity, seed, label),
        train_loss=learner.train_loss,
        validation_accuracy=learner.validation,
        test_by_epoch=learner.test,
        snapshots=learner.snapshots,
    )


@torch.no_grad()
def _draw_published_weights(model: nn.Module, density: float | None, *, generator: torch.Generator) -> None:
    """Draw initial weights as the published code does. `density` is None for methods that do not predict links."""
    *hidden, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    for layer in hidden:
        links = layer.in_features if density is None else density * layer.out_features
        layer.weight.normal_(0, math.sqrt(2 / links), generator=generator)
    last.weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(last.in_features))
    for layer in (*hidden, last):
        layer.bias.uniform_(-1, 1, generator=generator).div_(math.sqrt(layer.in_features))


def _correlation(split: Split) -> Tensor:
    """The correlations between the pixels, for methods that start from correlations."""
    correlation = Correlation()
    for some in split.chunks(4096):  # in float64, all images at once would take most of a run's memory
        correlation.update(some.images)
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
    """Plan a run of `train` with these settings, but do not start the run; see :func:`chts_core.plan`."""
    steps = _steps_per_epoch(data, recipe)
    with torch.device("meta"):
        model = mlp(data.features, recipe.hidden, data.classes, generator=torch.Generator("cpu"))
    return plan(model, method, sparsity, moments=1, **recipe.topology(steps))


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of a split's images that the model classifies correctly."""
    right = sum(int((model(some.images).argmax(dim=1) == some.labels).sum()) for some in split.chunks())
    return float(torch.tensor(right) / len(split.labels))  # in float32


def epoch_choices(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, with its mean test accuracy after the last epoch, after the epoch with the best validation
    accuracy, and after the epoch with the best test accuracy.

    `chosen on validation` is None if one of the method's runs had no validation images. `best had more links` counts
    the runs whose best test epoch came before their number of links reached its final value.
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
    """Whether the best test epoch came before the number of links reached its final value."""
    final = {name: int(mask.sum()) for name, mask in run.last_masks.items()}
    # Each epoch has one update.
    epochs_above = len({row["step"] for row in run.history if row["links"] > final[row["layer"]]})
    return run.test_by_epoch.index(max(run.test_by_epoch)) < epochs_above


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, with means over its runs. `interval` is the half-width of the 95 % confidence interval of
    the mean accuracy; it is None for a single run.
    """
    return summarise_by(runs, "accuracy", attrgetter("test_accuracy"))


def as_row(run: Run) -> dict[str, Any]:
    """The scores of a run, rounded to a few digits."""
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
    """The record of a run; see :func:`chts_core.lab.train.runs.as_record`."""
    steps, chosen = _steps_per_epoch(data, recipe), run.chosen_test_accuracy
    return runs.as_record(
        run,
        "images",
        data,
        recipe,
        device,
        train_loss=[[steps * epoch, round(loss, 4)] for epoch, loss in enumerate(run.train_loss, start=1)],
        validation=[
            {"step": steps * epoch, "accuracy": round(value, 5)}
            for epoch, value in enumerate(run.validation_accuracy, start=1)
        ],
        test={
            "accuracy": round(run.test_accuracy, 5),
            "chosen": None if chosen is None else round(chosen, 5),
            "best": round(max(run.test_by_epoch), 5),
        },
        test_by_epoch=[round(value, 5) for value in run.test_by_epoch],
        best_had_more_links=had_more_links(run),
        active_neurons_published=round(active_neurons_published(list(run.last_masks.values())), 5),
    )


TRAINER = runs.Trainer("images", "epoch", plan_run, _Learner, train, as_record)
race, train_and_record, recorded = TRAINER.race, TRAINER.train_and_record, TRAINER.recorded
