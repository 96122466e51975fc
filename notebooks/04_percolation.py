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
# **You will be able to**
#
# 1. find by hand which neurons a removal cuts off;
# 2. write the two sweeps that cut the remaining links of inactive neurons;
# 3. compute relative importance by hand, and explain why it keeps more neurons active than weight magnitude does;
# 4. build a smaller dense model without the inactive neurons.
#
# | | |
# |---|---|
# | Prerequisites | stage 00 (removal and regrowth of links); stage 01 (masks, degrees, Erdős–Rényi) |
# | Time | 25 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Figure 2 (c) and (d), the section on link removal (relative importance), and the ANP column of the MLP table |

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
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the networks and of the training runs
sparsity: float = 0.99  # share of absent links in the network that is trained, in [0, 1)
hidden: int = 0  # units per hidden layer; 0 means the value of the profile
epochs: int = 0  # epochs of the training runs; 0 means the value of the profile
seeds: int = 0  # number of networks and training runs per removal score; 0 means the value of the profile

# %%
settings = notebooks.start(
    "04_percolation", profile, seed=seed, sparsity=sparsity, hidden=hidden, epochs=epochs, seeds=seeds
)

# %% [markdown]
# ## Inactive neurons
#
# A hidden neuron receives values through its incoming links and sends its own value through its outgoing links. If a
# removal leaves a neuron without incoming links or without outgoing links, the neuron is **inactive**. If a neuron has
# no incoming links, its value is the same for every image. If a neuron has no outgoing links, no other neuron uses its
# value. The incoming or outgoing links that an inactive neuron still has are **incomplete**.
#
# Why should we cut the incomplete links? The total number of links is fixed. An incomplete link carries no information
# from an input to an output, but it takes the place of a useful link. **Percolation** cuts the incomplete links. For
# each link that percolation cuts, regrowth then adds a link elsewhere.
#
# The network below has 4 inputs, two hidden layers of 4 and 3 neurons, and 2 outputs. An update has just removed 3 of
# the network's 15 links:

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
    "The removal makes two neurons inactive: neuron 2 of hidden layer 1 has no incoming link, and neuron 2 of hidden "
    "layer 2 has no outgoing link. Both are crossed out. The two dashed links are incomplete.",
)

# %% [markdown]
# The masks also show which neurons are inactive. If a row of `fc1` has no links, the matching neuron of hidden layer 1
# has no incoming links. If a column of `fc2` has no links, the matching neuron of hidden layer 1 has no outgoing links.

# %% tags=["nbval-check-output"]
for number, (incoming, outgoing) in enumerate((("fc1", "fc2"), ("fc2", "fc3")), start=1):
    no_incoming = (~masks[incoming].any(dim=1)).nonzero().flatten().tolist()
    no_outgoing = (~masks[outgoing].any(dim=0)).nonzero().flatten().tolist()
    print(f"hidden {number}: without incoming links {no_incoming}, without outgoing links {no_outgoing}")

# %% [markdown]
# **Predict:** cut the two dashed links, and look again. Which neurons have now lost their last incoming or outgoing
# link? Cut the remaining links of these neurons too, and repeat until no link is incomplete. How many of the 12 links
# are then left, and how many of the 7 hidden neurons are still active?
#
# ## One sweep backward, one sweep forward
#
# The *backward* sweep goes from the outputs to the inputs: a neuron without outgoing links loses its incoming links. In
# terms of masks, a row of one layer's mask keeps its links only if the matching column of the next layer's mask has a
# link.

# %% tags=["nbval-check-output"]
swept = {name: mask.clone() for name, mask in masks.items()}
for before_it, after_it in (("fc2", "fc3"), ("fc1", "fc2")):
    has_outgoing = swept[after_it].any(dim=0)
    swept[before_it] &= has_outgoing[:, None]
    print(f"{before_it} after the cut at neurons without links to {after_it}:\n{swept[before_it].int()}")

# %% [markdown]
# First, neuron 2 of hidden layer 2 loses its incoming link. This link was the only outgoing link of neuron 3 of hidden
# layer 1. So when the sweep reaches hidden layer 1, it also cuts the two incoming links of neuron 3. Such a series of
# cuts is called a *cascade*.
#
# The *forward* sweep goes from the inputs to the outputs: a neuron without incoming links loses its outgoing links.

