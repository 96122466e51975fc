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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SET_THE_OWNER/chts/blob/v0.1.0/notebooks/09_llama.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/SET_THE_OWNER/chts/v0.1.0?urlpath=lab/tree/notebooks/09_llama.ipynb)
#
# **You will be able to**
#
# 1. turn text into blocks of tokens;
# 2. compute perplexity, and compare models whose tokens differ;
# 3. follow a mask through the gated block and the grouped heads of a LLaMA;
# 4. plan and train a LLaMA with a tenth of its links;
# 5. say which of its settings can favour one method over another.
#
# | | |
# |---|---|
# | Prerequisites | stage 04 for percolation; stage 06 for the race (all methods are trained in the same way and compared); stage 08 for attention |
# | Time | 45 minutes to read, two to three minutes to run on Python's language reference |
# | Difficulty | ●●● |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Table 2 and the hyperparameters of its appendix |

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
profile: str = ""  # ci, binder, laptop, gpu or paper: how large the run is; empty: $CHTS_PROFILE, or laptop
seed: int = 0  # the first seed of the race
device: str = "auto"  # auto, cpu or cuda
dataset: str = ""  # python_reference, tinyshakespeare, books, openwebtext or c4; empty: as the profile says
method: str = ""  # whose model is looked at closely; empty: as the profile says
methods: str = ""  # to race, separated by commas: fc,set,chts; empty: as the profile says
sparsity: float = 0.9  # share of absent links, in [0.5, 1) since several methods start at 0.5
recipe: str = ""  # tiny, small, 60m, ... (the names of language.RECIPES); empty: as the profile says
steps: int = 0  # of the optimizer; 0: as the recipe says
seeds: int = 0  # runs per method; 0: as the profile says
data_dir: str = ""  # where to look for data first
out_dir: str = ""  # where checkpoints and records go, so that a race that was cut goes on; empty: nowhere

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
# A language model learns one thing: to guess the next piece of a text. Any text will do. The one that is always at hand is
# Python's own language reference, which comes with Python.

# %%
corpus = data.load_text(settings.dataset, data_dir)
print(f"{corpus.name}: {len(corpus.validation)} documents to validate with, the first begins:\n")
print(corpus.validation[0][:400])

# %% [markdown]
# Documents to train on and documents to validate with are different *documents*, not different lines of one: the second
# half of a page is easy to guess for a model that has learned the first by heart.
#
# We have no test text. We chose the settings on the validation text, with a seed that no race uses. Each run reports
# its last loss and not its best one. For such small runs this is enough.
#
# ## Tokens from bytes
#
# Stage 08 joined letters to subwords, and a letter that the training text lacked was lost. Here the smallest pieces are the
# 256 *bytes* in which every text is stored. So any text has tokens, and they give it back exactly.

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
# A token that is only a part of a letter is shown as "�". A larger vocabulary needs fewer tokens for the same text, but
# it makes the first and the last layer of the model larger.
#
# ## Packed without padding
#
# A batch of stage 08 had padding. A language model needs none. Write all documents one after the other, each with a
# mark for its end, and cut this line into blocks. With a context of 3, "abc", "d" and "efgh" and `|` for an end:

# %%
line = "abc|d|efgh|"
blocks = [line[start : start + 4] for start in range(0, len(line) - 3, 3)]
print(blocks)
assert blocks == ["abc|", "|d|e", "efgh"]

# %% [markdown]
# Each block begins with the last token of the one before. A block of 4 makes 3 guesses: of b, c and the end; so every
# token except the very first is guessed exactly once. The tokens after the last full block are dropped. The core does
# the same:

# %%
packed = data.pack(["abc", "d", "efgh"], tokenizer, 3)
letters = {tokenizer.end: "|"}
ours = ["".join(letters.get(token, tokenizer.decode([token])) for token in block) for block in packed.tolist()]
print(ours)
by_rule = [token for text in ("abc", "d", "efgh") for token in (*tokenizer.encode([text])[0], tokenizer.end)]
assert packed[:, 1:].flatten().tolist() == by_rule[1 : 1 + 3 * len(packed)]

