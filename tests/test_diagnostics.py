import math
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise, product

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chts_core as chts
from chts_core import diagnostics
from chts_core.diagnostics import LayerPercolation, PathLength

MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def as_mask(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block_diagonal(*shapes: tuple[int, int]) -> torch.Tensor:
    return torch.block_diag(*(torch.ones(shape) for shape in shapes)).bool()


def test_neurons_are_counted_as_published_by_hand() -> None:
    first = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()  # inputs 0 and 1 of 3 go on
    second = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]]).bool()  # neurons 0 and 1 of 4, though 1 has no link from before
    third = torch.tensor([[0, 1], [0, 0], [0, 1]]).bool()  # neuron 1 of 2; outputs 0 and 2 of 3
    assert diagnostics.active_neurons_published([first]) == (2 + 2) / (3 + 4)
    assert diagnostics.active_neurons_published([first, second, third]) == (2 + 2 + 1 + 2) / (3 + 4 + 2 + 3)
    # Linked on both sides once incomplete links are gone: none at all.
    masks = {"first": first, "second": second, "third": third}
    linked = chts.percolation.active_neurons(masks, chts.LayerGraph(chains=(tuple(masks),)))
    assert {name: int(active.sum()) for name, active in linked.items()} == {"first": 0, "second": 0, "third": 0}


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_neurons_counted_as_published_are_those_with_a_link(sizes: list[int], density: float, seed: int) -> None:
    generator = seeded(seed)
    masks = [torch.rand(out, inside, generator=generator) < density for inside, out in pairwise(sizes)]
    active = {
        (layer, source) for layer, mask in enumerate(masks) for source in range(mask.shape[1]) if any(mask[:, source])
    } | {(len(masks), output) for output in range(sizes[-1]) if any(masks[-1][output])}
    assert diagnostics.active_neurons_published(masks) == len(active) / sum(sizes)


def test_layers_that_do_not_follow_each_other_are_not_counted() -> None:
    with pytest.raises(ValueError, match="masks is empty"):
        diagnostics.active_neurons_published([])
    with pytest.raises(ValueError, match="a layer of 2 outputs comes before a layer of 4 inputs"):
        diagnostics.active_neurons_published([MASK, MASK])
    with pytest.raises(TypeError, match="mask"):
        diagnostics.active_neurons_published([MASK.float()])


# Outputs o and inputs i: o0-i0, o0-i1, o1-i1 is a path of three links; with o1-i0 it closes to a 4-cycle.
PATH = torch.tensor([[1, 1], [0, 1]], dtype=torch.bool)
CYCLE = torch.ones(2, 2, dtype=torch.bool)
STAR = torch.ones(1, 4, dtype=torch.bool)
K33 = torch.ones(3, 3, dtype=torch.bool)
LINK = torch.ones(1, 1, dtype=torch.bool)
TWO_LINKS = torch.eye(2, dtype=torch.bool)
EMPTY = torch.zeros(2, 3, dtype=torch.bool)
NO_LINK = torch.zeros(1, 1, dtype=torch.bool)
# A 4-cycle with one input hanging on: 4 closed paths around the cycle, and 2 that start at the hanging input.
CYCLE_AND_TAIL = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)


@st.composite
def masks(draw: st.DrawFn, most: int = 6) -> torch.Tensor:
    shape = draw(st.integers(1, most)), draw(st.integers(1, most))
    bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(bits).view(shape)


def as_graph(mask: torch.Tensor) -> nx.Graph:
    """The network of a mask in networkx, outputs ("o", i) and inputs ("i", j)."""
    graph = nx.Graph()
    graph.add_nodes_from(("o", output) for output in range(mask.shape[0]))
    graph.add_nodes_from(("i", source) for source in range(mask.shape[1]))
    graph.add_edges_from((("o", output), ("i", source)) for output, source in mask.nonzero().tolist())
    return graph


def test_degrees_by_hand() -> None:
    outputs, inputs = diagnostics.degrees(MASK)
    assert outputs.tolist() == [2, 1]
    assert inputs.tolist() == [1, 2, 0, 0]
    assert outputs.dtype == inputs.dtype == torch.int64


