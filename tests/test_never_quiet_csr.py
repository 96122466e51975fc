"""Layers that store only their links stand where linear ones stood: nothing is lost without a word."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.linear import SparseLinear, to_dense

# PyTorch's own, of what it uses itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def random_mask(rows: int, columns: int, density: float = 0.4) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) < density


def sparse_and_dense(
    inputs: int = 8, outputs: int = 12, execution: str = "csr", bias: bool = True
) -> tuple[SparseLinear, nn.Linear]:
    """The same layer twice."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(inputs, outputs, bias)
    sparse = SparseLinear.from_linear(linear, random_mask(outputs, inputs), execution)
    return sparse, sparse.to_linear()


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# What code does with the output of a linear layer, taking it for contiguous or its own.
AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU in place": lambda y: nn.functional.relu(y, inplace=True),
    "SiLU in place": lambda y: nn.functional.silu(y, inplace=True),
    "add in place": lambda y: y.add_(1.0).square(),
    "multiply a part in place": lambda y: y.mul_(2.0)[..., :3].clone().tanh_(),
    "dropout in place": lambda y: nn.functional.dropout(y, 0.0, inplace=True),
    "masked fill in place": lambda y: y.masked_fill_(y.detach() < 0, 0.0).square(),
    "write a row": lambda y: nn.init.zeros_(y[0].detach()).sum() + y.square(),
    "view": lambda y: y.view(-1).square(),
    "view as complex": lambda y: torch.view_as_complex(y.view(*y.shape[:-1], -1, 2)).abs(),
    "view as heads": lambda y: y.view(len(y), -1, 3, 4).transpose(1, 2).square(),
    "view of another dtype": lambda y: y + y.detach().view(torch.int32).sign(),
}


@pytest.mark.promise("change the outputs of a layer in place, view them, under `csr`", "followed")
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("execution", ["csr", "masked"])
@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 1, 8), (4, 8)])
def test_outputs_may_be_treated_as_those_of_linear_layers(shape: tuple[int, ...], execution: str, after: str) -> None:
    results = []
    for layer in sparse_and_dense(execution=execution):
        x = rows(*shape).requires_grad_()
        y = layer(x)
        assert y.is_contiguous()
        AFTER[after](y).sum().backward()
        gradient = layer.values.grad if isinstance(layer, SparseLinear) else layer.weight.grad[random_mask(12, 8)]
        results.append((y.detach(), x.grad, layer.bias.grad, gradient))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def ensemble(layer: nn.Module, x: Tensor) -> Tensor:
    parameters, buffers = torch.func.stack_module_state([layer, copy.deepcopy(layer)])
    return torch.vmap(lambda *state: torch.func.functional_call(layer, state, (x,)))(parameters, buffers)


def exported(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.export.export(nn.Sequential(layer), (x,)).module()(x)


TRANSFORMED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "vmap": lambda layer, x: torch.vmap(layer)(x),
    "vmap over columns": lambda layer, x: torch.vmap(layer, in_dims=1)(x.unsqueeze(1)),
    "Jacobian": lambda layer, x: torch.func.jacrev(layer)(x[0]),
    "Hessian": lambda layer, x: torch.func.hessian(lambda row: layer(row).square().sum())(x[0]),
    "forward mode": lambda layer, x: torch.func.jvp(layer, (x,), (x,))[1],
    "gradients by sample": lambda layer, x: torch.vmap(torch.func.grad(lambda row: layer(row).sum()))(x),
    "trace": lambda layer, x: torch.jit.trace(layer, x[:2])(x),
    "script": lambda layer, x: torch.jit.script(nn.Sequential(layer, nn.Identity()))(x),
    "export": exported,
}


@pytest.mark.promise("trace, script, export or `vmap` a model under `csr`", "followed by a dense product")
@pytest.mark.parametrize("how", TRANSFORMED)
@pytest.mark.parametrize("execution", ["csr", "masked"])
def test_transforms_and_traces_see_a_dense_product(execution: str, how: str) -> None:
    ours, theirs = (TRANSFORMED[how](layer, rows(5, 8)) for layer in sparse_and_dense(execution=execution))
    torch.testing.assert_close(ours, theirs)


