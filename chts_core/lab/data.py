"""Data sets: found on this machine or fetched, always split into train, validation and test.

Looked for in `data_dir`, then `$CHTS_DATA`, then where the system keeps it, then on the Hugging Face hub through the
`datasets` package. Digits come with scikit-learn and are always there.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Which images are validation never depends on a run's seed, so that runs can be compared.
_SPLIT_SEED = 20190


class DataNotFoundError(FileNotFoundError):
    """A data set is not on this machine and could not be fetched."""


@dataclass(frozen=True)
class Split:
    """Images as rows of features in [0, 1], float32 (n, features), and their classes, int64 (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> "Split":
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """An image classification task. Choose settings on `validation`; `test` is for the final number alone."""

    name: str
    train: Split
    validation: Split
    test: Split
    image_shape: tuple[int, int]
    classes: int

    @property
    def features(self) -> int:
        """Number of pixels."""
        return self.image_shape[0] * self.image_shape[1]

    def to(self, device: torch.device | str) -> "ImageData":
        """The same on another device."""
        return ImageData(
            self.name,
            self.train.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.image_shape,
            self.classes,
        )


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    folder: its name below `data_dir`, `$CHTS_DATA` and the system's folders; None when a package carries it.
    remedy: what to do when it is missing.
    """

    title: str
    size: str
    load: Callable[[str | None], ImageData]
    folder: str | None = None
    files: tuple[str, ...] = ()
    remedy: str = ""


SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)
_HUB_FASHION_MNIST = "zalando-datasets/fashion_mnist"


def load_images(name: str, data_dir: str | None = None) -> ImageData:
    """Load an image classification task by name.

    Args:
        name: a key of `IMAGE_SETS`.
        data_dir: looked in first; None or "" for the usual places.

    Raises:
        ValueError: for an unknown name, or files that are not what they should be.
        DataNotFoundError: with what was tried and how to get the data.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(map(repr, IMAGE_SETS))}.")
    return IMAGE_SETS[name].load(data_dir or None)


def locate(source: Source, data_dir: str | None = None) -> Path | None:
    """The folder that holds all files of a source, or None."""
    return next((place for place in _places(source, data_dir) if _is_complete(place, source)), None)


def _places(source: Source, data_dir: str | None) -> list[Path]:
    if source.folder is None:
        return []
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get("CHTS_DATA")) if root]
    return [root / source.folder for root in (*roots, *SYSTEM_FOLDERS)]


def _is_complete(place: Path, source: Source) -> bool:
    return all((place / file).is_file() for file in source.files)


def _load_digits(data_dir: str | None) -> ImageData:  # noqa: ARG001 - every loader takes it
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images / 16).astype(np.float32)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    train, validation, test = np.split(order, [1077, 1437])  # 60 %, 20 %, 20 %
    return ImageData(
        "digits",
        _split(pixels[train], labels[train]),
        _split(pixels[validation], labels[validation]),
        _split(pixels[test], labels[test]),
        image_shape=(8, 8),
        classes=10,
    )


def _load_fashion_mnist(data_dir: str | None) -> ImageData:
    source = IMAGE_SETS["fashion_mnist"]
    folder = locate(source, data_dir)
    if folder is not None:
        train_images, train_labels, test_images, test_labels = (read_idx(folder / file) for file in source.files)
    else:
        train_images, train_labels, test_images, test_labels = _fetch_fashion_mnist(source, data_dir)
    for part, images, labels in (("training", train_images, train_labels), ("test", test_images, test_labels)):
        if images.shape[1:] != (28, 28) or labels.shape != (len(images),):
            raise ValueError(
                f"{source.title} has {part} images of shape {images.shape} and labels of {labels.shape}; expected "
                "(n, 28, 28) and (n,). The files do not belong together: fetch all four again."
            )
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(train_labels))
    validation, train = np.split(order, [len(order) // 12])  # 5,000 of 60,000

    def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)

    return ImageData(
        "fashion_mnist",
        _split(pixels(train_images[train]), train_labels[train]),
        _split(pixels(train_images[validation]), train_labels[validation]),
        _split(pixels(test_images), test_labels),
        image_shape=(28, 28),
        classes=10,
    )


def _split(images: NDArray[np.float32], labels: NDArray[np.integer]) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes (the format of MNIST).

    Raises:
        ValueError: naming the file, if it is not gzip, not IDX of bytes, or cut short.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} starts with {content[:4]!r}; expected an IDX file of unsigned bytes.")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path} announces {dimensions} dimensions but ends before their sizes; fetch it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{path} announces {shape} but holds {len(content) - header} bytes; fetch it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _fetch_fashion_mnist(source: Source, data_dir: str | None) -> list[NDArray[np.uint8]]:
    tried = [str(place) for place in _places(source, data_dir)]
    try:
        import datasets

        hub = datasets.load_dataset(_HUB_FASHION_MNIST)
    except ImportError:
        tried.append(f"the hub ({_HUB_FASHION_MNIST}): the datasets package is not installed")
    except Exception as error:  # whatever the network or the hub says belongs into the message
        tried.append(f"the hub ({_HUB_FASHION_MNIST}): {type(error).__name__}: {error}")
    else:
        return [
            np.stack([np.asarray(value, np.uint8) for value in hub[part][column]])
            for part in ("train", "test")
            for column in ("image", "label")
        ]
    lines = "\n".join(f"  - {place}" for place in tried)
    raise DataNotFoundError(
        f"{source.title} ({source.size}) was not found. Tried:\n{lines}\n"
        f"To get it: {source.remedy}\nOr use dataset='digits', which needs no download."
    )


IMAGE_SETS: dict[str, Source] = {
    "digits": Source("Handwritten digits", "1,797 images of 8×8, carried by scikit-learn", _load_digits),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        "70,000 images of 28×28, 30 MB",
        _load_fashion_mnist,
        folder="fashion-mnist",
        files=(
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        remedy=(
            "on Debian or Ubuntu `sudo apt-get install dataset-fashion-mnist`; elsewhere `pip install datasets`, which "
            "fetches it from the Hugging Face hub; or put its four .gz files into $CHTS_DATA/fashion-mnist."
        ),
    ),
}
