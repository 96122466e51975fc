"""Translation tasks, from English to German: pairs of sentences, split into train, validation and test.

The package itself generates the number words, so they are always available. Large tasks are streamed: each pass reads
the training pairs again, and memory never holds all of them.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from chts_core.lab.data.number_words import Pair, number_words
from chts_core.lab.data.sources import (
    GZIP_ERRORS,
    DataNotFoundError,
    Hub,
    Source,
    compare,
    digest_of,
    fetch,
    locate,
    open_unpacked,
)

_LANGUAGES = ("en", "de")
_SCRIPT_REVISION = "refs/convert/parquet"
_LONGEST_LINE = 2**20  # bytes; the longest sentences have a few thousand bytes
# The digest and the vocabulary use this many training pairs; a whole stream would take too long.
_FIRST = 1_000_000


@dataclass
class PairStream:
    """A stream of pairs. Each pass reads them again from the source, so that memory never holds them all.

    open: starts a pass over the rows of the source.
    skipped: how many pairs the last complete pass left out because a side had no text.
    """

    open: Callable[[], Iterable[Pair]]
    skipped: int = 0

    def __iter__(self) -> Iterator[Pair]:
        skipped = 0
        for pair in self.open():
            if all(pair):
                yield pair
            else:
                skipped += 1
        self.skipped = skipped


@dataclass(frozen=True)
class TranslationData:
    """A translation task. Choose settings on `validation`; use `test` only for the final result.

    languages: the languages of the source and the target.
    train: the pairs, as a list or as a stream that starts from the beginning in each pass.
    skipped: how many rows of the hub were left out because a side had no text; a stream has its own `skipped`.
    """

    name: str
    languages: tuple[str, str]
    train: Iterable[Pair]
    validation: list[Pair]
    test: list[Pair]
    skipped: int = 0

    def first_training_pairs(self) -> Iterator[Pair]:
        """The training pairs that the digest and the vocabulary use: all of them, or the first million of a stream."""
        return islice(self.train, _FIRST)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of `first_training_pairs` and of all pairs of the other splits."""
        splits = (self.first_training_pairs(), self.validation, self.test)
        return digest_of(chain.from_iterable(pairs) for pairs in splits)


def load_translation(name: str, data_dir: str | None = None) -> TranslationData:
    """Load a translation task by name.

    Args:
        name: a key of `TRANSLATION_SETS`.
        data_dir: a folder to look in before `$CHTS_DATA` and the system's folders; None or "" for no such folder.

    Raises:
        ValueError: for an unknown name, or for wrong or damaged files; the message names the file and the line.
        DataNotFoundError: if the data is missing; the message says what was tried and how to get it.
    """
    if name not in TRANSLATION_SETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(map(repr, TRANSLATION_SETS))}.")
    return TRANSLATION_SETS[name].load(data_dir or None)


def read_pairs(source: Path, target: Path) -> Iterator[Pair]:
    """Read two files, plain or .gz, whose lines are translations of each other; blanks around a line are removed.

    Raises:
        ValueError: if one file has more lines than the other, or if a line is empty, is not UTF-8 or has a zero byte;
            the message names the line.
    """
    number = 0
    # Close both files, even if one of them is refused while the other one is open.
    with closing(_read_lines(source)) as one, closing(_read_lines(target)) as other:
        for number, (english, german) in enumerate(zip_longest(one, other), start=1):
            if english is None or german is None:
                counts = [
                    number - 1 if line is None else number + sum(1 for _ in rest)
                    for line, rest in ((english, one), (german, other))
                ]
                raise ValueError(
                    f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}; expected equally many, "
                    "because line n of one file translates line n of the other file. One file was cut short, or the "
                    "two files are from different versions: fetch both again."
                )
            for path, line in ((source, english), (target, german)):
                if not line:
                    raise ValueError(
                        f"{path} has no text in line {number:,}; expected a sentence in every line. Delete this line "
                        f"from {source.name} and {target.name}, or fetch both files again."
                    )
            yield english, german
    if not number:
        raise ValueError(f"{source} and {target} have no lines; expected a sentence in each line. Fetch both again.")


def _read_lines(path: Path) -> Generator[str, None, None]:
    """The lines of a file, each without the blanks at its beginning and end.

    Only a line feed ends a line. Sentences may contain the other characters at which `str.splitlines` would cut.
    """
    try:
        with open_unpacked(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
                if len(line) > _LONGEST_LINE:
                    raise ValueError(
                        f"{path} has more than {_LONGEST_LINE:,} bytes in line {number:,}; expected a sentence. Its "
                        "content does not match its name: fetch it again."
                    )
                try:  # a file may begin with a UTF-8 byte order mark
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path} is not UTF-8 in line {number:,}, at byte {error.start + 1} of the line "
                        f"({error.reason}); convert it (from Latin-1: `iconv -f LATIN1 -t UTF-8`), or fetch it again."
                    ) from error
                if "\0" in text:
                    raise ValueError(
                        f"{path} has a zero byte in line {number:,}, but a sentence must not contain zero bytes. The "
                        "file is damaged: fetch it again."
                    )
                yield text.strip()
    except GZIP_ERRORS as error:
        raise ValueError(f"{path} is not an intact gzip file ({error}); fetch it again.") from error


