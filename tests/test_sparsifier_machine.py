"""The Sparsifier driven through random sequences of what users do: train, accumulate, meet an infinite gradient, save,
go on in a new process, go back, compact, export. After each the links must be whole.
"""

import copy
import warnings
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.engine.linear import to_dense
from chts_core.tools.audit import CHECKS

STEPS, EVERY = 40, 4
WHOLE = ("absent weights", "absent moments", "links", "density", "finite")  # a layer of few links may collapse
CONSTANT = ("set", "rigl", "cht", "chts")  # whose links never change in number
SIZES = (6, 12, 10, 3)


def build(chosen: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, chts.Sparsifier]:
    generator = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    if chosen["optimizer"] == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(
        model,
        optimizer,
        chosen["method"],
        chosen["sparsity"],
        total_steps=STEPS,
        update_every=EVERY,
        seed=chosen["seed"],
        execution=chosen["execution"],
    )
    return model, optimizer, sparsifier


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, SIZES[0], generator=generator), torch.randint(SIZES[-1], (8,), generator=generator)


class Training(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[dict[str, Any], int]] = []

    @initialize(
        method=st.sampled_from(sorted(chts.METHODS)),
        sparsity=st.sampled_from([0.0, 0.3, 0.9, 0.97]),
        optimizer=st.sampled_from(["sgd", "adamw"]),
        execution=st.sampled_from(["masked", "csr"]),
        seed=st.integers(0, 3),
    )
    def begin(self, **chosen: Any) -> None:
        falls = chosen["method"] not in (*CONSTANT, "fc")
        if falls and chosen["sparsity"] <= 0.5:  # there is nothing to fall to
            chosen["sparsity"] = 0.8
        self.chosen = chosen
        self.model, self.optimizer, self.sparsifier = build(chosen)
        self.links = {name: int(mask.sum()) for name, mask in self.sparsifier.masks.items()}
        self.batches = 0

    def learn(self, backwards: int = 1, *, spoil: bool = False) -> None:
        self.optimizer.zero_grad()
        for _ in range(backwards):
            images, labels = batch(self.batches)
            self.batches += 1
            F.cross_entropy(self.model(images), labels).backward()
        if spoil:
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.grad.view(-1)[0] = float("inf")
        else:
            self.optimizer.step()
        self.sparsifier.step()

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "sparsifier": self.sparsifier}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def load(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])

    def outputs(self) -> Tensor:
        with torch.no_grad():
            return self.model(batch(999)[0])

    def left(self) -> int:
        return STEPS - self.sparsifier.steps

    @precondition(lambda self: self.left() >= 6)
    @rule(steps=st.integers(1, 6), backwards=st.integers(1, 2))
    def train(self, steps: int, backwards: int) -> None:
        for _ in range(steps):
            self.learn(backwards)

    @precondition(lambda self: self.left() >= 1 and self.chosen["method"] != "fc")
    @rule()
    def meet_an_infinite_gradient(self) -> None:
        """As under a gradient scaler, which then skips the step of the optimizer."""
        due, before = self.sparsifier.update_due, copy.deepcopy(self.sparsifier.masks)
        weights = copy.deepcopy(self.model.state_dict())
        if due:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                self.learn(spoil=True)
            if self.chosen["sparsity"]:  # else there is nothing to put off
                assert self.sparsifier.postponed[-1] == self.sparsifier.steps
        else:
            self.learn(spoil=True)
        self.optimizer.zero_grad()
        assert all(torch.equal(before[name], mask) for name, mask in self.sparsifier.masks.items())
        assert all(torch.equal(weights[name], value) for name, value in self.model.state_dict().items())

    @rule()
    def save(self) -> None:
        self.saved.append((self.state(), self.batches))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        state, self.batches = data.draw(st.sampled_from(self.saved))
        self.load(state)

    @precondition(lambda self: self.left() >= 6)
    @rule(steps=st.integers(1, 6))
    def go_on_elsewhere(self, steps: int) -> None:
        """A new process that loads the state ends at the same bits as this one; then it is the one that goes on."""
        here, batches = self.state(), self.batches
        for _ in range(steps):
            self.learn()
        expected, outputs = self.state(), self.outputs()
        self.model, self.optimizer, self.sparsifier = build(self.chosen)
        self.load(here)
        self.batches = batches
        for _ in range(steps):
            self.learn()
        assert torch.equal(self.outputs(), outputs)
        found = self.state()
        for name, value in expected["model"].items():
            assert torch.equal(found["model"][name], value), name
        # Of layers that store only their links, a mask is its bits and its shape.
        masks, right = found["sparsifier"]["masks"], expected["sparsifier"]["masks"]
        torch.testing.assert_close(masks, right, rtol=0, atol=0)

    @rule()
    def compact(self) -> None:
        before = self.state()
        small = self.sparsifier.compact(batch(0)[0])
        with torch.no_grad():
            assert torch.allclose(small(batch(999)[0]), self.outputs(), atol=1e-5)
        after = self.state()
        assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
        assert sum(p.numel() for p in small.parameters()) <= sum(
            p.numel() for p in to_dense(copy.deepcopy(self.model)).parameters()
        )

    @rule()
    def export(self) -> None:
        dense = to_dense(copy.deepcopy(self.model))
        with torch.no_grad():
            assert torch.allclose(dense(batch(999)[0]), self.outputs(), atol=1e-5)
        weights = dict(dense.named_parameters())
        for name, mask in self.sparsifier.masks.items():
            assert not weights[name][~mask].any(), name

    @invariant()
    def links_are_whole(self) -> None:
        if not hasattr(self, "sparsifier"):
            return
        for check in WHOLE:
            assert list(CHECKS[check](self.sparsifier)) == []
        links = {name: int(mask.sum()) for name, mask in self.sparsifier.masks.items()}
        assert self.sparsifier.density() == sum(links.values()) / sum(m.numel() for m in self.sparsifier.masks.values())
        if self.chosen["method"] in (*CONSTANT, "fc"):
            assert links == self.links
        elif self.sparsifier.steps == STEPS:
            final = {
                name: round((1 - self.chosen["sparsity"]) * m.numel()) for name, m in self.sparsifier.masks.items()
            }
            assert all(abs(links[name] - number) <= 1 for name, number in final.items())


Training.TestCase.settings = settings(stateful_step_count=20)
TestTraining = Training.TestCase
