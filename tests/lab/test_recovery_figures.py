"""The two drawings of why topology may know, and the dots of how well scores find hidden links."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from chts_core.lab import figures
from chts_core.lab.results.statistics import mean_and_interval


def drawn(axes: Axes, colour: str, style: str) -> set[tuple[tuple[float, float], ...]]:
    """The ends of the links of a look."""
    lines = [line for line in axes.lines if (line.get_color(), line.get_linestyle()) == (colour, style)]
    return {tuple(sorted(map(tuple, np.asarray(line.get_data()).T.tolist()))) for line in lines} - {()}


def test_the_new_link_closes_a_path_of_three_links_from_the_second_panel_on() -> None:
    first, second, third = figures.learning_by_links().axes
    a, b, c, d = (0.0, 1.0), (0.0, 0.0), (1.0, 0.0), (1.0, 1.0)
    path = {tuple(sorted(link)) for link in ((a, b), (b, c), (c, d))}
    for axes in (first, second, third):
        assert drawn(axes, "#0072B2", "-") == path
    assert drawn(first, "#D55E00", ":") == set()
    assert drawn(second, "#D55E00", ":") == drawn(third, "#D55E00", ":") == {(a, d)}
    assert [len(axes.patches) for axes in (first, second, third)] == [0, 0, 1]  # the border


def test_the_link_that_fits_joins_a_socket_and_a_plug_and_the_other_two_sockets() -> None:
    left, right = figures.similar_partners().axes
    u, z2, z1, v = (0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)
    assert drawn(left, "#7F7F7F", ":") == {(u, z2)}
    assert drawn(right, "#D55E00", ":") == {(u, v)}
    assert drawn(right, "#0072B2", "-") == {tuple(sorted(link)) for link in ((u, z1), (z2, z1), (z2, v))}


def test_dots_stand_at_means_with_their_intervals_and_no_two_in_one_place() -> None:
    measured = {"one": {"a": [0.5, 0.7], "b": [0.2, 0.4]}, "two": {"a": [0.1, 0.1], "b": [0.9, 1.0]}}
    figure = figures.hidden_links_found(measured, "AUC (fraction)", {"chance": 0.5})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    rows = set()
    for container, by_score in zip(axes.containers, measured.values(), strict=True):
        dots, _, (bars,) = container.lines
        x, y = np.asarray(dots.get_data(), dtype=float)
        assert x == pytest.approx([sum(values) / 2 for values in by_score.values()])
        assert y.round() == pytest.approx([0, 1])
        rows |= set(y)
        for values, segment in zip(by_score.values(), bars.get_segments(), strict=True):
            mean, half = mean_and_interval(values)
            assert segment[:, 0] == pytest.approx([mean - half, mean + half])
    assert len(rows) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chance", "one", "two"]
