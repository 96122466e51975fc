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
# # 08b · Subwords, beam search and BLEU
#
# **You will be able to**
#
# 1. build a vocabulary of subwords, and batches with little padding;
# 2. decode by beam search;
# 3. score translations with BLEU.
#
# | | |
# |---|---|
# | Prerequisites | stage 08, whose translator uses all three tools; you can also run this page on its own |
# | Time | 35 minutes to read, a few seconds to run |
# | Difficulty | ●●○ |
# | Paper | *Brain network science modelling of sparse neural networks …* (NeurIPS 2025), Table 1 and the hyperparameters of its appendix |
#
# This stage is optional. It trains no network. The page explains three tools of stage 08. The translator of that stage
# reads and writes pieces of words, and it searches for the best translation. A score shows how good its translations
# are.

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
from collections import Counter

import torch

from chts_core.lab import data, figures, next_pieces, scores
from chts_core.lab.notebook import exercises, notebooks
from chts_core.lab.results import records
from chts_core.lab.train import translation

print(records.environment_line(torch.device("cpu")))

# %% tags=["parameters"]
profile: str = ""  # ci, binder, laptop, gpu or paper, which are all the same here; empty means $CHTS_PROFILE, or laptop
seed: int = 0  # seed of the order of the batches

# %%
settings = notebooks.start("08b_subwords_beam_bleu", profile, seed=seed)

# %% [markdown]
# ## Words from pieces
#
# The task is the same as in stage 08: translate numbers and dates, written in words, from English to German. A program
# makes the sentences, so you do not need to download anything.
#
# A vocabulary of whole words would need an entry for every German number up to a million. *Subwords* need far fewer
# entries. *Byte pair encoding* (BPE) is the algorithm that builds the subwords. BPE begins with single letters. Each
# step joins the two pieces that most often stand next to each other in the training sentences. BPE stops when the
# vocabulary is full. Both languages share one vocabulary. "▁" stands for a space before a word.

# %%
corpus = data.load_translation("number_words")
recipe = translation.RECIPES["number_words_short"]
task = translation.prepare(corpus, recipe)
vocabulary = task.vocabulary
print(f"{vocabulary.size} pieces, the first: {vocabulary.pieces(range(12))}")

# %%
for sentence in (*corpus.validation[0], "three hundred and forty-two zebras"):
    tokens = vocabulary.encode([sentence])[0]
    print(f"{len(tokens):>3} pieces: {' | '.join(vocabulary.pieces(tokens))}")
    assert vocabulary.decode(tokens) == sentence

# %% [markdown]
# The first four pieces are special. These pieces stand for padding, for unknown characters, and for the beginning and
# the end of a sentence. The vocabulary has no piece for *zebras*, so BPE spells the word with smaller pieces, if
# necessary letter by letter. A model that can *write* a word may still *translate* it badly. You can test such words in
# the section *Try your own sentence* of stage 08.
#
# ## Exercise: one merge
#
# *★★☆ · 12 minutes · essential · objective 1 · write code*
#
# Write one step of BPE. Each key of `words` is a word, given as a tuple of its pieces. The value of a key is the number
# of times that its word occurs in the training sentences. Count all pairs of neighbouring pieces. Join the most
# frequent pair in all words, and return the new `words`. If a word has three equal letters in a row, join the first
# two: ("a", "a", "a") becomes ("aa", "a").