def dual(layer: nn.Module) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        return layer(torch.autograd.forward_ad.make_dual(rows(5, 8), rows(5, 8)))


UNTRACED: dict[str, Callable[[nn.Module], Any]] = {
    "torch.fx": torch.fx.symbolic_trace,
    "dual numbers": dual,
    "dual numbers without gradients": torch.no_grad()(dual),
}


@pytest.mark.promise("trace it by `torch.fx`, or use dual numbers", "refused, with the name of what works")
@pytest.mark.parametrize("how", UNTRACED)
def test_what_cannot_be_says_what_can(how: str) -> None:
    model = nn.Sequential(sparse_and_dense()[0], nn.ReLU())
    with pytest.raises((TypeError, NotImplementedError), match=r"to_dense\(model\).*compact\(\)"):
        UNTRACED[how](model)
    to_dense(model)
    UNTRACED[how](model)


THREADS = """
import multiprocessing, sys, warnings
import torch
from numba.np.ufunc import parallel
from torch import nn
from chts_core.engine.linear import SparseLinear

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
layer = SparseLinear.from_linear(nn.Linear(70, 90), torch.rand(90, 70) < 0.2)
x = torch.randn(33, 70, requires_grad=True)

def run(*_):
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, layer.values])]

def child(expected):
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        assert all(map(torch.equal, run(), expected))

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    expected = run()
assert torch.get_num_threads() == int(sys.argv[1])
assert parallel._is_initialized == (torch.get_num_threads() > 1 and not said)
print(*{str(warning.message) for warning in said if "Numba" in str(warning.message)})
process = multiprocessing.get_context("fork").Process(target=child, args=(expected,))
process.start()
process.join(20)
assert process.exitcode == 0, process.exitcode
torch.set_num_threads(1)
assert all(map(torch.equal, run(), expected))  # the ordinary loop has the same bits
assert torch.get_num_threads() == 1
"""


@pytest.mark.promise("set the number of threads; fork the process, under `csr`", "followed")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("threads", "layer"),
    [
        (1, "omp"),
        pytest.param(1, "tbb", marks=pytest.mark.full),
        pytest.param(2, "omp", marks=pytest.mark.full),
        pytest.param(3, "workqueue", marks=pytest.mark.full),
        pytest.param(2, "tbb", marks=pytest.mark.full),
    ],
)
def test_threads_are_as_the_user_set_them_and_a_fork_goes_on(threads: int, layer: str) -> None:
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(threads)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip() or "Change NUMBA_THREADING_LAYER" in done.stdout  # where that layer is not installed


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def attach(model: nn.Module, optimizer: torch.optim.Optimizer, execution: Any = "csr") -> chts.Sparsifier:
    return chts.Sparsifier(model, optimizer, "set", 0.5, total_steps=20, update_every=2, execution=execution)


@pytest.mark.promise(
    "hold a layer, its weight or a hook on it before `csr` changes it", "followed: they are the same objects"
)
def test_whoever_holds_a_layer_or_its_weight_goes_on_with_it() -> None:
    model = network()
    other_parent = nn.Sequential(model[0])
    parameters, layer, weight = list(model.parameters()), model[0], model[0].weight
    calls: list[str] = []
    layer.register_forward_hook(lambda *_: calls.append("forward"))
    removed = layer.register_forward_pre_hook(lambda *_: calls.append("removed"))
    layer.register_forward_pre_hook(lambda *_: calls.append("before"), with_kwargs=True)
    model[2].register_full_backward_hook(lambda *_: calls.append("backward"))
    model[2].register_full_backward_pre_hook(lambda *_: calls.append("before backward"))
    layer.note = "mine"
    optimizer = torch.optim.Adam(parameters, 0.01)
    sparsifier = attach(model, optimizer)
    removed.remove()
    assert isinstance(layer, SparseLinear)
    assert layer is model[0] is other_parent[0]
    assert layer.values is weight
    assert layer.note == "mine"
    for _ in range(5):
        optimizer.zero_grad()
        (100 * model(rows(4, 8))).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        assert float(torch.stack([p.grad.norm() for p in model.parameters()]).norm()) == pytest.approx(1.0)
        optimizer.step()
        sparsifier.step()
    assert calls == ["before", "forward", "before backward", "backward"] * 5


