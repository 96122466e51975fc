import pytest
import torch

import chts_core as chts

MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def as_mask(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


def test_degrees_by_hand() -> None:
    outputs, inputs = chts.diagnostics.degrees(MASK)
    assert outputs.tolist() == [2, 1]
    assert inputs.tolist() == [1, 2, 0, 0]
    assert outputs.dtype == inputs.dtype == torch.int64


@pytest.mark.parametrize(
    ("removed", "regrown", "expected"),
    [
        ((1, 1, 0, 0), (1, 1, 0, 0), 1.0),
        ((1, 1, 0, 0), (0, 0, 1, 1), 0.0),
        ((1, 1, 1, 0), (0, 0, 1, 1), 0.5),
        # A share of the regrown links, not of the removed nor of the union.
        ((1, 0, 0, 0), (1, 1, 1, 1), 0.25),
        ((1, 1, 1, 1), (1, 0, 0, 0), 1.0),
        ((1, 1, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_overlap_by_hand(removed: tuple[int, ...], regrown: tuple[int, ...], expected: float) -> None:
    assert chts.diagnostics.overlap(as_mask(*removed), as_mask(*regrown)) == expected


def test_itop_rate_by_hand() -> None:
    assert chts.diagnostics.itop_rate(MASK) == 3 / 8
