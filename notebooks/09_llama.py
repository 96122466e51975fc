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
# # 09 · A sparse language model
#
# **You will be able to**
#
# 1. turn text into blocks of tokens;
# 2. compute perplexity, and compare models whose tokens differ;
# 3. say what percolation does to the masks of the gated block and the grouped heads of a LLaMA;
# 4. plan and train a LLaMA with a tenth of its links;
# 5. say which settings can favour one method over another.
#
# | | |
# |---|---|
# | Prerequisites | stage 04 for percolation; stage 06 for the race (all methods are trained in the same way and compared); stage 08 for attention |
# | Time | 45 minutes to read, two to three minutes to run on Python's language reference |
# | Difficulty | ●●● |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Table 2 and the hyperparameters of its appendix |

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
from chts_core.engine.layers import sparse_layers
from chts_core.lab import data, figures, models
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records, report
from chts_core.lab.results.statistics import mean_scores, paired_differences
from chts_core.lab.train import language

print(records.environment_line(records.choose_device()))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper; sets the size of the run; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the race
device: str = "auto"  # auto, cpu or cuda
dataset: str = ""  # python_reference, tinyshakespeare, books, openwebtext or c4; empty means the choice of the profile
method: str = ""  # method whose model we look at closely; empty means the choice of the profile
methods: str = ""  # methods to race, separated by commas: fc,set,chts; empty means the choice of the profile
sparsity: float = 0.9  # share of absent links, in [0.5, 1) because several methods start at 0.5
recipe: str = ""  # tiny, small, 60m, ... (the names of language.RECIPES); empty means the choice of the profile
steps: int = 0  # steps of the optimizer; 0 means the value of the recipe
seeds: int = 0  # number of runs per method; 0 means the value of the profile
data_dir: str = ""  # folder in which we look for data first
out_dir: str = ""  # folder of checkpoints and records, so that an interrupted race can continue; empty means none

# %%
settings = notebooks.start(
    "09_llama",
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
# ## The text
#
# A language model learns to guess the next piece of a text. Such a model can learn from any text. We use the language
# reference of Python, because it comes with Python.

# %%
corpus = data.load_text(settings.dataset, data_dir)
print(f"{corpus.name}: {len(corpus.validation)} documents for validation; the first document begins:\n")
print(corpus.validation[0][:400])

# %% [markdown]
# We train and validate on different *documents*, not on different lines of the same document. If a model has memorised
# the first half of a page, the second half is easy to guess.
#
# We have no separate test text. We chose the settings on the validation text, in runs with a seed that no race uses.
# Each run reports its last loss, not its lowest loss. For such small runs, these precautions are enough.
#
# ## Tokens from bytes
#
# Stage 08 joined letters into subwords, and its vocabulary had no piece for a letter that was not in the training text.
# Here the smallest pieces are *bytes*: every text is stored as a sequence of bytes, and a byte has one of 256 values.
# So every text can be turned into tokens, and the tokens can be turned back into exactly the same text.

# %%
chosen = settings.recipe or settings.recipes[settings.dataset]
recipe = language.RECIPES[chosen]
if settings.steps:
    recipe = replace(recipe, steps=settings.steps)
task = language.prepare(corpus, recipe)
tokenizer = task.tokenizer
for text in ("The statement returns a value.", "smörgåsbord 🙂"):
    (tokens,) = tokenizer.encode([text])
    print(len(text.encode()), "bytes,", len(tokens), "tokens:", " | ".join(tokenizer.pieces(tokens)))
    assert tokenizer.decode(tokens) == text

# %% [markdown]
# The output shows "�" for a token that is only part of a character. With a larger vocabulary, the same text has fewer
# tokens, but the embedding and the output layer of the model are larger.
#
# ## Packed without padding
#
# A batch in stage 08 contained padding. The batches of a language model need no padding. We write all documents in one
# long line, with an end mark after each document, and cut this line into blocks. As an example, take the documents
# "abc", "d" and "efgh", and `|` as the end mark. The *context* is the number of tokens that the model reads at a time,
# here 3. A block has one token more than the context, for the last guess:

# %%
line = "abc|d|efgh|"
blocks = [line[start : start + 4] for start in range(0, len(line) - 3, 3)]
print(blocks)
assert blocks == ["abc|", "|d|e", "efgh"]

# %% [markdown]
# Each block begins with the last token of the previous block. In a block of 4 tokens, the model makes 3 guesses. In the
# first block, the model guesses b, c and the end mark. So the model guesses every token exactly once, except the very
# first token. We drop the tokens after the last full block. The function `data.pack` builds the blocks in the same way:

# %%
packed = data.pack(["abc", "d", "efgh"], tokenizer, 3)
letters = {tokenizer.end: "|"}
ours = ["".join(letters.get(token, tokenizer.decode([token])) for token in block) for block in packed.tolist()]
print(ours)
by_rule = [token for text in ("abc", "d", "efgh") for token in (*tokenizer.encode([text])[0], tokenizer.end)]
assert packed[:, 1:].flatten().tolist() == by_rule[1 : 1 + 3 * len(packed)]

# %% [markdown]
# (With a real vocabulary, a piece like "abc" may be a single token. Then the blocks hold more letters than in the
# example.)
#
# ## Perplexity
#
# The loss of a guess is $-\log p$, where $p$ is the probability that the model gave to the right token. We use the
# natural logarithm, so the unit of the loss is the *nat*. *Perplexity* is $e$ to the power of the mean loss. A
# perplexity of $k$ means that the guesses are as hard as guesses among $k$ equally likely tokens.
#
# **Predict:** a model gave the probabilities 1/2, 1/4, 1/4 and 1/8 to the four tokens of a text. What is the
# perplexity? What is the perplexity of a model that gives all tokens of the vocabulary the same probability?

# %%
chances = [1 / 2, 1 / 4, 1 / 4, 1 / 8]
loss = sum(-math.log(p) for p in chances) / 4
print(f"mean loss {loss:.3f}, perplexity {math.exp(loss):.3f}")
uniform = -math.log(1 / recipe.vocabulary)
print(f"equally likely tokens: loss {uniform:.3f}, perplexity {math.exp(uniform):.0f}")
assert math.isclose(math.exp(loss), 4)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The product of the four probabilities is 1/256, and the fourth root of 256 is 4. So the guesses are as hard as guesses
# among four equally likely tokens. If all tokens are equally likely, the perplexity is the size of the vocabulary. A
# model with this perplexity has learned nothing yet. A single token with $p = 0$ would make the perplexity infinite.
# </details>
#
# The perplexities of two models are comparable only if both models use the same tokens. With longer tokens, each guess
# is harder, although the text is the same.
#
# ## What a LLaMA is made of
#
# A LLaMA is a language model with a stack of layers. Each layer has an attention block with four linear layers (q, k,
# v, o) and a *gated* feed-forward block with three linear layers (gate, up, down). None of these seven linear layers
# has a bias. The gated block computes $\text{down}(\text{silu}(\text{gate}(x)) \cdot \text{up}(x))$. Here the dot
# multiplies the outputs of two layers neuron by neuron, and $\text{silu}(a) = a / (1 + e^{-a})$.

# %%
figures.show(
    figures.blocks(["llama"]),
    "One layer of a LLaMA has seven sparse matrices. Percolation uses two pairs, (q, k) and (gate, up), and three "
    "chains: (v, o), (gate, down) and (up, down). The embedding, the norms and the output layer stay dense.",
)

# %% [markdown]
# The next cell computes a gated block with three neurons by hand:

# %%
x = torch.tensor([1.0, -1.0, 2.0])
gate = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 1]])
up = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, 0]])
down = torch.tensor([[1.0, 1, 0], [0, 0, 2]])
silu = [float(a) / (1 + math.exp(-a)) for a in gate @ x]
print("gate", [round(a, 3) for a in silu], "up", (up @ x).tolist())
hidden = torch.tensor(silu) * (up @ x)
print("product", hidden, "output", down @ hidden)
assert torch.allclose(hidden, F.silu(gate @ x) * (up @ x))

