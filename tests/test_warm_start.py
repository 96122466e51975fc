"""Sparse training of a model that is trained already."""

import warnings
from typing import Any

import pytest
import torch
from conv1d import Conv1D
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.choices import Constant, Cubic, Schedule, Sigmoid
from chts_core.engine.warm_start import largest, loses_training, method_from
from chts_core.methods import get_method

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
    with pytest.warns(UserWarning, match=r"looks trained, and the initial masks drop .* start=\"magnitude\""):
        attach(model())


@pytest.mark.parametrize("method", ["gmp", "chtss", "granet"])
def test_half_of_the_links_by_chance_are_not_enough(method: str) -> None:
    with pytest.warns(UserWarning, match="looks trained"):
        attach(trained(), method)


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


def other_kinds() -> nn.Module:
    return nn.ModuleDict(
        {
            "convolution": nn.Conv2d(8, 32, 3),
            "groups": nn.Conv2d(32, 32, 3, groups=4),
            "recurrent": nn.LSTM(32, 32),
            "attention": nn.MultiheadAttention(32, 4),
        }
    )


@pytest.mark.parametrize("sparsity", [0.2, 0.9])
def test_fresh_convolutions_gates_and_attention_are_not_either(sparsity: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = other_kinds()
        with torch.no_grad():  # a model may begin with gates of different sizes
            model["recurrent"].weight_ih_l0[32:64] *= 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chts.Sparsifier(model, torch.optim.Adam(model.parameters()), "set", sparsity, exclude=(), **SETTINGS)


def test_a_trained_convolution_is() -> None:
    model = other_kinds()
    with torch.no_grad():
        for weight in model.parameters():
            weight[::4] *= 3
    with pytest.warns(UserWarning, match="looks trained"):
        chts.Sparsifier(model, torch.optim.Adam(model.parameters()), "set", 0.5, exclude=(), **SETTINGS)


def test_little_that_is_lost_is_not_worth_a_word() -> None:
    weight = trained()[2].weight.detach()
    assert loses_training([(weight, largest(weight, 48 * 48 // 10))])  # 36 % of the squared norm
    assert not loses_training([(weight, largest(weight, 48 * 48 // 2))])  # 91 %


@pytest.mark.promise("start from the largest weights of a trained model", 'followed with `start="magnitude"`')
@pytest.mark.parametrize("method", ["set", "gmp", "chts", "chtss", "mest"])
def test_it_starts_from_the_largest_weights(method: str) -> None:
    model = trained()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    sparsifier = attach(model, method, start="magnitude")
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
        start="magnitude",
        **SETTINGS,
    ).masks
    assert [int(mask.sum()) for mask in masks["1.in_proj_weight"].split(4)] == [16] * 6


def test_convolutions_and_transposed_weights_keep_their_largest() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 2), Conv1D(6, 5))
    before = [layer.weight.detach().abs() for layer in model]
    sparsifier = chts.Sparsifier(
        model, torch.optim.Adam(model.parameters()), "set", 0.5, exclude=(), start="magnitude", **SETTINGS
    )
    for size, mask in zip(before, sparsifier.masks.values(), strict=True):
        assert mask.sum() == mask.numel() // 2
        assert size[mask].min() > size[~mask].max()


@pytest.mark.promise("start from all weights of a trained model", 'followed with `start="dense"`')
@pytest.mark.parametrize("method", ["gmp", "chtss", "granet", "set", "rigl", "chts", "cht", "chts/paper_mlp"])
def test_it_starts_from_all_weights(method: str) -> None:
    model = trained()
    x = torch.randn(8, 16)
    expected: Tensor = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = torch.optim.Adam(model.parameters())
        sparsifier = chts.Sparsifier(model, optimizer, method, 0.9, **SETTINGS, start="dense")
    assert torch.equal(model(x), expected)
    assert sparsifier.density() == 1
    links = []
    for _ in range(SETTINGS["total_steps"]):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        links.append(int(sparsifier.masks["2.weight"].sum()))
    assert links == sorted(links, reverse=True)
    percolates = sparsifier.method.removal.percolate
    assert links[-1] < round(0.1 * 48 * 48) + 1 if percolates else links[-1] == round(0.1 * 48 * 48)


@pytest.mark.parametrize(
    ("method", "decay"),
    [
        ("set", Cubic(initial=0.0, end=0.75)),
        ("chts with turnover=Turnover(0.3, stop=0.5)", Cubic(initial=0.0, end=0.5)),
        ("set/mlp_code", Cubic(initial=0.0, end=0.75)),  # it updates up to 0.99 of the run
        ("gmp with sparsity=Cubic(initial=0.7, start=0.1, end=0.6)", Cubic(initial=0.0, start=0.1, end=0.6)),
        ("chtss", Sigmoid(initial=0.0, end=0.375)),
        ("fc", get_method("fc").sparsity),
    ],
)
def test_the_decay_from_all_weights(method: str, decay: Schedule) -> None:
    found = method_from("dense", method)
    assert found.sparsity == decay
    unchanged = get_method(method)
    assert (found.topology, found.removal, found.regrowth, found.turnover) == (
        unchanged.topology,
        unchanged.removal,
        unchanged.regrowth,
        unchanged.turnover,
    )


@pytest.mark.parametrize("start", ["method", "magnitude"])
def test_other_starts_leave_the_method(start: Any) -> None:
    assert method_from(start, "chts") == get_method("chts")
    assert isinstance(method_from(start, "set").sparsity, Constant)


@pytest.mark.parametrize("start", ["magnitude", "dense"])
def test_a_plan_has_the_same_links(start: Any) -> None:
    model = trained()
    planned = chts.plan(model, "gmp", 0.9, **SETTINGS, start=start).budget.links(0)
    masks = attach(model, "gmp", start=start).masks
    assert {name: int(mask.sum()) for name, mask in masks.items()} == planned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "largest"}, "start is 'largest'; expected one of 'method', 'magnitude', 'dense'"),
        ({"start": "dense", "method": "mest"}, r"start is \"dense\", but the sparsity follows Staged\("),
        ({"start": "dense", "initial_masks": {}}, "start is 'dense' and initial_masks is given"),
        (
            {"start": "magnitude", "method": "chts/paper_mlp", "correlation": torch.eye(16)},
            "correlation is given, but start is 'magnitude'",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    model = trained()
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ValueError, match=message):
        attach(model, **settings)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_word_is_no_mask() -> None:
    with pytest.raises(TypeError, match=r"initial_masks is 'magnitude'; expected masks .* start=\"magnitude\""):
        attach(trained(), initial_masks="magnitude")
