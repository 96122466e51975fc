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
# **You will be able to**
#
# 1. recognise a broken sparse training run by a curve or a number;
# 2. find the cause with two lines of PyTorch;
# 3. check your own runs with an audit.
#
# | | |
# |---|---|
# | Prerequisites | stage 06; the momentum of an optimizer |
# | Time | 30 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2 (one update) and Equation 1 (decay of the density) |

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

import chts_core as chts
from chts_core.lab import data, figures, models
from chts_core.lab.figures import panel
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records
from chts_core.lab.verify import injected_bugs, update_curves
from chts_core.methods import Removal, Sigmoid

print(records.environment_line(torch.device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the runs; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of the topology and of the choice of the mystery patient
sparsity: float = 0.9  # share of absent links at the end, above 0.5 because CHTss starts at 0.5
epochs: int = 0  # epochs, at least 3 so that CHTss can decay; 0 means the value of the profile
hidden: int = 0  # units per hidden layer; 0 means the value of the profile

# %%
settings = notebooks.start("06b_break_it", profile, seed=seed, sparsity=sparsity, epochs=epochs, hidden=hidden)
task = data.load_images(settings.dataset)

# %% [markdown]
# ## What can go wrong with a zero
#
# Sparse training has many parts that must agree: the mask, the weight, its gradient and the state of the optimizer. If
# the code forgets to update one of these parts, Python raises no exception. Often even the loss looks fine.
#
# The smallest example is a single link. Its gradient is 1 in each of the first two steps. The learning rate is 0.1, and
# the momentum is 0.9. The optimizer's momentum buffer is 1 after the first step and $0.9 \cdot 1 + 1 = 1.9$ after the
# second. Now we remove the link: we set its weight to 0, and from now on its gradient is 0. We do nothing else.

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
# The weight of the removed link has changed: the buffer is $0.9 \cdot 1.9 = 1.71$, and the weight is
# $-0.1 \cdot 1.71 = -0.171$. A removed link comes back by itself, unless the code also sets its buffer to 0 or applies
# the mask again after every optimizer step. If the code only applies the mask, the old momentum stays in the buffer and
# moves the weight when the link is regrown.

# %%
assert math.isclose(link.item(), -0.171, abs_tol=1e-6)

# %% [markdown]
# So the following rules must hold between any two steps:
#
# 1. outside the mask, weights are exactly 0;
# 2. outside the mask, the optimizer's state is exactly 0;
# 3. every layer has exactly the number of links that the schedule sets;
# 4. there is a path from the inputs to the outputs;
# 5. after the last update, every layer has its final density;
# 6. all weights are finite;
# 7. right after an update, the optimizer state of the regrown links is 0. The weights of these links are 0 too, unless
#    the method sets them to other values: in CHTs and CHTss, a link that returns starts with its last weight.
#
# You can call `chts.audit.audit(sparsifier)` between any two steps. This function checks the first six rules. Use
# `chts.audit.Auditor` to check a run after every step. An auditor also checks the seventh rule, because it remembers
# the masks from before the update. In a run of CHTs or CHTss, the auditor checks only the optimizer state of the
# regrown links, not their weights.
#
# ## A healthy run
#
# We train a network on the handwritten digits with CHTss, which lowers the density from 50 % to the target density. An
# auditor checks the run after every step.


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
    "In the healthy run, nearly all neurons stay active. The number of links of each layer falls along the sigmoid and "
    "then stays constant. The overlap stays below the dotted ELM line.",
)

# %% [markdown]
# Learn what a healthy run looks like: a symptom is a difference from a healthy run. In the figures below, the dashed
# curves show the healthy run. At the beginning of this run, the share of weights that are not zero falls at each update
# and rises again after it, so its curve looks like a comb. This shape is normal: a link that is regrown for the first
# time has weight 0 until the next optimizer step. Later, nearly all regrown links were in the network before and start
# with their last weights, so the teeth of the comb vanish.
#
# ## Patient 1: nothing to see
#
# A *patient* is a run with a fault. The loss of the first patient looks normal.

# %%
first = admit("stale moments")
figures.show(
    figures.vital_signs(healthy, first),
    "Patient 1 looks healthy: the loss, the share of weights that are not zero and the share of active neurons differ "
    "little from the values of the healthy run.",
)

# %% [markdown]
# The weights outside the mask are 0 at every step, and the number of active neurons is about the same as in the healthy
# run. **Predict:** which part of the optimizer state has the shape of the weight matrix? What could be wrong with this
# part?

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
# By the end of the run, the momentum of absent links has faded: it has shrunk by a factor of 0.9 in each step since the
# last update. Earlier in the run, the momentum had too little time to fade between two updates. The auditor checked
# every step, so it found regrown links that still had their old momentum:

# %%
regrown = next(finding for finding in first.findings if finding.check == chts.audit.REGROWN)
print(f"{regrown.layer}: {regrown.message}")
assert first.checks == injected_bugs.SIGNATURES["stale moments"]

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *Stale moments.* The momentum of a removed link stays in the optimizer. If link prediction regrows this link in the
# same update or in the next one, the momentum of the link does not start from zero. So the first steps of this link
# follow the gradients of an earlier network. (CHTss deliberately gives the link its last *weight*, but not its last
# momentum.) The loss curve does not show the fault, and one run cannot show whether the accuracy suffers. But the run
# does not use the method that it claims to use. Some published code did not mask the momentum of SGD.
#
# Remedy: whenever an update removes or regrows a link, set the optimizer state of this link to 0. The optimizer keeps
# one or more tensors with the shape of the weight matrix. In each of these tensors, one entry belongs to the link.
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
    "Patient 2: between updates, most weights are not zero, although the masks are as sparse as the masks of the "
    "healthy run. At each update, the share of weights that are not zero drops to the density of the masks. One step "
    "later, the share rises again.",
)