# %% [markdown]
# The gate layer and the up layer are a **pair**, as queries and keys are: the output of neuron $j$ of the gate layer,
# after silu, is multiplied by the output of neuron $j$ of the up layer. Since $\text{silu}(0) = 0$, neuron $j$ of the
# block outputs 0 if it has no links in `gate` or no links in `up`. The layers `gate` and `down` are a **chain**, and
# `up` and `down` are another chain.
#
# **Predict:** which of the eight links of `gate`, `up` and `down` lead nowhere?

# %%
masks = {"gate": gate != 0, "up": up != 0, "down": down != 0}
figures.show(
    figures.percolating_network(
        [masks["gate"], masks["up"].T], ("read by\nthe gate", "neurons\nof the block", "read by\nup")
    ),
    "Two neurons of the block are of no use: neuron 1 has no link in the gate (left), and neuron 2 has no link in "
    "up (right). The mask of up is transposed.",
)

# %%
graph = chts.LayerGraph(chains=(("gate", "down"), ("up", "down")), pairs=(("gate", "up"),))
left = chts.percolation.percolate(masks, graph)
print({name: f"{int(mask.sum())} of {int(masks[name].sum())}" for name, mask in left.items()})
assert {name: int(mask.sum()) for name, mask in left.items()} == {"gate": 1, "up": 1, "down": 1}

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Only neuron 0 has links in both `gate` and `up`. Neuron 1 has one link in `up` but none in `gate`, and neuron 2 has
# two links in `gate` but none in `up`. The results of these three links are multiplied by 0, so percolation cuts these
# links. Percolation also cuts the two links of `down` that read neurons 1 and 2. Three of the eight links are left, and
# the output does not change.
# </details>

# %%
kept = F.silu((gate * left["gate"]) @ x) * ((up * left["up"]) @ x)
assert torch.equal((down * left["down"]) @ kept, down @ hidden)

# %% [markdown]
# ## Heads that share their keys
#
# Larger LLaMAs save memory with *grouped queries*: several query heads share one head of keys and values. The example
# has four query heads and two heads of keys and values. Each head has two neurons. Query heads 0 and 1 share head 0 of
# the keys.

# %%
grouped = chts.Attention("q", "k", "v", "o", heads=4, key_heads=2)
full = {"q": torch.ones(8, 8), "k": torch.ones(4, 8), "v": torch.ones(4, 8), "o": torch.ones(8, 8)}
masks = {name: mask.bool() for name, mask in full.items()}
masks["k"][1] = False  # neuron 1 of head 0 of the keys
cut = chts.percolation.percolate(masks, chts.LayerGraph(attentions=(grouped,)))
print("queries that lost their links:", (~cut["q"].any(dim=1)).nonzero().flatten().tolist())
assert (~cut["q"].any(dim=1)).nonzero().flatten().tolist() == [1, 3]

# %% [markdown]
# In head 0 of the keys, one neuron lost its links. So in *each* of the two query heads that share this head, one
# neuron lost its links too. (A real LLaMA encodes the position of a token by a *rotation*. The rotation turns neurons
# $j$ and $j + d/2$ of a head of width $d$ by an angle that grows with the position. This rotation mixes the two
# neurons, so a neuron counts as inactive only together with its partner. The package works out from the model which
# neurons are partners.)
#
# With `per_head=True`, each head evolves as a separate network with its own exact number of links. Keys and values have
# fewer heads than queries, so they have fewer of these networks:

# %%
small_llama = models.LlamaSize(width=16, feed_forward=24, layers=1, heads=4, key_heads=2)
parts = chts.plan(
    models.llama(300, small_llama, 16), "set", 0.75, total_steps=100, update_every=10, per_head=True
).budget.links(0)
print({name.partition("self_attn.")[2]: links for name, links in parts.items() if "self_attn" in name})
assert sum("k_proj" in name for name in parts) == 2

# %% [markdown]
# ## Sizes
#
# The table lists models from laptop size to the sizes of the paper and beyond. The code allocates no memory for the
# weights:

# %%
rows = []
for name, size in models.LLAMA_SIZES.items():
    tokens = {"tiny": 1024, "small": 4096}.get(name, 32_128)
    model = models.llama(tokens, size, recipe.context)
    possible = sum(math.prod(layer.shape) for layer in sparse_layers(model).values())
    total = sum(weight.numel() for weight in model.parameters())
    rows.append({"size": name, **asdict(size), "weights (millions)": total / 1e6, "can be sparse": possible / total})