# %% tags=["nbval-check-output"]
for before_it, after_it in (("fc1", "fc2"), ("fc2", "fc3")):
    has_incoming = swept[before_it].any(dim=1)
    swept[after_it] &= has_incoming
    print(f"{after_it} after the cut at neurons without links from {before_it}:\n{swept[after_it].int()}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The number of inactive neurons rises from two to four, and the number of links falls from 12 to 7. In the backward
# sweep, the cut at neuron 2 of hidden layer 2 made neuron 3 of hidden layer 1 inactive. In the forward sweep, the cut
# at neuron 2 of hidden layer 1 made neuron 1 of hidden layer 2 inactive. Neurons 0 and 1 of hidden layer 1 and neuron 0
# of hidden layer 2 are still active.
# </details>
#
# The core runs both sweeps for any model. To do so, the core needs a `LayerGraph`, which describes how the layers are
# connected. In an MLP, each layer feeds the next layer, so the layers form one *chain*.

# %% tags=["nbval-check-output"]
chain = chts.LayerGraph(chains=(("fc1", "fc2", "fc3"),))
percolated = chts.percolation.percolate(masks, chain)
assert all(torch.equal(swept[name], percolated[name]) for name in masks)
print("links:", {name: f"{int(masks[name].sum())} -> {int(percolated[name].sum())}" for name in masks})

# %%
cut = [masks[name] & ~percolated[name] for name in masks]
figures.show(
    figures.percolating_network(list(percolated.values()), sides, removed=lost, cut=cut),
    "Together, both sweeps leave 7 links. Each of these links is on a path from an input to an output. Four of the "
    "seven hidden neurons are inactive.",
)

# %% [markdown]
# **Why one sweep in each direction is enough for a chain.** After the backward sweep, each hidden neuron with incoming
# links also has outgoing links. The forward sweep cuts the outgoing links of neurons *without* incoming links. So a
# neuron keeps its outgoing links as long as it has incoming links. Therefore, a second backward sweep would cut
# nothing.
#
# The links that remain after both sweeps are exactly the links on a path from an input to an output.
#
# **One word, two meanings.** In network science, the *percolation threshold* is the share of links at which a giant
# connected component appears. Here, percolation is not a threshold but a rule that cuts every link that lies on no path
# from an input to an output. Both meanings concern the same question: which parts of a network stay connected after
# some links are removed?
#
# ## Exercise: find the inactive neurons by hand
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# The network has five inputs, two hidden layers of four neurons each, and two outputs. Some links were removed. Which
# hidden neurons are inactive after all cascades?

# %%
puzzle = {
    "fc1": torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool),
    "fc2": torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool),
    "fc3": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.bool),
}
figures.show(
    figures.network([figures.Links("links", list(puzzle.values()))], sides),
    "The network of the exercise has 5 inputs, two hidden layers of 4 neurons each, 2 outputs and "
    f"{sum(int(mask.sum()) for mask in puzzle.values())} links. Nothing is crossed out yet.",
)

# %% tags=["exercise"]
inactive = None  # for example {"hidden 1": {0, 2}, "hidden 2": set()}

# %% tags=["check"]
exercises.check("04.inactive", inactive, puzzle=puzzle, chain=chain)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Start with the neurons that have no incoming links or no outgoing links. Each hidden layer has one such neuron.
# Percolation cuts the remaining links of these two neurons. Follow each of these links to the neuron at its other end.
# Which links does that neuron still have?
# </details>
#
# <details><summary>Solution</summary>
#
# Neuron 2 of hidden layer 2 has no outgoing link. The only outgoing link of neuron 1 of hidden layer 1 leads to neuron
# 2 of hidden layer 2, so neuron 1 of hidden layer 1 is inactive too. Neuron 3 of hidden layer 1 has no incoming link.
# The only incoming link of neuron 1 of hidden layer 2 comes from neuron 3 of hidden layer 1, so neuron 1 of hidden
# layer 2 is inactive too. Neuron 0 of hidden layer 2 loses its link from neuron 3 of hidden layer 1, but it has a
# second incoming link, so it stays active. Inputs 3 and 4 have no links, but inputs are not hidden neurons.
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
# Write the backward sweep for a chain of any length. `masks` is a list of masks in order from the inputs to the
# outputs, each of shape `(out_features, in_features)`. Return new masks, and do not change the given masks.
#
# A forward sweep is a backward sweep of the reversed network: transpose every mask, reverse the list, sweep backward,
# and then reverse the list and transpose every mask again. The check uses your function for both sweeps, on random
# networks. The two sweeps together must leave the same links as the core's `percolate`.


