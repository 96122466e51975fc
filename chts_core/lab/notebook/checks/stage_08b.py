"""Checks of stage 08b, subwords, beam search and BLEU."""

import math
from collections.abc import Callable, Mapping

from chts_core.lab import next_pieces
from chts_core.lab.data import TranslationData, train_vocabulary
from chts_core.lab.notebook.checks.slips import refuse

Words = dict[tuple[str, ...], int]
Following = dict[str, dict[str, float]]


def merge(merge: Callable[[Words], Words]) -> None:
    """Exercise "One merge": write a function that joins the most frequent pair of neighbours in all words."""
    numbers: Words = {tuple("ein"): 4, tuple("drei"): 3, tuple("zehn"): 5}
    given = dict(numbers)
    found = merge(numbers)
    assert found is not None, "merge() returns None; return a dictionary of words, like the one that it takes."
    assert numbers == given, "your function changed the dictionary that it was given; build a new dictionary."
    assert found != numbers, "you joined nothing; e and i are neighbours 4 + 3 = 7 times."
    assert sum(found.values()) == 12, (
        f"the counts of your words sum to {sum(found.values())}; expected 12. Keep the count of each word."
    )
    assert ("ei", "n") in found, (
        f"for the counts ein 4, drei 3 and zehn 5, you return {_shown(found)}; which pair occurs 7 times?"
    )
    assert found == {("ei", "n"): 4, ("d", "r", "ei"): 3, tuple("zehn"): 5}, (
        f"for the counts ein 4, drei 3 and zehn 5, you return {_shown(found)}; join e and i in every word, and join no "
        "other pair."
    )
    rare: Words = {tuple("sechs"): 1, tuple("sechzig"): 1, tuple("acht"): 1, tuple("zu"): 9}
    assert ("zu",) in merge(rare), (
        f"sechs, sechzig and acht occur once, and zu occurs 9 times; you return {_shown(merge(rare))}. "
        "Count a pair once for each occurrence of its word."
    )
    twice = merge({tuple("anan"): 2, tuple("na"): 1})
    assert ("a", "na", "n") not in twice, (
        "for the counts anan 2 and na 1, you joined n a. But a n occurs twice in each anan, so a n is more frequent. "
        "Count every place."
    )
    assert ("an", "a", "n") not in twice, "the pair a n occurs twice in anan; join it in both places."
    right: Words = {("an", "an"): 2, ("n", "a"): 1}
    assert twice == right, f"for the counts anan 2 and na 1, you return {_shown(twice)}; expected {_shown(right)}."
    three = merge({("a", "a", "a"): 1})
    assert three == {("aa", "a"): 1}, f"a a a becomes aa a, not {_shown(three)}; join each letter only once."
    _compare_with_the_package(merge)


def _compare_with_the_package(merge: Callable[[Words], Words]) -> None:
    """Compare the joined pair with the first pair that the package's vocabulary joins in a small corpus."""
    text = "drei drei drei drei zwei zwei ein"
    trained = train_vocabulary(TranslationData("three words", ("de", "de"), [(text, "")], [], []), 13)
    (theirs,) = (piece for piece in trained.pieces(range(4, trained.size)) if len(piece) > 1)
    words: Words = {tuple("▁drei"): 4, tuple("▁zwei"): 2, tuple("▁ein"): 1}
    mine = {piece for pieces in merge(words) for piece in pieces if len(piece) > 1}
    assert mine == {theirs}, f"in {text!r}, the package joins {theirs}, but you join {' '.join(sorted(mine))}."


def _shown(words: Words) -> str:
    return ", ".join(f"{' '.join(pieces)} {count}" for pieces, count in words.items())


def padding_share(padding_share: float | None) -> None:
    """Exercise "Padding": find the share of the batch that is padding."""
    tokens = (4, 6, 7, 10)
    places = len(tokens) * max(tokens)
    padding = places - sum(tokens)
    assert padding_share is not None, "replace None in the cell above with a number between 0 and 1."
    assert padding_share != padding, f"{padding} is the number of padded places; divide it by the number of all places."
    slips = {
        "a percentage; give a share between 0 and 1": 100 * padding / places,
        "the share of the tokens; subtract it from 1 to get the share of the padding": 1 - padding / places,
        "the padding divided by the tokens; divide the padding by the number of all places": padding / sum(tokens),
        "the answer for two batches of two sentences; here, all four sentences are in one batch": 1
        - 27 / (2 * 6 + 2 * 10),
    }
    refuse(padding_share, slips, 0.005)
    right = padding / places
    assert abs(padding_share - right) < 0.006, f"{padding_share} is not right; the batch has {places} places."


