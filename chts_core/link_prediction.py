"""Where a missing link is likely: scores from topology alone, and regrowth drawn from them.

The network of a layer is bipartite, so the shortest path around a missing link u–v has three steps,
u – z1 – z2 – v. The nodes on such paths are the *local community* of u–v. Cannistraci-Hebb theory scores a missing
link by how much its local community links within itself rather than outside.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from chts_core.checks import check_mask
from chts_core.sampling import draw

Predictor = Callable[[Tensor], Tensor]


def ch2_l3n(mask: Tensor) -> Tensor:
    """CH2-L3n, the node-based score: the sum of (1 + i_z) / (1 + e_z) over nodes z of the local community.

    i_z counts the links of z inside the local community and e_z those outside it, the link to the seed u or v
    excluded. With P = A Aᵀ (shared inputs of two outputs) and d the degrees, every output z next to v has
    i_z = P_uz and 1 + e_z = d_z - P_uz, which turns the definition into four matrix products:

        S = E_U A + A E_Vᵀ,   E_U[u, z] = 1[P_uz > 0] (P_uz + 1) / max(d_z - P_uz, 1),   E_V likewise on the inputs.

    (Paper, "Node-based link regrowth", O(N³).)

    Args:
        mask: Boolean (out_features, in_features).

    Returns:
        float32 scores of the missing links, same shape and device; 0 on existing links.

    Raises:
        TypeError, ValueError: if mask is not a 2-D Boolean tensor.
    """
    check_mask(mask)
    links = mask.to(torch.float32)  # counts up to 2^24 are exact in float32
    scores = _community_ratios(links) @ links + links @ _community_ratios(links.T).T
    return scores.masked_fill_(mask, 0.0)


def _community_ratios(links: Tensor) -> Tensor:
    """E of :func:`ch2_l3n` for the nodes in the rows of `links`; float32 (rows, rows)."""
    shared = links @ links.T
    outside = (links.sum(1) - shared).clamp_min_(1.0)
    return torch.where(shared > 0, (shared + 1.0) / outside, 0.0)


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

    Returns:
        Boolean mask of the new links only, same shape and device as `mask`.

    Raises:
        ValueError: for an unknown predictor, or more links than are missing.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is {predictor!r}; expected one of {', '.join(map(repr, PREDICTORS))}.")
    return draw(PREDICTORS[predictor](mask), ~mask, num_links, soft=soft, generator=generator)


PREDICTORS: dict[str, Predictor] = {"ch2_l3n": ch2_l3n}
