"""Averages of a model while its links change: moving averages (EMA), or averages that count all steps equally (SWA)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import swa_utils

from chts_core.engine.guard import is_ruled
from chts_core.engine.kernels import Links
from chts_core.engine.linear import SparseLinear


class AveragedModel(swa_utils.AveragedModel):
    """`torch.optim.swa_utils.AveragedModel` with exactly the links of the model.

        average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
        for batch in batches:
            loss(batch).backward(); optimizer.step(); sparsifier.step(); optimizer.zero_grad()
            average.update_parameters(model)

    A removed link is also removed from the average. A new link starts with the model's weight and is averaged from then
    on. A link also starts again with the model's weight if its weight is zero in the model or the average, for example
    after one update has removed and regrown this link. PyTorch's own class keeps removed links, so its average is
    denser than the model. If layers store only their links (:class:`chts_core.engine.linear.SparseLinear`), PyTorch's
    class mixes values of different links, and its average raises an error when you use it.

    You can make the average before or after the :class:`chts_core.Sparsifier`. The `state_dict()` of the average
    contains its links. With `execution="csr"`, load this state into an average that was made or updated after the
    Sparsifier was built. With `use_buffers=True`, the indices of the links are not averaged.

    Args:
        model, device, avg_fn, multi_avg_fn, use_buffers: as in `torch.optim.swa_utils.AveragedModel`.
    """

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take over the model's links, and average its weights. Call this method after each `sparsifier.step()`.

        Raises:
            ValueError: if the parameters of the model and of the average do not match; in this case nothing is changed.
        """
        _check_same_model(self.module, model)
        _follow(self.module, model)
        stored = _layers_of_links(model)
        for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
            if theirs in stored or is_ruled(theirs):
                average = mine.detach()
                present = theirs.detach().to(average)
                average.copy_(torch.where((average == 0) | (present == 0), present, average))
        with _without_links(self.module), _without_links(model):
            super().update_parameters(model)


def _layers_of_links(model: nn.Module) -> dict[nn.Parameter, SparseLinear]:
    """The sparse layers of a model, by the parameter that holds their values."""
    return {layer.values: layer for layer in model.modules() if isinstance(layer, SparseLinear)}


def _check_same_model(average: nn.Module, model: nn.Module) -> None:
    ours, theirs = _kinds(average), _kinds(model)
    different = [
        name
        for (name, (shape, of_links)), (_, (expected, averaged_links)) in zip(theirs, ours, strict=False)
        if shape != expected or (averaged_links and not of_links)
    ]
    if different or len(ours) != len(theirs):
        raise ValueError(
            f"the model has {len(theirs)} parameters, and the average has {len(ours)}"
            + "".join(
                f"; {name} has a different shape, or is dense in the model but stored as links in the average"
                for name in different[:1]
            )
            + ". Expected the model that the average was made from; make a new AveragedModel of this model."
        )


def _kinds(model: nn.Module) -> list[tuple[str, tuple[tuple[int, ...], bool]]]:
    """For each parameter: its name, its dense shape, and whether it holds the values of a sparse layer."""
    stored = _layers_of_links(model)
    return [
        (name, ((stored[p].out_features, stored[p].in_features) if p in stored else tuple(p.shape), p in stored))
        for name, p in model.named_parameters()
    ]


def _follow(average: nn.Module, model: nn.Module) -> None:
    """Give the sparse layers of the average the links of the model's layers."""
    ours, theirs = _layers_of_links(average), _layers_of_links(model)
    dense = {module.weight: module for module in average.modules() if type(module) is nn.Linear}
    for mine, parameter in zip(average.parameters(), model.parameters(), strict=True):
        if parameter in theirs:
            layer = theirs[parameter]
            if mine in ours:
                ours[mine].follow(layer)
            else:  # the average was made before the Sparsifier was attached
                SparseLinear.take_over(dense[mine], layer.mask.to(mine.device), layer.execution)


@contextmanager
def _without_links(model: nn.Module) -> Iterator[None]:
    """In this context, the positions of links are not buffers of the model, because positions cannot be averaged."""
    held = {layer: layer._buffers for layer in _layers_of_links(model).values()}
    for layer, buffers in held.items():
        layer._buffers = {name: tensor for name, tensor in buffers.items() if name not in Links._fields}
    try:
        yield
    finally:
        for layer, buffers in held.items():
            layer._buffers = buffers
