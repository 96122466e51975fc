"""Sparse training of a model that is already trained: choose the weights to start with."""

from collections.abc import Iterable

import torch
from torch import Tensor

from chts_core.checks import warn

# Share of the squared norm of the weights that may be lost without a warning.
_MUCH = 0.5
# How many standard deviations the variation of neuron sizes must be above chance.
_UNLIKELY = 6.0


def largest(weight: Tensor, num_links: int) -> Tensor:
    """The mask of the weights with the largest |W|. Of equal weights, the first ones are taken.

    Args:
        weight: a tensor of any shape.
        num_links: the number of links.

    Returns:
        Boolean, of the same shape.
    """
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:num_links]] = True
    return mask.view(weight.shape)


def warn_of_lost_training(layers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Warn if :func:`loses_training` is true."""
    if loses_training(layers):
        warn(
            "the model looks trained, and the initial masks drop more than half of the squared norm of its weights. To "
            'keep the largest weights, pass initial_masks="magnitude". To start from all weights, use a method with a '
            'decaying density, such as method="gmp with sparsity=Cubic(initial=0)". To silence this warning, pass your '
            "own masks."
        )


def loses_training(layers: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether masks drop more than half of the squared norm of weights that are already trained.

    Args:
        layers: the weight of each layer, (out_features, in_features), and its mask, Boolean of the same shape. They are
            read one layer at a time.
    """
    norm = kept = size = trained = 0.0
    for weight, mask in layers:
        squares = weight.double().square()
        norm += float(squares.sum())
        kept += float(squares[mask].sum())
        size += weight.numel()
        trained += weight.numel() * _is_trained(squares)
    return kept < (1 - _MUCH) * norm and 2 * trained > size


def _is_trained(squares: Tensor) -> bool:
    """Whether the neurons of a layer differ in size more than by chance, judged by the squares of its weights.

    Initial weights are independent and have one distribution. So the mean squares of the rows vary like means of
    independent numbers. Training makes some neurons matter more than others.
    """
    variance = float(squares.var())
    for dim in (0, 1):
        means = squares.mean(dim)
        by_chance = (2 / max(len(means) - 1, 1)) ** 0.5
        if len(means) > 1 and float(means.var()) * squares.shape[dim] > (1 + _UNLIKELY * by_chance) * variance > 0:
            return True
    return False
