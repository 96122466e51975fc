"""Record the operations of a model's `forward` with `torch.fx`, and find the model's output layers."""

import contextlib
import inspect
import io
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from chts_core.engine.dropout import Dropout
from chts_core.engine.sharding import is_fully_sharded

# Why a layer counts as an output layer. OF_OUTPUTS: a trace or the model itself shows that it is one. LAST and GUESSED:
# the `forward` method cannot be traced, and the layer is registered last. LAST is the usual case, in which the layer is
# the last child of the traced module. With GUESSED, the layer is inside another child.
OF_OUTPUTS = "gives the model's outputs"
LAST = "registered last, so taken for the output layer"
GUESSED = "guessed to give the model's outputs"


def is_linear(module: nn.Module) -> bool:
    """Whether a module is an `nn.Linear`, or a linear layer that stores its weight transposed."""
    return isinstance(module, nn.Linear) or is_transposed_linear(module)


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution or a transposed convolution, such as `nn.Conv1d` or `nn.ConvTranspose2d`."""
    return isinstance(module, nn.modules.conv._ConvNd)


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is the `Conv1D` of GPT-2: a linear layer with a weight of shape (in_features, out_features)."""
    for kind in type(module).__mro__:
        if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
            weight = module._parameters.get("weight")  # None if the weight is parametrised
            fits = weight is None or weight.shape == (getattr(module, "nx", None), getattr(module, "nf", None))
            return fits and type(module).forward is vars(kind)["forward"]
    return False


# The dtypes that a `forward` method may treat differently.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Proxy(fx.Proxy):
    """A tensor without values, but with a dtype."""

    tracer: "Tracer"

    def __len__(self) -> int:
        """The length that the tracer assumes. If the tracer has no length, the trace fails."""
        return super().__len__() if self.tracer.length is None else self.tracer.length

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that all tensors claim to have."""
        self.tracer.asked_for_dtype = True
        return self.tracer.dtype


class Tracer(fx.Tracer):
    """Records the operations of a `forward` method, including operations on buffers, without running them.

    Args:
        is_closed: decides for each module whether to record only its call, without the operations inside it.
        dtype: the dtype that all tensors claim to have. `asked_for_dtype` becomes true when the method asks for a
            dtype.
        length: the length that all tensors claim to have. Without a length, a method that asks for the length of a
            tensor cannot be traced.
    """

    proxy_buffer_attributes = True

    def __init__(
        self, is_closed: Callable[[nn.Module], bool], dtype: torch.dtype = torch.float32, length: int | None = None
    ) -> None:
        super().__init__()
        self.dtype, self.asked_for_dtype = dtype, False
        self.length = length
        self.finished = False
        self._is_closed = is_closed

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """See :class:`torch.fx.Tracer`. This method refuses to record an operation after the trace."""
        if self.finished:
            raise RuntimeError(
                "the forward method uses a value that it has kept from an earlier trace by chts; expected a tensor. "
                "Keep such values in attributes of the module, or in lists, dicts or sets in these attributes, because "
                "chts restores them. Or delete the value after chts.plan and after you build the Sparsifier."
            )
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See :class:`torch.fx.Tracer`."""
        return _Proxy(node, self)

    def keys(self, obj: fx.Proxy) -> Any:
        """The keywords of a proxy that is passed on with `**`.

        The `**` keywords of a `forward` method are reported as one keyword, with a name that no argument can have.
        """
        if obj.node.op == "placeholder" and str(obj.node.target).startswith("**"):
            return [str(obj.node.target)]
        return super().keys(obj)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """See :class:`torch.fx.Tracer`.

        This method also works if a wrapper passes on the arguments of `forward`, as in Hugging Face's checkpointing.
        """
        taken = list(inspect.signature(root_fn).parameters.values())[1:]
        kinds = {argument.kind for argument in taken}
        if root_fn is inspect.unwrap(root_fn) or inspect.Parameter.VAR_POSITIONAL in kinds:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        given, keywords = [], {}
        for argument in taken:
            proxy = self.create_proxy("placeholder", argument.name, (), {})
            if argument.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                keywords[argument.name] = proxy
            else:
                given.append(proxy)
        return lambda module, *arguments: root_fn(module, *arguments, **keywords), [self.root, *given]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See :class:`torch.fx.Tracer`. If `fully_shard` has replaced a module's class, the original class decides."""
        if self._is_closed(m) or type(m) is Dropout:
            return True
        if is_fully_sharded(m) and not isinstance(m, nn.Sequential):
            return type(m).__mro__[2].__module__.startswith("torch.nn")
        return super().is_leaf_module(m, module_qualified_name)


