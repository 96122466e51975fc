"""Train language models, one run or a race of several methods, in one process or in many."""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from chts_core.choices import Dense
from chts_core.distributed import Ranks, ranks_of, telling_of_lost_ranks
from chts_core.lab import checkpoint, loop, records
from chts_core.lab.data import (
    MemoryFeed,
    StreamFeed,
    TextData,
    TextStream,
    TextTokenizer,
    load_tokenizer,
    pack,
)
from chts_core.lab.models import LLAMA_SIZES, initialise_llama, llama
from chts_core.lab.statistics import summarise_by
from chts_core.linear import Execution
from chts_core.link_warmup import LinkWarmup
from chts_core.methods import REVISION, Method, get_method
from chts_core.planner import Plan, plan
from chts_core.sharding import share_out, whole
from chts_core.sparsifier import Sparsifier, Update

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Precision = Literal["float32", "bfloat16", "bfloat16_weights"]
Parallel = Literal["ddp", "fsdp"]

_STEPS_TIMED = 4
_BETWEEN_SHOWN = 10  # steps from one look at the training loss to the next
_LEAST_LEARNING_RATE = 0.1  # of the peak, at the end
_PRODUCTS_TIMED = 5
_WATCHED_TOKENS = 4096  # at most, around an update


@dataclass(frozen=True)
class Recipe:
    """How a language model is trained: Adam under a cosine schedule with a linear warm-up, gradients clipped.

    size: a name in `LLAMA_SIZES`.
    vocabulary: number of tokens.
    tokenizer: a path to a tokenizer.json or a name on the hub; "": trained on the corpus.
    context: tokens that the model sees at a time, packed without padding.
    steps: of the optimizer.
    batch: contexts of a step, over all ranks together.
    micro_batch: most contexts that go through a model at once; the gradient is the same, the memory less.
    learning_rate: at its peak.
    dense_learning_rate: that of a network with all its links; None: the same.
    warmup: steps until the peak.
    iterative_warmup: steps in which the learning rate comes back after each change of the topology; 0: it stays.
    link_warmup: steps in which new links move less after each change of the topology, all others as ever; 0: none. See
        :class:`chts_core.link_warmup.LinkWarmup`.
    watch_updates: whether the loss is looked at around each change of the topology, see :class:`UpdateLoss`; the run
        is the same to the bit.
    clip: largest norm of the gradient.
    update_every: steps between updates of the topology.
    validate_every: steps between looks at the validation tokens.
    validation_tokens: how many are looked at, always the same; fewer where the corpus has no more.
    precision: "float32"; "bfloat16": products in bfloat16, weights in float32; "bfloat16_weights": all in bfloat16, as
        the published code has it, which rounds small changes away.
    deviation: of the first weights, see :func:`chts_core.lab.models.initialise_llama`.
    per_head: whether each head of queries, keys and values has links of its own number.
    compile: whether `torch.compile` makes the model faster, after a minute or more.
    lanes: streams that a corpus too large for the memory is read in; their number, not that of the ranks, decides
        which text comes when.
    """

    size: str = "tiny"
    vocabulary: int = 1024
    tokenizer: str = ""
    context: int = 128
    steps: int = 200
    batch: int = 16
    micro_batch: int = 16
    learning_rate: float = 2e-2
    dense_learning_rate: float | None = 8e-3
    warmup: int = 20
    iterative_warmup: int = 0
    link_warmup: int = 0
    watch_updates: bool = False
    clip: float = 1.0
    update_every: int = 10
    validate_every: int = 50
    validation_tokens: int = 20_000
    precision: Precision = "float32"
    execution: Execution = "masked"
    deviation: float | None = None
    per_head: bool = False
    compile: bool = False
    lanes: int = 8

    def __post_init__(self) -> None:
        if self.size not in LLAMA_SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(map(repr, LLAMA_SIZES))}.")
        whole_numbers = ("context", "steps", "batch", "micro_batch", "warmup", "update_every", "validate_every")
        for name in (*whole_numbers, "validation_tokens", "lanes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        loop.check_iterative_warmup(self.iterative_warmup)
        if not 0 <= self.link_warmup <= self.update_every:
            raise ValueError(
                f"link_warmup is {self.link_warmup}; expected a number of steps up to update_every, which is "
                f"{self.update_every}, or 0 for none."
            )
        if self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; expected the largest norm of the gradient, above 0.")
        if self.precision not in ("float32", "bfloat16", "bfloat16_weights"):
            raise ValueError(f"precision is {self.precision!r}; expected 'float32', 'bfloat16' or 'bfloat16_weights'.")


_PAPER = Recipe(
    size="60m",
    vocabulary=32_128,
    tokenizer="t5-base",
    context=256,
    steps=10_000,
    batch=512,
    micro_batch=64,
    learning_rate=3e-3,
    dense_learning_rate=1e-3,
    warmup=1000,
    iterative_warmup=20,
    update_every=100,
    validate_every=1000,
    validation_tokens=10_000_000,
    precision="bfloat16",
    deviation=0.02,
    lanes=64,
)
RECIPES: dict[str, Recipe] = {
    # Learning rates by the validation loss of a seed that no race uses; those of "small" are 128/320 of them.
    "tiny_ci": Recipe(steps=60, batch=8, warmup=10, update_every=5, validate_every=20, validation_tokens=5000),
    "tiny_short": Recipe(steps=100, batch=8, update_every=5, validate_every=25),
    "tiny": Recipe(steps=200),
    "small": Recipe(
        size="small",
        vocabulary=4096,
        context=256,
        steps=1000,
        learning_rate=8e-3,
        dense_learning_rate=3.2e-3,
        warmup=100,
        update_every=25,
    ),
    # The paper's, but for 350m and 7b, which it does not have; micro-batches are ours.
    "60m": _PAPER,
    "130m": replace(_PAPER, size="130m", steps=30_000, warmup=10_000, micro_batch=32),
    "350m": replace(_PAPER, size="350m", steps=60_000, warmup=6000, micro_batch=16),
    "1b": replace(_PAPER, size="1b", steps=100_000, warmup=10_000, micro_batch=8, dense_learning_rate=4e-4),
    "7b": replace(_PAPER, size="7b", steps=150_000, warmup=15_000, micro_batch=4, dense_learning_rate=4e-4),
}


@dataclass(frozen=True)
class Task:
    """A corpus as a model of a recipe sees it.

    train: int32 (n, context + 1), or a stream that is tokenised as it is read.
    validation: int32 (n, context + 1).
    """

    name: str
    digest: str
    tokenizer: TextTokenizer
    train: Tensor | TextStream
    validation: Tensor


def prepare(data: TextData, recipe: Recipe, cache_dir: Path | None = None) -> Task:
    """Train or fetch the tokenizer of a corpus and pack it.

    Raises:
        ValueError: if a named tokenizer has more tokens than the recipe, or the corpus is shorter than a batch.
    """
    tokenizer = load_tokenizer(data, recipe.vocabulary, recipe.tokenizer, cache_dir)
    train = data.train if isinstance(data.train, TextStream) else pack(data.train, tokenizer, recipe.context)
    if isinstance(train, Tensor):
        MemoryFeed(train, recipe.batch, 0)  # refused now if it is shorter than a batch
    most = -(-recipe.validation_tokens // recipe.context)
    validation = pack(data.validation, tokenizer, recipe.context, most=most)
    return Task(data.name, data.digest, tokenizer, train, validation)


@dataclass(frozen=True)
class Look:
    """A look at the validation tokens: at which step, loss per token in nats."""

    step: int
    loss: float

    @property
    def perplexity(self) -> float:
        """How many tokens, equally likely, would be as hard to choose among."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class UpdateLoss:
    """Loss per token in nats around a change of the topology, on validation contexts that are always the same.

    step: that the update followed.
    before, after: just before it and just after it; the weights that survive are the same.
    next: after one more step of the optimizer, the first of the new links; None if there has been none.
    """

    step: int
    before: float
    after: float
    next: float | None = None


@dataclass(frozen=True)
class Run:
    """What one training run gave.

    train_loss: (step, loss per token in nats), every few steps.
    skipped_steps: left out because their loss or gradient was not finite.
    looks: at the validation tokens.
    updates: the loss around each change of the topology; empty unless the recipe asks for it.
    tokens: seen in training, over all ranks.
    seconds: of training alone; `total_seconds` also of looking and saving.
    mfu: the operations that a dense model needs, each second, as a share of those of one large product of matrices
        here, in the precision of the recipe. Above that of a dense run, links saved time.
    peak_memory_mb: of one rank; None where the system does not tell.
    ranks: processes that trained together.
    """

    method: str
    seed: int
    sparsity: float
    train_loss: list[tuple[int, float]]
    skipped_steps: list[int]
    looks: list[Look]
    updates: list[UpdateLoss]
    density: float
    active_neurons: float
    itop: float
    tokens: int
    seconds: float
    total_seconds: float
    mfu: float
    peak_memory_mb: int | None
    ranks: int
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]
    model: "LlamaForCausalLM" = field(repr=False)

    @property
    def perplexity(self) -> float:
        """Of the last look."""
        return self.looks[-1].perplexity

    @property
    def validation_loss(self) -> float:
        """Of the last look, per token in nats."""
        return self.looks[-1].loss

    @property
    def tokens_per_second(self) -> float:
        """In training, over all ranks."""
        return self.tokens / max(self.seconds, 1e-9)


def learning_rate_at(step: int, recipe: Recipe, last_update: int | None = None) -> float:
    """The learning rate of a step, counted from 1: a linear rise, then half a cosine down to a tenth of the peak.

    After each update of the topology it comes back in equal parts over `iterative_warmup` steps (paper, Table 6).

    Args:
        step, recipe: as above.
        last_update: the step that the latest update of the topology followed; None before the first.
    """
    back = loop.share_after_update(step, last_update, recipe.iterative_warmup)
    if step <= recipe.warmup:
        return back * recipe.learning_rate * step / recipe.warmup
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    fallen = 0.5 * (1 - math.cos(math.pi * min(progress, 1.0)))
    return back * recipe.learning_rate * (1 - (1 - _LEAST_LEARNING_RATE) * fallen)


def operations_per_token(recipe: Recipe) -> float:
    """Floating-point operations that training a dense model takes per token (Chowdhery et al., 2022, appendix B).

    Six for each weight of the linear layers - a product and a sum, forward and twice backward - and twelve for each
    neuron and each token that its attention looks back on.
    """
    size = LLAMA_SIZES[recipe.size]
    head_dim = size.width // size.heads
    attention = 2 * size.width**2 + 2 * size.width * size.key_heads * head_dim
    linear = size.layers * (attention + 3 * size.width * size.feed_forward) + size.width * recipe.vocabulary
    return 6.0 * linear + 12.0 * size.layers * size.width * recipe.context


@functools.cache
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of one large product of matrices on this device, the best of a few."""
    width = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(width, width, device=device, dtype=dtype)
    seconds = []
    for _ in range(_PRODUCTS_TIMED):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading it waits for a GPU
        seconds.append(time.perf_counter() - started)
    return 2.0 * width**3 / min(seconds)


class _Training:
    """A run under way: everything that a checkpoint holds."""

    def __init__(
        self,
        task: Task,
        method: str | Method,
        sparsity: float,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        parallel: Parallel = "ddp",
    ) -> None:
        if isinstance(get_method(method).sparsity, Dense) and recipe.dense_learning_rate is not None:
            recipe = replace(recipe, learning_rate=recipe.dense_learning_rate)
        if task.tokenizer.size > recipe.vocabulary:
            raise ValueError(
                f"the tokenizer has {task.tokenizer.size} tokens and the recipe's vocabulary {recipe.vocabulary}; "
                "prepare the task with this recipe, or set vocabulary to as many."
            )
        self.task, self.recipe, self.seed, self.device = task, recipe, seed, device
        self.model = llama(recipe.vocabulary, LLAMA_SIZES[recipe.size], recipe.context)
        if recipe.precision == "bfloat16_weights":
            self.model.bfloat16()
        in_many = torch.distributed.is_available() and torch.distributed.is_initialized()
        if in_many and parallel == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for block in self.model.model.layers:
                fully_shard(block)
            fully_shard(self.model)
        initialise_llama(self.model, device, torch.Generator().manual_seed(seed), recipe.deviation)
        self.replica: nn.Module = self.model
        if in_many and parallel == "ddp":
            self.replica = nn.parallel.DistributedDataParallel(
                self.model, device_ids=[device] if device.type == "cuda" else None
            )
        self.ranks = ranks_of(self.replica)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, fused=True)
        self.sparsifier = Sparsifier(
            self.replica,
            self.optimizer,
            method,
            sparsity,
            total_steps=recipe.steps,
            update_every=recipe.update_every,
            seed=seed,
            per_head=recipe.per_head,
            execution=recipe.execution,
        )
        self.sparsifier.rescale_weights()
        self.link_warmup = LinkWarmup(self.sparsifier, recipe.link_warmup)
        if recipe.compile:
            self.replica = cast(nn.Module, torch.compile(self.replica))
        self.feed = _feed(task, recipe, seed, self.ranks)
        self.first_masks = {name: mask.cpu().clone() for name, mask in self.sparsifier.masks.items()}
        self.step, self.tokens, self.seconds, self.total_seconds = 0, 0, 0.0, 0.0
        self.skips = loop.Skips(self.model)
        self.train_loss: list[tuple[int, float]] = []
        self.looks: list[Look] = []
        self.updates: list[UpdateLoss] = []
        # Not how many ranks there are, nor how they share the work: that may change from one part of a run to the next.
        self._settings = {
            "task": task.name,
            "corpus": task.digest,
            "tokenizer": task.tokenizer.digest,
            "method": repr(get_method(method)),
            "sparsity": sparsity,
            "recipe": asdict(recipe),
            "seed": seed,
        }

    def learn(self) -> float:
        """One step of the optimizer; the loss of its batch on this rank."""
        started = time.perf_counter()
        rate = learning_rate_at(self.step + 1, self.recipe, loop.last_update(self.sparsifier))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        rows = self.feed.next()
        parts = rows.split(min(self.recipe.micro_batch, len(rows)))
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            with self._without_averaging() if number < len(parts) else nullcontext():
                loss = self._loss(self.replica, part) / (len(rows) * self.recipe.context)
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        # That of all ranks together, so that they do the same.
        skipped = self.skips.skip(
            self.step + 1, float(whole(norm)), lambda: torch.stack([self._loss(self.model, part) for part in parts])
        )
        if not skipped:
            self.optimizer.step()
        if self.recipe.watch_updates:
            self._watch_update(skipped)
        else:
            self.sparsifier.step(skipped=skipped)
        self.step += 1
        self.tokens += self.ranks.size * len(rows) * self.recipe.context
        if self.step % _BETWEEN_SHOWN == 0 and not skipped:
            (shown,) = self.ranks.sum([float(total) / self.ranks.size])
            self.train_loss.append((self.step, shown))
        self.seconds += time.perf_counter() - started
        return float(total)

    def _loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        return _loss(model, rows.to(self.device), self.recipe)

    def _watch_update(self, skipped: bool) -> None:
        """The sparsifier's step, with looks at the loss around a change of the topology."""
        latest = self.updates[-1] if self.updates else None
        if latest is not None and latest.step == self.step:
            self.updates[-1] = replace(latest, next=self._watched_loss())
        before = self._watched_loss() if self.sparsifier.update_due else math.nan
        self.sparsifier.step(skipped=skipped)
        if loop.last_update(self.sparsifier) == self.step + 1:
            self.updates.append(UpdateLoss(self.step + 1, before, self._watched_loss()))

    def _watched_loss(self) -> float:
        """On a few validation contexts, always the same; it takes no seconds of training."""
        started = time.perf_counter()
        contexts = self.task.validation[: max(_WATCHED_TOKENS // self.recipe.context, 1)]
        loss = validation_loss(self.model, contexts, self.recipe, self.ranks)
        self.seconds -= time.perf_counter() - started
        return loss

    def _without_averaging(self) -> Any:
        """Gradients stay with their rank until the last part of a batch."""
        replica = getattr(self.replica, "_orig_mod", self.replica)
        return replica.no_sync() if isinstance(replica, nn.parallel.DistributedDataParallel) else nullcontext()

    def look(self) -> None:
        """Measure where the run stands, on the validation tokens."""
        loss = validation_loss(self.model, self.task.validation, self.recipe, self.ranks)
        self.looks.append(Look(self.step, loss))

    @property
    def mfu(self) -> float:
        """See :class:`Run`."""
        dtype = torch.float32 if self.recipe.precision == "float32" else torch.bfloat16
        possible = operations_per_second(self.device, dtype) * self.ranks.size
        return operations_per_token(self.recipe) * self.tokens / max(self.seconds, 1e-9) / possible

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; a collective."""
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            number: {key: _to_cpu(value) for key, value in state.items()}
            for number, state in optimizer["state"].items()
        }
        # Ranks read shares of a stream of their own.
        feed: dict[str, Any] = {}
        for part in self.ranks.gather(self.feed.state_dict()):
            feed = {
                key: {**feed.get(key, {}), **value} if isinstance(value, dict) else value for key, value in part.items()
            }
        return {
            "settings": self._settings,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "train_loss": self.train_loss,
            "skipped_steps": self.skips.steps,
            "looks": [asdict(look) for look in self.looks],
            "updates": [asdict(update) for update in self.updates],
            "first_masks": self.first_masks,
            "model": {name: _to_cpu(tensor) for name, tensor in self.model.state_dict().items()},
            "optimizer": optimizer,
            "sparsifier": self.sparsifier.state_dict(),
            "link_warmup": self.link_warmup.state_dict(),
            "feed": feed,
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint; a collective, of which the first rank writes."""
        state = self.state()
        error = None
        if self.ranks.rank == 0:
            try:
                checkpoint.save(path, state)
            except OSError as failure:
                error = failure
        # All ranks stop where the first cannot write, instead of waiting for it.
        failed = self.ranks.gather(None if error is None else str(error))[0]
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
        state = loop.load_state(path, self.state().keys(), self._settings, "a language model's training")
        ours = self.model.state_dict()
        self.model.load_state_dict({name: share_out(tensor, ours[name]) for name, tensor in state["model"].items()})
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for number, kept in state["optimizer"]["state"].items():
            for key, value in kept.items():
                kept[key] = share_out(value, weights[number]) if isinstance(value, Tensor) else value
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.link_warmup.load_state_dict(state["link_warmup"])
        self.feed.load_state_dict(state["feed"])
        self.first_masks = state["first_masks"]
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds, self.total_seconds = state["seconds"], state["total_seconds"]
        self.train_loss = [(step, loss) for step, loss in state["train_loss"]]
        self.skips.steps = state["skipped_steps"]
        self.looks = [Look(**look) for look in state["looks"]]
        self.updates = [UpdateLoss(**update) for update in state["updates"]]


def _to_cpu(value: Any) -> Any:
    """A tensor whole and with memory of its own; anything else as it is."""
    return whole(value).detach().cpu().clone() if isinstance(value, Tensor) else value


def _feed(task: Task, recipe: Recipe, seed: int, ranks: Ranks) -> MemoryFeed | StreamFeed:
    if isinstance(task.train, Tensor):
        return MemoryFeed(task.train, recipe.batch, seed, ranks.rank, ranks.size)
    return StreamFeed(
        task.train,
        task.tokenizer,
        recipe.context,
        recipe.batch,
        seed,
        lanes=recipe.lanes,
        buffer=_SHUFFLED_DOCUMENTS,
        rank=ranks.rank,
        ranks=ranks.size,
        workers=_READERS if torch.cuda.is_available() else 0,
    )


_SHUFFLED_DOCUMENTS = 1000  # of each lane at a time
_READERS = 2  # processes that tokenise beside a GPU


def train(
    task: Task,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    label: str | None = None,
    save_to: Path | None = None,
    save_every: int = 500,
    progress: "tqdm[Any] | None" = None,
    log_to: Path | None = None,
    parallel: Parallel = "ddp",
) -> Run:
    """Train one language model by one method.

    The seed decides the initial weights, the order of the text and the topology; the same seed gives every method the
    same weights and batches. A run that was cut goes on from its last checkpoint: to the same bits on the same kind of
    device with as many ranks and threads, and to rounding otherwise.

    Where `torch.distributed` is initialised, all its ranks call this with the same arguments and train one model.

    Args:
        task: of `prepare`.
        method, sparsity: of the Sparsifier.
        recipe: sizes, optimizer and schedule.
        seed, device: of the run.
        label: name of the run; by default the method's.
        save_to: a checkpoint to go on from if it is there, and to save to.
        save_every: steps between two checkpoints.
        progress: a bar to advance by one per step.
        log_to: a folder for TensorBoard.
        parallel: "ddp", every rank has a copy of the model; "fsdp", every rank has a share of each weight.

    Raises:
        ValueError: if the settings do not fit together, or the checkpoint is damaged or of another run.
        RuntimeError: if the loss or a gradient is not finite in five steps in a row (a single one is left out), the
            masks of ranks differ, or a rank is lost.
        OSError: if a checkpoint cannot be written; the one before is whole.
    """
    device = torch.device(device)
    clock = time.perf_counter()
    loop.forget_memory_peak(device)
    with telling_of_lost_ranks():
        training = _Training(task, method, sparsity, recipe, seed, device, parallel)
        if save_to is not None and save_to.exists():
            training.resume(save_to)
        log = _Log(log_to if training.ranks.rank == 0 else None)
        if progress is not None:
            progress.update(training.step)
        clock -= training.total_seconds
        while training.step < recipe.steps:
            training.learn()
            last = training.step == recipe.steps
            if last or training.step % recipe.validate_every == 0:
                training.look()
                log.write(training)
            if save_to is not None and (last or training.step % save_every == 0):
                training.total_seconds = time.perf_counter() - clock
                training.save(save_to)
            if progress is not None:
                _show(progress, training)
    log.close()
    return Run(
        method=label or (method if isinstance(method, str) else "custom"),
        seed=seed,
        sparsity=sparsity,
        train_loss=training.train_loss,
        skipped_steps=training.skips.steps,
        looks=training.looks,
        updates=training.updates,
        density=training.sparsifier.density(),
        active_neurons=training.sparsifier.active_neurons(),
        itop=training.sparsifier.itop_rate(),
        tokens=training.tokens,
        seconds=training.seconds,
        total_seconds=time.perf_counter() - clock,
        mfu=training.mfu,
        peak_memory_mb=loop.peak_memory_mb(device),
        ranks=training.ranks.size,
        history=training.sparsifier.history,
        first_masks=training.first_masks,
        last_masks={name: mask.cpu().clone() for name, mask in training.sparsifier.masks.items()},
        model=training.model,
    )


def _show(progress: "tqdm[Any]", training: _Training) -> None:
    progress.update()
    if training.looks and training.step % _BETWEEN_SHOWN == 0:
        speed = training.tokens / max(training.seconds, 1e-9)
        progress.set_postfix_str(
            f"{speed:,.0f} tokens/s, MFU {training.mfu:.0%}, {loop.memory_mb(training.device):,} MB, "
            f"perplexity {training.looks[-1].perplexity:.1f}",
            refresh=False,
        )


class _Log:
    """Writes for TensorBoard, if a folder is given."""

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    f"log_to is {folder}, but TensorBoard is not installed; `pip install tensorboard`, or leave it out."
                ) from error
            self._writer = SummaryWriter(str(folder))

    def write(self, training: _Training) -> None:
        if self._writer is None:
            return
        values = {
            "loss/validation": training.looks[-1].loss,
            "density": training.sparsifier.density(),
            "active_neurons": training.sparsifier.active_neurons(),
            "tokens_per_second": training.tokens / max(training.seconds, 1e-9),
        }
        if training.train_loss:
            values["loss/train"] = training.train_loss[-1][1]
        for name, value in values.items():
            self._writer.add_scalar(name, value, training.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _loss(model: nn.Module, rows: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy of all tokens of some contexts together, in nats: each predicts the one after it."""
    precision = "bfloat16" if recipe.precision == "bfloat16" else "float32"
    with loop.autocast(precision, rows.device):
        logits = model(rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


@torch.no_grad()
def validation_loss(model: nn.Module, validation: Tensor, recipe: Recipe, ranks: Ranks | None = None) -> float:
    """Cross-entropy per token in nats; its exp is the perplexity.

    Args:
        model: to be measured.
        validation: int (n, context + 1).
        recipe: its precision and micro_batch.
        ranks: which share the work; all call this, and get the same.
    """
    device = next(model.parameters()).device
    ranks = ranks or Ranks(None, device)
    model.eval()
    parts = validation.split(recipe.micro_batch)
    total = 0.0
    # Where weights are shared out, a rank takes part in what the others compute: all do the same number of parts.
    for number in range(ranks.rank, -(-len(parts) // ranks.size) * ranks.size, ranks.size):
        part = parts[min(number, len(parts) - 1)]
        loss = float(_loss(model, part.to(device, torch.int64), recipe))
        total += loss if number < len(parts) else 0.0
    (total,) = ranks.sum([total])
    return total / validation[:, 1:].numel()


@torch.no_grad()
def generate(
    model: "LlamaForCausalLM",
    tokenizer: TextTokenizer,
    prompt: str,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> str:
    """Go on with a text, token by token.

    Args:
        model: a language model.
        tokenizer: its tokens.
        prompt: the beginning; "" for that of a document.
        num_tokens: most tokens to add; a document may end before.
        temperature: 0 takes the likeliest token; above, one is drawn by probability ** (1 / temperature).
        generator: of the CPU.

    Returns:
        The prompt and what follows.

    Raises:
        ValueError: for a temperature below 0.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; expected 0, for the likeliest token, or more.")
    device = next(model.parameters()).device
    context: int = model.config.max_position_embeddings
    model.train(False)
    tokens = [tokenizer.end, *tokenizer.encode([prompt])[0]]
    for _ in range(num_tokens):
        seen = torch.tensor([tokens[-context:]], device=device)
        logits = model(seen, use_cache=False).logits[0, -1, : tokenizer.size].float().cpu()
        if temperature:
            chances = (logits / temperature).softmax(0)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token == tokenizer.end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens)


def plan_run(method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """What a run of `train` with these settings would do (:func:`chts_core.plan`), without running it."""
    loop.refuse_correlations(method, "tokens")
    return plan(
        llama(recipe.vocabulary, LLAMA_SIZES[recipe.size], recipe.context),
        method,
        sparsity,
        total_steps=recipe.steps,
        update_every=recipe.update_every,
        per_head=recipe.per_head,
        execution=recipe.execution,
        moments=2,
    )


def predict_seconds(
    task: Task, method: str | Method, sparsity: float, recipe: Recipe, *, device: torch.device | str = "cpu"
) -> float:
    """How long the training of a run will take here, from a few of its steps on a model that is thrown away.

    Looking at the validation tokens comes on top.
    """
    steps = min(_STEPS_TIMED, max(recipe.steps - 1, 1))
    timed = replace(recipe, steps=max(recipe.steps, 2))
    training = _Training(task, method, sparsity, timed, 0, torch.device(device))
    training.learn()  # the first is slower
    training.seconds = 0.0
    for _ in range(steps):
        training.learn()
    return training.seconds / steps * recipe.steps


def race(
    task: Task,
    methods: Sequence[str] | Mapping[str, str | Method],
    sparsity: float,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> list[Run]:
    """Train every method with every seed at an equal number of steps; one progress bar counts the steps.

    Args:
        task, sparsity, recipe, device: as of `train`.
        methods: names, or methods by the name to show.
        seeds: one run of each method with each.
        folder: of :func:`chts_core.lab.loop.race`.

    Raises:
        ValueError: if the settings do not fit one of the methods, before any is trained.
    """
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    for method in named.values():
        plan_run(method, sparsity, recipe)

    def one(label: str, method: str | Method, seed: int, save_to: Path | None, progress: "tqdm[Any]") -> Run:
        return train(
            task, method, sparsity, recipe, seed=seed, device=device, label=label, save_to=save_to, progress=progress
        )

    return loop.race(
        one,
        named,
        sparsity,
        seeds,
        length=(recipe.steps, "step"),
        as_record=lambda run: as_record(run, task, recipe, device),
        folder=folder,
    )


def train_and_record(
    task: Task,
    method: str | Method,
    sparsity: float,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    save_every: int = 500,
    log_to: Path | None = None,
    parallel: Parallel = "ddp",
    show: bool = True,
) -> dict[str, Any] | None:
    """Train one language model, with a checkpoint in a folder, and write the record of the run there, `run.json`.

    Args:
        task, method, sparsity, recipe, seed, device, save_every, log_to, parallel: as of `train`.
        folder: a run that was cut goes on from what is there.
        show: a bar that counts the steps.

    Returns:
        The record; None on all ranks but the first.
    """
    plan_run(method, sparsity, recipe)
    return loop.train_and_record(
        lambda save_to, progress: train(
            task,
            method,
            sparsity,
            recipe,
            seed=seed,
            device=device,
            save_to=save_to,
            save_every=save_every,
            progress=progress,
            log_to=log_to,
            parallel=parallel,
        ),
        folder,
        length=(recipe.steps, "step"),
        as_record=lambda run: as_record(run, task, recipe, device),
        show=show,
    )


def as_record(run: Run, task: Task, recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """What to keep of a run: all but its masks, its history and its model, rounded where more digits say nothing."""
    return {
        "schema": records.SCHEMA,
        "task": "language",
        "dataset": task.name,
        "data": task.digest,
        "tokenizer": task.tokenizer.digest,
        "vocabulary": task.tokenizer.size,
        "method": run.method,
        "methods": REVISION,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "recipe": asdict(recipe),
        "train_loss": [[step, round(loss, 4)] for step, loss in run.train_loss],
        "skipped_steps": run.skipped_steps,
        "validation": [
            {"step": look.step, "loss": round(look.loss, 4), "perplexity": round(look.perplexity, 2)}
            for look in run.looks
        ],
        "validation_tokens": task.validation[:, 1:].numel(),
        "updates": [
            {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(update).items()}
            for update in run.updates
        ],
        "links": sum(int(mask.sum()) for mask in run.last_masks.values()),
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "itop": round(run.itop, 5),
        "tokens": run.tokens,
        "seconds": round(run.seconds, 1),
        "total_seconds": round(run.total_seconds, 1),
        "evolution_seconds": round(sum(row["seconds"] for row in run.history), 1),
        "tokens_per_second": round(run.tokens_per_second),
        "mfu": round(run.mfu, 4),
        "peak_memory_mb": run.peak_memory_mb,
        "ranks": run.ranks,
        "device": records.describe_device(torch.device(device)),
        "versions": records.versions(),
        "git": records.git_revision(),
        "finished": records.now(),
    }


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, means over its runs: loss on the validation tokens with `interval`, the half-width of its
    95 % confidence interval (None for a single run), and perplexity."""
    return summarise_by(runs, "validation_loss", attrgetter("validation_loss"), perplexity=attrgetter("perplexity"))


def recorded() -> list[dict[str, Any]]:
    """The recorded runs that come with the package, rows of `as_record`."""
    return records.read_runs(records.results_folder() / "language.jsonl")
