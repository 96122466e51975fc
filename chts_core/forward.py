"""What the forward of a model does, as `torch.fx` records it, and which layers give the model's outputs."""

import contextlib
import inspect
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import fx, nn

from chts_core.sharding import is_fully_sharded

# What a forward asks of a tensor without its values.
_SHAPES = ("size", "dim", "shape", "numel", "device", "dtype")


class _Tracer(fx.Tracer):
    """Records what a forward does with buffers, instead of doing it.

    Args:
        whole: whether all submodules are recorded as calls of them, without a look at what they do.
    """

    proxy_buffer_attributes = True

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self._whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also where `fully_shard` has put a class of its own before that of torch."""
        if is_fully_sharded(m) and not isinstance(m, nn.Sequential):
            return self._whole or type(m).__mro__[2].__module__.startswith("torch.nn")
        return self._whole or super().is_leaf_module(m, module_qualified_name)


def has_forward_of_class(module: nn.Module) -> bool:
    """Whether an instance runs the forward of its class, be it wrapped, as accelerate does for mixed precision."""
    forward = inspect.unwrap(module.forward)
    return getattr(forward, "__func__", forward) is type(module).forward


@contextlib.contextmanager
def leaving_nothing_behind(model: nn.Module) -> Iterator[None]:
    """Undo what a forward does besides computing: draw, print, warn, count its calls, keep a result as attribute."""
    attributes = [(vars(module), vars(module).copy()) for module in model.modules()]
    for module in model.modules():
        if is_fully_sharded(module):  # its hooks would gather weights for a forward that is none
            vars(module).update(_forward_pre_hooks=OrderedDict(), _forward_hooks=OrderedDict())
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with (
        torch.random.fork_rng(sorted(device.index for device in devices)),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for now, before in attributes:
                now.clear()
                now.update(before)


def nodes(module: nn.Module, training: bool, *, whole: bool = False) -> list[fx.Node]:
    """What a module does in training or in evaluation; nothing where it cannot be traced.

    Args:
        whole: see :class:`_Tracer`; then arguments that are None by default are left out, such as labels.
    """
    if not has_forward_of_class(module):
        return []
    for part in module.modules():
        part.training = training  # not `train()`, which some models have overridden to merge weights
    try:
        left_out = {
            name: None
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if whole and parameter.default is None
        }
        with torch.set_grad_enabled(training):
            return list(_Tracer(whole).trace(module, left_out).nodes)
    except Exception:  # a forward that depends on its data raises whatever it likes
        return []


def output_layers(model: nn.Module) -> set[str]:
    """The linear layers that give a model's outputs, by module name: no layer with a matrix comes after them.

    A model may have several, such as one for each task, or none, where its last layer is a convolution. What cannot be
    traced is taken at its word (`get_output_embeddings`, as models of `transformers` have it), or by its last linear
    layer in the order of registration.
    """
    with leaving_nothing_behind(model):
        return set(_ends(model, ""))


def _ends(module: nn.Module, path: str) -> Iterator[str]:
    """See :func:`output_layers`, of a part of a model."""
    if isinstance(module, nn.Linear):
        yield path
        return
    modules = dict(module.named_modules())
    recorded = nodes(module, training=False, whole=True)
    if not recorded:
        end = _last_layer(module)
        if end is not None:
            yield _join(path, end)
        return
    weighted = {node: owner for node in recorded if (owner := _owner(node, modules)) is not None}
    followed: set[fx.Node] = set()  # by a layer with a matrix
    used: set[fx.Node] = set()  # by the outputs
    for node in reversed(recorded):
        for user in node.users:
            if _asks_for_shape(user):
                continue
            if user in weighted or user in followed:
                followed.add(node)
            if user.op == "output" or user in used:
                used.add(node)
    for name in dict.fromkeys(owner for node, owner in weighted.items() if node in used - followed):
        yield from _ends(modules[name], _join(path, name)) if name else ()


def _owner(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The name of the module whose matrices take part in a step, "" for the traced one itself; None if there are none.

    A matrix may also be used without its module, as in tied autoencoders.
    """
    if node.op == "call_module":
        return str(node.target) if _has_matrix(modules[str(node.target)]) else None
    for given in node.all_input_nodes:
        owner, _, name = str(given.target).rpartition(".")
        if given.op == "get_attr" and owner in modules:
            parameter = modules[owner]._parameters.get(name)
            if parameter is not None and parameter.dim() > 1 and not isinstance(modules[owner], nn.Embedding):
                return owner
    return None


def _has_matrix(module: nn.Module) -> bool:
    return any(
        parameter.dim() > 1
        for part in module.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    )


def _asks_for_shape(node: fx.Node) -> bool:
    return node.target in _SHAPES or (node.target is getattr and node.args[1] in _SHAPES)


def _last_layer(module: nn.Module) -> str | None:
    """The output of a module that cannot be traced."""
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    told = getattr(module, "get_output_embeddings", lambda: None)()
    return next((name for name in linear if module.get_submodule(name) is told), linear[-1] if linear else None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
