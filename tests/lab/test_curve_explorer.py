from dataclasses import replace

import pytest

from chts_core.lab.results import report
from chts_core.lab.results.statistics import score_differences
from chts_core.lab.widgets import CurveExplorer, CurveState, curves
from chts_core.lab.widgets.curves import stored
from chts_core.methods import METHODS

compute = CurveExplorer.compute


def test_it_has_the_comparisons_of_several_methods() -> None:
    assert {name: len({row["method"] for row in rows}) for name, rows in stored().items()} == {
        "images: digits": 9,
        "language: books, small": 4,
        "language: books, tiny": 4,
        "language: tinyshakespeare, small": 4,
        "language: tinyshakespeare, tiny": 4,
        "language_tiny: tinyshakespeare, tiny": 4,
        "translation: multi30k, small": 4,
        "translation: number_words, tiny": 9,
    }


@pytest.mark.parametrize("comparison", stored())
def test_the_difference_is_that_of_the_records(comparison: str) -> None:
    rows = stored()[comparison]
    score = report.SCORES[rows[0]["task"]]
    for row in score_differences(rows, score.of, "set"):
        if row["method"] == "fc":
            continue
        state = CurveState(comparison, row["sparsity"], row["method"], "set")
        result = compute(state)
        assert len(result.differences) == row["seeds"]
        gap = f" is {row['difference']:+.{score.digits}f}"
        certainty = ""
        if row["interval"] is not None:
            gap += f" ± {row['interval']:.{score.digits}f}"
            zero = "contains" if abs(row["difference"]) <= row["interval"] else "does not contain"
            certainty = f" The 95 % confidence interval {zero} 0."
        seeds = "1 seed." if row["seeds"] == 1 else f"{row['seeds']} seeds."
        assert result.description.endswith(f"{gap} over {seeds}{certainty}")
        assert result.description.startswith(f"{comparison}, {row['sparsity']:.0%} sparse: in {score.name}, ")


def test_it_has_the_curves_of_both_and_of_fc() -> None:
    result = compute(CurveState("images: digits", 0.97, "granet", "rigl"))
    assert list(result.courses) == ["granet", "rigl", "fc"]
    rows = [row for row in stored()["images: digits"] if (row["method"], row["sparsity"]) == ("granet", 0.97)]
    assert result.courses["granet"] == [
        [(look["step"], 100 * look["accuracy"]) for look in row["validation"]] for row in rows
    ]
    assert list(result.differences) == [row["seed"] for row in rows]
    for method, other in (("granet", "fc"), ("fc", "granet")):
        assert list(compute(CurveState("images: digits", 0.97, method, other)).courses) == [method, other]


def test_swapping_the_two_changes_the_sign() -> None:
    state = CurveState("language: books, small", 0.9, "set", "fc")
    there, back = (compute(replace(state, method=a, rival=b)) for a, b in (("set", "fc"), ("fc", "set")))
    assert there.differences == {seed: -value for seed, value in back.differences.items()}


def test_what_is_not_stored_is_said_with_what_there_is() -> None:
    result = compute(CurveState("language: books, tiny", 0.9, "chts", "set"))
    assert (result.courses, result.differences) == ({}, {})
    assert result.description == (
        "language: books, tiny, 90% sparse: one or both of CHTs and SET have no stored runs. There are stored runs "
        "of FC, SET, RigL, GraNet at 70%, 90%, 95%."
    )
    assert "at 70%, 90%, 95%." in compute(CurveState("language: books, tiny", 0.99)).description


def test_a_method_beside_itself() -> None:
    result = compute(CurveState(method="set", rival="set"))
    assert list(result.courses) == ["set"]
    assert set(result.differences.values()) == {0.0}
    assert "both methods are SET; choose two different methods" in result.description


def test_the_picture_has_a_dot_for_each_seed_and_the_interval_beside_the_curves() -> None:
    state = CurveState("images: digits", 0.97, "granet", "chts")
    result = compute(state)
    left, right = CurveExplorer.draw(state, result).axes
    assert left.get_title() == "images: digits, 97% sparse"
    assert [line.get_label() for line in left.lines] == ["GraNet", "CHTs", "FC"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("step", "validation accuracy (%)")
    dots = right.lines[0]
    assert dict(zip(dots.get_ydata(), dots.get_xdata(), strict=True)) == result.differences
    assert list(right.get_yticks()) == list(range(10))
    assert right.get_xlabel() == "GraNet minus CHTs\ntest accuracy of the last epoch (%)"
    (band,) = right.patches
    mean = sum(result.differences.values()) / 10
    assert right.lines[2].get_xdata() == pytest.approx([mean, mean])
    assert band.get_x() + band.get_width() / 2 == pytest.approx(mean)


def test_one_seed_has_no_band(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in stored()["images: digits"] if row["seed"] == 0]
    monkeypatch.setattr(curves, "stored", lambda: {"images: digits": rows})
    state = CurveState("images: digits", 0.97, "granet", "fc")
    result = compute(state)
    assert not CurveExplorer.draw(state, result).axes[1].patches
    assert "±" not in result.description


def test_nothing_stored_is_a_picture_that_says_so() -> None:
    state = CurveState("language: books, tiny", 0.99)
    (axes,) = CurveExplorer.draw(state, compute(state)).axes
    assert "one or both methods have no stored runs" in axes.texts[0].get_text()


def test_its_menus_have_all_there_is() -> None:
    controls = CurveExplorer().controls
    assert list(controls["comparison"].options) == list(stored())
    assert [value for _, value in controls["sparsity"].options] == [0.7, 0.9, 0.95, 0.97]
    for field in ("method", "rival"):
        assert [value for _, value in controls[field].options] == list(METHODS)
