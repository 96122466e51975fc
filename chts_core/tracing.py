"""Read off a model which of its sparse layers feed each other, for percolation.

Attention and feed-forward blocks are known by their type (`nn.MultiheadAttention`, `nn.TransformerEncoderLayer`) or by
the names that LLaMA and its relatives give their projections. All else is traced by `torch.fx`: layers with only
elementwise operations between them form a chain.

What the trace does not show is taken for something that may mix neurons: hooks on a layer or an activation, a forward
that one instance has for its own, parametrizations, and what is done in training or in evaluation alone. Layers on
either side of it are then no chain; pass `graph` where you know better.
"""

import operator
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import torch
from torch import fx, nn

from chts_core.forward import has_forward_of_class, leaving_nothing_behind, nodes
from chts_core.layers import Layer, has_gated_feed_forward, has_linear
from chts_core.percolation import Attention, LayerGraph
from chts_core.sharding import is_fully_sharded

# What acts on each neuron by itself, so that output j of the layer before is input j of the layer after.
_ELEMENTWISE_MODULES = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Softplus,
    nn.Dropout,
    nn.BatchNorm1d,
)
_ELEMENTWISE_CALLS = {
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    operator.neg,
    nn.functional.relu,
    nn.functional.leaky_relu,
    nn.functional.gelu,
    nn.functional.silu,
    nn.functional.elu,
    nn.functional.tanh,
    nn.functional.sigmoid,
    nn.functional.softplus,
    nn.functional.dropout,
    *("relu", "tanh", "sigmoid", "contiguous"),  # methods of a tensor
}


# What LLaMA and its relatives call the projections of an attention.
_OUTPUTS = ("o_proj", "out_proj", "dense")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", *_OUTPUTS)


def layer_graph(model: nn.Module, layers: Mapping[str, Layer]) -> tuple[LayerGraph, set[str]]:
    """How the sparse layers of a model feed each other.

    Args:
        model: read and traced, in training and in evaluation, never run on data; where it cannot be traced, its
            parts are.
        layers: the sparse layers (:func:`chts_core.layers.sparse_layers`).

    Returns:
        The graph, and the names of the layers about which nothing could be found out.
    """
    known = _known_blocks(model, layers)
    unknown = layers.keys() - known.layers()
    with leaving_nothing_behind(model):
        traced = dict(_traced(model, "", unknown))
    chains = _chains(traced)
    return LayerGraph(known.chains + chains, known.pairs, known.attentions), unknown - traced.keys()


def _known_blocks(model: nn.Module, layers: Mapping[str, Layer]) -> LayerGraph:
    """The blocks whose inner workings are known by their type or by the names of their parts."""
    chains: list[tuple[str, ...]] = []
    pairs: list[tuple[str, str]] = []
    attentions: list[Attention] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""

        def sparse(name: str, prefix: str = prefix) -> str | None:
            return prefix + name if prefix + name in layers else None

        if isinstance(module, nn.MultiheadAttention):
            q, k, v = (sparse(f"in_proj_weight:{role}") or sparse(f"{role}_proj_weight") for role in "qkv")
            heads, output = module.num_heads, sparse("out_proj.weight")
            if _runs_as(module, nn.MultiheadAttention, "forward"):
                attentions.append(Attention(q, k, v, output, heads, heads))
            else:
                chains += [(name,) for name in (q, k, v, output) if name]
        if has_linear(module, "q_proj", "k_proj", "v_proj"):
            names = {name: sparse(f"{name}.weight") for name in _PROJECTIONS}
            attention, alone = (
                (None, list(names.values())) if _is_altered_within(module) else _attention(model, module, names)
            )
            attentions += [attention] if attention else []
            chains += [(name,) for name in alone if name]
        if has_gated_feed_forward(module):
            gate, up, down = (sparse(f"{role}_proj.weight") for role in ("gate", "up", "down"))
            if _is_altered_within(module):
                chains += [(name,) for name in (gate, up, down) if name]
            else:
                pairs += [(gate, up)] if gate and up else []
                chains += [(before, down) if down else (before,) for before in (gate, up) if before]
        for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
            if isinstance(module, kind) and _runs_as(module, kind, "forward", "_ff_block"):
                chain = tuple(name for name in (sparse("linear1.weight"), sparse("linear2.weight")) if name)
                parts = (module.linear1, module.dropout, module.linear2)
                mixes = any(map(_is_altered, parts)) or not _is_elementwise(module.activation)
                chains += ([(name,) for name in chain] if mixes else [chain]) if chain else []
    attentions = [a for a in attentions if a.query or a.key or a.value or a.output]
    return LayerGraph(tuple(chains), tuple(pairs), tuple(attentions))


