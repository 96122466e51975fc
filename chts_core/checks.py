"""Checks of arguments for the whole core. A message says what was given, what was expected and what to do."""

import math
import sys
import warnings
from numbers import Real
from types import FrameType

import torch
from torch import Tensor


def check_mask(mask: object, name: str = "mask", dimensions: int = 2) -> None:
    """Raise an error unless `mask` is a Boolean tensor with this number of dimensions.

    The mask of a linear layer has two dimensions, like its weight.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{name} is a {type(mask).__name__}; expected a Boolean torch.Tensor shaped "
            "(out_features, in_features). Convert it with torch.as_tensor(..., dtype=torch.bool)."
        )
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{name} has dtype {mask.dtype}; expected torch.bool (True where a link exists). "
            f"Convert it with {name}.bool() or {name} != 0."
        )
    if mask.ndim != dimensions:
        expected = "two dimensions (out_features, in_features)" if dimensions == 2 else f"{dimensions} dimensions"
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; expected {expected}.")


def check_same_shape(tensor: object, mask: Tensor, name: str) -> None:
    """Raise an error unless `tensor` is a tensor shaped like `mask`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor shaped {tuple(mask.shape)}.")
    if tensor.shape != mask.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} but the mask has shape {tuple(mask.shape)}; "
            "pass both in the shape of the layer's weight, (out_features, in_features)."
        )


def check_generator(generator: object) -> None:
    """Raise an error unless `generator` is a torch.Generator. The core never draws from the global random state."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is a {type(generator).__name__}; expected a torch.Generator. "
            "Pass generator=torch.Generator().manual_seed(0)."
        )


def check_number(value: object, name: str) -> None:
    """Raise an error unless `value` is a real number. NaN counts as a number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; expected a number, such as a float.")


def check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    """Raise an error unless 0 <= sparsity < 1."""
    check_number(sparsity, name)
    if not (math.isfinite(sparsity) and 0 <= sparsity < 1):
        raise ValueError(
            f"{name} is {sparsity}; expected a fraction in [0, 1): the share of links that are absent. To keep 5 % of "
            "the links, write sparsity=0.95."
        )


def check_density(density: float, name: str = "density") -> None:
    """Raise an error unless 0 <= density <= 1."""
    check_number(density, name)
    if not (math.isfinite(density) and 0 <= density <= 1):
        raise ValueError(
            f"{name} is {density}; expected a fraction in [0, 1]: the share of links that exist. "
            "Density is 1 - sparsity."
        )


def check_features(out_features: int, in_features: int) -> None:
    """Raise an error unless both sides of the bipartite network have at least one node."""
    if out_features < 1 or in_features < 1:
        raise ValueError(f"the layer has {out_features} outputs and {in_features} inputs; expected at least 1 of each.")


def check_repr(value: object, name: str) -> None:
    """Raise an error unless the repr of a user's own choice is the same in every process."""
    if " at 0x" in repr(value):
        raise ValueError(
            f"{name} has the repr {value!r}, which differs in each process, so a saved run could not identify it. "
            'Make the object whose repr contains " at 0x" a frozen dataclass. If this object is a function, make it '
            "the method __call__ of a frozen dataclass."
        )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and make the warning point to the nearest calling line outside this package and PyTorch."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in ("chts_core", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def is_called_by(function: str) -> bool:
    """Whether the caller was itself called by a function of this name, directly or through other functions."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None
