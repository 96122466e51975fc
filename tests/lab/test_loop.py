"""The training loop with a learner of a few weights: when it looks and saves, what a bar counts, and going on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from chts_core.engine.distributed import Ranks
from chts_core.lab.train import checkpoint, loop
from chts_core.sparsifier import Sparsifier

CPU = torch.device("cpu")
STEPS = 12


class Toy(loop.Learner):
    """Two layers that learn to return their input; a batch has four rows."""

    kind = "a toy's training"

    def __init__(self, parts: int = 1, look_every: int = 5, bar_every: int = 1, clip: float | None = None) -> None:
        self.model = self.replica = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.device, self.ranks, self.parts, self.clip = CPU, Ranks(None, CPU), parts, clip
        self.look_every, self.bar_every = look_every, bar_every
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.sparsifier = Sparsifier(self.model, self.optimizer, "set", 0.5, total_steps=STEPS, update_every=3, seed=0)
        self.settings = {"parts": parts}
        self.train_loss: list[tuple[int, float]] = []
        self.looks: list[int] = []

    def rate(self) -> float:
        return 0.1 / (self.step + 1)

    def next_batch(self) -> tuple[Sequence[Tensor], int]:
        return torch.eye(4).roll(self.step, 0).chunk(self.parts), 4

    def loss(self, model: nn.Module, part: Tensor) -> Tensor:
        return (model(part) - part).square().sum()

    def look(self) -> None:
        self.looks.append(self.step)

    def state(self) -> dict[str, Any]:
        return {"looks": self.looks}

    def load(self, state: Mapping[str, Any]) -> None:
        self.looks = state["looks"]


def train(learner: Toy, **given: Any) -> loop.Training[Toy]:
    usual = {"seed": 0, "device": CPU, "save_to": None, "save_every": 100, "progress": None}
    return loop.train(lambda: learner, **(usual | given))


@pytest.fixture(autouse=True)
def _same_first_weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("look_every", "looks"), [(5, [5, 10, 12]), (6, [6, 12]), (12, [12]), (100, [12])])
def test_it_looks_every_few_steps_and_once_at_the_end(look_every: int, looks: list[int]) -> None:
    assert train(Toy(look_every=look_every)).learner.looks == looks


@pytest.mark.parametrize(("save_every", "saved"), [(5, [5, 10, 12]), (4, [4, 8, 12]), (100, [12])])
def test_it_saves_every_few_steps_and_once_at_the_end(
    save_every: int, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda _, state: steps.append(state["sparsifier"]["steps"]))
    train(Toy(), save_to=tmp_path / "run.safetensors", save_every=save_every)
    assert steps == saved


@pytest.mark.parametrize(("bar_every", "counted"), [(1, 12), (4, 3), (6, 2)])
def test_a_bar_counts_also_what_was_done_before(bar_every: int, counted: int, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for _ in range(2):
        with tqdm(total=counted, disable=True) as bar:
            counts: list[int] = []
            bar.update = lambda number=1, counts=counts: counts.append(number)  # type: ignore[method-assign]
            train(Toy(bar_every=bar_every), save_to=path, progress=bar)
        assert sum(counts) == counted


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_give_the_weights_of_a_whole_batch(parts: int) -> None:
    weights = []
    for number in (1, parts):
        torch.manual_seed(0)
        weights.append(train(Toy(parts=number)).learner.model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight)


def test_the_rate_and_the_loss_of_the_tenth_step_are_kept() -> None:
    training = loop.Training(Toy())
    losses = [training.learn() for _ in range(STEPS)]
    assert training.learner.train_loss == [(10, losses[9])]
    assert training.learner.optimizer.param_groups[0]["lr"] == 0.1 / STEPS


@pytest.mark.parametrize("clip", [1e-3, 1e-2, 0.1])
def test_a_gradient_is_clipped_to_the_learner_s_norm(clip: float) -> None:
    training = loop.Training(Toy(clip=clip))
    training.learn()
    assert loop.gradient_norm(training.learner.model) == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_run_goes_on_to_the_same_bits(steps: int, tmp_path: Path) -> None:
    whole = train(Toy()).learner
    torch.manual_seed(0)
    cut = loop.Training(Toy())
    for _ in range(steps):
        cut.learn()
        if cut.step % 5 == 0:
            cut.learner.look()
    cut.save(tmp_path / "run.safetensors")
    resumed = train(Toy(), save_to=tmp_path / "run.safetensors").learner
    assert (resumed.looks, resumed.train_loss) == (whole.looks, whole.train_loss)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight)


def test_another_learner_s_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(Toy(), save_to=path)
    with pytest.raises(ValueError, match="is from a run with parts 1, and this run has 2"):
        train(Toy(parts=2), save_to=path)
    checkpoint.save(path, {"settings": {"parts": 1}})
    with pytest.raises(ValueError, match="is not a checkpoint of a toy's training"):
        train(Toy(), save_to=path)


def test_torch_s_generator_is_as_before() -> None:
    before = torch.get_rng_state()
    learner = Toy()
    torch.set_rng_state(before)
    train(learner, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
