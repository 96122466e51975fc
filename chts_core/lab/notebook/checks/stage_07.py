"""Checks of stage 07, truly sparse."""

from collections.abc import Callable


def multiply(multiply: Callable[[list[int], list[int], list[float], list[float]], list[float] | None]) -> None:
    """Multiply by links: a function of the three lists of CSR and of a sample that returns the outputs."""
    y = multiply([0, 2, 4, 5], [0, 1, 1, 2, 3], [1.0, 2, 3, 4, 5], [1.0, 2, 3, 4])
    assert y is not None, "the function returns None; let it return a list with one number for each output."
    assert len(y) == 3, f"it returns {len(y)} numbers; there is one output fewer than entries in `begins`, so 3."
    assert y != [3.0, 7.0, 5.0], "these are sums of the weights; multiply each by the input in its column."
    assert y == [5, 18, 20], (
        f"it returns {y} and should return [5, 18, 20]: output i has the links begins[i] to begins[i+1]."
    )
    assert multiply([0, 0, 1], [0], [2.0], [3.0]) == [0, 6], "an output without links must give 0."


def break_even(break_even: float | None) -> None:
    """When do links take more memory: the density at which both take the same."""
    assert break_even is not None, "replace None by a density between 0 and 1."
    assert 0 <= break_even <= 1, f"{break_even} is no density: it is a share of all possible links, between 0 and 1."
    assert abs(break_even - 0.5) > 1e-6, "0.5 is right for momentum (12 bytes of 24); Adam keeps one moment more."
    per_weight, per_link = 4 * 4, 4 * 4 + 12
    assert abs(break_even * per_link - per_weight) < 0.05, (
        f"at density {break_even} a possible link costs {break_even * per_link:.1f} bytes, and {per_weight} bytes in "
        "the dense layer."
    )
