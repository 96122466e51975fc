"""New links start slowly: by hand on one layer, alike for masks and links alone, to the bit in a run that goes on."""

import copy
import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.linear import Execution
from chts_core.tools.audit import audit
from chts_core.tools.link_warmup import LinkWarmup

RATE, UPDATE, STEPS = 0.1, 4, 3  # of the optimizer, the first update, the warm-up
LATER = 8  # the second update


class Layer:
    """One layer whose gradient is 1 at each link, in each step."""

    def __init__(
        self,
        steps: int,
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        execution: Execution = "masked",
        method: str = "set",
        sparsity: float = 0.5,
    ) -> None:
        self.model = tiny.mlp((6, 6)).double()
        self.optimizer = optimizer(self.model.parameters(), lr=RATE)  # type: ignore[call-arg]
        self.sparsifier = chts.Sparsifier(
            self.model,
            self.optimizer,
            method,
            sparsity,
            total_steps=40,
            update_every=UPDATE,
            exclude=(),
            execution=execution,
        )
        self.new = torch.empty(0, dtype=torch.int64)
        self.sparsifier.register_regrowth_hook(lambda _, positions: setattr(self, "new", positions))
        self.warmup = LinkWarmup(self.sparsifier, steps)

    def train(self, steps: int) -> "Layer":
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
            self.optimizer.step()
            self.sparsifier.step()
            assert audit(self.sparsifier) == []
        return self

    @property
    def weight(self) -> Tensor:
        layer: Any = self.model[0]
        return layer.weight.detach().clone()

    @property
    def mask(self) -> Tensor:
        return self.sparsifier.masks["0.weight"].clone()


def adam_step(age: int, step: int) -> float:
    """The step of a link that has had a gradient of 1 for some steps, where Adam has run for more."""
    mean, square = 1 - 0.9**age, 1 - 0.999**age
    return RATE * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("steps", [0, 1, STEPS])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_new_links_take_shares_of_the_steps_and_all_others_whole_ones(
    optimizer: type[torch.optim.Optimizer], steps: int, execution: Execution
) -> None:
    layer = Layer(steps, optimizer, execution).train(UPDATE)
    usual = Layer(0, optimizer, execution).train(UPDATE)
    new = torch.zeros(36, dtype=torch.bool)
    new[layer.new] = True
    assert len(layer.new) == layer.sparsifier.history[-1]["regrown"] >= 3
    assert (layer.weight.flatten()[new] == 0).all()
    expected = 0.0
    for age in range(1, LATER - UPDATE):
        layer.train(1)
        usual.train(1)
        whole = RATE if optimizer is torch.optim.SGD else adam_step(age, UPDATE + age)
        expected -= whole * min(1.0, age / max(steps, 1))
        found = layer.weight.flatten()
        assert found[new].tolist() == pytest.approx([expected] * len(layer.new), rel=1e-9)
        assert torch.equal(found[~new], usual.weight.flatten()[~new])
        assert torch.equal(layer.model[0].bias, usual.model[0].bias)


def test_late_in_a_run_adam_starts_new_links_with_three_times_the_rate() -> None:
    assert adam_step(1, 100_000) == pytest.approx(3.16 * RATE, rel=1e-3)


def test_each_update_has_a_warmup_of_its_own() -> None:
    layer = Layer(UPDATE).train(LATER)
    first = layer.train(1).weight.flatten()[layer.new]
    assert first.tolist() == pytest.approx([-RATE / UPDATE] * len(first))


def test_a_link_that_goes_and_comes_back_at_once_is_new() -> None:
    layer = Layer(STEPS, sparsity=1 / 36).train(UPDATE - 1)
    before = layer.mask
    layer.train(1)
    returned = layer.new[before.flatten()[layer.new]]
    assert len(returned) >= 9
    assert layer.train(1).weight.flatten()[returned].tolist() == pytest.approx([-RATE / STEPS] * len(returned))


def test_a_step_that_is_left_out_counts() -> None:
    layer = Layer(STEPS).train(UPDATE)
    layer.sparsifier.step(skipped=True)
    assert layer.train(1).weight.flatten()[layer.new].tolist() == pytest.approx([-RATE * 2 / STEPS] * len(layer.new))


