"""Corpora: which documents there are, how they are split, and what is said where something is wrong."""

import gzip
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import pytest

from chts_core.lab import data
from chts_core.lab.data import DataNotFoundError, TextData, TextStream, text

PLAY = "First:\nSpeak.\n\nSecond:\nI do.\n\n" * 20
BOOKS = {"train": ["One book.\n\nIt ends.", "Another, with ä."], "valid": ["The third."]}


@pytest.fixture(autouse=True)
def _nothing_but_what_a_test_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHTS_DATA", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


def write_books(folder: Path, ending: str = "") -> Path:
    """Two books to train with and one to validate with; returns the folder."""
    folder = folder / "text"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["split\tauthor\ttitle\tcharacters"]
    for split, books in BOOKS.items():
        content = "\n\n\n".join(books).encode()
        (folder / f"books.{split}.txt{ending}").write_bytes(gzip.compress(content) if ending else content)
        rows += [f"{split}\tNobody\tNothing\t{len(book)}" for book in books]
    (folder / "books.tsv").write_text("\n".join(rows) + "\n")
    return folder


# --- the language reference ---


def test_the_language_reference_is_always_there() -> None:
    corpus = data.load_text("python_reference")
    everything = [*corpus.train, *corpus.validation]
    assert set(everything) == {found.strip() + "\n" for found in topics.values()}
    assert len(everything) == len(set(everything))  # none in both
    assert 0.03 < sum(map(len, corpus.validation)) / sum(map(len, everything)) < 0.25
    assert data.load_text("python_reference") == corpus


def test_a_new_topic_moves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = data.load_text("python_reference")
    monkeypatch.setitem(topics, "a-new-one", "A text that was not there.")
    after = data.load_text("python_reference")
    assert set(before.train) <= set(after.train)
    assert set(before.validation) <= set(after.validation)
    assert len(after.train) + len(after.validation) == len(before.train) + len(before.validation) + 1


# --- files ---


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_shakespeare_is_cut_between_two_speeches(tmp_path: Path, ending: str) -> None:
    (tmp_path / "text").mkdir()
    path = tmp_path / "text" / f"tinyshakespeare.txt{ending}"
    path.write_bytes(gzip.compress(PLAY.encode()) if ending else PLAY.encode())
    corpus = data.load_text("tinyshakespeare")
    (train,), (validation,) = corpus.train, corpus.validation
    assert f"{train}\n{validation}" == PLAY
    assert len(PLAY) * 0.8 < len(train) <= len(PLAY) * 0.9
    assert train.endswith((".\n",))
    assert validation.startswith(("First:", "Second:"))


def test_shakespeare_without_blank_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("no speech\n" * 10)
    with pytest.raises(ValueError, match=r"no blank line in its first nine tenths.*Fetch it again"):
        data.load_text("tinyshakespeare")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_each_book_is_a_document(tmp_path: Path, ending: str) -> None:
    write_books(tmp_path, ending)
    corpus = data.load_text("books")
    assert (corpus.train, corpus.validation) == (BOOKS["train"], BOOKS["valid"])


def test_data_dir_is_looked_in_first(tmp_path: Path) -> None:
    write_books(tmp_path)
    elsewhere = write_books(tmp_path / "elsewhere")
    (elsewhere / "books.valid.txt").write_text("Other one.")
    assert data.load_text("books", str(tmp_path / "elsewhere")).validation == ["Other one."]


def cut_short(folder: Path) -> None:
    (folder / "books.train.txt").write_text("One book.")


def of_another_version(folder: Path) -> None:
    (folder / "books.tsv").write_text("split\tauthor\ttitle\tcharacters\ntrain\tA\tB\t7\n")


def not_utf8(folder: Path) -> None:
    (folder / "books.train.txt").write_bytes(b"One book.\n\xe4\n")


def empty(folder: Path) -> None:
    (folder / "books.valid.txt").write_text(" \n")


