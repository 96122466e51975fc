"""The environments of conda, Binder and pip agree, and Binder reads its files as they are meant."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import chts_core

ROOT = Path(__file__).parents[1]
# Packages that conda-forge has under another name: the build for CPUs, and the library without Qt.
ON_CONDA = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}


def of_pyproject() -> set[str]:
    """What the package and its notebooks need, as conda would have it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    named = (requirement.partition(">=") for requirement in wanted)
    return {f"{ON_CONDA.get(name, name)}>={version}" for name, _, version in named}


def of_conda(file: str) -> list[Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / file).read_text("utf-8"))
    assert found["channels"] == ["conda-forge"]
    return list(found["dependencies"])


def test_conda_has_what_the_package_needs() -> None:
    *packages, from_pip = of_conda("environment.yml")
    assert from_pip == {"pip": ["--editable .[notebooks]"]}
    assert {"python>=3.11", "pip"} < set(packages)
    assert set(packages) - {"python>=3.11", "pip"} == of_pyproject()


def test_binder_has_what_conda_has() -> None:
    packages = of_conda("binder/environment.yml")
    assert {"python=3.11", "pip"} < set(packages)
    assert set(packages) - {"python=3.11", "pip"} == of_pyproject()


def test_binder_reads_its_files() -> None:
    # In a process of its own, for what it imports warns of itself. No Docker is asked for.
    code = """
import json
from repo2docker.buildpacks import CondaBuildPack
pack = CondaBuildPack("buildpack-deps:jammy")
print(json.dumps({
    "detects": pack.detect(), "folder": str(pack.binder_dir), "python": pack.python_version,
    "after": pack.get_post_build_scripts(), "start": pack.get_start_script(),
    "environment": [script for _, script in pack.get_env_scripts()],
}))
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = json.loads(said)
    assert found["detects"] is True
    assert (found["folder"], found["python"]) == ("binder", "3.11")
    assert (found["after"], found["start"]) == (["binder/postBuild"], "${REPO_DIR}/binder/start")
    assert any('"binder/environment.yml"' in script for script in found["environment"])


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_binder_s_scripts_can_be_run_and_stop_at_an_error(script: str) -> None:
    path = ROOT / "binder" / script
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/bin/bash\n")
    assert "\nset -euo pipefail\n" in path.read_text("utf-8")


def test_binder_starts_with_its_profile_and_one_thread() -> None:
    command = ["binder/start", sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    environment = json.loads(shown)
    assert environment["CHTS_PROFILE"] == "binder"
    for name in ("OMP", "MKL", "NUMBA", "RAYON"):
        assert environment[f"{name}_NUM_THREADS"] == "1"
    failing = subprocess.run(["binder/start", "false"], cwd=ROOT, check=False)
    assert failing.returncode == 1


@pytest.mark.parametrize("fails", ["python", "chts", ""])
def test_binder_installs_the_package_and_tries_it(tmp_path: Path, fails: str) -> None:
    for name in ("python", "chts"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/bash\necho "{name} $*"\n{"exit 1" if name == fails else ""}\n')
        tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(["binder/postBuild"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    installed, *run = ran.stdout.splitlines()
    assert installed == "python -m pip install --no-deps --no-cache-dir --editable ."
    assert len(run) == (fails != "python")
    for line in run:
        command, folder = line.rsplit(maxsplit=1)
        assert command == "chts run 00 --profile binder --out"
        assert Path(folder).is_absolute()
        assert Path(folder).exists() == (fails == "chts")  # what failed can be looked at
    assert ran.returncode == bool(fails)


def test_a_checkout_that_is_not_installed_can_be_imported() -> None:
    code = """
import importlib.metadata as metadata
real = metadata.version
def version(name):
    if name == "chts":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
import chts_core
print(chts_core.__version__)
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "0+unknown\n"


def test_the_version_is_that_of_the_installed_package() -> None:
    assert chts_core.__version__ == metadata.version("chts")
