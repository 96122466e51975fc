"""Checks of stage 07, truly sparse."""

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
    """Write down the links: a function that returns the three lists of CSR of a small matrix.

    The matrix has two outputs and four inputs. Further test matrices have an output without links, or no link at all.
    """
    lists = to_lists([[0, 5, 0, 7], [6, 0, 0, 0]])
    assert lists is not None, "to_lists() returns None; return three lists: begins, columns, values."
    begins, columns, values = (list(found) for found in lists)
    assert values != [6.0, 5.0, 7.0], "you went through the matrix input by input; CSR goes row by row."
    assert values == [5, 7, 6], f"the values are {values}; expected those of the three links, row by row."
    assert columns != [2, 4, 1], "the columns count from 1; Python and CSR count from 0."
    assert columns != [0, 0, 1], "these are the rows of the links; CSR keeps the column of each link."
    assert columns == [1, 3, 0], f"the columns are {columns}; expected the input of each of the values {values}."
    assert begins != [0, 2], "begins has one entry per row; a last one must say where the last row ends."
    assert begins != [2, 1], "begins has the number of links of each row; sum them up, from 0."
    assert begins != [2, 3], "begins starts with the end of the first row; the first row begins at 0."
    assert begins == [0, 2, 3], f"begins is {begins}; row i has the links begins[i] to begins[i + 1]."
    others: list[list[list[float]]] = [[[0, 0], [0, 2], [0, 0]], [[0, 0]], [[-1, 2], [3, 4]]]
    for other in others:
        dense = torch.tensor(other)
        links, wanted = compress(dense != 0), dense[dense != 0].tolist()
        expected = links.crow_indices.tolist(), links.col_indices.tolist(), wanted
        found = tuple(list(part) for part in to_lists(other) or ())
        assert found == expected, f"for {other} you return {found}; begins must have {len(other) + 1} entries."


def multiply(multiply: Callable[[list[int], list[int], list[float], list[float]], list[float] | None]) -> None:
    """Multiply by links: a function that takes the three lists of CSR and a sample, and returns the outputs."""
    y = multiply([0, 2, 4, 5], [0, 1, 1, 2, 3], [1.0, 2, 3, 4, 5], [1.0, 2, 3, 4])
    assert y is not None, "the function returns None; let it return a list with one number for each output."
    assert len(y) == 3, f"it returns {len(y)} numbers; the outputs are one fewer than the entries of `begins`, so 3."
    assert y != [3.0, 7.0, 5.0], "these are sums of the weights; multiply each by the input in its column."
    assert y == [5, 18, 20], (
        f"it returns {y} and should return [5, 18, 20]: output i has the links begins[i] to begins[i+1]."
    )
    assert multiply([0, 0, 1], [0], [2.0], [3.0]) == [0, 6], "an output without links must give 0."


def training_bytes(training_bytes: Callable[[int, int, int, str], int | None]) -> None:
    """What a mask saves: the bytes that a layer keeps between steps: dense, under a mask, and with only its links.

    The layer of 5 × 4 with 6 links is worked out by hand; another one is measured.
    """
    dense = training_bytes(5, 4, 6, "dense")
    assert dense is not None, "training_bytes() returns None; return a number of bytes."
    assert dense != 4 * 20, "80 bytes are the weights alone; training also keeps a gradient and a momentum for each."
    assert dense == 240, f"dense {dense} bytes; expected 3 numbers of 4 bytes for each of the 20 weights."
    masked = training_bytes(5, 4, 6, "masked")
    assert masked != 240, "masked 240 bytes: as many as dense, but the mask needs one byte for each possible link too."
    assert masked not in (6 * 12, 6 * 12 + 20), (
        f"masked {masked} bytes: under a mask the absent links have a weight, a gradient and a momentum too."
    )
    assert masked == 260, f"masked {masked} bytes; expected those of the dense layer, and one byte for each place."
    alone = training_bytes(5, 4, 6, "links")
    slips = {
        "without the places of the links, 12 bytes each, and the beginnings of the rows and columns": 72,
        "without the beginnings of rows and columns, 4 bytes each": 144,
        "with one beginning per row and column; there is one more of each, for the end": 144 + 4 * 9,
        "with the beginnings of the rows alone; the backward pass needs those of the columns": 144 + 4 * 6,
    }
    refuse(alone or 0, slips, 0.5)
    assert alone == 188, f"only the links: {alone} bytes; expected 24 for each link and 4 for each beginning."
    mask = erdos_renyi(70, 50, 0.05, generator=torch.Generator().manual_seed(0))
    layer = SparseLinear.from_linear(nn.Linear(50, 70, bias=False), mask)
    kept = 3 * layer.values.nbytes + sum(buffer.nbytes for buffer in layer.buffers())
    mine = training_bytes(70, 50, int(mask.sum()), "links")
    assert mine == kept, f"for 70 × 50 with {int(mask.sum())} links you say {mine} bytes; a SparseLinear keeps {kept}."


def break_even(break_even: float | None) -> None:
    """Where links stop saving memory: the density at which a sparse layer takes as much memory as a dense layer."""
    assert break_even is not None, "replace None by a density between 0 and 1."
    assert 0 <= break_even <= 1, f"{break_even} is not a density, a share of all possible links between 0 and 1."
    assert abs(break_even - 0.5) > 1e-6, "0.5 is right for momentum (12 bytes of 24); Adam keeps one moment more."
    per_weight, per_link = 4 * 4, 4 * 4 + 12
    assert abs(break_even * per_link - per_weight) < 0.05, (
        f"at density {break_even} a possible link costs {break_even * per_link:.1f} bytes, and {per_weight} bytes in "
        "the dense layer."
    )


