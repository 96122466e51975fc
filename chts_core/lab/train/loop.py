"""What the training loops of classifiers, translators and language models have in common."""

import contextlib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from chts_core.choices import Correlated
from chts_core.lab import checkpoint, records
from chts_core.methods import Method, get_method
from chts_core.numerics import find_nonfinite
from chts_core.sparsifier import Sparsifier

RunT = TypeVar("RunT")

_SKIPPED_IN_A_ROW = 5  # then a run ends
_PATIENCE = timedelta(minutes=10)  # with a process that does not answer; the first may have to read a large corpus


# Of Linux: writing 5 to the first lets the peak in the second start anew.
_FORGET_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_memory_peak(device: torch.device) -> None:
    """From now on `peak_memory_mb` counts; where a system does not allow it, since the process began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _FORGET_PEAK.write_text("5")


def memory_mb(device: torch.device) -> int:
    """Taken now: of main memory by this process, or of a GPU's by tensors."""
    if device.type == "cuda":
        return round(torch.cuda.memory_allocated(device) / 2**20)
    return round(psutil.Process().memory_info().rss / 2**20)


def peak_memory_mb(device: torch.device) -> int | None:
    """The most that was taken at once, of the same; None where the system does not tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return round(int(peak[1]) / 2**10) if peak else None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Products in a precision of 16 bits; with "float32" as they are."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


@contextlib.contextmanager
def processes_of_torchrun(name: str) -> Iterator[torch.device]:
    """The device of this process, which meets the others if torchrun has started several.

    Each takes the GPU of its number on its machine.

    Args:
        name: of the device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: if that device is not there.
    """
    device = records.choose_device(name)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield device
    dist.destroy_process_group()  # not after an error: it would wait for the others


def gradient_norm(model: nn.Module) -> float:
    """Root of the sum of all squared gradients; infinite or NaN if one is, and if the sum is too large."""
    return get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None]).item()


class Skips:
    """Leaves out optimizer steps whose loss or gradient is not finite: one strange batch does not end a run.

    steps: those left out so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.steps: list[int] = []
        self._model = model
        self._in_a_row = 0

    def skip(self, step: int, value: float, compute_loss: Callable[[], Tensor]) -> bool:
        """Whether a step, counted from 1, is to be left out; then there is a warning that names where it begins.

        Args:
            step: called once for each, in order.
            value: the loss, or the norm of all gradients.
            compute_loss: that of the batch again, see :func:`chts_core.numerics.find_nonfinite`.

        Raises:
            RuntimeError: if the last few have been left out, too: that is no single batch.
        """
        if math.isfinite(value):
            self._in_a_row = 0
            return False
        self.steps.append(step)
        self._in_a_row += 1
        found = find_nonfinite(self._model, compute_loss)
        first = found[0] if found else "the sum of all squared gradients"
        if self._in_a_row == _SKIPPED_IN_A_ROW:
            raise RuntimeError(
                f"no finite loss in the {_SKIPPED_IN_A_ROW} steps up to {step}; first infinite or NaN is {first}. "
                "Lower learning_rate, or compute in float32."
            )
        warnings.warn(f"step {step} is left out: first infinite or NaN there is {first}.", RuntimeWarning, stacklevel=3)
        return True


def refuse_correlations(method: str | Method, inputs: str) -> None:
    """Refuse a method that starts from the correlations of its inputs, before anything is trained.

    Raises:
        ValueError: naming the method and what the inputs are instead.
    """
    if isinstance(get_method(method).topology, Correlated):
        raise ValueError(
            f"method {method!r} starts from the correlations of its inputs (CSTI), and a model of {inputs} has no such "
            "inputs; take a method with another topology, such as 'chts', or images."
        )


def last_update(sparsifier: Sparsifier) -> int | None:
    """The step that the latest update of the topology followed; None before the first, and always for FC."""
    return sparsifier.history[-1]["step"] if sparsifier.history else None


def check_iterative_warmup(steps: int) -> None:
    """Refuse a number of steps below 0.

    Raises:
        ValueError: naming the setting.
    """
    if steps < 0:
        raise ValueError(f"iterative_warmup is {steps}; expected a number of steps, or 0 for none.")


