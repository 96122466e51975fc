"""The stage notebooks, executed once at the smallest profile with every exercise solved."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from filelock import FileLock

from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.exercises import solved_version
from chts_core.lab.results.records import published, write_json

FOLDER = Path(__file__).parents[2] / "notebooks"

# What executes a stage: make test, or .ci/run beside it, or the tour in .ci/run. make test-full executes all.
QUICK = ("02", "06")
TOUR = ("08", "09", "10")

Executed = Callable[[str], tuple[dict[str, Any], Any]]
Page = Callable[[str], tuple[dict[str, Any], str, str]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what executes a stage that make test leaves out."""
    for item in items:
        stage = re.search(r"/stages/test_(\w+)\.py::|test_execution\.py::\w+\[(\w+?)_", item.nodeid)
        number = stage and (stage[1] or stage[2])
        again = "test_execution.py" in item.nodeid
        if number and (number not in QUICK or again):
            item.add_marker(pytest.mark.full)
            if number not in TOUR:
                item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="session")
def committed() -> Page:
    """Of the notebook as it is committed, by its name: what it published, its text in one line, and what it printed."""

    def page(name: str) -> tuple[dict[str, Any], str, str]:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        printed = "".join(output.get("text", "") for output in outputs)
        return published(notebook), " ".join(text.split()), printed

    return page
