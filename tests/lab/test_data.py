import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chts_core.lab import data
from chts_core.lab.data import DataNotFoundError, ImageData, Split

FASHION = data.IMAGE_SETS["fashion_mnist"]
EMNIST = data.IMAGE_SETS["emnist"]
CIFAR = data.IMAGE_SETS["cifar10"]
FILED = [name for name, source in data.IMAGE_SETS.items() if source.files]


def parts(loaded: ImageData) -> dict[str, Split]:
    return {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}


# --- digits ---


def test_digits_are_split_60_20_20(digits: ImageData) -> None:
    assert {name: len(part.labels) for name, part in parts(digits).items()} == {
        "train": 1077,
        "validation": 360,
        "test": 360,
    }
    assert (digits.name, digits.image_shape, digits.features, digits.classes) == ("digits", (8, 8), 64, 10)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_digits_are_floats_from_0_to_1_with_whole_labels(digits: ImageData, part: str) -> None:
    split = parts(digits)[part]
    assert split.images.dtype == torch.float32
    assert split.images.shape == (len(split.labels), 64)
    assert (float(split.images.min()), float(split.images.max())) == (0, 1)
    assert split.labels.dtype == torch.int64
    assert set(split.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_digits_are_stored_as_bytes(digits: ImageData, part: str) -> None:
    split = parts(digits)[part]
    assert split.pixels.dtype == torch.uint8
    assert torch.equal(split.images, split.pixels / 16)


def test_every_digit_is_in_exactly_one_part(digits: ImageData) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    whole = sorted((*(row / 16).tolist(), int(label)) for row, label in zip(images, labels, strict=True))
    ours = sorted(
        (*image, label)
        for part in parts(digits).values()
        for image, label in zip(part.images.tolist(), part.labels.tolist(), strict=True)
    )
    # 1/16 is exact in float32, so equality is exact; the originals are all different, so no image is in two parts.
    assert ours == whole
    assert len(set(ours)) == len(ours)


def test_the_split_depends_on_no_seed(digits: ImageData) -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 - the global state is what must not matter
    again = data.load_images("digits", data_dir="/nowhere")
    for name, part in parts(again).items():
        assert torch.equal(part.images, parts(digits)[name].images)
        assert torch.equal(part.labels, parts(digits)[name].labels)


def test_moving_moves_every_part(digits: ImageData) -> None:
    moved = digits.to("meta")
    assert {part.pixels.device.type for part in parts(moved).values()} == {"meta"}
    assert {part.images.device.type for part in parts(moved).values()} == {"meta"}
    assert {part.labels.device.type for part in parts(moved).values()} == {"meta"}
    assert (moved.name, moved.image_shape, moved.classes) == ("digits", (8, 8), 10)
    assert digits.train.images.device.type == "cpu"


def test_the_digest_of_the_digits_is_that_of_recorded_runs(digits: ImageData) -> None:
    assert digits.digest == "ceded52ae3c6cc9bcc6670a75b3f09dc77e8f27308cf14c106818d1b8aff9bf2"


# --- IDX files ---


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
def test_an_idx_file_is_read_as_it_was_written(
    tmp_path: Path, write_idx: Callable[..., Path], shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    read = data.read_idx(write_idx(tmp_path / "array.gz", array))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


def idx(dimensions: int, *sizes: int, magic: bytes = b"\0\0\x08", content: bytes = b"") -> bytes:
    return gzip.compress(magic + bytes([dimensions]) + struct.pack(f">{len(sizes)}I", *sizes) + content)


WHOLE = gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 3000) + bytes(range(250)) * 12)
BAD_FILES = {
    "not gzip": (b"<html>404 Not Found</html>", "not an intact gzip file"),
    "empty": (b"", "IDX"),
    "cut short": (WHOLE[: len(WHOLE) // 2], "not an intact gzip file"),
    "damaged in the middle": (WHOLE[:20] + b"\xff" * 20 + WHOLE[40:], "not an intact gzip file"),
    "wrong checksum": (WHOLE[:-8] + b"\0" * 8, "not an intact gzip file"),
    "other magic": (idx(1, 2, magic=b"\0\0\x0d", content=bytes(8)), "expected an IDX file of unsigned bytes"),
    "a text": (gzip.compress(b"label,pixel\n"), "expected an IDX file of unsigned bytes"),
    "fewer bytes than declared": (idx(2, 3, 4, content=bytes(11)), r"declares \(3, 4\) but holds 11 bytes"),
    "more bytes than declared": (idx(2, 3, 4, content=bytes(13)), r"declares \(3, 4\) but holds 13 bytes"),
    "no room for its own shape": (idx(3, 5), "expected|declares|whole"),
    # The product of this shape is 2^64, which a 64-bit integer would take for 0.
    "a shape beyond counting": (idx(3, 2**31, 2**31, 4), "declares"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_idx_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        data.read_idx(path)
    assert str(path) in str(refused.value)


# --- where data is looked for ---


def mark_of(loaded: ImageData) -> int:
    """Which of the fake copies was loaded: they differ in their test images."""
    return round(float(loaded.test.images[0, 0]) * 255)


@pytest.mark.usefixtures("no_fashion")
def test_places_are_searched_in_order(
    tmp_path: Path, write_fashion: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, environment, system = (
        write_fashion(tmp_path / name, mark) for mark, name in enumerate(("given", "environment", "system"), start=1)
    )
    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", (tmp_path / "not here", system))
    assert mark_of(data.load_images("fashion_mnist")) == 3
    monkeypatch.setenv("CHTS_DATA", str(environment))
    assert mark_of(data.load_images("fashion_mnist")) == 2
    assert mark_of(data.load_images("fashion_mnist", "")) == 2
    assert mark_of(data.load_images("fashion_mnist", str(given))) == 1
    # A folder without the data, or with some of the files only, is passed over.
    assert mark_of(data.load_images("fashion_mnist", str(tmp_path))) == 2
    (given / "fashion-mnist" / FASHION.files[3]).unlink()
    assert mark_of(data.load_images("fashion_mnist", str(given))) == 2
    assert data.locate(FASHION, str(given)) == environment / "fashion-mnist"


@pytest.mark.usefixtures("no_fashion")
def test_a_tilde_is_the_home_folder(
    tmp_path: Path, write_fashion: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path / "sets", mark=9)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mark_of(data.load_images("fashion_mnist", "~/sets")) == 9


def test_what_a_package_carries_is_in_no_folder() -> None:
    assert data.locate(data.IMAGE_SETS["digits"]) is None


@pytest.mark.usefixtures("no_fashion")
def test_fashion_mnist_is_split_without_loss(tmp_path: Path, write_fashion: Callable[..., Path]) -> None:
    loaded = data.load_images("fashion_mnist", str(write_fashion(tmp_path)))
    numbers = {name: (part.images[:, 0] * 255).round().int().tolist() for name, part in parts(loaded).items()}
    assert len(numbers["validation"]) == 2  # a twelfth of 24
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(24))
    for name in ("train", "validation"):
        assert parts(loaded)[name].labels.tolist() == [number % 10 for number in numbers[name]]
    assert loaded.test.labels.tolist() == [number % 10 for number in range(12)]
    assert (loaded.image_shape, loaded.features, loaded.classes) == ((28, 28), 784, 10)
    assert loaded.test.images.shape == (12, 784)
    assert float(loaded.test.images.max()) == 1


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize("file", [0, 1, 2, 3])
def test_images_and_labels_that_do_not_belong_together_are_refused(
    tmp_path: Path, write_fashion: Callable[..., Path], write_idx: Callable[..., Path], file: int
) -> None:
    folder = write_fashion(tmp_path) / "fashion-mnist"
    whole = data.read_idx(folder / FASHION.files[file])
    write_idx(folder / FASHION.files[file], whole[:-1])
    with pytest.raises(ValueError, match=r"images.*labels"):
        data.load_images("fashion_mnist", str(tmp_path))


@pytest.mark.usefixtures("no_fashion")
def test_images_of_another_size_are_refused(
    tmp_path: Path, write_fashion: Callable[..., Path], write_idx: Callable[..., Path]
) -> None:
    folder = write_fashion(tmp_path) / "fashion-mnist"
    write_idx(folder / FASHION.files[0], np.zeros((24, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="28"):
        data.load_images("fashion_mnist", str(tmp_path))


# --- MNIST, EMNIST and CIFAR-10 ---


def some_images(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images; the first pixel is the image's number."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)
    images.reshape(count, -1)[:, 0] = range(count)
    return images


@pytest.fixture
def write_mnist(write_idx: Callable[..., Path]) -> Callable[..., NDArray[np.uint8]]:
    """Writes 24 training and 12 test images of a data set of four IDX files below a root; returns all 36."""

    def write(root: Path, name: str) -> NDArray[np.uint8]:
        source = data.IMAGE_SETS[name]
        images, numbers = some_images(36, 28, 28), np.arange(36, dtype=np.uint8)
        arrays = (images[:24], numbers[:24] % 10, images[24:], numbers[24:] % 10)
        for file, array in zip(source.files, arrays, strict=True):
            write_idx(root / str(source.folder) / file, array)
        return images

    return write


@pytest.fixture
def write_cifar() -> Callable[[Path], NDArray[np.uint8]]:
    """Writes five batches of 12 images and one of 12 test images below a root; returns all 72, channels first."""

    def write(root: Path) -> NDArray[np.uint8]:
        images = some_images(72, 3, 32, 32)
        (root / "cifar-10-batches-bin").mkdir(parents=True)
        for batch, file in enumerate(CIFAR.files):
            numbers = range(12 * batch, 12 * batch + 12)
            content = b"".join(bytes([number % 10]) + images[number].tobytes() for number in numbers)
            (root / "cifar-10-batches-bin" / file).write_bytes(content)
        return images

    return write


def assert_is_split_from(loaded: ImageData, images: NDArray[np.uint8], training: int) -> None:
    """Every pixel and label is there, a twelfth of the training images as validation, the rest in no other part."""
    numbers = {name: (part.images[:, 0] * 255).round().int().tolist() for name, part in parts(loaded).items()}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(training))
    assert len(numbers["validation"]) == training // 12
    assert numbers["test"] == list(range(training, len(images)))
    for name, part in parts(loaded).items():
        expected = images[numbers[name]].reshape(len(numbers[name]), -1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(part.images.numpy(), expected)
        assert part.pixels.dtype == torch.uint8
        assert part.labels.tolist() == [number % 10 for number in numbers[name]]


@pytest.mark.usefixtures("no_fashion")
def test_mnist_is_read_as_it_was_written(tmp_path: Path, write_mnist: Callable[..., NDArray[np.uint8]]) -> None:
    images = write_mnist(tmp_path, "mnist")
    loaded = data.load_images("mnist", str(tmp_path))
    assert_is_split_from(loaded, images, training=24)
    assert (loaded.name, loaded.image_shape, loaded.features, loaded.classes) == ("mnist", (28, 28), 784, 10)
    # The folder is its own: Fashion-MNIST has files of the same names.
    with pytest.raises(DataNotFoundError, match="Fashion-MNIST"):
        data.load_images("fashion_mnist", str(tmp_path))


@pytest.mark.usefixtures("no_fashion")
def test_emnist_is_stored_by_columns(tmp_path: Path, write_mnist: Callable[..., NDArray[np.uint8]]) -> None:
    stored = write_mnist(tmp_path, "emnist")
    loaded = data.load_images("emnist", str(tmp_path))
    assert_is_split_from(loaded, stored.swapaxes(1, 2), training=24)
    assert (loaded.name, loaded.image_shape, loaded.features, loaded.classes) == ("emnist", (28, 28), 784, 47)
    # By hand: what the file has in its row 3 and column 20 is seen in row 20 and column 3.
    seen = float(loaded.test.images[0].view(28, 28)[20, 3])
    assert seen * 255 == pytest.approx(float(stored[24, 3, 20]))


@pytest.mark.usefixtures("no_fashion")
def test_cifar10_is_read_as_it_was_written(tmp_path: Path, write_cifar: Callable[..., NDArray[np.uint8]]) -> None:
    images = write_cifar(tmp_path)
    loaded = data.load_images("cifar10", str(tmp_path))
    assert_is_split_from(loaded, images, training=60)
    assert (loaded.name, loaded.image_shape, loaded.features, loaded.classes) == ("cifar10", (3, 32, 32), 3072, 10)


def test_a_cifar_image_is_red_then_green_then_blue_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "test_batch.bin"
    green = bytes([*range(32), *range(100, 132), *bytes(960)])
    path.write_bytes(b"\x07" + b"\xff" * 1024 + green + b"\x11" * 1024)
    images, labels = data.read_cifar(path)
    assert (images.shape, labels.tolist()) == ((1, 3, 32, 32), [7])
    assert (images[0, 0] == 255).all()
    assert (images[0, 2] == 17).all()
    assert images[0, 1, 0].tolist() == list(range(32))
    assert images[0, 1, 1].tolist() == list(range(100, 132))


@pytest.mark.parametrize("change", [-1, 1, -3072, None])
def test_what_is_no_cifar_file_is_refused_by_name(tmp_path: Path, change: int | None) -> None:
    path = tmp_path / "data_batch_1.bin"
    size = 0 if change is None else 2 * 3073 + change
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"holds {size} bytes; expected 3073 for each image") as refused:
        data.read_cifar(path)
    assert str(path) in str(refused.value)


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize("file", CIFAR.files)
def test_each_cifar_file_is_checked(tmp_path: Path, write_cifar: Callable[..., NDArray[np.uint8]], file: str) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / file
    whole = path.read_bytes()
    path.write_bytes(whole[:3073] + b"\x0a" + whole[3074:])
    with pytest.raises(ValueError, match="has the label 10; expected labels from 0 to 9") as refused:
        data.load_images("cifar10", str(tmp_path))
    assert str(path) in str(refused.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="holds 36875 bytes") as refused:
        data.load_images("cifar10", str(tmp_path))
    assert str(path) in str(refused.value)
    path.unlink()  # an incomplete folder is passed over
    with pytest.raises(DataNotFoundError, match="CIFAR-10"):
        data.load_images("cifar10", str(tmp_path))


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize(("name", "most"), [("fashion_mnist", 9), ("mnist", 9), ("emnist", 46)])
@pytest.mark.parametrize("file", [1, 3])
def test_labels_out_of_range_are_refused_by_name(
    tmp_path: Path,
    write_mnist: Callable[..., NDArray[np.uint8]],
    write_idx: Callable[..., Path],
    name: str,
    most: int,
    file: int,
) -> None:
    write_mnist(tmp_path, name)
    source = data.IMAGE_SETS[name]
    path = tmp_path / str(source.folder) / source.files[file]
    labels = data.read_idx(path).copy()
    labels[5] = most
    write_idx(path, labels)
    loaded = data.load_images(name, str(tmp_path))
    assert max(int(part.labels.max()) for part in parts(loaded).values()) == most
    labels[5] = most + 1
    write_idx(path, labels)
    with pytest.raises(ValueError, match=f"has the label {most + 1}; expected labels from 0 to {most}") as refused:
        data.load_images(name, str(tmp_path))
    assert str(path.parent) in str(refused.value)
    assert path.name in str(refused.value)


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize("name", ["mnist", "emnist"])
@pytest.mark.parametrize("file", range(4))
def test_damaged_files_are_refused_by_name(
    tmp_path: Path,
    write_mnist: Callable[..., NDArray[np.uint8]],
    write_idx: Callable[..., Path],
    name: str,
    file: int,
) -> None:
    write_mnist(tmp_path, name)
    source = data.IMAGE_SETS[name]
    path = tmp_path / str(source.folder) / source.files[file]
    whole, array = path.read_bytes(), data.read_idx(path)
    damaged = {
        "not an intact gzip file": whole[: len(whole) // 2],
        "expected an IDX file of unsigned bytes": gzip.compress(b"\0\0\x0d" + gzip.decompress(whole)[3:]),
    }
    for message, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as refused:
            data.load_images(name, str(tmp_path))
        assert str(path) in str(refused.value)
    # One image or label fewer than the other file has; and labels where images should be, or the reverse.
    other = data.read_idx(path.parent / source.files[file ^ 1])
    for wrong in (array[:-1], other):
        write_idx(path, wrong)
        with pytest.raises(ValueError, match=r"expected \(n, 28, 28\) and \(n,\)") as refused:
            data.load_images(name, str(tmp_path))
        assert str(path.parent) in str(refused.value)
        assert path.name in str(refused.value)


# --- the hub ---


class FakeHub:
    """Stands in for the `datasets` package; remembers what it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[str] = []

    def load_dataset(self, name: str) -> dict[str, dict[str, list[object]]]:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        train = [np.full((28, 28), number, np.uint8) for number in range(24)]
        test = [np.full((28, 28), 77, np.uint8)] * 12
        return {
            "train": {"image": list(train), "label": [number % 10 for number in range(24)]},
            "test": {"image": list(test), "label": [number % 10 for number in range(12)]},
        }


@pytest.mark.filterwarnings("ignore:Fashion-MNIST from the hub:RuntimeWarning")  # test_downloads looks at it
@pytest.mark.usefixtures("no_fashion")
def test_what_is_nowhere_comes_from_the_hub(
    tmp_path: Path, write_fashion: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub.load_dataset))
    loaded = data.load_images("fashion_mnist")
    assert hub.asked == ["zalando-datasets/fashion_mnist"]
    assert mark_of(loaded) == 77
    # The same images as from files are split in the same way.
    from_files = data.load_images("fashion_mnist", str(write_fashion(tmp_path, mark=77)))
    assert len(hub.asked) == 1
    for name, part in parts(loaded).items():
        assert torch.equal(part.images, parts(from_files)[name].images)
        assert torch.equal(part.labels, parts(from_files)[name].labels)


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize(
    ("name", "hub_name", "column", "shape"),
    [("mnist", "ylecun/mnist", "image", (28, 28)), ("cifar10", "uoft-cs/cifar10", "img", (3, 32, 32))],
)
def test_the_other_sets_come_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, name: str, hub_name: str, column: str, shape: tuple[int, ...]
) -> None:
    images = some_images(36, *shape)
    asked = []

    def load_dataset(name: str) -> dict[str, dict[str, list[object]]]:
        asked.append(name)
        # Pictures have their colours last there.
        pictures = list(images if len(shape) == 2 else images.transpose(0, 2, 3, 1))
        labels: list[object] = [number % 10 for number in range(36)]
        return {
            "train": {column: pictures[:24], "label": labels[:24]},
            "test": {column: pictures[24:], "label": labels[24:]},
        }

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    loaded = data.load_images(name)
    assert asked == [hub_name]
    assert_is_split_from(loaded, images, training=24)
    assert loaded.image_shape == shape


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize("label", [-1, 10])
def test_what_the_hub_says_is_checked(monkeypatch: pytest.MonkeyPatch, label: int) -> None:
    part = {"image": list(some_images(12, 28, 28)), "label": [label] * 12}
    fake = SimpleNamespace(load_dataset=lambda _: {"train": part, "test": part})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(ValueError, match=rf"ylecun/mnist, train\) has the label {label};"):
        data.load_images("mnist")


MISSING = {
    "no network": (FakeHub(ConnectionError("Name or service not known")), "ConnectionError: Name or service not known"),
    "no package": (None, "the datasets package is not installed"),
}


@pytest.mark.usefixtures("no_fashion")
@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("name", FILED)
def test_missing_data_names_all_there_is_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, name: str
) -> None:
    source, (hub, reason) = data.IMAGE_SETS[name], MISSING[case]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setenv("CHTS_DATA", str(tmp_path / "environment"))
    monkeypatch.setattr(data.sources, "SYSTEM_FOLDERS", (tmp_path / "system",))
    with pytest.raises(DataNotFoundError) as refused:
        data.load_images(name, str(tmp_path / "given"))
    message = str(refused.value)
    tried = [str(tmp_path / place / str(source.folder)) for place in ("given", "environment", "system")]
    asked = [source.hub.name, reason] if source.hub else []
    told = [source.title, source.size, *tried, *asked, source.remedy, "'digits'"]
    positions = [message.find(what) for what in told]
    assert -1 not in positions, message
    assert positions[2:5] == sorted(positions[2:5])  # in the order of the search
    assert isinstance(refused.value, FileNotFoundError)


@pytest.mark.usefixtures("no_fashion")
def test_the_hub_is_not_asked_for_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub.load_dataset))
    with pytest.raises(DataNotFoundError, match=r"(?s)balanced split, 47 classes.*gzip\.zip") as refused:
        data.load_images("emnist", "/nowhere")
    assert hub.asked == []
    assert "the hub" not in str(refused.value)


def test_an_unknown_name_lists_the_known() -> None:
    known = "'digits', 'fashion_mnist', 'mnist', 'emnist', 'cifar10'"
    with pytest.raises(ValueError, match=rf"'fashion'; expected one of {known}\."):
        data.load_images("fashion")


# --- the real thing ---


def test_the_real_fashion_mnist() -> None:
    if data.locate(FASHION) is None:
        pytest.skip(f"{FASHION.title} is not on this machine; {FASHION.remedy}")
    loaded = data.load_images("fashion_mnist")
    assert {name: len(part.labels) for name, part in parts(loaded).items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    # Balanced over all 60,000; counts by class show that labels were not shifted against the parts.
    counts = torch.bincount(loaded.train.labels) + torch.bincount(loaded.validation.labels)
    assert counts.tolist() == [6000] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    assert (float(loaded.train.images.min()), float(loaded.train.images.max())) == (0, 1)
    # Sandals (5) are mostly background, coats (4) fill the frame: images belong to their labels.
    ink = {label: float(loaded.test.images[loaded.test.labels == label].mean()) for label in (4, 5)}
    assert ink[5] < 0.2 < 0.3 < ink[4]
