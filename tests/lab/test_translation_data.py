import gzip
import sys
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from chts_core.lab import data
from chts_core.lab.data import TRANSLATION_SETS, DataNotFoundError, Pair, PairStream, TranslationData

FILED = [name for name, source in TRANSLATION_SETS.items() if source.files]
STREAMED = ["wmt14", "wmt17"]
HELD = [name for name in FILED if name not in STREAMED]
LARGEST_SPLITS = {"train": 7, "validation": 3, "test": 2}


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any data, and with a hub that must not be asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.delenv("CHTS_DATA", raising=False)
    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr(datasets, "load_dataset", refuse)


def some_pairs(split: str) -> list[Pair]:
    return [(f"{split} number {i}", f"{split} Nummer {i} für Jürgen") for i in range(LARGEST_SPLITS[split])]


def write(root: Path, name: str, mark: str = "", ending: str = ".gz") -> Path:
    """Writes all splits of a data set below a root; returns its folder. The mark is put before each sentence."""
    source = TRANSLATION_SETS[name]
    folder = root / str(source.folder)
    folder.mkdir(parents=True)
    for file, split, side in zip(source.files, [s for s in LARGEST_SPLITS for _ in range(2)], [0, 1] * 3, strict=True):
        content = "".join(f"{mark}{pair[side]}\n" for pair in some_pairs(split)).encode()
        (folder / f"{file}{ending}").write_bytes(gzip.compress(content) if ending else content)
    return folder


def splits(loaded: TranslationData) -> dict[str, list[Pair]]:
    return {"train": list(loaded.train), "validation": loaded.validation, "test": loaded.test}


# --- what is always there ---


def test_number_words_are_there_without_files_or_network() -> None:
    loaded = data.load_translation("number_words", "/nowhere")
    assert (loaded.name, loaded.languages, loaded.skipped) == ("number_words", ("en", "de"), 0)
    assert splits(loaded) == {split: list(pairs) for split, pairs in data.number_words.number_words().items()}
    assert data.locate(TRANSLATION_SETS["number_words"]) is None


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'wmt'; expected one of 'number_words', 'multi30k', 'iwslt14', .*'wmt17'\."):
        data.load_translation("wmt")


# --- files ---


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FILED)
def test_files_are_read_as_they_were_written(tmp_path: Path, name: str, ending: str) -> None:
    write(tmp_path, name, ending=ending)
    loaded = data.load_translation(name, str(tmp_path))
    assert splits(loaded) == {split: some_pairs(split) for split in LARGEST_SPLITS}
    assert (loaded.name, loaded.languages, loaded.skipped) == (name, ("en", "de"), 0)
    assert isinstance(loaded.train, PairStream if name in STREAMED else list)


def test_the_files_of_each_set_have_the_names_that_are_published() -> None:
    assert TRANSLATION_SETS["multi30k"].files == (
        *("train.en", "train.de", "val.en", "val.de"),
        *("test_2016_flickr.en", "test_2016_flickr.de"),
    )
    others = {TRANSLATION_SETS[name].files for name in FILED if name != "multi30k"}
    assert others == {("train.en", "train.de", "val.en", "val.de", "test.en", "test.de")}


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("given", "environment", "system"):
        write(tmp_path / place, "multi30k", mark=f"{place}: ")

    def place_of(data_dir: str | None = None) -> str:
        return data.load_translation("multi30k", data_dir).test[0][0].split(":")[0]

    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", (tmp_path / "not here", tmp_path / "system"))
    assert place_of() == "system"
    monkeypatch.setenv("CHTS_DATA", str(tmp_path / "environment"))
    assert place_of() == "environment"
    assert place_of("") == "environment"
    assert place_of(str(tmp_path / "given")) == "given"
    (tmp_path / "given" / "multi30k" / "val.de.gz").unlink()  # an incomplete folder is passed over
    assert place_of(str(tmp_path / "given")) == "environment"


def test_plain_and_compressed_files_may_stand_side_by_side(tmp_path: Path) -> None:
    folder = write(tmp_path, "multi30k")
    path = folder / "train.de.gz"
    (folder / "train.de").write_bytes(gzip.decompress(path.read_bytes()))
    path.write_bytes(b"damaged, but not read where the plain file is")
    assert splits(data.load_translation("multi30k", str(tmp_path)))["train"] == some_pairs("train")


def write_pair(folder: Path, english: bytes, german: bytes) -> tuple[Path, Path]:
    paths = folder / "train.en", folder / "train.de"
    for path, content in zip(paths, (english, german), strict=True):
        path.write_bytes(content)
    return paths


