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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SET_THE_OWNER/chts/blob/v0.1.0/notebooks/02_link_prediction.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/SET_THE_OWNER/chts/v0.1.0?urlpath=lab/tree/notebooks/02_link_prediction.ipynb)
#
# **You will be able to** count by hand what makes a missing link likely, turn the count into matrices, choose a score
# knowing what it costs, and draw new links from it without computing it.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; matrix products |
# | Time | 30 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), sections on path-based and node-based link regrowth |

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
import random
import time
from collections import Counter
from itertools import permutations

import pandas as pd
import torch
from scipy import stats

import chts_core as chts
from chts_core.lab import figures, widgets
from chts_core.lab.notebook import exercises, l3, notebooks
from chts_core.lab.results import records
from chts_core.link_prediction import ch2_l3n, ch2_l3p, ch3_l3n, ch3_l3p, sample_links

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper: how large the run is; empty: $CHTS_PROFILE, or laptop
seed: int = 0  # the networks and the walks depend on it
sparsity: float = 0.9  # share of absent links in the network whose scores are compared, in [0, 1)
r: float = 0.25  # randomness of its receptive fields, in [0, 1]

# %%
settings = notebooks.start("02_link_prediction", profile, seed=seed, sparsity=sparsity, r=r)

# %% [markdown]
# ## Paths around a missing link
#
# Dynamic sparse training removes weak links and must decide where new ones go. Link prediction asks the network itself:
# a link is likely where the network already leads from one end to the other by a short way. Here are three outputs and
# three inputs, and the missing link from output 0 to input 0.

# %%
network = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
missing = (0, 0)  # (output u, input v)
dotted = torch.zeros_like(network)
dotted[missing] = True
figures.show(
    figures.network(
        [figures.Links("link", [network]), figures.Links("missing link", [dotted], style=":")], ("inputs", "outputs")
    ),
    "Three inputs, three outputs and seven links. The missing link between output 0 and input 0 is dotted.",
)

# %% [markdown]
# In a bipartite network every step changes sides, so the shortest way around a missing link has three links:
#
# $$u - z_1 - z_2 - v$$
#
# with $z_1$ an input of output $u$, and $z_2$ an output of input $v$, and a link between the two. This is an **L3 path**.
# One of them here is output 0 – input 1 – output 2 – input 0.
#
# ## Exercise: count the paths
#
# How many L3 paths does the missing link from output 0 to input 0 have? Count them in the picture and replace `None`.
# A wrong number is explained, so just try.

# %% tags=["exercise"]
counted = None

# %% tags=["check"]
with exercises.attempt():
    assert counted is not None, "replace None in the cell above by a number."
    explanation = l3.explain_count(network, missing, counted)
    assert not explanation, explanation

# %% [markdown]
# <details><summary>Hint</summary>
#
# Input 0 has a single output. Every path must come through it.
# </details>
#
# <details><summary>Solution</summary>
#
# Input 0 is linked to output 2 alone, and output 2 shares inputs 1 and 2 with output 0:
#
# ```python
# counted = 2
# ```
# </details>
#
# Here is what the checker says to some usual slips.

# %% tags=["nbval-check-output"]
for slip in (1, 3, 4, 14):
    print(l3.explain_count(network, missing, slip), end="\n\n")

# %% [markdown]
# ## The local community
#
# The nodes between the ends, on any L3 path, are the **local community** of the missing link. The Cannistraci-Hebb idea:
# a link is likely where its community keeps to itself. For a node $z$ of the community,
#
# - $i_z$ counts its links to other nodes of the community,
# - $e_z$ counts its links to nodes outside of it; the link to the end $u$ or $v$ counts for neither.
#
# With sets, for the link above. Input 1 has outputs 0, 1 and 2: output 0 is the end, output 2 is inside, output 1 outside.

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
nodes = l3.community(network, missing)  # the same, for any link
assert [(str(z), z.inside, z.outside) for z in nodes] == [("input 1", 1, 1), ("input 2", 1, 1), ("output 2", 2, 0)]
figures.show(
    figures.local_community(network, missing, title="output 0 – input 0"),
    "The two L3 paths are dashed; inputs 1 and 2 and output 2, ringed, are the local community. The thin links lead out.",
)

