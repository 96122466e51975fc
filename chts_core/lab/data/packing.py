"""Documents as blocks of tokens without padding, and the batches of blocks that each process trains on."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from chts_core.lab.data.text import TextStream
from chts_core.lab.data.tokenizer import TextTokenizer

_AT_ONCE = 64  # documents that are tokenised together


def pack(documents: Iterable[str], tokenizer: TextTokenizer, context: int, *, most: int | None = None) -> Tensor:
    """Join documents one after the other, each with an end token, and cut the result into blocks.

    A block begins with the last token of the previous block, so that each token except the first is predicted once.
    The last tokens are left out if they do not fill a block.

    Args:
        documents: the texts.
        tokenizer: turns the texts into tokens.
        context: the number of tokens that a block predicts.
        most: the largest number of blocks to return; None for no limit.

    Returns:
        The blocks, int32 (n, context + 1).

    Raises:
        ValueError: if the documents do not fill even one block.
    """
    if context < 1:
        raise ValueError(f"context is {context}; expected at least 1 token.")
    wanted = None if most is None else most * context + 1
    parts, held = [np.zeros(0, np.int32)], 0
    iterator = iter(documents)
    while (wanted is None or held < wanted) and (texts := list(islice(iterator, _AT_ONCE))):
        parts += [np.array([*ids, tokenizer.end], np.int32) for ids in tokenizer.encode(texts)]
        held = sum(map(len, parts))
    tokens = torch.from_numpy(np.concatenate(parts)[:wanted])
    if len(tokens) <= context:
        raise ValueError(
            f"the corpus has {len(tokens):,} tokens; expected at least {context + 1:,}, one more than context. Take a "
            "larger corpus or a smaller context."
        )
    return tokens.unfold(0, context + 1, context)


class MemoryFeed:
    """Batches of blocks, epoch after epoch. All blocks are in memory, and the seed decides their order in each epoch.

    The batches do not depend on the number of ranks. Rank r of n gets the rows r, r + n, r + 2n ... of each batch.

    Args:
        blocks: int (n, context + 1).
        batch: the number of blocks in a step, over all ranks.
        seed: decides the order of the blocks.
        rank, ranks: the index of this process (from 0), and the number of processes.

    Raises:
        ValueError: if there are fewer blocks than a batch needs, or if the ranks cannot share a batch evenly.
    """

    def __init__(self, blocks: Tensor, batch: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        _check_shares(batch, ranks)
        if len(blocks) < batch:
            raise ValueError(
                f"the corpus has {len(blocks):,} blocks of {blocks.shape[1] - 1} tokens, and a batch has {batch:,}; "
                "take a smaller batch, a smaller context or a larger corpus."
            )
        self._blocks, self._batch, self._seed = blocks, batch, seed
        self._rank, self._ranks = rank, ranks
        self._batches = 0

    def next(self) -> Tensor:
        """This rank's share of the next batch, int64 (batch / ranks, context + 1)."""
        start = self._batches * self._batch
        self._batches += 1
        places = range(start + self._rank, start + self._batch, self._ranks)
        return self._blocks[[self._block(place) for place in places]].long()

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that `next` has returned; it is the same on all ranks."""
        return {"batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position that `state_dict` returned. The number of ranks may have changed."""
        self._batches = state["batches"]

    def _block(self, place: int) -> int:
        """Return the index of the block at `place`. `place` counts the blocks from the start of the first epoch."""
        epoch, within = divmod(place, len(self._blocks))
        return int(_order(len(self._blocks), self._seed, epoch)[within])


@functools.lru_cache(maxsize=2)  # a batch may span two epochs
def _order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed((seed * 2**20 + epoch) % 2**63))


