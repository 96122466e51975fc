"""Several processes that train one model: equal masks, gradients averaged, work shared, disagreement refused."""

import functools
import itertools
import multiprocessing
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import conv1d
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import chts_core as chts
from chts_core.engine.distributed import Ranks, telling_of_lost_ranks
from chts_core.engine.sharding import full_from_shards, full_tensor, local_rows, local_shard, shard_like
from chts_core.methods import METHODS, PRESETS, get_method

STEPS, EVERY, BATCH = 12, 3, 8
WIDTHS = (13, 24, 18, 5)  # of which two and four ranks do not get equal shares of the rows
CASES = [*METHODS, "gmp/no_return"]
ALL = list(itertools.product(CASES, ("ddp", "fsdp")))
# Ranks are copies of one process that has imported this.
multiprocessing.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "chts_core", "chts_core.compiled.products"]
)
FEWER = [("rigl", "ddp"), ("mest", "fsdp"), ("granet", "ddp"), ("chts", "fsdp")]  # with four ranks
# Layers with other weights than a linear layer, and what trains them.
OTHERS = [
    (kind, *case)
    for kind in ("transposed", "convolutions")
    for case in (("rigl", "fsdp"), ("gmp", "fsdp"), ("chts", "fsdp"), ("chts", "ddp"))
]


def build(kind: str = "linear") -> nn.Module:
    torch.manual_seed(0)
    layers = [module for a, b in itertools.pairwise(WIDTHS) for module in (nn.Linear(a, b), nn.ReLU())][:-1]
    if kind == "transposed":
        layers = [conv1d.transposed(layer) if isinstance(layer, nn.Linear) else layer for layer in layers]
    if kind == "convolutions":  # the last layer reads the channels, flattened
        layers[0] = nn.Conv2d(WIDTHS[0], WIDTHS[1], (2, 1), padding=(1, 0))
        layers[2] = nn.Conv2d(WIDTHS[1], WIDTHS[2], (2, 1))
        layers = [nn.Unflatten(1, (WIDTHS[0], 1, 1)), *layers[:-1], nn.Flatten(), layers[-1]]
    return nn.Sequential(*layers)


def wrap(model: nn.Module, way: str) -> nn.Module:
    if way == "ddp":
        return DistributedDataParallel(model)
    if way == "fsdp":
        for module in model:
            if list(module.parameters()):
                fully_shard(module)
        fully_shard(model)
    return model


def train(method: str, way: str, rank: int, ranks: int, *, parts: int = 1, kind: str = "linear") -> dict[str, Any]:
    """A short run on this rank's share of the batches; what it gave, whole."""
    model = build(kind)
    replica = wrap(model, way)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(
        replica, optimizer, method, 0.7, total_steps=STEPS, update_every=EVERY, seed=1, process_group=None
    )
    if kind != "linear":
        sparsifier.rescale_weights()
    masks = []
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        inputs = torch.randn(BATCH, WIDTHS[0], generator=generator)
        targets = torch.randn(BATCH, WIDTHS[-1], generator=generator)
        share = slice(rank, None, ranks)
        optimizer.zero_grad()
        pieces = list(zip(inputs[share].chunk(parts), targets[share].chunk(parts), strict=True))
        for number, (x, y) in enumerate(pieces, start=1):
            last = number == parts
            with nullcontext() if last or way != "ddp" else replica.no_sync():
                (nn.functional.mse_loss(replica(x), y) / parts).backward()
        optimizer.step()
        sparsifier.step()
        masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
    state = sparsifier.state_dict()
    for row in state["history"]:
        del row["seconds"]
    moments = {number: full_tensor(kept["exp_avg"]) for number, kept in optimizer.state_dict()["state"].items()}
    return {
        "masks": masks,
        "weights": {name: full_tensor(weight).detach().clone() for name, weight in model.named_parameters()},
        "moments": moments,
        "state": state,
    }


def a_flipped_mask(rank: int, ranks: int) -> str:
    """One rank has another mask than the others at an update."""
    model = build()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = chts.Sparsifier(wrap(model, "ddp"), optimizer, "set", 0.7, total_steps=STEPS, update_every=1)
    if rank == ranks - 1:
        sparsifier.network.weights["2.weight"].mask[0] ^= True
    model(torch.ones(1, WIDTHS[0])).sum().backward()
    return message_of(sparsifier.step)


def another_seed(rank: int, _: int) -> str:
    model = build()
    optimizer = torch.optim.Adam(model.parameters())
    return message_of(
        lambda: chts.Sparsifier(model, optimizer, "set", 0.7, total_steps=STEPS, update_every=1, seed=rank)
    )


