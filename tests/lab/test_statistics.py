"""How many seeds a difference needs."""

import math

import pytest

from chts_core.lab.results.statistics import mean_and_interval, seeds_needed


def test_seeds_needed_by_hand() -> None:
    # s = root of 4/3; t is 2.447 for 7 seeds and 2.365 for 8: half-widths 1.068 and 0.965.
    assert seeds_needed([0.0, 2.0, 0.0, 2.0], 1.0) == 8
    assert seeds_needed([0.0, math.sqrt(2)], 0.8) == 9
    assert seeds_needed([1.0, 1.0], 0.1) == 2


def test_the_interval_of_as_many_seeds_is_the_effect() -> None:
    values = [0.3, 1.1, -0.4, 0.9, 0.2]
    _, half = mean_and_interval(values)
    assert seeds_needed(values, half * 1.0001) == len(values)
    assert seeds_needed(values, half * 0.9999) == len(values) + 1


def test_an_effect_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="effect is 0; expected a number above 0"):
        seeds_needed([1.0, 2.0], 0)