class StreamFeed:
    """Batches of blocks from a stream. Parallel lanes read the stream.

    Row j of every batch comes from lane j modulo `lanes`. A lane is an endless sequence of blocks from its own share of
    the documents. The lane reads these documents epoch after epoch, and shuffles them within buffers. So the batches do
    not depend on the number of ranks and workers that share the lanes.

    The position of a lane is the place in the data set where the lane's buffer begins, together with three numbers: how
    many buffers have begun, the index of the current document in the buffer, and how many tokens of this document have
    been read. (The `datasets` library can also shuffle a stream, but it loses its buffer when a run continues.)

    Args:
        stream: the documents.
        tokenizer: turns the documents into tokens.
        context: the number of tokens that a block predicts.
        batch: the number of blocks in a step, over all ranks.
        seed: decides the order within buffers.
        lanes: the number of lanes, which must divide `batch` and be a multiple of `ranks * max(workers, 1)`.
        buffer: the number of documents that each lane shuffles together.
        rank, ranks: the index of this process (from 0), and the number of processes.
        workers: the number of processes per rank that read ahead; with 0, a rank reads a block when it needs it.

    Raises:
        ValueError: if `batch` is not a multiple of `ranks`, or if `lanes` breaks one of the two conditions above.
            `next` raises ValueError if a lane has no document.
    """

    def __init__(
        self,
        stream: TextStream,
        tokenizer: TextTokenizer,
        context: int,
        batch: int,
        seed: int,
        *,
        lanes: int,
        buffer: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ) -> None:
        _check_shares(batch, ranks)
        shares = ranks * max(workers, 1)
        if batch % lanes or lanes % shares:
            raise ValueError(
                f"lanes is {lanes}, with a batch of {batch}, {ranks} ranks and {workers} workers per rank; expected a "
                f"number that divides {batch} and is a multiple of {shares}."
            )
        self._own = list(range(rank, lanes, ranks))
        self._rows, self._lanes, self._workers = batch // ranks, lanes, workers
        self._new_lane = functools.partial(_Lane, stream, tokenizer, context, seed, lanes, buffer)
        self._states: dict[int, dict[str, Any]] = dict.fromkeys(self._own, _BEGINNING)
        self._reader: Iterator[tuple[int, Tensor, dict[str, Any]]] | None = None

    def next(self) -> Tensor:
        """This rank's share of the next batch, int64 (batch / ranks, context + 1)."""
        if self._reader is None:
            lanes = _Lanes([self._new_lane(number, self._states[number]) for number in self._own])
            self._reader = iter(
                DataLoader(
                    lanes,
                    batch_size=None,
                    num_workers=self._workers,
                    multiprocessing_context="forkserver" if self._workers else None,
                )
            )
        rows = []
        for number, block, state in islice(self._reader, self._rows):
            rows.append(block)
            self._states[number] = state  # after the last returned block; the reader may be further ahead
        return torch.stack(rows)

    def state_dict(self) -> dict[str, Any]:
        """The positions of this rank's lanes. `load_state_dict` needs the positions of all lanes."""
        return {"lanes": {str(number): state for number, state in self._states.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of all lanes. The numbers of ranks and workers may have changed.

        Raises:
            ValueError: if the number of lanes in the state differs from the number of lanes of this feed.
        """
        if len(state["lanes"]) != self._lanes:
            raise ValueError(
                f"the saved state has {len(state['lanes'])} lanes, and this feed has {self._lanes}; continue with the "
                "same number of lanes."
            )
        self._states = {number: state["lanes"][str(number)] for number in self._own}
        self._reader = None


# The state of a lane: the place in its data set where the buffer begins, how many buffers have begun, the index of the
# current document in the buffer, and how many tokens of this document have been read.
_BEGINNING: dict[str, Any] = {"dataset": None, "buffers": 0, "document": -1, "offset": 0}


class _Lane:
    """An endless sequence of blocks from a share of a stream's documents."""

    def __init__(
        self,
        stream: TextStream,
        tokenizer: TextTokenizer,
        context: int,
        seed: int,
        lanes: int,
        buffer: int,
        number: int,
        state: dict[str, Any],
    ) -> None:
        self.number = number
        self._stream, self._tokenizer, self._context = stream, tokenizer, context
        self._seed, self._lanes, self._size = seed, lanes, buffer
        self._state = state

    def blocks(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield each block, int64 (context + 1,), with the state of the lane after this block."""
        state = self._state
        tokens = np.zeros(0, np.int64)
        for document, begun in self._documents(state):
            fresh = np.array([*self._tokenizer.encode([document])[0], self._tokenizer.end], np.int64)
            skipped = (
                state["offset"]
                if begun["document"] == state["document"] and begun["buffers"] == state["buffers"]
                else 0
            )
            tokens = np.concatenate([tokens, fresh[skipped:]])
            while len(tokens) > self._context:
                block, tokens = tokens[: self._context + 1], tokens[self._context :]
                # The remaining tokens are the end of this document.
                yield torch.from_numpy(block), {**begun, "offset": len(fresh) - len(tokens)}

    def _documents(self, state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each document with the lane's state before it, starting with the document that `state` points to."""
        buffers, first, place = max(state["buffers"] - 1, 0), max(state["document"], 0), state["dataset"]
        while True:
            dataset = self._stream.lane(self.number, self._lanes)
            if place is not None:
                dataset.load_state_dict(place)
            else:
                place = dataset.state_dict()
            rows = self._stream.read(dataset)
            found = False
            while documents := list(islice(rows, self._size)):
                found = True
                buffers += 1
                order = self._order(len(documents), buffers)
                for number in range(first, len(order)):
                    begun = {"dataset": place, "buffers": buffers, "document": number, "offset": 0}
                    yield documents[order[number]], begun
                first, place = 0, dataset.state_dict()
            if not found and buffers == 0:
                raise ValueError(
                    f"lane {self.number} of {self._lanes} has no document; take fewer lanes or a larger corpus."
                )
            place = None

    def _order(self, documents: int, buffers: int) -> list[int]:
        digest = hashlib.blake2b(f"{self._seed}:{self.number}:{buffers}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.randperm(documents, generator=generator).tolist()


class _Lanes(IterableDataset[tuple[int, Tensor, dict[str, Any]]]):
    """Blocks from several lanes, one from each lane in turn. Each worker reads some of the lanes."""

    def __init__(self, lanes: list[_Lane]) -> None:
        self._all = lanes

    def __iter__(self) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        worker = get_worker_info()
        lanes = self._all if worker is None else self._all[worker.id :: worker.num_workers]
        # The `datasets` library must not know about the workers, or it would divide each lane among them again.
        torch_worker._worker_info = None
        sources = [lane.blocks() for lane in lanes]
        for turn in count():
            number = turn % len(lanes)
            block, state = next(sources[number])
            yield lanes[number].number, block, state


def _check_shares(batch: int, ranks: int) -> None:
    if batch < 1 or batch % ranks:
        raise ValueError(f"batch is {batch}, for {ranks} ranks; expected a positive multiple of the number of ranks.")
