"""Every stage notebook runs at the smallest profile, with its exercises as they are and solved."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from chts_core.lab.notebook import notebooks
from chts_core.lab.teach.decks import read_deck
from chts_core.lab.teach.slides import write_slides

Executed = Callable[[str], tuple[dict[str, Any], Any]]
STAGES = [path.stem for path in notebooks.stages()]


def number(stage: str) -> str:
    return stage.partition("_")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs(executed: Executed, stage: str) -> None:
    record, notebook = executed(number(stage))
    assert (record["status"], record["error"]) == ("done", None)
    assert record["parameters"]["profile"] == "ci"
    assert set(record["parameters"]) == set(notebooks.parameters(notebooks.find(stage)))
    assert record["results"]
    complaints = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert complaints == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_no_more_memory_than_it_said(executed: Executed, stage: str) -> None:
    record, _ = executed(number(stage))
    assert 100 < record["peak_memory_mb"] < 1.5 * record["expected"]["memory_mb"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_solutions_of_a_stage_pass_its_checks(executed: Executed, stage: str) -> None:
    _, notebook = executed(number(stage))
    checks = [cell for cell in notebook.cells if "check" in cell.metadata.get("tags", [])]
    assert checks
    for cell in checks:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert "Correct." in said, said
        assert "Not yet" not in said, said


@pytest.mark.parametrize(
    "deck", sorted((notebooks.folder() / "teaching" / "slides").glob("*.md")), ids=lambda d: d.stem
)
def test_the_slides_of_another_run_find_their_figures(executed: Executed, deck: Path, tmp_path: Path) -> None:
    # The published pages have the profile laptop. A caption may hold numbers of its run.
    _, notebook = executed(number(deck.stem))
    nbformat.write(notebook, tmp_path / f"{deck.stem}.ipynb")
    page = write_slides(tmp_path / f"{deck.stem}.ipynb", tmp_path).read_text("utf-8")
    assert page.count('<section class="written">') == len(read_deck(deck.read_text("utf-8")))


@pytest.mark.full  # that each notebook checks its parameters is read off its code in test_sources.py
def test_a_wrong_parameter_stops_the_notebook_even_without_the_command(tmp_path: Path) -> None:
    # Papermill hands over anything, so the refusal is the notebook's own.
    with pytest.raises(PapermillExecutionError) as failure:
        papermill.execute_notebook(
            str(notebooks.find("01")),
            str(tmp_path / "out.ipynb"),
            parameters={"profile": "ci", "sparsity": 1.5},
            kernel_name="python3",
            progress_bar=False,
        )
    assert failure.value.ename == "ValueError"
    assert failure.value.evalue == "parameter sparsity is 1.5; expected a number in [0, 1)."
    assert re.search(r"notebooks\.start", failure.value.source)
