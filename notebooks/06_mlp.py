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
# # 06 · A sparse MLP, four ways
#
# **You will be able to** train an image classifier with 1 % of its links, attach any method to your own training loop in
# two lines, and read a race between methods without fooling yourself.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; a PyTorch training loop |
# | Time | 30 minutes to read, about a minute to run on the handwritten digits |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2, Equation 1 and the MLP table |

# %%
from dataclasses import asdict, replace

import pandas as pd
import torch
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab import data, figures, models, notebooks, records, training

# %% tags=["parameters"]
profile: str = "laptop"  # ci, binder, laptop, gpu or paper: how large the run is
seed: int = 0  # the first seed of the race
device: str = "auto"  # auto, cpu or cuda
dataset: str = ""  # digits or fashion_mnist; empty: as the profile says
sparsity: float = 0.99  # share of absent links, in [0.5, 1) since CHTss starts at 0.5
epochs: int = 0  # at least 3, for CHTss to decay; 0: as the profile says
seeds: int = 0  # runs per method; 0: as the profile says
hidden: int = 0  # units per hidden layer; 0: as the profile says
data_dir: str = ""  # where to look for data first

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
print(records.environment_line(settings.device))

# %% [markdown]
# ## The task
#
# Images in, classes out. We split three ways: *training* images teach, *validation* images choose, and *test* images are
# looked at once, at the end. Choosing the best epoch on the test images, as is often done, flatters every method.

# %%
task = data.load_images(settings.dataset, data_dir)
sizes = {part: len(getattr(task, part).labels) for part in ("train", "validation", "test")}
print(sizes)
figures.show(figures.images(task), f"The first ten training images of {task.name}, with their classes.")

# %% [markdown]
# ## A method is five choices
#
# How the network is wired at first, which links go, which links come, how many links there are at step $t$, and how many
# are exchanged. Read a column of the table as a sentence; compare two columns to see what a paper changed.

# %%
METHODS = ("fc", "set", "chts", "chtss")
pd.set_option("display.max_colwidth", None)
pd.DataFrame({name: {choice: str(value) for choice, value in vars(chts.METHODS[name]).items()} for name in METHODS})

# %% [markdown]
# - **FC** is the dense network, the rival to match.
# - **SET** removes the smallest weights and regrows at random.
# - **CHTs** starts from receptive fields (stage 01), removes softly by relative importance, drops what that cut off, and
#   regrows where link prediction (CH2-L3n) says that a link is likely.
# - **CHTss** does the same while the density falls from 50 % to the target along a sigmoid.
#
# ## One update, by hand
#
# Three outputs, four inputs, six links. *Relative importance* is the link's share of its input's links plus its share of
# its output's links, by weight. For the top left link: 3/3 of its column plus 3/4 of its row, 1.75.

# %%
weight = torch.tensor([[3.0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 2, 4]])
mask = weight != 0
importance = chts.removal.relative_importance(weight)
print(importance.round(decimals=2))
assert importance[0, 0].round(decimals=2) == 1.75

# %% [markdown]
# Remove one link of six. The hard rule takes the least important, from output 0 to input 1 (1/2 + 1/4 = 0.75); CHTs draws
# the five survivors with probability ∝ importance$^T$, so that any link may go, the weak ones more often.

# %%
generator = torch.Generator().manual_seed(seed)
survivors = chts.sampling.keep(importance, mask, 5, soft=False, generator=generator)
print(survivors.int())

# %% [markdown]
# Regrow one link where the network suggests it. *CH2-L3n* looks at the paths of three steps around a missing link. Between
# output 1 and input 3 there is one: output 1 – input 2 – output 2 – input 3. Its two middle nodes each have one link
# inside the path and none elsewhere, so each scores (1 + 1)/(1 + 0) = 2, and the link scores 4. So does the link from
# output 2 to input 1; all others have no such path.

# %%
scores = chts.link_prediction.ch2_l3n(survivors)
print(scores)
assert scores[1, 3] == scores[2, 1] == 4
assert scores.sum() == 8

# %% [markdown]
# Soft regrowth draws in proportion to the score: of 200 draws, about half should fall on each of the two.

# %%
draws = sum(chts.link_prediction.sample_links(survivors, 1, generator=generator).int() for _ in range(200))
print(draws)

# %% [markdown]
# ## Two lines in your own loop
#
# The `Sparsifier` attaches to a model and its optimizer as a learning-rate scheduler does, and `sparsifier.step()` follows
# `optimizer.step()`. Forty steps, updating the topology every tenth:

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
# Every update is recorded. The number of links never moves: what is removed is regrown, link by link.

# %%
history = pd.DataFrame(sparsifier.history)
assert history.groupby("layer").links.nunique().eq(1).all()
history.drop(columns="seconds").round(3)

