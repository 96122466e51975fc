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
# # 10 · Scaling out
#
# **You will be able to**
#
# 1. train one sparse model in several processes, and say what the processes must agree on;
# 2. stop a run at any moment and continue it with a different number of processes;
# 3. describe a grid of runs and schedule it on workers;
# 4. estimate what a larger model will cost before you pay for it.
#
# | | |
# |---|---|
# | Prerequisites | stage 09 |
# | Time | 30 minutes to read, about two minutes to run on two cores |
# | Difficulty | ●●● |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), the sizes of its Table 2 |

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
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from chts_core.engine.distributed import Ranks
from chts_core.engine.weights import pack_bits
from chts_core.lab import figures, models
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.notebook.checks import toys
from chts_core.lab.results import records
from chts_core.lab.train import checkpoint, language, sweeps, tasks

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the seed of all runs
method: str = "chts"  # the method whose model is trained in two processes
sparsity: float = 0.9  # share of absent links, in [0.5, 1) because several methods start at 0.5
steps: int = 0  # training steps of the small model; 0 means the value of the profile
out_dir: str = ""  # folder of the runs; empty means a folder that is deleted at the end

# %%
settings = notebooks.start("10_scaling_out", profile, seed=seed, method=method, sparsity=sparsity, steps=steps)
temporary = tempfile.TemporaryDirectory()
folder = Path(out_dir or temporary.name)
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## One gradient from two halves
#
# A *rank* is one of several processes that train one model together. In the simplest method, each rank has a *copy* of
# the model and a part of each batch. After the backward pass, the ranks compute the **mean** of their gradients, and
# each rank receives this mean. This exchange is called an *all-reduce*. The whole method is called *data parallel*
# training (`DistributedDataParallel`, "DDP", in PyTorch).
#
# Compute the gradient of rank 0 by hand. The batch has four examples, and rank 0 gets examples 0 and 1. One output
# $y = w \cdot x$ has three possible links, and the third link is absent: $w = (1, 1, 0)$. The loss is the mean of $y^2$
# over the examples, so an example contributes the gradient $2 y x$. Example 0 is $(1, 2, 0)$. This example gives
# $y = 3$ and the gradient $(6, 12, 0)$. Example 1 is $(0, 1, 1)$. This example gives $y = 1$ and the gradient
# $(0, 2, 2)$. Rank 0 computes the mean of these two gradients, $(3, 7, 1)$.

# %%
weight = torch.tensor([1.0, 1, 0], requires_grad=True)
x = torch.tensor([[1.0, 2, 0], [0, 1, 1], [2, 0, 1], [1, 1, 1]])
halves = [torch.autograd.grad((part @ weight).square().mean(), weight)[0] for part in (x[:2], x[2:])]
(whole,) = torch.autograd.grad((x @ weight).square().mean(), weight)
mean = (halves[0] + halves[1]) / 2
print(f"rank 0 {halves[0].tolist()}, rank 1 {halves[1].tolist()}, mean {mean.tolist()}, whole batch {whole.tolist()}")
assert mean.tolist() == whole.tolist() == [4.5, 4.5, 2.5]

# %% [markdown]
# The mean of the gradients of the two ranks equals the gradient over the whole batch. So both copies of the model take
# the same step and stay equal.
#
# The third number of each gradient belongs to the absent link. RigL uses the gradients of absent links to choose the
# links that it regrows.
#
# The masks of the two ranks must be equal too. A *hash* is a short number that is computed from data. In practice,
# different masks have different hashes. So the ranks compare short hashes instead of whole masks:


# %%
def fingerprint(mask: torch.Tensor) -> str:
    return hashlib.sha256(pack_bits(mask).numpy()).hexdigest()[:8]


masks_of_ranks = [weight.detach() != 0, weight.detach() != 0]  # each rank computes its own
steps_of_ranks = [
    figures.RankStep(f"examples {words}", gradient.tolist(), fingerprint(own))
    for words, gradient, own in zip(("0 and 1", "2 and 3"), halves, masks_of_ranks, strict=True)
]
assert fingerprint(masks_of_ranks[0]) == fingerprint(masks_of_ranks[1]) != fingerprint(~masks_of_ranks[1])

# %%
figures.show(
    figures.ranks(*steps_of_ranks, mean.tolist()),
    "After the all-reduce, both ranks have the same mean, and the hashes of their masks are equal, although their "
    "own gradients differ. The drawing shows one step of two ranks.",
)