pd.DataFrame(rows).style.hide(axis="index").format({"weights (millions)": "{:,.1f}", "can be sparse": "{:.0%}"})

# %% [markdown]
# The embedding and the output layer stay dense. Each of these two layers has one row for every token of the vocabulary.
# Together they have more than half of all weights in the 60M model, but only a tenth in the 1B model. So "70 % sparse"
# means something different for each model.

# %%
dimensions = models.LLAMA_SIZES[recipe.size]
plan = language.plan_run(settings.method, settings.sparsity, recipe)
print(str(plan).partition("\n\n")[2])

# %% [markdown]
# ## The initial weights
#
# Before training, the output of each layer should be about as large as its input. Multiply each of $n$ inputs of size 1
# by a weight of standard deviation $\sigma$, and add the products. The sum has size $\sigma\sqrt{n}$. So with
# $\sigma = 1/\sqrt n$, the sum has size 1 again. LLaMA's usual $\sigma = 0.02$ fits a width of 2500. At width 128, each
# layer multiplies the size by $0.02 \cdot \sqrt{128} = 0.23$, and after a few layers little of the signal is left. A
# neuron of a sparse layer has fewer inputs than a neuron of a dense layer. To compensate, `rescale_weights` multiplies
# the weights by $1/\sqrt{\text{density}}$.
#
# **Predict:** take a width of 128 and weights with a standard deviation of 0.02. Which layer gives outputs with a
# standard deviation closer to 1: a dense layer, or a rescaled layer with a tenth of its links?

# %%
inputs = torch.randn(1000, 128, generator=torch.Generator().manual_seed(0))
weights = 0.02 * torch.randn(128, 128, generator=torch.Generator().manual_seed(1))
mask = chts.topology.erdos_renyi(128, 128, 0.1, generator=torch.Generator().manual_seed(2))
signal = {"dense": inputs @ weights.T, "sparse, rescaled": inputs @ (weights * mask / math.sqrt(0.1)).T}
signal["sparse, not rescaled"] = inputs @ (weights * mask).T
print({name: round(float(output.std()), 3) for name, output in signal.items()})

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Neither layer is closer to 1: the standard deviation of the outputs is 0.23 for both layers. Rescaling makes each
# weight of the sparse layer about three times as large. Without rescaling, the standard deviation of the sparse layer's
# outputs is about a third as large.
# </details>
#
# But with $\sigma = 0.02$, the weights of the *embedding* are too small, and the model must first enlarge them. A
# sparse model may need fewer steps to enlarge the embedding, because its rescaled weights are larger than the weights
# of a dense model. In a short run, the choice of $\sigma$ alone can put sparse methods ahead of a dense network. The
# package has records of four runs of the `tiny` model on Tiny Shakespeare, with one seed and 120 steps each. The runs
# compare FC with an earlier version of CHTs, which trained a sparse network with a tenth of the links:

# %%
first_weights = [
    {"from": "0.02 everywhere" if row["recipe"]["deviation"] else "1 and 1/√n", "method": row["method"]}
    | {"loss after 120 steps (nats)": row["validation"][-1]["loss"]}
    for row in records.read_runs(records.results_folder() / "language_rates.jsonl")
    if row["recipe"]["steps"] == 120
]
pd.DataFrame(first_weights).pivot(index="from", columns="method").round(2)

# %% [markdown]
# With $\sigma = 0.02$ everywhere, FC reached a loss of 4.89 nats, and the sparse network reached 3.95. With
# $\sigma = 1$ in the embedding and $\sigma = 1/\sqrt n$ elsewhere, FC reached 3.97 and the sparse network reached 4.00.
# Our recipes for small models use the second choice, because the dense network learns faster with it. The recipes for
# the paper's sizes keep $\sigma = 0.02$ everywhere.
#
# ## Sixteen bits
#
# On a GPU, matrix products are several times as fast in bfloat16 as in float32. Numbers in bfloat16 have 8 significant
# bits. Between 1 and 2 they are 1/128 apart, between 2 and 4 they are 1/64 apart, and so on. Add a small step to a
# weight:

# %%
weight = torch.tensor(1.0, dtype=torch.bfloat16)
for step in (0.1, 0.01, 0.003, 0.001):
    print(f"1 + {step} = {float(weight + step):.6f}")
assert float(weight + 0.001) == 1

# %% [markdown]
# The sum is rounded to the nearest of these numbers. So a step that is added to a weight between 1 and 2 vanishes if it
# is less than 1/256, which is half of 1/128. How large is this limit relative to the weight? The answer depends on the
# weight.
#
# **Predict:** bfloat16 has 128 numbers that are at least 1 and less than 2. Increase each of these numbers by 1/351 of
# its value, and round the result to bfloat16. How many of the 128 numbers change?

# %%
weights = (torch.arange(128, 256) / 128).bfloat16()  # 128/128, 129/128, ..., 255/128
changed = {}
for part in (255, 351, 451, 513):
    stepped = (weights.float() * (1 + 1 / part)).bfloat16()
    changed[part] = int((stepped != weights).sum())
    print(f"a step of 1/{part} of the weight changes {changed[part]} of {len(weights)} weights")
assert changed == {255: 128, 351: 80, 451: 30, 513: 0}

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# The weight $n/128$ changes if $n/128/351$ is more than 1/256. So $n$ must be more than 175.5. This is true for 80
# weights, with $n$ from 176 to 255.
# </details>
#
# For a weight just below 2, the limit 1/256 is nearly 1/512 of the weight. For a weight of 1, the limit is 1/256 of the
# weight. Between any two neighbouring powers of two, the limit lies between the same two fractions of the weight, 1/512
# and 1/256. So a step below 1/512 of a weight always vanishes. Just above a power of two, every step below about 1/256
# of the weight vanishes.
#
# So we keep the weights in float32, and round only the products (`precision="bfloat16"`). The published code keeps the
# *weights* in bfloat16 (`precision="bfloat16_weights"` in our code). With such weights, small steps do not change large
# weights, but they still change small weights. We do not know why weights in bfloat16 harm RigL and GraNet most. One
# possible reason is that both methods start a regrown link from weight 0 and soon compare its weight with the large
# weights of old links. In the paper's tables for the 130M model at 70 % sparsity, RigL has a perplexity of 25.9 with
# weights in bfloat16 and a perplexity of 18.3 with weights in float32. FC with weights in float32 has a perplexity of
# 17.1.
#
# ## Train
#
# The learning rate rises linearly to its peak. Then the rate falls along half a cosine to a tenth of the peak. The
# training clips the gradients: if their norm is above `clip`, the training scales all of them down by the same factor.