# %% [markdown]
# `overlap` is the share of regrown links that the same update had just removed: when it is near 1 the network is stuck in
# an *epitopological local minimum*. `anp` is the share of neurons that are active, `itop` the share of all possible links
# that were ever used.
#
# The first update may remove far more than the ζ = 30 % that are meant to be exchanged. With so few links, some neurons
# get none from below; they are inactive, and percolation drops the links they send on.
#
# The weights obey the mask, to the last one:

# %%
for name, mask in sparsifier.masks.items():
    weight = model.get_parameter(name)
    assert int(mask.sum()) == chts.topology.link_count(*mask.shape, 1 - sparsity)
    assert bool((weight[~mask] == 0).all())
    print(f"{name}: {int(mask.sum())} of {mask.numel()} links")

# %% [markdown]
# ## The race
#
# Four methods, several seeds, the same number of steps, the same initial weights and batches for equal seeds.
#
# **Predict:** with 1 % of the links, how many percentage points does each sparse method lose against FC? Write the numbers
# down before you run the cell.

# %%
recipe = training.Recipe(hidden=settings.hidden, epochs=settings.epochs, learning_rate=settings.learning_rate)
runs = training.race(
    task,
    METHODS,
    settings.sparsity,
    recipe,
    seeds=range(settings.seed, settings.seed + settings.seeds),
    device=settings.device,
)

# %%
figures.show(
    figures.race(runs),
    "Validation accuracy by epoch: the line is the mean over seeds, the band its 95 % confidence interval.",
)

# %% [markdown]
# CHTss starts with half of all links and ends with as few as the others. Its curve shows the price: while the sigmoid is
# steep it loses links faster than the rest can adapt, and recovers when the density settles.

# %% [markdown]
# The test images now, once, with the network of the last epoch. The interval says how far the mean of so few runs can be
# from the truth: a difference that fits into the intervals may be chance.

# %%
summary = training.summarise(runs)
pd.DataFrame(summary).style.hide(axis="index").format(precision=4)

# %% [markdown]
# `seconds` is honest and sobering: every method here multiplies dense matrices that hold zeros, and the sparse ones do
# some bookkeeping on top. What sparsity saves is arithmetic and memory, once the software makes use of it.
#
# ## What happened to the network
#
# The first hidden layer of a CHTs run, before and after. What is left of the diagonal is the receptive field of the start.
# New links gather in columns: link prediction favours inputs that are already well connected, and makes hubs of them.

# %%
shown = next(run for run in runs if run.method == "chts")
first = next(iter(shown.first_masks))
figures.show(
    figures.topology_change(shown.first_masks[first], shown.last_masks[first]),
    f"Layer {first} of the CHTs run with seed {shown.seed}: before training, after it, and the difference.",
)

# %% [markdown]
# ## Did the topology explore?
#
# Random regrowth hardly ever returns a link that was just removed. Link prediction can: a link that was likely before is
# often still likely after. At 100 % the update would undo itself and the network would be stuck; drawing both removal and
# regrowth keeps it moving. The other measure is how many links were ever tried.

# %%
sparse_runs = [run for run in runs if run.history]
figures.show(
    figures.overlap_and_itop(sparse_runs),
    "Left: the share of regrown links that were just removed. Right: the share of all possible links that were ever "
    "active, on a logarithmic axis; CHTss begins with half of them. Means over layers and seeds.",
)

# %% [markdown]
# ## Exercise: mix a method of your own
#
# Change one choice of a method and race it. Is it the receptive field that makes CHTs, or the regrowth? Replace the
# second line, for example by a topology of Erdős–Rényi.

# %%
from chts_core.methods import ErdosRenyi, Regrowth  # noqa: F401 - for your own mix

mine = replace(chts.METHODS["chts"])

# %%
trial = training.train(task, mine, settings.sparsity, recipe, seed=settings.seed, label="mine", device=settings.device)
changed = [choice for choice, value in vars(mine).items() if value != getattr(chts.METHODS["chts"], choice)]
print(f"changed: {', '.join(changed) or 'nothing yet'}; validation accuracy {trial.validation_accuracy[-1]:.3f}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `replace(method, topology=...)` returns a copy with one field changed; the classes are in `chts_core/methods.py`.
# </details>
#
# <details><summary>Solution</summary>
#
# `mine = replace(chts.METHODS["chts"], topology=ErdosRenyi())` changes the wiring alone;
# `mine = replace(chts.METHODS["chts"], regrowth=Regrowth("random"))` changes the regrowth alone. One run each proves
# nothing: repeat with several seeds before you believe a difference.
# </details>
#
# ## What to take along
#
# - A method is five choices; the `Sparsifier` brings any of them into an ordinary loop.
# - The number of links is exact at every step, and a removed link leaves nothing behind.
# - Differences smaller than their interval are not differences.

# %%
records.publish(
    {
        "dataset": task.name,
        "sparsity": settings.sparsity,
        "recipe": asdict(recipe),
        "methods": summary,
        "runs": [training.as_record(run) for run in runs],
    }
)
