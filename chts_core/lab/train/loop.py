"""The training loop for classifiers, translators and language models, with measurements and checkpoints.

A `Learner` contains the parts that depend on the kind of model: the model itself, its batches, loss and measurements.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from chts_core.choices import Correlated
from chts_core.engine.distributed import Ranks, telling_of_lost_ranks
from chts_core.engine.sharding import full_tensor, shard_like
from chts_core.lab.train import checkpoint
from chts_core.lab.train.machine import forget_memory_peak, own_randomness
from chts_core.methods import Method, get_method
from chts_core.sparsifier import Sparsifier
from chts_core.tools.numerics import find_nonfinite

if TYPE_CHECKING:
    from tqdm import tqdm

_SKIPPED_IN_A_ROW = 5  # a run ends after this many skipped steps
_BETWEEN_LOSSES = 10  # steps between two training losses that are kept


class Learner(Protocol):
    """The part of one run that depends on the kind of model.

    kind: the kind of run in words, such as "a translator's training".
    model: the model to train.
    replica: the module to call, which is the model itself, its wrapper for several processes, or the compiled model.
    device, ranks: the device, and the processes that train the model together.
    optimizer, sparsifier: attached to the model.
    settings: the settings of the run. A run can continue only from a checkpoint with the same settings.
    train_loss: the training losses so far: one every few steps, or one per epoch.
    seconds: the time of training, without measurements.
    look_every: steps between two measurements.
    bar_every: the number of steps after which the progress bar advances by one.
    clip: the largest norm that the gradient may have; None for no limit.
    scaler: scales the loss if gradients are in float16.
    """

    kind: str
    model: nn.Module
    replica: nn.Module
    device: torch.device
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    settings: Mapping[str, Any]
    train_loss: list[Any]
    seconds: float = 0.0
    look_every: int
    bar_every: int = 1
    clip: float | None = None
    scaler: torch.amp.GradScaler = torch.amp.GradScaler("cpu", enabled=False)

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self.sparsifier.steps

    def rate(self) -> float:
        """The learning rate of the next step."""

    def next_batch(self) -> tuple[Sequence[Any], int]:
        """The next batch, divided into parts for the model, and the divisor for the sum of the losses of the parts."""

    def loss(self, model: nn.Module, part: Any) -> Tensor:
        """The loss of a part of a batch."""

    def look(self) -> None:
        """Measure the current scores of the run."""

    def state(self) -> dict[str, Any]:
        """The learner's part of a checkpoint. All ranks must call this function."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. The loop has already loaded its own part of the state."""

    def evolve(self, *, skipped: bool) -> None:
        """Call the sparsifier's `step()`."""
        self.sparsifier.step(skipped=skipped)

    def keep_loss(self, loss: Tensor, *, skipped: bool) -> None:
        """Every few steps, keep the loss of the current step, averaged over all ranks."""
        if self.step % _BETWEEN_LOSSES == 0 and not skipped:
            (mean,) = self.ranks.sum([float(loss) / self.ranks.size])
            self.train_loss.append((self.step, mean))

    def status(self) -> str:
        """The text that the progress bar shows about the run; "" keeps the current text."""
        return ""


LearnerT = TypeVar("LearnerT", bound=Learner)


