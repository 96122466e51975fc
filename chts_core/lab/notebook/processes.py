"""Measure the memory of processes that this process has started, and end them with all their descendants."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator

import psutil

# Environment variables for the number of threads of a process. A library reads its variable when it is imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
_BETWEEN_LOOKS = 0.25  # seconds between two measurements of memory
_PATIENCE = 10  # seconds for a process to handle SIGTERM


def end(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM) -> None:
    """End a process and all its descendants, even in other sessions (torchrun, Dask and Jupyter start such sessions).

    Args:
        process: a process that this process has started; it may have ended already.
        how: the signal that all these processes receive first. Processes that are still alive ten seconds later
            are killed.
    """
    try:
        started = psutil.Process(process.pid)
        family = [started, *started.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.send_signal(how)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=_PATIENCE)
    for member in alive:
        member.kill()
    process.wait()


def _memory_of(process: psutil.Process) -> int:
    """The memory of a process in bytes. On Linux, shared memory is divided among the processes that share it."""
    return int(process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss)


@contextlib.contextmanager
def memory_watched() -> Iterator[list[int]]:
    """Measure the peak of the total memory, in bytes, of all processes started within the block.

    The block receives a list with this number as its only value. The list is updated until the block ends.
    """
    here = psutil.Process()
    before = {process.pid for process in here.children(recursive=True)}
    peak, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(_BETWEEN_LOOKS):
            total = 0
            for process in here.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # the process has ended
                    total += 0 if process.pid in before else _memory_of(process)
            peak[0] = max(peak[0], total)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield peak
    finally:
        over.set()
        watch.join()
