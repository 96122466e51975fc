import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import chts_core as chts
from chts_core.removal import WeightedLinks


def test_magnitude_is_the_absolute_weight() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.0, 0.5], [-0.25, 0.0, 4.0, -8.0]])
    assert chts.removal.magnitude(weight).tolist() == [[1.0, 2.0, 0.0, 0.5], [0.25, 0.0, 4.0, 8.0]]


def test_relative_importance_by_hand() -> None:
    weight = torch.tensor([[1.0, -3.0], [0.0, 1.0]])
    # Link 0-0 is all of input 0 and a quarter of output 0; link 0-1 three quarters of both; link 1-1 a quarter and all.
    expected = torch.tensor([[1.25, 1.5], [0.0, 1.25]])
    torch.testing.assert_close(chts.removal.relative_importance(weight, eps=0), expected)


def test_relative_importance_guards_a_neuron_without_links() -> None:
    weight = torch.tensor([[1e-5, 0.0], [0.0, 0.0]])
    # With ε = 1e-5 in both denominators: 1e-5 / 2e-5 + 1e-5 / 2e-5, and 0 elsewhere.
    torch.testing.assert_close(chts.removal.relative_importance(weight), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    density=st.floats(0, 1),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_relative_importance_is_the_definition(shape: tuple[int, int], density: float, unit: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * unit * (torch.rand(shape, generator=generator) < density)
    scores = chts.removal.relative_importance(weight)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), oracles.relative_importance(weight), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_relative_importance_sums_half_precision_weights_in_float32(dtype: torch.dtype) -> None:
    # 8 + 600 · 2^-8 stays 8 when summed in bfloat16, one small value at a time.
    weight = torch.full((1, 601), 2.0**-8, dtype=dtype)
    weight[0, 0] = 8
    scores = chts.removal.relative_importance(weight)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), oracles.relative_importance(weight), rtol=1e-5, atol=0)


def test_relative_importance_of_the_mlp_code_by_hand() -> None:
    """Two outputs and three inputs, a link of weight 1 from the first input: alone in its column, not in its row."""
    weight = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    scores = chts.removal.relative_importance_of_mlp_code(links_of(weight != 0, weight), eps=0.5)
    # Sums of columns: 1 + 2 · 0.5 and 3 + 2 · 0.5; of the row: 4 + 3 · 0.5.
    expected = torch.tensor([1 / 2 + 1 / 5.5, 3 / 4 + 3 / 5.5], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)


def test_where_weights_are_small_epsilon_counts_for_more_in_the_mlp_code() -> None:
    weight = torch.zeros(40, 3)
    weight[0, 0], weight[1, 1], weight[1, 2] = 1e-3, 1e-4, 1e-4
    links = links_of(weight != 0, weight)
    once, each = (chts.removal.SCORES[f"relative_importance{name}"](links) for name in ("", "_mlp_code"))
    # Of link 1-1: 1e-4 / 1.1e-4 + 1e-4 / 2.1e-4, and 1e-4 / 5e-4 + 1e-4 / 2.3e-4.
    torch.testing.assert_close(once[1], torch.tensor(1 / 1.1 + 1 / 2.1, dtype=torch.float64))
    torch.testing.assert_close(each[1], torch.tensor(1 / 5 + 1 / 2.3, dtype=torch.float64))


def test_relative_importance_protects_the_last_link_of_a_neuron() -> None:
    weight = torch.tensor([[5.0, 5.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 0.1]])
    assert chts.removal.relative_importance(weight).argmax() == 8
    assert chts.removal.magnitude(weight).argmax() != 8


