"""Checks of stage 04, percolation."""

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import pairwise

import torch
from torch import Tensor, nn

from chts_core.engine.compaction import compact
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.percolation import LayerGraph, percolate
from chts_core.removal import relative_importance

Layers = list[tuple[Tensor, Tensor]]  # the weight and the bias of each layer, from the inputs on


def inactive(inactive: Mapping[str, Set[int]] | None, *, puzzle: Mapping[str, Tensor], chain: LayerGraph) -> None:
    """Exercise "Find the inactive neurons by hand": find the set of inactive neurons in each hidden layer."""
    assert inactive is not None, "replace None with two sets of neurons, as the comment shows."
    assert set(inactive) == {"hidden 1", "hidden 2"}, f"the keys are {sorted(inactive)}; use hidden 1 and hidden 2."
    solved = percolate(puzzle, chain)
    for side, incoming, outgoing in (("hidden 1", "fc1", "fc2"), ("hidden 2", "fc2", "fc3")):
        for neuron in range(4):
            hears, is_read = puzzle[incoming][neuron].any(), puzzle[outgoing][:, neuron].any()
            active, named = bool(solved[incoming][neuron].any()), neuron in inactive[side]
            assert not (named and active), (
                f"neuron {neuron} of {side} is active: it lies on a path from an input to an output. An active "
                "neuron may have incomplete links, too."
            )
            assert active or named or (hears and is_read), (
                f"you missed neuron {neuron} of {side}: it has no {'outgoing' if hears else 'incoming'} link."
            )
            assert active or named, (
                f"you missed neuron {neuron} of {side}: it has links on both sides, but on one side, all of its "
                "links are incomplete, because they connect it to inactive neurons. Remove these links and look again."
            )
        unknown = set(inactive[side]) - set(range(4))
        assert not unknown, f"{side} has only the neurons 0 to 3; your set contains {sorted(unknown)}."


def backward(backward: Callable[[list[Tensor]], list[Tensor]]) -> None:
    """Exercise "The backward sweep of a chain": write a function that returns the swept masks of a list of masks."""
    generator = torch.Generator().manual_seed(8)  # with this seed, the first network has links to remove
    for sizes in ((6, 5, 4), (8, 7, 6, 5), (5, 9, 5, 9, 5)):
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        given = [torch.rand(shape, generator=generator) < 0.25 for shape in shapes]
        copies = [mask.clone() for mask in given]
        once = backward(given)
        assert once is not None, "backward() returns None; return a list of masks."
        assert all(map(torch.equal, given, copies)), (
            "your function changed the masks that it was given; work on copies, or use & instead of &=."
        )
        assert [tuple(mask.shape) for mask in once] == shapes, f"return masks of the shapes {shapes}, in this order."
        _compare_one_sweep(given, once)
        _compare_both_sweeps(sizes, given, backward([mask.T for mask in reversed(once)]))


def _compare_one_sweep(given: list[Tensor], once: list[Tensor]) -> None:
    for number, (mask, after) in enumerate(pairwise(once), start=1):
        astray = int((mask & ~after.any(dim=0)[:, None]).sum())
        assert not astray, (
            f"in mask {number} of {len(once)}, {astray} links still lead to neurons without outgoing links. Begin at "
            "the outputs, and compare each mask with the *swept* mask after it."
        )
    exact = [mask & after.any(dim=0)[:, None] for mask, after in zip(given[:-1], once[1:], strict=True)]
    assert all(map(torch.equal, once, [*exact, given[-1]])), (
        "remove only the links to neurons without outgoing links; the last mask stays as it is."
    )


def _compare_both_sweeps(sizes: tuple[int, ...], given: list[Tensor], turned: list[Tensor]) -> None:
    both = {str(number): mask.T for number, mask in enumerate(reversed(turned))}
    start = dict(zip(both, given, strict=True))
    expected = percolate(start, LayerGraph(chains=(tuple(both),)))
    assert all(torch.equal(both[name], expected[name]) for name in both), (
        f"with layers of the sizes {sizes}, the two sweeps leave {sum(int(m.sum()) for m in both.values())} links, but "
        f"the core leaves {sum(int(m.sum()) for m in expected.values())}. Remove only the links to neurons without "
        "outgoing links."
    )


