"""Answers to exercises, and what their checks say of them; `answers_NN.py` has those of stage NN."""

from dataclasses import dataclass
from typing import Any

NUMBER = "replace None in the cell above with a number."


@dataclass(frozen=True)
class Case:
    """Answers to an exercise and the message that they get; a right answer has none."""

    name: str
    answers: tuple[Any, ...]
    message: str = ""


def cases(name: str, *pairs: tuple[Any, str]) -> list[Case]:
    return [Case(name, answer if isinstance(answer, tuple) else (answer,), message) for answer, message in pairs]
