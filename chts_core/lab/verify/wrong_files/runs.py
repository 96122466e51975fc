"""Wrong files for runs and classes: checkpoints, records, sweeps, notebooks, and the roster of a class."""

import hashlib
import json
import struct
from typing import Any

from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records
from chts_core.lab.teach import classes
from chts_core.lab.train import checkpoint, sweeps
from chts_core.lab.verify.wrong_files.case import NESTED, PICKLE, TAR_GZ, ZIP, Case

# --- checkpoints ---


def _checkpoint(says: str, content: bytes) -> Case:
    return Case({"run.safetensors": content}, says, lambda folder: checkpoint.load(folder / "run.safetensors"))


def _forged(state: Any = None, *, entry: bytes | None = None, **tensors: tuple[str, list[int], int]) -> bytes:
    """A checkpoint that was made by hand and has a correct checksum.

    Args:
        state: a state, packed as in :mod:`chts_core.lab.train.checkpoint`.
        entry: the entry that describes the run in the header of the file; with None, the entry is made from `state`.
        tensors: the type and the shape of each tensor, and the position where its bytes end.
    """
    none = "0" * 64
    text = json.dumps({"format": 1, "sha256": none, "state": state}, separators=(",", ":")).encode()
    text = text if entry is None else entry.replace(b"SHA", none.encode())
    header: dict[str, Any] = {"__metadata__": {"chts_checkpoint": text.decode()}}
    for name, (dtype, shape, end) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    packed = json.dumps(header, separators=(",", ":")).encode()
    content = struct.pack("<Q", len(packed)) + packed + bytes(4)
    return content.replace(none.encode(), hashlib.sha256(content).hexdigest().encode())


_FOUR = ("U8", [4], 4)
WHOLE = _forged({"dict": [["weight", {"tensor": "t"}]]}, t=_FOUR)
CHECKPOINTS = {
    "empty": _checkpoint("run.safetensors is not a safetensors file, or its beginning is damaged", b""),
    "cut short": _checkpoint("is damaged: it was cut short or changed", WHOLE[:-1]),
    "cut in its header": _checkpoint("its beginning is damaged", WHOLE[:40]),
    "longer": _checkpoint("is damaged: it was cut short or changed", WHOLE + b"x"),
    "a byte changed": _checkpoint("is damaged: it was cut short or changed", WHOLE[:-1] + b"x"),
    "a name changed": _checkpoint("is damaged", WHOLE.replace(b"weight", b"height")),
    "of a newer chts": _checkpoint(
        "has format 2, but this chts reads up to 1; .* update chts",
        _forged(entry=b'{"format":2,"sha256":"SHA","state":1}'),
    ),
    "of another program": _checkpoint(
        "holds no state of a run; give a file that a run saved", struct.pack("<Q", 2) + b"{}"
    ),
    "a pickle": _checkpoint("is not a safetensors file", PICKLE),
    "a zip archive": _checkpoint("is not a safetensors file", ZIP),
    "a gzip file": _checkpoint("is not a safetensors file", TAR_GZ),
    "a header without end": _checkpoint(
        "is not a safetensors file|holds no state", struct.pack("<Q", 2**63 - 1) + b"{}"
    ),
    "a nested header": _checkpoint("is not a safetensors file", struct.pack("<Q", len(NESTED)) + NESTED),
    "a nested entry": _checkpoint("holds no state of a run", _forged(entry=NESTED)),
    "a nested state": _checkpoint(
        "holds a state that chts did not write",
        _forged(entry=b'{"format":1,"sha256":"SHA","state":' + b"[" * 900 + b"]" * 900 + b"}"),
    ),
    "no such tensor": _checkpoint(r"chts did not write \(KeyError\)", _forged({"tensor": "none"}, t=_FOUR)),
    "a function for a type": _checkpoint(
        "chts did not write", _forged({"tensor": "t", "dtype": "load", "shape": [1]}, t=_FOUR)
    ),
    "an unknown type": _checkpoint(
        "chts did not write", _forged({"tensor": "t", "dtype": "huge", "shape": [1]}, t=_FOUR)
    ),
    "a shape of 4 exabytes": _checkpoint(
        "chts did not write", _forged({"tensor": "t", "dtype": "uint8", "shape": [2**62]}, t=_FOUR)
    ),
    "bytes past the end": _checkpoint("chts did not write", _forged({"tensor": "t"}, t=("U8", [400], 400))),
    "tensors on each other": _checkpoint("chts did not write", _forged({"tensor": "t"}, t=_FOUR, u=_FOUR)),
    "an unknown kind": _checkpoint("chts did not write", _forged({"call": "print"})),
    "keys that are lists": _checkpoint("chts did not write", _forged({"dict": [[[1], 2]]})),
    "a float that is none": _checkpoint("chts did not write", _forged({"float": "zz"})),
}