# %% [markdown]
# The share of weights that are not zero jumps up after each update and falls back at the next update. **Predict:**
# which line of code runs at updates but not at every step?

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
# *A forgotten mask.* The code applies the mask when the topology changes, but not after every optimizer step. The code
# does not mask the gradient either. After a few steps, most entries of the weight matrix are non-zero again. So the run
# is nearly dense, although it claims to be sparse. Neither its loss nor its accuracy says anything about sparse
# training. Some published code ignored the masks after a run was resumed. In other published code, momentum moved
# pruned weights.
#
# Remedy: outside the mask, set the gradient and the weight to 0 at every step. To measure the sparsity, count the
# non-zero weights of the *model*. You cannot see this fault in the masks.
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
# The images have ten classes, and the loss stays near 2.30. **Predict:** what has the model learned if its loss stays
# at this value? Where would you look for the fault?

# %%
print(f"loss of the last 20 steps: {sum(third.loss[-20:]) / 20:.3f}; ln 10 = {math.log(10):.3f}")

# %% [markdown]
# The product of the masks contains the number of paths from each input to each unit of the last hidden layer:

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
# *A collapsed layer.* The scheduled number of links of one layer fell to zero, so no signal passes through this layer.
# The output depends only on the biases after the empty layer, so the output is the same for every image. The network
# learns only how frequent each class is, and its loss stays near $\ln 10$. No path leads from an input to an output, so
# all links of the other layers are incomplete (stage 04) and no neuron is active. In published code, a density decay
# that did not start at step 0 reduced the density of a network to 0.014 %.
#
# Remedy: before the run, look at the planned links of every layer over time. `chts.plan` shows the planned links and
# refuses an empty layer.
# </details>
#
# ## Patient 4: more links than promised
#
# The density of the fourth patient should decay over the whole run, but the updates stop at 75 % of the run. The
# planner refuses these settings:

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
# To create the sick run, we switch off this check of the planner.
#
# In Equation 1, the sparsity rises along a sigmoid with steepness $k = 6$. The sigmoid is rescaled to start at $s_i$
# and end at $s_f$:
#
# $$s_t = s_i + (s_f - s_i)\left[\frac12 + \frac{\tanh(3(2u-1))}{2\tanh 3}\right]$$
#
# (This is the formula of stage 05, since $\sigma(x) - \tfrac12 = \tfrac12 \tanh \tfrac{x}{2}$.)
#
# Here, $s_i = 0.5$ and $s_f = 0.9$, and $u$ is the elapsed share of the decay, which lasts for the whole run. The
# updates stop at $u = 0.75$. **Predict:** by how many percentage points will the final density be too high? About two,
# ten or thirty?

