"""Blocks without padding, and batches that do not depend on how many processes share them."""

import functools
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chts_core.lab import data
from chts_core.lab.data import MemoryFeed, StreamFeed, TextData, TextStream, packing
from chts_core.lab.train import checkpoint

TOKENIZER = data.train_tokenizer(TextData("some", ["abcdefgh"], []), 257)
A = TOKENIZER.encode(["a"])[0][0]
TEXTS = [f"<{number}>" + "x" * (number * 7 % 23) for number in range(30)]


def text_of(block: Tensor) -> str:
    """With "|" for the end of a document."""
    return "".join("|" if token == TOKENIZER.end else TOKENIZER.decode([token]) for token in block.tolist())


# --- packing ---


def test_documents_are_cut_into_blocks_that_share_a_token() -> None:
    blocks = data.pack(["abc", "d", "efgh"], TOKENIZER, 3)
    assert [text_of(block) for block in blocks] == ["abc|", "|d|e", "efgh"]
    assert blocks.dtype == torch.int32


@given(st.lists(st.text(max_size=9), min_size=1, max_size=80), st.integers(1, 7), st.integers(1, 9))
@settings(deadline=None)
def test_every_token_but_the_first_is_predicted_once(documents: list[str], context: int, most: int) -> None:
    tokens = [token for text in documents for token in (*TOKENIZER.encode([text])[0], TOKENIZER.end)]
    number = (len(tokens) - 1) // context
    for limit in (None, most):
        kept = number if limit is None else min(number, limit)
        if number == 0:
            with pytest.raises(ValueError, match="expected at least"):
                data.pack(documents, TOKENIZER, context, most=limit)
            continue
        blocks = data.pack(documents, TOKENIZER, context, most=limit)
        assert blocks.shape == (kept, context + 1)
        assert blocks[:, 1:].flatten().tolist() == tokens[1 : 1 + kept * context]
        assert blocks[:, :-1].flatten().tolist() == tokens[: kept * context]


def test_no_more_is_read_than_is_wanted() -> None:
    read = []

    def documents() -> Any:
        for number in range(1000):
            read.append(number)
            yield "abcdefgh"

    assert data.pack(documents(), TOKENIZER, 9, most=3).shape == (3, 10)
    assert len(read) <= 64


def test_a_corpus_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the corpus has 4 tokens; expected at least 5, one more than context"):
        data.pack(["abc"], TOKENIZER, 4)


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"context is 0; expected at least 1"):
        data.pack(["abc"], TOKENIZER, 0)


# --- in memory ---

BLOCKS = torch.arange(10).view(10, 1).expand(10, 4)


def test_every_epoch_has_each_block_once_in_another_order() -> None:
    feed = MemoryFeed(BLOCKS, 4, seed=1)
    order = torch.cat([feed.next()[:, 0] for _ in range(15)])
    epochs = order.view(6, 10).tolist()
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert order.dtype == torch.int64
    other = MemoryFeed(BLOCKS, 4, seed=2)
    assert not torch.equal(torch.cat([other.next()[:, 0] for _ in range(15)]), order)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_same_batches_and_may_change_in_number(ranks: int) -> None:
    whole = MemoryFeed(BLOCKS, 4, seed=1)
    batches = [whole.next() for _ in range(6)]
    feeds = [MemoryFeed(BLOCKS, 4, 1, rank, ranks) for rank in range(ranks)]
    halfway = MemoryFeed(BLOCKS, 4, 1)
    for _ in range(3):
        halfway.next()
    for feed in feeds:
        feed.load_state_dict(halfway.state_dict())
    for batch in batches[3:]:
        for rank, feed in enumerate(feeds):
            assert torch.equal(feed.next(), batch[rank::ranks])


def test_a_corpus_shorter_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the corpus has 10 blocks of 3 tokens, and a batch has 11; take a smaller"):
        MemoryFeed(BLOCKS, 11, 0)


@pytest.mark.parametrize(("batch", "ranks"), [(4, 3), (0, 1)])
def test_ranks_that_cannot_share_a_batch_are_refused(batch: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"batch is {batch}, for {ranks} ranks; expected a positive multiple"):
        MemoryFeed(BLOCKS, batch, 0, 0, ranks)


# --- streams ---


def open_texts(shards: int) -> datasets.IterableDataset:
    return datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(num_shards=shards)


def feed_of(shards: int = 8, rank: int = 0, ranks: int = 1, workers: int = 0, **changes: Any) -> StreamFeed:
    settings = {"lanes": 4, "buffer": 3, **changes}
    stream = TextStream("Some texts", "take others.", functools.partial(open_texts, shards))
    return StreamFeed(stream, TOKENIZER, 5, 8, 1, rank=rank, ranks=ranks, workers=workers, **settings)


