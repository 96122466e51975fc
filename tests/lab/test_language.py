"""Training language models: what a recipe says happens, every method runs, and a cut run ends as an uncut one."""

import functools
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import chts_core as chts
from chts_core.lab import data
from chts_core.lab.data import TextData
from chts_core.lab.models import LLAMA_SIZES, LlamaSize, initialise_llama, llama
from chts_core.lab.results import records
from chts_core.lab.train import checkpoint, language, loop, speed
from chts_core.lab.train.language import Recipe, Run, Task, _Learner
from chts_core.methods import METHODS

CORPUS = TextData(
    "some", [f"the {a} {b} sees the {b} {a}. " * 3 for a, b in itertools.permutations("abcdefgh", 2)], ["the a b"] * 80
)
MICRO = LlamaSize(16, 24, 2, 4, 2)
LLAMA_SIZES["micro"] = MICRO  # small enough to train in a moment
RECIPE = Recipe(
    size="micro",
    vocabulary=300,
    context=16,
    steps=12,
    batch=4,
    micro_batch=4,
    learning_rate=0.01,
    warmup=3,
    update_every=3,
    validate_every=6,
    validation_tokens=200,
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more."""
    threads = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads[0])
    numba.set_num_threads(threads[1])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return language.prepare(CORPUS, RECIPE, tmp_path_factory.mktemp("cache"))


def weights_of(run: Run) -> dict[str, Tensor]:
    return dict(run.model.state_dict())


def assert_same(one: Run, other: Run) -> None:
    """To the bit, but for the time it took."""
    for name, tensor in weights_of(one).items():
        assert torch.equal(tensor, weights_of(other)[name]), name
    for name, mask in one.last_masks.items():
        assert torch.equal(mask, other.last_masks[name]), name
    assert (one.train_loss, one.looks, one.tokens) == (other.train_loss, other.looks, other.tokens)
    assert one.updates == other.updates
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


# --- models ---

# As the authors of these sizes give them (Zhao et al., 2024), with T5's tokens.
PARAMETERS = {"tiny": 1.054, "small": 10.06, "60m": 58.2, "130m": 134.3, "350m": 368.2, "1b": 1339.5, "7b": 6739.2}


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_have_as_many_weights_as_their_name_says(name: str) -> None:
    vocabulary = {"tiny": 1024, "small": 4096}.get(name, 32_100)
    model = llama(vocabulary, LLAMA_SIZES[name], 256)
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], rel=1e-3)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18}, r"width is 18 and heads 4; expected a width divisible by 8\. The heads share the width"),
        ({"width": 20}, r"width is 20 and heads 4; .*each head needs an even number of neurons"),
        ({"key_heads": 3}, r"heads is 4 and key_heads 3; expected heads to be a multiple of key_heads"),
        ({"layers": 0}, r"expected every size to be at least 1\."),
    ],
)
def test_a_size_that_cannot_be_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MICRO, **changes)


def test_first_weights_keep_the_size_of_a_signal() -> None:
    model = llama(500, LlamaSize(256, 512, 2, 4, 4), 16)
    initialise_llama(model, CPU, torch.Generator().manual_seed(0))
    expected = {"embed_tokens": 1.0, "q_proj": 1 / 16, "gate_proj": 1 / 16, "o_proj": 1 / 32, "lm_head": 1 / 16}
    for name, weight in model.named_parameters():
        for part, deviation in expected.items():
            if part in name:
                assert weight.std().item() == pytest.approx(deviation, rel=0.02), name
        if "norm" in name:
            assert (weight == 1).all()
    down = model.model.layers[0].mlp.down_proj.weight
    assert down.std().item() == pytest.approx(512**-0.5 / 2, rel=0.02)


def test_first_weights_may_have_a_deviation_and_depend_on_the_generator_alone() -> None:
    models = [llama(300, MICRO, 16) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise_llama(model, CPU, torch.Generator().manual_seed(seed), 0.02)
    first, same, other = (model.model.layers[1].mlp.up_proj.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.cat([weight.flatten() for weight in models[0].parameters() if weight.dim() == 2]).std().item() == (
        pytest.approx(0.02, rel=0.05)
    )


def test_it_is_the_model_that_transformers_builds() -> None:
    from transformers import LlamaForCausalLM

    model = llama(300, MICRO, 16)
    initialise_llama(model, CPU, torch.Generator().manual_seed(0))
    theirs = LlamaForCausalLM(model.config)
    theirs.load_state_dict(model.state_dict())
    tokens = torch.randint(300, (2, 16))
    torch.testing.assert_close(model(tokens).logits, theirs(tokens).logits)


def test_projections_are_sparse_and_embedding_and_output_are_not(task: Task) -> None:
    masks = steps_of(task, "set", 0).first_masks
    roles = ("q", "k", "v", "o", "gate", "up", "down")
    assert {name.split(".")[-2] for name in masks} == {f"{role}_proj" for role in roles}
    assert len(masks) == 2 * len(roles)


def test_heads_may_have_links_of_their_own_number(task: Task) -> None:
    training = steps_of(task, "chts", 0, replace(RECIPE, per_head=True))
    query, key = (training.first_masks[f"model.layers.0.self_attn.{role}_proj.weight"] for role in "qk")
    assert [int(head.sum()) for head in query.split(4)] == [13] * 4  # of 4 × 16, a fifth
    assert [int(head.sum()) for head in key.split(4)] == [13] * 2


# --- recipes ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "size is 'huge'; expected one of 'tiny'"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"lanes": -1}, "lanes is -1; expected at least 1"),
        ({"clip": 0.0}, "clip is 0.0; expected a number above 0, the largest norm"),
        (
            {"link_warmup": -1},
            r"link_warmup is -1; expected a number of steps from 0 \(none\) to update_every, which is 3\.",
        ),
        ({"link_warmup": 4}, r"link_warmup is 4; expected a number of steps from 0 \(none\) to update_every"),
        ({"precision": "float16"}, "precision is 'float16'; expected 'float32', 'bfloat16' or 'bfloat16_weights'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


@pytest.mark.parametrize("name", language.RECIPES)
def test_every_recipe_can_be_planned_for_every_method(name: str) -> None:
    recipe = replace(language.RECIPES[name], size="micro")
    for method, sparsity in itertools.product(METHODS, (0.7, 0.95)):
        assert language.plan_run(method, sparsity, recipe).memory


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    recipe = replace(RECIPE, learning_rate=1.0, warmup=4, steps=24)
    rates = [language.learning_rate_at(step, recipe) for step in range(1, 25)]
    slow = replace(recipe, iterative_warmup=4)
    for step, share in ((11, 0.25), (12, 0.5), (14, 1.0), (20, 1.0)):  # after an update at step 10
        assert language.learning_rate_at(step, slow, 10) == pytest.approx(share * rates[step - 1])
        assert language.learning_rate_at(step, recipe, 10) == rates[step - 1]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[13] == pytest.approx(0.55)  # halfway down to a tenth
    assert rates[23] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_dense_network_has_a_learning_rate_of_its_own(task: Task) -> None:
    recipe = replace(RECIPE, dense_learning_rate=0.5)
    assert steps_of(task, "fc", 0, recipe).learner.recipe.learning_rate == 0.5
    assert steps_of(task, "set", 0, recipe).learner.recipe.learning_rate == 0.01


def test_operations_are_those_that_torch_counts() -> None:
    size = LLAMA_SIZES["micro"]
    model = llama(300, size, 16)
    initialise_llama(model, CPU, torch.Generator())
    model.config._attn_implementation = "eager"
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(3, 16, dtype=torch.int64)).logits.sum().backward()
    linear = 3 * 16 * language.operations_per_token(replace(RECIPE, context=16))
    # The first layer's queries, keys and values pass on a gradient to the embedding too: six for all weights.
    assert counter.get_total_flops() == pytest.approx(linear, rel=0.01)


def test_a_product_of_matrices_is_timed() -> None:
    assert speed.operations_per_second(CPU, torch.float32) > 1e8


# --- training ---


Training = loop.Training[_Learner]


def steps_of(task: Task, method: str, steps: int, recipe: Recipe = RECIPE, seed: int = 0) -> Training:
    training = loop.Training(_Learner(task, method, 0.8, recipe, seed, CPU))
    for _ in range(steps):
        training.learn()
    return training


def summed_loss(model: nn.Module, rows: Tensor) -> float:
    """Of every token but the first, one by one."""
    model.eval()
    with torch.no_grad():
        chances = model(rows[:, :-1].long()).logits.log_softmax(-1)
    targets = rows[:, 1:].long()
    return -sum(
        float(chances[i, j, targets[i, j]]) for i, j in itertools.product(range(len(rows)), range(targets.shape[1]))
    )


def test_the_loss_is_cross_entropy_per_token(task: Task) -> None:
    before = steps_of(task, "set", 0).learner
    rows = before.feed.next()
    assert steps_of(task, "set", 0).learn() == pytest.approx(summed_loss(before.model, rows) / (4 * 16), rel=1e-5)
    validation = task.validation
    assert validation.shape == (13, 17)  # ⌈200 / 16⌉ contexts
    found = language.validation_loss(before.model, validation, replace(RECIPE, micro_batch=3))
    assert found == pytest.approx(summed_loss(before.model, validation) / (13 * 16), rel=1e-5)


def test_a_batch_may_go_through_in_parts(task: Task) -> None:
    runs = [language.train(task, "rigl", 0.8, replace(RECIPE, micro_batch=size)) for size in (4, 1, 3)]
    for other in runs[1:]:
        assert other.looks[-1].loss == pytest.approx(runs[0].looks[-1].loss, rel=1e-4)
        for name, mask in runs[0].last_masks.items():
            assert torch.equal(other.last_masks[name], mask)


def test_gradients_are_clipped(task: Task) -> None:
    training = steps_of(task, "set", 1, replace(RECIPE, clip=1e-3))
    gradients = [weight.grad for weight in training.learner.model.parameters() if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_ends_at_its_sparsity(task: Task, method: str) -> None:
    run = language.train(task, method, 0.8, RECIPE)
    assert [look.step for look in run.looks] == [6, 12]
    assert [step for step, _ in run.train_loss] == [10]
    assert run.looks[-1].loss < math.log(300)
    assert run.perplexity == pytest.approx(math.exp(run.validation_loss))
    shares = {float(mask.float().mean()) for mask in run.last_masks.values()}
    assert shares == ({1.0} if method == "fc" else shares)
    assert run.density == pytest.approx(1 if method == "fc" else 0.2, abs=0.005)
    assert run.tokens == 12 * 4 * 16
    assert (run.ranks, run.method) == (1, method)
    assert run.mfu > 0


def test_the_same_seed_gives_every_method_the_same_weights_and_text(task: Task) -> None:
    dense, sparse = steps_of(task, "fc", 0).learner, steps_of(task, "set", 0).learner
    assert torch.equal(dense.model.lm_head.weight, sparse.model.lm_head.weight)
    assert torch.equal(dense.feed.next(), sparse.feed.next())
    other = steps_of(task, "fc", 0, seed=1).learner
    assert not torch.equal(other.model.lm_head.weight, dense.model.lm_head.weight)


def test_links_alone_give_the_same_run(task: Task) -> None:
    masked = language.train(task, "chts", 0.8, RECIPE)
    alone = language.train(task, "chts", 0.8, replace(RECIPE, execution="csr"))
    assert alone.looks[-1].loss == pytest.approx(masked.looks[-1].loss, rel=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_weights"])
def test_products_and_weights_may_be_of_16_bits(task: Task, precision: Any) -> None:
    recipe = replace(RECIPE, precision=precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = language.train(task, "rigl", 0.8, recipe)
    kinds = {tensor.dtype for tensor in weights_of(run).values()}
    assert kinds == {torch.bfloat16 if precision == "bfloat16_weights" else torch.float32}
    told = [str(warning.message) for warning in caught if "rounding loses small changes" in str(warning.message)]
    assert len(told) == (precision == "bfloat16_weights")
    usual = language.train(task, "rigl", 0.8, RECIPE)
    assert run.looks != usual.looks
    assert run.looks[-1].loss == pytest.approx(usual.looks[-1].loss, rel=0.1)


def test_it_may_be_compiled(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_(model: nn.Module) -> Any:
        compiled.append(model)
        return real(model, backend="eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    run = language.train(task, "rigl", 0.8, replace(RECIPE, compile=True))
    usual = language.train(task, "rigl", 0.8, RECIPE)
    assert len(compiled) == 1
    assert run.looks[-1].loss == pytest.approx(usual.looks[-1].loss, rel=1e-4)
    assert run.last_masks.keys() == usual.last_masks.keys()


@pytest.mark.filterwarnings("ignore:step . is skipped:RuntimeWarning")
def test_a_loss_that_is_not_finite_stops_the_run(task: Task) -> None:
    expected = (
        r"the loss or a gradient was not finite in 5 steps in a row, up to step 6; .* of model\.layers\.0\..*Lower"
    )
    with pytest.raises(RuntimeError, match=expected):
        language.train(task, "fc", 0.0, replace(RECIPE, dense_learning_rate=1e30))


def test_a_tokenizer_of_another_size_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, but the recipe's vocabulary is 258"):
        language.train(task, "fc", 0.0, replace(RECIPE, vocabulary=258))


def test_a_corpus_shorter_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the corpus has \d+ blocks of 16 tokens, and a batch has 4,000"):
        language.prepare(CORPUS, replace(RECIPE, batch=4000), tmp_path)


def test_a_stream_is_trained_on(task: Task, tmp_path: Path) -> None:
    import datasets

    def open_rows() -> datasets.IterableDataset:
        return datasets.Dataset.from_dict({"text": CORPUS.train}).to_iterable_dataset(num_shards=2)

    stream = data.TextStream("Some texts", "", open_rows)
    streamed = replace(task, train=stream)
    recipe = replace(RECIPE, lanes=2)
    run = language.train(streamed, "set", 0.8, recipe)
    assert run.looks[-1].loss < math.log(300)
    assert_same(cut_and_resumed(streamed, "set", recipe, 5, tmp_path), run)


def test_the_time_is_predicted_without_training(task: Task) -> None:
    seconds = language.predict_seconds(task, "chts", 0.8, RECIPE)
    assert 0 < seconds < 60


def test_a_log_for_tensorboard_is_written(task: Task, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = language.train(task, "set", 0.8, RECIPE, log_to=tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss/validation")]
    assert logged == [(look.step, pytest.approx(look.loss)) for look in run.looks]
    assert {"loss/train", "density", "tokens_per_second"} <= set(events.Tags()["scalars"])


def test_without_tensorboard_it_is_named(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"TensorBoard is not installed; run `pip install tensorboard`"):
        language.train(task, "set", 0.8, RECIPE, log_to=tmp_path)


# --- going on ---


def cut_and_resumed(task: Task, method: str, recipe: Recipe, step: int, folder: Path) -> Run:
    """A run that was saved after some steps and went on from there."""
    path = folder / f"{method}-{step}.safetensors"
    training = steps_of(task, method, 0, recipe)
    while training.step < step:
        training.learn()
        if training.step % recipe.validate_every == 0:
            training.learner.look()
    training.save(path)
    return language.train(task, method, 0.8, recipe, save_to=path)


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_run_ends_as_an_uncut_one(task: Task, tmp_path: Path, method: str) -> None:
    uncut = language.train(task, method, 0.8, RECIPE)
    for step in (1, 3, 5, 11):
        assert_same(cut_and_resumed(task, method, RECIPE, step, tmp_path), uncut)


@pytest.mark.parametrize(
    "changes", [{"execution": "csr"}, {"per_head": True}, {"precision": "bfloat16"}, {"micro_batch": 1}], ids=str
)
def test_so_it_does_with_other_settings(task: Task, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **changes)
    assert_same(cut_and_resumed(task, "chtss", recipe, 7, tmp_path), language.train(task, "chtss", 0.8, recipe))


class Counted:
    """Stands in for a bar: tells another process how many steps are done."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def update(self, number: int = 1) -> None:
        self.steps.value += number

    def set_postfix_str(self, *_: object, **__: object) -> None:
        pass


def train_until_killed(path: Path, cache: Path, recipe: Recipe, steps: Any) -> None:
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    task = language.prepare(CORPUS, recipe, cache)
    language.train(task, "chtss", 0.8, recipe, save_to=path, save_every=1, progress=Counted(steps))  # type: ignore[arg-type]


LONGER = replace(RECIPE, steps=80, update_every=5, validate_every=20)
LONGEST = replace(RECIPE, steps=400, update_every=5, validate_every=40)


@pytest.mark.parametrize(
    ("kills", "recipe"), [(5, LONGER), pytest.param(20, LONGEST, marks=pytest.mark.full)], ids=["5", "20"]
)
@pytest.mark.full  # cut once, and killed once as a translator, it is tested in the quick tier
def test_killed_many_times_it_ends_as_an_uncut_one(kills: int, recipe: Recipe, tmp_path: Path) -> None:
    task = language.prepare(CORPUS, recipe, tmp_path / "cache")
    uncut = language.train(task, "chtss", 0.8, recipe)
    path = tmp_path / "run.safetensors"
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chts_core.lab.train.language", "transformers.models.llama.modeling_llama"])
    steps = []
    for _ in range(kills):
        done = context.Value("i", 0)
        process = context.Process(target=train_until_killed, args=(path, tmp_path / "cache", recipe, done))
        process.start()
        target = (steps[-1] if steps else 0) + chance.randint(1, 12)
        while done.value < target:
            assert process.is_alive()
            time.sleep(0.0005)  # leaves it the core
        time.sleep(chance.uniform(0, 0.01))  # into any part of the next step
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        steps.append(checkpoint.load(path)["step"] if path.exists() else 0)
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[kills // 2] < steps[-1] < recipe.steps  # killed under way, and further each time
    assert_same(language.train(task, "chtss", 0.8, recipe, save_to=path), uncut)


def test_a_finished_run_is_not_trained_again(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    first = language.train(task, "set", 0.8, RECIPE, save_to=path)
    monkeypatch.setattr(loop.Training, "learn", None)
    assert_same(language.train(task, "set", 0.8, RECIPE, save_to=path), first)


@pytest.mark.parametrize(
    ("method", "sparsity", "changes", "seed", "message"),
    [
        ("rigl", 0.8, {}, 0, "is from a run with method "),
        ("set", 0.7, {}, 0, "is from a run with sparsity 0.8, and this run has 0.7"),
        ("set", 0.8, {"clip": 2.0}, 0, "is from a run with recipe "),
        ("set", 0.8, {}, 1, "is from a run with seed 0, and this run has 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    task: Task, tmp_path: Path, method: str, sparsity: float, changes: dict[str, Any], seed: int, message: str
) -> None:
    path = tmp_path / "run.safetensors"
    steps_of(task, "set", 1).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        language.train(task, method, sparsity, replace(RECIPE, **changes), seed=seed, save_to=path)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, {"settings": {}, "step": 1})
    with pytest.raises(ValueError, match="is not a checkpoint of a language model's training"):
        language.train(task, "set", 0.8, RECIPE, save_to=path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    save, saved = checkpoint.save, []

    def until_it_is_full(where: Path, state: Any) -> None:
        if len(saved) == 2:
            raise OSError("No space left on device.")
        saved.append(state["step"])
        save(where, state)

    monkeypatch.setattr(checkpoint, "save", until_it_is_full)
    with pytest.raises(OSError, match=r"of step 9 could not be written to .*No space left on device\). The previous"):
        language.train(task, "set", 0.8, RECIPE, save_to=path, save_every=3)
    assert (saved, checkpoint.load(path)["step"]) == ([3, 6], 6)
    monkeypatch.undo()
    assert_same(language.train(task, "set", 0.8, RECIPE, save_to=path), language.train(task, "set", 0.8, RECIPE))


# --- around updates ---

WATCHED = replace(RECIPE, watch_updates=True)


@pytest.mark.parametrize("changes", [{}, {"execution": "csr", "link_warmup": 2}], ids=str)
@pytest.mark.parametrize("method", ["chts", "rigl", "gmp"])
def test_a_run_is_the_same_if_its_updates_are_watched(task: Task, method: str, changes: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    watched = language.train(task, method, 0.8, replace(WATCHED, **changes))
    assert torch.equal(torch.get_rng_state(), state)
    usual = language.train(task, method, 0.8, replace(RECIPE, **changes))
    assert_same(replace(watched, updates=[]), usual)
    assert [update.step for update in watched.updates] == sorted({row["step"] for row in watched.history})
    assert len(watched.updates) >= 2


def test_the_loss_is_watched_before_and_after_an_update_and_one_step_later(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "_WATCHED_TOKENS", 50)
    contexts = task.validation[:3]  # of 16 tokens each
    training = steps_of(task, "chts", 0, WATCHED)
    learner = training.learner
    step, losses = learner.sparsifier.step, []

    def watched(**given: Any) -> None:
        before = summed_loss(learner.model, contexts) / 48
        step(**given)
        losses.append((before, summed_loss(learner.model, contexts) / 48))

    monkeypatch.setattr(learner.sparsifier, "step", watched)
    for _ in range(7):
        training.learn()
    assert [update.step for update in learner.updates] == [3, 6]
    for update in learner.updates:
        found = (update.before, update.after, update.next)
        assert found == pytest.approx((*losses[update.step - 1], losses[update.step][0]), rel=1e-5)
        assert update.before != update.after != update.next


def test_watching_takes_no_seconds_of_training(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> float:
        time.sleep(1)
        return 5.0

    training = steps_of(task, "set", 2, WATCHED)
    seconds = training.learner.seconds
    monkeypatch.setattr(language, "validation_loss", slow)
    training.learn()
    training.learn()
    assert training.learner.updates == [language.UpdateLoss(3, 5.0, 5.0, 5.0)]
    assert 0 < training.learner.seconds - seconds < 1


def test_a_network_that_keeps_its_links_has_no_update_to_watch(task: Task) -> None:
    assert language.train(task, "fc", 0.8, WATCHED).updates == []


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_a_run_that_is_watched_and_warms_up_goes_on_where_it_was_cut(
    task: Task, tmp_path: Path, execution: Any
) -> None:
    recipe = replace(WATCHED, link_warmup=3, execution=execution)
    uncut = language.train(task, "chts", 0.8, recipe)
    for step in (3, 4, 6, 8):
        assert_same(cut_and_resumed(task, "chts", recipe, step, tmp_path), uncut)


def test_links_may_warm_up(task: Task) -> None:
    runs = {steps: language.train(task, "set", 0.8, replace(RECIPE, link_warmup=steps)) for steps in (0, 1, 3)}
    assert_same(runs[0], runs[1])
    assert runs[3].looks != runs[0].looks


# --- races and records ---


def test_a_race_records_what_is_finished_and_goes_on(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = language.race(task, ["fc", "set"], 0.8, RECIPE, seeds=[0, 1], folder=tmp_path)
    rows = records.read_lines(tmp_path / "runs.jsonl")
    assert [(row["method"], row["seed"]) for row in rows] == [("fc", 0), ("fc", 1), ("set", 0), ("set", 1)]
    monkeypatch.setattr(loop.Training, "learn", None)
    again = language.race(task, ["fc", "set"], 0.8, RECIPE, seeds=[0, 1], folder=tmp_path)
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)
    assert records.read_lines(tmp_path / "runs.jsonl") == rows


def test_a_method_that_cannot_run_stops_a_race_before_it_begins(task: Task) -> None:
    with pytest.raises(ValueError, match="would fall"):
        language.race(task, ["set", "gmp"], 0.3, RECIPE, seeds=[0])


def test_a_record_has_all_that_tells_the_run(task: Task) -> None:
    run = language.train(task, "chts", 0.8, RECIPE, seed=3)
    row = json.loads(json.dumps(language.as_record(run, task, RECIPE, "cpu"), allow_nan=False))
    assert (row["task"], row["dataset"], row["method"], row["sparsity"], row["seed"]) == (
        "language",
        "some",
        "chts",
        0.8,
        3,
    )
    assert row["recipe"] == asdict(RECIPE)
    assert row["validation"][-1] == {
        "step": 12,
        "loss": round(run.looks[-1].loss, 4),
        "perplexity": round(run.perplexity, 2),
    }
    assert row["links"] == sum(int(mask.sum()) for mask in run.last_masks.values())
    assert row["validation_tokens"] == 13 * 16
    assert row["data"] == CORPUS.digest
    assert row["updates"] == []


def test_a_record_has_the_losses_around_updates(task: Task) -> None:
    run = language.train(task, "chts", 0.8, WATCHED)
    run = replace(run, updates=[*run.updates, language.UpdateLoss(12, 5.0, 5.1)])  # at its end
    row = json.loads(json.dumps(language.as_record(run, task, WATCHED, "cpu"), allow_nan=False))
    records.check_run({**row, "git": "none"}, "here")
    assert [list(update) for update in row["updates"]] == [["step", "before", "after", "next"]] * 3
    assert row["updates"][-1] == {"step": 12, "before": 5.0, "after": 5.1, "next": None}
    for kept, update in zip(row["updates"], run.updates, strict=True):
        assert (kept["step"], kept["after"]) == (update.step, round(update.after, 5))


def test_a_summary_has_a_row_for_each_method(task: Task) -> None:
    runs = language.race(task, ["fc", "set"], 0.8, replace(RECIPE, steps=8, validate_every=4), seeds=[0, 1])
    rows = language.summarise(runs)
    assert [row["method"] for row in rows] == ["fc", "set"]
    assert rows[0]["validation_loss"] == pytest.approx(sum(run.validation_loss for run in runs[:2]) / 2)
    assert rows[1]["perplexity"] == pytest.approx(sum(run.perplexity for run in runs[2:]) / 2)


# --- text that goes on ---


@functools.cache
def untrained() -> Any:
    model = llama(300, MICRO, 16)
    initialise_llama(model, CPU, torch.Generator().manual_seed(0))
    return model


def test_the_likeliest_token_follows(task: Task) -> None:
    model, tokenizer = untrained(), task.tokenizer
    found = language.generate(model, tokenizer, "the a", 20, temperature=0, generator=torch.Generator())
    tokens = [tokenizer.end, *tokenizer.encode(["the a"])[0]]
    for _ in range(20):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[-16:]])).logits[0, -1, : tokenizer.size]
        if int(logits.argmax()) == tokenizer.end:
            break
        tokens.append(int(logits.argmax()))
    assert found == tokenizer.decode(tokens)
    assert found.startswith("the a")


def test_tokens_are_drawn_by_their_chances(task: Task) -> None:
    model, tokenizer = untrained(), task.tokenizer
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.end, *tokenizer.encode(["the"])[0]]])).logits[0, -1, : tokenizer.size]
    chances = (logits / 0.5).softmax(0)
    generator = torch.Generator().manual_seed(0)
    counts: dict[str, int] = {}
    for _ in range(400):
        text = language.generate(model, tokenizer, "the", 1, temperature=0.5, generator=generator)
        counts[text] = counts.get(text, 0) + 1
    expected: dict[str, float] = {}
    for token, chance in enumerate(chances.tolist()):
        text = "the" if token == tokenizer.end else tokenizer.decode([*tokenizer.encode(["the"])[0], token])
        expected[text] = expected.get(text, 0) + 400 * chance
    common = [text for text, number in expected.items() if number >= 8]
    assert len(common) >= 5
    squared = sum((counts.get(text, 0) - expected[text]) ** 2 / expected[text] for text in common)
    assert squared < 3 * len(common)


def test_a_document_ends_at_its_end(task: Task) -> None:
    class Ending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.config = untrained().config

        def forward(self, tokens: Tensor, use_cache: bool) -> Any:  # noqa: ARG002 - as LLaMA's
            class Output:
                logits = torch.zeros(1, tokens.shape[1], 300)

            Output.logits[..., task.tokenizer.end if tokens.shape[1] > 3 else 40] = 9.0
            return Output

    text = language.generate(Ending(), task.tokenizer, "", 20, temperature=0, generator=torch.Generator())  # type: ignore[arg-type]
    assert text == task.tokenizer.decode([40, 40, 40])


def test_a_temperature_below_zero_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match=r"temperature is -1; expected 0 \(the likeliest token\) or more"):
        language.generate(untrained(), task.tokenizer, "", 1, temperature=-1, generator=torch.Generator())


def test_plans_know_what_a_method_needs() -> None:
    plan = language.plan_run("chtss", 0.95, language.RECIPES["60m"])
    assert plan.budget.links(0) != plan.budget.links(10_000)
    assert chts.METHODS["chtss"] == plan.budget.method
