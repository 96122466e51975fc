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
# # 11 · The paper's tables beside ours
#
# **You will be able to**
#
# 1. say what a standard error covers and what it does not cover;
# 2. compare the differences between methods if you cannot compare the scores of two studies;
# 3. sort claims by what recorded runs show: a claim holds, does not hold, is undecided or is untested.
#
# | | |
# |---|---|
# | Prerequisites | stages 06, 08 and 09 |
# | Time | 40 minutes to read, less than a minute to run; this stage trains nothing |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), its MLP table and Tables 1 and 2 |

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

import pandas as pd
import torch  # noqa: F401 - for the exercises
from scipy import stats  # noqa: F401 - for the exercises

from chts_core.lab import figures, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import paper, records, report
from chts_core.lab.results.statistics import score_differences, standard_error

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper, which are all the same here; empty means $CHTS_PROFILE, or laptop
comparison: str = "translation: multi30k, small"  # the comparison whose learning curves are drawn at the end

# %%
notebooks.start("11_paper_tables", profile)
recorded = report.read(records.results_folder())
if comparison not in recorded:
    raise ValueError(f"comparison is {comparison!r}; expected one of {', '.join(map(repr, recorded))}.")
pd.DataFrame(
    {"comparison": name, "runs": len(rows), "methods": len({row["method"] for row in rows})}
    for name, rows in recorded.items()
)

# %% [markdown]
# Each row of this table is a set of runs that can be compared with each other. Each run is one line of
# `results/*.jsonl`. The line contains the settings, every evaluation on the validation data, the versions, the device,
# the time in seconds, and the SHA-256 hash of all of these. We compute everything below from these lines.
#
# ## Can the table be right?
#
# Before you compare your results with a published number, check whether this number can be right. On the poster of the
# paper, one column of Table 2 is missing. So all numbers to the right of the missing column are under the wrong
# heading. The next table puts the missing column back. This table shows only the numbers of Table 2 for the 130M model.
# The numbers are validation perplexities, and lower is better:

# %%
of_130m = pd.DataFrame(paper.PAPER_TABLE_2["130m"]).T
of_130m.rename(columns=lambda share: f"{share:.0%}" if share else "all links").style.format("{:.2f}", na_rep="")

# %% [markdown]
# **Predict:** if a model already has too few links, it should never help to remove more links. Which neighbouring
# numbers in a row of this table are in the wrong order?

# %%
pd.DataFrame(paper.out_of_order()).style.format(precision=2).hide(axis="index")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# RigL and GraNet are worse at 80 % sparsity than at 90 %. In the 60M model, which the first table does not show, SET is
# worse at 70 % than at 80 %. A digit may be wrong, or chance may have made a run worse: each cell shows a single run,
# without ±. We treat these numbers as doubtful, and you should do the same.
# </details>
#
# ## A difference in standard errors
#
# The *standard error* of a mean is the standard deviation of the scores of the runs, divided by the square root of the
# number of runs. Three runs gave the scores 90.1, 90.2 and 90.3. Their mean is 90.2 and their standard deviation is
# 0.1, so the standard error is $0.1 / \sqrt 3 = 0.058$. If a paper reports 90.4, its number is 0.2 away from this mean.
# This distance is 3.5 standard errors:

# %%
runs = [90.1, 90.2, 90.3]
error = standard_error(runs)
print(f"{sum(runs) / 3:.1f} ± {error:.3f}; 90.4 is {(90.4 - sum(runs) / 3) / error:.1f} standard errors away")
assert math.isclose(error, 0.1 / math.sqrt(3))

# %% [markdown]
# ## MLPs
#
# The paper's MLP on Fashion-MNIST has three hidden layers of 1568 neurons each. The paper trains this MLP for 100
# epochs at 99 % sparsity. Our recorded runs follow the paper's recipe: the same pixels, training images, initial
# weights and learning rates.
#
# The paper's code reports the accuracy of the *best test epoch*, so we do the same here. By construction, this accuracy
# is too high (stage 06), in the paper and in our runs.


# %%
def best_test_epoch(row: dict) -> float:
    return 100 * row["test"]["best"]


