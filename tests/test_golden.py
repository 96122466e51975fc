"""Fixed small runs of all methods and presets end with the masks that they had when these hashes were recorded.

A change that alters no method leaves them alone. One that means to alter a method records them anew, and says so:

    python tests/test_golden.py
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.methods import Correlated
from chts_core.topology import Correlation

RECORDED = Path(__file__).with_suffix(".json")
ALL = chts.METHODS | chts.PRESETS
STEPS, EVERY, CUT = 100, 5, 37


class Run:
    """A perceptron in training, in float64, so that no rounding of a machine decides between two links."""

    def __init__(self, name: str, execution: Any = "masked") -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
        ).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4)
        self.images = torch.randn(STEPS, 16, 24, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(4, (STEPS, 16), generator=generator)
        method = ALL[name]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.sparsifier = chts.Sparsifier(
            self.model,
            self.optimizer,
            replace(method, turnover=replace(method.turnover, early_stop=None, together=False)),  # so that all go on
            0.9,
            total_steps=STEPS,
            update_every=EVERY,
            seed=1,
            execution=execution,
            correlation=correlation_of(self.images.flatten(0, 1)) if isinstance(method.topology, Correlated) else None,
        )

    def train(self, first: int, last: int) -> "Run":
        for step in range(first, last + 1):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.images[step - 1]), self.labels[step - 1]).backward()
            self.optimizer.step()
            self.sparsifier.step()
        return self

    def parts(self) -> list[Any]:
        return [self.model, self.optimizer, self.sparsifier]

    def hash(self) -> str:
        """Of the links after the run, and of how many went and came at each update."""
        digest = hashlib.sha256()
        for name, mask in self.sparsifier.masks.items():
            digest.update(f"{name} {tuple(mask.shape)}".encode() + mask.numpy().tobytes())
        for row in self.sparsifier.history:
            digest.update(f"{row['step']} {row['layer']} {row['links']} {row['removed']} {row['regrown']}".encode())
        return digest.hexdigest()[:16]


def correlation_of(samples: torch.Tensor) -> torch.Tensor:
    """Symmetric, so that links in both directions tie; `corrcoef` is symmetric only on some machines."""
    correlation = Correlation()
    correlation.update(samples)
    return correlation.matrix()


def contents(state: Any) -> Any:
    """What a saved state is made of: keys, types and shapes."""
    if isinstance(state, torch.Tensor):
        return [str(state.dtype), list(state.shape)]
    if isinstance(state, dict):
        return {str(key): contents(value) for key, value in state.items()}
    return type(state).__name__


def of_checkpoint() -> Any:
    state = Run("chts").train(1, CUT).sparsifier.state_dict()
    return {key: contents(value) for key, value in state.items() if key != "past_weights"}  # as many as there are


def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


@pytest.mark.parametrize("name", ALL)
def test_masks_of_a_run(name: str) -> None:
    assert Run(name).train(1, STEPS).hash() == recorded()["masks"][name]


@pytest.mark.parametrize("name", chts.METHODS)
def test_masks_of_layers_that_store_only_their_links(name: str) -> None:
    assert Run(name, execution="csr").train(1, STEPS).hash() == recorded()["masks"][name]


@pytest.mark.parametrize("name", chts.METHODS)
def test_masks_of_a_resumed_run(name: str) -> None:
    states = [part.state_dict() for part in Run(name).train(1, CUT).parts()]
    resumed = Run(name)
    for part, state in zip(resumed.parts(), states, strict=True):
        part.load_state_dict(state)
    whole = Run(name).train(1, STEPS)
    assert whole.hash() == recorded()["masks"][name]
    resumed.train(CUT + 1, STEPS)
    assert all(torch.equal(mask, whole.sparsifier.masks[layer]) for layer, mask in resumed.sparsifier.masks.items())


def test_contents_of_a_checkpoint() -> None:
    assert of_checkpoint() == recorded()["checkpoint"]


if __name__ == "__main__":
    masks = {name: Run(name).train(1, STEPS).hash() for name in ALL}
    RECORDED.write_text(json.dumps({"masks": masks, "checkpoint": of_checkpoint()}, indent=1) + "\n")
