"""Answers to the exercises of stage 00."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from answers import cases
from torch import Tensor

SMALL_MAP = {"00": (), "03": ("00",), "09": ("03",)}


def flops(
    each: int = 6, *, last: bool = True, sparse: bool = True, rounded: bool = True, batched: bool = True, dense: int = 1
) -> Callable[[list[int], float, int], float]:
    """An answer to 00.step_flops, with slips; `dense` layers at the end stay dense."""

    def answer(neurons: list[int], density: float, batch: int) -> float:
        possible = [one * other for one, other in pairwise(neurons)]
        density = density if sparse else 1.0
        counts = [density * number for number in possible]
        counts = [round(number) for number in counts] if rounded else counts
        total = sum(counts[:-dense]) + (sum(possible[-dense:]) if last else sum(counts[-dense:]))
        return each * total * (batch if batched else 1)

    return answer


def kind(masks: list[Tensor]) -> str:
    changes = [((after & ~before).any(), (before & ~after).any()) for before, after in pairwise(masks)]
    if any(gained for gained, _ in changes):
        return "dynamic"
    return "pruning" if any(lost for _, lost in changes) else "static"


def kind_by_number(masks: list[Tensor]) -> str:
    numbers = [int(mask.sum()) for mask in masks]
    if numbers == [numbers[0]] * len(numbers):
        return "static"
    return "pruning" if sorted(numbers, reverse=True) == numbers else "dynamic"


def kind_of_exchange(masks: list[Tensor]) -> str:
    """It takes each falling number for pruning."""
    return "pruning" if masks[-1].sum() < masks[0].sum() else kind(masks)


def named_by_run(*methods: str | None) -> dict[str, str | None]:
    return {f"run {number}": method for number, method in enumerate(methods, 1)}


def needed(target: str, needs: dict[str, tuple[str, ...]]) -> list[str]:
    found = set(needs[target])
    while more := {before for stage in found for before in needs[stage]} - found:
        found |= more
    return [stage for stage in needs if stage in found]


GIVEN: dict[str, dict[str, Any]] = {"00.needed": {"needs": SMALL_MAP}}

RIGHT = [
    *cases("00.step_flops", (flops(), "")),
    *cases("00.kind", (kind, "")),
    *cases("00.regrown_by", (named_by_run("RigL", "CHT", "CHTs", "SET"), "")),
    *cases("00.needed", (needed, "")),
]

STUBS = [
    *cases("00.step_flops", (lambda *_: None, "step_flops() returns None; return a number of FLOPs.")),
    *cases("00.stored", (lambda *_: None, "stored() returns None; return the number of links and their bytes.")),
    *cases("00.kind", (lambda _: None, "kind() returns None; return 'static', 'pruning' or 'dynamic'.")),
    *cases(
        "00.regrown_by",
        (named_by_run(None, None, None, None), "for run 1, replace None with the name of a method."),
        (named_by_run("RigL", "CHT", None, None), "for run 3, replace None with the name of a method."),
    ),
    *cases("00.needed", (lambda *_: None, "needed() returns None; return a list of stages.")),
]

SLIPS = [
    *cases(
        "00.step_flops",
        (flops(1), "16 is the number of links; each link costs 6 FLOPs."),
        (flops(2), "32 is the cost of the forward pass alone; the backward pass costs twice as much."),
        (flops(last=False), "60 is the cost with a sparse last layer; the last layer must stay dense."),
        (flops(sparse=False), "240 is the cost of the dense network; use the density."),
        (
            lambda neurons, density, _: 6 * density * neurons[0] * neurons[1],
            "48.0 is the cost of the first layer alone; add the last layer.",
        ),
        (flops(12), "one image should cost 6 · (8 + 8) FLOPs; the function returns 192."),
        (flops(batched=False), "ten images cost ten times as much as one image; multiply by the batch size."),
        (
            flops(rounded=False),
            "has 4 links, the nearest integer to 3.75; expected 6 · (4 + 6) FLOPs, but the function returns 58.5.",
        ),
        (
            lambda neurons, density, batch: flops(dense=len(neurons) - 2)(neurons, density, batch),
            "with two hidden layers of 4 neurons, the function returns 192 FLOPs. Only the last layer should be dense.",
        ),
    ),
    *cases(
        "00.kind",
        (lambda _: "sparse", "kind() returns 'sparse'; return 'static', 'pruning' or 'dynamic'."),
        (lambda _: "dynamic", "'dynamic' is not right for a mask that never changes."),
        (
            kind_by_number,
            "'static' is not right for a mask that exchanges a link at every update. The number of links ",
        ),
        (
            kind_of_exchange,
            "'pruning' is not right for a mask that loses three links and gains one. The number of links ",
        ),
        (
            lambda masks: kind([masks[0], masks[-1]]),
            "'static' is not right for a mask that loses a link and gets it back. The first and the last mask",
        ),
        (lambda masks: kind(masks[:2]), "'pruning' is not right for a mask that loses a link and gets it back."),
        (
            lambda masks: "static" if masks[0].equal(masks[1]) else kind(masks),
            "'static' is not right for a mask that changes only at the last update. The first two masks are equal",
        ),
    ),
    *cases(
        "00.regrown_by",
        (named_by_run("RigL", "CHT", "CHTs", "GMP"), "'GMP' is not one of the four methods: CHT, CHTs, RigL, SET."),
        (
            named_by_run("RigL", "CHT", "CHT", "SET"),
            "each of the four methods has exactly one run; you named a method more than once.",
        ),
        ({"run 1": "SET"}, "keep the names of the runs: run 1, run 2, run 3, run 4."),
        (
            named_by_run("SET", "CHT", "CHTs", "RigL"),
            "run 4 is not a run of RigL. RigL regrows the two links with the largest gradients.",
        ),
        (
            named_by_run("RigL", "CHTs", "CHT", "SET"),
            "run 3 is not a run of CHT. CHT regrows the two links with the most paths.",
        ),
        (
            named_by_run("RigL", "CHT", "SET", "CHTs"),
            "run 4 is not a run of CHTs. CHTs draws links at random, and a link with more paths is more likely "
            "to be drawn. As long as a link with a path is left, ",
        ),
    ),
    *cases(
        "00.needed",
        (
            lambda target, needs: list(needs[target]),
            "You found ['C', 'A'] before E; look at the stages that C names, too.",
        ),
        (lambda target, needs: [*needed(target, needs), target], "E does not come before itself."),
        (
            lambda target, needs: list(needs)[: list(needs).index(target)],
            "You found ['A', 'B', 'C', 'D'] before E; neither E nor any stage before E names D.",
        ),
        (lambda target, needs: needed(target, needs)[::-1], "before E; keep the order A, B, C, D, E"),
        (lambda target, needs: [*needed(target, needs), *needs[target]], "return each stage only once."),
        (lambda *_: ["A", "B", "C"], "stage A names no stage, so return an empty list for A."),
    ),
]
