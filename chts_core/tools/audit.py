"""Checks of a sparse training run. They look at a Sparsifier between steps and report what is wrong, with numbers.

    findings = audit(sparsifier)          # at any time between two steps

    auditor = Auditor(sparsifier)  # during the run; an Auditor also checks the links that an update has just regrown
    ...loss.backward(); optimizer.step(); sparsifier.step(); findings = auditor.check()

The checks do not change the run. They are based on the definitions, not on the code of the Sparsifier. For example, the
expected numbers of links come from the definitions of the method's schedule and of the distribution, not from the
Sparsifier's budget. So the checks can also find a mistake in the budget.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chts_core.balance import Balanced, BalancedRegrowth
from chts_core.distributions import sparsities_by_layer
from chts_core.engine import optimizer_state
from chts_core.engine.optimizer_state import first_value
from chts_core.engine.weights import LinkWeight, Weight
from chts_core.percolation import percolate
from chts_core.sparsifier import Sparsifier


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run.

    check: the name of the check that found the fault: a key of `CHECKS`, or `REGROWN`.
    layer: the name of the weight, or of its part if heads or packed projections are checked separately.
    message: what was found and expected, in numbers, and what to do.
    """

    check: str
    layer: str
    message: str


def audit(sparsifier: Sparsifier) -> list[Finding]:
    """Find everything that is wrong with a run now, between two steps. The list is empty if nothing is wrong.

    A layer that stores only its links has no values outside its links, so the first two of `CHECKS` find nothing there.
    """
    return [finding for check in CHECKS.values() for finding in check(sparsifier)]


