"""Checks of stage 02, link prediction."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from chts_core.lab.notebook import l3
from chts_core.link_prediction import ch3_l3n


def counted(counted: int | None, *, network: Tensor, missing: l3.Link) -> None:
    """Count the paths: the number of L3 paths of a missing link."""
    assert counted is not None, "replace None in the cell above by a number."
    explanation = l3.explain_count(network, missing, counted)
    assert not explanation, explanation


def my_ch3_l3n(my_ch3_l3n: Callable[[Tensor], Tensor]) -> None:
    """Your own matrices: a function of a mask that returns the scores of CH3-L3n."""
    for trial in range(20):
        mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(trial)) < 0.4
        mine, wanted = my_ch3_l3n(mask), ch3_l3n(mask)
        assert mine is not None, "my_ch3_l3n() returns None; return a matrix of scores."
        assert mine.shape == mask.shape, f"the scores have shape {tuple(mine.shape)}; the mask has {tuple(mask.shape)}."
        for output, source in (~((mine - wanted).abs() <= 1e-5)).nonzero().tolist()[:1]:
            got, due = mine[output, source].item(), wanted[output, source].item()
            where = (
                f"{l3.describe((output, source))} of random mask {trial}: you have {got:.3f}, it should be {due:.3f}."
            )
            raise AssertionError(f"{where} Look: {_why(mask, (output, source))}.")


def _why(mask: Tensor, link: l3.Link) -> str:
    """What decides about the score of a link."""
    if mask[link]:
        return "existing links score 0"
    return f"its local community is {', '.join(node.counts for node in l3.community(mask, link)) or 'empty'}"


def count_paths(count_paths: Callable[[Tensor, l3.Link], int], *, seen: Tensor) -> None:
    """Recover the hidden link: a function of a mask and a link that returns the number of L3 paths."""
    counts = {}
    for link in l3.missing_links(seen):
        counts[link] = count_paths(seen, link)
        explanation = l3.explain_count(seen, link, counts[link])
        assert not explanation, f"for the missing link {l3.describe(link)}, {explanation}"
    print("paths by missing link (output, input):", counts)


def listed(listed: Iterable[Sequence[int]], *, network: Tensor, missing: l3.Link) -> None:
    """Name the paths: all L3 paths of a missing link."""
    explanation = l3.explain_paths(network, missing, listed)
    assert not explanation, explanation