# %% [markdown]
# The network, the data, the optimizer and the number of links are the same as in the paper. **Predict:** will our
# accuracies differ from the paper's accuracies by only a few standard errors?

# %%
fashion = recorded["mlp_paper: fashion_mnist"]
reported = {method: accuracy for method, (accuracy, _) in paper.PAPER_MLP["fashion_mnist"].items()}
of_fashion = paper.beside(fashion, reported, best_test_epoch)
formats = {"runs": "{:.0f}", "difference": "{:+.2f}", "standard_errors": "{:+.1f}"}
pd.DataFrame(of_fashion).set_index("method").astype(float).style.format(formats, precision=2, na_rep="")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# CHTs (`chts/paper_mlp_fashion`), SET and RigL are within two standard errors of the paper's accuracies. So three seeds
# show no clear difference from the paper. CHT is seven standard errors *above* the paper's accuracy. The other methods
# ran with only one seed, so the table shows a difference for them, but no standard error. GMP has not run yet.
#
# Why is our CHT better? It stops exchanging links after a few epochs, because it regrows almost the same links that it
# removes. We trained CHT once without this early stop. Its best epoch has 88.80 %, and the paper has 88.70 %. So the
# paper's CHT probably exchanged links for longer than ours. One seed is a hint, not a proof.
#
# A standard error covers only the effect of the *seeds*. It does not cover other differences between the experiments.
# So even if two numbers are equal, this does not prove that the experiments were the same.
#
# We learnt this from our own mistake. Our old CHTs was twenty standard errors below the paper's CHTs, and we reported
# "does not agree". But our old CHTs was a different method: its new links started from zero, and its initial network
# differed from the paper's initial network.
# </details>
#
# The next table shows the share of neurons that are active at the end of the training, beside the paper's numbers:

# %%
neurons = []
for method, (_, reported_neurons) in paper.PAPER_MLP["fashion_mnist"].items():
    ours = [100 * row["active_neurons_published"] for row in fashion if row["method"] == method]
    if ours and reported_neurons is not None:
        neurons.append({"method": method, "paper (%)": reported_neurons, "ours (%)": round(sum(ours) / len(ours))})
pd.DataFrame(neurons).style.hide(axis="index")

# %% [markdown]
# CHT, CHTs with CH2-L3n (`chts/paper_mlp_fashion`) and CHTss keep more neurons active than in the paper. For CHT, the
# early stop explains a part of the difference: in our run without this stop, 61 % of the neurons stay active. Apart
# from this, either the runs differ from the paper's runs, or the paper counts active neurons in another way. We do not
# know which. For RigL, the share varies from 40 % to 82 % between our three seeds.
#
# On CIFAR10, we have one run each of CHTs, RigL and SET, with images that were compressed as JPEG. In the best epoch,
# CHTs is ahead of SET by 8.72 points. In the paper, the difference is 7.27 points. These runs shift and mirror the
# training images at random, because the published code does this on CIFAR10. We have no recorded runs on the other two
# data sets of the paper's table, MNIST and EMNIST.
#
# ## Translation: compare differences
#
# The paper's Table 1 shows the BLEU of a Transformer. Our model has about a tenth as many weights as this Transformer.
# So we cannot compare the scores themselves. With care, we can compare what sparsity *costs*. The table shows the BLEU
# of SET, CHTs and CHTss minus the BLEU of FC in the same study, on Multi30k:

# %%
multi30k = recorded["translation: multi30k, small"]


def bleu(row: dict) -> float:
    return row["test"]["bleu"]


costs = []
for row in score_differences(multi30k, bleu, "fc"):
    table = paper.PAPER_TABLE_1["multi30k"]
    theirs = table[row["method"]][row["sparsity"]][0] - table["fc"][0.0][0]
    ours = f"{row['difference']:+.2f} ± {row['interval']:.2f}"
    costs.append(
        {"method": row["method"], "sparsity": f"{row['sparsity']:.0%}", "paper": f"{theirs:+.2f}", "ours": ours}
    )
pd.DataFrame(costs).style.hide(axis="index")

