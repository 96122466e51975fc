import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chts_core.compiled import masks
from chts_core.engine.weights import count_bits, pack_bits, set_bits, unpack_bits

MASK = torch.tensor([[True, False, False, True], [False, False, True, False]])


def test_by_hand() -> None:
    assert masks.count(MASK) == 3
    assert masks.positions(MASK).tolist() == [0, 3, 6]
    assert [ends.tolist() for ends in masks.pairs(MASK)] == [[0, 0, 1], [0, 3, 2]]
    assert masks.any_along(MASK, 0).tolist() == [True, False, True, True]
    assert masks.any_along(MASK[:, 1:2], 1).tolist() == [False, False]


@pytest.mark.twin("compiled.masks", "torch.count_nonzero, nonzero, any", "numbers")
@pytest.mark.parametrize(
    "mask", [MASK.T, MASK[:, ::2], MASK[:0], MASK[:, :0], ~MASK, torch.zeros(3, 5, dtype=torch.bool)]
)
def test_the_answers_are_those_of_torch(mask: Tensor) -> None:
    assert masks.count(mask) == int(mask.count_nonzero())
    assert torch.equal(masks.positions(mask), mask.flatten().nonzero().squeeze(1))
    assert torch.equal(masks.any_along(mask, 0), mask.any(0))
    assert torch.equal(masks.any_along(mask, 1), mask.any(1))
    if mask.shape[1]:
        assert torch.equal(torch.stack(masks.pairs(mask), 1), mask.nonzero())


# --- lists of links ---

PLACES = st.sets(st.integers(0, 59)).map(sorted)  # of a mask of 6×10


def listed(places: list[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


@given(PLACES, PLACES)
def test_lists_are_compared_and_merged_as_sets_are(one: list[int], other: list[int]) -> None:
    found = masks.among(listed(one), listed(other))
    assert [place for place, is_there in zip(one, found.tolist(), strict=True) if is_there] == sorted({*one} & {*other})
    rest = sorted({*other} - {*one})
    both, new = masks.merged(listed(one), listed(rest))
    assert both.tolist() == sorted({*one, *rest})
    assert both[new].tolist() == rest


@given(PLACES)
def test_a_list_a_mask_and_pairs_of_ends_say_the_same(places: list[int]) -> None:
    mask = masks.mask_of(listed(places), (6, 10))
    assert masks.positions(mask).tolist() == places
    assert [ends.tolist() for ends in masks.ends(listed(places), (6, 10))] == [
        [place // 10 for place in places],
        [place % 10 for place in places],
    ]


@given(PLACES, PLACES)
def test_bits_are_set_and_counted(before: list[int], more: list[int]) -> None:
    bits = pack_bits(masks.mask_of(listed(before), (6, 10)))
    set_bits(bits, listed(more))
    assert count_bits(bits) == len({*before, *more})
    assert masks.positions(unpack_bits(bits, (6, 10))).tolist() == sorted({*before, *more})


def test_many_links_are_kept_as_a_mask_and_few_as_a_list() -> None:
    few, many = listed([3, 8, 59]), torch.arange(0, 60, 2)
    lists = masks.LinkLists({"few": (6, 10), "many": (6, 10)}, {"few": few, "many": many})
    assert torch.equal(lists["few"], few)
    assert torch.equal(lists["many"], many)
    assert lists.nbytes == 3 * 8 + 60
    assert {name: len(links) for name, links in lists.items()} == {"few": 3, "many": 30}
    del lists["many"]
    assert lists.nbytes == 3 * 8
