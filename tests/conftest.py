"""What every test runs under: the same examples each time, on one thread, at the profile that it names."""

import os

import pytest
import torch
from hypothesis import settings

# `make test-full` asks for the second.
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("full", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("quick")

# The networks are so small that handing work to a second thread takes longer than doing it; also in kernels and other
# processes that tests start, while another process of the tests uses the second core.
torch.set_num_threads(1)
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

os.environ.pop("CHTS_PROFILE", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