class Subclass(nn.Linear):
    """Whatever it does, a sparse layer would not do it."""


def prune_bias(model: nn.Sequential) -> None:
    nn.utils.prune.l1_unstructured(model[2], "bias", 0.5)


def parametrise_bias(model: nn.Sequential) -> None:
    nn.utils.parametrize.register_parametrization(model[2], "bias", nn.Identity())


MORE: dict[str, Callable[[nn.Sequential], Any]] = {
    "a pruned bias": prune_bias,
    "a parametrised bias": parametrise_bias,
    "a subclass": lambda model: model.__setitem__(2, Subclass(12, 12)),
    "a forward of its own": lambda model: setattr(model[2], "forward", lambda x: x),
    "a hook on saving": lambda model: model[2].register_state_dict_post_hook(lambda *_: None),
    "a hook on loading": lambda model: model[2].register_load_state_dict_pre_hook(lambda *_: None),
    "a buffer": lambda model: model[2].register_buffer("scale", torch.ones(1)),
}


@pytest.mark.promise(
    "have parametrised, pruned or subclassed layers under `csr`", "refused; with `auto` they stay masked"
)
@pytest.mark.parametrize("case", MORE)
def test_a_layer_that_is_more_than_linear_is_refused_or_stays_masked(case: str) -> None:
    model = network()
    MORE[case](model)
    layer = model[2]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"2\.weight cannot store only their links; expected weights of plain nn.Linear layers"
    ):
        attach(model, optimizer)
    attach(model, optimizer, "auto")
    assert model[2] is layer
    assert not isinstance(layer, SparseLinear)
    assert isinstance(model[0], SparseLinear)


class MatricesOnly(torch.optim.Optimizer):
    """As Shampoo: what has no rows and columns is moved in another way, or not at all."""

    def __init__(self, parameters: Any, vectors: bool) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.vectors = vectors

    def step(self, *_: Any) -> None:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                if parameter.ndim < 2 and not self.vectors:
                    raise ValueError("no matrix")
                scale = parameter.grad.norm(dim=-1, keepdim=True) if parameter.ndim > 1 else 1.0
                parameter -= self.param_groups[0]["lr"] * parameter.grad / scale


class OwnLBFGS(torch.optim.LBFGS):
    """Known by what it does."""


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


BY_SHAPE: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters()),
    "OwnLBFGS": lambda model: OwnLBFGS(model.parameters(), line_search_fn="strong_wolfe"),
    "Adafactor": lambda model: torch.optim.Adafactor(model.parameters()),
    "MatricesOnly": lambda model: MatricesOnly(model.parameters(), vectors=False),
    "MatricesOnly, of vectors": lambda model: MatricesOnly(model.parameters(), vectors=True),
}
if hasattr(torch.optim, "Muon"):
    BY_SHAPE["Muon"] = lambda model: torch.optim.Muon(weights(model))


@pytest.mark.promise("use LBFGS, Muon or Adafactor under `csr`", "refused; use `masked`")
@pytest.mark.parametrize("name", BY_SHAPE)
@pytest.mark.parametrize("execution", ["csr", "auto"])
def test_optimizers_that_go_by_the_shape_are_refused(execution: str, name: str) -> None:
    model = network()
    optimizer = BY_SHAPE[name](model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"{name.split(',')[0]} does not treat .* Choose execution='masked'"):
        attach(model, optimizer, execution)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not optimizer.state
    attach(model, optimizer, "masked")


@pytest.mark.parametrize("name", ["ASGD", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"])
def test_others_are_not(name: str) -> None:
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.0)
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    attach(model, optimizer)
    assert isinstance(model[0], SparseLinear)