def paths_through(paths_through: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
    """Exercise "Count the paths": write a function that returns the number of paths through each link of some masks."""
    generator = torch.Generator().manual_seed(8)
    for sizes in ((2, 2, 2), (6, 5, 4), (8, 7, 6, 5)):
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        masks = [torch.rand(shape, generator=generator) < 0.4 for shape in shapes]
        if len(sizes) == 3 and sizes[0] == 2:
            masks = [torch.tensor([[True, True], [True, False]]), torch.tensor([[True, False], [True, False]])]
        answer = paths_through([mask.clone() for mask in masks])
        assert answer is not None, "paths_through() returns None; return a list of counts, one tensor for each mask."
        found = [torch.as_tensor(counts).long() for counts in answer]
        assert [tuple(counts.shape) for counts in found] == shapes, (
            f"return counts in the shapes of the masks, {shapes}."
        )
        assert not any(bool(counts[~mask].any()) for counts, mask in zip(found, masks, strict=True)), (
            "no path goes through a place without a link; multiply the counts by the mask."
        )
        totals = [int(counts.sum()) for counts in found]
        every = masks[0].long()
        for mask in masks[1:]:
            every = mask.long() @ every
        assert totals == [int(every.sum())] * len(masks), (
            f"with layers of the sizes {sizes}, the counts of the layers sum to {totals}; expected {int(every.sum())} "
            "in each layer, because every path uses one link of each layer. Multiply the number of ways from the "
            "inputs to a link by the number of ways from the link to the outputs."
        )
        names = [str(number) for number in range(len(masks))]
        left = percolate(dict(zip(names, masks, strict=True)), LayerGraph(chains=(tuple(names),)))
        assert all(torch.equal(counts > 0, left[name]) for name, counts in zip(names, found, strict=True)), (
            f"with layers of the sizes {sizes}, the links with at least one path are not the links that percolation "
            "leaves."
        )


def importance(importance: float | None, removed: tuple[int, int] | None) -> None:
    """Exercise "Importance by hand": find two answers.

    They are the RI of the link with weight 1, and the link (output, input) that RI removes first.
    """
    assert importance is not None, "replace each None in the cell above with an answer."
    assert removed is not None, "replace each None in the cell above with an answer."
    weight = torch.tensor([[3.0, 7.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 4.0]])
    scores = relative_importance(weight)
    slips = {
        "only the share at the input; add the share at the output": 1 / 8,
        "only the share at the output; add the share at the input": 1.0,
        "the weight divided by the total of both sums; divide the weight by each sum, then add the two shares": 1 / 9,
        "the link's share of the whole layer; instead, add its share of its row to its share of its column": 1 / 17,
        "the answer without the link's own weight in the sums; include this weight": 1 / 7,
    }
    refuse(importance, slips, 0.001)
    right = float(scores[1, 1])
    assert abs(importance - right) < 0.006, f"{importance} is not right; what are the sums of column 1 and of row 1?"
    assert tuple(removed) != (1, 1), "(1, 1) has the smallest weight, so WM removes it. Which link has the smallest RI?"
    assert tuple(removed) != (0, 2), "(0, 2) is not a link. Write a link as (output, input), row before column."
    lowest = divmod(int(scores.where(weight > 0, 9.0).argmin()), 3)
    assert tuple(removed) == lowest, (
        f"{removed} is not right. Compute the RI of all five links, each from its own column and row."
    )


def break_importance(weight: Tensor | None) -> None:
    """Exercise "Break the importance": find a matrix in which RI removes a neuron's last link.

    The matrix is 3 × 3 and has at least 4 links.
    """
    assert weight is not None, "replace None with a tensor of 3 × 3 weights, with 0 where there is no link."
    weight = weight.double()
    assert weight.shape == (3, 3), f"your tensor has shape {tuple(weight.shape)}; expected (3, 3)."
    mask = weight != 0
    links, sides = int(mask.sum()), (mask.sum(dim=1), mask.sum(dim=0))
    assert links >= 4, f"you have {links} links; expected at least 4."
    scores = relative_importance(weight).masked_fill(~mask, torch.inf)
    lowest, second = scores.flatten().sort().values[:2].tolist()
    neurons = sum(int((side > 0).sum()) for side in sides)
    output, source = divmod(int(scores.argmin()), 3)
    said = f"RI removes the link ({output}, {source}), whose RI is {lowest:.2f}"
    if sides[0][output] > 1 and sides[1][source] > 1:
        assert links < neurons, (
            f"{said}, but both neurons of this link have other links. With {links} links and {neurons} linked "
            f"neurons, the mean RI is {neurons / links:.2f}, and the last link of a neuron has an RI above 1. Which "
            "networks have a "
            "mean RI above 1?"
        )
        raise AssertionError(
            f"{said}, but both neurons of this link have other links. Make this weight larger, so that it makes up "
            "most of the sum of its row and of its column."
        )
    assert second - lowest > 1e-3, f"{said}, but another link has the same RI. Let only one link have the lowest RI."


def compacted_size(parameters: Callable[[list[Tensor]], int]) -> None:
    """Exercise "How small does it get?": write a function that counts the parameters of the compacted model."""
    small_one = (
        [[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]],
        [[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[1, 1, 0, 0], [1, 0, 0, 1]],
    )
    generator = torch.Generator().manual_seed(1)
    random = [torch.rand(shape, generator=generator) < 0.25 for shape in ((7, 8), (9, 7), (4, 9))]
    for name, masks in (("a small network", [torch.tensor(mask) > 0 for mask in small_one]), ("random masks", random)):
        answer = parameters([mask.clone() for mask in masks])
        assert answer is not None, "parameters() returns None; return a number."
        small = [layer.weight for layer in _compacted(masks)]
        linked = [int((a.any(dim=1) & b.any(dim=0)).sum()) for a, b in pairwise(masks)]
        alive = [len(weight) for weight in small]
        read = [int(weight.any(dim=0).sum()) for weight in small]
        slips = {
            "the size of the whole model; leave out the inactive neurons": _parameters(
                [*_ends(masks, [len(m) for m in masks])]
            ),
            "the number without the biases; every remaining neuron has a bias": sum(weight.numel() for weight in small),
            "the number of links and biases; the remaining matrices are dense, so count all of their weights": sum(
                int((weight != 0).sum()) + len(weight) for weight in small
            ),
            "the number of parameters without the cascade; percolate the masks first": _parameters(
                _ends(masks, linked)
            ),
            "the size if you also remove inputs without links; compaction removes only hidden neurons": _parameters(
                [read[0], *alive]
            ),
        }
        right = sum(weight.numel() + len(weight) for weight in small)
        for slip, wrong in slips.items():
            assert answer == right or answer != wrong, f"{name}: {answer} is {slip}."
        assert answer == right, f"{name}: you count {answer}; the core's compacted model has {right} parameters."


def _ends(masks: Sequence[Tensor], hidden: Sequence[int]) -> list[int]:
    """The widths of the layers from the inputs to the outputs; compaction changes only the hidden layers."""
    return [masks[0].shape[1], *hidden[: len(masks) - 1], len(masks[-1])]


def _parameters(widths: Sequence[int]) -> int:
    return sum(after * (before + 1) for before, after in pairwise(widths))


def _compacted(masks: Sequence[Tensor], layers: Layers | None = None) -> list[nn.Linear]:
    """The layers of an MLP with ReLU after the core has compacted it. The weights come from `layers` or are random."""
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential()
    for number, mask in enumerate(masks):
        linear = nn.Linear(mask.shape[1], len(mask))
        random = torch.randn(mask.shape, generator=generator) * mask, torch.randn(len(mask), generator=generator)
        with torch.no_grad():
            for parameter, value in zip(
                (linear.weight, linear.bias), layers[number] if layers else random, strict=True
            ):
                parameter.copy_(value)
        model.extend([linear, nn.ReLU()])
    names = tuple(f"{2 * number}.weight" for number in range(len(masks)))
    example = torch.randn(4, masks[0].shape[1], generator=generator)
    small = compact(model, dict(zip(names, masks, strict=True)), LayerGraph(chains=(names,)), example)
    return [layer for layer in small.modules() if isinstance(layer, nn.Linear)]


def fold_bias(fold_bias: Callable[[Layers, Callable[[Tensor], Tensor]], Layers]) -> None:
    """Exercise "Fold a bias": write a function that drops each hidden neuron without incoming links.

    The function also corrects the biases of the next layer.
    """
    masks = [
        torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]) > 0,
        torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]]) > 0,
        torch.tensor([[1, 0, 1], [0, 1, 1]]) > 0,
    ]
    generator = torch.Generator().manual_seed(0)
    biases = ([0.3, 2.0, -0.4, 0.1], [0.2, -0.3, 0.5], [0.1, -0.2])
    for activation, first in ((torch.relu, 2.0), (torch.sigmoid, -1.0)):
        layers = [
            (torch.randn(mask.shape, generator=generator).abs() * mask, torch.tensor(bias))
            for mask, bias in zip(masks, biases, strict=True)
        ]
        layers[0][1][1] = first  # with ReLU, this neuron sends 2; a sigmoid never sends 0
        answer = fold_bias([(weight.clone(), bias.clone()) for weight, bias in layers], activation)
        assert answer is not None, "fold_bias() returns None; return a list of weights and biases."
        _compare_widths(layers, answer)
        samples = torch.randn(16, 3, generator=generator)
        expected, found = _forward(layers, activation, samples), _forward(answer, activation, samples)
        for slip, sent in _FOLDING_SLIPS.items():
            wrong = _forward(_folded(layers, activation, sent), activation, samples)
            assert torch.allclose(found, expected, atol=1e-5) or not torch.allclose(found, wrong, atol=1e-5), slip
        assert torch.allclose(found, expected, atol=1e-5), (
            f"your outputs differ from the original outputs by up to {float((found - expected).abs().max()):.2g}. For "
            "each link from a lost neuron, add the lost neuron's value times the link's weight to the bias of the next "
            "neuron."
        )


