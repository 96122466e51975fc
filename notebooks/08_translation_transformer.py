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
# # 08 · A sparse translator: which matrices, which masks
#
# **You will be able to**
#
# 1. follow a mask from one attention head to a whole Transformer;
# 2. say which matrices of a Transformer become sparse, and count their links;
# 3. train a translator with a tenth of its links, and compute its learning rate after an update;
# 4. say what a table of BLEU scores can show and what it cannot show.
#
# | | |
# |---|---|
# | Prerequisites | stage 01; stage 04 for percolation; stage 06 for the race (all methods are trained in the same way and compared); a rough idea of attention |
# | Time | 45 minutes to read, about two minutes to run on the number words |
# | Difficulty | ●●● |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Table 1 and the hyperparameters of its appendix |

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
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab import data, figures, models, scores, widgets
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import paper, records, translators
from chts_core.lab.results.statistics import paired_differences
from chts_core.lab.train import translation

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the race
device: str = "auto"  # auto, cpu or cuda
dataset: str = ""  # number_words, multi30k, iwslt14, iwslt17, wmt14 or wmt17; empty means the choice of the profile
method: str = "chts"  # the method whose translator we look at closely
methods: str = ""  # methods to race, separated by commas: fc,set,chts; empty means the choice of the profile
sparsity: float = 0.9  # share of absent links, in [0.5, 1) because several methods start at 0.5
recipe: str = ""  # multi30k_small, multi30k, ... (translation.RECIPES); if empty, profile and data set decide
steps: int = 0  # steps of the optimizer; 0 means the value of the recipe
seeds: int = 0  # number of runs per method; 0 means the value of the profile
data_dir: str = ""  # folder in which we look for data first
out_dir: str = ""  # folder of checkpoints and records, so that an interrupted race can continue; empty means none

# %%
settings = notebooks.start(
    "08_translation_transformer",
    profile,
    seed=seed,
    device=device,
    dataset=dataset,
    method=method,
    methods=methods,
    sparsity=sparsity,
    recipe=recipe,
    steps=steps,
    seeds=seeds,
)

# %% [markdown]
# ## The task
#
# The model translates numbers and dates, written in words, from English to German. A program generates the sentences,
# so you do not need to download anything. It is easy to see whether a translation is right. With the parameter
# `dataset`, you can select a larger data set instead.

# %%
corpus = data.load_translation(settings.dataset, data_dir)
print(f"{corpus.name}: {len(corpus.validation)} validation pairs, {len(corpus.test)} test pairs")
pd.DataFrame(corpus.validation[:6], columns=list(corpus.languages)).style.hide(axis="index")

# %% [markdown]
# Look at a number. English puts the tens before the units: *forty-two*. German puts the units first, *zweiundvierzig*
# (two-and-forty), and writes the whole number as one word. So a word-by-word translation is wrong. The model must learn
# to write the units before the tens, and attention makes this possible.
#
# As in stage 06, the model learns from the *training* pairs, we choose settings on the *validation* pairs, and the
# *test* pairs give the final score. No sentence is in more than one of the three sets. Otherwise, the final score would
# reward memorised sentences. The next cell checks that the three sets share no English sentence:

# %%
if corpus.name == "number_words":  # the other data sets are already split
    english = [{source for source, _ in part} for part in (corpus.train, corpus.validation, corpus.test)]
    print([len(sentences) for sentences in english])
    assert len(set.union(*english)) == sum(map(len, english))

# %% [markdown]
# ## How it is trained
#
# A *recipe* contains every setting of a run. Some recipes are for short runs that give a first impression. The recipe
# `multi30k_small` is for a run of about five minutes on two cores. Other recipes follow the paper's appendix, and
# `profile=paper` uses these recipes.

# %%
recipe = translation.RECIPES[settings.recipe or settings.recipes[settings.dataset]]
if settings.steps:
    recipe = replace(recipe, steps=settings.steps)
pd.Series(asdict(recipe)).to_frame("setting")

# %% [markdown]
# The model reads and writes *subwords*, or *pieces*: parts of words that are frequent in the training sentences. A
# batch contains sentence pairs of about the same length, so it needs little padding (extra pieces that make the
# sentences of a batch equally long). The optional [stage 08b](08b_subwords_beam_bleu.ipynb) builds subwords and batches
# by hand.

# %%
task = translation.prepare(corpus, recipe)
vocabulary = task.vocabulary
for sentence in corpus.validation[0]:
    print(" | ".join(vocabulary.pieces(vocabulary.encode([sentence])[0])))

# %% [markdown]
# ## One attention head, by hand
#
# The example has three *tokens*: the pieces *forty*, *-* and *two*. Each token is a row of four numbers. A head
# computes three vectors for each token: a *query* (what do I look for?), a *key* (how can others find me?) and a
# *value* (what do I say?). Each of these vectors comes from a linear layer with its own weight matrix. In this example,
# a weight of 0 means that the link is absent.

