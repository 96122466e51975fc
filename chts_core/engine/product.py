"""The product of a layer that stores only its links, and how it works with autograd, autocast and PyTorch's tracers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from chts_core.engine.kernels import DENSE, Kernels, Links, scratch, transposed

REMEDY = (
    "first call chts_core.engine.linear.to_dense(model) on a copy of the model, or call the compact() method of its "
    "Sparsifier"
)


class Layer(Protocol):
    """The attributes of a layer that the backward pass of its product reads or sets.

    has_trained: whether a backward pass has ever computed the gradient of the values.
    """

    has_trained: bool

    @property
    def dense_gradient_hook(self) -> Callable[..., None] | None:
        """A function, or None. The backward pass calls it with the layer and a function that computes W's gradient."""


def product(x: Tensor, values: Tensor, bias: Tensor | None, links: Links, kernels: Kernels, layer: Layer, /) -> Tensor:
    """The contiguous tensor x Wᵀ + b, for x (samples, in_features) in the dtype of the values."""
    with without_autocast(x.device.type):
        if _differentiates(x, values, bias):
            apply: Callable[..., Tensor] = _Product.apply
            return apply(x, values, bias, links, kernels, layer)
        bias = None if bias is None else bias.detach()
        y = kernels.forward(links, values.detach(), bias, _by_feature(x.detach(), kernels))
        return y.T if len(x) == 1 else transposed(y)


class _Product(torch.autograd.Function):
    """x Wᵀ + b, and the gradients with respect to x (samples, in), the values and the bias.

    The results are contiguous, like the results of an `nn.Linear`. Most later operations would lose more time on a
    transposed view than it takes to make the result contiguous.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, links: Links, kernels: Kernels, layer: Layer
    ) -> Tensor:
        features = _by_feature(x, kernels)
        ctx.save_for_backward(features, values)
        ctx.links, ctx.kernels, ctx.layer = links, kernels, layer
        return transposed(kernels.forward(links, values, bias, features))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Tensor:
        raise NotImplementedError(f"a sparse layer does not support forward-mode differentiation; {REMEDY}.")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, values = ctx.saved_tensors
        hook = ctx.layer.dense_gradient_hook
        # Keep `dy` if a hook may read it later, or if a GPU may still be reading it when this call returns.
        dy = _by_feature(grad, ctx.kernels, passing=hook is None and grad.device.type == "cpu")
        dx = transposed(ctx.kernels.input_gradient(ctx.links, values, dy)) if ctx.needs_input_grad[0] else None
        dw = ctx.kernels.value_gradient(ctx.links, features, dy) if ctx.needs_input_grad[1] else None
        ctx.layer.has_trained |= ctx.needs_input_grad[1]
        db = dy.sum(1) if ctx.needs_input_grad[2] else None
        if hook is not None:
            hook(ctx.layer, lambda: dy @ features.T)
        return dx, dw, db, None, None, None


def _by_feature(x: Tensor, kernels: Kernels, *, passing: bool = False) -> Tensor:
    """Transpose (samples, features). For sparse kernels, each feature has a contiguous row in the result.

    Args:
        passing: whether the next backward pass through a layer may overwrite the result.
    """
    if kernels is DENSE or x.T.is_contiguous():
        return x.T
    return transposed(x, scratch("slopes", x, *x.shape[::-1]) if passing else None)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """A context in which operations compute in the dtypes of their tensors, without autocast."""
    if not torch.is_autocast_enabled(device_type):  # a call for one token must be fast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def is_transformed() -> bool:
    """Whether PyTorch traces, exports or transforms the model. Then all operations must be PyTorch's own."""
    return torch._C._get_tracing_state() is not None or _is_exporting() or torch._C._are_functorch_transforms_active()


def _differentiates(*tensors: Tensor | None) -> bool:
    """Whether autograd must record an operation on these tensors."""
    backward = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return backward or forward_ad._current_level >= 0


def _is_exporting() -> bool:
    """Whether torch.export traces the model. PyTorch 2.6 cannot report this."""
    exporting = getattr(torch.compiler, "is_exporting", None)
    return exporting is not None and bool(exporting())
