"""Train translators, one run or a race of several methods, and translate with what came out."""

import copy
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from chts_core.choices import Dense
from chts_core.lab import checkpoint, loop, records, scores, statistics
from chts_core.lab.data import (
    PAD,
    Batch,
    EncodedPairs,
    Pair,
    TranslationData,
    Vocabulary,
    batches,
    collate,
    encode_pairs,
    load_vocabulary,
)
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer
from chts_core.lab.statistics import summarise_by
from chts_core.lab.translator import Translator
from chts_core.linear import Execution, to_dense
from chts_core.methods import REVISION, Method, get_method
from chts_core.planner import Plan, plan
from chts_core.sparsifier import Sparsifier, Update

Precision = Literal["float32", "bfloat16", "float16"]

_SENTENCES_LOOKED_AT = 200  # for the BLEU of a run under way
_STEPS_TIMED = 8
_BETWEEN_SHOWN = 10  # steps from one look at the training loss to the next


@dataclass(frozen=True)
class Recipe:
    """How a translator is trained: Adam (β₂ = 0.998) under the inverse-square-root schedule, as in the paper.

    size: a name in `TRANSFORMER_SIZES`.
    vocabulary: number of subwords of both languages together.
    max_length: most tokens of a sentence; longer pairs are left out of the training, longer translations cut off.
    steps: of the optimizer.
    batch_tokens: of a step, counted on the longer side, padding included.
    accumulate: in how many parts a step's batch goes through the model; the gradient is the same, the memory less.
    learning_rate: factor of the schedule, see `learning_rate_at`.
    dense_learning_rate: that of a network with all its links; None: the same.
    warmup: steps until the schedule's peak.
    iterative_warmup: steps in which the learning rate comes back after each change of the topology.
    update_every: steps between updates of the topology.
    validate_every: steps between looks at the validation pairs.
    beam: hypotheses kept side by side when the final network translates.
    test_best: whether the network of the look with the highest validation BLEU translates the test sentences too, the
        first of equals: the paper reports this one.
    precision: what the products are computed in; weights stay float32.
    """

    size: str = "tiny"
    vocabulary: int = 400
    max_length: int = 48
    steps: int = 1000
    batch_tokens: int = 1024
    accumulate: int = 1
    learning_rate: float = 1.0
    dense_learning_rate: float | None = None
    warmup: int = 200
    iterative_warmup: int = 20
    label_smoothing: float = 0.1
    dropout: float = 0.1
    update_every: int = 100
    validate_every: int = 100
    beam: int = 2
    test_best: bool = False
    precision: Precision = "float32"
    execution: Execution = "masked"

    def __post_init__(self) -> None:
        if self.size not in TRANSFORMER_SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(map(repr, TRANSFORMER_SIZES))}.")
        for name in ("steps", "batch_tokens", "accumulate", "warmup", "update_every", "validate_every", "beam"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        loop.check_iterative_warmup(self.iterative_warmup)
        if self.batch_tokens <= self.max_length:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens} and max_length {self.max_length}; "
                "expected batches that hold the longest sentence and its end."
            )
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision is {self.precision!r}; expected 'float32', 'bfloat16' or 'float16'.")


