"""Toy models and batches, small enough to train in a check."""

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


def training() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    """A classifier of 8 inputs, two hidden layers and two classes; its optimizer; and 40 batches of four samples."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    xs = torch.randn(40, 4, 8, generator=generator)
    return model, optimizer, [(x, (x[:, 0] > 0).long()) for x in xs]
