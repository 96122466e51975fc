"""Healthy runs, and runs with one deliberate fault each. Such faults are known from other code for sparse training.

    with injected_bugs.stale_moments(sparsifier):
        ...train...

    patient = injected_bugs.run(task, "chtss", 0.9, "stale moments", hidden=64, epochs=10)

A fault lasts until its `with` block ends, but the effect of the fault on the weights stays.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core import schedules
from chts_core.budget import Budget
from chts_core.choices import Regrowth
from chts_core.compiled.masks import mask_of, positions
from chts_core.distributions import Shares
from chts_core.engine.weights import MaskedWeight, zero_absent
from chts_core.lab.data import ImageData
from chts_core.lab.models import mlp
from chts_core.link_prediction import PREDICTORS
from chts_core.methods import Method
from chts_core.schedules import Timeline
from chts_core.sparsifier import Sparsifier
from chts_core.tools.audit import REGROWN, Auditor, Finding, moments

# --- the faults ---


@contextmanager
def stale_moments(sparsifier: Sparsifier) -> Iterator[None]:
    """The optimizer keeps the state of a removed link, and this state moves the weight of the link after its regrowth.

    Raises:
        ValueError: if a layer stores only its links.
    """

    def rewire_weight_alone(name: str, weight: MaskedWeight) -> Callable[[Tensor, Tensor], None]:
        right = weight.rewire

        def rewire(survivors: Tensor, mask: Tensor) -> None:
            kept = [(state, state.clone()) for state in moments(sparsifier, name).values()]
            right(survivors, mask)
            for state, before in kept:
                state.copy_(before)

        return rewire

    def clear_weight_alone(weight: MaskedWeight) -> Callable[[bool], None]:
        return lambda _: zero_absent(weight.parameter.data, weight.mask)

    with ExitStack() as stack:
        for name, weight in _masked(sparsifier).items():
            stack.enter_context(patch.object(weight, "rewire", rewire_weight_alone(name, weight)))
            stack.enter_context(patch.object(weight, "clear_absent", clear_weight_alone(weight)))
        yield


@contextmanager
def forgotten_mask(sparsifier: Sparsifier) -> Iterator[None]:
    """The mask is applied only at updates. Between updates, the optimizer trains the weights of absent links too.

    Raises:
        ValueError: if a layer stores only its links.
    """

    def let_through(weight: MaskedWeight, stack: ExitStack) -> None:
        # The Sparsifier's own hook runs before `put_back` and sets the gradient of absent links to zero.
        dense: list[Tensor] = []

        def keep(gradient: Tensor) -> None:
            dense.append(gradient.clone())

        def put_back(parameter: Tensor) -> None:
            assert parameter.grad is not None
            parameter.grad += dense.pop().masked_fill(weight.mask, 0)

        stack.callback(weight.parameter.register_hook(keep).remove)
        stack.callback(weight.parameter.register_post_accumulate_grad_hook(put_back).remove)

    with ExitStack() as stack:
        for weight in _masked(sparsifier).values():
            let_through(weight, stack)
            stack.enter_context(patch.object(weight, "clear_absent", lambda _: None))
        yield


@contextmanager
def collapsed_layer(sparsifier: Sparsifier, at: float = 0.4) -> Iterator[None]:
    """The schedule of the middle layer falls to zero links.

    Args:
        at: the time of the collapse, as a fraction of the run.
    """
    names = list(sparsifier.network.parts)
    right = sparsifier.progress.budget
    budget = _Collapsing(
        right.method,
        *_settings(right),
        layer=names[len(names) // 2],
        step=round(at * sparsifier.timeline.total_steps),
    )
    with patch.object(sparsifier.progress, "budget", budget):
        yield


@contextmanager
def outliving_decay(sparsifier: Sparsifier) -> Iterator[None]:
    """The density should decay until the end of the run, but the updates stop earlier.

    Raises:
        ValueError: if the density does not fall during the run.
    """
    right = sparsifier.progress.budget
    initial, final = right.at(0), right.at(right.timeline.total_steps)
    if initial >= final:
        raise ValueError(
            f"the sparsity is {initial} at the start and {final} at the end, so there is no decay that could "
            "continue after the last update; choose a method with a density decay, such as 'chtss', and a final "
            "sparsity above its initial sparsity."
        )
    method = replace(sparsifier.method, sparsity=_Outliving(initial))
    budget = _Unchecked(method, *_settings(right))
    with patch.object(sparsifier, "method", method), patch.object(sparsifier.progress, "budget", budget):
        yield


@contextmanager
def threshold_with_ties(sparsifier: Sparsifier) -> Iterator[None]:
    """Regrowth takes the links with the highest CH2-L3n scores, and every other link whose score equals the lowest of
    these scores.

    In bfloat16, many scores are equal.
    """
    with _regrowing(sparsifier, _ThresholdWithTies):
        yield


@contextmanager
def top_regrowth(sparsifier: Sparsifier) -> Iterator[None]:
    """Regrowth that should be soft takes the highest CH2-L3n scores, so the regrown links do not depend on the seed."""
    with _regrowing(sparsifier, _Top):
        yield


Fault = Callable[[Sparsifier], AbstractContextManager[None]]

FAULTS: Mapping[str, Fault] = {
    "stale moments": stale_moments,
    "forgotten mask": forgotten_mask,
    "collapsed layer": collapsed_layer,
    "outliving decay": outliving_decay,
    "threshold with ties": threshold_with_ties,
}

# For each fault, the checks that find it. No other check finds it.
SIGNATURES: Mapping[str, frozenset[str]] = {
    "stale moments": frozenset({"absent moments", REGROWN}),
    "forgotten mask": frozenset({"absent weights", "absent moments"}),
    "collapsed layer": frozenset({"collapse"}),
    "outliving decay": frozenset({"density"}),
    "threshold with ties": frozenset({"links"}),
}


# --- runs ---


@dataclass(frozen=True)
class Patient:
    """A run after its last step, with the values that were recorded during the run.

    loss: the loss of each step.
    nonzero: for each step, the share of nonzero weights in the sparse layers just before the forward pass.
    density: for each step, the share of the possible links that are present just before the forward pass.
    findings: the findings of an Auditor that checks the run after every step.
    """

    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    loss: list[float]
    nonzero: list[float]
    density: list[float]
    findings: list[Finding]

    @property
    def checks(self) -> frozenset[str]:
        """The names of the Auditor's checks that found a fault."""
        return frozenset(finding.check for finding in self.findings)


