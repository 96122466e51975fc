import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_fits, links_of, mask_of
from torch import Tensor

import chts_core as chts
from chts_core.compiled.masks import positions

SCORES = torch.tensor([[1.0, 3.0, 9.0, 9.0], [2.0, 9.0, 4.0, 9.0]])
# The scores at these links, in row order: 1, 3, 2, 4. The nines are not candidates.
CANDIDATES = torch.tensor([[True, True, False, False], [True, False, True, False]])


def count_sets(num: int, draws: int, scores: Tensor = SCORES, mask: Tensor = CANDIDATES, **rule: object) -> Counter:
    """How often each set of surviving links comes up."""
    generator = torch.Generator().manual_seed(num)
    return Counter(
        frozenset(links_of(chts.sampling.keep(scores, mask, num, generator=generator, **rule))) for _ in range(draws)
    )


@pytest.mark.parametrize(("softness", "temperature"), [(0, 0), (0.5, 1), (0.75, 3), (0.9, 9), (1, math.inf)])
def test_temperature_of_a_softness(softness: float, temperature: float) -> None:
    assert chts.sampling.temperature_from_softness(softness) == pytest.approx(temperature)


def test_hard_keeps_the_highest_existing_links() -> None:
    kept = chts.sampling.keep(SCORES, CANDIDATES, 2, soft=False, generator=torch.Generator())
    assert kept.tolist() == [[False, True, False, False], [False, False, True, False]]


def test_infinite_temperature_is_hard() -> None:
    kept = chts.sampling.keep(SCORES, CANDIDATES, 3, math.inf, generator=torch.Generator())
    assert kept.tolist() == [[False, True, False, False], [True, False, True, False]]


def test_arguments_are_left_alone() -> None:
    scores, mask = SCORES.clone(), CANDIDATES.clone()
    chts.sampling.keep(scores, mask, 2, generator=torch.Generator())
    assert torch.equal(scores, SCORES)
    assert torch.equal(mask, CANDIDATES)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_one_soft_draw_follows_score_to_the_temperature(temperature: float) -> None:
    counts = count_sets(1, 4000, temperature=temperature)
    links = sorted(links_of(CANDIDATES))
    powers = [float(SCORES[link]) ** temperature for link in links]
    observed = [counts.pop(frozenset({link})) for link in links]
    assert not counts, "a link outside the mask was drawn"
    assert_fits(observed, [power / sum(powers) for power in powers])


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_two_soft_draws_are_successive_draws_without_replacement(temperature: float) -> None:
    counts = count_sets(2, 6000, temperature=temperature)
    links = sorted(links_of(CANDIDATES))
    powers = {link: float(SCORES[link]) ** temperature for link in links}
    p = {link: power / sum(powers.values()) for link, power in powers.items()}
    pairs = list(combinations(links, 2))
    expected = [p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs]
    assert_fits([counts[frozenset(pair)] for pair in pairs], expected)


def test_zero_scores_come_last_and_uniformly() -> None:
    scores = torch.tensor([[0.0, 1e-30, 0.0, 5.0], [0.0, 1e30, 0.0, 7.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    positive = {(0, 1), (0, 3), (1, 1)}
    zeros = [(0, 0), (0, 2), (1, 0)]

    for drawn in count_sets(2, 300, scores, mask, temperature=3.0):
        assert drawn < positive
    for soft in (True, False):
        counts = count_sets(4, 1500, scores, mask, temperature=3.0, soft=soft)
        assert_fits([counts.pop(frozenset(positive | {zero})) for zero in zeros], [1 / 3] * 3)
        assert not counts


def test_all_zero_scores_are_drawn_uniformly() -> None:
    counts = count_sets(2, 3000, torch.zeros(2, 4))
    assert_fits([counts[frozenset(pair)] for pair in combinations(sorted(links_of(CANDIDATES)), 2)], [1 / 6] * 6)


def test_temperature_zero_ignores_even_zero_scores() -> None:
    counts = count_sets(1, 3000, SCORES - SCORES.clamp(max=2), temperature=0.0)
    assert_fits([counts[frozenset({link})] for link in sorted(links_of(CANDIDATES))], [1 / 4] * 4)


def test_hard_ties_are_broken_uniformly() -> None:
    # One clear winner, then four links tied for two places, then a clear loser.
    scores = torch.tensor([[5.0, 1.0, 1.0], [1.0, 1.0, 0.5]])
    counts = count_sets(3, 3000, scores, torch.ones(2, 3, dtype=torch.bool), soft=False)
    tied = [(0, 1), (0, 2), (1, 0), (1, 1)]
    observed = [counts.pop(frozenset({(0, 0), *pair})) for pair in combinations(tied, 2)]
    assert not counts
    assert_fits(observed, [1 / 6] * 6)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_scores_to_a_high_power_neither_underflow_nor_overflow(unit: float) -> None:
    # 1e-30 to the 9th is 1e-270, far below float32; the proportion 1 : 1.2^9 is what matters.
    scores = torch.tensor([[1.0, 1.2]]) * unit
    counts = count_sets(1, 3000, scores, torch.ones(1, 2, dtype=torch.bool), temperature=9.0)
    odds = (float(scores[0, 1]) / float(scores[0, 0])) ** 9
    assert_fits([counts[frozenset({(0, 0)})], counts[frozenset({(0, 1)})]], [1 / (1 + odds), odds / (1 + odds)])


def test_the_tiniest_score_comes_before_a_zero() -> None:
    scores = torch.tensor([[1.0, 0.0, 1e-300]], dtype=torch.float64)
    counts = count_sets(2, 200, scores, torch.ones(1, 3, dtype=torch.bool), temperature=9.0)
    assert set(counts) == {frozenset({(0, 0), (0, 2)})}


def test_noise_is_finite_where_rand_returns_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, *, dtype, device, generator: torch.zeros(shape, dtype=dtype))  # noqa: ARG005
    assert chts.sampling.gumbel((3,), generator=torch.Generator()).isfinite().all()


def test_noise_is_standard_gumbel() -> None:
    noise = chts.sampling.gumbel((20_000,), generator=torch.Generator().manual_seed(0))
    # The distribution function of a standard Gumbel is exp(-exp(-x)): these are its quartiles.
    quartiles = [-math.log(-math.log(q)) for q in (0.25, 0.5, 0.75)]
    counts = torch.bucketize(noise, torch.tensor(quartiles, dtype=noise.dtype)).bincount()
    assert_fits(counts.tolist(), [1 / 4] * 4)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    density=st.floats(0, 1),
    share=st.floats(0, 1),
    zeros=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 9.0, 1e3, math.inf]),
    soft=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)
