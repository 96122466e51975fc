import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from chts_core.lab.data import BEGIN, END, PAD
from chts_core.lab.decoding import Hypothesis, beam_search, greedy
from chts_core.lab.models import DecoderState, Transformer, TransformerSize

VOCABULARY = 6
PRODUCED = [token for token in range(VOCABULARY) if token not in (PAD, BEGIN)]
WORDS = [token for token in PRODUCED if token != END]
SOURCES = [[4, 5, 4, 1, END], [5, END], [END], [4, 4, 1, END], [1, 5, 5, END]]
# More than there are translations, or continuations of all their beginnings at once.
EXHAUSTIVE = 500


def transformer(seed: int, dropout: float = 0.1) -> Transformer:
    """One that does not merely repeat its last token, as a fresh one would: its output is not that of its embedding."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(VOCABULARY, TransformerSize(8, 12, 2, 2), dropout=dropout).eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(torch.randn_like(module.weight))
    return model


def padded(rows: Sequence[Sequence[int]], extra: int = 0) -> Tensor:
    width = max(map(len, rows)) + extra
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def with_logits(model: Transformer, change: Callable[[Tensor], Tensor]) -> Transformer:
    """The model, its logits changed."""
    model.generator.register_forward_hook(lambda _module, _inputs, logits: change(logits))
    return model


def raising_end(by: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits + by * nn.functional.one_hot(torch.tensor(END), VOCABULARY)


@torch.no_grad()
def log_probabilities(model: Transformer, source: list[int], tokens: list[int]) -> Tensor:
    """Of what follows BEGIN and each of the tokens, by the full forward: (1 + number of tokens, vocabulary)."""
    return model(torch.tensor([source]), torch.tensor([[BEGIN, *tokens]]))[0].log_softmax(dim=1)


def forced(model: Transformer, source: list[int], tokens: list[int]) -> float:
    """Log-probability of the tokens and END."""
    rows = log_probabilities(model, source, tokens)
    return sum(float(row[token]) for row, token in zip(rows, [*tokens, END], strict=True))


def normalised(log_probability: float, tokens: list[int], length_penalty: float) -> float:
    return log_probability / ((5 + len(tokens) + 1) / 6) ** length_penalty


@torch.no_grad()
def of_all(model: Transformer, source: list[int], max_length: int, length_penalty: float) -> tuple[list[int], float]:
    """The best of all translations there are, and its score."""
    scores: dict[tuple[int, ...], float] = {}
    for length in range(max_length + 1):
        every = list(itertools.product(WORDS, repeat=length))
        target = torch.tensor([[BEGIN, *tokens] for tokens in every])
        rows = model(torch.tensor([source] * len(every)), target).log_softmax(dim=2)
        following = torch.tensor([[*tokens, END] for tokens in every])
        sums = rows.gather(2, following.unsqueeze(2)).sum(dim=(1, 2))
        for tokens, log_probability in zip(every, sums.tolist(), strict=True):
            scores[tokens] = normalised(log_probability, list(tokens), length_penalty)
    best = max(scores, key=scores.__getitem__)
    return list(best), scores[best]


def plain_beam_search(
    model: Transformer, source: list[int], beam: int, max_length: int, length_penalty: float
) -> tuple[list[int], float]:
    """Beam search of one sentence from its definition, without a cache: the best translation and its score."""
    beginnings: list[tuple[list[int], Tensor]] = [([], torch.tensor(0.0))]
    finished: list[tuple[list[int], float]] = []
    for length in range(max_length + 1):
        continuations = []
        for rank, (tokens, log_probability) in enumerate(beginnings):
            following = log_probabilities(model, source, tokens)[-1]
            for token in PRODUCED if length < max_length else [END]:
                continuations.append((log_probability + following[token], rank, token))
        continuations.sort(key=lambda entry: (-float(entry[0]), entry[1], entry[2]))
        before, beginnings = beginnings, []
        for place, (log_probability, rank, token) in enumerate(continuations[: 2 * beam]):
            tokens = before[rank][0]
            if token != END:
                beginnings.append(([*tokens, token], log_probability))
            elif place < beam:
                finished.append((tokens, normalised(float(log_probability), tokens, length_penalty)))
        likeliest = max(
            (normalised(float(lp), tokens[:-1], length_penalty) for tokens, lp in beginnings), default=-math.inf
        )
        if len(finished) >= beam and likeliest <= max(score for _, score in finished):
            break
        beginnings = beginnings[:beam]
    return max(finished, key=lambda entry: entry[1])


def tokens_of(hypotheses: list[Hypothesis]) -> list[list[int]]:
    return [hypothesis.tokens for hypothesis in hypotheses]


def scores_of(hypotheses: list[Hypothesis]) -> list[float]:
    return [hypothesis.score for hypothesis in hypotheses]


def near(expected: object) -> object:
    """Equal up to the rounding of 32 bits."""
    return pytest.approx(expected, rel=1e-5, abs=1e-5)


# --- against the definitions ---


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("max_length", [1, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_all_finds_the_best_of_all(seed: int, max_length: int, length_penalty: float) -> None:
    model = transformer(seed)
    found = beam_search(model, padded(SOURCES), EXHAUSTIVE, max_length, length_penalty)
    best = [of_all(model, source, max_length, length_penalty) for source in SOURCES]
    assert tokens_of(found) == [tokens for tokens, _ in best]
    assert scores_of(found) == near([score for _, score in best])


@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
@pytest.mark.parametrize("beam", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(1, 4))
def test_beam_search_equals_its_definition(seed: int, beam: int, length_penalty: float) -> None:
    model = transformer(seed)
    found = beam_search(model, padded(SOURCES), beam, 6, length_penalty)
    plain = [plain_beam_search(model, source, beam, 6, length_penalty) for source in SOURCES]
    assert tokens_of(found) == [tokens for tokens, _ in plain]
    assert scores_of(found) == near([score for _, score in plain])


def test_the_models_of_these_tests_tell_beams_apart() -> None:
    found = {
        beam: [tokens_of(beam_search(transformer(seed), padded(SOURCES), beam, 6)) for seed in range(4)]
        for beam in (1, 2, 5)
    }
    assert found[1] != found[2] != found[5] != found[1]
    lengths = {len(tokens) for model in found[2] for tokens in model}
    assert len(lengths) >= 3


@given(
    logits=st.lists(st.integers(-2, 2), min_size=VOCABULARY, max_size=VOCABULARY),
    beam=st.one_of(st.integers(1, 8), st.integers(20, 30)),
    max_length=st.integers(1, 4),
    length_penalty=st.sampled_from([0.0, 1.0, 8.0]),
)
def test_of_equals_the_lower_token_of_the_better_beginning_comes_first(
    logits: list[int], beam: int, max_length: int, length_penalty: float
) -> None:
    same = torch.tensor(logits, dtype=torch.float32)
    model = with_logits(transformer(0), lambda real: same.expand_as(real))
    found = beam_search(model, padded(SOURCES[:2]), beam, max_length, length_penalty)
    tokens, score = plain_beam_search(model, SOURCES[0], beam, max_length, length_penalty)
    assert tokens_of(found) == [tokens, tokens]
    assert scores_of(found) == [score, score]


def test_equals_by_hand() -> None:
    # All tokens are equally likely; 1 is the lowest that is produced, END the next.
    model = with_logits(transformer(0), torch.zeros_like)
    end = -math.log(VOCABULARY)
    assert greedy(model, padded([[4, END]]), 3)[0].tokens == [1, 1, 1]
    # With two, END is second at the first step and at the second: [] and [1] are the hypotheses.
    short, longer = (beam_search(model, padded([[4, END]]), 2, 3, penalty)[0] for penalty in (0, 8))
    assert (short.tokens, longer.tokens) == ([], [1])
    assert (short.score, longer.score) == pytest.approx((end, 2 * end / (7 / 6) ** 8))


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_1_is_greedy_is_the_likeliest_token_by_the_full_forward(seed: int) -> None:
    model = transformer(seed)
    found = greedy(model, padded(SOURCES), 6)
    assert found == beam_search(model, padded(SOURCES), 1, 6)
    for source, hypothesis in zip(SOURCES, found, strict=True):
        tokens: list[int] = []
        while True:
            row = log_probabilities(model, source, tokens)[-1].tolist()
            token = max(PRODUCED, key=row.__getitem__)
            if token == END or len(tokens) == 6:
                break
            tokens.append(token)
        assert hypothesis.tokens == tokens
        assert hypothesis.finished == (token == END)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_log_probability_and_score_are_those_of_the_translation_under_teacher_forcing(
    beam: int, length_penalty: float
) -> None:
    model = transformer(1)
    for source, found in zip(SOURCES, beam_search(model, padded(SOURCES), beam, 5, length_penalty), strict=True):
        assert found.log_probability == near(forced(model, source, found.tokens))
        assert found.score == pytest.approx(normalised(found.log_probability, found.tokens, length_penalty))


@pytest.mark.parametrize("seed", range(4))
def test_no_beam_beats_that_of_all(seed: int) -> None:
    model = transformer(seed)
    best = scores_of(beam_search(model, padded(SOURCES), EXHAUSTIVE, 4))
    for beam in (1, 2, 3, 5):
        found = scores_of(beam_search(model, padded(SOURCES), beam, 4))
        assert all(ours <= theirs + 1e-5 for ours, theirs in zip(found, best, strict=True))


# --- the cache ---


def test_steps_give_the_logits_of_the_full_forward() -> None:
    model = transformer(0)
    target = torch.tensor([[BEGIN, 4, 5, 1, 4, 5]] * len(SOURCES))
    target[:, 2] = torch.tensor([1, 4, 5, 4, 1])
    with torch.no_grad():
        full = model(padded(SOURCES), target)
        state = model.start(padded(SOURCES))
        for place in range(target.shape[1]):
            assert state.length == place
            torch.testing.assert_close(model.step(target[:, place], state), full[:, place], atol=1e-5, rtol=0)


def test_a_selected_state_goes_on_from_its_rows() -> None:
    model = transformer(0)
    target = torch.tensor([[BEGIN, token, 4] for token in (4, 5, 1, 5, 4)])
    rows = torch.tensor([3, 3, 0])
    with torch.no_grad():
        full = model(padded(SOURCES)[rows], target[rows])
        state = model.start(padded(SOURCES))
        for place in range(2):
            model.step(target[:, place], state)
        chosen = state.select(rows)
        torch.testing.assert_close(model.step(target[rows, 2], chosen), full[:, 2], atol=1e-5, rtol=0)
        # The state it was selected from is still as it was.
        assert (state.length, chosen.length) == (2, 3)


# --- the batch ---


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("seed", [1, 3])
def test_other_rows_their_order_and_padding_do_not_matter(seed: int, beam: int) -> None:
    model = transformer(seed)
    together = beam_search(model, padded(SOURCES), beam, 6)
    alone = [beam_search(model, padded([source]), beam, 6)[0] for source in SOURCES]
    backwards = beam_search(model, padded(SOURCES[::-1], extra=3), beam, 6)[::-1]
    for other in (alone, backwards):
        assert tokens_of(other) == tokens_of(together)
        assert scores_of(other) == near(scores_of(together))


def test_finished_sentences_are_not_computed_any_further() -> None:
    rows: list[int] = []

    def count(logits: Tensor) -> Tensor:
        rows.append(len(logits))
        return logits

    lengths = [len(found.tokens) for found in greedy(with_logits(transformer(3), count), padded(SOURCES), 6)]
    assert rows == [sum(length >= step for length in lengths) for step in range(max(lengths) + 1)]
    assert len(set(lengths)) > 1


# --- ends ---


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("max_length", [1, 2, 7])
def test_a_model_that_never_ends_is_ended(beam: int, max_length: int) -> None:
    model = with_logits(transformer(0), raising_end(-60))
    for found in beam_search(model, padded(SOURCES), beam, max_length):
        assert len(found.tokens) == max_length
        assert set(found.tokens) <= set(WORDS)
        assert not found.finished
        # END had to follow, at its probability.
        assert -80 < found.log_probability < -50


def test_hypotheses_that_break_off_do_not_crowd_out_the_whole() -> None:
    """END is the second choice everywhere: two hypotheses are there before the likeliest translation is."""
    written = [4, 5, 4, 5, END]

    class Scripted(Transformer):
        def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
            logits = torch.full((len(tokens), VOCABULARY), -9.0)
            logits[:, END] = -4.0
            logits[:, written[state.length]] = 0.0
            super().step(tokens, state)
            return logits

    model = Scripted(VOCABULARY, TransformerSize(8, 12, 1, 2))
    (found,) = beam_search(model, padded([[4, END]]), 2, 4)
    assert found.tokens == written[:-1]


@pytest.mark.parametrize("beam", [1, 2])
def test_a_model_that_ends_at_once_is_done(beam: int) -> None:
    model = with_logits(transformer(0), raising_end(60))
    for found in beam_search(model, padded(SOURCES), beam, 5):
        assert (found.tokens, found.finished) == ([], True)
        assert found.log_probability == near(0)


def test_finished_says_whether_end_was_likeliest() -> None:
    seen = set()
    for seed, max_length in itertools.product(range(6), (1, 2, 3)):
        model = transformer(seed)
        for source, found in zip(SOURCES, beam_search(model, padded(SOURCES), 2, max_length, 2.0), strict=True):
            last = log_probabilities(model, source, found.tokens)[-1].tolist()
            full = len(found.tokens) == max_length
            assert found.finished == (not full or max(PRODUCED, key=last.__getitem__) == END)
            seen.add((full, found.finished))
    assert seen == {(False, True), (True, True), (True, False)}


# --- how the model is run ---


def test_the_model_runs_without_dropout_and_gradients_and_its_modes_are_as_before() -> None:
    model = transformer(0, dropout=0.5).train()
    model.encoder[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    needed = set()

    def look(logits: Tensor) -> Tensor:
        needed.add(logits.requires_grad)
        return logits

    found = beam_search(with_logits(model, look), padded(SOURCES), 2, 4)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert found == beam_search(transformer(0), padded(SOURCES), 2, 4)
    assert needed == {False}


def test_probabilities_are_of_32_bits_under_autocast() -> None:
    model = with_logits(transformer(0), raising_end(3))
    source = padded([[4, END]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = greedy(model, source, 3)[0]
        logits = model.step(torch.tensor([BEGIN]), model.start(source)).detach()
    assert logits.dtype == torch.bfloat16
    assert found.tokens == []
    assert found.log_probability == float(logits.float().log_softmax(dim=1)[0, END])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_has_diverged_is_refused_and_its_mode_is_as_before(bad: float) -> None:
    model = with_logits(transformer(0).train(), lambda logits: logits.masked_fill(logits == logits.max(), bad))
    with pytest.raises(ValueError, match=r"logits are not all finite.*lower learning rate"):
        greedy(model, padded(SOURCES), 3)
    assert all(module.training for module in model.modules())


# --- bad arguments ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 0}, r"beam is 0; expected 1 or more"),
        ({"beam": -3}, r"beam is -3; expected 1 or more"),
        ({"max_length": 0}, r"max_length is 0; expected 1 or more"),
        ({"length_penalty": -0.1}, r"length_penalty is -0\.1; expected a finite number >= 0"),
        ({"length_penalty": math.nan}, r"length_penalty is nan; expected a finite number"),
        ({"length_penalty": math.inf}, r"length_penalty is inf; expected a finite number"),
        ({"source": torch.tensor([4, END])}, r"source has shape \(2,\) and dtype torch\.int64; .*Add a dimension"),
        ({"source": torch.zeros(0, 3, dtype=torch.int64)}, r"source has shape \(0, 3\)"),
        ({"source": torch.zeros(3, 0, dtype=torch.int64)}, r"source has shape \(3, 0\)"),
        ({"source": torch.ones(1, 3)}, r"dtype torch\.float32; expected"),
        ({"source": padded([[4, END], [PAD], [PAD]])}, r"rows 1, 2 of source have only PAD; .*Leave out empty"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {"source": padded([[4, END]]), "beam": 2, "max_length": 3, "length_penalty": 0.6, **change}
    with pytest.raises(ValueError, match=message):
        beam_search(transformer(0), **arguments)  # type: ignore[arg-type]
