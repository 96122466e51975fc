"""Search for data sets in folders on this machine, then on the Hugging Face hub."""

import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)

SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)
LARGEST = 2**29  # bytes; the largest size of a file that is read in one piece
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


class DataNotFoundError(FileNotFoundError):
    """Raised if a data set is not on this machine and could not be fetched."""


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub.

    column: the column with the images, or with both sides of a translation; "" if each side has its own column.
    config: the name of a data set in the repository.
    folder: the folder of the repository that contains the files, if there is no config.
    revision: a branch of the repository. Some data sets were published as a loading script, and chts never runs such a
        script. The hub converts such a data set into files, and chts reads these files from the branch
        `refs/convert/parquet`.
    """

    name: str
    column: str
    config: str | None = None
    folder: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        parts = (self.name, self.config, self.folder, self.revision)
        return f"the hub ({', '.join(part for part in parts if part)})"

    def open(self, **options: Any) -> Any:
        """The result of `datasets.load_dataset` for this data set.

        Raises:
            ImportError: if the `datasets` package is not installed.
            Exception: any exception, because the connection, the hub and the package raise many kinds.
        """
        import datasets

        where = {"name": self.config, "data_dir": self.folder, "revision": self.revision}
        return datasets.load_dataset(self.name, **{key: value for key, value in where.items() if value}, **options)


@dataclass(frozen=True)
class Source(Generic[T_co]):
    """Where a data set comes from.

    folder: the name of its folder in `data_dir`, `$CHTS_DATA` or a folder of the system; None if chts takes the data
        set from a package or streams it from the hub.
    files: the names of the files in that folder.
    endings: the possible endings of each name; the first existing file is used.
    hub: the data set on the hub; None if the hub does not have it.
    remedy: what to do if the data set is missing. If a package contains the data set, `remedy` says which one.
    sha256: digest of the data that the recorded runs used; "" if there are no such runs.
    """

    title: str
    size: str
    load: Callable[[str | None], T_co]
    folder: str | None = None
    files: tuple[str, ...] = ()
    endings: tuple[str, ...] = ("",)
    hub: Hub | None = None
    remedy: str = ""
    sha256: str = ""

    def find_file(self, folder: Path, file: str) -> Path | None:
        """The path of one of the files in a folder; None if this file is missing."""
        return next((path for ending in self.endings if (path := folder / f"{file}{ending}").is_file()), None)


def read_whole(path: Path) -> bytes:
    """The whole content of a file, unpacked if its name ends in .gz.

    Raises:
        ValueError: if the file is not an intact gzip file or is far too large (a small archive may unpack to more than
            fits in memory); the message names the file.
    """
    try:
        with open_unpacked(path) as file:
            content = file.read(LARGEST + 1)
    except GZIP_ERRORS as error:
        raise ValueError(f"{path} is not an intact gzip file ({error}); fetch it again.") from error
    if len(content) > LARGEST:
        raise ValueError(
            f"{path} holds more than {LARGEST // 2**20} MiB; no data set of chts has such a large file. Its content "
            "does not match its name: fetch it again."
        )
    return content


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file, and unpack it if its name ends in .gz. If unpacking fails, reading raises one of GZIP_ERRORS."""
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def locate(source: Source[object], data_dir: str | None = None) -> Path | None:
    """The folder that holds all files of a source; None if no folder holds them all."""
    return next(
        (place for place in places(source, data_dir) if all(source.find_file(place, file) for file in source.files)),
        None,
    )


def places(source: Source[object], data_dir: str | None) -> list[Path]:
    """The folders that may contain the files of a source, in the order of the search."""
    if source.folder is None:
        return []
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get("CHTS_DATA")) if root]
    return [root / source.folder for root in (*roots, *SYSTEM_FOLDERS)]


def compare(source: Source[object], place: object, sha256: str) -> None:
    """Warn if the fetched data set differs from the data set that the recorded runs used."""
    if source.sha256 and sha256 != source.sha256:
        warnings.warn(
            f"{source.title} from {place} has the SHA-256 {sha256[:16]}…, but the data set of the recorded runs has "
            f"{source.sha256[:16]}…. It is a different version, so do not compare scores with the recorded scores.",
            RuntimeWarning,
            stacklevel=2,
        )


def fetch(source: Source[object], data_dir: str | None, read: Callable[[Hub], T_co], default: str) -> T_co:
    """Read a source from the hub.

    Args:
        source, data_dir: as in `locate`.
        read: connects to the hub and reads the data. `read` must not check the data, because any error that it raises
            counts as an error of the hub.
        default: a data set that needs no download; the error message suggests it.

    Raises:
        DataNotFoundError: if the data cannot be read; the message says what was tried and how to get the data.
    """
    tried = [str(place) for place in places(source, data_dir)]
    if source.hub is not None:
        try:
            return read(source.hub)
        except ImportError:
            tried.append(f"{source.hub}: the datasets package is not installed")
        except Exception as error:  # the message must show any error of the connection or the hub
            tried.append(f"{source.hub}: {type(error).__name__}: {error}")
    lines = "\n".join(f"  - {place}" for place in tried)
    raise DataNotFoundError(
        f"{source.title} ({source.size}) was not found. Tried:\n{lines}\n"
        f"To get it: {source.remedy}\nOr use dataset={default!r}, which needs no download."
    )


def digest_of(splits: Iterable[Iterable[str]]) -> str:
    """SHA-256 in hex of the texts of all splits."""
    hasher = hashlib.sha256()
    for texts in splits:
        for text in texts:
            content = text.encode()
            # The length before each text ensures that two different lists of texts never give the same bytes.
            hasher.update(len(content).to_bytes(8, "big") + content)
        hasher.update(b"end of split")
    return hasher.hexdigest()
