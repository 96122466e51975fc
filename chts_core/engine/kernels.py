"""The links of a layer in compressed form, and the three products of a linear layer with them.

Tests compare all other kernels with :class:`DenseKernels`, which builds the dense weight from the links and multiplies
by it.
"""

import threading
import time
import warnings
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from chts_core.checks import check_mask
from chts_core.compiled.masks import pairs
from chts_core.topology import erdos_renyi


class Links(NamedTuple):
    """The positions of the links of a layer, in int32.

    crow_indices: output i has the links from crow_indices[i] up to, but not including, crow_indices[i + 1].
    col_indices: the input of each link.
    ccol_indices, row_indices: the same with outputs and inputs exchanged, so the links are sorted by input.
    order: for each link of `row_indices`, its index in `col_indices`.
    """

    crow_indices: Tensor
    col_indices: Tensor
    ccol_indices: Tensor
    row_indices: Tensor
    order: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return len(self.crow_indices) - 1, len(self.ccol_indices) - 1

    def outputs(self) -> Tensor:
        """The output of each link (int64, in ascending order)."""
        return torch.repeat_interleave(self.crow_indices.diff().long())

    def positions(self) -> Tensor:
        """The position of each link in the flattened weight (int64, in ascending order)."""
        return self.outputs() * self.shape[1] + self.col_indices


def compress(mask: Tensor) -> Links:
    """The links of a mask (out_features, in_features), on its device."""
    check_mask(mask)
    return compress_pairs(*pairs(mask), (mask.shape[0], mask.shape[1]))


def compress_pairs(outputs: Tensor, inputs: Tensor, shape: tuple[int, int]) -> Links:
    """The links with these outputs and inputs (int64, sorted by output); see :func:`compress`."""
    order = inputs.argsort(stable=True)
    crow, ccol = (
        F.pad(torch.bincount(nodes, minlength=size).cumsum(0), (1, 0))
        for nodes, size in zip((outputs, inputs), shape, strict=True)
    )
    return Links(*(tensor.to(torch.int32) for tensor in (crow, inputs, ccol, outputs[order], order)))


