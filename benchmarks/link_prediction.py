"""Seconds of each link predictor, sparse code against dense in the same run: `python benchmarks/link_prediction.py`.

For node-based scores the two are sparse and dense matrix products, for path-based ones the compiled walk and the plain
torch reference, which is what runs on other devices. The reference is left out where it would take minutes.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from chts_core import link_prediction

LAYERS = [((1024, 1024), 0.01), ((1024, 1024), 0.05), ((2048, 5461), 0.01)]
LARGEST_REFERENCE = 2**20


def seconds(function: Callable[[], object], calls: int) -> float:
    """Median seconds of one call, after one that is not counted."""
    function()
    times = []
    for _ in range(calls):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return median(times)


def main() -> None:
    """Print one row for each layer and predictor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5, help="timed calls of each; the median is printed")
    calls = parser.parse_args().calls
    codes = {
        "l3n": (link_prediction._node_based_sparse, link_prediction._node_based_dense),
        "l3p": (link_prediction._path_based_walk, link_prediction._path_based_dense),
    }
    print(f"{torch.get_num_threads()} threads, median of {calls} calls")
    print(
        f"{'layer':>10} {'density':>7} {'predictor':>9} {'sparse s':>9} {'dense s':>9} {'dense/sparse':>12}", flush=True
    )
    for shape, density in LAYERS:
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
        for predictor in link_prediction.PREDICTORS:
            inside = predictor.startswith("ch2")
            sparse, dense = codes[predictor[-3:]]
            fast = seconds(lambda: sparse(mask, inside), calls)  # noqa: B023
            row = f"{shape[0]:>5}×{shape[1]} {density:>7.0%} {predictor:>9} {fast:>9.3f}"
            if predictor.endswith("l3n") or mask.numel() <= LARGEST_REFERENCE:
                slow = seconds(lambda: dense(mask, inside), calls)  # noqa: B023
                row += f" {slow:>9.3f} {slow / fast:>12.1f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
