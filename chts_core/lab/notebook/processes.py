"""Processes that this one has started, and all that they have started themselves."""

import signal
import subprocess

import psutil

# The variables that say on how many threads a process computes; they are read when its libraries are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
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
