"""Translate with a trained model, and return its attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chts_core.lab.data import BEGIN, END, PAD, Vocabulary
from chts_core.lab.decoding import beam_search, greedy
from chts_core.lab.models import Transformer

# Number of sentences translated at once; they have similar lengths, so that short sentences seldom wait for a long one.
_SIDE_BY_SIDE = 64


@dataclass(frozen=True, eq=False)
class Translator:
    """A trained model with its vocabulary of subwords.

    max_length: the largest number of tokens in a sentence, and in its translation.
    """

    model: Transformer
    vocabulary: Vocabulary
    max_length: int

    def translate(self, sentences: Sequence[str], *, beam: int = 2) -> list[str]:
        """Translate sentences by beam search. With a beam of 1, the translation is greedy.

        Raises:
            ValueError: if a sentence is empty or too long; the message shows the sentence.
        """
        encoded = self.encode(sentences)
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        translations = [""] * len(encoded)
        for first in range(0, len(order), _SIDE_BY_SIDE):
            rows = order[first : first + _SIDE_BY_SIDE]
            source = self.as_source([encoded[row] for row in rows])
            found = (
                greedy(self.model, source, self.max_length)
                if beam == 1
                else beam_search(self.model, source, beam, self.max_length)
            )
            for row, hypothesis in zip(rows, found, strict=True):
                translations[row] = self.vocabulary.decode(hypothesis.tokens)
        return translations

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The indices of the subwords of each sentence.

        Raises:
            ValueError: if a sentence is empty or too long; the message shows the sentence.
        """
        if isinstance(sentences, str):
            raise TypeError("sentences is one string; expected a list of sentences, so write [sentences].")
        encoded = self.vocabulary.encode(sentences)
        for number, (sentence, tokens) in enumerate(zip(sentences, encoded, strict=True), start=1):
            if not sentence.strip():
                raise ValueError(f"sentence {number} is {sentence!r}; expected some words to translate.")
            if len(tokens) > self.max_length:
                raise ValueError(
                    f"sentence {number} has {len(tokens)} tokens; expected at most {self.max_length}. Split the "
                    f"sentence into shorter ones: {sentence[:60]!r}..."
                )
        return encoded

    def as_source(self, encoded: Sequence[Sequence[int]]) -> Tensor:
        """A batch (n, S) of encoded sentences on the model's device; each row has a sentence, then END, then PAD."""
        rows = [torch.tensor([*tokens, END]) for tokens in encoded]
        device = self.model.embedding.weight.device
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)

    def attention(self, sentence: str, *, beam: int = 2) -> "Attended":
        """Translate a sentence, and return the translation with its attention.

        Raises:
            ValueError: if the sentence is empty or too long.
        """
        source = self.as_source(self.encode([sentence]))
        tokens = beam_search(self.model, source, beam, self.max_length)[0].tokens
        target = torch.tensor([[BEGIN, *tokens]], device=source.device)
        weights = self.model.attention(source, target)
        return Attended(
            self.vocabulary.decode(tokens),
            self.vocabulary.pieces(source[0].tolist()),
            self.vocabulary.pieces([*tokens, END]),
            {name: weight[0].float().cpu() for name, weight in weights.items()},
        )


@dataclass(frozen=True)
class Attended:
    """A translation and its attention.

    source, target: the pieces that the model read and wrote, each with END at the end.
    weights: the weights (heads, queries, keys) of each attention block, by the name of the block. Query i of the
        decoder belongs to `target[i]`, the piece that the model wrote with this query.
    """

    translation: str
    source: list[str]
    target: list[str]
    weights: dict[str, Tensor]
