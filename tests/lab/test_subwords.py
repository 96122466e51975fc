import hashlib
import json
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chts_core.lab import data
from chts_core.lab.data import BEGIN, END, PAD, UNKNOWN, Pair, PairStream, TranslationData, Vocabulary, subwords

SENTENCES = [
    ("the low house, the lower house.", "das tiefe Haus, das tiefere Haus."),
    ("a new house is newer; the newest!", "ein neues Haus ist neuer; das neueste!"),
    ("Jürgen's dog (wide) sees the widest river", "Jürgens Hund sieht den größten Fluß"),
]


def some(train: list[Pair], name: str = "some") -> TranslationData:
    return TranslationData(name, ("en", "de"), train, [("unseen", "ungesehen")], [("Δοκιμή", "проба")])


DATA = some(SENTENCES)
ALPHABET = sorted({character for pair in SENTENCES for text in pair for character in text} - {" "})
TRAINED = data.train_vocabulary(DATA, 80)


# --- training ---


def words_of(texts: list[str]) -> Counter[tuple[str, ...]]:
    """The words and marks of texts, as characters, and how often each is there."""
    words = Counter[tuple[str, ...]]()
    for text in texts:
        for word in text.split(" "):
            marked = "".join(f" {character} " if character in ",.;!()'" else character for character in f"▁{word}")
            words.update(map(tuple, marked.split()))
    return words


def neighbours(words: Counter[tuple[str, ...]]) -> Counter[tuple[str, str]]:
    pairs = Counter[tuple[str, str]]()
    for pieces, count in words.items():
        for pair in pairwise(pieces):
            pairs[pair] += count
    return pairs


