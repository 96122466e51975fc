import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import committed
import pytest
import torch

import chts_core as chts
from chts_core.engine.layers import all_layers
from chts_core.lab import models
from chts_core.lab.models import TRANSFORMER_SIZES
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.results import records, translators
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


def test_stage_08_compares_beams_on_validation(executed: Executed) -> None:
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


def test_the_tables_of_stage_08_by_hand() -> None:
    kept = translators.weights_kept("tiny", 400, 0.9)
    assert kept["embedding"] == 400 * 128
    assert kept["can be sparse"] == 12 * 128 * 128 + 4 * 128 * 256
    assert kept["links"] == 32_768
    dense = kept["weights"] - kept["can be sparse"]
    assert kept["kept"] == pytest.approx((dense + 32_768) / kept["weights"])

    def row(method: str, sparsity: float, seed: int, bleu: float, seconds: float) -> dict[str, Any]:
        settings = {"method": method, "sparsity": sparsity, "seed": seed, "seconds": seconds}
        return settings | {"test": {"bleu": bleu}, "validation": [{"loss": bleu / 10}]}

    rows = [row("fc", 0.0, 0, 20, 30), row("fc", 0.0, 1, 22, 20), row("set", 0.9, 0, 21, 5), row("chts", 0.9, 0, 24, 8)]
    fc, of_set, of_chts = translators.beside(rows, "bleu")
    # Two seeds: t is 12.706 with one degree of freedom, and √2/√2 = 1 is the standard error.
    assert fc == {
        "method": "FC",
        "sparsity": "",
        "runs": "2",
        "bleu": "21.0 ± 12.7",
        "minus fc": "",
        "minus chts": "",
    }
    assert (of_set["sparsity"], of_set["minus fc"], of_set["minus chts"]) == ("90%", "+1.0", "-3.0")
    assert (of_chts["minus fc"], of_chts["minus chts"]) == ("+4.0", "")
    assert translators.beside(rows, "validation_loss", digits=2)[1]["minus fc"] == "+0.10"
    assert [row["times as fast as FC"] for row in translators.times_as_fast(rows)] == ["1.00", "4.00", "2.50"]


def test_stage_08_settles_its_recipe_by_profile_and_data_set() -> None:
    for profile, dataset, name in (
        ("ci", "number_words", "number_words_ci"),
        ("laptop", "multi30k", "multi30k_small"),
        ("paper", "wmt17", "wmt"),
    ):
        settings = notebooks.start("08_translation_transformer", profile, dataset=dataset, recipe="", steps=0)
        assert (settings.recipes[settings.dataset], settings.recipe) == (name, "")


# --- what the text says of the committed outputs ---


def test_stage_08_says_that_fc_comes_last_and_has_another_learning_rate() -> None:
    words, results = committed.words("08"), committed.record("08")
    assert "FC comes last, in BLEU and in `exact`" in words
    for score in ("bleu", "exact"):
        assert min(results["methods"], key=lambda row: row[score])["method"] == "fc"
    recipe = results["recipe"]
    assert recipe["learning_rate"] == 2 * recipe["dense_learning_rate"]
    assert "FC trains with half the learning rate of the sparse methods" in words
    assert "factor c of the learning rate: FC 0.5, sparse methods 1" in committed.printed("08")
    # The trials of the rates, as results/README.md has them: number words, 600 steps, the methods of revision 1.
    assert translation.RECIPES["number_words"].steps == 600 == 2 * recipe["steps"]
    told = (records.results_folder() / "README.md").read_text("utf-8")
    assert "FC, number words, 600 steps" in told
    assert "tuned for none" not in words


def test_stage_08_says_that_fc_has_the_highest_mean_of_the_longer_runs() -> None:
    assert "In the longer runs below, FC has the highest mean of `exact`." in committed.words("08")
    rows = [row for row in translation.recorded() if row["dataset"] == "number_words"]
    assert max(translation.mean_scores(rows, "exact"), key=lambda row: row["mean"])["method"] == "fc"


def test_stage_08_says_which_beam_validation_prefers_and_which_it_uses() -> None:
    results, words = committed.record("08"), committed.words("08")
    bleu = {row["beam"]: row["BLEU"] for row in results["beams"]}
    best, used = max(bleu, key=bleu.__getitem__), results["recipe"]["beam"]
    assert f"highest validation BLEU: beam {best}; used for the test: beam {used}" in committed.printed("08")
    more = f"{bleu[best] - bleu[used]:.1f} more than a beam of {used}"
    assert f"a beam of {best} has the highest BLEU on these pairs, {more}" in words
    assert translation.RECIPES["multi30k"].beam == used == 2
    assert {row["recipe"]["beam"] for row in translation.recorded()} == {used}


def test_stage_08_names_the_warm_up_steps_of_the_paper_and_of_the_run() -> None:
    printed, recipe = committed.printed("08"), committed.record("08")["recipe"]
    assert "The paper gives the sparse methods 20 *iterative warm-up steps*" in committed.words("08")
    assert (recipe["iterative_warmup"], recipe["update_every"]) == (3, 15)
    assert "paper: 20 warm-up steps, 20% of the 100 steps between updates" in printed
    assert "this run: 3 warm-up steps, 20% of the 15 steps between updates" in printed


def test_stage_08_says_how_the_learning_rates_of_multi30k_were_found() -> None:
    assert (
        "The sparse methods share the factor 1, although CHTs had a lower loss with the factor 2 "
        "in runs of this length." in committed.words("08")
    )
    recipe = translation.RECIPES["multi30k_small"]
    assert (recipe.dense_learning_rate, recipe.learning_rate) == (0.5, 1.0)
    told = (records.results_folder() / "README.md").read_text("utf-8")
    # Of each factor the loss of FC and of CHTs on Multi30k, after 300 steps.
    below = told.partition("| FC, Multi30k, 300 steps |")[2]
    rows = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (.+) \|$", below, re.MULTILINE)[:4]]
    of_fc = {float(row[0]): float(row[-2]) for row in rows if row[-2]}
    of_chts = {float(row[0]): float(row[-1]) for row in rows if row[-1]}
    assert (sorted(of_fc), sorted(of_chts)) == ([0.25, 0.5, 1], [0.5, 1, 2])
    assert min(of_fc, key=of_fc.__getitem__) == recipe.dense_learning_rate
    assert of_chts[2] < of_chts[1]


def test_stage_08_counts_the_matrices_of_its_drawing() -> None:
    (caption,) = (caption for caption in committed.captions("08") if "sparse matrices" in caption)
    with torch.device("meta"):
        model = models.Transformer(11, TRANSFORMER_SIZES["tiny"])
    encoder, decoder = (len(all_layers(layers[0])) for layers in (model.encoder, model.decoder))
    assert (encoder, decoder - encoder) == (6, 4)
    assert "One layer of our encoder has six sparse matrices" in caption
    assert "second attention block with four more" in caption
    assert model.generator.weight is model.embedding.weight


def test_stage_08_ends_with_questions_and_papers() -> None:
    questions, papers = committed.questions_and_papers("08")
    assert questions == 3
    assert 3 <= len(papers) <= 6


def test_stage_08_explains_its_unit_before_it_is_used() -> None:
    words = committed.words("08")
    assert words.index("the unit of the loss is the *nat*") == words.index("*nat*") - len(
        "the unit of the loss is the "
    )
    assert re.search(r"\bnats?\b", words).start() > words.index("the unit of the loss is the")  # type: ignore[union-attr]
    assert words.index("race") == words.index("race (all methods are trained in the same way and compared)")
    assert "A *race* trains every method for the same number of steps" in words
