"""Checks of stage 02, link prediction."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from scipy import stats
from torch import Tensor

from chts_core.lab.notebook import l3
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.lab.recovery import number_of_paths
from chts_core.link_prediction import ch2_l3n, ch3_l3n


def counted(counted: int | None, *, network: Tensor, missing: l3.Link) -> None:
    """Count the paths: the number of L3 paths of a missing link."""
    assert counted is not None, "replace None in the cell above with a number."
    explanation = l3.explain_count(network, missing, counted)
    assert not explanation, explanation


def my_ch3_l3n(my_ch3_l3n: Callable[[Tensor], Tensor]) -> None:
    """Your own matrices: a function that takes a mask and returns the scores of CH3-L3n."""
    for trial in range(20):
        mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(trial)) < 0.4
        mine, wanted = my_ch3_l3n(mask), ch3_l3n(mask)
        assert mine is not None, "my_ch3_l3n() returns None; return a matrix of scores."
        assert mine.shape == mask.shape, (
            f"the scores have shape {tuple(mine.shape)}; expected the shape of the mask, {tuple(mask.shape)}."
        )
        for output, source in (~((mine - wanted).abs() <= 1e-5)).nonzero().tolist()[:1]:
            got, due = mine[output, source].item(), wanted[output, source].item()
            where = (
                f"{l3.describe((output, source))} of random mask {trial}: your score is {got:.3f}; expected {due:.3f}."
            )
            raise AssertionError(f"{where} Hint: {_why(mask, (output, source))}.")


def _why(mask: Tensor, link: l3.Link) -> str:
    """Say what determines the score of this link."""
    if mask[link]:
        return "the score of an existing link is 0"
    return f"the link's local community is {', '.join(node.counts for node in l3.community(mask, link)) or 'empty'}"


def disagreement(disagreement: Sequence[Sequence[int]] | None) -> None:
    """More paths, lower score: a network in which CH2-L3n and the number of L3 paths disagree."""
    assert disagreement is not None, "replace None with a list of rows of zeros and ones."
    numbers = torch.as_tensor(disagreement)
    assert numbers.ndim == 2, "give a list of rows; each row is a list of zeros and ones."
    assert max(numbers.shape) <= 6, (
        f"the network has {numbers.shape[0]} outputs and {numbers.shape[1]} inputs; use at most 6 of each."
    )
    assert ((numbers == 0) | (numbers == 1)).all(), "each entry must be 0 (a missing link) or 1 (an existing link)."
    mask = numbers.bool()
    paths, scores = number_of_paths(mask), ch2_l3n(mask)
    assert paths.max() > 0, (
        "no missing link has an L3 path; start with three links that form a path between the ends of a missing link."
    )
    with_most = scores.masked_fill(paths < paths.max(), -1.0)
    best, most = (_place(table == table.max()) for table in (scores, with_most))
    found = [
        f"{l3.describe(link)}: number of L3 paths {int(paths[link])}, CH2-L3n {scores[link]:.2f}, community "
        f"{', '.join(node.counts for node in l3.community(mask, link))}"
        for link in (best, most)
    ]
    assert paths[best] < paths.max() - 0.5, (
        f"CH2-L3n and the number of L3 paths are highest for the same missing link: {found[0]}. Add links from "
        "this community to the outside, or give another missing link a community without links to the outside."
    )
    assert scores[best] > scores[most] + 1e-4, (
        "two missing links have the same score, but the link with fewer paths must have the higher score: "
        f"{'; '.join(found)}."
    )
    print("; ".join(found))


def _place(table: Tensor) -> l3.Link:
    output, source = table.nonzero()[0].tolist()
    return output, source


def count_paths(count_paths: Callable[[Tensor, l3.Link], int | None], *, seen: Tensor) -> None:
    """Recover the hidden link: a function that takes a mask and a link, and returns the number of L3 paths."""
    counts = {}
    for link in l3.missing_links(seen):
        counts[link] = count_paths(seen, link)
        assert counts[link] is not None, "count_paths() returns None; return a number of paths."
        explanation = l3.explain_count(seen, link, counts[link])
        assert not explanation, f"for the missing link {l3.describe(link)}, {explanation}"
    print("number of paths of each missing link (output, input):", counts)


def equal_degree(equal_degree: float | None) -> None:
    """When the path-based score costs more: the degree d at which it costs as much as four matrix products."""
    assert equal_degree is not None, "replace None in the cell above with a number of links."
    slips = {
        "a density; give the degree, which is a number of links": 0.159,
        "the degree for one matrix product; there are four products": 100,
        "the degree for two matrix products; P and Q are products, too": 126,
        "the degree for a layer with d³ paths in total; this layer has about 1000 d³ paths": 1587.4,
        "the third power of d; take its cube root": 4e6,
        "the square root of d³; take the cube root": 2000,
    }
    refuse(equal_degree, slips, 0.6)
    assert abs(equal_degree - 4e6 ** (1 / 3)) < 0.6, (
        f"{equal_degree} is not right: at this degree, there are {1000 * equal_degree**3:.2g} paths, but four products "
        "take 4e+09 multiplications."
    )


# The degrees of this network differ so much that wrong walks draw the links in clearly wrong proportions.
_UNEVEN = torch.tensor(
    [[0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1]],
    dtype=torch.bool,
)


class _Counted(random.Random):
    """A random number generator that counts its calls, so that it can stop an endless loop."""

    asked = 0

    def _count(self) -> None:
        self.asked += 1
        assert self.asked < 10_000, (
            "one draw asks for 10,000 random numbers, so your loop probably never ends. If you reject a walk, repeat "
            "the whole walk, not only its last step."
        )

    def random(self) -> float:
        self._count()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self._count()
        return super().getrandbits(k)


def draw_link(
    draw_link: Callable[[list[list[int]], list[list[int]], random.Random], l3.Link | None],
) -> None:
    """Draw a link by its number of paths: a function that draws a missing link without computing this number."""
    network = _UNEVEN
    inputs_of, outputs_of = ([sorted(near) for near in side] for side in l3.neighbours(network))
    chooser, came, draws = _Counted(0), Counter[l3.Link](), 3000
    for _ in range(draws):
        chooser.asked = 0
        link = draw_link(inputs_of, outputs_of, chooser)
        assert link is not None, "draw_link() returns None; return a missing link, (output, input)."
        output, source = link
        assert output < len(inputs_of), f"there is no output {output}; return (output, input) in this order."
        assert source < len(outputs_of), f"there is no input {source}; return (output, input) in this order."
        assert not network[link], f"{l3.describe(link)} is an existing link; reject this walk."
        came[link] += 1
    paths = number_of_paths(network).double()
    likely = [link for link in l3.missing_links(network) if paths[link] > 0]
    strays = [link for link in came if link not in likely]
    assert not strays, f"you drew {l3.describe(strays[0])}, but it has no L3 path."
    observed = [came[link] for link in likely]
    tests = {name: _fit(observed, likely, weights) for name, weights in _walks(network).items()}
    right = stats.chisquare(observed, [draws * float(paths[link] / paths.sum()) for link in likely])
    if right.pvalue < 1e-4:
        guess = max(tests, key=lambda name: tests[name])
        unlike = max(likely, key=lambda link: abs(came[link] / draws - float(paths[link] / paths.sum())))
        raise AssertionError(
            f"you drew {l3.describe(unlike)} in {came[unlike] / draws:.1%} of the draws; expected "
            f"{float(paths[unlike] / paths.sum()):.1%}. "
            + (guess if tests[guess] > 1e-4 else "Which walks does your function choose too often?")
        )
    print(f"{draws} draws, {len(likely)} links: χ² = {right.statistic:.1f}, p = {right.pvalue:.2f}")


def _fit(observed: list[int], likely: list[l3.Link], weights: Tensor) -> float:
    """The p-value of a χ² test: are the chances of the links proportional to these weights?"""
    chances = torch.stack([weights[link] for link in likely])
    return float(stats.chisquare(observed, (sum(observed) * chances / chances.sum()).tolist()).pvalue)


def _walks(mask: Tensor) -> dict[str, Tensor]:
    """Map a hint for each kind of wrong walk to the weights of the links, in a matrix of the mask's shape."""
    links = mask.double()
    of_output, of_input = (1 / links.sum(side).clamp(min=1) for side in (1, 0))
    back = links @ (of_input[:, None] * links.T)  # from u via z1 to z2; each output of z1 is equally likely
    ahead = of_output[:, None] * links  # from z2 to v
    one_end = (
        "This happens if the chance of a middle link depends only on how many links its {} has. A walk continues "
        "from both ends of the middle link."
    )
    return {
        "This happens if a walk starts at a random output and follows a random link in each step. Such a walk too "
        "often chooses paths through neurons with few links.": of_output[:, None] * (back @ ahead),
        "This happens if all middle links are equally likely. How many walks go through a middle link?": back @ ahead,
        "This happens if all links with a path are equally likely.": (links @ links.T @ links > 0).double(),
        "Your function draws links in proportion to CH2-L3n, not to the number of paths.": ch2_l3n(mask).double(),
        one_end.format("input"): links @ links.T @ ahead,
        one_end.format("output"): back @ links,
    }


def listed(listed: Iterable[Sequence[int]], *, network: Tensor, missing: l3.Link) -> None:
    """Name the paths: all L3 paths of a missing link."""
    explanation = l3.explain_paths(network, missing, listed)
    assert not explanation, explanation
