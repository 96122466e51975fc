"""Settings of Sphinx, which reads the files that docs/build.py has made. It executes and fetches nothing."""

import re
from importlib import metadata
from typing import Any

import latex2mathml.converter
from docutils.nodes import SkipNode
from sphinx.application import Sphinx

from chts_core.lab.notebook import launch

project = "chts"
author = "The chts developers"
release = metadata.version("chts")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
myst_html_meta = {"property=og:title": "chts"}  # the title that a shared link shows
nb_execution_mode = "off"  # the site shows the committed outputs
nb_ipywidgets_js = {}  # recordings replace the widgets (docs/build.py), so no script is fetched
autodoc_typehints = "description"
autodoc_member_order = "bysource"
suppress_warnings = ["myst.strikethrough"]

html_theme = "sphinx_book_theme"
html_title = "chts"
html_static_path = ["_static"]
html_css_files = ["chts.css"]
html_theme_options = {
    "use_download_button": True,
}
if launch.OWNER != launch.NOBODY:  # otherwise the buttons would be dead
    html_baseurl = launch.SITE
    myst_html_meta["property=og:image"] = f"{launch.SITE}_static/card.png"
    html_theme_options |= {
        "repository_url": launch.REPOSITORY,
        "repository_branch": launch.RELEASE,
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }
html_math_renderer = "mathml"


_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_FIELD = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (?=\S)")


def as_restructured_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Turn a plain docstring into reStructuredText: its code, its fields (`name: meaning`) and bars as in |x|."""
    made: list[str] = []
    section = literal = field = False
    for line in lines:
        indented, blank = line.startswith("    "), not line
        section = bool(_SECTION.fullmatch(line)) or (section and (indented or blank))
        table = line.startswith("|") and line.endswith("|")
        field = not section and (bool(_FIELD.match(line)) or (field and indented))
        starts_code = not section and not field and not literal and (table or indented) and made[-1:] == [""]
        literal = starts_code or (literal and (table or indented or blank))
        if starts_code:
            made += ["::", ""]
        if literal:
            made.append(f"    {line}" if table else line)
            continue
        line = re.sub(r"(?<![:`\w])`([^`]+)`(?!`)", r"``\1``", line)
        parts = re.split(r"(`+[^`]+`+)", line)  # every second part is code
        parts[::2] = [re.sub(r"\||(?<![\w*])\*(?=\w+[,)])", r"\\\g<0>", part) for part in parts[::2]]
        line = "".join(parts)
        if field:  # it becomes a list item, with its other lines below it
            line = line.replace("    ", "  ", 1) if indented else _FIELD.sub(r"* **\1**: ", line, count=1)
        made.append(line)
    lines[:] = made


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers can show without the script that Sphinx would fetch."""

    def inline(translator, node) -> None:  # type: ignore[no-untyped-def]
        translator.body.append(latex2mathml.converter.convert(node.astext(), display="inline"))
        raise SkipNode

    def block(translator, node) -> None:  # type: ignore[no-untyped-def]
        # With tabindex, readers can scroll a long formula with the keyboard.
        formula = latex2mathml.converter.convert(node.astext(), display="block")
        translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>')
        raise SkipNode

    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon reads the sections
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
