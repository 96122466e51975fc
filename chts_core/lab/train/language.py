"""Train language models, in one run or in a race of several methods, with one process or with many."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.engine.distributed import Ranks, ranks_of
from chts_core.lab import decoding
from chts_core.lab.data import MemoryFeed, StreamFeed, TextData, TextStream, TextTokenizer, load_tokenizer, pack
from chts_core.lab.models import LLAMA_SIZES, initialise_llama, llama
from chts_core.lab.results.statistics import summarise_by
from chts_core.lab.train import loop, recipes, runs, speed
from chts_core.lab.train.machine import autocast, is_first_rank, memory_mb
from chts_core.lab.train.tensorboard import Log
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier
from chts_core.tools.link_warmup import LinkWarmup
from chts_core.tools.planner import Plan, plan

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import LlamaForCausalLM

Parallel = Literal["ddp", "fsdp"]
Recipe = recipes.LanguageRecipe
RECIPES = recipes.LANGUAGE_RECIPES
operations_per_token = speed.operations_per_token
generate = decoding.generate

_BETWEEN_SHOWN = 10  # steps between two refreshes of a progress bar
_LEAST_LEARNING_RATE = 0.1  # as a share of the peak; reached at the end
_WATCHED_TOKENS = 4096  # the largest number of tokens for the loss before and after an update
_SHUFFLED_DOCUMENTS = 1000  # documents that each lane shuffles at a time
_READERS = 2  # processes that tokenise while a GPU trains


@dataclass(frozen=True)
class Task:
    """A corpus, prepared for the model of a recipe.

    train: int32 (n, context + 1), or a stream that is tokenised while it is read.
    validation: int32 (n, context + 1).
    """

    name: str
    digest: str
    tokenizer: TextTokenizer
    train: Tensor | TextStream
    validation: Tensor


def prepare(data: TextData, recipe: Recipe, cache_dir: Path | None = None) -> Task:
    """Train or fetch the tokenizer of a corpus, and pack the corpus.

    Raises:
        ValueError: if the tokenizer has too many tokens for the recipe, or if the corpus is shorter than a batch.
    """
    tokenizer = load_tokenizer(data, recipe.vocabulary, recipe.tokenizer, cache_dir)
    train = data.train if isinstance(data.train, TextStream) else pack(data.train, tokenizer, recipe.context)
    if isinstance(train, Tensor):
        MemoryFeed(train, recipe.batch, 0)  # raises an error now if the corpus is shorter than a batch
    most = -(-recipe.validation_tokens // recipe.context)
    validation = pack(data.validation, tokenizer, recipe.context, most=most)
    return Task(data.name, data.digest, tokenizer, train, validation)


@dataclass(frozen=True)
class Look:
    """A measurement on the validation tokens: the step, and the loss per token in nats."""

    step: int
    loss: float

    @property
    def perplexity(self) -> float:
        """The perplexity: predicting a token is as hard as choosing from this many equally likely tokens."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class UpdateLoss:
    """Loss per token in nats before and after a change of the topology, always on the same validation contexts.

    step: the step before the update.
    before, after: the loss just before and just after the update, which does not change the surviving weights.
    next: the loss after the first optimizer step that trains the new links; None if there is no such step.
    """

    step: int
    before: float
    after: float
    next: float | None = None


