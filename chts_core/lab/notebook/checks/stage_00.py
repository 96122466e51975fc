"""Checks of stage 00, start here."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from chts_core.lab.models import LLAMA_SIZES
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.topology import link_count


def density(density: float | None) -> None:
    """The exercise "density from sparsity": the answer is a number between 0 and 1."""
    assert density is not None, "replace None in the cell above with a number."
    assert density != 5, "5 % is right, but a density is a share: write it as a number between 0 and 1."
    assert density != 0.95, "0.95 is the share of the possible links that are absent; what share of them exists?"
    assert abs(density - 0.05) < 1e-9, f"a density of {density} and a sparsity of 0.95 do not add up to 1."


def links(links: float | None) -> None:
    """The exercise "count the links": the answer is the number of links in the first layer of the MLP."""
    possible = 1568 * 784
    assert links is not None, "replace None in the cell above with a number."
    assert links != possible, "your answer is the number of possible links; how many of them exist?"
    assert abs(links - 0.99 * possible) > 1, "your answer is the number of absent links; how many links exist?"
    expected = link_count(1568, 784, 0.01)
    assert abs(links - expected) <= 0.5, (
        f"{links} links are {links / possible:.2%} of the {possible:,} possible links; expected 1 % of them, rounded "
        "to an integer."
    )


def step_flops(step_flops: Callable[[list[int], float, int], float | None]) -> None:
    """The exercise "what a training step costs": the answer is a function that returns the FLOPs of a training step.

    The function takes the sizes of the layers, the density and the batch size. The small network of this check has 8
    inputs, 4 hidden neurons and 2 classes. Its first layer has 8 of 32 possible links. Its last layer has all 8
    possible links.
    """
    counted = step_flops([8, 4, 2], 0.25, 1)
    assert counted is not None, "step_flops() returns None; return a number of FLOPs."
    small = "for 8, 4 and 2 neurons at density 0.25,"
    slips = {
        "the number of links; each link costs 6 FLOPs": 16,
        "the cost of the forward pass alone; the backward pass costs twice as much": 32,
        "the cost with a sparse last layer; the last layer must stay dense": 60,
        "the cost of the dense network; use the density": 240,
        "the cost of the first layer alone; add the last layer": 48,
    }
    refuse(counted, slips, 1e-9)
    assert counted == 96, f"{small} one image should cost 6 · (8 + 8) FLOPs; the function returns {counted}."
    assert step_flops([8, 4, 2], 0.25, 10) == 960, (
        "ten images cost ten times as much as one image; multiply by the batch size."
    )
    odd = step_flops([5, 3, 2], 0.25, 1)
    assert odd == 6 * (link_count(3, 5, 0.25) + 6), (
        "with 5, 3 and 2 neurons at density 0.25, the first layer has 4 links, the nearest integer to 3.75; expected "
        f"6 · (4 + 6) FLOPs, but the function returns {odd}."
    )
    deep = step_flops([8, 4, 4, 2], 0.25, 1)
    assert deep == 6 * (8 + 4 + 8), (
        f"with two hidden layers of 4 neurons, the function returns {deep} FLOPs. Only the last layer should be dense."
    )
    paper = [784, 1568, 1568, 1568, 10]
    dense = step_flops(paper, 1.0, 32)
    assert dense is not None
    for density in (0.01, 0.001):
        share = (step_flops(paper, density, 32) or 0) / dense
        print(f"the MLP for MNIST at density {density:.1%}: {share:.2%} of the FLOPs of the dense network")


def stored(stored: Callable[[int, float], tuple[int, int] | None]) -> None:
    """The exercise "store a sparse model": the answer is a function that counts the links and their bytes."""
    answer = stored(100, 0.05)
    assert answer is not None, "stored() returns None; return the number of links and their bytes."
    links, size = answer
    assert links == 5, f"5 % of 100 possible links are 5 links; the function returns {links}."
    assert size != 4 * links, f"{size} bytes hold only the values; store the position of each link, too."
    assert size == 40, f"5 links need 5 · (4 + 4) = 40 bytes; the function returns {size}."
    llama = LLAMA_SIZES["1b"]
    possible = llama.layers * (4 * llama.width**2 + 3 * llama.width * llama.feed_forward)
    links, size = stored(possible, 0.05) or (0, 0)
    print(f"LLaMA-1B: {links:,} of {possible:,} links, {size / 1e6:,.0f} MB; all weights: {4 * possible / 1e6:,.0f} MB")


# For each mask with 8 possible links: what happens, the positions of its links at the start and after each of the two
# updates, its kind, and a hint.
_HISTORIES: list[tuple[str, list[tuple[int, ...]], str, str]] = [
    ("never changes", [(0, 2, 5), (0, 2, 5), (0, 2, 5)], "static", "Does any link change?"),
    ("loses links twice", [(0, 2, 3, 5, 7), (0, 2, 5, 7), (0, 5)], "pruning", "Does any link appear?"),
    (
        "exchanges a link at every update",
        [(0, 2, 5), (0, 3, 5), (1, 3, 5)],
        "dynamic",
        "The number of links stays the same; look at the positions of the links.",
    ),
    (
        "loses three links and gains one",
        [(0, 2, 3, 5, 7), (0, 2, 4, 7), (0, 4, 7)],
        "dynamic",
        "The number of links falls, but does a link appear, too?",
    ),
    (
        "loses a link and gets it back",
        [(0, 2, 5), (0, 2), (0, 2, 5)],
        "dynamic",
        "The first and the last mask are equal; look at the one between them.",
    ),
    (
        "changes only at the last update",
        [(0, 2, 5), (0, 2, 5), (0, 5)],
        "pruning",
        "The first two masks are equal; look at all of them.",
    ),
]


def kind(kind: Callable[[list[Tensor]], str | None]) -> None:
    """The exercise "read the history of a mask": the answer is a function that takes masks and returns their kind."""
    for story, places, right, hint in _HISTORIES:
        masks = [torch.zeros(8, dtype=torch.bool) for _ in places]
        for mask, links in zip(masks, places, strict=True):
            mask[list(links)] = True
        answer = kind([mask.view(2, 4) for mask in masks])
        assert answer is not None, "kind() returns None; return 'static', 'pruning' or 'dynamic'."
        assert answer in ("static", "pruning", "dynamic"), (
            f"kind() returns {answer!r}; return 'static', 'pruning' or 'dynamic'."
        )
        assert answer == right, f"{answer!r} is not right for a mask that {story}. {hint}"


# Why a run does not belong to a method. Every wrong answer gives a wrong run to at least one of these methods.
_AGAINST = {
    "RigL": "RigL regrows the two links with the largest gradients",
    "CHT": "CHT regrows the two links with the most paths",
    "CHTs": (
        "CHTs draws links at random, and a link with more paths is more likely to be drawn. As long as a link with a "
        "path is left, CHTs does not draw a link without a path"
    ),
}


def regrown_by(regrown_by: Mapping[str, str | None]) -> None:
    """The exercise "who regrew these links?": the answer is the method of each of the four runs."""
    right = {"run 1": "RigL", "run 2": "CHT", "run 3": "CHTs", "run 4": "SET"}
    assert set(regrown_by) == set(right), f"keep the names of the runs: {', '.join(right)}."
    for name, method in regrown_by.items():
        assert method is not None, f"for {name}, replace None with the name of a method."
        assert method in right.values(), (
            f"{method!r} is not one of the four methods: {', '.join(sorted(right.values()))}."
        )
    runs = {method: name for name, method in regrown_by.items()}
    assert len(runs) == 4, "each of the four methods has exactly one run; you named a method more than once."
    for method, reason in _AGAINST.items():
        assert right[runs[method]] == method, f"{runs[method]} is not a run of {method}. {reason}."


def needed(
    needed: Callable[[str, dict[str, tuple[str, ...]]], list[str] | None], *, needs: dict[str, tuple[str, ...]]
) -> None:
    """The exercise "choose your way": the answer is a function that returns all stages that must come before a stage.

    The function also receives, for each stage, the earlier stages on which this stage directly builds.
    """
    small = {"A": (), "B": ("A",), "C": ("B",), "D": ("A",), "E": ("C", "A")}
    answer = needed("E", small)
    toy = "E names C and A, C names B, and B and D name A."
    assert answer is not None, "needed() returns None; return a list of stages."
    found = list(answer)
    assert "E" not in found, f"{toy} You found {found} before E, but E does not come before itself."
    assert "B" in found, f"{toy} You found {found} before E; look at the stages that C names, too."
    assert "D" not in found, f"{toy} You found {found} before E; neither E nor any stage before E names D."
    assert len(set(found)) == len(found), f"{toy} You found {found} before E; return each stage only once."
    assert found == ["A", "B", "C"], (
        f"{toy} You found {found} before E; keep the order A, B, C, D, E, and leave no stage out."
    )
    assert not needed("A", small), "stage A names no stage, so return an empty list for A."
    for stage in ("03", "09"):
        print(f"before stage {stage}:", *(needed(stage, needs) or []))
