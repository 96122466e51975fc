"""What holds for every widget; what one shows is tested in a file of its own."""

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import ipywidgets
import pytest
import torch
from matplotlib.figure import Figure

from chts_core.lab import figures
from chts_core.lab.train import translation
from chts_core.lab.widgets import EXPLORERS, Explorer, TranslationState, method_mixer
from chts_core.lab.widgets.explorer import menu, slider, text, whole_slider
from chts_core.lab.widgets.translator import example_translator

# Those of ipywidgets 7.7 that also exist in 8; Output is not among them, since errors hide in it.
SHARED = {
    "BoundedFloatText",
    "BoundedIntText",
    "Button",
    "Checkbox",
    "Dropdown",
    "FloatLogSlider",
    "FloatSlider",
    "HBox",
    "HTML",
    "HTMLMath",
    "IntSlider",
    "Label",
    "Play",
    "RadioButtons",
    "Select",
    "SelectionSlider",
    "Tab",
    "Text",
    "ToggleButtons",
    "VBox",
}
CONTROLS = {
    "receptive-field": ("r", "sparsity", "degree"),
    "link-prediction": ("link", "predictor", "path"),
    "method-mixer": ("topology", "removal", "regrowth", "sparsity", "turnover", "rival"),
    "topology-player": ("update", "layer", "view"),
    "density": ("schedule", "k", "initial", "final", "start", "end", "stop"),
    "soft-sampling": ("softness", "zeta", "sparsity", "score"),
    "percolation": ("sparsity", "removed", "score", "step", "seed"),
    "translation": ("sentence", "beam", "attention", "head"),
    "curves": ("comparison", "sparsity", "method", "rival"),
}
MOVES = [(name, field) for name, controls in CONTROLS.items() for field in controls]


@cache
def first_state(name: str) -> Any:
    """Where an explorer begins; the translator is trained for a moment, not for seconds."""
    if name != "translation":
        return EXPLORERS[name].State()
    brief = replace(translation.RECIPES["number_words_ci"], steps=20, warmup=10)
    with patch.dict(translation.RECIPES, number_words_short=brief):
        return TranslationState(translator=example_translator.__wrapped__())


def begin(name: str) -> Any:
    return EXPLORERS[name](first_state(name))


@cache
def unmoved(name: str) -> Any:
    """An explorer for tests that leave it as it is."""
    return begin(name)


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Iterator[None]:
    """The method mixer trains for four epochs instead of eight."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(method_mixer, "_RECIPE", replace(method_mixer._RECIPE, epochs=4))
        monkeypatch.setattr(method_mixer, "_trained", cache(method_mixer._trained.__wrapped__))
        yield


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pictures rendered from here on."""
    pictures: list[bytes] = []
    to_png = figures.to_png

    def counting(figure: Any) -> bytes:
        pictures.append(to_png(figure))
        return pictures[-1]

    monkeypatch.setattr(figures, "to_png", counting)
    return pictures


def tree(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def parts(markup: str) -> tuple[bytes, str, str]:
    """Picture, text alternative and description of what a widget shows."""
    pattern = r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)" style="max-width: 100%"><p>(.*)</p>'
    match = re.fullmatch(pattern, markup, re.DOTALL)
    assert match, markup[:200]
    return base64.b64decode(match[1]), html.unescape(match[2]), html.unescape(match[3])


def values(control: Any) -> list[Any]:
    """The values that a control can take, its present one last; of a slider the ends and one step on.

    Of a text no words, the first, and all but the last.
    """
    if hasattr(control, "options"):
        found = [option[1] if isinstance(option, tuple) else option for option in control.options]
    elif hasattr(control, "min"):
        found = [control.min, control.max, control.value + control.step]
    elif isinstance(control.value, str):
        found = ["", control.value.split()[0], control.value.rpartition(" ")[0]]
    else:
        found = [False, True]
    return [*(value for value in found if value != control.value), control.value]


# --- every widget ---


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.full)], ids=["ends", "all"])
@pytest.mark.parametrize(("name", "field"), MOVES)
def test_moving_a_control_changes_state_sentence_and_picture(name: str, field: str, every: bool) -> None:
    explorer = begin(name)
    others = {other: control.value for other, control in explorer.controls.items() if other != field}
    seen = [parts(explorer.picture.value)]
    places = values(explorer.controls[field])[:-1]
    for value in places if every or len(places) < 3 else (places[0], places[-1]):
        explorer.controls[field].value = value
        value = explorer.controls[field].value  # a slider keeps to its range
        assert getattr(explorer.state, field) == value
        assert {other: getattr(explorer.state, other) for other in others} == others
        seen.append(parts(explorer.picture.value))
    assert explorer.picture.value == explorer.render(explorer.state)
    pictures, alternatives, sentences = (set(column) for column in zip(*seen, strict=True))
    assert len(pictures) > 1
    assert len(sentences) > 1
    assert alternatives == sentences


