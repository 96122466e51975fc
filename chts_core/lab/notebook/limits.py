"""Limits of a notebook's parameters, and the conversion of text to values."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chts_core.methods import get_method


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`. `below` excludes `high`, and `whole` requires integers."""

    low: float
    high: float = math.inf
    below: bool = False
    whole: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a value is a finite number in the range."""
        kind = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            return False
        return self.low <= value < self.high if self.below else self.low <= value <= self.high

    def __str__(self) -> str:
        noun = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{noun} of at least {self.low}"
        return f"{noun} in [{self.low}, {self.high}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Choice:
    """The limit of a parameter whose value is one of a few words."""

    words: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Whether a value is one of the words."""
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(word or repr('') for word in self.words)}"


@dataclass(frozen=True)
class Choices(Choice):
    """The limit of a parameter that lists known words, separated by commas.

    Each word may occur at most once. The list may also be empty.
    """

    def accepts(self, value: Any) -> bool:
        """Whether a value is "" or lists only known words, each at most once."""
        named = value.split(",") if value else []
        return set(named) <= set(self.words) and len(named) == len(set(named))

    def __str__(self) -> str:
        return f"some of {', '.join(self.words)}, each at most once, separated by commas without spaces"


@dataclass(frozen=True)
class MethodName(Choice):
    """The name of a method, possibly with replaced choices: "set with topology=SmallWorld(0.25)"."""

    def accepts(self, value: Any) -> bool:
        """Whether a value names a method."""
        if value in self.words or not isinstance(value, str) or " with " not in value:
            return value in self.words
        try:
            get_method(value)
        except (TypeError, ValueError):
            return False
        return True


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint in brackets that suggests the known word most similar to `name`; "" if no word is similar enough."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def converted(name: str, text: str, kind: type) -> Any:
    """Convert the text of a parameter to a value of its type.

    Raises:
        ValueError: if the text is not a value of this type; the message names the parameter and the expected value.
    """
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"parameter {name} is {text!r}; expected true or false.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"parameter {name} is {text!r}; expected {noun}.") from None