# %% [markdown]
# (Pieces like "abc" may be one token here; then the blocks hold more letters than the drawing.)
#
# ## Perplexity
#
# The loss of a guess is $-\log p$ of the token that came. The logarithm is the natural one, so the loss is counted in
# *nats*. *Perplexity* is $e$ to the mean loss: among how many equally likely tokens would guessing be as hard?
#
# **Predict:** four tokens got the probabilities 1/2, 1/4, 1/4 and 1/8. What is the perplexity? And what is it for a
# model that finds all tokens of the vocabulary equally likely?

# %%
chances = [1 / 2, 1 / 4, 1 / 4, 1 / 8]
loss = sum(-math.log(p) for p in chances) / 4
print(f"mean loss {loss:.3f}, perplexity {math.exp(loss):.3f}")
uniform = -math.log(1 / recipe.vocabulary)
print(f"all alike: loss {uniform:.3f}, perplexity {math.exp(uniform):.0f}")
assert math.isclose(math.exp(loss), 4)

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# 1/2 · 1/4 · 1/4 · 1/8 = 1/256, and the fourth root of 256 is 4: as hard as one of four. All equally likely gives the
# size of the vocabulary, and a model that starts there has learned nothing yet. One token that got $p = 0$ would make
# it infinite.
# </details>
#
# Perplexities are comparable only for the same tokens: with longer tokens each guess is harder, though the text is the same.
#
# ## What a LLaMA is made of
#
# Layer upon layer, each an attention (q, k, v, o) and a *gated* feed-forward block with three linear layers. None has a
# bias. The block computes, neuron by neuron, $\text{down}(\text{silu}(\text{gate}(x)) \cdot \text{up}(x))$ with
# $\text{silu}(a) = a / (1 + e^{-a})$.

# %%
figures.show(
    figures.blocks(["llama"]),
    "One layer of a LLaMA has seven sparse matrices. Percolation uses two pairs, (q, k) and (gate, up), and three chains: "
    "(v, o), (gate, down) and (up, down). Embedding, norms and output layer stay dense.",
)

# %% [markdown]
# The gated block by hand, for three neurons:

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
# Gate and up are a **pair**, as queries and keys are: neuron $j$ of one meets neuron $j$ of the other. $\text{silu}(0) = 0$,
# so a neuron that lacks its links on either side gives 0. And down is a **chain** behind both.
#
# **Predict:** which of the eight links of gate, up and down lead nowhere?

# %%
masks = {"gate": gate != 0, "up": up != 0, "down": down != 0}
figures.show(
    figures.percolating_network(
        [masks["gate"], masks["up"].T], ("read by\nthe gate", "neurons\nof the block", "read by\nup")
    ),
    "Links of the gate (left) and of up (right, turned around). Neuron 1 has no link in the gate, neuron 2 none in up.",
)

# %%
graph = chts.LayerGraph(chains=(("gate", "down"), ("up", "down")), pairs=(("gate", "up"),))
left = chts.percolation.percolate(masks, graph)
print({name: f"{int(mask.sum())} of {int(masks[name].sum())}" for name, mask in left.items()})
assert {name: int(mask.sum()) for name, mask in left.items()} == {"gate": 1, "up": 1, "down": 1}

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Only neuron 0 has both sides. Neuron 1 has a link in up and neuron 2 two in the gate: three links that compute something
# which is then multiplied by 0. Of down, the two links that read these neurons go as well. Three of the eight links are
# left, and the output is the same.
# </details>

# %%
kept = F.silu((gate * left["gate"]) @ x) * ((up * left["up"]) @ x)
assert torch.equal((down * left["down"]) @ kept, down @ hidden)

# %% [markdown]
# ## Heads that share their keys
#
# Larger LLaMAs save memory by *grouped queries*: several heads of queries read one head of keys and values. Here four heads
# of queries, two of keys, two neurons each. Heads 0 and 1 of the queries meet head 0 of the keys.

