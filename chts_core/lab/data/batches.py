"""Pairs of sentences as subword indices, in batches of about equal size. Sentences in a batch have similar lengths."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from chts_core.lab.data.number_words import Pair
from chts_core.lab.data.subwords import BEGIN, END, PAD, Vocabulary

_CHUNK = 10_000  # pairs that are encoded at once


@dataclass(frozen=True)
class _Ragged:
    """Rows of different lengths: row i is tokens[starts[i] : starts[i + 1]].

    tokens: int32 (all,); starts: int64 (n + 1,).
    """

    tokens: Tensor
    starts: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def pad(self, rows: Tensor, before: int = 0) -> Tensor:
        """Rows as int64 (n, before + longest + 1): `before` times PAD, then the row, END, and PAD to the end."""
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()))
        there = columns < lengths[:, None]
        padded = torch.full((len(rows), before + len(columns) + 1), PAD)
        padded[:, before:-1][there] = self.tokens[(self.starts[rows][:, None] + columns)[there]].long()
        padded[torch.arange(len(rows)), before + lengths] = END
        return padded


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs of sentences as subword indices, without BEGIN and END.

    left_out: number of pairs that were left out because a sentence was too long.
    """

    source: _Ragged
    target: _Ragged
    left_out: int

    def __len__(self) -> int:
        return len(self.source.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of tokens in the longer sentence of each pair, including END, int64 (n,)."""
        return torch.maximum(self.source.lengths, self.target.lengths) + 1


@dataclass(frozen=True)
class Batch:
    """A batch of sentence pairs, padded to equal length.

    source: int64 (n, S); each row is a sentence, END, then PAD.
    target: int64 (n, T); each row is BEGIN, a sentence, END, then PAD.
    """

    source: Tensor
    target: Tensor


def encode_pairs(pairs: Iterable[Pair], vocabulary: Vocabulary, max_length: int, *, drop_long: bool) -> EncodedPairs:
    """Turn sentences into subword indices, in chunks of pairs. So memory never holds the text of a whole stream.

    Args:
        pairs: source and target sentences.
        vocabulary: the vocabulary of both languages.
        max_length: the largest number of subwords in a sentence, without BEGIN and END.
        drop_long: whether to leave out and count pairs with a longer sentence; otherwise such a pair is an error.

    Raises:
        ValueError: if a sentence is longer than `max_length`; the message says which pair it is in.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; expected at least 1 subword.")
    iterator, seen, left_out = iter(pairs), 0, 0
    sources: list[_Ragged] = []
    targets: list[_Ragged] = []
    while chunk := list(islice(iterator, _CHUNK)):
        encoded = [vocabulary.encode(texts) for texts in zip(*chunk, strict=True)]
        kept = []
        for number, pair in enumerate(zip(*encoded, strict=True), start=seen + 1):
            longest = max(map(len, pair))
            if longest <= max_length:
                kept.append(pair)
            elif drop_long:
                left_out += 1
            else:
                side = "source" if len(pair[0]) == longest else "target"
                raise ValueError(
                    f"the {side} sentence of pair {number:,} has {longest} subwords; expected at most {max_length}. "
                    "Raise max_length, shorten the sentence, or leave such pairs out with drop_long=True."
                )
        seen += len(chunk)
        sources.append(_pack([source for source, _ in kept]))
        targets.append(_pack([target for _, target in kept]))
    return EncodedPairs(_join(sources), _join(targets), left_out)


def _pack(rows: list[list[int]]) -> _Ragged:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    tokens = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return _Ragged(torch.from_numpy(tokens), torch.from_numpy(np.concatenate([[0], lengths.cumsum()])))


def _join(parts: list[_Ragged]) -> _Ragged:
    """Join the rows of all parts, one part after the other."""
    empty = _pack([])
    lengths = torch.cat([part.lengths for part in (empty, *parts)])
    starts = torch.cat([empty.starts, lengths.cumsum(0)])
    return _Ragged(torch.cat([part.tokens for part in (empty, *parts)]), starts)


def batches(encoded: EncodedPairs, batch_tokens: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Put each pair into a batch with other pairs of about the same length.

    In a batch, the sentences of each language are padded to the length of the longest one. If the longest sentence of
    a batch of n pairs has the length L, the batch takes n · L tokens. This length includes END but not BEGIN.

    Args:
        encoded: the pairs.
        batch_tokens: the largest number of tokens, n · L, that a batch may take.
        generator: draws the order of pairs of equal length, then the order of the batches; with None, pairs of equal
            length keep their order, and the batches are sorted by length.

    Returns:
        For each batch, the indices of its pairs, int64 (n,).

    Raises:
        ValueError: if one pair takes more than `batch_tokens`.
    """
    lengths = encoded.lengths
    order = torch.arange(len(encoded)) if generator is None else torch.randperm(len(encoded), generator=generator)
    order = order[lengths[order].argsort(stable=True)]
    by_length = lengths[order].tolist()
    if by_length and by_length[-1] > batch_tokens:
        raise ValueError(
            f"pair {int(order[-1]) + 1:,} takes {by_length[-1]} tokens, including END; expected at most batch_tokens, "
            f"{batch_tokens}. Set batch_tokens to {by_length[-1]} or more, or encode with a smaller max_length."
        )
    sizes, start = [], 0
    for end, length in enumerate(by_length):
        if (end + 1 - start) * length > batch_tokens:
            sizes.append(end - start)
            start = end
    if by_length:
        sizes.append(len(by_length) - start)
    together = list(order.split(sizes))
    if generator is None:
        return together
    return [together[number] for number in torch.randperm(len(together), generator=generator).tolist()]


def collate(encoded: EncodedPairs, indices: Tensor, device: torch.device | str) -> Batch:
    """Build a batch of pairs on a device, padded to equal length."""
    target = encoded.target.pad(indices, before=1)
    target[:, 0] = BEGIN
    return Batch(encoded.source.pad(indices).to(device), target.to(device))