# %% [markdown]
# Here, the number after ± is the half-width of a 95 % confidence interval. Our intervals are wide, because BLEU on a
# thousand short captions is a noisy measure and we have only three seeds. If the paper's difference lies inside our
# interval, this does *not* show that we reproduced the paper's result.
#
# ## Language models: compare differences in nats
#
# For perplexities, the ratio matters, not the difference. So we compare the logarithms of the perplexities, in nats per
# token. The table shows the paper's 60M model on OpenWebText beside our models of two sizes on the corpus books (stage
# 09). Each number is the loss of a method minus the loss of SET in the same study. A negative number means that the
# method is better than SET:


# %%
def loss(row: dict) -> float:
    return row["validation"][-1]["loss"]


def minus_set(sparsity: float) -> pd.DataFrame:
    table = paper.PAPER_TABLE_2["60m"]
    theirs = {
        method: math.log(cells[sparsity] / table["set"][sparsity])
        for method, cells in table.items()
        if method not in ("fc", "set")
    }
    columns = {"60M, paper": {method: f"{value:+.3f}" for method, value in theirs.items()}}
    for size in ("tiny", "small"):
        rows = score_differences(recorded[f"language: books, {size}"], loss, "set")
        columns[f"{size}, ours"] = {
            row["method"]: f"{row['difference']:+.3f} ± {row['interval']:.3f}"
            for row in rows
            if row["sparsity"] == sparsity and row["method"] in theirs
        }
    return pd.DataFrame(columns)


pd.concat({f"{share:.0%}": minus_set(share) for share in (0.7, 0.9, 0.95)}).fillna("")

# %% [markdown]
# In the paper's column, CHTs and CHTss are ahead of SET by 0.07 to 0.14 nats. On books, we have no runs of these
# methods as the paper defines them. On Tiny Shakespeare, we have runs of all nine methods at 90 % sparsity, each with
# three seeds. In these runs, stage 09 finds no clear difference between SET and CHTs, or between SET and CHTss. In the
# paper's column, RigL is 0.23 to 0.26 nats behind SET. Our runs show no gap of this size. But our `tiny` model has a
# sixtieth as many weights as the paper's model, and saw about 410,000 tokens. Our `small` model has a sixth as many
# weights as the paper's model, and saw about 102,000 tokens. The paper's model saw more than a billion tokens. The
# paper also reports numbers that explain why RigL is so far behind. These numbers come from the 130M model, trained
# with the same settings, but with weights in float32 instead of bfloat16:

# %%
mixed, single = paper.PAPER_TABLE_2["130m"], paper.PAPER_FLOAT32
pd.DataFrame(
    {"method": method, "sparsity": f"{share:.0%}" if share else "", "bfloat16": mixed[method][share], "float32": value}
    for method, cells in single.items()
    for share, value in cells.items()
).style.format({"bfloat16": "{:.2f}", "float32": "{:.2f}"}).hide(axis="index")

# %% [markdown]
# At 70 % sparsity, float32 lowers the perplexity of RigL from 25.85 to 18.34. The perplexity of CHTs is close to this
# value (17.99), and the perplexity of GraNet is even lower (17.92). So the ranking in the paper's table is valid only
# for weights in bfloat16.
#
# ## Claims
#
# A claim says that one method is ahead of another method. For each task with recorded runs of both methods, we compute
# the difference of the scores for each seed, and the 95 % confidence interval of the mean difference. A claim *holds*
# if at least one task has an interval above 0, and it *does not hold* if at least one task has an interval below 0. If
# all intervals contain 0, or if two tasks contradict each other, the verdict is *undecided*. So each claim has one
# verdict and appears in only one of the tables below. If the column "source" says "its design", the paper has no
# numbers for the claim. But the paper proposes the first of the two methods, so we read the design of this method as a
# claim. The numbers under "ahead by" are percentage points of accuracy on the digits and on Fashion-MNIST, and points
# of BLEU in translation.
#
# **Predict:** we have three to ten seeds for each claim with runs. What share of these claims do our runs decide, for
# or against the paper?

