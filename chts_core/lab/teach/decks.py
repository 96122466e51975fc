"""Slides written by hand in Markdown; their figures come from the executed notebook.

    ## A link is likely where paths are

    ![The toy after one link]

    . . .

    Two paths lead from output 1 to input 0.

    Note:
    Let the students count the paths before you go on.

    ---

A line `---` separates two slides. `![...]` shows the figure whose caption begins with the words in the brackets. A `*`
stands for any text, such as a number that changes between runs. The text after `. . .` appears when you go forward. The
text after `Note:` appears only in the speaker view, which opens with the key S.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from chts_core.lab.notebook.pages import markdown_as_html

_FIGURE = re.compile(r"^!\[(.+)\]$", re.MULTILINE)


@dataclass(frozen=True)
class Written:
    """A slide in Markdown: the parts that appear one after the other, and the speaker's notes."""

    parts: tuple[str, ...]
    notes: str

    @property
    def captions(self) -> list[str]:
        """For each figure of the slide, the first words of its caption."""
        return _FIGURE.findall("\n".join(self.parts))

    @property
    def text(self) -> str:
        """The text that the audience reads, without figures."""
        return _FIGURE.sub("", "\n".join(self.parts))


def read_deck(text: str) -> list[Written]:
    """Read the slides of a deck that is written in Markdown.

    Raises:
        ValueError: if a slide does not begin with a heading; the message gives the number of the slide.
    """
    found = []
    for number, slide in enumerate(re.split(r"^---$", text, flags=re.MULTILINE), 1):
        shown, _, notes = slide.partition("\nNote:\n")
        if not shown.strip().startswith("#"):
            raise ValueError(
                f"slide {number} begins with {shown.strip()[:40]!r}; expected a heading, such as '## Why sparse?'."
            )
        found.append(Written(tuple(re.split(r"^\. \. \.$", shown, flags=re.MULTILINE)), notes.strip()))
    return found


def slide_as_html(slide: Written, pictures: Mapping[str, str]) -> str:
    """The HTML of a slide, as an element `section` for reveal.js.

    Args:
        slide: from :func:`read_deck`.
        pictures: for each caption, the element `img` of its figure.

    Raises:
        ValueError: if the first words of a caption match no figure or several figures; the message quotes these words.
    """
    first, *later = (_part_as_html(part, pictures) for part in slide.parts)
    fragments = "".join(f'<div class="fragment">{part}</div>' for part in later)
    notes = f'<aside class="notes">{markdown_as_html(slide.notes)}</aside>' if slide.notes else ""
    return f'<section class="written">{first}{fragments}{notes}</section>'


def _part_as_html(part: str, pictures: Mapping[str, str]) -> str:
    pieces = []
    for text, caption in zip(*[iter([*_FIGURE.split(part), ""])] * 2, strict=True):
        pieces.append(markdown_as_html(text) if text.strip() else "")
        if caption:
            matching = [picture for other, picture in pictures.items() if fnmatchcase(other, f"{caption}*")]
            if len(matching) != 1:
                raise ValueError(
                    f"{len(matching)} figures have a caption that begins with {caption!r}; expected the first "
                    f"words of exactly one of these: {', '.join(repr(other[:40]) for other in pictures)}."
                )
            pieces += matching
    return "".join(pieces)