@pytest.mark.parametrize(
    ("removed", "regrown", "expected"),
    [
        ((1, 1, 0, 0), (1, 1, 0, 0), 1.0),
        ((1, 1, 0, 0), (0, 0, 1, 1), 0.0),
        ((1, 1, 1, 0), (0, 0, 1, 1), 0.5),
        # A share of the regrown links, not of the removed nor of the union.
        ((1, 0, 0, 0), (1, 1, 1, 1), 0.25),
        ((1, 1, 1, 1), (1, 0, 0, 0), 1.0),
        ((1, 1, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_overlap_by_hand(removed: tuple[int, ...], regrown: tuple[int, ...], expected: float) -> None:
    assert diagnostics.overlap(as_mask(*removed), as_mask(*regrown)) == expected


def test_itop_rate_by_hand() -> None:
    assert diagnostics.itop_rate(MASK) == 3 / 8


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (CYCLE, 1.0),
        (K33, 1.0),
        (torch.ones(2, 5, dtype=torch.bool), 1.0),
        (PATH, 0.0),
        (STAR, 0.0),
        (LINK, 0.0),
        (TWO_LINKS, 0.0),
        (EMPTY, 0.0),
        (NO_LINK, 0.0),
        (CYCLE_AND_TAIL, 4 / 6),
    ],
)
def test_clustering_by_hand(mask: torch.Tensor, expected: float) -> None:
    assert diagnostics.clustering(mask) == expected
    assert diagnostics.clustering(mask.T) == expected


def clustering_by_enumeration(mask: torch.Tensor) -> float:
    outputs, inputs = (range(size) for size in mask.shape)
    # A path of three links joins an output and an input: read from the output, it comes up once.
    paths = [
        (first, last)
        for first, between, then, last in product(outputs, inputs, outputs, inputs)
        if first != then and between != last and mask[first, between] and mask[then, between] and mask[then, last]
    ]
    cycles = [
        (pair, other)
        for pair in combinations(outputs, 2)
        for other in combinations(inputs, 2)
        if all(mask[output, source] for output in pair for source in other)
    ]
    return 4 * len(cycles) / max(len(paths), 1)


@given(masks())
def test_clustering_is_that_of_all_paths_and_cycles(mask: torch.Tensor) -> None:
    assert diagnostics.clustering(mask) == clustering_by_enumeration(mask)


@pytest.mark.parametrize("shape", [(30, 20), (15, 50)])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_clustering_is_robins_and_alexander_s(shape: tuple[int, int], density: float) -> None:
    mask = chts.topology.erdos_renyi(*shape, density, generator=seeded())
    expected = nx.bipartite.robins_alexander_clustering(as_graph(mask))
    assert diagnostics.clustering(mask) == pytest.approx(expected, rel=1e-12)


def test_clustering_counts_beyond_32_bits() -> None:
    # 2 × 10^10 cycles, on one pair of outputs, which share 2 × 10^5 inputs.
    assert diagnostics.clustering(torch.ones(2, 200_000, dtype=torch.bool)) == 1.0


def test_clustering_counts_beyond_64_bits() -> None:
    # Of the sums per neuron, which fit 64 bits.
    assert diagnostics._exact_sum(torch.tensor([2**62, 2**62, 2**62])) == 3 * 2**62


@pytest.mark.parametrize(
    ("mask", "mean", "reachable"),
    [
        (LINK, 1.0, 1.0),
        (CYCLE, (4 * 1 + 2 * 2) / 6, 1.0),
        (PATH, (3 * 1 + 2 * 2 + 1 * 3) / 6, 1.0),
        (STAR, (4 * 1 + 6 * 2) / 10, 1.0),
        (K33, (9 * 1 + 6 * 2) / 15, 1.0),
        # Two of the six pairs are joined; the others do not count as long, nor as short.
        (TWO_LINKS, 1.0, 2 / 6),
        # A path of two links and a link: 4 of 10 pairs are joined.
        (block_diagonal((2, 1), (1, 1)), (3 * 1 + 1 * 2) / 4, 4 / 10),
        (MASK, (3 * 1 + 2 * 2 + 1 * 3) / 6, 6 / 15),
    ],
)
def test_path_length_by_hand(mask: torch.Tensor, mean: float, reachable: float) -> None:
    for network in (mask, mask.T):
        measured = diagnostics.path_length(network)
        assert measured.mean == pytest.approx(mean, rel=1e-12)
        assert measured.reachable == pytest.approx(reachable, rel=1e-12)


@pytest.mark.parametrize("mask", [EMPTY, NO_LINK])
def test_no_path_without_links(mask: torch.Tensor) -> None:
    measured = diagnostics.path_length(mask)
    assert math.isnan(measured.mean)
    assert measured.reachable == 0


@given(masks())
def test_path_length_is_that_of_all_pairs(mask: torch.Tensor) -> None:
    lengths = [
        length
        for source, lengths in nx.all_pairs_shortest_path_length(as_graph(mask))
        for target, length in lengths.items()
        if source != target
    ]
    neurons = sum(mask.shape)
    measured = diagnostics.path_length(mask)
    assert measured.reachable == pytest.approx(len(lengths) / (neurons * (neurons - 1)), rel=1e-12)
    if lengths:
        assert measured.mean == pytest.approx(sum(lengths) / len(lengths), rel=1e-12)
    else:
        assert math.isnan(measured.mean)


def test_path_length_is_networkx_s() -> None:
    # More neurons than distances are held at a time.
    mask = chts.topology.receptive_field(200, 150, 0.05, generator=seeded())
    assert diagnostics.path_length(mask).mean == pytest.approx(
        nx.average_shortest_path_length(as_graph(mask)), rel=1e-12
    )


def test_path_length_from_all_neurons_is_exact() -> None:
    mask = chts.topology.erdos_renyi(30, 40, 0.04, generator=seeded())
    assert diagnostics.path_length(mask, sources=70, generator=seeded()) == diagnostics.path_length(mask)
    assert diagnostics.path_length(mask, sources=10**6, generator=seeded()) == diagnostics.path_length(mask)


def test_sampled_path_length_comes_near_and_is_decided_by_the_seed() -> None:
    mask = chts.topology.erdos_renyi(300, 200, 0.01, generator=seeded())
    exact = diagnostics.path_length(mask)
    assert 0.5 < exact.reachable < 1
    samples = [diagnostics.path_length(mask, sources=100, generator=seeded(seed)) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    for sample in samples:
        assert sample.mean == pytest.approx(exact.mean, rel=0.05)
        assert sample.reachable == pytest.approx(exact.reachable, rel=0.1)


def test_sampled_sources_are_of_both_sides() -> None:
    # From the hub of a star every neuron is 1 away, from a leaf nearly 2.
    star = torch.ones(1, 9, dtype=torch.bool)
    means = {diagnostics.path_length(star, sources=1, generator=seeded(seed)).mean for seed in range(100)}
    assert means == {1.0, 17 / 9}


def test_small_worldness_is_the_ratio_of_its_parts() -> None:
    mask = chts.topology.receptive_field(40, 30, 0.15, r=0.2, generator=seeded())
    measured = diagnostics.small_worldness(mask, nulls=3, generator=seeded(7))
    generator = seeded(7)
    nulls = [chts.topology.erdos_renyi(40, 30, 0.15, generator=generator) for _ in range(3)]
    assert {int(null.sum()) for null in nulls} == {int(mask.sum())}
    clustering = sum(diagnostics.clustering(null) for null in nulls) / 3
    length = sum(diagnostics.path_length(null).mean for null in nulls) / 3
    assert measured.clustering == diagnostics.clustering(mask)
    assert measured.path_length == diagnostics.path_length(mask).mean
    assert measured.null_clustering == pytest.approx(clustering, rel=1e-12)
    assert measured.null_path_length == pytest.approx(length, rel=1e-12)
    assert measured.sigma == pytest.approx(
        (measured.clustering / clustering) / (measured.path_length / length), rel=1e-12
    )


@pytest.mark.parametrize("shape", [(200, 100), (100, 200)])
def test_a_small_world_is_told_from_a_random_network(shape: tuple[int, int]) -> None:
    def sigma(r: float) -> float:
        mask = chts.topology.receptive_field(*shape, 0.05, r=r, generator=seeded())
        return diagnostics.small_worldness(mask, generator=seeded(1)).sigma

    inputs = shape[1]
    random = [chts.topology.erdos_renyi(*shape, 0.05, generator=seeded(seed)) for seed in range(5)]
    random_sigmas = [diagnostics.small_worldness(mask, generator=seeded(9)).sigma for mask in random]
    assert sum(random_sigmas) / len(random_sigmas) == pytest.approx(1, abs=0.1)
    # Between the lattice (r = 0), whose paths are long, and chance (r = 1) lies the small world.
    assert sigma(0) > 1.5
    assert sigma(0.25) > sigma(0)
    # With all output degrees alike, which they are not in the nulls, chance closes (degree - 1) of (inputs - 1) paths.
    assert sigma(1) == pytest.approx((0.05 * inputs - 1) / (inputs - 1) / 0.05, abs=0.1)


def test_a_dense_layer_is_its_own_null() -> None:
    measured = diagnostics.small_worldness(K33, generator=seeded())
    assert (measured.clustering, measured.null_clustering, measured.sigma) == (1, 1, 1)


def test_small_worldness_is_decided_by_the_seed() -> None:
    mask = chts.topology.receptive_field(60, 60, 0.1, generator=seeded())
    first, same, other = (diagnostics.small_worldness(mask, sources=20, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == same
    assert first.path_length != other.path_length
    assert first.null_clustering != other.null_clustering


@pytest.mark.parametrize("mask", [EMPTY, NO_LINK, LINK, TWO_LINKS])
def test_small_worldness_is_nan_where_no_null_has_a_cycle(mask: torch.Tensor) -> None:
    measured = diagnostics.small_worldness(mask, generator=seeded())
    assert math.isnan(measured.sigma)
    assert measured.null_clustering == 0
    assert math.isnan(measured.path_length) == math.isnan(measured.null_path_length) == (not mask.any())


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (LINK, 0.0),
        (STAR, 0.0),
        (K33, 0.0),
        (TWO_LINKS, 1 / 2),
        (block_diagonal((2, 3), (2, 3)), 1 / 2),
        (block_diagonal((2, 2), (2, 2), (2, 2), (2, 2)), 3 / 4),
        # Cut in the middle: 2 of 3 links stay, and degrees alone would give (1 · 2 + 2 · 1) / 9. Newman's is 1/6.
        (PATH, 2 / 3 - 4 / 9),
        # Neurons without links change nothing.
        (torch.nn.functional.pad(TWO_LINKS, (0, 3, 0, 2)), 1 / 2),
    ],
)
def test_modularity_by_hand(mask: torch.Tensor, expected: float) -> None:
    for network in (mask, mask.T):
        assert diagnostics.modularity(network, generator=seeded()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mask", [EMPTY, NO_LINK])
def test_modularity_without_links_is_nan(mask: torch.Tensor) -> None:
    assert math.isnan(diagnostics.modularity(mask, generator=seeded()))


def partitions(items: int, blocks: int = 0) -> Iterator[list[int]]:
    """All partitions of a number of items, as the block of each."""
    if items == 0:
        yield []
    else:
        for block in range(blocks + 1):
            for rest in partitions(items - 1, max(blocks, block + 1)):
                yield [block, *rest]


def barber(mask: torch.Tensor, blocks: list[int]) -> float:
    """Barber's modularity of a partition of the outputs and inputs, from its definition."""
    outputs, inputs, links = mask.sum(1).tolist(), mask.sum(0).tolist(), int(mask.sum())
    together = (
        float(mask[output, source]) - outputs[output] * inputs[source] / links
        for output, source in product(range(mask.shape[0]), range(mask.shape[1]))
        if blocks[output] == blocks[mask.shape[0] + source]
    )
    return sum(together) / links


def test_modularity_is_that_of_a_partition_and_near_the_best() -> None:
    found = best = 0.0
    for seed in range(10):
        mask = chts.topology.erdos_renyi(4, 3, 0.5, generator=seeded(seed))
        values = [barber(mask, blocks) for blocks in partitions(7)]
        value = diagnostics.modularity(mask, generator=seeded())
        assert min(abs(value - other) for other in values) < 1e-12
        found, best = found + value, best + max(values)
    assert found > 0.9 * best


def test_modularity_finds_planted_communities() -> None:
    planted = torch.block_diag(*[torch.ones(10, 15)] * 4).bool()
    noise = chts.topology.erdos_renyi(40, 60, 0.05, generator=seeded())
    mask = planted | noise
    blocks = [neuron // 10 for neuron in range(40)] + [neuron // 15 for neuron in range(60)]
    assert diagnostics.modularity(mask, generator=seeded()) == pytest.approx(barber(mask, blocks), abs=1e-12)


def test_modularity_is_decided_by_the_seed() -> None:
    mask = chts.topology.erdos_renyi(40, 40, 0.1, generator=seeded())
    values = [diagnostics.modularity(mask, generator=seeded(seed)) for seed in (0, 0, 1, 2, 3)]
    assert values[0] == values[1]
    assert len(set(values)) > 1


@pytest.mark.parametrize(
    ("mask", "outputs", "inputs", "largest"),
    [
        (CYCLE, 1, 1, 1),
        (STAR, 1, 1, 1),
        (LINK, 1, 1, 1),
        (TWO_LINKS, 1, 1, 1 / 2),
        (MASK, 1, 1 / 2, 4 / 6),
        (block_diagonal((2, 3), (1, 1), (2, 1)), 1, 1, 5 / 10),
        # Alone, a neuron is a component too.
        (EMPTY, 0, 0, 1 / 5),
        (NO_LINK, 0, 0, 1 / 2),
    ],
)
def test_layer_percolation_by_hand(mask: torch.Tensor, outputs: float, inputs: float, largest: float) -> None:
    assert diagnostics.layer_percolation(mask) == LayerPercolation(outputs, inputs, largest)
    assert diagnostics.layer_percolation(mask.T) == LayerPercolation(inputs, outputs, largest)


@given(masks())
def test_components_are_networkx_s(mask: torch.Tensor) -> None:
    largest = max(len(component) for component in nx.connected_components(as_graph(mask)))
    assert diagnostics.layer_percolation(mask).largest_component == largest / sum(mask.shape)


MEASURES: dict[str, Callable[[torch.Tensor], object]] = {
    "degrees": diagnostics.degrees,
    "clustering": diagnostics.clustering,
    "path_length": diagnostics.path_length,
    "small_worldness": lambda mask: diagnostics.small_worldness(mask, generator=seeded()),
    "modularity": lambda mask: diagnostics.modularity(mask, generator=seeded()),
    "layer_percolation": diagnostics.layer_percolation,
    "same_degrees": lambda mask: diagnostics.same_degrees(mask, generator=seeded()),
}


@pytest.mark.parametrize("name", MEASURES)
def test_only_masks_are_measured(name: str) -> None:
    with pytest.raises(TypeError, match=r"mask has dtype torch\.float32"):
        MEASURES[name](torch.ones(2, 2))
    with pytest.raises(ValueError, match="mask has shape"):
        MEASURES[name](torch.ones(2, dtype=torch.bool))


@pytest.mark.parametrize("name", ["path_length", "small_worldness", "modularity", "layer_percolation"])
def test_a_layer_has_two_sides(name: str) -> None:
    with pytest.raises(ValueError, match="0 outputs and 3 inputs"):
        MEASURES[name](torch.ones(0, 3, dtype=torch.bool))


@pytest.mark.parametrize("name", MEASURES)
def test_masks_are_not_changed(name: str) -> None:
    mask = chts.topology.erdos_renyi(9, 7, 0.4, generator=seeded())
    before = mask.clone()
    MEASURES[name](mask)
    assert torch.equal(mask, before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: diagnostics.path_length(K33, sources=2), TypeError, "generator is a NoneType"),
        (
            lambda: diagnostics.path_length(K33, sources=0, generator=seeded()),
            ValueError,
            "sources is 0; expected at l",
        ),
        (
            lambda: diagnostics.small_worldness(K33, nulls=0, generator=seeded()),
            ValueError,
            "nulls is 0; expected at l",
        ),
        (lambda: diagnostics.small_worldness(K33, generator=0), TypeError, "generator is a int"),  # type: ignore[arg-type]
        (lambda: diagnostics.modularity(K33, generator=0), TypeError, "generator is a int"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for measure in MEASURES.values():
        measure(CYCLE_AND_TAIL)
    assert torch.equal(torch.get_rng_state(), before)


def test_results_are_plain_numbers() -> None:
    assert diagnostics.path_length(K33) == PathLength(mean=1.4, reachable=1.0)
    assert type(diagnostics.path_length(K33).mean) is type(diagnostics.modularity(K33, generator=seeded())) is float
    assert type(diagnostics.layer_percolation(K33).largest_component) is type(diagnostics.clustering(K33)) is float


# --- the same degrees ---


def test_two_links_have_two_networks_with_the_same_degrees() -> None:
    diagonal = torch.eye(2, dtype=torch.bool)
    drawn = [diagnostics.same_degrees(diagonal, generator=torch.Generator().manual_seed(seed)) for seed in range(200)]
    kept = sum(torch.equal(network, diagonal) for network in drawn)
    assert kept + sum(torch.equal(network, diagonal.flip(0)) for network in drawn) == 200
    assert 70 <= kept <= 130  # fair: outside of that with a chance of less than 0.0001


def test_three_links_of_three_neurons_have_six_networks_equally_likely() -> None:
    start = torch.eye(3, dtype=torch.bool)
    drawn = [diagnostics.same_degrees(start, generator=torch.Generator().manual_seed(seed)) for seed in range(600)]
    counts = torch.tensor([network.int().argmax(1).tolist() for network in drawn]).unique(dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert float(((counts - 100) ** 2 / 100).sum()) < 20.5  # χ² with 5 degrees of freedom, chance 0.001


@pytest.mark.parametrize("shape", [(30, 20), (1, 9), (7, 40)])
def test_a_shuffled_network_has_the_degrees_and_is_another(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2
    before = mask.clone()
    shuffled = diagnostics.same_degrees(mask, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mask, before)
    for one, other in zip(diagnostics.degrees(shuffled), diagnostics.degrees(mask), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(shuffled, mask) == (shape[0] == 1)  # with one output there is no other
