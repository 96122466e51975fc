"""Slides of an executed notebook, as one page for reveal.js that needs no internet connection.

If `notebooks/teaching/slides` has a deck for the stage, the page shows this deck. Otherwise the notebook is cut into
slides, and each section begins a new column of slides. A slide has a piece of text and, if the text is short, the code
or the figure that follows it. An answer appears when you go forward. The slides leave out hints, solutions, the code
that draws figures, and cells with versions, parameters, checks, widgets or records. They also leave out code, output
and tables that are too long for a slide.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.filters import Highlight2HTML
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from pygments.formatters import HtmlFormatter

from chts_core.lab.notebook import launch, notebooks
from chts_core.lab.notebook.exercises import FOLDED
from chts_core.lab.notebook.notebooks import WIDGET_VIEW
from chts_core.lab.notebook.pages import markdown_as_html
from chts_core.lab.results.records import RESULTS_TYPE
from chts_core.lab.teach.decks import read_deck, slide_as_html

_REVEAL = Path(__file__).with_name("reveal")  # reveal.js 6.0.2 as its authors publish it, with its licence
_LONGEST = 12  # lines; an audience cannot read longer code or printed text
_MANY_WORDS = 80  # words; a longer text has its own slide
_FEW_WORDS = 30  # words; a text of at most this length stays above a figure
_MOST_ROWS = 16  # rows of a table
_NOT_SHOWN = {"bootstrap", "parameters", "check"}
_OF_NOTEBOOKS = (WIDGET_VIEW, RESULTS_TYPE)
_PROGRESS = re.compile(r"\d%\|")  # a progress bar of tqdm
_LINKS = re.compile(r"\[?!\[(?:Open in Colab|Open on Binder)\].*\n*")
_HEADING = re.compile(r"^(?=#{2,} )", re.MULTILINE)

_STYLE = """
body { background: #fff; }
.reveal { font: 28px/1.4 system-ui, sans-serif; color: #1a1a1a; }
.reveal .slides { text-align: left; }
.reveal .slides section { box-sizing: border-box; padding: 0 1em; }
.reveal h1, .reveal h2, .reveal h3 { font-weight: 600; line-height: 1.2; margin: 0 0 .5em; }
.reveal h1 { font-size: 2em; } .reveal h2 { font-size: 1.5em; } .reveal h3 { font-size: 1.2em; }
.reveal a { color: #0059a8; }
.reveal p, .reveal ul, .reveal ol { margin: .5em 0; }
.reveal ul, .reveal ol { padding-left: 1.2em; }
.reveal img { display: block; margin: 0 auto; max-width: 100%; max-height: 20em; }
.reveal pre { font: .7em/1.4 ui-monospace, monospace; background: #f5f5f5; margin: .5em 0; padding: .6em; white-space: pre-wrap; }
.reveal .printed { background: none; border-left: 3px solid #0072b2; }
.reveal table { border-collapse: collapse; font-size: .8em; margin: .5em 0; }
.reveal th, .reveal td { padding: .2em .6em; text-align: right; border-bottom: 1px solid #ccc; }
.reveal .slide-number { background: #444; }
.reveal .written { font-size: 36px; }
.reveal .written img { width: 100%; max-height: 15em; object-fit: contain; }
.reveal .written th, .reveal .written td { text-align: left; }
.reveal .caption { font-size: .75em; color: #444; }
"""  # noqa: E501
# A slide with too much content gets a smaller font when it is first laid out.
_START = """
Reveal.initialize({ width: 1280, height: 720, margin: 0.08, hash: true, slideNumber: 'c/t', controlsLayout: 'edges',
  plugins: [RevealNotes] });
Reveal.on('ready', fit);
window.addEventListener('load', fit);
function fit() {
  for (const slide of document.querySelectorAll('.slides section:not(.stack)')) {
    const shown = [slide.style.display, slide.parentElement.style.display];
    slide.style.display = slide.parentElement.style.display = 'block';
    let size = parseFloat(getComputedStyle(slide).fontSize);
    for (; slide.scrollHeight > 720 && size > 12; size--) slide.style.fontSize = size + 'px';
    [slide.style.display, slide.parentElement.style.display] = shown;
  }
}
"""


@dataclass
class Slide:
    """A slide: its pieces of HTML from top to bottom. `first` says whether the slide begins a section (a column)."""

    first: bool
    pieces: list[str] = field(default_factory=list)

    @property
    def words(self) -> int:
        """Number of words in the text and the code of the slide."""
        return len(re.sub("<[^>]*>", " ", "".join(self.pieces)).split())


def write_slides(executed: Path, out_dir: Path) -> Path:
    """Write the slides of an executed notebook to a folder as NAME.html, and return the path.

    Raises:
        ValueError: if the notebook has no outputs, or lacks a figure that its deck shows.
    """
    notebook = nbformat.read(executed, as_version=4)
    if not any(cell.get("outputs") for cell in notebook.cells):
        raise ValueError(f"{executed} has no outputs to show; run it first: chts run {executed}.")
    notebook, _ = CoalesceStreamsPreprocessor(enabled=True)(notebook, {})
    deck = notebooks.folder() / "teaching" / "slides" / f"{executed.stem}.md"
    body = "\n".join(_from_deck(deck.read_text("utf-8"), notebook) if deck.exists() else _from_notebook(notebook))
    body = re.sub(r'(href="[0-9]{2}b?_[a-z0-9_]+)\.ipynb"', r'\1.html"', body)  # link to the slides of another stage
    body = body.replace('href="../docs/', f'href="{launch.REPOSITORY}/blob/{launch.RELEASE}/docs/')
    title = html.escape(next(re.finditer(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE), [executed.stem] * 2)[1])
    style = f"{(_REVEAL / 'reveal.css').read_text('utf-8')}{HtmlFormatter().get_style_defs('.highlight')}{_STYLE}"
    out_dir.mkdir(parents=True, exist_ok=True)
    page = out_dir / f"{executed.stem}.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f'<body><main class="reveal"><div class="slides">{body}</div></main>'
        f"<script>{(_REVEAL / 'reveal.js').read_text('utf-8')}</script>"
        f"<script>{(_REVEAL / 'notes.js').read_text('utf-8')}</script><script>{_START}</script></body></html>",
        "utf-8",
    )
    return page


def _from_deck(deck: str, notebook: Any) -> Iterator[str]:
    pictures = dict(picture for cell in notebook.cells for picture in _pictures(cell))
    for slide in read_deck(deck):
        yield slide_as_html(slide, pictures)


def _from_notebook(notebook: Any) -> Iterator[str]:
    """Yield the HTML of a notebook's slides, one column for each section."""
    columns: list[list[Slide]] = []
    for slide in slides(notebook):
        if slide.first or not columns:
            columns.append([])
        columns[-1].append(slide)
    for column in columns:
        yield _section(*(_section(*slide.pieces) for slide in column))


def slides(notebook: Any) -> Iterator[Slide]:
    """Cut an nbformat notebook into slides, in order."""
    first, *rest = notebook.cells
    header = re.sub(r"\n\| \|.*", "", _LINKS.sub("", first.source), flags=re.DOTALL)
    yield Slide(True, [markdown_as_html(header)])
    while rest and not (rest[0].cell_type == "markdown" and _HEADING.search(rest[0].source)):
        rest.pop(0)  # skip the notebook's imports and versions
    slide = Slide(False)
    for cell in rest:
        if cell.cell_type == "markdown":
            for part in filter(str.strip, _HEADING.split(cell.source)):
                yield from _whole(slide)
                slide = Slide(part.startswith("## "), list(_text(part)))
        elif cell.cell_type == "code" and not _NOT_SHOWN & set(cell.metadata.get("tags", [])):
            pictures = [
                f'{picture}<p class="caption">{html.escape(caption)}</p>' for caption, picture in _pictures(cell)
            ]
            for piece in pictures or ["".join(_code(cell))]:
                if piece and slide.words > (_FEW_WORDS if pictures else _MANY_WORDS):
                    yield from _whole(slide)
                    slide = Slide(False)
                slide.pieces += filter(None, [piece])
                if pictures:
                    yield from _whole(slide)
                    slide = Slide(False)
    yield from _whole(slide)


def _section(*pieces: str) -> str:
    return f"<section>{''.join(pieces)}</section>"


def _whole(slide: Slide) -> Iterator[Slide]:
    if slide.pieces:
        yield slide


def _text(markdown: str) -> Iterator[str]:
    """Turn text into HTML. Folded parts appear when you go forward, and hints and solutions are left out."""
    end = 0
    for found in FOLDED.finditer(markdown):
        if markdown[end : found.start()].strip():
            yield markdown_as_html(markdown[end : found.start()])
        if found["summary"] not in ("Hint", "Solution"):
            asked = markdown[: found.start()].strip()  # a slide that begins with an answer shows it at once
            yield f'<div class="{"fragment" if asked else "answer"}">{markdown_as_html(found["body"])}</div>'
        end = found.end()
    if markdown[end:].strip():
        yield markdown_as_html(markdown[end:])


def _pictures(cell: Any) -> Iterator[tuple[str, str]]:
    """The captions of a cell's figures, and their elements `img`."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            caption = output.metadata.get("image/png", {}).get("alt", "")
            source = f"data:image/png;base64,{data['image/png'].strip()}"
            yield caption, f'<img src="{source}" alt="{html.escape(caption)}">'


def _code(cell: Any) -> Iterator[str]:
    """The HTML of a code cell: the code if it is short enough, its printed output, and its tables."""
    if any(kind in output.get("data", {}) for output in cell.outputs for kind in _OF_NOTEBOOKS):
        return
    if len(cell.source.splitlines()) <= _LONGEST:
        yield Highlight2HTML()(cell.source, language="python")
    for output in cell.outputs:
        data = output.get("data", {})
        printed = output.get("text", data.get("text/plain", ""))
        table = markdown_as_html(data["text/markdown"]) if "text/markdown" in data else data.get("text/html", "")
        if table:
            yield table if table.count("<tr") <= _MOST_ROWS else ""
        elif not _PROGRESS.search(printed) and 0 < len(printed.splitlines()) <= _LONGEST:
            yield f'<pre class="printed">{html.escape(printed)}</pre>'