# %%
everything = [row for rows in recorded.values() for row in rows]
weighed = paper.weigh(paper.CLAIMS, everything)
claims = paper.by_claim(weighed)
assert len({row["claim"] for row in claims}) == len(claims)
verdicts = pd.Series([row["verdict"] for row in claims]).value_counts()
compared = sum(row["advantage"] is not None for row in weighed)
print(verdicts.to_string(), f"comparisons with runs: {compared}", sep="\n")


# %%
def ahead(comparison: dict) -> str:
    if comparison["advantage"] is None:
        return ""
    return f"{comparison['advantage']:+.3f} ± {comparison['interval']:.3f} ({comparison['seeds']} seeds)"


def claims_that(verdict: str) -> pd.DataFrame:
    lines = [
        {
            "claim": row["claim"],
            "source": row["source"],
            "ahead by": "; ".join(map(ahead, row["comparisons"])),
            "how our runs differ": "; ".join(comparison["differs"] for comparison in row["comparisons"]),
        }
        for row in claims
        if row["verdict"] == verdict
    ]
    return pd.DataFrame(lines).style.hide(axis="index")


claims_that("holds")

# %%
claims_that("does not hold")

# %%
claims_that("undecided")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Six of the 16 claims with runs are decided, and one of the six verdicts contradicts the paper. On Fashion-MNIST, CHTs
# is ahead of SET, RigL and CHT, and removal by relative importance is ahead of removal by magnitude, as the paper says.
# In our translator of number words, regrown links that start from zero give better translations than regrown links that
# get their last weights back. On the digits, the interval of the same claim contains 0. So this verdict comes from one
# task, and the interval of this task almost contains 0. Most claims stay open. With small tasks and few seeds, we cannot
# detect a difference of half a point. On average, one in twenty intervals does not contain the true difference, so
# chance alone may make one of the 17 comparisons look decided. A verdict is valid only for our runs. The last column of
# each table says how our runs differ from the paper's runs.
# </details>
#
# We have not tested these claims yet:

# %%
claims_that("untested")

# %% [markdown]
# ## Look at the curves
#
# The final score does not show how a run reached this score. The figure shows the stored learning curves of one
# comparison. To see another comparison, write its name from the first table into `comparison` in the parameters cell,
# or call the function `curves` yourself. The figure leaves out methods whose name contains the word `with` (`chts with
# …`), because these names are too long. The command at the end of this section writes a report, whose tables contain
# these methods.


# %%
def curves(name: str, sparsity: float) -> None:
    score = report.SCORES[recorded[name][0]["task"]].course_name
    figures.show(
        figures.learning_curves(report.courses(recorded[name], sparsity), score),
        f"{name}, {sparsity:.0%} sparse: a line shows the {score} by step as the mean over seeds, and its band "
        "shows the range over seeds.",
    )


sparsities = sorted({row["sparsity"] for row in recorded[comparison] if row["method"] != "fc"})
curves(comparison, sparsities[-1])

# %% [markdown]
# The explorer below compares two methods, and shows the result for each seed.
#
# On the digits at 97 % sparsity, CHTs ends a third of a point ahead of SET, on average over ten seeds. **Predict:**
# with how many of the ten seeds is CHTs ahead?

# %%
explorer = widgets.CurveExplorer()
explorer

# %%
seeded = widgets.CurveState("images: digits", 0.97, "chts", "set")
result = widgets.CurveExplorer.compute(seeded)
figures.show(widgets.CurveExplorer.draw(seeded, result), result.description)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# CHTs is ahead with six seeds. With two seeds, the methods are level. With the remaining two seeds, SET is ahead by 0.6
# points. With only one seed, you could have found any of the three results.
# </details>
#
# `chts report results` writes all curves and tables into one page. `chts report DIR` writes such a page for the runs in
# the folder DIR.
#
# ## Exercise: how far away?
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# Four runs of your method reached an accuracy of 71, 73, 72 and 72 per cent. A paper reports 74 per cent. How many
# standard errors is the paper's result above your mean?

# %% tags=["exercise"]
errors_away = None

