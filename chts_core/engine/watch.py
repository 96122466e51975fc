"""Notice changes of a model and its optimizer between two steps of a Sparsifier."""

import contextlib
import signal
import threading
import weakref
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from chts_core.engine.sharding import is_sharded, local_shard
from chts_core.engine.weights import LinkWeight, MaskedWeight, Weight


class Watch:
    """Counts the steps of an optimizer, and notices weights that something else has changed.

    PyTorch counts the in-place changes of a tensor. Comparing these counts does not read the weights, so the comparison
    is cheap enough for every step.

    Args:
        model: the model to watch.
        optimizer: the optimizer that trains the parameters.
        weights: the weights, by the name of the parameter. The mapping may change until :meth:`listen` is called.

    Attributes:
        steps: number of optimizer steps since the last :meth:`settle`.
        counts: whether the optimizer calls hooks, so that its steps can be counted.
        other: the type of another optimizer that has changed the weights since the last :meth:`settle`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Weight]) -> None:
        self.steps = 0
        self.other: str | None = None
        self.counts = bool(getattr(type(optimizer).step, "hooked", False))
        self._model = model
        self._optimizer = optimizer
        self._weights = weights
        self._versions: dict[str, int] = {}
        self._changed: set[str] = set()
        # The parameters, and the places of the modules and parameters. They are looked up only once, because every step
        # needs them.
        self._parameters: dict[str, nn.Parameter] = {}
        self._modules: list[tuple[nn.Module, str, nn.Module]] = []
        self._places: list[tuple[nn.Module, str, nn.Parameter]] = []

    def listen(self) -> None:
        """Watch the optimizer from now on, and look for other optimizers."""
        self._parameters = {name: weight.parameter for name, weight in self._weights.items()}
        self._modules, self._places = [], []
        for name, weight in self._weights.items():
            *path, last = name.split(".")
            owner = self._model
            for key in path:
                child = owner.get_submodule(key)
                self._modules.append((owner, key, child))
                owner = child
            self._places.append((owner, "values" if isinstance(weight, LinkWeight) else last, weight.parameter))
        self._optimizer.register_step_pre_hook(self._before)
        self._optimizer.register_step_post_hook(self._after)
        _WATCHES.add(self)

    def settle(self) -> None:
        """Record that all weights are correct now."""
        self.steps, self.other = 0, None
        self._changed.clear()
        self._versions = self._now()

    def changed(self) -> set[str]:
        """The weights that code outside the optimizer has changed since :meth:`settle`.

        PyTorch does not count changes through `.data`.
        """
        return self._changed | self._moved()

    def replaced(self) -> list[str]:
        """The weights that are no longer the model's parameters."""
        if all(owner._modules.get(key) is child for owner, key, child in self._modules) and all(
            owner._parameters.get(key) is parameter for owner, key, parameter in self._places
        ):
            return []
        gone = []
        for name, weight in self._weights.items():
            path, _, last = name.rpartition(".")
            try:
                owner = self._model.get_submodule(path)
            except AttributeError:
                gone.append(name)
                continue
            held = getattr(owner, "values", None) if isinstance(weight, LinkWeight) else owner._parameters.get(last)
            # A parametrisation, such as torch's pruning or weight normalisation, keeps the parameter under another
            # name.
            if held is not weight.parameter and not any(weight.parameter is p for p in owner.parameters()):
                gone.append(name)
        return gone

    def held(self) -> bool:
        """Whether the optimizer still holds all weights."""
        held = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        return all(id(weight.parameter) in held for weight in self._weights.values())

    def _before(self, *_: Any) -> None:
        self._changed |= self._moved()

    def _after(self, *_: Any) -> None:
        self.steps += 1
        self._versions = self._now()

    def saw(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the type of an optimizer that has made a step, if it is another optimizer of these weights."""
        if optimizer is self._optimizer or self.other is not None:
            return
        ours = {id(weight.parameter) for weight in self._weights.values()}
        if any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"]):
            self.other = type(optimizer).__name__

    def _now(self) -> dict[str, int]:
        return {name: parameter._version for name, parameter in self._parameters.items()}

    def _moved(self) -> set[str]:
        """Weights that changed since the last step or `settle`, except sharded weights, which `fully_shard` changes."""
        now = self._now()
        if now == self._versions:
            return set()
        return {
            name
            for name, version in self._versions.items()
            if now[name] != version and not is_sharded(self._parameters[name])
        }


class LostSteps:
    """Measures what share of an optimizer's step changes the weights of absent links. The masks undo these changes.

    The first step shows whether the optimizer changes any such weights. If so, a copy of the weights is kept to measure
    the second step.

    Args:
        optimizer: the optimizer that trains the weights.
        weights: the weights, by the name of the parameter. Only dense tensors are measured.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: Mapping[str, Weight]) -> None:
        self._weights = [weight for weight in weights.values() if isinstance(weight, MaskedWeight)]
        self._moves = False
        self._before: list[Tensor] = []
        self._hook = optimizer.register_step_pre_hook(self._keep)

    def share(self) -> float | None:
        """The share of a step's squared norm that the masks undo, or None if this share is not known yet.

        Call this method after each step, before the masks are applied, until it returns a number.
        """
        if not self._before:
            self._moves = any(bool((_now(weight) * ~weight.local_mask).count_nonzero()) for weight in self._weights)
            if self._moves:
                return None
            self._hook.remove()
            return 0.0
        self._hook.remove()
        whole = inside = 0.0
        for weight, before in zip(self._weights, self._before, strict=True):
            squares = (_now(weight) - before).double().square()
            whole += float(squares.sum())
            inside += float(squares[weight.local_mask].sum())
        return 1 - inside / whole if whole else 0.0

    def _keep(self, *_: Any) -> None:
        if self._moves and not self._before:
            self._before = [_now(weight).clone() for weight in self._weights]


def _now(weight: MaskedWeight) -> Tensor:
    """This rank's share of a weight."""
    return local_shard(weight.parameter.detach())


_WATCHES: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _after_any(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for watch in list(_WATCHES):
        watch.saw(optimizer)


register_optimizer_step_post_hook(_after_any)


def inner_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside a wrapper, such as accelerate's wrapper, SAM or Lookahead.

    The inner optimizer holds the state of the parameters.
    """
    for attribute in ("optimizer", "base_optimizer"):
        inner = getattr(optimizer, attribute, None)
        if isinstance(inner, torch.optim.Optimizer) and inner is not optimizer:
            return inner_optimizer(inner)
    return optimizer


def is_accumulating(optimizer: torch.optim.Optimizer) -> bool:
    """Whether accelerate is still accumulating gradients, so that it skips this step of the optimizer."""
    state = getattr(optimizer, "gradient_state", None)
    return state is not None and not state.sync_gradients


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Delay signals, such as Ctrl-C, until the end of a block. Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {int(number): signal.getsignal(number) for number in signal.valid_signals()}
    handlers = {number: handler for number, handler in known.items() if callable(handler)}
    came: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)
