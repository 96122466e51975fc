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
# # 02 · Link prediction
#
# **You will be able to**
#
# 1. use paths and local communities to explain why the existing links may show where a new link helps;
# 2. count by hand the paths and links that make a missing link likely;
# 3. write these counts as matrix products;
# 4. test a score on hidden links;
# 5. choose a score by its cost;
# 6. draw new links without computing their scores.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; matrix products |
# | Time | 45 minutes to read, one or two minutes to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), sections on path-based and node-based link regrowth |

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
import random
import time
from collections import Counter
from dataclasses import replace
from itertools import permutations

import pandas as pd
import torch
from scipy import stats

import chts_core as chts
from chts_core.lab import data, figures, recovery, widgets
from chts_core.lab.notebook import exercises, l3, notebooks
from chts_core.lab.results import records, statistics
from chts_core.lab.train import images
from chts_core.link_prediction import ch2_l3n, ch2_l3p, ch3_l3n, ch3_l3p, sample_links

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of the networks and the walks
sparsity: float = 0.9  # share of absent links in the networks whose scores are compared, in [0, 1)
r: float = 0.25  # randomness of the receptive fields in the first of these networks, in [0, 1]
epochs: int = 0  # epochs of training; 0 means the value of the profile
seeds: int = 0  # number of trained networks per method; 0 means the value of the profile

# %%
settings = notebooks.start("02_link_prediction", profile, seed=seed, sparsity=sparsity, r=r, epochs=epochs, seeds=seeds)

# %% [markdown]
# ## Why should topology know where a link helps?
#
# Dynamic sparse training removes weak links and must decide where new links go. Some methods look at the gradient. The
# methods of this stage look only at the **topology**. They use the existing links, but no weights, gradients or images.
# Why can this work? The idea comes from the brain.
#
# Hebb (1949) proposed a learning rule: if one neuron often helps another neuron to fire, the link between the two
# neurons gets stronger. A later slogan says: *cells that fire together wire together*. Most people read this slogan as
# a rule for weights. **Epitopological learning** reads the slogan as a rule for links. (The Greek word *epi* means
# *upon*: learning builds upon the topology.) Neurons that fire together form a group, and the group learns when new
# links appear between its neurons.

# %%
figures.show(
    figures.learning_by_links(),
    "Neurons that fire together get a stronger link, and then a new link. Left: neurons a and b fire together, and "
    "their link gets stronger. Middle: four neurons fire together, and the group gets the new link a – d. Right: few "
    "links lead out of the group.",
)

# %% [markdown]
# The right panel shows the **local-community paradigm** (Cannistraci, Alanis-Lobato and Ravasi, 2013). A group with
# many links inside and few links to the outside keeps its signals inside. The neurons of such a group fire together
# again and again. So the paradigm says that a new link is likely inside such a group.
#
# ### Plugs and sockets
#
# Which two neurons of the group get the new link? In a network of friends, two people with a common friend often become
# friends. A path of two links already joins these two people. Proteins follow a different rule (Kovács et al., 2019).
# Two proteins bind if their *interfaces* fit, as a plug fits a socket. Two proteins with a common partner have similar
# interfaces. Similar interfaces do not always fit together: for example, two sockets do not. But if a plug fits one
# socket, the plug also fits a similar socket.

# %%
figures.show(
    figures.similar_partners(),
    "Similar neurons do not fit together, but neurons that are three links apart do. Left: two sockets that hold the "
    "same plug are similar. Right: socket z₂ is similar to u and holds plug v, so u and v fit.",
)

# %% [markdown]
# So two proteins bind because *one is similar to the partners of the other*, and not because they are similar to each
# other. A path of three links joins two such proteins. Muscoloni, Abdelhamid and Cannistraci (2018) built
# **Cannistraci-Hebb (CH) theory** on such paths, for proteins, food webs and other networks.
#
# For a layer, there are two reasons to look at paths of three links. The first reason is a hypothesis. The outputs are
# the sockets, and the inputs are the plugs. Two outputs that share inputs compute similar features, so an input of one
# output is likely to become an input of the other output. Nobody has proved this hypothesis. Later in this stage, we
# test a part of the hypothesis: does a score find links that exist but are hidden?
#
# The second reason is certain. A layer has two sides, the outputs and the inputs, and every link leads from one side to
# the other side. So every path from an output to an input has an odd number of links: 1, 3, 5 and so on. A path of one
# link would be the missing link itself. So the shortest path around the missing link, from one end to the other end,
# has **three links**. A *walk* may use a link more than once. A *path* visits each node at most once. We check in a
# small layer that even a walk from an output to an input always has an odd number of links. The next cell counts these
# walks by their length:

# %% tags=["nbval-check-output"]
three_by_three = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]])
no_links = torch.zeros(3, 3, dtype=torch.int64)
all_nodes = torch.cat([torch.cat([no_links, three_by_three], 1), torch.cat([three_by_three.T, no_links], 1)])
for length in (1, 2, 3, 4):
    walks_across = torch.linalg.matrix_power(all_nodes, length)[:3, 3:]  # from outputs (rows) to inputs (columns)
    print(f"walks of length {length} from an output to an input: {int(walks_across.sum())}")

# %% [markdown]
# The walks of length 1 are the seven links. No walk has length 2 or 4. Most walks of length 3 use a link more than
# once. Below, we count only walks of three links between the ends of a missing link. All of these walks are paths.
#
# The name of each score consists of these parts:
#
# | Part | Meaning |
# |---|---|
# | CH | Cannistraci-Hebb theory |
# | 2 or 3 | the rule: CH2 rewards links inside the local community and penalises links that lead out; CH3 only penalises links that lead out |
# | L3 | the paths have three links |
# | n or p | n: node-based, a sum over the nodes of the local community; p: path-based, a sum over the paths |
#
# The number after CH, 2 or 3, is the number of the rule and not a length. The next sections define the words
# *community* and *inside* and then give the formulas. CHTs and CHTss use CH2-L3n. The older CHT uses CH3-L3p.
#
# For a layer, the theory is an analogy and not a proof. Proteins have interfaces, but the neurons of a layer do not. A
# layer is trained to lower a loss, but no score uses this loss. Later in this stage, we test the idea on trained
# networks.
#
# ## Paths around a missing link
#
# In this stage, *likely* means that a score predicts the link. The word does not mean that the link lowers the loss. A
# link is likely if a short path already joins its two ends. The next figure shows a layer with three outputs and three
# inputs, and the missing link from output 0 to input 0.

