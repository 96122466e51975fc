"""Sparse training of a model that is already trained: choose the weights to start with."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from chts_core.checks import warn
from chts_core.choices import Constant, Cubic, Dense, Sigmoid
from chts_core.methods import Method, get_method

# A run starts from the method's topology, the largest weights, or all weights with a density that decays.
Start = Literal["method", "magnitude", "dense"]

# Share of the squared norm of the weights that may be lost without a warning. GMP and CHTss begin with half of the
# links, so a limit of half the norm would not find their losses.
_MUCH = 0.1
# By how many standard deviations the variation between neurons must exceed the variation expected by chance.
_UNLIKELY = 6.0


def method_from(start: Start, method: str | Method) -> Method:
    """The method that a run follows. The start "dense" changes a method so that its density begins at 1 and decays.

    A sigmoid or cubic decay then begins at sparsity 0. A constant sparsity becomes a cubic decay. A dense method stays
    dense.

    Raises:
        ValueError: for an unknown start, or for "dense" with a schedule that is not constant, sigmoid, cubic or dense.
    """
    method = get_method(method)
    if start not in get_args(Start):
        raise ValueError(f"start is {start!r}; expected one of {', '.join(map(repr, get_args(Start)))}.")
    if start != "dense":
        return method
    match method.sparsity:
        case Constant():
            return replace(method, sparsity=Cubic(initial=0.0, end=min(Cubic.end, method.turnover.stop)))
        case Sigmoid() | Cubic() as decay:
            return replace(method, sparsity=replace(decay, initial=0.0))
        case Dense():
            return method
    raise ValueError(
        f'start is "dense", but the sparsity follows {method.sparsity!r}, which this start cannot change; omit '
        'start and choose a decay that begins with all links, as in method="mest/exchange with '
        'sparsity=Cubic(initial=0)".'
    )


def largest(weight: Tensor, num_links: int) -> Tensor:
    """The mask of the weights with the largest |W|. Among equal weights, the first ones get links.

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
            "the model looks trained, and the initial masks drop more than a tenth of the squared norm of its weights. "
            'To begin with all weights and lose links gradually, pass start="dense". To begin with the largest '
            'weights, pass start="magnitude". To silence this warning, pass your own masks.'
        )


def loses_training(layers: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether masks drop more than a tenth of the squared norm of weights that are already trained.

    Args:
        layers: the weight of each layer, (out_features, in_features), and its mask, Boolean of the same shape. The
            layers are read one at a time.
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
    """Whether the mean squared weights of a layer's neurons differ by more than chance explains.

    Initial weights are independent and have the same distribution. So the mean squares of rows and of columns vary as
    much as means of independent numbers. Training makes some neurons matter more than others, so these means vary more.
    """
    variance = float(squares.var())
    for dim in (0, 1):
        means = squares.mean(dim)
        by_chance = (2 / max(len(means) - 1, 1)) ** 0.5
        if len(means) > 1 and float(means.var()) * squares.shape[dim] > (1 + _UNLIKELY * by_chance) * variance > 0:
            return True
    return False
