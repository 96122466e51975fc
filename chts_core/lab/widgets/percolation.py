"""Remove links from a small network, and see which neurons become inactive during percolation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.lab import figures
from chts_core.lab.figures.percolation import dead_ends
from chts_core.lab.widgets.explorer import Explorer, menu, slider, whole_slider
from chts_core.removal import magnitude, relative_importance
from chts_core.sampling import keep
from chts_core.topology import erdos_renyi

_SCORES = {"magnitude": magnitude, "relative importance": relative_importance}
_STEPS = ("0: at the start", "1: links removed", "2: swept backward", "3: swept forward")


@dataclass(frozen=True)
class PercolationState:
    """What the percolation sandbox shows.

    step: 0 for the network at the start, 1 after the removal, 2 after the backward sweep, 3 after the forward sweep.
    """

    sparsity: float = 0.65
    removed: float = 0.3
    score: Literal["magnitude", "relative importance"] = "magnitude"
    step: int = 1
    seed: int = 0
    sizes: tuple[int, ...] = (10, 8, 8, 4)


@dataclass(frozen=True)
class PercolationResult:
    """A network at one step of an update, and a text that describes it.

    present: for each layer, the present links, Boolean (out_features, in_features).
    removed, cut: for each layer, the links that the removal rule removed, and the links that percolation has cut so
        far.
    """

    present: list[Tensor]
    removed: list[Tensor]
    cut: list[Tensor]
    description: str


class PercolationSandbox(Explorer[PercolationState, PercolationResult]):
    """Remove links from a small network, and see which neurons become inactive during percolation."""

    name = "percolation"
    State = PercolationState
    recorded: ClassVar = {
        "score": tuple(_SCORES),
        "removed": (0.1, 0.3, 0.5, 0.7),
        "step": range(len(_STEPS)),
    }

    @staticmethod
    def compute(state: PercolationState) -> PercolationResult:
        """Compute the network at the state's step of the update."""
        generator = torch.Generator().manual_seed(state.seed)
        first, weights = [], []
        for in_features, out_features in pairwise(state.sizes):
            mask = erdos_renyi(out_features, in_features, 1 - state.sparsity, generator=generator)
            first.append(mask)
            weights.append(torch.randn(mask.shape, generator=generator) * mask)
        survivors = []
        for mask, weight in zip(first, weights, strict=True):
            links = int(mask.sum())
            num_keep = links - round(state.removed * links)
            survivors.append(keep(_SCORES[state.score](weight), mask, num_keep, soft=False, generator=generator))
        swept = _sweep_backward(survivors)
        steps = (first, survivors, swept, _sweep_forward(swept))
        present, left = steps[state.step], steps[min(state.step, 1)]
        removed = [before & ~after for before, after in zip(first, left, strict=True)]
        cut = [before & ~after for before, after in zip(left, present, strict=True)]
        return PercolationResult(present, removed, cut, _describe(state, first, present, removed, cut))

    @staticmethod
    def draw(state: PercolationState, result: PercolationResult) -> Figure:
        """Draw the network as nodes and links."""
        hidden = [f"hidden {number}" for number in range(1, len(state.sizes) - 1)]
        return figures.percolating_network(
            result.present, ["inputs", *hidden, "outputs"], removed=result.removed, cut=result.cut
        )

    def make_controls(self, state: PercolationState) -> dict[str, Any]:
        """Sliders for the sparsity, the removed share and the seed, and menus for the score and the step."""
        return {
            "sparsity": slider("sparsity", state.sparsity, 0.3, 0.95, 0.05),
            "removed": slider("share removed ζ", state.removed, 0, 0.9, 0.1),
            "score": menu("removal score", state.score, list(_SCORES)),
            "step": menu("step", state.step, [(text, step) for step, text in enumerate(_STEPS)]),
            "seed": whole_slider("network", state.seed, 0, 20),
        }


def _sweep_backward(masks: Sequence[Tensor]) -> list[Tensor]:
    """Drop the incoming links of hidden neurons without outgoing links, from the last layer to the first."""
    swept = [masks[-1]]
    for mask in reversed(masks[:-1]):
        swept.insert(0, mask & swept[0].any(dim=0)[:, None])
    return swept


def _sweep_forward(masks: Sequence[Tensor]) -> list[Tensor]:
    """Drop the outgoing links of hidden neurons without incoming links, from the first layer to the last."""
    swept = [masks[0]]
    for mask in masks[1:]:
        swept.append(mask & swept[-1].any(dim=1))
    return swept


def _describe(
    state: PercolationState,
    first: Sequence[Tensor],
    present: Sequence[Tensor],
    removed: Sequence[Tensor],
    cut: Sequence[Tensor],
) -> str:
    inactive, incomplete = dead_ends(present)
    after, before = (dead_ends(_sweep_forward(_sweep_backward(masks)))[0] for masks in (present, first))
    per_layer = ", ".join(
        f"{int(neurons.sum())} of {len(neurons)} in hidden layer {number}"
        for number, neurons in enumerate(inactive[1:-1], start=1)
    )
    active, active_before = (sum(int((~neurons).sum()) for neurons in sides[1:-1]) for sides in (after, before))
    anp = (
        f"When percolation has cut all incomplete links, ANP is {active} / {active_before} = "
        f"{active / active_before:.2f}"
        if active_before
        else "No neuron was active at the start"
    )
    return (
        f"Step {_STEPS[state.step]}. The initial sparsity is {state.sparsity:.2f}. Of {_count(first)} links, the "
        f"removal by {state.score} cut {_count(removed)}, percolation cut {_count(cut)}, and {_count(present)} are "
        f"left ({_count(incomplete)} incomplete). Inactive neurons: {per_layer}. {anp}."
    )


def _count(masks: Sequence[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)