def test_links_of_a_sparsifier_that_was_replaced_take_whole_steps() -> None:
    layer = Layer(STEPS).train(UPDATE)
    chts.Sparsifier(
        layer.model,
        layer.optimizer,
        "set",
        0.5,
        total_steps=40,
        update_every=20,
        exclude=(),
        initial_masks={"0.weight": layer.mask},
    )
    layer.model(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
    layer.optimizer.step()
    assert layer.weight.flatten()[layer.new].tolist() == pytest.approx([-RATE] * len(layer.new))


# --- runs of a perceptron ---


class Run:
    def __init__(self, method: str, steps: int, execution: Execution) -> None:
        self.model = tiny.mlp()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.sparsifier = chts.Sparsifier(
            self.model, self.optimizer, method, 0.8, total_steps=16, update_every=3, execution=execution
        )
        self.warmup = LinkWarmup(self.sparsifier, steps)

    def train(self, until: int) -> "Run":
        while self.sparsifier.steps < until:
            self.optimizer.zero_grad()
            tiny.loss_of_mlp(self.model, self.sparsifier.steps).backward()
            self.optimizer.step()
            self.sparsifier.step()
            assert audit(self.sparsifier) == []
        return self

    def states(self) -> list[dict[str, Any]]:
        parts: tuple[Any, ...] = (self.model, self.optimizer, self.sparsifier, self.warmup)
        return [copy.deepcopy(part.state_dict()) for part in parts]

    def load(self, states: list[dict[str, Any]], whole: bool = True) -> "Run":
        parts: tuple[Any, ...] = (self.model, self.optimizer, self.sparsifier, self.warmup)
        for part, state in zip(parts, states, strict=whole):
            part.load_state_dict(copy.deepcopy(state))
        return self

    def weights(self) -> list[Tensor]:
        layers: list[Any] = [layer for layer in self.model if not isinstance(layer, nn.Tanh)]
        return [layer.weight.detach().clone() for layer in layers]


@pytest.mark.parametrize("method", ["set", "rigl", "chts", "chtss"])
def test_masks_and_links_alone_give_the_same_run(method: str) -> None:
    masked, alone = (Run(method, 3, execution).train(16) for execution in ("masked", "csr"))  # type: ignore[arg-type]
    for one, other in zip(masked.weights(), alone.weights(), strict=True):
        torch.testing.assert_close(one, other)
    usual = Run(method, 0, "masked").train(16)
    assert not torch.equal(masked.weights()[0], usual.weights()[0])


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_without_steps_nothing_is_done(execution: Execution) -> None:
    without, some = Run("chts", 0, execution), Run("chts", 2, execution)
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        assert len(getattr(without.optimizer, hooks)) == len(getattr(some.optimizer, hooks)) - 1
    assert without.train(16).warmup.state_dict() == {"steps": 0, "updated_at": 0, "links": {}}


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("method", ["chts", "rigl"])
def test_a_run_goes_on_to_the_same_bits(method: str, execution: Execution) -> None:
    uncut = Run(method, 3, execution)
    saved = [uncut.train(step).states() for step in range(1, 13)]
    uncut.train(16)
    for states in saved:
        resumed = Run(method, 3, execution).load(states).train(16)
        for one, other in zip(uncut.weights(), resumed.weights(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_a_run_may_be_taken_back_before_the_update(execution: Execution) -> None:
    run = Run("set", 3, execution).train(2)
    saved = run.states()[:3]
    usual = Run("set", 0, execution).load([*saved, Run("set", 0, execution).warmup.state_dict()]).train(3)
    run.train(4).load(saved, whole=False).train(3)
    for one, other in zip(run.weights(), usual.weights(), strict=True):
        assert torch.equal(one, other)


def test_what_is_loaded_is_not_shared_with_the_saved_state() -> None:
    run = Run("set", 3, "masked").train(3)
    state = run.warmup.state_dict()
    kept = copy.deepcopy(state)
    run.train(9)
    assert state["links"].keys() == kept["links"].keys()
    assert all(torch.equal(state["links"][name], kept["links"][name]) for name in kept["links"])


# --- what is refused ---


@pytest.mark.parametrize("steps", [-1, 4])
def test_a_warmup_that_cannot_be_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"link_warmup is {steps} steps; expected 0 for none, or at most"):
        Run("set", steps, "masked")


def test_the_state_of_another_warmup_is_refused() -> None:
    state = Run("set", 2, "masked").warmup.state_dict()
    with pytest.raises(ValueError, match="a link_warmup of 2 steps but this LinkWarmup has 3"):
        Run("set", 3, "masked").warmup.load_state_dict(state)


@pytest.mark.parametrize("links", [{"0.weight": torch.tensor([10_000])}, {"other": torch.tensor([0])}], ids=str)
def test_the_state_of_other_links_is_refused(links: dict[str, Tensor]) -> None:
    run = Run("set", 3, "csr").train(3)
    before = run.warmup.state_dict()
    with pytest.raises(ValueError, match="the saved new links are not among the links of the sparsifier"):
        run.warmup.load_state_dict({"steps": 3, "updated_at": 3, "links": links})
    assert run.warmup.state_dict()["links"].keys() == before["links"].keys()
