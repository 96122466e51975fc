"""The stage notebooks, executed once at the smallest profile with every exercise solved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from chts_core.lab import notebooks
from chts_core.lab.exercises import solved_version

Executed = Callable[[str], tuple[dict[str, Any], Any]]


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """The record and the executed notebook of a stage, by its number."""
    finished: dict[str, tuple[dict[str, Any], Any]] = {}

    def run(stage: str) -> tuple[dict[str, Any], Any]:
        if stage not in finished:
            source = notebooks.find(stage)
            folder = tmp_path_factory.mktemp(f"stage{stage}")
            solved = folder / source.name
            nbformat.write(solved_version(nbformat.read(source, as_version=4)), solved)
            given: dict[str, Any] = {"profile": "ci"}
            if "device" in notebooks.parameters(source):
                given["device"] = "cpu"
            record = notebooks.run(Path(solved), folder / "out", given)
            finished[stage] = record, nbformat.read(folder / "out" / source.name, as_version=4)
        return finished[stage]

    return run
