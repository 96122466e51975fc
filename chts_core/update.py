"""One update of the topology, as the five choices of the method define it (paper, Figure 2)."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chts_core.choices import value_at
from chts_core.compiled.masks import LinkLists, among, count, merged
from chts_core.engine.gradients import Gradients
from chts_core.engine.network import SparseNetwork
from chts_core.engine.progress import Progress, Update
from chts_core.engine.sharding import is_sharded
from chts_core.engine.weights import PastWeights, set_bits
from chts_core.methods import Method
from chts_core.schedules import Timeline


@dataclass(frozen=True)
class Evolved:
    """The links after an update; the model has not changed yet.

    before, returned: for each part, the number of links before the update, and the number of links that the update
        both removes and regrows.
    survivors, regrown: for each part, the links that remain after the removal, and the regrown links.
    seconds: the time spent on each part; empty if no link changes.
    past_weights: the weights of all links that were ever removed.
    skipped: the parts that the update skips.
    """

    before: dict[str, int]
    returned: dict[str, int]
    survivors: LinkLists
    regrown: LinkLists
    seconds: dict[str, float]
    past_weights: dict[str, PastWeights]
    skipped: set[str]


class TopologyUpdate:
    """An update in two steps: `evolve` computes the new links, and `apply` changes the model.

    Args:
        network: the sparse layers.
        progress: the state of the run; `apply` records the update there.
        method: gives the removal, the regrowth and the turnover.
        timeline: the updates of the run.
        gradients: the gradients of this step.
    """

    def __init__(
        self, network: SparseNetwork, progress: Progress, method: Method, timeline: Timeline, gradients: Gradients
    ) -> None:
        self._network = network
        self._progress = progress
        self._method = method
        self._timeline = timeline
        self._gradients = gradients

    def evolve(self, step: int) -> Evolved:
        """Compute the new links of all parts.

        1. The budget gives the new number of links of each part, and how many links are exchanged.
        2. Each part is pruned to its new number of links, and the links to be exchanged are removed.
        3. If the method percolates, percolation removes the links that now come from or go to inactive neurons.
        4. Regrowth brings each part to its new number of links.

        Only the random generators change. After an exception, including Ctrl-C, their states are restored.
        """
        states = {name: generator.get_state() for name, generator in self._progress.generators.items()}
        try:
            return self._evolved(step)
        except BaseException:
            for name, state in states.items():
                self._progress.generators[name].set_state(state)
            raise

    def _evolved(self, step: int) -> Evolved:
        # Compute how many links each part will have, and how many of them will be new.
        network, budget, skipped = self._network, self._progress.budget, self._skipped
        before, shapes = network.num_links(), {name: part.shape for name, part in network.parts.items()}
        targets, exchanged = budget.links(step), budget.exchanged(step, before)
        unchanged = not any(before[name] != targets[name] or exchanged[name] for name in targets.keys() - skipped)
        if unchanged and not self._method.removal.returning:
            return Evolved({}, {}, LinkLists({}), LinkLists({}), {}, {}, skipped)
        if network.ranks.size > 1:
            network.ranks.check_same(network.lists())
        seconds = dict.fromkeys(targets, 0.0)

        # Prune to the target, and remove links.
        survivors = LinkLists(shapes)
        for name in targets:
            started = time.perf_counter()
            links = network.positions(name)
            if name not in skipped:
                links = self._remove(name, links, targets[name], exchanged[name], step)
            survivors[name] = links
            seconds[name] = time.perf_counter() - started
        network.share_out(survivors)
        # Percolation also removes links that come from or go to inactive neurons.
        if self._method.removal.percolate:
            survivors = network.percolated(survivors)
            survivors.update({name: network.positions(name) for name in skipped})
            network.ranks.check_same(survivors)
        past_weights = {name: copy.copy(past) for name, past in self._progress.past_weights.items()}
        for name, past in past_weights.items():
            gone = network.gone(name, survivors)
            past.remember(gone, network.weights[name].weights_at(gone))

        # Regrow links, back to the target.
        regrown = LinkLists(shapes, {name: survivors[name][:0] for name in shapes})
        for parameter, parts in network.parts_by_weight():
            gradient = self._gradients.mean(parameter, network.ranks)
            for name, part in parts:
                started = time.perf_counter()
                if network.is_mine(name) and name not in skipped:
                    rows = None if gradient is None else part.matrix(gradient)
                    regrown[name] = self._regrow(name, survivors[name], targets[name], rows, past_weights)
                seconds[name] += time.perf_counter() - started
        network.share_out(regrown)
        network.share_generators(self._progress.generators)
        returned = {name: count(among(links, network.positions(name))) for name, links in regrown.items()}
        return Evolved(before, returned, survivors, regrown, seconds, past_weights, skipped)

    def _remove(self, name: str, links: Tensor, target: int, exchanged: int, step: int) -> Tensor:
        """Prune a part to its target and remove the links to be exchanged. Return the links that are left."""
        network, removal, temperature = self._network, self._method.removal, self._method.removal.temperature
        weight, part = network.weight_of(name), network.parts[name]
        if not network.is_mine(name) and not is_sharded(weight.parameter):
            return links
        # If the weight is sharded, this is a collective operation: every rank must take part.
        weighted = weight.links(part, gradients=removal.needs_gradient)
        if not network.is_mine(name):
            return links
        kept = removal(
            weighted,
            target,
            exchanged,
            None if temperature is None else value_at(temperature, step, self._timeline),
            network.past(name, links, self._progress.past_weights)[1] if removal.returning else None,
            generator=self._progress.generators[name],
        )
        stays = torch.zeros(len(links), dtype=torch.bool, device=links.device)
        stays[kept] = True
        return links[stays]

    def _regrow(
        self,
        name: str,
        survivors: Tensor,
        target: int,
        gradient: Tensor | None,
        past_weights: Mapping[str, PastWeights],
    ) -> Tensor:
        """The regrown links, which bring a part to its target."""
        regrowth = self._method.regrowth
        past = self._network.past(name, survivors, past_weights) if regrowth.score == "magnitude" else None
        generator = self._progress.generators[name]
        num = target - len(survivors)
        return regrowth(survivors, self._network.parts[name].shape, num, gradient, past, generator=generator)

    def apply(self, evolved: Evolved) -> None:
        """Remove and add links in the weights, and record the changes."""
        network, progress = self._network, self._progress
        for name in network.parts:
            if network.is_frozen(name):
                progress.behind.setdefault(name, progress.updated_at)
            else:
                progress.behind.pop(name, None)
        progress.updated_at = progress.steps
        if not evolved.seconds:  # nothing has changed
            return
        progress.past_weights = evolved.past_weights
        rows = self._rows(evolved)
        for parameter, parts in network.parts_by_weight():
            started = time.perf_counter()
            self._rewire(parameter, evolved)
            rows[parts[-1][0]]["seconds"] += time.perf_counter() - started
        progress.history += rows.values()
        early_stop = self._method.turnover.early_stop
        if early_stop is not None and progress.budget.is_final(progress.steps):
            evolving = rows.keys() - evolved.skipped
            progress.stopped |= {name for name in evolving if rows[name]["overlap"] > early_stop}

    def _rewire(self, parameter: str, evolved: Evolved) -> None:
        """Survivors keep their values and optimizer state. New links start from zero, or from a past weight."""
        network, past = self._network, self._progress.past_weights.get(parameter)
        weight, new = network.weights[parameter], network.in_weight(parameter, evolved.regrown)
        weight.rewire(network.gone(parameter, evolved.survivors), new)
        if past is not None:
            weight.set_weights(new, past.recall(new))

    def _rows(self, evolved: Evolved) -> dict[str, Update]:
        """One row per part, with the changes that an update makes."""
        network, ever_active = self._network, self._progress.ever_active
        active = network.active_share(lambda name: merged(evolved.survivors[name], evolved.regrown[name])[0])
        for parameter, bits in ever_active.items():
            set_bits(bits, network.in_weight(parameter, evolved.regrown))
        ever = network.counts(ever_active)
        seconds = dict(zip(evolved.seconds, network.ranks.sum(list(evolved.seconds.values())), strict=True))
        rows: dict[str, Update] = {}
        for name, before in evolved.before.items():
            kept, new = len(evolved.survivors[name]), len(evolved.regrown[name])
            rows[name] = Update(
                step=self._progress.steps,
                layer=name,
                links=kept + new,
                removed=before - kept,
                regrown=new,
                overlap=evolved.returned[name] / max(new, 1),
                anp=active[name],
                itop=ever[name] / math.prod(network.parts[name].shape),
                seconds=seconds[name],
            )
        return rows

    @property
    def _skipped(self) -> set[str]:
        """The parts that an update skips, because their weight is not trained or because they have stopped early."""
        parts, stopped = self._network.parts, self._progress.stopped
        untrained = {name for name in parts if self._network.is_frozen(name)}
        evolving = {name for name, part in parts.items() if part.parameter in self._network.sparse} - untrained
        waits = self._method.turnover.together and not evolving <= stopped
        return untrained if waits else untrained | stopped
