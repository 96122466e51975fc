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
# **You will be able to** read a sparse layer as a network, wire one at random (Erdős–Rényi) or by receptive fields
# (BRF), and predict from three numbers what it looks like.
#
# | | |
# |---|---|
# | Prerequisites | PyTorch's `nn.Linear`; no network science |
# | Time | 20 minutes to read, under a minute to run |
# | Difficulty | ●○○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), section on bipartite receptive field network modelling |

# %%
import torch

import chts_core as chts
from chts_core.lab import exercises, figures, notebooks, records, widgets

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = "laptop"  # ci, binder, laptop, gpu or paper: how large the run is
seed: int = 0  # the networks depend on it
sparsity: float = 0.95  # share of absent links in the larger networks, in [0, 1)
r: float = 0.25  # randomness of the receptive field, in [0, 1]

# %%
settings = notebooks.start("01_networks_as_masks", profile, seed=seed, sparsity=sparsity, r=r)

# %% [markdown]
# ## A layer is a bipartite network
#
# A linear layer computes $y = Wx$. Think of each input and each output as a node and of each weight as a link between
# them: links run only between the two sides, so the network is *bipartite*. A **mask** says which links exist. It has the
# shape of the weight, `(out_features, in_features)`: a row per output, a column per input.

# %%
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
# Check by hand: 5 links of 12 possible ones, so the *density* is 5/12 ≈ 0.417 and the *sparsity* 1 − 5/12 ≈ 0.583.
# The number of links of a node is its *degree*.

# %%
density = mask.float().mean().item()
print(f"density {density:.3f}, sparsity {1 - density:.3f}")

# %%
figures.show(
    figures.masks({"3 outputs, 4 inputs, 5 links": mask}),
    "The mask as a picture: a square in row i and column j is a link from input j to output i.",
)

# %% [markdown]
# A sparse layer only needs its links. Multiplying the weight by the mask and summing over the links one by one give the
# same output; the second way does 5 multiplications instead of 12. (That masks save no *time* on dense hardware by
# themselves is another matter.)

# %%
generator = torch.Generator().manual_seed(seed)
weight = torch.randn(3, 4, generator=generator)
x = torch.tensor([1.0, 2.0, 3.0, 4.0])

by_links = torch.zeros(3)
for i, j in mask.nonzero().tolist():
    by_links[i] += weight[i, j] * x[j]
assert torch.allclose((weight * mask) @ x, by_links)

# %% [markdown]
# ## Erdős–Rényi: any link alike
#
# The simplest network draws its links uniformly at random. To get *exactly* the number of links we want, draw positions
# until so many different ones have come; drawing each link by a coin would only get the number right on average.

# %%
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
# Nothing in it is local: the output sees inputs from all over, and some inputs may not be seen at all.
#
# ## A receptive field: near links first
#
# In the retina and the visual cortex a neuron listens to a *neighbourhood*. The **bipartite receptive field** network
# (BRF) gives each output a place on the input side and prefers inputs near it:
#
# - output $i$ looks at position $c_i = (i + \tfrac12)\,\frac{\text{in}}{\text{out}} - \tfrac12$, the diagonal of the mask;
# - the distance of input $j$ is $|j - c_i|$ on a ring, so that the last input is next to the first;
# - an output of degree $d$ draws $d$ inputs without replacement with probability
#   $\propto (1 + \text{distance})^{-(1-r)/r}$.
#
# For 4 outputs and 8 inputs the centres are 0.5, 2.5, 4.5 and 6.5. Check the first row of distances by hand.

# %%
centres = (torch.arange(4) + 0.5) * 8 / 4 - 0.5
apart = (torch.arange(8) - centres[:, None]).abs()
distance = torch.minimum(apart, 8 - apart)
print(distance)

# %% [markdown]
# The parameter $r$ is the randomness. Look at the chances of output 0 for its first draw: at $r = 1$ the exponent is 0
# and all inputs are alike, which is Erdős–Rényi given the degrees; as $r \to 0$ only the nearest are left.

# %%
for randomness in (0.1, 0.25, 0.5, 1.0):
    weights = (1 + distance[0]) ** (-(1 - randomness) / randomness)
    chances = (weights / weights.sum()).tolist()
    print(f"r = {randomness:<4}", "  ".join(f"{chance:.3f}" for chance in chances))

# %% [markdown]
# Drawing several inputs without replacement is a *race*: add Gumbel noise to the logarithm of each probability and take
# the $d$ highest. The core runs the same race faster, with random numbers of its own. So compare how often each link is
# drawn, in 4000 networks each way.

