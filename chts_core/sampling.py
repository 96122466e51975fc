"""Draw links without replacement, with a soft or a hard rule.

CHTs turns both removal and regrowth into sampling: each link is drawn with probability proportional to its score raised
to the power T (paper, "Cannistraci-Hebb soft removal and regrowth"). T = 0 ignores the score, T = 1 uses it
unchanged, and T → ∞ is the hard rule, which takes the links with the highest scores.
"""

import math

import torch
from torch import Tensor

from chts_core.checks import check_generator, check_mask, check_same_shape
from chts_core.compiled.masks import positions

# Links with score 0 must rank after all others. Float64 Gumbel noise lies in [-6.6, 36.8], so a gap of 100 always keeps
# the two groups apart.
_ZERO_SCORE_GAP = 100.0
BLOCK = 2**18  # numbers drawn at a time, 2 MB


def temperature_from_softness(softness: float) -> float:
    """Exponent T = δ / (1 - δ) of the softness δ (paper, soft removal).

    δ = 0.5 gives T = 1, δ = 0.75 gives T = 3, δ = 0.9 gives T = 9 and δ = 1 gives the hard rule, T = ∞.

    Raises:
        ValueError: if softness is outside [0, 1].
    """
    if not 0 <= softness <= 1:
        raise ValueError(f"softness is {softness}; expected δ in [0, 1], for example 0.5 for T = 1.")
    return math.inf if softness == 1 else softness / (1 - softness)


