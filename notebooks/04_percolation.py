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
# # 04 · Percolation: links that lead nowhere
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SET_THE_OWNER/chts/blob/v0.1.0/notebooks/04_percolation.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/SET_THE_OWNER/chts/v0.1.0?urlpath=lab/tree/notebooks/04_percolation.ipynb)
#
# **You will be able to**
#
# 1. find by hand the neurons that a removal has cut off;
# 2. write the two sweeps that clear their links away;
# 3. compute relative importance by hand, and explain with it why it keeps more neurons active than weight magnitude;
# 4. turn the neurons that are lost into a smaller dense model.
#
# | | |
# |---|---|
# | Prerequisites | stage 01 (masks, degrees, Erdős–Rényi); what a removal of links is |
# | Time | 25 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2 (c) and (d), section on link removal (relative importance), and the ANP column of the MLP table |

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
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import torch
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab import costs, data, figures, models, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records

print(records.environment_line(torch.device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper: how large the run is; empty: $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the networks and of the training runs
sparsity: float = 0.99  # share of absent links in the network that is trained, in [0, 1)
hidden: int = 0  # units per hidden layer; 0: as the profile says
epochs: int = 0  # of the training runs; 0: as the profile says
seeds: int = 0  # networks and training runs per removal score; 0: as the profile says

# %%
settings = notebooks.start(
    "04_percolation", profile, seed=seed, sparsity=sparsity, hidden=hidden, epochs=epochs, seeds=seeds
)

# %% [markdown]
# ## Inactive neurons
#
# A hidden neuron gets values over its incoming links and sends its value over its outgoing links. When a removal takes
# all links of one side, the neuron is **inactive**: without incoming links its value is the same for every image, and
# without outgoing links its value is used nowhere. The links that it still has on its other side are **incomplete**.
#
# Why should they go? The number of links is fixed. An incomplete link does nothing, but it takes the place of a useful
# link. **Percolation** cuts the incomplete links, and regrowth then puts as many links elsewhere.
#
# A network of 4 inputs, 4 and 3 hidden neurons and 2 outputs has just lost 3 of its 15 links:

# %%
before = {
    "fc1": torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]], dtype=torch.bool),
    "fc2": torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool),
    "fc3": torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.bool),
}
masks = {name: mask.clone() for name, mask in before.items()}
for name, output, source in (("fc1", 2, 3), ("fc2", 1, 1), ("fc3", 1, 2)):
    masks[name][output, source] = False

# %%
sides = ("inputs", "hidden 1", "hidden 2", "outputs")
lost = [before[name] & ~masks[name] for name in masks]
figures.show(
    figures.percolating_network(list(masks.values()), sides, removed=lost),
    "The removal makes two neurons inactive: neuron 2 of hidden layer 1 has no incoming link, neuron 2 of hidden "
    "layer 2 no outgoing one. Both are crossed out; the two dashed links are incomplete.",
)

# %% [markdown]
# The masks say the same. A row of `fc1` without a link is a neuron of hidden layer 1 without incoming links. A column
# of `fc2` without a link is a neuron of hidden layer 1 without outgoing links.

# %% tags=["nbval-check-output"]
for number, (incoming, outgoing) in enumerate((("fc1", "fc2"), ("fc2", "fc3")), start=1):
    no_incoming = (~masks[incoming].any(dim=1)).nonzero().flatten().tolist()
    no_outgoing = (~masks[outgoing].any(dim=0)).nonzero().flatten().tolist()
    print(f"hidden {number}: without incoming links {no_incoming}, without outgoing links {no_outgoing}")

# %% [markdown]
# **Predict:** cut the two dashed links, and look again. Which neurons have lost their last link now? How many of the 12 links and
# of the 7 hidden neurons are left in the end, after all cuts?
#
# ## One sweep backward, one sweep forward
#
# *Backward*, from the outputs to the inputs: a neuron without outgoing links loses its incoming ones. As a rule for masks,
# a row of the layer before is kept if the column of the layer after has a link.

# %% tags=["nbval-check-output"]
swept = {name: mask.clone() for name, mask in masks.items()}
for before_it, after_it in (("fc2", "fc3"), ("fc1", "fc2")):
    has_outgoing = swept[after_it].any(dim=0)
    swept[before_it] &= has_outgoing[:, None]
    print(f"{before_it}, once neurons without links to {after_it} are cut:\n{swept[before_it].int()}")

# %% [markdown]
# First hidden layer 2 loses the link into neuron 2. This was the only outgoing link of neuron 3 in hidden layer 1. So the same
# sweep cuts the two incoming links of this neuron when it reaches the layer before. This is a *cascade*.
#
# *Forward*, from the inputs to the outputs: a neuron without incoming links loses its outgoing ones.