def test_exactly_the_number_asked_for_and_only_existing_links(
    shape: tuple[int, int],
    density: float,
    share: float,
    zeros: float,
    temperature: float,
    soft: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    # A coarse grid of scores makes ties at the threshold the rule.
    scores = torch.randint(0, 4, shape, generator=generator).to(dtype)
    scores[torch.rand(shape, generator=generator) < zeros] = 0
    num = round(share * int(mask.sum()))
    kept = chts.sampling.keep(scores, mask, num, temperature, soft, generator=generator)
    assert kept.shape == mask.shape
    assert kept.dtype == torch.bool
    assert int(kept.sum()) == num
    assert links_of(kept) <= links_of(mask)


def test_scores_outside_the_candidates_do_not_matter() -> None:
    scores = SCORES.clone()
    scores[~CANDIDATES] = math.nan
    assert int(chts.sampling.keep(scores, CANDIDATES, 3, generator=torch.Generator()).sum()) == 3


def test_draw_takes_candidates_by_keyword_rules_of_keep() -> None:
    drawn = chts.sampling.draw(SCORES, CANDIDATES, 2, soft=False, generator=torch.Generator())
    assert torch.equal(drawn, mask_of({(0, 1), (1, 2)}, (2, 4)))


@pytest.mark.parametrize("soft", [True, pytest.param(False, marks=pytest.mark.full)])
def test_more_candidates_than_multinomial_takes(soft: bool) -> None:
    # torch.multinomial stops at 2^24 categories, and float32 counts beyond 2^24 are not exact.
    mask = torch.ones(4100, 4100, dtype=torch.bool)
    assert mask.numel() > 2**24
    scores = torch.ones(1, 1).expand(4100, 4100)
    num = 2**24 + 1
    kept = chts.sampling.keep(scores, mask, num, soft=soft, generator=torch.Generator().manual_seed(0))
    assert int(kept.sum()) == num


def test_same_seed_same_links_whatever_the_global_seed() -> None:
    scores, mask = torch.rand(20, 20), torch.ones(20, 20, dtype=torch.bool)
    kept = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        kept.append(chts.sampling.keep(scores, mask, 100, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


# --- any of the missing links ---


@pytest.mark.twin("sampling.draw_missing", "sampling.draw", "the links of a draw")
@given(
    st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1), st.integers(1, 300), st.integers(0, 99)
)
def test_missing_links_are_those_of_a_draw_from_equal_scores(
    rows: int, columns: int, density: float, share: float, block: int, seed: int
) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    num = round(share * int((~mask).sum()))
    first, other = (torch.Generator().manual_seed(seed + 1) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chts.sampling, "BLOCK", block)
        found = chts.sampling.draw_missing(positions(mask), mask.numel(), num, generator=first)
    expected = chts.sampling.draw(torch.ones(mask.shape), ~mask, num, generator=other)
    assert torch.equal(found, positions(expected))
    assert torch.equal(first.get_state(), other.get_state())


def test_missing_links_are_found_where_a_first_look_finds_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    links = positions(torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.1)
    expected = chts.sampling.draw_missing(links, 2000, 30, generator=torch.Generator().manual_seed(1))
    look = chts.sampling._uniform_above
    monkeypatch.setattr(chts.sampling, "_uniform_above", lambda bound, *args: look(1.0 if bound > 0 else bound, *args))
    found = chts.sampling.draw_missing(links, 2000, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, expected)


def test_more_links_than_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="5 links were asked for but there are 4 candidates"):
        chts.sampling.draw_missing(torch.arange(4), 8, 5, generator=torch.Generator())