# %%
grouped = chts.Attention("q", "k", "v", "o", heads=4, key_heads=2)
full = {"q": torch.ones(8, 8), "k": torch.ones(4, 8), "v": torch.ones(4, 8), "o": torch.ones(8, 8)}
masks = {name: mask.bool() for name, mask in full.items()}
masks["k"][1] = False  # neuron 1 of head 0 of the keys
cut = chts.percolation.percolate(masks, chts.LayerGraph(attentions=(grouped,)))
print("queries that lost their links:", (~cut["q"].any(dim=1)).nonzero().flatten().tolist())
assert (~cut["q"].any(dim=1)).nonzero().flatten().tolist() == [1, 3]

# %% [markdown]
# One neuron of the keys went, and with it a neuron of *both* heads of queries that read it. (A real LLaMA tells the position
# of a token by a *rotation*. It turns neurons $j$ and $j + d/2$ of a head of width $d$ by an angle that grows with the
# position. Each of the two gets a part of the other, so a neuron counts as inactive only together with its partner. The core
# reads that off the model.)
#
# `per_head=True` lets each head evolve as a network of its own, with its own exact number of links, and knows that keys and
# values have fewer heads:

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
# The table goes from a model for a laptop to the models of the paper and beyond. It allocates nothing:

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
# The embedding and the last layer stay dense, one row each for every token. In the 60M model they are more than half of all
# weights; at 1B a tenth. "70 % sparse" means something else in each.

# %%
dimensions = models.LLAMA_SIZES[recipe.size]
plan = language.plan_run(settings.method, settings.sparsity, recipe)
print(str(plan).partition("\n\n")[2])

# %% [markdown]
# ## The first weights
#
# Before training, each layer should pass on a signal of about the size that it gets. A sum of $n$ inputs of size 1 with
# weights of deviation $\sigma$ has size $\sigma\sqrt{n}$, so $\sigma = 1/\sqrt n$ keeps it. LLaMA's usual 0.02 is made for a
# width of 2500: at width 128, $0.02 \cdot \sqrt{128} = 0.23$, and after a few layers little is left. A sparse layer has
# fewer inputs, and `rescale_weights` makes up for that, by $1/\sqrt{\text{density}}$.
#
# **Predict:** at width 128 and deviation 0.02, which layer gives outputs with a standard deviation nearer to 1: a dense
# layer, or a rescaled layer with a tenth of its links?

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
# Rescaled, the sparse layer passes on as much as the dense one, 0.23; each of its weights is three times as large. Not
# rescaled, it is a third of that.
# </details>
#
# But an *embedding* that starts at 0.02 is too small, and the model must first enlarge it. The rescaled links of a
# sparse model are larger, so it needs fewer steps for this. In a short run this alone can put sparse methods ahead of a
# dense network. The package has four recorded runs of the size `tiny` on Tiny Shakespeare, one seed each, 120 steps, FC
# and an earlier CHTs with a tenth of the links:

# %%
first_weights = [
    {"from": "0.02 everywhere" if row["recipe"]["deviation"] else "1 and 1/√n", "method": row["method"]}
    | {"loss after 120 steps (nats)": row["validation"][-1]["loss"]}
    for row in records.read_runs(records.results_folder() / "language_rates.jsonl")
    if row["recipe"]["steps"] == 120
]
pd.DataFrame(first_weights).pivot(index="from", columns="method").round(2)

# %% [markdown]
# From 0.02 everywhere, FC stood at 4.89 nats and a sparse network with a tenth of the links at 3.95; from 1 in the embedding
# and $1/\sqrt n$ elsewhere, FC stood at 3.97 and the sparse one at 4.00. Our recipes for small models start from the latter,
# with which the dense network learns faster; the recipes of the paper's sizes keep 0.02.
#
# ## Sixteen bits
#
# On a GPU, products in bfloat16 are several times as fast. Its numbers have 8 significant bits: between 1 and 2 they are 1/128
# apart, between 2 and 4 they are 1/64 apart, and so on. Add a small step to a weight:

