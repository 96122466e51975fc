"""Find attention and feed-forward blocks by their type or by the names of their projections."""

import inspect
import operator
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, fx, nn

from chts_core.engine.dropout import Dropout
from chts_core.engine.forward import has_forward_of_class, traces
from chts_core.engine.kinds import Layer
from chts_core.engine.layers import all_layers, gated_experts, gated_feed_forward, has_linear
from chts_core.engine.sharding import is_fully_sharded
from chts_core.percolation import Attention, LayerGraph

# Modules and functions that act on each neuron separately, so that output j of the previous layer is input j of the
# next layer.
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
    torch.erf,
    torch.pow,
    torch.square,
    torch.clamp,
    torch.clip,
    operator.neg,
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    nn.functional.relu,
    nn.functional.relu6,
    nn.functional.leaky_relu,
    nn.functional.gelu,
    nn.functional.silu,
    nn.functional.mish,
    nn.functional.elu,
    nn.functional.tanh,
    nn.functional.sigmoid,
    nn.functional.softplus,
    nn.functional.dropout,
    *("relu", "tanh", "sigmoid", "contiguous", "to", "float"),  # methods of a tensor
}

# Modules and functions that act on each channel of a convolution separately.
_CHANNEL_MODULES = {
    getattr(nn, f"{kind}{dims}d")
    for kind in ("BatchNorm", "MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "Dropout", "InstanceNorm")
    for dims in (1, 2, 3)
} | {nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d}
_CHANNEL_CALLS = {
    *(
        getattr(nn.functional, f"{kind}{dims}d")
        for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "dropout")
        for dims in (1, 2, 3)
    ),
    nn.functional.interpolate,
}

# The names of an attention block's projections in LLaMA and similar models.
_OUTPUTS = ("o_proj", "out_proj", "dense")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", *_OUTPUTS)

