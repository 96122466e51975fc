"""Draw the rows of an initial network in several threads. The plain torch version is :mod:`chts_core.row_links`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def race(mask: Tensor, degrees: Tensor, centres: Tensor, exponent: float, generator: torch.Generator) -> None:
    """Do what :func:`chts_core.row_links.race` does, in compiled code on a CPU.

    The result is the same, bit for bit, for any number of threads.
    """
    from chts_core.compiled import networks  # Numba takes a third of a second to import

    windows = networks.windows(degrees.numpy(), mask.shape[1], exponent)
    _run_rows(networks.race, mask, generator, centres.numpy(), degrees.numpy(), *windows, exponent)


def fill(mask: Tensor, degrees: Tensor, generator: torch.Generator) -> None:
    """Do what :func:`chts_core.row_links.fill` does, in compiled code on a CPU.

    The result is the same, bit for bit, for any number of threads.
    """
    from chts_core.compiled import networks

    _run_rows(networks.fill, mask, generator, degrees.numpy())


def _run_rows(loop: Callable[..., None], mask: Tensor, generator: torch.Generator, *arguments: object) -> None:
    """Call loop(first_row, end_row, seeds, *arguments, mask) for batches of rows, until all rows are done.

    Each row has its own seed. The function uses as many threads as torch uses.
    """
    rows, threads = mask.shape[0], torch.get_num_threads()
    seeds = torch.randint(2**63 - 1, (rows,), generator=generator).numpy().view("uint64")
    if threads == 1:  # starting a thread and waiting for it takes longer than filling a small mask
        loop(0, rows, seeds, *arguments, mask.numpy())
        return
    batch = max(1, rows // (8 * threads))  # several batches per thread, since other programs may run too

    def run(first: int) -> None:
        loop(first, min(first + batch, rows), seeds, *arguments, mask.numpy())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(0, rows, batch)))
