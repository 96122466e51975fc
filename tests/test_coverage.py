"""How much of a model is in its sparse layers, and why the rest stays dense."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.coverage import Coverage, coverage
from chts_core.engine.layers import choose_layers


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


class Raw(nn.Module):
    """A stack of matrices that belongs to no layer, of 3·4·4 elements, beside linear layers of 4·4 + 4·2."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.mixed = nn.Parameter(torch.randn(3, 4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bi,eoi->bo", self.body(x), self.mixed))


OUTPUT = "gives the model's outputs"
MODELS: dict[str, tuple[Callable[[], nn.Module], Coverage]] = {
    "convolutions": (Convolutional, Coverage(sparse=840, total=852, dense={"head.weight": (12, OUTPUT)})),
    "recurrent": (Recurrent, Coverage(sparse=276, total=288, dense={"head.weight": (12, OUTPUT)})),
    "a stack of matrices": (
        Raw,
        Coverage(16, 72, {"mixed": (48, "not a known kind of layer"), "head.weight": (8, OUTPUT)}),
    ),
}
SETTINGS: dict[str, Any] = {"method": "set", "sparsity": 0.5, "total_steps": 10, "update_every": 2}


@pytest.mark.promise(
    "attach to a model with parameters of no known kind of layer", "a warning if more than half stays dense, and why"
)
@pytest.mark.parametrize("kind", MODELS)
def test_every_matrix_is_sparse_or_has_a_reason(kind: str) -> None:
    build, expected = MODELS[kind]
    model = build()
    assert coverage(model, choose_layers(model)) == expected
    assert chts.plan(model, **SETTINGS).coverage == expected

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="the sparse layers contain") if expected.share < 0.5 else nullcontext():
        sparsifier = chts.Sparsifier(model, optimizer, **SETTINGS)
    parameters = {name: p for name, p in model.named_parameters() if name != "embedding.weight"}
    nonzero = sum(int(parameter.count_nonzero()) for parameter in parameters.values() if parameter.dim() > 1)
    assert sparsifier.density(whole_model=True) == pytest.approx(nonzero / expected.total)
    assert sparsifier.density() == 0.5


def test_the_plan_and_the_warning_name_what_stays_dense() -> None:
    said = (
        "the sparse layers contain 22.2% of the elements of the model's matrices, not counting embeddings; 66.7% stay "
        "dense: mixed (not a known kind of layer); 11.1% stay dense: head.weight (gives the model's outputs)"
    )
    model = Raw()
    assert f"Coverage:        {said}\n" in str(chts.plan(model, **SETTINGS))
    with pytest.warns(UserWarning, match=re.escape(said)):
        chts.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), **SETTINGS)


def test_there_is_no_warning_if_the_user_names_the_layers() -> None:
    model = Raw()
    chts.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), **SETTINGS, include="body")


def test_there_is_no_warning_for_dense_training() -> None:
    model = Raw()
    chts.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), **SETTINGS | {"method": "fc"})


def test_frozen_matrices_are_not_named() -> None:
    model = Raw()
    model.mixed.requires_grad_(False)
    assert coverage(model, choose_layers(model)).dense == {"head.weight": (8, OUTPUT)}


def test_what_the_user_leaves_out_is_named() -> None:
    model = Raw()
    assert coverage(model, choose_layers(model, exclude="body")).dense["body.weight"] == (16, "left out by exclude")
    assert coverage(model, choose_layers(model, include="head", exclude=())).dense["body.weight"][1] == "not in include"


def test_many_names_are_shortened() -> None:
    found = Coverage(10, 100, {f"conv{number}": (number, "not in include") for number in range(1, 6)})
    assert str(found).endswith("15.0% stay dense: conv5, conv4, conv3 and 2 others (not in include)")