# %% tags=["exercise"]
def merge(words: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    """The words after the most frequent pair of neighbours has been joined. Write this function."""


# %% tags=["check"]
exercises.check("08b.merge", merge)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `zip(pieces, pieces[1:])` gives the pairs of neighbouring pieces of a word. If a word occurs five times, each of its
# pairs counts five times. To join the most frequent pair, go through the pieces of each word from left to right, and
# build a list. If the last piece of the list and the next piece of the word form this pair, replace the last piece of
# the list with the joined piece. If not, append the next piece to the list. A joined piece differs from the first piece
# of the pair, so you never join the same piece twice.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def merge(words: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
#     pairs = Counter(
#         pair for pieces, count in words.items() for pair in zip(pieces, pieces[1:], strict=False) for _ in range(count)
#     )
#     best, _ = pairs.most_common(1)[0]
#     merged = {}
#     for pieces, count in words.items():
#         joined: list[str] = []
#         for piece in pieces:
#             if joined and (joined[-1], piece) == best:
#                 joined[-1] += piece
#             else:
#                 joined.append(piece)
#         merged[tuple(joined)] = count
#     return merged
# ```
# </details>
#
# ## Batches with little padding
#
# A batch is a rectangle of tokens. Shorter sentences are *padded* to the length of the longest one. The padding takes
# computing time, but the model learns nothing from it. Here are four sentences of 3, 8, 4 and 9 tokens, in two batches
# of two sentences:

# %%
lengths = torch.tensor([3, 8, 4, 9])
for name, pairing in {"as they come": ([0, 1], [2, 3]), "by length": ([0, 2], [1, 3])}.items():
    places = sum(len(batch) * int(lengths[batch].max()) for batch in pairing)
    print(f"{name:<13} {places} places for {int(lengths.sum())} tokens: {1 - int(lengths.sum()) / places:.0%} padding")

# %% [markdown]
# In the given order, short sentences share a batch with long ones. So we fill each batch with sentence pairs of about
# the same length. The limit on the size of a batch is a number of *tokens*, not a number of sentences. The length of a
# pair is the length of its longer sentence, including the end mark.

# %%
by_length = data.batches(task.train, recipe.batch_tokens, torch.Generator().manual_seed(settings.seed))
pairs_each = round(len(task.train) / len(by_length))
at_random = list(torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0)).split(pairs_each))
figures.show(
    figures.length_buckets(task.train.lengths, {"at random": at_random, "by length": by_length}),
    "Batches by length have hardly any padding (right), but batches drawn at random have a lot of padding (left). "
    "Each bar is a batch of the training pairs, and the upper part of the bar is padding. Each batch on the left "
    f"has {pairs_each} pairs. Each batch on the right has pairs of about the same length and at most "
    f"{recipe.batch_tokens} places.",
)

# %% [markdown]
# ## Exercise: padding
#
# *★☆☆ · 5 minutes · useful · objective 1 · work out*
#
# Sentences of 4, 6, 7 and 10 tokens share one batch. These numbers include the end mark. What share of the batch is
# padding?

# %% tags=["exercise"]
padding_share = None

# %% tags=["check"]
exercises.check("08b.padding_share", padding_share)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Every row of the batch is as long as the longest sentence.
# </details>
#
# <details><summary>Solution</summary>
#
# Four rows of 10 make 40 places, and 27 of them hold tokens:
#
# ```python
# padding_share = 13 / 40
# ```
# </details>
#
# ## Greedy is not best
#
# A translator gives a probability to each possible next piece. *Greedy* decoding takes the most likely piece at each
# step. We chose the probabilities of the following tree by hand. The task is to translate *forty-two*. The English word
# begins with *forty*, which suggests "vier" (four) as the first piece of the translation. At each step, the function
# `search` keeps only the most likely beginnings. The number of beginnings that it keeps is `beam`. With a beam of 1,
# the search is greedy decoding.

# %%
TREE = {
    "": {"vier": 0.6, "zwei": 0.4},
    "vier": {"·hundert": 0.4, "·zig": 0.35, "·tausend": 0.25},
    "zwei": {"·undvierzig": 0.9, "·tausend": 0.1},
}


def search(beam: int) -> dict[str, float]:
    beginnings = {"": 1.0}
    for _ in range(2):
        grown = {begun + piece: p * q for begun, p in beginnings.items() for piece, q in TREE[begun].items()}
        beginnings = dict(sorted(grown.items(), key=lambda entry: -entry[1])[:beam])
    return beginnings


# %% [markdown]
# **Predict:** what does greedy decoding write, and with what probability? Which translation is the most likely one?

# %%
for beam in (1, 2, 5):
    print(f"beam {beam}:", {written: round(p, 2) for written, p in search(beam).items()})
assert next(iter(search(1))) == "vier·hundert"
assert next(iter(search(2))) == next(iter(search(5))) == "zwei·undvierzig"

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# Greedy decoding takes *vier* first and reaches a probability of 0.6 · 0.4 = 0.24. The most likely translation has a
# probability of 0.4 · 0.9 = 0.36, although its first piece, *zwei*, was less likely than *vier*. A *beam* of 2 keeps
# the two most likely beginnings at each step, and it finds the most likely translation. A beam of 5 covers the whole
# tree here: the search drops no beginning.
# </details>
#
# The product of many probabilities is tiny, so the search adds the logarithms of the probabilities instead. For a
# longer translation, the product has more factors, and no factor is above 1, so the sum of the logarithms is usually
# lower. Therefore the search divides the sum by a *length penalty*. In the formula, $p$ is the probability of the
# translation, and $n$ is the number of its pieces, including the end mark:
#
# $$\text{score} = \frac{\log p}{((5 + n)/6)^{0.6}}$$
#
# The beam search of the package ends a translation when the model writes the end mark, `</s>`. So we add this mark
# after each leaf of the tree. For the translation that it finds, the search reports two numbers: the logarithm of the
# probability, and the score. For the beam of 2, we compute both numbers again by hand.

