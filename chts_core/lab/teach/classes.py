"""Make a course for a class, grade submissions, and report the results.

A course is a folder for nbgrader, so all of nbgrader's own commands work there too. `make_course` fills it. `grade`
takes a folder of submissions, lets nbgrader run and grade each submission, and writes a report on the class.
"""

import csv
import html
import os
import re
import shutil
import statistics
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from tqdm.auto import tqdm

from chts_core.lab import figures
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.environment import environment
from chts_core.lab.notebook.exercises import solution_version, student_version, write_versions
from chts_core.lab.notebook.launch import with_bootstrap
from chts_core.lab.notebook.pages import as_html, document, picture
from chts_core.lab.teach import syllabus
from chts_core.lab.teach.assignment import GRADED

ASSIGNMENT = "sparse_training"
_CONFIG = f"""\
# nbgrader and its own commands read this file: https://nbgrader.readthedocs.io/en/stable/configuration
c = get_config()
c.CourseDirectory.course_id = "chts"
c.CourseDirectory.db_assignments = [{{"name": "{ASSIGNMENT}"}}]
c.Execute.timeout = 300  # seconds that a cell of a submission may take
c.Execute.extra_arguments = ["--log-level=ERROR"]  # for the kernel of a submission
c.GenerateFeedback.preprocessors = [  # without the hidden tests
    "nbgrader.preprocessors.GetGrades",
    "nbgrader.preprocessors.ClearHiddenTests",
    "chts_core.lab.teach.feedback.OnlyMessages",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
"""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{,63}")  # an id is also the name of a folder
_LARGEST = 20 * 2**20  # bytes; the largest size of a submission


def make_course(folder: Path, roster: Path | None = None) -> list[Path]:
    """Write a course: the assignment with its source, the stages with and without solutions, and the plans.

    The function keeps the existing files that a teacher may have edited: nbgrader_config.py and the source of the
    assignment. The function writes all other files again.

    Args:
        folder: folder of the course.
        roster: a CSV file for :func:`read_roster`; its students go into the gradebook.

    Returns:
        The paths of the parts: the assignment to hand out, its source, and the folders of stages and plans.

    Raises:
        ValueError: if nbgrader is missing or the roster is wrong (then nothing is written), or if nbgrader finds an
            error in the assignment.
    """
    _api()
    students = read_roster(roster) if roster is not None else []
    source = folder / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    source.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "nbgrader_config.py").exists():
        (folder / "nbgrader_config.py").write_text(_CONFIG, "utf-8")
    if not source.exists():
        text = (notebooks.folder() / "teaching" / f"{ASSIGNMENT}.py").read_text("utf-8")
        nbformat.write(jupytext.reads(with_bootstrap(text, ASSIGNMENT), fmt="py:percent"), source)
    write_versions(notebooks.stages(), folder / "stages", student_version)
    write_versions(notebooks.stages(), folder / "stages_solved", solution_version)
    (folder / "plans").mkdir(exist_ok=True)
    for plan in syllabus.plans():
        (folder / "plans" / f"{plan.name}.md").write_text(syllabus.as_page(plan), "utf-8")
    with _nbgrader(folder) as grader:
        with grader.gradebook as gradebook:
            for student in students:
                gradebook.update_or_create_student(**student)
        _succeeded(grader.generate_assignment(ASSIGNMENT))
    made = folder / "release" / ASSIGNMENT / source.name
    return [made, source, *(folder / name for name in ("stages", "stages_solved", "plans"))]


def read_roster(path: Path) -> list[dict[str, str]]:
    """Read the students of a class from a file.

    Args:
        path: CSV in UTF-8 with a column "id", and optional columns "first_name", "last_name" and "email".

    Returns:
        For each student, a mapping for nbgrader with student_id and the other columns.

    Raises:
        ValueError: if the file is not CSV in UTF-8, has no column "id" or has no students, or if an id is missing,
            appears twice or cannot be the name of a folder; for a wrong id, the message gives the line number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV in UTF-8: {error}.") from None
    if not lines or "id" not in lines[0]:
        raise ValueError(
            f"{path} has no column id or no line below it; expected for example the columns id,first_name,last_name."
        )
    seen: dict[str, int] = {}
    found = []
    for number, line in enumerate(lines, start=2):
        student = (line["id"] or "").strip()
        if not _ID.fullmatch(student):
            raise ValueError(
                f"{path}, line {number}: the id is {student!r:.80}; expected at most 64 letters, digits and "
                "signs (. _ @ -) that begin with a letter or a digit, because a folder gets this name."
            )
        if student.casefold() in seen:
            raise ValueError(f"{path}, line {number}: the id {student} is already in line {seen[student.casefold()]}.")
        seen[student.casefold()] = number
        known = {key: (line.get(key) or "").strip() for key in ("first_name", "last_name", "email")}
        found.append({"student_id": student} | {key: value for key, value in known.items() if value})
    return found


@dataclass(frozen=True)
class Graded:
    """A student's points for each question; None if the notebook could not be graded or was not handed in."""

    student: str
    points: dict[str, float] | None
    remark: str = ""