def _attention(
    model: nn.Module, module: nn.Module, names: Mapping[str, str | None]
) -> tuple[Attention | None, list[str | None]]:
    """An attention with LLaMA's names, and those of its layers that must not be cut by what the others lost.

    Its relatives differ between the projections and the products: where neurons are normalised together, or rotated
    in planes that are not known, one that lacks its partner still has a say.
    """
    shapes = {name: part.weight.shape for name, part in module.named_children() if isinstance(part, nn.Linear)}
    output = next((name for name in _OUTPUTS if name in shapes), None)
    head_dim = getattr(module, "head_dim", None)
    if not isinstance(head_dim, int):
        return None, []
    heads, key_heads = (shapes[name][0] // head_dim for name in ("q_proj", "k_proj"))
    widths = [shapes[name][0] for name in ("q_proj", "k_proj", "v_proj")]
    if widths != [head_dim * heads, head_dim * key_heads, head_dim * key_heads]:
        return None, []
    if output and shapes[output][1] != head_dim * heads:
        return None, []

    norms = [name for name, _ in module.named_children() if "norm" in name]
    rotary = _rotates_halves(model, module, head_dim)
    q, k, v = (names[f"{role}_proj"] for role in "qkv")
    o = names[output] if output else None
    if not all(name.startswith(("q", "k")) for name in norms):
        return None, [q, k, v, o]
    if norms or rotary is None:
        return Attention(None, None, v, o, heads, key_heads), [q, k]
    return Attention(q, k, v, o, heads, key_heads, rotary), []


def _rotates_halves(model: nn.Module, attention: nn.Module, head_dim: int) -> bool | None:
    """Whether an attention rotates positions in, mixing neurons j and j + head_dim/2; None if it mixes others."""
    frequencies = {buffer.shape[-1] for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    names = [type(module).__name__ for module in model.modules()] + list(vars(attention))
    if not frequencies and not any(word in name.lower() for name in names for word in ("rotary", "rope")):
        return False
    rotate = getattr(sys.modules.get(type(attention).__module__), "rotate_half", None)
    if rotate is None or frequencies != {head_dim // 2}:
        return None
    return True if rotate(torch.arange(4)).tolist() == [-2, -3, 0, 1] else None


def _is_altered(module: nn.Module) -> bool:
    """Whether something beside the forward of its class has a say in what a module gives."""
    if is_fully_sharded(module):  # its hooks gather weights
        return False
    everywhere = nn.modules.module
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        everywhere._global_forward_hooks,
        everywhere._global_forward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module) or nn.utils.parametrize.is_parametrized(module)


def _is_altered_within(block: nn.Module) -> bool:
    """Whether a block or a part of it gives something else than its class says."""
    return not has_forward_of_class(block) or any(_is_altered(part) for part in block.children())


def _runs_as(module: nn.Module, kind: type[nn.Module], *methods: str) -> bool:
    """Whether a module runs these methods of a class that it is or derives from."""
    inherits = all(getattr(type(module), method) is getattr(kind, method) for method in methods)
    return inherits and has_forward_of_class(module)


def _is_elementwise(function: object) -> bool:
    """Whether a function or module is known to act on each neuron by itself."""
    if not isinstance(function, nn.Module):
        return function in _ELEMENTWISE_CALLS
    known = isinstance(function, _ELEMENTWISE_MODULES) and type(function).__module__.startswith("torch.nn")
    return known and not _is_altered(function)


def _traced(module: nn.Module, path: str, unknown: set[str]) -> Iterator[tuple[str, str | None]]:
    """Every unknown layer whose surroundings could be traced, with the unknown layer it feeds, if any."""
    prefix = f"{path}." if path else ""
    if not any(name.startswith(prefix) for name in unknown):
        return
    if isinstance(module, nn.Linear) and not path:
        yield "weight", None  # the whole model is one layer, which feeds nothing
        return
    modes = [_Feeds.of(module, prefix, unknown, training) for training in (True, False)]
    for name in {name: None for mode in modes for name in mode.next}:
        first = next(mode.next[name] for mode in modes if name in mode.next)
        yield name, first if all(mode.agrees(name, first) for mode in modes) else None
    # Also what is left of a module that could be traced, but does not always use all of its parts.
    left = unknown - {name for mode in modes for name in mode.used}
    for child_name, child in module.named_children():
        yield from _traced(child, prefix + child_name, left)


@dataclass(frozen=True)
class _Feeds:
    """What a trace in training or in evaluation shows.

    next: of each unknown layer the unknown layer that it feeds, if any.
    used: names of all weights in the trace; nothing where there is no trace.
    """

    next: Mapping[str, str | None]
    used: Set[str]

    @classmethod
    def of(cls, module: nn.Module, prefix: str, unknown: Set[str], training: bool) -> "_Feeds":
        """Trace a module."""
        recorded = nodes(module, training)
        modules = dict(module.named_modules())
        # A weight may also be used without its module, as in tied autoencoders.
        times_used = Counter(
            str(node.target).removesuffix(".weight") for node in recorded if node.op in ("call_module", "get_attr")
        )
        feeds: dict[str, str | None] = {}
        for node in recorded:
            name = f"{prefix}{node.target}.weight"
            if node.op == "call_module" and name in unknown:
                after = _next_layer(node, modules) if times_used[str(node.target)] == 1 else ""
                after_name = f"{prefix}{after}.weight"
                feeds[name] = after_name if after_name in unknown and times_used[after] == 1 else None
        return cls(feeds, {f"{prefix}{used}.weight" for used in times_used})

    def agrees(self, name: str, after: str | None) -> bool:
        """Whether one layer feeds another here too, or neither of them is used."""
        if name in self.next:
            return self.next[name] == after
        return bool(self.used) and not {name, after} & self.used


def _next_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Module name of the linear layer that alone reads a node's neurons, elementwise operations between; else ""."""
    layer = modules[str(node.target)]
    if _is_altered(layer):
        return ""
    width = layer.get_parameter("weight").shape[0]
    while len(node.users) == 1:
        (node,) = node.users
        if node.op == "call_module":
            module = modules[str(node.target)]
            if isinstance(module, nn.Linear):
                return "" if _is_altered(module) else str(node.target)
            # Of (batch, positions, neurons), a BatchNorm1d would take the positions as its features.
            foreign = isinstance(module, nn.BatchNorm1d) and module.num_features != width
            if foreign or not _is_elementwise(module):
                return ""
        elif not _is_elementwise(node.target):
            return ""
    return ""


def _chains(feeds: Mapping[str, str | None]) -> tuple[tuple[str, ...], ...]:
    """The longest chains of layers that each feed the next."""
    fed = set(feeds.values())
    chains = []
    for name in feeds:
        if name not in fed:
            chain = [name]
            while (after := feeds[chain[-1]]) is not None:
                chain.append(after)
            chains.append(tuple(chain))
    return tuple(chains)