# %% tags=["check"]
exercises.check("11.errors_away", errors_away)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The variance of the four accuracies is $2 / 3$, because the mean uses one degree of freedom.
# </details>
#
# <details><summary>Solution</summary>
#
# The standard deviation is $\sqrt{2/3} = 0.816$. With four runs, the standard error is this standard deviation divided
# by $\sqrt 4 = 2$, which gives 0.408. The paper's result is 2 points above your mean, and $2 / 0.408 = 4.9$:
#
# ```python
# errors_away = 2 / (math.sqrt(2 / 3) / 2)
# ```
# </details>

# %% [markdown]
# ## Exercise: what does an interval cover?
#
# *★★☆ · 15 minutes · essential · objective 1 · write code*
#
# Simulate 20,000 studies of the same question. Every study has `n` runs. The score of a run is `shift` plus normal
# noise of standard deviation 1, which the generator draws. The interval of a study is its mean ± `factor` standard
# errors. Return the share of studies whose interval contains 0, the true value. The shift stands for a difference in
# the set-up, which has the same effect on all runs. The check uses three cases: 3 runs with the factor $t = 4.303$ and
# no shift; 3 runs with the factor 1.96 and no shift; and 30 runs with the factor $t = 2.045$ and a shift of 1. Predict
# the three shares first.


# %% tags=["exercise"]
def coverage(n, factor, shift, generator):
    """Share of simulated studies whose interval contains 0. Write this function."""


# %% tags=["check"]
exercises.check("11.coverage", coverage)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.randn(20000, n, generator=generator)` returns a tensor with one study per row. `std(dim=1)` divides by n − 1.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def coverage(n, factor, shift, generator):
#     runs = torch.randn(20000, n, generator=generator) + shift
#     error = runs.std(dim=1) / n**0.5
#     return (runs.mean(dim=1).abs() <= factor * error).float().mean().item()
# ```
#
# The shares are 95 %, 81 % and less than 1 %. The factor 1.96 is right for many runs, but with three runs it gives an
# interval that is too narrow. In the third case, the interval covers the variation between seeds, but it does not cover
# the shift. More seeds make the interval narrower, so the interval misses 0 more often.
# </details>

# %% [markdown]
# ## Exercise: pair them
#
# *★★☆ · 10 minutes · useful · objective 2 · write code*
#
# With the seeds 0 to 3, method A reached accuracies of 90, 94, 98 and 92 per cent. With the same seeds, method B
# reached 88, 93, 96 and 91 per cent. Is A ahead? You can compute the 95 % confidence interval of the difference (the
# mean of A minus the mean of B) in two ways. Write a function that returns the half-widths of both intervals:
#
# - *paired*: the interval of the mean of the seed-by-seed differences, with $n - 1$ degrees of freedom;
# - *unpaired*: the interval that you get if you treat the runs of A and B as independent. Add the squared standard
#   errors of the two means, and use $2n - 2$ degrees of freedom.
#
# Predict first: which of the two intervals contains 0?


# %% tags=["exercise"]
def half_widths(a, b):
    """Half-width of the paired and of the unpaired interval. Write this function."""


# %% tags=["check"]
exercises.check("11.half_widths", half_widths)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `standard_error` works on a list of numbers, `math.hypot` returns the square root of a sum of squares, and
# `stats.t.ppf(0.975, freedom)` returns the factor.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def half_widths(a, b):
#     n = len(a)
#     paired = stats.t.ppf(0.975, n - 1) * standard_error([one - other for one, other in zip(a, b, strict=True)])
#     unpaired = stats.t.ppf(0.975, 2 * n - 2) * math.hypot(standard_error(a), standard_error(b))
#     return paired, unpaired
# ```
#
# The mean difference is 1.5 points. The half-width of the paired interval is 0.92. So this interval does not contain 0,
# and A is ahead. The half-width of the unpaired interval is 5.87. So this interval contains 0, and it does not show
# which method is ahead. The scores vary by several points from seed to seed, but in the same way for A and for B. So
# this variation cancels out in the differences.
# </details>

