"""Answers to the exercises of stage 01."""

from collections.abc import Callable
from typing import Any

import torch
from answers import cases
from torch import Tensor

from chts_core import topology


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lattice_of(outputs: int, inputs: int, links: int, *, ring: bool = True) -> Tensor:
    """The nearest links of outputs, which are the larger side; on a line if there is no ring."""
    shares = (torch.arange(outputs + 1) * links // outputs).diff()
    centres = (torch.arange(outputs) + 0.5) * inputs / outputs - 0.5
    apart = (torch.arange(inputs) - centres[:, None]).abs()
    distance = torch.minimum(apart, inputs - apart) if ring else apart
    return distance.argsort(1).argsort(1) < shares[:, None]


def small_world(
    rewire: Callable[..., Tensor], *, ring: bool = True, wide: bool = True, links: int = 0
) -> Callable[..., Any]:
    """An answer to 01.small_world: without a ring, for outputs as the larger side alone, with more links."""

    def answer(outputs: int, inputs: int, number: int, beta: float, generator: torch.Generator) -> Tensor:
        if wide and inputs > outputs:
            return answer(inputs, outputs, number, beta, generator).T
        return rewire(lattice_of(outputs, inputs, number + links, ring=ring), beta, generator)

    return answer


def any_of(mask: Tensor, generator: torch.Generator) -> Tensor:
    """One of the places of a 1-D mask."""
    places = mask.nonzero()[:, 0]
    return places[torch.randint(len(places), (), generator=generator)]


def let_go(mask: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    links = mask.nonzero()
    return links[torch.randperm(len(links), generator=generator)[: round(beta * len(links))]]


def rewired(lattice: Tensor, beta: float, generator: torch.Generator, *, back: bool = True) -> Tensor:
    mask = lattice.clone()
    loose = let_go(mask, beta, generator)
    mask[loose[:, 0], loose[:, 1]] = False
    for output in loose[:, 0].tolist():
        free = ~mask[output] if back else ~mask[output] & ~lattice[output]
        mask[output, any_of(free, generator)] = True
    return mask


def one_by_one(lattice: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """Each new end is drawn before the next link lets go."""
    mask = lattice.clone()
    for output, source in let_go(mask, beta, generator).tolist():
        mask[output, source] = False
        mask[output, any_of(~mask[output], generator)] = True
    return mask


def by_coin(lattice: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    number = int((torch.rand(int(lattice.sum()), generator=generator) < beta).sum())
    return rewired(lattice, number / int(lattice.sum()), generator)


def lost(lattice: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """A new end may fall on another link."""
    mask = lattice.clone()
    for output, source in let_go(mask, beta, generator).tolist():
        mask[output, source] = False
        mask[output, torch.randint(lattice.shape[1], (), generator=generator)] = True
    return mask


def anywhere(lattice: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """New links go anywhere in the layer, so outputs do not keep their degree."""
    mask = lattice.clone()
    loose = let_go(mask, beta, generator)
    mask[loose[:, 0], loose[:, 1]] = False
    for _ in loose:
        place = any_of(~mask.flatten(), generator)
        mask[place // mask.shape[1], place % mask.shape[1]] = True
    return mask


def to_the_first(lattice: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """Half of the new ends are the first free input; links come back as often as they should, on average."""
    mask = lattice.clone()
    loose = let_go(mask, beta, generator)
    mask[loose[:, 0], loose[:, 1]] = False
    for output in loose[:, 0].tolist():
        mask[output, (~mask[output]).nonzero()[0, 0]] = True
    return mask


def image_field(metric: float = 2.0, *, own: bool = True, turned: bool = False) -> Callable[[int, int, int], Tensor]:
    """An answer to 01.image_field: another distance, without the own pixel, numbered column by column."""

    def answer(height: int, width: int, degree: int) -> Tensor:
        sides = (width, height) if turned else (height, width)
        place = torch.cartesian_prod(*map(torch.arange, sides)).double()
        distance = torch.cdist(place, place, p=metric)
        # The farthest of equals first, so that another metric is not right by chance.
        order = (distance - 1e-6 * torch.cdist(place, place)).argsort(dim=1)
        nearest = order[:, :degree] if own else order[:, 1 : degree + 1]
        return torch.zeros(distance.shape, dtype=torch.bool).scatter(1, nearest, True)

    return answer


def along_the_row(height: int, width: int, degree: int) -> Tensor:
    pixels = height * width
    return topology.receptive_field(pixels, pixels, degree / pixels, 0.0, generator=seeded())


def five_networks() -> dict[str, Tensor]:
    sides, generator = (48, 32), seeded(1)
    near = torch.exp(-(torch.arange(32)[:, None] - torch.arange(32)).abs().double() / 4).fill_diagonal_(0)
    near[24:], near[:, 24:] = 0, 0  # constant features
    return {
        "ER": topology.erdos_renyi(*sides, 0.2, generator=generator),
        "BSW": topology.small_world(*sides, 0.2, generator=generator),
        "BSF": topology.scale_free(*sides, 0.2, generator=generator),
        "BRF": topology.receptive_field(*sides, 0.2, 0.1, generator=generator),
        "CSTI": topology.correlated(*sides, 0.2, near, generator=generator),
    }


FIVE = five_networks()
ORDER = ("BSF", "ER", "CSTI", "BRF", "BSW")


def named(*names: str | None) -> dict[str, str | None]:
    return dict(zip("ABCDE", names, strict=True))


GIVEN: dict[str, dict[str, Any]] = {
    "01.image_field": {"pixels": torch.ones(16, 16)},
    "01.names": {
        "five": FIVE,
        "mystery": {letter: FIVE[name].flip(0, 1) for letter, name in named(*ORDER).items() if name},
    },
}

RIGHT = [
    *cases("01.small_world", (small_world(rewired), "")),
    *cases("01.rich", ((3 / 8, 0.15), "")),
    *cases("01.image_field", (image_field(), "")),
    *cases("01.names", (named(*ORDER), "")),
]

STUBS = [
    *cases("01.small_world", (lambda *_: None, "small_world() returns None; return a Boolean mask (outputs, inputs).")),
    *cases(
        "01.rich",
        *((half, "replace each None in the cell above with a number.") for half in ((None, None), (0.375, None))),
    ),
    *cases("01.image_field", (lambda *_: None, "image_field() returns None; return a Boolean mask (pixels, pixels).")),
    *cases("01.four_cycles", (lambda _: None, "four_cycles() returns None; return a number of cycles.")),
    *cases("01.names", (named(None, None, None, None, None), "for A, replace None with the name of a network.")),
]

SLIPS = [
    *cases(
        "01.small_world",
        (lambda *given: small_world(rewired)(*given).T, "the mask has shape (4, 8), not (8, 4)."),
        (small_world(rewired, links=1), "for 8 outputs, 4 inputs and 16 links at β = 0, the mask has 17 links."),
        (
            small_world(rewired, ring=False),
            "for 8 outputs, 4 inputs and 16 links at β = 0, output 0 is at position -0.25 on the ring of inputs. ",
        ),
        (
            small_world(rewired, wide=False),
            "inputs and 16 links at β = 1, each input must still have 2 links, because the inputs are the larger side.",
        ),
        (
            lambda outputs, inputs, links, *_: (torch.arange(outputs * inputs) < links).view(outputs, inputs),
            "The outputs are the larger side, so their numbers of links may differ by at most one.",
        ),
        (small_world(lost), "a link if the new place already has a link?"),
        (
            small_world(anywhere),
            "at β = 0.5, the outputs have 0 to 4 links; each output must still have 2 links, as in the lattice.",
        ),
        (small_world(lambda lattice, *_: lattice), "at β = 0.5, no link moves; remove some links and draw new ones."),
        (
            small_world(by_coin),
            "at β = 0.5, up to 9 of 16 links moved. Remove exactly 8 links; do not toss a coin for each link.",
        ),
        (
            small_world(lambda *given: rewired(*given, back=False)),
            "at β = 0.5, no removed link returns to its old place in your masks; the old place must be as likely as ",
        ),
        (small_world(one_by_one), "Do you remove all chosen links before you draw the first new link?"),
        (small_world(to_the_first), "of the core's masks"),
    ),
    *cases(
        "01.rich",
        (
            (0.2, 0.15),
            "0.2 is the chance for five equally likely nodes, but a node with more links is chosen more often.",
        ),
        ((3, 0.15), "3 is the number of entries of node 3 in the list; divide it by the number of all entries."),
        (
            (0.75, 0.15),
            "0.75 is the share of the links that end at node 3; a newcomer draws one of the eight ends of the links.",
        ),
        ((0.5, 0.15), "0.5 is not right for one newcomer; count the entries of node 3 in the list."),
        (
            (0.375, 0.140625),
            "0.140625 is the square of the first chance, but the first new link adds two entries, one of them for ",
        ),
        ((0.375, 0.4), "0.4 is the chance for the second newcomer alone; both newcomers must choose node 3."),
        ((0.375, 0.1667), "0.1667 is the product of 3/8 and 4/9; a new link adds two entries."),
        (
            (0.375, 0.1125),
            "0.1125 is the product of 3/8 and 3/10; node 3 has one more entry after the first newcomer chooses it.",
        ),
        (
            (0.375, 0.775),
            "0.775 is the sum of the two chances; both newcomers must choose node 3, so multiply the chances.",
        ),
        ((0.375, 0.3), "0.3 is not right for two newcomers; write down the list of entries after the first newcomer."),
    ),
    *cases(
        "01.image_field",
        (lambda height, width, _: torch.ones(height, width), "the mask has shape (3, 3), not (9, 9)."),
        (
            lambda *given: image_field()(*given[:2], given[2] + 1),
            "your neurons have 2 to 2 links; each neuron needs 1.",
        ),
        (
            image_field(own=False),
            "in an image of 3 rows of 3 pixels, neuron 0 is in row 0, column 0. It has a link to pixel 1 (row 0, ",
        ),
        (image_field(turned=True), "whose Euclidean distance is smaller."),
        (image_field(1.0), "whose Euclidean distance is smaller."),
        (image_field(torch.inf), "whose Euclidean distance is smaller."),
        (
            along_the_row,
            "in an image of 2 rows of 4 pixels, neuron 0 is in row 0, column 0. It has a link to pixel 7 (row 1, ",
        ),
    ),
    *cases(
        "01.four_cycles", (lambda _: 2, "you counted each pair of outputs in both orders; count each pair only once.")
    ),
    *cases(
        "01.names",
        ({"A": "BSF"}, "keep the letters A, B, C, D, E."),
        (named("BSF", "ER", "CSTI", "BRF", "ERK"), "'ERK' is not one of the names ER, BSW, BSF, BRF, CSTI."),
        (named("BSF", "ER", "CSTI", "BRF", "BRF"), "each name belongs to one network; you used a name more than once."),
        (named("BSF", "ER", "CSTI", "BSW", "BRF"), "D is not BSW: its clustering is "),
        (named("ER", "BSF", "CSTI", "BRF", "BSW"), "A is not ER: its clustering is "),
        (
            named("CSTI", "ER", "BSF", "BRF", "BSW"),
            "A is not CSTI: it has 0 neurons without links, but CSTI leaves more ",
        ),
        (
            named("BSF", "CSTI", "ER", "BRF", "BSW"),
            "B is not CSTI: it has 0 neurons without links, but CSTI leaves more ",
        ),
        (
            named("BSW", "ER", "CSTI", "BRF", "BSF"),
            "A is not BSW: its outputs have 1 to 24 links, but in BSW and BRF, the numbers of links of any two "
            "outputs differ by at most one.",
        ),
        (named("BSF", "ER", "CSTI", "ER", "BSW"), "each name belongs to one network; you used a name more than once."),
        (named("BSF", "BRF", "CSTI", "ER", "BSW"), "B is not BRF: its outputs have "),
        (named("BRF", "ER", "CSTI", "BSF", "BSW"), "A is not BRF: its outputs have "),
        (named("BSF", "ER", "BRF", "CSTI", "BSW"), "C is not BRF: its outputs have "),
    ),
]
