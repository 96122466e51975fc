"""Every explorer in a notebook's own kernel: a cell that moves a control changes state, picture and description."""

import json
from dataclasses import fields
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from chts_core.lab.notebook import notebooks
from chts_core.lab.widgets import EXPLORERS

# make test-colab runs these, and make test-browser does the same in a browser.
pytestmark = pytest.mark.full

FIRST = """
import json
from dataclasses import replace
from chts_core.lab import widgets
from chts_core.lab.train import translation
from chts_core.lab.widgets import method_mixer

# Whoever only looks whether something changes need not train for long.
translation.RECIPES["number_words_short"] = replace(translation.RECIPES["number_words_ci"], steps=20, warmup=10)
method_mixer._RECIPE = replace(method_mixer._RECIPE, epochs=4)

def other(control):
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return values[0] if control.value != values[0] else values[-1]
    if isinstance(control.value, bool):
        return not control.value
    if isinstance(control.value, str):
        return control.value.rpartition(" ")[0]
    return control.max if control.value != control.max else control.min

def moved(explorer):
    rows = {}
    for field, control in explorer.controls.items():
        before = explorer.state, explorer.picture.value
        first, control.value = control.value, other(control)
        parts = [markup.partition(' alt="') for markup in (before[1], explorer.picture.value)]
        rows[field] = {
            "state": getattr(explorer.state, field) == control.value != getattr(before[0], field),
            "picture": parts[0][0] != parts[1][0],
            "description": parts[0][2] != parts[1][2],
        }
        control.value = first
        rows[field]["back"] = (explorer.state, explorer.picture.value) == before
    return rows
""".strip()


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One notebook of all explorers: each is shown, then each control moved and put back."""
    cells = [
        cell
        for name in EXPLORERS
        for cell in (
            f'explorer = widgets.EXPLORERS["{name}"]()\nexplorer',
            f'print(json.dumps(["{name}", moved(explorer)]))',
        )
    ]
    notebook = new_notebook(
        cells=[new_code_cell(source) for source in (FIRST, *cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    folder = tmp_path_factory.mktemp("explorers")
    path = folder / "explorers.ipynb"
    nbformat.write(notebook, path)
    out = folder / "executed.ipynb"
    papermill.execute_notebook(str(path), str(out), extra_arguments=["--log-level=ERROR"], progress_bar=False)
    return nbformat.read(out, as_version=4)


@pytest.mark.parametrize("name", EXPLORERS)
def test_moving_a_control_in_a_cell_changes_all_that_is_shown(executed: Any, name: str) -> None:
    printed = [output.text for cell in executed.cells for output in cell.outputs if output.get("name") == "stdout"]
    rows = dict(map(json.loads, printed))[name]
    assert len(rows) > 2
    assert rows.keys() <= {field.name for field in fields(EXPLORERS[name].State)}
    assert {field: [what for what, holds in row.items() if not holds] for field, row in rows.items()} == {
        field: [] for field in rows
    }


def test_no_widget_hides_an_error_or_has_no_state(executed: Any) -> None:
    assert notebooks.widget_errors(executed) == []
    views = [
        output.data["application/vnd.jupyter.widget-view+json"]
        for cell in executed.cells
        for output in cell.outputs
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert len(views) == len(EXPLORERS)
    assert not [output for cell in executed.cells for output in cell.outputs if output.get("name") == "stderr"]
