"""Executed notebooks as pages that can be read without an internet connection and without a kernel."""

import html
import re
from pathlib import Path
from typing import Any

from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

from chts_core.lab.notebook.notebooks import WIDGET_VIEW
from chts_core.lab.notebook.pages import markdown_as_html
from chts_core.lab.widgets import EXPLORERS
from chts_core.lab.widgets.recording import recording

# Lines of code and tables wrap, so that a page never scrolls sideways.
_STYLE = """
.jp-CodeMirrorEditor pre, .highlight pre, .jp-RenderedText pre {
  white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere;
}
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { overflow-wrap: break-word; white-space: normal; }
"""


class _PictureWithAlternative(Preprocessor):
    """Keep the text alternatives of pictures; the template alone would drop these texts."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:  # noqa: ARG002
        for output in cell.get("outputs", []):
            shown = output.get("metadata", {}).get("image/png", {})
            if "alt" in shown and "image/png" in output.get("data", {}):
                source = f"data:image/png;base64,{output.data.pop('image/png').strip()}"
                width = f' width="{shown["width"]}"' if "width" in shown else ""
                output.data["text/html"] = f'<img src="{source}"{width} alt="{html.escape(shown["alt"])}">'
        return cell, resources


_BY_CLASS = {explorer.__name__: explorer for explorer in EXPLORERS.values()}


def record_widgets(cell: Any) -> None:
    """In a cell's outputs, replace the view of a widget, which needs a kernel, with a recording."""
    named = [_BY_CLASS[name] for name in re.findall(r"widgets\.(\w+)", cell.source) if name in _BY_CLASS]
    for output in cell.get("outputs", []):
        if named and output.get("data", {}).pop(WIDGET_VIEW, None):
            output.data["text/html"] = recording(named[0])


class _RecordedWidgets(Preprocessor):
    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:  # noqa: ARG002
        record_widgets(cell)
        return cell, resources


class _PageExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, _: Any, source: str) -> str:
        return markdown_as_html(source, anchors=self.anchor_link_text)


def write_page(executed: Path) -> Path:
    """Write an executed notebook as an HTML page into the notebook's folder."""
    exporter = _PageExporter(template_name="lab")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # keep the last state of a progress bar
    exporter.register_preprocessor(_PictureWithAlternative, enabled=True)
    exporter.register_preprocessor(_RecordedWidgets, enabled=True)
    page, _ = exporter.from_filename(str(executed))
    page = page.replace("</head>", f"<style>{_STYLE}</style></head>", 1)
    page = re.sub(r'<script[^>]*\ssrc="https?:[^>]*>\s*</script>', "", page)  # scripts of MathJax and widgets
    target = executed.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target