def broken(folder: Path) -> None:
    whole = gzip.compress(b"One book" * 100)
    (folder / "books.train.txt").unlink()
    (folder / "books.train.txt.gz").write_bytes(whole[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            cut_short,
            r"books.train.txt has 9 characters and .*books.tsv lists 2 books of 35 characters in total; expected these",
        ),
        (
            of_another_version,
            r"books.train.txt has 38 characters and .*books.tsv lists 1 books of 7 characters in total; expected",
        ),
        (not_utf8, r"books.train.txt is not UTF-8 in line 2 .*iconv"),
        (empty, r"books.valid.txt has no text; fetch it again"),
        (broken, r"books.train.txt.gz is not an intact gzip file .*fetch it again"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(write_books(tmp_path))
    with pytest.raises(ValueError, match=message):
        data.load_text("books")


@pytest.mark.parametrize("name", ["tinyshakespeare", "books"])
def test_what_is_not_there_is_told_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        data.load_text(name)
    message = str(caught.value)
    assert f"{tmp_path / 'text'}" in message
    assert "$CHTS_DATA/text" in message
    assert "dataset='python_reference', which needs no download" in message


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"dataset is 'wikipedia'; expected one of 'python_reference', .*'c4'"):
        data.load_text("wikipedia")


def test_the_digest_tells_corpora_apart() -> None:
    corpora = [
        TextData("some", ["a", "bc"], ["d"]),
        TextData("some", ["ab", "c"], ["d"]),
        TextData("some", ["a", "bc", "d"], []),
        TextData("some", ["a"], ["bc", "d"]),
    ]
    assert len({corpus.digest for corpus in corpora}) == 4
    assert TextData("other", ["a", "bc"], ["d"]).digest == corpora[0].digest


def test_of_a_stream_the_first_documents_make_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST", 2)
    streams = [in_memory(rows) for rows in (["a", "b"], ["a", "b", "c"], ["a", "c"])]
    first, second, third = (TextData("some", stream, []).digest for stream in streams)
    assert (first == second, first == third) == (True, False)


# --- the hub ---


def in_memory(texts: list[str], shards: int = 1) -> TextStream:
    def open_rows() -> datasets.IterableDataset:
        return datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=shards)

    return TextStream("Some texts", "take others.", open_rows)


class Hub:
    """Stands in for `datasets.load_dataset`: document n of a split is its name and n."""

    def __init__(self, documents: int = 2100) -> None:
        self.documents = documents
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, *args: object, split: str, **options: object) -> datasets.IterableDataset:
        self.asked.append((args, split, options))
        rows = {"text": [f"{split} {number}" for number in range(self.documents)]}
        return datasets.Dataset.from_dict(rows).to_iterable_dataset()


def test_c4_is_streamed_and_has_a_split_to_validate_with(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub)
    corpus = data.load_text("c4")
    assert corpus.validation == [f"validation {number}" for number in range(2000)]
    assert list(corpus.train) == [f"train {number}" for number in range(2100)]
    assert list(corpus.train)[:1] == ["train 0"]  # a pass begins anew
    options = {"name": "en", "streaming": True}
    assert hub.asked == [(("allenai/c4",), split, options) for split in ("validation", "train", "train")]


def test_the_first_documents_of_openwebtext_are_kept_for_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub)
    corpus = data.load_text("openwebtext")
    assert corpus.validation == [f"train {number}" for number in range(2000)]
    assert list(corpus.train) == [f"train {number}" for number in range(2000, 2100)]
    options = {"revision": "refs/convert/parquet", "streaming": True}
    assert hub.asked == [(("Skylion007/openwebtext",), "train", options)] * 2


@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (1, 4), (6, 3), (6, 4), (3, 6)])
def test_lanes_have_each_document_once(shards: int, lanes: int) -> None:
    texts = [str(number) for number in range(12)]
    stream = in_memory(texts, shards)
    read = [[row["text"] for row in stream.lane(number, lanes)] for number in range(lanes)]
    assert sorted(itertools.chain(*read), key=int) == texts
    assert {len(lane) for lane in read} <= {12 // lanes, 12 // lanes + 1}


def test_a_stream_that_breaks_off_says_so() -> None:
    class Breaking(list[Any]):
        def __iter__(self) -> Any:
            yield {"text": "one"}
            raise ConnectionError("no more")

    stream = TextStream("Some texts", "take others.", Breaking)
    with pytest.raises(DataNotFoundError, match=r"Some texts broke off after 1 documents: ConnectionError: no more\n"):
        list(stream)


@pytest.mark.parametrize("row", [{"content": "a"}, {"text": None}, "a"])
def test_a_row_without_a_text_is_refused(row: object) -> None:
    stream = TextStream("Some texts", "take others.", lambda: [{"text": "one"}, row])
    with pytest.raises(ValueError, match=r"Some texts has .* as document 2; expected a text in the column 'text'"):
        list(stream)


def test_without_the_datasets_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataNotFoundError, match="the datasets package is not installed"):
        data.load_text("c4")
