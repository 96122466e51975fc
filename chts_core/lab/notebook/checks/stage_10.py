"""Checks of stage 10, scaling out."""

import copy
import random
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chts_core.lab.notebook.checks import toys
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.train import sweeps


def whole_gradient(whole_gradient: Callable[[list[Tensor], list[int]], Tensor]) -> None:
    """Unequal halves: the gradient of the whole batch, computed from the mean gradient of each part.

    Three examples have the mean gradient (2, 0), and one example has the gradient (6, 4).
    """
    parts, sizes = [torch.tensor([2.0, 0.0]), torch.tensor([6.0, 4.0])], [3, 1]
    copies = [part.clone() for part in parts]
    mine = whole_gradient(copies, sizes)
    assert mine is not None, "whole_gradient() returns None; return a tensor with the shape of one gradient."
    assert all(map(torch.equal, copies, parts)), "your function changed the gradients that it was given; avoid +=."
    assert mine.shape == (2,), f"the gradient of two links has the shape (2,), not {tuple(mine.shape)}."
    slips = {
        "the plain mean, which counts the single example as much as the other three together": [4.0, 2.0],
        "the sum of both gradients; the loss is a mean over examples": [8.0, 4.0],
        "the sum over all four examples; divide it by the number of examples": [12.0, 4.0],
        "the sum over all four examples, divided by the number of parts; divide by the number of examples": [6.0, 2.0],
        "the mean with the sizes exchanged; the larger part counts more": [5.0, 3.0],
    }
    for slip, wrong in slips.items():
        assert not torch.allclose(mine, torch.tensor(wrong)), f"{mine.tolist()} is {slip}."
    assert torch.allclose(mine, torch.tensor([3.0, 1.0])), (
        f"{mine.tolist()} is not right; write down the sum of the gradients of all four examples first."
    )
    _compare_with_one_batch(whole_gradient)


def _compare_with_one_batch(whole_gradient: Callable[[list[Tensor], list[int]], Tensor]) -> None:
    generator = torch.Generator().manual_seed(10)
    weight = torch.randn(4, generator=generator, requires_grad=True)
    x = torch.randn(9, 4, generator=generator)
    (right,) = torch.autograd.grad((x @ weight).square().mean(), weight)
    for sizes in ([4, 5], [2, 3, 4], [9]):
        parts = [torch.autograd.grad((part @ weight).square().mean(), weight)[0] for part in x.split(sizes)]
        assert torch.allclose(whole_gradient(parts, sizes), right, atol=1e-5), (
            f"for parts of {sizes} examples, your gradient differs from the gradient of the whole batch of 9 examples."
        )


