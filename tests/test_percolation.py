from collections import OrderedDict
from itertools import pairwise

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import chts_core as chts

CHAIN = chts.LayerGraph(chains=(("first", "second", "third"),))


def as_mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def test_links_into_a_dead_end_go() -> None:
    # Neuron 1 has no outgoing link, so its two incoming links are incomplete.
    masks = {"first": as_mask([[1, 0], [1, 1]]), "second": as_mask([[1, 0], [1, 0]])}
    result = chts.percolation.percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert result["first"].int().tolist() == [[1, 0], [0, 0]]
    assert result["second"].int().tolist() == [[1, 0], [1, 0]]


def test_links_from_a_neuron_without_input_go() -> None:
    masks = {"first": as_mask([[1, 1], [0, 0]]), "second": as_mask([[1, 1], [0, 1]])}
    result = chts.percolation.percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert result["first"].int().tolist() == [[1, 1], [0, 0]]
    assert result["second"].int().tolist() == [[1, 0], [0, 0]]


def test_one_dead_end_can_take_a_whole_path_with_it() -> None:
    # Neuron 1 of each hidden layer leads only to neuron 1 of the next, whose last link is missing: backward.
    # Neuron 0 of the first layer has no input, which cuts off neuron 2 of the second: forward.
    masks = {
        "first": as_mask([[0, 0], [1, 1], [0, 1]]),
        "second": as_mask([[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        "third": as_mask([[1, 0, 1]]),
    }
    result = chts.percolation.percolate(masks, CHAIN)
    assert result["first"].int().tolist() == [[0, 0], [0, 0], [0, 1]]
    assert result["second"].int().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert result["third"].int().tolist() == [[1, 0, 0]]


def test_the_ends_of_a_chain_are_left_alone() -> None:
    # Input 1 and output 1 have no link, which is nobody's dead end.
    masks = {"first": as_mask([[1, 0]]), "second": as_mask([[1], [0]])}
    result = chts.percolation.percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert all(torch.equal(result[name], mask) for name, mask in masks.items())


def test_layers_outside_the_graph_are_left_alone() -> None:
    masks = {"first": as_mask([[1, 0], [0, 0]]), "alone": as_mask([[0, 1], [0, 0]])}
    result = chts.percolation.percolate(masks, chts.LayerGraph((("first",),)))
    assert all(torch.equal(result[name], mask) for name, mask in masks.items())


@st.composite
def chains_of_masks(draw: st.DrawFn) -> dict[str, Tensor]:
    widths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    density = draw(st.floats(0.05, 0.6))
    return {
        f"layer{depth}": torch.rand(after, before, generator=generator) < density
        for depth, (before, after) in enumerate(pairwise(widths))
    }


@given(masks=chains_of_masks())
def test_percolation_is_the_fixpoint_over_single_neurons(masks: dict[str, Tensor]) -> None:
    before = {name: mask.clone() for name, mask in masks.items()}
    graph = chts.LayerGraph((tuple(masks),))
    expected = oracles.percolate(masks, graph.chains)
    result = chts.percolation.percolate(masks, graph)
    again = chts.percolation.percolate(result, graph)
    active = chts.percolation.active_neurons(masks, graph)
    assert result.keys() == masks.keys()
    for name in masks:
        assert torch.equal(result[name], expected[name])
        assert torch.equal(again[name], expected[name])
        assert torch.equal(masks[name], before[name])
        assert active[name].tolist() == [bool(row.any()) for row in expected[name]]


@given(left=chains_of_masks(), right=chains_of_masks())
def test_chains_percolate_each_by_itself(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    masks = {f"left.{name}": mask for name, mask in left.items()} | right
    graph = chts.LayerGraph((tuple(f"left.{name}" for name in left), tuple(right)))
    expected = oracles.percolate(masks, graph.chains)
    result = chts.percolation.percolate(masks, graph)
    assert all(torch.equal(result[name], expected[name]) for name in masks)


def chains_in(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """What is read off a model all of whose linear layers are sparse."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return chts.percolation.sequential_graph(model, layers).chains


def test_graph_of_a_sequential() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert chains_in(model) == (("0", "3", "5"),)


def test_graph_of_nested_sequentials_is_one_chain() -> None:
    inner = nn.Sequential(OrderedDict(up=nn.Linear(2, 3), act=nn.GELU(), down=nn.Linear(3, 2)))
    model = nn.Sequential(OrderedDict(stem=nn.Linear(4, 2), block=inner, head=nn.Linear(2, 2)))
    assert chains_in(model) == (("stem", "block.up", "block.down", "head"),)


@pytest.mark.parametrize("module", [nn.Flatten(), nn.Softmax(dim=1), nn.LayerNorm(3)])
def test_graph_stops_at_modules_that_mix_neurons(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), module, nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert chains_in(model) == (("0",), ("2", "4"))


def test_graph_stops_at_a_dense_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = chts.percolation.sequential_graph(model, {"a": model[0], "c": model[4]})
    assert graph.chains == (("a",), ("c",))


def test_graph_of_sequentials_side_by_side() -> None:
    branch = [nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2)]
    assert chains_in(nn.ModuleList(branch)) == (("0.0", "0.2"), ("1.0", "1.2"))


def test_graph_of_a_model_without_sequentials_is_empty() -> None:
    assert chains_in(nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])) == ()
