"""The assignment: its own answers pass, each wrong one fails where it should, and nobody's numbers are another's."""

import re
from typing import Any

import jupytext
import pytest
import torch

from chts_core.lab.notebook import notebooks
from chts_core.lab.teach import assignment
from chts_core.lab.teach.assignment import generator_of

SOURCE = notebooks.folder() / "teaching" / "sparse_training.py"
NOTEBOOK = jupytext.read(SOURCE)
CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
GRADED = {
    cell.metadata["nbgrader"]["grade_id"]: cell.metadata["nbgrader"]["points"]
    for cell in CELLS
    if cell.metadata.get("nbgrader", {}).get("grade")
}


def answered(answers: dict[str, str], until: str, epochs: int = 3) -> dict[str, str | None]:
    """Run the assignment with some answers replaced, up to a graded cell; the error of each graded cell, or None.

    epochs: of the experiment, instead of the 12 that students are asked for.
    """
    space: dict[str, Any] = {}
    found: dict[str, str | None] = {}
    for cell in CELLS:
        meta = cell.metadata.get("nbgrader", {})
        name = meta.get("grade_id", "")
        source = answers.get(name, cell.source) if meta.get("solution") else cell.source
        source = source.replace('student = ""', 'student = "anna7"')
        if name == "recipe":
            assert "epochs=12" in source
            source = source.replace("epochs=12", f"epochs={epochs}")
        try:
            exec(compile(source, name or "cell", "exec"), space)
        except Exception as error:
            if not meta.get("grade"):
                raise
            found[name] = f"{type(error).__name__}: {error}"
        else:
            if meta.get("grade"):
                found[name] = None
        if name == until:
            return found
    raise AssertionError(f"there is no cell {until}")


def test_there_are_thirty_points() -> None:
    (page,) = [cell for cell in NOTEBOOK.cells if cell.metadata.get("nbgrader", {}).get("task")]
    assert sum(GRADED.values()) + page.metadata["nbgrader"]["points"] == 30
    text = SOURCE.read_text("utf-8")
    listed = re.findall(r"^# ## (\d+) · .*\((\d) points(, graded by a person)?\)$", text, re.MULTILINE)
    assert [number for number, *_ in listed] == [str(number) for number in range(1, 12)]
    assert "Eleven questions, 30 points" in text
    for number, points, by_a_person in listed:
        by_tests = sum(value for name, value in GRADED.items() if re.match(rf"{number}[a-z]?-", name))
        assert by_tests == (0 if by_a_person else int(points))
    assert page.source.count("\n| ") - 1 == page.metadata["nbgrader"]["points"]  # a line of the table for each point


@pytest.mark.parametrize("epochs", [3, pytest.param(12, marks=pytest.mark.full)])
def test_its_own_answers_pass(epochs: int) -> None:
    assert answered({}, "10-cost", epochs) == dict.fromkeys(GRADED)


DISTANCE = "def distance(i, j, out_features, in_features):\n    c = (i + 0.5) * in_features / out_features - 0.5\n    "
SCORE = "def score(mask, u, v):\n    "
PERCOLATED = "def percolated(first, second):\n    "
GONE = "gone_by_magnitude = gone_by_importance = "


