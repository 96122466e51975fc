import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

import chts_core as chts
from chts_core.lab.data import ImageData, Split, load_images, shifted_and_mirrored
from chts_core.lab.models import mlp
from chts_core.lab.results import records
from chts_core.lab.results.statistics import mean_and_interval, paired_differences
from chts_core.lab.train import images, loop
from chts_core.lab.train.images import Recipe, Run, as_row, epoch_choices, summarise

METHODS = ("fc", "set", "chts", "chtss")
MEASURED = {"seconds", "total_seconds", "peak_memory_mb"}
TINY = Recipe(hidden=16, epochs=3)  # with fewer epochs the density of CHTss has no update to fall at
SHAPES = {"0.weight": (16, 64), "2.weight": (16, 16), "4.weight": (16, 16)}


def links_at(sparsity: float, shapes: dict[str, tuple[int, int]]) -> dict[str, int]:
    return {name: chts.topology.link_count(*shape, 1 - sparsity) for name, shape in shapes.items()}


def strict_json(text: str) -> Any:
    """Python reads and writes NaN as JSON; browsers and other languages do not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def runs(digits: ImageData) -> list[Run]:
    return images.race(digits, METHODS, 0.9, TINY, seeds=range(2))


# --- one run, and a race ---


def test_a_race_runs_every_method_with_every_seed(runs: list[Run]) -> None:
    assert [(run.method, run.seed) for run in runs] == [(method, seed) for method in METHODS for seed in (0, 1)]
    for run in runs:
        assert run.sparsity == 0.9
        assert len(run.validation_accuracy) == TINY.epochs
        assert len(run.test_by_epoch) == TINY.epochs
        assert all(0 <= value <= 1 for value in [*run.validation_accuracy, *run.test_by_epoch])
        assert run.snapshots == []
        assert run.seconds > 0


def test_a_start_from_correlations_has_the_most_correlated_links(digits: ImageData) -> None:
    run = images.train(digits, "chtss with topology=Correlated()", 0.9, replace(TINY, hidden=64))
    correlation = chts.topology.Correlation()
    correlation.update(digits.train.images)
    strength = correlation.matrix()
    for mask in run.first_masks.values():
        assert int(mask.sum()) == 2048  # CHTss starts with half of the links
        assert strength[mask].min() >= strength[~mask].max()


# --- the recipe as published ---


def test_standardised_pixels_have_mean_0_and_deviation_1_over_the_training_images() -> None:
    pixels = torch.tensor([[1.0, 3.0], [5.0, 7.0]])  # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    split = Split(pixels, torch.tensor([0, 1]))
    other = Split(torch.tensor([[4.0, 4.0 + math.sqrt(5)]]), torch.tensor([0]))
    found = ImageData("mine", split, other, other, (1, 2), 2).standardised()
    assert torch.allclose(found.train.images, (pixels - 4) / math.sqrt(5))
    assert torch.allclose(found.test.images, torch.tensor([[0.0, 1.0]]))
    assert torch.equal(found.validation.labels, other.labels)


def test_each_colour_is_standardised_by_itself() -> None:
    # Red is 0 and 2, green is 10 and 30, blue is 5 and 6.
    pixels = torch.tensor([[0.0, 10.0, 5.0], [2.0, 30.0, 6.0]])
    split = Split(pixels, torch.tensor([0, 1]))
    found = ImageData("mine", split, split, split, (3, 1, 1), 2).standardised()
    assert torch.allclose(found.train.images, torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))


@pytest.mark.parametrize("colours", [1, 3])
def test_pixels_as_bytes_are_standardised_as_all_features_at_once(colours: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3000, colours * 16), generator=generator, dtype=torch.uint8)  # several chunks
    split = Split(pixels, torch.zeros(3000, dtype=torch.int64)).scaled(torch.tensor(0.0), torch.tensor(255.0))
    found = ImageData("mine", split, split, split, (colours, 4, 4) if colours == 3 else (4, 4), 10).standardised()
    whole = (pixels / 255).view(3000, colours, 16)
    deviation, mean = torch.std_mean(whole, dim=(0, 2), correction=0, keepdim=True)
    expected = ((whole - mean) / deviation).flatten(1)
    rows = torch.tensor([2999, 0, 17, 17])
    assert torch.equal(found.test.take(rows).images, expected[rows])
    assert torch.equal(torch.cat([some.images for some in found.train.chunks()]), expected)
    assert torch.equal(found.validation.images, expected)


def test_images_that_are_all_alike_are_not_standardised() -> None:
    # Red varies, green and blue do not.
    pixels = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0]])
    split = Split(pixels, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="training images of mine have the same value everywhere in at least one"):
        ImageData("mine", split, split, split, (3, 1, 1), 2).standardised()


def test_standardising_is_a_setting_and_the_data_s_digest_stays_that_of_the_data(digits: ImageData) -> None:
    plain, standardised = (images.train(digits, "set", 0.9, replace(TINY, standardise=s)) for s in (False, True))
    assert plain.test_by_epoch != standardised.test_by_epoch
    record = images.as_record(standardised, digits, replace(TINY, standardise=True), "cpu")
    assert record["data"] == digits.digest
    assert record["recipe"]["standardise"] is True


# --- all training images ---

ALL = replace(TINY, all_images=True, standardise=True)


def test_the_training_images_come_before_the_validation_images() -> None:
    def split(*pixels: float) -> Split:
        return Split(torch.tensor([[pixel] for pixel in pixels]), torch.arange(len(pixels)))

    found = ImageData("mine", split(1.0, 2.0, 3.0), split(4.0, 5.0), split(9.0), (1, 1), 3).without_validation()
    assert found.train.images.tolist() == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert found.train.labels.tolist() == [0, 1, 2, 0, 1]
    assert (found.validation.images.shape, found.validation.labels.shape) == ((0, 1), (0,))
    assert found.test.images.tolist() == [[9.0]]
    # Mean 3, variance (4 + 1 + 0 + 1 + 4) / 5 = 2.
    standardised = found.standardised()
    assert torch.allclose(standardised.test.images, torch.tensor([[6 / math.sqrt(2)]]))
    assert standardised.validation.images.shape == (0, 1)


def test_a_run_on_all_images_is_that_of_data_with_nothing_to_validate(digits: ImageData) -> None:
    run = images.train(digits, "chts", 0.9, ALL, seed=2)
    same = replace(digits.without_validation(), validation=digits.validation)  # looked at, but learnt from too
    beside = images.train(same, "chts", 0.9, replace(ALL, all_images=False), seed=2)
    assert (run.train_loss, run.test_by_epoch) == (beside.train_loss, beside.test_by_epoch)
    assert run.train_loss != images.train(digits, "chts", 0.9, replace(ALL, all_images=False), seed=2).train_loss


def test_a_run_on_all_images_has_no_validation_accuracy(digits: ImageData, tmp_path: Path) -> None:
    (run,) = images.race(digits, ["set"], 0.9, ALL, seeds=[0], folder=tmp_path)
    assert (run.validation_accuracy, run.chosen_test_accuracy) == ([], None)
    (choices,) = epoch_choices([run])
    assert choices["chosen on validation"] is None
    assert choices["last epoch"] == run.test_by_epoch[-1]
    assert as_row(run)["validation_accuracy"] == []
    (row,) = records.read_runs(tmp_path / "runs.jsonl")
    steps = (len(digits.train.labels) + len(digits.validation.labels)) // ALL.batch_size
    assert [step for step, _ in row["train_loss"]] == [steps, 2 * steps, 3 * steps]
    assert row["validation"] == []
    assert row["test"] == {
        "accuracy": round(run.test_by_epoch[-1], 5),
        "chosen": None,
        "best": round(max(run.test_by_epoch), 5),
    }
    assert row["recipe"]["all_images"] is True
    assert row["data"] == digits.digest


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest float tensor has that torch makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_training_makes_features_of_a_part_of_the_images_at_a_time() -> None:
    digits = load_images("digits")  # nothing has asked for the features of all of its images yet
    with Largest() as largest:
        images.train(digits, "set", 0.9, ALL)
    # The largest are chunks, of the 1,437 training images too.
    assert largest.numbers == 1024 * digits.features


def test_correlations_are_those_of_all_images(digits: ImageData) -> None:
    run = images.train(digits, "chts with topology=Correlated()", 0.9, replace(ALL, hidden=64, standardise=False))
    correlation = chts.topology.Correlation()
    for split in (digits.train, digits.validation):
        correlation.update(split.images)
    strength = correlation.matrix()
    for mask in run.first_masks.values():
        assert strength[mask].min() >= strength[~mask].max()


def test_a_batch_of_all_images_is_the_largest(digits: ImageData) -> None:
    count = len(digits.train.labels) + len(digits.validation.labels)
    images.plan_run(digits, "set", 0.9, replace(ALL, batch_size=count))
    with pytest.raises(ValueError, match=f"batch_size is {count + 1} but there are {count} training images"):
        images.plan_run(digits, "set", 0.9, replace(ALL, batch_size=count + 1))


def test_one_run_without_validation_leaves_its_method_without_a_chosen_epoch(make_run: Callable[..., Run]) -> None:
    rows = epoch_choices([make_run("set"), make_run("chts", 0), make_run("chts", 1, validation_accuracy=[])])
    assert [row["chosen on validation"] for row in rows] == [0.987654321, None]


@pytest.mark.parametrize(
    ("method", "variances"),
    [
        ("set", (2 / 784, 2 / 400)),  # 2 / inputs
        ("chts", (2 / (0.05 * 400), 2 / (0.05 * 400))),  # 2 / (density · outputs)
        ("chtss", (2 / (0.5 * 400), 2 / (0.5 * 400))),  # it starts with half of the links
        ("chts/r1_readme", (2 / (0.1 * 400), 2 / (0.1 * 400))),  # 5 % more links than the target
    ],
)
def test_published_first_weights_have_the_variance_of_their_source(method: str, variances: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    blank = Split(torch.rand(64, 784, generator=generator), torch.arange(64) % 10)
    data = ImageData("mine", blank, blank, blank, (28, 28), 10)
    recipe = Recipe(hidden=400, epochs=3, first_weights="published")
    model = images._Learner(data, method, 0.95, recipe, 0, torch.device("cpu")).model
    first, second, _, last = (module for module in model if isinstance(module, nn.Linear))
    for layer, variance in zip((first, second), variances, strict=True):
        assert layer.weight[layer.weight != 0].var().item() == pytest.approx(variance, rel=0.06)
        assert layer.bias.abs().max() <= 1 / math.sqrt(layer.in_features)
        assert layer.bias.var().item() == pytest.approx(1 / (3 * layer.in_features), rel=0.2)
    assert last.weight.var().item() == pytest.approx(1 / (3 * 400), rel=0.06)  # uniform in ±1/√400


@pytest.mark.parametrize(
    ("share", "epochs", "expected"),
    [
        (0.5, 4, [1.0, 0.505, 0.01, 0.01]),  # falls once after each of the first two epochs
        (1.0, 3, [1.0, 0.67, 0.34]),
        (None, 3, None),
    ],
)
def test_the_learning_rate_falls_once_per_epoch_over_a_share_of_them(
    digits: ImageData, share: float | None, epochs: int, expected: list[float] | None
) -> None:
    recipe = Recipe(hidden=16, epochs=epochs, learning_rate=1e-3, epochs_of_decay=share)
    learner = images._Learner(digits, "set", 0.9, recipe, 0, torch.device("cpu"))
    training, rates = loop.Training(learner), []
    for _ in range(epochs):
        rates.append(learner.optimizer.param_groups[0]["lr"] / 1e-3)
        for _ in range(learner.look_every):
            training.learn()
    if expected is None:
        assert rates == pytest.approx([1.0, 0.67, 0.34], abs=1e-9)
        assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
    else:
        assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"first_weights": "swi"}, "first_weights is 'swi'; expected 'by_links' or 'published'"),
        ({"epochs_of_decay": 0.0}, "epochs_of_decay is 0.0; expected a share"),
        ({"epochs_of_decay": 1.5}, "epochs_of_decay is 1.5; expected a share"),
    ],
)
def test_settings_of_the_published_recipe_that_cannot_be_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **setting)


def test_a_method_in_words_is_trained_as_the_method_is(digits: ImageData) -> None:
    words = "set with regrowth=Regrowth('ch2_l3n')"
    run = images.train(digits, words, 0.9, TINY)
    same = images.train(digits, replace(chts.METHODS["set"], regrowth=chts.methods.Regrowth("ch2_l3n")), 0.9, TINY)
    assert run.method == words
    assert_equal(replace(run, method="custom"), same)


def assert_equal(one: Run, other: Run) -> None:
    """To the bit, but for what was measured."""
    for field in fields(Run):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name.endswith("masks"):
            assert all(torch.equal(ours[name], theirs[name]) for name in SHAPES)
        elif field.name == "history":
            assert [row | {"seconds": 0} for row in ours] == [row | {"seconds": 0} for row in theirs]
        elif field.name not in MEASURED:
            assert ours == theirs, field.name


def test_the_same_seed_gives_the_same_run(digits: ImageData, runs: list[Run]) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    again = images.race(digits, METHODS, 0.9, TINY, seeds=range(2))
    for one, other in zip(runs, again, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("method", ["set", "chts", "chtss"])
def test_another_seed_gives_another_run(runs: list[Run], method: str) -> None:
    first, second = (run for run in runs if run.method == method)
    for kind in ("first_masks", "last_masks"):
        assert not torch.equal(getattr(first, kind)["0.weight"], getattr(second, kind)["0.weight"])
    assert first.validation_accuracy != second.validation_accuracy


def test_equal_seeds_give_every_method_the_same_weights_and_batches(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[list[Tensor]] = []
    batches: list[list[list[int]]] = []
    build, loss = images.mlp, images.F.cross_entropy

    def recording_mlp(*arguments: Any, **settings: Any) -> nn.Sequential:
        model = build(*arguments, **settings)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
        batches.append([])
        return model

    def recording_loss(output: Tensor, labels: Tensor) -> Tensor:
        batches[-1].append(labels.tolist())
        return loss(output, labels)

    monkeypatch.setattr(images, "mlp", recording_mlp)
    monkeypatch.setattr(images.F, "cross_entropy", recording_loss)
    images.race(digits, METHODS, 0.9, TINY, seeds=[5])
    trained = [number for number, batch in enumerate(batches) if batch]  # others were built to check the settings
    assert len(trained) == 4
    weights, batches = [weights[number] for number in trained], [batches[number] for number in trained]
    for mine, theirs in zip(weights[1:], batches[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, weights[0], strict=True))
        assert theirs == batches[0]
    steps = len(digits.train.labels) // TINY.batch_size
    assert len(batches[0]) == TINY.epochs * steps
    assert {len(batch) for batch in batches[0]} == {TINY.batch_size}
    assert batches[0][:steps] != batches[0][steps : 2 * steps]  # shuffled anew in every epoch


def test_fc_is_dense_from_first_to_last(runs: list[Run]) -> None:
    for run in (run for run in runs if run.method == "fc"):
        assert run.density == run.active_neurons == run.itop == 1
        assert run.history == []
        for masks in (run.first_masks, run.last_masks):
            assert {name: tuple(mask.shape) for name, mask in masks.items()} == SHAPES
            assert all(mask.all() for mask in masks.values())


@pytest.mark.parametrize("method", ["set", "chts", "chtss"])
def test_sparse_runs_record_their_network(runs: list[Run], method: str) -> None:
    links = links_at(0.9, SHAPES)
    for run in (run for run in runs if run.method == method):
        assert {name: int(mask.sum()) for name, mask in run.last_masks.items()} == links
        assert run.density == sum(links.values()) / (16 * 64 + 16 * 16 + 16 * 16)
        assert {row["layer"] for row in run.history} == set(SHAPES)
        start = links_at(0.5 if method == "chtss" else 0.9, SHAPES)
        assert {name: int(mask.sum()) for name, mask in run.first_masks.items()} == start
        assert not torch.equal(run.first_masks["0.weight"], run.last_masks["0.weight"])
        assert 0 < run.active_neurons <= 1
        assert run.density <= run.itop <= 1


def test_masks_of_a_run_are_its_own(runs: list[Run]) -> None:
    tensors = [mask for run in runs for masks in (run.first_masks, run.last_masks) for mask in masks.values()]
    assert len({mask.data_ptr() for mask in tensors}) == len(tensors)


@pytest.fixture(scope="module")
def recorded(digits: ImageData) -> Run:
    return images.train(digits, "chtss", 0.9, replace(TINY, epochs=8), snapshots=True)


def test_snapshots_are_the_masks_after_each_update(digits: ImageData, recorded: Run) -> None:
    usual = images.train(digits, "chtss", 0.9, replace(TINY, epochs=8))
    assert recorded.validation_accuracy == usual.validation_accuracy
    steps = list(dict.fromkeys(row["step"] for row in recorded.history))
    assert len(recorded.snapshots) == len(steps) > 3
    assert all(bits.dtype == torch.uint8 for snapshot in recorded.snapshots for bits in snapshot.values())
    for layer, shape in SHAPES.items():
        assert torch.equal(recorded.mask_after(0, layer), recorded.first_masks[layer])
        assert torch.equal(recorded.mask_after(len(steps), layer), recorded.last_masks[layer])
        ever = recorded.first_masks[layer].clone()
        for update, step in enumerate(steps, start=1):
            (row,) = [row for row in recorded.history if (row["step"], row["layer"]) == (step, layer)]
            before, after = recorded.mask_after(update - 1, layer), recorded.mask_after(update, layer)
            ever |= after
            assert after.shape == shape
            assert int(after.sum()) == row["links"]
            assert row["itop"] == int(ever.sum()) / ever.numel()
            back = round(row["overlap"] * row["regrown"])  # removed and regrown at once: in both masks
            assert int((before & ~after).sum()) == row["removed"] - back
            assert int((after & ~before).sum()) == row["regrown"] - back


def test_masks_that_were_not_kept_are_refused(runs: list[Run], recorded: Run) -> None:
    with pytest.raises(IndexError, match=r"update is 1, but the run kept the masks of 0 updates; .* snapshots=True"):
        runs[-1].mask_after(1, "0.weight")
    with pytest.raises(IndexError, match="update is -1"):
        recorded.mask_after(-1, "0.weight")


def test_methods_may_be_named_for_a_race(digits: ImageData) -> None:
    mine = replace(chts.METHODS["set"], topology=chts.methods.ReceptiveField(0.0))
    raced = images.race(digits, {"mine": mine, "theirs": "set"}, 0.9, TINY, seeds=[4])
    assert [run.method for run in raced] == ["mine", "theirs"]
    for run, method in zip(raced, (mine, "set"), strict=True):
        alone = images.train(digits, method, 0.9, TINY, seed=4)
        assert run.validation_accuracy == alone.validation_accuracy


@pytest.mark.parametrize("method", ["fc", "set", "chtss"])
def test_the_plan_of_a_run_is_that_of_its_model_and_steps(digits: ImageData, runs: list[Run], method: str) -> None:
    found = images.plan_run(digits, method, 0.9, TINY)
    steps = len(digits.train.labels) // TINY.batch_size
    model = mlp(digits.features, TINY.hidden, digits.classes, generator=torch.Generator().manual_seed(0))
    expected = chts.plan(model, method, 0.9, total_steps=3 * steps, update_every=steps, moments=1)
    assert str(found) == str(expected)
    assert found.flops == 1 if method == "fc" else found.flops < 1
    run = next(run for run in runs if run.method == method)
    final = found.budget.links(found.budget.timeline.total_steps)
    assert final == {name: int(mask.sum()) for name, mask in run.last_masks.items()}


def test_a_method_of_ones_own_has_a_label(digits: ImageData) -> None:
    mine = replace(chts.METHODS["chts"], topology=chts.methods.ErdosRenyi())
    assert images.train(digits, mine, 0.9, TINY, label="mine").method == "mine"
    assert images.train(digits, mine, 0.9, TINY).method == "custom"
    assert images.train(digits, "set", 0.9, TINY).method == "set"


def test_a_batch_larger_than_the_training_set_is_refused(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="batch_size is 2000 but there are 1077 training images"):
        images.train(digits, "chts", 0.9, replace(TINY, batch_size=2000))


def test_each_part_of_the_data_serves_its_own_end(digits: ImageData) -> None:
    def spoilt(split: Split) -> Split:
        return Split(split.images, (split.labels + 1) % 10)

    def run(data: ImageData) -> Run:
        return images.train(data, "fc", 0.0, Recipe(hidden=64, epochs=3, learning_rate=0.05))

    usual, test, validation = (
        run(data)
        for data in (
            digits,
            replace(digits, test=spoilt(digits.test)),
            replace(digits, validation=spoilt(digits.validation)),
        )
    )
    assert usual.test_accuracy > 0.5 > test.test_accuracy
    assert test.validation_accuracy == usual.validation_accuracy
    assert usual.validation_accuracy[-1] > 0.5 > validation.validation_accuracy[-1]
    assert validation.test_accuracy == usual.test_accuracy


def test_a_race_shows_one_bar_that_counts_epochs(digits: ImageData, capsys: pytest.CaptureFixture[str]) -> None:
    images.race(digits, ["fc", "set"], 0.9, TINY, seeds=[3])
    shown = capsys.readouterr()
    last = shown.out.rsplit("\r", maxsplit=1)[-1]
    assert "set seed 3: 100%" in last
    assert "6/6" in last
    assert shown.err == ""  # a notebook would paint it red


def test_accuracy_counts_the_right_answers() -> None:
    model = nn.Identity()
    split = Split(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert images.accuracy(model, split) == 0.75
    many = Split(torch.eye(4).repeat(1000, 1), torch.tensor([0, 1, 2, 0]).repeat(1000))  # in several chunks
    assert images.accuracy(model, many) == 0.75


# --- sparse networks learn ---


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("method", ["chts", "chtss"])
def test_sparse_networks_learn_and_keep_their_number_of_links(digits: ImageData, method: str, sparsity: float) -> None:
    # Chance is 0.1. Each bound is well below what any of six seeds reached.
    run = images.train(digits, method, sparsity, Recipe(hidden=256, epochs=8, learning_rate=0.05))
    assert run.validation_accuracy[-1] > (0.85 if sparsity < 0.99 else 0.5)
    assert abs(run.test_accuracy - run.validation_accuracy[-1]) < 0.15

    links = links_at(sparsity, {"0.weight": (256, 64), "2.weight": (256, 256), "4.weight": (256, 256)})
    assert {name: int(mask.sum()) for name, mask in run.last_masks.items()} == links
    rows = run.history if method == "chts" else run.history[-3:]
    assert len({row["step"] for row in run.history}) >= 4
    for row in rows:
        assert row["links"] == links[row["layer"]]
    if method == "chtss":  # the density only falls
        for layer in links:
            counts = [row["links"] for row in run.history if row["layer"] == layer]
            assert counts == sorted(counts, reverse=True)
            assert counts[0] > counts[-1]


# --- statistics ---


def test_mean_and_interval_by_hand() -> None:
    # Mean 2, standard error 1/√3, t(0.975; 2) = 4.302653.
    mean, interval = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert interval == pytest.approx(4.302652729749464 / math.sqrt(3))


def test_mean_and_interval_agree_with_scipy() -> None:
    from scipy import stats

    values = [0.91, 0.953, 0.88, 0.97, 0.934]
    mean, interval = mean_and_interval(values)
    low, high = stats.t.interval(0.95, df=4, loc=mean, scale=stats.sem(values))
    assert (mean - interval, mean + interval) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("values", "mean"), [([0.5], 0.5), ([0.25, 0.25], 0.25)])
def test_intervals_of_one_value_and_of_equal_values(values: list[float], mean: float) -> None:
    found, interval = mean_and_interval(values)
    assert found == mean
    assert math.isnan(interval) if len(values) == 1 else interval == 0


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(method: str = "chts", seed: int = 0, **given: Any) -> Run:
        settings: dict[str, Any] = {
            "sparsity": 0.9,
            "validation_accuracy": [0.123456789, 0.5],
            "test_by_epoch": [0.25, 0.987654321],
            "density": 0.0999755859375,
            "active_neurons": 0.75,
            "itop": 1 / 3,
            "train_loss": [2.3, 1.1],
            "skipped_steps": [],
            "seconds": 1.23456,
            "total_seconds": 2.0,
            "peak_memory_mb": 500,
            "history": [],
            "first_masks": {},
            "last_masks": {},
            "snapshots": [],
        }
        return Run(method=method, seed=seed, **(settings | given))

    return make


def test_a_summary_has_one_row_of_means_per_method(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run("set", 0, test_by_epoch=[0.9, 0.5], seconds=1.0, itop=0.25, active_neurons=1.0),
        make_run("chts", 0, test_by_epoch=[0.75]),
        make_run("set", 1, test_by_epoch=[0.9, 0.75], seconds=2.0, itop=0.5, active_neurons=0.5),
        make_run("chts", 1, test_by_epoch=[0.75]),
    ]
    first, second = summarise(runs)
    _, interval = mean_and_interval([0.5, 0.75])
    assert first == {
        "method": "set",
        "runs": 2,
        "accuracy": 0.625,
        "interval": interval,
        "density": 0.0999755859375,
        "active_neurons": 0.75,
        "itop": 0.375,
        "seconds": 1.5,
    }
    assert (second["method"], second["runs"], second["interval"]) == ("chts", 2, 0)


# --- checkpoints and records ---


class StopError(Exception):
    """Instead of a kill, at a chosen moment."""


def cut_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training run stop before it tests for the time after these epochs."""
    done, measure = [0], images.accuracy

    def counting(model: nn.Module, split: Split) -> float:
        done[0] += 1
        if done[0] > 2 * epochs:
            raise StopError
        return measure(model, split)

    monkeypatch.setattr(images, "accuracy", counting)


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("method", chts.METHODS)
def test_a_run_that_was_cut_ends_at_the_same_bits(
    digits: ImageData, method: str, execution: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(hidden=16, epochs=12, batch_size=128, execution=execution)
    whole = images.train(digits, method, 0.9, recipe, seed=3)
    with monkeypatch.context() as patch:
        cut_after(8, patch)  # the last checkpoint is that of epoch 5
        with pytest.raises(StopError):
            images.train(digits, method, 0.9, recipe, seed=3, save_to=tmp_path / "run.safetensors")
    progress: tqdm[Any] = tqdm(total=12, disable=True)
    measured: list[float] = []
    with monkeypatch.context() as patch:
        measure = images.accuracy
        patch.setattr(images, "accuracy", lambda *given: measured.append(measure(*given)) or measured[-1])
        resumed = images.train(
            digits, method, 0.9, recipe, seed=3, save_to=tmp_path / "run.safetensors", progress=progress
        )
    assert len(measured) == 2 * 7
    assert_equal(whole, resumed)
    assert resumed.total_seconds >= resumed.seconds > 0


def test_snapshots_survive_a_cut(digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(hidden=16, epochs=7)
    whole = images.train(digits, "set", 0.9, recipe, snapshots=True)
    with monkeypatch.context() as patch:
        cut_after(6, patch)
        with pytest.raises(StopError):
            images.train(digits, "set", 0.9, recipe, snapshots=True, save_to=tmp_path / "run.safetensors")
    resumed = images.train(digits, "set", 0.9, recipe, snapshots=True, save_to=tmp_path / "run.safetensors")
    assert len(whole.snapshots) == len(resumed.snapshots) > 3
    for ours, theirs in zip(whole.snapshots, resumed.snapshots, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in SHAPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "rigl"}, "from a run with method"),
        ({"sparsity": 0.8}, "with sparsity 0.9, and this run has 0.8"),
        ({"seed": 1}, "with seed 0, and this run has 1"),
        ({"recipe": replace(TINY, hidden=8)}, "from a run with recipe"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    digits: ImageData, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"method": "set", "sparsity": 0.9, "recipe": TINY, "seed": 0, "save_to": tmp_path / "run.safetensors"}
    images.train(digits, **given)
    before = (tmp_path / "run.safetensors").read_bytes()
    with pytest.raises(ValueError, match=message):
        images.train(digits, **(given | change))
    assert (tmp_path / "run.safetensors").read_bytes() == before


def test_other_images_are_another_run(digits: ImageData, tmp_path: Path) -> None:
    images.train(digits, "set", 0.9, TINY, save_to=tmp_path / "run.safetensors")
    other = replace(digits, test=Split(digits.test.images, digits.test.labels.flip(0)))
    assert other.digest != digits.digest
    with pytest.raises(ValueError, match="from a run with data"):
        images.train(other, "set", 0.9, TINY, save_to=tmp_path / "run.safetensors")


def test_a_race_records_its_runs_and_goes_on(digits: ImageData, tmp_path: Path) -> None:
    first = images.race(digits, ["set"], 0.9, TINY, seeds=[0], folder=tmp_path)
    rows = records.read_lines(tmp_path / "runs.jsonl")
    both = images.race(digits, ["set", "chtss"], 0.9, TINY, seeds=[0], folder=tmp_path)
    assert [run.test_by_epoch for run in both[:1]] == [first[0].test_by_epoch]
    again = records.read_lines(tmp_path / "runs.jsonl")
    assert again[:1] == rows  # not recorded twice
    assert [(row["task"], row["dataset"], row["method"]) for row in again] == [
        ("images", "digits", "set"),
        ("images", "digits", "chtss"),
    ]
    row = again[0]
    steps = len(digits.train.labels) // TINY.batch_size
    assert [look["step"] for look in row["validation"]] == [steps, 2 * steps, 3 * steps]
    assert [step for step, _ in row["train_loss"]] == [steps, 2 * steps, 3 * steps]
    assert row["train_loss"][0][1] > row["train_loss"][-1][1] > 0
    assert row["test"] == {
        "accuracy": round(first[0].test_by_epoch[-1], 5),
        "chosen": round(first[0].chosen_test_accuracy, 5),
        "best": round(max(first[0].test_by_epoch), 5),
    }
    assert row["links"] == sum(links_at(0.9, SHAPES).values())
    assert row["data"] == digits.digest
    published = chts.diagnostics.active_neurons_published([first[0].last_masks[name] for name in SHAPES])
    assert row["active_neurons_published"] == round(published, 5) != row["active_neurons"]
    assert row["best_had_more_links"] is False
    assert row["peak_memory_mb"] > 100


# --- which epoch is reported ---


def test_the_epoch_is_chosen_on_validation_alone(make_run: Callable[..., Run]) -> None:
    run = make_run(validation_accuracy=[0.5, 0.75, 0.75, 0.625], test_by_epoch=[0.875, 0.25, 0.5, 0.125])
    assert run.chosen_test_accuracy == 0.25  # of the first of the two best
    assert run.test_accuracy == 0.125
    (row,) = epoch_choices([run])
    assert row == {
        "method": "chts",
        "last epoch": 0.125,
        "chosen on validation": 0.25,
        "best test epoch": 0.875,
        "best had more links": 0,
    }


def test_best_epochs_of_denser_networks_are_counted(make_run: Callable[..., Run]) -> None:
    mask = torch.tensor([[True, False]])

    def falling(*test_by_epoch: float) -> Run:  # two links until the update at the end of the second epoch
        history = [{"step": step, "layer": "0.weight", "links": links} for step, links in ((10, 2), (20, 1), (30, 1))]
        return make_run(
            "gmp",
            validation_accuracy=[0.5] * 4,
            test_by_epoch=list(test_by_epoch),
            history=history,
            last_masks={"0.weight": mask},
        )

    runs = [falling(0.75, 0.5, 0.5, 0.5), falling(0.25, 0.75, 0.5, 0.5), falling(0.5, 0.25, 0.25, 0.75)]
    (row,) = epoch_choices(runs)
    assert row["best had more links"] == 1
    assert row["best test epoch"] == 0.75
    assert row["last epoch"] == pytest.approx(1.75 / 3)


# --- paired differences ---


def test_differences_are_paired_by_seed(make_run: Callable[..., Run]) -> None:
    accuracies = {"fc": (0.5, 0.75, 0.25), "set": (0.25, 0.5, 0.125), "chts": (0.5, 0.75, 0.25)}
    runs = [
        make_run(method, seed, test_by_epoch=[0.9, value])
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    chts_row, set_row = paired_differences([*reversed(runs)], "fc")  # the order of the runs does not matter
    mean, interval = mean_and_interval([-0.25, -0.25, -0.125])
    assert set_row == {
        "method": "set",
        "rival": "fc",
        "runs": 3,
        "difference": pytest.approx(mean),
        "interval": pytest.approx(interval),
    }
    assert (chts_row["method"], chts_row["difference"], chts_row["interval"]) == ("chts", 0, 0)


def test_a_difference_of_one_seed_has_no_interval(make_run: Callable[..., Run]) -> None:
    (row,) = paired_differences([make_run("fc"), make_run("set", test_by_epoch=[0.5])], "fc")
    assert row["interval"] is None
    assert strict_json(json.dumps(row)) == row


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], [0, 2], [0, 0, 1]])
def test_differences_of_other_seeds_are_refused(make_run: Callable[..., Run], seeds: list[int]) -> None:
    runs = [*(make_run("fc", seed) for seed in (0, 1)), *(make_run("set", seed) for seed in seeds)]
    for rival in ("fc", "set"):
        with pytest.raises(ValueError, match="run both with the same seeds"):
            paired_differences(runs, rival)