# %% tags=["exercise"]
def backward(masks: list[torch.Tensor]) -> list[torch.Tensor]:
    """The masks after the backward sweep, which cuts the links to neurons without outgoing links. Write this function."""


# %% tags=["check"]
exercises.check("04.backward", backward)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the layers from the second-to-last layer back to the first. If `after` is the mask of a layer,
# `after.any(dim=0)` shows which neurons of the previous layer have outgoing links. Use this vector to select *rows* of
# the previous layer's mask.
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
# Percolation keeps the links that lie on a path from an input to an output. So you can percolate without sweeps: count
# the paths through each link, and cut the links that lie on no path. Write a function that takes the masks and returns
# one tensor of integers for each mask. Each tensor holds the number of paths through each link, and 0 where there is no
# link.
#
# Predict first: if you add up the counts of each layer, do all layers have the same sum?


# %% tags=["exercise"]
def paths_through(masks: list[torch.Tensor]) -> list[torch.Tensor]:
    """Number of paths from an input to an output through each link, shaped like the masks. Write this function."""


# %% tags=["check"]
exercises.check("04.paths_through", paths_through)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Count the ways from the inputs to the source of the link, and the ways from the target of the link to the outputs. The
# number of paths through the link is the product of these two numbers. Begin with one way to each input. To find how
# many ways lead to a neuron, add up the ways to all neurons that link to it: `mask.long() @ ways`.
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
# All layers have the same sum, the number of paths in the network, because every path uses exactly one link of each
# layer. As with the sweeps, one pass goes forward through the layers and another pass goes backward.
# </details>
#
# ## Pairs: two layers that need each other
#
# A Transformer has chains too. It also has *pairs* of layers. Neither layer of a pair feeds the other. Instead, the
# outputs of the two layers are *multiplied*, neuron by neuron. Stages 08 and 09 explain the layers in the table and the
# activation function silu. Here you need to know only one thing about silu: silu(0) is 0.
#
# | layers | how they meet | consequence |
# |---|---|---|
# | `w1` → `w2`, `v` → `o` | chain: output $j$ of the first layer is input $j$ of the second | as in the MLP above |
# | `q` and `k` | pair: a score is $\sum_j q_j k_j$ | if $q_j$ is always 0, $k_j$ has no effect |
# | `gate` and `up` | pair: $\mathrm{silu}(g_j)\, u_j$, and both feed `down` | if one factor is always 0, the product is always 0 |

# %%
figures.show(
    figures.blocks(["transformer", "llama"]),
    "Both models have a pair (q, k) and a chain (v, o) in their attention block. The feed-forward block of the "
    "Transformer is one chain (w1, w2). The gated block of the LLaMA has a pair (gate, up) and two chains that end "
    "in down. Each drawing shows one layer.",
)

# %% [markdown]
# (In LLaMA, the layers of these blocks have no biases, so the value of a neuron without incoming links is 0.) In an
# attention head, `q` and `k` form a pair, and `v` and `o` form a chain. LLaMA encodes the position of a token by a
# *rotation*. In a head of width $d$, LLaMA rotates neurons $j$ and $j + d/2$ by an angle that grows with the position.
# The rotation mixes the two neurons, so either both are active or both are inactive. The core's `Attention` takes the
# heads and the rotation into account.
#
# **Predict:** the gated block below has three hidden neurons. Row 1 of `gate` has no links, and column 2 of `down` has
# no links. Which rows of `up` does percolation cut?

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
# Percolation cuts rows 1 and 2 of `up`. The gate of neuron 1 is always 0, because silu(0) = 0. The value of `up` for
# neuron 1 is multiplied by this 0, so this value has no effect. Percolation also cuts the link of `down` that comes
# from neuron 1. Neuron 2 has no link to `down`, so percolation cuts row 2 of `gate` too.
# </details>
#
# You can check this result by hand. Neuron $j$ stays active if `gate` has a link in row $j$, `up` has a link in row
# $j$, *and* `down` has a link in column $j$.