# %%
fourth = admit("outliving decay")
figures.show(
    figures.vital_signs(healthy, fourth),
    "Patient 4: the share of weights that are not zero falls later than in the healthy run. At the end, the share is "
    "slightly higher than in the healthy run.",
)

# %%
share = 1 / 2 + math.tanh(3 * (2 * 0.75 - 1)) / (2 * math.tanh(3))
by_formula = 1 - (0.5 + (settings.sparsity - 0.5) * share)
print(f"promised density {1 - settings.sparsity:.2%}, density by the formula {by_formula:.2%}")
print(f"density of the masks {fourth.sparsifier.density():.2%}")

# %%
print(fourth.findings[0].message)
mask = fourth.sparsifier.masks[fourth.findings[0].layer]
assert fourth.findings[0].message.startswith(f"density {int(mask.sum()) / mask.numel():.2%}")
assert fourth.sparsifier.density() > healthy.sparsifier.density()
assert fourth.checks == {"density"} == injected_bugs.SIGNATURES["outliving decay"]

# %% [markdown]
# The density that the formula gives may differ slightly from the density of the masks, because each layer has a whole
# number of links and the last update may come slightly before 75 % of the run.
#
# <details><summary>What you should have seen</summary>
#
# *An outliving decay.* The density should still fall after the last update, but only an update can lower it. So the
# final density is about two percentage points too high. The tail of a sigmoid is flat, so the error is small. The loss
# looks no worse, because this run had more links than the healthy run for most of the training. But the additional
# links make a comparison with other methods unfair. In published code, a decay window that ended after the last update
# left 1.1 % more links than the target density of 10 % allows (stage 05). With a target density of 1 %, the window left
# 13.5 % more links than the target allows.
#
# Remedy: end the decay at an update, and count the links of the final model.
# </details>
#
# ## Patient 5: a few too many

# %%
fifth = admit("threshold with ties")
figures.show(
    figures.vital_signs(healthy, fifth),
    "Patient 5 looks healthy: all three measures are much like those of the healthy run.",
)

# %% [markdown]
# **Predict:** the code of this patient scores all missing links and sorts them. To regrow $n$ links, the code uses the
# $n$-th highest score as a threshold and regrows every link with at least this score. The code stores the scores in
# bfloat16, which has 8 significant bits. What happens when several scores are equal?
#
# Here is a small example: we want the two best of five links with the scores 5, 4, 4, 4 and 1.

# %%
scores = torch.tensor([5.0, 4.0, 4.0, 4.0, 1.0])
threshold = scores.topk(2).values[-1]
print("links by threshold:", int((scores >= threshold).sum()), "links by rank:", len(scores.topk(2).indices))

# %% [markdown]
# To find the fault, we compare the history with the plan, row by row. A sum over all layers would not show which layers
# have the fault.