# %% tags=["nbval-check-output"]
for before_it, after_it in (("fc1", "fc2"), ("fc2", "fc3")):
    has_incoming = swept[before_it].any(dim=1)
    swept[after_it] &= has_incoming
    print(f"{after_it}, once neurons without links from {before_it} are cut:\n{swept[after_it].int()}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Two inactive neurons became four, and 12 links became 7. Backward, neuron 3 of hidden layer 1 followed neuron 2 of hidden
# layer 2; forward, neuron 1 of hidden layer 2 followed neuron 2 of hidden layer 1. Neurons 0 and 1 of hidden layer 1 and
# neuron 0 of hidden layer 2 are left.
# </details>
#
# The core does both for any model, given a `LayerGraph`: which layers feed each other. An MLP is one *chain*.

# %% tags=["nbval-check-output"]
chain = chts.LayerGraph(chains=(("fc1", "fc2", "fc3"),))
percolated = chts.percolation.percolate(masks, chain)
assert all(torch.equal(swept[name], percolated[name]) for name in masks)
print("links:", {name: f"{int(masks[name].sum())} -> {int(percolated[name].sum())}" for name in masks})

# %%
cut = [masks[name] & ~percolated[name] for name in masks]
figures.show(
    figures.percolating_network(list(percolated.values()), sides, removed=lost, cut=cut),
    "Both sweeps leave 7 links, all of them on a way from an input to an output. Four of the seven hidden neurons "
    "are inactive.",
)

# %% [markdown]
# **Why one sweep each way is enough for a chain.** After the backward sweep, each hidden neuron with incoming links
# also has outgoing links. The forward sweep cuts the outgoing links of neurons *without* incoming links. Such a neuron
# has no link from the layer before. So the layer before loses no outgoing link, and a second backward sweep would cut
# nothing.
#
# Exactly the links that lie on a path from an input to an output remain.
#
# **One word, two meanings.** In network science, the *percolation threshold* is the share of links at which a giant connected
# component appears; percolation here is no threshold, but a rule that cuts every link that lies on no path from an input to
# an output. Both ask the same question: which parts of a network are still connected after links are removed?
#
# ## Exercise: find them by hand
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# The network has five inputs, two hidden layers of four neurons and two outputs. Some links were removed. Which hidden
# neurons are inactive in the end, after the cascades?

# %%
puzzle = {
    "fc1": torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool),
    "fc2": torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool),
    "fc3": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.bool),
}
figures.show(
    figures.network([figures.Links("links", list(puzzle.values()))], sides),
    "The network of the exercise: 5 inputs, 4 and 4 hidden neurons and 2 outputs, "
    f"{sum(int(mask.sum()) for mask in puzzle.values())} links, nothing crossed out yet.",
)

# %% tags=["exercise"]
inactive = None  # for example {"hidden 1": {0, 2}, "hidden 2": set()}

# %% tags=["check"]
exercises.check("04.inactive", inactive, puzzle=puzzle, chain=chain)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Start with the neurons that lack all links of one side. There is one in each hidden layer. Then look at their partners: which
# links do they have left?
# </details>
#
# <details><summary>Solution</summary>
#
# Neuron 2 of hidden layer 2 has no outgoing link. Neuron 1 of hidden layer 1 has a link only to it, so it goes too.
# Neuron 3 of hidden layer 1 has no incoming link. Neuron 1 of hidden layer 2 has a link only from it, so it goes too.
# Neuron 0 of hidden layer 2 also has a link from neuron 0 and stays. Inputs 3 and 4 have no links, but inputs are no
# hidden neurons.
#
# ```python
# inactive = {"hidden 1": {1, 3}, "hidden 2": {1, 2}}
# ```
# </details>

# %% [markdown]
# ## Exercise: the backward sweep of a chain
#
# *★★☆ · 15 minutes · essential · objective 2 · write code*
#
# Write the backward sweep for a chain of any length. `masks` is a list from the inputs on, each of shape
# `(out_features, in_features)`. Return new masks; do not change the ones given.
#
# A forward sweep is a backward sweep of the reversed network: transpose every mask, reverse the list, sweep backward, and reverse
# again. The check does this with your function. Both sweeps together must leave what the core leaves, on random networks.


# %% tags=["exercise"]
def backward(masks: list[torch.Tensor]) -> list[torch.Tensor]:
    """The masks without links to neurons that no link leaves, from the outputs back; write it here."""


# %% tags=["check"]
exercises.check("04.backward", backward)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the layers from the last but one to the first. `after.any(dim=0)` says which neurons have outgoing links;
# it selects *rows* of the mask before.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def backward(masks: list[torch.Tensor]) -> list[torch.Tensor]:
#     swept = [masks[-1]]
#     for mask in reversed(masks[:-1]):
#         swept.insert(0, mask & swept[0].any(dim=0)[:, None])
#     return swept
# ```
# </details>

# %% [markdown]
# ## Exercise: count the paths
#
# *★★☆ · 15 minutes · useful · objectives 1 and 2 · write code*
#
# Percolation leaves the links that lie on a path from an input to an output. So you can do it without sweeps: count the paths
# through every link. Write a function of the masks that returns one tensor of whole numbers for each mask. It holds the number
# of paths through each link, and 0 where there is no link.
#
# Predict first: the counts of one layer have a sum. Do two layers have the same sum?


