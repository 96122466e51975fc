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
# # 00 · Start here
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SET_THE_OWNER/chts/blob/v0.1.0/notebooks/00_start_here.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/SET_THE_OWNER/chts/v0.1.0?urlpath=lab/tree/notebooks/00_start_here.ipynb)
#
# **You will be able to** say what sparse training is, see it work in seconds, choose your way through the stages, run any
# of them at the size that suits your machine, and find the meaning, the formula and the code of every term.
#
# | | |
# |---|---|
# | Prerequisites | a first course in PyTorch: `nn.Linear`, an optimizer, a loss |
# | Time | 15 minutes to read, under a minute to run |
# | Difficulty | ●○○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), the whole of it at a glance |

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
from IPython.display import Markdown

import chts_core as chts
from chts_core.lab import data, figures
from chts_core.lab.notebook import doctor, exercises, glossary, notebooks
from chts_core.lab.results import records
from chts_core.lab.train import images

print(records.environment_line(records.choose_device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper: how large the run is; empty: $CHTS_PROFILE, or laptop
seed: int = 0  # of the initial weights, the networks and the order of the images
sparsity: float = 0.95  # share of absent links, in [0, 1)
epochs: int = 0  # of training; 0: as the profile says
hidden: int = 0  # units per hidden layer; 0: as the profile says

# %%
settings = notebooks.start("00_start_here", profile, seed=seed, sparsity=sparsity, epochs=epochs, hidden=hidden)

# %% [markdown]
# ## What is sparse training?
#
# A brain connects each neuron to few others, and changes which. An artificial network usually connects all to all. In
# **sparse training** most links of a layer are absent, from the first step on or after a first part in which they are
# thinned out (stage 05): training adjusts the weights of the links there are, and every now and then it *removes* some
# links and *regrows* others elsewhere. So it learns the wiring along with the weights.
#
# The methods here are called CHTs and CHTss (Cannistraci-Hebb training with a **s**oft rule, and with **s**igmoid density
# decay). They take both decisions from network science: which links matter, and where a missing one is likely.
#
# Two networks learn to read handwritten digits, 8×8 pixels each: a dense one (FC, fully connected), and one that has 5 % of
# the links in its hidden layers, trained by CHTs. Same number of neurons, same number of steps, same images.
#
# **Predict:** how many percentage points of accuracy does the sparse one lose? Write a number down, then run the next two
# cells.

# %%
task = data.load_images("digits")
recipe = images.Recipe(hidden=settings.hidden, epochs=settings.epochs, learning_rate=0.05)
dense = images.train(task, "fc", 0.0, recipe, seed=settings.seed)
sparse = images.train(task, "chts", settings.sparsity, recipe, seed=settings.seed)
figures.show(
    figures.dense_and_sparse(dense, sparse),
    "Left: validation accuracy of the dense and the sparse network after each epoch. Right: the links of the first hidden "
    "layer after training; what is white is absent.",
)

# %%
for run in (dense, sparse):
    links = sum(int(mask.sum()) for mask in run.last_masks.values())
    print(
        f"{run.method:<5} {links:>7,} links in the hidden layers, {run.validation_accuracy[-1]:.1%} of validation images"
    )
print(f"the sparse network loses {100 * (dense.validation_accuracy[-1] - sparse.validation_accuracy[-1]):.1f} points")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Little is lost, a few points at most, though only one in twenty possible links of the hidden layers existed at any
# time. One run of each proves no ranking: stage 06 races methods over several seeds, with intervals, and on test
# images. And nothing was *faster* here: a mask alone saves no time. Stage 07 stores only the links, and measures what
# that saves.
# </details>
#
# ## The map
#
# Each stage is a notebook: one idea after the other, each first at a size where you can check it by hand. The table is made
# from the notebooks themselves; minutes and memory are what a run at this profile is expected to take.

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
    "What leads to what: an arrow goes from a stage to those that build upon it. Stages in one column can be read in any "
    "order.",
)

# %% [markdown]
# **For a lecture:** 02 and 03 are the heart of the method; 06 is the experiment to show if there is time for only one; 06b is
# for the lab. The reading time of each stage is in its header. `chts exercises` writes all notebooks without solutions and outputs, to hand out.
#
# ## Is everything here?
#
# What this Python has, what the machine has, and which data sets are found. On the command line, `chts doctor` tells the
# same, and in which folders data is found.

# %%
print(doctor.report(places=False))

# %% [markdown]
# Nothing has to be downloaded: the digits come with scikit-learn. Larger data sets are asked for by parameter; if one is
# missing, the error says what was tried and how to get it.
#
# ## How to read a notebook
#
# - Run the cells from top to bottom: Shift+Enter runs one and goes to the next. *Run all* takes the minutes of the table.
# - *Predict* asks you a question before a cell answers it. Do answer, on paper: a wrong guess teaches more than a right
#   answer read. The fold *What you should have seen* follows; click on it, or go there with Tab and press Enter.
# - **Exercises** have a cell to complete and a cell that checks. The check never stops the notebook: it says "Correct." or
#   "Not yet" and what to think about. Below are a hint and a solution, folded.
# - **Widgets** have sliders and menus. With the keyboard: Tab goes from one to the next, the arrow keys move a slider, and
#   Home and End choose the first and the last entry of a menu (JupyterLab keeps the arrow keys for going from cell to
#   cell). Below the picture stands a sentence that tells it in numbers. Without a running kernel nothing moves, so a fixed
#   picture of the first state follows.
# - Every figure has a description below it, which a screen reader reads as well.
#
# ## How large is a run?
#
# A **profile** sets sizes, seeds and epochs of every stage. `ci` is the smallest, made to check that all works; `binder` is
# for small servers; `laptop` is what you see in the notebooks as they are published; `gpu` and `paper` ask for an
# accelerator and go towards the sizes of the paper. A profile that nobody has measured, and a run whose parameters you change,
# is reckoned from its operations before it starts. Minutes expected on 2 CPU cores:

# %%
PROFILES = ("ci", "binder", "laptop")
by_profile = {name: [stage.minutes for stage in notebooks.overview(name)] for name in PROFILES}
rows = [
    {"stage": stage.number, **{name: f"{by_profile[name][place]:.2g}" for name in PROFILES}}
    for place, stage in enumerate(stages)
]
total = {name: f"{sum(minutes):.1f}" for name, minutes in by_profile.items()}
Markdown(notebooks.as_markdown([*rows, {"stage": "all", **total}]))

# %% [markdown]
# In Jupyter, change `profile` in the cell of parameters near the top, or any other parameter, and run all. On the command
# line:
#
# | command | what it does |
# |---|---|
# | `chts list` | lists the notebooks and their parameters |
# | `chts run 06 --profile ci -p seeds 1` | runs stage 06 at profile `ci` with one seed |
# | `chts tour --profile ci` | runs all stages and writes pages to read |
#
# `chts run` and `chts tour` write a record beside each executed notebook, a JSON file. `seconds` in it is what the run
# took on *your* machine; parameters, results, versions and device are there as well. A parameter that does not exist or
# is out of range is refused before anything runs.
#
# ## Exercise: density from sparsity
#
# This is how exercises look. A layer has sparsity 0.95. What is its density? Replace `None` and run both cells.

# %% tags=["exercise"]
density = None

# %% tags=["check"]
with exercises.attempt():
    assert density is not None, "replace None in the cell above by a number."
    assert density != 5, "5 % is right, but a density is a share: write it as a number between 0 and 1."
    assert density != 0.95, "0.95 is the share of absent links; what share is present?"
    assert abs(density - 0.05) < 1e-9, f"{density} and a sparsity of 0.95 do not add up to 1."

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
# The first layer of the paper's MLP for MNIST has 1568 outputs and 784 inputs, at a sparsity of 99 %. How many links
# has it? Compute it from these numbers; the core rounds to the nearest integer, and so may you.

# %% tags=["exercise"]
links = None

# %% tags=["check"]
with exercises.attempt():
    possible = 1568 * 784
    assert links is not None, "replace None in the cell above by a number."
    assert links != possible, "that is the number of possible links; how many of them exist?"
    assert abs(links - 0.99 * possible) > 1, "that is the number of absent links; how many exist?"
    expected = chts.topology.link_count(1568, 784, 0.01)
    assert abs(links - expected) <= 0.5, f"{links} are {links / possible:.2%} of the {possible:,} possible links."

# %% [markdown]
# <details><summary>Hint</summary>
#
# Number of possible links: outputs times inputs. Times the density.
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
#
# ## Glossary
#
# Every term, from a mask to the five choices that make a method: the stage that teaches it, what it means, its formula and
# where the paper (or who else) has it, the function of `chts_core` that computes it, and the test, in the folder `tests`,
# that checks it.

# %%
Markdown(notebooks.as_markdown(glossary.rows()))

# %% [markdown]
# ## Self-check
#
# 1. The networks above have the same neurons. What does the sparse one have fewer of, and what changes during its training
#    besides the weights?
#
# <details><summary>Answer</summary>
#
# Links: 5 % of those between the layers that are sparse. Which links exist changes: some are removed and others regrown,
# their number stays the same.
# </details>
#
# 2. A colleague says: "sparsity 0.9, so a tenth of the links is gone." What is wrong?
#
# <details><summary>Answer</summary>
#
# Sparsity is the share of *absent* links: nine tenths are gone, a tenth is left.
# </details>
#
# 3. How would you run stage 06 for two seeds at the smallest profile, and where do you find how long it took?
#
# <details><summary>Answer</summary>
#
# `chts run 06 --profile ci -p seeds 2`; `seconds` in the record, the `.json` beside the executed notebook.
# </details>
#
# ## What to take along
#
# - Sparse training learns the wiring along with the weights; CHTs does so at a fixed number of links.
# - Each stage goes from an idea to a number you can check by hand, then to the real thing.
# - A profile sets the size of a run; a record tells what it took and gave.
#
# Next: [01 Networks as masks](01_networks_as_masks.ipynb).

# %%
records.publish(
    {
        "sparsity": settings.sparsity,
        "terms": len(glossary.GLOSSARY),
        "stages": [{"stage": stage.number, "minutes": stage.minutes} for stage in stages],
        "runs": [images.as_row(run) for run in (dense, sparse)],
    }
)
