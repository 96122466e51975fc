"""Sharded tensors: `torch.distributed.fsdp.fully_shard` distributes the rows of a tensor among processes."""

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

# torch's modules for this take more than half a second to import. Until something imports them, no tensor is sharded.


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this rank has only some of a tensor's rows."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_fully_sharded(module: nn.Module) -> "TypeGuard[FSDPModule]":
    """Whether `fully_shard` has been applied to a module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's share of a tensor (a view of the tensor), or the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def local_rows(tensor: Tensor) -> slice:
    """Which rows of a tensor are this rank's share.

    Raises:
        ValueError: if the tensor is sharded, but not by rows across all ranks.
    """
    if not is_sharded(tensor):
        return slice(0, len(tensor))
    from torch.distributed.tensor import Shard

    if tensor.placements != (Shard(0),):
        raise ValueError(
            f"a weight of shape {tuple(tensor.shape)} is sharded as {tensor.placements}; expected rows that are "
            "distributed among all ranks, as with fully_shard(model) and a mesh of one dimension."
        )
    size = -(-len(tensor) // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * size, len(tensor))
    return slice(start, min(start + size, len(tensor)))


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank. This is a collective operation if the tensor is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def full_from_shards(part: Tensor, like: Tensor) -> Tensor:
    """Put a whole tensor together from the rows that each rank has.

    The rows are distributed in the same way as the rows of `like`. This is a collective operation if `like` is
    sharded.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    shape, mesh = like.shape, like.device_mesh
    return DTensor.from_local(
        part, mesh, like.placements, run_check=False, shape=shape, stride=torch.empty(shape, device="meta").stride()
    ).full_tensor()


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor in the same way as `like`, a tensor of the same shape.

    Every rank must already have the whole tensor, so the function needs no communication between ranks.
    """
    if not is_sharded(like) or is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