# %%
weight = torch.tensor(1.0, dtype=torch.bfloat16)
for step in (0.1, 0.01, 0.003, 0.001):
    print(f"1 + {step} = {float(weight + step):.6f}")
assert float(weight + 0.001) == 1

# %% [markdown]
# The sum is rounded to the nearest of these numbers. So a step from a weight between 1 and 2 vanishes if it is less than half
# of 1/128, which is 1/256. How large is that beside the weight? It depends on the weight.
#
# **Predict:** there are 128 weights from 1 to below 2. Add to each 1/351 of itself. How many of them change?

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
# The weight $n/128$ changes if $n/128/351$ is more than 1/256, so if $n$ is more than 175.5. That holds for 176 to 255, which
# are 80 weights.
# </details>
#
# The limit 1/256 is nearly 1/512 of a weight just below 2, and it is 1/256 of a weight of 1. The same shares hold between any
# two powers of two. So a step below 1/512 of a weight always vanishes. Just above a power of two, every step below about
# 1/256 vanishes.
#
# So the weights stay in float32, and only the products are rounded (`precision="bfloat16"`). The published code keeps
# the *weights* in bfloat16 (`"bfloat16_weights"` here): large weights then no longer move, but small weights do. We do
# not know why this hurts RigL and GraNet most. Both regrow a link at 0 and soon compare it with old, large weights. In
# the paper's tables, 130M at 70 % sparsity, RigL has a perplexity of 25.9 with weights in bfloat16 and of 18.3 with
# weights in float32, where FC has 17.1.
#
# ## Train
#
# The learning rate rises in a line to its peak and falls along half a cosine to a tenth of it. Gradients are clipped: if
# their norm is above `clip`, all are scaled down together.

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
# The last line is the MFU of the progress bar, the *model FLOPs utilisation*: the operations that a dense model of this size
# needs for these tokens, divided by those that the device could do in the same time. Masked layers compute all of them.

# %%
looks = pd.DataFrame([{"step": look.step, "loss": look.loss, "perplexity": look.perplexity} for look in run.looks])
looks.style.hide(axis="index").format({"loss": "{:.3f}", "perplexity": "{:.1f}"})

# %% [markdown]
# ## What it writes
#
# The model draws one token after the other. At temperature $T$ it draws with a probability $\propto p^{1/T}$. At 0 it
# takes the most probable token. At 1 it draws with its own probabilities. (The temperature of stage 03 works the other
# way: there a larger $T$ makes the draw harder.)

# %%
prompt = {"python_reference": "The statement", "tinyshakespeare": "KING"}.get(task.name, "The ")
for temperature in (0.0, 0.7, 1.0):
    generator = torch.Generator().manual_seed(settings.seed)
    written = language.generate(run.model, tokenizer, prompt, 60, temperature=temperature, generator=generator)
    print(f"--- temperature {temperature}\n{written.strip()}\n")

# %% [markdown]
# A model of a million weights, after a few seconds of training, has learned how the text *looks*. At temperature 0 nothing is
# drawn, so the same prompt always gives the same text; here it ends after a few words. Drawn tokens give longer and
# stranger texts.
#
# ## The topology of a head, and of a block
#
# Queries and keys of one head of the last layer, as in stage 08; then the gate, before training and after it.

# %%
last = f"model.layers.{dimensions.layers - 1}"
query, key = (run.last_masks[f"{last}.self_attn.{part}_proj.weight"] for part in "qk")
figures.show(
    figures.attention_head(query, key, dimensions.heads, 0),
    f"Head 0 of the last layer of the {run.method} model: links of its queries and keys, and how many each row has.",
)

# %%
gate_name = f"{last}.mlp.gate_proj.weight"
figures.show(
    figures.topology_change(run.first_masks[gate_name], run.last_masks[gate_name]),
    "The gate of the last layer before training, after it, and the difference.",
)

# %%
history = pd.DataFrame(run.history)
if len(history):
    history["kind"] = history.layer.str.extract(r"\.(\w+)_proj", expand=False)
    print(history.groupby("kind")[["removed", "regrown", "overlap", "anp", "itop"]].mean().round(3).to_string())

