"""Models for programs without `chts_core`: dense copies, and small files that torch alone can load."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.engine.forward import is_convolution
from chts_core.engine.layers import check_in_memory, unwrap
from chts_core.engine.linear import to_dense
from chts_core.engine.weights import pack_bits

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U8": torch.uint8, "BOOL": torch.bool}
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}


def dense_copy(model: nn.Module) -> nn.Module:
    """A copy of a model without a Sparsifier. In the copy, each layer that stores only its links is an `nn.Linear`.

    Absent links have weight 0. The outputs are the same, up to rounding. Hooks on the replaced layers are left out.
    """
    return to_dense(copy.deepcopy(unwrap(model)))


def save_links(model: nn.Module, path: str | Path, *, int8: bool = False) -> None:
    """Save the state dict of :func:`dense_copy` as a safetensors file in which absent links take almost no space.

    A tensor with many zeros is stored as its nonzero values and their positions. The positions take one bit for each
    element, or 32 bits for each nonzero value, whichever is smaller. :func:`load_links` fills in the zeros. Links with
    weight 0 count as absent.

    Args:
        model: any module; a Sparsifier may be attached to it.
        path: the file to write.
        int8: whether to store each weight of two dimensions or more as 8-bit integers. Each row along the last
            dimension has its own scale; in a convolution, each filter has one. The scale is the largest |W| of the row
            or filter, divided by 127. A weight changes by at most half its scale. If its dtype is a half precision,
            rounding to this dtype changes the weight a little more. Zeros stay zeros.

    Raises:
        TypeError, ValueError: if the file cannot hold one of the tensors. In this case nothing is written.
    """
    _check(unwrap(model).state_dict())
    dense = dense_copy(model)
    filters = {f"{name}.weight" for name, module in dense.named_modules() if is_convolution(module)}
    parts: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}  # shapes of the tensors that are stored in a flat form
    dtypes: dict[str, str] = {}  # original dtypes of 8-bit weights, if their scale has another dtype
    shared: dict[str, str] = {}  # maps every further name of a tensor to its first name
    names: dict[tuple[object, ...], str] = {}
    for name, tensor in dense.state_dict().items():
        first = names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name) if tensor.numel() else name
        if first != name:
            shared[name] = first
            continue
        if int8 and tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel():
            if tensor.itemsize < 4:
                dtypes[name] = _KINDS[tensor.dtype]
            tensor, parts[f"{name}.scale"] = _rounded(name, tensor, by_filter=name in filters)
            shapes[name] = list(tensor.shape)
        links = _links(tensor)
        if links is not None:
            parts[f"{name}.links"] = links
            shapes[name] = list(tensor.shape)
            tensor = tensor[tensor != 0]
        parts[name] = tensor.flatten() if name in shapes else tensor
    notes = {"shapes": shapes, "dtypes": dtypes, "shared": shared}
    _write(Path(path), parts, {key: json.dumps(note) for key, note in notes.items()})


def load_links(path: str | Path) -> dict[str, Tensor]:
    """The state dict, with dense weights, from a file that `save_links` has written."""
    file = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    data = torch.frombuffer(file, dtype=torch.uint8)[start:]
    metadata = header.pop("__metadata__", {})
    if "shapes" not in metadata:
        raise ValueError(f"{path} was not written by save_links; load it with safetensors.")
    state = {
        name: data[slice(*part["data_offsets"])].clone().view(DTYPES[part["dtype"]]).view(part["shape"])
        for name, part in header.items()
    }
    for name, shape in json.loads(metadata["shapes"]).items():
        weight = state[name]
        links = state.pop(f"{name}.links", None)
        if links is not None:
            if links.dtype == torch.uint8:  # one bit for each element
                bits = links[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8) & 1
                links = bits.flatten()[: math.prod(shape)].bool()
            weight = torch.zeros(math.prod(shape), dtype=weight.dtype)
            weight[links] = state[name]
        state[name] = weight.view(shape)
        if f"{name}.scale" in state:  # the weight is stored as 8-bit integers
            state[name] = state[name] * state.pop(f"{name}.scale")
    for name, dtype in json.loads(metadata.get("dtypes", "{}")).items():  # older files lack this entry
        state[name] = state[name].to(DTYPES[dtype])
    return state | {name: state[first] for name, first in json.loads(metadata["shared"]).items()}


def _check(state: dict[str, Any]) -> None:
    for name, tensor in state.items():
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.dtype not in DTYPES.values():
            kind = f" of {tensor.dtype} in {tensor.layout}" if isinstance(tensor, Tensor) else ""
            raise TypeError(
                f"{name} is a {type(tensor).__name__}{kind}; expected a dense torch.Tensor of "
                f"{', '.join(map(str, DTYPES.values()))}. Save the model before you quantise, shard or convert it."
            )
    check_in_memory(state)


def _links(tensor: Tensor) -> Tensor | None:
    """The places where a tensor is not 0, as bits (uint8) or flattened positions (int32).

    None if storing the zeros takes less space.
    """
    links = int(tensor.count_nonzero())
    bits, positions = math.ceil(tensor.numel() / 8), 4 * links
    if (tensor.numel() - links) * tensor.itemsize <= min(bits, positions):
        return None
    if bits <= positions or tensor.numel() > 2**31:
        return pack_bits(tensor != 0)
    return tensor.flatten().nonzero().squeeze(1).int()


def _rounded(name: str, weight: Tensor, by_filter: bool) -> tuple[Tensor, Tensor]:
    """A weight as 8-bit integers, and a scale with the same number of dimensions. Their product is about the weight.

    The scale is at least float32, because half precision would round it too coarsely.
    """
    if not weight.isfinite().all():
        raise ValueError(f"{name} has infinite or NaN weights, which int8 cannot hold; save the model without int8.")
    dims = tuple(range(1, weight.dim())) if by_filter else (-1,)
    scale = weight.abs().amax(dims, keepdim=True).to(torch.promote_types(weight.dtype, torch.float32)) / 127
    scale[scale == 0] = 1
    return (weight.double() / scale.double()).round().clamp(-127, 127).to(torch.int8), scale


def _write(path: Path, parts: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file."""
    header: dict[str, object] = {"__metadata__": metadata}
    ordered = dict(sorted(parts.items(), key=lambda part: -part[1].itemsize))  # so that all tensors are aligned
    end = 0
    for name, tensor in ordered.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered.values():
            file.write(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
