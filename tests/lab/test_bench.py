import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from chts_core.lab import bench
from chts_core.lab.results import records

COMMON = """
def row(comparison, seconds, rival_seconds, **more):
    return {"comparison": comparison, "seconds": seconds, "rival": "a loop", "rival_seconds": rival_seconds,
            "times_faster": rival_seconds / seconds, **more}
"""
FAST = """
'''Things that are fast.

More about them.
'''
from .common import row

def rows():
    yield row("sums", 0.5, 2.0, aim=3)
    yield row("means", 2e-6, 1.5e-3, floor="one pass", floor_seconds=1e-6)
"""
BROKEN = """
from .common import row

def rows():
    yield row("before", 1.0, 1.5)
    raise RuntimeError("no luck")
"""
FAST_ROWS = [
    {"comparison": "sums", "seconds": 0.5, "rival": "a loop", "rival_seconds": 2.0, "times_faster": 4.0, "aim": 3},
    {
        "comparison": "means",
        "seconds": 2e-6,
        "rival": "a loop",
        "rival_seconds": 1.5e-3,
        "times_faster": pytest.approx(750),
        "floor": "one pass",
        "floor_seconds": 1e-6,
    },
]


@pytest.fixture
def write_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a folder of benchmarks from their sources and has it be the one; returns where results may go."""

    def write(**sources: str) -> Path:
        folder = tmp_path / "benchmarks"
        folder.mkdir()
        for topic, source in {"common": COMMON, **sources}.items():
            (folder / f"{topic}.py").write_text(source)
        monkeypatch.setattr(bench, "folder", lambda: folder)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return tmp_path / "out"

    return write


def test_topics_and_their_first_lines(write_topics: Callable[..., Path]) -> None:
    write_topics(fast=FAST, broken=BROKEN)
    assert bench.topics() == {"broken": "", "fast": "Things that are fast."}


def test_a_table_is_printed_and_a_record_written(
    write_topics: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_topics(fast=FAST)
    assert bench.bench(["fast"], out)
    shown = capsys.readouterr()
    assert shown.err == ""
    header, *lines = shown.out.splitlines()
    assert header.split() == ["ours", "rival", "ratio", "aim", "against"]
    assert [line.split() for line in lines] == [
        ["sums", "500", "ms", "2", "s", "4.00", "3", "a", "loop"],
        ["means", "2", "µs", "1.5", "ms", "750.00", "-", "a", "loop"],
    ]
    assert len({line.index("a loop") for line in lines} | {header.index("against")}) == 1, "columns are not aligned"
    assert [path.name for path in out.iterdir()] == ["fast.json"]
    record = json.loads((out / "fast.json").read_text())
    assert record.pop("seconds") >= 0
    assert record == {
        "schema": records.SCHEMA,
        "benchmark": "fast",
        "error": None,
        "rows": FAST_ROWS,
        "versions": records.versions(),
        "device": records.describe_device(records.choose_device()),
        "git": records.git_revision(),
    }


@pytest.mark.parametrize(
    ("broken", "error", "rows"),
    [
        (BROKEN, "RuntimeError: no luck", ["before"]),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", []),
        ("def rows():\n    yield {'comparison': 'sums'}", "KeyError: 'times_faster'", []),
    ],
    ids=["it raises", "it cannot be imported", "a row lacks something"],
)
def test_a_failing_topic_is_reported_and_the_others_run(
    write_topics: Callable[..., Path], capsys: pytest.CaptureFixture[str], broken: str, error: str, rows: list[str]
) -> None:
    out = write_topics(broken=broken, fast=FAST)
    assert not bench.bench([], out)
    shown = capsys.readouterr()
    assert shown.err == f"chts: benchmark broken failed: {error}\n"
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == [*rows, "sums", "means"]
    records_of = {path.stem: json.loads(path.read_text()) for path in out.iterdir()}
    assert records_of.keys() == {"broken", "fast"}
    assert records_of["broken"]["error"] == error
    assert [row["comparison"] for row in records_of["broken"]["rows"]] == rows
    assert records_of["fast"]["error"] is None


def test_rows_are_printed_as_they_come(write_topics: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    source = """
import builtins
from .common import row

def rows():
    yield row("first", 1.0, 1.0)
    builtins.looked()
"""
    out = write_topics(slow=source)
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.looked", lambda: seen.append(capsys.readouterr().out), raising=False)
        assert bench.bench([], out)
    assert "first" in seen[0]


def test_only_the_topics_asked_for_run_in_their_order(
    write_topics: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one = "from .common import row\n\ndef rows():\n    yield row(__name__, 1.0, 1.0)"
    out = write_topics(a=one, b=one, c=BROKEN)
    assert bench.bench(["b", "a"], out)
    assert [line.split()[0][-1] for line in capsys.readouterr().out.splitlines()[1:]] == ["b", "a"]


def test_an_unknown_topic_is_refused_before_any_runs(
    write_topics: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_topics(fast=FAST, broken=BROKEN)
    with pytest.raises(ValueError, match=r"no benchmark 'fats'; expected one or more of broken, fast\."):
        bench.bench(["fast", "fats"], out)
    assert capsys.readouterr().out == ""
    assert not out.exists()


# --- the benchmarks that come with chts ---


def common() -> ModuleType:
    """The module that the benchmarks share."""
    spec = importlib.util.spec_from_file_location("common_of_benchmarks", bench.folder() / "common.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_topic_says_what_it_is_about() -> None:
    topics = bench.topics()
    assert {"link_prediction", "regrowth", "step"} <= topics.keys()
    assert all(topics.values())


def test_functions_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    module = common()
    monkeypatch.setattr(module, "_SECONDS_AT_LEAST", 0.0)
    monkeypatch.setattr(module, "_SECONDS_OF_A_TURN", 1e-4)
    calls = []
    matrix = torch.ones(200, 200)

    def work(name: str) -> None:
        calls.append(name)
        matrix @ matrix

    row = module.compare(
        "products", lambda: work("ours"), ("same", lambda: work("rival")), floor=("bare", lambda: work("floor")), aim=2
    )
    turns = [name for number, name in enumerate(calls) if number == 0 or calls[number - 1] != name]
    assert turns == ["ours", "rival", "floor"] * module._ROUNDS_AT_LEAST
    assert row["times_faster"] == row["rival_seconds"] / row["seconds"]
    assert row["floor_seconds"] > 0
    assert (row["comparison"], row["rival"], row["floor"], row["aim"]) == ("products", "same", "bare", 2)


def test_what_does_not_apply_is_not_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    module = common()
    monkeypatch.setattr(module, "medians", lambda *functions: [function() for function in functions])
    row = module.compare("a wait", lambda: 2.0, ("a longer one", lambda: 5.0))
    assert row == {
        "comparison": "a wait",
        "seconds": 2.0,
        "rival": "a longer one",
        "rival_seconds": 5.0,
        "times_faster": 2.5,
    }