class Auditor:
    """Audits a run after every step, and also checks the links that an update has just regrown.

        auditor = Auditor(sparsifier)     # before the first step
        for batch in batches:
            loss(batch).backward(); optimizer.step(); sparsifier.step(); auditor.check(); optimizer.zero_grad()

    The Auditor remembers the links before a step, so that it knows which links an update has regrown. The
    optimizer states of these links must have their initial values. Their weights must be zero, unless the method
    restores past weights.

    Attributes:
        findings: all findings so far, but only the first one for each check and layer.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.findings: list[Finding] = []
        self._sparsifier = sparsifier
        self._steps = sparsifier.steps
        self._masks = _copies(sparsifier)

    def check(self) -> list[Finding]:
        """Audit the run. Call this method after every `sparsifier.step()`.

        Returns:
            The new findings: each check reports a layer only once.

        Raises:
            RuntimeError: if a step was missed, so that regrown links have already been trained.
        """
        steps = self._sparsifier.steps
        if steps not in (self._steps, self._steps + 1):
            raise RuntimeError(
                f"the Sparsifier is at step {steps} but the last check came after step {self._steps}; call check() "
                "after every step, or build a new Auditor when you resume a run."
            )
        found = audit(self._sparsifier)
        if steps > self._steps:
            found += _regrown_links(self._sparsifier, self._masks)
            self._steps, self._masks = steps, _copies(self._sparsifier)
        known = {(finding.check, finding.layer) for finding in self.findings}
        new = [finding for finding in found if (finding.check, finding.layer) not in known]
        self.findings += new
        return new


def moments(sparsifier: Sparsifier, name: str) -> dict[str, Tensor]:
    """The optimizer's tensors with one value for each element of a sparse weight, by name, for example the momentum.

    Args:
        name: a key of `Sparsifier.masks`.

    Returns:
        Tensors shaped like the optimizer's parameter: the weight, or one value per link if only links are stored.
    """
    return dict(optimizer_state.moments(sparsifier.optimizer, sparsifier.network.weights[name].parameter))


# --- the checks ---


def _absent_weights(sparsifier: Sparsifier) -> Iterator[Finding]:
    for name, weight in _dense(sparsifier):
        count, largest = _outside(weight.parameter.detach(), weight.mask)
        if count:
            yield Finding(
                "absent weights",
                name,
                f"{count} of {int((~weight.mask).sum())} absent links have a weight, up to {largest:.2g}, after step "
                f"{sparsifier.steps}; expected none. The model computes with links that it should not have. Zero "
                "the weight outside the mask after every optimizer step.",
            )


def _absent_moments(sparsifier: Sparsifier) -> Iterator[Finding]:
    for name, weight in _dense(sparsifier):
        for key, state in moments(sparsifier, name).items():
            count, largest = _outside(state, weight.mask)
            if count:
                yield Finding(
                    "absent moments",
                    name,
                    f"{count} of {int((~weight.mask).sum())} absent links have an optimizer state {key}, up to "
                    f"{largest:.2g}, after step {sparsifier.steps}; expected none. This state would move a link "
                    "that comes back. Zero the optimizer's state of removed links, and the gradient of absent links.",
                )
                break  # all states of a weight go wrong together


def _number_of_links(sparsifier: Sparsifier) -> Iterator[Finding]:
    progress = sparsifier.progress
    expected = {step: _expected(sparsifier, step) for step in {progress.updated_at, *progress.behind.values()}}
    for name, mask in sparsifier.network.by_part(sparsifier.masks).items():
        found, wanted = int(mask.count_nonzero()), expected[progress.behind.get(name, progress.updated_at)][name]
        if found not in (0, wanted):  # another check finds layers without links
            yield Finding(
                "links",
                name,
                f"{found} links after step {sparsifier.steps}; expected exactly {wanted} (difference "
                f"{found - wanted:+}). Select this number of links by rank. A threshold also selects every link "
                "whose score equals the threshold.",
            )


def _collapse(sparsifier: Sparsifier) -> Iterator[Finding]:
    masks = sparsifier.network.by_layer(sparsifier.masks)
    for name, mask in percolate(masks, sparsifier.network.graph).items():
        links = int(masks[name].count_nonzero())
        if links == 0:
            problem = f"none of the {mask.numel()} possible links is left"
        elif not mask.any():
            problem = f"none of its {links} links lies on a path from the inputs to the outputs, so no neuron is active"
        else:
            continue
        yield Finding(
            "collapse",
            name,
            f"{problem} after step {sparsifier.steps}: no signal passes. Lower the sparsity, widen the layer, or look "
            "at its schedule: chts.plan shows the links of every layer at every stage.",
        )


def _density(sparsifier: Sparsifier) -> Iterator[Finding]:
    last = sparsifier.timeline.last_update
    if sparsifier.steps < last or sparsifier.update_due:
        return
    scheduled = _expected(sparsifier, sparsifier.progress.updated_at)
    final = _expected(sparsifier, sparsifier.timeline.total_steps)
    for name, mask in sparsifier.network.by_part(sparsifier.masks).items():
        found, size = int(mask.count_nonzero()), mask.numel()
        if found == scheduled[name] > final[name]:  # another check finds wrong numbers of links
            yield Finding(
                "density",
                name,
                f"density {found / size:.2%} after step {sparsifier.steps}; expected {final[name] / size:.2%}, and no "
                f"update comes after step {last}. The decay ends after the last update. End it at that update or "
                "earlier.",
            )


def _finite(sparsifier: Sparsifier) -> Iterator[Finding]:
    for name, weight in sparsifier.network.weights.items():
        count = int((~weight.parameter.detach().isfinite()).count_nonzero())
        if count:
            yield Finding(
                "finite",
                name,
                f"{count} of {weight.parameter.numel()} weights are infinite or NaN after step {sparsifier.steps}; go "
                "back to a checkpoint and lower the learning rate, or clip the gradient.",
            )


def _balance(sparsifier: Sparsifier) -> Iterator[Finding]:
    method = sparsifier.method
    if not (isinstance(method.topology, Balanced) and isinstance(method.regrowth, BalancedRegrowth)):
        return
    for name, mask in sparsifier.network.by_part(sparsifier.masks).items():
        links = mask.reshape(-1, method.regrowth.block or mask.shape[1]).sum(1)
        if links.max() - links.min() > 1:
            yield Finding(
                "balance",
                name,
                f"blocks have {int(links.min())} to {int(links.max())} links after step {sparsifier.steps}; expected "
                f"the same number in each block, or one more in some blocks, because the method has {method.regrowth}. "
                "Do not change the masks by hand.",
            )


CHECKS: Mapping[str, Callable[[Sparsifier], Iterator[Finding]]] = {
    "absent weights": _absent_weights,
    "absent moments": _absent_moments,
    "links": _number_of_links,
    "balance": _balance,
    "collapse": _collapse,
    "density": _density,
    "finite": _finite,
}
# The name of the check that needs an Auditor.
REGROWN = "regrown links"


def _regrown_links(sparsifier: Sparsifier, before: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Find the links that do not start from zero, right after the update that regrew them.

    Links that were absent before the update are checked one by one. Links that were removed and regrown in the same
    update look as if they had stayed. Only the number of these links is known: among the links that seem to have
    stayed, at least this many must be at zero.
    """
    old, new = sparsifier.network.by_part(before), sparsifier.network.by_part(sparsifier.masks)
    at_zero = sparsifier.network.by_part({name: _at_zero(sparsifier, name) for name in sparsifier.masks})
    for row in reversed(sparsifier.history):
        if row["step"] != sparsifier.steps:
            break
        name = row["layer"]
        came = new[name] & ~old[name]
        returned = row["regrown"] - int(came.count_nonzero())
        stayed_at_zero = int((new[name] & old[name] & at_zero[name]).count_nonzero())
        stale = int((came & ~at_zero[name]).count_nonzero()) + max(returned - stayed_at_zero, 0)
        if stale:
            past = "an optimizer state" if sparsifier.method.regrowth.history else "a weight or an optimizer state"
            yield Finding(
                REGROWN,
                name,
                f"{stale} of {row['regrown']} links regrown at step {row['step']} do not start from zero: they have "
                f"{past} from before the update. Set old values to zero for every link that an update removes or "
                "regrows, even if the link comes back at once.",
            )


