"""Where data sets are looked for: in folders of this machine, then on the Hugging Face hub."""

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
LARGEST = 2**29  # bytes of a file that is read whole
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


class DataNotFoundError(FileNotFoundError):
    """A data set is not on this machine and could not be fetched."""


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub.

    column: of what is loaded: the images, or both sides of a translation in one; "" where each side has its own.
    config: which of the repository's data sets.
    folder: where its files are in the repository, where no config says so.
    revision: a branch of the repository. Sets that were published as a program, which nothing here runs, are read
        from the branch `refs/convert/parquet`, to which the hub itself has converted them.
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
        """What `datasets.load_dataset` gives for it.

        Raises:
            ImportError: where the `datasets` package is not installed.
            Exception: of any kind, as the network, the hub and the package have many.
        """
        import datasets

        where = {"name": self.config, "data_dir": self.folder, "revision": self.revision}
        return datasets.load_dataset(self.name, **{key: value for key, value in where.items() if value}, **options)


@dataclass(frozen=True)
class Source(Generic[T_co]):
    """Where a data set comes from.

    folder: its name below `data_dir`, `$CHTS_DATA` and the system's folders; None when a package carries it.
    files: their names in that folder; endings: what may follow each name, the first that is there is taken.
    hub: None where the hub has no such data set.
    remedy: what to do when it is missing; for what a package carries, where it comes from.
    sha256: digest of the data set that the recorded runs were of, "" if there are none.
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
        """The path of one of the files in a folder, or None."""
        return next((path for ending in self.endings if (path := folder / f"{file}{ending}").is_file()), None)


def read_whole(path: Path) -> bytes:
    """All of a file, unpacked if its name ends in .gz.

    Raises:
        ValueError: naming the file, if it is no whole gzip file, or so large that it cannot be what it is taken for: a
            small archive may unpack to more than there is memory.
    """
    try:
        with open_unpacked(path) as file:
            content = file.read(LARGEST + 1)
    except GZIP_ERRORS as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    if len(content) > LARGEST:
        raise ValueError(
            f"{path} holds more than {LARGEST // 2**20} MiB; no data set here has such a file. It is not what its name "
            "says: fetch it again."
        )
    return content


def open_unpacked(path: Path) -> IO[bytes]:
    """A file to read, unpacked if its name ends in .gz; reading one that is no gzip file raises one of GZIP_ERRORS."""
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def locate(source: Source[object], data_dir: str | None = None) -> Path | None:
    """The folder that holds all files of a source, or None."""
    return next(
        (place for place in places(source, data_dir) if all(source.find_file(place, file) for file in source.files)),
        None,
    )


def places(source: Source[object], data_dir: str | None) -> list[Path]:
    """The folders that a source is looked for in, in this order."""
    if source.folder is None:
        return []
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get("CHTS_DATA")) if root]
    return [root / source.folder for root in (*roots, *SYSTEM_FOLDERS)]


def compare(source: Source[object], place: object, sha256: str) -> None:
    """Warn if what was fetched is another data set than that of the recorded runs."""
    if source.sha256 and sha256 != source.sha256:
        warnings.warn(
            f"{source.title} from {place} has the SHA-256 {sha256[:16]}…, and that of the recorded runs "
            f"{source.sha256[:16]}…: it is another version, whose scores cannot be compared with theirs.",
            RuntimeWarning,
            stacklevel=2,
        )


def fetch(source: Source[object], data_dir: str | None, read: Callable[[Hub], T_co], default: str) -> T_co:
    """Read a source from the hub, after no folder had it.

    Args:
        source, data_dir: of `locate`.
        read: opens the hub and reads what is needed, without checking it: any error is taken for the hub's.
        default: the data set to offer that needs no download.

    Raises:
        DataNotFoundError: with what was tried and how to get the data.
    """
    tried = [str(place) for place in places(source, data_dir)]
    if source.hub is not None:
        try:
            return read(source.hub)
        except ImportError:
            tried.append(f"{source.hub}: the datasets package is not installed")
        except Exception as error:  # whatever the network or the hub says belongs into the message
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
            # With the length before each text, the bytes of two different lists differ.
            hasher.update(len(content).to_bytes(8, "big") + content)
        hasher.update(b"end of split")
    return hasher.hexdigest()
