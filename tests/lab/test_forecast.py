"""What a run of a notebook is expected to take: by hand, beside recorded runs, and by every parameter."""

import math
from functools import cache
from statistics import median
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from chts_core.engine.layers import sparse_layers
from chts_core.lab import models
from chts_core.lab.data import IMAGE_SETS, TEXT_SETS, TRANSLATION_SETS, DataNotFoundError, load_images
from chts_core.lab.notebook import forecast, notebooks
from chts_core.lab.notebook.forecast import Forecast, Work
from chts_core.lab.results import records
from chts_core.lab.train import language, translation

MLP = {"minutes": 2.1, "memory_mb": 700, "dataset": "digits", "hidden": 10, "epochs": 5, "seeds": 2}
SMALL = {"minutes": 1.1, "memory_mb": 600, "hidden": 10, "epochs": 5, "seeds": 2}


# --- by hand ---


def test_the_work_of_an_mlp_by_hand() -> None:
    # 64 pixels, 3 hidden layers of 10, 10 classes; 1077 // 32 = 33 steps per epoch; 12 methods x 2 seeds x 5 epochs.
    work = forecast.image_work(MLP)
    weights = 640 + 200 + 100
    assert (work.passes, work.operations) == (12 * 2 * 5 * 33, 6 * weights * 32 * 12 * 2 * 5 * 33)
    assert work.memory_mb == pytest.approx((16 * weights + 4 * 64 * 1077 * 1.4) / 2**20)


def test_minutes_are_those_of_passes_and_operations() -> None:
    work = Work(passes=3000, pass_seconds=0.01, operations=60 * 80e9, half=False, memory_mb=1)
    assert work.minutes(gpu=False) == pytest.approx(1.1 * (30 + 60) / 60)
    assert work.minutes(gpu=True) == pytest.approx(1.1 * (30 + 60 * 80 / 26_800) / 60)
    half = Work(passes=3000, pass_seconds=0.01, operations=60 * 80e9, half=True, memory_mb=1)
    assert half.minutes(gpu=True) == pytest.approx(1.1 * (30 + 60 * 80 / 395_600) / 60)


@pytest.mark.parametrize("recipe", ["number_words", "multi30k", "wmt"])
def test_the_weights_of_translators_are_counted(recipe: str) -> None:
    found = translation.RECIPES[recipe]
    with torch.device("meta"):
        model = models.Transformer(found.vocabulary, models.TRANSFORMER_SIZES[found.size])
    links = sum(math.prod(layer.shape) for layer in sparse_layers(model).values())
    output = found.vocabulary * models.TRANSFORMER_SIZES[found.size].width
    work = forecast.translation_work({"recipe": recipe, "methods": "fc,set", "seeds": 3, "steps": 7})
    assert work.passes == 2 * 3 * 7 * found.accumulate
    assert work.operations == 6 * (links + output) * found.batch_tokens * 2 * 3 * 7
    assert work.half is False


@pytest.mark.parametrize("recipe", ["tiny", "60m"])
def test_the_weights_of_language_models_are_counted(recipe: str) -> None:
    found = language.RECIPES[recipe]
    size = models.LLAMA_SIZES[found.size]
    model: LlamaForCausalLM = models.llama(found.vocabulary, size, found.context)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    work = forecast.language_work({"recipes": {"books": recipe}, "dataset": "books", "methods": "fc", "seeds": 1})
    assert work.passes == found.steps * found.batch // found.micro_batch
    assert work.operations == language.operations_per_token(found) * found.steps * found.batch * found.context
    assert work.half == (recipe == "60m")
    kept = found.micro_batch * found.context * (34 * size.layers * size.width + 3 * found.vocabulary)
    assert work.memory_mb == pytest.approx((16 * matrices + 4 * kept) / 2**20)


def test_every_image_set_has_a_size() -> None:
    assert forecast._IMAGES.keys() == IMAGE_SETS.keys()


