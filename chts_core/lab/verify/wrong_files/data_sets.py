"""Wrong files of data sets: images, sentences, texts and their tokenizers."""

import gzip
import json
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from chts_core.lab import data
from chts_core.lab.data import TextData, sources, translation
from chts_core.lab.verify.wrong_files.case import NESTED, PICKLE, PNG, TAR_GZ, ZIP, Case

# --- images ---


def _idx(*shape: int, kind: int = 8, fill: int = 0) -> bytes:
    """A file in IDX, the format of Fashion-MNIST; all its values are the same byte."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape)
    return gzip.compress(header + bytes([fill]) * math.prod(shape))


def _images(says: str, *, images: bytes | None = None, labels: bytes | None = None, limit: int | None = None) -> Case:
    """A case of Fashion-MNIST with 24 training images and 12 test images; the training images or labels are wrong."""
    parts = (images or _idx(24, 28, 28), labels or _idx(24), _idx(12, 28, 28), _idx(12))
    files = {f"fashion-mnist/{name}": part for name, part in zip(_FASHION, parts, strict=True)}
    return Case(files, says, partial(_read_images, "fashion_mnist", limit or sources.LARGEST))


def _cifar(says: str, test: bytes, limit: int | None = None) -> Case:
    """A case of CIFAR-10 with ten images in each part except the last part, which is wrong."""
    files = {f"cifar-10-batches-bin/{name}": bytes(3073) * 10 for name in data.IMAGE_SETS["cifar10"].files}
    files["cifar-10-batches-bin/test_batch.bin"] = test
    return Case(files, says, partial(_read_images, "cifar10", limit or sources.LARGEST))


def _read_images(name: str, limit: int, folder: Path) -> Any:
    with patch.object(sources, "LARGEST", limit):
        return data.load_images(name, str(folder))


_FASHION = data.IMAGE_SETS["fashion_mnist"].files
IMAGES = {
    "no gzip": _images(r"train-images-idx3-ubyte\.gz is not an intact gzip file .*; fetch it again", images=PNG),
    "a pickle": _images("is not an intact gzip file", images=PICKLE),
    "a zip archive": _images("is not an intact gzip file", images=ZIP),
    "gzip cut short": _images("is not an intact gzip file", images=_idx(24, 28, 28)[:-9]),
    "wrong checksum": _images("is not an intact gzip file .*CRC", images=_idx(24, 28, 28)[:-8] + bytes(8)),
    "gzip of nothing": _images(r"starts with b''; expected an IDX file of unsigned bytes", images=gzip.compress(b"")),
    "a tar archive": _images(r"starts with b'\.\./\.'; expected an IDX file", images=TAR_GZ),
    "floats": _images("expected an IDX file of unsigned bytes", images=_idx(24, 28, 28, kind=13)),
    "header cut short": _images(
        "declares 3 dimensions but ends before their sizes", images=gzip.compress(b"\0\0\x08\x03\0\0")
    ),
    "255 dimensions": _images(
        "declares 255 dimensions; expected 1 for labels or 3", images=gzip.compress(b"\0\0\x08\xff" + bytes(1020))
    ),
    "no dimension": _images("declares 0 dimensions", images=gzip.compress(b"\0\0\x08\0\0")),
    "sizes of 4 billion": _images(
        r"declares \(4294967295, .* but holds 0 bytes", images=gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12)
    ),
    "two dimensions": _images(r"has images of shape \(24, 784\) .*; expected \(n, 28, 28\)", images=_idx(24, 784)),
    "images of another size": _images(r"shape \(24, 8, 8\)", images=_idx(24, 8, 8)),
    "fewer labels than images": _images(r"labels of \(23,\).* do not belong together", labels=_idx(23)),
    "a label too high": _images("has the label 10; expected labels from 0 to 9", labels=_idx(24, fill=10)),
    "no images": _images("has no images", images=_idx(0, 28, 28), labels=_idx(0)),
    "a bomb": _images("holds more than 1 MiB; no data set of chts", images=_idx(2**21), limit=2**20),
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


PAIRS = {
    "fewer lines": _pairs("train.en has 1 lines and .*train.de has 2; expected equally many", b"a\n", b"a\nb\n"),
    "more lines": _pairs("train.en has 3 lines and .*train.de has 1;", b"a\nb\nc\n"),
    "one is empty": _pairs("train.en has 0 lines and .*train.de has 1", b""),
    "both are empty": _pairs("have no lines; expected a sentence in each", b"", b""),
    "a line without text": _pairs(r"train.en has no text in line 2; .* Delete this line", b"a\n \n", b"a\nb\n"),
    "Latin-1": _pairs("train.en is not UTF-8 in line 2, at byte 1 .*iconv -f LATIN1", b"a\n\xe4\n", b"a\nb\n"),
    "UTF-16": _pairs("is not UTF-8 in line 1", "a\n".encode("utf-16")),
    "half a surrogate": _pairs("is not UTF-8 in line 1, at byte 1", b"\xed\xa0\x80\n"),
    "an overlong slash": _pairs("is not UTF-8 in line 1, at byte 3", b"..\xc0\xaf\n"),
    "a character cut short": _pairs("is not UTF-8 in line 1, at byte 2", b"a\xe2\x82"),
    "a pickle": _pairs("has 5 lines and", PICKLE.replace(b"(", b"\n(", 1), b"a\n"),
    "zero bytes": _pairs("train.en has a zero byte in line 1, .* damaged", bytes(100) + b"\n"),
    "no gzip": _pairs(r"train.en.gz is not an intact gzip file", b"a\n", gzip.compress(b"a\n"), ".gz"),
    "gzip cut short": _pairs("is not an intact gzip file", gzip.compress(b"a\n")[:-4], gzip.compress(b"a\n"), ".gz"),
    "a tar archive": _pairs("has more than 1,000 bytes in line 1", TAR_GZ, gzip.compress(b"a\n"), ".gz"),
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


TEXTS = {
    "empty": _text("tinyshakespeare.txt has no text; fetch it again", b""),
    "blanks alone": _text("has no text", b" \n\n "),
    "Latin-1": _text("is not UTF-8 in line 3 .*iconv", b"a\n\n\xe4\n"),
    "UTF-16": _text("is not UTF-8 in line 1", "a\n\n".encode("utf-16") * 9),
    "zero bytes": _text("has a zero byte in line 3, but a text contains no zero byte", b"a\n\n\0\n\n" * 9),
    "one speech": _text("has no blank line in its first nine tenths", b"abc" * 99),
    "no gzip": _text(r"tinyshakespeare\.txt\.gz is not an intact gzip file", b"a\n\n" * 9, ".gz"),
    "a tar archive": _text("has a zero byte in line 1", TAR_GZ, ".gz"),
    "a bomb": _text("holds more than 1 MiB", gzip.compress(b"a" * 2**21), ".gz", 2**20),
    "books longer than told": _books(
        "has 3 characters and .*lists 1 books of 2", b"abc", b"train\t\t\t2\nvalid\t\t\t2"
    ),
    "no books told": _books("lists 0 books of 0", b"ab", b""),
    "a length below zero": _books("lists 0 books", b"ab", b"train\t\t\t-2\nvalid\t\t\t2"),
    "a length of 5,000 digits": _books("lists 0 books", b"ab", b"train\t\t\t" + b"9" * 5000),
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
    """The content of a tokenizer file whose model knows only one character."""
    return json.dumps({"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []} | model}).encode()


TOKENIZERS = {
    "empty": _tokenizer("tokenizer.json: it is not a tokenizer .*EOF", b""),
    "no JSON": _tokenizer("it is not a tokenizer .* Give a tokenizer.json", b"hello"),
    "nested": _tokenizer("it is not a tokenizer", NESTED),
    "nothing in it": _tokenizer("it is not a tokenizer .*Model missing", b"{}"),
    "a pickle": _tokenizer("it is not a tokenizer", PICKLE),
    "bytes": _tokenizer("is not UTF-8 .* Give a tokenizer.json", bytes(range(256))),
    "merges of nothing": _tokenizer("it is not a tokenizer .*out of vocabulary", _bpe(merges=["x y"])),
    "of an unknown kind": _tokenizer("it is not a tokenizer", _bpe(type="os.system")),
    "no end of a document": _tokenizer("has no token that ends a document; expected one of", _bpe()),
}