@pytest.mark.parametrize(
    ("question", "answer", "fails"),
    [
        ("count", "links = density = output_degrees = input_degrees = None", {"1-count": "links is None"}),
        (
            "count",
            "links = int(mask.sum())\ndensity = links / 48\n"
            "output_degrees, input_degrees = mask.sum(0).tolist(), mask.sum(1).tolist()",
            {"1-count": "rows are outputs"},
        ),
        (
            "count",
            "links = int(mask.sum())\ndensity = 1 - links / 48\n"
            "output_degrees, input_degrees = mask.sum(1).tolist(), mask.sum(0).tolist()",
            {"1-count": "share of all 48"},
        ),
        ("distance", f"{DISTANCE}return abs(j - c)", {"2a-distance": "the short way", "2b-distance": "should be"}),
        ("distance", f"{DISTANCE}return min(abs(j - c), 8 - abs(j - c))", {"2b-distance": "should be"}),
        ("score", f"{SCORE}return 2 * 6**0.5", {"3b-score": "should be"}),
        ("score", f"{SCORE}return float(chts.link_prediction.ch3_l3p(mask)[u, v])", {"3a-score": "", "3b-score": ""}),
        ("score", f"{SCORE}return float(chts.link_prediction.ch3_l3n(mask)[u, v])", {"3a-score": "", "3b-score": ""}),
        (
            "score",
            f"{SCORE}return float(chts.link_prediction.ch2_l3n(mask)[u, v])",
            {"3a-score": "the square root", "3b-score": "should be"},
        ),
        (
            "score",
            f"{SCORE}return float(chts.link_prediction.ch2_l3p(mask)[u, v])",
            {"3b-score": "write the score yourself"},
        ),
        (
            "probabilities",
            "def probabilities(scores, temperature):\n    p = scores**temperature\n    return p / p.sum()",
            {"4b-probabilities": "Work with logarithms"},
        ),
        (
            "probabilities",
            "def probabilities(scores, temperature):\n    return scores / scores.sum()",
            {"4a-probabilities": "at T = 2", "4b-probabilities": "Work with logarithms"},
        ),
        (
            "removal",
            f"{GONE}(weight != 0) & (weight.abs() >= weight.abs().flatten().sort().values[-3])",
            {"5a-magnitude": "nearest to 0", "5b-importance": "smallest relative importance"},
        ),
        ("removal", f"{GONE}weight", {"5a-magnitude": "true and false", "5b-importance": "true and false"}),
        (
            "percolated",
            f"{PERCOLATED}return first & second.any(0)[:, None], second",
            {
                "6a-percolated": "neuron 2 has no incoming links",
                "6b-percolated": "not the masks that percolation leaves",
            },
        ),
        (
            "percolated",
            f"{PERCOLATED}first &= second.any(0)[:, None]\n    second &= first.any(1)\n    return first, second",
            {"6b-percolated": "changed the masks that it was given"},
        ),
        (
            "percolated",
            f"{PERCOLATED}graph = chts.percolation.LayerGraph(chains=(('a', 'b'),))\n"
            "    return tuple(chts.percolation.percolate({'a': first, 'b': second}, graph).values())",
            {"6b-percolated": "write the percolation yourself"},
        ),
        (
            "decay",
            "half_way, three_quarters = (round(20_000 * (0.5 - (final - 0.5) * u)) for u in (0.5, 0.75))",
            {"7-decay": "at three quarters of the way"},
        ),
        ("decay", "half_way, three_quarters = 9000, 8000", {"7-decay": "the mean of 0.5 and final"}),
    ],
)
def test_a_wrong_answer_fails_where_it_should(question: str, answer: str, fails: dict[str, str]) -> None:
    found = answered({question: answer}, "7-decay")
    failed = {name: error for name, error in found.items() if error is not None}
    assert set(failed) == set(fails)
    for name, words in fails.items():
        assert words in failed[name]


@pytest.mark.parametrize(
    ("accuracies", "statistics", "fails"),
    [
        # Numbers that nobody's runs gave, rightly summed up.
        (
            {"chts": [0.5, 0.6, 0.7], "set": [0.1, 0.2, 0.3]},
            'mean_difference, half_width, verdict = 0.4, 0.0, "chts"',
            {"8a-runs": "with your second seed"},
        ),
        (
            {"chts": [0.5, 0.6, 0.7], "set": [0.5, 0.5, 0.5]},
            'mean_difference, half_width, verdict = 0.1, 0.2028, "undecided"',  # s divides by n
            {"8a-runs": "with your second seed", "8b-statistics": "the half-width of the interval is 0.2484"},
        ),
        (
            {"chts": [0.5, 0.6, 0.7], "set": [0.5, 0.5, 0.5]},
            'mean_difference, half_width, verdict = 0.1, 0.057735, "chts"',
            {"8a-runs": "with your second seed", "8b-statistics": "it is the standard error"},
        ),
        (
            {"chts": [0.5, 0.6, 0.7], "set": [0.5, 0.5, 0.5]},
            'mean_difference, half_width, verdict = 0.1, 0.11316, "undecided"',
            {"8a-runs": "with your second seed", "8b-statistics": "right only for many runs"},
        ),
        (
            {"chts": [0.5, 0.6, 0.7], "set": [0.5, 0.5, 0.5]},
            'mean_difference, half_width, verdict = 0.1, 0.24843, "chts"',
            {"8a-runs": "with your second seed", "8b-statistics": "the verdict is undecided"},
        ),
        (
            {"chts": [0.5, 0.6]},
            'mean_difference, half_width, verdict = 0.1, 0.05, "yes"',
            {"8a-runs": "the two methods", "8b-statistics": "the verdict is 'yes'"},
        ),
    ],
)
def test_a_wrong_experiment_fails(accuracies: dict[str, list[float]], statistics: str, fails: dict[str, str]) -> None:
    found = answered({"experiment": f"accuracies = {accuracies}\n{statistics}"}, "8b-statistics")
    failed = {name: error for name, error in found.items() if error is not None}
    assert set(failed) == set(fails)
    for name, words in fails.items():
        assert words in failed[name]


