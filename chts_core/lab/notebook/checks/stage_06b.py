"""Checks of stage 06b, "Break it"."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.lab.notebook.checks import toys
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.verify import update_curves
from chts_core.lab.verify.injected_bugs import Patient, forgotten_mask
from chts_core.sparsifier import Sparsifier
from chts_core.tools.audit import audit

Row = Mapping[str, float]


def resting_weight(resting_weight: float | None) -> None:
    """Exercise "Where does it stop?": find the weight that a removed link approaches because it keeps its momentum."""
    assert resting_weight is not None, "replace None in the cell above with a number."
    link = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([link], lr=0.1, momentum=0.9)
    link.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.state[link]["momentum_buffer"] = torch.full((1,), 1.9, dtype=torch.float64)
    for _ in range(300):
        optimizer.step()
    slips = {
        "the weight after one step; each later step adds 0.9 times the change before it, so add up all changes": -0.171,
        "the result of a sum that begins with 1.9; the buffer is multiplied by 0.9 before it moves the weight": -1.9,
        "the sum of the buffers; multiply it by the learning rate": -17.1,
        "the right distance with the wrong sign; SGD subtracts the buffer": 1.71,
        "the result if the weight starts from 1; the removal sets the weight to 0": -0.71,
    }
    refuse(resting_weight, slips, 1e-6)
    assert abs(resting_weight - link.item()) < 0.005, (
        f"{resting_weight} is not right; the changes form a geometric series with ratio 0.9, and the first is -0.171."
    )


def absent_weights(absent_weights: Callable[[Tensor, Tensor], int], *, patient: Patient) -> None:
    """Exercise "Write the check yourself": write a function that counts the absent links whose weight is not zero."""
    toy = torch.tensor([[1.0, 0.5, 0.0], [math.nan, 0.0, -2.0]])
    toy_mask = torch.tensor([[True, False, False], [False, True, True]])
    count = absent_weights(toy, toy_mask)
    assert count is not None, "absent_weights() returns None; return a number."
    assert count != 3, "3 is the number of absent links; count only the links whose weight is not zero."
    assert count != 1, "you counted only one of the weights 0.5 and NaN. NaN > 0 is False; compare with != 0."
    assert count == 2, f"you counted {count}; outside the mask, the weights are 0.5, 0 and NaN, so 2 are not zero."
    assert absent_weights(toy, torch.ones_like(toy_mask)) == 0, "return 0 for a full mask; it has no absent links."
    for finding in audit(patient.sparsifier):
        if finding.check == "absent weights":
            key = finding.layer
            number = absent_weights(patient.model.get_parameter(key), patient.sparsifier.masks[key])
            assert finding.message.startswith(f"{number} of"), (
                f"you count {number} weights in {key}, but the audit says: {finding.message}"
            )


def drop_links(drop_links: Callable[[torch.optim.Optimizer, nn.Parameter, Tensor], None]) -> None:
    """Exercise "A clean removal": write a function that sets the weight and the optimizer state of removed links to 0.

    The layer has 8 links, and the function must remove two of them. The check trains the layer once with SGD and
    momentum, and once with Adam.
    """
    gone = torch.tensor([[True, False, False, False], [False, False, True, False]])
    for kind in (_momentum, torch.optim.Adam):
        weight = nn.Parameter(torch.arange(1.0, 9.0).view(2, 4))
        optimizer = kind([weight])
        for _ in range(2):
            weight.grad = torch.ones(2, 4)
            optimizer.step()
        before, weights = copy.deepcopy(optimizer.state[weight]), weight.detach().clone()
        name = type(optimizer).__name__
        try:
            drop_links(optimizer, weight, gone)
        except (AttributeError, IndexError, KeyError, RuntimeError) as error:
            raise AssertionError(
                f"with {name}, your function raises {type(error).__name__}: {error}. SGD and Adam keep different "
                "tensors in optimizer.state[weight]; Adam's `step` is a number that all links share."
            ) from error
        assert not torch.equal(weight, weights), "you changed no weight; set the weights of the removed links to 0."
        assert not weight[gone].any(), "the weight of a removed link is not 0; set it to 0."
        assert torch.equal(weight[~gone], weights[~gone]), (
            "your function changed the weight of a link that stays; change only the removed links."
        )
        state = optimizer.state[weight]
        shaped = [key for key, value in before.items() if value.shape == weight.shape]
        for key in shaped:
            assert key in state, f"your function deleted {name}'s {key}; the remaining links need it."
            assert torch.equal(state[key][~gone], before[key][~gone]), (
                f"your function changed the {key} of a link that stays; change only the removed links."
            )
            assert not state[key][gone].any(), (
                f"in {name}, the {key} of a removed link is not 0; set it to 0, or it will move the weight."
            )
        for key in before.keys() - shaped:
            assert state[key] == before[key], f"{name}'s {key} counts the steps of all links; leave it unchanged."


def _momentum(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def not_held(not_held: Callable[[nn.Module, torch.optim.Optimizer], list[str] | None]) -> None:
    """Exercise "Who is not trained?": write a function that lists the parameters that the optimizer does not hold."""
    layers = [nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)]
    model = nn.Sequential(*layers)
    first, *rest = model.parameters()
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    found = _names(not_held, model, optimizer)
    assert found != ["0.weight"], "you looked at only one group; go through all optimizer.param_groups."
    assert found != ["1.weight", "2.weight"], (
        "you looked at only one group of the optimizer; go through all its groups."
    )
    assert found != ["0.weight", "1.weight", "2.weight"], (
        "the optimizer holds these parameters; return the names of the parameters that it does not hold."
    )
    assert found == [], f"the optimizer holds all three weights; expected [], but you return {found}."
    layers[1].weight = nn.Parameter(layers[1].weight.detach() * torch.tensor([[1.0, 0], [0, 1]]))
    found = _names(not_held, model, optimizer)
    assert found == ["1.weight"], (
        f"the check replaced 1.weight with a masked copy; expected ['1.weight'], but you return {found}."
    )
    layers[2].weight = nn.Parameter(layers[2].weight.detach().clone())
    assert _names(not_held, model, optimizer) == ["1.weight", "2.weight"], (
        "the check replaced 2.weight with a copy that has the same values, and you missed it. The optimizer still "
        "holds the old tensor. Compare the objects, not their values."
    )


def _names(
    not_held: Callable[[nn.Module, torch.optim.Optimizer], list[str] | None],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> list[str]:
    try:
        found = not_held(model, optimizer)
    except RuntimeError as error:
        raise AssertionError(
            f"{error}: `in` and == compare the values of tensors. Compare the objects with `is` or id()."
        ) from error
    assert found is not None, "not_held() returns None; return a list of names, which may be empty."
    return sorted(found)


FirstFinding = Callable[[Sparsifier, Callable[[], None], int], tuple[int, str] | None]


def first_finding(first_finding: FirstFinding) -> None:
    """Exercise "Let an auditor watch": write a function that trains and calls the auditor after each step.

    At the first finding, the function returns the step and the name of the check. In the first run, a few
    steps do not apply the mask. The second run is healthy.
    """
    sparsifier, train_step = _trial(ill=range(13, 18))
    found = first_finding(sparsifier, train_step, 40)
    assert sparsifier.steps != 0, "first_finding() took no step; call train_step(), then sparsifier.step()."
    assert found is not None, (
        "you found nothing. The fault begins and ends within the run, so an audit at the end is too late. Call "
        "auditor.check() after each step."
    )
    assert isinstance(found, tuple), f"you return {found!r}; return a step and the name of a check."
    step, check = found
    assert step != 12, "12 is one too low; count the steps from 1, as sparsifier.steps does."
    assert step < 14, f"you found the fault after step {step}; call auditor.check() after each step to find it earlier."
    assert step == 13, (
        f"after step {step}, nothing was wrong yet; return the step after which the auditor found something."
    )
    assert check == "absent weights", f"you return the check {check!r}; return the `check` of the first finding."
    sparsifier, train_step = _trial(ill=range(0))
    found = first_finding(sparsifier, train_step, 40)
    assert found is None, f"you found {found} in a healthy run; return None for such a run."
    assert sparsifier.steps == 40, f"you ended the healthy run after {sparsifier.steps} of 40 steps; train to the end."


def _trial(ill: range) -> tuple[Sparsifier, Callable[[], None]]:
    """Return a toy run of CHTs, and a function for its training step that does not call sparsifier.step().

    The steps in `ill` do not apply the mask.
    """
    model, optimizer, batches = toys.training()
    sparsifier = Sparsifier(model, optimizer, "chts", 0.75, total_steps=40, update_every=10)
    fault, steps = ExitStack(), iter(range(1, 41))

    def train_step() -> None:
        step = next(steps)
        if step in ill and step - 1 not in ill:
            fault.enter_context(forgotten_mask(sparsifier))
        if step not in ill:
            fault.close()
        inputs, labels = batches[step - 1]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return sparsifier, train_step


def which_fault(which_fault: Callable[[Sequence[Row]], str | None]) -> None:
    """Exercise "Find the patient from its curves": write a function that finds the fault in the rows of a history.

    The function must be right for the six patients, for another layer of the same six runs, and for both layers of six
    runs with another seed.
    """
    names, letters = update_curves.NAMES, list(update_curves.patients())
    for number, (name, rows) in enumerate(update_curves.everyone()):
        said = which_fault([dict(row) for row in rows])
        who = f"patient {letters[number]}" if number < len(letters) else "a run that is not on the page"
        assert said is not None, f"which_fault() returns None for {who}; return one of {', '.join(map(repr, names))}."
        assert said in names, f"for {who}, you return {said!r}; expected one of {', '.join(map(repr, names))}."
        assert said == name, f"{who} is not {said!r}: {_evidence(name, rows)}"


def _evidence(name: str, rows: Sequence[Row]) -> str:
    """Say what the rows of a run show about its fault, without the name of the fault."""
    regrown = sum(row["regrown"] for row in rows)
    returned = sum(row["overlap"] * row["regrown"] for row in rows) / max(regrown, 1)
    of_all = f"{returned:.0%} of its {regrown} regrown links had just been removed"
    links = sorted({int(row["links"]) for row in rows})
    rise = f"the ITOP rate goes from {rows[0]['itop']:.1%} to {rows[-1]['itop']:.1%}"
    return {
        "collapsed layer": f"at the end, {rows[-1]['anp']:.0%} of its neurons are active, so no other curve matters.",
        "threshold with ties": f"its number of links varies from {links[0]} to {links[-1]}; look at `links` first.",
        "early end": f"its last update is at step {rows[-1]['step']} of {update_curves.STEPS}; look at `step`.",
        "stuck": (
            f"{of_all}, and {rise}. The last update alone says little: it regrows only {rows[-1]['regrown']} links. "
            "Look at all updates."
        ),
        "random regrowth": f"{of_all}, and {rise}. What overlap would pure chance produce?",
        "healthy": f"{of_all}, {rise}, and its last update is at step {rows[-1]['step']} of {update_curves.STEPS}.",
    }[name]


# Each curve in words, the format of its number, and the lowest and highest multiple of the healthy run's number that
# count as the same. The overlaps of healthy runs differ by a few per cent, and their numbers of active neurons differ
# by one or two.
_CURVES = {
    "links": ("the largest number of links", ".0f", 1.0, 1.0),
    "anp": ("the smallest share of active neurons", ".0%", 0.8, 2.0),
    "overlap": ("the share of all regrown links that had just been removed", ".0%", 0.5, 3.0),
}
_SAYS = {"fewer": "much lower than", "more": "higher than", "same": "about the same as"}
# What each diagnosis predicts for these three curves, compared with a healthy run.
_CLAIMS = {
    "best scores": ("same", "same", "more"),
    "random regrowth": ("same", "same", "fewer"),
    "too many links": ("more", "same", "same"),
    "removal by place": ("same", "fewer", "fewer"),
}


def diagnosis(diagnosis: str | None, *, patient: Sequence[Row], healthy: Sequence[Row]) -> None:
    """Exercise "The mystery patient": compare its curves with the curves of a healthy run, and find its fault."""
    assert diagnosis is not None, f"replace None with one of {', '.join(map(repr, _CLAIMS))}."
    assert diagnosis in _CLAIMS, f"you say {diagnosis!r}; expected one of {', '.join(map(repr, _CLAIMS))}."
    for (curve, (name, shown, low, high)), claimed in zip(_CURVES.items(), _CLAIMS[diagnosis], strict=True):
        value, usual = (_summary(curve, rows) for rows in (patient, healthy))
        found = "fewer" if value < low * usual else "more" if value > high * usual else "same"
        assert found == claimed, (
            f"{diagnosis!r} does not fit: it would make {name} {_SAYS[claimed]} in the healthy run. The patient's "
            f"value is {value:{shown}}, and the healthy run's value is {usual:{shown}}."
        )


def _summary(curve: str, rows: Sequence[Row]) -> float:
    if curve == "links":
        return max(row["links"] for row in rows)
    if curve == "anp":
        return min(row["anp"] for row in rows)
    return sum(row["overlap"] * row["regrown"] for row in rows) / sum(row["regrown"] for row in rows)
