"""Find out which sparse layer of a model feeds which other sparse layer, for percolation.

Attention and feed-forward blocks are recognised by their type (`nn.MultiheadAttention`, `nn.TransformerEncoderLayer`)
or by the names of their projections, as in LLaMA, BERT, T5 and similar models. `torch.fx` traces all other parts:
layers with only elementwise operations between them form a chain. Convolutions form a chain if all operations
between them treat each channel separately, and a linear layer may read these channels after they are flattened. The
trace assumes that inputs are batches.

Some code may mix neurons without appearing in a trace: hooks on a layer or an activation, a `forward` method that only
one instance has, and parametrizations. The same holds for code that runs only in training, only in evaluation, only for
one dtype, or only if arguments keep their default None. The layers on both sides of such code form no chain; pass
`graph` if you know that one feeds the other.
"""

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from chts_core.engine.blocks import is_altered, is_elementwise, keeps_channels, known_blocks
from chts_core.engine.forward import (
    is_convolution,
    is_linear,
    is_transposed_linear,
    leaving_nothing_behind,
    traces,
)
from chts_core.engine.kinds import Layer
from chts_core.percolation import LayerGraph

# Attributes and methods of a tensor that do not give its values.
_METADATA = ("shape", "device", "ndim", "size", "dim")


def layer_graph(model: nn.Module, layers: Mapping[str, Layer]) -> tuple[LayerGraph, set[str]]:
    """Find out which sparse layer of a model feeds which other sparse layer.

    Args:
        model: any module. It is traced in training and in evaluation mode, but never run on data. If it cannot be
            traced as a whole, its parts are traced.
        layers: the sparse layers, by name (:func:`chts_core.engine.layers.sparse_layers`).

    Returns:
        The graph, and the names of the layers that could not be traced.
    """
    with leaving_nothing_behind(model):
        blocks = known_blocks(model, layers)
        unknown = layers.keys() - blocks.layers()
        closed = {
            model.get_submodule(path)
            for path in blocks.attentions
            if path and not any(name.startswith(f"{path}.") for name in unknown)
        }
        feeds: dict[str, str | None] = {}
        for name, after in _traced(model, "", unknown, closed):
            feeds.setdefault(name, after)
    attentions = [
        replace(attention, output=feeds.get(path)) if path in blocks.without_output else attention
        for path, attention in blocks.attentions.items()
    ]
    graph = LayerGraph(
        tuple(blocks.chains) + _chains({name: after for name, after in feeds.items() if name in unknown}),
        tuple(blocks.pairs),
        tuple(a for a in attentions if a.query or a.key or a.value or a.output),
    )
    return graph, unknown - feeds.keys()


def _traced(
    module: nn.Module, path: str, unknown: Set[str], closed: Set[nn.Module]
) -> Iterator[tuple[str, str | None]]:
    """Every unknown layer in a part that could be traced, and the unknown layer that it feeds, if any.

    A trace does not look into the closed modules, which are known attention blocks. The function also yields the closed
    modules in these parts, by their paths. It may yield a closed module several times.
    """
    prefix = f"{path}." if path else ""
    if not any(name.startswith(prefix) for name in unknown):
        return
    if _is_layer(module) and not path:
        yield "weight", None  # the whole model is one layer, which feeds nothing
        return
    modes, without_optional = (
        [
            _Feeds.of(nodes, module, prefix, unknown, closed)
            for nodes in traces(
                module, lambda part: part in closed or is_transposed_linear(part), without_labels=left_out
            )
        ]
        for left_out in (False, True)
    )
    for name in {name: None for mode in modes for name in mode.next}:
        first = next(mode.next[name] for mode in modes if name in mode.next)
        yield name, first if all(mode.agrees(name, first) for mode in modes + without_optional) else None
    # Continue with the parts that no trace has used.
    left = unknown - {name for mode in modes for name in mode.used}
    for child_name, child in module.named_children():
        yield from _traced(child, prefix + child_name, left, closed)