# %% tags=["nbval-check-output"]
lives = gated["gate"].any(dim=1) & gated["up"].any(dim=1) & gated["down"].any(dim=0)
print("active neurons:", lives.int().tolist())
for name, mask in complete.items():
    assert torch.equal(mask, gated[name] & (lives if name == "down" else lives[:, None]))

# %% [markdown]
# ## When one round is not enough
#
# If two branches meet in a pair, a cascade can go *forward* along one branch, across the pair, and *backward* along the
# other branch. But by then, the backward sweep has already passed the other branch. The two sweeps together are called
# one *round*. The core repeats rounds until nothing changes.
#
# Here is a small example. `a` feeds `gate`, `b` feeds `up`, and each layer has one neuron. Layer `a` has lost its only
# link. Two layers *meet* if one of them feeds the other in a chain, or if they form a pair. A round goes through the
# list of meetings from the last to the first, and then from the first to the last. In the list below, the pair comes
# last.

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
# After round 1, `b` still has its link, although `up` has lost its link from `b`. Round 2 cuts the link of `b`.
#
# ## Which links to remove: magnitude or relative importance
#
# Percolation cuts the links that a removal has made incomplete. An update chooses the links to remove by a *removal
# score*. The number of incomplete links depends on this score. **Weight magnitude** (WM) is $|W_{ij}|$. **Relative
# importance** (RI), which stage 03 also uses, measures how much a link matters to its two neurons (see the paper's
# section on link removal):
#
# $$\mathrm{RI}_{ij} = \frac{|W_{ij}|}{\sum_k |W_{kj}|} + \frac{|W_{ij}|}{\sum_k |W_{ik}|}$$
#
# The first term is the link's share of all weights at input $j$ (column $j$). The second term is the link's share of
# all weights at output $i$ (row $i$). The core adds 1e-5 to both sums, so that it never divides by 0. Our example has
# three outputs, three inputs and five links:

# %% tags=["nbval-check-output"]
weight = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.5]])
importance = chts.removal.relative_importance(weight)
print("WM\n", chts.removal.magnitude(weight))
print("RI\n", importance.round(decimals=2))

# %% [markdown]
# Let us compute two values by hand. The link from input 1 to output 0 has a weight of 1.0. The column of this link sums
# to 1 + 4 = 5, and its row sums to 3 + 1 = 4, so RI = 1/5 + 1/4 = 0.45. For the link with weight 0.5 in the bottom
# right corner, the column and the row each sum to 0.5, so RI = 1 + 1 = 2. The value 2 is the highest possible RI.
#
# Now remove one link. WM removes the link with weight 0.5. This link is the only link of input 2 and of output 2, so
# this input and this output are both cut off. RI removes the link with weight 1.0. The two neurons that this link
# connects each have another link. If a link is the only link of a neuron, one of the two fractions in the link's RI is
# 1, so this RI is above 1. A typical link between neurons with $d$ links each has an RI near $2/d$. The links with the
# lowest RI are removed first, so the only link of a neuron is usually among the last to be removed. (A *linked neuron*
# has at least one link. At each linked neuron, the fractions of the neuron's links add up to 1. So the RI values of a
# layer add up to the number of linked inputs and outputs of this layer. In our example, the sum is 6.)

# %% tags=["nbval-check-output"]
by_hand = weight / weight.sum(dim=0) + weight / weight.sum(dim=1, keepdim=True)
assert torch.allclose(importance, by_hand, atol=1e-4)
assert importance[0, 1].round(decimals=2) == 0.45
assert importance.sum().round(decimals=2) == 6
weakest = {"WM": weight.where(weight > 0, 9.0).argmin(), "RI": importance.where(weight > 0, 9.0).argmin()}
print("removed first, as (output, input):", {name: divmod(int(at), 3) for name, at in weakest.items()})

