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
# # 07 · Truly sparse
#
# **You will be able to**
#
# 1. say what a mask saves and what it does not save;
# 2. store only the links of a layer;
# 3. predict at which densities such a layer is faster on *your* machine;
# 4. read a cost meter that compares theory with measurement.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; stage 05 for the density decay; stage 06 for the `Sparsifier` |
# | Time | 25 minutes to read, about a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), the discussion of training cost; the paper itself trains with masks |

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
import torch
from torch import nn

import chts_core as chts
from chts_core.lab import costs, data, figures, models
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records

print(records.environment_line(records.choose_device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of networks, weights and batches
sparsity: float = 0.99  # share of absent links in the runs, in [0.5, 1) because CHTss starts at 0.5
hidden: int = 0  # units per hidden layer; 0 means the value of the profile

# %%
settings = notebooks.start("07_truly_sparse", profile, seed=seed, sparsity=sparsity, hidden=hidden)

# %% [markdown]
# ## What a mask saves
#
# A linear layer with $n$ inputs and $m$ outputs does $2nm$ floating-point operations for each sample: a multiplication
# and an addition for each weight. The backward pass does twice as many operations, for the gradients with respect to
# the input and to the weights. Both passes together do $6nm$ operations. If only a share $d$ of the links exists,
# $6\,d\,nm$ operations *would be enough*.
#
# Check by hand: with 100 inputs and 50 outputs, a dense layer does 30 000 operations for each sample, forward and
# backward. With 1 % of the links, 300 operations would be enough.

# %%
dense_flops, density = 6 * 100 * 50, 0.01
print(f"dense {dense_flops}, sparse {density * dense_flops:.0f} operations per sample")

# %% [markdown]
# A mask saves no operations. The layer multiplies each weight of its full matrix by 0 or 1. Then it multiplies its
# input by the full matrix, including the zeros.
#
# **Predict:** a layer has 1 % of its links. Compared with a step of the dense layer, how long does a step with a mask
# take: a hundredth of the time, half the time, the same time, or longer?

# %%
generator = torch.Generator().manual_seed(settings.seed)
shape = settings.hidden, settings.hidden
(alone,) = costs.time_layers(*shape, 256, [0.01], repeats=settings.repeats, generator=generator)
print(f"{shape[0]}×{shape[1]}, 256 samples: dense {alone.dense * 1e3:.1f} ms, with a mask {alone.masked * 1e3:.1f} ms")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# A step with a mask takes longer: the layer still does every operation of the dense layer, and it also applies the
# mask. But masks are good for research, because any method is easy to implement with masks.
# </details>
#
# ## Store only the links
#
# Here is the mask of stage 01 again, with 5 of 12 links. Now each link has a weight. The format *compressed sparse
# rows* (CSR) lists the column and the value of each link, row by row. The format also lists where each row begins.
# Below, *csr* means a layer that stores its links in this format.

# %%
weight = torch.tensor([[1.0, 2, 0, 0], [0, 3, 4, 0], [0, 0, 0, 5]])
links = chts.linear.compress(weight != 0)
print("row begins ", links.crow_indices.tolist())
print("columns    ", links.col_indices.tolist())
print("values     ", weight[weight != 0].tolist())

# %% [markdown]
# Read the lists: output 0 has links 0 and 1, output 1 has links 2 and 3, and output 2 has link 4. The matrix product
# needs only these three lists and the inputs.

# %%
x, values = torch.tensor([1.0, 2, 3, 4]), weight[weight != 0]
begins, columns = links.crow_indices.tolist(), links.col_indices.tolist()
by_links = [
    sum(float(values[k] * x[columns[k]]) for k in range(begins[i], begins[i + 1])) for i in range(len(begins) - 1)
]
print(by_links)
assert by_links == (weight @ x).tolist() == [5, 18, 20]

# %% [markdown]
# The backward pass goes through the links input by input, so the layer also stores the order of the links when they are
# sorted by column. `SparseLinear` does all this work in compiled loops. `SparseLinear` is a drop-in replacement for
# `nn.Linear`.

# %%
linear = nn.Linear(4, 3)
with torch.no_grad():
    linear.weight.copy_(weight)
layer = chts.linear.SparseLinear.from_linear(linear, weight != 0)
assert torch.allclose(layer(x), linear(x))
print(layer)

# %% [markdown]
# ## Memory, by hand
#
# During training with momentum, a dense layer keeps three numbers of 4 bytes for each *weight*: the weight, its
# gradient and its momentum. A sparse layer keeps these three numbers for each *link*. The sparse layer needs 12 more
# bytes for the position of each link: its input, its output, and its place when the links are sorted by column. The
# layer also needs 4 bytes for the beginning of each row and of each column. So a dense layer with 1000 inputs and 1000
# outputs takes 12 MB. With 1 % of the links, a sparse layer takes 10 000 · 24 bytes ≈ 0.24 MB.

# %%
wide = nn.Linear(1000, 1000, bias=False)
mask = chts.topology.erdos_renyi(1000, 1000, 0.01, generator=generator)
sparse = chts.linear.SparseLinear.from_linear(wide, mask)
kept = 3 * sparse.values.nbytes + sum(buffer.nbytes for buffer in sparse.buffers())
print(f"dense {3 * wide.weight.nbytes:,} bytes, csr {kept:,} bytes")
assert kept == 10_000 * (3 * 4 + 12) + 2 * 1001 * 4

# %% [markdown]
# ## Which layer is faster on this machine
#
# Dense products run at the full speed of the processor, because the position of every number is known in advance. A
# sparse product has to look up the input of every link. So an operation in a sparse product costs more time than an
# operation in a dense product. If a layer has enough links, the dense product is faster.
#
# **Predict:** at which density do the dense and the sparse product take the same time on this machine: 1 %, 10 % or 40
# %? Is this density lower, higher or about the same if a batch has 32 samples instead of 256?

# %%
densities = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
many = costs.time_layers(*shape, 256, densities, repeats=settings.repeats, generator=generator)
crossover = chts.linear.crossover_density(*shape, torch.device("cpu"), torch.float32)
figures.show(
    figures.layer_times(many, crossover),
    "csr takes less time if fewer links exist. The times of dense and masked do not depend on the number of links. "
    "At the dotted line, the two ways of `SparseLinear` take the same time. The time is for a training step of a "
    f"layer of {shape[0]}×{shape[1]} with 256 samples.",
)

# %%
few = costs.time_layers(*shape, 32, densities, repeats=settings.repeats, generator=generator)
figures.show(
    figures.layer_times(few),
    "With 32 samples, the batch size of the paper's image tasks, each call has less work. So the fixed cost of a call "
    "matters more.",
)

# %%
for name, times in (("256 samples", many), ("32 samples", few)):
    won = [row.density for row in times if row.links < row.dense]
    gain = times[0].dense / times[0].links
    print(
        f"{name}: csr is faster up to {max(won, default=0):.0%} density; at 1 % density it is {gain:.1f} times as "
        "fast as dense"
    )

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The last cell prints the largest *tested* density at which csr is faster on your machine. The lines of csr and dense
# cross between this density and the next tested density. On the machine of the published outputs, the lines cross
# between 20 and 30 % for both numbers of samples, far above the density of the paper's experiments. At a density of 1
# %, the number of operations falls by a factor of a hundred, but the time falls by a smaller factor. Looking up the
# inputs takes time, and each call has a fixed cost.
# </details>
#
# The section *While a network gets sparser* explains the dotted line.
#
# On a GPU, dense products are so fast that sparse products with unstructured links are faster only at the highest
# sparsities. In this notebook, we measured nothing on a GPU.
#
# ## The same run, link by link
#
# `Sparsifier(..., execution="csr")` replaces the layers of a model with layers that store only their links. A run with
# csr is the *same* as a run with masks: it removes and regrows the same links, and the weights agree up to rounding.
# (Here we compare only the links. The tests of the core compare both the links and the weights.)

# %%
task = data.load_images("digits")


def short_run(execution: str) -> chts.Sparsifier:
    generator = torch.Generator().manual_seed(settings.seed)
    model = models.mlp(task.features, 128, task.classes, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = chts.Sparsifier(
        model, optimizer, "chts", 0.95, total_steps=30, update_every=10, seed=settings.seed, execution=execution
    )
    for batch in torch.randperm(len(task.train.labels), generator=generator)[: 30 * 32].split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.train.images[batch]), task.train.labels[batch]).backward()
        optimizer.step()
        sparsifier.step()
    return sparsifier


# %%
masked, links_alone = short_run("masked"), short_run("csr")
for name, mask in masked.masks.items():
    assert torch.equal(mask, links_alone.masks[name])
steps = sorted({row["step"] for row in links_alone.history})
print(f"updates at steps {steps}; links: { {name: int(mask.sum()) for name, mask in links_alone.masks.items()} }")

# %% [markdown]
# ## The cost meter
#
# Now we measure whole training steps of an MLP with three hidden layers: the forward pass, the backward pass, the
# optimizer and the work of the `Sparsifier`. The label *in theory* marks the number of operations that `chts.plan`
# counts: the operations of the linear layers, if absent links cost nothing. We measure the time and the memory.

# %%
runs = {"FC": ("fc", "masked"), "CHTs, masked": ("chts", "masked"), "CHTs, csr": ("chts", "csr")}
runs["CHTss, csr"] = ("chtss", "csr")
meter = [
    costs.measure_training(
        task, method, settings.sparsity, execution=execution, hidden=settings.hidden, seed=settings.seed, name=name
    )
    for name, (method, execution) in runs.items()
]

# %%
figures.show(
    figures.cost_meter(meter),
    f"csr saves time and memory, and a mask saves neither. The values are for an MLP of 3×{settings.hidden} units "
    f"with batch size 32 and sparsity {settings.sparsity:g}, in per cent of the dense model (dotted line), on a "
    "logarithmic axis. Memory counts what is kept between steps at the end of the run: weights, gradients, "
    "momentum and links. It does not count the last weights of removed links.",
)

# %%
for cost in meter:
    print(
        f"{cost.name:<20} step {cost.step * 1e3:6.2f} ms   update {cost.update * 1e3:5.1f} ms   "
        f"kept {cost.memory / 2**20:6.2f} MiB   FLOPs {cost.flops:7.2%}   "
        f"updates +{cost.update / (100 * cost.step):.0%}"
    )

# %% [markdown]
# There are three lessons. First, a mask costs extra time and memory. Second, csr saves time and memory. The memory
# falls nearly as much as the calculation by hand predicts, but the time of a step falls less than the number of
# operations. At this sparsity, few operations are left, so the fixed cost of the calls dominates. No sparsity removes
# this cost. Third, with csr, an *update* of the topology takes longer than a step. The less time a step takes, the more
# an update matters. The last column shows how much time the updates add if there is one update in every hundred steps.
# In the paper's image tasks, there is one update per epoch, and an epoch has more than a thousand steps. So the time of
# the updates hardly matters there.
#
# CHTss starts with half of all links, so it needs more operations than CHTs. CHTss also needs more memory than CHTs,
# but the column *kept* does not include this additional memory. A link that returns starts with its last weight, so
# CHTs and CHTss remember every link that they removed. The position of such a link takes 8 bytes, and its weight takes
# 4 bytes. While the density of CHTss falls from 50 % to the final value, CHTss removes more links than it regrows.
# CHTss remembers at least the difference:

# %%
weights = task.features * settings.hidden + 2 * settings.hidden**2
remembered = 12 * max(0.5 - (1 - settings.sparsity), 0) * weights
print(
    f"CHTss remembers at least {remembered / 2**20:.1f} MiB, in addition to the {meter[-1].memory / 2**20:.1f} MiB "
    "above"
)

# %% [markdown]
# CHTs remembers fewer links than CHTss, but the number of links that CHTs remembers grows with the updates. The method
# `chtss with regrowth=Regrowth('ch2_l3n')` starts every regrown link from 0 and remembers nothing.
#
# ## While a network gets sparser
#
# A run with density decay (stage 05) starts at or near a density at which dense products are faster than sparse
# products. The run ends at a density at which sparse products are faster. `SparseLinear` can multiply link by link, or
# it can fill in a dense matrix and multiply by that matrix. For each layer, `execution="auto"` measures once at which
# density both ways take the same time. Below this density, the layer multiplies link by link. Filling in the matrix
# takes time, so the dense way is slower than `nn.Linear`. Therefore the density at which both ways take the same time
# is higher than the density at which the lines of csr and dense (`nn.Linear`) cross in the first figure. The dotted
# line marks this higher density, and the cell below prints it. On the published page, this density is 35 %, which is
# less than the density of 50 % in the first step. So auto multiplies densely in the first steps and link by link after
# the first updates. If your machine prints more than 50 %, auto multiplies link by link in all steps, and the times of
# csr and auto differ only by chance.

# %%
print(f"auto multiplies densely above {crossover:.0%} density and link by link below; this run begins at 50% density")
decay = [
    costs.measure_training(
        task,
        "chtss",
        settings.sparsity,
        execution=execution,
        hidden=settings.hidden,
        batch_size=256,
        steps=settings.decay_steps,
        updates=15,
        seed=settings.seed,
        name=execution,
    )
    for execution in ("masked", "csr", "auto")
]

# %%
figures.show(
    figures.step_course(decay),
    "Masked steps take as long at the end as at the beginning, but csr and auto get faster while the density "
    "falls. The lines show the time of a CHTss step with 256 samples by execution. The run goes from left to right.",
)

# %% [markdown]
# Be careful with such measurements: other programs on the machine, the number of threads and the size of the layer all
# change the results. Each point in the figure above is the median of a few steps. Repeat the measurement before you
# trust a small difference.
#
# ## Exercise: write down the links
#
# *★☆☆ · 10 minutes · essential · objective 2 · write code*
#
# Write a function that turns a small matrix into the three lists of CSR. The matrix is a list of rows, one row per
# output; a link is an entry that is not 0. A row may have no links.


# %% tags=["exercise"]
def to_lists(matrix):
    """Where each row begins, and the columns and the values of the links. Write this function."""


# %% tags=["check"]
exercises.check("07.to_lists", to_lists)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the matrix row by row. The first row begins at 0, and each row ends where the next row begins. So the list
# of beginnings has one more entry than the matrix has rows.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def to_lists(matrix):
#     begins, columns, values = [0], [], []
#     for row in matrix:
#         for column, value in enumerate(row):
#             if value != 0:
#                 columns.append(column)
#                 values.append(value)
#         begins.append(len(values))
#     return begins, columns, values
# ```
# </details>

# %% [markdown]
# ## Exercise: multiply by links
#
# *★★☆ · 10 minutes · essential · objective 2 · write code*
#
# From the three lists of CSR, compute the product $y = Wx$ for one sample. Do not build the matrix. Replace the
# `return` statement.


# %% tags=["exercise"]
def multiply(begins: list[int], columns: list[int], values: list[float], x: list[float]) -> list[float] | None:
    return None


# %% tags=["check"]
exercises.check("07.multiply", multiply)

# %% [markdown]
# <details><summary>Hint</summary>
#
# For link `k`, multiply `values[k]` by `x[columns[k]]`. Output `i` is the sum of these products over `k in
# range(begins[i], begins[i + 1])`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def multiply(begins: list[int], columns: list[int], values: list[float], x: list[float]) -> list[float] | None:
#     return [
#         sum(values[k] * x[columns[k]] for k in range(begins[i], begins[i + 1])) for i in range(len(begins) - 1)
#     ]
# ```
# </details>

# %% [markdown]
# ## Exercise: what does a layer keep?
#
# *★★☆ · 10 minutes · essential · objectives 1 and 2 · write code*
#
# Write a function that returns how many bytes a layer without bias keeps between two steps of SGD with momentum. Each
# number takes 4 bytes. `execution` is one of three values:
#
# - `"dense"`: for each possible link, the layer keeps the weight, its gradient and its momentum;
# - `"masked"`: the layer keeps the same numbers as with `"dense"`, and a Boolean mask of one byte per possible link;
# - `"links"`: for each existing link, the layer keeps the value, its gradient, its momentum and 12 bytes for the
#   position. It also keeps the beginnings of all rows and columns.
#
# For a small layer, the check compares your results with results that we computed by hand. For a second layer, it
# compares your result with the measured memory of a `SparseLinear`.


# %% tags=["exercise"]
def training_bytes(outputs, inputs, links, execution):
    """Bytes that a layer keeps while it trains. Write this function."""


# %% tags=["check"]
exercises.check("07.training_bytes", training_bytes)

# %% [markdown]
# <details><summary>Hint</summary>
#
# There is one beginning for each row and one for each column. Each of these two lists of beginnings has one more entry,
# for the end of the last row or column. See the section *Memory, by hand*.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def training_bytes(outputs, inputs, links, execution):
#     if execution == "links":
#         return links * (3 * 4 + 12) + 4 * (outputs + 1 + inputs + 1)
#     return outputs * inputs * (3 * 4 + (1 if execution == "masked" else 0))
# ```
#
# The last line of the code does not use the number of links: a mask saves no memory at any sparsity. The mask even
# needs one more byte per possible link.
# </details>

# %% [markdown]
# ## Exercise: when do links take more memory?
#
# *★☆☆ · 5 minutes · useful · objective 2 · work out*
#
# With Adam, a dense layer keeps four numbers of 4 bytes for each weight: the weight, its gradient and two moments. A
# layer that stores only its links keeps these four numbers and 12 more bytes for each link. Above which density does
# this layer take *more* memory than the dense layer? (Ignore the beginnings of rows and columns.)

# %% tags=["exercise"]
break_even = None

# %% tags=["check"]
exercises.check("07.break_even", break_even)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The dense layer takes 16 bytes for each possible link. The layer that stores only its links takes 28 bytes for each
# link that exists.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# break_even = 16 / 28  # 0.571...
# ```
# </details>

# %% [markdown]
# ## Exercise: predict the crossover
#
# *★★☆ · 15 minutes · essential · objective 3 · write code*
#
# You have measured the time of a csr layer at two densities: `first` and `second` are pairs of a density and a time.
# `dense` is the time of the dense layer. Suppose that the time of the csr layer is a fixed cost plus a cost
# proportional to the density. Return the density at which both layers take the same time. Return 0 if the dense layer
# is faster even when the csr layer has no links. Return 1 if the csr layer is faster at every density.


# %% tags=["exercise"]
def meeting_density(first, second, dense):
    """Density at which csr takes as long as the dense layer. Write this function."""


# %% tags=["check"]
exercises.check("07.meeting_density", meeting_density)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two points define a line. First compute its slope, then its value at density 0. At which density does the line reach
# `dense`?
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def meeting_density(first, second, dense):
#     slope = (second[1] - first[1]) / (second[0] - first[0])
#     fixed = first[1] - slope * first[0]
#     return min(max((dense - fixed) / slope, 0), 1)
# ```
#
# From the two sparsest measurements of the published page, this function predicts 29 % for 256 samples and 22 % for 32
# samples. On that page, the measured lines cross between 20 and 30 % for both numbers of samples. So both predictions
# fit. Timings change from run to run. In two earlier runs on machines of the same kind, the lines for 32 samples
# crossed between 10 and 20 %, and one prediction for 256 samples was 33 %, which was too high. Machines differ too: in
# a run on another machine, the lines crossed between 30 and 50 % for 256 samples, and between 20 and 30 % for 32
# samples.
# </details>

# %% [markdown]
# Try your function with the times of your machine. The next cell uses the two sparsest measurements of each batch size.
# The cell prints your prediction and the largest tested density at which csr was faster.

# %%
for samples, times in ((256, many), (32, few)):
    one, other, reference = times[0], times[1], times[0].dense
    met = meeting_density((one.density, one.links), (other.density, other.links), reference)
    won = max((row.density for row in times if row.links < row.dense), default=0)
    if met is not None:
        print(f"{samples} samples: predicted {met:.0%}; largest tested density at which csr was faster: {won:.0%}")

# %% [markdown]
# Two points that lie close together do not define a line well: a small error in one of the two times changes the slope
# a lot. Which two densities would you measure instead?
#
# ## Exercise: what no sparsity removes
#
# *★★☆ · 10 minutes · useful · objective 4 · work out*
#
# A cost meter shows two rows. The dense model takes 10 ms per step. The csr model needs 1 % of the FLOPs and takes 3
# ms. Suppose that a step has a fixed cost, which is the same in both rows. Suppose also that the rest of the time is
# proportional to the FLOPs. How large is the fixed cost, in milliseconds?

# %% tags=["exercise"]
fixed_cost = None

# %% tags=["check"]
exercises.check("07.fixed_cost", fixed_cost)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Call the fixed cost $f$. The arithmetic of the dense step takes $10 - f$ milliseconds.
# </details>
#
# <details><summary>Solution</summary>
#
# $f + 0.01 \cdot (10 - f) = 3$, so $f = 2.9 / 0.99$:
#
# ```python
# fixed_cost = 2.9 / 0.99  # 2.929... ms
# ```
#
# Even without any links, a step of the csr model takes 2.9 ms. So at every sparsity, this step is less than 3.5 times
# as fast as the dense step, even where the FLOPs fall by a factor of 100 or more.
# </details>

# %% [markdown]
# ## Exercise: backward by links
#
# *★★★ · 30 minutes · useful · objective 2 · write code*
#
# For $y = W x$ and a gradient $\partial L / \partial y$, compute the two gradients that the backward pass returns:
# $\partial L / \partial W_{ij}$ for the existing links only, and $\partial L / \partial x$. Use the `links` that
# `chts.linear.compress` returns, not the matrix: `links.outputs()` lists the output of each link, and
# `links.col_indices` lists its input. `x` has the shape (samples, inputs), and `dy` has the shape (samples, outputs).
# Return two tensors. The first tensor is the gradient with respect to the values of the links, summed over the samples.
# It has the shape (links,). The second tensor is the gradient with respect to `x`. The check compares both gradients
# with the gradients of autograd, and it checks that none of your tensors is as large as the matrix.


# %% tags=["exercise"]
def gradients(links, values, x, dy):
    """Gradients with respect to the values and to x. Write this function."""


# %% tags=["check"]
exercises.check("07.gradients", gradients)

# %% [markdown]
# <details><summary>Hint</summary>
#
# By hand, for one sample: $\partial L / \partial W_{ij} = (\partial L / \partial y_i) \, x_j$ and
# $\partial L / \partial x_j = \sum_i (\partial L / \partial y_i) \, W_{ij}$. `dy[:, outputs]` has one column per link.
# If an input has several links, you must add up the contributions of all these links (`parts`):
# `torch.zeros_like(x).index_add_(1, columns, parts)` adds them column by column.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def gradients(links, values, x, dy):
#     outputs, inputs = links.outputs(), links.col_indices.long()
#     at_links = dy[:, outputs]
#     by_values = (at_links * x[:, inputs]).sum(dim=0)
#     by_x = torch.zeros_like(x).index_add_(1, inputs, at_links * values)
#     return by_values, by_x
# ```
#
# This function transposes nothing: the same list of links works for both directions. But `SparseLinear` also keeps the
# links in another order, sorted by input. With this order, one thread can add up all contributions to the gradient with
# respect to an input, so two threads never write to the same place.
# </details>
#
# ## To discuss
#
# 1. You publish a sparse method. On your CPU, a layer that stores only its links is faster than a dense layer up to
#    some density. On a GPU, dense products are faster even at much lower densities. Which numbers would you report:
#    FLOPs, seconds or bytes? On which machine?
# 2. CHTss begins with half of all links and remembers the weights of the links that it removed. Would you choose CHTss
#    for training on a phone? What would you change first?
# 3. Engineers have optimized dense products for decades, but they have done little for sparse products. Should a method
#    be made for today's hardware, or should new hardware be made for a good method?
#
# ## Self-check
#
# 1. Why is a layer with a mask at 1 % density not faster than a dense layer?
#
# <details><summary>Answer</summary>
#
# The layer multiplies its input by the full matrix, including the zeros, and it also applies the mask.
# </details>
#
# 2. A csr layer with 1 % of its links does 1 % of the operations of a dense layer. Name two reasons why its time does
#    not also fall to 1 %.
#
# <details><summary>Answer</summary>
#
# First, looking up the input of each link takes more time than reading a matrix in order. Second, every call has a
# fixed cost in Python, autograd and the optimizer, which does not depend on the number of links.
# </details>
#
# 3. A layer keeps half of its links. Would you store only its links?
#
# <details><summary>Answer</summary>
#
# No. At this density, storing only the links does not make the layer faster. On the published page, a layer that stores
# only its links is faster than `nn.Linear` at densities up to 20 %, for batches of 256 samples and of 32 samples. Your
# own run may show a different limit. Storing only the links does not save memory at this density either: with momentum,
# a link takes 24 bytes, and a dense weight takes 12 bytes. So half of the links take as much memory as all weights of a
# dense layer.
# </details>
#
# 4. What does `execution="auto"` decide, and how?
#
# <details><summary>Answer</summary>
#
# It decides for each layer whether to multiply densely or link by link. To decide, it briefly measures on this machine
# at which density both ways take the same time.
# </details>
#
# ## Key takeaways
#
# - Masks are for research. To save time and memory, store only the links.
# - The densities at which sparse products are faster depend on the machine, the layer and the batch size. Measure these
#   densities.
# - The theoretical number of operations, the time and the memory are three different quantities. Report all three.
#
# ## Further reading
#
# - **A survey:** Hoefler et al., *Sparsity in deep learning: pruning and growth for efficient inference and training in neural
#   networks*, 2021, [arXiv 2102.00554](https://arxiv.org/abs/2102.00554).
# - **Training on a CPU, with only the links stored:** Curci et al., *Truly sparse neural networks at scale*, 2021.
# - **Sparse products on a GPU:** Gale et al., *Sparse GPU kernels for deep learning*, 2020,
#   [arXiv 2006.10901](https://arxiv.org/abs/2006.10901).
# - **Two non-zero weights out of every four:** Mishra et al., *Accelerating sparse deep neural networks*, 2021, [arXiv
#   2104.08378](https://arxiv.org/abs/2104.08378).
# - **Which ideas the hardware favours:** Hooker, *The hardware lottery*, 2020,
#   [arXiv 2009.06489](https://arxiv.org/abs/2009.06489).

# %%
records.publish(
    {
        "sparsity": settings.sparsity,
        "hidden": settings.hidden,
        "crossover": crossover,
        "layers": [{"samples": samples, **vars(row)} for samples, rows in ((256, many), (32, few)) for row in rows],
        "training": [{name: value for name, value in vars(cost).items() if name != "course"} for cost in meter],
    }
)