# %% [markdown]
# ## What a sparse method must not do
#
# RigL regrows the absent link whose gradient is largest in size (absolute value). Two ranks computed these gradients of
# three absent links:
#
# | link | rank 0 | rank 1 | mean |
# |---|---|---|---|
# | a | 5 | -5 | 0 |
# | b | 1 | 3 | 2 |
# | c | -2 | 1 | -0.5 |
#
# **Predict:** suppose that each rank looks only at its own gradients. Which link does rank 0 regrow, and which link
# does rank 1 regrow? Which link should both ranks regrow? Which link would the ranks regrow if they averaged the
# *sizes* of their gradients?

# %%
ranks = torch.tensor([[5.0, 1, -2], [-5, 3, 1]])
for name, gradient in {
    "rank 0": ranks[0],
    "rank 1": ranks[1],
    "mean": ranks.mean(0),
    "mean size": ranks.abs().mean(0),
}.items():
    print(f"{name:<10} regrows {'abc'[int(gradient.abs().argmax())]}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# With only their own gradients, both ranks would regrow *a*, although its gradient over the whole batch is 0. Any small
# change to the weight of *a* that helps one half of the batch hurts the other half. The right link is *b*. If the ranks
# averaged the sizes, they would also regrow *a*. Both mistakes have occurred in published code: ranks used only their
# own gradients, or they averaged the sizes of the gradients. Another mistake is to let each rank draw its new links
# with its own random numbers. Then the copies of the model differ, and no error message appears.
# </details>
#
# So the `Sparsifier` takes the mean of the *signed* gradients over the ranks. For random draws, all ranks use the same
# random numbers.
#
# ## Two processes, started from here
#
# `torchrun` starts a script in several processes that can exchange data. The first half of our script makes a small
# model in each rank, with the same initial weights:

# %%
setup = """
import hashlib, sys, torch, torch.distributed as dist
from torch import nn
import chts_core as chts
from chts_core.engine.weights import pack_bits

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
copy = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
sparsifier = chts.Sparsifier(copy, optimizer, "rigl", 0.9, total_steps=60, update_every=5)
"""

# %% [markdown]
# The second half trains the model. After each update, each rank prints a hash of its masks. In step 33, rank 1 flips
# every value in one row of a mask, as a memory error or a bug could do.

# %%
training = """
for step in range(1, 41):
    x = torch.randn(2, 8, 32)[rank]  # each has its half of the batch
    optimizer.zero_grad()
    copy(x).square().mean().backward()
    if step == 33 and rank == 1:
        sparsifier.masks["2.weight"][0] ^= True
    optimizer.step()
    sparsifier.step()
    if step % 5 == 0:
        bits = torch.cat([pack_bits(mask) for mask in sparsifier.masks.values()])
        sys.stdout.write(f"{step} {rank} {hashlib.sha256(bits.numpy()).hexdigest()[:8]}\\n")  # both write to one stream
        sys.stdout.flush()
"""
script = folder / "two_ranks.py"
_ = script.write_text(setup + training)

# %%
torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, env=environment, check=False)
lines = [line.split() for line in done.stdout.splitlines()]
hashes = pd.DataFrame(lines, columns=["step", "rank", "masks"]).astype({"step": int})
agreed = hashes.pivot(index="step", columns="rank", values="masks")
assert len(agreed) == 6, done.stderr
assert (agreed["0"] == agreed["1"]).all()
agreed

# %% [markdown]
# The masks changed in each of the six updates. After each update, both ranks had the same masks, although they saw
# different examples.
#
# The core does not simply trust that the masks of the ranks are equal. At each update, the ranks compare hashes of
# their masks, layer by layer. At the seventh update, the ranks found the row that rank 1 had flipped:

# %%
assert done.returncode != 0
told = [line for line in done.stderr.splitlines() if "not those of rank 0" in line]
refusal = told[0].partition("RuntimeError: ")[2].partition(" Build")[0]
print(refusal)

# %% [markdown]
# The run stopped at that update, and the error message named the layer. Without this check, the run would have
# continued. At the end, the run would have saved the model of rank 0. But the gradients that trained this model would
# have come partly from a different network.
#
# ## Sharing the update
#
# Link prediction takes time, and each layer evolves independently. So each rank updates some of the layers and sends
# the new masks of these layers to the other ranks. The layers are assigned one by one, from the largest to the
# smallest. Each layer goes to the rank that has the fewest weights so far. If several ranks have the fewest weights,
# the layer goes to the first of these ranks.
#
# **Predict:** two ranks share layers of 10, 4, 4 and 3 million weights. Which rank gets which layers?

