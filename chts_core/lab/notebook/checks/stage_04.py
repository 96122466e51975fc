"""Checks of stage 04, percolation."""

from collections.abc import Callable, Mapping, Set
from itertools import pairwise

import torch
from torch import Tensor

from chts_core.percolation import LayerGraph, percolate


def inactive(inactive: Mapping[str, Set[int]] | None, *, puzzle: Mapping[str, Tensor], chain: LayerGraph) -> None:
    """Find the inactive neurons: a set of them for each hidden layer."""
    assert inactive is not None, "replace None by two sets of neurons, as the comment shows."
    assert set(inactive) == {"hidden 1", "hidden 2"}, f"name hidden 1 and hidden 2; you named {sorted(inactive)}."
    solved = percolate(puzzle, chain)
    for side, incoming, outgoing in (("hidden 1", "fc1", "fc2"), ("hidden 2", "fc2", "fc3")):
        for neuron in range(4):
            hears, is_read = puzzle[incoming][neuron].any(), puzzle[outgoing][:, neuron].any()
            active, named = bool(solved[incoming][neuron].any()), neuron in inactive[side]
            assert not (named and active), (
                f"neuron {neuron} of {side} is active: it lies on a path from an input to an output. One incomplete "
                "link does not make a neuron inactive while it has another."
            )
            assert active or named or (hears and is_read), (
                f"you missed neuron {neuron} of {side}: it has no {'outgoing' if hears else 'incoming'} link."
            )
            assert active or named, (
                f"you missed neuron {neuron} of {side}: it has links on both sides now, but all of one side are "
                "incomplete, since they end at inactive neurons. Cut those, then look again."
            )
        unknown = set(inactive[side]) - set(range(4))
        assert not unknown, f"{side} has neurons 0 to 3; you named {sorted(unknown)}."


def backward(backward: Callable[[list[Tensor]], list[Tensor]]) -> None:
    """The backward sweep of a chain: a function of a list of masks that returns the swept masks."""
    generator = torch.Generator().manual_seed(8)  # the first network has something to sweep
    for sizes in ((6, 5, 4), (8, 7, 6, 5), (5, 9, 5, 9, 5)):
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        given = [torch.rand(shape, generator=generator) < 0.25 for shape in shapes]
        copies = [mask.clone() for mask in given]
        once = backward(given)
        assert once is not None, "return a list of masks instead of None."
        assert all(map(torch.equal, given, copies)), (
            "the masks given were changed; work on copies, or use & instead of &=."
        )
        assert [tuple(mask.shape) for mask in once] == shapes, f"the shapes should be {shapes}, in the order given."
        _compare_one_sweep(given, once)
        _compare_both_sweeps(sizes, given, backward([mask.T for mask in reversed(once)]))


def _compare_one_sweep(given: list[Tensor], once: list[Tensor]) -> None:
    for number, (mask, after) in enumerate(pairwise(once), start=1):
        astray = int((mask & ~after.any(dim=0)[:, None]).sum())
        assert not astray, (
            f"{astray} links of mask {number} of {len(once)} still lead to neurons that no link leaves. Does each "
            "step look at the *swept* mask after it, and do you begin at the outputs?"
        )
    exact = [mask & after.any(dim=0)[:, None] for mask, after in zip(given[:-1], once[1:], strict=True)]
    assert all(map(torch.equal, once, [*exact, given[-1]])), (
        "cut the rows of neurons that are not read, and nothing else; the last mask stays as it is."
    )


def _compare_both_sweeps(sizes: tuple[int, ...], given: list[Tensor], turned: list[Tensor]) -> None:
    both = {str(number): mask.T for number, mask in enumerate(reversed(turned))}
    start = dict(zip(both, given, strict=True))
    expected = percolate(start, LayerGraph(chains=(tuple(both),)))
    assert all(torch.equal(both[name], expected[name]) for name in both), (
        f"with sizes {sizes} the two sweeps leave {sum(int(m.sum()) for m in both.values())} links; the core leaves "
        f"{sum(int(m.sum()) for m in expected.values())}. Cut rows of neurons that are not read, and nothing else."
    )
