"""The state of a run: what an update needs, apart from the weights. It can be saved and loaded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from chts_core.budget import Budget
from chts_core.checks import check_mask, check_same_shape
from chts_core.engine.network import SparseNetwork
from chts_core.engine.weights import PastWeights, pack_bits, unpack_bits
from chts_core.schedules import Timeline

# The keys of every state, apart from the settings. States of earlier versions lack "behind" and "least_sparsity".
_SAVED = {
    "steps",
    "updated_at",
    "stopped",
    "postponed",
    "empty_links",
    "crossovers",
    "masks",
    "ever_active",
    "past_weights",
    "generators",
    "history",
}


class Update(TypedDict):
    """One row of `Sparsifier.history`: what an update did to a layer, or to a head if heads evolve separately."""

    step: int
    layer: str
    links: int  # after the update
    removed: int  # by decay, removal and percolation together
    regrown: int
    overlap: float  # share of the regrown links that this update had removed (ELM when near 1)
    anp: float  # share of the layer's output neurons that are active
    itop: float  # share of all possible links that were ever active
    seconds: float  # spent on this layer's removal and regrowth


@dataclass
class Progress:
    """The state of a run.

    budget: how many links each part has at every step.
    generators: the random generators, by part.
    ever_active: for each weight, all links that have existed so far, packed into bits
        (:func:`chts_core.engine.weights.pack_bits`).
    past_weights: the last weights of all links that were ever removed, by parameter, if the method needs them.
    steps: the number of steps so far.
    updated_at: the step of the schedule to which the current number of links belongs.
    behind: for each part that missed the last updates because its weight was frozen, the step of the schedule to which
        its number of links belongs.
    stopped: the parts that have reached their early stop.
    postponed: the steps at which an update was postponed.
    history: one row per update and part.
    crossovers: the crossover densities, by weight, as measured for the layers that store only their links, so that a
        resumed run uses the same kernels.
    """

    budget: Budget
    generators: dict[str, torch.Generator]
    ever_active: dict[str, Tensor]
    past_weights: dict[str, PastWeights]
    steps: int = 0
    updated_at: int = 0
    behind: dict[str, int] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    postponed: list[int] = field(default_factory=list)
    history: list[Update] = field(default_factory=list)
    crossovers: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def at_start(cls, budget: Budget, generators: dict[str, torch.Generator], network: SparseNetwork) -> "Progress":
        """The state of a run before its first step."""
        weights = network.weights.items() if budget.method.regrowth.history else ()
        return cls(
            budget,
            generators,
            ever_active={name: weight.bits() for name, weight in network.weights.items()},
            past_weights={name: PastWeights(held.parameter.dtype, held.parameter.device) for name, held in weights},
        )

    def expected_links(self) -> dict[str, int]:
        """The number of links that each part must have now."""
        at_step = {step: self.budget.links(step) for step in {self.updated_at, *self.behind.values()}}
        return {name: at_step[self.behind.get(name, self.updated_at)][name] for name in at_step[self.updated_at]}

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, with the states of the generators."""
        states = {name: (str(generator.device), generator.get_state()) for name, generator in self.generators.items()}
        return {**self.__dict__, "generators": states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.generators = {}
        for name, (device, saved) in state["generators"].items():
            self.generators[name] = torch.Generator(device)
            self.generators[name].set_state(saved)


def to_state(progress: Progress, network: SparseNetwork, settings: Mapping[str, object]) -> dict[str, Any]:
    """Everything that a run needs to continue bit for bit, apart from the states of the model and the optimizer.

    A mask is a Boolean tensor. If a layer stores only its links, its mask is a dictionary with the keys "bits" and
    "shape" instead, which takes an eighth of the memory. Then `numpy.unpackbits(bits)[: rows * columns].reshape(shape)`
    gives the mask.
    """
    masks = {name: weight.bits() for name, weight in network.weights.items()}
    stored, shapes = network.stored(), network.shapes

    def saved(name: str, bits: Tensor) -> Tensor | dict[str, Any]:
        shape = shapes[name]
        return {"bits": bits.clone(), "shape": shape} if name in stored else unpack_bits(bits, shape)

    return {
        **settings,
        "steps": progress.steps,
        "updated_at": progress.updated_at,
        "stopped": sorted(progress.stopped),
        "behind": progress.behind.copy(),
        "postponed": list(progress.postponed),
        "empty_links": network.empty_links(masks),
        "crossovers": {name: layer.crossover for name, layer in stored.items()},
        "masks": {name: saved(name, bits) for name, bits in masks.items()},
        "ever_active": {name: saved(name, bits) for name, bits in progress.ever_active.items()},
        "past_weights": {
            name: {"positions": past.positions.cpu().clone(), "values": past.values.cpu().clone()}
            for name, past in progress.past_weights.items()
        },
        "generators": {name: generator.get_state() for name, generator in progress.generators.items()},
        "history": [row.copy() for row in progress.history],
        **({"least_sparsity": dict(progress.budget.least)} if progress.budget.least else {}),
    }


def from_state(
    state: Mapping[str, Any],
    progress: Progress,
    network: SparseNetwork,
    settings: Mapping[str, object],
    reschedule: bool,
) -> tuple[Progress, dict[str, Tensor]]:
    """The progress that :func:`to_state` saved, and the bits of each weight's mask. The arguments do not change.

    Args:
        progress, settings: the progress and the settings of the run that continues.
        reschedule: whether the saved run may have had a different `total_steps`.

    Raises:
        TypeError, ValueError: see `Sparsifier.load_state_dict`.
    """
    _check_settings(state, settings, reschedule)
    _check_layers(state, progress, network.shapes)
    masks, ever_active = (
        {name: _bits_of(mask) for name, mask in state[key].items()} for key in ("masks", "ever_active")
    )
    saved = progress.budget
    if saved.gains and state["total_steps"] != saved.timeline.total_steps:
        raise ValueError(
            f"the saved state is from a run of {state['total_steps']} steps but this run has "
            f"{saved.timeline.total_steps}. reschedule=True needs a sparsity that never falls; here it follows "
            f"{saved.method.sparsity}. Pass total_steps={state['total_steps']} to the Sparsifier or the callback."
        )
    reschedule = reschedule and not saved.gains  # the next update follows the schedule even if links come back
    behind = state.get("behind", {})
    if reschedule and behind:
        raise ValueError(
            f"{', '.join(behind)} were frozen at the last update of the saved run, so they are behind its schedule; "
            "continue with the saved run's total_steps until these layers have been updated."
        )
    least = state.get("least_sparsity", {})
    least = least if isinstance(least, Mapping) else {saved.sparsity: least}  # a number in states of earlier versions
    if least != saved.least:
        saved = replace(saved, least=least)
    loaded = Progress(
        budget=_rescheduled(saved, state) if reschedule else saved,
        generators=_generators(state["generators"], progress.generators),
        ever_active=ever_active,
        past_weights=_past_weights(state["past_weights"], progress.past_weights),
        steps=state["steps"],
        updated_at=0 if reschedule else state["updated_at"],
        behind=dict(behind),
        stopped=set(state["stopped"]),
        postponed=list(state["postponed"]),
        history=[row.copy() for row in state["history"]],
        crossovers=dict(state["crossovers"]),
    )
    expected = loaded.expected_links()
    for name, found in network.counts(masks).items():
        if found != expected[name]:
            raise ValueError(
                f"the saved mask {name!r} has {found} links; expected exactly {expected[name]} "
                f"after step {state['steps']}. The saved state was changed or damaged."
            )
    return loaded, masks


def _check_settings(state: Mapping[str, Any], settings: Mapping[str, object], reschedule: bool) -> None:
    """Raise an error unless a state is complete and comes from a run with these settings."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"the saved state is a {type(state).__name__}; expected the dictionary that state_dict() returned. If it "
            "is in a file, load the file with torch.load and pass the result."
        )
    missing = (settings.keys() | _SAVED) - state.keys()
    if missing:
        raise ValueError(f"the saved state lacks {', '.join(sorted(missing))}; load what state_dict() returned.")
    for key, value in settings.items():
        if state[key] != value and not (reschedule and key == "total_steps"):
            longer = " To train longer than planned, load it with reschedule=True." if key == "total_steps" else ""
            raise ValueError(
                f"the saved state has {key} {state[key]!r} but this Sparsifier has {value!r}; "
                f"build it with the settings of the run that saved the state.{longer}"
            )


def _check_layers(state: Mapping[str, Any], progress: Progress, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an error unless masks, past weights and generators belong to these layers."""
    wanted: dict[str, Mapping[str, object]] = {
        "masks": shapes,
        "ever_active": shapes,
        "past_weights": progress.past_weights,
        "generators": progress.generators,
    }
    for key, ours in wanted.items():
        if state[key].keys() != ours.keys():
            raise ValueError(
                f"the saved {key} belong to layers {sorted(state[key])} but the model's sparse layers are "
                f"{sorted(ours)}; load the state into the model that saved it."
            )
    for key in ("masks", "ever_active"):
        for name, mask in state[key].items():
            if isinstance(mask, Mapping):
                _check_bits(mask, shapes[name], f"the saved mask {name!r}")
                continue
            check_mask(mask, f"saved mask {name!r}", len(shapes[name]))
            check_same_shape(mask, _of_shape(shapes[name]), f"saved mask {name!r}")
    for name, past in state["past_weights"].items():
        _check_past_weights(past, shapes[name], f"the saved past weights {name!r}")


def _bits_of(mask: Tensor | Mapping[str, Any]) -> Tensor:
    """A saved mask as bits on the CPU. The result is a copy, because the run will set more of its bits."""
    return pack_bits(mask) if isinstance(mask, Tensor) else mask["bits"].cpu().clone()


def _check_bits(mask: Mapping[str, Any], shape: tuple[int, ...], what: str) -> None:
    """Raise an error unless `mask` has this shape, the right number of bits, and zeros for the unused last bits."""
    places, bits = math.prod(shape), mask.get("bits")
    if not (
        isinstance(bits, Tensor)
        and bits.dtype == torch.uint8
        and bits.shape == (math.ceil(places / 8),)
        and tuple(mask.get("shape", ())) == shape
        and not (places % 8 and bits[-1] & 0xFF >> places % 8)
    ):
        found = f"{tuple(bits.shape)} {bits.dtype}" if isinstance(bits, Tensor) else repr(bits)
        raise ValueError(
            f"{what} is not a valid packed mask; expected shape {shape} and {math.ceil(places / 8)} bytes "
            f"(torch.uint8) with zeros in the unused last bits, got shape {mask.get('shape')} and {found}. The saved "
            "state was changed or damaged."
        )


def _check_past_weights(past: object, shape: tuple[int, ...], what: str) -> None:
    """Raise an error unless `past` has ascending positions in a weight of this shape, and one value per position."""
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
        and (len(positions) == 0 or 0 <= int(positions[0]) <= int(positions[-1]) < math.prod(shape))
    ):
        raise ValueError(
            f"{what} are not valid; expected positions in a weight of shape {shape}, in ascending order, with one "
            "value each. The saved state was changed or damaged, or comes from a version of chts that stored a "
            "dense weight."
        )


