import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import assert_fits, links_of, mask_of
from scipy import stats
from torch import Tensor

import chts_core as chts
from chts_core import row_links
from chts_core.compiled import networks as _networks
from chts_core.compiled import row_draws

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


@pytest.mark.parametrize("density", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(2048, 5461), (5461, 2048)])
def test_layers_of_a_large_model(shape: tuple[int, int], density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    links = chts.topology.link_count(*shape, density)
    field = chts.topology.receptive_field(*shape, density, generator=generator)
    world = chts.topology.small_world(*shape, density, generator=generator)
    for mask in (field, world, chts.topology.erdos_renyi(*shape, density, generator=generator)):
        assert mask.shape == shape
        assert int(mask.count_nonzero()) == links
    for degrees in (field.sum(1), world.sum(1 if shape[0] >= shape[1] else 0)):
        assert int(degrees.max() - degrees.min()) <= 1


def test_more_than_2_to_the_24_candidates() -> None:
    mask = chts.topology.erdos_renyi(4100, 4100, 0.01, generator=torch.Generator().manual_seed(0))
    assert int(mask.sum()) == 168_100


# --- Erdős–Rényi ---


@pytest.mark.parametrize("density", [1 / 3, 2 / 3])
@pytest.mark.parametrize("block", [1, row_links._BLOCK])
def test_erdos_renyi_draws_every_network_equally_often(
    block: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_links, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(chts.topology.erdos_renyi(2, 3, density, generator=generator).flatten().tolist()) for _ in range(4500)
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


# Few in the quick tier: the next test counts many more draws, of rows of one mask.
FALLING_OFF = [(shape, r) for shape in ((2, 5), (5, 5), (6, 4)) for r in (0.2, 0.5, 0.8, 1.0)]
QUICK_FALLING_OFF = [((2, 5), 0.2), ((2, 5), 1.0), ((5, 5), 0.5), ((6, 4), 0.8)]


@pytest.mark.parametrize(
    ("shape", "r"),
    [case if case in QUICK_FALLING_OFF else pytest.param(*case, marks=pytest.mark.full) for case in FALLING_OFF],
)
def test_one_draw_falls_off_with_the_ring_distance(shape: tuple[int, int], r: float) -> None:
    outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)
    draws = 1500
    counts = sum(chts.topology.receptive_field(*shape, 1 / inputs, r, generator=generator).int() for _ in range(draws))
    for row in range(outputs):
        odds = [(1 + distance) ** (-(1 - r) / r) for distance in ring_distances(diagonal(row, shape), inputs)]
        # Columns too far off to be drawn five times are counted together.
        rare = [column for column in range(inputs) if odds[column] / sum(odds) * draws < 10]
        common = [column for column in range(inputs) if column not in rare]
        observed = [int(counts[row, column]) for column in common] + [int(counts[row, rare].sum())] * bool(rare)
        expected = [odds[column] for column in common] + [sum(odds[column] for column in rare)] * bool(rare)
        assert_fits(observed, [p / sum(odds) for p in expected])


@pytest.mark.parametrize("r", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("inputs", [4, 5])
def test_rows_of_one_mask_fall_off_with_the_ring_distance(inputs: int, r: float) -> None:
    outputs, groups = 24_000, 8
    mask = chts.topology.receptive_field(outputs, inputs, 1 / inputs, r, generator=torch.Generator().manual_seed(0))
    centres = (np.arange(outputs)[:, None] + 0.5) * inputs / outputs - 0.5
    distances = np.abs(np.arange(inputs) - centres)
    odds = (1 + np.minimum(distances, inputs - distances)) ** (-(1 - r) / r)
    # Neighbouring rows look at almost the same place.
    expected = (odds / odds.sum(1, keepdims=True)).reshape(groups, -1, inputs).mean(1)
    counts = mask.view(groups, -1, inputs).sum(1)
    for observed, probabilities in zip(counts.tolist(), expected.tolist(), strict=True):
        assert_fits(observed, probabilities)


def test_two_draws_are_without_replacement() -> None:
    outputs = 20_000
    mask = chts.topology.receptive_field(outputs, 4, 0.5, 0.5, generator=torch.Generator().manual_seed(0))
    # Rows of the second quarter look between the same two columns, as the middle row of a layer of one does.
    rows = mask[outputs // 4 : outputs // 2]
    counts = Counter(tuple(row.nonzero().flatten().tolist()) for row in rows)
    pairs = list(combinations(range(4), 2))
    expected = np.zeros(len(pairs))
    for row in range(outputs // 4, outputs // 2):
        odds = [1 / (1 + distance) for distance in ring_distances(diagonal(row, (outputs, 4)), 4)]
        p = [value / sum(odds) for value in odds]
        expected += [p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs]
    assert_fits([counts[pair] for pair in pairs], (expected / len(rows)).tolist())


def test_r_of_one_draws_any_inputs_alike() -> None:
    mask = chts.topology.receptive_field(5000, 5, 0.4, 1.0, generator=torch.Generator().manual_seed(0))
    counts = Counter(tuple(row.nonzero().flatten().tolist()) for row in mask)
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


# --- literal versions of random models ---

# Which of several options, by their weights.
Choose = Callable[[Sequence[float]], int]


class UndecidedError(Exception):
    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights


def outcomes(model: Callable[[Choose], Any], decisions: tuple[int, ...] = ()) -> Counter[Any]:
    """Probability of everything that a model may return, by trying all of its choices."""
    ahead = iter(decisions)

    def choose(weights: Sequence[float]) -> int:
        decision = next(ahead, None)
        if decision is None:
            raise UndecidedError(weights)
        return decision

    try:
        return Counter({model(choose): 1.0})
    except UndecidedError as undecided:
        weights = undecided.weights
    found: Counter[Any] = Counter()
    for option, weight in enumerate(weights):
        if weight:
            for outcome, probability in outcomes(model, (*decisions, option)).items():
                found[outcome] += weight / sum(weights) * probability
    return found


def pick(options: Sequence[Any], choose: Choose) -> Any:
    return options[choose([1] * len(options))]


def rewired_small_world(nearest: Tensor, number: int, choose: Choose) -> frozenset[tuple[int, int]]:
    """Cut `number` links one by one; then rows, the larger side, draw as many ends that they have no link to."""
    links = sorted(links_of(nearest))
    cut = [links.pop(choose([1] * len(links)))[0] for _ in range(number)]
    for row in cut:
        links.append((row, pick([end for end in range(nearest.shape[1]) if (row, end) not in links], choose)))
    return frozenset(links)


def grown_scale_free(shape: tuple[int, int], links: int, choose: Choose) -> frozenset[tuple[int, int]]:
    """Grow a Barabási–Albert network node by node, move ends of same-side links across, replace repeated links."""
    outputs, inputs = ([(side, node) for node in range(size)] for side, size in zip("oi", shape, strict=True))
    founders = [pick(outputs, choose), pick(inputs, choose)]
    joining = [node for node in outputs + inputs if node not in founders]
    joining = [joining.pop(choose([1] * len(joining))) for _ in range(len(joining))]
    brings = Counter(joining[link * len(joining) // (links - 1)] for link in range(links - 1))

    grown = [tuple(founders)]
    degree = Counter(founders)
    for node in joining:
        there = list(degree.items())
        for _ in range(brings[node]):
            older = there[choose([count for _, count in there])][0]
            grown.append((node, older))
            degree.update([node, older])

    found = set()
    met = set()
    for newer, older in grown:
        stays, moves = newer, older
        if newer in met and pick([True, False], choose):
            stays, moves = older, newer
        met.add(newer)
        if newer[0] == older[0]:
            across = inputs if stays in outputs else outputs
            moves = across[choose([degree[node] for node in across])]
        pair = dict([stays, moves])
        found.add((pair["o"], pair["i"]))
    absent = sorted(set(product(range(shape[0]), range(shape[1]))) - found)
    weights = [degree["o", output] * degree["i", source] for output, source in absent]
    while len(found) < links:
        option = choose(weights if any(weights) else [1] * len(absent))
        found.add(absent.pop(option))
        weights.pop(option)
    return frozenset(found)


def assert_drawn_as(draw: Callable[[], Tensor], expected: Counter[Any], draws: int) -> None:
    """Assert that masks come with the probabilities expected; those that come too seldom are counted together."""
    counts = Counter(frozenset(links_of(draw())) for _ in range(draws))
    assert counts.keys() <= expected.keys()
    common = [outcome for outcome, probability in expected.items() if probability * draws >= 10]
    rare = [outcome for outcome in expected if outcome not in common]
    groups = [[outcome] for outcome in common] + [rare] * (sum(expected[outcome] for outcome in rare) * draws >= 5)
    assert_fits(
        [sum(counts[outcome] for outcome in group) for group in groups],
        [sum(expected[outcome] for outcome in group) for group in groups],
    )


def tail_exponent(degrees: Tensor) -> float:
    """γ of degrees ∝ k^-γ by Hill's estimator, from the tenth of the nodes of highest degree."""
    ordered = degrees.double().sort(descending=True).values
    top = ordered.numel() // 10
    return 1 + 1 / float((ordered[:top] / ordered[top]).log().mean().clamp(min=1e-9))


# --- races and fills: the plain code for any device, and the compiled code ---

RACES = {"plain": row_links.race, "compiled": row_draws.race}
FILLS = {"plain": row_links.fill, "compiled": row_draws.fill}

# Of one generator's 64 bits per row; and of the rows, their numbers on the ring from the centre on.
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def split_mix(seed: int, counter: int) -> float:
    """Number `counter` of a SplitMix64 stream, in (0, 1), from its upper 52 bits."""
    z = (seed + counter * GOLDEN) % 2**64
    z = (z ^ (z >> 30)) * FIRST % 2**64
    z = (z ^ (z >> 27)) * SECOND % 2**64
    return (((z ^ (z >> 31)) >> 12) + 0.5) / 2**52


def first_to_arrive(seed: int, centre: float, degree: int, columns: int, exponent: float) -> set[int]:
    """The `degree` columns of lowest ln E + exponent · ln(1 + distance): no window, all columns sorted."""
    start = int(np.ceil(centre))
    times = []
    for step in range(columns):
        column = (start + step) % columns
        arrival = np.log(-np.log1p(-split_mix(seed, step)))
        times.append((arrival + exponent * np.log1p(ring_distance(column, centre, columns)), column))
    return {column for _, column in sorted(times)[:degree]}


def seeds_of(generator: torch.Generator, rows: int) -> list[int]:
    return torch.randint(2**63 - 1, (rows,), generator=generator).tolist()  # type: ignore[no-any-return]


def race(
    run: Callable[..., None], degrees: list[int], centres: list[float], columns: int, exponent: float, seed: int = 0
) -> Tensor:
    mask = torch.ones(len(degrees), columns, dtype=torch.bool)  # what a mask held before must not matter
    generator = torch.Generator().manual_seed(seed)
    run(mask, torch.tensor(degrees), torch.tensor(centres, dtype=torch.float64), exponent, generator)
    return mask


@given(
    data=st.data(),
    shape=st.tuples(SIDES, st.integers(1, 200)),
    exponent=st.sampled_from([0, 0.1, 1, 3, 30, 1e9]),
    seed=st.integers(0, 99),
)
def test_the_compiled_race_is_won_by_the_first_to_arrive(
    data: st.DataObject, shape: tuple[int, int], exponent: float, seed: int
) -> None:
    degrees = data.draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
    # Off the half columns, where two columns are equally far and rounding might decide.
    centres = [diagonal(row, shape) + 0.123 for row in range(shape[0])]
    mask = race(row_draws.race, degrees, centres, shape[1], exponent, seed)
    seeds = seeds_of(torch.Generator().manual_seed(seed), shape[0])
    for row, columns in enumerate(mask):
        expected = first_to_arrive(seeds[row], centres[row], degrees[row], shape[1], exponent)
        assert set(columns.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("exponent", [0, 3])
@pytest.mark.parametrize("degree", [102, 1638])
def test_the_compiled_race_of_long_rows(degree: int, exponent: float) -> None:
    centres = [-0.5, 0.0, 17.3, 5460.4]
    mask = race(row_draws.race, [degree] * 4, centres, 5461, exponent)
    for row, seed in enumerate(seeds_of(torch.Generator().manual_seed(0), 4)):
        expected = first_to_arrive(seed, centres[row], degree, 5461, exponent)
        assert set(mask[row].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("shift", [-8, -2, -0.3, 0, 0.3, 2, 8])
@pytest.mark.parametrize("width", [0.01, 0.2, 1])
def test_windows_decide_on_the_cost_alone(shift: float, width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows that are too early, too late or too narrow: as many rows as it takes for each way to miss.
    def windows(degrees: Any, columns: int, exponent: float) -> tuple[Any, Any, Any]:
        window, times, _ = true_windows(degrees, columns, exponent)
        times = times.mean(1, keepdims=True) + shift + width * np.array([[-1, 1]])
        half = np.arange((columns + 1) // 2)
        logs = exponent * np.log1p(np.stack([half + 1, half]))
        bounds = -np.expm1(-np.exp(times[..., None] - logs)) * 2.0**52
        ring = np.concatenate([bounds, bounds[..., : columns // 2][..., ::-1]], -1)
        return window, times, ring.astype(np.int64)

    true_windows = _networks.windows
    centres = [row / 4 for row in range(200)]
    arguments = (row_draws.race, [12] * 200, centres, 50, 1.5)
    expected = race(*arguments)
    monkeypatch.setattr(_networks, "windows", windows)
    assert torch.equal(race(*arguments), expected)


@pytest.mark.parametrize("degree", [5, 102, 614, 1800])
@pytest.mark.parametrize("exponent", [0, 0.1, 3, 30])
def test_windows_hold_the_last_arrival_and_little_else(degree: int, exponent: float) -> None:
    _, times, bounds = _networks.windows(np.full(3, degree), 2048, exponent)
    mean = bounds.sum(-1, dtype=float)[0] / 2**52  # numbers certain to have arrived, and not certain not to
    assert times[0, 0] < times[0, 1]
    assert mean[0] < degree < mean[1]
    assert mean[1] - mean[0] < 6 * degree**0.5 + 4  # six standard deviations, and a column on either side of the ring


@pytest.mark.twin("compiled.row_draws.race", "row_links.race", "χ²")
@pytest.mark.parametrize("run", RACES.values(), ids=RACES)
@pytest.mark.parametrize("exponent", [0, 0.5, 3])
def test_races_are_draws_one_by_one_without_replacement(run: Callable[..., None], exponent: float) -> None:
    # Every pair and every three of six columns, from rows that look at the same place.
    rows, centre = 4000, 1.8
    odds = [(1 + distance) ** -exponent for distance in ring_distances(centre, 6)]

    def one_by_one(degree: int, choose: Choose) -> frozenset[int]:
        left = list(range(6))
        return frozenset(left.pop(choose([odds[column] for column in left])) for _ in range(degree))

    for degree in (2, 3):
        mask = race(run, [degree] * rows, [centre] * rows, 6, exponent)
        drawn = iter(mask.unsqueeze(1))
        expected = Counter({frozenset((0, column) for column in columns): p for columns, p in
                            outcomes(partial(one_by_one, degree)).items()})  # fmt: skip
        assert_drawn_as(lambda: next(drawn), expected, rows)  # noqa: B023


@pytest.mark.parametrize("run", RACES.values(), ids=RACES)
def test_the_rows_of_a_race_are_independent(run: Callable[..., None]) -> None:
    mask = race(run, [1] * 6000, [0.0] * 6000, 3, 0)
    first, second = mask.int().argmax(1).view(3000, 2).T.tolist()
    counts = Counter(zip(first, second, strict=True))
    assert_fits([counts[pair] for pair in product(range(3), repeat=2)], [1 / 9] * 9)


@pytest.mark.twin("compiled.row_draws.fill", "row_links.fill", "χ²")
@pytest.mark.parametrize("run", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize(("linked", "degree"), [([], 2), ([1], 3), ([0, 4], 4), ([3], 4)])
def test_fills_draw_any_of_the_free_columns_alike(run: Callable[..., None], linked: list[int], degree: int) -> None:
    mask = torch.zeros(3000, 5, dtype=torch.bool)
    mask[:, linked] = True
    run(mask, torch.full((3000,), degree), torch.Generator().manual_seed(0))
    counts = Counter(tuple(row.nonzero().flatten().tolist()) for row in mask)
    possible = [columns for columns in combinations(range(5), degree) if set(linked) <= set(columns)]
    assert_fits([counts[columns] for columns in possible], [1 / len(possible)] * len(possible))
    assert counts.keys() <= set(possible)


@given(
    data=st.data(),
    shape=st.tuples(SIDES, SIDES),
    exponent=st.floats(0, 10),
    kind=st.sampled_from(["plain", "compiled"]),
    block=st.sampled_from([1, 50, 2**21]),
)
def test_races_and_fills_conserve_degrees(
    data: st.DataObject, shape: tuple[int, int], exponent: float, kind: str, block: int
) -> None:
    degrees = data.draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_links, "_BLOCK", block)
        mask = race(RACES[kind], degrees, [diagonal(row, shape) for row in range(shape[0])], shape[1], exponent)
        assert mask.sum(1).tolist() == degrees
        before = mask & (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5)
        after = before.clone()
        FILLS[kind](after, torch.tensor(degrees), torch.Generator().manual_seed(1))
    assert after.sum(1).tolist() == degrees
    assert after[before].all()


# --- small world ---


def small_world(shape: tuple[int, int], links: int, beta: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return chts.topology.small_world(*shape, links / (shape[0] * shape[1]), beta, generator=generator)


@pytest.mark.parametrize("beta", [0, 0.25, 1])
@pytest.mark.parametrize("density", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (4, 9), (9, 4)])
def test_small_world_has_the_exact_number_of_links(shape: tuple[int, int], density: float, beta: float) -> None:
    mask = chts.topology.small_world(*shape, density, beta, generator=torch.Generator().manual_seed(0))
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    assert mask.is_contiguous()
    assert int(mask.sum()) == chts.topology.link_count(*shape, density)


# A number of links half-way between two integers, where the order of multiplication decides.
@example(shape=(3, 5), density=0.36666666666666664, beta=0.5, seed=0)
@example(shape=(5, 3), density=0.36666666666666664, beta=0.5, seed=0)
@given(shape=st.tuples(SIDES, SIDES), density=st.floats(0, 1), beta=st.floats(0, 1), seed=st.integers(0, 99))
def test_small_world_conserves_the_degrees_of_the_larger_side(
    shape: tuple[int, int], density: float, beta: float, seed: int
) -> None:
    links = chts.topology.link_count(*shape, density)
    mask = chts.topology.small_world(*shape, density, beta, generator=torch.Generator().manual_seed(seed))
    nearest = chts.topology.small_world(*shape, density, 0, generator=torch.Generator().manual_seed(seed))
    assert int(mask.sum()) == links
    larger = 1 if shape[0] >= shape[1] else 0
    assert torch.equal(mask.sum(larger), nearest.sum(larger))
    assert int(mask.sum(larger).max() - mask.sum(larger).min()) <= 1
    # Links that are not rewired stay where they were.
    assert int((mask & nearest).sum()) >= links - round(beta * links)


def test_small_world_of_nearest_by_hand() -> None:
    assert small_world((4, 2), 4, 0).int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert small_world((2, 4), 4, 0).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    # A square closes the ring: output 0 reaches round the edge for its third nearest.
    assert small_world((4, 4), 12, 0).int().tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1))
def test_small_world_without_rewiring_is_the_receptive_field_without_randomness(
    shape: tuple[int, int], share: float
) -> None:
    links = round(share * shape[0] * shape[1])
    if shape[0] >= shape[1]:
        assert torch.equal(small_world(shape, links, 0), receptive_field(shape, links, 0))
    else:
        assert torch.equal(small_world(shape, links, 0), receptive_field((shape[1], shape[0]), links, 0).T)


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), beta=st.floats(0, 1), seed=st.integers(0, 99))
def test_small_world_reaches_every_node(shape: tuple[int, int], share: float, beta: float, seed: int) -> None:
    size = shape[0] * shape[1]
    links = round(max(shape) + share * (size - max(shape)))
    assert small_world(shape, links, beta, seed).any(1 if shape[0] >= shape[1] else 0).all()
    nearest = small_world(shape, links, 0, seed)
    assert nearest.any(0).all()
    assert nearest.any(1).all()


def test_small_world_moves_the_share_asked_for() -> None:
    shape, links = (400, 300), 2400
    nearest = small_world(shape, links, 0)
    for beta in (0.1, 0.25, 0.6, 1):
        number = round(beta * links)
        # Of the ends drawn anew a share falls on an old place: 6 links per row among the places that are free.
        back = 6 * beta / (300 - 6 + 6 * beta)
        moved = links - int((small_world(shape, links, beta) & nearest).sum())
        assert moved == pytest.approx(number * (1 - back), abs=4 * (number * back) ** 0.5 + 2)


@pytest.mark.parametrize(("shape", "links", "beta"), [((3, 3), 6, 0.3), ((4, 3), 5, 0.4), ((3, 2), 4, 0.5)])
def test_small_world_is_drawn_as_defined(shape: tuple[int, int], links: int, beta: float) -> None:
    nearest = small_world(shape, links, 0)
    expected = outcomes(partial(rewired_small_world, nearest, round(beta * links)))
    generator = torch.Generator().manual_seed(0)
    density = links / (shape[0] * shape[1])
    assert_drawn_as(lambda: chts.topology.small_world(*shape, density, beta, generator=generator), expected, 1200)


def test_small_world_of_a_wide_layer_is_that_of_the_tall_one_turned() -> None:
    assert torch.equal(small_world((7, 20), 50, 0.4), small_world((20, 7), 50, 0.4).T)


@pytest.mark.parametrize("shape", [(3, 6000), (6000, 3)])
def test_small_world_all_rewired_draws_any_ends_alike(shape: tuple[int, int]) -> None:
    mask = small_world(shape, 12_000, 1)
    rows = mask if shape[0] >= shape[1] else mask.T
    counts = Counter(tuple(row.nonzero().flatten().tolist()) for row in rows)
    assert_fits([counts[pair] for pair in combinations(range(3), 2)], [1 / 3] * 3)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_small_world_refuses_a_share_that_is_none(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta is .*; expected a share of rewired links in \[0, 1\]"):
        small_world((3, 3), 4, beta)


# --- scale-free ---


def scale_free(shape: tuple[int, int], links: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return chts.topology.scale_free(*shape, links / (shape[0] * shape[1]), generator=generator)


@example(shape=(1, 1), share=1.0, seed=0)
@example(shape=(24, 24), share=1.0, seed=0)
@example(shape=(24, 1), share=0.0, seed=0)
@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_scale_free_has_the_exact_number_of_links(shape: tuple[int, int], share: float, seed: int) -> None:
    links = round(share * shape[0] * shape[1])
    mask = scale_free(shape, links, seed)
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == links


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_scale_free_links_every_node(shape: tuple[int, int], share: float, seed: int) -> None:
    fewest = sum(shape) - 1
    mask = scale_free(shape, round(fewest + share * (shape[0] * shape[1] - fewest)), seed)
    assert mask.any(0).all()
    assert mask.any(1).all()


@pytest.mark.parametrize(("shape", "links"), [((2, 3), 1), ((2, 2), 2), ((2, 2), 3), ((1, 4), 3), ((2, 3), 3)])
def test_scale_free_grows_by_degree(shape: tuple[int, int], links: int) -> None:
    expected = outcomes(partial(grown_scale_free, shape, links))
    generator = torch.Generator().manual_seed(0)
    density = links / (shape[0] * shape[1])
    assert_drawn_as(lambda: chts.topology.scale_free(*shape, density, generator=generator), expected, 1200)


@pytest.mark.parametrize(("shape", "links"), [((8, 32), 96), ((32, 8), 96)])
def test_scale_free_has_the_degrees_of_the_model(shape: tuple[int, int], links: int) -> None:
    # Too many outcomes to try them all. The spread of degrees, and how many nodes have next to none, on both sides.
    chance = random.Random(0)
    generator = torch.Generator().manual_seed(0)

    def choose(weights: Sequence[float]) -> int:
        return chance.choices(range(len(weights)), weights)[0]

    def literal() -> Tensor:
        return mask_of(set(grown_scale_free(shape, links, choose)), shape)

    def fast() -> Tensor:
        return chts.topology.scale_free(*shape, links / (shape[0] * shape[1]), generator=generator)

    def measured(mask: Tensor) -> list[int]:
        sides = [mask.sum(1), mask.sum(0)]
        return [int((degrees**2).sum()) for degrees in sides] + [int((degrees <= 1).sum()) for degrees in sides]

    samples = [np.array([measured(draw()) for _ in range(200)]) for draw in (literal, fast)]
    varies = samples[0].std(0) > 0
    assert stats.ttest_ind(*(sample[:, varies] for sample in samples), equal_var=False).pvalue.min() > 1e-3


def test_newcomers_attach_to_those_before_them_by_degree() -> None:
    # Two outputs and an input, all of whose seven links are kept: the last node brings six of them to the founders.
    grown = chts.topology._barabasi_albert
    counts: Counter[int] = Counter()
    for seed in range(300):
        newer, older = grown(2, 1, 7, torch.Generator().manual_seed(seed))
        assert older[0] == 2
        assert newer.tolist() == [newer[0]] + [1 - newer[0]] * 6
        counts.update((older[1:] == 2).tolist())
    assert_fits([counts[0], counts[1]], [0.5, 0.5])


def test_growth_has_the_power_law_of_barabasi_and_albert() -> None:
    newer, older = chts.topology._barabasi_albert(20_000, 60_000, 400_000, torch.Generator().manual_seed(0))
    degrees = torch.bincount(torch.cat([newer, older]))
    # With m links per newcomer a share m (m + 1) / (k (k + 1)) has at least k links, which is γ = 3.
    for side in (degrees[:20_000], degrees[20_000:]):
        for k in (6, 10, 20, 50):
            expected = 5 * 6 / (k * (k + 1))
            error = (expected / side.numel()) ** 0.5
            assert float((side >= k).double().mean()) == pytest.approx(expected, abs=4 * error + 1e-3)


@pytest.mark.parametrize("shape", [(1200, 1200), (600, 1800), (1800, 600)])
def test_scale_free_degrees_have_heavy_tails_on_both_sides(shape: tuple[int, int]) -> None:
    mask = scale_free(shape, shape[0] * shape[1] // 50)
    random_mask = chts.topology.erdos_renyi(*shape, 0.02, generator=torch.Generator().manual_seed(0))
    for side in (0, 1):
        assert 2.4 < tail_exponent(mask.sum(side)) < 3.6
        assert tail_exponent(random_mask.sum(side)) > 5
        assert int(mask.sum(side).max()) > 4 * int(random_mask.sum(side).max())


def test_scale_free_hubs_are_any_nodes() -> None:
    hubs = [int(scale_free((5, 5), 10, seed).sum(1).argmax()) for seed in range(60)]
    assert set(hubs) == set(range(5))


def equally_partitioned(degrees: Sequence[int], inputs: int, choose: Choose) -> frozenset[tuple[int, int]]:
    """Output by output draws its inputs one by one among those that had the fewest links before its turn."""
    count = Counter(dict.fromkeys(range(inputs), 0))
    links: set[tuple[int, int]] = set()
    for output, degree in enumerate(degrees):
        mine: list[int] = []
        for _ in range(degree):
            free = [source for source in range(inputs) if source not in mine]
            fewest = min(count[source] for source in free)
            mine.append(pick([source for source in free if count[source] == fewest], choose))
        count.update(mine)
        links |= {(output, source) for source in mine}
    return frozenset(links)


@given(shape=st.tuples(SIDES, SIDES), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_an_equal_partition_keeps_the_outputs_degrees_and_levels_those_of_the_inputs(
    shape: tuple[int, int], share: float, seed: int
) -> None:
    mask = scale_free(shape, round(share * shape[0] * shape[1]), seed)
    before = mask.clone()
    found = chts.topology.equal_partition(mask, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(mask, before)
    assert torch.equal(found.sum(1), mask.sum(1))
    assert int(found.sum(0).max() - found.sum(0).min()) <= 1


@pytest.mark.parametrize("degrees", [(3, 1), (1, 3), (2, 1, 2), (3, 0, 2)])
def test_an_equal_partition_draws_from_the_inputs_of_fewest_links(degrees: tuple[int, ...]) -> None:
    inputs = 4 if sum(degrees) == 4 else 3
    mask = torch.tensor([[source < degree for source in range(inputs)] for degree in degrees])
    generator = torch.Generator().manual_seed(0)
    expected = outcomes(partial(equally_partitioned, degrees, inputs))
    assert_drawn_as(lambda: chts.topology.equal_partition(mask, generator=generator), expected, 1200)


# Outputs of 1, 3 and 2 links; and two outputs, whose inputs have 1, 0 and 2 links.
BEFORE = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 1, 1]]).bool()
AFTER = torch.tensor([[1, 0, 1], [0, 0, 1]]).bool()


def test_hubs_meet_hubs_by_hand() -> None:
    # Neuron 1 has the most links and takes input 2, neuron 2 takes input 0, neuron 0 the input without a link.
    found = chts.topology.resort(BEFORE, AFTER, generator=torch.Generator())
    assert found.int().tolist() == [[0, 1, 1], [0, 1, 0]]


def test_a_soft_order_is_drawn_by_the_links() -> None:
    # The input of two links is drawn first with 2/3: then it goes to neuron 1, the other one to neuron 2.
    expected = Counter({frozenset({(0, 1), (1, 1), (0, 2)}): 2 / 3, frozenset({(0, 2), (1, 2), (0, 1)}): 1 / 3})
    draw = partial(chts.topology.resort, BEFORE, AFTER, soft=True, generator=torch.Generator().manual_seed(0))
    assert_drawn_as(draw, expected, 1200)


def test_inputs_of_as_many_links_are_ordered_at_random() -> None:
    after = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    generator = torch.Generator().manual_seed(0)
    either = Counter({frozenset({(0, 1), (1, 2)}): 0.5, frozenset({(0, 2), (1, 1)}): 0.5})
    for soft in (False, True):
        assert_drawn_as(partial(chts.topology.resort, BEFORE, after, soft, generator=generator), either, 1200)


@pytest.mark.parametrize("soft", [False, True])
@given(shape=st.tuples(SIDES, SIDES), neurons=SIDES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_resorted_layer_is_the_same_but_for_the_order_of_its_inputs(
    soft: bool, shape: tuple[int, int], neurons: int, share: float, seed: int
) -> None:
    outputs, inputs = shape
    before = scale_free((neurons, inputs), round(share * neurons * inputs), seed)
    after = scale_free((outputs, neurons), round(share * outputs * neurons), seed + 1)
    found = chts.topology.resort(before, after, soft, generator=torch.Generator().manual_seed(seed))
    assert sorted(found.T.tolist()) == sorted(after.T.tolist())
    if not soft:
        links = [(int(mine), int(theirs)) for mine, theirs in zip(before.sum(1), found.sum(0), strict=True)]
        assert all(theirs <= other for mine, theirs in links for more, other in links if mine < more)


def test_layers_that_do_not_feed_each_other_are_not_resorted() -> None:
    with pytest.raises(ValueError, match="before has 2 outputs but after has 3 inputs; expected two layers where"):
        chts.topology.resort(AFTER, AFTER, generator=torch.Generator())


# --- correlation ---


def test_correlation_by_hand() -> None:
    samples = torch.tensor([[1.0, 2.0, 1.0, 7.0], [2.0, 4.0, 0.0, 7.0], [3.0, 6.0, 1.0, 7.0], [4.0, 8.0, 0.0, 7.0]])
    correlation = chts.topology.Correlation()
    correlation.update(samples)
    r = 5**-0.5  # of 1 2 3 4 with 1 0 1 0, less the sign
    expected = torch.tensor([[0, 1, r, 0], [1, 0, r, 0], [r, r, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(correlation.matrix(), expected, rtol=0, atol=1e-15)


def correlation_of(samples: Tensor, sizes: Sequence[int]) -> Tensor:
    correlation = chts.topology.Correlation()
    for batch in samples.split(list(sizes)):
        correlation.update(batch)
    assert correlation.count == len(samples)
    return correlation.matrix()


def oracle(samples: Tensor) -> Tensor:
    r = np.abs(np.corrcoef(samples.double().numpy(), rowvar=False))
    np.fill_diagonal(r, 0)
    return torch.from_numpy(r)


SAMPLES = torch.randn(200, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SAMPLES = SAMPLES @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_correlation_of_any_dtype_is_numpys(dtype: torch.dtype) -> None:
    samples = (SAMPLES * 10).abs().to(dtype)
    assert (correlation_of(samples, [64, 64, 64, 8]) - oracle(samples)).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [1, 199], [199, 1], [0, 100, 0, 100], [3, 7, 90, 100]])
def test_correlation_depends_neither_on_batches_nor_on_order(sizes: list[int]) -> None:
    samples = SAMPLES + torch.arange(12) * 100
    order = torch.randperm(200, generator=torch.Generator().manual_seed(len(sizes)))
    assert (correlation_of(samples[order], sizes) - oracle(samples)).abs().max() < 1e-10


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [50] * 4])
def test_correlation_keeps_its_digits_beside_a_large_mean(sizes: list[int]) -> None:
    # Integers, so that adding the mean loses nothing. Σx² - (Σx)²/n would lose 12 of the 16 digits.
    samples = (SAMPLES * 100).round()
    assert (correlation_of(samples + 1e8, sizes) - oracle(samples)).abs().max() < 1e-12
    assert (correlation_of(SAMPLES + 1e6, sizes) - oracle(SAMPLES)).abs().max() < 1e-8


def test_correlation_of_drifting_batches() -> None:
    samples = SAMPLES + torch.arange(200)[:, None] * torch.linspace(-1, 1, 12)
    assert (correlation_of(samples, [20] * 10) - oracle(samples)).abs().max() < 1e-12


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 / 3, -1e-300])
@pytest.mark.parametrize("sizes", [[200], [7, 193], [1] * 200])
def test_constant_features_have_no_correlation(value: float, sizes: list[int]) -> None:
    # The mean of many 0.1 is not quite 0.1: taken at face value, two constants could correlate at 1.
    samples = SAMPLES.clone()
    samples[:, 3] = samples[:, 8] = value
    r = correlation_of(samples, sizes)
    rest = [column for column in range(12) if column not in (3, 8)]
    assert not r[[3, 8]].any()
    assert not r[:, [3, 8]].any()
    assert (r[rest][:, rest] - oracle(samples[:, rest])).abs().max() < 1e-12


def test_correlation_is_symmetric_within_bounds_and_has_an_empty_diagonal() -> None:
    samples = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
    r = correlation_of(torch.cat([samples, -3 * samples, samples], 1), [100] * 5)
    assert r.dtype == torch.float64
    assert torch.equal(r, r.T)
    assert not r.diagonal().any()
    assert r.min() >= 0
    assert r.max() <= 1
    assert r.diagonal(40).min() == pytest.approx(1)


def test_one_sample_has_no_correlation() -> None:
    assert not correlation_of(SAMPLES[:1], [1]).any()


def test_correlation_leaves_batches_alone_and_keeps_none() -> None:
    buffer = SAMPLES[:100].clone()
    correlation = chts.topology.Correlation()
    correlation.update(buffer)
    assert torch.equal(buffer, SAMPLES[:100])
    buffer.copy_(SAMPLES[100:])  # as a data loader may reuse its memory
    correlation.update(buffer)
    assert (correlation.matrix() - oracle(SAMPLES)).abs().max() < 1e-12


def test_correlation_may_be_read_in_between() -> None:
    correlation = chts.topology.Correlation()
    correlation.update(SAMPLES[:50])
    first = correlation.matrix()
    assert torch.equal(correlation.matrix(), first)
    correlation.update(SAMPLES[50:])
    assert (correlation.matrix() - oracle(SAMPLES)).abs().max() < 1e-12
    assert (first - oracle(SAMPLES[:50])).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, r"batch is a list; expected a tensor of real numbers"),
        (torch.ones(2, 3, dtype=torch.complex64), TypeError, r"batch is a torch\.complex64; expected a tensor of real"),
        (torch.ones(2, 3, 4), ValueError, r"shape \(2, 3, 4\); expected \(samples, features\)"),
        (torch.ones(3), ValueError, r"shape \(3,\); expected \(samples, features\)"),
        (torch.tensor([[1.0, float("nan"), 2.0]]), ValueError, r"infinite or NaN"),
        (torch.tensor([[1.0, float("inf"), 2.0]]), ValueError, r"infinite or NaN"),
        (torch.ones(2, 4), ValueError, r"batch has 4 features but earlier batches had 3"),
    ],
)
def test_batches_that_are_none_are_refused(batch: Any, error: type[Exception], message: str) -> None:
    correlation = chts.topology.Correlation()
    correlation.update(torch.eye(3))
    before = correlation.matrix()
    with pytest.raises(error, match=message):
        correlation.update(batch)
    assert torch.equal(correlation.matrix(), before)


def test_correlation_of_nothing_is_refused() -> None:
    correlation = chts.topology.Correlation()
    correlation.update(torch.empty(0, 5))
    with pytest.raises(ValueError, match=r"no batch was added; call update\(batch\)"):
        correlation.matrix()


# --- correlated ---

R = torch.tensor([[0.0, 0.9, 0.2], [0.9, 0.0, 0.5], [0.2, 0.5, 0.0]])


def correlated(shape: tuple[int, int], links: int, matrix: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return chts.topology.correlated(*shape, links / (shape[0] * shape[1]), matrix, generator=generator)


def test_correlated_by_hand() -> None:
    assert correlated((3, 3), 2, R).int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert correlated((3, 3), 4, R).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert correlated((3, 3), 6, R).int().tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_correlated_tiles_and_crops() -> None:
    # Twice as high, and from the first feature again in the fourth column; 0.9 four times, then 0.5 four times.
    assert correlated((6, 3), 4, R).nonzero().tolist() == [[0, 1], [1, 0], [3, 1], [4, 0]]
    assert correlated((3, 4), 3, R).nonzero().tolist() == [[0, 1], [1, 0], [1, 3]]
    assert correlated((2, 2), 2, R).nonzero().tolist() == [[0, 1], [1, 0]]
    assert correlated((6, 6), 16, R).tolist() == correlated((3, 3), 4, R).repeat(2, 2).tolist()


def test_correlated_chooses_between_ties_at_random() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(chts.topology.correlated(6, 3, 2 / 18, R, generator=generator).flatten().nonzero().flatten().tolist())
        for _ in range(1200)
    )
    assert_fits([counts[pair] for pair in combinations([1, 3, 10, 12], 2)], [1 / 6] * 6)


def test_correlated_takes_zeros_last_and_at_random() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(600):
        mask = correlated((3, 3), 7, R, seed)
        assert mask[R > 0].all()
        counts.update(mask.diagonal().nonzero().flatten().tolist())
    assert_fits([counts[node] for node in range(3)], [1 / 3] * 3)


@given(data=st.data(), shape=st.tuples(SIDES, SIDES), density=st.floats(0, 1), features=st.integers(1, 12))
def test_correlated_has_exactly_the_highest(
    data: st.DataObject, shape: tuple[int, int], density: float, features: int
) -> None:
    levels = torch.randint(0, 4, (features, features), generator=torch.Generator().manual_seed(features)) / 4
    matrix = levels.to(data.draw(st.sampled_from([torch.float32, torch.float64])))
    mask = chts.topology.correlated(*shape, density, matrix, generator=torch.Generator().manual_seed(0))
    assert mask.shape == shape
    assert int(mask.sum()) == chts.topology.link_count(*shape, density)
    values = [float(matrix[row % features, column % features]) for row, column in sorted(links_of(mask))]
    missing = [float(matrix[row % features, column % features]) for row, column in sorted(links_of(~mask))]
    assert min(values, default=1) >= max(missing, default=0)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (chts.topology.Correlation(), TypeError, r"is a Correlation; expected a tensor .*\.matrix\(\)"),
        (R[:2], ValueError, r"shape \(2, 3\); expected \(features, features\)"),
        (R[0], ValueError, r"shape \(3,\); expected \(features, features\)"),
        (torch.empty(0, 0), ValueError, r"shape \(0, 0\); expected \(features, features\)"),
        (-R, ValueError, r"negative, infinite or NaN value; expected \|r\|"),
        (R / 0, ValueError, r"negative, infinite or NaN value; expected \|r\|"),
    ],
)
def test_correlated_refuses_what_is_no_matrix_of_correlations(
    matrix: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        correlated((3, 3), 3, matrix)


# --- randomness ---

BUILDERS = {
    "erdos_renyi": chts.topology.erdos_renyi,
    "receptive_field": chts.topology.receptive_field,
    "small_world": chts.topology.small_world,
    "scale_free": chts.topology.scale_free,
    "correlated": partial(chts.topology.correlated, correlation=R),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_masks_depend_on_the_generator_alone(build: Callable[..., Tensor]) -> None:
    masks = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        masks.append(build(20, 30, 0.2, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_masks_do_not_depend_on_the_number_of_threads(build: Callable[..., Tensor]) -> None:
    masks = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            masks.append(build(200, 300, 0.2, generator=torch.Generator().manual_seed(0)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_masks_go_to_the_device_asked_for(build: Callable[..., Tensor]) -> None:
    assert build(2, 4, 0.5, generator=torch.Generator(), device="meta").device.type == "meta"
    assert build(2, 4, 0.5, generator=torch.Generator()).device.type == "cpu"


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_generator_and_a_layer_are_required(build: Callable[..., Tensor]) -> None:
    with pytest.raises(TypeError, match=r"missing 1 required keyword-only argument: 'generator'"):
        build(2, 4, 0.5)
    with pytest.raises(TypeError, match=r"generator is a int; expected a torch\.Generator"):
        build(2, 4, 0.5, generator=0)
    with pytest.raises(ValueError, match=r"density is 5; expected a fraction in \[0, 1\]"):
        build(2, 4, 5, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"the layer has 0 outputs and 4 inputs"):
        build(0, 4, 0.5, generator=torch.Generator())


@pytest.mark.parametrize(("shape", "links"), [((2225, 4546), 9_978_556), ((4159, 2446), 10_017_397)])
def test_uniform_degrees_of_large_layers_add_up(shape: tuple[int, int], links: int) -> None:
    # Sums of this size are exact in float64 but not in float32, where these two were off by one.
    assert int(receptive_field(shape, links, 0, "uniform", seed=0).sum()) == links
