"""Where a missing link is likely: scores from topology alone, and regrowth drawn from them.

The network of a layer is bipartite, so the shortest path around a missing link u–v has three steps,
u – z1 – z2 – v. The nodes on such paths are the *local community* of u–v. Cannistraci-Hebb theory scores a missing
link by how much its local community links within itself rather than outside: i_z counts the links of node z inside the
local community and e_z those outside it, the link to the seed u or v excluded.

|             | sum over                        | CH2: rewards links inside     | CH3: only penalises links outside |
|-------------|---------------------------------|-------------------------------|-----------------------------------|
| node-based  | nodes z of the local community  | (1 + i_z) / (1 + e_z)         | 1 / (1 + e_z)                     |
| path-based  | paths, a product of two nodes   | √ of (1 + i_z) / (1 + e_z)    | √ of 1 / (1 + e_z)                |

With P = A Aᵀ (shared inputs of two outputs) and d = diag P (degrees), an output z on a path to v has i_z = P_zu and
1 + e_z = d_z - P_zu. So one matrix for each side holds all that the four scores need,

    R_U[z, u] = 1[P_zu > 0] (1 + P_zu) / max(d_z - P_zu, 1),   R_V[z, v] likewise from Q = Aᵀ A,

with numerator 1 for CH3. The maximum only matters where u and v are linked already.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chts_core.checks import check_generator, check_mask
from chts_core.sampling import draw

Predictor = Callable[[Tensor], Tensor]

# Densities up to which sparse work is the faster one on a CPU. Measured: sparse products take a quarter of the time of
# dense ones at 1 % (1024×1024 and 2048×5461), nine tenths at 5 %, more at 10 %. Walking the paths takes 0.4 of the time
# of the batched products at 10 % and 1.4 times as long at 20 % (512×512).
_SPARSE_NODES_UP_TO = 0.05
_WALKED_PATHS_UP_TO = 0.15

# Numbers in the largest temporary of the dense path-based score: what caches hold on a CPU, else 256 MB.
_BATCH_ON_CPU = 2**22
_BATCH_ELSEWHERE = 2**26


def ch2_l3n(mask: Tensor) -> Tensor:
    """CH2-L3n, the node-based score: the sum of (1 + i_z) / (1 + e_z) over nodes z of the local community.

    As matrices S = R_Uᵀ A + A R_V, with R of this module's docstring (paper, "Node-based link regrowth").
    O(N³) as dense products; where the network is sparse on a CPU, sparse products need O(links · N).

    Args:
        mask: Boolean (out_features, in_features).

    Returns:
        float32 scores of the missing links, same shape and device; 0 on existing links.

    Raises:
        TypeError, ValueError: if mask is not a 2-D Boolean tensor.
    """
    return _node_based(mask, inside=True)


def ch3_l3n(mask: Tensor) -> Tensor:
    """CH3-L3n, the node-based score: the sum of 1 / (1 + e_z) over nodes z of the local community.

    :func:`ch2_l3n` with numerator 1; the same arguments, cost and errors.
    """
    return _node_based(mask, inside=False)


def ch2_l3p(mask: Tensor) -> Tensor:
    """CH2-L3p, the path-based score: the sum of √((1 + i_z1)(1 + i_z2) / ((1 + e_z1)(1 + e_z2))) over L3 paths.

    With R of this module's docstring, S_uv = Σ_z1 Σ_z2 A_u,z1 A_z2,z1 A_z2,v √(R_V[z1, v] R_U[z2, u]) (Muscoloni,
    Michieli and Cannistraci, "Adaptive network automata modelling of complex networks", CH2-L3).
    The roots depend on both ends of the path, so no fixed number of matrix products gives the score. Where the network
    is sparse on a CPU the paths are walked one by one by compiled code, O(N d³) for N outputs of degree d; elsewhere
    the outputs are scored in batches of matrix products, O(links · out_features · in_features).
    The first call in a process imports Numba, and the first on a machine also compiles for some seconds.

    Args:
        mask: Boolean (out_features, in_features).

    Returns:
        float32 scores of the missing links, same shape and device; 0 on existing links. On a CPU the walk's bits do
        not depend on the number of threads, which is torch.get_num_threads().

    Raises:
        TypeError, ValueError: if mask is not a 2-D Boolean tensor.
    """
    return _path_based(mask, inside=True)


def ch3_l3p(mask: Tensor) -> Tensor:
    """CH3-L3p, the path-based score: the sum of 1 / √((1 + e_z1)(1 + e_z2)) over the L3 paths u – z1 – z2 – v.

    :func:`ch2_l3p` with numerator 1; the same arguments, cost and errors. The score of CHT.
    """
    return _path_based(mask, inside=False)


def _node_based(mask: Tensor, *, inside: bool) -> Tensor:
    check_mask(mask)
    score = _node_based_sparse if _is_sparse(mask, _SPARSE_NODES_UP_TO) else _node_based_dense
    with torch.autocast(mask.device.type, enabled=False):  # bfloat16 has no room for the counts
        return score(mask, inside).masked_fill_(mask, 0.0)


def _node_based_dense(mask: Tensor, inside: bool) -> Tensor:
    links = mask.to(torch.float32)  # counts up to 2^24 are exact in float32
    of_outputs = _community_ratios(links @ links.T, inside)
    of_inputs = _community_ratios(links.T @ links, inside)
    return of_outputs.T @ links + links @ of_inputs


def _node_based_sparse(mask: Tensor, inside: bool) -> Tensor:
    links, transposed = _compressed(mask)
    of_outputs = _community_ratios(_to_dense(links @ transposed), inside)
    of_inputs = _community_ratios(_to_dense(transposed @ links), inside)
    scores = torch.from_numpy(links @ of_inputs.numpy())
    return scores.add_(torch.from_numpy(transposed @ of_outputs.numpy()).T)


def _path_based(mask: Tensor, *, inside: bool) -> Tensor:
    check_mask(mask)
    score = _path_based_walk if _is_sparse(mask, _WALKED_PATHS_UP_TO) else _path_based_dense
    with torch.autocast(mask.device.type, enabled=False):
        return score(mask, inside).masked_fill_(mask, 0.0)


def _path_based_dense(mask: Tensor, inside: bool) -> Tensor:
    """The sum over z1 as one matrix product for each output u, that over z2 as another; many outputs at a time."""
    links = mask.to(torch.float32)
    of_outputs = _community_ratios(links @ links.T, inside).sqrt_().T
    of_inputs = _community_ratios(links.T @ links, inside).sqrt_()
    scores = torch.zeros_like(links)
    # By degree, so that the outputs of a batch have about as many inputs each; what is left to pad has weight 0.
    degrees, order = mask.sum(1).sort()
    numbers = _BATCH_ON_CPU if mask.device.type == "cpu" else _BATCH_ELSEWHERE
    batch = max(1, numbers // max(1, links.numel()))
    for first in range(0, len(order), batch):
        outputs = order[first : first + batch]
        linked, inputs = links[outputs].topk(int(degrees[first : first + batch].max()))
        through = links.T[inputs].transpose(1, 2) @ (of_inputs[inputs] * linked[:, :, None])  # (batch, z2, v)
        scores[outputs] = (of_outputs[outputs, None] @ through.mul_(links)).squeeze(1)
    return scores


def _path_based_walk(mask: Tensor, inside: bool) -> Tensor:
    from chts_core._paths import add_paths  # Numba takes about a second to import

    links, transposed = _compressed(mask)
    of_outputs = _community_ratios(_to_dense(links @ transposed), inside).sqrt_().T.contiguous().numpy()
    of_inputs = _community_ratios(_to_dense(transposed @ links), inside).sqrt_().numpy()
    scores = np.zeros(mask.shape, dtype=np.float32)
    threads = torch.get_num_threads()
    batch = max(1, mask.shape[0] // (8 * threads))  # several batches a thread, since some outputs have more paths

    def score(first: int) -> None:
        add_paths(
            first,
            min(first + batch, mask.shape[0]),
            links.indptr,
            links.indices,
            transposed.indptr,
            transposed.indices,
            of_outputs,
            of_inputs,
            scores,
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, range(0, mask.shape[0], batch)))
    return torch.from_numpy(scores)


def _community_ratios(shared: Tensor, inside: bool) -> Tensor:
    """R of the module's docstring, [node, seed], from the neighbours that two nodes of one side share."""
    outside = (shared.diagonal()[:, None] - shared).clamp_min_(1.0)
    ratios = (shared + 1.0).div_(outside) if inside else outside.reciprocal_()
    return ratios.masked_fill_(shared == 0, 0.0)