def _compare_widths(layers: Layers, answer: Layers) -> None:
    expected = [len(layer.weight) for layer in _compacted([weight != 0 for weight, _ in layers], layers)]
    assert len(answer) == 3, f"you return {len(answer)} layers; expected 3 pairs of a weight and a bias."
    for number, ((weight, bias), due) in enumerate(zip(answer, expected, strict=True), start=1):
        kind = "outputs" if number == 3 else f"neurons in hidden {number}"
        assert len(weight) == due, f"you keep {len(weight)} {kind}; the core keeps {due}. " + (
            "A neuron with links only from lost neurons is lost, too."
            if number == 2
            else "Which neurons have no incoming links?"
        )
        assert len(bias) == due, (
            f"layer {number} has {len(bias)} biases for {due} {kind}; drop the biases of lost neurons."
        )
    for number, ((weight, _), (after, _)) in enumerate(pairwise(answer), start=1):
        assert after.shape[1] == len(weight), (
            f"hidden {number} has {len(weight)} neurons, but layer {number + 1} has {after.shape[1]} inputs; drop the "
            "columns of lost neurons."
        )


def _forward(layers: Layers, activation: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    for weight, bias in layers[:-1]:
        values = activation(values @ weight.T + bias)
    return values @ layers[-1][0].T + layers[-1][1]


def _folded(layers: Layers, activation: Callable[[Tensor], Tensor], sent: str) -> Layers:
    """Fold the biases with one deliberate mistake; `sent` is a value of `_FOLDING_SLIPS` and says which mistake."""
    folded = list(layers)
    for at in range(len(layers) - 1):
        (weight, bias), (after, after_bias) = folded[at], folded[at + 1]
        lost = ~weight.any(dim=1)
        constant = {"nothing": 0 * bias, "bias": bias, "bare": activation(bias)}[sent][lost]
        columns = after[:, lost] if sent != "bare" else after[:, lost] != 0
        folded[at] = weight[~lost], bias[~lost]
        folded[at + 1] = after[:, ~lost], after_bias + columns.float() @ constant
    return folded


_FOLDING_SLIPS = {
    "you drop the neurons, but their values are then missing from the next layer; add them to its biases.": "nothing",
    "you fold the bias itself; the neuron sends activation(bias).": "bias",
    "you add the value of a lost neuron, but do not multiply it by the weight of its link.": "bare",
}