# %% [markdown]
# Now take a chain of four Erdős–Rényi layers with random weights. In each layer, we remove the 30 % of links that have
# the lowest scores (ζ = 30 %). Then we percolate. (CHTs removes links softly, as stage 03 explains. Here we use hard
# removal, because it shows the difference between the scores most clearly.)


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
# The paper measures the share of neurons that stay active. The paper calls this share **ANP**, the *active neuron
# post-percolation* rate:
#
# $$\text{ANP} = \frac{\text{active neurons after}}{\text{active neurons before}}$$
#
# Here we count neurons of the three hidden layers three times. Before the removal, we count the active neurons. Right
# after the removal, we count the neurons that are *linked on both sides*: they still have incoming and outgoing links.
# After percolation, we count the active neurons again. First we look at each layer separately, at 99 % sparsity.
#
# **Predict:** under both scores, each layer loses 30 % of its links. How much will the numbers of active neurons under
# WM and under RI differ? Does percolation make many neurons inactive in addition to the neurons that the removal cuts
# off?


# %% tags=["nbval-check-output"]
def linked(masks: dict[str, torch.Tensor]) -> list[int]:
    """Number of hidden neurons with links on both sides, for each layer."""
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
    "Percolation makes neurons inactive in addition to the neurons that the removal cut off. It makes more neurons "
    "inactive under WM (left) than under RI (right). The bars show the active neurons of three hidden layers of "
    f"{WIDTH} neurons at 99 % sparsity, before and after the removal of 30 % of the links.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Under RI, nearly all neurons stay active. WM cuts off many neurons, because WM looks at each weight in isolation: a
# neuron's only link is as likely to be removed as any other link. The more neurons the removal cuts off, the more
# neurons percolation makes inactive. Under RI, the middle bar can be higher than the first bar. The first bar counts
# only active neurons. The middle bar also counts neurons that have incoming and outgoing links but lie on no path from
# an input to an output.
# </details>
#
# We repeat this measurement at several sparsities, with several networks at each sparsity:

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
    "If every neuron has many links, the score does not matter. If neurons have few links, WM loses neurons. The "
    f"line is the mean ANP of {settings.seeds} networks, and the band reaches from the lowest to the highest ANP.",
)

# %% [markdown]
# Neither removal score is always better than the other. The paper finds that percolation makes neurons inactive faster
# under WM, so fewer neurons stay active. The paper chooses the score for each task. CHTs removes links by RI on
# Fashion-MNIST, and by WM on MNIST and EMNIST, in translation and in LLaMA. CHTss needs two scores. CHTss *exchanges*
# links by the score of the task, as CHTs does. CHTss also *prunes* links, because its density falls (stage 05). CHTss
# prunes by RI on every task. An inactive neuron reduces the capacity of the network, but the computer can skip this
# neuron.
#
# ## Exercise: importance by hand
#
# *★☆☆ · 10 minutes · essential · objective 3 · work out*
#
# A layer has three outputs (rows), three inputs (columns) and five links:
#
# $$W = \begin{pmatrix} 3 & 7 & 0 \\ 0 & 1 & 0 \\ 2 & 0 & 4 \end{pmatrix}$$
#
# Compute the RI of the link with weight 1. Then find the link with the lowest RI, which RI removes first. WM would
# remove the link with weight 1 first. Which neuron would WM cut off?

# %% tags=["exercise"]
importance_of_1 = None  # the RI of the link with weight 1
removed_by_ri = None  # the link that RI removes first, as (output, input)

# %% tags=["check"]
exercises.check("04.importance", importance_of_1, removed_by_ri)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Write the sum of each row beside the row, and the sum of each column below the column. Each sum includes the weight of
# the link itself.
# </details>
#
# <details><summary>Solution</summary>
#
# Column 1 sums to 8 and row 1 sums to 1, so the link with weight 1 has an RI of $1/8 + 1/1 = 1.125$. The link with
# weight 2 has the lowest RI, $2/5 + 2/6 = 0.73$. The input and the output of this link each have another link. WM would
# cut off output 1, which has no other link.
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
# RI protects the *last link* of a neuron (the only link that it has), but not in every network. Write a 3 × 3 weight
# matrix with at least 4 links for which RI fails: the link with the lowest RI must be the last link of its input or of
# its output. No other link may have an equally low RI.

# %% tags=["exercise"]
unprotected = None  # for example torch.tensor([[3.0, 7.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 4.0]])

