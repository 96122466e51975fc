"""Checks of stage 07, "Truly sparse"."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from chts_core.engine.kernels import Links, compress
from chts_core.engine.linear import SparseLinear
from chts_core.lab.notebook.checks.slips import refuse
from chts_core.topology import erdos_renyi

Lists = tuple[list[int], list[int], list[float]]


def to_lists(to_lists: Callable[[list[list[float]]], Lists | None]) -> None:
    """Exercise "Write down the links": write a function that returns the three CSR lists of a small matrix.

    The first test matrix has two outputs and four inputs. There are three more: one has outputs without links, one has
    no links at all, and one has all possible links.
    """
    lists = to_lists([[0, 5, 0, 7], [6, 0, 0, 0]])
    assert lists is not None, "to_lists() returns None; return three lists: begins, columns, values."
    begins, columns, values = (list(found) for found in lists)
    assert values != [6.0, 5.0, 7.0], "you went through the matrix input by input; CSR goes row by row."
    assert values == [5, 7, 6], f"the values are {values}; expected the values of the three links, row by row."
    assert columns != [2, 4, 1], "your columns count from 1; Python and CSR count from 0."
    assert columns != [0, 0, 1], "your columns are the rows of the links; CSR stores the column of each link."
    assert columns == [1, 3, 0], (
        f"the columns are {columns}; expected the input of each link, in the order of the values {values}."
    )
    assert begins != [0, 2], "your list `begins` has one entry per row; add a last entry for the end of the last row."
    assert begins != [2, 1], (
        "your list `begins` contains the number of links of each row; begin with 0, and add up these numbers."
    )
    assert begins != [2, 3], "your list `begins` starts with the end of the first row; the first row begins at 0."
    assert begins == [0, 2, 3], f"your list `begins` is {begins}; row i has the links begins[i] to begins[i + 1] - 1."
    others: list[list[list[float]]] = [[[0, 0], [0, 2], [0, 0]], [[0, 0]], [[-1, 2], [3, 4]]]
    for other in others:
        dense = torch.tensor(other)
        links, wanted = compress(dense != 0), dense[dense != 0].tolist()
        expected = links.crow_indices.tolist(), links.col_indices.tolist(), wanted
        found = tuple(list(part) for part in to_lists(other) or ())
        assert found == expected, (
            f"for the matrix {other}, you return {found}; `begins` must have {len(other) + 1} entries, and every "
            "number other than 0 is a link."
        )


def multiply(multiply: Callable[[list[int], list[int], list[float], list[float]], list[float] | None]) -> None:
    """Exercise "Multiply by links": write a function that computes the outputs from the CSR lists and a sample."""
    y = multiply([0, 2, 4, 5], [0, 1, 1, 2, 3], [1.0, 2, 3, 4, 5], [1.0, 2, 3, 4])
    assert y is not None, "multiply() returns None; return a list with one number for each output."
    assert len(y) == 3, f"you return {len(y)} numbers; expected 3, one fewer than the number of entries of `begins`."
    assert y != [3.0, 7.0, 5.0], (
        "your outputs are sums of the weights; multiply each weight by the input in its column."
    )
    assert y == [5, 18, 20], (
        f"you return {y}; expected [5, 18, 20]. Output i has the links begins[i] to begins[i + 1] - 1."
    )
    assert multiply([0, 0, 1], [0], [2.0], [3.0]) == [0, 6], "an output without links must be 0."


def training_bytes(training_bytes: Callable[[int, int, int, str], int | None]) -> None:
    """Exercise "What does a layer keep?": write a function for the bytes that a layer keeps between two steps.

    For a 5 × 4 layer with 6 links, the check compares three answers with results computed by hand: the bytes if the
    layer is dense, masked or csr. For a second layer, it compares one answer with a measurement.
    """
    dense = training_bytes(5, 4, 6, "dense")
    assert dense is not None, "training_bytes() returns None; return a number of bytes."
    assert dense != 4 * 20, (
        "the weights alone need 80 bytes; training also keeps a gradient and a momentum for each weight."
    )
    assert dense == 240, (
        f"for the dense layer, you return {dense} bytes; expected 3 numbers of 4 bytes for each of the 20 weights."
    )
    masked = training_bytes(5, 4, 6, "masked")
    assert masked != 240, (
        "for the masked layer, you return 240 bytes, as for the dense layer. Add the mask, one byte for each "
        "possible link."
    )
    assert masked not in (6 * 12, 6 * 12 + 20), (
        f"for the masked layer, you return {masked} bytes. Under a mask, the absent links have a weight, a gradient "
        "and a momentum, too."
    )
    assert masked == 260, (
        f"for the masked layer, you return {masked} bytes; expected the bytes of the dense layer plus one byte for "
        "each possible link."
    )
    alone = training_bytes(5, 4, 6, "links")
    slips = {
        "the size of the values, gradients and momenta alone; add 12 bytes for the position of each link, and add the "
        "beginnings of the rows and columns": 72,
        "the size without the beginnings of the rows and columns; add 4 bytes for each entry of both lists": 144,
        "the size with one beginning per row and column; each of the two lists has one more entry": 144 + 4 * 9,
        "the size without the beginnings of the columns; the backward pass needs them": 144 + 4 * 6,
    }
    refuse(alone or 0, slips, 0.5)
    assert alone == 188, (
        f"for the layer that stores only its links, you return {alone} bytes; expected 24 bytes for each link and 4 "
        "bytes for each of the 11 entries in the lists of beginnings."
    )
    mask = erdos_renyi(70, 50, 0.05, generator=torch.Generator().manual_seed(0))
    layer = SparseLinear.from_linear(nn.Linear(50, 70, bias=False), mask)
    kept = 3 * layer.values.nbytes + sum(buffer.nbytes for buffer in layer.buffers())
    mine = training_bytes(70, 50, int(mask.sum()), "links")
    assert mine == kept, (
        f"for a layer of 70 × 50 with {int(mask.sum())} links, you return {mine} bytes; a SparseLinear keeps {kept}."
    )


def break_even(break_even: float | None) -> None:
    """Exercise "When do links take more memory?": find the density at which csr and dense layers are equally large."""
    assert break_even is not None, "replace None with a density between 0 and 1."
    assert 0 <= break_even <= 1, (
        f"{break_even} is not a density; expected a share of all possible links, between 0 and 1."
    )
    assert abs(break_even - 0.5) > 1e-6, (
        "0.5 is the answer for SGD with momentum: 12 bytes for each weight, and 24 for each link. Adam keeps one more "
        "moment for each of them."
    )
    per_weight, per_link = 4 * 4, 4 * 4 + 12
    assert abs(break_even * per_link - per_weight) < 0.05, (
        f"at density {break_even}, the sparse layer needs {break_even * per_link:.1f} bytes per possible link, but the "
        f"dense layer needs {per_weight} bytes."
    )


Predict = Callable[[tuple[float, float], tuple[float, float], float], float | None]


def meeting_density(meeting_density: Predict) -> None:
    """Exercise "Predict the crossover": find the density at which a csr and a dense layer are equally fast.

    The function gets the times of a csr layer at two densities, and the time of the dense layer. The
    time of the csr layer is a fixed cost plus a cost proportional to the density.
    """
    # 1 ms + 30 ms · density is equal to 10 ms at a density of 0.3.
    found = meeting_density((0.01, 1.3), (0.05, 2.5), 10.0)
    assert found is not None, "meeting_density() returns None; return a density."
    slips = {
        "the answer from the first measurement alone; find the fixed cost from both measurements": 1 / 13,
        "the answer from the second measurement alone; find the fixed cost from both measurements": 0.2,
        "the dense time divided by the slope; subtract the fixed cost from the dense time first": 1 / 3,
        "the answer if you add the fixed cost to the dense time; subtract the fixed cost": 11 / 30,
        "the difference from the density of the first measurement; add this density": 0.29,
        "the difference from the density of the second measurement; add this density": 0.25,
        "a percentage; return a share between 0 and 1": 30,
    }
    refuse(round(found, 6), slips, 1e-4)
    assert abs(found - 0.3) < 1e-6, (
        f"{found:g} is not right; the line through the two measurements reaches 10 ms at a density of 0.3."
    )
    again = meeting_density((0.02, 1.6), (0.1, 4.0), 7.0)
    assert again is not None, "with other measurements, meeting_density() returns None; return a density."
    assert abs(again - 0.2) < 1e-6, (
        f"with 1.6 ms at 2 %, 4 ms at 10 % and 7 ms for the dense layer, you return {again:g}; expected 0.2."
    )
    never = meeting_density((0.01, 1.3), (0.05, 2.5), 0.5)
    assert never == 0, (
        f"a dense layer that takes 0.5 ms is faster than the csr layer at every density; return 0, not {never}."
    )
    always = meeting_density((0.01, 1.3), (0.05, 2.5), 50.0)
    assert always == 1, (
        f"the csr layer is faster at every density than a dense layer that takes 50 ms; return 1, not {always}."
    )


def fixed_cost(fixed_cost: float | None) -> None:
    """Exercise "What no sparsity removes": find the fixed cost of a step, in milliseconds."""
    assert fixed_cost is not None, "replace None in the cell above with a number of milliseconds."
    slips = {
        "the time of the sparse step; part of this time is arithmetic": 3.0,
        "3 minus 0.1; the dense step also has the fixed cost, so its arithmetic takes less than 10 ms": 2.9,
        "the time of 1 % of the FLOPs; find the time that does not depend on the FLOPs": 0.1,
        "the time of the arithmetic in the dense step; subtract it from 10 ms": 7 / 0.99,
        "the time that sparsity saves; find the time that sparsity cannot save": 7.0,
        "a share; give milliseconds": 0.293,
    }
    refuse(round(fixed_cost, 4), slips, 0.004)
    right = (3 - 0.01 * 10) / 0.99
    assert abs(fixed_cost - right) < 0.01, (
        f"with a fixed cost of {fixed_cost} ms, the step of the csr layer would take "
        f"{fixed_cost + 0.01 * (10 - fixed_cost):.2f} ms instead of 3 ms."
    )


Gradients = Callable[[Links, Tensor, Tensor, Tensor], tuple[Tensor, Tensor] | None]


def gradients(gradients: Gradients) -> None:
    """Exercise "Backward by links": write a function for the gradients that does not build the weight matrix.

    The function returns the gradients with respect to the values and the inputs. For a layer with three outputs and
    four inputs, the check compares them with a result computed by hand. For a 40 × 50 layer with 60 links, it compares
    them with the gradients of autograd. No tensor may be as large as the matrix.
    """
    weight = torch.tensor([[1.0, 2, 0, 0], [0, 3, 4, 0], [0, 0, 0, 5]])
    x, dy = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 10, 100]])
    answer = gradients(compress(weight != 0), weight[weight != 0], x, dy)
    assert answer is not None, (
        "gradients() returns None; return the gradient with respect to the values and the gradient with respect to x."
    )
    dvalues, dx = answer
    assert dvalues.shape == (5,), (
        f"the gradient with respect to the values has the shape {tuple(dvalues.shape)}; expected (5,), for 5 links."
    )
    assert dvalues.tolist() != [1, 2, 2, 3, 4], (
        "your gradient with respect to the values is the input alone; multiply it by dy."
    )
    assert dvalues.tolist() != [1, 1, 10, 10, 100], (
        "your gradient with respect to the values is dy alone; multiply it by the input."
    )
    assert dvalues.tolist() == [1, 2, 20, 30, 400], (
        f"your gradient with respect to the values is {dvalues.tolist()}; for the link from input j to output i, the "
        "gradient is dy[i] · x[j]."
    )
    assert dx.shape == (1, 4), (
        f"the gradient with respect to x has the shape {tuple(dx.shape)}; expected (1, 4), the shape of x."
    )
    assert dx.tolist() != [[1, 30, 40, 500]], (
        "input 1 has two links, but you keep the gradient of only one link. An assignment overwrites the first "
        "gradient, so add the gradients with index_add_."
    )
    assert dx.tolist() != [[1, 11, 10, 100]], (
        "your gradient with respect to x is dy alone; multiply it by the value of each link."
    )
    assert dx.tolist() == [[1, 32, 40, 500]], (
        f"your gradient with respect to x is {dx.tolist()}; for input j, the gradient is the sum of dy[i] · value "
        "over the links of this input."
    )
    _compare_with_autograd(gradients)


def _compare_with_autograd(gradients: Gradients) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = erdos_renyi(40, 50, 0.03, generator=generator)
    weight = torch.randn(40, 50, generator=generator).where(mask, 0).requires_grad_()
    x = torch.randn(3, 50, generator=generator, requires_grad=True)
    dy = torch.randn(3, 40, generator=generator)
    by_weight, by_x = torch.autograd.grad(x @ weight.T, (weight, x), dy)
    links, values, inputs = compress(mask), weight[mask].detach(), x.detach()
    with _Sizes() as sizes:  # type: ignore[no-untyped-call]
        answer = gradients(links, values, inputs, dy)
    assert answer is not None, "for a second layer, gradients() returns None; return both gradients."
    dvalues, dx = answer
    assert dvalues.shape == (60,), (
        f"for 3 samples, the gradient with respect to the values has the shape {tuple(dvalues.shape)}; sum it over the "
        "samples."
    )
    equal = torch.allclose(dvalues, by_weight[mask], atol=1e-5)
    assert equal, "for 3 samples, the gradient with respect to the values differs from the gradient of autograd."
    assert torch.allclose(dx, by_x, atol=1e-5), (
        "for 3 samples, the gradient with respect to x differs from the gradient of autograd."
    )
    assert sizes.largest < mask.numel(), (
        f"both gradients are right, but one of your tensors has {sizes.largest} elements; expected fewer "
        f"than the {mask.numel()} elements of the matrix. Work with one number for each sample and link."
    )


class _Sizes(TorchDispatchMode):
    """A mode that records the number of elements of the largest tensor that torch makes."""

    largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made
