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
# # 06 · A sparse MLP, nine ways
#
# **You will be able to**
#
# 1. train an image classifier with 1 % of its links;
# 2. attach any method to your own training loop in two lines;
# 3. interpret a race between methods without fooling yourself.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; stages 02, 03, 04 and 05 help; a PyTorch training loop |
# | Time | 30 minutes to read, under two minutes to run on the handwritten digits |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2, Equation 1 and the MLP table |

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
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from scipy import stats
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab import data, figures, models, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records, report, statistics
from chts_core.lab.train import images
from chts_core.methods import Constant, ErdosRenyi, ReceptiveField, Regrowth, Removal, Turnover  # noqa: F401 - to mix

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the race
device: str = "auto"  # auto, cpu or cuda
dataset: str = ""  # digits, fashion_mnist, mnist, emnist or cifar10; empty means the choice of the profile
sparsity: float = 0.99  # share of absent links, in [0.5, 1) because several methods start at 0.5
epochs: int = 0  # epochs, at least 3 so that CHTss can decay; 0 means the value of the profile
seeds: int = 0  # number of runs per method; 0 means the value of the profile
hidden: int = 0  # units per hidden layer; 0 means the value of the profile
data_dir: str = ""  # folder in which we look for data first
out_dir: str = ""  # folder of checkpoints and records, so that an interrupted race can continue; empty means none

# %%
settings = notebooks.start(
    "06_mlp",
    profile,
    seed=seed,
    device=device,
    dataset=dataset,
    sparsity=sparsity,
    epochs=epochs,
    seeds=seeds,
    hidden=hidden,
)

# %% [markdown]
# ## The task
#
# The network takes an image and predicts its class. We split the images into three parts. We train the network on the
# *training* images, we choose between settings on the *validation* images, and we measure the final accuracy on the
# *test* images. We never use the test images to choose.

# %%
task = data.load_images(settings.dataset, data_dir)
sizes = {part: len(getattr(task, part).labels) for part in ("train", "validation", "test")}
print(sizes)
figures.show(figures.images(task), f"These are the first ten training images of {task.name}, with their classes.")

# %% [markdown]
# ## A method is five choices
#
# Most methods change their links during training, in *updates*. A method specifies how the network is wired at the
# start, which links an update removes, which links the update regrows, how many links the network has at step $t$, and
# how many links an update exchanges. Each row of the table below describes one method. Compare two rows to see in which
# choices the two methods differ. FC removes nothing and regrows nothing, so its row has a dash in the columns *removal*
# and *regrowth*. The turnover of FC and GMP is *none*, because they exchange no links. But GMP lowers its number of
# links.

# %%
table = pd.DataFrame({name: widgets.method_mixer.in_words(method) for name, method in chts.METHODS.items()}).T
table.loc["fc", ["removal", "regrowth"]] = "–"  # FC is never updated
table.rename(columns={"sparsity": "number of links"})

# %% [markdown]
# - **FC** is the dense network, which the sparse methods try to match.
# - **SET**, *sparse evolutionary training* ([Mocanu et al., 2018](https://arxiv.org/abs/1707.04780)), removes the links
#   with the smallest weights and regrows links at random.
# - **RigL**, *the rigged lottery* ([Evci et al., 2020](https://arxiv.org/abs/1911.11134)), removes links as SET does,
#   but regrows the links with the largest gradients.
# - **GMP**, *gradual magnitude pruning* ([Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)), lowers the number of
#   links step by step. GMP remembers the last weight of each removed link. Each update compares these weights with the
#   weights of the existing links, and keeps the links with the largest weights. So a removed link can return.
# - **GraNet**, *gradual pruning with neuroregeneration* ([Liu et al., 2021](https://arxiv.org/abs/2106.10404)), lowers
#   the number of links on the same schedule as GMP, and also exchanges links as RigL does.
# - **MEST**, *memory-economic sparse training* ([Yuan et al., 2021](https://arxiv.org/abs/2110.14032)), trains with
#   more links than it keeps at the end. At first, the extra links are 5 % of all possible links. Later, they are 2.5 %.
#   Every update removes the weakest links until only the final number of links remains, and then regrows the extra
#   links at random. The last update only removes links.
# - **CHT** is the first method in this list that uses only the topology to predict links. CHT starts from receptive
#   fields (stage 01). Its updates stop permanently when every layer has reached an overlap above 90 % (a later section
#   explains *overlap*).
# - **CHTs** also starts from receptive fields. CHTs removes links by soft sampling, so most of the removed links have
#   small weights (stage 03). Percolation then cuts the *incomplete* links, which carry no information (stage 04). CHTs
#   draws the new links with probabilities proportional to their CH2-L3n scores (stage 02). A link that returns starts
#   with its last weight.
# - **CHTss** works like CHTs, but its density falls from 50 % to the final density along a sigmoid (stage 05). To lower
#   the number of links, CHTss removes the links with the lowest *relative importance*, not the links with the smallest
#   weights.
#
# ## One update, by hand
#
# Take the layer in the cell below. It has three outputs (rows), four inputs (columns) and six links. We remove one
# link. By *weight magnitude* $|W_{ij}|$, the weakest link has weight 1. This link goes from input 1 to output 0.
# *Relative importance* (RI) is the sum of two shares: $|W_{ij}|$ divided by the sum of all magnitudes at the same
# input, and $|W_{ij}|$ divided by the sum of all magnitudes at the same output.
#
# $$\mathrm{RI}_{ij} = \frac{|W_{ij}|}{\sum_k |W_{kj}|} + \frac{|W_{ij}|}{\sum_k |W_{ik}|}$$
#
# The link of weight 1 accounts for 1/3 of the total weight in its column and 1/3 of the total weight in its row, so its
# RI is 0.67. The link from input 2 to output 2 accounts for 2/6 of the total weight in its column and 2/10 of the total
# weight in its row, so its RI is 0.53. This RI is the lowest in the layer, although the link has weight 2. The reason
# is that the two neurons of this link have other links that are much stronger.

