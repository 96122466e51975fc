from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chts_core.lab import figures
from chts_core.lab.data import TranslationData, load_vocabulary
from chts_core.lab.models import Transformer, TransformerSize
from chts_core.lab.translator import Translator
from chts_core.lab.widgets import TranslationExplorer, TranslationState
from chts_core.lab.widgets.translator import example_translator

PAIRS = [("a cat", "eine Katze"), ("a dog", "ein Hund"), ("<b> & <i>", "'\"$ $\"'")]
MAX_LENGTH = 8


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """One that has learnt nothing."""
    data = TranslationData("pets", ("en", "de"), PAIRS, PAIRS, PAIRS)
    vocabulary = load_vocabulary(data, 60, tmp_path_factory.mktemp("vocabularies"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Translator(Transformer(vocabulary.size, TransformerSize(8, 12, 2, 2)), vocabulary, MAX_LENGTH)


@pytest.fixture
def state(translator: Translator) -> TranslationState:
    return TranslationState("a cat", translator=translator)


def test_it_shows_what_the_translator_translates(state: TranslationState) -> None:
    result = TranslationExplorer.compute(state)
    assert [result.translation] == state.translator.translate(["a cat"], beam=2)
    attended = state.translator.attention("a cat", beam=2)
    assert (result.keys, result.queries) == (attended.source, attended.target)
    assert result.weights is not None
    assert torch.equal(result.weights, attended.weights["decoder.0.cross_attention"].mean(dim=0))


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("attention", ["encoder.1.attention", "decoder.0.attention", "decoder.1.cross_attention"])
def test_each_attention_is_labelled_by_its_own_pieces(state: TranslationState, attention: str, head: int) -> None:
    result = TranslationExplorer.compute(replace(state, attention=attention, head=head))
    attended = state.translator.attention("a cat", beam=2)
    assert result.weights is not None
    assert torch.equal(result.weights, attended.weights[attention][head])
    expected = {
        "encoder.1.attention": (attended.source, attended.source),
        "decoder.0.attention": (["<s>", *attended.target[:-1]], attended.target),
        "decoder.1.cross_attention": (attended.source, attended.target),
    }
    assert (result.keys, result.queries) == expected[attention]
    query, key = divmod(int(result.weights.argmax()), len(result.keys))
    assert f'from "{result.queries[query]}" to "{result.keys[key]}"' in result.description
    assert f"{attention} (head {head})" in result.description


def test_the_sentence_says_what_was_read_and_written(state: TranslationState) -> None:
    result = TranslationExplorer.compute(replace(state, sentence="  a \n cat ", beam=3))
    pieces = len(state.translator.vocabulary.encode(["a cat"])[0])
    read = f'The translator reads "a cat" as {pieces} pieces. With a beam of 3, its translation is "'
    assert result.description.startswith(read)
    assert f'"{result.translation}", written as {len(result.queries) - 1} pieces.' in result.description


def test_unknown_characters_are_named(state: TranslationState) -> None:
    assert "no piece" not in TranslationExplorer.compute(state).description
    said = TranslationExplorer.compute(replace(state, sentence="a cat €ж")).description
    assert '"€", "ж"' in said


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [("", "expected some words"), (" \n", "expected some words"), ("a " * 20, "Split the sentence")],
)
def test_what_cannot_be_translated_is_told_and_not_raised(state: TranslationState, sentence: str, reason: str) -> None:
    told = replace(state, sentence=sentence)
    result = TranslationExplorer.compute(told)
    assert (result.translation, result.keys, result.queries, result.weights) == ("", [], [], None)
    assert result.description.startswith("The translator cannot read this sentence: ")
    assert reason in result.description
    (axes,) = TranslationExplorer.draw(told, result).axes
    assert [text.get_text() for text in axes.texts] == ["no translation"]


def test_a_sentence_is_text_and_no_markup(state: TranslationState) -> None:
    html = TranslationExplorer.render(replace(state, sentence='<b> & <i>"'))
    assert "<b>" not in html.replace("<p>", "")
    assert "&lt;b&gt; &amp; &lt;i&gt;" in html


def test_the_controls_offer_what_the_model_has(translator: Translator) -> None:
    explorer = TranslationExplorer.of(translator, "a dog")
    assert explorer.state.sentence == explorer.controls["sentence"].value == "a dog"
    assert explorer.controls["attention"].options == tuple(
        f"{side}.{layer}.{kind}"
        for side, kinds in (("encoder", ["attention"]), ("decoder", ["attention", "cross_attention"]))
        for layer in range(2)
        for kind in kinds
    )
    assert [head for _, head in explorer.controls["head"].options] == [-1, 0, 1]
    explorer.controls["sentence"].value = "a cat"
    assert "a cat" in explorer.picture.value


def test_the_example_knows_its_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHTS_CACHE", str(tmp_path))
    sentences = [TranslationState().sentence, "Tuesday, the third of March nineteen eighty-four"]
    assert example_translator().translate(sentences) == [
        "zweitausenddreihundertfünfundvierzig",
        "Dienstag, der dritte März neunzehnhundertvierundachtzig",
    ]


def test_the_picture_has_a_row_for_each_piece(state: TranslationState) -> None:
    result = TranslationExplorer.compute(state)
    axes = TranslationExplorer.draw(state, result).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == result.keys
    assert [label.get_text() for label in axes.get_yticklabels()] == result.queries
    assert figures.to_png(TranslationExplorer.draw(state, result)).startswith(b"\x89PNG")
