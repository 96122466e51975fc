"""Tests, benchmarks and a training for a few minutes on a GPU: `python -m benchmarks.gpu --help`."""