# %%
LEAVES = ("·hundert", "·zig", "·tausend", "·undvierzig")
following = {"<s>": TREE[""], "vier": TREE["vier"], "zwei": TREE["zwei"], **{leaf: {"</s>": 1.0} for leaf in LEAVES}}
for beam in (1, 2):
    pieces, found = next_pieces.search(following, beam)
    print(f"beam {beam}: {''.join(pieces)}, log p {found.log_probability:.3f}, score {found.score:.3f}")

# %%
by_hand = math.log(0.4 * 0.9) / ((5 + 3) / 6) ** 0.6  # two pieces and the end
print(f"by hand: log p {math.log(0.4 * 0.9):.3f}, score {by_hand:.3f}")
assert math.isclose(found.score, by_hand, rel_tol=1e-6)

# %% [markdown]
# How wide should the beam be? To choose the width, look at the *validation* pairs, never at the test pairs. If you
# choose the width, or any other setting, on the test pairs, the test score is too high. Stage 08 compares three widths
# on validation pairs. A wider beam takes more time. If a model is sure of each piece, greedy decoding writes the same
# translation as beam search.
#
# ## Exercise: search with a beam
#
# *★★★ · 25 minutes · essential · objective 2 · write code*
#
# Write a beam search that works for translations of any length. `following[piece]` gives the pieces that may follow
# `piece`, with their probabilities. The probabilities depend only on the last piece. Each step extends every beginning
# with each piece that may follow it, and then keeps only the most likely results, at most `beam` of them. Set aside the
# beginnings that end with `</s>`, and continue with the other beginnings until none is left. Return the pieces of the
# translation with the best score, without `<s>` and `</s>`.


# %% tags=["exercise"]
def beam_search(following: dict[str, dict[str, float]], beam: int) -> list[str]:
    """The pieces of the translation that scores best. Write this function."""


# %% tags=["check"]
exercises.check("08b.beam_search", beam_search)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Store each beginning as a tuple of pieces, with the sum of the logarithms of their probabilities: `{("<s>",): 0.0}`. A
# finished translation has `len(pieces) - 1` pieces, because `</s>` counts, but `<s>` does not. Collect the scores of
# all finished translations, and compare them at the end.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def beam_search(following: dict[str, dict[str, float]], beam: int) -> list[str]:
#     begun, ended = {("<s>",): 0.0}, {}
#     while begun:
#         grown = {
#             (*pieces, piece): log_p + math.log(p)
#             for pieces, log_p in begun.items()
#             for piece, p in following[pieces[-1]].items()
#         }
#         kept = dict(sorted(grown.items(), key=lambda entry: -entry[1])[:beam])
#         finished = [pieces for pieces in kept if pieces[-1] == "</s>"]
#         ended |= {pieces: kept[pieces] / ((4 + len(pieces)) / 6) ** 0.6 for pieces in finished}
#         begun = {pieces: log_p for pieces, log_p in kept.items() if pieces not in finished}
#     return list(max(ended, key=ended.__getitem__)[1:-1])
# ```
#
# The package has its own beam search. The package's search refills its beam when a translation ends, and it may stop
# earlier than your search. With the tables of probabilities that the check uses, both searches find the same
# translations.
# </details>
#
# ## Exercise: which one wins?
#
# *★★☆ · 8 minutes · useful · objective 2 · work out*
#
# Two translations are complete. A has a log-probability of −2.0 and 4 pieces. B has a log-probability of −2.3 and 7
# pieces. Both numbers of pieces include the end mark. What are the scores of A and B with the length penalty above,
# rounded to three decimals? Which translation does the search return?

# %% tags=["exercise"]
score_a, score_b = None, None

