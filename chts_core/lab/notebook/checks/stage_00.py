"""Checks of stage 00, start here."""

from collections.abc import Callable

from chts_core.lab.models import LLAMA_SIZES
from chts_core.topology import link_count


def density(density: float | None) -> None:
    """Density from sparsity: a share between 0 and 1."""
    assert density is not None, "replace None in the cell above by a number."
    assert density != 5, "5 % is right, but a density is a share: write it as a number between 0 and 1."
    assert density != 0.95, "0.95 is the share of absent links; what share is present?"
    assert abs(density - 0.05) < 1e-9, f"{density} and a sparsity of 0.95 do not add up to 1."


def links(links: float | None) -> None:
    """Count the links: how many the first layer of the MLP has."""
    possible = 1568 * 784
    assert links is not None, "replace None in the cell above by a number."
    assert links != possible, "this is the number of possible links; how many of them exist?"
    assert abs(links - 0.99 * possible) > 1, "this is the number of absent links; how many exist?"
    expected = link_count(1568, 784, 0.01)
    assert abs(links - expected) <= 0.5, f"{links} are {links / possible:.2%} of the {possible:,} possible links."


def stored(stored: Callable[[int, float], tuple[int, int]]) -> None:
    """Store a sparse model: a function of possible links and density that returns the links and their bytes."""
    links, size = stored(100, 0.05)
    assert links == 5, f"5 % of 100 possible links are 5; the function says {links}."
    assert size != 4 * links, "these are the values alone; each link has a position too."
    assert size == 40, f"5 links need 5 · (4 + 4) = 40 bytes; the function says {size}."
    llama = LLAMA_SIZES["1b"]
    possible = llama.layers * (4 * llama.width**2 + 3 * llama.width * llama.feed_forward)
    links, size = stored(possible, 0.05)
    print(f"LLaMA-1B: {links:,} of {possible:,} links, {size / 1e6:,.0f} MB; all weights: {4 * possible / 1e6:,.0f} MB")
