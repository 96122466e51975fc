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
# # 03 · Soft sampling
#
# **You will be able to**
#
# 1. turn scores into random draws, and choose how closely the draws follow the scores;
# 2. draw an exact number of links without replacement in one pass;
# 3. tell from two curves whether a topology is stuck.
#
# | | |
# |---|---|
# | Prerequisites | stages 01 and 02; logarithms and probabilities |
# | Time | 30 minutes to read, under a minute to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), sections on soft removal and regrowth and on epitopological local minima (ELM, explained below) |

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
from dataclasses import replace
from itertools import combinations, product

import pandas as pd
import torch
from scipy import stats

import chts_core as chts
from chts_core.lab import data, figures, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records, statistics
from chts_core.lab.train import images

print(records.environment_line(torch.device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of the draws, and the first seed of the training runs
sparsity: float = 0.95  # share of absent links in the trained networks, in [0, 1)
epochs: int = 0  # epochs of training, at least 2; 0 means the value of the profile
seeds: int = 0  # number of runs per rule; 0 means the value of the profile
hidden: int = 0  # units per hidden layer; 0 means the value of the profile

# %%
settings = notebooks.start(
    "03_soft_sampling", profile, seed=seed, sparsity=sparsity, epochs=epochs, seeds=seeds, hidden=hidden
)

# %% [markdown]
# ## From a score to a chance
#
# If the updates always take the best links, the network can get stuck: each update regrows the links that it has just
# removed. Random draws can prevent this repetition, as the second half of this stage shows. The first half shows how to
# draw links at random.
#
# An update makes two choices: which links to keep, and which links to regrow. Each candidate has a score. The **hard**
# rule takes the candidates with the highest scores. The **soft** rule draws candidates at random, each with a chance
# $p_i$ that depends on its score $s_i$ (see the paper's section on soft removal):
#
# $$p_i = \frac{s_i^T}{\sum_k s_k^T}, \qquad T = \frac{\delta}{1 - \delta}$$
#
# $T$ is the *temperature* and $\delta$ the *softness*. Both names can be misleading. Unlike in physics, a larger $T$
# makes the draw harder: it comes closer to the hard rule. A larger $\delta$ also makes the draw harder. At $T = 0$ the
# draw ignores the scores, at $T = 1$ the chances are proportional to the scores, and at $T = \infty$ the draw follows
# the hard rule.
#
# Take four links with the scores 1, 2, 3 and 4. At $T = 1$ the denominator is 10, and at $T = 3$ it is
# $1 + 8 + 27 + 64 = 100$.
#
# **Predict:** how large is the chance of the strongest link at $T = 0$, $T = 1$ and $T = 3$?

# %%
scores = torch.tensor([1.0, 2.0, 3.0, 4.0])
SOFTNESS = (0.0, 0.5, 0.75, 0.9, 1.0)


def chances(softness: float) -> torch.Tensor:
    """Chance that each score is drawn first, computed from logarithms (the reason is given below)."""
    temperature = chts.sampling.temperature_from_softness(softness)
    if temperature == math.inf:
        return (scores == scores.max()).float()
    return (temperature * scores.log()).softmax(dim=0)


# %%
table = {f"δ = {d:g}, T = {chts.sampling.temperature_from_softness(d):.3g}": chances(d) for d in SOFTNESS}
pd.DataFrame({name: row.tolist() for name, row in table.items()}, index=scores.tolist()).T.round(4)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The chances are 1/4, 4/10 and 64/100. At $T = 9$ the chance of the strongest link is $262144 / 282340 = 0.9285$,
# because $4^9 = 262144$ and $1 + 512 + 19683 + 262144 = 282340$. So even at $T = 9$ the draw does not always choose the
# strongest link.
# </details>
#
# How random is a draw? The **entropy** of a draw measures its randomness in bits: $H = -\sum_i p_i \log_2 p_i$. Check
# by hand: four equal chances give $\log_2 4 = 2$ bits, and an outcome that is certain gives 0 bits.


# %% tags=["nbval-check-output"]
def entropy(p: torch.Tensor) -> float:
    """Entropy of a distribution in bits."""
    return -float(torch.special.xlogy(p, p).sum()) / math.log(2) + 0.0  # + 0.0 turns -0.0 into 0.0


bits = {d: entropy(chances(d)) for d in SOFTNESS}
assert math.isclose(bits[0.0], math.log2(4), rel_tol=1e-6)
assert bits[1.0] == 0
print("  ".join(f"δ = {d:g}: {value:.3f} bits" for d, value in bits.items()))

# %%
grid = [step / 100 for step in range(100)]
named = {name: row for name, row in table.items() if "0.9" not in name}
figures.show(
    figures.chances_and_entropy(scores, named, grid, [entropy(chances(d)) for d in grid]),
    "At δ = 0 all chances are equal, and at δ = 1 the link with the highest score is certain (left). The entropy falls "
    "slowly at first (right): at δ = 0.5 it is still near its maximum, and most of the fall comes after δ = 0.75.",
)

# %% [markdown]
# ## The softness over a run
#
# Early in training, the weights say little about which links are useful, so the draw should be soft. Later, the weights
# say more, and the draw can be harder. The sources disagree about the schedule of the softness. The paper's text lets
# $\delta$ rise from 0.5 to 0.75 in one place and from 0.5 to 0.9 in another. The paper's published code for MLPs and
# Transformers raises $T$ from 1 to 3, so $\delta$ ends at 0.75. The published script for LLaMA raises $T$ from 1 to 9,
# so $\delta$ ends at 0.9. In both programs, $T$ rises linearly, but $\delta$ does not. The presets of this package also
# raise $T$ linearly, until the updates stop at 75 % of the run.

# %%
RAMPS = {"T = 1 → 3": (1.0, 3.0), "T = 1 → 9": (1.0, 9.0)}
STOP = 750  # 75 % of 1000 steps
halfway = chts.schedules.linear_temperature(STOP // 2, STOP, *RAMPS["T = 1 → 3"])
print(f"halfway: T = {halfway:g}")
figures.show(
    figures.temperature_ramps(RAMPS, STOP),
    "The temperature rises on a straight line. The softness rises quickly at first and then slowly. Both schedules "
    "have been published.",
)

# %% [markdown]
# Check by hand: $T = 2$ lies halfway between 1 and 3, so $\delta = 2/3$. If $\delta$ itself rose linearly from 0.5 to
# 0.75, it would be 0.625 halfway.
#
# ## Several draws without repetition
#
# An update draws many links, but it draws no link twice. We can draw the links one by one. After each draw, we remove
# the drawn link from the candidates and divide the chances of the remaining links by their sum. Take links 2 and 3 of
# our four links (counted from 0) at $T = 1$. Their chances are 0.3 and 0.4. The two links can be drawn in either order:
#
# $$P(\{2, 3\}) = 0.3 \cdot \frac{0.4}{1 - 0.3} + 0.4 \cdot \frac{0.3}{1 - 0.4} = 0.1714 + 0.2 = 0.3714$$

# %% tags=["nbval-check-output"]
p = scores.double() / scores.sum()
pairs = list(combinations(range(4), 2))
expected = torch.stack([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
included = [float(sum(e for e, pair in zip(expected, pairs, strict=True) if i in pair)) for i in range(4)]
print("a link is among the two with probability", [round(share, 4) for share in included])
assert math.isclose(sum(included), 2, rel_tol=1e-5)  # two links are drawn
assert math.isclose(expected[-1], 0.3714, abs_tol=1e-4)

# %% [markdown]
# In one draw, the strongest link is 4 times as likely to be drawn as the weakest. If we draw two links, this factor is
# smaller, because no link can be drawn twice.
#
# Drawing links one by one is slow if there are millions of links. A **race** draws all links in one pass. Link $i$ gets
# the arrival time $E_i / p_i$, where $E_i$ is a random number from the exponential distribution with mean 1. If $p_i$
# is large, the link tends to arrive early. The first $k$ links to arrive are drawn.
#
# Why does a race draw the links with the right chances? Link $i$ arrives first with probability $p_i$. For two links,
# $P(E_1/p_1 < E_2/p_2) = p_1/(p_1 + p_2)$. After the first arrival, the *remaining* waiting times of the other links
# have the same distribution as at the start. So the second arrival is a new draw among the remaining links.

# %%
DRAWS = 10_000
generator = torch.Generator().manual_seed(settings.seed)
first = p.multinomial(DRAWS, replacement=True, generator=generator)[:, None]
second = p.expand(DRAWS, 4).scatter(1, first, 0.0).multinomial(1, generator=generator)
one_by_one = torch.zeros(DRAWS, 4, dtype=torch.bool).scatter(1, torch.cat([first, second], dim=1), True)

clock = torch.empty(DRAWS, 4).exponential_(generator=generator)
winners = (clock / p).topk(2, largest=False).indices
race = torch.zeros(DRAWS, 4, dtype=torch.bool).scatter(1, winners, True)

# %% [markdown]
# Take the negative logarithm of the arrival times. The negative logarithm reverses the order of the times, and
# $-\log(E_i / p_i) = \log p_i + g_i$ with $g_i = -\log E_i$. The $g_i$ are called *Gumbel noise*. So we draw the same
# links if we add Gumbel noise to $\log p_i$ and take the $k$ highest sums. This method is called **Gumbel top-k**. The
# core uses Gumbel top-k, because logarithms neither underflow to 0 nor overflow to infinity.

# %%
gumbel_noise = -clock.log()
assert torch.equal((p.log() + gumbel_noise).topk(2).indices.sort(dim=1)[0], winners.sort(dim=1)[0])

all_four = torch.ones(1, 4, dtype=torch.bool)
core = torch.cat([chts.sampling.draw(scores[None], all_four, 2, generator=generator) for _ in range(DRAWS)])

# %% [markdown]
# Do the three ways of drawing agree with the exact probabilities of the six pairs? A χ² test answers this question with
# a p-value. If a way of drawing is correct, only chance makes its counts differ from the expected counts. The p-value
# is the probability that chance makes a difference at least as large as ours. Only a p-value below 0.0001 would make us
# doubt our draws.

# %%
counted = {"one by one": one_by_one, "race": race, "core": core}
counts = {name: [int((drawn[:, i] & drawn[:, j]).sum()) for i, j in pairs] for name, drawn in counted.items()}
p_values = {name: float(stats.chisquare(n, expected * DRAWS).pvalue) for name, n in counts.items()}
assert min(p_values.values()) > 1e-4
print({name: round(value, 3) for name, value in p_values.items()})
pd.DataFrame({"pair": pairs, "expected": (expected * DRAWS).round().int().tolist(), **counts}).style.hide(axis="index")

# %% [markdown]
# When links of a layer are removed, the function `keep` draws the links that survive. It draws exactly the given number
# of links, and it draws only existing links. The score here is the **weight magnitude** (WM), $|W|$.

# %% tags=["nbval-check-output"]
mask = chts.topology.erdos_renyi(64, 64, density=0.05, generator=generator)
weight = 0.05 * torch.randn(64, 64, generator=generator) * mask
num_keep = round(0.7 * int(mask.sum()))
survivors = chts.sampling.keep(weight.abs(), mask, num_keep, temperature=9.0, generator=generator)
assert int(survivors.sum()) == num_keep
assert not (survivors & ~mask).any()
print(f"{num_keep} of {int(mask.sum())} links kept, exactly")

# %% [markdown]
# ## How published code gets it wrong
#
# Three mistakes occur in code that was published with papers in this field.
#
# **A floor under the whole matrix.** The draw runs over all entries of the weight matrix. The code sets a floor, for
# example $10^{-12}$, and replaces every smaller value of $|W|^T$ with this floor. So an entry without a link has a
# small chance instead of 0. A typical weight of our layer is 0.05, and $0.05^9$ is only about $2 \cdot 10^{-12}$. So at
# $T = 9$ many links of our layer have values below the floor, and get the same chance as an entry without a link.
#
# **Predict:** at each of three temperatures, the next cell draws 144 entries to keep. How many of these entries are
# links?

# %% tags=["nbval-check-output"]
for temperature in (1.0, 3.0, 9.0):
    floored = (weight.abs() ** temperature).clamp_min(1e-12).flatten()
    drawn = floored.multinomial(num_keep, generator=generator)
    not_links = int((~mask.flatten()[drawn]).sum())
    print(f"T = {temperature:g}: {not_links} of {num_keep} drawn are not links")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# At $T = 1$ and $T = 3$ all drawn entries are links. So a test at a low temperature would not find the mistake. At
# $T = 9$ most of the drawn entries are not links.
# </details>
#
# **Powers that underflow.** In float32 any number below about $10^{-45}$ is 0, and
# $(5 \cdot 10^{-6})^9 \approx 2 \cdot 10^{-48}$. In the next cell, one link is strong and five links are weak. For each
# weak link, the ninth power of its score is 0. PyTorch's function `multinomial` then draws the weak links in an order
# that ignores their scores. In this example, `multinomial` takes the same weak links every time. With logarithms, the
# scores of the weak links still decide how often each weak link is drawn.

# %%
tiny = torch.tensor([[1.0, 1e-6, 5e-6, 2e-6, 4e-6, 3e-6]])
everywhere = torch.ones(1, 6, dtype=torch.bool)
print("powers:", (tiny**9).tolist()[0])
by_powers = [(tiny**9).multinomial(3, generator=generator).sort().values.tolist()[0] for _ in range(1000)]
drawn = sum(chts.sampling.draw(tiny, everywhere, 3, temperature=9.0, generator=generator).int() for _ in range(1000))
print("times drawn with powers:  ", [sum(link in row for row in by_powers) for link in range(6)])
print("times drawn by the core:  ", drawn.tolist()[0])
assert set(drawn[0].topk(3).indices.tolist()) == {0, 2, 4}  # the three strongest are drawn most often

# %% [markdown]
# **A hard rule named "soft".** In some code, an option called "soft" takes the links with the $k$ highest scores. Then
# every seed gives the same links. Two seeds are enough to find this mistake.

# %% tags=["nbval-check-output"]
for soft in (False, True):
    one, other = (
        chts.sampling.keep(weight.abs(), mask, num_keep, soft=soft, generator=torch.Generator().manual_seed(number))
        for number in (1, 2)
    )
    print(f"soft = {soft}: {int((one ^ other).sum()) // 2} of {num_keep} links differ between two seeds")

# %% [markdown]
# ## Stuck: the epitopological local minimum
#
# Why draw at all, if the hard rule takes the best links? Watch the hard rule over several updates. A small layer has 4
# outputs, 5 inputs and 10 links with the weights 1 to 10. Each update removes two links and regrows two. In this toy
# example, a regrown link always starts from weight 0, and nothing is trained. (In CHTs, a regrown link starts from the
# last weight that it had, as in the training below.)


# %%
start = torch.tensor([[1.0, 0, 10, 0, 0], [9, 2, 0, 5, 0], [8, 6, 3, 0, 4], [7, 0, 0, 0, 0]])


def evolve(weight: torch.Tensor, num: int, soft_removal: bool, soft_regrowth: bool, updates: int) -> list[tuple]:
    """Run updates that each exchange `num` links; list each update's old mask, removed links and regrown links."""
    generator = torch.Generator().manual_seed(settings.seed)
    mask, steps = weight > 0, []
    for _ in range(updates):
        num_keep = int(mask.sum()) - num
        kept = chts.sampling.keep(weight, mask, num_keep, soft=soft_removal, generator=generator)
        regrown = chts.link_prediction.sample_links(kept, num, soft=soft_regrowth, generator=generator)
        steps.append((mask, mask & ~kept, regrown))
        weight, mask = weight * kept, kept | regrown
    return steps


# %% [markdown]
# The hard rule first removes the links with the weights 1 and 2. Link prediction (CH2-L3n, stage 02) scores the missing
# links:

# %% tags=["nbval-check-output"]
kept = start > 2
predicted = chts.link_prediction.ch2_l3n(kept)
print(predicted.round(decimals=2))
assert predicted[2, 3] == predicted[3, 3] == predicted.max() == 3

# %% [markdown]
# Check the score of the link from input 3 to output 2 by hand. Exactly one path of three links joins this input and
# this output: input 3 – output 1 – input 0 – output 2. So output 1 and input 0 form the local community. Links to the
# two ends, input 3 and output 2, do not count. Output 1 has one link inside the community and no link to a node
# outside. So output 1 contributes $(1+1)/(1+0) = 2$. Input 0 has one link inside the community, and one link to output
# 3, outside the community. So input 0 contributes $(1+1)/(1+1) = 1$. The sum of the two contributions is the score, 3.
# The link from input 3 to output 3 has the same score, and all other missing links have lower scores. So the hard rule
# regrows the links from input 3 to outputs 2 and 3.
#
# **Predict:** which two links does the second update remove, and which two does it regrow?

# %%
hard = evolve(start, 2, soft_removal=False, soft_regrowth=False, updates=3)
figures.show(
    figures.updates({f"update {number}": step for number, step in enumerate(hard, start=1)}),
    "Hard updates soon repeat themselves. The first exchanges two links. The second and the third remove the two "
    "links that came last and then regrow the same two links.",
)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The two new links have weight 0, so they are the weakest links, and the second update removes them. The remaining
# network is the same as after the removal in the first update, so link prediction chooses the same two links again. In
# every further update, the regrowth undoes the removal.
# </details>
#
# The paper calls this state an **epitopological local minimum** (ELM). In epitopological learning, a network learns by
# growing new links (stage 02), and here this learning has stopped. The word *minimum* is an analogy: nothing is
# minimised, but the mask does not change any more. Two measures show whether a network is stuck. The **overlap** of an
# update is the share of its regrown links that the same update had just removed:
#
# $$\text{overlap} = \frac{|\text{removed} \cap \text{regrown}|}{|\text{regrown}|}$$
#
# The mask hardly changes when the overlap is near 1. The **ITOP rate** is the share of all possible links that have
# been active at least once. ITOP stands for in-time over-parameterization, the idea that a sparse network tries many
# links over time. The ITOP rate stops rising when the updates try no new links.
#
# Removal and regrowth can each be hard, or soft with $T = 1$. We run all four combinations, with 30 updates each. For
# this comparison, we use a larger layer, so that few scores are equal. The layer has 64 × 64 places (possible links)
# and 410 links. Each update exchanges 123 links, which is 30 % of the links. We also count the links that have been
# active at least once.

# %%
WORDS = {False: "hard", True: "soft"}
larger = chts.topology.erdos_renyi(64, 64, density=0.1, generator=generator)
size = torch.randn(64, 64, generator=generator).abs() * larger


def measure(soft_removal: bool, soft_regrowth: bool) -> dict[str, str | float]:
    """The overlaps of the first and the last of 30 updates, and the number of links that were active at least once."""
    steps = evolve(size, 123, soft_removal, soft_regrowth, updates=30)
    overlaps = [chts.diagnostics.overlap(removed, regrown) for _, removed, regrown in steps]
    return {
        "removal": WORDS[soft_removal],
        "regrowth": WORDS[soft_regrowth],
        "first overlap": overlaps[0],
        "last overlap": overlaps[-1],
        "links ever active": int(torch.stack([before | regrown for before, _, regrown in steps]).any(dim=0).sum()),
    }


toy = pd.DataFrame([measure(*softly) for softly in product((False, True), repeat=2)])
toy.style.hide(axis="index").format(precision=2)

# %% [markdown]
# With hard regrowth, the layer tries about 410 + 123 links or fewer: the links at the start and the links that the
# first update regrows. With soft regrowth, the mask keeps changing. If only the removal is soft, the mask does not keep
# changing. A new link has weight 0, so its chance of being kept is 0 as long as there are other links to keep. So the
# next update removes all new links. In this toy example, the weights of new links stay 0, because nothing is trained.
# So the example says nothing about soft removal in training.
#
# ## The same rules with training
#
# Now we train networks to classify handwritten digits, with four methods. The methods differ in two settings: removal
# by weight magnitude is hard or soft ($T = 1 \to 3$), and regrowth by CH2-L3n is hard or soft. In all four methods, a
# regrown link starts from the last weight that it had, or from 0 if it never existed before. The method with soft
# removal and soft regrowth is CHTs with one change: the share $\zeta = 0.3$ of exchanged links stays constant. The
# other three methods also keep this share constant. In CHTs itself, the share falls to 0. A falling share would also
# lower the curves of the next figure and hide the effect of the rules.

# %%
base = replace(chts.METHODS["chts"], turnover=chts.choices.Turnover(zeta=0.3))
rules = {
    f"{WORDS[soft_removal]} removal, {WORDS[soft_regrowth]} regrowth": replace(
        base,
        removal=replace(base.removal, temperature=base.removal.temperature if soft_removal else None),
        regrowth=replace(base.regrowth, soft=soft_regrowth),
    )
    for soft_removal, soft_regrowth in product((False, True), repeat=2)
}

# %% [markdown]
# **Predict:** which of the four methods will get stuck? Will the methods that get stuck classify worse than the others?

# %%
task = data.load_images("digits")
recipe = images.Recipe(hidden=settings.hidden, epochs=settings.epochs, learning_rate=settings.learning_rate)
runs = [
    images.train(task, method, settings.sparsity, recipe, seed=settings.seed + number, label=rule)
    for rule, method in rules.items()
    for number in range(settings.seeds)
]

# %%
figures.show(
    figures.overlap_by_rule(runs),
    "With hard regrowth, the same links come back: after the first update, the two curves with hard regrowth are "
    "high in the left panel and hardly rise in the right panel. The left panel shows the share of regrown links that "
    "the same update had removed. The right panel shows the share of all possible links that were ever active. The "
    "curves are means over layers and seeds.",
)

# %% [markdown]
# How large is the overlap if an update regrows links at random? At a sparsity of 0.95, 95 % of all places are empty. An
# update empties $0.3 \cdot 5\,\% = 1.5\,\%$ of all places. So after the removal, 96.5 % of all places are empty, and
# 0.015 / 0.965 = 1.6 % of the regrown links return to a place that the update has just emptied.
#
# The table shows the overlap of the last update, the ITOP rate (`itop`) and the accuracy on the *validation* images. We
# compare rules here, so we do not use the test images. If you use the test images to choose a rule, you can no longer
# use these images to measure the rule's accuracy. The column `interval` is the half-width of the 95 % confidence
# interval of the mean accuracy over the seeds.

# %%
compared = []
for rule in rules:
    mine = [run for run in runs if run.method == rule]
    last = [row["overlap"] for run in mine for row in run.history if row["step"] == run.history[-1]["step"]]
    accuracy, interval = statistics.mean_and_interval([run.validation_accuracy[-1] for run in mine])
    compared.append(
        {
            "rule": rule,
            "runs": len(mine),
            "last overlap": sum(last) / len(last),
            "itop": sum(run.itop for run in mine) / len(mine),
            "validation accuracy": accuracy,
            "interval": None if math.isnan(interval) else interval,
        }
    )
pd.DataFrame(compared).style.hide(axis="index").format(precision=3)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# *The runs show* that hard regrowth regrows most of the removed links in the same update. At the end, the overlap with
# hard regrowth is 99 % if the removal is hard, and 88 % if the removal is soft. The two methods with hard regrowth try
# few links that the initial network did not have. Soft removal delays the rise of the overlap but does not prevent it.
# With soft regrowth the overlap stays near 19 %. This overlap is well above the 1.6 % of random regrowth, because link
# prediction scores the removed links higher than most other missing links. With soft regrowth, the ITOP rate is about
# twice as high as with hard regrowth.
#
# *The runs do not show* a gain in accuracy. The differences in accuracy between the rules are no larger than the
# confidence intervals. A few seeds on an easy task are not enough to distinguish the rules. The paper claims that more
# exploration (trying more links) helps on larger tasks. Our runs show no such advantage. With soft removal and hard
# regrowth, the overlap rises during training. Two causes are possible: the temperature rises, and the weights grow. Our
# runs cannot show which of the two is the cause. (The numbers come from the laptop profile with seed 0.)
# </details>
#
# ## Explore
#
# The explorer below shows one layer of 24 outputs and 36 inputs. The links of this layer lie near the diagonal (a
# receptive field), and their weights are random. The paper uses two removal scores. WM is the magnitude $|W|$ of the
# weight. **Relative importance** (RI) compares $|W|$ with all weights of the two neurons that the link joins, output
# $i$ and input $j$:
#
# $$\mathrm{RI}_{ij} = \frac{|W_{ij}|}{\sum_k |W_{kj}|} + \frac{|W_{ij}|}{\sum_k |W_{ik}|}$$
#
# Compute an example by hand: a link has the weight 0.1. The magnitudes of all weights at its input sum to 1, and at its
# output they sum to 0.2. Then $\mathrm{RI} = 0.1/1 + 0.1/0.2 = 0.6$. If both sums are 1, a link of weight 0.1 has an RI
# of only 0.2. So if RI is the score, a small weight can survive at a neuron that has only small weights. Stage 04 shows
# why this property of RI matters.
#
# The explorer starts with RI as the score. The left panel shows all links from the weakest to the strongest. For each
# link, this panel shows how often the link is removed in many draws. The panel also marks the links that one draw
# removed. The right panel shows how the entropy and the agreement with the hard rule depend on $\delta$.
#
# **Predict before you move a slider:** at $\delta = 0$, how many of the removed links would the hard rule remove too?
# As $\delta$ rises, does the entropy fall more at small or at large $\delta$?

# %%
explorer = widgets.SoftSamplingExplorer()
explorer

# %% [markdown]
# GitHub does not show widgets. This figure shows the first state of the explorer:

# %%
shown = widgets.SoftSamplingState()
drawn_softly = widgets.SoftSamplingExplorer.compute(shown)
figures.show(widgets.SoftSamplingExplorer.draw(shown, drawn_softly), drawn_softly.description)

# %% [markdown]
# **Predict:** the next cell compares the scores RI and WM at $\delta = 0.5$. With which of the two scores is the
# weakest link removed more often?

# %% tags=["nbval-check-output"]
for score in ("relative_importance", "magnitude"):
    result = widgets.SoftSamplingExplorer.compute(replace(shown, score=score))
    print(f"{score}: {result.entropy:.2f} bits; the weakest link is removed in {result.chances[0]:.0%} of the draws")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# At $\delta = 0$ the draw ignores the scores. The hard rule removes a share $\zeta$ of all links: the weakest links. If
# links are removed at random, on average a share $\zeta$ of the removed links is among these weakest links. So the
# curve of the agreement begins at $\zeta$ and rises towards 1. The entropy stays high over a wide range: at
# $\delta = 0.5$ it is still close to its maximum, although the strongest link is many times as likely to be drawn as
# the weakest. Yet the update removes most of the weak links. The update draws the survivors one after another. In each
# draw, a strong link is more likely to be drawn than a weak link, so the links that are never drawn are mostly weak.
# With RI, the weakest link is more likely to survive than with WM, and the entropy is slightly larger.
# </details>
#
# ## Exercise: temperature and softness
#
# *★☆☆ · 5 minutes · essential · objective 1 · write code*
#
# Write $T$ as a function of $\delta$ in $[0, 1)$. Then write its inverse, $\delta$ as a function of $T$.


# %% tags=["exercise"]
def temperature(softness: float) -> float:
    """The temperature T for a softness δ. Write this function."""


def softness(temperature: float) -> float:
    """The softness δ for a temperature T. Write this function."""


# %% tags=["check"]
exercises.check("03.temperature_and_softness", temperature, softness)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Multiply $T = \delta / (1 - \delta)$ by the denominator and collect the terms with $\delta$.
# </details>
#
# <details><summary>Solution</summary>
#
# $T (1 - \delta) = \delta$, so $T = \delta (1 + T)$:
#
# ```python
# def temperature(softness: float) -> float:
#     return softness / (1 - softness)
#
#
# def softness(temperature: float) -> float:
#     return temperature / (1 + temperature)
# ```
# </details>

# %% [markdown]
# ## Exercise: a draw with a given entropy
#
# *★★☆ · 15 minutes · useful · objective 1 · write code*
#
# At the same $T$, the draw can be more random in one layer than in another, because the scores of the layers differ.
# Write a function that finds the $T$ at which the entropy of the first draw is `bits`. The scores are above 0 and not
# all equal, and `bits` is below $\log_2$ of the number of scores. The entropy at your $T$ may differ from `bits` by at
# most 0.01.
#
# The check also tries the scores 1, 2, 3 and 4, each divided by a million. Predict before you run the check: do the
# divided scores need a different $T$? (Self-check 2 explains the answer.) You may use `entropy` from above.


# %% tags=["exercise"]
def temperature_for_bits(scores: torch.Tensor, bits: float) -> float:
    """The T at which the entropy of the first draw is `bits`. Write this function."""


# %% tags=["check"]
exercises.check("03.temperature_for_bits", temperature_for_bits)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The entropy falls as $T$ rises, so you can find your $T$ by halving an interval again and again. Begin with the
# interval from 0 to 100, compute the entropy at its middle, and keep the half that contains your $T$. The function
# `chances` above shows how to compute chances from logarithms.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def temperature_for_bits(scores: torch.Tensor, bits: float) -> float:
#     low, high = 0.0, 100.0
#     for _ in range(50):
#         middle = (low + high) / 2
#         p = (middle * scores.double().log()).softmax(dim=0)
#         low, high = (middle, high) if entropy(p) > bits else (low, middle)
#     return low
# ```
#
# Dividing all scores by the same number does not change the chances, so the divided scores need the same $T$. In
# float32, the powers of the divided scores would all be 0 at $T = 9$, and the chances would be NaN.
# </details>

# %% [markdown]
# ## Exercise: two of three links
#
# *★☆☆ · 5 minutes · essential · objective 2 · work out*
#
# Three links have the scores 1, 2 and 3. You draw two of them at $T = 1$, without replacement. How likely is it that
# the link with score 3 is one of the two? Estimate first: is the probability above or below 0.75?

# %% tags=["exercise"]
chance_of_3 = None

# %% tags=["check"]
exercises.check("03.two_of_three", chance_of_3)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Compute the probability of the other case: you draw the links with the scores 1 and 2. These two links can be drawn in
# two orders.
# </details>
#
# <details><summary>Solution</summary>
#
# The link with score 3 is left out if the other two links are drawn: in the order 1, 2, with probability
# $\tfrac16 \cdot \tfrac25 = \tfrac1{15}$, or in the order 2, 1, with probability
# $\tfrac26 \cdot \tfrac14 = \tfrac1{12}$. The sum is 0.15. Two draws with replacement would leave out this link more
# often, with probability $\tfrac12 \cdot \tfrac12 = 0.25$.
#
# ```python
# chance_of_3 = 1 - (1 / 15 + 1 / 12)  # 0.85
# ```
# </details>

# %% [markdown]
# ## Exercise: keep links by a race
#
# *★★☆ · 15 minutes · essential · objectives 1 and 2 · write code*
#
# Write the soft removal: draw exactly `num_keep` of the links in `mask`, without replacement and with $p \propto$
# score$^T$. Return the drawn links as a Boolean mask. Six lines are enough.
# `chts.sampling.gumbel(shape, generator=generator)` returns the Gumbel noise.


# %% tags=["exercise"]
def keep_links(
    scores: torch.Tensor, mask: torch.Tensor, num_keep: int, temperature: float, generator: torch.Generator
) -> torch.Tensor:
    """Exactly `num_keep` links of `mask`, drawn without replacement with p ∝ score^T. Write this function."""


# %% [markdown]
# The check uses a layer of 8 places. Four places hold links with the scores 1, 2, 3 and 4. The four places without a
# link have the score 9. So the check detects a draw that ignores the mask.

# %% tags=["check"]
exercises.check("03.keep_links", keep_links)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Compute the sum $T \log s + g$ for each place, and take the highest sums at places with a link. `topk` works on a flat
# tensor. `mask.flatten()` shows where the links are.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def keep_links(
#     scores: torch.Tensor, mask: torch.Tensor, num_keep: int, temperature: float, generator: torch.Generator
# ) -> torch.Tensor:
#     keys = temperature * scores.double().log() + chts.sampling.gumbel(scores.shape, generator=generator)
#     winners = keys.masked_fill(~mask, -torch.inf).flatten().topk(num_keep).indices
#     kept = torch.zeros(mask.numel(), dtype=torch.bool)
#     kept[winners] = True
#     return kept.view_as(mask)
# ```
#
# The core also handles ties and links with score 0, and it checks its arguments.
# </details>

# %% [markdown]
# ## Exercise: any number of draws
#
# *★★★ · 20 minutes · optional · objective 2 · write code*
#
# Two of four links can be drawn in 12 orders. You can list them on paper. Let the computer list the orders in larger
# cases. Write a function that takes the chances $p_i$ and the number of draws. For each link, the function returns the
# exact probability that the link is drawn. Use no random numbers.
#
# The check compares your numbers with a calculation by hand for three links, and with 2000 draws that the core makes
# from eight links.


# %% tags=["exercise"]
def inclusion(chances: list[float], number: int) -> list[float]:
    """Probability that each link is among `number` links drawn without replacement. Write this function."""


# %% tags=["check"]
exercises.check("03.inclusion", inclusion)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `itertools.permutations(range(len(chances)), number)` gives every order in which links can be drawn. The probability
# of an order is a product with one factor per link. For each factor, divide the link's chance by the sum of the chances
# of all links that are not drawn yet (this link included).
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# from itertools import permutations
#
#
# def inclusion(chances: list[float], number: int) -> list[float]:
#     shares = [0.0] * len(chances)
#     for order in permutations(range(len(chances)), number):
#         chance, left = 1.0, 1.0
#         for link in order:
#             chance *= chances[link] / left
#             left -= chances[link]
#         for link in order:
#             shares[link] += chance
#     return shares
# ```
#
# Three of 8 links can be drawn in 336 orders. A layer has far too many orders to list. The race needs only one pass for
# any number of draws.
# </details>

# %% [markdown]
# ## Exercise: overlap and ITOP
#
# *★★☆ · 10 minutes · essential · objective 3 · write code*
#
# Write two functions that compute the overlap and the ITOP rate from Boolean masks. Three masks describe an update:
# `before` is the mask before the update, `kept` is the mask after the removal, and `after` is the mask after the
# regrowth. A list of masks describes a run: the mask at the start and the mask after each update.
#
# Predict first: an update removes two links and regrows the same two links. So the masks before and after the update
# are equal. Is the overlap 0 or 1?


# %% tags=["exercise"]
def overlap(before: torch.Tensor, kept: torch.Tensor, after: torch.Tensor) -> float:
    """Share of the regrown links that the same update removed. Write this function."""


def itop(masks: list[torch.Tensor]) -> float:
    """Share of all places that held a link in at least one mask. Write this function."""


# %% tags=["check"]
exercises.check("03.overlap_and_itop", overlap, itop)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Regrown links are in `after` but not in `kept`. Removed links are in `before` but not in `kept`. For the ITOP rate,
# stack the masks.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def overlap(before: torch.Tensor, kept: torch.Tensor, after: torch.Tensor) -> float:
#     removed, regrown = before & ~kept, after & ~kept
#     return float((removed & regrown).sum() / regrown.sum())
#
#
# def itop(masks: list[torch.Tensor]) -> float:
#     return float(torch.stack(masks).any(dim=0).float().mean())
# ```
#
# The overlap is 1. The masks before and after an update are not enough to compute the overlap. You also need the mask
# between removal and regrowth.
# </details>

# %% [markdown]
# ## Exercise: fool one curve
#
# *★★☆ · 10 minutes · useful · objective 3 · work out*
#
# The overlap compares only the links of a single update. Find a run in which a low overlap is misleading. A layer has 8
# places and 4 links. Write the masks of this layer at the start and after each of three updates, as lists of eight
# numbers, each 0 or 1. Every update must exchange two links and have an overlap of 0. But after the first update, no
# update may try a new place, so the ITOP rate must stop rising.

# %% tags=["exercise"]
course = None  # [[1, 1, 1, 1, 0, 0, 0, 0], ...]

# %% tags=["check"]
exercises.check("03.fool_the_overlap", course)

# %% [markdown]
# <details><summary>Hint</summary>
#
# After the first update, 6 places have been tried. The second update has to regrow its two links in two of these
# places. Which of these 6 places are free?
# </details>
#
# <details><summary>Solution</summary>
#
# The second update regrows the links that the first update removed:
#
# ```python
# course = [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]] * 2
# ```
#
# So the network goes back and forth between two masks. The overlap is 0 and the ITOP rate stays at 0.75. Read both
# curves: a network tries new links only if the overlap is low *and* the ITOP rate rises. (The ITOP rate also stops
# rising at 1, when all places have been tried.)
# </details>

# %% [markdown]
# ## To discuss
#
# 1. Soft removal can remove the strongest link of a layer. At which moments of a run would you accept this removal, and
#    at which moments would you not accept it? How would you choose the schedule of $T$ for a task that you do not know?
# 2. In our runs, soft regrowth tries about twice as many links as hard regrowth, but the accuracies do not differ
#    clearly. Which experiment would show whether exploration helps? What would you keep the same in all runs of this
#    experiment?
# 3. Two published implementations and the paper's text disagree about $T$. What would you write in a paper so that a
#    reader can repeat a soft removal exactly?
#
# ## Self-check
#
# 1. Three links have the scores 1, 1 and 2. What is the chance of the third link at $T = 1$, and at $T = 2$?
#
# <details><summary>Answer</summary>
#
# The chance is 2/4 = 0.5 at $T = 1$, and 4/6 ≈ 0.667 at $T = 2$.
# </details>
#
# 2. All scores are multiplied by 1000. What changes in the draw?
#
# <details><summary>Answer</summary>
#
# Nothing changes, because the factor $1000^T$ cancels. In Gumbel top-k, $T \log 1000$ shifts all sums by the same
# amount.
# </details>
#
# 3. Why does the race draw each link at most once?
#
# <details><summary>Answer</summary>
#
# Each link takes part in the race once and arrives once. So the first $k$ links to arrive are $k$ different links.
# </details>
#
# 4. Can one update have an overlap of 1 and also raise the ITOP rate?
#
# <details><summary>Answer</summary>
#
# No. If the overlap is 1, the update regrew only links that it had just removed. So no link becomes active for the
# first time.
# </details>
#
# ## Key takeaways
#
# - $p \propto$ score$^T$ with $T = \delta / (1 - \delta)$ covers all rules from random to hard. The entropy measures
#   how random the draw is.
# - Gumbel top-k draws an exact number of existing links without replacement, in one pass and with logarithms.
# - Hard regrowth soon undoes most of each removal, whether the removal is hard or soft. In our runs, soft regrowth kept
#   the mask changing. Measure the overlap and the ITOP rate together.
# - A network whose mask changes more does not always classify better. You need several runs and confidence intervals to
#   show a gain in accuracy.
#
# ## Further reading
#
# - **Sampling without replacement in one pass:** Efraimidis and Spirakis, *Weighted random sampling with a reservoir*,
#   Information Processing Letters, 2006.
# - **Gumbel top-k:** Kool, van Hoof and Welling, *Stochastic beams and where to find them: the Gumbel-top-k trick for sampling
#   sequences without replacement*, ICML, 2019, [arXiv 1903.06059](https://arxiv.org/abs/1903.06059).
# - **Random regrowth:** Mocanu et al., *Scalable training of artificial neural networks with adaptive sparse connectivity
#   inspired by network science*, Nature Communications, 2018,
#   [doi 10.1038/s41467-018-04316-3](https://doi.org/10.1038/s41467-018-04316-3).
# - **The ITOP rate:** Liu et al., *Do we actually need dense over-parameterization? In-time over-parameterization in sparse
#   training*, ICML, 2021, [arXiv 2102.02887](https://arxiv.org/abs/2102.02887).
# - **Hard removal and hard regrowth with CH theory:** Zhang et al., *Epitopological learning and Cannistraci-Hebb network shape
#   intelligence brain-inspired theory for ultra-sparse advantage in deep learning*, ICLR, 2024.

# %%
records.publish(
    {
        "entropy": [{"softness": d, "bits": round(value, 6)} for d, value in bits.items()],
        "p_values": [{"draw": name, "p_value": value} for name, value in p_values.items()],
        "toy": toy.to_dict("records"),
        "rules": compared,
    }
)