def _load_number_words(data_dir: str | None) -> TranslationData:  # noqa: ARG001 - every loader takes it
    train, validation, test = (list(pairs) for pairs in number_words().values())
    return TranslationData("number_words", _LANGUAGES, train, validation, test)


def _load(name: str, streamed: bool, data_dir: str | None) -> TranslationData:
    source = TRANSLATION_SETS[name]
    folder = locate(source, data_dir)
    if folder is None:
        return _load_from_hub(name, streamed, data_dir)
    paths = [path for file in source.files if (path := source.find_file(folder, file))]
    train, validation, test = (partial(read_pairs, *paths[first : first + 2]) for first in (0, 2, 4))
    return TranslationData(
        name, _LANGUAGES, PairStream(train) if streamed else list(train()), list(validation()), list(test())
    )


def _load_from_hub(name: str, streamed: bool, data_dir: str | None) -> TranslationData:
    source = TRANSLATION_SETS[name]

    def read(hub: Hub) -> tuple[Hub, dict[str, list[Any]]]:
        if streamed:
            return hub, {split: list(hub.open(split=split, streaming=True)) for split in ("validation", "test")}
        splits = hub.open()
        return hub, {split: list(splits[split]) for split in ("train", "validation", "test")}

    hub, rows = fetch(source, data_dir, read, "number_words")
    passes = {split: PairStream(partial(_to_pairs, hub, split, rows[split])) for split in rows}
    held = {split: list(pairs) for split, pairs in passes.items()}
    train = PairStream(lambda: _to_pairs(hub, "train", _stream_rows(source, hub))) if streamed else held["train"]
    skipped = sum(pairs.skipped for pairs in passes.values())
    found = TranslationData(name, _LANGUAGES, train, held["validation"], held["test"], skipped)
    if not streamed:
        compare(source, hub, found.digest)
    return found


def _stream_rows(source: Source[TranslationData], hub: Hub) -> Iterator[Any]:
    count = 0
    try:
        for row in hub.open(split="train", streaming=True):
            yield row
            count += 1
    except Exception as error:  # the message must show any error of the connection or the hub
        raise DataNotFoundError(
            f"the stream of {source.title} broke off after {count:,} training pairs from {hub}: "
            f"{type(error).__name__}: {error}\n"
            f"Nothing that was trained or stored is lost. Try again, or get the data in another "
            f"way: {source.remedy}"
        ) from error


def _to_pairs(hub: Hub, split: str, rows: Iterable[Any]) -> Iterator[Pair]:
    """Turn rows of the hub into pairs of texts, with "" for a side that has no text."""
    for number, row in enumerate(rows, start=1):
        try:
            sides = row[hub.column] if hub.column else row
            english, german = ((sides[language] or "").strip() for language in _LANGUAGES)
        except (AttributeError, KeyError, TypeError) as error:
            column = f" in its column {hub.column!r}" if hub.column else ""
            raise ValueError(
                f"{hub} has {row!r:.200} in row {number:,} of {split}; expected a text for 'en' and a text for "
                f"'de'{column}. The data set has changed on the hub: put its files into $CHTS_DATA."
            ) from error
        yield english, german


def _source(
    name: str,
    title: str,
    size: str,
    hub: Hub,
    *,
    splits: tuple[str, ...] = ("train", "val", "test"),
    streamed: bool = False,
    sha256: str = "",
) -> Source[TranslationData]:
    files = tuple(f"{split}.{language}" for split in splits for language in _LANGUAGES)
    return Source(
        title,
        size,
        partial(_load, name, streamed),
        folder=name,
        files=files,
        endings=("", ".gz"),
        hub=hub,
        sha256=sha256,
        remedy=(
            f"run `pip install datasets`, so that chts can fetch it from the Hugging Face hub; or put "
            f"{', '.join(files)}, plain or as .gz, into $CHTS_DATA/{name}."
        ),
    )


TRANSLATION_SETS: dict[str, Source[TranslationData]] = {
    "number_words": Source(
        "English → German number words and dates",
        "11,000 pairs",
        _load_number_words,
        remedy="made here by num2words",
    ),
    "multi30k": _source(
        "multi30k",
        "Multi30k",
        "31,014 pairs of captions, 1.3 MB",
        Hub("bentrevett/multi30k", column=""),
        splits=("train", "val", "test_2016_flickr"),
        sha256="dc7654c04887f75787e0239b768c7a301aa9dfa5a4cb949d0fd5d63f8be82aac",
    ),
    "iwslt14": _source(
        "iwslt14",
        "IWSLT 2014",
        "about 175,000 pairs from talks, about 20 MB",
        Hub("bbaaaa/iwslt14-de-en", column="translation", revision=_SCRIPT_REVISION),
    ),
    "iwslt17": _source(
        "iwslt17",
        "IWSLT 2017",
        "215,079 pairs from talks, about 20 MB",
        Hub("IWSLT/iwslt2017", column="translation", folder="iwslt2017-en-de", revision=_SCRIPT_REVISION),
    ),
    "wmt14": _source(
        "wmt14",
        "WMT 2014",
        "4.5 million pairs, about 1 GB",
        Hub("wmt/wmt14", column="translation", config="de-en"),
        streamed=True,
    ),
    "wmt17": _source(
        "wmt17",
        "WMT 2017",
        "5.9 million pairs, about 1 GB",
        Hub("wmt/wmt17", column="translation", config="de-en"),
        streamed=True,
    ),
}