# %%
for step in (1, recipe.warmup, recipe.steps):
    print(f"step {step:>5}: {language.learning_rate_at(step, recipe):.5f}")
pd.Series(asdict(recipe)).to_frame("setting")

# %%
folder = Path(out_dir) if out_dir else None
all_seeds = range(settings.seed, settings.seed + settings.seeds)
mine = language.race(
    task, [settings.method], settings.sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder
)
run = mine[0]
print(f"{run.tokens:,} tokens in {run.seconds:.0f} s, {run.tokens_per_second:,.0f} per second")
print(f"{run.mfu:.0%} of the operations that one large product of matrices would do in that time")

# %% [markdown]
# The last line of the output gives the *model FLOPs utilisation*, which the progress bar calls MFU. MFU is the number
# of operations that a dense model of this size needs for these tokens, divided by the number of operations that the
# device could do in the same time. Layers with masks perform all operations of the dense model.

# %%
looks = pd.DataFrame([{"step": look.step, "loss": look.loss, "perplexity": look.perplexity} for look in run.looks])
looks.style.hide(axis="index").format({"loss": "{:.3f}", "perplexity": "{:.1f}"})

# %% [markdown]
# ## What the model writes
#
# To write a text, the model draws one token after another. At temperature $T$, it draws a token with a probability
# proportional to $p^{1/T}$, where $p$ is the model's own probability of this token. At temperature 0, the model takes
# the most probable token. At temperature 1, it draws with the probabilities $p$. (The temperature of stage 03 works the
# other way: there, a larger $T$ makes the draw less random.)

# %%
prompt = {"python_reference": "The statement", "tinyshakespeare": "KING"}.get(task.name, "The ")
for temperature in (0.0, 0.7, 1.0):
    generator = torch.Generator().manual_seed(settings.seed)
    written = language.generate(run.model, tokenizer, prompt, 60, temperature=temperature, generator=generator)
    print(f"--- temperature {temperature}\n{written.strip()}\n")

# %% [markdown]
# After a few seconds of training, a model with a million weights has learned how the text *looks*. At temperature 0, no
# token is drawn at random, so the same prompt always gives the same text. Here this text ends after a few words. The
# texts at higher temperatures are longer and stranger.
#
# ## The topology of a head, and of a block
#
# As in stage 08, the first picture shows the queries and keys of one head of the last layer. The second picture shows
# the links of the gate layer before and after training.

# %%
last = f"model.layers.{dimensions.layers - 1}"
query, key = (run.last_masks[f"{last}.self_attn.{part}_proj.weight"] for part in "qk")
figures.show(
    figures.attention_head(query, key, dimensions.heads, 0),
    f"In head 0 of the last layer of the {run.method} model, each row of the queries is paired with the same row of "
    "the keys. The right panel shows how many links each row has.",
)

# %%
gate_name = f"{last}.mlp.gate_proj.weight"
exchanged = int((run.first_masks[gate_name] & ~run.last_masks[gate_name]).sum())
figures.show(
    figures.topology_change(run.first_masks[gate_name], run.last_masks[gate_name]),
    f"Training exchanged {exchanged} of the {int(run.first_masks[gate_name].sum())} links of the gate of the last "
    "layer. The panels show the links before training, the links after it, and the changes.",
)

# %%
history = pd.DataFrame(run.history)
if len(history):
    history["kind"] = history.layer.str.extract(r"\.(\w+)_proj", expand=False)
    print(history.groupby("kind")[["removed", "regrown", "overlap", "anp", "itop"]].mean().round(3).to_string())

# %% [markdown]
# ## The race
#
# A *race* trains every method for the same number of steps and compares the results. In runs with the same seed, all
# methods read the same text and, before the rescaling, have the same initial weights. FC has its own learning rate, and
# all sparse methods share another one. First, the program measures the time of a few steps with another model, which it
# then deletes:

# %%
names = list(dict.fromkeys([*settings.methods.split(","), settings.method]))
each = language.predict_seconds(task, settings.method, settings.sparsity, recipe, device=settings.device)
predicted_seconds = each * len(names) * settings.seeds
print(f"{each:.1f} s per run, {predicted_seconds:.0f} s for {len(names)} methods × {settings.seeds} seeds")

# %% [markdown]
# **Predict:** in the paper's Table 2, the dense 60M model reaches a perplexity of 26.6. At 90 % sparsity, this model
# reaches a perplexity of 35 with SET and also with CHT. Which methods will be nearest to FC here? How far will these
# methods be from FC, in per cent of FC's perplexity?

# %%
rivals = [name for name in names if name != settings.method]
others = language.race(task, rivals, settings.sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder)
runs = sorted([*mine, *others], key=lambda run: (names.index(run.method), run.seed))
figures.show(
    figures.loss_race(runs),
    "The loss on the validation tokens falls for all methods, and lower is better. The methods on the left keep "
    "their number of links, and the methods on the right lower it. FC is in both panels.",
)

# %%
summary = [
    row | {"flops": language.plan_run(row["method"], settings.sparsity, recipe).flops}
    for row in language.summarise(runs)
]
table = pd.DataFrame(summary).rename(columns={"validation_loss": "loss", "active_neurons": "active", "flops": "FLOPs"})
table.style.hide(axis="index").format("{:.1%}", subset=["density", "active", "itop", "FLOPs"]).format(
    "{:.3f}", subset=["loss", "interval"], na_rep="–"
).format("{:.1f}", subset=["perplexity", "seconds"])

