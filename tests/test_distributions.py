import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import chts_core as chts


def test_uniform_gives_every_layer_the_same_sparsity() -> None:
    links = chts.distributions.uniform({"wide": (10, 40), "tall": (40, 10), "small": (2, 5)}, 0.9)
    assert links == {"wide": 40, "tall": 40, "small": 1}


@pytest.mark.parametrize(("sparsity", "links"), [(0.0, 800), (0.5, 400), (0.95, 40), (0.99, 8)])
def test_uniform_by_hand(sparsity: float, links: int) -> None:
    assert chts.distributions.uniform({"layer": (20, 40)}, sparsity) == {"layer": links}


@given(
    shapes=st.dictionaries(st.text(), st.tuples(st.integers(1, 3000), st.integers(1, 3000))),
    sparsity=st.floats(0, 1, exclude_max=True),
)
def test_uniform_is_within_half_a_link(shapes: dict[str, tuple[int, int]], sparsity: float) -> None:
    links = chts.distributions.uniform(shapes, sparsity)
    assert links.keys() == shapes.keys()
    for name, (outputs, inputs) in shapes.items():
        assert abs(links[name] - (1 - sparsity) * outputs * inputs) <= 0.5 + 1e-6


def test_uniform_counts_kernels_in() -> None:
    assert chts.distributions.uniform({"conv": (8, 4, 3, 3), "layer": (10, 10)}, 0.5) == {"conv": 144, "layer": 50}


# --- Erdős–Rényi ---

LAYERS = st.tuples(st.integers(1, 40), st.integers(1, 40))
KERNELS = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
NETWORKS = st.lists(st.one_of(LAYERS, KERNELS), max_size=8).map(
    lambda shapes: {f"layer {number}": shape for number, shape in enumerate(shapes)}
)
RULES = [chts.distributions.erdos_renyi, chts.distributions.erdos_renyi_kernel]
SPARSITIES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("shapes", "links", "expected"),
    [
        # ε · (sum of the two sides): the same for both of these, though one has 16 weights and the other 25.
        ({"wide": (2, 8), "square": (5, 5)}, 20, {"wide": 10, "square": 10}),
        ({"one": (10, 30), "two": (20, 40)}, 50, {"one": 20, "two": 30}),
        # ε = 53/25 would give the small layer 10.6 of 6 links: it is dense, and the other takes what is left.
        ({"small": (2, 3), "large": (10, 10)}, 53, {"small": 6, "large": 47}),
        # With "b" dense ε rises from 2.4 to 2.5, which fills "a" too: one step of rescaling is not enough.
        ({"a": (4, 6), "b": (1, 10), "c": (25, 25)}, 174, {"a": 24, "b": 10, "c": 140}),
        ({"one": (3, 4), "two": (1, 1)}, 13, {"one": 12, "two": 1}),
        ({}, 0, {}),
    ],
)
def test_erdos_renyi_by_hand(
    rule: chts.distributions.Distribution,
    shapes: dict[str, tuple[int, ...]],
    links: int,
    expected: dict[str, int],
) -> None:
    total = sum(math.prod(shape) for shape in shapes.values())
    assert rule(shapes, 1 - links / total if total else 0.5) == expected


def test_kernels_count_in_one_and_not_in_the_other() -> None:
    shapes = {"conv": (4, 2, 3, 3), "layer": (10, 20)}
    # 27 links: 27 · 12/42 = 7.7 and 27 · 30/42 = 19.3; without kernels 27 · 54/84 = 17.4 and 27 · 30/84 = 9.6.
    assert chts.distributions.erdos_renyi_kernel(shapes, 0.9) == {"conv": 8, "layer": 19}
    assert chts.distributions.erdos_renyi(shapes, 0.9) == {"conv": 17, "layer": 10}


