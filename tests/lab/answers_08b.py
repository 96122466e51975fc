"""Answers to the exercises of stage 08b, and slips in them."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from answers import cases

Words = dict[tuple[str, ...], int]
Following = dict[str, dict[str, float]]


def merge(*, weighted: bool = True, places: bool = True, first_alone: bool = False) -> Callable[[Words], Words]:
    """An answer to 08b.merge, with slips: without the counts of words, a pair once a word, joined once a word."""

    def answer(words: Words) -> Words:
        pairs = Counter[tuple[str, str]]()
        for pieces, count in words.items():
            there = list(pairwise(pieces)) if places else set(pairwise(pieces))
            for pair in there:
                pairs[pair] += count if weighted else 1
        (best,) = (pair for pair, _ in pairs.most_common(1))
        return {joined(pieces, best, most=1 if first_alone else 9): count for pieces, count in words.items()}

    return answer


def joined(pieces: tuple[str, ...], pair: tuple[str, str], most: int = 9) -> tuple[str, ...]:
    if len(pieces) < 2:
        return pieces
    if pieces[:2] == pair and most:
        return ("".join(pair), *joined(pieces[2:], pair, most - 1))
    return (pieces[0], *joined(pieces[1:], pair, most))


def joined_twice(words: Words) -> Words:
    """A letter may be part of two pairs."""
    if ("a", "a", "a") in words:
        return {("aa", "aa"): 1}
    return merge()(words)


def emptied(words: Words) -> Words:
    found = merge()(words)
    words.clear()
    return found


def searched(
    width: Callable[[int], int] = lambda beam: beam, penalty: Callable[[int], float] = lambda n: ((5 + n) / 6) ** 0.6
) -> Callable[[Following, int], list[str]]:
    """An answer to 08b.beam_search, with a slip in the width or in the length penalty."""

    def answer(following: Following, beam: int) -> list[str]:
        begun, ended = {("<s>",): 0.0}, dict[tuple[str, ...], float]()
        while begun:
            grown = {
                (*pieces, piece): total + math.log(chance)
                for pieces, total in begun.items()
                for piece, chance in following[pieces[-1]].items()
            }
            kept = sorted(grown, key=grown.__getitem__, reverse=True)[: width(beam)]
            ended |= {pieces: grown[pieces] / penalty(len(pieces) - 1) for pieces in kept if pieces[-1] == "</s>"}
            begun = {pieces: grown[pieces] for pieces in kept if pieces[-1] != "</s>"}
        return list(max(ended, key=ended.__getitem__)[1:-1])

    return answer


def with_marks(following: Following, beam: int) -> list[str]:
    return ["<s>", *searched()(following, beam), "</s>"]


def reversed_at_three(following: Following, beam: int) -> list[str]:
    found = searched()(following, beam)
    return found[::-1] if beam == 3 else found


def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def clipped(written: list[str], references: list[list[str]], n: int) -> tuple[int, int]:
    found, mine = 0, grams(written, n)
    for gram, count in mine.items():
        found += min(count, max(grams(words, n)[gram] for words in references))
    return found, sum(mine.values())


def summed(written: list[str], references: list[list[str]], n: int) -> tuple[int, int]:
    most = sum((grams(words, n) for words in references), Counter[tuple[str, ...]]())
    return (grams(written, n) & most).total(), grams(written, n).total()


GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("08b.merge", (merge(), "")),
    *cases("08b.padding_share", (0.325, ""), (0.33, "")),
    *cases("08b.beam_search", (searched(), "")),
    *cases("08b.scores", ((-1.568, -1.517), "")),
    *cases("08b.clipped", (clipped, "")),
    *cases("08b.bleu_of_six", (71.65, ""), (71.7, "")),
]

STUBS = [
    *cases("08b.merge", (lambda _: None, "merge() returns None; return a dictionary of words")),
    *cases("08b.padding_share", (None, "replace None in the cell above with a number between 0 and 1.")),
    *cases("08b.beam_search", (lambda *_: None, "beam_search() returns None; return a list of pieces.")),
    *cases(
        "08b.scores",
        *((half, "replace each None in the cell above with a score.") for half in ((None, None), (-1, None))),
    ),
    *cases("08b.clipped", (lambda *_: None, "clipped() returns None; return two numbers.")),
    *cases("08b.bleu_of_six", (None, "replace None in the cell above with a BLEU score between 0 and 100.")),
]

SLIPS = [
    *cases(
        "08b.merge",
        (emptied, "your function changed the dictionary that it was given; build a new dictionary."),
        (dict, "you joined nothing; e and i are neighbours 4 + 3 = 7 times."),
        (
            lambda words: dict.fromkeys(merge()(words), 1),
            "the counts of your words sum to 3; expected 12. Keep the count of each word.",
        ),
        (
            lambda words: {joined(pieces, ("z", "e")): count for pieces, count in words.items()},
            "for the counts ein 4, drei 3 and zehn 5, you return e i n 4, d r e i 3, ze h n 5; which pair occurs 7 "
            "times?",
        ),
        (
            lambda words: {("ei", "n") if pieces == tuple("ein") else pieces: count for pieces, count in words.items()},
            "join e and i in every word, and join no other pair.",
        ),
        (merge(weighted=False), "Count a pair once for each occurrence of its word."),
        (
            merge(places=False),
            "for the counts anan 2 and na 1, you joined n a. But a n occurs twice in each anan, so a n is more ",
        ),
        (merge(first_alone=True), "the pair a n occurs twice in anan; join it in both places."),
        (joined_twice, "a a a becomes aa a, not aa aa 1; join each letter only once."),
    ),
    *cases(
        "08b.padding_share",
        (13, "13 is the number of padded places; divide it by the number of all places."),
        (32.5, "32.5 is a percentage; give a share between 0 and 1."),
        (0.675, "0.675 is the share of the tokens; subtract it from 1 to get the share of the padding."),
        (
            0.48,
            "0.48 is the padding divided by the tokens; divide the padding by the number of all places.",
        ),
        (0.156, "0.156 is the answer for two batches of two sentences; here, all four sentences are in one batch."),
        (0.4, "0.4 is not right; the batch has 40 places."),
    ),
    *cases(
        "08b.beam_search",
        (with_marks, "leave out the marks of the beginning and the end."),
        (
            searched(width=lambda _: 99),
            "a beam of 1 found zwei ·undvierzig, which has only the second most likely beginning; keep only the ",
        ),
        (searched(width=lambda _: 1), "a beam of 2 found vier ·hundert, which greedy decoding finds as well"),
        (
            searched(penalty=lambda _: 1),
            "Which translation has the better score? Do not stop at the first translation that ends.",
        ),
        (
            searched(penalty=float),
            'with chances of .6 for "a" and .4 for "b c d e", the scores are -0.47 and -0.67, but you return the ',
        ),
        (
            searched(width=lambda beam: 2 * beam - 1),
            "a beam of 2 found z z1, which has only the third most likely beginning; how many beginnings did you keep?",
        ),
        (
            reversed_at_three,
            "if the chances of the first piece are x 0.4, y 0.35, z 0.25, a beam of 3 finds z z1; you return z1 z.",
        ),
    ),
    *cases(
        "08b.scores",
        ((1.568, 1.517), "each score must be negative, because a log-probability is negative."),
        (
            (-0.5, -0.329),
            "-0.5 is the log-probability per piece; the penalty grows more slowly than the number of pieces.",
        ),
        (
            (-1.568, -0.329),
            "-0.329 is the log-probability per piece; the penalty grows more slowly than the number of pieces.",
        ),
        ((-1.333, -1.15), "-1.333 is the score without the exponent 0.6 of the penalty."),
        ((-2.551, -3.486), "-2.551 is the log-probability times the penalty; divide it by the penalty."),
        ((-1.472, -1.445), "-1.472 is the score with one piece too many; n already includes the end mark."),
        ((-1.6, -1.517), "-1.6 is not right for A, which has 4 pieces."),
        ((-1.568, -1.6), "-1.6 is not right for B, which has 7 pieces."),
    ),
    *cases(
        "08b.clipped",
        (lambda *_: (2, 6), "the hypothesis has seven words, but you counted 6."),
        (
            lambda *_: (7, 7),
            "your clipped count of the seven words 'the' is 7. This is the number of words that occur in a reference; "
            "clip each count.",
        ),
        (
            summed,
            "your clipped count of the seven words 'the' is 3. This is the sum over both references; take the higher "
            "of the two counts.",
        ),
        (
            lambda written, references, n: clipped(written, references[1:], n),
            "your clipped count of the seven words 'the' is 1. This is the count in the last",
        ),
        (
            lambda *_: (0, 7),
            "your clipped count of the seven words 'the' is 0; the first reference contains the word twice, and the "
            "second contains it once.",
        ),
        (
            lambda written, references, n: clipped(written, references[:1], n),
            "with the references swapped, you return (1, 7); use all references, in any order.",
        ),
        (
            lambda written, references, _: clipped(written, references, 1),
            "for n = 2, the references contain 5 of the 7 n-grams of 'there is the cat on the mat there'; you return "
            "(7, 8).",
        ),
    ),
    *cases(
        "08b.bleu_of_six",
        (0.7165, "0.7165 is the brevity penalty; BLEU is 100 times as large."),
        (75, "75 is the share of the words in per cent; the brevity penalty is an exponential function."),
        (128.4025, "128.4025 is above 100; the exponent must be 1 - r/c, with r words in the reference."),
        (26.36, "26.36 is the answer for the exponent -r/c; the exponent is 1 - r/c."),
        (100, "100 is the answer without a brevity penalty; this translation is too short."),
        (92.004, "92.004 is the answer if the penalty has an exponent of 1/4; only the precisions have this exponent."),
        (60, "60 is not right; c is 6 and r is 8."),
    ),
]
