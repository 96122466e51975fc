"""Wrong answers that come from a known slip."""

from collections.abc import Mapping


def refuse(answer: float, slips: Mapping[str, float], tolerance: float) -> None:
    """Name the slip that leads to an answer, if there is one.

    Args:
        answer: the learner's answer.
        slips: a text for each slip, and the number that the slip leads to. The text completes the
            sentence "<answer> is ...".
        tolerance: how far an answer may be from the number of a slip and still match it, in the unit of the answer.

    Raises:
        AssertionError: if a slip fits; the message names the first one.
    """
    for slip, wrong in slips.items():
        assert abs(answer - wrong) > tolerance, f"{answer} is {slip}."
