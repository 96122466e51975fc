"""The stage notebooks, executed once at the smallest profile with every exercise solved."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from filelock import FileLock

from chts_core.lab import notebooks
from chts_core.lab.exercises import solved_version
from chts_core.lab.records import write_json

Executed = Callable[[str], tuple[dict[str, Any], Any]]


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """The record and the executed notebook of a stage, by its number; executed once, whichever process asks first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def run(stage: str) -> tuple[dict[str, Any], Any]:
        source = notebooks.find(stage)
        folder = shared / f"stage{stage}"
        folder.mkdir(exist_ok=True)
        record = folder / "record.json"
        with FileLock(folder / "lock"):
            if not record.exists():
                solved = folder / source.name
                nbformat.write(solved_version(nbformat.read(source, as_version=4)), solved)
                usual = {"profile": "ci", "device": "cpu", "out_dir": str(folder / "kept")}
                given = {name: usual[name] for name in notebooks.parameters(source).keys() & usual.keys()}
                write_json(record, notebooks.run(Path(solved), folder / "out", given))
        return json.loads(record.read_text("utf-8")), nbformat.read(folder / "out" / source.name, as_version=4)

    return run
