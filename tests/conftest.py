"""What every test runs under: the same examples each time, on one thread, at the profile that it names."""

import os

import torch
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("deterministic")

# The networks are so small that handing work to a second thread takes longer than doing it.
torch.set_num_threads(1)

os.environ.pop("CHTS_PROFILE", None)
