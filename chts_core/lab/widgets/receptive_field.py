"""Change the randomness r, the sparsity and the degree rule of a BRF network, and see its mask and degrees."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab import figures
from chts_core.lab.widgets.explorer import Explorer, menu, slider
from chts_core.topology import receptive_field


@dataclass(frozen=True)
class ReceptiveFieldState:
    """What the receptive field explorer shows."""

    r: float = 0.25
    sparsity: float = 0.9
    degree: Literal["fixed", "uniform"] = "fixed"
    out_features: int = 48
    in_features: int = 96
    seed: int = 0


@dataclass(frozen=True)
class ReceptiveFieldResult:
    """A network, and a text that describes it."""

    mask: Tensor
    description: str


class ReceptiveFieldExplorer(Explorer[ReceptiveFieldState, ReceptiveFieldResult]):
    """Change the randomness r, the sparsity and the degree rule of a BRF network, and see its mask and degrees."""

    name = "receptive-field"
    State = ReceptiveFieldState
    recorded: ClassVar = {
        "degree": ("fixed", "uniform"),
        "sparsity": (0.8, 0.9, 0.95, 0.98),
        "r": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0),
    }

    @staticmethod
    def compute(state: ReceptiveFieldState) -> ReceptiveFieldResult:
        """Compute the network of a state."""
        mask = receptive_field(
            state.out_features,
            state.in_features,
            1 - state.sparsity,
            state.r,
            state.degree,
            generator=torch.Generator().manual_seed(state.seed),
        )
        outputs, inputs = degrees(mask)
        description = (
            f"This BRF network of {state.in_features} inputs and {state.out_features} outputs has {int(mask.sum())} "
            f"links (sparsity {state.sparsity:.2f}, r = {state.r:.2f}). It has {int(outputs.min())} to "
            f"{int(outputs.max())} links per output, and {int(inputs.min())} to {int(inputs.max())} links per input."
        )
        return ReceptiveFieldResult(mask, description)

    @staticmethod
    def draw(state: ReceptiveFieldState, result: ReceptiveFieldResult) -> Figure:
        """Draw the mask beside its degrees."""
        return figures.mask_and_degrees(result.mask, f"r = {state.r:.2f}, sparsity {state.sparsity:.2f}")

    def make_controls(self, state: ReceptiveFieldState) -> dict[str, Any]:
        """Sliders for r and the sparsity, and a menu of degree rules."""
        return {
            "r": slider("r", state.r, 0, 1, 0.05),
            "sparsity": slider("sparsity", state.sparsity, 0.5, 0.99, 0.01),
            "degree": menu("degrees", state.degree, ["fixed", "uniform"]),
        }
