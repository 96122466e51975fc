"""What several tests of the lab share: notebooks that run in a second, and a tiny Fashion-MNIST."""

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from numpy.typing import NDArray

from chts_core.lab import data
from chts_core.lab.data import ImageData

FASHION_FILES = data.IMAGE_SETS["fashion_mnist"].files


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load_images("digits")


@pytest.fixture(scope="module")
def write_notebook() -> Callable[..., Path]:
    """Writes a notebook: a title, a parameters cell if there are parameters, and code cells; returns its path."""

    def write(path: Path, *cells: str, parameters: str | None = None, title: str = "A tiny notebook") -> Path:
        declared = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters is not None else []
        notebook = new_notebook(
            cells=[new_markdown_cell(f"# {title}\n\nText."), *declared, *(new_code_cell(cell) for cell in cells)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture(scope="module")
def write_idx() -> Callable[[Path, NDArray[np.uint8]], Path]:
    """Writes an array as a gzipped IDX file; returns its path."""

    def write(path: Path, array: NDArray[np.uint8]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path.write_bytes(gzip.compress(header + array.tobytes()))
        return path

    return write


@pytest.fixture(scope="module")
def write_fashion(write_idx: Callable[..., Path]) -> Callable[..., Path]:
    """Writes 24 training and 12 test images below a root; returns the root.

    Training image i is filled with i, so that it is known again after the split; test images with `mark`.
    """

    def write(root: Path, mark: int = 255) -> Path:
        train = np.arange(24, dtype=np.uint8)
        arrays = (
            np.broadcast_to(train[:, None, None], (24, 28, 28)),
            train % 10,
            np.full((12, 28, 28), mark, np.uint8),
            np.arange(12, dtype=np.uint8) % 10,
        )
        for name, array in zip(FASHION_FILES, arrays, strict=True):
            write_idx(root / "fashion-mnist" / name, array)
        return root

    return write


@pytest.fixture
def no_fashion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Fashion-MNIST and without the means to fetch it."""
    monkeypatch.delenv("CHTS_DATA", raising=False)
    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", ())
    monkeypatch.setitem(sys.modules, "datasets", None)