@pytest.mark.parametrize("seeds", [1, 2])
def test_summaries_and_records_are_json(make_run: Callable[..., Run], seeds: int) -> None:
    runs = [make_run(method, seed) for method in ("set", "chts") for seed in range(seeds)]
    for content in (summarise(runs), [as_row(run) for run in runs]):
        assert strict_json(json.dumps(content)) == content


def test_a_record_keeps_all_but_masks_and_history(make_run: Callable[..., Run]) -> None:
    assert as_row(make_run("chts", 3)) == {
        "method": "chts",
        "seed": 3,
        "sparsity": 0.9,
        "validation_accuracy": [0.12346, 0.5],
        "test_accuracy": 0.98765,
        "test_by_epoch": [0.25, 0.98765],
        "density": 0.0999755859375,  # exact: it tells the number of links
        "active_neurons": 0.75,
        "itop": 0.33333,
        "seconds": 1.235,
    }


def test_a_race_is_refused_before_any_method_is_trained(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("it trained")

    monkeypatch.setattr(loop.Training, "learn", unexpected)
    with pytest.raises(ValueError, match=r"would fall from 0\.5 at step 0 to 0\.3"):
        images.race(digits, ("fc", "chtss"), 0.3, Recipe(hidden=16, epochs=4), seeds=[0])
    with pytest.raises(ValueError, match="the topology would never change"):
        images.race(digits, ("fc", "set"), 0.9, Recipe(hidden=16, epochs=1), seeds=[0])


# --- shifted and mirrored images ---


def test_shifts_of_a_white_point_by_hand() -> None:
    image = torch.zeros(1, 6, 7, dtype=torch.uint8)
    image[0, 1, 5] = 255  # a shift by 2 columns or more to the right moves the point out of the image, and so on
    moved = shifted_and_mirrored(
        image.view(1, -1).repeat(4000, 1), (6, 7), generator=torch.Generator().manual_seed(0)
    ).view(-1, 6, 7)
    assert moved.dtype == torch.uint8
    left = (moved > 0).flatten(1).any(1)
    # Rows -3 to 5, of which 0 to 5 are inside; columns 1 to 9, of which 1 to 6 are inside; or their mirror images.
    assert float(left.float().mean()) == pytest.approx(6 / 9 * 6 / 9, abs=0.03)
    found = moved[left].nonzero()
    assert sorted(set(found[:, 1].tolist())) == [0, 1, 2, 3, 4, 5]
    assert sorted(set(found[:, 2].tolist())) == [0, 1, 2, 3, 4, 5, 6]
    counts = torch.bincount(found[:, 2], minlength=7).double()
    # Column 6 comes from one shift to the right, column 0 from its mirror image, and the others from both.
    expected = torch.tensor([1, 2, 2, 2, 2, 2, 1]).double() / 12 * len(found)
    assert float(((counts - expected) ** 2 / expected).sum()) < stats.chi2.ppf(0.999, 6)


def test_all_colours_of_an_image_get_the_same_shift() -> None:
    colours = torch.arange(1.0, 4.0)[:, None, None] * torch.rand(5, 5, generator=torch.Generator().manual_seed(1))
    moved = shifted_and_mirrored(
        colours.reshape(1, -1).repeat(20, 1), (3, 5, 5), generator=torch.Generator().manual_seed(2)
    ).view(20, 3, 5, 5)
    for factor in (2, 3):
        torch.testing.assert_close(moved[:, factor - 1], factor * moved[:, 0])
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 10


def test_a_run_on_shifted_images_that_was_cut_ends_at_the_same_bits(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(hidden=16, epochs=7, batch_size=128, augment=True)
    whole = images.train(digits, "set", 0.9, recipe)
    with monkeypatch.context() as patch:
        cut_after(6, patch)
        with pytest.raises(StopError):
            images.train(digits, "set", 0.9, recipe, save_to=tmp_path / "run.safetensors")
    assert_equal(whole, images.train(digits, "set", 0.9, recipe, save_to=tmp_path / "run.safetensors"))
    assert whole.train_loss != images.train(digits, "set", 0.9, replace(recipe, augment=False)).train_loss
