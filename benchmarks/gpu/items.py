"""The items that run on a borrowed GPU, their order, and their time limits.

Each item imports what it needs when it runs. To import everything would take seconds in the process of each item.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.runner import Item, OutOfTime, Row

if TYPE_CHECKING:
    import pytest

_ROOT = Path(__file__).parents[2]
_TOKENS = (64, 256)  # contexts in a forward pass of LLaMA-60M in the paper's recipe, and their length


class _Outcomes:
    """Counts the tests of a run of pytest, and keeps the reasons of failures."""

    def __init__(self) -> None:
        self.row: Row = {"passed": 0, "failed": 0, "skipped": 0, "failures": {}}

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        if report.when == "call" or not report.passed:
            self.row[report.outcome] += 1
        if report.failed:
            self.row["failures"][report.nodeid] = report.longreprtext[-2000:]


def tests(_: Path, device: str, reduced: bool) -> Iterator[Row]:  # noqa: ARG001 - the tests are small, and name a device
    """The tests that need CUDA."""
    import pytest

    paths = sorted((_ROOT / "tests").rglob("test_*.py"))
    files = [path for path in paths if "pytest.mark.cuda" in path.read_text("utf-8")]
    outcomes = _Outcomes()
    # As in make test-colab: newer packages may call deprecated functions.
    options = ["-m", "cuda", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "--rootdir", _ROOT]
    code = pytest.main([*map(str, options), *map(str, files)], plugins=[outcomes])
    yield outcomes.row
    if code != 0:
        raise RuntimeError(f"pytest ended with {code!r}")


def conformance(_: Path, device: str, reduced: bool) -> Iterator[Row]:
    """Every method against its specification, with small models on the device."""
    from chts_core.lab.verify import conformance as verify

    failed = 0
    for name, method in {"set": verify.METHODS["set"]}.items() if reduced else verify.METHODS.items():
        found = verify.conformance({name: method}, device)
        wrong = {check.check: check.detail for check in found if check.passed is False}
        failed += len(wrong)
        yield {"method": name, "passed": sum(check.passed is True for check in found), "failures": wrong}
    if failed:
        raise RuntimeError(f"{failed} checks failed")


def regrow(_: Path, device: str, reduced: bool) -> Iterator[Row]:
    """CHTs' regrowth against dense scores and torch.multinomial."""
    from benchmarks import regrowth

    large = [layer for layer in regrowth.LAYERS if layer[0] == (2048, 5461)]
    yield from regrowth.rows([device], [((64, 96), 0.1, None)] if reduced else large)


def masks(_: Path, device: str, reduced: bool) -> Iterator[Row]:
    """The time that masks and updates add to a training step of LLaMA-60M, with few and with many tokens."""
    from benchmarks import llama

    for tokens in [(2, 16)] if reduced else [llama.TOKENS, _TOKENS]:
        yield from llama.rows(device, "tiny" if reduced else "60m", tokens)


def throughput(_: Path, device: str, reduced: bool) -> Iterator[Row]:
    """LLaMA-60M by CHTs against a dense LLaMA-60M."""
    from benchmarks import llama

    yield from llama.throughput(device, "tiny", (2, 16), 2) if reduced else llama.throughput(device, "60m", _TOKENS)


def bfloat16(folder: Path, device: str, reduced: bool) -> Iterator[Row]:
    """RigL at 70 % with weights in float32, then with everything in bfloat16: same seed, initial weights and text."""
    from chts_core.lab.data import TEXT_SETS, locate
    from chts_core.lab.train import tasks

    dataset = "tinyshakespeare" if not reduced and locate(TEXT_SETS["tinyshakespeare"]) else "python_reference"
    parameters = {"dataset": dataset, "method": "rigl", "sparsity": 0.7, "device": device}
    parameters |= (
        {"vocabulary": 257, "context": 16, "steps": 2, "update_every": 1, "batch": 2, "validation_tokens": 64}
        if reduced
        else {"steps": 500, "warmup": 50, "validate_every": 125}
    )
    for precision in ("float32", "bfloat16_weights"):
        given = {**parameters, "precision": precision}
        yield {"run": tasks.train("tiny_ci" if reduced else "small", given, folder / precision)}


def multi30k(folder: Path, device: str, reduced: bool) -> Iterator[Row]:
    """A translator with the paper's configuration, by CHTs at 95 %; it continues from its checkpoint."""
    from chts_core.lab.train import tasks

    parameters: dict[str, Any] = {"sparsity": 0.95, "device": device}
    if reduced:
        parameters |= {"steps": 2, "update_every": 1, "validate_every": 1, "batch_tokens": 64, "beam": 1}
    try:
        yield {"run": tasks.train("number_words_ci" if reduced else "multi30k", parameters, folder, save_every=250)}
    except OutOfTime:
        if (folder / "checkpoint.safetensors").exists():
            yield so_far(folder / "checkpoint.safetensors")
        raise


def so_far(path: Path) -> Row:
    """The progress of a translator's run, from its checkpoint."""
    from chts_core.lab.train import checkpoint

    state = checkpoint.load(path)
    return {
        "step": state["step"],
        "steps": state["settings"]["recipe"]["steps"],
        "validation": state["looks"],
        "tokens": state["tokens"],
        "seconds": state["seconds"],
    }


def _tested(rows: list[Row]) -> str:
    return ", ".join(f"{rows[0][outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


def _conforming(rows: list[Row]) -> str:
    return f"{len(rows)} methods, {sum(row['passed'] for row in rows)} checks passed"


def _times_faster(rows: list[Row]) -> str:
    ratios = [row["times_faster"] for row in rows]
    return f"{min(ratios):.2f} to {max(ratios):.2f} times as fast as the rival"


def _shares(rows: list[Row]) -> str:
    return "of a step: " + ", ".join(f"{row['share']:.1%}" for row in rows if "share" in row)


def _losses(rows: list[Row]) -> str:
    runs = [row["run"] for row in rows]
    return ", ".join(f"{run['recipe']['precision']} {run['validation'][-1]['loss']:.3f}" for run in runs)


def _translated(rows: list[Row]) -> str:
    row = rows[-1]
    return f"test BLEU {row['run']['test']['bleu']}" if "run" in row else f"step {row['step']} of {row['steps']}"


# The most valuable items come first.
ITEMS = [
    Item("tests", 60, tests, _tested),
    Item("conformance", 100, conformance, _conforming),
    Item("regrowth", 60, regrow, _times_faster),
    Item("masks", 60, masks, _shares),
    Item("throughput", 60, throughput, _times_faster),
    Item("bfloat16", 110, bfloat16, _losses),
    Item("multi30k", None, multi30k, _translated),
]
