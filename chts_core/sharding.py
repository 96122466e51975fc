"""Tensors whose rows are shared out among processes, as `torch.distributed.fsdp.fully_shard` does it."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this rank has some of a tensor's rows alone."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a tensor, which changes with it; the tensor itself where it is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_rows(tensor: Tensor) -> slice:
    """Which rows of a tensor are this rank's share.

    Raises:
        ValueError: if it is shared out in any other way than by rows among all ranks.
    """
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor))
    if tensor.placements != (Shard(0),):
        raise ValueError(
            f"a weight of shape {tuple(tensor.shape)} is shared out as {tensor.placements}; expected rows among all "
            "ranks, as by fully_shard(model) with a mesh of one dimension."
        )
    size = -(-len(tensor) // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * size, len(tensor))
    return slice(start, min(start + size, len(tensor)))


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank: a collective where it is shared out, and the tensor itself where it is not."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_from_local(part: Tensor, like: Tensor) -> Tensor:
    """All of a tensor of which this rank has the rows that it has of another: a collective where that is shared out."""
    if not isinstance(like, DTensor):
        return part
    shape, mesh = like.shape, like.device_mesh
    return DTensor.from_local(
        part, mesh, like.placements, run_check=False, shape=shape, stride=torch.empty(shape, device="meta").stride()
    ).full_tensor()


def share_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, shared out as another of its shape is, without sending anything."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
