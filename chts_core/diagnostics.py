"""Measures of a topology and of its changes.

This module treats a layer as an undirected bipartite network. The outputs and inputs are its nodes. The True entries of
the Boolean mask (out_features, in_features) are its links.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from chts_core.checks import check_features, check_generator, check_mask, check_same_shape
from chts_core.compiled.masks import count
from chts_core.topology import erdos_renyi

# Number of rounds in which links exchange ends.
_ROUNDS = 50
# Number of rows of distances that are in memory at a time.
_CHUNK = 256


def degrees(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Number of links of every output and of every input: int64 (out_features,) and (in_features,)."""
    check_mask(mask)
    return mask.sum(dim=1), mask.sum(dim=0)


def same_degrees(mask: Tensor, *, generator: torch.Generator) -> Tensor:
    """A shuffled network of the same shape. Every output and every input keeps its number of links.

    In each of 50 rounds, the function pairs the links at random. A pair (a, b), (c, d) becomes (a, d), (c, b) with
    probability 1/2. The pair stays as it is if one of the new links already exists, or if another pair of the round
    would make the same link (Maslov & Sneppen 2002, "Specificity and stability in topology of protein networks").
    """
    check_mask(mask)
    check_generator(generator)
    shuffled, columns = mask.clone(memory_format=torch.contiguous_format), mask.shape[1]
    flat = shuffled.view(-1)
    for _ in range(_ROUNDS):
        outputs, inputs = shuffled.nonzero().T
        pairs = len(outputs) // 2
        order = torch.randperm(len(outputs), generator=generator, device=mask.device)
        one, other = order[:pairs], order[pairs : 2 * pairs]
        new = torch.stack((outputs[one] * columns + inputs[other], outputs[other] * columns + inputs[one]))
        _, which, counts = new.unique(return_inverse=True, return_counts=True)
        heads = torch.rand(pairs, generator=generator, device=mask.device) < 0.5
        swapped = heads & (~flat[new] & (counts[which] == 1)).all(dim=0)
        for ends in (one[swapped], other[swapped]):
            flat[outputs[ends] * columns + inputs[ends]] = False
        flat[new[:, swapped]] = True
    return shuffled


def overlap(removed: Tensor, regrown: Tensor) -> float:
    """Share of the regrown links that the same update had removed, |removed ∩ regrown| / |regrown|.

    The overlap is 0 if no link regrew. If it is near 1, the network is in an *epitopological local minimum* (ELM):
    updates no longer change the network (paper, ELM).
    """
    check_mask(removed, "removed")
    check_mask(regrown, "regrown")
    check_same_shape(regrown, removed, "regrown")
    return count(removed & regrown) / max(count(regrown), 1)


def itop_rate(ever_active: Tensor) -> float:
    """In-time over-parametrisation (ITOP): the share of all possible links that were ever active."""
    check_mask(ever_active, "ever_active")
    return count(ever_active) / ever_active.numel()


def clustering(mask: Tensor) -> float:
    """Bipartite clustering coefficient: the share of paths of three links that a fourth link closes into a 4-cycle.

    The coefficient is 4 · (number of 4-cycles) / (number of paths of three links); both numbers are exact. The 4-cycle
    is the shortest cycle of a bipartite network. (Robins & Alexander 2004, "Small worlds among interlocking
    directors".)

    The coefficient is in [0, 1]: 1 for a dense layer, 0 for a tree or a layer without a path of three links.
    """
    check_mask(mask)
    outputs, inputs = degrees(mask)
    # A path of three links consists of a middle link and one other link of each of its two neurons.
    beyond = torch.where(mask, inputs - 1, 0).sum(dim=1)
    paths = _exact_sum((outputs - 1) * beyond)
    # Two neurons that share p neighbours lie on p (p - 1) / 2 cycles. On a given side, a cycle has one such pair. The
    # sum of p (p - 1) counts this pair in both orders, so the sum is four times the number of cycles.
    links = (mask if mask.shape[0] <= mask.shape[1] else mask.T).float()  # counts up to 2^24 are exact in float32
    shared = (links @ links.T).fill_diagonal_(0).long()
    return _exact_sum((shared * (shared - 1)).sum(dim=1)) / max(paths, 1)


def _exact_sum(counts: Tensor) -> int:
    """Sum int64 numbers as Python integers, which do not overflow."""
    return sum(counts.tolist())


