import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.train import language

Executed = Callable[[str], tuple[dict[str, Any], Any]]
METHODS = list(chts.METHODS)
RECIPE = replace(language.RECIPES["tiny_ci"], steps=24)


def test_stage_09_races_nine_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("09")
    results, sparsity = record["results"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["method"], results["sparsity"]) == ("python_reference", "chts", sparsity)
    assert results["recipe"] == json.loads(json.dumps(asdict(RECIPE)))
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [(method, 0) for method in METHODS]
    shapes = [(128, 128)] * 16 + [(344, 128)] * 8 + [(128, 344)] * 4
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    dense = sum(out * in_ for out, in_ in shapes)
    for run in results["runs"]:
        assert run["links"] == (dense if run["method"] == "fc" else links)
        assert [look["step"] for look in run["validation"]] == [20, 24]
        # Seconds of training: well below guessing, log 1024 = 6.9, and still falling.
        assert run["validation"][-1]["loss"] < 5.5
        assert run["validation"][-1]["loss"] < run["validation"][0]["loss"]
    assert [row["method"] for row in comparison([record])] == METHODS


def test_stage_09_tells_what_equal_steps_cost(executed: Executed) -> None:
    results = executed("09")[0]["results"]
    flops = {row["method"]: row["flops"] for row in results["methods"]}
    assert flops["fc"] == 1
    assert flops["set"] == flops["cht"] == flops["chts"] < flops["rigl"]
    assert results["predicted_seconds"] > 0
    assert results["measured_seconds"] == pytest.approx(sum(run["seconds"] for run in results["runs"]), abs=1)


def test_stage_09_pairs_its_differences(executed: Executed) -> None:
    results = executed("09")[0]["results"]
    loss = {run["method"]: run["validation"][-1]["loss"] for run in results["runs"]}
    for row in results["differences"]:
        assert row["difference"] == pytest.approx(loss[row["method"]] - loss[row["rival"]], abs=2e-4)


def test_stage_09_writes_a_text(executed: Executed) -> None:
    _, notebook = executed("09")
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    for temperature in (0.0, 0.7, 1.0):
        assert f"--- temperature {temperature}\nThe statement" in printed
