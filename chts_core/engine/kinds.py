"""The kinds of weights that can become sparse, and the bipartite networks in a weight of each kind."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.modules import rnn

from chts_core.engine.forward import is_convolution, is_transposed_linear


@dataclass(frozen=True)
class Layer:
    """A bipartite network. Its matrix, of shape (out_features, in_features), is a parameter or a part of a parameter.

    Element (o, i) of the matrix is element offset + o · strides[0] + i · strides[1] of the flattened parameter. So the
    matrix may be a whole weight, some rows of a packed weight, a transposed weight, or one matrix of a stack of
    experts. For a convolution, each input is one position of the kernel in one channel: i = channel · (number of
    positions) + position.

    name: the name of the parameter. If the network is only a part of the parameter, the name has a suffix: ":q", ":k"
        or ":v" in a packed weight, the gate in a recurrent layer (":i"), or the number of a head, expert or group
        (":0").
    parameter: the name of the parameter, without a suffix.
    shape: (out_features, in_features) of the network itself.
    strides, offset: see above.
    kernel: the shape of the kernel of a convolution.
    """

    name: str
    parameter: str
    shape: tuple[int, int]
    strides: tuple[int, int]
    offset: int = 0
    kernel: tuple[int, ...] = ()

    @property
    def full_shape(self) -> tuple[int, ...]:
        """(out_features, in_features), or (out_channels, in_channels, *kernel) for a convolution."""
        return (self.shape[0], self.shape[1] // math.prod(self.kernel), *self.kernel)

    @property
    def first_row(self) -> int:
        """The first row of this layer in the parameter, if the layer consists of rows of a matrix."""
        return self.offset // self.strides[0]

    @property
    def keeps_order(self) -> bool:
        """Whether the elements of this layer have the same order in the flattened layer and the flattened parameter."""
        return self.strides[0] >= self.strides[1]

    def matrix(self, tensor: Tensor) -> Tensor:
        """The part of a tensor that belongs to this layer, as a matrix (out_features, in_features).

        The tensor has the shape of the parameter. The matrix is a view if the tensor is contiguous.
        """
        flat = tensor.reshape(-1)
        return flat.as_strided(self.shape, self.strides, flat.storage_offset() + self.offset)

    def part(self, name: str, first: int, rows: int) -> "Layer":
        """Some rows of this layer as a separate network."""
        offset = self.offset + first * self.strides[0]
        return replace(self, name=name, shape=(rows, self.shape[1]), offset=offset)

    def in_parameter(self, links: Tensor) -> Tensor:
        """Positions of links in the flattened parameter, from their positions in the flattened layer."""
        outputs, inputs = links // self.shape[1], links % self.shape[1]
        return self.offset + outputs * self.strides[0] + inputs * self.strides[1]

    def in_layer(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Which positions of the flattened parameter are in this layer (Boolean), and their positions in the layer."""
        # If both strides are 1, one side has a single neuron.
        wide = 0 if (self.strides[0], self.shape[0]) >= (self.strides[1], self.shape[1]) else 1
        rest = (positions - self.offset) % self.strides[wide]
        steps = (positions - self.offset) // self.strides[wide], rest // self.strides[1 - wide]
        outputs, inputs = steps if wide == 0 else reversed(steps)
        inside = (rest % self.strides[1 - wide] == 0) & (outputs >= 0) & (inputs >= 0)
        inside &= (outputs < self.shape[0]) & (inputs < self.shape[1])
        return inside, (outputs * self.shape[1] + inputs)[inside]


@dataclass(frozen=True)
class Candidate:
    """A layer that could be sparse.

    path, module: the name of the module that has the parameter, and the module itself.
    why_dense: why the layer stays dense unless the user names it; None for most layers.
    """

    layer: Layer
    path: str
    module: nn.Module
    why_dense: str | None = None


