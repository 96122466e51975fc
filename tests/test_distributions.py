import pytest
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
