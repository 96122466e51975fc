"""Answers to the exercises of stage 06b."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from answers import NUMBER, cases
from torch import Tensor, nn

import chts_core as chts
from chts_core.lab.verify import update_curves

Row = Mapping[str, float]


def drop(
    *, weight_too: bool = True, state: bool = True, everywhere: bool = False, keys: Sequence[str] | None = None
) -> Callable[..., None]:
    """An answer to 06b.drop_links, with slips."""

    def answer(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gone: Tensor) -> None:
        with torch.no_grad():
            if weight_too:
                weight[gone] = 0
            kept = optimizer.state[weight]
            for key in keys or [key for key, value in kept.items() if value.shape == weight.shape]:
                if state:
                    kept[key][torch.ones_like(gone) if everywhere else gone] = 0

    return answer


def drop_and_forget(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gone: Tensor) -> None:
    weight.data[gone] = 0
    optimizer.state[weight].clear()


def drop_all_numbers(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gone: Tensor) -> None:
    drop()(optimizer, weight, gone)
    if "step" in optimizer.state[weight]:
        optimizer.state[weight]["step"].zero_()


def drop_all_weights(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gone: Tensor) -> None:
    drop()(optimizer, weight, gone)
    weight.data.zero_()


def missing(
    groups: slice = slice(None), *, same: Callable[[Tensor, Tensor], bool] = lambda a, b: a is b, held: bool = False
) -> Callable[[nn.Module, torch.optim.Optimizer], list[str]]:
    """An answer to 06b.not_held, with slips."""

    def answer(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
        have = [parameter for group in optimizer.param_groups[groups] for parameter in group["params"]]
        return [name for name, wanted in model.named_parameters() if any(same(wanted, one) for one in have) == held]

    return answer


def by_values(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    have = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [name for name, wanted in model.named_parameters() if wanted not in have]


def watched(
    *, first: int = 1, last: int | None = None, what: Callable[[Any], Any] = lambda found: found.check
) -> Callable[..., tuple[int, Any] | None]:
    """An answer to 06b.first_finding, with slips."""

    def answer(sparsifier: chts.Sparsifier, train_step: Callable[[], None], steps: int) -> tuple[int, Any] | None:
        auditor = chts.audit.Auditor(sparsifier)
        for step in range(first, first + (last or steps)):
            train_step()
            sparsifier.step()
            found = auditor.check()
            if found:
                return step, what(found[0])
        return None

    return answer


def at_the_end(sparsifier: chts.Sparsifier, train_step: Callable[[], None], steps: int) -> tuple[int, str] | None:
    for _ in range(steps):
        train_step()
        sparsifier.step()
    found = chts.audit.audit(sparsifier)
    return (steps, found[0].check) if found else None


def late(sparsifier: chts.Sparsifier, train_step: Callable[[], None], steps: int) -> tuple[int, str] | None:
    found = watched()(sparsifier, train_step, steps)
    return found and (found[0] + 2, found[1])


def classified(*leave_out: str, last_overlap: bool = False) -> Callable[[Sequence[Row]], str]:
    """An answer to 06b.which_fault, without some of its questions, or by the overlap of the last update."""

    def answer(rows: Sequence[Row]) -> str:
        returned = sum(row["overlap"] * row["regrown"] for row in rows) / max(sum(row["regrown"] for row in rows), 1)
        returned = rows[-1]["overlap"] if last_overlap else returned
        questions = {
            "collapsed layer": rows[-1]["anp"] == 0,
            "threshold with ties": len({row["links"] for row in rows}) > 1,
            "early end": rows[-1]["step"] < 64,
            "stuck": returned > 0.5,
            "random regrowth": returned < 0.05,
        }
        return next((name for name, holds in questions.items() if holds and name not in leave_out), "healthy")

    return answer


def remembered(rows: Sequence[Row]) -> str:
    """The answer for the six patients of the page alone."""
    first = dict(update_curves.everyone()[:6])
    return next((name for name, known in first.items() if list(rows) == known), "healthy")


def course(overlap: float, *, links: int = 230, anp: float = 1.0) -> list[Row]:
    """Two updates of 60 and 20 links, the first of which shows what is asked for."""
    return [
        {"links": links, "anp": 1.0, "overlap": overlap, "regrown": 60},
        {"links": 230, "anp": anp, "overlap": overlap, "regrown": 20},
    ]


RIGHT = [
    *cases("06b.resting_weight", (-1.71, "")),
    *cases("06b.drop_links", (drop(), "")),
    *cases("06b.not_held", (missing(), "")),
    *cases("06b.first_finding", (watched(), "")),
    *cases("06b.which_fault", (classified(), "")),
    *cases("06b.diagnosis", ("removal by place", "")),
]

STUBS = [
    *cases("06b.resting_weight", (None, NUMBER)),
    *cases("06b.drop_links", (lambda *_: None, "you changed no weight; set the weights of the removed links to 0.")),
    *cases("06b.not_held", (lambda *_: None, "not_held() returns None; return a list of names, which may be empty.")),
    *cases(
        "06b.first_finding",
        (lambda *_: None, "first_finding() took no step; call train_step(), then sparsifier.step()."),
    ),
    *cases("06b.which_fault", (lambda _: None, "which_fault() returns None for patient A; return one of 'healthy', ")),
    *cases("06b.diagnosis", (None, "replace None with one of 'best scores', 'random regrowth', 'too many links', ")),
]

SLIPS = [
    *cases(
        "06b.resting_weight",
        (
            -0.171,
            "-0.171 is the weight after one step; each later step adds 0.9 times the change before it, so add up all "
            "changes.",
        ),
        (-1.9, "-1.9 is the result of a sum that begins with 1.9; the buffer is multiplied by 0.9 before it moves the"),
        (-17.1, "-17.1 is the sum of the buffers; multiply it by the learning rate."),
        (1.71, "1.71 is the right distance with the wrong sign; SGD subtracts the buffer."),
        (-0.71, "-0.71 is the result if the weight starts from 1; the removal sets the weight to 0."),
        (-1, "-1 is not right; the changes form a geometric series with ratio 0.9, and the first is -0.171."),
    ),
    *cases(
        "06b.drop_links",
        (drop(weight_too=False), "you changed no weight; set the weights of the removed links to 0."),
        (lambda _, weight, __: weight.data[0].zero_(), "the weight of a removed link is not 0; set it to 0."),
        (drop_all_weights, "your function changed the weight of a link that stays; change only the removed links."),
        (
            drop(state=False),
            "in SGD, the momentum_buffer of a removed link is not 0; set it to 0, or it will move the weight.",
        ),
        (drop(everywhere=True), "your function changed the momentum_buffer of a link that stays; change only "),
        (
            drop(keys=["momentum_buffer"]),
            "with Adam, your function raises KeyError: 'momentum_buffer'. SGD and Adam keep different tensors in ",
        ),
        (drop_and_forget, "your function deleted SGD's momentum_buffer; the remaining links need it."),
        (drop_all_numbers, "Adam's step counts the steps of all links; leave it unchanged."),
    ),
    *cases(
        "06b.not_held",
        (missing(slice(1)), "you looked at only one group of the optimizer; go through all its groups."),
        (missing(slice(1, None)), "you looked at only one group; go through all optimizer.param_groups."),
        (
            missing(held=True),
            "the optimizer holds these parameters; return the names of the parameters that it does not hold.",
        ),
        (lambda *_: ["0.bias"], "the optimizer holds all three weights; expected [], but you return ['0.bias']."),
        (
            missing(same=lambda a, b: a.shape == b.shape),
            "the check replaced 1.weight with a masked copy; expected ['1.weight'], but you return [].",
        ),
        (
            missing(same=torch.equal),
            "the check replaced 2.weight with a copy that has the same values, and you missed it. The optimizer ",
        ),
        (by_values, "`in` and == compare the values of tensors. Compare the objects with `is` or id()."),
    ),
    *cases(
        "06b.first_finding",
        (at_the_end, "you found nothing. The fault begins and ends within the run, so an audit at the end is too late"),
        (
            watched(what=lambda found: found),
            "you return the check Finding(check='absent weights', layer='0.weight', ",
        ),
        (watched(first=0), "12 is one too low; count the steps from 1, as sparsifier.steps does."),
        (
            watched(first=-2),
            "after step 10, nothing was wrong yet; return the step after which the auditor found something.",
        ),
        (late, "you found the fault after step 15; call auditor.check() after each step to find it earlier."),
        (lambda s, t, n: (watched()(s, t, n) or (0, 0))[0], "you return 13; return a step and the name of a check."),
        (
            lambda s, t, n: watched()(s, t, n) or (n, ""),
            "you found (40, '') in a healthy run; return None for such a run.",
        ),
        (watched(last=20), "you ended the healthy run after 20 of 40 steps; train to the end."),
    ),
    *cases(
        "06b.which_fault",
        (lambda _: "ill", "for patient A, you return 'ill'; expected one of 'healthy', 'stuck', "),
        (
            lambda _: "healthy",
            "patient A is not 'healthy': 2% of its 379 regrown links had just been removed, and the ITOP rate goes ",
        ),
        (
            classified(last_overlap=True),
            "patient B is not 'random regrowth': 68% of its 379 regrown links had just been removed, and the ITOP ",
        ),
        (classified("threshold with ties"), "patient C is not 'stuck': its number of links varies from 230 to 232; "),
        (classified("early end"), "patient E is not 'healthy': its last update is at step 32 of 128; look at `step`."),
        (
            classified("collapsed layer"),
            "patient F is not 'threshold with ties': at the end, 0% of its neurons are",
        ),
        (
            remembered,
            "a run that is not on the page is not 'healthy': 66% of its 379 regrown links had just been removed, ",
        ),
    ),
    *cases(
        "06b.diagnosis",
        ("stuck", "you say 'stuck'; expected one of 'best scores', "),
        (
            "best scores",
            "The patient's value is 31%, and the healthy run's value is 100%.",
        ),
        (
            "random regrowth",
            "'random regrowth' does not fit: it would make the smallest share of active neurons about the same as in ",
        ),
        (
            "too many links",
            "'too many links' does not fit: it would make the largest number of links higher than in the healthy run. "
            "The patient's value is 230, and the healthy run's value is 230.",
        ),
    ),
]

GIVEN: dict[str, dict[str, Any]] = {
    "06b.diagnosis": {"patient": course(0.03, anp=0.31), "healthy": course(0.12)},
}
