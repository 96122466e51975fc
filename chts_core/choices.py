"""The choices of a method: initial networks, removals, regrowths, densities and turnovers.

Each choice is a frozen dataclass that combines a function of the core with its settings. Write your own choices in the
same way, because a saved run identifies its choices by their repr. If a topology, removal or regrowth does not work
with all layers, give it a method `check_shapes(shapes)`, which raises an error if a shape is unsuitable. You can also
give a topology a method `check_mask(mask, source)`, which checks masks that the topology did not make.
"""

from bisect import bisect_right
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from chts_core import schedules, topology
from chts_core.compiled.masks import mask_of, positions
from chts_core.link_prediction import PREDICTORS, predicted_links
from chts_core.removal import GRADIENT_SCORES, LinkScore, WeightedLinks, scores_of
from chts_core.sampling import choose, draw, draw_missing
from chts_core.schedules import Timeline

# --- topology: how the network is wired at the start ---


class Topology(Protocol):
    """Makes the initial mask of a layer, with exactly `topology.link_count(...)` links, on the generator's device."""

    def __call__(
        self, out_features: int, in_features: int, density: float, *, generator: torch.Generator
    ) -> Tensor: ...


@dataclass(frozen=True)
class FullyConnected:
    """Makes masks with all links."""

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return torch.ones(out_features, in_features, dtype=torch.bool, device=generator.device)


@dataclass(frozen=True)
class ErdosRenyi:
    """Makes masks with links drawn uniformly at random (:func:`chts_core.topology.erdos_renyi`)."""

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
class SmallWorld:
    """Bipartite small-world network (:func:`chts_core.topology.small_world`)."""

    beta: float = 0.25

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return topology.small_world(out_features, in_features, density, self.beta, generator=generator)


@dataclass(frozen=True)
class ScaleFree:
    """Bipartite scale-free network (:func:`chts_core.topology.scale_free`).

    equal_partition: whether all inputs have the same number of links in layers that no sparse layer feeds, for example
        in the first layer of an MLP (:func:`chts_core.topology.equal_partition`).
    resort: how often the hubs of a layer are also hubs of the next layer: always ("rigid"), more often than by chance
        ("soft"), or only by chance (None). See :func:`chts_core.topology.resort`.
    """

    equal_partition: bool = False
    resort: Literal["rigid", "soft"] | None = None

    def __post_init__(self) -> None:
        if self.resort not in ("rigid", "soft", None):
            raise ValueError(f"resort is {self.resort!r}; expected 'rigid', 'soft' or None.")

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        return topology.scale_free(out_features, in_features, density, generator=generator)

    def placed(self, mask: Tensor, before: Tensor | None, *, generator: torch.Generator) -> Tensor:
        """Use `equal_partition` or `resort`. `before`: the mask of the sparse layer that feeds this layer, or None."""
        if before is None:
            return topology.equal_partition(mask, generator=generator) if self.equal_partition else mask
        if self.resort is None:
            return mask
        return topology.resort(before, mask, self.resort == "soft", generator=generator)


@dataclass(frozen=True)
class Correlated:
    """Makes masks that link the most correlated inputs, as in CSTI (:func:`chts_core.topology.correlated`).

    Pass the correlations of the inputs to the Sparsifier, as its argument `correlation`.
    """

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        raise ValueError(
            "the method starts from the correlations of the inputs (CSTI), but none were given; pass "
            "correlation=Correlation.matrix() of your training inputs (chts_core.topology.Correlation), or choose "
            "another topology, such as ReceptiveField()."
        )


# --- any hyperparameter may be a schedule ---


class Schedule(Protocol):
    """A value that changes during a run; `at` gives the value at a step."""

    def at(self, step: int, timeline: Timeline) -> float: ...


@dataclass(frozen=True)
class Ramp:
    """A value that rises linearly until the turnover stops (:func:`chts_core.schedules.linear_temperature`)."""

    initial: float
    final: float

    def at(self, step: int, timeline: Timeline) -> float:
        return schedules.linear_temperature(step, timeline.stop_step, self.initial, self.final)


@dataclass(frozen=True)
class Cosine:
    """A value that falls and reaches 0 when the turnover stops (:func:`chts_core.schedules.cosine_turnover`)."""

    initial: float

    def at(self, step: int, timeline: Timeline) -> float:
        return schedules.cosine_turnover(step, timeline.stop_step, self.initial)


def value_at(value: float | Schedule, step: int, timeline: Timeline) -> float:
    """The value of a hyperparameter at a step; the hyperparameter is a number or a schedule."""
    return float(value) if isinstance(value, int | float | Real) else value.at(step, timeline)


