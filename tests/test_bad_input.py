"""Mistakes are refused: with the type of error one would expect, what was given, and what was expected."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core import methods
from chts_core.schedules import Timeline

MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
SCORES = torch.ones(2, 4)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- masks ---

MASK_TAKERS: dict[str, Callable[[Any], Any]] = {
    **chts.link_prediction.PREDICTORS,
    "sample_links": lambda mask: chts.link_prediction.sample_links(mask, 1, generator=generator()),
    "keep": lambda mask: chts.sampling.keep(SCORES, mask, 1, generator=generator()),
    "draw": lambda mask: chts.sampling.draw(SCORES, mask, 1, generator=generator()),
    "percolate": lambda mask: chts.percolation.percolate({"layer": mask}, chts.LayerGraph()),
    "active_neurons": lambda mask: chts.percolation.active_neurons({"layer": mask}, chts.LayerGraph()),
    "degrees": chts.diagnostics.degrees,
    "overlap removed": lambda mask: chts.diagnostics.overlap(mask, MASK),
    "overlap regrown": lambda mask: chts.diagnostics.overlap(MASK, mask),
    "itop_rate": chts.diagnostics.itop_rate,
}
BAD_MASKS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([[True, False]], TypeError, r"is a list; expected a Boolean torch\.Tensor"),
    "none": (None, TypeError, r"is a NoneType; expected a Boolean torch\.Tensor"),
    "array": (MASK.numpy(), TypeError, r"is a ndarray; expected a Boolean torch\.Tensor"),
    "float": (MASK.float(), TypeError, r"has dtype torch\.float32; expected torch\.bool"),
    "integer": (MASK.long(), TypeError, r"has dtype torch\.int64; expected torch\.bool"),
    "one dimension": (MASK[0], ValueError, r"has shape \(4,\); expected two dimensions"),
    "three dimensions": (MASK[None], ValueError, r"has shape \(1, 2, 4\); expected two dimensions"),
}


@pytest.mark.parametrize("bad", BAD_MASKS)
@pytest.mark.parametrize("function", MASK_TAKERS)
def test_what_is_no_mask_is_refused(function: str, bad: str) -> None:
    mask, error, message = BAD_MASKS[bad]
    if bad == "three dimensions" and function in ("percolate", "active_neurons"):  # the mask of a convolution
        assert MASK_TAKERS[function](mask) is not None
        return
    with pytest.raises(error, match=message):
        MASK_TAKERS[function](mask)


# --- generators ---

GENERATOR_TAKERS: dict[str, Callable[..., Any]] = {
    "erdos_renyi": lambda **given: chts.topology.erdos_renyi(2, 4, 0.5, **given),
    "receptive_field": lambda **given: chts.topology.receptive_field(2, 4, 0.5, **given),
    "small_world": lambda **given: chts.topology.small_world(2, 4, 0.5, **given),
    "scale_free": lambda **given: chts.topology.scale_free(2, 4, 0.5, **given),
    "sample_links": lambda **given: chts.link_prediction.sample_links(MASK, 1, **given),
    "keep": lambda **given: chts.sampling.keep(SCORES, MASK, 1, **given),
    "draw": lambda **given: chts.sampling.draw(SCORES, MASK, 1, **given),
}


@pytest.mark.parametrize("function", GENERATOR_TAKERS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "missing 1 required keyword-only argument: 'generator'"),
        ({"generator": None}, r"generator is a NoneType; expected a torch\.Generator"),
        ({"generator": 0}, r"generator is a int; expected a torch\.Generator"),
        ({"generator": torch.manual_seed}, r"generator is a builtin_function_or_method|generator is a function"),
    ],
    ids=["missing", "none", "integer", "function"],
)
def test_what_is_no_generator_is_refused(function: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        GENERATOR_TAKERS[function](**given)


# --- functions ---


def brf(density: float = 0.5, r: float = 0.25, degree: Any = "fixed", shape: tuple[int, int] = (2, 4)) -> Tensor:
    return chts.topology.receptive_field(*shape, density, r, degree, generator=generator())


def er(density: float = 0.5, shape: tuple[int, int] = (2, 4)) -> Tensor:
    return chts.topology.erdos_renyi(*shape, density, generator=generator())


def keep(scores: Tensor = SCORES, num: int = 1, temperature: float = 1.0, soft: bool = True) -> Tensor:
    return chts.sampling.keep(scores, MASK, num, temperature, soft, generator=generator())


def scores_with(value: float) -> Tensor:
    scores = SCORES.clone()
    scores[1, 2] = value
    return scores


def percolate(*chains: tuple[str, ...]) -> Any:
    masks = {"a": MASK, "b": MASK, "c": MASK.T}
    return chts.percolation.percolate(masks, chts.LayerGraph(chains))


SCHEDULES = chts.schedules
BAD_CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    # topology
    "er density above 1": (lambda: er(1.5), r"density is 1\.5; expected a fraction in \[0, 1\]"),
    "er density negative": (lambda: er(-0.1), r"density is -0\.1; expected a fraction in \[0, 1\]"),
    "er density nan": (lambda: er(math.nan), r"density is nan; expected a fraction in \[0, 1\]"),
    "brf density above 1": (lambda: brf(1.5), r"density is 1\.5; expected a fraction in \[0, 1\]"),
    "brf density nan": (lambda: brf(math.nan), r"density is nan; expected a fraction in \[0, 1\]"),
    "er no outputs": (lambda: er(shape=(0, 4)), r"0 outputs and 4 inputs; expected at least 1"),
    "brf no inputs": (lambda: brf(shape=(2, 0)), r"2 outputs and 0 inputs; expected at least 1"),
    "link_count no inputs": (
        lambda: chts.topology.link_count(2, -1, 0.5),
        r"2 outputs and -1 inputs; expected at least 1",
    ),
    "r above 1": (lambda: brf(r=1.1), r"r is 1\.1; expected a randomness in \[0, 1\]"),
    "r negative": (lambda: brf(r=-0.1), r"r is -0\.1; expected a randomness in \[0, 1\]"),
    "r nan": (lambda: brf(r=math.nan), r"r is nan; expected a randomness in \[0, 1\]"),
    "degree unknown": (lambda: brf(degree="poisson"), "degree is 'poisson'; expected 'fixed', 'uniform' or"),
    "degree list": (lambda: brf(degree=[2, 2]), r"degree is \[2, 2\]; expected 'fixed', 'uniform' or a 1-D integer"),
    "degree beyond the row": (
        lambda: brf(5 / 8, degree=torch.tensor([0, 5])),
        r"degree\[1\] is 5 but .* has 4 inputs.* in \[0, 4\]",
    ),
    "degree negative": (
        lambda: brf(2 / 8, degree=torch.tensor([-1, 3])),
        r"degree\[0\] is -1 but .* has 4 inputs.* in \[0, 4\]",
    ),
    "degrees of another density": (
        lambda: brf(0.5, degree=torch.tensor([1, 2])),
        r"add up to 3 links but the density gives 4.*density=0\.375",
    ),
    "degrees too few": (lambda: brf(degree=torch.tensor([4])), r"shape \(1,\).*expected 2 integers"),
    "degrees two-dimensional": (lambda: brf(degree=torch.ones(2, 1).long()), r"shape \(2, 1\).*expected 2 integers"),
    "degrees float": (lambda: brf(degree=torch.tensor([2.0, 2.0])), r"torch\.float32.*expected 2 integers"),
    "degrees Boolean": (lambda: brf(2 / 8, degree=torch.tensor([True, True])), r"torch\.bool.*expected 2 integers"),
    # sampling
    "keep too many": (lambda: keep(num=5), r"5 links were asked for but there are 4 candidates"),
    "keep a negative number": (lambda: keep(num=-1), r"-1 links were asked for .* between 0 and"),
    "regrow too many": (
        lambda: chts.link_prediction.sample_links(MASK, 5, generator=generator()),
        r"num_links is 5, but the mask has 4 missing links",
    ),
    "temperature negative": (lambda: keep(temperature=-1.0), r"temperature is -1\.0; expected T >= 0"),
    "temperature nan": (lambda: keep(temperature=math.nan), r"temperature is nan; expected T >= 0"),
    "scores negative": (lambda: keep(scores_with(-1)), r"negative, infinite or NaN .* expected finite scores >= 0"),
    "scores nan": (lambda: keep(scores_with(math.nan)), r"negative, infinite or NaN .* expected finite scores >= 0"),
    "scores infinite": (lambda: keep(scores_with(math.inf)), r"negative, infinite or NaN .* expected finite scores"),
    "hard scores negative": (lambda: keep(scores_with(-1), soft=False), r"negative, infinite or NaN .* expected"),
    "hard scores nan": (lambda: keep(scores_with(math.nan), soft=False), r"negative, infinite or NaN .* expected"),
    "scores misshapen": (lambda: keep(SCORES.T), r"scores has shape \(4, 2\) but the mask has shape \(2, 4\)"),
    "softness above 1": (
        lambda: chts.sampling.temperature_from_softness(1.5),
        r"softness is 1\.5; expected .*\[0, 1\]",
    ),
    "softness nan": (
        lambda: chts.sampling.temperature_from_softness(math.nan),
        r"softness is nan; expected .*\[0, 1\]",
    ),
    "predictor unknown": (
        lambda: chts.link_prediction.sample_links(MASK, 1, "ch9", generator=generator()),
        r"predictor is 'ch9'; expected one of 'ch2_l3n'",
    ),
    # percolation and diagnostics
    "graph names an unknown layer": (lambda: percolate(("a", "z")), r"contains layer 'z', which has no mask.* a, b, c"),
    "graph lets a layer feed two": (
        lambda: percolate(("a", "c"), ("a", "c")),
        r"layer 'a' feeds more than one layer in the graph; expected at most one",
    ),
    "graph chains what does not fit": (lambda: percolate(("a", "b")), r"'a' has 2 outputs but 'b'.* has 4 inputs"),
    "overlap misshapen": (
        lambda: chts.diagnostics.overlap(MASK, MASK.T),
        r"regrown has shape \(4, 2\) but the mask has shape \(2, 4\)",
    ),
    # schedules and distributions
    "uniform sparsity of 1": (
        lambda: chts.distributions.uniform({"a": (2, 4)}, 1.0),
        r"sparsity is 1\.0; expected a fraction in \[0, 1\)",
    ),
    "sigmoid window empty": (lambda: SCHEDULES.sigmoid_sparsity(5, 9, 9), r"from step 9 to 9; .* after its start"),
    "cubic window reversed": (lambda: SCHEDULES.cubic_sparsity(5, 9, 3), r"from step 9 to 3; .* after its start"),
    "sigmoid flat": (lambda: SCHEDULES.sigmoid_sparsity(5, 0, 9, k=0), r"k is 0; expected a steepness above 0"),
    "sigmoid k nan": (lambda: SCHEDULES.sigmoid_sparsity(5, 0, 9, k=math.nan), r"k is nan; expected a steepness"),
    "initial sparsity": (lambda: SCHEDULES.cubic_sparsity(5, 0, 9, -0.5, 0.9), r"initial sparsity is -0\.5; expected"),
    "final sparsity": (lambda: SCHEDULES.sigmoid_sparsity(5, 0, 9, 0.5, 1.0), r"final sparsity is 1\.0; expected"),
    "second stage after the end": (
        lambda: SCHEDULES.staged_sparsity(5, 9, 8),
        r"second stage begins at step 9 but the schedule ends at step 8",
    ),
    "excess negative": (
        lambda: SCHEDULES.staged_sparsity(5, 6, 8, excess=(0.1, -0.1)),
        r"excess densities are \(0\.1, -0\.1\); expected shares",
    ),
    "excess above 1": (lambda: SCHEDULES.staged_sparsity(5, 6, 8, excess=(1.5, 0.1)), r"excess densities are \(1\.5"),
    "excess nan": (lambda: SCHEDULES.staged_sparsity(5, 6, 8, excess=(math.nan, 0)), r"excess densities are \(nan"),
    "staged to 1": (lambda: SCHEDULES.staged_sparsity(5, 6, 8, 1.0), r"final sparsity is 1\.0; expected"),
    "zeta above 1": (lambda: SCHEDULES.cosine_turnover(5, 9, 1.2), r"zeta is 1\.2; expected .* in \[0, 1\]"),
    "zeta nan": (lambda: SCHEDULES.cosine_turnover(5, 9, math.nan), r"zeta is nan; expected .* in \[0, 1\]"),
    "turnover ends at 0": (lambda: SCHEDULES.cosine_turnover(5, 0), r"ends at step 0; expected a step above 0"),
    "temperature ramp negative": (
        lambda: SCHEDULES.linear_temperature(5, 9, -1.0),
        r"from -1\.0 to 3\.0; expected T >=",
    ),
    "temperature ramp nan": (
        lambda: SCHEDULES.linear_temperature(5, 9, 1.0, math.nan),
        r"from 1\.0 to nan; expected T",
    ),
    "temperature ramp ends at 0": (
        lambda: SCHEDULES.linear_temperature(5, 0),
        r"ends at step 0; expected a step above",
    ),
    "updates stop at 0": (
        lambda: Timeline(100, 10, 0.0),
        r"stop is 0\.0; expected the fraction of the run at which updates stop, in \(0, 1\]",
    ),
    "updates stop after the run": (lambda: Timeline(100, 10, 1.5), r"stop is 1\.5; expected the fraction"),
    "window reversed": (lambda: Timeline(100, 10, 0.75).window(0.5, 0.2), r"from 0\.5 to 0\.2 of the run; expected"),
    "window before the run": (lambda: Timeline(100, 10, 0.75).window(-0.5, 0.2), r"from -0\.5 to 0\.2 of the run"),
}


@pytest.mark.parametrize("bad", BAD_CALLS)
def test_values_that_make_no_sense_are_refused(bad: str) -> None:
    call, message = BAD_CALLS[bad]
    with pytest.raises(ValueError, match=message):
        call()


def test_scores_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TypeError, match=r"scores is a list; expected a torch\.Tensor"):
        keep([[1.0] * 4] * 2)  # type: ignore[arg-type]


# --- the Sparsifier ---


def method(name: str = "set", **choices: Any) -> chts.Method:
    return replace(chts.METHODS[name], **choices)


@dataclass(frozen=True)
class Always:
    """Gives every layer the same mask."""

    mask: Any

    def __call__(self, *_: float, generator: torch.Generator) -> Any:  # noqa: ARG002 - given to every topology
        return self.mask


@dataclass(frozen=True)
class Half:
    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return chts.topology.erdos_renyi(out_features, in_features, density / 2, generator=generator)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def tied() -> nn.Module:
    """Two layers that share a weight, which cannot follow two masks."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    return model


