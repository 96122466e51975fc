"""How the links of a network are shared out among its layers."""

from collections.abc import Mapping

from chts_core.checks import check_sparsity
from chts_core.topology import link_count


def uniform(shapes: Mapping[str, tuple[int, int]], sparsity: float) -> dict[str, int]:
    """The same sparsity in every layer: number of links by layer name.

    Args:
        shapes: (out_features, in_features) by layer name.
        sparsity: share of absent links, in [0, 1).
    """
    check_sparsity(sparsity)
    return {name: link_count(*shape, 1 - sparsity) for name, shape in shapes.items()}
