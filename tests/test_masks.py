import pytest
import torch
from torch import Tensor

from chts_core.compiled import masks

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