# %%
network = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
missing = (0, 0)  # (output u, input v)
dotted = torch.zeros_like(network)
dotted[missing] = True
figures.show(
    figures.network(
        [figures.Links("link", [network]), figures.Links("missing link", [dotted], style=":")], ("inputs", "outputs")
    ),
    "The missing link between output 0 and input 0 is dotted. The network has three inputs, three outputs and seven "
    "links.",
)

# %% [markdown]
# The shortest path around a missing link has three links:
#
# $$u - z_1 - z_2 - v$$
#
# Here $z_1$ is an input that is linked to output $u$, and $z_2$ is an output that is linked to input $v$. A link joins
# $z_1$ and $z_2$. Such a path is called an **L3 path**. One L3 path in this layer is output 0 – input 1 – output 2 –
# input 0.
#
# ## Exercise: count the paths
#
# *★☆☆ · 4 minutes · essential · objective 2 · work out*
#
# How many L3 paths does the missing link from output 0 to input 0 have? Count the paths in the picture, and replace
# `None` with your answer. If your number is wrong, the check explains why, so just try.

# %% tags=["exercise"]
counted = None

# %% tags=["check"]
exercises.check("02.counted", counted, network=network, missing=missing)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Input 0 is linked to a single output. So every path from output 0 to input 0 must go through this output.
# </details>
#
# <details><summary>Solution</summary>
#
# Input 0 is linked only to output 2, and output 2 shares inputs 1 and 2 with output 0. So one path leads through input
# 1, and one path leads through input 2:
#
# ```python
# counted = 2
# ```
# </details>
#
# ## The local community
#
# The nodes on the L3 paths of a missing link, except the two ends of the link, form the link's **local community**. CH
# theory says that the missing link is likely if these nodes have many links to each other and few links to other nodes.
# For a node $z$ of the community,
#
# - $i_z$ counts the links of $z$ to other nodes of the community,
# - $e_z$ counts the links of $z$ to nodes outside the community.
#
# Neither number counts links from $z$ to $u$ or $v$, the two ends of the missing link.
#
# The next cell uses sets to compute $i_z$ and $e_z$ for each node in the community of the missing link above. Input 1
# is linked to outputs 0, 1 and 2: output 0 is an end of the missing link, output 2 is inside the community, and output
# 1 is outside the community.

# %% tags=["nbval-check-output"]
inputs_of = [{1, 2}, {1, 2}, {0, 1, 2}]  # of outputs 0, 1 and 2
outputs_of = [{2}, {0, 1, 2}, {0, 1, 2}]  # of inputs 0, 1 and 2
u, v = missing
near_u = {z for z in inputs_of[u] if outputs_of[z] & outputs_of[v]}  # inputs of the community
near_v = {z for z in outputs_of[v] if inputs_of[z] & inputs_of[u]}  # outputs of the community
for z in near_u:
    print(f"input {z}: i = {len((outputs_of[z] - {u}) & near_v)}, e = {len(outputs_of[z] - {u} - near_v)}")
for z in near_v:
    print(f"output {z}: i = {len((inputs_of[z] - {v}) & near_u)}, e = {len(inputs_of[z] - {v} - near_u)}")

# %%
nodes = l3.community(network, missing)  # computes i and e for any missing link
assert [(str(z), z.inside, z.outside) for z in nodes] == [("input 1", 1, 1), ("input 2", 1, 1), ("output 2", 2, 0)]
figures.show(
    figures.local_community(network, missing, title="output 0 – input 0"),
    "The missing link has two L3 paths, which are dashed. Its local community consists of inputs 1 and 2 and "
    "output 2, which have rings. The thin links lead out of the community.",
)

# %% [markdown]
# ## Four scores
#
# Two choices define a score. A *node-based* score (n) is a sum over the nodes $z$ of the community $C$. A *path-based*
# score (p) is a sum over the paths. *CH2* rewards links inside the community and penalises links that lead out of the
# community. *CH3* only penalises links that lead out of the community:
#
# $$\text{CH2-L3n} = \sum_{z \in C} \frac{1 + i_z}{1 + e_z} \qquad \text{CH3-L3n} = \sum_{z \in C} \frac{1}{1 + e_z}$$
#
# $$\text{CH3-L3p} = \sum_{u - z_1 - z_2 - v} \frac{1}{\sqrt{(1 + e_{z_1})(1 + e_{z_2})}}$$
#
# CH2-L3p also rewards links inside the community:
# $\sum \sqrt{\frac{(1 + i_{z_1})(1 + i_{z_2})}{(1 + e_{z_1})(1 + e_{z_2})}}$. CHT, the older method, uses CH3-L3p and
# always regrows the missing links with the highest scores. In this package, CHTs and CHTss use CH2-L3n (see *path-based
# and node-based link regrowth* in the paper).
#
# We compute by hand the scores of the missing link between output 0 and input 0. CH2-L3n is 2/2 + 2/2 + 3/1 = 5.
# CH3-L3n is 1/2 + 1/2 + 1/1 = 2. Each of the two paths contributes 1/√(2 · 1), so CH3-L3p is √2 ≈ 1.414. For CH2-L3p,
# each path contributes √(2/2 · 3/1), so the sum is 2√3 ≈ 3.464.

# %% tags=["nbval-check-output"]
by_hand = {ch2_l3n: 5, ch3_l3n: 2, ch3_l3p: 2**0.5, ch2_l3p: 2 * 3**0.5}
for predictor, score in by_hand.items():
    by_definition = l3.score(network, missing, predictor.__name__)
    from_core = predictor(network)[missing].item()
    print(
        f"{predictor.__name__}: by hand {score:.3f}, from the sets {by_definition:.3f}, from the core {from_core:.3f}"
    )
    assert abs(score - by_definition) < 1e-9
    assert abs(score - from_core) < 1e-5

# %% [markdown]
# ## From sets to matrices
#
# Let $A$ be the mask as a matrix of zeros and ones, and let $P = AA^\top$. Two outputs $z$ and $u$ share $P_{zu}$
# inputs, and the diagonal of $P$ holds the degrees $d$ of the outputs. In the same way, $Q = A^\top A$ counts the
# outputs that two inputs share.

# %% tags=["nbval-check-output"]
A = network.float()
P, Q = A @ A.T, A.T @ A
print("P =", P.int().tolist())
print("Q =", Q.int().tolist())

