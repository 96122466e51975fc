"""Language models in several processes: as one process would train them, and what is said when a process is lost."""

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
import torch.distributed as dist

from chts_core.lab.data import TextData, TextStream
from chts_core.lab.models import LLAMA_SIZES, LlamaSize
from chts_core.lab.train import checkpoint, language, loop
from chts_core.lab.train.language import Recipe, Run, Task, _Learner

LLAMA_SIZES["micro"] = LlamaSize(16, 24, 2, 4, 2)
# Processes take long to start; what ranks agree on is checked in test_distributed.py as well.
pytestmark = [pytest.mark.slow, pytest.mark.full]

CORPUS = TextData("some", [f"the {a} sees the {b}. " * 5 for a in "abcdefgh" for b in "abcdefgh"], ["the a sees"] * 60)
RECIPE = Recipe(
    size="micro",
    vocabulary=300,
    context=16,
    steps=12,
    batch=8,
    micro_batch=2,
    learning_rate=0.01,
    warmup=3,
    update_every=3,
    validate_every=6,
    validation_tokens=400,
)
WATCHED = replace(RECIPE, watch_updates=True)
CPU = torch.device("cpu")
METHODS = ["rigl", "chtss", "mest"]
# Ranks are copies of one process that has imported this.
multiprocessing.set_forkserver_preload(
    [
        "pytest",
        "chts_core.compiled.products",
        "chts_core.lab.train.language",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "transformers.models.llama.modeling_llama",
    ]
)


def prepare(folder: Path) -> Task:
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    return language.prepare(CORPUS, RECIPE, folder / "cache")


def begun(*given: Any) -> loop.Training[_Learner]:
    """A run before its first step."""
    return loop.Training(_Learner(*given))