# %%
two = Ranks(None, torch.device("cpu"))
two.size = 2
owners = two.owners({"a": 10, "b": 4, "c": 4, "d": 3})
print(owners)
assert owners == {"a": 0, "b": 1, "c": 1, "d": 1}

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Rank 0 gets layer *a*, which has 10 million weights. Rank 1 gets the other three layers, which have 11 million weights
# in total, so the shares are nearly equal.
# </details>
#
# The next cell applies the same rule to LLaMA-1B, which has more than a billion weights, on eight ranks:

# %%
billion = language.plan_run("chts", 0.7, language.RECIPES["1b"]).budget.shapes
eight = Ranks(None, torch.device("cpu"))
eight.size = 8
costs = {name: out * in_ for name, (out, in_) in billion.items()}
owners = eight.owners(costs)
loads = [sum(costs[name] for name in costs if owners[name] == rank) / 1e6 for rank in range(8)]
print("millions of weights per rank:", [round(load) for load in loads])

# %% [markdown]
# A mask stores one Boolean for each weight, and each Boolean takes one byte of memory. The ranks send each Boolean as a
# single bit. The ranks send only masks, because each rank already has the weights.

# %%
mask = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 1, 1], dtype=torch.bool)
print(mask.int().tolist(), "->", [f"{byte:08b}" for byte in pack_bits(mask).tolist()])
print(f"one update of LLaMA-1B: {sum(costs.values()) / 8 / 1e6:.0f} MB")

# %% [markdown]
# ## Kill a run and continue with fewer processes
#
# We run the training command of stage 09 in two processes. This command saves a checkpoint every few steps. We wait for
# the first checkpoint. Then we kill both processes without warning, with the signal SIGKILL. A power cut or a cluster's
# scheduler can also end a run without warning.

# %%
corpus = "python_reference"
asked = {
    "dataset": corpus,
    "method": settings.method,
    "sparsity": settings.sparsity,
    "seed": settings.seed,
    "device": "cpu",
}
command = ["train", "tiny_ci", "--save-every", "5", "-s", "steps", str(settings.steps)]
command += [word for name, value in asked.items() for word in (f"--{name}", str(value))]

