"""Where infinite and NaN values are, by name: in weights, gradients, the inputs and outputs of layers, and the loss."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chts_core.engine.sharding import local_shard

What = Literal["weight", "buffer", "gradient", "input", "output", "loss"]


@dataclass(frozen=True)
class NonFinite:
    """A tensor that is not finite.

    what: what it is.
    name: of the parameter or buffer, or of the module whose input or output it is; "" for the loss and for the model.
    count: how many of its values are infinite or NaN.
    of: how many values it has.
    """

    what: What
    name: str
    count: int
    of: int

    def __str__(self) -> str:
        if self.what == "loss":
            where = "the loss"
        elif self.what in ("weight", "buffer"):
            where = f"the {self.what} {self.name}"
        else:
            where = f"the {self.what} of {self.name or 'the model'}"
        return f"{where} ({self.count} of {self.of} values)"


def find_nonfinite(model: nn.Module, compute_loss: Callable[[], Tensor] | None = None) -> list[NonFinite]:
    """What is infinite or NaN in a model, first what can be the cause of others.

    Weights and buffers come first, then, if `compute_loss` is given, what one forward pass meets: each module once, by
    its input if that is not finite, else by its output, in the order in which they end; then the loss; at last
    the gradients that the parameters hold. In an input -inf is no fault by itself: masks of attention have it.

        if not loss.isfinite():
            print(find_nonfinite(model, lambda: loss_of(model, batch))[0])

    Nothing is changed but what a forward pass changes, such as the statistics of a batch normalisation. The model is to
    be that inside of `torch.compile`. Of weights that `fully_shard` has shared out, those of this rank are looked at.

    Args:
        model: any module.
        compute_loss: calls the model on the batch in question; the loss it returns may have any shape.

    Returns:
        One entry per tensor that is not finite; empty if all is in order.
    """
    found = [*_of("weight", model.named_parameters()), *_of("buffer", model.named_buffers())]
    if compute_loss is not None:
        met: list[NonFinite] = []
        hooks = [module.register_forward_hook(_look(name, met)) for name, module in model.named_modules()]
        try:
            with torch.no_grad():
                loss = compute_loss()
        finally:
            for hook in hooks:
                hook.remove()
        found += [*met, *_of("loss", [("", loss)])]
    gradients = ((name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None)
    return [*found, *_of("gradient", gradients)]


def _of(what: What, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[NonFinite]:
    for name, tensor in tensors:
        here = local_shard(tensor.detach())
        # -inf in an input is how attention is told what to leave out.
        wrong = here.isnan() | here.isposinf() if what == "input" else ~here.isfinite()
        count = int(wrong.count_nonzero())
        if count:
            yield NonFinite(what, name, count, here.numel())


def _look(name: str, met: list[NonFinite]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = _found("input", name, inputs) or _found("output", name, output)
        met.extend(found[:1])

    return hook


def _found(what: What, name: str, value: Any) -> list[NonFinite]:
    return list(_of(what, ((name, tensor) for tensor in _tensors(value))))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those of floating point in what a module takes or returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
