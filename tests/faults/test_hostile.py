"""Nothing that comes from elsewhere is executed: parameters, specifications, checkpoints, corpora. And what the package
itself must never call.
"""

import ast
import functools
import gzip
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

import chts_core
from chts_core.lab import data
from chts_core.lab.data import sources, translation
from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records
from chts_core.lab.train import checkpoint, sweeps
from chts_core.lab.verify import wrong_files
from chts_core.lab.verify.wrong_files import data_sets, runs
from chts_core.lab.verify.wrong_files.case import PICKLE

PACKAGE = Path(chts_core.__file__).parent


class Trap:
    """What would run if it were unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.touched,)


# --- parameters of notebooks ---


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A notebook that publishes the words among its parameters."""
    words = [f"word_{number}" for number in range(len(HOSTILE_WORDS))]
    parameters = "".join(f'{word}: str = "x"\n' for word in words)
    parameters += "number: float = 1.0\ncount: int = 1\nswitch: bool = False"
    cells = [
        new_code_cell("from chts_core.lab import records"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(f"records.publish(dict({', '.join(f'{word}={word}' for word in words)}))"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "echo.ipynb")
    return tmp_path / "echo.ipynb"


HOSTILE_WORDS = (
    '"; import pathlib; pathlib.Path("touched").touch(); "',
    "'''\nimport pathlib\npathlib.Path('touched').touch()\n'''",
    '\\"\nimport pathlib\npathlib.Path("touched").touch()\n#',
    "{pathlib.Path('touched').touch()}",
    "\x00\u2028\r\nraise SystemExit",
    "$(touch touched)`touch touched`",
)


def test_words_arrive_as_words(echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {f"word_{number}": word for number, word in enumerate(HOSTILE_WORDS)}
    record = notebooks.run(echo, tmp_path / "out", notebooks.checked_parameters(echo, words))
    assert record["error"] is None
    assert words.items() <= record["results"].items()
    assert not list(tmp_path.rglob("touched"))


@pytest.mark.parametrize("name", ["number", "count", "switch"])
@pytest.mark.parametrize("text", ["1; import os", "__import__('os').system('true')", "1\nimport os", "[]", "1e", ""])
def test_what_is_no_value_of_its_type_is_refused(echo: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        notebooks.checked_parameters(echo, {name: text})


@pytest.mark.parametrize("name", ["os", "word_0 = 1; import os", "__builtins__", "word_0\n"])
def test_a_parameter_that_is_not_declared_is_refused(echo: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has no parameter"):
        notebooks.checked_parameters(echo, {name: "x"})


# --- files ---


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "train: !!python/name:os.system ''",
        "train: mlp\ngrid: !!python/object/new:os.system [true]",
    ],
)
def test_a_sweep_constructs_no_objects(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ValueError, match="the file of the sweep is not YAML: could not determine a constructor"):
        sweeps.cells(tmp_path / "spec.yaml")


@pytest.mark.parametrize("written", [pickle.dumps, lambda trap: _torch_file(trap)], ids=["pickle", "torch"])
def test_a_pickle_is_no_checkpoint_and_is_not_opened(tmp_path: Path, written: Any) -> None:
    path, touched = tmp_path / "run.safetensors", tmp_path / "touched"
    path.write_bytes(written(Trap(touched)))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        checkpoint.load(path)
    assert not touched.exists()


def _torch_file(trap: Trap) -> bytes:
    import io

    file = io.BytesIO()
    torch.save({"steps": trap}, file)
    return file.getvalue()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


def test_the_trainer_s_callback_opens_no_objects(tmp_path: Path) -> None:
    from chts_core.tools.huggingface import FILE_NAME

    torch.save({"steps": Trap(tmp_path / "touched")}, tmp_path / FILE_NAME)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(tmp_path / FILE_NAME, weights_only=True)  # as it does; test_nothing_is_executed holds that
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("line", ['{"schema": 1}', "[" * 100_000, '{"a": ' * 50_000, "NaN", "\ud800"])
def test_a_hostile_record_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "runs.jsonl").write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 1"):
        records.read_lines(tmp_path / "runs.jsonl")


# --- the table of files that are not what they should be ---


TABLE = [(kind, name) for kind, cases in wrong_files.CASES.items() for name in cases]


def test_the_table_is_long_and_says_what_to_expect() -> None:
    assert len(TABLE) >= 140
    assert all(len(case.says) > 3 for cases in wrong_files.CASES.values() for case in cases.values())


@pytest.mark.parametrize(("kind", "name"), TABLE)
def test_a_file_that_is_not_what_it_should_be_is_refused(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case, folder = wrong_files.CASES[kind][name], tmp_path / "files"
    said = wrong_files.refusal(case, folder)
    assert re.search(case.says, said), said
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"files/{name}" for name in case.files}
    assert not (tmp_path / "unpickled").exists()
    assert all((folder / name).read_bytes() == content for name, content in case.files.items())
    assert not (tmp_path.parent.parent / "outside").exists()


def test_what_is_accepted_or_changed_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(folder: Path) -> None:
        (folder / "a").write_bytes(b"2")
        raise ValueError("no")

    cases = {
        "accepted": wrong_files.Case({"a": b"1"}, "no", lambda _: None),
        "said otherwise": wrong_files.Case({"a": b"1"}, "yes", lambda folder: int((folder / "a").read_text() + "x")),
        "changed": wrong_files.Case({"a": b"1"}, "no", change),
        "refused": wrong_files.Case({"a": b"x"}, "invalid literal", lambda folder: int((folder / "a").read_text())),
    }
    monkeypatch.setattr(wrong_files, "CASES", {"numbers": cases})
    rows = {row["case"]: row for row in wrong_files.refusals(tmp_path / "work")}
    assert {name: row["refused"] for name, row in rows.items()} == {name: name == "refused" for name in cases}
    assert {"git", "versions", "device", "said"} < rows["refused"].keys()


def test_the_sound_files_behind_the_table_are_read(tmp_path: Path) -> None:
    """Each case spoils one thing: what is left is in order."""
    sound = [
        data_sets._images(""),
        data_sets._cifar("", bytes(3073)),
        data_sets._pairs("", b"a\n"),
        data_sets._pairs("", b"\xef\xbb\xbfa\r\n"),  # as Windows writes it
        data_sets._text("", b"a\n\n" * 9),
        data_sets._books("", b"ab", b"train\t\t\t2\nvalid\t\t\t2"),
        runs._checkpoint("", runs.WHOLE),
        runs._record("", b""),
        runs._sweep("", b"train: mlp\ngrid: {seed: [0]}"),
        runs._notebook("", runs._cells("seed: int = 0")),
        runs._roster("", b"id\na\n"),
    ]
    for number, case in enumerate(sound):
        assert wrong_files.refusal(case, tmp_path / str(number)) == "", number


def test_the_pickle_of_the_table_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLE)
    assert (tmp_path / "unpickled").is_dir()


# --- archives that unpack to more than there is room for ---


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST", 2**20)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\x20\0\0" + bytes(2**21)))
    assert path.stat().st_size < 5000
    with pytest.raises(
        ValueError, match=r"images\.gz holds more than 1 MiB; no data set of chts has such a large file"
    ):
        data.read_idx(path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt.gz").write_bytes(gzip.compress(b"x" * 2**21))
    with pytest.raises(ValueError, match=r"tinyshakespeare\.txt\.gz holds more than 1 MiB"):
        data.load_text("tinyshakespeare", str(tmp_path))


def test_no_more_than_the_limit_is_unpacked(tmp_path: Path) -> None:
    # Most of a gibibyte of zeros, in a process that may have as much memory as the limit and a bit more.
    path = tmp_path / "images.gz"
    member = gzip.compress(bytes(2**24), 9)
    path.write_bytes(member * 60)
    code = (
        "import resource, sys; from pathlib import Path; from chts_core.lab.data import sources\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28)); sources.LARGEST = 2**25\n"
        "try: sources.read_whole(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "holds more than 32 MiB" in said


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(translation, "_LONGEST_LINE", 100)
    whole, endless = (tmp_path / f"train.{language}{ending}" for language in ("en", "de"))
    write = gzip.compress if ending else bytes
    whole.write_bytes(write(b"a" * 99 + b"\nb\n"))
    assert len(list(translation.read_pairs(whole, whole))) == 2
    endless.write_bytes(write(b"a\n" + b"b" * 101))
    with pytest.raises(ValueError, match=rf"train\.de{ending} has more than 100 bytes in line 2; expected a sentence"):
        list(translation.read_pairs(whole, endless))


# --- what the package never does ---


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", ast.unparse(node.func), node


NEVER = {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "yaml.load", "marshal.loads", "dill.load"}


def test_nothing_is_executed() -> None:
    found = list(calls())
    assert len(found) > 5000
    assert [(place, name) for place, name, _ in found if name in NEVER] == []
    for place, name, call in found:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", place
        assert given.get("trust_remote_code", "False") == "False", place
        assert given.get("allow_pickle", "False") == "False", place
        assert given.get("shell", "False") == "False", place


# What executes what it reads, or unpacks archives, whose members may lie outside.
UNTRUSTED = {"pickle", "marshal", "shelve", "dill", "tarfile", "zipfile"}


def test_no_module_that_executes_what_it_reads_is_imported() -> None:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & UNTRUSTED, path
