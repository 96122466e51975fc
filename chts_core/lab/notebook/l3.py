"""Count the L3 paths of a missing link one by one, straight from the definition, in networks small enough to draw.

`chts_core.link_prediction` computes the scores of a whole layer at once. This module computes the same scores, shows
the paths and nodes behind a score, and explains why a learner's count is wrong.
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chts_core.checks import check_mask

Link = tuple[int, int]
Path = tuple[int, int, int, int]
_SIDES = ("output", "input")


@dataclass(frozen=True)
class Node:
    """A node of the local community of a missing link.

    inside: the number of its links to nodes of the community (i_z).
    outside: the number of its other links (e_z), not counting links to the ends of the missing link.
    """

    side: str
    number: int
    inside: int
    outside: int

    def __str__(self) -> str:
        return f"{self.side} {self.number}"

    @property
    def counts(self) -> str:
        """The node and its numbers of links, as text."""
        return f"{self} (i = {self.inside}, e = {self.outside})"

    def ratio(self, predictor: str) -> float:
        """The ratio that the node contributes to a score: (1 + i) / (1 + e) in CH2, and 1 / (1 + e) in CH3."""
        return (1 + self.inside if predictor.startswith("ch2") else 1) / (1 + self.outside)


def neighbours(mask: Tensor) -> tuple[list[set[int]], list[set[int]]]:
    """The inputs of each output and the outputs of each input, as sets.

    Args:
        mask: Boolean (out_features, in_features).

    Raises:
        TypeError, ValueError: if mask is not a 2-D Boolean tensor.
    """
    check_mask(mask)
    inputs_of: list[set[int]] = [set() for _ in range(mask.shape[0])]
    outputs_of: list[set[int]] = [set() for _ in range(mask.shape[1])]
    for output, source in mask.nonzero().tolist():
        inputs_of[output].add(source)
        outputs_of[source].add(output)
    return inputs_of, outputs_of


def missing_links(mask: Tensor) -> list[Link]:
    """The missing links of a mask as (output, input) pairs, row by row."""
    return [(output, source) for output, source in (~mask).nonzero().tolist()]


def paths(mask: Tensor, link: Link) -> list[Path]:
    """The L3 paths of a missing link, each as (output u, input z1, output z2, input v).

    Args:
        mask: Boolean (out_features, in_features).
        link: (output u, input v), a missing link.

    Raises:
        ValueError: if `link` lies outside the network, or already exists.
    """
    inputs_of, outputs_of = neighbours(mask)
    u, v = link
    if not (0 <= u < len(inputs_of) and 0 <= v < len(outputs_of)):
        raise ValueError(
            f"{describe(link)} is not in the network, which has {len(inputs_of)} outputs and {len(outputs_of)} inputs, "
            "numbered from 0."
        )
    if v in inputs_of[u]:
        raise ValueError(f"{describe(link)} is a link of the network; expected a missing link.")
    return [(u, z1, z2, v) for z1 in sorted(inputs_of[u]) for z2 in sorted(outputs_of[v]) if z1 in inputs_of[z2]]


def community(mask: Tensor, link: Link) -> list[Node]:
    """The local community of a missing link: the nodes between the ends of its L3 paths, inputs first.

    The function has the arguments and errors of :func:`paths`.
    """
    u, v = link
    found = paths(mask, link)
    inputs_of, outputs_of = neighbours(mask)
    inputs, outputs = {z1 for _, z1, _, _ in found}, {z2 for _, _, z2, _ in found}
    of_inputs = [Node("input", z, *_inside_and_outside(outputs_of[z] - {u}, outputs)) for z in sorted(inputs)]
    return of_inputs + [Node("output", z, *_inside_and_outside(inputs_of[z] - {v}, inputs)) for z in sorted(outputs)]


def _inside_and_outside(others: set[int], members: set[int]) -> tuple[int, int]:
    return len(others & members), len(others - members)


def score(mask: Tensor, link: Link, predictor: str) -> float:
    """The score of a missing link by its definition, as a sum over the nodes of its community or over its paths.

    Args:
        mask: Boolean (out_features, in_features).
        link: (output u, input v), a missing link.
        predictor: ch2_l3n, ch3_l3n, ch2_l3p or ch3_l3p.

    Raises:
        ValueError: see :func:`paths`.
    """
    ratios = {str(node): node.ratio(predictor) for node in community(mask, link)}
    if predictor.endswith("n"):
        return sum(ratios.values())
    return sum(math.sqrt(ratios[f"input {z1}"] * ratios[f"output {z2}"]) for _, z1, z2, _ in paths(mask, link))


def scores(mask: Tensor, predictor: str) -> Tensor:
    """The :func:`score` of each missing link and 0 for each existing link, as float64, in the shape of the mask."""
    table = torch.zeros(mask.shape, dtype=torch.float64)
    for link in missing_links(mask):
        table[link] = score(mask, link, predictor)
    return table


def describe(nodes: Sequence[int]) -> str:
    """A link, path or walk in words: its nodes in order, beginning with an output."""
    return " – ".join(f"{_SIDES[place % 2]} {node}" for place, node in enumerate(nodes))


# --- explaining an answer ---


def explain_count(mask: Tensor, link: Link, counted: Any) -> str:
    """Explain why a learner's count of L3 paths is wrong: list the paths, and name mistakes that lead to this count.

    Args:
        mask: Boolean (out_features, in_features).
        link: (output u, input v), a missing link.
        counted: the answer.

    Returns:
        The explanation, or "" if the answer is right.

    Raises:
        ValueError: see :func:`paths`.
    """
    found = paths(mask, link)
    try:
        number = operator.index(counted)  # also numbers of NumPy and torch
    except TypeError:
        number = -1
    if isinstance(counted, bool) or number < 0:
        return f"the answer is {counted!r}; expected the number of paths, a whole number that is 0 or larger."
    if number == len(found):
        return ""
    there = "; ".join(map(describe, found)) or "none"
    slips = " Or you ".join(why for result, why in _slips(mask, link, found) if result == number)
    hint = f"Perhaps you {slips}" if slips else _HOW_TO_COUNT
    return f"you counted {number}; there are {len(found)}: {there}. {hint}"


_HOW_TO_COUNT = "Go from the output to each of its inputs, and from there to the outputs that lead to the other end."


def _slips(mask: Tensor, link: Link, found: list[Path]) -> Iterator[tuple[int, str]]:
    """Yield wrong counts of the L3 paths, each with the mistake that leads to this count."""
    u, v = link
    inputs_of, outputs_of = neighbours(mask)
    nodes = community(mask, link)
    yield (
        len(nodes),
        f"counted the nodes of the local community ({', '.join(map(str, nodes))}). A node can lie on many paths.",
    )
    for side in _SIDES:
        members = [str(node) for node in nodes if node.side == side]
        yield (
            len(members),
            f"counted only the {side}s between the ends ({', '.join(members)}). Every linked pair of an input and an "
            "output between the ends is a separate path.",
        )
    yield (
        len(found) + 1,
        f"also counted the link {describe(link)}. This link is missing, and a path with only one link is no L3 path.",
    )
    unlinked = [(z1, z2) for z1 in sorted(inputs_of[u]) for z2 in sorted(outputs_of[v]) if z1 not in inputs_of[z2]]
    if unlinked:
        z1, z2 = unlinked[0]
        yield (
            len(found) + len(unlinked),
            f"did not check the middle link of each path: input {z1} and output {z2} are not linked.",
        )
    yield 2 * len(found), "counted each path from both ends, but a path has no direction."

    longer = [(u, a, b, c, d, v) for a, b, c, d in _between(inputs_of, outputs_of, link)]
    straight = [walk for walk in longer if len({u, walk[2], walk[4]}) == len({walk[1], walk[3], v}) == 3]
    back = [walk for walk in longer if walk not in straight]
    if straight:
        too_long = f"counted longer paths: {describe(straight[0])} has five links, but an L3 path has three."
        yield len(straight), too_long
        yield len(found) + len(straight), too_long
    if back:
        returns = f"counted walks that go back: {describe(back[0])} visits a node twice, but a path never does."
        yield len(found) + len(back), returns
        yield len(found) + len(longer), returns


def _between(inputs_of: list[set[int]], outputs_of: list[set[int]], link: Link) -> Iterator[tuple[int, int, int, int]]:
    """Yield the nodes between the ends of each walk of five links, including walks that go back."""
    u, v = link
    for a in sorted(inputs_of[u]):
        for b in sorted(outputs_of[a]):
            for c in sorted(inputs_of[b]):
                for d in sorted(outputs_of[c] & outputs_of[v]):
                    yield a, b, c, d


def explain_paths(mask: Tensor, link: Link, listed: Iterable[Sequence[int]]) -> str:
    """Explain the errors in a list of L3 paths: entries that are not paths, and how many paths the list lacks.

    Args:
        mask: Boolean (out_features, in_features).
        link: (output u, input v), a missing link.
        listed: the answer, (output u, input z1, output z2, input v) for each path, in any order.

    Returns:
        The explanation, or "" if the answer is right.

    Raises:
        ValueError: see :func:`paths`.
    """
    found = set(paths(mask, link))
    answer = [tuple(map(operator.index, path)) for path in listed]
    complaints = [_complaint(mask, link, path) for path in dict.fromkeys(answer) if path not in found]
    complaints += [
        f"{describe(path)} is listed more than once." for path in dict.fromkeys(answer) if answer.count(path) > 1
    ]
    left = sorted(found - set(answer))
    if left:
        _, z1, _, _ = left[0]
        verb = "is" if len(left) == 1 else "are"
        complaints.append(
            f"{_number(left, 'path')} {verb} missing from your list; look at the paths through input {z1}."
        )
    return " ".join(complaints)


def _complaint(mask: Tensor, link: Link, path: tuple[int, ...]) -> str:
    u, v = link
    if len(path) != 4:
        return f"{path} has {_number(path[1:], 'link')}; an L3 path has three links: (output, input, output, input)."
    if (path[0], path[3]) != link:
        return f"{path} leads from output {path[0]} to input {path[3]}, not from output {u} to input {v}."
    if path[2] == u or path[1] == v:
        return f"{describe(path)} visits an end of the missing link twice, so it uses this link."
    rows, columns = mask.shape
    if not (0 <= path[1] < columns and 0 <= path[2] < rows):
        return f"{path} leaves the network, which has {rows} outputs and {columns} inputs, numbered from 0."
    output, source = next(
        step for step in ((u, path[1]), (path[2], path[1]), (path[2], v)) if not mask[step[0], step[1]]
    )
    return f"{describe(path)} does not exist: output {output} and input {source} are not linked."


def _number(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
