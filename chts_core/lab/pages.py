"""Executed notebooks as pages that can be read without a network."""

from pathlib import Path
from typing import Any

import latex2mathml.converter
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor


class _Renderer(IPythonRenderer):
    """Formulas as MathML, which browsers show by themselves; the usual MathJax is fetched from the network."""

    def inline_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body)

    def block_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body, display="block")


class _PageExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, _: Any, source: str) -> str:
        renderer = _Renderer(escape=False, anchor_link_text=self.anchor_link_text)
        return str(MarkdownWithMath(renderer=renderer).render(source))


def write_page(executed: Path) -> Path:
    """Write an executed notebook as an HTML page beside it."""
    exporter = _PageExporter(template_name="lab")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # a progress bar is its last state
    page, _ = exporter.from_filename(str(executed))
    target = executed.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target
