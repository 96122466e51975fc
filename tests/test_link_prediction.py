import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_fits, links_of, top
from torch import Tensor

import chts_core as chts

PREDICTORS = list(chts.link_prediction.PREDICTORS)
ROUTES = ["sparse", "dense"]


@contextmanager
def only(route: str) -> Iterator[None]:
    """Have every mask scored by the sparse or by the dense code, whatever its density."""
    bound = 1.0 if route == "sparse" else -1.0
    with mock.patch.multiple(chts.link_prediction, _SPARSE_NODES_UP_TO=bound, _WALKED_PATHS_UP_TO=bound):
        yield


def score(mask: Tensor, predictor: str) -> Tensor:
    return chts.link_prediction.PREDICTORS[predictor](mask)


def by_definition(mask: Tensor, predictor: str) -> Tensor:
    """Score every missing link from its L3 paths u - z1 - z2 - v, as sets of nodes."""
    outputs, inputs = range(mask.shape[0]), range(mask.shape[1])
    inputs_of = {u: {v for v in inputs if mask[u, v]} for u in outputs}
    outputs_of = {v: {u for u in outputs if mask[u, v]} for v in inputs}

    def ratio(others: set[int], community: set[int]) -> float:
        numerator = 1 + len(others & community) if predictor.startswith("ch2") else 1
        return numerator / (1 + len(others - community))

    scores = torch.zeros(mask.shape, dtype=torch.float64)
    for u in outputs:
        for v in set(inputs) - inputs_of[u]:
            paths = [(z1, z2) for z1 in inputs_of[u] for z2 in outputs_of[v] if z1 in inputs_of[z2]]
            near_u, near_v = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
            of_input = {z1: ratio(outputs_of[z1] - {u}, near_v) for z1 in near_u}
            of_output = {z2: ratio(inputs_of[z2] - {v}, near_u) for z2 in near_v}
            if predictor.endswith("l3n"):
                scores[u, v] = sum(of_input.values()) + sum(of_output.values())
            else:
                scores[u, v] = sum(math.sqrt(of_input[z1] * of_output[z2]) for z1, z2 in paths)
    return scores


# Output 0 has inputs 0 and 1; output 1 has inputs 1, 2 and 3; they meet at input 1. The missing links:
# 0-2 and 0-3: path through input 1 (i = 1, e = 0) and output 1 (i = 1, e = 1).
# 1-0: path through input 1 (i = 1, e = 0) and output 0 (i = 1, e = 0).
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
SCORES = {
    "ch2_l3n": (2 / 1 + 2 / 2, 2 / 1 + 2 / 1),
    "ch3_l3n": (1 / 1 + 1 / 2, 1 / 1 + 1 / 1),
    "ch2_l3p": (math.sqrt(2 / 1 * 2 / 2), math.sqrt(2 / 1 * 2 / 1)),
    "ch3_l3p": (math.sqrt(1 / 1 * 1 / 2), math.sqrt(1 / 1 * 1 / 1)),
}
# The missing link 0-2 has four paths, through inputs 0 and 1 and outputs 1 and 2, which are all linked:
# input 0 (i = 2, e = 1, output 3), input 1 (i = 2, e = 0), output 1 (i = 2, e = 0), output 2 (i = 2, e = 1, input 3).
FOUR_PATHS = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
FOUR_PATH_SCORES = {
    "ch2_l3n": 3 / 2 + 3 / 1 + 3 / 1 + 3 / 2,
    "ch3_l3n": 1 / 2 + 1 / 1 + 1 / 1 + 1 / 2,
    "ch2_l3p": (math.sqrt(3 / 2) + math.sqrt(3 / 1)) * (math.sqrt(3 / 1) + math.sqrt(3 / 2)),
    "ch3_l3p": (math.sqrt(1 / 2) + math.sqrt(1 / 1)) * (math.sqrt(1 / 1) + math.sqrt(1 / 2)),
}


def random_mask(shape: tuple[int, int], density: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("route", [*ROUTES, "definition"])
def test_scores_by_hand(predictor: str, route: str) -> None:
    if route == "definition":
        one_path, four_paths = by_definition(MASK, predictor), by_definition(FOUR_PATHS, predictor)[0, 2]
    else:
        with only(route):
            one_path, four_paths = score(MASK, predictor), score(FOUR_PATHS, predictor)[0, 2]
        assert one_path.dtype == torch.float32
    first, second = SCORES[predictor]
    assert one_path.tolist() == [[0, 0, pytest.approx(first), pytest.approx(first)], [pytest.approx(second), 0, 0, 0]]
    assert float(four_paths) == pytest.approx(FOUR_PATH_SCORES[predictor])


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "mask",
    [torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool), MASK[:1], MASK[:, :0], MASK[:0]],
    ids=["empty", "full", "one output", "no inputs", "no outputs"],
)
def test_networks_without_l3_paths_score_zero(mask: Tensor, route: str, predictor: str) -> None:
    with only(route):
        scores = score(mask, predictor)
    assert scores.shape == mask.shape
    assert not scores.any()


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("route", ROUTES)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_scores_are_the_definition(
    shape: tuple[int, int], density: float, seed: int, route: str, predictor: str
) -> None:
    mask = random_mask(shape, density, seed)
    with only(route):
        scores = score(mask, predictor)
    torch.testing.assert_close(scores.double(), by_definition(mask, predictor), rtol=1e-6, atol=0)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("density", [0.05, 0.2])
