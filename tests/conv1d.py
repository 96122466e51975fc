"""Hugging Face's `Conv1D`, and models of it beside the same of `nn.Linear`."""

import torch
from torch import Tensor, nn


class Conv1D(nn.Module):
    """A linear layer with a weight of shape (in_features, out_features), without importing transformers."""

    __module__ = "transformers.pytorch_utils"  # by which it is known

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf).normal_(std=0.1))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


def transposed(linear: nn.Linear) -> Conv1D:
    """The same layer with its weight transposed."""
    layer = Conv1D(linear.out_features, linear.in_features).to(linear.weight)
    with torch.no_grad():
        layer.weight.copy_(linear.weight.T)
        layer.bias.copy_(linear.bias)
    return layer
