"""Checks of stage 05, density decay."""

import math
from collections.abc import Callable

from chts_core.methods import Cubic, Sigmoid
from chts_core.schedules import sigmoid_sparsity


def exact_sigmoid(exact_sigmoid: Callable[[float, float, float, float], float]) -> None:
    """The exact sigmoid: a function of u, initial, final and k that returns the sparsity."""
    points = [(number / 10, k) for k in (6.0, 3.0) for number in range(11)]
    answers = [exact_sigmoid(u, 0.5, 0.9, k) for u, k in points]
    for reason, slip in _SIGMOID_SLIPS.items():
        wrong = all(math.isclose(a, 0.5 + 0.4 * slip(*at), abs_tol=1e-9) for a, at in zip(answers, points, strict=True))
        assert not wrong, f"at u = 0 it gives {answers[0]:.4f}, at u = 1 {answers[10]:.4f}; {reason}."
    for (u, k), answer in zip(points, answers, strict=True):
        right = sigmoid_sparsity(round(10 * u), 0, 10, 0.5, 0.9, k)
        assert math.isclose(answer, right, abs_tol=1e-9), f"at u = {u}, k = {k:g} it gives {answer}; expected {right}."


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _share(exponent: float, k: float) -> float:
    """The sigmoid of an exponent, rescaled as Equation 1 needs it."""
    return 0.5 + (_sigma(exponent) - 0.5) / (_sigma(k) - _sigma(-k))


_SIGMOID_SLIPS: dict[str, Callable[[float, float], float]] = {
    "its exponent k·u is never negative, and nothing rescales it; centre it first": lambda u, k: _sigma(k * u),
    "you have the bare sigmoid, which misses both ends: rescale it": lambda u, k: _sigma(k * (2 * u - 1)),
    "the sign is flipped, so the network would grow": lambda u, k: -_share(k * (2 * u - 1), k),
    "the exponent is k·u, which is never negative: centre it with 2u - 1": lambda u, k: _share(k * u, k),
    "the exponent is k(u - 1/2), half of what it should be": lambda u, k: _share(k * (u - 0.5), k),
}


def sigmoid_end(sigmoid_end: float | None, *, planned: Callable[[Cubic | Sigmoid], float]) -> None:
    """A fair window: its end as a share of the run; `planned` gives the FLOPs of a decay over the dense FLOPs."""
    assert sigmoid_end is not None, "replace None in the cell above by a share of the run, in (0.1, 0.75]."
    assert sigmoid_end > 0.1, f"a window from 0.1 to {sigmoid_end} is empty; its end must come after its start."
    cost, rival = planned(Sigmoid(start=0.1, end=sigmoid_end)), planned(Cubic(start=0.1, end=0.7))
    compared = f"the sigmoid costs {cost:.2%} of the dense FLOPs, the cubic decay {rival:.2%}"
    assert sigmoid_end != 0.35, f"{compared}: you halved the end. Halve the window instead, 0.1 to 0.7."
    assert sigmoid_end != 0.7, f"{compared}: over the same window the sigmoid has twice the excess."
    assert abs(cost - rival) < 1e-3, f"{compared}: {'end earlier' if cost > rival else 'end later'}."
    assert abs(sigmoid_end - 0.4) < 0.005, f"{compared}, since a window ends at an update: halve 0.1 to 0.7 exactly."
