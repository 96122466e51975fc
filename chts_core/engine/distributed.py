"""Several processes ("ranks") that train one model together: what they must agree on, and how they share work."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chts_core.engine.sharding import is_sharded
from chts_core.engine.weights import pack_bits, unpack_bits


class Ranks:
    """The processes that train copies or shards of a model. If there is only one process, it is the only rank.

    Every method except `owners` is a collective operation: all ranks call it in the same order, with the same names and
    shapes.

    Args:
        group: the group of the processes; None for only this process.
        device: the device of the tensors that are sent.

    Attributes:
        rank: number of this process in the group.
        size: number of processes.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def owners(self, costs: Mapping[str, int]) -> dict[str, int]:
        """Assign each piece of work to a rank, so that all ranks have about the same amount of work.

        The method assigns the largest pieces first, each to the rank with the least work so far.
        """
        loads = [0] * self.size
        owners = {}
        for name in sorted(costs, key=lambda name: (-costs[name], name)):
            owners[name] = min(range(self.size), key=loads.__getitem__)
            loads[owners[name]] += costs[name]
        return owners

    def check_same(self, links: Mapping[str, Tensor]) -> None:
        """Raise an error if the links differ between the ranks.

        Args:
            links: the positions of the links, int64, by the name of the layer or head.

        Raises:
            RuntimeError: if the links differ; all ranks raise it. The message names the layers and the ranks.
        """
        if self.size == 1:
            return
        # The sign bit stays 0, because torch cannot send unsigned 64-bit integers.
        digests = [
            int.from_bytes(hashlib.blake2b(own.cpu().numpy().tobytes(), digest_size=8).digest(), "big") >> 1
            for own in links.values()
        ]
        mine = torch.tensor(digests, device=self._device)
        all_digests = [torch.empty_like(mine) for _ in range(self.size)]
        with telling_of_lost_ranks():
            dist.all_gather(all_digests, mine, group=self._group)
        table = torch.stack(all_digests).cpu()
        different = [
            f"{name} (ranks {', '.join(map(str, others.tolist()))})"
            for number, name in enumerate(links)
            if len(others := (table[:, number] != table[0, number]).nonzero().flatten())
        ]
        if different:
            raise RuntimeError(
                f"the masks of these layers are not those of rank 0: {'; '.join(different)}. Build the Sparsifier with "
                "the same seed and settings on every rank, load the same checkpoint everywhere, and do not change a "
                "mask yourself. Continue from the last checkpoint."
            )

    def share(self, tensors: Mapping[str, Tensor], owners: Mapping[str, int]) -> None:
        """Send each tensor from its owner to all ranks, in place; Boolean tensors are packed into bits.

        Args:
            tensors: Boolean or uint8; each has the same shape on all ranks.
            owners: the rank that has the right values, by the name of the tensor.
        """
        if self.size == 1:
            return
        for rank in range(self.size):
            own = [name for name in tensors if owners[name] == rank]
            if not own:
                continue
            packed = [pack_bits(tensors[name]) if tensors[name].dtype == torch.bool else tensors[name] for name in own]
            message = torch.cat(packed).to(self._device)
            with telling_of_lost_ranks():
                dist.broadcast(message, group=self._group, group_src=rank)
            if rank == self.rank:
                continue
            for name, part in zip(own, message.cpu().split([len(part) for part in packed]), strict=True):
                tensor = tensors[name]
                tensor.copy_(unpack_bits(part, tuple(tensor.shape)) if tensor.dtype == torch.bool else part)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the ranks."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        with telling_of_lost_ranks():
            dist.all_reduce(total, group=self._group)
        return total / self.size

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each of these numbers over the ranks."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        with telling_of_lost_ranks():
            dist.all_reduce(total, group=self._group)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of the ranks; a value may be anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with telling_of_lost_ranks():
            dist.all_gather_object(values, value, group=self._group)
        return values


def ranks_of(model: nn.Module, group: dist.ProcessGroup | None = None) -> Ranks:
    """The ranks that train a model together.

    If a group is given, these are all ranks of this group. Otherwise, these are the ranks of the model's own group if
    the model uses `DistributedDataParallel` or `fully_shard`. If it uses neither, these are all ranks.
    """
    weight = next(model.parameters())
    if group is None and isinstance(model, nn.parallel.DistributedDataParallel):
        group = model.process_group
    elif group is None and is_sharded(weight):
        group = weight.device_mesh.get_group()
    elif group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    return Ranks(group, weight.device)


@contextlib.contextmanager
def telling_of_lost_ranks() -> Iterator[None]:
    """If the connection to another rank breaks, raise an error that says what happened and what to do."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("connection", "timed out", "timeout", "peer", "socket")):
            raise RuntimeError(
                "another rank does not answer: its process has ended or hangs. Look at the messages of that process, "
                "then start all ranks again; a run with a checkpoint continues from it. "
                f"({str(error).strip().splitlines()[0]})"
            ) from error
        raise
