"""Check a learner's answers to exercises, and make versions of a notebook with and without answers.

In a notebook, an exercise has a cell tagged `exercise`, which the learner completes, and a cell tagged `check`, which
calls :func:`check`. Each hint, each solution and each answer to a question is folded in a <details> block.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from chts_core.lab.notebook import checks

FOLDED = re.compile(r"\n*<details>\s*<summary>(?P<summary>.*?)</summary>\n(?P<body>.*?)</details>", re.DOTALL)
_HEADING = re.compile(
    r"^## Exercise: (?P<title>.+)\n\n\*(?P<stars>★+)☆* · (?P<minutes>\d+) minutes · "
    r"(?P<importance>essential|useful|optional) · objectives? (?P<objectives>\d(?:(?:, | and )\d)*)"
    r" · (?P<kind>write code|work out)\*$",
    re.MULTILINE,
)
_CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """The information below the heading of an exercise.

    difficulty: the number of stars, 1 to 3.
    minutes: the minutes that the exercise takes.
    importance: "essential", "useful" or "optional".
    objectives: the numbers of the exercise's objectives, as the header of the notebook lists them.
    writes_code: whether the learner writes code; if not, the answer is a number or a word.
    """

    title: str
    difficulty: int
    minutes: int
    importance: str
    objectives: tuple[int, ...]
    writes_code: bool


def listed(notebook: Any) -> list[Exercise]:
    """The exercises of an nbformat notebook, in order.

    Raises:
        ValueError: if the heading of an exercise is not followed by a line such as
            "*★★☆ · 10 minutes · essential · objectives 1 and 2 · write code*"; the message names the heading.
    """
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = list(_HEADING.finditer(text))
    for title in re.findall(r"^## Exercise\b.*$", text, re.MULTILINE):
        if title not in [f"## Exercise: {one['title']}" for one in found]:
            raise ValueError(
                f"{title!r} needs a line below it, such as '*★★☆ · 10 minutes · essential · objectives 1 and 2 · "
                "write code*'."
            )
    return [
        Exercise(
            one["title"],
            len(one["stars"]),
            int(one["minutes"]),
            one["importance"],
            tuple(int(number) for number in re.findall(r"\d", one["objectives"])),
            one["kind"] == "write code",
        )
        for one in found
    ]


def check(exercise: str, *answers: Any, **given: Any) -> None:
    """Check the answers to an exercise of a stage: print "Correct." or the error.

    Args:
        exercise: the number of the stage and the name of the exercise; "10.hours" means `hours` of `checks.stage_10`.
        answers: the learner's answers.
        given: values that the check needs from the notebook.

    Raises:
        ValueError: for an unknown exercise; the message lists the names of the stage's exercises.
        TypeError: if the answers or the given values do not fit the check.
    """
    stage, _, name = exercise.partition(".")
    known = checks.of_stage(stage)
    if name not in known:
        names = ", ".join(f"{stage}.{other}" for other in known)
        raise ValueError(f"there is no exercise {exercise!r}; stage {stage} has {names}.")
    inspect.signature(known[name]).bind(*answers, **given)  # an error here is the fault of the cell's author
    with attempt():
        known[name](*answers, **given)


@contextmanager
def attempt() -> Iterator[None]:
    """Run the assertions that test an exercise, and print "Correct." or the error.

    Use `with attempt():` for your own exercises. A wrong answer raises no error, so the rest of the notebook still
    runs. The learner reads the message of the assertion, so this message should say what is wrong and give a hint.
    """
    try:
        yield
    except AssertionError as error:
        print(f"Not yet: {str(error) or 'the test above failed.'}")
    except Exception as error:  # a half-written answer may raise any error
        print(f"Not yet: {type(error).__name__}: {error}")
    else:
        print("Correct.")


def student_version(notebook: Any) -> Any:
    """The student version of a notebook. It has the hints, but no outputs, solutions or answers.

    Args:
        notebook: an nbformat notebook, which is not changed.
    """
    student = _without_outputs(notebook)
    for cell in student.cells:
        if cell.cell_type == "markdown":
            cell.source = FOLDED.sub(lambda found: found[0] if found["summary"] == "Hint" else "", cell.source).strip()
    student.cells = [cell for cell in student.cells if cell.source]
    return student


def solution_version(notebook: Any) -> Any:
    """The teacher's version of a notebook. It has all solutions and answers, but no outputs.

    Args:
        notebook: an nbformat notebook, which is not changed.

    Raises:
        ValueError: as in :func:`solved_version`.
    """
    return _without_outputs(solved_version(notebook))


def _without_outputs(notebook: Any) -> Any:
    bare = nbformat.from_dict(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for key in ("widgets", "jupytext"):  # there is no text source to pair it with
        bare.metadata.pop(key, None)
    return bare


def solved_version(notebook: Any) -> Any:
    """A copy of a notebook in which the folded solutions replace the exercises. Tests run this copy.

    Raises:
        ValueError: if an exercise has no ```python solution before the next exercise; the message quotes the first line
            of the exercise without a solution.
    """
    solved = nbformat.from_dict(notebook)
    open_exercise = None
    for cell in solved.cells:
        if "exercise" in cell.metadata.get("tags", []):
            if open_exercise is not None:
                break
            open_exercise = cell
        elif cell.cell_type == "markdown" and open_exercise is not None:
            code = [
                block
                for found in FOLDED.finditer(cell.source)
                if found["summary"] == "Solution"
                for block in _CODE.findall(found["body"])
            ]
            if code:
                open_exercise.source = code[0].rstrip()
                open_exercise = None
    if open_exercise is not None:
        first_line = open_exercise.source.partition("\n")[0]
        raise ValueError(f"the exercise that begins with {first_line!r} lacks a folded solution in ```python.")
    return solved


def write_versions(sources: Sequence[Path], out_dir: Path, version: Callable[[Any], Any]) -> list[Path]:
    """Write a version of each notebook to a folder, under the same file name; return the paths.

    Args:
        sources: the paths of the notebooks.
        out_dir: the folder for the versions.
        version: :func:`student_version` or :func:`solution_version`.

    Raises:
        ValueError: if a version would overwrite a notebook. In this case, the function writes nothing.
    """
    for source in sources:
        if (out_dir / source.name).resolve() == source.resolve():
            raise ValueError(f"{source} would be overwritten; choose a folder other than the notebook's own.")
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sources:
        target = out_dir / source.name
        nbformat.write(version(nbformat.read(source, as_version=4)), target)
        written.append(target)
    return written
