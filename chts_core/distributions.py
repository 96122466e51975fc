"""How the links of a network are shared out among its layers.

A distribution takes the shapes of the layers' weights, (out_features, in_features, *kernel), and a sparsity, and gives
each layer its exact number of links. As the sparsity rises, no layer gains a link.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from chts_core.checks import check_sparsity
from chts_core.topology import link_count

Distribution = Callable[[Mapping[str, tuple[int, ...]], float], dict[str, int]]


def uniform(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """The same sparsity in every layer: number of links by layer name.

    Args:
        shapes: (out_features, in_features), and any kernel dimensions, by layer name.
        sparsity: share of absent links, in [0, 1).
    """
    check_sparsity(sparsity)
    _check_shapes(shapes)
    return {name: link_count(shape[0], math.prod(shape[1:]), 1 - sparsity) for name, shape in shapes.items()}


def erdos_renyi(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Erdős–Rényi (ER): density ∝ (out + in) / (out · in), so that large layers are sparser; at most 1.

    See :func:`erdos_renyi_kernel`, which is the same for layers without a kernel. Here all positions of a kernel
    count alike. (Mocanu et al. 2018, SET.)
    """
    return _share(shapes, sparsity, lambda shape: (shape[0] + shape[1]) * math.prod(shape[2:]))


def erdos_renyi_kernel(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Erdős–Rényi with kernels (ERK): density ∝ (sum of all dimensions) / (their product), at most 1.

    In other words a layer has ε · (sum of its dimensions) links, or all it can have if those are fewer, with one ε for
    the network. (Evci et al. 2020, RigL, which finds ε by making layers dense until no density exceeds 1.)

    The layers' links add up to exactly round((1 - sparsity) · weights of the network). They are rounded by the method
    of Webster and Sainte-Laguë: by largest remainders a layer could gain a link as the sparsity rises. No layer is
    without links unless there are fewer links than layers; then those with the largest sums have one each.

    Args:
        shapes: (out_features, in_features), and any kernel dimensions, by layer name.
        sparsity: share of absent links in the whole network, in [0, 1).

    Returns:
        Number of links by layer name. As the sparsity rises, no layer gains any.

    Raises:
        ValueError: for a sparsity out of range, or a shape of fewer than two dimensions or with an empty one.
    """
    return _share(shapes, sparsity, sum)


DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_kernel": erdos_renyi_kernel,
}


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(
                f"{name!r} has shape {tuple(shape)}; expected (out_features, in_features) and any kernel dimensions, "
                "all at least 1. Leave biases and norms out."
            )


def _share(
    shapes: Mapping[str, tuple[int, ...]], sparsity: float, weight: Callable[[tuple[int, ...]], int]
) -> dict[str, int]:
    """Share all links out by weight, whole and monotone: each layer min(size, ε · weight), rounded, at least 1.

    Imagine every link of every layer on one list, sorted by its claim: first links first, then by weight / (i - 1/2)
    for the i-th link of a layer. The links of the network are those at the top, as many as the sparsity allows. In
    whole numbers and fractions nothing is lost to rounding, so that two sparsities see the same list.
    """
    check_sparsity(sparsity)
    _check_shapes(shapes)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    weights = {name: weight(shape) for name, shape in shapes.items()}
    order = {name: position for position, name in enumerate(shapes)}
    total = round((1 - sparsity) * sum(sizes.values()))

    def claim(name: str, i: int) -> tuple[bool, Fraction, int]:
        return i == 1, Fraction(2 * weights[name], 2 * i - 1), -order[name]

    # Rounding ε · weight takes all claims of at least 1 / ε, which is right to within a link per layer.
    epsilon = _fill(sizes, weights, total)
    links = {name: max(1, min(sizes[name], math.floor(epsilon * weights[name] + Fraction(1, 2)))) for name in shapes}
    while sum(links.values()) < total:
        links[max((name for name in shapes if links[name] < sizes[name]), key=lambda n: claim(n, links[n] + 1))] += 1
    while sum(links.values()) > total:
        links[min((name for name in shapes if links[name] > 0), key=lambda n: claim(n, links[n]))] -= 1
    return links


def _fill(sizes: Mapping[str, int], weights: Mapping[str, int], total: int) -> Fraction:
    """The ε at which the layers' min(size, ε · weight) add up to `total`."""
    left, weight = total, sum(weights.values())
    # The layers in the order in which a growing ε fills them.
    for name in sorted(sizes, key=lambda name: Fraction(sizes[name], weights[name])):
        if left * weights[name] < sizes[name] * weight:
            break
        left -= sizes[name]
        weight -= weights[name]
    return Fraction(left, weight) if weight else Fraction(max(sizes.values(), default=0))
