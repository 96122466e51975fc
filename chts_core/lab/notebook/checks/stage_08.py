"""Checks of stage 08, the translation Transformer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.train import translation
from chts_core.topology import link_count

Shapes = dict[str, tuple[int, ...]]
_HEAD = chts.LayerGraph(attentions=(chts.Attention("q", "k", "v", "o", heads=1, key_heads=1),))


def attend(attend: Callable[[Tensor, dict[str, Tensor], dict[str, Tensor]], Tensor]) -> None:
    """Exercise "One head with a mask": write a function that mixes the values of a head with sparse layers.

    There are three tokens, four inputs and two neurons, so each mask has eight places.
    """
    x = torch.tensor([[1.0, 0, 2, 1], [0, 1, 1, 0], [2, 1, 0, 1]])
    weights = {
        "q": torch.tensor([[1.0, 2, 0.5, 1], [0.5, 1, 1, 2]]),
        "k": torch.tensor([[0.5, 1, 1, 0.5], [1, 0.5, 2, 1]]),
        "v": torch.tensor([[2.0, 1, 1, 3], [1, 2, 3, 1]]),
    }
    rows = {"q": [[1, 0, 1, 0], [0, 1, 0, 0]], "k": [[0, 1, 0, 1], [1, 0, 0, 0]], "v": [[1, 0, 0, 1], [0, 1, 1, 0]]}
    masks = {name: torch.tensor(row, dtype=torch.bool) for name, row in rows.items()}
    found = attend(x, weights, masks)
    assert found is not None, "attend() returns None; return the mixture with a row per token and a column per neuron."
    assert found.shape == (3, 2), (
        f"the result has shape {tuple(found.shape)}; expected (3, 2) for 3 tokens and 2 neurons."
    )
    mixed = F.scaled_dot_product_attention
    query, key, value = (x @ (weights[name] * masks[name]).T for name in "qkv")
    of_all = [x @ weight.T for weight in weights.values()]
    by_queries = (query @ key.T / math.sqrt(2)).softmax(dim=0)
    slips = {
        "the mixture with the weights of absent links; multiply each weight matrix by its mask": mixed(
            of_all[0], of_all[1], of_all[2]
        ),
        "the mixture if you do not divide the scores by √2; divide them": mixed(query, key, value, scale=1.0),
        "the mixture if you divide the scores by √4; divide them by √2": mixed(query, key, value, scale=0.5),
        "the mixture if the shares of each key sum to 1; the shares of each query must sum to 1": by_queries @ value,
        "the mixture with scores instead of shares; apply the softmax first": query @ key.T / math.sqrt(2) @ value,
        "the matrix of values; mix the values with the shares": value,
        "the mixture if you exchange the queries and the keys; swap them back": mixed(key, query, value),
    }
    for slip, wrong in slips.items():
        assert not torch.allclose(found, wrong, atol=1e-4), f"you return {_shown(found)}. This is {slip}."
    right = mixed(query, key, value)
    assert torch.allclose(found, right, atol=1e-4), f"you return {_shown(found)}; expected {_shown(right)}."


def _shown(mixture: Tensor) -> str:
    return "; ".join(" ".join(f"{value:.3f}" for value in row) for row in mixture.tolist())


def percolate_head(percolate_head: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Exercise "Predict a head's percolation": write a function that removes the links of inactive neurons."""
    rows = {
        "q": [[1, 0], [0, 0], [0, 1], [1, 1]],
        "k": [[0, 1], [1, 1], [0, 0], [1, 0]],
        "v": [[1, 1], [0, 1], [1, 0], [0, 0]],
        "o": [[1, 0, 1, 0], [1, 0, 0, 1]],
    }
    masks = {name: torch.tensor(row, dtype=torch.bool) for name, row in rows.items()}
    given = {name: mask.clone() for name, mask in masks.items()}
    found = percolate_head(masks)
    assert found is not None, "percolate_head() returns None; return a dictionary of masks."
    assert all(masks[name].equal(given[name]) for name in given), (
        "your function changed the masks that it was given; build new masks."
    )
    assert set(found) == set(given), f"return masks of q, k, v and o; you return {', '.join(found)}."
    right = chts.percolation.percolate(given, _HEAD)
    pair, chain = (right[name].any(dim=1) for name in ("q", "v"))
    both = pair & chain
    all_as_one = {name: mask & (both if name == "o" else both[:, None]) for name, mask in given.items()}
    assert not _same(found, all_as_one), (
        "you removed all neurons that are inactive in the pair or in the chain. Treat the pair and the chain "
        "separately. A neuron without queries still has a value. The head still mixes this value, because the other "
        "neurons determine the shares."
    )
    for first, second, what in (
        ("q", "k", "the queries and in the keys"),
        ("v", "o", "the values and in the output layer"),
    ):
        untouched = found[first].equal(given[first]) and found[second].equal(given[second])
        assert not untouched, f"you removed no link of {first} or {second}; an active neuron has links in {what}."
    for name in given:
        more, less = int((found[name] & ~right[name]).sum()), int((right[name] & ~found[name]).sum())
        assert not less, (
            f"you removed {less} links of {name} that carry a signal; which neuron of the head is still active?"
        )
        assert not more, (
            f"you kept {more} links of {name} that lead nowhere. A neuron without links in q must lose its links in k, "
            "and the other way round. The same is true for v and o."
        )
    _compare_with_the_core(percolate_head)


