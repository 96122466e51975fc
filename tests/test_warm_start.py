"""Sparse training of a model that is trained already."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.engine.warm_start import largest, loses_training

SETTINGS: dict[str, Any] = {"total_steps": 100, "update_every": 10}


def test_the_largest_weights_by_hand() -> None:
    weight = torch.tensor([[0.5, -2.0, 0.0, 1.0], [-1.0, 0.25, 3.0, 0.5]])
    assert largest(weight, 3).int().tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]  # of ±1 the first one
    assert largest(weight, 0).sum() == 0
    assert largest(weight, 8).all()


def trained(steps: int = 60, optimizer: Any = torch.optim.Adam, lr: float = 5e-3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
        model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))
        inputs = torch.randn(512, 16)
        targets = teacher(inputs).argmax(1)
        held = optimizer(model.parameters(), lr=lr)
        for _ in range(steps):
            held.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            held.step()
    return model


def attach(model: nn.Module, method: str = "set", **settings: Any) -> chts.Sparsifier:
    return chts.Sparsifier(model, torch.optim.Adam(model.parameters()), method, 0.9, **SETTINGS, **settings)


@pytest.mark.promise("attach to a trained model", "a warning if much of its weights is lost")
@pytest.mark.parametrize(
    "model", [lambda: trained(), lambda: trained(optimizer=torch.optim.SGD, lr=1.0), lambda: trained(steps=300)]
)
def test_a_trained_model_that_loses_much_is_warned_of(model: Any) -> None:
    with pytest.warns(UserWarning, match=r"looks trained, and the initial masks drop .* initial_masks=\"magnitude\""):
        attach(model())


INITIAL = {
    "torch": lambda _: None,
    "normal": lambda weight: nn.init.normal_(weight, std=0.02),
    "truncated normal": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
    "constant": lambda weight: nn.init.constant_(weight, 0.1),
    "identity": nn.init.eye_,
    "sparse": lambda weight: nn.init.sparse_(weight, 0.5),
}


@pytest.mark.parametrize("name", INITIAL)
@pytest.mark.parametrize("width", [4, 16, 300])
def test_a_fresh_model_is_not(name: str, width: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        for layer in model[::2]:
            INITIAL[name](layer.weight)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chts.Sparsifier(model, torch.optim.Adam(model.parameters()), "set", 0.7, **SETTINGS)


def test_little_that_is_lost_is_not_worth_a_word() -> None:
    weight = trained()[2].weight.detach()
    assert loses_training([(weight, largest(weight, 48 * 48 // 10))])  # 36 % of the squared norm
    assert not loses_training([(weight, largest(weight, 48 * 48 // 2))])  # 91 %


@pytest.mark.promise("start from the largest weights of a trained model", 'followed with `initial_masks="magnitude"`')
@pytest.mark.parametrize("method", ["set", "gmp", "chts", "chtss", "mest"])
def test_it_starts_from_the_largest_weights(method: str) -> None:
    model = trained()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    sparsifier = attach(model, method, initial_masks="magnitude")
    for name, mask in sparsifier.masks.items():
        size = before[name].abs()
        assert size[mask].min() >= size[~mask].max()
        assert torch.equal(model.get_parameter(name), before[name] * mask)
    assert sparsifier.density() == pytest.approx(1 - sparsifier.progress.budget.at(0), abs=1e-3)


def test_each_head_keeps_its_largest() -> None:
    model = nn.Sequential(nn.Identity(), nn.MultiheadAttention(8, 2))
    masks = chts.Sparsifier(
        model,
        torch.optim.Adam(model.parameters()),
        "set",
        0.5,
        per_head=True,
        initial_masks="magnitude",
        **SETTINGS,
    ).masks
    assert [int(mask.sum()) for mask in masks["1.in_proj_weight"].split(4)] == [16] * 6


@pytest.mark.parametrize("method", ["gmp", "chtss", "granet"])
def test_it_starts_from_all_weights(method: str) -> None:
    model = trained()
    x = torch.randn(8, 16)
    expected: Tensor = model(x)
    decay = {"gmp": "Cubic", "granet": "Cubic", "chtss": "Sigmoid"}[method]
    sparsifier = attach(model, f"{method} with sparsity={decay}(initial=0)")
    assert torch.equal(model(x), expected)
    assert sparsifier.density() == 1


def test_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="initial_masks is 'largest'; expected masks by layer name"):
        attach(trained(), initial_masks="largest")