@dataclass(frozen=True)
class Run(runs.Run):
    """The result of one training run.

    train_loss: pairs (step, loss per token in nats), one every few steps.
    looks: measurements on the validation tokens.
    updates: the loss before and after each change of the topology; empty if the recipe's `watch_updates` is False.
    tokens: the number of tokens seen in training, over all ranks.
    mfu: model FLOPs utilisation (:func:`chts_core.lab.train.speed.mfu`), in the recipe's precision. If the mfu
        of a run is higher than the mfu of FC, sparsity saved time.
    ranks: number of processes that trained together.
    """

    train_loss: list[tuple[int, float]]
    looks: list[Look]
    updates: list[UpdateLoss]
    tokens: int
    mfu: float
    ranks: int
    model: "LlamaForCausalLM" = field(repr=False)

    @property
    def perplexity(self) -> float:
        """Perplexity at the last measurement."""
        return self.looks[-1].perplexity

    @property
    def validation_loss(self) -> float:
        """Loss per token in nats at the last measurement."""
        return self.looks[-1].loss

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second in training, over all ranks."""
        return self.tokens / max(self.seconds, 1e-9)


def learning_rate_at(step: int, recipe: Recipe, last_update: int | None = None) -> float:
    """The learning rate of a step: it rises linearly, and then falls along half a cosine to a tenth of the peak.

    After an update of the topology, the rate starts low again and rises for `iterative_warmup` steps (paper, Table 6).

    Args:
        step, recipe: the number of the step, counted from 1, and the recipe with the schedule.
        last_update: the step before the latest update of the topology; None before the first update.
    """
    back = loop.share_after_update(step, last_update, recipe.iterative_warmup)
    if step <= recipe.warmup:
        return back * recipe.learning_rate * step / recipe.warmup
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    fallen = 0.5 * (1 - math.cos(math.pi * min(progress, 1.0)))
    return back * recipe.learning_rate * (1 - (1 - _LEAST_LEARNING_RATE) * fallen)


class _Learner(loop.Learner):
    """A LLaMA that learns to predict the next token. It is trained with Adam, and measured on the validation tokens."""

    kind = "a language model's training"

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
        self.recipe = recipe = recipes.with_rate_of(recipe, method)
        if task.tokenizer.size > recipe.vocabulary:
            raise ValueError(
                f"the tokenizer has {task.tokenizer.size} tokens, but the recipe's vocabulary is {recipe.vocabulary}; "
                "prepare the task with this recipe, or set vocabulary to the number of tokens."
            )
        self.task, self.device, self.clip, self.look_every = task, device, recipe.clip, recipe.validate_every
        self.model, self.replica = _model(recipe, seed, device, parallel)
        self.ranks = ranks_of(self.replica)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, fused=True)
        self.sparsifier = Sparsifier(self.replica, self.optimizer, method, sparsity, seed=seed, **recipe.topology)
        self.sparsifier.rescale_weights()
        self.link_warmup = LinkWarmup(self.sparsifier, recipe.link_warmup)
        if recipe.compile:
            self.replica = cast(nn.Module, torch.compile(self.replica))
        self.feed = _feed(task, recipe, seed, self.ranks)
        # The number of ranks and their division of the work are not settings: they may change when a run continues.
        subject = {"task": task.name, "corpus": task.digest, "tokenizer": task.tokenizer.digest}
        self.settings = loop.settings(method, sparsity, recipe, seed, **subject)
        self.tokens = 0
        self.train_loss: list[tuple[int, float]] = []
        self.looks: list[Look] = []
        self.updates: list[UpdateLoss] = []

    def rate(self) -> float:
        return learning_rate_at(self.step + 1, self.recipe, loop.last_update(self.sparsifier))

    def next_batch(self) -> tuple[Sequence[Tensor], int]:
        rows = self.feed.next()
        tokens = len(rows) * self.recipe.context
        self.tokens += self.ranks.size * tokens
        return rows.split(min(self.recipe.micro_batch, len(rows))), tokens

    def loss(self, model: nn.Module, part: Tensor) -> Tensor:
        return _loss(model, part.to(self.device), self.recipe)

    def evolve(self, *, skipped: bool) -> None:
        """Step the sparsifier. With `watch_updates`, measure the loss before and after a change of the topology."""
        if not self.recipe.watch_updates:
            super().evolve(skipped=skipped)
            return
        if self.updates and self.updates[-1].step == self.step:
            self.updates[-1] = replace(self.updates[-1], next=self._watched_loss())
        before = self._watched_loss() if self.sparsifier.update_due else math.nan
        self.sparsifier.step(skipped=skipped)
        if loop.last_update(self.sparsifier) == self.step:
            self.updates.append(UpdateLoss(self.step, before, self._watched_loss()))

    def _watched_loss(self) -> float:
        """The loss on a few fixed validation contexts; this measurement does not count as training time."""
        started = time.perf_counter()
        contexts = self.task.validation[: max(_WATCHED_TOKENS // self.recipe.context, 1)]
        loss = validation_loss(self.model, contexts, self.recipe, self.ranks)
        self.seconds -= time.perf_counter() - started
        return loss

    def look(self) -> None:
        self.looks.append(Look(self.step, validation_loss(self.model, self.task.validation, self.recipe, self.ranks)))

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of training, over all ranks."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def mfu(self) -> float:
        """See :class:`Run`."""
        return speed.mfu(self.recipe, self.tokens_per_second / self.ranks.size, self.device)

    def status(self) -> str:
        if not self.looks or self.step % _BETWEEN_SHOWN:
            return ""
        return (
            f"{self.tokens_per_second:,.0f} tokens/s, MFU {self.mfu:.0%}, {memory_mb(self.device):,} MB, "
            f"perplexity {self.looks[-1].perplexity:.1f}"
        )

    def state(self) -> dict[str, Any]:
        # Each rank reads its own share of a stream.
        feed: dict[str, Any] = {}
        for part in self.ranks.gather(self.feed.state_dict()):
            feed = {
                key: {**feed.get(key, {}), **value} if isinstance(value, dict) else value for key, value in part.items()
            }
        return {
            "step": self.step,
            "tokens": self.tokens,
            "looks": [asdict(look) for look in self.looks],
            "updates": [asdict(update) for update in self.updates],
            "link_warmup": self.link_warmup.state_dict(),
            "feed": feed,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.link_warmup.load_state_dict(state["link_warmup"])
        self.feed.load_state_dict(state["feed"])
        self.tokens = state["tokens"]
        self.looks = [Look(**look) for look in state["looks"]]
        self.updates = [UpdateLoss(**update) for update in state["updates"]]


def _model(recipe: Recipe, seed: int, device: torch.device, parallel: Parallel) -> "tuple[LlamaForCausalLM, nn.Module]":
    """Return a model with initial weights, and the module to call: the model, or its wrapper for several ranks."""
    model = llama(recipe.vocabulary, LLAMA_SIZES[recipe.size], recipe.context)
    if recipe.precision == "bfloat16_weights":
        model.bfloat16()
    in_many = torch.distributed.is_available() and torch.distributed.is_initialized()
    if in_many and parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    initialise_llama(model, device, torch.Generator().manual_seed(seed), recipe.deviation)
    if not in_many or parallel == "fsdp":
        return model, model
    return model, nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


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
    """Train one language model with one method. The loop is explained in :func:`chts_core.lab.train.loop.train`.

    The seed decides the initial weights, the order of the text and the topology. With the same seed, every method gets
    the same batches, and initial weights that differ only in their scale. If `torch.distributed` is initialised, all
    its ranks call this function with the same arguments and train one model.

    Args:
        task: the result of `prepare`.
        method, sparsity: arguments of the Sparsifier.
        recipe: sizes, optimizer and schedule.
        label: name of the run; by default the name of the method.
        seed, device, save_to, save_every, progress: arguments of the loop.
        log_to: a folder for TensorBoard.
        parallel: with "ddp", every rank has a copy of the model; with "fsdp", every rank has a share of each weight.

    Raises:
        ValueError: if the settings do not fit together, or if the checkpoint is damaged or from another run.
    """
    log = Log(log_to if is_first_rank() else None)
    training = loop.train(
        lambda: _Learner(task, method, sparsity, recipe, seed, torch.device(device), parallel),
        seed=seed,
        device=torch.device(device),
        save_to=save_to,
        save_every=save_every,
        progress=progress,
        look_on=lambda learner: log.write(learner.step, _logged(learner)),
    )
    log.close()
    learner = training.learner
    return Run(
        **runs.outcome(training, method, sparsity, seed, label),
        train_loss=learner.train_loss,
        looks=learner.looks,
        updates=learner.updates,
        tokens=learner.tokens,
        mfu=learner.mfu,
        ranks=learner.ranks.size,
        model=learner.model,
    )


def _logged(learner: _Learner) -> dict[str, float]:
    """The values that TensorBoard shows for a measurement."""
    return {
        "loss/validation": learner.looks[-1].loss,
        "density": learner.sparsifier.density(),
        "active_neurons": learner.sparsifier.active_neurons(),
        "tokens_per_second": learner.tokens_per_second,
        **({"loss/train": learner.train_loss[-1][1]} if learner.train_loss else {}),
    }


def _loss(model: nn.Module, rows: Tensor, recipe: Recipe) -> Tensor:
    """The cross-entropy in nats, summed over all tokens in `rows` except the first token of each row."""
    with autocast("bfloat16" if recipe.precision == "bfloat16" else "float32", rows.device):
        logits = model(rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


@torch.no_grad()
def validation_loss(model: nn.Module, validation: Tensor, recipe: Recipe, ranks: Ranks | None = None) -> float:
    """Cross-entropy per token in nats; its exponential is the perplexity.

    Args:
        model: the model to measure.
        validation: int (n, context + 1).
        recipe: gives the precision and the micro_batch.
        ranks: the ranks that share the work; all of them call this function and get the same result.
    """
    device = next(model.parameters()).device
    ranks = ranks or Ranks(None, device)
    model.eval()
    parts = validation.split(recipe.micro_batch)
    total = 0.0
    # If the weights are sharded, each rank takes part in all computations. So all ranks need the same number of parts.
    for number in range(ranks.rank, -(-len(parts) // ranks.size) * ranks.size, ranks.size):
        part = parts[min(number, len(parts) - 1)]
        loss = float(_loss(model, part.to(device, torch.int64), recipe))
        total += loss if number < len(parts) else 0.0
    (total,) = ranks.sum([total])
    return total / validation[:, 1:].numel()


def plan_run(method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """Plan a run of `train` with these settings, but do not start the run; see :func:`chts_core.plan`."""
    loop.refuse_correlations(method, "tokens")
    model = llama(recipe.vocabulary, LLAMA_SIZES[recipe.size], recipe.context)
    return plan(model, method, sparsity, moments=2, **recipe.topology)


def as_record(run: Run, task: Task, recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """The record of a run; see :func:`chts_core.lab.train.runs.as_record`."""
    return runs.as_record(
        run,
        "language",
        task,
        recipe,
        device,
        tokenizer=task.tokenizer.digest,
        vocabulary=task.tokenizer.size,
        train_loss=[[step, round(loss, 4)] for step, loss in run.train_loss],
        validation=[
            {"step": look.step, "loss": round(look.loss, 4), "perplexity": round(look.perplexity, 2)}
            for look in run.looks
        ],
        validation_tokens=task.validation[:, 1:].numel(),
        updates=[
            {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(update).items()}
            for update in run.updates
        ],
        tokens=run.tokens,
        tokens_per_second=round(run.tokens_per_second),
        mfu=round(run.mfu, 4),
        ranks=run.ranks,
    )


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, with the mean perplexity and mean validation loss of its runs. `interval` is the half-width
    of the 95 % confidence interval of the mean loss; it is None for a single run."""
    return summarise_by(runs, "validation_loss", attrgetter("validation_loss"), perplexity=attrgetter("perplexity"))


TRAINER = runs.Trainer("language", "step", lambda _, *given: plan_run(*given), _Learner, train, as_record)
race, train_and_record, recorded = TRAINER.race, TRAINER.train_and_record, TRAINER.recorded
predict_seconds = TRAINER.predict_seconds
