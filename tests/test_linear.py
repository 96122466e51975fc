"""Sparse layers against dense ones, and the promise that nothing as large as the layer is ever made."""

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import chts_core as chts
from chts_core.engine import kernels, kinds, linear
from chts_core.engine.kernels import COMPILED, DENSE, TORCH
from chts_core.engine.linear import SparseLinear

KERNELS = {"compiled": COMPILED, "dense": DENSE, "torch": TORCH}
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 9), (33, 20)]
DENSITIES = [0.0, 0.05, 0.3, 1.0]

# Two outputs with four inputs each.
MASK = torch.tensor([[True, False, False, True], [False, True, False, True]])
WEIGHT = torch.tensor([[2.0, 9.0, 9.0, 3.0], [9.0, 5.0, 9.0, 7.0]])


def sparse(execution: str = "csr", mask: Tensor = MASK, dtype: torch.dtype = torch.float32) -> SparseLinear:
    """A layer with the links of a mask; its linear layer has random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = nn.Linear(mask.shape[1], mask.shape[0], dtype=dtype)
    return SparseLinear.from_linear(dense, mask, execution)


def random_mask(shape: tuple[int, int], density: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def random_rows(samples: int, features: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(samples, features, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("execution", ["csr", "masked", "auto"])
def test_eight_elements_by_hand(execution: str) -> None:
    layer = SparseLinear(4, 2, MASK, execution=execution)
    with torch.no_grad():
        layer.values.copy_(torch.tensor([2.0, 3.0, 5.0, 7.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    x = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[3002.5, 7049.0], [5.5, 11.0]]
    y.backward(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    assert x.grad.tolist() == [[2.0, 10.0, 0.0, 17.0], [0.0, 5.0, 0.0, 7.0]]
    # By link: x of its input times what came back to its output, summed over both samples.
    assert layer.values.grad.tolist() == [1.0, 1000.0, 21.0, 2001.0]
    assert layer.bias.grad.tolist() == [1.0, 3.0]


def test_the_links_by_hand() -> None:
    links = linear.compress(MASK)
    assert links.crow_indices.tolist() == [0, 2, 4]
    assert links.col_indices.tolist() == [0, 3, 1, 3]
    assert links.ccol_indices.tolist() == [0, 1, 2, 2, 4]
    assert links.row_indices.tolist() == [0, 1, 0, 1]
    assert links.order.tolist() == [0, 2, 1, 3]
    assert links.positions().tolist() == [0, 3, 5, 7]
    assert links.shape == (2, 4)
    assert {tensor.dtype for tensor in links} == {torch.int32}


# torch's own products refuse a matrix without elements.
@pytest.mark.twin("engine.kernels.CompiledKernels, TorchKernels", "engine.kernels.DenseKernels", "numbers")
@pytest.mark.parametrize(
    ("kernels", "density"), [cell for cell in itertools.product(KERNELS, DENSITIES) if cell != ("torch", 0.0)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_products_are_those_of_the_dense_weight(shape: tuple[int, int], density: float, kernels: str) -> None:
    mask = random_mask(shape, density)
    mask[0, 0] |= kernels == "torch"
    links, own = linear.compress(mask), KERNELS[kernels]
    for samples, dtype, by_sample in itertools.product(
        (1, 6) if kernels == "torch" else (0, 1, 6), (torch.float32, torch.float64), (True, False)
    ):
        weight = random_rows(*shape, dtype=dtype) * mask
        x, dy = (random_rows(samples, size, dtype=dtype).T for size in (shape[1], shape[0]))
        if not by_sample:
            x, dy = x.contiguous(), dy.contiguous()
        bias = random_rows(1, shape[0], 3, dtype)[0]
        values = weight[mask]
        torch.testing.assert_close(own.forward(links, values, bias, x), weight @ x + bias[:, None])
        torch.testing.assert_close(own.forward(links, values, None, x), weight @ x)
        torch.testing.assert_close(own.input_gradient(links, values, dy), weight.T @ dy)
        torch.testing.assert_close(own.value_gradient(links, x, dy), (dy @ x.T)[mask])


@pytest.mark.twin("engine.kernels.filled", "assignment by mask", "numbers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_dense_weight_has_the_values_at_the_links(
    threads: int, shape: tuple[int, int], density: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    # The buffer that the weight is built in keeps values of an earlier, larger layer.
    kernels.filled(linear.compress(torch.ones(40, 40).bool()), torch.full((1600,), torch.nan, dtype=dtype))
    mask = random_mask(shape, density)
    links, weight = linear.compress(mask), torch.zeros(shape, dtype=dtype)
    x, dy = (random_rows(3, size, dtype=torch.float32).to(dtype).T for size in (shape[1], shape[0]))
    weight[mask] = random_rows(1, int(mask.sum())).to(dtype)[0]
    assert torch.equal(kernels.filled(links, weight[mask]), weight)
    assert torch.equal(DENSE.value_gradient(links, x, dy), (dy @ x.T)[mask])


@pytest.mark.twin("engine.kernels.transposed", "torch.Tensor.T", "numbers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 7), (7, 1), (8, 64), (9, 65), (17, 200), (64, 3)])
def test_a_transpose_of_its_own(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = random_rows(*shape).to(dtype)
    for tensor in (x, x.T, x[::2]):
        found = kernels.transposed(tensor)
        assert torch.equal(found, tensor.T)
        assert found.is_contiguous()
        assert found.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() or not found.numel()


@pytest.mark.parametrize("feature_major", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("execution", ["csr", "masked"])
def test_gradients_by_finite_differences(execution: str, bias: bool, feature_major: bool) -> None:
    mask = random_mask((5, 6), 0.4)
    mask[2] = False  # an output without links
    mask[:, 3] = False  # an input without
    layer = SparseLinear(6, 5, mask, bias=bias, execution=execution, dtype=torch.float64)
    x = random_rows(12, 6, dtype=torch.float64)
    x = (x.T.contiguous().T if feature_major else x).view(3, 4, 6).requires_grad_()

    def product(x: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(product, (x, *layer.parameters()))


@pytest.mark.parametrize("shape", [(6,), (0, 6), (4, 6), (2, 3, 6), (2, 1, 2, 6)])
@pytest.mark.parametrize("execution", ["csr", "masked"])
def test_inputs_of_any_number_of_dimensions(execution: str, shape: tuple[int, ...]) -> None:
    layer = sparse(execution, random_mask((5, 6), 0.5))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), layer.to_linear()(x))


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = sparse()
    monkeypatch.setattr(kernels.CompiledKernels, "input_gradient", lambda *_: pytest.fail("x wants no gradient"))
    layer(torch.ones(3, 4)).sum().backward()
    layer.values.requires_grad_(False)
    monkeypatch.setattr(kernels.CompiledKernels, "value_gradient", lambda *_: pytest.fail("nor do the values"))
    layer(torch.ones(3, 4)).sum().backward()


def test_the_second_derivative_is_refused() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(sparse()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


class Operations(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
        return result


@pytest.mark.parametrize("execution", ["csr", "masked"])
def test_training_makes_nothing_as_large_as_the_layer(execution: str) -> None:
    layer = sparse(execution, random_mask((300, 200), 0.01))
    optimizer = torch.optim.Adam(layer.parameters())
    with Operations() as operations:
        layer(torch.ones(4, 200)).square().sum().backward()
        optimizer.step()
    assert (operations.largest >= 300 * 200) == (execution == "masked")


@pytest.mark.parametrize("density", [0.01, 0.1])
def test_memory_is_that_of_the_links(density: float) -> None:
    mask = random_mask((300, 200), density)
    layer = sparse("csr", mask)
    tensors = [*layer.parameters(), *layer.buffers()]
    links = int(mask.sum())
    # A value, its input, its output and its place in the other order; where each neuron's links begin; the bias.
    assert sum(tensor.nbytes for tensor in tensors) == 16 * links + 4 * (301 + 201) + 4 * 300


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    layer = sparse(mask=random_mask((64, 48), 0.1))
    x = random_rows(16, 48).requires_grad_()
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            layer.zero_grad()
            x.grad = None
            y = layer(x)
            y.sum().backward()
            results.append((y.detach(), x.grad, layer.values.grad))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("samples", [0, 1, 7])
def test_a_later_product_leaves_the_results_of_earlier_ones_alone(samples: int, outputs: int) -> None:
    layer = sparse(mask=torch.ones(outputs, 6, dtype=torch.bool))
    inputs = [random_rows(samples, 6, seed).requires_grad_() for seed in range(3)]
    expected = [x @ layer.weight.T + layer.bias for x in inputs]
    with torch.inference_mode():  # first, so that its memory is used outside next
        kept = [layer(x) for x in inputs]
    with torch.no_grad():
        kept += [layer(x) for x in inputs]
    kept += [layer(x) for x in inputs]
    for y, wanted in zip(kept, expected * 3, strict=True):
        torch.testing.assert_close(y, wanted)
    slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in zip(kept[-3:], inputs, strict=True)]
    for slope, y in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, 2 * y @ layer.weight)


def test_the_loops_for_one_and_for_several_threads_are_kept_under_two_names() -> None:
    # Under one name Numba would give a process of several threads the loop that one of a single thread has compiled.
    from chts_core.compiled import dropout, products

    for loop in (products.multiply, products.multiply_at_links, products.transpose, dropout.drop):
        cells = (cell.cell_contents for cell in loop.__closure__)
        kept = [cell._cache._impl.filename_base for cell in cells if hasattr(cell, "_cache")]
        assert len(set(kept)) == 2


def test_two_threads_may_use_layers_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    layer = sparse(mask=random_mask((200, 200), 0.1))
    x = random_rows(64, 200)
    expected = layer(x)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(layer, [x] * 40))


@given(st.integers(0, 2**30), st.floats(0, 1), st.floats(0, 1))
def test_survivors_keep_their_values_and_others_start_from_zero(seed: int, before: float, after: float) -> None:
    old, new = random_mask((6, 7), before, seed), random_mask((6, 7), after, seed + 1)
    survivors = old & new & random_mask((6, 7), 0.7, seed + 2)
    layer = sparse(mask=old)
    weight = layer.weight.detach()
    layer.values.grad = layer.values.detach() * 2
    moments = layer.values.detach() * 3
    carry = layer.rewire(new, survivors)
    assert torch.equal(layer.mask, new)
    assert torch.equal(layer.weight.detach(), weight * survivors)
    assert torch.equal(layer.values.grad, layer.values * 2)
    assert torch.equal(carry(moments), layer.values * 3)
    again = linear.compress(new)
    assert all(map(torch.equal, layer.links, again))


def test_by_default_all_old_links_survive() -> None:
    layer = sparse()
    weight = layer.weight.detach()
    layer.rewire(torch.ones_like(MASK))
    assert torch.equal(layer.weight.detach(), weight)
    layer.rewire(~MASK)
    assert not layer.values.any()


@pytest.mark.parametrize("links", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_links_may_change_while_an_earlier_graph_is_alive(dtype: torch.dtype, links: int) -> None:
    layer = sparse(dtype=dtype)
    parameter = layer.values
    alive = layer(torch.ones(3, 4, dtype=dtype)).sum()
    alive.backward(retain_graph=True)
    layer.rewire(torch.arange(8).view(2, 4) < links)
    layer.values.grad = None
    layer(torch.ones(3, 4, dtype=dtype)).sum().backward()
    assert layer.values is parameter
    assert layer.values.grad.shape == (links,)
    assert layer.values.dtype == dtype


def test_a_linear_layer_stays_as_it_is_and_shares_its_bias() -> None:
    dense = nn.Linear(4, 2)
    before = dense.weight.detach().clone()
    layer = SparseLinear.from_linear(dense, MASK)
    with torch.no_grad():
        layer.values.zero_()
    assert torch.equal(dense.weight, before)
    assert layer.bias is dense.bias


@pytest.mark.parametrize("bias", [False, True])
def test_back_to_a_linear_layer(bias: bool) -> None:
    layer = SparseLinear(4, 2, MASK, bias=bias, dtype=torch.float64).eval()
    layer.values.requires_grad_(False)
    back = layer.to_linear()
    assert type(back) is nn.Linear
    assert torch.equal(back.weight, layer.weight)
    assert not back.weight[~MASK].any()
    assert (back.bias is None) == (layer.bias is None)
    assert not bias or (torch.equal(back.bias, layer.bias) and back.bias is not layer.bias)
    assert (back.weight.requires_grad, back.training, back.weight.dtype) == (False, False, torch.float64)


def test_to_dense_replaces_all_sparse_layers_of_a_model() -> None:
    model = nn.Sequential(sparse(), nn.Sequential(nn.ReLU(), sparse(mask=random_mask((3, 2), 0.5))))
    x = torch.ones(5, 4)
    expected = model(x)
    assert linear.to_dense(model) is model
    assert type(model[0]) is type(model[1][1]) is nn.Linear
    torch.testing.assert_close(model(x), expected)


def test_to_dense_keeps_a_layer_with_two_paths_one_layer() -> None:
    layer = sparse()
    model = linear.to_dense(nn.ModuleList([layer, nn.Identity(), layer]))
    assert type(model[0]) is nn.Linear
    assert model[0] is model[2]


def test_to_dense_of_a_model_that_is_one_sparse_layer() -> None:
    layer = sparse()
    found = linear.to_dense(layer)
    assert type(found) is nn.Linear
    assert torch.equal(found.weight, layer.weight)


def test_a_state_dict_brings_its_links() -> None:
    saved, other = sparse(), sparse(mask=random_mask((2, 4), 0.9, 5))
    assert len(saved.values) != len(other.values)
    state = saved.state_dict()
    assert set(state) == {"values", "bias", "crow_indices", "col_indices"}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    parameter = other.values
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.values is parameter
    assert torch.equal(other.weight, saved.weight)
    assert all(map(torch.equal, other.links, saved.links))
    other(torch.ones(1, 4)).sum().backward()


def test_the_state_of_a_linear_layer_loads_at_the_links() -> None:
    dense = nn.Linear(4, 2)
    with torch.no_grad():
        dense.weight.copy_(WEIGHT)
    layer = sparse()
    layer.load_state_dict(dense.state_dict())
    assert layer.values.tolist() == [2.0, 3.0, 5.0, 7.0]
    assert torch.equal(layer.bias, dense.bias)


DAMAGE = {
    "other outputs": ({"crow_indices": [0, 2, 3, 4]}, "3 outputs, but this layer has 2"),
    "a value too few": ({"values": [1.0, 2.0, 3.0]}, "do not fit together: 4 inputs, 3 values"),
    "counts beyond": ({"crow_indices": [0, 2, 5]}, "do not fit together: 4 inputs, 4 values, 5 links"),
    "counts that fall": ({"crow_indices": [0, 5, 4]}, "negative number of links"),
    "an input beyond": ({"col_indices": [0, 3, 1, 4]}, "inputs outside 0 to 3"),
    "a negative input": ({"col_indices": [-1, 3, 1, 3]}, "inputs outside 0 to 3"),
    "a link twice": ({"col_indices": [3, 3, 1, 3]}, "not in strictly ascending order"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_links_are_refused_and_nothing_is_lost(damage: str) -> None:
    changed, message = DAMAGE[damage]
    model = nn.Sequential(sparse())
    before = copy.deepcopy(model.state_dict())
    state = model.state_dict() | {f"0.{name}": torch.tensor(value) for name, value in changed.items()}
    with pytest.raises(ValueError, match=f"the saved links of layer '0'.*{message}"):
        model.load_state_dict(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_weight_of_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeError, match="values"):
        sparse().load_state_dict(nn.Linear(5, 2).state_dict())


def test_a_copy_is_its_own() -> None:
    layer = sparse()
    other = copy.deepcopy(layer)
    other.rewire(torch.ones_like(MASK))
    assert torch.equal(layer.mask, MASK)


def test_moves_between_dtypes() -> None:
    layer = sparse().double()
    assert layer(torch.ones(1, 4, dtype=torch.float64)).dtype == torch.float64
    assert {buffer.dtype for buffer in layer.buffers()} == {torch.int32}


@pytest.mark.parametrize("execution", ["csr", "masked"])
def test_under_autocast_it_computes_in_its_own_dtype(execution: str) -> None:
    layer = sparse(execution, random_mask((8, 16), 0.3))
    x = random_rows(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
        y.sum().backward()
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, layer(x.bfloat16().float()))


@pytest.mark.parametrize(("crossover", "kernels"), [(0.2, DENSE), (0.5, COMPILED), (0.9, COMPILED)])
def test_auto_goes_by_the_crossover(crossover: float, kernels: object) -> None:
    layer = sparse("auto")  # half of the links are there
    layer.crossover = crossover
    assert layer.kernels() is kernels


def test_the_crossover_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._measured_crossover.cache_clear()
    products = 0
    product = kernels.DenseKernels.forward

    def count(*given: Any) -> Tensor:
        nonlocal products
        products += 1
        return product(*given)

    monkeypatch.setattr(kernels.DenseKernels, "forward", count)
    first = linear.crossover_density(24, 16, torch.device("cpu"), torch.float32)
    measured = products
    again = linear.crossover_density(24, 16, torch.device("cpu"), torch.float32)
    assert 0 <= first == again <= 1
    assert products == measured > 0
    layer = sparse("auto", random_mask((24, 16), 0.3))
    layer.kernels()
    assert layer.crossover == first


REFUSED = {
    "unknown execution": (lambda: sparse("fast"), ValueError, "execution is 'fast'"),
    "mask of another shape": (lambda: SparseLinear(3, 2, MASK), ValueError, r"mask has shape \(2, 4\)"),
    "mask of floats": (lambda: SparseLinear(4, 2, MASK.float()), TypeError, "expected torch.bool"),
    "bfloat16": (lambda: sparse(dtype=torch.bfloat16), TypeError, "dtype torch.bfloat16; expected torch.float32"),
    "wrong width": (lambda: sparse()(torch.ones(2, 3)), ValueError, r"input has shape \(2, 3\); expected \(..., 4\)"),
    "a device without": (
        lambda: kernels.sparse_kernels(torch.device("meta"), torch.float32),
        RuntimeError,
        "no sparse kernels for device meta",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_says_what_cannot_be(case: str) -> None:
    refused, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        refused()


def test_masked_execution_takes_other_dtypes() -> None:
    layer = sparse("masked", dtype=torch.bfloat16)
    layer(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
    assert layer.values.grad.dtype == torch.bfloat16


def test_says_what_it_is() -> None:
    assert repr(sparse()) == "SparseLinear(in_features=4, out_features=2, bias=True, links=4, execution='csr')"


def test_as_a_part_of_a_transformer_layer() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    mask = random_mask((16, 8), 0.5)
    with torch.no_grad():
        block.linear1.weight.mul_(mask)
    x = random_rows(6, 8).view(2, 3, 8)
    expected = block(x)
    block.linear1 = SparseLinear.from_linear(block.linear1, mask)
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():  # the way around the modules
        torch.testing.assert_close(block(x), expected)


def test_compiled_models_go_around_it() -> None:
    model = nn.Sequential(sparse(), nn.ReLU())
    x = torch.ones(3, 4)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.cuda
@pytest.mark.parametrize("execution", ["csr", "masked", "auto"])
def test_on_cuda_it_is_what_it_is_on_the_cpu(execution: str) -> None:
    mask = random_mask((33, 20), 0.1)
    here, there = sparse("csr", mask), sparse(execution, mask).cuda()
    x = random_rows(6, 20)
    here(x).square().sum().backward()
    there(x.cuda()).square().sum().backward()
    torch.testing.assert_close(there.values.grad.cpu(), here.values.grad)


def test_it_is_in_the_contract() -> None:
    assert chts.linear.SparseLinear is SparseLinear


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_gives_its_links_back_is_the_linear_layer_it_was(bias: bool) -> None:
    layer = nn.Linear(4, 2, bias)
    weight, before = layer.weight, layer.weight.detach().clone()
    attributes, names = set(vars(layer)), set(layer._parameters)
    taken = SparseLinear.take_over(layer, MASK)
    taken(torch.ones(1, 4)).sum().backward()
    taken.give_back()
    assert type(layer) is nn.Linear
    assert layer.weight is weight
    assert torch.equal(weight.detach(), before * MASK)
    assert weight.grad is None
    assert (set(vars(layer)), set(layer._parameters)) == (attributes, names)
    assert not layer._buffers
    assert kinds.convertible(nn.Sequential(layer), "0.weight")
    assert layer(torch.ones(1, 4)).requires_grad
