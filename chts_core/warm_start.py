"""Sparse training of a model that is trained already: which of its weights to begin with."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Of the squared norm of the weights, the share that may go before it is worth a word.
_MUCH = 0.5
# Standard deviations between the sizes of neurons of a trained layer and those of equally distributed weights.
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


def loses_training(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """Whether masks drop more than half of the squared norm of weights that are trained already.

    Args:
        weights: (out_features, in_features), by name.
        masks: Boolean, of the same shapes.
    """
    whole = sum(float(weight.double().square().sum()) for weight in weights.values())
    kept = sum(float((weight.double() * masks[name]).square().sum()) for name, weight in weights.items())
    if not kept < (1 - _MUCH) * whole:
        return False
    trained = sum(weight.numel() for weight in weights.values() if _is_trained(weight))
    return 2 * trained > sum(weight.numel() for weight in weights.values())


def _is_trained(weight: Tensor) -> bool:
    """Whether the neurons of a layer differ in size more than by chance.

    Initial weights are independent, and all of one distribution. Then the mean squares of the rows vary as means of
    independent numbers do. Training makes some neurons matter more than others.
    """
    squares = weight.double().square()
    variance = float(squares.var())
    for dim in (0, 1):
        means = squares.mean(dim)
        by_chance = (2 / max(len(means) - 1, 1)) ** 0.5
        if len(means) > 1 and float(means.var()) * squares.shape[dim] > (1 + _UNLIKELY * by_chance) * variance > 0:
            return True
    return False