def _compare_with_the_core(percolate_head: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Compare the learner's masks of a square head with the masks of the core.

    In such a head, it is easy to confuse rows and columns.
    """
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(6, 6, generator=generator) < 0.2 for name in "qkvo"}
    found, right = percolate_head(masks), chts.percolation.percolate(masks, _HEAD)
    different = [name for name in masks if not found[name].equal(right[name])]
    assert not different, (
        f"in a head of 6 neurons with 6 inputs, your result for {' and '.join(different)} differs from the core's "
        "result; a neuron is a row of q, k and v, and a column of o."
    )


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in other)


def weights_left(weights_left: Callable[[Shapes, float], dict[str, int]]) -> None:
    """Exercise "Weights of each matrix": write a function for the weights that each parameter keeps at a sparsity."""
    small: Shapes = {
        "embedding.weight": (10, 4),
        "encoder.0.attention_norm.weight": (4,),
        "encoder.0.attention.q_proj.weight": (4, 4),
        "encoder.0.attention.q_proj.bias": (4,),
        "encoder.0.feed_forward.0.weight": (8, 4),
    }
    left = weights_left(small, 0.75)
    assert left is not None, "weights_left() returns None; return a dictionary that maps each name to a number."
    assert isinstance(left, dict), f"you return {left}; return a dictionary with a number for each name."
    assert set(left) == set(small), (
        f"the model has {len(small)} parameters, but you return {len(left)}; return the dense parameters, too."
    )
    slips = {
        ("encoder.0.attention.q_proj.weight", 12): "the number of absent links; a quarter of the 16 places has a link",
        ("encoder.0.attention.q_proj.weight", 16): "the number for a dense matrix; the attention becomes sparse",
        ("encoder.0.feed_forward.0.weight", 32): "the number for a dense matrix; the feed-forward block becomes sparse",
        ("embedding.weight", 10): "the number for a sparse matrix; the embedding is a table and stays dense",
        ("encoder.0.attention.q_proj.bias", 1): "a quarter of the bias; a bias stays dense",
        ("encoder.0.attention_norm.weight", 1): "a quarter of the norm's weights; a norm stays dense",
    }
    for (name, wrong), slip in slips.items():
        assert left[name] != wrong, f"{name} has {wrong} weights in your answer. This is {slip}."
    for name, right in zip(small, (40, 4, 4, 4, 8), strict=True):
        assert left[name] == right, f"{name} with shape {small[name]} keeps {right} weights; you return {left[name]}."
    with torch.device("meta"):
        model = Transformer(11, TRANSFORMER_SIZES["tiny"])
    links = chts.plan(model, "set", 0.95, total_steps=100, update_every=10).budget.links(0)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = weights_left(shapes, 0.95)
    for name, shape in shapes.items():
        right = links.get(name, math.prod(shape))
        assert found[name] == right, (
            f"at 95 % sparsity, {name} with shape {shape} keeps {right} weights; you return {found[name]}."
        )


def decoder_links(decoder_links: float | None) -> None:
    """Exercise "Links of a decoder layer": find the number of links of the layer at 95 % sparsity."""
    assert decoder_links is not None, "replace None in the cell above with a number of links."
    square, fed = 512 * 512, 512 * 1024
    slips = {
        "the number of possible links; find how many links exist at 95 % sparsity": 8 * square + 2 * fed,
        "the number of absent links; count the existing links": 0.95 * (8 * square + 2 * fed),
        "the number for a layer of the encoder; a decoder layer also has cross-attention": 0.05
        * (4 * square + 2 * fed),
        "the number for the attention blocks; add the feed-forward block": 0.05 * 8 * square,
        "the number without one of the two feed-forward matrices; count both": 0.05 * (8 * square + fed),
        "the number for three projections per attention; the fourth is the output projection": 0.05
        * (6 * square + 2 * fed),
    }
    refuse(decoder_links, slips, 10)
    expected = 8 * link_count(512, 512, 0.05) + 2 * link_count(512, 1024, 0.05)
    assert abs(decoder_links - expected) <= 5, f"{decoder_links} is not right; a decoder layer has ten weight matrices."


def learning_rate(learning_rate: Callable[[int, int | None, int], float]) -> None:
    """Exercise "The rate after an update": write a function that returns the learning rate of a step.

    The function gets the step, the step of the last update (or None), and the number of steps until the rate reaches
    the schedule again.
    """
    recipe = translation.Recipe(learning_rate=1.0, warmup=400, iterative_warmup=20)
    for step in (200, 400, 1600):
        rate, right = learning_rate(step, None, 20), translation.learning_rate_at(step, 100, recipe)
        assert rate is not None, "learning_rate() returns None; return a number."
        slips = {
            "the rate without the factor of the width; multiply the rate by 100^-0.5": 10 * right,
            "the rate with the larger of the two terms; the formula uses the smaller term": 0.1
            * max(step**-0.5, step * 400**-1.5),
        }
        for slip, wrong in slips.items():
            same = math.isclose(rate, wrong, rel_tol=1e-3) and not math.isclose(wrong, right, rel_tol=1e-3)
            assert not same, f"at step {step}, before any update, you return {rate:.4f}. This is {slip}."
        assert math.isclose(rate, right, rel_tol=1e-3), (
            f"at step {step}, before any update, you return {rate:.4f}; expected {right:.4f}."
        )
    for step, steps in ((401, 20), (410, 20), (420, 20), (500, 20), (403, 10)):
        rate = learning_rate(step, 400, steps)
        schedule = translation.learning_rate_at(step, 100, recipe)
        share, right = rate / schedule, min(1.0, (step - 400) / steps)
        place = (
            f"if the rate returns over {steps} steps after an update at step 400, your rate at step {step} is "
            f"{share:.0%}"
        )
        assert share < 1.0001, f"{place} of the scheduled rate; the rate must never exceed the scheduled rate."
        assert share < 0.9999 or step > 401, f"{place} of the scheduled rate; after an update, the rate must start low."
        assert not math.isclose(share, (step - 401) / steps, abs_tol=1e-4), (
            f"{place} of the scheduled rate; step 401 is the first of the {steps} steps, so its share is already "
            f"1/{steps}."
        )
        assert math.isclose(share, right, rel_tol=1e-3), f"{place} of the scheduled rate; expected {right:.0%}."


def lead_by_luck(lead_by_luck: Callable[[int, int, float, torch.Generator], float]) -> None:
    """Exercise "A lead by luck": write a function for the mean lead of the best of equally good methods over FC.

    With one rival of FC, the mean lead is 0. The highest of eight normal errors is on average 1.42 standard deviations
    above the mean.
    """

    def lead(rivals: int, seeds: int, deviation: float) -> float:
        return lead_by_luck(rivals, seeds, deviation, torch.Generator().manual_seed(0))

    alone = lead(1, 1, 1.0)
    assert alone is not None, "lead_by_luck() returns None; return a number."
    slips = {
        "the mean of the leads without their signs; keep the sign of each lead": 2 / math.sqrt(math.pi),
        "the lead if FC is also its own rival; compare FC only with the other methods": 1 / math.sqrt(math.pi),
    }
    for slip, wrong in slips.items():
        assert abs(alone - wrong) > 0.06, f"one rival leads by {alone:.2f} on average in your tables. This is {slip}."
    assert abs(alone) < 0.06, f"one rival is as good as FC, so its mean lead is 0; you return {alone:.2f}."
    highest, two = 1.4236, lead(8, 1, 2.0)
    assert abs(two - 2 * highest) < 0.15, (
        f"for 8 rivals, one seed and a standard deviation of 2 BLEU, you return {two:.2f}. With a deviation of 1, you "
        f"return {lead(8, 1, 1.0):.2f}. The lead is proportional to the deviation; expected {2 * highest:.2f} and "
        f"{highest:.2f}."
    )
    four = lead(8, 4, 2.0)
    assert abs(four - 2 * highest) > 0.15, (
        f"with four seeds, you return {four:.2f}, as with one seed; take the mean over the seeds of a method first."
    )
    assert abs(four - highest) < 0.1, (
        f"with four seeds, you return {four:.2f}; the mean over four seeds has half the error of one seed, so the lead "
        f"should be {highest:.2f}."
    )
