"""The one training loop, of classifiers, translators and language models: steps, looks, checkpoints, and going on.

What differs between them - model, batches, loss, looks - is a `Learner`.
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

_SKIPPED_IN_A_ROW = 5  # then a run ends
_BETWEEN_LOSSES = 10  # steps from one training loss that is kept to the next


class Learner(Protocol):
    """What a kind of model brings to the loop, for one run.

    kind: of the run, "a translator's training".
    model: whose weights are trained; replica: the same as it is called, in many processes or compiled.
    device, ranks: where, and the processes that train it together.
    optimizer, sparsifier: attached to the model.
    settings: of the run; it goes on from the checkpoints of one with the same settings.
    train_loss: what is kept of the training loss.
    seconds: of training alone, without looks.
    look_every, bar_every: steps between two looks, and those that a bar counts as one.
    clip: largest norm of the gradient; None: any.
    scaler: of the loss, where gradients are in float16.
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
        """Steps that are done."""
        return self.sparsifier.steps

    def rate(self) -> float:
        """The learning rate of the next step."""

    def next_batch(self) -> tuple[Sequence[Any], int]:
        """The parts in which the next batch goes through the model, and what the sum of their losses is divided by."""

    def loss(self, model: nn.Module, part: Any) -> Tensor:
        """That of a part of a batch."""

    def look(self) -> None:
        """Measure where the run stands."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the loop's state; a collective."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the loop has loaded its own state."""

    def evolve(self, *, skipped: bool) -> None:
        """The sparsifier's step, and what comes with it."""
        self.sparsifier.step(skipped=skipped)

    def keep_loss(self, loss: Tensor, *, skipped: bool) -> None:
        """Keep the loss of a step, the mean over all ranks, every few steps."""
        if self.step % _BETWEEN_LOSSES == 0 and not skipped:
            (mean,) = self.ranks.sum([float(loss) / self.ranks.size])
            self.train_loss.append((self.step, mean))

    def told(self) -> str:
        """What a bar tells of the run; "" leaves what it tells already."""
        return ""


LearnerT = TypeVar("LearnerT", bound=Learner)


class Training(Generic[LearnerT]):
    """A run under way: all that a checkpoint holds.

    learner: what is trained.
    first_masks: those that the run began with.
    """

    def __init__(self, learner: LearnerT) -> None:
        self.learner = learner
        self.skips = Skips(learner.model)
        self.first_masks = masks_of(learner)
        self.began = time.perf_counter()

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.learner.step

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.learner.sparsifier.timeline.total_steps

    @property
    def total_seconds(self) -> float:
        """Since the run began, without the time in which it was cut."""
        return time.perf_counter() - self.began

    def learn(self) -> float:
        """One step of the optimizer; the loss of its batch on this rank."""
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
        """What is finite in a sound step: the norm of the gradient, of all ranks together, so that they do the same.

        Where the loss is scaled it is the loss: gradients may overflow until the scale has come down.
        """
        model, scaler, clip = self.learner.model, self.learner.scaler, self.learner.clip
        scaler.unscale_(self.learner.optimizer)
        if scaler.is_enabled():
            return float(loss)
        if clip is None:
            return gradient_norm(model)
        return float(full_tensor(nn.utils.clip_grad_norm_(model.parameters(), clip)))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; a collective."""
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
        """Write a checkpoint; a collective, of which the first rank writes.

        Raises:
            OSError: on all ranks, if it cannot be written; the one before is whole.
        """
        state = self.state()
        error = None
        if self.learner.ranks.rank == 0:
            try:
                checkpoint.save(path, state)
            except OSError as failure:
                error = failure
        # All ranks stop where the first cannot write, instead of waiting for it.
        failed = self.learner.ranks.gather(None if error is None else str(error))[0]
        if failed:
            raise OSError(
                f"the checkpoint of step {self.step} could not be written to {path}: {failed} The one before, if any, "
                "is whole; free space or choose another folder, and go on from it."
            ) from error

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it is damaged, or of a run with other settings; nothing is changed then.
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

    A run that was cut goes on from its last checkpoint: to the same bits on the same kind of device with as many ranks
    and threads, and to rounding otherwise.

    Args:
        begin: makes the learner.
        seed: of torch's global generators, which are afterwards as they were before.
        device: of the run.
        save_to: a checkpoint to go on from if it is there, and to save to.
        save_every: steps between two checkpoints.
        progress: a bar to advance.
        look_on: called after each look.

    Raises:
        ValueError: if the checkpoint is damaged or of another run.
        RuntimeError: if the loss or a gradient is not finite in five steps in a row (a single one is left out), the
            masks of ranks differ, or a rank is lost.
        OSError: if a checkpoint cannot be written; the one before is whole.
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
                if told := learner.told():
                    progress.set_postfix_str(told, refresh=False)
    return training


def settings(method: str | Method, sparsity: float, recipe: Any, seed: int, **subject: str) -> dict[str, Any]:
    """What two runs must have in common, if one is to go on from the checkpoint of the other.

    Args:
        method, sparsity, recipe, seed: of the run.
        subject: what is trained on, by name and digest.
    """
    shared = {"method": repr(get_method(method)), "sparsity": sparsity, "recipe": asdict(recipe), "seed": seed}
    return {**subject, **shared}


def masks_of(learner: Learner) -> dict[str, Tensor]:
    """Those that the model has now, which keep what they are."""
    return {name: mask.cpu().clone() for name, mask in learner.sparsifier.masks.items()}


def _to_cpu(value: Any) -> Any:
    """A tensor whole and with memory of its own; anything else as it is."""
    return full_tensor(value).detach().cpu().clone() if isinstance(value, Tensor) else value


def _without_averaging(replica: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay with their rank until the last part of a batch."""
    replica = getattr(replica, "_orig_mod", replica)
    return replica.no_sync() if isinstance(replica, nn.parallel.DistributedDataParallel) else nullcontext()


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
            compute_loss: that of the batch again, see :func:`chts_core.tools.numerics.find_nonfinite`.

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
