"""Each link predictor: sparse code against dense code.

For node-based scores, we compare sparse and dense matrix products. For path-based scores, we compare the compiled walk
and the plain torch reference, which runs on other devices. We leave out a layer if the reference would take minutes.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from chts_core import link_prediction

from .common import compare, matrix_products

LAYERS = [((1024, 1024), 0.01), ((1024, 1024), 0.05), ((2048, 5461), 0.01)]
LARGEST_REFERENCE = 2**20
CODES = {
    "l3n": (link_prediction._node_based_sparse, "dense products", link_prediction._node_based_dense),
    "l3p": (link_prediction._path_based_walk, "batches of dense products", link_prediction._path_based_dense),
}


def rows() -> Iterator[dict[str, Any]]:
    """One comparison for each layer and predictor."""
    for shape, density in LAYERS:
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
        for predictor in link_prediction.PREDICTORS:
            if predictor.endswith("l3p") and mask.numel() > LARGEST_REFERENCE:
                continue
            inside = predictor.startswith("ch2")
            ours, rival, reference = CODES[predictor[-3:]]
            yield compare(
                f"{predictor}, {shape[0]}×{shape[1]} at {density:.0%}",
                partial(ours, mask, inside),
                (rival, partial(reference, mask, inside)),
                floor=matrix_products(mask),
            )
