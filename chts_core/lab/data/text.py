"""Corpora for language models: documents, split into a training and a validation part.

Python's own language reference is always available. A corpus that is too large for memory is streamed from the Hugging
Face hub in parallel lanes.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from chts_core.lab.data.sources import DataNotFoundError, Hub, Source, digest_of, fetch, locate, read_whole

_LENGTH = re.compile(r"[0-9]{1,12}")
_DEFAULT = "python_reference"
# The digest and the tokenizer use this many documents of a stream; a whole stream would take too long.
_FIRST = 100_000
_HELD_OUT = 2000  # validation documents, for a stream that has no validation split
_BETWEEN_BOOKS = "\n\n\n"


@dataclass(frozen=True)
class TextStream:
    """A stream of documents. Each pass reads them again from the source, so that memory never holds them all.

    open: returns a `datasets.IterableDataset`, or another object with shards, a column "text" and a state.
    """

    title: str
    remedy: str
    open: Callable[[], Any]

    def __iter__(self) -> Iterator[str]:
        yield from self.read(self.open())

    def lane(self, number: int, lanes: int) -> Any:
        """Return one of several lanes of documents as an `IterableDataset`; each document is in exactly one lane."""
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(self.open(), rank=number, world_size=lanes)

    def read(self, rows: Iterable[Any]) -> Iterator[str]:
        """Yield the text of each row.

        Raises:
            ValueError: for a row without a text.
            DataNotFoundError: if the connection to the source breaks; the message says what to do.
        """
        iterator = iter(rows)
        for number in range(1, 2**63):
            try:
                row = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # the message must show any error of the connection or the hub
                raise DataNotFoundError(
                    f"the stream of {self.title} broke off after {number - 1:,} documents: {type(error).__name__}: "
                    f"{error}\n"
                    f"Nothing that was trained or stored is lost. Try again, or work without an internet "
                    f"connection: {self.remedy}"
                ) from error
            text = row.get("text") if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise ValueError(
                    f"{self.title} has {row!r:.200} as document {number:,}; expected a text in the column 'text'. The "
                    "data set has changed on the hub: use another data set."
                )
            yield text


@dataclass(frozen=True)
class TextData:
    """A corpus. Choose settings on `validation`.

    train: the documents, as a list or as a stream that starts from the beginning in each pass.
    """

    name: str
    train: list[str] | TextStream
    validation: list[str]

    def first_training_documents(self) -> Iterator[str]:
        """The training documents for the digest and the tokenizer: all of them, or the first 100,000 of a stream."""
        return islice(self.train, _FIRST)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of `first_training_documents` and of all validation documents."""
        return digest_of([self.first_training_documents(), self.validation])


def load_text(name: str, data_dir: str | None = None) -> TextData:
    """Load a corpus by name.

    Args:
        name: a key of `TEXT_SETS`.
        data_dir: a folder to look in before `$CHTS_DATA` and the system's folders; None or "" for no such folder.

    Raises:
        ValueError: for an unknown name, or for wrong or damaged files.
        DataNotFoundError: if the data is missing; the message says what was tried and how to get it.
    """
    if name not in TEXT_SETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(map(repr, TEXT_SETS))}.")
    return TEXT_SETS[name].load(data_dir or None)


def _load_python_reference(data_dir: str | None) -> TextData:  # noqa: ARG001 - every loader takes it
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    documents = list(dict.fromkeys(text.strip() + "\n" for text in texts))  # some topics have the same text
    # Split by content, so that a new topic of a later Python does not move another topic to the other split.
    held_out = {text for text in documents if hashlib.sha256(text.encode()).digest()[0] % 10 == 0}
    return TextData(
        "python_reference",
        [text for text in documents if text not in held_out],
        [text for text in documents if text in held_out],
    )