class Training(Generic[LearnerT]):
    """A run in progress, with everything that a checkpoint contains.

    learner: the part that depends on the kind of model.
    first_masks: the masks at the start of the run.
    """

    def __init__(self, learner: LearnerT) -> None:
        self.learner = learner
        self.skips = Skips(learner.model)
        self.first_masks = masks_of(learner)
        self.began = time.perf_counter()

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self.learner.step

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.learner.sparsifier.timeline.total_steps

    @property
    def total_seconds(self) -> float:
        """Seconds since the run began. The time of interruptions does not count."""
        return time.perf_counter() - self.began

    def learn(self) -> float:
        """Do one step of the optimizer; return the loss of its batch on this rank."""
        started = time.perf_counter()
        learner, optimizer = self.learner, self.learner.optimizer
        rate = learner.rate()
        for group in optimizer.param_groups:
            group["lr"] = rate
        learner.model.train()
        optimizer.zero_grad()
        parts, divisor = learner.next_batch()
        total = torch.zeros((), device=learner.device)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else _without_averaging(learner.replica):
                loss = learner.loss(learner.replica, part) / divisor
                learner.scaler.scale(loss).backward()
            total += loss.detach()
        skipped = self.skips.skip(
            self.step + 1, self._size(total), lambda: torch.stack([learner.loss(learner.model, part) for part in parts])
        )
        if not skipped:
            learner.scaler.step(optimizer)
        learner.scaler.update()
        learner.evolve(skipped=skipped)
        learner.keep_loss(total, skipped=skipped)
        learner.seconds += time.perf_counter() - started
        return float(total)

    def _size(self, loss: Tensor) -> float:
        """Unscale or clip the gradient, and return a value that is finite in a normal step: the norm of the gradient.

        The norm is the same on all ranks. If the loss is scaled, the value is the loss, because gradients may overflow
        until the scale is small enough.
        """
        model, scaler, clip = self.learner.model, self.learner.scaler, self.learner.clip
        scaler.unscale_(self.learner.optimizer)
        if scaler.is_enabled():
            return float(loss)
        if clip is None:
            return gradient_norm(model)
        return float(full_tensor(nn.utils.clip_grad_norm_(model.parameters(), clip)))

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint. All ranks must call this function."""
        learner = self.learner
        optimizer = learner.optimizer.state_dict()
        optimizer["state"] = {
            number: {key: _to_cpu(value) for key, value in state.items()}
            for number, state in optimizer["state"].items()
        }
        return {
            "settings": learner.settings,
            "seconds": learner.seconds,
            "total_seconds": self.total_seconds,
            "train_loss": learner.train_loss,
            "skipped_steps": self.skips.steps,
            "first_masks": self.first_masks,
            "model": {name: _to_cpu(tensor) for name, tensor in learner.model.state_dict().items()},
            "optimizer": optimizer,
            "sparsifier": learner.sparsifier.state_dict(),
            **learner.state(),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint. All ranks must call this function, and the first rank writes the file.

        Raises:
            OSError: on all ranks, if the checkpoint cannot be written; the previous checkpoint stays intact.
        """
        state = self.state()
        error = None
        if self.learner.ranks.rank == 0:
            try:
                checkpoint.save(path, state)
            except OSError as failure:
                error = failure
        # All ranks stop if the first rank cannot write, instead of waiting for it.
        failed = self.learner.ranks.gather(None if error is None else str(error))[0]
        if failed:
            raise OSError(
                f"the checkpoint of step {self.step} could not be written to {path} ({failed.rstrip('.')}). The "
                "previous checkpoint, if there is one, is intact. To continue from it, free some disk space, or copy "
                "it to another folder."
            ) from error

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: if the checkpoint is damaged, or from a run with different settings; in this case nothing is
                changed.
        """
        learner = self.learner
        state = load_state(path, self.state().keys(), learner.settings, learner.kind)
        ours = learner.model.state_dict()
        learner.model.load_state_dict({name: shard_like(tensor, ours[name]) for name, tensor in state["model"].items()})
        weights = [weight for group in learner.optimizer.param_groups for weight in group["params"]]
        for number, kept in state["optimizer"]["state"].items():
            for key, value in kept.items():
                kept[key] = shard_like(value, weights[number]) if isinstance(value, Tensor) else value
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.sparsifier.load_state_dict(state["sparsifier"])
        learner.train_loss, learner.seconds = state["train_loss"], state["seconds"]
        self.skips.steps, self.first_masks = state["skipped_steps"], state["first_masks"]
        self.began -= state["total_seconds"]
        learner.load(state)


def train(
    begin: Callable[[], LearnerT],
    *,
    seed: int,
    device: torch.device,
    save_to: Path | None,
    save_every: int,
    progress: "tqdm[Any] | None",
    look_on: Callable[[LearnerT], None] | None = None,
) -> Training[LearnerT]:
    """Train one run to its end.

    An interrupted run continues from its last checkpoint. On the same kind of device, with the same number of ranks and
    threads, its result is the same, bit for bit, as the result of an undisturbed run. Otherwise, the two results differ
    only by rounding.

    Args:
        begin: creates the learner.
        seed: seeds torch's global generators, which are restored afterwards.
        device: the device of the run.
        save_to: the file of the checkpoint. If the file exists, the run continues from it. The run writes its
            checkpoints to this file.
        save_every: steps between two checkpoints.
        progress: a progress bar that the run advances.
        look_on: a function to call after each measurement.

    Raises:
        ValueError: if the checkpoint is damaged or from another run.
        RuntimeError: if the loss or a gradient is not finite in five steps in a row (the loop skips up to four such
            steps in a row), if the masks of ranks differ, or if a rank is lost.
        OSError: if a checkpoint cannot be written; the previous checkpoint stays intact.
    """
    began = time.perf_counter()
    forget_memory_peak(device)
    with telling_of_lost_ranks(), own_randomness(seed, device):
        training = Training(learner := begin())
        training.began = began
        if save_to is not None and save_to.exists():
            training.resume(save_to)
        if progress is not None:
            progress.update(training.step // learner.bar_every)
        while training.step < training.steps:
            training.learn()
            last = training.step == training.steps
            if last or training.step % learner.look_every == 0:
                learner.look()
                if look_on is not None:
                    look_on(learner)
            if save_to is not None and (last or training.step % save_every == 0):
                training.save(save_to)
            if progress is not None and training.step % learner.bar_every == 0:
                progress.update()
                if status := learner.status():
                    progress.set_postfix_str(status, refresh=False)
    return training


def settings(method: str | Method, sparsity: float, recipe: Any, seed: int, **subject: str) -> dict[str, Any]:
    """The settings that two runs must share if one continues from the checkpoint of the other.

    Args:
        method, sparsity, recipe, seed: settings of the run.
        subject: name and digest of the training data.
    """
    shared = {"method": repr(get_method(method)), "sparsity": sparsity, "recipe": asdict(recipe), "seed": seed}
    return {**subject, **shared}


def masks_of(learner: Learner) -> dict[str, Tensor]:
    """A copy of the model's current masks."""
    return {name: mask.cpu().clone() for name, mask in learner.sparsifier.masks.items()}