# %%
weight = torch.tensor([[2.0, 1, 0, 0], [0, 2, 4, 0], [0, 0, 2, 8]])
mask = weight != 0
importance = weight / weight.sum(dim=0) + weight / weight.sum(dim=1, keepdim=True)
print(importance.round(decimals=2))
assert torch.allclose(importance, chts.removal.relative_importance(weight), atol=1e-4)
assert importance[mask].min() == importance[2, 2]

# %% [markdown]
# The better score depends on the task. The paper removes links by magnitude on MNIST and EMNIST, in translation and in
# LLaMA, and by relative importance on Fashion-MNIST. In this notebook, CHTs removes links by magnitude. The cell below
# uses the hard rule and removes the weakest link. CHTs instead draws the links that stay, with probabilities
# proportional to $|W|^T$ (stage 03).

# %%
generator = torch.Generator().manual_seed(seed)
survivors = chts.sampling.keep(chts.removal.magnitude(weight), mask, 5, soft=False, generator=generator)
print(survivors.int())
assert not survivors[0, 1]

# %% [markdown]
# Now we regrow one link. We draw a missing link with a probability proportional to its CH2-L3n score. Two of the
# missing links have a path of three links between their ends. Each of these two links has a score of 4. All other
# missing links have a score of 0.

# %%
scores = chts.link_prediction.ch2_l3n(survivors)
regrown = chts.link_prediction.sample_links(survivors, 1, generator=generator)
print(scores, regrown.int(), sep="\n")
assert scores[1, 3] == scores[2, 1] == 4 == scores.sum() / 2
assert scores[regrown].tolist() == [4]

# %% [markdown]
# Which weight does a regrown link start with? In CHTs, it starts with its last weight. The link that we regrew was
# never in the network before, so it starts with 0. If a later update brings back the link that we removed, that link
# starts with its last weight, 1.

# %%
last = weight * ~survivors
print(weight * survivors + last * regrown)
assert (last[regrown] == 0).all()
assert last[0, 1] == 1

# %% [markdown]
# ## Two lines in your own loop
#
# You attach a `Sparsifier` to a model and its optimizer, much as you attach a learning-rate scheduler. Call
# `sparsifier.step()` after `optimizer.step()`. The run below has forty steps. Updates are due every ten steps in the
# first three quarters of the run, that is, at steps 10, 20 and 30. At step 30, the share of links to exchange has
# fallen to 0. So only two updates change links:

# %%
model = models.mlp(task.features, settings.hidden, task.classes, generator=generator)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
sparsifier = chts.Sparsifier(model, optimizer, "chts", sparsity, total_steps=40, update_every=10, seed=seed)
sparsifier.rescale_weights()  # a sparse layer needs larger weights to let the signal through

