"""Choices that give all blocks of a layer the same number of links: constant fan-in, and N:M masks.

A block is a row of the mask (all inputs of one neuron), or a given number of consecutive inputs of a neuron. If the
links of a layer cannot be divided equally among the blocks, some blocks have one link more than the others.

- With block=None, the fan-in is constant at any sparsity, as in SRigL and in RigL with balanced output groups.
- For an N:M mask, which has N links in each block of M inputs, choose block=M and sparsity 1 - N/M. For example,
  block=4 and sparsity 0.5 give a 2:4 mask.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chts_core.choices import Regrowth, Removal
from chts_core.compiled.masks import mask_of, positions
from chts_core.removal import WeightedLinks, scores_of
from chts_core.sampling import choose, choose_in_blocks
from chts_core.topology import link_count


def check_blocks(shapes: Mapping[str, tuple[int, ...]], block: int | None) -> None:
    """Raise a ValueError unless the block size divides each layer's number of inputs (× kernel positions)."""
    for name, shape in shapes.items():
        inputs = math.prod(shape[1:])
        if block is not None and (block < 1 or inputs % block):
            raise ValueError(
                f"layer {name!r} has {inputs} inputs, which cannot be divided into blocks of {block}; choose a block "
                "that divides the inputs of all sparse layers, choose None for whole rows, or leave this layer dense "
                "with `exclude`."
            )


def quotas(links: int, shape: tuple[int, int], block: int | None) -> Tensor:
    """The number of links in each block, int64 (blocks,). Some blocks may have one link more than the others.

    If `links` rises, no block loses links. A fixed order decides which blocks have one link more. This order spreads
    these blocks over the layer.
    """
    blocks = shape[0] * shape[1] // (block or shape[1])
    spread = torch.arange(blocks, dtype=torch.float64) * ((3 - 5**0.5) / 2) % 1
    return links // blocks + (spread.argsort().argsort() < links % blocks).long()


@dataclass(frozen=True)
class Balanced:
    """Makes initial masks with links drawn uniformly at random, the same number in each block."""

    block: int | None = None

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        """The initial mask of a layer; see :class:`chts_core.choices.Topology`."""
        shape = out_features, in_features
        check_blocks({"": shape}, self.block)
        blocks = torch.arange(out_features * in_features, device=generator.device) // (self.block or in_features)
        nums = quotas(link_count(*shape, density), shape, self.block)
        return mask_of(choose_in_blocks(torch.ones_like(blocks), blocks, nums, generator=generator), shape)

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise an error unless the block size divides the number of inputs of each layer."""
        check_blocks(shapes, self.block)

    def check_mask(self, mask: Tensor, source: str) -> None:
        """Raise a ValueError if the numbers of links in two blocks of a mask differ by more than one."""
        links = mask.reshape(-1, self.block or mask.shape[1]).sum(1)
        if int(links.max() - links.min()) > 1:
            raise ValueError(
                f"{source} has blocks with {int(links.min())} to {int(links.max())} links; expected the same number in "
                f"each block of {self}, or one more in some blocks. Give balanced masks, or start dense with "
                "sparsity=Cubic(initial=0)."
            )


@dataclass(frozen=True)
class BalancedRemoval(Removal):
    """Prunes each block to its share of the links, then removes the links to be exchanged.

    by_block: whether each block loses the same number of links, as in RigL with balanced groups. Otherwise, the links
        with the lowest scores in the layer are removed, as in SRigL. In both cases, :class:`BalancedRegrowth` restores
        the balance.
    """

    block: int | None = None
    by_block: bool = False

    def __call__(
        self,
        links: WeightedLinks,
        target: int,
        exchanged: int,
        temperature: float | None,
        _: Tensor | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Indices of the links that an update keeps; see :class:`chts_core.choices.Removal`."""
        blocks = (links.outputs * links.shape[1] + links.inputs) // (self.block or links.shape[1])

        def at_most(total: int, of: Tensor) -> Tensor:
            nums = quotas(total, links.shape, self.block).to(of.device)
            return torch.minimum(nums, torch.bincount(of, minlength=len(nums)))

        score = scores_of(links, self.prune or self.score)
        pruned = choose_in_blocks(score, blocks, at_most(target, blocks), soft=False, generator=generator)
        pruned = pruned.sort().values
        links, blocks = links.only(pruned), blocks[pruned]
        soft, exponent = temperature is not None, 1.0 if temperature is None else temperature
        score, num = scores_of(links, self.score), max(len(pruned) - exchanged, 0)
        if self.by_block:
            nums = at_most(num, blocks)
            kept = choose_in_blocks(score, blocks, nums, temperature=exponent, soft=soft, generator=generator)
        else:
            kept = choose(score, num, temperature=exponent, soft=soft, generator=generator)
        return pruned[kept]


@dataclass(frozen=True)
class BalancedRegrowth(Regrowth):
    """Regrows missing links by their scores until each block has its share of the links."""

    block: int | None = None

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise an error unless the block size divides the number of inputs of each layer."""
        check_blocks(shapes, self.block)

    def __call__(
        self,
        links: Tensor,
        shape: tuple[int, int],
        num: int,
        gradient: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Choose exactly `num` links that do not exist yet; see :class:`chts_core.choices.Regrowth`."""
        size, mask = self.block or shape[1], mask_of(links, shape)
        missing = positions(~mask)
        if num in (0, len(missing)):
            return missing if num else links[:0]
        there = mask.view(-1, size).sum(1)
        nums = quotas(len(links) + num, shape, self.block).to(there.device) - there
        scores = self.scores(mask, gradient, past).flatten()[missing]
        chosen = choose_in_blocks(scores, missing // size, nums, soft=self.soft, generator=generator)
        return missing[chosen].sort().values
