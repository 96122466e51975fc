"""Recordings of widgets as HTML; tests/browser/test_site.py moves them in a browser."""

import base64
import io
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

from chts_core.lab import figures
from chts_core.lab.figures.style import new_figure
from chts_core.lab.notebook.notebook_page import record_widgets
from chts_core.lab.notebook.notebooks import WIDGET_VIEW
from chts_core.lab.widgets import EXPLORERS, Explorer, recording
from chts_core.lab.widgets.explorer import menu, whole_slider

HOSTILE = '</script><b>"&'


@dataclass(frozen=True)
class State:
    number: int = 2
    word: str = "b"
    unseen: int = 5


@dataclass(frozen=True)
class Described:
    description: str


class Bars(Explorer[State, Described]):
    name = "bars"
    State = State
    recorded: ClassVar = {"word": ("a", "b"), "number": (1, 2, 3)}
    played = "number"
    computed = 0

    @staticmethod
    def compute(state: State) -> Described:
        Bars.computed += 1
        return Described(f"{state.word} {state.number} {state.unseen} {HOSTILE}")

    @staticmethod
    def draw(state: State, result: Described) -> Figure:  # noqa: ARG004
        with new_figure(2, 1) as (figure, (axes,)):
            axes.bar(["a", "b"], [state.number * (state.word == word) for word in "ab"])
            axes.set_ylim(0, 3)
        return figure

    def make_controls(self, state: State) -> dict[str, Any]:
        words = [(f"{HOSTILE} {word}", word) for word in "abc"]
        return {"number": whole_slider("number", state.number, 1, 9), "word": menu(HOSTILE, state.word, words)}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHTS_CACHE", str(tmp_path))


def sheets(page: str) -> list[tuple[Image.Image, int]]:
    """The pictures of a recording, and how many states each holds."""
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"[^>]*data-frames="(\d+)"', page)
    return [
        (Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), int(frames)) for picture, frames in found
    ]


@pytest.mark.parametrize("highest", [16_383, 200])
def test_every_combination_has_its_sentence_and_its_picture(highest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_HIGHEST", highest)  # all six on one sheet, or two on each of three
    page = recording.recording(Bars)
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    data = json.loads(text)
    assert data["labels"] == [[f"{HOSTILE} a", f"{HOSTILE} b"], ["1", "2", "3"]]
    assert data["sentences"] == [f"{word} {number} 5 {HOSTILE}" for word in "ab" for number in (1, 2, 3)]
    found = sheets(page)
    assert [frames for _, frames in found] == ([6] if highest > 200 else [2, 2, 2])
    rows = [sheet.crop((0, 100 * row, 200, 100 * (row + 1))) for sheet, frames in found for row in range(frames)]
    for row, (word, number) in zip(rows, [(word, number) for word in "ab" for number in (1, 2, 3)], strict=True):
        drawn = Image.open(io.BytesIO(figures.to_png(Bars.figure(State(number, word))))).convert("RGB")
        # Up to the choice of 256 colours for all of them.
        assert max(abs(ours - theirs) for ours, theirs in zip(row.tobytes(), drawn.tobytes(), strict=True)) <= 24


def test_without_a_script_it_shows_the_first_state() -> None:
    page = recording.recording(Bars)
    before_scripts = page[: page.index("<script")]
    assert "translateY(-66.66" in before_scripts  # the fifth of six: word b, number 2
    assert '<p class="sentence" aria-live="polite">b 2 5 &lt;/script&gt;&lt;b&gt;&quot;&amp;</p>' in before_scripts
    assert 'max="2" value="1" aria-valuetext="2"' in before_scripts
    assert before_scripts.count(" selected>") == 1
    assert "<b>" not in page


def test_only_the_control_that_is_played_has_a_button() -> None:
    assert recording.recording(Bars).count("<button") == 1


def test_a_recording_is_made_once_until_the_package_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = recording.recording(Bars)
    computed = Bars.computed
    assert recording.recording(Bars) == first
    assert Bars.computed == computed
    monkeypatch.setattr(recording, "_LIBRARIES", ("matplotlib",))
    recording.recording(Bars)
    assert Bars.computed > computed


@pytest.mark.parametrize("name", [name for name in EXPLORERS if name != "translation"])  # which trains for seconds
def test_recorded_values_are_among_those_of_the_controls_and_hold_the_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Explorer, "_redraw", lambda _: None)  # no picture is looked at
    explorer = EXPLORERS[name]()
    assert set(explorer.recorded) <= {field.name for field in fields(explorer.state)}
    for field, recorded in explorer.recorded.items():
        assert getattr(explorer.state, field) in recorded
        for value in recorded:
            explorer.controls[field].set_trait("value", value)  # refuses what is no option
            assert explorer.controls[field].value == value  # a slider keeps to its range
    assert explorer.played in {"", *explorer.recorded}


def test_a_page_has_the_recording_instead_of_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chts_core.lab.notebook.notebook_page._BY_CLASS", {"Bars": Bars})
    view = {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "Bars()"}
    ours = new_code_cell("bars = widgets.Bars()\nbars", outputs=[new_output("display_data", data=dict(view))])
    other = new_code_cell("ipywidgets.Text()", outputs=[new_output("display_data", data=dict(view))])
    for cell in (ours, other):
        record_widgets(cell)
    assert ours.outputs[0].data["text/html"] == recording.recording(Bars)
    assert WIDGET_VIEW not in ours.outputs[0].data
    assert other.outputs[0].data == view
