"""Slides: what of a notebook is shown, in which order, and what is left out."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chts_core.cli import main
from chts_core.lab.notebook import launch, notebooks
from chts_core.lab.results.records import RESULTS_TYPE
from chts_core.lab.teach.slides import slides, write_slides

HEADER = """# 01 · A title

[![Open in Colab](https://x/a.svg)](https://x/b) [![Open on Binder](https://x/c.svg)](https://x/d)

**You will be able to** see it.

| | |
|---|---|
| Time | none |
"""


def printed(source: str, text: str, name: str = "stdout") -> Any:
    return new_code_cell(source, outputs=[new_output("stream", name=name, text=text)])


def shown(data: dict[str, str], source: str = "f()", **metadata: Any) -> Any:
    return new_code_cell(source, outputs=[new_output("display_data", data=data, metadata=metadata)])


def figure(alt: str) -> Any:
    return shown({"image/png": "QUJD\n"}, **{"image/png": {"alt": alt}})


def made(*cells: Any) -> list[tuple[bool, str]]:
    """Whether a section begins, and the words, of each slide after the first."""
    notebook = new_notebook(cells=[new_markdown_cell(HEADER), printed("import torch", "versions"), *cells])
    first, *rest = slides(notebook)
    assert first.first
    return [(slide.first, words("".join(slide.pieces))) for slide in rest]


def words(piece: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", piece).split())


def test_the_first_slide_has_the_title_and_the_goal_alone() -> None:
    (slide,) = slides(new_notebook(cells=[new_markdown_cell(HEADER), new_code_cell("import torch")]))
    assert words("".join(slide.pieces)) == "01 · A title You will be able to see it."
    assert "<img" not in "".join(slide.pieces)


def test_sections_begin_columns_and_texts_slides() -> None:
    cells = [new_markdown_cell("Before a section.\n\n## One\n\nText.\n\n### Part\n\nMore."), new_markdown_cell("Last.")]
    assert made(*cells) == [
        (False, "Before a section."),
        (True, "One Text."),
        (False, "Part More."),
        (False, "Last."),
    ]


def test_code_stands_below_a_short_text_and_after_a_long_one() -> None:
    short, long = new_markdown_cell("## One\n\nText."), new_markdown_cell("## One\n\n" + "word " * 100)
    code = printed("1 + 1", "2")
    assert made(short, code) == [(True, "One Text. 1 + 1 2")]
    assert [begins for begins, _ in made(long, code)] == [True, False]
    assert made(long, code)[1][1] == "1 + 1 2"


def test_figures_have_slides_of_their_own() -> None:
    cells = [new_markdown_cell("## One\n\nA word."), figure("first"), figure("second"), new_markdown_cell("End.")]
    assert made(*cells) == [(True, "One A word. first"), (False, "second"), (False, "End.")]
    wordy = new_markdown_cell("## One\n\n" + "word " * 40)
    assert made(wordy, figure("first"))[1] == (False, "first")


def test_a_figure_keeps_its_text_alternative() -> None:
    *_, slide = slides(new_notebook(cells=[new_markdown_cell(HEADER), new_markdown_cell("## A"), figure('"<b>"')]))
    assert '<img src="data:image/png;base64,QUJD" alt="&quot;&lt;b&gt;&quot;">' in "".join(slide.pieces)


@pytest.mark.parametrize(
    "cell",
    [
        new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("with attempt():\n    pass", metadata={"tags": ["check"]}),
        new_code_cell("import sys", metadata={"tags": ["bootstrap"]}),
        shown({"application/vnd.jupyter.widget-view+json": "{}", "text/plain": "Explorer()"}),
        shown({RESULTS_TYPE: "{}", "text/plain": "results"}),
        new_code_cell("\n".join(f"a{line} = {line}" for line in range(13))),
    ],
)
def test_what_serves_the_notebook_alone_is_left_out(cell: Any) -> None:
    assert made(new_markdown_cell("## One\n\nText."), cell) == [(True, "One Text.")]


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        (printed("train()", "CHTs: 100%|██████| 30/30 [00:01<00:00]"), "train()"),
        (printed("loop()", "\n".join("line" for _ in range(13))), "loop()"),
        (shown({"text/html": f"<table>{'<tr><td>1</td></tr>' * 17}</table>", "text/plain": "table"}), "f()"),
        (shown({"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "table"}), "f() 1"),
        (shown({"text/markdown": "**so**", "text/html": "x", "text/plain": "y"}), "f() so"),
        (printed("print(1 < 2)", "<True>"), "print ( 1 &lt; 2 ) &lt;True&gt;"),
    ],
)
def test_of_outputs_what_a_room_can_read_is_shown(cell: Any, left: str) -> None:
    ((_, text),) = made(new_markdown_cell("## One"), cell)
    assert text.replace(" ", "") == f"One{left}".replace(" ", "")


def test_answers_come_with_the_next_key_and_hints_not_at_all() -> None:
    folded = "<details><summary>{}</summary>\n\n{}\n</details>"
    text = f"1. Why?\n\n{folded.format('Answer', 'Because.')}\n\n2. When?\n\n{folded.format('Hint', 'Look.')}"
    question = new_markdown_cell(f"## Self-check\n\n{text}")
    first, slide = slides(new_notebook(cells=[new_markdown_cell(HEADER), question]))
    assert first.first
    asked, answer, more = slide.pieces
    assert words(asked) == "Self-check Why?"
    assert answer.startswith('<div class="fragment">')
    assert words(answer) == "Because."
    assert words(more) == "When?"
    # An answer to the slide before is there at once: a slide that is empty at first shows nothing.
    *_, seen = slides(
        new_notebook(cells=[new_markdown_cell(HEADER), question, new_markdown_cell(folded.format("Seen", "Two."))])
    )
    assert words("".join(seen.pieces)) == "Two."
    assert "fragment" not in "".join(seen.pieces)


def test_formulas_need_no_script() -> None:
    *_, slide = slides(new_notebook(cells=[new_markdown_cell(HEADER), new_markdown_cell("## A\n\n$x^2$ and $$y$$")]))
    assert "".join(slide.pieces).count("<math") == 2


def test_a_page_is_whole_and_leads_to_the_slides_of_other_stages(tmp_path: Path) -> None:
    cells = [
        new_markdown_cell(HEADER),
        new_markdown_cell("## One\n\n[next](02_link_prediction.ipynb)"),
        printed("1", "2"),
    ]
    source = tmp_path / "01_x.ipynb"
    nbformat.write(new_notebook(cells=cells), source)
    page = write_slides(source, tmp_path / "out")
    assert page == tmp_path / "out" / "01_x.html"
    text = page.read_text("utf-8")
    assert "<title>01 · A title</title>" in text
    assert 'href="02_link_prediction.html"' in text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)
    assert text.count("<section>") == 4  # two columns with a slide each
    assert "Reveal.initialize" in text


def test_a_link_to_a_guide_leads_to_the_repository(tmp_path: Path) -> None:
    source = tmp_path / "01_x.ipynb"
    text = "## One\n\n[guide](../docs/guides/teach.md)"
    nbformat.write(new_notebook(cells=[new_markdown_cell(HEADER), new_markdown_cell(text), printed("1", "2")]), source)
    page = write_slides(source, tmp_path / "out").read_text("utf-8")
    assert f'href="{launch.REPOSITORY}/blob/{launch.RELEASE}/docs/guides/teach.md"' in page


def test_a_notebook_without_outputs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "01_x.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell("1")]), source)
    assert main(["teach", "slides", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "01_x.ipynb has no outputs to show; run it first: chts run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_slides_of_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach", "slides", "00", "06b", "--out", str(tmp_path)]) == 0
    names = [notebooks.find(number).stem for number in ("00", "06b")]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"{name}.html") for name in names]
    assert all((tmp_path / f"{name}.html").is_file() for name in names)
