"""The guides of the site: their Python runs, from top to bottom, as it stands."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chts_core import cli
from chts_core.lab.notebook import notebooks

GUIDES = sorted((Path(__file__).parents[1] / "docs" / "guides").glob("*.md"))


def code_of(guide: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", guide.read_text("utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("guide", [guide for guide in GUIDES if code_of(guide)], ids=lambda guide: guide.stem)
def test_the_code_of_a_guide_runs(guide: Path) -> None:
    exec(compile(code_of(guide), guide.name, "exec"), {"__name__": "guide"})


def test_there_are_the_guides_that_are_promised() -> None:
    with_code = [
        "add_a_method",
        "cluster",
        "methods",
        "methods_by_source",
        "ship_it",
        "trained_model",
        "training_loops",
        "your_model",
    ]
    without = [
        "cheat_sheet",
        "exercises",
        "fast_and_plain",
        "followed",
        "growth",
        "models",
        "reproduction",
        "runs",
        "speed",
        "teach",
        "using_the_notebooks",
    ]
    assert [guide.stem for guide in GUIDES] == sorted([*with_code, *without])
    assert [guide.stem for guide in GUIDES if code_of(guide)] == with_code


def test_the_line_for_weights_and_biases_logs_what_the_history_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: wandb is not installed."""
    logged: list[tuple[dict[str, float], int]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((values, step))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: Run()))
    guide = (GUIDES[0].parent / "training_loops.md").read_text("utf-8")
    (code,) = (code for code in re.findall(r"^```py\n(.*?)^```", guide, re.DOTALL | re.MULTILINE) if "wandb" in code)
    row = {"layer": "0.weight", "step": 20, "links": 128, "anp": 0.5, "itop": 0.2}
    exec(compile(code, "training_loops.md", "exec"), {"sparsifier": SimpleNamespace(history=[row])})
    assert logged == [({"0.weight/links": 128, "0.weight/anp": 0.5}, 20)]


# --- using the notebooks ---

USING = (Path(__file__).parents[1] / "docs" / "guides" / "using_the_notebooks.md").read_text("utf-8")


RUNS = (Path(__file__).parents[1] / "docs" / "guides" / "runs.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("page", "names"),
    [(USING, "doctor list run tour exercises glossary"), (RUNS, "doctor list run train sweep report drill")],
)
def test_the_commands_of_a_page_exist(page: str, names: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"(?:`|^)chts (\w+)", page, re.MULTILINE)) - {"refuses"}
    assert named == set(names.split())
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert named <= set(listed)


def test_the_page_on_notebooks_explains_every_profile() -> None:
    table = USING.partition("| profile |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == notebooks.PROFILES


def test_the_page_on_notebooks_has_a_place_for_the_glossary_and_leads_to_the_first_stage() -> None:
    assert USING.count("{glossary}") == 1
    (link,) = re.findall(r"\]\((.+?\.ipynb)\)", USING)
    assert (GUIDES[0].parent / link).resolve() == notebooks.find("00").resolve()
