"""Text as tokens, made by byte pair encoding over bytes (Radford et al., 2019). Any text can be encoded."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from chts_core.lab.data.cache import cached
from chts_core.lab.data.sources import DataNotFoundError
from chts_core.lab.data.text import TextData

_END = "<|end|>"
# Tokens that end a document: the token of our tokenizers, and the tokens of tokenizers on the hub.
_ENDS = (_END, "</s>", "<|endoftext|>", "<|end_of_text|>")
_BYTES = 256


class TextTokenizer:
    """Tokens, each with an index. One of the tokens marks the end of a document.

    Args:
        tokenizer: a tokenizer of the tokenizers library.

    Raises:
        ValueError: if none of its tokens ends a document.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "<|end|>" in a document is ordinary text
        ends = [number for text in _ENDS if (number := tokenizer.token_to_id(text)) is not None]
        if not ends:
            raise ValueError(
                f"the tokenizer has no token that ends a document; expected one of {', '.join(_ENDS)}. Choose another "
                "tokenizer."
            )
        self.end: int = ends[0]

    @property
    def size(self) -> int:
        """Number of tokens, including the special ones; a small corpus may give fewer tokens than you asked for."""
        return int(self._tokenizer.get_vocab_size())

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the whole tokenizer."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without the end token."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [found.ids for found in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the given tokens, without special tokens; "�" stands for bytes that form no whole character."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token, in a form for pages and figures."""
        return [self._tokenizer.decode([number], skip_special_tokens=False) for number in ids]

    def to_json(self) -> str:
        """The whole tokenizer as text, which `from_json` can read."""
        text: str = self._tokenizer.to_str()
        return text

    @classmethod
    def from_json(cls, text: str) -> "TextTokenizer":
        """Read what `to_json` wrote, or the tokenizer.json of another project.

        Raises:
            ValueError: if the text does not describe a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the tokenizers library raises a plain Exception
            raise ValueError(f"it is not a tokenizer ({error}).") from error
        return cls(tokenizer)


def load_tokenizer(data: TextData, size: int, name: str = "", cache_dir: Path | None = None) -> TextTokenizer:
    """Train the tokenizer of a corpus on its training split, read it from the cache, or load it by name.

    Args:
        data: the corpus.
        size: number of tokens, including the end token; if `name` is given, the largest number of tokens that the
            named tokenizer may have.
        name: the path of a tokenizer.json, or a name on the Hugging Face hub ("t5-base"); "" trains a tokenizer.
        cache_dir: the folder of trained tokenizers; by default `$CHTS_CACHE`, or `chts` in the user's cache folder.

    Raises:
        ValueError: if `size` is below 257 (see `train_tokenizer`), or if the named tokenizer is damaged or too large.
        DataNotFoundError: if the tokenizer is not on this machine and cannot be fetched from the hub.
    """
    if not name:
        key = hashlib.sha256(f"{_END} {size} {data.digest}".encode()).hexdigest()
        return cached(
            f"tokenizer-{key[:32]}.json",
            read=TextTokenizer.from_json,
            make=partial(train_tokenizer, data, size),
            write=TextTokenizer.to_json,
            cache_dir=cache_dir,
        )
    tokenizer = _load_named(name)
    if tokenizer.size > size:
        raise ValueError(
            f"the tokenizer {name} has {tokenizer.size:,} tokens, but the model allows {size:,}; "
            f"set vocabulary to {tokenizer.size} or more, or choose another tokenizer."
        )
    return tokenizer


def train_tokenizer(data: TextData, size: int) -> TextTokenizer:
    """Train a tokenizer on the training split of a corpus; the same documents give the same tokenizer.

    Raises:
        ValueError: if `size` is below 257. Each of the 256 bytes needs a token, and so does the end of a document.
    """
    if size < _BYTES + 1:
        raise ValueError(
            f"vocabulary is {size}; expected at least {_BYTES + 1} tokens: one for each byte, and one that ends a "
            "document."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(data.first_training_documents(), trainer)
    return TextTokenizer(tokenizer)


def _load_named(name: str) -> TextTokenizer:
    path = Path(name).expanduser()
    if path.is_file():
        try:
            return TextTokenizer.from_json(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 ({error.reason}). Give a tokenizer.json that the tokenizers library wrote."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error} Give a tokenizer.json that the tokenizers library wrote.") from error
    try:
        tokenizer: Any = Tokenizer.from_pretrained(name)
    except Exception as error:  # the message must show any error of the connection or the hub
        raise DataNotFoundError(
            f"the tokenizer {name!r} was not found: there is no such file, and the hub says {type(error).__name__}: "
            f"{error}\nGive the path of a tokenizer.json, a name on the hub (with an internet connection), or "
            "tokenizer='' to train one on the corpus."
        ) from error
    return TextTokenizer(tokenizer)
