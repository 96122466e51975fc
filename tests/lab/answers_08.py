"""Answers to the exercises of stage 08, and slips in them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from answers import cases
from torch import Tensor

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def attend(
    *, masked: bool = True, scale: float | None = None, dim: int | None = 1, order: str = "qkv"
) -> Callable[[Tensor, Tensors, Tensors], Tensor]:
    """An answer to 08.attend, with slips: without masks, another scale, shares over queries or none, an order."""

    def answer(x: Tensor, weights: Tensors, masks: Tensors) -> Tensor:
        query, key, value = (x @ (weights[name] * (masks[name] if masked else 1)).T for name in order)
        scores = query @ key.T * (1 / math.sqrt(len(query.T)) if scale is None else scale)
        return (scores if dim is None else scores.softmax(dim=dim)) @ value

    return answer


def percolate_head(
    *, pair: bool = True, chain: bool = True, either: bool = False, as_one: bool = False, readers: int = 0
) -> Callable[[Tensors], Tensors]:
    """An answer to 08.percolate_head, with slips: no pair, no chain, one side is enough, all sides, rows of o."""

    def answer(masks: Tensors) -> Tensors:
        sides = [mask.any(dim=1) for mask in (masks["q"], masks["k"], masks["v"])] + [masks["o"].any(dim=readers)]
        paired, chained = (a | b if either else a & b for a, b in (sides[:2], sides[2:]))
        if as_one:
            paired = chained = paired & chained
        return {
            "q": masks["q"] & paired[:, None] if pair else masks["q"],
            "k": masks["k"] & paired[:, None] if pair else masks["k"],
            "v": masks["v"] & chained[:, None] if chain else masks["v"],
            "o": masks["o"] & chained if chain else masks["o"],
        }

    return answer


def in_place(masks: Tensors) -> Tensors:
    for name, mask in percolate_head()(masks).items():
        masks[name] &= mask
    return masks


def rows_of_o(masks: Tensors) -> Tensors:
    """Right where the output layer is not square."""
    return percolate_head(readers=1 if masks["o"].shape[0] == masks["o"].shape[1] else 0)(masks)


def q_alone(masks: Tensors) -> Tensors:
    return percolate_head()(masks) | {"k": masks["k"]}


def cut_off(masks: Tensors) -> Tensors:
    return percolate_head()(masks) | {"v": torch.zeros_like(masks["v"])}


def weights_left(
    sparse: Callable[[str, tuple[int, ...]], bool] = lambda name, shape: len(shape) == 2 and "embedding" not in name,
    share: Callable[[float], float] = lambda sparsity: 1 - sparsity,
) -> Callable[[Shapes, float], dict[str, int]]:
    """An answer to 08.weights_left, with slips in what is sparse and in what share is left."""

    def answer(shapes: Shapes, sparsity: float) -> dict[str, int]:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        return {
            name: round(share(sparsity) * size) if sparse(name, shapes[name]) else size for name, size in sizes.items()
        }

    return answer


def rate(
    *,
    width: float = 100,
    choose: Callable[[float, float], float] = min,
    late: int = 0,
    most: float = 1,
    least: float = 0,
) -> Callable[[int, int | None, int], float]:
    """An answer to 08.learning_rate, with slips."""

    def answer(step: int, last_update: int | None, steps: int) -> float:
        schedule: float = width**-0.5 * choose(step**-0.5, step * 400**-1.5)
        if last_update is None:
            return schedule
        return schedule * max(min(most, (step - last_update - late) / steps), least)

    return answer


def lead(
    best: Callable[[Tensor, Tensor], Tensor] = lambda fc, rivals: rivals.max(dim=1).values - fc,
    scatter: Callable[[float, int], float] = lambda deviation, seeds: deviation / math.sqrt(seeds),
) -> Callable[[int, int, float, torch.Generator], float]:
    """An answer to 08.lead_by_luck, with slips in what leads and in how means scatter."""

    def answer(rivals: int, seeds: int, deviation: float, generator: torch.Generator) -> float:
        means = scatter(deviation, seeds) * torch.randn(20_000, 1 + rivals, generator=generator)
        return float(best(means[:, 0], means[:, 1:]).mean())

    return answer


def best_of_all(fc: Tensor, rivals: Tensor) -> Tensor:
    return torch.maximum(fc, rivals.max(dim=1).values) - fc


GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("08.attend", (attend(), "")),
    *cases("08.percolate_head", (percolate_head(), "")),
    *cases("08.weights_left", (weights_left(), "")),
    *cases("08.learning_rate", (rate(), "")),
    *cases("08.lead_by_luck", (lead(), "")),
]

STUBS = [
    *cases("08.attend", (lambda *_: None, "attend() returns None; return the mixture")),
    *cases("08.percolate_head", (lambda _: None, "percolate_head() returns None; return a dictionary of masks.")),
    *cases(
        "08.weights_left",
        (lambda *_: None, "weights_left() returns None; return a dictionary that maps each name to a number."),
    ),
    *cases("08.learning_rate", (lambda *_: None, "learning_rate() returns None; return a number.")),
    *cases("08.lead_by_luck", (lambda *_: None, "lead_by_luck() returns None; return a number.")),
]

SLIPS = [
    *cases(
        "08.attend",
        (lambda x, weights, masks: attend()(x, weights, masks).T, "the result has shape (2, 3); expected (3, 2)"),
        (
            attend(masked=False),
            "This is the mixture with the weights of absent links; multiply each weight matrix by its mask.",
        ),
        (
            attend(scale=1),
            "This is the mixture if you do not divide the scores by √2; divide them.",
        ),
        (
            attend(scale=0.5),
            "This is the mixture if you divide the scores by √4; divide them by √2.",
        ),
        (
            attend(dim=0),
            "This is the mixture if the shares of each key sum to 1; the shares of each query must sum to 1.",
        ),
        (
            attend(dim=None),
            "This is the mixture with scores instead of shares; apply the softmax first.",
        ),
        (
            lambda x, weights, masks: x @ (weights["v"] * masks["v"]).T,
            "This is the matrix of values; mix the values with the shares.",
        ),
        (
            attend(order="kqv"),
            "This is the mixture if you exchange the queries and the keys; swap them back.",
        ),
        (lambda x, weights, masks: attend()(x, weights, masks) + 1, "; expected "),
    ),
    *cases(
        "08.percolate_head",
        (in_place, "your function changed the masks that it was given; build new masks."),
        (lambda masks: {"q": masks["q"]}, "return masks of q, k, v and o; you return q."),
        (
            percolate_head(as_one=True),
            "you removed all neurons that are inactive in the pair or in the chain. Treat the pair and the chain "
            "separately. A neuron ",
        ),
        (
            percolate_head(pair=False),
            "you removed no link of q or k; an active neuron has links in the queries and in the keys.",
        ),
        (
            percolate_head(chain=False),
            "you removed no link of v or o; an active neuron has links in the values and in the output layer.",
        ),
        (
            percolate_head(either=True),
            "you removed no link of q or k; an active neuron has links in the queries and in the keys.",
        ),
        (
            q_alone,
            "you kept 2 links of k that lead nowhere. A neuron without links in q must lose its links in k, and the "
            "other way round.",
        ),
        (cut_off, "links of v that carry a signal; which neuron of the head is still active?"),
        (rows_of_o, "a neuron is a row of q, k and v, and a column of o."),
    ),
    *cases(
        "08.weights_left",
        (lambda *_: 60, "you return 60; return a dictionary with a number for each name."),
        (
            lambda shapes, sparsity: {
                name: left for name, left in weights_left()(shapes, sparsity).items() if "norm" not in name
            },
            "the model has 5 parameters, but you return 4; return the dense parameters, too.",
        ),
        (
            weights_left(share=lambda sparsity: sparsity),
            "12 weights in your answer. This is the number of absent links",
        ),
        (weights_left(lambda name, _: "feed" in name), "the number for a dense matrix; the attention becomes sparse."),
        (
            weights_left(lambda name, shape: "proj" in name and len(shape) == 2),
            "the feed-forward block becomes sparse.",
        ),
        (weights_left(lambda _, shape: len(shape) == 2), "the embedding is a table and stays dense."),
        (
            weights_left(lambda name, _: "proj" in name or "feed" in name),
            "This is a quarter of the bias; a bias stays dense.",
        ),
        (
            weights_left(lambda name, _: "embedding" not in name and "bias" not in name),
            "This is a quarter of the norm's weights; a norm stays dense.",
        ),
        (
            weights_left(share=lambda _: 0.125),
            "encoder.0.attention.q_proj.weight with shape (4, 4) keeps 4 weights; you return 2.",
        ),
        (
            weights_left(share=lambda _: 0.25),
            "% sparsity, encoder.0.attention.q_proj.weight with shape (128, 128) keeps 819 weights; you return 4096.",
        ),
    ),
    *cases(
        "08.learning_rate",
        (rate(width=1), "This is the rate without the factor of the width; multiply the rate by 100^-0.5."),
        (rate(choose=max), "This is the rate with the larger of the two terms; the formula uses the smaller term."),
        (rate(width=50), "at step 200, before any update, you return 0.0035; expected 0.0025."),
        (rate(most=9), "the rate must never exceed the scheduled rate."),
        (rate(least=1), "after an update, the rate must start low."),
        (rate(late=1), "step 401 is the first of the 20 steps, so its share is already 1/20."),
        (
            rate(least=0.4),
            "if the rate returns over 20 steps after an update at step 400, your rate at step 401 is 40% of the "
            "scheduled rate; expected 5%.",
        ),
    ),
    *cases(
        "08.lead_by_luck",
        (
            lead(lambda fc, rivals: (rivals[:, 0] - fc).abs()),
            "This is the mean of the leads without their signs; keep the sign of each lead.",
        ),
        (lead(best_of_all), "This is the lead if FC is also its own rival; compare FC only with the other methods."),
        (
            lead(lambda fc, rivals: rivals.max(dim=1).values - fc + 1),
            "one rival is as good as FC, so its mean lead is 0; you return 1.0",
        ),
        (lead(scatter=lambda deviation, _: math.sqrt(deviation)), "a standard deviation of 2 BLEU, you return 2.0"),
        (
            lead(scatter=lambda deviation, _: deviation),
            "as with one seed; take the mean over the seeds of a method first.",
        ),
        (
            lead(scatter=lambda deviation, seeds: deviation / seeds),
            "the mean over four seeds has half the error of one seed, so the lead should be ",
        ),
    ),
]
