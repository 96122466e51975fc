"""The links to Colab and Binder, and the bootstrap cell: the same everywhere, and those of one release."""

import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import jupytext
import pytest

from chts_core.lab.notebook import launch, notebooks

ROOT = Path(__file__).parents[2]
STAGES = notebooks.stages()
SOURCE = """\
# %% [markdown]
# # 01 · A title
#
# Text.

# %%
1 + 1

# %%
2 + 2
"""


def bootstrap(path: Path) -> str:
    tagged = [cell for cell in jupytext.read(path).cells if "bootstrap" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    return str(tagged[0].source)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_has_the_links_and_the_cell_of_this_release(path: Path) -> None:
    source = path.with_suffix(".py").read_text("utf-8")
    assert launch.with_links(source, path.stem) == source, (
        "python -m chts_core.lab.notebook.launch notebooks/*.py README.md"
    )
    assert bootstrap(path) == bootstrap(STAGES[0])
    cells = jupytext.read(path).cells
    assert ("colab.research" in cells[0].source) == bool(launch.badges(path.stem))
    assert [cell.cell_type for cell in cells[:2]] == ["markdown", "code"]
    assert cells[1].source == bootstrap(path)


def test_links_are_written_once_and_again_for_a_new_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "OWNER", "somebody")
    made = launch.with_links(SOURCE, "01_x")
    head, cell, rest = re.split(r"^(?=# %%(?: tags.*)?$)", made, maxsplit=2, flags=re.MULTILINE)
    assert head.splitlines()[:4] == ["# %% [markdown]", "# # 01 · A title", "#", f"# {launch.badges('01_x')}"]
    assert "Open in Colab" in head
    assert cell.startswith('# %% tags=["bootstrap"]\n')
    assert rest == "# %%\n1 + 1\n\n# %%\n2 + 2\n"
    assert launch.with_links(made, "01_x") == made
    monkeypatch.setattr(launch, "RELEASE", "v9.9")
    assert launch.with_links(made, "01_x").count("v9.9") == 2


def test_without_an_owner_there_are_no_buttons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "OWNER", "somebody")
    with_buttons = launch.with_links(SOURCE, "01_x")
    monkeypatch.setattr(launch, "OWNER", launch.NOBODY)
    without = launch.with_links(with_buttons, "01_x")
    assert without == launch.with_bootstrap(SOURCE, "01_x")
    assert "Colab]" not in without


@pytest.mark.parametrize(
    ("remote", "owner"),
    [
        ("git@github.com:somebody/chts.git", "somebody"),
        ("https://github.com/some-body/chts", "some-body"),
        ("https://example.org/somebody/chts.git", "before"),
        (None, "before"),
    ],
)
def test_the_owner_is_taken_from_the_remote(tmp_path: Path, remote: str | None, owner: str) -> None:
    module = tmp_path / "chts_core" / "lab" / "notebook" / "launch.py"
    module.parent.mkdir(parents=True)
    module.write_text('NOBODY = "x"\nOWNER = "before"\n')
    (tmp_path / "pyproject.toml").write_text('Repository = "https://github.com/before/chts"\nother = "before"\n')
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if remote:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    launch.set_owner(tmp_path)
    assert module.read_text() == f'NOBODY = "x"\nOWNER = "{owner}"\n'
    written = (tmp_path / "pyproject.toml").read_text()
    assert written == f'Repository = "https://github.com/{owner}/chts"\nother = "before"\n'


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ("# %%\n1\n", "title with an empty line after it"),
        ("# %% [markdown]\n# # A title\n#\n# Text.\n", "code after its header"),
    ],
)
def test_a_source_without_its_parts_is_refused(source: str, lacks: str) -> None:
    with pytest.raises(ValueError, match=rf"^01_x has no {lacks}\.$"):
        launch.with_links(source, "01_x")


def test_the_readme_has_the_links() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"<!-- launch -->\n{launch.badges('00_start_here')}\n<!-- end of launch -->" in text
    assert ("Open in Colab" in text) == (launch.OWNER != launch.NOBODY)


def test_everything_names_one_repository() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert urls["Repository"] == launch.REPOSITORY
    assert all(url.startswith(launch.REPOSITORY) for url in urls.values())


def test_a_release_is_that_which_its_links_name() -> None:
    command = ["git", "tag", "--points-at", "HEAD", "v*"]
    tags = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(tags) <= {launch.RELEASE}


def test_elsewhere_than_on_colab_the_cell_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **_: called.append(arguments))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(bootstrap(STAGES[0]), {})
    assert called == []


def test_on_colab_what_is_there_is_not_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **_: called.append(arguments))
    monkeypatch.setitem(__import__("sys").modules, "google.colab", ModuleType("google.colab"))
    exec(bootstrap(STAGES[0]), {})
    assert called == []