# The names of the layers of queries, keys, values and outputs in other attention blocks of Hugging Face; None if the
# output layer is in another module.
_ROLES = (
    ("query.weight", "key.weight", "value.weight", "output.weight"),
    ("query.weight", "key.weight", "value.weight", None),
    ("q_lin.weight", "k_lin.weight", "v_lin.weight", "out_lin.weight"),
    ("q.weight", "k.weight", "v.weight", "o.weight"),
    ("c_attn.weight:q", "c_attn.weight:k", "c_attn.weight:v", "c_proj.weight"),
    ("q_attn.weight", "c_attn.weight:k", "c_attn.weight:v", "c_proj.weight"),
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_HEAD_DIMS = ("head_dim", "attention_head_size", "key_value_proj_dim")
# Functions that compute the products of queries, keys and values, functions with which a `forward` method may compute
# these products itself, and other functions that would mix neurons.
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
_PRODUCTS = {_INTERFACE, "scaled_dot_product_attention"}
_OWN_PRODUCTS = {"einsum", "matmul", "softmax"}
_MIXING = _OWN_PRODUCTS | {"cat", "flip", "normalize", "roll"}


@dataclass
class Blocks:
    """The blocks that were found by their type or by the names of their parts.

    chains, pairs: as in a :class:`LayerGraph`.
    attentions: the attention blocks, by the path of their module.
    without_output: the paths of the attention blocks whose output projection is in another module.
    """

    chains: list[tuple[str, ...]] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    attentions: dict[str, Attention] = field(default_factory=dict)
    without_output: set[str] = field(default_factory=set)

    def add_gated(self, gate: str | None, up: str | None, down: str | None) -> None:
        """Add a gated feed-forward block, given the names of its sparse layers."""
        self.pairs += [(gate, up)] if gate and up else []
        self.chains += [(before, down) if down else (before,) for before in (gate, up) if before]

    def layers(self) -> set[str]:
        """The names of all layers in these blocks."""
        return LayerGraph(tuple(self.chains), tuple(self.pairs), tuple(self.attentions.values())).layers()


def known_blocks(model: nn.Module, layers: Mapping[str, Layer]) -> Blocks:
    """Find the blocks of a model that have a known type or known names, and how they connect its layers."""
    blocks = Blocks()
    chains = blocks.chains
    shapes = {name: layer.shape for name, layer in all_layers(model).items()}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""

        def sparse(name: str, prefix: str = prefix) -> str | None:
            return prefix + name if prefix + name in layers else None

        if isinstance(module, nn.MultiheadAttention):
            q, k, v = (sparse(f"in_proj_weight:{role}") or sparse(f"{role}_proj_weight") for role in "qkv")
            heads, output = module.num_heads, sparse("out_proj.weight")
            if _runs_as(module, nn.MultiheadAttention, "forward"):
                blocks.attentions[path] = Attention(q, k, v, output, heads, heads)
            else:
                chains += [(name,) for name in (q, k, v, output) if name]
        if has_linear(module, "q_proj", "k_proj", "v_proj"):
            names = {name: sparse(f"{name}.weight") for name in _PROJECTIONS}
            attention, alone = (
                (None, list(names.values())) if is_altered_within(module) else _attention(model, module, names)
            )
            if attention:
                blocks.attentions[path] = attention
            chains += [(name,) for name in alone if name]
        elif roles := _roles(model, module, prefix, shapes):
            projections, heads = roles
            q, k, v, output = (sparse(name) if name else None for name in projections)
            blocks.attentions[path] = Attention(q, k, v, output, heads, heads)
            if projections[-1] is None:
                blocks.without_output.add(path)
        if (gated := gated_feed_forward(module)) and _gates(module, gated):
            gate, up, down = (sparse(f"{name}.weight") for name in gated)
            blocks.add_gated(gate, up, down)
        experts = gated_experts(module)
        for expert in range(experts if experts and _experts_gate(module) else 0):
            gate, up = (sparse(f"gate_up_proj:{expert}:{role}") for role in ("gate", "up"))
            blocks.add_gated(gate, up, sparse(f"down_proj:{expert}"))
        for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
            if isinstance(module, kind) and _runs_as(module, kind, "forward", "_ff_block"):
                chain = tuple(name for name in (sparse("linear1.weight"), sparse("linear2.weight")) if name)
                parts = (module.linear1, module.dropout, module.linear2)
                mixes = any(map(is_altered, parts)) or not is_elementwise(module.activation)
                chains += ([(name,) for name in chain] if mixes else [chain]) if chain else []
    return blocks


def _roles(
    model: nn.Module, module: nn.Module, prefix: str, shapes: Mapping[str, tuple[int, int]]
) -> tuple[tuple[str, str, str, str | None], int] | None:
    """Names of the layers of queries, keys, values and outputs in an attention block, and the number of its heads.

    The attention block must leave everything except the projections to Hugging Face's attention interface. Then no
    other parameter and no code of the module itself mixes neurons. The result is None for any other module.
    """
    if is_altered_within(module):
        return None
    used = _names_in_forward(module)
    if _INTERFACE not in used or _MIXING & used:
        return None
    for roles in _ROLES:
        if all(prefix + name in shapes for name in roles if name):
            break
    else:
        return None
    query, key, value, output = roles
    heads = next((number for name in _HEADS if isinstance(number := getattr(module, name, None), int)), 0)
    head_dim = next((number for name in _HEAD_DIMS if isinstance(number := getattr(module, name, None), int)), 0)
    widths = {shapes[prefix + name][0] for name in (query, key, value)}
    if output:
        widths.add(shapes[prefix + output][1])
    if heads < 1 or widths != {heads * head_dim} or _rotates_halves(model, module, head_dim) is not False:
        return None
    foreign = _has_foreign_parameter(module, {name.partition(".")[0] for name in roles if name}, heads)
    return None if foreign else (roles, heads)


def _names_in_forward(module: nn.Module) -> set[str]:
    """The names of the functions and attributes that the `forward` method of a module uses."""
    forward = getattr(type(module), "forward", None)  # None if torch.jit has compiled the module
    code = getattr(forward and inspect.unwrap(forward), "__code__", None)
    return set(code.co_names) if code else set()


def _has_foreign_parameter(attention: nn.Module, parts: Collection[str], heads: int) -> bool:
    """Whether an attention block has a parameter outside of these parts that may mix neurons."""
    for name, parameter in attention.named_parameters():
        # T5 and Swin add numbers to each head's scores. They depend only on positions. gpt-oss adds a score per head.
        of_positions = name.endswith(("relative_attention_bias.weight", "relative_position_bias_table"))
        of_head = parameter.shape[1:] == (heads,) if of_positions else name == "sinks" and parameter.shape == (heads,)
        if name.partition(".")[0] not in parts and not of_head:
            return True
    return False


def _attention(
    model: nn.Module, module: nn.Module, names: Mapping[str, str | None]
) -> tuple[Attention | None, list[str | None]]:
    """An attention block whose parts have LLaMA's names, and the layers whose links percolation must keep.

    Blocks with these names differ in the steps between the projections and their products (queries times keys, and
    attention weights times values). If such a step normalises neurons together, or if rotary positions mix unknown
    pairs of neurons, a neuron has an effect even if the other factor of its product is inactive.
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
    used = _names_in_forward(module)
    mixing = _MIXING & used if _PRODUCTS & used else _MIXING & used - _OWN_PRODUCTS
    if mixing - {"cat"} or _has_foreign_parameter(module, {"q_proj", "k_proj", "v_proj", output or "", *norms}, heads):
        return None, []
    if norms or rotary is None or "cat" in mixing:  # queries and keys may be rotated in parts
        return Attention(None, None, v, o, heads, key_heads), [q, k]
    return Attention(q, k, v, o, heads, key_heads, rotary), []


def _rotates_halves(model: nn.Module, attention: nn.Module, head_dim: int) -> bool | None:
    """Whether a block's rotary positions mix neurons j and j + head_dim/2; None if they may mix other pairs."""
    frequencies = {buffer.shape[-1] for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    names = [type(module).__name__ for module in model.modules()] + list(vars(attention))
    if not frequencies and not any(word in name.lower() for name in names for word in ("rotary", "rope")):
        return False
    rotate = getattr(sys.modules.get(type(attention).__module__), "rotate_half", None)
    if rotate is None or frequencies != {head_dim // 2}:
        return None
    return True if rotate(torch.arange(4)).tolist() == [-2, -3, 0, 1] else None


def is_altered(module: nn.Module) -> bool:
    """Whether the output of a module depends on anything other than the `forward` method of its class."""
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


def is_altered_within(block: nn.Module) -> bool:
    """Whether a block or one of its children may compute something other than its own class does."""
    return not has_forward_of_class(block) or any(is_altered(part) for part in block.children())


def _runs_as(module: nn.Module, kind: type[nn.Module], *methods: str) -> bool:
    """Whether a module runs these methods as the class `kind` defines them. The module is an instance of `kind`."""
    inherits = all(getattr(type(module), method) is getattr(kind, method) for method in methods)
    return inherits and has_forward_of_class(module)


def is_elementwise(function: object) -> bool:
    """Whether a function or module is known to act on each neuron separately."""
    if not isinstance(function, nn.Module):
        return function in _ELEMENTWISE_CALLS
    of_torch = isinstance(function, _ELEMENTWISE_MODULES) and type(function).__module__.startswith("torch.nn")
    return (of_torch or type(function) is Dropout) and not is_altered(function)


def keeps_channels(function: object) -> bool:
    """Whether a function or module is known to act on each channel of a convolution separately."""
    if not isinstance(function, nn.Module):
        return function in _CHANNEL_CALLS
    return type(function) in _CHANNEL_MODULES and not is_altered(function)


def _gates(block: nn.Module, names: tuple[str, str, str]) -> bool:
    """Whether a block computes down(act(gate(x)) * up(x)), and whether no neuron of the product depends on another.

    If both are true, a neuron of the product has no effect when one of its factors, from gate or from up, is zero.
    """
    if is_altered_within(block):
        return False
    try:
        return all(
            _keeps_zeros(block, nodes, names)
            for left_out in (False, True)
            for nodes in traces(block, lambda _: True, without_labels=left_out)
        )
    except Exception:  # an activation that does not accept such an input may raise any error
        return False


def _keeps_zeros(block: nn.Module, nodes: list[fx.Node], names: tuple[str, str, str]) -> bool:
    """Whether one trace of a block shows that the condition of :func:`_gates` holds.

    The function computes the product for random outputs of `gate` and `up`, and again with zeros for some neurons.
    """
    calls = [[node for node in nodes if node.op == "call_module" and node.target == name] for name in names]
    weights = [node for node in nodes if node.op == "get_attr" and str(node.target).partition(".")[0] in names]
    if [len(found) for found in calls] != [1, 1, 1] or any(weight.users for weight in weights):
        return False
    (gate,), (up,), (down,) = calls
    (product,) = down.all_input_nodes
    needed = {product}
    for node in reversed(nodes):
        if node in needed - {gate, up}:
            needed |= set(node.all_input_nodes)
    steps = [node for node in nodes if node in needed - {gate, up}]
    parts = {node: block.get_submodule(str(node.target)) for node in steps if node.op == "call_module"}
    # An argument or a trained value may become any number. A step that is not needed may change a tensor in place.
    trained = any(part.state_dict() for part in parts.values())
    if trained or any(node.op in ("placeholder", "get_attr") for node in steps):
        return False
    if any(node.users.keys() - needed - {down} for node in (gate, up, *steps)):
        return False

    def computed(gate_values: Tensor, up_values: Tensor) -> Tensor:
        probe = fx.Interpreter(block, graph=down.graph)
        probe.env = {gate: gate_values.clone(), up: up_values.clone()}
        torch.default_generator.manual_seed(0)  # the same draws each time
        for node in steps:
            dropout = isinstance(parts.get(node), nn.Dropout)  # may draw from a generator of its own
            probe.env[node] = probe.env[node.all_input_nodes[0]] if dropout else probe.run_node(node)
        found: Tensor = probe.env[product]
        return found

    generator = torch.Generator("cpu").manual_seed(0)
    width = cast(nn.Linear, block.get_submodule(names[0])).out_features
    gates, ups = torch.randn(2, 1, 3, width, generator=generator, device="cpu")
    lost = torch.rand(width, generator=generator, device="cpu") < 0.5
    lost[0] = True
    with torch.no_grad():
        before = computed(gates, ups)
        after = [computed(gates * ~lost, ups), computed(gates, ups * ~lost)]
    return all(torch.equal(found, before * ~lost) for found in after)


def _experts_gate(experts: nn.Module) -> bool:
    """Whether the product of gate and up is zero in these experts if the gate is zero."""
    if is_altered_within(experts):
        return False
    try:
        apply_gate = cast(Callable[[Tensor], Tensor], experts._apply_gate)
        return not apply_gate(torch.tensor([[0.0, 1.0, 1.0, 1.0]], device="cpu"))[0, 0]
    except Exception:  # the activation does not accept such an input
        return False
