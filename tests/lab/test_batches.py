from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chts_core.lab import data
from chts_core.lab.data import BEGIN, END, PAD, EncodedPairs, Pair, TranslationData, Vocabulary

MODULE = import_module("chts_core.lab.data.batches")  # the package has a function of this name

# A vocabulary of letters, so that a sentence of n letters without spaces has n + 1 subwords: "▁" and each letter.
LETTERS = data.train_vocabulary(TranslationData("letters", ("en", "de"), [("a b c d", "a b c d")], [], []), 9)


def of_length(source: int, target: int, letters: str = "ab") -> Pair:
    """A pair of so many subwords on each side, two or more."""
    return letters[0] * (source - 1), letters[1] * (target - 1)


def encode(lengths: list[tuple[int, int]]) -> EncodedPairs:
    return data.encode_pairs([of_length(*pair) for pair in lengths], LETTERS, 1000, drop_long=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- encoding ---


def test_pairs_are_encoded_as_the_vocabulary_does_in_their_order() -> None:
    pairs = [("a b", "c"), ("d", "b c d"), ("abcd", "a")]
    encoded = data.encode_pairs(pairs, LETTERS, 10, drop_long=False)
    assert (len(encoded), encoded.left_out) == (3, 0)
    batch = data.collate(encoded, torch.arange(3), "cpu")
    for side, rows in ((0, batch.source.tolist()), (1, batch.target.tolist())):
        begun = [BEGIN] if side else []
        for row, pair in zip(rows, pairs, strict=True):
            ids = LETTERS.encode([pair[side]])[0]
            assert row == [*begun, *ids, END, *[PAD] * (len(row) - len(begun) - len(ids) - 1)]
            assert LETTERS.decode(row) == pair[side]
    assert encoded.lengths.tolist() == [len(LETTERS.encode([max(pair, key=len)])[0]) + 1 for pair in pairs]


def test_storage_is_of_32_bits() -> None:
    encoded = encode([(3, 4), (5, 2)])
    assert (encoded.source.tokens.dtype, encoded.target.tokens.dtype) == (torch.int32, torch.int32)
    assert (len(encoded.source.tokens), len(encoded.target.tokens)) == (8, 6)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    pairs = [of_length(2 + i % 5, 9 - i % 4) for i in range(1, 15)]
    whole = data.encode_pairs(pairs, LETTERS, 8, drop_long=True)
    monkeypatch.setattr(MODULE, "_CHUNK", chunk)
    parts = data.encode_pairs(iter(pairs), LETTERS, 8, drop_long=True)
    assert whole.left_out == parts.left_out == sum(len(target) + 1 > 8 for _, target in pairs) > 0
    for side in ("source", "target"):
        for field in ("tokens", "starts"):
            assert torch.equal(getattr(getattr(whole, side), field), getattr(getattr(parts, side), field))


def test_a_stream_is_never_held_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_CHUNK", 5)
    drawn = 0
    seen = []

    def stream() -> Iterator[Pair]:
        nonlocal drawn
        for _ in range(23):
            drawn += 1
            yield "a b", "c"

    class Watching(Vocabulary):
        def __init__(self) -> None:
            pass

        def encode(self, texts: list[str]) -> list[list[int]]:  # type: ignore[override]
            seen.append((drawn, len(texts)))
            return LETTERS.encode(texts)

    assert len(data.encode_pairs(stream(), Watching(), 10, drop_long=False)) == 23
    # Twice, for both sides: no more is drawn than the next few pairs.
    assert seen == [(drawn, size) for drawn, size in ((5, 5), (10, 5), (15, 5), (20, 5), (23, 3)) for _ in range(2)]


def test_no_pairs_are_no_batches() -> None:
    encoded = data.encode_pairs([], LETTERS, 10, drop_long=False)
    assert (len(encoded), encoded.left_out, data.batches(encoded, 100), data.batches(encoded, 100, seeded())) == (
        0,
        0,
        [],
        [],
    )
    assert len(data.encode_pairs([of_length(5, 5)], LETTERS, 4, drop_long=True)) == 0


LONG = [(4, 4), (4, 5), (4, 4), (5, 4), (6, 9), (2, 2)]


def test_pairs_over_the_limit_are_left_out_and_counted() -> None:
    pairs = [of_length(*pair) for pair in LONG]
    encoded = data.encode_pairs(pairs, LETTERS, 4, drop_long=True)
    assert (len(encoded), encoded.left_out) == (3, 3)
    assert encoded.lengths.tolist() == [5, 5, 3]  # those that are left, in their order
    assert data.encode_pairs(pairs, LETTERS, 9, drop_long=True).left_out == 0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (LONG, "the target sentence of pair 2 has 5 subwords; expected at most 4"),
        (LONG[2:], "the source sentence of pair 2 has 5 subwords; expected at most 4"),
        (LONG[4:], "the target sentence of pair 1 has 9 subwords; expected at most 4"),
        ([(2, 2)] * 10_000 + LONG[3:], "the source sentence of pair 10,001 has 5 subwords; expected at most 4"),
    ],
)
def test_a_pair_over_the_limit_is_refused_with_its_number(pairs: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(
        ValueError, match=f"{message}. Raise max_length, .* or leave such pairs out with drop_long=True"
    ):
        data.encode_pairs([of_length(*pair) for pair in pairs], LETTERS, 4, drop_long=False)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_lets_nothing_through_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_length is {limit}; expected at least 1"):
        data.encode_pairs([], LETTERS, limit, drop_long=True)


# --- batches ---


LENGTHS = st.lists(st.tuples(st.integers(2, 12), st.integers(2, 12)), max_size=40)


@given(LENGTHS, st.integers(13, 60), st.none() | st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_batches_hold_every_pair_once_and_keep_the_limit(
    lengths: list[tuple[int, int]], limit: int, seed: int | None
) -> None:
    encoded = encode(lengths)
    made = data.batches(encoded, limit, None if seed is None else seeded(seed))
    assert sorted(number for batch in made for number in batch.tolist()) == list(range(len(lengths)))
    assert all(batch.dtype == torch.int64 and len(batch) for batch in made)
    # Counted in the padded batch itself: the END counts, the BEGIN does not.
    taken = []
    for batch in made:
        padded = data.collate(encoded, batch, "cpu")
        assert padded.source.shape[1] == max(lengths[number][0] for number in batch.tolist()) + 1
        assert padded.target.shape[1] == max(lengths[number][1] for number in batch.tolist()) + 2
        taken.append(len(batch) * max(padded.source.shape[1], padded.target.shape[1] - 1))
    assert all(count <= limit for count in taken)
    # In order of length no batch could take the shortest pair of the next.
    longest = [sorted(max(lengths[number]) + 1 for number in batch.tolist()) for batch in made]
    in_order = sorted(longest)
    assert [length for batch in in_order for length in batch] == sorted(max(pair) + 1 for pair in lengths)
    if seed is None:
        order = [number for batch in made for number in batch.tolist()]
        assert order == sorted(range(len(lengths)), key=lambda number: max(lengths[number]))  # equals in their order
        for batch, following in pairwise(longest):
            assert (len(batch) + 1) * following[0] > limit


def test_batches_by_hand() -> None:
    encoded = encode([(4, 2), (2, 2), (6, 6), (3, 4), (2, 3), (2, 2)])  # with END: 5, 3, 7, 5, 4, 3
    made = {limit: [batch.tolist() for batch in data.batches(encoded, limit)] for limit in (9, 10, 12, 41, 42)}
    assert made == {
        9: [[1, 5], [4], [0], [3], [2]],
        10: [[1, 5], [4, 0], [3], [2]],
        12: [[1, 5, 4], [0, 3], [2]],
        41: [[1, 5, 4, 0, 3], [2]],
        42: [[1, 5, 4, 0, 3, 2]],
    }


def test_a_pair_over_the_limit_of_a_batch_is_refused() -> None:
    encoded = encode([(2, 2), (2, 7), (3, 3)])
    assert len(data.batches(encoded, 8)) == 2
    for generator in (None, seeded()):
        with pytest.raises(
            ValueError, match=r"pair 2 takes 8 tokens, including END; .*batch_tokens, 7\. Set .* to 8 or more"
        ):
            data.batches(encoded, 7, generator)


def test_the_generator_alone_decides_and_mixes_pairs_and_batches() -> None:
    encoded = encode([(2 + number % 4, 2) for number in range(200)])
    first, again = (data.batches(encoded, 40, seeded(3)) for _ in range(2))
    torch.manual_seed(99)
    elsewhere = data.batches(encoded, 40, seeded(3))
    assert [b.tolist() for b in first] == [b.tolist() for b in again] == [b.tolist() for b in elsewhere]
    generator = seeded(3)
    epochs = [data.batches(encoded, 40, generator) for _ in range(2)]
    assert [batch.tolist() for batch in epochs[0]] == [batch.tolist() for batch in first]
    for made in epochs:
        lengths = [int(encoded.lengths[batch].max()) for batch in made]
        assert lengths != sorted(lengths)  # the batches come in random order
    members = [{frozenset(batch.tolist()) for batch in made} for made in epochs]
    assert len(members[0] & members[1]) < 3  # and with other neighbours in the next epoch
    assert torch.initial_seed() == 99


def test_every_order_of_pairs_and_of_batches_comes_up_equally_often() -> None:
    # Four pairs of one length in batches of two: each of the 24 orders is expected 100 times.
    encoded = encode([(3, 3)] * 4)
    generator = seeded()
    counts = torch.zeros(4, 4, 4, 4)
    for _ in range(2400):
        made = torch.cat(data.batches(encoded, 8, generator)).tolist()
        counts[tuple(made)] += 1
    seen = counts[counts > 0]
    assert len(seen) == 24
    assert float(((seen - 100) ** 2 / 100).sum()) < 49.7  # χ² with 23 degrees of freedom, 0.999


def test_batches_of_29000_pairs_hold_each_once() -> None:
    generator = seeded()
    lengths = torch.randint(5, 40, (29_000, 2), generator=generator)
    encoded = encode([])
    starts = torch.cat([torch.zeros(1, 2, dtype=torch.int64), lengths.cumsum(0)])
    kind = type(encoded.source)
    sides = [kind(torch.zeros(int(starts[-1, side]), dtype=torch.int32), starts[:, side]) for side in (0, 1)]
    whole = EncodedPairs(*sides, left_out=0)
    made = data.batches(whole, 1024, generator)
    assert torch.equal(torch.cat(made).sort().values, torch.arange(29_000))


# --- side by side ---


@given(LENGTHS.filter(bool), st.randoms())
@settings(max_examples=100, deadline=None)
def test_rows_are_their_sentences(lengths: list[tuple[int, int]], random: Random) -> None:
    pairs = [of_length(*pair, letters="abcd"[number % 3 :]) for number, pair in enumerate(lengths)]
    encoded = data.encode_pairs(pairs, LETTERS, 100, drop_long=False)
    chosen = random.choices(range(len(pairs)), k=5)
    batch = data.collate(encoded, torch.tensor(chosen), "cpu")
    assert (batch.source.dtype, batch.target.dtype) == (torch.int64, torch.int64)
    for padded, side, begun in ((batch.source, 0, []), (batch.target, 1, [BEGIN])):
        ids = LETTERS.encode([pairs[number][side] for number in chosen])
        rows = [[*begun, *row, END] for row in ids]
        width = max(map(len, rows))
        assert padded.tolist() == [row + [PAD] * (width - len(row)) for row in rows]


def test_a_batch_is_made_on_its_device() -> None:
    batch = data.collate(encode([(2, 3)]), torch.tensor([0]), "meta")
    assert (batch.source.device.type, batch.target.device.type) == ("meta", "meta")
    assert (batch.source.shape, batch.target.shape) == ((1, 3), (1, 5))
