"""Processes that this one has started, and all that they have started themselves."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator

import psutil

# The variables that say on how many threads a process computes; they are read when its libraries are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
_BETWEEN_LOOKS = 0.25  # seconds, of the memory that processes take
_PATIENCE = 10  # seconds, for a process that handles SIGTERM


def end(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM) -> None:
    """End a process and all its descendants: torchrun, Dask and Jupyter keep some of them in sessions of their own.

    Args:
        process: what was started; it may have ended already.
        how: the signal that all of them get first. Who is alive ten seconds later is killed.
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
    """Its bytes; of those that it shares with others its part, where the system tells."""
    return int(process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss)


@contextlib.contextmanager
def memory_watched() -> Iterator[list[int]]:
    """The most bytes that processes started meanwhile took together: a list of one, looked after until the end."""
    here = psutil.Process()
    before = {process.pid for process in here.children(recursive=True)}
    peak, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(_BETWEEN_LOOKS):
            total = 0
            for process in here.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    total += 0 if process.pid in before else _memory_of(process)
            peak[0] = max(peak[0], total)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield peak
    finally:
        over.set()
        watch.join()
