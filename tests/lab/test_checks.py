"""Checks of exercises: the right answer passes, and each slip is told from the others."""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import answers_06b
import pytest
import torch
from answers import NUMBER, Case, cases
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.layers import all_layers
from chts_core.lab import models
from chts_core.lab.notebook import checks, exercises, notebooks
from chts_core.lab.train import images
from chts_core.methods import Cubic, ErdosRenyi, Regrowth, Sigmoid
from chts_core.tools.audit import Finding

STAGES = [path.stem.partition("_")[0] for path in notebooks.stages()]
NAMES = [f"{stage}.{name}" for stage in STAGES for name in checks.of_stage(stage)]


def bits(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


# --- how a check is found and run ---


def test_each_stage_has_checks() -> None:
    assert STAGES == ["00", "01", "02", "03", "04", "05", "06", "06b", "07", "08", "08b", "09", "10", "11", "12"]
    assert all(checks.of_stage(stage) for stage in STAGES)


def test_the_checks_of_a_stage_are_in_its_order_and_are_checks_alone() -> None:
    names = ["whole_gradient", "regrow", "my_examples", "continued", "grid", "hours", "schedule"]
    assert list(checks.of_stage("10")) == names  # not `refuse`, which it imports
    assert list(checks.of_stage("05"))[::4] == ["exact_sigmoid", "sigmoid_end"]  # not `_sigma`


@pytest.mark.parametrize("name", NAMES)
def test_a_check_is_described(name: str) -> None:
    stage, _, exercise = name.partition(".")
    description = inspect.getdoc(checks.of_stage(stage)[exercise])
    assert description
    assert re.fullmatch(r"\S[^\n]+: [^\n]+\.", description.partition("\n")[0])


def test_a_right_answer_is_correct(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check("00.density", 0.05)
    assert capsys.readouterr().out == "Correct.\n"


def test_a_wrong_answer_does_not_stop_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check("00.density", 0.95)
    exercises.check("10.hours", "fourteen")
    feedback, raised = capsys.readouterr().out.splitlines()
    assert feedback == "Not yet: 0.95 is the share of the possible links that are absent; what share of them exists?"
    assert raised.startswith("Not yet: TypeError: unsupported operand")


def test_an_exercise_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^there is no exercise '10\.hour'; stage 10 has 10\.\w+, .*10\.hours, "):
        exercises.check("10.hour", 1)
    with pytest.raises(
        ValueError, match=r"^stage '13' has no exercises; expected one of 00, 01, .*, 06, 06b, 07, .*12\."
    ):
        exercises.check("13.hours", 1)
    with pytest.raises(ValueError, match=r"stage 'slips' has no exercises"):
        exercises.check("slips", 1)


def test_a_check_with_other_arguments_is_refused() -> None:
    # The learner cannot mend the cell of the check, so this is no "Not yet".
    with pytest.raises(TypeError, match="missing a required argument: 'num_runs'"):
        exercises.check("10.grid", {})
    with pytest.raises(TypeError, match="missing a required"):
        exercises.check("06b.diagnosis", "forgotten mask")


# --- answers ---


def rising(share: Callable[[float, float], float]) -> Callable[..., float]:
    """An answer to 05.exact_sigmoid from its share at u and k."""
    return lambda u, initial, final, k: initial + (final - initial) * share(u, k)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rescaled(exponent: float, k: float) -> float:
    return (sigma(exponent) - sigma(-k)) / (sigma(k) - sigma(-k))


def keep(draws: int = 0, *, everywhere: bool = False, noise: bool = True, power: float = 1) -> Callable[..., Tensor]:
    """An answer to 03.keep_links, with slips: links too many, off the mask, without noise, T to another power."""

    def answer(scores: Tensor, mask: Tensor, num_keep: int, temperature: float, generator: torch.Generator) -> Tensor:
        weights = (scores**temperature**power).double()
        keys = torch.rand(scores.shape, generator=generator).double() ** (1 / weights) if noise else scores.double()
        if not everywhere:
            keys = keys.where(mask, -1.0)
        kept = torch.zeros(mask.numel(), dtype=torch.bool)
        kept[keys.flatten().topk(num_keep + draws).indices] = True
        return kept.view_as(mask)

    return answer


def coin(_: Tensor, mask: Tensor, num_keep: int, __: float, generator: torch.Generator) -> Tensor:
    return mask & (torch.rand(mask.shape, generator=generator) < num_keep / 4)


def cycles(*, halves: int = 1, diagonal: bool = False) -> Callable[[Tensor], int]:
    """An answer to 01.four_cycles by pairs of outputs, with slips."""

    def answer(mask: Tensor) -> int:
        pairs = [(i, j) for i in range(len(mask)) for j in range(len(mask)) if i < j or (diagonal and i == j)]
        shared = [int((mask[i] & mask[j]).sum()) for i, j in pairs]
        return sum(halves * p * (p - 1) // 2 for p in shared)

    return answer


def ch3(mask: Tensor) -> Tensor:
    """CH3-L3n by loops: each node of the local community brings 1 / (1 + e)."""
    scores = torch.zeros(mask.shape)
    for u, v in (~mask).nonzero().tolist():
        paths = [(z1, z2) for z1 in range(7) for z2 in range(5) if mask[u, z1] and mask[z2, z1] and mask[z2, v]]
        inputs, outputs = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
        for z1 in inputs:
            scores[u, v] += 1 / (1 + sum(int(mask[z, z1]) for z in range(5) if z not in {*outputs, u}))
        for z2 in outputs:
            scores[u, v] += 1 / (1 + sum(int(mask[z2, z]) for z in range(7) if z not in {*inputs, v}))
    return scores


def swept(masks: list[Tensor]) -> list[Tensor]:
    found = [masks[-1]]
    for mask in reversed(masks[:-1]):
        found.insert(0, mask & found[0].any(dim=0)[:, None])
    return found


def swept_in_place(masks: list[Tensor]) -> list[Tensor]:
    for mask, after in reversed(list(pairwise(masks))):
        mask &= after.any(dim=0)[:, None]
    return masks


def swept_once(masks: list[Tensor]) -> list[Tensor]:
    """Each mask by the one given after it, which is not swept yet."""
    return [mask & after.any(dim=0)[:, None] for mask, after in pairwise(masks)] + [masks[-1]]


def swept_too_far(masks: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(mask) for mask in masks]


def product(begins: list[int], columns: list[int], values: list[float], x: list[float]) -> list[float]:
    ends = [*begins[1:]]
    return [
        float(sum(values[k] * x[columns[k]] for k in range(first, last)))
        for first, last in zip(begins[:-1], ends, strict=True)
    ]


def product_without_zeros(begins: list[int], columns: list[int], values: list[float], x: list[float]) -> list[float]:
    return [
        y
        for y, first, last in zip(product(begins, columns, values, x), begins, begins[1:], strict=False)
        if last > first
    ]


def paths_of(mask: Tensor, link: tuple[int, int]) -> int:
    """L3 paths of a missing link: entries of A Aᵀ A."""
    numbers = mask.long()
    return int((numbers @ numbers.T @ numbers)[link])


PUZZLE = {
    "fc1": bits([1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]),
    "fc2": bits([1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]),
    "fc3": bits([1, 1, 0, 0], [1, 0, 0, 1]),
}
NETWORK = bits([0, 1, 1], [0, 1, 1], [1, 1, 1])


def planned(schedule: Cubic | Sigmoid) -> float:
    """FLOPs over dense ones by hand: 80 updates, from 50 % to 95 % sparsity; a decay ends at an update."""
    window = (round(80 * schedule.end) - round(80 * schedule.start)) / 80
    mean_excess = 1 / 2 if isinstance(schedule, Sigmoid) else 1 / 4
    return 0.05 + 0.45 * (schedule.start + mean_excess * window)


# What the notebooks give by name.
GIVEN: dict[str, dict[str, Any]] = {
    "02.counted": {"network": NETWORK, "missing": (0, 0)},
    "02.count_paths": {"seen": NETWORK},
    "02.listed": {"network": NETWORK, "missing": (0, 0)},
    "04.inactive": {"puzzle": PUZZLE, "chain": chts.LayerGraph(chains=(("fc1", "fc2", "fc3"),))},
    "05.sigmoid_end": {"planned": planned},
}

RIGHT = [
    *cases("00.density", (0.05, "")),
    *cases("00.links", (12293, ""), (12293.12, "")),
    *cases("00.stored", (lambda possible, density: (round(density * possible), 8 * round(density * possible)), "")),
    *cases("01.links_per_output", (4, "")),
    *cases("01.four_cycles", (cycles(), "")),
    *cases("02.counted", (2, "")),
    *cases("02.my_ch3_l3n", (ch3, "")),
    *cases("02.count_paths", (paths_of, "")),
    *cases("02.listed", ([(0, 1, 2, 0), (0, 2, 2, 0)], "")),
    *cases("03.temperature_and_softness", ((lambda d: d / (1 - d), lambda t: 1 - 1 / (1 + t)), "")),
    *cases("03.keep_links", (keep(), "")),
    *cases("04.inactive", ({"hidden 1": {1, 3}, "hidden 2": {1, 2}}, "")),
    *cases("04.backward", (swept, "")),
    *cases("05.exact_sigmoid", (rising(lambda u, k: rescaled(k * (2 * u - 1), k)), "")),
    *cases("05.sigmoid_end", (0.4, "")),
    *cases("06.half_width", (5.0, ""), (4.968, "")),
    *cases("07.multiply", (product, "")),
    *cases("07.break_even", (4 / 7, ""), (0.57, "")),
    *cases("08.decoder_links", (157286, ""), (157284, "")),
    *cases("09.blocks_and_guesses", ((8, 1024), "")),
    *cases("10.hours", (13.89, ""), (14, "")),
    *cases("11.errors_away", (4.899, ""), (4.9, "")),
    *cases("12.number_of_seeds", (8, "")),
]

STUBS = [
    *cases("00.density", (None, NUMBER)),
    *cases("00.links", (None, NUMBER)),
    *cases("00.stored", (lambda *_: (0, 0), "5 % of 100 possible links are 5 links; the function returns 0.")),
    *cases("01.links_per_output", (None, NUMBER)),
    *cases("01.four_cycles", (lambda mask: int(mask.sum()), "6 is the number of links. If you counted cycles, you ")),
    *cases("02.counted", (None, NUMBER)),
    *cases("02.my_ch3_l3n", (lambda _: None, "my_ch3_l3n() returns None; return a matrix of scores.")),
    *cases("02.count_paths", (lambda *_: 0, "for the missing link output 0 – input 0, you counted 0; there are 2: ")),
    *cases("02.listed", ([], "2 paths are missing from your list; look at the paths through input 1.")),
    *cases("12.number_of_seeds", (None, "replace None in the cell above with a number of seeds.")),
    *cases(
        "03.temperature_and_softness",
        ((lambda _: None, lambda _: None), "temperature() returns None; return the temperature T."),
        ((lambda d: d / (1 - d), lambda _: None), "softness() returns None; solve T = δ / (1 - δ) for δ."),
    ),
    *cases("03.keep_links", (lambda *_: None, "keep_links() returns None; return a Boolean mask.")),
    *cases("04.inactive", (None, "replace None with two sets of neurons, as the comment shows.")),
    *cases("04.backward", (lambda _: None, "backward() returns None; return a list of masks.")),
    *cases(
        "05.exact_sigmoid",
        (
            rising(lambda u, k: sigma(k * u)),
            "your function returns 0.7000 at u = 0 and 0.8990 at u = 1; the exponent k·u is never negative. ",
        ),
    ),
    *cases("05.sigmoid_end", (None, "replace None in the cell above with a share of the run, in (0.1, 0.75].")),
    *cases("06.half_width", (None, "replace None in the cell above with a number of percentage points.")),
    *cases("07.multiply", (lambda *_: None, "multiply() returns None; return a list with one number for each output.")),
    *cases("07.break_even", (None, "replace None with a density between 0 and 1.")),
    *cases("08.decoder_links", (None, "replace None in the cell above with a number of links.")),
    *cases(
        "09.blocks_and_guesses",
        *(
            (half, "replace each None in the cell above with a number.")
            for half in ((None, None), (8, None), (None, 8))
        ),
    ),
    *cases("10.hours", (None, "replace None in the cell above with a number of hours.")),
    *cases("11.errors_away", (None, NUMBER)),
]

COSTS = "the sigmoid costs "
SLIPS = [
    *cases(
        "00.density",
        (5, "5 % is right, but a density is a share: write it as a number between 0 and 1."),
        (0.95, "0.95 is the share of the possible links that are absent; what share of them exists?"),
        (0.5, "0.5 and a sparsity of 0.95 do not add up to 1."),
    ),
    *cases(
        "00.links",
        (1229312, "your answer is the number of possible links; how many of them exist?"),
        (1217018.88, "your answer is the number of absent links; how many links exist?"),
        (1217019, "your answer is the number of absent links; how many links exist?"),
        (12000, "12000 links are 0.98% of the 1,229,312 possible links; expected 1 % of them, rounded to an integer."),
        (12294, "12294 links are 1.00% of the 1,229,312 possible links; expected 1 % of them, rounded to an integer."),
    ),
    *cases(
        "01.links_per_output",
        (10, "10 is the mean number of links of an input; give the number of links of each output."),
        (36, "36 is the number of absent links of each output; give the number of its existing links."),
        (400, "400 is the number of links of the whole layer; divide it by the number of outputs."),
        (5, "5 is not right; in the mask of the core, no output has 5 links."),
    ),
    *cases(
        "01.four_cycles",
        (lambda mask: 4 * cycles()(mask), "a cycle has four links; count each cycle only once."),
        (cycles(halves=2), "you counted each pair of outputs in both orders; count each pair only once."),
        (
            lambda _: 3,
            "the mask with the rows 1100, 1110 and 0001 has 1 cycle, not 3; do you pair an output with itself?",
        ),
        (
            cycles(diagonal=True),
            "the mask with the rows 1100, 1110 and 0001 has 1 cycle, not 5; do you pair an output with itself?",
        ),
        (lambda mask: int(mask[0].sum()) - 1, "two outputs that share 3 inputs lie on 3 cycles, not 2."),
        (
            lambda mask: 1 if mask.sum() == 6 and len(mask) == 3 else 3,
            "3 pairs of outputs with 3 cycles each make 9 cycles, not 3.",
        ),
    ),
    *cases(
        "00.stored",
        (lambda possible, density: (5, 20), "20 bytes hold only the values; store the position of each link, too."),  # noqa: ARG005
        (lambda possible, density: (5, 45), "5 links need 5 · (4 + 4) = 40 bytes; the function returns 45."),  # noqa: ARG005
    ),
    *cases("02.count_paths", (lambda *_: 3, "for the missing link output 0 – input 0, you counted 3; there are 2: ")),
    *cases(
        "12.number_of_seeds",
        (
            7,
            "7 is the number for a standard deviation of 1; the standard deviation is √(4/3), because the mean uses "
            "one degree of freedom.",
        ),
        (6, "6 is the number for the factor 1.96; for few seeds, t is larger."),
        (9, "9 is not right; for each number of seeds, multiply the standard deviation by the factor for this number."),
    ),
    *cases(
        "02.counted",
        (
            3,
            "you counted 3; there are 2: output 0 – input 1 – output 2 – input 0; ",
        ),
        ("two", "the answer is 'two'; expected the number of paths, a whole number that is 0 or larger."),
    ),
    *cases(
        "02.my_ch3_l3n",
        (lambda mask: ch3(mask).T, "the scores have shape (7, 5); expected the shape of the mask, (5, 7)."),
        (
            lambda mask: ch3(mask) + mask,
            "your score is 1.000; expected 0.000. Hint: the score of an existing link is 0.",
        ),
        (
            chts.link_prediction.ch2_l3n,
            "Hint: the link's local community is ",
        ),
        (
            lambda mask: ch3(mask) + 1.0 * ~mask * (ch3(mask) == 0),
            "your score is 1.000; expected 0.000. Hint: the link's local community is empty.",
        ),
        (
            lambda mask: ch3(mask) * torch.nan,
            "your score is nan; expected ",
        ),
    ),
    *cases(
        "02.listed",
        ([(0, 1, 2, 0)], "1 path is missing from your list; look at the paths through input 2."),
        ([(0, 1, 2, 0), (0, 1, 1, 0), (0, 2, 2, 0)], "does not exist: output 1 and input 0 are not linked."),
    ),
    *cases(
        "03.temperature_and_softness",
        ((lambda d: 1 - d, lambda t: t / (1 + t)), "you find T = 1 for δ = 0.0; expected 0."),
        ((lambda d: d, lambda t: t / (1 + t)), "you find T = 0.5 for δ = 0.5; expected 1."),
        ((lambda d: d / (1 - d), lambda t: t / (1 - t / 2)), "you find δ = 2 for T = 1; expected 0.5."),
    ),
    *cases(
        "03.keep_links",
        (keep(1), "Take the links with the highest keys; do not toss a coin for each link."),
        (coin, "Take the links with the highest keys; do not toss a coin for each link."),
        (
            keep(everywhere=True),
            "you drew a place without a link; give such places the key -inf before you take the highest keys.",
        ),
        (keep(noise=False), "every draw is the same; add the noise before you take the highest keys."),
        (keep(power=0), "expected about 0.25 0.25 0.25 0.25. Multiply only the logarithm by T, not the noise."),
        (
            keep(power=2),
            "at T = 3, the links with scores 1 to 4 are kept in these shares of the draws: 0.00 ",
        ),
    ),
    *cases(
        "04.inactive",
        ({"hidden": {1}}, "the keys are ['hidden']; use hidden 1 and hidden 2."),
        (
            {"hidden 1": {0, 1, 3}, "hidden 2": {1, 2}},
            "neuron 0 of hidden 1 is active: it lies on a path from an input ",
        ),
        ({"hidden 1": {1}, "hidden 2": {1, 2}}, "you missed neuron 3 of hidden 1: it has no incoming link."),
        ({"hidden 1": {1, 3}, "hidden 2": {1}}, "you missed neuron 2 of hidden 2: it has no outgoing link."),
        (
            {"hidden 1": {3}, "hidden 2": {2}},
            "you missed neuron 1 of hidden 1: it has links on both sides, but on one side, all of its links are "
            "incomplete",
        ),
        (
            {"hidden 1": {1, 3}, "hidden 2": {2}},
            "you missed neuron 1 of hidden 2: it has links on both sides, but on one side, all of its links are "
            "incomplete",
        ),
        ({"hidden 1": {1, 3, 4}, "hidden 2": {1, 2}}, "hidden 1 has only the neurons 0 to 3; your set contains [4]."),
    ),
    *cases(
        "04.backward",
        (swept_in_place, "your function changed the masks that it was given; work on copies, or use & instead of &=."),
        (lambda masks: swept(masks)[::-1], "return masks of the shapes [(5, 6), (4, 5)], in this order."),
        (
            lambda masks: [mask.clone() for mask in masks],
            "in mask 1 of 2, 3 links still lead to neurons without outgoing links. Begin at the outputs, and compare ",
        ),
        (
            swept_once,
            "in mask 1 of 3, 7 links still lead to neurons without outgoing links. Begin at the outputs, and compare ",
        ),
        (swept_too_far, "remove only the links to neurons without outgoing links; the last mask stays as it is."),
    ),
    *cases(
        "05.exact_sigmoid",
        (
            rising(lambda u, k: sigma(k * (2 * u - 1))),
            "the sigmoid does not reach `initial` and `final`, so rescale it.",
        ),
        (
            rising(lambda u, k: -rescaled(k * (2 * u - 1), k)),
            "your function returns 0.5000 at u = 0 and 0.1000 at u = 1; the sign is wrong, so the network would grow.",
        ),
        (
            rising(lambda u, k: rescaled(k * u, k)),
            "the exponent k·u is never negative, so centre it with 2u - 1.",
        ),
        (rising(lambda u, k: rescaled(k * (u - 0.5), k)), "the exponent is k(u - 1/2), half of what it should be."),
        (rising(lambda u, _: u), "at u = 0.1 and k = 6, your function returns 0.54; expected 0.50"),
        (
            rising(lambda u, _: rescaled(6 * (2 * u - 1), 6)),
            "at u = 0.1 and k = 3, your function returns 0.50",
        ),
    ),
    *cases(
        "05.sigmoid_end",
        (0.1, "a window from 0.1 to 0.1 is empty; its end must come after its start."),
        (0.35, "You halved the end of the window; instead, halve the length of the window from 0.1 to 0.7."),
        (
            0.7,
            "Over the same window, the sigmoid keeps, on average, twice as many of these links as the cubic decay ",
        ),
        (0.6, "the sigmoid costs 20.75% of the dense FLOPs, and the cubic decay costs 16.25%. End the window earlier."),
        (0.2, "the sigmoid costs 11.75% of the dense FLOPs, and the cubic decay costs 16.25%. End the window later."),
        (
            0.4055,
            "The costs are close only because the end of the window moves back to the last update before it; halve "
            "the length of the window from 0.1 to 0.7 exactly.",
        ),
    ),
    *cases(
        "06.half_width",
        (0.0497, "0.0497 looks like a fraction; give percentage points."),
        (1.155, "1.155 is the standard error; multiply it by t."),
        (
            8.6,
            "8.6 is t·s, which describes the scatter of single runs; the mean of n runs varies less, so divide by √n.",
        ),
        (2.26, "2.26 is 1.96·s/√n, which is right for many runs; for three runs, use t = 4.30."),
        (4.06, "4.06 is the result if you divide the sum of the squares by n; divide it by n − 1."),
        (9.94, "9.94 is the whole width, from end to end; give half of it."),
        (3, "3 is not right; s is 2 points here, and n is 3."),
    ),
    *cases(
        "07.multiply",
        (lambda *_: [1.0] * 4, "you return 4 numbers; expected 3, one fewer than the number of entries of `begins`."),
        (
            lambda begins, columns, values, x: product(begins, columns, values, [1.0] * len(x)),
            "your outputs are sums of the weights; multiply each weight by the input in its column.",
        ),
        (
            lambda begins, columns, values, x: product(begins, list(range(len(columns))), values, [*x, 5.0]),
            "you return [5.0, 25.0, 25.0]; expected [5, 18, 20]. Output i has the links begins[i] to begins[i + 1] - ",
        ),
        (product_without_zeros, "an output without links must be 0."),
    ),
    *cases(
        "07.break_even",
        (57, "57 is not a density; expected a share of all possible links, between 0 and 1."),
        (
            0.5,
            "0.5 is the answer for SGD with momentum: 12 bytes for each weight, and 24 for each link. Adam keeps one "
            "more moment for each of them.",
        ),
        (
            0.25,
            "at density 0.25, the sparse layer needs 7.0 bytes per possible link, but the dense layer needs 16 bytes.",
        ),
    ),
    *cases(
        "08.decoder_links",
        (3145728, "3145728 is the number of possible links; find how many links exist at 95 % sparsity."),
        (2988442, "2988442 is the number of absent links; count the existing links."),
        (104858, "104858 is the number for a layer of the encoder; a decoder layer also has cross-attention."),
        (131072, "131072 is the number without one of the two feed-forward matrices; count both."),
        (100000, "100000 is not right; a decoder layer has ten weight matrices."),
    ),
    *cases(
        "09.blocks_and_guesses",
        (
            (7, 896),
            "7 is the number of blocks if blocks of 129 tokens share no token; here, neighbouring blocks share one "
            "token.",
        ),
        ((9, 1152), "9 blocks need 1153 tokens, but the corpus has only 1030."),
        (
            (10, 1280),
            "10 is not the right number of blocks; the model does not guess the first token, because no token "
            "comes before it.",
        ),
        ((8, 1032), "in a block of 129 tokens, the model makes 128 guesses."),
        ((8, 1029), "1029 is not right; in each block, the model makes 128 guesses."),
    ),
    *cases(
        "10.hours",
        (4.63, "4.63 is a third of the time; a backward pass costs twice as much as a forward pass."),
        (111.1, "111.1 is the time for one GPU; there are eight GPUs."),
        (4.17, "4.17 is the time at full utilisation; divide it by the utilisation."),
        (50000, "50000 is the time in seconds; give hours."),
        (20, "20 is not right; count 6 operations for each weight and token."),
    ),
    *cases(
        "11.errors_away",
        (
            2.449,
            "2.449 is the distance in standard deviations; the standard error of a mean of four runs is half as large.",
        ),
        (2, "2 is the distance in points of accuracy; divide it by the standard error."),
        (-4.899, "-4.899 is below 0, but the paper's result is above your mean."),
        (3, "3 is not right; the squares of the deviations sum to 2."),
    ),
]


def run(case: Case) -> None:
    stage, _, name = case.name.partition(".")
    checks.of_stage(stage)[name](*case.answers, **GIVEN.get(case.name, {}))


def of(case: Case) -> str:
    return case.name


for stage in STAGES:
    if find_spec(f"answers_{stage}") is not None:
        module = import_module(f"answers_{stage}")
        RIGHT += module.RIGHT
        STUBS += module.STUBS
        SLIPS += module.SLIPS
        GIVEN |= module.GIVEN


@pytest.mark.parametrize("case", RIGHT, ids=of)
def test_a_right_answer_passes(case: Case) -> None:
    run(case)


@pytest.mark.parametrize("case", STUBS, ids=of)
def test_a_stub_is_told_what_to_replace(case: Case) -> None:
    with pytest.raises(AssertionError, match=f"^{re.escape(case.message)}"):
        run(case)


@pytest.mark.parametrize("case", SLIPS, ids=of)
def test_a_slip_is_told(case: Case) -> None:
    with pytest.raises(AssertionError, match=re.escape(case.message)):
        run(case)


def test_every_check_is_tested() -> None:
    own = {"06.mine", "06b.absent_weights"}  # below: they need a trained run
    for tested in (RIGHT, STUBS, SLIPS):
        assert {case.name for case in tested} | own == set(NAMES)


@pytest.mark.full  # it builds the whole model
def test_the_links_of_a_decoder_layer_are_those_of_the_model() -> None:
    with torch.device("meta"):
        decoder = models.Transformer(8000, models.TRANSFORMER_SIZES["multi30k"]).decoder[0]
    shapes = [layer.shape for layer in all_layers(decoder).values()]
    assert len(shapes) == 10
    checks.of_stage("08")["decoder_links"](sum(chts.topology.link_count(*shape, 0.05) for shape in shapes))


def test_which_hypothesis_is_returned_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check("08b.scores", -1.568, -1.517)
    assert capsys.readouterr().out == "the search returns the hypothesis B\nCorrect.\n"


# --- checks that need a trained run: with stand-ins ---


@dataclass(frozen=True)
class Trained:
    """As much of a run as is compared."""

    method: str
    seed: int
    test_accuracy: float


CHTS = chts.METHODS["chts"]
MIX: dict[str, Any] = {
    "chts": CHTS,
    "task": "the task",
    "sparsity": 0.9,
    "recipe": "the recipe",
    "device": "cpu",
    "runs": [Trained("chts", 4, 0.9), Trained("set", 4, 0.1), Trained("chts", 5, 0.8)],
}


def test_a_mix_is_trained_and_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def race(*given: Any, **named: Any) -> list[Trained]:
        asked.extend([given, named])
        return [Trained("mine", 4, 0.91), Trained("mine", 5, 0.83)]

    monkeypatch.setattr(images, "race", race)
    mine = replace(CHTS, topology=ErdosRenyi())
    exercises.check("06.mine", mine, **MIX)
    # Differences of 1 and 3 points: their mean is 2, s is √2, and t is 12.706 with one degree of freedom.
    assert (
        capsys.readouterr().out == "with another topology: +2.0 ± 12.7 percentage points compared with CHTs\nCorrect.\n"
    )
    assert asked == [("the task", {"mine": mine}, 0.9, "the recipe"), {"seeds": [4, 5], "device": "cpu"}]


def test_a_mix_of_one_seed_has_no_interval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(images, "race", lambda *_, **__: [Trained("mine", 4, 0.89)])
    exercises.check("06.mine", replace(CHTS, topology=ErdosRenyi()), **MIX | {"runs": MIX["runs"][:1]})
    assert capsys.readouterr().out == "with another topology: -1.0 percentage points compared with CHTs\nCorrect.\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "mine is still CHTs; give replace() a choice, such as topology="),
        (
            {"topology": ErdosRenyi(), "regrowth": Regrowth("random")},
            "you changed topology and regrowth. Change only one choice, or you will not know which choice mattered.",
        ),
    ],
)
def test_a_mix_changes_one_choice(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=f"^{re.escape(message)}"):
        checks.of_stage("06")["mine"](replace(CHTS, **changes), **MIX)


@dataclass(frozen=True)
class Ill:
    """As much of a patient as is looked at."""

    model: nn.Module
    sparsifier: chts.Sparsifier
    findings: list[Finding]


@pytest.fixture
def patient() -> Ill:
    """A layer of 8 × 8 weights, of which 48 are absent and 3 of those are not zero."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(
        model, optimizer, method="set", sparsity=0.75, total_steps=100, update_every=10, seed=0
    )
    absent = (~sparsifier.masks["0.weight"]).nonzero()[:3]
    with torch.no_grad():
        model[0].weight[absent[:, 0], absent[:, 1]] = 1.0
    return Ill(model, sparsifier, [])


def not_zero(weight: Tensor, mask: Tensor) -> int:
    return sum(1 for value in weight[~mask].tolist() if value != 0)


def test_absent_weights_are_counted(patient: Ill) -> None:
    checks.of_stage("06b")["absent_weights"](not_zero, patient=patient)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _, __: None, "absent_weights() returns None; return a number."),
        (
            lambda _, mask: int((~mask).sum()),
            "3 is the number of absent links; count only the links whose weight is not ",
        ),
        (
            lambda weight, mask: int((weight[~mask] > 0).sum()),
            "you counted only one of the weights 0.5 and NaN. NaN > 0 is False; ",
        ),
        (
            lambda weight, _: int((weight != 0).sum()),
            "you counted 4; outside the mask, the weights are 0.5, 0 and NaN, so 2 are not zero.",
        ),
        (lambda *_: 2, "return 0 for a full mask; it has no absent links."),
        (
            lambda weight, mask: min(2, not_zero(weight, mask)),
            "you count 2 weights in 0.weight, but the audit says: 3 of 48 ",
        ),
    ],
)
def test_a_slip_in_counting_absent_weights_is_told(patient: Ill, answer: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"^{re.escape(message)}"):
        checks.of_stage("06b")["absent_weights"](answer, patient=patient)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("best scores", answers_06b.course(0.66)),
        ("random regrowth", answers_06b.course(0.03)),
        ("too many links", answers_06b.course(0.2, links=264)),
        ("removal by place", answers_06b.course(0.03, anp=0.31)),
    ],
)
def test_one_diagnosis_fits_the_curves_of_a_patient(name: str, patient: Any) -> None:
    diagnosis, healthy = checks.of_stage("06b")["diagnosis"], answers_06b.course(0.12)
    diagnosis(name, patient=patient, healthy=healthy)
    for other in {"best scores", "random regrowth", "too many links", "removal by place"} - {name}:
        with pytest.raises(AssertionError, match=f"^'{other}' does not fit: "):
            diagnosis(other, patient=patient, healthy=healthy)
