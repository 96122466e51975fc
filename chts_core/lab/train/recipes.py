"""Recipes: all settings with which a classifier, a translator or a language model is trained."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from chts_core.engine.linear import Execution
from chts_core.lab.models import LLAMA_SIZES, TRANSFORMER_SIZES
from chts_core.methods import Method, get_method

FirstWeights = Literal["by_links", "published"]
TranslationPrecision = Literal["float32", "bfloat16", "float16"]
LanguagePrecision = Literal["float32", "bfloat16", "bfloat16_weights"]


def _check_counts(recipe: Any, *names: str) -> None:
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{name} is {getattr(recipe, name)}; expected at least 1.")


def check_iterative_warmup(steps: int) -> None:
    """Refuse a number of steps below 0.

    Raises:
        ValueError: if the number is below 0; the message names the setting.
    """
    if steps < 0:
        raise ValueError(f"iterative_warmup is {steps}; expected a number of steps, or 0 for none.")


TextRecipeT = TypeVar("TextRecipeT", bound="TranslationRecipe | LanguageRecipe")


def with_rate_of(recipe: TextRecipeT, method: str | Method) -> TextRecipeT:
    """The recipe with the learning rate for a method; a dense network may have its own learning rate."""
    if recipe.dense_learning_rate is None or not get_method(method).is_dense:
        return recipe
    return replace(recipe, learning_rate=recipe.dense_learning_rate)


# --- classifiers ---


@dataclass(frozen=True)
class ImageRecipe:
    """How to train an MLP: SGD with a learning rate that falls linearly to 1 % of its initial value, as in the paper.

    The topology is updated once per epoch. `execution` says how sparse layers are stored and multiplied.

    standardise: whether to shift and scale the pixels so that each colour has mean 0 and standard deviation 1 over the
        training images; otherwise, all pixel values are between 0 and 1.
    first_weights: "by_links" is He's initialisation with variance 2 / (mean number of incoming links per neuron).
        "published" is the published code's initialisation: a normal distribution with variance 2 / (density · outputs)
        for methods that predict links, and 2 / inputs for other methods. With "published", the last layer and the
        biases keep PyTorch's defaults.
    epochs_of_decay: with 0.9, the learning rate falls after each epoch in the first 90 % of the epochs; with None, it
        falls at every step of the run.
    all_images: whether to train on all training images, as the published code does. If so, there are no validation
        images and no validation accuracy.
    augment: whether to train on shifted and mirrored images, as the published code does on CIFAR10. Each batch draws
        new shifts; see :func:`chts_core.lab.data.shifted_and_mirrored`.
    """

    hidden: int = 512
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    execution: Execution = "masked"
    standardise: bool = False
    first_weights: FirstWeights = "by_links"
    epochs_of_decay: float | None = None
    all_images: bool = False
    augment: bool = False

    def __post_init__(self) -> None:
        _check_counts(self, "hidden", "epochs", "batch_size")
        if self.execution not in get_args(Execution):
            raise ValueError(f"execution is {self.execution!r}; expected one of {', '.join(get_args(Execution))}.")
        if self.first_weights not in get_args(FirstWeights):
            raise ValueError(f"first_weights is {self.first_weights!r}; expected 'by_links' or 'published'.")
        if self.epochs_of_decay is not None and not 0 < self.epochs_of_decay <= 1:
            raise ValueError(
                f"epochs_of_decay is {self.epochs_of_decay}; expected a share of the epochs in (0, 1], or None to "
                "lower the learning rate at every step."
            )

    def topology(self, steps_per_epoch: int) -> dict[str, Any]:
        """Arguments for `Sparsifier` or `plan`: when to update the topology, and how to store the links."""
        total = self.epochs * steps_per_epoch
        return {"total_steps": total, "update_every": steps_per_epoch, "execution": self.execution}


_PAPER_MLP = ImageRecipe(
    hidden=1568, epochs=100, standardise=True, first_weights="published", epochs_of_decay=0.9, all_images=True
)
IMAGE_RECIPES: dict[str, ImageRecipe] = {
    "mlp": ImageRecipe(hidden=256, learning_rate=0.05),
    "mlp_paper": _PAPER_MLP,
    "mlp_paper_cifar10": replace(_PAPER_MLP, hidden=3072, augment=True),
}


# --- translators ---


@dataclass(frozen=True)
class TranslationRecipe:
    """How to train a translator: Adam (β₂ = 0.998) with the inverse-square-root schedule, as in the paper.

    size: a name in `TRANSFORMER_SIZES`.
    vocabulary: number of subwords, shared by both languages.
    max_length: the largest number of tokens in a sentence; longer training pairs are left out, and longer translations
        are cut off.
    steps: steps of the optimizer.
    batch_tokens: the largest number of tokens in a step: the number of pairs, times the length of the longest sentence.
    accumulate: number of parts of a batch, which the model processes in turn. With more parts, training needs less
        memory, but the gradient stays the same.
    learning_rate: factor of the schedule; see `learning_rate_at`.
    dense_learning_rate: the factor for a dense network; None to use `learning_rate`.
    warmup: steps until the schedule's peak.
    iterative_warmup: steps in which the learning rate rises again after each change of the topology.
    update_every: steps between updates of the topology.
    validate_every: steps between measurements on the validation pairs.
    beam: number of hypotheses in the beam search when the final network translates.
    test_best: whether the network with the highest validation BLEU (the first one if several are equal) also translates
        the test sentences; the paper reports the score of this network.
    precision: the precision of matrix products; weights stay float32.
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
    precision: TranslationPrecision = "float32"
    execution: Execution = "masked"

    def __post_init__(self) -> None:
        if self.size not in TRANSFORMER_SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(map(repr, TRANSFORMER_SIZES))}.")
        _check_counts(self, "steps", "batch_tokens", "accumulate", "warmup", "update_every", "validate_every", "beam")
        check_iterative_warmup(self.iterative_warmup)
        if self.batch_tokens <= self.max_length:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens} and max_length is {self.max_length}; "
                "expected batch_tokens above max_length, so that a batch holds the longest sentence and its end mark."
            )
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision is {self.precision!r}; expected 'float32', 'bfloat16' or 'float16'.")

    @property
    def topology(self) -> dict[str, Any]:
        """Arguments for `Sparsifier` or `plan`: when to update the topology, and how to store the links."""
        return {"total_steps": self.steps, "update_every": self.update_every, "execution": self.execution}


