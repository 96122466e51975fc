"""The notebooks as they are committed: in step with their text sources, well formed, and whole. Nothing is run."""

import ast
import json
import re
import statistics
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from chts_core.lab.notebook import checks, notebooks
from chts_core.lab.notebook.exercises import listed, student_version
from chts_core.lab.notebook.notebook_page import write_page

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted({path.stem for path in FOLDER.iterdir() if path.suffix in (".ipynb", ".py")})
STAGES = [name for name in NAMES if re.match(r"\d\d[a-z]?_", name)]
WIDGET = "application/vnd.jupyter.widget-view+json"
# Folders in which people keep their work; no path into them belongs into what others read.
PRIVATE = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp|mnt)/|[A-Z]:\\\\?Users", re.IGNORECASE)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[Any]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def outputs(name: str) -> Iterator[Any]:
    for cell in code_cells(name):
        yield from cell.outputs


def is_of(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def test_there_are_notebooks() -> None:
    numbers = [name.partition("_")[0] for name in STAGES]
    assert numbers == ["00", "01", "02", "03", "04", "05", "06", "06b", "07", "08", "08b", "09", "10", "11", "12"]
    assert len(NAMES) == len(STAGES)
    assert FOLDER.resolve() == notebooks.folder().resolve()


# --- in step ---


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_text_source_have_the_same_cells(name: str) -> None:
    def cells(notebook: Any) -> list[tuple[str, str, list[str]]]:
        return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]

    notebook, source = FOLDER / f"{name}.ipynb", FOLDER / f"{name}.py"
    assert notebook.is_file(), f"{source.name} has no notebook; make refresh-notebooks writes it"
    assert source.is_file(), f"{notebook.name} has no text source"
    assert cells(read(name)) == cells(jupytext.read(source)), "out of step; make refresh-notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_opens_with_the_usual_kernel(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


# --- what a reader meets ---


@pytest.mark.parametrize("name", STAGES)
def test_a_notebook_begins_with_its_header(name: str) -> None:
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    lines = first.source.splitlines()
    assert re.match(rf"# {name.partition('_')[0]} · \S", lines[0])
    assert sum(cell.source.count("\n# ") for cell in read(name).cells if cell.cell_type == "markdown") == 0
    assert "**You will be able to**" in first.source
    table = dict(re.findall(r"^\| (\w+) \| (.+) \|$", first.source, re.MULTILINE))
    assert {"Prerequisites", "Time", "Difficulty", "Paper"} <= set(table)
    assert "minutes" in table["Time"]
    assert re.fullmatch("[●○]{3}", table["Difficulty"])


@pytest.mark.parametrize("name", STAGES)
def test_headings_skip_no_level(name: str) -> None:
    headings = [
        len(marks)
        for cell in read(name).cells
        if cell.cell_type == "markdown"
        for marks in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL), re.MULTILINE)
    ]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


@pytest.mark.parametrize("name", STAGES)
def test_code_cells_are_short(name: str) -> None:
    lengths = [len(cell.source.splitlines()) for cell in code_cells(name)]
    assert max(lengths) <= 30
    assert statistics.median(lengths) <= 8
    assert min(lengths) > 0


