"""The base class of all widgets.

A widget has a state, a function `compute`, a picture with a description, and controls for the state. The widgets use
only features that ipywidgets 7.7 and 8 both have. A picture is an <img> in an HTML widget, not in an output area. So
the picture has a text alternative. An error in a callback is raised; an output area could hide it.
"""

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import ipywidgets
from matplotlib.figure import Figure

from chts_core.lab import figures

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LABEL, _WIDTH = "10em", "32em"
_FIT = 'style="max-width: 100%"'


class Result(Protocol):
    """The result of `compute`: the data for the picture, and a text that describes the picture."""

    @property
    def description(self) -> str:
        """A description of the picture in one or more sentences."""


StateT = TypeVar("StateT", bound="DataclassInstance")
ResultT = TypeVar("ResultT", bound=Result)


class Explorer(ABC, Generic[StateT, ResultT]):
    """A widget: controls above a picture, and a text that describes the picture.

    A subclass defines `name`, `State` (a frozen dataclass), `recorded`, `compute`, `draw` and `make_controls`. In the
    browser, the controls have the CSS classes `chts-NAME-FIELD`, and the picture has the class `chts-NAME-picture`.

    Attributes:
        recorded: for some fields, the values that a page without a kernel offers (see recording.py); all other fields
            keep their first values.
        played: the field that a Play button changes; "" if there is no Play button.

    Args:
        state: the first state; by default, the default values of `State`.
    """

    name: ClassVar[str]
    State: ClassVar[type[Any]]
    recorded: ClassVar[Mapping[str, Sequence[Any]]]
    played: ClassVar[str] = ""

    def __init__(self, state: StateT | None = None) -> None:
        self.state: StateT = self.State() if state is None else state
        self.controls = self.make_controls(self.state)
        self.picture = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))  # no wider than the page
        for field, control in self.controls.items():
            control.add_class(f"chts-{self.name}-{field}")
            control.observe(self._changed, names="value")
        self.picture.add_class(f"chts-{self.name}-picture")
        self.view = self.arrange()
        self._redraw()

    @staticmethod
    @abstractmethod
    def compute(state: Any) -> Any:
        """Compute the result of a state; the same state always gives the same result."""

    @staticmethod
    @abstractmethod
    def draw(state: Any, result: Any) -> Figure:
        """Draw the picture of a result."""

    @abstractmethod
    def make_controls(self, state: StateT) -> dict[str, Any]:
        """Make a control for each field of the state that the reader can change; each key is the name of a field."""

    def arrange(self) -> Any:
        """Arrange the controls and the picture in the widget."""
        return ipywidgets.VBox([*self.controls.values(), self.picture])

    @classmethod
    def figure(cls, state: StateT) -> Figure:
        """The picture of a state, also for pages without a running kernel."""
        return cls.draw(state, cls.compute(state))

    @classmethod
    def render(cls, state: StateT) -> str:
        """The picture of a state and its description, as HTML."""
        result = cls.compute(state)
        picture = base64.b64encode(figures.to_png(cls.draw(state, result))).decode()
        description = html.escape(result.description)
        return f'<img src="data:image/png;base64,{picture}" alt="{description}" {_FIT}><p>{description}</p>'

    def _changed(self, _: object) -> None:
        values = {field: control.value for field, control in self.controls.items()}
        if any(getattr(self.state, field) != value for field, value in values.items()):
            self.state = replace(self.state, **values)
            self._redraw()

    def _redraw(self) -> None:
        self.picture.value = self.render(self.state)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)


def slider(label: str, value: float, low: float, high: float, step: float) -> Any:
    """A slider for real numbers; its range is extended if it does not contain the first value."""
    return ipywidgets.FloatSlider(
        value=value,
        min=min(low, value),
        max=max(high, value),
        step=step,
        description=label,
        continuous_update=False,  # redraw when the slider is released, not at every value that it passes
        **_look(),
    )


def whole_slider(label: str, value: int, low: int, high: int, step: int = 1) -> Any:
    """A slider for whole numbers; its range is extended if it does not contain the first value."""
    return ipywidgets.IntSlider(
        value=value,
        min=min(low, value),
        max=max(high, value),
        step=step,
        description=label,
        continuous_update=False,
        **_look(),
    )


def menu(label: str, value: Any, options: Sequence[Any]) -> Any:
    """A drop-down menu of values, or of (text, value) pairs."""
    return ipywidgets.Dropdown(value=value, options=list(options), description=label, **_look())


def text(label: str, value: str) -> Any:
    """An input line; the widget reads its text when the reader presses Enter or clicks somewhere else."""
    return ipywidgets.Text(value=value, description=label, continuous_update=False, **_look())


def _look() -> dict[str, Any]:
    return {"style": {"description_width": _LABEL}, "layout": ipywidgets.Layout(width=_WIDTH)}