def _at_zero(sparsifier: Sparsifier, name: str) -> Tensor:
    """Boolean, shaped like the weight: True where the optimizer's state has its initial value and the weight is zero.

    If regrown links get their past weights back, only the state is compared.
    """
    weight = sparsifier.network.weights[name]
    zero = torch.ones(weight.parameter.shape, dtype=torch.bool, device=weight.parameter.device)
    for key, state in moments(sparsifier, name).items():
        zero &= state == first_value(sparsifier.optimizer, weight.parameter, key)
    if not sparsifier.method.regrowth.history:
        zero &= weight.parameter.detach() == 0
    if isinstance(weight, LinkWeight):
        placed = torch.ones(weight.shape, dtype=torch.bool, device=zero.device)
        placed.view(-1)[weight.layer.links.positions()] = zero
        return placed
    return zero


def _expected(sparsifier: Sparsifier, step: int) -> dict[str, int]:
    """The number of links that each part must have after an update at a step."""
    settings = sparsifier.progress.budget

    def scheduled(final: float) -> float:
        return max(sparsifier.method.sparsity.at(step, sparsifier.timeline, final), settings.least.get(final, 0.0))

    density = 1 - scheduled(settings.sparsity)
    shapes = {name: part.full_shape for name, part in sparsifier.network.parts.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    if isinstance(settings.distribution, Mapping):
        finals = sparsities_by_layer(settings.distribution, shapes, settings.sparsity)
        return {name: round((1 - scheduled(finals[name])) * math.prod(shape)) for name, shape in shapes.items()}
    if callable(settings.distribution):
        return settings.distribution(shapes, scheduled(settings.sparsity))
    if settings.distribution == "uniform":
        return {name: round(density * size) for name, size in zip(shapes, sizes, strict=True)}
    if settings.distribution == "erdos_renyi":
        sums = [(shape[0] + shape[1]) * math.prod(shape[2:]) for shape in shapes.values()]
    else:
        sums = [sum(shape) for shape in shapes.values()]
    return dict(zip(shapes, _erdos_renyi(sizes, sums, round(density * sum(sizes))), strict=True))


def _erdos_renyi(sizes: Sequence[int], sums: Sequence[int], total: int) -> list[int]:
    """The number of links of each layer: ε · sum, but at least 1 and at most the layer's size. They sum to `total`."""

    def links(epsilon: int) -> list[int]:
        # `epsilon` is in units of 2^-45, small enough to separate the values at which two layers gain a link.
        rounded = ((2 * epsilon * weight + 2**45) >> 46 for weight in sums)
        return [max(1, min(size, number)) for size, number in zip(sizes, rounded, strict=True)]

    largest = bisect_right(range(2**62), total, key=lambda epsilon: sum(links(epsilon))) - 1
    found, more = links(largest), links(largest + 1)
    gaining = [i for i in range(len(found)) if more[i] > found[i]]  # layers that gain a link at the same ε, in order
    for i in gaining[: total - sum(found)]:
        found[i] += 1
    return found


def _dense(sparsifier: Sparsifier) -> Iterator[tuple[str, Weight]]:
    """The weights that also store absent links."""
    for name, weight in sparsifier.network.weights.items():
        if not isinstance(weight, LinkWeight):
            yield name, weight


def _outside(tensor: Tensor, mask: Tensor) -> tuple[int, float]:
    """How many elements outside a mask are not zero, and the largest magnitude among them."""
    absent = tensor[~mask]
    count = int(absent.count_nonzero())
    return count, float(absent.abs().max()) if count else 0.0


def _copies(sparsifier: Sparsifier) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}
