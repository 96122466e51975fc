"""The stepper, its figures, and the count of L3 paths that both stand on."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

import chts_core as chts
from chts_core.lab import figures
from chts_core.lab.notebook import l3
from chts_core.lab.widgets import LinkPredictionState, LinkPredictionStepper
from chts_core.lab.widgets.link_prediction import MOST_PATHS, NETWORK

TOY = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
PREDICTORS = sorted(chts.link_prediction.PREDICTORS)


def random_mask(seed: int) -> torch.Tensor:
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(seed)) < 0.35


# --- counting ---


def test_the_paths_and_the_local_community_by_hand() -> None:
    assert l3.paths(TOY, (0, 0)) == [(0, 1, 2, 0), (0, 2, 2, 0)]
    assert l3.community(TOY, (0, 0)) == [
        l3.Node("input", 1, inside=1, outside=1),
        l3.Node("input", 2, inside=1, outside=1),
        l3.Node("output", 2, inside=2, outside=0),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_paths_are_all_walks_of_three_links(seed: int) -> None:
    mask = random_mask(seed)
    links = mask.float()
    walks = links @ links.T @ links
    for link in l3.missing_links(mask):
        found = l3.paths(mask, link)
        assert len(set(found)) == len(found) == walks[link]
        for u, z1, z2, v in found:
            assert (u, v) == link
            assert all((mask[u, z1], mask[z2, z1], mask[z2, v]))


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_core(seed: int, predictor: str) -> None:
    mask = random_mask(seed)
    expected = chts.link_prediction.PREDICTORS[predictor](mask).double()
    torch.testing.assert_close(l3.scores(mask, predictor), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ((0, 1), "output 0 – input 1 is a link of the network"),
        ((3, 0), "3 outputs and 3 inputs"),
        ((0, -1), "3 inputs"),
    ],
)
def test_only_missing_links_have_l3_paths(link: l3.Link, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        l3.paths(TOY, link)


# --- explaining ---


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        (1, ["Perhaps you counted only the outputs between the ends (output 2)."]),
        (
            3,
            [
                "counted the nodes of the local community (input 1, input 2, output 2).",
                "Or you also counted the link output 0 – input 0.",
            ],
        ),
        (4, ["output 0 – input 1 – output 1 – input 2 – output 2 – input 0 has five links", "from both ends"]),
        (14, ["output 0 – input 1 – output 0 – input 1 – output 2 – input 0 visits a node twice"]),
        (9, ["Go from the output to each of its inputs"]),
    ],
)
def test_a_miscount_is_explained(counted: int, words: list[str]) -> None:
    explanation = l3.explain_count(TOY, (0, 0), counted)
    there = "output 0 – input 1 – output 2 – input 0; output 0 – input 2 – output 2 – input 0."
    assert explanation.startswith(f"you counted {counted}; there are 2: {there}")
    for word in words:
        assert word in explanation


def test_the_middle_link_is_looked_at() -> None:
    mask = TOY.clone()
    mask[2, 2] = False  # one path is left, of two pairs of nodes
    mask[1, 0] = True
    mask[1, 2] = False
    explanation = l3.explain_count(mask, (0, 0), 4)
    assert "input 2 and output 1 are not linked" in explanation
    assert "there are 2" in explanation


def test_a_right_count_needs_no_explanation_and_no_number_is_none() -> None:
    for answer in (2, np.int64(2), torch.tensor(2)):
        assert l3.explain_count(TOY, (0, 0), answer) == ""
    for answer in ("2", 2.0, True, -1):
        assert f"the answer is {answer!r}; expected the number of" in l3.explain_count(TOY, (0, 0), answer)


def test_a_link_without_paths_is_explained_too() -> None:
    assert "there are 0: none" in l3.explain_count(NETWORK, (4, 0), 3)


RIGHT = [(3, 1, 0, 3), (3, 1, 1, 3), (3, 1, 2, 3), (3, 4, 2, 3), (3, 5, 1, 3)]


def test_the_right_paths_in_any_order_need_no_explanation() -> None:
    assert l3.explain_paths(NETWORK, (3, 3), RIGHT) == ""
    assert l3.explain_paths(NETWORK, (3, 3), [list(path) for path in reversed(RIGHT)]) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((3, 3), "(3, 3) has 1 link; an L3 path has three"),
        ((3, 1, 0, 3, 2, 3), "has 5 links"),
        ((2, 1, 0, 3), "leads from output 2 to input 3, not from output 3 to input 3"),
        ((3, 1, 3, 3), "visits an end of the missing link twice, so it uses this link"),
        ((3, 3, 0, 3), "visits an end of the missing link twice, so it uses this link"),
        ((3, 4, 0, 3), "output 0 and input 4 are not linked"),
        ((3, 0, 0, 3), "output 3 and input 0 are not linked"),
        ((3, 1, 4, 3), "output 4 and input 1 are not linked"),
        ((3, 9, 0, 3), "leaves the network, which has 5 outputs and 6 inputs"),
    ],
)
def test_a_path_that_is_none_is_explained(wrong: Sequence[int], message: str) -> None:
    explanation = l3.explain_paths(NETWORK, (3, 3), [*RIGHT, wrong])
    assert message in explanation
    assert "missing from your list" not in explanation


def test_what_is_listed_twice_or_not_at_all_is_told() -> None:
    explanation = l3.explain_paths(NETWORK, (3, 3), [*RIGHT[1:], RIGHT[1]])
    assert explanation == (
        "output 3 – input 1 – output 1 – input 3 is listed more than once. 1 path is missing from your list; "
        "look at the paths through input 1."
    )


# --- the widget ---


def test_the_sentence_of_all_paths_by_hand() -> None:
    # Input 1 has outputs 0 (the end), 1 (outside), 2 and 3; input 3 has 0, 1 (outside) and 2.
    # Output 2 has inputs 4 (the end), 1 and 3; output 3 has 4, 1 and 5 (outside).
    result = LinkPredictionStepper.compute(LinkPredictionState())
    assert result.path is None
    assert result.score == 6.5
    assert result.description == (
        "The missing link output 0 – input 4 has 3 L3 paths. Its local community is input 1 (i = 2, e = 1), "
        "input 3 (i = 1, e = 1), output 2 (i = 2, e = 0), output 3 (i = 1, e = 1). "
        "The CH2-L3n score of the link is 3/2 + 2/2 + 3/1 + 2/2 = 6.500."
    )


def test_the_sentence_of_one_path_by_hand() -> None:
    result = LinkPredictionStepper.compute(LinkPredictionState(predictor="ch3_l3p", path=2))
    assert result.path == (0, 1, 3, 4)
    assert result.description == (
        "Path 2 of 3: output 0 – input 1 – output 3 – input 4. On this path, input 1 has the term 1/2, and output 3 "
        "has the term 1/2, so the path adds √(1/2 · 1/2). "
        "The CH3-L3p score of the link is √(1/2 · 1/1) + √(1/2 · 1/2) + √(1/2 · 1/1) = 1.914."
    )


def test_what_is_not_there_is_told() -> None:
    none = LinkPredictionStepper.compute(LinkPredictionState(link=(4, 0), path=1))
    assert (none.path, none.score) == (None, 0)
    assert "has no L3 path, so there is no path 1; its CH2-L3n score is 0." in none.description
    beyond = LinkPredictionStepper.compute(LinkPredictionState(path=4))
    assert beyond.path is None
    assert "has 3 L3 paths; there is no path 4." in beyond.description


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_terms_add_up_to_the_score_of_the_core(predictor: str) -> None:
    scores = chts.link_prediction.PREDICTORS[predictor](NETWORK)
    for link in l3.missing_links(NETWORK):
        result = LinkPredictionStepper.compute(LinkPredictionState(link=link, predictor=predictor))
        assert result.score == scores[link].item()
        if result.score:
            terms, _, total = result.description.rpartition("link is ")[2].rstrip(".").partition(" = ")
            value = eval(terms.replace("√", "np.sqrt").replace("·", "*"), {"np": np})
            assert value == pytest.approx(float(total), abs=6e-4)
            assert float(total) == pytest.approx(result.score, abs=6e-4)


def test_the_slider_reaches_every_path_of_every_link() -> None:
    assert max(len(l3.paths(NETWORK, link)) for link in l3.missing_links(NETWORK)) == MOST_PATHS == 5
    explorer = LinkPredictionStepper()
    assert (explorer.controls["path"].min, explorer.controls["path"].max) == (0, 5)
    for link, path in product(((3, 3), (4, 0)), (0, 5)):
        explorer.controls["link"].value = link
        explorer.controls["path"].value = path
        assert explorer.state == LinkPredictionState(link, "ch2_l3n", path)
    explorer.controls["link"].value = (3, 3)
    assert "Path 5 of 5" in explorer.picture.value


# --- figures ---


def test_the_picture_of_a_path_holds_what_it_says() -> None:
    (axes,) = figures.local_community(TOY, (0, 0), (0, 1, 2, 0), "one").axes
    drawn = [len(group.get_segments()) for group in axes.collections if isinstance(group, LineCollection)]
    assert drawn == [2, 2, 1, 3]  # of seven links five are on a path, three of these on the one chosen; one is missing
    (community,) = [line for line in axes.lines if line.get_label() == "local community"]
    places = set(zip(*np.asarray(community.get_data()).tolist(), strict=True))
    assert places == {(0, 0), (0, 1), (1, 1)}  # inputs 1 and 2 on the left, output 2 on the right
    styles = {(line.get_linestyle(), line.get_linewidth()) for line in axes.lines if line.get_linestyle() != "None"}
    assert len(styles) == 4


def test_heat_maps_hold_the_scores() -> None:
    score = chts.link_prediction.ch2_l3n(TOY)
    figure = figures.score_maps(TOY, {"a": score, "b": 2 * score, "c": 3 * score})
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.get_title() in ("a", "b", "c")]
    for times, picture in enumerate(shown, start=1):
        np.testing.assert_array_equal(np.ma.getmaskarray(picture), TOY)  # existing links, which are grey
        np.testing.assert_array_equal(np.asarray(picture)[~TOY], times * score[~TOY].numpy())


def test_agreement_shows_each_link() -> None:
    one, two = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 2.0, 5.0])
    figure = figures.score_agreement(one, {"two": two, "three": one}, "one")
    (marks,) = figure.axes[0].lines
    np.testing.assert_array_equal(marks.get_xdata(), one)
    np.testing.assert_array_equal(marks.get_ydata(), two)
    assert len(figure.axes) == 2


def test_costs_are_split_by_size_and_density() -> None:
    rows = [
        {"size": size, "density": density, "a": size * density}
        for size, density in ((64, 0.05), (128, 0.05), (256, 0.05), (128, 0.2), (128, 0.01))
    ]
    left, right = figures.regrowth_costs(rows).axes
    assert np.asarray(left.lines[0].get_data()).T.tolist() == [[64, 3.2], [128, 6.4], [256, 12.8]]
    np.testing.assert_allclose(np.asarray(right.lines[0].get_data()).T, [[0.01, 1.28], [0.05, 6.4], [0.2, 25.6]])
    assert (left.get_title(), right.get_title()) == ("at density 0.05", "128 × 128 neurons")
    assert left.get_xscale() == left.get_yscale() == right.get_xscale() == right.get_yscale() == "log"


def test_walks_are_counted_beside_the_expectation() -> None:
    (axes,) = figures.walk_frequencies([(0, 2), (1, 3)], [5.0, 6.0], [4, 7]).axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[5, 6], [4, 7]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0–2", "1–3"]