# %%
measured_seconds = sum(run.seconds for run in runs)
print(f"predicted {predicted_seconds:.0f} s of training, measured {measured_seconds:.0f} s")
differences = [
    row
    for rival in ("fc", settings.method)
    if rival in names
    for row in paired_differences(runs, rival, "validation_loss")
]
minus = pd.DataFrame(differences).pivot(index="method", columns="rival", values="difference")
minus = minus.rename(columns=lambda rival: f"loss minus {rival}")
per_cent = {f"perplexity{name[4:]} (%)": 100 * minus[name].map(math.expm1) for name in minus}
minus.assign(**per_cent).style.format("{:+.3f}", na_rep="").format("{:+.1f}", subset=list(per_cent), na_rep="")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# After so few steps, all methods are close together. With the profile `laptop`, CHTss and GMP are nearest to FC: their
# perplexities are 0.2 % below FC's perplexity. GraNet is 3.6 % below FC's perplexity, and CHT is 5.2 % above it. In the
# paper, after a long training run, the perplexities of SET and CHT are about a third above FC's perplexity. One seed
# gives no confidence interval, so we do not rank the methods. The longer runs below say more about the methods. The
# sparse methods share one learning rate, and FC has its own. A single rate for all methods would favour the methods
# that learn well at this rate.
# </details>
#
# ## Recorded runs
#
# This section trains nothing, because the package contains records of longer races. Each run has a line in
# `results/language.jsonl` with its settings, the versions of the packages, its device and the seconds that it took.
# This file contains runs of FC, SET, RigL and GraNet. We first ran the other methods in versions that did not yet
# follow the paper. Those runs are in `results/revision_1`, and they say nothing about the current methods. We have run
# the current versions of these methods at only one sparsity and on only one corpus. A table below shows these runs.

# %%
recorded = language.recorded()
compared: dict[str, list] = {}
for row in sorted(recorded, key=lambda row: row["sparsity"]):
    compared.setdefault(f"{row['recipe']['size']} on {row['dataset']}", []).append(row)
print({name: len(rows) for name, rows in compared.items()})


def perplexity(row: dict) -> float:
    return row["validation"][-1]["perplexity"]


# %%
for name, rows in compared.items():
    figures.show(
        figures.scores_by_method(mean_scores(rows, perplexity), xlabel="validation perplexity (lower is better)"),
        f"{name}: a mark is the mean perplexity over the recorded runs of a method at one sparsity, with its 95 % "
        "confidence interval. The dashed line and its band show FC.",
    )

# %% [markdown]
# The table shows two differences for each method: its loss minus the loss of FC, and its loss minus the loss of SET,
# which regrows random links. If the first difference is positive, the method is worse than FC. If the second difference
# is positive, the method is worse than SET. Each difference compares runs with the same seed, in nats per token. A
# difference of 0.01 nats is about one per cent of the perplexity:

# %%
tables = {name: report.beside(rows, ("fc", "set")) for name, rows in compared.items()}
pd.concat({name: pd.DataFrame(columns).fillna("") for name, columns in tables.items()})

# %% [markdown]
# The number after ± is the half-width of a 95 % confidence interval over three seeds. The models of size `tiny` trained
# for 200 steps, about one epoch of Tiny Shakespeare. These statements hold for both corpora, Tiny Shakespeare and
# books:
#
# - **At 70 %, the runs do not show whether SET is better or worse than FC.** RigL and GraNet are 0.03 to 0.04 nats
#   behind FC, but on books, GraNet's interval contains 0.
# - **At 90 and 95 %, all three sparse methods are behind FC**, by 0.06 to 0.10 nats at 90 % and by 0.10 to 0.14 nats at
#   95 %. No interval contains 0.
# - **RigL is behind SET at 70 %**, by 0.03 to 0.04 nats. At 95 %, the runs do not show which of the two is better.
#
# We compare these results with the paper's results for the 60M model at 90 % sparsity (Table 2), again in nats:
#
# - **Agrees:** FC is ahead of all three sparse methods, and RigL is the worst of the three.
# - **Does not agree:** in the paper, the methods are further apart than in our runs. There, SET is behind FC by 0.28
#   nats, and RigL is behind FC by 0.53.
# - **Differs:** our model has a sixtieth of the weights of the paper's model. Our model trains for 200 steps instead of
#   10,000. It reads a megabyte of text about once, while the paper's model reads gigabytes of text. The weights of our
#   model are in float32, $\zeta$ starts at 0.3 instead of 0.1, and there is no warm-up after updates. Any of these
#   differences may change the order of the methods.
# - **Untested:** we have no runs with the paper's model sizes or on the paper's corpus.
#
# We have three runs each of CHTs, CHTss, CHT, MEST and GMP, as the paper defines them. These runs use size `tiny` and
# 90 % sparsity on Tiny Shakespeare. The recipe and the seeds are the same as for the runs above. The next table
# compares all eight sparse methods with FC and with SET.

# %%
at_90 = [
    row
    for name in ("language", "llama_warmup", "language_tiny")
    for row in records.read_runs(records.results_folder() / f"{name}.jsonl")
    if (row["dataset"], row["recipe"]["size"]) == ("tinyshakespeare", "tiny")
    and (row["method"] == "fc" or (row["method"] in chts.METHODS and row["sparsity"] == 0.9))
    and row["recipe"].get("iterative_warmup", 0) == 0
]
pd.DataFrame(report.beside(at_90, ("fc", "set"))).fillna("")