@pytest.mark.parametrize("name", EXPLORERS)
def test_compute_is_pure_and_deterministic(name: str) -> None:
    explorer = EXPLORERS[name]
    state = first_state(name)
    before_all = {field.name: getattr(state, field.name) for field in fields(state)}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = explorer.compute(state)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = explorer.compute(state)
    assert first.description == again.description
    assert figures.to_png(explorer.draw(state, first)) == figures.to_png(explorer.draw(state, again))
    assert {field.name: getattr(state, field.name) for field in fields(state)} == before_all


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_description_is_a_sentence_with_numbers(name: str) -> None:
    description = EXPLORERS[name].compute(first_state(name)).description
    assert description.endswith(".")
    assert re.search(r"\d", description)
    assert 8 <= len(description.split()) <= 90


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_static_picture_is_the_first_state(name: str) -> None:
    explorer = EXPLORERS[name]
    figure = explorer.figure(first_state(name))
    # A drawing has no axes, and a colour bar has one.
    plots = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in plots)
    assert figures.to_png(figure) == parts(unmoved(name).picture.value)[0]


@pytest.mark.parametrize("name", EXPLORERS)
def test_one_change_is_one_rendering(name: str, renders: list[bytes]) -> None:
    explorer = begin(name)
    assert len(renders) == 1
    field, control = next(iter(explorer.controls.items()))
    control.value = values(control)[0]
    assert len(renders) == 2
    # An explorer without a kernel beside it would otherwise flicker: the same value again is no change.
    control.notify_change({"name": "value", "old": None, "new": control.value, "owner": control, "type": "change"})
    assert len(renders) == 2
    assert getattr(explorer.state, field) == control.value


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_view_is_made_of_what_both_generations_of_ipywidgets_have(name: str) -> None:
    explorer = unmoved(name)
    widgets = set(tree(explorer.view))
    assert {type(widget).__name__ for widget in widgets} <= SHARED
    assert widgets >= {*explorer.controls.values(), explorer.picture}


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_is_labelled_and_has_a_name_to_be_found_by(name: str) -> None:
    explorer = unmoved(name)
    assert re.fullmatch("[a-z-]+", name)
    assert tuple(explorer.controls) == CONTROLS[name]
    for field, control in explorer.controls.items():
        assert f"chts-{name}-{field}" in control._dom_classes
        assert control.description
    assert len({control.description for control in explorer.controls.values()}) == len(explorer.controls)
    assert f"chts-{name}-picture" in explorer.picture._dom_classes


@pytest.mark.parametrize("name", EXPLORERS)
def test_showing_an_explorer_shows_its_view(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    explorer = unmoved(name)
    explorer._ipython_display_()
    assert shown == [explorer.view]


# --- what they share, on one made up here ---


@dataclass(frozen=True)
class Number:
    number: int = 1
    unseen: int = 5


@dataclass(frozen=True)
class Described:
    description: str


class Counter(Explorer[Number, Described]):
    name = "counter"
    State = Number

    @staticmethod
    def compute(state: Number) -> Described:
        if state.number == 13:
            raise RuntimeError("from compute")
        return Described(f'"><script>alert("r & s")</script> {state.number}')

    @staticmethod
    def draw(state: Number, result: Described) -> Figure:
        return figures.masks({result.description[-1]: torch.ones(state.number, state.unseen, dtype=torch.bool)})

    def make_controls(self, state: Number) -> dict[str, Any]:
        return {"number": whole_slider("number", state.number, 1, 20)}


def test_a_state_is_where_the_controls_begin_and_what_has_none_stays() -> None:
    counter = Counter(Number(3, unseen=7))
    assert counter.controls["number"].value == 3
    counter.controls["number"].value = 4
    assert counter.state == Number(4, unseen=7)


def test_descriptions_are_escaped() -> None:
    markup = Counter.render(Number())
    assert "<script" not in markup
    assert parts(markup)[1:] == ('"><script>alert("r & s")</script> 1',) * 2


def test_an_error_is_an_error() -> None:
    counter = Counter()
    with pytest.raises(RuntimeError, match="from compute"):
        counter.controls["number"].value = 13
    with pytest.raises(RuntimeError, match="from compute"):
        Counter(Number(13))


def test_controls_hold_the_value_that_they_begin_at() -> None:
    for made in (slider("x", 0.2, 0.5, 0.9, 0.1), slider("x", 0.95, 0.5, 0.9, 0.1), whole_slider("x", 30, 1, 20)):
        assert made.min <= made.value <= made.max
    assert (slider("x", 0.2, 0.5, 0.9, 0.1).value, whole_slider("x", 30, 1, 20).value) == (0.2, 30)
    chosen = menu("x", 2, [("one", 1), ("two", 2)])
    assert (chosen.value, chosen.label) == (2, "two")
    assert isinstance(chosen, ipywidgets.Dropdown)


def test_a_text_is_taken_as_a_whole() -> None:
    made = text("words", "one two")
    assert (made.value, made.description) == ("one two", "words")
    assert isinstance(made, ipywidgets.Text)
    assert not made.continuous_update  # not a redraw for every letter