def plain(shards: int, batches: int, context: int = 5, lanes: int = 4, buffer: int = 3) -> list[Tensor]:
    """The same batches, by reading everything from the beginning."""
    rows: list[list[Tensor]] = []
    for lane in range(lanes):
        mine = split_dataset_by_node(open_texts(shards), rank=lane, world_size=lanes)
        documents = [row["text"] for row in mine]
        tokens: list[int] = []
        buffers = 0
        while len(tokens) <= batches * 8 // lanes * context:
            for start in range(0, len(documents), buffer):
                some = documents[start : start + buffer]
                buffers += 1
                for number in packing._Lane._order(lane_of(lane), len(some), buffers):
                    tokens += [*TOKENIZER.encode([some[number]])[0], TOKENIZER.end]
        rows.append(list(torch.tensor(tokens).unfold(0, context + 1, context)))
    taken = [iter(lane) for lane in rows]
    return [torch.stack([next(taken[row % lanes]) for row in range(8)]) for _ in range(batches)]


def lane_of(number: int) -> packing._Lane:
    stream = TextStream("", "", list)
    return packing._Lane(stream, TOKENIZER, 5, 1, 4, 3, number, {})


@pytest.mark.parametrize("shards", [1, 2, 8, 9])
def test_lanes_are_packed_epoch_after_epoch(shards: int) -> None:
    feed = feed_of(shards)
    for batch in plain(shards, 25):
        assert torch.equal(feed.next(), batch)


def test_documents_are_shuffled_within_buffers_and_anew_in_each_epoch() -> None:
    orders = {tuple(lane_of(0)._order(9, buffers)) for buffers in range(1, 20)}
    assert len(orders) == 19
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert lane_of(0)._order(9, 1) != lane_of(1)._order(9, 1)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_it_goes_on_to_the_same_next_token_with_any_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    batches = plain(2, 14)
    before = [feed_of(2, rank, 2) for rank in range(2)]
    for step in range(9):
        state: dict[str, Any] = {"lanes": {}}
        for feed in before:
            state["lanes"] |= feed.state_dict()["lanes"]
        checkpoint.save(tmp_path / "state", state)
        saved = checkpoint.load(tmp_path / "state")
        after = [feed_of(2, rank, ranks) for rank in range(ranks)]
        for feed in after:
            feed.load_state_dict(saved)
        for batch in batches[step : step + 5]:
            for rank, feed in enumerate(after):
                assert torch.equal(feed.next(), batch[rank::ranks])
        for rank, feed in enumerate(before):
            assert torch.equal(feed.next(), batches[step][rank::2])


@pytest.mark.full  # processes take long to start; that a resumed run ends at the same bits is tested without them
def test_workers_read_ahead_but_the_state_is_that_of_what_was_handed_out() -> None:
    batches = plain(8, 8)
    feed = feed_of(8, workers=2)
    for batch in batches[:3]:
        assert torch.equal(feed.next(), batch)
    state = feed.state_dict()
    assert torch.equal(feed.next(), batches[3])
    for workers in (0, 2):
        again = feed_of(8, workers=workers)
        again.load_state_dict(state)
        for batch in batches[3:6]:
            assert torch.equal(again.next(), batch)


@pytest.mark.parametrize(
    ("lanes", "ranks", "workers", "multiple"), [(3, 1, 0, 1), (16, 1, 0, 1), (2, 4, 0, 4), (4, 2, 4, 8)]
)
def test_numbers_that_do_not_divide_each_other_are_refused(lanes: int, ranks: int, workers: int, multiple: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"lanes is {lanes}, with a batch of 8, {ranks} ranks and {workers} workers per rank; expected a number "
        rf"that divides 8 and is a multiple of {multiple}",
    ):
        feed_of(lanes=lanes, ranks=ranks, workers=workers)


def test_a_state_of_other_lanes_is_refused() -> None:
    state = feed_of(lanes=2).state_dict()
    with pytest.raises(ValueError, match=r"the saved state has 2 lanes, and this feed has 4; continue with the same"):
        feed_of().load_state_dict(state)


def test_a_lane_without_a_document_is_refused() -> None:
    stream = TextStream("Some texts", "", lambda: datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset())
    feed = StreamFeed(stream, TOKENIZER, 5, 8, 1, lanes=2, buffer=3)
    with pytest.raises(ValueError, match=r"lane 1 of 2 has no document; take fewer lanes or a larger corpus"):
        feed.next()