# %% [markdown]
# - **All eight sparse methods are behind FC**, by 0.05 to 0.10 nats. No interval contains 0.
# - **MEST is ahead of SET**, by 0.018 ± 0.016 nats, and RigL is behind SET. The intervals of the other five methods
#   contain 0, so the runs do not show whether these methods are better or worse than SET.
# - **Does not agree:** in the paper's table, CHTs is 0.065 nats ahead of SET, and CHTss is 0.115 nats ahead. Our
#   intervals for these two differences do not contain the paper's numbers. So at this size and after 200 steps, any
#   advantage of CHTs or CHTss over SET is smaller than in the paper.
#
# The models of size `small` have nine times as many weights in their layers as the `tiny` models. The `small` models
# trained for 100 steps, a third of an epoch of Tiny Shakespeare. These statements hold for both corpora:
#
# - **At 90 %, the mean losses of all three sparse methods are below FC's**, by 0.02 to 0.17 nats, and most intervals do
#   not contain 0. At 70 %, RigL is ahead of FC, by 0.07 to 0.15 nats.
# - **SET has the lowest mean loss of the three at 90 and 95 %**, and RigL has the lowest at 70 %.
#
# Do not conclude that sparse models are better in the end. Each method used the best of the learning rates that we
# tried for its `small` model (see `results/language_rates.jsonl`), and the rates of the sparse methods are five to ten
# times as high as FC's rate. After so few steps, the loss shows how fast a model starts to learn. The `tiny` models saw
# four times as many tokens as the `small` models. In the tables of the `tiny` models, FC is ahead at 90 and 95 %.
#
# The next table shows how many seconds the training took on one core. Each number is the median of three runs on Tiny
# Shakespeare. (We leave out the runs on books, because the machine did other work during some of the `tiny` runs on
# books.) At 90 and 95 %, SET and RigL stored and multiplied only the existing links:

# %%
shakespeare = pd.DataFrame(
    {**row, "size": row["recipe"]["size"]} for row in recorded if row["dataset"] == "tinyshakespeare"
)
medians = shakespeare.pivot_table(
    index="method", columns=["size", "sparsity"], values="seconds", aggfunc="median", sort=False
)
medians = medians.sort_index(axis=1, ascending=[False, True])
medians = medians.rename(columns=lambda share: f"{share:.0%}" if share else "FC", level="sparsity")
medians.style.format("{:.0f}", na_rep="")

# %% [markdown]
# ## Larger models
#
# You can run this notebook with other parameters, or train a single model on the command line. `torchrun` starts
# several processes that train one model together (stage 10):
#
# ```
# chts run 09 -p dataset tinyshakespeare -p data_dir DIR -p recipe tiny -p seeds 3 -p out_dir runs/shakespeare
# chts train small --dataset books --method chtss --sparsity 0.95 -s execution csr --out runs/small
# torchrun --nproc-per-node 8 -m chts_core.cli train 60m --dataset openwebtext --method chts/paper_llama --sparsity 0.7 --out runs/60m
# ```
#
# `profile=paper` trains the paper's 60M model on OpenWebText. With this profile, the program streams the text, uses
# T5's tokens and starts with $\zeta = 0.1$. We have not used this profile yet, because we have no GPU.
#
# ## Exercise: guesses
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# A corpus of 1030 tokens, including the end marks, is packed with a context of 128. How many blocks are there, and how
# many guesses does the model make in one epoch?

# %% tags=["exercise"]
num_blocks, num_guesses = None, None

# %% tags=["check"]
exercises.check("09.blocks_and_guesses", num_blocks, num_guesses)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $n$ blocks with a context of 128 need $128 n + 1$ tokens.
# </details>
#
# <details><summary>Solution</summary>
#
# 8 · 128 + 1 = 1025 tokens fit, but 9 · 128 + 1 = 1153 tokens do not:
#
# ```python
# num_blocks, num_guesses = 8, 8 * 128
# ```
# </details>
#
# ## Exercise: perplexity and bits per byte
#
# *★★☆ · 10 minutes · essential · objective 2 · write code*
#
# Write two functions. The first one computes the perplexity from the probabilities that a model gave to the tokens. The
# second one computes the bits per byte of a text from the loss per token in nats, the number of tokens and the number
# of bytes. If a token got the probability 1/2, its loss is one bit, or $\log 2$ nats.
#
# Predict first: model A has a perplexity of 20 and needs 400 tokens for 1000 bytes. Model B has a perplexity of 40 and
# needs 250 tokens for the same bytes. Which model is better? The check prints the bits per byte that your function
# computes for both models.


# %% tags=["exercise"]
def perplexity(chances: list[float]) -> float:
    """The perplexity of tokens that got these probabilities. Write this function."""


def bits_per_byte(loss: float, tokens: int, num_bytes: int) -> float:
    """Bits per byte of a text, from the loss per token in nats. Write this function."""


# %% tags=["check"]
exercises.check("09.perplexity_and_bits", perplexity, bits_per_byte)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Work in nats until the last step. The loss of the whole text is `loss * tokens` nats.
# </details>
#
# <details><summary>Solution</summary>
#
# Model B is better: it needs 1.33 bits per byte, but model A needs 1.73. B's tokens are longer, so each token is harder
# to guess.
#
# ```python
# def perplexity(chances: list[float]) -> float:
#     return math.exp(sum(-math.log(p) for p in chances) / len(chances))
#
#
# def bits_per_byte(loss: float, tokens: int, num_bytes: int) -> float:
#     return loss * tokens / math.log(2) / num_bytes
# ```
# </details>
#
# ## Exercise: who reads a key?
#
# *★★☆ · 10 minutes · useful · objective 3 · write code*
#
# Neuron `neuron` of the keys lost its links. Return the neurons of the queries that lose their links as a result. There
# are `heads` query heads and `key_heads` key heads. Each head has `width` neurons. The neurons are numbered head by
# head. Ignore the rotation of positions. Neighbouring query heads share a key head, as in the section on shared keys,
# where neurons 1 and 3 of the queries lost their links.


# %% tags=["exercise"]
def queries_of(neuron: int, heads: int, key_heads: int, width: int) -> list[int]:
    """The neurons of the queries that share a neuron of the keys. Write this function."""


# %% tags=["check"]
exercises.check("09.queries_of", queries_of)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `divmod(neuron, width)` gives the head of the neuron and its place in this head. Exactly `heads // key_heads` query
# heads share each key head.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def queries_of(neuron: int, heads: int, key_heads: int, width: int) -> list[int]:
#     key_head, place = divmod(neuron, width)
#     group = heads // key_heads
#     return [head * width + place for head in range(key_head * group, (key_head + 1) * group)]
# ```
#
# So when one neuron of a shared key head loses its links, several neurons of the queries lose their links too. The
# smaller `key_heads` is, the more links percolation cuts.
# </details>
#
# ## Exercise: percolate a gate
#
# *★★★ · 20 minutes · essential · objective 3 · write code*
#
# In a gated block, neuron $j$ computes the product $\text{activation}(\text{gate}(x)_j) \cdot \text{up}(x)_j$, and the
# layer `down` reads this product. Write a function that percolates this block. Your function gets the masks of `gate`,
# `up` and `down`, and `at_zero`, the value of the activation at 0. Return the three masks without the links that lead
# nowhere. For silu, `at_zero` is 0, and the result must equal the result of the core.
#
# Now change the activation. An older block uses the sigmoid in place of silu, and $\text{sigmoid}(0) = 1/2$. A link
# leads nowhere if it cannot change the output of the block, whatever its weight is. Which links lead nowhere in this
# older block? The function must work for both activations.


