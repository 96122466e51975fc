"""Image classification tasks. The data set of digits comes with scikit-learn, so it is always available."""

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chts_core.lab.data.sources import Hub, Source, compare, fetch, locate, read_whole

# The choice of the validation images never depends on a run's seed, so that runs can be compared.
_SPLIT_SEED = 20190
_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


_LARGEST_SHIFT = 4  # as in the published code
_MOST_DIMENSIONS = 3  # an IDX file has at most three: images, rows, columns


@dataclass(frozen=True)
class Split:
    """Images and their classes. `pixels` holds the stored values, and `images` turns them into features.

    Features need four times as much memory as pixels that are stored as bytes. If a split is large, `take` only a
    batch, or read its `chunks`.

    pixels: uint8 or float32 (n, features), with one row per image.
    labels: int64 (n,).
    scalings: pairs of values that turn pixels into features. For each pair in order, `images` subtracts the first value
        and divides by the second. The values are float32 of shape (features,) or ().
    """

    pixels: Tensor
    labels: Tensor
    scalings: tuple[tuple[Tensor, Tensor], ...] = ()

    @cached_property
    def images(self) -> Tensor:
        """The features, float32 (n, features), in [0, 1] unless standardised; they are computed once and then kept."""
        found = self.pixels.float()
        for mean, deviation in self.scalings:
            found = (found - mean).div_(deviation)
        return found

    def take(self, rows: Tensor) -> "Split":
        """A split with only the images in the given rows; `rows` is int64."""
        return replace(self, pixels=self.pixels.index_select(0, rows), labels=self.labels.index_select(0, rows))

    def chunks(self, size: int = 1024) -> Iterator["Split"]:
        """Yield all images in order, `size` at a time; an empty split gives one empty chunk."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield replace(self, pixels=pixels, labels=labels)

    def scaled(self, mean: Tensor, deviation: Tensor) -> "Split":
        """The same images with scaled features: (features - mean) / deviation."""
        return replace(self, scalings=(*self.scalings, (mean, deviation)))

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        scalings = tuple((mean.to(device), deviation.to(device)) for mean, deviation in self.scalings)
        return Split(self.pixels.to(device), self.labels.to(device), scalings)


def shifted_and_mirrored(pixels: Tensor, image_shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Images that are shifted at random, and of which about half are mirrored.

    Each image moves by up to four pixels up or down and by up to four pixels left or right. All 81 shifts are equally
    likely. Pixels that come from outside are 0.

    Args:
        pixels: (n, features).
        image_shape: (rows, columns), or (colours, rows, columns).
        generator: on the CPU.
    """
    number, (rows, columns) = len(pixels), image_shape[-2:]
    shifts = torch.randint(2 * _LARGEST_SHIFT + 1, (2, number), generator=generator).to(pixels.device)
    mirrored = torch.randint(2, (number, 1), generator=generator).to(pixels.device) == 1
    row = shifts[0, :, None] + torch.arange(rows, device=pixels.device)
    column = shifts[1, :, None] + torch.arange(columns, device=pixels.device)
    column = torch.where(mirrored, column.flip(1), column)
    padded = F.pad(pixels.view(number, -1, rows, columns), [_LARGEST_SHIFT] * 4)
    image = torch.arange(number, device=pixels.device)[:, None, None]
    found = padded.movedim(1, -1)[image, row[:, :, None], column[:, None, :]]
    return found.movedim(-1, 1).reshape(pixels.shape)


