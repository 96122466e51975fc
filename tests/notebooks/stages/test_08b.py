"""Stage 08b: the search and the scores that it works out by hand."""

import math
from collections.abc import Callable
from typing import Any

import committed
import pytest

from chts_core.lab import scores

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_08b_finds_and_scores_what_it_says(executed: Executed) -> None:
    record, _ = executed("08b")
    assert record["status"] == "done", record["error"]
    results = record["results"]
    assert results["subwords"] == 400
    assert results["found"]["pieces"] == ["zwei", "·undvierzig"]
    assert results["found"]["score"] == pytest.approx(math.log(0.36) / (8 / 6) ** 0.6, abs=1e-4)
    assert results["by_hand"]["wrong month"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, abs=0.01)
    assert results["by_hand"]["one word"] == 0
    assert results["signature"] == scores.bleu(["a"], ["a"], lowercase=False).signature


# --- what the text says of the committed outputs ---


def test_stage_08b_says_what_greedy_decoding_misses() -> None:
    words, printed = committed.words("08b"), committed.printed("08b")
    assert (
        "Greedy decoding takes *vier* first and reaches a probability of 0.6 · 0.4 = 0.24. "
        "The most likely translation has a probability of 0.4 · 0.9 = 0.36," in words
    )
    assert "beam 1: {'vier·hundert': 0.24}" in printed
    assert "beam 2: {'zwei·undvierzig': 0.36, 'vier·hundert': 0.24}" in printed


def test_stage_08b_says_what_bleu_sees() -> None:
    words, printed = committed.words("08b"), committed.printed("08b")
    assert "= 53.7$$" in words
    assert " 53.73  Montag , der dritte Mai zweitausend" in printed
    assert "<details><summary>What you should have seen</summary> BLEU is 0. A single word has no pairs" in words
    assert "BLEU of one right word: 0, exact: 100%" in printed


def test_stage_08b_ends_with_papers() -> None:
    _, _, reading = committed.words("08b").partition("## Further reading ")
    assert 3 <= reading.count("- ") <= 6
