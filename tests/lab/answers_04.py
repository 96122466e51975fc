"""Answers to the exercises of stage 04, and what their checks say of them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from answers import cases
from torch import Tensor

import chts_core as chts

GIVEN: dict[str, dict[str, Any]] = {}

Activation = Callable[[Tensor], Tensor]
Layers = list[tuple[Tensor, Tensor]]


def ways(masks: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Ways from the inputs to each neuron, and from each neuron to the outputs, side by side through the layers."""
    to, from_it = [torch.ones(masks[0].shape[1]).long()], [torch.ones(len(masks[-1])).long()]
    for mask in masks:
        to.append(mask.long() @ to[-1])
    for mask in reversed(masks):
        from_it.insert(0, mask.long().T @ from_it[0])
    return to, from_it


def paths(masks: list[Tensor], *, to: bool = True, from_it: bool = True, anywhere: bool = False) -> list[Tensor]:
    before, after = ways(masks)
    return [
        (torch.ones_like(mask) if anywhere else mask).long()
        * (before[at][None, :] if to else 1)
        * (after[at + 1][:, None] if from_it else 1)
        for at, mask in enumerate(masks)
    ]


def shuffled(masks: list[Tensor]) -> list[Tensor]:
    """The right sums, in the wrong places of the second layer."""
    counts = paths(masks)
    if len(masks) == 3:
        links = counts[1][masks[1]]
        counts[1][masks[1]] = torch.cat([links.sum()[None], torch.zeros_like(links[1:])])
    return counts


