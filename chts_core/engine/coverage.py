"""Measure the share of a model that is in its sparse layers, and find the matrices that are in no linear layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from chts_core.checks import warn
from chts_core.engine.layers import Layer, linear_layers

# The Sparsifier warns if matrices that cannot be sparse contain more than this share of the elements.
_NOTEWORTHY = 0.1


@dataclass(frozen=True)
class Coverage:
    """The matrices of a model: its parameters of two dimensions or more, without embeddings.

    sparse: number of elements of the sparse layers.
    total: number of elements of all matrices.
    foreign: number of elements, by name, of each matrix that trains but belongs to no linear layer, for example in a
        convolution, a recurrent layer, or experts stacked into one tensor. These matrices stay dense, whichever layers
        you choose.
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
        """Whether much of the model stays dense, whichever layers you choose."""
        return sum(self.foreign.values()) > _NOTEWORTHY * self.total

    def warn_if_noteworthy(self) -> None:
        """Warn if much of the model stays dense, whichever layers you choose."""
        if self.noteworthy:
            warn(
                f"{self}. The sparsity counts only the sparse layers; density(whole_model=True) counts all. To silence "
                "this warning, name the layers with include."
            )

    def __str__(self) -> str:
        text = (
            f"the sparse layers contain {self.share:.1%} of the elements of the model's matrices, not counting "
            "embeddings"
        )
        if not self.foreign:
            return text
        largest = sorted(self.foreign, key=lambda name: -self.foreign[name])
        names = ", ".join(largest[:3]) + (f" and {len(largest) - 3} others" if len(largest) > 3 else "")
        return f"{text}; {sum(self.foreign.values()) / self.total:.1%} are not in linear layers and stay dense: {names}"


def coverage(model: nn.Module, layers: Mapping[str, Layer]) -> Coverage:
    """The share of a model's matrices that is in its sparse layers.

    Args:
        model: a model with dense weights; call this before `execution="csr"` converts the layers.
        layers: the sparse layers, by name.
    """
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in embeddings
    }
    # This includes the tensors of a parametrised linear layer.
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
