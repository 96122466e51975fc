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
# # 06b · Break it: six sick runs
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SET_THE_OWNER/chts/blob/v0.1.0/notebooks/06b_break_it.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/SET_THE_OWNER/chts/v0.1.0?urlpath=lab/tree/notebooks/06b_break_it.ipynb)
#
# **You will be able to**
#
# 1. tell from a curve or a number that a sparse training run is broken;
# 2. find the cause with two lines of PyTorch;
# 3. let an audit watch over your own runs.
#
# | | |
# |---|---|
# | Prerequisites | stage 06; what momentum is |
# | Time | 30 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2 (one update) and Equation 1 (decay of the density) |

# %% tags=["bootstrap"]
# Only on Colab: adds chts and what it lacks there. What is there stays as it is, and nothing needs a restart.
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

import chts_core as chts
from chts_core.lab import data, figures, models
from chts_core.lab.figures import panel
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records
from chts_core.lab.verify import injected_bugs, update_curves
from chts_core.methods import Removal, Sigmoid

print(records.environment_line(torch.device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper: how large the runs are; empty: $CHTS_PROFILE, or laptop
seed: int = 0  # of the topology, and of who the mystery patient is
sparsity: float = 0.9  # share of absent links at the end, above 0.5 since CHTss starts there
epochs: int = 0  # at least 3, for CHTss to decay; 0: as the profile says
hidden: int = 0  # units per hidden layer; 0: as the profile says

# %%
settings = notebooks.start("06b_break_it", profile, seed=seed, sparsity=sparsity, epochs=epochs, hidden=hidden)
task = data.load_images(settings.dataset)

# %% [markdown]
# ## What can go wrong with a zero
#
# Sparse training has many parts that must agree: the mask, the weight, its gradient and what the optimizer remembers. When
# one of them is forgotten, no exception is raised. Often the loss even looks fine.
#
# The smallest case: one link, gradient 1 in two steps, momentum 0.9. The optimizer's buffer is 1 after the first step and
# $0.9 \cdot 1 + 1 = 1.9$ after the second. Now the link is removed: its weight is set to 0 and its gradient stays 0.
# Nothing else is done.

# %%
link = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([link], lr=0.1, momentum=0.9)
for gradient in (1.0, 1.0, 0.0):
    if gradient == 0:
        link.data.zero_()  # removed
    link.grad = torch.tensor([gradient])
    optimizer.step()
    buffer = optimizer.state[link]["momentum_buffer"]
    print(f"gradient {gradient}, buffer {buffer.item():.2f}, weight {link.item():.3f}")

# %% [markdown]
# The removed link moved: the buffer is $0.9 \cdot 1.9 = 1.71$, and the weight $-0.1 \cdot 1.71 = -0.171$. A removed link
# comes back by itself unless its buffer is zeroed too, or the mask is applied again after every optimizer step. And a link
# that is regrown starts with a push from its former life.

# %%
assert math.isclose(link.item(), -0.171, abs_tol=1e-6)

# %% [markdown]
# So this is what must hold between any two steps:
#
# 1. outside the mask, weights are exactly 0;
# 2. outside the mask, the optimizer's state is exactly 0;
# 3. every layer has exactly the number of links that the schedule says;
# 4. there is a path from the inputs to the outputs;
# 5. when no update is left, the final density has been reached;
# 6. all weights are finite;
# 7. right after an update, what it regrew has optimizer state 0. Its weight is 0 too, unless the method says otherwise: in
#    CHTs and CHTss a link that comes back has its last weight.
#
# `chts.audit.audit(sparsifier)` checks the first six at any moment. `chts.audit.Auditor`, called after every step, also
# checks the seventh, for which one must have seen the masks before. With CHTs and CHTss it checks the optimizer's state
# alone there.
#
# ## A healthy run
#
# CHTss trains on the handwritten digits, and an auditor checks every step: the density falls from 50 % to the target.


# %%
sizes = {"hidden": settings.hidden, "epochs": settings.epochs}


def admit(fault=None):
    return injected_bugs.run(task, "chtss", settings.sparsity, fault, **sizes, seed=settings.seed)


healthy = admit()
print(f"loss of the last 20 steps: {sum(healthy.loss[-20:]) / 20:.3f}, findings: {healthy.findings}")
assert healthy.findings == []

# %%
evolution = panel.evolution(healthy.sparsifier.history)
figures.show(
    panel.plot_evolution(evolution),
    "The healthy run. Nearly all neurons stay active, the links of each layer fall along the sigmoid and then "
    "stay as many, and the overlap stays below the ELM line.",
)

# %% [markdown]
# Learn what normal looks like; a symptom is a difference from it. In the figures below the healthy run is dashed. Its
# share of weights that are not zero looks like a comb at first, and that is as it should be: a link that comes for the first
# time has weight 0 until the next optimizer step. Later nearly all links that come have been there before, and the teeth
# vanish.
#
# ## Patient 1: nothing to see
#
# The loss of this patient looks normal.

# %%
first = admit("stale moments")
figures.show(
    figures.vital_signs(healthy, first),
    "Patient 1: the loss, the share of weights that are not zero and the active neurons are much like those of the "
    "healthy run.",
)

# %% [markdown]
# **Predict:** the weights obey the mask at every step, and neurons are active. What else does the optimizer hold that is
# shaped like a weight? What would be wrong with it?

# %%
name = "2.weight"
weight, mask = first.model.get_parameter(name), first.sparsifier.masks[name]
momentum = first.optimizer.state[weight]["momentum_buffer"]
left_behind = int((momentum[~mask] != 0).sum())
print(f"{int(weight[~mask].count_nonzero())} of {int((~mask).sum())} absent links have a weight")
print(f"{left_behind} of {int((~mask).sum())} absent links have momentum")

# %%
report = {finding.layer: finding for finding in chts.audit.audit(first.sparsifier)}
print(report[name].message)
assert left_behind > 0
assert report[name].check == "absent moments"
assert report[name].message.startswith(f"{left_behind} of {int((~mask).sum())} absent links")

# %% [markdown]
# By the end of the run the momentum of what is absent has faded, by a factor of 0.9 per step since the last update. While
# updates came, it had no time to. The auditor, which looked after every step, saw what happens when such links come back:

# %%
regrown = next(finding for finding in first.findings if finding.check == chts.audit.REGROWN)
print(f"{regrown.layer}: {regrown.message}")
assert first.checks == injected_bugs.SIGNATURES["stale moments"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *Stale moments.* The momentum of a removed link stays in the optimizer. If link prediction regrows it, at once or an
# update later, its momentum does not start from zero: its first steps follow gradients of a network that is gone. (CHTss
# gives the link its last *weight* back, and means to; it says nothing of its momentum.) The curve of the loss does not show
# it, and one run could not tell whether it suffers. But the method that ran is not the one that was described. SGD momentum
# that was left unmasked has been found in published code.
#
# Remedy: zero all state of the optimizer that is shaped like the weight whenever a link goes or comes.
# </details>
#
# ## Patient 2: how sparse is it?
#
# The masks of the second patient have exactly the right number of links.

# %%
second = admit("forgotten mask")
print(f"density of the masks after the run: {second.sparsifier.density():.2%}")
figures.show(
    figures.vital_signs(healthy, second),
    "Patient 2: between updates most weights are not zero, though the masks are as sparse as those of the healthy run; "
    "at each update the share drops to the density for one step.",
)

# %% [markdown]
# **Predict:** the share of weights that are not zero jumps up after each update and falls back at the next. Which line of
# code runs at updates but not at every step?

# %%
weight, mask = second.model.get_parameter(name), second.sparsifier.masks[name]
revived = int(weight[~mask].count_nonzero())
print(f"{revived} of {int((~mask).sum())} absent links have a weight")

# %%
report = [finding for finding in chts.audit.audit(second.sparsifier) if finding.layer == name]
print(report[0].message)
assert revived > 0
assert report[0].message.startswith(f"{revived} of {int((~mask).sum())} absent links")
assert second.checks == injected_bugs.SIGNATURES["forgotten mask"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *A forgotten mask.* The mask is applied when the topology changes, but not after every optimizer step, and the gradient
# of absent links is let through. A few steps fill most of the matrix again. The run is a nearly dense one that calls
# itself sparse: its loss says nothing about sparse training, and neither would its accuracy. Masks that were ignored after
# resuming a run, and momentum that moves what has been pruned, have been found in published code.
#
# Remedy: zero the gradient outside the mask, and the weight outside the mask after every step. Count the non-zero weights
# of the *model*, never the ones in the mask.
# </details>
#
# ## Patient 3: flat line

# %%
third = admit("collapsed layer")
figures.show(
    figures.vital_signs(healthy, third),
    "Patient 3: at 40 % of the run the loss jumps to a plateau near 2.3 and stays there, and no neuron is active.",
)

# %% [markdown]
# **Predict:** the loss stays near 2.30. There are ten classes. What does a model know that has this loss? Where would
# you look?

# %%
print(f"loss of the last 20 steps: {sum(third.loss[-20:]) / 20:.3f}; ln 10 = {math.log(10):.3f}")

# %% [markdown]
# The number of paths from each input to each unit of the last hidden layer is a product of masks, layer by layer:

# %%
masks = [mask.double() for mask in third.sparsifier.masks.values()]
paths = masks[2] @ masks[1] @ masks[0]
print("links by layer:", [int(mask.sum()) for mask in masks], "paths:", int(paths.sum()))

# %%
for finding in third.findings:
    print(f"{finding.layer}: {finding.message}")
assert not paths.any()
assert third.checks == {"collapse"} == injected_bugs.SIGNATURES["collapsed layer"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *A collapsed layer.* Its scheduled number of links fell to zero, and no signal passes. The output depends only on the
# biases after the empty layer, so it is the same for every image. The network learns only how frequent each class is: a
# loss near $\ln 10$. The links of the other layers are all incomplete, so no neuron is active. In published code, a
# start step of the density decay other than 0 shrank a network to a density of 0.014 %.
#
# Remedy: look at the links of every layer at every stage before the run; `chts.plan` shows them and refuses an empty
# layer.
# </details>
#
# ## Patient 4: more links than promised
#
# The fourth patient's decay is planned over the whole run, but updates stop at 75 % of it. The planner refuses that:

# %%
late = replace(chts.METHODS["chtss"], sparsity=Sigmoid(initial=0.5, end=1.0))
model = models.mlp(task.features, settings.hidden, task.classes, generator=torch.Generator())
times = {"total_steps": len(healthy.loss), "update_every": healthy.sparsifier.timeline.update_every}
refusal = None
try:
    chts.plan(model, late, settings.sparsity, **times)
except ValueError as error:
    refusal = str(error)
print(refusal)
assert "never be reached" in refusal

# %% [markdown]
# To get the sick run, we switch this check off.
#
# **Predict:** Equation 1 lets the sparsity rise from $s_i$ to $s_f$ along a sigmoid of steepness $k = 6$, rescaled to hit
# both ends:
#
# $$s_t = s_i + (s_f - s_i)\left[\frac12 + \frac{\tanh(3(2u-1))}{2\tanh 3}\right]$$
#
# (This is the formula of stage 05, since $\sigma(x) - \tfrac12 = \tfrac12 \tanh \tfrac{x}{2}$.)
#
# The updates stop at $u = 0.75$. By how many percentage points will the density be too high? About two, ten or thirty?

# %%
fourth = admit("outliving decay")
figures.show(
    figures.vital_signs(healthy, fourth),
    "Patient 4: the share of weights that are not zero falls later than in the healthy run and ends slightly above it.",
)

# %%
share = 1 / 2 + math.tanh(3 * (2 * 0.75 - 1)) / (2 * math.tanh(3))
by_formula = 1 - (0.5 + (settings.sparsity - 0.5) * share)
print(f"promised {1 - settings.sparsity:.2%}, by the formula {by_formula:.2%}")
print(f"in the masks {fourth.sparsifier.density():.2%}")

# %%
print(fourth.findings[0].message)
mask = fourth.sparsifier.masks[fourth.findings[0].layer]
assert fourth.findings[0].message.startswith(f"density {int(mask.sum()) / mask.numel():.2%}")
assert fourth.sparsifier.density() > healthy.sparsifier.density()
assert fourth.checks == {"density"} == injected_bugs.SIGNATURES["outliving decay"]

# %% [markdown]
# The formula and the masks agree up to the step of the last update, which need not fall on 75 % exactly.
#
# <details><summary>What you should have seen</summary>
#
# *A decay that outlives the updates.* About two. The tail of a sigmoid is flat, so little is missing, and the loss
# looks no worse: for most of the run there were more links. That makes a comparison unfair. In published code a window
# longer than the evolution left 1.1 % more links than a target of 10 % allows (stage 05), and 13.5 % more than a target
# of 1 %.
#
# Remedy: end the decay at an update, and count the links of the final model.
# </details>
#
# ## Patient 5: a few too many

# %%
fifth = admit("threshold with ties")
figures.show(
    figures.vital_signs(healthy, fifth),
    "Patient 5: the three curves are much like those of the healthy run; nothing catches the eye.",
)

# %% [markdown]
# **Predict:** regrowth scores all missing links, sorts them, and takes every one whose score reaches that of the last
# one wanted. Scores are kept in bfloat16, which has 8 significant bits. What happens when scores are equal?
#
# By hand: of the scores 5, 4, 4, 4, 1 we want the best two.

# %%
scores = torch.tensor([5.0, 4.0, 4.0, 4.0, 1.0])
threshold = scores.topk(2).values[-1]
print("by threshold:", int((scores >= threshold).sum()), "by rank:", len(scores.topk(2).indices))

# %% [markdown]
# The diagnosis compares the history, row by row, with the plan. One sum over all layers could hide it.

# %%
plan = chts.plan(model, "chtss", settings.sparsity, **times)
updates = panel.evolution(fifth.sparsifier.history)
updates["planned"] = [plan.budget.links(row.step)[row.layer] for row in updates.itertuples()]
wrong = updates[updates.links != updates.planned]
print(f"{len(wrong)} of {len(updates)} rows are off, by up to {(wrong.links - wrong.planned).max()} links")
wrong[["step", "layer", "links", "planned"]].head()

# %%
row, finding = wrong.iloc[0], fifth.findings[0]
print(finding.message)
assert (finding.layer, finding.check) == (row.layer, "links")
assert finding.message.startswith(f"{row.links} links after step {row.step}; expected exactly {row.planned}")
assert fifth.checks == injected_bugs.SIGNATURES["threshold with ties"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *A threshold with ties.* By threshold the toy takes 4 links where 2 were wanted. In the run, scores that differ in
# float32 become equal in bfloat16, and each update may grow more links than it should. `scores >= threshold` has
# been found in published code.
#
# Remedy: take a fixed number by rank, and break ties at random.
# </details>
#
# ## Patient 6: it takes two
#
# *Soft* regrowth draws links at random, in proportion to their scores. The sixth patient's code calls itself soft, but takes
# the highest scores. Each single run passes every check. So run it twice: same weights, same batches, same initial masks,
# hard removal, but different seeds of the topology.
#
# **Predict:** of the links that one run has gained over the initial masks, which share will the other have gained too,
# with true sampling and with the highest scores?

# %%
hard_removal = replace(chts.METHODS["chts"], removal=Removal("magnitude"))  # neither soft nor percolating
draw = torch.Generator().manual_seed(settings.seed)
shapes = {name: mask.shape for name, mask in healthy.sparsifier.masks.items()}
density = 1 - settings.sparsity
start = {name: chts.topology.erdos_renyi(*shape, density, generator=draw) for name, shape in shapes.items()}


def gained(fault, seed):
    given = {"seed": seed, "initial_masks": start, **sizes}
    patient = injected_bugs.run(task, hard_removal, settings.sparsity, fault, **given)
    assert patient.findings == []
    return torch.cat([(mask & ~start[name]).flatten() for name, mask in patient.sparsifier.masks.items()])


# %%
shared = {}
for label, fault in (("soft", None), ("called soft", injected_bugs.top_regrowth)):
    one, other = gained(fault, settings.seed), gained(fault, settings.seed + 1)
    shared[label] = int((one & other).sum()) / int(one.sum())
    print(f"{label}: {int(one.sum())} links gained, {shared[label]:.1%} of them in both runs")
assert shared["called soft"] > shared["soft"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *Regrowth that does not draw.* With the highest scores both runs gain the same links, whatever the seed; only where scores
# tie could they differ. Confidence intervals over such seeds are too narrow, since the topologies are
# copies of each other. Published code has had "soft" regrowth that took the highest scores, with masks identical across
# seeds.
#
# Remedy: compare masks across seeds before you report a mean over seeds.
# </details>
#
# ## Exercise: where does it stop?
#
# *★☆☆ · 5 minutes · useful · objective 2 · work out*
#
# Look at the cell in *What can go wrong with a zero* again. The link is removed when its buffer is 1.9. Its weight
# becomes 0, and its gradient is 0 in all later steps. Nobody clears the buffer. The learning rate is 0.1 and the
# momentum 0.9. At which weight does the link come to rest?

# %% tags=["exercise"]
resting_weight = None

# %% tags=["check"]
exercises.check("06b.resting_weight", resting_weight)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The first step moves the weight by $-0.1 \cdot 0.9 \cdot 1.9 = -0.171$. Each later step is 0.9 times the step before.
# </details>
#
# <details><summary>Solution</summary>
#
# The steps sum to $-0.171 \cdot (1 + 0.9 + 0.9^2 + \dots) = -0.171 / (1 - 0.9)$:
#
# ```python
# resting_weight = -0.171 / (1 - 0.9)
# ```
#
# The removed link ends at −1.71, and no gradient ever asked for this.
# </details>

# %% [markdown]
# ## Exercise: write the check yourself
#
# *★☆☆ · 5 minutes · essential · objective 2 · write code*
#
# Write `absent_weights(weight, mask)`: the number of absent links whose weight is not zero. It must count NaN as not zero.


# %% tags=["exercise"]
def absent_weights(weight, mask):
    return None


# %% tags=["check"]
exercises.check("06b.absent_weights", absent_weights, patient=second)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `~mask` is True where there is no link; `tensor != 0` is True for NaN.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def absent_weights(weight, mask):
#     return int((weight[~mask] != 0).sum())
# ```
# </details>

# %% [markdown]
# ## Exercise: a clean removal
#
# *★★☆ · 15 minutes · essential · objective 2 · write code*
#
# Write the remedy for patient 1: a function that removes links from a layer. `gone` is a Boolean mask of the links that go. Set
# their weight to 0, and also every part of the optimizer's state that has one element per link. Change nothing else. The check
# uses SGD with momentum and Adam.


# %% tags=["exercise"]
def drop_links(optimizer, weight, gone):
    """Remove links from a weight and from the optimizer's state; write it here."""


# %% tags=["check"]
exercises.check("06b.drop_links", drop_links)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `optimizer.state[weight]` is a dictionary of tensors. A tensor with one element per link has the shape of the weight. Work on
# `weight.data`, so that autograd does not see the change.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def drop_links(optimizer, weight, gone):
#     weight.data[gone] = 0
#     for state in optimizer.state[weight].values():
#         if state.shape == weight.shape:
#             state[gone] = 0
# ```
#
# The shape decides, not the name. So the function is right for optimizers that keep other moments.
# </details>

# %% [markdown]
# ## Exercise: who is not trained?
#
# *★★☆ · 10 minutes · useful · objective 2 · write code*
#
# A student builds a model and its optimizer. Then she replaces a weight by a masked copy:
# `layer.weight = nn.Parameter(layer.weight * mask)`. The optimizer still holds the old weight, so the new one never learns. No
# error is raised. Write a function that returns the names of the model's parameters that the optimizer does not hold.


# %% tags=["exercise"]
def not_held(model, optimizer):
    """Names of the parameters that the optimizer does not train; write it here."""


# %% tags=["check"]
exercises.check("06b.not_held", not_held)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `model.named_parameters()` gives names and parameters. `optimizer.param_groups` is a list of dictionaries, each with a list
# under `"params"`. Two tensors with equal values can be two objects; `id(tensor)` tells them apart.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def not_held(model, optimizer):
#     held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
#     return [name for name, parameter in model.named_parameters() if id(parameter) not in held]
# ```
#
# A `Sparsifier` refuses such an optimizer when it is built.
# </details>

# %% [markdown]
# ## Exercise: let an auditor watch
#
# *★★☆ · 10 minutes · essential · objective 3 · write code*
#
# `train_step()` does one step of training, up to and with `optimizer.step()`. It does not call `sparsifier.step()`: you
# do. Train for `steps` steps, and call the auditor after each step. At the first finding, return the number of the step
# and the finding's `check`. The first step has the number 1. If nothing is ever found, return None. In the run of the
# check a fault appears, and it disappears before the end.


# %% tags=["exercise"]
def first_finding(sparsifier, train_step, steps):
    """Step and check of the first finding, or None; write it here."""


# %% tags=["check"]
exercises.check("06b.first_finding", first_finding)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Build one `chts.audit.Auditor(sparsifier)` before the loop. Its `check()` comes after `sparsifier.step()` and returns a list of
# new findings.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def first_finding(sparsifier, train_step, steps):
#     auditor = chts.audit.Auditor(sparsifier)
#     for step in range(1, steps + 1):
#         train_step()
#         sparsifier.step()
#         found = auditor.check()
#         if found:
#             return step, found[0].check
# ```
# </details>

# %% [markdown]
# ## Exercise: find the patient from its curves
#
# *★★★ · 25 minutes · useful · objective 1 · write code*
#
# Here are six recorded runs of one layer: CHTs at 90 % sparsity, 128 steps, an update every 8 steps until 75 % of the run. One is
# healthy, and each of the others has another fault. You have the rows of the history alone, no weights and no masks.
#
# | name | what happened |
# |---|---|
# | `"healthy"` | nothing |
# | `"stuck"` | regrowth takes the best scores, so most links come back at once |
# | `"random regrowth"` | every missing link is equally likely to be regrown |
# | `"collapsed layer"` | a layer of this network has lost all its links |
# | `"threshold with ties"` | regrowth takes every score that reaches the threshold |
# | `"early end"` | the updates stop too early |

# %%
recorded_runs = update_curves.patients()
figures.show(
    figures.update_courses(recorded_runs),
    "Six recorded runs of one layer, after each update: the share of regrown links that had just been removed, the ITOP rate "
    "and the active neurons. Some lines lie on each other.",
)

# %%
pd.DataFrame(recorded_runs["A"])

# %% [markdown]
# Write a function that takes the rows of one run and returns a name of the table. A row is a dictionary with the columns above.
# The check also has runs that are not on this page: another layer, and another seed. Two things to think about first:
#
# - The last updates exchange few links. How much does one value of the overlap say then?
# - A layer has $48 \cdot 48 = 2304$ possible links and 230 existing ones. The first update exchanges 68. Which overlap does
#   pure chance give?


# %% tags=["exercise"]
def which_fault(rows):
    """The name of the fault of a run, from the rows of its history; write it here."""


# %% tags=["check"]
exercises.check("06b.which_fault", which_fault)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Ask the certain questions first: are any neurons active at the end, is the number of links constant, at which step is the last
# update? Only then look at the overlap, as a share of *all* regrown links of the run:
# $\sum \text{overlap} \cdot \text{regrown} / \sum \text{regrown}$. By chance it is about $68 / (2304 - 230 + 68) = 3$ %.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def which_fault(rows):
#     last = rows[-1]
#     if last["anp"] == 0:
#         return "collapsed layer"
#     if len({row["links"] for row in rows}) > 1:
#         return "threshold with ties"
#     if last["step"] < 64:
#         return "early end"
#     returned = sum(row["overlap"] * row["regrown"] for row in rows) / sum(row["regrown"] for row in rows)
#     return "stuck" if returned > 0.5 else "random regrowth" if returned < 0.05 else "healthy"
# ```
#
# In these runs the share is 1 to 3 % for random regrowth, 11 to 13 % for the healthy runs, and 62 to 68 % where regrowth is
# stuck. The order of the questions matters. The layer behind a collapse exchanges all its links at every update, so its ITOP rate
# rises fastest of all. And a threshold with ties is stuck as well.
# </details>

# %% [markdown]
# ## Exercise: the mystery patient
#
# *★★☆ · 15 minutes · useful · objective 1 · work out*
#
# Another run of CHTs like the six above, trained now. The seed has chosen what is wrong with it:
#
# | name | what happened |
# |---|---|
# | `"best scores"` | regrowth takes the best scores |
# | `"random regrowth"` | every missing link is equally likely to be regrown |
# | `"too many links"` | regrowth brings half as many links again as it should |
# | `"removal by place"` | removal takes all links of the first outputs, whatever their weights are |
#
# **First on paper:** write for each name what it does to the overlap, to the active neurons and to the number of links. Two of
# the names lower the overlap. Which curve separates these two? Then look.

# %%
mystery, healthy_run = (
    update_curves.mystery(name, settings.seed, data.load_images("digits"))
    for name in (update_curves.drawn(settings.seed), "healthy")
)
both = pd.DataFrame(
    [{"layer": "healthy"} | row for row in healthy_run] + [{"layer": "mystery"} | row for row in mystery]
)
figures.show(
    panel.plot_evolution(both),
    "The mystery patient and a healthy run of the same layer, after each update: active neurons, ITOP rate, overlap and links.",
)

# %%
print("of the regrown links had just been removed:")
for who, rows in {"healthy": healthy_run, "mystery": mystery}.items():
    returned = sum(row["overlap"] * row["regrown"] for row in rows) / sum(row["regrown"] for row in rows)
    print(f"{who}: {returned:.0%}")

# %% tags=["exercise"]
diagnosis = None

# %% tags=["check"]
exercises.check("06b.diagnosis", diagnosis, patient=mystery, healthy=healthy_run)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at the links first: they are exact. Then at the active neurons. Compare the overlap last, with the healthy run and with
# pure chance, 3 % (see the exercise before).
# </details>
#
# <details><summary>Solution</summary>
#
# | name | overlap | active neurons | links |
# |---|---|---|---|
# | `"best scores"` | far higher: the best scores are mostly those of the links just removed | as usual | as usual |
# | `"random regrowth"` | as by chance | as usual | as usual |
# | `"too many links"` | a little higher | as usual | above the plan, most after the first updates |
# | `"removal by place"` | as by chance: a removed output has no paths, so its links have no score | two thirds are lost | as usual |
#
# The overlap alone cannot tell `"removal by place"` from `"random regrowth"`. The same questions in code, for every seed:
#
# ```python
# returned = sum(row["overlap"] * row["regrown"] for row in mystery) / sum(row["regrown"] for row in mystery)
# if len({row["links"] for row in mystery}) > 1:
#     diagnosis = "too many links"
# elif min(row["anp"] for row in mystery) < 0.8:
#     diagnosis = "removal by place"
# else:
#     diagnosis = "best scores" if returned > 0.3 else "random regrowth"
# ```
# </details>
#
# ## All faults in one table
#
# Every fault was found by its checks and by no other:

# %%
patients = dict(zip(injected_bugs.FAULTS, (first, second, third, fourth, fifth), strict=True))
for name, patient in patients.items():
    assert patient.checks == injected_bugs.SIGNATURES[name], name
ward = [
    {
        "fault": name,
        "loss at the end": round(sum(patient.loss[-20:]) / 20, 3),
        "weights not zero": round(patient.nonzero[-1], 3),
        "density": round(patient.density[-1], 3),
        "found by": ", ".join(sorted(patient.checks)) or "nothing",
    }
    for name, patient in {"healthy": healthy, **patients}.items()
]
pd.DataFrame(ward).style.hide(axis="index").format(precision=3)

# %% [markdown]
# | fault | symptom | diagnostic | remedy |
# |---|---|---|---|
# | stale moments | none in the loss | optimizer state outside the mask | zero the state of what goes or comes |
# | forgotten mask | far more weights than links between updates | weights outside the mask | mask gradient and weight at every step |
# | collapsed layer | loss of a blind guess, ln(classes) | product of the masks is 0 | plan every layer at every stage |
# | outliving decay | final density a little too high | final links against the target | end the decay at an update |
# | threshold with ties | none in the loss | links by layer and update against the plan | a number by rank, ties at random |
# | regrowth that does not draw | none in one run | links gained by two seeds | draw, and compare the masks of seeds |
#
# ## A value that is NaN
#
# One fault occurs in dense and in sparse networks: a value that is NaN or infinite. It spreads. Let one pixel of 32
# images be NaN, as a broken file or a logarithm of 0 may leave it. How far does it spread? One image of 64 pixels has
# it, then all 32 neurons that see this image, and then its 10 scores. The loss is a mean over images, so one image is
# enough.

# %%
network = models.mlp(task.features, 32, task.classes, generator=torch.Generator().manual_seed(settings.seed))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
images, labels = task.train.images[:32], task.train.labels[:32]
spoilt = images.clone()
spoilt[5, 20] = math.nan


def loss_of(batch):
    return torch.nn.functional.cross_entropy(network(batch), labels)


loss_of(spoilt).backward()
contagion = chts.numerics.find_nonfinite(network, lambda: loss_of(spoilt))
for entry in contagion:
    print(entry)

# %% [markdown]
# `find_nonfinite` lists the tensors with such values, and the possible cause comes first: here 1 of 32 · 64 = 2,048
# values, the input of the first layer. At the end of the list every gradient is NaN, and after one more step of the
# optimizer every weight would be. No later batch could cure that.
#
# So such a step must be left out. A `GradScaler` does this, in any precision. The Sparsifier then postpones an update
# that is due and names the layers. If a weight is NaN, it refuses the update. The trainings of `chts train` leave out
# such steps by themselves and record which.

# %%
scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
for batch in (spoilt, images):
    before = [weight.detach().clone() for weight in network.parameters()]
    optimizer.zero_grad()
    scaler.scale(loss_of(batch)).backward()
    scaler.step(optimizer)
    scaler.update()
    changed = not all(map(torch.equal, before, network.parameters()))
    print(f"{int(batch.isnan().sum())} of the pixels NaN: the step was {'taken' if changed else 'left out'}")
assert str(contagion[0]) == f"the input of 0 (1 of {32 * task.features} values)"
assert chts.numerics.find_nonfinite(network) == []

# %% [markdown]
# ## To discuss
#
# 1. A week before the deadline you find stale moments in all your finished runs. The losses look the same. Which results do you
#    still report, and with which sentence?
# 2. An audit after every step costs time. For which part of a long run would you pay it, and which faults would you miss?
# 3. A published code forgets its mask, and it reproduces the accuracy of its paper. Is the result of the paper right? What would
#    you write to the authors?
#
# ## Self-check
#
# 1. A colleague proves that her network is sparse by the mean of its masks. What do you ask for?
#
# <details><summary>Answer</summary>
#
# The share of the model's weights that are not zero, measured just before the model computes. Patient 2 had perfect masks.
# </details>
#
# 2. Why does an audit at rest not see whether a regrown link started without momentum?
#
# <details><summary>Answer</summary>
#
# After the next optimizer step every link may have momentum. One must look right after the update, and know the masks
# before it.
# </details>
#
# 3. Which of the patients would a comparison of accuracies have exposed?
#
# <details><summary>Answer</summary>
#
# The collapsed layer, by any measure. The other losses differ little from the healthy loss. One run per patient cannot
# show whether a small difference is real.
# </details>
#
# 4. A layer stores only its links (stage 07). Which two of the first six checks have nothing to check there?
#
# <details><summary>Answer</summary>
#
# Weights and optimizer state outside the mask: there is no place to keep them. A regrown link could still start with
# the momentum of another, so the seventh check remains.
# </details>
#
# ## Key takeaways
#
# - Bugs of sparse training rarely raise and rarely show in the loss; invariants show them.
# - Three numbers catch most: non-zero weights of the model, links per layer against the plan, state outside the mask.
# - Add `auditor = chts.audit.Auditor(sparsifier)` and `auditor.check()` after `sparsifier.step()` to a short trial run.
#
# ## Further reading
#
# - **Layers that collapse:** Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*,
#   2020, [arXiv 2006.05467](https://arxiv.org/abs/2006.05467).
# - **Momentum in sparse training:** Dettmers and Zettlemoyer, *Sparse networks from scratch: faster training without losing
#   performance*, 2019, [arXiv 1907.04840](https://arxiv.org/abs/1907.04840).
# - **Links that were ever active:** Liu et al., *Do we actually need dense over-parameterization? In-time over-parameterization
#   in sparse training*, 2021, [arXiv 2102.02887](https://arxiv.org/abs/2102.02887).
# - **Steps that are left out:** Micikevicius et al., *Mixed precision training*, 2018,
#   [arXiv 1710.03740](https://arxiv.org/abs/1710.03740).
# - **Why papers on pruning are hard to compare:** Blalock et al., *What is the state of neural network pruning?*, 2020,
#   [arXiv 2003.03033](https://arxiv.org/abs/2003.03033).

# %%
records.publish(
    {
        "absent links with momentum": left_behind,
        "absent links with a weight": revived,
        "gained by both seeds, soft": round(shared["soft"], 4),
        "gained by both seeds, called soft": round(shared["called soft"], 4),
        "diagnosis": diagnosis,
        "patients": ward,
    }
)
