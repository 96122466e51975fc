"""Soft regrowth by a node-based score: random walks draw the links without computing the score.

χ² tests compare these draws with :func:`chts_core.sampling.draw`, which needs the scores of all missing links.

The score of a missing link u–v is S_uv = Σ_z R_U[z, u] A[z, v] + Σ_z A[u, z] R_V[z, v], where R is defined in
:mod:`chts_core.link_prediction`. In the first sum for CH2, each output z that is linked to v and shares P_zu > 0 inputs
with u adds (1 + P_zu) / (d_z - P_zu). Here, d_z - P_zu is the number of inputs of z that are not inputs of u. So the
code draws

    a pair (z, u) with p ∝ 1 + P_zu   (CH3: 1),   then v among these d_z - P_zu inputs, each equally likely.

This gives the link u–v with p ∝ S_uv. The second sum, over the inputs, works in the same way.

P_zu counts the wedges z – x – u (paths of two links), so integers are enough to draw pairs. Each draw takes one of the
wedges (only for CH2) or one of the pairs that share an input, all equally likely. To find a pair that shares an input,
the code draws from the smaller of two sets: all wedges, of which only one per pair counts, or all pairs, of which only
those with a shared input count. A link that was drawn before is skipped, so the draws are without replacement.
:func:`walk_compiled` needs no score, no matrix product and no rounding.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chts_core.compiled.masks import ends, mask_of, positions

# After this number of walks per wanted link, the links that were not found yet are drawn from the scores. This number
# of walks takes about as much work as computing the scores.
_WALKS_PER_LINK = 16
_WALKS_AT_LEAST = 256
_FEWEST_WALKS = 64  # in a round
_WALKS_AT_A_TIME = 2**14  # with one seed, in one thread


def _walk_rounds(num_links: int, propose: Callable[[int, int], int]) -> int:
    """Call propose(walks, left) until all links are found or the walks are used up.

    `propose` returns how many new links it has found in this call.

    Returns:
        How many links were found.
    """
    left, walks = num_links, num_links * 5 // 4
    budget = max(_WALKS_PER_LINK * num_links, _WALKS_AT_LEAST)
    while left and budget:
        walks = min(max(walks, _FEWEST_WALKS), budget)
        budget -= walks
        found = propose(walks, left)
        left -= found
        walks = walks * left * 5 // (4 * found) if found else 4 * walks
    return num_links - left


def _num_pairs(shape: tuple[int, int]) -> int:
    """Number of ordered pairs of different nodes of the same side."""
    return sum(size * (size - 1) for size in shape)


def _running_wedges(start: Tensor) -> Tensor:
    """Running sum, from 0, of the number of ordered pairs of different neighbours that each node has.

    The links of node n begin at start[n].
    """
    degrees = start.diff()
    return F.pad((degrees * (degrees - 1)).cumsum(0), (1, 0))


def walk_compiled(
    links: Tensor, shape: tuple[int, int], num_links: int, inside: bool, generator: torch.Generator
) -> Tensor:
    """Draw up to `num_links` missing links with random walks, on a CPU.

    Args:
        links: positions in the flattened mask, int64 in ascending order.
        shape: (out_features, in_features) of the mask.
        num_links: how many links are wanted.
        inside: True for CH2, False for CH3.

    Returns:
        Positions of new links, in ascending order.
    """
    from chts_core.compiled.lists import set_bits  # Numba takes about a second to import
    from chts_core.compiled.walks import adjacency, propose_links, take_links

    start, neighbours = adjacency(*(nodes.numpy() for nodes in ends(links, shape)), *shape)
    wedges = _running_wedges(torch.from_numpy(start)).numpy()
    if wedges[-1] == 0:
        return links[:0]
    exists = np.zeros((shape[0] * shape[1] + 7) // 8, np.uint8)
    set_bits(exists, links.numpy())
    taken = exists.copy()
    new = np.empty(num_links, np.int64)
    threads = torch.get_num_threads()

    def propose(walks: int, left: int) -> int:
        proposed = np.empty(walks, dtype=np.int64)
        batches = np.split(proposed, range(_WALKS_AT_A_TIME, walks, _WALKS_AT_A_TIME))
        seeds = torch.randint(2**63 - 1, (len(batches),), generator=generator).tolist()

        def walk(seed: int, batch: Any) -> None:
            propose_links(seed, exists, shape, start, neighbours, wedges, _num_pairs(shape), inside, batch)

        if len(batches) == 1 or threads == 1:
            list(map(walk, seeds, batches))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(walk, seeds, batches))
        return int(take_links(proposed, left, taken, new[num_links - left :]))

    found = _walk_rounds(num_links, propose)
    return torch.from_numpy(np.sort(new[:found]))


def walk_batched(
    links: Tensor, shape: tuple[int, int], num_links: int, inside: bool, generator: torch.Generator
) -> Tensor:
    """Like :func:`walk_compiled`, but on any device and with all walks of a round in parallel.

    A matrix product first counts how many neighbours each pair of nodes shares, so no walk needs a second try. A walk
    ends at any of the d_z neighbours of z. If u lacks this neighbour, the walk counts with p ∝ d_z / (d_z - P_zu).
    During a round, the device does not wait for the CPU.
    """
    device, (rows, columns), mask = links.device, shape, mask_of(links, shape)
    by_output, by_input = mask.nonzero()[:, 1] + rows, mask.T.nonzero()[:, 1]
    start = F.pad(torch.cat([mask.sum(1), mask.sum(0)]).cumsum(0), (1, 0))
    neighbours = torch.cat([by_output, by_input])
    wedges, pairs = _running_wedges(start), _num_pairs(shape)
    if not (all_wedges := int(wedges[-1])):
        return links[:0]
    num_wedges, among_all = all_wedges if inside else 0, pairs < all_wedges
    nowhere = mask.numel()
    new = torch.zeros(nowhere + 1, dtype=torch.bool, device=device)  # the last place is for links that do not count
    shared = [count_shared(mask), count_shared(mask.T)]
    most = _greatest_odds(shared)
    shared_by_pair = torch.cat([count.flatten() for count in shared])

    def below(end: Tensor | int, count: int) -> Tensor:
        # The remainder of 62 random bits is nearly uniform: each probability is 1 / end, up to a factor 1 ± end / 2^62.
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
        if not among_all:  # if n wedges join a pair, each of them counts with probability 1 / n
            counts &= any_wedge | (below(common.long().clamp(min=1), walks) == 0)

        link = torch.where(counts, link, nowhere)
        order = torch.arange(walks, device=device)
        earliest = torch.full_like(new, walks, dtype=torch.int64).scatter_reduce_(0, link, order, "amin")
        counts &= earliest[link] == order
        new[torch.where(counts & (counts.cumsum(0) <= left), link, nowhere)] = True
        return min(int(counts.sum()), left)

    _walk_rounds(num_links, propose)
    return positions(new[:-1])


def _ordered_pair(choice: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pair number `choice` of the others · (others + 1) ordered pairs of different numbers in [0, others]."""
    first, second = choice // others, choice % others
    return first, second + (second >= first)


