import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from chts_core.lab.data import BEGIN, END, PAD, TranslationData, Vocabulary, load_vocabulary
from chts_core.lab.decoding import beam_search, greedy
from chts_core.lab.models import Transformer, TransformerSize
from chts_core.lab.translator import Translator

MAX_LENGTH = 12
DIGITS = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    numbers = random.Random(0).sample(range(1000), 60)
    pairs = [(str(number), " ".join(DIGITS[int(digit)] for digit in str(number))) for number in numbers]
    data = TranslationData("digits", ("en", "de"), pairs, pairs[:1], pairs[1:2])
    return load_vocabulary(data, 60, tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="module")
def translator(vocabulary: Vocabulary) -> Translator:
    """One that knows nothing, but has an opinion: each of its sentences is translated otherwise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Transformer(vocabulary.size, TransformerSize(8, 24, 2, 2), dropout=0.3)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(torch.randn_like(module.weight))
    return Translator(model.eval(), vocabulary, MAX_LENGTH)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    generator = random.Random(1)
    return [" ".join(str(generator.randrange(1000)) for _ in range(number % 3 + 1)) for number in range(70)]


def tokens_alone(translator: Translator, sentence: str, beam: int) -> list[int]:
    (tokens,) = translator.vocabulary.encode([sentence])
    return beam_search(translator.model, torch.tensor([[*tokens, END]]), beam, MAX_LENGTH)[0].tokens


def sources_of(translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the model reads, batch by batch."""
    sources: list[Tensor] = []
    start = translator.model.start

    def tell(source: Tensor) -> object:
        sources.append(source)
        return start(source)

    with monkeypatch.context() as patch:
        patch.setattr(translator.model, "start", tell)
        translator.translate(sentences, beam=1)
    return sources


# --- translating ---


@pytest.mark.parametrize("beam", [1, 3])
def test_a_translation_does_not_depend_on_its_neighbours(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch, beam: int
) -> None:
    monkeypatch.setattr("chts_core.lab.translator._SIDE_BY_SIDE", 24)
    sentences = sentences[:36]
    expected = [translator.vocabulary.decode(tokens_alone(translator, sentence, beam)) for sentence in sentences]
    assert len(set(expected)) > 20
    assert translator.translate(sentences, beam=beam) == expected
    assert translator.translate(sentences[::-1], beam=beam) == expected[::-1]


def test_two_beginnings_side_by_side_are_the_default(translator: Translator, sentences: list[str]) -> None:
    usual = translator.translate(sentences)
    assert usual == translator.translate(sentences, beam=2)
    assert usual != translator.translate(sentences, beam=1)


