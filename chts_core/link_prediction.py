"""Compute scores of missing links from the topology only, and draw the links to regrow by these scores.

The network of a layer is bipartite, so the shortest path around a missing link u–v has three steps, u – z1 – z2 – v.
The nodes on such paths are the *local community* of u–v. In Cannistraci-Hebb theory, a missing link scores high if the
nodes of its local community link to each other rather than to other nodes. Node z has i_z links inside the local
community and e_z links outside it. A link from z to u or v does not count.

|             | sum over                        | CH2: rewards links inside     | CH3: only penalises links outside |
|-------------|---------------------------------|-------------------------------|-----------------------------------|
| node-based  | nodes z of the local community  | (1 + i_z) / (1 + e_z)         | 1 / (1 + e_z)                     |
| path-based  | paths, product over two nodes   | √ of (1 + i_z) / (1 + e_z)    | √ of 1 / (1 + e_z)                |

A is the mask as a matrix of zeros and ones. P = A Aᵀ counts the inputs that two outputs share, and d = diag P contains
the degrees of the outputs. An output z on a path from u to v has i_z = P_zu and 1 + e_z = d_z - P_zu. So the four
scores need only two matrices, R_U for pairs of outputs and R_V for pairs of inputs:

    R_U[z, u] = 1[P_zu > 0] (1 + P_zu) / max(d_z - P_zu, 1),   R_V[z, v] in the same way from Q = Aᵀ A.

CH3 has no factor 1 + P_zu. The maximum matters only where u and v are already linked.

The four functions take a mask, Boolean (out_features, in_features). They return float32 scores of the same shape and on
the same device, with 0 at existing links. They raise a TypeError or ValueError for anything that is not a mask.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chts_core.checks import check_generator, check_mask
from chts_core.compiled import walk_sampling
from chts_core.compiled.masks import count, mask_of, merged, positions
from chts_core.sampling import draw

Predictor = Callable[[Tensor], Tensor]

# The highest densities at which sparse code is faster than dense code on a CPU, as measured. Sparse products take a
# quarter of the time of dense products at 1 % (1024×1024 and 2048×5461), nine tenths at 5 %, and longer at 10 %.
# Walking the paths takes 0.4 times as long as batched products at 10 %, and 1.4 times as long at 20 % (512×512).
_SPARSE_NODES_UP_TO = 0.05
_WALKED_PATHS_UP_TO = 0.15

# Elements in the largest temporary tensor of the dense path-based score: as many as the caches of a CPU hold, or 256 MB
# on other devices.
_BATCH_ON_CPU = 2**22
_BATCH_ELSEWHERE = 2**26


def ch2_l3n(mask: Tensor) -> Tensor:
    """CH2-L3n, node-based: the sum of (1 + i_z) / (1 + e_z) over nodes z of the local community.

    S = R_Uᵀ A + A R_V, with R from this module's docstring (paper, "Node-based link regrowth"). Dense products cost
    O(N³). For a sparse network on a CPU, the function uses sparse products, which cost O(links · N).
    """
    return _node_based(mask, inside=True)


def ch3_l3n(mask: Tensor) -> Tensor:
    """CH3-L3n, node-based: the sum of 1 / (1 + e_z) over nodes z of the local community.

    The computation costs as much as for CH2-L3n.
    """
    return _node_based(mask, inside=False)


def ch2_l3p(mask: Tensor) -> Tensor:
    """CH2-L3p, path-based: the sum of √((1 + i_z1)(1 + i_z2) / ((1 + e_z1)(1 + e_z2))) over paths u – z1 – z2 – v.

    With R from this module's docstring, S_uv = Σ_z1 Σ_z2 A_u,z1 A_z2,z1 A_z2,v √(R_V[z1, v] R_U[z2, u]) (Muscoloni,
    Michieli and Cannistraci, "Adaptive network automata modelling of complex networks", CH2-L3).

    The square roots depend on both ends of the path, so no fixed number of matrix products gives the score. If the
    network is sparse and on a CPU, compiled code walks the paths one by one. This costs O(N d³) for N outputs of degree
    d. The scores are the same, bit for bit, for any number of threads (torch.get_num_threads()). The first walk in a
    process imports Numba. The first walk on a machine compiles the code, which takes a few seconds. In all other cases,
    matrix products score batches of outputs, which costs O(links · out_features · in_features).
    """
    return _path_based(mask, inside=True)


def ch3_l3p(mask: Tensor) -> Tensor:
    """CH3-L3p, path-based, the score of CHT: the sum of 1 / √((1 + e_z1)(1 + e_z2)) over paths.

    The computation costs as much as for CH2-L3p.
    """
    return _path_based(mask, inside=False)


def _node_based(mask: Tensor, *, inside: bool) -> Tensor:
    check_mask(mask)
    score = _node_based_sparse if _is_sparse(mask, _SPARSE_NODES_UP_TO) else _node_based_dense
    with torch.autocast(mask.device.type, enabled=False):  # bfloat16 cannot hold the counts
        return score(mask, inside).masked_fill_(mask, 0.0)


def _node_based_dense(mask: Tensor, inside: bool) -> Tensor:
    links = mask.to(torch.float32)  # counts up to 2^24 are exact in float32
    of_outputs = _community_ratios(links @ links.T, inside)
    of_inputs = _community_ratios(links.T @ links, inside)
    return of_outputs.T @ links + links @ of_inputs


def _node_based_sparse(mask: Tensor, inside: bool) -> Tensor:
    """The same scores as :func:`_node_based_dense`, from products of sparse matrices."""
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
    """For each output u, one matrix product sums over z1, and another over z2. Outputs are scored in batches."""
    links = mask.to(torch.float32)
    of_outputs = _community_ratios(links @ links.T, inside).sqrt_().T
    of_inputs = _community_ratios(links.T @ links, inside).sqrt_()
    scores = torch.zeros_like(links)
    # Sort by degree, so that the outputs of a batch have similar numbers of inputs. Padding has weight 0.
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
    """The same scores as :func:`_path_based_dense`, computed path by path."""
    from chts_core.compiled.walks import add_paths  # Numba takes about a second to import

    links, transposed = _compressed(mask)
    of_outputs = _community_ratios(_to_dense(links @ transposed), inside).sqrt_().T.contiguous().numpy()
    of_inputs = _community_ratios(_to_dense(transposed @ links), inside).sqrt_().numpy()
    scores = np.zeros(mask.shape, dtype=np.float32)
    threads = torch.get_num_threads()
    # Several batches per thread, since some outputs have more paths than others.
    batch = max(1, mask.shape[0] // (8 * threads))

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
    """Compute R_U or R_V (see the module's docstring) from the number of neighbours that each pair of nodes shares."""
    outside = (shared.diagonal()[:, None] - shared).clamp_min_(1.0)
    ratios = (shared + 1.0).div_(outside) if inside else outside.reciprocal_()
    return ratios.masked_fill_(shared == 0, 0.0)


def _is_sparse(mask: Tensor, density: float) -> bool:
    return mask.device.type == "cpu" and count(mask) <= density * mask.numel()


def _compressed(mask: Tensor) -> tuple[Any, Any]:
    """The links as a SciPy CSR array of float32 ones, and its transpose.

    SciPy's sparse products are fast. Unlike torch's sparse products, they give no warning.
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
    """Draw exactly `num_links` missing links of `mask` to regrow, by the predictor's score.

    A soft draw is without replacement, with p ∝ score; links without a positive score come last, in random order. A
    hard draw takes the highest scores and breaks ties at random (the rule of CHT). The result is a Boolean mask of only
    the new links, on the device of `mask`.

    Soft draws from a node-based score do not compute the score; they use random walks
    (:mod:`chts_core.compiled.walk_sampling`). A walk takes well under a microsecond on a CPU, for any size of the
    layer. If about `num_links` missing links or fewer have a positive score, the walks may not find enough links. Then
    the function computes the scores and draws the remaining links by their scores.

    Args:
        num_links: at most the number of missing links.
        predictor: a name in `PREDICTORS`.
        generator: the work is done on its device. On a CPU, the draws do not depend on the number of threads.

    Raises:
        ValueError: for an unknown predictor, or if `num_links` is larger than the number of missing links.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is {predictor!r}; expected one of {', '.join(map(repr, PREDICTORS))}.")
    check_mask(mask)
    check_generator(generator)
    missing = mask.numel() - count(mask)
    if not 0 <= num_links <= missing:
        raise ValueError(
            f"num_links is {num_links}, but the mask has {missing} missing links; ask for a number between 0 and "
            f"{missing}."
        )
    links = predicted_links(
        positions(mask), (mask.shape[0], mask.shape[1]), num_links, predictor, soft=soft, generator=generator
    )
    return mask_of(links, mask.shape)


def predicted_links(
    links: Tensor, shape: tuple[int, int], num: int, predictor: str, *, soft: bool, generator: torch.Generator
) -> Tensor:
    """Draw `num` links as :func:`sample_links` does, but from a list of links instead of a mask.

    The existing links and the result are positions in the flattened mask, int64 in ascending order.

    Args:
        links: the existing links.
        shape: (out_features, in_features) of the mask.
    """
    new = links[:0]
    if soft and predictor in WALKED:
        walk = walk_sampling.walk_compiled if generator.device.type == "cpu" else walk_sampling.walk_batched
        new = walk(links.to(generator.device), shape, num, predictor == "ch2_l3n", generator).to(links.device)
    if len(new) < num:
        mask = mask_of(links, shape)
        left = ~(mask | mask_of(new, shape))
        more = draw(PREDICTORS[predictor](mask), left, num - len(new), soft=soft, generator=generator)
        new = merged(new, positions(more))[0]
    return new


# The predictors whose soft draws use walks.
WALKED = ("ch2_l3n", "ch3_l3n")

PREDICTORS: dict[str, Predictor] = {"ch2_l3n": ch2_l3n, "ch3_l3n": ch3_l3n, "ch3_l3p": ch3_l3p, "ch2_l3p": ch2_l3p}
