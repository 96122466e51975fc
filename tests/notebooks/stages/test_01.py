from collections.abc import Callable
from typing import Any

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
