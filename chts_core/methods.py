"""The methods, each as five choices.

    topology    how the network is wired at first
    removal     which links go
    regrowth    which links come
    sparsity    how many links there are at step t
    turnover    how many are exchanged at step t

Change one with `dataclasses.replace(METHODS["set"], regrowth=Regrowth("ch2_l3n"))`.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from chts_core import removal, schedules, topology
from chts_core.link_prediction import PREDICTORS
from chts_core.schedules import Timeline


class Topology(Protocol):
    """The initial mask of a layer: exactly `topology.link_count(...)` links, on the generator's device."""

    def __call__(
        self, out_features: int, in_features: int, density: float, *, generator: torch.Generator
    ) -> Tensor: ...


@dataclass(frozen=True)
class FullyConnected:
    """All links."""

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return torch.ones(out_features, in_features, dtype=torch.bool, device=generator.device)


@dataclass(frozen=True)
class ErdosRenyi:
    """Links uniformly at random (:func:`chts_core.topology.erdos_renyi`)."""

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return topology.erdos_renyi(out_features, in_features, density, generator=generator)


@dataclass(frozen=True)
class ReceptiveField:
    """Bipartite receptive field network (:func:`chts_core.topology.receptive_field`)."""

    r: float = 0.25
    degree: Literal["fixed", "uniform"] = "fixed"

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return topology.receptive_field(out_features, in_features, density, self.r, self.degree, generator=generator)


@dataclass(frozen=True)
class Ramp:
    """Temperature raised linearly until the turnover stops (:func:`chts_core.schedules.linear_temperature`)."""

    initial: float
    final: float

    def temperature(self, step: int, timeline: Timeline) -> float:
        return schedules.linear_temperature(step, timeline.stop_step, self.initial, self.final)


RAMP_TO_3 = Ramp(1.0, 3.0)  # softness 0.5 → 0.75: the published MLP and Transformer code
RAMP_TO_9 = Ramp(1.0, 9.0)  # softness 0.5 → 0.9: the published LLaMA code


@dataclass(frozen=True)
class Removal:
    """Which links go: those of low score, drawn softly at a temperature, or simply the lowest when it is None.

    score: "magnitude" or "relative_importance".
    percolate: also drop the links that this leaves incomplete.
    """

    score: str
    temperature: Ramp | None = None
    percolate: bool = False


@dataclass(frozen=True)
class Regrowth:
    """Which links come: "random", or a link predictor's; its scores are sampled, or the highest taken if not soft."""

    score: str
    soft: bool = True


class Sparsity(Protocol):
    """How many links there are: the sparsity at a step, on the way to the final one."""

    def at(self, step: int, timeline: Timeline, final: float) -> float: ...


@dataclass(frozen=True)
class Dense:
    """All links, whatever sparsity was asked for."""

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Constant:
    """The final number of links from the first step on."""

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return final


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid decay of the density in a window given as fractions of the run.

    The default window is half as long as that of :class:`Cubic`, which costs the same training FLOPs.
    """

    initial: float = 0.5
    start: float = 0.0
    end: float = 0.375
    k: float = 6.0

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return schedules.sigmoid_sparsity(step, *timeline.window(self.start, self.end), self.initial, final, self.k)


@dataclass(frozen=True)
class Cubic:
    """Cubic decay of the density in a window given as fractions of the run."""

    initial: float = 0.5
    start: float = 0.0
    end: float = 0.75

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return schedules.cubic_sparsity(step, *timeline.window(self.start, self.end), self.initial, final)


@dataclass(frozen=True)
class Turnover:
    """Share of the links exchanged per update, annealed by a cosine; no update comes after `stop` of the run."""

    zeta: float
    stop: float = 0.75

    def at(self, step: int, timeline: Timeline) -> float:
        return schedules.cosine_turnover(step, timeline.stop_step, self.zeta)


@dataclass(frozen=True)
class Method:
    """A method of dynamic sparse training.

    Choices of your own are best frozen dataclasses too: a saved run knows its method by the repr.
    """

    topology: Topology
    removal: Removal
    regrowth: Regrowth
    sparsity: Sparsity
    turnover: Turnover


_SET = Method(
    topology=ErdosRenyi(),
    removal=Removal("magnitude"),
    regrowth=Regrowth("random"),
    sparsity=Constant(),
    turnover=Turnover(zeta=0.3),
)
_CHTS = Method(
    topology=ReceptiveField(r=0.25),
    removal=Removal("relative_importance", temperature=RAMP_TO_3, percolate=True),
    regrowth=Regrowth("ch2_l3n"),
    sparsity=Constant(),
    turnover=Turnover(zeta=0.3),
)

REGROWTH_SCORES = ("random", *PREDICTORS)

METHODS: dict[str, Method] = {
    "fc": replace(_SET, topology=FullyConnected(), sparsity=Dense(), turnover=Turnover(zeta=0.0)),
    "set": _SET,
    "chts": _CHTS,
    "chtss": replace(_CHTS, sparsity=Sigmoid(initial=0.5)),
}


def get_method(method: str | Method) -> Method:
    """The method of that name, or the one given, if its choices exist.

    Raises:
        TypeError, ValueError: for what is no method, an unknown name or score, or a turnover outside [0, 1].
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}, or a Method.")
        return METHODS[method]
    if not isinstance(method, Method):
        raise TypeError(
            f"method is a {type(method).__name__}; expected one of {', '.join(map(repr, METHODS))}, or a Method."
        )
    for score, known in ((method.removal.score, removal.SCORES), (method.regrowth.score, REGROWTH_SCORES)):
        if score not in known:
            raise ValueError(f"the method has score {score!r}; expected one of {', '.join(map(repr, known))}.")
    schedules.cosine_turnover(0, 1, method.turnover.zeta)  # refuses a zeta outside [0, 1]
    return method
