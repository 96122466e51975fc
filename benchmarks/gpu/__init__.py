"""Tests, benchmarks and a training run for a few minutes on a GPU: `python -m benchmarks.gpu --help`."""
