"""What to run where a GPU is at hand for a few minutes: `python -m benchmarks.gpu --help`."""
