import math

import pytest
import torch
from torch import nn

from chts_core.lab.models import mlp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layers", [1, 3])
def test_hidden_layers_and_their_relus(layers: int) -> None:
    model = mlp(64, 16, 10, layers=layers, generator=generator())
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU] * layers + [nn.Linear]
    shapes = [tuple(module.weight.shape) for module in model if isinstance(module, nn.Linear)]
    assert shapes == [(16, 64)] + [(16, 16)] * (layers - 1) + [(10, 16)]
    assert model(torch.zeros(5, 64)).shape == (5, 10)


def test_the_generator_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = mlp(64, 16, 10, generator=generator())
    torch.manual_seed(2)
    again, other = mlp(64, 16, 10, generator=generator()), mlp(64, 16, 10, generator=generator(1))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() == 2:
            assert not torch.equal(a, c)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    mlp(64, 16, 10, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plan_needs_no_memory() -> None:
    with torch.device("meta"):
        model = mlp(64, 16, 10, generator=generator())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_weights_are_drawn_by_he_and_biases_are_zero() -> None:
    model = mlp(400, 300, 10, generator=generator())
    for module in model:
        if isinstance(module, nn.Linear):
            # Uniform of variance 2 / fan-in, so that ReLU layers keep the size of the signal.
            bound = math.sqrt(6 / module.in_features)
            assert float(module.weight.detach().abs().max()) <= bound
            assert float(module.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert not module.bias.any()