def regrow(regrow: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Regrow the same links: the mask that every rank makes from the gradients of all ranks.

    The layer has 8 places. Three places have links, each with a gradient of 9, so the check notices if the
    function chooses one of them.
    """
    mask = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
    gradients = torch.tensor([[[9.0, 5, 1, -4], [0.5, 9, 3.5, 9]], [[9.0, -5, 4, -2], [1.5, 9, -3.5, 9]]])
    given = mask.clone()
    mine = regrow(gradients, given, 2)
    assert mine is not None, "regrow() returns None; return a Boolean mask."
    assert torch.equal(given, mask), "your function changed the mask that it was given; work on a copy."
    assert mine.shape == mask.shape, f"the mask must have the shape (2, 4), not {tuple(mine.shape)}."
    assert (mine.bool() & mask).sum() == 3, "your mask lost an existing link; regrowth only adds links."
    grown = {"abcde"[place] for place, new in enumerate((mine.bool() & ~mask)[~mask].tolist()) if new}
    assert len(grown) == 2, f"your mask has {len(grown)} new links; expected 2. Choose among the places without a link."
    slips = {
        "the gradient of only one rank, rank 0; use the mean over the ranks": "ac",
        "the gradient of only one rank, rank 1; use the mean over the ranks": "ab",
        "the mean of the absolute values; take the mean over the ranks first": "ae",
        "the mean itself; take its absolute value": "bd",
    }
    chosen = "".join(sorted(grown))
    begins = (
        f"the letters a to e stand for the places without a link, row by row. You regrow {chosen[0]} and {chosen[1]}"
    )
    for slip, wrong in slips.items():
        assert chosen != wrong, f"{begins}. You choose them by {slip}."
    assert chosen == "bc", f"{begins}. Write down the mean gradient of each place."
    generator = torch.Generator().manual_seed(10)
    mask, gradients = torch.eye(5, 6, dtype=torch.bool), torch.randn(3, 5, 6, generator=generator)
    means = gradients.mean(dim=0).abs().masked_fill(mask, 0).flatten()
    expected = mask.flatten().index_fill(0, means.topk(4).indices, True).view_as(mask)
    assert torch.equal(regrow(gradients, mask.clone(), 4).bool(), expected), (
        "with three ranks and 4 new links, your mask is not right; use the gradients of all ranks, and add "
        "`number` links."
    )


def my_examples(my_examples: Callable[[int, int, int, int], Sequence[int]]) -> None:
    """Continue with fewer ranks: a function that returns the examples of a rank in a step."""
    batch = 8
    for step in range(3):
        whole = list(range(step * batch, (step + 1) * batch))
        for number in (1, 2, 4):
            shares = [my_examples(step, batch, rank, number) for rank in range(number)]
            assert all(share is not None for share in shares), "my_examples() returns None; return a list of numbers."
            where = f"in step {step} with {number} rank{'s' if number > 1 else ''}, "
            together = [example for share in shares for example in share]
            assert len(together) != batch * number or number == 1, (
                f"{where}each rank takes {batch} examples, so the batch grows with the number of ranks; divide the "
                f"{batch} examples among the ranks."
            )
            assert {len(share) for share in shares} == {batch // number}, (
                f"{where}the ranks take {', '.join(str(len(share)) for share in shares)} examples; expected "
                f"{batch // number} each."
            )
            assert len(set(together)) == len(together), f"{where}two ranks take the same example: {shares}."
            assert sorted(together) == whole, (
                f"{where}the ranks together take {sorted(together)}, but one process takes {whole}. A run that "
                "continues with another number of ranks would see some examples twice and others never."
            )


Part = tuple[Callable[[toys.Trial], Any], Callable[[toys.Trial, Any], object], str]

# The parts of a run: how to read and to load the state of each part, and what happens without this state. The
# masks come last, as `Sparsifier.load_state_dict` requires.
_PARTS: Mapping[str, Part] = {
    "weights": (
        lambda trial: trial.model.state_dict(),
        lambda trial, state: trial.model.load_state_dict(state),
        "the weights are not the saved weights. Save and load `model.state_dict()`.",
    ),
    "moments": (
        lambda trial: trial.optimizer.state_dict()["state"],
        lambda trial, state: trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": state}),
        "the moments of Adam are not the saved moments, so the next step would be different. Save and load the "
        "optimizer too.",
    ),
    "schedule": (
        lambda trial: trial.schedule.last_epoch,
        lambda trial, state: trial.schedule.load_state_dict(trial.schedule.state_dict() | {"last_epoch": state}),
        "the schedule is not at the saved step, so the learning rate would return to its first value. Save and "
        "load the schedule too.",
    ),
    "generator": (
        lambda trial: trial.generator.get_state(),
        lambda trial, state: trial.generator.set_state(state),
        "the generator does not have its saved state, so the next batch would be different. Save "
        "`generator.get_state()`, and load it with `generator.set_state()`.",
    ),
    "masks": (
        lambda trial: trial.sparsifier.state_dict(),
        lambda trial, state: trial.sparsifier.load_state_dict(state),
        "the masks or the random numbers of the Sparsifier differ from the saved state. Save and load "
        "`sparsifier.state_dict()`.",
    ),
}
_DISPENSABLE = "gradients"  # each step sets them to zero before it computes them


def continued(
    save_run: Callable[[toys.Trial, Path], None],
    load_run: Callable[[toys.Trial, Path], None],
    not_needed: Collection[str] | None,
) -> None:
    """Continue exactly: two functions that save and load a run, and the parts of a run that they need not save."""
    run = toys.Trial(seed=0)
    for _ in range(20):
        run.step()
    saved = {name: copy.deepcopy(read(run)) for name, (read, _, _) in _PARTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        save_run(run, path)
        assert path.is_file(), "save_run() wrote no file at the path; call checkpoint.save(path, state)."
        right = [run.step() for _ in range(20)]  # these steps would change a state that is only in memory
        fresh = toys.Trial(seed=1)
        load_run(fresh, path)
    for name, (read, _, without) in _PARTS.items():
        try:
            found = read(fresh)
        except RuntimeError:  # the Sparsifier refuses weights that do not fit its masks
            found = None
        assert _equal(found, saved[name]), f"after load_run(), {without}"
    losses = [fresh.step() for _ in range(20)]
    assert losses == right, "the states are right after load_run(), but the losses differ. Load the Sparsifier last."
    assert not_needed is not None, "replace None in the cell above with a set of names."
    names = {*_PARTS, _DISPENSABLE}
    unknown = sorted({*not_needed} - names)
    assert not unknown, f"there is no part {unknown[0]!r}; expected one or more of {', '.join(sorted(names))}."
    assert "masks" not in not_needed, (
        "without the masks, the Sparsifier refuses to continue, because the weights do not fit its own masks."
    )
    for name in sorted({*not_needed} & _PARTS.keys()):
        step = next(step for step, loss in enumerate(_without(name, saved), 21) if loss != right[step - 21])
        raise AssertionError(
            f"without the {name}, the run is different: from step {step} on, its losses are not the losses of the "
            "undisturbed run."
        )
    assert _DISPENSABLE in not_needed, (
        "you can leave out one part, because each step computes this part again before using it."
    )


def _without(left_out: str, saved: Mapping[str, Any]) -> list[float]:
    """The losses of a fresh run that has loaded all parts except one."""
    fresh = toys.Trial(seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Sparsifier warns about missing weights
        for name, (_, load, _) in _PARTS.items():
            if name != left_out:
                load(fresh, copy.deepcopy(saved[name]))
    return [fresh.step() for _ in range(20)]


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def grid(grid: Mapping[str, list[Any]] | None, num_runs: int | None) -> None:
    """A grid in words: the grid of a sweep, and its number of runs."""
    assert grid is not None, "replace the first None in the cell above with a dict of lists."
    assert set(grid) == {"method", "sparsity", "seed"}, (
        f"the keys of the grid are {', '.join(grid) or 'missing'}; expected method, sparsity and seed, because the "
        "sentence lists values for these three."
    )
    values = grid["sparsity"] if isinstance(grid["sparsity"], list) else []
    assert not any(value in (0.2, 0.05) for value in values), (
        "0.2 and 0.05 are densities; a sparsity is the share of absent links."
    )
    assert not any(value in (80, 95) for value in values), "a sparsity is a share between 0 and 1, not a percentage."
    assert grid["seed"] != [1, 2, 3, 4, 5], "you give the seeds 1 to 5; expected 0 to 4."
    try:
        cells = sweeps.cells({"train": "tiny_ci", "parameters": {"dataset": "python_reference"}, "grid": grid})
    except ValueError as error:
        raise AssertionError(f"the sweep refuses this grid: {error}") from error
    methods = ("fc", "set", "rigl", "chts")
    wanted = {
        "-".join(map(str, (method, *(() if method == "fc" else (sparsity,)), seed)))
        for method in methods
        for sparsity in (0.8, 0.95)
        for seed in range(5)
    }
    found = {cell.name for cell in cells}
    assert found == wanted, (
        f"your grid lacks {len(wanted - found)} of the runs that the exercise asks for and has "
        f"{len(found - wanted)} additional runs. The first missing or additional run is {min(found ^ wanted)}."
    )
    assert num_runs is not None, "replace the second None in the cell above with a number of runs."
    slips = {
        "the number of runs with FC at both sparsities; FC has no sparsity and runs once for each seed": 40,
        "the number without FC; add the runs of FC": 30,
        "the number of runs of one seed; there are five seeds": 7,
    }
    refuse(num_runs, slips, 0)
    assert num_runs == len(found), f"{num_runs} is not right; count FC separately from the other three methods."


def hours(hours: float | None) -> None:
    """How long: the hours of a training run."""
    assert hours is not None, "replace None in the cell above with a number of hours."
    right = 6e9 * 2e10 / (8 * 1e15 * 0.3) / 3600
    slips = {
        "a third of the time; a backward pass costs twice as much as a forward pass": right / 3,
        "the time for one GPU; there are eight GPUs": right * 8,
        "the time at full utilisation; divide it by the utilisation": right * 0.3,
        "the time in seconds; give hours": right * 3600,
    }
    refuse(hours, slips, 0.01 * right)
    assert abs(hours - right) < 0.02 * right, f"{hours} is not right; count 6 operations for each weight and token."


_Runs = list[tuple[str, int]]


def schedule(schedule: Callable[[Mapping[str, float], int, int, float], tuple[_Runs, float]]) -> None:
    """Schedule a sweep within a budget: the runs that fit, and the hour at which the last run ends.

    The runs take 3, 1 and 2 hours. There are two seeds, two workers and a budget of five hours.
    """
    costs = {"fc": 3.0, "set": 1.0, "chts": 2.0}
    answer = schedule(costs, 2, 2, 5.0)
    assert answer is not None, "schedule() returns None; return a list of runs and a number of hours."
    assert isinstance(answer, tuple), "return two things: a list of runs, and a number of hours."
    assert len(answer) == 2, "return two things: a list of runs, and a number of hours."
    runs, makespan = list(answer[0]), answer[1]
    begins = [("fc", 0), ("set", 0), ("chts", 0)]
    slips: dict[str, _Runs] = {
        "a schedule with one method after the other. Take all methods of seed 0 first, then all methods of seed 1": [
            ("fc", 0),
            ("fc", 1),
            ("set", 0),
            ("set", 1),
        ],
        "a schedule that ends at the first run that does not fit. A shorter run may still fit": begins,
        "a schedule in which runs exceed the budget. A run fits only if it ends in time": [
            *begins,
            ("fc", 1),
            ("set", 1),
            ("chts", 1),
        ],
        "the schedule of one worker, but there are two workers": [("fc", 0), ("set", 0), ("set", 1)],
        "a schedule that fits into 2 · 5 hours in total. Each worker has its own five hours": [
            *begins,
            ("fc", 1),
            ("set", 1),
        ],
        "a schedule that gives the runs to the workers in turn. Give each run to the worker that is free first": [
            *begins,
            ("fc", 1),
        ],
    }
    for slip, wrong in slips.items():
        assert runs != wrong, f"your answer is {slip}."
    right, last = _scheduled(costs, 2, 2, 5.0)
    assert runs == right or sorted(runs) != sorted(right), (
        "you return the right runs in the wrong order. List them in the order in which they start."
    )
    assert runs == right, (
        f"you start {', '.join(f'{name}-{seed}' for name, seed in runs)}. Draw a timeline for each worker."
    )
    assert makespan == last, f"the runs are right, but the last run does not end at hour {makespan:g}."
    _compare_schedules(schedule)


def _scheduled(costs: Mapping[str, float], seeds: int, workers: int, budget: float) -> tuple[_Runs, float]:
    free = [0.0] * workers
    runs: _Runs = []
    for seed in range(seeds):
        for name, cost in costs.items():
            first = free.index(min(free))
            if free[first] + cost <= budget:
                free[first] += cost
                runs.append((name, seed))
    return runs, max(free)


def _compare_schedules(schedule: Callable[[Mapping[str, float], int, int, float], tuple[_Runs, float]]) -> None:
    chance = random.Random(10)
    for workers, budget in ((1, 6.0), (3, 7.5), (4, 0.25), (2, 20.0)):
        costs = {name: chance.randint(1, 8) / 2 for name in ("fc", "set", "rigl", "chts")}
        runs, makespan = schedule(costs, 3, workers, budget)
        right, last = _scheduled(costs, 3, workers, budget)
        given = (
            f"for runs of {', '.join(f'{cost:g}' for cost in costs.values())} hours, 3 seeds, {workers} "
            f"worker{'s' if workers > 1 else ''} and a budget of "
        )
        assert list(runs) == right, (
            f"{given}{budget:g} hours, you start {len(runs)} runs; expected {len(right)} runs in the right order."
        )
        assert makespan == last, f"{given}{budget:g} hours, your last run ends at hour {makespan:g}, not {last:g}."
