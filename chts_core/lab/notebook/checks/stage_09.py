"""Checks of stage 09, LLaMA."""

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.topology import link_count


def blocks_and_guesses(num_blocks: int | None, num_guesses: int | None) -> None:
    """Guesses: how many blocks there are, and how many guesses in one epoch."""
    stubs = "replace both None in the cell above by numbers."
    assert num_blocks is not None, stubs
    assert num_guesses is not None, stubs
    assert num_blocks != 1030 // 129, (
        f"{num_blocks} is right for blocks of 129 that share no token; here they share one."
    )
    assert num_blocks != 9, "the ninth block would need 1153 tokens; the tokens left fill no block."
    assert num_blocks == 1029 // 128, f"{num_blocks} blocks are not right; nothing comes before the first token."
    assert num_guesses != num_blocks * 129, "a block of 129 tokens makes 128 guesses."
    assert num_guesses == num_blocks * 128, f"{num_guesses} is not right; each block makes 128."


def layer_links(layer_links: float | None) -> None:
    """Links of a layer: how many it has."""
    assert layer_links is not None, "replace None in the cell above by a number of links."
    square, gated = 512 * 512, 512 * 1376
    slips = {
        "the number of possible links": 4 * square + 3 * gated,
        "the number of absent links": 0.95 * (4 * square + 3 * gated),
        "one layer of the gated block short: it has gate, up and down": 0.05 * (4 * square + 2 * gated),
        "right for the gated block; the attention is missing": 0.05 * 3 * gated,
        "right for the attention; the gated block is missing": 0.05 * 4 * square,
    }
    refuse(layer_links, slips, 10)
    expected = 4 * link_count(512, 512, 0.05) + 3 * link_count(1376, 512, 0.05)
    assert abs(layer_links - expected) <= 5, f"{layer_links} is not right; the layer has seven linear layers."
