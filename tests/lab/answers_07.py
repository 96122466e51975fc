"""Answers to the exercises of stage 07."""

from collections.abc import Callable
from typing import Any

import torch
from answers import NUMBER, cases
from torch import Tensor

from chts_core.engine.kernels import Links


def lists(matrix: list[list[float]]) -> tuple[list[int], list[int], list[float]]:
    begins, columns, values = [0], [], []
    for row in matrix:
        columns += [j for j, value in enumerate(row) if value]
        values += [value for value in row if value]
        begins.append(len(values))
    return begins, columns, values


def kept(outputs: int, inputs: int, links: int, execution: str) -> int:
    weights = outputs * inputs
    return {"dense": 12 * weights, "masked": 13 * weights, "links": 24 * links + 4 * (outputs + inputs + 2)}[execution]


def otherwise(execution: str, number: int) -> Callable[[int, int, int, str], int]:
    """An answer to 07.training_bytes that is wrong for one execution."""
    return lambda outputs, inputs, links, how: number if how == execution else kept(outputs, inputs, links, how)


def meeting(
    *,
    low: float = 0,
    high: float = 1,
    change: Callable[[float, float, float], float] = lambda a, b, dense: (dense - a) / b,
) -> Callable[[tuple[float, float], tuple[float, float], float], float]:
    """An answer to 07.meeting_density; a is the fixed cost, and b the cost of all links."""

    def answer(first: tuple[float, float], second: tuple[float, float], dense: float) -> float:
        slope = (second[1] - first[1]) / (second[0] - first[0])
        return min(max(change(first[1] - slope * first[0], slope, dense), low), high)

    return answer


