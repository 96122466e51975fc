"""Run tests, benchmarks and training runs on a GPU, or put their results among the recorded results."""

import argparse
import sys
from pathlib import Path

from benchmarks.gpu import runner
from benchmarks.gpu.items import ITEMS
from chts_core.lab import bench
from chts_core.lab.results import records


def main() -> int:
    """Run the command; return 0 if all items are done, 1 if not, 2 if it cannot do what it was asked to do."""
    names = [item.name for item in ITEMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"any of {', '.join(names)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR", help="default: runs/gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all items together (default: 8)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--reduced", action="store_true", help="run the smallest form of each item, as a test")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="run nothing: put the results in DIR into benchmarks/results/gpu.json and results/gpu.jsonl",
    )
    options = parser.parse_args()
    try:
        unknown = [name for name in options.items if name not in names]
        if unknown:
            raise ValueError(f"there is no item {', '.join(unknown)}; expected one or more of {', '.join(names)}.")
        if options.take_over:
            runner.take_over(
                options.out, bench.folder() / "results" / "gpu.json", records.results_folder() / "gpu.jsonl"
            )
            return 0
        chosen = [item for item in ITEMS if item.name in (options.items or names)]
        found = runner.run(
            chosen, options.out, seconds=60 * options.minutes, device=options.device, reduced=options.reduced
        )
    except ValueError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return 0 if all(item.name in found and found[item.name]["state"] == "done" for item in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
