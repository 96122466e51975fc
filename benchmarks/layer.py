"""One sparse layer, forward and backward, against a dense layer and a layer of sparselab."""

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
    (1568, 1568, 32, 0.01, 18),
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
    """Each layer against nn.Linear; then against sparselab's layer, if it is installed: `pip install sparselab`.

    sparselab comes last: its threads keep looking for work, and slow down everything else in the process.
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for outputs, inputs, samples, density, aim in LAYERS:
            ours, linear, x, dy = _layer(outputs, inputs, samples, density, device)
            own_aim = aim if device == "cpu" else None
            dense = ("nn.Linear", _training(linear, x, dy))
            yield compare(_name(outputs, inputs, samples, density, device), ours, dense, aim=own_aim, device=device)
    if importlib.util.find_spec("sparselab"):
        for outputs, inputs, samples, density, _ in LAYERS:
            ours, _, x, dy = _layer(outputs, inputs, samples, density, "cpu")
            rival = ("sparselab.SparseLinear", _training(_sparselab(inputs, outputs, density), x, dy))
            yield compare(_name(outputs, inputs, samples, density, "cpu"), ours, rival, aim=1)


def _name(outputs: int, inputs: int, samples: int, density: float, device: str) -> str:
    return f"{outputs}×{inputs}, {samples} samples, {density:.0%} on {device}"


def _layer(
    outputs: int, inputs: int, samples: int, density: float, device: str
) -> tuple[Callable[[], None], nn.Linear, Tensor, Tensor]:
    """A step of a sparse layer, the dense layer it is made from, and the samples and gradients for both."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(inputs, outputs).to(device)
    mask = erdos_renyi(outputs, inputs, density, generator=generator, device=device)
    x, dy = (torch.randn(samples, size, generator=generator).to(device) for size in (inputs, outputs))
    return _training(SparseLinear.from_linear(linear, mask), x, dy), linear, x, dy


def _sparselab(inputs: int, outputs: int, density: float) -> nn.Module:
    import sparselab

    layer: nn.Module = sparselab.SparseLinear(inputs, outputs, sparsity=1 - density)
    return layer


def _training(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Forward, and the gradients with respect to the input, the weights and the bias."""
    x = x.detach().requires_grad_()
    wanted = (x, *layer.parameters())

    def step() -> None:
        torch.autograd.grad(layer(x), wanted, dy)

    return step
