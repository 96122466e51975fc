import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from chts_core.diagnostics import SmallWorldness
from chts_core.lab import figures
from chts_core.topology import Correlation

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def curves(axes: Axes) -> dict[str, dict[float, float]]:
    lines = {str(line.get_label()): np.asarray(line.get_data()).T.tolist() for line in axes.lines}
    return {label: {round(x, 9): round(y, 9) for x, y in points} for label, points in lines.items()}


def test_tails_of_degrees_count_neurons_with_at_least_so_many_links() -> None:
    outputs, inputs = figures.degree_tails({"one": MASK, "dense": torch.ones_like(MASK)}).axes
    # Outputs have 2, 3, 1 and 0 links; inputs 2, 2, 1 and 1.
    assert curves(outputs)["one"] == {1: 75, 2: 50, 3: 25}
    assert curves(inputs)["one"] == {1: 100, 2: 50}
    assert curves(outputs)["dense"] == curves(inputs)["dense"] == {1: 100, 2: 100, 3: 100, 4: 100}
    assert "output" in outputs.get_xlabel()
    assert "input" in inputs.get_xlabel()


def test_tails_of_a_network_without_links_can_be_drawn() -> None:
    figures.to_png(figures.degree_tails({"none": torch.zeros_like(MASK)}))


def test_small_worlds_stand_where_their_ratios_are() -> None:
    measured = {"a": SmallWorldness(0.4, 3.0, 0.1, 2.0, 8 / 3), "ER": SmallWorldness(0.1, 2.0, 0.1, 2.0, 1.0)}
    (axes,) = figures.small_worlds(measured).axes
    drawn = curves(axes)
    assert drawn["a"] == {1.5: 4}
    assert drawn["ER"] == {1: 1}


def test_a_small_network_has_a_legend_of_its_links() -> None:
    rest = MASK.clone()
    rest[0] = False
    groups = [figures.Links("others", [rest]), figures.Links("of output 0", [MASK & ~rest], "red", "--")]
    figure = figures.network(groups, ("inputs", "outputs"))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["others", "of output 0"]


def test_correlations_of_a_pixel_and_their_mean_by_distance() -> None:
    # An image of 1 × 4: the first two pixels are alike, the third runs against them with noise, the last never varies.
    samples = torch.tensor([[0.0, 0, 1, 5], [1, 1, 0, 5], [2, 2, 1, 5], [3, 3, -2, 5]])
    correlation = Correlation()
    correlation.update(samples)
    matrix = correlation.matrix()
    left, right, _ = figures.pixel_correlations(matrix, (1, 4), (0, 1)).axes
    np.testing.assert_allclose(np.asarray(left.images[0].get_array()), matrix[1].view(1, 4))
    # One apart: pixels 0-1 and 1-2; two apart: 0-2. The constant pixel is left out.
    expected = {1: float((matrix[0, 1] + matrix[1, 2]) / 2), 2: float(matrix[0, 2])}
    (line,) = right.lines
    assert dict(np.asarray(line.get_data()).T.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "width"), [(1, 2.9), (4, 11.6), (5, 11.6)])
def test_masks_side_by_side_are_no_wider_than_a_page(count: int, width: float) -> None:
    figure = figures.masks({f"network {number}": MASK for number in range(count)})
    assert figure.get_size_inches()[0] == pytest.approx(width)
