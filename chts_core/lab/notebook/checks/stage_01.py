"""Checks of stage 01, networks as masks."""

from collections.abc import Callable

import torch
from torch import Tensor

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.topology import receptive_field


def links_per_output(links_per_output: float | None) -> None:
    """Degrees that fit: the number of links of each output."""
    assert links_per_output is not None, "replace None in the cell above by a number."
    mask = receptive_field(100, 40, 0.1, generator=torch.Generator().manual_seed(0))
    counted = mask.sum(dim=1).unique().tolist()
    slips = {
        "the mean number of links of an input": 10,
        "the number of absent links of each output": 36,
        "the number of links of the whole layer": 400,
    }
    refuse(links_per_output, slips, 1e-6)
    assert counted == [links_per_output], (
        f"{links_per_output} is not right; the core gives every output another number."
    )


def four_cycles(four_cycles: Callable[[Tensor], int]) -> None:
    """Count the 4-cycles: a function of a mask that returns how many there are."""
    small = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    full = torch.ones(3, 3, dtype=torch.bool)
    block = torch.zeros(4, 5, dtype=torch.bool)
    block[:2, :3] = True
    counted = four_cycles(small)
    assert counted != 6, (
        "6 is the number of links. If you did count cycles: each output was paired with itself, and each pair counted "
        "in both orders."
    )
    assert counted != 4, "each cycle has four links; count the cycle, not its links."
    assert counted != 2, "each pair of outputs was counted in both orders."
    assert counted == 1, f"the small mask has 1 cycle, not {counted}; do pairs of equal outputs count?"
    assert four_cycles(block) == 3, f"two outputs that share 3 inputs lie on 3 cycles, not {four_cycles(block)}."
    assert four_cycles(full) == 9, f"3 pairs of outputs with 3 cycles each are 9, not {four_cycles(full)}."
