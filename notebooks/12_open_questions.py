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
# # 12 · What we know, what we don't
#
# **You will be able to**
#
# 1. say, for each main claim of this course, what the paper reports, what our records show, and how sure we can be;
# 2. say what would settle an open question;
# 3. begin a project of your own that answers one open question.
#
# | | |
# |---|---|
# | Prerequisites | stages 06, 08, 09 and 11 |
# | Time | 10 minutes to read, about a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Tables 1, 2, 8, 9, 11 and 13, Appendix J |

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
from dataclasses import dataclass, replace

import pandas as pd
import torch
import yaml
from scipy import stats
from sklearn.datasets import load_breast_cancer
from torch.nn import functional as F

import chts_core as chts
from chts_core.diagnostics import degrees, same_degrees
from chts_core.lab import data, figures, models
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records, standing, tables
from chts_core.lab.results.statistics import mean_and_interval, paired_differences, seeds_needed
from chts_core.lab.train import images, sweeps
from chts_core.methods import Regrowth, Turnover

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the runs; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of all runs
sparsity: float = 0.9  # share of absent links in the projects, in [0.5, 1)

# %%
settings = notebooks.start("12_open_questions", profile, seed=seed, sparsity=sparsity)
task = data.load_images("digits")
recipe = replace(images.RECIPES["mlp"], hidden=settings.hidden, epochs=settings.epochs)
all_seeds = range(seed, seed + settings.seeds)

# %% [markdown]
# ## One honest table
#
# Each of the stages 06, 08, 09 and 11 says what its runs cannot show. The next table collects these limits. The code
# computes each of our numbers from recorded runs. The column "our records" begins with the *advantage*: the mean
# difference between the scores of two methods that ran with the same seeds. The number after ± is the half-width of the
# 95 % confidence interval of this mean. The advantage is above 0 if our runs agree with the claim.
#
# **Predict:** for how many of the twelve claims does the interval exclude 0? In how many of these cases do our runs
# agree with the claim?

# %%
claims = standing.standing()


def ours(row: dict) -> str:
    if row["advantage"] is None:
        return ""
    digits = 3 if row["unit"] == "nats" else 2
    return f"{row['advantage']:+.{digits}f} ± {row['interval']:.{digits}f} {row['unit']}, {row['seeds']} seeds: {row['where']}"


# %%
shown = [
    {"claim": row["claim"], "the paper": row["paper"], "our records": ours(row)}
    | {"how sure": row["how_sure"], "what would settle it": row["settle"]}
    for row in claims
]
pd.DataFrame(shown).style.hide(axis="index").set_properties(**{"text-align": "left", "vertical-align": "top"})

# %%
verdicts = pd.Series([row["verdict"] for row in claims]).value_counts()
print(verdicts.to_string())

