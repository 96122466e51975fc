"""How much of a model its sparse layers are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.coverage import Coverage, coverage
from chts_core.engine.layers import sparse_layers


class Convolutional(nn.Module):
    """Convolutions of 8·3·9 + 8·8·9 = 792 elements, linear layers of 8·6 + 6·2 = 60."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1))
        self.body = nn.Linear(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.conv(images).flatten(1)))


class Recurrent(nn.Module):
    """An LSTM of 4·6·4 + 4·6·6 = 240 elements, linear layers of 6·6 + 6·2 = 48; the embedding does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.lstm(self.embedding(tokens))[0][:, -1]))


class Experts(nn.Module):
    """Experts stacked into tensors of 3·4·4 elements, beside linear layers of 4·4 + 4·2."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.experts = nn.Parameter(torch.randn(3, 4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bi,eoi->bo", self.body(x), self.experts))


FOREIGN: dict[str, tuple[Callable[[], nn.Module], Coverage]] = {
    "convolutions": (
        Convolutional,
        Coverage(sparse=48, total=852, foreign={"conv.0.weight": 216, "conv.2.weight": 576}),
    ),
    "recurrent": (
        Recurrent,
        Coverage(sparse=36, total=288, foreign={"lstm.weight_ih_l0": 96, "lstm.weight_hh_l0": 144}),
    ),
    "stacked experts": (Experts, Coverage(sparse=16, total=72, foreign={"experts": 48})),
}


@pytest.mark.promise(
    "attach to a model of convolutions, LSTMs or stacked experts", "a warning with the share that stays dense"
)
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_linear_layer_is_counted_and_told(kind: str) -> None:
    build, expected = FOREIGN[kind]
    model = build()
    assert coverage(model, sparse_layers(model)) == expected
    settings: dict[str, Any] = {"method": "set", "sparsity": 0.5, "total_steps": 10, "update_every": 2}
    plan = chts.plan(model, **settings)
    assert plan.coverage == expected
    first = max(expected.foreign, key=lambda name: expected.foreign[name])
    assert f"Coverage:        the sparse layers contain {expected.share:.1%} of the elements" in str(plan)
    assert f"stay dense: {first}" in str(plan)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=rf"the sparse layers contain {expected.share:.1%} .* stay dense: {first}"):
        sparsifier = chts.Sparsifier(model, optimizer, **settings)
    parameters = {name: p for name, p in model.named_parameters() if name != "embedding.weight"}
    nonzero = sum(int(parameter.count_nonzero()) for parameter in parameters.values() if parameter.dim() > 1)
    assert sparsifier.density(whole_model=True) == pytest.approx(nonzero / expected.total)
    assert sparsifier.density() == 0.5


def test_who_names_the_layers_is_not_warned() -> None:
    model = Convolutional()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chts.Sparsifier(model, optimizer, "set", 0.5, total_steps=10, update_every=2, include="body")


def test_dense_training_is_not_warned_of() -> None:
    model = Convolutional()
    chts.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), "fc", 0.5, total_steps=10, update_every=2)


def test_frozen_matrices_are_no_surprise() -> None:
    model = Convolutional()
    model.conv.requires_grad_(False)
    found = coverage(model, sparse_layers(model))
    assert found == Coverage(sparse=48, total=852, foreign={})
    assert not found.noteworthy


def test_of_linear_layers_alone_nothing_is_said() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    found = coverage(model, sparse_layers(model))
    assert found == Coverage(sparse=128, total=144, foreign={})
    assert "Coverage" not in str(chts.plan(model, "set", 0.5, total_steps=10, update_every=2))


def test_many_names_are_shortened() -> None:
    found = Coverage(sparse=10, total=100, foreign={f"conv{number}": number for number in range(1, 6)})
    assert str(found).endswith("15.0% are not in linear layers and stay dense: conv5, conv4, conv3 and 2 others")
