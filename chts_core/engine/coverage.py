"""How much of a model its sparse layers are, and what else it computes with."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from chts_core.checks import warn
from chts_core.engine.layers import Layer, linear_layers

# The Sparsifier warns if matrices that cannot be sparse hold more than this share.
_NOTEWORTHY = 0.1


@dataclass(frozen=True)
class Coverage:
    """The matrices of a model: its parameters of two dimensions or more, without embeddings.

    sparse: elements of the sparse layers.
    total: elements of all matrices.
    foreign: elements by name of the matrices that train but belong to no linear layer, such as convolutions, recurrent
        layers or experts stacked into one tensor. No choice of layers makes them sparse.
    """

    sparse: int
    total: int
    foreign: Mapping[str, int]

    @property
    def share(self) -> float:
        """Share of the elements that are in sparse layers."""
        return self.sparse / self.total

    @property
    def noteworthy(self) -> bool:
        """Whether much of the model stays dense, whatever was chosen."""
        return sum(self.foreign.values()) > _NOTEWORTHY * self.total

    def warn_if_noteworthy(self) -> None:
        """Warn if much of the model stays dense, whatever was chosen."""
        if self.noteworthy:
            warn(
                f"{self}. The sparsity is that of the sparse layers; density(whole_model=True) counts all. To say that "
                "this is meant, name the layers by include."
            )

    def __str__(self) -> str:
        text = f"the sparse layers hold {self.share:.1%} of the elements of the model's matrices, without embeddings"
        if not self.foreign:
            return text
        largest = sorted(self.foreign, key=lambda name: -self.foreign[name])
        names = ", ".join(largest[:3]) + (f" and {len(largest) - 3} others" if len(largest) > 3 else "")
        return f"{text}; {sum(self.foreign.values()) / self.total:.1%} are no linear layers and stay dense: {names}"


def coverage(model: nn.Module, layers: Mapping[str, Layer]) -> Coverage:
    """How much of a model some of its layers are.

    Args:
        model: with dense weights; call this before `execution="csr"` converts the layers.
        layers: the sparse ones, by name.
    """
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in embeddings
    }
    # Also what a parametrization of a linear layer holds.
    linear = tuple(f"{layer.parameter.rpartition('.')[0]}." for layer in linear_layers(model).values())
    return Coverage(
        sparse=sum(prod(layer.shape) for layer in layers.values()),
        total=sum(matrix.numel() for matrix in matrices.values()),
        foreign={
            name: matrix.numel()
            for name, matrix in matrices.items()
            if not name.startswith(linear) and matrix.requires_grad
        },
    )
