"""Recognise wrong answers that come from a known slip (a small mistake)."""

from collections.abc import Mapping


def refuse(answer: float, slips: Mapping[str, float], tolerance: float) -> None:
    """Refuse an answer that comes from a known slip, and say which slip it is.

    Args:
        answer: the learner's answer.
        slips: maps a description of each slip to the number that the slip leads to. The description completes the
            sentence "<answer> is ...".
        tolerance: the largest difference at which an answer still matches the number of a slip, in the unit of the
            answer.

    Raises:
        AssertionError: if a slip leads to this answer; the message names the first such slip.
    """
    for slip, wrong in slips.items():
        assert abs(answer - wrong) > tolerance, f"{answer} is {slip}."
