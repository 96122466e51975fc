from collections import Counter
from itertools import combinations, product
from typing import Literal

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import assert_fits
from torch import Tensor

import chts_core as chts

Rule = Literal["fixed", "uniform"]

RULES = ["fixed", "uniform"]
SIDES = st.integers(1, 24)


def receptive_field(
    shape: tuple[int, int], links: int, r: float, degree: Rule | Tensor = "fixed", seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return chts.topology.receptive_field(*shape, links / (shape[0] * shape[1]), r, degree, generator=generator)


def ring_distance(one: float, other: float, size: int) -> float:
    """How far two positions on a ring of columns are apart, the shorter way round."""
    return min(abs(one - other - turn * size) for turn in (-2, -1, 0, 1, 2))


def ring_distances(centre: float, size: int) -> list[float]:
    """How far each column is from a position on the ring."""
    return [ring_distance(column, centre, size) for column in range(size)]


def diagonal(row: int, shape: tuple[int, int]) -> float:
    """The column, in units of columns, at the middle of a row's share of the diagonal."""
    return (row + 0.5) * shape[1] / shape[0] - 0.5


# --- number of links ---


@pytest.mark.parametrize(
    ("shape", "density", "expected"),
    [((2, 4), 0.5, 4), ((2, 4), 0.3, 2), ((3, 3), 0.1, 1), ((1, 1), 0.4, 0), ((1, 1), 1, 1), ((7, 1), 0, 0)],
)
def test_link_count_is_the_nearest_integer(shape: tuple[int, int], density: float, expected: int) -> None:
    assert chts.topology.link_count(*shape, density) == expected


@given(shape=st.tuples(SIDES, SIDES), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_erdos_renyi_has_the_exact_number_of_links(shape: tuple[int, int], density: float, seed: int) -> None:
    mask = chts.topology.erdos_renyi(*shape, density, generator=torch.Generator().manual_seed(seed))
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    assert abs(int(mask.sum()) - density * shape[0] * shape[1]) <= 0.5


@given(
    shape=st.tuples(SIDES, SIDES),
    density=st.floats(0, 1),
    r=st.floats(0, 1),
    degree=st.sampled_from(RULES),
    seed=st.integers(0, 99),
)
def test_receptive_field_has_the_exact_number_of_links(
    shape: tuple[int, int], density: float, r: float, degree: Rule, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = chts.topology.receptive_field(*shape, density, r, degree, generator=generator)
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    assert abs(int(mask.sum()) - density * shape[0] * shape[1]) <= 0.5


def test_more_than_2_to_the_24_candidates() -> None:
    mask = chts.topology.erdos_renyi(4100, 4100, 0.01, generator=torch.Generator().manual_seed(0))
    assert int(mask.sum()) == 168_100


# --- Erdős–Rényi ---


def test_erdos_renyi_draws_every_network_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(chts.topology.erdos_renyi(2, 3, 1 / 3, generator=generator).flatten().tolist()) for _ in range(4500)
    )
    assert len(counts) == 15  # 6 choose 2
    assert_fits(list(counts.values()), [1 / 15] * 15)


# --- receptive field: degrees ---


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), r=st.floats(0, 1), seed=st.integers(0, 99))
def test_fixed_degrees_differ_by_at_most_one(shape: tuple[int, int], share: float, r: float, seed: int) -> None:
    links = round(share * shape[0] * shape[1])
    degrees = receptive_field(shape, links, r, "fixed", seed).sum(1)
    assert int(degrees.max() - degrees.min()) <= 1


@pytest.mark.parametrize(
    ("shape", "links", "low", "high"),
    [
        ((40, 40), 400, 1, 19),  # a receptive field of one input is as wide as its step; the mean is 10
        ((40, 100), 800, 3, 37),  # a step of 2.5 inputs; the mean is 20
        ((40, 40), 1200, 20, 40),  # the mean of 30 is 10 below the width of a row
        ((100, 10), 600, 2, 10),
    ],
)
def test_uniform_degrees_are_spread_evenly(shape: tuple[int, int], links: int, low: int, high: int) -> None:
    # Increments handed out at random, as in published code, would give a bell around the mean instead of a line.
    degrees = receptive_field(shape, links, 0.3, "uniform").sum(1)
    for rank, degree in enumerate(degrees.sort().values.tolist()):
        assert degree == pytest.approx(low + (high - low) * (rank + 0.5) / shape[0], abs=1)


def test_uniform_degrees_are_shuffled() -> None:
    first, second = (receptive_field((40, 40), 400, 0.3, "uniform", seed).sum(1) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, first.sort().values)