# %% [markdown]
# ## The race
#
# A *race* trains every method for the same number of steps, from the same first weights and on the same text for equal seeds,
# and compares what comes out. FC alone has its own learning rate. A few steps are timed first, on a model that is thrown
# away:

# %%
names = list(dict.fromkeys([*settings.methods.split(","), settings.method]))
each = language.predict_seconds(task, settings.method, settings.sparsity, recipe, device=settings.device)
predicted_seconds = each * len(names) * settings.seeds
print(f"{each:.1f} s per run, {predicted_seconds:.0f} s for {len(names)} methods × {settings.seeds} seeds")

# %% [markdown]
# **Predict:** in the paper's Table 2, at 90 % sparsity, the 60M model reaches a perplexity of 26.6 dense and 35 with SET or
# CHT. Which methods will be nearest to FC here? How far off, in per cent of the perplexity?

# %%
rivals = [name for name in names if name != settings.method]
others = language.race(task, rivals, settings.sparsity, recipe, seeds=all_seeds, device=settings.device, folder=folder)
runs = sorted([*mine, *others], key=lambda run: (names.index(run.method), run.seed))
figures.show(
    figures.loss_race(runs),
    "Loss on the validation tokens by training step; lower is better. Left, the methods that keep their number of links; "
    "right, those that lower it. FC is in both.",
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
# After so few steps all are close together. At the laptop profile CHTss and GMP are nearest to FC, 0.2 % below its perplexity.
# GraNet is 3.6 % below, CHT 5.2 % above. In the paper, after a long training, SET and CHT are about a third above FC. A single
# seed has no interval, so there is no ranking; the longer runs below tell more. The sparse methods share one learning rate
# and FC has its own, since a single rate for all would favour the methods that it suits.
# </details>
#
# ## Recorded runs
#
# Longer races come with the package, a line of `results/language.jsonl` for each run, with its settings, versions,
# device and seconds. Nothing is trained here. They have FC, SET, RigL and GraNet. The other methods were run before
# they were the paper's: those runs are in `results/revision_1`, and say nothing about the methods of today. (Three runs
# of CHTs on Tiny Shakespeare are kept in another file; stage 12 uses them.)

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
        f"{name}: mean perplexity of each method's recorded runs at each sparsity, with 95 % confidence intervals; the dashed "
        "line and its band are FC.",
    )

# %% [markdown]
# The differences of each method from FC, and from SET, which regrows at random. They are paired by seed, in nats per token,
# where 0.01 is about one per cent of the perplexity:

# %%
tables = {name: report.beside(rows, ("fc", "set")) for name, rows in compared.items()}
pd.concat({name: pd.DataFrame(columns).fillna("") for name, columns in tables.items()})

