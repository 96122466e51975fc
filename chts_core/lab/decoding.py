"""Translate with a Transformer, greedily or by beam search, and continue a text with a language model."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chts_core.lab.data import BEGIN, END, PAD, TextTokenizer
from chts_core.lab.models import Transformer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    tokens: the tokens without BEGIN and END.
    log_probability: log-probability of the tokens and of the END after them, in nats.
    score: the log-probability divided by the length penalty; higher is better.
    finished: whether the model ended the translation by itself. If not, the translation reached the largest number of
        tokens, and END was not the likeliest next token.
    """

    tokens: list[int]
    log_probability: float
    score: float
    finished: bool


def greedy(model: Transformer, source: Tensor, max_length: int) -> list[Hypothesis]:
    """Translate each row of `source` with the likeliest token at each place. This is beam search with a beam of 1."""
    return beam_search(model, source, 1, max_length)


@torch.no_grad()
def beam_search(
    model: Transformer, source: Tensor, beam: int, max_length: int, length_penalty: float = 0.6
) -> list[Hypothesis]:
    """For each row of `source`, the best translation that beam search finds.

    For each sentence, the search extends `beam` beginnings of a translation in parallel. Each step considers the 2·beam
    likeliest continuations of these beginnings. If one of the `beam` likeliest continuations ends with END, it becomes
    a hypothesis. Of the continuations without END, the search keeps the `beam` likeliest as new beginnings. After
    `max_length` tokens, only END may follow. The search never produces PAD or BEGIN.

    The score of a hypothesis of `length` tokens, including END, is log-probability / ((5 + length) / 6)^length_penalty
    (Wu et al., 2016). The same formula gives the score of a beginning; its `length` is its number of tokens. A sentence
    is done if it has `beam` hypotheses, and if no beginning has a higher score than the best hypothesis. The second
    condition is necessary because END is often the second-likeliest token, even if its probability is low. Without this
    condition, the search could stop too early: it could find `beam` incomplete translations before the complete one.

    If two continuations are equally likely, the continuation of the likelier beginning comes first. If they also have
    the same beginning, the continuation whose last token has the lower index comes first.

    Args:
        model: the Transformer. The function puts the model into evaluation mode, without dropout, and restores its
            earlier mode at the end.
        source: (n, S) int64 tokens, padded at the end with PAD. The translation of a row does not depend on the other
            rows.
        beam: the number of beginnings; it may be larger than the vocabulary.
        max_length: the largest number of tokens in a translation, without END.
        length_penalty: with 0, only the log-probability counts; a higher penalty favours longer translations.

    Returns:
        One hypothesis per row.

    Raises:
        ValueError: if an argument is out of range, or if the model's logits are not all finite.
    """
    _check(source, beam, max_length, length_penalty)
    with _evaluating(model):
        return _search(model, source, beam, max_length, length_penalty)


def _search(model: Transformer, source: Tensor, beam: int, max_length: int, length_penalty: float) -> list[Hypothesis]:
    best: dict[int, Hypothesis] = {}
    # These variables describe the unfinished sentences: the index of each sentence, how many hypotheses it has, the
    # best score of these hypotheses, and its beginnings (sentences, width, length), which are consecutive rows of the
    # state. If a sentence has fewer than `width` beginnings, impossible beginnings with log-probability -inf fill the
    # free places.
    sentences = torch.arange(len(source), device=source.device)
    hypotheses = torch.zeros_like(sentences)
    best_scores = torch.full((len(source),), -math.inf, device=source.device)
    tokens = source.new_empty(len(source), 1, 0)
    totals = torch.zeros(len(source), 1, device=source.device)
    newest = torch.full_like(sentences, BEGIN)
    state = model.start(source)

    for length in range(max_length + 1):
        width = totals.shape[1]
        following = _log_probabilities(model.step(newest, state)).unflatten(0, (-1, width))
        vocabulary = following.shape[2]
        ends_by_itself = torch.ones_like(totals, dtype=torch.bool)
        if length == max_length:
            ends_by_itself = following.argmax(dim=2) == END
            following[:, :, torch.arange(vocabulary, device=source.device) != END] = -math.inf
        continued = (totals.unsqueeze(2) + following).flatten(1)
        values, places = _largest(continued, min(2 * beam, continued.shape[1]))
        parents, chosen = places // vocabulary, places % vocabulary

        ends = chosen == END
        ended = (ends & values.isfinite())[:, :beam]
        rows = ended.any(dim=1).nonzero().squeeze(1)
        # The hypotheses of one step are equally long, so the first of them, which is the likeliest, has the best score.
        first = ended.int().argmax(dim=1)[rows]
        penalty = ((5 + length + 1) / 6) ** length_penalty
        best_scores[rows] = torch.maximum(best_scores[rows], values[rows, first] / penalty)
        for sentence, prefix, log_probability, by_itself in zip(
            sentences[rows].tolist(),
            tokens[rows, parents[rows, first]].tolist(),
            values[rows, first].tolist(),
            ends_by_itself[rows, parents[rows, first]].tolist(),
            strict=True,
        ):
            score = log_probability / penalty
            if sentence not in best or score > best[sentence].score:
                best[sentence] = Hypothesis(prefix, log_probability, score, by_itself)

        hypotheses += ended.sum(dim=1)
        likeliest = values.masked_fill(ends, -math.inf).amax(dim=1)
        under_way = ((hypotheses < beam) | (likeliest / penalty > best_scores)).nonzero().squeeze(1)
        if length == max_length or not len(under_way):
            break
        # At most one continuation of each beginning is END, so enough continuations without END are left.
        kept = ends[under_way].int().argsort(dim=1, stable=True)[:, : min(beam, places.shape[1] - width)]
        parents, chosen, totals = (of[under_way].gather(1, kept) for of in (parents, chosen, values))
        tokens = torch.cat([tokens[under_way.unsqueeze(1), parents], chosen.unsqueeze(2)], dim=2)
        sentences, hypotheses, best_scores = (of[under_way] for of in (sentences, hypotheses, best_scores))
        rows = (under_way.unsqueeze(1) * width + parents).flatten()
        # If all beginnings keep their places, as they do in most steps with a beam of 1, the state need not be copied.
        if not torch.equal(rows, torch.arange(len(newest), device=rows.device)):
            state = state.select(rows)
        newest = chosen.flatten()
    return [best[sentence] for sentence in range(len(source))]


