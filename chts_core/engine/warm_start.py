"""Sparse training of a model that is trained already: which of its weights to begin with."""

from collections.abc import Iterable

import torch
from torch import Tensor

from chts_core.checks import warn

# Share of the squared norm of the weights that may go without a warning.
_MUCH = 0.5
# By how many standard deviations the sizes of neurons must vary more than by chance.
_UNLIKELY = 6.0


def largest(weight: Tensor, num_links: int) -> Tensor:
    """The mask of the largest weights, |W|; of equal ones those that come first.

    Args:
        weight: of any shape.
        num_links: how many.

    Returns:
        Boolean, of the same shape.
    """
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:num_links]] = True
    return mask.view(weight.shape)


def warn_of_lost_training(layers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Warn where :func:`loses_training` says so."""
    if loses_training(layers):
        warn(
            "the model looks trained, and the initial masks drop more than half of the squared norm of its weights. To "
            'keep the largest weights, pass initial_masks="magnitude". To start from all, take a method whose density '
            'decays, such as method="gmp with sparsity=Cubic(initial=0)". To say that this is meant, pass masks of '
            "your own."
        )


def loses_training(layers: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether masks drop more than half of the squared norm of weights that are trained already.

    Args:
        layers: the weight of each layer, (out_features, in_features), and its mask, Boolean of the same shape. One
            layer is looked at after the other.
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
    """Whether the neurons of a layer differ in size more than by chance, by the squares of its weights.

    Initial weights are independent, and all of one distribution. Then the mean squares of the rows vary as means of
    independent numbers do. Training makes some neurons matter more than others.
    """
    variance = float(squares.var())
    for dim in (0, 1):
        means = squares.mean(dim)
        by_chance = (2 / max(len(means) - 1, 1)) ** 0.5
        if len(means) > 1 and float(means.var()) * squares.shape[dim] > (1 + _UNLIKELY * by_chance) * variance > 0:
            return True
    return False