@dataclass(frozen=True)
class PathLength:
    """The shortest paths between the neurons of a layer.

    mean: number of links of a shortest path, averaged over the pairs of neurons that a path joins; NaN without links.
    reachable: share of the pairs of neurons that a path joins.
    """

    mean: float
    reachable: float


def path_length(mask: Tensor, *, sources: int | None = None, generator: torch.Generator | None = None) -> PathLength:
    """Characteristic path length: how many links apart two neurons are, on average (Watts & Strogatz 1998).

    The function considers all pairs of different neurons, of both sides, and follows links in both directions. The mean
    leaves out pairs that no path joins. Read the mean together with `reachable`, because a network in pieces has short
    paths within each piece.

    Args:
        sources: number of neurons, at least 1, that the generator draws. The function measures the paths from these
            neurons to all others. By default, every neuron is a source, and the result is exact. The time grows with
            sources × links.
    """
    from scipy.sparse import csgraph

    graph = _graph(mask)
    starts = torch.arange(graph.shape[0])
    if sources is not None:
        check_generator(generator)
        if sources < 1:
            raise ValueError(f"sources is {sources}; expected at least 1 neuron, or None for paths from all neurons.")
        starts = _shuffled(len(starts), generator)[:sources]
    total = pairs = 0
    for some in starts.split(_CHUNK):
        lengths = csgraph.dijkstra(graph, directed=False, unweighted=True, indices=some.numpy())
        joined = lengths[(lengths > 0) & (lengths < math.inf)]
        total += int(joined.sum())
        pairs += len(joined)
    possible = len(starts) * (graph.shape[0] - 1)
    return PathLength(mean=total / pairs if pairs else math.nan, reachable=pairs / possible)


def _shuffled(count: int, generator: torch.Generator | None) -> Tensor:
    where = generator.device if generator is not None else None
    return torch.randperm(count, generator=generator, device=where).cpu()


def _graph(mask: Tensor) -> Any:
    """The layer as a SciPy sparse array over all neurons, outputs first; each link is stored once."""
    import numpy as np
    from scipy.sparse import coo_array

    _check_layer(mask)
    outputs, inputs = mask.cpu().nonzero().T.numpy()
    neurons = sum(mask.shape)
    return coo_array((np.ones(len(outputs)), (outputs, inputs + mask.shape[0])), shape=(neurons, neurons)).tocsr()


def _check_layer(mask: Tensor) -> None:
    check_mask(mask)
    check_features(*mask.shape)


@dataclass(frozen=True)
class SmallWorldness:
    """A layer compared with Erdős–Rényi networks of the same shape and number of links.

    clustering, path_length: the values of the layer.
    null_clustering, null_path_length: means over the Erdős–Rényi networks.
    sigma: small-worldness, (clustering / null_clustering) / (path_length / null_path_length); NaN where it is not
        defined.
    """

    clustering: float
    path_length: float
    null_clustering: float
    null_path_length: float
    sigma: float


def small_worldness(
    mask: Tensor, *, nulls: int = 5, sources: int | None = None, generator: torch.Generator
) -> SmallWorldness:
    """Small-worldness: whether a layer is clustered like a lattice, with paths nearly as short as in a random network.

    σ = (C / C_ER) / (L / L_ER) with C from :func:`clustering` and L from :func:`path_length`. σ is near 1 for an
    Erdős–Rényi network, and clearly above 1 for a small world. (Humphries & Gurney 2008, "Network 'small-world-ness'".)
    A lattice can also have σ > 1, if its clustering outweighs its long paths. So look at C and L too, not only at σ. σ
    is NaN if no null network has a 4-cycle, which can happen with small layers and few links.

    The null networks have the layer's size and number of links but not its degrees. But σ also depends on the degrees.
    Neurons without links raise σ, because the rest of the layer is then denser than the null networks. To measure only
    the neurons with links, pass ``mask[mask.any(1)][:, mask.any(0)]``. If all degrees are small and equal, σ is below 1
    even for a random network.

    Args:
        nulls: number of Erdős–Rényi networks, at least 1.
        sources: the argument of :func:`path_length`, for the layer and for each null network.
    """
    _check_layer(mask)
    check_generator(generator)
    if nulls < 1:
        raise ValueError(f"nulls is {nulls}; expected at least 1 Erdős–Rényi network to compare with.")

    def measure(network: Tensor) -> tuple[float, float]:
        return clustering(network), path_length(network, sources=sources, generator=generator).mean

    out_features, in_features = mask.shape
    density = int(mask.sum()) / mask.numel()
    own_clustering, own_path = measure(mask)
    random = [measure(erdos_renyi(out_features, in_features, density, generator=generator)) for _ in range(nulls)]
    null_clustering, null_path = (sum(values) / nulls for values in zip(*random, strict=True))
    sigma = (own_clustering / null_clustering) / (own_path / null_path) if null_clustering > 0 else math.nan
    return SmallWorldness(own_clustering, own_path, null_clustering, null_path, sigma)


