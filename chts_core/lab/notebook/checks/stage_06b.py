"""Checks of stage 06b, break it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from chts_core.lab.verify.injected_bugs import Patient, contradiction
from chts_core.tools.audit import audit


def absent_weights(absent_weights: Callable[[Tensor, Tensor], int], *, patient: Patient) -> None:
    """Write the check yourself: a function of a weight and a mask that counts absent links whose weight is not zero."""
    toy = torch.tensor([[1.0, 0.5, 0.0], [math.nan, 0.0, -2.0]])
    toy_mask = torch.tensor([[True, False, False], [False, True, True]])
    count = absent_weights(toy, toy_mask)
    assert count is not None, "return a number instead of None."
    assert count != 3, "3 is the number of absent links; count only the links whose weight is not zero."
    assert count != 1, "1: one of 0.5 and NaN is not counted. NaN > 0 is False; compare with != 0."
    assert count == 2, f"{count}: outside the mask are 0.5, 0 and NaN, of which 2 are not zero."
    assert absent_weights(toy, torch.ones_like(toy_mask)) == 0, "a full mask has no absent link."
    for finding in audit(patient.sparsifier):
        if finding.check == "absent weights":
            key = finding.layer
            number = absent_weights(patient.model.get_parameter(key), patient.sparsifier.masks[key])
            assert finding.message.startswith(f"{number} of"), f"you count {number} in {key}, not: {finding.message}"


def diagnosis(diagnosis: str | None, *, patient: Patient) -> None:
    """The mystery patient: the name of its fault."""
    assert diagnosis is not None, "replace None by the name of a fault."
    against = contradiction(diagnosis, patient.findings)
    assert against is None, against