def damage_of(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> str:
    """What is wrong with the saved links of a layer (out_features, in_features), or "" if nothing is wrong."""
    out_features, in_features = shape
    if crow.shape != (out_features + 1,):
        return f"have {len(crow) - 1} outputs, but this layer has {out_features}"
    if columns.shape != values.shape or int(crow[0]) != 0 or int(crow[-1]) != len(columns):
        return f"do not fit together: {len(columns)} inputs, {len(values)} values, {int(crow[-1])} links"
    if bool((crow.diff() < 0).any()):
        return "have an output with a negative number of links"
    if len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < in_features:
        return f"have inputs outside 0 to {in_features - 1}"
    outputs = torch.repeat_interleave(crow.long().diff())
    if bool(((outputs * in_features + columns).diff() <= 0).any()):
        return "are not in strictly ascending order"
    return ""


class Kernels(Protocol):
    """The three products of a linear layer, with features as rows: x is (in, samples), y and dy are (out, samples).

    `forward` and `input_gradient` may return memory that the next product in this thread overwrites. For a single
    sample, `forward` returns new memory.
    """

    def forward(self, links: Links, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """W x + b."""
        ...

    def input_gradient(self, links: Links, values: Tensor, dy: Tensor) -> Tensor:
        """Wᵀ dy."""
        ...

    def value_gradient(self, links: Links, x: Tensor, dy: Tensor) -> Tensor:
        """dy xᵀ at the links."""
        ...


class DenseKernels:
    """Dense products for "masked" execution, with a dense weight that is built from the links."""

    def forward(self, links: Links, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """W x + b."""
        y = filled(links, values) @ x
        return y if bias is None else y.add_(bias[:, None])

    def input_gradient(self, links: Links, values: Tensor, dy: Tensor) -> Tensor:
        """Wᵀ dy."""
        return filled(links, values).T @ dy

    def value_gradient(self, links: Links, x: Tensor, dy: Tensor) -> Tensor:
        """dy xᵀ at the links."""
        if not _compiles(x):
            return (dy @ x.T).flatten().index_select(0, links.positions())
        from chts_core.compiled.products import take_links

        product = torch.mm(dy, x.T, out=scratch("gradient", x, *links.shape))
        gradient = x.new_empty(len(links.col_indices))
        take_links(links.crow_indices, links.col_indices, product, gradient)
        return gradient


# With fewer links than this, the product of a single sample ends before another thread starts.
_FEW = 50_000


class CompiledKernels:
    """Loops compiled by Numba, for float32 and float64 on a CPU."""

    def forward(self, links: Links, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """W x + b."""
        if x.shape[1] == 1:
            from chts_core.compiled.products import multiply_one

            y = x.new_empty(links.shape[0])
            threads = 1 if len(values) < _FEW else None
            multiply_one(links.crow_indices, links.col_indices, values, bias, x.reshape(-1), y, threads=threads)
            return y[:, None]
        return self._multiply(links.crow_indices, links.col_indices, values, None, bias, x)

    def input_gradient(self, links: Links, values: Tensor, dy: Tensor) -> Tensor:
        """Wᵀ dy."""
        return self._multiply(links.ccol_indices, links.row_indices, values, links.order, None, dy)

    def _multiply(
        self, start: Tensor, columns: Tensor, values: Tensor, order: Tensor | None, bias: Tensor | None, x: Tensor
    ) -> Tensor:
        from chts_core.compiled.products import multiply  # Numba takes about a second to import

        y = scratch("product", x, len(start) - 1, x.shape[1])  # the caller transposes it at once
        multiply(start, columns, values, order, bias, x.contiguous(), y)
        return y

    def value_gradient(self, links: Links, x: Tensor, dy: Tensor) -> Tensor:
        """dy xᵀ at the links."""
        from chts_core.compiled.products import multiply_at_links

        gradient = x.new_empty(len(links.col_indices))
        multiply_at_links(links.crow_indices, links.col_indices, x.contiguous(), dy.contiguous(), gradient)
        return gradient


class TorchKernels:
    """Torch's own sparse products: cuSPARSE on CUDA, MKL on a CPU."""

    def forward(self, links: Links, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """W x + b."""
        y = _matrix(links.crow_indices, links.col_indices, values, links.shape) @ x.contiguous()
        return y if bias is None else y.add_(bias[:, None])

    def input_gradient(self, links: Links, values: Tensor, dy: Tensor) -> Tensor:
        """Wᵀ dy."""
        weight = _matrix(links.ccol_indices, links.row_indices, values[links.order], links.shape[::-1])
        return weight @ dy.contiguous()

    def value_gradient(self, links: Links, x: Tensor, dy: Tensor) -> Tensor:
        """dy xᵀ at the links."""
        zeros = x.new_zeros(len(links.col_indices))
        where = _matrix(links.crow_indices, links.col_indices, zeros, links.shape)
        products: Tensor = torch.sparse.sampled_addmm(where, dy.contiguous(), x.contiguous().T, beta=0)
        return products.values()


def _matrix(start: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():  # torch warns that its sparse tensors are in beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(start, columns, values, shape, check_invariants=False)


def scratch(name: str, like: Tensor, rows: int, columns: int) -> Tensor:
    """An uninitialised matrix, valid until the next call with this name in this thread.

    Allocating a matrix of a few megabytes takes as long as computing a product of this size, because the system
    provides memory page by page. Each thread keeps its largest matrix for each name and dtype, up to a limit.
    """
    if rows * columns > _LARGEST_KEPT:
        return like.new_empty(rows, columns)
    held, key = vars(_scratch), f"{name} {like.dtype} {like.device}"
    if key not in held or held[key].numel() < rows * columns:
        with torch.inference_mode(False):  # a tensor made in inference mode cannot be used outside
            held[key] = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
    buffer: Tensor = held[key]
    return buffer[: rows * columns].view(rows, columns)


_scratch = threading.local()
_LARGEST_KEPT = 2**24  # elements, 64 MB as float32


def transposed(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The transpose of a matrix, as a new contiguous tensor or in a given tensor."""
    y = x.new_empty(x.shape[::-1]) if y is None else y
    if not _compiles(x) or not x.is_contiguous():
        return y.copy_(x.T)
    from chts_core.compiled.products import transpose  # Numba takes about a second to import

    transpose(x.detach(), y)
    return y


def filled(links: Links, values: Tensor) -> Tensor:
    """The dense weight, with zeros where there is no link. It is valid until the next call in this thread."""
    if not _compiles(values):
        weight = values.new_zeros(links.shape[0] * links.shape[1])
        return weight.scatter_(0, links.positions(), values).view(links.shape)  # half the time of weight[...] = values
    from chts_core.compiled.products import place_links

    weight = scratch("weight", values, *links.shape)
    place_links(links.crow_indices, links.col_indices, values.detach(), weight)
    return weight


def _compiles(tensor: Tensor) -> bool:
    """Whether the compiled loops take this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


DENSE, COMPILED, TORCH = DenseKernels(), CompiledKernels(), TorchKernels()


def sparse_kernels(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The kernels for "csr" execution.

    Raises:
        TypeError: for a dtype without sparse kernels.
        RuntimeError: if there are no sparse kernels for the device.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"a sparse layer has dtype {dtype}; expected torch.float32 or torch.float64. Keep the weights in float32 "
            "and call the model under torch.autocast, or choose execution='masked'."
        )
    if device.type == "cpu":
        return COMPILED
    if device.type == "cuda":
        return TORCH
    raise RuntimeError(
        f"there are no sparse kernels for device {device}; expected a CPU or CUDA. Choose execution='masked'."
    )


@cache
def _measured_crossover(out_features: int, in_features: int, device: str, dtype: torch.dtype, _threads: int) -> float:
    """The measurement of :func:`crossover_density`. Its result also depends on the number of threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_CROSSOVER_SAMPLES, in_features, generator=generator).to(device, dtype)
    dy = torch.randn(_CROSSOVER_SAMPLES, out_features, generator=generator).to(device, dtype)

    def seconds(density: float, kernels: Kernels) -> float:
        links = compress(erdos_renyi(out_features, in_features, density, generator=generator).to(device))
        values = x.new_ones(len(links.col_indices))
        times = []
        for _ in range(4):  # the first run warms up
            started = time.perf_counter()
            kernels.forward(links, values, None, x.T)
            kernels.input_gradient(links, values, dy.T)
            gradient = kernels.value_gradient(links, x.T, dy.T)
            float(gradient.sum())  # waits until a GPU has finished
            times.append(time.perf_counter() - started)
        return min(times[1:])

    sparse = sparse_kernels(torch.device(device), dtype)
    densities = (0.1, 0.5)
    ours = [seconds(density, sparse) for density in densities]
    rival = [seconds(density, DENSE) for density in densities]
    # Both times grow nearly linearly with the density. Find the density at which the two lines cross.
    gain = [theirs - mine for theirs, mine in zip(rival, ours, strict=True)]
    if gain[0] <= 0:
        return 0.0
    if gain[1] >= gain[0]:
        return 1.0
    return min(1.0, densities[0] + (densities[1] - densities[0]) * gain[0] / (gain[0] - gain[1]))


_CROSSOVER_SAMPLES = 256
_CROSSOVER_SIZE = 1024  # larger layers are measured at this size


def crossover_density(out_features: int, in_features: int, device: torch.device, dtype: torch.dtype) -> float:
    """The density up to which sparse products are faster than products with the dense weight.

    The function measures this density on this machine, once per process for each shape, in a few tenths of a second. It
    times forward and backward passes of 256 samples at two densities. If a layer has more than 1024 inputs or outputs,
    the function uses 1024 instead.
    """
    sides = (min(out_features, _CROSSOVER_SIZE), min(in_features, _CROSSOVER_SIZE))
    return _measured_crossover(*sides, str(device), dtype, torch.get_num_threads())
