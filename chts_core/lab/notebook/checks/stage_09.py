"""Checks of stage 09, LLaMA."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.train import language
from chts_core.lab.train.recipes import LanguageRecipe
from chts_core.percolation import Attention, LayerGraph, percolate
from chts_core.tools.planner import Plan


def blocks_and_guesses(num_blocks: int | None, num_guesses: int | None) -> None:
    """Guesses: the number of blocks, and the number of guesses in one epoch."""
    stubs = "replace each None in the cell above with a number."
    assert num_blocks is not None, stubs
    assert num_guesses is not None, stubs
    assert num_blocks != 1030 // 129, (
        f"{num_blocks} is the number of blocks if blocks of 129 tokens share no token; here, neighbouring blocks "
        "share one token."
    )
    assert num_blocks != 9, "9 blocks need 1153 tokens, but the corpus has only 1030."
    assert num_blocks == 1029 // 128, (
        f"{num_blocks} is not the right number of blocks; the model does not guess the first token, because no token "
        "comes before it."
    )
    assert num_guesses != num_blocks * 129, "in a block of 129 tokens, the model makes 128 guesses."
    assert num_guesses == num_blocks * 128, f"{num_guesses} is not right; in each block, the model makes 128 guesses."


def perplexity_and_bits(
    perplexity: Callable[[list[float]], float], bits_per_byte: Callable[[float, int, int], float]
) -> None:
    """Perplexity and bits per byte: a function of probabilities, and a function of a loss in nats."""
    mine = perplexity([1 / 2, 1 / 8])
    assert mine is not None, "perplexity() returns None; return e to the power of the mean of -log p."
    slips = {
        "1 over the mean probability; take the mean of the logarithms": 3.2,
        "the arithmetic mean of 1/p; take the mean of the logarithms": 5.0,
        "1 over the product of all probabilities; divide the sum of the logarithms by the number of "
        "probabilities": 16.0,
        "the mean loss in nats; the perplexity is e to the power of this loss": 2 * math.log(2),
        "the mean loss in bits; the perplexity is 2 to the power of this loss": 2.0,
        "e to the power of a loss in bits; compute the loss with the natural logarithm": math.exp(2),
        "2 to the power of a loss in nats; use e instead of 2": 2 ** (2 * math.log(2)),
        "1 over the perplexity; the loss is the negative logarithm": 0.25,
    }
    refuse(round(mine, 4), slips, 1e-3)
    for chances, right in (([1 / 2, 1 / 8], 4.0), ([0.2, 0.2, 0.2], 5.0), ([1.0, 1 / 8, 1.0], 2.0)):
        mine = perplexity(chances)
        listed = ", ".join(f"{p:g}" for p in chances)
        assert math.isclose(mine, right, rel_tol=1e-6), (
            f"for the probabilities {listed}, you return {mine:g}; expected {right:g}."
        )
    mine = bits_per_byte(2 * math.log(2), 3, 12)
    assert mine is not None, "bits_per_byte() returns None; first turn nats into bits."
    slips = {
        "a number of nats per byte; divide it by log 2, because a bit is log 2 nats": math.log(2) / 2,
        "a number of bits per token; divide the bits of all tokens by the number of bytes": 2.0,
        "the bits per token times the bytes per token; divide the bits by the bytes per token": 8.0,
        "the nats per byte times log 2; a text has fewer nats than bits, so divide by log 2": math.log(2) ** 2 / 2,
    }
    refuse(round(mine, 4), slips, 1e-3)
    assert math.isclose(mine, 0.5, rel_tol=1e-6), (
        f"3 tokens of 2 bits each have 6 bits, which is 0.5 bits for each of 12 bytes; you return {mine:g}."
    )
    for name, value, tokens in (("A", 20, 400), ("B", 40, 250)):
        bits = bits_per_byte(math.log(value), tokens, 1000)
        print(f"model {name}: perplexity {value}, {tokens} tokens for 1000 bytes: {bits:.2f} bits per byte")


def queries_of(queries_of: Callable[[int, int, int, int], Sequence[int]]) -> None:
    """Heads that share a key: a function that returns the query neurons that are multiplied by a given key neuron."""
    for neuron, heads, key_heads, width in ((1, 4, 2, 2), (2, 4, 2, 2), (5, 6, 2, 4), (3, 4, 4, 2), (2, 4, 1, 3)):
        given = queries_of(neuron, heads, key_heads, width)
        assert given is not None, "queries_of() returns None; return a list of neurons."
        mine, right = sorted(given), _lost(neuron, heads, key_heads, width)
        if mine == right:
            continue
        head, within = divmod(neuron, width)
        where = (
            f"for {heads} query heads, {key_heads} key heads, width {width} and key neuron {neuron}, you return {mine}."
        )
        apart = [other * width + within for other in range(head, heads, key_heads)]
        assert mine != apart, (
            f"{where} Neighbouring query heads share a key head: with 4 query heads and 2 key heads, query heads 0 "
            "and 1 share key head 0."
        )
        assert set(mine) > set(right) or not set(right) > set(mine), (
            f"{where} {len(right)} query heads use this key head, so you miss {len(right) - len(mine)} of the query "
            "neurons."
        )
        everything = [other * width + place for other in {query // width for query in right} for place in range(width)]
        assert mine != sorted(everything), (
            f"{where} In each query head that uses this key head, only the neuron at the same place is multiplied by "
            "this key neuron."
        )
        raise AssertionError(
            f"{where} Which key head contains this neuron, which query heads use this key head, and at which place "
            "of the key head is the neuron?"
        )


def _lost(neuron: int, heads: int, key_heads: int, width: int) -> list[int]:
    """The query neurons that lose their links when the core percolates masks in which the key neuron has no links."""
    sizes = {"q": heads * width, "k": key_heads * width, "v": key_heads * width}
    masks = {name: torch.ones(size, 3, dtype=torch.bool) for name, size in sizes.items()}
    masks["o"] = torch.ones(3, heads * width, dtype=torch.bool)
    masks["k"][neuron] = False
    attention = Attention("q", "k", "v", "o", heads=heads, key_heads=key_heads)
    left = percolate(masks, LayerGraph(attentions=(attention,)))
    return [int(query) for query in (~left["q"].any(dim=1)).nonzero().flatten()]


_NEURONS = (
    "has links in all three layers",
    "has no link in `gate`",
    "has no link in `up`",
    "has no link in `down`",
)


def percolate_gate(percolate_gate: Callable[[Tensor, Tensor, Tensor, float], Sequence[Tensor]]) -> None:
    """Percolate a gate: the masks of `gate`, `up` and `down` without the links that lead nowhere.

    One of the four neurons has links in all three layers. Each of the other three has no links in one of the layers.
    """
    gate = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)
    up = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]], dtype=torch.bool)
    down = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    for at_zero, alive in ((0.0, {0}), (0.5, {0, 1})):
        copies = [mask.clone() for mask in (gate, up, down)]
        left = percolate_gate(copies[0], copies[1], copies[2], at_zero)
        assert left is not None, "percolate_gate() returns None; return three masks: gate, up and down."
        assert all(map(torch.equal, copies, (gate, up, down))), (
            "your function changed the masks that it was given; use & instead of &=."
        )
        assert [mask.shape for mask in left] == [mask.shape for mask in copies], (
            "return gate, up and down in this order, each in its old shape."
        )
        for neuron, words in enumerate(_NEURONS):
            kept = {
                "gate": (left[0][neuron], gate[neuron]),
                "up": (left[1][neuron], up[neuron]),
                "down": (left[2][:, neuron], down[:, neuron]),
            }
            for name, (mine, before) in kept.items():
                expected = before & (neuron in alive)
                begins = f"neuron {neuron} {words}. With activation(0) = {at_zero:g}, "
                assert not (mine & ~before).any(), f"{begins}you added a link to `{name}`."
                assert not (expected & ~mine).any(), f"{begins}its links in `{name}` are used, but you removed them."
                assert not (mine & ~expected).any(), f"{begins}its links in `{name}` lead nowhere, but you kept them."
    _compare_gates(percolate_gate)


def _compare_gates(percolate_gate: Callable[[Tensor, Tensor, Tensor, float], Sequence[Tensor]]) -> None:
    """On random masks, compare the learner's masks with the core's.

    The core pairs `gate` and `up` only if activation(0) = 0.
    """
    generator = torch.Generator().manual_seed(9)
    chains, names = (("gate", "down"), ("up", "down")), ("gate", "up", "down")
    for _ in range(5):
        masks = [torch.rand(shape, generator=generator) < 0.2 for shape in ((9, 6), (9, 6), (6, 9))]
        both = percolate(dict(zip(names, masks, strict=True)), LayerGraph(chains=chains, pairs=(("gate", "up"),)))
        alone = percolate({"up": masks[1], "down": masks[2]}, LayerGraph(chains=(("up", "down"),)))
        alone["gate"] = masks[0] & alone["up"].any(dim=1, keepdim=True)
        for at_zero, right in ((0.0, both), (0.5, alone)):
            left = percolate_gate(masks[0], masks[1], masks[2], at_zero)
            mine, expected = (sum(int(m.sum()) for m in found) for found in (left, right.values()))
            assert all(torch.equal(left[number], right[name]) for number, name in enumerate(names)), (
                f"on random masks with activation(0) = {at_zero:g}, you keep {mine} links; expected {expected}."
            )


Shortened = Callable[[LanguageRecipe, float, float], LanguageRecipe | None]
Facts = Callable[[Plan, LanguageRecipe, float], Mapping[str, float] | None]


def planned(shortened: Shortened, facts: Facts) -> None:
    """Plan the 60M model: a function that fits a recipe into a time, and a function that reads a plan."""
    for tokens_per_second, minutes in ((12_000.0, 20.0), (100_000.0, 120.0)):
        recipe = shortened(language.RECIPES["60m"], tokens_per_second, minutes)
        assert recipe is not None, "shortened() returns None; return a recipe with replace(recipe, steps=...)."
        _check_recipe(recipe, tokens_per_second, minutes)
        try:
            plan = language.plan_run("chtss", 0.9, recipe)
        except ValueError as error:
            raise AssertionError(f"the planner refuses your recipe: {error}") from error
        found = facts(plan, recipe, tokens_per_second)
        assert found is not None, "facts() returns None; return a dict with five numbers."
        _check_facts(found, plan, recipe, tokens_per_second)
        print(", ".join(f"{value:,.0f} {name}" for name, value in {"steps": recipe.steps, **found}.items()))


def _check_recipe(recipe: LanguageRecipe, tokens_per_second: float, minutes: float) -> None:
    paper = language.RECIPES["60m"]
    given = f"for {minutes:g} minutes at {tokens_per_second:,.0f} tokens per second,"
    budget, of_step = tokens_per_second * 60 * minutes, paper.batch * paper.context
    slips = {
        "the number of tokens of the whole run; divide it by the number of tokens of a step": int(budget),
        "the number of steps if a step had only one context; a step has a batch of contexts": int(
            budget // paper.context
        ),
        "the number of steps if a context had only one token; a context has 256 tokens": int(budget // paper.batch),
        "the number of steps if the minutes were seconds; a minute has 60 seconds": int(budget // of_step // 60),
        "one step too many; the last step would not end in time": int(budget // of_step) + 1,
    }
    for slip, wrong in slips.items():
        assert recipe.steps != wrong, f"{given} you take {recipe.steps} steps. This is {slip}."
    assert recipe.steps == budget // of_step, f"{given} you take {recipe.steps} steps; a step has {of_step:,} tokens."
    right = max(round(recipe.steps / 100), 1)
    assert recipe.update_every != 100, (
        f"{given} you update every 100 steps, but the run has {recipe.steps} steps. Update after each hundredth of "
        "the run."
    )
    assert recipe.update_every == right, f"{given} you update every {recipe.update_every} steps; expected {right}."
    right = max(recipe.steps // 10, 1)
    assert recipe.warmup != paper.warmup, (
        f"{given} the warm-up has {paper.warmup} steps, but the whole run has {recipe.steps} steps; "
        "expected a tenth of these steps."
    )
    assert abs(recipe.warmup - right) <= 1, f"{given} the warm-up has {recipe.warmup} steps; expected {right}."
    assert recipe.iterative_warmup == 0, f"iterative_warmup is {recipe.iterative_warmup}; set it to 0."
    ours = ("steps", "update_every", "warmup", "iterative_warmup")
    changed = [name for name, value in asdict(recipe).items() if name not in ours and value != getattr(paper, name)]
    assert not changed, (
        f"you changed {', '.join(changed)}, so your recipe describes a different run. Change only {', '.join(ours)}."
    )


def _check_facts(found: Mapping[str, float], plan: Plan, recipe: LanguageRecipe, tokens_per_second: float) -> None:
    tokens = recipe.steps * recipe.batch * recipe.context
    seconds = tokens / tokens_per_second
    of_layer, at_first = (
        {name: number for name, number in plan.budget.links(step).items() if ".layers.0." in name}
        for step in (recipe.steps, 0)
    )
    links, size = sum(of_layer.values()), sum(plan.memory.values())
    right = {
        "links": links,
        "updates": len(plan.budget.updates()),
        "tokens": tokens,
        "minutes": seconds / 60,
        "MiB": size / 2**20,
    }
    slips: dict[str, dict[str, float]] = {
        "links": {
            "the number of links at the first step; CHTss starts with half of the possible links and removes most of "
            "them": sum(at_first.values()),
            "the number of possible links; count the existing links": sum(
                math.prod(plan.budget.shapes[name]) for name in of_layer
            ),
            "the number of links in all layers; count the links of one layer": sum(
                plan.budget.links(recipe.steps).values()
            ),
            "the number of links in one matrix; the layer has seven matrices": of_layer[next(iter(of_layer))],
        },
        "updates": {
            "the number of updates of a run that updates until its last step; here, the updates end "
            "earlier": recipe.steps // recipe.update_every
        },
        "tokens": {
            "a number of contexts; each context has 256 tokens": recipe.steps * recipe.batch,
            "the number of tokens of one step; count all steps": recipe.batch * recipe.context,
        },
        "minutes": {
            "a number of seconds; return minutes": seconds,
            "a number of hours; return minutes": seconds / 3600,
        },
        "MiB": {
            "a number of bytes; a MiB has 2²⁰ bytes": size,
            "a number of megabytes of 10⁶ bytes; a MiB has 2²⁰ bytes": size / 1e6,
            "only the memory of the weights; add the other parts": plan.memory["weights"] / 2**20,
        },
    }
    for name, value in right.items():
        assert name in found, f"{name!r} is missing; you return {', '.join(map(repr, found))}."
        for slip, wrong in slips[name].items():
            assert not math.isclose(found[name], wrong, rel_tol=1e-3), (
                f"you return {found[name]:,.10g} {name}. This is {slip}."
            )
        assert math.isclose(found[name], value, rel_tol=1e-3), (
            f"you return {found[name]:,.10g} {name}; this number is not right."
        )


def least_step(least_step: Callable[[float], float], still_from: float | None) -> None:
    """The least step: half the distance to the next bfloat16 number, and the smallest weight that never changes."""
    for weight, slips in (
        (
            1.0,
            {"the whole distance to the next number; a step of more than half of this distance is rounded up": 1 / 128},
        ),
        (
            1.9921875,
            {"1/256 of the weight; the distance is the same for all weights from 1 up to 2": 1.9921875 / 256},
        ),
        (2.0, {"the answer for weights from 1 up to 2; at 2, the distance doubles": 1 / 256}),
        (0.3125, {"the answer for weights from 1 up to 2; below 1, the distance halves": 1 / 256}),
        (96.0, {}),
    ):
        mine = least_step(weight)
        assert mine is not None, "least_step() returns None; return half the distance to the next number."
        refuse(mine, slips, 1e-9)
        start = torch.tensor(weight)
        less, more = ((start + share * mine).bfloat16() != start for share in (0.98, 1.02))
        assert more, (
            f"at weight {weight:g}, a step of {1.02 * mine:.6f} still has no effect, so {mine:.6f} is too small."
        )
        assert not less, f"at weight {weight:g}, a step of {0.98 * mine:.6f} has an effect, so {mine:.6f} is too large."
    assert still_from is not None, "replace None in the last line of the cell above with a weight."
    slips = {
        "256 times the step; the distance changes only at powers of two": 0.256,
        "512 times the step; the distance changes only at powers of two": 0.512,
        "a weight at which the step is still larger than half the distance": 0.25,
    }
    refuse(still_from, slips, 1e-9)
    assert still_from == 0.5, f"{still_from:g} is not right; try least_step() on both sides of each power of two."


def winners(winners: Callable[[Mapping[str, Mapping[float, float]]], tuple[dict[float, str], str]]) -> None:
    """One rate for all: the best method at each learning rate, and the best method if each uses its own best rate."""
    dense, sparse = {0.001: 5.3, 0.002: 4.8, 0.004: 5.5}, {0.001: 5.4, 0.002: 5.2, 0.004: 4.9}
    for losses, best in (
        ({"fc": dense, "set": sparse}, "fc"),
        ({"set": sparse, "fc": dense, "rigl": {0.001: 5.6, 0.002: 5.5, 0.004: 4.7}}, "rigl"),
        ({"fc": {0.001: 5.0, 0.002: 5.0, 0.004: 5.0}, "set": {0.001: 6.0, 0.002: 4.9, 0.004: 6.0}}, "set"),
    ):
        answer = winners(losses)
        assert answer is not None, (
            "winners() returns None; return a dict with a method for each rate, and the best method."
        )
        assert isinstance(answer, tuple), "return two things: a dict with a method for each rate, and the best method."
        at_each, own = answer
        for rate in (0.001, 0.002, 0.004):
            shown = ", ".join(f"{name} {losses[name][rate]:g}" for name in losses)
            right = min(losses, key=lambda name: losses[name][rate])
            mine = at_each.get(rate)
            assert mine == right, (
                f"at the rate {rate:g}, the losses are {shown}, but you return {mine}. The lowest loss is best."
            )
        means = {name: sum(found.values()) / len(found) for name, found in losses.items()}
        assert own == best or own != min(means, key=lambda name: means[name]), (
            f"{own} has the lowest mean loss over all rates. Compare the losses of the methods at their best rates."
        )
        often = list(at_each.values())
        assert own == best or own != max(losses, key=often.count), (
            f"{own} has the lowest loss at two of the three rates. Compare the losses of the methods at their "
            "best rates."
        )
        lowest = ", ".join(f"{name} {min(found.values()):g}" for name, found in losses.items())
        assert own == best, f"the lowest losses are {lowest}, but you return {own}."