# %% [markdown]
# ## Exercise: the same gain elsewhere
#
# *★☆☆ · 10 minutes · useful · objective 2 · write code*
#
# In the paper's 60M model at 90 % sparsity, CHTs has a perplexity of 33.03 and SET has a perplexity of 35.26. So CHTs
# is better than SET by some number of nats. On other data, your SET has a perplexity of 120. Which perplexity is better
# than 120 by the same number of nats? Write a function that returns this perplexity.


# %% tags=["exercise"]
def same_gain(rival, better, our_rival):
    """Perplexity that is as many nats below `our_rival` as `better` is below `rival`. Write this function."""


# %% tags=["check"]
exercises.check("11.same_gain", same_gain)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The loss in nats per token is the logarithm of the perplexity. Subtract the paper's gain in nats from the loss of your
# SET. Then `math.exp` gives the perplexity.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def same_gain(rival, better, our_rival):
#     return math.exp(math.log(our_rival) - (math.log(rival) - math.log(better)))
# ```
#
# The answer is 112.4. The paper's gain of 2.2 points of perplexity corresponds to 0.065 nats. At a perplexity of 120,
# the same gain of 0.065 nats corresponds to 7.6 points of perplexity.
# </details>

# %% [markdown]
# ## Exercise: a difference of differences
#
# *★★☆ · 15 minutes · essential · objective 2 · write code*
#
# You ran a method and its rival with the same seeds. `mine` and `rival` are the two lists of scores, in the order of
# the seeds. A paper compares the same two methods, but its scores are all higher than yours, or all lower than yours.
# `paper_mine` and `paper_rival` each contain a mean and its standard error. The runs of the paper are not paired. By
# how much is your advantage over the rival larger than the paper's advantage? Return this difference and its standard
# error. For independent numbers, the squares of the standard errors add up.


# %% tags=["exercise"]
def difference_of_differences(mine, rival, paper_mine, paper_rival):
    """Our advantage minus the paper's, and its standard error. Write this function."""


# %% tags=["check"]
exercises.check("11.difference_of_differences", difference_of_differences)

# %% [markdown]
# <details><summary>Hint</summary>
#
# You need three standard errors: one for your seed-by-seed differences, and one for each of the paper's two means.
# `standard_error` and `math.hypot` help.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def difference_of_differences(mine, rival, paper_mine, paper_rival):
#     ours = [one - other for one, other in zip(mine, rival, strict=True)]
#     gap = sum(ours) / len(ours) - (paper_mine[0] - paper_rival[0])
#     return gap, math.hypot(standard_error(ours), paper_mine[1], paper_rival[1])
# ```
# </details>

# %% [markdown]
# ## Exercise: decided by chance
#
# *★☆☆ · 5 minutes · useful · objective 3 · work out*
#
# Suppose that you make 13 comparisons, that the two methods are equally good in each of them, and that the comparisons
# are independent. Each interval is a 95 % confidence interval. What is the probability that at least one comparison
# looks decided?

# %% tags=["exercise"]
by_chance = None

# %% tags=["check"]
exercises.check("11.by_chance", by_chance)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First compute the probability of the opposite: all 13 intervals contain 0.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# by_chance = 1 - 0.95**13  # 0.487
# ```
#
# The probability is about one half. So a single decided claim among 13 comparisons is weak evidence.
# </details>

# %% [markdown]
# ## Exercise: sort a claim
#
# *★★☆ · 20 minutes · essential · objective 3 · write code*
#
# Write a function that returns the verdict on a claim that one method is ahead. `tasks` contains one list for each
# task: the advantages of this method over the other method, one per seed. Use the 95 % confidence interval of each
# task. A task with only one seed has no interval, so this task decides nothing. Return
#
# - `"holds"` if at least one interval is above 0 and no interval is below 0;
# - `"does not hold"` if at least one interval is below 0 and no interval is above 0;
# - `"untested"` if no task has an interval;
# - `"undecided"` in all other cases.


# %% tags=["exercise"]
def verdict(tasks):
    """The verdict on a claim, from its advantages by task and seed. Write this function."""