# %% tags=["check"]
exercises.check("08b.scores", score_a, score_b)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The penalty of A is $(9/6)^{0.6} = 1.275$, and the penalty of B is $2^{0.6} = 1.516$.
# </details>
#
# <details><summary>Solution</summary>
#
# The score of A is −2.0/1.275 = −1.568, and the score of B is −2.3/1.516 = −1.517. B is less probable, but the search
# returns B because of its higher score:
#
# ```python
# score_a, score_b = -1.568, -1.517
# ```
# </details>
#
# ## BLEU, by hand
#
# BLEU counts how many words of a model's translation are also in the *reference*, the correct translation in the data.
# BLEU counts pairs, triples and quadruples of neighbouring words in the same way. A group of $n$ neighbouring words is
# an *n-gram*. BLEU *clips* each count: an n-gram counts at most as often as it occurs in the reference. The *precision*
# $p_n$ is the share of the translation's n-grams that are found in the reference. BLEU uses $p_1$ to $p_4$. A
# punctuation mark counts as a word.

# %%
reference = "Montag , der dritte März zweitausend"
wrong_month = "Montag , der dritte Mai zweitausend"


def precision(written: str, reference: str, n: int) -> tuple[int, int]:
    """How many n-grams of the written text are also in the reference, and how many n-grams it has in total."""
    counts = [
        Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (written.split(), reference.split())
    ]
    return (counts[0] & counts[1]).total(), counts[0].total()


for n in range(1, 5):
    print(f"{n}-grams: {precision(wrong_month, reference, n)[0]} of {precision(wrong_month, reference, n)[1]}")

# %% [markdown]
# The month is wrong, and only one of the three quadruples is right. BLEU is the geometric mean of the four precisions,
# times a factor $B$ and times 100. Here $B = 1$:
#
# $$100 \cdot B \cdot (p_1 p_2 p_3 p_4)^{1/4} = 100 \cdot \left(\tfrac56 \cdot \tfrac35 \cdot \tfrac24 \cdot \tfrac13\right)^{1/4}
# = 53.7$$
#
# The factor $B$ is the *brevity penalty*. A translation can leave out words without losing precision. So a translation
# that is shorter than the reference, with $c$ words instead of $r$, gets $B = e^{1 - r/c}$. All other translations get
# $B = 1$. If a translation leaves out "Montag ," and makes no other mistake, it has four of the six words, and all four
# are right. Then $B = e^{1 - 6/4} = 0.607$.


# %%
def bleu_by_hand(written: str, reference: str) -> float:
    shares = [hits / count for hits, count in (precision(written, reference, n) for n in range(1, 5))]
    brevity = min(1.0, math.exp(1 - len(reference.split()) / len(written.split())))
    return 100 * brevity * math.prod(shares) ** (1 / 4)


for written in (wrong_month, "der dritte März zweitausend", reference):
    score = scores.bleu([written], [reference], lowercase=False)
    print(f"{bleu_by_hand(written, reference):6.2f}  {written}")
    assert math.isclose(bleu_by_hand(written, reference), score.value)

# %% [markdown]
# For a whole test set, BLEU first adds up the counts of all sentences and then computes the precisions from these sums.
# BLEU also depends on how the text is split into words, whether capital letters matter and how counts of zero are
# treated. The *signature* of a score lists these choices. Scores are comparable only if their signatures are equal. The
# paper does not give the signature of its scores. So stage 08 shows our scores *beside* the paper's scores, but it does
# not rank them against each other.
#
# **Predict:** a test has a single sentence, and its reference is "zweiundvierzig". The translation has no mistake. What
# is the BLEU of this translation?

# %%
print(score.signature)
single = scores.bleu(["zweiundvierzig"], ["zweiundvierzig"], lowercase=False).value
print(f"BLEU of one right word: {single:.0f}, exact: {scores.exact_share(['zweiundvierzig'], ['zweiundvierzig']):.0%}")

# %% [markdown]
# <details><summary>What you should have seen</summary>
#
# BLEU is 0. A single word has no pairs, triples or quadruples, so $p_2$, $p_3$ and $p_4$ count as 0. A German number is
# *one* word, so for BLEU it is only one 1-gram, which is right or wrong as a whole. So the BLEU score on this task
# depends mostly on the dates. Therefore stage 08 also reports `exact`, the share of sentences in which every character
# is right.
# </details>
#
# ## Exercise: two references
#
# *★★☆ · 12 minutes · essential · objective 3 · write code*
#
# A sentence can have several good translations. With several references, BLEU looks for the *one* reference in which an
# n-gram occurs most often. The n-gram counts at most as often as it occurs in this reference. Write a function
# `clipped` that returns two numbers: how many n-grams of a translation are found in the references, after clipping, and
# how many n-grams the translation has. All sentences are lists of words.


