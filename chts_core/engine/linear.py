"""Truly sparse linear layers, which store only their links and multiply link by link.

A mask on a dense weight saves nothing: the zeros are stored, multiplied, and updated by the optimizer. A
:class:`SparseLinear` stores one value per link, and the positions of the links twice. The positions by rows (CSR) are
used for y = W x + b and the gradient with respect to W. The positions by columns (CSC), together with the order of the
values in these columns, are used for the gradient with respect to x. Both lists of positions are rebuilt only when the
topology changes.

Before a product, the layer transposes the activations to one row per feature, so that each link multiplies contiguous
numbers. The layer transposes the result back, because code around an `nn.Linear` expects a contiguous output.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.checks import check_mask, is_called_by
from chts_core.compiled.masks import among, ends, merged, positions
from chts_core.engine.kernels import DENSE, Kernels, Links, compress_pairs, damage_of, sparse_kernels
from chts_core.engine.kernels import compress as compress
from chts_core.engine.kernels import crossover_density as crossover_density
from chts_core.engine.product import REMEDY, is_transformed, product, without_autocast

Execution = Literal["masked", "csr", "auto"]

# The attributes that a layer has only while it is sparse.
_OWN = ("execution", "dense_gradient_hook", "crossover", "has_trained", "_copies", "_settled", "_mixed_beyond")

# A function to apply to the state of each link, such as an optimizer's moments, when the links change.
Carry = Callable[[Tensor], Tensor]


class SparseLinear(nn.Module):
    """A linear layer that stores only its links. It is a drop-in replacement for an `nn.Linear` with a mask.

    It needs memory for the values, their gradient and the optimizer's moments. The positions of the links take 12 bytes
    per link and 4 bytes per neuron. The layer accepts inputs with any number of dimensions. It supports first
    derivatives, but no higher derivatives.

    execution:
        "csr": the cost of the products grows with the number of links. The dtype must be float32 or float64. A CPU uses
            compiled loops. CUDA uses torch's sparse products, which are faster than dense products only at the highest
            sparsities.
        "masked": the layer builds the dense weight for each product. Tests compare the sparse products with these dense
            products, which are faster if there are many links.
        "auto": the faster of the two at this density, as measured for this shape on this machine
            (:func:`crossover_density`). "csr" and "masked" differ in rounding, so the last bits of a result may depend
            on the measurement.

    Under `torch.autocast`, the layer computes in the dtype of its values, and returns a result of this dtype.
    For `torch.func`, `torch.vmap`, `torch.jit.trace` and `torch.export`, the layer multiplies by the dense weight.

    A state dict contains the values and the links, and can be loaded into a layer with different links. A state dict of
    an `nn.Linear` can be loaded too: the layer takes the weights at its own links. Hugging Face's `save_pretrained`
    writes the dense weight, so that `from_pretrained` finds it.

    If a layer changes its links, its copies (`copy.deepcopy`) do not. An average of a copy and the original, as in
    `torch.optim.swa_utils.AveragedModel`, would mix values of different links, so the copy raises an error. Use
    :class:`chts_core.tools.averaging.AveragedModel`, which follows the links.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        mask: Boolean (out_features, in_features).
        execution: "masked", "csr" or "auto".

    Attributes:
        values: the parameter with one value for each link, by rows of the mask.
        bias: the parameter, or None.
        dense_gradient_hook: a function, or None. The backward pass calls this hook with two arguments: the layer, and a
            function that computes the gradient with respect to all of W, (out_features, in_features). Methods that
            regrow by gradient need this hook.
    """

    values: nn.Parameter
    bias: nn.Parameter | None
    left_out = False  # whether the last load left out weights that are not 0, because the layer has no links for them

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mask: Tensor,
        bias: bool = True,
        execution: Execution = "csr",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        linear = nn.Linear(in_features, out_features, bias, device, dtype)
        self._fill_from(linear, mask, execution)

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Tensor, execution: Execution = "csr") -> "SparseLinear":
        """A sparse layer with the weights of a linear layer under a mask, and the same bias.

        The linear layer does not change.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._fill_from(linear, mask, execution)
        return layer

    @classmethod
    def take_over(cls, linear: nn.Linear, mask: Tensor, execution: Execution = "csr") -> "SparseLinear":
        """Make a linear layer sparse in place. Its weight becomes the parameter `values`.

        :func:`chts_core.engine.kinds.convertible` must be true for its weight.

        Everything that refers to the layer or its weight continues to work: other modules that contain the layer,
        hooks, an optimizer, a list of parameters to clip. The gradient keeps its values at the links.
        """
        links = cls._checked_links(linear, mask, execution)
        weight, bias = linear._parameters["weight"], linear._parameters["bias"]
        assert weight is not None
        gradient = weight.grad
        weight.grad = None
        _set_data(weight, weight.detach()[mask])
        weight.grad = None if gradient is None else gradient[mask]
        linear._parameters.clear()
        linear.__class__ = cls  # type: ignore[assignment]
        assert isinstance(linear, cls)
        linear._fill(links, weight, bias, execution)
        return linear

    def give_back(self) -> None:
        """Undo :meth:`take_over`: become an `nn.Linear` whose weight has the values at the links and zeros elsewhere.

        The gradient is dropped. Everything that refers to the layer or its values continues to work.
        """
        values, bias, weight = self.values, self.bias, self.weight.detach()
        values.grad = None
        _set_data(values, weight)
        for own in (self._parameters, self._buffers, self._non_persistent_buffers_set):
            own.clear()
        for name in _OWN:
            delattr(self, name)
        vars(self).pop("bias", None)  # a layer without a bias stores None here
        vars(self).pop("left_out", None)
        self.__class__ = nn.Linear  # type: ignore[assignment]
        self._parameters.update(weight=values, bias=bias)

    def _fill_from(self, linear: nn.Linear, mask: Tensor, execution: Execution) -> None:
        links = self._checked_links(linear, mask, execution)
        mask = mask.to(linear.weight.device)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.training = linear.training
        values = nn.Parameter(linear.weight.detach()[mask], linear.weight.requires_grad)
        self._fill(links, values, linear.bias, execution)

    @staticmethod
    def _checked_links(linear: nn.Linear, mask: Tensor, execution: Execution) -> Links:
        if execution not in ("masked", "csr", "auto"):
            raise ValueError(f"execution is {execution!r}; expected 'masked', 'csr' or 'auto'.")
        check_mask(mask)
        if mask.shape != linear.weight.shape:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} but the layer's weight has {tuple(linear.weight.shape)}; "
                "expected (out_features, in_features)."
            )
        if execution == "csr":
            sparse_kernels(linear.weight.device, linear.weight.dtype)  # raises errors now, not in `forward`
        return compress(mask.to(linear.weight.device))

    def _fill(self, links: Links, values: nn.Parameter, bias: nn.Parameter | None, execution: Execution) -> None:
        self.execution = execution
        self.dense_gradient_hook: Callable[[SparseLinear, Callable[[], Tensor]], None] | None = None
        self._begin()
        self._set_links(links)
        self.values = values
        self.bias = bias
        self._settle()
        # The measured crossover density, kept so that an interrupted run can continue with the same kernels.
        self.crossover: float | None = None

    def _begin(self) -> None:
        """Record that nothing has happened to the layer or its copies yet."""
        self._copies: weakref.WeakSet[SparseLinear] = weakref.WeakSet()
        self.has_trained = False  # whether a backward pass has ever computed the gradient of the values

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy. No Sparsifier controls the copy."""
        self._check_unmixed()
        return {**self.__dict__, "dense_gradient_hook": None, "_copies": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin()
        self._settle()

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseLinear":
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        self._copies.add(copied)
        return copied

    def _settle(self) -> None:
        """Record that all values belong to the current links."""
        self._settled = _writes(self.values)
        self._mixed_beyond: int | None = (
            None  # once set: the number of writes after which another write would mix the values of different links
        )

    def _origin_changes(self) -> None:
        """Record that the original of this copy is about to get different links.

        If code has already written values into this copy, and the copy was not trained, the next write to the copy will
        mix values of different links. The first write of code that averages weights only copies the values. So nothing
        is mixed if the first write comes after this call.
        """
        if self._mixed_beyond is None and not self.has_trained and _writes(self.values) != self._settled:
            self._mixed_beyond = _writes(self.values)

    def _check_unmixed(self) -> None:
        if self._mixed_beyond is not None and not self.has_trained and _writes(self.values) != self._mixed_beyond:
            raise RuntimeError(
                f"code wrote values into this copy of a sparse layer ({self.extra_repr()}) before and after the "
                "original layer changed its links, but never trained or loaded the copy. So the copy mixes values of "
                "different links, as in torch.optim.swa_utils.AveragedModel. For an average, use "
                "chts_core.AveragedModel, which follows the links; to copy a model again, use load_state_dict()."
            )

    def _set_links(self, links: Links) -> None:
        if self._copies and not self.has(links):
            for copied in list(self._copies):
                copied._origin_changes()
        for name, tensor in links._asdict().items():
            # The other tensors follow from these two and are not saved.
            self.register_buffer(name, tensor, persistent=name in ("crow_indices", "col_indices"))

    def has(self, links: Links) -> bool:
        """Whether the layer has these links, which may be on any device."""
        crow, columns = (tensor.to(self.values.device) for tensor in (links.crow_indices, links.col_indices))
        return torch.equal(self.get_buffer("crow_indices"), crow) and torch.equal(
            self.get_buffer("col_indices"), columns
        )

    @property
    def links(self) -> Links:
        """The positions of the links."""
        self._check_unmixed()
        return Links._make(map(self._buffers.__getitem__, Links._fields))  # takes a fifth of the time of get_buffer()

    @property
    def mask(self) -> Tensor:
        """The mask, Boolean (out_features, in_features), built at each call."""
        mask = torch.zeros(self.out_features * self.in_features, dtype=torch.bool, device=self.values.device)
        mask[self.links.positions()] = True
        return mask.view(self.out_features, self.in_features)

    @property
    def weight(self) -> Tensor:
        """The dense weight, built at each call; gradients flow to `values`. To change the weight, change `values`."""
        weight = self.values.new_zeros(self.out_features * self.in_features)
        links = self.links
        positions = links.outputs() * self.in_features + links.col_indices  # torch.jit.trace warns about len()
        return weight.index_put((positions,), self.values).view(self.out_features, self.in_features)

    @property
    def density(self) -> float:
        """The number of links, divided by the number of possible links."""
        return len(self.values) / (self.out_features * self.in_features)

    def to_linear(self) -> nn.Linear:
        """An `nn.Linear` with the same values, and zeros where there is no link."""
        linear = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.values.dtype
        )
        linear.weight = nn.Parameter(self.weight.detach(), self.values.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return linear.train(self.training)

    def __prepare_scriptable__(self) -> nn.Linear:
        """A dense layer with a copy of the values, for `torch.jit.script`, which cannot compile sparse products."""
        return self.to_linear()

    @torch.no_grad()
    def rewire(self, mask: Tensor, survivors: Tensor | None = None) -> Carry:
        """Change the links in place, so that an optimizer continues with the same parameter.

        Args:
            mask: the new links.
            survivors: the old links that were not removed. They keep their values if `mask` contains them. A link that
                is removed and regrown in the same update starts from zero. Default: all old links.

        Returns:
            A function that changes other state of each link, such as an optimizer's moments, in the same way. It keeps
            the entries of the links that keep their values, and sets the other entries to 0.
        """
        check_mask(mask)
        before, after = self.links.positions(), positions(mask)
        stays = mask.flatten()[before]
        if survivors is not None:
            stays &= survivors.flatten()[before]
        return self.exchange(before[~stays], after[~among(after, before[stays])])

    @torch.no_grad()
    def exchange(self, removed: Tensor, regrown: Tensor) -> Carry:
        """Change the links as :meth:`rewire` does, given the positions of the removed and the regrown links.

        The positions are indices of the flattened weight (int64, in ascending order). A link may be in both lists; then
        it starts from zero.
        """
        before = self.links.positions()
        stays = ~among(before, removed)
        after, new = merged(before[stays], regrown)

        def carry(tensor: Tensor) -> Tensor:
            carried = tensor.new_zeros(len(new))
            carried[~new] = tensor[stays]
            return carried

        shape = (self.out_features, self.in_features)
        self._set_links(compress_pairs(*ends(after, shape), shape))
        _set_data(self.values, carry(self.values.detach()))
        if self.values.grad is not None:
            self.values.grad = carry(self.values.grad)
        self._settle()
        return carry

    def follow(self, other: "SparseLinear") -> None:
        """Take the links of another layer of the same shape. Common links keep their values. New links start from 0.

        Call this method before you average the two layers. This layer may be an earlier copy of the other one.
        """
        if not self.has(other.links):
            self.rewire(other.mask.to(self.values.device))
        self._settle()

    def kernels(self) -> Kernels:
        """The kernels that the next product will use."""
        if self.execution == "masked":
            return DENSE
        if self.execution == "auto":
            if self.crossover is None:
                self.crossover = crossover_density(
                    self.out_features, self.in_features, self.values.device, self.values.dtype
                )
            if self.density > self.crossover:
                return DENSE
        return sparse_kernels(self.values.device, self.values.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """x Wᵀ + b for x (..., in_features)."""
        if not isinstance(input, Tensor):
            raise TypeError(
                f"input is a {type(input).__name__}; expected a tensor. To trace the model with torch.fx, {REMEDY}."
            )
        if is_transformed():
            return self._dense_forward(input)
        if torch.compiler.is_compiling():  # Numba's loops cannot be traced; a decorator would import torch's compiler
            return torch.compiler.disable(self._forward)(input)  # type: ignore[no-any-return]
        return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"input has shape {tuple(input.shape)}; expected (..., {self.in_features}), the layer's in_features."
            )
        x = input.reshape(-1, self.in_features).to(self.values.dtype)
        y = product(x, self.values, self.bias, self.links, self.kernels(), self)
        return y.view(*input.shape[:-1], self.out_features)

    def _dense_forward(self, input: Tensor) -> Tensor:
        """Torch's own operations on the dense weight, for tools that must see or transform each operation."""
        try:
            with without_autocast(input.device.type):
                return F.linear(input.to(self.values.dtype), self.weight, self.bias)
        except RuntimeError as error:
            raise RuntimeError(
                f"a sparse layer cannot be traced or transformed this way ({error}); {REMEDY}."
            ) from error

    def extra_repr(self) -> str:
        """The text that is shown when the model is printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"links={len(self.values)}, execution={self.execution!r}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.pop(f"{prefix}weight", None)
        if weight is not None:  # of an nn.Linear
            if weight.shape == (self.out_features, self.in_features):
                state_dict[f"{prefix}values"] = weight.flatten()[self.links.positions().to(weight.device)]
            state_dict[f"{prefix}crow_indices"] = self.crow_indices
            state_dict[f"{prefix}col_indices"] = self.col_indices
        names = [f"{prefix}{name}" for name in ("crow_indices", "col_indices", "values")]
        if all(name in state_dict for name in names):
            crow, columns, values = (state_dict[name] for name in names)
            damage = damage_of(crow, columns, values, (self.out_features, self.in_features))
            if damage:
                raise ValueError(f"the saved links of layer {prefix.removesuffix('.')!r} {damage}.")
            where = self.values.device
            outputs = torch.repeat_interleave(crow.to(where, torch.int64).diff())
            self._set_links(
                compress_pairs(outputs, columns.to(where, torch.int64), (self.out_features, self.in_features))
            )
            if len(values) != len(self.values):
                _set_data(self.values, self.values.new_zeros(len(values)))
                self.values.grad = None
            self.left_out = weight is not None and bool(weight.count_nonzero() > values.count_nonzero())
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._settle()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._check_unmixed()
        if is_called_by("save_pretrained"):  # `from_pretrained` would initialise a weight that it does not find
            self.to_linear()._save_to_state_dict(destination, prefix, keep_vars)
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)


def to_dense(model: nn.Module) -> nn.Module:
    """Replace every :class:`SparseLinear` of a model with an `nn.Linear` that has the same values.

    Return the model, or the new layer if the model itself is a sparse layer.
    """
    if isinstance(model, SparseLinear):
        return model.to_linear()
    dense: dict[SparseLinear, nn.Linear] = {}  # a layer may have several paths
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, SparseLinear):
            if module not in dense:
                dense[module] = module.to_linear()
            model.set_submodule(path, dense[module])
    return model


def _writes(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 if it was made in inference mode, which does not count changes."""
    return 0 if tensor.is_inference() else tensor._version


def _set_data(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter new data, maybe of a different length.

    Autograd remembers the shape of a parameter while a graph that uses it is alive. A change of dtype makes autograd
    forget this shape.
    """
    other = torch.float32 if parameter.dtype == torch.float64 else torch.float64
    parameter.data = parameter.data[:0].to(other)
    parameter.data = data