def backward(
    *,
    by_input: bool = True,
    by_dy: bool = True,
    adds: bool = True,
    by_value: bool = True,
    samples: bool = True,
    dense: bool = False,
    other: float = 1.0,
) -> Callable[[Links, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """An answer to 07.gradients, with slips."""

    def answer(links: Links, values: Tensor, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        outputs, inputs = links.outputs(), links.col_indices.long()
        product = (dy[:, outputs] if by_dy else 1) * (x[:, inputs] if by_input else torch.ones(len(x), 1))
        dvalues = product.sum(0) if samples else product.squeeze(0)
        parts = dy[:, outputs] * (values if by_value else 1)
        dx = torch.zeros_like(x)
        if adds:
            dx.index_add_(1, inputs, parts)
        else:
            dx[:, inputs] = parts
        if dense:
            dvalues = (dy.T @ x).flatten()[links.positions()]
        return dvalues, dx * (other if len(x) > 1 else 1)

    return answer


RIGHT = [
    *cases("07.to_lists", (lists, "")),
    *cases("07.training_bytes", (kept, "")),
    *cases("07.meeting_density", (meeting(), "")),
    *cases("07.fixed_cost", (2.929, ""), (2.93, "")),
    *cases("07.gradients", (backward(), "")),
]

STUBS = [
    *cases("07.to_lists", (lambda _: None, "to_lists() returns None; return three lists: begins, columns, values.")),
    *cases("07.training_bytes", (lambda *_: None, "training_bytes() returns None; return a number of bytes.")),
    *cases("07.meeting_density", (lambda *_: None, "meeting_density() returns None; return a density.")),
    *cases("07.fixed_cost", (None, NUMBER.replace("number", "number of milliseconds"))),
    *cases(
        "07.gradients",
        (
            lambda *_: None,
            "gradients() returns None; return the gradient with respect to the values and the gradient with respect ",
        ),
    ),
]

SLIPS = [
    *cases(
        "07.to_lists",
        (lambda _: ([0, 1, 2, 2, 3], [1, 0, 0], [6, 5, 7]), "you went through the matrix input by input; CSR goes row"),
        (
            lambda _: ([0, 2, 3], [1, 3, 0], [5, 7]),
            "the values are [5, 7]; expected the values of the three links, row by row.",
        ),
        (lambda _: ([0, 2, 3], [2, 4, 1], [5, 7, 6]), "your columns count from 1; Python and CSR count from 0."),
        (
            lambda _: ([0, 2, 3], [0, 0, 1], [5, 7, 6]),
            "your columns are the rows of the links; CSR stores the column of each",
        ),
        (
            lambda _: ([0, 2, 3], [1, 3, 1], [5, 7, 6]),
            "the columns are [1, 3, 1]; expected the input of each link, in the order",
        ),
        (
            lambda m: (lists(m)[0][:-1], *lists(m)[1:]),
            "your list `begins` has one entry per row; add a last entry for the end of the last row.",
        ),
        (
            lambda _: ([2, 1], [1, 3, 0], [5, 7, 6]),
            "your list `begins` contains the number of links of each row; begin with 0, and add up these numbers.",
        ),
        (lambda m: (lists(m)[0][1:], *lists(m)[1:]), "`begins` starts with the end of the first row; the first row"),
        (lambda _: ([0, 3, 3], [1, 3, 0], [5, 7, 6]), "`begins` is [0, 3, 3]; row i has the links begins[i] to"),
        (
            lambda m: (sorted(set(lists(m)[0])), *lists(m)[1:]),
            "for the matrix [[0, 0], [0, 2], [0, 0]], you return ([0, 1], [1], [2]); `begins` must have 4 entries, and "
            "every number other than 0 is a link.",
        ),
    ),
    *cases(
        "07.training_bytes",
        (otherwise("dense", 80), "the weights alone need 80 bytes; training also keeps a gradient and a momentum for"),
        (
            otherwise("dense", 72),
            "for the dense layer, you return 72 bytes; expected 3 numbers of 4 bytes for each of the 20 weights.",
        ),
        (
            otherwise("masked", 240),
            "for the masked layer, you return 240 bytes, as for the dense layer. Add the mask, one byte for each ",
        ),
        (
            otherwise("masked", 92),
            "for the masked layer, you return 92 bytes. Under a mask, the absent links have a weight, a gradient and ",
        ),
        (
            otherwise("masked", 246),
            "for the masked layer, you return 246 bytes; expected the bytes of the dense layer plus one byte for each "
            "possible link.",
        ),
        (
            otherwise("links", 72),
            "72 is the size of the values, gradients and momenta alone; add 12 bytes for the position of each "
            "link, and add the beginnings of the rows ",
        ),
        (
            otherwise("links", 144),
            "144 is the size without the beginnings of the rows and columns; add 4 bytes for each entry of both lists.",
        ),
        (
            otherwise("links", 180),
            "180 is the size with one beginning per row and column; each of the two lists has one more entry.",
        ),
        (
            otherwise("links", 168),
            "168 is the size without the beginnings of the columns; the backward pass needs them.",
        ),
        (
            otherwise("links", 200),
            "for the layer that stores only its links, you return 200 bytes; expected 24 bytes for each link and 4 "
            "bytes for ",
        ),
        (
            lambda o, i, n, how: 188 if how == "links" else kept(o, i, n, how),
            "for a layer of 70 × 50 with 175 links, you return 188 bytes; a SparseLinear keeps 4688.",
        ),
    ),
    *cases(
        "07.meeting_density",
        (
            lambda first, _, dense: dense * first[0] / first[1],
            "0.076923 is the answer from the first measurement alone; find the fixed cost from both measurements.",
        ),
        (
            lambda _, second, dense: dense * second[0] / second[1],
            "0.2 is the answer from the second measurement alone; find the fixed cost from both measurements.",
        ),
        (
            meeting(change=lambda _, b, dense: dense / b),
            "0.333333 is the dense time divided by the slope; subtract the fixed cost from the dense time first.",
        ),
        (
            meeting(change=lambda a, b, dense: (dense + a) / b),
            "0.366667 is the answer if you add the fixed cost to the dense time; subtract the fixed cost.",
        ),
        (lambda *_: 0.29, "0.29 is the difference from the density of the first measurement; add this density."),
        (lambda *_: 0.25, "0.25 is the difference from the density of the second measurement; add this density."),
        (lambda *_: 30, "30 is a percentage; return a share between 0 and 1."),
        (lambda *_: 0.5, "0.5 is not right; the line through the two measurements reaches 10 ms at a density of 0.3."),
        (
            lambda *_: 0.3,
            "with 1.6 ms at 2 %, 4 ms at 10 % and 7 ms for the dense layer, you return 0.3; expected 0.2.",
        ),
        (
            meeting(low=-9),
            "a dense layer that takes 0.5 ms is faster than the csr layer at every density; return 0, not -0.016",
        ),
        (
            meeting(high=9),
            "the csr layer is faster at every density than a dense layer that takes 50 ms; return 1, not ",
        ),
    ),
    *cases(
        "07.fixed_cost",
        (3, "3 is the time of the sparse step; part of this time is arithmetic."),
        (2.9, "2.9 is 3 minus 0.1; the dense step also has the fixed cost, so its arithmetic takes less than 10 ms."),
        (0.1, "0.1 is the time of 1 % of the FLOPs; find the time that does not depend on the FLOPs."),
        (7.0707, "7.0707 is the time of the arithmetic in the dense step; subtract it from 10 ms."),
        (7, "7 is the time that sparsity saves; find the time that sparsity cannot save."),
        (0.293, "0.293 is a share; give milliseconds."),
        (5, "with a fixed cost of 5 ms, the step of the csr layer would take 5.05 ms instead of 3 ms."),
    ),
    *cases(
        "07.gradients",
        (backward(by_dy=False), "your gradient with respect to the values is the input alone; multiply it by dy."),
        (backward(by_input=False), "your gradient with respect to the values is dy alone; multiply it by the input."),
        (
            backward(adds=False),
            "input 1 has two links, but you keep the gradient of only one link. An assignment overwrites the first "
            "gradient, so add the gradients with index_add_.",
        ),
        (
            backward(by_value=False),
            "your gradient with respect to x is dy alone; multiply it by the value of each link.",
        ),
        (
            lambda _, __, x, dy: (dy.T @ x, x),
            "the gradient with respect to the values has the shape (3, 4); expected (5,), for 5 links.",
        ),
        (
            lambda _, v, x, __: (v, x),
            "your gradient with respect to the values is [1.0, 2.0, 3.0, 4.0, 5.0]; for the link from input j to ",
        ),
        (
            lambda *a: (backward()(*a)[0], a[3]),
            "the gradient with respect to x has the shape (1, 3); expected (1, 4), the shape of x.",
        ),
        (
            lambda *a: (backward()(*a)[0], a[2]),
            "your gradient with respect to x is [[1.0, 2.0, 3.0, 4.0]]; for input j, the gradient is the sum of "
            "dy[i] · value ",
        ),
        (
            backward(samples=False),
            "for 3 samples, the gradient with respect to the values has the shape (3, 60); sum it over the samples.",
        ),
        (
            lambda links, v, x, dy: (
                ((dy[:1, links.outputs()] * x[:1, links.col_indices.long()]).sum(0), x)
                if len(x) > 1
                else backward()(links, v, x, dy)
            ),
            "for 3 samples, the gradient with respect to the values differs from the gradient of autograd.",
        ),
        (backward(other=2), "for 3 samples, the gradient with respect to x differs from the gradient of autograd."),
        (
            backward(dense=True),
            "both gradients are right, but one of your tensors has 2000 elements; expected fewer than the 2000 "
            "elements of the matrix. Work with one ",
        ),
    ),
]

GIVEN: dict[str, dict[str, Any]] = {}
