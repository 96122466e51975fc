"""The recorded numbers, and our plan of a recorded run."""

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
    """The content of one of the files."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def mask_of(rows: Sequence[str]) -> Tensor:
    """A mask from strings of 0 and 1, one for each output."""
    return torch.tensor([[link == "1" for link in row] for row in rows])


def links_of(weight: Tensor, gradient: Tensor | None = None) -> removal.WeightedLinks:
    """The links of a recorded weight, which is 0 elsewhere."""
    outputs, inputs = (weight != 0).nonzero().T
    rows, columns = weight.shape
    gradients = None if gradient is None else gradient[outputs, inputs]
    return removal.WeightedLinks(outputs, inputs, weight[outputs, inputs], gradients, (rows, columns))


def budget_of(method: Method, shapes: Sequence[Sequence[int]], steps: int, every: int) -> Budget:
    """Our plan of a recorded run at 90 % sparsity; the names of the layers are their numbers."""
    sizes = {str(layer): (rows, columns) for layer, (rows, columns) in enumerate(shapes)}
    return Budget(method, 0.9, Timeline(steps, every, method.turnover.stop), sizes)


def wrong_skips(method: Method, budget: Budget, skipped: Sequence[int]) -> str | None:
    """The error in the steps that the optimizer skips; one more is right if there are no more links to exchange."""
    if not method.turnover.skip_optimizer:
        return "the optimizer skips no step before an update"
    ours = [step for step in budget.updates() if budget.zeta(step) > 0 or step in skipped]
    return None if ours == list(skipped) else f"skipped steps {ours}, recorded {skipped}"
