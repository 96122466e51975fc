"""Find infinite or NaN values in weights, buffers, gradients, inputs and outputs of layers, and the loss."""

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

    what: the kind of tensor.
    name: the name of the parameter or buffer, or of the module with this input or output; "" for the loss and for the
        model itself.
    count: how many values of the tensor are infinite or NaN.
    of: how many values the tensor has.
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
    """The tensors in a model that have infinite or NaN values. Possible causes come before their effects.

    Weights and buffers come first. If `compute_loss` is given, the modules of one forward pass follow, in the order in
    which they finish, and then the loss. Each call of a module adds at most one entry: for its input if the input is
    not finite, otherwise for its output. The gradients of the parameters come last. In an input, -inf is not an error:
    attention masks contain it.

        if not loss.isfinite():
            print(find_nonfinite(model, lambda: loss_of(model, batch))[0])

    The function changes only what a forward pass changes, such as the statistics of a batch normalisation. If you use
    `torch.compile`, pass the original model. If `fully_shard` has sharded the weights, the function looks only at the
    rows of this rank.

    Args:
        model: any module.
        compute_loss: calls the model on a batch and returns the loss, which may have any shape.

    Returns:
        The entries in the order above. The list is empty if all tensors are finite.
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
        # In an input, -inf shows attention which tokens to leave out.
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
    """The floating-point tensors that a module takes or returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
