"""The cost of sparse training: time and memory measured on this machine, and the theoretical cost."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.engine.linear import Execution, SparseLinear
from chts_core.lab.data import ImageData
from chts_core.lab.models import mlp
from chts_core.sparsifier import Sparsifier
from chts_core.tools.planner import plan
from chts_core.topology import erdos_renyi

_WARM_UP = 3


def median_seconds(actions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each action, in seconds. The actions take turns, so a slow moment of the machine affects all of
    them.
    """
    for action in actions.values():
        for _ in range(_WARM_UP):
            action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _, (name, action) in itertools.product(range(repeats), actions.items()):
        started = time.perf_counter()
        action()
        times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


def forward_and_backward(layer: nn.Module, x: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Build a training step for one layer, without an optimizer. The step computes the output and returns the
    gradients.

    These are the gradients of the sum of all outputs with respect to the input and the layer's parameters.
    """
    x = x.detach().requires_grad_()
    with torch.no_grad():
        upstream = torch.ones_like(layer(x))

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x), (x, *layer.parameters()), upstream)

    return step


@dataclass(frozen=True)
class LayerTime:
    """How many seconds a step of :func:`forward_and_backward` takes for a dense layer, a masked layer and a layer that
    stores only links.
    """

    density: float
    dense: float
    masked: float
    links: float


class MaskedLinear(nn.Linear):
    """A linear layer that multiplies its weight by a mask in every pass, as most implementations do."""

    def __init__(self, mask: Tensor) -> None:
        out_features, in_features = mask.shape
        super().__init__(in_features, out_features)
        self.mask = mask

    def forward(self, input: Tensor) -> Tensor:
        """x (W ∘ mask)ᵀ + b for x (..., in_features)."""
        return F.linear(input, self.weight * self.mask, self.bias)


def time_layers(
    out_features: int,
    in_features: int,
    samples: int,
    densities: Sequence[float],
    *,
    repeats: int = 15,
    generator: torch.Generator,
) -> list[LayerTime]:
    """Measure the seconds per step of one layer with Erdős–Rényi links at several densities, on the CPU."""
    x = torch.randn(samples, in_features, generator=generator)
    found = []
    for density in densities:
        mask = erdos_renyi(out_features, in_features, density, generator=generator)
        dense = nn.Linear(in_features, out_features)
        layers = {"dense": dense, "masked": MaskedLinear(mask), "links": SparseLinear.from_linear(dense, mask)}
        steps = {name: forward_and_backward(layer, x) for name, layer in layers.items()}
        found.append(LayerTime(density, **median_seconds(steps, repeats)))
    return found


@dataclass(frozen=True)
class TrainingCost:
    """The cost of training an MLP with one method.

    name: name of the row.
    flops: theoretical training FLOPs as a share of the training FLOPs of the dense model.
    step: seconds of a training step without an update. This is the median in each interval between two updates,
        averaged over the intervals.
    update: seconds of the last update of the topology; 0 if there was no update.
    memory: the bytes that a run keeps between steps, without the data set: weights, gradients, moments and masks.
    course: for each interval between two updates, in order, the median seconds of a step and the density.
    """

    name: str
    flops: float
    step: float
    update: float
    memory: int
    course: list[tuple[float, float]]


def measure_training(
    data: ImageData,
    method: str,
    sparsity: float,
    *,
    execution: Execution = "masked",
    hidden: int,
    batch_size: int = 32,
    steps: int = 40,
    updates: int = 2,
    seed: int = 0,
    name: str | None = None,
) -> TrainingCost:
    """On the CPU, train an MLP with three hidden layers for `steps` steps, with at most `updates` updates of the
    topology.

    The updates are evenly spread over the run, but some methods have no updates near the end. The optimizer is SGD with
    momentum, as in the paper's image tasks. There are far too few steps to measure an accuracy.
    """
    generator = torch.Generator().manual_seed(seed)
    model = mlp(data.features, hidden, data.classes, generator=generator)
    every = steps // (updates + 1)
    flops = plan(model, method, sparsity, total_steps=steps, update_every=every).flops
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = Sparsifier(
        model, optimizer, method, sparsity, total_steps=steps, update_every=every, seed=seed, execution=execution
    )
    sparsifier.rescale_weights()
    times: list[list[float]] = [[]]
    densities = [sparsifier.density()]
    for _ in range(steps):
        batch = torch.randint(len(data.train.labels), (batch_size,), generator=generator)
        due = sparsifier.update_due
        started = time.perf_counter()
        optimizer.zero_grad()
        some = data.train.take(batch)
        F.cross_entropy(model(some.images), some.labels).backward()
        optimizer.step()
        sparsifier.step()
        if due:
            times.append([])
            densities.append(sparsifier.density())
        else:
            times[-1].append(time.perf_counter() - started)
    last = max((row["step"] for row in sparsifier.history), default=0)  # the first update also compiles
    return TrainingCost(
        name=name or f"{method}, {execution}",
        flops=flops,
        step=mean(median(part) for part in times if part),
        update=sum(row["seconds"] for row in sparsifier.history if row["step"] == last),
        memory=kept_bytes(model, optimizer, sparsifier),
        course=[(median(part), density) for part, density in zip(times, densities, strict=True) if part],
    )


def kept_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: Sparsifier) -> int:
    """Bytes of the weights, their gradients, the optimizer's moments, and the data on the links.

    The data on the links are the masks or the positions of the present links, and one bit for each possible link, which
    says whether this link ever existed (ITOP). A dense model needs no such data.
    """
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    kept = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *gradients, *moments))
    if sparsifier.density() == 1:
        return kept
    masks = sparsifier.masks
    if sparsifier.execution == "masked":  # otherwise the layers' buffers contain the positions of the links
        kept += sum(mask.nbytes for mask in masks.values())
    return kept + sum(-(-mask.numel() // 8) for mask in masks.values())