for batch in torch.randperm(len(task.train.labels), generator=generator)[: 40 * 25].split(25):
    loss = F.cross_entropy(model(task.train.images[batch]), task.train.labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    sparsifier.step()

# %% [markdown]
# The `Sparsifier` records every update. The number of links never changes: each update regrows as many links as it
# removes.

# %%
history = pd.DataFrame(sparsifier.history)
assert history.groupby("layer").links.nunique().eq(1).all()
history.drop(columns="seconds").round(3)

# %% [markdown]
# `overlap` is the share of the regrown links that the same update had just removed. If the overlap is near 1, the
# network is stuck in an *epitopological local minimum*. `anp` is the share of the layer's output neurons that are
# active after the update. `itop` is the share of all possible links that were ever active. (The paper's ANP is a
# different share: the number of neurons active after an update, divided by the number active before it. Stage 04
# computes the paper's ANP.)
#
# An update should exchange at most ζ = 30 % of the links, but percolation may remove additional links. With so few
# links, some neurons have no incoming links. These neurons are inactive, and percolation cuts their outgoing links
# (stage 04).
#
# All weights outside the mask are 0:

# %%
for name, mask in sparsifier.masks.items():
    weight = model.get_parameter(name)
    assert int(mask.sum()) == chts.topology.link_count(*mask.shape, 1 - sparsity)
    assert bool((weight[~mask] == 0).all())
    print(f"{name}: {int(mask.sum())} of {mask.numel()} links")

# %% [markdown]
# ## Choose on the validation images
#
# How local should the receptive field of CHTs be? The parameter $r$ controls this locality (stage 01). We choose $r$ on
# the validation images, not on the test images. We try each value of $r$ with the same seeds and the same number of
# steps.

# %%
# The paper trains on all images. We set some images aside as validation images.
recipe = replace(images.RECIPES[settings.recipe], hidden=settings.hidden, epochs=settings.epochs, all_images=False)
all_seeds = range(settings.seed, settings.seed + settings.seeds)
candidates = {f"r = {r}": replace(chts.METHODS["chts"], topology=ReceptiveField(r)) for r in (0.0, 0.25, 1.0)}
folder = Path(out_dir) if out_dir else None
apart = folder and folder / "trials"
trials = images.race(task, candidates, sparsity, recipe, seeds=all_seeds, device=settings.device, folder=apart)

# %%
validation = {}
for name in candidates:
    validation[name], interval = statistics.mean_and_interval(
        [run.validation_accuracy[-1] for run in trials if run.method == name]
    )
    print(f"{name:<8}  validation accuracy {validation[name]:.1%} ± {interval:.1%}")
chosen = max(validation, key=validation.__getitem__)
print("chosen:", chosen)

# %% [markdown]
# The intervals are too wide to rank the three values of $r$. We did not use the test images to choose $r$, so the test
# accuracy stays unbiased. But the comparison of methods is not fully fair: we tried three settings of CHTs, but only
# one setting of every other method. CHTss uses the same $r$ as CHTs. The other methods run with the settings in the
# table of methods. We did not tune these settings. Not all settings come from the papers. For image tasks, the paper
# starts CHT, CHTs and CHTss from CSTI, a topology that depends on the correlations between the inputs (stage 01). Here,
# these methods start from receptive fields. The preset `chts/paper_mlp` starts from CSTI. In RigL's paper, there is one
# update every 100 steps. Here, every method has one update per epoch.
#
# ## The race
#
# We train nine methods with several seeds. All runs have the same number of steps. Runs with the same seed also have
# the same initial weights and batches.
#
# **Predict:** with 1 % of the links, by how many percentage points is each sparse method behind FC? We say that a
# method *stumbles* if it loses accuracy during training. Some methods start with more than 1 % of the links. Which of
# these methods will stumble? Write down your answers before you run the cells.

# %%
topology = candidates[chosen].topology
METHODS = chts.METHODS | {name: replace(chts.METHODS[name], topology=topology) for name in ("chts", "chtss")}
runs = images.race(task, METHODS, sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder)

# %%
figures.show(
    figures.race(runs),
    "Methods that lower their number of links may lose accuracy while they remove many links (right). The methods "
    "on the left keep their number of links. FC is in both panels. Each line is the mean validation accuracy over "
    "seeds. The section *What did we find?* shows the intervals.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# In the right panel, the accuracy of a method dips when the method removes links faster than the remaining links can
# adapt. The accuracy of CHTss dips where its sigmoid is steep. GMP and GraNet have smaller dips. MEST shows no dip, not
# even at its last update, because we measure the accuracy just after an update. At that moment, the extra links are new
# and have weight 0, so they do not change the output. But MEST learns slowly at the start. The left panel shows no
# dips, because the methods in this panel keep the number of links constant during the whole run. The table of
# differences below and the section *What did we find?* show how many points each method is behind FC.
# </details>
#
# ## Equal steps are not equal cost
#
# Now we use the test images. In each run, we test the network of the last epoch. All methods were trained for the same
# number of steps, but methods that start with more links need more arithmetic. The column `FLOPs` gives the cost of the
# whole run as a share of FC's cost, if absent links cost nothing. This cost follows from the schedule of the method, so
# we can compute it before the run. For CHTs, the cost (2.7 %) is larger than the density (1 %), because the output
# layer stays dense. The cost of RigL and GraNet also includes the gradients of absent links, which these two methods
# need at each update.

# %%
summary = [
    row | {"flops": images.plan_run(task, METHODS[row["method"]], sparsity, recipe).flops}
    for row in images.summarise(runs)
]
shown = pd.DataFrame(summary).rename(
    columns={"accuracy": "test accuracy", "active_neurons": "active", "flops": "FLOPs"}
)
percent = ["test accuracy", "interval", "density", "active", "itop", "FLOPs"]
shown.style.hide(axis="index").format("{:.1%}", subset=percent, na_rep="–").format("{:.1f}", subset=["seconds"])

# %% [markdown]
# The column `seconds` shows that the sparse methods are not faster than FC. Every method here multiplies dense matrices
# and does not skip their zeros, and the sparse methods also update their masks.
#
# **When does it pay to store only the links?** `Sparsifier(..., execution="csr")` stores only the weights and the
# positions of the links (csr: *compressed sparse rows*). On the CPU of our recorded measurements, with 1 % of the
# links, a layer of 1568 × 1568 processes 256 samples 12 times as fast as `nn.Linear`. With 5 % of the links, the layer
# is 5 times as fast as `nn.Linear`, but with 30 % of the links, the layer is slower. The measurements include the
# forward and the backward pass. A product of dense matrices reads whole blocks of numbers, which is fast. A product
# with a sparse matrix must look up each link. In a narrow layer, calling the operation takes longer than computing the
# product. So csr pays off at a low density, in wide layers, and on a CPU. Stage 07 shows at which density csr starts to
# pay off on your machine.
#
# ## Is the difference real?
#
# The column `interval` is the half-width of the 95 % confidence interval of the mean of $n$ accuracies $x_i$ with
# standard deviation $s$:
#
# $$t_{n-1} \cdot \frac{s}{\sqrt{n}}, \qquad s^2 = \frac{1}{n-1} \sum_i (x_i - \bar x)^2$$
#
# With few runs, the factor $t$ of Student's distribution is much larger than 1.96, which is its value for many runs:

# %%
for n in (2, 3, 5, 10, 1000):
    print(f"{n:>4} runs: t = {stats.t.ppf(0.975, n - 1):.2f}")

# %% [markdown]
# Runs with the same seed share their initial weights and batches. So subtract one accuracy from the other for each
# seed, and report the interval of the mean *difference*. If a seed is lucky for both runs, this luck cancels out in the
# difference.

# %%
differences = [row for rival in ("fc", "chts") for row in statistics.paired_differences(runs, rival)]
table = {name: {"minus FC": "", "minus CHTs": ""} for name in METHODS}
for row in differences:
    interval = "" if row["interval"] is None else f" ± {100 * row['interval']:.1f}"
    rival = "minus FC" if row["rival"] == "fc" else "minus CHTs"
    table[row["method"]][rival] = f"{100 * row['difference']:+.1f}{interval}"
pd.DataFrame(table).T

# %% [markdown]
# The table shows differences in test accuracy, in percentage points. If an interval contains 0, these runs do not show
# that one of the two methods is better. The runs do not show that the two methods are equal either. The table contains
# fifteen different comparisons. A 95 % interval misses the true difference in about one in twenty cases, so expect
# about one wrong interval here. Do not expect the same order of the methods as in the paper's tables: images of 8×8
# pixels and layers of a few hundred links make this a different task.
#
# ## A small dense network
#
# A sparse network has few weights. A *narrow* dense network has few weights too, and it needs no masks. With $d$
# inputs, three hidden layers of width $w$ have $dw + 2w^2$ weights. We take the largest width for which this number of
# weights is at most the number of links of a sparse network. We train a dense network of this width with the same
# recipe.
#
# **Predict:** how wide is this network? Compute the width by hand. For the digits, $d = 64$. The section *Two lines in
# your own loop* shows the number of links of each sparse layer. Is the narrow network better or worse than the sparse
# networks?

# %%
links = sum(int(mask.sum()) for mask in runs[-1].last_masks.values())
width = max(w for w in range(1, settings.hidden) if task.features * w + 2 * w**2 <= links)
small = images.race(
    task,
    {"small": "fc"},
    sparsity,
    replace(recipe, hidden=width),
    seeds=all_seeds,
    device=settings.device,
    folder=folder and folder / "small",
)
mean, interval = statistics.mean_and_interval([run.test_accuracy for run in small])
beside = statistics.paired_differences([*small, *runs], "small")
print(f"{links} links; a dense network of width {width} has {task.features * width + 2 * width**2} weights")
print(f"small dense network: {mean:.1%}" + ("" if interval is None else f" ± {interval:.1%}"))
beside_small = pd.DataFrame(beside).set_index("method")[["difference", "interval"]]
percents = {"difference": "{:+.1%}", "interval": "{:.1%}"}
beside_small.style.format(percents, na_rep="–").set_caption(
    "Test accuracy minus the test accuracy of the small network."
)

# %% [markdown]
# A sparse method that is behind this network has no advantage over a narrow dense network on this task. For the digits,
# `results/README.md` shows recorded runs with ten seeds at sparsities of 90, 95 and 97 %. This comparison has two
# limits: the digits are an easy task, and the output layer of the narrow network is smaller than the output layer of
# the sparse networks. The results may differ on a larger task, so a larger task needs new runs.
#
# ## How to flatter a method
#
# Many reports give the accuracy of the *best test epoch*, the epoch with the highest test accuracy. We recorded the
# test accuracy of every epoch, so we can see the effect of this choice.
#
# **Predict:** can the best test epoch ever be worse than the last epoch? Which methods gain the most if we report their
# best test epoch? What is special about their best epochs?

# %%
choices = images.epoch_choices(runs)
columns = ["last epoch", "chosen on validation", "best test epoch"]
shown = pd.DataFrame(choices).assign(flattery=[row["best test epoch"] - row["last epoch"] for row in choices])
shown.style.hide(axis="index").format("{:.1%}", subset=[*columns, "flattery"])

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The best test epoch is a maximum, so it is never worse than the last epoch. This is the first problem: the gain comes
# only from the choice of the epoch. The gain is largest for methods whose accuracy varies a lot between epochs. Methods
# that lower their number of links have a second problem: their best epoch may come *before* the network reaches its
# final sparsity. The accuracy of such an epoch is the accuracy of a denser network. The column `best had more links`
# counts the runs with such a best epoch. (For MEST, this problem matters less: its extra links have weight 0 when we
# measure the accuracy.) If we choose the epoch on the validation images, we solve the first problem, but not the
# second. So we report the last epoch.
# </details>
#
# ## What happened to the network
#
# Now we look at the first hidden layer of a CHTs run, before and after training. We repeat this run and keep the mask
# after each update. The repeated run is the same as the first, because it uses the same seed. In the figure, the links
# that still lie near the diagonal come from the initial receptive field. New links gather in a few columns, because
# link prediction favours inputs that are already well connected.

# %%
played = images.train(
    task, METHODS["chts"], sparsity, recipe, seed=settings.seed, device=settings.device, label="chts", snapshots=True
)
raced = next(run for run in runs if run.method == "chts")
assert settings.device.type == "cuda" or played.test_by_epoch == raced.test_by_epoch

# %%
first = next(iter(played.first_masks))
exchanged = int((played.first_masks[first] & ~played.last_masks[first]).sum())
figures.show(
    figures.topology_change(played.first_masks[first], played.last_masks[first]),
    f"Training exchanged {exchanged} of the {int(played.first_masks[first].sum())} links of layer {first} in the "
    f"CHTs run with seed {played.seed}. The panels show the links before training, the links after it, and the "
    "changes.",
)

# %% [markdown]
# **Predict:** will the first or the last updates exchange more links? Will the overlap rise or fall? Then play the
# updates in the widget.

# %%
player = widgets.TopologyPlayer.of(played)
player

# %% [markdown]
# GitHub does not show widgets. This figure shows the initial state of the player:

# %%
state = widgets.TopologyPlayer.state_of(played)
figures.show(widgets.TopologyPlayer.figure(state), widgets.TopologyPlayer.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The first updates exchange the most links, because ζ falls along a cosine to 0. In the deeper layers, percolation also
# cuts many links at the start. The ITOP rate can only rise, and it levels off as the updates exchange fewer links. The
# overlap rises in the first layer. With the laptop profile, the overlap of the first layer reaches 86 %, although CHTs
# uses soft sampling. In the deeper layers, which have four times as many links as the first layer, the overlap stays
# below 30 %. Soft sampling makes a layer less likely to get stuck, but a layer that has few links, like the first layer
# here, can still get stuck. In the last updates, the overlap is a share of very few links, so it varies a lot.
# </details>
#
# ## Did the topology explore?
#
# Random regrowth hardly ever brings back a link that was just removed. Regrowth by gradient or by link prediction can
# bring such a link back: a link with a high score before the update often has a high score after the update too. At an
# overlap of 100 %, the update would undo itself, and the network would be stuck. CHT stops its updates permanently when
# the overlap of every layer has been above 90 % at least once, so the curves of CHT end at this update. CHTs draws
# links instead of taking the links with the highest scores. So the mean overlap over the layers is lower for CHTs than
# for CHT. In a single layer, the overlap can still come near 100 %, as in the first layer above. Besides the overlap,
# we measure the ITOP rate, the share of all possible links that were ever active.

# %%
exploring = [run for run in runs if run.method in ("set", "rigl", "cht", "chts", "chtss")]
figures.show(
    figures.overlap_and_itop(exploring),
    "CHT regrows more and more of the links that it just removed (left). CHTss has the highest ITOP rate, "
    "because it begins with half of all links (right, logarithmic axis). The lines are means over layers and seeds.",
)

# %% [markdown]
# ## What did we find?
#
# You predicted two things: how many points each sparse method is behind FC, and which methods stumble. We begin with
# the first prediction. The paired differences come from the table of differences above. We also show the difference
# between the small dense network and FC.


# %%
def weights(hidden: int) -> int:
    return task.features * hidden + 2 * hidden**2 + hidden * task.classes


costs = {row["method"]: (row["accuracy"], row["flops"]) for row in summary}
costs["small dense"] = mean, weights(width) / weights(settings.hidden)
fc_minus_small = beside[0]
answer = [row for row in differences if row["rival"] == "fc"]
answer.append(fc_minus_small | {"method": "small dense", "difference": -fc_minus_small["difference"]})
answer = sorted(answer, key=lambda row: -row["difference"])

# %%
behind = [row for row in answer if row["interval"] is not None and row["difference"] + row["interval"] < 0]
figures.show(
    figures.differences_ranked(answer, "FC"),
    f"{len(behind)} of these {len(answer)} networks are behind FC by a paired difference whose 95 % confidence "
    f"interval does not contain 0 ({settings.seeds} seeds each). If an interval contains 0, these runs do not show "
    "which network is better.",
)

# %% [markdown]
# The next table lists the networks in the same order and also shows their costs. The last column gives the FLOPs of the
# whole training as a share of the FLOPs of FC.

# %%
rows = []
for row in answer:
    accuracy, flops = costs[row["method"]]
    interval = "" if row["interval"] is None else f" ± {100 * row['interval']:.1f}"
    minus_fc = f"{100 * row['difference']:+.1f}{interval}"
    rows.append([row["method"], f"{accuracy:.1%}", minus_fc, f"{flops:.1%}"])
pd.DataFrame(rows, columns=["method", "test accuracy", "minus FC", "training FLOPs"]).style.hide(axis="index")

# %% [markdown]
# The second prediction was about stumbling. For each method, the table shows the largest fall of the mean validation
# accuracy below its earlier maximum.

# %%
falls = []
for name in METHODS:
    course = pd.DataFrame([run.validation_accuracy for run in runs if run.method == name]).mean()
    fall = course.cummax() - course
    deepest = int(fall.idxmax())
    falls.append({"method": name, "fall": fall[deepest], "to": course[deepest], "in epoch": deepest + 1})
pd.DataFrame(falls).style.hide(axis="index").format("{:.1%}", subset=["fall", "to"])

# %% [markdown]
# The published page shows runs with the laptop profile and seeds 0 to 2. These are the results:
#
# - **Five of the eight sparse methods are behind FC.** RigL loses 2.9 ± 1.7 points, CHTss 3.7 ± 2.1, MEST 5.0 ± 3.8,
#   CHT 5.1 ± 3.2 and SET 8.3 ± 6.6. GraNet loses 1.1 ± 1.4, GMP 1.8 ± 2.0 and CHTs 4.0 ± 4.5: these three intervals
#   contain 0. GraNet is a borderline case. In an earlier run of this page, with the same seeds, the upper end of
#   GraNet's interval was just below 0, so the interval did not contain 0.
# - **No sparse method is clearly better or worse than CHTs.** All seven intervals of the column *minus CHTs* contain 0.
#   So this race shows neither an advantage nor a disadvantage of link prediction.
# - **CHTss stumbles most.** Its mean validation accuracy falls by 36.7 points and reaches 58.0 % in epoch 8. GMP falls
#   by 8.6 points and GraNet by 6.1. MEST also starts with extra links, but its accuracy falls by only 1.0 point.
# - **The sparse methods with the highest mean accuracies cost the most.** GraNet costs 13.0 % of FC's training FLOPs
#   and GMP 12.3 %. RigL costs 3.4 % and CHTs 2.7 %.
# - **The small dense network is hard to beat.** It is 1.6 ± 1.7 points behind FC and costs 1.0 % of FC's training
#   FLOPs. The small network is clearly ahead of RigL, CHT and SET: the intervals of these three differences do not
#   contain 0. Only GraNet is clearly ahead of the small network: by 0.5 ± 0.4 points.
#
# ### What do larger runs say?
#
# The folder `results` contains a record of every longer run, and stage 11 shows all these records. Two sets of records
# help to judge the results above. The first set contains runs of the same MLP with 3 % of the links instead of 1 %, and
# ten seeds instead of three:

# %%
recorded = report.read(records.results_folder())
score = report.SCORES["images"].of  # test accuracy of the last epoch, in per cent
ten_seeds = [row for row in recorded["images: digits"] if row["method"] == "fc" or row["sparsity"] == 0.97]
of_ten_seeds = statistics.score_differences(ten_seeds, score, "fc")
lines = [(row["method"], f"{row['difference']:+.1f} ± {row['interval']:.1f}", row["seeds"]) for row in of_ten_seeds]
pd.DataFrame(lines, columns=["method", "minus FC (points)", "seeds"]).style.hide(axis="index")

# %% [markdown]
# All eight sparse methods are behind FC, by 0.5 to 1.4 points, and no interval contains 0. GMP is nearest to FC, and
# CHTss is farthest. The second set contains runs of the paper's MLP, with three layers of 1568 units, on Fashion-MNIST
# with 1 % of the links:

# %%
of_full_size = statistics.mean_scores(recorded["mlp_paper: fashion_mnist"], score)
lines = [
    (row["method"], f"{row['mean']:.2f}" + (f" ± {row['interval']:.2f}" if row["interval"] else ""), row["runs"])
    for row in sorted(of_full_size, key=lambda row: -row["mean"])
]
pd.DataFrame(lines, columns=["method", "test accuracy (%)", "seeds"]).style.hide(axis="index")

# %% [markdown]
# Five rows have three seeds. Among these rows, CHTs (`chts/paper_mlp_fashion`) is ahead of RigL, SET and CHT, as in the
# paper, and ahead of the form of CHTs that removes links by magnitude (`chts/paper_mlp`). Stage 11 shows the intervals
# of these differences. The other rows have one seed each, so we cannot rank them.
#
# ### What would change our mind?
#
# - **More seeds.** If the standard deviation stays the same, ten seeds instead of three make an interval 3.5 times
#   narrower: the factor $4.30/\sqrt{3} = 2.48$ becomes $2.26/\sqrt{10} = 0.71$. If CHTs is then ahead of a rival and
#   the interval excludes 0, we will call CHTs better.
# - **A small dense network that loses.** A sparse network is worth the effort on a task where it is ahead of a dense
#   network with the same number of weights.
# - **A task with more links per neuron.** Here the first layer has 164 links for 256 outputs. Link prediction needs
#   paths of three links, and this layer has almost no such paths.
# - **Equal FLOPs.** If SET and CHTs could use as many FLOPs as GraNet, they could train more than four times as long as
#   they did here. We have not tried this.

# %% [markdown]
# ## Mix a method
#
# **Predict:** which change of CHTs lowers the accuracy more in a run of a few epochs: an Erdős–Rényi start or random
# regrowth? Change one choice at a time. The mixer trains a small network on the digits, with 64 units per layer and
# 90 % sparsity. Training a new mix takes a moment.

# %%
mixer = widgets.MethodMixer()
mixer

# %% [markdown]
# Here is the initial state of the mixer:

# %%
state = widgets.MethodMixerState()
figures.show(widgets.MethodMixer.figure(state), widgets.MethodMixer.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The figure shows a mix with an Erdős–Rényi start. The text below the figure lists every choice in which the mix
# differs from CHTs. To see the other change, set the topology to *receptive field* and the regrowth to *random*. Each
# mix is trained only once, so the order of two close curves may change with the seed. So the mixer does not answer the
# question above. The next exercise computes an interval. The mixer also shows which choices fit together. For example,
# if you combine the topology *all links* with the number of links *constant*, the text explains why this mix cannot
# work.
# </details>
#
# ## Exercise: mix a method of your own
#
# *★★☆ · 10 minutes · optional · objectives 1 and 3 · write code*
#
# Change *one* choice of CHTs, and race the new method against CHTs with all seeds. Which of the two does CHTs need
# more: its receptive field or its regrowth? Pass the new choice to `replace` as a keyword argument: `topology`,
# `removal`, `regrowth`, `sparsity` or `turnover`. The check trains one network for each seed, which takes several
# seconds.

# %% tags=["exercise"]
mine = replace(METHODS["chts"])

# %% tags=["check"]
exercises.check(
    "06.mine",
    mine,
    chts=METHODS["chts"],
    task=task,
    sparsity=sparsity,
    recipe=recipe,
    device=settings.device,
    runs=runs,
)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `replace(method, topology=...)` returns a copy with one field changed. `ErdosRenyi`, `Regrowth` and `Removal` are
# imported above; `chts_core/choices.py` contains the other choices. Look at `METHODS["chts"]` first, because a choice
# may have several settings. For example, `Regrowth("random", history=True)` changes only the score of the regrowth, so
# a link that returns still starts with its last weight.
# </details>
#
# <details><summary>Solution</summary>
#
# This solution changes only the initial wiring:
#
# ```python
# mine = replace(METHODS["chts"], topology=ErdosRenyi())
# ```
#
# To change only the regrowth, write `regrowth=Regrowth("random", history=True)` instead. Look at the interval before
# you trust the sign of the difference.
# </details>

# %% [markdown]
# ## Exercise: one update of SET
#
# *★★☆ · 15 minutes · essential · objectives 1 and 2 · write code*
#
# Write one update of SET for a layer: remove the `num` links with the smallest $|W_{ij}|$, then regrow `num` links at
# random. Draw among all places without a link, including the places of the links that you just removed. All these
# places are equally likely. A regrown link starts from weight 0. Return the new weight and the new mask. The check uses
# a layer with 8 places and 4 links.


# %% tags=["exercise"]
def one_update(weight, mask, num, generator):
    """Weight and mask after an update that exchanges `num` links. Write this function."""


# %% tags=["check"]
exercises.check("06.one_update", one_update)

# %% [markdown]
# <details><summary>Hint</summary>
#
# An absent link has $|W_{ij}| = 0$, so replace this 0 with $\infty$ before you look for the smallest values. `argsort`
# and `torch.randperm(n, generator=generator)` work on flat tensors.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def one_update(weight, mask, num, generator):
#     size = weight.abs().masked_fill(~mask, torch.inf).flatten()
#     kept = mask.flatten().clone()
#     kept[size.argsort()[:num]] = False
#     free = (~kept).nonzero().flatten()
#     links = kept.clone()
#     links[free[torch.randperm(len(free), generator=generator)[:num]]] = True
#     return (weight.flatten() * kept).view_as(mask), links.view_as(mask)
# ```
#
# The product with `kept` does two things: it sets the removed links to 0, and it makes the regrown links start from 0.
# </details>

# %% [markdown]
# ## Exercise: two lines in a loop of your own
#
# *★★☆ · 15 minutes · essential · objectives 1 and 2 · write code*
#
# Write a training loop for one epoch. Each batch is a pair of inputs and labels, and the loss is the cross-entropy.
# Attach `method` at the given sparsity, with an update every ten steps, and return the `Sparsifier`. The check looks at
# every step: the gradient must come only from the current batch, and the `Sparsifier` must count the step.


# %% tags=["exercise"]
def train_sparse(model, optimizer, batches, method, sparsity):
    """The Sparsifier after one step for each batch. Write this function."""


# %% tags=["check"]
exercises.check("06.train_sparse", train_sparse)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at the loop in the section *Two lines in your own loop*. The run has as many steps as there are batches.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def train_sparse(model, optimizer, batches, method, sparsity):
#     sparsifier = chts.Sparsifier(model, optimizer, method, sparsity, total_steps=len(batches), update_every=10)
#     for inputs, labels in batches:
#         optimizer.zero_grad()
#         F.cross_entropy(model(inputs), labels).backward()
#         optimizer.step()
#         sparsifier.step()
#     return sparsifier
# ```
# </details>

# %% [markdown]
# ## Exercise: what does a run cost?
#
# *★★☆ · 10 minutes · useful · objective 3 · write code*
#
# Write a function that computes the value in the column `FLOPs` of the section *Equal steps are not equal cost*.
# `sizes` lists the number of possible links of each layer. The last layer is the output layer, which stays dense.
# `densities` lists the density of the other layers at each step. Absent links cost nothing. Return the cost of the
# whole run as a share of the cost of the dense network. The check compares your result with `chts.plan`.


# %% tags=["exercise"]
def flops_share(sizes, densities):
    """Training FLOPs divided by the FLOPs of the dense network. Write this function."""


# %% tags=["check"]
exercises.check("06.flops_share", flops_share)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A step at density $d$ costs $d$ times the sum of the sizes of the sparse layers, plus the size of the output layer. A
# step of the dense network costs the sum of all sizes. Divide the mean cost of a step by the cost of a dense step.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def flops_share(sizes, densities):
#     *sparse, output = sizes
#     return (sum(densities) / len(densities) * sum(sparse) + output) / sum(sizes)
# ```
# </details>

# %% [markdown]
# ## Exercise: choose and report
#
# *★☆☆ · 10 minutes · essential · objective 3 · write code*
#
# `runs` maps each setting to a list with one entry per seed. Each entry is a pair of lists: the validation accuracy
# after each epoch, and the test accuracy after each epoch. Return the name of the setting that you choose, and the
# accuracy that you report for it. Follow the rules of this stage: use the last epoch, take means over seeds, and do not
# use the test accuracy to choose.


# %% tags=["exercise"]
def fair_report(runs):
    """The chosen setting and the accuracy to report. Write this function."""


# %% tags=["check"]
exercises.check("06.fair_report", fair_report)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `max(runs, key=...)` returns the name with the highest value. If `course` lists one value per epoch, `course[-1]` is
# the value of the last epoch.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def fair_report(runs):
#     def at_the_end(name, part):
#         return sum(run[part][-1] for run in runs[name]) / len(runs[name])
#
#     chosen = max(runs, key=lambda name: at_the_end(name, 0))
#     return chosen, at_the_end(chosen, 1)
# ```
# </details>

# %% [markdown]
# ## Exercise: an interval by hand
#
# *★☆☆ · 5 minutes · useful · objective 3 · work out*
#
# Three runs of a method reach 90 %, 92 % and 94 % test accuracy. What is the half-width of the 95 % confidence interval
# of their mean, in percentage points? Use the formula and the value of $t$ from the section *Is the difference real?*,
# and round to one decimal place.

# %% tags=["exercise"]
half_width = None

# %% tags=["check"]
exercises.check("06.half_width", half_width)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The deviations from the mean are −2, 0 and 2, so $s^2 = 8/2$.
# </details>
#
# <details><summary>Solution</summary>
#
# $s = 2$, so the half-width is $4.30 \cdot 2/\sqrt{3}$:
#
# ```python
# half_width = 5.0
# ```
#
# The three accuracies differ by at most four points, and yet the interval of their mean extends five points to either
# side.
# </details>

# %% [markdown]
# ## Exercise: subtract seed by seed
#
# *★★☆ · 15 minutes · useful · objective 3 · write code*
#
# You get one dictionary for each of two methods. Each dictionary maps a seed to the accuracy of the run with this seed,
# for example `{0: 91.0, 1: 93.0}`. Some seeds are in only one of the dictionaries. Return the mean of the paired
# difference (the first method minus the second) and the half-width of its 95 % confidence interval.
# `stats.t.ppf(0.975, k)` is the factor $t_k$.


# %% tags=["exercise"]
def paired(mine, theirs):
    """The mean of the paired difference and the half-width of its interval. Write this function."""


# %% tags=["check"]
exercises.check("06.paired", paired)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `mine.keys() & theirs.keys()` are the seeds that both methods used. First write one list of differences. After that,
# you need only this list.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def paired(mine, theirs):
#     differences = [mine[seed] - theirs[seed] for seed in mine.keys() & theirs.keys()]
#     n, mean = len(differences), sum(differences) / len(differences)
#     variance = sum((difference - mean) ** 2 for difference in differences) / (n - 1)
#     return mean, stats.t.ppf(0.975, n - 1) * (variance / n) ** 0.5
# ```
# </details>
#
# ## To discuss
#
# 1. The small dense network is nearly as accurate as the best sparse method, and it is cheaper. On which task would you
#    still choose a sparse network? Which measurement would support your choice?
# 2. GraNet is nearest to FC, but RigL needs only about a quarter of GraNet's FLOPs. Plan a race that is fair to both
#    methods. What would you keep equal: the epochs, the FLOPs, or the final number of links?
# 3. We tuned $r$ for CHTs, but we tuned no setting of the other methods. Which methods gain from this tuning? How many
#    runs would it take to tune one setting for each of the nine methods?
#
# ## Self-check
#
# 1. In which of the five choices do SET and RigL differ?
#
# <details><summary>Answer</summary>
#
# They differ only in the regrowth: SET regrows at random, and RigL regrows the links with the largest gradients. In all
# other columns of the table of methods, the rows of SET and RigL are the same.
# </details>
#
# 2. GraNet beats SET in a race with equal numbers of steps. What must you ask before you call GraNet the better method?
#
# <details><summary>Answer</summary>
#
# Ask how much GraNet costs: it starts with half of all links, and its `FLOPs` are several times as high as SET's. Also
# ask whether the interval of the paired difference excludes 0.
# </details>
#
# 3. You try ten values of $r$ and report the test accuracy of the best value. What went wrong?
#
# <details><summary>Answer</summary>
#
# You used the test images to choose. The highest of ten numbers is partly due to luck. Choose on the validation images,
# and test only the chosen setting.
# </details>
#
# 4. Why do equal seeds matter for a paired difference?
#
# <details><summary>Answer</summary>
#
# Equal seeds give both methods the same initial weights and batches. If a seed is lucky for both methods, the luck
# cancels in the difference. So the interval of the difference can be narrower than the intervals of the two means
# suggest.
# </details>
#
# ## Key takeaways
#
# - A method consists of five choices. The `Sparsifier` adds any method to an ordinary training loop.
# - At every step, each layer has exactly the scheduled number of links. A removed link has weight 0 in the network, but
#   CHTs remembers the link's last weight.
# - A fair race uses equal steps and equal seeds, and reports the cost along with the accuracy.
# - Choose on the validation images, and report the last epoch. If the interval of a difference contains 0, the
#   difference may be due to chance.
# - On the digits, five sparse methods are behind FC, and no sparse method is clearly better or worse than CHTs. A small
#   dense network is clearly ahead of three sparse methods.
#
# ## Further reading
#
# - **SET:** Mocanu et al., *Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
#   network science*, 2018, [arXiv 1707.04780](https://arxiv.org/abs/1707.04780).
# - **RigL:** Evci et al., *Rigging the lottery: making all tickets winners*, 2020,
#   [arXiv 1911.11134](https://arxiv.org/abs/1911.11134).
# - **MEST:** Yuan et al., *MEST: accurate and fast memory-economic sparse training framework on the edge*, 2021,
#   [arXiv 2110.14032](https://arxiv.org/abs/2110.14032).
# - **GMP:** Zhu and Gupta, *To prune, or not to prune: exploring the efficacy of pruning for model compression*, 2017,
#   [arXiv 1710.01878](https://arxiv.org/abs/1710.01878).
# - **GraNet:** Liu et al., *Sparse training via boosting pruning plasticity with neuroregeneration*, 2021,
#   [arXiv 2106.10404](https://arxiv.org/abs/2106.10404).
# - **ITOP:** Liu et al., *Do we actually need dense over-parameterization? In-time over-parameterization in sparse training*,
#   2021, [arXiv 2102.02887](https://arxiv.org/abs/2102.02887).

# %%
records.publish(
    {
        "dataset": task.name,
        "sparsity": sparsity,
        "recipe": asdict(recipe),
        "chosen": chosen,
        "methods": summary,
        "differences": differences,
        "small": {"hidden": width, "weights": task.features * width + 2 * width**2, "accuracy": mean, "beside": beside},
        "epoch_choices": choices,
        "answer": answer,
        "falls": falls,
        "ten_seeds": of_ten_seeds,
        "full_size": of_full_size,
        "runs": [images.as_row(run) for run in runs],
    }
)
