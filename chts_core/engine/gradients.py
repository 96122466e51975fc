"""Gradients of a sparse model. Gradients of absent links are zeroed, but a copy is kept if an update needs them."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from chts_core.engine.distributed import Ranks
from chts_core.engine.guard import Guard
from chts_core.engine.linear import SparseLinear
from chts_core.engine.sharding import full_from_shards, is_sharded, local_shard
from chts_core.engine.weights import LinkWeight, MaskedWeight, Weight, zero_absent


class Scheduled(Protocol):
    """An object that knows when an update is due."""

    @property
    def update_due(self) -> bool:
        """Whether the current step ends with an update."""
        ...


class Gradients:
    """Zeroes the gradients of absent links as soon as they are computed, and keeps a copy if an update needs them.

    Args:
        weights: the weights, by the name of the parameter.
        collects: whether updates use the gradient of all links.
        guard: knows whether another Sparsifier now controls the weights.

    Attributes:
        dense: for each weight, by name: the gradient of all links, existing and absent, in float32, summed over the
            backward passes of the step. The dictionary has an entry only if an update that needs the gradient is due.
    """

    def __init__(self, weights: Mapping[str, Weight], collects: bool, guard: Guard) -> None:
        self.dense: dict[str, Tensor] = {}
        self._weights = weights
        self._collects = collects
        self._guard = guard
        self._owner: weakref.ref[Scheduled] | None = None
        # `_arriving` stores, for each weight, the number of a backward pass and the gradient of this pass so far.
        # `_versions` stores the version of `grad` to which the gradient in `dense` belongs.
        self._arriving: dict[str, tuple[int, Tensor]] = {}
        self._versions: dict[str, int] = {}

    def listen(self, names: list[str], owner: Scheduled) -> None:
        """Watch the gradients of some weights for `owner`. The hooks do not keep `owner` alive."""
        self._owner = weakref.ref(owner)
        me = weakref.ref(self)
        for name in names:
            weight = self._weights[name]
            trains = weight.parameter.requires_grad
            weight.parameter.requires_grad_(True)  # a copy may have frozen weights, which accept no hooks
            if self._collects:
                weight.parameter.register_hook(_hook(me, Gradients._forget_dropped, name))
            if not isinstance(weight, LinkWeight):
                weight.parameter.register_post_accumulate_grad_hook(_hook(me, Gradients._clear, name))
            elif self._collects:
                weight.layer.dense_gradient_hook = _dense_gradient_hook(me, name)
                weight.parameter.register_post_accumulate_grad_hook(_hook(me, Gradients._add_arrived, name))
            weight.parameter.requires_grad_(trains)

    def forget(self) -> None:
        """Forget the gradients of the current step."""
        self.dense.clear()
        self._arriving.clear()

    def mean(self, name: str, ranks: Ranks) -> Tensor | None:
        """The gradient of all links, averaged over the ranks. None if it was not kept. A collective operation."""
        if name not in self.dense:
            return None
        gradient, weight = self.dense[name], self._weights[name].parameter
        # The gradient of a sharded weight is already the mean over the ranks.
        return full_from_shards(gradient, weight) if is_sharded(weight) else ranks.mean(gradient)

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy. The copy has no gradients of the step, and it must call `listen` again."""
        return {**self.__dict__, "dense": {}, "_arriving": {}, "_versions": {}, "_owner": None}

    def _wanted(self) -> bool:
        """Whether the gradient of all links is needed now."""
        owner = None if self._owner is None else self._owner()
        return self._collects and owner is not None and owner.update_due

    def _forget_dropped(self, name: str, _: Tensor) -> None:
        """Forget the gradient of all links if the user has reset `grad`, the gradient of the existing links."""
        if not self._wanted() or name not in self.dense:
            return
        gradient = self._weights[name].parameter.grad
        if gradient is None or (
            gradient._version != self._versions.get(name) and not local_shard(gradient).count_nonzero()
        ):
            del self.dense[name]

    def _clear(self, name: str, parameter: Tensor) -> None:
        """Overwrite the gradient of absent links with zeros, so that a NaN there becomes zero too.

        If an update needs the gradient of all links, the method first adds a copy of this gradient to `dense`. Both
        `dense` and `grad` are sums over the backward passes of the step; `grad` is zero for absent links.
        """
        held = self._weights[name]
        if not self._guard.rules(parameter) or parameter.grad is None:
            return
        assert isinstance(held, MaskedWeight)
        here, mask = local_shard(parameter.grad), held.local_mask
        if self._wanted():
            gradient = here.float()
            absent = gradient + self.dense[name] if name in self.dense else gradient
            self.dense[name] = torch.where(mask, gradient, absent)
        zero_absent(here, mask)
        self._versions[name] = parameter.grad._version

    def _arrive(self, name: str, layer: SparseLinear, gradient: Callable[[], Tensor]) -> None:
        """Sum up the gradient of all links of a layer that stores only its existing links.

        The sum of one backward pass is added to `dense` only when the gradient of the existing links has arrived in
        `grad`. A gradient that `torch.autograd.grad` computes never arrives in `grad`.
        """
        if not self._guard.rules(layer.values) or not self._wanted():
            return
        backward = torch._C._current_graph_task_id()
        before, summed = self._arriving.get(name, (None, None))
        new = gradient().float()
        self._arriving[name] = backward, new if summed is None or before != backward else summed + new

    def _add_arrived(self, name: str, values: Tensor) -> None:
        """Add the gradient of a finished backward pass to `dense`, for a layer that stores only its links."""
        if not self._guard.rules(values) or not self._wanted() or name not in self._arriving:
            return
        _, arrived = self._arriving.pop(name)
        self.dense[name] = self.dense[name] + arrived if name in self.dense else arrived
        assert values.grad is not None
        self._versions[name] = values.grad._version


def _hook(
    gradients: "weakref.ref[Gradients]", method: Callable[[Gradients, str, Tensor], None], name: str
) -> Callable[[Tensor], None]:
    """A hook for a tensor. The hook does not keep the :class:`Gradients` alive."""

    def hook(tensor: Tensor) -> None:
        alive = gradients()
        if alive is not None:
            method(alive, name, tensor)

    return hook


def _dense_gradient_hook(
    gradients: "weakref.ref[Gradients]", name: str
) -> Callable[[SparseLinear, Callable[[], Tensor]], None]:
    def hook(layer: SparseLinear, gradient: Callable[[], Tensor]) -> None:
        alive = gradients()
        if alive is not None:
            alive._arrive(name, layer, gradient)

    return hook


def skip_before_updates(optimizer: torch.optim.Optimizer, owner: Scheduled, guard: Guard) -> None:
    """Hide the gradients from the optimizer in the step before an update, so that the optimizer skips all parameters.

    Args:
        owner: knows when an update is due; the hooks do not keep it alive.
        guard: knows whether another Sparsifier now controls the weights; if so, no step is skipped.
    """
    me = weakref.ref(owner)
    hidden: list[tuple[Tensor, Tensor | None]] = []

    def hide(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alive = me()
        if alive is None or not alive.update_due or guard.superseded:
            return
        if any(callable(given) for given in (*args[1:], kwargs.get("closure"))):
            raise RuntimeError(
                "the method skips the optimizer's step before an update. It cannot skip a step with a closure that "
                "computes the gradients; call backward() first, and then optimizer.step() without a closure."
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
