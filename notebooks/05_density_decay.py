# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Density decay
#
# **You will be able to**
#
# 1. compute by hand the number of links of every layer at any step, and the number of links that an update exchanges;
# 2. compare two schedules at equal training FLOPs;
# 3. check before a run whether the run will reach its target density.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; a PyTorch training loop |
# | Time | 25 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Equation 1 and the section on sigmoid gradual density decay |

# %% tags=["bootstrap"]
# This cell does something only on Colab: it installs chts and those of its dependencies that Colab does not have. It
# changes no package that Colab has, and you need no restart.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("chts_core") is None:
    source = "chts @ git+https://github.com/SET_THE_OWNER/chts@v0.1.0"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()
    from chts_core import colab

    colab.prepare()

# %%
import math
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab import data, figures, models, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records, statistics
from chts_core.lab.train import images
from chts_core.methods import Cubic, Sigmoid, Turnover
from chts_core.schedules import Timeline, cosine_turnover, cubic_sparsity, sigmoid_sparsity

print(records.environment_line(records.choose_device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the runs
sparsity: float = 0.95  # sparsity of the trained network at the end, in [0.5, 1) because the decay starts at 0.5
seeds: int = 0  # number of runs per schedule; 0 means the value of the profile
hidden: int = 0  # units per hidden layer; 0 means the value of the profile

# %%
settings = notebooks.start("05_density_decay", profile, seed=seed, sparsity=sparsity, seeds=seeds, hidden=hidden)

# %% [markdown]
# ## Why should the density decay?
#
# A network that is sparse from the first step must choose its links before it has learned anything. GMP ([Zhu and
# Gupta, 2017](https://arxiv.org/abs/1710.01878)), GraNet ([Liu et al., 2021](https://arxiv.org/abs/2106.10404)) and
# CHTss start with many links (in the paper, with half of all possible links). These methods remove links during
# training, so the trained weights decide which links are removed. (GMP prunes by magnitude. A pruned link keeps its
# last weight. A later update restores the link if this weight is then among the largest weights of its layer. GraNet
# prunes and also exchanges links. SET, which appears below, has few links from the start and regrows links at random.
# Stage 06 compares all these methods.) The price of a start with many links is more computation: a link that stays
# longer takes part in more multiplications.
#
# A **schedule** sets the sparsity of the network at each step $t$. The schedule starts at step $t_0$ with the sparsity
# $s_i$, and it ends at step $t_f$ with the sparsity $s_f$. The steps from $t_0$ to $t_f$ are the *window* of the
# schedule. The position in the window is $u = (t - t_0)/(t_f - t_0)$, which is 0 at the start and 1 at the end.
#
# The **cubic** schedule (GMP, GraNet) is steepest at the start and flat at the end:
#
# $$s_t = s_f + (s_i - s_f)(1 - u)^3$$
#
# Let us compute three values by hand, for a sparsity that rises from 0.5 to 0.95. At $u = 0$ the sparsity is
# $0.95 - 0.45 = 0.5$, at $u = \tfrac12$ it is $0.95 - 0.45 \cdot \tfrac18 = 0.89375$, and at $u = 1$ it is 0.95. We
# check these values with a window of 1000 steps:

# %% tags=["nbval-check-output"]
by_hand = {0: 0.5, 500: 0.89375, 1000: 0.95}
for step, value in by_hand.items():
    from_core = cubic_sparsity(step, 0, 1000, initial=0.5, final=0.95)
    print(f"u = {step / 1000:<4} by hand {value:<8} core {from_core:.5f}")
    assert math.isclose(from_core, value)

# %% [markdown]
# The **sigmoid** schedule (CHTss, Equation 1 of the paper) is flat at both ends and steep in the middle. With
# $\sigma(x) = 1/(1 + e^{-x})$ and the steepness $k = 6$, the sparsity is:
#
# $$s_t = s_i + (s_f - s_i) \left[\frac12 + \frac{\sigma(k(2u - 1)) - \frac12}{\sigma(k) - \sigma(-k)}\right]$$
#
# In the window, the sparsity rises from $s_i$ to $s_f$. The expression in the brackets is the *completed share* of this
# rise, a number between 0 and 1. At $u = \tfrac12$ the argument of $\sigma$ is 0 and $\sigma(0) = \tfrac12$, so the
# share is $\tfrac12$ and $s = 0.5 + 0.45/2 = 0.725$. At $u = 0$, the numerator $\sigma(-k) - \tfrac12$ is exactly
# $-\tfrac12$ times the denominator, so the share is 0. At $u = 1$ the share is 1.


# %% tags=["nbval-check-output"]
def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


for step, value in {0: 0.5, 500: 0.725, 1000: 0.95}.items():
    u, k = step / 1000, 6.0
    share = 0.5 + (sigma(k * (2 * u - 1)) - 0.5) / (sigma(k) - sigma(-k))
    assert math.isclose(0.5 + 0.45 * share, value)
    assert math.isclose(sigmoid_sparsity(step, 0, 1000, initial=0.5, final=0.95, k=k), value)
    print(f"u = {u:<4} share {share:.1f}, sparsity {value}")

# %% [markdown]
# ## Two common mistakes
#
# **The rescaling.** The bare sigmoid $s_i + (s_f - s_i)\,\sigma(k(2u - 1))$ comes close to $s_i$ and $s_f$ but does not
# reach them. At $k = 6$, $\sigma(-6) = 0.00247$ and $0.45 \cdot 0.00247 = 0.0011$. So the bare sigmoid starts at a
# sparsity of 0.5011 and ends at 0.9489. This error in the sparsity looks small. But a layer would keep 5.1 % of its
# possible links instead of 5 %. The next cell counts the surplus links in a layer of a million weights:

# %% tags=["nbval-check-output"]
missed = 0.45 * sigma(-6)
print(f"bare sigmoid: from {0.5 + missed:.4f} to {0.95 - missed:.4f}")
surplus = chts.topology.link_count(1000, 1000, 1 - (0.95 - missed)) - chts.topology.link_count(1000, 1000, 0.05)
print(f"links at the end: {surplus:,} more than the correct 50,000")

# %% [markdown]
# **The sign.** The paper's poster prints Equation 1 with $(s_i - s_f)$ in place of $(s_f - s_i)$. What effect would the
# printed sign have?
#
# **Predict:** use the formula as printed, with $s_i = 0.5$ and $s_f = 0.95$. What is the sparsity at the end of the
# window?

# %% tags=["nbval-check-output"]
share_at_the_end = 1.0
literal = 0.5 + (0.5 - 0.95) * share_at_the_end
print(f"with the sign as printed: sparsity {literal:.2f}, density {1 - literal:.2f}")

# %%
window = [step / 100 for step in range(101)]
shares = [0.5 + (sigma(6 * (2 * u - 1)) - 0.5) / (sigma(6) - sigma(-6)) for u in window]
figures.show(
    figures.sparsity_courses(
        {
            "cubic": [cubic_sparsity(step, 0, 100) for step in range(101)],
            "sigmoid": [sigmoid_sparsity(step, 0, 100) for step in range(101)],
            "sign as printed": [0.5 - 0.45 * share for share in shares],
        }
    ),
    "The cubic schedule is steep at the start, and the sigmoid is steep in the middle. Both schedules raise the "
    "sparsity from 0.5 to 0.95. With the sign as printed, the network would become denser.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The sparsity is 0.05: the network would end with 95 % of its possible links instead of 5 %. The printed formula is
# also wrong if $s$ is a density that falls from 0.5 to 0.05: $0.5 + (0.5 - 0.05) = 0.95$, so the network would still
# gain links. The correct factor is $(s_f - s_i)$, and the core uses this factor.
# </details>
#
# ## Equal training FLOPs
#
# The sigmoid keeps many links for longer than the cubic schedule does. How much more computation does the sigmoid need?
# The **excess density** $s_f - s_t$ is the density minus the final density. We sum the excess density over a window of
# $\Delta$ steps:
#
# - cubic: $(s_f - s_i)\int_0^1 (1 - u)^3\,du \cdot \Delta = \frac{s_f - s_i}{4}\,\Delta$;
# - sigmoid: the curve of the completed share is symmetric about the point $(\tfrac12, \tfrac12)$, so for any $k$ the
#   mean excess density is $\frac{s_f - s_i}{2}$ and the sum is $\frac{s_f - s_i}{2}\,\Delta$.
#
# If the sparsity rises from 0.5 to 0.95 in 1000 steps, the sums are $0.45/4 \cdot 1000 = 112.5$ and
# $0.45/2 \cdot 1000 = 225$ *dense steps*. A dense step is the computation of one training step with all links. We check
# the two sums with the trapezoid rule. For each step, this rule takes the mean of the excess density at the start and
# at the end of the step.

# %%
expected = {cubic_sparsity: 112.5, sigmoid_sparsity: 225.0}
for schedule, area in expected.items():
    excess = [0.95 - schedule(step, 0, 1000) for step in range(1001)]
    summed = sum(excess) - (excess[0] + excess[-1]) / 2
    print(f"{schedule.__name__:17} {summed:.3f} dense steps, expected {area}")
    assert abs(summed - area) < 0.01

# %% [markdown]
# In the same window, the sum for the sigmoid is twice the sum for the cubic schedule. So the paper gives the sigmoid
# **half the number of steps**. Then the two schedules have the same cost. If the cubic decay takes 75 % of a run, the
# sigmoid decay takes 37.5 % of the run.

# %%
run = Timeline(total_steps=1000, update_every=1, stop=0.75)
densities = {
    "cubic to 75 %": [1 - Cubic(end=0.75).at(step, run, 0.95) for step in range(1001)],
    "sigmoid to 37.5 %": [1 - Sigmoid(end=0.375).at(step, run, 0.95) for step in range(1001)],
}
figures.show(
    figures.excess_density(densities, final=0.05),
    "The shapes differ, but the areas are equal: 0.45/4 · 75 % = 0.45/2 · 37.5 % = 8.4 % of all links, averaged over "
    "the run. The shaded area is the excess density: the density minus the final 5 %.",
)

# %% [markdown]
# In a real run, the output layer stays dense, and links change only at updates. Without any training, `chts.plan`
# counts the training FLOPs of such a run exactly, as a share of the FLOPs of the dense model.
#
# **Predict:** a cubic decay that ends at 75 % of the run costs about 15 to 20 % of the FLOPs of the dense model. How
# much does a sigmoid decay cost if it ends at 75 % of the run? How much does it cost if it ends at 37.5 %?


# %% tags=["nbval-check-output"]
def planned(sparsity_schedule: Cubic | Sigmoid) -> float:
    model = models.mlp(64, 256, 10, generator=torch.Generator().manual_seed(seed))
    method = replace(chts.METHODS["chtss"], sparsity=sparsity_schedule)
    return chts.plan(model, method, 0.95, total_steps=8000, update_every=100).flops


flops = {
    "cubic to 75 %": planned(Cubic(end=0.75)),
    "sigmoid to 75 %": planned(Sigmoid(end=0.75)),
    "sigmoid to 37.5 %": planned(Sigmoid(end=0.375)),
}
for name, share in flops.items():
    print(f"{name:18} {share:.2%} of the dense FLOPs")
assert math.isclose(flops["cubic to 75 %"], flops["sigmoid to 37.5 %"], abs_tol=1e-4)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Over the same window, the sigmoid costs more than the cubic schedule, by 8.3 % of the FLOPs of the dense model. The
# mean excess density of the sigmoid is larger than the mean excess density of the cubic schedule, by 8.4 % of all
# links. The output layer is dense in all three plans, so the difference in FLOPs is slightly smaller than 8.4 %. If the
# sigmoid's window is half as long, the sigmoid costs the same as the cubic schedule.
# </details>
#
# ## The exchange falls too
#
# The sparsity sets the number of links. The **turnover** $\zeta_t$ is the share of these links that an update at step
# $t$ exchanges: the update removes them and regrows the same number elsewhere. The turnover follows a cosine, from
# $\zeta$ at the first step to 0 at the step where updates stop, $t_\text{end}$:
#
# $$\zeta_t = \frac{\zeta}{2} \left(1 + \cos \frac{\pi t}{t_\text{end}}\right)$$
#
# Let us compute three values by hand, with $\zeta = 0.3$ and $t_\text{end} = 750$. At step 250 the angle is $\pi/3$ and
# its cosine is $\tfrac12$, so an update exchanges $0.15 \cdot 1.5 = 22.5\,\%$ of the links. At step 375 the turnover is
# half of $\zeta$ (15 %), and at step 750 an update exchanges no links.

# %% tags=["nbval-check-output"]
for step, value in {0: 0.3, 250: 0.225, 375: 0.15, 750: 0.0}.items():
    print(f"step {step:<3} exchanges {cosine_turnover(step, 750, 0.3):.1%} of the links")
    assert math.isclose(cosine_turnover(step, 750, 0.3), value, abs_tol=1e-12)

# %% [markdown]
# ## The damage of one update
#
# The paper chooses the sigmoid because the sigmoid starts more smoothly than the cubic schedule: it prunes few links
# while the network is still warming up. We test this claim on the handwritten digits. We train a small MLP at 50 %
# density for a quarter of the run. Then the density of the MLP falls along the cubic schedule, or along the sigmoid at
# equal FLOPs.
#
# An update of CHTss makes **two removals**. First it *prunes*: to lower the number of links, it removes the links with
# the lowest relative importance (stage 04). Then it *exchanges*: it removes a share of the links and regrows the same
# number of links elsewhere. The exchange uses soft removal by weight magnitude (stage 03). To see only the pruning, we
# switch the exchange off ($\zeta = 0$).

# %%
task = data.load_images("digits")
schedules = {"cubic": Cubic(0.5, start=0.25, end=0.75), "sigmoid": Sigmoid(0.5, start=0.25, end=0.5)}
contenders = {
    name: replace(chts.METHODS["chtss"], sparsity=schedule, turnover=Turnover(zeta=0.0))
    for name, schedule in schedules.items()
}
print("CHTss prunes by", chts.METHODS["chtss"].removal.prune, "and exchanges by", chts.METHODS["chtss"].removal.score)

# %% [markdown]
# We measure the loss and the accuracy on the *validation* images just before each update and just after it. The update
# does not change the weights of the remaining links. We give the drop in accuracy in percentage points: a fall from 90
# % to 85 % is 5 points.


# %%
@torch.no_grad()
def validate(model: nn.Module) -> tuple[float, float]:
    loss = F.cross_entropy(model(task.validation.images), task.validation.labels)
    return float(loss), images.accuracy(model, task.validation)


def count(sparsifier: chts.Sparsifier) -> int:
    return sum(int(mask.sum()) for mask in sparsifier.masks.values())


# %%
def prune(method: chts.Method, run_seed: int) -> tuple[list[figures.PruningStep], float]:
    """The pruning steps of one run, and its validation accuracy at the end."""
    generator = torch.Generator().manual_seed(run_seed)
    model = models.mlp(task.features, settings.hidden, task.classes, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, settings.sparsity, total_steps=settings.steps, update_every=20, seed=run_seed
    )
    sparsifier.rescale_weights()  # a sparse layer needs larger weights to let the signal through
    found = []
    for step in range(1, settings.steps + 1):
        batch = torch.randint(len(task.train.labels), (32,), generator=generator)
        loss = F.cross_entropy(model(task.train.images[batch]), task.train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not sparsifier.update_due:
            sparsifier.step()
            continue
        links, before = count(sparsifier), validate(model)
        sparsifier.step()
        if count(sparsifier) < links:
            found.append(
                figures.PruningStep(step, links, count(sparsifier), *zip(before, validate(model), strict=True))
            )
    return found, validate(model)[1]


# %% [markdown]
# **Predict:** which schedule has the update that costs the most accuracy? Does this update also remove the most links?

# %%
runs = {
    name: [prune(method, settings.seed + number) for number in range(settings.seeds)]
    for name, method in contenders.items()
}
steps = {name: [found for found, _ in results] for name, results in runs.items()}

# %%
figures.show(
    figures.pruning_steps(steps),
    "An update in the middle of the sigmoid's window removes many more links than any update of the cubic schedule "
    "(left). It also removes a larger share of the existing links (middle). The right panel shows how much "
    "validation accuracy each update costs. The line is the mean over seeds, and each small mark is one seed.",
)

# %%
rows = []
for name, results in runs.items():
    drops = [sum(step.drop for step in at) / len(at) for at in zip(*steps[name], strict=True)]
    rises = [sum(step.rise for step in at) / len(at) for at in zip(*steps[name], strict=True)]
    one = steps[name][0]  # links and steps are the same for every seed
    accuracy, interval = statistics.mean_and_interval([100 * final for _, final in results])
    rows.append(
        {
            "schedule": name,
            "links removed by the first three updates": sum(step.removed for step in one[:3]),
            "accuracy lost by the first three updates (points)": round(sum(drops[:3]), 2),
            "accuracy lost by the worst update (points)": round(max(drops), 2),
            "step of the worst update": one[drops.index(max(drops))].at,
            "largest rise of the loss at one update": round(max(rises), 2),
            "step that removes most links": max(one, key=lambda step: step.removed).at,
            "largest share of the links removed by one update (%)": round(100 * max(step.share for step in one), 1),
            "step that removes the largest share": max(one, key=lambda step: step.share).at,
            "final accuracy (%)": round(accuracy, 2),
            "95 % interval of the final accuracy (±)": None if math.isnan(interval) else round(interval, 2),
        }
    )
pd.DataFrame(rows).set_index("schedule").T.style.format("{:,.4g}", na_rep="one run")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The numbers below are from the laptop profile with seed 0. At the start, the paper's argument holds. The first three
# updates of the sigmoid remove few links and together cost 0.06 points of accuracy. The first three updates of the
# cubic schedule cost 1.67 points. But in the end, the sigmoid must remove as many links as the cubic schedule. The
# sigmoid has by far the worst update, just after the steep middle of its window. This update costs 23.39 points, while
# the worst update of the cubic schedule costs 7.22 points.
#
# The *number* of removed links does not explain the drop in accuracy. The first update of the cubic schedule removes
# more links than any of its later updates, but costs almost no accuracy, because the network still has half of all
# links. The *share* of removed links (middle panel) is not enough to explain the drop either. The cubic schedule
# removes nearly the same share at its first update and at its worst update. The drop is large when the share is large
# and few links are left. (The sigmoid also has only half as many updates as the cubic schedule for the same fall in
# density.)
#
# The final accuracies differ by less than their confidence intervals, so these runs show no difference between the
# schedules. (The sigmoid also has more time to recover, since its window ends halfway through the run.) These runs say
# nothing about Transformers, for which the paper reports gains.
# </details>
#
# ## A decay that ends after the last update
#
# A run has two separate end points. The density decays until the end of the decay window. Updates stop at a different
# step, at 75 % of the run, so that the newest links are also trained. Pruning is part of an update. So if the window
# ends after the last update, the rest of the decay never happens.
#
# In the published LLaMA setting, the window ends at step 8000, but updates stop at step 7500. Take a target sparsity of
# 0.90. Then $u = 7500/8000 = 0.9375$ and the argument of $\sigma$ is $6 \cdot 0.875 = 5.25$:

# %% tags=["nbval-check-output"]
share = 0.5 + (sigma(5.25) - 0.5) / (sigma(6) - sigma(-6))
reached = sigmoid_sparsity(7500, 0, 8000, initial=0.5, final=0.90)
assert math.isclose(reached, 0.5 + 0.4 * share)
print(f"share {share:.4f}, sparsity {reached:.4f} instead of 0.90")
print(f"density {1 - reached:.4f}: {(1 - reached) / 0.10 - 1:.1%} more links than the target allows")

# %% [markdown]
# Without a check, such a run raises no error. A report of this run would state a sparsity of 90 %, but the model has
# 1.1 % more links than the target allows. With the cubic schedule, the error in the sparsity is smaller,
# $0.4 \cdot 0.0625^3 = 0.0001$, because this schedule is flat at its end. If a window ends after the updates stop, the
# core raises an error before the training starts. The error message shows the two steps:

# %% tags=["nbval-check-output"]
model = models.mlp(64, 256, 10, generator=torch.Generator().manual_seed(seed))
outliving = replace(chts.METHODS["chtss"], sparsity=Sigmoid(end=0.8))
try:
    chts.plan(model, outliving, 0.90, total_steps=10_000, update_every=100)
except ValueError as error:
    refused = str(error)
    print("ValueError:", refused)

# %% [markdown]
# `Timeline.window` performs this check. It also computes the first and the last step of the window. If one of these two
# steps is not an update step, `Timeline.window` replaces it with the last update step before it, or with step 0 if
# there is none.

# %% tags=["nbval-check-output"]
timeline = Timeline(total_steps=10_000, update_every=100, stop=0.75)
print("steps from 0 to 0.375 of the run:", timeline.window(0.0, 0.375))
assert timeline.window(0.0, 0.375) == (0, 3700)  # no update comes at step 3750

# %% [markdown]
# ## The planner
#
# You can see the densities, the links and the cost of a run before it starts. `chts.plan` takes the settings of the
# `Sparsifier` and returns the plan of the run:

# %% tags=["nbval-check-output"]
plan = chts.plan(model, method="chtss", sparsity=0.95, total_steps=8000, update_every=100)
print(plan)

# %% [markdown]
# Read the plan line by line:
#
# - **Density** is a table with a row for each sparse layer. Each row shows the density at the start, after one quarter,
#   one half and three quarters of the updates, and at the end. The last two columns show the number of links at the end
#   and the number of links that the updates exchange. The output layer has no row, because it stays dense.
# - **Final links** is the total number of links of the sparse layers.
# - **Coverage** shows which share of the weights is in the sparse layers, and which layer stays dense.
# - **Updates** take place every 100 steps. The last update is at 75 % of the run.
# - **Links exchanged** is the sum of the last column of the table.
# - **Training FLOPs** count every linear layer, including the dense output layer. This count assumes that absent links
#   cost nothing. With masks on ordinary hardware, absent links cost as much as existing links.
# - **Memory** does not include the memory for activations. Here the weights are dense tensors that hold zeros, so
#   sparsity saves no memory. *Past weights* are the last weights of removed links. The run keeps these weights because
#   a regrown link starts from the last weight that it had.
# - **The last line** describes a cubic schedule that costs as many training FLOPs as the sigmoid. Compare the sigmoid
#   with this cubic schedule.
#
# The plan contains the number of links at every step. Check one of these numbers by hand. The window ends at step 3000
# (37.5 % of the run), so step 1500 is the middle of the window, and the sparsity there is 0.725. Layer `2.weight` is
# 256 × 256, and $(1 - 0.725) \cdot 65536 = 18022.4$. So this layer has 18022 links, because the core rounds to the
# nearest integer.

# %% tags=["nbval-check-output"]
for step in (0, 1500, 3000, 8000):
    print(f"step {step}: sparsity {plan.budget.at(step):.3f}, {plan.budget.links(step)['2.weight']:,} links")
assert plan.budget.links(1500)["2.weight"] == round((1 - 0.725) * 256 * 256) == 18022

# %% [markdown]
# Between two updates the links do not change: the layer has the same links at step 1550 as at step 1500. Now we compare
# the costs of five methods. (`fc` is the dense network, and the next section explains MEST.) You can check the cost of
# SET by hand too. Two layers with 65536 weights each and one layer with 16384 weights keep 5 % of their possible links.
# The output layer of 2560 weights is dense. So SET costs $(0.05 \cdot 147456 + 2560)/150016 = 6.6\,\%$ of the dense
# FLOPs.

# %%
table = {
    name: chts.plan(model, name, 0.95, total_steps=8000, update_every=100).flops
    for name in ("fc", "set", "gmp", "chtss", "mest")
}
assert math.isclose(table["set"], (0.05 * 147456 + 2560) / 150016, rel_tol=1e-3)
pd.DataFrame({"training FLOPs, share of dense": table}).style.format("{:.1%}")

# %% [markdown]
# A run that starts with half of all links costs more than twice as much as a run that is sparse from the start. A fair
# comparison states which quantity is equal for all methods: the number of links at the end or the training FLOPs.
#
# ## MEST: a few more links, in stages
#
# MEST ([Yuan et al., 2021](https://arxiv.org/abs/2110.14032), the version with *elastic mutation and soft bound*) does
# not start with half of all links. MEST divides the steps before the last update into two stages. In the first stage
# (60 % of these steps), the density is 5 percentage points above the target. In the second stage, the density is
# 2.5 points above the target. Each update removes the weakest links until the density reaches the target. Then the
# update regrows links at random, up to the density of the current stage. The last update of the run only removes links.
# Suppose that updates end at step 750 of 1000 and the target density is 5 %. The density is 10 % until step 450, 7.5 %
# until step 750, and then 5 %. So in the first stage, an update exchanges 5 of 10 percentage points, which is half of
# the links. In the second stage, an update exchanges 2.5 of 7.5 points, which is a third. The mean density over the run
# is $0.45 \cdot 10 + 0.3 \cdot 7.5 + 0.25 \cdot 5 = 8\,\%$.

# %%
staged = [1 - chts.METHODS["mest"].sparsity.at(step, run, 0.95) for step in range(1001)]
assert math.isclose(sum(staged[:1000]) / 1000, 0.08, abs_tol=1e-6)
figures.show(
    figures.excess_density({"MEST": staged, "cubic to 75 %": densities["cubic to 75 %"]}, final=0.05),
    "Averaged over the run, the density of MEST is 3 percentage points above the final density. For the cubic decay, "
    "the difference is 8.4 points. The density of MEST falls in two stages.",
)

# %% [markdown]
# ## Explore
#
# **Predict before you move a slider:** at equal FLOPs, a cubic schedule needs a window twice as long as the sigmoid's
# window. The cubic window must not end after the last update. How late can the sigmoid's window end? Does a larger $k$
# change the cost of the run? What will the text below the figure say if the sigmoid's window ends after the last
# update?

# %%
explorer = widgets.DensityDesigner()
explorer

# %% [markdown]
# GitHub does not show widgets. This figure shows the first state of the widget:

# %%
designed = widgets.DensityState()
figures.show(widgets.DensityDesigner.figure(designed), widgets.DensityDesigner.compute(designed).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The sigmoid's window must end at 37.5 % of the run or earlier. If it ends at 37.5 %, the cubic window ends at 75 %, at
# the last update. The steepness $k$ hardly changes the cost, because the mean of the completed share is $\tfrac12$ for
# any $k$. But with a larger $k$, the largest update removes more links. If the window ends after the last update, the
# part of the window after this update is hatched in the figure. The sentence below the figure gives the sparsity that
# the run would reach.
# </details>
#
# ## Exercise: the exact sigmoid
#
# *★★☆ · 10 minutes · essential · objective 1 · write code*
#
# The function below is a first try. It rises towards `final`, but it does not start at `initial` and does not reach
# `final`. Change the function so that it computes Equation 1, with exact endpoints. The check compares your function
# with the core at eleven points, for two values of $k$.


# %% tags=["exercise"]
def exact_sigmoid(u: float, initial: float, final: float, k: float) -> float:
    share = sigma(k * u)
    return initial + (final - initial) * share


# %% tags=["check"]
exercises.check("05.exact_sigmoid", exact_sigmoid)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First compute a number that is $-\tfrac12$ at $u = 0$ and $\tfrac12$ at $u = 1$. To do so, take $\sigma(k(2u - 1))$,
# subtract its value at $u = \tfrac12$, and divide by the difference between its values at $u = 1$ and $u = 0$. Then add
# $\tfrac12$.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def exact_sigmoid(u: float, initial: float, final: float, k: float) -> float:
#     share = 0.5 + (sigma(k * (2 * u - 1)) - 0.5) / (sigma(k) - sigma(-k))
#     return initial + (final - initial) * share
# ```
# </details>

# %% [markdown]
# ## Exercise: links at a step
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# A layer has 200 outputs and 100 inputs. Its sparsity rises from 0.5 to 0.9 along the cubic schedule, from step 0 to
# step 4000. An update comes every 100 steps. How many links does the layer have at step 2050?

# %% tags=["exercise"]
links_at_2050 = None

# %% tags=["check"]
exercises.check("05.links_at_step", links_at_2050)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Between two updates the links do not change. At which step was the last update before step 2050, and what is $u$ at
# that step?
# </details>
#
# <details><summary>Solution</summary>
#
# The last update before step 2050 was at step 2000, in the middle of the window. At this step the sparsity is
# $0.9 - 0.4 \cdot \tfrac18 = 0.85$, so 15 % of the 20000 possible links exist:
#
# ```python
# links_at_2050 = (1 - (0.9 - 0.4 * (1 / 2) ** 3)) * 200 * 100  # 3000
# ```
# </details>

# %% [markdown]
# ## Exercise: links of an exchange
#
# *★☆☆ · 5 minutes · useful · objective 1 · work out*
#
# The layer of the previous exercise now has a fixed sparsity of 0.9, so it has 2000 links. The turnover begins at
# $\zeta = 0.3$ and falls to 0 at $t_\text{end} = 6000$. How many links does the update at step 4000 exchange?
# Estimate first: two thirds of the steps are over, so is the answer a third of $0.3 \cdot 2000 = 600$ links?

# %% tags=["exercise"]
links_exchanged = None

# %% tags=["check"]
exercises.check("05.exchanged", links_exchanged)

# %% [markdown]
# <details><summary>Hint</summary>
#
# At step 4000 the angle in the formula of the turnover is $\tfrac23 \pi$, or 120 degrees. The cosine of this angle is
# negative.
# </details>
#
# <details><summary>Solution</summary>
#
# The cosine of 120 degrees is $-\tfrac12$, so $\zeta_t = 0.15 \cdot (1 - \tfrac12) = 7.5\,\%$. If the turnover fell
# along a straight line, this update would still exchange 10 % of the links. The cosine first falls more slowly than the
# line. After the middle, the cosine is below the line.
#
# ```python
# links_exchanged = 0.3 / 2 * (1 - 1 / 2) * 2000  # 150
# ```
# </details>

# %% [markdown]
# ## Exercise: mean density of a run
#
# *★★☆ · 10 minutes · useful · objective 2 · write code*
#
# If no layer is dense, the training FLOPs divided by the FLOPs of the dense model are equal to the mean density over
# the run. Write a function that computes this mean density. `sparsity_at(step)` is the schedule. The links change only
# at steps that are multiples of `update_every`. So for each step, use the sparsity at the most recent update.
#
# Predict first: if the same decay takes place in fewer updates, does the run cost more or less?


# %% tags=["exercise"]
def mean_density(sparsity_at, total_steps: int, update_every: int) -> float:
    """Mean density over the steps 0, 1, ..., total_steps - 1. Write this function."""


# %% tags=["check"]
exercises.check("05.mean_density", mean_density)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `step // update_every * update_every` is the step of the most recent update.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def mean_density(sparsity_at, total_steps: int, update_every: int) -> float:
#     held = [sparsity_at(step // update_every * update_every) for step in range(total_steps)]
#     return 1 - sum(held) / total_steps
# ```
#
# If the same decay takes place in fewer updates, the run costs more. Links that the schedule would remove between two
# updates stay until the next update.
# </details>

# %% [markdown]
# ## Exercise: a fair window
#
# *★☆☆ · 5 minutes · essential · objective 2 · work out*
#
# A cubic decay goes from 10 % to 70 % of the run. A sigmoid decay also begins at 10 %. At which share of the run must
# the sigmoid decay end, so that the two decays cost the same training FLOPs? Replace `None`.

# %% tags=["exercise"]
sigmoid_end = None

# %% tags=["check"]
exercises.check("05.sigmoid_end", sigmoid_end, planned=planned)

# %% [markdown]
# <details><summary>Hint</summary>
#
# At equal FLOPs, $\frac{s_f - s_i}{4}\,\Delta_{cubic} = \frac{s_f - s_i}{2}\,\Delta_{sigmoid}$. How long is the cubic
# window?
# </details>
#
# <details><summary>Solution</summary>
#
# The cubic window is 0.6 of the run, so the sigmoid's window is 0.3 of the run. This window begins at 0.1, so it ends
# at 0.1 + 0.3:
#
# ```python
# sigmoid_end = 0.4
# ```
# </details>

# %% [markdown]
# ## Exercise: a schedule of your own
#
# *★★★ · 25 minutes · optional · objective 2 · write code*
#
# The sigmoid starts gently, but in our runs it has the worst single update. Design a schedule with a gentle start and
# no steep update. `share_of_fall(u)` returns the completed share of the fall in density at position $u$ of the window.
# For the cubic schedule, this share is $1 - (1 - u)^3$. Your `share_of_fall` must
#
# - be 0 at $u = 0$ and 1 at $u = 1$, and never decrease;
# - cost the same as the cubic schedule in the same window: the mean of 1 minus the share differs from $\tfrac14$ by
#   less than 0.005;
# - start gently: at most 3 % of the fall is complete at $u = 0.1$;
# - have no steep update: at most 4 % of the fall takes place in any hundredth of the window.
#
# The cubic schedule breaks the third rule. A sigmoid that takes only half of the window breaks the fourth rule: up to
# 6.0 % of the fall takes place in one hundredth of the window.


# %% tags=["exercise"]
def share_of_fall(u: float) -> float:
    """Share of the fall that is complete at u in [0, 1]. Write this function."""


# %% tags=["check"]
exercises.check("05.own_schedule", share_of_fall)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Let the share rise along a straight line from $u = a$ to $u = b$. The share is 0 before $a$ and 1 after $b$. Compute
# the mean of $1 - \text{share}$, and then compute the slope of the line.
# </details>
#
# <details><summary>Solution</summary>
#
# The mean of $1 - \text{share}$ is $(a + b)/2$, so $a + b = \tfrac12$. A gentle start needs a large $a$, and a small
# slope $1/(b - a) = 1/(\tfrac12 - 2a)$ needs a small $a$. So $a$ lies between 0.09 and 0.125:
#
# ```python
# def share_of_fall(u: float) -> float:
#     return min(max((u - 0.1) / 0.3, 0.0), 1.0)
# ```
#
# At a given cost, a gentler start means a steeper fall later. We do not know whether this schedule leads to a higher
# accuracy. Only training runs can show this.
# </details>

# %% [markdown]
# ## Exercise: does the density reach its target?
#
# *★★☆ · 10 minutes · essential · objective 3 · write code*
#
# The core refuses a decay that ends after the last update. Published code does not refuse such a decay. Write the
# function that users of such code need: it returns the sparsity at the end of a run. The schedule is the sigmoid from
# 0.5 to `final`, from step 0 to step `window_end`. An update comes every `update_every` steps, but no update comes
# after step `stop`. You may use `sigmoid_sparsity`.


# %% tags=["exercise"]
def reached_sparsity(final: float, window_end: int, stop: int, update_every: int) -> float:
    """Sparsity at the end of the run. Write this function."""


# %% tags=["check"]
exercises.check("05.reached", reached_sparsity)

# %% [markdown]
# <details><summary>Hint</summary>
#
# After the last update, the sparsity does not change. Step `stop` may lie between two updates.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def reached_sparsity(final: float, window_end: int, stop: int, update_every: int) -> float:
#     last = stop // update_every * update_every
#     return sigmoid_sparsity(last, 0, window_end, initial=0.5, final=final)
# ```
#
# After the window, `sigmoid_sparsity` stays at `final`. So a run reaches `final` if its window does not end after the
# last update.
# </details>

# %% [markdown]
# ## To discuss
#
# 1. The paper chooses the sigmoid because of its gentle start. But in our runs, the sigmoid also has the worst single
#    update. Which measurement would decide between the two schedules?
# 2. A decay begins with half of all links, so it needs the memory for these links at the start. On which hardware is
#    memory the limiting factor? Which schedule of this notebook would you choose for such hardware?
# 3. You compare two methods in two cases: for a phone that only runs the trained network, and for a company that pays
#    for the training. In each case, which quantity do you keep equal: the number of links at the end or the training
#    FLOPs?
#
# ## Self-check
#
# 1. The sparsity rises from $s_i = 0.5$ to $s_f = 0.9$. What is the sparsity in the middle of the window, for the cubic
#    schedule and for the sigmoid?
#
# <details><summary>Answer</summary>
#
# With the cubic schedule, the sparsity is $0.9 - 0.4/8 = 0.85$. With the sigmoid, the sparsity is $0.5 + 0.4/2 = 0.7$.
# </details>
#
# 2. Why does the paper give the sigmoid half as many steps as the cubic schedule?
#
# <details><summary>Answer</summary>
#
# The mean excess density of the sigmoid is $(s_f - s_i)/2$, twice the mean excess density of the cubic schedule. If the
# sigmoid has half as many steps, the two schedules need equal training FLOPs.
# </details>
#
# 3. A run raises no error, but it ends at a density of 0.1011 instead of 0.10. Where do you look for the cause?
#
# <details><summary>Answer</summary>
#
# Check whether the decay window ends after the last update. If the schedule is a sigmoid, also check whether the
# sigmoid is rescaled. With the bare sigmoid from 0.5 to 0.9 at $k = 6$, the density would end at
# $0.1 + 0.4 \cdot 0.00247 = 0.10099$.
# </details>
#
# 4. Does a sigmoid with a larger $k$ cost more training FLOPs?
#
# <details><summary>Answer</summary>
#
# No. For any $k$, the curve of the completed share is symmetric about the point $(\tfrac12, \tfrac12)$, so the mean
# density stays the same. With a larger $k$, the largest update removes more links.
# </details>
#
# ## Key takeaways
#
# - The cubic schedule prunes most at the start, and the sigmoid prunes most in the middle. At equal FLOPs, the sigmoid
#   has half as many steps as the cubic schedule.
# - The factor in Equation 1 is $(s_f - s_i)$. Only the rescaled sigmoid reaches both end values exactly.
# - On this small task, the sigmoid lost little accuracy at the start of its window but a lot in the middle. The final
#   accuracies did not show which schedule is better.
# - A decay must not end after the last update. Before the run starts, `chts.plan` refuses a decay that ends later.
#
# ## Further reading
#
# - **The cubic schedule:** Zhu and Gupta, *To prune, or not to prune: exploring the efficacy of pruning for model
#   compression*, 2017, [arXiv 1710.01878](https://arxiv.org/abs/1710.01878).
# - **The cosine of the turnover:** Evci et al., *Rigging the lottery: making all tickets winners*, 2020,
#   [arXiv 1911.11134](https://arxiv.org/abs/1911.11134).
# - **Pruning and regrowing together:** Liu et al., *Sparse training via boosting pruning plasticity with neuroregeneration*,
#   2021, [arXiv 2106.10404](https://arxiv.org/abs/2106.10404).
# - **More links in stages:** Yuan et al., *MEST: accurate and fast memory-economic sparse training framework on the edge*,
#   2021, [arXiv 2110.14032](https://arxiv.org/abs/2110.14032).

# %%
records.publish(
    {
        "sigmoid missed": round(missed, 6),
        "literal sign": round(literal, 6),
        "flops": {name: round(share, 6) for name, share in flops.items()},
        "llama sparsity": round(reached, 4),
        "refused": refused,
        "planned": [{"method": name, "flops": round(share, 6)} for name, share in table.items()],
        "pruning": rows,
    }
)