def _is_sparse(mask: Tensor, density: float) -> bool:
    return mask.device.type == "cpu" and int(mask.count_nonzero()) <= density * mask.numel()


def _compressed(mask: Tensor) -> tuple[Any, Any]:
    """The links as a SciPy CSR array of float32 ones, and its transpose.

    SciPy is as fast here as torch's sparse tensors, whose use warns of a beta state.
    """
    from scipy.sparse import csr_array  # not needed to import chts_core

    links = csr_array(mask.numpy(), dtype=np.float32)
    return links, links.T.tocsr()


def _to_dense(matrix: Any) -> Tensor:
    return torch.from_numpy(matrix.toarray())


def sample_links(
    mask: Tensor,
    num_links: int,
    predictor: str = "ch2_l3n",
    *,
    soft: bool = True,
    generator: torch.Generator,
) -> Tensor:
    """Regrow: draw exactly `num_links` missing links of `mask`, with p ∝ the predictor's score.

    Soft draws without replacement; links without a positive score come only when no other is left, at random.
    Hard takes the highest scores, ties at random (the rule of CHT).

    Soft draws from a node-based score never compute it: they walk (Section "Walks" of this module). One takes well
    under a microsecond on a CPU, whatever the size of the layer. What the walks do not find - few links have a
    positive score, or nearly all are asked for - is drawn from the scores.

    Args:
        mask: Boolean (out_features, in_features).
        num_links: how many, at most the number of missing links.
        predictor: a name in `PREDICTORS`.
        soft: False for the hard rule.
        generator: the source of randomness; the work happens on its device. On a CPU the draws do not depend on the
            number of threads.

    Returns:
        Boolean mask of the new links only, same shape and device as `mask`.

    Raises:
        ValueError: for an unknown predictor, or more links than are missing.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is {predictor!r}; expected one of {', '.join(map(repr, PREDICTORS))}.")
    check_mask(mask)
    check_generator(generator)
    missing = mask.numel() - int(mask.count_nonzero())
    if not 0 <= num_links <= missing:
        raise ValueError(
            f"{num_links} links were asked for but {missing} are missing; ask for a number between 0 and that."
        )
    new = torch.zeros_like(mask)
    if soft and predictor in WALKED:
        walk = _walk_compiled if generator.device.type == "cpu" else _walk_batched
        new = walk(mask.to(generator.device), num_links, predictor == "ch2_l3n", generator).to(mask.device)
    left = num_links - int(new.count_nonzero())
    if left:
        new |= draw(PREDICTORS[predictor](mask), ~(mask | new), left, soft=soft, generator=generator)
    return new


# --- Walks: node-based scores as random walks ---
#
# Put the definition of R into S_uv = Σ_z R_U[z, u] A[z, v] + Σ_z A[u, z] R_V[z, v]. A missing link u–v gets from each
# output z that shares P_zu > 0 inputs with u, and is linked to v, (1 + P_zu) / (d_z - P_zu) for CH2. But d_z - P_zu is
# the number of inputs of z that u lacks. So drawing
#
#     a pair (z, u) with p ∝ 1 + P_zu   (CH3: 1),   then v among the inputs of z that u lacks, all alike,
#
# gives u–v with p ∝ S_uv, and so it is on the other side. P_zu counts the wedges z – x – u, so that pairs are in turn
# drawn from whole numbers: any wedge, all alike, or any pair that shares something, all alike. The latter are looked
# for among the wedges, of which one per pair counts, or among all pairs, whichever are fewer. Links that were drawn
# before are left out, which is drawing without replacement. No score, no product of matrices, no rounding.

# The predictors whose soft draws are walks.
WALKED = ("ch2_l3n", "ch3_l3n")

# Walks per link asked for, after which the rest is drawn from the scores: about as much work as those are.
_WALKS_PER_LINK = 16
_WALKS_AT_LEAST = 256
_FEWEST_WALKS = 64  # of a round
_WALKS_AT_A_TIME = 2**14  # with one seed, in one thread


def _walk_rounds(num_links: int, propose: Callable[[int, int], int]) -> None:
    """Call propose(walks, left), which says how many links it found, until none is left or walks get too many."""
    left, walks = num_links, num_links * 5 // 4
    budget = max(_WALKS_PER_LINK * num_links, _WALKS_AT_LEAST)
    while left and budget:
        walks = min(max(walks, _FEWEST_WALKS), budget)
        budget -= walks
        found = propose(walks, left)
        left -= found
        walks = walks * left * 5 // (4 * found) if found else 4 * walks


def _num_pairs(mask: Tensor) -> int:
    """Number of ordered pairs of different nodes of a side."""
    return sum(size * (size - 1) for size in mask.shape)


def _running_wedges(start: Tensor) -> Tensor:
    """Running sum, from 0, of the ordered pairs of different nodes that each node joins; its links begin at `start`."""
    degrees = start.diff()
    return F.pad((degrees * (degrees - 1)).cumsum(0), (1, 0))


def _walk_compiled(mask: Tensor, num_links: int, inside: bool, generator: torch.Generator) -> Tensor:
    """Up to `num_links` missing links by walks, on a CPU."""
    from chts_core._paths import adjacency, propose_links, take_links  # Numba takes about a second to import

    array = mask.contiguous().numpy()
    start, neighbours = adjacency(array)
    wedges = _running_wedges(torch.from_numpy(start)).numpy()
    pairs = _num_pairs(mask)
    new = torch.zeros_like(mask, memory_format=torch.contiguous_format)
    if wedges[-1] == 0:
        return new
    taken = new.view(-1).numpy()
    threads = torch.get_num_threads()

    def propose(walks: int, left: int) -> int:
        links = np.empty(walks, dtype=np.int64)
        batches = np.split(links, range(_WALKS_AT_A_TIME, walks, _WALKS_AT_A_TIME))
        seeds = torch.randint(2**63 - 1, (len(batches),), generator=generator).tolist()

        def walk(seed: int, batch: Any) -> None:
            propose_links(seed, array, start, neighbours, wedges, pairs, inside, batch)

        if len(batches) == 1 or threads == 1:
            list(map(walk, seeds, batches))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(walk, seeds, batches))
        return int(take_links(links, left, taken))

    _walk_rounds(num_links, propose)
    return new


def _walk_batched(mask: Tensor, num_links: int, inside: bool, generator: torch.Generator) -> Tensor:
    """Up to `num_links` missing links by walks, all of a round at a time, on any device.

    The nodes shared by every pair are counted first, by a product of matrices: then a walk needs no second try. It ends
    at any of the d_z neighbours of z, and counts with p ∝ d_z / (d_z - P_zu) if u lacks that one.
    A round has the device wait for nothing until it is over.
    """
    device, (rows, columns) = mask.device, mask.shape
    by_output, by_input = mask.nonzero()[:, 1] + rows, mask.T.nonzero()[:, 1]
    start = F.pad(torch.cat([mask.sum(1), mask.sum(0)]).cumsum(0), (1, 0))
    neighbours = torch.cat([by_output, by_input])
    wedges, pairs = _running_wedges(start), _num_pairs(mask)
    all_wedges = int(wedges[-1])
    new = torch.zeros(mask.numel() + 1, dtype=torch.bool, device=device)  # the last place is for what does not count
    nowhere = mask.numel()
    if all_wedges == 0:
        return new[:-1].view(mask.shape)
    num_wedges = all_wedges if inside else 0
    among_all = pairs < all_wedges
    shared = [_count_products(mask), _count_products(mask.T)]
    # At least the greatest odds: with 2^14 neighbours, rounding to float32 could hide a thousandth of them.
    parts = [(count / count.diagonal().clamp(min=1)[:, None]).flatten() for count in shared]
    most = 1.001 / (1 - torch.stack([part.masked_fill_(part >= 1, 0).max() for part in parts]).max().double())
    shared_by_pair = torch.cat([count.flatten() for count in shared])

    def below(end: Tensor | int, count: int) -> Tensor:
        # The remainder of 62 bits favours no number by more than a part in 2^62 / end.
        return torch.randint(2**62, (count,), generator=generator, device=device) % end

    def propose(walks: int, left: int) -> int:
        choice = below(num_wedges + min(pairs, all_wedges), walks)
        any_wedge = choice < num_wedges
        choice = torch.where(any_wedge, choice, choice - num_wedges)
        between = (torch.searchsorted(wedges, choice, right=True) - 1).clamp_(max=rows + columns - 1)
        first, others = start[between], start.diff()[between] - 1
        z, u = _ordered_pair(choice - wedges[between], others.clamp(min=1))
        z, u = (neighbours[(first + node).clamp_(max=len(neighbours) - 1)] for node in (z, u))
        if among_all:
            of_outputs = choice < rows * (rows - 1)
            offset = torch.where(of_outputs, 0, rows)
            size = torch.where(of_outputs, rows, columns)
            nodes = _ordered_pair(choice - torch.where(of_outputs, 0, rows * (rows - 1)), (size - 1).clamp(min=1))
            z, u = (torch.where(any_wedge, node, other + offset) for node, other in zip((z, u), nodes, strict=True))
        pair = torch.where(z < rows, z * rows + u, rows * rows + (z - rows) * columns + u - rows)
        common = shared_by_pair[pair]
        degree = start.diff()[z]
        v = neighbours[(start[z] + below(degree.clamp(min=1), walks)).clamp_(max=len(neighbours) - 1)]
        link = torch.minimum(u, v) * columns + torch.maximum(u, v) - rows
        coin = torch.rand(walks, dtype=torch.float64, generator=generator, device=device)
        counts = ~mask.flatten()[link] & ~new[link] & (coin * most < _lacking_odds(degree, common))
        if not among_all:  # of all the wedges that join a pair one counts
            counts &= any_wedge | (below(common.long().clamp(min=1), walks) == 0)

        link = torch.where(counts, link, nowhere)
        order = torch.arange(walks, device=device)
        earliest = torch.full_like(new, walks, dtype=torch.int64).scatter_reduce_(0, link, order, "amin")
        counts &= earliest[link] == order
        new[torch.where(counts & (counts.cumsum(0) <= left), link, nowhere)] = True
        return min(int(counts.sum()), left)

    _walk_rounds(num_links, propose)
    return new[:-1].view(mask.shape)


def _ordered_pair(choice: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of different numbers up to `others` that `choice`, below others · (others + 1), stands for."""
    first, second = choice // others, choice % others
    return first, second + (second >= first)


def _lacking_odds(degree: Tensor, common: Tensor) -> Tensor:
    """d_z / (d_z - P_zu) in float64, 0 where a pair shares nothing or u lacks nothing."""
    degree, common = degree.double(), common.double()
    return torch.where((common > 0) & (common < degree), degree / (degree - common).clamp(min=1), 0)


def _count_products(mask: Tensor) -> Tensor:
    """Number of columns that two rows share, for every pair of rows: float32, exact up to 2^24."""
    with torch.autocast(mask.device.type, enabled=False):  # bfloat16 has no room for the counts
        if mask.device.type == "cuda" and _COUNTS_IN_BFLOAT16:
            links = mask.to(torch.bfloat16)  # products of 0 and 1 that are summed in float32, at the speed of bfloat16
            return torch.mm(links, links.T, out_dtype=torch.float32)
        links = mask.float()
        return links @ links.T


# torch.mm takes out_dtype from torch 2.8 on.
_COUNTS_IN_BFLOAT16 = hasattr(torch.ops.aten.mm, "dtype")


PREDICTORS: dict[str, Predictor] = {"ch2_l3n": ch2_l3n, "ch3_l3n": ch3_l3n, "ch3_l3p": ch3_l3p, "ch2_l3p": ch2_l3p}