def test_a_beam_of_one_is_greedy(translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = translator.as_source(translator.encode(sentences[:20]))
    hypotheses = greedy(translator.model, source, MAX_LENGTH)
    expected = [translator.vocabulary.decode(hypothesis.tokens) for hypothesis in hypotheses]

    def unexpected(*_: object) -> None:
        raise AssertionError("it searched")

    monkeypatch.setattr("chts_core.lab.translator.beam_search", unexpected)
    assert translator.translate(sentences[:20], beam=1) == expected


def test_sentences_of_like_length_are_read_together(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chts_core.lab.translator._SIDE_BY_SIDE", 8)
    sources = sources_of(translator, sentences, monkeypatch)
    assert [len(source) for source in sources] == [8] * 8 + [6]
    lengths = [(source != PAD).sum(dim=1) for source in sources]
    assert torch.equal(torch.cat(lengths), torch.cat(lengths).sort().values)
    assert [source.shape[1] for source in sources] == [int(length.max()) for length in lengths]
    read = sorted(translator.vocabulary.decode(row.tolist()) for source in sources for row in source)
    assert read == sorted(sentences)


def test_a_source_is_padded_behind_its_end(translator: Translator) -> None:
    source = translator.as_source([[7, 8, 9], [5]])
    assert source.dtype == torch.int64
    assert source.tolist() == [[7, 8, 9, END], [5, END, PAD, PAD]]


def test_no_sentences_have_no_translations(translator: Translator) -> None:
    assert translator.translate([]) == []


def test_no_translation_is_longer_than_told(translator: Translator, sentences: list[str]) -> None:
    brief = [sentence for sentence in sentences if len(translator.vocabulary.encode([sentence])[0]) <= 5]
    greedy_tokens = [tokens_alone(translator, sentence, 1) for sentence in brief]
    assert max(map(len, greedy_tokens)) > 5
    expected = [translator.vocabulary.decode(tokens[:5]) for tokens in greedy_tokens]
    assert replace(translator, max_length=5).translate(brief, beam=1) == expected


def test_characters_that_were_never_seen_are_translated_all_the_same(translator: Translator) -> None:
    for sentence in ("7 ☃ 3", "漢字", "\u200b", "a\x00b", "ẞ" * 5, "<pad>", "</s>"[:3]):
        (translated,) = translator.translate([sentence])
        assert isinstance(translated, str)
    attended = translator.attention("☃")
    assert "<unk>" in attended.source


@pytest.mark.parametrize("training", [True, False])
def test_translating_neither_drops_out_nor_changes_the_mode(
    translator: Translator, sentences: list[str], training: bool
) -> None:
    expected = translator.translate(sentences[:10])
    state = torch.get_rng_state()
    try:
        translator.model.train(training)
        assert translator.translate(sentences[:10]) == expected
        assert translator.attention(sentences[0]).translation == expected[0]
        assert {module.training for module in translator.model.modules()} == {training}
    finally:
        translator.model.eval()
    assert torch.equal(torch.get_rng_state(), state)


# --- bad input ---


@pytest.mark.parametrize("empty", ["", " ", "  \t\n "])
def test_an_empty_sentence_is_refused_with_its_number(translator: Translator, empty: str) -> None:
    with pytest.raises(ValueError, match=r"sentence 3 is .*; expected some words to translate"):
        translator.translate(["7", "8 9", empty, "3"])
    with pytest.raises(ValueError, match=r"sentence 1 is .*; expected some words"):
        translator.attention(empty)


def test_a_long_sentence_is_refused_with_its_number(translator: Translator) -> None:
    def of_length(length: int) -> str:
        sentence = "☃" * (length - 1)  # a space is before it
        assert len(translator.vocabulary.encode([sentence])[0]) == length
        return sentence

    assert len(translator.translate([of_length(MAX_LENGTH)])) == 1
    long = of_length(MAX_LENGTH + 1)
    message = "sentence 2 has 13 tokens; expected at most 12. Split the sentence into shorter ones"
    with pytest.raises(ValueError, match=message):
        translator.translate(["7", long])
    with pytest.raises(ValueError, match="sentence 1 has 13 tokens"):
        translator.attention(long)
    with pytest.raises(ValueError, match=r"Split the sentence into shorter ones: '7{60}'\.\.\.$"):
        translator.translate(["7" * 1000])


def test_one_string_is_no_list_of_sentences(translator: Translator) -> None:
    with pytest.raises(TypeError, match="one string; expected a list of sentences"):
        translator.translate("407")


# --- attention ---


@pytest.mark.parametrize("sentence", ["7", "407 12", "9 8 7 6"])
def test_attention_tells_where_each_token_looked(translator: Translator, sentence: str) -> None:
    vocabulary = translator.vocabulary
    attended = translator.attention(sentence, beam=3)
    tokens = tokens_alone(translator, sentence, 3)
    (read,) = vocabulary.encode([sentence])
    assert attended.translation == vocabulary.decode(tokens) == translator.translate([sentence], beam=3)[0]
    assert attended.source == vocabulary.pieces([*read, END])
    assert attended.target == vocabulary.pieces([*tokens, END])
    reads, writes = len(read) + 1, len(tokens) + 1
    shapes = {}
    for layer in (0, 1):
        shapes[f"encoder.{layer}.attention"] = (2, reads, reads)
        shapes[f"decoder.{layer}.attention"] = (2, writes, writes)
        shapes[f"decoder.{layer}.cross_attention"] = (2, writes, reads)
    assert {name: tuple(weight.shape) for name, weight in attended.weights.items()} == shapes
    expected = translator.model.attention(torch.tensor([[*read, END]]), torch.tensor([[BEGIN, *tokens]]))
    for name, weight in attended.weights.items():
        assert weight.dtype == torch.float32
        assert not weight.requires_grad
        torch.testing.assert_close(weight.sum(dim=2), torch.ones(weight.shape[:2]))
        torch.testing.assert_close(weight, expected[name][0])
        if name.startswith("decoder") and name.endswith(".attention"):
            assert not weight.triu(1).any()  # none looks at what it has yet to write


def test_attention_of_a_beam_of_two_by_default(translator: Translator, sentences: list[str]) -> None:
    different = next(
        sentence
        for sentence in sentences
        if len({translator.translate([sentence], beam=beam)[0] for beam in (1, 2, 3)}) == 3
    )
    assert translator.attention(different).translation == translator.translate([different])[0]
