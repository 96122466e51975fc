"""English → German number words and dates, made by `num2words`: a translation task that needs no download.

Half of the pairs are numbers from 0 to 999,999, and half are dates from 1600 to 2099. German puts the units before the
tens and writes a number as one word, so a model has to reorder and join words.
"""

from collections.abc import Iterator
from datetime import date
from functools import cache

import numpy as np
from num2words import num2words

Pair = tuple[str, str]

# The pairs never depend on a run's seed, so that runs can be compared.
_SEED = 20191
_SIZES = {"train": 10_000, "validation": 500, "test": 500}
_MOST_DIGITS = 6
_FIRST_DAY, _LAST_DAY = date(1600, 1, 1), date(2099, 12, 31)
_WEEKDAYS = (
    ("Monday", "Montag"),
    ("Tuesday", "Dienstag"),
    ("Wednesday", "Mittwoch"),
    ("Thursday", "Donnerstag"),
    ("Friday", "Freitag"),
    ("Saturday", "Samstag"),
    ("Sunday", "Sonntag"),
)
_MONTHS = (
    ("January", "Januar"),
    ("February", "Februar"),
    ("March", "März"),
    ("April", "April"),
    ("May", "Mai"),
    ("June", "Juni"),
    ("July", "Juli"),
    ("August", "August"),
    ("September", "September"),
    ("October", "Oktober"),
    ("November", "November"),
    ("December", "Dezember"),
)


def number_pair(number: int) -> Pair:
    """A number in words, in English and German: 2345 is "two thousand, three hundred and forty-five"."""
    # num2words writes "einhunderteinstausend" for 101,000. Correct German has "eintausend" instead of "einstausend".
    return num2words(number), num2words(number, lang="de").replace("einstausend", "eintausend")


def date_pair(day: date) -> Pair:
    """A day in words, in English and German: "Saturday, the third of March nineteen eighty-four"."""
    words = (
        _WEEKDAYS[day.weekday()],
        _in_words(day.day, "ordinal"),
        _MONTHS[day.month - 1],
        _in_words(day.year, "year"),
    )
    english, german = zip(*words, strict=True)
    return "{}, the {} of {} {}".format(*english), "{}, der {} {} {}".format(*german)


@cache
def number_words() -> dict[str, tuple[Pair, ...]]:
    """The pairs of each split: "train", "validation" and "test". Every call returns the same pairs, and no sentence
    appears twice."""
    generator = np.random.default_rng(_SEED)
    total = sum(_SIZES.values())
    numbers = _different(_some_numbers(generator), total - total // 2)
    days = _different(_some_days(generator), total // 2)
    pairs = [*map(number_pair, numbers), *map(date_pair, map(date.fromordinal, days))]
    order = iter(generator.permutation(total).tolist())
    return {split: tuple(pairs[next(order)] for _ in range(size)) for split, size in _SIZES.items()}


def _some_numbers(generator: np.random.Generator) -> Iterator[int]:
    """Draw numbers. All lengths from 1 to 6 digits are equally likely, so that small numbers occur too."""
    while True:
        digits = generator.integers(1, _MOST_DIGITS + 1)
        yield int(generator.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))


def _some_days(generator: np.random.Generator) -> Iterator[int]:
    """Draw days, as day numbers of Python's calendar."""
    while True:
        yield int(generator.integers(_FIRST_DAY.toordinal(), _LAST_DAY.toordinal() + 1))


def _different(drawn: Iterator[int], count: int) -> list[int]:
    """The first `count` distinct values."""
    seen: dict[int, None] = {}
    while len(seen) < count:
        seen[next(drawn)] = None
    return list(seen)


@cache
def _in_words(number: int, to: str) -> Pair:
    return num2words(number, to=to), num2words(number, to=to, lang="de")
