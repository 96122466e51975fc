"""Attach a method to a model and its optimizer."""

import copy
import hashlib
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from chts_core.checks import check_mask, check_same_shape
from chts_core.choices import Correlated, ScaleFree, Topology, value_at
from chts_core.compaction import compact
from chts_core.coverage import coverage
from chts_core.diagnostics import itop_rate, overlap
from chts_core.distributed import ranks_of
from chts_core.layers import Layer, Selection, check_in_memory, frozen_layers, sparse_layers, split_heads, unwrap
from chts_core.linear import Execution, SparseLinear, convertible
from chts_core.link_prediction import sample_links
from chts_core.methods import Method, get_method
from chts_core.percolation import LayerGraph, active_neurons, check_graph, percolate
from chts_core.planner import Budget, find_graph, sparse_parameters
from chts_core.removal import WeightedLinks, scores_of
from chts_core.sampling import choose, draw
from chts_core.schedules import Timeline
from chts_core.sharding import is_shared_out, local, whole, whole_from_local
from chts_core.topology import correlated
from chts_core.warm_start import largest, loses_training
from chts_core.watch import LostSteps, Watch, inner_optimizer, is_accumulating, undisturbed
from chts_core.weights import (
    LinkWeight,
    MaskedWeight,
    PastWeights,
    Weight,
    check_elementwise,
    check_moments,
    pack_bits,
    store_links,
    unpack_bits,
    zero_absent,
)

# Which Sparsifier rules a weight: the latest that was attached.
_RULED_BY: MutableMapping[Tensor, "weakref.ref[Sparsifier]"] = WeakIdKeyDictionary()


_LOSES_TRAINING = (
    "the model looks trained, and the initial masks drop more than half of the squared norm of its weights. To keep "
    'the largest weights, pass initial_masks="magnitude". To start from all, take a method whose density decays, '
    'such as method="gmp with sparsity=Cubic(initial=0)". To say that this is meant, pass masks of your own.'
)
# Share of a step of the optimizer that may be lost without a warning.
_NOTEWORTHY_LOSS = 0.01
_UNCOUNTED = (
    "sparsifier.step() was called without a step of the optimizer since the last call. The call does not count: call "
    "it once after each step of the optimizer, or with skipped=True where that was left out."
)


class Update(TypedDict):
    """One row of `Sparsifier.history`: what an update did to a layer, or to a head where heads evolve by themselves."""

    step: int
    layer: str
    links: int  # after the update
    removed: int  # by decay, removal and percolation together
    regrown: int
    overlap: float  # share of the regrown links that this update had removed (ELM when near 1)
    anp: float  # share of the layer's output neurons that are active
    itop: float  # share of all possible links that were ever active
    seconds: float  # spent on this layer's removal and regrowth


class _Evolved(NamedTuple):
    """What an update makes of the links; nothing of it is in the model yet.

    old, survivors, new: masks by the name of the weight, before the update, after the removal, and in the end.
    seconds: spent on each part; empty if no link goes or comes.
    past_weights: of all links that were ever removed.
    frozen: the parts that were left as they are.
    """

    old: dict[str, Tensor]
    survivors: dict[str, Tensor]
    new: dict[str, Tensor]
    seconds: dict[str, float]
    past_weights: dict[str, PastWeights]
    frozen: set[str]


