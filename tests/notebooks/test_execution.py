"""The stage notebooks, run at the smallest profile."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

import chts_core as chts
from chts_core.lab import notebooks
from chts_core.lab.tour import comparison

Executed = Callable[[str], tuple[dict[str, Any], Any]]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """The record and the executed notebook of a stage; each is run once."""
    finished: dict[str, tuple[dict[str, Any], Any]] = {}

    def run(stage: str) -> tuple[dict[str, Any], Any]:
        if stage not in finished:
            path = notebooks.find(stage)
            out_dir = tmp_path_factory.mktemp("executed")
            record = notebooks.run(
                path, out_dir, {"profile": "ci", "device": "cpu"} if stage == "06" else {"profile": "ci"}
            )
            finished[stage] = record, nbformat.read(out_dir / path.name, as_version=4)
        return finished[stage]

    return run


STAGES = [path.stem for path in notebooks.stages()]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs(executed: Executed, stage: str) -> None:
    record, notebook = executed(stage[:2])
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
    record, _ = executed(stage[:2])
    assert 100 < record["results"]["memory_mb"] < 1.5 * notebooks.profile_settings(stage, "ci")["memory_mb"]


def test_the_networks_of_stage_01_have_the_same_number_of_links(executed: Executed) -> None:
    record, _ = executed("01")
    settings = notebooks.profile_settings("01_networks_as_masks", "ci")
    shape = settings["out_features"], settings["in_features"]
    links = chts.topology.link_count(*shape, 1 - record["parameters"]["sparsity"])
    assert record["results"]["links"] == links
    rows = {row["network"]: row for row in record["results"]["networks"]}
    assert len(rows) >= 5
    assert {row["links"] for row in rows.values()} == {links}
    assert rows["BRF, r = 0"]["inputs without a link"] == 0


def test_stage_06_races_four_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("06")
    settings, results = notebooks.profile_settings("06_mlp", "ci"), record["results"]
    hidden, seeds, sparsity = settings["hidden"], settings["seeds"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["sparsity"]) == (settings["dataset"], sparsity)
    assert (results["recipe"]["hidden"], results["recipe"]["epochs"]) == (hidden, settings["epochs"])

    shapes = [(hidden, 64), (hidden, hidden), (hidden, hidden)]
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    sparse = links / sum(rows * columns for rows, columns in shapes)
    densities = {"fc": 1, "set": sparse, "chts": sparse, "chtss": sparse}
    assert {row["method"]: row["density"] for row in results["methods"]} == densities
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [
        (method, seed) for method in densities for seed in range(seeds)
    ]
    for run in results["runs"]:
        assert run["density"] == densities[run["method"]]
        assert len(run["validation_accuracy"]) == settings["epochs"]
    for row in results["methods"]:
        assert row["runs"] == seeds
        assert row["accuracy"] > (0.9 if row["method"] == "fc" else 0.2)  # chance is 0.1
        assert row["interval"] >= 0
    assert [row["method"] for row in comparison([record])] == list(densities)


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
