"""Finds wording that CONTRIBUTING.md, "Prose", rules out: `python tests/prose.py`. It exits with 1 if it finds any.

It reads Markdown files, the Markdown cells of notebooks, and the docstrings and messages of chts_core. It looks for the
patterns of prose.toml, and runs those checks of proselint that do not take our code and formulas for mistakes.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from proselint.checks import __register__
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parents[1]
RULES = tomllib.loads((Path(__file__).parent / "prose.toml").read_text("utf-8"))["rule"]
PROSELINT = (
    "archaism cliches hedging industrial_language malapropisms mixed_metaphors mondegreens needless_variants nonwords "
    "oxymorons redundancy skunked_terms social_awareness spelling terms"
)
CheckRegistry().register_many(__register__)


def _blank(found: re.Match[str]) -> str:
    """A mark that no pattern contains, with as many line ends as before."""
    return "–" + "\n" * found[0].count("\n")


def of_markdown(text: str) -> str:
    """Its prose on the same lines: without code, comments, formulas, quotations and addresses."""
    text = re.sub(r"^( *)(```+)(?!\{).*?^\1\2|<!--.*?-->", _blank, text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r'`[^`]*`|\$\$?[^$]+\$|(?<=\])\([^)\s]*\)|"[^"\n]*"', _blank, text)


def of_notebook(source: str) -> str:
    """The prose of its Markdown cells, on the same lines."""
    lines, inside = [], False
    for line in source.splitlines():
        if line.startswith("# %%"):
            inside = line.startswith("# %% [markdown]")
        lines.append(line.removeprefix("#").removeprefix(" ") if inside else "")
    return of_markdown("\n".join(lines))


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Each string with its first line; a value that a message fills in is a mark."""
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "–" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def of_module(source: str) -> str:
    """Its docstrings and messages: strings with three words in a row, each from its first line on."""
    lines = [""] * len(source.splitlines())
    for first, text in _strings(ast.parse(source)):
        if re.search(r"[a-z]+\s[a-z]+\s[a-z]+", text):
            for place, words in enumerate(f"{text} –".splitlines(), first - 1):
                lines[min(place, len(lines) - 1)] += words + " "
    return of_markdown("\n".join(lines))


def complaints(prose: str) -> list[tuple[int, str, str]]:
    """Line, words and advice of each finding, in order."""
    found = [
        (prose.count("\n", 0, match.start()) + 1, match[0], f"write: {rule['write']}")
        for rule in RULES
        for match in re.finditer(rule["pattern"].replace(" ", r"\s+"), prose, re.IGNORECASE)
    ]
    padded = f"\n{prose}\n"  # as proselint counts
    for result in LintFile("prose", prose).lint({"max_errors": 1000, "checks": dict.fromkeys(PROSELINT.split(), True)}):
        start, end = result.check_result.span
        found.append((padded.count("\n", 0, start), padded[start:end], result.check_result.message))
    return sorted(found)


def files() -> list[tuple[Path, Callable[[str], str]]]:
    """All files with prose, each with the function that takes the prose out of it."""
    markdown = [path for folder in ("docs", "notebooks", "results", "tests") for path in (ROOT / folder).rglob("*.md")]
    return [
        *((path, of_markdown) for path in sorted([*ROOT.glob("*.md"), *markdown])),
        *((path, of_notebook) for path in sorted((ROOT / "notebooks").glob("*.py"))),
        *((path, of_module) for path in sorted((ROOT / "chts_core").rglob("*.py"))),
    ]


def main() -> None:
    """Print all findings."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {' '.join(words.split())!r}: {advice}"
        for path, prose_of in files()
        for line, words, advice in complaints(prose_of(path.read_text("utf-8")))
    ]
    print("\n".join(found) or "the wording of all files is fine")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