# %%
generator = torch.Generator().manual_seed(seed)
noise = chts.sampling.gumbel((4000, 4, 8), generator=generator)
finish = -(1 - 0.25) / 0.25 * torch.log1p(distance) + noise
by_hand = torch.zeros(4000, 4, 8).scatter(2, finish.topk(2, dim=2).indices, 1.0)

networks = [chts.topology.receptive_field(4, 8, density=0.25, r=0.25, generator=generator) for _ in range(4000)]
from_core = torch.stack(networks).float()
assert torch.allclose(by_hand.mean(0), from_core.mean(0), atol=0.05)
print(networks[0].int())
print("how often, output 0:", [f"{share:.2f}" for share in from_core.mean(0)[0].tolist()])


# %% [markdown]
# ## The real thing
#
# **Predict:** the same number of links in a larger layer. Where will they be at $r = 0$? What will distinguish $r = 1$
# from Erdős–Rényi? Then run the next cell.


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
    "Four networks with the same number of links. At r = 0 all lie on the diagonal; at r = 1 they are everywhere, "
    "as in the Erdős–Rényi network.",
)

# %% [markdown]
# ## Degrees: who is a hub?
#
# $r = 1$ looks like Erdős–Rényi, but the *degrees* tell them apart. A BRF network sets the degree of each output first and
# keeps it: **fixed** gives every output the same, **uniform** spreads degrees evenly from few to many, so that some
# outputs become hubs. Inputs get whatever falls on them.

# %%
by_degree = {"Erdős–Rényi": random_network, "BRF fixed": network(r), "BRF uniform": network(r, "uniform")}
figures.show(
    figures.degree_histograms(by_degree),
    "Degrees of outputs (left) and inputs (right). Only the rule for the outputs differs: all alike when fixed, from few "
    "to many when uniform, bell-shaped in the Erdős–Rényi network.",
)

# %% [markdown]
# ## Every input must be seen
#
# When the layer is wide, the centres must be spread over the *whole* input side. If the step from one centre to the next
# is rounded to an integer, as in code that was published, the last inputs are never a centre. In a layer of the LLaMA
# shape 512 × 1376 the step is 2.6875; rounded down to 2, the centres end at input 1022 of 1376.

# %%
wide = chts.topology.receptive_field(512, 1376, density=0.01, r=0.0, generator=torch.Generator().manual_seed(seed))
print("links per output:", int(wide.sum(dim=1).min()), "to", int(wide.sum(dim=1).max()))
print("inputs without a link:", int((~wide.any(dim=0)).sum()))

# %%
rounded_centres = torch.arange(512) * (1376 // 512)
windows = (rounded_centres[:, None] + torch.arange(-6, 8)) % 1376  # the 14 nearest inputs of each
print("inputs without a link, had the step been rounded:", 1376 - windows.unique().numel())

# %% [markdown]
# ## Explore
#
# **Predict before you move a slider:** at sparsity 0.9, does a larger $r$ make the inputs' degrees more alike or less?
# What does *uniform* change in the picture on the left?

# %%
explorer = widgets.ReceptiveFieldExplorer()
explorer

# %% [markdown]
# On a page without a running kernel nothing moves; this is the state that the explorer starts from:

# %%
state = widgets.ReceptiveFieldState()
figures.show(widgets.ReceptiveFieldExplorer.figure(state), widgets.ReceptiveFieldExplorer.compute(state).description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# At $r = 0$ every input has nearly the same degree, since the windows tile the input side. More randomness spreads the
# inputs' degrees, until at $r = 1$ they are as uneven as chance makes them. *Uniform* degrees make some rows long and
# others short; the diagonal stays.
# </details>
#
# ## Exercise: degrees that fit
#
# A layer of 100 outputs and 40 inputs has sparsity 0.9. How many links has each output when the degrees are fixed?
# Replace `None`.

# %% tags=["exercise"]
links_per_output = None

# %% tags=["check"]
with exercises.attempt():
    assert links_per_output is not None, "replace None in the cell above by a number."
    counted = chts.topology.receptive_field(100, 40, 0.1, generator=generator).sum(dim=1).unique().tolist()
    assert counted == [links_per_output], f"the core gives every output another number than {links_per_output}."

# %% [markdown]
# <details><summary>Hint</summary>
#
# Density is 1 − sparsity, and each output has 40 possible links.
# </details>
#
# <details><summary>Solution</summary>
#
# A density of 0.1 of 40 possible links:
#
# ```python
# links_per_output = 4
# ```
# </details>
#
# ## What to take along
#
# - A mask is a bipartite network; density, sparsity and degrees describe it.
# - ER places links anywhere; BRF places them near the diagonal, $r$ from local to random, with the outputs' degrees kept.
# - Networks here have exactly the number of links asked for, for any rectangle.

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
    }
)
