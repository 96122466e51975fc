"""Toy models and batches, small enough to train in a check."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.sparsifier import Sparsifier

Batches = list[tuple[Tensor, Tensor]]


def training() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    """A classifier with 8 inputs, two hidden layers and two classes, its optimizer, and 40 batches of four samples."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    xs = torch.randn(40, 4, 8, generator=generator)
    return model, optimizer, [(x, (x[:, 0] > 0).long()) for x in xs]


class Trial:
    """A small run of CHTs in which every part has a state.

    The learning rate rises over 30 steps. The generator draws each batch.
    """

    def __init__(self, seed: int) -> None:
        self.model, _, _ = training()
        self.generator = torch.Generator().manual_seed(seed)
        for weight in self.model.parameters():
            nn.init.normal_(weight, std=0.3, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min((step + 1) / 30, 1.0))
        self.sparsifier = Sparsifier(
            self.model, self.optimizer, "chts", 0.75, total_steps=60, update_every=5, seed=seed
        )

    def step(self) -> float:
        """Take one training step and return its loss."""
        xs = torch.randn(8, 8, generator=self.generator)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(xs), (xs[:, 0] > 0).long())
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.sparsifier.step()
        return loss.item()
