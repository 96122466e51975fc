"""Runs of many updates take no more memory and no more open files than short ones.

Environment variables:
    CHTS_UPDATES: how many; 10,000 take minutes.
"""

import gc
import os
import sys

import psutil
import pytest
import torch
from torch import nn

import chts_core as chts

UPDATES = int(os.environ.get("CHTS_UPDATES", "1200"))


@pytest.mark.parametrize("execution", [pytest.param("masked", marks=pytest.mark.full), "csr"])
def test_memory_and_open_files_stay_as_they_are(execution: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # Links are exchanged until nine tenths of the run.
    method = "chts with turnover=Turnover(0.3, stop=0.9)"
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 0.7, total_steps=2 * UPDATES, update_every=1, execution=execution
    )
    batch = torch.randn(4, 12)
    process, threads = psutil.Process(), torch.get_num_threads()

    def train(updates: int) -> tuple[int, int]:
        for _ in range(updates):
            model(batch).square().mean().backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
            if len(sparsifier.history) > 100:
                sparsifier.history.clear()
        gc.collect()
        return process.memory_info().rss, process.num_fds()

    memory, files = train(UPDATES // 4)
    after, files_after = train(UPDATES - UPDATES // 4)
    assert sparsifier.steps == UPDATES
    assert torch.get_num_threads() == threads  # which the threads of compiled loops leave alone
    assert after - memory < 3 * 2**20  # bytes; of 10,000 updates, 0.4 kilobytes each would be noticed
    assert files_after <= files


def test_a_row_of_the_history_takes_less_than_two_kilobytes() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.7, total_steps=100, update_every=1)
    for _ in range(50):
        model(torch.randn(4, 12)).sum().backward()
        optimizer.step()
        sparsifier.step()
    rows = sparsifier.history
    assert len(rows) == 50
    size = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row.values())) for row in rows) / len(rows)
    assert size < 2000