Predict = Callable[[tuple[float, float], tuple[float, float], float], float | None]


def meeting_density(meeting_density: Predict) -> None:
    """Predict the crossover: the density at which a csr layer takes as long as the dense layer.

    The function gets two measurements. The time of a csr layer is a fixed cost plus a cost proportional to the density.
    """
    # 1 ms + 30 ms · density is equal to 10 ms at a density of 0.3.
    found = meeting_density((0.01, 1.3), (0.05, 2.5), 10.0)
    assert found is not None, "meeting_density() returns None; return a density."
    slips = {
        "the answer without the fixed cost, from the first measurement": 1 / 13,
        "the answer without the fixed cost, from the second measurement": 0.2,
        "dense time over the slope; subtract the fixed cost from the dense time first": 1 / 3,
        "the fixed cost added to the dense time; subtract it": 11 / 30,
        "counted from the first measurement on; add its density": 0.29,
        "counted from the second measurement on; add its density": 0.25,
        "a percentage; return a share between 0 and 1": 30,
    }
    refuse(round(found, 6), slips, 1e-4)
    assert abs(found - 0.3) < 1e-6, f"{found:g} is not right: the line through the two points reaches 10 ms at 0.3."
    again = meeting_density((0.02, 1.6), (0.1, 4.0), 7.0)
    assert again is not None, "with other measurements it returns None."
    assert abs(again - 0.2) < 1e-6, f"for (2 %, 1.6 ms), (10 %, 4 ms) and dense 7 ms you predict {again:g}, not 0.2."
    never = meeting_density((0.01, 1.3), (0.05, 2.5), 0.5)
    assert never == 0, f"a dense layer of 0.5 ms is faster than the fixed cost; return 0 there, not {never}."
    always = meeting_density((0.01, 1.3), (0.05, 2.5), 50.0)
    assert always == 1, (
        f"against a dense layer of 50 ms, the csr layer is faster at every density; return 1 there, not {always}."
    )


def fixed_cost(fixed_cost: float | None) -> None:
    """Read a cost meter: the milliseconds of a step that no sparsity removes."""
    assert fixed_cost is not None, "replace None in the cell above by a number of milliseconds."
    slips = {
        "the time of the sparse step; a part of it is arithmetic": 3.0,
        "3 minus 0.1; the dense step pays the fixed cost too, so its arithmetic is less than 10 ms": 2.9,
        "what the FLOPs suggest, 1 % of the dense step": 0.1,
        "the arithmetic of the dense step; what is left of the 10 ms?": 7 / 0.99,
        "what sparsity saved": 7.0,
        "a share; give milliseconds": 0.293,
    }
    refuse(round(fixed_cost, 4), slips, 0.004)
    right = (3 - 0.01 * 10) / 0.99
    assert abs(fixed_cost - right) < 0.01, (
        f"with a fixed cost of {fixed_cost} ms the step of the csr layer would take "
        f"{fixed_cost + 0.01 * (10 - fixed_cost):.2f} ms instead of 3."
    )


Gradients = Callable[[Links, Tensor, Tensor, Tensor], tuple[Tensor, Tensor] | None]


def gradients(gradients: Gradients) -> None:
    """Backward by links: the gradients of a product by the values and by the inputs, without the matrix.

    By hand for the layer of three outputs and four inputs, then against autograd for 40 × 50 with 60 links, where no
    tensor may be as large as the matrix.
    """
    weight = torch.tensor([[1.0, 2, 0, 0], [0, 3, 4, 0], [0, 0, 0, 5]])
    x, dy = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 10, 100]])
    answer = gradients(compress(weight != 0), weight[weight != 0], x, dy)
    assert answer is not None, "gradients() returns None; return the gradient by the values and the gradient by x."
    dvalues, dx = answer
    assert dvalues.shape == (5,), f"the gradient by the values has the shape {tuple(dvalues.shape)}; there are 5 links."
    assert dvalues.tolist() != [1, 2, 2, 3, 4], "the gradient by the values is the input alone; multiply by dy too."
    assert dvalues.tolist() != [1, 1, 10, 10, 100], "the gradient by the values is dy alone; multiply by the input too."
    assert dvalues.tolist() == [1, 2, 20, 30, 400], (
        f"the gradient by the values is {dvalues.tolist()}; for the link from input j to output i it is dy[i] · x[j]."
    )
    assert dx.shape == (1, 4), f"the gradient by x has the shape {tuple(dx.shape)}; x has (1, 4)."
    assert dx.tolist() != [[1, 30, 40, 500]], (
        "input 1 has two links, and you keep one of them: an assignment overwrites, so add with index_add_."
    )
    assert dx.tolist() != [[1, 11, 10, 100]], "the gradient by x is dy alone; multiply by the value of each link."
    assert dx.tolist() == [[1, 32, 40, 500]], (
        f"the gradient by x is {dx.tolist()}; input j sums dy[i] · value over its links."
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
    assert answer is not None, "for a second layer, gradients() returns None."
    dvalues, dx = answer
    assert dvalues.shape == (60,), (
        f"for 3 samples the gradient by the values has the shape {tuple(dvalues.shape)}; sum it over the samples."
    )
    alike = torch.allclose(dvalues, by_weight[mask], atol=1e-5)
    assert alike, "for 3 samples the gradient by the values is not autograd's."
    assert torch.allclose(dx, by_x, atol=1e-5), "for 3 samples the gradient by x is not autograd's."
    assert sizes.largest < mask.numel(), (
        f"both are right, but one of your tensors has {sizes.largest} elements, as many as the matrix of 40 × 50; work "
        "with one number for each sample and link."
    )


class _Sizes(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that torch makes."""

    largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made
