"""What a training takes of the machine: its memory, its precision of 16 bits, and the processes of torchrun."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from chts_core.lab.results import records

_PATIENCE = timedelta(minutes=10)  # with a process that does not answer; the first may have to read a large corpus

# Of Linux: writing 5 to the first lets the peak in the second start anew.
_FORGET_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_memory_peak(device: torch.device) -> None:
    """From now on `peak_memory_mb` counts; where a system does not allow it, since the process began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _FORGET_PEAK.write_text("5")


def memory_mb(device: torch.device) -> int:
    """Taken now: of main memory by this process, or of a GPU's by tensors."""
    if device.type == "cuda":
        return round(torch.cuda.memory_allocated(device) / 2**20)
    return round(psutil.Process().memory_info().rss / 2**20)


def peak_memory_mb(device: torch.device) -> int | None:
    """The most that was taken at once, of the same; None where the system does not tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return round(int(peak[1]) / 2**10) if peak else None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Products in a precision of 16 bits; with "float32" as they are."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


@contextlib.contextmanager
def processes_of_torchrun(name: str) -> Iterator[torch.device]:
    """The device of this process, which meets the others if torchrun has started several.

    Each takes the GPU of its number on its machine.

    Args:
        name: of the device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: if that device is not there.
    """
    device = records.choose_device(name)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield device
    dist.destroy_process_group()  # not after an error: it would wait for the others


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators start from a seed, and are afterwards as they were before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def is_first_rank() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return not (dist.is_initialized() and dist.get_rank())
