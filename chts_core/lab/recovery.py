"""Hide links of a mask and measure how well scores find them, which is the usual test of link prediction.

The test hides some links of a network. A score then ranks all links that are missing from the remaining network,
including the hidden ones. A good score ranks the hidden links high (Lü & Zhou 2011, "Link prediction in complex
networks: a survey").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from chts_core.checks import check_generator, check_mask, check_same_shape
from chts_core.link_prediction import Predictor, ch2_l3n, ch3_l3n, ch3_l3p


@dataclass(frozen=True)
class Recovery:
    """Two measures of how well a score finds hidden links.

    Both measures are fractions. If several links have equal scores, each measure is the mean over all orders of these
    links.

    precision: if n links are hidden, the share of hidden links among the n missing links with the highest scores.
    auc: probability that a random hidden link scores higher than a random link that never existed (area under the ROC
        curve).
    """

    precision: float
    auc: float


def number_of_paths(mask: Tensor) -> Tensor:
    """Number of L3 paths of every missing link (A Aᵀ A), as float32 in the shape of the mask; 0 for existing links."""
    check_mask(mask)
    links = mask.float()
    return (links @ links.T @ links).masked_fill_(mask, 0.0)


def degree_product(mask: Tensor) -> Tensor:
    """Product of the degrees of a missing link's ends, as float32 in the shape of the mask; 0 for existing links."""
    check_mask(mask)
    links = mask.float()
    return (links.sum(1, keepdim=True) * links.sum(0)).masked_fill_(mask, 0.0)


SCORES: dict[str, Predictor] = {
    "CH2-L3n": ch2_l3n,
    "CH3-L3n": ch3_l3n,
    "CH3-L3p": ch3_l3p,
    "number of paths": number_of_paths,
    "degree product": degree_product,
}


def hide(mask: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Draw some links of a mask uniformly, and return them as a Boolean mask (out_features, in_features).

    Args:
        mask: Boolean (out_features, in_features).
        share: the share of the links that the function hides, in (0, 1); the number of hidden links is rounded.

    Raises:
        ValueError: if the share hides no link or all links.
    """
    check_mask(mask)
    check_generator(generator)
    links = mask.nonzero()
    count = round(share * len(links))
    if not 0 < count < len(links):
        raise ValueError(
            f"share is {share}, which hides {count} of {len(links)} links; choose a share that hides at least "
            "one link, but not all links."
        )
    chosen = links[torch.randperm(len(links), generator=generator)[:count]]
    hidden = torch.zeros_like(mask)
    hidden[chosen[:, 0], chosen[:, 1]] = True
    return hidden


def measure(scores: Tensor, seen: Tensor, hidden: Tensor) -> Recovery:
    """Measure how well scores find the hidden links among all links that are missing from `seen`.

    Args:
        scores: (out_features, in_features), computed only from `seen`.
        seen: Boolean, the links that are not hidden.
        hidden: Boolean, the hidden links; there is at least one, and none of them is in `seen`.

    Raises:
        ValueError: if no link is hidden, if every missing link is hidden, or if a hidden link is in `seen`.
    """
    from scipy import stats

    for mask, name in ((seen, "seen"), (hidden, "hidden")):
        check_mask(mask, name)
        check_same_shape(mask, scores, name)
    candidates = ~seen
    count, others = int(hidden.sum()), int((candidates & ~hidden).sum())
    if (hidden & seen).any() or not count or not others:
        raise ValueError(
            f"{count} links are hidden and {others} other links are missing; expected at least one link of each kind, "
            "and no hidden link in seen."
        )
    score, wanted = scores[candidates], hidden[candidates]

    threshold = score.topk(count).values[-1]
    above, equal = score > threshold, score == threshold
    places_left = count - int(above.sum())
    found = int(wanted[above].sum()) + places_left * float(wanted[equal].double().mean())

    ranks = torch.from_numpy(stats.rankdata(score.numpy()))
    auc = (float(ranks[wanted].sum()) - count * (count + 1) / 2) / (count * others)  # Mann and Whitney's U
    return Recovery(precision=found / count, auc=auc)


def by_score(mask: Tensor, share: float, *, generator: torch.Generator) -> dict[str, Recovery]:
    """Hide some links of a mask, and measure how well the scores in `SCORES` and a random score find them.

    The arguments and errors are the same as in :func:`hide`; the generator also draws the random score.
    """
    hidden = hide(mask, share, generator=generator)
    seen = mask & ~hidden
    scores = {name: score(seen) for name, score in SCORES.items()}
    scores["random"] = torch.rand(mask.shape, generator=generator)
    return {name: measure(score, seen, hidden) for name, score in scores.items()}