_SHORT = Recipe(
    steps=300,
    batch_tokens=512,
    dense_learning_rate=0.5,
    warmup=100,
    iterative_warmup=3,
    dropout=0.0,
    update_every=15,
    validate_every=50,
)
RECIPES: dict[str, Recipe] = {
    # Learning rates of these four by the validation loss of a seed that no race uses.
    "number_words_ci": replace(_SHORT, steps=100, warmup=40, iterative_warmup=1, update_every=5, validate_every=25),
    "number_words_short": _SHORT,
    "number_words": Recipe(
        steps=600, dense_learning_rate=0.5, warmup=100, iterative_warmup=5, update_every=25, validate_every=50
    ),
    "multi30k_small": Recipe(
        size="small",
        vocabulary=4000,
        max_length=100,
        steps=1000,
        dense_learning_rate=0.5,
        warmup=200,
        iterative_warmup=10,
        update_every=50,
        validate_every=250,
        execution="csr",
    ),
    # The paper's; the number of subwords is not told there.
    "multi30k": Recipe(
        size="multi30k",
        test_best=True,
        vocabulary=8000,
        max_length=128,
        steps=5000,
        learning_rate=0.25,
        warmup=1000,
        validate_every=500,
    ),
    "iwslt": Recipe(
        size="iwslt",
        test_best=True,
        vocabulary=10_000,
        max_length=256,
        steps=20_000,
        batch_tokens=10_240,
        learning_rate=2.0,
        warmup=6000,
        validate_every=1000,
    ),
    "wmt": Recipe(
        size="wmt",
        test_best=True,
        vocabulary=32_000,
        max_length=256,
        steps=80_000,
        batch_tokens=12_000,
        learning_rate=2.0,
        warmup=8000,
        validate_every=4000,
    ),
}


@dataclass(frozen=True)
class Task:
    """A corpus as a translator of a recipe sees it: training and validation pairs as tokens."""

    name: str
    digest: str
    vocabulary: Vocabulary
    train: EncodedPairs
    validation: EncodedPairs
    validation_pairs: list[Pair]
    test_pairs: list[Pair]


def prepare(data: TranslationData, recipe: Recipe, cache_dir: Path | None = None) -> Task:
    """Train or fetch the subwords of a corpus and encode it.

    Raises:
        ValueError: if no training pair is as short as the recipe wants them, or one to validate or test with is longer.
    """
    vocabulary = load_vocabulary(data, recipe.vocabulary, cache_dir)
    train = encode_pairs(data.train, vocabulary, recipe.max_length, drop_long=True)
    if not len(train):
        raise ValueError(
            f"all {train.left_out} training pairs of {data.name} are longer than max_length, {recipe.max_length} "
            "tokens; raise max_length or the number of subwords."
        )
    # Nothing is left out of these, and it is known now, not after the training, whether a sentence is too long.
    validation, _ = (
        encode_pairs(pairs, vocabulary, recipe.max_length, drop_long=False) for pairs in (data.validation, data.test)
    )
    return Task(data.name, data.digest, vocabulary, train, validation, data.validation, data.test)


@dataclass(frozen=True)
class Look:
    """A look at the validation pairs: at which step, loss per token in nats, BLEU of greedy translations."""

    step: int
    loss: float
    bleu: float


@dataclass(frozen=True)
class Best:
    """The network of the look with the highest validation BLEU: its step, density, and scores on the test pairs."""

    step: int
    density: float
    test: dict[str, float]


@dataclass(frozen=True)
class Run:
    """What one training run gave.

    train_loss: (step, loss per token in nats, label smoothing included), every few steps.
    skipped_steps: left out because their loss or gradient was not finite.
    looks: at the validation pairs; nothing is chosen by the test pairs.
    test: scores of the last network's translations, by beam search: "bleu" (standard), "bleu_lowercase", "chrf" and
        "exact", the percentage of sentences that are right to the letter.
    best: None unless the recipe wants it.
    signatures: sacrebleu's, by score.
    tokens: of the targets, seen in training.
    seconds: of training alone; `total_seconds` also of looking, translating and saving.
    """

    method: str
    seed: int
    sparsity: float
    train_loss: list[tuple[int, float]]
    skipped_steps: list[int]
    looks: list[Look]
    test: dict[str, float]
    best: Best | None
    signatures: dict[str, str]
    density: float
    active_neurons: float
    itop: float
    tokens: int
    seconds: float
    total_seconds: float
    peak_memory_mb: int | None
    history: list[Update]
    first_masks: dict[str, Tensor]
    last_masks: dict[str, Tensor]
    translations: list[str] = field(repr=False)
    translator: Translator = field(repr=False)

    @property
    def test_bleu(self) -> float:
        """Standard BLEU on the test pairs."""
        return self.test["bleu"]

    @property
    def validation_bleu(self) -> list[float]:
        """That of each look."""
        return [look.bleu for look in self.looks]


