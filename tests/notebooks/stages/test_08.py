import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

import chts_core as chts
from chts_core.lab.models import TRANSFORMER_SIZES
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.results import records
from chts_core.lab.results.statistics import mean_and_interval
from chts_core.lab.train import translation

Executed = Callable[[str], tuple[dict[str, Any], Any]]
METHODS = list(chts.METHODS)
RECIPE = replace(translation.RECIPES["number_words_ci"], steps=40)


def outputs(notebook: Any, kind: str) -> str:
    """What all cells put out of a kind, one after the other."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", "") if kind == "text" else output.get("data", {}).get(kind, ""))
    return "\n".join(found)


def test_stage_08_races_nine_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("08")
    results, sparsity = record["results"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["method"], results["sparsity"]) == ("number_words", "chts", sparsity)
    assert results["recipe"] == json.loads(json.dumps(asdict(RECIPE)))
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [(method, 0) for method in METHODS]

    width, fed = TRANSFORMER_SIZES["tiny"].width, TRANSFORMER_SIZES["tiny"].feed_forward
    shapes = [(width, width)] * 12 + [(width, fed), (fed, width)] * 2
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    dense = sum(out * in_ for out, in_ in shapes)
    for run in results["runs"]:
        assert run["links"] == (dense if run["method"] == "fc" else links)
        assert [look["step"] for look in run["validation"]] == [25, 40]
        # A few seconds of training: well below guessing, log 400 = 6.0, but no translator yet.
        assert run["validation"][-1]["loss"] < min(3, run["validation"][0]["loss"])
        assert all(0 <= score <= 100 for score in run["test"].values())
    assert [row["method"] for row in comparison([record])] == METHODS


def test_stage_08_tells_what_equal_steps_cost(executed: Executed) -> None:
    results = executed("08")[0]["results"]
    flops = {row["method"]: row["flops"] for row in results["methods"]}
    assert flops["fc"] == 1
    assert flops["set"] == flops["cht"] == flops["chts"] < flops["rigl"]
    assert all(flops[method] > flops["chts"] for method in ("mest", "gmp", "granet", "chtss"))
    assert results["predicted_seconds"] > 0
    assert results["measured_seconds"] == pytest.approx(sum(run["seconds"] for run in results["runs"]), abs=1)


def test_stage_08_pairs_its_differences(executed: Executed) -> None:
    results = executed("08")[0]["results"]
    bleu = {run["method"]: run["test"]["bleu"] for run in results["runs"]}
    assert [row["rival"] for row in results["differences"]] == ["fc"] * 8 + ["chts"] * 8
    for row in results["differences"]:
        assert row["difference"] == pytest.approx(bleu[row["method"]] - bleu[row["rival"]], abs=0.02)
        assert row["interval"] is None  # one seed


def test_stage_08_chooses_the_beam_on_validation(executed: Executed) -> None:
    beams = executed("08")[0]["results"]["beams"]
    assert [row["beam"] for row in beams] == [1, 2, 4]
    assert all(0 <= row[score] <= 100 for row in beams for score in ("BLEU", "exact (%)"))


def test_stage_08_shows_the_recorded_runs_as_they_are(executed: Executed) -> None:
    """The table of the number words has the means that the records give."""
    html = outputs(executed("08")[1], "text/html")
    rows = records.read_lines(records.results_folder() / "translation.jsonl")
    for method, sparsity in (("set", 0.95), ("chtss", 0.9)):
        exact = [
            row["test"]["exact"]
            for row in rows
            if (row["dataset"], row["method"], row["sparsity"]) == ("number_words", method, sparsity)
        ]
        mean, interval = mean_and_interval(exact)
        assert f"{mean:.1f} ± {interval:.1f}" in html


def test_stage_08_settles_its_recipe_by_profile_and_data_set() -> None:
    for profile, dataset, name in (
        ("ci", "number_words", "number_words_ci"),
        ("laptop", "multi30k", "multi30k_small"),
        ("paper", "wmt17", "wmt"),
    ):
        settings = notebooks.start("08_translation_transformer", profile, dataset=dataset, recipe="", steps=0)
        assert (settings.recipes[settings.dataset], settings.recipe) == (name, "")