@dataclass(frozen=True)
class _Feeds:
    """The result of a trace in one mode.

    next: for each unknown layer, and each closed module by its path, the unknown layer that it feeds, if any.
    used: names of all weights in the trace, and paths of closed modules; empty if there is no trace.
    """

    next: Mapping[str, str | None]
    used: Set[str]

    @classmethod
    def of(
        cls, nodes: list[fx.Node], module: nn.Module, prefix: str, unknown: Set[str], closed: Set[nn.Module]
    ) -> "_Feeds":
        """The result of the trace of a module."""
        modules = dict(module.named_modules())
        # A `forward` method may also use a weight without calling its module, as in tied autoencoders.
        times_used = Counter(
            str(node.target).removesuffix(".weight")
            for node in nodes
            if node.op == "call_module" or (node.op == "get_attr" and not all(map(_is_metadata, node.users)))
        )
        feeds: dict[str, str | None] = {}
        for node in nodes:
            if node.op != "call_module":
                continue
            target = str(node.target)
            is_closed = modules[target] in closed
            name = f"{prefix}{target}" if is_closed else f"{prefix}{target}.weight"
            if is_closed or name in unknown:
                sources = _first_results(node) if is_closed else {node}
                after = _next_layer(modules[target], sources, modules) if times_used[target] == 1 else ""
                after_name = f"{prefix}{after}.weight"
                feeds[name] = after_name if after_name in unknown and times_used[after] == 1 else None
        used = {f"{prefix}{name}.weight" for name in times_used} | {f"{prefix}{name}" for name in times_used}
        return cls(feeds, used)

    def agrees(self, name: str, after: str | None) -> bool:
        """Whether `name` feeds `after` in this trace too, or whether the trace uses neither of these two layers."""
        if name in self.next:
            return self.next[name] == after
        return bool(self.used) and not {name, after} & self.used


def _first_results(node: fx.Node) -> set[fx.Node]:
    """The nodes that take the first of a module's results; the module's own node if it is also used in other ways."""
    taken = [user for user in node.users if user.op == "call_function" and user.target is operator.getitem]
    plain = len(taken) == len(node.users) and all(isinstance(user.args[1], int) for user in taken)
    return {user for user in taken if user.args[1] == 0} if plain else {node}


def _next_layer(source: nn.Module, sources: Set[fx.Node], modules: Mapping[str, nn.Module]) -> str:
    """Path of the only layer that reads a module's neurons, perhaps after elementwise operations; "" if there is none.

    The neurons of a convolution are its channels. Operations on each channel, such as pooling, keep the channels apart.
    """
    if is_altered(source):
        return ""
    width = getattr(source, "out_features", getattr(source, "nf", None))
    of_channels = is_convolution(source)
    derived, readers = set(sources), set[str]()
    flat = set[fx.Node]()  # nodes after flattening: the positions of a channel are separate, or averaged
    todo = list(sources)
    for node in todo:  # this list grows
        for user in node.users:
            module = modules[str(user.target)] if user.op == "call_module" else None
            if user in derived or _is_metadata(user):
                continue
            if module is not None and _is_layer(module):
                if is_altered(module) or is_convolution(module) != (of_channels and node not in flat):
                    return ""
                readers.add(str(user.target))
                continue
            # In (batch, positions, neurons), a BatchNorm1d would take the positions as its features.
            foreign = isinstance(module, nn.BatchNorm1d) and module.num_features != width and not of_channels
            step = user.target if module is None else module
            by_channel = of_channels and node not in flat
            flattens = by_channel and _flattens(user, module)
            if foreign or not (flattens or is_elementwise(step) or (by_channel and keeps_channels(step))):
                return ""
            if flattens or node in flat:
                flat.add(user)
            derived.add(user)
            todo.append(user)
    # No other tensor may change a neuron between the two layers.
    operands = {operand for node in derived - sources for operand in node.all_input_nodes}
    alone = all(operand in derived or _is_metadata(operand) for operand in operands)
    return readers.pop() if alone and len(readers) == 1 else ""


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation flattens (batch, channels, ...) to (batch, channels · positions) or averages positions."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target in (torch.flatten, "flatten"):
        return node.args[1:] == (1,) and not node.kwargs
    if node.target in (torch.mean, "mean"):
        return node.args[1:] in (((2, 3),), ((-2, -1),), ([2, 3],), ([-2, -1],)) and not node.kwargs
    return False


def _is_layer(module: nn.Module) -> bool:
    """Whether the outputs of a module are neurons, each with its own row of the weight."""
    return is_linear(module) or (is_convolution(module) and not getattr(module, "transposed", False))


def _is_metadata(node: fx.Node) -> bool:
    """Whether a node asks a tensor for something other than its values, such as its shape."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _METADATA
    return node.op == "call_method" and node.target in _METADATA


def _chains(feeds: Mapping[str, str | None]) -> tuple[tuple[str, ...], ...]:
    """The longest chains of layers in which each layer feeds the next."""
    fed = set(feeds.values())
    chains = []
    for name in feeds:
        if name not in fed:
            chain = [name]
            while (after := feeds[chain[-1]]) is not None:
                chain.append(after)
            chains.append(tuple(chain))
    return tuple(chains)
