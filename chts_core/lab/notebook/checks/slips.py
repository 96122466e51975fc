"""Wrong answers that come from a known slip."""

from collections.abc import Mapping


def refuse(answer: float, slips: Mapping[str, float], tolerance: float) -> None:
    """Say which slip leads to an answer, if one does.

    Args:
        answer: of the learner.
        slips: the number that each slip leads to, by what the number is; the text follows "... is".
        tolerance: how near to such a number an answer counts as it, in its unit.

    Raises:
        AssertionError: naming the first slip that fits.
    """
    for slip, wrong in slips.items():
        assert abs(answer - wrong) > tolerance, f"{answer} is {slip}."