ROW = "num = round(zeta * int(mask.sum()))\n    "
KEPT = f"{ROW}kept = mask & (weight.abs() > weight.abs()[mask].sort().values[num - 1])\n    "
FREE = f"{KEPT}free = (~kept).flatten().nonzero().flatten()\n    after = kept.clone()\n    "
ALIKE = f"{FREE}after.view(-1)[free[torch.randperm(len(free), generator=generator)[:num]]] = True\n    "
FIRST = f"{FREE}after.view(-1)[free[:num]] = True\n    "


@pytest.mark.parametrize(
    ("question", "answer", "fails"),
    [
        ("faults", 'faults = "BDF"', {"9a-faults": "a set of letters"}),
        ("faults", 'faults = {"D", "F"}', {"9a-faults": "absent links have weight 0"}),
        ("faults", 'faults = {"B", "F"}', {"9a-faults": "varies"}),
        ("faults", 'faults = {"B", "D"}', {"9a-faults": "old weight"}),
        ("faults", 'faults = {"B", "C", "D", "F"}', {"9a-faults": "['C'], but this code would be right"}),
        ("update", "update = friend", {"9b-update": ""}),
        ("update", f"{ALIKE}return weight * kept, momentum * kept, after", {}),
        ("update", f"{ALIKE}return weight * after, momentum * kept, after", {"9b-update": "the weights are not"}),
        ("update", f"{ALIKE}return weight * kept, momentum, after", {"9b-update": "weight and momentum 0"}),
        ("update", f"{FIRST}return weight * kept, momentum * kept, after", {"9b-update": "one place got a link in"}),
        ("cost", "bytes_dense = bytes_links = break_even = None", {"10-cost": "set all three"}),
        (
            "cost",
            "bytes_dense, bytes_links, break_even = 4 * 512 * 1376, 1.0, 0.5",
            {"10-cost": "values of 4 bytes for each place"},
        ),
    ],
)
def test_wrong_answers_to_the_last_questions_fail(question: str, answer: str, fails: dict[str, str]) -> None:
    if question == "update" and not answer.startswith("update"):
        answer = f"def update(weight, momentum, mask, zeta, generator):\n    {answer}"
    given = {"experiment": 'accuracies, mean_difference, half_width, verdict = {}, 0.0, 0.0, "set"', question: answer}
    found = answered(given, "10-cost")
    failed = {name: error for name, error in found.items() if error is not None and not name.startswith("8")}
    assert set(failed) == set(fails)
    for name, words in fails.items():
        assert words in failed[name]


# --- numbers of their own ---


def draws(student: str, question: str = "count") -> list[int]:
    return torch.randint(10**9, (4,), generator=generator_of(student, question)).tolist()


def test_the_numbers_of_a_student_and_question_are_always_the_same() -> None:
    assert draws("anna7") == [782976464, 64888798, 10759759, 578353134]
    assert draws(" Anna7 ") == draws("anna7")


def test_students_and_questions_have_different_numbers() -> None:
    made = [draws(student, question) for student in ("a", "b", "ab", "a\nb") for question in ("b", "c", "")]
    assert len({tuple(one) for one in made}) == len(made)


@pytest.mark.parametrize("student", ["", "  "])
def test_nobody_has_no_numbers(student: str) -> None:
    with pytest.raises(ValueError, match=r'^there is no id yet; write yours between the quotes of student = ""'):
        generator_of(student, "count")


def test_while_it_is_graded_who_handed_it_in_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anna, ben = draws("anna7"), draws("ben")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(assignment.GRADED, "Ben")
    assert draws("ben") == ben
    assert capsys.readouterr().out == ""
    assert draws("anna7") == ben != anna
    assert capsys.readouterr().out == (
        "This notebook has the id 'anna7', but uses the numbers for 'ben', who handed it in.\n"
    )
    assert draws("") == ben  # who forgot it is known all the same
