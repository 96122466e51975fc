"""One look for each thing, colours for every kind of sight, and drawings that can be read."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from chts_core.lab import figures
from chts_core.lab.costs import LayerTime, TrainingCost
from chts_core.lab.figures.style import LOOKS, METHOD_LABELS, OTHER_LOOK, looks, method_look, name_ends, use_log_scale
from chts_core.lab.notebook import notebooks

# What is left of linear red, green and blue to a deuteranope and to a protanope (Machado et al. 2009, severity 1).
SIGHT = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colour: str, sight: str) -> np.ndarray:
    """The colour as L*, a*, b*, in which equal distances look about equal."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(TO_XYZ @ np.clip(SIGHT[sight] @ linear, 1e-4, 1) / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_methods_have_colours_that_everyone_can_tell_apart(sight: str) -> None:
    colours = [method_look(name)[0] for name in METHOD_LABELS] + [OTHER_LOOK[0]]
    nearest = min(float(np.linalg.norm(seen(a, sight) - seen(b, sight))) for a, b in combinations(colours, 2))
    assert nearest > 15


def test_a_way_to_execute_has_one_look_in_all_figures() -> None:
    (layer,) = figures.layer_times([LayerTime(0.01, 0.02, 0.03, 0.001), LayerTime(0.5, 0.02, 0.03, 0.04)]).axes
    given = TrainingCost("auto", 1, 0, 0, 0, [(0.004, 0.5), (0.001, 0.01)])
    (step,) = figures.step_course([given, replace(given, name="csr"), replace(given, name="masked")]).axes
    drawn = [{line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines} for axes in (layer, step)]
    assert drawn[0] == {"dense": LOOKS["dense"], "masked": LOOKS["masked"], "csr": LOOKS["csr"]}
    assert drawn[1] == {name: LOOKS[name] for name in ("auto", "csr", "masked")}


def test_a_sparsity_has_one_look_whatever_stands_beside_it() -> None:
    for shares in ((0.9, 0.95), (0.7, 0.9, 0.95)):
        rows = [{"method": "set", "sparsity": share, "mean": 20.0, "interval": 1.0} for share in shares]
        (axes,) = figures.scores_by_method(rows).axes
        colours = {str(of.get_label()): of.lines[0].get_color() for of in axes.containers}
        assert colours == {name: LOOKS[name][0] for name in (f"sparsity {100 * share:g} %" for share in shares)}


def test_looks_are_those_of_the_table_and_no_two_are_equal() -> None:
    found = looks(["cubic to 75 %", "sigmoid (k = 6)", "MEST", "cubic", "one", "two"])
    assert found["cubic to 75 %"][:2] == LOOKS["cubic"]
    assert found["sigmoid (k = 6)"][:2] == LOOKS["sigmoid"]
    assert found["MEST"][:2] == LOOKS["mest"]
    assert len({look[:2] for look in found.values()}) == 6
    assert method_look("set with topology=SmallWorld(0.25)") == method_look("cubic") == OTHER_LOOK


def test_names_stand_beside_the_ends_on_a_logarithmic_axis_too() -> None:
    with figures.new_figure(4, 3) as (_, (axes,)):
        for end in (1, 10, 10.1, 1000):
            axes.plot([0, 1], [100, end], label=f"{end:g}")
        axes.set_ylim(1, 1000)
        use_log_scale(axes, "y")
        name_ends(axes)
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights["1"] == pytest.approx(0)
    assert heights["1000"] == pytest.approx(1)
    assert (heights["10"] + heights["10.1"]) / 2 == pytest.approx(1 / 3, abs=0.04)
    assert heights["10.1"] - heights["10"] == pytest.approx(0.06)


def test_links_can_be_seen_at_one_per_cent() -> None:
    few, many = torch.zeros(200, 200, dtype=torch.bool), torch.zeros(200, 200, dtype=torch.bool)
    few[:2], many[:40] = True, True
    sizes = [axes.lines[0].get_markersize() for axes in figures.masks({"1 %": few, "20 %": many}).axes]
    assert sizes == [pytest.approx(3), pytest.approx(1.5)]
    assert [line.get_markersize() for line in figures.topology_change(few, few).axes[2].lines[1::2]] == [sizes[0]] * 3


def test_axes_are_cut_at_what_can_be() -> None:
    rows = [{"method": "set", "sparsity": 0.9, "mean": 98.0, "interval": 5.0}]
    (axes,) = figures.scores_by_method(rows, xlabel="exact (%)").axes
    assert axes.get_xlim()[1] == 100
    (axes,) = figures.hidden_links_found({"one": {"a": [0.0, 0.02]}}, "precision (fraction)", {"chance": 0.02}).axes
    assert axes.get_xlim()[0] == 0
    curve = [(1, 97.0), (2, 99.9)]
    (axes,) = figures.learning_curves({"set": [curve, curve]}, "validation accuracy (%)").axes
    assert axes.get_ylim()[1] == 100


def test_no_arrow_of_the_map_of_stages_goes_through_a_box() -> None:
    figure = figures.stages(notebooks.overview("ci"))
    figures.to_png(figure)  # places them
    (axes,) = figure.axes
    boxes = {text.get_text()[:3].strip(): text for text in axes.texts if text.get_text()}
    at = {text.get_position(): number for number, text in boxes.items()}
    arrows = [text for text in axes.texts if not text.get_text()]
    pairs = {(at[arrow.get_position()], at[arrow.xy]) for arrow in arrows}  # type: ignore[attr-defined]
    assert ("03", "06") in pairs
    for start, end in pairs:
        path = [np.array(axes.transData.transform(boxes[number].get_position())) for number in (start, end)]
        on_the_way = [path[0] + share * (path[1] - path[0]) for share in np.linspace(0, 1, 101)]
        for number in boxes.keys() - {start, end}:
            extent = boxes[number].get_bbox_patch().get_window_extent()  # type: ignore[union-attr]
            assert not any(extent.contains(*point) for point in on_the_way), f"{start} → {end} crosses {number}"


def test_existing_links_are_grey_in_a_map_of_scores() -> None:
    mask = torch.eye(3, 4, dtype=torch.bool)
    scores = dict.fromkeys(("CH3-L3p", "CH3-L3n", "CH2-L3n"), torch.ones(3, 4))
    (picture,) = figures.score_maps(mask, scores).axes[1].images
    drawn = picture.get_array()
    assert drawn.mask.tolist() == mask.tolist()
    red, green, blue, _ = picture.cmap(drawn)[0, 0]
    assert red == green == blue
    assert 0.5 < red < 0.9
