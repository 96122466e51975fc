"""Runs so small that every step of one can be watched, and all outcomes of an update be counted."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from chts_core.choices import Constant
from chts_core.engine.linear import Execution
from chts_core.lab.verify.formulas import Links, links_of
from chts_core.lab.verify.specification import EVERY, SPARSITY, STEPS
from chts_core.methods import Method
from chts_core.percolation import LayerGraph
from chts_core.sparsifier import Sparsifier

_DRAWS = 800  # repetitions of an update whose outcomes are counted
_AT_A_TIME = 16  # layers that are updated at a time, each with random numbers of its own


class Run:
    """A small perceptron in training; the seed decides its topology alone."""

    def __init__(self, method: Method, *, seed: int = 0, weight_seed: int = 0, execution: Execution = "masked") -> None:
        generator = torch.Generator().manual_seed(weight_seed)
        self.model = nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            SPARSITY,
            total_steps=STEPS,
            update_every=EVERY,
            seed=seed,
            execution=execution,
        )
        data = torch.Generator().manual_seed(0)
        self.images = torch.randn(STEPS, 8, 20, generator=data)
        self.labels = torch.randint(3, (STEPS, 8), generator=data)

    def weight(self, name: str) -> nn.Parameter:
        """Of a layer."""
        return self.model.get_parameter(name)

    def gradient(self, name: str) -> Tensor:
        """By the weight of a layer."""
        gradient = self.weight(name).grad
        assert gradient is not None
        return gradient

    def backward_and_step(self, step: int) -> None:
        """All of a training step but the Sparsifier's part."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images[step - 1]), self.labels[step - 1]).backward()
        self.optimizer.step()

    def train(self, first: int, last: int) -> None:
        """From one step to another, both included."""
        for step in range(first, last + 1):
            self.backward_and_step(step)
            self.sparsifier.step()

    def masks(self) -> dict[str, Tensor]:
        """As they are now."""
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}


def from_zero(method: Method) -> Method:
    """New links start from zero, to tell them from survivors. `_weights` checks the last weights."""
    return replace(method, regrowth=replace(method.regrowth, history=False))


# --- one update of a network so small that all of its outcomes can be counted ---

SMALL_MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
SMALL_KEPT = 6  # of the 8 links: 0.3 · 8 ≈ 2 go


def small_weights() -> Tensor:
    """Weights of the small network, all unlike."""
    return torch.linspace(0.2, 1.0, 12).view(3, 4) * torch.tensor([1, -1, 1, -1])


def small_updates(method: Method) -> list[tuple[Links, Links]]:
    """Survivors and regrown links of the first update, for many seeds and layers, without percolation or decay."""
    method = from_zero(replace(method, sparsity=Constant()))
    model = nn.Sequential(*(nn.Linear(4, 3) for _ in range(_AT_A_TIME)), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {f"{layer}.weight": model.get_parameter(f"{layer}.weight") for layer in range(_AT_A_TIME)}
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    outcomes = []
    for seed in range(_DRAWS // _AT_A_TIME):
        with torch.no_grad():
            for weight in weights.values():
                weight.copy_(small_weights())
        sparsifier = Sparsifier(
            model,
            optimizer,
            method,
            sparsity=1 / 3,
            total_steps=STEPS,
            update_every=EVERY,
            seed=seed,
            graph=LayerGraph(),
            initial_masks=dict.fromkeys(weights, SMALL_MASK),
        )
        for _ in range(EVERY):
            sparsifier.step()
        for name, weight in weights.items():
            survivors = weight.detach() != 0
            outcomes.append((links_of(survivors), links_of(sparsifier.masks[name] & ~survivors)))
    return outcomes
