"""Colab: adds what the notebooks need there, and leaves what is there as it is.

A package that is replaced under a running kernel breaks it, so nothing is: what Colab lacks is installed without its
dependencies, then what those lack, until nothing is missing.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

import torch
from packaging.requirements import Requirement

_OWN_FRONT_END = ("jupyterlab",)  # Colab shows notebooks itself


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def needed(distribution: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What an installed distribution requires on this machine, by itself and by its extras.

    Raises:
        importlib.metadata.PackageNotFoundError: if it is not installed.
    """
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted and requirement.name not in _OWN_FRONT_END:
            yield requirement


def prepare() -> None:
    """Install what `chts[notebooks]` lacks here; says so, and what is too old, and whether there is a GPU.

    Raises:
        RuntimeError: if a package could not be installed, with what pip said.
    """
    added: list[Requirement] = []
    wanted = list(needed("chts", ["notebooks"]))
    for requirement in wanted:
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            print(f"{requirement.name} {version} is here and stays, though chts is made for {requirement.specifier}.")
    while missing := [requirement for requirement in wanted if _version(requirement.name) is None]:
        plain = [f"{requirement.name}{requirement.specifier}" for requirement in missing]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *plain]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{', '.join(plain)} could not be installed; run this cell again. {ran.stderr.strip()}")
        importlib.invalidate_caches()
        added += missing
        wanted = [further for requirement in missing for further in needed(requirement.name, requirement.extras)]
    if added:
        print(f"Added {', '.join(sorted(requirement.name for requirement in added))}; nothing else was changed.")
    if torch.cuda.is_available():
        print(f'There is a GPU, {torch.cuda.get_device_name()}: profile = "gpu" below makes the run larger.')
