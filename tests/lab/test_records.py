import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import chts_core as chts
from chts_core.choices import (
    Constant,
    Cosine,
    Cubic,
    ErdosRenyi,
    Ramp,
    ReceptiveField,
    Regrowth,
    Removal,
    Sigmoid,
    SmallWorld,
    Staged,
    Turnover,
)
from chts_core.lab.results import records
from chts_core.methods import Method, get_method

# --- versions and devices ---


def test_versions_are_those_installed() -> None:
    found = records.versions()
    assert found["chts"] == chts.__version__
    assert found["torch"] == metadata.version("torch")
    assert {"python", "numpy", "scikit-learn", "matplotlib", "ipywidgets", "papermill", "jupyterlab"} <= set(found)


def test_a_missing_package_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PACKAGES", ("no-such-package", "numpy"))
    found = records.versions()
    assert found["no-such-package"] == "not installed"
    assert found["numpy"] == metadata.version("numpy")


@pytest.mark.parametrize(
    ("name", "cuda", "expected"), [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu")]
)
def test_the_device_chosen(monkeypatch: pytest.MonkeyPatch, name: str, cuda: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert records.choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'"):
        records.choose_device(name)


def test_the_description_of_the_cpu() -> None:
    described = records.describe_device(torch.device("cpu"))
    assert list(described) == ["type", "name", "threads", "memory_mb", "platform"]
    assert described["type"] == "cpu"
    assert described["name"]
    assert described["threads"] == torch.get_num_threads()
    assert int(described["memory_mb"]) > 500
    assert json.loads(json.dumps(described)) == described


def test_the_environment_in_one_line() -> None:
    line = records.environment_line(torch.device("cpu"))
    assert "\n" not in line
    for part in (f"chts {chts.__version__}", f"torch {metadata.version('torch')}", "(cpu)", "Python 3.", "threads"):
        assert part in line


# --- git ---


@pytest.fixture
def package_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes the records module believe that its package is in a folder."""

    def place(root: Path) -> None:
        monkeypatch.setattr(records, "__file__", str(root / "chts_core" / "lab" / "results" / "records.py"))

    return place


@pytest.fixture
def checkout(tmp_path: Path, package_in: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "file").write_text("first\n")
    identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    for command in (("init", "--quiet"), ("add", "file"), (*identity, "commit", "--quiet", "-m", "First")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    package_in(tmp_path)
    return tmp_path


def test_the_revision_of_a_checkout_says_whether_it_changed(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    revision = head.stdout.strip()
    assert len(revision) == 40
    assert records.git_revision() == revision
    (checkout / "file").write_text("second\n")
    assert records.git_revision() == f"{revision}+changes"


def test_outside_a_checkout_there_is_no_revision(tmp_path: Path, package_in: Callable[[Path], None]) -> None:
    package_in(tmp_path)
    assert records.git_revision() == "none"


def test_outside_a_checkout_the_environment_may_name_the_revision(
    tmp_path: Path, package_in: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    package_in(tmp_path)
    monkeypatch.setenv("CHTS_REVISION", "89ea0ee")
    assert records.git_revision() == "89ea0ee"


def test_an_installed_package_does_not_take_the_revision_of_the_folder_around_it(
    checkout: Path, package_in: Callable[[Path], None]
) -> None:
    package_in(checkout / ".venv" / "lib" / "site-packages")
    assert records.git_revision() == "none"


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_without_a_working_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert records.git_revision() == "none"


# --- results in a notebook ---


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was shown instead of being shown."""
    shown: list[dict[str, Any]] = []

    def display(content: dict[str, Any], *, raw: bool) -> None:
        assert raw
        shown.append(content)

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_results_come_back_from_the_cells_that_published_them(tmp_path: Path, displayed: list[dict[str, Any]]) -> None:
    records.publish({"links": 7, "methods": [{"method": "chts", "accuracy": 0.5}], "name": "first"})
    records.publish({"name": "second", "nested": {"a": None, "b": [1, 2]}})
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("print(1)", outputs=[new_output("stream", text="1\n")]),
        *(new_code_cell("publish", outputs=[new_output("display_data", data=content)]) for content in displayed),
        new_code_cell("1 / 0", outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=cells), path)

    results = records.published(nbformat.read(path, as_version=4))
    assert results.pop("memory_mb") > 50
    assert results.pop("threads") == torch.get_num_threads()
    assert results == {
        "links": 7,
        "methods": [{"method": "chts", "accuracy": 0.5}],
        "name": "second",
        "nested": {"a": None, "b": [1, 2]},
    }


def test_a_notebook_that_published_nothing_has_no_results() -> None:
    assert records.published(new_notebook(cells=[new_markdown_cell("text"), new_code_cell("1")])) == {}


def test_results_are_shown_as_tables(displayed: list[dict[str, Any]]) -> None:
    rows = [{"method": "<b>chts</b>", "accuracy": 0.123456789}, {"method": "set", "accuracy": 0.5}]
    records.publish({"links": 7, "methods": rows})
    (content,) = displayed
    assert content["text/html"].count("<table") == 2
    for text in ("<th>links</th>", "<td>7</td>", "<th>accuracy</th>", "<td>0.1235</td>", "&lt;b&gt;chts&lt;/b&gt;"):
        assert text in content["text/html"]
    assert json.loads(content["text/plain"]) == content[records.RESULTS_TYPE]


@pytest.mark.parametrize("value", [torch.tensor(1.0), {1, 2}, Path()])
def test_what_is_not_json_cannot_be_published(displayed: list[dict[str, Any]], value: object) -> None:
    with pytest.raises(TypeError):
        records.publish({"value": value})
    assert displayed == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_know_cannot_be_published(displayed: list[dict[str, Any]], value: float) -> None:
    # Between a kernel and its notebook it would turn into the text "nan".
    with pytest.raises(ValueError, match="JSON"):
        records.publish({"rows": [{"value": value}]})
    assert displayed == []


# --- files ---


def test_json_is_written_readable_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "record.json"
    content = {"name": "Erdős–Rényi", "values": [1, 2.5, None, True], "nested": {"a": "b"}}
    records.write_json(path, content)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "Erdős–Rényi" in text
    assert text.endswith("}\n")
    assert path.stat().st_mode & 0o777 == 0o644
    records.write_json(path, {"second": 2})
    assert json.loads(path.read_text()) == {"second": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("value", [{1, 2}, math.nan])
def test_what_is_not_json_leaves_the_old_file_whole(tmp_path: Path, value: object) -> None:
    path = tmp_path / "record.json"
    records.write_json(path, {"old": 1})
    with pytest.raises((TypeError, ValueError)):
        records.write_json(path, {"fine": "x" * 100_000, "not": value})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    records.write_json(path, {"old": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        records.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


# --- lines, one record each ---


ROWS = [
    {"schema": records.SCHEMA, "method": "chts", "values": [1, 2.5, None, True], "nested": {"a": "b"}},
    {"schema": records.SCHEMA, "method": "Erdős–Rényi", "text": 'line\nbreak, "quotes", \u2028 and \x85'},
]


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    records.write_lines(path, ROWS)
    assert records.read_lines(path) == ROWS
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    assert all(len(line.pop("sha256")) == 64 for line in lines)
    assert lines == ROWS
    assert "Erdős–Rényi" in text
    records.write_lines(path, records.read_lines(path))
    assert path.read_text(encoding="utf-8") == text
    records.write_lines(path, (row for row in ROWS[:1]))
    assert records.read_lines(path) == ROWS[:1]
    assert [entry.name for entry in path.parent.iterdir()] == ["runs.jsonl"]


def test_no_rows_are_an_empty_file(tmp_path: Path) -> None:
    records.write_lines(tmp_path / "runs.jsonl", [])
    assert (tmp_path / "runs.jsonl").read_bytes() == b""
    assert records.read_lines(tmp_path / "runs.jsonl") == []


@pytest.mark.parametrize("value", [{1, 2}, math.nan, math.inf])
def test_a_row_that_is_not_json_leaves_the_old_lines_whole(tmp_path: Path, value: object) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS)
    with pytest.raises((TypeError, ValueError)):
        records.write_lines(path, [*ROWS, {"schema": records.SCHEMA, "value": value}])
    assert records.read_lines(path) == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.jsonl"]


def test_rows_that_end_early_leave_the_old_lines_whole(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"schema": records.SCHEMA, "new": 1}
        raise KeyboardInterrupt

    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS)
    with pytest.raises(KeyboardInterrupt):
        records.write_lines(path, rows())
    assert records.read_lines(path) == ROWS


def test_a_full_disk_leaves_the_old_lines_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        records.write_lines(path, ROWS[:1])
    assert records.read_lines(path) == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"schema": 1, "meth',
            r"runs\.jsonl, line 2 is not JSON .*cut short or changed\. Restore the file, or delete",
        ),
        ("chts,0.9,31.2", r"runs\.jsonl, line 2 is not JSON"),
        ("", r"runs\.jsonl, line 2 is not JSON"),
        ('{"schema": 1} {"schema": 1}', r"runs\.jsonl, line 2 is not JSON"),
        ('{"schema": 2, "method": "chts"}', r"runs\.jsonl, line 2 has schema 2; expected 1"),
        ('{"schema": "1"}', r"runs\.jsonl, line 2 has schema '1'; expected 1"),
        ('{"method": "chts"}', r"runs\.jsonl, line 2 has schema None; expected 1"),
        ("[1, 2]", r"runs\.jsonl, line 2 has schema None; expected 1"),
        ("1", r"runs\.jsonl, line 2 has schema None; expected 1"),
        ("null", r"runs\.jsonl, line 2 has schema None; expected 1"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS[:1])
    good = path.read_text("utf-8")
    path.write_text(f"{good}{line}\n{good}", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        records.read_lines(path)
    assert path.read_bytes() == before


def test_lines_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS[:1])
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 "):
        records.read_lines(path)


def test_a_last_line_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 is not JSON"):
        records.read_lines(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"values": [1, 2.5, null, true]', '"values": [1, 2.6, null, true]'),
        ('"values": [1, 2.5, null, true]', '"values": [1, 2.5, true]'),
        ('"method": "chts"', '"method": "set"'),
        ('"nested": {"a": "b"}', '"nested": {}'),
        ('"method": "chts", ', ""),
        ('"nested": {"a": "b"}, "sha256"', '"nested": {"a": "b"}, "more": 1, "sha256"'),
        ('"sha256"', '"sha512"'),
    ],
)
def test_a_line_that_was_changed_is_refused_with_its_number(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, [ROWS[1], ROWS[0]])
    text = path.read_text("utf-8")
    assert text.count(old) == (2 if old == '"sha256"' else 1)
    first, second = text.removesuffix("\n").split("\n")
    path.write_text(f"{first}\n{second.replace(old, new)}\n", "utf-8")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 does not match its sha256.*changed after it was"):
        records.read_lines(path)