NUMBERS: Following = {
    "<s>": {"vier": 0.6, "zwei": 0.4},
    "vier": {"·hundert": 0.4, "·zig": 0.35, "·tausend": 0.25},
    "zwei": {"·undvierzig": 0.9, "·tausend": 0.1},
    **{leaf: {"</s>": 1.0} for leaf in ("·hundert", "·zig", "·tausend", "·undvierzig")},
}
# With chances of .52 and .48, "a" is more likely, but "b c d e" has the better score. With chances of .6 and .4, only
# the mean per piece of "b c d e" is better.
LONG: Following = {"a": {"</s>": 1.0}, "b": {"c": 1.0}, "c": {"d": 1.0}, "d": {"e": 1.0}, "e": {"</s>": 1.0}}
# The most likely translation, "z z1", has only the third most likely beginning.
WIDE: Following = {
    "<s>": {"x": 0.4, "y": 0.35, "z": 0.25},
    "x": {"x1": 0.6, "x2": 0.4},
    "y": {"y1": 0.5, "y2": 0.5},
    "z": {"z1": 1.0},
    **{leaf: {"</s>": 1.0} for leaf in ("x1", "x2", "y1", "y2", "z1")},
}


def beam_search(beam_search: Callable[[Following, int], list[str]]) -> None:
    """Exercise "Search with a beam": write a function for the pieces of the translation with the best score."""
    found = beam_search(NUMBERS, 1)
    assert found is not None, "beam_search() returns None; return a list of pieces."
    assert not {"<s>", "</s>"} & set(found), f"you return {found}; leave out the marks of the beginning and the end."
    assert found != ["zwei", "·undvierzig"], (
        "a beam of 1 found zwei ·undvierzig, which has only the second most likely beginning; keep only the `beam` "
        "most likely beginnings at each step."
    )
    _expect(beam_search, NUMBERS, 1)
    assert beam_search(NUMBERS, 2) != ["vier", "·hundert"], (
        "a beam of 2 found vier ·hundert, which greedy decoding finds as well; did you continue both beginnings?"
    )
    _expect(beam_search, NUMBERS, 2)
    near = {"<s>": {"a": 0.52, "b": 0.48}, **LONG}
    assert beam_search(near, 2) != ["a"], (
        'with chances of .52 for "a" and .48 for "b c d e", you return "a", the more likely translation. Which '
        "translation has the better score? Do not stop at the first translation that ends."
    )
    _expect(beam_search, near, 2)
    far = {"<s>": {"a": 0.6, "b": 0.4}, **LONG}
    assert beam_search(far, 2) == ["a"], (
        'with chances of .6 for "a" and .4 for "b c d e", the scores are -0.47 and -0.67, but you return the '
        "translation with the lower score. The penalty grows more slowly than the number of pieces."
    )
    assert beam_search(WIDE, 2) != ["z", "z1"], (
        "a beam of 2 found z z1, which has only the third most likely beginning; how many beginnings did you keep?"
    )
    _expect(beam_search, WIDE, 2)
    _expect(beam_search, WIDE, 3)


def _expect(
    beam_search: Callable[[Following, int], list[str]], following: Mapping[str, dict[str, float]], beam: int
) -> None:
    """Check that the learner's search finds the same translation as the package's search."""
    found, (wanted, _) = beam_search(dict(following), beam), next_pieces.search(following, beam)
    first = ", ".join(f"{piece} {chance:g}" for piece, chance in following["<s>"].items())
    assert list(found) == wanted, (
        f"if the chances of the first piece are {first}, a beam of {beam} finds {' '.join(wanted)}; you return "
        f"{' '.join(found)}."
    )


