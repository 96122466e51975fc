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
    """One head with a mask: a function that mixes the values of a head whose layers lack links.

    Three tokens, four inputs and two neurons: each mask has eight places.
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
    assert found is not None, "attend() returns None; return the mixture, a row per token and a column per neuron."
    assert found.shape == (3, 2), f"the result has shape {tuple(found.shape)}; expected (3, 2), 3 tokens and 2 neurons."
    mixed = F.scaled_dot_product_attention
    query, key, value = (x @ (weights[name] * masks[name]).T for name in "qkv")
    of_all = [x @ weight.T for weight in weights.values()]
    by_queries = (query @ key.T / math.sqrt(2)).softmax(dim=0)
    slips = {
        "with the weights of absent links; multiply each weight by its mask": mixed(of_all[0], of_all[1], of_all[2]),
        "the mixture if the scores are not divided by √2": mixed(query, key, value, scale=1.0),
        "the mixture if the scores are divided by √4; this head has 2 neurons": mixed(query, key, value, scale=0.5),
        "the mixture if the shares of all queries sum to 1; those of each query must": by_queries @ value,
        "the mixture by scores that no softmax has turned into shares": query @ key.T / math.sqrt(2) @ value,
        "the values alone; mix them by the shares": value,
        "the mixture with queries and keys exchanged": mixed(key, query, value),
    }
    for slip, wrong in slips.items():
        assert not torch.allclose(found, wrong, atol=1e-4), f"{_told(found)} is {slip}."
    right = mixed(query, key, value)
    assert torch.allclose(found, right, atol=1e-4), f"you have {_told(found)}; expected {_told(right)}."


def _told(mixture: Tensor) -> str:
    return "; ".join(" ".join(f"{value:.3f}" for value in row) for row in mixture.tolist())


def percolate_head(percolate_head: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Percolation of a head: a function that removes the links of its inactive neurons, as the core does."""
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
        "your function changed the masks that it was given; build new ones."
    )
    assert set(found) == set(given), f"return masks of q, k, v and o; you return {', '.join(found)}."
    right = chts.percolation.percolate(given, _HEAD)
    pair, chain = (right[name].any(dim=1) for name in ("q", "v"))
    both = pair & chain
    all_as_one = {name: mask & (both if name == "o" else both[:, None]) for name, mask in given.items()}
    assert not _same(found, all_as_one), (
        "you cut every neuron that is inactive on any side. Pair and chain are separate: a neuron without queries "
        "still has a value, which the shares of the other neurons mix."
    )
    for first, second, what in (("q", "k", "both the queries and the keys"), ("v", "o", "the values, and a reader")):
        untouched = found[first].equal(given[first]) and found[second].equal(given[second])
        assert not untouched, f"nothing of {first} and {second} was cut; a neuron needs links in {what}."
    for name in given:
        more, less = int((found[name] & ~right[name]).sum()), int((right[name] & ~found[name]).sum())
        assert not less, (
            f"you cut {less} links of {name} that carry a signal; which neuron of the head is still active?"
        )
        assert not more, (
            f"{more} links of {name} that lead nowhere are left; does the other side of the neuron have links?"
        )
    _compare_with_the_core(percolate_head)


def _compare_with_the_core(percolate_head: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """A square head, where rows and columns of the output layer are easily confused."""
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(6, 6, generator=generator) < 0.2 for name in "qkvo"}
    found, right = percolate_head(masks), chts.percolation.percolate(masks, _HEAD)
    different = [name for name in masks if not found[name].equal(right[name])]
    assert not different, (
        f"in a head of 6 neurons with 6 inputs, {' and '.join(different)} is not as the core leaves it; "
        "a neuron is a row of q, k and v, and a column of o."
    )


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in other)


def weights_left(weights_left: Callable[[Shapes, float], dict[str, int]]) -> None:
    """Weights of each matrix: a function that returns how many weights each parameter keeps at a sparsity."""
    small: Shapes = {
        "embedding.weight": (10, 4),
        "encoder.0.attention_norm.weight": (4,),
        "encoder.0.attention.q_proj.weight": (4, 4),
        "encoder.0.attention.q_proj.bias": (4,),
        "encoder.0.feed_forward.0.weight": (8, 4),
    }
    left = weights_left(small, 0.75)
    assert left is not None, "weights_left() returns None; return a dictionary of numbers by name."
    assert isinstance(left, dict), f"you return {left}; return a number for each name."
    assert set(left) == set(small), f"{len(small)} parameters were given, you return {len(left)}; dense ones count too."
    slips = {
        ("encoder.0.attention.q_proj.weight", 12): "the number of absent links; a quarter of 4 · 4 is present",
        ("encoder.0.attention.q_proj.weight", 16): "right for a dense matrix; the attention becomes sparse",
        ("encoder.0.feed_forward.0.weight", 32): "right for a dense matrix; the feed-forward block becomes sparse",
        ("embedding.weight", 10): "right for a sparse matrix; the embedding is a table and stays dense",
        ("encoder.0.attention.q_proj.bias", 1): "a quarter of a bias; a bias stays as it is",
        ("encoder.0.attention_norm.weight", 1): "a quarter of a norm; a norm stays as it is",
    }
    for (name, wrong), slip in slips.items():
        assert left[name] != wrong, f"{name} has {wrong} weights in your answer. This is {slip}."
    for name, right in zip(small, (40, 4, 4, 4, 8), strict=True):
        assert left[name] == right, f"{name} has shape {small[name]}; {right} weights are left, you have {left[name]}."
    with torch.device("meta"):
        model = Transformer(11, TRANSFORMER_SIZES["tiny"])
    links = chts.plan(model, "set", 0.95, total_steps=100, update_every=10).budget.links(0)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = weights_left(shapes, 0.95)
    for name, shape in shapes.items():
        right = links.get(name, math.prod(shape))
        assert found[name] == right, f"of {name}, {shape}, a run at 95 % sparsity has {right}; you have {found[name]}."


