"""Translate your own sentence, and see which pieces each piece of the translation attended to."""

import unicodedata
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.lab import figures
from chts_core.lab.data import BEGIN, UNKNOWN, Vocabulary, load_translation
from chts_core.lab.train import translation
from chts_core.lab.translator import Translator
from chts_core.lab.widgets.explorer import Explorer, menu, text, whole_slider

_MEAN = -1  # this head stands for the mean of all heads
_UNKNOWN_SHOWN = 5


@cache
def example_translator() -> Translator:
    """Train a translator of English number words and dates into German at 90 % sparsity, which takes a few seconds."""
    recipe = translation.RECIPES["number_words_short"]
    recipe = replace(recipe, validate_every=recipe.steps)
    task = translation.prepare(load_translation("number_words"), recipe)
    # One pair of each split is enough, because nobody needs the scores.
    task = replace(task, validation_pairs=task.validation_pairs[:1], test_pairs=task.test_pairs[:1])
    return translation.train(task, "chts", 0.9, recipe).translator


@dataclass(frozen=True)
class TranslationState:
    """What the translation explorer shows.

    beam: the number of hypotheses that beam search keeps; 1 is greedy search.
    attention: the name of an attention block, as in `Transformer.attention`.
    head: the number of the head, from 0; -1 for the mean of all heads.
    """

    sentence: str = "two thousand, three hundred and forty-five"
    beam: int = 2
    attention: str = "decoder.0.cross_attention"
    head: int = _MEAN
    translator: Translator = field(default_factory=example_translator, repr=False, compare=False)


@dataclass(frozen=True)
class TranslationResult:
    """A translation, its attention, and a text that describes both.

    queries, keys: the queries are pieces that attend to the keys; both are empty if there is no translation.
    weights: how much each query attends to each key, (queries, keys).
    """

    translation: str
    keys: list[str]
    queries: list[str]
    weights: Tensor | None
    description: str


class TranslationExplorer(Explorer[TranslationState, TranslationResult]):
    """Translate your own sentence, and see which pieces each piece of the translation attended to."""

    name = "translation"
    State = TranslationState
    recorded: ClassVar = {
        "sentence": (
            TranslationState.sentence,
            "two hundred",
            "forty-two thousand and seven",
            "one million, nine hundred and ninety-nine",
            "two hundred zebras",
        ),
        "attention": ("decoder.0.cross_attention", "encoder.0.attention"),
        "head": range(-1, 4),
    }

    @classmethod
    def of(cls, translator: Translator, sentence: str = TranslationState.sentence) -> "TranslationExplorer":
        """Make an explorer for your own translator; it first shows how the translator translates `sentence`."""
        return cls(TranslationState(sentence, translator=translator))

    @staticmethod
    def compute(state: TranslationState) -> TranslationResult:
        """Translate the sentence of a state. If the translator cannot read it, the description says why."""
        translator = state.translator
        sentence = " ".join(state.sentence.split())
        try:
            (tokens,) = translator.encode([sentence])
        except ValueError as error:
            return TranslationResult("", [], [], None, f"The translator cannot read this sentence: {error}")
        attended = translator.attention(sentence, beam=state.beam)
        of_heads = attended.weights[state.attention]
        weights = of_heads.mean(dim=0) if state.head == _MEAN else of_heads[state.head]
        keys, queries = attended.source, attended.target
        if state.attention.startswith("encoder"):
            queries = keys
        elif not state.attention.endswith("cross_attention"):  # the decoder attends to its own pieces so far
            keys = [*translator.vocabulary.pieces([BEGIN]), *queries[:-1]]
        query, key = divmod(int(weights.argmax()), len(keys))
        description = (
            f'The translator reads "{sentence}" as {len(tokens)} pieces. With a beam of {state.beam}, its translation '
            f'is "{attended.translation}", written as {len(attended.target) - 1} pieces. In {state.attention} '
            f'({_head(state.head)}), the strongest attention goes from "{queries[query]}" to "{keys[key]}" '
            f"({float(weights[query, key]):.0%}).{_unknown(sentence, tokens, translator.vocabulary)}"
        )
        return TranslationResult(attended.translation, keys, queries, weights, description)

    @staticmethod
    def draw(state: TranslationState, result: TranslationResult) -> Figure:
        """Draw the attention between the pieces; the picture is empty if there is no translation."""
        if result.weights is None:
            return figures.empty("no translation", "piece attended to", "piece that attends")
        title = f"{state.attention}, {_head(state.head)}, beam {state.beam}"
        return figures.attention_map(result.weights, result.keys, result.queries, title)

    def make_controls(self, state: TranslationState) -> dict[str, Any]:
        """An input line for the sentence, a slider for the beam, and menus of attention blocks and heads."""
        model, source = state.translator.model, state.translator.as_source([[]])
        weights = model.attention(source, torch.full_like(source, BEGIN))
        heads = range(_MEAN, next(iter(weights.values())).shape[1])
        return {
            "sentence": text("sentence", state.sentence),
            "beam": whole_slider("beam", state.beam, 1, 8),
            "attention": menu("attention", state.attention, list(weights)),
            "head": menu("head", state.head, [(_head(head), head) for head in heads]),
        }


def _head(head: int) -> str:
    return "mean of all heads" if head == _MEAN else f"head {head}"


def _unknown(sentence: str, tokens: list[int], vocabulary: Vocabulary) -> str:
    """A sentence that lists characters without a piece in the vocabulary; "" if all have pieces."""
    if UNKNOWN not in tokens:
        return ""
    characters = dict.fromkeys(unicodedata.normalize("NFC", "".join(sentence.split())))
    unknown = [character for character in characters if UNKNOWN in vocabulary.encode([character])[0]]
    shown = ", ".join(f'"{character}"' for character in unknown[:_UNKNOWN_SHOWN])
    more = ", and others" if len(unknown) > _UNKNOWN_SHOWN else ""
    return f" The vocabulary has no piece for {shown}{more}, so the translator reads <unk> instead."