def links(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def parameters(masks: list[Tensor], *, percolated: bool = True, biases: int = 1, dense: bool = True) -> int:
    names = [str(number) for number in range(len(masks))]
    left = dict(zip(names, masks, strict=True))
    if percolated:
        left = chts.percolation.percolate(left, chts.LayerGraph(chains=(tuple(names),)))
    alive = [int((a.any(dim=1) & b.any(dim=0)).sum()) for a, b in pairwise(left.values())]
    widths = [masks[0].shape[1], *alive, len(masks[-1])]
    weights = [before * after for before, after in pairwise(widths)]
    return sum(weights if dense else [int(mask.sum()) for mask in left.values()]) + biases * sum(widths[1:])


def without_unlinked_inputs(masks: list[Tensor]) -> int:
    names = [str(number) for number in range(len(masks))]
    left = list(
        chts.percolation.percolate(
            dict(zip(names, masks, strict=True)), chts.LayerGraph(chains=(tuple(names),))
        ).values()
    )
    inputs, first = int(left[0].any(dim=0).sum()), int(left[0].any(dim=1).sum())
    return parameters(masks) - (masks[0].shape[1] - inputs) * first


def folded(
    sent: Callable[[Activation, Tensor], Tensor] = lambda activation, bias: activation(bias),
    *,
    weighted: bool = True,
    cascade: bool = True,
) -> Callable[[Layers, Activation], Layers]:
    """An answer to 04.fold_bias, with slips: what a lost neuron sends, unweighted, without the cascade."""

    def answer(layers: Layers, activation: Activation) -> Layers:
        hears = [weight.any(dim=1) for weight, _ in layers]
        layers = list(layers)
        for at in range(len(layers) - 1):
            (weight, bias), (after, after_bias) = layers[at], layers[at + 1]
            stays = weight.any(dim=1) if cascade else hears[at]
            lost = after[:, ~stays] if weighted else (after[:, ~stays] != 0).float()
            layers[at] = weight[stays], bias[stays]
            layers[at + 1] = after[:, stays], after_bias + lost @ sent(activation, bias[~stays])
        return layers

    return answer


def with_all_biases(layers: Layers, activation: Activation) -> Layers:
    return [(weight, old) for (weight, _), (_, old) in zip(folded()(layers, activation), layers, strict=True)]


def with_all_columns(layers: Layers, activation: Activation) -> Layers:
    """Cuts rows and biases, and leaves the columns."""
    small = folded()(layers, activation)
    return [(after[: len(weight)], bias) for (weight, bias), (after, _) in zip(small, layers, strict=True)]


def into_the_last_bias(layers: Layers, activation: Activation) -> Layers:
    small = folded()(layers, activation)
    return [*small[:-1], (small[-1][0], small[-1][1] + 0.1)]


RIGHT = [
    *cases("04.paths_through", (paths, "")),
    *cases("04.importance", ((1.125, (2, 0)), ""), ((1.13, (2, 0)), "")),
    *cases(
        "04.break_importance",
        (links([1, 10, 0], [0, 2, 0], [0, 0, 1]), ""),
        (links([1, 2, -4], [0, 0, 1], [0, 0, 0]), ""),
    ),
    *cases("04.compacted_size", (parameters, "")),
    *cases("04.fold_bias", (folded(), "")),
]

STUBS = [
    *cases("04.paths_through", (lambda _: None, "paths_through() returns None; return a list of counts, ")),
    *cases(
        "04.importance",
        *(
            (half, "replace each None in the cell above with an answer.")
            for half in ((None, None), (1.125, None), (None, (2, 0)))
        ),
    ),
    *cases(
        "04.break_importance", (None, "replace None with a tensor of 3 × 3 weights, with 0 where there is no link.")
    ),
    *cases("04.compacted_size", (lambda _: None, "parameters() returns None; return a number.")),
    *cases("04.fold_bias", (lambda *_: None, "fold_bias() returns None; return a list of weights and biases.")),
]

SLIPS = [
    *cases(
        "04.paths_through",
        (lambda masks: paths(masks)[:1], "return counts in the shapes of the masks, [(2, 2), (2, 2)]."),
        (
            lambda masks: paths(masks, anywhere=True),
            "no path goes through a place without a link; multiply the counts by the mask.",
        ),
        (
            lambda masks: paths(masks, to=False),
            "with layers of the sizes (2, 2, 2), the counts of the layers sum to [4, 2]; expected 4 in each layer, ",
        ),
        (
            lambda masks: paths(masks, from_it=False),
            "with layers of the sizes (2, 2, 2), the counts of the layers sum to [3, 4]; expected 4 in each layer, ",
        ),
        (shuffled, "the links with at least one path are not the links that percolation leaves."),
    ),
    *cases(
        "04.importance",
        ((0.125, (2, 0)), "0.125 is only the share at the input; add the share at the output."),
        ((1, (2, 0)), "1 is only the share at the output; add the share at the input."),
        (
            (0.111, (2, 0)),
            "0.111 is the weight divided by the total of both sums; divide the weight by each sum, then add the two "
            "shares.",
        ),
        (
            (0.0588, (2, 0)),
            "0.0588 is the link's share of the whole layer; instead, add its share of its row to its share of its "
            "column.",
        ),
        ((1 / 7, (2, 0)), "is the answer without the link's own weight in the sums; include this weight."),
        ((1.2, (2, 0)), "1.2 is not right; what are the sums of column 1 and of row 1?"),
        ((1.125, (1, 1)), "(1, 1) has the smallest weight, so WM removes it. Which link has the smallest RI?"),
        ((1.125, (0, 2)), "(0, 2) is not a link. Write a link as (output, input), row before column."),
        ((1.125, (0, 0)), "(0, 0) is not right. Compute the RI of all five links, each "),
    ),
    *cases(
        "04.break_importance",
        (links([1, 2, 3]), "your tensor has shape (1, 3); expected (3, 3)."),
        (links([1, 0, 0], [0, 1, 0], [0, 0, 1]), "you have 3 links; expected at least 4."),
        (
            links([3, 7, 1], [1, 1, 0], [2, 0, 4]),
            "Which networks have a mean RI above 1?",
        ),
        (
            links([2, 1, 0], [0, 2, 0], [0, 0, 1]),
            "RI removes the link (0, 1), whose RI is 0.67, but both neurons of this link have other links. Make this "
            "weight "
            "larger, so ",
        ),
        (
            links([1, 10, 0], [0, 1, 0], [0, 0, 1]),
            "RI removes the link (0, 0), whose RI is 1.09, but another link has the same RI. Let only one "
            "link have the lowest RI.",
        ),
    ),
    *cases(
        "04.compacted_size",
        (
            lambda masks: sum(mask.numel() + len(mask) for mask in masks),
            "a small network: 54 is the size of the whole model; leave out the inactive neurons.",
        ),
        (
            lambda masks: parameters(masks, biases=0),
            "a small network: 18 is the number without the biases; every remaining neuron has a bias.",
        ),
        (
            lambda masks: parameters(masks, dense=False),
            "a small network: 14 is the number of links and biases; the remaining matrices are dense, so count all ",
        ),
        (
            lambda masks: parameters(masks, percolated=False),
            "is the number of parameters without the cascade; percolate the masks first.",
        ),
        (
            without_unlinked_inputs,
            "a small network: 20 is the size if you also remove inputs without links; compaction removes only ",
        ),
        (
            lambda masks: parameters(masks) + 1,
            "a small network: you count 25; the core's compacted model has 24 parame",
        ),
    ),
    *cases(
        "04.fold_bias",
        (
            lambda layers, _: layers,
            "you keep 4 neurons in hidden 1; the core keeps 3. Which neurons have no incoming links?",
        ),
        (lambda layers, _: layers[:2], "you return 2 layers; expected 3 pairs of a weight and a bias."),
        (
            folded(cascade=False),
            "you keep 3 neurons in hidden 2; the core keeps 2. A neuron with links only from lost neurons is lost, ",
        ),
        (with_all_biases, "layer 1 has 4 biases for 3 neurons in hidden 1; drop the biases of lost neurons."),
        (with_all_columns, "hidden 1 has 3 neurons, but layer 2 has 4 inputs; drop the columns of lost neurons."),
        (
            folded(lambda _, bias: 0 * bias),
            "you drop the neurons, but their values are then missing from the next layer; add them to its biases.",
        ),
        (folded(lambda _, bias: bias), "you fold the bias itself; the neuron sends activation(bias)."),
        (
            folded(weighted=False),
            "you add the value of a lost neuron, but do not multiply it by the weight of its link.",
        ),
        (
            into_the_last_bias,
            "your outputs differ from the original outputs by up to 0.1. For each link from a lost neuron, add ",
        ),
    ),
]