def tied_output() -> nn.Module:
    """An output layer that shares the embedding's weight."""
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))
    model[3].weight = model[0].weight
    return model


GRAPHS = {
    "unknown": chts.LayerGraph((("0.weight", "9.weight"),)),
    "two ways": chts.LayerGraph((("0.weight", "2.weight"), ("0.weight", "2.weight"))),
    "misfit": chts.LayerGraph((("2.weight", "0.weight"),)),
    "module": chts.LayerGraph((("0", "2"),)),
    "pair": chts.LayerGraph(pairs=(("0.weight", "9.weight"),)),
    "heads": chts.LayerGraph(attentions=(chts.Attention("0.weight", "2.weight", None, None, heads=4, key_heads=4),)),
    "key heads": chts.LayerGraph(attentions=(chts.Attention("0.weight", None, None, None, heads=3, key_heads=2),)),
}
FULL = torch.ones(6, 4, dtype=torch.bool)
# What differs from settings that work, the error and its message.
BAD_SETTINGS: dict[str, tuple[dict[str, Any], type[Exception] | tuple[type[Exception], ...], str]] = {
    **{
        f"sparsity {value}": (
            {"sparsity": value},
            ValueError,
            rf"sparsity is {value}; expected a fraction in \[0, 1\)",
        )
        for value in (-0.1, 1, 1.0, 1.2, 95, math.nan, math.inf)
    },
    **{
        f"total_steps {value}": ({"total_steps": value}, ValueError, rf"total_steps is {value}; expected")
        for value in (0, -5)
    },
    **{
        f"update_every {value}": ({"update_every": value}, ValueError, rf"update_every is {value}; expected")
        for value in (0, -5)
    },
    **{
        f"total_steps {value!r}": ({"total_steps": value}, ValueError, f"total_steps is {value!r}; expected .* whole")
        for value in (40.5, 1000.0, "1000", None, True)
    },
    **{
        f"update_every {value!r}": (
            {"update_every": value},
            ValueError,
            rf"update_every is {re.escape(repr(value))}; expected a whole number of optimizer steps above 0, or a list",
        )
        for value in (5.0, "5", None, True, {5: 0, 10: 0})
    },
    **{
        f"update_every {steps!r}": (
            {"update_every": steps},
            ValueError,
            rf"update_every is {re.escape(repr(tuple(steps)))}; expected the steps of the updates, whole numbers",
        )
        for steps in ([5, None], [5, "10"], [[5], [10]], [True, 10], [5.0, 10.0])
    },
    "method unknown": (
        {"method": "lottery"},
        ValueError,
        "method is 'lottery'; expected one of 'fc', 'set', 'rigl', .*'chtss', .*'chts/llama_code', .*Method",
    ),
    "method of a wrong type": (
        {"method": None},
        (TypeError, ValueError),
        "method is (None|a NoneType); expected .*'fc', 'set', 'rigl', .*'chtss'.*Method",
    ),
    "no update ever": (
        {"method": "chts", "update_every": 800},
        ValueError,
        r"every 800 steps and none after step 750 of 1000.*never change",
    ),
    "no update in the decay": (
        {"method": "chtss", "update_every": 400},
        ValueError,
        r"decay from step 0 to 375 contains no update, because updates come every 400",
    ),
    "decay outlives the turnover": (
        {"method": method("chtss", sparsity=methods.Sigmoid(end=0.9))},
        ValueError,
        r"decay ends at step 900 but updates stop at step 750",
    ),
    "cubic decay outlives the turnover": (
        {"method": method("chtss", sparsity=methods.Cubic(), turnover=methods.Turnover(0.3, stop=0.5))},
        ValueError,
        r"decay ends at step 750 but updates stop at step 500",
    ),
    "sparsity below the initial one": (
        {"method": "chtss", "sparsity": 0.3},
        ValueError,
        r"would fall from 0\.5 at step 0 to 0\.3 at step 1000.*choose a final sparsity above",
    ),
    "stages beyond every link": (
        {"method": method("mest", sparsity=methods.Staged((-0.1, 0.0)))},
        ValueError,
        r"excess densities are \(-0\.1, 0\.0\)",
    ),
    "distribution unknown": (
        {"distribution": "lognormal"},
        ValueError,
        "distribution is 'lognormal'; expected one of 'uniform', 'erdos_renyi', 'erdos_renyi_kernel'",
    ),
    "layer without a link": (
        {"sparsity": 0.99},
        ValueError,
        r"layer '0\.weight' of shape \(6, 4\) would have no link at sparsity 0\.99; .* at most 0\.958333",
    ),
    "no layer": (
        {"model": lambda: nn.Sequential(nn.LayerNorm(4))},
        ValueError,
        "Sequential has 0 layers that could be sparse, but none is left to sparsify; expected at least two",
    ),
    "one layer": (
        {"model": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU())},
        ValueError,
        "Sequential has 1 layers that could be sparse, but none is left.*expected at least two.*exclude=\\(\\)",
    ),
    "no layer that trains": (
        {"model": lambda: perceptron().requires_grad_(False)},
        ValueError,
        "Sequential has 3 layers that could be sparse, but none is left to sparsify",
    ),
    "the output layer alone": ({"include": "4"}, ValueError, "fits only layers that stay dense by default"),
    "all excluded": ({"exclude": "*"}, ValueError, "none is left to sparsify"),
    "none chosen": ({"include": lambda name, module: False}, ValueError, "none is left"),  # noqa: ARG005
    "include fits nothing": (
        {"include": ["0", "encoder.*"]},
        ValueError,
        r"include has the pattern 'encoder\.\*', which fits no layer.* 0\.weight, 2\.weight, 4\.weight",
    ),
    "exclude fits nothing": (
        {"exclude": "head"},
        ValueError,
        r"exclude has the pattern 'head', which fits no layer.* 0\.weight, 2\.weight, 4\.weight",
    ),
    "tied weights": ({"model": tied}, ValueError, r"0\.weight and 2\.weight share one weight.*give each its own"),
    "tied weights, one of them dense": (
        {"model": tied, "exclude": "0"},
        ValueError,
        r"0\.weight and 2\.weight share one weight",
    ),
    "tied output that is to be sparse": (
        {"model": tied_output, "exclude": ()},
        ValueError,
        r"0\.weight and 3\.weight share one weight.*exclude them",
    ),
    "optimizer of another model": (
        {"optimizer": lambda model: torch.optim.SGD(perceptron().parameters(), lr=0.1)},  # noqa: ARG005
        ValueError,
        r"optimizer does not hold the model's weights 0\.weight, 2\.weight; build it from model\.parameters\(\)",
    ),
    "optimizer of a part of the model": (
        {"optimizer": lambda model: torch.optim.SGD(model[0].parameters(), lr=0.1)},
        ValueError,
        r"optimizer does not hold the model's weights 2\.weight; build it from model\.parameters\(\)",
    ),
    "two optimizers": (
        {"optimizer": lambda model: [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2, 4)][1]},
        ValueError,
        r"optimizer does not hold the model's weights 0\.weight; build it from model\.parameters\(\)",
    ),
    "resume from a path": (
        {"resume_from": "run.pt"},
        TypeError,
        r"saved state is a str; expected the dictionary that state_dict\(\) returned.* load the file with torch\.load",
    ),
    "graph of a wrong type": (
        {"graph": [("0.weight", "2.weight")]},
        TypeError,
        r"graph is a list; expected a LayerGraph\. Pass graph=LayerGraph\(chains=",
    ),
    "graph unknown": (
        {"graph": GRAPHS["unknown"]},
        ValueError,
        r"'9\.weight', which has no mask.* 0\.weight, 2\.weight",
    ),
    "graph of modules": ({"graph": GRAPHS["module"]}, ValueError, r"'0', which has no mask.* 0\.weight, 2\.weight"),
    "graph feeds two": ({"graph": GRAPHS["two ways"]}, ValueError, r"'0\.weight' feeds more than one layer"),
    "graph pairs an unknown": ({"graph": GRAPHS["pair"]}, ValueError, r"'9\.weight', which has no mask"),
    "graph of heads that cannot share": (
        {"graph": GRAPHS["heads"]},
        ValueError,
        r"'0\.weight' of an attention block has 6 neurons; expected a multiple of its 4 heads",
    ),
    "heads that cannot share, each by itself": (
        {"graph": GRAPHS["heads"], "per_head": True},
        ValueError,
        r"'0\.weight' of an attention block has 6 neurons; expected a multiple of its 4 heads",
    ),
    "graph misfit": (
        {"graph": GRAPHS["misfit"]},
        ValueError,
        r"'2\.weight' has 6 outputs but '0\.weight'.* has 4 inputs",
    ),
    "topology of a wrong count": (
        {"method": method(topology=Half())},
        ValueError,
        r"gave layer '0\.weight' 6 links; expected exactly 12",
    ),
    "topology of a wrong shape": (
        {"method": method(topology=Always(torch.ones(4, 6, dtype=torch.bool)))},
        ValueError,
        r"'0\.weight' has shape \(4, 6\) but the mask has shape \(6, 4\)",
    ),
    "topology of a wrong type": (
        {"method": method(topology=Always(torch.ones(6, 4)))},
        TypeError,
        r"'0\.weight' has dtype torch\.float32; expected torch\.bool",
    ),
    "topology of nothing": (
        {"method": method(topology=Always(None))},
        TypeError,
        r"'0\.weight' is a NoneType; expected a Boolean",
    ),
    "initial mask of no layer": (
        {"initial_masks": {"0.weight": FULL, "4.weight": FULL}},
        ValueError,
        r"initial_masks has masks of 4\.weight; expected only masks of the sparse layers 0\.weight, 2\.weight",
    ),
    "initial mask of a wrong count": (
        {"initial_masks": {"0.weight": FULL}},
        ValueError,
        r"initial_masks gave layer '0\.weight' 24 links; expected exactly 12",
    ),
    "initial mask of a wrong shape": (
        {"initial_masks": {"0.weight": FULL.T}},
        ValueError,
        r"initial mask of '0\.weight' has shape \(4, 6\) but the mask has shape \(6, 4\)",
    ),
    "initial mask of a wrong type": (
        {"initial_masks": {"2.weight": torch.ones(6, 6)}},
        TypeError,
        r"initial mask of '2\.weight' has dtype torch\.float32; expected torch\.bool",
    ),
    **{
        f"zeta {zeta}": (
            {"method": method(turnover=methods.Turnover(zeta=zeta))},
            ValueError,
            rf"zeta is {zeta} at step 100; expected .* in \[0, 1\]",
        )
        for zeta in (1.5, -0.1, math.nan)
    },
    "cosine out of range": (
        {"method": method(turnover=methods.Turnover(zeta=methods.Cosine(1.5)))},
        ValueError,
        r"zeta is 1\.5; expected",
    ),
    "zeta that leaves its range": (
        {"method": method(turnover=methods.Turnover(zeta=methods.Ramp(0.5, 1.5)))},
        ValueError,
        r"zeta is 1\.03.* at step 400; expected",
    ),
    "zeta out of range while the density decays": (
        {"method": method("granet", turnover=methods.Turnover(1.5)), "sparsity": 0.75},
        ValueError,
        r"zeta is 1\.5 at step",
    ),
    **{
        f"early stop {overlap}": (
            {"method": method(turnover=methods.Turnover(0.3, early_stop=overlap))},
            ValueError,
            rf"early_stop is {overlap}; expected an overlap in \[0, 1\], or None",
        )
        for overlap in (-0.1, 1.5, math.nan)
    },
    "removal score unknown": (
        {"method": method(removal=methods.Removal("size"))},
        ValueError,
        "'size'; expected .*'magnitude'.*'relative_importance'.*'mest'",
    ),
    "regrowth score unknown": (
        {"method": method(regrowth=methods.Regrowth("ch9"))},
        ValueError,
        "'ch9'; expected .*'random'.*'gradient'.*'ch2_l3n'",
    ),
}