@dataclass(frozen=True)
class HandedIn:
    """The content of a folder of submissions.

    notebooks: for each student, the notebook to grade.
    faults: for each student without a notebook to grade, the reason.
    strays: the files and folders that do not belong to exactly one student, with the reasons.
    """

    notebooks: dict[str, Path]
    faults: dict[str, str]
    strays: dict[str, str]


def find_submissions(folder: Path, students: Sequence[str]) -> HandedIn:
    """Find the notebook of each student in a folder of submissions that a learning platform exported.

    A file or folder belongs to a student if its name contains the student's id, and no letter or digit is directly
    before or after the id, as in `anna7.ipynb` and `Anna Adams_anna7_file/x.ipynb`.

    Args:
        folder: a folder of notebooks, or of folders with one notebook each.
        students: the ids of the students.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected a folder with the notebooks that were handed in.")
    entries: dict[str, list[Path]] = {student: [] for student in students}
    strays = {}
    for entry in sorted(folder.iterdir()):
        owners = _owners(entry.name, students)
        if len(owners) == 1:
            entries[owners[0]].append(entry)
        elif not entry.name.startswith("."):
            named = f"the ids {' and '.join(owners)}" if owners else "no id from the roster"
            strays[entry.name] = f"has {named} in its name; rename it to ID.ipynb."
    found, faults = {}, {}
    for student, theirs in entries.items():
        inside = [path for entry in theirs for path in _notebooks(entry)]
        if not theirs:
            faults[student] = "nothing was handed in."
        elif len(inside) != 1:
            names = ", ".join(entry.name for entry in theirs)
            faults[student] = f"{names}: found {len(inside)} notebooks; expected one, the notebook to grade."
        elif fault := _fault(inside[0]):
            faults[student] = f"{inside[0].relative_to(folder)} {fault}"
        else:
            found[student] = inside[0]
    return HandedIn(found, faults, strays)


def _owners(name: str, students: Sequence[str]) -> list[str]:
    owners = [
        student for student in students if re.search(rf"(?<![^\W_]){re.escape(student)}(?![^\W_])", name, re.IGNORECASE)
    ]
    # If both "ann" and "ann-2" are ids, ann-2.ipynb belongs to "ann-2".
    return [one for one in owners if not any(one != other and one in other for other in owners)]


def _notebooks(entry: Path) -> list[Path]:
    if entry.is_symlink() or not entry.is_dir():
        return [entry]
    return [path for path in sorted(entry.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def _fault(path: Path) -> str:
    """The error in a file that should be a student's copy of the assignment; "" if there is none."""
    if path.is_symlink() or path.suffix != ".ipynb" or not path.is_file():
        return "is not a notebook (.ipynb)."
    if path.stat().st_size > _LARGEST:
        return f"has {path.stat().st_size / 2**20:.0f} MB; expected at most {_LARGEST // 2**20} MB. Clear its outputs."
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        asked = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    except Exception as error:  # the reader may raise any error for a file that is not a notebook
        return f"cannot be read as a notebook: {type(error).__name__}."
    return "" if asked else "has no graded cell; it is not this assignment."


def grade(folder: Path, submissions: Path) -> tuple[Path, list[Graded]]:
    """Let nbgrader run and grade the submissions, and write the report on the class.

    The function runs the students' code: their notebooks can do everything that the grading account can do.

    Args:
        folder: a course from :func:`make_course` with a roster.
        submissions: a folder as in :func:`find_submissions`; the function does not change it.

    Returns:
        The path of the report, which has grades.csv next to it, and the grade of each student on the roster. The
        feedback for each student is in the folder feedback/ of the course.

    Raises:
        ValueError: if `folder` is not a course or has no students, if `submissions` does not exist, or if nbgrader is
            missing.
    """
    if not (folder / "nbgrader_config.py").is_file():
        raise ValueError(f"{folder} is not a course; make one: chts teach course {folder} --students ROSTER.csv.")
    with _nbgrader(folder) as grader:
        with grader.gradebook as gradebook:
            students = sorted(student.id for student in gradebook.students)
        if not students:
            raise ValueError(f"{folder} has no students; chts teach course {folder} --students ROSTER.csv adds them.")
        handed_in = find_submissions(submissions, students)
        graded = []
        for student in tqdm(students, desc="graded", unit="student"):
            if student in handed_in.notebooks:
                graded.append(_graded(grader, folder, student, handed_in.notebooks[student]))
            else:
                graded.append(Graded(student, None, handed_in.faults[student]))
        with grader.gradebook as gradebook:
            (notebook,) = gradebook.find_assignment(ASSIGNMENT).notebooks
            most = {cell.name: float(cell.max_score) for cell in notebook.grade_cells}
    return write_report(folder / "report", graded, dict(sorted(most.items())), handed_in.strays), graded


