"""A model for beam search by hand: the next piece depends only on the last piece."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from chts_core.lab.data import BEGIN, END
from chts_core.lab.decoding import Hypothesis, beam_search
from chts_core.lab.models import Transformer

FIRST, LAST = "<s>", "</s>"
_NEVER = 1e-30  # the search needs finite logarithms


@dataclass(frozen=True)
class _State:
    """The state of a translation; it is empty, because this model needs no memory."""

    def select(self, _: Tensor) -> "_State":
        return self


class _NextPieces(nn.Module):
    """A translator with only the methods that beam search calls. `chances` (pieces, pieces) has a row for each last
    piece.
    """

    def __init__(self, chances: Tensor) -> None:
        super().__init__()
        self.logits = chances.clamp_min(_NEVER).log()

    def start(self, _: Tensor) -> _State:
        return _State()

    def step(self, tokens: Tensor, _: _State) -> Tensor:
        return self.logits[tokens]


def search(
    following: Mapping[str, Mapping[str, float]], beam: int, max_length: int = 20
) -> tuple[list[str], Hypothesis]:
    """Find the best translation in a table of next pieces, with :func:`chts_core.lab.decoding.beam_search`.

    Args:
        following: for each piece, the chances of the pieces that may come next; a translation begins after "<s>" and
            ends with "</s>".
        beam: the number of beginnings of translations that the search keeps at each step.
        max_length: the largest number of pieces in a translation.

    Returns:
        The pieces of the best translation, and its hypothesis, which contains the log-probability and the score.

    Raises:
        ValueError: if a possible piece has no row in the table, or if the chances of a row do not sum to 1.
    """
    numbers = {FIRST: BEGIN, LAST: END}
    numbers |= {piece: 4 + place for place, piece in enumerate(piece for piece in following if piece != FIRST)}
    chances = torch.zeros(len(numbers) + 2, len(numbers) + 2)
    for piece, row in following.items():
        unknown = sorted(row.keys() - numbers.keys())
        if unknown or abs(sum(row.values()) - 1) > 1e-6:
            raise ValueError(
                f"{piece!r} is followed by {dict(row)}; expected chances that sum to 1, for pieces that have a row."
            )
        for after, chance in row.items():
            chances[numbers[piece], numbers[after]] = chance
    model = cast(Transformer, _NextPieces(chances))
    (found,) = beam_search(model, torch.tensor([[END]]), beam, max_length)
    names = {number: piece for piece, number in numbers.items()}
    return [names[token] for token in found.tokens], found