def test_only_line_feeds_end_lines_and_blanks_around_them_do_not_count(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "a\u2028b \x85 c\x0b d\r\n e  f\t\n".encode(), "ä\nö".encode())
    assert list(data.read_pairs(*paths)) == [("a\u2028b \x85 c\x0b d", "ä"), ("e  f", "ö")]


BAD_PAIRS = {
    "target cut short": (b"a\nb\nc\n", b"a\nb\n", "{en} has 3 lines and {de} has 2; expected equally many"),
    "source cut short": (b"a\n", b"a\nb\nc\nd\n", "{en} has 1 lines and {de} has 4; expected equally many"),
    "one file empty": (b"", b"a\nb\n", "{en} has 0 lines and {de} has 2; expected equally many"),
    "an empty line too many": (b"a\nb\n\n", b"a\nb\n", "{en} has 3 lines and {de} has 2; expected equally many"),
    "both files empty": (b"", b"", "{en} and {de} have no lines"),
    "empty source line": (b"a\n\nc\n", b"a\nb\nc\n", "{en} has no text in line 2;"),
    "blank target line": (b"a\nb\nc\n", b"a\nb\n \t\r\n", "{de} has no text in line 3;"),
    "Latin-1": (b"a\nb\n", "ab\nfür\n".encode("latin-1"), "{de} is not UTF-8 in line 2, at byte 2 of the line"),
    "UTF-16": ("a\nb\n".encode("utf-16"), b"a\nb\n", "{en} is not UTF-8 in line 1, at byte 1 of the line"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_files_are_refused_with_file_line_and_remedy(tmp_path: Path, case: str) -> None:
    english, german, message = BAD_PAIRS[case]
    paths = write_pair(tmp_path, english, german)
    with pytest.raises(ValueError, match="etch") as refused:
        list(data.read_pairs(*paths))
    assert message.format(en=paths[0], de=paths[1]) in str(refused.value)


WHOLE = gzip.compress("".join(f"Zeile {i * i}\n" for i in range(999)).encode())
BAD_ARCHIVES = {
    "not gzip": b"<html>404 Not Found</html>",
    "cut short": WHOLE[: len(WHOLE) // 2],
    "damaged in the middle": WHOLE[:40] + b"\xff" * 40 + WHOLE[80:],
    "wrong checksum": WHOLE[:-8] + b"\0" * 8,
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
@pytest.mark.parametrize("name", ["multi30k", "wmt14"])
@pytest.mark.parametrize("file", ["train.de", "val.en"])
def test_damaged_archives_are_refused_by_name(tmp_path: Path, name: str, file: str, case: str) -> None:
    path = write(tmp_path, name) / f"{file}.gz"
    path.write_bytes(BAD_ARCHIVES[case])
    with pytest.raises(ValueError, match="not an intact gzip file") as refused:
        splits(data.load_translation(name, str(tmp_path)))
    assert str(path) in str(refused.value)
    assert "fetch it again" in str(refused.value)


# --- streams ---


def test_a_stream_of_files_begins_anew_and_reads_no_further_than_asked(tmp_path: Path) -> None:
    folder = write(tmp_path, "wmt14", ending="")
    loaded = data.load_translation("wmt14", str(tmp_path))
    first = iter(loaded.train)
    assert next(first) == some_pairs("train")[0]
    assert list(islice(loaded.train, 2)) == some_pairs("train")[:2]
    assert next(first) == some_pairs("train")[1]  # passes are independent
    # Line 5 is damaged after loading: the pass tells it when it comes there.
    (folder / "train.de").write_bytes(b"1\n2\n3\n4\n\xff\n6\n7\n")
    begun = iter(loaded.train)
    assert [target for _, target in islice(begun, 4)] == ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match=r"train\.de is not UTF-8 in line 5"):
        next(begun)


# --- the digest ---


def with_pairs(train: list[Pair], validation: list[Pair], test: list[Pair]) -> TranslationData:
    return TranslationData("some", ("en", "de"), train, validation, test)


def test_the_digest_depends_on_every_pair_and_its_place_and_on_nothing_else(tmp_path: Path) -> None:
    base = with_pairs([("a", "b"), ("c", "d")], [("e", "f")], [("g", "h")])
    others = [
        with_pairs([("c", "d"), ("a", "b")], [("e", "f")], [("g", "h")]),
        with_pairs([("a", "b"), ("c", "x")], [("e", "f")], [("g", "h")]),
        with_pairs([("b", "a"), ("c", "d")], [("e", "f")], [("g", "h")]),
        with_pairs([("a", "b")], [("c", "d"), ("e", "f")], [("g", "h")]),
        with_pairs([("a", "b"), ("c", "d")], [("g", "h")], [("e", "f")]),
        with_pairs([("a", "b"), ("c", "d")], [("e", "f")], []),
        with_pairs([("ab", ""), ("c", "d")], [("e", "f")], [("g", "h")]),
        with_pairs([("a", "bc"), ("", "d")], [("e", "f")], [("g", "h")]),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert len(base.digest) == 64
    assert set(base.digest) <= set("0123456789abcdef")
    # The same from plain files and archives, from a list and a stream.
    write(tmp_path / "plain", "multi30k", ending="")
    write(tmp_path / "packed", "multi30k")
    write(tmp_path / "packed", "wmt14")
    loaded = [
        data.load_translation(name, str(tmp_path / place))
        for name, place in (("multi30k", "plain"), ("multi30k", "packed"), ("wmt14", "packed"))
    ]
    assert {each.digest for each in loaded} == {with_pairs(*map(some_pairs, LARGEST_SPLITS)).digest}


def test_the_digest_takes_the_first_million_pairs_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.translation, "_FIRST", 3)
    drawn = []

    def many() -> Iterator[Pair]:
        for _ in range(100):
            drawn.append(1)
            yield "a", "b"

    stream = TranslationData("many", ("en", "de"), PairStream(many), [("c", "d")], [("e", "f")])
    assert stream.digest == with_pairs([("a", "b")] * 3, [("c", "d")], [("e", "f")]).digest
    assert len(drawn) == 3


# --- the hub ---


class Hub:
    """Stands in for `datasets.load_dataset`; gives what it would give, and remembers what it was asked for."""

    def __init__(self, rows: Callable[[str], list[dict[str, Any]]]) -> None:
        self.rows = rows
        self.asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def __call__(self, *args: str, **options: Any) -> Any:
        self.asked.append((args, dict(options)))
        assert "trust_remote_code" not in options
        splits = {split: datasets.Dataset.from_list(self.rows(split)) for split in LARGEST_SPLITS}
        if options.get("streaming"):
            return splits[options["split"]].to_iterable_dataset()
        return datasets.DatasetDict(splits)


def in_columns(split: str) -> list[dict[str, Any]]:
    return [{"en": source, "de": target} for source, target in some_pairs(split)]


def as_translations(split: str) -> list[dict[str, Any]]:
    return [{"translation": row} for row in in_columns(split)]


def rows_of(name: str) -> Callable[[str], list[dict[str, Any]]]:
    return in_columns if name == "multi30k" else as_translations


PARQUET = "refs/convert/parquet"
ASKED = {
    "multi30k": ("bentrevett/multi30k", {}),
    "iwslt14": ("bbaaaa/iwslt14-de-en", {"revision": PARQUET}),
    "iwslt17": ("IWSLT/iwslt2017", {"data_dir": "iwslt2017-en-de", "revision": PARQUET}),
    "wmt14": ("wmt/wmt14", {"name": "de-en"}),
    "wmt17": ("wmt/wmt17", {"name": "de-en"}),
}


@pytest.mark.filterwarnings("ignore:Multi30k from the hub:RuntimeWarning")  # test_downloads looks at it
@pytest.mark.parametrize("name", FILED)
def test_what_is_nowhere_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hub = Hub(rows_of(name))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    loaded = data.load_translation(name)
    address, options = ASKED[name]
    streaming = [{"split": split, "streaming": True} for split in ("validation", "test", "train", "train")]
    # Of what is streamed, loading reads no training pair, and each pass asks anew.
    assert len(hub.asked) == (2 if name in STREAMED else 1)
    for _ in range(2):
        assert splits(loaded) == {split: some_pairs(split) for split in LARGEST_SPLITS}
    assert hub.asked == [((address,), {**options, **more}) for more in (streaming if name in STREAMED else [{}])]
    assert (loaded.name, loaded.languages, loaded.skipped) == (name, ("en", "de"), 0)


@pytest.mark.filterwarnings("ignore:Multi30k from the hub:RuntimeWarning")
@pytest.mark.parametrize("name", ["multi30k", "iwslt14", "wmt14"])
def test_rows_without_text_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    empty = [{"en": "no German", "de": ""}, {"en": " \n", "de": "ohne Englisch"}, {"en": None, "de": "gar nichts"}]

    def rows(split: str) -> list[dict[str, Any]]:
        whole = in_columns(split)
        mixed = [*whole[:1], *empty[: LARGEST_SPLITS[split] // 2], *whole[1:]]  # 3 in train, 1 in the others
        mixed[0] = {side: f" {text}\n" for side, text in mixed[0].items()}  # blanks around a text do not count
        return mixed if name == "multi30k" else [{"translation": row} for row in mixed]

    monkeypatch.setattr(datasets, "load_dataset", Hub(rows))
    loaded = data.load_translation(name)
    for _ in range(2):
        assert splits(loaded) == {split: some_pairs(split) for split in LARGEST_SPLITS}
    if name in STREAMED:
        assert isinstance(loaded.train, PairStream)
        assert (loaded.skipped, loaded.train.skipped) == (2, 3)
    else:
        assert loaded.skipped == 5


BAD_ROWS = {
    "other columns": {"english": "a", "german": "b"},
    "one language": {"en": "a"},
    "no text": {"en": "a", "de": 7},
    "a text for both": {"translation": "a"},
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("name", ["multi30k", "iwslt14", "wmt17"])
def test_rows_of_another_kind_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, case: str) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(lambda split: [BAD_ROWS[case]] * LARGEST_SPLITS[split]))
    expected = r"in row 1 of (train|validation); expected a text for 'en' and a text for 'de'"
    with pytest.raises(ValueError, match=expected) as refused:
        data.load_translation(name)
    assert ASKED[name][0] in str(refused.value)
    assert "put its files into $CHTS_DATA" in str(refused.value)


def broken(*_: object, **__: object) -> None:
    raise ConnectionError("Name or service not known")


def without_splits(*_: object, **__: object) -> dict[str, object]:
    return {}


MISSING = {
    "no network": (SimpleNamespace(load_dataset=broken), "ConnectionError: Name or service not known"),
    "no package": (None, "the datasets package is not installed"),
    "another layout": (SimpleNamespace(load_dataset=without_splits), "KeyError: 'train'"),
}


# A stream is asked for one split at a time.
@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in MISSING for name in (HELD if case == "another layout" else FILED)]
)
def test_missing_data_names_all_there_is_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, name: str
) -> None:
    source, (module, reason) = TRANSLATION_SETS[name], MISSING[case]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("CHTS_DATA", str(tmp_path / "environment"))
    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", (tmp_path / "system",))
    with pytest.raises(DataNotFoundError) as refused:
        data.load_translation(name, str(tmp_path / "given"))
    message = str(refused.value)
    address, options = ASKED[name]
    tried = [str(tmp_path / place / name) for place in ("given", "environment", "system")]
    told = [source.title, source.size, *tried, address, *options.values(), reason, source.remedy, "'number_words'"]
    assert [what for what in told if what not in message] == []
    positions = [message.find(what) for what in (*tried, address, reason)]
    assert positions == sorted(positions)  # in the order of the search
    assert "pip install datasets" in source.remedy
    assert all(file in source.remedy for file in (*source.files, f"$CHTS_DATA/{name}"))


def test_a_stream_that_breaks_off_tells_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(split: str) -> Iterator[dict[str, Any]]:
        yield from as_translations(split)[:4]
        raise TimeoutError("no answer")

    hub = Hub(as_translations)

    def load_dataset(*args: str, **options: Any) -> Any:
        return breaking("train") if options["split"] == "train" else hub(*args, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = data.load_translation("wmt17")
    begun = iter(loaded.train)
    assert list(islice(begun, 4)) == some_pairs("train")[:4]
    with pytest.raises(
        DataNotFoundError, match=r"WMT 2017 broke off after 4 .*wmt/wmt17.*TimeoutError: no answer"
    ) as told:
        next(begun)
    assert "Nothing that was trained or stored is lost. Try again" in str(told.value)
    # What whoever reads the pairs does wrong is not put down to the network.
    begun = iter(loaded.train)
    next(begun)
    with pytest.raises(RuntimeError, match="mine"):
        begun.throw(RuntimeError("mine"))


# --- the real thing ---


def test_the_real_multi30k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    source = TRANSLATION_SETS["multi30k"]
    if data.locate(source) is None:
        pytest.skip(f"{source.title} is not on this machine; {source.remedy}")
    loaded = data.load_translation("multi30k")
    assert {split: len(pairs) for split, pairs in splits(loaded).items()} == {
        "train": 29_000,
        "validation": 1_014,
        "test": 1_000,
    }
    assert loaded.test[0] == (
        "A man in an orange hat starring at something.",
        "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    )
    assert all(unicodedata.is_normalized("NFC", text) for pair in loaded.test for text in pair)
