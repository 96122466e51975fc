"""Runs the bootstrap cell of a notebook, unchanged, in an environment with Colab's packages. The argument: its Python.

This working tree, with the tag that the cell names, replaces the published repository. The script fails if the cell
fails, if the cell changes a version, or if afterwards the notebooks lack a package.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from chts_core.lab.notebook import launch

ROOT = Path(__file__).parents[2]


def installed(python: str) -> dict[str, str]:
    """The versions of all packages in an environment."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {package["name"]: package["version"] for package in json.loads(said)}


def publish(folder: Path) -> None:
    """Commit the working tree into a new repository, with the tag of the release."""

    def git(*words: str) -> None:
        command = [
            "git",
            f"--git-dir={folder / '.git'}",
            f"--work-tree={ROOT}",
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
        ]
        subprocess.run([*command, *words], cwd=ROOT, check=True)

    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    git("add", "--all")
    git("commit", "--quiet", "--message", "As it is")
    git("tag", launch.RELEASE)


def main() -> None:
    """Run the cell, and compare the packages before and after it."""
    python = str(Path(sys.argv[1]).absolute())  # not resolved: only the link belongs to the environment
    notebook = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", [])]
    before = installed(python)
    assert "chts" not in before
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder))
        environment = os.environ | {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{folder}.insteadOf",
            "GIT_CONFIG_VALUE_0": launch.REPOSITORY,
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),  # the cell adds the versions that we test
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        on_colab = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"
        code = f"{on_colab}{cell.source}\nimport chts_core.lab"
        subprocess.run([python, "-c", code], env=environment, cwd=folder, check=True)
    after = installed(python)
    changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
    assert not changed, f"the bootstrap cell changed {changed}"
    assert after["chts"] == launch.RELEASE.removeprefix("v")
    print(f"Colab's {len(before)} packages are as they were; added: {', '.join(sorted(after.keys() - before.keys()))}.")


if __name__ == "__main__":
    main()
