"""Train and test translators, in one run or in a race of several methods."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.engine.distributed import ranks_of
from chts_core.engine.linear import to_dense
from chts_core.lab import scores
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
from chts_core.lab.results import statistics
from chts_core.lab.results.statistics import summarise_by
from chts_core.lab.train import loop, recipes, runs
from chts_core.lab.train.machine import autocast
from chts_core.lab.translator import Translator
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier
from chts_core.tools.planner import Plan, plan

if TYPE_CHECKING:
    from tqdm import tqdm

Recipe = recipes.TranslationRecipe
RECIPES = recipes.TRANSLATION_RECIPES

_SENTENCES_LOOKED_AT = 200  # the number of validation sentences for the BLEU during a run


@dataclass(frozen=True)
class Task:
    """A corpus, prepared for a recipe: training and validation pairs as tokens, validation and test pairs as text."""

    name: str
    digest: str
    vocabulary: Vocabulary
    train: EncodedPairs
    validation: EncodedPairs
    validation_pairs: list[Pair]
    test_pairs: list[Pair]


def prepare(data: TranslationData, recipe: Recipe, cache_dir: Path | None = None) -> Task:
    """Train the vocabulary of a corpus or read it from the cache, and encode the corpus.

    Raises:
        ValueError: if every training pair, or any validation or test pair, is longer than the recipe allows.
    """
    vocabulary = load_vocabulary(data, recipe.vocabulary, cache_dir)
    train = encode_pairs(data.train, vocabulary, recipe.max_length, drop_long=True)
    if not len(train):
        raise ValueError(
            f"all {train.left_out} training pairs of {data.name} are longer than max_length, {recipe.max_length} "
            "tokens; raise max_length or the number of subwords."
        )
    # No validation or test pair is left out. So check before the training that none of them is too long.
    validation, _ = (
        encode_pairs(pairs, vocabulary, recipe.max_length, drop_long=False) for pairs in (data.validation, data.test)
    )
    return Task(data.name, data.digest, vocabulary, train, validation, data.validation, data.test)


@dataclass(frozen=True)
class Look:
    """A measurement on the validation pairs: step, loss per token in nats, and BLEU of greedy translations."""

    step: int
    loss: float
    bleu: float


@dataclass(frozen=True)
class Best:
    """The network with the highest validation BLEU: its step, density, and scores on the test pairs."""

    step: int
    density: float
    test: dict[str, float]


@dataclass(frozen=True)
class Run(runs.Run):
    """The result of one training run.

    train_loss: pairs (step, loss per token in nats), one every few steps; the loss includes label smoothing.
    looks: measurements on the validation pairs. The test pairs are never used to choose anything.
    test: scores of the final network's translations by beam search: "bleu" (standard), "bleu_lowercase", "chrf"
        and "exact", the percentage of sentences that match their reference exactly.
    best: the best network of the run; None if the recipe does not ask for it.
    signatures: sacrebleu's signature of each score.
    tokens: the number of target tokens seen in training.
    """

    train_loss: list[tuple[int, float]]
    looks: list[Look]
    test: dict[str, float]
    best: Best | None
    signatures: dict[str, str]
    tokens: int
    translations: list[str] = field(repr=False)
    translator: Translator = field(repr=False)

    @property
    def test_bleu(self) -> float:
        """Standard BLEU on the test pairs."""
        return self.test["bleu"]


def learning_rate_at(step: int, width: int, recipe: Recipe, last_update: int | None = None) -> float:
    """The learning rate of a step (Vaswani et al., 2017): it rises linearly, and then falls as 1 / √step.

    The rate is learning_rate · width^-½ · min(step^-½, step · warmup^-1.5). After each update of the topology, the
    rate rises from a fraction to the full value in `iterative_warmup` equal increments, one per step. Without this
    rise, Adam would move new links by full steps at once, because it has no moments for them yet. The rise is our
    reading of "iterative warm-up" in the paper on CHTs (Tables 5, 6).

    Args:
        step: the number of the step, counted from 1.
        width: the width of the model.
        recipe: gives learning_rate, warmup and iterative_warmup.
        last_update: the last step before the latest update of the topology; None before the first update.
    """
    rate: float = recipe.learning_rate * width**-0.5 * min(step**-0.5, step * recipe.warmup**-1.5)
    return rate * loop.share_after_update(step, last_update, recipe.iterative_warmup)


class _Learner(loop.Learner):
    """A Transformer that learns to translate. It is trained with Adam, and measured on the validation pairs."""

    kind = "a translator's training"

    def __init__(
        self, task: Task, method: str | Method, sparsity: float, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        self.recipe = recipe = recipes.with_rate_of(recipe, method)
        self.task, self.seed, self.device, self.look_every = task, seed, device, recipe.validate_every
        model = Transformer(task.vocabulary.size, TRANSFORMER_SIZES[recipe.size], dropout=recipe.dropout).to(device)
        self.model = self.replica = model
        self.ranks = ranks_of(model)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.998), eps=1e-9, fused=True)
        self.sparsifier = Sparsifier(model, self.optimizer, method, sparsity, seed=seed, **recipe.topology)
        self.sparsifier.rescale_weights()
        # float16 rounds numbers below 3e-8 to zero. The scaler scales the loss up, and the gradient down again.
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        subject = {"task": task.name, "corpus": task.digest, "vocabulary": task.vocabulary.digest}
        self.settings = loop.settings(method, sparsity, recipe, seed, **subject)
        self.translator = Translator(model, task.vocabulary, recipe.max_length)
        self.tokens = 0
        self.train_loss: list[tuple[int, float]] = []
        self.looks: list[Look] = []
        self.best: dict[str, Tensor] = {}  # dense weights
        self.best_density = 0.0
        self._order: Iterator[Tensor] | None = None

    def rate(self) -> float:
        width = TRANSFORMER_SIZES[self.recipe.size].width
        return learning_rate_at(self.step + 1, width, self.recipe, loop.last_update(self.sparsifier))

    def next_batch(self) -> tuple[Sequence[Batch], int]:
        self._order = self._order or _order(self.task, self.recipe, self.seed, self.step)
        indices = next(self._order)
        parts = indices.chunk(min(self.recipe.accumulate, len(indices)))
        batch = [collate(self.task.train, part, self.device) for part in parts]
        tokens = sum(int((part.target[:, 1:] != PAD).sum()) for part in batch)
        self.tokens += tokens
        return batch, tokens

    def loss(self, model: nn.Module, part: Batch) -> Tensor:
        return _loss(model, part, self.recipe, self.recipe.label_smoothing)

    def look(self) -> None:
        pairs = self.task.validation_pairs[:_SENTENCES_LOOKED_AT]
        translations = self.translator.translate([source for source, _ in pairs], beam=1)
        bleu = scores.bleu(translations, [target for _, target in pairs], lowercase=False)
        if self.recipe.test_best and bleu.value > max((look.bleu for look in self.looks), default=-1.0):
            self.best = to_dense(copy.deepcopy(self.model)).state_dict()
            self.best_density = self.sparsifier.density()
        loss = validation_loss(self.model, self.task, self.recipe)
        self.looks.append(Look(self.step, loss, bleu.value))

    def status(self) -> str:
        speed = self.tokens / max(self.seconds, 1e-9)
        return f"{speed:,.0f} tokens/s, BLEU {self.looks[-1].bleu:.1f}" if self.looks else ""

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "looks": [asdict(look) for look in self.looks],
            "best": self.best,
            "best_density": self.best_density,
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.tokens = state["tokens"]
        self.looks = [Look(**look) for look in state["looks"]]
        self.best, self.best_density = state["best"], state["best_density"]


def _order(task: Task, recipe: Recipe, seed: int, step: int) -> Iterator[Tensor]:
    """Yield the batches that follow a step, epoch after epoch; the seed decides their order in each epoch."""
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed((seed * 2**20 + epoch) % 2**63)
        order = batches(task.train, recipe.batch_tokens, generator)
        yield from order[step:]
        step = max(step - len(order), 0)


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
    """Train one translator with one method, and translate the test sentences.

    The loop is explained in :func:`chts_core.lab.train.loop.train`. The seed decides the initial weights, the order of
    the batches, dropout and the topology. With the same seed, every method gets the same batches, and initial weights
    that differ only in their scale. If the checkpoint is from a finished run, the function only tests the network
    again.

    Args:
        task: the result of `prepare`.
        method, sparsity: arguments of the Sparsifier.
        recipe: sizes, optimizer and schedule.
        label: name of the run; by default the name of the method.
        seed, device, save_to, save_every, progress: arguments of the loop.

    Raises:
        ValueError: if the settings do not fit together, or if the checkpoint is damaged or from another run.
    """
    device = torch.device(device)
    training = loop.train(
        lambda: _Learner(task, method, sparsity, recipe, seed, device),
        seed=seed,
        device=device,
        save_to=save_to,
        save_every=save_every,
        progress=progress,
    )
    learner = training.learner
    translations, test, signatures = _tested(learner.translator, task, recipe)
    best = None
    if recipe.test_best:
        model = Transformer(task.vocabulary.size, TRANSFORMER_SIZES[recipe.size]).to(device)
        model.load_state_dict(learner.best)
        _, scored, _ = _tested(Translator(model, task.vocabulary, recipe.max_length), task, recipe)
        best = Best(max(learner.looks, key=lambda look: look.bleu).step, learner.best_density, scored)
    return Run(
        **runs.outcome(training, method, sparsity, seed, label),
        train_loss=learner.train_loss,
        looks=learner.looks,
        test=test,
        best=best,
        signatures=signatures,
        tokens=learner.tokens,
        translations=translations,
        translator=learner.translator,
    )


def _tested(translator: Translator, task: Task, recipe: Recipe) -> tuple[list[str], dict[str, float], dict[str, str]]:
    """Translate the test sentences, and return the translations, their scores, and the signatures of the scores."""
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


def _loss(model: nn.Module, batch: Batch, recipe: Recipe, label_smoothing: float) -> Tensor:
    """Sum of the cross-entropy in nats over all tokens of a batch."""
    with autocast(recipe.precision, batch.source.device):
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
    """Cross-entropy per token of the validation pairs, in nats, without label smoothing. Its exponential is the
    perplexity."""
    device = model.embedding.weight.device
    model.eval()
    total = tokens = 0.0
    for indices in batches(task.validation, recipe.batch_tokens):
        batch = collate(task.validation, indices, device)
        total += float(_loss(model, batch, recipe, 0.0))
        tokens += int((batch.target[:, 1:] != PAD).sum())
    return total / tokens


def plan_run(task: Task, method: str | Method, sparsity: float, recipe: Recipe) -> Plan:
    """Plan a run of `train` with these settings, but do not start the run; see :func:`chts_core.plan`."""
    loop.refuse_correlations(method, "tokens")
    with torch.device("meta"):
        model = Transformer(task.vocabulary.size, TRANSFORMER_SIZES[recipe.size])
    return plan(model, method, sparsity, moments=2, **recipe.topology)


def as_record(run: Run, task: Task, recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """The record of a run; see :func:`chts_core.lab.train.runs.as_record`."""
    best = {} if run.best is None else {"best": {**asdict(run.best), "test": _rounded(run.best.test)}}
    return runs.as_record(
        run,
        "translation",
        task,
        recipe,
        device,
        subwords=task.vocabulary.size,
        train_loss=[[step, round(loss, 4)] for step, loss in run.train_loss],
        validation=[
            {"step": look.step, "loss": round(look.loss, 4), "bleu": round(look.bleu, 2)} for look in run.looks
        ],
        test=_rounded(run.test),
        **best,
        signatures=run.signatures,
        tokens=run.tokens,
    )


def _rounded(test: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in test.items()}


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method, with means over its runs: the standard BLEU on the test pairs, `interval` (the half-width of
    the 95 % confidence interval of BLEU; None for a single run), the percentage of exact translations, and the loss on
    the validation pairs."""
    return summarise_by(
        runs,
        "bleu",
        attrgetter("test_bleu"),
        exact=lambda run: run.test["exact"],
        validation_loss=lambda run: run.looks[-1].loss,
    )


def mean_scores(rows: Sequence[Mapping[str, Any]], score: str) -> list[dict[str, Any]]:
    """Call :func:`chts_core.lab.results.statistics.mean_scores` with recorded runs and the name of a score.

    Args:
        rows: recorded runs.
        score: a test score ("bleu", "exact", ...), or "validation_loss", the loss at the last measurement.
    """
    return statistics.mean_scores(rows, partial(_score, score))


def score_differences(rows: Sequence[Mapping[str, Any]], score: str, rival: str) -> list[dict[str, Any]]:
    """Call :func:`chts_core.lab.results.statistics.score_differences` with recorded runs, the name of a score (as in
    `mean_scores`) and a rival method.
    """
    return statistics.score_differences(rows, partial(_score, score), rival)


def _score(score: str, row: Mapping[str, Any]) -> float:
    return float(row["validation"][-1]["loss"] if score == "validation_loss" else row["test"][score])


TRAINER = runs.Trainer("translation", "step", plan_run, _Learner, train, as_record)
race, train_and_record, recorded = TRAINER.race, TRAINER.train_and_record, TRAINER.recorded
predict_seconds = TRAINER.predict_seconds
