"""Recordings of widgets: on a page without a kernel, HTML controls choose among pictures that were drawn in advance."""

import base64
import hashlib
import html
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from chts_core.lab import figures
from chts_core.lab.data.cache import cached
from chts_core.lab.results import records
from chts_core.lab.widgets.explorer import Explorer

_PACKAGE = Path(__file__).parents[2]
_SCRIPT = Path(__file__).with_name("recording.js")
_LIBRARIES = ("matplotlib", "pillow", "torch")
_HIGHEST = 16_383  # pixels; the largest height of a WebP picture
_COLOURS = 256
_STYLE = """
.chts-recording { border: 1px solid #999; border-radius: .5rem; padding: .5rem 1rem; margin: 1rem 0; }
.chts-recording .controls { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: center; }
.chts-recording label { display: inline-flex; align-items: center; gap: .5rem; }
.chts-recording select { max-width: 18rem; font: inherit; }
.chts-recording .frame { position: relative; overflow: hidden; width: 100%; margin: .5rem 0; }
.chts-recording .frame img { position: absolute; top: 0; left: 0; width: 100%; max-width: none; margin: 0; }
"""


def recording(explorer: type[Explorer[Any, Any]]) -> str:
    """A widget as HTML that works without a kernel and offline, with a control for each field in `explorer.recorded`.

    The cache keeps the recording until the package, the recorded runs or a drawing library changes.
    """
    return cached(
        f"{explorer.name}-{_digest()}.html", read=str, make=lambda: _record(explorer), write=lambda recorded: recorded
    )


def _digest() -> str:
    """A digest of everything that a recording depends on."""
    digest = hashlib.sha256(" ".join(metadata.version(library) for library in _LIBRARIES).encode())
    sources = (path for kind in ("*.py", "*.js") for path in sorted(_PACKAGE.rglob(kind)))
    for path in (*sources, *sorted(records.results_folder().glob("*.jsonl"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _record(explorer: type[Explorer[Any, Any]]) -> str:
    first = explorer()
    fields, values = list(explorer.recorded), list(explorer.recorded.values())
    pictures, sentences = [], []
    for combination in itertools.product(*values):
        state = replace(first.state, **dict(zip(fields, combination, strict=True)))
        result = explorer.compute(state)
        pictures.append(Image.open(io.BytesIO(figures.to_png(explorer.draw(state, result)))).convert("RGB"))
        sentences.append(result.description)
    labels = [_labels(first.controls[field], recorded) for field, recorded in explorer.recorded.items()]
    at_first = [recorded.index(getattr(first.state, field)) for field, recorded in explorer.recorded.items()]
    shown = list(itertools.product(*map(range, map(len, values)))).index(tuple(at_first))
    controls = "".join(
        _control(first.controls[field], names, index, plays=field == explorer.played)
        for field, names, index in zip(fields, labels, at_first, strict=True)
    )
    data = json.dumps({"labels": labels, "sentences": sentences}).replace("<", "\\u003c")
    width, height = pictures[0].size
    return (
        f'<div class="chts-recording" data-widget="{explorer.name}"><style>{_STYLE}</style>'
        f"<p><small>This is a recording of {len(pictures)} states of the widget. It shows its own small example, "
        "not the runs of this page. In a running notebook, you can choose any state.</small></p>"
        f'<div class="controls">{controls}</div>'
        f'<div class="frame" style="max-width: {width}px; aspect-ratio: {width} / {height}">'
        f"{_sheets(pictures, shown, html.escape(sentences[shown]))}</div>"
        f'<p class="sentence" aria-live="polite">{html.escape(sentences[shown])}</p>'
        f'<script type="application/json">{data}</script><script>{_SCRIPT.read_text("utf-8")}</script></div>'
    )


def _labels(control: Any, values: Sequence[Any]) -> list[str]:
    """The label of each recorded value of a control."""
    if not hasattr(control, "options"):
        return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    texts = {option[1]: option[0] for option in control.options if isinstance(option, tuple)}
    return [texts.get(value, str(value)) for value in values]


def _control(control: Any, labels: Sequence[str], index: int, *, plays: bool) -> str:
    """A slider if the values are numbers, and otherwise a menu. `plays` adds a button that moves the slider."""
    name = html.escape(control.description)
    if hasattr(control, "min"):
        chosen = html.escape(labels[index])
        moved = (
            f'<input type="range" min="0" max="{len(labels) - 1}" value="{index}" aria-valuetext="{chosen}">'
            f"<output>{chosen}</output>"
        )
    else:
        options = (
            f"<option{' selected' if place == index else ''}>{html.escape(label)}</option>"
            for place, label in enumerate(labels)
        )
        moved = f"<select>{''.join(options)}</select>"
    button = '<button type="button">Play</button>' if plays else ""
    return f"<span><label>{name} {moved}</label> {button}</span>"


def _sheets(pictures: Sequence[Image.Image], shown: int, alternative: str) -> str:
    """The pictures, one below the other, in as few WebP images as possible. Only picture number `shown` is visible.

    Neighbouring pictures are nearly equal, so a picture needs only a few kilobytes in such an image.
    """
    width, height = pictures[0].size
    images = []
    for start in range(0, len(pictures), _HIGHEST // height):
        frames = pictures[start : start + _HIGHEST // height]
        sheet = Image.new("RGB", (width, height * len(frames)))
        for number, frame in enumerate(frames):
            sheet.paste(frame, (0, number * height))
        file = io.BytesIO()
        sheet.quantize(_COLOURS, dither=Image.Dither.NONE).convert("RGB").save(file, "WEBP", lossless=True)
        source = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        row = shown - start
        look = f'style="transform: translateY(-{100 * row / len(frames)}%)"' if 0 <= row < len(frames) else "hidden"
        images.append(f'<img src="{source}" alt="{alternative}" data-frames="{len(frames)}" {look}>')
    return "".join(images)
