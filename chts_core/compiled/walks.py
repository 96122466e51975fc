"""The compiled inner loops of link prediction: sums over paths, and random walks."""

from typing import Any

import numpy as np

from chts_core.compiled.jit import compiled, random_below
from chts_core.compiled.lists import has

# How many times a walk tries to find its last node at random before it looks at all candidates.
_TRIES = 8
_ALL = 2**62


@compiled
def add_paths(  # pragma: no cover (compiled)
    first_output: int,
    end_output: int,
    inputs_start: Any,
    inputs: Any,
    outputs_start: Any,
    outputs_of: Any,
    of_outputs: Any,
    of_inputs: Any,
    scores: Any,
) -> None:
    """Set scores[u, v] to the sum of of_outputs[u, z2] * of_inputs[z1, v] over the paths u – z1 – z2 – v.

    u runs over first_output <= u < end_output. Only this call writes these rows of `scores`. The inputs of output u are
    inputs[inputs_start[u] : inputs_start[u + 1]]. The outputs of input v are
    outputs_of[outputs_start[v] : outputs_start[v + 1]].
    """
    for u in range(first_output, end_output):
        sums = np.zeros(scores.shape[1])  # float64: a link can have millions of paths
        for first in range(inputs_start[u], inputs_start[u + 1]):
            z1 = inputs[first]
            weights = of_inputs[z1]
            for second in range(outputs_start[z1], outputs_start[z1 + 1]):
                z2 = outputs_of[second]
                weight = of_outputs[u, z2]
                for third in range(inputs_start[z2], inputs_start[z2 + 1]):
                    v = inputs[third]
                    sums[v] += weight * weights[v]
        scores[u] = sums


@compiled
def adjacency(outputs: Any, inputs: Any, rows: int, columns: int) -> tuple[Any, Any]:  # pragma: no cover (compiled)
    """The neighbours of every node, in ascending order. Outputs come first, so input j is node rows + j.

    Args:
        outputs, inputs: the two ends of every link, sorted by outputs, then by inputs.
        rows, columns: number of outputs and of inputs.

    Returns:
        start, neighbours: the neighbours of node n are neighbours[start[n] : start[n + 1]].
    """
    start = np.zeros(rows + columns + 1, np.int64)
    for link in range(len(outputs)):
        start[outputs[link] + 1] += 1
        start[rows + inputs[link] + 1] += 1
    for n in range(rows + columns):
        start[n + 1] += start[n]
    neighbours = np.empty(start[-1], np.int32)
    end = start[:-1].copy()
    for link in range(len(outputs)):
        u, v = outputs[link], rows + inputs[link]
        neighbours[end[u]] = v
        neighbours[end[v]] = u
        end[u] += 1
        end[v] += 1
    return start, neighbours


@compiled
def count_shared(one: int, other: int, start: Any, neighbours: Any, enough: int) -> int:  # pragma: no cover (compiled)
    """Number of neighbours that two nodes share; counting stops at `enough`."""
    i, j, count = start[one], start[other], 0
    while i < start[one + 1] and j < start[other + 1] and count < enough:
        a, b = neighbours[i], neighbours[j]
        count += a == b
        i += a <= b
        j += b <= a
    return count


@compiled
def linked(exists: Any, shape: Any, one: int, other: int) -> Any:  # pragma: no cover (compiled)
    """Whether a link joins an output and an input. Both have the indices that :func:`adjacency` gives to nodes."""
    return has(exists, min(one, other) * shape[1] + max(one, other) - shape[0])


@compiled
def ordered_pair(choice: int, others: int) -> tuple[int, int]:  # pragma: no cover (compiled)
    """The pair with index `choice` among all ordered pairs of two different integers from 0 to `others`."""
    first, second = choice // others, choice % others
    return first, second + (second >= first)


@compiled
def propose_links(  # pragma: no cover (compiled)
    seed: int, exists: Any, shape: Any, start: Any, neighbours: Any, wedges: Any, pairs: int, inside: bool, links: Any
) -> None:
    """Fill `links` (int64) with independent draws of missing links, p ∝ node-based score. A failed draw gives -1.

    A link is its position in the flattened mask. :mod:`chts_core.compiled.walk_sampling` describes the method.

    Args:
        exists: a bit for each element of the flattened mask; `start` and `neighbours` come from :func:`adjacency`.
        shape: (outputs, inputs) of the mask.
        wedges: entry n is the sum of d (d - 1) over the nodes before node n; d is the number of links of a node.
        pairs: number of ordered pairs of different nodes of the same side.
        inside: True for CH2, False for CH3.
    """
    state, (rows, columns) = np.full(1, seed, np.uint64), shape
    num_wedges, among_all = wedges[-1] if inside else 0, pairs < wedges[-1]
    total = num_wedges + min(pairs, wedges[-1])
    links[:] = -1
    for n in range(len(links)):
        choice = random_below(state, total)
        any_wedge = choice < num_wedges
        choice -= 0 if any_wedge else num_wedges

        # Draw an ordered pair of different nodes of a side.
        if among_all and not any_wedge:
            of_outputs = choice < rows * (rows - 1)
            first = 0 if of_outputs else rows
            choice -= 0 if of_outputs else rows * (rows - 1)
            others = rows - 1 if of_outputs else columns - 1
            z, u = ordered_pair(choice, others)
            z, u = first + z, first + u
            if count_shared(z, u, start, neighbours, 1) == 0:
                continue
        else:
            between = np.searchsorted(wedges, choice, side="right") - 1
            choice -= wedges[between]
            first, others = start[between], start[between + 1] - start[between] - 1
            z, u = ordered_pair(choice, others)
            z, u = np.int64(neighbours[first + z]), np.int64(neighbours[first + u])
            # If n wedges join a pair, each of them counts with probability 1 / n.
            if not any_wedge and random_below(state, count_shared(z, u, start, neighbours, _ALL)) != 0:
                continue

        # Draw a neighbour of z that is not a neighbour of u, uniformly.
        first, degree = start[z], start[z + 1] - start[z]
        v, tries = np.int64(neighbours[first + random_below(state, degree)]), 1
        while tries < _TRIES and linked(exists, shape, u, v):
            v = np.int64(neighbours[first + random_below(state, degree)])
            tries += 1
        if linked(exists, shape, u, v):
            free = degree - count_shared(z, u, start, neighbours, _ALL)
            if free == 0:
                continue
            left = random_below(state, free) + 1
            k = first - 1
            while left > 0:
                k += 1
                v = np.int64(neighbours[k])
                left -= not linked(exists, shape, u, v)
        links[n] = min(u, v) * columns + max(u, v) - rows


@compiled
def take_links(links: Any, num: int, exists: Any, new: Any) -> int:  # pragma: no cover (compiled)
    """Take the first `num` different links that do not exist. Return how many were found.

    Args:
        links: positions in the flattened mask; -1 means no link.
        exists: a bit for each element of the mask; the function sets the bits of the links that it takes.
        new: receives the taken links.
    """
    found = 0
    for link in links:
        if found == num:
            break
        if link >= 0 and not has(exists, link):
            exists[link >> 3] |= np.uint8(128 >> (link & 7))
            new[found] = link
            found += 1
    return found
