"""Read the recorded numbers, and prepare runs with the settings of the recorded runs."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chts_core import removal
from chts_core.budget import Budget
from chts_core.methods import Method
from chts_core.schedules import Timeline

Outcome = tuple[bool | None, str]  # None: no recording, or not applicable


@cache
def recorded(name: str) -> Any:
    """The content of one of the files with recordings."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def mask_of(rows: Sequence[str]) -> Tensor:
    """Turn strings of 0 and 1, one for each output, into a mask."""
    return torch.tensor([[link == "1" for link in row] for row in rows])


def links_of(weight: Tensor, gradient: Tensor | None = None) -> removal.WeightedLinks:
    """The links of a recorded weight; the weight of every missing link is 0."""
    outputs, inputs = (weight != 0).nonzero().T
    rows, columns = weight.shape
    gradients = None if gradient is None else gradient[outputs, inputs]
    return removal.WeightedLinks(outputs, inputs, weight[outputs, inputs], gradients, (rows, columns))


def budget_of(method: Method, shapes: Sequence[Sequence[int]], steps: int, every: int) -> Budget:
    """The budget of our method for a recorded run at 90 % sparsity; layers are named by their numbers."""
    sizes = {str(layer): (rows, columns) for layer, (rows, columns) in enumerate(shapes)}
    return Budget(method, 0.9, Timeline(steps, every, method.turnover.stop), sizes)


def wrong_skips(method: Method, budget: Budget, skipped: Sequence[int]) -> str | None:
    """What is wrong with the steps that the optimizer skips, or None. If an update exchanges no links, the
    optimizer may skip its step or take it.
    """
    if not method.turnover.skip_optimizer:
        return "the optimizer skips no step before an update"
    ours = [step for step in budget.updates() if budget.zeta(step) > 0 or step in skipped]
    return None if ours == list(skipped) else f"the optimizer skips steps {ours}; the recording has {skipped}"