class Sparsifier:
    """Trains a model sparsely by a method, as a learning-rate scheduler attaches to an optimizer.

        sparsifier = Sparsifier(model, optimizer, method="chts", sparsity=0.95, total_steps=1000)
        for batch in batches:
            loss(batch).backward(); optimizer.step(); sparsifier.step(); optimizer.zero_grad()

    By default the weights stay dense tensors that hold zeros where the mask has no link. Gradients of absent links are
    zeroed as soon as they are computed, so clipping sees the sparse gradient; absent links have weight, gradient and
    optimizer state zero after every step. A regrown link starts from zeros, or from the weight that it last had where
    the method remembers it. With `execution="csr"` the new layers store and multiply only the existing links
    (:class:`chts_core.linear.SparseLinear`). The run is the same up to rounding; it takes a fraction of the memory, and
    less time where there are few links.

    Several backward passes per step accumulate: methods that go by the gradient see that of the whole step.
    `torch.compile` may wrap the model before or after; all changes happen in place.

    Several processes that train one model, in `DistributedDataParallel` or shared out by `fully_shard`, each have a
    Sparsifier of the same settings. They share the work of an update, a layer each, and send each other the masks;
    methods that go by the gradient take the mean over all. At every update masks are compared, and the run stops where
    they differ. `DistributedDataParallel` may wrap the model before or after, but does not work with layers that store
    their links alone.

    An update that meets an infinite or NaN gradient is put off to the next step, with a warning; one that meets a link
    of such a weight is refused. An update that is interrupted leaves the links as they were.

    A layer whose weight is frozen (`requires_grad_(False)`) keeps its links until it trains again. Weights that are
    loaded without their masks, parameters that are replaced, and steps of another optimizer are refused with words.
    Only steps of the optimizer count: a call of `step()` without one, as under gradient accumulation, changes nothing.

    A model has one Sparsifier at a time: a newer one takes over, and the older one refuses to step. The optimizer keeps
    it alive. A copy of the model alone (`copy.deepcopy`, `torch.save`) is free of it; model, optimizer and Sparsifier
    can be copied or saved together. :class:`chts_core.averaging.AveragedModel` averages the weights over steps.

    Args:
        model: any module with linear layers; those inside `nn.MultiheadAttention` and GPT-2's `Conv1D` count.
        optimizer: holds the model's weights. State tensors shaped like a weight follow its links, whatever the
            optimizer calls them.
        method: a `Method`, or a name in `METHODS` or `PRESETS`, also with choices replaced
            (:func:`chts_core.methods.get_method`).
        sparsity: share of absent links to end at, in [0, 1).
        total_steps: optimizer steps of the run.
        update_every: steps between updates of the topology (ΔT).
        seed: the topology depends on it alone; each layer has a generator of its own.
        include: the layers to sparsify, as a glob pattern on their names or their modules' ("encoder.*"), several of
            them, or a test on a module's name and the module. By default all that train.
        exclude: which of those stay dense, likewise. By default the layers that give the model's outputs, and the
            routers of experts; what is given takes the place of that. Embeddings are never sparse.
        graph: which layers feed each other, for percolation. By default read off the model
            (:mod:`chts_core.tracing`); layers that could not be traced are not percolated, and a warning names them.
        per_head: let every head of queries, keys and values evolve by itself, with links of its own.
        execution: "masked", "csr" or "auto", see :class:`chts_core.linear.SparseLinear`. With "auto", layers that
            must stay dense tensors (those in `nn.MultiheadAttention`, `Conv1D`) do; with "csr" they are refused.
        distribution: how the links are shared out among the layers: "uniform", "erdos_renyi" or "erdos_renyi_kernel".
        correlation: |r| of the features of the training inputs, (features, features), for a method that starts from it
            (CSTI): :meth:`chts_core.topology.Correlation.matrix`. It is tiled over layers of another size.
        initial_masks: masks to start from, by layer name, instead of the method's topology; shaped like the weight
            that has this name, and (out_features, in_features) for a part of one. Or "magnitude": the largest weights
            of each layer, to fine-tune a trained model. To start one from all its weights, take a method whose density
            decays: `method="gmp with sparsity=Cubic(initial=0)"`.
        process_group: whose processes train the model together; by default, of a wrapped or shared-out model its own,
            and otherwise all that `torch.distributed` knows of.
        resume_from: a `state_dict()` to go on from, for a model and an optimizer that hold theirs already. Without it,
            attaching zeroes the weights outside the initial masks: then load all three states afterwards.
        reschedule: take `resume_from` of a run with another `total_steps`, to train longer, see `load_state_dict`.

    Attributes:
        history: one :class:`Update` per update and layer. It is for its reader alone: a run of very many updates may
            write it elsewhere and empty it.
        postponed: the steps whose update was put off.

    Raises:
        ValueError, TypeError: for settings that cannot work, before anything is changed.
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
        update_every: int = 100,
        seed: int = 0,
        include: Selection | None = None,
        exclude: Selection | None = None,
        graph: LayerGraph | None = None,
        per_head: bool = False,
        distribution: str = "uniform",
        execution: Execution = "masked",
        correlation: Tensor | None = None,
        initial_masks: Mapping[str, Tensor] | Literal["magnitude"] | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
        resume_from: dict[str, Any] | None = None,
        reschedule: bool = False,
    ) -> None:
        self.method = get_method(method)
        self.timeline = Timeline(total_steps, update_every, self.method.turnover.stop)
        self._given_optimizer = optimizer
        self.optimizer = optimizer = inner_optimizer(optimizer)
        # Without a gradient these leave the state of a link at zero; what another optimizer does is not known.
        self._keeps_zeros = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        self.steps = 0
        self.history: list[Update] = []
        self.postponed: list[int] = []

        self._ranks = ranks_of(model, process_group)
        self._model = unwrap(model)
        already = [path for path, module in self._model.named_modules() if isinstance(module, SparseLinear)]
        if already:
            raise ValueError(
                f"the layers {', '.join(already)} of the model store their links alone already; "
                "call chts_core.linear.to_dense(model) and build the optimizer anew, or take a new model."
            )
        self._layers = sparse_layers(self._model, include, exclude)
        self._graph, notes = find_graph(self._model, self.method, self._layers) if graph is None else (graph, [])
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        # What evolves by itself: a layer, or a head of one.
        self._parts = split_heads(self._layers, self._graph) if per_head else self._layers
        self._budget = Budget(
            self.method, sparsity, self.timeline, {name: part.shape for name, part in self._parts.items()}, distribution
        )
        parameters = dict(self._model.named_parameters())
        weights = {name: parameters[name] for name in dict.fromkeys(p.parameter for p in self._parts.values())}
        check_in_memory(weights)
        _check_ownership(weights, optimizer)
        self.execution = execution
        self._check_execution(list(weights))

        self._generators = {
            name: _generator(seed, name, weights[part.parameter].device) for name, part in self._parts.items()
        }
        given = initial_masks or {}
        if isinstance(given, str):
            given = self._largest(weights, given)
        masks = self._initial_masks(weights, given, self._topology(correlation))
        self._weights: dict[str, Weight] = {
            name: MaskedWeight(weight, masks[name], optimizer) for name, weight in weights.items()
        }
        self._ever_active = {name: pack_bits(mask) for name, mask in masks.items()}
        percolate(self._by_layer(masks), self._graph)  # a graph that does not fit is refused now, not mid-run
        self._ranks.check_same(masks)
        self._owners = self._ranks.owners(
            {name: rows * columns for name, (rows, columns) in self._budget.shapes.items()}
        )
        # The step whose schedule the number of links follows, and the parts whose early stop has been signalled.
        self._updated_at = 0
        self._stopped: set[str] = set()
        # Parts whose weight was frozen at the last updates: the step whose schedule their number of links follows.
        self._behind: dict[str, int] = {}
        # The gradient by all links, where an update by it is due: what came in this backward pass, and in those before.
        self._gradients: dict[str, Tensor] = {}
        self._arriving: dict[str, tuple[int, Tensor]] = {}
        self._grad_versions: dict[str, int] = {}
        # Whether the hook of the optimizer has been seen to count its steps; the calls before; what was complained of.
        self._counted, self._calls_before = False, 0
        self._complaints: set[str] = set()
        self._watch = Watch(self._model, optimizer, self._weights)
        self._lost: LostSteps | None = None
        self._superseded = False  # by a newer Sparsifier
        self._crossovers: dict[str, float | None] = {}
        self._regrowth_hooks: list[Callable[[str, Tensor], None]] = []
        self._past_weights = (
            {name: PastWeights(weight.dtype, weight.device) for name, weight in weights.items()}
            if self.method.regrowth.history
            else {}
        )
        if resume_from is not None:
            self.load_state_dict(resume_from, reschedule=reschedule)
        self._enforced = sparse_parameters(self._parts, self._budget)  # a dense layer, as in FC, costs nothing
        if not given and resume_from is None:
            layers = ((whole(weights[name].detach()), masks[name]) for name in self._enforced)
            if loses_training(layers):
                warnings.warn(_LOSES_TRAINING, UserWarning, stacklevel=2)
        self._coverage = coverage(self._model, self._layers)
        if self._coverage.noteworthy and self._enforced and include is None:
            warnings.warn(
                f"{self._coverage}. The sparsity is that of the sparse layers; density(whole_model=True) counts all. "
                "To say that this is meant, name the layers by include.",
                UserWarning,
                stacklevel=2,
            )
        self._waiting = frozen_layers(self._model, include, exclude)
        self._attach()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Boolean mask by the name of the weight ("0.weight"), shaped like it; read only."""
        return {name: weight.mask for name, weight in self._weights.items()}

    @property
    def sparsity(self) -> float:
        """Share of absent links at the end of the run."""
        return self._budget.sparsity

    @property
    def update_due(self) -> bool:
        """Whether the next `step()` updates the topology."""
        return bool(self.postponed and self.postponed[-1] == self.steps) or self.timeline.is_update(self.steps + 1)

    def density(self, *, whole_model: bool = False) -> float:
        """Share of the links that exist, over all sparse layers.

        Args:
            whole_model: over all matrices of the model but embeddings, where those of no sparse layer are dense.

        Raises:
            RuntimeError: if the model has weights outside the masks, as after loading others; see :meth:`step`.
        """
        self._check_masks()
        density = _share(self._by_part(self.masks))
        return 1 - self._coverage.share * (1 - density) if whole_model else density

    def active_neurons(self) -> float:
        """Share of the output neurons of all sparse layers that are active (ANP); it raises as :meth:`density`."""
        self._check_masks()
        return _share(active_neurons(self._by_layer(self.masks), self._graph))

    def itop_rate(self) -> float:
        """Share of all possible links that were active at some time, over all sparse layers (ITOP)."""
        return _share(self._by_part(self._unpack_ever_active()))

    def compact(self, *args: Any, **kwargs: Any) -> nn.Module:
        """A smaller copy of the model, without the hidden neurons that are inactive; its outputs are the same.

        See :func:`chts_core.compaction.compact`. It raises as :meth:`density` does.

        Args:
            args, kwargs: an example input, as the model is called with.
        """
        self._check_masks()
        return compact(self._model, self._by_layer(self.masks), self._graph, *args, **kwargs)

    @torch.no_grad()
    def rescale_weights(self) -> None:
        """Divide each sparse layer's weights by √density, once, before a fresh model is trained.

        An output that sums over 1 % of its inputs varies by a tenth of what the dense initialisation planned; a few
        such layers in a row let no signal through. Not for pretrained weights.
        """
        for name, mask in self._by_part(self.masks).items():
            part = self._parts[name]
            self._weights[part.parameter].scale(part, (mask.numel() / int(mask.count_nonzero())) ** 0.5)

    def register_regrowth_hook(self, hook: Callable[[str, Tensor], None]) -> None:
        """Call a function for each sparse weight whenever an update has changed its links.

        Args:
            hook: takes the name of the weight, as in `masks`, and the positions of its regrown links in the flattened
                weight, int64 in ascending order. Links that this update had removed are among them.
        """
        self._regrowth_hooks.append(hook)

    @torch.no_grad()
    def step(self, *, skipped: bool = False) -> None:
        """Call once after every optimizer step: updates the topology when due and keeps absent weights at zero.

        Args:
            skipped: count a step that the optimizer has left out on purpose, as for a loss that is not finite.

        Raises:
            RuntimeError: if another Sparsifier has been attached to the model since; parameters have been replaced;
                another optimizer has stepped; weights have come that are not of the masks; or an update is due and the
                method goes by gradients and none has come, or a link's weight is infinite or NaN. Nothing is changed
                then.
        """
        self._check_attached()
        self._check_masks()
        if is_accumulating(self._given_optimizer):
            return
        if self._watch.steps and not self._counted:
            self._take_back()
        if self._lost is not None and self._watch.steps:
            self._say_what_is_lost(self._lost.share())
        due = self.update_due
        overflowing = self._not_finite() if due else []
        missing = self._watch.counts and not self._watch.steps and not (skipped or overflowing)
        if missing and not self._overflows():  # else a gradient scaler has left out the step
            if self._counted:
                self._complain("uncounted", _UNCOUNTED)
                return
            self._calls_before += 1
        if self.steps >= self.timeline.total_steps:
            self._complain(
                "past the end",
                f"this is step {self.steps + 1} of a run of {self.timeline.total_steps}: the links stay as they are.",
            )
        if due:
            self._check_weights()
            self._check_gradients()
        evolved = None
        if due and not overflowing:
            # Link prediction counts in products of matrices, which autocast would round.
            with torch.autocast(self._device_type, enabled=False):
                evolved = self._evolve(self.steps + 1)
        # Once the links change, the step is made, whatever comes.
        with nullcontext() if evolved is None else undisturbed():
            self.steps += 1
            if evolved is not None:
                self._adopt(evolved)
            self._gradients.clear()
            self._arriving.clear()
            for name in self._enforced:
                self._weights[name].clear_absent(self._keeps_zeros)
            if due and overflowing:
                self.postponed.append(self.steps)
            self._watch.settle()
        if due and overflowing:
            warnings.warn(
                f"a gradient at step {self.steps} is infinite or NaN, that of {_few(overflowing)}; the topology's "
                "update waits for the next step.",
                RuntimeWarning,
                stacklevel=3,  # past the decorator
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on to the same bits, beside the model's and the optimizer's own state.

        Raises:
            RuntimeError: if the model has weights outside the masks, as after loading others; see :meth:`step`.
        """
        self._check_masks()
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            **self._settings(),
            "steps": self.steps,
            "updated_at": self._updated_at,
            "stopped": sorted(self._stopped),
            "behind": self._behind.copy(),
            "postponed": list(self.postponed),
            "empty_links": self._empty_links(self.masks),
            "crossovers": {name: layer.crossover for name, layer in self._sparse_layers().items()},
            "masks": {name: mask.cpu().clone() for name, mask in self.masks.items()},
            "ever_active": self._unpack_ever_active(),
            "past_weights": {
                name: {"positions": past.positions.cpu().clone(), "values": past.values.cpu().clone()}
                for name, past in self._past_weights.items()
            },
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "history": [row.copy() for row in self.history],
            **({"least_sparsity": self._budget.least} if self._budget.least else {}),
        }

    def load_state_dict(self, state: dict[str, Any], *, reschedule: bool = False) -> None:
        """Go on from `state_dict()`; load the model's and the optimizer's state first, but after attaching.

        Warns if the model has lost weights of the saved links, as it has when it was loaded before attaching.

        Args:
            state: of a run with the same settings.
            reschedule: whether that run may have had another `total_steps`. From the next step on, sparsity, turnover
                and temperature are those of this run's schedule at that step, but no layer gains links: the sparsity
                stays as it is until the schedule exceeds it. To keep the old schedule, build the Sparsifier with the
                old `total_steps` and step on: after its last update the topology stays as it is.

        Raises:
            TypeError, ValueError: if the state is of other settings or other layers, or not whole, or no update is left
                to reach the final sparsity; nothing is changed.
        """
        missing = self._state().keys() - state.keys() - {"behind", "least_sparsity"}  # not saved by earlier versions
        if missing:
            raise ValueError(f"the saved state lacks {', '.join(sorted(missing))}; load what state_dict() returned.")
        for key, ours in self._settings().items():
            if state[key] != ours and not (reschedule and key == "total_steps"):
                longer = " To train longer than planned, load it with reschedule=True." if key == "total_steps" else ""
                raise ValueError(
                    f"the saved state has {key} {state[key]!r} but this Sparsifier has {ours!r}; "
                    f"build it with the settings of the run that saved the state.{longer}"
                )
        shapes = self._shapes()
        wanted: dict[str, Mapping[str, object]] = {
            "masks": shapes,
            "ever_active": shapes,
            "past_weights": self._past_weights,
            "generators": self._generators,
        }
        for key, ours in wanted.items():
            if state[key].keys() != ours.keys():
                raise ValueError(
                    f"the saved {key} are of layers {sorted(state[key])} but the model's sparse layers are "
                    f"{sorted(ours)}; load the state into the model that saved it."
                )
        for key in ("masks", "ever_active"):
            for name, mask in state[key].items():
                check_mask(mask, f"saved mask {name!r}")
                check_same_shape(mask, _of_shape(shapes[name]), f"saved mask {name!r}")
        for name, past in state["past_weights"].items():
            _check_past_weights(past, shapes[name], f"the saved past weights {name!r}")
        behind = state.get("behind", {})
        if reschedule and behind:
            raise ValueError(
                f"{', '.join(behind)} were frozen at the last update of the saved run, so that they follow a schedule "
                "of their own; go on with its total_steps until they have been updated."
            )
        budget = self._rescheduled(state) if reschedule else self._budget_of(state)
        updated_at = 0 if reschedule else state["updated_at"]
        at_step = {step: budget.links(step) for step in {updated_at, *behind.values()}}
        for name, part in self._parts.items():
            links = at_step[behind.get(name, updated_at)][name]
            found = int(part.rows(state["masks"][part.parameter]).count_nonzero())
            if found != links:
                raise ValueError(
                    f"the saved mask {name!r} has {found} links; expected exactly {links} "
                    f"after step {state['steps']}. The saved state was changed or damaged."
                )
        # New generators first: one that does not fit is refused before anything is changed.
        generators = {name: torch.Generator(generator.device) for name, generator in self._generators.items()}
        for name, generator in generators.items():
            try:
                generator.set_state(state["generators"][name].cpu())  # torch.load may have mapped it elsewhere
            except (AttributeError, RuntimeError, TypeError) as error:
                raise ValueError(f"the saved generator of layer {name!r} does not fit: {error}") from error

        empty = self._empty_links(state["masks"])
        if empty > state["empty_links"]:
            warnings.warn(
                f"{empty} links of the saved masks have weight 0 in this model, {state['empty_links']} when they were "
                "saved. Attaching zeroes the weights outside the initial masks: load the model's and the optimizer's "
                "state after that and before this one, or build the Sparsifier with resume_from=state.",
                RuntimeWarning,
                stacklevel=2,
            )

        self._generators = generators
        for name, layer in self._sparse_layers().items():
            layer.crossover = state["crossovers"].get(name, layer.crossover)
        self._crossovers = dict(state["crossovers"])
        for name, weight in self._weights.items():
            weight.adopt(state["masks"][name].to(weight.parameter.device))
            self._ever_active[name] = pack_bits(state["ever_active"][name])
        for name, past in self._past_weights.items():
            saved = state["past_weights"][name]
            past.positions = saved["positions"].to(past.positions, copy=True)
            past.values = saved["values"].to(past.values, copy=True)
        self.steps = state["steps"]
        self._budget, self._updated_at = budget, updated_at
        self._stopped = set(state["stopped"])
        self._behind = dict(behind)
        self.postponed = list(state["postponed"])
        self.history = [row.copy() for row in state["history"]]
        self._gradients.clear()
        self._arriving.clear()
        self._watch.settle()

    def _budget_of(self, state: Mapping[str, Any]) -> Budget:
        """The budget of a saved run of the same length."""
        least = state.get("least_sparsity", 0.0)
        return self._budget if least == self._budget.least else replace(self._budget, least=least)

    def _rescheduled(self, state: Mapping[str, Any]) -> Budget:
        """That of this run, for links of which a saved one, maybe of another length, has lost some already."""
        saved = replace(self._budget_of(state), timeline=replace(self.timeline, total_steps=state["total_steps"]))
        budget = replace(self._budget, least=saved.at(state["updated_at"]))
        ended = state["steps"] >= self.timeline.last_update
        if ended and budget.links(0) != budget.links(self.timeline.total_steps):
            raise ValueError(
                f"the saved state is of step {state['steps']}, with sparsity {budget.at(0)}, and in a run of "
                f"{self.timeline.total_steps} steps no update is left to reach {self.sparsity}; train for more steps."
            )
        return budget

    def _empty_links(self, masks: Mapping[str, Tensor]) -> int:
        """Number of links whose weight is exactly zero."""
        return sum(
            int(((weight.dense() == 0) & masks[name].to(weight.parameter.device)).count_nonzero())
            for name, weight in self._weights.items()
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "method": repr(self.method),
            "graph": repr(self._graph),
            "sparsity": self.sparsity,
            "distribution": self._budget.distribution,
            "execution": self.execution,
            "total_steps": self.timeline.total_steps,
            "update_every": self.timeline.update_every,
        }

    @property
    def _frozen(self) -> set[str]:
        """The parts that stay as they are: stopped early, or their weight is frozen."""
        waits = self.method.turnover.together and len(self._stopped) < len(self._parts)
        return (set() if waits else self._stopped) | {name for name in self._parts if self._is_frozen(name)}

    def _is_frozen(self, name: str) -> bool:
        """Whether the weight of a part does not train."""
        return not self._weights[self._parts[name].parameter].parameter.requires_grad

    def _expected_links(self) -> dict[str, int]:
        """The number of links that each part must have now."""
        at_step = {step: self._budget.links(step) for step in {self._updated_at, *self._behind.values()}}
        return {name: at_step[self._behind.get(name, self._updated_at)][name] for name in self._parts}

    def _rules(self) -> bool:
        """Whether no other Sparsifier has been attached to the model since."""
        return not self._superseded

    @property
    def _collects(self) -> bool:
        """Whether the gradient by all links is wanted now."""
        return self.method.regrowth.needs_gradient and self.update_due

    def _forget_dropped(self, name: str) -> None:
        """Forget what is kept of the gradient by absent links, where the gradient of the others was reset since."""
        if name not in self._gradients:
            return
        gradient = self._weights[name].parameter.grad
        if gradient is None or (
            gradient._version != self._grad_versions.get(name) and not local(gradient).count_nonzero()
        ):
            del self._gradients[name]

    def _sparse_layers(self) -> dict[str, SparseLinear]:
        """The layers that store their links alone, by the name of their weight."""
        return {name: weight.layer for name, weight in self._weights.items() if isinstance(weight, LinkWeight)}

    def _shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of the weights."""
        return {name: weight.shape for name, weight in self._weights.items()}

    def _unpack_ever_active(self) -> dict[str, Tensor]:
        shapes = self._shapes()
        return {name: unpack_bits(bits, shapes[name]) for name, bits in self._ever_active.items()}

    @property
    def _device_type(self) -> str:
        return next(iter(self._weights.values())).parameter.device.type

    def _by_layer(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the masks of parameters, by the layers that the graph knows."""
        return {name: layer.rows(masks[layer.parameter]) for name, layer in self._layers.items()}

    def _by_part(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the masks of parameters, by what evolves by itself."""
        return {name: part.rows(masks[part.parameter]) for name, part in self._parts.items()}

    def _check_execution(self, names: list[str]) -> None:
        if self.execution not in ("masked", "csr", "auto"):
            raise ValueError(f"execution is {self.execution!r}; expected 'masked', 'csr' or 'auto'.")
        if self.execution != "masked" and self._ranks.size > 1:
            raise ValueError(
                f"execution is {self.execution!r} in {self._ranks.size} processes, which exchange gradients of dense "
                "weights; choose execution='masked', or train in one process."
            )
        if self.execution != "masked":
            check_elementwise(self.optimizer)
        stay = [name for name in names if not convertible(self._model, name)]
        if self.execution == "csr" and stay:
            raise ValueError(
                f"execution is 'csr' but {', '.join(stay)} cannot store links alone; expected weights of an nn.Linear "
                "that is a part of the model, outside nn.MultiheadAttention, and no more than that: no subclass, "
                "parametrisation, pruning, state-dict hook or own forward. Choose execution='auto', which leaves "
                "the others masked, or exclude them."
            )

    def _largest(self, weights: Mapping[str, Tensor], rule: str) -> dict[str, Tensor]:
        """The initial masks of a trained model."""
        if rule != "magnitude":
            raise ValueError(f"initial_masks is {rule!r}; expected masks by layer name, 'magnitude' or None.")
        dense = {name: whole(weight.detach()) for name, weight in weights.items()}
        links = self._budget.links(0)
        return {name: largest(part.rows(dense[part.parameter]), links[name]) for name, part in self._parts.items()}

    def _topology(self, correlation: Tensor | None) -> Topology:
        """The method's, with the correlations of the inputs where it starts from them."""
        if correlation is None:
            return self.method.topology
        if not isinstance(self.method.topology, Correlated):
            raise ValueError(
                f"correlation is given, but the method starts from {self.method.topology!r}; leave it out, or take a "
                "method with topology=Correlated()."
            )
        inputs = {columns for _, columns in self._budget.shapes.values()}
        if correlation.ndim and len(correlation) not in inputs:
            raise ValueError(
                f"correlation is of {len(correlation)} features, but the sparse layers have "
                f"{', '.join(map(str, sorted(inputs)))} inputs; give that of the inputs that the model is trained on."
            )
        return partial(correlated, correlation=correlation)

    def _initial_masks(
        self, weights: Mapping[str, Tensor], given: Mapping[str, Tensor], topology: Topology
    ) -> dict[str, Tensor]:
        unknown = given.keys() - self._parts.keys()
        if unknown:
            raise ValueError(
                f"initial_masks has {', '.join(sorted(unknown))}, which is no sparse layer; "
                f"the layers are {', '.join(self._parts)}."
            )
        # A packed weight may hold rows of no sparse layer: those stay dense.
        masks = {
            name: torch.ones(weight.shape, dtype=torch.bool, device=weight.device) for name, weight in weights.items()
        }
        links = self._budget.links(0)
        for name, here in self._by_part(masks).items():
            part = self._parts[name]
            if name in given:
                mask, source = given[name], "initial_masks"
                if part.transposed and name == part.parameter:  # called like the weight, so shaped like it
                    here = here.T
            else:
                mask = topology(*part.shape, links[name] / here.numel(), generator=self._generators[name])
                source = f"topology {self.method.topology!r}"
            check_mask(mask, f"initial mask of {name!r}")
            check_same_shape(mask, here, f"initial mask of {name!r}")
            found = int(mask.count_nonzero())
            if found != links[name]:
                raise ValueError(f"{source} gave layer {name!r} {found} links; expected exactly {links[name]}.")
            here.copy_(mask)
        if isinstance(self.method.topology, ScaleFree):
            self._place(masks, given, self.method.topology)
        return masks

    def _place(self, masks: Mapping[str, Tensor], given: Mapping[str, Tensor], topology: ScaleFree) -> None:
        """Fit the layers of a scale-free topology to those that feed them; those that values feed stay as they are."""
        layers = self._by_layer(masks)
        check_graph(layers, self._graph)
        feeds = {after: before for chain in self._graph.chains for before, after in pairwise(chain)}
        of_values = {attention.output for attention in self._graph.attentions if attention.value}
        for name, here in self._by_part(masks).items():
            if name not in given and name not in of_values:
                before = layers[feeds[name]] if name in feeds else None
                here.copy_(topology.placed(here, before, generator=self._generators[name]))

    def _attach(self) -> None:
        """Take charge of the model: from here on it is changed."""
        low = sorted({str(w.parameter.dtype) for w in self._weights.values() if w.parameter.dtype.itemsize < 4})
        if low and self._enforced:
            warnings.warn(
                f"the weights are {', '.join(low)}: small changes are rounded away, which hurts methods that regrow by "
                "the gradient most. Keep float32 weights and compute in torch.autocast.",
                UserWarning,
                stacklevel=3,
            )
        for name in self._enforced:
            weight = self._weights[name]
            if self.execution != "masked" and convertible(self._model, name):
                links = store_links(self._model, self.optimizer, name, weight.mask, self.execution)
                links.layer.crossover = self._crossovers.get(name)
                self._weights[name] = links
            else:
                weight.clear_absent(keeps_zeros=False)
        self._connect()
        self._watch.settle()

    def _connect(self) -> None:
        """Follow the gradients and the optimizer from now on."""
        me = weakref.ref(self)
        by_gradient = self.method.regrowth.needs_gradient
        for name in self._enforced:
            weight = self._weights[name]
            trains = weight.parameter.requires_grad
            weight.parameter.requires_grad_(True)  # a frozen one, of a copy, takes no hooks
            if by_gradient:
                weight.parameter.register_hook(_anew_hook(me, name))
            if not isinstance(weight, LinkWeight):
                weight.parameter.register_post_accumulate_grad_hook(_gradient_hook(me, name))
            elif by_gradient:
                weight.layer.dense_gradient_hook = _dense_gradient_hook(me, name)
                weight.parameter.register_post_accumulate_grad_hook(_arrival_hook(me, name))
            weight.parameter.requires_grad_(trains)
        for weight in self._weights.values():
            before = _RULED_BY.get(weight.parameter)
            older = None if before is None else before()
            if older is not None and older is not self:
                older._superseded = True
            _RULED_BY[weight.parameter] = me
        self._superseded = False
        self._watch.listen()
        fresh = self.steps == 0 and not self._keeps_zeros and self._enforced
        self._lost = LostSteps(self.optimizer, self._weights) if fresh else None
        self.optimizer.register_step_post_hook(self._after_optimizer)  # which also keeps this object alive
        if self.method.turnover.skip_optimizer:
            _skip_updates(self.optimizer, me)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, together with the model and the optimizer; generators as their states."""
        states = {name: (str(generator.device), generator.get_state()) for name, generator in self._generators.items()}
        return {**self.__dict__, "_generators": states, "_gradients": {}, "_arriving": {}, "_lost": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generators = {}
        for name, (device, saved) in state["_generators"].items():
            self._generators[name] = torch.Generator(device)
            self._generators[name].set_state(saved)
        self._connect()
        self._watch.settle()

    def _take_back(self) -> None:
        """The optimizer's first step: calls of :meth:`step` before it were those of accumulated gradients.

        They do not count, unless one of them has updated the topology already.
        """
        calls, self._counted, self._calls_before = self._calls_before, True, 0
        if calls:
            self._complain("uncounted", _UNCOUNTED)
            if self._updated_at <= self.steps - calls:
                self.steps -= calls

    def _say_what_is_lost(self, share: float | None) -> None:
        """Warn of an optimizer that moves weights without a gradient, as Muon does: the masks undo that."""
        if share is None:  # not known yet
            return
        self._lost = None
        if share > _NOTEWORTHY_LOSS:
            self._complain(
                "lost",
                f"{share:.0%} of a step of {type(self.optimizer).__name__}, by its squared norm, moved weights without "
                "a link, and is lost: the optimizer does not treat every element by itself. AdamW and SGD lose none.",
            )

    def _after_optimizer(self, *_: Any) -> None:
        if self._watch.steps == 3 and self._rules():
            self._complain(
                "not stepped",
                "the optimizer has made three steps, and sparsifier.step() was not called: the topology does not "
                "change. Call sparsifier.step() once after each step of the optimizer.",
            )

    def _complain(self, kind: str, message: str) -> None:
        """Warn, once for each kind of trouble."""
        if kind not in self._complaints:
            self._complaints.add(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _check_attached(self) -> None:
        """Refuse to go on with a model or an optimizer that is no longer the one that trains."""
        replaced = self._watch.replaced()
        if replaced:
            raise RuntimeError(
                f"the model's parameters {_few(replaced)} are others than those that the Sparsifier was attached to, "
                "as after load_state_dict(assign=True), tying or replacing a layer. Load with assign=False, or build a "
                "new optimizer and a new Sparsifier for the model as it is now."
            )
        unfrozen = [name for name, parameter in self._waiting.items() if parameter.requires_grad]
        if unfrozen:
            self._complain(
                f"unfrozen {unfrozen}",
                f"{_few(unfrozen)} did not train when the Sparsifier was attached, and now do: they stay dense. To "
                "make them sparse, build a new Sparsifier; initial_masks=sparsifier.masks keeps the others' links.",
            )
        if not self._rules():
            raise RuntimeError(
                "another Sparsifier has been attached to this model since; step the newer one, or build a new model."
            )
        if self._watch.other is not None and not self._watch.steps:
            raise RuntimeError(
                f"another optimizer, {self._watch.other}, has stepped the model's weights, and the one that the "
                "Sparsifier holds has not: removed links would keep their momentum. Build a new Sparsifier with the "
                "optimizer that trains, and resume_from=sparsifier.state_dict() to keep the links."
            )
        for name in self._enforced if self.update_due else ():
            check_moments(self.optimizer, name, self._weights[name].parameter)
        if self.update_due and not self._watch.held():
            raise RuntimeError(
                "the optimizer no longer holds all sparse weights of the model; add them to its parameter groups, or "
                "build a new Sparsifier with the optimizer that trains them."
            )

    def _check_masks(self) -> None:
        """Refuse to speak of masks that are not those of the weights."""
        strangers = self._strangers()
        if strangers:
            raise RuntimeError(
                f"the model has weights outside the masks, in {_few(strangers)}: weights were loaded or written that "
                "are not of these masks. Load the state that sparsifier.state_dict() gave at the same moment, with "
                "sparsifier.load_state_dict(); load pretrained weights before attaching; or, to keep the masks, "
                "multiply each weight by its mask in sparsifier.masks."
            )

    def _strangers(self) -> list[str]:
        """The weights that something has changed, and that are not zero outside their mask."""
        return [
            name
            for name in sorted(self._watch.changed() & set(self._enforced))
            if isinstance(weight := self._weights[name], MaskedWeight)
            and bool((local(weight.parameter.detach()).nan_to_num(nan=0.0) * ~weight.local_mask).count_nonzero())
        ]

    def _check_weights(self) -> None:
        """Refuse an update of links whose weights are no numbers: all ranks, where one of them sees it."""
        here = [name for name in self._enforced if not self._weights[name].is_finite()]
        diverged = self._of_any_rank(here)
        if diverged:
            raise RuntimeError(
                f"before the update of step {self.steps + 1} links of {_few(diverged)} have infinite or NaN weights: "
                "the run has diverged. Go back to a checkpoint and lower the learning rate or clip the gradient; "
                "chts_core.numerics.find_nonfinite tells where it begins."
            )

    def _check_gradients(self) -> None:
        """Refuse an update by gradients that never came."""
        removal, regrowth = self.method.removal, self.method.regrowth
        training = [name for name in self._enforced if self._weights[name].parameter.requires_grad]
        without = [name for name in training if regrowth.needs_gradient and name not in self._gradients]
        if without:
            raise RuntimeError(
                f"the method regrows by gradient, but none has come for {', '.join(without)} since the last step; "
                "call backward() before every step(), and exclude layers that the loss does not use."
            )
        without = [name for name in training if removal.needs_gradient and self._weights[name].parameter.grad is None]
        if without:
            raise RuntimeError(
                f"the method removes by gradient, but {', '.join(without)} has none; "
                "call sparsifier.step() before optimizer.zero_grad(), and exclude layers that the loss does not use."
            )

    def _not_finite(self) -> list[str]:
        """The weights with an infinite or NaN gradient on any rank: they must agree whether there is an update."""
        here = [
            name
            for name in self._enforced
            for gradient in (self._gradients.get(name), self._weights[name].parameter.grad)
            if gradient is not None and not local(gradient).isfinite().all()
        ]
        return self._of_any_rank(here)

    def _overflows(self) -> bool:
        """Whether the optimizer has an infinite or NaN gradient on any rank; a collective."""
        gradients = (held.grad for group in self.optimizer.param_groups for held in group["params"])
        here = any(gradient is not None and not local(gradient).isfinite().all() for gradient in gradients)
        return any(self._ranks.gather(here))

    def _of_any_rank(self, names: list[str]) -> list[str]:
        """Those of the names that this or another rank has, in the model's order; a collective."""
        found = {name for theirs in self._ranks.gather(names) for name in theirs}
        return [name for name in self._enforced if name in found]

    def _evolve(self, step: int) -> "_Evolved":
        """Decay and removal, then percolation, then regrowth up to the target (paper, Figure 2).

        It changes nothing but the generators, and those not either if it is interrupted.
        """
        states = {name: generator.get_state() for name, generator in self._generators.items()}
        try:
            return self._evolved(step)
        except BaseException:  # Ctrl-C too
            for name, state in states.items():
                self._generators[name].set_state(state)
            raise

    def _evolved(self, step: int) -> "_Evolved":
        targets, exchanged = self._budget.links(step), self._budget.exchanged(step)
        masks = self.masks
        links = {name: int(mask.count_nonzero()) for name, mask in self._by_part(masks).items()}
        frozen = self._frozen
        unchanged = not any(links[name] != targets[name] or exchanged[name] for name in targets.keys() - frozen)
        if unchanged and not self.method.removal.returning:
            return _Evolved(masks, masks, masks, {}, {}, frozen)

        self._ranks.check_same(masks)
        seconds = dict.fromkeys(targets, 0.0)
        survivors = {name: mask.clone() for name, mask in masks.items()}
        by_part = self._by_part(survivors)
        for name, alive in by_part.items():
            started = time.perf_counter()
            if name not in frozen:
                self._remove(name, alive, targets[name], exchanged[name], step)
            seconds[name] = time.perf_counter() - started
        self._ranks.share(by_part, self._owners)
        if self.method.removal.percolate:
            self._percolate(masks, survivors)
        past_weights = {name: copy.copy(past) for name, past in self._past_weights.items()}
        for name, past in past_weights.items():
            gone = _positions(masks[name] & ~survivors[name])
            past.remember(gone, self._weights[name].weights_at(gone))

        new = {name: mask.clone() for name, mask in survivors.items()}
        by_part = self._by_part(new)
        for parameter, parts in self._parts_by_parameter():
            gradient = self._whole_gradient(parameter)
            for name, part in parts:
                started = time.perf_counter()
                num = targets[name] - int(by_part[name].count_nonzero())
                if self._owners[name] == self._ranks.rank and name not in frozen:
                    rows = None if gradient is None else part.rows(gradient)
                    by_part[name] |= self._regrow(name, by_part[name].contiguous(), num, rows, past_weights)
                seconds[name] += time.perf_counter() - started
        self._ranks.share(by_part, self._owners)
        self._share_generators()
        self._ranks.check_same(new)
        return _Evolved(masks, survivors, new, seconds, past_weights, frozen)

    def _adopt(self, evolved: "_Evolved") -> None:
        """Let the weights have their new masks, and tell what has changed."""
        for name in self._parts:
            if self._is_frozen(name):
                self._behind.setdefault(name, self._updated_at)
            else:
                self._behind.pop(name, None)
        self._updated_at = self.steps
        if not evolved.seconds:  # nothing has changed
            return
        self._past_weights = evolved.past_weights
        total = dict(zip(evolved.seconds, self._ranks.sum(list(evolved.seconds.values())), strict=True))
        rows: list[Update] = []
        for parameter, parts in self._parts_by_parameter():
            ever_active = unpack_bits(self._ever_active[parameter], evolved.new[parameter].shape)
            ever_active |= evolved.new[parameter].cpu()
            for name, part in parts:
                before, alive, mask = (
                    part.rows(masks[parameter]) for masks in (evolved.old, evolved.survivors, evolved.new)
                )
                removed, regrown = before & ~alive, mask & ~alive
                rows.append(
                    Update(
                        step=self.steps,
                        layer=name,
                        links=int(mask.count_nonzero()),
                        removed=int(removed.count_nonzero()),
                        regrown=int(regrown.count_nonzero()),
                        overlap=overlap(removed, regrown),
                        anp=0.0,  # known once all layers are done
                        itop=itop_rate(part.rows(ever_active)),
                        seconds=total[name],
                    )
                )
            started = time.perf_counter()
            self._rewire(parameter, evolved.survivors[parameter], evolved.new[parameter])
            self._ever_active[parameter] = pack_bits(ever_active)
            rows[-1]["seconds"] += time.perf_counter() - started
        self._count_active(evolved.new, rows)
        self.history += rows
        early_stop = self.method.turnover.early_stop
        final = self._budget.links(self.timeline.total_steps)
        if early_stop is not None and self._budget.links(self.steps) == final:
            evolving = (row for row in rows if row["layer"] not in evolved.frozen)
            self._stopped |= {row["layer"] for row in evolving if row["overlap"] > early_stop}

    def _parts_by_parameter(self) -> Iterator[tuple[str, list[tuple[str, Layer]]]]:
        """The parts of each parameter; those of one follow each other."""
        for parameter, parts in groupby(self._parts.items(), key=lambda part: part[1].parameter):
            yield parameter, list(parts)

    def _whole_gradient(self, parameter: str) -> Tensor | None:
        """That by all links of a weight, the mean over the ranks, where the method goes by it; a collective."""
        if parameter not in self._gradients:
            return None
        gradient, weight = self._gradients[parameter], self._weights[parameter].parameter
        # What `fully_shard` has shared out is a mean already.
        return whole_from_local(gradient, weight) if is_shared_out(weight) else self._ranks.mean(gradient)

    def _share_generators(self) -> None:
        """Let all ranks go on with the same random numbers, as each has drawn for its own layers alone."""
        states = {name: generator.get_state() for name, generator in self._generators.items()}
        self._ranks.share(states, self._owners)
        if self._ranks.size > 1:
            for name, state in states.items():
                self._generators[name].set_state(state)

    def _percolate(self, masks: dict[str, Tensor], survivors: dict[str, Tensor]) -> None:
        """Cut the incomplete links, in place, but none of a layer that has stopped early."""
        percolated = percolate(self._by_layer(survivors), self._graph)
        for name, mask in self._by_layer(survivors).items():
            mask.copy_(percolated[name])
        before = self._by_part(masks)
        for name, mask in self._by_part(survivors).items():
            if name in self._frozen:
                mask.copy_(before[name])

    def _count_active(self, masks: dict[str, Tensor], rows: list[Update]) -> None:
        active: dict[str, Tensor] = {}
        for name, neurons in active_neurons(self._by_layer(masks), self._graph).items():
            layer = self._layers[name]
            outputs = masks[layer.parameter].shape[1 if layer.transposed else 0]
            active.setdefault(layer.parameter, torch.zeros(outputs, dtype=torch.bool))[layer.outputs] = neurons.cpu()
        for row in rows:
            part = self._parts[row["layer"]]
            row["anp"] = float(active[part.parameter][part.outputs].float().mean())

    def _remove(self, name: str, mask: Tensor, target: int, exchanged: int, step: int) -> None:
        """Prune to the target by the lowest scores, then remove the links to be exchanged, in place."""
        part, generator, removal = self._parts[name], self._generators[name], self.method.removal
        weight = self._weights[part.parameter]
        mine = self._owners[name] == self._ranks.rank
        if not mine and not is_shared_out(weight.parameter):
            return
        links = weight.links(part, mask, gradients=removal.needs_gradient)
        if not mine:
            return
        if removal.returning:
            score = torch.cat([scores_of(links, removal.score), self._past_of(name, mask, self._past_weights)[1].abs()])
            kept = choose(score, target, soft=False, generator=generator)
            kept = kept[kept < len(links.values)]
        else:
            if target < len(links.values):
                score = scores_of(links, removal.prune or removal.score)
                links = _only(links, choose(score, target, soft=False, generator=generator).sort().values)
            soft = removal.temperature is not None
            exponent = 1.0 if removal.temperature is None else value_at(removal.temperature, step, self.timeline)
            score = scores_of(links, removal.score)
            kept = choose(score, target - exchanged, temperature=exponent, soft=soft, generator=generator)
        mask.zero_()
        mask[links.outputs[kept], links.inputs[kept]] = True

    def _past_of(self, name: str, mask: Tensor, past_weights: Mapping[str, PastWeights]) -> tuple[Tensor, Tensor]:
        """Missing links of a part that existed before: where in the flattened part, and the weights they had."""
        part = self._parts[name]
        past = past_weights[part.parameter]
        outputs, inputs = part.ends(past.positions, self._weights[part.parameter].shape[1])
        missing = (outputs >= 0) & (outputs < part.shape[0])
        missing[missing.clone()] = ~mask[outputs[missing], inputs[missing]]
        return (outputs * part.shape[1] + inputs)[missing], past.values[missing]

    def _regrow(
        self,
        name: str,
        survivors: Tensor,
        num: int,
        gradient: Tensor | None,
        past_weights: Mapping[str, PastWeights],
    ) -> Tensor:
        regrowth, generator = self.method.regrowth, self._generators[name]
        # None or all: layers that stay dense have no hook.
        if regrowth.needs_gradient and num in (0, survivors.numel() - int(survivors.sum())):
            return ~survivors if num else torch.zeros_like(survivors)
        if regrowth.score == "random":
            scores = torch.ones_like(survivors, dtype=torch.float32)
        elif regrowth.score == "gradient":
            assert gradient is not None  # as `step` has seen to
            scores = gradient.abs()
        elif not isinstance(regrowth.score, str):
            scores = regrowth.score(survivors, gradient)
        elif regrowth.score == "magnitude":
            positions, weights = self._past_of(name, survivors, past_weights)
            scores = torch.zeros_like(survivors, dtype=torch.float32)
            scores.view(-1)[positions] = weights.abs().float()
        else:
            return sample_links(survivors, num, regrowth.score, soft=regrowth.soft, generator=generator)
        return draw(scores, ~survivors, num, soft=regrowth.soft, generator=generator)

    def _rewire(self, parameter: str, survivors: Tensor, new: Tensor) -> None:
        """Survivors keep all that belongs to them; other links start from zeros, or from their past weight if any."""
        weight, past = self._weights[parameter], self._past_weights.get(parameter)
        weight.rewire(survivors, new)
        if past is None and not self._regrowth_hooks:
            return
        come = _positions(new & ~survivors)
        if past is not None:
            weight.put(come, past.recall(come))
        for hook in self._regrowth_hooks:
            hook(parameter, come)


def _positions(mask: Tensor) -> Tensor:
    """Of the links of a mask in the flattened weight."""
    return mask.flatten().nonzero().squeeze(1)


def _only(links: WeightedLinks, chosen: Tensor) -> WeightedLinks:
    gradients = None if links.gradients is None else links.gradients[chosen]
    return WeightedLinks(links.outputs[chosen], links.inputs[chosen], links.values[chosen], gradients, links.shape)


def _few(names: list[str]) -> str:
    """The names of some layers, or of the first and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def _of_shape(shape: tuple[int, int]) -> Tensor:
    """A mask of one element, seen as a large one."""
    return torch.zeros((), dtype=torch.bool).expand(shape)


def _check_past_weights(past: object, shape: tuple[int, int], what: str) -> None:
    """Raise unless these are positions in a weight of this shape, in order, and as many values."""
    positions, values = (
        (past.get(key) for key in ("positions", "values")) if isinstance(past, Mapping) else (None, None)
    )
    if not (
        isinstance(positions, Tensor)
        and isinstance(values, Tensor)
        and positions.dtype == torch.int64
        and positions.ndim == 1
        and positions.shape == values.shape
        and bool((positions.diff() > 0).all())
        and (len(positions) == 0 or 0 <= int(positions[0]) <= int(positions[-1]) < shape[0] * shape[1])
    ):
        raise ValueError(
            f"{what} are no positions of links of a weight of shape {shape}, in ascending order, with a value each. "
            "The saved state was changed or damaged, or is of a version that stored them as a dense weight."
        )


def _share(masks: Mapping[str, Tensor]) -> float:
    return sum(int(mask.count_nonzero()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def _check_ownership(weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in owned]
    if missing:
        raise ValueError(
            f"the optimizer does not hold the model's weights {', '.join(missing)}; "
            "build it from model.parameters() of this very model, after moving the model to its device."
        )


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator of the layer's own: its links do not depend on which other layers there are."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    where = device if device.type == "cuda" else torch.device("cpu")
    return torch.Generator(where).manual_seed(int.from_bytes(digest, "big") >> 1)


def is_ruled(parameter: Tensor) -> bool:
    """Whether a Sparsifier is attached to a parameter."""
    ruled_by = _RULED_BY.get(parameter)
    return ruled_by is not None and ruled_by() is not None


def _rules(owner: "Sparsifier | None", parameter: Tensor) -> bool:
    """Whether a Sparsifier is the one that was last attached to a parameter; none is to that of a copy."""
    ruled_by = _RULED_BY.get(parameter)
    return owner is not None and ruled_by is not None and ruled_by() is owner


def _gradient_hook(sparsifier: "weakref.ref[Sparsifier]", name: str) -> Callable[[Tensor], None]:
    """Zeroes the gradient of absent links, by filling: a NaN there vanishes too.

    Where an update by gradient is due, the gradient of all links is kept first: summed over the backward passes of
    the step, as `grad` itself sums that of the links there are.
    """

    def hook(weight: Tensor) -> None:
        owner = sparsifier()
        if owner is None or not _rules(owner, weight) or weight.grad is None:
            return
        held, gradients = owner._weights[name], owner._gradients
        assert isinstance(held, MaskedWeight)
        here, mask = local(weight.grad), held.local_mask
        if owner._collects:
            gradient = here.float()
            absent = gradient + gradients[name] if name in gradients else gradient
            gradients[name] = torch.where(mask, gradient, absent)
        zero_absent(here, mask)
        owner._grad_versions[name] = weight.grad._version

    return hook


def _anew_hook(sparsifier: "weakref.ref[Sparsifier]", name: str) -> Callable[[Tensor], None]:
    """Forgets the gradient of absent links that is kept, where the user has dropped that of the others."""

    def hook(_: Tensor) -> None:
        owner = sparsifier()
        if owner is not None and owner._collects:
            owner._forget_dropped(name)

    return hook


def _dense_gradient_hook(
    sparsifier: "weakref.ref[Sparsifier]", name: str
) -> Callable[[SparseLinear, Callable[[], Tensor]], None]:
    """Sums up the gradient by all links of a layer that stores those it has, where an update by gradient is due.

    What one backward pass brings waits until the gradient of the links has arrived: not that of `torch.autograd.grad`.
    """

    def hook(layer: SparseLinear, gradient: Callable[[], Tensor]) -> None:
        owner = sparsifier()
        if owner is None or not _rules(owner, layer.values) or not owner._collects:
            return
        backward = torch._C._current_graph_task_id()
        before, summed = owner._arriving.get(name, (None, None))
        new = gradient().float()
        owner._arriving[name] = backward, new if summed is None or before != backward else summed + new

    return hook


def _arrival_hook(sparsifier: "weakref.ref[Sparsifier]", name: str) -> Callable[[Tensor], None]:
    """Adds what a backward pass has brought for a layer that stores its links alone."""

    def hook(values: Tensor) -> None:
        owner = sparsifier()
        if owner is None or not _rules(owner, values) or not owner._collects or name not in owner._arriving:
            return
        _, arrived = owner._arriving.pop(name)
        gradients = owner._gradients
        gradients[name] = gradients[name] + arrived if name in gradients else arrived
        assert values.grad is not None
        owner._grad_versions[name] = values.grad._version

    return hook


def _skip_updates(optimizer: torch.optim.Optimizer, sparsifier: "weakref.ref[Sparsifier]") -> None:
    """Let the optimizer do nothing in a step that an update follows: it leaves out what has no gradient."""
    hidden: list[tuple[Tensor, Tensor | None]] = []

    def hide(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        owner = sparsifier()
        if owner is None or not owner.update_due or not owner._rules():
            return
        if any(callable(given) for given in (*args[1:], kwargs.get("closure"))):
            raise RuntimeError(
                "the method leaves out the optimizer's step before an update, which it cannot while a closure computes "
                "the gradients; call backward() first and optimizer.step() without a closure."
            )
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def restore(*_: object) -> None:
        while hidden:
            parameter, gradient = hidden.pop()
            parameter.grad = gradient

    optimizer.register_step_pre_hook(hide)
    optimizer.register_step_post_hook(restore)
