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
# # 00 · Start here: why sparse?
#
# **You will be able to**
#
# 1. compute the cost of training and the share of this cost that sparse training could save;
# 2. distinguish the methods of recent decades by what they do with the mask;
# 3. count the links and the bytes that a sparse network stores;
# 4. choose your way through the stages.
#
# | | |
# |---|---|
# | Prerequisites | a first course in PyTorch: `nn.Linear`, an optimizer, a loss |
# | Time | 25 minutes to read, under a minute to run |
# | Difficulty | ●○○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), the whole paper at a glance |

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
from IPython.display import Markdown

from chts_core.lab import data, figures
from chts_core.lab.notebook import doctor, exercises, notebooks
from chts_core.lab.results import records
from chts_core.lab.train import images

print(records.environment_line(records.choose_device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of the initial weights, the networks and the order of the images
sparsity: float = 0.95  # share of absent links, in [0, 1)
epochs: int = 0  # epochs of training; 0 means the value of the profile
hidden: int = 0  # units per hidden layer; 0 means the value of the profile

# %%
settings = notebooks.start("00_start_here", profile, seed=seed, sparsity=sparsity, epochs=epochs, hidden=hidden)

# %% [markdown]
# ## What does training cost?
#
# Take a language model with a billion weights. For each token of text, the forward pass does one multiplication and one
# addition per weight. The backward pass takes twice as many operations as the forward pass. So training takes about 6
# operations (FLOPs) per weight and token ([Kaplan et al., 2020](https://arxiv.org/abs/2001.08361)). Training with Adam
# needs four numbers of 4 bytes for each weight: the weight, its gradient and the two moments of Adam. The authors of
# the paper train such a model for 100,000 steps, and each step uses 512 sequences of 256 tokens.
#
# Now suppose that only 5 % of the weights exist. We call an existing weight a **link**. A sparse model must also store
# the position of each link. During training, this package stores 12 bytes for the position of a link (stage 07 explains
# why). In a file, the position needs only 4 bytes.
#
# **Predict:** does the sparse model need 5 % of the operations of the dense model? Does the sparse model need 5 % of
# the memory of the dense model?

# %%
TOKENS = 100_000 * 512 * 256
costs = [
    {
        "links": f"{links:,}",
        "operations": f"{6 * links * TOKENS:.1e}",
        "days at 10¹⁴ operations per second": f"{6 * links * TOKENS / 1e14 / 86_400:.1f}",
        "memory (GB)": f"{links * bytes_each / 1e9:.1f}",
    }
    for links, bytes_each in ((1_000_000_000, 16), (50_000_000, 16 + 12))
]
Markdown(notebooks.as_markdown(costs))

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The number of operations falls to 5 %, so the training time falls from 9.1 days to 0.5 days. The memory falls from 16
# GB to 1.4 GB. So the sparse model needs almost 9 % of the memory, and not 5 %, because it also stores the position of
# each link. The time of 0.5 days assumes a machine that skips absent links. Most machines cannot skip absent links yet,
# as you will read below.
# </details>
#
# ## Why could fewer links be enough?
#
# ### Prune a trained network
#
# Trained networks have more weights than they need. In 1989, LeCun, Denker and Solla removed weights from a trained
# network (*Optimal Brain Damage*, NeurIPS). [Han et al. (2015)](https://arxiv.org/abs/1506.02626) removed the small
# weights and then trained the remaining weights again. [Zhu and Gupta (2017)](https://arxiv.org/abs/1710.01878) removed
# small weights gradually during training (gradual magnitude pruning, GMP). All three methods are **pruning** methods.
# Pruning makes the final network smaller. But training starts with many or all links, and these links cost operations
# and memory.
#
# ### Start sparse
#
# A **mask** says which links exist. Can we choose the mask before training? In the *lottery ticket* experiments of
# [Frankle and Carbin (2019)](https://arxiv.org/abs/1803.03635), some sparse networks learned as well as the dense
# network. But the masks of these networks came from a dense network that had already been trained. A mask that never
# changes is **static**. If a static mask lacks a useful link, training cannot add this link.
#
# ### Change the mask
#
# **Dynamic sparse training** changes the mask during training. It removes some links and regrows other links elsewhere.
# So the network can try many more links in total than it holds at any one time.
#
# - [SET](https://arxiv.org/abs/1707.04780) (2018) removes small weights and regrows links at random.
# - [RigL](https://arxiv.org/abs/1911.11134) (2020) regrows links where the gradient is large. The authors report that
#   RigL reaches a higher accuracy on ImageNet than static masks do.
# - [MEST](https://arxiv.org/abs/2110.14032) (2021) keeps more links than the final number until the last update.
# - [GraNet](https://arxiv.org/abs/2106.10404) (2021) prunes gradually, and it also replaces some links with new ones.
# - CHT (Cannistraci-Hebb training; Zhang et al., ICLR 2024) uses network science. CHT counts short paths to predict
#   which missing links are most likely to appear.
# - CHTs turns such predictions into a chance for each missing link, and it draws the new links at random with these
#   chances. This random choice is called the *soft rule*. CHTss also lets the number of links fall along a sigmoid
#   curve. CHTs and CHTss come from the paper of this course ([Zhang et al., NeurIPS
#   2025](https://arxiv.org/abs/2501.19107)).

# %%
figures.show(
    figures.timeline(),
    "Older methods choose the links after training, and newer methods choose them during training. From 2017 on, all "
    "methods except the lottery ticket choose links while the weights learn.",
)

# %% [markdown]
# ## See it work
#
# Three networks learn to read handwritten digits of 8×8 pixels. The networks have the same number of neurons, and they
# see the same images in the same number of steps. The dense network (FC, fully connected) has all possible links. The
# other two networks have 5 % of the possible links in their hidden layers. CHTs changes its mask during training. The
# static network keeps the initial mask of CHTs.
#
# **Predict:** how many percentage points of accuracy does CHTs lose compared with the dense network? Does the static
# network lose more than CHTs? Write down both answers, and then run the next two cells.

# %%
task = data.load_images("digits")
recipe = images.Recipe(hidden=settings.hidden, epochs=settings.epochs, learning_rate=0.05)
dense = images.train(task, "fc", 0.0, recipe, seed=settings.seed)
sparse = images.train(task, "chts", settings.sparsity, recipe, seed=settings.seed)
static = images.train(task, "chts with turnover=Turnover(zeta=0.0)", settings.sparsity, recipe, seed=settings.seed)
figures.show(
    figures.dense_and_sparse(dense, sparse),
    "With few links, CHTs comes close to the dense network (left). The picture on the right shows the links of the "
    "first hidden layer of CHTs after training. Absent links are white.",
)

# %%
for name, run in (("dense", dense), ("CHTs", sparse), ("static", static)):
    links = sum(int(mask.sum()) for mask in run.last_masks.values())
    print(f"{name:<6} {links:>7,} links in the hidden layers, validation accuracy {run.validation_accuracy[-1]:.1%}")
print(f"CHTs loses {100 * (dense.validation_accuracy[-1] - sparse.validation_accuracy[-1]):.1f} percentage points")
print(f"CHTs held {sparse.density:.1%} of the possible links at any time and tried {sparse.itop:.1%} in total")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# CHTs loses 0.6 percentage points with the profile `laptop`, although only one in twenty possible links exists at any
# time. With the profile `ci`, CHTs loses more, because it trains for only 4 epochs. The static network does about as
# well as CHTs. So this small task does not show that a dynamic mask is better. For digits of 8×8 pixels, the initial
# mask of CHTs is good enough. And one run of each network cannot prove a ranking. Stage 06 compares methods on test
# images, over several seeds and with confidence intervals.
# </details>
#
# ## What hardware cannot do yet
#
# Most programs for sparse training store a mask as a matrix of zeros and ones. They multiply the weights by this
# matrix, and then they compute with all weights, including the zeros. So a mask alone saves no time and no memory.
# Stage 07 stores only the existing links and measures the savings on your CPU. GPUs are made for dense blocks of
# numbers. The **sparsity** of a network is the share of its possible links that do not exist. According to published
# reports, scattered links save time on a GPU only above a sparsity of about 95 % to 98 %. We have not measured this
# limit ourselves. Some GPUs accelerate one fixed pattern: two of every four weights are zero. This pattern always has a
# sparsity of 50 %. The time of 0.5 days in the table above assumes that the machine skips every absent link. Real
# machines need more time.
#
# ## What the brain does, and where the analogy ends
#
# In the human frontal cortex, the density of synapses is highest at an age of one to two years. At this age, the
# density is about 50 % above the adult value. It then falls until the age of about 16 years ([Huttenlocher,
# 1979](https://doi.org/10.1016/0006-8993%2879%2990349-4)). In the adult mammalian brain, some synapses still disappear
# and new ones appear, while the density of the synapses stays about the same ([Holtmaat and Svoboda,
# 2009](https://doi.org/10.1038/nrn2699)). Sparse training and the brain have three things in common: few links,
# turnover (some links disappear and new ones appear), and, in methods such as CHTss, more links at the start than at
# the end.
#
# The analogy ends with these three points. Our networks learn by backpropagation. We update the mask at fixed steps,
# and each update compares all weights of a layer. A synapse has only local information and can change at any time. A
# good result of CHTs teaches us something about artificial networks. But such a result does not show how a brain
# learns.
#
# ## The map
#
# Each stage is a notebook. A stage explains one idea after another, and each idea starts with an example that is small
# enough to check by hand. The next cell makes a table of all stages. The table shows how many minutes and how much
# memory each stage needs with the profile of this run.

# %%
stages = notebooks.overview(settings.profile)
Markdown(
    notebooks.as_markdown(
        [
            {
                "stage": f"[{stage.number} {stage.title}]({stage.file})",
                "you will be able to": stage.goal,
                "level": stage.difficulty,
                "minutes": f"{stage.minutes:.2g}",
                "MB": str(stage.memory_mb),
            }
            for stage in stages
        ]
    )
)

# %%
figures.show(
    figures.stages(stages),
    "Stages 01 to 05 teach the parts of a method, stage 06 puts them together, and all later stages build upon it. You "
    "can read the stages of one column in any order.",
)

# %% [markdown]
# **For a lecture:** stages 02 and 03 explain the heart of the method. If you have time to show only one experiment,
# show stage 06. Stage 06b suits a lab session. The command `chts exercises` writes student versions of all notebooks,
# without solutions or outputs.
#
# ## Before you go on
#
# A **profile** sets the size of a run. The profiles `ci`, `binder` and `laptop` need no GPU. The profiles `gpu` and
# `paper` are made for a GPU. The page [Using the notebooks](../docs/guides/using_the_notebooks.md) (in the repository:
# `docs/guides/using_the_notebooks.md`) explains profiles, commands, keyboard shortcuts and every term of the course.
# The command `chts glossary` prints the explanations of the terms.
#
# The next cell checks your installation. You need no download: the digits come with scikit-learn.

# %%
print(doctor.report(places=False))

# %% [markdown]
# ## Exercise: density from sparsity
#
# *★☆☆ · 2 minutes · essential · objective 3 · work out*
#
# All exercises look like this one. The line above says how hard the exercise is, how long it takes, how important it
# is, which objectives of this stage it covers, and whether you work out an answer or write code. If your answer is
# wrong, you get a hint, so just try.
#
# The **density** of a layer is the share of its possible links that exist. A layer has a sparsity of 0.95. What is its
# density? Replace `None` with your answer, and run the next two cells.

# %% tags=["exercise"]
density = None

# %% tags=["check"]
exercises.check("00.density", density)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Each possible link is either present or absent.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# density = 0.05
# ```
# </details>

# %% [markdown]
# ## Exercise: count the links
#
# *★☆☆ · 4 minutes · essential · objective 3 · work out*
#
# The first layer of the paper's MLP for MNIST has 1568 outputs, 784 inputs and a sparsity of 99 %. How many links does
# this layer have? Round to the nearest integer, as the core does. (The *core* is the package `chts_core`, which all
# notebooks use.)

# %% tags=["exercise"]
links = None

# %% tags=["check"]
exercises.check("00.links", links)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The number of possible links is the number of outputs times the number of inputs. Multiply this number by the density.
# </details>
#
# <details><summary>Solution</summary>
#
# $0.01 \cdot 1568 \cdot 784 \approx 12293$
#
# ```python
# links = round(0.01 * 1568 * 784)
# ```
# </details>

# %% [markdown]
# ## Exercise: what a training step costs
#
# *★★☆ · 12 minutes · essential · objective 1 · write code*
#
# The paper's MLP for MNIST has layers of 784, 1568, 1568, 1568 and 10 neurons. All its linear layers are sparse except
# the last one, which stays dense. Write a function that counts the FLOPs of one training step: for each image of the
# batch, every link takes 6 FLOPs. Round the number of links of each layer to an integer.
#
# Suppose that the sparse layers keep 1 % of their possible links. **First guess:** does a step need 1 % of the FLOPs
# that the dense network needs, or more? The check prints the exact share.


# %% tags=["exercise"]
def step_flops(neurons: list[int], density: float, batch: int) -> int:
    """The FLOPs of a training step; `neurons` holds the size of each layer, inputs first. Write this function."""


# %% tags=["check"]
exercises.check("00.step_flops", step_flops)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `zip(neurons, neurons[1:])` gives one pair for each linear layer: the number of inputs and the number of outputs.
# Treat the last pair separately.
# </details>
#
# <details><summary>Solution</summary>
#
# At a density of 1 %, a step needs 1.25 % of the FLOPs that the dense network needs. At a density of 0.1 %, a step
# would need 0.35 %, because the dense last layer of ten neurons then costs more than all other layers together.
#
# ```python
# def step_flops(neurons: list[int], density: float, batch: int) -> int:
#     possible = [inputs * outputs for inputs, outputs in zip(neurons, neurons[1:])]
#     links = sum(round(density * number) for number in possible[:-1]) + possible[-1]
#     return 6 * links * batch
# ```
# </details>

# %% [markdown]
# ## Exercise: store a sparse model
#
# *★★☆ · 8 minutes · useful · objectives 1 and 3 · write code*
#
# In a file, a sparse model needs two numbers of 4 bytes for each link: the value and the position. The paper's LLaMA-1B
# has 24 blocks. The attention of a block has four layers, each with 2048×2048 possible links. The feed-forward part of
# a block has three layers, each with 2048×5461 possible links. Write a function that returns the number of links of a
# model and the number of bytes that these links take in a file. The check prints the result of your function for
# LLaMA-1B at a density of 5 %.


# %% tags=["exercise"]
def stored(possible: int, density: float) -> tuple[int, int]:
    """The number of links, and the bytes that their values and positions take. Write this function."""


# %% tags=["check"]
exercises.check("00.stored", stored)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Round the number of links to an integer first. Then multiply this number by the number of bytes that one link takes.
# </details>
#
# <details><summary>Solution</summary>
#
# LLaMA-1B keeps 60,395,520 of 1,207,910,400 possible links. These links take 483 MB, while all weights of the dense
# model take 4,832 MB. So 5 % of the links take 10 % of the bytes of the dense model.
#
# ```python
# def stored(possible: int, density: float) -> tuple[int, int]:
#     links = round(density * possible)
#     return links, links * (4 + 4)
# ```
# </details>

# %% [markdown]
# ## Exercise: read the history of a mask
#
# *★★☆ · 12 minutes · essential · objective 2 · write code*
#
# Somebody saved the mask of a layer before training and after each update. Write a function that takes this list of
# masks and returns one of three words:
#
# - `"static"`: the mask never changes;
# - `"pruning"`: links disappear, but no link appears;
# - `"dynamic"`: at least one update adds a link that the previous mask did not have.
#
# **First guess:** is it enough to count the links of each mask?


# %% tags=["exercise"]
def kind(masks: list[torch.Tensor]) -> str:
    """The kind of training that made these Boolean masks, "static", "pruning" or "dynamic". Write this function."""


# %% tags=["check"]
exercises.check("00.kind", kind)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Compare each mask with the next one. `after & ~before` marks the links that appear.
# </details>
#
# <details><summary>Solution</summary>
#
# Counting is not enough. With SET, the number of links never changes, yet SET is dynamic. CHTss ends with fewer links
# than it began with, yet it regrows links during training.
#
# ```python
# def kind(masks: list[torch.Tensor]) -> str:
#     pairs = list(zip(masks, masks[1:]))
#     if any((after & ~before).any() for before, after in pairs):
#         return "dynamic"
#     return "pruning" if any((before & ~after).any() for before, after in pairs) else "static"
# ```
# </details>

# %% [markdown]
# ## Exercise: who regrew these links?
#
# *★☆☆ · 6 minutes · useful · objective 2 · work out*
#
# Four runs trained the same network: one with SET, one with RigL, one with CHT and one with CHTs. At the same update,
# each run regrew two of these missing links:
#
# | missing link | a | b | c | d | e | f |
# |---|---|---|---|---|---|---|
# | size of its gradient | 0.9 | 0.1 | 0.7 | 0.2 | 0.1 | 0.3 |
# | number of short paths between its two ends | 1 | 6 | 0 | 4 | 0 | 5 |
#
# Run 1 regrew a and c, run 2 regrew b and f, run 3 regrew b and d, and run 4 regrew c and e. Here the score of a link
# is the number of short paths between its two ends. CHT always takes the links with the highest scores. CHTs draws
# links at random, but a link with a higher score has a higher chance of being drawn. CHTs draws a link with score 0
# only if no other link is left. Which method is which?

# %% tags=["exercise"]
regrown_by = {"run 1": None, "run 2": None, "run 3": None, "run 4": None}  # "SET", "RigL", "CHT" or "CHTs"

# %% tags=["check"]
exercises.check("00.regrown_by", regrown_by)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Begin with link e. Which of the four methods can regrow a link with a small gradient and no path?
# </details>
#
# <details><summary>Solution</summary>
#
# Links a and c have the largest gradients, so run 1 is RigL. Links b and f have the most paths, so run 2 is CHT. Only
# SET can regrow link e, so run 4 is SET. The remaining run, run 3, is CHTs: both links of this run have paths, but they
# are not the two links with the most paths.
#
# ```python
# regrown_by = {"run 1": "RigL", "run 2": "CHT", "run 3": "CHTs", "run 4": "SET"}
# ```
# </details>

# %% [markdown]
# ## Exercise: choose your way
#
# *★★☆ · 10 minutes · optional · objective 4 · write code*
#
# You want to read one stage, such as stage 09 on LLaMA. Which stages must you read before it? Each stage names the
# stages that it builds upon, and those stages name other stages. Write a function that returns all stages that you
# need, in the order of the course.

# %%
needs = {stage.number: stage.prerequisites for stage in stages}
print("stage 09 names", *needs["09"])


# %% tags=["exercise"]
def needed(target: str, needs: dict[str, tuple[str, ...]]) -> list[str]:
    """All stages that you must read before `target`, in the order of `needs`. Write this function."""


# %% tags=["check"]
exercises.check("00.needed", needed, needs=needs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Begin with the stages that `target` builds upon. Add the stages that these stages build upon, and repeat this step
# until you find no new stage.
# </details>
#
# <details><summary>Solution</summary>
#
# Stage 09 needs all stages before it except 06b, 07 and 08b.
#
# ```python
# def needed(target: str, needs: dict[str, tuple[str, ...]]) -> list[str]:
#     found = set(needs[target])
#     while more := {before for stage in found for before in needs[stage]} - found:
#         found |= more
#     return [stage for stage in needs if stage in found]
# ```
# </details>
#
# ## To discuss
#
# These questions have no single answer.
#
# - The static network did as well as CHTs on the digits. On which task would you expect a difference, and which
#   experiment would convince you?
# - The GPUs of your computing centre are fast only for dense networks. Is it still worth studying methods that save
#   operations?
# - A newspaper writes that CHTs "learns like the brain". Which parts of this sentence would you keep?

# %% [markdown]
# ## Self-check
#
# 1. All three networks of this stage have the same number of neurons. But another number is smaller for CHTs than for
#    the dense network. Which number is it? And what changes during the training of CHTs besides the weights?
#
# <details><summary>Answer</summary>
#
# CHTs has fewer links: 5 % of the possible links in its hidden layers. The mask also changes: updates remove some links
# and regrow others, but the number of links stays the same.
# </details>
#
# 2. A colleague says: "sparsity 0.9, so a tenth of the links is gone." What is wrong?
#
# <details><summary>Answer</summary>
#
# Sparsity is the share of *absent* links: nine tenths are gone, and one tenth is left.
# </details>
#
# 3. A mask keeps 5 % of the links of a network. Why does the network not train twenty times as fast as a dense network?
#
# <details><summary>Answer</summary>
#
# Most programs still compute with all weights, including the zeros. To save time, a program must store only the
# existing links, and the machine must compute with these links quickly.
# </details>
#
# 4. What does pruning after training save, and what does it not save?
#
# <details><summary>Answer</summary>
#
# The final network has fewer links, so it needs fewer operations and less memory. But training used all links, so
# pruning saves no training cost.
# </details>
#
# ## Key takeaways
#
# - A billion weights are expensive to train. On a machine that skips absent links, training with 5 % of the links would
#   need only 5 % of the operations.
# - Pruning starts with many links and only removes links. Dynamic sparse training also regrows links while the weights
#   learn.
# - CHTs uses network science to choose links and keeps their number fixed. CHTss lets the number of links fall.
# - Each stage starts with an idea, continues with a number that you can check by hand, and ends with larger networks.
#
# ## Further reading
#
# - Hoefler et al. (2021), [*Sparsity in Deep Learning*](https://arxiv.org/abs/2102.00554): a survey; use it to look up
#   methods.
# - Frankle and Carbin (2019), [*The Lottery Ticket Hypothesis*](https://arxiv.org/abs/1803.03635): a clear question and
#   a simple experiment.
# - Mocanu et al. (2018), [SET](https://arxiv.org/abs/1707.04780): the start of dynamic sparse training, and its
#   relation to network science.
# - Evci et al. (2020), [RigL](https://arxiv.org/abs/1911.11134): why training can escape from a poor solution if the
#   mask changes.
# - Hooker (2020), [*The Hardware Lottery*](https://arxiv.org/abs/2009.06489): how machines decide which ideas succeed.
# - Holtmaat and Svoboda (2009), [a review](https://doi.org/10.1038/nrn2699): how synapses appear and disappear in the
#   adult brain.
#
# Next: [01 Networks as masks](01_networks_as_masks.ipynb).

# %%
records.publish(
    {
        "sparsity": settings.sparsity,
        "costs": costs,
        "stages": [{"stage": stage.number, "minutes": stage.minutes} for stage in stages],
        "runs": [images.as_row(run) for run in (dense, sparse, static)],
    }
)
