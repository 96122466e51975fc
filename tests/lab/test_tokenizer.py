"""Tokens of any text, and back."""

import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from chts_core.lab import data
from chts_core.lab.data import DataNotFoundError, TextData, TextTokenizer, tokenizer

TRAIN = ["low lower lowest\n", "a lower wall; a low wall", "Größe"]
CORPUS = TextData("some", TRAIN, ["unseen"])
TRAINED = data.train_tokenizer(CORPUS, 266)


@given(st.text())
def test_any_text_is_given_back(text: str) -> None:
    (ids,) = TRAINED.encode([text])
    assert TRAINED.decode(ids) == text
    assert TRAINED.end not in ids


def test_the_most_frequent_neighbours_are_joined_first() -> None:
    merges = json.loads(TRAINED.to_json())["model"]["merges"]
    # Words as the pre-tokenizer cuts them, "Ġ" for the space before.
    words = Counter({"low": 1, "Ġlower": 2, "Ġlowest": 1, "a": 1, "Ġwall": 2, "Ġa": 1, "Ġlow": 1})
    pairs = Counter[tuple[str, str]]()
    for word, number in words.items():
        for pair in pairwise(word):
            pairs[pair] += number
    assert pairs[tuple(merges[0])] == max(pairs.values()) == 5  # lo or ow
    assert TRAINED.size == 266
    assert len(merges) == 266 - 257


def test_the_end_is_a_token_that_no_text_has() -> None:
    assert TRAINED.end == 0
    assert TRAINED.pieces([0]) == ["<|end|>"]
    (ids,) = TRAINED.encode(["low<|end|>low"])
    assert TRAINED.end not in ids
    assert TRAINED.decode([*ids, TRAINED.end]) == "low<|end|>low"


def test_tokens_as_they_are_shown() -> None:
    (ids,) = TRAINED.encode(["low wall"])
    assert "".join(TRAINED.pieces(ids)) == "low wall"
    assert TRAINED.pieces(ids)[0] == "low"


def test_a_character_that_is_cut_does_not_stop_decoding() -> None:
    (ids,) = TRAINED.encode(["€"])
    assert len(ids) == 3
    assert TRAINED.decode(ids[:2]) == "�"


def test_texts_are_encoded_alike_alone_and_among_others() -> None:
    assert TRAINED.encode(TRAIN) == [TRAINED.encode([text])[0] for text in TRAIN]


def test_training_again_gives_the_same() -> None:
    assert data.train_tokenizer(CORPUS, 266).digest == TRAINED.digest
    assert data.train_tokenizer(CORPUS, 265).digest != TRAINED.digest
    assert data.train_tokenizer(TextData("some", TRAIN, ["other"]), 266).digest == TRAINED.digest


def test_a_corpus_may_give_fewer_tokens_than_asked_for() -> None:
    assert data.train_tokenizer(CORPUS, 10_000).size < 300


def test_fewer_tokens_than_bytes_are_refused() -> None:
    assert data.train_tokenizer(CORPUS, 257).size == 257
    with pytest.raises(ValueError, match=r"vocabulary is 256; expected at least 257 tokens"):
        data.train_tokenizer(CORPUS, 256)


# --- the cache ---


def test_it_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]

    def train(*_: object) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(tokenizer, "train_tokenizer", train)
    assert data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path).digest == first.digest == TRAINED.digest


def test_other_texts_and_sizes_have_their_own(tmp_path: Path) -> None:
    data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path)
    data.load_tokenizer(CORPUS, 265, cache_dir=tmp_path)
    data.load_tokenizer(TextData("some", TRAIN[:2], []), 266, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_one_is_made_anew_with_a_warning(tmp_path: Path) -> None:
    data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-30])
    with pytest.warns(RuntimeWarning, match=r"is replaced: it is not a tokenizer"):
        assert data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path).digest == TRAINED.digest
    data.load_tokenizer(CORPUS, 266, cache_dir=tmp_path)  # without a warning


# --- those with a name ---


def test_one_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED.to_json())
    assert data.load_tokenizer(CORPUS, 300, str(path)).digest == TRAINED.digest


def test_one_of_another_size_is_refused_with_both(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED.to_json())
    with pytest.raises(ValueError, match=r"has 266 tokens, but the model allows 265; set vocabulary to 266"):
        data.load_tokenizer(CORPUS, 265, str(path))


@pytest.mark.parametrize("end", ["</s>", "<|endoftext|>", "<|end_of_text|>"])
def test_the_end_is_found_by_its_usual_names(tmp_path: Path, end: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED.to_json().replace("<|end|>", end))
    assert data.load_tokenizer(CORPUS, 300, str(path)).end == 0


def test_one_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED.to_json().replace("<|end|>", "<|stop|>"))
    with pytest.raises(ValueError, match=r"tokenizer.json: the tokenizer has no token that ends a document; expected"):
        data.load_tokenizer(CORPUS, 300, str(path))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: it is not a tokenizer .* Give a tokenizer.json"):
        data.load_tokenizer(CORPUS, 300, str(path))


def test_one_of_the_hub_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Stub:
        @staticmethod
        def from_pretrained(name: str) -> Tokenizer:
            asked.append(name)
            return Tokenizer.from_str(TRAINED.to_json())

    monkeypatch.setattr(tokenizer, "Tokenizer", Stub)
    assert isinstance(data.load_tokenizer(CORPUS, 300, "t5-base"), TextTokenizer)
    assert asked == ["t5-base"]


def test_without_the_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        @staticmethod
        def from_pretrained(_: str) -> Tokenizer:
            raise OSError("no network")

    monkeypatch.setattr(tokenizer, "Tokenizer", Stub)
    with pytest.raises(DataNotFoundError, match=r"'t5-base' was not found.*OSError: no network\nGive the path"):
        data.load_tokenizer(CORPUS, 300, "t5-base")


def test_lines_end_as_they_did() -> None:
    text = f"a{os.linesep}b\r\nc\u2028d"
    assert TRAINED.decode(TRAINED.encode([text])[0]) == text
