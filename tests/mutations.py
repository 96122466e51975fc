"""How much the tests notice: break single places of `chts_core`, picked at random, and run the tests that reach each.

    python -m pytest --cov --cov-context=test --durations=0 -vv > durations.txt     # which test reaches which line
    python tests/mutations.py pick --num 60 --seed 0 > mutations.json
    python tests/mutations.py run mutations.json --copy DIR --durations durations.txt --out out.json

A mutation is caught when a test fails with it. Only the tests that reach its line run, the quickest first, up to the
first failure. Where no test reaches the line itself (compiled loops, tables that an import reads), the tests that reach
its file run. `run` changes the clone in DIR only, and goes on where it was stopped.
"""

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "chts_core"

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def mutations_of(path: Path) -> Iterator[dict[str, Any]]:
    """Every mutation of a file: the lines and columns to replace, the old text and the new."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    skipped = {id(inner) for node in _left_alone(tree) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        for kind, new in _mutated(node):
            yield {
                "file": path.relative_to(ROOT).as_posix(),
                "kind": kind,
                "span": [node.lineno, node.col_offset, node.end_lineno, node.end_col_offset],
                "old": ast.get_source_segment(source, node),
                "new": new,
            }


def _left_alone(tree: ast.AST) -> Iterator[ast.AST]:
    """Types, texts with values in them (Python 3.11 misplaces these), and what only a type checker reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from node.body
        for child in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if child is not None:
                yield child


def _mutated(node: ast.AST) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield "comparison", ast.unparse(ast.Compare(left, [_COMPARE[type(op)]()], [right]))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY and not _is_text(node):
            yield "arithmetic", f"({ast.unparse(ast.BinOp(left, _BINARY[type(op)](), right))})"
        case ast.BoolOp(op=op, values=values):
            yield "and, or", f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", f"({ast.unparse(operand)})"
        case ast.IfExp(test=test, body=body, orelse=other):
            yield "choice", f"({ast.unparse(ast.IfExp(test, other, body))})"
        case ast.Constant(value=bool(value)):
            yield "constant", str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", str(value + 1)
        case ast.Expr(value=ast.Call()):
            yield "statement left out", "pass"
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "nothing returned", "return None"


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str)
        for side in (node.left, node.right)
    )


def pick(num: int, seed: int) -> list[dict[str, Any]]:
    """Mutations at random, each file as likely as it is long."""
    found = [one for path in sorted((ROOT / PACKAGE).rglob("*.py")) for one in mutations_of(path)]
    return [{"id": i, **one} for i, one in enumerate(random.Random(seed).sample(found, num))]


def apply(mutation: dict[str, Any], source: str) -> str:
    """The source with the mutation in it; columns are those of UTF-8, as `ast` counts."""
    first, start, last, end = mutation["span"]
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: first - 1]) + lines[first - 1][:start]
    after = lines[last - 1][end:] + b"".join(lines[last:])
    assert source.encode()[len(before) : len(source.encode()) - len(after)].decode() == mutation["old"]
    return (before + mutation["new"].encode() + after).decode()


def seconds_of(durations: Path) -> dict[str, float]:
    """Seconds by test, of the set-up, the call and the end together, as pytest's --durations=0 -vv prints them."""
    seconds: dict[str, float] = defaultdict(float)
    for line in durations.read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"([\d.]+)s (?:call|setup|teardown)\s+(\S.*)", line.strip())
        if found:
            seconds[found[2]] += float(found[1])
    return seconds


def tests_by_line(coverage_file: Path) -> Callable[[dict[str, Any]], set[str]]:
    """Of a mutation, the tests that ran one of its lines."""
    from coverage import CoverageData

    data = CoverageData(str(coverage_file))
    data.read()
    measured = {Path(name).as_posix().partition(f"{PACKAGE}/")[2]: name for name in data.measured_files()}

    def reach(mutation: dict[str, Any]) -> set[str]:
        name = measured.get(mutation["file"].partition("/")[2])
        by_line = data.contexts_by_lineno(name) if name else {}
        lines = range(mutation["span"][0], mutation["span"][2] + 1)
        tests = _tests_in(contexts for line, contexts in by_line.items() if line in lines)
        return tests or _tests_in(by_line.values())

    return reach


def _tests_in(contexts: Iterable[Iterable[str]]) -> set[str]:
    return {context.rpartition("|")[0] for several in contexts for context in several} - {""}


def is_caught(mutation: dict[str, Any], copy: Path, tests: list[str], limit: float) -> tuple[bool, str]:
    """Whether one of the tests fails with a mutation, and what pytest prints of it."""
    file = copy / mutation["file"]
    source = file.read_text(encoding="utf-8")
    listed = copy / "runs" / "tests.txt"
    listed.parent.mkdir(exist_ok=True)
    listed.write_text("\n".join(tests), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-m", "", f"@{listed}"]
    try:
        file.write_text(apply(mutation, source), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False, f"not known: no end after {limit:.0f} s"
    finally:
        file.write_text(source, encoding="utf-8")
    lines = done.stdout.splitlines() or done.stderr.splitlines() or [""]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode != 0, (failures or lines)[-1]


def run(mutations: list[dict[str, Any]], copy: Path, durations: Path, coverage: Path, out: Path, limit: float) -> None:
    """Try each mutation that `out` does not have yet; write `out` after each."""
    seconds, reach = seconds_of(durations), tests_by_line(coverage)
    rows = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for mutation in mutations[len(rows) :]:
        clock = time.perf_counter()
        tests = sorted(reach(mutation) & seconds.keys(), key=lambda test: (seconds[test], test))
        caught, said = is_caught(mutation, copy, tests, limit) if tests else (False, "no test reaches it")
        taken = round(time.perf_counter() - clock)
        rows.append(mutation | {"caught": caught, "tests": len(tests), "seconds": taken, "said": said})
        out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        place = f"{mutation['file']}:{mutation['span'][0]} {mutation['old'][:60]!r} -> {mutation['new'][:60]!r}"
        print(f"{len(rows) - 1:3} {'caught' if caught else 'MISSED'} {place}: {said[:160]}", flush=True)
    print(f"{sum(row['caught'] for row in rows)} of {len(rows)} caught")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    picks = commands.add_parser("pick")
    picks.add_argument("--num", type=int, default=60)
    picks.add_argument("--seed", type=int, default=0)
    runs = commands.add_parser("run")
    runs.add_argument("mutations", type=Path)
    runs.add_argument("--copy", type=Path, required=True, help="a clone to break and to run the tests in")
    runs.add_argument("--durations", type=Path, required=True, help="what pytest --durations=0 -vv printed")
    runs.add_argument("--coverage", type=Path, default=Path(".coverage"), help="written with --cov-context=test")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--limit", type=float, default=900, help="seconds for one mutation")
    given = vars(parser.parse_args())
    if given.pop("command") == "pick":
        print(json.dumps(pick(**given), indent=1))
    else:
        run(json.loads(given.pop("mutations").read_text(encoding="utf-8")), **given)


if __name__ == "__main__":
    main()
