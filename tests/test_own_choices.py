"""Scores of one's own: which links go and which come, in everything that takes a method."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.linear import Execution
from chts_core.methods import METHODS, DenseEnd, Method, Regrowth, Removal, Turnover, get_method
from chts_core.removal import WeightedLinks
from chts_core.tools.audit import audit


@dataclass(frozen=True)
class FarFromDiagonal:
    """The links far from the diagonal go."""

    def __call__(self, links: WeightedLinks, /) -> Tensor:
        return 1 / (1.0 + (links.outputs - links.inputs).abs())


@dataclass(frozen=True)
class Taylor:
    """|W · gradient|."""

    needs_gradient: bool = True

    def __call__(self, links: WeightedLinks, /) -> Tensor:
        assert links.gradients is not None
        return (links.values * links.gradients).abs()


@dataclass(frozen=True)
class NearDiagonal:
    """The links near the diagonal come."""

    power: float = 1.0

    def __call__(self, mask: Tensor, gradient: Tensor | None, /) -> Tensor:
        assert gradient is None
        outputs, inputs = (torch.arange(size).to(mask.device) for size in mask.shape)
        return (1.0 + (outputs[:, None] - inputs).abs()) ** -self.power


@dataclass(frozen=True)
class SquaredGradient:
    """Those of the largest gradient, as RigL's."""

    needs_gradient: bool = True

    def __call__(self, mask: Tensor, gradient: Tensor | None, /) -> Tensor:
        assert gradient is not None
        assert gradient.shape == mask.shape
        return gradient.square()


SET = chts.METHODS["set"]
OWN = {
    "removal": replace(SET, removal=Removal(FarFromDiagonal())),
    "removal by gradient": replace(SET, removal=Removal(Taylor())),
    "soft removal": replace(SET, removal=Removal(FarFromDiagonal(), temperature=2.0, percolate=True)),
    "pruning": replace(chts.METHODS["chtss"], removal=Removal("magnitude", prune=FarFromDiagonal())),
    "regrowth": replace(SET, regrowth=Regrowth(NearDiagonal())),
    "hard regrowth": replace(SET, regrowth=Regrowth(NearDiagonal(2.0), soft=False, history=True)),
    "regrowth by gradient": replace(SET, regrowth=Regrowth(SquaredGradient(), soft=False)),
}