def test_mest_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.0, -0.25]])
    gradient = torch.tensor([[100.0, 0.0, 0.0], [-50.0, 0.0, -200.0]])
    expected = torch.tensor([[2.0, 2.0, 0.0], [1.0, 0.0, 2.25]])
    torch.testing.assert_close(chts.removal.mest(weight, gradient), expected)
    torch.testing.assert_close(chts.removal.mest(weight, gradient, coefficient=0.0), weight.abs())
    torch.testing.assert_close(chts.removal.mest(weight, gradient, coefficient=1.0), weight.abs() + gradient.abs())


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
    coefficient=st.sampled_from([0.01, 0.5]),
    seed=st.integers(0, 99),
)
def test_mest_is_the_definition(shape: tuple[int, int], unit: float, coefficient: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    gradient = torch.randn(shape, generator=generator) * unit
    scores = chts.removal.mest(weight, gradient, coefficient)
    expected = torch.tensor(
        [
            [abs(w) + coefficient * abs(g) for w, g in zip(*rows, strict=True)]
            for rows in zip(weight.tolist(), gradient.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=0)


def test_mest_spares_a_small_weight_that_is_about_to_change() -> None:
    weight, gradient = torch.tensor([[0.10, 0.11, 1.0]]), torch.tensor([[5.0, 0.0, 0.0]])
    assert chts.removal.mest(weight, gradient).argmin() == 1
    assert chts.removal.magnitude(weight).argmin() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mest_adds_half_precision_weights_in_float32(dtype: torch.dtype) -> None:
    # 1 + 2^-11 is 1 in both.
    scores = chts.removal.mest(torch.ones(1, 2, dtype=dtype), torch.tensor([[0.0, 2.0**-11]], dtype=dtype), 1.0)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[1.0, 1 + 2.0**-11]]


def links_of(mask: Tensor, weight: Tensor, gradient: Tensor | None = None) -> WeightedLinks:
    outputs, inputs = mask.nonzero().unbind(1)
    return WeightedLinks(outputs, inputs, weight[mask], None if gradient is None else gradient[mask], mask.shape)


def test_the_tables_of_scores() -> None:
    ri = {"relative_importance", "relative_importance_mlp_code"}
    assert set(chts.removal.SCORES) == {"magnitude", *ri, "mest"}
    assert set(chts.removal.GRADIENT_SCORES) == {"mest"}


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (20, 31)])
def test_scores_of_links_are_those_of_the_weight(shape: tuple[int, int], density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(shape, generator=generator) < density
    weight, gradient = (torch.randn(shape, generator=generator) * mask for _ in range(2))
    links = links_of(mask, weight, gradient)
    expected = {
        "magnitude": weight.abs(),
        "relative_importance": chts.removal.relative_importance(weight),
        "relative_importance_mlp_code": oracles.relative_importance_of_mlp_code(weight),
        "mest": chts.removal.mest(weight, gradient),
    }
    for name, score in chts.removal.SCORES.items():
        torch.testing.assert_close(score(links), expected[name][mask], check_dtype=False)


def test_importance_does_not_depend_on_where_it_is_computed() -> None:
    mask = torch.rand(9, 7, generator=torch.Generator().manual_seed(1)) < 0.4
    links = links_of(mask, torch.randn(9, 7, generator=torch.Generator().manual_seed(2)))
    here = chts.removal.relative_importance_of_links(links)
    meta = chts.removal.relative_importance_of_links(
        WeightedLinks(*(t.to("meta") for t in links[:3]), None, links.shape)  # the way of all other devices
    )
    assert meta.shape == here.shape
    dense = torch.zeros(mask.shape, dtype=torch.float64)
    dense[mask] = links.values.abs().double()
    for dim, nodes in ((0, links.inputs), (1, links.outputs)):
        torch.testing.assert_close(chts.removal._total(links.values.abs().double(), nodes, links, dim), dense.sum(dim))


def test_scores_leave_the_weights_alone() -> None:
    links = links_of(torch.ones(3, 4, dtype=torch.bool), torch.randn(3, 4), torch.randn(3, 4))
    before = links.values.clone(), links.gradients.clone()
    for score in chts.removal.SCORES.values():
        score(links)
    assert torch.equal(links.values, before[0])
    assert torch.equal(links.gradients, before[1])
