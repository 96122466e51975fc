"""Schedules whose sparsity falls: layers gain links. And updates at given steps."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import chts_core as chts
from chts_core.engine.linear import Execution
from chts_core.methods import METHODS, Cycling, DenseEnd, Exponential, Method, Sigmoid, Turnover, get_method
from chts_core.schedules import Timeline
from chts_core.tools.audit import Auditor

CYCLE = Cycling((0.8, 0.5, 0.9))
RUNS: dict[str, Method] = {
    "SET": replace(METHODS["set"], sparsity=CYCLE),
    "RigL": replace(METHODS["rigl"], sparsity=CYCLE),
    "CHTs": replace(METHODS["chts"], sparsity=CYCLE),
    "GMP": replace(METHODS["gmp"], sparsity=CYCLE),
    "MEST": replace(METHODS["mest"], sparsity=CYCLE),
    "half is exchanged": replace(METHODS["set"], sparsity=Cycling((0.9, 0.1)), turnover=Turnover(0.5)),
    "dense at the end": replace(METHODS["rigl"], sparsity=DenseEnd()),
    "CHTss, dense at the end": replace(METHODS["chtss"], sparsity=DenseEnd(Sigmoid())),
}
# The updates at which they gain links.
RISES = {
    "half is exchanged": [2, 6, 10, 14, 18],
    "dense at the end": [18],
    "CHTss, dense at the end": [18],
}


class Run:
    def __init__(self, method: Method, execution: Execution = "masked", **settings: Any) -> None:
        self.model = tiny.mlp((16, 20, 16, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        settings = {"total_steps": 24, "update_every": 2} | settings
        self.plan = chts.plan(tiny.mlp((16, 20, 16, 3)), method, 0.85, **settings)
        self.sparsifier = chts.Sparsifier(self.model, self.optimizer, method, 0.85, execution=execution, **settings)
        self.auditor = Auditor(self.sparsifier)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            tiny.loss_of_mlp(self.model, self.sparsifier.steps).backward()
            self.optimizer.step()
            self.sparsifier.step()
            assert [finding for finding in self.auditor.check() if finding.check != "collapse"] == []


def links_of(run: Run) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("name", RUNS)
def test_layers_gain_and_lose_exactly_the_links_of_the_schedule(name: str, execution: Execution) -> None:
    method = RUNS[name]
    run = Run(method, execution)
    sizes = {name: mask.numel() for name, mask in run.sparsifier.masks.items()}
    rises = []
    for step in range(25):
        if step:
            before = links_of(run)
            run.train(1)
            rises += [step] * (links_of(run)["2.weight"] > before["2.weight"])
        at = min(step // 2 * 2, 18)
        sparsity = method.sparsity.at(at, run.sparsifier.timeline, 0.85)
        assert links_of(run) == {name: round((1 - sparsity) * size) for name, size in sizes.items()}
        assert links_of(run) == run.plan.budget.links(step if step % 2 == 0 else step - 1)
    assert rises == RISES.get(name, [2, 6, 8, 12, 14, 18])
    assert run.sparsifier.sparsity == (0.0 if "dense" in name else 0.85)


def test_a_plan_counts_the_exchanged_links() -> None:
    run = Run(RUNS["SET"])
    run.train(24)
    gained = sum(max(row["regrown"] - row["removed"], 0) for row in run.sparsifier.history)
    exchanged = sum(row["regrown"] for row in run.sparsifier.history) - gained
    assert exchanged == sum(run.plan.exchanged.values()) > 0


def test_an_update_exchanges_a_share_of_the_links_before_a_gain() -> None:
    # Of 32 links (sparsity 0.9), half go. After the update, 288 of 320 places are links (sparsity 0.1).
    run = Run(RUNS["half is exchanged"])
    run.train(2)
    (row,) = (row for row in run.sparsifier.history if row["layer"] == "0.weight")
    assert (row["removed"], row["regrown"], row["links"]) == (16, 272, 288)


def test_cycling_takes_the_next_value_after_each_update() -> None:
    timeline = Timeline(20, 2, 0.75)
    found = [CYCLE.at(step, timeline, 0.85) for step in range(16)]
    assert found == [0.8, 0.8, 0.5, 0.5, 0.9, 0.9, 0.8, 0.8, 0.5, 0.5, 0.9, 0.9, 0.8, 0.8, 0.85, 0.85]
    with pytest.raises(ValueError, match="values is empty"):
        Cycling(())


def test_dense_end_has_all_links_from_the_last_update_on() -> None:
    timeline = Timeline(20, 4, 0.75)
    assert [DenseEnd().at(step, timeline, 0.9) for step in (0, 11, 12, 13, 20)] == [0.9, 0.9, 0.0, 0.0, 0.0]


@dataclass(frozen=True)
class Falling:
    def at(self, step: int, _: Timeline, final: float) -> float:
        return 0.9 if step < 4 else final


def test_a_schedule_that_does_not_say_that_it_falls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fall from 0\.9 at step 0 to 0\.85 at step 24.* attribute gains = True"):
        Run(replace(METHODS["set"], sparsity=Falling()))


def test_a_layer_that_would_be_empty_once_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer '0.weight' .* would have no link at sparsity 0\.999;"):
        Run(replace(METHODS["set"], sparsity=Cycling((0.8, 0.999))))


def test_layers_stop_early_only_when_their_number_of_links_stays() -> None:
    eager = replace(METHODS["set"], sparsity=Cycling((0.85, 0.5)), turnover=Turnover(0.3, early_stop=0.0))
    run = Run(eager)
    run.train(15)
    assert not run.sparsifier.progress.stopped
    run.train(1)  # the last two updates leave the sparsity at 0.85
    assert run.sparsifier.progress.stopped == {"0.weight", "2.weight"}
    run.train(8)
    assert links_of(run) == run.plan.budget.links(24)


def test_the_memory_of_a_plan_is_that_of_the_most_links() -> None:
    models = [Run(replace(METHODS["set"], sparsity=sparsity)).plan for sparsity in (Cycling((0.5, 0.8)), CYCLE)]
    assert models[0].memory["one update"] == models[1].memory["one update"]


def test_a_run_that_gains_links_keeps_its_length() -> None:
    run = Run(RUNS["SET"])
    run.train(5)
    longer = Run(RUNS["SET"], total_steps=40)
    with pytest.raises(ValueError, match=r"a run of 24 steps but this run has 40\. .* sparsity that never falls"):
        longer.sparsifier.load_state_dict(run.sparsifier.state_dict(), reschedule=True)
    again = Run(RUNS["SET"])
    again.model.load_state_dict(run.model.state_dict())
    again.sparsifier.load_state_dict(run.sparsifier.state_dict(), reschedule=True)  # of the same length
    again.auditor = Auditor(again.sparsifier)
    again.train(19)
    assert links_of(again) == again.plan.budget.links(24)


def test_an_exponential_decay_prunes_the_same_share_at_each_update() -> None:
    # The density falls from 0.8 to 0.1 in three updates: by half each time.
    timeline = Timeline(40, 10, 0.75)
    densities = [1 - Exponential(initial=0.2).at(step, timeline, 0.9) for step in (0, 10, 20, 30, 40)]
    assert densities == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.1], rel=1e-12)


def test_an_exponential_decay_ends_exactly() -> None:
    for initial, final in ((0.3, 0.97), (0.5, 0.5), (0.0, 0.9)):
        values = [chts.schedules.exponential_sparsity(step, 3, 7, initial, final) for step in (0, 3, 7, 9)]
        assert values == [initial, initial, final, final]
    with pytest.raises(ValueError, match=r"final sparsity is 1\.0; expected"):
        chts.schedules.exponential_sparsity(1, 0, 2, 0.5, 1.0)


@pytest.mark.parametrize("words", ["Cycling((0.8, 0.5))", "DenseEnd(Sigmoid())", "Exponential(initial=0.2)"])
def test_words_give_these_schedules(words: str) -> None:
    assert get_method(f"set with sparsity={words}").sparsity == eval(words)


# --- updates at given steps ---


def test_updates_come_at_the_given_steps() -> None:
    run = Run(replace(METHODS["chtss"], turnover=Turnover(0.3)), update_every=[1, 2, 4, 8, 16])
    run.train(24)
    assert sorted({row["step"] for row in run.sparsifier.history}) == [1, 2, 4, 8, 16]
    assert links_of(run) == run.plan.budget.links(24) == {"0.weight": 48, "2.weight": 48}
    assert "5, the last at step 16 of 24" in str(run.plan)


def test_a_timeline_of_given_steps() -> None:
    timeline = Timeline(20, range(3, 15, 5), 0.75)
    assert timeline == Timeline(20, (3, 8, 13), 0.75)
    assert [step for step in range(30) if timeline.is_update(step)] == [3, 8, 13]
    assert [timeline.update_before(step) for step in (0, 2, 3, 12, 13, 99)] == [0, 0, 3, 8, 13, 13]
    assert (timeline.last_update, timeline.shortest_gap) == (13, 5)
    assert Timeline(20, (3,), 0.75).shortest_gap == 17
    assert timeline.window(0.2, 0.7) == (3, 13)
    with pytest.raises(
        ValueError, match=r"contains no update, because updates come at \(3, 8, 13\); update more often"
    ):
        timeline.window(0.2, 0.3)


def test_a_timeline_takes_the_whole_numbers_of_numpy() -> None:
    given, every = Timeline(20, np.array([3, 8]), 0.75), Timeline(np.int64(20), np.int32(5), 0.75)  # type: ignore[arg-type]
    assert (given, every) == (Timeline(20, (3, 8), 0.75), Timeline(20, 5, 0.75))
    numbers = [*given.updates, every.total_steps, every.update_every]
    assert {type(number) for number in numbers} == {int}  # torch.load refuses other types in a saved state


@pytest.mark.parametrize("steps", [(), (0, 3), (3, 3), (5, 3), (2.5,)])
def test_steps_that_are_not_in_order_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected the steps of the updates, whole numbers above 0 in ascending order"):
        Timeline(20, steps, 0.75)


def test_an_update_after_the_stop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an update at step 16, but updates stop at step 15 of 20; leave out"):
        Timeline(20, (3, 16), 0.75)
