"""Models to sparsify."""

from itertools import pairwise

import torch
from torch import nn


def mlp(in_features: int, hidden: int, classes: int, *, layers: int = 3, generator: torch.Generator) -> nn.Sequential:
    """An MLP with `layers` hidden layers of `hidden` ReLU units and an output layer, as in the paper's image tasks.

    Weights are drawn by He et al. (2015) from the generator, and from no other; biases start at zero.
    """
    sizes = [in_features, *[hidden] * layers, classes]
    modules: list[nn.Module] = []
    for features_in, features_out in pairwise(sizes):
        # Without its default initialisation, which would draw from the global generator.
        linear = nn.utils.skip_init(nn.Linear, features_in, features_out, device=torch.get_default_device())
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])