def learning_rate_at(step: int, width: int, recipe: Recipe, last_update: int | None = None) -> float:
    """The learning rate of a step, counted from 1: inverse square root after a linear rise (Vaswani et al., 2017).

    factor · width^-½ · min(step^-½, step · warmup^-1.5). After each update of the topology it comes back from a
    fraction to all of that, in equal parts over `iterative_warmup` steps: new links start from zeros, and Adam, which
    knows nothing of them yet, would take full steps at once. This is how the paper's "iterative warm-up" is read here.

    Args:
        step: from 1.
        width: of the model.
        recipe: its learning_rate, warmup and iterative_warmup.
        last_update: the step that the latest update of the topology followed; None before the first.
    """
    rate: float = recipe.learning_rate * width**-0.5 * min(step**-0.5, step * recipe.warmup**-1.5)
    return rate * loop.share_after_update(step, last_update, recipe.iterative_warmup)


class _Training:
    """A run under way: everything that a checkpoint holds."""

    def __init__(
        self, task: Task, method: str | Method, sparsity: float, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        if isinstance(get_method(method).sparsity, Dense) and recipe.dense_learning_rate is not None:
            recipe = replace(recipe, learning_rate=recipe.dense_learning_rate)
        self.task, self.recipe, self.seed, self.device = task, recipe, seed, device
        size = TRANSFORMER_SIZES[recipe.size]
        self.model = Transformer(task.vocabulary.size, size, dropout=recipe.dropout).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, betas=(0.9, 0.998), eps=1e-9, fused=True)
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            sparsity,
            total_steps=recipe.steps,
            update_every=recipe.update_every,
            seed=seed,
            execution=recipe.execution,
        )
        self.sparsifier.rescale_weights()
        # Numbers of float16 below 6e-8 are zero; it scales the loss up, and the gradient down again.
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self.first_masks = {name: mask.cpu().clone() for name, mask in self.sparsifier.masks.items()}
        self.step, self.tokens, self.seconds, self.total_seconds = 0, 0, 0.0, 0.0
        self.skips = loop.Skips(self.model)
        self.train_loss: list[tuple[int, float]] = []
        self.looks: list[Look] = []
        self.best: dict[str, Tensor] = {}  # dense weights
        self.best_density = 0.0
        self._settings = {
            "task": task.name,
            "corpus": task.digest,
            "vocabulary": task.vocabulary.digest,
            "method": repr(get_method(method)),
            "sparsity": sparsity,
            "recipe": asdict(recipe),
            "seed": seed,
        }

    @property
    def translator(self) -> Translator:
        return Translator(self.model, self.task.vocabulary, self.recipe.max_length)

    def batches(self) -> Iterator[Tensor]:
        """What is still to be trained on, epoch after epoch, each in an order of its own that the seed decides."""
        skip = self.step
        for epoch in itertools.count():
            generator = torch.Generator().manual_seed((self.seed * 2**20 + epoch) % 2**63)
            order = batches(self.task.train, self.recipe.batch_tokens, generator)
            yield from order[skip:]
            skip = max(skip - len(order), 0)

    def learn(self, indices: Tensor) -> None:
        """One step of the optimizer."""
        started = time.perf_counter()
        parts = [
            collate(self.task.train, part, self.device)
            for part in indices.chunk(min(self.recipe.accumulate, len(indices)))
        ]
        tokens = sum(int((part.target[:, 1:] != PAD).sum()) for part in parts)
        last_update = loop.last_update(self.sparsifier)
        rate = learning_rate_at(self.step + 1, self.model.embedding.embedding_dim, self.recipe, last_update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for part in parts:
            loss = _loss(self.model, part, self.recipe, self.recipe.label_smoothing) / tokens
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        # Where the loss is scaled, gradients may overflow until the scale has come down.
        skipped = self.skips.skip(
            self.step + 1,
            float(total) if self.scaler.is_enabled() else loop.gradient_norm(self.model),
            lambda: torch.stack([_loss(self.model, part, self.recipe, self.recipe.label_smoothing) for part in parts]),
        )
        if not skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.sparsifier.step(skipped=skipped)
        self.step += 1
        self.tokens += tokens
        if self.step % _BETWEEN_SHOWN == 0 and not skipped:
            self.train_loss.append((self.step, float(total)))
        self.seconds += time.perf_counter() - started

    def look(self) -> None:
        """Measure where the run stands, on the validation pairs."""
        pairs = self.task.validation_pairs[:_SENTENCES_LOOKED_AT]
        translations = self.translator.translate([source for source, _ in pairs], beam=1)
        bleu = scores.bleu(translations, [target for _, target in pairs], lowercase=False)
        if self.recipe.test_best and bleu.value > max((look.bleu for look in self.looks), default=-1.0):
            self.best = to_dense(copy.deepcopy(self.model)).state_dict()
            self.best_density = self.sparsifier.density()
        self.looks.append(Look(self.step, validation_loss(self.model, self.task, self.recipe), bleu.value))

    def state(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "train_loss": self.train_loss,
            "skipped_steps": self.skips.steps,
            "looks": [asdict(look) for look in self.looks],
            "best": self.best,
            "best_density": self.best_density,
            "first_masks": self.first_masks,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it is damaged, or of a run with other settings; nothing is changed then.
        """
        state = loop.load_state(path, self.state().keys(), self._settings, "a translator's training")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.first_masks = state["first_masks"]
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds, self.total_seconds = state["seconds"], state["total_seconds"]
        self.train_loss = [(step, loss) for step, loss in state["train_loss"]]
        self.skips.steps = state["skipped_steps"]
        self.looks = [Look(**look) for look in state["looks"]]
        self.best, self.best_density = state["best"], state["best_density"]


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
) -> Run:
    """Train one translator by one method, and translate the test sentences.

    The seed decides the initial weights, the order of the batches, dropout and the topology; the same seed gives every
    method the same weights and batches. A run that was cut goes on from its last checkpoint to the same bits, on the
    same kind of device with as many threads; one that was finished is only tested again.

    Args:
        task: of `prepare`.
        method, sparsity: of the Sparsifier.
        recipe: sizes, optimizer and schedule.
        seed, device: of the run.
        label: name of the run; by default the method's.
        save_to: a checkpoint to go on from if it is there, and to save to.
        save_every: steps between two checkpoints.
        progress: a bar to advance by one per step.

    Raises:
        ValueError: if the settings do not fit together, or the checkpoint is damaged or of another run.
        RuntimeError: if the loss or a gradient is not finite in five steps in a row; a single one is left out.
    """
    device = torch.device(device)
    clock = time.perf_counter()
    loop.forget_memory_peak(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        training = _Training(task, method, sparsity, recipe, seed, device)
        if save_to is not None and save_to.exists():
            training.resume(save_to)
        if progress is not None:
            progress.update(training.step)
        clock -= training.total_seconds
        for indices in itertools.islice(training.batches(), recipe.steps - training.step):
            training.learn(indices)
            last = training.step == recipe.steps
            if last or training.step % recipe.validate_every == 0:
                training.look()
            if save_to is not None and (last or training.step % save_every == 0):
                training.total_seconds = time.perf_counter() - clock
                checkpoint.save(save_to, training.state())
            if progress is not None:
                _show(progress, training)
    translations, test, signatures = _tested(training.translator, task, recipe)
    best = None
    if recipe.test_best:
        model = Transformer(task.vocabulary.size, TRANSFORMER_SIZES[recipe.size]).to(device)
        model.load_state_dict(training.best)
        _, scored, _ = _tested(Translator(model, task.vocabulary, recipe.max_length), task, recipe)
        step = max(training.looks, key=lambda look: look.bleu).step
        best = Best(step, training.best_density, scored)
    return Run(
        method=label or (method if isinstance(method, str) else "custom"),
        seed=seed,
        sparsity=sparsity,
        train_loss=training.train_loss,
        skipped_steps=training.skips.steps,
        looks=training.looks,
        test=test,
        best=best,
        signatures=signatures,
        density=training.sparsifier.density(),
        active_neurons=training.sparsifier.active_neurons(),
        itop=training.sparsifier.itop_rate(),
        tokens=training.tokens,
        seconds=training.seconds,
        total_seconds=time.perf_counter() - clock,
        peak_memory_mb=loop.peak_memory_mb(device),
        history=training.sparsifier.history,
        first_masks=training.first_masks,
        last_masks={name: mask.cpu().clone() for name, mask in training.sparsifier.masks.items()},
        translations=translations,
        translator=training.translator,
    )


def _tested(translator: Translator, task: Task, recipe: Recipe) -> tuple[list[str], dict[str, float], dict[str, str]]:
    """Translations of the test sentences, their scores, and the signatures of these."""
    sources, references = map(list, zip(*task.test_pairs, strict=True))
    translations = translator.translate(sources, beam=recipe.beam)
    found = {
        "bleu": scores.bleu(translations, references, lowercase=False),
        "bleu_lowercase": scores.bleu(translations, references, lowercase=True),
        "chrf": scores.chrf(translations, references),
    }
    values = {name: score.value for name, score in found.items()}
    exact = 100 * scores.exact_share(translations, references)
    return translations, values | {"exact": exact}, {name: score.signature for name, score in found.items()}


def _show(progress: "tqdm[Any]", training: _Training) -> None:
    progress.update()
    if training.looks:
        look = training.looks[-1]
        speed = training.tokens / max(training.seconds, 1e-9)
        progress.set_postfix_str(f"{speed:,.0f} tokens/s, BLEU {look.bleu:.1f}", refresh=False)


def _loss(model: nn.Module, batch: Batch, recipe: Recipe, label_smoothing: float) -> Tensor:
    """Cross-entropy of all tokens of a batch together, in nats."""
    with loop.autocast(recipe.precision, batch.source.device):
        logits = model(batch.source, batch.target[:, :-1])
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        batch.target[:, 1:].flatten(),
        ignore_index=PAD,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


@torch.no_grad()
def validation_loss(model: Transformer, task: Task, recipe: Recipe) -> float:
    """Cross-entropy per token of the validation pairs in nats, without label smoothing; its exp is the perplexity."""
    device = model.embedding.weight.device
    model.eval()
    total = tokens = 0.0
    for indices in batches(task.validation, recipe.batch_tokens):
        batch = collate(task.validation, indices, device)
        total += float(_loss(model, batch, recipe, 0.0))
        tokens += int((batch.target[:, 1:] != PAD).sum())
    return total / tokens


def plan_run(task: Task, method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """What a run of `train` with these settings would do (:func:`chts_core.plan`), without running it."""
    loop.refuse_correlations(method, "tokens")
    with torch.device("meta"):
        model = Transformer(task.vocabulary.size, TRANSFORMER_SIZES[recipe.size])
    return plan(
        model,
        method,
        sparsity,
        total_steps=recipe.steps,
        update_every=recipe.update_every,
        execution=recipe.execution,
        moments=2,
    )


def predict_seconds(
    task: Task, method: str | Method, sparsity: float, recipe: Recipe, *, device: torch.device | str = "cpu"
) -> float:
    """How long the training of a run will take here, from a few of its steps on a model that is thrown away.

    Looking at the validation pairs and translating those of the test come on top.
    """
    steps = min(_STEPS_TIMED, max(recipe.steps - 1, 1))
    with torch.random.fork_rng([torch.device(device)] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(0)
        timed = replace(recipe, steps=max(recipe.steps, 2))
        training = _Training(task, method, sparsity, timed, 0, torch.device(device))
        order = training.batches()
        training.learn(next(order))  # the first is slower
        training.seconds = 0.0
        for indices in itertools.islice(order, steps):
            training.learn(indices)
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
        plan_run(task, method, sparsity, recipe)

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
    show: bool = True,
) -> dict[str, Any]:
    """Train one translator, with a checkpoint in a folder, and write the record of the run there, `run.json`.

    Args:
        task, method, sparsity, recipe, seed, device, save_every: as of `train`.
        folder: a run that was cut goes on from what is there.
        show: a bar that counts the steps.
    """
    plan_run(task, method, sparsity, recipe)
    record = loop.train_and_record(
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
        ),
        folder,
        length=(recipe.steps, "step"),
        as_record=lambda run: as_record(run, task, recipe, device),
        show=show,
    )
    assert record is not None  # there is but one process
    return record


def as_record(run: Run, task: Task, recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """What to keep of a run: all but its masks, its history and its model, rounded where more digits say nothing."""
    return {
        "schema": records.SCHEMA,
        "task": "translation",
        "dataset": task.name,
        "data": task.digest,
        "subwords": task.vocabulary.size,
        "method": run.method,
        "methods": REVISION,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "recipe": asdict(recipe),
        "train_loss": [[step, round(loss, 4)] for step, loss in run.train_loss],
        "skipped_steps": run.skipped_steps,
        "validation": [
            {"step": look.step, "loss": round(look.loss, 4), "bleu": round(look.bleu, 2)} for look in run.looks
        ],
        "test": {name: round(value, 2) for name, value in run.test.items()},
        **({} if run.best is None else {"best": _as_rounded(run.best)}),
        "signatures": run.signatures,
        "links": sum(int(mask.sum()) for mask in run.last_masks.values()),
        "density": run.density,
        "active_neurons": round(run.active_neurons, 5),
        "itop": round(run.itop, 5),
        "tokens": run.tokens,
        "seconds": round(run.seconds, 1),
        "total_seconds": round(run.total_seconds, 1),
        "peak_memory_mb": run.peak_memory_mb,
        "device": records.describe_device(torch.device(device)),
        "versions": records.versions(),
        "git": records.git_revision(),
        "finished": records.now(),
    }


def _as_rounded(best: Best) -> dict[str, Any]:
    test = {name: round(value, 2) for name, value in best.test.items()}
    return {"step": best.step, "density": best.density, "test": test}


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, means over its runs: standard BLEU on the test pairs with `interval`, the half-width of its
    95 % confidence interval (None for a single run), percentage of exact translations, loss on the validation pairs."""
    return summarise_by(
        runs,
        "bleu",
        attrgetter("test_bleu"),
        exact=lambda run: run.test["exact"],
        validation_loss=lambda run: run.looks[-1].loss,
    )


def mean_scores(rows: Sequence[Mapping[str, Any]], score: str) -> list[dict[str, Any]]:
    """:func:`chts_core.lab.statistics.mean_scores` of rows of `as_record`.

    Args:
        rows: recorded runs.
        score: one of the test's ("bleu", "exact", ...), or "validation_loss", that of the last look.
    """
    return statistics.mean_scores(rows, partial(_score, score))


def score_differences(rows: Sequence[Mapping[str, Any]], score: str, rival: str) -> list[dict[str, Any]]:
    """:func:`chts_core.lab.statistics.score_differences` likewise."""
    return statistics.score_differences(rows, partial(_score, score), rival)


def _score(score: str, row: Mapping[str, Any]) -> float:
    return float(row["validation"][-1]["loss"] if score == "validation_loss" else row["test"][score])


def recorded() -> list[dict[str, Any]]:
    """The recorded runs that come with the package, rows of `as_record`."""
    return records.read_runs(records.results_folder() / "translation.jsonl")
