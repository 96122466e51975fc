"""A class: the course folder, whose notebook is whose, grading by nbgrader in kernels, and the report."""

import copy
import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from chts_core.cli import main
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.launch import with_bootstrap
from chts_core.lab.teach import classes
from chts_core.lab.teach.classes import (
    ASSIGNMENT,
    Graded,
    find_submissions,
    grade,
    make_course,
    read_roster,
    write_report,
)

STUDENTS = ("anna7", "ben", "cem-2", "Dora_9", "emil")


def shortened(text: str, name: str) -> str:
    """The assignment with an experiment of 3 epochs instead of 12."""
    assert "epochs=12" in text
    return with_bootstrap(text, name).replace("epochs=12", "epochs=3")


@pytest.fixture(scope="module")
def new_course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without students and without the stages, which take the longest to write."""
    folder = tmp_path_factory.mktemp("new") / "course"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "with_bootstrap", shortened)
        patch.setattr(classes, "write_versions", lambda *_: [])
        make_course(folder)
    return folder


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, new_course: Path) -> Path:
    folder = tmp_path_factory.mktemp("class")
    roster = folder / "roster.csv"
    roster.write_text("id,first_name,email\n" + "".join(f"{student},X,\n" for student in STUDENTS), "utf-8")
    shutil.copytree(new_course, folder / "course")
    make_course(folder / "course", roster)
    return folder / "course"


@pytest.fixture
def copied(new_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the new course, which gets no stages either when it is made again."""
    monkeypatch.setattr(classes, "write_versions", lambda *_: [])
    return Path(shutil.copytree(new_course, tmp_path / "course"))