# %% [markdown]
# Let $z$ be an output on a path from $u$ to $v$. This output shares $P_{zu}$ inputs with $u$. These inputs are inside
# the community, so $i_z = P_{zu}$. Output $z$ is also linked to the input $v$. All other inputs of $z$ are outside the
# community, so $e_z = d_z - P_{zu} - 1$, and $1 + e_z = d_z - P_{zu}$. For output 2 of the small layer above,
# $P_{20} = 2$ and $d_2 = 3$, so $i = 2$ and $1 + e = 1$, which agrees with the counts above. So $i_z$ and $e_z$ depend
# on $z$ and $u$ but not on $v$. Therefore, one matrix holds the terms $(1 + i_z)/(1 + e_z)$ of all outputs $z$, for
# every $u$:
#
# $$R_U[z, u] = \mathbb{1}[P_{zu} > 0]\, \frac{1 + P_{zu}}{\max(d_z - P_{zu}, 1)}$$
#
# The matrix $R_V[z, v]$ for the inputs $z$ follows from $Q$ in the same way. For CH3, the numerator is 1. If
# $d_z = P_{zu}$, then $u$ is linked to every input of $z$. Then no L3 path of a missing link of $u$ goes through $z$,
# so the value of $R_U[z, u]$ does not matter. The maximum prevents a division by 0. Check $R_U[2, 0]$:
# (1 + 2)/(3 − 2) = 3, which is the term of output 2 above.


# %% tags=["nbval-check-output"]
def ratios(shared: torch.Tensor, inside: bool = True) -> torch.Tensor:
    degree = shared.diagonal()[:, None]
    above = 1 + shared if inside else torch.ones_like(shared)
    return (shared > 0) * above / (degree - shared).clamp(min=1)


R_U, R_V = ratios(P), ratios(Q)
print("R_U =", R_U.tolist())
print("R_V =", R_V.tolist())

# %% [markdown]
# To sum the terms over the outputs that are linked to $v$ and over the inputs that are linked to $u$, we need one
# matrix product for each of the two sums:
#
# $$S = R_U^\top A + A R_V \quad \text{on missing links}$$

# %% tags=["nbval-check-output"]
S = (R_U.T @ A + A @ R_V) * ~network
print(S)
assert torch.equal(S, ch2_l3n(network))
assert torch.allclose(S.double(), l3.scores(network, "ch2_l3n"))

# %% [markdown]
# In a path-based score, each term combines the two inner nodes of a path: the term of a linked pair $z_1, z_2$ is
# $\sqrt{R_V[z_1, v]\, R_U[z_2, u]}$. Each term depends on $u$ and on $v$, so two matrix products cannot compute the sum
# of the terms. For a small network, we use `einsum`, with the letter `a` for $z_1$ and `b` for $z_2$:

# %% tags=["nbval-check-output"]
of_outputs, of_inputs = ratios(P, inside=False).sqrt(), ratios(Q, inside=False).sqrt()
paths = torch.einsum("ua,ba,bv,av,bu->uv", A, A, A, of_inputs, of_outputs) * ~network
print(paths)
assert torch.allclose(paths, ch3_l3p(network))
assert torch.allclose(paths.double(), l3.scores(network, "ch3_l3p"))

# %% [markdown]
# ## Step through the paths
#
# The next network is slightly larger: it has 5 outputs and 6 inputs. Choose a missing link and a score, and step from
# path to path.
#
# **Predict before you move the slider:** which node contributes most to the CH2-L3n score of the missing link between
# output 0 and input 4, and why? Does the term of this node change from path to path? What is the score of a missing
# link of output 4?

# %%
explorer = widgets.LinkPredictionStepper()
explorer

# %% [markdown]
# GitHub does not show widgets. This figure shows the first state of the widget:

