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
# # 01 · Networks as masks
#
# **You will be able to**
#
# 1. read a sparse layer as a network;
# 2. wire a layer in five ways: ER, BSW, BSF, BRF and CSTI;
# 3. distinguish networks by their degrees, clustering and path length;
# 4. wire a receptive field, and say what it is good for.
#
# | | |
# |---|---|
# | Prerequisites | PyTorch's `nn.Linear`; stage 00 for how to use a notebook; no network science |
# | Time | 40 minutes to read, under a minute to run |
# | Difficulty | ●○○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), sections on initial networks and bipartite receptive field network modelling |

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
from dataclasses import asdict
from itertools import combinations

import pandas as pd
import torch

import chts_core as chts
from chts_core.lab import data, figures, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of all random networks
sparsity: float = 0.95  # share of absent links in the larger networks, in [0, 1)
r: float = 0.25  # randomness of the receptive field, in [0, 1]

# %%
settings = notebooks.start("01_networks_as_masks", profile, seed=seed, sparsity=sparsity, r=r)

# %% [markdown]
# ## A layer is a bipartite network
#
# A linear layer computes $y = Wx$. Think of each input and each output as a node, and of each weight as a link between
# two nodes. Links run only between one side (the inputs) and the other side (the outputs), so the network is
# *bipartite*. A **mask** says which links exist. The mask has the shape of the weight matrix $W$,
# `(out_features, in_features)`: one row per output and one column per input.

# %% tags=["nbval-check-output"]
mask = torch.tensor(
    [
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    ],
    dtype=torch.bool,
)
outputs, inputs = chts.diagnostics.degrees(mask)
print("links per output:", outputs.tolist())
print("links per input: ", inputs.tolist())

# %% [markdown]
# Check by hand: 5 of 12 possible links exist, so the *density* is 5/12 ≈ 0.417 and the *sparsity* is 1 − 5/12 ≈ 0.583.
# The number of links of a node is its *degree*.

# %% tags=["nbval-check-output"]
density = mask.float().mean().item()
print(f"density {density:.3f}, sparsity {1 - density:.3f}")

# %%
figures.show(
    figures.masks({"3 outputs, 4 inputs, 5 links": mask}),
    "The mask has 5 of 12 possible links. A square in row i and column j is a link from input j to output i.",
)

# %% [markdown]
# Only the links of a sparse layer contribute to its output. You can compute this output in two ways. Either multiply
# each weight by its mask value (0 or 1) and compute $Wx$, or add up the products of weight and input, one for each
# link. Both ways give the same output. The second way needs 5 multiplications instead of 12. (A mask alone saves no
# *time* on most hardware. Stage 07 shows what saves time.)

# %%
generator = torch.Generator().manual_seed(seed)
weight = torch.randn(3, 4, generator=generator)
x = torch.tensor([1.0, 2.0, 3.0, 4.0])

by_links = torch.zeros(3)
for i, j in mask.nonzero().tolist():
    by_links[i] += weight[i, j] * x[j]
assert torch.allclose((weight * mask) @ x, by_links)

# %% [markdown]
# ## Erdős–Rényi: all links equally likely
#
# The simplest method draws the links uniformly at random. The result is an **Erdős–Rényi** network (ER). The next cell
# needs *exactly* 8 links, so it draws positions in the mask at random until it has 8 different positions. A coin toss
# for each position would give 8 links only on average.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
by_hand = torch.zeros(4 * 8, dtype=torch.bool)
while by_hand.sum() < 8:
    missing = 8 - int(by_hand.sum())
    by_hand[torch.randint(4 * 8, (missing,), generator=generator)] = True
by_hand = by_hand.view(4, 8)

from_core = chts.topology.erdos_renyi(4, 8, density=0.25, generator=torch.Generator().manual_seed(seed))
assert torch.equal(by_hand, from_core)
print(from_core.int())

# %% [markdown]
# Nothing in this network is local: an output can be linked to inputs anywhere, and some inputs may have no link.
#
# ## A receptive field: nearby inputs first
#
# In the retina and the visual cortex, a neuron responds only to a small region of the visual field: its *receptive
# field*. The **bipartite receptive field** network (BRF) gives each output a centre on the input side and prefers
# inputs near this centre:
#
# - output $i$ has its centre at $c_i = (i + \tfrac12)\,\frac{\text{in}}{\text{out}} - \tfrac12$, on the diagonal of the
#   mask;
# - the distance of input $j$ from this centre is $|j - c_i|$, measured on a ring, so the last input is next to the
#   first;
# - an output of degree $d$ draws $d$ inputs without replacement, with a probability
#   $\propto (1 + \text{distance})^{-(1-r)/r}$.
#
# For 4 outputs and 8 inputs, the centres are 0.5, 2.5, 4.5 and 6.5. Check the first row of distances by hand.

# %% tags=["nbval-check-output"]
centres = (torch.arange(4) + 0.5) * 8 / 4 - 0.5
apart = (torch.arange(8) - centres[:, None]).abs()
distance = torch.minimum(apart, 8 - apart)
print(distance)

# %% [markdown]
# The parameter $r$ sets how random the links are. For each input, the next cell prints the chance that output 0 draws
# this input first. At $r = 1$, the exponent is 0, so all inputs are equally likely. At $r = 0$, we take the limit of
# the formula, so the output draws only the inputs nearest to its centre.

