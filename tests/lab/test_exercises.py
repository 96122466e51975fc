from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chts_core.cli import main
from chts_core.lab.notebook.exercises import Exercise, attempt, listed, solved_version, student_version, write_versions

FOLDS = """## Exercise: add

<details><summary>Hint</summary>

Count on your fingers.
</details>

<details><summary>Solution</summary>

It is known:

```python
answer = 2
more = 3
```
</details>

## What follows"""


def tagged(source: str, *tags: str) -> Any:
    seen = new_output("stream", name="stdout", text="seen")
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=[seen])


@pytest.fixture
def notebook() -> Any:
    cells = [
        new_markdown_cell("**Predict:** what?"),
        new_code_cell("1 + 1", execution_count=1),
        new_markdown_cell("<details><summary>What you should have seen</summary>\n\n2\n</details>"),
        tagged("answer = None", "exercise"),
        tagged('exercises.check("00.density", answer)', "check"),
        new_markdown_cell(FOLDS),
        new_markdown_cell(
            "1. Why?\n\n<details><summary>Answer</summary>\n\nBecause.\n</details>\n\n2. When?\n\n"
            "<details><summary>Answer</summary>\n\nNow.\n</details>"
        ),
    ]
    return new_notebook(
        cells=cells,
        metadata={
            "widgets": {"state": {}},
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
        },
    )


def test_a_right_answer_is_correct(capsys: pytest.CaptureFixture[str]) -> None:
    with attempt():
        assert 1 + 1 == 2
    assert capsys.readouterr().out == "Correct.\n"


def test_a_wrong_answer_is_told_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with attempt():
        raise AssertionError("you counted 3, there are 2.")
    assert capsys.readouterr().out == "Not yet: you counted 3, there are 2.\n"


def test_an_answer_that_raises_does_not_stop_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    with attempt():
        int("two")
    assert capsys.readouterr().out.startswith("Not yet: ValueError: invalid literal")


def test_an_assertion_without_a_message_says_at_least_that(capsys: pytest.CaptureFixture[str]) -> None:
    with attempt():
        raise AssertionError
    assert capsys.readouterr().out == "Not yet: the test above failed.\n"


def test_a_learner_can_still_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), attempt():
        raise KeyboardInterrupt


def test_what_is_handed_out_has_hints_but_no_answers_nor_outputs(notebook: Any) -> None:
    student = student_version(notebook)
    nbformat.validate(student)
    assert [cell.source for cell in student.cells] == [
        "**Predict:** what?",
        "1 + 1",
        "answer = None",
        'exercises.check("00.density", answer)',
        "## Exercise: add\n\n<details><summary>Hint</summary>\n\nCount on your fingers.\n</details>\n\n## What follows",
        "1. Why?\n\n2. When?",
    ]
    assert all(not cell.outputs and cell.execution_count is None for cell in student.cells if cell.cell_type == "code")
    assert student.metadata == {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    assert len(notebook.cells) == 7  # the one given is as it was
    assert notebook.cells[3].outputs


def test_the_solution_takes_the_place_of_the_stub(notebook: Any) -> None:
    solved = solved_version(notebook)
    assert solved.cells[3].source == "answer = 2\nmore = 3"
    assert [cell.source for cell in solved.cells if cell is not solved.cells[3]] == [
        cell.source for cell in notebook.cells if cell is not notebook.cells[3]
    ]


def test_each_exercise_has_its_own_solution(notebook: Any) -> None:
    second = [tagged("other = None", "exercise"), new_markdown_cell(FOLDS.replace("answer = 2", "other = 4"))]
    solved = solved_version(new_notebook(cells=[*notebook.cells, *second]))
    assert [cell.source for cell in solved.cells if "exercise" in cell.metadata.get("tags", [])] == [
        "answer = 2\nmore = 3",
        "other = 4\nmore = 3",
    ]


def test_an_exercise_without_a_solution_is_named(notebook: Any) -> None:
    del notebook.cells[5]
    with pytest.raises(ValueError, match=r"the exercise that begins with 'answer = None' lacks a folded solution"):
        solved_version(notebook)
    twice = new_notebook(cells=[tagged("first = None", "exercise"), tagged("x = None", "exercise")])
    with pytest.raises(ValueError, match=r"begins with 'first = None'"):
        solved_version(twice)


def test_student_versions_are_written_under_the_same_names(notebook: Any, tmp_path: Path) -> None:
    source = tmp_path / "01_one.ipynb"
    nbformat.write(notebook, source)
    (written,) = write_versions([source], tmp_path / "out" / "deep", student_version)
    assert written == tmp_path / "out" / "deep" / "01_one.ipynb"
    assert nbformat.read(written, as_version=4) == student_version(nbformat.read(source, as_version=4))


def test_a_notebook_is_never_written_over(notebook: Any, tmp_path: Path) -> None:
    sources = [tmp_path / "elsewhere" / "01_one.ipynb", tmp_path / "02_two.ipynb"]
    sources[0].parent.mkdir()
    for source in sources:
        nbformat.write(notebook, source)
    before = sources[1].read_bytes()
    with pytest.raises(ValueError, match=r"02_two\.ipynb would be overwritten; choose a folder"):
        write_versions(sources, tmp_path, student_version)
    assert sources[1].read_bytes() == before
    assert not (tmp_path / "01_one.ipynb").exists()


def test_the_command_writes_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exercises", "--out", str(tmp_path)]) == 0
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert "01_networks_as_masks.ipynb" in names
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names


LINE = "*★★☆ · 10 minutes · useful · objectives 1 and 3 · write code*"


def test_the_exercises_of_a_notebook_are_listed() -> None:
    cells = [
        new_markdown_cell(f"## Exercise: add\n\n{LINE}\n\nText."),
        new_markdown_cell("## Exercise: guess\n\n*★☆☆ · 5 minutes · essential · objective 2 · work out*\n\nText."),
    ]
    assert listed(new_notebook(cells=cells)) == [
        Exercise("add", 2, 10, "useful", (1, 3), writes_code=True),
        Exercise("guess", 1, 5, "essential", (2,), writes_code=False),
    ]


@pytest.mark.parametrize(
    "line", ["Text.", LINE.replace("useful", "nice"), LINE.replace("code", "prose"), f"Text.\n\n{LINE}"]
)
def test_an_exercise_without_its_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"^'## Exercise: add' needs a line below it, such as '\*★★☆ · 10 minutes"):
        listed(new_notebook(cells=[new_markdown_cell(f"## Exercise: add\n\n{line}")]))
