"""The guides of the site: their Python runs, from top to bottom, as it stands."""

import re
from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).parents[1] / "docs" / "guides").glob("*.md"))


def code_of(guide: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", guide.read_text("utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if code_of(guide)], ids=lambda guide: guide.stem)
def test_the_code_of_a_guide_runs(guide: Path) -> None:
    exec(compile(code_of(guide), guide.name, "exec"), {"__name__": "guide"})


def test_there_are_the_guides_that_are_promised() -> None:
    with_code = ["add_a_method", "cluster", "methods_by_source", "your_model"]
    assert [guide.stem for guide in GUIDES] == sorted([*with_code, "fast_and_plain", "followed", "growth", "teach"])
    assert [guide.stem for guide in GUIDES if code_of(guide)] == with_code
