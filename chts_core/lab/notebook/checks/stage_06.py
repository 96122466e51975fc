"""Checks of stage 06, the perceptron."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.lab.data import ImageData
from chts_core.lab.notebook.checks import toys
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.results import statistics
from chts_core.lab.train import images
from chts_core.lab.train.recipes import ImageRecipe
from chts_core.methods import METHODS, Method
from chts_core.sparsifier import Sparsifier
from chts_core.tools.planner import plan

Train = Callable[[nn.Module, torch.optim.Optimizer, toys.Batches, str, float], Sparsifier | None]


def mine(
    mine: Method,
    *,
    chts: Method,
    task: ImageData,
    sparsity: float,
    recipe: ImageRecipe,
    device: str,
    runs: Sequence[images.Run],
) -> None:
    """Exercise "Mix a method of your own": build a method that differs from CHTs in one choice.

    The check trains this method with the settings that the notebook used for `chts`. Then it compares the new runs with
    the runs in `runs` whose method is "chts".
    """
    changed = [choice for choice, value in vars(mine).items() if value != getattr(chts, choice)]
    assert changed, "mine is still CHTs; give replace() a choice, such as topology=..., regrowth=... or removal=..."
    assert len(changed) == 1, (
        f"you changed {' and '.join(changed)}. Change only one choice, or you will not know which choice mattered."
    )
    rivals = [run for run in runs if run.method == "chts"]
    seeds = [run.seed for run in rivals]
    more = images.race(task, {"mine": mine}, sparsity, recipe, seeds=seeds, device=device)
    (row,) = statistics.paired_differences([*more, *rivals], "chts")
    interval = f" ± {100 * row['interval']:.1f}" if row["interval"] is not None else ""
    print(f"with another {changed[0]}: {100 * row['difference']:+.1f}{interval} percentage points compared with CHTs")


def one_update(
    one_update: Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor] | None],
) -> None:
    """Exercise "One update of SET": write a function that removes the weakest links and regrows as many at random.

    The layer has 8 places. Four of them have links, with the weights -4, 1, 2 and 3. The update exchanges two links.
    """
    weight = torch.tensor([[-4.0, 0, 1, 0], [0, 2, 0, 3]])
    mask, generator = weight != 0, torch.Generator().manual_seed(0)
    weak, strong = weight.abs() * mask < 3, weight.abs() >= 3
    tries = [one_update(weight.clone(), mask.clone(), 2, generator) for _ in range(600)]
    assert tries[0] is not None, "one_update() returns None; return the new weight and the new mask."
    weights, masks = (torch.stack([pair[part] for pair in tries if pair is not None]) for part in (0, 1))
    masks = masks.bool()
    sizes = masks.sum(dim=(1, 2)).unique().tolist()
    assert sizes != [6], (
        "the mask has 6 links after the update. A place without a link has |w| = 0; choose the weakest links only "
        "among the existing links."
    )
    assert sizes != [2], "the mask has 2 links after the update; you removed two links, but regrew no link."
    found = " or ".join(map(str, sizes))
    assert sizes == [4], (
        f"the mask has {found} links after the update instead of 4; do you regrow a link that already exists?"
    )
    often = masks.float().mean(dim=0)
    assert often[0, 0] == 1 or often[1, 3] < 1, (
        "you removed the link with weight -4; its magnitude is the largest, so compare |w|."
    )
    assert often[strong].min() == 1, "the links with weights -4 and 3 are the two strongest; the update must keep both."
    assert not weights[~masks].any(), "a removed link still has a weight; set the weight outside the new mask to 0."
    came = (weights != 0) & weak & mask & masks
    assert not came.any(), "a link that was removed and regrown has its old weight; in SET, it starts from 0."
    assert (weights[:, strong] == weight[strong]).all(), (
        "your function changed the weight of a link that stays; keep this weight."
    )
    free = often[~strong]
    assert free.max() < 1, "every update regrows the same links; draw them with the generator."
    assert free[weak[~strong] & mask[~strong]].min() > 0, (
        "a removed link is never regrown; draw among all free places, including the places of the removed links."
    )
    assert torch.allclose(free, torch.full((6,), 1 / 3), atol=0.08), (
        "each of the six free places must get a link in 1/3 of the updates; in your updates, the shares are "
        f"{' '.join(f'{share:.2f}' for share in free)}."
    )


def train_sparse(train_sparse: Train) -> None:
    """Exercise "Two lines in a loop of your own": write a function that trains a sparse model.

    The model is a toy with 8 inputs and two sparse layers. Its topology is updated every ten steps. Each training step
    must use only the gradient of its own batch.
    """
    model, optimizer, batches = toys.training()
    right = _watched(model, optimizer, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the assertion below says that a step is not counted
        sparsifier = train_sparse(model, optimizer, batches, "set", 0.75)
    assert sparsifier is not None, "train_sparse() returns None; return the Sparsifier at the end."
    assert len(right) == 40, (
        f"the optimizer took {len(right)} steps; there are 40 batches, and each batch needs one step."
    )
    assert sparsifier.method == METHODS["set"], "the Sparsifier does not use the given method; pass this method to it."
    assert sparsifier.sparsity == 0.75, f"the Sparsifier has a sparsity of {sparsifier.sparsity}; expected 0.75."
    assert sparsifier.timeline.total_steps == 40, (
        f"total_steps is {sparsifier.timeline.total_steps}; expected 40, because each batch needs one step."
    )
    assert sparsifier.steps != 0, "the Sparsifier has counted no steps; call sparsifier.step() in the training loop."
    assert sparsifier.steps == 40, (
        f"the Sparsifier counted {sparsifier.steps} of 40 steps; call sparsifier.step() after each optimizer.step()."
    )
    assert all(right), (
        f"at step {1 + right.index(False)}, the gradient does not come from the batch of this step. Do "
        "you use F.cross_entropy, and do you clear the old gradient with optimizer.zero_grad()?"
    )
    updates = sorted({row["step"] for row in sparsifier.history})
    assert updates == [10, 20], f"the updates are at steps {updates}; with update_every=10, they must be at 10 and 20."
    for name, mask in sparsifier.masks.items():
        links, wanted = int(mask.sum()), round(0.25 * mask.numel())
        assert links == wanted, f"layer {name} has {links} links; expected {wanted}, 25 % of its {mask.numel()} places."


def _watched(model: nn.Module, optimizer: torch.optim.Optimizer, batches: toys.Batches) -> list[bool]:
    """Return a list. Each step appends True to it if the gradient comes from the batch of this step, and else False."""
    right: list[bool] = []
    bias = list(model.parameters())[-1]

    def look(*_: object) -> None:
        x, y = batches[min(len(right), len(batches) - 1)]
        (wanted,) = torch.autograd.grad(F.cross_entropy(model(x), y), bias)
        right.append(bias.grad is not None and torch.allclose(bias.grad, wanted, atol=1e-5))

    optimizer.register_step_pre_hook(look)
    return right


def flops_share(flops_share: Callable[[list[int], list[float]], float]) -> None:
    """Exercise "What does a run cost?": write a function for the training FLOPs as a share of the dense FLOPs.

    The check compares the answer with a result computed by hand, and then with the FLOPs that `plan` gives for a run of
    CHTss.
    """
    sizes, densities = [100, 300, 50], [0.5, 0.3, 0.1, 0.1]
    mine = flops_share(sizes, densities)
    assert mine is not None, "flops_share() returns None; return a share between 0 and 1."
    right = (0.25 * 400 + 50) / 450
    slips = {
        "the mean density; the output layer is dense, so it costs 50 of 450 at every step": 0.25,
        "the share of the sparse layers alone; add the output layer to the sparse run and to the dense run": 100 / 450,
        "the cost of the last step; take the mean over all steps": (0.1 * 400 + 50) / 450,
        "the cost of the first step; take the mean over all steps": (0.5 * 400 + 50) / 450,
        "a mean over layers; in this mean, use the size of each layer as its weight": (2 * 0.25 + 1) / 3,
        "a sum over the steps; divide it by the number of steps": 4 * right,
        "the share that is saved; subtract it from 1": 1 - right,
    }
    mine = round(mine, 4)
    refuse(mine, slips, 1e-3)
    assert abs(mine - right) < 1e-3, (
        f"{mine} is not right; a step at density 0.25 costs 0.25 · 400 + 50, and a dense step costs 450."
    )
    assert math.isclose(flops_share([8, 2], [1.0]), 1), "a run with all links at every step must cost 1."
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    planned = plan(model, "chtss", 0.9, total_steps=80, update_every=10)
    by_step = [1 - planned.budget.at(step // 10 * 10) for step in range(80)]
    share = flops_share([64 * 64, 64 * 32, 320], by_step)
    assert abs(share - planned.flops) < 0.005, (
        f"for a run of CHTss, your function returns {share:.3f}, but chts.plan returns {planned.flops:.3f}."
    )


Curves = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]


def fair_report(fair_report: Callable[[Curves], tuple[str, float] | None]) -> None:
    """Exercise "Choose and report": choose a setting by its validation accuracy, and report its test accuracy."""
    runs = {
        "A": [([0.80, 0.90], [0.89, 0.86]), ([0.82, 0.90], [0.87, 0.88])],
        "B": [([0.80, 0.86], [0.90, 0.91]), ([0.80, 0.88], [0.90, 0.93])],
        "C": [([0.70, 0.98], [0.70, 0.84]), ([0.70, 0.80], [0.70, 0.80])],
        "D": [([0.97, 0.85], [0.80, 0.81]), ([0.95, 0.85], [0.80, 0.79])],
    }
    answer = fair_report(runs)
    assert answer is not None, "fair_report() returns None; return the name of the setting and an accuracy."
    chosen, accuracy = answer
    wrong = {
        "B": "you chose B by its test accuracy; choose by the validation accuracy.",
        "C": "C has the run with the highest validation accuracy, 0.98; compare the means over seeds.",
        "D": "D is best at an early epoch; choose by the validation accuracy of the last epoch.",
    }
    assert chosen not in wrong, wrong[chosen]
    assert chosen == "A", f"{chosen!r} is not the name of a setting; the names are the keys of `runs`."
    slips = {
        "the validation accuracy of A; report the test accuracy": 0.90,
        "the mean of A's best test accuracies; report the test accuracies of the last epoch": 0.885,
        "the test accuracy of the better seed; report the mean over seeds": 0.88,
        "a percentage; return a share between 0 and 1": 87,
    }
    refuse(round(accuracy, 4), slips, 1e-3)
    assert abs(accuracy - 0.87) < 1e-3, f"{accuracy:g} is not right; A ended at 0.86 and 0.88 on the test images."
    turned = {name: [(test, validation) for validation, test in of_seeds] for name, of_seeds in runs.items()}
    again = fair_report(turned)
    assert again is not None, "with other runs, fair_report() returns None; return a name and an accuracy."
    assert again[0] == "B", f"with other runs, you choose {again[0]} instead of B; compute the means of the given runs."


def half_width(half_width: float | None) -> None:
    """Exercise "An interval by hand": find the half-width of a confidence interval, in percentage points."""
    assert half_width is not None, "replace None in the cell above with a number of percentage points."
    assert half_width >= 0.1, f"{half_width} looks like a fraction; give percentage points."
    slips = {
        "the standard error; multiply it by t": 2 / 3**0.5,
        "t·s, which describes the scatter of single runs; the mean of n runs varies less, so divide by √n": 4.303 * 2,
        "1.96·s/√n, which is right for many runs; for three runs, use t = 4.30": 1.96 * 2 / 3**0.5,
        "the result if you divide the sum of the squares by n; divide it by n − 1": 4.303 * (8 / 3) ** 0.5 / 3**0.5,
        "the whole width, from end to end; give half of it": 2 * 4.303 * 2 / 3**0.5,
    }
    refuse(half_width, slips, 0.06)
    expected = statistics.mean_and_interval([90.0, 92.0, 94.0])[1]
    assert abs(half_width - expected) < 0.06, f"{half_width} is not right; s is 2 points here, and n is 3."


def paired(paired: Callable[[Mapping[int, float], Mapping[int, float]], tuple[float, float] | None]) -> None:
    """Exercise "Subtract seed by seed": write a function that compares two methods by their paired differences.

    The function returns the mean of these differences, and the half-width of the 95 % confidence interval of this mean.
    """
    mine, theirs = {0: 91.0, 1: 93.0, 2: 98.0, 5: 70.0}, {2: 95.0, 0: 90.0, 1: 91.0, 7: 99.0}
    answer = paired(mine, theirs)
    assert answer is not None, "paired() returns None; return the mean difference and the half-width."
    mean, half = (round(float(number), 3) for number in answer)
    assert mean != -5.75, (
        "-5.75 is the difference between the means over all four runs of each method; leave out seeds 5 and 7, which "
        "the two methods do not share."
    )
    assert mean != -2, "-2 has the wrong sign; subtract the second method from the first."
    right_mean, right_half = statistics.mean_and_interval([1.0, 2.0, 3.0])
    assert abs(mean - right_mean) < 0.01, f"your mean is {mean}; seed by seed, the differences are 1, 2 and 3."
    of_mine, of_theirs = ([91.0, 93.0, 98.0], [90.0, 91.0, 95.0])
    apart = math.hypot(*(statistics.standard_error(values) for values in (of_mine, of_theirs)))
    by_position = [91 - 95, 93 - 90, 98 - 91]
    slips = {
        "the standard error; multiply it by t": 1 / math.sqrt(3),
        "1.96 standard errors; for three differences, use t = 4.30": 1.96 / math.sqrt(3),
        "3.18 standard errors, which is right for four values; for three differences, use t = 4.30": 3.182
        / math.sqrt(3),
        "t times the standard deviation; divide by the square root of the number of seeds": 4.303,
        "the result if you divide the sum of the squares by n; divide it by n − 1": right_half * math.sqrt(2 / 3),
        "the unpaired half-width; subtract first, then take the standard deviation of the differences": 4.303 * apart,
        "the unpaired half-width with four degrees of freedom; subtract seed by seed first": 2.776 * apart,
        "the result if you pair the runs by position; pair them by seed": statistics.mean_and_interval(by_position)[1],
        "the whole width; give half of it": 2 * right_half,
    }
    refuse(half, slips, 0.01)
    assert abs(half - right_half) < 0.01, (
        f"your half-width is {half}; the three differences have a standard deviation of 1."
    )
