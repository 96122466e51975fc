"""Which links go: a score for every link; links with a low score are likely to be removed."""

from collections.abc import Callable

from torch import Tensor

RemovalScore = Callable[[Tensor], Tensor]
GradientScore = Callable[[Tensor, Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """Weight magnitude (WM), |W|. Shape and dtype of `weight`."""
    return weight.abs()


def relative_importance(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Relative importance (RI): the link's share of its input's links plus its share of its output's links.

        RI_ij = |W_ij| / (Σ_k |W_kj| + ε) + |W_ij| / (Σ_k |W_ik| + ε)

    (Paper, link removal; ε = 1e-5 as in the published code.) It protects the last links of a weakly connected
    neuron, so more neurons stay active than under :func:`magnitude`.

    Args:
        weight: (out_features, in_features), zero where there is no link.

    Returns:
        Scores of the same shape, dtype that of `weight` but at least float32.
    """
    size = weight.abs()
    if size.dtype.itemsize < 4:  # sums over a row of bf16 values would lose the small ones
        size = size.float()
    return size / (size.sum(0, keepdim=True) + eps) + size / (size.sum(1, keepdim=True) + eps)


def mest(weight: Tensor, gradient: Tensor, coefficient: float = 0.01) -> Tensor:
    """Weight and gradient together, |W| + 0.01 · |∂L/∂W| (Yuan et al., 2021; coefficient of the published CHT code).

    A small weight that is about to change much is spared.

    Args:
        weight, gradient: (out_features, in_features), zero where there is no link.

    Returns:
        Scores of the same shape, at least float32: a hundredth of a gradient would vanish beside a bfloat16 weight.
    """
    size = weight.abs()
    if size.dtype.itemsize < 4:
        size = size.float()
    return size + coefficient * gradient.abs().to(size.dtype)


# The scores by name: those of the weights alone, and those that want the gradient too.
SCORES: dict[str, RemovalScore] = {"magnitude": magnitude, "relative_importance": relative_importance}
GRADIENT_SCORES: dict[str, GradientScore] = {"mest": mest}
