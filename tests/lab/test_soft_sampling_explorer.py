import math
import re
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chts_core.lab import figures
from chts_core.lab.widgets import SoftSamplingExplorer, SoftSamplingState
from chts_core.lab.widgets import soft_sampling as widget
from chts_core.sampling import gumbel

compute = SoftSamplingExplorer.compute


def entropy_of(scores: Tensor, temperature: float) -> float:
    powers = [float(score) ** temperature for score in scores]
    return -sum(power / sum(powers) * math.log2(power / sum(powers)) for power in powers)


@pytest.mark.parametrize(("temperature", "bits"), [(0.0, 2.0), (1.0, 1.846439), (3.0, 1.280037)])
def test_entropy_in_bits(temperature: float, bits: float) -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert widget._entropy(scores, temperature) == pytest.approx(bits, abs=1e-6)
    assert widget._entropy(scores, temperature) == pytest.approx(entropy_of(scores, temperature))


def test_chances_are_those_of_successive_draws() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    # Every order in which the four can be drawn; the last two of it are removed.
    expected = torch.zeros(4)
    for order in permutations(range(4)):
        chance, left = 1.0, 10.0
        for link in order:
            chance *= float(scores[link]) / left
            left -= float(scores[link])
        for link in order[2:]:
            expected[link] += chance
    noise = gumbel((20_000, 4), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(widget._removal_chances(scores, 1.0, 2, noise), expected, atol=0.015)


def test_the_description_counts_what_is_there() -> None:
    state = SoftSamplingState(
        softness=0.75, zeta=0.25, sparsity=0.8, score="magnitude", out_features=10, in_features=20
    )
    result = compute(state)
    links = round(0.2 * 200)
    assert result.links == len(result.removed) == len(result.chances) == links
    assert int(result.removed.sum()) == links // 4
    differ = int(result.removed[links // 4 :].sum())
    assert f"the first survivor of {links} links is drawn with an entropy of {result.entropy:.2f} bits" in (
        result.description
    )
    assert f"{result.entropy / math.log2(links):.0%} of the {math.log2(links):.2f} bits" in result.description
    assert "δ = 0.75, T = 3.00" in result.description
    assert f"Of the 10 links removed here, {differ} are not among the 10 weakest" in result.description


def test_the_ratio_is_that_of_the_strongest_to_the_weakest() -> None:
    state = SoftSamplingState(score="magnitude")
    scores = widget._sorted_scores(state, torch.Generator().manual_seed(0))
    assert torch.equal(scores, scores.sort().values)
    ratio = float(scores[-1] / scores[0])
    assert f"is {ratio:,.0f} times as likely" in compute(state).description
    harder = compute(SoftSamplingState(softness=0.9, score="magnitude")).description
    assert f"is 10^{9 * math.log10(ratio):.0f} times as likely" in harder


def test_without_softness_chances_are_alike_and_the_entropy_is_the_highest() -> None:
    result = compute(SoftSamplingState(softness=0.0))
    assert result.links == 86
    assert result.entropy == pytest.approx(math.log2(86))
    assert "100% of the 6.43 bits" in result.description
    assert "is 1 times as likely" in result.description
    assert float(result.chances.mean()) == pytest.approx(26 / 86)
    assert float(result.chances.std()) < 0.04  # 0.023 is the standard error of one


def test_a_harder_draw_agrees_more_with_the_hard_rule() -> None:
    result = compute(SoftSamplingState())
    assert result.curve_agreement[0] == pytest.approx(26 / 86, abs=0.05)
    assert bool((result.curve_agreement.diff() > 0).all())
    assert bool((result.curve_entropy.diff() < 0).all())
    assert result.curve_entropy[0] == pytest.approx(1)
    assert result.curve_entropy[10] == pytest.approx(result.entropy / math.log2(86))
    soft, hard = (compute(SoftSamplingState(softness=softness)).removed[26:].sum() for softness in (0.0, 0.95))
    assert int(hard) < int(soft)


# Each pair of ends is among the first four.
@pytest.mark.parametrize(
    ("softness", "sparsity", "zeta"),
    [
        (0.0, 0.5, 0.05),
        (0.0, 0.99, 0.6),
        (0.95, 0.5, 0.6),
        (0.95, 0.99, 0.05),
        pytest.param(0.0, 0.5, 0.6, marks=pytest.mark.full),
        pytest.param(0.0, 0.99, 0.05, marks=pytest.mark.full),
        pytest.param(0.95, 0.5, 0.05, marks=pytest.mark.full),
        pytest.param(0.95, 0.99, 0.6, marks=pytest.mark.full),
    ],
)
def test_the_extremes_can_be_drawn(softness: float, sparsity: float, zeta: float) -> None:
    state = SoftSamplingState(softness=softness, sparsity=sparsity, zeta=zeta)
    assert len(figures.to_png(SoftSamplingExplorer.figure(state))) > 1000


def test_a_share_of_less_than_half_a_link_is_told() -> None:
    result = compute(SoftSamplingState(sparsity=0.99, zeta=0.05))
    assert result.links == 9
    assert not result.removed.any()
    assert result.description.endswith(
        "A share ζ = 0.05 of so few links is less than half a link, so no link is removed."
    )


def test_the_hard_rule_and_the_draw_are_marked() -> None:
    chances = torch.tensor([0.9, 0.6, 0.3, 0.2])
    removed = torch.tensor([True, False, True, False])
    left, right = figures.removal_chances(
        chances, removed, 0.5, [0.0, 1.0], {"one": torch.tensor([0.5, 1.0]), "two": torch.tensor([1.0, 0.0])}
    ).axes
    step, gone, kept = left.lines
    assert step.get_xydata().tolist() == [[0.5, 100], [1.5, 100], [2.5, 100], [3.5, 0], [4.5, 0]]
    assert gone.get_xydata().round(3).tolist() == [[1, 90], [3, 30]]
    assert kept.get_xydata().round(3).tolist() == [[2, 60], [4, 20]]
    assert [line.get_label() for line in right.lines] == ["one", "two", "δ = 0.50"]
    assert right.lines[0].get_xydata().tolist() == [[0, 50], [1, 100]]


def test_runs_by_rule_are_averaged_over_layers_and_seeds() -> None:
    def run(rule: str, *overlaps: float) -> Any:
        history = [
            {"step": 10, "layer": str(number), "overlap": overlap, "itop": overlap / 2}
            for number, overlap in enumerate(overlaps)
        ]
        return SimpleNamespace(method=rule, history=history)

    left, right = figures.overlap_by_rule([run("hard", 0.8, 1.0), run("hard", 0.6, 0.8), run("soft", 0.1)]).axes
    assert [line.get_xydata().round(6).tolist() for line in left.lines] == [[[10, 80]], [[10, 10]]]
    assert [line.get_xydata().round(6).tolist() for line in right.lines] == [[[10, 40]], [[10, 5]]]
    looks = {(line.get_linestyle(), line.get_marker()) for line in left.lines}
    assert len(looks) == 2
    with pytest.raises(ValueError, match="at least 2 epochs"):
        figures.overlap_by_rule([run("hard")])


def test_an_update_shows_what_went_and_came_and_what_came_back() -> None:
    before = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    removed = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    regrown = torch.tensor([[0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    figure = figures.updates({"one": (before, removed, regrown)})
    (axes,) = figure.axes
    assert [len(links.get_segments()) for links in axes.collections] == [2, 1, 1, 1]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["stayed", "removed", "regrown", "removed, then regrown"]
    # The link from input 1 to output 0 went and came at once.
    assert axes.collections[3].get_segments()[0].tolist() == [[0, 0], [1, -0.5]]


def test_ramps_end_where_they_say() -> None:
    left, right = figures.temperature_ramps({"one": (1.0, 3.0), "two": (1.0, 9.0)}, 10).axes
    ends = [[line.get_ydata()[i] for i in (0, 5, 10)] for line in left.lines]
    assert ends == [[1, 2, 3], [1, 5, 9]]
    assert [line.get_ydata()[10] for line in right.lines] == pytest.approx([0.75, 0.9])
    assert right.lines[0].get_ydata()[5] == pytest.approx(2 / 3)


def test_chances_and_their_entropy_are_drawn_as_given() -> None:
    left, right = figures.chances_and_entropy(
        torch.tensor([1.0, 3.0]), {"T = 1": torch.tensor([0.25, 0.75])}, [0.0, 0.5], [1.0, 0.811]
    ).axes
    assert left.lines[0].get_xydata().tolist() == [[1, 0.25], [3, 0.75]]
    assert right.lines[0].get_xydata().tolist() == [[0, 1], [0.5, 0.811]]
    assert re.search("1.00 bits", right.get_legend().get_texts()[0].get_text())