_SHORT = TranslationRecipe(
    steps=300,
    batch_tokens=512,
    dense_learning_rate=0.5,
    warmup=100,
    iterative_warmup=3,
    dropout=0.0,
    update_every=15,
    validate_every=50,
)
TRANSLATION_RECIPES: dict[str, TranslationRecipe] = {
    # The learning rates of these four recipes were chosen by the validation loss in runs with a seed that no race uses.
    "number_words_ci": replace(_SHORT, steps=100, warmup=40, iterative_warmup=1, update_every=5, validate_every=25),
    "number_words_short": _SHORT,
    "number_words": TranslationRecipe(
        steps=600, dense_learning_rate=0.5, warmup=100, iterative_warmup=5, update_every=25, validate_every=50
    ),
    "multi30k_small": TranslationRecipe(
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
    # The paper's recipe; the paper does not say how many subwords it uses.
    "multi30k": TranslationRecipe(
        size="multi30k",
        test_best=True,
        vocabulary=8000,
        max_length=128,
        steps=5000,
        learning_rate=0.25,
        warmup=1000,
        validate_every=500,
    ),
    "iwslt": TranslationRecipe(
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
    "wmt": TranslationRecipe(
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


# --- language models ---


@dataclass(frozen=True)
class LanguageRecipe:
    """How to train a language model: Adam with a cosine schedule, a linear warm-up and clipped gradients.

    size: a name in `LLAMA_SIZES`.
    vocabulary: number of tokens.
    tokenizer: a path to a tokenizer.json or a name on the hub; "" to train a tokenizer on the corpus.
    context: tokens that the model sees at a time, packed without padding.
    steps: steps of the optimizer.
    batch: contexts in a step, over all ranks.
    micro_batch: the largest number of contexts that go through a model at once. A smaller number needs less memory, and
        the gradient stays the same.
    learning_rate: the peak of the schedule.
    dense_learning_rate: the peak for a dense network; None to use `learning_rate`.
    warmup: steps until the peak.
    iterative_warmup: steps in which the learning rate rises again after each change of the topology; 0 for none.
    link_warmup: steps after each change of the topology in which the weights of new links change less than usual; 0 for
        none. See :class:`chts_core.tools.link_warmup.LinkWarmup`.
    watch_updates: whether to measure the loss before and after each change of the topology (see `language.UpdateLoss`).
        These measurements do not change the run.
    clip: the largest norm that the gradient may have.
    update_every: steps between updates of the topology.
    validate_every: steps between measurements on the validation tokens.
    validation_tokens: number of validation tokens, which are always the same; the corpus may have fewer.
    precision: "float32", "bfloat16" (products in bfloat16, weights in float32) or "bfloat16_weights" (everything in
        bfloat16, as in the published code; small changes of the weights are then lost by rounding).
    deviation: standard deviation of the initial weights; see :func:`chts_core.lab.models.initialise_llama`.
    per_head: whether each head of queries, keys and values has its own number of links.
    compile: whether to call `torch.compile`, which takes a minute or more and then makes the model faster.
    lanes: number of parallel streams for a corpus that is too large for memory; this number, not the number of ranks,
        decides the order of the text.
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
    precision: LanguagePrecision = "float32"
    execution: Execution = "masked"
    deviation: float | None = None
    per_head: bool = False
    compile: bool = False
    lanes: int = 8

    def __post_init__(self) -> None:
        if self.size not in LLAMA_SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(map(repr, LLAMA_SIZES))}.")
        _check_counts(self, "context", "steps", "batch", "micro_batch", "warmup", "update_every", "validate_every")
        _check_counts(self, "validation_tokens", "lanes")
        check_iterative_warmup(self.iterative_warmup)
        if not 0 <= self.link_warmup <= self.update_every:
            raise ValueError(
                f"link_warmup is {self.link_warmup}; expected a number of steps from 0 (none) to "
                f"update_every, which is {self.update_every}."
            )
        if self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; expected a number above 0, the largest norm of the gradient.")
        if self.precision not in ("float32", "bfloat16", "bfloat16_weights"):
            raise ValueError(f"precision is {self.precision!r}; expected 'float32', 'bfloat16' or 'bfloat16_weights'.")

    @property
    def topology(self) -> dict[str, Any]:
        """Arguments for `Sparsifier` or `plan`: when to update the topology, and how to store the links."""
        settings = {"total_steps": self.steps, "update_every": self.update_every, "execution": self.execution}
        return {**settings, "per_head": self.per_head}


_PAPER = LanguageRecipe(
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
LANGUAGE_RECIPES: dict[str, LanguageRecipe] = {
    # The learning rates were chosen by the validation loss in runs with a seed that no race uses. The rates of "small"
    # are the rates of "tiny" times 128/320, the ratio of the widths.
    "tiny_ci": LanguageRecipe(steps=60, batch=8, warmup=10, update_every=5, validate_every=20, validation_tokens=5000),
    "tiny_short": LanguageRecipe(steps=100, batch=8, update_every=5, validate_every=10),
    "tiny": LanguageRecipe(steps=200),
    "small": LanguageRecipe(
        size="small",
        vocabulary=4096,
        context=256,
        steps=1000,
        learning_rate=8e-3,
        dense_learning_rate=3.2e-3,
        warmup=100,
        update_every=25,
    ),
    # The paper's recipes, except 350m and 7b, which are not in the paper. The micro-batches are ours.
    "60m": _PAPER,
    "130m": replace(_PAPER, size="130m", steps=30_000, warmup=10_000, micro_batch=32),
    "350m": replace(_PAPER, size="350m", steps=60_000, warmup=6000, micro_batch=16),
    "1b": replace(_PAPER, size="1b", steps=100_000, warmup=10_000, micro_batch=8, dense_learning_rate=4e-4),
    "7b": replace(_PAPER, size="7b", steps=150_000, warmup=15_000, micro_batch=4, dense_learning_rate=4e-4),
}