class Run:
    def __init__(self, method: str | Method, execution: Execution = "masked") -> None:
        self.model = tiny.mlp((16, 16, 16, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.sparsifier = chts.Sparsifier(
            self.model, self.optimizer, method, 0.8, total_steps=40, update_every=5, execution=execution
        )
        self.generator = torch.Generator().manual_seed(0)

    def train(self, steps: int) -> "Run":
        for _ in range(steps):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(
                self.model(torch.randn(8, 16, generator=self.generator)), torch.arange(8) % 3
            ).backward()
            self.optimizer.step()
            self.sparsifier.step()
        return self

    def parts(self) -> list[Any]:
        return [self.model, self.optimizer, self.sparsifier]


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("name", OWN)
def test_scores_of_ones_own_run_exactly_and_resume(name: str, execution: Execution) -> None:
    method = OWN[name]
    run = Run(method, execution).train(12)
    saved = copy.deepcopy([part.state_dict() for part in run.parts()])
    again = Run(method, execution)
    again.generator.set_state(run.generator.get_state())
    for part, state in zip(again.parts(), saved, strict=True):
        part.load_state_dict(state)
    for each in (run, again):
        each.train(20)
        assert audit(each.sparsifier) == []
    plan = chts.plan(Run("fc").model, method, 0.8, total_steps=40, update_every=5)
    links = plan.budget.links(32)
    for key, mask in run.sparsifier.masks.items():
        assert torch.equal(mask, again.sparsifier.masks[key])
        assert int(mask.sum()) == links[key]
    assert str(plan)


def distance(mask: Tensor) -> float:
    outputs, inputs = mask.nonzero().unbind(1)
    return float((outputs - inputs).abs().float().mean())


@pytest.mark.parametrize("name", ["removal", "regrowth", "hard regrowth", "soft removal"])
def test_they_decide_which_links_there_are(name: str) -> None:
    ours, at_random = (Run(method).train(30).sparsifier.masks["0.weight"] for method in (OWN[name], SET))
    assert distance(ours) < distance(at_random)


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_the_squared_gradient_is_rigl(execution: Execution) -> None:
    ours, rigl = (Run(method, execution).train(22) for method in (OWN["regrowth by gradient"], "rigl"))
    for name, mask in rigl.sparsifier.masks.items():
        assert torch.equal(mask, ours.sparsifier.masks[name])


class Plain:
    def __call__(self, *_: Any, **__: Any) -> Tensor:
        raise NotImplementedError

    def at(self, *_: Any) -> float:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("choice", "own"),
    [
        ("topology", Plain()),
        ("topology", lambda *_, **__: None),
        ("removal", Removal(lambda links: links.values)),
        ("removal", Removal("magnitude", temperature=Plain())),
        ("regrowth", Regrowth(Plain())),
        ("sparsity", Plain()),
        ("sparsity", DenseEnd(Plain())),
        ("turnover", Turnover(Plain())),
    ],
)
def test_a_choice_that_prints_differently_each_time_is_refused(choice: str, own: Any) -> None:
    message = rf"the method's {choice} has the repr .* in each process, so a saved run could not identify it"
    with pytest.raises(ValueError, match=message):
        get_method(replace(SET, **{choice: own}))


@pytest.mark.parametrize("wrong", ["of another shape", "negative", "not a number"])
def test_scores_that_cannot_be_drawn_by_are_refused_and_change_nothing(wrong: str) -> None:
    run = Run(replace(SET, regrowth=Regrowth(Wrong(wrong)))).train(4)
    before = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    with pytest.raises(ValueError, match="scores"):
        run.train(1)
    assert run.sparsifier.steps == 4
    assert all(torch.equal(mask, before[name]) for name, mask in run.sparsifier.masks.items())


@pytest.mark.parametrize(("wrong", "error"), [("short", ValueError), ("by matrix", ValueError), ("a list", TypeError)])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_scores_of_other_than_the_links_are_refused(
    wrong: str, error: type[Exception], temperature: float | None
) -> None:
    run = Run(replace(SET, removal=Removal(Misfit(wrong), temperature=temperature))).train(4)
    with pytest.raises(error, match=r"the score Misfit\(how=.* returned .*; expected"):
        run.train(1)
    assert run.sparsifier.steps == 4


@dataclass(frozen=True)
class Misfit:
    how: str

    def __call__(self, links: WeightedLinks, /) -> Any:
        scores = links.values.abs()
        return {"short": scores[1:], "by matrix": torch.ones(links.shape), "a list": scores.tolist()}[self.how]


@dataclass(frozen=True)
class Wrong:
    how: str

    def __call__(self, mask: Tensor, _: Tensor | None, /) -> Tensor:
        if self.how == "of another shape":
            return torch.ones(3, 3)
        return torch.full(mask.shape, -1.0 if self.how == "negative" else torch.nan)


@dataclass(frozen=True)
class OneToOne:
    """As many links as neurons, each from an input of its own; it needs square layers."""

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        assert density == 1 / out_features
        return torch.eye(out_features, in_features, dtype=torch.bool, device=generator.device)

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            if len(set(shape)) > 1:
                raise ValueError(f"layer {name!r} is not square.")

    def check_mask(self, mask: Tensor, source: str) -> None:
        if (mask.sum(0) != 1).any() or (mask.sum(1) != 1).any():
            raise ValueError(f"{source} has a neuron without exactly one link.")


def test_a_topology_may_refuse_shapes_and_masks() -> None:
    method = replace(METHODS["set"], topology=OneToOne(), turnover=Turnover(0.0))
    settings: dict[str, Any] = {"total_steps": 10, "update_every": 2, "sparsity": 1 - 1 / 8}
    model = tiny.mlp((8, 8, 8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert chts.Sparsifier(model, optimizer, method, **settings).density() == 1 / 8
    with pytest.raises(ValueError, match=r"layer '0\.weight' is not square"):
        chts.plan(tiny.mlp((4, 8, 3)), method, **settings)
    crowded = torch.zeros(8, 8, dtype=torch.bool)
    crowded[0] = True
    with pytest.raises(ValueError, match=r"the initial mask of '0\.weight' has a neuron without exactly one link"):
        chts.Sparsifier(model, optimizer, method, **settings, initial_masks={"0.weight": crowded})