def join(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Each pair from the left becomes one piece."""
    if len(pieces) < 2:
        return pieces
    if pieces[:2] == pair:
        return ("".join(pair), *join(pieces[2:], pair))
    return (pieces[0], *join(pieces[1:], pair))


@pytest.mark.parametrize("size", [50, 80, 10_000])
def test_the_most_frequent_neighbours_are_joined_at_every_step(size: int) -> None:
    trained = data.train_vocabulary(DATA, size)
    words = words_of([text for pair in SENTENCES for text in pair])
    for first, second in json.loads(trained.to_json())["merges"]:
        seen = neighbours(words)
        assert seen[first, second] == max(seen.values())
        words = Counter({join(pieces, (first, second)): count for pieces, count in words.items()})
    if size == 10_000:  # nothing was left to join
        assert not neighbours(words)
        assert 80 < trained.size < 1000
        ids = trained.encode([SENTENCES[0][1], SENTENCES[2][0]])
        assert list(map(trained.pieces, ids)) == [
            ["▁das", "▁tiefe", "▁Haus", ",", "▁das", "▁tiefere", "▁Haus", "."],
            ["▁Jürgen", "'", "s", "▁dog", "▁", "(", "wide", ")", "▁sees", "▁the", "▁widest", "▁river"],
        ]


def test_special_subwords_come_first_then_the_alphabet() -> None:
    assert (PAD, UNKNOWN, BEGIN, END) == (0, 1, 2, 3)
    assert TRAINED.pieces(range(4)) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert TRAINED.pieces(range(4, 4 + len(ALPHABET) + 1)) == sorted([*ALPHABET, "▁"])
    assert TRAINED.size == 80
    assert TRAINED.corpus == DATA.digest


def test_training_again_gives_the_same_bytes() -> None:
    again = [data.train_vocabulary(some(list(SENTENCES)), 80).to_json() for _ in range(3)]
    assert again == [TRAINED.to_json()] * 3
    # And on every machine, as runs are compared by it.
    assert TRAINED.digest[:16] == "2acc994fc8a30784"


def test_only_the_training_split_is_learned_from() -> None:
    other = TranslationData("other", ("en", "de"), SENTENCES, [("zzz", "zzz")], [("qqq", "qqq")])
    trained = data.train_vocabulary(other, 80)
    assert trained.digest == TRAINED.digest
    assert trained.corpus == other.digest != TRAINED.corpus


def test_of_a_stream_the_first_million_pairs_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.translation, "_FIRST", 3)
    stream = PairStream(lambda: iter([*SENTENCES, ("QQ", "QQ")]))
    assert data.train_vocabulary(TranslationData("stream", ("en", "de"), stream, [], []), 80).digest == (
        data.train_vocabulary(DATA, 80).digest
    )


@pytest.mark.parametrize("size", [-1, 0, 4, 4 + len(ALPHABET)])
def test_a_size_below_the_alphabet_is_refused_with_the_smallest(size: int) -> None:
    least = 4 + len(ALPHABET) + 1  # "▁" is a character too
    with pytest.raises(
        ValueError,
        match=rf"size is {size}, but some has {least - 4} different characters .*; set it to {least} or more",
    ):
        data.train_vocabulary(DATA, size)
    assert data.train_vocabulary(DATA, least).size == least


# --- encoding ---


def test_subwords_as_they_are_shown() -> None:
    (ids,) = TRAINED.encode(["das Haus, dies"])
    assert "".join(TRAINED.pieces(ids)) == "▁das▁Haus,▁dies"
    assert "▁das" in TRAINED.pieces(ids)
    assert TRAINED.pieces([BEGIN, *ids[:1], END, PAD]) == ["<s>", "▁das", "</s>", "<pad>"]


def test_a_sentence_is_encoded_alike_alone_and_among_others() -> None:
    texts = [text for pair in SENTENCES for text in pair]
    assert TRAINED.encode(texts) == [TRAINED.encode([text])[0] for text in texts]
    assert TRAINED.encode([]) == []
    assert TRAINED.encode([""]) == [[]]


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=6), max_size=6))
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_sentence_back(words: list[str]) -> None:
    sentence = " ".join(words)
    (ids,) = TRAINED.encode([sentence])
    assert not {PAD, UNKNOWN, BEGIN, END} & set(ids)
    assert TRAINED.decode(ids) == sentence
    assert TRAINED.decode([BEGIN, *ids, END, *ids, PAD, PAD]) == sentence


def test_decomposed_letters_are_composed() -> None:
    decomposed = unicodedata.normalize("NFD", "Jürgen")
    assert decomposed != "Jürgen"
    assert TRAINED.encode([decomposed]) == TRAINED.encode(["Jürgen"])
    assert TRAINED.decode(TRAINED.encode([decomposed])[0]) == "Jürgen"


def test_characters_that_training_never_saw_are_unknown() -> None:
    (ids,) = TRAINED.encode(["das ж Haus"])
    assert ids.count(UNKNOWN) == 1
    assert TRAINED.pieces(ids)[ids.index(UNKNOWN)] == "<unk>"
    assert TRAINED.decode(ids) == "das  Haus"


def test_special_subwords_in_a_sentence_are_text() -> None:
    trained = data.train_vocabulary(some([("a <s> b </s> <pad> <unk>", "<s>")]), 30)
    (ids,) = trained.encode(["<s> a </s> <pad> <unk> b"])
    assert not {PAD, UNKNOWN, BEGIN, END} & set(ids)
    assert trained.decode(ids) == "<s> a </s> <pad> <unk> b"
    again = Vocabulary.from_json(trained.to_json())
    assert again.encode(["<s> a </s> <pad> <unk> b"]) == [ids]


def test_decoding_stops_at_the_first_end() -> None:
    (ids,) = TRAINED.encode(["das Haus"])
    assert TRAINED.decode([END, *ids]) == ""
    assert TRAINED.decode(iter([*ids, END, END, *ids])) == "das Haus"
    assert TRAINED.decode([]) == ""


# --- as text ---


def test_reading_gives_back_what_was_written() -> None:
    again = Vocabulary.from_json(TRAINED.to_json(), corpus=DATA.digest)
    assert (again.size, again.digest, again.corpus) == (TRAINED.size, TRAINED.digest, TRAINED.corpus)
    texts = [text for pair in SENTENCES for text in pair]
    assert again.encode(texts) == TRAINED.encode(texts)
    assert again.to_json() == TRAINED.to_json()


def test_the_digest_tells_vocabularies_apart() -> None:
    others = [
        data.train_vocabulary(DATA, 79),
        data.train_vocabulary(some([*SENTENCES[:2], ("Fluß", SENTENCES[2][0])]), 80),
    ]
    assert len({TRAINED.digest, *(other.digest for other in others)}) == 3
    assert len(TRAINED.digest) == 64


def test_a_vocabulary_of_another_corpus_is_refused() -> None:
    other = some(SENTENCES[:2])
    with pytest.raises(ValueError, match=rf"digest {DATA.digest[:12]}, but the data has digest {other.digest[:12]};"):
        Vocabulary.from_json(TRAINED.to_json(), corpus=other.digest)


def changed(text: str, **changes: object) -> str:
    return json.dumps({**json.loads(text), **changes})


DAMAGED = {
    "empty": lambda _: "",
    "cut short": lambda text: text[: len(text) // 2],
    "a list": lambda _: "[]",
    "no merges": lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "merges"}),
    "another format": lambda text: changed(text, format=99),
    "a piece changed": lambda text: text.replace('"▁das"', '"▁dax"', 1),
    "pieces in another order": lambda text: changed(text, pieces=json.loads(text)["pieces"][::-1]),
    "a merge less": lambda text: changed(text, merges=json.loads(text)["merges"][:-1]),
    "a merge of nothing": lambda text: changed(text, merges=[["☃", "☃"]]),
    "another digest": lambda text: changed(text, digest="0" * 64),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_vocabulary_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match=r"the vocabulary is damaged.*make it again"):
        Vocabulary.from_json(DAMAGED[case](TRAINED.to_json()))


# --- the cache ---


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the vocabularies that were trained."""
    sizes: list[int] = []

    def train(task: TranslationData, size: int) -> Vocabulary:
        sizes.append(size)
        return data.train_vocabulary(task, size)

    monkeypatch.setattr(subwords, "train_vocabulary", train)
    return sizes


def test_a_vocabulary_is_trained_once(tmp_path: Path, counted: list[int]) -> None:
    folder = tmp_path / "not" / "there yet"
    first, again = (data.load_vocabulary(DATA, 80, folder) for _ in range(2))
    assert counted == [80]
    assert first.to_json() == again.to_json() == TRAINED.to_json()
    (file,) = folder.iterdir()  # nothing temporary is left
    assert file.read_text("utf-8") == TRAINED.to_json()
    # Another size or another corpus is another vocabulary.
    data.load_vocabulary(DATA, 79, folder)
    other = data.load_vocabulary(some(SENTENCES[:2]), 79, folder)
    assert counted == [80, 79, 79]
    assert other.corpus != TRAINED.corpus
    assert len(list(folder.iterdir())) == 3


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CHTS_CACHE", raising=False)
    places = [tmp_path / "home" / ".cache" / "chts", tmp_path / "xdg" / "chts", tmp_path / "home" / "own"]
    data.load_vocabulary(DATA, 80)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data.load_vocabulary(DATA, 80)
    monkeypatch.setenv("CHTS_CACHE", "~/own")
    data.load_vocabulary(DATA, 80)
    assert [len(list(place.glob("vocabulary-*.json"))) for place in places] == [1, 1, 1]
    assert counted == [80, 80, 80]


@pytest.mark.parametrize("case", ["cut short", "a piece changed", "not text", "of another corpus"])
def test_a_useless_file_is_replaced_with_a_warning(tmp_path: Path, counted: list[int], case: str) -> None:
    data.load_vocabulary(DATA, 80, tmp_path)
    (path,) = tmp_path.iterdir()
    other = data.train_vocabulary(some(SENTENCES[1:]), 80)
    contents = {"not text": b"\xff\xfe\x00", "of another corpus": other.to_json().encode()}
    path.write_bytes(contents[case] if case in contents else DAMAGED[case](TRAINED.to_json()).encode())
    with pytest.warns(RuntimeWarning) as warned:
        again = data.load_vocabulary(DATA, 80, tmp_path)
    assert [str(path) in str(each.message) for each in warned] == [True]
    assert warned[0].filename == __file__
    assert again.digest == TRAINED.digest
    assert data.load_vocabulary(DATA, 80, tmp_path).digest == TRAINED.digest
    assert counted == [80, 80]


def test_without_a_cache_it_goes_on_with_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.write_text("not a folder")
    with pytest.warns(
        RuntimeWarning, match=r"could not be saved in .*; the next run will make it again\. Set \$CHTS_CACHE"
    ) as warned:
        trained = data.load_vocabulary(DATA, 80, folder)
    assert len(warned) == 1
    assert str(folder) in str(warned[0].message)
    assert trained.digest == TRAINED.digest


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load_vocabulary(DATA, 79, tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        data.load_vocabulary(DATA, 80, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


# --- the real thing ---


def test_the_number_words_are_given_back_exactly() -> None:
    words = data.load_translation("number_words")
    trained = data.train_vocabulary(words, 500)
    assert trained.size == 500
    assert hashlib.sha256(trained.to_json().encode()).hexdigest()[:16] == "9d68e0f2539e2dd6"
    pairs = [*words.train, *words.validation, *words.test]
    for side in (0, 1):
        texts = [pair[side] for pair in pairs]
        ids = trained.encode(texts)
        assert list(map(trained.decode, ids)) == texts
        assert not any({PAD, UNKNOWN, BEGIN, END} & set(row) for row in ids)
