"""A folder for results that take a long time to compute. Everything that changes the content of a file also changes
its name.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def cached(
    name: str,
    *,
    read: Callable[[str], T],
    make: Callable[[], T],
    write: Callable[[T], str],
    cache_dir: Path | None = None,
) -> T:
    """Read a value from the cache, or compute and store it.

    The function replaces a damaged file. If it cannot write a file, it still returns the value. It warns in both cases.

    Args:
        name: the name of the file.
        read: turns the text of a file into the value; raises ValueError for damaged text.
        make: computes the value if the cache does not have it.
        write: turns the value into the text of a file.
        cache_dir: the folder; by default `$CHTS_CACHE` or, if this is not set, `chts` in the user's cache folder.
    """
    path = (cache_dir or _cache_folder()) / name
    try:
        return read(path.read_text("utf-8"))
    except ValueError as error:
        warnings.warn(f"{path} cannot be used and is replaced: {error}", RuntimeWarning, stacklevel=3)
    except OSError:
        pass  # the file is missing or unreadable; if it is unreadable, writing may fail below, with a warning
    thing = make()
    try:
        _write(path, write(thing))
    except OSError as error:
        warnings.warn(
            f"{name} could not be saved in {path.parent} ({error}); the next run will make it again. Set $CHTS_CACHE "
            "to a folder that you can write to.",
            RuntimeWarning,
            stacklevel=3,
        )
    return thing


def _cache_folder() -> Path:
    if folder := os.environ.get("CHTS_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chts"


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all, even if two runs write it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