def _log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (rows, vocabulary), in float32 even under autocast; -inf for tokens that are never produced."""
    if not logits.isfinite().all():
        raise ValueError(
            "the model's logits are not all finite: the model diverged in training or overflowed in half precision. "
            "Train the model again with a lower learning rate, or translate in float32."
        )
    log_probabilities = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    log_probabilities[:, [PAD, BEGIN]] = -math.inf
    return log_probabilities


def _largest(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` largest values of each row, in descending order, and their columns. Equal values keep their order.

    `torch.topk` alone may return any of several equal values, and sorting a whole vocabulary would take a long time.
    """
    least = values.topk(number, dim=1).values[:, -1:]
    above, equal = values > least, values == least
    taken = above | (equal & (equal.cumsum(dim=1) <= number - above.sum(dim=1, keepdim=True)))
    places = taken.nonzero()[:, 1].view(len(values), number)
    largest, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return largest, places.gather(1, order)


@torch.no_grad()
def generate(
    model: "LlamaForCausalLM",
    tokenizer: TextTokenizer,
    prompt: str,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> str:
    """Continue a text, token by token.

    Args:
        model: a language model.
        tokenizer: the tokenizer of that model.
        prompt: the beginning of the text; with "", the model starts a new document.
        num_tokens: the largest number of tokens to add; the document may end earlier.
        temperature: with 0, the function takes the likeliest token; with a higher value, it draws a token with chances
            that are proportional to probability ** (1 / temperature).
        generator: a generator on the CPU.

    Returns:
        The prompt and its continuation.

    Raises:
        ValueError: for a temperature below 0.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; expected 0 (the likeliest token) or more.")
    device = next(model.parameters()).device
    context: int = model.config.max_position_embeddings
    model.train(False)
    tokens = [tokenizer.end, *tokenizer.encode([prompt])[0]]
    for _ in range(num_tokens):
        seen = torch.tensor([tokens[-context:]], device=device)
        logits = model(seen, use_cache=False).logits[0, -1, : tokenizer.size].float().cpu()
        if temperature:
            chances = (logits / temperature).softmax(0)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token == tokenizer.end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _check(source: Tensor, beam: int, max_length: int, length_penalty: float) -> None:
    if source.dim() != 2 or source.dtype != torch.int64 or not source.numel():
        raise ValueError(
            f"source has shape {tuple(source.shape)} and dtype {source.dtype}; expected one row of tokens per "
            "sentence: shape (n, S) of torch.int64, with n and S at least 1. Add a dimension to a single sentence."
        )
    empty = (source == PAD).all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"rows {', '.join(map(str, empty))} of source have only PAD; expected at least one other "
            "token in each row, such as END. Leave out empty sentences."
        )
    for name, value in (("beam", beam), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more.")
    if not 0 <= length_penalty < math.inf:
        raise ValueError(
            f"length_penalty is {length_penalty}; expected a finite number >= 0, such as 0 (no penalty) or 0.6."
        )
