"""README: short, with links that lead somewhere, and a picture that loads fast."""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
STATIC = ROOT / "docs" / "_static"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    # By docs/build.py:
    made = r"\.\./(?:conformance|results)\.md|\.\./(?:api|notebooks)/.*|(?:two_weeks|ninety_minutes)\.md"
    local = [target for target in targets if "://" not in target and not re.fullmatch(made, target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_picture_moves_and_is_small() -> None:
    assert (STATIC / "rewiring.webp").stat().st_size < 1_000_000
    with Image.open(STATIC / "rewiring.webp") as moving, Image.open(STATIC / "rewiring.png") as still:
        assert moving.n_frames > 10  # type: ignore[attr-defined]
        assert still.width == 2 * moving.width
