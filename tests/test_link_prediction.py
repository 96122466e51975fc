import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from unittest import mock

import numpy as np
import pytest
import tiers
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_fits, links_of, top
from torch import Tensor
from torch.nn import functional as F

import chts_core as chts
from chts_core.compiled import walk_sampling
from chts_core.compiled.masks import positions

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


@pytest.mark.twin("link_prediction: all four scores, by all routes", "the definition, path by path", "numbers")
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


def count_sets(
    mask: Tensor, num: int, draws: int, predictor: str = "ch2_l3n", device: str = "cpu"
) -> Counter[frozenset[tuple[int, int]]]:
    mask, generator = mask.to(device), torch.Generator(device).manual_seed(0)
    return Counter(
        frozenset(links_of(chts.link_prediction.sample_links(mask, num, predictor, generator=generator)))
        for _ in range(draws)
    )


@pytest.mark.parametrize("predictor", ["ch2_l3n", "ch3_l3n", "ch3_l3p"])
def test_soft_regrowth_draws_with_the_score(predictor: str) -> None:
    mask = random_mask((4, 4), 0.5, 1)
    assert len(set(chances(mask, predictor).values())) > 3, "scores too alike to test anything"
    assert_draws_one(mask, predictor, 2000)


def test_soft_regrowth_draws_without_replacement() -> None:
    p = {(0, 2): 0.3, (0, 3): 0.3, (1, 0): 0.4}  # the scores of CH2-L3n over their sum
    counts = count_sets(MASK, 2, 1500)
    expected = pairs_of_draws(p)
    assert_fits([counts[pair] for pair in expected], list(expected.values()))


def pairs_of_draws(p: dict[tuple[int, int], float]) -> dict[frozenset[tuple[int, int]], float]:
    """Probabilities of two successive draws without replacement, in either order."""
    return {frozenset({i, j}): p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in combinations(p, 2)}


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


# --- Walks ---


def rows_of(*rows: set[int], columns: int) -> Tensor:
    """A network from the inputs of each output."""
    return torch.tensor([[column in row for column in range(columns)] for row in rows])


WALKED = ["ch2_l3n", "ch3_l3n"]
WALKERS: dict[str, Callable[..., Tensor]] = {
    "compiled": walk_sampling.walk_compiled,
    "batched": walk_sampling.walk_batched,
}
# Fewer wedges than pairs of nodes, so that pairs are looked for among the wedges.
AMONG_WEDGES = {
    "one path each": MASK,
    "shared twice": rows_of({0, 1, 2}, {0, 1, 3, 4}, {4, 5}, columns=8),
    "tall": rows_of({0, 1}, {0, 1}, {0, 2}, {1, 2}, {2}, {2}, columns=3),
}
# More wedges than pairs, so that they are looked for among all pairs.
AMONG_ALL = {
    "nested": FOUR_PATHS,  # whose outputs 0 and 3 have no input that output 2 lacks
    "some share nothing": rows_of({0, 1, 2, 3}, {0, 1, 2, 3, 4}, {3, 5}, columns=6),
    "nearly all shared": rows_of(set(range(20)), {*range(18), 20}, columns=21),
}
# The greatest odds are those of its inputs, and of the one before those of its outputs.
AMONG_ALL["nearly all shared, turned"] = AMONG_ALL["nearly all shared"].T.contiguous()
NETWORKS = AMONG_WEDGES | AMONG_ALL


@pytest.fixture(params=WALKERS)
def walker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has regrowth walk by this code, in rounds of few walks, since the networks are small."""
    monkeypatch.setattr(walk_sampling, "walk_compiled", WALKERS[request.param])
    monkeypatch.setattr(walk_sampling, "_WALKS_AT_LEAST", 16)
    monkeypatch.setattr(walk_sampling, "_WALKS_PER_LINK", 10**4)
    return str(request.param)


@pytest.fixture
def no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks must do: the scores are not to be had."""

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError("the scores were computed")

    for predictor in WALKED:
        monkeypatch.setitem(chts.link_prediction.PREDICTORS, predictor, refuse)