def _load_tiny_shakespeare(data_dir: str | None) -> TextData:
    text = _read_text(_paths("tinyshakespeare", data_dir)[0])
    # Cut between two speeches: about the first nine tenths of the plays are for training.
    cut = text.rfind("\n\n", 0, len(text) * 9 // 10)
    if cut <= 0:
        raise ValueError(
            "tinyshakespeare.txt has no blank line in its first nine tenths; expected speeches with blank lines "
            "between them. Fetch it again."
        )
    return TextData("tinyshakespeare", [text[: cut + 1]], [text[cut + 2 :]])


def _load_books(data_dir: str | None) -> TextData:
    train, validation, table = _paths("books", data_dir)
    rows = [line.split("\t") for line in _read_text(table).splitlines()[1:]]
    splits = {}
    for split, path in (("train", train), ("valid", validation)):
        lengths = [int(row[3]) for row in rows if len(row) == 4 and row[0] == split and _LENGTH.fullmatch(row[3])]
        splits[split] = _cut(_read_text(path), lengths, path, table)
    return TextData("books", splits["train"], splits["valid"])


def _cut(text: str, lengths: list[int], path: Path, table: Path) -> list[str]:
    """Cut a text into its books, given the number of characters of each book."""
    books, start = [], 0
    for length in lengths:
        books.append(text[start : start + length])
        start += length + len(_BETWEEN_BOOKS)
    if not books or _BETWEEN_BOOKS.join(books) != text:
        raise ValueError(
            f"{path} has {len(text):,} characters and {table} lists {len(lengths)} books of {sum(lengths):,} "
            "characters in total; expected these books, with two empty lines between them. One file was cut short, or "
            "the two files are from different versions: fetch both again."
        )
    return books


def _paths(name: str, data_dir: str | None) -> list[Path]:
    source = TEXT_SETS[name]
    folder = locate(source, data_dir)
    if folder is None:
        fetch(source, data_dir, _no_hub, _DEFAULT)  # raises an error that says what was tried
        raise AssertionError
    return [path for file in source.files if (path := source.find_file(folder, file))]


def _no_hub(hub: Hub) -> TextData:
    raise NotImplementedError


def _read_text(path: Path) -> str:
    """The whole text of a file, plain or gzipped.

    Raises:
        ValueError: if the file is empty, is not UTF-8, contains a zero byte or is not an intact gzip file; the message
            names the file.
    """
    content = read_whole(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not UTF-8 in line {line:,} ({error.reason}); convert it (from Latin-1: `iconv -f LATIN1 -t "
            "UTF-8`), or fetch it again."
        ) from error
    if not text.strip():
        raise ValueError(f"{path} has no text; fetch it again.")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path} has a zero byte in line {line:,}, but a text contains no zero byte. The file is damaged: fetch it "
            "again."
        )
    return text


def _load_stream(name: str, data_dir: str | None) -> TextData:
    source = TEXT_SETS[name]
    has_validation = name == "c4"

    def read(hub: Hub) -> tuple[Hub, list[Any]]:
        rows = hub.open(split="validation" if has_validation else "train", streaming=True)
        return hub, list(islice(rows, _HELD_OUT))

    hub, rows = fetch(source, data_dir, read, _DEFAULT)

    stream = TextStream(
        source.title,
        f"use dataset={_DEFAULT!r}, which needs no download.",
        partial(_open_training, hub, 0 if has_validation else _HELD_OUT),
    )
    return TextData(name, stream, list(stream.read(rows)))


def _open_training(hub: Hub, skipped: int) -> Any:
    return hub.open(split="train", streaming=True).skip(skipped)


def _streamed(name: str, title: str, size: str, hub: Hub) -> Source[TextData]:
    return Source(
        title,
        size,
        partial(_load_stream, name),
        hub=hub,
        remedy="run `pip install datasets`, so that chts can stream it from the Hugging Face hub.",
    )


TEXT_SETS: dict[str, Source[TextData]] = {
    "python_reference": Source(
        "Python's language reference",
        "0.5 million characters",
        _load_python_reference,
        remedy="a part of Python (pydoc_data.topics)",
    ),
    "tinyshakespeare": Source(
        "Tiny Shakespeare",
        "1.1 million characters",
        _load_tiny_shakespeare,
        folder="text",
        files=("tinyshakespeare.txt",),
        endings=("", ".gz"),
        remedy="put tinyshakespeare.txt, plain or as .gz, into $CHTS_DATA/text.",
    ),
    "books": Source(
        "Books in the public domain",
        "34 million characters",
        _load_books,
        folder="text",
        files=("books.train.txt", "books.valid.txt", "books.tsv"),
        endings=("", ".gz"),
        remedy=(
            "put books.train.txt and books.valid.txt, plain or as .gz, into $CHTS_DATA/text, with two empty lines "
            "between books; add books.tsv with the columns split, author, title and characters."
        ),
    ),
    "openwebtext": _streamed(
        "openwebtext",
        "OpenWebText",
        "8 million documents, about 40 GB",
        Hub("Skylion007/openwebtext", column="text", revision="refs/convert/parquet"),
    ),
    "c4": _streamed(
        "c4", "C4, English", "365 million documents, about 800 GB", Hub("allenai/c4", column="text", config="en")
    ),
}