# %%
plan = chts.plan(model, "chtss", settings.sparsity, **times)
updates = panel.evolution(fifth.sparsifier.history)
updates["planned"] = [plan.budget.links(row.step)[row.layer] for row in updates.itertuples()]
wrong = updates[updates.links != updates.planned]
print(
    f"{len(wrong)} of {len(updates)} rows have a wrong number of links, by up to "
    f"{(wrong.links - wrong.planned).max()} links"
)
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
# *A threshold with ties.* In the small example, the threshold selects 4 links instead of 2. In the run, scores that
# differ in float32 become equal in bfloat16. So each update may regrow more links than it should. Some published code
# used `scores >= threshold`.
#
# Remedy: take a fixed number of links by rank, and break ties at random.
# </details>
#
# ## Patient 6: it takes two
#
# *Soft* regrowth draws links at random, with probabilities proportional to their scores. The code of the sixth patient
# claims to be soft, but it takes the links with the highest scores. Each run of this code, taken alone, passes every
# check. So we run the code twice with different seeds of the topology. Both runs have the same initial weights, the
# same batches and the same initial masks, and both remove links by the hard rule.
#
# **Predict:** each run gains links that were not in the initial masks. What share of the gained links will be the same
# in both runs if regrowth really draws links? What share will be the same if regrowth takes the links with the highest
# scores?

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
# *Regrowth that does not draw.* If regrowth takes the links with the highest scores, both runs gain the same links,
# whatever the two seeds are. The runs could differ only where scores are equal. Confidence intervals from such runs are
# too narrow, since the topologies are copies of each other. In some published code, "soft" regrowth took the links with
# the highest scores, and the masks were identical across seeds.
#
# Remedy: compare masks across seeds before you report a mean over seeds.
# </details>
#
# ## Exercise: where does it stop?
#
# *★☆☆ · 5 minutes · useful · objective 2 · work out*
#
# Look again at the code cell in the section *What can go wrong with a zero*. The link is removed when its momentum
# buffer is 1.9. Its weight becomes 0, and its gradient is 0 in all later steps. The code does not clear the buffer. The
# learning rate is 0.1 and the momentum is 0.9. Which value does the weight of the link approach?

# %% tags=["exercise"]
resting_weight = None

# %% tags=["check"]
exercises.check("06b.resting_weight", resting_weight)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The first step after the removal moves the weight by $-0.1 \cdot 0.9 \cdot 1.9 = -0.171$. Each later step is 0.9 times
# as large as the step before.
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
# The weight of the removed link approaches −1.71, although the link's gradient is 0 in all these steps.
# </details>

# %% [markdown]
# ## Exercise: write the check yourself
#
# *★☆☆ · 5 minutes · essential · objective 2 · write code*
#
# Write a function `absent_weights(weight, mask)` that returns the number of absent links whose weight is not zero. NaN
# must count as not zero.


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
# Write the remedy for patient 1: a function that removes links from a layer. `gone` is a Boolean mask of the links that
# the function removes. Set their weights to 0. The optimizer's state contains tensors with one element per weight. In
# each of these tensors, also set the entries of the removed links to 0. Change nothing else. The check uses SGD with
# momentum and Adam.


# %% tags=["exercise"]
def drop_links(optimizer, weight, gone):
    """Remove links from a weight and from the optimizer's state. Write this function."""


# %% tags=["check"]
exercises.check("06b.drop_links", drop_links)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `optimizer.state[weight]` is a dictionary of tensors. A tensor with one element per weight has the shape of `weight`.
# Work on `weight.data`, so that autograd does not record the change.
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
# The function looks at the shape of a tensor, not at its name. So it also works for optimizers with other state tensors
# of this shape.
# </details>

# %% [markdown]
# ## Exercise: who is not trained?
#
# *★★☆ · 10 minutes · useful · objective 2 · write code*
#
# A student builds a model and its optimizer. Then she replaces a weight with a masked copy: `layer.weight =
# nn.Parameter(layer.weight * mask)`. The optimizer still holds the old weight, so it never changes the new weight.
# Python raises no error. Write a function that returns the names of the model's parameters that the optimizer does not
# hold.


# %% tags=["exercise"]
def not_held(model, optimizer):
    """Names of the parameters that the optimizer does not train. Write this function."""