# --- records ---


def _record(says: str, content: bytes) -> Case:
    return Case({"runs.jsonl": content}, says, lambda folder: records.read_runs(folder / "runs.jsonl"))


def _line(**row: Any) -> bytes:
    """A line with this record and its correct digest."""
    return json.dumps(row | {"sha256": records.digest(row)}).encode() + b"\n"


RECORDS = {
    "no JSON": _record("runs.jsonl, line 1 is not JSON .*Restore the file, or delete the line", b"hello\n"),
    "cut short": _record("line 2 is not JSON|line 1 is not JSON", _line(schema=1)[:-9]),
    "an empty line": _record("line 1 is not JSON", b"\n"),
    "zero bytes": _record("line 1 is not JSON", bytes(64)),
    "not UTF-8": _record("line 1 is not JSON", b'"\xff"\n'),
    "nested": _record("line 1 is not JSON .*recursion", NESTED),
    "a number of 5,000 digits": _record("line 1 is not JSON", b'{"schema": ' + b"9" * 5000 + b"}"),
    "without a digest": _record("line 1 does not match its sha256: it was changed", b'{"schema": 1}\n'),
    "a value changed": _record("not match its sha256", _line(schema=1, seed=1).replace(b'"seed": 1', b'"seed": 2')),
    "of another schema": _record("line 1 has schema 2; expected 1", _line(schema=2)),
    "a list": _record("has schema None; expected 1", b"[1]\n"),
    "no run": _record("line 1 is not a record of a run: .*is a required property", _line(schema=1)),
}


# --- sweeps ---


def _sweep(says: str, content: bytes) -> Case:
    return Case({"sweep.yaml": content}, says, lambda folder: sweeps.cells(folder / "sweep.yaml"))


_LAUGHS = b"a: &a [x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 107)
)
SWEEPS = {
    "empty": _sweep("the sweep is None; expected a mapping", b""),
    "a list": _sweep(r"the sweep is \[1\]; expected a mapping", b"[1]"),
    "an object": _sweep("could not determine a constructor", b"!!python/object/apply:os.system [touch outside]"),
    "an object in a grid": _sweep(
        "could not determine a constructor", b"train: mlp\ngrid: {seed: [!!python/name:os.system '']}"
    ),
    "references to references": _sweep(r"not YAML: it uses the alias \*a, .*write the values out", _LAUGHS),
    "a reference to itself": _sweep(r"not YAML: it uses the alias \*a", b"train: mlp\ngrid: &a\n  seed: *a\n"),
    "nested": _sweep("the file of the sweep is not YAML: .*recursion", NESTED[:5000]),
    "a tab": _sweep("the file of the sweep is not YAML: .*\n?.*cannot start any token", b"a:\n\t- b"),
    "a zero byte": _sweep("the file of the sweep is not YAML: unacceptable character", b"train: mlp\0"),
    "not UTF-8": _sweep("the file of the sweep is not YAML", b"train: \xe4"),
    "a key besides": _sweep(
        "the sweep has train, shell, grid; expected either", b"train: mlp\nshell: ls\ngrid: {seed: [0]}"
    ),
    "no grid": _sweep("expected at least one list of values in grid", b"train: mlp"),
    "no such recipe": _sweep("recipe is 'none'; expected one of mlp", b"train: none\ngrid: {seed: [0]}"),
    "no such setting": _sweep("has no setting 'sead'", b"train: mlp\ngrid: {sead: [0]}"),
    "code for a number": _sweep(
        "seed is '0; import os'; expected a whole", b"train: mlp\ngrid: {seed: ['0; import os']}"
    ),
    "a date for a number": _sweep("expected a whole number", b"train: mlp\ngrid: {seed: [2020-01-01]}"),
    "a path for a method": _sweep(r"method is '\.\./x'; expected one of", b"train: mlp\ngrid: {method: [../x]}"),
    "a path for a notebook": _sweep("there is no notebook", b"notebook: ../../etc/passwd\ngrid: {seed: [0]}"),
    "a value twice": _sweep("expected a list of values, each once", b"train: mlp\ngrid: {seed: [0, 0]}"),
    "a million cells": _sweep(
        "the grid has 1,000,000 cells; expected at most 100,000",
        b"train: mlp\ngrid:\n"
        + b"".join(
            b"  %s: %s\n" % (name, str(list(range(1, 101))).encode()) for name in (b"seed", b"epochs", b"hidden")
        ),
    ),
}


