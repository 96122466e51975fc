import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import committed
import pytest
import torch

import chts_core as chts
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.results import paper, records
from chts_core.lab.results.statistics import mean_and_interval
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


# --- what the text says of the committed outputs ---


def test_the_text_of_stage_09_compares_the_nine_at_90_percent() -> None:
    rows = [
        row
        for name in ("language", "llama_warmup", "language_tiny")
        for row in records.read_runs(records.results_folder() / f"{name}.jsonl")
        if row["dataset"] == "tinyshakespeare" and row["recipe"]["size"] == "tiny" and row["sparsity"] in (0.0, 0.9)
        if row["method"] in METHODS and not row["recipe"].get("iterative_warmup")
    ]
    assert len(rows) == 9 * 3
    losses: dict[str, dict[int, float]] = {}
    for row in rows:
        losses.setdefault(row["method"], {})[row["seed"]] = row["validation"][-1]["loss"]

    def from_rival(method: str, rival: str) -> tuple[float, float]:
        return mean_and_interval([losses[method][seed] - losses[rival][seed] for seed in range(3)])

    words = committed.words("09")
    from_fc = [from_rival(method, "fc") for method in METHODS if method != "fc"]
    assert f"by {min(from_fc)[0]:.2f} to {max(from_fc)[0]:.2f} nats. No interval contains 0." in words
    assert all(mean > interval for mean, interval in from_fc)
    mean, interval = from_rival("mest", "set")
    assert mean < -interval
    assert f"**MEST is ahead of SET**, by {-mean:.3f} ± {interval:.3f} nats" in words
    assert from_rival("rigl", "set")[0] > from_rival("rigl", "set")[1]
    undecided = [from_rival(method, "set") for method in ("granet", "gmp", "cht", "chts", "chtss")]
    assert all(abs(mean) < interval for mean, interval in undecided)
    published = paper.PAPER_TABLE_2["60m"]
    ahead = {method: math.log(published["set"][0.9] / published[method][0.9]) for method in ("chts", "chtss")}
    assert f"CHTs is {ahead['chts']:.3f} nats ahead of SET, and CHTss is {ahead['chtss']:.3f} nats ahead" in words
    for method, advantage in ahead.items():
        mean, interval = from_rival(method, "set")
        assert mean - interval > -advantage


def test_stage_09_says_which_steps_vanish_in_bfloat16() -> None:
    words, printed = committed.words("09"), committed.printed("09")
    assert "a step below 1/512 of a weight always vanishes" in words
    assert "Just above a power of two, every step below about 1/256 of the weight vanishes" in words
    assert "Steps below 1/256 of a weight vanish" not in words
    for power in range(-8, 9):  # every number of bfloat16 in seventeen octaves, and what becomes of it
        weights = (2.0**power * torch.arange(128, 256) / 128).bfloat16()
        for sign in (1, -1):
            assert torch.equal((weights.float() * (1 + sign / 513)).bfloat16(), weights)
        just_above = weights[1].float()
        assert (just_above * (1 + 1 / 260)).bfloat16() == weights[1]
        assert (just_above * (1 + 1 / 257)).bfloat16() != weights[1]
        assert (weights[-1].float() * (1 + 1 / 509)).bfloat16() != weights[-1]
    for part, changed in ((255, 128), (351, 80), (451, 30), (513, 0)):
        # The weight n/128 changes if n/128/part > 1/256, that is if n > part/2.
        assert changed == sum(n > part / 2 for n in range(128, 256))
        assert f"a step of 1/{part} of the weight changes {changed} of 128 weights" in printed


def test_stage_09_shows_the_losses_from_both_first_weights() -> None:
    (table,) = (html for html in committed.shown("09", "text/html") if "0.02 everywhere" in html)
    cells = re.findall(r"<td>([\d.]+)</td>", table)
    told = re.search(
        r"FC reached a loss of ([\d.]+) nats, and the sparse network reached ([\d.]+)\. "
        r"With \$\\sigma = 1\$ in the embedding "
        r"and \$\\sigma = 1/\\sqrt n\$ elsewhere, FC reached ([\d.]+) and the sparse network reached ([\d.]+)\.",
        committed.words("09"),
    )
    assert told
    dense_small, sparse_small, dense_large, sparse_large = map(float, told.groups())
    assert list(map(float, cells)) == [sparse_small, dense_small, sparse_large, dense_large]