def chances(mask: Tensor, predictor: str) -> dict[tuple[int, int], float]:
    """Probability of each missing link that has one, in a single draw."""
    scores = by_definition(mask, predictor)
    return {link: float(scores[link] / scores.sum()) for link in sorted(links_of(scores > 0))}


def assert_draws_one(mask: Tensor, predictor: str, draws: int) -> None:
    expected = chances(mask, predictor)
    counts = count_sets(mask, 1, draws, predictor)
    assert counts.keys() <= {frozenset({link}) for link in expected}
    assert_fits([counts[frozenset({link})] for link in expected], list(expected.values()))


def assert_draws_pairs(mask: Tensor, predictor: str, draws: int, device: str = "cpu") -> None:
    expected = pairs_of_draws(chances(mask, predictor))
    counts = count_sets(mask, 2, draws, predictor, device)
    assert counts.keys() <= expected.keys()
    assert_fits([counts[pair] for pair in expected], list(expected.values()))


def test_networks_of_the_walks_are_what_they_are_for() -> None:
    for name, mask in NETWORKS.items():
        degrees = torch.cat([mask.sum(0), mask.sum(1)])
        wedges, pairs = int((degrees * (degrees - 1)).sum()), sum(size * (size - 1) for size in mask.shape)
        assert (wedges <= pairs) == (name in AMONG_WEDGES)
    links = NETWORKS["shared twice"].long()
    assert int((links @ links.T).triu(1).max()) == 2
    tries, (one, other) = 8, NETWORKS["nearly all shared"]
    assert (1 - float((one & ~other).sum() / one.sum())) ** tries > 0.4
    assert not (FOUR_PATHS[[0, 3]] & ~FOUR_PATHS[2]).any()


@pytest.mark.parametrize("predictor", WALKED)
@pytest.mark.parametrize("network", NETWORKS)
def test_walks_end_with_the_score(network: str, predictor: str) -> None:
    from chts_core.compiled.walks import adjacency, propose_links

    mask = NETWORKS[network]
    start, neighbours = adjacency(*mask.nonzero().T.contiguous().numpy(), *mask.shape)
    wedges = walk_sampling._running_wedges(torch.from_numpy(start)).numpy()
    links = np.empty(100_000, dtype=np.int64)
    pairs = walk_sampling._num_pairs((mask.shape[0], mask.shape[1]))
    exists = np.packbits(mask.numpy())
    propose_links(0, exists, tuple(mask.shape), start, neighbours, wedges, pairs, predictor == "ch2_l3n", links)
    expected = chances(mask, predictor)
    counts = Counter(divmod(link, mask.shape[1]) for link in links.tolist() if link >= 0)
    assert counts.keys() == expected.keys()
    assert_fits([counts[link] for link in expected], list(expected.values()))


@pytest.mark.twin("compiled.walk_sampling", "sampling.draw from link_prediction.ch2_l3n", "χ²")
@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize(
    ("walker", "network", "predictor"), tiers.every_pair(WALKERS, NETWORKS, WALKED), indirect=["walker"]
)
def test_walks_draw_without_replacement(walker: str, network: str, predictor: str) -> None:  # noqa: ARG001
    mask = NETWORKS[network]
    if len(chances(mask, predictor)) > 10:  # pairs too many to count
        assert_draws_one(mask, predictor, 1000)
    else:
        assert_draws_pairs(mask, predictor, 1000)


@pytest.mark.usefixtures("walker", "no_scores")
def test_walks_of_several_rounds_draw_without_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_sampling, "_WALKS_AT_LEAST", 1)
    assert_draws_pairs(FOUR_PATHS, "ch2_l3n", 1000)