# %% tags=["exercise"]
def clipped(written: list[str], references: list[list[str]], n: int) -> tuple[int, int]:
    """How many n-grams of `written` are in `references` (clipped), and how many it has in all. Write this function."""


# %% tags=["check"]
exercises.check("08b.clipped", clipped)

# %% [markdown]
# <details><summary>Hint</summary>
#
# For two counters, `|` gives the larger count of each key, and `&` gives the smaller count.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def clipped(written: list[str], references: list[list[str]], n: int) -> tuple[int, int]:
#     def counted(words: list[str]) -> Counter[tuple[str, ...]]:
#         return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
#
#     most = Counter[tuple[str, ...]]()
#     for reference in references:
#         most |= counted(reference)
#     return (counted(written) & most).total(), counted(written).total()
# ```
# </details>
#
# ## Exercise: too short
#
# *★☆☆ · 6 minutes · useful · objective 3 · work out*
#
# A reference consists of eight different words. A translation consists of the first six of these words. What is the
# BLEU of this translation, on the scale from 0 to 100? Predict first: is this BLEU above or below 75?

# %% tags=["exercise"]
bleu_of_six = None

# %% tags=["check"]
exercises.check("08b.bleu_of_six", bleu_of_six)

# %% [markdown]
# <details><summary>Hint</summary>
#
# All words of the translation are right, so all four precisions are 1. Only the brevity penalty lowers the score.
# </details>
#
# <details><summary>Solution</summary>
#
# $B = e^{1 - 8/6} = e^{-1/3} = 0.717$. A quarter of the words are missing, and the penalty lowers the score by a little
# more than a quarter:
#
# ```python
# bleu_of_six = 100 * math.exp(1 - 8 / 6)
# ```
# </details>
#
# ## To discuss
#
# 1. The vocabulary is trained on both languages together. When would you rather train one vocabulary for each language?
# 2. A very wide beam often *lowers* the BLEU of large translators, although the search then finds translations with a
#    better score (log-probability divided by length penalty). What does this finding say about the score of the search?
#    What does the finding say about the model?
# 3. A translation is right, but its words differ from the words of the reference. How would you measure its quality,
#    and what would your measure miss?
#
# ## Self-check
#
# 1. Why can BPE write every word that consists of known letters, even a word that was not in the training sentences?
#
# <details><summary>Answer</summary>
#
# The single letters stay in the vocabulary. If no larger piece fits, BPE spells the word letter by letter.
# </details>
#
# 2. You try beams of 1, 2, 4 and 8 on the test pairs and report the best score. What is wrong with this report?
#
# <details><summary>Answer</summary>
#
# You chose a setting on the test pairs, so the score is too high. Choose the beam on the validation pairs. Then compute
# the test score once.
# </details>
#
# 3. In a test, a model makes one mistake in every number, but it translates all dates correctly. What do BLEU and
#    `exact` show?
#
# <details><summary>Answer</summary>
#
# BLEU stays high. Each number adds only one wrong 1-gram, and nearly all n-grams come from the dates. `exact` equals
# the share of dates in the test, because only the dates are translated exactly.
# </details>
#
# ## Key takeaways
#
# - BPE joins the most frequent pair of neighbouring pieces. Batches of sentences of similar length have little padding.
# - Beam search keeps several beginnings at the same time. Choose the width of the beam on the validation pairs, or fix
#   the width in advance. Never choose it on the test pairs.
# - Report BLEU with its signature. For number words, report `exact` too.
#
# ## Further reading
#
# - R. Sennrich, B. Haddow and A. Birch, *Neural machine translation of rare words with subword units*, ACL 2016,
#   [arXiv 1508.07909](https://arxiv.org/abs/1508.07909): subwords.
# - Y. Wu et al., *Google's neural machine translation system*, 2016, [arXiv 1609.08144](https://arxiv.org/abs/1609.08144): the
#   length penalty.
# - K. Papineni, S. Roukos, T. Ward and W.-J. Zhu, *BLEU: a method for automatic evaluation of machine translation*, ACL 2002.
# - M. Post, *A call for clarity in reporting BLEU scores*, WMT 2018,
#   [arXiv 1804.08771](https://arxiv.org/abs/1804.08771): why a score needs its signature.

# %%
records.publish(
    {
        "data": task.digest,
        "subwords": vocabulary.size,
        "found": {"pieces": pieces, "score": round(found.score, 4)},
        "by_hand": {"wrong month": round(bleu_by_hand(wrong_month, reference), 2), "one word": single},
        "signature": score.signature,
    }
)
