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