def meet(rank: int, ranks: int, folder: Path, scene: Callable[[int, int, Path, Any], None], given: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    scene(rank, ranks, folder, given)
    dist.destroy_process_group()


def together(ranks: int, folder: Path, scene: Callable[[int, int, Path, Any], None], given: Any = None) -> None:
    torch.multiprocessing.start_processes(meet, (ranks, folder, scene, given), nprocs=ranks, start_method="forkserver")


WARM = replace(RECIPE, link_warmup=3)
STREAMED = replace(RECIPE, lanes=4)


def streamed(task: Task) -> Task:
    """The same corpus, read in lanes."""
    import datasets

    def open_rows() -> datasets.IterableDataset:
        return datasets.Dataset.from_dict({"text": CORPUS.train}).to_iterable_dataset(num_shards=4)

    return replace(task, train=TextStream("Some texts", "", open_rows))


def losses(run: Run) -> list[float | None]:
    """Around the updates."""
    return [loss for update in run.updates for loss in (update.before, update.after, update.next)]


def whole_runs(rank: int, _: int, folder: Path, __: Any) -> None:
    """Trained to the end by both ways of sharing a model, and halfway, to be gone on with by others."""
    task = prepare(folder)
    for method in METHODS:
        for parallel in ("ddp", "fsdp"):
            run = language.train(task, method, 0.8, WATCHED, parallel=parallel)  # type: ignore[arg-type]
            if rank == 0:
                found = {"looks": [look.loss for look in run.looks], "train": run.train_loss, "ranks": run.ranks}
                found["updates"] = losses(run)
                torch.save({**found, "masks": run.last_masks, "tokens": run.tokens}, folder / f"{method}-{parallel}.pt")
            training = begun(task, method, 0.8, RECIPE, 0, CPU, parallel)
            for _step in range(6):
                training.learn()
            training.learner.look()
            training.save(folder / f"{method}-{parallel}.safetensors")
    training = begun(streamed(task), "set", 0.8, STREAMED, 0, CPU)
    for _step in range(5):
        training.learn()
    training.save(folder / "stream.safetensors")
    new_links(rank, folder, task)
    one_is_strange(rank, folder, task)
    a_full_disk(rank, folder, task)
    one_is_lost(rank, folder, task)


def new_links(rank: int, folder: Path, task: Task) -> None:
    """That warm up: as in one process, but refused where weights are shared out."""
    run = language.train(task, "chtss", 0.8, WARM)
    torch.save([look.loss for look in run.looks], folder / f"warm-{rank}.pt")
    with pytest.raises(ValueError, match="link_warmup is 3 steps, but fully_shard has sharded the weights"):
        begun(task, "chtss", 0.8, WARM, 0, CPU, "fsdp")


def a_full_disk(rank: int, folder: Path, task: Task) -> None:
    training = begun(task, "set", 0.8, RECIPE, 0, CPU)
    training.save(folder / "before.safetensors")
    training.learn()

    def full(*_: object) -> None:
        raise OSError("No space left on device.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - looked at below
            training.save(folder / "before.safetensors")
    (folder / f"full-{rank}").write_text(str(caught.value))


def one_is_lost(rank: int, folder: Path, task: Task) -> None:
    if rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError) as caught:
        language.train(task, "set", 0.8, RECIPE)
    (folder / "lost").write_text(str(caught.value))
    os._exit(0)  # without a farewell to the others


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two ranks did."""
    folder = tmp_path_factory.mktemp("two")
    together(2, folder, whole_runs)
    return folder


@pytest.fixture(scope="module")
def task(two: Path) -> Task:
    return prepare(two)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_as_one_process_does(two: Path, task: Task, method: str, parallel: str) -> None:
    found = torch.load(two / f"{method}-{parallel}.pt")
    alone = language.train(task, method, 0.8, WATCHED)
    assert found["looks"] == pytest.approx([look.loss for look in alone.looks], rel=1e-4)
    assert [loss for _, loss in found["train"]] == pytest.approx([loss for _, loss in alone.train_loss], rel=1e-4)
    assert (found["ranks"], found["tokens"]) == (2, alone.tokens)
    assert len(found["updates"]) >= 6
    assert found["updates"] == pytest.approx(losses(alone), rel=1e-4)
    for name, mask in alone.last_masks.items():
        assert torch.equal(found["masks"][name], mask), name


def test_new_links_warm_up_on_two_ranks_as_on_one(two: Path, task: Task) -> None:
    alone = [look.loss for look in language.train(task, "chtss", 0.8, WARM).looks]
    for rank in range(2):
        assert torch.load(two / f"warm-{rank}.pt") == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_one_process_goes_on_where_two_stopped(two: Path, task: Task, method: str, parallel: str) -> None:
    alone = language.train(task, method, 0.8, RECIPE)
    resumed = language.train(task, method, 0.8, RECIPE, save_to=two / f"{method}-{parallel}.safetensors")
    assert resumed.looks[-1].loss == pytest.approx(alone.looks[-1].loss, rel=1e-4)
    for name, mask in alone.last_masks.items():
        assert torch.equal(resumed.last_masks[name], mask), name


def test_a_stream_goes_on_where_two_ranks_stopped(two: Path, task: Task) -> None:
    alone = begun(streamed(task), "set", 0.8, STREAMED, 0, CPU)
    for _ in range(5):
        alone.learn()
    resumed = begun(streamed(task), "set", 0.8, STREAMED, 0, CPU)
    resumed.resume(two / "stream.safetensors")
    feeds = resumed.learner.feed, alone.learner.feed
    assert feeds[0].state_dict() == feeds[1].state_dict()
    for _ in range(5):
        assert torch.equal(feeds[0].next(), feeds[1].next())


def one_is_strange(rank: int, folder: Path, task: Task) -> None:
    """The loss of one rank's share of a batch is NaN, at a step with an update and at one without."""
    usual = language._loss
    for parallel, at, who in (("ddp", 6, 1), ("ddp", 7, 0), ("fsdp", 6, 1), ("fsdp", 7, 0)):
        training = begun(task, "chtss", 0.8, RECIPE, 0, CPU, parallel)
        with pytest.MonkeyPatch.context() as patch:
            for step in range(1, RECIPE.steps + 1):
                factor = float("nan") if (step, rank) == (at, who) else 1.0
                patch.setattr(language, "_loss", lambda *given, factor=factor: usual(*given) * factor)
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    training.learn()
                said = [str(warning.message).split(":")[0] for warning in warned]
                assert [line for line in said if "is skipped" in line] == ([f"step {at} is skipped"] * (step == at))
        assert training.skips.steps == [at]
        assert training.learner.sparsifier.postponed == ([6] if at == 6 else [])
        state = training.state()  # of all ranks together
        assert all(tensor.isfinite().all() for tensor in state["model"].values())
        training.learner.ranks.check_same(training.learner.sparsifier.masks)
        (folder / f"strange-{parallel}-{at}-{rank}").touch()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_step_that_is_strange_to_one_rank_is_left_out_by_all(two: Path, parallel: str) -> None:
    assert len(list(two.glob(f"strange-{parallel}-*"))) == 4


def going_on(_: int, __: int, folder: Path, path: Path) -> None:
    task = prepare(folder)
    for parallel in ("ddp", "fsdp"):
        training = begun(task, "rigl", 0.8, RECIPE, 0, CPU, parallel)
        training.resume(path)
        while training.step < RECIPE.steps:
            training.learn()
        training.save(folder / f"{parallel}.safetensors")


def test_four_go_on_where_one_process_stopped(tmp_path: Path) -> None:
    task = prepare(tmp_path)
    training = begun(task, "rigl", 0.8, RECIPE, 0, CPU)
    for _ in range(6):
        training.learn()
    training.save(tmp_path / "halfway.safetensors")
    together(4, tmp_path, going_on, tmp_path / "halfway.safetensors")
    while training.step < RECIPE.steps:
        training.learn()
    ours = training.state()
    for parallel in ("ddp", "fsdp"):
        theirs = checkpoint.load(tmp_path / f"{parallel}.safetensors")
        assert theirs["tokens"] == ours["tokens"]
        for name, mask in ours["sparsifier"]["masks"].items():
            assert torch.equal(theirs["sparsifier"]["masks"][name], mask), name
        for name, weight in ours["model"].items():
            torch.testing.assert_close(theirs["model"][name], weight, rtol=1e-3, atol=1e-5)
        moments = zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True)
        for mine, other in moments:
            torch.testing.assert_close(other["exp_avg"], mine["exp_avg"], rtol=1e-3, atol=1e-6)