def _graded(grader: Any, folder: Path, student: str, notebook: Path) -> Graded:
    target = folder / "submitted" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(notebook, target)
    try:
        with environment(**{GRADED: student}):  # the kernel reads this name to know whose notebook it runs
            _succeeded(grader.autograde(ASSIGNMENT, student))
        _succeeded(grader.generate_feedback(ASSIGNMENT, student))
    except ValueError as error:
        return Graded(student, None, f"could not be graded: {error}")
    with grader.gradebook as gradebook:
        (graded,) = gradebook.find_submission(ASSIGNMENT, student).notebooks
        return Graded(student, {grade.name: float(grade.score) for grade in graded.grades})


def _api() -> Any:
    try:
        from nbgrader.apps import NbGraderAPI
    except ModuleNotFoundError:
        raise ValueError(
            'nbgrader, which makes and grades assignments, is missing; pip install "chts[teach]".'
        ) from None
    return NbGraderAPI


@contextmanager
def _nbgrader(folder: Path) -> Iterator[Any]:
    """Open nbgrader's interface to a course, with the settings of the course's configuration file."""
    from traitlets.config.loader import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder.resolve())).load_config()
    config.CourseDirectory.root = str(folder.resolve())
    # nbgrader calls a command of its own environment, which may not be on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with environment(PATH=path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody who grades can avoid the warnings of nbgrader's database
        yield _api()(config=config, log_level="ERROR")


def _succeeded(result: Mapping[str, Any]) -> None:
    """Raise an error if nbgrader failed. (nbgrader catches all exceptions, and returns the traceback as text.)

    Raises:
        KeyboardInterrupt: if the user interrupted nbgrader.
        ValueError: for any other failure; the message is the error log or, if the log is empty, the exception.
    """
    if not result["success"]:
        if "KeyboardInterrupt" in result["error"]:
            raise KeyboardInterrupt
        raised = re.findall(r"^[A-Za-z][\w.]*(?:: .*)?$", result["error"], re.MULTILINE)
        raise ValueError(result.get("log", "").strip() or raised[-1])


def write_report(out_dir: Path, graded: Sequence[Graded], most: Mapping[str, float], strays: Mapping[str, str]) -> Path:
    """Write the report on a class as index.html, with grades.csv next to it, and return the path of index.html.

    Args:
        out_dir: folder for both files.
        graded: the grades of each student.
        most: the maximum number of points for each question.
        strays: as in :class:`HandedIn`.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    of = sum(most.values())
    done = [(student, student.points) for student in graded if student.points is not None]
    rows = [
        {
            "student": one.student,
            f"points (out of {of:g})": "–" if one.points is None else f"{sum(one.points.values()):g}",
            "remark": one.remark,
        }
        | {question: "–" if one.points is None else f"{one.points.get(question, 0):g}" for question in most}
        for one in graded
    ]
    with (out_dir / "grades.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["student", *most, "points", "of", "remark"])
        for one in graded:
            marks = ["" if one.points is None else f"{one.points.get(question, 0):g}" for question in most]
            total = "" if one.points is None else f"{sum(one.points.values()):g}"
            writer.writerow([one.student, *marks, total, f"{of:g}", one.remark])
    body = [f"<p>{len(done)} of {len(graded)} students handed in a notebook that could be graded.</p>"]
    if done:
        totals = [sum(points.values()) for _, points in done]
        solved = {question: [points.get(question, 0) for _, points in done] for question in most}
        words = (
            f"The {len(done)} graded students have from {min(totals):g} to {max(totals):g} of {of:g} points. The "
            f"median is {statistics.median(totals):g}, and the mean is {statistics.mean(totals):.1f}."
        )
        hardest = sorted(most, key=lambda question: statistics.mean(solved[question]) / most[question])
        body += [
            picture(figures.to_png(figures.class_points(totals, of)), words),
            "<h2>Questions, the hardest first</h2>",
            as_html(
                [
                    {
                        "question": question,
                        "points": f"{most[question]:g}",
                        "mean": f"{statistics.mean(solved[question]):.2f}",
                        "solved by": f"{sum(got == most[question] for got in solved[question])} of {len(done)}",
                    }
                    for question in hardest
                ]
            ),
        ]
    body.append(f"<h2>Students</h2>{as_html(rows)}")
    if strays:
        listed = "".join(f"<li>{html.escape(f'{name} {why}')}</li>" for name, why in strays.items())
        body.append(f"<h2>Not graded</h2><ul>{listed}</ul>")
    page = out_dir / "index.html"
    page.write_text(document("chts: results of the class", "".join(body)), "utf-8")
    return page
