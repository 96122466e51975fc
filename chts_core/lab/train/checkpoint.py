"""The state of a run as one safetensors file, which is written completely or not at all. `load` refuses a changed file.

The previous checkpoint stays next to the new one as `NAME.previous.safetensors`. You need it if a disk reports that the
new data is written, but then loses this data.

The format is described at https://github.com/huggingface/safetensors, so other tools can read the tensors. Unlike a
pickle, a file in this format cannot execute code when it is loaded.
"""

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1

# There is only one entry of metadata, because safetensors writes several entries in an order that changes from process
# to process.
_ENTRY = "chts_checkpoint"
# The checksum covers the whole file, with these characters in place of the checksum itself. The checksum follows the
# marker, whose quotation marks are escaped because it is JSON within JSON.
_NO_CHECKSUM = "0" * 64
_MARKER = rb"\"sha256\":\""
# The largest length of the JSON text, in characters. Safetensors reads headers of up to 100 MB, and in a header, the
# text takes up to two bytes per character, because it is escaped.
_LARGEST_STRUCTURE = 40_000_000

# The types that every version of safetensors can store. Tensors of other types are stored as raw bytes.
_STORED_TYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)
_EXPECTED = (
    "expected a dict with keys of type str or int, a list, a tuple, a dense tensor with data, a str, an int, a float, "
    "a bool or None; convert it, or leave it out"
)


def save(path: Path, state: Any) -> None:
    """Write a state to a file, completely or not at all. If writing fails, an existing file stays unchanged.

    If writing succeeds, the existing file is moved to `previous_of(path)`.

    Args:
        path: the path of the file; missing folders are created.
        state: dicts (with keys of type str or int), lists and tuples, nested in any way. They may contain tensors
            (dense, of any type, on any device), ints, floats, strings, bools and None.

    Raises:
        TypeError: if the state contains anything else; in this case nothing is written.
        ValueError: if the state without its tensors is so large that `load` would refuse the file.
        OSError: if the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    content = {"format": FORMAT, "sha256": _NO_CHECKSUM, "state": _pack(state, "state", tensors)}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    if len(text) > _LARGEST_STRUCTURE:
        raise ValueError(
            f"the state without its tensors takes {len(text)} characters; expected at most {_LARGEST_STRUCTURE}. "
            "Store long lists of numbers as tensors."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    previous = previous_of(path)
    before = previous.with_name(f"{previous.name}.part")
    try:
        save_file(_apart(tensors), temporary, metadata={_ENTRY: text})
        with Path(temporary).open("r+b") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            size = int.from_bytes(file.read(8), "little")
            file.seek(8 + file.read(size).index(_MARKER) + len(_MARKER))
            file.write(checksum.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        before.unlink(missing_ok=True)
        if path.exists():
            _give_second_name(path, before)
        Path(temporary).replace(path)
        if before.exists():
            before.replace(previous)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        before.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"cannot write {path}: {error}; free some disk space, or save to another folder.") from None
        raise


def previous_of(path: Path) -> Path:
    """The path of the previous checkpoint of the same run."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _give_second_name(path: Path, name: Path) -> None:
    try:
        name.hardlink_to(path)
    except OSError:  # not every file system supports hard links
        shutil.copyfile(path, name)


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """Load the state that `save` wrote, bit for bit; every tensor has its own memory on `device`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `save` did not write the file, if a newer version of chts wrote it, or if the file was cut short
            or changed. If the previous checkpoint is intact, the message says how to continue from it.
    """
    try:
        state = _load(path, device)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the checkpoint {path} does not exist; give the path of an existing checkpoint, or start a new run."
        ) from None
    except ValueError as error:
        previous = previous_of(path)
        try:
            _load(previous, "cpu")
        except (OSError, ValueError):
            raise error from None
        raise ValueError(
            f"{error} The previous checkpoint is intact: rename {previous.name} to {path.name} to continue from it."
        ) from None
    return state


def _load(path: Path, device: torch.device | str) -> Any:
    data = path.read_bytes()
    content = _read_content(path, data)
    start = data.find(_MARKER) + len(_MARKER)
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(view[start + len(_NO_CHECKSUM) :])
    if content["sha256"] != digest.hexdigest():
        raise ValueError(
            f"{path} is damaged: it was cut short or changed after it was written. "
            "Delete it and continue from an earlier checkpoint, or start the run again."
        )
    with _refusing_forgeries(path):
        tensors = load_tensors(data)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    with _refusing_forgeries(path):
        return _unpack(content["state"], tensors)


@contextmanager
def _refusing_forgeries(path: Path) -> Iterator[None]:
    """Refuse a file that causes an error although its checksum is right: somebody must have made it by hand."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} holds a state that chts did not write ({type(error).__name__}); give a file that a run saved."
        ) from None


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return the value in a form that JSON can store, and put its tensors into `tensors`. The key of a tensor is its
    place in the state. Subclasses are refused, except subclasses of dict and Tensor: `load` could not restore them."""
    kind = type(value)
    if isinstance(value, Tensor):
        return _pack_tensor(value, place, tensors)
    if isinstance(value, dict):  # subclasses too, because a model's state_dict() is one
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{place} has the key {key!r}, of type {type(key).__name__}; expected str or int.")
        return {"dict": [[key, _pack(item, f"{place}[{key!r}]", tensors)] for key, item in value.items()]}
    if kind in (list, tuple):
        items = [_pack(item, f"{place}[{index}]", tensors) for index, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is float and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}
    if value is None or kind in (bool, int, float, str):
        return value
    raise TypeError(f"{place} is of type {kind.__name__}; {_EXPECTED}.")


def _pack_tensor(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout}"
        raise TypeError(f"{place} is a tensor on {tensor.device} ({kind}); {_EXPECTED}.")
    described: dict[str, Any] = {"tensor": place}
    # Move the tensor to the CPU first, so that no copy takes memory on a GPU. A conjugation or negation may still be a
    # flag that torch has not yet applied to the values.
    tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype not in _STORED_TYPES:
        described |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        tensor = tensor.flatten().view(torch.uint8)
    tensors[place] = tensor
    return described


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy each tensor that shares memory with an earlier tensor, because safetensors refuses shared memory."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return apart


def _read_content(path: Path, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(
            f"{path} is not a safetensors file, or its beginning is damaged; give a file that a run saved, continue "
            "from an earlier checkpoint, or start the run again."
        ) from None
    try:
        content: dict[str, Any] = json.loads(metadata[_ENTRY])
        version, _, _ = int(content["format"]), content["sha256"], content["state"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            f"{path} is a safetensors file but holds no state of a run; give a file that a run saved."
        ) from None
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, but this chts reads up to {FORMAT}; a newer chts wrote it, so update chts."
        )
    return content


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "dict" in packed:
        return {key: _unpack(item, tensors) for key, item in packed["dict"]}
    if "tuple" in packed:
        return tuple(_unpack(item, tensors) for item in packed["tuple"])
    if "float" in packed:
        return struct.unpack(">d", bytes.fromhex(packed["float"]))[0]
    tensor = tensors[packed["tensor"]]
    return tensor.view(getattr(torch, packed["dtype"])).reshape(packed["shape"]) if "dtype" in packed else tensor
