"""The same number of links in each block of a layer: constant fan-in, and N:M masks."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise, product
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_fits
from torch import Tensor, nn

import chts_core as chts
from chts_core.balance import quotas
from chts_core.choices import Cubic, ErdosRenyi, FullyConnected, Turnover
from chts_core.engine.linear import Execution
from chts_core.lab.verify import conformance
from chts_core.methods import Balanced, BalancedRegrowth, BalancedRemoval, Method, Regrowth, Removal, get_method
from chts_core.removal import WeightedLinks
from chts_core.sampling import choose_in_blocks
from chts_core.schedules import Timeline
from chts_core.tools.audit import audit


def balanced(name: str, block: int | None = None, by_block: bool = False) -> Method:
    """A method of the table with balanced choices."""
    method = chts.METHODS[name]
    removal, regrowth = method.removal, method.regrowth
    assert isinstance(removal.score, str)
    return replace(
        method,
        topology=Balanced(block),
        removal=BalancedRemoval(**{**vars(removal), "block": block, "by_block": by_block}),
        regrowth=BalancedRegrowth(**{**vars(regrowth), "block": block}),
    )


SRIGL = balanced("rigl")
METHODS = {
    "SRigL": (SRIGL, 0.75),
    "SRigL, unequal": (SRIGL, 0.9),
    "RigL in groups": (balanced("rigl", by_block=True), 0.75),
    "2:4": (balanced("rigl", 4), 0.5),
    "1:4 at random": (balanced("set", 4), 0.75),
    "CHTss": (balanced("chtss"), 0.9),
    "pruned to 2:4": (replace(balanced("granet", 4), sparsity=Cubic(initial=0.0)), 0.5),
}


def blocks_of(mask: Tensor, method: Method) -> list[int]:
    assert isinstance(method.topology, Balanced)
    return mask.reshape(-1, method.topology.block or mask.shape[1]).sum(1).tolist()


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.parametrize("name", METHODS)
def test_every_block_has_its_share_after_every_step(name: str, execution: Execution) -> None:
    method, sparsity = METHODS[name]
    model = tiny.mlp((16, 24, 16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    settings = {"total_steps": 24, "update_every": 3}
    run = chts.Sparsifier(model, optimizer, method, sparsity, execution=execution, **settings)
    plan = chts.plan(tiny.mlp((16, 24, 16, 3)), method, sparsity, **settings)
    for step in range(25):
        if step:
            optimizer.zero_grad()
            tiny.loss_of_mlp(model, step).backward()
            optimizer.step()
            run.step()
        links = plan.budget.links(run.progress.updated_at)
        for layer, mask in run.masks.items():
            found = blocks_of(mask, method)
            assert sum(found) == links[layer]
            assert max(found) - min(found) <= (links[layer] % len(found) > 0)
        assert [finding for finding in audit(run) if finding.check != "collapse"] == []
    assert sum(row["regrown"] for row in run.history) > 50


def test_two_in_four() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    run = chts.Sparsifier(
        model, torch.optim.SGD(model.parameters(), lr=0.1), balanced("set", 4), 0.5, total_steps=20, update_every=5
    )
    assert blocks_of(run.masks["0.weight"], balanced("set", 4)) == [2] * 12


@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 6)), block=st.integers(1, 4))
def test_blocks_never_lose_links_when_the_layer_gains_one(shape: tuple[int, int], block: int) -> None:
    rows, columns = shape[0], shape[1] * block
    series = [quotas(links, (rows, columns), block) for links in range(rows * columns + 1)]
    assert [int(nums.sum()) for nums in series] == list(range(rows * columns + 1))
    for fewer, more in pairwise(series):
        assert sorted((more - fewer).tolist()) == [0] * (rows * shape[1] - 1) + [1]
        assert int(more.max() - more.min()) <= 1


def test_extra_links_are_spread_over_the_layer() -> None:
    extra = quotas(25, (100, 10), None)
    assert all(4 <= int(extra[first : first + 20].sum()) <= 6 for first in range(0, 100, 20))


@pytest.mark.parametrize("soft", [True, False])
def test_draws_in_blocks_follow_the_scores(soft: bool) -> None:
    # Candidates 0, 2 and 4 are block 0, the others block 1.
    scores, blocks = torch.tensor([1.0, 2.0, 3.0, 2.0, 3.0]), torch.tensor([0, 1, 0, 1, 0])
    generator = torch.Generator().manual_seed(0)
    nums = torch.tensor([2, 1])
    counts = Counter(
        tuple(sorted(choose_in_blocks(scores, blocks, nums, soft=soft, generator=generator).tolist()))
        for _ in range(4000)
    )

    def probability(pair: tuple[int, ...]) -> float:
        a, b = (float(scores[link]) for link in pair)
        return a / 7 * b / (7 - a) + b / 7 * a / (7 - b)

    pairs = list(combinations((0, 2, 4), 2)) if soft else [(2, 4)]
    odds = {pair: probability(pair) if soft else 1.0 for pair in pairs}
    expected = {tuple(sorted((*pair, one))): odds[pair] / 2 for pair, one in product(pairs, (1, 3))}
    assert counts.keys() == expected.keys()
    assert_fits([counts[links] for links in expected], list(expected.values()))


def test_a_block_without_enough_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="2 links were asked for in block 1, which has 1 candidates"):
        choose_in_blocks(
            torch.ones(3), torch.tensor([0, 0, 1]), torch.tensor([0, 2]), generator=torch.Generator().manual_seed(0)
        )


def kept_by(removal: BalancedRemoval, target: int, exchanged: int) -> list[tuple[int, int]]:
    # Row 0 has the three smallest weights.
    outputs, inputs = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 3, 0, 1, 2])
    links = WeightedLinks(outputs, inputs, torch.tensor([0.3, -0.1, 0.2, 0.6, -0.4, 0.5]), None, (2, 4))
    kept = removal(links, target, exchanged, None, None, generator=torch.Generator().manual_seed(0)).sort().values
    return list(zip(outputs[kept].tolist(), inputs[kept].tolist(), strict=True))


def test_srigl_removes_the_smallest_links_of_the_layer_and_groups_remove_from_each_row() -> None:
    assert kept_by(BalancedRemoval("magnitude"), 6, 2) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert kept_by(BalancedRemoval("magnitude", by_block=True), 6, 2) == [(0, 0), (0, 3), (1, 0), (1, 2)]


def test_pruning_takes_links_from_each_row() -> None:
    assert kept_by(BalancedRemoval("magnitude"), 4, 0) == [(0, 0), (0, 3), (1, 0), (1, 2)]
    # Two inputs are a block: a row has 2 and 1 links in its blocks.
    assert kept_by(BalancedRemoval("magnitude", block=2), 4, 0) == [(0, 0), (0, 3), (1, 0), (1, 2)]


def test_regrowth_restores_the_fan_in_by_the_largest_gradients() -> None:
    gradient = torch.tensor([[0.0, 5.0, 9.0, 7.0], [0.0, 1.0, 0.0, 2.0]])
    links = torch.tensor([0, 4, 6])  # one link of row 0, two of row 1
    grown = BalancedRegrowth("gradient", soft=False)(
        links, (2, 4), 3, gradient, None, generator=torch.Generator().manual_seed(0)
    )
    assert grown.tolist() == [2, 3, 7]  # RigL would take 1, 2 and 3


@pytest.mark.parametrize("check", ["exchange", "removal", "regrowth"])
@pytest.mark.parametrize(
    "method", [SRIGL, balanced("rigl", 4, by_block=True), balanced("chts")], ids=["SRigL", "4", "CHTs"]
)
def test_they_conform(method: Method, check: str) -> None:
    found = conformance.checked("own", method, check)
    assert found.passed, found.detail


def test_a_dense_start_of_any_topology_conforms() -> None:
    method = replace(balanced("set", 4), topology=ErdosRenyi(), sparsity=Cubic(initial=0.0))
    found = conformance.checked("own", method, "regrowth")
    assert found.passed, found.detail


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (replace(SRIGL, regrowth=BalancedRegrowth("random")), "regrowth"),
        (replace(SRIGL, removal=BalancedRemoval("relative_importance")), "removal"),
        (replace(SRIGL, removal=BalancedRemoval("magnitude", by_block=True)), "removal"),
    ],
)
def test_conformance_notices_other_links(wrong: Method, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conformance.SPECS, "own", conformance.of_choices(SRIGL))
    assert conformance.checked("own", wrong, check).passed is False


def test_words_give_the_same_method() -> None:
    words = (
        "rigl with topology=Balanced(), removal=BalancedRemoval('magnitude'), "
        "regrowth=BalancedRegrowth('gradient', soft=False)"
    )
    assert get_method(words) == SRIGL


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SRIGL, removal=Removal("magnitude")),
        replace(SRIGL, regrowth=Regrowth("random")),
        replace(SRIGL, regrowth=BalancedRegrowth("random", block=4)),
    ],
)
def test_a_removal_that_regrowth_cannot_balance_is_refused(wrong: Method) -> None:
    with pytest.raises(ValueError, match="expected BalancedRemoval and BalancedRegrowth with the same block"):
        get_method(wrong)


@pytest.mark.parametrize("topology", [ErdosRenyi(), Balanced(), Balanced(8), FullyConnected()])
def test_updates_that_balance_need_a_balanced_start(topology: Any) -> None:
    method = replace(balanced("set", 4), topology=topology)
    message = r"the method starts from .* but has BalancedRemoval.* Choose topology=Balanced\(block=4\), or start dense"
    for turnover in (method.turnover, Turnover(0.0)):
        with pytest.raises(ValueError, match=message):
            chts.plan(tiny.mlp((16, 16, 3)), replace(method, turnover=turnover), 0.75, total_steps=20, update_every=5)


def test_updates_balance_a_dense_start_of_any_topology() -> None:
    method = replace(balanced("set", 4), topology=ErdosRenyi(), sparsity=Cubic(initial=0.0))
    model = tiny.mlp((16, 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = chts.Sparsifier(model, optimizer, method, 0.75, total_steps=20, update_every=5)
    for step in range(20):
        tiny.loss_of_mlp(model, step).backward()
        optimizer.step()
        run.step()
    assert blocks_of(run.masks["0.weight"], balanced("set", 4)) == [1] * 64
    longer = replace(run.progress.budget, timeline=Timeline(40, 5, method.turnover.stop), least={0.75: 0.75})
    assert sum(longer.links(0).values()) == 64


@pytest.mark.parametrize("start", [{}, {"topology": ErdosRenyi(), "sparsity": Cubic(initial=0.0)}])
@pytest.mark.parametrize("block", [3, 0, -4])
def test_blocks_that_do_not_divide_the_inputs_are_refused(start: dict[str, Any], block: int) -> None:
    wrong = replace(balanced("rigl", block), **start)
    with pytest.raises(ValueError, match=rf"layer '2.weight' has 16 inputs, which cannot be .* blocks of {block};"):
        chts.plan(tiny.mlp((12, 16, 16, 3)), wrong, 0.5, total_steps=20, update_every=2, include="2")
    with pytest.raises(ValueError, match=rf"has 16 inputs, which cannot be divided into blocks of {block};"):
        Balanced(block)(4, 16, 0.5, generator=torch.Generator())


def test_unbalanced_masks_to_start_from_are_refused() -> None:
    model = tiny.mlp((8, 8, 3))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"initial mask of '0.weight' has blocks with 0 to 4 links; expected the same"):
        chts.Sparsifier(model, optimizer, SRIGL, 0.75, total_steps=20, update_every=5, initial_masks={"0.weight": mask})


def test_the_audit_notices_a_block_that_lost_a_link() -> None:
    model = tiny.mlp((8, 8, 3))
    run = chts.Sparsifier(
        model, torch.optim.SGD(model.parameters(), lr=0.1), SRIGL, 0.5, total_steps=20, update_every=5
    )
    mask = run.masks["0.weight"]
    first, second = (mask[row].nonzero()[0, 0] for row in (0, 1))
    mask[0, first] = False
    assert [finding.check for finding in audit(run) if finding.check == "balance"] == []
    mask[1, second] = False
    mask[2] = True
    (finding,) = (finding for finding in audit(run) if finding.check == "balance")
    assert finding.message.startswith("blocks have 3 to 8 links after step 0; expected the same number in each")
