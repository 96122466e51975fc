"""Change the softness of a removal, and see which links of a layer are removed."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.lab import figures
from chts_core.lab.widgets.explorer import Explorer, menu, slider
from chts_core.removal import SCORES, WeightedLinks
from chts_core.sampling import choose, gumbel, temperature_from_softness
from chts_core.topology import receptive_field

_DRAWS = 400  # for the chances; their standard error is at most 2.5 percentage points
_CURVE = tuple(step / 20 for step in range(20))  # the values of δ at which the curves are measured


@dataclass(frozen=True)
class SoftSamplingState:
    """What the soft sampling explorer shows."""

    softness: float = 0.5
    zeta: float = 0.3
    sparsity: float = 0.9
    score: Literal["relative_importance", "magnitude"] = "relative_importance"
    out_features: int = 24
    in_features: int = 36
    seed: int = 0


@dataclass(frozen=True)
class SoftSamplingResult:
    """A removal, and a text that describes it.

    links: the number of links before the removal.
    removed: which links this draw removes; Boolean (links,), from the weakest link to the strongest.
    chances: for each link, the share of many draws that remove it, (links,).
    entropy: how random the draw of the first survivor is, as an entropy in bits.
    curve_entropy, curve_agreement: for each softness, the entropy as a share of its maximum, and the share of the
        removed links that the hard rule would remove too.
    """

    links: int
    removed: Tensor
    chances: Tensor
    entropy: float
    curve_entropy: Tensor
    curve_agreement: Tensor
    description: str


class SoftSamplingExplorer(Explorer[SoftSamplingState, SoftSamplingResult]):
    """Change the softness of a removal, and see which links of a layer are removed."""

    name = "soft-sampling"
    State = SoftSamplingState
    recorded: ClassVar = {
        "score": ("relative_importance", "magnitude"),
        "zeta": (0.1, 0.3, 0.5),
        "softness": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    }

    @staticmethod
    def compute(state: SoftSamplingState) -> SoftSamplingResult:
        """Compute the removal of a state: one draw, and the average result of many draws."""
        generator = torch.Generator().manual_seed(state.seed)
        scores = _sorted_scores(state, generator)
        links = len(scores)
        num_removed = round(state.zeta * links)
        temperature = temperature_from_softness(state.softness)
        kept = choose(scores, links - num_removed, temperature=temperature, generator=generator)
        removed = torch.ones(links, dtype=torch.bool)
        removed[kept] = False

        noise = gumbel((_DRAWS, links), generator=generator)
        chances = _removal_chances(scores, temperature, num_removed, noise)
        few = noise[: _DRAWS // 4]  # enough for a mean over links
        curve_chances = torch.stack(
            [_removal_chances(scores, temperature_from_softness(softness), num_removed, few) for softness in _CURVE]
        )
        curve_entropy = torch.tensor([_entropy(scores, temperature_from_softness(softness)) for softness in _CURVE])
        entropy = _entropy(scores, temperature)
        return SoftSamplingResult(
            links,
            removed,
            chances,
            entropy,
            curve_entropy / math.log2(links),
            curve_chances[:, :num_removed].sum(dim=1) / max(num_removed, 1),
            _describe(state, removed, entropy, float((scores[-1] / scores[0]).log10()) * temperature),
        )

    @staticmethod
    def draw(state: SoftSamplingState, result: SoftSamplingResult) -> Figure:
        """Draw each link's chance of being removed, and the average effect of the softness."""
        curves = {
            "removed links that the hard rule removes too": result.curve_agreement,
            "entropy as a share of its maximum": result.curve_entropy,
        }
        return figures.removal_chances(result.chances, result.removed, state.softness, _CURVE, curves)

    def make_controls(self, state: SoftSamplingState) -> dict[str, Any]:
        """Sliders for δ, ζ and the sparsity, and a menu of scores."""
        scores = [("relative importance", "relative_importance"), ("magnitude", "magnitude")]
        return {
            "softness": slider("softness δ", state.softness, 0, 0.95, 0.05),
            "zeta": slider("share removed ζ", state.zeta, 0.05, 0.6, 0.05),
            "sparsity": slider("sparsity", state.sparsity, 0.5, 0.99, 0.01),
            "score": menu("score", state.score, scores),
        }


def _sorted_scores(state: SoftSamplingState, generator: torch.Generator) -> Tensor:
    """Scores of the links of a layer with normally distributed weights, lowest first; float64 (links,)."""
    shape = state.out_features, state.in_features
    mask = receptive_field(*shape, 1 - state.sparsity, generator=generator)
    outputs, inputs = mask.nonzero().T
    weights = torch.randn(len(outputs), dtype=torch.float64, generator=generator)
    return SCORES[state.score](WeightedLinks(outputs, inputs, weights, None, shape)).sort().values


def _removal_chances(scores: Tensor, temperature: float, num_removed: int, noise: Tensor) -> Tensor:
    """For each link, the share of the draws that remove it. Each row of `noise` determines one draw."""
    last = (temperature * scores.log() + noise).topk(num_removed, largest=False, sorted=False).indices
    return torch.bincount(last.flatten(), minlength=len(scores)) / len(noise)


def _entropy(scores: Tensor, temperature: float) -> float:
    """Entropy in bits of one draw with p ∝ score^T."""
    log_chances = (temperature * scores.log()).log_softmax(0)
    return float(-(log_chances.exp() * log_chances).sum()) / math.log(2)


def _describe(state: SoftSamplingState, removed: Tensor, entropy: float, orders: float) -> str:
    links, num_removed = len(removed), int(removed.sum())
    highest = math.log2(links)
    differ = num_removed - int(removed[:num_removed].sum())
    ratio = f"{10**orders:,.0f}" if orders < 6 else f"10^{orders:.0f}"
    sentence = (
        f"Softness δ = {state.softness:.2f}, T = {temperature_from_softness(state.softness):.2f}: the first survivor "
        f"of {links} links is drawn with an entropy of {entropy:.2f} bits, which is {entropy / highest:.0%} of the "
        f"{highest:.2f} bits that equal chances would have. The strongest link is {ratio} times as likely to be "
        "drawn as the weakest."
    )
    if num_removed == 0:
        return (
            f"{sentence} A share ζ = {state.zeta:.2f} of so few links is less than half a link, so no link is removed."
        )
    return (
        f"{sentence} Of the {num_removed} links removed here, {differ} are not among the {num_removed} weakest, which "
        "the hard rule would remove."
    )
