"""Slides that were written by hand: how they are read, and what those of the stages hold."""

import re
from pathlib import Path

import nbformat
import pytest

from chts_core.lab.notebook import notebooks
from chts_core.lab.teach.decks import read_deck, slide_as_html
from chts_core.lab.teach.slides import write_slides

DECKS = sorted((notebooks.folder() / "teaching" / "slides").glob("*.md"))
STEMS = [deck.stem for deck in DECKS]
TEXT = """# 01 · Title

Below.

---

## Two parts

![Many links]

After.

. . .

Later.

Note:
Say it.
"""


def visible(text: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def test_a_deck_is_read() -> None:
    first, second = read_deck(TEXT)
    assert (first.parts, first.notes, first.captions) == (("# 01 · Title\n\nBelow.\n\n",), "", [])
    assert len(second.parts) == 2
    assert second.captions == ["Many links"]
    assert second.notes == "Say it."
    assert second.text.split() == ["##", "Two", "parts", "After.", "Later."]


def test_a_slide_shows_text_figure_and_fragment_in_order() -> None:
    page = slide_as_html(read_deck(TEXT)[1], {"Many links, by day.": "<img>", "Few links.": "<img few>"})
    assert re.fullmatch(
        r'<section class="written"><h2.*>Two parts.*</h2>\s*<img><p>After.</p>\s*'
        r'<div class="fragment"><p>Later.</p>\s*</div>'
        r'<aside class="notes"><p>Say it.</p>\s*</aside></section>',
        page,
        re.DOTALL,
    )


def test_an_asterisk_stands_for_any_words() -> None:
    (slide,) = read_deck("## A\n\n![Update * of *: 3 links]")
    for caption in ("Update 11 of 21: 3 links", "Update 2 of 9: 3 links removed."):
        assert "<img>" in slide_as_html(slide, {caption: "<img>", "Update 2 of 9: 4 links": "<img few>"})


@pytest.mark.parametrize("captions", [["Few links."], ["Many links, by day.", "Many links, by night."]])
def test_a_figure_that_is_not_one_is_refused(captions: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"^{len(captions) if len(captions) > 1 else 0} figures have a caption that "):
        slide_as_html(read_deck(TEXT)[1], dict.fromkeys(captions, "<img>"))


def test_a_slide_without_a_heading_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^slide 2 begins with 'Text'; expected a heading"):
        read_deck("# One\n\n---\n\nText")


def test_stages_00_to_06_have_decks() -> None:
    assert [stem[:2] for stem in STEMS] == ["00", "01", "02", "03", "04", "05", "06"]
    assert all(notebooks.find(stem).stem == stem for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_a_deck_is_short_and_has_notes(stem: str) -> None:
    deck = read_deck((DECKS[0].parent / f"{stem}.md").read_text("utf-8"))
    assert 15 <= len(deck) <= 22
    assert deck[0].parts[0].strip().splitlines()[0] == f"# {notebooks.title(notebooks.find(stem))}"
    for slide in deck:
        shown = re.sub(r"\$+.*?\$+", "formula", slide.text, flags=re.DOTALL)
        assert len(re.findall(r"\w[\w'.,×%-]*", shown)) <= 40, slide.text
        assert len(slide.captions) <= 1
        assert len(slide.notes.split()) >= 10


@pytest.mark.parametrize("stem", STEMS)
def test_the_numbers_of_a_deck_are_in_its_notebook(stem: str) -> None:
    notebook = nbformat.read(notebooks.find(stem), as_version=4)
    there = " ".join(
        [cell.source for cell in notebook.cells]
        + [
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for cell in notebook.cells
            for output in cell.get("outputs", [])
        ]
    ).replace("_", "")
    for slide in read_deck((DECKS[0].parent / f"{stem}.md").read_text("utf-8")):
        for number in re.findall(r"\d[\d,]*\.\d+|\d[\d,]{3,}\d", slide.text):
            assert number in there or number.replace(",", "") in there, number


@pytest.mark.parametrize("stem", STEMS)
def test_a_deck_becomes_a_page(stem: str, tmp_path: Path) -> None:
    page = write_slides(notebooks.find(stem), tmp_path).read_text("utf-8")
    deck = read_deck((DECKS[0].parent / f"{stem}.md").read_text("utf-8"))
    assert page.count('<section class="written">') == len(deck) == page.count('<aside class="notes">')
    assert page.count('<img src="data:') == sum(len(slide.captions) for slide in deck)
