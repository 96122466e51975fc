"""Checks of stage 03, soft sampling."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from chts_core import diagnostics, sampling
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.sampling import temperature_from_softness


def temperature_and_softness(temperature: Callable[[float], float], softness: Callable[[float], float]) -> None:
    """Temperature and softness: T as a function of δ, and δ as a function of T."""
    for d in (0.0, 0.5, 0.75, 0.9):
        mine, right = temperature(d), temperature_from_softness(d)
        assert mine is not None, "temperature() returns None; return the temperature T."
        assert math.isclose(mine, right, abs_tol=1e-9), f"you find T = {mine:g} for δ = {d}; expected {right:g}."
        back = softness(right)
        assert back is not None, "softness() returns None; solve T = δ / (1 - δ) for δ."
        assert math.isclose(back, d, abs_tol=1e-9), f"you find δ = {back:g} for T = {right:g}; expected {d}."


def temperature_for_bits(temperature_for_bits: Callable[[Tensor, float], float]) -> None:
    """A draw with a given entropy: a function that takes scores and a number of bits, and returns the temperature T.

    The check uses four scores, eight scores, and the first four scores divided by a million, in float32.
    """
    four = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for name, scores, bits in (
        ("1 to 4", four, 1.28),
        ("1 to 4", four, 0.384),
        ("1 to 8", torch.arange(1.0, 9.0), 2.0),
        ("1 to 4 millionths", four * 1e-6, 0.384),
    ):
        answer = temperature_for_bits(scores, bits)
        assert answer is not None, "temperature_for_bits() returns None; return a temperature T."
        asked = f"for the scores {name} and {bits:g} bits, you return T = {answer:g}"
        small = "Powers of small scores are 0 in float32; use logarithms. " if scores.max() < 1 else ""
        assert 0 <= answer < math.inf, f"{asked}; expected a finite T >= 0. {small}Print T in each step of your loop."
        left = _bits(scores, answer)
        if abs(left - bits) <= 0.01:
            continue
        assert abs(_bits(scores, answer) * math.log(2) - bits) > 0.01, f"{asked}. Your entropy is in nats; use log2."
        assert answer >= 1 or abs(_bits(scores, answer / (1 - answer)) - bits) > 0.01, (
            f"{asked}. Your answer is the softness δ; return T = δ / (1 - δ)."
        )
        more = "more" if left > bits else "fewer"
        raise AssertionError(
            f"{asked}. At this T, the entropy is {left:.2f} bits, {more} than required. {small}A larger T lowers the "
            "entropy. Which half of the interval do you keep?"
        )


def _bits(scores: Tensor, temperature: float) -> float:
    chances = (temperature * scores.double().log()).softmax(dim=0)
    return -float(torch.special.xlogy(chances, chances).sum()) / math.log(2)


def two_of_three(included: float | None) -> None:
    """Two of three links: the chance that two draws from links with scores 1, 2 and 3 include the link with score 3."""
    assert included is not None, "replace None in the cell above with a number."
    assert 0 <= included <= 1, f"{included} is not a probability; expected a number between 0 and 1."
    slips = {
        "the chance of being drawn first; add the chance of being drawn second": 1 / 2,
        "the answer for two draws with replacement; here, a link cannot be drawn twice": 3 / 4,
        "twice the chance in one draw; with this chance, the link would always be drawn": 1.0,
        "the answer for equal scores; the scores are 1, 2 and 3": 2 / 3,
        "the chance that the link is *not* drawn; subtract it from 1": 0.15,
        "the answer if the link with score 1 is always drawn before the link with score 2; count the other order, "
        "too": 14 / 15,
        "the answer if the link with score 2 is always drawn before the link with score 1; count the other order, "
        "too": 11 / 12,
        "the chance of the link with score 2; give the chance of the link with score 3": 11 / 15,
        "the chance of the link with score 1; give the chance of the link with score 3": 5 / 12,
    }
    refuse(included, slips, 0.002)
    assert abs(included - 0.85) < 0.006, (
        f"{included} is not right; which pairs of links do not contain the link with score 3?"
    )


def keep_links(keep_links: Callable[[Tensor, Tensor, int, float, torch.Generator], Tensor]) -> None:
    """Keep links by a race: a function that keeps exactly `num_keep` links of a mask.

    The layer has 8 places. Four of them have a link, with the scores 1, 2, 3 and 4. The places without a link have the
    score 9, so the check notices if the function draws one of them.
    """
    links = torch.tensor([[True, False, True, False], [False, True, False, True]])
    layer = torch.tensor([[1.0, 9.0, 2.0, 9.0], [9.0, 3.0, 9.0, 4.0]])
    scores, generator = layer[links], torch.Generator().manual_seed(0)
    for number, power in ((3, 1.0), (1, 0.0), (1, 1.0), (1, 3.0)):
        tries = [keep_links(layer, links, number, power, generator) for _ in range(2000)]
        assert tries[0] is not None, "keep_links() returns None; return a Boolean mask."
        kept = torch.stack([mask.bool() for mask in tries])
        sizes = kept.sum(dim=(1, 2)).unique().tolist()
        assert sizes == [number], (
            f"the draws kept {' or '.join(map(str, sizes))} links instead of {number}. Take the links "
            "with the highest keys; do not toss a coin for each link."
        )
        assert not (kept & ~links).any(), (
            "you drew a place without a link; give such places the key -inf before you take the highest keys."
        )
        if number == 1:
            often, wanted = kept.float().mean(dim=0)[links], scores**power / (scores**power).sum()
            assert often.max() < 1, "every draw is the same; add the noise before you take the highest keys."
            came, due = (" ".join(f"{share:.2f}" for share in shares) for shares in (often, wanted))
            message = (
                f"at T = {power:g}, the links with scores 1 to 4 are kept in these shares of the draws: {came}; "
                f"expected about {due}"
            )
            assert torch.allclose(often, wanted, atol=0.06), (
                f"{message}. Multiply only the logarithm by T, not the noise."
            )


def inclusion(inclusion: Callable[[list[float], int], Sequence[float]]) -> None:
    """Any number of draws: a function that returns each link's chance of being drawn in a given number of draws.

    The check compares the chances of three links with values computed by hand, and the chances of eight links with
    draws that the core makes.
    """
    three = [1 / 6, 2 / 6, 3 / 6]
    for chances, number, expected in (
        (three, 1, three),
        (three, 2, [5 / 12, 11 / 15, 17 / 20]),
        (three, 3, [1.0, 1.0, 1.0]),
        ([score / 36 for score in range(1, 9)], 3, None),
    ):
        answer = inclusion(list(chances), number)
        assert answer is not None, "inclusion() returns None; return a list with a chance for each link."
        found = [float(share) for share in answer]
        said = f"for {number} draws from {len(chances)} links, you return {' '.join(f'{share:.3f}' for share in found)}"
        assert len(found) == len(chances), f"{said}; expected {len(chances)} chances."
        for slip, wrong in {
            "These chances belong to draws with replacement; a link cannot be drawn twice": [
                1 - (1 - p) ** number for p in chances
            ],
            "These are the given chances times the number of draws. Such a product may exceed 1": [
                number * p for p in chances
            ],
        }.items():
            assert number == 1 or not _close(found, wrong, 1e-6), f"{said}. {slip}."
        assert abs(sum(found) - number) < 1e-6, (
            f"{said}. The chances add up to {sum(found):.3f}, but must add up to {number}, the number of links drawn. "
            "Do you count every order? After each draw, do you divide the remaining chances by their sum?"
        )
        due, tolerance = (expected, 1e-6) if expected else (_drawn_by_core(len(chances), number), 0.05)
        wanted = " ".join(f"{share:.3f}" for share in due)
        assert _close(found, due, tolerance), f"{said}; expected {'about ' if not expected else ''}{wanted}."


def _close(some: Sequence[float], others: Sequence[float], tolerance: float) -> bool:
    return all(abs(one - other) <= tolerance for one, other in zip(some, others, strict=True))


def _drawn_by_core(places: int, number: int) -> list[float]:
    """Let the core draw `number` of the links with the scores 1 to `places`, 2000 times.

    Return, for each link, the share of the draws that contain it.
    """
    scores, everywhere = torch.arange(1.0, places + 1)[None], torch.ones(1, places, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    drawn = [sampling.draw(scores, everywhere, number, generator=generator) for _ in range(2000)]
    shares: list[float] = torch.cat(drawn).float().mean(dim=0).tolist()
    return shares


def overlap_and_itop(overlap: Callable[[Tensor, Tensor, Tensor], float], itop: Callable[[list[Tensor]], float]) -> None:
    """Overlap and ITOP: a function that takes the masks of one update, and a function that takes all masks of a run.

    The first function gets three masks: before an update, after its removal, and after its regrowth. The layers have 8
    places.
    """
    before, kept = _layer("11110000"), _layer("11000000")
    for after, wanted, case in (
        (_layer("11101000"), 0.5, "an update removes two links, then regrows one of these links and one new link"),
        (_layer("11110000"), 1.0, "an update removes two links and regrows the same two"),
        (_layer("11001100"), 0.0, "an update removes two links and regrows two new links"),
        (_layer("11100000"), 1.0, "an update removes two links and regrows only one, because the density falls"),
    ):
        answer = overlap(before, kept, after)
        assert answer is not None, "overlap() returns None; return a number."
        core = diagnostics.overlap(before & ~kept, after & ~kept)
        assert core == wanted
        said = f"if {case}, you find an overlap of {float(answer):g}; expected {core:g}"
        assert answer != 0 or core == 0, f"{said}. A link that returns counts as regrown. Compare `after` with `kept`."
        assert abs(float(answer) - core) < 1e-6, f"{said}. Divide by the number of links that were *regrown*."
    run = [before, _layer("11101000"), _layer("11001100"), before]
    answer = itop(run)
    assert answer is not None, "itop() returns None; return a number."
    ever = diagnostics.itop_rate(torch.stack(run).any(dim=0))
    slips = {
        "the density of the last mask; count the links of the earlier masks, too": 0.5,
        "the sum of the densities; count each place only once": 2.0,
        "the share of the places that have a link in all masks; a link in one mask is enough": 0.25,
        "a number of links; divide it by the number of places": 6.0,
        "the number of used places, divided by the number of links in one mask; divide by the number of all places "
        "instead": 1.5,
    }
    refuse(float(answer), slips, 1e-6)
    assert abs(float(answer) - ever) < 1e-6, f"you find an ITOP rate of {float(answer):g}; expected {ever:g}."


def _layer(links: str) -> Tensor:
    return torch.tensor([place == "1" for place in links]).view(2, 4)


def fool_the_overlap(masks: Sequence[Sequence[int]] | None) -> None:
    """Fool one curve: four masks of 8 places with an overlap of 0. Only the first update uses new places."""
    assert masks is not None, "replace None with four lists of eight numbers, each 0 or 1."
    assert [len(mask) for mask in masks] == [8] * 4, (
        f"your lists have {' '.join(str(len(mask)) for mask in masks)} numbers; expected four lists of 8 numbers."
    )
    assert {place for mask in masks for place in mask} <= {0, 1}, "write 1 for a link and 0 for a place without a link."
    course = torch.tensor(masks, dtype=torch.bool)
    for number, links in enumerate(course.sum(dim=1).tolist()):
        assert links == 4, f"mask {number} (counted from 0) has {links} links; expected 4."
    for number, (before, after) in enumerate(pairwise(course), start=1):
        exchanged = int((before & ~after).sum())
        assert exchanged == 2, (
            f"update {number} exchanges {exchanged} links; expected 2. Links that are removed and regrown in the same "
            "update do not count."
        )
    rates = [diagnostics.itop_rate(course[: end + 1].any(dim=0)[None]) for end in range(4)]
    said = " ".join(f"{rate:g}" for rate in rates)
    assert rates[1] == rates[3], (
        f"the ITOP rates are {said}, so a later update still uses a new place. Which earlier places could its two new "
        "links use?"
    )