def markdown(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("name", STAGES)
def test_folds_are_whole(name: str) -> None:
    for text in markdown(name):
        folds = re.findall(r"^<details><summary>[^\n]+</summary>\n\n.+?\n</details>$", text, re.DOTALL | re.MULTILINE)
        assert text.count("<details>") == text.count("</details>") == text.count("<summary>") == len(folds)


@pytest.mark.parametrize("name", STAGES)
def test_an_exercise_has_a_stub_a_check_a_hint_and_a_solution(name: str) -> None:
    cells = read(name).cells
    stubs = [number for number, cell in enumerate(cells) if is_of(cell, "exercise")]
    titles = [title for text in markdown(name) for title in re.findall(r"^## Exercise\b.*", text, re.MULTILINE)]
    assert len(stubs) == len(titles) > 0
    for stub, end in zip(stubs, [*stubs[1:], len(cells)], strict=True):
        (check,) = [number for number in range(stub, end) if is_of(cells[number], "check")]
        assert "Not yet: " in "".join(output.get("text", "") for output in cells[check].outputs)
        text = "\n".join(cell.source for cell in cells[check:end] if cell.cell_type == "markdown")
        own = text.partition("\n## Exercise")[0]
        assert "<details><summary>Hint</summary>" in own
        assert re.search(r"<details><summary>Solution</summary>.*?^```python$.*?</details>", own, re.DOTALL | re.M)


@pytest.mark.parametrize("name", STAGES)
def test_a_check_names_its_exercise_and_shows_no_answer(name: str) -> None:
    number = name.partition("_")[0]
    called = []
    for cell in code_cells(name):
        if is_of(cell, "check"):
            (statement,) = ast.parse(cell.source).body
            assert isinstance(statement, ast.Expr)
            call = statement.value
            assert isinstance(call, ast.Call)
            assert ast.unparse(call.func) == "exercises.check"
            called.append(ast.literal_eval(call.args[0]))
    assert called == [f"{number}.{exercise}" for exercise in checks.of_stage(number)]


@pytest.mark.parametrize("name", STAGES)
def test_exercises_reach_every_objective(name: str) -> None:
    notebook = read(name)
    found = listed(notebook)
    assert (3 if name.startswith("12") else 5) <= len(found) <= 7
    reached = {number for exercise in found for number in exercise.objectives}
    assert reached == set(range(1, len(notebooks.objectives(notebook.cells[0].source)) + 1))
    assert any(exercise.importance == "essential" for exercise in found)


def test_half_of_the_exercises_ask_for_code_and_each_part_has_hard_ones() -> None:
    by_stage = {name: listed(read(name)) for name in STAGES}
    every = [exercise for found in by_stage.values() for exercise in found]
    assert sum(exercise.writes_code for exercise in every) >= len(every) / 2
    for part in (("00", "01", "02", "03"), ("04", "05", "06", "07"), ("08", "09", "10", "11", "12")):
        found = [exercise for name in STAGES if name.startswith(part) for exercise in by_stage[name]]
        assert sum(exercise.difficulty == 3 for exercise in found) >= 2


@pytest.mark.parametrize("name", STAGES)
def test_predictions_are_revealed(name: str) -> None:
    cells = read(name).cells
    predictions = [number for number, cell in enumerate(cells) if "**Predict" in cell.source]
    assert len(predictions) >= (1 if name.startswith("00") else 2)
    for number in predictions:
        after = cells[number : number + 6]
        assert any("<details><summary>What you should have seen</summary>" in cell.source for cell in after)
        assert any(cell.cell_type == "code" for cell in after)


@pytest.mark.parametrize("name", STAGES)
def test_a_notebook_ends_with_a_self_check_and_what_to_take_along(name: str) -> None:
    text = "\n\n".join(markdown(name))
    own = text[text.index("## Self-check") : text.index("## Key takeaways")]
    questions = re.findall(r"^\d+\. ", own, re.MULTILINE)
    assert 3 <= len(questions) <= 5
    assert own.count("<details><summary>Answer</summary>") == len(questions)


@pytest.mark.parametrize("name", STAGES)
def test_figures_come_from_the_house(name: str) -> None:
    # Those have labelled axes, which `tests/lab/test_figures.py` holds.
    for cell in code_cells(name):
        assert "matplotlib" not in cell.source
        assert "pyplot" not in cell.source


@pytest.mark.parametrize("name", STAGES)
def test_a_widget_stands_beside_a_picture_of_its_first_state(name: str) -> None:
    cells = read(name).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and any(WIDGET in output.get("data", {}) for output in cell.outputs):
            shown = [output for later in cells[number + 1 : number + 4] for output in later.get("outputs", [])]
            assert any("image/png" in output.get("data", {}) for output in shown)


@pytest.mark.parametrize("name", STAGES)
def test_what_is_handed_out_is_the_notebook_without_its_answers(name: str) -> None:
    committed = nbformat.read(FOLDER.parent / "exercises" / f"{name}.ipynb", as_version=4)
    assert committed == student_version(read(name)), "out of step; make refresh-notebooks"
    for cell in committed.cells:
        assert not cell.get("outputs")
        assert set(re.findall(r"<summary>(.+?)</summary>", cell.source)) <= {"Hint"}


@pytest.mark.parametrize("name", STAGES)
def test_every_formula_can_be_shown(name: str, tmp_path: Path) -> None:
    notebook = read(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    copy = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, copy)
    page = write_page(copy).read_text(encoding="utf-8")
    formulas = re.findall(r"<math.*?</math>", page, re.DOTALL)
    written = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert bool(formulas) == ("$" in written)
    for formula in formulas:  # a command that the translator does not know stays as it was
        assert "\\" not in formula
        assert "<mi>&" not in formula


# --- parameters ---


@pytest.mark.parametrize("name", STAGES)
def test_parameters_are_flat_annotated_literals_in_one_cell(name: str) -> None:
    tagged = [cell for cell in code_cells(name) if is_of(cell, "parameters")]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert statements
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.target, ast.Name)
        assert isinstance(statement.annotation, ast.Name)
        value = ast.literal_eval(statement.value) if statement.value else None
        assert type(value).__name__ == statement.annotation.id
        assert statement.annotation.id in ("int", "float", "str", "bool")
    assert [statement.target.id for statement in statements] == list(notebooks.parameters(FOLDER / f"{name}.ipynb"))