RAMP_TO_3 = Ramp(1.0, 3.0)  # softness 0.5 → 0.75
RAMP_TO_9 = Ramp(1.0, 9.0)  # softness 0.5 → 0.9

# --- removal and regrowth: which links are removed, which are regrown ---


@dataclass(frozen=True)
class Removal:
    """Removes the links with the lowest scores. With a `temperature`, draws the links that stay, p ∝ score^temperature.

    score: "magnitude", "relative_importance", "relative_importance_mlp_code" or "mest", or your own score
        (:class:`chts_core.removal.LinkScore`).
    percolate: whether to also remove the links that become incomplete, that is, come from or go to inactive neurons.
    prune: the score for pruning while the density falls; None for the same score as `score`. Pruning removes the links
        with the lowest scores and never draws.
    returning: whether removed links return if their last weights are among the largest weights of the layer. A method
        may set it to True only with the removal :data:`chts_core.methods.RETURNING`, the regrowth `RETURNS` and zeta=0.
    """

    score: str | LinkScore
    temperature: float | Schedule | None = None
    percolate: bool = False
    prune: str | LinkScore | None = None
    returning: bool = False

    @property
    def needs_gradient(self) -> bool:
        """Whether the score for removal or for pruning uses the gradient of the links."""
        return _wants_gradient(self.score, *GRADIENT_SCORES) or _wants_gradient(self.prune, *GRADIENT_SCORES)

    def __call__(
        self,
        links: WeightedLinks,
        target: int,
        exchanged: int,
        temperature: float | None,
        past: Tensor | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Indices of the links that an update keeps.

        The update prunes to `target` links, then removes `exchanged` of the links that are left.

        Args:
            links: the links of a layer.
            target: number of links after the update. If the layer has fewer links now, it gains links.
            exchanged: number of links to remove, at most `target` and at most the number of links.
            temperature: the temperature at this step; None for the hard rule.
            past: the last weights of the missing links, of shape (missing links,), if `returning` is true.
        """
        if past is not None:
            score = torch.cat([scores_of(links, self.score), past.abs()])
            kept = choose(score, min(target, len(score)), soft=False, generator=generator)
            return kept[kept < len(links.values)]
        pruned = None
        if target < len(links.values):
            score = scores_of(links, self.prune or self.score)
            pruned = choose(score, target, soft=False, generator=generator).sort().values
            links = links.only(pruned)
        soft, exponent = temperature is not None, 1.0 if temperature is None else temperature
        score = scores_of(links, self.score)
        num = min(target, len(links.values)) - exchanged
        kept = choose(score, num, temperature=exponent, soft=soft, generator=generator)
        return kept if pruned is None else pruned[kept]


class MissingLinkScore(Protocol):
    """A user's own score of missing links, for regrowth.

    It is called with the mask of a layer, Boolean (out_features, in_features), and with the gradient with respect to
    all weights of the layer, which has the same shape. It returns finite scores >= 0 of this shape. The scores of
    existing links are ignored. The gradient is None unless the score's attribute `needs_gradient` is true. Make the
    score a frozen dataclass, because a saved run identifies its scores by their repr.
    """

    def __call__(self, mask: Tensor, gradient: Tensor | None, /) -> Tensor: ...


@dataclass(frozen=True)
class Regrowth:
    """Regrows missing links by their scores.

    score: "random", "gradient" (the size of the gradient), "magnitude" (of the weight that a removed link had), the
        name of a link predictor, or your own score (:class:`MissingLinkScore`).
    soft: whether to draw links with p ∝ score. Otherwise, the links with the highest scores regrow.
    history: whether a regrown link starts with the last weight that it had. Otherwise, it starts from zero.
    """

    score: str | MissingLinkScore
    soft: bool = True
    history: bool = False

    @property
    def needs_gradient(self) -> bool:
        """Whether the score uses the gradient with respect to all weights."""
        return _wants_gradient(self.score, "gradient")

    def __call__(
        self,
        links: Tensor,
        shape: tuple[int, int],
        num: int,
        gradient: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Choose exactly `num` links that do not exist yet.

        Links are given as positions in the flattened mask, int64 in ascending order.

        Args:
            links: the existing links.
            shape: the shape of the mask, (out_features, in_features).
            gradient: the gradient with respect to all weights, of this shape, if the score needs it.
            past: missing links that existed before, and the weights that they had, if the score needs them.
        """
        size = shape[0] * shape[1]
        if self.score == "random":
            return draw_missing(links, size, num, generator=generator)
        if isinstance(self.score, str) and self.score in PREDICTORS:
            return predicted_links(links, shape, num, self.score, soft=self.soft, generator=generator)
        mask = mask_of(links, shape)
        # If no link or all missing links are wanted, no scores are needed. A layer that stays dense has no gradient for
        # missing links.
        if self.needs_gradient and num in (0, size - len(links)):
            return positions(~mask) if num else links[:0]
        return positions(draw(self.scores(mask, gradient, past), ~mask, num, soft=self.soft, generator=generator))

    def scores(self, mask: Tensor, gradient: Tensor | None, past: tuple[Tensor, Tensor] | None) -> Tensor:
        """The scores of all possible links, shaped like the mask. The scores of existing links are not used."""
        if self.score == "random":
            return torch.ones_like(mask, dtype=torch.float32)
        if self.score == "gradient":
            assert gradient is not None
            return gradient.abs()
        if self.score == "magnitude":
            assert past is not None
            where, weights = past
            scores = torch.zeros_like(mask, dtype=torch.float32)
            scores.view(-1)[where] = weights.abs().float()
            return scores
        return PREDICTORS[self.score](mask) if isinstance(self.score, str) else self.score(mask, gradient)


def _wants_gradient(score: object, *names: str) -> bool:
    """Whether a score is one of the `names`, or an object whose attribute `needs_gradient` is true."""
    return score in names if isinstance(score, str) else bool(getattr(score, "needs_gradient", False))


# --- sparsity: how many links there are ---


class Sparsity(Protocol):
    """A schedule of the sparsity: `at` gives the sparsity at a step, and `final` is the sparsity at the end of the run.

    If the sparsity may fall, so that layers gain links, the schedule needs an attribute `gains = True`. Otherwise, the
    Sparsifier refuses a run in which a layer would gain links. An update regrows the gained links and the exchanged
    links in one draw.
    """

    def at(self, step: int, timeline: Timeline, final: float) -> float: ...


@dataclass(frozen=True)
class Dense:
    """Keeps all links, and ignores the final sparsity."""

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Constant:
    """Keeps the final number of links from the first step on."""

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return final


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid decay of the density in a window given as fractions of the run.

    The default window is half as long as the window of :class:`Cubic`. With default values, a run costs the same
    training FLOPs with either schedule.
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
class Exponential:
    """Lowers the density by the same factor in each step of a window, which is given as fractions of the run.

    See :func:`chts_core.schedules.exponential_sparsity`.
    """

    initial: float = 0.5
    start: float = 0.0
    end: float = 0.75

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        window = timeline.window(self.start, self.end)
        return schedules.exponential_sparsity(step, *window, self.initial, final)


@dataclass(frozen=True)
class Cycling:
    """Goes through the given sparsities, one per update, and starts again after the last one.

    The last update sets the final sparsity.
    """

    values: tuple[float, ...]
    gains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values is empty; expected at least one sparsity, such as (0.8, 0.5).")

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        if step >= timeline.last_update:
            return final
        return self.values[bisect_right(timeline.updates, step) % len(self.values)]


@dataclass(frozen=True)
class DenseEnd:
    """Follows another schedule until the last update, which regrows all missing links.

    The turnover's `stop` says when the last update comes. The sparsity given for the run is the final sparsity of the
    other schedule.
    """

    before: Sparsity = Constant()
    gains: ClassVar[bool] = True

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return 0.0 if step >= timeline.last_update else self.before.at(step, timeline, final)


@dataclass(frozen=True)
class Staged:
    """Keeps more links than the target number, in two stages, until the last update (MEST's soft bound).

    excess: the density minus the target density, in each stage.
    switch: start of the second stage, as a fraction of the steps until the turnover stops.
    """

    excess: tuple[float, float] = (0.05, 0.025)
    switch: float = 0.6

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        end = timeline.last_update
        switch = min(round(self.switch * timeline.stop_step), end)
        return schedules.staged_sparsity(step, switch, end, final, self.excess)


# --- turnover: how many links are exchanged ---


@dataclass(frozen=True)
class Turnover:
    """Share of the links that each update exchanges. There is no update after the fraction `stop` of the run.

    zeta: the share. With "excess", an update keeps only the final number of links and exchanges all others.
    early_stop: the overlap of removed and regrown links above which a layer stops changing, once it has its final
        density.
    together: whether a layer stops early only when the overlap of every layer has been above `early_stop`.
    skip_optimizer: whether the optimizer skips its step before an update.
    """

    zeta: float | Schedule | Literal["excess"]
    stop: float = 0.75
    early_stop: float | None = None
    together: bool = False
    skip_optimizer: bool = False