# %% [markdown]
# ± is the half-width of a 95 % confidence interval over three seeds. Size `tiny`, 200 steps, about an epoch of Tiny
# Shakespeare; on both corpora:
#
# - **At 70 % SET is level with FC.** RigL and GraNet are 0.03 to 0.04 nats behind FC.
# - **At 90 and 95 % all three are behind FC**, by 0.06 to 0.10 and by 0.10 to 0.14 nats, and no interval contains 0.
# - **RigL is behind SET at 70 %**, by 0.03 to 0.04 nats. At 95 % they are level.
#
# Beside the paper's Table 2, for its 60M model at 90 % sparsity, in the same nats:
#
# - **Agrees:** FC is ahead of all, and RigL is the last of the three.
# - **Does not:** there the methods are further apart. SET is behind FC by 0.28, RigL by 0.53.
# - **Differs:** a model of a sixtieth, 200 steps instead of 10 000, about one epoch of a megabyte instead of gigabytes, weights
#   in float32, $\zeta$ from 0.3 instead of 0.1, no warm-up after updates. Any of these may change the order.
# - **Untested:** CHTs, CHTss, CHT, MEST and GMP as the paper has them, the paper's sizes, and its corpus.
#
# Size `small`, with nine times the weights in its layers, 100 steps, a third of an epoch of Tiny Shakespeare; on both corpora:
#
# - **At 90 % all three have means ahead of FC's**, by 0.02 to 0.17 nats, and most intervals leave out 0. At 70 % RigL is
#   ahead of FC, by 0.07 to 0.15 nats.
# - **SET has the lowest mean of the three at 90 and 95 %**, RigL at 70 %.
#
# Do not read from this that sparse models end better. Each method took the best of its own learning rates (file
# `results/language_rates.jsonl`), and the rates of the sparse methods are five to ten times FC's. After so few steps
# the loss shows how fast a model starts to learn. The `tiny` models saw four times as many tokens. In their tables FC
# is in front at 90 and 95 %.
#
# Seconds of training on one core, medians of three runs on Tiny Shakespeare (other work ran beside some of those of `tiny`
# on the books). At 90 and 95 % SET and RigL stored and multiplied only the existing links:

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
# ## Larger
#
# The same notebook with other parameters, or one model by itself on the command line. `torchrun` starts several processes
# that train one model together (stage 10):
#
# ```
# chts run 09 -p dataset tinyshakespeare -p data_dir DIR -p recipe tiny -p seeds 3 -p out_dir runs/shakespeare
# chts train small --dataset books --method chtss --sparsity 0.95 -s execution csr --out runs/small
# torchrun --nproc-per-node 8 -m chts_core.cli train 60m --dataset openwebtext --method chts/paper_llama --sparsity 0.7 --out runs/60m
# ```
#
# `profile=paper` asks for the paper's 60M model on OpenWebText, streamed, with T5's tokens and $\zeta$ from 0.1. None of us
# has run that yet: we have no GPU.
#
# ## Exercise: guesses
#
# *★☆☆ · 5 minutes · essential · objective 1 · work out*
#
# A corpus of 1030 tokens, ends counted, is packed with a context of 128. How many blocks are there, and how many guesses
# are made in one epoch?

# %% tags=["exercise"]
num_blocks, num_guesses = None, None

# %% tags=["check"]
exercises.check("09.blocks_and_guesses", num_blocks, num_guesses)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $n$ blocks with a context of 128 take $128 n + 1$ tokens.
# </details>
#
# <details><summary>Solution</summary>
#
# 8 · 128 + 1 = 1025 tokens fit, 9 · 128 + 1 = 1153 do not:
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
# Write two functions. The first one computes the perplexity from the probabilities that the tokens got. The second one gets the
# loss per token in nats, the number of tokens and the number of bytes of the same text. It computes the bits per byte. A bit is
# the loss of a token that got the probability 1/2, which is $\log 2$ nats.
#
# Predict first: model A has a perplexity of 20 and needs 400 tokens for 1000 bytes. Model B has 40 and needs 250 tokens.
# Which model is better? The check prints what your function says.


# %% tags=["exercise"]
def perplexity(chances: list[float]) -> float:
    """The perplexity of tokens that got these probabilities; write it here."""


def bits_per_byte(loss: float, tokens: int, num_bytes: int) -> float:
    """Bits per byte of a text, from the loss per token in nats; write it here."""


# %% tags=["check"]
exercises.check("09.perplexity_and_bits", perplexity, bits_per_byte)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Work in nats until the last step. The whole text costs `loss * tokens` nats.
# </details>
#
# <details><summary>Solution</summary>
#
# Model B is better: 1.33 bits per byte, and A has 1.73. B's tokens are longer, so each of them is harder to guess.
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
# Neuron `neuron` of the keys lost its links. Return the neurons of the queries that lose their links with it. There are `heads`
# heads of queries and `key_heads` heads of keys. Each head has `width` neurons, numbered head after head. Leave the rotation of
# positions aside. Neighbouring heads of queries share a head of keys, as in the section on shared keys, where the answer was 1
# and 3.


