"""Scores of translations: BLEU and chrF, computed with sacrebleu, and the share of exactly right sentences."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A score from 0 to 100, and sacrebleu's signature, which lists all settings of the score.

    Two scores are comparable only if their signatures are equal.
    """

    value: float
    signature: str


def bleu(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool) -> Score:
    """BLEU of a corpus (Papineni et al. 2002, https://aclanthology.org/P02-1040), as standardised by sacrebleu.

    Args:
        hypotheses, references: one translation and one reference per sentence, as plain text; sacrebleu splits them
            into words ("13a", as WMT does).
        lowercase: False for the standard score; True for a score that is close to the scores in papers whose authors
            first turn the texts into lower case and split them into words.

    Raises:
        TypeError, ValueError: if the arguments are not two equally long lists of strings, or if the lists are empty.
    """
    from sacrebleu.metrics.bleu import BLEU  # the import takes a quarter of a second

    _check(hypotheses, references)
    metric = BLEU(tokenize="13a", lowercase=lowercase)
    value = min(metric.corpus_score(hypotheses, [references]).score, 100.0)  # rounding may push a score above 100
    return Score(value, str(metric.get_signature()))


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """chrF2 of a corpus, the agreement of character n-grams (Popović 2015, https://aclanthology.org/W15-3049).

    Raises:
        TypeError, ValueError: as in `bleu`.
    """
    from sacrebleu.metrics.chrf import CHRF

    _check(hypotheses, references)
    metric = CHRF()
    value = metric.corpus_score(hypotheses, [references]).score
    return Score(value, str(metric.get_signature()))


def exact_share(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Share of the sentences, from 0 to 1, that equal their reference in every character.

    Raises:
        TypeError, ValueError: as in `bleu`.
    """
    _check(hypotheses, references)
    return sum(map(str.__eq__, hypotheses, references)) / len(references)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    for name, sentences in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(sentences, str):
            raise TypeError(f"{name} is one string; expected a list of sentences, so write [{name}].")
        if not isinstance(sentences, Sequence):
            raise TypeError(f"{name} is of type {type(sentences).__name__}; expected a list, so write list({name}).")
        for index, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise TypeError(
                    f"{name}[{index}] is of type {type(sentence).__name__}; expected a str, "
                    "one reference or hypothesis per sentence."
                )
    if len(hypotheses) != len(references):
        raise ValueError(
            f"there are {len(hypotheses)} hypotheses but {len(references)} references; "
            "give one reference for each hypothesis, in the same order."
        )
    if not hypotheses:
        raise ValueError("there are no sentences; give at least one hypothesis with its reference.")
