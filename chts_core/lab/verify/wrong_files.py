"""Files that are not what they should be, by accident or by malice, and what is said of each.

    for row in refusals(Path("runs/hostile")):
        print(row["scenario"], row["case"], row["refused"])

Each case writes its files into an empty folder and has them read as everybody reads them.
"""

import gzip
import hashlib
import json
import math
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from chts_core.lab import data
from chts_core.lab.data import TextData, sources, translation
from chts_core.lab.notebook import notebooks
from chts_core.lab.results import records
from chts_core.lab.teach import classes
from chts_core.lab.train import checkpoint, sweeps


@dataclass(frozen=True)
class Case:
    """Files, and what is to be said of them.

    files: their content by name.
    says: a regular expression for the message of the ValueError.
    read: reads them, in the folder where they are.
    """

    files: Mapping[str, bytes]
    says: str
    read: Callable[[Path], Any]


def refusals(folder: Path) -> Iterator[dict[str, Any]]:
    """Have all of `CASES` read.

    Args:
        folder: to work in; emptied before each case.

    Yields:
        A row per case: the kind of file, the case, what was said, and whether it was refused: with the words that are
        expected, no file changed and none besides.
    """
    about = {"schema": records.SCHEMA, "git": records.git_revision(), "versions": records.versions()}
    about["device"] = records.describe_device(torch.device("cpu"))
    for kind, cases in CASES.items():
        for name, case in cases.items():
            shutil.rmtree(folder, ignore_errors=True)
            said = refusal(case, folder)
            refused = re.search(case.says, said) is not None and _content(folder) == dict(case.files)
            yield about | {"scenario": kind, "fault": "input", "case": name, "said": said, "refused": refused}


def refusal(case: Case, folder: Path) -> str:
    """Write a case's files and have them read: the message of the ValueError; "" if there is none."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        case.read(folder)
    except ValueError as error:
        return str(error).replace(str(folder), "")
    return ""


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what files can be instead ---


# Unpickled, it would make a folder of this name.
_PICKLE = b"cos\nmkdir\n(S'unpickled'\ntR."
_NESTED = b"[" * 100_000
# The name of a member that would lie outside of where an archive is unpacked.
_OUTSIDE = b"../../outside"
_ZIP = b"PK\x03\x04" + bytes(22) + struct.pack("<HH", len(_OUTSIDE), 0) + _OUTSIDE
_TAR_GZ = gzip.compress(_OUTSIDE.ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0") + b"text".ljust(512, b"\0"))
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def _idx(*shape: int, kind: int = 8, fill: int = 0) -> bytes:
    """An array of equal bytes as Fashion-MNIST has it."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape)
    return gzip.compress(header + bytes([fill]) * math.prod(shape))


# --- images ---


def _images(says: str, *, images: bytes | None = None, labels: bytes | None = None, limit: int | None = None) -> Case:
    """Fashion-MNIST of 24 and 12 images, of which the training images or labels are something else."""
    parts = (images or _idx(24, 28, 28), labels or _idx(24), _idx(12, 28, 28), _idx(12))
    files = {f"fashion-mnist/{name}": part for name, part in zip(_FASHION, parts, strict=True)}
    return Case(files, says, partial(_read_images, "fashion_mnist", limit or sources.LARGEST))


def _cifar(says: str, test: bytes, limit: int | None = None) -> Case:
    """CIFAR-10 of ten images in each part but the last."""
    files = {f"cifar-10-batches-bin/{name}": bytes(3073) * 10 for name in data.IMAGE_SETS["cifar10"].files}
    files["cifar-10-batches-bin/test_batch.bin"] = test
    return Case(files, says, partial(_read_images, "cifar10", limit or sources.LARGEST))


def _read_images(name: str, limit: int, folder: Path) -> Any:
    with patch.object(sources, "LARGEST", limit):
        return data.load_images(name, str(folder))