# %% tags=["exercise"]
def paths_through(masks: list[torch.Tensor]) -> list[torch.Tensor]:
    """Number of paths from an input to an output through each link, shaped like the masks; write it here."""


# %% tags=["check"]
exercises.check("04.paths_through", paths_through)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The paths through a link are the ways from the inputs to its source, times the ways from its target to the outputs. An input
# has 1 way to itself. A neuron has as many ways as all neurons with a link to it together: this is `mask.long() @ ways`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def paths_through(masks: list[torch.Tensor]) -> list[torch.Tensor]:
#     to = [torch.ones(masks[0].shape[1], dtype=torch.long)]
#     for mask in masks:
#         to.append(mask.long() @ to[-1])
#     onward = [torch.ones(masks[-1].shape[0], dtype=torch.long)]
#     for mask in reversed(masks):
#         onward.insert(0, mask.long().T @ onward[0])
#     return [mask * to[at] * onward[at + 1][:, None] for at, mask in enumerate(masks)]
# ```
#
# All layers have the same sum, the number of paths of the network, because every path uses one link of each layer. One pass
# goes forward and one goes backward, as the sweeps do.
# </details>
#
# ## Pairs: two layers that need each other
#
# In a Transformer some layers do not feed each other. Their outputs are *multiplied*, neuron by neuron:
#
# | layers | how they meet | so that |
# |---|---|---|
# | `w1` → `w2`, `v` → `o` | chain: output $j$ of one is input $j$ of the next | as in the MLP above |
# | `q` and `k` | pair: a score is $\sum_j q_j k_j$ | where $q_j$ is always 0, nothing depends on $k_j$ |
# | `gate` and `up` | pair: $\mathrm{silu}(g_j)\, u_j$, and both feed `down` | where one factor is always 0, so is the product |

# %%
figures.show(
    figures.blocks(["transformer", "llama"]),
    "One layer of a Transformer and one of a LLaMA. Both attention blocks have a pair (q, k) and a chain (v, o). The "
    "feed-forward block is one chain (w1, w2); the gated block has a pair (gate, up) and two chains that end in down.",
)

# %% [markdown]
# (These layers have no biases in LLaMA, so a neuron without incoming links is 0.) In a head of attention `q` and `k`
# pair up neuron by neuron, and `v` chains to `o`. LLaMA tells the position of a token by a *rotation*: it turns neurons
# $j$ and $j + d/2$ of a head of width $d$ by an angle that grows with the position. The two are mixed, so only both
# together can be inactive. The core's `Attention` knows heads and rotation.
#
# **Predict:** three gated neurons. Gate 1 has no links, `down` does not read neuron 2. Which rows of `up` will be cut?

# %% tags=["nbval-check-output"]
gated = {
    "gate": torch.tensor([[1, 0], [0, 0], [0, 1]], dtype=torch.bool),
    "up": torch.tensor([[0, 1], [1, 1], [1, 0]], dtype=torch.bool),
    "down": torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool),
}
gated_graph = chts.LayerGraph(chains=(("gate", "down"), ("up", "down")), pairs=(("gate", "up"),))
complete = chts.percolation.percolate(gated, gated_graph)
for name, mask in complete.items():
    print(f"{name}: {gated[name].int().tolist()} -> {mask.int().tolist()}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Rows 1 and 2 of `up` are cut. Row 1: gate 1 is always 0, because silu(0) = 0. The value of `up` is multiplied by this
# 0, so it is useless; the link of `down` to neuron 1 goes as well. Row 2: `down` has no link to the product, so `gate`
# loses its row 2 too.
# </details>
#
# By hand: neuron $j$ stays active if `gate` *and* `up` have a link in row $j$ *and* `down` has one in column $j$.

# %% tags=["nbval-check-output"]
lives = gated["gate"].any(dim=1) & gated["up"].any(dim=1) & gated["down"].any(dim=0)
print("neurons that live:", lives.int().tolist())
for name, mask in complete.items():
    assert torch.equal(mask, gated[name] & (lives if name == "down" else lives[:, None]))

# %% [markdown]
# ## When one round is not enough
#
# With a pair, a cut can travel *forward* along one branch, across the pair, and *backward* along the other. The backward
# sweep has passed there already. So the core repeats its rounds until nothing changes.
#
# A small case: `a` feeds `gate` and `b` feeds `up`, one neuron each, and `a` has lost its link. Layers meet in a chain
# or in a pair. A round takes the list of these meetings from its last to its first, and then from its first to its
# last. The pair is last in the list below.

# %% tags=["nbval-check-output"]
one, none = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
branches = {"a": none, "gate": one, "b": one, "up": one}
chains = (("a", "gate"), ("b", "up"))
meetings = [*(chts.LayerGraph(chains=(chain_,)) for chain_ in chains), chts.LayerGraph(pairs=(("gate", "up"),))]

rounds = branches
for number in (1, 2):
    for meeting in (*reversed(meetings), *meetings):
        rounds = chts.percolation.percolate(rounds, meeting)
    print(f"after round {number}:", {name: int(mask.sum()) for name, mask in rounds.items()})

whole = chts.percolation.percolate(branches, chts.LayerGraph(chains=chains, pairs=(("gate", "up"),)))
assert all(torch.equal(rounds[name], whole[name]) for name in branches)

# %% [markdown]
# After round 1 the link of `b` is still there, although the `up` that it fed is gone. Round 2 cuts it.
#
# ## Which links to remove: magnitude or relative importance
#
# Percolation cuts the incomplete links that a removal has made. Their number depends on the removal score. **Weight magnitude**
# (WM) is $|W_{ij}|$. **Relative importance** (RI), which you met in stage 03, asks what the link is worth to its two neurons
# (paper, link removal):
#
# $$\mathrm{RI}_{ij} = \frac{|W_{ij}|}{\sum_k |W_{kj}|} + \frac{|W_{ij}|}{\sum_k |W_{ik}|}$$
#
# The first term is the link's share of all weights at input $j$ (its column). The second term is its share of all weights at
# output $i$ (its row). The core adds 1e-5 to both sums, so that nothing is divided by 0. Here are three outputs, three inputs and
# five links:

# %% tags=["nbval-check-output"]
weight = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.5]])
importance = chts.removal.relative_importance(weight)
print("WM\n", chts.removal.magnitude(weight))
print("RI\n", importance.round(decimals=2))