def decoder_links(decoder_links: float | None) -> None:
    """Links of a decoder layer: how many links the layer has."""
    assert decoder_links is not None, "replace None in the cell above by a number of links."
    square, fed = 512 * 512, 512 * 1024
    slips = {
        "the number of possible links; how many are kept at 95 % sparsity?": 8 * square + 2 * fed,
        "the number of absent links": 0.95 * (8 * square + 2 * fed),
        "right for a layer of the encoder; the decoder also has a cross-attention": 0.05 * (4 * square + 2 * fed),
        "right for the attention blocks; the feed-forward block is missing": 0.05 * 8 * square,
        "one layer of the feed-forward block short: it has two": 0.05 * (8 * square + fed),
        "right for three projections; each attention has a fourth, the output": 0.05 * (6 * square + 2 * fed),
    }
    refuse(decoder_links, slips, 10)
    expected = 8 * link_count(512, 512, 0.05) + 2 * link_count(512, 1024, 0.05)
    assert abs(decoder_links - expected) <= 5, f"{decoder_links} is not right; the layer has ten linear layers."


def learning_rate(learning_rate: Callable[[int, int | None, int], float]) -> None:
    """The rate after an update: a function that takes the step, the latest update and the steps of the return."""
    recipe = translation.Recipe(learning_rate=1.0, warmup=400, iterative_warmup=20)
    for step in (200, 400, 1600):
        rate, right = learning_rate(step, None, 20), translation.learning_rate_at(step, 100, recipe)
        assert rate is not None, "learning_rate() returns None; return a number."
        slips = {
            "without the width: multiply by 100^-0.5": 10 * right,
            "the larger of the two branches; the rate is the smaller one": 0.1 * max(step**-0.5, step * 400**-1.5),
        }
        for slip, wrong in slips.items():
            same = math.isclose(rate, wrong, rel_tol=1e-3) and not math.isclose(wrong, right, rel_tol=1e-3)
            assert not same, f"at step {step}, before any update, you have {rate:.4f}. This is {slip}."
        assert math.isclose(rate, right, rel_tol=1e-3), (
            f"at step {step}, before any update, you have {rate:.4f}; by hand it is {right:.4f}."
        )
    for step, steps in ((401, 20), (410, 20), (420, 20), (500, 20), (403, 10)):
        rate = learning_rate(step, 400, steps)
        schedule = translation.learning_rate_at(step, 100, recipe)
        share, right = rate / schedule, min(1.0, (step - 400) / steps)
        place = f"at step {step}, after an update at step 400 with a return over {steps} steps, you have {share:.0%}"
        assert share < 1.0001, f"{place} of the schedule; the rate never exceeds its schedule."
        assert share < 0.9999 or step > 401, f"{place} of the schedule; the return after the update is missing."
        assert not math.isclose(share, (step - 401) / steps, abs_tol=1e-4), (
            f"{place}; step 401 is the first of the return and has a share of 1/{steps} already."
        )
        assert math.isclose(share, right, rel_tol=1e-3), f"{place} of the schedule; expected {right:.0%}."


def lead_by_luck(lead_by_luck: Callable[[int, int, float, torch.Generator], float]) -> None:
    """A lead by luck: a function that draws tables of equally good methods.

    With one rival the mean lead is 0. The highest of eight normal errors is on average 1.42 standard deviations above
    the mean.
    """

    def lead(rivals: int, seeds: int, deviation: float) -> float:
        return lead_by_luck(rivals, seeds, deviation, torch.Generator().manual_seed(0))

    alone = lead(1, 1, 1.0)
    assert alone is not None, "lead_by_luck() returns None; return a number."
    slips = {
        "the mean distance; a lead has a sign": 2 / math.sqrt(math.pi),
        "the lead of the best of both; FC is not its own rival": 1 / math.sqrt(math.pi),
    }
    for slip, wrong in slips.items():
        assert abs(alone - wrong) > 0.06, f"one rival leads by {alone:.2f} on average. This is {slip}."
    assert abs(alone) < 0.06, f"one rival is as good as FC: it leads by 0 on average, you have {alone:.2f}."
    highest, two = 1.4236, lead(8, 1, 2.0)
    assert abs(two - 2 * highest) < 0.15, (
        f"for 8 rivals, one seed and a standard deviation of 2 BLEU, you return {two:.2f}. With a deviation of 1 it is "
        f"{lead(8, 1, 1.0):.2f}. Both leads grow in proportion: expect {2 * highest:.2f} and {highest:.2f}."
    )
    four = lead(8, 4, 2.0)
    assert abs(four - 2 * highest) > 0.15, (
        f"with four seeds you have {four:.2f}, as with one; take the mean over the seeds of a method first."
    )
    assert abs(four - highest) < 0.1, (
        f"with four seeds you have {four:.2f}; the error of a mean of four is half as large, so expect {highest:.2f}."
    )