# The large ones take long to load, or to be found nowhere, the hub included.
@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "mnist",
        pytest.param("fashion_mnist", marks=pytest.mark.full),
        pytest.param("emnist", marks=pytest.mark.full),
        pytest.param("cifar10", marks=pytest.mark.full),
    ],
)
def test_sizes_of_image_sets_are_right(name: str) -> None:
    train, features, classes = forecast._IMAGES[name]
    try:
        data = load_images(name)
    except DataNotFoundError:
        assert name != "digits"  # they are always there
        pytest.skip(f"{name} is not here")
    assert (len(data.train.labels), data.features, data.classes) == (train, features, classes)
    parts = (data.train, data.validation, data.test)
    assert sum(len(part.labels) for part in parts) == pytest.approx(forecast._ALL_IMAGES * train, rel=0.2)


# Also of those that are not here: what is published, less what is kept to validate with.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("digits", (1077, 64, 10)),
        ("fashion_mnist", (55_000, 784, 10)),
        ("mnist", (55_000, 784, 10)),
        ("emnist", (103_400, 784, 47)),
        ("cifar10", (45_834, 3072, 10)),
    ],
)
def test_sizes_of_image_sets_by_hand(name: str, size: tuple[int, int, int]) -> None:
    assert forecast._IMAGES[name] == size


# --- beside recorded runs ---


def reckoned(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Work:
    """The work of one recorded run."""
    recipe = row["recipe"]
    if row["task"] == "images":
        work = forecast.image_work({**recipe, "dataset": row["dataset"], "seeds": 1})
        return Work(work.passes // 12, work.pass_seconds, work.operations / 12, work.half, work.memory_mb)
    module = {"translation": translation, "language": language}[row["task"]]
    monkeypatch.setitem(module.RECIPES, "recorded", module.Recipe(**recipe))
    count = {"translation": forecast.translation_work, "language": forecast.language_work}[row["task"]]
    return count({"recipe": "recorded", "methods": row["method"], "seeds": 1})


@cache
def recorded() -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Recorded runs whose products were dense, by what was trained; beside those of the second revision ran others."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for name in ("images", "translation", "language"):
        for folder in (records.results_folder(), records.results_folder() / "revision_1"):
            rows = [row for row in records.read_runs(folder / f"{name}.jsonl") if "methods" not in row]
            for row in rows:
                size = row["recipe"].get("size") or row["recipe"]["hidden"]
                if row["method"] == "fc" or row["recipe"]["execution"] == "masked":
                    groups.setdefault((row["task"], row["dataset"], str(size)), []).append(row)
    return groups


@pytest.mark.parametrize("group", recorded(), ids="-".join)
def test_what_is_reckoned_is_near_what_recorded_runs_took(
    group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recorded()[group]
    ratios = [60 * reckoned(row, monkeypatch).minutes(gpu=False) / row["total_seconds"] for row in rows]
    assert 0.7 < median(ratios) < 1.4
    peaks = [row["peak_memory_mb"] for row in rows if row["peak_memory_mb"] is not None]
    if peaks:  # a process that has imported all takes some 600 MB
        assert 0.6 < (600 + reckoned(rows[-1], monkeypatch).memory_mb) / median(peaks) < 1.4


# --- what is told ---


def test_the_same_settings_are_measured() -> None:
    assert forecast.forecast("06_mlp", MLP, MLP | {"seed": 5}) == Forecast(2.1, 700, measured=True)
    assert forecast.forecast("03_soft_sampling", SMALL, SMALL | {"sparsity": 0.5}) == Forecast(1.1, 600, measured=True)


@pytest.mark.parametrize(
    ("changes", "minutes"),
    [({"epochs": 10}, 2.1), ({"seeds": 1}, 0.6), ({"hidden": 20}, 4.1), ({"hidden": 5}, 1.1)],
)
def test_time_of_a_small_stage_goes_by_steps_and_by_weights(changes: dict[str, int], minutes: float) -> None:
    found = forecast.forecast("03_soft_sampling", SMALL, SMALL | changes)
    assert (found.minutes, found.measured) == (pytest.approx(minutes), False)


def test_what_a_stage_trains_is_added_to_what_else_it_does() -> None:
    work = forecast.image_work(MLP)
    assert work.minutes(gpu=False) < 1
    twice = forecast.forecast("06_mlp", MLP, MLP | {"epochs": 10})
    assert twice.minutes == pytest.approx(2.1 + work.minutes(gpu=False))
    assert (twice.memory_mb, twice.measured) == (700, False)
    larger = forecast.forecast("06_mlp", MLP, MLP | {"dataset": "fashion_mnist"})
    assert larger.memory_mb == 700 + round(
        forecast.image_work(MLP | {"dataset": "fashion_mnist"}).memory_mb - work.memory_mb
    )
    on_gpu = forecast.forecast("06_mlp", MLP, MLP, gpu=True)
    assert not on_gpu.measured
    assert on_gpu.minutes == pytest.approx(2.1 - work.minutes(gpu=False) + work.minutes(gpu=True))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Forecast(0.15, 650, measured=True), "about 0.15 min and 650 MB on 2 cores"),
        (Forecast(12.34, 700, measured=False), "about 12 min and 700 MB, estimated, not measured"),
        (Forecast(99.7, 700, measured=True), "about 100 min and 700 MB on 2 cores"),
        (Forecast(150.0, 700, measured=False), "about 2 h and 700 MB, estimated, not measured"),
        (Forecast(75_000.0, 700, measured=False), "about 1,250 h and 700 MB, estimated, not measured"),
    ],
)
def test_a_forecast_in_words(found: Forecast, words: str) -> None:
    assert str(found) == words