def scores(score_a: float | None, score_b: float | None) -> None:
    """Exercise "Which one wins?": compute the scores of the hypotheses A and B.

    The check prints the hypothesis that the search returns.
    """
    stubs = "replace each None in the cell above with a score."
    assert score_a is not None, stubs
    assert score_b is not None, stubs
    assert max(score_a, score_b) < 0, "each score must be negative, because a log-probability is negative."
    for answer, pieces, log in ((score_a, 4, -2.0), (score_b, 7, -2.3)):
        slips = {
            "the log-probability per piece; the penalty grows more slowly than the number of pieces": log / pieces,
            "the score without the exponent 0.6 of the penalty": log / ((5 + pieces) / 6),
            "the log-probability times the penalty; divide it by the penalty": log * ((5 + pieces) / 6) ** 0.6,
            "the score with one piece too many; n already includes the end mark": log / ((6 + pieces) / 6) ** 0.6,
        }
        refuse(answer, slips, 0.002)
    for name, answer, pieces, log in (("A", score_a, 4, -2.0), ("B", score_b, 7, -2.3)):
        right = log / ((5 + pieces) / 6) ** 0.6
        assert abs(answer - right) < 0.002, f"{answer} is not right for {name}, which has {pieces} pieces."
    print("the search returns the hypothesis", "B" if score_b > score_a else "A")


def clipped(clipped: Callable[[list[str], list[list[str]], int], tuple[int, int]]) -> None:
    """Exercise "Two references": write a function that returns the clipped count and the total count of n-grams."""
    references = [["the", "cat", "is", "on", "the", "mat"], ["there", "is", "a", "cat", "on", "the", "mat"]]
    found = clipped(["the"] * 7, references, 1)
    assert found is not None, "clipped() returns None; return two numbers."
    hits, count = found
    assert count == 7, f"the hypothesis has seven words, but you counted {count}."
    slips = {
        "the number of words that occur in a reference; clip each count": 7,
        "the sum over both references; take the higher of the two counts": 3,
        "the count in the last reference; take the higher of the two counts": 1,
    }
    for slip, wrong in slips.items():
        assert hits != wrong, f"your clipped count of the seven words 'the' is {hits}. This is {slip}."
    assert hits == 2, (
        f"your clipped count of the seven words 'the' is {hits}; the first reference contains the word twice, and the "
        "second contains it once."
    )
    swapped = clipped(["the"] * 7, references[::-1], 1)
    assert swapped == (2, 7), f"with the references swapped, you return {swapped}; use all references, in any order."
    _compare_with_sacrebleu(clipped, references)


def _compare_with_sacrebleu(
    clipped: Callable[[list[str], list[list[str]], int], tuple[int, int]], references: list[list[str]]
) -> None:
    """Compare the learner's counts with the counts of sacrebleu, the package that computes the scores of stage 08."""
    from sacrebleu.metrics.bleu import BLEU  # it takes a quarter of a second to import

    written = ["there", "is", "the", "cat", "on", "the", "mat", "there"]
    theirs = BLEU().corpus_score([" ".join(written)], [[" ".join(words)] for words in references])
    for n, (hits, count) in enumerate(zip(theirs.counts, theirs.totals, strict=True), start=1):
        mine = clipped(written, references, n)
        assert mine == (hits, count), (
            f"for n = {n}, the references contain {hits} of the {count} n-grams of {' '.join(written)!r}; you return "
            f"{mine}."
        )


def bleu_of_six(bleu_of_six: float | None) -> None:
    """Exercise "Too short": find the BLEU of a translation that lacks the last two of the reference's eight words."""
    assert bleu_of_six is not None, "replace None in the cell above with a BLEU score between 0 and 100."
    slips = {
        "the brevity penalty; BLEU is 100 times as large": math.exp(1 - 8 / 6),
        "the share of the words in per cent; the brevity penalty is an exponential function": 75,
        "above 100; the exponent must be 1 - r/c, with r words in the reference": 100 * math.exp(1 - 6 / 8),
        "the answer for the exponent -r/c; the exponent is 1 - r/c": 100 * math.exp(-8 / 6),
        "the answer without a brevity penalty; this translation is too short": 100,
        "the answer if the penalty has an exponent of 1/4; only the precisions have this exponent": 100
        * math.exp((1 - 8 / 6) / 4),
    }
    refuse(bleu_of_six, slips, 0.004)
    right = 100 * math.exp(1 - 8 / 6)
    assert abs(bleu_of_six - right) < 0.1, f"{bleu_of_six} is not right; c is 6 and r is 8."