# %% tags=["check"]
exercises.check("04.break_importance", unprotected)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The last link of a neuron has an RI above 1, so every other link in your matrix needs an even higher RI. How many
# links can have an RI above 1 if all RI values add up to the number of linked neurons?
# </details>
#
# <details><summary>Solution</summary>
#
# In the matrix below, output 0 has links from inputs 0 and 1. The link from input 1 to output 0 has a weight of 10,
# which makes up most of the sum of its row and most of the sum of its column. The last link of input 0 has an RI of
# $1/1 + 1/11 = 1.09$, but the link with the weight 10 has an RI of $10/12 + 10/11 = 1.74$:
#
# ```python
# unprotected = torch.tensor([[1.0, 10.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
# ```
#
# RI can fail only if a layer has fewer links than linked neurons. Otherwise the mean RI is at most 1, and the lowest RI
# is at most 1 too. But the last link of a neuron has an RI above 1, so it cannot have the lowest RI. During training, a
# layer has far more links than neurons, unless it is very sparse.
# </details>
#
# ## Explore
#
# **Predict before you move a control:** what share of the links must you remove before WM leaves fewer than half of the
# neurons active? Keep this share, and switch to relative importance. How many more neurons does relative importance
# leave active? Then step through the sweeps and follow one cascade.

# %%
sandbox = widgets.PercolationSandbox()
sandbox

# %% [markdown]
# GitHub does not show widgets. This figure shows the first state of the sandbox:

# %%
state = widgets.PercolationState()
shown = widgets.PercolationSandbox.compute(state)
figures.show(widgets.PercolationSandbox.draw(state, shown), shown.description)

# %% tags=["nbval-check-output"]
for score in ("magnitude", "relative importance"):
    for share in (0.3, 0.4, 0.5):
        description = widgets.PercolationSandbox.compute(replace(state, score=score, removed=share)).description
        print(f"{score}, {share:.0%} removed: {description[description.index('When') :]}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# In the network of the figure, WM leaves 9 of 15 neurons active after a removal of 30 %, 8 after 40 % and 4 after 50 %.
# After the same removals, RI leaves 15, 13 and 11 neurons active. In the state that the figure shows (WM, 30 %), the
# backward sweep cuts most of the dashed links. The sweep also makes two more neurons of hidden layer 1 inactive and
# cuts their incoming links. The forward sweep cuts the two links that are still dashed.
# </details>
#
# ## A network that shrinks
#
# Now we percolate during training. Once per epoch, CHTs removes links softly, percolates and regrows links. A regrown
# link starts from the last weight that it had, or from 0 if it never existed before. No path of three links (L3) leads
# to a neuron without links, so every possible new link of this neuron has the score 0. Link prediction adds a link to
# such a neuron only if there are too few other candidates. So a neuron that has lost all its links stays inactive, and
# regrowth adds links to other neurons instead. For each seed, we train two networks that differ only in the removal
# score. WM is the score of CHTs in the table `chts.METHODS`, and RI is the paper's choice for Fashion-MNIST.


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
# The history of a `Sparsifier` contains a value `anp` for each update and layer. This value is the share of *all*
# output neurons of the layer that are active after the update and its regrowth. (The ANP above divides by the number of
# neurons that were active before the removal.) The next cell computes the mean of this share over the layers:

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
    "Most of the neurons that become inactive do so at the first updates. A line shows the share of active neurons of "
    f"one run at {settings.sparsity:.0%} sparsity, before training and after each update. Updates end after three "
    "quarters of the training.",
)