@pytest.mark.parametrize("profile", notebooks.PROFILES)
@pytest.mark.parametrize("path", notebooks.stages(), ids=lambda path: path.stem)
def test_every_stage_has_a_forecast_at_every_profile(path: Any, profile: str) -> None:
    found = notebooks.expected(path, {"profile": profile})
    assert found is not None
    assert found.minutes > 0
    assert found.memory_mb > 500
    assert found.measured == (notebooks.profile_settings(path.stem, profile)["minutes"] is not None)


@pytest.mark.parametrize(
    ("stage", "dataset"),
    [
        *(("06", name) for name in IMAGE_SETS),
        *(("08", name) for name in TRANSLATION_SETS),
        *(("09", name) for name in TEXT_SETS),
    ],
)
def test_every_data_set_has_a_forecast(stage: str, dataset: str) -> None:
    path = notebooks.find(stage)
    default = notebooks.profile_settings(path.stem, "laptop")["dataset"]
    found = notebooks.expected(path, {"dataset": dataset, "device": "cpu"})
    assert found is not None
    assert found.measured == (dataset == default)
    longer = notebooks.expected(path, {"dataset": dataset, "device": "cpu", "seeds": 50})
    assert longer is not None
    assert longer.minutes > 4 * found.minutes


@pytest.mark.parametrize(("stage", "recipe"), [("08", name) for name in translation.RECIPES] + [("09", "60m")])
def test_a_recipe_that_is_asked_for_counts(stage: str, recipe: str) -> None:
    found = notebooks.expected(notebooks.find(stage), {"recipe": recipe, "steps": 3, "device": "cpu"})
    longer = notebooks.expected(notebooks.find(stage), {"recipe": recipe, "steps": 3000, "device": "cpu"})
    assert found is not None
    assert longer is not None
    assert not found.measured
    assert found.minutes < longer.minutes


def test_a_gpu_is_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    path = notebooks.find("09")
    slow = notebooks.expected(path, {"profile": "paper", "device": "cpu"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fast = notebooks.expected(path, {"profile": "paper"})
    assert slow is not None
    assert fast is not None
    assert 100 * fast.minutes < slow.minutes
