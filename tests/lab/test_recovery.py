"""Hidden links and how well scores find them: on networks small enough to count."""

import pytest
import torch

from chts_core.lab import recovery
from chts_core.lab.notebook import l3

WHOLE = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(output: int, source: int) -> torch.Tensor:
    """The toy network's shape with one link."""
    mask = torch.zeros_like(WHOLE)
    mask[output, source] = True
    return mask


def test_the_simple_scores_by_hand() -> None:
    seen = WHOLE & ~only(1, 0)
    assert recovery.number_of_paths(seen).tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 1]]
    # Outputs have 2, 2 and 2 links, inputs 2, 3 and 1.
    assert recovery.degree_product(seen).tolist() == [[0, 0, 2], [4, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_the_number_of_paths_is_what_is_counted_one_by_one(seed: int) -> None:
    mask = torch.rand(6, 5, generator=generator(seed)) < 0.4
    counted = recovery.number_of_paths(mask)
    for link in l3.missing_links(mask):
        assert counted[link] == len(l3.paths(mask, link))
    assert not counted[mask].any()


def test_a_link_that_scores_highest_is_found() -> None:
    seen = WHOLE & ~only(1, 0)
    found = recovery.measure(recovery.number_of_paths(seen), seen, only(1, 0))
    assert (found.precision, found.auc) == (1, 1)


def test_equal_scores_count_as_their_random_order() -> None:
    seen = WHOLE & ~only(1, 2)  # input 2 has no link left: no missing link has a path
    found = recovery.measure(recovery.number_of_paths(seen), seen, only(1, 2))
    assert found.precision == pytest.approx(1 / 3)
    assert found.auc == 0.5


def test_precision_and_auc_by_hand_with_a_tie_at_the_border() -> None:
    seen = torch.tensor([[True, False, False], [False, False, False]])
    hidden = torch.tensor([[False, True, False], [True, False, False]])
    scores = torch.tensor([[9.0, 4, 2], [2, 2, 1]])
    found = recovery.measure(scores, seen, hidden)
    # The best is hidden; of the three that share the second place, one is.
    assert found.precision == pytest.approx((1 + 1 / 3) / 2)
    # 4 beats all three others; 2 beats one and ties with two.
    assert found.auc == pytest.approx((3 + 1 + 2 * 0.5) / 6)


def test_turning_a_score_round_mirrors_its_auc() -> None:
    mask = torch.rand(20, 30, generator=generator()) < 0.3
    hidden = recovery.hide(mask, 0.2, generator=generator(1))
    scores = torch.rand(mask.shape, generator=generator(2))
    forward, backward = (recovery.measure(score, mask & ~hidden, hidden).auc for score in (scores, -scores))
    assert forward != 0.5
    assert forward + backward == pytest.approx(1)


def test_hidden_links_are_a_share_of_the_links_and_depend_on_the_generator() -> None:
    mask = torch.rand(20, 30, generator=generator()) < 0.3
    one, other = (recovery.hide(mask, 0.2, generator=generator(seed)) for seed in (1, 2))
    assert int(one.sum()) == int(other.sum()) == round(0.2 * int(mask.sum()))
    assert not (one & ~mask).any()
    assert not torch.equal(one, other)
    assert torch.equal(one, recovery.hide(mask, 0.2, generator=generator(1)))


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_hiding_no_link_or_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share is {share}"):
        recovery.hide(WHOLE, share, generator=generator())


@pytest.mark.parametrize(
    ("seen", "hidden"),
    [
        (WHOLE, torch.zeros_like(WHOLE)),  # none is hidden
        (WHOLE, only(1, 0)),  # the hidden link is seen
        (~only(1, 0), only(1, 0)),  # no other link is missing
    ],
)
def test_what_cannot_be_measured_is_refused(seen: torch.Tensor, hidden: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="links are hidden"):
        recovery.measure(torch.zeros(3, 3), seen, hidden)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        recovery.measure(torch.zeros(3, 4), WHOLE & ~only(1, 0), only(1, 0))


def test_scores_find_what_was_put_there_by_places_and_random_ones_do_not() -> None:
    band = (torch.arange(60)[:, None] - torch.arange(60)).abs() <= 4
    found = recovery.by_score(band, 0.2, generator=generator())
    assert list(found) == [*recovery.SCORES, "random"]
    for name in ("CH2-L3n", "CH3-L3n", "CH3-L3p", "number of paths"):
        assert found[name].auc > 0.9
    assert 0.4 < found["random"].auc < 0.6


def test_scores_see_no_hidden_link() -> None:
    # A hidden link must not tell of itself: in a random network no score does better than chance, on average.
    masks = [torch.rand(60, 60, generator=generator(seed)) < 0.1 for seed in range(20)]
    found = [recovery.by_score(mask, 0.2, generator=generator(100 + seed)) for seed, mask in enumerate(masks)]
    for name in recovery.SCORES:
        assert 0.45 < sum(of[name].auc for of in found) / len(found) < 0.55