@pytest.mark.parametrize("name", STAGES)
def test_every_limited_parameter_is_checked_by_the_notebook(name: str) -> None:
    # Bare papermill checks nothing, so the notebook must hand each of them to `notebooks.start`.
    calls = [
        node
        for cell in code_cells(name)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "notebooks.start"
    ]
    assert len(calls) == 1
    (call,) = calls
    assert ast.literal_eval(call.args[0]) == name
    handed = {argument.id for argument in call.args[1:] if isinstance(argument, ast.Name)}
    handed |= {keyword.arg for keyword in call.keywords if keyword.arg == ast.unparse(keyword.value)}
    declared = notebooks.parameters(FOLDER / f"{name}.ipynb")
    assert {parameter for parameter in declared if parameter in notebooks.LIMITS} <= handed


# --- what a reader sees without running anything ---


@pytest.mark.parametrize("name", STAGES)
def test_every_cell_was_run_once_and_in_order(name: str) -> None:
    counts = [cell.execution_count for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1))
    assert any(True for _ in outputs(name))


@pytest.mark.parametrize("name", STAGES)
def test_no_output_is_an_error_or_a_complaint(name: str) -> None:
    for output in outputs(name):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
    assert notebooks.widget_errors(read(name)) == []


@pytest.mark.parametrize("name", STAGES)
def test_outputs_are_those_of_the_laptop_profile(name: str) -> None:
    printed = "".join(output.get("text", "") for output in outputs(name))
    assert "profile laptop:" in printed
    assert "papermill" not in read(name).metadata


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_told(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    # Pictures are no text, though their letters may spell anything.
    text = re.sub(r'"image/png": "[^"]*"|base64,[A-Za-z0-9+/=\\n]*', "", text)
    for told in (text, (FOLDER / f"{name}.py").read_text(encoding="utf-8")):
        found = PRIVATE.search(told)
        assert found is None, told[max(0, found.start() - 40) : found.end() + 40]


@pytest.mark.parametrize("name", STAGES)
def test_every_picture_is_described_and_captioned(name: str) -> None:
    pictures = 0
    for cell in code_cells(name):
        for number, output in enumerate(cell.outputs):
            if "image/png" not in output.get("data", {}):
                continue
            pictures += 1
            alternative = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alternative.split()) >= 4
            caption = cell.outputs[number + 1].get("data", {}).get("text/markdown", "")
            assert caption == f"*{alternative}*"
    assert pictures > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 2_000_000
    json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"), parse_constant=pytest.fail)


# --- between notebooks ---


def own_cells(name: str) -> set[str]:
    """Code of a notebook without imports, comments and layout; its parameters and its start are left out.

    So is the bootstrap cell, which is the same everywhere, to the letter (tests/lab/test_launch.py).
    """
    found = set()
    for cell in code_cells(name):
        if is_of(cell, "parameters") or is_of(cell, "bootstrap") or "notebooks.start(" in cell.source:
            continue
        kept = [
            statement
            for statement in ast.parse(cell.source).body
            if not isinstance(statement, ast.Import | ast.ImportFrom)
            and "records.environment_line" not in ast.unparse(statement)
        ]
        if kept:
            found.add("\n".join(map(ast.unparse, kept)))
    return found


@pytest.mark.parametrize(("one", "other"), list(combinations(STAGES, 2)))
def test_no_cell_repeats_another_notebook(one: str, other: str) -> None:
    assert own_cells(one) & own_cells(other) == set()
