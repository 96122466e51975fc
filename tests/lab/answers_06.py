"""Answers to the exercises of stage 06."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from answers import cases
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts


def update(
    *,
    absent: bool = False,
    signed: bool = False,
    strongest: bool = False,
    regrown: int = 2,
    stale: str = "",
    new_places: bool = False,
    seed: int | None = None,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """An answer to 06.one_update, with slips."""

    def answer(weight: Tensor, mask: Tensor, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        size = (weight if signed else weight.abs()).flatten()
        if not absent:
            size = size.masked_fill(~mask.flatten(), -torch.inf if strongest else torch.inf)
        kept = mask.flatten().clone()
        kept[size.topk(num, largest=strongest).indices] = False
        free = (~(kept | mask.flatten()) if new_places else ~kept).nonzero().flatten()
        draw = generator if seed is None else torch.Generator().manual_seed(seed)
        links = kept.clone()
        links[free[torch.randperm(len(free), generator=draw)[:regrown]]] = True
        outside = {"": kept, "removed": torch.ones_like(kept), "returned": links}[stale]
        return (weight.flatten() * outside).view_as(mask), links.view_as(mask)

    return answer


def on_links(weight: Tensor, mask: Tensor, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An answer to 06.one_update that draws from all places, also from those that hold a link."""
    kept = mask & (weight.abs() > 2)
    kept.view(-1)[torch.randperm(8, generator=generator)[:num]] = True
    return weight * (kept & (weight.abs() > 2)), kept


def training(
    *,
    method: str | None = None,
    sparsity: float | None = None,
    total: int | None = None,
    every: int = 10,
    order: str = "optimizer sparsifier",
    clear: bool = True,
    batches: slice = slice(None),
) -> Callable[..., chts.Sparsifier]:
    """An answer to 06.train_sparse, with slips."""

    def answer(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        given: Sequence[tuple[Tensor, Tensor]],
        wanted: str,
        share: float,
    ) -> chts.Sparsifier:
        sparsifier = chts.Sparsifier(
            model, optimizer, method or wanted, sparsity or share, total_steps=total or len(given), update_every=every
        )
        for x, y in given[batches]:
            if clear:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for part in order.split():
                {"optimizer": optimizer, "sparsifier": sparsifier}[part].step()
        return sparsifier

    return answer


Curves = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def fair(
    choose: Callable[[Any], float] = lambda of: mean([val[-1] for val, _ in of]),
    tell: Callable[[Any], float] = lambda of: mean([test[-1] for _, test in of]),
) -> Callable[[Curves], tuple[str, float]]:
    """An answer to 06.fair_report: by what it chooses, and what it reports."""

    def answer(runs: Curves) -> tuple[str, float]:
        chosen = max(runs, key=lambda name: choose(runs[name]))
        return chosen, tell(runs[chosen])

    return answer


def share(sizes: list[int], densities: list[float]) -> float:
    return (mean(densities) * sum(sizes[:-1]) + sizes[-1]) / sum(sizes)


RIGHT = [
    *cases("06.one_update", (update(), "")),
    *cases("06.train_sparse", (training(), "")),
    *cases("06.flops_share", (share, "")),
    *cases("06.fair_report", (fair(), "")),
    *cases("06.paired", (lambda *_: (2.0, 2.484), "")),
]

STUBS = [
    *cases("06.one_update", (lambda *_: None, "one_update() returns None; return the new weight and the new mask.")),
    *cases("06.train_sparse", (lambda *_: None, "train_sparse() returns None; return the Sparsifier at the end.")),
    *cases("06.flops_share", (lambda *_: None, "flops_share() returns None; return a share between 0 and 1.")),
    *cases("06.fair_report", (lambda _: None, "fair_report() returns None; return the name of the setting and")),
    *cases("06.paired", (lambda *_: None, "paired() returns None; return the mean difference and the half-width.")),
]