@pytest.mark.parametrize("predictor", WALKED)
def test_what_too_few_walks_leave_is_drawn_from_the_scores(
    predictor: str, walker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = mock.Mock(side_effect=chts.link_prediction.PREDICTORS[predictor])
    monkeypatch.setitem(chts.link_prediction.PREDICTORS, predictor, scores)
    monkeypatch.setattr(walk_sampling, "_WALKS_PER_LINK", {"compiled": 1, "batched": 4}[walker])
    monkeypatch.setattr(walk_sampling, "_WALKS_AT_LEAST", 1)
    draws = 1000
    assert_draws_pairs(FOUR_PATHS, predictor, draws)
    assert 0.2 * draws < scores.call_count < 0.9 * draws, "one of the two ways is hardly taken"


@pytest.mark.parametrize("predictor", WALKED)
def test_links_without_score_come_last_and_uniformly(predictor: str, walker: str) -> None:  # noqa: ARG001
    # A third output without links has no L3 paths.
    mask = torch.cat([MASK, torch.zeros(1, 4, dtype=torch.bool)])
    scored = {(0, 2), (0, 3), (1, 0)}
    assert set(count_sets(mask, 3, 100, predictor)) == {frozenset(scored)}
    with mock.patch.object(walk_sampling, "_WALKS_PER_LINK", 16):
        counts = count_sets(mask, 4, 1000, predictor)
    assert_fits([counts.pop(frozenset(scored | {(2, column)})) for column in range(4)], [1 / 4] * 4)
    assert not counts


@pytest.mark.parametrize(
    ("walker", "shape"), tiers.every_second(WALKERS, [(2, 3), (1, 6), (6, 1)]), indirect=["walker"]
)
def test_regrowth_into_an_empty_layer_is_uniform(shape: tuple[int, int], walker: str) -> None:  # noqa: ARG001
    mask = torch.zeros(shape, dtype=torch.bool)
    counts = count_sets(mask, 2, 1000)
    pairs = list(combinations(sorted(links_of(~mask)), 2))
    assert_fits([counts[frozenset(pair)] for pair in pairs], [1 / 15] * 15)


@pytest.mark.parametrize("predictor", WALKED)
@pytest.mark.parametrize("mask", [MASK, FOUR_PATHS, MASK[:1], MASK[1:].T, torch.ones(3, 4) > 0, torch.zeros(3, 4) > 0])
def test_none_or_all_of_the_missing_links(mask: Tensor, predictor: str, walker: str) -> None:  # noqa: ARG001
    generator = torch.Generator().manual_seed(0)
    with mock.patch.object(walk_sampling, "_WALKS_PER_LINK", 16):
        none = chts.link_prediction.sample_links(mask, 0, predictor, generator=generator)
        every = chts.link_prediction.sample_links(mask, int((~mask).sum()), predictor, generator=generator)
    assert torch.equal(none, torch.zeros_like(mask))
    assert torch.equal(every, ~mask)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda mask: mask,
    "transposed": lambda mask: mask.T.contiguous().T,
    "every second column": lambda mask: mask.repeat_interleave(2, 1)[:, ::2],
    "every second row": lambda mask: mask.repeat_interleave(2, 0)[::2],
    "a part": lambda mask: F.pad(mask, (1, 2, 3, 4))[3:-4, 1:-2],
}


@pytest.mark.parametrize("predictor", WALKED)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    density=st.floats(0, 1),
    share=st.floats(0, 1),
    layout=st.sampled_from(sorted(LAYOUTS)),
    walker=st.sampled_from(sorted(WALKERS)),
    seed=st.integers(0, 99),
)
def test_walked_links_are_missing_ones_in_the_exact_number(
    shape: tuple[int, int], density: float, share: float, layout: str, walker: str, seed: int, predictor: str
) -> None:
    plain = random_mask(shape, density, seed)
    mask = LAYOUTS[layout](plain)
    num = round(share * int((~plain).sum()))
    walks = {"walk_compiled": WALKERS[walker], "_WALKS_AT_LEAST": 16}
    with mock.patch.multiple(walk_sampling, **walks):
        new, same = (
            chts.link_prediction.sample_links(network, num, predictor, generator=torch.Generator().manual_seed(seed))
            for network in (mask, plain)
        )
    assert (new.shape, new.dtype, new.device) == (mask.shape, torch.bool, mask.device)
    assert int(new.sum()) == num
    assert not (new & mask).any()
    assert torch.equal(new, same), "the memory layout of the mask shows in the links"
    assert torch.equal(mask, random_mask(shape, density, seed)), "the mask was changed"