def candidates(model: nn.Module) -> Iterator[Candidate]:
    """Every layer of a model that could be sparse, in the model's order."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for kind, layers_of in _KINDS:
            if kind(module):
                why_dense = "a depthwise convolution" if _is_depthwise(module) else None
                yield from (Candidate(layer, path, module, why_dense) for layer in layers_of(module, prefix))
                break


def other_matrices(model: nn.Module) -> Iterator[Candidate]:
    """Parameters of two dimensions or more that belong to no known kind of module, apart from embeddings and biases.

    These parameters stay dense unless the user names them. A named parameter of three dimensions is a stack of matrices
    and has the shape (matrices, out_features, in_features). Any other named parameter is one matrix, and its first
    dimension corresponds to the outputs.
    """
    known = {candidate.layer.parameter for candidate in candidates(model)}
    for name, parameter in matrices(model).items():
        if name in known:
            continue
        path = name.rpartition(".")[0]
        stack = len(parameter) if parameter.dim() == 3 else 1
        rows = parameter.shape[1] if parameter.dim() == 3 else len(parameter)
        whole = _whole(name, stack * rows, math.prod(parameter.shape) // (stack * rows))
        for part in range(stack):
            layer = whole.part(f"{name}:{part}", part * rows, rows) if stack > 1 else whole
            why_dense = "part of a computed weight" if ".parametrizations." in name else "not a known kind of layer"
            yield Candidate(layer, path, model.get_submodule(path), why_dense)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of two dimensions or more, by name, apart from embeddings and biases."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.numel() and id(parameter) not in embeddings and not _is_bias(name)
    }


def _is_bias(name: str) -> bool:
    return name.endswith("bias")


def convertible(model: nn.Module, parameter: str) -> bool:
    """Whether the layer that has this weight can become a :class:`chts_core.engine.linear.SparseLinear`.

    Layers inside `nn.MultiheadAttention` cannot be converted, because this module reads the weights of its parts
    itself. Layers that are more than an `nn.Linear` cannot be converted either: a subclass, a parametrised or pruned
    layer, or one with its own `forward` or with state-dict hooks (such hooks expect a dense weight).
    """
    path, _, name = parameter.rpartition(".")
    if name != "weight" or not path:
        return False
    module = model.get_submodule(path)
    hooks = (module._state_dict_hooks, module._state_dict_pre_hooks, module._load_state_dict_pre_hooks)
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module._parameters.keys() == {"weight", "bias"}
        and not (module._buffers or module._modules or "forward" in vars(module) or any(hooks))
        and not module._load_state_dict_post_hooks
    )


def _linear(module: nn.Module, prefix: str) -> Iterator[Layer]:
    assert isinstance(module, nn.Linear)
    yield _whole(f"{prefix}weight", module.out_features, module.in_features)


def _whole(name: str, rows: int, columns: int) -> Layer:
    return Layer(name, name, (rows, columns), (columns, 1))


def _transposed_linear(module: nn.Module, prefix: str) -> Iterator[Layer]:
    """GPT-2 packs queries, keys and values into one weight. For cross-attention, it packs only keys and values."""
    name = f"{prefix}weight"
    rows, columns = (int(getattr(module, size)) for size in ("nx", "nf"))
    packs = f".{name}".endswith(".c_attn.weight")
    roles = {3: "qkv", 2: "kv"}.get(columns // rows) if packs and columns % rows == 0 else None
    if roles is None:
        yield Layer(name, name, (columns, rows), (1, columns))
    else:
        for part, role in enumerate(roles):
            yield Layer(f"{name}:{role}", name, (rows, rows), (1, columns), part * rows)


def _attention(module: nn.Module, prefix: str) -> Iterator[Layer]:
    assert isinstance(module, nn.MultiheadAttention)
    if module.in_proj_weight is not None:
        packed, width = f"{prefix}in_proj_weight", module.embed_dim
        for part, role in enumerate("qkv"):
            yield _whole(packed, 3 * width, width).part(f"{packed}:{role}", part * width, width)
    else:
        for role in "qkv":
            name = f"{role}_proj_weight"
            yield _whole(prefix + name, *getattr(module, name).shape)


def _convolution(module: nn.Module, prefix: str) -> Iterator[Layer]:
    """For each group, a network from each kernel position of each input channel to the output channels.

    The rows of a transposed convolution are its input channels, because its weight is stored in this way. A depthwise
    convolution has one network for all groups.
    """
    assert isinstance(module, nn.modules.conv._ConvNd)
    name, groups, kernel = f"{prefix}weight", module.groups, tuple(module.kernel_size)
    if "weight" not in module._parameters:  # it is computed from other parameters, for example by weight_norm
        return
    rows, others = module.out_channels, module.in_channels // groups
    if module.transposed:
        rows, others = module.in_channels, module.out_channels // groups
    whole = replace(_whole(name, rows, others * math.prod(kernel)), kernel=kernel)
    if groups == 1 or _is_depthwise(module):
        yield whole
        return
    for group in range(groups):
        yield whole.part(f"{name}:{group}", group * (rows // groups), rows // groups)


def _is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution in which each channel has its own kernel."""
    return isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups == module.in_channels


