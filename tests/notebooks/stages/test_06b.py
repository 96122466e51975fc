"""Stage 06b: each patient is found by its own checks."""

from collections.abc import Callable
from typing import Any

import pytest

from chts_core.lab.verify import injected_bugs, update_curves

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_what_the_ward_round_found(executed: Executed) -> None:
    record, _ = executed("06b")
    assert record["status"] == "done", record["error"]
    results = record["results"]
    ward = {row["fault"]: row for row in results["patients"]}
    assert ward.pop("healthy")["found by"] == "nothing"
    assert {name: set(row["found by"].split(", ")) for name, row in ward.items()} == injected_bugs.SIGNATURES
    assert ward["collapsed layer"]["loss at the end"] == pytest.approx(2.303, abs=0.03)
    assert ward["outliving decay"]["density"] == pytest.approx(0.118, abs=0.001)
    assert ward["forgotten mask"]["weights not zero"] > 3 * ward["forgotten mask"]["density"]
    assert results["absent links with momentum"] > 0
    assert results["absent links with a weight"] > 0
    assert results["gained by both seeds, called soft"] > results["gained by both seeds, soft"] + 0.2
    assert results["diagnosis"] == update_curves.drawn(0)