def links_alone(_: int, __: int) -> str:
    model = build()
    optimizer = torch.optim.Adam(model.parameters())
    return message_of(
        lambda: chts.Sparsifier(model, optimizer, "set", 0.7, total_steps=STEPS, update_every=1, execution="csr")
    )


def a_group_of_ones_own(rank: int, ranks: int) -> str:
    """Processes that train different models say so, and are left alone."""
    groups = [dist.new_group([number]) for number in range(ranks)]
    model = build()
    optimizer = torch.optim.Adam(model.parameters())
    chts.Sparsifier(
        model, optimizer, "set", 0.7, total_steps=STEPS, update_every=1, seed=rank, process_group=groups[rank]
    )
    return "built"


def a_gradient_that_is_not_finite(rank: int, _: int) -> list[int]:
    """On one rank alone; all put the update off."""
    model = build()
    replica = wrap(model, "ddp")
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = chts.Sparsifier(replica, optimizer, "rigl", 0.7, total_steps=STEPS, update_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for step in range(1, 4):
            optimizer.zero_grad()
            replica(torch.ones(1, WIDTHS[0])).sum().backward()
            if step == 2 and rank == 0:
                sparsifier._gradients.dense["0.weight"][0, 0] = torch.inf
            optimizer.step()
            sparsifier.step()
    return [*sparsifier.postponed, *sorted({row["step"] for row in sparsifier.history})]


def shares(_: int, __: int) -> bool:
    """A weight is shared out, put together again, and told by its rows."""
    tensor = torch.arange(35.0).view(7, 5)
    linear = nn.Linear(5, 7)
    fully_shard(linear)
    shared = shard_like(tensor, linear.weight)
    rows = local_rows(linear.weight)
    return (
        torch.equal(local_shard(shared), tensor[rows])
        and torch.equal(full_tensor(shared), tensor)
        and torch.equal(full_from_shards(tensor[rows], linear.weight), tensor)
        and local_shard(linear.weight).shape[0] == rows.stop - rows.start
    )


def agreements(rank: int, _: int) -> list[Any]:
    """What is added up and gathered."""
    every = Ranks(dist.group.WORLD, torch.device("cpu"))
    return [every.mean(torch.tensor([float(rank), 1.0])).tolist(), every.sum([rank, 1]), every.gather(f"rank {rank}")]


def message_of(action: Callable[[], object]) -> str:
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


SINGLE = [
    a_flipped_mask,
    another_seed,
    links_alone,
    a_group_of_ones_own,
    a_gradient_that_is_not_finite,
    shares,
    agreements,
]


def work(rank: int, ranks: int, folder: Path) -> None:
    """All that one rank does: it starts but once, as that takes most of the time."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    found: dict[str, Any] = {}
    for method, way in ALL if ranks == 2 else FEWER:
        found[f"{method} {way}"] = train(method, way, rank, ranks)
    for method in ("rigl", "mest"):
        found[f"{method} in parts"] = train(method, "ddp", rank, ranks, parts=2)
    for kind, method, way in OTHERS if ranks == 2 else ():
        found[f"{method} {way} {kind}"] = train(method, way, rank, ranks, kind=kind)
    for scene in SINGLE:
        found[scene.__name__] = scene(rank, ranks)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Any]]]:
    """What each of so many ranks found; they are started once."""

    @functools.cache
    def run(ranks: int) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("ranks")
        torch.multiprocessing.start_processes(work, (ranks, folder), nprocs=ranks, start_method="forkserver")
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

    return run


@pytest.fixture(params=[2, 4], ids=lambda ranks: f"{ranks} ranks")
def found(request: pytest.FixtureRequest, of: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return of(request.param)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {method: train(method, "alone", 0, 1) for method in CASES}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.twin("an update shared out among processes", "one process", "the links of a run")
@pytest.mark.parametrize(
    ("found", "method", "way"), [*((2, *case) for case in ALL), *((4, *case) for case in FEWER)], indirect=["found"]
)
def test_ranks_end_equal_and_as_one_process_does(
    found: list[dict[str, Any]], alone: dict[str, dict[str, Any]], method: str, way: str
) -> None:
    first, *others = (rank[f"{method} {way}"] for rank in found)
    for other in others:
        assert_equal(first, other)  # masks, weights, moments, random numbers, history: to the bit
    single = alone[method]
    assert_equal(first["masks"], single["masks"])
    past, single_past = (run["state"].pop("past_weights") for run in (first, single))
    assert_equal(first["state"], single["state"])
    single["state"]["past_weights"] = single_past
    for ours, theirs in (
        (past, single_past),
        (first["weights"], single["weights"]),
        (first["moments"], single["moments"]),
    ):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "method", "way"), OTHERS)
def test_ranks_train_other_layers_as_one_process_does(
    of: Callable[[int], list[dict[str, Any]]], kind: str, method: str, way: str
) -> None:
    first, second = (rank[f"{method} {way} {kind}"] for rank in of(2))
    assert_equal(first, second)
    single = train(method, "alone", 0, 1, kind=kind)
    assert_equal(first["masks"], single["masks"])
    for name, weight in single["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["rigl", "mest"])
def test_a_batch_may_come_in_parts(found: list[dict[str, Any]], alone: dict[str, dict[str, Any]], method: str) -> None:
    for rank in found:
        assert_equal(rank[f"{method} in parts"]["masks"], alone[method]["masks"])


def test_the_runs_changed_their_masks(alone: dict[str, dict[str, Any]]) -> None:
    for method, run in alone.items():
        first, last = (run["masks"][step]["0.weight"] for step in (0, -1))
        assert torch.equal(first, last) == (method == "fc")


def test_a_mask_that_differs_stops_all_ranks_and_is_named(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert f"not those of rank 0: 2.weight (ranks {len(found) - 1})." in rank["a_flipped_mask"]


def test_another_seed_is_refused_at_once(found: list[dict[str, Any]]) -> None:
    others = ", ".join(map(str, range(1, len(found))))
    for rank in found:
        assert f"0.weight (ranks {others}); 2.weight (ranks {others})" in rank["another_seed"]
        assert "the same seed and settings on every rank" in rank["another_seed"]


def test_layers_that_store_links_alone_are_refused(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert f"execution is 'csr' in {len(found)} processes" in rank["links_alone"]


def test_ranks_of_other_models_can_be_left_alone(found: list[dict[str, Any]]) -> None:
    assert all(rank["a_group_of_ones_own"] == "built" for rank in found)


def test_all_ranks_put_an_update_off_together(found: list[dict[str, Any]]) -> None:
    assert all(rank["a_gradient_that_is_not_finite"] == [2, 3] for rank in found)


def test_a_weight_is_shared_out_by_rows(found: list[dict[str, Any]]) -> None:
    assert all(rank["shares"] for rank in found)


def test_means_sums_and_what_is_gathered_are_the_same_on_all_ranks(found: list[dict[str, Any]]) -> None:
    number = len(found)
    total = sum(range(number))
    for rank in found:
        assert rank["agreements"] == [[total / number, 1.0], [total, number], [f"rank {r}" for r in range(number)]]


def of_size(size: int) -> Ranks:
    ranks = Ranks(None, torch.device("cpu"))
    ranks.size = size
    return ranks


def test_the_largest_piece_of_work_is_given_away_first() -> None:
    owners = of_size(2).owners({"a": 3, "b": 10, "c": 4, "d": 4})
    assert owners == {"b": 0, "c": 1, "d": 1, "a": 1}


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 100)), st.integers(1, 5))
def test_no_rank_has_more_than_the_mean_and_one_piece(costs: dict[str, int], size: int) -> None:
    owners = of_size(size).owners(costs)
    loads = [sum(costs[name] for name in costs if owners[name] == rank) for rank in range(size)]
    assert owners.keys() == costs.keys()
    assert max(loads) <= sum(costs.values()) / size + max(costs.values(), default=0)


def test_one_process_needs_no_one() -> None:
    ranks = Ranks(None, torch.device("cpu"))
    tensor = torch.ones(3)
    ranks.check_same({"a": tensor.bool()})
    ranks.share({"a": tensor.bool()}, {"a": 0})
    assert ranks.mean(tensor) is tensor
    assert ranks.sum([1, 2.5]) == [1, 2.5]
    assert ranks.gather("a") == ["a"]
    assert (full_tensor(tensor), local_shard(tensor)) == (tensor, tensor)
    assert shard_like(tensor, torch.zeros(3)) is tensor
    assert local_rows(tensor) == slice(0, 3)


def test_a_broken_connection_is_told_with_a_remedy() -> None:
    with (
        pytest.raises(RuntimeError, match=r"another rank does not answer.*start all ranks again.*\(Connection closed"),
        telling_of_lost_ranks(),
    ):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(RuntimeError, match=r"^the loss is nan$"), telling_of_lost_ranks():
        raise RuntimeError("the loss is nan")


def test_every_preset_is_a_case_or_differs_from_one_in_no_way_that_ranks_see() -> None:
    methods = [get_method(name) for name in CASES]
    scores = {
        score for method in methods for score in (method.regrowth.score, method.removal.score, method.removal.prune)
    }
    for preset in PRESETS.values():
        assert {preset.regrowth.score, preset.removal.score, preset.removal.prune} <= scores