def made_dense_one_by_one(shapes: dict[str, tuple[int, ...]], total: float) -> dict[str, float]:
    """RigL's procedure: while a density exceeds 1, make the layers of highest density dense and find ε again."""
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / size[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while len(dense) < len(shapes):
        left = total - sum(size[name] for name in dense)
        epsilon = left / sum(raw[name] * size[name] for name in shapes if name not in dense)
        highest = max(raw[name] for name in shapes if name not in dense)
        if epsilon * highest <= 1:
            return {name: size[name] * (1 if name in dense else epsilon * raw[name]) for name in shapes}
        dense |= {name for name in shapes if name not in dense and raw[name] == highest}
    return {name: float(count) for name, count in size.items()}


@given(shapes=NETWORKS, sparsity=SPARSITIES)
def test_erdos_renyi_kernel_is_rigls(shapes: dict[str, tuple[int, ...]], sparsity: float) -> None:
    total = sum(math.prod(shape) for shape in shapes.values())
    expected = made_dense_one_by_one(shapes, round((1 - sparsity) * total))
    # Whole numbers with the exact sum may be off by half a link, and by what other layers had to gain or lose.
    for name, links in chts.distributions.erdos_renyi_kernel(shapes, sparsity).items():
        assert abs(links - expected[name]) <= max(1, len(shapes) / 2)


@pytest.mark.parametrize("rule", RULES)
@given(shapes=NETWORKS, sparsity=SPARSITIES)
def test_links_add_up_exactly_and_fit_the_layers(
    rule: chts.distributions.Distribution, shapes: dict[str, tuple[int, ...]], sparsity: float
) -> None:
    links = rule(shapes, sparsity)
    total = round((1 - sparsity) * sum(math.prod(shape) for shape in shapes.values()))
    assert list(links) == list(shapes)
    assert sum(links.values()) == total
    for name, shape in shapes.items():
        assert min(1, total // len(shapes)) <= links[name] <= math.prod(shape)


@pytest.mark.parametrize("rule", chts.distributions.DISTRIBUTIONS.values(), ids=chts.distributions.DISTRIBUTIONS)
@given(shapes=NETWORKS, sparsities=st.tuples(SPARSITIES, SPARSITIES))
def test_no_layer_gains_links_as_the_sparsity_rises(
    rule: chts.distributions.Distribution, shapes: dict[str, tuple[int, ...]], sparsities: tuple[float, float]
) -> None:
    fewer, more = rule(shapes, max(sparsities)), rule(shapes, min(sparsities))
    assert all(fewer[name] <= more[name] for name in shapes)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "shapes",
    [
        # By largest remainders the second layer has 3 of 14 links but 2 of 15.
        {"a": (4, 9), "b": (3, 3), "c": (7, 9)},
        {"a": (2, 2), "b": (2, 5), "c": (6, 7)},
        {"a": (5, 5), "b": (5, 5), "c": (5, 5), "d": (1, 1), "e": (2, 2, 3, 3)},
    ],
)
def test_links_come_one_at_a_time(rule: chts.distributions.Distribution, shapes: dict[str, tuple[int, ...]]) -> None:
    total = sum(math.prod(shape) for shape in shapes.values())
    series = [rule(shapes, 1 - links / total) for links in range(1, total + 1)]
    for fewer, more in pairwise(series):
        assert sorted(more[name] - fewer[name] for name in shapes) == [0] * (len(shapes) - 1) + [1]
    # Links that all layers can have go to one each first, the largest sum before the others.
    assert set(series[len(shapes) - 1].values()) == {1}
    assert all(min(links.values()) >= 1 for links in series[len(shapes) - 1 :])


def test_the_last_links_stay_with_the_largest() -> None:
    shapes = {"small": (2, 2), "large": (9, 9), "middle": (4, 4)}
    assert chts.distributions.erdos_renyi(shapes, 1 - 2 / 101) == {"small": 0, "large": 1, "middle": 1}
    assert chts.distributions.erdos_renyi(shapes, 1 - 0.4 / 101) == {"small": 0, "large": 0, "middle": 0}


@given(shapes=st.dictionaries(st.text(), st.tuples(st.integers(1, 3000), st.integers(1, 3000))), sparsity=SPARSITIES)
def test_both_are_the_same_without_kernels(shapes: dict[str, tuple[int, int]], sparsity: float) -> None:
    assert chts.distributions.erdos_renyi(shapes, sparsity) == chts.distributions.erdos_renyi_kernel(shapes, sparsity)


def test_distributions_go_by_their_names() -> None:
    table = chts.distributions.DISTRIBUTIONS
    assert list(table) == ["uniform", "erdos_renyi", "erdos_renyi_kernel"]
    assert all(rule is getattr(chts.distributions, name) for name, rule in table.items())


@pytest.mark.parametrize("rule", chts.distributions.DISTRIBUTIONS.values(), ids=chts.distributions.DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(), (5,), (0, 5), (3, 4, 0)])
def test_shapes_that_are_no_layers_are_refused(rule: chts.distributions.Distribution, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'odd' has shape \(.*\); expected \(out_features, in_features\)"):
        rule({"fine": (2, 3), "odd": shape}, 0.5)


@pytest.mark.parametrize("rule", chts.distributions.DISTRIBUTIONS.values(), ids=chts.distributions.DISTRIBUTIONS)
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_sparsities_out_of_range_are_refused(rule: chts.distributions.Distribution, sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity is .*; expected a fraction in \[0, 1\)"):
        rule({"layer": (2, 3)}, sparsity)


# --- sparsities by layer, and distributions of one's own ---

SHAPES: dict[str, tuple[int, ...]] = {"a.q.weight": (4, 5), "a.in_proj_weight:k": (10, 4), "b.0.weight": (2, 2, 3)}


def test_the_first_pattern_that_fits_a_layer_its_weight_or_its_module_decides() -> None:
    by_layer = chts.distributions.sparsities_by_layer
    assert by_layer({"a.q": 0.5, "a*": 0.75}, SHAPES, 0.9) == dict(zip(SHAPES, (0.5, 0.75, 0.9), strict=True))
    assert by_layer({"a.in_proj_weight": 0.0, "*": 0.5}, SHAPES, 0.9) == dict(zip(SHAPES, (0.5, 0.0, 0.5), strict=True))
    assert by_layer({}, SHAPES, 0.9) == dict.fromkeys(SHAPES, 0.9)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"c.*": 0.5}, r"pattern 'c\.\*', but it fits no layer, .* The layers are a\.q\.weight, "),
        ({"*": 0.5, "a.q": 0.8}, r"pattern 'a\.q', .* or an earlier pattern already covers every layer that it fits"),
        ({"a.q": 1.0}, r"sparsity of 'a\.q' is 1\.0; expected a fraction"),
    ],
)
def test_patterns_that_decide_nothing_are_refused(patterns: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chts.distributions.sparsities_by_layer(patterns, SHAPES, 0.9)


@dataclass(frozen=True)
class Half:
    """Half of the links to the first layer, the rest to the others; or a wrong answer."""

    wrong: str = ""

    def __call__(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> Any:
        total = round((1 - sparsity) * sum(map(math.prod, shapes.values())))
        first, *others = shapes
        links: dict[str, Any] = {first: total // 2} | {name: (total - total // 2) // len(others) for name in others}
        match self.wrong:
            case "a list":
                return list(links.values())
            case "another layer":
                return links | {"c": 1}
            case "too many":
                return links | {first: 10**6}
            case "no whole number":
                return links | {first: 2.5}
            case "gains":
                return links | {first: round(sparsity * 100)}
        return links


class Run:
    def __init__(self, distribution: Any, method: str = "set", execution: Any = "masked", **settings: Any) -> None:
        self.model = tiny.mlp((16, 20, 10, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        settings = {"total_steps": 24, "update_every": 3, "distribution": distribution} | settings
        self.plan = chts.plan(tiny.mlp((16, 20, 10, 3)), method, 0.9, **settings)
        self.sparsifier = chts.Sparsifier(self.model, self.optimizer, method, 0.9, execution=execution, **settings)

    def links_after(self, steps: int) -> list[int]:
        for step in range(steps):
            self.optimizer.zero_grad()
            tiny.loss_of_mlp(self.model, step).backward()
            self.optimizer.step()
            self.sparsifier.step()
            assert chts.audit.audit(self.sparsifier) == []
        return [int(mask.sum()) for mask in self.sparsifier.masks.values()]


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_each_layer_follows_the_schedule_to_its_own_sparsity(execution: str) -> None:
    run = Run({"2.*": 0.75}, "granet", execution)
    # From half of 320 and 200 links to 10 % and 25 %. At step 9, halfway, an eighth of the way is left.
    assert run.links_after(0) == [160, 100]
    assert run.links_after(9) == [48, 56]
    assert run.links_after(15) == [32, 50] == list(run.plan.budget.links(24).values())
    assert run.sparsifier.sparsity == pytest.approx(1 - 82 / 520)
    assert "82 of 520, density 15.7692%" in str(run.plan)


def test_a_distribution_of_ones_own_gives_the_links() -> None:
    run = Run(Half(), "granet")
    assert run.links_after(24) == [26, 26]
    assert run.sparsifier.state_dict()["distribution"] == "Half(wrong='')"
    run.sparsifier.load_state_dict(run.sparsifier.state_dict())
    with pytest.raises(ValueError, match=r"has distribution .* but this Sparsifier has"):
        Run({"2.*": 0.75}, "granet").sparsifier.load_state_dict(run.sparsifier.state_dict())


@pytest.mark.parametrize(
    ("distribution", "method", "error", "message"),
    [
        (
            Half("a list"),
            "set",
            TypeError,
            r"returned \[26, 26\]; expected a mapping of layer names to numbers of links",
        ),
        (Half("another layer"), "set", ValueError, r"the layers 0.weight, 2.weight, c; expected exactly the layers"),
        (Half("too many"), "set", ValueError, r"1000000 links to layer '0.weight' of shape \(20, 16\); expected"),
        (Half("no whole number"), "set", ValueError, r"2\.5 links to layer .*; expected a whole number in \[0, 320\]"),
        (Half("gains"), "granet", ValueError, r"layer '0.weight' would gain links"),
        ({"2.*": 0.3}, "granet", ValueError, r"fall from 0\.5 at step 0 to 0\.3 at step 24, and layer '2.weight'"),
        ({"2.*": 0.999}, "set", ValueError, r"layer '2.weight' .* would have no link at sparsity 0\.999;"),
        (lambda *_: {}, "set", ValueError, "repr .* differs in each process"),
        (0.5, "set", ValueError, "distribution is 0.5; expected one of 'uniform'"),
    ],
)
def test_wrong_distributions_are_refused(distribution: Any, method: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Run(distribution, method)


@pytest.mark.parametrize("distribution", [{"2.*": 0.75}, Half()])
@pytest.mark.parametrize("total_steps", [24, 48])
def test_a_longer_run_takes_over_the_links_of_each_layer(distribution: Any, total_steps: int) -> None:
    run, longer, last = (Run(distribution, "granet", total_steps=steps) for steps in (24, total_steps, total_steps))
    before = run.links_after(9)

    def continues(earlier: Run, later: Run, **how: bool) -> None:
        later.model.load_state_dict(earlier.model.state_dict())
        later.sparsifier.load_state_dict(earlier.sparsifier.state_dict(), **how)

    continues(run, longer, reschedule=True)
    assert longer.links_after(0) == before
    between = longer.links_after(3)  # an update of the new schedule brings no link back
    assert all(now <= links for now, links in zip(between, before, strict=True))
    continues(longer, last)
    assert last.links_after(total_steps - 12) == list(last.plan.budget.links(total_steps).values())


def test_a_lower_bound_that_is_a_number_is_still_read() -> None:
    run, longer, last = (Run("uniform", "granet", total_steps=steps) for steps in (24, 48, 48))
    run.links_after(9)
    for later in (longer, last):
        later.model.load_state_dict(run.model.state_dict())
    longer.sparsifier.load_state_dict(run.sparsifier.state_dict(), reschedule=True)
    state = longer.sparsifier.state_dict()
    last.sparsifier.load_state_dict(state | {"least_sparsity": state["least_sparsity"][0.9]})
    assert last.sparsifier.state_dict()["least_sparsity"] == state["least_sparsity"]