# %%
state = widgets.LinkPredictionState()
figures.show(widgets.LinkPredictionStepper.figure(state), widgets.LinkPredictionStepper.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Output 2 contributes most (3/1), because it has two links inside the community and no link that leads out of the
# community. For one missing link, the term of a node is the same on every path. Node-based scores count this term once.
# Output 4 has one input, and no other output shares this input. So the missing links of output 4 have no L3 path, and
# their score is 0.
# </details>
#
# ## Exercise: your own matrices
#
# *★★☆ · 12 minutes · essential · objective 3 · write code*
#
# Write a function that computes CH3-L3n for any mask. The formula differs from CH2-L3n only in the numerator. Return
# the scores of the missing links, and 0 for the existing links.


# %% tags=["exercise"]
def my_ch3_l3n(mask: torch.Tensor) -> torch.Tensor:
    """Scores in the shape of `mask`, which is Boolean (outputs, inputs). Write this function."""


# %% tags=["check"]
exercises.check("02.my_ch3_l3n", my_ch3_l3n)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Convert the mask to float. Compute P and Q as above, and call `ratios(..., inside=False)` for each of them. At the
# end, multiply by `~mask`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_ch3_l3n(mask: torch.Tensor) -> torch.Tensor:
#     links = mask.float()
#     of_outputs = ratios(links @ links.T, inside=False)
#     of_inputs = ratios(links.T @ links, inside=False)
#     return (of_outputs.T @ links + links @ of_inputs) * ~mask
# ```
# </details>
#
# ## What a score prefers
#
# Now take a receptive field network (stage 01) with 64 inputs and 48 outputs.
#
# **Predict:** where in the mask will the likely missing links lie? Will the path-based and the node-based scores
# disagree on which missing links are likely?

# %%
generator = torch.Generator().manual_seed(settings.seed)
layer = chts.topology.receptive_field(48, 64, 1 - settings.sparsity, settings.r, generator=generator)
scores = {"CH3-L3p": ch3_l3p(layer), "CH3-L3n": ch3_l3n(layer), "CH2-L3n": ch2_l3n(layer)}
figures.show(
    figures.score_maps(layer, scores),
    "The three scores of missing links agree: all three are highest on both sides of the diagonal, beside the "
    "existing links. Existing links are grey, because only missing links compete for regrowth.",
)

# %% [markdown]
# The scores have different scales, but regrowth needs only the order or the proportions of the scores. So we use the
# *rank correlation* to compare how the scores rank the missing links that have an L3 path. A value of 1 means the same
# order, and 0 means no relation. For comparison, we add two simpler numbers: the number of paths, and the product of
# the degrees of the link's two ends. If a score gives the same order as a simpler number, the score adds no information
# to this number.

# %%
links = layer.float()
compared = {**scores, "number of paths": links @ links.T @ links, "degrees": links.sum(1)[:, None] * links.sum(0)}
with_path = ~layer & (compared["number of paths"] > 0)
ranks = pd.DataFrame({name: stats.rankdata(score[with_path].numpy()) for name, score in compared.items()})
correlation = ranks.corr()
correlation.round(3)

# %%
reference, others = scores["CH3-L3p"][with_path], ("CH3-L3n", "CH2-L3n")
figures.show(
    figures.score_agreement(reference, {name: scores[name][with_path] for name in others}, "CH3-L3p"),
    f"Node-based and path-based scores agree on which links are good. Each mark is one of {int(with_path.sum())} "
    "missing links with an L3 path.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The likely links lie where the existing links are, near the diagonal. So regrowth by link prediction keeps the links
# near the diagonal. As the table shows, node-based and path-based scores put the links in nearly the same order: a link
# with many paths has many nodes on its paths. So it is reasonable to replace the path-based score of CHT with a
# node-based score, as the paper does. The number of paths gives nearly the same order, so $i$ and $e$ add little
# information in this network. The product of degrees gives a different order. But here all outputs have almost the same
# degree, so this network cannot test the product of degrees.
# </details>
#
# ## Exercise: more paths, lower score
#
# *★★☆ · 15 minutes · useful · objectives 1 and 2 · write code*
#
# In the network above, the number of paths and CH2-L3n agree nearly everywhere. So when does the local community
# matter? Build a network in which these two scores disagree: the missing link with the highest CH2-L3n is not the
# missing link with the most L3 paths. Use at most 6 outputs and 6 inputs. The check shows the missing link with the
# most paths, the missing link with the highest CH2-L3n, and the communities of both links. Use this information to
# improve your network.

# %% tags=["exercise"]
disagreement = None  # a list with one row of zeros and ones for each output

# %% tags=["check"]
exercises.check("02.disagreement", disagreement)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Give one missing link a single path, and give the nodes of this path no other links. Give another missing link two
# paths. Then add links that lead out of the community of the second missing link.
# </details>
#
# <details><summary>Solution</summary>
#
# The missing link between output 1 and input 2 has a single path, through input 3 and output 2. No link leads out of
# the community of these two nodes, so each node contributes (1 + 1)/(1 + 0), and the score is 4. Four other missing
# links have two paths each, but links lead out of their communities, so each of these missing links has a score of only
# 3.5. Here, a small community without links to the outside gives a higher score than a larger community with such
# links.
#
# ```python
# disagreement = [
#     [1, 1, 0, 0, 0],
#     [1, 1, 0, 1, 1],
#     [0, 0, 1, 1, 0],
#     [1, 1, 0, 0, 0],
# ]
# ```
# </details>
#
# ## A test: find hidden links
#
# The usual test of a score hides some links of a network. The score uses only the remaining links, and it ranks all
# missing links, including the hidden links. A good score ranks the hidden links high. We begin with a toy network of
# six neurons. The network has seven links, and we hide one of them.

# %%
whole = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
hidden = torch.zeros_like(whole)
hidden[1, 0] = True  # output 1 – input 0
seen = whole & ~hidden
groups = [figures.Links("link", [seen]), figures.Links("missing link", [~seen], style=":")]
figures.show(
    figures.network(groups, ("inputs", "outputs")),
    "One of the three missing links of the toy network is the hidden link. Six links are left.",
)

# %% [markdown]
# ## Exercise: recover the hidden link
#
# *★☆☆ · 10 minutes · essential · objectives 2 and 4 · write code*
#
# Write a function that counts the L3 paths of a missing link. Use loops and no matrix product. The check calls your
# function for each missing link of the toy network. The missing link with the most paths should be the hidden link.


# %% tags=["exercise"]
def count_paths(mask: torch.Tensor, link: tuple[int, int]) -> int:
    """The number of L3 paths of a missing link, which is given as (output u, input v). Write this function."""


# %% tags=["check"]
exercises.check("02.count_paths", count_paths, seen=seen)

# %% [markdown]
# <details><summary>Hint</summary>
#
# An input $z_1$ and an output $z_2$ form an L3 path of $u$ – $v$ if three entries of the mask are `True`:
# `mask[u, z1]`, `mask[z2, z1]` and `mask[z2, v]`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def count_paths(mask: torch.Tensor, link: tuple[int, int]) -> int:
#     u, v = link
#     outputs, inputs = range(mask.shape[0]), range(mask.shape[1])
#     return sum(int(mask[u, z1] & mask[z2, z1] & mask[z2, v]) for z1 in inputs for z2 in outputs)
# ```
#
# The hidden link between output 1 and input 0 has two paths: one leads through output 0, and the other leads through
# output 2. The other two missing links have one path each.
# </details>
#
# ## How well does a score find hidden links?
#
# Two numbers show how good a score is:
#
# - **precision**: hide $k$ links, and select the $k$ missing links with the highest scores. What share of the selected
#   links are hidden links?
# - **AUC** (area under the ROC curve): draw one hidden link and one other missing link, which never existed. How often
#   does the hidden link have the higher score? Equal scores count as one half. An AUC of 0.5 is no better than chance,
#   and an AUC of 1 is perfect.
#
# Compute the precision and the AUC by hand for the toy network, with the number of paths as the score. The hidden link
# has 2 paths, and the other two missing links have 1 path each. So the precision and the AUC are both 1. Now hide the
# link between output 1 and input 2 instead. This link was the only link of input 2, so no missing link has a path, and
# all three missing links have the score 0. Each of these three links is equally likely to be selected, so the precision
# is 1/3 on average. The AUC is 0.5. No score that uses paths can find such a link.

# %% tags=["nbval-check-output"]
for link in ((1, 0), (1, 2)):
    hidden = torch.zeros_like(whole)
    hidden[link] = True
    seen = whole & ~hidden
    found = recovery.measure(recovery.number_of_paths(seen), seen, hidden)
    print(f"{l3.describe(link)} hidden: precision {found.precision:.3f}, AUC {found.auc:.3f}")

# %% [markdown]
# Now we test trained networks. The networks are MLPs with three hidden layers, and they learn to classify handwritten
# digits. We compare three methods. All three methods remove links with small weights. The methods differ in the initial
# links and in the rule for new links:
#
# - **SET** starts with random links (Erdős–Rényi) and draws new links at random. No score chooses a link.
# - **CHTs from a random start** has the same initial links as SET. CH2-L3n chooses the new links.
# - **CHTs** starts with receptive fields. CH2-L3n chooses the new links.
#
# We test the mask between the first and the second hidden layer, before and after training.
#
# **Predict:** in which of these networks can a score find hidden links? Does CH2-L3n find more hidden links than the
# number of paths alone?

# %%
chts_method = chts.METHODS["chts"]
wirings = {
    "SET": chts.METHODS["set"],
    "CHTs from a random start": replace(chts_method, topology=chts.METHODS["set"].topology),
    "CHTs": chts_method,
}
recipe = images.Recipe(hidden=settings.hidden, epochs=settings.epochs, learning_rate=settings.learning_rate)
digits = data.load_images("digits")
trained = {
    name: [
        images.train(digits, method, settings.sparsity, recipe, seed=settings.seed + number)
        for number in range(settings.seeds)
    ]
    for name, method in wirings.items()
}

# %%
LAYER, SHARE = "2.weight", 0.2  # 20 % of the links are hidden
topologies = {
    "random start": [run.first_masks[LAYER] for run in trained["SET"]],
    "SET, trained": [run.last_masks[LAYER] for run in trained["SET"]],
    "CHTs from a random\nstart, trained": [run.last_masks[LAYER] for run in trained["CHTs from a random start"]],
    "receptive fields": [run.first_masks[LAYER] for run in trained["CHTs"]],
    "CHTs, trained": [run.last_masks[LAYER] for run in trained["CHTs"]],
}
found = {
    name: [
        recovery.by_score(mask, SHARE, generator=torch.Generator().manual_seed(settings.seed + number))
        for number, mask in enumerate(masks)
    ]
    for name, masks in topologies.items()
}


# %%
def by_network(measure: str) -> dict[str, dict[str, list[float]]]:
    """For each network and score, a list with the precision or the AUC of each seed."""
    return {
        name: {score: [getattr(of[score], measure) for of in results] for score in results[0]}
        for name, results in found.items()
    }


aucs, precisions = by_network("auc"), by_network("precision")
figures.show(
    figures.hidden_links_found(aucs, "AUC (fraction)", {"chance": 0.5}),
    "In receptive fields and in the networks that CHTs trained from them, all scores that use paths find hidden "
    "links. In networks with a random start, all scores find few hidden links. The figure shows the AUC of six scores "
    f"on five networks: means of {settings.seeds} seeds with 95 % confidence intervals.",
)

# %%
links_hidden = round(SHARE * int(topologies["random start"][0].sum()))
by_chance = links_hidden / (int((~topologies["random start"][0]).sum()) + links_hidden)
figures.show(
    figures.hidden_links_found(precisions, "precision (fraction)", {"chance": by_chance}),
    "In receptive fields and in the networks that CHTs trained from them, the precision of scores that use paths is "
    f"far above chance ({by_chance:.1%}). Precision is the share of hidden links among the best {links_hidden} missing "
    "links. The networks have the same order as in the figure of the AUC.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The scores that use paths find many hidden links in receptive fields. They also find many in the networks that started
# as receptive fields and were trained with CHTs. In the other networks, these scores find few hidden links. CH2-L3n
# finds about as many hidden links as the number of paths alone: the rows of these two scores look the same in the
# figures. The next cells give the numbers.
# </details>

# %%
for name, runs in trained.items():
    accuracy, half = statistics.mean_and_interval([100 * run.validation_accuracy[-1] for run in runs])
    print(f"{name}: validation accuracy {accuracy:.1f} ± {half:.1f} %")
summary = pd.DataFrame(
    {name: {score: sum(values) / len(values) for score, values in of.items()} for name, of in aucs.items()}
)
summary.rename(columns=lambda name: name.replace("\n", " ")).round(3)

# %% [markdown]
# ### A fair doubt
#
# Do the CH scores contain more information than the number of paths? We make two checks. The first check takes a
# network that CHTs trained, and computes the rank correlation of each score with the number of paths. This check uses
# all missing links that have an L3 path, including the hidden links. The second check subtracts the AUC of a simpler
# score (the number of paths or the product of degrees) from the AUC of CH2-L3n. This check compares the scores for each
# seed separately, on the same hidden links.

# %%
mask = topologies["CHTs, trained"][0]
seen = mask & ~recovery.hide(mask, SHARE, generator=torch.Generator().manual_seed(settings.seed))
missing_scores = {name: score(seen)[~seen] for name, score in recovery.SCORES.items()}
with_paths = missing_scores["number of paths"] > 0
paths_correlation = {
    name: float(stats.spearmanr(missing_scores["number of paths"][with_paths], score[with_paths]).statistic)
    for name, score in missing_scores.items()
}
for name in ("CH2-L3n", "CH3-L3n", "CH3-L3p", "degree product"):
    print(f"rank correlation with the number of paths: {name} {paths_correlation[name]:.3f}")

# %%
gains = []
for name, of in aucs.items():
    for simpler in ("number of paths", "degree product"):
        differences = [mine - other for mine, other in zip(of["CH2-L3n"], of[simpler], strict=True)]
        gain, half = statistics.mean_and_interval(differences)
        row = {"network": name.replace("\n", " "), "minus": simpler, "AUC gain": gain}
        gains.append(row | {"interval": None if math.isnan(half) else half})
pd.DataFrame(gains).rename(columns={"minus": "simpler score", "AUC gain": "AUC gain of CH2-L3n"}).style.hide(
    axis="index"
).format(precision=4)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *Structure before training.* In the initial networks with random links, no score does better than chance, because no
# rule decided where to put the links. In receptive fields, the scores that use paths have an AUC of 0.94 before any
# training, because neighbouring outputs share inputs.
#
# *Structure after training.* CHTs keeps this structure and adds nothing to it: CH2-L3n has an AUC of 0.93 after
# training, and 27 % of the missing links with the best scores are hidden links (chance: 2.2 %). On the networks that
# SET trained, CH2-L3n has an AUC of 0.56, which is higher than before training, although no score chose the links. On
# the networks that CHTs trained from the same random start, CH2-L3n reaches an AUC of 0.61. On these two kinds of
# trained networks, the AUC of the product of degrees differs from the AUC of CH2-L3n by less than 0.01. So here the
# scores mostly reflect that some neurons keep many links and other neurons keep few.
#
# *No gain over the number of paths.* CH2-L3n and the number of paths put the links in nearly the same order (rank
# correlation 0.987), and the AUCs of these two scores differ by at most 0.003 on every network. The numbers $i$ and $e$
# add very little information here. The result may be different for networks with hubs.
#
# *What the test does not show.* CH2-L3n chose the new links of CHTs, so CH2-L3n finds these links again. For CHTs, the
# test is therefore circular. And a link that a score finds is not always a link that helps. The validation accuracies
# of the three methods have overlapping confidence intervals, although the AUCs of CH2-L3n range from 0.56 to 0.93. So
# in this test, a higher AUC does not mean a higher accuracy. Does a predicted link also lower the loss? To answer this
# question, we must compare methods, as stage 06 does.
#
# *A trap.* In receptive fields, the product of degrees is worse than chance. At first, the degrees of any two outputs
# differ by at most one. Hiding a link then lowers the degrees of its two ends. So the product of degrees is usually
# lower for hidden links than for other missing links. (The numbers come from the laptop profile with seed 0.)
# </details>
#
# ## What a score costs
#
# With $N$ neurons of degree $d$ on each side, there are about $N d^3$ L3 paths to follow. At a fixed density, $d$ is
# proportional to $N$, so the cost of a path-based score grows as $N^4$. The node-based scores are matrix products.
# These products take $O(N^3)$ operations if the matrices are dense, and fewer where the core uses sparse matrices.
# `sample_links` draws new links without computing a score, as a later section explains. Here, `sample_links` draws one
# new link for every ten existing links. The next cells measure five calls of each function, on one thread of this
# machine, and show the shortest time:


# %%
def milliseconds(call) -> float:
    call()  # the first call may compile
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def costs(size: int, density: float) -> dict[str, float]:
    mask = chts.topology.receptive_field(size, size, density, 0.25, generator=generator)
    return {
        "size": size,
        "density": density,
        "ch3_l3p": milliseconds(lambda: ch3_l3p(mask)),
        "ch2_l3n": milliseconds(lambda: ch2_l3n(mask)),
        "sample_links": milliseconds(lambda: sample_links(mask, int(mask.sum()) // 10, generator=generator)),
    }


# %%
middle = settings.sizes[-2]
measured = [costs(size, 0.04) for size in settings.sizes]
measured += [costs(middle, density) for density in (0.01, 0.02, 0.1, 0.14)]
pd.DataFrame(measured).round(2)

# %%
figures.show(
    figures.regrowth_costs(measured),
    "Drawing links by walks takes the least time. The path-based score takes the most time where the network is "
    "large (left, at density 0.04) or dense (right). Both axes are logarithmic.",
)

# %% [markdown]
# The measured times do not follow the powers of $N$ exactly. The core changes its algorithm at a density of 0.05 for
# the node-based scores, and at 0.15 for the path-based score. For small layers, the overhead of the function call takes
# most of the time. If other programs run at the same time, some measured times are too long. On other machines and on
# GPUs, the times differ.
#
# ## Exercise: at which degree does the path-based score cost more?
#
# *★★☆ · 8 minutes · useful · objective 5 · work out*
#
# A layer has 1000 outputs and 1000 inputs, and each neuron has $d$ links. The path-based score follows about
# $1000\,d^3$ paths and does one multiplication for each path. The node-based score takes four dense products of
# 1000×1000 matrices: $P$, $Q$ and the two products whose sum is $S$. One product of $N \times N$ matrices takes $N^3$
# multiplications. At which $d$ do both scores take the same number of multiplications?

# %% tags=["exercise"]
equal_degree = None

# %% tags=["check"]
exercises.check("02.equal_degree", equal_degree)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Write down both numbers of multiplications, set them equal, and solve for $d^3$.
# </details>
#
# <details><summary>Solution</summary>
#
# $1000\,d^3 = 4 \cdot 1000^3$, so $d = \sqrt[3]{4\,000\,000} \approx 159$, which is a density of 16 %. For the 512×512
# layers in the table above, the same calculation gives $d \approx 102$, which is a density of 20 %. Yet in that table,
# the node-based score is many times faster than the path-based score at a density of 14 %. The number of
# multiplications alone does not determine the time. A likely reason is that dense products run at nearly the full speed
# of the processor, while the path-based score looks up one link after another.
#
# ```python
# equal_degree = (4 * 1000**3 / 1000) ** (1 / 3)
# ```
# </details>
#
# ## Drawing links without the score
#
# Soft regrowth draws missing links with $p \propto S$. Insert the definition of $R_U$ into $S$:
#
# $$S_{uv} = \sum_{z} \frac{1 + P_{zu}}{d_z - P_{zu}}\, A_{zv} + \dots$$
#
# The sum runs over the outputs $z$ that share an input with $u$. The dots stand for a second sum, over the inputs $z$
# that share an output with $v$. Each term of the first sum is a product of two factors. The first factor is
# $1 + P_{zu}$, a weight of the pair $(z, u)$. The second factor is $1/(d_z - P_{zu})$. The difference $d_z - P_{zu}$ is
# the number of inputs that $z$ has and $u$ does not have, and $v$ is one of these inputs. So the second factor is the
# chance of $v$ in a uniform draw from these inputs. We can draw the link in two steps:
#
# 1. Draw a pair $(z, u)$ of outputs that share an input, with $p \propto 1 + P_{zu}$ (for CH3, all pairs are equally
#    likely). Output $u$ must lack at least one input of $z$.
# 2. Draw $v$ among the inputs that $z$ has and $u$ does not have, each with the chance $1/(d_z - P_{zu})$.
#
# We call these two steps a *walk*: from $u$ through a shared input to $z$, and then to $v$. We say that this walk ends
# at the link $u$ – $v$. For the second sum, we walk in the same way, with inputs and outputs exchanged. The next cell
# lists all first steps in the network of the widget, and the links at which each walk can end. The first pair is $z$ =
# output 0, $u$ = output 1. These two outputs share inputs 1 and 3, so the weight of the pair is 1 + 2 = 3. Input 0 is
# the only input of output 0 that output 1 lacks.

# %% tags=["nbval-check-output"]
toy = widgets.link_prediction.NETWORK
walks = []  # (weight, links at which the second step can end)
for near, flip in zip(l3.neighbours(toy), (False, True), strict=True):
    for z, seed_node in permutations(range(len(near)), 2):
        shared, lacking = near[z] & near[seed_node], near[z] - near[seed_node]
        if shared and lacking:
            ends = [(end, seed_node) if flip else (seed_node, end) for end in sorted(lacking)]
            walks.append((1 + len(shared), ends))
weights = [weight for weight, _ in walks]
print(f"{len(walks)} pairs to start with; the first has weight {walks[0][0]}, and its walk ends at {walks[0][1]}")

# %% [markdown]
# We divide the weight of each first step equally among the links at which its walk can end. For each link, the sum of
# these parts is exactly its score.

# %% tags=["nbval-check-output"]
reached = torch.zeros(toy.shape)
for weight, ends in walks:
    for end in ends:
        reached[end] += weight / len(ends)
assert torch.allclose(reached, ch2_l3n(toy))
print(reached)

# %% [markdown]
# **Predict:** we walk many times and count where the walks end. Output 0 – input 4 has a score of 6.5. What share of
# the walks ends at this link?

# %%
chooser = random.Random(settings.seed)
likely = reached.nonzero().tolist()
exact = reached.double() / reached.double().sum()
shares = [exact[*link].item() for link in likely]


def walk(times: int) -> list[int]:
    """Walk `times` times and count how many walks end at each of the likely links."""
    starts = chooser.choices(walks, weights, k=times)
    ended = Counter(chooser.choice(ends) for _, ends in starts)
    return [ended[tuple(link)] for link in likely]


# %%
observed = walk(settings.walks)
expected = [settings.walks * share for share in shares]
chi_square = stats.chisquare(observed, expected)
print(f"χ² = {chi_square.statistic:.1f} for {len(likely)} links, p = {chi_square.pvalue:.2f}")
counted_share = observed[likely.index([0, 4])] / settings.walks
print(f"output 0 – input 4: {6.5 / reached.sum():.3f} expected, {counted_share:.3f} counted")
figures.show(
    figures.walk_frequencies(likely, expected, observed),
    f"{settings.walks} walks ended about as often at each link as the scores predict. Chance alone makes the bars "
    f"differ at least this much in {chi_square.pvalue:.0%} of such runs.",
)

# %% [markdown]
# χ² is the sum of (counted − expected)²/expected over the links. The p-value p is the probability that chance alone
# gives a χ² at least as large as the measured χ². A single p decides nothing: on average, an exact sampler gets a p
# below 0.05 in one of twenty runs. So we repeat the test 200 times with new walks. If the walks follow the score, about
# 10 of the 200 repetitions have a p below 0.05.

# %%
REPEATS = 200
fewer = settings.walks // 10
p_values = [stats.chisquare(walk(fewer), [fewer * share for share in shares]).pvalue for _ in range(REPEATS)]
low = sum(float(p) < 0.05 for p in p_values)
least, most = map(int, stats.binom.interval(0.99, REPEATS, 0.05))
print(f"{low} of {REPEATS} repetitions have p < 0.05; chance gives {least} to {most} in 99 of 100 cases")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The expected share is 6.5 divided by the sum of all scores. The first p is 0.03: chance alone gives a difference at
# least this large in 3 of 100 runs, so this p alone decides nothing. Of the 200 repetitions, 7 have a p below 0.05.
# Chance alone can explain this count, so the test finds no difference between the walks and the score. (An assertion in
# a cell above checks that the walks draw links exactly in proportion to the score.)
#
# Our list of first steps used all values $P_{zu}$. The core never computes $P$. The value $P_{zu}$ counts the paths
# from $z$ through a shared input to $u$. So the core draws one of all such paths, and all are equally likely. The
# ends of this path form a pair $(z, u)$ with $p \propto P_{zu}$. For the summand 1 in $1 + P_{zu}$, the core draws one
# of the pairs that share an input. All such pairs are equally likely.
# </details>
#
# If a walk ends at a link that was drawn before, we discard this walk and walk again. So we draw links without
# replacement. The core runs many walks at once, in compiled code. The next cell measures how long the core takes to
# draw the new links of a large layer:

# %%
width = settings.width
large = chts.topology.receptive_field(width, width, 0.01, 0.25, generator=generator)
wanted = int(large.sum()) // 10
new = sample_links(large, wanted, "ch2_l3n", generator=generator)
assert int(new.sum()) == wanted
assert not (new & large).any()
drawing = milliseconds(lambda: sample_links(large, wanted, generator=generator))
print(f"{width} × {width}: {wanted} new links in {drawing:.1f} ms; a matrix of all scores takes ", end="")
print(f"{milliseconds(lambda: ch2_l3n(large)):.1f} ms and {4 * large.numel() / 2**20:.0f} MB")

# %% [markdown]
# ## Exercise: draw a link by its number of paths
#
# *★★★ · 25 minutes · essential · objective 6 · write code*
#
# Write a function that draws a missing link with $p \propto$ its number of L3 paths. Do not compute this number for any
# link, and do not list the paths. Your function receives a list of the inputs of each output, a list of the outputs of
# each input, and a random generator `chooser` (`random.Random`). The call `chooser.choice(items)` draws one item, and
# all items are equally likely. The call `chooser.choices(items, weights)[0]` draws one item with $p \propto$ weight.
#
# **First guess:** a walk starts at a random output, steps to a random input of this output, and takes two more random
# steps. Does this walk draw all paths equally often? The check uses a χ² test to compare your draws with the exact
# chances. The check also recognises some wrong kinds of walks.


# %% tags=["exercise"]
def draw_link(inputs_of: list[list[int]], outputs_of: list[list[int]], chooser: random.Random) -> tuple[int, int]:
    """A missing link (output u, input v), drawn with p ∝ its number of L3 paths. Write this function."""


# %% tags=["check"]
exercises.check("02.draw_link", draw_link)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Start in the middle of the path u – z₁ – z₂ – v. In how many ways can an output u and an input v extend the link z₁ –
# z₂ at its two ends? Draw the middle link with $p \propto$ this number. What do you do if u and v are linked?
# </details>
#
# <details><summary>Solution</summary>
#
# A link between an input with $a$ outputs and an output with $b$ inputs is the middle link of $ab$ walks of three
# links. Draw the middle link with $p \propto ab$. Then draw u among the $a$ outputs, each with the chance $1/a$, and
# draw v among the $b$ inputs, each with the chance $1/b$. This makes all walks equally likely. If u and v are linked,
# reject the whole walk and begin again. (The nodes u and v are linked if u is z₂, or if v is z₁, or if a fourth link
# closes a cycle.) The remaining walks are the L3 paths of missing links.
#
# ```python
# def draw_link(inputs_of: list[list[int]], outputs_of: list[list[int]], chooser: random.Random) -> tuple[int, int]:
#     middle = [(z1, z2) for z2, inputs in enumerate(inputs_of) for z1 in inputs]
#     weights = [len(outputs_of[z1]) * len(inputs_of[z2]) for z1, z2 in middle]
#     while True:
#         z1, z2 = chooser.choices(middle, weights)[0]
#         u, v = chooser.choice(outputs_of[z1]), chooser.choice(inputs_of[z2])
#         if v not in inputs_of[u]:
#             return u, v
# ```
# </details>

# %% [markdown]
# ## Exercise: name the paths
#
# *★☆☆ · 6 minutes · optional · objective 2 · work out*
#
# In the network of the widget, list all L3 paths of output 3 – input 3, each as `(output, input, output, input)`. If an
# entry is not an L3 path, the check explains why. (The widget can show the paths, but first try to find them in the
# mask.)

# %% tags=["exercise"]
print(toy.int())
listed = []

# %% tags=["check"]
exercises.check("02.listed", listed, network=toy, missing=(3, 3))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Output 3 has inputs 1, 4 and 5, and input 3 has outputs 0, 1 and 2. Which of these three inputs are linked to which of
# these three outputs?
# </details>
#
# <details><summary>Solution</summary>
#
# Five of the nine pairs of an input and an output are linked:
#
# ```python
# listed = [(3, 1, 0, 3), (3, 1, 1, 3), (3, 1, 2, 3), (3, 4, 2, 3), (3, 5, 1, 3)]
# ```
# </details>
#
# ## To discuss
#
# 1. CH theory was developed for networks that grew by themselves, such as networks of neurons or proteins. A layer is
#    trained to lower a loss. Which part of the theory applies to a layer, and which part does not?
# 2. A score finds the hidden links of a network. Is this score also a good score for regrowth? Give an example of a
#    network in which the answer is no.
# 3. The number of paths is simpler than CH2-L3n, and it was nearly as good in our test. On which kind of network do you
#    expect the two scores to differ? How would you test your answer?
#
# ## Self-check
#
# 1. Why are there no paths of two links between the ends of a missing link?
#
# <details><summary>Answer</summary>
#
# Every link leads from one side of the layer to the other side, and the two ends of a missing link lie on different
# sides. So every path from one end to the other end has an odd number of links.
# </details>
#
# 2. A node of the community has $i = 3$ and $e = 0$. What does this node contribute to CH2-L3n and to CH3-L3n?
#
# <details><summary>Answer</summary>
#
# The node contributes (1 + 3)/(1 + 0) = 4 to CH2-L3n and 1/(1 + 0) = 1 to CH3-L3n, because CH3 does not reward links
# inside the community.
# </details>
#
# 3. In the first network of this stage, can a walk of three links from output 0 to input 0 go back to output 0?
#
# <details><summary>Answer</summary>
#
# No. Such a walk would have to end with the link from output 0 to input 0, which is missing. So $AA^\top A$ counts the
# L3 paths of missing links, without any correction.
# </details>
#
# 4. Why does the first step of a walk not need the degrees $d_z$?
#
# <details><summary>Answer</summary>
#
# The denominator $d_z - P_{zu}$ is the number of inputs where the second step can end. The second step draws each of
# these inputs with the chance $1/(d_z - P_{zu})$, so the first step does not have to divide its weight by this number.
# </details>
#
# ## Key takeaways
#
# - CH theory looks only at the existing links: a link is likely if many L3 paths join its ends and few links lead out
#   of its local community.
# - The scores find many hidden links in receptive fields, and in networks that started as receptive fields and were
#   trained with CHTs. In networks with a random start, the scores find few. The number of paths alone finds about as
#   many hidden links as CH2-L3n. And a link that a score finds is not always a link that helps.
# - $P = AA^\top$ and $Q = A^\top A$ hold all counts that the four scores need. A node-based score takes two more matrix
#   products with $A$.
# - Node-based scores put the links in nearly the same order as path-based scores. Node-based scores cost less, and the
#   denser the layer, the more time they save.
# - Walks draw links exactly in proportion to the node-based scores, without computing these scores.
#
# ## Further reading
#
# - Hebb, *The Organization of Behavior*, Wiley, 1949: Hebb's learning rule.
# - Cannistraci, Alanis-Lobato and Ravasi, [*From link-prediction in brain connectomes and protein interactomes to the
#   local-community-paradigm in complex networks*](https://doi.org/10.1038/srep01613), Scientific Reports, 2013: local
#   communities and epitopological learning.
# - Daminelli, Thomas, Durán and Cannistraci, [*Common neighbours and the local-community-paradigm for topological link
#   prediction in bipartite networks*](https://doi.org/10.1088/1367-2630/17/11/113037), New Journal of Physics, 2015:
#   local communities in networks with two sides.
# - Kovács et al., [*Network-based prediction of protein interactions*](https://doi.org/10.1038/s41467-019-09177-y),
#   Nature Communications, 2019: why paths of three links predict interactions and paths of two links do not.
# - Muscoloni, Abdelhamid and Cannistraci, *Local-community network automata modelling based on length-three-paths for
#   prediction of complex network structures in protein interactomes, food webs and more*, bioRxiv, 2018: CH theory,
#   based on L3 paths.
# - Zhang, Zhao, Wu, Muscoloni and Cannistraci, *Epitopological learning and Cannistraci-Hebb network shape intelligence
#   brain-inspired theory for ultra-sparse advantage in deep learning*, ICLR, 2024: the first use of CH theory for
#   sparse training.

# %%
records.publish(
    {
        "scores": {predictor.__name__: predictor(network)[missing].item() for predictor in by_hand},
        "rank_correlation": {name: correlation.loc["CH3-L3p", name] for name in compared},
        "costs": measured,
        "chi_square": {"statistic": chi_square.statistic, "p": chi_square.pvalue, "links": len(likely)},
        "low_p": {"count": low, "least": least, "most": most},
        "auc": aucs,
        "precision": precisions,
        "correlation_with_paths": paths_correlation,
        "gains": gains,
        "drawn": int(new.sum()),
        "asked_for": wanted,
    }
)
