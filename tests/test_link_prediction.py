from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_fits, links_of, top
from torch import Tensor

import chts_core as chts


def ch2_l3n_by_definition(mask: Tensor) -> Tensor:
    """Score every missing link from its L3 paths u - z1 - z2 - v, as sets of nodes."""
    outputs, inputs = range(mask.shape[0]), range(mask.shape[1])
    inputs_of = {u: {v for v in inputs if mask[u, v]} for u in outputs}
    outputs_of = {v: {u for u in outputs if mask[u, v]} for v in inputs}
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    for u in outputs:
        for v in set(inputs) - inputs_of[u]:
            paths = [(z1, z2) for z1 in inputs_of[u] for z2 in outputs_of[v] if z1 in inputs_of[z2]]
            near_u, near_v = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
            for z1 in near_u:
                others = outputs_of[z1] - {u}
                scores[u, v] += (1 + len(others & near_v)) / (1 + len(others - near_v))
            for z2 in near_v:
                others = inputs_of[z2] - {v}
                scores[u, v] += (1 + len(others & near_u)) / (1 + len(others - near_u))
    return scores


# Output 0 has inputs 0 and 1; output 1 has inputs 1, 2 and 3; they meet at input 1. The missing links:
# 0-2 and 0-3: path through input 1 (i = 1, e = 0: 2/1) and output 1 (i = 1, e = 1: 2/2), 3 together.
# 1-0: path through input 1 (2/1) and output 0 (i = 1, e = 0: 2/1), 4 together.
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
SCORES = [[0, 0, 3, 3], [4, 0, 0, 0]]


def random_mask(shape: tuple[int, int], density: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def test_ch2_l3n_by_hand() -> None:
    scores = chts.link_prediction.ch2_l3n(MASK)
    assert scores.dtype == torch.float32
    assert scores.tolist() == SCORES


def test_oracle_by_hand() -> None:
    assert ch2_l3n_by_definition(MASK).tolist() == SCORES


@pytest.mark.parametrize("mask", [torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool), MASK[:1]])
def test_networks_without_l3_paths_score_zero(mask: Tensor) -> None:
    assert not chts.link_prediction.ch2_l3n(mask).any()


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_ch2_l3n_is_the_definition(shape: tuple[int, int], density: float, seed: int) -> None:
    mask = random_mask(shape, density, seed)
    scores = chts.link_prediction.ch2_l3n(mask)
    torch.testing.assert_close(scores.double(), ch2_l3n_by_definition(mask), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(40, 25), (12, 70)])
@pytest.mark.parametrize("density", [0.05, 0.2])
def test_ch2_l3n_is_the_definition_on_a_layer(shape: tuple[int, int], density: float) -> None:
    mask = random_mask(shape, density, 0)
    scores = chts.link_prediction.ch2_l3n(mask)
    torch.testing.assert_close(scores.double(), ch2_l3n_by_definition(mask), rtol=1e-6, atol=0)


def test_ch2_l3n_does_not_care_which_side_is_which() -> None:
    mask = random_mask((30, 20), 0.2, 0)
    torch.testing.assert_close(chts.link_prediction.ch2_l3n(mask.T), chts.link_prediction.ch2_l3n(mask).T)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    density=st.floats(0, 1),
    share=st.floats(0, 1),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sampled_links_are_missing_ones_in_the_exact_number(
    shape: tuple[int, int], density: float, share: float, soft: bool, seed: int
) -> None:
    mask = random_mask(shape, density, seed)
    before = mask.clone()
    num = round(share * int((~mask).sum()))
    new = chts.link_prediction.sample_links(
        mask, num, "ch2_l3n", soft=soft, generator=torch.Generator().manual_seed(seed)
    )
    assert new.shape == mask.shape
    assert new.dtype == torch.bool
    assert int(new.sum()) == num
    assert not (new & mask).any()
    assert torch.equal(mask, before)


def count_sets(mask: Tensor, num: int, draws: int) -> Counter[frozenset[tuple[int, int]]]:
    generator = torch.Generator().manual_seed(0)
    return Counter(
        frozenset(links_of(chts.link_prediction.sample_links(mask, num, generator=generator))) for _ in range(draws)
    )


def test_soft_regrowth_draws_with_the_score() -> None:
    mask = random_mask((4, 4), 0.5, 1)
    scores = ch2_l3n_by_definition(mask)
    links = [link for link in sorted(links_of(~mask)) if scores[link] > 0]
    assert len({float(scores[link]) for link in links}) > 3, "scores too alike to test anything"
    counts = count_sets(mask, 1, 4000)
    observed = [counts.pop(frozenset({link})) for link in links]
    assert not counts
    assert_fits(observed, [float(scores[link] / scores.sum()) for link in links])


def test_soft_regrowth_draws_without_replacement() -> None:
    p = {(0, 2): 0.3, (0, 3): 0.3, (1, 0): 0.4}  # SCORES over their sum
    counts = count_sets(MASK, 2, 4000)
    pairs = list(combinations(p, 2))
    expected = [p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs]
    assert_fits([counts[frozenset(pair)] for pair in pairs], expected)


def test_links_without_score_come_last_and_uniformly() -> None:
    # A third output without links has no L3 paths.
    mask = torch.cat([MASK, torch.zeros(1, 4, dtype=torch.bool)])
    scored = {(0, 2), (0, 3), (1, 0)}
    assert set(count_sets(mask, 3, 100)) == {frozenset(scored)}
    counts = count_sets(mask, 4, 2000)
    assert_fits([counts.pop(frozenset(scored | {(2, column)})) for column in range(4)], [1 / 4] * 4)
    assert not counts


def test_hard_regrowth_takes_the_highest_scores() -> None:
    mask = random_mask((12, 15), 0.25, 3)
    scores = ch2_l3n_by_definition(mask)
    num = 5
    cut = scores.flatten().sort(descending=True).values
    assert cut[num - 1] > cut[num], "a tie at the threshold would leave the choice open"
    new = chts.link_prediction.sample_links(mask, num, soft=False, generator=torch.Generator())
    assert torch.equal(new, top(scores, ~mask, num))


def test_hard_regrowth_breaks_ties_uniformly() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = 1000
    first = sum(
        bool(chts.link_prediction.sample_links(MASK, 2, soft=False, generator=generator)[0, 2]) for _ in range(draws)
    )
    assert_fits([first, draws - first], [1 / 2, 1 / 2])


def test_links_depend_on_the_generator_alone() -> None:
    mask = random_mask((20, 20), 0.2, 0)
    links = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(seed)
        links.append(chts.link_prediction.sample_links(mask, 30, generator=generator))
    assert torch.equal(links[0], links[1])
    assert not torch.equal(links[0], links[2])