def _recurrent(module: nn.Module, prefix: str) -> Iterator[Layer]:
    """For each gate, a network from the inputs to the gate, and another from the previous hidden state to the gate."""
    gates = next((gates for kinds, gates in _GATES if isinstance(module, kinds)), "")
    for name, weight in module._parameters.items():
        if weight is None or not re.fullmatch(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?", name):
            continue
        rows, columns = weight.shape
        whole = _whole(prefix + name, rows, columns)
        if name.startswith("weight_hr") or not gates:  # the projection of an LSTM's hidden state
            yield whole
            continue
        for part, gate in enumerate(gates):
            yield whole.part(f"{prefix}{name}:{gate}", part * (rows // len(gates)), rows // len(gates))


# The gates in PyTorch's order. LSTM: input, forget, cell and output gate. GRU: reset, update and new gate.
_GATES = (((nn.LSTM, nn.LSTMCell), "ifgo"), ((nn.GRU, nn.GRUCell), "rzn"))


def _bilinear(module: nn.Module, prefix: str) -> Iterator[Layer]:
    """A network from all pairs of inputs to the outputs."""
    assert isinstance(module, nn.Bilinear)
    yield _whole(f"{prefix}weight", module.out_features, module.in1_features * module.in2_features)


def _experts(module: nn.Module, prefix: str) -> Iterator[Layer]:
    """A network for each matrix of each expert, from weights (experts, out, in) or (experts, in, out).

    A weight that packs the matrices `gate` and `up` becomes two networks for each expert. A parameter with one row or
    one column for each expert is a bias or a scale, and does not become a network.
    """
    for name, weight in module._parameters.items():
        if weight is None or weight.dim() != 3 or 1 in weight.shape[1:] or _is_bias(name):
            continue
        experts, rows, columns = weight.shape
        transposed = _is_transposed(module)
        outputs, inputs = (columns, rows) if transposed else (rows, columns)
        strides = (1, columns) if transposed else (columns, 1)
        packs = name.startswith("gate_up") and outputs % 2 == 0
        side_by_side = getattr(module, "is_concatenated", True)
        for expert in range(experts):
            start = expert * rows * columns
            whole = Layer(f"{prefix}{name}:{expert}", prefix + name, (outputs, inputs), strides, start)
            if not packs:
                yield whole
                continue
            for half, role in enumerate(("gate", "up")):
                first = half * outputs // 2 if side_by_side else half
                step = strides[0] if side_by_side else 2 * strides[0]
                yield replace(
                    whole,
                    name=f"{whole.name}:{role}",
                    shape=(outputs // 2, inputs),
                    strides=(step, strides[1]),
                    offset=start + first * strides[0],
                )


def _is_transposed(module: nn.Module) -> bool:
    """Whether the experts' weights have the shape (in_features, out_features)."""
    if isinstance(stored := getattr(module, "is_transposed", None), bool):
        return stored
    packed, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if isinstance(packed, Tensor) and isinstance(down, Tensor) and packed.dim() == down.dim() == 3:
        return bool(packed.shape[2] == 2 * down.shape[1] and packed.shape[1] == down.shape[2])
    return False


def _is_experts(module: nn.Module) -> bool:
    return "Experts" in type(module).__name__ and not type(module).__module__.startswith("torch.")


_KINDS: tuple[tuple[Callable[[nn.Module], bool], Callable[[nn.Module, str], Iterator[Layer]]], ...] = (
    (lambda module: isinstance(module, nn.Linear), _linear),
    (is_transposed_linear, _transposed_linear),
    (lambda module: isinstance(module, nn.MultiheadAttention), _attention),
    (is_convolution, _convolution),
    (lambda module: isinstance(module, nn.RNNBase | rnn.RNNCellBase), _recurrent),
    (lambda module: isinstance(module, nn.Bilinear), _bilinear),
    (_is_experts, _experts),
)
