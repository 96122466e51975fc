"""Ratios of the core against named rivals, both timed in this run: `make bench`.

Prints medians and writes them to runs/bench/core.json with the versions and the device.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import chts_core as chts
from chts_core.lab import records
from chts_core.lab.models import mlp


def seconds(function: Callable[[], object]) -> float:
    """Median seconds of one call, over at least a second of calls."""
    threads = torch.get_num_threads()
    return (
        Timer("function()", globals={"function": function}, num_threads=threads)
        .blocked_autorange(min_run_time=1)
        .median
    )


def neuron_by_neuron(out_features: int, in_features: int, density: float, r: float) -> Tensor:
    """The rival of receptive_field: a Python loop that draws the links of one output at a time with NumPy."""
    random = np.random.default_rng(0)
    mask = np.zeros((out_features, in_features), dtype=bool)
    degree = round(density * in_features)
    for i in range(out_features):
        apart = np.abs(np.arange(in_features) - ((i + 0.5) * in_features / out_features - 0.5))
        chances = (1 + np.minimum(apart, in_features - apart)) ** (-(1 - r) / r)
        mask[i, random.choice(in_features, degree, replace=False, p=chances / chances.sum())] = True
    return torch.from_numpy(mask)


def training_step(method: str, hidden: int) -> Callable[[], None]:
    """One step of the paper's MLP on a batch of 32; the topology is not updated within the time of the benchmark."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(784, hidden, 10, generator=generator)
    images, labels = torch.rand(32, 784, generator=generator), torch.randint(10, (32,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity=0.99, total_steps=10**9, update_every=10**8, seed=0)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        sparsifier.step()

    return step


def main() -> None:
    """Run all comparisons."""
    generator = torch.Generator().manual_seed(0)
    comparisons = {
        "receptive_field 512×1376, 5 %, against a NumPy loop over neurons": (
            lambda: chts.topology.receptive_field(512, 1376, 0.05, 0.25, generator=generator),
            lambda: neuron_by_neuron(512, 1376, 0.05, 0.25),
        ),
        "masked training step of CHTs, MLP 3×1568 at 99 %, against FC": (
            training_step("chts", 1568),
            training_step("fc", 1568),
        ),
    }
    rows = []
    for name, (ours, rival) in comparisons.items():
        row = {"comparison": name, "seconds": seconds(ours), "rival_seconds": seconds(rival)}
        row["times_faster"] = row["rival_seconds"] / row["seconds"]
        rows.append(row)
        print(f"{name}: {row['times_faster']:.2f} times as fast")
    device = records.describe_device(torch.device("cpu"))
    record = {"versions": records.versions(), "device": device, "git": records.git_revision(), "rows": rows}
    records.write_json(Path("runs/bench/core.json"), record)


if __name__ == "__main__":
    main()
