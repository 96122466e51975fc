"""Answers to the exercises of stage 02."""

import random
from collections.abc import Callable
from typing import Any

from answers import cases

from chts_core.lab.notebook import l3
from chts_core.lab.notebook.checks.stage_02 import _UNEVEN as NETWORK
from chts_core.link_prediction import ch2_l3n

Lists = list[list[int]]
Weight = Callable[[int, int], float]


def draw_link(weight: Weight = lambda a, b: a * b, *, existing: bool = False, again: str = "all") -> Callable[..., Any]:
    """An answer to 02.draw_link, with slips.

    weight: of a middle link, by the links of its input and of its output; existing: a drawn link may exist;
    again: what is drawn again for an existing link, "all" or "end".
    """

    def answer(inputs_of: Lists, outputs_of: Lists, chooser: random.Random) -> l3.Link:
        middle = [(z1, z2) for z2, inputs in enumerate(inputs_of) for z1 in inputs]
        weights = [weight(len(outputs_of[z1]), len(inputs_of[z2])) for z1, z2 in middle]
        while True:
            z1, z2 = chooser.choices(middle, weights)[0]
            u, v = chooser.choice(outputs_of[z1]), chooser.choice(inputs_of[z2])
            while again == "end" and v in inputs_of[u]:
                v = chooser.choice(inputs_of[z2])
            if existing or v not in inputs_of[u]:
                return u, v

    return answer


def from_any_output(inputs_of: Lists, outputs_of: Lists, chooser: random.Random) -> l3.Link:
    while True:
        u = chooser.randrange(len(inputs_of))
        z2 = chooser.choice(outputs_of[chooser.choice(inputs_of[u])])
        v = chooser.choice(inputs_of[z2])
        if v not in inputs_of[u]:
            return u, v


def by_chances(weight: Callable[[l3.Link], float]) -> Callable[..., l3.Link]:
    """Missing links of the network by weights that are computed."""
    missing = l3.missing_links(NETWORK)
    weights = [weight(link) for link in missing]
    return lambda _, __, chooser: chooser.choices(missing, weights)[0]


TWO_COMMUNITIES = [[1, 1, 0, 0, 0], [1, 1, 0, 1, 1], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0]]
# Output 0 – input 2 has 5 paths and output 3 – input 3 has 6; both score 12.
EQUAL_SCORES = [
    [0, 1, 0, 1, 0, 1],
    [0, 0, 0, 0, 0, 0],
    [1, 0, 1, 0, 1, 0],
    [0, 0, 1, 0, 1, 1],
    [0, 0, 1, 1, 1, 0],
    [0, 1, 1, 1, 1, 1],
]
SCORES = ch2_l3n(NETWORK)

GIVEN: dict[str, dict[str, Any]] = {}

RIGHT = [
    *cases("02.disagreement", (TWO_COMMUNITIES, "")),
    *cases("02.equal_degree", (158.74, ""), (159, "")),
    *cases(
        "02.draw_link",
        (draw_link(), ""),
        (by_chances(lambda link: len(l3.paths(NETWORK, link))), ""),
    ),
]

STUBS = [
    *cases("02.disagreement", (None, "replace None with a list of rows of zeros and ones.")),
    *cases("02.count_paths", (lambda *_: None, "count_paths() returns None; return a number of paths.")),
    *cases("02.equal_degree", (None, "replace None in the cell above with a number of links.")),
    *cases("02.draw_link", (lambda *_: None, "draw_link() returns None; return a missing link, (output, input).")),
]

SLIPS = [
    *cases(
        "02.disagreement",
        ([1, 0, 1], "give a list of rows; each row is a list of zeros and ones."),
        ([[1] * 7] * 7, "the network has 7 outputs and 7 inputs; use at most 6 of each."),
        ([[1, 2], [0, 1]], "each entry must be 0 (a missing link) or 1 (an existing link)."),
        ([[1, 0], [0, 1]], "start with three links that form a path between the ends of a missing link."),
        (
            [[0, 1, 1], [0, 1, 1], [1, 1, 1]],
            "CH2-L3n and the number of L3 paths are highest for the same missing link: output 0 – input 0: number of ",
        ),
        (
            EQUAL_SCORES,
            "two missing links have the same score, but the link with fewer paths must have the higher score: output "
            "0 – input 2: number of L3 paths 5, CH2-L3n 12.00, ",
        ),
        (
            [[1, 1], [0, 1]],
            "CH2-L3n and the number of L3 paths are highest for the same missing link: output 1 – input 0: number of ",
        ),
    ),
    *cases(
        "02.equal_degree",
        (0.16, "0.16 is a density; give the degree, which is a number of links."),
        (100, "100 is the degree for one matrix product; there are four products."),
        (126, "126 is the degree for two matrix products; P and Q are products, too."),
        (1587, "1587 is the degree for a layer with d³ paths in total; this layer has about 1000 d³ paths."),
        (4_000_000, "4000000 is the third power of d; take its cube root."),
        (2000, "2000 is the square root of d³; take the cube root."),
        (50, "50 is not right: at this degree, there are 1.2e+08 paths, but four products take 4e+09 multiplications."),
    ),
    *cases(
        "02.draw_link",
        (lambda *given: draw_link()(*given)[::-1], "return (output, input) in this order."),
        (draw_link(existing=True), "output 4 – input 0 is an existing link; reject this walk."),
        (draw_link(again="end"), "so your loop probably never ends. If you reject a walk, repeat the whole walk"),
        (by_chances(lambda _: 1), "you drew output 0 – input 2, but it has no L3 path."),
        (from_any_output, "This happens if a walk starts at a random output and follows a random link in each step."),
        (draw_link(lambda *_: 1), "This happens if all middle links are equally likely. How many walks go through a "),
        (draw_link(lambda a, _: a), "A walk continues from both ends of the middle link."),
        (draw_link(lambda _, b: b), "A walk continues from both ends of the middle link."),
        (by_chances(lambda link: bool(l3.paths(NETWORK, link))), "This happens if all links with a path are equally "),
        (
            by_chances(lambda link: SCORES[link].item()),
            "Your function draws links in proportion to CH2-L3n, not to the number of paths.",
        ),
        (draw_link(lambda a, b: (a * b) ** 2), "Which walks does your function choose too often?"),
    ),
]
