"""Attach a method to a model and its optimizer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.budget import Budget
from chts_core.checks import warn
from chts_core.compiled.masks import count
from chts_core.distributions import Shares
from chts_core.engine.compaction import compact
from chts_core.engine.coverage import coverage
from chts_core.engine.distributed import ranks_of
from chts_core.engine.gradients import Gradients, skip_before_updates
from chts_core.engine.graph import find_layers
from chts_core.engine.guard import Guard, check_dense, check_execution, check_held, few, warn_of_rounding
from chts_core.engine.initial import first_masks, generator_of, with_correlation
from chts_core.engine.layers import Selection, check_in_memory, unwrap
from chts_core.engine.linear import Execution
from chts_core.engine.network import SparseNetwork
from chts_core.engine.progress import Progress, Update, from_state, to_state
from chts_core.engine.warm_start import Start, method_from, warn_of_lost_training
from chts_core.engine.watch import inner_optimizer, is_accumulating, undisturbed
from chts_core.engine.weights import MaskedWeight, Weight, unpack_bits
from chts_core.methods import Method
from chts_core.percolation import LayerGraph
from chts_core.schedules import Timeline
from chts_core.update import TopologyUpdate


class Sparsifier:
    """Applies a sparse training method to a model. Attach it and call `step()`, as with a learning-rate scheduler.

        sparsifier = Sparsifier(model, optimizer, method="chts", sparsity=0.95, total_steps=1000)
        for batch in batches:
            loss(batch).backward(); optimizer.step(); sparsifier.step(); optimizer.zero_grad()

    By default, the weights stay dense tensors with zeros where the mask has no link. Gradients of absent links are
    zeroed as soon as they are computed, so gradient clipping uses the sparse gradient. After every step, the weight,
    gradient and optimizer state of absent links are zero. A regrown link starts from zero, or from its last weight if
    the method remembers it. With `execution="csr"`, new layers replace the linear layers; they store and multiply only
    the existing links (:class:`chts_core.engine.linear.SparseLinear`). The run stays the same, up to rounding.

    `step()` counts the optimizer's steps. Without an optimizer step, as in gradient accumulation, it changes nothing.
    Methods that use gradients use the sum over the backward passes of a step. An interrupted update leaves the links as
    they were. If a gradient is infinite or NaN, the update waits for the next step, with a warning. A layer with a
    frozen weight (`requires_grad_(False)`) keeps its links until it is trained again. `torch.compile` may wrap the
    model before or after attaching. A newer Sparsifier takes over. For other changes, see `docs/guides/followed.md`.

    Several processes can train one model, in `DistributedDataParallel` or `fully_shard`, each with a Sparsifier that
    has the same settings. In an update, each process updates some layers, and the processes compare the masks. Methods
    that use gradients use the mean gradient over all processes. `DistributedDataParallel` needs `execution="masked"`.

    Args:
        model: any module. Its linear layers, attention projections, convolutions, recurrent layers, bilinear layers
            and experts can be sparse (:mod:`chts_core.engine.kinds`).
        optimizer: holds the model's weights. A state tensor of any name with a weight's shape gets the weight's mask.
        method: a `Method`, or a name in `METHODS` or `PRESETS`, optionally with replaced choices
            (:func:`chts_core.methods.get_method`).
        sparsity: final share of absent links, in [0, 1).
        total_steps: optimizer steps of the run.
        update_every: number of steps between updates of the topology (ΔT), or a list of the steps of all updates.
        seed: the only source of randomness of the topology; each layer has its own generator.
        include: the layers to sparsify, given as a glob pattern for the names of layers or modules ("encoder.*"),
            several patterns, or a function of a module's name and the module. Default: all layers that are trained.
        exclude: which of these layers stay dense, in the same form. Default: the layers that give the model's outputs,
            the routers of experts, and depthwise convolutions. Your value replaces this default. Embeddings are never
            sparse.
        graph: for percolation, which layers feed each layer. By default, the Sparsifier traces the model. Layers that
            could not be traced are not percolated, and a warning lists them.
        per_head: whether every head of queries, keys and values evolves separately, with its own links.
        execution: "masked", "csr" or "auto"; see :class:`chts_core.engine.linear.SparseLinear`. Weights that must be
            dense tensors (in `nn.MultiheadAttention`, `Conv1D`) stay dense with "auto" and raise an error with "csr".
        distribution: how the layers share the links: "uniform", "erdos_renyi", "erdos_renyi_kernel", a dictionary from
            glob patterns for layers or modules to final sparsities, {"encoder.*": 0.8}, or your own
            :class:`chts_core.distributions.Distribution`. If no pattern fits a layer, it has the sparsity `sparsity`.
        correlation: |r| between the features of the training inputs, (features, features), from
            :meth:`chts_core.topology.Correlation.matrix`, for a method that starts from correlations (CSTI). The matrix
            is repeated, like tiles, to cover a layer of another size.
        start: how the run begins. "method": with the links of the method's topology. "magnitude": with the largest
            weights of each layer. "dense": with all weights; then the density decays to the final density (for most
            methods, by :class:`chts_core.choices.Cubic`). Use "magnitude" or "dense" for a trained model.
        initial_masks: masks to start from, by layer name, instead of the method's topology. Each mask is shaped like
            the weight of the same name, or (out_features, in_features) for a part of a weight.
        process_group: the group of the processes that train the model together. Default: the group of the model's DDP
            or FSDP wrapper, or else the default group.
        resume_from: a `state_dict()` to continue from, if the model and the optimizer have already loaded their saved
            states. Without `resume_from`, attaching zeroes the weights outside the initial masks; load the states of
            the model, optimizer and Sparsifier afterwards.
        reschedule: whether `resume_from` may be from a run with a different `total_steps`, to train longer; see
            `load_state_dict`.

    Attributes:
        network, progress: the sparse layers and the state of the run, read only.

    Raises:
        ValueError, TypeError: for settings that cannot work. In this case, nothing is changed.
        RuntimeError: if the processes of a group have different masks.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: str | Method = "chts",
        sparsity: float = 0.9,
        *,
        total_steps: int,
        update_every: int | Sequence[int] = 100,
        seed: int = 0,
        include: Selection | None = None,
        exclude: Selection | None = None,
        graph: LayerGraph | None = None,
        per_head: bool = False,
        distribution: Shares = "uniform",
        execution: Execution = "masked",
        correlation: Tensor | None = None,
        start: Start = "method",
        initial_masks: Mapping[str, Tensor] | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
        resume_from: dict[str, Any] | None = None,
        reschedule: bool = False,
    ) -> None:
        self.method = method_from(start, method)
        self.timeline = Timeline(total_steps, update_every, self.method.turnover.stop)
        self.execution = execution
        self._given_optimizer = optimizer
        self.optimizer = inner_optimizer(optimizer)
        ranks = ranks_of(model, process_group)
        model = unwrap(model)
        found = find_layers(check_dense(model), self.method, include, exclude, graph, per_head)
        for note in found.notes:
            warn(note)
        layers, parts, graph = found.chosen.layers, found.parts, found.graph
        shapes = {name: part.full_shape for name, part in parts.items()}
        budget = Budget(self.method, sparsity, self.timeline, shapes, distribution)
        weights = {part.parameter: model.get_parameter(part.parameter) for part in parts.values()}
        check_in_memory(weights)
        check_held(weights, self.optimizer)
        check_execution(execution, model, list(weights), self.optimizer, ranks)
        generators = {name: generator_of(seed, name, weights[part.parameter].device) for name, part in parts.items()}
        topology = with_correlation(self.method.topology, correlation, budget, start)
        masks = first_masks(start, initial_masks, topology, layers, parts, graph, weights, budget, generators)
        held: dict[str, Weight] = {name: MaskedWeight(weights[name], masks[name], self.optimizer) for name in weights}
        sparse = list(dict.fromkeys(parts[name].parameter for name in budget.sparse_parts()))
        self.network = SparseNetwork(model, layers, parts, graph, held, sparse, ranks)
        self.progress = Progress.at_start(budget, generators, self.network)
        self._guard = Guard(self.network, self.optimizer, found.chosen.frozen)
        self._gradients = Gradients(held, self.method.regrowth.needs_gradient, self._guard)
        self._regrowth_hooks: list[Callable[[str, Tensor], None]] = []
        self._coverage = coverage(model, found.chosen)
        if resume_from is not None:
            self.load_state_dict(resume_from, reschedule=reschedule)
        elif start == "method" and not initial_masks:
            warn_of_lost_training(self.network.with_weights(masks))
        if sparse and include is None:
            self._coverage.warn_if_small()
        warn_of_rounding(weights[name].dtype for name in sparse)
        self.network.clear(self.optimizer, execution)
        self._connect()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Boolean masks by the name of the weight ("0.weight"), each shaped like its weight; read only."""
        return self.network.masks

    @property
    def sparsity(self) -> float:
        """Share of absent links at the end of the run."""
        return self.progress.budget.final_sparsity

    @property
    def steps(self) -> int:
        """Steps counted so far."""
        return self.progress.steps

    @property
    def history(self) -> list[Update]:
        """One row per update and layer (:class:`chts_core.engine.progress.Update`).

        The Sparsifier never reads this list. In a very long run, you may save it elsewhere and empty it.
        """
        return self.progress.history

    @property
    def postponed(self) -> list[int]:
        """The steps at which an update was postponed."""
        return self.progress.postponed

    @property
    def update_due(self) -> bool:
        """Whether the next `step()` updates the topology."""
        steps, postponed = self.steps, self.postponed
        return bool(postponed and postponed[-1] == steps) or self.timeline.is_update(steps + 1)

    @property
    def graph(self) -> LayerGraph:
        """The graph that percolation uses: which layers feed each layer, as far as the Sparsifier knows."""
        return self.network.graph

    # The old name, which users' programs still read; remove it with the next release.
    _graph = graph

    @property
    def is_attached(self) -> bool:
        """Whether no other Sparsifier has been attached to the model since this one."""
        return not self._guard.superseded

    def density(self, *, whole_model: bool = False) -> float:
        """The number of links, divided by the number of possible links, in all sparse layers together.

        With `whole_model`, this is the density of all weight matrices except embeddings, and layers that are not sparse
        count as dense. Raises a RuntimeError if the model has weights outside the masks, for example after other
        weights were loaded; see :meth:`step`.
        """
        self._guard.check_masks()
        density = self.network.density()
        return 1 - self._coverage.share * (1 - density) if whole_model else density

    def active_neurons(self) -> float:
        """Share of the output neurons of all sparse layers that are active.

        Raises the same errors as :meth:`density`.
        """
        self._guard.check_masks()
        active = self.network.active(self.network.positions).values()
        return sum(map(count, active)) / sum(map(len, active))

    def itop_rate(self) -> float:
        """Share of all possible links that were ever active, over all sparse layers (ITOP)."""
        return self.network.share(self.network.counts(self.progress.ever_active))

    def compact(self, *args: Any, **kwargs: Any) -> nn.Module:
        """A smaller copy of the model, without inactive hidden neurons; its outputs are the same.

        Pass an example input as you would to the model (:func:`chts_core.engine.compaction.compact`). Raises the
        same errors as :meth:`density`.
        """
        self._guard.check_masks()
        network = self.network
        return compact(network.model, network.by_layer(self.masks), network.graph, *args, **kwargs)

    @torch.no_grad()
    def rescale_weights(self) -> None:
        """Divide each sparse layer's weights by √density. Call this method once, before you train a fresh model.

        Without this call, the output of a neuron with 1 % of its inputs varies only a tenth as much as in the dense
        layer. After a few such layers, no signal is left. Do not use this method for pretrained weights.
        """
        for name, mask in self.network.by_part(self.masks).items():
            factor = (mask.numel() / count(mask)) ** 0.5
            self.network.weight_of(name).scale(self.network.parts[name], factor)

    def register_regrowth_hook(self, hook: Callable[[str, Tensor], None]) -> None:
        """Register hook(name, positions), to be called for each sparse weight after every update that changes links.

        `name` is a key of `masks`. `positions` are the positions of the regrown links in the flattened weight, int64 in
        ascending order; there may be none. They include links that the same update removed first.
        """
        self._regrowth_hooks.append(hook)

    @torch.no_grad()
    def step(self, *, skipped: bool = False) -> None:
        """Update the topology on schedule, and keep absent weights at zero. Call `step` once after each optimizer step.

        Args:
            skipped: whether to count a step that was skipped on purpose, for example because the loss was not finite.

        Raises:
            RuntimeError: if another Sparsifier has been attached to the model, parameters have been replaced, another
                optimizer has stepped, or weights do not fit the masks. When an update is due, the error is also raised
                if the method needs gradients and there are none, or if a link's weight is infinite or NaN. In these
                cases, nothing is changed.
        """
        guard, progress = self._guard, self.progress
        guard.check_attached(self.update_due)
        guard.check_masks()
        if is_accumulating(self._given_optimizer):
            return
        progress.steps -= guard.calls_to_take_back(progress.steps, progress.updated_at)
        guard.check_optimizer()
        due = self.update_due
        overflowing = guard.not_finite(self._gradients.dense) if due else []
        if not guard.is_step(skipped or bool(overflowing)):
            return
        if self.steps >= self.timeline.total_steps and not due:
            guard.complain(
                "past the end",
                f"this is step {self.steps + 1} of a run of {self.timeline.total_steps} steps; the links no longer "
                "change.",
            )
        if due:
            guard.check_weights(self.steps + 1)
            guard.check_gradients(self.method, self._gradients.dense)
        update = TopologyUpdate(self.network, progress, self.method, self.timeline, self._gradients)
        evolved = None
        if due and not overflowing:
            # Link prediction counts with matrix products, which autocast would round.
            with torch.autocast(self.network.device_type, enabled=False):
                evolved = update.evolve(self.steps + 1)
        # From here on, the step runs to its end: an interrupt waits until then.
        with nullcontext() if evolved is None else undisturbed():
            progress.steps += 1
            if evolved is not None:
                update.apply(evolved)
                guard.record_links()
            self._gradients.forget()
            for name in self.network.sparse:
                self.network.weights[name].clear_absent(guard.keeps_zeros)
            if overflowing:
                progress.postponed.append(self.steps)
            guard.settle()
        if overflowing:
            warn(
                f"a gradient at step {self.steps} is infinite or NaN ({few(overflowing)}); the update of the topology "
                "waits for the next step.",
                RuntimeWarning,
            )
        if evolved is not None and evolved.seconds:
            for hook in self._regrowth_hooks:  # last, so that the step is complete if a hook raises
                for name in self.network.weights:
                    hook(name, self.network.in_weight(name, evolved.regrown))

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to continue bit for bit, if the states of the model and the optimizer are also saved.

        "masks" maps the name of each weight to its Boolean mask. If a layer stores only its links, its mask is
        {"bits", "shape"} instead (:func:`chts_core.engine.progress.to_state`). Raises the same errors as
        :meth:`density`.
        """
        self._guard.check_masks()
        return to_state(self.progress, self.network, self._settings())

    def load_state_dict(self, state: dict[str, Any], *, reschedule: bool = False) -> None:
        """Continue from `state_dict()`. After attaching, load the states of the model and the optimizer first.

        Warns if the model has lost weights of the saved links, which happens if you loaded the weights before
        attaching.

        Args:
            state: the state of a run with the same settings.
            reschedule: whether to accept a run with a different `total_steps`. From the next step on, sparsity,
                turnover and temperature follow this run's schedule, but the sparsity never falls below its saved value.
                If layers can gain links, `total_steps` must be the same. Use the old one to keep the old schedule.

        Raises:
            TypeError, ValueError: if the state has different settings or layers, if it is incomplete, or if no
                update is left that could reach the final sparsity. In these cases, nothing is changed.
        """
        loaded, masks = from_state(state, self.progress, self.network, self._settings(), reschedule)
        empty = self.network.empty_links(masks)
        if empty > state["empty_links"]:
            warn(
                f"{empty} links of the saved masks have weight 0 in this model, but only {state['empty_links']} had "
                "weight 0 when they were saved. Attaching zeroes the weights outside the initial masks. So attach "
                "first, then load the states of the model and the optimizer, and this state last; or build the "
                "Sparsifier with resume_from=state.",
                RuntimeWarning,
            )
        self.progress = loaded
        for name, weight in self.network.weights.items():
            weight.load_mask(unpack_bits(masks[name], weight.shape).to(weight.parameter.device))
        self.network.set_crossovers(self.progress.crossovers)
        self._gradients.forget()
        self._guard.record_links()
        self._guard.settle()

    def _settings(self) -> dict[str, Any]:
        """The settings that must be the same in a run and in the run that it continues."""
        budget = self.progress.budget
        return {
            "method": repr(self.method),
            "graph": repr(self.network.graph),
            "sparsity": budget.sparsity,
            "distribution": repr(budget.distribution) if callable(budget.distribution) else budget.distribution,
            "execution": self.execution,
            "total_steps": self.timeline.total_steps,
            "update_every": self.timeline.update_every,
        }

    def _connect(self) -> None:
        """Watch the gradients and the optimizer from now on."""
        self.network.set_crossovers(self.progress.crossovers)
        self._gradients.listen(self.network.sparse, self)
        self._guard.listen(fresh=self.steps == 0)
        self.optimizer.register_step_post_hook(self._after_optimizer)  # which also keeps this object alive
        if self.method.turnover.skip_optimizer:
            skip_before_updates(self.optimizer, self, self._guard)
        self._guard.settle()

    def _after_optimizer(self, *_: Any) -> None:
        self._guard.after_optimizer()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Connect a copied or unpickled Sparsifier to the copies of its model and optimizer."""
        self.__dict__.update(state)
        self._connect()