def _lacking_odds(degree: Tensor, common: Tensor) -> Tensor:
    """d_z / (d_z - P_zu) in float64; 0 if z and u share no neighbour, or if u has all of z's neighbours."""
    degree, common = degree.double(), common.double()
    return torch.where((common > 0) & (common < degree), degree / (degree - common).clamp(min=1), 0)


def _greatest_odds(shared: list[Tensor]) -> Tensor:
    """An upper bound on `_lacking_odds`, from the number of neighbours that each pair of nodes shares; float64 ()."""
    parts = [(count / count.diagonal().clamp(min=1)[:, None]).flatten() for count in shared]
    # With 2^14 neighbours, rounding to float32 can make the odds a thousandth too small.
    return 1.001 / (1 - torch.stack([part.masked_fill_(part >= 1, 0).max() for part in parts]).max().double())


def count_shared(mask: Tensor) -> Tensor:
    """Number of columns that two rows share, for every pair of rows: float32, exact up to 2^24."""
    with torch.autocast(mask.device.type, enabled=False):  # bfloat16 cannot hold the counts
        if mask.device.type == "cuda" and _COUNTS_IN_BFLOAT16:
            links = mask.to(torch.bfloat16)  # products of 0 and 1, summed in float32 at the speed of bfloat16
            return torch.mm(links, links.T, out_dtype=torch.float32)
        links = mask.float()
        return links @ links.T


# torch.mm takes out_dtype from torch 2.8 on.
_COUNTS_IN_BFLOAT16 = hasattr(torch.ops.aten.mm, "dtype")