# %% [markdown]
# ## Four scores
#
# Two choices make a score. *Node-based* (n) sums over the nodes $z$ of the community $C$, *path-based* (p) over the
# paths. *CH2* rewards links inside, *CH3* only penalises links outside:
#
# $$\text{CH2-L3n} = \sum_{z \in C} \frac{1 + i_z}{1 + e_z} \qquad \text{CH3-L3n} = \sum_{z \in C} \frac{1}{1 + e_z}$$
#
# $$\text{CH3-L3p} = \sum_{u - z_1 - z_2 - v} \frac{1}{\sqrt{(1 + e_{z_1})(1 + e_{z_2})}}$$
#
# CH2-L3p has links inside as well: $\sum \sqrt{\frac{(1 + i_{z_1})(1 + i_{z_2})}{(1 + e_{z_1})(1 + e_{z_2})}}$. CHT,
# the older method that always takes the best links, regrows by CH3-L3p; here CHTs and CHTss regrow by CH2-L3n (paper,
# path-based and node-based link regrowth).
#
# By hand, for output 0 – input 0: CH2-L3n is 2/2 + 2/2 + 3/1 = 5. CH3-L3n is 1/2 + 1/2 + 1/1 = 2. Each of the two paths
# gives 1/√(2 · 1), so CH3-L3p is √2 ≈ 1.414. For CH2-L3p each gives √(2/2 · 3/1), together 2√3 ≈ 3.464.

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
# Two outputs $z$ and $u$ share $P_{zu}$ inputs, with $P = AA^\top$; the diagonal of $P$ holds the degrees $d$. Two inputs
# share $Q = A^\top A$ outputs.

# %% tags=["nbval-check-output"]
A = network.float()
P, Q = A @ A.T, A.T @ A
print("P =", P.int().tolist())
print("Q =", Q.int().tolist())

# %% [markdown]
# Let $z$ be an output on a path from $u$ to $v$. Its inputs inside the community are those it shares with $u$, so
# $i_z = P_{zu}$. All others but $v$ are outside: $e_z = d_z - P_{zu} - 1$. So $i_z$ and $e_z$ depend on $z$ and $u$
# but not on $v$. One matrix for each side therefore holds all terms:
#
# $$R_U[z, u] = \mathbb{1}[P_{zu} > 0]\, \frac{1 + P_{zu}}{\max(d_z - P_{zu}, 1)}$$
#
# and $R_V[z, v]$ likewise from $Q$; CH3 puts 1 above the line. The maximum only matters where $z$ has no input that $u$
# lacks, and then it is on no path of a missing link. Check $R_U[2, 0]$: (1 + 2)/(3 − 2) = 3, the term of output 2 above.


# %% tags=["nbval-check-output"]
def ratios(shared: torch.Tensor, inside: bool = True) -> torch.Tensor:
    degree = shared.diagonal()[:, None]
    above = 1 + shared if inside else torch.ones_like(shared)
    return (shared > 0) * above / (degree - shared).clamp(min=1)


R_U, R_V = ratios(P), ratios(Q)
print("R_U =", R_U.tolist())
print("R_V =", R_V.tolist())

# %% [markdown]
# Summing the terms over the outputs of $v$, and over the inputs of $u$, is a matrix product for each side:
#
# $$S = R_U^\top A + A R_V \quad \text{on missing links}$$

# %% tags=["nbval-check-output"]
S = (R_U.T @ A + A @ R_V) * ~network
print(S)
assert torch.equal(S, ch2_l3n(network))
assert torch.allclose(S.double(), l3.scores(network, "ch2_l3n"))

# %% [markdown]
# The path-based scores need both ends of a path at once, $\sqrt{R_V[z_1, v]\, R_U[z_2, u]}$ for each linked pair
# $z_1, z_2$, and two matrix products no longer do. With `einsum`, which is fine for a toy:

# %% tags=["nbval-check-output"]
of_outputs, of_inputs = ratios(P, inside=False).sqrt(), ratios(Q, inside=False).sqrt()
paths = torch.einsum("ua,ba,bv,av,bu->uv", A, A, A, of_inputs, of_outputs) * ~network
print(paths)
assert torch.allclose(paths, ch3_l3p(network))
assert torch.allclose(paths.double(), l3.scores(network, "ch3_l3p"))

