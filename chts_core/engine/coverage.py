"""The share of a model that is in its sparse layers, and why its other matrices stay dense."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from chts_core.checks import warn
from chts_core.engine.forward import GUESSED, LAST, OF_OUTPUTS
from chts_core.engine.kinds import matrices
from chts_core.engine.layers import EXCLUDED, NOT_INCLUDED, Chosen

# The Sparsifier warns if the sparse layers contain less than this share of the elements.
_LITTLE = 0.5
# Users expect matrices to stay dense for these reasons, so the warning does not count these matrices.
_EXPECTED = (EXCLUDED, NOT_INCLUDED, OF_OUTPUTS, LAST, GUESSED)


@dataclass(frozen=True)
class Coverage:
    """The matrices of a model: its parameters of two dimensions or more, without embeddings and biases.

    sparse: number of elements of the sparse layers.
    total: number of elements of all matrices.
    dense: for each matrix that is trained but stays dense, by name: its number of elements, and why it stays dense.
    """

    sparse: int
    total: int
    dense: Mapping[str, tuple[int, str]]

    @property
    def share(self) -> float:
        """Share of the elements that are in sparse layers."""
        return self.sparse / self.total

    def warn_if_small(self) -> None:
        """Warn if less than half of the model is in sparse layers.

        The warning ignores output layers, frozen layers, and layers that the user has left out by name.
        """
        dense = sum(size for size, why in self.dense.values() if why not in _EXPECTED)
        if self.sparse < _LITTLE * (self.sparse + dense):
            warn(
                f"{self}. The sparsity counts only the sparse layers; density(whole_model=True) counts all matrices "
                "except embeddings. To silence this warning, choose the sparse layers with the "
                "argument include."
            )

    def __str__(self) -> str:
        text = (
            f"the sparse layers contain {self.share:.1%} of the elements of the model's matrices, not counting "
            "embeddings"
        )
        by_reason: dict[str, list[str]] = {}
        for name in sorted(self.dense, key=lambda name: -self.dense[name][0]):
            by_reason.setdefault(self.dense[name][1], []).append(name)
        parts = []
        for reason, names in by_reason.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
            share = sum(self.dense[name][0] for name in names) / self.total
            parts.append(f"{share:.1%} stay dense: {shown} ({reason})")
        return "; ".join([text, *parts])


def coverage(model: nn.Module, chosen: Chosen) -> Coverage:
    """The share of a model that is in its sparse layers.

    Args:
        model: a model with dense weights; call this function before `execution="csr"` converts the layers.
        chosen: the sparse layers, and the reasons why the other layers stay dense.
    """
    sizes = {name: matrix.numel() for name, matrix in matrices(model).items()}
    return Coverage(
        sparse=sum(prod(layer.shape) for layer in chosen.layers.values()),
        total=sum(sizes.values()),
        dense={name: (sizes[name], why) for name, why in chosen.dense.items() if name in sizes},
    )
