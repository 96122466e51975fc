"""No file and no function of the core is too long."""

import ast
from pathlib import Path

CORE = Path(__file__).parents[1] / "chts_core"
LINES_OF_A_FILE = 450
LINES_OF_A_FUNCTION = 60


def too_long(source: str, name: str) -> list[str]:
    found = [f"{name}: {len(source.splitlines())} lines"] if len(source.splitlines()) > LINES_OF_A_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > LINES_OF_A_FUNCTION:
                found.append(f"{name}: {node.name} has {lines} lines")
    return found


def test_what_is_too_long_is_found() -> None:
    function = "def f():\n" + "    pass\n" * LINES_OF_A_FUNCTION
    assert too_long(function, "a.py") == ["a.py: f has 61 lines"]
    assert too_long("\n" * (LINES_OF_A_FILE + 1), "a.py") == ["a.py: 451 lines"]
    assert too_long("def f():\n" + "    pass\n" * (LINES_OF_A_FUNCTION - 1), "a.py") == []


def test_no_file_and_no_function_is_too_long() -> None:
    files = sorted(CORE.rglob("*.py"))
    assert len(files) > 100
    assert [line for file in files for line in too_long(file.read_text("utf-8"), str(file.relative_to(CORE)))] == []


# What a reader of the methods reads, from `checks` to `sparsifier`: all top-level modules except these.
NOT_THE_SUBJECT = {"__init__.py", "_moved.py", "cli.py", "colab.py"}
LINES_OF_THE_SUBJECT = 2700
LINES_OF_THE_SPARSIFIER = 400


def lines_of_code(source: str) -> int:
    """The number of lines that are not blank, not a comment and not part of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None
            documented |= set(range(text.lineno, text.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(number not in documented and not line.strip().startswith("#") for number, line in lines if line.strip())


def test_lines_of_code_are_counted_without_docstrings_comments_and_blank_lines() -> None:
    source = (
        '"""Module.\n\nMore.\n"""\n\n# comment\nx = """\ntext\n"""\n\n\ndef f():\n    """Doc."""\n    return 1  # why\n'
    )
    assert lines_of_code(source) == 5


def test_the_subject_can_be_read_in_an_evening() -> None:
    files = [file for file in CORE.glob("*.py") if file.name not in NOT_THE_SUBJECT]
    assert CORE / "link_prediction.py" in files
    assert sum(lines_of_code(file.read_text("utf-8")) for file in files) <= LINES_OF_THE_SUBJECT
    assert len((CORE / "sparsifier.py").read_text("utf-8").splitlines()) <= LINES_OF_THE_SPARSIFIER
