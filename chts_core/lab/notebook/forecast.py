"""Estimate the time and memory that a notebook needs, from its parameters and from a measured run of its profile.

The estimate assumes dense weights, with or without masks; storing only links takes less memory.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chts_core.lab.models import LLAMA_SIZES, TRANSFORMER_SIZES
from chts_core.lab.train import images, language, translation

# Operations per second of one core, from recorded runs (results/), and of a GPU: 40 % of the number in an H100's data
# sheet.
_CORE, _GPU, _GPU_16_BITS = 80e9, 0.4 * 67e12, 0.4 * 989e12
# Seconds that a pass spends on work other than matrix products, from recorded runs of small models.
_MLP_PASS, _TRANSLATOR_PASS, _LLAMA_PASS = 0.0008, 0.02, 0.01
_LOOKS = 1.1  # validating, testing and saving multiply the training time by this factor
_KEPT_BYTES = 16  # bytes per weight: the weight, its gradient and two moments in float32
# Numbers kept for the backward pass per token, layer and neuron, of an encoder and of a decoder: twice Equation 2 of
# Korthikanti et al. (2022) without attention, because norms, gates and rotations that are not fused keep numbers, too.
_ACTIVATIONS = 34
_START = 0.1  # minutes: starting a kernel, importing, figures

# The numbers of training images, of pixels times colours and of classes, so that no data have to be loaded.
_IMAGES = {
    "digits": (1077, 64, 10),
    "fashion_mnist": (55_000, 784, 10),
    "mnist": (55_000, 784, 10),
    "emnist": (103_400, 784, 47),
    "cifar10": (45_834, 3072, 10),
}
_ALL_IMAGES = 1.4  # factor for the validation and test images

_SIZES = ("dataset", "recipe", "methods", "seeds", "hidden", "epochs", "steps")  # parameters that determine the time


@dataclass(frozen=True)
class Work:
    """The amount of computation in all training runs of a notebook, and the memory that these runs need.

    passes: the number of forward and backward passes through the model.
    pass_seconds: the seconds that each pass takes in addition to its operations, the same for a model of any size.
    operations: the floating-point operations of all passes.
    half: whether matrix products use 16 bits.
    memory_mb: the memory of weights, gradients, moments, numbers kept for the backward pass, and data.
    """

    passes: int
    pass_seconds: float
    operations: float
    half: bool
    memory_mb: float

    def minutes(self, *, gpu: bool) -> float:
        """The minutes that this work takes on one core or on a GPU."""
        per_second = (_GPU_16_BITS if self.half else _GPU) if gpu else _CORE
        return _LOOKS * (self.passes * self.pass_seconds + self.operations / per_second) / 60


@dataclass(frozen=True)
class Forecast:
    """The expected time and memory of a run.

    measured: whether the time and memory were measured in a run with the same settings; if not, they are estimated.
    """

    minutes: float
    memory_mb: int
    measured: bool

    def __str__(self) -> str:
        source = " on 2 cores" if self.measured else ", estimated, not measured"
        return f"about {in_words(self.minutes)} and {self.memory_mb} MB{source}"


def in_words(minutes: float) -> str:
    """A time as text: in minutes if it is below 100 minutes, otherwise in hours."""
    if minutes < 10:
        return f"{minutes:.2g} min"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:,.0f} h"


def forecast(stage: str, measured: Mapping[str, Any], settings: Mapping[str, Any], *, gpu: bool = False) -> Forecast:
    """The expected time and memory of a stage's run.

    Args:
        stage: the name of the notebook, such as "06_mlp".
        measured: the settings of a profile, and the minutes and memory_mb that a run with these settings took on a CPU.
        settings: the settings of the run, with the same names.
        gpu: whether the run trains on a GPU.
    """
    changed = any((settings.get(name) or None) != (measured.get(name) or None) for name in _SIZES)
    if not gpu and not changed:
        return Forecast(measured["minutes"], measured["memory_mb"], measured=True)
    if stage in _WORK:
        then, now = _WORK[stage](measured), _WORK[stage](settings)
        rest = max(measured["minutes"] - then.minutes(gpu=False), _START)
        memory = measured["memory_mb"] + max(now.memory_mb - then.memory_mb, 0)
        return Forecast(rest + now.minutes(gpu=gpu), round(memory), measured=False)
    # The other stages have small networks. Their time grows with the epochs, seeds, steps and weights.
    times = math.prod(settings[name] / measured[name] for name in ("epochs", "seeds", "steps") if name in measured)
    if "hidden" in measured:
        times *= max(settings["hidden"] / measured["hidden"], 1) ** 2
    return Forecast(_START + max(measured["minutes"] - _START, 0) * times, measured["memory_mb"], measured=False)


def image_work(settings: Mapping[str, Any]) -> Work:
    """The work of stage 06: nine methods and three receptive fields, each with every seed."""
    train, features, classes = _IMAGES[settings["dataset"]]
    hidden = settings["hidden"]
    weights = features * hidden + 2 * hidden**2 + hidden * classes
    passes = 12 * settings["seeds"] * settings["epochs"] * (train // images.Recipe.batch_size)
    data = 4 * features * train * _ALL_IMAGES
    return Work(
        passes,
        _MLP_PASS,
        6.0 * weights * passes * images.Recipe.batch_size,
        half=False,
        memory_mb=(_KEPT_BYTES * weights + data) / 2**20,
    )


def translation_work(settings: Mapping[str, Any]) -> Work:
    """The work of stage 08: every method with every seed."""
    recipe = translation.RECIPES[settings.get("recipe") or settings["recipes"][settings["dataset"]]]
    size = TRANSFORMER_SIZES[recipe.size]
    # An attention block has four products and a feed-forward block has two. A decoder layer has two attention blocks.
    links = size.layers * (12 * size.width**2 + 4 * size.width * size.feed_forward)
    output = size.width * recipe.vocabulary
    runs = len(settings["methods"].split(",")) * settings["seeds"]
    steps = runs * (settings.get("steps") or recipe.steps)
    kept = recipe.batch_tokens * (_ACTIVATIONS * size.layers * size.width + 3 * recipe.vocabulary)
    return Work(
        steps * recipe.accumulate,
        _TRANSLATOR_PASS,
        6.0 * (links + output) * recipe.batch_tokens * steps,
        half=recipe.precision != "float32",
        memory_mb=(_KEPT_BYTES * (links + output) + 4 * kept / recipe.accumulate) / 2**20,
    )


def language_work(settings: Mapping[str, Any]) -> Work:
    """The work of stage 09: every method with every seed."""
    recipe = language.RECIPES[settings.get("recipe") or settings["recipes"][settings["dataset"]]]
    size = LLAMA_SIZES[recipe.size]
    runs = len(settings["methods"].split(",")) * settings["seeds"]
    steps = runs * (settings.get("steps") or recipe.steps)
    weights = (
        size.layers * (4 * size.width**2 + 3 * size.width * size.feed_forward) + 2 * size.width * recipe.vocabulary
    )
    together = min(recipe.batch, recipe.micro_batch)
    kept = together * recipe.context * (_ACTIVATIONS * size.layers * size.width + 3 * recipe.vocabulary)
    return Work(
        steps * math.ceil(recipe.batch / together),
        _LLAMA_PASS,
        language.operations_per_token(recipe) * recipe.batch * recipe.context * steps,
        half=recipe.precision != "float32",
        memory_mb=(_KEPT_BYTES * weights + 4 * kept) / 2**20,
    )


_WORK = {"06_mlp": image_work, "08_translation_transformer": translation_work, "09_llama": language_work}
