"""Initial networks of LLaMA-1B's layers, against a loop over neurons and against draws that visit all positions."""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chts_core import topology

from .common import compare, resident_peak

R = 0.25
DENSITIES = [0.05, 0.3]
# Shapes (outputs, inputs) of the sparse layers of LLaMA-1B, and the number of layers of each shape.
LLAMA_1B = {(2048, 2048): 24 * 4, (5461, 2048): 24 * 2, (2048, 5461): 24}
SAMPLED = 32  # the loop over neurons computes one of this many rows


def rows() -> Iterator[dict[str, Any]]:
    """One comparison for each network and layer, then the receptive fields of the whole model."""
    for shape in LLAMA_1B:
        for density in DENSITIES:
            yield from _layer(shape, density)
    for density in DENSITIES:
        yield _model(density)


def neuron_by_neuron(out_features: int, in_features: int, density: float, r: float, every: int = 1) -> Tensor:
    """The rival of receptive_field: a loop that draws the links of every output, or of one in `every`, with NumPy."""
    random = np.random.default_rng(0)
    mask = np.zeros((out_features, in_features), dtype=bool)
    degree = round(density * in_features)
    for i in range(0, out_features, every):
        apart = np.abs(np.arange(in_features) - ((i + 0.5) * in_features / out_features - 0.5))
        chances = (1 + np.minimum(apart, in_features - apart)) ** (-(1 - r) / r)
        mask[i, random.choice(in_features, degree, replace=False, p=chances / chances.sum())] = True
    return torch.from_numpy(mask)


def _layer(shape: tuple[int, int], density: float) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    size, links = shape[0] * shape[1], topology.link_count(*shape, density)

    def field() -> Tensor:
        return topology.receptive_field(*shape, density, R, generator=generator)

    def world() -> Tensor:
        return topology.small_world(*shape, density, 0.25, generator=generator)

    def any_links() -> Tensor:
        return topology.erdos_renyi(*shape, density, generator=generator)

    def world_by_keys() -> Tensor:
        larger, smaller = max(shape), min(shape)
        staying = topology.receptive_field(larger, smaller, density, r=0, generator=generator)
        degrees = staying.sum(1, keepdim=True)
        leaving = torch.randperm(links, generator=generator)[: round(0.25 * links)]
        staying.view(-1)[staying.flatten().nonzero().squeeze(1)[leaving]] = False
        number = degrees - staying.sum(1, keepdim=True)
        keys = torch.rand(larger, smaller, dtype=torch.float64, generator=generator).masked_fill_(staying, -1)
        ends = keys.topk(int(number.max()), dim=1).indices
        mask = staying.scatter_add_(1, ends, torch.arange(ends.shape[1]) < number)
        return mask if shape[0] >= shape[1] else mask.T.contiguous()

    def permuted() -> Tensor:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:links]] = True
        return mask

    layer = f"{shape[0]}×{shape[1]} at {density:.0%}"
    loop = ("NumPy loop over neurons", lambda: neuron_by_neuron(*shape, density, R))
    for name, ours, rival, aim in (
        ("receptive field", field, loop, 50),
        ("small world", world, ("torch.randperm of the links, topk of random keys", world_by_keys), None),
        ("Erdős–Rényi", any_links, ("torch.randperm of all positions", permuted), None),
    ):
        floor = ("writing the mask", lambda: torch.ones(shape, dtype=torch.bool))
        row = compare(f"{name}, {layer}", ours, rival, floor=floor, aim=aim)
        peak = resident_peak(ours)
        yield row | ({} if peak is None else {"peak_bytes": max(0, peak - size)})  # without the mask itself


def _model(density: float) -> dict[str, Any]:
    """All receptive fields of LLaMA-1B; the loop over neurons computes a share of the rows; its time is scaled up."""
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        for shape, number in LLAMA_1B.items():
            for _ in range(number):
                topology.receptive_field(*shape, density, R, generator=generator)

    times: list[tuple[float, float]] = []
    for _ in range(3):
        rival = sum(
            number * SAMPLED * _seconds(lambda: neuron_by_neuron(*shape, density, R, SAMPLED))  # noqa: B023
            for shape, number in LLAMA_1B.items()
        )
        times.append((_seconds(ours), rival))
    seconds, rival_seconds = (median(column) for column in zip(*times, strict=True))
    return {
        "comparison": f"all {sum(LLAMA_1B.values())} receptive fields of LLaMA-1B at {density:.0%}",
        "seconds": seconds,
        "rival": f"NumPy loop over neurons (one in {SAMPLED} of a layer of each shape, scaled up)",
        "rival_seconds": rival_seconds,
        "times_faster": rival_seconds / seconds,
        "aim": 50,
    }


def _seconds(function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return perf_counter() - start
