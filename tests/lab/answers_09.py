"""Answers to the exercises of stage 09, right and wrong."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from answers import cases
from torch import Tensor

from chts_core.lab.train.recipes import LanguageRecipe
from chts_core.tools.planner import Plan

Losses = Mapping[str, Mapping[float, float]]


def perplexity(chances: list[float]) -> float:
    return math.prod(chances) ** (-1 / len(chances))


def bits_per_byte(loss: float, tokens: int, num_bytes: int) -> float:
    return tokens * math.log2(math.exp(loss)) / num_bytes


def queries_of(neuron: int, heads: int, key_heads: int, width: int) -> list[int]:
    """As the core reads it: head h meets head h · key_heads // heads of the keys."""
    return [h * width + neuron % width for h in range(heads) if h * key_heads // heads == neuron // width]


def gated(
    *,
    pair: bool = True,
    read: bool = True,
    always: bool = False,
    rows: bool = True,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """An answer to 09.percolate_gate, with slips: no pair, down aside, the gate needed always, the gate not cut."""

    def answer(gate: Tensor, up: Tensor, down: Tensor, at_zero: float) -> tuple[Tensor, Tensor, Tensor]:
        active = up.any(dim=1)
        if read:
            active = active & down.any(dim=0)
        if pair and (at_zero == 0 or always):
            active = active & gate.any(dim=1)
        return gate & active[:, None] if rows else gate, up & active[:, None], down & active

    return answer


def in_place(gate: Tensor, up: Tensor, down: Tensor, _: float) -> tuple[Tensor, Tensor, Tensor]:
    gate &= up.any(dim=1)[:, None]
    return gate, up, down


def chain_once(gate: Tensor, up: Tensor, down: Tensor, at_zero: float) -> tuple[Tensor, Tensor, Tensor]:
    """Down is cut for neurons without links, and the other links of these neurons stay."""
    heard = up.any(dim=1) & (gate.any(dim=1) | bool(at_zero))
    return gate, up, down & heard


def power_of_two(weight: float) -> float:
    return 2.0 ** math.floor(math.log2(weight))


def least_step(weight: float) -> float:
    mantissa, exponent = math.frexp(weight)
    return math.ldexp(1.0, exponent - 9) if mantissa < 1 else math.nan


def winners(losses: Losses) -> tuple[dict[float, str], str]:
    best = {name: min(found.values()) for name, found in losses.items()}
    return at_each(losses), min(best, key=lambda name: best[name])


def at_each(losses: Losses) -> dict[float, str]:
    rates = next(iter(losses.values()))
    return {rate: min(losses, key=lambda name: losses[name][rate]) for rate in rates}


def by_the_mean(losses: Losses) -> str:
    return min(losses, key=lambda name: sum(losses[name].values()))


def by_the_count(losses: Losses) -> str:
    often = list(at_each(losses).values())
    return max(losses, key=often.count)


def bits_slip(function: Callable[[float, int, int], float]) -> tuple[Any, ...]:
    return perplexity, function


def shortened(
    *,
    tokens: Callable[[LanguageRecipe], float] = lambda recipe: recipe.batch * recipe.context,
    seconds: float = 60,
    more: int = 0,
    **changes: Any,
) -> Callable[[LanguageRecipe, float, float], LanguageRecipe]:
    """An answer to 09.planned, with slips: tokens of a step, seconds of a minute, steps too many, other settings."""

    def answer(recipe: LanguageRecipe, tokens_per_second: float, minutes: float) -> LanguageRecipe:
        steps = int(tokens_per_second * seconds * minutes / tokens(recipe)) + more
        times = {"warmup": max(steps // 10, 1), "update_every": max(round(steps / 100), 1), "iterative_warmup": 0}
        return replace(recipe, steps=steps, **(times | changes))

    return answer


def facts(plan: Plan, recipe: LanguageRecipe, tokens_per_second: float) -> dict[str, float]:
    tokens = recipe.steps * recipe.batch * recipe.context
    return {
        "links": layer_0(plan.budget.links(recipe.steps)),
        "updates": len(plan.budget.updates()),
        "tokens": tokens,
        "minutes": tokens / tokens_per_second / 60,
        "MiB": sum(plan.memory.values()) / 2**20,
    }


def layer_0(links: Mapping[str, int]) -> int:
    return sum(number for name, number in links.items() if ".layers.0." in name)


def wrong_fact(name: str, wrong: Callable[[Plan, LanguageRecipe], float]) -> tuple[Any, ...]:
    return shortened(), lambda plan, recipe, speed: facts(plan, recipe, speed) | {name: wrong(plan, recipe)}


GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("09.perplexity_and_bits", ((perplexity, bits_per_byte), "")),
    *cases("09.queries_of", (queries_of, ""), (lambda *given: queries_of(*given)[::-1], "")),
    *cases("09.percolate_gate", (gated(), "")),
    *cases("09.planned", ((shortened(), facts), "")),
    *cases("09.least_step", ((least_step, 0.5), ""), ((lambda weight: power_of_two(weight) / 256, 0.5), "")),
    *cases("09.winners", (winners, "")),
]

STUBS = [
    *cases(
        "09.planned",
        ((lambda *_: None, facts), "shortened() returns None; return a recipe with replace(recipe, steps=...)."),
        ((shortened(), lambda *_: None), "facts() returns None; return a dict with five numbers."),
    ),
    *cases(
        "09.perplexity_and_bits",
        ((lambda _: None, lambda *_: None), "perplexity() returns None; return e to the power of the mean of -log p."),
        ((perplexity, lambda *_: None), "bits_per_byte() returns None; first turn nats into bits."),
    ),
    *cases("09.queries_of", (lambda *_: None, "queries_of() returns None; return a list of neurons.")),
    *cases(
        "09.percolate_gate", (lambda *_: None, "percolate_gate() returns None; return three masks: gate, up and down.")
    ),
    *cases(
        "09.least_step",
        ((lambda _: None, None), "least_step() returns None; return half the distance to the next number."),
        ((least_step, None), "replace None in the last line of the cell above with a weight."),
    ),
    *cases(
        "09.winners",
        (lambda _: None, "winners() returns None; return a dict with a method for each rate, and the best "),
    ),
]

SLIPS = [
    *cases(
        "09.planned",
        *(
            ((slip, facts), message)
            for slip, message in (
                (
                    shortened(tokens=lambda _: 1),
                    "you take 14400000 steps. This is the number of tokens of the whole",
                ),
                (
                    shortened(tokens=lambda recipe: recipe.context),
                    "you take 56250 steps. This is the number of steps",
                ),
                (
                    shortened(tokens=lambda recipe: recipe.batch),
                    "you take 28125 steps. This is the number of steps",
                ),
                (
                    shortened(seconds=1),
                    "for 20 minutes at 12,000 tokens per second, you take 1 steps. This is the number of steps if "
                    "the minutes were seconds; ",
                ),
                (
                    shortened(more=1),
                    "for 20 minutes at 12,000 tokens per second, you take 110 steps. This is one step too many; the "
                    "last step ",
                ),
                (shortened(more=7), "you take 116 steps; a step has 131,072 tokens."),
                (
                    shortened(update_every=100),
                    "tokens per second, you update every 100 steps, but the run has 109 steps. Update after each "
                    "hundredth of the run.",
                ),
                (shortened(update_every=2), "you update every 2 steps; expected 1."),
                (
                    shortened(warmup=1000),
                    "for 20 minutes at 12,000 tokens per second, the warm-up has 1000 steps, but the whole run "
                    "has 109 steps; expected a tenth of these steps.",
                ),
                (shortened(warmup=5), "the warm-up has 5 steps; expected 10."),
                (shortened(iterative_warmup=20), "iterative_warmup is 20; set it to 0."),
                (shortened(micro_batch=8, context=128), "Change only steps, update_every, warmup, iterative_warmup."),
            )
        ),
        (
            (shortened(), lambda *given: {"links": facts(*given)["links"]}),
            "'updates' is missing; you return 'links'.",
        ),
        (
            wrong_fact("links", lambda plan, _: layer_0(plan.budget.links(0))),
            "you return 1,581,056 links. This is the number of links at the first step; CHTss starts with half of ",
        ),
        (
            wrong_fact("links", lambda *_: 3_162_112),
            "you return 3,162,112 links. This is the number of possible links; count the existing links.",
        ),
        (
            wrong_fact("links", lambda *_: 2_529_672),
            "you return 2,529,672 links. This is the number of links in all layers; count the links of one layer.",
        ),
        (
            wrong_fact("links", lambda *_: 26_214),
            "you return 26,214 links. This is the number of links in one matrix; the layer has seven matrices.",
        ),
        (
            wrong_fact("updates", lambda *_: 109),
            "you return 109 updates. This is the number of updates of a run that updates until its last step; here, "
            "the updates end earlier.",
        ),
        (
            wrong_fact("tokens", lambda _, recipe: recipe.steps * recipe.batch),
            "you return 55,808 tokens. This is a number of contexts; each context has 256 tokens.",
        ),
        (
            wrong_fact("tokens", lambda *_: 131_072),
            "you return 131,072 tokens. This is the number of tokens of one step; count all steps.",
        ),
        (
            wrong_fact("minutes", lambda *_: 1190.57),
            "you return 1,190.57 minutes. This is a number of seconds; return minutes.",
        ),
        (
            wrong_fact("minutes", lambda *_: 0.33071),
            "you return 0.33071 minutes. This is a number of hours; return minutes.",
        ),
        (
            wrong_fact("MiB", lambda plan, _: sum(plan.memory.values())),
            "you return 1,436,917,760 MiB. This is a number of bytes; a MiB has 2²⁰ bytes.",
        ),
        (
            wrong_fact("MiB", lambda plan, _: sum(plan.memory.values()) / 1e6),
            "MiB. This is a number of megabytes of 10⁶ bytes; a MiB has 2²⁰ bytes.",
        ),
        (
            wrong_fact("MiB", lambda plan, _: plan.memory["weights"] / 2**20),
            "MiB. This is only the memory of the weights; add the other parts.",
        ),
        (wrong_fact("MiB", lambda *_: 5.0), "you return 5 MiB; this number is not right."),
    ),
    *cases(
        "09.perplexity_and_bits",
        *(
            ((slip, bits_per_byte), message)
            for slip, message in (
                (lambda chances: len(chances) / sum(chances), "3.2 is 1 over the mean probability"),
                (lambda chances: sum(1 / p for p in chances) / len(chances), "5.0 is the arithmetic mean of 1/p"),
                (lambda chances: 1 / math.prod(chances), "16.0 is 1 over the product of all probabilities"),
                (lambda chances: math.log(perplexity(chances)), "1.3863 is the mean loss in nats"),
                (lambda chances: math.log2(perplexity(chances)), "2.0 is the mean loss in bits"),
                (
                    lambda chances: math.exp(math.log2(perplexity(chances))),
                    "7.3891 is e to the power of a loss in bits; compute the loss with the natural logarithm.",
                ),
                (
                    lambda chances: 2 ** math.log(perplexity(chances)),
                    "2.6141 is 2 to the power of a loss in nats; use e instead of 2.",
                ),
                (
                    lambda chances: 1 / perplexity(chances),
                    "0.25 is 1 over the perplexity; the loss is the negative logarithm.",
                ),
                (
                    lambda chances: 1 / math.sqrt(math.prod(chances)),
                    "for the probabilities 0.2, 0.2, 0.2, you return 11.1803; expected 5.",
                ),
            )
        ),
        (
            bits_slip(lambda loss, tokens, num_bytes: loss * tokens / num_bytes),
            "0.3466 is a number of nats per byte; divide it by log 2, because a bit is log 2 nats.",
        ),
        (
            bits_slip(lambda loss, *_: loss / math.log(2)),
            "2.0 is a number of bits per token; divide the bits of all tokens by the number of bytes.",
        ),
        (
            bits_slip(lambda loss, tokens, num_bytes: loss / math.log(2) * num_bytes / tokens),
            "8.0 is the bits per token times the bytes per token; divide the bits by the bytes per token.",
        ),
        (
            bits_slip(lambda loss, tokens, num_bytes: loss * math.log(2) * tokens / num_bytes),
            "0.2402 is the nats per byte times log 2",
        ),
        (
            bits_slip(lambda *_: 1.0),
            "3 tokens of 2 bits each have 6 bits, which is 0.5 bits for each of 12 bytes; you return 1.",
        ),
    ),
    *cases(
        "09.queries_of",
        (
            lambda neuron, heads, key_heads, width: [
                h * width + neuron % width for h in range(neuron // width, heads, key_heads)
            ],
            "for 4 query heads, 2 key heads, width 2 and key neuron 1, you return [1, 5]. Neighbouring query heads ",
        ),
        (
            lambda neuron, heads, key_heads, width: queries_of(neuron, heads, key_heads, width)[:1],
            "2 query heads use this key head, so you miss 1 of the query neurons.",
        ),
        (
            lambda neuron, heads, key_heads, width: [
                place
                for query in queries_of(neuron, heads, key_heads, width)
                for place in range(query // width * width, query // width * width + width)
            ],
            "In each query head that uses this key head, only the neuron at the same place is multiplied by this key "
            "neuron.",
        ),
        (
            lambda *_: [0, 3],
            "Which key head contains this neuron, which query heads use this key head, and at which place of "
            "the key head is the neuron?",
        ),
    ),
    *cases(
        "09.percolate_gate",
        (in_place, "your function changed the masks that it was given; use & instead of &=."),
        (lambda gate, up, down, _: (gate, down, up), "return gate, up and down in this order"),
        (
            lambda gate, up, down, _: (gate, up, down),
            "neuron 1 has no link in `gate`. With activation(0) = 0, its links in `up` lead nowhere, but you kept ",
        ),
        (
            gated(pair=False),
            "neuron 1 has no link in `gate`. With activation(0) = 0, its links in `up` lead nowhere, but you kept ",
        ),
        (
            gated(read=False),
            "neuron 3 has no link in `down`. With activation(0) = 0, its links in `gate` lead nowhere, but you kept ",
        ),
        (
            gated(rows=False),
            "neuron 2 has no link in `up`. With activation(0) = 0, its links in `gate` lead nowhere, but you kept ",
        ),
        (
            gated(always=True),
            "neuron 1 has no link in `gate`. With activation(0) = 0.5, its links in `up` are used, but you removed ",
        ),
        (
            chain_once,
            "neuron 1 has no link in `gate`. With activation(0) = 0, its links in `up` lead nowhere, but you kept ",
        ),
        (
            lambda gate, up, down, _: (gate | True, up, down),
            "neuron 1 has no link in `gate`. With activation(0) = 0, you added a link to `gate`.",
        ),
        (
            lambda gate, up, down, at_zero: (
                gated()(gate, up, down, at_zero) if len(gate) == 4 else (gate, *gated()(gate, up, down, at_zero)[1:])
            ),
            "on random masks with activation(0) = 0, you keep ",
        ),
    ),
    *cases(
        "09.least_step",
        ((lambda weight: power_of_two(weight) / 128, 0.5), "0.0078125 is the whole distance to the next number"),
        ((lambda weight: weight / 256, 0.5), "0.007781982421875 is 1/256 of the weight"),
        ((lambda _: 1 / 256, 0.5), "0.00390625 is the answer for weights from 1 up to 2; at 2, the distance doubles."),
        (
            (lambda weight: max(power_of_two(weight), 1.0) / 256, 0.5),
            "0.00390625 is the answer for weights from 1 up to 2; below 1, the distance halves.",
        ),
        ((lambda weight: power_of_two(weight) / 512, 0.5), "still has no effect, so 0.001953 is too small."),
        (
            (lambda weight: power_of_two(weight) / 64, 0.5),
            "has an effect, so 0.015625 is too large.",
        ),
        ((least_step, 0.256), "0.256 is 256 times the step"),
        ((least_step, 0.512), "0.512 is 512 times the step"),
        ((least_step, 0.25), "0.25 is a weight at which the step is still larger than half the distance."),
        ((least_step, 1.0), "1 is not right; try least_step() on both sides of each power of two."),
    ),
    *cases(
        "09.winners",
        (at_each, "return two things: a dict with a method for each rate, and the best method."),
        (
            lambda losses: ({rate: max(losses, key=lambda name: losses[name][rate]) for rate in losses["fc"]}, "fc"),
            "at the rate 0.001, the losses are fc 5.3, set 5.4, but you return set. The lowest loss is best.",
        ),
        (lambda losses: (at_each(losses), by_the_mean(losses)), "set has the lowest mean loss over all rates."),
        (
            lambda losses: (at_each(losses), by_the_count(losses)),
            "fc has the lowest loss at two of the three rates. Compare the losses of the methods at their best rates.",
        ),
        (lambda losses: (at_each(losses), "cht"), "the lowest losses are fc 4.8, set 4.9, but you return cht."),
    ),
]