# %% tags=["check"]
exercises.check("06b.not_held", not_held)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `model.named_parameters()` yields pairs of a name and a parameter. `optimizer.param_groups` is a list of dictionaries.
# Each dictionary contains a list of parameters under the key `"params"`. Two different tensors can have equal values.
# Compare `id(tensor)` to see whether two names refer to the same tensor.
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
# If the optimizer does not hold the weight of a sparse layer, building a `Sparsifier` raises an error.
# </details>

# %% [markdown]
# ## Exercise: let an auditor watch
#
# *★★☆ · 10 minutes · essential · objective 3 · write code*
#
# `train_step()` does one step of training, including `optimizer.step()`. It does not call `sparsifier.step()`, so your
# function must call it. Train for `steps` steps, and call the auditor after each step. At the first finding, return the
# number of the step and the finding's `check`. Count the steps from 1. If the auditor finds nothing, return None. The
# check of this exercise uses a run in which a fault appears and disappears again before the end.


# %% tags=["exercise"]
def first_finding(sparsifier, train_step, steps):
    """The step and the check of the first finding, or None. Write this function."""


# %% tags=["check"]
exercises.check("06b.first_finding", first_finding)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Build one `chts.audit.Auditor(sparsifier)` before the loop. In the loop, call the auditor's method `check()` after
# `sparsifier.step()`. This method returns a list of new findings.
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
# Here are six recorded runs of one layer. All six runs were meant to use CHTs at 90 % sparsity for 128 steps, with an
# update every 8 steps during the first 75 % of the run. One run is healthy, and each of the other runs has a different
# fault. You have only the rows of the history, but no weights and no masks.
#
# | name | what happened |
# |---|---|
# | `"healthy"` | there is no fault |
# | `"stuck"` | regrowth takes the links with the best scores, so the update brings back most of the links that it just removed |
# | `"random regrowth"` | every missing link is equally likely to be regrown |
# | `"collapsed layer"` | a layer of this network has lost all its links |
# | `"threshold with ties"` | regrowth takes every link whose score reaches the threshold |
# | `"early end"` | the updates stop too early |

# %%
recorded_runs = update_curves.patients()
figures.show(
    figures.update_courses(recorded_runs),
    "The six runs differ in the links that come back, in the links that were ever active, and in the active "
    "neurons. Each column shows one run in blue and the others in grey. The title of each column gives the active "
    "neurons after the first and the last update.",
)

# %%
pd.DataFrame(recorded_runs["A"])

# %% [markdown]
# Write a function that takes the rows of one run and returns a name from the first table of this exercise. A row is a
# dictionary whose keys are the columns of the second table. The check also uses runs that are not on this page: runs of
# another layer, and runs with another seed. Think about two questions first:
#
# - The last updates exchange few links. How much can you learn from the overlap of one such update?
# - A layer has $48 \cdot 48 = 2304$ possible links and 230 existing links. The first update exchanges 68 links. What
#   overlap would you expect by pure chance?


# %% tags=["exercise"]
def which_fault(rows):
    """The name of the fault of a run, from the rows of its history. Write this function."""


# %% tags=["check"]
exercises.check("06b.which_fault", which_fault)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First ask the questions that have a clear answer. Are any neurons active at the end? Is the number of links constant?
# At which step is the last update? Only then compute the overlap of the whole run, as a share of *all* its regrown
# links: $\sum \text{overlap} \cdot \text{regrown} / \sum \text{regrown}$. By pure chance, this share is about
# $68 / (2304 - 230 + 68) = 3$ %.
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
# In these runs, the share is 1 to 3 % for random regrowth, 11 to 13 % for the healthy runs, and 62 to 68 % for the
# stuck runs. The order of the questions matters, because a run with one fault can look like a run with another fault.
# After a layer has collapsed, the next layer exchanges all its links at every update, so the ITOP rate of the next
# layer rises even faster than with random regrowth. The overlap of a run with the fault *threshold with ties* is as
# high as the overlap of a stuck run.
# </details>

