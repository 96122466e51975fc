"""The percolation sandbox and the figures of percolation."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import chts_core as chts
from chts_core.lab import figures
from chts_core.lab.figures.percolation import dead_ends
from chts_core.lab.widgets import PercolationSandbox, PercolationState

# 4-4-3-2: neuron 2 of hidden layer 1 hears nothing, neuron 2 of hidden layer 2 is not read.
CHAIN = [
    torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]], dtype=torch.bool),
    torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool),
    torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool),
]
SIDES = ("inputs", "hidden 1", "hidden 2", "outputs")
SCORES = ("magnitude", "relative importance")


def links(masks: list[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def on_paths(masks: list[Tensor]) -> list[Tensor]:
    """The links on some path from an input to an output, found by walking every path."""
    found = [torch.zeros_like(mask) for mask in masks]
    sizes = [masks[0].shape[1], *(len(mask) for mask in masks)]
    for path in product(*map(range, sizes)):
        steps = [(layer, after, before) for layer, (before, after) in enumerate(pairwise(path))]
        if all(masks[layer][after, before] for layer, after, before in steps):
            for layer, after, before in steps:
                found[layer][after, before] = True
    return found


def test_dead_ends_of_a_small_chain() -> None:
    inactive, incomplete = dead_ends(CHAIN)
    assert [neurons.nonzero().flatten().tolist() for neurons in inactive] == [[], [2], [2], []]
    assert [mask.nonzero().tolist() for mask in incomplete] == [[], [[1, 2], [2, 3]], []]


def test_inputs_and_outputs_are_never_inactive() -> None:
    inactive, incomplete = dead_ends([torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)])
    assert [int(neurons.sum()) for neurons in inactive] == [0, 2, 0]
    assert links(incomplete) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("score", SCORES)
def test_the_steps_of_an_update(score: str, seed: int) -> None:
    states = [
        PercolationState(sparsity=0.6, removed=0.4, score=score, step=step, seed=seed, sizes=(4, 4, 3, 3))
        for step in range(4)
    ]
    first, removed, backward, forward = (PercolationSandbox.compute(state) for state in states)
    for before, after in zip(first.present, removed.present, strict=True):
        count = int(before.sum())
        assert int(after.sum()) == count - round(0.4 * count)
        assert not bool((after & ~before).any())
    for result in (removed, backward, forward):  # every link is there, was removed or has been cut
        for whole, *parts in zip(first.present, result.present, result.removed, result.cut, strict=True):
            assert torch.equal(whole, parts[0] | parts[1] | parts[2])
            assert int(whole.sum()) == links(parts)
    assert links(first.removed) == links(first.cut) == links(removed.cut) == 0
    # Backward: every neuron that is heard from is read, and no more is cut than that takes.
    for mask, swept, after in zip(removed.present, backward.present, backward.present[1:], strict=False):
        assert torch.equal(swept, mask & after.any(dim=0)[:, None])
    assert torch.equal(backward.present[-1], removed.present[-1])
    assert all(map(torch.equal, forward.present, on_paths(removed.present)))
    assert links(dead_ends(forward.present)[1]) == 0


def test_the_last_step_is_what_the_core_makes_of_the_first_removal() -> None:
    removed = PercolationSandbox.compute(PercolationState(step=1)).present
    names = [str(layer) for layer in range(len(removed))]
    expected = chts.percolation.percolate(
        dict(zip(names, removed, strict=True)), chts.LayerGraph(chains=(tuple(names),))
    )
    assert all(map(torch.equal, PercolationSandbox.compute(PercolationState(step=3)).present, expected.values()))


def test_the_score_decides_what_is_removed() -> None:
    by_score = [PercolationSandbox.compute(PercolationState(score=score)) for score in SCORES]
    assert links(by_score[0].removed) == links(by_score[1].removed) == 18
    assert not all(map(torch.equal, by_score[0].removed, by_score[1].removed))


def test_the_description_counts_what_is_there() -> None:
    result = PercolationSandbox.compute(PercolationState())
    inactive, incomplete = dead_ends(result.present)
    active = [
        sum(int(mask.any(dim=1).sum()) for mask in on_paths(PercolationSandbox.compute(state).present)[:-1])
        for state in (PercolationState(step=1), PercolationState(step=0))
    ]
    assert result.description == (
        "Step 1: links removed. The initial sparsity is 0.65. Of 61 links, the removal by magnitude cut 18, "
        f"percolation cut 0, and 43 are left ({links(incomplete)} incomplete). Inactive neurons: "
        f"{int(inactive[1].sum())} of 8 in hidden layer 1, "
        f"{int(inactive[2].sum())} of 8 in hidden layer 2. When percolation has cut all "
        f"incomplete links, ANP is {active[0]} / {active[1]} = {active[0] / active[1]:.2f}."
    )
    assert active == [9, 15]


@pytest.mark.parametrize("sparsity", [0.3, 0.95])
@pytest.mark.parametrize("removed", [0.0, 0.9])
@pytest.mark.parametrize("step", range(4))
def test_extremes_of_the_controls_can_be_drawn(sparsity: float, removed: float, step: int) -> None:
    state = PercolationState(sparsity=sparsity, removed=removed, step=step)
    assert f"sparsity is {sparsity:.2f}" in PercolationSandbox.compute(state).description
    assert isinstance(PercolationSandbox.figure(state), Figure)


def test_a_network_that_never_conducted_is_told() -> None:
    state = PercolationState(sparsity=1.0)
    assert PercolationSandbox.compute(state).description.endswith(". No neuron was active at the start.")
    assert figures.to_png(PercolationSandbox.figure(state))


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_network_is_drawn_link_by_link_with_its_counts() -> None:
    none = [torch.zeros_like(mask) for mask in CHAIN]
    removed = [none[0].clone(), *none[1:]]
    removed[0][2, 3] = True
    figure = figures.percolating_network(CHAIN, SIDES, removed=removed, cut=none)
    assert legend(figure) == [
        "removed: 1",
        "cut by percolation: 0",
        "complete so far: 10",
        "incomplete: 2",
        "inactive: 2",
    ]
    drawn = [len(collection.get_segments()) for collection in figure.axes[0].collections]
    assert drawn == [1, 0, 10, 2]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert np.asarray(crosses[0].get_data()).T.tolist() == [[1, 0.5], [2, 1]]
    assert legend(figures.percolating_network(CHAIN, SIDES)) == ["complete so far: 10", "incomplete: 2", "inactive: 2"]


def test_anp_by_sparsity_has_means_and_bands_from_least_to_most() -> None:
    values = torch.tensor([[1.0, 0.5], [0.8, 0.7], [0.9, 0.3]])
    (axes,) = figures.anp_by_sparsity({"WM": values, "RI": torch.ones(3, 2)}, [0.9, 0.99]).axes
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_data()), [[90, 99], [90, 50]], rtol=1e-6)
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (pytest.approx(30), pytest.approx(100))
    assert [line.get_label() for line in axes.lines] == ["WM", "RI"]


def test_neurons_by_layer_has_a_bar_for_each_stage_and_layer() -> None:
    counts = {"WM": {"before": [8, 7], "after": [5, 4]}, "RI": {"before": [8, 7], "after": [8, 6]}}
    figure = figures.neurons_by_layer(counts)
    for axes, stages in zip(figure.axes, counts.values(), strict=True):
        assert [bar.get_height() for bar in axes.patches] == [n for of in stages.values() for n in of]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert legend(figure) == ["before", "after"]


def test_anp_by_epoch_has_a_line_per_seed_in_percent() -> None:
    (axes,) = figures.anp_by_epoch({"WM": [[0.5, 0.25], [0.75, 0.5]], "RI": [[1.0, 1.0]]}).axes
    curves = [np.asarray(line.get_data()).tolist() for line in axes.lines]
    assert curves == [[[0, 1], [50, 25]], [[0, 1], [75, 50]], [[0, 1], [100, 100]]]
    assert [text.get_text() for text in axes.texts] == ["RI", "WM"]  # the higher end first
