import math

import pytest
import torch
from oracles import assert_fits
from torch import nn

from chts_core.engine import blocks
from chts_core.engine.dropout import Dropout
from chts_core.engine.layers import all_layers
from chts_core.engine.tracing import layer_graph

DTYPES = [torch.float32, torch.float64]


def seeded(p: float, seed: int = 0) -> Dropout:
    return Dropout(p, generator=torch.Generator().manual_seed(seed))


@pytest.mark.twin("engine.dropout.Dropout", "torch.nn.Dropout", "χ²")
@pytest.mark.parametrize("lag", [1, 32, 64])  # of the next counter, of the same random number, of the next run
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_pairs_of_elements_are_dropped_independently(p: float, lag: int) -> None:
    kept = seeded(p)(torch.ones(200, 640)).bool().flatten()
    pairs = (2 * kept[:-lag] + kept[lag:].long()).bincount(minlength=4)
    assert_fits(pairs.tolist(), [p * p, p * (1 - p), (1 - p) * p, (1 - p) ** 2])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_every_place_of_a_run_and_every_call_drops_its_share(p: float) -> None:
    dropout, calls = seeded(p), 3000
    kept = sum(dropout(torch.ones(100)).bool().long() for _ in range(calls))
    z = (kept - calls * (1 - p)) / math.sqrt(calls * p * (1 - p))
    assert float(z.abs().max()) < 4
    assert float(z.square().mean()) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (63,), (64,), (65,), (3, 40), (2, 5, 33)])
def test_what_is_kept_is_scaled_and_the_gradient_passes_there(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
    y = seeded(0.25)(x)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0))
    y.backward(torch.full_like(y, 3.0))
    torch.testing.assert_close(x.grad, torch.where(kept, torch.full_like(y, 4.0), 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_seed_alone_decides(dtype: torch.dtype) -> None:
    x = torch.randn(70, 90, dtype=dtype)
    first, threads = seeded(0.5)(x), torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert torch.equal(seeded(0.5)(x), first)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(seeded(0.5)(x.T.contiguous().T), first)
    assert not torch.equal(seeded(0.5, seed=1)(x), first)
    dropout = seeded(0.5)
    assert not torch.equal(dropout(x), dropout(x))


def test_by_default_the_global_generator_decides() -> None:
    x, dropout = torch.ones(200), Dropout(0.5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = dropout(x), dropout(x)
        torch.manual_seed(3)
        assert torch.equal(dropout(x), first)
        assert torch.equal(dropout(x), second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_precision_drops_the_same_elements(dtype: torch.dtype) -> None:
    x = torch.ones(5, 70)
    narrow = x.to(dtype).requires_grad_()
    y = seeded(0.5)(narrow)
    assert y.dtype == dtype
    assert torch.equal(y.float(), seeded(0.5)(x))
    y.sum().backward()
    assert torch.equal(narrow.grad, y.detach())


def test_the_edges_are_those_of_torch() -> None:
    x = torch.ones(50)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert not Dropout(1.0)(x).any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


def test_no_infinite_number_leaks_where_it_is_dropped() -> None:
    y = seeded(0.5)(torch.full((300,), math.inf))
    assert set(y.tolist()) == {0.0, math.inf}


def test_torch_can_transform_it() -> None:
    with torch.random.fork_rng():
        rows = torch.func.vmap(Dropout(0.5), randomness="different")(torch.ones(4, 64))
    assert set(rows.flatten().tolist()) == {0.0, 2.0}


def test_torch_can_trace_it() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), Dropout(0.5)))
    with torch.random.fork_rng():
        assert traced(torch.ones(4, 2)).shape == (4, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch itself
def test_second_and_forward_derivatives_are_those_of_the_same_drop() -> None:
    x = torch.linspace(1, 2, 60, dtype=torch.float64).requires_grad_()
    y = seeded(0.25)(x)
    (slope,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    kept = (y != 0).double() / 0.75
    torch.testing.assert_close(curve, (6 * kept**3 * x).detach())
    with torch.autograd.forward_ad.dual_level():
        given = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        found = torch.autograd.forward_ad.unpack_dual(seeded(0.25)(given))
        torch.testing.assert_close(found.tangent, kept)


def test_the_layer_graph_knows_it() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Dropout(0.1), nn.Linear(3, 3), nn.Linear(3, 2))
    graph, unknown = layer_graph(model, all_layers(model))
    assert graph.chains == (("0.weight", "3.weight", "4.weight"),)
    assert unknown == set()
    assert blocks.is_elementwise(Dropout(0.1))
    changed = Dropout(0.1)
    changed.register_forward_hook(lambda *_: None)
    assert not blocks.is_elementwise(changed)
    assert not blocks.is_elementwise(type("Mine", (Dropout,), {})(0.1))
    assert isinstance(Dropout(0.1), nn.Dropout)