def test_a_lost_rank_is_told_with_what_to_do(two: Path) -> None:
    message = (two / "lost").read_text()
    assert "another rank does not answer: its process has ended or hangs" in message
    assert "a run with a checkpoint continues from it" in message


def test_a_full_disk_stops_all_ranks_and_leaves_the_last_checkpoint_whole(two: Path) -> None:
    for rank in range(2):
        assert (
            "No space left on device). The previous checkpoint, if there is one, is"
            in (two / f"full-{rank}").read_text()
        )
    assert checkpoint.load(two / "before.safetensors")["step"] == 0


# --- the command ---

COMMAND = ["train", "tiny_ci", "--method", "chts", "-s", "steps", "20", "-s", "batch", "4", "-s", "context", "32"]


def test_torchrun_trains_as_one_process_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chts_core.cli import main  # which the ranks above can do without

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", "chts_core.cli", *COMMAND, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*COMMAND, "--out", str(tmp_path / "one")]) == 0
    torch.set_num_threads(threads)
    two, one = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("two", "one"))
    assert (two["ranks"], one["ranks"]) == (2, 1)
    assert two["validation"][-1]["loss"] == pytest.approx(one["validation"][-1]["loss"], abs=2e-3)
    assert two["links"] == one["links"]
    states = [checkpoint.load(tmp_path / name / "checkpoint.safetensors") for name in ("two", "one")]
    for name, mask in states[1]["sparsifier"]["masks"].items():
        assert torch.equal(states[0]["sparsifier"]["masks"][name], mask), name
    assert f"record: {tmp_path / 'one' / 'run.json'}" in capsys.readouterr().out
    assert f"perplexity {two['validation'][-1]['perplexity']} after 2,560 tokens" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "recipe is 'huge'; expected one of mlp, mlp_paper, mlp_paper_cifar10, number_words_ci"),
        (["tiny", "-s", "step", "1"], "the recipe has no setting 'step'"),
        (["tiny", "--dataset", "wikipedia"], "dataset is 'wikipedia'"),
        (["tiny", "--method", "best"], "method is 'best'"),
        (["tiny", "--sparsity", "1"], "sparsity is 1.0"),
        (["tiny", "--device", "tpu"], "device is 'tpu'; expected auto, cpu or cuda"),
        (["tiny", "-s", "batch", "100000"], "a batch has 100,000; take a smaller batch"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    from chts_core.cli import main

    assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_more_ranks_than_a_batch_has_contexts_is_refused(task: Task) -> None:
    from chts_core.engine.distributed import Ranks

    ranks = Ranks(None, CPU)
    ranks.size = 3
    with pytest.raises(ValueError, match="batch is 8, for 3 ranks; expected a positive multiple"):
        language._feed(task, replace(RECIPE), 0, ranks)