SLIPS = [
    *cases(
        "06.one_update",
        (
            update(absent=True),
            "the mask has 6 links after the update. A place without a link has |w| = 0; choose the weakest links only "
            "among the existing links.",
        ),
        (update(regrown=0), "the mask has 2 links after the update; you removed two links, but regrew no link."),
        (
            on_links,
            "the mask has 2 or 3 or 4 links after the update instead of 4; do you regrow a link that already exists?",
        ),
        (update(signed=True), "you removed the link with weight -4; its magnitude is the largest, so compare |w|."),
        (update(strongest=True), "the links with weights -4 and 3 are the two strongest; the update must keep both."),
        (update(stale="removed"), "a removed link still has a weight; set the weight outside the new mask to 0."),
        (update(stale="returned"), "a link that was removed and regrown has its old weight; in SET, it starts from"),
        (update(seed=3), "every update regrows the same links; draw them with the generator."),
        (
            update(new_places=True),
            "a removed link is never regrown; draw among all free places, including the places of the removed links.",
        ),
    ),
    *cases(
        "06.train_sparse",
        (
            training(batches=slice(30)),
            "the optimizer took 30 steps; there are 40 batches, and each batch needs one step.",
        ),
        (training(method="rigl"), "the Sparsifier does not use the given method; pass this method to it."),
        (training(sparsity=0.5), "the Sparsifier has a sparsity of 0.5; expected 0.75."),
        (training(total=400), "total_steps is 400; expected 40, because each batch needs one step."),
        (
            training(order="optimizer"),
            "the Sparsifier has counted no steps; call sparsifier.step() in the training loop.",
        ),
        (
            training(order="sparsifier optimizer"),
            "the Sparsifier counted 39 of 40 steps; call sparsifier.step() after each optimizer.step().",
        ),
        (
            training(every=5),
            "the updates are at steps [5, 10, 15, 20, 25]; with update_every=10, they must be at 10 and 20.",
        ),
        (
            training(clear=False),
            "at step 2, the gradient does not come from the batch of this step. Do you use F.cross_entropy, and do ",
        ),
    ),
    *cases(
        "06.flops_share",
        (
            lambda _, d: mean(d),
            "0.25 is the mean density; the output layer is dense, so it costs 50 of 450 at every step.",
        ),
        (lambda s, d: mean(d) * sum(s[:-1]) / sum(s), "0.2222 is the share of the sparse layers alone; "),
        (lambda s, d: share(s, d[-1:]), "0.2 is the cost of the last step; take the mean over all steps."),
        (lambda s, d: share(s, d[:1]), "0.5556 is the cost of the first step; take the mean over all steps."),
        (
            lambda s, d: mean([mean(d)] * (len(s) - 1) + [1]),
            "0.5 is a mean over layers; in this mean, use the size of each layer as its weight.",
        ),
        (lambda s, d: len(d) * share(s, d), "1.3333 is a sum over the steps; divide it by the number of steps."),
        (lambda s, d: 1 - share(s, d), "0.6667 is the share that is saved; subtract it from 1."),
        (lambda *_: 0.4, "0.4 is not right; a step at density 0.25 costs 0.25 · 400 + 50, and a dense step costs 450."),
        (lambda *_: 1 / 3, "a run with all links at every step must cost 1."),
    ),
    *cases(
        "06.fair_report",
        (
            fair(lambda of: mean([test[-1] for _, test in of])),
            "you chose B by its test accuracy; choose by the validation accuracy.",
        ),
        (
            fair(lambda of: max(val[-1] for val, _ in of)),
            "C has the run with the highest validation accuracy, 0.98; compare the means over seeds.",
        ),
        (fair(lambda of: mean([max(val) for val, _ in of])), "D is best at an early epoch; choose by the validation"),
        (lambda _: (0, 0.87), "0 is not the name of a setting; the names are the keys of `runs`."),
        (
            fair(tell=lambda of: mean([val[-1] for val, _ in of])),
            "0.9 is the validation accuracy of A; report the test accuracy.",
        ),
        (fair(tell=lambda of: mean([max(test) for _, test in of])), "0.885 is the mean of A's best test accuracies"),
        (fair(tell=lambda of: max(test[-1] for _, test in of)), "0.88 is the test accuracy of the better seed; "),
        (lambda _: ("A", 87), "87 is a percentage; return a share between 0 and 1."),
        (lambda _: ("A", 0.5), "0.5 is not right; A ended at 0.86 and 0.88 on the test images."),
        (lambda _: ("A", 0.87), "with other runs, you choose A instead of B; compute the means of the given runs."),
    ),
    *cases(
        "06.paired",
        (
            lambda *_: (-5.75, 1),
            "-5.75 is the difference between the means over all four runs of each method; leave out seeds 5 and 7, "
            "which the two methods do not share.",
        ),
        (lambda *_: (-2, 2.484), "-2 has the wrong sign; subtract the second method from the first."),
        (lambda *_: (3, 2.484), "your mean is 3.0; seed by seed, the differences are 1, 2 and 3."),
        (lambda *_: (2, 0.577), "0.577 is the standard error; multiply it by t."),
        (lambda *_: (2, 1.132), "1.132 is 1.96 standard errors; for three differences, use t = 4.30."),
        (
            lambda *_: (2, 1.837),
            "1.837 is 3.18 standard errors, which is right for four values; for three differences, use t = 4.30.",
        ),
        (
            lambda *_: (2, 4.303),
            "4.303 is t times the standard deviation; divide by the square root of the number of seeds.",
        ),
        (lambda *_: (2, 2.028), "2.028 is the result if you divide the sum of the squares by n; divide it by n − 1."),
        (
            lambda *_: (2, 11.109),
            "11.109 is the unpaired half-width; subtract first, then take the standard deviation of the differences.",
        ),
        (
            lambda *_: (2, 7.167),
            "7.167 is the unpaired half-width with four degrees of freedom; subtract seed by seed first.",
        ),
        (lambda *_: (2, 13.83), "13.83 is the result if you pair the runs by position; pair them by seed."),
        (lambda *_: (2, 4.968), "4.968 is the whole width; give half of it."),
        (lambda *_: (2, 3), "your half-width is 3.0; the three differences have a standard deviation of 1."),
    ),
]

GIVEN: dict[str, dict[str, Any]] = {}
