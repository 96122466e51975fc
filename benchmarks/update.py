"""An update of the topology of one large layer that stores only its links: seconds and memory, on one thread."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import chts_core as chts

from .common import medians, resident_peak

SIZES = ((4096, 0.001), (4096, 0.01), (4096, 0.1), (16384, 0.01))


def rows() -> Iterator[dict[str, Any]]:
    """CHTs and SET, against one training step of 32 samples of the same layer; memory against its dense weight."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size, density in SIZES:
            for method in ("chts", "set"):
                update, step = of_layer(size, density, method)
                update()  # compiles
                peak = resident_peak(update)
                seconds, rival = medians(update, step)
                yield {
                    "comparison": f"update of {method}, {size}×{size}, {density:.1%}",
                    "seconds": seconds,
                    "rival": "a training step of 32 samples",
                    "rival_seconds": rival,
                    "times_faster": rival / seconds,
                    "extra_bytes": peak,
                    "links": round(density * size * size),
                    "dense_bytes": 4 * size * size,
                }
    finally:
        torch.set_num_threads(threads)


def of_layer(size: int, density: float, method: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A function that updates the layer, and a function that trains it for a step."""
    layer = nn.Linear(size, size, bias=False)
    model = nn.Sequential(layer, nn.Linear(size, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 1 - density, total_steps=10**5, update_every=1, execution="csr"
    )
    free = copy.deepcopy(model)  # a copy without a Sparsifier
    own = torch.optim.SGD(free.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(32, size, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        own.zero_grad()
        free(x).square().mean().backward()
        own.step()

    def update() -> None:
        sparsifier.step(skipped=True)

    return update, step
