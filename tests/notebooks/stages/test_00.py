from collections.abc import Callable
from typing import Any

from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.glossary import GLOSSARY

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_00_trains_dense_and_sparse(executed: Executed) -> None:
    record, _ = executed("00")
    dense, sparse = record["results"]["runs"]
    assert (dense["method"], sparse["method"]) == ("fc", "chts")
    assert dense["density"] == 1
    assert abs(sparse["density"] - 0.05) < 0.001
    assert dense["validation_accuracy"][-1] > 0.9
    # "A few points at most" is what the reader is told.
    assert -0.02 < dense["validation_accuracy"][-1] - sparse["validation_accuracy"][-1] < 0.1


def test_stage_00_maps_all_stages_and_terms(executed: Executed) -> None:
    record, notebook = executed("00")
    assert record["results"]["terms"] == len(GLOSSARY)
    assert record["results"]["stages"] == [
        {"stage": stage.number, "minutes": stage.minutes} for stage in notebooks.overview("ci")
    ]
    tables = [
        output["data"]["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result"
    ]
    assert all(f"]({path.name})" in tables[0] for path in notebooks.stages())
    assert all(f"**{term.name}**" in tables[-1] for term in GLOSSARY)