# %% [markdown]
# ## Exercise: the mystery patient
#
# *★★☆ · 15 minutes · useful · objective 1 · work out*
#
# The mystery patient is a run of the same kind as the six runs above, but it was not recorded: the next cell trains it
# now. The seed has chosen one of these faults:
#
# | name | what happened |
# |---|---|
# | `"best scores"` | regrowth takes the links with the best scores |
# | `"random regrowth"` | every missing link is equally likely to be regrown |
# | `"too many links"` | regrowth adds one and a half times as many links as it should |
# | `"removal by place"` | the update removes all links of the outputs with the lowest indices, whatever the weights of these links are |
#
# **First on paper:** for each fault, write down how it changes the overlap, the number of active neurons and the number
# of links. Two of the faults lower the overlap. Which curve distinguishes these two faults from each other? Then look
# at the figure.

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
    "The panels compare the mystery patient with a healthy run of the same layer after each update: the active "
    "neurons, the ITOP rate, the overlap and the links.",
)

# %%
print("share of the regrown links that had just been removed:")
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
# First look at the number of links, because it is exact. Then look at the active neurons. Last, compare the overlap of
# the mystery patient with the overlap of the healthy run and with the overlap expected by pure chance (3 %, see the
# previous exercise).
# </details>
#
# <details><summary>Solution</summary>
#
# | name | overlap | active neurons | links |
# |---|---|---|---|
# | `"best scores"` | far higher than in the healthy run, because most links with the best scores have just been removed | as usual | as usual |
# | `"random regrowth"` | as high as expected by pure chance | as usual | as usual |
# | `"too many links"` | a little higher than in the healthy run | as usual | above the plan, most of all after the first updates |
# | `"removal by place"` | as high as expected by pure chance: an output without links has no paths, so its missing links have a score of 0 | two thirds of the neurons become inactive | as usual |
#
# The overlap alone cannot distinguish `"removal by place"` from `"random regrowth"`. The code below follows the hint
# and works for every seed:
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
# Each of the first five faults triggered exactly the checks that we expected:

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
# | stale moments | none in the loss | optimizer state outside the mask | set the optimizer state of removed and regrown links to 0 |
# | forgotten mask | between updates, far more non-zero weights than links | weights outside the mask | mask the gradient and the weight at every step |
# | collapsed layer | the loss of a random guess: ln(number of classes) | the product of the masks is 0 | check the planned links of every layer |
# | outliving decay | a final density that is a little too high | final number of links, compared with the target | end the decay at an update |
# | threshold with ties | none in the loss | number of links in each layer after each update, compared with the plan | take a fixed number of links by rank, and break ties at random |
# | regrowth that does not draw | none in one run | links gained in runs with two seeds | draw at random, and compare masks across seeds |
#
# ## A value that is NaN
#
# One fault occurs in both dense and sparse networks: a value that is NaN or infinite. Such a value spreads. Take 32
# images and let one pixel of one image be NaN, for example because a file is damaged. How far does the NaN spread? At
# first, one pixel of an image with 64 pixels is NaN. Then the values of all 32 neurons of each hidden layer are NaN for
# this image, and so are the 10 class scores. The loss is a mean over all 32 images, so one image is enough to make the
# loss NaN.

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
# `find_nonfinite` lists the tensors that contain NaN or infinite values. The list begins with the possible cause: here,
# this is the input of the first layer, where 1 of 32 · 64 = 2,048 values is NaN. At the end of the list, every gradient
# is NaN. After one step of the optimizer, every weight would be NaN too. No later batch could repair these weights.
#
# So the optimizer must skip such a step. A `GradScaler` skips such steps in any precision. If an update is due at a
# skipped step, the `Sparsifier` postpones the update and prints a warning, which names the layers whose gradients are
# not finite. If a weight is NaN, the `Sparsifier` refuses the update. `chts train` needs no `GradScaler`: it skips
# a step whose loss or gradients are not finite, and it records the number of the step.

