import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chts_core.lab.notebook.notebook_page import write_page

# The smallest picture: one transparent pixel.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., str]:
    """The page of a notebook with these cells."""

    def make(*cells: Any) -> str:
        path = tmp_path / "executed.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        page = write_page(path)
        assert page == tmp_path / "executed.html"
        return page.read_text(encoding="utf-8")

    return make


def body(page: str) -> str:
    return page[page.index("<body") :]


def text_of(markup: str) -> str:
    return re.sub(r"<[^>]*>", "", markup)


def pictures(markup: str) -> list[dict[str, str | None]]:
    """The attributes of every <img>."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "img":
                found.append(dict(attrs))

    Reader().feed(markup)
    return found


def test_formulas_become_mathml(page_of: Callable[..., str]) -> None:
    shown = body(page_of(new_markdown_cell("The sum $y = Wx$ and\n\n$$\\sum_{i=1}^{n} \\frac{1}{i}$$\n\nand more.")))
    inline, block = re.findall(r"<math.*?</math>", shown, re.DOTALL)
    assert 'display="inline"' in inline
    assert "<mi>y</mi>" in inline
    assert 'display="block"' in block
    assert "<mfrac>" in block
    assert "$" not in text_of(shown)


def test_a_formula_may_hold_signs_that_mean_something_in_html(page_of: Callable[..., str]) -> None:
    shown = body(
        page_of(new_markdown_cell("For $a < b$ and $c > d$, a table:\n\n| x | $x^2$ |\n|---|---|\n| 1 | $1$ |"))
    )
    formulas = re.findall(r"<math.*?</math>", shown, re.DOTALL)
    assert len(formulas) == 4
    assert not re.search(r"<m[io]><</m[io]>", formulas[0])


@pytest.mark.parametrize(
    "formula", [r"\frac{1}{", r"\left( x", "x_", "^", r"\begin{matrix} 1", r"\sqrt", "x^2^3", r"\frac", r"\foo", " "]
)
@pytest.mark.parametrize("mark", ["$", "$$"])
def test_a_formula_that_cannot_be_read_is_shown_as_it_is(page_of: Callable[..., str], formula: str, mark: str) -> None:
    shown = body(page_of(new_markdown_cell(f"Before {mark}{formula}{mark} after.")))
    text = text_of(shown)
    assert "Before" in text
    assert "after." in text
    if formula.strip():
        assert formula in text


def test_equations_may_be_aligned(page_of: Callable[..., str]) -> None:
    source = "$$\\begin{split} a &= b \\\\ c &= d \\end{split}$$"
    (formula,) = re.findall(r"<math.*?</math>", body(page_of(new_markdown_cell(source))), re.DOTALL)
    assert "&amp;" not in formula
    assert formula.count("<mtr>") == 2


def test_dollars_in_code_are_no_formulas(page_of: Callable[..., str]) -> None:
    shown = body(page_of(new_markdown_cell("Type `echo $HOME $PATH` now.")))
    assert "<math" not in shown
    assert "echo $HOME $PATH" in text_of(shown)


def test_a_progress_bar_is_its_last_state(page_of: Callable[..., str]) -> None:
    states = [f"\rchts seed 0: {percent:3d}%|bar| {percent}/100" for percent in (0, 25, 50, 100)]
    # A kernel sends them in pieces.
    outputs = [new_output("stream", name="stdout", text=state) for state in [*states, "\n", "the end\n"]]
    shown = text_of(body(page_of(new_code_cell("race()", execution_count=1, outputs=outputs))))
    assert shown.count("chts seed 0") == 1
    assert "100%|bar| 100/100" in shown
    assert "25%" not in shown
    assert "the end" in shown


def test_text_alternatives_survive(page_of: Callable[..., str]) -> None:
    alternative = 'Links of "r < 0.5" & more.'
    picture = new_output(
        "display_data",
        data={"image/png": PICTURE, "text/plain": alternative},
        metadata={"image/png": {"alt": alternative}},
    )
    shown = body(page_of(new_code_cell("show()", execution_count=1, outputs=[picture])))
    (image,) = pictures(shown)
    assert image["src"] == f"data:image/png;base64,{PICTURE}"
    assert image["alt"] == alternative


def test_the_notebook_is_left_as_it_is(page_of: Callable[..., str], tmp_path: Path) -> None:
    cell = new_code_cell("1", execution_count=1, outputs=[new_output("stream", text=text) for text in ("\r1", "\r2")])
    page_of(cell)
    outputs = nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[0].outputs
    assert [output.text for output in outputs] == ["\r1", "\r2"]


def test_a_page_can_be_read_without_a_network(page_of: Callable[..., str]) -> None:
    page = page_of(new_markdown_cell("# Title\n\n$x^2$"), new_code_cell("1"))
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page)
    assert [address for address in loaded if not address.startswith("data:")] == []


def test_errors_are_on_the_page(page_of: Callable[..., str]) -> None:
    error = new_output("error", ename="ValueError", evalue="no luck", traceback=["\x1b[31mValueError\x1b[0m: no luck"])
    shown = text_of(body(page_of(new_code_cell("fail()", execution_count=1, outputs=[error]))))
    assert "ValueError: no luck" in shown
    assert "\x1b" not in shown
