"""Scores of existing links. Links with a low score are likely to be removed."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class WeightedLinks(NamedTuple):
    """The links of a layer in the order of its rows.

    outputs, inputs: the two ends of each link, int64 (links,).
    values: the weights of the links, (links,).
    gradients: the gradients of the loss with respect to the values, or None.
    shape: (out_features, in_features) of the layer.
    """

    outputs: Tensor
    inputs: Tensor
    values: Tensor
    gradients: Tensor | None
    shape: tuple[int, int]

    def only(self, chosen: Tensor) -> "WeightedLinks":
        """Select some of the links by their indices."""
        gradients = None if self.gradients is None else self.gradients[chosen]
        return WeightedLinks(self.outputs[chosen], self.inputs[chosen], self.values[chosen], gradients, self.shape)


def magnitude(weight: Tensor) -> Tensor:
    """Weight magnitude (WM), |W|, with the shape and dtype of `weight`."""
    return weight.abs()


def relative_importance(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Relative importance (RI): a link's share of all |W| at its input, plus its share of all |W| at its output.

        RI_ij = |W_ij| / (Σ_k |W_kj| + ε) + |W_ij| / (Σ_k |W_ik| + ε)

    (Paper, link removal. ε = 1e-5 is from the published LLaMA code.) RI protects the last links of a weakly connected
    neuron, so more neurons stay active than with :func:`magnitude`. `weight` is (out_features, in_features), zero where
    there is no link. The scores have the shape and dtype of `weight`. If its dtype has fewer than 32 bits, the scores
    are float32.
    """
    size = weight.abs()
    if size.dtype.itemsize < 4:  # sums over a row of bf16 values would lose the small values
        size = size.float()
    return size / (size.sum(0, keepdim=True) + eps) + size / (size.sum(1, keepdim=True) + eps)


def mest(weight: Tensor, gradient: Tensor, coefficient: float = 0.01) -> Tensor:
    """|W| + 0.01 · |∂L/∂W|: keeps small weights with large gradients (Yuan et al., 2021).

    The coefficient is from the CHT code. The scores have the shape and dtype of `weight`. If its dtype has fewer than
    32 bits, the scores are float32: in bfloat16, adding a hundredth of a gradient would often leave the weight
    unchanged.
    """
    size = weight.abs()
    if size.dtype.itemsize < 4:
        size = size.float()
    return size + coefficient * gradient.abs().to(size.dtype)


def relative_importance_of_links(links: WeightedLinks, eps: float = 1e-5) -> Tensor:
    """The :func:`relative_importance` of each existing link, float64 (links,).

    On a CPU, the time grows with the number of existing links, not of possible links.
    """
    return _relative_importance(links, eps, eps)


def relative_importance_of_mlp_code(links: WeightedLinks, eps: float = 1e-5) -> Tensor:
    """RI as in the published MLP and Transformer code: it adds ε to each term of the sums.

        RI_ij = |W_ij| / Σ_k (|W_kj| + ε) + |W_ij| / Σ_k (|W_ik| + ε)

    The sums include missing links, so ε adds outputs · ε to the first sum and inputs · ε to the second sum. The scores
    are lower than with :func:`relative_importance_of_links`, most of all where the sums of |W| are small. The scores
    are float64 (links,).
    """
    outputs, inputs = links.shape
    return _relative_importance(links, outputs * eps, inputs * eps)


def _relative_importance(links: WeightedLinks, eps_of_inputs: float, eps_of_outputs: float) -> Tensor:
    size = links.values.abs().double()
    of_inputs = _total(size, links.inputs, links, dim=0)
    of_outputs = _total(size, links.outputs, links, dim=1)
    return size / (of_inputs[links.inputs] + eps_of_inputs) + size / (of_outputs[links.outputs] + eps_of_outputs)


def _total(size: Tensor, nodes: Tensor, links: WeightedLinks, dim: int) -> Tensor:
    """For each node, the sum of |W| over its links, always added in the same order."""
    if size.device.type == "cpu":
        return torch.bincount(nodes, size, minlength=links.shape[1 - dim])
    # On other devices, bincount adds in any order, so the last bits would differ from run to run.
    dense = size.new_zeros(links.shape)
    dense[links.outputs, links.inputs] = size
    return dense.sum(dim)


def _mest_of_links(links: WeightedLinks) -> Tensor:
    assert links.gradients is not None  # the Sparsifier has checked this
    return mest(links.values, links.gradients)


class LinkScore(Protocol):
    """A user's own score of links, in addition to the scores in `SCORES`.

    It is called with the links of a layer and returns finite scores >= 0, (links,). Links with a low score are likely
    to be removed. If the score's attribute `needs_gradient` is true, the links come with their gradients, or with None
    if there are no gradients yet. Make the score a frozen dataclass, because a saved run identifies its scores by
    their repr.
    """

    def __call__(self, links: WeightedLinks, /) -> Tensor:
        """Scores, (links,)."""
        ...


def scores_of(links: WeightedLinks, score: str | LinkScore) -> Tensor:
    """The scores of the links, (links,). `score` is a name in `SCORES` or a user's own score.

    Raises a TypeError or ValueError unless a user's score returns one number for each link.
    """
    if isinstance(score, str):
        return SCORES[score](links)
    scores = score(links)
    if not isinstance(scores, Tensor):
        raise TypeError(f"the score {score!r} returned a {type(scores).__name__}; expected a tensor.")
    if scores.shape != links.values.shape:
        raise ValueError(
            f"the score {score!r} returned shape {tuple(scores.shape)}; expected one score for each of the "
            f"{len(links.values)} links."
        )
    return scores


# The scores by name, and which of them need gradients.
SCORES: dict[str, Callable[[WeightedLinks], Tensor]] = {
    "magnitude": lambda links: magnitude(links.values),
    "relative_importance": relative_importance_of_links,
    "relative_importance_mlp_code": relative_importance_of_mlp_code,
    "mest": _mest_of_links,
}
GRADIENT_SCORES = ("mest",)