def run(
    data: ImageData,
    method: str | Method,
    sparsity: float,
    fault: str | Fault | None = None,
    *,
    hidden: int = 64,
    epochs: int = 10,
    updates_per_epoch: int = 4,
    seed: int = 0,
    weight_seed: int = 0,
    initial_masks: Mapping[str, Tensor] | None = None,
) -> Patient:
    """Train an MLP with three sparse hidden layers by SGD with momentum. A fault, if given, acts from the first step.

    Args:
        data: an image task, on the CPU.
        method, sparsity: arguments of the Sparsifier.
        fault: a name in `FAULTS`, or your own function of the same kind; None for a healthy run.
        hidden: units per hidden layer.
        epochs: passes over the training images, in batches of 32.
        updates_per_epoch: how often the topology is updated in each epoch.
        seed: seed of the topology.
        weight_seed: seed of the initial weights and of the order of the images.
        initial_masks: argument of the Sparsifier.

    Raises:
        ValueError: for an unknown fault, or for settings that do not fit together.
    """
    if isinstance(fault, str) and fault not in FAULTS:
        raise ValueError(f"fault is {fault!r}; expected one of {', '.join(map(repr, FAULTS))}, a function or None.")
    generator = torch.Generator().manual_seed(weight_seed)
    model = mlp(data.features, hidden, data.classes, layers=3, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    update_every = len(data.train.labels) // 32 // updates_per_epoch
    batches = update_every * updates_per_epoch
    sparsifier = Sparsifier(
        model,
        optimizer,
        method,
        sparsity,
        total_steps=epochs * batches,
        update_every=update_every,
        seed=seed,
        initial_masks=initial_masks,
    )
    sparsifier.rescale_weights()
    auditor = Auditor(sparsifier)
    patient = Patient(model, optimizer, sparsifier, [], [], [], auditor.findings)
    break_it = FAULTS[fault] if isinstance(fault, str) else fault
    with nullcontext() if break_it is None else break_it(sparsifier):
        for _ in range(epochs):
            order = torch.randperm(len(data.train.labels), generator=generator)
            for batch in order[: batches * 32].split(32):
                _step(patient, data, batch)
                auditor.check()
    return patient


def _step(patient: Patient, data: ImageData, batch: Tensor) -> None:
    """Do one training step and record its values."""
    patient.nonzero.append(_nonzero(patient.sparsifier))
    patient.density.append(patient.sparsifier.density())
    some = data.train.take(batch)
    loss = F.cross_entropy(patient.model(some.images), some.labels)
    patient.optimizer.zero_grad()
    loss.backward()
    patient.optimizer.step()
    patient.sparsifier.step()
    patient.loss.append(loss.item())


def _nonzero(sparsifier: Sparsifier) -> float:
    weights = [weight.dense() for weight in sparsifier.network.weights.values()]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


# --- parts of the faults ---


class _Unchecked(Budget):
    """A budget whose values are not checked."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class _Collapsing(_Unchecked):
    layer: str = ""
    step: int = 0

    def links(self, step: int) -> dict[str, int]:
        links = super().links(step)
        return links | {self.layer: 0} if step >= self.step else links


@dataclass(frozen=True)
class _Outliving:
    initial: float

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return schedules.sigmoid_sparsity(step, 0, timeline.total_steps, self.initial, final)


@dataclass(frozen=True)
class _ThresholdWithTies(Regrowth):
    def __call__(self, links: Tensor, shape: tuple[int, int], num: int, *_: object, **__: object) -> Tensor:
        mask = mask_of(links, shape)
        scores = PREDICTORS["ch2_l3n"](mask).bfloat16().masked_fill(mask, -1)
        return positions(scores >= scores.flatten().topk(num).values[-1]) if num else links[:0]


@dataclass(frozen=True)
class _Top(Regrowth):
    def __call__(self, links: Tensor, shape: tuple[int, int], num: int, *_: object, **__: object) -> Tensor:
        mask = mask_of(links, shape)
        scores = PREDICTORS["ch2_l3n"](mask).masked_fill(mask, -1).flatten()
        return scores.topk(num).indices.sort().values


def _regrowing(sparsifier: Sparsifier, rule: type[Regrowth]) -> AbstractContextManager[object]:
    """Inside the `with` block, regrow links with another rule."""
    regrowth = sparsifier.method.regrowth
    wrong = rule(regrowth.score, regrowth.soft, regrowth.history)
    return patch.object(sparsifier, "method", replace(sparsifier.method, regrowth=wrong))


def _settings(budget: Budget) -> tuple[float, Timeline, Mapping[str, tuple[int, ...]], Shares]:
    return budget.sparsity, budget.timeline, budget.shapes, budget.distribution


def _masked(sparsifier: Sparsifier) -> dict[str, MaskedWeight]:
    weights = {name: weight for name, weight in sparsifier.network.weights.items() if isinstance(weight, MaskedWeight)}
    alone = sparsifier.network.weights.keys() - weights.keys()
    if alone:
        raise ValueError(
            f"the layers {', '.join(sorted(alone))} store only their links, and this fault needs weights of absent "
            "links; choose execution='masked'."
        )
    return weights