# %% tags=["nbval-check-output"]
for randomness in (0.1, 0.25, 0.5, 1.0):
    weights = (1 + distance[0]) ** (-(1 - randomness) / randomness)
    chances = (weights / weights.sum()).tolist()
    print(f"r = {randomness:<4}", "  ".join(f"{chance:.3f}" for chance in chances))

# %% [markdown]
# How can we draw several inputs without drawing any input twice? Here is one method. Add random *Gumbel noise* to the
# logarithm of each probability, and take the $d$ inputs with the highest sums. Stage 03 shows why this method works.
# The core draws with the same probabilities in a faster way, but it uses different random numbers. So we draw 4000
# networks with Gumbel noise and 4000 networks with the core, and we compare how often each link appears in the two sets
# of networks.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
noise = chts.sampling.gumbel((4000, 4, 8), generator=generator)
finish = -(1 - 0.25) / 0.25 * torch.log1p(distance) + noise
by_hand = torch.zeros(4000, 4, 8).scatter(2, finish.topk(2, dim=2).indices, 1.0)

networks = [chts.topology.receptive_field(4, 8, density=0.25, r=0.25, generator=generator) for _ in range(4000)]
from_core = torch.stack(networks).float()
assert torch.allclose(by_hand.mean(0), from_core.mean(0), atol=0.05)
print(networks[0].int())
print("share of the networks with each link of output 0:", [f"{share:.2f}" for share in from_core.mean(0)[0].tolist()])


# %% [markdown]
# ## A larger layer
#
# **Predict:** the next cell wires a larger layer in four ways, always with the same number of links. Where will the
# links be at $r = 0$? What will distinguish the network with $r = 1$ from the Erdős–Rényi network?


# %%
def network(r: float, degree: str = "fixed") -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return chts.topology.receptive_field(*shape, 1 - sparsity, r, degree, generator=generator)


shape = settings.out_features, settings.in_features
random_network = chts.topology.erdos_renyi(*shape, 1 - sparsity, generator=torch.Generator().manual_seed(seed))