def modularity(mask: Tensor, *, generator: torch.Generator) -> float:
    """Barber's bipartite modularity of the communities that the Louvain method finds.

    Q = (1/m) Σ_uv (A_uv - d_u d_v / m) [u and v in one community], over outputs u and inputs v, with m links. Q is the
    share of links within a community, minus the expected share in a random network with the same degrees. (Barber 2007,
    "Modularity and community detection in bipartite networks".) Communities contain neurons of both sides. Q is in
    [0, 1): 0 for a dense layer, 1 - 1/k for k equal blocks without links between them. Q is NaN without links.

    A random network also has some modularity, and a sparser random network has more. So compare the Q of a layer with
    the Q of an Erdős–Rényi network of the same shape and number of links. Louvain is a heuristic (Blondel et al. 2008),
    so the value is a lower bound on the maximum. The generator decides the order in which Louvain visits the neurons.
    """
    import networkx as nx

    _check_layer(mask)
    check_generator(generator)
    if not mask.any():
        return math.nan
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    # Direct every link from its input to its output. The modularity of directed networks in networkx (Leicht & Newman
    # 2008) is then equal to Barber's modularity. Neurons without links add nothing to it.
    graph = nx.DiGraph()
    graph.add_edges_from((source + mask.shape[0], output) for output, source in mask.nonzero().tolist())
    return float(nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=seed)))


def active_neurons_published(masks: Sequence[Tensor]) -> float:
    """Share of active neurons of a multilayer perceptron, counted as in the first published code.

    The option `--record_anp` of that code switches this count on. An input of any layer counts if it has a link in this
    layer. An output of the last sparse layer counts if it has a link in that layer.
    :meth:`chts_core.sparsifier.Sparsifier.active_neurons` is stricter: it requires links on both sides after incomplete
    links are removed, and leaves out the inputs of the network. Raises a ValueError unless `masks` contains the masks
    of consecutive layers, from first to last.
    """
    if not masks:
        raise ValueError("masks is empty; expected the masks of the sparse layers, from first to last.")
    for mask in masks:
        check_mask(mask)
    for before, after in pairwise(masks):
        if before.shape[0] != after.shape[1]:
            raise ValueError(
                f"a layer of {before.shape[0]} outputs comes before a layer of {after.shape[1]} inputs; expected the "
                "masks of consecutive layers, from first to last."
            )
    linked = [*(mask.any(dim=0) for mask in masks), masks[-1].any(dim=1)]
    return sum(int(active.sum()) for active in linked) / sum(map(len, linked))


@dataclass(frozen=True)
class LayerPercolation:
    """How much of a layer is connected.

    outputs, inputs: share of the outputs and share of the inputs that have a link.
    largest_component: share of all neurons, of both sides, in the largest connected component.
    """

    outputs: float
    inputs: float
    largest_component: float


def layer_percolation(mask: Tensor) -> LayerPercolation:
    """How much of one layer is connected: its linked neurons and its largest connected component.

    A network percolates when one component spans most of it. Without links, each neuron is a component of its own, and
    `largest_component` is 1 / (out_features + in_features). :func:`chts_core.percolation.percolate` follows links
    through the layers of a model.
    """
    import numpy as np
    from scipy.sparse import csgraph

    _check_layer(mask)
    _, component = csgraph.connected_components(_graph(mask), directed=False)
    outputs, inputs = mask.any(dim=1), mask.any(dim=0)
    return LayerPercolation(
        outputs=int(outputs.sum()) / len(outputs),
        inputs=int(inputs.sum()) / len(inputs),
        largest_component=int(np.bincount(component).max()) / len(component),
    )