_FASHION = data.IMAGE_SETS["fashion_mnist"].files
_IMAGES = {
    "no gzip": _images(r"train-images-idx3-ubyte\.gz is not a whole gzip file .*; fetch it again", images=_PNG),
    "a pickle": _images("is not a whole gzip file", images=_PICKLE),
    "a zip archive": _images("is not a whole gzip file", images=_ZIP),
    "gzip cut short": _images("is not a whole gzip file", images=_idx(24, 28, 28)[:-9]),
    "wrong checksum": _images("is not a whole gzip file .*CRC", images=_idx(24, 28, 28)[:-8] + bytes(8)),
    "gzip of nothing": _images(r"starts with b''; expected an IDX file of unsigned bytes", images=gzip.compress(b"")),
    "a tar archive": _images(r"starts with b'\.\./\.'; expected an IDX file", images=_TAR_GZ),
    "floats": _images("expected an IDX file of unsigned bytes", images=_idx(24, 28, 28, kind=13)),
    "header cut short": _images(
        "announces 3 dimensions but ends before their sizes", images=gzip.compress(b"\0\0\x08\x03\0\0")
    ),
    "255 dimensions": _images(
        "announces 255 dimensions; expected 1 for labels or 3", images=gzip.compress(b"\0\0\x08\xff" + bytes(1020))
    ),
    "no dimension": _images("announces 0 dimensions", images=gzip.compress(b"\0\0\x08\0\0")),
    "sizes of 4 billion": _images(
        r"announces \(4294967295, .* but holds 0 bytes", images=gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12)
    ),
    "two dimensions": _images(r"has images of shape \(24, 784\) .*; expected \(n, 28, 28\)", images=_idx(24, 784)),
    "images of another size": _images(r"shape \(24, 8, 8\)", images=_idx(24, 8, 8)),
    "fewer labels than images": _images(r"labels of \(23,\).* do not belong together", labels=_idx(23)),
    "a label too high": _images("has the label 10; expected labels from 0 to 9", labels=_idx(24, fill=10)),
    "no images": _images("has no images", images=_idx(0, 28, 28), labels=_idx(0)),
    "a bomb": _images("holds more than 1 MiB; no data set here", images=_idx(2**21), limit=2**20),
    "CIFAR-10 cut short": _cifar("test_batch.bin holds 3072 bytes; expected 3073 for each image", bytes(3072)),
    "CIFAR-10, empty": _cifar("holds 0 bytes; expected 3073", b""),
    "CIFAR-10, a label too high": _cifar("has the label 99; expected labels from 0 to 9", b"c" + bytes(3072)),
    "CIFAR-10, too large": _cifar("holds more than 1 MiB", bytes(3073) * 400, limit=2**20),
}


# --- sentences and texts ---


def _pairs(says: str, english: bytes, german: bytes = b"ein Satz\n", ending: str = "") -> Case:
    def read(folder: Path) -> Any:
        with patch.object(translation, "_LONGEST_LINE", 1000):
            return list(translation.read_pairs(folder / f"train.en{ending}", folder / f"train.de{ending}"))

    return Case({f"train.en{ending}": english, f"train.de{ending}": german}, says, read)