@given(data=st.data(), shape=st.tuples(SIDES, SIDES), r=st.floats(0, 1))
def test_given_degrees_are_conserved(data: st.DataObject, shape: tuple[int, int], r: float) -> None:
    degrees = data.draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
    mask = receptive_field(shape, sum(degrees), r, torch.tensor(degrees))
    assert mask.sum(1).tolist() == degrees


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), degree=st.sampled_from(RULES), seed=st.integers(0, 99))
def test_degrees_do_not_depend_on_r(shape: tuple[int, int], share: float, degree: Rule, seed: int) -> None:
    links = round(share * shape[0] * shape[1])
    nearest, *others = (receptive_field(shape, links, r, degree, seed).sum(1) for r in (0, 0.3, 1))
    assert all(torch.equal(degrees, nearest) for degrees in others)


# --- receptive field: r = 0 takes the nearest ---


def test_nearest_of_a_square_by_hand() -> None:
    assert receptive_field((4, 4), 4, 0).tolist() == torch.eye(4, dtype=torch.bool).tolist()


def test_nearest_of_a_wide_layer_by_hand() -> None:
    assert receptive_field((2, 4), 4, 0).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_nearest_of_a_tall_layer_by_hand() -> None:
    assert receptive_field((4, 2), 4, 0).int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_nearest_closes_the_ring() -> None:
    # Output 0 looks at input 0 and reaches round the edge for its third nearest.
    assert receptive_field((4, 4), 12, 0).int().tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]


@st.composite
def layers(draw: st.DrawFn) -> tuple[tuple[int, int], int, Rule | Tensor]:
    """A shape, a number of links - very few as often as any - and a rule for degrees, or the degrees themselves."""
    shape = draw(st.tuples(SIDES, SIDES))
    size = shape[0] * shape[1]
    if draw(st.booleans()):
        degrees = draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
        return shape, sum(degrees), torch.tensor(degrees)
    links = draw(st.one_of(st.integers(0, min(size, max(shape))), st.integers(0, size)))
    return shape, links, draw(st.sampled_from(RULES))


@example(layer=((4, 8), 8, torch.tensor([1, 1, 3, 3])))
@given(layer=layers())
def test_nearest_are_the_d_nearest_on_the_ring(layer: tuple[tuple[int, int], int, Rule | Tensor]) -> None:
    shape, links, degree = layer
    mask = receptive_field(shape, links, 0, degree)
    degrees = mask.sum(1)
    # Degrees that are equal to within one are closed up, so that no input is left out; if they reach all inputs.
    closed_up = links >= shape[1] and int(degrees.max() - degrees.min()) <= 1
    for row, columns in enumerate(mask.tolist()):
        if not any(columns) or all(columns):
            continue
        starts = [column for column, linked in enumerate(columns) if linked and not columns[column - 1]]
        assert len(starts) == 1, "a gap in the window"
        # The middle of the d columns nearest to a position is within half a column of it.
        middle = starts[0] + (sum(columns) - 1) / 2
        assert ring_distance(middle, diagonal(row, shape), shape[1]) <= 0.5 + 0.5 * closed_up + 1e-9
        if not closed_up:
            distances = ring_distances(diagonal(row, shape), shape[1])
            taken = sorted(distances[column] for column, linked in enumerate(columns) if linked)
            assert taken == pytest.approx(sorted(distances)[: len(taken)], abs=1e-9)


@pytest.mark.parametrize(("shape", "links"), [((2, 24), 1), ((10, 100), 3), ((30, 400), 17), ((8, 8), 3)])
@pytest.mark.parametrize("degree", RULES)
def test_links_too_few_to_reach_all_inputs_are_on_the_diagonal(
    shape: tuple[int, int], links: int, degree: Rule
) -> None:
    for row, column in receptive_field(shape, links, 0, degree).nonzero().tolist():
        assert abs(column - diagonal(row, shape)) <= 1


# --- receptive field: coverage ---


@pytest.mark.parametrize("degree", RULES)
def test_nearest_reach_every_input_of_any_small_rectangle(degree: Rule) -> None:
    # Every rectangle, at the fewest links that can reach all inputs, one more, and twice as many.
    missed = [
        (shape, links)
        for shape in product(range(1, 25), repeat=2)
        for links in {shape[1], shape[1] + 1, 2 * shape[1]}
        if links <= shape[0] * shape[1] and not receptive_field(shape, links, 0, degree).any(0).all()
    ]
    assert not missed


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    share=st.floats(0, 1),
    degree=st.sampled_from(RULES),
    seed=st.integers(0, 99),
)
def test_nearest_reach_every_input(shape: tuple[int, int], share: float, degree: Rule, seed: int) -> None:
    links = round(shape[1] + share * (shape[0] * shape[1] - shape[1]))
    assert receptive_field(shape, links, 0, degree, seed).any(0).all()


