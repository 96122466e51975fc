"""The main claims: the paper's numbers, ours, and what an interval says."""

from statistics import fmean

import pytest

from chts_core.lab.results import standing, tables

ROWS = {row["claim"]: row for row in standing.standing()}


def test_numbers_of_the_paper_are_those_of_its_tables() -> None:
    # 90.67 - 89.00; 28.94 - 28.99 and 21.15 - 18.53; log(35.26 / 33.03); 32.03 - 31.38; 32.79 - 28.92.
    numbers = [row["paper"] for row in ROWS.values()]
    assert numbers[0] == "+1.67 points on Fashion-MNIST at 99 % (MLP table)"
    assert numbers[1] == "-0.05 BLEU on Multi30k and +2.62 on IWSLT14, at 95 % (Table 1)"
    assert numbers[2].startswith("+0.065 nats")
    assert numbers[3].startswith("+0.65 BLEU")
    assert numbers[4].startswith("+3.87 BLEU for CHTss")
    assert numbers[-1] == "perplexity 25.85 in bfloat16, 18.34 in float32 (130M, 70 %)"


def test_an_advantage_has_the_sign_of_the_claim() -> None:
    translators = [row for row in tables.runs("translation") if row["dataset"] == "multi30k"]
    chts, set_ = (fmean(map(tables.bleu, tables.of_method(translators, method, 0.95))) for method in ("chts", "set"))
    assert ROWS["CHTs is ahead of SET in translation"]["advantage"] == pytest.approx(chts - set_)
    fashion = [row for row in tables.runs("mlp_paper") if row["dataset"] == "fashion_mnist"]
    narrow = [row for row in tables.runs("small_dense") if row["recipe"]["hidden"] == 81]
    chts, set_, fc = (
        fmean(map(tables.score, tables.of_method(rows, method)))
        for rows, method in ((fashion, "chts/paper_mlp_fashion"), (fashion, "set"), (narrow, "fc"))
    )
    assert ROWS["CHTs is ahead of SET in an MLP"]["advantage"] == pytest.approx(chts - set_)
    small = "a sparse network is ahead of a dense network with as many weights, on Fashion-MNIST"
    assert ROWS[small]["advantage"] == pytest.approx(chts - fc)
    updated = [row for row in tables.runs("llama_warmup") if row["recipe"]["iterative_warmup"] == 0]
    language = [
        row for row in tables.runs("language") if (row["dataset"], row["recipe"]["size"]) == ("tinyshakespeare", "tiny")
    ]
    losses = [
        fmean(map(tables.last_loss, tables.of_method(rows, method, 0.9)))
        for rows, method in ((updated, "chts"), (language, "set"))
    ]
    assert ROWS["CHTs is ahead of SET in a language model"]["advantage"] == pytest.approx(losses[1] - losses[0])


def test_runs_of_a_language_model_have_one_recipe_and_one_text() -> None:
    (updated, *_) = [row for row in tables.runs("llama_warmup") if row["recipe"]["iterative_warmup"] == 0]
    language = next(
        row
        for row in tables.runs("language")
        if (row["dataset"], row["recipe"]["size"], row["method"]) == ("tinyshakespeare", "tiny", "set")
    )
    assert updated["data"] == language["data"]
    differ = {name for name, value in language["recipe"].items() if updated["recipe"][name] != value}
    assert differ <= {"execution"}


@pytest.mark.parametrize("claim", ROWS)
def test_how_sure_is_what_the_interval_says(claim: str) -> None:
    row = ROWS[claim]
    if row["advantage"] is None:
        assert (row["verdict"], row["how_sure"], row["needed"]) == ("untested", "no runs here", None)
        return
    decided = abs(row["advantage"]) > row["interval"]
    assert decided == (row["verdict"] != "undecided")
    assert (row["needed"] <= row["seeds"]) == decided
    assert row["settle"]
    assert row["where"]
