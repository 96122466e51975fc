"""Widgets: a pure `compute` from state to result, a `render` to HTML, and controls that connect the two.

They use only what ipywidgets 7.7 and 8 share. A picture is an <img> in an HTML widget, so that it has a text
alternative and that an error in a callback is an error, not a line in a hidden output area.
"""

import base64
import html
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.diagnostics import degrees
from chts_core.lab import figures
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
    """A network and the sentence that describes it."""

    mask: Tensor
    description: str


class ReceptiveFieldExplorer:
    """Move r, the sparsity and the degree rule of a BRF network and see its mask and degrees."""

    def __init__(self, state: ReceptiveFieldState | None = None) -> None:
        self.state = state or ReceptiveFieldState()
        wide = {"style": {"description_width": "6em"}, "layout": ipywidgets.Layout(width="26em")}
        self.r = ipywidgets.FloatSlider(
            value=self.state.r, min=0, max=1, step=0.05, description="r", continuous_update=False, **wide
        )
        self.sparsity = ipywidgets.FloatSlider(
            value=self.state.sparsity,
            min=min(0.5, self.state.sparsity),
            max=max(0.99, self.state.sparsity),
            step=0.01,
            description="sparsity",
            continuous_update=False,
            **wide,
        )
        self.degree = ipywidgets.Dropdown(
            value=self.state.degree, options=["fixed", "uniform"], description="degrees", **wide
        )
        self.picture = ipywidgets.HTML()
        self.controls: dict[str, Any] = {"r": self.r, "sparsity": self.sparsity, "degree": self.degree}
        for name, control in self.controls.items():
            control.add_class(f"chts-receptive-field-{name}")
            control.observe(self._changed, names="value")
        self.picture.add_class("chts-receptive-field-picture")
        self.view = ipywidgets.VBox([*self.controls.values(), self.picture])
        self._redraw()

    @staticmethod
    def compute(state: ReceptiveFieldState) -> ReceptiveFieldResult:
        """The network of a state: the same state gives the same network."""
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
            f"BRF network of {state.in_features} inputs and {state.out_features} outputs with {int(mask.sum())} links "
            f"(sparsity {state.sparsity:.2f}, r = {state.r:.2f}): {int(outputs.min())} to {int(outputs.max())} links "
            f"per output, {int(inputs.min())} to {int(inputs.max())} per input."
        )
        return ReceptiveFieldResult(mask, description)

    @classmethod
    def figure(cls, state: ReceptiveFieldState) -> Figure:
        """The picture of a state, also for pages without a running kernel."""
        return figures.mask_and_degrees(cls.compute(state).mask, f"r = {state.r:.2f}, sparsity {state.sparsity:.2f}")

    @classmethod
    def render(cls, state: ReceptiveFieldState) -> str:
        """The picture of a state and its description, as HTML."""
        picture = base64.b64encode(figures.to_png(cls.figure(state))).decode()
        description = html.escape(cls.compute(state).description)
        return f'<img src="data:image/png;base64,{picture}" alt="{description}"><p>{description}</p>'

    def _changed(self, _: object) -> None:
        values = {name: control.value for name, control in self.controls.items()}
        if values != {name: asdict(self.state)[name] for name in values}:
            self.state = replace(self.state, **values)
            self._redraw()

    def _redraw(self) -> None:
        self.picture.value = self.render(self.state)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)