@given(
    shape=st.tuples(SIDES, SIDES),
    share=st.floats(0, 1),
    r=st.floats(0, 1),
    degree=st.sampled_from(RULES),
    seed=st.integers(0, 99),
)
def test_every_output_is_linked(shape: tuple[int, int], share: float, r: float, degree: Rule, seed: int) -> None:
    links = round(shape[0] + share * (shape[0] * shape[1] - shape[0]))
    assert receptive_field(shape, links, r, degree, seed).any(1).all()


@pytest.mark.parametrize("degree", RULES)
def test_no_input_range_is_left_out_at_a_step_that_is_no_integer(degree: Rule) -> None:
    # An integer stride of ⌊1376/512⌋ = 2 would never put a centre on the last 352 inputs.
    mask = receptive_field((512, 1376), 7045, 0.1, degree)
    reached = [int(part.sum()) for part in mask.sum(0).split(172)]
    assert min(reached) > 0.8 * 7045 / 8


# --- receptive field: r between 0 and 1 ---


@pytest.mark.parametrize("r", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(2, 5), (5, 5), (6, 4)])
def test_one_draw_falls_off_with_the_ring_distance(shape: tuple[int, int], r: float) -> None:
    outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)
    draws = 3000
    counts = sum(chts.topology.receptive_field(*shape, 1 / inputs, r, generator=generator).int() for _ in range(draws))
    for row in range(outputs):
        odds = [(1 + distance) ** (-(1 - r) / r) for distance in ring_distances(diagonal(row, shape), inputs)]
        # Columns too far off to be drawn five times are counted together.
        rare = [column for column in range(inputs) if odds[column] / sum(odds) * draws < 10]
        common = [column for column in range(inputs) if column not in rare]
        observed = [int(counts[row, column]) for column in common] + [int(counts[row, rare].sum())] * bool(rare)
        expected = [odds[column] for column in common] + [sum(odds[column] for column in rare)] * bool(rare)
        assert_fits(observed, [p / sum(odds) for p in expected])


def test_two_draws_are_without_replacement() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(chts.topology.receptive_field(1, 4, 0.5, 0.5, generator=generator)[0].nonzero().flatten().tolist())
        for _ in range(5000)
    )
    odds = [1 / (1 + distance) for distance in ring_distances(1.5, 4)]
    p = [value / sum(odds) for value in odds]
    pairs = list(combinations(range(4), 2))
    expected = [p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs]
    assert_fits([counts[pair] for pair in pairs], expected)


def test_r_of_one_draws_any_inputs_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(2500):
        mask = chts.topology.receptive_field(2, 5, 0.4, 1.0, generator=generator)
        counts.update(tuple(row.nonzero().flatten().tolist()) for row in mask)
    assert_fits([counts[pair] for pair in combinations(range(5), 2)], [1 / 10] * 10)


def test_mean_distance_grows_with_r() -> None:
    shape = (60, 90)
    distances = torch.tensor([ring_distances(diagonal(row, shape), shape[1]) for row in range(shape[0])])
    means = [float(distances[receptive_field(shape, 540, r)].mean()) for r in (0, 0.2, 0.4, 0.6, 1)]
    assert means == sorted(means)
    assert means[0] < 3
    assert means[-1] == pytest.approx(90 / 4, rel=0.1)


@pytest.mark.parametrize("r", [5e-324, 1e-3])
def test_almost_no_randomness_is_nearest(r: float) -> None:
    assert torch.equal(receptive_field((9, 9), 27, r), receptive_field((9, 9), 27, 0))


# --- randomness ---


@pytest.mark.parametrize("build", [chts.topology.erdos_renyi, chts.topology.receptive_field])
def test_masks_depend_on_the_generator_alone(build: type) -> None:
    masks = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        masks.append(build(20, 30, 0.2, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("build", [chts.topology.erdos_renyi, chts.topology.receptive_field])
def test_masks_go_to_the_device_asked_for(build: type) -> None:
    assert build(2, 4, 0.5, generator=torch.Generator(), device="meta").device.type == "meta"
    assert build(2, 4, 0.5, generator=torch.Generator()).device.type == "cpu"


@pytest.mark.parametrize(("shape", "links"), [((2225, 4546), 9_978_556), ((4159, 2446), 10_017_397)])
def test_uniform_degrees_of_large_layers_add_up(shape: tuple[int, int], links: int) -> None:
    # Sums of this size are exact in float64 but not in float32, where these two were off by one.
    assert int(receptive_field(shape, links, 0, "uniform", seed=0).sum()) == links