# %% [markdown]
# ## Step through the paths
#
# A slightly larger network, 5 outputs and 6 inputs. Choose a missing link and a score, and step from path to path.
#
# **Predict before you move the slider:** which node brings most into CH2-L3n of output 0 – input 4, and why? Does its
# term change from path to path? And what happens for a link of output 4?

# %%
explorer = widgets.LinkPredictionStepper()
explorer

# %% [markdown]
# On a page without a running kernel nothing moves; this is the state that it starts from:

# %%
state = widgets.LinkPredictionState()
figures.show(widgets.LinkPredictionStepper.figure(state), widgets.LinkPredictionStepper.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Output 2 brings most, 3/1: it has no link that leads out, and two that stay inside. A node's term belongs to the missing
# link and is the same on every path; node-based scores count it once. Output 4 has one input, which no other output
# shares: its missing links have no L3 path, and score 0.
# </details>
#
# ## Exercise: your own matrices
#
# Write CH3-L3n for any mask: only the numerator differs from CH2-L3n. Return scores of missing links, 0 on existing ones.


# %% tags=["exercise"]
def my_ch3_l3n(mask):
    return torch.zeros(mask.shape)  # replace this


# %% tags=["check"]
with exercises.attempt():
    for trial in range(20):
        generator = torch.Generator().manual_seed(trial)
        mask = torch.rand(5, 7, generator=generator) < 0.4
        mine, wanted = my_ch3_l3n(mask), ch3_l3n(mask)
        assert mine.shape == mask.shape, f"the scores have shape {tuple(mine.shape)}; the mask has {tuple(mask.shape)}."
        for link in (~((mine - wanted).abs() <= 1e-5)).nonzero().tolist()[:1]:
            got, due = mine[*link].item(), wanted[*link].item()
            where = f"{l3.describe(link)} of random mask {trial}: you have {got:.3f}, it should be {due:.3f}."
            nodes = [] if mask[*link] else l3.community(mask, tuple(link))
            community = ", ".join(node.counts for node in nodes)
            why = "existing links score 0" if mask[*link] else f"its local community is {community or 'empty'}"
            raise AssertionError(f"{where} Look: {why}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Form P and Q as above, then `ratios(..., inside=False)`. Convert the mask to float first; multiply by `~mask` last.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_ch3_l3n(mask):
#     links = mask.float()
#     of_outputs = ratios(links @ links.T, inside=False)
#     of_inputs = ratios(links.T @ links, inside=False)
#     return (of_outputs.T @ links + links @ of_inputs) * ~mask
# ```
# </details>
#
# ## What a score prefers
#
# Now a receptive field network (stage 01) of 64 inputs and 48 outputs.
#
# **Predict:** where in the mask will the likely missing links lie? Will the path-based and the node-based scores
# disagree on which ones are likely?

# %%
generator = torch.Generator().manual_seed(settings.seed)
layer = chts.topology.receptive_field(48, 64, 1 - settings.sparsity, settings.r, generator=generator)
scores = {"CH3-L3p": ch3_l3p(layer), "CH3-L3n": ch3_l3n(layer), "CH2-L3n": ch2_l3n(layer)}
figures.show(
    figures.score_maps(layer, scores),
    "The network and three scores of its missing links; existing links score 0. All are darkest on both sides of "
    "the diagonal, beside the links there are.",
)

# %% [markdown]
# The scores have different scales, but regrowth only needs their order or proportions. So compare *ranks*, among the
# missing links that have an L3 path at all: 1 is the same order, 0 none in common. Beside the scores, two things they
# might only stand for: the number of paths, and the product of the degrees of both ends.

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
    f"Each mark is one of {int(with_path.sum())} missing links with an L3 path: node-based against path-based scores.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The likely links lie where links are, near the diagonal, so link prediction keeps the network local. Node- and
# path-based scores put the links in nearly the same order, as the table says: a link with many paths has many nodes on
# them. That makes it plausible to exchange the path-based score of CHT for a node-based one, as the paper does. The
# bare number of paths comes close too: in so regular a network $i$ and $e$ change little. The product of degrees says
# far less, but this network is no test of it: its outputs have the same degree to within one, and there are no hubs.
# </details>
#
# ## What a score costs
#
# With $N$ neurons of degree $d$ on each side, there are about $N d^3$ L3 paths to walk: at fixed density
# the path-based cost grows as $N^4$. The node-based scores are matrix products: $O(N^3)$ dense, less where the core
# uses sparse ones. `sample_links` draws a tenth as many links as there are, without forming a score (next section).
# The best of three measurements, on one thread of this machine:


# %%
def milliseconds(call) -> float:
    call()  # the first call may compile
    best = float("inf")
    for _ in range(3):
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
    "Time of the path-based score, the node-based score and of drawing links by walks: by size at density 0.04 (left), "
    "and by density (right). Logarithmic axes.",
)

# %% [markdown]
# Read it with care. The core takes sparse products up to a density of 0.05 and dense ones above, walks paths up to
# 0.15, and the small sizes mostly measure the cost of a call, so do not look for exact powers of $N$. Other machines,
# and GPUs, have other numbers. What carries over is the order of the three, and that the path-based score suffers most
# from density.
#
# ## Drawing links without the score
#
# Soft regrowth draws missing links with $p \propto S$. Insert the definition of $R_U$ into $S$:
#
# $$S_{uv} = \sum_{z} \frac{1 + P_{zu}}{d_z - P_{zu}}\, A_{zv} + \dots$$
#
# The sum runs over outputs $z$ that share something with $u$; the dots are the same for the other side. Now
# $d_z - P_{zu}$ is *the number of inputs of $z$ that $u$ lacks*, and $v$ is one of them. So each term is a two-step walk:
#
# 1. draw a pair $(z, u)$ that shares something, where $u$ lacks something, with $p \propto 1 + P_{zu}$ (CH3: all alike);
# 2. draw $v$ among the inputs of $z$ that $u$ lacks, all alike: $1/(d_z - P_{zu})$ each.
#
# The other side is drawn the same way, with the roles of inputs and outputs exchanged. In plain Python, on the network of
# the widget, the first steps of all walks and where each can end. The first pair is $z$ = output 0, $u$ = output 1: they
# share inputs 1 and 3, so the weight is 1 + 2 = 3, and input 0 is the only one that output 1 lacks.

# %% tags=["nbval-check-output"]
toy = widgets.link_prediction.NETWORK
walks = []  # (weight, the links where the second step ends)
for near, flip in zip(l3.neighbours(toy), (False, True), strict=True):
    for z, seed_node in permutations(range(len(near)), 2):
        shared, lacking = near[z] & near[seed_node], near[z] - near[seed_node]
        if shared and lacking:
            ends = [(end, seed_node) if flip else (seed_node, end) for end in sorted(lacking)]
            walks.append((1 + len(shared), ends))
weights = [weight for weight, _ in walks]
print(f"{len(walks)} pairs to start with; the first: weight {walks[0][0]}, ends at {walks[0][1]}")

# %% [markdown]
# Add up the weights of all ways to end at each link: this is the score, exactly.

# %% tags=["nbval-check-output"]
reached = torch.zeros(toy.shape)
for weight, ends in walks:
    for end in ends:
        reached[end] += weight / len(ends)
assert torch.allclose(reached, ch2_l3n(toy))
print(reached)

# %% [markdown]
# **Predict:** walk many times and count where the walks end. Output 0 – input 4 has a score of 6.5; what share of the
# walks ends there?

# %%
chooser = random.Random(settings.seed)
starts = chooser.choices(walks, weights, k=settings.walks)
ended = Counter(chooser.choice(ends) for _, ends in starts)

# %%
likely = reached.nonzero().tolist()
exact = reached.double()
expected = [settings.walks * (exact[*link] / exact.sum()).item() for link in likely]
observed = [ended[tuple(link)] for link in likely]
chi_square = stats.chisquare(observed, expected)
print(f"χ² = {chi_square.statistic:.1f} for {len(likely)} links, p = {chi_square.pvalue:.2f}")
print(f"output 0 – input 4: {6.5 / reached.sum():.3f} expected, {ended[0, 4] / settings.walks:.3f} counted")
figures.show(
    figures.walk_frequencies(likely, expected, observed),
    f"Where {settings.walks} walks ended, beside what the scores say: the bars agree up to chance.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The share is 6.5 divided by the sum of all scores. χ² sums (counted − expected)²/expected over the links; if the walks
# follow the score, it is on average the number of links minus one, give or take several. p says how often chance alone
# gives a χ² at least as large: one seed in twenty falls below 0.05, and only a p near 0 would speak against the walks.
# That they are exact was asserted above.
#
# Our list of starts held all $P_{zu}$; the core does without. $P_{zu}$ counts the ways $z$ – shared input – $u$, so
# drawing one such way at random draws a pair with $p \propto P_{zu}$, and the 1 is a second kind of start: any pair
# that shares something, all alike.
# </details>
#
# A link that was drawn before is simply left out and the walk repeated, which is drawing without replacement. The core
# does this in compiled code, with all walks of a round at once. On a large layer:

# %%
width = settings.width
large = chts.topology.receptive_field(width, width, 0.01, 0.25, generator=generator)
wanted = int(large.sum()) // 10
new = sample_links(large, wanted, "ch2_l3n", generator=generator)
assert int(new.sum()) == wanted
assert not (new & large).any()
drawing = milliseconds(lambda: sample_links(large, wanted, generator=generator))
print(f"{width} × {width}: {wanted} new links in {drawing:.1f} ms; their scores alone take ", end="")
print(f"{milliseconds(lambda: ch2_l3n(large)):.1f} ms and {4 * large.numel() / 2**20:.0f} MB")

# %% [markdown]
# ## Exercise: name the paths (optional)
#
# In the network of the widget, list all L3 paths of output 3 – input 3, each as `(output, input, output, input)`. The
# checker says what is wrong with each that is none. (The stepper can show them, but try the mask first.)

# %% tags=["exercise"]
print(toy.int())
listed = []

# %% tags=["check"]
with exercises.attempt():
    explanation = l3.explain_paths(toy, (3, 3), listed)
    assert not explanation, explanation

# %% [markdown]
# <details><summary>Hint</summary>
#
# Output 3 has inputs 1, 4 and 5; input 3 has outputs 0, 1 and 2. Which of these pairs are linked?
# </details>
#
# <details><summary>Solution</summary>
#
# Of nine pairs, five are linked:
#
# ```python
# listed = [(3, 1, 0, 3), (3, 1, 1, 3), (3, 1, 2, 3), (3, 4, 2, 3), (3, 5, 1, 3)]
# ```
# </details>
#
# ## Self-check
#
# 1. Why are there no paths of two links between the ends of a missing link?
#
# <details><summary>Answer</summary>
#
# Every link changes sides, and the ends lie on different sides: only an odd number of links leads from one to the other.
# </details>
#
# 2. A node of the community has $i = 3$ and $e = 0$. What does it bring into CH2-L3n and into CH3-L3n?
#
# <details><summary>Answer</summary>
#
# (1 + 3)/(1 + 0) = 4 and 1/(1 + 0) = 1. CH3 does not reward links inside.
# </details>
#
# 3. In the first network, can a walk of three links from output 0 to input 0 go back to output 0?
#
# <details><summary>Answer</summary>
#
# No. It would have to end with the link from output 0 to input 0, which is missing. So $AA^\top A$ counts the L3 paths of
# missing links, without any correction.
# </details>
#
# 4. Why does the first step of a walk not need the degrees $d_z$?
#
# <details><summary>Answer</summary>
#
# The denominator $d_z - P_{zu}$ is the number of places where the second step can end, and drawing one of them at random
# divides by it.
# </details>
#
# ## What to take along
#
# - A link is likely where many L3 paths join its ends and few links lead out of its local community.
# - $P = AA^\top$ and $Q = A^\top A$ hold all that the four scores need; node-based ones are two more products.
# - Node-based scores order the links much as path-based ones do, and cost less, the more so the denser the layer.
# - Walks draw from the node-based scores exactly, without computing them.

# %%
records.publish(
    {
        "scores": {predictor.__name__: predictor(network)[missing].item() for predictor in by_hand},
        "rank_correlation": {name: correlation.loc["CH3-L3p", name] for name in compared},
        "costs": measured,
        "chi_square": {"statistic": chi_square.statistic, "p": chi_square.pvalue, "links": len(likely)},
        "drawn": int(new.sum()),
        "asked_for": wanted,
    }
)