# %%
scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
for batch in (spoilt, images):
    before = [weight.detach().clone() for weight in network.parameters()]
    optimizer.zero_grad()
    scaler.scale(loss_of(batch)).backward()
    scaler.step(optimizer)
    scaler.update()
    changed = not all(map(torch.equal, before, network.parameters()))
    print(f"{int(batch.isnan().sum())} NaN pixels: the step was {'taken' if changed else 'skipped'}")
assert str(contagion[0]) == f"the input of 0 (1 of {32 * task.features} values)"
assert chts.numerics.find_nonfinite(network) == []

# %% [markdown]
# ## To discuss
#
# 1. A week before the deadline, you find stale moments in all your finished runs. The losses look like the losses of
#    healthy runs. Which results would you still report, and what would you write about the fault?
# 2. An audit after every step costs time. In which part of a long run would you use such an audit? Which faults would
#    you miss in the rest of the run?
# 3. The published code of a paper forgets to apply its mask, but the code reproduces the accuracy that the paper
#    reports. Is the result of the paper correct? What would you write to the authors?
#
# ## Self-check
#
# 1. A colleague shows the mean of her masks to prove that her network is sparse. What do you ask for?
#
# <details><summary>Answer</summary>
#
# Ask for the share of the model's weights that are not zero, measured just before a forward pass. In patient 2, the
# masks were perfect, but most of the weights outside them were not zero.
# </details>
#
# 2. `chts.audit.audit` checks a run at a single step. Why can this function not detect whether a regrown link started
#    without momentum?
#
# <details><summary>Answer</summary>
#
# After the next optimizer step, every link may have momentum. To see whether a regrown link started with momentum, you
# must look right after the update and know the masks from before the update.
# </details>
#
# 3. Which patients would you have found by comparing only the losses?
#
# <details><summary>Answer</summary>
#
# You would have found only patient 3, with the collapsed layer. The losses of the other patients differ little from the
# loss of the healthy run. One run per patient cannot show whether a small difference is real.
# </details>
#
# 4. A layer stores only its links (stage 07). For which two of rules 1 to 6 does `chts.audit.audit` have nothing to
#    check in such a layer?
#
# <details><summary>Answer</summary>
#
# For rules 1 and 2, because the layer stores no weights and no optimizer states outside the mask. A regrown link could
# still start with the momentum of another link, so the check of rule 7 is still useful.
# </details>
#
# ## Key takeaways
#
# - Bugs in sparse training rarely raise an error and rarely show in the loss. To find them, check the rules that must
#   hold at every step.
# - Three numbers reveal most bugs: the number of non-zero weights of the model, the number of links per layer (compared
#   with the plan), and the number of non-zero values in the optimizer state outside the mask.
# - In a short trial run, build `auditor = chts.audit.Auditor(sparsifier)` before the loop, and call `auditor.check()`
#   after each `sparsifier.step()`.
#
# ## Further reading
#
# - **Layers that collapse:** Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*,
#   2020, [arXiv 2006.05467](https://arxiv.org/abs/2006.05467).
# - **Momentum in sparse training:** Dettmers and Zettlemoyer, *Sparse networks from scratch: faster training without losing
#   performance*, 2019, [arXiv 1907.04840](https://arxiv.org/abs/1907.04840).
# - **Links that were ever active:** Liu et al., *Do we actually need dense over-parameterization? In-time over-parameterization
#   in sparse training*, 2021, [arXiv 2102.02887](https://arxiv.org/abs/2102.02887).
# - **Skipped steps:** Micikevicius et al., *Mixed precision training*, 2018, [arXiv
#   1710.03740](https://arxiv.org/abs/1710.03740).
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
