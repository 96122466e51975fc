"""Exported models: file size, and time of a forward pass after loading, against dense weights with zeros."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import chts_core as chts
from chts_core.tools.export import dense_copy, load_links, save_links

from .common import compare

WIDTHS = (64, 1024, 1024, 1024, 10)
SPARSITY, STEPS = 0.99, 400


def rows() -> Iterator[dict[str, Any]]:
    """Loading a file of links, and a forward pass in other formats; ONNX and torchao only if they are installed."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    model, sparsifier = _trained(images, labels)
    batch = images[:256]
    with tempfile.TemporaryDirectory() as name, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is in beta state; exporters warn about each other
        folder = Path(name)
        dense = dense_copy(model)
        saved = {"rival_bytes": _saved(dense, folder / "dense.pt")}
        for format, int8 in (("links", False), ("links, int8", True)):
            save_links(model, path := folder / f"{format}.safetensors", int8=int8)
            row = compare(
                f"load {format}", partial(load_links, path), ("torch.load", partial(torch.load, folder / "dense.pt"))
            )
            yield row | saved | {"bytes": path.stat().st_size}
        for format, (size, loaded) in _formats(model, sparsifier.compact(batch), batch, folder).items():
            for samples in (1, 256):
                ours, rival = partial(loaded, batch[:samples]), partial(dense, batch[:samples])
                torch.testing.assert_close(
                    torch.as_tensor(ours()), rival(), rtol=0, atol=0.02 * float(rival().abs().max())
                )
                row = compare(f"{format}, {samples} samples", ours, ("dense with zeros", rival))
                yield row | saved | {"bytes": size}


def _trained(images: Tensor, labels: Tensor) -> tuple[nn.Module, chts.Sparsifier]:
    """A perceptron that CHTs has trained on digits."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(WIDTHS):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sparsifier = chts.Sparsifier(
        model, optimizer, "chts", SPARSITY, total_steps=STEPS, update_every=20, execution="csr"
    )
    sparsifier.rescale_weights()
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        sparsifier.step()
    return model.eval(), sparsifier


def _formats(
    model: nn.Module, compacted: nn.Module, batch: Tensor, folder: Path
) -> dict[str, tuple[int, Callable[[Tensor], object]]]:
    """For each format: the size of its file in bytes, and the loaded model."""
    found: dict[str, tuple[int, Callable[[Tensor], object]]] = {}
    found["csr layers"] = _saved(model, folder / "model.pt"), model
    dense = dense_copy(model)
    csr = dense_copy(dense)
    for layer in csr.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > WIDTHS[-1]:
            layer.weight = nn.Parameter(layer.weight.to_sparse_csr(), requires_grad=False)
    found["torch CSR"] = _saved(csr, folder / "csr.pt"), csr
    found["compacted, dense"] = _saved(compacted, folder / "compacted.pt"), compacted
    shapes = ({0: torch.export.Dim("samples")},)
    torch.export.save(torch.export.export(compacted, (batch,), dynamic_shapes=shapes), folder / "compacted.pt2")
    exported = torch.export.load(folder / "compacted.pt2").module()
    found["torch.export, compacted"] = (folder / "compacted.pt2").stat().st_size, exported
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        found["ONNX, compacted"] = _onnx(compacted, batch, shapes, folder / "compacted.onnx")
    if find_spec("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        rounded = dense_copy(dense)
        quantize_(rounded, Int8WeightOnlyConfig())
        found["torchao int8"] = _saved(rounded, folder / "int8.pt"), rounded
    return found


def _onnx(model: nn.Module, batch: Tensor, shapes: Any, path: Path) -> tuple[int, Callable[[Tensor], object]]:
    import onnxruntime

    torch.onnx.export(model, (batch,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    (given,) = session.get_inputs()
    return path.stat().st_size, lambda x: session.run(None, {given.name: x.numpy()})[0]


def _saved(model: nn.Module, path: Path) -> int:
    torch.save(model.state_dict(), path)
    return path.stat().st_size