def _of_shape(shape: tuple[int, ...]) -> Tensor:
    """An empty mask of this shape, which needs the memory of only one element."""
    return torch.zeros((), dtype=torch.bool).expand(shape)


def _rescheduled(saved: Budget, state: Mapping[str, Any]) -> Budget:
    """The budget for continuing a saved run, which may have another `total_steps` and has already lost links."""
    timeline = saved.timeline
    before = Timeline(state["total_steps"], timeline.update_every, timeline.stop)
    budget = replace(saved, least=replace(saved, timeline=before).least_at(state["updated_at"]))
    ended = state["steps"] >= timeline.last_update
    if ended and budget.links(0) != budget.links(timeline.total_steps):
        raise ValueError(
            f"the saved state is from step {state['steps']} and has {sum(budget.links(0).values())} links. A run of "
            f"{timeline.total_steps} steps has no update left that could reach the final number of links, "
            f"{sum(budget.links(timeline.total_steps).values())}; train for more steps."
        )
    return budget


def _generators(states: Mapping[str, Tensor], ours: Mapping[str, torch.Generator]) -> dict[str, torch.Generator]:
    """New generators with the saved states."""
    generators = {name: torch.Generator(generator.device) for name, generator in ours.items()}
    for name, generator in generators.items():
        try:
            generator.set_state(states[name].cpu())  # torch.load may have moved it to another device
        except (AttributeError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"the saved generator of layer {name!r} does not fit; load an undamaged state on the type of device "
                f"(cpu or cuda) that saved it. PyTorch says: {error}"
            ) from error
    return generators


def _past_weights(saved: Mapping[str, Mapping[str, Tensor]], ours: Mapping[str, PastWeights]) -> dict[str, PastWeights]:
    """New past weights with the saved values, on the devices and in the dtypes of `ours`."""
    loaded = {name: PastWeights(past.values.dtype, past.values.device) for name, past in ours.items()}
    for name, past in loaded.items():
        past.positions = saved[name]["positions"].to(past.positions, copy=True)
        past.values = saved[name]["values"].to(past.values, copy=True)
    return loaded
