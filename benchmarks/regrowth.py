"""Soft regrowth by CH2-L3n, as random walks, against dense scores and torch.multinomial."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from chts_core import link_prediction

from .common import compare, matrix_products

# Shape, density, and how many times as fast as the rival the walks should be.
Layer = tuple[tuple[int, int], float, float | None]
LAYERS: list[Layer] = [
    ((1000, 1000), 0.01, 25),
    ((1000, 1000), 0.05, 6),
    ((1000, 1000), 0.1, None),
    ((1000, 1000), 0.3, None),
    ((2048, 5461), 0.01, 15),
    ((2048, 5461), 0.05, 3),
    ((2048, 5461), 0.1, None),
    ((2048, 5461), 0.3, 1.5),
]
SHARE = 0.3  # of the links, all regrown in one call


def rows(devices: Sequence[str] | None = None, layers: Sequence[Layer] = LAYERS) -> Iterator[dict[str, Any]]:
    """One comparison for each device and layer.

    Args:
        devices: their names; None: the CPU, and a GPU if there is one.
        layers: as in `LAYERS`.
    """
    for device in devices or (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)):
        for shape, density, aim in layers:
            mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density).to(device)
            yield _compare(
                mask, f"{shape[0]}×{shape[1]} at {density:.0%} on {device}", aim if device == "cpu" else None
            )


def _compare(mask: Tensor, layer: str, aim: float | None) -> dict[str, Any]:
    num = int(SHARE * mask.sum())
    generator = torch.Generator(mask.device).manual_seed(0)

    def ours() -> Tensor:
        return link_prediction.sample_links(mask, num, "ch2_l3n", generator=generator)

    def rival() -> Tensor:
        scores = link_prediction._node_based_dense(mask, True).masked_fill_(mask, 0.0)
        new = torch.zeros_like(mask)
        new.view(-1)[torch.multinomial(scores.flatten(), num, generator=generator)] = True
        return new

    return compare(
        f"regrow {num} links, {layer}",
        ours,
        ("dense CH2-L3n + torch.multinomial", rival),
        floor=matrix_products(mask),
        aim=aim,
        device=mask.device.type,
    )