def has_forward_of_class(module: nn.Module) -> bool:
    """Whether an instance runs the `forward` method of its class.

    The method may have a wrapper, for example the wrapper that accelerate adds for mixed precision. The result is False
    for a `torch.jit.ScriptModule`, because its `forward` method is compiled and does not belong to its class.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return False
    forward = inspect.unwrap(module.forward)
    return getattr(forward, "__func__", forward) is inspect.unwrap(type(module).forward)


@contextlib.contextmanager
def leaving_nothing_behind(model: nn.Module) -> Iterator[None]:
    """Undo or suppress the side effects of `forward`.

    These are random draws, prints, warnings, counters of calls, and results that `forward` keeps in attributes, or in
    lists, dicts, sets and deques in the attributes.
    """
    containers = [(container, _contents(container)) for container in _containers(model)]
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    for module in model.modules():
        if is_fully_sharded(module):  # its hooks would gather weights, but no real forward pass runs
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
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
            for container, before in containers:
                _restore(container, before)


def _containers(model: nn.Module) -> Iterator[Any]:
    """The attributes of each part of a model, and all lists, dicts, sets and deques in them."""
    todo: list[Any] = [vars(module) for module in model.modules()]
    found = set[int]()
    for container in todo:  # this list grows
        if id(container) not in found:
            found.add(id(container))
            if not isinstance(container, tuple):
                yield container
            inside = container.values() if isinstance(container, dict) else container
            todo.extend(value for value in inside if isinstance(value, dict | list | set | deque | tuple))


def _contents(container: Any) -> list[Any]:
    """All values in a container; for a dict, first its keys and then its values."""
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


def _restore(container: Any, before: list[Any]) -> None:
    """Restore the earlier contents of a container."""
    if list(map(id, _contents(container))) == list(map(id, before)):
        return
    container.clear()
    if isinstance(container, dict):
        half = len(before) // 2
        for key, value in zip(before[:half], before[half:], strict=True):
            container[key] = value
    elif isinstance(container, set):
        container.update(before)
    else:
        container.extend(before)


def trace(
    module: nn.Module, tracer: Tracer, training: bool, *, without_labels: bool = False, first_given: bool = False
) -> list[fx.Node]:
    """The operations of a module in training or in evaluation mode. The list is empty if the module cannot be traced.

    Args:
        without_labels: whether to leave out arguments that are None by default, such as labels.
        first_given: whether to keep the first argument, which may be the input, even if it is None by default.
    """
    if not has_forward_of_class(module):
        return []
    for part in module.modules():
        if not isinstance(part, torch.jit.ScriptModule):  # its mode is not in its attributes, so it would stay changed
            part.training = training  # not `train()`, which some models override to merge weights
    tracer.finished = False
    try:
        left_out = {
            name: None
            for name, parameter in list(inspect.signature(module.forward).parameters.items())[first_given:]
            if without_labels and parameter.default is None
        }
        with torch.set_grad_enabled(training):
            return list(tracer.trace(module, left_out or None).nodes)
    except Exception:  # a `forward` method that depends on the data may raise any error
        return []
    finally:
        tracer.finished = True


def traces(
    module: nn.Module, is_closed: Callable[[nn.Module], bool], *, without_labels: bool = False
) -> Iterator[list[fx.Node]]:
    """The traces of a module in training and in evaluation mode. A trace is empty if it fails.

    If the `forward` method of the module asks for a dtype, there is one trace for each dtype in `_DTYPES`. While the
    caller uses a trace, the module is in the mode of this trace.

    Args:
        without_labels: as in :func:`trace`. If the trace fails without the first argument, the function traces the
            module again with this argument.
    """
    for training in (True, False):
        for dtype in _DTYPES:
            tracer = Tracer(is_closed, dtype)
            recorded = trace(module, tracer, training, without_labels=without_labels)
            if without_labels and not recorded:
                recorded = trace(module, tracer, training, without_labels=True, first_given=True)
            yield recorded
            if not tracer.asked_for_dtype:
                break


def output_layers(model: nn.Module) -> dict[str, str]:
    """The linear layers and convolutions that compute a model's outputs: no matrix comes after them.

    A model may have several output layers, for example one for each task. If the `forward` method cannot be traced, the
    output layer is the layer that `get_output_embeddings` (a method of models in `transformers`) returns. If the model
    has no such method, the output layer is the layer that was registered last.

    Returns:
        The reason why each layer counts as an output layer, by module name: `OF_OUTPUTS`, `LAST` or `GUESSED`.
    """
    with leaving_nothing_behind(model):
        return dict(_ends(model, ""))


def _ends(module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """The output layers of a part of a model, and the reasons; see :func:`output_layers`."""
    if is_linear(module) or is_convolution(module):
        yield path, OF_OUTPUTS
        return
    modules = dict(module.named_modules())
    recorded = trace(module, Tracer(lambda _: True, length=2), training=False, without_labels=True)
    if not recorded:
        end = _last_layer(module)
        if end is not None:
            yield _join(path, end[0]), end[1]
        return
    weighted = {node: owner for node in recorded if (owner := _owner(node, modules)) is not None}
    followed: set[fx.Node] = set()  # nodes whose result goes to a layer with a matrix
    used: set[fx.Node] = set()  # nodes whose result the outputs use
    for node in reversed(recorded):
        for user in node.users:
            if user in weighted or user in followed:
                followed.add(node)
            if user.op == "output" or user in used:
                used.add(node)
    for name in dict.fromkeys(owner for node, owner in weighted.items() if node in used - followed):
        yield from _ends(modules[name], _join(path, name)) if name else ()


def _owner(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The name of the module with the matrix that an operation uses, or None if it uses no matrix.

    The name is "" for the traced module itself. An operation may also use a matrix without calling its module, as in
    tied autoencoders.
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


def _last_layer(module: nn.Module) -> tuple[str, str] | None:
    """The output layer of a module that cannot be traced, and the reason."""
    layers = [name for name, part in module.named_modules() if is_linear(part) or is_convolution(part)]
    named = getattr(module, "get_output_embeddings", lambda: None)()
    for name in layers:
        if module.get_submodule(name) is named:
            return name, OF_OUTPUTS
    return (layers[-1], GUESSED if "." in layers[-1] else LAST) if layers else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
