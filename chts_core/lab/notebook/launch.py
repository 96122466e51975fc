"""Write links to Colab and Binder, and the first cell for Colab: `python -m chts_core.lab.notebook.launch FILE ...`.

This module defines the published repository and its release for all links. If the remote `origin` is on GitHub, the
command takes the owner from this remote, and writes the owner into this file and into pyproject.toml. In README.md,
the links are between `<!-- launch -->` and `<!-- end of launch -->`. A notebook has the links under its title, and the
cell for Colab after its header.
"""

import re
import subprocess
import sys
from pathlib import Path

NOBODY = "SET_THE_OWNER"  # no owner on GitHub can have this name, so the addresses lead nowhere before publication
OWNER = "SET_THE_OWNER"
REPOSITORY = f"https://github.com/{OWNER}/chts"
SITE = f"https://{OWNER}.github.io/chts/"
RELEASE = "v0.1.0"  # the tag that Colab and Binder use, so that notebooks and package match

_BOOTSTRAP = f"""\
# %% tags=["bootstrap"]
# This cell does something only on Colab: it installs chts and those of its dependencies that Colab does not have. It
# changes no package that Colab has, and you need no restart.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("chts_core") is None:
    source = "chts @ git+{REPOSITORY}@{RELEASE}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()
    from chts_core import colab

    colab.prepare()

"""
_MADE = re.compile(r'^# %% tags=\["bootstrap"\]\n.*?(?=^# %%)', re.DOTALL | re.MULTILINE)
_LINKS = re.compile(r"^# \[!\[Open in Colab\].*\n#\n", re.MULTILINE)
_IN_README = re.compile(r"(?<=<!-- launch -->\n).*?(?=<!-- end of launch -->)", re.DOTALL)


def colab(notebook: str) -> str:
    """The address at which Colab opens a notebook of the release; `notebook` is its name without a suffix."""
    of_github = REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{of_github}/blob/{RELEASE}/notebooks/{notebook}.ipynb"


def binder(notebook: str) -> str:
    """The address at which Binder opens a notebook of the release; `notebook` is its name without a suffix."""
    of_github = REPOSITORY.removeprefix("https://github.com/")
    return f"https://mybinder.org/v2/gh/{of_github}/{RELEASE}?urlpath=lab/tree/notebooks/{notebook}.ipynb"


def badges(notebook: str) -> str:
    """The buttons for Colab and Binder in Markdown, or "" while the owner is not set, because no link would work."""
    if OWNER == NOBODY:
        return ""
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(notebook)}) "
        f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder(notebook)})"
    )


def with_bootstrap(source: str, notebook: str) -> str:
    """The py:percent source of a notebook with the bootstrap cell before its first code cell.

    Raises:
        ValueError: if the notebook has no code.
    """
    made, cells = re.subn(
        r"^# %%(?! \[markdown\])", lambda cell: _BOOTSTRAP + cell[0], _MADE.sub("", source), count=1, flags=re.M
    )
    if not cells:
        raise ValueError(f"{notebook} has no code after its header.")
    return made


def with_links(source: str, notebook: str) -> str:
    """The py:percent source of a notebook with its current links and bootstrap cell.

    Raises:
        ValueError: if the notebook has no title, or no code after its header.
    """
    buttons = badges(notebook)
    made, titles = re.subn(
        r"^# # .*\n#\n",
        lambda title: f"{title[0]}# {buttons}\n#\n" if buttons else title[0],
        _LINKS.sub("", with_bootstrap(source, notebook)),
        count=1,
        flags=re.M,
    )
    if not titles:
        raise ValueError(f"{notebook} has no title with an empty line after it.")
    return made


def set_owner(folder: Path) -> None:
    """If a checkout's remote `origin` is on GitHub, write its owner into launch.py and pyproject.toml."""
    command = ["git", "remote", "get-url", "origin"]
    remote = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    found = re.search(r"github\.com[:/]([^/\s]+)/", remote)
    if not found:
        print(f"the remote origin is not on GitHub, so the owner stays {OWNER}")
        return
    print(f"the owner is {found[1]}, according to the remote origin")
    for name, pattern in (
        ("chts_core/lab/notebook/launch.py", '(?<=^OWNER = ")[^"]+'),
        ("pyproject.toml", "(?<=https://github.com/)[^/]+(?=/chts)"),
    ):
        path = folder / name
        path.write_text(re.sub(pattern, found[1], path.read_text("utf-8"), flags=re.MULTILINE), "utf-8")


def main() -> None:
    """Update the owner, and the links in the sources of notebooks and in README.md."""
    before = Path(__file__).read_text("utf-8")
    set_owner(Path(__file__).parents[3])
    if Path(__file__).read_text("utf-8") != before:  # this process still uses the old owner
        subprocess.run([sys.executable, "-m", __spec__.name, *sys.argv[1:]], check=True)
        return
    for path in map(Path, sys.argv[1:]):
        text = path.read_text("utf-8")
        if path.suffix == ".py":
            path.write_text(with_links(text, path.stem), "utf-8")
        else:
            path.write_text(_IN_README.sub(badges("00_start_here") + "\n", text), "utf-8")


if __name__ == "__main__":
    main()
