"""Functions that build pages for reading without an internet connection."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Literal

import latex2mathml.converter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

_DOCUMENT_STYLE = """
p { max-width: 60rem; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; min-width: 11rem; max-width: 24rem; }
article { border-top: 1px solid #ccc; padding: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.cards article { border: 1px solid #ccc; border-radius: .5rem; padding: 0 1rem; }
.cards h2 { font-size: 1.15rem; }
figure { margin: 1rem 0; }
figcaption { color: #555; }
article img, figure img { max-width: 100%; height: auto; }
.failed { color: #b00020; font-weight: bold; }
small { color: #555; }
"""


def document(title: str, body: str) -> str:
    """A page with a title and a body of HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_DOCUMENT_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )


def as_html(rows: Sequence[Mapping[str, str]]) -> str:
    """An HTML table of rows of text; the keys of the first row are the names of the columns."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(png: bytes, description: str) -> str:
    """An embedded picture with a description below it. The description is also the text alternative."""
    alt = html.escape(description)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{alt}</figcaption></figure>'


class _Renderer(IPythonRenderer):
    """Write formulas as MathML: browsers show it without an internet connection, but MathJax would need one."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline") or str(super().inline_math(body))

    def block_math(self, body: str) -> str:
        return _mathml(body, "block") or str(super().block_math(body))


def _mathml(formula: str, display: Literal["inline", "block"]) -> str | None:
    try:
        return latex2mathml.converter.convert(formula, display=display)
    except Exception:  # its errors have no common class; a formula that it cannot read is shown as written
        return None


def markdown_as_html(source: str, *, anchors: str = "") -> str:
    """Convert Markdown with formulas to HTML without scripts. Each heading has a link to itself, shown as `anchors`."""
    renderer = _Renderer(escape=False, anchor_link_text=anchors, exclude_anchor_links=not anchors)
    return str(MarkdownWithMath(renderer=renderer).render(source))
