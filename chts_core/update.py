"""One update of the topology: the method's five choices at work (paper, Figure 2)."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chts_core.choices import value_at
from chts_core.compiled.masks import count, positions
from chts_core.diagnostics import itop_rate
from chts_core.engine.gradients import Gradients
from chts_core.engine.network import SparseNetwork
from chts_core.engine.progress import Progress, Update
from chts_core.engine.sharding import is_sharded
from chts_core.engine.weights import PastWeights, pack_bits, unpack_bits
from chts_core.methods import Method
from chts_core.schedules import Timeline


@dataclass(frozen=True)
class Evolved:
    """What an update makes of the links; nothing of it is in the model yet.

    old, survivors, new: masks by the name of the weight, before the update, after the removal, and in the end.
    seconds: spent on each part; empty if no link goes or comes.
    past_weights: of all links that were ever removed.
    skipped: the parts that were left as they are.
    """

    old: dict[str, Tensor]
    survivors: dict[str, Tensor]
    new: dict[str, Tensor]
    seconds: dict[str, float]
    past_weights: dict[str, PastWeights]
    skipped: set[str]

    def regrown(self, parameter: str) -> Tensor:
        """The positions of the regrown links in the flattened weight, int64 in ascending order."""
        return positions(self.new[parameter] > self.survivors[parameter])


class TopologyUpdate:
    """An update in two steps: `evolve` finds out what the links will be, `apply` makes the model follow.

    Args:
        network: the sparse layers.
        progress: how far the run has come; `apply` notes the update there.
        method: its removal, regrowth and turnover.
        timeline: of the run.
        gradients: those that came in this step.
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
        """What the links of all parts will be.

        1. The budget says how many links each part shall have, and how many of them shall be new.
        2. Links beyond that number are pruned, and the links to be exchanged are removed.
        3. Percolation removes the links that this leaves incomplete, where the method wants that.
        4. Regrowth brings each part back to its number.

        Only the random generators change. An exception, Ctrl-C too, restores them.
        """
        states = {name: generator.get_state() for name, generator in self._progress.generators.items()}
        try:
            return self._evolved(step)
        except BaseException:
            for name, state in states.items():
                self._progress.generators[name].set_state(state)
            raise

    def _evolved(self, step: int) -> Evolved:
        # How many links each part shall have, and how many of them shall be new.
        network, budget, skipped = self._network, self._progress.budget, self._skipped
        targets, exchanged = budget.links(step), budget.exchanged(step)
        masks, links = network.masks, network.links()
        unchanged = not any(links[name] != targets[name] or exchanged[name] for name in targets.keys() - skipped)
        if unchanged and not self._method.removal.returning:
            return Evolved(masks, masks, masks, {}, {}, skipped)
        network.ranks.check_same(masks)
        seconds = dict.fromkeys(targets, 0.0)

        # Pruning to the target, and removal.
        survivors = {name: mask.clone() for name, mask in masks.items()}
        for name, mask in network.by_part(survivors).items():
            started = time.perf_counter()
            if name not in skipped:
                self._remove(name, mask, targets[name], exchanged[name], step)
            seconds[name] = time.perf_counter() - started
        network.share_out(survivors)
        # Percolation: links that lead nowhere go too.
        if self._method.removal.percolate:
            self._percolate(masks, survivors, skipped)
        past_weights = {name: copy.copy(past) for name, past in self._progress.past_weights.items()}
        for name, past in past_weights.items():
            gone = positions(masks[name] > survivors[name])  # is a link, and does not survive
            past.remember(gone, network.weights[name].weights_at(gone))

        # Regrowth, back to the target.
        new = {name: mask.clone() for name, mask in survivors.items()}
        by_part = network.by_part(new)
        for parameter, parts in network.parts_by_weight():
            gradient = self._gradients.mean(parameter, network.ranks)
            for name, part in parts:
                started = time.perf_counter()
                if network.is_mine(name) and name not in skipped:
                    rows = None if gradient is None else part.rows(gradient)
                    by_part[name] |= self._regrow(name, by_part[name].contiguous(), targets[name], rows, past_weights)
                seconds[name] += time.perf_counter() - started
        network.share_out(new)
        network.share_generators(self._progress.generators)
        network.ranks.check_same(new)
        return Evolved(masks, survivors, new, seconds, past_weights, skipped)

    def _remove(self, name: str, mask: Tensor, target: int, exchanged: int, step: int) -> None:
        """Prune a part to its target and remove the links to be exchanged, in place."""
        network, removal, temperature = self._network, self._method.removal, self._method.removal.temperature
        weight = network.weight_of(name)
        if not network.is_mine(name) and not is_sharded(weight.parameter):
            return
        # If the weight is sharded, this is a collective: every rank must come here.
        links = weight.links(network.parts[name], mask, gradients=removal.needs_gradient)
        if not network.is_mine(name):
            return
        kept = removal(
            links,
            target,
            exchanged,
            None if temperature is None else value_at(temperature, step, self._timeline),
            network.past(name, mask, self._progress.past_weights)[1] if removal.returning else None,
            generator=self._progress.generators[name],
        )
        mask.zero_()
        mask[links.outputs[kept], links.inputs[kept]] = True

    def _percolate(self, masks: dict[str, Tensor], survivors: dict[str, Tensor], skipped: set[str]) -> None:
        """Remove the incomplete links, in place; the parts that are skipped keep theirs."""
        percolated = self._network.percolated(survivors)
        for name, mask in self._network.by_layer(survivors).items():
            mask.copy_(percolated[name])
        before = self._network.by_part(masks)
        for name, mask in self._network.by_part(survivors).items():
            if name in skipped:
                mask.copy_(before[name])

    def _regrow(
        self,
        name: str,
        survivors: Tensor,
        target: int,
        gradient: Tensor | None,
        past_weights: Mapping[str, PastWeights],
    ) -> Tensor:
        """The links that bring a part back to its target."""
        regrowth = self._method.regrowth
        past = self._network.past(name, survivors, past_weights) if regrowth.score == "magnitude" else None
        num = target - count(survivors)
        return regrowth(survivors, num, gradient, past, generator=self._progress.generators[name])

    def apply(self, evolved: Evolved) -> None:
        """Let the weights have their new masks, and note what has changed."""
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
        rows = self._rows(evolved)  # before the masks change in place
        for parameter, parts in network.parts_by_weight():
            started = time.perf_counter()
            self._rewire(parameter, evolved)
            rows[parts[-1][0]]["seconds"] += time.perf_counter() - started
        progress.history += rows.values()
        early_stop, budget = self._method.turnover.early_stop, progress.budget
        if early_stop is not None and budget.links(progress.steps) == budget.links(self._timeline.total_steps):
            evolving = rows.keys() - evolved.skipped
            progress.stopped |= {name for name in evolving if rows[name]["overlap"] > early_stop}

    def _rewire(self, parameter: str, evolved: Evolved) -> None:
        """Survivors keep all that belongs to them; other links start from zeros, or from their past weight if any."""
        weight, past = self._network.weights[parameter], self._progress.past_weights.get(parameter)
        weight.rewire(evolved.survivors[parameter], evolved.new[parameter])
        if past is not None:
            regrown = evolved.regrown(parameter)
            weight.set_weights(regrown, past.recall(regrown))

    def _rows(self, evolved: Evolved) -> dict[str, Update]:
        """What an update does to each part."""
        network, ever_active = self._network, self._progress.ever_active
        active = network.active_share(evolved.new)
        seconds = dict(zip(evolved.seconds, network.ranks.sum(list(evolved.seconds.values())), strict=True))
        rows: dict[str, Update] = {}
        for parameter, parts in network.parts_by_weight():
            new = evolved.new[parameter]
            ever = unpack_bits(ever_active[parameter], new.shape).logical_or_(new.cpu())
            ever_active[parameter] = pack_bits(ever)
            for name, part in parts:
                old, survivors, new = (
                    part.rows(masks[parameter]) for masks in (evolved.old, evolved.survivors, evolved.new)
                )
                # Survivors are links before and after: these counts need no mask of what went or came.
                before, kept, links = map(count, (old, survivors, new))
                returned = count(old & new) - kept
                rows[name] = Update(
                    step=self._progress.steps,
                    layer=name,
                    links=links,
                    removed=before - kept,
                    regrown=links - kept,
                    overlap=returned / max(links - kept, 1),
                    anp=active[name],
                    itop=itop_rate(part.rows(ever)),
                    seconds=seconds[name],
                )
        return rows

    @property
    def _skipped(self) -> set[str]:
        """The parts that an update skips: their weight does not train, or they have stopped early."""
        parts, stopped = self._network.parts, self._progress.stopped
        untrained = {name for name in parts if self._network.is_frozen(name)}
        evolving = {name for name, part in parts.items() if part.parameter in self._network.sparse} - untrained
        waits = self._method.turnover.together and not evolving <= stopped
        return untrained if waits else untrained | stopped