# %% tags=["exercise"]
def percolate_gate(
    gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, at_zero: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three masks without the links that lead nowhere. Write this function.

    gate, up: the masks (neurons, inputs) of these two layers.
    down: the mask (outputs, neurons) of this layer.
    """


# %% [markdown]
# The check uses a block with four neurons. One neuron has links in `gate`, `up` and `down`. Each of the other three
# neurons has links in only two of these layers: one neuron has none in `gate`, one has none in `up`, and one has none
# in `down`.

# %% tags=["check"]
exercises.check("09.percolate_gate", percolate_gate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First compute a Boolean for each neuron: can its product differ from 0, and does the layer `down` read this product? A
# neuron without links in `gate` gets $\text{gate}(x)_j = 0$. No neuron of the block affects another neuron of the
# block, so one pass is enough.
# </details>
#
# <details><summary>Solution</summary>
#
# With the sigmoid, the product of a neuron without links in `gate` is half of the output of `up`. So the neuron stays
# active if it has links in `up` and `down`:
#
# ```python
# def percolate_gate(
#     gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, at_zero: float
# ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
#     active = up.any(dim=1) & down.any(dim=0)
#     if at_zero == 0:
#         active &= gate.any(dim=1)
#     return gate & active[:, None], up & active[:, None], down & active
# ```
# </details>
#
# ## Exercise: plan the 60M model
#
# *★★★ · 25 minutes · essential · objective 4 · write code*
#
# You may use a GPU for 20 minutes. In a trial, the 60M model processed 12,000 tokens per second on this GPU. Write two
# functions.
#
# `shortened` changes the paper's recipe so that the run fits into the available time. The new recipe has as many steps
# as the time allows. In a step, the model sees `batch` · `context` tokens. Keep the proportions of the recipe: the
# warm-up is a tenth of the steps, and `update_every` is a hundredth of them (rounded, and at least 1). After each
# update, the learning rate starts low again and rises for `iterative_warmup` steps. Set `iterative_warmup` to 0, since
# the recipe's 20 steps would be longer than the interval between two updates. Change nothing else. If you change only
# `steps`, the planner refuses the recipe with this message:

# %%
try:
    language.plan_run("chtss", 0.9, replace(language.RECIPES["60m"], steps=100))
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# `facts` reads a plan (`language.plan_run` returns one). The function returns a dict with five numbers:
#
# - `"links"`: how many links the matrices of layer 0 (their names contain `.layers.0.`) have in total at the end of the
#   run;
# - `"updates"`: how many updates there are;
# - `"tokens"` and `"minutes"`: how many tokens and minutes the whole run takes;
# - `"MiB"`: the memory without activations, in units of 2²⁰ bytes.
#
# `plan.budget.links(step)` gives the number of links of each matrix after a step, `plan.budget.updates()` gives the
# steps of the updates, and `plan.memory` contains the number of bytes of each part of the memory.


# %% tags=["exercise"]
def shortened(recipe: language.Recipe, tokens_per_second: float, minutes: float) -> language.Recipe:
    """The recipe with as many steps as the time allows. Write this function."""


def facts(plan, recipe: language.Recipe, tokens_per_second: float) -> dict[str, float]:
    """Links of layer 0, updates, tokens, minutes and MiB of a run. Write this function."""


# %% tags=["check"]
exercises.check("09.planned", shortened, facts)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `replace(recipe, steps=...)` makes a changed copy. At 12,000 tokens per second, the GPU processes 14.4 million tokens
# in 20 minutes, and a step sees 512 · 256 = 131,072 tokens.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def shortened(recipe: language.Recipe, tokens_per_second: float, minutes: float) -> language.Recipe:
#     steps = int(tokens_per_second * 60 * minutes / (recipe.batch * recipe.context))
#     times = {"warmup": max(steps // 10, 1), "update_every": max(round(steps / 100), 1)}
#     return replace(recipe, steps=steps, iterative_warmup=0, **times)
#
#
# def facts(plan, recipe: language.Recipe, tokens_per_second: float) -> dict[str, float]:
#     links = plan.budget.links(recipe.steps)
#     tokens = recipe.steps * recipe.batch * recipe.context
#     return {
#         "links": sum(number for name, number in links.items() if ".layers.0." in name),
#         "updates": len(plan.budget.updates()),
#         "tokens": tokens,
#         "minutes": tokens / tokens_per_second / 60,
#         "MiB": sum(plan.memory.values()) / 2**20,
#     }
# ```
#
# 109 steps fit. The paper's 10,000 steps would take 30 hours on this GPU. Layer 0 has 316,209 links, a tenth of its
# weights. But the run needs even more memory than the dense model: masks on dense weights save no memory.
# </details>
#
# ## Exercise: the smallest step that counts
#
# *★★☆ · 15 minutes · optional · objective 5 · write code*
#
# A model keeps its weights in bfloat16. Write a function that gives half the distance from a positive weight to the
# next larger number in bfloat16. A step below this limit vanishes. Then answer a question. Adam takes steps of about
# the size of the learning rate. If each step adds 0.001, large weights never change. What is the smallest weight that
# never changes?


# %% tags=["exercise"]
def least_step(weight: float) -> float:
    """Half the distance from a weight in bfloat16 to the next larger number. Write this function."""


still_from = None  # the smallest weight that never changes

# %% tags=["check"]
exercises.check("09.least_step", least_step, still_from)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Between 1 and 2 the distance is 1/128. The distance doubles at each power of two. `math.floor(math.log2(weight))`
# gives the exponent of the largest power of two that is not above the weight.
# </details>
#
# <details><summary>Solution</summary>
#
# For weights from 0.25 to 0.5, half the distance is 0.25/256 = 0.00098. For weights from 0.5 to 1, half the distance is
# 0.00195. So weights of 0.5 or more do not change, but smaller weights do:
#
# ```python
# def least_step(weight: float) -> float:
#     return 2.0 ** math.floor(math.log2(weight)) / 256
#
#
# still_from = 0.5
# ```
# </details>
#
# ## Exercise: one rate for all
#
# *★★☆ · 15 minutes · essential · objectives 4 and 5 · write code*
#
# Each method was trained with several learning rates, and `losses[method][rate]` is the validation loss at one of these
# rates. All methods were trained with the same rates. Return two things: a dict that maps each rate to the method with
# the lowest loss at this rate, and the method that has the lowest loss if each method uses its own best rate. Two
# reports that choose different rates can name different winners from the same runs.


# %% tags=["exercise"]
def winners(losses: dict[str, dict[float, float]]) -> tuple[dict[float, str], str]:
    """The best method at each learning rate, and the best method if each uses its own best rate. Write this function."""


# %% tags=["check"]
exercises.check("09.winners", winners)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `min(losses, key=...)` returns the method for which the function `key` gives the smallest value. All methods have the
# same rates, so you can take the rates from any method.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def winners(losses: dict[str, dict[float, float]]) -> tuple[dict[float, str], str]:
#     rates = next(iter(losses.values()))
#     at_each = {rate: min(losses, key=lambda name: losses[name][rate]) for rate in rates}
#     return at_each, min(losses, key=lambda name: min(losses[name].values()))
# ```
#
# In our recorded runs of the `small` model (90 % sparsity, 100 steps, one seed), the winner also depends on the rate.
# Compare rates that are close to each other. FC has a loss of 5.12 nats at the rate 0.0032, and SET has a loss of 5.23
# nats at the rate 0.004, so FC is ahead. SET has a loss of 5.01 nats at the rate 0.008, and FC has a loss of 5.52 nats
# at the rate 0.0064, so SET is ahead by half a nat. At their own best rates, FC has a loss of 5.10 nats and SET has a
# loss of 4.93 nats.
# </details>
#
# ## To discuss
#
# 1. For each result of CHTs in Table 2, the paper chose the best of eight initial networks. For SET, there is no such
#    choice. Is the comparison of CHTs with SET fair, and how would you report it?
# 2. The published code keeps the weights in bfloat16. Would you report results with these weights, with weights in
#    float32, or with both? Which methods would rank higher with weights in float32?
# 3. At size `small`, sparse methods are ahead of FC after 100 steps. At size `tiny`, sparse methods are behind FC after
#    200 steps. Which runs would show whether sparse models only learn faster at first, or are also better in the end?
#
# ## Self-check
#
# 1. Model A has a perplexity of 20 with a vocabulary of 1000 tokens. Model B has a perplexity of 40 with a vocabulary
#    of 30,000 tokens. Which one is better?
#
# <details><summary>Answer</summary>
#
# You cannot know this. B's tokens are longer, so each token is harder to guess, but a text has fewer of these tokens.
# Compare the losses per *byte* of the same text.
# </details>
#
# 2. Neuron 7 of a gated block has fifty links in the gate layer and none in the up layer. What does the neuron output,
#    and what does percolation do?
#
# <details><summary>Answer</summary>
#
# The up layer gives 0 for every input, so the product is 0, and the neuron outputs 0. Percolation cuts the fifty links,
# and also the links of the down layer that read this neuron.
# </details>
#
# 3. A paper reports that a sparse method beats a dense network after 500 steps. What would you ask first?
#
# <details><summary>Answer</summary>
#
# Ask which initial weights and which learning rate the dense network had, and whether they were chosen for the dense
# network. In a short run, unsuitable initial weights or an unsuitable learning rate can make the dense network worse
# than the sparse one.
# </details>
#
# 4. With weights in bfloat16, RigL ends far behind SET. Does this result show that the gradient is a bad guide for
#    regrowth?
#
# <details><summary>Answer</summary>
#
# You cannot know this from these runs. In bfloat16, small steps do not change large weights, so the training itself was
# different. Run both methods with weights in float32.
# </details>
#
# ## Key takeaways
#
# - With bytes, every text can be turned into tokens. Packing needs no padding.
# - Perplexity is $e$ to the power of the mean loss. The perplexities of two models are comparable only if the models
#   use the same tokens.
# - The layers `gate` and `up` are a pair. Each of these two layers forms a chain with `down`. Several query heads may
#   share one head of keys and values.
# - Initial weights, learning rates and precision can decide a race before the topology has an effect.
#
# ## Further reading
#
# - H. Touvron et al., *LLaMA: open and efficient foundation language models*, 2023,
#   [arXiv 2302.13971](https://arxiv.org/abs/2302.13971): the model.
# - J. Su et al., *RoFormer: enhanced Transformer with rotary position embedding*, 2021,
#   [arXiv 2104.09864](https://arxiv.org/abs/2104.09864): the rotation.
# - N. Shazeer, *GLU variants improve Transformer*, 2020, [arXiv 2002.05202](https://arxiv.org/abs/2002.05202): the gated block.
# - J. Ainslie et al., *GQA: training generalized multi-query Transformer models from multi-head checkpoints*, 2023,
#   [arXiv 2305.13245](https://arxiv.org/abs/2305.13245): grouped queries.
# - P. Micikevicius et al., *Mixed precision training*, 2018, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740): why a copy of
#   the weights stays in float32.
# - J. Zhao et al., *GaLore: memory-efficient LLM training by gradient low-rank projection*, 2024,
#   [arXiv 2403.03507](https://arxiv.org/abs/2403.03507): LLaMAs of 60M to 7B weights, trained from scratch.

# %%
records.publish(
    {
        "dataset": task.name,
        "data": task.digest,
        "vocabulary": tokenizer.size,
        "method": settings.method,
        "sparsity": settings.sparsity,
        "recipe": asdict(recipe),
        "predicted_seconds": round(predicted_seconds, 1),
        "measured_seconds": round(measured_seconds, 1),
        "methods": summary,
        "differences": differences,
        "runs": [language.as_record(run, task, recipe, settings.device) for run in runs],
    }
)