# %% tags=["check"]
exercises.check("11.verdict", verdict)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First leave out the tasks with fewer than two seeds. Then find the intervals that do not contain 0, and collect the
# signs of their means. With n seeds, the factor is `stats.t.ppf(0.975, n - 1)`.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def verdict(tasks):
#     tested = [task for task in tasks if len(task) > 1]
#     signs = set()
#     for task in tested:
#         mean, half = sum(task) / len(task), stats.t.ppf(0.975, len(task) - 1) * standard_error(task)
#         if abs(mean) > half:
#             signs.add(mean > 0)
#     if not tested:
#         return "untested"
#     if len(signs) != 1:
#         return "undecided"
#     return "holds" if signs.pop() else "does not hold"
# ```
# </details>
#
# ## To discuss
#
# 1. A paper reports the best test epoch, and you report the last epoch. To compare the two numbers, would you compute
#    your number in a different way, or try to correct the paper's number?
# 2. Our runs decide few claims. Would you rather have ten more seeds on the digits, or one seed at the paper's size?
# 3. A claim holds on one task, but the runs on another task leave it undecided. May you say that the claim holds? How
#    would you word the result?
#
# ## Self-check
#
# 1. Your mean is 20 standard errors below the paper's mean. Is the paper wrong?
#
# <details><summary>Answer</summary>
#
# Not necessarily. Chance differences between seeds do not explain such a gap. But the cause may be the paper's tuning,
# your settings, different preprocessing, or an error in the paper or in your own work. The standard error does not
# show which of these is the cause.
# </details>
#
# 2. Why should you not report the score of the best test epoch?
#
# <details><summary>Answer</summary>
#
# This score is the highest of many noisy scores on the test data, which you should use only once. With more evaluations
# or more noise, the highest score rises, although the model is the same.
# </details>
#
# 3. The interval of a difference contains 0. Are the two methods equally good?
#
# <details><summary>Answer</summary>
#
# You cannot know this. The data are compatible with a difference of 0, and with all other differences inside the
# interval.
# </details>
#
# 4. You compare 20 pairs of methods, and the two methods of each pair are equally good. On average, how many 95 %
#    intervals will not contain 0?
#
# <details><summary>Answer</summary>
#
# About one. Count your comparisons, and report how many you made.
# </details>
#
# ## Key takeaways
#
# - Check whether a printed table can be right before you compare your results with it.
# - A standard error covers the variation between seeds. The standard error does not cover differences in the set-up.
# - If you cannot compare the scores of two studies, you can sometimes compare the differences within each study.
# - "Undecided" is a result, and "does not hold" is a result too.
# - Do not trust a number without the record of its run.
#
# ## Further reading
#
# - X. Bouthillier et al., *Accounting for Variance in Machine Learning Benchmarks* (MLSys 2021), [arXiv
#   2103.03098](https://arxiv.org/abs/2103.03098): which sources of variation a seed covers, and which it does not
#   cover.
# - P. Henderson et al., *Deep Reinforcement Learning that Matters* (AAAI 2018), [arXiv
#   1709.06560](https://arxiv.org/abs/1709.06560). Seeds and code can change results as much as methods do.
# - J. Dodge et al., *Show Your Work: Improved Reporting of Experimental Results* (EMNLP 2019),
#   [arXiv 1909.03004](https://arxiv.org/abs/1909.03004): the best score as a function of the number of tries.
# - M. Post, *A Call for Clarity in Reporting BLEU Scores* (WMT 2018), [arXiv 1804.08771](https://arxiv.org/abs/1804.08771).
# - D. Blalock et al., *What is the State of Neural Network Pruning?* (MLSys 2020), [arXiv
#   2003.03033](https://arxiv.org/abs/2003.03033): why you can seldom compare the results of different papers.
# - J. Demšar, *Statistical Comparisons of Classifiers over Multiple Data Sets* (Journal of Machine Learning Research, 2006).
#
# Next: [12 What we know, what we don't](12_open_questions.ipynb).

# %%
records.publish(
    {
        "out_of_order": paper.out_of_order(),
        "fashion_mnist": of_fashion,
        "claims": {row["claim"]: row for row in claims},
        "comparison": comparison,
        "runs": {name: len(rows) for name, rows in recorded.items()},
    }
)