# %%
compared = {
    "Erdős–Rényi": random_network,
    "BRF, r = 0": network(0.0),
    f"BRF, r = {r}": network(r),
    "BRF, r = 1": network(1.0),
}
figures.show(
    figures.masks(compared),
    "The links leave the diagonal as r grows. At r = 0, all links lie on the diagonal. At r = 1, the links are "
    "everywhere, as in the Erdős–Rényi network. All four networks have the same number of links.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# At $r = 0$, all links lie on the diagonal. (The dots in two corners come from the ring: the last input is next to the
# first.) At $r = 1$, the links are everywhere. The picture does not distinguish the network with $r = 1$ from the
# Erdős–Rényi network. The degrees of the outputs distinguish the two networks, as the next section shows.
# </details>
#
# ## Degrees: who is a hub?
#
# A BRF network with $r = 1$ looks like an Erdős–Rényi network, but the two networks differ in their *degrees*. BRF
# first sets the degree of each output and then draws this number of links for this output. **Fixed** degrees are the
# same for all outputs or differ by at most one. **Uniform** degrees are spread evenly from few links to many. With
# uniform degrees, some outputs become *hubs*: they have far more links than other outputs. BRF does not set the degrees
# of the inputs.

# %%
by_degree = {"Erdős–Rényi": random_network, "BRF fixed": network(1.0), "BRF uniform": network(1.0, "uniform")}
figures.show(
    figures.degree_histograms(by_degree),
    "Only the degrees of the outputs (left) distinguish the three networks. With fixed degrees, all outputs have the "
    "same number of links. With uniform degrees, all numbers of links in a wide range are equally common. The degrees "
    "of the Erdős–Rényi network form a bell shape. The degrees of the inputs (right) are spread in nearly the same way "
    "in all three networks. Both BRF networks have r = 1.",
)

# %% [markdown]
# ## The centres must cover all inputs
#
# The centres must be spread over the *whole* input side. Some published code rounds the step between neighbouring
# centres to an integer. If the code rounds down, no centre lies among the last inputs. For example, in a LLaMA layer
# with 512 outputs and 1376 inputs, the step is 2.6875. If you round this step down to 2, the last centre lies at input
# 1022, although the last input is input 1375.

# %% tags=["nbval-check-output"]
wide = chts.topology.receptive_field(512, 1376, density=0.01, r=0.0, generator=torch.Generator().manual_seed(seed))
print("links per output:", int(wide.sum(dim=1).min()), "to", int(wide.sum(dim=1).max()))
print("inputs without a link:", int((~wide.any(dim=0)).sum()))

# %% tags=["nbval-check-output"]
rounded_centres = torch.arange(512) * (1376 // 512)
windows = (rounded_centres[:, None] + torch.arange(-6, 8)) % 1376  # the 14 inputs nearest to each centre
print("inputs without a link, if the step were rounded:", 1376 - windows.unique().numel())

# %% [markdown]
# ## Explore
#
# **Predict before you move a slider:** at a sparsity of 0.9, does a larger $r$ make the degrees of the inputs more
# similar or less similar? What do *uniform* degrees change in the picture on the left?

# %%
explorer = widgets.ReceptiveFieldExplorer()
explorer

# %% [markdown]
# GitHub does not show widgets. This figure shows the first state of the explorer:

# %%
state = widgets.ReceptiveFieldState()
figures.show(widgets.ReceptiveFieldExplorer.figure(state), widgets.ReceptiveFieldExplorer.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# At $r = 0$, every input has nearly the same degree, because the receptive fields cover the input side evenly. A larger
# $r$ makes the degrees of the inputs less similar. At $r = 1$, the degrees of the inputs depend only on chance. With
# *uniform* degrees, some rows have many links and other rows have few, but the links still lie near the diagonal.
# </details>
#
# ## Small worlds: mostly near, a few far
#
# Most of our friends live nearby. The few friends who live far away make the paths between all people short. The
# **bipartite small world** (BSW) starts from a *lattice*, in which each link joins two neurons that are near each
# other. Then BSW rewires a fraction $\beta$ of these links at random. BSW adapts the model of Watts and Strogatz to
# networks with two sides. If there are at least as many outputs as inputs, BSW at $\beta = 0$ is the same network as
# BRF at $r = 0$.

# %% tags=["nbval-check-output"]
lattice = chts.topology.small_world(8, 4, density=0.5, beta=0.0, generator=torch.Generator().manual_seed(seed))
nearest = chts.topology.receptive_field(8, 4, density=0.5, r=0.0, generator=torch.Generator().manual_seed(seed))
assert torch.equal(lattice, nearest)
print(lattice.int())

# %% [markdown]
# Now rewire a quarter of the 16 links of this network. Choose 4 links at random and remove them. For each lost link,
# the output draws a new input at random, from the inputs to which it has no link. So the degrees of the outputs stay
# the same. An output may draw its old input again, so fewer than 4 links may have moved. Compare the mask above with
# the mask below.


# %% tags=["nbval-check-output"]
def rewired(generator: torch.Generator) -> torch.Tensor:
    rewired = lattice.clone()
    links = lattice.nonzero()
    let_go = links[torch.randperm(len(links), generator=generator)[: len(links) // 4]]
    rewired[let_go[:, 0], let_go[:, 1]] = False
    for output in let_go[:, 0]:
        free = (~rewired[output]).nonzero()[:, 0]
        rewired[output, free[torch.randint(len(free), (), generator=generator)]] = True
    return rewired


by_hand = [rewired(generator) for _ in range(2000)]
from_core = [chts.topology.small_world(8, 4, 0.5, beta=0.25, generator=generator) for _ in range(2000)]
assert all(torch.equal(network.sum(1), lattice.sum(1)) for network in (*by_hand, *from_core))
assert torch.allclose(torch.stack(by_hand).float().mean(0), torch.stack(from_core).float().mean(0), atol=0.06)
print(from_core[0].int())

# %% [markdown]
# ## Scale-free: the rich get richer
#
# Networks of citations, airports and proteins have *hubs*. The **bipartite scale-free** network (BSF) grows hubs as in
# the model of Barabási and Albert: neurons join one after another. A newcomer links to one of the older neurons. The
# newcomer chooses each older neuron with a probability proportional to the degree of that neuron. To draw with these
# probabilities, keep a list of the ends of all links. A neuron with three links is in this list three times. So a
# uniform draw from the list picks a neuron with a probability proportional to its degree. Sometimes a newcomer chooses
# a neuron on its own side. A layer cannot hold such a link. When all neurons have joined, we repair each such link. The
# newcomer keeps its end of the link. The other end moves to a neuron on the opposite side of the layer, which we draw
# from the same list. The code below builds a layer with 3 outputs, 5 inputs and 7 links. The first link joins an output
# and an input, and each of the 6 newcomers brings one link. (If two links have the same two ends, the code keeps only
# one of them. The core draws another link instead, so the hubs of its networks are a little larger.)


# %%
def grown(generator: torch.Generator) -> torch.Tensor:
    def any_of(items: list[int]) -> int:
        return items[torch.randint(len(items), (), generator=generator)]

    outputs, inputs = torch.randperm(3, generator=generator).tolist(), torch.randperm(5, generator=generator).tolist()
    newcomers = [*outputs[1:], *(3 + node for node in inputs[1:])]  # outputs are nodes 0 to 2, inputs 3 to 7
    ends = [outputs[0], 3 + inputs[0]]  # a link between the two founders
    for place in torch.randperm(6, generator=generator).tolist():
        ends += [newcomers[place], any_of(ends)]
    mask = torch.zeros(3, 5, dtype=torch.bool)
    for newer, older in zip(ends[::2], ends[1::2], strict=True):
        if (newer < 3) == (older < 3):
            older = any_of([node for node in ends if (node < 3) != (newer < 3)])
        mask[min(newer, older), max(newer, older) - 3] = True
    return mask


# %% [markdown]
# These networks are random, so we compare only the mean size of their hubs. We average the highest degree of an output
# over 1000 networks from the function above and over 1000 networks from the core.

# %% tags=["nbval-check-output"]
by_hand = torch.stack([grown(generator).sum(1).max() for _ in range(1000)]).double()
networks = [chts.topology.scale_free(3, 5, density=7 / 15, generator=generator) for _ in range(1000)]
from_core = torch.stack([network.sum(1).max() for network in networks]).double()
print(f"highest degree of an output: by hand {by_hand.mean():.1f}, in the core {from_core.mean():.1f}")
assert abs(by_hand.mean() - from_core.mean()) < 0.15
print(networks[0].int())

# %% [markdown]
# ## CSTI: what the data says
#
# **Correlated sparse topological initialisation** (CSTI) looks at the data first. Input $i$ and output $i$ both stand
# for feature $i$. CSTI links output $i$ to input $j$ if the features $i$ and $j$ form one of the pairs that correlate
# most strongly. The strength of a correlation is $|\rho|$, the absolute value of Pearson's correlation. No feature is
# linked to itself. Here are five samples of the features 0 to 3. Feature 1 rises with feature 0, and feature 3 falls as
# feature 2 rises. So CSTI first chooses the links 0–1 and 2–3, in both directions:

# %% tags=["nbval-check-output"]
samples = torch.tensor([[1.0, 2, 0, 9], [2, 4, 1, 7], [3, 5, 0, 8], [4, 9, 3, 2], [5, 9, 1, 6]])
correlation = chts.topology.Correlation()
correlation.update(samples)
print(correlation.matrix().round(decimals=2))
by_hand = torch.corrcoef(samples.T.double()).abs().fill_diagonal_(0)
assert torch.allclose(correlation.matrix(), by_hand)

strongest = chts.topology.correlated(4, 4, 4 / 16, correlation.matrix(), generator=generator)
assert torch.equal(strongest.nonzero(), torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]]))

# %% [markdown]
# ## Why a receptive field?
#
# A receptive field prefers nearby inputs. In images, nearby pixels are related. Our images of handwritten digits have
# 8×8 pixels. The next cell computes the correlation of each pixel with every other pixel over all training images.

# %%
task = data.load_images("digits")
correlation = chts.topology.Correlation()
correlation.update(task.train.images)
pixels = correlation.matrix()
figures.show(
    figures.pixel_correlations(pixels, task.image_shape, (4, 3)),
    "On average, two pixels that touch correlate more than twice as strongly as two pixels at a distance of 2 pixels "
    "or more (right). So the darkest squares on the left touch the pixel that is marked with a star.",
)

# %% [markdown]
# A layer gets the image as a row of 64 numbers: one line of pixels after another. So for any pixel, the pixel on its
# right is 1 place further on, and the pixel below it is 8 places further on.
#
# **Predict:** the CSTI mask of 64 inputs and 64 outputs links correlated pixels. Where in the 64×64 square will the
# links of CSTI be, and which rows will stay empty?

# %%
first_layer = {
    "CSTI": chts.topology.correlated(64, 64, 1 - sparsity, pixels, generator=generator),
    "BRF": chts.topology.receptive_field(64, 64, 1 - sparsity, r, generator=generator),
    "ER": chts.topology.erdos_renyi(64, 64, 1 - sparsity, generator=generator),
}
figures.show(
    figures.masks(first_layer),
    "CSTI draws short stripes. Some lie along the diagonal, and others lie parallel to it, at a distance of 8 pixels. "
    "The links of BRF stay near the diagonal, and the links of ER are everywhere. Each network links 64 pixels to 64 "
    "neurons.",
)

# %% tags=["nbval-check-output"]
place = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double()
itself = torch.eye(64, dtype=torch.bool)
touching = (torch.cdist(place, place) < 1.5) & ~itself  # the pixels around each pixel, at most eight
for name, mask in first_layer.items():
    near, same = ((mask & which).sum() / mask.sum() for which in (touching, itself))
    print(f"{name:<5} {near:.0%} of the links join pixels that touch, {same:.0%} join pixel i to neuron i")
print("pixels that CSTI leaves without a link:", int((~first_layer["CSTI"].any(0)).sum()))

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# CSTI found in the data that the strongest correlations are mostly between nearby pixels. The stripes at a distance of
# 8 from the diagonal are links from a pixel to the pixels above and below it. The dots next to the diagonal are links
# from a pixel to the pixels on its left and right. The blocks in the corners are links between the top and the bottom
# of the image, because the pixels there correlate as well. Pixels that hardly vary get no link. BRF assumes that nearby
# inputs are related, and does not look at the data. So BRF also works deep in a network, where there are no features to
# correlate before training. But for BRF, only neighbours in the row of numbers are near: the pixels on the left and
# right, but not the pixels above and below.
# </details>
#
# The paper uses both CSTI and BRF. On images, CHT, CHTs and CHTss start from CSTI. In Transformers and in LLaMA, these
# methods start from BRF. In this package, the methods `chts` and `chtss` start from BRF. The method `chts/paper_mlp`
# starts from CSTI. This method needs the correlations. For the matrix `pixels` from above, pass `correlation=pixels` to
# `chts.Sparsifier`.
#
# ## Five networks side by side
#
# We take one layer with the 64 pixels as inputs and wire it in five ways, each time with a tenth of the possible links.
# If there are more than 64 outputs, CSTI repeats the 64×64 matrix of correlations to cover the layer.

# %%
size = settings.out_features, task.features
five = {
    "ER": chts.topology.erdos_renyi(*size, 0.1, generator=generator),
    "BSW": chts.topology.small_world(*size, 0.1, generator=generator),
    "BSF": chts.topology.scale_free(*size, 0.1, generator=generator),
    "BRF": chts.topology.receptive_field(*size, 0.1, r, generator=generator),
    "CSTI": chts.topology.correlated(*size, 0.1, pixels, generator=generator),
}
figures.show(
    figures.masks(five),
    "ER has no pattern. BSW is a diagonal with scattered links. BSF has crowded rows and columns, which are its "
    "hubs. BRF is a blurred diagonal. CSTI has stripes, and it has gaps where pixels do not vary. All five "
    "networks have a tenth of the possible links.",
)

# %% [markdown]
# **Predict:** which of the five networks has the neuron with the most links, and how many links will this neuron have?
# A network is called scale-free if the share of neurons with at least $k$ links falls like a negative power of $k$. On
# logarithmic axes, the curve of such a power is a straight line.

# %%
figures.show(
    figures.degree_tails(five),
    "BSF has a few hubs with many links, so its curve reaches far to the right of all other curves. BSW and BRF "
    "set the degrees of the outputs, so their curves on the left are the same and drop steeply. A curve shows the "
    "share of neurons with at least k links.",
)

# %%
print("highest degree of the outputs and of the inputs:")
for name, mask in five.items():
    outputs, inputs = chts.diagnostics.degrees(mask)
    print(f"  {name:<5} {int(outputs.max()):>3} of {len(inputs)}   {int(inputs.max()):>3} of {len(outputs)}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# BSF has the largest hubs, among the outputs and among the inputs. BSW and BRF first set the degrees of the outputs, so
# these degrees differ by at most one. In these two networks, the degrees of the inputs vary nearly as much as in ER.
# The curve of BSF cannot be straight to its end, because no output can have more links than there are inputs.
# </details>
#
# ## Is it a small world?
#
# Two numbers describe how a network is connected. **Clustering** measures how often a fourth link joins the two ends of
# a path of three links. If there is such a fourth link, the four links form a cycle, which is called a *4-cycle*. (In
# social networks, clustering counts triangles. A layer has no triangles, because links run only between the two sides.)
# One 4-cycle contains four paths of three links, so the formula has the factor 4:
#
# $$C = \frac{4 \cdot \text{number of 4-cycles}}{\text{number of paths of three links}}$$
#
# (Robins and Alexander 2004). Stage 02 uses the same paths to predict the missing fourth link. Take the first mask of
# this stage, and add a link from input 0 to output 1.

# %%
small = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
cycle = torch.zeros_like(small)
cycle[:2, :2] = True
groups = [
    figures.Links("other links", [small & ~cycle]),
    figures.Links("a 4-cycle", [cycle], figures.style.VERMILION, "--", 3),
]
figures.show(
    figures.network(groups, ("inputs", "outputs")),
    "Inputs 0 and 1 and outputs 0 and 1 form a cycle of four links. The network has four inputs, three outputs and "
    "six links.",
)

# %% [markdown]
# Count by hand. There is one 4-cycle. A path of three links has a middle link and one more link at each end of the
# middle link. So the link between output $i$ of degree $d_i$ and input $j$ of degree $d_j$ is the middle link of
# $(d_i - 1)(d_j - 1)$ paths. The outputs have 2, 3 and 1 links, and the inputs have 2, 2, 1 and 1. We name a link by
# its output and then its input. Each of the links 0–0 and 0–1 is the middle link of $1 \cdot 1$ path. Each of the links
# 1–0 and 1–1 is the middle link of $2 \cdot 1$ paths. The other two links are not the middle link of any path. In
# total, there are 6 paths. So $C = 4 \cdot 1 / 6 = 0.667$.

# %% tags=["nbval-check-output"]
outputs, inputs = chts.diagnostics.degrees(small)
paths = int((torch.outer(outputs - 1, inputs - 1) * small).sum())
inputs_of = [set(row.nonzero()[:, 0].tolist()) for row in small]
shared = [len(one & other) for one, other in combinations(inputs_of, 2)]  # number of shared inputs per pair of outputs
cycles = sum(p * (p - 1) // 2 for p in shared)  # p shared inputs make p (p - 1) / 2 cycles
print(f"{cycles} cycle, {paths} paths, clustering {4 * cycles / paths:.3f}")
assert chts.diagnostics.clustering(small) == 4 * cycles / paths

# %% [markdown]
# **Path length** $L$ is the number of links on the shortest path between two neurons. We take the mean over all pairs
# of neurons that a path joins. In the picture, 6 pairs are 1 link apart. Another 4 pairs are 2 links apart: outputs 0
# and 1, inputs 0 and 1, inputs 0 and 2, and inputs 1 and 2. Output 0 and input 2 are 3 links apart. So the mean is
# $(6 \cdot 1 + 4 \cdot 2 + 1 \cdot 3) / 11 = 17/11$. The 7 neurons form 21 pairs, and a path joins 11 of them.

# %% tags=["nbval-check-output"]
length = chts.diagnostics.path_length(small)
print(f"mean length {length.mean:.3f}, share of reachable pairs {length.reachable:.3f}")
assert (length.mean, length.reachable) == (17 / 11, 11 / 21)

# %% [markdown]
# A single value of $C$ or $L$ says little: every dense network has high clustering and short paths. So we compare each
# network with a *null model*: Erdős–Rényi networks with the same shape and the same number of links.
# **Small-worldness** is
#
# $$\sigma = \frac{C / C_\text{ER}}{L / L_\text{ER}}$$
#
# (Humphries and Gurney 2008). The value of $\sigma$ is about 1 for a random network and clearly above 1 for a small
# world. A small world is clustered like a lattice, but its paths are nearly as short as in a random network.
#
# The table shows $C$ and $L$ of each network. Then it shows $C_\text{ER}$ and $L_\text{ER}$, the means over five
# Erdős–Rényi networks. The last column is $\sigma$.
#
# **Predict:** order the five networks by clustering. Which network has the longest paths?

# %%
measured = {
    name: chts.diagnostics.small_worldness(mask, generator=torch.Generator().manual_seed(seed))
    for name, mask in five.items()
}
columns = {
    "clustering": "clustering C",
    "path_length": "path length L",
    "null_clustering": "C of ER",
    "null_path_length": "L of ER",
    "sigma": "small-worldness σ",
}
pd.DataFrame({name: asdict(of) for name, of in measured.items()}).T.rename(columns=columns).round(2)

# %%
figures.show(
    figures.small_worlds(measured),
    "All networks except ER are more clustered than an Erdős–Rényi network of their size. ER lies where the dotted "
    "lines cross. Clustering rises from the bottom up, and path length rises to the right. Both are divided "
    "by the means of the Erdős–Rényi networks.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# BRF is local by design. So BRF is highly clustered, but it has the longest paths. BSW is a small world, as its name
# promises: it is clustered, and its paths are nearly as short as in ER. BSF is clustered too, because of its hubs, and
# it has the *shortest* paths: every neuron is near a hub. CSTI is clustered like a local network. But read the numbers
# of CSTI with care, because CSTI leaves some neurons without links. So the other neurons form a denser network than the
# null model, and a denser network is more clustered, even if its links are random. $\sigma$ is above 1 for four of the
# five networks. For a pure lattice, $\sigma$ is also above 1, although its paths are long. So look at both ratios:
# $C / C_\text{ER}$ and $L / L_\text{ER}$.
# </details>

# %% [markdown]
# ## Exercise: degrees that fit
#
# *★☆☆ · 4 minutes · essential · objective 1 · work out*
#
# A layer of 100 outputs and 40 inputs has a sparsity of 0.9. How many links does each output have if the degrees are
# fixed? Replace `None`.

# %% tags=["exercise"]
links_per_output = None

# %% tags=["check"]
exercises.check("01.links_per_output", links_per_output)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The density is 1 − sparsity, and each output has 40 possible links.
# </details>
#
# <details><summary>Solution</summary>
#
# The density is 0.1, and each output has 40 possible links. So each output has $0.1 \cdot 40 = 4$ links:
#
# ```python
# links_per_output = 4
# ```
# </details>

# %% [markdown]
# ## Exercise: build a small world
#
# *★★★ · 30 minutes · useful · objective 2 · write code*
#
# Write a function that draws a bipartite small world with an exact number of links, for a layer of any shape:
#
# 1. The nodes of the larger side share the links evenly: their degrees differ by at most one. If both sides have the
#    same size, the outputs count as the larger side.
# 2. The larger side has $n$ nodes, and the smaller side has $m$ nodes. Node $i$ of the larger side has its centre on
#    the smaller side, at position $(i + \tfrac12) m / n - \tfrac12$. The links of this node go to the nodes that are
#    nearest to its centre. Distances are measured on a ring. The result is the lattice.
# 3. Choose exactly round(β · links) links at random. Remove all chosen links. Then each node of the larger side draws
#    as many new links as it lost. It draws their ends at random from the nodes to which it has no link. A link may
#    return to its old place.
#
# The check compares your networks with the networks of the core. Then it prints how β changes the clustering and the
# path length of a larger layer.


# %% tags=["exercise"]
def small_world(outputs: int, inputs: int, links: int, beta: float, generator: torch.Generator) -> torch.Tensor:
    """A Boolean mask (outputs, inputs) with exactly `links` links. Write this function."""


# %% tags=["check"]
exercises.check("01.small_world", small_world)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First solve the case with at least as many outputs as inputs. In the other case, swap the two sides, solve the first
# case and transpose the mask. For each output, `argsort(1).argsort(1)` of the distances ranks all inputs by their
# distance from the centre of this output. The nearest input has rank 0. Remove all chosen links before you draw the
# first new one.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def small_world(outputs: int, inputs: int, links: int, beta: float, generator: torch.Generator) -> torch.Tensor:
#     if inputs > outputs:
#         return small_world(inputs, outputs, links, beta, generator).T
#     shares = (torch.arange(outputs + 1) * links // outputs).diff()
#     centres = (torch.arange(outputs) + 0.5) * inputs / outputs - 0.5
#     apart = (torch.arange(inputs) - centres[:, None]).abs()
#     mask = torch.minimum(apart, inputs - apart).argsort(1).argsort(1) < shares[:, None]
#     let_go = mask.nonzero()[torch.randperm(links, generator=generator)[: round(beta * links)]]
#     mask[let_go[:, 0], let_go[:, 1]] = False
#     for output in let_go[:, 0].tolist():
#         free = (~mask[output]).nonzero()[:, 0]
#         mask[output, free[torch.randint(len(free), (), generator=generator)]] = True
#     return mask
# ```
#
# At β = 0.1, the paths are nearly as short as at β = 1, and more than half of the clustering of the lattice is left. So
# this network is a small world.
# </details>

# %% [markdown]
# ## Exercise: the rich get richer
#
# *★☆☆ · 6 minutes · useful · objective 2 · work out*
#
# A scale-free network grows as described above. Its list of ends is now `[0, 3, 1, 3, 4, 0, 2, 3]`. The list holds four
# links, and the newer end of each link comes first. Each newcomer brings one link. What is the chance that the next
# newcomer chooses node 3? What is the chance that the next *two* newcomers both choose node 3?

# %% tags=["exercise"]
next_one = None
next_two = None

# %% tags=["check"]
exercises.check("01.rich", next_one, next_two)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A newcomer draws one entry of the list. Then the new link adds two entries to the list.
# </details>
#
# <details><summary>Solution</summary>
#
# Node 3 has three of eight entries. After the first choice, node 3 has four of ten entries. A node that has one link
# now, such as node 4, has a chance of only 1/8 · 2/10 = 0.025 of being chosen by both newcomers.
#
# ```python
# next_one = 3 / 8
# next_two = 3 / 8 * 4 / 10
# ```
# </details>

# %% [markdown]
# ## Exercise: a receptive field for images
#
# *★★☆ · 15 minutes · essential · objectives 1 and 4 · write code*
#
# For BRF, the pixels on the left and right of a pixel are near, but the pixels above and below it are not. Wire a layer
# for which the neighbours in all directions are near. The layer has one neuron for each pixel of an image. Each neuron
# is linked to the `degree` pixels that are nearest to its own place *in the image*, and its own pixel is one of them.
# Use the Euclidean distance. The image has edges, so do not measure distances on a ring. Pixels and neurons are
# numbered line by line.
#
# **First guess:** in which layer do linked pixels correlate most: in yours, in BRF or in ER? The check prints the three
# mean correlations.


# %% tags=["exercise"]
def image_field(height: int, width: int, degree: int) -> torch.Tensor:
    """A Boolean mask (pixels, pixels) with `degree` links in each row. Write this function."""


# %% tags=["check"]
exercises.check("01.image_field", image_field, pixels=pixels)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.cartesian_prod` gives the row and the column of each pixel. A code cell above uses this function in the same
# way. `torch.cdist` gives all distances.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def image_field(height: int, width: int, degree: int) -> torch.Tensor:
#     place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
#     nearest = torch.cdist(place, place).argsort(dim=1)[:, :degree]
#     return torch.zeros(height * width, height * width, dtype=torch.bool).scatter(1, nearest, True)
# ```
#
# The mean correlation of linked pixels is 0.26 in your layer, 0.13 in BRF and 0.11 in ER. So BRF is hardly better than
# random links here: most of its links reach two to four pixels to the left or right. The inputs in a receptive field
# are related to each other only if the measure of distance fits the data.
# </details>

# %% [markdown]
# ## Exercise: count the 4-cycles
#
# *★★☆ · 10 minutes · useful · objectives 1 and 3 · write code*
#
# Write a function that returns the number of 4-cycles of any mask. Use an idea from the code of the section *Is it a
# small world?*: two outputs that share $p$ inputs lie together on $p(p-1)/2$ cycles.


# %% tags=["exercise"]
def four_cycles(mask: torch.Tensor) -> int:
    """The number of 4-cycles of a Boolean mask (outputs, inputs). Write this function."""


# %% tags=["check"]
exercises.check("01.four_cycles", four_cycles)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `mask.int() @ mask.int().T` counts the shared inputs of every pair of outputs; `.triu(1)` keeps each pair once.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def four_cycles(mask: torch.Tensor) -> int:
#     shared = (mask.int() @ mask.int().T).triu(1)
#     return int((shared * (shared - 1) // 2).sum())
# ```
# </details>

# %% [markdown]
# ## Exercise: five unknown networks
#
# *★★☆ · 12 minutes · essential · objective 3 · work out*
#
# Here are five new networks, each with 96 outputs and 64 inputs. One is an ER network, and the others are BSW, BSF, BRF
# and CSTI. The order is unknown. The neurons of each network are shuffled, so you cannot tell the networks apart in a
# picture. Use the degrees, the clustering and the path lengths of the networks. The density is 0.15, and the clustering
# of an ER network is close to its density. Replace each `None` with the name of the network.

# %%
drawn = torch.Generator().manual_seed(8)
size, share = (96, task.features), 0.15
known = {
    "ER": chts.topology.erdos_renyi(*size, share, generator=drawn),
    "BSW": chts.topology.small_world(*size, share, generator=drawn),
    "BSF": chts.topology.scale_free(*size, share, generator=drawn),
    "BRF": chts.topology.receptive_field(*size, share, generator=drawn),
    "CSTI": chts.topology.correlated(*size, share, pixels, generator=drawn),
}
mystery = {}
for letter, place in zip("ABCDE", torch.randperm(5, generator=drawn).tolist(), strict=True):
    rows, columns = (torch.randperm(neurons, generator=drawn) for neurons in size)
    mystery[letter] = known[list(known)[place]][rows][:, columns]

# %%
numbers = {}
for letter, mask in mystery.items():
    outputs, inputs = chts.diagnostics.degrees(mask)
    numbers[letter] = {
        "links per output": f"{int(outputs.min())} to {int(outputs.max())}",
        "links per input": f"{int(inputs.min())} to {int(inputs.max())}",
        "clustering": f"{chts.diagnostics.clustering(mask):.2f}",
        "path length": f"{chts.diagnostics.path_length(mask).mean:.2f}",
    }
pd.DataFrame(numbers).T

# %% tags=["exercise"]
names = {"A": None, "B": None, "C": None, "D": None, "E": None}  # "ER", "BSW", "BSF", "BRF" or "CSTI"

# %% tags=["check"]
exercises.check("01.names", names, mystery=mystery, five=known)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which networks set the degrees of their outputs before they draw links? Which network leaves neurons without links,
# and which network has hubs?
# </details>
#
# <details><summary>Solution</summary>
#
# In two networks, BSW and BRF, the degrees of the outputs differ by at most one. BRF is more clustered than BSW and has
# longer paths. Among the other three networks, only CSTI has inputs and outputs without any link. BSF has the hubs and
# the shortest paths. ER is the least clustered network.
#
# ```python
# names = {"A": "ER", "B": "BRF", "C": "BSW", "D": "BSF", "E": "CSTI"}
# ```
# </details>
#
# ## To discuss
#
# These questions have no single answer.
#
# - CSTI looks at the data, and BRF assumes that nearby inputs are related. Take a layer inside a Transformer. Does
#   "near" mean anything there? How would you find out?
# - $\sigma$ is above 1 for a pure lattice too. Would you report $\sigma$ in a paper? Which other numbers and which null
#   model would you report?
# - A BSF layer has hubs before training. When would you want hubs in a layer? Which experiment would show that hubs
#   help?

# %% [markdown]
# ## Self-check
#
# 1. A layer of 1000 outputs and 500 inputs has a sparsity of 0.99. How many links does the layer have, and how many
#    links does an output have on average?
#
# <details><summary>Answer</summary>
#
# The layer has $0.01 \cdot 1000 \cdot 500 = 5000$ links. An output has 5 links on average.
# </details>
#
# 2. Two BRF networks have the same number of links per output. One network has $r = 0$, and the other has $r = 1$. You
#    cannot see the masks. Which number distinguishes the two networks?
#
# <details><summary>Answer</summary>
#
# The clustering distinguishes the two networks. At $r = 0$, the receptive fields of neighbouring outputs overlap, so
# there are many 4-cycles. At $r = 1$, each output draws its inputs at random, so there are few 4-cycles. The path
# length and the spread of the inputs' degrees also differ.
# </details>
#
# 3. Why do we draw the Erdős–Rényi networks of the null model with the same shape *and* the same number of links as the
#    network that we measure?
#
# <details><summary>Answer</summary>
#
# Clustering and path length depend on the shape and on the number of links. For example, a denser network has higher
# clustering and shorter paths by chance alone.
# </details>
#
# 4. CSTI needs something that BRF does not need. What is it, and in which layers of a network is it missing?
#
# <details><summary>Answer</summary>
#
# CSTI needs data, because it computes the correlations of the features. The inputs of deeper layers are not features of
# the data. They are activations, which mean nothing before training.
# </details>
#
# ## Key takeaways
#
# - A mask is a bipartite network. Density, sparsity and degrees describe this network.
# - ER places links anywhere. BRF first sets the degrees of the outputs and then places links near the diagonal. The
#   parameter $r$ of BRF sets how random the links are, from local (0) to random (1).
# - BSW rewires a few links of a lattice, BSF grows hubs, and CSTI follows the correlations of the data.
# - Compare the clustering and the path length of a network with the values of Erdős–Rényi networks of the same shape
#   and density. Look at both numbers, and not only at $\sigma$.
# - For each of the five networks, the core draws exactly the number of links that you ask for, and the layer can have
#   any shape.
#
# ## Further reading
#
# - Watts and Strogatz (1998), [*Collective dynamics of 'small-world' networks*](https://doi.org/10.1038/30918): a short
#   paper on lattices with a few random links.
# - Barabási and Albert (1999), [*Emergence of scaling in random
#   networks*](https://doi.org/10.1126/science.286.5439.509): growth and hubs.
# - Newman (2003), [*The structure and function of complex networks*](https://arxiv.org/abs/cond-mat/0303516): a survey of
#   degrees, clustering, path lengths and random networks.
# - Robins and Alexander, *Small worlds among interlocking directors*, Computational and Mathematical Organization
#   Theory, 2004: clustering measured with 4-cycles.
# - Humphries and Gurney (2008), [*Network 'small-world-ness'*](https://doi.org/10.1371/journal.pone.0002051): the number
#   $\sigma$ and its limits.
# - Hubel and Wiesel (1962), [on the cat's visual cortex](https://doi.org/10.1113/jphysiol.1962.sp006837): the receptive
#   fields of single neurons.

# %%
records.publish(
    {
        "links": int(random_network.sum()),
        "networks": [
            {
                "network": name,
                "links": int(mask.sum()),
                "highest input degree": int(mask.sum(dim=0).max()),
                "inputs without a link": int((~mask.any(dim=0)).sum()),
            }
            for name, mask in {**compared, **by_degree}.items()
        ],
        "five": [
            {
                "network": name,
                "links": int(five[name].sum()),
                "highest output degree": int(five[name].sum(dim=1).max()),
                "highest input degree": int(five[name].sum(dim=0).max()),
                **asdict(of),
            }
            for name, of in measured.items()
        ],
    }
)