_PAIRS = {
    "fewer lines": _pairs("train.en has 1 lines and .*train.de has 2; expected as many", b"a\n", b"a\nb\n"),
    "more lines": _pairs("train.en has 3 lines and .*train.de has 1;", b"a\nb\nc\n"),
    "one is empty": _pairs("train.en has 0 lines and .*train.de has 1", b""),
    "both are empty": _pairs("have no lines; expected a sentence in each", b"", b""),
    "a line without text": _pairs(r"train.en has no text in line 2; .* Delete this line", b"a\n \n", b"a\nb\n"),
    "Latin-1": _pairs("train.en is not UTF-8 in line 2, at byte 1 .*iconv -f LATIN1", b"a\n\xe4\n", b"a\nb\n"),
    "UTF-16": _pairs("is not UTF-8 in line 1", "a\n".encode("utf-16")),
    "half a surrogate": _pairs("is not UTF-8 in line 1, at byte 1", b"\xed\xa0\x80\n"),
    "an overlong slash": _pairs("is not UTF-8 in line 1, at byte 3", b"..\xc0\xaf\n"),
    "a character cut short": _pairs("is not UTF-8 in line 1, at byte 2", b"a\xe2\x82"),
    "a pickle": _pairs("has 5 lines and", _PICKLE.replace(b"(", b"\n(", 1), b"a\n"),
    "zero bytes": _pairs("train.en has a zero byte in line 1, .* damaged", bytes(100) + b"\n"),
    "no gzip": _pairs(r"train.en.gz is not a whole gzip file", b"a\n", gzip.compress(b"a\n"), ".gz"),
    "gzip cut short": _pairs("is not a whole gzip file", gzip.compress(b"a\n")[:-4], gzip.compress(b"a\n"), ".gz"),
    "a tar archive": _pairs("has more than 1,000 bytes in line 1", _TAR_GZ, gzip.compress(b"a\n"), ".gz"),
    "a line without an end": _pairs("has more than 1,000 bytes in line 1; expected a sentence", b"a" * 1001),
    "a bomb": _pairs("has more than 1,000 bytes in line 1", gzip.compress(b"a" * 2**21), gzip.compress(b"a\n"), ".gz"),
}


def _text(says: str, content: bytes, ending: str = "", limit: int | None = None) -> Case:
    def read(folder: Path) -> Any:
        with patch.object(sources, "LARGEST", limit or sources.LARGEST):
            return data.load_text("tinyshakespeare", str(folder))

    return Case({f"text/tinyshakespeare.txt{ending}": content}, says, read)


def _books(says: str, train: bytes, table: bytes) -> Case:
    files = {"text/books.train.txt": train, "text/books.valid.txt": b"cd", "text/books.tsv": b"a\tb\tc\td\n" + table}
    return Case(files, says, lambda folder: data.load_text("books", str(folder)))


_TEXTS = {
    "empty": _text("tinyshakespeare.txt has no text; fetch it again", b""),
    "blanks alone": _text("has no text", b" \n\n "),
    "Latin-1": _text("is not UTF-8 in line 3 .*iconv", b"a\n\n\xe4\n"),
    "UTF-16": _text("is not UTF-8 in line 1", "a\n\n".encode("utf-16") * 9),
    "zero bytes": _text("has a zero byte in line 3, which no text has", b"a\n\n\0\n\n" * 9),
    "one speech": _text("has no blank line in its first nine tenths", b"abc" * 99),
    "no gzip": _text(r"tinyshakespeare\.txt\.gz is not a whole gzip file", b"a\n\n" * 9, ".gz"),
    "a tar archive": _text("has a zero byte in line 1", _TAR_GZ, ".gz"),
    "a bomb": _text("holds more than 1 MiB", gzip.compress(b"a" * 2**21), ".gz", 2**20),
    "books longer than told": _books(
        "has 3 characters and .*tells of 1 books of 2", b"abc", b"train\t\t\t2\nvalid\t\t\t2"
    ),
    "no books told": _books("tells of 0 books of 0", b"ab", b""),
    "a length below zero": _books("tells of 0 books", b"ab", b"train\t\t\t-2\nvalid\t\t\t2"),
    "a length of 5,000 digits": _books("tells of 0 books", b"ab", b"train\t\t\t" + b"9" * 5000),
}


# --- tokenizers ---


def _tokenizer(says: str, content: bytes) -> Case:
    corpus = TextData("some", ["abc"], ["d"])
    return Case(
        {"tokenizer.json": content},
        says,
        lambda folder: data.load_tokenizer(corpus, 300, str(folder / "tokenizer.json")),
    )


