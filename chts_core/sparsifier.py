"""Attach a method to a model and its optimizer."""

import hashlib
import time
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from chts_core import distributions
from chts_core.checks import check_mask, check_same_shape, check_sparsity
from chts_core.diagnostics import itop_rate, overlap
from chts_core.link_prediction import sample_links
from chts_core.methods import Method, get_method
from chts_core.percolation import LayerGraph, active_neurons, percolate, sequential_graph
from chts_core.removal import SCORES
from chts_core.sampling import draw, keep
from chts_core.schedules import Timeline

# Which Sparsifier rules a weight: the latest that was attached.
_RULED_BY: MutableMapping[Tensor, "weakref.ref[Sparsifier]"] = WeakIdKeyDictionary()


class Update(TypedDict):
    """One row of `Sparsifier.history`: what an update did to a layer."""

    step: int
    layer: str
    links: int  # after the update
    removed: int  # by decay, removal and percolation together
    regrown: int
    overlap: float  # share of the regrown links that this update had removed (ELM when near 1)
    anp: float  # share of the layer's output neurons that are active
    itop: float  # share of all possible links that were ever active
    seconds: float  # spent on this layer's removal and regrowth


class Sparsifier:
    """Trains a model sparsely by a method, as a learning-rate scheduler attaches to an optimizer.

        sparsifier = Sparsifier(model, optimizer, method="chts", sparsity=0.95, total_steps=1000)
        for batch in batches:
            loss(batch).backward(); optimizer.step(); sparsifier.step(); optimizer.zero_grad()

    The weights stay dense tensors that hold zeros where the mask has no link. Gradients of absent links are zeroed as
    soon as they are computed, so clipping sees the sparse gradient; absent links have weight, gradient and optimizer
    state zero after every step, and a regrown link starts from zeros.

    A model has one Sparsifier at a time: a newer one takes over, and the older one refuses to step.

    Every `nn.Linear` weight that requires a gradient is sparsified, except the last one, which is the output layer.

    Args:
        model: any module with at least two linear layers.
        optimizer: holds the model's weights. State tensors shaped like a weight follow its links, whatever the
            optimizer calls them.
        method: a name in `METHODS`, or a `Method`.
        sparsity: share of absent links to end at, in [0, 1); the same in every layer.
        total_steps: optimizer steps of the run.
        update_every: steps between updates of the topology (ΔT).
        seed: the topology depends on it alone; each layer has a generator of its own.
        graph: which layers feed each other, for percolation. By default read off the model's `nn.Sequential`s.

    Attributes:
        masks: Boolean mask by parameter name ("0.weight"); read only.
        history: one :class:`Update` per update and layer.

    Raises:
        ValueError, TypeError: for settings that cannot work, before anything is changed.
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
        graph: LayerGraph | None = None,
    ) -> None:
        self.method = get_method(method)
        check_sparsity(sparsity)
        self.sparsity = sparsity
        self.timeline = Timeline(total_steps, update_every, self.method.turnover.stop)
        self.optimizer = optimizer
        # Without a gradient these leave the state of a link at zero; what another optimizer does is not known.
        self._keeps_zeros = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        self.steps = 0
        self.history: list[Update] = []

        layers = _sparse_layers(model)
        self._weights = {name: layer.weight for name, layer in layers.items()}
        self._shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        _check_ownership(self._weights, optimizer)
        self._check_links()
        self._graph = _layer_graph(self.method, model, layers) if graph is None else graph

        self._generators = {name: _generator(seed, name, weight.device) for name, weight in self._weights.items()}
        self.masks = self._initial_masks()
        self._ever_active = {name: mask.clone() for name, mask in self.masks.items()}
        percolate(self.masks, self._graph)  # a graph that does not fit is refused now rather than at the first update

        final = self._targets(total_steps)
        for weight in self._weights.values():
            _RULED_BY[weight] = weakref.ref(self)
        self._enforced = [name for name, mask in self.masks.items() if final[name] < mask.numel()]
        for name in self._enforced:  # a dense layer, as in FC, costs nothing
            self._weights[name].register_post_accumulate_grad_hook(_gradient_hook(weakref.ref(self), name))
            self._clear_absent(name, self.masks[name])

    def density(self) -> float:
        """Share of the links that exist, over all sparse layers."""
        return sum(int(m.sum()) for m in self.masks.values()) / sum(m.numel() for m in self.masks.values())

    def active_neurons(self) -> float:
        """Share of the output neurons of all sparse layers that are active (ANP)."""
        active = active_neurons(self.masks, self._graph)
        return sum(int(a.sum()) for a in active.values()) / sum(a.numel() for a in active.values())

    def itop_rate(self) -> float:
        """Share of all possible links that were active at some time, over all sparse layers (ITOP)."""
        ever = self._ever_active.values()
        return sum(int(m.sum()) for m in ever) / sum(m.numel() for m in ever)

    @torch.no_grad()
    def rescale_weights(self) -> None:
        """Divide each sparse layer's weights by √density, once, before a fresh model is trained.

        An output that sums over 1 % of its inputs varies by a tenth of what the dense initialisation planned; a few
        such layers in a row let no signal through. Not for pretrained weights.
        """
        for name, weight in self._weights.items():
            weight.mul_((self.masks[name].numel() / int(self.masks[name].sum())) ** 0.5)

    @torch.no_grad()
    def step(self) -> None:
        """Call once after every optimizer step: updates the topology when due and keeps absent weights at zero.

        Raises:
            RuntimeError: if another Sparsifier has been attached to the model since.
        """
        if any(_RULED_BY[weight]() is not self for weight in self._weights.values()):
            raise RuntimeError(
                "another Sparsifier has been attached to this model since; step the newer one, or build a new model."
            )
        self.steps += 1
        if self.timeline.is_update(self.steps):
            self._update()
        for name in self._enforced:
            if self._keeps_zeros:
                self._weights[name].masked_fill_(~self.masks[name], 0)
            else:
                self._clear_absent(name, self.masks[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on to the same bits, beside the model's and the optimizer's own state."""
        return {
            **self._settings(),
            "steps": self.steps,
            "masks": {name: mask.cpu().clone() for name, mask in self.masks.items()},
            "ever_active": {name: mask.cpu().clone() for name, mask in self._ever_active.items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "history": [row.copy() for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; load the model's and the optimizer's state first.

        Raises:
            TypeError, ValueError: if the state is of other settings or other layers, or not whole; nothing is changed.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"the saved state lacks {', '.join(sorted(missing))}; load what state_dict() returned.")
        for key, ours in self._settings().items():
            if state[key] != ours:
                raise ValueError(
                    f"the saved state has {key} {state[key]!r} but this Sparsifier has {ours!r}; "
                    "build it with the settings of the run that saved the state."
                )
        for key in ("masks", "ever_active", "generators"):
            if state[key].keys() != self.masks.keys():
                raise ValueError(
                    f"the saved {key} are of layers {sorted(state[key])} but the model's sparse layers are "
                    f"{sorted(self.masks)}; load the state into the model that saved it."
                )
        for key in ("masks", "ever_active"):
            for name, mask in state[key].items():
                check_mask(mask, f"saved mask {name!r}")
                check_same_shape(mask, self.masks[name], f"saved mask {name!r}")
        last_update = min(state["steps"], self.timeline.last_update) // self.timeline.update_every
        for name, links in self._targets(last_update * self.timeline.update_every).items():
            if int(state["masks"][name].sum()) != links:
                raise ValueError(
                    f"the saved mask {name!r} has {int(state['masks'][name].sum())} links; expected exactly {links} "
                    f"after step {state['steps']}. The saved state was changed or damaged."
                )
        # New generators first: one that does not fit is refused before anything is changed.
        generators = {name: torch.Generator(generator.device) for name, generator in self._generators.items()}
        for name, generator in generators.items():
            try:
                generator.set_state(state["generators"][name])
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"the saved generator of layer {name!r} does not fit: {error}") from error

        self._generators = generators
        for name in self.masks:
            self.masks[name].copy_(state["masks"][name])
            self._ever_active[name].copy_(state["ever_active"][name])
            self._clear_absent(name, self.masks[name])
        self.steps = state["steps"]
        self.history = [row.copy() for row in state["history"]]

    def _settings(self) -> dict[str, Any]:
        return {
            "method": repr(self.method),
            "graph": repr(self._graph),
            "sparsity": self.sparsity,
            "total_steps": self.timeline.total_steps,
            "update_every": self.timeline.update_every,
        }

    def _targets(self, step: int) -> dict[str, int]:
        """Number of links by layer at a step."""
        return distributions.uniform(self._shapes, self.method.sparsity.at(step, self.timeline, self.sparsity))

    def _check_links(self) -> None:
        """Refuse a run that would grow its links, empty a layer or never update."""
        first, final = self._targets(0), self._targets(self.timeline.total_steps)
        for name, shape in self._shapes.items():
            if final[name] == 0:
                raise ValueError(
                    f"layer {name!r} of shape {shape} would have no link at sparsity {self.sparsity}; "
                    f"choose a sparsity of at most {1 - 1 / (shape[0] * shape[1]):.6g} or a wider layer."
                )
            if final[name] > first[name]:
                raise ValueError(
                    f"the sparsity would fall from {self.method.sparsity.at(0, self.timeline, self.sparsity)} to "
                    f"{self.sparsity}; choose a final sparsity above the initial one, or replace the method's sparsity."
                )
        if self.method.turnover.zeta > 0 and self.timeline.last_update == 0:
            raise ValueError(
                f"with an update every {self.timeline.update_every} steps and none after step "
                f"{self.timeline.stop_step} of {self.timeline.total_steps}, the topology would never change; "
                "update more often or train longer."
            )

    def _initial_masks(self) -> dict[str, Tensor]:
        masks = {}
        for name, links in self._targets(0).items():
            out_features, in_features = self._shapes[name]
            mask = self.method.topology(
                out_features, in_features, links / (out_features * in_features), generator=self._generators[name]
            )
            check_mask(mask, f"initial mask of {name!r}")
            check_same_shape(mask, self._weights[name], f"initial mask of {name!r}")
            if int(mask.sum()) != links:
                raise ValueError(
                    f"topology {self.method.topology!r} gave layer {name!r} {int(mask.sum())} links; "
                    f"expected exactly {links}."
                )
            masks[name] = mask.to(self._weights[name].device)
        return masks

    def _update(self) -> None:
        """Decay and removal, then percolation, then regrowth up to the target (paper, Figure 2)."""
        targets = self._targets(self.steps)
        exchanged = {name: round(self._zeta() * links) for name, links in targets.items()}
        links = {name: int(mask.sum()) for name, mask in self.masks.items()}
        if links == targets and not any(exchanged.values()):
            return

        seconds = {}
        survivors = {}
        for name in self.masks:
            started = time.perf_counter()
            survivors[name] = self._remove(name, targets[name], exchanged[name])
            seconds[name] = time.perf_counter() - started
        if self.method.removal.percolate:
            survivors = percolate(survivors, self._graph)

        removed, regrown = {}, {}
        for name, mask in self.masks.items():
            started = time.perf_counter()
            removed[name] = mask & ~survivors[name]
            regrown[name] = self._regrow(name, survivors[name], targets[name] - int(survivors[name].sum()))
            mask.copy_(survivors[name] | regrown[name])
            self._ever_active[name] |= mask
            self._clear_absent(name, survivors[name])
            seconds[name] += time.perf_counter() - started

        active = active_neurons(self.masks, self._graph)
        self.history += [
            Update(
                step=self.steps,
                layer=name,
                links=int(mask.sum()),
                removed=int(removed[name].sum()),
                regrown=int(regrown[name].sum()),
                overlap=overlap(removed[name], regrown[name]),
                anp=float(active[name].float().mean()),
                itop=itop_rate(self._ever_active[name]),
                seconds=seconds[name],
            )
            for name, mask in self.masks.items()
        ]

    def _zeta(self) -> float:
        return self.method.turnover.at(self.steps, self.timeline)

    def _remove(self, name: str, target: int, exchanged: int) -> Tensor:
        """Prune to the target by the lowest scores, then remove the links to be exchanged."""
        removal, mask, generator = self.method.removal, self.masks[name], self._generators[name]
        score = SCORES[removal.score]
        weight = self._weights[name].masked_fill(~mask, 0)
        if target < int(mask.sum()):
            mask = keep(score(weight), mask, target, soft=False, generator=generator)
            weight = weight.masked_fill(~mask, 0)
        if removal.temperature is None:
            return keep(score(weight), mask, target - exchanged, soft=False, generator=generator)
        temperature = removal.temperature.temperature(self.steps, self.timeline)
        return keep(score(weight), mask, target - exchanged, temperature, generator=generator)

    def _regrow(self, name: str, survivors: Tensor, num: int) -> Tensor:
        regrowth, generator = self.method.regrowth, self._generators[name]
        if regrowth.score == "random":
            return draw(torch.ones_like(survivors, dtype=torch.float32), ~survivors, num, generator=generator)
        return sample_links(survivors, num, regrowth.score, soft=regrowth.soft, generator=generator)

    def _clear_absent(self, name: str, alive: Tensor) -> None:
        """Zero weight, gradient and optimizer state of the links outside `alive`."""
        weight = self._weights[name]
        state = self.optimizer.state.get(weight, {}).values()
        moments = [value for value in state if isinstance(value, Tensor) and value.shape == weight.shape]
        for tensor in (weight.data, weight.grad, *moments):
            if tensor is not None:
                tensor.masked_fill_(~alive, 0)


def _sparse_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers to sparsify by the name of their weight: all that train, but the last."""
    layers = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    }
    if len(layers) < 2:
        raise ValueError(
            f"{type(model).__name__} has {len(layers)} trainable nn.Linear layers; expected at least two: "
            "the last one is the output layer and stays dense, those before it become sparse."
        )
    layers.popitem()
    first_name: dict[int, str] = {}
    for name, layer in layers.items():
        other = first_name.setdefault(id(layer.weight), name)
        if other != name:
            raise ValueError(
                f"the layers {other} and {name} share one weight, which cannot have two masks; untie them, "
                "or give each its own weight."
            )
    return layers


def _check_ownership(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in owned]
    if missing:
        raise ValueError(
            f"the optimizer does not hold the model's weights {', '.join(missing)}; "
            "build it from model.parameters() of this very model, after moving the model to its device."
        )


def _layer_graph(method: Method, model: nn.Module, layers: dict[str, nn.Linear]) -> LayerGraph:
    graph = sequential_graph(model, layers)
    unknown = layers.keys() - {name for chain in graph.chains for name in chain}
    if unknown and method.removal.percolate:
        raise ValueError(
            f"percolation needs to know which layers feed each other, but {', '.join(sorted(unknown))} are not in an "
            "nn.Sequential; pass graph=LayerGraph(chains=((first, second, ...),)), or LayerGraph() for none."
        )
    return graph


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator of the layer's own: its links do not depend on which other layers there are."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    where = device if device.type == "cuda" else torch.device("cpu")
    return torch.Generator(where).manual_seed(int.from_bytes(digest, "big") >> 1)


def _gradient_hook(sparsifier: "weakref.ref[Sparsifier]", name: str) -> Callable[[Tensor], None]:
    """Zeroes the gradient of absent links, by filling: a NaN there vanishes too."""

    def hook(weight: Tensor) -> None:
        owner = sparsifier()
        if owner is not None and _RULED_BY[weight]() is owner and weight.grad is not None:
            weight.grad.masked_fill_(~owner.masks[name], 0)

    return hook