def share_after_update(step: int, last_update: int | None, steps: int) -> float:
    """Part of its schedule that the learning rate has: it comes back after each update (paper, Tables 5 and 6).

    New links have no moments yet, and Adam would take full steps at once.

    Args:
        step: counted from 1.
        last_update: the step that the latest update followed; None before the first.
        steps: after which the rate is back; 0: it stays.
    """
    return 1.0 if last_update is None else min(1.0, (step - last_update) / max(steps, 1))


def load_state(path: Path, keys: Set[str], settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The state that a run saved, if it is one to go on from.

    Args:
        path: of the checkpoint.
        keys: of the state.
        settings: of the run that is to go on; it must be those that the state has under "settings".
        kind: of the run, "a translator's training".

    Raises:
        ValueError: if it is damaged, or of a run of another kind or with other settings.
    """
    state = checkpoint.load(path)
    theirs = state["settings"] if isinstance(state, dict) and state.keys() == keys else None
    if not isinstance(theirs, dict) or theirs.keys() != settings.keys():
        raise ValueError(f"{path} is no checkpoint of {kind}; choose another file or folder.")
    for name, ours in settings.items():
        if theirs[name] != ours:
            raise ValueError(
                f"{path} is of a run with {name} {theirs[name]!r}, and this one has {ours!r}; "
                "resume with the settings of that run, or choose another folder."
            )
    return cast(dict[str, Any], state)


def race(
    train: Callable[[str, str | Method, int, Path | None, "tqdm[Any]"], RunT],
    named: Mapping[str, str | Method],
    sparsity: float,
    seeds: Sequence[int],
    *,
    length: tuple[int, str],
    as_record: Callable[[RunT], dict[str, Any]],
    folder: Path | None,
) -> list[RunT]:
    """Train every method with every seed; one progress bar counts how far they are.

    Args:
        train: one run: its label, method, seed, checkpoint (None without a folder) and the bar.
        named: methods by the name to show.
        sparsity: of all runs; their files have it in their names.
        seeds: one run of each method with each.
        length: of a run, and in what: steps or epochs.
        as_record: what to keep of a run.
        folder: where checkpoints go, one for each run, and `runs.jsonl` with the records of those that are finished;
            a race that was cut goes on from there.
    """
    recorded = {}
    if folder is not None and (folder / "runs.jsonl").exists():
        rows = records.read_lines(folder / "runs.jsonl")
        recorded = {f"{records.as_named_today(row)['method']}-{row['sparsity']:g}-{row['seed']}": row for row in rows}
    runs = []
    progress: tqdm[Any]
    with tqdm(total=len(named) * len(seeds) * length[0], unit=length[1], file=sys.stdout) as progress:
        for name, method in named.items():
            for seed in seeds:
                progress.set_description(f"{name} seed {seed}")
                key = f"{name}-{sparsity:g}-{seed}"
                save_to = None if folder is None else folder / f"{key}.safetensors"
                run = train(name, method, seed, save_to, progress)
                runs.append(run)
                if folder is not None and key not in recorded:
                    recorded[key] = as_record(run)
                    records.write_lines(folder / "runs.jsonl", recorded.values())
    return runs


def train_and_record(
    train: Callable[[Path, "tqdm[Any]"], RunT],
    folder: Path,
    *,
    length: tuple[int, str],
    as_record: Callable[[RunT], dict[str, Any]],
    show: bool,
) -> dict[str, Any] | None:
    """Train one run and write its record, `run.json`, beside its checkpoint.

    Args:
        train: the run: its checkpoint, from which one that was cut goes on, and the bar.
        folder: for both.
        length, as_record: as of `race`.
        show: whether there is a bar.

    Returns:
        The record; None in all processes but the first.
    """
    first = not (dist.is_initialized() and dist.get_rank())
    progress: tqdm[Any]
    with tqdm(total=length[0], unit=length[1], file=sys.stdout, disable=not (first and show)) as progress:
        run = train(folder / "checkpoint.safetensors", progress)
    if not first:
        return None
    record = as_record(run)
    records.write_json(folder / "run.json", record)
    return record