@pytest.mark.parametrize("shape", [(40, 25), (12, 70)])
def test_scores_are_the_definition_on_a_layer(shape: tuple[int, int], density: float, predictor: str) -> None:
    mask = random_mask(shape, density, 0)
    before = mask.clone()
    expected = by_definition(mask, predictor)
    for route in ROUTES:
        with only(route):
            torch.testing.assert_close(score(mask, predictor).double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(mask, before)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_batches_join_to_the_whole(predictor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Outputs of very different degrees, some without links, in more batches than one.
    density = torch.linspace(0, 0.5, 50)[torch.randperm(50, generator=torch.Generator().manual_seed(0)), None]
    mask = torch.rand(50, 35, generator=torch.Generator().manual_seed(0)) < density
    expected = by_definition(mask, predictor)
    monkeypatch.setattr(chts.link_prediction, "_BATCH_ON_CPU", 7 * mask.numel())
    for route in ROUTES:
        with only(route):
            torch.testing.assert_close(score(mask, predictor).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("predictor", ["ch2_l3p", "ch3_l3p"])
def test_walk_and_products_agree_on_a_large_layer(predictor: str) -> None:
    mask = random_mask((200, 310), 0.08, 0)
    scores = []
    for route in ROUTES:
        with only(route):
            scores.append(score(mask, predictor))
    assert scores[0].any()
    torch.testing.assert_close(scores[0], scores[1], rtol=2e-6, atol=0)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("route", ROUTES)
def test_scores_do_not_care_which_side_is_which(route: str, predictor: str) -> None:
    mask = random_mask((30, 20), 0.2, 0)
    with only(route):
        turned, scores = score(mask.T, predictor), score(mask.T.contiguous().T, predictor)
        assert torch.equal(scores, score(mask, predictor)), "the memory layout of the mask shows in its scores"
        assert torch.equal(score(mask.repeat_interleave(2, 1)[:, ::2], predictor), scores)
    torch.testing.assert_close(turned, scores.T, rtol=2e-6, atol=0)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("route", ROUTES)
def test_autocast_changes_no_score(route: str, predictor: str) -> None:
    mask = random_mask((60, 50), 0.3, 0)
    with only(route):
        expected = score(mask, predictor)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(score(mask, predictor), expected)


@pytest.mark.parametrize("predictor", ["ch2_l3p", "ch3_l3p"])
def test_bits_of_a_walk_depend_on_no_threads(predictor: str) -> None:
    mask = random_mask((150, 90), 0.1, 0)
    threads = torch.get_num_threads()
    scores = []
    with only("sparse"):
        try:
            for number in (1, 2, 3):
                torch.set_num_threads(number)
                scores.append(score(mask, predictor))
        finally:
            torch.set_num_threads(threads)
        with ThreadPoolExecutor(4) as pool:
            scores += pool.map(lambda _: score(mask, predictor), range(8))
    assert all(torch.equal(other, scores[0]) for other in scores)


def test_numba_is_imported_by_its_users_alone() -> None:
    code = "import sys, chts_core; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("predictor", PREDICTORS)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    density=st.floats(0, 1),
    share=st.floats(0, 1),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sampled_links_are_missing_ones_in_the_exact_number(
    shape: tuple[int, int], density: float, share: float, soft: bool, seed: int, predictor: str
) -> None:
    mask = random_mask(shape, density, seed)
    before = mask.clone()
    num = round(share * int((~mask).sum()))
    new = chts.link_prediction.sample_links(
        mask, num, predictor, soft=soft, generator=torch.Generator().manual_seed(seed)
    )
    assert new.shape == mask.shape
    assert new.dtype == torch.bool
    assert int(new.sum()) == num
    assert not (new & mask).any()
    assert torch.equal(mask, before)


def count_sets(mask: Tensor, num: int, draws: int, predictor: str = "ch2_l3n") -> Counter[frozenset[tuple[int, int]]]:
    generator = torch.Generator().manual_seed(0)
    return Counter(
        frozenset(links_of(chts.link_prediction.sample_links(mask, num, predictor, generator=generator)))
        for _ in range(draws)
    )


@pytest.mark.parametrize("predictor", ["ch2_l3n", "ch3_l3p"])
def test_soft_regrowth_draws_with_the_score(predictor: str) -> None:
    mask = random_mask((4, 4), 0.5, 1)
    scores = by_definition(mask, predictor)
    links = [link for link in sorted(links_of(~mask)) if scores[link] > 0]
    assert len({float(scores[link]) for link in links}) > 3, "scores too alike to test anything"
    counts = count_sets(mask, 1, 4000, predictor)
    observed = [counts.pop(frozenset({link})) for link in links]
    assert not counts
    assert_fits(observed, [float(scores[link] / scores.sum()) for link in links])


def test_soft_regrowth_draws_without_replacement() -> None:
    p = {(0, 2): 0.3, (0, 3): 0.3, (1, 0): 0.4}  # the scores of CH2-L3n over their sum
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
    scores = by_definition(mask, "ch2_l3n")
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