# %%
x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 2, 1]])  # "forty", "-", "two"
w_query = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 2], [0, 0, 0, 0], [0, 0, 1, 0]])
w_key = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
w_value = torch.tensor([[1.0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
query, key, value = x @ w_query.T, x @ w_key.T, x @ w_value.T
print(query, key, value, sep="\n")

# %% [markdown]
# The score of a query and a key is their dot product divided by √4 = 2, because the head has four neurons. When *forty*
# looks at *two*, the query is (1, 2, 0, 0) and the key is (2, 1, 0, 0), so the score is
# $(1 \cdot 2 + 2 \cdot 1)/2 = 2$. The softmax turns the three scores of a query into shares: it divides each
# $e^{score}$ by the sum of the three exponentials.

# %%
attention_scores = query @ key.T / math.sqrt(4)
print(attention_scores)
exponentials = [math.exp(float(score)) for score in attention_scores[0]]
shares = [exponential / sum(exponentials) for exponential in exponentials]
print("attention shares of forty, - and two in the row of forty:", [round(share, 3) for share in shares])

# %% [markdown]
# For *forty*, the head returns the *mixture* of the three values: their mean, weighted by these shares. PyTorch
# computes all of this in one call:

# %%
mixture = torch.tensor([sum(share * float(value[token, j]) for token, share in enumerate(shares)) for j in range(4)])
print(mixture.round(decimals=3))
by_torch = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
assert torch.allclose(by_torch[0], mixture)

# %% [markdown]
# ## Exercise: one head with a mask
#
# *★★☆ · 12 minutes · essential · objective 1 · write code*
#
# Write a function that computes the attention of one head with absent links, for any number of tokens, inputs and
# neurons. `weights` and `masks` are dictionaries, each with a matrix for "q", "k" and "v" (queries, keys and values).
# Each matrix has a row for each neuron of the head. Unlike in the example above, the weights of absent links are *not*
# 0. Do not use PyTorch's attention functions.


# %% tags=["exercise"]
def attend(x: torch.Tensor, weights: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mixture of values (tokens, neurons) for tokens x (tokens, inputs). Write this function."""


# %% tags=["check"]
exercises.check("08.attend", attend)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Multiply each weight matrix by its mask first. The scores form a matrix with a row per query and a column per key, and
# the shares in each row sum to 1.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def attend(x: torch.Tensor, weights: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> torch.Tensor:
#     query, key, value = (x @ (weights[name] * masks[name]).T for name in "qkv")
#     scores = query @ key.T / math.sqrt(query.shape[1])
#     return scores.softmax(dim=1) @ value
# ```
# </details>
#
# ## The mask of a head
#
# Look at the products in a score. Neuron $j$ of a query is multiplied only by neuron $j$ of a key. So queries and keys
# are a **pair**: if neuron $j$ has no links in one of the two matrices, the product is 0, whatever number the other
# matrix gives. The next picture shows the mask of the keys transposed, so the pair looks like a chain from stage 04.
#
# Which neurons of the head are inactive? Look at `w_query` and `w_key` before you look at the picture.

# %%
w_output = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
masks = {"q": w_query != 0, "k": w_key != 0, "v": w_value != 0, "o": w_output != 0}
figures.show(
    figures.percolating_network(
        [masks["q"], masks["k"].T], ("read by\nqueries", "neurons\nof the head", "read by\nkeys")
    ),
    "Two neurons of the head are of no use: neuron 2 has no link in the queries (left), and neuron 3 has no link "
    "in the keys (right). Both are crossed out. The dashed lines are the links that they still have.",
)

# %% [markdown]
# The values and the output layer `o` of the attention are a **chain**: an output reads neuron $j$ of the mixture, which
# comes from neuron $j$ of the values. A feed-forward block follows the attention. Its two layers are a chain too.
#
# **Predict:** the four layers of this head have 16 links. The legend of the picture above counts three incomplete
# links. How many incomplete links do `w_value` and `w_output` have together?

# %%
figures.show(
    figures.percolating_network(
        [masks["v"], masks["o"]], ("read by\nvalues", "neurons\nof the head", "outputs of\nthe attention")
    ),
    "Neuron 2 has no incoming link but one outgoing link. Neuron 3 has an incoming link but no outgoing link. The "
    "links of the values are on the left, and the links of the output layer are on the right.",
)

# %% [markdown]
# A `LayerGraph` says which layers belong to an attention block. Percolation then works head by head:

# %%
graph = chts.LayerGraph(attentions=(chts.Attention("q", "k", "v", "o", heads=1, key_heads=1),))
percolated = chts.percolation.percolate(masks, graph)
cut = {name: int((masks[name] & ~percolated[name]).sum()) for name in masks}
print("links:", {name: int(mask.sum()) for name, mask in masks.items()}, "cut:", cut)
assert cut == {"q": 1, "k": 2, "v": 1, "o": 1}

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Neuron 2 has two links in the keys and none in the queries. Neuron 3 has one link in the queries and none in the keys.
# So percolation cuts three links of the pair. Percolation also cuts two links of the chain: the value link of neuron 3,
# which no output reads, and the output link of neuron 2, because neuron 2 has no link in the values. So 11 of the 16
# links are left.
# </details>
#
# If we set the weights of the five cut links to 0, the attention gives the same output as before:

# %%
cleaned = [w * percolated[name] for w, name in ((w_query, "q"), (w_key, "k"), (w_value, "v"), (w_output, "o"))]
after = F.scaled_dot_product_attention(*(x[None] @ w.T for w in cleaned[:3]))[0] @ cleaned[3].T
assert torch.allclose(after, by_torch @ w_output.T)

# %% [markdown]
# The output stays exactly the same only if the layers have no biases. Our model has biases, as most Transformers do.
# With biases, a neuron that has no links in one matrix may still contribute to the output through its links in the
# other matrix. When percolation cuts these links, the output changes.
#
# ## Exercise: predict a head's percolation
#
# *★★★ · 20 minutes · essential · objective 1 · write code*
#
# Write a function that applies percolation to one head. `masks` contains the Boolean masks of "q", "k" and "v", with a
# row for each neuron of the head, and the mask of "o", with a *column* for each neuron. Check two things for each
# neuron $j$. Do row $j$ of "q" and row $j$ of "k" both have a link? Do row $j$ of "v" and column $j$ of "o" both have a
# link? If a check fails, cut all links in the two rows (or in the row and the column) of this check. Return the new
# masks. Do not change the masks that the function receives. Predict first: if row $j$ of "q" is empty, how many links
# of row $j$ of "v" does percolation cut?


# %% tags=["exercise"]
def percolate_head(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The masks of q, k, v and o without the links of inactive neurons. Write this function."""


# %% tags=["check"]
exercises.check("08.percolate_head", percolate_head)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `mask.any(dim=1)` shows which rows have a link, and `mask.any(dim=0)` shows which columns have a link. Answer two
# separate questions: is the pair of neuron $j$ active, and is the chain of neuron $j$ active?
# </details>
#
# <details><summary>Solution</summary>
#
# A neuron that is inactive in the queries loses no link of "v". The other neurons of the head still determine the
# shares, and the value of neuron $j$ is multiplied by these shares.
#
# ```python
# def percolate_head(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
#     pair = (masks["q"].any(dim=1) & masks["k"].any(dim=1))[:, None]
#     chain = masks["v"].any(dim=1) & masks["o"].any(dim=0)
#     return {
#         "q": masks["q"] & pair,
#         "k": masks["k"] & pair,
#         "v": masks["v"] & chain[:, None],
#         "o": masks["o"] & chain,
#     }
# ```
#
# One pass over the neurons is enough. A cut removes all links of a row or column, and the links that neuron $j$ loses
# affect no other neuron of the head.
# </details>
#
# ## The model and its sparse matrices
#
# An encoder reads the English pieces, and a decoder writes the German pieces. The decoder looks at what it has written
# (self-attention) and at the output of the encoder (cross-attention). Each attention block has four linear layers (q,
# k, v, o), and each feed-forward block has two linear layers. A layer of the encoder has one block of each kind, so it
# has six linear layers. A layer of the decoder has a second attention block, so it has ten linear layers.

# %%
figures.show(
    figures.blocks(["transformer"]),
    "One layer of our encoder has six sparse matrices. A layer of the decoder has a second attention block with "
    "four more sparse matrices. This block reads its keys and values from the output of the encoder. The embedding, "
    "the norms and the output layer stay dense.",
)

# %% [markdown]
# The next table uses the names that the layers have in the model. `feed_forward.0` is `w1` in the picture, and
# `feed_forward.3` is `w2`:

# %%
dimensions = models.TRANSFORMER_SIZES[recipe.size]
print(dimensions)
plan = translation.plan_run(task, settings.method, settings.sparsity, recipe)
assert len(plan.budget.shapes) == dimensions.layers * (6 + 10)
links = plan.budget.links(recipe.steps)
layers = [
    {"layer": name.removesuffix(".weight"), "shape": f"{out}×{in_}", "links": links[name]}
    for name, (out, in_) in plan.budget.shapes.items()
]
pd.DataFrame(layers).style.hide(axis="index")

# %% [markdown]
# Before a run starts, the planner shows what the run will do:

# %%
print(str(plan).partition("\n\n")[2])

# %% [markdown]
# The embedding stays dense. The embedding is a table with a row for each piece. The last layer (the output layer in the
# picture) uses the same table to score each possible next piece. How many weights does the embedding have? If the other
# matrices keep 10 % of their weights, does the embedding have more weights than they keep?

# %%
sizes = {recipe.size: vocabulary.size, "multi30k": 8000, "wmt": 32_000}
rows = [{"size": name} | translators.weights_kept(name, pieces, sparsity) for name, pieces in sizes.items()]
pd.DataFrame(rows).style.hide(axis="index").format(thousands=",").format("{:.1%}", subset=["kept"])

# %% [markdown]
# The column `kept` shows the share of *all* weights that the model keeps. This share is well above the density of the
# sparse layers. In each row of the table, the embedding alone has more weights than the sparse layers have links. The
# phrase "10 % of the links" describes only the sparse layers, here and in the paper. (For the last two rows, we chose
# the numbers of pieces ourselves. The paper does not say how many pieces its vocabularies have.)
#
# ## Exercise: weights of each matrix
#
# *★★☆ · 12 minutes · essential · objective 2 · write code*
#
# `shapes` maps the name of each parameter of a translator to its shape. The names come from our model's
# `named_parameters()`: "embedding.weight", "encoder.0.attention.q_proj.weight", "encoder.0.feed_forward.0.bias", …
# Every sparse matrix has the same sparsity. Return a dictionary that maps each name to the number of weights that the
# parameter keeps. Round the number of links in each sparse matrix to the nearest integer. The embedding, the norms and
# the biases stay dense.


# %% tags=["exercise"]
def weights_left(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """How many weights each parameter keeps, by name. Write this function."""


# %% tags=["check"]
exercises.check("08.weights_left", weights_left)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Biases and norms have one dimension. The embedding has two dimensions, but it stays dense: it keeps all
# `math.prod(shape)` weights.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def weights_left(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
#     left = {}
#     for name, shape in shapes.items():
#         sparse = len(shape) == 2 and name != "embedding.weight"
#         left[name] = round((1 - sparsity) * math.prod(shape)) if sparse else math.prod(shape)
#     return left
# ```
#
# Why does the embedding stay dense? The paper does not say. One possible reason is that the embedding reads no neurons
# of an earlier layer. Another possible reason is that the embedding has a row for each piece, and a row with few
# weights describes a piece poorly. A bias or a norm has one weight per neuron, so there are no links to choose from.
# </details>
#
# ## Exercise: links of a decoder layer
#
# *★☆☆ · 6 minutes · useful · objective 2 · work out*
#
# The paper's Multi30k model has a width of 512 and feed-forward blocks of 1024 neurons. How many links does one
# *decoder* layer of this model have at 95 % sparsity? Do not count biases. Predict first: does a decoder layer have
# twice as many links as an encoder layer?

# %% tags=["exercise"]
decoder_links = None

# %% tags=["check"]
exercises.check("08.decoder_links", decoder_links)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The layer has two attention blocks with four square matrices each, and two feed-forward matrices, which connect 512
# neurons with 1024 neurons.
# </details>
#
# <details><summary>Solution</summary>
#
# Together, the two feed-forward matrices are as large as four square matrices of width 512. So a decoder layer is as
# large as 8 + 4 such matrices, and an encoder layer is as large as 4 + 4. A decoder layer has one and a half times as
# many links as an encoder layer. The core rounds the number of links of each matrix separately, so its total differs
# from this result by a few links:
#
# ```python
# decoder_links = 0.05 * (8 * 512 * 512 + 2 * 512 * 1024)
# ```
# </details>
#
# ## The schedule
#
# Adam's learning rate rises linearly for $w$ steps. Then it falls in proportion to the inverse square root of the step
# $t$. For a model of width $d$ and a factor $c$, the learning rate is
#
# $$c \cdot d^{-1/2} \cdot \min(t^{-1/2}, \; t \cdot w^{-3/2})$$
#
# The peak is $c/\sqrt{d\,w}$, at step $w$. Check by hand with $c = 1$, $d = 100$, $w = 400$: at step 400 the rate is
# 1/200 = 0.005. At step 200, the rate is half as high. At step 1600, the rate is also half as high, since 1600 is 4
# times 400 and √4 = 2.

# %%
by_hand = replace(recipe, learning_rate=1.0, warmup=400, iterative_warmup=20)
for step, expected in ((200, 0.0025), (400, 0.005), (1600, 0.0025)):
    rate = translation.learning_rate_at(step, 100, by_hand)
    print(f"step {step:>4}: {rate:.4f}")
    assert math.isclose(rate, expected)

# %% [markdown]
# Every update of the topology adds new links, and Adam has no moments for them yet. The paper gives the sparse methods
# 20 *iterative warm-up steps*, but it gives no details. We interpret these steps as follows. After an update, the
# learning rate starts at a twentieth of the *scheduled rate*, which the formula gives. Then it rises linearly and
# reaches the scheduled rate after 20 steps. The next cell compares the rate after an update at step 400 with the
# scheduled rate:

# %%
for step in (401, 410, 420, 421):
    rate = translation.learning_rate_at(step, 100, by_hand, last_update=400)
    print(f"step {step}: {rate / translation.learning_rate_at(step, 100, by_hand):.0%} of the schedule")

# %% [markdown]
# Our short runs update the topology more often than the paper's runs, so our runs have fewer warm-up steps after each
# update. Our recipes keep the paper's ratio of warm-up steps to steps between updates:

# %%
for name, used in {"paper": translation.RECIPES["multi30k"], "this run": recipe}.items():
    share = used.iterative_warmup / used.update_every
    print(
        f"{name}: {used.iterative_warmup} warm-up steps, {share:.0%} of the {used.update_every} steps between updates"
    )

# %%
updates = list(plan.budget.updates())
figures.show(
    figures.learning_rates(recipe, dimensions.width, updates),
    f"The learning rate falls after each of the {len(updates)} updates of the topology and returns to the schedule "
    f"in {recipe.iterative_warmup} steps. The dashed line is the schedule without these drops.",
)

# %% [markdown]
# ## Exercise: the rate after an update
#
# *★★☆ · 12 minutes · essential · objective 3 · write code*
#
# Write a function that returns the learning rate of step $t$. Steps are counted from 1. Use the schedule above with
# $c = 1$, $d = 100$ and $w = 400$. After an update of the topology, the rate returns linearly to the schedule over
# `steps` steps. The latest update came after step `last_update`. Before the first update, `last_update` is None.


# %% tags=["exercise"]
def learning_rate(step: int, last_update: int | None, steps: int) -> float:
    """The learning rate of a step. Write this function."""


# %% tags=["check"]
exercises.check("08.learning_rate", learning_rate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# With `steps` = 20 and an update after step 400, the rate of step 401 is a twentieth of the scheduled rate. From step
# 420 on, the rate is the full scheduled rate.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def learning_rate(step: int, last_update: int | None, steps: int) -> float:
#     schedule = 100**-0.5 * min(step**-0.5, step * 400**-1.5)
#     if last_update is None:
#         return schedule
#     return schedule * min(1.0, (step - last_update) / steps)
# ```
# </details>
#
# ## Beam search and BLEU, in short
#
# *Greedy* decoding takes the most likely next piece at each step. *Beam search* keeps several beginnings of the
# translation side by side and returns the translation to which the model gives the best score. *BLEU* is a score
# between 0 and 100. BLEU measures how many of the words that the model writes are also in the reference (the given
# translation). BLEU also counts groups of two, three and four neighbouring words. BLEU is 100 if every translation
# equals its reference. Stage 08b works through beam search and BLEU by hand.
#
# A German number is *one* word, which is right or wrong as a whole. So BLEU says little about how well the model
# translates numbers. Therefore we also report `exact`, the share of sentences in which every character is right.
#
# ## Train
#
# The training uses *label smoothing*. The right piece gets 90 % of the target probability, and the rest is spread over
# the vocabulary. So the training does not push the model to be fully certain of any piece. The validation loss below
# does not use label smoothing. This loss is $-\log p$(right piece), averaged over the pieces of the references. We use
# the natural logarithm, so the unit of the loss is the *nat*. In the table below, the column
# `right piece by geometric mean` shows $e^{-\text{loss}}$, the geometric mean of the probabilities of the right pieces.
# If the loss falls by one nat, this mean becomes $e = 2.718$ times as large. The loss is 0 if each right piece gets a
# probability of 1. If the model gives all $n$ pieces of the vocabulary the same probability, the loss is $\log n$.
#
# On the same computer, equal seeds give equal results. Another processor may round a sum differently, and training
# makes small differences larger. So your numbers may differ from the numbers on this page.

# %%
folder = Path(out_dir) if out_dir else None
all_seeds = range(settings.seed, settings.seed + settings.seeds)
mine = translation.race(
    task, [settings.method], sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder
)
run = mine[0]
print(
    f"{run.tokens:,} German tokens in {run.seconds:.0f} s; a uniform guess has the loss {math.log(vocabulary.size):.2f}"
)

# %%
looks = pd.DataFrame([asdict(look) | {"right piece by geometric mean": math.exp(-look.loss)} for look in run.looks])
looks.style.hide(axis="index").format({"loss": "{:.2f}", "bleu": "{:.1f}", "right piece by geometric mean": "{:.0%}"})

# %% [markdown]
# Here are five sentences from the test pairs. The model has never seen them:

# %%
shown = [
    {"source": source, "translation": ours, "reference": reference, "": "right" if ours == reference else "wrong"}
    for (source, reference), ours in list(zip(task.test_pairs, run.translations, strict=True))[:5]
]
pd.DataFrame(shown).style.hide(axis="index")

# %% [markdown]
# How wide should the beam be? The width is the number of beginnings that the search keeps, so a beam of 1 is greedy
# decoding. To choose the width, look at the *validation* pairs, never at the test pairs.

# %%
sources, references = (list(side) for side in zip(*task.validation_pairs[:200], strict=True))
rows = []
for beam in (1, 2, 4):
    translated = run.translator.translate(sources, beam=beam)
    bleu = scores.bleu(translated, references, lowercase=False).value
    rows.append({"beam": beam, "BLEU": bleu, "exact (%)": 100 * scores.exact_share(translated, references)})
beams = pd.DataFrame(rows)
beams.style.hide(axis="index").format("{:.1f}", subset=["BLEU", "exact (%)"])

# %%
print(f"highest validation BLEU: beam {beams.beam[beams.BLEU.idxmax()]}; used for the test: beam {recipe.beam}")

# %% [markdown]
# With the laptop profile, a beam of 4 has the highest BLEU on these pairs, 0.5 more than a beam of 2. We still use a
# beam of 2 for the test. The paper uses this beam width too, and our recipe fixes the width before the training. All
# methods here and all recorded runs use this width. So the test scores below may not be the best scores that beam
# search can give. A wider beam takes more time. If a model is sure of each piece, greedy decoding writes the same
# translation as beam search.
#
# BLEU depends on how the text is split into words, on whether capital letters matter, and on how BLEU treats a text in
# which no group of four words matches. The *signature* of a score describes these choices. Scores are comparable only
# if their signatures are equal. The paper does not give its signature. So we show our scores *beside* the paper's
# scores, but we do not rank them against each other. Our signature is:

# %%
print(run.signatures["bleu"])

# %% [markdown]
# ## Where the model looks
#
# We take the shortest validation sentence that has a number with tens and units and that the model translates
# correctly. The picture shows the cross-attention of the last decoder layer. Each row is a piece that the model wrote,
# and each column is a piece that it read.
#
# **Predict:** German writes the units before the tens. When the model writes the units, at which English piece should
# it look?

# %%
candidates = sorted(task.validation_pairs, key=lambda pair: ("ty-" not in pair[0], len(pair[0])))[:20]
written = run.translator.translate([source for source, _ in candidates])
right = [source for (source, target), ours in zip(candidates, written, strict=True) if ours == target]
sentence = right[0] if right else candidates[0][0]
attended = run.translator.attention(sentence)
cross = attended.weights[f"decoder.{dimensions.layers - 1}.cross_attention"]
print(f"{sentence} -> {attended.translation}")
figures.show(
    figures.attention_map(cross, attended.source, attended.target),
    f"The heads of the last decoder layer look at different pieces of “{sentence}”. Dark cells show strong "
    "cross-attention.",
)

# %%
for written, row in zip(attended.target, cross.mean(dim=0), strict=True):
    looked = sorted(zip(row.tolist(), attended.source, strict=True), reverse=True)[:2]
    print(f"{written:<14} looks most at", ", ".join(f"{piece} ({share:.0%})" for share, piece in looked))

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# When the model writes the German units, it looks at the English units, which stand at the *end* of the number. The
# heads divide the work, so a single head may look at other pieces. Attention shows what a head reads, not what the
# model does with it. After such a short training run, the mean attention of the heads may be spread over many pieces.
# In that case, the printed shares are small.
# </details>
#
# ## The mask of a trained head
#
# The picture shows the links of the queries and keys of one cross-attention head after training. Row $i$ of the queries
# is paired only with row $i$ of the keys, as in the example by hand.

# %%
attention_name = f"decoder.{dimensions.layers - 1}.cross_attention"
last_query, last_key = (run.last_masks[f"{attention_name}.{part}_proj.weight"] for part in "qk")
figures.show(
    figures.attention_head(last_query, last_key, dimensions.heads, 0),
    f"In head 0 of {attention_name}, each row of the queries is paired with the same row of the keys. The right "
    "panel shows how many links each row has. A red mark would show a row that has links in the queries or in the "
    "keys, but not in both.",
)

# %%
changed = f"{attention_name}.v_proj.weight"
exchanged = int((run.first_masks[changed] & ~run.last_masks[changed]).sum())
figures.show(
    figures.topology_change(run.first_masks[changed], run.last_masks[changed]),
    f"Training exchanged {exchanged} of the {int(run.first_masks[changed].sum())} links of layer {changed} in the "
    f"{run.method} run. The panels show the links before training, the links after it, and the changes.",
)

# %% [markdown]
# The history of the run has a row for each layer and each update. The table shows means over the layers at the first,
# the middle and the last update:

# %%
history = pd.DataFrame(run.history)
by_step = history.groupby("step")[["removed", "regrown", "overlap", "anp", "itop"]].mean()
by_step.iloc[sorted({0, len(by_step) // 2, len(by_step) - 1})].style.format(
    {"removed": "{:.0f}", "regrown": "{:.0f}", "overlap": "{:.0%}", "anp": "{:.0%}", "itop": "{:.0%}"}
)

# %% [markdown]
# Here `anp` is the share of active neurons among all output neurons of the layer. (In stage 04, we divided by the
# number of neurons that were active before the update.) `itop` is the share of all possible links that have been active
# at least once. `overlap` is the share of regrown links that the same update had removed.
#
# ## Try your own sentence
#
# **Predict:** what will the model write for "two hundred zebras"? The model can read every letter of *zebras*, but no
# training sentence contains this word.

# %%
explorer = widgets.TranslationExplorer.of(run.translator, sentence)
explorer

# %% [markdown]
# GitHub does not show widgets, so the next figure shows the first state of the explorer. The cell after the figure
# translates the sentence with zebras.

# %%
state = explorer.state
figures.show(widgets.TranslationExplorer.figure(state), widgets.TranslationExplorer.compute(state).description)

# %%
for attempt in ("two hundred", "two hundred zebras", "forty-two thousand zebras and a horse"):
    print(f"{attempt} -> {run.translator.translate([attempt])[0]}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The model gives no warning. It cannot say that it does not know a word. It writes the most probable pieces. For a word
# that it has never seen, these pieces are parts of numbers and dates. The model can read a sentence letter by letter
# without understanding it. After such a short training run, even *two hundred* may be translated wrongly.
# </details>
#
# ## The race
#
# A *race* trains every method for the same number of steps and compares the results. With equal seeds, all methods
# start from the same initial weights and get the same batches. The recipe is the same too, with one exception: FC has
# its own learning rate. We have already trained one method above. How long will the other methods take? The program
# measures the time of a few steps with another model, which it deletes afterwards:

# %%
names = list(dict.fromkeys([*settings.methods.split(","), settings.method]))
each = translation.predict_seconds(task, settings.method, sparsity, recipe, device=settings.device)
predicted_seconds = each * len(names) * settings.seeds
print(f"{each:.1f} s of training per run, {predicted_seconds:.0f} s for {len(names)} methods × {settings.seeds} seeds")

# %%
dense_rate = recipe.dense_learning_rate or recipe.learning_rate
print(f"factor c of the learning rate: FC {dense_rate:g}, sparse methods {recipe.learning_rate:g}")

# %% [markdown]
# **Predict:** how many BLEU points does each sparse method lose compared with FC at this sparsity? Will any sparse
# method have a higher BLEU than FC? Write your answers down before you run the cells.

# %%
rivals = [name for name in names if name != settings.method]
others = translation.race(task, rivals, sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder)
runs = sorted([*mine, *others], key=lambda run: (names.index(run.method), run.seed))
figures.show(
    figures.translation_race(runs),
    "All methods get better at the validation pairs during training. The lines show the BLEU of greedy "
    "translations by training step. The methods on the left keep their number of links, and the methods on the "
    "right lower it. FC is in both panels.",
)

# %%
summary = [
    row | {"flops": translation.plan_run(task, row["method"], sparsity, recipe).flops}
    for row in translation.summarise(runs)
]
table = pd.DataFrame(summary).rename(columns={"active_neurons": "active", "flops": "FLOPs", "validation_loss": "loss"})
table.style.hide(axis="index").format("{:.1%}", subset=["density", "active", "itop", "FLOPs"]).format(
    "{:.1f}", subset=["bleu", "interval", "exact", "seconds"], na_rep="–"
).format("{:.2f}", subset=["loss"])

# %% [markdown]
# `bleu` and `exact` (in per cent) are scores on the test pairs after the last step. `loss` is the loss on the
# validation pairs. `FLOPs` is the cost of the training steps as a share of FC's cost, if absent links cost nothing.
# This cost includes the dense last layer, so it cannot be as low as the density. `seconds` is the training time. Here
# the sparse layers are dense matrices with masks, so absent links also cost time (stage 07).

# %%
measured_seconds = sum(run.seconds for run in runs)
print(f"predicted {predicted_seconds:.0f} s of training, measured {measured_seconds:.0f} s")
measured_against = [rival for rival in ("fc", "chts") if rival in names]
differences = [row for rival in measured_against for row in paired_differences(runs, rival, "test_bleu")]
minus = {name: dict.fromkeys(measured_against, "") for name in names}
for row in differences:
    width = "" if row["interval"] is None else f" ± {row['interval']:.1f}"
    minus[row["method"]][row["rival"]] = f"{row['difference']:+.1f}{width}"
pd.DataFrame(minus).T.rename(columns={"fc": "BLEU minus FC", "chts": "BLEU minus CHTs"})

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# With the laptop profile, FC comes last, in BLEU and in `exact`. CHT has almost the same BLEU as FC. Do not conclude
# that sparse networks translate better. The race has a single seed, so it gives no confidence interval, and we do not
# rank the methods. The race has only a few hundred steps, so it shows how fast each method *begins* to learn. Also, FC
# trains with half the learning rate of the sparse methods. Both rates come from trials with twice as many steps as this
# race and with an earlier version of the methods. In the longer runs below, FC has the highest mean of `exact`. Run the
# race with `-p seeds 3` and more `steps` before you believe a difference. The measured time includes the updates of the
# topology, but the predicted time does not. Both times leave out the evaluations on the validation pairs.
# </details>
#
# ## Recorded runs
#
# The package contains records of longer runs. Each record contains the settings of its run, the versions of the
# software, the device and the training time in seconds. This section trains nothing. It reads the records from
# `results/translation.jsonl`.

# %%
recorded = translation.recorded()
print({name: sum(row["dataset"] == name for row in recorded) for name in data.TRANSLATION_SETS})

# %% [markdown]
# The first runs translate number words. Compared with the race above in the laptop profile, these runs have twice as
# many steps, twice as many tokens per step, and three seeds instead of one. The BLEU of these runs is so close to 100
# that we look at `exact` instead.

# %%
of_number_words = [row for row in recorded if row["dataset"] == "number_words"]
figures.show(
    figures.scores_by_method(
        translation.mean_scores(of_number_words, "exact"), xlabel="test sentences that are exactly right (%)"
    ),
    "With more links, the methods translate more number words exactly. A mark is the mean share over the recorded "
    "runs of a method at one sparsity, with its 95 % confidence interval. The dashed line and its band show FC.",
)

# %%
pd.DataFrame(translators.beside(of_number_words, "exact")).style.hide(axis="index")

# %% [markdown]
# The number after ± is the half-width of a 95 % confidence interval. Each difference compares runs with the same seed.
# In these runs:
#
# - **FC has the highest mean.** The other means are 0.5 to 2.2 points lower at 90 % sparsity, and 1.1 to 4.3 points
#   lower at 95 %. At 95 %, the intervals of the differences from FC do not contain 0 for SET, RigL, CHT and CHTs.
# - **CHTss is ahead of CHTs at 90 %**, by 1.2 ± 0.5 points. CHTss has more links than CHTs during training, so it needs
#   more operations. The same is true for GraNet, GMP and MEST. At 95 %, CHTss and these three methods have the highest
#   means among the sparse methods.
# - For all other sparse methods and sparsities, the intervals of the differences from CHTs contain 0. With three seeds
#   on an easy task, we can rank only a few methods. These runs say nothing about real translation.
#
# The next runs translate real sentences: captions of photographs from the data set Multi30k. These runs used two cores.
# Our model has about a tenth of the weights of the paper's model, and it was trained for a fifth of the paper's steps.
# So far there are runs of FC, SET, CHTs and CHTss.

# %%
of_multi30k = [row for row in recorded if row["dataset"] == "multi30k"]
figures.show(
    figures.scores_by_method(translation.mean_scores(of_multi30k, "bleu"), paper.PAPER_TABLE_1["multi30k"]),
    "Our small model has a lower BLEU than the paper's larger model, which was trained longer. The left panel "
    "shows means of the recorded runs on Multi30k, and the right panel shows the paper's Table 1. Each panel has "
    "its own axis.",
)

# %%
pd.DataFrame(translators.beside(of_multi30k, "bleu")).style.hide(axis="index")

# %% [markdown]
# With three seeds, the intervals of all BLEU differences from FC contain 0. The loss on the validation pairs is a more
# precise measure, because every token contributes to it. A lower loss is better:

# %%
pd.DataFrame(translators.beside(of_multi30k, "validation_loss", digits=2)).style.hide(axis="index")

# %% [markdown]
# Here is a comparison with the paper's Table 1:
#
# - **Agrees:** SET with 5 % of the links is behind FC. It loses 2.4 BLEU in the paper and 2.0 ± 2.1 here. Here the
#   validation loss of SET is also higher than the loss of FC, and the interval of this difference does not contain 0.
# - **Does not agree:** in the paper, CHTss is ahead of CHTs by 3.1 BLEU at both sparsities. Here CHTss is behind CHTs
#   by 0.5 ± 1.1 BLEU with 5 % of the links, and its validation loss is higher by 0.05 ± 0.04. With 10 % of the links,
#   CHTss and CHTs have about the same BLEU here. In the paper, CHTs and SET have about the same BLEU with 5 % of the
#   links. Here CHTs is ahead of SET by 1.6 ± 0.7 BLEU.
# - **Not decided:** with 10 % of the links, SET loses 1.7 BLEU in the paper and 0.3 ± 1.5 here. In the paper, CHTss is
#   ahead of FC by 1.5 BLEU with 10 % of the links and by 0.7 BLEU with 5 %. In our runs, the half-widths of the
#   confidence intervals for these two differences are larger than these leads.
# - **Differs:** our model has a tenth of the weights of the paper's model, and it was trained for a fifth of the
#   paper's steps. We use our own subwords, and we compute BLEU with sacrebleu (see the signature above). We trained FC
#   for 300 steps with three factors $c$ of the learning rate and chose the factor with the lowest validation loss. The
#   sparse methods share the factor 1, although CHTs had a lower loss with the factor 2 in runs of this length. FC
#   learns more slowly at first, so longer training might change the order of the methods.
# - **Untested:** we have no runs with the other methods, with the paper's sizes, or on IWSLT and WMT. The setting
#   `profile=paper` is made for such runs.
#
# In the runs on Multi30k, the sparse layers stored and multiplied only the existing links (stage 07). During some runs,
# the machine also ran other programs. So the next table shows only the fastest run of each method at each sparsity,
# with its training time in seconds:

# %%
pd.DataFrame(translators.times_as_fast(of_multi30k)).style.hide(axis="index")

# %% [markdown]
# ## Exercise: a lead by luck
#
# *★★☆ · 15 minutes · essential · objective 4 · write code*
#
# A table compares FC with several sparse methods and shows the best score in bold. Suppose that *all methods are
# equally good*. The BLEU of each run is the same true value plus a normally distributed error with the standard
# deviation `deviation`. The score of a method is the mean over its seeds. Draw many such tables, at least 5000. Return
# the mean lead of the best sparse method over FC. Predict first: is this lead 0?


# %% tags=["exercise"]
def lead_by_luck(rivals: int, seeds: int, deviation: float, generator: torch.Generator) -> float:
    """The mean lead over FC, in BLEU, of the best of `rivals` sparse methods, if all methods are equally good.

    Write this function.
    """


# %% tags=["check"]
exercises.check("08.lead_by_luck", lead_by_luck)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.randn(tables, methods, seeds, generator=generator)` draws all errors at once. FC has its own errors too.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def lead_by_luck(rivals: int, seeds: int, deviation: float, generator: torch.Generator) -> float:
#     means = deviation * torch.randn(20_000, 1 + rivals, seeds, generator=generator).mean(dim=2)
#     fc, best = means[:, 0], means[:, 1:].max(dim=1).values
#     return float((best - fc).mean())
# ```
#
# The mean lead is not 0. With eight rivals and one seed, the best rival is ahead by 1.42 standard deviations on
# average, and FC is the best of all in only one table out of nine. With more seeds, the lead is divided by the square
# root of the number of seeds. So a table must say how many seeds it has and how much the scores vary between seeds. Run
# the winner again with new seeds before you believe its lead.
# </details>
#
# ## To discuss
#
# 1. The embedding stays dense, here and in the paper. Would you make the embedding sparse? What would change in the
#    column `kept`, and what might happen to rare words?
# 2. FC comes last in our short race and first in the longer recorded runs. Do sparse networks learn faster at first, or
#    do the learning rates explain both results? Which experiment would decide between these two explanations?
# 3. The paper's BLEU scores have no signature. Which single number or file would you ask the authors for, and how would
#    you use it?
#
# ## Self-check
#
# 1. Neuron 5 of a head has ten links in the keys and none in the queries. What does percolation do, and why?
#
# <details><summary>Answer</summary>
#
# Percolation cuts the ten links. In the score, neuron 5 of the query is multiplied by neuron 5 of the key. Without
# biases, this product is always 0, so the links in the keys have no effect.
# </details>
#
# 2. A paper reports a Transformer "with 5 % of the links". What would you ask about the embedding?
#
# <details><summary>Answer</summary>
#
# Ask whether the embedding is counted. If the embedding stays dense, it may have more weights than the sparse layers
# have links, above all in a small model. Then the model keeps far more than 5 % of *all* its weights.
# </details>
#
# 3. Two papers report BLEU scores of 30.1 and 31.0 on the same test set. Why might this difference mean nothing?
#
# <details><summary>Answer</summary>
#
# The signatures may differ. Another way to split the text into words, or to treat capital letters, can change BLEU by
# more than 0.9. Also, without several seeds, nobody knows how much of the difference is due to chance.
# </details>
#
# 4. A method leads a table of nine methods by 0.9 BLEU, with one seed each. What does this lead show?
#
# <details><summary>Answer</summary>
#
# The lead does not show much. Even if all nine methods are equally good, one of them leads. The size of its lead
# depends on how much the scores vary between seeds, and one seed per method cannot show this variation.
# </details>
#
# ## Key takeaways
#
# - Queries and keys form a pair. The values and the output layer `o` form a chain, and so do the two feed-forward
#   layers. Percolation follows the pairs and chains.
# - The embedding stays dense. In the models of this stage, it has more weights than the sparse layers have links.
# - After each update of the topology, the learning rate drops and then returns to the schedule.
# - Report BLEU with its signature, the number of seeds and the standard deviation over seeds. The method that leads a
#   table may lead only by luck.
#
# ## Further reading
#
# - A. Vaswani et al., *Attention is all you need*, 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762): the
#   Transformer and its learning rate.
# - M. Post, *A call for clarity in reporting BLEU scores*, WMT 2018,
#   [arXiv 1804.08771](https://arxiv.org/abs/1804.08771): why a score needs its signature.
# - D. Elliott, S. Frank, K. Sima'an and L. Specia, *Multi30K: multilingual English-German image descriptions*, 2016,
#   [arXiv 1605.00459](https://arxiv.org/abs/1605.00459): the captions of the recorded runs.

# %%
records.publish(
    {
        "dataset": task.name,
        "data": task.digest,
        "subwords": vocabulary.size,
        "method": settings.method,
        "sparsity": sparsity,
        "recipe": asdict(recipe),
        "predicted_seconds": round(predicted_seconds, 1),
        "measured_seconds": round(measured_seconds, 1),
        "signature": run.signatures["bleu"],
        "beams": beams.to_dict("records"),
        "methods": summary,
        "differences": differences,
        "runs": [translation.as_record(run, task, recipe, settings.device) for run in runs],
    }
)
