"""One sparse layer, forward and backward, against the dense one and against sparselab's."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.engine.linear import SparseLinear
from chts_core.topology import erdos_renyi

from .common import compare

# Outputs, inputs, samples, density, and how many times as fast as the dense layer it should be.
LAYERS = [
    (1568, 1568, 32, 0.01, 15),
    (1568, 1568, 32, 0.05, None),
    (1568, 1568, 256, 0.01, 20),
    (1568, 1568, 256, 0.05, None),
    (1568, 1568, 256, 0.3, None),
    (1568, 1568, 256, 0.5, None),
    (1376, 512, 2048, 0.05, 3.5),
    (1376, 512, 2048, 0.1, 2),
    (4096, 4096, 256, 0.01, None),
]


def rows() -> Iterator[dict[str, Any]]:
    """Each layer with samples side by side, as it has them between other sparse layers, and with features side by side.

    sparselab, where it is installed, has features side by side: `pip install sparselab`.
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for outputs, inputs, samples, density, aim in LAYERS:
            name = f"{outputs}×{inputs}, {samples} samples, {density:.0%} on {device}"
            generator = torch.Generator().manual_seed(0)
            linear = nn.Linear(inputs, outputs).to(device)
            mask = erdos_renyi(outputs, inputs, density, generator=generator, device=device)
            layer = SparseLinear.from_linear(linear, mask)
            x, dy = (torch.randn(samples, size, generator=generator).to(device) for size in (inputs, outputs))
            by_feature = [tensor.T.contiguous().T for tensor in (x, dy)]
            dense = ("nn.Linear", _training(linear, x, dy))
            own_aim = aim if device == "cpu" else None
            yield compare(name, _training(layer, *by_feature), dense, aim=own_aim, device=device)
            yield compare(f"the same by rows: {name}", _training(layer, x, dy), dense, device=device)
            if device == "cpu" and importlib.util.find_spec("sparselab"):
                rival = ("sparselab.SparseLinear", _training(_sparselab(inputs, outputs, density), x, dy))
                yield compare(name, _training(layer, *by_feature), rival, aim=1)
                yield compare(f"the same by rows: {name}", _training(layer, x, dy), rival, aim=1)


def _sparselab(inputs: int, outputs: int, density: float) -> nn.Module:
    import sparselab

    layer: nn.Module = sparselab.SparseLinear(inputs, outputs, sparsity=1 - density)
    return layer


def _training(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Forward, and the gradients by the input, the weights and the bias."""
    x = x.detach().requires_grad_()
    wanted = (x, *layer.parameters())

    def step() -> None:
        torch.autograd.grad(layer(x), wanted, dy)

    return step