# %% tags=["exercise"]
def queries_of(neuron: int, heads: int, key_heads: int, width: int) -> list[int]:
    """The neurons of the queries that meet a neuron of the keys; write it here."""


# %% tags=["check"]
exercises.check("09.queries_of", queries_of)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `divmod(neuron, width)` gives the head of the neuron, and its place there. `heads // key_heads` heads read each head of keys.
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
# So one neuron of shared keys takes several neurons of the queries with it. A small `key_heads` makes percolation cut more.
# </details>
#
# ## Exercise: percolate a gate
#
# *★★★ · 20 minutes · essential · objective 3 · write code*
#
# A gated block multiplies: neuron $j$ gives $\text{activation}(\text{gate}(x)_j) \cdot \text{up}(x)_j$, and down reads it.
# Write the percolation of this block. It gets the masks of gate, up and down, and `at_zero`, the value of the activation at 0.
# Return the three masks without the links that lead nowhere. For silu `at_zero` is 0, and the result must equal the core's.
#
# Now change the activation. An older block uses the sigmoid in place of silu, and $\text{sigmoid}(0) = 1/2$. Which links lead
# nowhere then? The function must work for both. A link of the gate leads nowhere if it cannot change the output, whatever its
# weight.


# %% tags=["exercise"]
def percolate_gate(
    gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, at_zero: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masks of gate, up (neurons, inputs) and down (outputs, neurons) without incomplete links; write it here."""


# %% [markdown]
# The check has four neurons. One has links on all sides, and each of the others lacks the links of one side.

# %% tags=["check"]
exercises.check("09.percolate_gate", percolate_gate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First write a Boolean for each neuron: can its product be other than 0, and does down read it? A neuron without links in the
# gate gets $\text{gate}(x)_j = 0$. A neuron of the block meets no other neuron of the block, so one pass is enough.
# </details>
#
# <details><summary>Solution</summary>
#
# With the sigmoid, a neuron without links in the gate gives half of up. So it stays, and only up and down decide:
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
# You may use a GPU for 20 minutes. A trial of the 60M model there processed 12,000 tokens per second. Write two functions.
#
# `shortened` makes the paper's recipe fit. It takes as many steps as end in time; a step sees `batch` contexts of `context`
# tokens. Keep the shape of the run: the warm-up is a tenth of the steps, and `update_every` is a hundredth of them (rounded, and
# at least 1). Set `iterative_warmup` to 0, since its 20 steps would be longer than the time between two updates. Change nothing
# else. Here is what the planner says if you change `steps` alone:

# %%
try:
    language.plan_run("chtss", 0.9, replace(language.RECIPES["60m"], steps=100))
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# `facts` reads a plan (`language.plan_run` returns one). It returns a dict with five numbers:
#
# - `"links"`: the links of all matrices of layer 0 at the end of the run, whose names contain `.layers.0.`;
# - `"updates"`: how many updates there are;
# - `"tokens"` and `"minutes"` of the whole run;
# - `"MiB"`: the memory without activations, in units of 2²⁰ bytes.
#
# `plan.budget.links(step)` has the links of each matrix after a step, `plan.budget.updates()` the steps of the updates, and
# `plan.memory` the bytes of each part.


# %% tags=["exercise"]
def shortened(recipe: language.Recipe, tokens_per_second: float, minutes: float) -> language.Recipe:
    """The recipe with as many steps as fit; write it here."""


def facts(plan, recipe: language.Recipe, tokens_per_second: float) -> dict[str, float]:
    """Links of layer 0, updates, tokens, minutes and MiB of a run; write it here."""


# %% tags=["check"]
exercises.check("09.planned", shortened, facts)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `replace(recipe, steps=...)` makes a changed copy. 20 minutes at 12,000 tokens per second are 14.4 million tokens, and a step
# has 512 · 256 = 131,072 of them.
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
# 109 steps fit. The paper's 10,000 steps would take 30 hours. A layer has 316,209 links, a tenth of its weights. But the memory
# is that of the dense model and more: masks on dense weights save none.
# </details>
#
# ## Exercise: the least step
#
# *★★☆ · 15 minutes · optional · objective 5 · write code*
#
# Weights are kept in bfloat16. Write a function that gives half the distance from a positive weight to the next larger number.
# A step of less than this vanishes. Then answer: Adam takes steps of about the size of the learning rate. With steps of 0.001,
# from which weight on do all weights stand still?


# %% tags=["exercise"]
def least_step(weight: float) -> float:
    """Half the distance from a weight in bfloat16 to the next larger number; write it here."""


still_from = None  # the smallest such weight

# %% tags=["check"]
exercises.check("09.least_step", least_step, still_from)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Between 1 and 2 the distance is 1/128. It doubles at each power of two. `math.floor(math.log2(weight))` tells which power of
# two is the last one below the weight.
# </details>
#
# <details><summary>Solution</summary>
#
# From 0.25 to 0.5 half the distance is 0.25/256 = 0.00098, and from 0.5 to 1 it is 0.00195. So weights of 0.5 and more stand
# still, and smaller weights move:
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
# Each method was trained with several learning rates, and `losses` has the validation losses, by method and by rate. All
# methods have the same rates. Return two things: a dict with the method of the lowest loss at each rate, and the method of the
# lowest loss if each method takes its own best rate. Two reports that choose different rates can name different winners from
# the same runs.


# %% tags=["exercise"]
def winners(losses: dict[str, dict[float, float]]) -> tuple[dict[float, str], str]:
    """The best method at each learning rate, and the best one at its own rate; write it here."""


# %% tags=["check"]
exercises.check("09.winners", winners)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `min(losses, key=...)` returns the method whose key is smallest. The rates are those of any method.
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
# Something similar happens in our recorded runs of the size `small` at 90 %, 100 steps, one seed, at rates that are
# near each other. FC has 5.12 nats at the rate 0.0032, and SET has 5.23 at 0.004: FC is ahead. SET has 5.01 at 0.008,
# and FC has 5.52 at 0.0064: SET is ahead by half a nat. At their own best rates, FC has 5.10 and SET has 4.93.
# </details>
#
# ## To discuss
#
# 1. For each cell of its Table 2 the paper chose the best of eight first networks for CHTs. SET has no such setting. Is the
#    comparison fair, and how would you report it?
# 2. The published code keeps the weights in bfloat16. Would you report its methods with these weights, with weights in
#    float32, or with both? Which methods would move up?
# 3. Size `small` has sparse methods ahead of FC after 100 steps, size `tiny` has them behind after 200. Which runs would
#    tell whether sparse models only start faster, or also end better?
#
# ## Self-check
#
# 1. Model A has a perplexity of 20 with 1000 tokens, model B of 40 with 30 000. Which one is better?
#
# <details><summary>Answer</summary>
#
# That cannot be told. B's tokens are longer, so each is harder to guess and there are fewer. Compare losses per *byte* of
# the same text.
# </details>
#
# 2. Neuron 7 of a gated block has fifty links in the gate and none in up. What does it give, and what does percolation do?
#
# <details><summary>Answer</summary>
#
# 0 for every input, since up gives 0 and the product is 0. Percolation cuts the fifty, and the links of down that read it.
# </details>
#
# 3. A paper reports that a sparse method beats a dense network after 500 steps. What would you ask first?
#
# <details><summary>Answer</summary>
#
# Which first weights and which learning rate the dense network had, and whether they were chosen for it. Both can put it
# behind in a short run.
# </details>
#
# 4. With weights in bfloat16, RigL ends far behind SET. Is the gradient a bad guide?
#
# <details><summary>Answer</summary>
#
# You cannot tell from this run. Large weights in bfloat16 do not move by small steps, so it was another training. Run
# both with weights in float32.
# </details>
#
# ## Key takeaways
#
# - Bytes make any text into tokens; packing wastes none of them.
# - Perplexity is $e$ to the mean loss, and belongs to its tokens.
# - Gate and up are a pair, down a chain behind both; heads may share their keys.
# - First weights, learning rates and precision can decide a race before the topology does.
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