def test_stage_09_says_what_temperature_0_wrote() -> None:
    words, printed = committed.words("09"), committed.printed("09")
    coldest = printed.partition("--- temperature 0.0\n")[2].partition("\n\n---")[0]
    assert coldest.startswith("The statement")
    assert "Here this text ends after a few words" in words
    assert len(coldest.split()) < 10
    assert "leads into a loop" not in words


def test_stage_09_says_how_far_the_methods_are_from_fc() -> None:
    words, results = committed.words("09"), committed.record("09")
    per_cent = {
        row["method"]: 100 * math.expm1(row["difference"]) for row in results["differences"] if row["rival"] == "fc"
    }
    nearest = sorted(per_cent, key=lambda method: abs(per_cent[method]))[:2]
    assert sorted(nearest) == ["chtss", "gmp"]
    assert [f"{per_cent[method]:.1f}" for method in nearest] == ["-0.2", "-0.2"]
    assert "CHTss and GMP are nearest to FC: their perplexities are 0.2 % below FC's perplexity" in words
    assert min(per_cent, key=per_cent.__getitem__) == "granet"
    assert max(per_cent, key=per_cent.__getitem__) == "cht"
    assert (
        f"GraNet is {-per_cent['granet']:.1f} % below FC's perplexity, and CHT is {per_cent['cht']:.1f} % above"
        in words
    )
    shown = next(html for html in committed.shown("09", "text/html") if "perplexity minus fc (%)" in html)
    assert f"{per_cent['cht']:+.1f}" in shown
    assert "the perplexities of SET and CHT are about a third above FC's perplexity" in words
    table = paper.PAPER_TABLE_2["60m"]
    for method in ("set", "cht"):
        assert table[method][0.9] / table["fc"][0.0] == pytest.approx(4 / 3, abs=0.02)
    assert results["recipe"]["dense_learning_rate"] != results["recipe"]["learning_rate"]


def test_stage_09_draws_seven_sparse_matrices() -> None:
    (caption,) = (caption for caption in committed.captions("09") if "sparse matrices" in caption)
    assert "seven sparse matrices" in caption
    layers = language.plan_run("set", 0.9, RECIPE).budget.shapes
    assert sum(".layers.0." in name for name in layers) == 7
    pairs, chains = caption.partition("three chains: ")[::2]
    assert re.findall(r"\((\w+), (\w+)\)", pairs) == [("q", "k"), ("gate", "up")]
    assert re.findall(r"\((\w+), (\w+)\)", chains) == [("v", "o"), ("gate", "down"), ("up", "down")]


def test_stage_09_explains_its_words_before_it_uses_them() -> None:
    words = committed.words("09")
    for word, explained in {
        "nats": "the unit of the loss is the *nat*",
        "MFU": "the *model FLOPs utilisation*, which the progress bar calls MFU",
        "rotation": "encodes the position of a token by a *rotation*",
    }.items():
        assert words.index(word) > words.index(explained), word
    assert words.index("race") == words.index("race (all methods are trained in the same way and compared)")
    assert "A *race* trains every method for the same number of steps" in words


def test_stage_09_says_who_wins_at_which_rate() -> None:
    rows = records.read_runs(records.results_folder() / "language_rates.jsonl")
    losses: dict[str, dict[float, float]] = {"fc": {}, "set": {}}
    for row in rows:
        if row["recipe"]["size"] == "small" and row["method"] in losses:
            losses[row["method"]][row["recipe"]["learning_rate"]] = row["validation"][-1]["loss"]
    fc, sparse = losses["fc"], losses["set"]
    words = committed.words("09")
    loss = "has a loss of"
    assert f"FC {loss} {fc[0.0032]:.2f} nats at the rate 0.0032, and SET {loss} {sparse[0.004]:.2f} nats" in words
    assert f"SET {loss} {sparse[0.008]:.2f} nats at the rate 0.008, and FC {loss} {fc[0.0064]:.2f} nats" in words
    assert f"FC {loss} {min(fc.values()):.2f} nats and SET {loss} {min(sparse.values()):.2f} nats" in words
    assert fc[0.0064] - sparse[0.008] == pytest.approx(0.5, abs=0.05)


def test_stage_09_ends_with_questions_and_papers() -> None:
    questions, papers = committed.questions_and_papers("09")
    assert questions == 3
    assert 3 <= len(papers) <= 6
