"""Make trained models sparse, with each value of `start`: `python -m chts_core.lab.results.trained_models FILE`.

The records are in `results/trained_models.jsonl`, and the table is in `docs/guides/trained_model.md`.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from chts_core.engine.warm_start import Start
from chts_core.lab.data.images import ImageData, Split, load_images
from chts_core.lab.figures.style import METHOD_LABELS
from chts_core.lab.notebook.notebooks import as_markdown
from chts_core.lab.results import records
from chts_core.lab.results.report import as_mean
from chts_core.methods import REVISION
from chts_core.sparsifier import Sparsifier

RECIPE = {"steps": 600, "tuning_steps": 300, "update_every": 10, "batch_size": 32, "learning_rate": 1e-3}
SPARSITY = 0.9
METHODS = ("gmp", "chtss", "chts")
STARTS: tuple[Start, ...] = ("method", "magnitude", "dense")


def perceptron() -> nn.Module:
    """An MLP for images of 8×8 pixels."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def convolutional() -> nn.Module:
    """A convolutional network for images of 8×8 pixels."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"MLP": perceptron, "convolutional": convolutional}


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the recipe."""
    return torch.optim.Adam(model.parameters(), lr=RECIPE["learning_rate"])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Split,
    seed: int,
    sparsifier: Sparsifier | None,
    steps: int,
) -> None:
    """Train a model in place on random batches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(images.labels), (int(RECIPE["batch_size"]),), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images.images[rows]), images.labels[rows]).backward()
        optimizer.step()
        if sparsifier is not None:
            sparsifier.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Split) -> float:
    """Share of the images that the model classifies correctly."""
    return float((model(images.images).argmax(1) == images.labels).double().mean())


def runs(name: str, seed: int, data: ImageData) -> Iterator[dict[str, Any]]:
    """Train a model, then fine-tune copies of it: a dense copy, and a sparse copy for each method and each start."""
    torch.manual_seed(seed)
    trained = MODELS[name]()
    train(trained, adam(trained), data.train, seed, None, int(RECIPE["steps"]))
    steps = int(RECIPE["tuning_steps"])
    cases: list[tuple[str, Start]] = [("fc", "method"), *((method, start) for method in METHODS for start in STARTS)]
    for method, start in cases:
        model = copy.deepcopy(trained)
        optimizer = adam(model)
        sparsifier = Sparsifier(
            model,
            optimizer,
            method,
            SPARSITY,
            total_steps=steps,
            update_every=int(RECIPE["update_every"]),
            start=start,
            seed=seed,
        )
        scores = {"before": accuracy(trained, data.test), "attached": accuracy(model, data.test)}
        density = sparsifier.density()
        train(model, optimizer, data.train, seed + 1000, sparsifier, steps)
        yield {
            "model": name,
            "method": method,
            "start": start,
            "seed": seed,
            "accuracy": scores | {"tuned": accuracy(model, data.test)},
            "density": {"attached": density, "tuned": sparsifier.density()},
        }


def recorded(seeds: int) -> Iterator[dict[str, Any]]:
    """Do all runs, and return a record of each run."""
    data = load_images("digits")
    settings = {"schema": records.SCHEMA, "dataset": data.name, "data": data.digest, "methods": REVISION}
    place = {
        "device": records.describe_device(torch.device("cpu")),
        "versions": records.versions(),
        "git": records.git_revision(),
    }
    for name in MODELS:
        for seed in range(seeds):
            for run in runs(name, seed, data):
                yield {**settings, **run, "sparsity": SPARSITY, "recipe": RECIPE, **place, "finished": records.now()}


def table() -> str:
    """Accuracies in per cent, by model, method and start: mean ± standard error over the seeds."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in records.read_lines(records.results_folder() / "trained_models.jsonl"):
        groups.setdefault((row["model"], row["method"], row["start"]), []).append(row)
    lines = []
    for (model, method, start), rows in groups.items():
        line = {"model": model, "method": METHOD_LABELS[method], "start": "–" if method == "fc" else f"`{start}`"}
        line["links at the start"] = f"{fmean(row['density']['attached'] for row in rows):.0%}"
        for title, when in (("before", "before"), ("after attaching", "attached"), ("after fine-tuning", "tuned")):
            line[title] = as_mean([100 * row["accuracy"][when] for row in rows], 1)
        lines.append(line)
    return as_markdown(lines)


if __name__ == "__main__":
    records.write_lines(Path(sys.argv[1]), recorded(seeds=3))