# %% [markdown]
# In these runs, RI keeps slightly more neurons active than WM. The lead of RI is far smaller than after the single
# removal above. The removal is soft now, so even under RI it can remove the last link of a neuron. The removal is also
# repeated, and inactive neurons stay inactive. Most of these neurons become inactive in the first two updates. Two runs
# per score cannot show which score leads to a better accuracy.
#
# Inactive neurons still cost time and memory as long as the matrices are dense. `sparsifier.compact(example)` returns a
# smaller model without the inactive neurons. `compact` drops neurons without outgoing links. A neuron without incoming
# links sends a constant, which depends only on its bias. `compact` moves the effect of this constant into the biases of
# the next layer. So the outputs of the model stay the same, up to rounding. The third hidden layer keeps its width,
# because it feeds the output layer. The output layer is dense and not part of the chain.

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
# **Predict:** the compacted model has far fewer parameters than the original model. Will the time of a forward pass on
# the validation images fall by the same factor as the number of parameters?

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
# The forward pass of the compacted model is faster. These matrices are small, so part of the time is spent on calling
# the layers. This part of the time is the same for both models. So the time falls by a smaller factor than the number
# of parameters. The times also vary from run to run and between machines. This gain in speed needs no software for
# sparse matrices. The smaller matrices are ordinary dense matrices, although most of their entries are still zero.
# </details>
#
# ## Exercise: how small does it get?
#
# *★★☆ · 10 minutes · useful · objective 4 · write code*
#
# Write a function that takes the masks of an MLP and returns the number of parameters of the compacted model. In this
# exercise, all layers are sparse, and each layer has a bias. The compacted matrices are dense. The compacted model
# keeps all inputs and outputs. You may use `chts.percolation.percolate`.


# %% tags=["exercise"]
def parameters(masks: list[torch.Tensor]) -> int:
    """Number of weights and biases of the compacted model. Write this function."""


