"""The machine that training runs on: its memory, 16-bit precision, and the processes of torchrun."""

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

# The timeout for a process that does not answer. It is long, because the first process may have to read a large corpus.
_PATIENCE = timedelta(minutes=10)

# On Linux, writing 5 to the first file resets the peak in the second file.
_FORGET_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_memory_peak(device: torch.device) -> None:
    """Reset the peak that `peak_memory_mb` returns.

    If the system does not allow a reset, the peak is measured from the start of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _FORGET_PEAK.write_text("5")


def memory_mb(device: torch.device) -> int:
    """The memory in use now: the main memory of this process, or the memory of the tensors on a GPU."""
    if device.type == "cuda":
        return round(torch.cuda.memory_allocated(device) / 2**20)
    return round(psutil.Process().memory_info().rss / 2**20)


def peak_memory_mb(device: torch.device) -> int | None:
    """The peak of the memory use that `memory_mb` measures; None if the system does not report it."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return round(int(peak[1]) / 2**10) if peak else None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context manager in which matrix products are computed in a 16-bit precision; "float32" changes nothing."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


@contextlib.contextmanager
def processes_of_torchrun(name: str) -> Iterator[torch.device]:
    """Yield the device of this process. If torchrun started the process, it joins the other processes of the run.

    On each machine, process number n uses GPU number n.

    Args:
        name: "auto", "cpu" or "cuda".

    Raises:
        ValueError: if there is no such device.
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
    dist.destroy_process_group()  # not called after an error, because it would then wait for the other processes


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def is_first_rank() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return not (dist.is_initialized() and dist.get_rank())