@pytest.mark.parametrize("bad", BAD_SETTINGS)
def test_settings_that_cannot_work_are_refused_and_change_nothing(bad: str) -> None:
    given, error, message = BAD_SETTINGS[bad]
    settings = {"method": "set", "sparsity": 0.5, "total_steps": 1000, "update_every": 100} | given
    torch.manual_seed(0)
    model = settings.pop("model", perceptron)()
    build = settings.pop("optimizer", lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    optimizer = build(model)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    with pytest.raises(error, match=message):
        chts.Sparsifier(model, optimizer, **settings)

    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None
    assert not optimizer.state
    # No hook was left behind that would mask gradients.
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if training:
        sum(parameter.sum() for parameter in training).backward()
    assert all(parameter.grad.all() for parameter in training)


def test_a_list_of_optimizers_is_refused() -> None:
    model = perceptron()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    with pytest.raises(TypeError, match=r"optimizer is a list; expected one torch\.optim\.Optimizer\. Build one"):
        chts.Sparsifier(model, optimizers, "set", 0.5, total_steps=1000)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", chts.METHODS | chts.PRESETS)
def test_the_settings_the_others_differ_from_do_work(name: str) -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    from_inputs = isinstance(methods.get_method(name).topology, methods.Correlated)
    correlation = torch.eye(4) if from_inputs else None
    sparsifier = chts.Sparsifier(
        model, optimizer, name, 0.5, total_steps=1000, update_every=100, correlation=correlation
    )
    assert list(sparsifier.masks) == ["0.weight", "2.weight"]


def test_a_ramp_of_zeta_within_its_range_does_work() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rising = method(turnover=methods.Turnover(methods.Ramp(0.1, 1.0)))
    chts.Sparsifier(model, optimizer, rising, 0.5, total_steps=1000, update_every=100)