# %%
figures.show(
    figures.verdicts(claims),
    f"{verdicts['undecided']} of the {len(claims)} claims lie in the grey band, where our runs do not show whether "
    f"the advantage is above or below 0; {verdicts['holds']} lie to the right of the band, and "
    f"{verdicts['does not hold']} lie to the left. {verdicts['untested']} has no runs of ours and is not shown.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Five intervals exclude 0. Three of these five results agree with their claims. With the paper's MLP on Fashion-MNIST,
# CHTs is ahead of SET, and ahead of a narrow dense network that has as many weights. In our translator for Multi30k,
# CHTs is ahead of SET. In the paper, the two methods are level on Multi30k, and CHTs is ahead on IWSLT14.
#
# Two results contradict their claims. On the digits, CHTs with random regrowth is ahead of CHTs with link prediction.
# In the translator of number words, the variant whose new links start from zero is ahead of the variant whose new links
# get their last weights back.
#
# The intervals of the last two results end close to 0, and we looked at eleven intervals. So chance alone may explain
# why one of these intervals excludes 0. The two contradictions are not strong evidence against the paper either,
# because our tasks are small, and on the digits most missing links have a score of 0 (stage 06).
#
# The first row is our best evidence for the paper, because these runs use the paper's network, data and recipe. But it
# comes from three seeds and one data set, and it says nothing about large models.
# </details>
#
# ## How many seeds would decide?
#
# The interval becomes narrower as the number of seeds $n$ grows. The half-width of the interval is
# $t_{n-1} \cdot s / \sqrt n$, where $s$ is the standard deviation of the differences. Suppose that the true difference
# is as large as the difference that we measured. How many seeds do we need so that the half-width is no larger than
# this difference? The next cell prints the factor $t_{n-1} / \sqrt n$ for each $n$. The answer is the first $n$ whose
# factor is at most the difference divided by $s$:

# %%
factors = {n: stats.t.ppf(0.975, n - 1) / math.sqrt(n) for n in range(2, 11)}
print({n: round(float(factor), 2) for n, factor in factors.items()})
two = [0.0, math.sqrt(2)]  # their standard deviation is 1
assert seeds_needed(two, 0.8) == min(n for n, factor in factors.items() if factor <= 0.8) == 9

# %%
undecided = [row for row in claims if row["verdict"] == "undecided"]
needed = [{"claim": row["claim"], "seeds now": row["seeds"], "seeds needed": row["needed"]} for row in undecided]
pd.DataFrame(needed).style.hide(axis="index")

# %% [markdown]
# More seeds on a small task cost little. But they answer only a question about this small task. A claim about large
# models needs runs of large models.
#
# ## Open questions
#
# **Do only the degrees matter, or also which neurons are connected?** The degree of a neuron is the number of its
# links. A trained sparse network has hubs: some neurons have many links. Perhaps training only has to find the hubs,
# and it does not matter which neurons the hubs connect to. Project 1 begins to test this idea.
#
# **Does soft sampling help in large models?** In the paper's Table 11, the gain from soft sampling is large for
# translation on two corpora. Our runs on the digits cannot decide this question. The published code for LLaMA has an
# option for soft regrowth, but even with this option, the code always takes the links with the best scores. So we do
# not know how well soft regrowth works in a language model.
#
# **Does the paper compare the rivals at equal training FLOPs?** CHTss and GMP begin with half of all possible links, so
# they need more FLOPs than CHTs and SET (stage 05). In the paper, the sigmoid decay ends earlier than the cubic decay,
# so that all methods with a decay need the same number of FLOPs. But CHTs and SET need fewer FLOPs than these methods,
# and FC needs more. A dense model with the same training FLOPs as CHTs would have to train for fewer steps or be
# narrower.
#
# **Which hardware can use the zeros?** Most GPUs multiply dense matrices, so a mask saves no time on a GPU. On a CPU,
# code that stores only the links can be faster than dense layers. Here are two recorded benchmarks of one training step
# of an MLP with 1 % of all possible links:

# %%
steps = {
    comparison: row["times_faster"] for (comparison, rival), row in tables.benchmark("step").items() if rival == "FC"
}
kinds = {"dense layers with masks": "masked step of CHTs", "layers that store only the links": "step of CHTs"}
for name, kind in kinds.items():
    print(f"{name}: {steps[f'{kind}, MLP 3×1568 at 99 %, batch 32']:.2f} times as fast as FC")

# %% [markdown]
# **Why are sparse networks almost as good as dense networks?** A network with a tenth of the links loses little
# accuracy on many tasks. Perhaps large networks contain many good subnetworks. Perhaps training changes even the
# weights of a dense network along only a few directions. Random masks do well in large models (S. Liu et al., below),
# so the choice of links may be only a part of the explanation.
#
# ## Project 1: shuffle the links, keep the degrees
#
# A link is a pair (output, input). Take two links of a trained network and exchange their inputs: $(a, b)$ and $(c, d)$
# become $(a, d)$ and $(c, b)$. Repeat this many times with random pairs of links. Each time, a fair coin decides
# whether the exchange takes place. Each neuron keeps its number of links, and everything else is random. Check by hand:
# two outputs and two inputs have the links $(0, 0)$ and $(1, 1)$. Only one other network has these degrees: its links
# are $(0, 1)$ and $(1, 0)$. The shuffle should draw the two networks equally often.

# %%
diagonal = torch.eye(2, dtype=torch.bool)
drawn = [same_degrees(diagonal, generator=torch.Generator().manual_seed(number)) for number in range(100)]
swapped = sum(torch.equal(network, diagonal.flip(0)) for network in drawn)
print(f"of 100 draws, {swapped} have the links (0, 1) and (1, 0)")
assert swapped + sum(torch.equal(network, diagonal) for network in drawn) == 100

# %% [markdown]
# Now train a network with CHTs, and make two more networks from its masks. In the first of these two, the links are
# shuffled, and all degrees stay the same. The second one has the same number of links, but at random places.

# %%
trained = images.train(task, "chts", sparsity, recipe, seed=seed)
learned = trained.last_masks
generator = torch.Generator().manual_seed(seed)
shuffled = {name: same_degrees(mask, generator=generator) for name, mask in learned.items()}

# %%
for name, mask in shuffled.items():
    assert all(map(torch.equal, degrees(mask), degrees(learned[name])))
    print(f"{name}: {int((mask & learned[name]).sum())} of {int(mask.sum())} links stayed in place")

# %%
random = {
    name: chts.topology.erdos_renyi(*mask.shape, int(mask.sum()) / mask.numel(), generator=generator)
    for name, mask in learned.items()
}
networks = {"learned": learned, "same degrees": shuffled, "random": random}

# %% [markdown]
# From here on, the links stay fixed. We train each network again from new random weights, with the same seeds for all
# three networks.
#
# **Predict:** which of the three networks learns best from new weights? Is the accuracy of the shuffled network nearer
# to the accuracy of the learned network or to the accuracy of the random network?


# %%
FIXED = replace(chts.METHODS["set"], turnover=Turnover(zeta=0.0))


def retrained(masks: dict, seed: int) -> float:
    """Test accuracy in per cent of an MLP whose links stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    model = models.mlp(task.features, recipe.hidden, task.classes, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    steps = recipe.epochs * (len(task.train.labels) // recipe.batch_size)
    sparsifier = chts.Sparsifier(
        model, optimizer, FIXED, sparsity, total_steps=steps, update_every=steps, initial_masks=masks, seed=seed
    )
    sparsifier.rescale_weights()
    for _ in range(steps):
        batch = task.train.take(torch.randperm(len(task.train.labels), generator=generator)[: recipe.batch_size])
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
        sparsifier.step()
    return 100 * images.accuracy(model, task.test)


# %%
shuffles = {name: [retrained(masks, number) for number in all_seeds] for name, masks in networks.items()}

# %%
for name, scores in shuffles.items():
    mean, half = mean_and_interval([score - other for score, other in zip(scores, shuffles["learned"], strict=True)])
    beside = "" if name == "learned" else f"; difference from learned: {mean:+.2f} ± {half:.2f} points"
    print(f"{name:<13} {sum(scores) / len(scores):.2f} %{beside}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Compare each difference with its interval. If the interval contains 0, the runs do not show which network is better,
# and the question stays open. In the printed results (profile `laptop`), both intervals contain 0. The masks come from
# one trained network, so the interval covers the effect of new weights, but not the effect of new masks.
# </details>
#
# **A good result** comes from ten trained networks, several shuffles of each network, and a larger task. If the learned
# links are ahead of the shuffled links and the interval excludes 0, then the degrees alone do not decide the accuracy:
# it also matters which neurons are connected.
#
# ## Project 2: a regrowth rule of your own
#
# A rule for regrowth is a frozen dataclass that gives each missing link a score (`docs/guides/add_a_method.md`). The
# rule below prefers links between neurons that already have many links. Compute the scores of a small mask by hand: its
# outputs have 2 and 1 links, and its inputs have 1, 2 and 0 links.


# %%
@dataclass(frozen=True)
class Popular:
    """The number of links of the output times the number of links of the input."""

    def __call__(self, mask, gradient):  # noqa: ARG002 - every score gets the gradient
        return torch.outer(mask.sum(dim=1), mask.sum(dim=0)).float()


# %%
small = torch.tensor([[1, 1, 0], [0, 1, 0]], dtype=torch.bool)
print(Popular()(small, None))
assert Popular()(small, None).tolist() == [[2, 4, 0], [1, 2, 0]]

# %%
popular = replace(chts.METHODS["set"], regrowth=Regrowth(Popular()))
raced = images.race(task, {"set": "set", "popular": popular}, sparsity, recipe, seeds=all_seeds)

# %%
(beside_set,) = paired_differences(raced, "set")
gained = round(100 * beside_set["difference"], 2) + 0.0  # no minus sign before a 0
print(f"popular minus SET: {gained:+.2f} ± {100 * beside_set['interval']:.2f} points")

# %% [markdown]
# **A good result** is a rule that passes the command `chts conformance`. Compare your rule with SET and with CHTs on
# two tasks: each difference should be larger than the half-width of its interval. If your rule is level with random
# regrowth, this is a result too.
#
# ## Project 3: a sweep of ζ or of the temperature
#
# A sweep is a grid of runs, which you can describe in a file. The code below prints the description of a sweep over
# three values of $\zeta$ and checks that each run can start. The code trains nothing.

# %%
turnovers = [f"chts with turnover=Turnover(zeta=Cosine({zeta}))" for zeta in (0.1, 0.3, 0.5)]
spec = {
    "train": "mlp",
    "parameters": {"dataset": "digits", "sparsity": sparsity},
    "grid": {"method": turnovers, "seed": list(range(5))},
}

# %%
print(yaml.safe_dump(spec, sort_keys=False))
print(len(sweeps.cells(spec)), "runs")

# %% [markdown]
# Save the printed description as `sweep.yaml`. Then `chts sweep sweep.yaml --out runs/zeta` trains all runs, and `chts
# report runs/zeta` compares these runs. To sweep the temperature, write `chts with removal=Removal('magnitude',
# temperature=3.0, percolate=True)` as the method.
#
# **A good result** is a figure that shows the score as a function of $\zeta$, with intervals, at two sparsities. Add a
# sentence that says whether the best $\zeta$ depends on the sparsity.
#
# ## Project 4: the small dense rival
#
# A sparse network should be better than a narrow dense network with the same number of weights. Three hidden layers of
# width $w$ on $d$ inputs have $dw + 2w^2$ weights, so $L$ links give $w = (\sqrt{d^2 + 8L} - d) / 4$. For the digits at
# 90 % sparsity, $d = 64$ and $L = 14746$. The formula gives $w = 71.3$. The function below rounds this result to a
# whole number, so the width is 71.


# %%
def narrow(inputs: int, links: int) -> int:
    """The width at which the number of weights is nearest to the number of links."""
    return round((math.sqrt(inputs**2 + 8 * links) - inputs) / 4)


# %%
widths = {}
for share in (0.9, 0.95, 0.97):
    first, other = (chts.topology.link_count(256, inputs, 1 - share) for inputs in (64, 256))
    widths[share] = narrow(64, first + 2 * other)
    assert {row["recipe"]["hidden"] for row in tables.small_dense(share)} == {widths[share]}
print(widths)

# %%
first, other = (chts.topology.link_count(1568, inputs, 0.01) for inputs in (784, 1568))
print("the paper's MLP on Fashion-MNIST at 99 %:", narrow(784, first + 2 * other))

# %% [markdown]
# In our recorded runs, narrow dense networks have these widths. The table of claims at the top shows the result for the
# digits at 95 % sparsity. At 95 and 97 %, the value of the formula is rounded up, so the dense network has about 1 %
# more weights than the sparse network has links.
#
# The formula counts only the hidden layers, but the last layer stays dense. On Fashion-MNIST, the last layer has 15,680
# weights behind 1568 sparse units, and only 670 weights behind the 67 units of the narrow network. **On paper first:**
# which width gives a dense network as many weights as the sparse network has in *all* its layers? (The records contain
# this width, and the table of claims shows its result.)
#
# **A good result** is the same comparison on MNIST, on CIFAR10 or with the translator. Report the training FLOPs of both
# networks.
#
# ## Project 5: your own data
#
# Any table of numbers with class labels can be a task. The next cell uses 569 rows of 30 measurements, which come with
# scikit-learn. Replace these rows with your own numbers, and scale each column to $[0, 1]$.

# %%
values, labels = map(torch.from_numpy, load_breast_cancer(return_X_y=True))
values = ((values - values.amin(0)) / (values.amax(0) - values.amin(0))).float()
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
parts = [data.Split(values[rows], labels[rows]) for rows in order.split([341, 114, 114])]

# %%
own = data.ImageData("own data", *parts, image_shape=(1, values.shape[1]), classes=2)
own_runs = images.race(own, ["fc", "chts"], sparsity, recipe, seeds=all_seeds)
own_rows = images.summarise(own_runs)
for row in own_rows:
    print(
        f"{row['method']:<5} test accuracy {row['accuracy']:.1%} ± {row['interval']:.1%}, density {row['density']:.0%}"
    )

# %% [markdown]
# **A good result** uses the validation rows to choose the sparsity, and it uses the test rows only once. Look at the
# inputs with the most links: can you explain why these inputs matter?
#
# ## Exercise: read the table of claims
#
# *★★☆ · 20 minutes · essential · objective 1 · write code*
#
# "The interval contains 0" does not mean "the two methods are equal". To say that two methods are level, you need a
# *margin*: the smallest difference that matters to you. There is another problem: the table has eleven intervals,
# and each of them may miss the true difference by chance. To be 95 % sure of all eleven intervals together, give each
# interval a confidence of 1 - 0.05 / 11 instead of 95 %. (This is the *Bonferroni correction*.)
#
# Write a function that reads one row of the table. `looks` is the number of intervals that you read together. Return
#
# - `"untested"` if the row has no runs (then its `advantage` is None);
# - `"holds"` if the interval is above 0, and `"does not hold"` if the interval is below 0;
# - `"level"` if the interval contains 0, and both ends are nearer to 0 than the margin;
# - `"undecided"` in all other cases.
#
# A row contains `advantage` (the mean), `interval` (the half-width at 95 %) and `seeds` (the number of seeds, $n$). The
# half-width is $t_{n-1} \cdot s / \sqrt n$, and `stats.t.ppf(1 - 0.05 / 2, n - 1)` is $t_{n-1}$. If `looks` is larger
# than 1, only $t_{n-1}$ changes: it becomes `stats.t.ppf(1 - 0.05 / looks / 2, n - 1)`. The next cell sets a margin for
# each unit and shows the numbers of all rows:

# %%
margins = {"BLEU": 0.5, "nats": 0.02, "points": 0.5}
pd.DataFrame(claims)[["claim", "unit", "seeds", "advantage", "interval"]].style.hide(axis="index").format(precision=3)

# %% [markdown]
# **On paper first:** which rows are level? If you read all eleven intervals together, how many claims still have the
# verdict "holds" or "does not hold"?


# %% tags=["exercise"]
def read_row(row: dict, margin: float, looks: int) -> str:
    """The verdict on a row of the table of claims. Write this function."""


# %% tags=["check"]
exercises.check("12.read_row", read_row, claims=claims, margins=margins)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Compute the wider half-width first: divide the half-width by the old $t_{n-1}$, and multiply the result by the new
# $t_{n-1}$. The two ends of the interval are `advantage - half` and `advantage + half`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def read_row(row: dict, margin: float, looks: int) -> str:
#     if row["advantage"] is None:
#         return "untested"
#     freedom = row["seeds"] - 1
#     wider = stats.t.ppf(1 - 0.05 / looks / 2, freedom) / stats.t.ppf(1 - 0.05 / 2, freedom)
#     low, high = (row["advantage"] + sign * wider * row["interval"] for sign in (-1, 1))
#     if low > 0:
#         return "holds"
#     if high < 0:
#         return "does not hold"
#     return "level" if max(-low, high) < margin else "undecided"
# ```
#
# With `looks = 1`, two rows are level: the comparison of CHTs with SET in the language model, and the comparison of
# soft with hard regrowth. The other four rows whose interval contains 0 are undecided: their intervals reach beyond the
# margin. With `looks = 11`, no claim is decided, and no row is level. The half-width then is 3.4 times as large for a
# claim with three seeds, and 1.7 times as large for a claim with ten seeds.
# </details>
#
# ## Exercise: how many seeds?
#
# *★★☆ · 10 minutes · essential · objective 2 · work out*
#
# Four paired differences are 0, 2, 0 and 2 points. Suppose that the differences of further seeds vary in the same way.
# What is the smallest number of seeds for which the half-width of the interval is at most 1 point? The section *How
# many seeds would decide?* prints the factors.

# %% tags=["exercise"]
number_of_seeds = None

# %% tags=["check"]
exercises.check("12.number_of_seeds", number_of_seeds)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The mean is 1, so each of the four deviations is 1 or −1. Their squares sum to 4, so $s^2 = 4/3$.
# </details>
#
# <details><summary>Solution</summary>
#
# $s = 1.155$. With 7 seeds, the half-width is $0.92 \cdot 1.155 = 1.07$. With 8 seeds, the half-width is
# $0.84 \cdot 1.155 = 0.97$:
#
# ```python
# number_of_seeds = 8
# ```
# </details>
#
# ## Exercise: swap two links
#
# *★★☆ · 15 minutes · useful · objectives 2 and 3 · write code*
#
# Project 1 compares a network with a shuffled network of the same degrees. Write one step of the shuffle. Links are
# pairs (output, input). The links $(a, b)$ and $(c, d)$ of a mask become $(a, d)$ and $(c, b)$. In some cases, a swap
# would lose a link. Find out which cases these are, and return the mask unchanged in these cases. Do not change the
# mask that your function receives.


# %% tags=["exercise"]
def swap(mask: torch.Tensor, one: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
    """A mask in which two links have exchanged their inputs, or the mask unchanged. Write this function."""


# %% [markdown]
# The check swaps links of small masks, and then a hundred pairs of links of a random mask.

# %% tags=["check"]
exercises.check("12.swap", swap)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A mask can hold each link only once. What happens if $(a, d)$ is already a link? What are the new links if $a = c$?
# </details>
#
# <details><summary>Solution</summary>
#
# If one of the new links already exists, the mask cannot hold this link twice, so the swap would lose a link. If
# $a = c$ or $b = d$, the new links are the old links, so they already exist:
#
# ```python
# def swap(mask: torch.Tensor, one: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
#     (a, b), (c, d) = one, other
#     if mask[a, d] or mask[c, b]:
#         return mask
#     swapped = mask.clone()
#     swapped[a, b] = swapped[c, d] = False
#     swapped[a, d] = swapped[c, b] = True
#     return swapped
# ```
#
# The function `same_degrees`, which project 1 uses, makes many such swaps at once.
# </details>
#
# ## To discuss
#
# 1. You can run one experiment on a GPU for a week. Which claim of the table would you try to settle, and why?
# 2. Suppose that a shuffled network learns as well as the network with the learned links. What does this result say
#    about link prediction as a regrowth rule, and what does it not say?
# 3. When would you use a sparse network in practice today? What would have to change before you would use sparse
#    networks more often?
#
# ## Self-check
#
# 1. A claim lies in the grey band of the figure. Is the claim false?
#
# <details><summary>Answer</summary>
#
# No. Our runs do not show whether the difference is above or below 0. The claim may be true, and more seeds or another
# task may confirm it.
# </details>
#
# 2. Why does project 1 compare the learned links with shuffled links, and not only with random links?
#
# <details><summary>Answer</summary>
#
# A random network differs from the learned network in two ways: its neurons have other degrees, and its links connect
# other neurons. The shuffled network has the same degrees as the learned network. So if the accuracies of the shuffled
# and of the learned network clearly differ, the degrees are not the cause: it matters which neurons are connected.
# </details>
#
# 3. Random regrowth is ahead of link prediction on the digits. Why is this result only weak evidence against link
#    prediction?
#
# <details><summary>Answer</summary>
#
# The layers are small, so most missing links have a score of 0, and link prediction cannot distinguish between these
# links. The evidence comes from one task and from one of many intervals, and this interval ends close to 0.
# </details>
#
# ## Key takeaways
#
# - For each claim, ask four questions: what the paper reports, what your runs show, how sure you are, and what would
#   settle the claim.
# - Most claims about a difference of half a point are still open, because we have few seeds and small tasks.
# - A fair rival has the same number of weights, the same FLOPs or the same degrees as the network that you compare it
#   with.
# - A project begins with one code cell and with a sentence that says what a good result looks like.
#
# ## Further reading
#
# - T. Hoefler et al., *Sparsity in Deep Learning: Pruning and growth for efficient inference and training in neural networks*
#   (Journal of Machine Learning Research, 2021), [arXiv 2102.00554](https://arxiv.org/abs/2102.00554): a survey of the field.
# - J. Frankle and M. Carbin, *The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks* (ICLR 2019),
#   [arXiv 1803.03635](https://arxiv.org/abs/1803.03635): which initial weights a sparse network needs.
# - S. Liu et al., *The Unreasonable Effectiveness of Random Pruning* (ICLR 2022),
#   [arXiv 2202.02643](https://arxiv.org/abs/2202.02643): random masks in large models.
# - J. Su et al., *Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot* (NeurIPS 2020),
#   [arXiv 2009.11094](https://arxiv.org/abs/2009.11094): masks that are shuffled within each layer.
# - S. Maslov and K. Sneppen, *Specificity and Stability in Topology of Protein Networks* (Science, 2002): networks with
#   the same degrees.
# - S. Hooker, *The Hardware Lottery* (2020), [arXiv 2009.06489](https://arxiv.org/abs/2009.06489): how hardware decides
#   which ideas succeed.

# %%
records.publish(
    {
        "standing": claims,
        "verdicts": verdicts.to_dict(),
        "swapped": swapped,
        "shuffles": shuffles,
        "popular": beside_set,
        "sweep": len(sweeps.cells(spec)),
        "widths": {str(share): width for share, width in widths.items()},
        "own": own_rows,
    }
)