def _bpe(**model: Any) -> bytes:
    """A tokenizer's file with a model of one character."""
    return json.dumps({"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []} | model}).encode()


_TOKENIZERS = {
    "empty": _tokenizer("tokenizer.json: it is no tokenizer .*EOF", b""),
    "no JSON": _tokenizer("it is no tokenizer .* Give a tokenizer.json", b"hello"),
    "nested": _tokenizer("it is no tokenizer", _NESTED),
    "nothing in it": _tokenizer("it is no tokenizer .*Model missing", b"{}"),
    "a pickle": _tokenizer("it is no tokenizer", _PICKLE),
    "bytes": _tokenizer("is not UTF-8 .* Give a tokenizer.json", bytes(range(256))),
    "merges of nothing": _tokenizer("it is no tokenizer .*out of vocabulary", _bpe(merges=["x y"])),
    "of an unknown kind": _tokenizer("it is no tokenizer", _bpe(type="os.system")),
    "no end of a document": _tokenizer("has no token that ends a document; expected one of", _bpe()),
}


# --- checkpoints ---


def _checkpoint(says: str, content: bytes) -> Case:
    return Case({"run.safetensors": content}, says, lambda folder: checkpoint.load(folder / "run.safetensors"))


def _forged(state: Any = None, *, entry: bytes | None = None, **tensors: tuple[str, list[int], int]) -> bytes:
    """A checkpoint as somebody puts it together who knows how, with the right checksum.

    Args:
        state: as :mod:`chts_core.lab.train.checkpoint` packs it.
        entry: all of it, in place of one with that state.
        tensors: their type and shape, and where the bytes of each end.
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
_WHOLE = _forged({"dict": [["weight", {"tensor": "t"}]]}, t=_FOUR)
_CHECKPOINTS = {
    "empty": _checkpoint("run.safetensors is no safetensors file, or its beginning is damaged", b""),
    "cut short": _checkpoint("is damaged: it was cut off or changed", _WHOLE[:-1]),
    "cut in its header": _checkpoint("its beginning is damaged", _WHOLE[:40]),
    "longer": _checkpoint("is damaged: it was cut off or changed", _WHOLE + b"x"),
    "a byte changed": _checkpoint("is damaged: it was cut off or changed", _WHOLE[:-1] + b"x"),
    "a name changed": _checkpoint("is damaged", _WHOLE.replace(b"weight", b"height")),
    "of a newer chts": _checkpoint(
        "has format 2, but this chts reads up to 1; .* update chts",
        _forged(entry=b'{"format":2,"sha256":"SHA","state":1}'),
    ),
    "of another program": _checkpoint(
        "holds no state of a run; give a file that a run saved", struct.pack("<Q", 2) + b"{}"
    ),
    "a pickle": _checkpoint("is no safetensors file", _PICKLE),
    "a zip archive": _checkpoint("is no safetensors file", _ZIP),
    "a gzip file": _checkpoint("is no safetensors file", _TAR_GZ),
    "a header without end": _checkpoint("is no safetensors file|holds no state", struct.pack("<Q", 2**63 - 1) + b"{}"),
    "a nested header": _checkpoint("is no safetensors file", struct.pack("<Q", len(_NESTED)) + _NESTED),
    "a nested entry": _checkpoint("holds no state of a run", _forged(entry=_NESTED)),
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
    """A record with the right digest, whatever it holds."""
    return json.dumps(row | {"sha256": records.digest(row)}).encode() + b"\n"


_RECORDS = {
    "no JSON": _record("runs.jsonl, line 1 is no JSON .*restore the file, or delete the line", b"hello\n"),
    "cut short": _record("line 2 is no JSON|line 1 is no JSON", _line(schema=1)[:-9]),
    "an empty line": _record("line 1 is no JSON", b"\n"),
    "zero bytes": _record("line 1 is no JSON", bytes(64)),
    "not UTF-8": _record("line 1 is no JSON", b'"\xff"\n'),
    "nested": _record("line 1 is no JSON .*recursion", _NESTED),
    "a number of 5,000 digits": _record("line 1 is no JSON", b'{"schema": ' + b"9" * 5000 + b"}"),
    "without a digest": _record("line 1 does not fit its sha256: it was changed", b'{"schema": 1}\n'),
    "a value changed": _record("does not fit its sha256", _line(schema=1, seed=1).replace(b'"seed": 1', b'"seed": 2')),
    "of another schema": _record("line 1 has schema 2; expected 1", _line(schema=2)),
    "a list": _record("has schema None; expected 1", b"[1]\n"),
    "no run": _record("line 1 is no record of a run: .*is a required property", _line(schema=1)),
}


# --- sweeps ---


def _sweep(says: str, content: bytes) -> Case:
    return Case({"sweep.yaml": content}, says, lambda folder: sweeps.cells(folder / "sweep.yaml"))


_LAUGHS = b"a: &a [x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 107)
)
_SWEEPS = {
    "empty": _sweep("the sweep is None; expected a mapping", b""),
    "a list": _sweep(r"the sweep is \[1\]; expected a mapping", b"[1]"),
    "an object": _sweep("could not determine a constructor", b"!!python/object/apply:os.system [touch outside]"),
    "an object in a grid": _sweep(
        "could not determine a constructor", b"train: mlp\ngrid: {seed: [!!python/name:os.system '']}"
    ),
    "references to references": _sweep("no YAML: it refers to 'a' by .*write the values out", _LAUGHS),
    "a reference to itself": _sweep("no YAML: it refers to 'a'", b"train: mlp\ngrid: &a\n  seed: *a\n"),
    "nested": _sweep("the sweep is no YAML: .*recursion", _NESTED[:5000]),
    "a tab": _sweep("the sweep is no YAML: .*\n?.*cannot start any token", b"a:\n\t- b"),
    "a zero byte": _sweep("the sweep is no YAML: unacceptable character", b"train: mlp\0"),
    "not UTF-8": _sweep("the sweep is no YAML", b"train: \xe4"),
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
    """A notebook whose cells declare parameters."""
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


_NOTEBOOKS = {
    "empty": _notebook("mine.ipynb cannot be read as a notebook .*; give one that Jupyter wrote", b""),
    "no JSON": _notebook("cannot be read as a notebook", b"import os"),
    "a list": _notebook("cannot be read as a notebook", b"[]"),
    "no cells": _notebook("cannot be read as a notebook", b"{}"),
    "nested": _notebook("cannot be read as a notebook", _NESTED),
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


_ROSTERS = {
    "empty": _roster("roster.csv has no column id", b""),
    "no id": _roster("has no column id", b"name\nAda\n"),
    "UTF-16": _roster("is no CSV in UTF-8", "id\na\n".encode("utf-16")),
    "a quote without an end": _roster("is no CSV in UTF-8: unexpected end", b'id\n"a\n'),
    "a field without an end": _roster("is no CSV in UTF-8: field larger", b"id\n" + b"a" * 200_000),
    "a way out of the folder": _roster(r"line 2: the id is '\.\./\.\./x'; expected up to 64 letters", b"id\n../../x\n"),
    "the folder above": _roster(r"line 2: the id is '\.\.'", b"id\n..\n"),
    "a path from the root": _roster("line 2: the id is '/etc'", b"id\n/etc\n"),
    "an option": _roster("line 2: the id is '-rf'", b"id\n-rf\n"),
    "a formula": _roster("line 2: the id is '=1", b"id\n=1+1\n"),
    "a tag of HTML": _roster("line 2: the id is '<script>'", b"id\n<script>\n"),
    "a zero byte": _roster("line 2: the id is ", b"id\na\0b\n"),
    "an id of two lines": _roster(r"line 2: the id is 'a\\nb'", b'id\n"a\nb"\n'),
    "an id too long": _roster("expected up to 64 letters", b"id\n" + b"a" * 65),
    "an id twice": _roster("line 3: the id A is that of line 2 already", b"id\na\nA\n"),
}

# By the kind of file, then by what is wrong with it.
CASES: Mapping[str, Mapping[str, Case]] = {
    "images": _IMAGES,
    "sentence pairs": _PAIRS,
    "texts": _TEXTS,
    "tokenizers": _TOKENIZERS,
    "checkpoints": _CHECKPOINTS,
    "records": _RECORDS,
    "sweeps": _SWEEPS,
    "notebooks": _NOTEBOOKS,
    "rosters": _ROSTERS,
}
