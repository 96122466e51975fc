"""Checks of stage 03, soft sampling."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from chts_core.sampling import temperature_from_softness


def temperature_and_softness(temperature: Callable[[float], float], softness: Callable[[float], float]) -> None:
    """Temperature and softness: T as a function of δ, and δ as a function of T."""
    for d in (0.0, 0.5, 0.75, 0.9):
        mine, right = temperature(d), temperature_from_softness(d)
        assert mine is not None, "temperature() returns None; replace it by a formula."
        assert math.isclose(mine, right, abs_tol=1e-9), f"δ = {d} gives T = {mine:g}; by hand δ / (1 - δ) is {right:g}."
        back = softness(right)
        assert back is not None, "softness() returns None; solve T = δ / (1 - δ) for δ."
        assert math.isclose(back, d, abs_tol=1e-9), f"T = {right:g} gives δ = {back:g}, but this T comes from δ = {d}."


def keep_links(keep_links: Callable[[Tensor, Tensor, int, float, torch.Generator], Tensor]) -> None:
    """Draw links: a function that keeps exactly `num_keep` links of a mask.

    The layer has 8 places. Four are links, with the scores 1, 2, 3 and 4. The places without a link hold the score 9,
    so a draw that goes there shows.
    """
    links = torch.tensor([[True, False, True, False], [False, True, False, True]])
    layer = torch.tensor([[1.0, 9.0, 2.0, 9.0], [9.0, 3.0, 9.0, 4.0]])
    scores, generator = layer[links], torch.Generator().manual_seed(0)
    for number, power in ((3, 1.0), (1, 0.0), (1, 1.0), (1, 3.0)):
        tries = [keep_links(layer, links, number, power, generator) for _ in range(2000)]
        assert tries[0] is not None, "keep_links() returns None; return a Boolean mask."
        kept = torch.stack([mask.bool() for mask in tries])
        sizes = kept.sum(dim=(1, 2)).unique().tolist()
        assert sizes == [number], (
            f"the draws kept {' or '.join(map(str, sizes))} links instead of {number}; take the top k, not a coin."
        )
        assert not (kept & ~links).any(), "a place without a link was drawn; give it the key -inf before the race."
        if number == 1:
            often, wanted = kept.float().mean(dim=0)[links], scores**power / (scores**power).sum()
            assert often.max() < 1, "every draw is the same; add the noise before you take the highest."
            came, due = (" ".join(f"{share:.2f}" for share in shares) for shares in (often, wanted))
            message = f"at T = {power:g} the scores 1 to 4 came with shares {came}, expected about {due}"
            assert torch.allclose(often, wanted, atol=0.06), f"{message}; does T multiply the logarithm, not the noise?"
