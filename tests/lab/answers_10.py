"""Answers to the exercises of stage 10, right and wrong."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from answers import cases
from torch import Tensor

from chts_core.lab.notebook.checks.toys import Trial
from chts_core.lab.train import checkpoint

Runs = list[tuple[str, int]]


def whole_gradient(gradients: list[Tensor], sizes: list[int]) -> Tensor:
    return (torch.stack(gradients) * torch.tensor(sizes)[:, None]).sum(dim=0) / sum(sizes)


def added_in_place(gradients: list[Tensor], sizes: list[int]) -> Tensor:
    total = gradients[0]
    total += gradients[1]
    return total / len(sizes)


def regrow_by(values: Callable[[Tensor], Tensor], *, anywhere: bool = False) -> Callable[[Tensor, Tensor, int], Tensor]:
    """An answer to 10.regrow that takes the absent links of the largest values of the gradients."""

    def answer(gradients: Tensor, mask: Tensor, number: int) -> Tensor:
        of = values(gradients)
        return mask | of_largest(of if anywhere else of.masked_fill(mask, -torch.inf), number)

    return answer


def of_largest(values: Tensor, number: int) -> Tensor:
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[values.flatten().topk(number).indices] = True
    return chosen.view_as(values)


def size_of_mean(gradients: Tensor) -> Tensor:
    return gradients.mean(dim=0).abs()


def grown_in_place(gradients: Tensor, mask: Tensor, number: int) -> Tensor:
    mask |= of_largest(size_of_mean(gradients).masked_fill(mask, -1), number)
    return mask


def only_two_ranks(gradients: Tensor, mask: Tensor, number: int) -> Tensor:
    return regrow_by(lambda both: size_of_mean(both[:2]))(gradients, mask, number)


def my_examples(step: int, batch: int, rank: int, ranks: int) -> list[int]:
    """In equal parts one after the other, as good as in turns."""
    part = batch // ranks
    return [step * batch + rank * part + place for place in range(part)]


def a_batch_each(step: int, batch: int, rank: int, ranks: int) -> list[int]:
    first = (step * ranks + rank) * batch
    return list(range(first, first + batch))


def all_the_same(step: int, batch: int, _: int, ranks: int) -> list[int]:
    return list(range(step * batch, step * batch + batch // ranks))


def a_share_of_the_epoch(step: int, batch: int, rank: int, ranks: int) -> list[int]:
    """Each rank goes through a share of its own, which depends on how many there are."""
    part = batch // ranks
    return [rank * 24 // ranks + step * part + place for place in range(part)]


def uneven(step: int, batch: int, rank: int, ranks: int) -> list[int]:
    whole = list(range(step * batch, (step + 1) * batch))
    return whole[:1] if ranks > 1 and rank == 0 else whole[1:] if ranks > 1 else whole


GRID = {"method": ["fc", "set", "rigl", "chts"], "sparsity": [0.8, 0.95], "seed": [0, 1, 2, 3, 4]}


def schedule(costs: Mapping[str, float], seeds: int, workers: int, budget: float) -> tuple[Runs, float]:
    return run([(name, seed) for seed in range(seeds) for name in costs], costs, workers, budget)


def run(
    order: Runs,
    costs: Mapping[str, float],
    workers: int,
    budget: float,
    *,
    turns: bool = False,
    ends: bool = True,
    stops: bool = False,
) -> tuple[Runs, float]:
    """Runs in an order, with slips: given out in turns, only begun in time, ended by the first that does not fit."""
    ends_of, started = [0.0] * workers, []
    for number, (name, seed) in enumerate(order):
        worker = number % workers if turns else min(range(workers), key=ends_of.__getitem__)
        if ends_of[worker] + costs[name] <= budget or (not ends and ends_of[worker] < budget):
            ends_of[worker] += costs[name]
            started.append((name, seed))
        elif stops:
            break
    return started, max(ends_of)


def seed_by_seed(costs: Mapping[str, float], seeds: int) -> Runs:
    return [(name, seed) for seed in range(seeds) for name in costs]


def method_by_method(costs: Mapping[str, float], seeds: int) -> Runs:
    return [(name, seed) for name in costs for seed in range(seeds)]


def longest_first(costs: Mapping[str, float], seeds: int) -> Runs:
    return [(name, seed) for seed in range(seeds) for name in sorted(costs, key=lambda name: -costs[name])]


def off_the_toy(costs: Mapping[str, float], seeds: int, workers: int, budget: float) -> tuple[Runs, float]:
    """Right for the runs of the text, and a run too few or an hour too many for others."""
    runs, makespan = schedule(costs, seeds, workers, budget)
    return (runs, makespan) if len(costs) == 3 else (runs, makespan + 1)


PARTS = ("model", "optimizer", "schedule", "sparsifier")
Save, Load = Callable[[Trial, Path], None], Callable[[Trial, Path], None]


def kept(*parts: str, generator: bool = True) -> tuple[Save, Load]:
    """Answers to 10.continued that save and load these parts."""

    def save(trial: Trial, path: Path) -> None:
        state = {part: getattr(trial, part).state_dict() for part in parts}
        checkpoint.save(path, state | {"generator": trial.generator.get_state()})

    def load(trial: Trial, path: Path) -> None:
        state = checkpoint.load(path)
        for part in parts:
            getattr(trial, part).load_state_dict(state[part])
        if generator:
            trial.generator.set_state(state["generator"])

    return save, load


def without(part: str) -> tuple[Any, ...]:
    return *kept(*(one for one in PARTS if one != part)), {"gradients"}


def remembered() -> tuple[Any, ...]:
    """The state stays in memory, and the file has nothing of it."""
    state: dict[str, Any] = {}

    def save(trial: Trial, path: Path) -> None:
        state.update(trial.model.state_dict())
        checkpoint.save(path, {})

    def load(trial: Trial, path: Path) -> None:  # noqa: ARG001 - it does not read the file
        trial.model.load_state_dict(state)

    return save, load, {"gradients"}


GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("10.whole_gradient", (whole_gradient, "")),
    *cases("10.regrow", (regrow_by(size_of_mean), ""), (regrow_by(lambda all_: all_.sum(dim=0).abs()), "")),
    *cases(
        "10.my_examples",
        (my_examples, ""),
        (lambda step, batch, rank, ranks: range(step * batch + rank, step * batch + batch, ranks), ""),
    ),
    *cases("10.continued", ((*kept(*PARTS), {"gradients"}), ""), ((*kept(*PARTS), ["gradients"]), "")),
    *cases("10.grid", ((GRID, 35), ""), (({**GRID, "method": ["chts", "fc", "rigl", "set"]}, 35), "")),
    *cases("10.schedule", (schedule, "")),
]

STUBS = [
    *cases(
        "10.whole_gradient",
        (lambda *_: None, "whole_gradient() returns None; return a tensor with the shape of one gradient."),
    ),
    *cases("10.regrow", (lambda *_: None, "regrow() returns None; return a Boolean mask.")),
    *cases("10.my_examples", (lambda *_: None, "my_examples() returns None; return a list of numbers.")),
    *cases(
        "10.continued",
        ((lambda *_: None, lambda *_: None, None), "save_run() wrote no file at the path; call checkpoint.save("),
        ((*kept(*PARTS), None), "replace None in the cell above with a set of names."),
    ),
    *cases(
        "10.grid",
        ((None, None), "replace the first None in the cell above with a dict of lists."),
        ((GRID, None), "replace the second None in the cell above with a number of runs."),
    ),
    *cases("10.schedule", (lambda *_: None, "schedule() returns None; return a list of runs and a number of hours.")),
]

SLIPS = [
    *cases(
        "10.whole_gradient",
        (added_in_place, "your function changed the gradients that it was given; avoid +=."),
        (lambda parts, _: torch.stack(parts), "the gradient of two links has the shape (2,), not (2, 2)."),
        (lambda parts, _: (parts[0] + parts[1]) / 2, "[4.0, 2.0] is the plain mean, which counts the single example"),
        (lambda parts, _: parts[0] + parts[1], "[8.0, 4.0] is the sum of both gradients"),
        (
            lambda parts, sizes: whole_gradient(parts, sizes) * sum(sizes),
            "[12.0, 4.0] is the sum over all four examples",
        ),
        (
            lambda parts, sizes: whole_gradient(parts, sizes) * sum(sizes) / len(sizes),
            "is the sum over all four examples, divided by the number of parts; divide by the number of examples.",
        ),
        (
            lambda parts, sizes: whole_gradient(parts, sizes[::-1]),
            "[5.0, 3.0] is the mean with the sizes exchanged; the larger part counts more.",
        ),
        (lambda *_: torch.zeros(2), "[0.0, 0.0] is not right; write down the sum of the gradients"),
        (
            lambda parts, sizes: whole_gradient(parts, sizes) if len(parts[0]) == 2 else torch.stack(parts).mean(dim=0),
            "for parts of [4, 5] examples, your gradient differs from the gradient of the whole batch of 9 examples.",
        ),
    ),
    *cases(
        "10.regrow",
        (grown_in_place, "your function changed the mask that it was given; work on a copy."),
        (lambda _, mask, __: mask.flatten(), "the mask must have the shape (2, 4), not (8,)."),
        (
            lambda gradients, mask, number: regrow_by(size_of_mean)(gradients, mask, number) & ~mask,
            "your mask lost an existing link; regrowth only adds links.",
        ),
        (
            regrow_by(size_of_mean, anywhere=True),
            "your mask has 0 new links; expected 2. Choose among the places without a link.",
        ),
        (
            regrow_by(lambda all_: all_[0].abs()),
            "You regrow a and c. You choose them by the gradient of only one rank, rank 0; use the mean over "
            "the ranks.",
        ),
        (
            regrow_by(lambda all_: all_[1].abs()),
            "You regrow a and b. You choose them by the gradient of only one rank, rank 1; use the mean over "
            "the ranks.",
        ),
        (
            regrow_by(lambda all_: all_.abs().mean(dim=0)),
            "the letters a to e stand for the places without a link, row by row. You regrow a and e. You choose them "
            "by the mean of ",
        ),
        (
            regrow_by(lambda all_: all_.mean(dim=0)),
            "the letters a to e stand for the places without a link, row by row. You regrow b and d. You choose them "
            "by the mean ",
        ),
        (
            regrow_by(lambda all_: -size_of_mean(all_)),
            "the letters a to e stand for the places without a link, row by row. You regrow a and e. You choose them "
            "by the mean of ",
        ),
        (
            regrow_by(lambda all_: -all_.mean(dim=0)),
            "the letters a to e stand for the places without a link, row by row. You regrow c and e. Write down the "
            "mean gradient of each place.",
        ),
        (only_two_ranks, "with three ranks and 4 new links, your mask is not right; use the gradients of all"),
    ),
    *cases(
        "10.my_examples",
        (
            a_batch_each,
            "in step 0 with 2 ranks, each rank takes 8 examples, so the batch grows with the number of ranks; divide ",
        ),
        (uneven, "in step 0 with 2 ranks, the ranks take 1, 7 examples; expected 4 each."),
        (all_the_same, "in step 0 with 2 ranks, two ranks take the same example: [[0, 1, 2, 3], [0, 1, 2, 3]]."),
        (
            a_share_of_the_epoch,
            "in step 0 with 2 ranks, the ranks together take [0, 1, 2, 3, 12, 13, 14, 15], but one process takes [0, "
            "1, ",
        ),
        (
            lambda _, batch, rank, ranks: my_examples(0, batch, rank, ranks),
            "in step 1 with 1 rank, the ranks together take [0, 1, 2, 3, 4, 5, 6, 7], but one process takes [8, 9, "
            "10, ",
        ),
    ),
    *cases(
        "10.continued",
        ((kept(*PARTS)[0], lambda *_: None, {"gradients"}), "after load_run(), the weights are not the saved weights."),
        (
            without("optimizer"),
            "after load_run(), the moments of Adam are not the saved moments, so the next step would",
        ),
        (without("schedule"), "after load_run(), the schedule is not at the saved step, so the learning rate would"),
        (
            without("sparsifier"),
            "after load_run(), the masks or the random numbers of the Sparsifier differ from the saved",
        ),
        (
            (*kept(*PARTS, generator=False), {"gradients"}),
            "after load_run(), the generator does not have its saved state",
        ),
        (remembered(), "after load_run(), the weights are not the saved weights."),
        (
            (*kept(*PARTS), set()),
            "you can leave out one part, because each step computes this part again before using it.",
        ),
        (
            (*kept(*PARTS), {"biases"}),
            "there is no part 'biases'; expected one or more of generator, gradients, masks, ",
        ),
        (
            (*kept(*PARTS), {"gradients", "weights"}),
            "without the weights, the run is different: from step 21 on, its losses are not the losses of the "
            "undisturbed run.",
        ),
        (
            (*kept(*PARTS), {"gradients", "moments"}),
            "without the moments, the run is different: from step 22 on, its losses are not the losses of the "
            "undisturbed run.",
        ),
        (
            (*kept(*PARTS), {"schedule"}),
            "without the schedule, the run is different: from step 22 on, its losses are not the losses of the "
            "undisturbed run.",
        ),
        (
            (*kept(*PARTS), {"generator"}),
            "without the generator, the run is different: from step 21 on, its losses are not the losses of the "
            "undisturbed run.",
        ),
        (
            (*kept(*PARTS), {"masks"}),
            "without the masks, the Sparsifier refuses to continue, because the weights do not fit its own masks.",
        ),
    ),
    *cases(
        "10.grid",
        (({"method": GRID["method"]}, 35), "the keys of the grid are method; expected method, sparsity and seed"),
        (({**GRID, "sparsity": [0.2, 0.05]}, 35), "0.2 and 0.05 are densities"),
        (({**GRID, "sparsity": [80, 95]}, 35), "a sparsity is a share between 0 and 1, not a percentage."),
        (({**GRID, "seed": [1, 2, 3, 4, 5]}, 35), "you give the seeds 1 to 5; expected 0 to 4."),
        (({**GRID, "seed": 5}, 35), "the sweep refuses this grid: grid has seed: 5; expected a list of values"),
        (({**GRID, "sparsity": 0.8}, 35), "the sweep refuses this grid: grid has sparsity: 0.8; expected a list of"),
        (
            ({**GRID, "method": ["set", "rigl", "chts"]}, 30),
            "your grid lacks 5 of the runs that the exercise asks for and has 0 additional runs. The first missing or "
            "additional run is fc-0.",
        ),
        (
            ({**GRID, "seed": [0]}, 7),
            "your grid lacks 28 of the runs that the exercise asks for and has 0 additional runs. The first missing or "
            "additional run is chts-0.8-1.",
        ),
        (
            (GRID, 40),
            "40 is the number of runs with FC at both sparsities; FC has no sparsity and runs once for each seed.",
        ),
        ((GRID, 30), "30 is the number without FC; add the runs of FC."),
        ((GRID, 7), "7 is the number of runs of one seed; there are five seeds."),
        ((GRID, 11), "11 is not right; count FC separately from the other three methods."),
    ),
    *cases(
        "10.schedule",
        (lambda *given: schedule(*given)[0], "return two things: a list of runs, and a number of hours."),
        (lambda *given: (*schedule(*given), 0), "return two things: a list of runs, and a number of hours."),
        (
            lambda costs, seeds, *others: run(method_by_method(costs, seeds), costs, *others),
            "your answer is a schedule with one method after the other. Take all methods of seed 0 first",
        ),
        (
            lambda costs, seeds, *others: run(seed_by_seed(costs, seeds), costs, *others, stops=True),
            "your answer is a schedule that ends at the first run that does not fit.",
        ),
        (
            lambda costs, seeds, *others: run(seed_by_seed(costs, seeds), costs, *others, ends=False),
            "your answer is a schedule in which runs exceed the budget.",
        ),
        (
            lambda costs, seeds, _, budget: schedule(costs, seeds, 1, budget),
            "your answer is the schedule of one worker, but there are two workers.",
        ),
        (
            lambda costs, seeds, workers, budget: schedule(costs, seeds, 1, workers * budget),
            "your answer is a schedule that fits into 2 · 5 hours in total. Each worker has its own five hours.",
        ),
        (
            lambda costs, seeds, *others: run(seed_by_seed(costs, seeds), costs, *others, turns=True),
            "Give each run to the worker that is free first.",
        ),
        (
            lambda costs, seeds, *others: run(longest_first(costs, seeds), costs, *others),
            "you return the right runs in the wrong order.",
        ),
        (lambda *_: ([("fc", 0)], 3.0), "you start fc-0. Draw a timeline for each worker."),
        (lambda *given: (schedule(*given)[0], 9.0), "the runs are right, but the last run does not end at hour 9."),
        (
            off_the_toy,
            "for runs of 0.5, 3.5, 4, 0.5 hours, 3 seeds, 1 worker and a budget of 6 hours, your last run ends at ",
        ),
        (
            lambda costs, seeds, workers, budget: (
                schedule(costs, seeds, workers, budget) if workers < 3 else schedule(costs, 2, workers, budget)
            ),
            "for runs of 2, 4, 4, 2.5 hours, 3 seeds, 3 workers and a budget of 7.5 hours, you start 6 runs; ",
        ),
    ),
]
