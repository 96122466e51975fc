"""How fast a language model trains, compared with the speed of the device."""

import functools
import time

import torch

from chts_core.lab.models import LLAMA_SIZES
from chts_core.lab.train.recipes import LanguageRecipe

_PRODUCTS_TIMED = 5


def operations_per_token(recipe: LanguageRecipe) -> float:
    """Floating-point operations per token for training a dense model (Chowdhery et al., 2022, appendix B).

    There are six operations for each weight of the linear layers (a product and a sum, once forward and twice
    backward). The attention of each layer adds 12 · width · context operations.
    """
    size = LLAMA_SIZES[recipe.size]
    head_dim = size.width // size.heads
    attention = 2 * size.width**2 + 2 * size.width * size.key_heads * head_dim
    linear = size.layers * (attention + 3 * size.width * size.feed_forward) + size.width * recipe.vocabulary
    return 6.0 * linear + 12.0 * size.layers * size.width * recipe.context


@functools.cache
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product on this device, in the fastest of a few runs."""
    width = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(width, width, device=device, dtype=dtype)
    seconds = []
    for _ in range(_PRODUCTS_TIMED):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits until a GPU has finished
        seconds.append(time.perf_counter() - started)
    return 2.0 * width**3 / min(seconds)


def mfu(recipe: LanguageRecipe, tokens_per_second: float, device: torch.device) -> float:
    """Model FLOPs utilisation (MFU): the share of the device's speed that a dense model would need to train this fast.

    The result is a quotient: the operations per second that the dense model would need, divided by the operations per
    second of a large matrix product.

    Args:
        recipe: the recipe of the run; the matrix product uses this recipe's precision.
        tokens_per_second: the speed of the run on this device.
        device: the device of the run.
    """
    dtype = torch.float32 if recipe.precision == "float32" else torch.bfloat16
    return operations_per_token(recipe) * tokens_per_second / operations_per_second(device, dtype)
