import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chts_core.lab import scores
from chts_core.lab.scores import Score

# With what the tokenizer and lower case act upon: punctuation, numbers, umlauts, markup, blanks, an empty line.
REFERENCES = [
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.",
    "Zwei Hunde spielen im Schnee, während Kinder zusehen.",
    "Das kostet 1.250,50 Euro - oder 3,5 % mehr; „teuer“!",
    "Eine Frau mit Locken übt Geige.",
    "R&amp;B-Musik läuft (leise) im 3. Stock.",
    "Öl und Wasser",
]
HYPOTHESES = [
    "Ein Mann in einem blauen hemd steht auf einer Leiter und putzt das Fenster.",
    "Zwei hunde spielen im Schnee, während die Kinder zusehen.",
    "Das kostet 1.250,50 euro - oder 3,5% mehr; „teuer“ !",
    "Eine Frau mit Locken spielt  Geige . ",
    "R&B-Musik läuft (leise) im 3. Stock.",
    "",
]
METRICS: dict[str, tuple[list[str], Callable[[Sequence[str], Sequence[str]], Score]]] = {
    "bleu": (["-m", "bleu"], lambda *pairs: scores.bleu(*pairs, lowercase=False)),
    "bleu, lower case": (["-m", "bleu", "-lc"], lambda *pairs: scores.bleu(*pairs, lowercase=True)),
    "chrf": (["-m", "chrf"], scores.chrf),
}
SCORERS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: score for name, (_, score) in METRICS.items()},
    "exact_share": scores.exact_share,
}


def value(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool = False) -> float:
    return scores.bleu(hypotheses, references, lowercase=lowercase).value


# --- BLEU ---


@pytest.mark.parametrize("metric", METRICS)
def test_score_and_signature_are_those_of_the_sacrebleu_command(tmp_path: Path, metric: str) -> None:
    options, score = METRICS[metric]
    files = {"references": REFERENCES, "hypotheses": HYPOTHESES}
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", *options, "-w", "10"]
    said = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout)
    ours = score(HYPOTHESES, REFERENCES)
    assert ours.value == pytest.approx(said["score"], abs=1e-10)
    assert ours.signature == said["signature"]
    assert 20 < ours.value < 90  # neither nothing nor everything agrees


def test_the_two_kinds_of_bleu_differ_in_case_alone() -> None:
    mixed, lower = (scores.bleu(HYPOTHESES, REFERENCES, lowercase=lowercase) for lowercase in (False, True))
    assert mixed.signature.rsplit("|", 1)[0] == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
    assert lower.signature == mixed.signature.replace("case:mixed", "case:lc")
    assert lower.value > mixed.value
    texts = [[line.lower() for line in lines] for lines in (HYPOTHESES, REFERENCES)]
    assert lower.value == value(*texts)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        # 5 of 6 words ("the" counts once), 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples.
        ("the cat sat on the mat", "the cat sat on a mat", 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)),
        # All n-grams agree, but four words stand for six.
        ("the cat sat on", "the cat sat on a mat", 100 * math.exp(1 - 6 / 4)),
        # Too long costs precision alone: 4/6, 3/5, 2/4, 1/3.
        ("the cat sat on a mat", "the cat sat on", 100 * (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)),
        # No triple and no quadruple agrees: they count as a half of one and a quarter of one.
        ("a b x c d", "a b y c d", 100 * (4 / 5 * 2 / 4 * 0.5 / 3 * 0.25 / 2) ** (1 / 4)),
        ("a b c d e", "a b c d e", 100),
        ("a b c d e", "v w x y z", 0),
    ],
)
def test_bleu_of_examples_done_by_hand(hypothesis: str, reference: str, expected: float) -> None:
    assert value([hypothesis], [reference]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def bleu_by_definition(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Geometric mean of the clipped precisions of n-grams of 1 to 4 words, times the penalty for short texts.

    The k-th precision without a match counts as 2^-k matches; without any match at all BLEU is zero.
    """
    logarithm, unmatched = 0.0, 0
    length, expected_length = (sum(len(line.split()) for line in lines) for lines in (hypotheses, references))
    for order in range(1, 5):
        matches, total = 0.0, 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            counts, allowed = (
                Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
                for words in (hypothesis.split(), reference.split())
            )
            total += sum(counts.values())
            matches += sum(min(count, allowed[gram]) for gram, count in counts.items())
        if total == 0 or (order == 1 and matches == 0):
            return 0.0
        if matches == 0:
            unmatched += 1
            matches = 2.0**-unmatched
        logarithm += math.log(matches / total) / 4
    return 100 * min(1.0, math.exp(1 - expected_length / length)) * math.exp(logarithm)


SENTENCES = st.lists(st.sampled_from(["ein", "Hund", "im", "Haus"]), min_size=1, max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5)


@given(PAIRS)
def test_bleu_is_its_definition_and_between_0_and_100(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = ([pair[side] for pair in pairs] for side in (0, 1))
    ours = value(hypotheses, references)
    assert 0 <= ours <= 100
    assert ours == pytest.approx(bleu_by_definition(hypotheses, references), rel=1e-9, abs=1e-9)


@given(st.lists(SENTENCES.map("ein Hund im {}".format), min_size=1, max_size=5))
def test_scores_of_the_references_themselves_are_the_highest(sentences: list[str]) -> None:
    assert value(sentences, sentences) == pytest.approx(100, rel=1e-12)
    assert value(sentences, sentences) <= 100
    assert scores.chrf(sentences, sentences).value == 100
    assert scores.exact_share(sentences, sentences) == 1


# --- chrF and the share of exact sentences ---


def test_chrf_sees_letters_where_bleu_sees_words() -> None:
    assert scores.chrf(["Haustür"], ["Haustüren"]).value > 60
    assert value(["Haustür"], ["Haustüren"]) == 0
    assert scores.chrf(["abc"], ["xyz"]).value == 0


@pytest.mark.parametrize(
    ("hypotheses", "share"),
    [
        (["eins", "zwei", "drei", "vier"], 1),
        (["eins", "zwei", "drei", "Vier"], 3 / 4),
        (["eins ", "zwei.", "", "vier"], 1 / 4),
        (["zwei", "eins", "vier", "drei"], 0),
    ],
)
def test_exact_share_counts_sentences_equal_in_every_character(hypotheses: list[str], share: float) -> None:
    assert scores.exact_share(hypotheses, ["eins", "zwei", "drei", "vier"]) == share


# --- bad input ---


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    ("hypotheses", "references", "error", "message"),
    [
        (["a", "b"], ["a"], ValueError, "there are 2 hypotheses but 1 references; give one reference for each"),
        ([], ["a"], ValueError, "there are 0 hypotheses but 1 references"),
        ([], [], ValueError, "there are no sentences; give at least one"),
        ("a", ["a"], TypeError, r"hypotheses is one string; expected a list of sentences, so write \[hypotheses\]"),
        (["a"], "a", TypeError, r"references is one string; .* so write \[references\]"),
        (iter(["a"]), ["a"], TypeError, r"hypotheses is of type list_iterator; expected a list, so write list\("),
        (["a", None], ["a", "b"], TypeError, r"hypotheses\[1\] is of type NoneType; expected a str"),
        (["a"], [["a"]], TypeError, r"references\[0\] is of type list; expected a str, one reference"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    scorer: str, hypotheses: Any, references: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SCORERS[scorer](hypotheses, references)