# %% [markdown]
# By hand, for the 1.0 from input 1 to output 0: its column sums to 1 + 4 = 5, its row to 3 + 1 = 4, so
# RI = 1/5 + 1/4 = 0.45. For the 0.5 in the corner, column and row sum to 0.5: RI = 1 + 1 = 2, the most there is.
#
# Remove one link. WM takes the 0.5, the only link that input 2 and output 2 have, and both are cut off. RI takes the
# 1.0, whose neurons have another. If a link is the only link of a neuron, one of its two fractions is 1, so its RI is
# above 1. A usual link between neurons of $d$ links each has an RI near $2/d$. RI removes the links with a low RI
# first, so a last link is among the last that go. (The fractions of one neuron add up to 1. So all RI of a layer add up
# to the number of its linked neurons: here to 6.)

# %% tags=["nbval-check-output"]
by_hand = weight / weight.sum(dim=0) + weight / weight.sum(dim=1, keepdim=True)
assert torch.allclose(importance, by_hand, atol=1e-4)
assert importance[0, 1].round(decimals=2) == 0.45
assert importance.sum().round(decimals=2) == 6
weakest = {"WM": weight.where(weight > 0, 9.0).argmin(), "RI": importance.where(weight > 0, 9.0).argmin()}
print("removed first, as (output, input):", {name: divmod(int(at), 3) for name, at in weakest.items()})

# %% [markdown]
# Now a chain of four layers, Erdős–Rényi with random weights. Remove ζ = 30 % of the links of each layer, the lowest
# scores first, and percolate. (CHTs draws softly by a score, stage 03; the hard rule shows the difference most plainly.)


# %%
NAMES, WIDTH = ("fc1", "fc2", "fc3", "fc4"), 256
SCORES = {"WM": chts.removal.magnitude, "RI": chts.removal.relative_importance}
deep = chts.LayerGraph(chains=(NAMES,))