@dataclass(frozen=True)
class ImageData:
    """An image classification task. Choose settings on `validation`; use `test` only for the final result.

    image_shape: the shape of an image: (rows, columns), or (3, rows, columns) for red, green and blue.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    image_shape: tuple[int, ...]
    classes: int

    @property
    def features(self) -> int:
        """Number of pixels, times three for colour images."""
        return math.prod(self.image_shape)

    @property
    def digest(self) -> str:
        """SHA-256 of the features and labels of all images, in order."""
        found = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in chain((some.images for some in split.chunks()), [split.labels]):
                found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()

    def standardised(self) -> "ImageData":
        """The same task, scaled so that each colour has mean 0 and standard deviation 1 over the training images.

        Raises:
            ValueError: if a colour has the same value everywhere in all training images.
        """
        colours = self.image_shape[0] if len(self.image_shape) == 3 else 1
        pixels = self.features // colours

        def mean_of(values: Callable[[Tensor], Tensor]) -> Tensor:
            """Mean of `values(images)` for each colour; the images have shape (n, colours, pixels). The mean is
            computed in float64, so that reading the images in chunks does not change it."""
            total = torch.zeros(colours, dtype=torch.float64, device=self.train.labels.device)
            for some in self.train.chunks():
                total += values(some.images.double().reshape(-1, colours, pixels)).sum((0, 2))
            return total / (len(self.train.labels) * pixels)

        mean = mean_of(lambda images: images)
        deviation = mean_of(lambda images: (images - mean[:, None]).square_()).sqrt()
        if not bool(deviation.all()):
            raise ValueError(
                f"the training images of {self.name} have the same value everywhere in at least one colour, so they "
                "cannot be standardised; check the files, or train with standardise=False."
            )

        scaling = [of_colours.float().repeat_interleave(pixels) for of_colours in (mean, deviation)]
        parts = (self.train, self.validation, self.test)
        train, validation, test = (part.scaled(*scaling) for part in parts)
        return replace(self, train=train, validation=validation, test=test)

    def without_validation(self) -> "ImageData":
        """The same task with the validation images moved to the training images."""
        both = (self.train, self.validation)
        pixels, labels = (torch.cat([getattr(part, of) for part in both]) for of in ("pixels", "labels"))
        none = replace(self.validation, pixels=self.validation.pixels[:0], labels=self.validation.labels[:0])
        return replace(self, train=replace(self.train, pixels=pixels, labels=labels), validation=none)

    def to(self, device: torch.device | str) -> "ImageData":
        """The same task on another device."""
        return ImageData(
            self.name,
            self.train.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.image_shape,
            self.classes,
        )


@dataclass(frozen=True)
class _Part:
    """Images (n, *image_shape) and their labels (n,). Messages use `place` to say where the data was found."""

    place: str
    images: NDArray[np.uint8]
    labels: NDArray[np.integer]


def load_images(name: str, data_dir: str | None = None) -> ImageData:
    """Load an image classification task by name.

    Args:
        name: a key of `IMAGE_SETS`.
        data_dir: a folder to look in before `$CHTS_DATA` and the system's folders; None or "" for no such folder.

    Raises:
        ValueError: for an unknown name, or for wrong or damaged files.
        DataNotFoundError: if the data is missing; the message says what was tried and how to get it.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(map(repr, IMAGE_SETS))}.")
    return IMAGE_SETS[name].load(data_dir or None)


def _load_digits(data_dir: str | None) -> ImageData:  # noqa: ARG001 - every loader takes it
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = images.astype(np.uint8)  # whole numbers up to 16
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    train, validation, test = np.split(order, [1077, 1437])  # 60 %, 20 %, 20 %
    return ImageData(
        "digits",
        _split(pixels[train], labels[train], white=16),
        _split(pixels[validation], labels[validation], white=16),
        _split(pixels[test], labels[test], white=16),
        image_shape=(8, 8),
        classes=10,
    )