# --- notebooks ---


def _notebook(says: str, content: bytes) -> Case:
    return Case(
        {"mine.ipynb": content},
        says,
        lambda folder: notebooks.checked_parameters(folder / "mine.ipynb", {"seed": "1"}),
    )


def _cells(*sources: str, **given: Any) -> bytes:
    """The content of a notebook with these cells, which declare parameters."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "source": source,
            "metadata": {"tags": ["parameters"]},
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells} | given).encode()


NOTEBOOKS = {
    "empty": _notebook("mine.ipynb cannot be read as a notebook .*; give a notebook that Jupyter wrote", b""),
    "no JSON": _notebook("cannot be read as a notebook", b"import os"),
    "a list": _notebook("cannot be read as a notebook", b"[]"),
    "no cells": _notebook("cannot be read as a notebook", b"{}"),
    "nested": _notebook("cannot be read as a notebook", NESTED),
    "not UTF-8": _notebook("cannot be read as a notebook", b"\xff"),
    "of a format to come": _notebook("cannot be read as a notebook", _cells(nbformat=99)),
    "cells that are none": _notebook("cannot be read as a notebook", _cells(cells=[{"cell_type": "shell"}])),
    "no such parameter": _notebook("mine has no parameter 'seed'", _cells()),
    "a default that is code": _notebook(
        "gives parameter seed the default .*; expected a literal", _cells("seed: int = exit()")
    ),
    "a parameter of a type": _notebook("declares parameter seed as type; annotate it", _cells("seed: type = int")),
}


# --- rosters of a class ---


def _roster(says: str, content: bytes) -> Case:
    return Case({"roster.csv": content}, says, lambda folder: classes.read_roster(folder / "roster.csv"))


ROSTERS = {
    "empty": _roster("roster.csv has no column id", b""),
    "no id": _roster("has no column id", b"name\nAda\n"),
    "UTF-16": _roster("is not CSV in UTF-8", "id\na\n".encode("utf-16")),
    "a quote without an end": _roster("is not CSV in UTF-8: unexpected end", b'id\n"a\n'),
    "a field without an end": _roster("is not CSV in UTF-8: field larger", b"id\n" + b"a" * 200_000),
    "a way out of the folder": _roster(r"line 2: the id is '\.\./\.\./x'; expected at most 64", b"id\n../../x\n"),
    "the folder above": _roster(r"line 2: the id is '\.\.'", b"id\n..\n"),
    "a path from the root": _roster("line 2: the id is '/etc'", b"id\n/etc\n"),
    "an option": _roster("line 2: the id is '-rf'", b"id\n-rf\n"),
    "a formula": _roster("line 2: the id is '=1", b"id\n=1+1\n"),
    "a tag of HTML": _roster("line 2: the id is '<script>'", b"id\n<script>\n"),
    "a zero byte": _roster("line 2: the id is ", b"id\na\0b\n"),
    "an id of two lines": _roster(r"line 2: the id is 'a\\nb'", b'id\n"a\nb"\n'),
    "an id too long": _roster("expected at most 64 letters", b"id\n" + b"a" * 65),
    "an id twice": _roster("line 3: the id A is already in line 2", b"id\na\nA\n"),
}
