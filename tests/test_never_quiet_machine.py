"""Whatever comes in whatever order: the links are those of the weights, or something was refused in words."""

import copy
import io
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.tools.audit import audit
from chts_core.update import TopologyUpdate

LAYERS = ("0", "2")


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


class Life(RuleBasedStateMachine):
    """A sparse run and what users do to it. `whole` is false from a change that was refused until it is mended."""

    @initialize(
        method=st.sampled_from(["set", "rigl", "gmp", "chts", "chtss", "mest"]),
        execution=st.sampled_from(["masked", "csr"]),
        optimizer=st.sampled_from([torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad]),
    )
    def begin(self, method: str, execution: Any, optimizer: Any) -> None:
        torch.manual_seed(0)
        self.method, self.execution, self.kind = method, execution, optimizer
        self.model, self.rate = model(), 0.05
        self.optimizer = self.new_optimizer()
        self.sparsifier = self.attached()
        self.average = chts.AveragedModel(self.model)
        self.saved: Any = None
        self.whole = True

    def new_optimizer(self) -> torch.optim.Optimizer:
        self.rate *= 0.9  # or a link that has moved by a whole step would move back to 0
        return self.kind(self.model.parameters(), lr=self.rate)

    def attached(self, **given: Any) -> chts.Sparsifier:
        return chts.Sparsifier(
            self.model,
            self.optimizer,
            self.method,
            0.5,
            total_steps=400,
            update_every=2,
            execution=self.execution,
            **given,
        )

    def step(self, batches: int = 1) -> None:
        self.optimizer.zero_grad()
        for _ in range(batches):
            F.cross_entropy(self.model(torch.randn(4, 6)), torch.tensor([0, 1, 2, 0])).backward()
        self.optimizer.step()
        self.sparsifier.step()

    def all_train(self) -> bool:
        return all(parameter.requires_grad for parameter in self.model.parameters())

    @precondition(lambda self: self.whole)
    @rule(steps=st.integers(1, 4), batches=st.integers(1, 2))
    def train(self, steps: int, batches: int) -> None:
        for _ in range(steps):
            self.step(batches)
        self.average.update_parameters(self.model)

    @precondition(lambda self: self.whole)
    @rule()
    def drop_a_batch(self) -> None:
        F.cross_entropy(self.model(torch.randn(4, 6)), torch.tensor([0, 1, 2, 0])).backward()
        self.optimizer.zero_grad()

    @rule(layer=st.sampled_from(LAYERS), trains=st.booleans())
    def freeze(self, layer: str, trains: bool) -> None:
        self.model.get_submodule(layer).requires_grad_(trains)

    @precondition(lambda self: self.whole)
    @rule(saves=st.booleans())
    def go_on_with_a_copy(self, saves: bool) -> None:
        parts = (self.model, self.optimizer, self.sparsifier)
        if saves:
            buffer = io.BytesIO()
            torch.save(parts, buffer)
            buffer.seek(0)
            parts = torch.load(buffer, weights_only=False)
        else:
            parts = copy.deepcopy(parts)
        self.model, self.optimizer, self.sparsifier = parts

    @precondition(lambda self: self.whole)
    @rule()
    def save(self) -> None:
        self.saved = copy.deepcopy([part.state_dict() for part in (self.model, self.optimizer, self.sparsifier)])

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        for part, state in zip((self.model, self.optimizer, self.sparsifier), copy.deepcopy(self.saved), strict=True):
            part.load_state_dict(state)
        self.whole = True

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load_the_weights_alone(self) -> None:
        """Refused where the links have changed since: then all three states bring it back."""
        self.model.load_state_dict(copy.deepcopy(self.saved[0]))
        try:
            self.sparsifier.density()
        except RuntimeError as error:
            assert "weights outside the masks" in str(error)  # noqa: PT017
            self.whole = False

    @precondition(lambda self: self.whole and self.execution == "masked" and self.all_train())
    @rule()
    def replace_the_parameters(self) -> None:
        state = self.sparsifier.state_dict()
        self.model.load_state_dict(copy.deepcopy(self.model.state_dict()), assign=True)
        self.refused("are not the ones")
        self.optimizer = self.new_optimizer()
        self.sparsifier = self.attached(resume_from=state)

    @precondition(lambda self: self.whole and self.execution == "masked" and self.all_train())
    @rule()
    def step_another_optimizer(self) -> None:
        state = self.sparsifier.state_dict()
        held, self.optimizer = self.optimizer, self.new_optimizer()
        self.refused("another optimizer")
        del held
        self.sparsifier = self.attached(resume_from=state)

    def refused(self, why: str) -> None:
        try:
            self.step()
        except RuntimeError as error:
            assert why in str(error)  # noqa: PT017
        else:
            raise AssertionError(f"nothing was refused; expected {why!r}")

    @precondition(lambda self: self.whole)
    @rule(where=st.sampled_from(["_remove", "_regrow"]))
    def interrupt(self, where: str) -> None:
        original = getattr(TopologyUpdate, where)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            original(*args, **kwargs)
            raise KeyboardInterrupt

        setattr(TopologyUpdate, where, interrupted)
        try:
            self.step()
        except KeyboardInterrupt:
            setattr(TopologyUpdate, where, original)
            self.sparsifier.step()  # the optimizer has stepped: this makes up for it
        finally:
            setattr(TopologyUpdate, where, original)

    @precondition(lambda self: self.whole)
    @rule()
    def compact(self) -> None:
        x = torch.randn(5, 6)
        smaller = self.sparsifier.compact(x)
        torch.testing.assert_close(smaller(x), self.model(x))

    @precondition(lambda self: self.whole)
    @invariant()
    def the_links_are_those_of_the_weights(self) -> None:
        sparsifier = self.sparsifier
        assert audit(sparsifier) == []
        links = nonzero = size = 0
        for name, mask in sparsifier.masks.items():
            weight = self.model.get_submodule(name.removesuffix(".weight")).weight
            assert not (weight != 0)[~mask].any()
            links, nonzero, size = links + int(mask.sum()), nonzero + int((weight != 0).sum()), size + mask.numel()
        assert sparsifier.density() == links / size
        assert nonzero <= links

    @precondition(lambda self: self.whole)
    @invariant()
    def the_average_has_the_links_it_was_given(self) -> None:
        before = copy.deepcopy(self.average)
        before.update_parameters(self.model)
        for name, mask in self.sparsifier.masks.items():
            weight = before.module.get_submodule(name.removesuffix(".weight")).weight
            assert not (weight != 0)[~mask].any()


Life.TestCase.settings = settings(stateful_step_count=15)
TestLife = Life.TestCase