def test_blanks_and_the_order_of_values_may_change(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write_lines(path, ROWS[:1])
    row = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(dict(reversed(row.items())), separators=(",", ":")) + "\n", "utf-8")
    assert records.read_lines(path) == ROWS[:1]


# --- where and when ---


def test_the_time_is_in_utc_to_the_second() -> None:
    told = datetime.fromisoformat(records.now())
    assert told.utcoffset() == timedelta(0)
    assert told.microsecond == 0
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)
    assert len(records.now()) == len("2026-01-31T12:34:56+00:00")


def test_results_are_in_the_installed_package_or_in_the_checkout(
    tmp_path: Path, package_in: Callable[[Path], None]
) -> None:
    assert (records.results_folder().parent / "chts_core" / "lab" / "results" / "records.py").samefile(records.__file__)
    package_in(tmp_path)
    assert records.results_folder() == tmp_path / "results"
    (tmp_path / "chts_core" / "results").mkdir(parents=True)
    assert records.results_folder() == tmp_path / "chts_core" / "results"


# --- records of methods that had another meaning ---

EARLIER = {
    "set": "set",
    "chts": "chts/ri_zeros",
    "chtss": "chtss/ri_zeros",
    "mest": "mest/exchange",
    "gmp": "gmp/no_return",
    "cht": "cht/by_layer",
    "chts/paper_magnitude": "chts/zeros",
    "chts/paper_l3p": "chts/ri_zeros with regrowth=Regrowth('ch3_l3p')",
    "chts with topology=ErdosRenyi()": "chts/ri_zeros with topology=ErdosRenyi()",
    "chts/paper_to_9 with topology=ErdosRenyi()": "chts/ri_zeros with removal=Removal('relative_importance', "
    "temperature=Ramp(1.0, 9.0), percolate=True), topology=ErdosRenyi()",
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_record_without_a_revision_is_read_under_the_name_that_its_method_has_today(name: str) -> None:
    row = {"method": name, "recipe": {"hidden": 8}, "seed": 3}
    assert records.as_named_today(row) == row | {"method": EARLIER[name]}
    assert records.as_named_today(row | {"methods": 2}) == row | {"methods": 2}
    get_method(EARLIER[name])


def test_a_start_from_correlations_was_a_setting_of_the_training() -> None:
    recipe = {"csti": True}
    found = records.as_named_today({"method": "chts", "recipe": recipe})
    assert found == {"method": "chts/ri_zeros with topology=Correlated()", "recipe": recipe}
    words = "chts with regrowth=Regrowth('random')"
    found = records.as_named_today({"method": words, "recipe": recipe})
    assert found["method"] == "chts/ri_zeros with regrowth=Regrowth('random'), topology=Correlated()"
    get_method(found["method"])


# All whose names have another meaning today, or none, as they were in the first revision.
FIRST: dict[str, Any] = {
    "chts": Method(
        ReceptiveField(0.25),
        Removal("relative_importance", Ramp(1.0, 3.0), percolate=True),
        Regrowth("ch2_l3n"),
        Constant(),
        Turnover(Cosine(0.3)),
    ),
    "mest": Method(ErdosRenyi(), Removal("mest"), Regrowth("random"), Staged(), Turnover(Cosine(0.3))),
    "gmp": Method(ErdosRenyi(), Removal("magnitude"), Regrowth("random"), Cubic(0.5), Turnover(0.0)),
    "cht": Method(
        ErdosRenyi(),
        Removal("magnitude", percolate=True),
        Regrowth("ch3_l3p", soft=False),
        Constant(),
        Turnover(Cosine(0.3), early_stop=0.9),
    ),
}


_CHTS, _DECAY = FIRST["chts"], {"sparsity": Sigmoid(initial=0.5)}
_TO_9 = {"removal": Removal("relative_importance", Ramp(1.0, 9.0), percolate=True)}
_MAGNITUDE = {"removal": Removal("magnitude", Ramp(1.0, 3.0), percolate=True)}
_MLP = {"topology": SmallWorld(0.25), "turnover": Turnover(Cosine(0.3), skip_optimizer=True)}
_LLAMA = {
    "removal": Removal("relative_importance", Ramp(1.0, 9.0)),
    "regrowth": Regrowth("ch2_l3n", soft=False),
    "turnover": Turnover(Cosine(0.1), skip_optimizer=True),
}
FIRST |= {
    "chtss": replace(_CHTS, **_DECAY),
    "cht/ch2_l3n": replace(FIRST["cht"], regrowth=Regrowth("ch2_l3n", soft=False)),
    "cht/history": replace(FIRST["cht"], regrowth=Regrowth("ch3_l3p", soft=False, history=True)),
    "chts/paper_magnitude": replace(_CHTS, **_MAGNITUDE),
    "chts/paper_l3p": replace(_CHTS, regrowth=Regrowth("ch3_l3p")),
    "chts/paper_l3p_magnitude": replace(_CHTS, **_MAGNITUDE, regrowth=Regrowth("ch3_l3p")),
    "chts/paper_to_9": replace(_CHTS, **_TO_9),
    "chts/mlp_code": replace(_CHTS, **_MLP),
    "chts/llama_code": replace(_CHTS, **_LLAMA),
    "chtss/paper_magnitude": replace(_CHTS, **_MAGNITUDE, **_DECAY),
    "chtss/paper_to_9": replace(_CHTS, **_TO_9, **_DECAY),
    "chtss/mlp_code": replace(_CHTS, **_MLP, **_DECAY),
    "chtss/llama_code": replace(_CHTS, **_LLAMA, **_DECAY),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_name_of_today_is_the_method_of_the_first_revision(name: str) -> None:
    assert get_method(str(records.as_named_today({"method": name, "recipe": {}})["method"])) == FIRST[name]


FILES = sorted((records.results_folder() / "revision_1").glob("*.jsonl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_records_of_the_first_revision_are_read_and_their_methods_exist(path: Path) -> None:
    rows = records.read_runs(path)
    assert rows
    for name in {row["method"] for row in rows}:
        assert "/" in name or (path.stem == "images" and name in ("fc", "set", "rigl", "granet"))
        get_method(name)