def network(sparsity: float, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    masks = {name: chts.topology.erdos_renyi(WIDTH, WIDTH, 1 - sparsity, generator=generator) for name in NAMES}
    return masks, {name: torch.randn(WIDTH, WIDTH, generator=generator) * mask for name, mask in masks.items()}


def survivors(masks: dict, weights: dict, score: str, zeta: float = 0.3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)  # breaks ties
    kept = {name: round((1 - zeta) * int(mask.sum())) for name, mask in masks.items()}
    return {
        name: chts.sampling.keep(SCORES[score](weights[name]), mask, kept[name], soft=False, generator=generator)
        for name, mask in masks.items()
    }


# %% [markdown]
# The paper measures this by **ANP**, the *active neuron post-percolation* rate:
#
# $$\text{ANP} = \frac{\text{active neurons after}}{\text{active neurons before}}$$
#
# Here we count the three hidden layers, before and after one removal with percolation. Watch it layer by layer at 99 %
# sparsity.
#
# **Predict:** each layer loses the same 30 % of its links under both scores. By how many neurons will WM and RI differ?
# Does percolation take many neurons beyond the neurons that lost a side directly?


# %% tags=["nbval-check-output"]
def linked(masks: dict[str, torch.Tensor]) -> list[int]:
    """Hidden neurons with links on both sides, by layer."""
    return [int((masks[into].any(dim=1) & masks[out_of].any(dim=0)).sum()) for into, out_of in pairwise(NAMES)]


masks, weights = network(0.99, settings.seed)
counts = {}
for score in SCORES:
    left = survivors(masks, weights, score)
    counts[score] = {
        "before": linked(chts.percolation.percolate(masks, deep)),
        "linked on both sides after removal": linked(left),
        "active after percolation": linked(chts.percolation.percolate(left, deep)),
    }
    print(score, counts[score])

# %%
figures.show(
    figures.neurons_by_layer(counts),
    "Percolation takes further neurons beyond the neurons that the removal cut off, and more under WM (left) than "
    f"under RI (right). Active neurons of three hidden layers of {WIDTH} at 99 % sparsity, before and after removing "
    "30 % of the links.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Under RI nearly all neurons stay active. WM cuts off many, because it looks at each weight alone: it removes the only
# link of a neuron as often as one of many. Percolation then takes more neurons where the removal cut off more. Under RI
# the middle bar can be higher than the first bar. The first bar counts a network without incomplete links, and the
# middle bar counts a network that still has them.
# </details>
#
# The same at several sparsities and for several networks each:

# %%
SPARSITIES = (0.90, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99)


def anp(score: str, sparsity: float, seed: int) -> float:
    masks, weights = network(sparsity, seed)
    before, after = (chts.percolation.percolate(m, deep) for m in (masks, survivors(masks, weights, score)))
    return sum(linked(after)) / sum(linked(before))


chosen = range(settings.seed, settings.seed + settings.seeds)
curves = {score: torch.tensor([[anp(score, s, seed) for s in SPARSITIES] for seed in chosen]) for score in SCORES}
pd.DataFrame({score: curve.mean(dim=0).numpy() for score, curve in curves.items()}, index=SPARSITIES).round(3)

# %%
figures.show(
    figures.anp_by_sparsity(curves, SPARSITIES),
    "Where every neuron has many links the score does not matter; where it has few, WM loses neurons. The line is "
    f"the mean ANP of {settings.seeds} networks, and the band reaches from the least to the most.",
)

# %% [markdown]
# Neither score is always better. The paper finds that WM percolates faster (fewer active neurons). It chooses by task: its CHTs
# removes by RI on Fashion-MNIST, and by WM on MNIST and EMNIST, in translation and in LLaMA. CHTss needs two scores. It
# *exchanges* links by the score of the task, as CHTs does. It *prunes* links, because the density falls (stage 05), by RI on every
# task. A lost neuron is lost capacity. It is also a neuron that the computer can skip.
#
# ## Exercise: importance by hand
#
# *★☆☆ · 10 minutes · essential · objective 3 · work out*
#
# A layer has three outputs (rows), three inputs (columns) and five links:
#
# $$W = \begin{pmatrix} 3 & 7 & 0 \\ 0 & 1 & 0 \\ 2 & 0 & 4 \end{pmatrix}$$
#
# Compute the RI of the link with weight 1. Then find the link that a removal by RI takes, the one with the lowest RI. WM would
# remove the weight 1. Which neuron would this cut off?

# %% tags=["exercise"]
importance_of_1 = None  # the RI of the link with weight 1
removed_by_ri = None  # the link that a removal by RI takes, as (output, input)

# %% tags=["check"]
exercises.check("04.importance", importance_of_1, removed_by_ri)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Write the sum beside each row and below each column. Each sum includes the weight itself.
# </details>
#
# <details><summary>Solution</summary>
#
# Column 1 sums to 8 and row 1 to 1, so the weight 1 has $1/8 + 1/1 = 1.125$. The weight 2 has the lowest RI,
# $2/5 + 2/6 = 0.73$; its input and its output have another link. WM would cut off output 1, which has no other link.
#
# ```python
# importance_of_1 = 1 / 8 + 1 / 1
# removed_by_ri = (2, 0)
# ```
# </details>

# %% [markdown]
# ## Exercise: break the importance
#
# *★★☆ · 15 minutes · useful · objective 3 · work out*
#
# RI protects last links, but not in every network. Write a 3 × 3 weight matrix with at least 4 links for which it fails: the
# link with the lowest RI is the last link of one of its neurons. No other link may have the same lowest RI.

# %% tags=["exercise"]
unprotected = None  # for example torch.tensor([[3.0, 7.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 4.0]])

# %% tags=["check"]
exercises.check("04.break_importance", unprotected)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A last link has an RI above 1, so every other link needs an even higher RI. How many links can have an RI above 1, if all RI
# add up to the number of linked neurons?
# </details>
#
# <details><summary>Solution</summary>
#
# Output 0 reads inputs 0 and 1, and its link to input 1 has most of both sums. The last link of input 0 has
# $1/1 + 1/11 = 1.09$, and the strong link has $10/12 + 10/11 = 1.74$:
#
# ```python
# unprotected = torch.tensor([[1.0, 10.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
# ```
#
# It works only with fewer links than linked neurons. With as many links as neurons or more the mean RI is at most 1, so the
# lowest RI is at most 1, and no last link has it. A layer in training has far more links than neurons, until it is very sparse.
# </details>
#
# ## Explore
#
# **Predict before you move a control:** at which share removed does WM leave less than half of the neurons? Switch to
# relative importance there: how many come back? Then step through the sweeps and follow one cascade.

# %%
sandbox = widgets.PercolationSandbox()
sandbox

# %% [markdown]
# On a page without a running kernel nothing moves; this is the state that the sandbox starts from:

# %%
state = widgets.PercolationState()
shown = widgets.PercolationSandbox.compute(state)
figures.show(widgets.PercolationSandbox.draw(state, shown), shown.description)

# %% tags=["nbval-check-output"]
for score in ("magnitude", "relative importance"):
    for share in (0.3, 0.4, 0.5):
        sentence = widgets.PercolationSandbox.compute(replace(state, score=score, removed=share)).description
        print(f"{score}, {share:.0%} removed: {sentence.rpartition('; ')[2]}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# In the first network, WM leaves 9 of 15 active neurons after removing 30 %, 8 after 40 % and 4 after 50 %; RI leaves
# 15, 13 and 11. The sweep backward cuts the dashed links of step 1. After it, other neurons have lost their last link
# on one side, so other links are incomplete.
# </details>
#
# ## A network that shrinks
#
# Now in training. CHTs removes softly, percolates and regrows, once per epoch. A link that comes back has its last
# weight again; a link that was never there starts from 0. A neuron without links has no L3 path, so all its missing
# links score 0. Link prediction gives it a link only if there are too few other candidates. So a lost neuron stays
# lost, and its links go to other neurons. Two runs per seed differ in the removal score alone: WM is the CHTs of the
# table of methods, RI is the paper's choice for Fashion-MNIST.


# %%
task = data.load_images("digits")
CHTS = chts.METHODS["chts"]
LABELS = {"magnitude": "WM", "relative_importance": "RI"}


def train(score: str, seed: int) -> chts.Sparsifier:
    generator = torch.Generator().manual_seed(seed)
    model = models.mlp(task.features, settings.hidden, task.classes, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method = replace(CHTS, removal=replace(CHTS.removal, score=score))
    batches = len(task.train.labels) // 32
    duration = {"total_steps": settings.epochs * batches, "update_every": batches}
    sparsifier = chts.Sparsifier(model, optimizer, method, settings.sparsity, seed=seed, **duration)
    sparsifier.rescale_weights()  # a sparse layer needs larger weights to let the signal through
    started_with[score, seed], trained[score, seed] = sparsifier.active_neurons(), model
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(task.train.labels), generator=generator).split(32)[:batches]:
            optimizer.zero_grad()
            F.cross_entropy(model(task.train.images[batch]), task.train.labels[batch]).backward()
            optimizer.step()
            sparsifier.step()
    return sparsifier


# %%
started_with, trained = {}, {}
runs = {(score, number): train(score, number) for score in LABELS for number in chosen[:2]}

# %% [markdown]
# The history of a Sparsifier has an `anp` per update and layer: the share of *all* output neurons of the layer that are
# active after the update, with regrowth. (The ratio above was to those active before.) Averaged over the layers:

# %%
courses: dict[str, list[list[float]]] = {"WM": [], "RI": []}
for (score, number), sparsifier in runs.items():
    by_step = pd.DataFrame(sparsifier.history).groupby("step").anp.mean()
    courses[LABELS[score]].append([started_with[score, number], *by_step])
for name, course in courses.items():
    print(
        name, "first", [round(values[0], 3) for values in course], "last", [round(values[-1], 3) for values in course]
    )

# %%
figures.show(
    figures.anp_by_epoch(courses),
    "Most of the lost neurons are lost at the first updates. A line is the share of active neurons of one run at "
    f"{settings.sparsity:.0%} sparsity, before training and after each update. Updates end after three quarters of "
    "the training.",
)

# %% [markdown]
# RI keeps a little more than WM here. Its lead is far smaller than after the single removal above. Removal is soft now, so RI can
# lose a last link too. It is repeated, and neurons that were lost stay lost. Most of the loss falls in the first two updates. Two
# runs per score do not show which score trains better.
#
# Inactive neurons still cost time and memory as long as the matrices are dense. `sparsifier.compact(example)` returns a
# smaller model without them. It drops neurons without outgoing links. A neuron without incoming links sends a constant,
# through its bias; this constant moves into the biases of the next layer. So the outputs stay the same, up to rounding.
# The third hidden layer feeds the output layer, which is dense and no part of the chain: its width stays.

# %%
small, rows = {}, []
for (score, number), sparsifier in runs.items():
    model = trained[score, number].eval()
    compacted = small[score, number] = sparsifier.compact(task.validation.images[:1])
    with torch.no_grad():
        assert torch.allclose(model(task.validation.images), compacted(task.validation.images), atol=1e-4)
        right = (compacted(task.validation.images).argmax(dim=1) == task.validation.labels).float().mean()
    widths = [[layer.out_features for layer in m if hasattr(layer, "out_features")][:-1] for m in (model, compacted)]
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, compacted)]
    rows.append(
        {
            "removal": LABELS[score],
            "seed": number,
            "hidden before": sum(widths[0]),
            "hidden after": sum(widths[1]),
            "widths after": " · ".join(map(str, widths[1])),
            "parameters before": sizes[0],
            "parameters after": sizes[1],
            "validation accuracy": round(float(right), 3),
        }
    )
pd.DataFrame(rows)

# %% [markdown]
# **Predict:** the compacted model has far fewer parameters. Will a forward pass on the validation images be faster by the
# same factor?

# %%
key = ("magnitude", settings.seed)
images = task.validation.images
with torch.no_grad():
    seconds = costs.median_seconds(
        {"dense": lambda: trained[key](images), "compacted": lambda: small[key](images)}, repeats=30
    )
row = rows[list(runs).index(key)]
print(f"{len(images)} images: dense {1e3 * seconds['dense']:.2f} ms, compacted {1e3 * seconds['compacted']:.2f} ms")
print(f"time ÷ {seconds['dense'] / seconds['compacted']:.1f}", end=", ")
print(f"parameters ÷ {row['parameters before'] / row['parameters after']:.1f}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The pass is faster. These matrices are small, so a part of the time is only the call of the layers. This part is the
# same for both models. So the time falls by less than the number of parameters. The times also change from run to run
# and between machines. This is a gain without any sparse software: the smaller matrices are ordinary ones, and most of
# their entries are still zero.
# </details>
#
# ## Exercise: how small does it get?
#
# *★★☆ · 10 minutes · useful · objective 4 · write code*
#
# Write a function of the masks of an MLP that returns the number of parameters of the compacted model. All layers are sparse
# here, and each has a bias. The compacted matrices are dense. Inputs and outputs stay. You may use
# `chts.percolation.percolate`.


# %% tags=["exercise"]
def parameters(masks: list[torch.Tensor]) -> int:
    """Weights and biases of the compacted model; write it here."""


# %% tags=["check"]
exercises.check("04.compacted_size", parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# After percolation a hidden neuron is active if its row has a link. List the widths from the inputs to the outputs, then take
# them two by two.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def parameters(masks: list[torch.Tensor]) -> int:
#     names = tuple(str(number) for number in range(len(masks)))
#     chain = chts.LayerGraph(chains=(names,))
#     left = chts.percolation.percolate(dict(zip(names, masks, strict=True)), chain)
#     hidden = [int(left[name].any(dim=1).sum()) for name in names[:-1]]
#     widths = [masks[0].shape[1], *hidden, masks[-1].shape[0]]
#     return sum(after * (before + 1) for before, after in pairwise(widths))
# ```
# </details>

# %% [markdown]
# ## Exercise: fold a bias
#
# *★★★ · 25 minutes · useful · objective 4 · write code*
#
# Write the part of `compact` that treats constants. A neuron that lost all its inputs still sends `activation(bias)`. You want to
# drop it, and every output has to stay the same. Write a function of the layers of an MLP, a list of pairs `(weight, bias)` from the
# inputs on. It drops every hidden neuron without incoming links. The activation stands between two layers, and none stands
# after the last.
#
# Keep the neurons that the core keeps. One neuron of the check only looks connected: it is in hidden layer 2, and it reads one lost
# neuron and no other. Predict first: what does it send after the lost neuron is folded into its bias?


# %% tags=["exercise"]
def fold_bias(layers: list[tuple[torch.Tensor, torch.Tensor]], activation) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The layers without neurons that no link reaches, with the same outputs; write it here."""


# %% tags=["check"]
exercises.check("04.fold_bias", fold_bias)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go from the first layer on. `weight.any(dim=1)` tells which neurons stay. The others send `activation(bias[lost])`, and the next
# layer reads this through its columns `after[:, lost]`. Fold before you look at the next layer.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def fold_bias(layers: list[tuple[torch.Tensor, torch.Tensor]], activation) -> list[tuple[torch.Tensor, torch.Tensor]]:
#     layers = list(layers)
#     for at in range(len(layers) - 1):
#         (weight, bias), (after, after_bias) = layers[at], layers[at + 1]
#         stays = weight.any(dim=1)
#         constant = activation(bias[~stays])
#         layers[at] = weight[stays], bias[stays]
#         layers[at + 1] = after[:, stays], after_bias + after[:, ~stays] @ constant
#     return layers
# ```
#
# The neuron of hidden layer 2 has no column left, so it is a constant itself and goes in the next turn of the loop.
#
# Percolation in training does not fold. It cuts the links of such a neuron, and its constant is missing from then on. The next
# layer can learn this constant again, through its biases.
# </details>
#
# ## Where percolation stops
#
# Percolation does not cut at the two ends of a chain. An input without links is no inactive neuron, because no link leads to it.
# The outputs of the last sparse layer feed a dense layer here, which reads all of them. In a Transformer a chain ends wherever
# the values are added to the residual stream. Many layers read this stream, and no single layer decides that a neuron is not
# needed.

# %% tags=["nbval-check-output"]
ends = {"fc1": torch.tensor([[1, 0], [0, 0]], dtype=torch.bool), "fc2": torch.tensor([[1, 0]], dtype=torch.bool)}
result = chts.percolation.percolate(ends, chts.LayerGraph(chains=(("fc1", "fc2"),)))
assert all(torch.equal(result[name], ends[name]) for name in ends)
print("input 1 has no link, neuron 1 has none on either side: nothing to cut")

# %% [markdown]
# Not every published run percolates. CHT, CHTs and CHTss do so by the paper. The script that was published for LLaMA leaves
# percolation off; the preset of that code does the same.

# %%
for name, method in {**chts.METHODS, **chts.PRESETS}.items():
    if name in ("set", "rigl", "cht", "chts", "chtss", "chts/llama_code"):
        print(f"{name:16} percolates: {method.removal.percolate}")

# %% [markdown]
# ## To discuss
#
# 1. Is a lost neuron a loss or a gain? Name one situation for each, and say what you would measure to decide.
# 2. The published script for LLaMA does not percolate. Its incomplete links stay and count as links. Is a comparison at equal
#    sparsity fair to it? What would you report beside the sparsity?
# 3. In our runs a lost neuron never comes back. How would you bring one back, and what would it have to do to stay?
#
# ## Self-check
#
# 1. A hidden neuron has three incoming links and no outgoing one. Which links are incomplete, and which sweep cuts them?
#
# <details><summary>Answer</summary>
#
# Its three incoming links. The sweep backward cuts them.
# </details>
#
# 2. Why does a chain need only one sweep each way, but two branches that meet in a pair may need another round?
#
# <details><summary>Answer</summary>
#
# In a chain, the forward sweep cuts only links that leave neurons without incoming links, so nothing before them changes. Across a
# pair, a cut that comes forward along one branch takes the incoming links of the neuron in the other branch. One of them may be
# the last outgoing link of a neuron before.
# </details>
#
# 3. A link of weight 0.01 is the only one of its output neuron; its input has other links that sum to 9.99. What is its RI,
#    and how does it compare to a link that is one of ten equal ones on both sides?
#
# <details><summary>Answer</summary>
#
# 0.01/10 + 0.01/0.01 = 1.001. The other has 1/10 + 1/10 = 0.2. So RI removes the second, WM most likely the first.
# </details>
#
# 4. A neuron has no incoming links, but it has a bias of 2. May a compacted model simply drop it?
#
# <details><summary>Answer</summary>
#
# No. Under ReLU it always sends 2, and each neuron of the next layer that has a link from it gets 2 times the weight.
# That product has to be added to their biases; then it may go.
# </details>
#
# ## Key takeaways
#
# - A hidden neuron is active only if it has links on both sides; incomplete links do nothing and are regrown elsewhere.
# - A chain needs one sweep backward and one forward. Pairs such as (gate, up) must both be active, and may need more rounds.
# - RI protects the last links of weakly connected neurons. It differs more from WM in sparser layers. The paper chooses between
#   them by task, and prunes by RI where the density falls.
# - Inactive neurons can be taken out of the model, and its outputs stay the same.
#
# ## Further reading
#
# - **Percolation in network science:** Callaway, Newman, Strogatz and Watts, *Network robustness and fragility: percolation on
#   random graphs*, Physical Review Letters, 2000,
#   [doi 10.1103/PhysRevLett.85.5468](https://doi.org/10.1103/PhysRevLett.85.5468).
# - **Cascades between two networks that need each other:** Buldyrev et al., *Catastrophic cascade of failures in interdependent
#   networks*, Nature, 2010, [doi 10.1038/nature08932](https://doi.org/10.1038/nature08932).
# - **Relative importance for large language models:** Zhang et al., *Plug-and-play: an efficient post-training pruning method
#   for large language models*, ICLR, 2024.
# - **Layers that lose all their links:** Tanaka et al., *Pruning neural networks without any data by iteratively conserving
#   synaptic flow*, NeurIPS, 2020, [arXiv 2006.05467](https://arxiv.org/abs/2006.05467).
# - **Whole units instead of links:** Li et al., *Pruning filters for efficient ConvNets*, ICLR, 2017,
#   [arXiv 1608.08710](https://arxiv.org/abs/1608.08710).

# %%
records.publish(
    {
        "hidden": settings.hidden,
        "toy links": sum(int(mask.sum()) for mask in percolated.values()),
        "anp": [
            {"score": score, "sparsity": s, "anp": round(float(value), 4)}
            for score, curve in curves.items()
            for s, value in zip(SPARSITIES, curve.mean(dim=0), strict=True)
        ],
        "layers": [
            {"score": score, "stage": stage, "neurons": n} for score in counts for stage, n in counts[score].items()
        ],
        "compacted": rows,
        "seconds dense": round(seconds["dense"], 6),
        "seconds compacted": round(seconds["compacted"], 6),
    }
)
