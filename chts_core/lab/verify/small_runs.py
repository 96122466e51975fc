"""Runs so small that a check can watch every step and count all outcomes of an update."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from chts_core.balance import Balanced, BalancedRemoval
from chts_core.choices import Constant, Correlated
from chts_core.engine.linear import Execution
from chts_core.lab.verify.formulas import Links, links_of
from chts_core.lab.verify.specification import EVERY, SPARSITY, STEPS
from chts_core.methods import Method
from chts_core.percolation import LayerGraph
from chts_core.sparsifier import Sparsifier

_DRAWS = 800  # how often an update is repeated to count its outcomes
_AT_A_TIME = 16  # layers updated at the same time, each with its own random numbers


class Run:
    """A small perceptron in training; the seed decides only the topology.

    The perceptron is trained with AdamW. AdamW's first steps have the same size for all new links, so rounding errors
    decide which new link gets the larger weight. With `sgd`, the perceptron is trained with SGD, which does not have
    this problem.
    """

    def __init__(
        self,
        method: Method,
        *,
        seed: int = 0,
        weight_seed: int = 0,
        execution: Execution = "masked",
        sgd: bool = False,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(weight_seed)
        self.model = nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.model.to(device)
        data = torch.Generator().manual_seed(0)
        self.images = torch.randn(STEPS, 8, 20, generator=data).to(device)
        self.labels = torch.randint(3, (STEPS, 8), generator=data).to(device)
        starts_from_correlations = isinstance(method.topology, Correlated)
        parameters = self.model.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if sgd else torch.optim.AdamW(parameters, lr=0.01)
        )
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            SPARSITY,
            total_steps=STEPS,
            update_every=EVERY,
            seed=seed,
            execution=execution,
            correlation=self.images.flatten(0, 1).T.corrcoef().abs() if starts_from_correlations else None,
        )

    def weight(self, name: str) -> nn.Parameter:
        """The weight with this name; its values for absent links are zero."""
        return self.model.get_parameter(name)

    def gradient(self, name: str) -> Tensor:
        """The gradient of the weight with this name; it must exist."""
        gradient = self.weight(name).grad
        assert gradient is not None
        return gradient

    def backward_and_step(self, step: int) -> None:
        """Do one training step, except for the Sparsifier's part of it."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images[step - 1]), self.labels[step - 1]).backward()
        self.optimizer.step()

    def train(self, first: int, last: int) -> None:
        """Train from step `first` to step `last`, including both steps."""
        for step in range(first, last + 1):
            self.backward_and_step(step)
            self.sparsifier.step()

    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks, because the masks themselves change in place."""
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}


def from_zero(method: Method) -> Method:
    """The same method, except that its new links start from zero. Checks can then distinguish them from survivors."""
    return replace(method, regrowth=replace(method.regrowth, history=False))


def with_constant_sparsity(method: Method) -> Method:
    """The same method, except that its sparsity stays constant. If its removal keeps blocks balanced, the new method
    also starts with balanced blocks.
    """
    if isinstance(method.removal, BalancedRemoval) and not isinstance(method.topology, Balanced):
        method = replace(method, topology=Balanced(method.removal.block))
    return replace(method, sparsity=Constant())


# --- one update of a network that is small enough to count all outcomes ---

SMALL_MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
SMALL_KEPT = 6  # of the 8 links; a quarter is removed
SMALL_GRADIENT = torch.linspace(1.0, 0.1, 12).view(3, 4)


def small_weights() -> Tensor:
    """The weights of the small network, which are all different."""
    return torch.linspace(0.2, 1.0, 12).view(3, 4) * torch.tensor([1, -1, 1, -1])


def small_updates(method: Method, device: str) -> list[tuple[Links, Links]]:
    """Survivors and regrown links of the first update, for many seeds and layers, without percolation or decay."""
    turnover = replace(method.turnover, zeta=0.25, early_stop=None, together=False)
    method = from_zero(replace(with_constant_sparsity(method), turnover=turnover))
    model = nn.Sequential(*(nn.Linear(4, 3) for _ in range(_AT_A_TIME)), nn.Linear(3, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {f"{layer}.weight": model.get_parameter(f"{layer}.weight") for layer in range(_AT_A_TIME)}
    gradient = SMALL_GRADIENT.to(device)
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
            optimizer.zero_grad()
            torch.stack([(weight * gradient).sum() for weight in weights.values()]).sum().backward()
            sparsifier.step()
        for name, weight in weights.items():
            survivors = weight.detach() != 0
            outcomes.append((links_of(survivors), links_of(sparsifier.masks[name] & ~survivors)))
    return outcomes
