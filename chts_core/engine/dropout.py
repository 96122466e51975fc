"""Dropout that draws its random bits on all threads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """A variant of `nn.Dropout` that uses all of torch's threads, and stores a seed instead of a mask.

    On most processors, torch draws random numbers on one thread. These draws take a quarter of the time of a sparse
    Transformer's training step. With `nn.Dropout`, the dropped elements depend on the manufacturer of the processor.
    With this class, they depend only on the seed (:mod:`chts_core.compiled.dropout`). The probability that an element
    is dropped differs from `p` by at most 2^-33.

    On any device other than a CPU, and if torch traces or transforms the model, this class works like `nn.Dropout`.

    Args:
        p: probability that an element is zeroed in training; the other elements are divided by 1 - p.
        generator: on the CPU, draws a seed for each call. Default: torch's global generator, as in `nn.Dropout`.
            `torch.utils.checkpoint` repeats calls and restores only the global generator, so it needs this default.
    """

    def __init__(self, p: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Dropout`."""
        kept = round((1 - self.p) * 2**32)
        if not self.training or kept == 2**32:
            return input
        if not isinstance(input, Tensor):  # torch.fx traces the model
            return super().forward(input)
        if input.device.type != "cpu" or kept == 0 or not input.is_floating_point() or _is_transformed():
            return super().forward(input)
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator, device="cpu"))
        drop: Callable[..., Tensor] = _Drop.apply
        return drop(input, torch.tensor([seed, kept], device="cpu"))


class _Drop(torch.autograd.Function):
    """The dropout operation. Its forward and backward passes use the same seed, so they drop the same elements."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, key: Tensor) -> Tensor:
        ctx.key = key
        return _drop(input, key)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        drop: Callable[..., Tensor] = _Drop.apply
        return drop(grad, ctx.key), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _drop(tangent, ctx.key)


def _drop(input: Tensor, key: Tensor) -> Tensor:
    from chts_core.compiled.dropout import drop  # Numba takes about a second to import

    wide = input.detach().to(torch.promote_types(input.dtype, torch.float32)).contiguous()  # NumPy has no bfloat16
    output = torch.empty_like(wide)
    drop(key, wide.view(-1), output.view(-1))
    return output.to(input.dtype)


def _is_transformed() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    )