# %%
cut = folder / "cut" / "checkpoint.safetensors"
process = subprocess.Popen(
    [*torchrun, "-m", "chts_core.cli", *command, "--out", str(cut.parent)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=environment,
    start_new_session=True,
)
while not cut.exists() and process.poll() is None:
    time.sleep(0.02)
os.killpg(process.pid, signal.SIGKILL)
process.wait()
killed_at = checkpoint.load(cut)["step"]
print(f"killed; the checkpoint was saved after step {killed_at} of {settings.steps}")

# %% [markdown]
# The program writes a checkpoint to a temporary file and then renames this file, so there is always one complete
# checkpoint. The checkpoint does not store the number of ranks. The next cell resumes the run in one process. Then the
# cell trains the same model again in an undisturbed run:

# %%
resumed, uncut = (
    tasks.train("tiny_ci", {**asked, "steps": settings.steps}, folder / name, save_every=5) for name in ("cut", "uncut")
)
rows = [
    {"run": name, **row["validation"][-1], "links": row["links"]}
    for name, row in (("killed, resumed", resumed), ("uncut", uncut))
]
pd.DataFrame(rows).style.hide(axis="index").format({"loss": "{:.4f}", "perplexity": "{:.2f}"})

# %%
ends = [checkpoint.load(folder / name / "checkpoint.safetensors") for name in ("cut", "uncut")]
masks = [end["sparsifier"]["masks"] for end in ends]
same = sum(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
print(f"{same} of {len(masks[0])} masks are exactly equal")
assert abs(resumed["validation"][-1]["loss"] - uncut["validation"][-1]["loss"]) < 0.02

# %% [markdown]
# Two processes do not add up the gradients of the examples in the same order as one process does, so the weights of the
# two runs differ in their last digits. But the resumed run and the undisturbed run use the same random numbers and the
# same batches. With the *same* number of processes and threads, a resumed run gives the same result as an undisturbed
# run, bit for bit. The tests of the package check this: they kill a run twenty times, at random moments.
#
# ## When a model does not fit
#
# Data parallel training needs the whole model on each GPU: the weights, their gradients and Adam's two moments. In
# float32, these four numbers take 16 bytes for each weight. *Fully sharded* training (`fully_shard`, "FSDP") gives each
# rank a share of the rows of each weight matrix. When a rank needs a whole layer, it collects the missing parts from
# the other ranks. When the rank has used the layer, it deletes these parts. The option `--parallel fsdp` selects this
# form of training. Each rank also stores every mask in full, with one byte per weight.

# %%
rows = []
for name in ("60m", "130m", "350m", "1b", "7b"):
    model = models.llama(language.RECIPES[name].vocabulary, models.LLAMA_SIZES[name], 256)
    weights = sum(weight.numel() for weight in model.parameters())
    maskable = sum(
        out * in_ for out, in_ in language.plan_run("set", 0.7, language.RECIPES[name]).budget.shapes.values()
    )
    row = {"size": name, "one GPU, or DDP": (16 * weights + maskable) / 2**30}
    row |= {f"FSDP, {ranks} GPUs": (16 * weights / ranks + maskable) / 2**30 for ranks in (2, 8, 64)}
    rows.append(row)
memory = pd.DataFrame(rows)
memory.style.hide(axis="index").format("{:.1f}", subset=list(memory.columns[1:])).set_caption(
    "GiB per GPU, without activations"
)

# %% [markdown]
# ## A grid of runs
#
# Comparisons need many runs that do not depend on each other. A *sweep* is a grid of parameters, and each cell of the
# grid is a run. The library Dask distributes the cells among workers. The workers are processes on this machine or on
# the machines of a cluster.

# %%
spec = {
    "train": "tiny_ci",
    "parameters": {"dataset": corpus, "steps": settings.sweep_steps, "device": "cpu"},
    "grid": {"method": ["fc", "set", "chts"], "sparsity": [0.7, 0.95], "seed": [settings.seed]},
}
print([cell.name for cell in sweeps.cells(spec)])

# %% [markdown]
# FC is always dense, so it runs only once for each seed. The sweep checks all cells before the first cell starts. The
# sweep keeps the results of finished cells. If a cell fails, the other cells still run. To continue a sweep that was
# stopped, call `sweeps.sweep` with the same arguments again.

# %%
results = sweeps.sweep(spec, folder / "sweep", workers=2)
rows_of_sweep = [
    {
        "cell": row["cell"],
        "status": row["status"],
        "perplexity": row["record"]["validation"][-1]["perplexity"],
        "seconds": row["record"]["seconds"],
    }
    for row in results
]
assert all(row["status"] == "done" for row in results)
pd.DataFrame(rows_of_sweep).style.hide(axis="index").format({"perplexity": "{:.1f}", "seconds": "{:.1f}"})

# %% [markdown]
# You can also describe a sweep in a file. `chts sweep` runs this sweep on this machine or on a cluster:
#
# ```
# chts sweep sweep.yaml --out runs/sweep                                        # workers on this machine
# chts sweep sweep.yaml --out /shared/sweep --scheduler tcp://192.168.1.2:8786  # workers of a running Dask cluster
# ```
#
# ## Slurm and Kubernetes
#
# Slurm and Kubernetes start jobs on the machines of a cluster. On Slurm, one task per machine (*node*) starts
# `torchrun`, which starts one process per GPU. If Slurm stops a job to make room for another job, Slurm puts the
# stopped job into the queue again, and the run continues later:
#
# ```
# #SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 --requeue
# head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# srun torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
#     -m chts_core.cli train 1b --dataset c4 --method chts --sparsity 0.7 --parallel fsdp --out /shared/1b
# ```
#
# For sweeps on Slurm, `dask-jobqueue` starts workers as Slurm jobs, and `SLURMCluster(...).scheduler_address` is the
# address that you pass to `--scheduler`. On Kubernetes, the PyTorch operator's `PyTorchJob` runs the same `torchrun`
# command. For sweeps on Kubernetes, the Dask operator's `DaskCluster` has a scheduler service. Pass the address of this
# service to `--scheduler`. All workers must have the same version of `chts`, and the output folder must have the same
# path on all of them. We have tried only `torchrun` and Dask, on one machine.
#
# ## What will it cost?
#
# Training a dense model with $N$ weights in its linear layers takes about $6N$ operations per token, plus some
# operations for attention (Chowdhery et al., 2022). For a single layer of 1000 × 1000 weights, $6N$ is 6 million
# operations per token. A machine can do $F$ operations per second. Training reaches only a share of $F$. This share is
# the *utilisation* (MFU):
#
# $$\text{seconds} = \frac{\text{tokens} \cdot \text{operations per token}}{F \cdot \text{MFU}}$$
#
# The *throughput* of a training run is the number of tokens that the run processes per second. The throughput times the
# operations per token gives the operations per second of the run. Consider the dense run of the sweep. As $F$, we take
# the operations per second of one large matrix product on the same number of threads. What share of $F$ does the run
# reach?

# %%
recipe = replace(language.RECIPES["tiny_ci"], steps=settings.sweep_steps)
dense = next(row["record"] for row in results if row["cell"].startswith("fc"))
operations = dense["tokens"] * language.operations_per_token(recipe)
rate = operations / dense["seconds"]
print(f"throughput: {dense['tokens'] / dense['seconds']:,.0f} tokens per second, threads: {dense['device']['threads']}")
print(f"{operations / 1e9:,.0f} billion operations in {dense['seconds']} s: {rate / 1e9:.1f} billion per second")
print(f"utilisation {dense['mfu']:.0%}; full utilisation would be {rate / dense['mfu'] / 1e9:.0f} billion per second")

# %% [markdown]
# The next table shows the paper's model sizes, each with the paper's number of tokens. For the column "days here", we
# divide the operations that the training needs by the operations per second of the dense run above. A worker of the
# sweep did this run, with the number of threads that is printed above. The estimate in days is for this number of
# threads, even if the notebook itself uses a different number of threads. Other programs on the same machine slow the
# run down and so increase the estimated number of days. Run this notebook on an idle machine before you use the table
# for planning. The column "one GPU, hours" is for a GPU with $989 \cdot 10^{12}$ operations per second (an H100 in
# bfloat16, according to its data sheet) at an *assumed* utilisation of 40 %. A model with masks on dense weights needs
# as many operations as the dense model.

# %%
rows = []
for name in ("60m", "130m", "1b"):
    asked = language.RECIPES[name]
    tokens = asked.steps * asked.batch * asked.context
    needed = tokens * language.operations_per_token(asked)
    flops = language.plan_run("chts", 0.7, asked).flops
    rows.append({"size": name, "tokens": tokens / 1e9, "days here": needed / rate / 86400})
    rows[-1] |= {"one GPU, hours": needed / (0.4 * 989e12) / 3600, "csr at 70 %": flops}

# %%
table = pd.DataFrame(rows)
table.style.hide(axis="index").format(
    {
        "tokens": "{:.1f} billion",
        "days here": "{:,.0f}",
        "one GPU, hours": "{:,.1f}",
        "csr at 70 %": "{:.0%}",
    }
)

# %% [markdown]
# The last column shows what share of the operations would remain at 70 % sparsity if absent links cost nothing. Few
# kinds of hardware can skip the operations of absent links. The estimated times are lower bounds, because loading data,
# saving checkpoints and evaluating the model on the validation text take extra time. We measured the operations per
# second with one small model on a CPU. We did not check the estimates on a GPU.
#
# ## Exercise: unequal halves
#
# *★★☆ · 10 minutes · useful · objective 1 · write code*
#
# Each rank computed the mean gradient of its part of the batch. Write a function that gets these gradients and the
# number of examples in each part. The function returns the gradient of the mean loss over the whole batch. Before you
# write the function, consider parts of 3 and 1 examples: is the plain mean of the two gradients right? (An all-reduce
# takes the plain mean. So our trainer refuses a batch that it cannot divide evenly among the ranks.)


# %% tags=["exercise"]
def whole_gradient(gradients: list[torch.Tensor], sizes: list[int]) -> torch.Tensor:
    """The gradient of the whole batch from the mean gradients of its parts. Write this function."""


# %% tags=["check"]
exercises.check("10.whole_gradient", whole_gradient)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The mean gradient of a part, times the number of its examples, is the sum of the gradients of its examples.
# </details>
#
# <details><summary>Solution</summary>
#
# The plain mean is right only if all parts have the same number of examples. With parts of 3 and 1, the plain mean
# counts the single example three times as much as each of the other three examples.
#
# ```python
# def whole_gradient(gradients: list[torch.Tensor], sizes: list[int]) -> torch.Tensor:
#     total = sum(size * gradient for gradient, size in zip(gradients, sizes, strict=True))
#     return total / sum(sizes)
# ```
# </details>
#
# ## Exercise: regrow the same links
#
# *★★☆ · 15 minutes · essential · objective 1 · write code*
#
# Write RigL's regrowth for several ranks. The function gets the gradients of all ranks and one mask, which is the same
# on all ranks. The function returns the mask with `number` more links. The new links are the absent links whose
# gradients over the whole batch are largest in size. All ranks have equal parts of the batch.


# %% tags=["exercise"]
def regrow(gradients: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
    """A mask with `number` more links, from gradients (ranks, outputs, inputs). Write this function."""


# %% [markdown]
# The check starts with two ranks and a mask with 8 places. Three places have links, and the gradient of each of these
# links is 9.

# %% tags=["check"]
exercises.check("10.regrow", regrow)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First take the mean over the ranks, and then the size of this mean. With `masked_fill`, give the existing links a
# value that is smaller than any size. Then use `topk` on the flattened tensor.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def regrow(gradients: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
#     sizes = gradients.mean(dim=0).abs().masked_fill(mask, -1)
#     grown = mask.flatten().clone()
#     grown[sizes.flatten().topk(number).indices] = True
#     return grown.view_as(mask)
# ```
# </details>
#
# ## Exercise: continue with fewer ranks
#
# *★★☆ · 15 minutes · essential · objective 2 · write code*
#
# The examples of an epoch are numbered from 0, in the order of training. Write a function that returns the indices of
# the examples that one rank takes in one step. Steps and ranks are numbered from 0, and `batch` is the number of
# examples that all ranks together take in one step. A run may continue with a different number of ranks after any step.
# The continued run must see the same batches as an undisturbed run. So the batch of a step must not depend on the
# number of ranks.


# %% tags=["exercise"]
def my_examples(step: int, batch: int, rank: int, ranks: int) -> list[int]:
    """The indices of the examples that one rank takes in one step. Write this function."""


# %% tags=["check"]
exercises.check("10.my_examples", my_examples)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Find the batch of the step first: the indices of the examples that a single process would take. Then distribute these
# indices evenly among the ranks.
# </details>
#
# <details><summary>Solution</summary>
#
# A checkpoint stores the number of steps, but no information about the ranks. Rank $r$ begins at example $r$ of the
# batch and takes every `ranks`-th example:
#
# ```python
# def my_examples(step: int, batch: int, rank: int, ranks: int) -> list[int]:
#     return list(range(step * batch + rank, (step + 1) * batch, ranks))
# ```
# </details>
#
# ## Exercise: continue exactly
#
# *★★★ · 20 minutes · essential · objective 2 · write code*
#
# A trial is a small run in one process. A trial has the attributes `model`, `optimizer` (Adam), `schedule` (of the
# learning rate), `sparsifier` and `generator` (which draws the batches). `trial.step()` does one training step and
# returns the loss. Write a function that saves a trial to a file, and a function that loads the file into a fresh
# trial. At first, the fresh trial has different weights, masks and random numbers. After it has loaded the file, the
# fresh trial must continue exactly like the undisturbed run: the losses must be equal bit for bit.
#
# `checkpoint.save(path, state)` writes a dict, and `checkpoint.load(path)` returns this dict. All attributes except the
# generator have the methods `state_dict()` and `load_state_dict(state)`. The generator has `get_state()` and
# `set_state(state)`. Load the Sparsifier last, because it compares its links with the loaded weights.

# %%
trial = toys.Trial(seed=0)
print([round(trial.step(), 3) for _ in range(5)])
print(sorted(trial.schedule.state_dict()))

# %% [markdown]
# A trial has these parts: `"weights"`, `"gradients"`, `"moments"` (in the optimizer), `"schedule"`, `"generator"` and
# `"masks"` (in the Sparsifier). Which of these parts are not needed between two steps? Decide on paper first. Then
# experiment: leave out one part at a time, and see whether the losses change.


# %% tags=["exercise"]
def save_run(trial, path):
    """Save all that the trial needs to continue. Write this function."""


def load_run(trial, path):
    """Load the file into a fresh trial. Write this function."""


not_needed = None  # a set of names

# %% [markdown]
# The check does 20 steps, saves the trial, does 20 more steps, and loads the file into a fresh trial. The fresh trial
# does 20 steps, and the check compares the losses.

# %% tags=["check"]
exercises.check("10.continued", save_run, load_run, not_needed)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Save the states of all five attributes of the trial. Load the Sparsifier last. The order of the other four attributes
# does not matter.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def save_run(trial, path):
#     parts = (trial.model, trial.optimizer, trial.schedule, trial.sparsifier)
#     checkpoint.save(path, {"parts": [part.state_dict() for part in parts], "generator": trial.generator.get_state()})
#
#
# def load_run(trial, path):
#     state = checkpoint.load(path)
#     trial.generator.set_state(state["generator"])
#     parts = (trial.model, trial.optimizer, trial.schedule, trial.sparsifier)
#     for part, saved in zip(parts, state["parts"], strict=True):
#         part.load_state_dict(saved)
#
#
# not_needed = {"gradients"}
# ```
#
# Each step sets the gradients to zero first, so the trial does not need the old gradients. Without the masks, the
# Sparsifier refuses to continue. It is more dangerous to leave out the generator, the moments or the schedule: the run
# changes, but no error is raised. Without the generator, the next loss differs. Without the moments, the next loss is
# still right, but the second loss differs. Without the schedule, the next two losses are still right, but the third
# loss differs. (The saved state of the optimizer contains the current learning rate, so the missing schedule has no
# effect on the next step.)
# </details>
#
# ## Exercise: a grid in words
#
# *★☆☆ · 10 minutes · essential · objective 3 · write code*
#
# "We compare SET, RigL and CHTs with FC, at 80 and 95 % sparsity, with the seeds 0 to 4." Write the `grid` of this
# sweep, and predict how many runs it has. The check passes your grid to `sweeps.cells` and trains nothing.

# %% tags=["exercise"]
grid = None  # a dict of lists
num_runs = None

# %% tags=["check"]
exercises.check("10.grid", grid, num_runs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The sweep in the section *A grid of runs* has a similar grid. FC is always dense.
# </details>
#
# <details><summary>Solution</summary>
#
# Three methods at two sparsities with five seeds give 30 runs, and FC adds five runs:
#
# ```python
# grid = {"method": ["fc", "set", "rigl", "chts"], "sparsity": [0.8, 0.95], "seed": [0, 1, 2, 3, 4]}
# num_runs = 3 * 2 * 5 + 5
# ```
# </details>
#
# ## Exercise: how long?
#
# *★★☆ · 10 minutes · essential · objective 4 · work out*
#
# A model with $10^9$ weights in its linear layers is trained on $2 \cdot 10^{10}$ tokens, on 8 GPUs. Each GPU can do
# $10^{15}$ operations per second, and the utilisation is 30 %. Ignore attention. How many hours does the training take?

# %% tags=["exercise"]
hours = None

# %% tags=["check"]
exercises.check("10.hours", hours)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The training needs $6 \cdot 10^9 \cdot 2 \cdot 10^{10} = 1.2 \cdot 10^{20}$ operations.
# </details>
#
# <details><summary>Solution</summary>
#
# At this utilisation, the 8 GPUs do $2.4 \cdot 10^{15}$ operations per second, so the training takes 50 000 seconds:
#
# ```python
# hours = 1.2e20 / (8 * 1e15 * 0.3) / 3600
# ```
# </details>
#
# ## Exercise: schedule a sweep within a budget
#
# *★★★ · 25 minutes · useful · objectives 3 and 4 · write code*
#
# A cluster gives you `workers` workers for `budget` hours. `costs[method]` is the number of hours that one run takes.
# Each method runs once with each of the seeds 0 to `seeds` - 1. Assign the runs one by one: first all methods with seed
# 0 in the order of `costs`, then all methods with seed 1, and so on. Each run goes to the worker that becomes free
# first. If several workers are free at the same time, the run goes to the worker with the lowest number. A run that
# would exceed the budget does not start, but a later run may still fit.
#
# Return the list of runs that start, as pairs (method, seed), and the *makespan*: the hour at which the last run ends.
# Check this example by hand: three methods whose runs take 3, 1 and 2 hours, two seeds, two workers and a budget of
# five hours.


# %% tags=["exercise"]
def schedule(costs: dict[str, float], seeds: int, workers: int, budget: float) -> tuple[list[tuple[str, int]], float]:
    """The runs that fit into the budget, as (method, seed), and the makespan in hours. Write this function."""


# %% tags=["check"]
exercises.check("10.schedule", schedule)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Keep a list with one number for each worker: the hour at which the worker becomes free. `free.index(min(free))` is the
# worker that becomes free first.
# </details>
#
# <details><summary>Solution</summary>
#
# Suppose that FC takes 3 hours, SET takes 1 hour and CHTs takes 2 hours. FC-0 runs on worker 0 until hour 3. SET-0 and
# then CHTs-0 run on worker 1, also until hour 3. FC-1 would end at hour 6, so it does not start. SET-1 ends at hour 4.
# CHTs-1 ends at hour 5, so the makespan is 5.
#
# ```python
# def schedule(
#     costs: dict[str, float], seeds: int, workers: int, budget: float
# ) -> tuple[list[tuple[str, int]], float]:
#     free, runs = [0.0] * workers, []
#     for seed in range(seeds):
#         for method, cost in costs.items():
#             first = free.index(min(free))
#             if free[first] + cost <= budget:
#                 free[first] += cost
#                 runs.append((method, seed))
#     return runs, max(free)
# ```
#
# In this schedule, FC has no run with seed 1, so you cannot compare SET-1 and CHTs-1 with FC. To keep all comparisons
# complete, start the runs with a seed only if all of them fit.
# </details>
#
# ## To discuss
#
# 1. The ranks compare hashes at each update, not at each step. What can go wrong between two updates, and what would it
#    cost to compare more often?
# 2. Link prediction needs no gradient, but RigL needs the gradients of all absent links, averaged over the ranks. Which
#    of the two methods is easier to share among a thousand ranks, and why?
# 3. A model with masks on dense weights costs as much as the dense model. For whom is it still worth training a sparse
#    model?
#
# ## Self-check
#
# 1. Why must the ranks average their gradients before they take the size?
#
# <details><summary>Answer</summary>
#
# A link that helps one half of the batch may hurt the other half. A single process would compute the size of the mean
# gradient over the whole batch. If each rank first computes the size of its own gradient, the mean of these sizes is a
# different number.
# </details>
#
# 2. Two ranks have different masks, and no check compares the masks. What is wrong with the model that is saved at the
#    end?
#
# <details><summary>Answer</summary>
#
# The saved model is the model of rank 0. The gradients of two different networks changed its weights, because the other
# rank trained a different network. The loss may still look normal.
# </details>
#
# 3. A run with four processes was killed. You now have only one process. What can you do, and what will differ?
#
# <details><summary>Answer</summary>
#
# Continue from the checkpoint with one process. The batches and the random numbers are the same as with four processes.
# But one process does not add up the gradients in the same order as four processes do, so the last digits of the
# weights differ. If two links have nearly the same score, such a small difference may change which of the two links is
# drawn.
# </details>
#
# 4. A sweep of 81 cells reports one failure. What happened to the other 80 cells?
#
# <details><summary>Answer</summary>
#
# The other 80 cells are finished and recorded. The folder of the failed cell contains the traceback of the error. Fix
# the cause, and start the same sweep again. This time, only the failed cell runs.
# </details>
#
# ## Key takeaways
#
# - Ranks average signed gradients, draw the same random numbers, and compare their masks at each update.
# - At an update, each rank updates some of the layers and sends the masks of these layers to the other ranks, with one
#   bit per weight.
# - A checkpoint does not store the number of ranks, so a run can continue with more or fewer ranks.
# - A sweep is a list of independent cells, and finished cells do not run again.
# - To estimate the time, count six operations per weight and token, and divide the total by the operations per second
#   that the machine reaches.
#
# ## Further reading
#
# - S. Li et al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training* (VLDB 2020),
#   [arXiv 2006.15704](https://arxiv.org/abs/2006.15704): how DDP averages gradients during the backward pass.
# - P. Goyal et al., *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour* (2017), [arXiv
#   1706.02677](https://arxiv.org/abs/1706.02677): how to set the learning rate for a large batch that many ranks share.
# - S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models* (SC 2020),
#   [arXiv 1910.02054](https://arxiv.org/abs/1910.02054): why each rank needs only a part of the optimizer's moments.
# - Y. Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel* (VLDB 2023), [arXiv
#   2304.11277](https://arxiv.org/abs/2304.11277): how to split a model that no single GPU can hold.
# - A. Chowdhery et al., *PaLM: Scaling Language Modeling with Pathways* (2022),
#   [arXiv 2204.02311](https://arxiv.org/abs/2204.02311): the definition of the utilisation (MFU).
# - U. Evci et al., *Rigging the Lottery: Making All Tickets Winners* (ICML 2020), [arXiv
#   1911.11134](https://arxiv.org/abs/1911.11134): the paper that introduced RigL.

# %%
temporary.cleanup()
records.publish(
    {
        "method": settings.method,
        "sparsity": settings.sparsity,
        "steps": settings.steps,
        "killed_at": killed_at,
        "equal_masks": same,
        "masks": len(masks[0]),
        "updates_agreed": len(agreed),
        "refused": refusal,
        "resumed_loss": resumed["validation"][-1]["loss"],
        "uncut_loss": uncut["validation"][-1]["loss"],
        "sweep": rows_of_sweep,
        "ranks": {"gradients": [half.tolist() for half in halves], "mean": mean.tolist()},
        "dense": {"operations": operations, "seconds": dense["seconds"], "threads": dense["device"]["threads"]},
        "costs": table.to_dict("records"),
    }
)
