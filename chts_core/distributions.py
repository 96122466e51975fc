"""Distribute the links of a network among its layers.

A distribution takes two arguments. The first argument maps the name of each layer to the shape of its weight,
(out_features, in_features, *kernel). The second argument is a sparsity in [0, 1): the share of absent links in the
whole network. The distribution returns a dict from the name of each layer to its exact number of links. As the sparsity
rises, no layer gains a link. A distribution raises a ValueError for a sparsity out of range, and for a shape with fewer
than two dimensions or with an empty dimension.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from fractions import Fraction

from chts_core.checks import check_sparsity
from chts_core.topology import link_count

Distribution = Callable[[Mapping[str, tuple[int, ...]], float], dict[str, int]]
# A name in `DISTRIBUTIONS`, a mapping from patterns of layer names to final sparsities, or a user's own distribution.
Shares = str | Mapping[str, float] | Distribution


def uniform(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Give every layer the same sparsity."""
    check_sparsity(sparsity)
    _check_shapes(shapes)
    return {name: link_count(shape[0], math.prod(shape[1:]), 1 - sparsity) for name, shape in shapes.items()}


def erdos_renyi(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Erdős–Rényi (ER): density ∝ (out + in) / (out · in), but at most 1. Large layers are sparser than small layers.

    For layers without a kernel, :func:`erdos_renyi_kernel` gives the same numbers. In ER, the size of a kernel does not
    change the density. (Mocanu et al. 2018, SET.)
    """
    return _share(shapes, sparsity, lambda shape: (shape[0] + shape[1]) * math.prod(shape[2:]))


def erdos_renyi_kernel(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Erdős–Rényi with kernels (ERK): density ∝ (sum of all dimensions) / (their product), at most 1.

    Each layer has ε · (sum of its dimensions) links, or all its possible links if these are fewer. ε is the same for
    all layers. (Evci et al. 2020, RigL. They find ε by making layers dense until no density exceeds 1.)

    Together, the layers have exactly round((1 - sparsity) · number of all weights) links. The function rounds the
    number of links of each layer with the method of Webster and Sainte-Laguë. With the method of largest remainders, a
    layer could gain a link as the sparsity rises. Every layer has at least one link, unless there are fewer links than
    layers. In that case, the layers with the largest sums of dimensions have one link each, and the others have none.
    """
    return _share(shapes, sparsity, sum)


DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_kernel": erdos_renyi_kernel,
}


def sparsities_by_layer(patterns: Mapping[str, float], layers: Iterable[str], default: float) -> dict[str, float]:
    """The sparsity of each layer, from the first pattern that fits it, or the default if no pattern fits.

    A glob pattern may fit the name of a layer, of its weight or of its module, for example "0.weight:q", "0.weight" or
    "0".

    Raises:
        TypeError, ValueError: for a sparsity that is not a number in [0, 1), and for a pattern that does not decide the
            sparsity of any layer.
    """
    found = {}
    for pattern, sparsity in patterns.items():
        check_sparsity(sparsity, f"sparsity of {pattern!r}")
    for layer in layers:
        weight = layer.partition(":")[0]
        names = (layer, weight, weight.rpartition(".")[0])
        found[layer] = next((one for one in patterns if any(fnmatchcase(name, one) for name in names)), None)
    for pattern in patterns:
        if pattern not in found.values():
            raise ValueError(
                f"distribution has the pattern {pattern!r}, but it fits no layer, or an earlier pattern already covers "
                "every layer that it fits; "
                f"expected a layer's or module's name, with * for any part of it. The layers are {', '.join(found)}."
            )
    return {layer: default if pattern is None else patterns[pattern] for layer, pattern in found.items()}


def check_links(links: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], distribution: object) -> None:
    """Raise an error unless a user's own distribution returned a valid number of links for each layer."""
    if not isinstance(links, Mapping):
        raise TypeError(f"{distribution!r} returned {links!r}; expected a mapping of layer names to numbers of links.")
    if links.keys() != shapes.keys():
        raise ValueError(
            f"{distribution!r} returned numbers of links for the layers {', '.join(links)}; "
            f"expected exactly the layers {', '.join(shapes)}."
        )
    for name, shape in shapes.items():
        if not isinstance(links[name], int) or not 0 <= links[name] <= math.prod(shape):
            raise ValueError(
                f"{distribution!r} gave {links[name]!r} links to layer {name!r} of shape {shape}; expected a whole "
                f"number in [0, {math.prod(shape)}]."
            )


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
    """Give each layer min(size, ε · weight(shape)) links, rounded, and at least one link if possible.

    The size of a layer is the number of its possible links, and ε is the same for all layers. Imagine one list of all
    possible links of all layers, sorted by `claim`. The list begins with the first link of each layer. The other links
    follow in decreasing order of weight / (i - 1/2), for the i-th link of a layer. The network gets the links at the
    top of the list. Integers and fractions have no rounding errors, so the list is the same for all sparsities.
    """
    check_sparsity(sparsity)
    _check_shapes(shapes)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    weights = {name: weight(shape) for name, shape in shapes.items()}
    order = {name: position for position, name in enumerate(shapes)}
    total = round((1 - sparsity) * sum(sizes.values()))

    def claim(name: str, i: int) -> tuple[bool, Fraction, int]:
        return i == 1, Fraction(2 * weights[name], 2 * i - 1), -order[name]

    # Rounding ε · weight selects all links with a claim of at least 1 / ε. Each layer is then at most one link off.
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
    # Visit the layers in the order in which a growing ε fills them.
    for name in sorted(sizes, key=lambda name: Fraction(sizes[name], weights[name])):
        if left * weights[name] < sizes[name] * weight:
            break
        left -= sizes[name]
        weight -= weights[name]
    return Fraction(left, weight) if weight else Fraction(max(sizes.values(), default=0))
