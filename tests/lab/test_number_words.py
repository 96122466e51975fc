import hashlib
from collections import Counter
from datetime import date

import numpy as np
import pytest
import torch

from chts_core.lab.data.number_words import date_pair, number_pair, number_words

SPLITS = number_words()
ALL = [pair for pairs in SPLITS.values() for pair in pairs]
DATES = [pair for pair in ALL if " of " in pair[0]]
NUMBERS = [pair for pair in ALL if " of " not in pair[0]]

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: E501, SIM905
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
EINER = "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn".split()  # noqa: E501, SIM905
ZEHNER = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()  # noqa: SIM905


def english(number: int) -> str:
    """By the rules of the language, to 999,999."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        joint = "" if not rest else " and " if rest < 100 else ", "
        return f"{english(thousands)} thousand{joint}{english(rest) if rest else ''}"
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{UNITS[hundreds]} hundred" + (f" and {english(rest)}" if rest else "")
    if number < 20:
        return UNITS[number]
    tens, units = divmod(number, 10)
    return TENS[tens - 2] + (f"-{UNITS[units]}" if units else "")


def german(number: int, last: bool = True) -> str:
    """By the rules of the language, to 999,999; "eins" only at the end of the word."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return german(thousands, last=False) + "tausend" + (german(rest, last) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return EINER[hundreds] + "hundert" + (german(rest, last) if rest else "")
    if number < 20:
        return EINER[number] + ("s" if number == 1 and last else "")
    tens, units = divmod(number, 10)
    return (f"{EINER[units]}und" if units else "") + ZEHNER[tens - 2]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, ("zero", "null")),
        (1, ("one", "eins")),
        (16, ("sixteen", "sechzehn")),
        (71, ("seventy-one", "einundsiebzig")),
        (100, ("one hundred", "einhundert")),
        (1001, ("one thousand and one", "eintausendeins")),
        (2345, ("two thousand, three hundred and forty-five", "zweitausenddreihundertfünfundvierzig")),
        (101_000, ("one hundred and one thousand", "einhunderteintausend")),
        (301_101, ("three hundred and one thousand, one hundred and one", "dreihunderteintausendeinhunderteins")),
    ],
)
def test_numbers_in_words(number: int, words: tuple[str, str]) -> None:
    assert number_pair(number) == words
    assert (english(number), german(number)) == words  # the oracle of the next test


def test_all_numbers_follow_the_rules_of_both_languages() -> None:
    numbers = [*range(1000), *range(1000, 1_000_000, 997), *range(1000, 1_000_000, 20_000), *range(1, 10**6, 50_000)]
    for number in numbers:
        assert number_pair(number) == (english(number), german(number))


@pytest.mark.parametrize(
    ("day", "words"),
    [
        (
            date(1984, 3, 3),
            (
                "Saturday, the third of March nineteen eighty-four",
                "Samstag, der dritte März neunzehnhundertvierundachtzig",
            ),
        ),
        (
            date(1907, 12, 31),
            (
                "Tuesday, the thirty-first of December nineteen oh-seven",
                "Dienstag, der einunddreißigste Dezember neunzehnhundertsieben",
            ),
        ),
        (
            date(2000, 2, 29),
            (
                "Tuesday, the twenty-ninth of February two thousand",
                "Dienstag, der neunundzwanzigste Februar zweitausend",
            ),
        ),
        (
            date(2001, 1, 1),
            ("Monday, the first of January two thousand and one", "Montag, der erste Januar zweitausendeins"),
        ),
        (
            date(1700, 7, 8),
            ("Thursday, the eighth of July seventeen hundred", "Donnerstag, der achte Juli siebzehnhundert"),
        ),
        (
            date(2012, 5, 20),
            ("Sunday, the twentieth of May twenty twelve", "Sonntag, der zwanzigste Mai zweitausendzwölf"),
        ),
    ],
)
def test_days_in_words(day: date, words: tuple[str, str]) -> None:
    assert date_pair(day) == words


def test_every_date_is_one_of_the_calendar() -> None:
    # Every day of the five centuries, its weekday counted on from a Saturday: 1 January 1600 in the Gregorian calendar.
    first = date(1600, 1, 1).toordinal()
    names = "Saturday Sunday Monday Tuesday Wednesday Thursday Friday".split()  # noqa: SIM905
    calendar = {}
    for day in range(first, date(2100, 1, 1).toordinal()):
        pair = date_pair(date.fromordinal(day))
        assert pair[0].startswith(f"{names[(day - first) % 7]}, the ")
        calendar[pair] = day
    assert len(calendar) == 182_622  # 500 years with 122 leap days, none of them alike
    assert all(pair in calendar for pair in DATES)
    # Spread over all of it.
    years = np.array([date.fromordinal(calendar[pair]).year for pair in DATES])
    assert np.histogram(years, bins=5, range=(1600, 2100))[0].min() > 1000


def test_the_splits_share_nothing_and_repeat_nothing() -> None:
    assert {split: len(pairs) for split, pairs in SPLITS.items()} == {"train": 10_000, "validation": 500, "test": 500}
    for side in (0, 1):
        assert len({pair[side] for pair in ALL}) == 11_000


def test_half_are_dates_and_numbers_are_of_all_sizes_in_all_splits() -> None:
    assert (len(DATES), len(NUMBERS)) == (5_500, 5_500)
    value = {number_pair(number): number for number in range(1000)}
    for split, pairs in SPLITS.items():
        assert 0.4 < sum(" of " in source for source, _ in pairs) / len(pairs) < 0.6
        digits = Counter(len(str(value[pair])) for pair in pairs if pair in value)
        assert min(digits[1], digits[2], digits[3]) >= 1, split
        assert digits[3] > 20
    thousands = [source.split(" thousand")[0] for source, _ in NUMBERS if " thousand" in source]
    lengths = Counter("hundred" in words or (words in UNITS[:10]) - 1 for words in thousands)
    assert min(lengths.values()) > 1000  # of four, of five and of six digits
    assert len(lengths) == 3


def test_the_pairs_are_the_same_everywhere() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
    number_words.cache_clear()
    again = number_words()
    assert again == SPLITS
    told = "\n".join("\t".join(pair) for pairs in again.values() for pair in pairs)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "e03fd720555d35bc"
