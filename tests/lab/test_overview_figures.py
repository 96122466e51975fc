from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

import chts_core as chts
from chts_core.lab import figures
from chts_core.lab.data import ImageData
from chts_core.lab.figures.history import LANES, WORKS, Work
from chts_core.lab.notebook.notebooks import Stage
from chts_core.lab.train import images
from chts_core.schedules import Timeline


def stage(number: str, *prerequisites: str) -> Stage:
    return Stage(number, f"Title {number}", "do it.", "●○○", prerequisites, 1.0, 100, f"{number}_x.ipynb")


def places(axes: Axes) -> dict[str, tuple[float, float]]:
    """Where each stage stands, by its number."""
    boxes = [text for text in axes.texts if text.get_text()]
    return {box.get_text().partition("\n")[0]: box.get_position() for box in boxes}


def arrows(axes: Axes) -> set[tuple[str, str]]:
    at = {place: number for number, place in places(axes).items()}
    found = [text for text in axes.texts if isinstance(text, Annotation) and not text.get_text()]
    return {(at[arrow.get_position()], at[arrow.xy]) for arrow in found}


def test_arrows_go_from_a_stage_to_those_that_build_upon_it() -> None:
    # 06 names 01 as well, which it reaches by way of 02; 99 does not exist.
    overview = [stage("00"), stage("01", "00"), stage("02", "01"), stage("03", "01", "99"), stage("06", "01", "02")]
    (axes,) = figures.stages(overview).axes
    assert arrows(axes) == {("00", "01"), ("01", "02"), ("01", "03"), ("02", "06")}


def test_a_stage_stands_right_of_all_it_builds_upon_and_none_on_another() -> None:
    overview = [stage("00"), stage("01", "00"), stage("02", "01"), stage("03"), stage("06", "00", "02")]
    (axes,) = figures.stages(overview).axes
    assert {number: place[0] for number, place in places(axes).items()} == {"00": 0, "01": 1, "02": 2, "03": 0, "06": 3}
    assert len(set(places(axes).values())) == 5


def test_one_stage_alone_can_be_drawn() -> None:
    (axes,) = figures.stages([stage("00")]).axes
    assert arrows(axes) == set()


def test_dense_beside_sparse_tells_accuracies_and_links(digits: ImageData) -> None:
    run = images.train(digits, "chts", 0.9, images.Recipe(hidden=16, epochs=2), seed=0)
    dense = replace(run, method="fc", validation_accuracy=[0.5, 0.75], density=1.0)
    left, right = figures.dense_and_sparse(dense, run).axes
    curves = {str(line.get_label()): np.asarray(line.get_data()).T for line in left.lines}
    assert list(curves) == ["FC, 100% of the links", f"CHTs, {run.density:.0%} of the links"]
    np.testing.assert_allclose(curves["FC, 100% of the links"], [[1, 50], [2, 75]])
    assert len(right.lines[0].get_xdata()) == int(run.last_masks["0.weight"].sum())
    assert right.get_title() == "layer 0.weight of CHTs after training"
    for name in ("custom", "set with topology=SmallWorld(0.25)", "chts/zeros"):  # of no table
        left, right = figures.dense_and_sparse(dense, replace(run, method=name)).axes
        assert str(left.lines[1].get_label()) == f"{name}, {run.density:.0%} of the links"
        assert right.get_title() == f"layer 0.weight of {name} after training"


# --- the timeline ---


def test_the_timeline_has_each_work_once_at_its_year() -> None:
    (axes,) = figures.timeline().axes
    at = {text.get_text(): (text.xy[0], round(text.xy[1])) for text in axes.texts if isinstance(text, Annotation)}
    assert len(at) == len(WORKS) == 11
    assert at["SET"] == (2018, 3)
    assert at["lottery ticket"] == (2019, 1)
    assert at["CHTss"] == (2025, 2)
    (first,) = (x for x, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if "1989" in str(label))
    assert at["Optimal Brain\nDamage"] == (first, 0)


def test_no_two_works_of_the_timeline_have_the_same_place() -> None:
    (axes,) = figures.timeline().axes
    assert len({(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"}) == 11


@pytest.mark.parametrize("work", [work for work in WORKS if work.name in chts.METHODS], ids=lambda work: work.name)
def test_the_number_of_links_of_a_method_is_as_the_timeline_says(work: Work) -> None:
    timeline = Timeline(1000, 100, 0.75)
    first, last = (chts.METHODS[work.name].sparsity.at(step, timeline, 0.95) for step in (0, 750))
    assert last == pytest.approx(0.95)
    assert "constant" in LANES[work.lane] if first == last else "fewer" in LANES[work.lane]


def test_every_sparse_method_is_on_the_timeline() -> None:
    assert {work.name for work in WORKS} & set(chts.METHODS) == set(chts.METHODS) - {"fc"}


@pytest.mark.parametrize("count", [3, 9])
def test_titles_are_wrapped_into_their_boxes(count: int) -> None:
    overview = [replace(stage(f"{number:02}"), title="a long title of many words") for number in range(count)]
    (axes,) = figures.stages(overview).axes
    assert all(len(line) <= 16 for text in axes.texts for line in text.get_text().splitlines())