def _load(
    name: str,
    read: Callable[[Path, tuple[str, ...]], list[_Part]],
    image_shape: tuple[int, ...],
    classes: int,
    data_dir: str | None,
) -> ImageData:
    """Load a task from files or the hub.

    `read` and the hub return the task in parts. The last part is the test split. A twelfth of the images in the other
    parts is for validation.
    """
    source = IMAGE_SETS[name]
    folder = locate(source, data_dir)
    parts = _fetch(source, data_dir) if folder is None else read(folder, source.files)
    for part in parts:
        _check(part, image_shape, classes)
    *training, test = parts
    images, labels = (np.concatenate([getattr(part, of) for part in training]) for of in ("images", "labels"))
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    validation, train = np.split(order, [len(order) // 12])

    found = ImageData(
        name,
        _split(images[train], labels[train], white=255),
        _split(images[validation], labels[validation], white=255),
        _split(test.images.copy(), test.labels, white=255),
        image_shape,
        classes,
    )
    if folder is None:
        compare(source, source.hub, found.digest)
    return found


def _check(part: _Part, image_shape: tuple[int, ...], classes: int) -> None:
    if not len(part.labels):
        raise ValueError(f"{part.place} has no images; fetch the data set again.")
    if part.images.shape[1:] != image_shape or part.labels.shape != part.images.shape[:1]:
        expected = ", ".join(map(str, image_shape))
        raise ValueError(
            f"{part.place} has images of shape {part.images.shape} and labels of {part.labels.shape}; expected "
            f"(n, {expected}) and (n,). Images and labels do not belong together: fetch the data set again."
        )
    wrong = part.labels[(part.labels < 0) | (part.labels >= classes)]
    if len(wrong):
        raise ValueError(
            f"{part.place} has the label {wrong[0]}; expected labels from 0 to {classes - 1}. The "
            "data set is a different one, or it is damaged: fetch it again."
        )


def _split(images: NDArray[np.uint8], labels: NDArray[np.integer], white: int) -> Split:
    """Make a split from images (n, *image_shape). The features are the pixels' values divided by `white`."""
    pixels = torch.from_numpy(images.reshape(len(images), -1))
    split = Split(pixels, torch.from_numpy(labels.astype(np.int64)))
    return split.scaled(torch.tensor(0.0), torch.tensor(float(white)))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes (the format of MNIST).

    Raises:
        ValueError: if the file is not gzip, is not an IDX file of bytes, or is cut short; the message names the file.
    """
    content = read_whole(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{path} starts with {content[:4]!r}; expected an IDX file of unsigned bytes. It is a different file, or "
            "it is damaged: fetch it again."
        )
    dimensions = content[3]
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path} declares {dimensions} dimensions; expected 1 for labels or 3 for images. It is a "
            "different file, or it is damaged: fetch it again."
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path} declares {dimensions} dimensions but ends before their sizes; fetch it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{path} declares {shape} but holds {len(content) - header} bytes of data; fetch it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_mnist(folder: Path, files: tuple[str, ...]) -> list[_Part]:
    """Read four IDX files: training images, training labels, test images and test labels."""
    return [
        _Part(f"{folder / images} with {labels}", read_idx(folder / images), read_idx(folder / labels))
        for images, labels in (files[:2], files[2:])
    ]


def _read_emnist(folder: Path, files: tuple[str, ...]) -> list[_Part]:
    """Read files in MNIST's format, but with each image stored column by column."""
    parts = _read_mnist(folder, files)
    return [replace(part, images=part.images.transpose(0, *range(part.images.ndim - 1, 0, -1))) for part in parts]


def _read_cifar10(folder: Path, files: tuple[str, ...]) -> list[_Part]:
    return [_Part(str(folder / file), *read_cifar(folder / file)) for file in files]


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a file of the binary version of CIFAR-10: each image has one byte for its label and 3·32·32 bytes of pixels.

    Returns:
        Images (n, 3, 32, 32), with the channels red, green and blue, and labels (n,).

    Raises:
        ValueError: if the file does not hold a whole number of images or is far too large; the message names the file.
    """
    content = np.frombuffer(read_whole(path), np.uint8)
    record = 1 + 3 * 32 * 32
    if not len(content) or len(content) % record:
        raise ValueError(
            f"{path} holds {len(content)} bytes; expected {record} for each image. It is cut short, or it is not "
            "the binary version: fetch it again."
        )
    records = content.reshape(-1, record)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _fetch(source: Source[ImageData], data_dir: str | None) -> list[_Part]:
    hub, splits = fetch(source, data_dir, lambda hub: (hub, hub.open()), "digits")
    return [_from_hub(f"the hub ({hub.name}, {split})", splits[split], hub.column) for split in ("train", "test")]


def _from_hub(place: str, rows: Any, column: str) -> _Part:
    images = np.stack([np.asarray(image, np.uint8) for image in rows[column]])
    if images.ndim == 4:  # in images from the hub, the colours are the last dimension
        images = np.moveaxis(images, -1, 1)
    return _Part(place, images, np.fromiter(rows["label"], np.int64))


IMAGE_SETS: dict[str, Source[ImageData]] = {
    "digits": Source(
        "Handwritten digits",
        "1,797 images of 8×8",
        _load_digits,
        remedy="comes with scikit-learn",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        "70,000 images of 28×28, 30 MB",
        partial(_load, "fashion_mnist", _read_mnist, (28, 28), 10),
        folder="fashion-mnist",
        files=_MNIST_FILES,
        hub=Hub("zalando-datasets/fashion_mnist", column="image"),
        sha256="0fec06c6c1b29063f0b63a37971ab5673947b32e9a0668fd22938a7150dfc109",
        remedy=(
            "on Debian or Ubuntu, run `sudo apt-get install dataset-fashion-mnist`; elsewhere, run `pip install "
            "datasets`, so that chts can fetch it from the Hugging Face hub; or put its four .gz files into "
            "$CHTS_DATA/fashion-mnist."
        ),
    ),
    "mnist": Source(
        "MNIST",
        "70,000 images of 28×28, 12 MB",
        partial(_load, "mnist", _read_mnist, (28, 28), 10),
        folder="mnist",
        files=_MNIST_FILES,
        hub=Hub("ylecun/mnist", column="image"),
        remedy=(
            "run `pip install datasets`, so that chts can fetch it from the Hugging Face hub; or put its four .gz "
            "files into $CHTS_DATA/mnist."
        ),
    ),
    # EMNIST has several splits. This split fits the paper's numbers: it has 47 classes, and a dense network classifies
    # 87 % of its images correctly.
    "emnist": Source(
        "EMNIST (balanced split, 47 classes)",
        "131,600 images of 28×28, in an archive of 562 MB",
        partial(_load, "emnist", _read_emnist, (28, 28), 47),
        folder="emnist",
        files=(
            "emnist-balanced-train-images-idx3-ubyte.gz",
            "emnist-balanced-train-labels-idx1-ubyte.gz",
            "emnist-balanced-test-images-idx3-ubyte.gz",
            "emnist-balanced-test-labels-idx1-ubyte.gz",
        ),
        remedy=(
            "download https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip and unpack its four files "
            "emnist-balanced-*-ubyte.gz into $CHTS_DATA/emnist."
        ),
    ),
    "cifar10": Source(
        "CIFAR-10",
        "60,000 colour images of 32×32, 184 MB",
        partial(_load, "cifar10", _read_cifar10, (3, 32, 32), 10),
        folder="cifar-10-batches-bin",
        files=(*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"),
        hub=Hub("uoft-cs/cifar10", column="img"),
        remedy=(
            "run `pip install datasets`, so that chts can fetch it from the Hugging Face hub; or unpack "
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz into $CHTS_DATA."
        ),
    ),
}