def _to_cpu(value: Any) -> Any:
    """Copy a tensor to the CPU, as a whole if it is sharded; return any other value unchanged."""
    return full_tensor(value).detach().cpu().clone() if isinstance(value, Tensor) else value


def _without_averaging(replica: nn.Module) -> AbstractContextManager[Any]:
    """A context manager in which DDP does not average gradients; used for all parts of a batch except the last."""
    replica = getattr(replica, "_orig_mod", replica)
    return replica.no_sync() if isinstance(replica, nn.parallel.DistributedDataParallel) else nullcontext()


def gradient_norm(model: nn.Module) -> float:
    """Root of the sum of all squared gradients; not finite if a gradient is not finite or the sum is too large."""
    return get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None]).item()


class Skips:
    """Skips optimizer steps if a loss or gradient is not finite, so that one bad batch does not end a run.

    steps: the numbers of the steps that have been skipped so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.steps: list[int] = []
        self._model = model
        self._in_a_row = 0

    def skip(self, step: int, value: float, compute_loss: Callable[[], Tensor]) -> bool:
        """Whether to skip a step. If so, a warning says which value is the first that is not finite.

        Args:
            step: the number of the step, counted from 1; call the method once for each step, in order.
            value: the loss, or the norm of all gradients.
            compute_loss: computes the loss of the batch again; see :func:`chts_core.tools.numerics.find_nonfinite`.

        Raises:
            RuntimeError: if this is the fifth skipped step in a row, because then a single batch is not the cause.
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
                f"the loss or a gradient was not finite in {_SKIPPED_IN_A_ROW} steps in a row, up to step {step}; the "
                f"first infinite or NaN value is {first}. Lower learning_rate, or compute in float32."
            )
        warnings.warn(
            f"step {step} is skipped: the first infinite or NaN value is {first}.", RuntimeWarning, stacklevel=3
        )
        return True


def refuse_correlations(method: str | Method, inputs: str) -> None:
    """Refuse a method that starts from the correlations of its inputs, before anything is trained.

    Raises:
        ValueError: if the method starts from correlations; the message names the method and the kind of inputs.
    """
    if isinstance(get_method(method).topology, Correlated):
        raise ValueError(
            f"method {method!r} starts from the correlations of its inputs (CSTI), but {inputs} have no "
            "correlations; choose a method with another topology, such as 'chts', or train on images."
        )


def last_update(sparsifier: Sparsifier) -> int | None:
    """The step before the latest update of the topology; None before the first update, and always None for FC."""
    return sparsifier.history[-1]["step"] if sparsifier.history else None


def share_after_update(step: int, last_update: int | None, steps: int) -> float:
    """A factor for the learning rate: it rises to 1 in the steps after an update of the topology (paper, Tables 5, 6).

    New links have no moments yet. Without this factor, Adam would change their weights by full steps at once.

    Args:
        step: counted from 1.
        last_update: the step before the latest update; None before the first update.
        steps: the number of steps in which the factor rises; with 0, the factor is always 1.
    """
    return 1.0 if last_update is None else min(1.0, (step - last_update) / max(steps, 1))


def load_state(path: Path, keys: Set[str], settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Load the state that a run saved, and check that another run can continue from it.

    Args:
        path: the path of the checkpoint.
        keys: the keys that the state must have.
        settings: the settings of the run that continues; they must equal the state's "settings".
        kind: the kind of run in words, such as "a translator's training".

    Raises:
        ValueError: if the checkpoint is damaged, or from a run of a different kind or with different settings.
    """
    state = checkpoint.load(path)
    theirs = state["settings"] if isinstance(state, dict) and state.keys() == keys else None
    if not isinstance(theirs, dict) or theirs.keys() != settings.keys():
        raise ValueError(f"{path} is not a checkpoint of {kind}; choose another file or folder.")
    for name, ours in settings.items():
        if theirs[name] != ours:
            raise ValueError(
                f"{path} is from a run with {name} {theirs[name]!r}, and this run has {ours!r}; "
                "continue with the settings of that run, or choose another folder."
            )
    return cast(dict[str, Any], state)
