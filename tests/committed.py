"""What a reader of a committed notebook sees: its words, its outputs, and the record that it publishes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import nbformat

from chts_core.lab.notebook import notebooks

RECORD = "application/vnd.chts.results+json"


def _cells(stage: str, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(notebooks.find(stage), as_version=4).cells if cell.cell_type == kind]


def words(stage: str) -> str:
    """The Markdown of a stage, with one blank between two words."""
    return " ".join(" ".join(cell.source for cell in _cells(stage, "markdown")).split())


def shown(stage: str, kind: str) -> Iterator[Any]:
    """What the code cells of a stage put out of a kind, "text" for what they print."""
    for cell in _cells(stage, "code"):
        for output in cell.outputs:
            found = output.get("text") if kind == "text" else output.get("data", {}).get(kind)
            if found is not None:
                yield found


def printed(stage: str) -> str:
    return "\n".join(shown(stage, "text"))


def captions(stage: str) -> list[str]:
    """The captions of the figures of a stage."""
    return [caption.strip("*") for caption in shown(stage, "text/markdown")]


def record(stage: str) -> dict[str, Any]:
    """What a stage publishes as its results."""
    (found,) = shown(stage, RECORD)
    return json.loads(found) if isinstance(found, str) else dict(found)


def questions_and_papers(stage: str) -> tuple[int, list[str]]:
    """How many discussion questions a stage ends with, and the lines of its further reading."""
    text = "\n\n".join(cell.source for cell in _cells(stage, "markdown"))
    _, _, end = text.partition("## To discuss\n")
    questions, _, _ = end.partition("\n## ")
    _, _, reading = text.partition("## Further reading\n")
    return len(re.findall(r"^\d\. .+?\?$", questions, re.MULTILINE | re.DOTALL)), re.findall(
        r"^- .+", reading, re.MULTILINE
    )
