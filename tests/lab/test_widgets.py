import base64
import html
import re
from collections.abc import Iterator
from typing import Any

import ipywidgets
import pytest
import torch

import chts_core as chts
from chts_core.lab import figures, widgets
from chts_core.lab.widgets import ReceptiveFieldExplorer, ReceptiveFieldResult, ReceptiveFieldState

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
    "ToggleButtons",
    "VBox",
}


@pytest.fixture
def explorer() -> ReceptiveFieldExplorer:
    return ReceptiveFieldExplorer()


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
    match = re.fullmatch(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)"><p>(.*)</p>', markup, re.DOTALL)
    assert match, markup[:200]
    return base64.b64decode(match[1]), html.unescape(match[2]), html.unescape(match[3])


CHANGES = {
    "r": (0.75, "r = 0.75"),
    "sparsity": (0.95, "sparsity 0.95"),
    "degree": ("uniform", "links per output"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_moving_a_control_changes_state_description_and_picture(explorer: ReceptiveFieldExplorer, name: str) -> None:
    value, expected = CHANGES[name]
    before = parts(explorer.picture.value)
    explorer.controls[name].value = value
    after = parts(explorer.picture.value)
    assert getattr(explorer.state, name) == value
    assert {other: getattr(explorer.state, other) for other in CHANGES if other != name} == {
        other: getattr(ReceptiveFieldState(), other) for other in CHANGES if other != name
    }
    assert expected in after[2]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert explorer.picture.value == ReceptiveFieldExplorer.render(explorer.state)


def test_controls_begin_at_the_state_given() -> None:
    state = ReceptiveFieldState(r=0.5, sparsity=0.8, degree="uniform", out_features=10, in_features=20, seed=3)
    explorer = ReceptiveFieldExplorer(state)
    assert {name: control.value for name, control in explorer.controls.items()} == {
        "r": 0.5,
        "sparsity": 0.8,
        "degree": "uniform",
    }
    explorer.r.value = 0.25
    # What has no control stays as it was given.
    assert explorer.state == ReceptiveFieldState(0.25, 0.8, "uniform", 10, 20, 3)


def test_a_state_out_of_reach_of_the_controls_is_refused_or_shown_as_it_is() -> None:
    try:
        explorer = ReceptiveFieldExplorer(ReceptiveFieldState(sparsity=0.2))
    except ValueError:
        return
    assert explorer.sparsity.value == explorer.state.sparsity


@pytest.mark.parametrize("degree", ["fixed", "uniform"])
def test_compute_is_pure_and_deterministic(degree: Any) -> None:
    state = ReceptiveFieldState(degree=degree)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = ReceptiveFieldExplorer.compute(state)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = ReceptiveFieldExplorer.compute(state)
    assert torch.equal(first.mask, again.mask)
    assert first.description == again.description
    assert state == ReceptiveFieldState(degree=degree)
    assert not torch.equal(first.mask, ReceptiveFieldExplorer.compute(ReceptiveFieldState(degree=degree, seed=1)).mask)


def test_the_description_counts_what_is_there() -> None:
    state = ReceptiveFieldState(r=0.4, sparsity=0.75, degree="uniform", out_features=12, in_features=20)
    mask, description = (result := ReceptiveFieldExplorer.compute(state)).mask, result.description
    expected = chts.topology.receptive_field(12, 20, 0.25, 0.4, "uniform", generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask, expected)
    outputs, inputs = mask.sum(dim=1), mask.sum(dim=0)
    assert description == (
        "BRF network of 20 inputs and 12 outputs with 60 links (sparsity 0.75, r = 0.40): "
        f"{outputs.min()} to {outputs.max()} links per output, {inputs.min()} to {inputs.max()} per input."
    )


def test_the_text_alternative_is_the_description() -> None:
    state = ReceptiveFieldState()
    picture, alternative, description = parts(ReceptiveFieldExplorer.render(state))
    assert picture.startswith(b"\x89PNG")
    assert alternative == description == ReceptiveFieldExplorer.compute(state).description
    assert "with 461 links" in description  # a tenth of 48 × 96


def test_descriptions_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = '"><script>alert("r & s")</script>'
    mask = torch.ones(2, 3, dtype=torch.bool)
    monkeypatch.setattr(ReceptiveFieldExplorer, "compute", staticmethod(lambda _: ReceptiveFieldResult(mask, hostile)))
    markup = ReceptiveFieldExplorer.render(ReceptiveFieldState())
    assert "<script" not in markup
    assert parts(markup)[1:] == (hostile, hostile)


def test_one_change_is_one_rendering(renders: list[bytes]) -> None:
    explorer = ReceptiveFieldExplorer()
    assert len(renders) == 1
    explorer.r.value = 0.5
    assert len(renders) == 2
    # An explorer without a kernel beside it would otherwise flicker: the same value again is no change.
    explorer.r.value = 0.5
    explorer.r.notify_change({"name": "value", "old": 0.5, "new": 0.5, "owner": explorer.r, "type": "change"})
    assert len(renders) == 2


def test_an_error_is_an_error(explorer: ReceptiveFieldExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ReceptiveFieldState) -> ReceptiveFieldResult:
        raise RuntimeError("from compute")

    monkeypatch.setattr(ReceptiveFieldExplorer, "compute", staticmethod(fail))
    with pytest.raises(RuntimeError, match="from compute"):
        explorer.r.value = 0.5
    with pytest.raises(RuntimeError, match="from compute"):
        ReceptiveFieldExplorer()


def test_the_view_is_made_of_what_both_generations_of_ipywidgets_have(explorer: ReceptiveFieldExplorer) -> None:
    kinds = {type(widget).__name__ for widget in tree(explorer.view)}
    assert kinds <= SHARED
    assert not any(isinstance(widget, ipywidgets.Output) for widget in tree(explorer.view))
    assert set(tree(explorer.view)) >= {*explorer.controls.values(), explorer.picture}


def test_every_control_has_a_name_to_be_found_by(explorer: ReceptiveFieldExplorer) -> None:
    classes = [name for widget in tree(explorer.view) for name in getattr(widget, "_dom_classes", ())]
    assert sorted(classes) == sorted(f"chts-receptive-field-{name}" for name in ("r", "sparsity", "degree", "picture"))
    assert all(control.description for control in explorer.controls.values())


def test_extremes_of_the_controls_can_be_drawn(explorer: ReceptiveFieldExplorer) -> None:
    for name in ("r", "sparsity"):
        for value in (explorer.controls[name].min, explorer.controls[name].max):
            explorer.controls[name].value = value
            assert getattr(explorer.state, name) == value
            assert f"{value:.2f}" in parts(explorer.picture.value)[2]


def test_showing_an_explorer_shows_its_view(explorer: ReceptiveFieldExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    explorer._ipython_display_()
    assert shown == [explorer.view]


def test_the_static_picture_is_the_first_state_of_the_explorer(explorer: ReceptiveFieldExplorer) -> None:
    assert (
        widgets.figures.to_png(ReceptiveFieldExplorer.figure(ReceptiveFieldState())) == parts(explorer.picture.value)[0]
    )
