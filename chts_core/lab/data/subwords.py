"""Subwords that both languages share, made by byte pair encoding (Sennrich et al. 2016).

A sentence is normalised to NFC and split at spaces and punctuation; "▁" before a word stands for the space. Training
starts with single characters. Each step joins the two neighbouring pieces that occur together most often in the
training split.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from chts_core.lab.data.cache import cached
from chts_core.lab.data.translation import TranslationData

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
_VERSION = 1


class Vocabulary:
    """Subwords, each with an index. The first four are special: PAD, UNKNOWN, BEGIN and END.

    Args:
        pieces: all subwords, in the order of their indices.
        merges: the pairs of pieces to join, in the order of joining.
        corpus: digest of the data that the vocabulary was trained on.
    """

    def __init__(self, pieces: Sequence[str], merges: Iterable[tuple[str, str]], corpus: str) -> None:
        self.corpus = corpus
        self._pieces = tuple(pieces)
        self._merges = tuple(merges)
        numbers = {piece: number for number, piece in enumerate(self._pieces)}
        self._tokenizer = _tokenizer(models.BPE(numbers, list(self._merges), unk_token=_SPECIAL[UNKNOWN]))

    @property
    def size(self) -> int:
        """Number of subwords, including the special ones; a small corpus may give fewer subwords than you asked for."""
        return len(self._pieces)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the subwords and merges."""
        content = json.dumps([_VERSION, self._pieces, self._merges])
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The subwords of each text, without BEGIN and END. A character that is not in the training split becomes
        UNKNOWN."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the given subwords up to END, without special subwords.

        For a text in NFC that has single spaces between its words and no unknown characters, this method is the
        inverse of `encode`.
        """
        text: str = self._tokenizer.decode(list(_before_end(ids)), skip_special_tokens=True)
        return text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each subword, including the special ones."""
        return [self._pieces[number] for number in ids]

    def to_json(self) -> str:
        """The whole vocabulary as text, which `from_json` can read."""
        content = {
            "format": _VERSION,
            "corpus": self.corpus,
            "digest": self.digest,
            "pieces": self._pieces,
            "merges": self._merges,
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, corpus: str | None = None) -> "Vocabulary":
        """Read what `to_json` wrote.

        Args:
            text: the text of the vocabulary.
            corpus: digest of the data that the vocabulary is used with; None accepts any data.

        Raises:
            ValueError: if the text is damaged, or the vocabulary was trained on another corpus.
        """
        try:
            content = json.loads(text)
            vocabulary = cls(content["pieces"], map(tuple, content["merges"]), content["corpus"])
            whole = (content["format"], content["digest"]) == (_VERSION, vocabulary.digest)
        except Exception as error:  # the tokenizers library raises a plain Exception for wrong merges
            raise ValueError(
                f"the vocabulary is damaged ({type(error).__name__}: {error}); make it again with load_vocabulary."
            ) from error
        if not whole:
            raise ValueError(
                "the vocabulary is damaged or from a different version, because its digest does not match its "
                "subwords; make it again with load_vocabulary."
            )
        if corpus is not None and corpus != vocabulary.corpus:
            raise ValueError(
                f"the vocabulary was trained on a corpus with digest {vocabulary.corpus[:12]}, but the data has digest "
                f"{corpus[:12]}; load the data that the vocabulary was trained on, or train the model again with a "
                "vocabulary of this data."
            )
        return vocabulary


def load_vocabulary(data: TranslationData, size: int, cache_dir: Path | None = None) -> Vocabulary:
    """Train the vocabulary of a translation task on the training split, or read it from the cache.

    Args:
        data: the task; a stream uses only its first million pairs.
        size: number of subwords, including the special ones.
        cache_dir: the folder of vocabularies; by default `$CHTS_CACHE`, or `chts` in the user's cache folder.

    Raises:
        ValueError: if the number of distinct characters is larger than the number of subwords.
    """
    key = hashlib.sha256(f"{_VERSION} {size} {data.digest}".encode()).hexdigest()
    return cached(
        f"vocabulary-{key[:32]}.json",
        read=partial(Vocabulary.from_json, corpus=data.digest),
        make=lambda: train_vocabulary(data, size),
        write=Vocabulary.to_json,
        cache_dir=cache_dir,
    )


def train_vocabulary(data: TranslationData, size: int) -> Vocabulary:
    """Train a vocabulary on the training split of a task; the same pairs give the same vocabulary.

    Raises:
        ValueError: if the number of distinct characters is larger than the number of subwords.
    """
    tokenizer = _tokenizer(models.BPE(unk_token=_SPECIAL[UNKNOWN]))
    trainer = trainers.BpeTrainer(vocab_size=max(size, 0), special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((text for pair in data.first_training_pairs() for text in pair), trainer)
    if tokenizer.get_vocab_size() > size:
        raise ValueError(
            f"vocabulary size is {size}, but {data.name} has {tokenizer.get_vocab_size() - len(_SPECIAL):,} different "
            f"characters and there are {len(_SPECIAL)} special subwords; set it to {tokenizer.get_vocab_size():,} or "
            "more."
        )
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return Vocabulary(pieces, map(tuple, model["merges"]), data.digest)


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.encode_special_tokens = True  # "<s>" in a sentence is ordinary text
    return tokenizer


def _before_end(ids: Iterable[int]) -> Iterator[int]:
    for number in ids:
        if number == END:
            return
        yield number
