"""Scores of existing and missing links, and probabilities of draws, implemented a second time from their definitions.

The conformance checks compare the core with these simple versions.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from scipy import stats
from torch import Tensor

from chts_core.choices import MissingLinkScore
from chts_core.lab.verify.published.recordings import Outcome
from chts_core.link_prediction import PREDICTORS
from chts_core.removal import LinkScore, WeightedLinks, scores_of

Links = frozenset[tuple[int, int]]


def links_of(mask: Tensor) -> Links:
    """A mask's links, each as (output, input)."""
    return frozenset((output, source) for output, source in mask.nonzero().tolist())


def mask_of(links: Links, shape: Sequence[int]) -> Tensor:
    """A mask that has only these links."""
    mask = torch.zeros(*shape, dtype=torch.bool)
    for link in links:
        mask[link] = True
    return mask


def best(scores: Tensor, candidates: Tensor, num: int) -> Tensor:
    """The `num` candidates with the highest scores."""
    ranked = sorted(links_of(candidates), key=lambda link: -float(scores[link]))
    return mask_of(frozenset(ranked[:num]), candidates.shape)


def ranked(scores: Tensor, candidates: Tensor, nums: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Select the candidates with the highest scores. Return those that may be selected, and those that must be.

    The two sets differ if candidates with equal scores compete for the last places. The flattened mask consists of
    equal blocks, and `nums` lists how many links to take from each block.
    """
    parts = zip(scores.reshape(len(nums), -1), candidates.reshape(len(nums), -1), nums, strict=True)
    possible, certain = [], []
    for score, candidate, num in parts:
        lowest = score[candidate].sort(descending=True).values[num - 1] if num else math.inf
        possible.append(candidate & (score >= lowest))
        certain.append(possible[-1] & ((score > lowest) | (possible[-1].sum() == num)))
    return torch.stack(possible).view_as(candidates), torch.stack(certain).view_as(candidates)


def removal_scores(score: str | LinkScore, weight: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
    """The removal score of each link, as float64; zero for a missing link."""
    size = (weight.detach() * mask).abs().double()
    if score == "magnitude":
        return size
    if score == "mest":
        return size + 0.01 * (gradient * mask).abs()
    if score == "relative_importance":
        return size / (size.sum(dim=0) + 1e-5) + size / (size.sum(dim=1, keepdim=True) + 1e-5)
    # Here, custom scores and some other scores have no second formula.
    outputs, inputs = mask.nonzero().unbind(1)
    rows, columns = mask.shape
    links = WeightedLinks(outputs, inputs, weight.detach()[mask], gradient[mask], (rows, columns))
    return torch.zeros_like(size).masked_scatter(mask, scores_of(links, score).double())


def missing_scores(score: str | MissingLinkScore, mask: Tensor, gradient: Tensor) -> Tensor:
    """The regrowth score of each missing link, as float64; the values for existing links are not used."""
    if score == "random":
        return torch.ones(mask.shape, dtype=torch.float64)
    if score == "gradient":
        return gradient.abs().double()
    if isinstance(score, str):
        return DEFINITIONS[score](mask) if score in DEFINITIONS else PREDICTORS[score](mask).double()
    return score(mask, gradient if wants_gradient(score) else None).double()


def wants_gradient(score: str | MissingLinkScore) -> bool:
    """Whether a score of missing links depends on the gradient with respect to all weights."""
    return score == "gradient" or getattr(score, "needs_gradient", False) is True


def _by_paths(mask: Tensor, score: Callable[[list[tuple[int, int]], list[tuple[int, int]]], float]) -> Tensor:
    """Score each missing link from its L3 paths.

    `score` receives two lists of pairs (i, e). The first list has two pairs for each path, one for each inner node of
    the path. The second list has each inner node's pair only once, even if the node is on several paths. For each node,
    i is the number of its links inside the local community, and e is the number of its links to nodes outside the local
    community. Links to the two ends of the missing link do not count.
    """
    outputs, inputs = range(mask.shape[0]), range(mask.shape[1])
    inputs_of = {u: {v for v in inputs if mask[u, v]} for u in outputs}
    outputs_of = {v: {u for u in outputs if mask[u, v]} for v in inputs}
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    for u, v in links_of(~mask):
        paths = [(z1, z2) for z1 in inputs_of[u] for z2 in outputs_of[v] if z1 in inputs_of[z2]]
        near_u, near_v = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
        first = {z: (len(outputs_of[z] & near_v), len(outputs_of[z] - near_v - {u})) for z in near_u}
        second = {z: (len(inputs_of[z] & near_u), len(inputs_of[z] - near_u - {v})) for z in near_v}
        on_paths = [node for z1, z2 in paths for node in (first[z1], second[z2])]
        scores[u, v] = score(on_paths, [*first.values(), *second.values()])
    return scores


def _ch2_l3n(mask: Tensor) -> Tensor:
    return _by_paths(mask, lambda _, nodes: sum((1 + i) / (1 + e) for i, e in nodes))


def _ch3_l3p(mask: Tensor) -> Tensor:
    def score(on_paths: list[tuple[int, int]], _: list[tuple[int, int]]) -> float:
        outside = [e for _, e in on_paths]
        return sum(1 / math.sqrt((1 + e1) * (1 + e2)) for e1, e2 in zip(outside[::2], outside[1::2], strict=True))

    return _by_paths(mask, score)


DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {"ch2_l3n": _ch2_l3n, "ch3_l3p": _ch3_l3p}


# --- draws ---


def successive(odds: Mapping[tuple[int, int], float], num: int) -> dict[Links, float]:
    """Probability of every set of `num` links under successive draws; links with zero odds are drawn last."""
    probabilities: dict[Links, float] = {}
    for order in itertools.permutations(odds, num):
        probability, left = 1.0, dict(odds)
        for link in order:
            total = sum(left.values())
            probability *= left[link] / total if total > 0 else 1 / len(left)
            del left[link]
        probabilities[frozenset(order)] = probabilities.get(frozenset(order), 0.0) + probability
    return {links: probability for links, probability in probabilities.items() if probability > 0}


def successive_in_blocks(scores: Tensor, candidates: Tensor, nums: Sequence[int]) -> dict[Links, float]:
    """Like :func:`successive`, but for several equal blocks of the flattened mask.

    `nums` lists how many links to draw from each block.
    """
    block = torch.arange(candidates.numel()).view_as(candidates) // (candidates.numel() // len(nums))
    probabilities: dict[Links, float] = {frozenset(): 1.0}
    for number, num in enumerate(nums):
        odds = {link: float(scores[link]) for link in links_of(candidates & (block == number))}
        here = successive(odds, num)
        probabilities = {one | two: p * q for one, p in probabilities.items() for two, q in here.items()}
    return probabilities


def fits(counts: Counter[Links], probabilities: Mapping[Links, float]) -> Outcome:
    """Chi-square test of counted outcomes. Outcomes that are expected fewer than five times form one group."""
    impossible = counts.keys() - probabilities.keys()
    if impossible:
        return False, f"{sum(counts[links] for links in impossible)} of {counts.total()} outcomes are impossible"
    if len(probabilities) == 1:
        return True, "only one outcome is possible"
    common = [links for links, probability in probabilities.items() if probability * counts.total() >= 5]
    observed = [counts[links] for links in common]
    expected = [probabilities[links] * counts.total() for links in common]
    if counts.total() - sum(expected) >= 5:
        observed.append(counts.total() - sum(observed))
        expected.append(counts.total() - sum(expected))
    scale = sum(observed) / sum(expected)
    pvalue = float(stats.chisquare(observed, [value * scale for value in expected]).pvalue)
    return pvalue > 1e-4, f"p = {pvalue:.3g} over {len(observed)} outcomes, {counts.total()} draws"