def gumbel(shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in float64; all values are finite.

    The k elements with the highest log p + noise are k draws without replacement.
    """
    return _as_gumbel(torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator))


def _as_gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from numbers in [0, 1), float64. A larger number gives larger noise."""
    # rand can return 0, which would give noise of -inf.
    return -(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()


def draw(
    scores: Tensor,
    candidates: Tensor,
    num: int,
    *,
    temperature: float = 1.0,
    soft: bool = True,
    generator: torch.Generator,
) -> Tensor:
    """Draw exactly `num` of the candidate links, without replacement.

    A soft draw is equivalent to successive draws with p ∝ score^temperature. The function makes this draw in one pass
    (the Gumbel top-k trick). It uses logarithms, so that score^temperature cannot underflow. Candidates with score 0
    come after all others, in random order, unless temperature 0 makes all candidates equally likely. A hard draw takes
    the `num` highest scores and breaks ties at random.

    The draw runs on the generator's device, so a CPU generator gives the same links for weights on any device.

    Args:
        scores: non-negative and finite scores of any float dtype, of shape (out_features, in_features).
        candidates: Boolean, of the same shape; True where a link may be drawn.
        num: how many links to draw, 0 <= num <= candidates.sum().
        temperature: the exponent T >= 0 of a soft draw; math.inf makes it hard.
        soft: False for the hard rule.
        generator: the source of randomness.

    Returns:
        Boolean mask on the device of `scores`, a subset of `candidates` with exactly `num` links.

    Raises:
        TypeError, ValueError: for a wrong dtype or shape, a `num` out of range, or negative or non-finite scores.
    """
    check_mask(candidates, "candidates")
    check_same_shape(scores, candidates, "scores")
    where = positions(candidates)
    chosen = choose(scores.flatten()[where], num, temperature=temperature, soft=soft, generator=generator)
    drawn = torch.zeros(candidates.numel(), dtype=torch.bool, device=candidates.device)
    drawn[where[chosen]] = True
    return drawn.view_as(candidates)


def choose(
    scores: Tensor, num: int, *, temperature: float = 1.0, soft: bool = True, generator: torch.Generator
) -> Tensor:
    """Draw exactly `num` candidates by their scores, a tensor of shape (candidates,). See :func:`draw`.

    Returns:
        Indices of the drawn candidates, int64 (num,), on the device of `scores`, in no particular order.

    Raises:
        TypeError, ValueError: in the same cases as :func:`draw`.
    """
    check_generator(generator)
    _check_num(num, len(scores))
    return _highest(_keys(scores, temperature, soft, generator), num, generator).to(scores.device)


def choose_in_blocks(
    scores: Tensor,
    blocks: Tensor,
    nums: Tensor,
    *,
    temperature: float = 1.0,
    soft: bool = True,
    generator: torch.Generator,
) -> Tensor:
    """Draw exactly nums[b] candidates from each block b; see :func:`choose`.

    Args:
        scores: the score of each candidate, (candidates,).
        blocks: the block of each candidate, int64 (candidates,).
        nums: how many candidates to draw from each block, int64 (number of blocks,); each at least 0 and at most the
            number of candidates of its block.
    """
    check_generator(generator)
    where = generator.device
    keys, blocks, nums = _keys(scores, temperature, soft, generator), blocks.to(where), nums.to(where)
    sizes = torch.bincount(blocks, minlength=len(nums))
    wrong = positions((nums < 0) | (nums > sizes))
    if len(wrong):
        block = int(wrong[0])
        raise ValueError(
            f"{int(nums[block])} links were asked for in block {block}, which has {int(sizes[block])} candidates; ask "
            "for a number between 0 and the number of candidates."
        )
    # Sort by block, then by key. Equal keys are in random order.
    order = torch.randperm(len(keys), generator=generator, device=where)
    order = order[keys[order].argsort(descending=True, stable=True)]
    order = order[blocks[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=where) - (sizes.cumsum(0) - sizes)[blocks[order]]
    return order[rank < nums[blocks[order]]].to(scores.device)


def _keys(scores: Tensor, temperature: float, soft: bool, generator: torch.Generator) -> Tensor:
    """Keys of candidates, float64 on the generator's device: the candidates with the highest keys are drawn."""
    if temperature < 0 or math.isnan(temperature):
        raise ValueError(f"temperature is {temperature}; expected T >= 0. With T = 1, p ∝ score.")
    keys = scores.detach().to(generator.device, torch.float64)
    if not bool((keys.isfinite() & (keys >= 0)).all()):
        raise ValueError(
            "scores contain a negative, infinite or NaN value at a candidate link; expected finite scores >= 0. Check "
            "the weights for divergence, or take the absolute value."
        )
    return _race_keys(keys, temperature, generator) if soft and temperature != math.inf else keys


def draw_missing(links: Tensor, size: int, num: int, *, generator: torch.Generator) -> Tensor:
    """Draw exactly `num` missing links, each equally likely.

    The plain reference (simple version) is :func:`draw` with score 1 for every missing link. Both give the same links.
    On a CPU, this function draws the same uniform numbers in blocks and keeps only the highest ones, so its memory
    grows only with the number of links.

    Args:
        links: the existing links, as positions in the flattened mask, int64 in ascending order.
        size: number of elements of the mask.
        num: how many links to draw, 0 <= num <= number of missing links.
        generator: the source of randomness; the draw runs on its device.

    Returns:
        Positions of the new links, int64 in ascending order, on the device of `links`.

    Raises:
        TypeError, ValueError: in the same cases as :func:`draw`.
    """
    check_generator(generator)
    where = generator.device
    missing = size - len(links)
    _check_num(num, missing)
    # The num-th highest of the uniform numbers is below this bound only about once in a million draws. In that case, we
    # look at all numbers.
    bound = 1 - (num + 5 * math.sqrt(num) + 12) / max(missing, 1)
    start = generator.get_state()
    uniform, rank = _uniform_above(bound, missing, generator)
    if len(uniform) < num:
        generator.set_state(start)
        uniform, rank = _uniform_above(-1.0, missing, generator)
    rank = rank[_highest(_as_gumbel(uniform), num, generator)].sort().values
    # The missing link of rank r is at position r plus the number of existing links before it.
    before = torch.searchsorted(links.to(where) - torch.arange(len(links), device=where), rank, right=True)
    return (rank + before).to(links.device)


def _uniform_above(bound: float, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` uniform numbers. Return the numbers above a bound, float64, and their indices, int64."""
    # A draw in blocks gives the same numbers as a single draw only on a CPU.
    size = BLOCK if generator.device.type == "cpu" else max(count, 1)
    uniform, rank = [], []
    for first in range(0, count, size):
        shape = (min(size, count - first),)
        block = torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator)
        above = positions(block > bound)
        uniform.append(block[above])
        rank.append(above + first)
    if not uniform:
        where = generator.device
        return torch.empty(0, dtype=torch.float64, device=where), torch.empty(0, dtype=torch.long, device=where)
    return torch.cat(uniform), torch.cat(rank)


def keep(
    scores: Tensor,
    mask: Tensor,
    num_keep: int,
    temperature: float = 1.0,
    soft: bool = True,
    *,
    generator: torch.Generator,
) -> Tensor:
    """The links that survive a removal: exactly `num_keep` *existing* links of `mask`.

    See :func:`draw` for the distribution, the arguments and the errors.
    """
    check_mask(mask)
    return draw(scores, mask, num_keep, temperature=temperature, soft=soft, generator=generator)


def _check_num(num: int, candidates: int) -> None:
    if not 0 <= num <= candidates:
        raise ValueError(
            f"{num} links were asked for but there are {candidates} candidates; "
            "ask for a number between 0 and the number of candidates."
        )


def _race_keys(scores: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Random keys. The k highest keys are k successive draws without replacement, with p ∝ score^temperature."""
    noise = gumbel(scores.shape, generator=generator)
    if temperature == 0 or scores.numel() == 0:
        return noise
    log_weights = temperature * scores.log()
    zero = scores == 0
    lowest = log_weights.masked_fill(zero, math.inf).min().nan_to_num(posinf=0.0)
    return log_weights.masked_fill(zero, 0.0) + torch.where(zero, lowest - _ZERO_SCORE_GAP, 0.0) + noise


def _highest(keys: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Indices of the `num` highest keys (1-D). Ties at the threshold are broken at random."""
    if num == 0:
        return keys.new_empty(0, dtype=torch.long)
    threshold = keys.topk(num, sorted=False).values.min()
    above = positions(keys > threshold)
    tied = positions(keys == threshold)
    needed = num - above.numel()
    if needed < tied.numel():
        order = torch.randperm(tied.numel(), generator=generator, device=keys.device)
        tied = tied[order[:needed]]
    return torch.cat([above, tied])
