"""Install the packages that the notebooks need and Colab lacks, and change no other package.

Replacing a package breaks a running kernel, so no package is replaced. The missing packages are installed without their
dependencies. Then the missing dependencies are installed in the same way, until nothing is missing.
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
    """The packages that an installed distribution and its extras require on this machine.

    Raises:
        importlib.metadata.PackageNotFoundError: if the distribution is not installed.
    """
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted and requirement.name not in _OWN_FRONT_END:
            yield requirement


def prepare() -> None:
    """Install the packages that `chts[notebooks]` needs and that are missing here.

    Also print their names, packages with unexpected versions, and the GPU if there is one.

    Raises:
        RuntimeError: if a package could not be installed. The message contains the output of pip.
    """
    added: list[Requirement] = []
    wanted = list(needed("chts", ["notebooks"]))
    for requirement in wanted:
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            print(
                f"{requirement.name} {version} is installed and stays, although chts expects {requirement.specifier}."
            )
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
        print(f'A GPU is available ({torch.cuda.get_device_name()}). Set profile = "gpu" below for a larger run.')
