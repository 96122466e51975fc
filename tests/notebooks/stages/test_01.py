import re
from collections.abc import Callable
from typing import Any

import nbformat
import pytest

import chts_core as chts
from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


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


def test_stage_01_compares_five_networks_with_their_null(executed: Executed) -> None:
    record, _ = executed("01")
    settings = notebooks.profile_settings("01_networks_as_masks", "ci")
    rows = {row["network"]: row for row in record["results"]["five"]}
    assert list(rows) == ["ER", "BSW", "BSF", "BRF", "CSTI"]
    assert {row["links"] for row in rows.values()} == {chts.topology.link_count(settings["out_features"], 64, 0.1)}
    clustered = {name: row["clustering"] / row["null_clustering"] for name, row in rows.items()}  # times the null
    assert 0.8 < clustered["ER"] < 1.2
    assert all(clustered[name] > 1.4 for name in ("BSW", "BSF", "BRF", "CSTI"))
    for name, row in rows.items():
        assert row["sigma"] == pytest.approx(clustered[name] * row["null_path_length"] / row["path_length"])
    assert [name for name, row in rows.items() if row["sigma"] > 1.2] == ["BSW", "BSF", "BRF", "CSTI"]
    assert max(rows, key=lambda name: rows[name]["path_length"]) == "BRF"
    assert min(rows, key=lambda name: rows[name]["path_length"]) == "BSF"
    assert max(rows, key=lambda name: rows[name]["highest input degree"]) == "BSF"


def printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_solution_says_what_beta_does(executed: Executed) -> None:
    # "At β = 0.1, the paths are nearly as short as at β = 1,
    # and more than half of the clustering of the lattice is left."
    line = r"^96 × 64, 600 links, β = ([\d.]+): clustering ([\d.]+), path length ([\d.]+)$"
    rows = re.findall(line, printed(executed("01")[1]), re.MULTILINE)
    assert [beta for beta, _, _ in rows] == ["0.0", "0.1", "1.0"]
    (lattice, long), (small, short), (_, shortest) = ((float(c), float(length)) for _, c, length in rows)
    assert small > 0.5 * lattice
    assert short - shortest < 0.2 * (long - shortest)


def test_the_solution_tells_the_correlations_that_the_solved_exercise_prints(executed: Executed) -> None:
    line = r"^mean correlation of linked pixels, ([\w ]+): ([\d.]+)$"
    found = dict(re.findall(line, printed(executed("01")[1]), re.MULTILINE))
    cells = nbformat.read(notebooks.find("01"), as_version=4).cells
    text = " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())
    assert f"is {found['your layer']} in your layer, {found['BRF']} in BRF and {found['ER']} in ER" in text


def test_the_unknown_networks_are_those_of_the_solution(executed: Executed) -> None:
    assert printed(executed("01")[1]).count("Correct.") == 6  # the check of the names among them