def source(course: Path) -> Any:
    return nbformat.read(course / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb", as_version=4)


def released(course: Path) -> Any:
    return nbformat.read(course / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb", as_version=4)


@pytest.fixture
def hand_in(course: Path, tmp_path: Path) -> Callable[..., None]:
    """Writes a student's copy of the assignment with the source's own answers to some questions, or other code."""
    own = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in source(course).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }

    def write(path: str, student: str, **answers: str | None) -> None:
        notebook = copy.deepcopy(released(course))
        for cell in notebook.cells:
            question = cell.metadata.get("nbgrader", {}).get("grade_id")
            if cell.source.startswith('student = ""'):
                cell.source = f'student = "{student}"'
            elif question in answers:
                cell.source = answers[question] or own[question]
        (tmp_path / "handed" / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, tmp_path / "handed" / path)

    return write


# --- what is handed out ---


def test_a_course_has_its_parts(course: Path) -> None:
    parts = {"gradebook.db", "nbgrader_config.py", "plans", "release", "source", "stages", "stages_solved"}
    assert {path.name for path in course.iterdir()} == parts
    stages = {path.name for path in notebooks.stages()}
    assert {path.name for path in (course / "stages").iterdir()} == stages
    assert {path.name for path in (course / "stages_solved").iterdir()} == stages
    assert {path.name for path in (course / "plans").iterdir()} == {"ninety_minutes.md", "two_weeks.md"}


def test_stages_come_with_and_without_solutions(course: Path) -> None:
    def text(folder: str) -> str:
        notebook = nbformat.read(course / folder / "01_networks_as_masks.ipynb", as_version=4)
        assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
        return "\n".join(cell.source for cell in notebook.cells)

    assert "<summary>Solution" not in text("stages")
    assert "= None" in text("stages")
    assert "<summary>Solution" in text("stages_solved")


def test_students_get_no_answers_and_no_hidden_tests(course: Path) -> None:
    handed_out = "\n".join(cell.source for cell in released(course).cells)
    for cell in source(course).cells:
        for hidden in re.findall(r"### BEGIN (?:HIDDEN TESTS|SOLUTION)\n(.*?) *### END", cell.source, re.DOTALL):
            assert hidden.strip() not in handed_out
    assert "BEGIN" not in handed_out
    assert handed_out.count("raise NotImplementedError()") == 11
    assert 'student = ""' in handed_out


def test_the_assignment_runs_on_colab_too(course: Path) -> None:
    def bootstrap(notebook: Any) -> list[str]:
        return [cell.source for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", [])]

    stage = nbformat.read(notebooks.find("00"), as_version=4)
    assert bootstrap(released(course)) == bootstrap(stage)
    assert len(bootstrap(stage)) == 1


def test_what_a_teacher_changed_stays_and_is_handed_out(course: Path, copied: Path) -> None:
    path = copied / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# An assignment of mine"
    nbformat.write(notebook, path)
    config = copied / "nbgrader_config.py"
    config.write_text(config.read_text("utf-8") + 'c.ClearSolutions.code_stub = {"python": "..."}\n', "utf-8")
    make_course(copied)
    made = "\n".join(cell.source for cell in released(copied).cells)
    assert "An assignment of mine" in made
    assert "NotImplementedError" not in made
    assert "NotImplementedError" in "\n".join(cell.source for cell in released(course).cells)


def test_a_fault_in_the_source_is_told(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    ids = [cell for cell in notebook.cells if cell.metadata.get("nbgrader")]
    ids[1].metadata.nbgrader.grade_id = ids[0].metadata.nbgrader.grade_id
    nbformat.write(notebook, path)
    assert main(["teach", "course", str(copied)]) == 2
    assert "Duplicate grade id: who" in capsys.readouterr().err


# --- the roster ---


def test_a_roster_is_read(tmp_path: Path) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes("\ufefflast_name,id,group\nÅström, a.b@c ,1\n,7,\n".encode())
    assert read_roster(path) == [{"student_id": "a.b@c", "last_name": "Åström"}, {"student_id": "7"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no column id"),
        (b"name\nanna\n", "has no column id"),
        (b"id\n", "has no column id or no line below it"),
        (b"id,x\n,1\n", "line 2: the id is ''"),
        (b"id\nanna\n../x\n", r"line 3: the id is '\.\./x'"),
        (b"id\n.hidden\n", r"line 2: the id is '\.hidden'"),
        (b"id\na/b\n", "line 2: the id is 'a/b'"),
        (b"id\nanna\nben\nAnna\n", "line 4: the id Anna is already in line 2"),
        (b"id\n\xff\n", "is not CSV in UTF-8"),
        (b'id\n"a\n', "is not CSV in UTF-8"),
    ],
)
def test_a_roster_with_a_fault_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_roster(path)


def test_a_refused_roster_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "roster.csv").write_text("name\n")
    assert main(["teach", "course", str(tmp_path / "course"), "--students", str(tmp_path / "roster.csv")]) == 2
    assert "has no column id" in capsys.readouterr().err
    assert not (tmp_path / "course").exists()


# --- whose is it ---


def test_notebooks_are_found_by_id(hand_in: Callable[..., None], tmp_path: Path) -> None:
    hand_in("anna7.ipynb", "anna7")
    hand_in("Ben Baker_ben_assignsubmission_file/sparse_training.ipynb", "ben")
    hand_in("Ben Baker_ben_assignsubmission_file/.ipynb_checkpoints/x-checkpoint.ipynb", "ben")
    hand_in("late_CEM-2_v3.ipynb", "cem-2")
    (tmp_path / "handed" / ".DS_Store").write_text("")
    found = find_submissions(tmp_path / "handed", STUDENTS)
    assert {student: str(path.relative_to(tmp_path / "handed")) for student, path in found.notebooks.items()} == {
        "anna7": "anna7.ipynb",
        "ben": "Ben Baker_ben_assignsubmission_file/sparse_training.ipynb",
        "cem-2": "late_CEM-2_v3.ipynb",
    }
    assert found.faults == {"Dora_9": "nothing was handed in.", "emil": "nothing was handed in."}
    assert found.strays == {}


def test_an_id_within_another_word_is_nobody_s(hand_in: Callable[..., None], tmp_path: Path) -> None:
    for name in ("benjamin", "anna77", "xanna7", "annaé7"):
        hand_in(f"{name}.ipynb", "ben")
    hand_in("ben and emil.ipynb", "ben")
    hand_in("cem-2.ipynb", "cem-2")
    found = find_submissions(tmp_path / "handed", (*STUDENTS, "cem", "2"))
    assert list(found.notebooks) == ["cem-2"]
    nobody = "has no id from the roster in its name; rename it to ID.ipynb."
    assert found.strays == {
        "anna77.ipynb": nobody,
        "annaé7.ipynb": nobody,
        "ben and emil.ipynb": "has the ids ben and emil in its name; rename it to ID.ipynb.",
        "benjamin.ipynb": nobody,
        "xanna7.ipynb": nobody,
    }


def test_what_is_no_notebook_of_the_assignment_is_refused(
    hand_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = tmp_path / "handed"
    hand_in("anna7/a.ipynb", "anna7")
    hand_in("anna7/b.ipynb", "anna7")
    (handed / "ben.ipynb").write_text("{")
    (handed / "cem-2.txt").write_text("done")
    nbformat.write(nbformat.v4.new_notebook(), handed / "emil.ipynb")
    secret = tmp_path / "elsewhere.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), secret)
    (handed / "Dora_9.ipynb").symlink_to(secret)
    found = find_submissions(handed, STUDENTS)
    assert found.notebooks == {}
    assert found.faults == {
        "anna7": "anna7: found 2 notebooks; expected one, the notebook to grade.",
        "ben": "ben.ipynb cannot be read as a notebook: NotJSONError.",
        "cem-2": "cem-2.txt is not a notebook (.ipynb).",
        "Dora_9": "Dora_9.ipynb is not a notebook (.ipynb).",
        "emil": "emil.ipynb has no graded cell; it is not this assignment.",
    }
    monkeypatch.setattr(classes, "_LARGEST", 10)
    (handed / "emil.ipynb").write_text(json.dumps({"long": "x" * 30}))
    assert find_submissions(handed, STUDENTS).faults["emil"].startswith("emil.ipynb has 0 MB; expected at most 0")


def test_twice_handed_in_is_not_guessed_at(hand_in: Callable[..., None], tmp_path: Path) -> None:
    hand_in("ben.ipynb", "ben")
    hand_in("ben_2.ipynb", "ben")
    assert find_submissions(tmp_path / "handed", STUDENTS).faults["ben"] == (
        "ben.ipynb, ben_2.ipynb: found 2 notebooks; expected one, the notebook to grade."
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, course: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none is not a folder; expected a folder with the notebooks that were handed"
    ):
        grade(course, tmp_path / "none")


def test_what_is_no_course_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a course; make one: chts teach course"):
        grade(tmp_path, tmp_path)


def test_a_course_without_students_is_refused(new_course: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no students; chts teach course .* --students ROSTER\.csv adds them"):
        grade(new_course, tmp_path)


def test_without_nbgrader_its_installation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    assert main(["teach", "course", str(tmp_path / "course")]) == 2
    assert 'is missing; pip install "chts[teach]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- grading, in kernels ---


@pytest.mark.slow
@pytest.mark.full
def test_a_class_is_graded(
    course: Path, hand_in: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {
        cell.metadata.nbgrader.grade_id: None
        for cell in source(course).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    hand_in("anna7.ipynb", "anna7", **everything)
    hand_in("ben/x.ipynb", "ben", distance=None, probabilities=None)
    # Numbers that were right for anna7, and code that would be right for anyone.
    copied = {"count": "links, density = 17, 17 / 48\noutput_degrees, input_degrees = [3] * 6, [2] * 8", "score": None}
    hand_in("cem-2.ipynb", "anna7", **copied)
    (tmp_path / "handed" / "emil.ipynb").write_text("{")
    assert main(["teach", "grade", str(course), str(tmp_path / "handed")]) == 1
    said = capsys.readouterr()
    assert "3 of 5 students are graded: " in said.out
    assert "chts: emil: emil.ipynb cannot be read as a notebook: NotJSONError." in said.err
    with (course / "report" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {student: rows[student]["points"] for student in STUDENTS} == {
        "anna7": "25",
        "ben": "5",
        "cem-2": "3",
        "Dora_9": "",
        "emil": "",
    }
    assert {row["of"] for row in rows.values()} == {"25"}
    solved = {name for name, points in rows["ben"].items() if points not in ("", "0")}
    assert solved == {"student", "points", "of", "2a-distance", "2b-distance", "4a-probabilities", "4b-probabilities"}
    feedback = (course / "feedback" / "cem-2" / ASSIGNMENT / f"{ASSIGNMENT}.html").read_text("utf-8")
    assert "has the id" in feedback
    assert "for 'cem-2', who handed it in" in feedback.replace("&#39;", "'")
    assert "links is not the number of links of your mask" in feedback
    assert "HIDDEN TESTS" not in feedback
    assert "own.sum()" not in feedback  # a line of a hidden test


@pytest.mark.full  # it waits for what hangs
def test_a_notebook_that_hangs_or_dies_costs_only_its_own_points(
    copied: Path, tmp_path: Path, hand_in: Callable[..., None]
) -> None:
    (tmp_path / "roster.csv").write_text("id\nanna7\nben\n")
    make_course(copied, tmp_path / "roster.csv")
    config = copied / "nbgrader_config.py"
    config.write_text(config.read_text("utf-8").replace("timeout = 300", "timeout = 10"))
    hand_in("anna7.ipynb", "anna7", count="import time\nwhile True:\n    time.sleep(1)", distance=None)
    hand_in("ben.ipynb", "ben", count="import os\nos._exit(1)")
    _, (anna, ben) = grade(copied, tmp_path / "handed")
    assert anna.points is not None
    assert {name for name, points in anna.points.items() if points} == {"2a-distance", "2b-distance"}
    assert ben.points is None
    assert ben.remark.startswith("could not be graded: ")
    assert "died" in ben.remark.lower()


# --- the report ---


def test_a_report_counts_what_it_shows(tmp_path: Path) -> None:
    graded = [
        Graded("anna7", {"1": 2.0, "2": 1.0}),
        Graded("ben", {"1": 2.0, "2": 0.0}),
        Graded("cem-2", {"1": 0.0, "2": 0.0}),
        Graded("emil", None, "nothing was handed in."),
    ]
    page = write_report(tmp_path, graded, {"1": 2.0, "2": 1.0}, {"<b>.txt": "names no student."})
    text = page.read_text("utf-8")
    assert "3 of 4 students handed in a notebook that could be graded." in text
    assert "from 0 to 3 of 3 points. The median is 2, and the mean is 1.7." in text
    asked, students = (
        [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", table)]
        for table in re.findall(r"<tbody>(.*?)</tbody>", text)
    )
    assert asked == [["2", "1", "0.33", "1 of 3"], ["1", "2", "1.33", "2 of 3"]]
    assert students == [
        ["anna7", "3", "", "2", "1"],
        ["ben", "2", "", "2", "0"],
        ["cem-2", "0", "", "0", "0"],
        ["emil", "–", "nothing was handed in.", "–", "–"],
    ]
    assert "<li>&lt;b&gt;.txt names no student.</li>" in text
    assert (tmp_path / "grades.csv").read_text("utf-8").splitlines() == [
        "student,1,2,points,of,remark",
        "anna7,2,1,3,3,",
        "ben,2,0,2,3,",
        "cem-2,0,0,0,3,",
        "emil,,,,3,nothing was handed in.",
    ]


def test_a_class_that_handed_in_nothing_has_a_report(tmp_path: Path) -> None:
    page = write_report(tmp_path, [Graded("emil", None, "nothing was handed in.")], {"1": 2.0}, {})
    text = page.read_text("utf-8")
    assert "0 of 1 students" in text
    assert "<img" not in text
