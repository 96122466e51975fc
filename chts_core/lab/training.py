"""Train image classifiers, one run or a race of several methods."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from chts_core.lab.data import ImageData, Split
from chts_core.lab.models import mlp
from chts_core.linear import Execution
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier, Update


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
    """What one training run gave. Accuracies are fractions; `test_accuracy` is that of the last epoch."""

    method: str
    seed: int
    sparsity: float
    validation_accuracy: list[float]  # after each epoch
    test_accuracy: float
    density: float
    active_neurons: float
    itop: float
    seconds: float
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]


def train(
    data: ImageData,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    label: str | None = None,
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

    validation = []
    seconds = 0.0
    for _ in range(recipe.epochs):
        started = time.perf_counter()
        order = torch.randperm(len(data.train.labels), generator=generator).to(device)
        for batch in order[: steps_per_epoch * recipe.batch_size].split(recipe.batch_size):
            loss = F.cross_entropy(model(data.train.images[batch]), data.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sparsifier.step()
            scheduler.step()
        seconds += time.perf_counter() - started
        validation.append(accuracy(model, data.validation))
        if progress is not None:
            progress.update()

    return Run(
        method=label or (method if isinstance(method, str) else "custom"),
        seed=seed,
        sparsity=sparsity,
        validation_accuracy=validation,
        test_accuracy=accuracy(model, data.test),
        density=sparsifier.density(),
        active_neurons=sparsifier.active_neurons(),
        itop=sparsifier.itop_rate(),
        seconds=seconds,
        history=sparsifier.history,
        first_masks=first_masks,
        last_masks={name: mask.cpu().clone() for name, mask in sparsifier.masks.items()},
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
    steps_per_epoch = len(data.train.labels) // recipe.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"batch_size is {recipe.batch_size} but there are {len(data.train.labels)} training images; "
            "choose a smaller batch."
        )
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


def race(
    data: ImageData,
    methods: Sequence[str],
    sparsity: float,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[Run]:
    """Train every method with every seed at an equal number of steps; one progress bar counts the epochs.

    Raises:
        ValueError: if the settings do not fit one of the methods, before any is trained.
    """
    for method in methods:
        _prepare(data, method, sparsity, recipe, seeds[0], torch.Generator().manual_seed(seeds[0]))
    runs = []
    progress: tqdm[Any]
    with tqdm(total=len(methods) * len(seeds) * recipe.epochs, unit="epoch", file=sys.stdout) as progress:
        for method in methods:
            for seed in seeds:
                progress.set_description(f"{method} seed {seed}")
                runs.append(train(data, method, sparsity, recipe, seed=seed, device=device, progress=progress))
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


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, means over its runs; `interval` is the half-width of the 95 % confidence interval,
    None for a single run."""
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        accuracy, interval = mean_and_interval([run.test_accuracy for run in mine])
        rows.append(
            {
                "method": method,
                "runs": len(mine),
                "accuracy": accuracy,
                "interval": None if math.isnan(interval) else interval,
                **{
                    name: sum(getattr(run, name) for run in mine) / len(mine)
                    for name in ("density", "active_neurons", "itop", "seconds")
                },
            }
        )
    return rows


def as_record(run: Run) -> dict[str, Any]:
    """What to keep of a run: all but its masks and history, rounded where more digits say nothing."""
    return {
        "method": run.method,
        "seed": run.seed,
        "sparsity": run.sparsity,
        "validation_accuracy": [round(value, 5) for value in run.validation_accuracy],
        "test_accuracy": round(run.test_accuracy, 5),
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "itop": round(run.itop, 5),
        "seconds": round(run.seconds, 3),
    }