@pytest.mark.usefixtures("no_scores")
def test_links_of_walks_depend_on_no_threads() -> None:
    mask = random_mask((400, 600), 0.05, 0)
    num = 3 * walk_sampling._WALKS_AT_A_TIME
    threads = torch.get_num_threads()
    links = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            links.append(chts.link_prediction.sample_links(mask, num, generator=torch.Generator().manual_seed(0)))
    finally:
        torch.set_num_threads(threads)
    assert int(links[0].sum()) == num
    assert all(torch.equal(other, links[0]) for other in links)


def test_batches_of_walks_are_different_walks() -> None:
    mask = random_mask((400, 600), 0.05, 0)
    num = 3 * walk_sampling._WALKS_AT_A_TIME
    with mock.patch.object(walk_sampling, "_WALKS_PER_LINK", 1):
        new = walk_sampling.walk_compiled(positions(mask), (400, 600), num, True, torch.Generator().manual_seed(0))
    assert len(new) > 0.7 * num


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("predictor", WALKED)
def test_a_large_layer_is_regrown_without_scores(predictor: str) -> None:
    mask = random_mask((2048, 5461), 0.01, 0)
    num = int(mask.sum()) // 3
    new = chts.link_prediction.sample_links(mask, num, predictor, generator=torch.Generator().manual_seed(0))
    assert int(new.sum()) == num
    assert not (new & mask).any()


def test_autocast_changes_no_walk(walker: str) -> None:  # noqa: ARG001
    # Nodes that share more than the 256 others that bfloat16 can count.
    mask = random_mask((4, 700), 0.9, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        new = chts.link_prediction.sample_links(mask, 60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(new, chts.link_prediction.sample_links(mask, 60, generator=torch.Generator().manual_seed(0)))


@pytest.mark.cuda
@pytest.mark.parametrize("predictor", WALKED)
@pytest.mark.parametrize("network", ["one path each", "nested"])
def test_walks_on_a_gpu_draw_without_replacement(network: str, predictor: str) -> None:
    assert_draws_pairs(NETWORKS[network], predictor, 1000, "cuda")


@pytest.mark.cuda
def test_the_device_of_the_generator_walks_and_the_mask_keeps_its_own() -> None:
    mask = random_mask((200, 300), 0.05, 0)
    for device in ("cpu", "cuda"):
        links = [
            chts.link_prediction.sample_links(network, 900, generator=torch.Generator(device).manual_seed(0))
            for network in (mask, mask.cuda())
        ]
        assert [new.device.type for new in links] == ["cpu", "cuda"]
        assert int(links[0].sum()) == 900
        assert torch.equal(links[0], links[1].cpu())


@pytest.mark.cuda
def test_a_round_on_a_gpu_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = walk_sampling._walk_rounds
    waits = []

    def watched_rounds(num_links: int, propose: Callable[[int, int], int]) -> None:
        def watched(walks: int, left: int) -> int:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    found = propose(walks, left)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            waits.append(sum("called a synchronizing" in str(warning.message) for warning in seen))
            return found

        rounds(num_links, watched)

    monkeypatch.setattr(walk_sampling, "_walk_rounds", watched_rounds)
    mask = random_mask((200, 300), 0.05, 0).cuda()
    chts.link_prediction.sample_links(mask, 3000, generator=torch.Generator("cuda").manual_seed(0))
    assert len(waits) >= 1
    assert set(waits) == {1}