# %% tags=["check"]
exercises.check("04.compacted_size", parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# After percolation, a hidden neuron is active if its row has a link. List the widths from the inputs to the outputs.
# Two neighbouring widths in this list are the numbers of inputs and outputs of one layer.
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
# Write the part of `compact` that handles constants. A neuron that has lost all its incoming links still sends
# `activation(bias)`. You want to drop such a neuron without changing any output of the network. Your function takes the
# layers of an MLP, a list of pairs `(weight, bias)` in order from the inputs to the outputs. The function drops every
# hidden neuron without incoming links. Each layer except the last is followed by the activation.
#
# In the network of the check, every hidden neuron has outgoing links. So your function must keep the same neurons as
# the core's `compact`. One neuron of hidden layer 2 seems to be connected, but its only incoming link comes from a
# neuron that you drop. Predict first: you fold the constant of the dropped neuron into the bias of the neuron in hidden
# layer 2. What does the neuron in hidden layer 2 send then?


# %% tags=["exercise"]
def fold_bias(layers: list[tuple[torch.Tensor, torch.Tensor]], activation) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Layers with the same outputs, but without the neurons that have no incoming links. Write this function."""


# %% tags=["check"]
exercises.check("04.fold_bias", fold_bias)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Start at the first layer. `weight.any(dim=1)` shows which neurons stay. Let `lost` mark the other neurons, and let
# `after` be the weight of the next layer. The neurons in `lost` send `activation(bias[lost])`, and the next layer
# multiplies these values by its columns `after[:, lost]`. Add the result to the bias of the next layer before you check
# which of its neurons stay.
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
# The neuron of hidden layer 2 has no incoming link left, so it sends a constant too. The next pass of the loop drops
# this neuron.
#
# During training, percolation does not fold biases. Percolation cuts the outgoing links of a neuron without incoming
# links, so the next layer no longer receives the constant. The next layer can learn this constant again in its biases.
# </details>
#
# ## Where percolation stops
#
# Percolation looks for inactive neurons only inside a chain, not among its inputs and outputs. An input without links
# is not an inactive neuron, because inputs never have incoming links. In our MLP, the outputs of the last sparse layer
# feed a dense layer, which uses all of these outputs. In a Transformer, a chain ends wherever its values are added to
# the *residual stream*, a sum to which every block adds its outputs. Many layers use this sum. Even if one layer has no
# links from a neuron of the stream, another layer may use this neuron.

# %% tags=["nbval-check-output"]
ends = {"fc1": torch.tensor([[1, 0], [0, 0]], dtype=torch.bool), "fc2": torch.tensor([[1, 0]], dtype=torch.bool)}
result = chts.percolation.percolate(ends, chts.LayerGraph(chains=(("fc1", "fc2"),)))
assert all(torch.equal(result[name], ends[name]) for name in ends)
print("input 1 has no link, and neuron 1 has no link on either side, so there is nothing to cut")

# %% [markdown]
# Not every published run percolates. In the paper, CHT, CHTs and CHTss percolate. The published script for LLaMA does
# not percolate, and our preset of that script, `chts/llama_code`, does not percolate either.

# %%
for name, method in {**chts.METHODS, **chts.PRESETS}.items():
    if name in ("set", "rigl", "cht", "chts", "chtss", "chts/llama_code"):
        print(f"{name:16} percolates: {method.removal.percolate}")

# %% [markdown]
# ## To discuss
#
# 1. Is an inactive neuron a disadvantage or an advantage? Name one situation for each answer. What would you measure to
#    decide?
# 2. The published script for LLaMA does not percolate. The incomplete links of such a run stay and count as links. Is a
#    comparison at equal sparsity fair to such a run? What would you report besides the sparsity?
# 3. In our runs, an inactive neuron never becomes active again. How would you make such a neuron active again, and what
#    would the neuron need in order to stay active?
#
# ## Self-check
#
# 1. A hidden neuron has three incoming links and no outgoing links. Which links are incomplete, and which sweep cuts
#    them?
#
# <details><summary>Answer</summary>
#
# The three incoming links of this neuron are incomplete. The backward sweep cuts these links.
# </details>
#
# 2. Why does a chain need only one sweep in each direction? Why may two branches that meet in a pair need a second
#    round?
#
# <details><summary>Answer</summary>
#
# In a chain, the forward sweep cuts only the outgoing links of neurons without incoming links, so nothing changes in
# the layers before these neurons. In a pair, if the forward sweep makes a neuron of one branch inactive, the sweep also
# cuts the incoming links of the paired neuron in the other branch. One of these links may be the last outgoing link of
# a neuron in the previous layer. Only a second round cuts the incoming links of this neuron.
# </details>
#
# 3. A link of weight 0.01 is the only link of its output neuron. The input of this link has other links, and their
#    weights sum to 9.99. What is the RI of this link? The input of a second link has ten links, and its output has ten
#    links too. All these links have equal weights. How do the two RI values compare?
#
# <details><summary>Answer</summary>
#
# The RI of the first link is 0.01/10 + 0.01/0.01 = 1.001. The second link has an RI of 1/10 + 1/10 = 0.2. So RI would
# remove the second link, but WM would most likely remove the first link.
# </details>
#
# 4. A neuron has no incoming links, but it has a bias of 2. May a compacted model simply drop this neuron?
#
# <details><summary>Answer</summary>
#
# No. With ReLU, the neuron always sends 2, and each neuron that it links to receives 2 times the weight of the link.
# First add this product to the bias of each neuron that receives it. Then you may drop the neuron with the bias of 2.
# </details>
#
# ## Key takeaways
#
# - A hidden neuron is active only if it has incoming and outgoing links. Incomplete links carry no information, so
#   percolation cuts them, and regrowth adds links elsewhere.
# - A chain needs one sweep backward and one sweep forward. In a pair such as (gate, up), a neuron is active only if the
#   matching neuron of the other layer is active too. A network with pairs may need more than one round of sweeps.
# - RI usually keeps the last link of a neuron. The sparser the layer, the more RI and WM differ. The paper chooses
#   between RI and WM for each task. When CHTss lowers the density, it prunes links by RI.
# - You can remove inactive neurons from the model without changing its outputs.
#
# ## Further reading
#
# - **Percolation in network science:** Callaway, Newman, Strogatz and Watts, *Network robustness and fragility:
#   percolation on random graphs*, Physical Review Letters, 2000,
#   [doi 10.1103/PhysRevLett.85.5468](https://doi.org/10.1103/PhysRevLett.85.5468).
# - **Cascades between two networks that depend on each other:** Buldyrev et al., *Catastrophic cascade of failures in
#   interdependent networks*, Nature, 2010, [doi 10.1038/nature08932](https://doi.org/10.1038/nature08932).
# - **Relative importance for large language models:** Zhang et al., *Plug-and-play: an efficient post-training pruning
#   method for large language models*, ICLR, 2024.
# - **Layers that lose all their links:** Tanaka et al., *Pruning neural networks without any data by iteratively
#   conserving synaptic flow*, NeurIPS, 2020, [arXiv 2006.05467](https://arxiv.org/abs/2006.05467).
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
