"""Percolation: remove what a removal of links has cut off.

A hidden neuron that lost all its incoming or all its outgoing links carries no signal: it is *inactive*. The links it
still has on its other side lead nowhere: they are *incomplete* and go too, which can make further neurons inactive,
backward and forward through the network (paper, Figure 2 c-d).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from chts_core.checks import check_mask


@dataclass(frozen=True)
class LayerGraph:
    """How sparse layers feed each other.

    chains: each a sequence of layer names, where the outputs of one are, neuron by neuron, the inputs of the next.
    """

    chains: tuple[tuple[str, ...], ...] = ()


# Modules that act on each neuron by itself, so that output j of the layer before is input j of the layer after.
_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Dropout,
    nn.BatchNorm1d,
)


def sequential_graph(model: nn.Module, layers: Mapping[str, nn.Linear]) -> LayerGraph:
    """The chains of an MLP: sparse linear layers that follow each other, elementwise modules between them.

    Args:
        model: searched for `nn.Sequential` containers; nested ones are read as one sequence.
        layers: the sparse layers, by the name they have in the masks.
    """
    name_of: dict[nn.Module, str] = {layer: name for name, layer in layers.items()}
    nested = {
        child
        for container in model.modules()
        if isinstance(container, nn.Sequential)
        for child in container
        if isinstance(child, nn.Sequential)
    }
    chains: list[tuple[str, ...]] = []
    for container in model.modules():
        if isinstance(container, nn.Sequential) and container not in nested:
            chains += _chains(container, name_of)
    return LayerGraph(tuple(chains))


def _chains(container: nn.Sequential, name_of: Mapping[nn.Module, str]) -> list[tuple[str, ...]]:
    chains: list[tuple[str, ...]] = []
    chain: list[str] = []
    for module in _leaves(container):
        if module in name_of:
            chain.append(name_of[module])
        elif not isinstance(module, _ELEMENTWISE) and chain:
            chains.append(tuple(chain))
            chain = []
    return [*chains, tuple(chain)] if chain else chains


def _leaves(container: nn.Sequential) -> Iterator[nn.Module]:
    for module in container:
        if isinstance(module, nn.Sequential):
            yield from _leaves(module)
        else:
            yield module


def percolate(masks: Mapping[str, Tensor], graph: LayerGraph) -> dict[str, Tensor]:
    """Remove the incomplete links of inactive neurons, until none is left.

    Each chain is swept backward, which drops the incoming links of neurons without outgoing ones, then forward, which
    drops the outgoing links of neurons without incoming ones. Inputs and outputs of a chain are left alone: what lies
    beyond them is not sparse.

    Args:
        masks: Boolean (out_features, in_features) by layer name; not changed.
        graph: its chains name layers of `masks`.

    Returns:
        New masks for all layers, each a subset of the one given.

    Raises:
        ValueError: if the graph names a layer that has no mask, or two that do not fit together.
    """
    _check_graph(masks, graph)
    result = {name: mask.clone() for name, mask in masks.items()}
    for chain in graph.chains:
        for before, after in reversed(list(pairwise(chain))):
            result[before] &= result[after].any(dim=0)[:, None]
        for before, after in pairwise(chain):
            result[after] &= result[before].any(dim=1)[None, :]
    return result


def active_neurons(masks: Mapping[str, Tensor], graph: LayerGraph) -> dict[str, Tensor]:
    """Which output neurons of each layer are active: linked on both sides once incomplete links are gone.

    Returns:
        Boolean (out_features,) by layer name.
    """
    return {name: mask.any(dim=1) for name, mask in percolate(masks, graph).items()}


def _check_graph(masks: Mapping[str, Tensor], graph: LayerGraph) -> None:
    for name, mask in masks.items():
        check_mask(mask, f"mask {name!r}")
    named = [name for chain in graph.chains for name in chain]
    for name in named:
        if name not in masks:
            raise ValueError(f"the graph names layer {name!r}, which has no mask; the masks are {', '.join(masks)}.")
        if named.count(name) > 1:
            raise ValueError(f"the graph names layer {name!r} twice; each layer belongs to one chain.")
    for chain in graph.chains:
        for before, after in pairwise(chain):
            if masks[before].shape[0] != masks[after].shape[1]:
                raise ValueError(
                    f"layer {before!r} has {masks[before].shape[0]} outputs but {after!r}, next in its chain, has "
                    f"{masks[after].shape[1]} inputs; chain only layers that feed each other neuron by neuron."
                )
