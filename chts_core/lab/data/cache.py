"""What takes long to make from a corpus is kept in a folder, by a key that tells all it depends on."""

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
    """Read a thing from the cache, or make it and keep it there.

    A file that is damaged is replaced, and one that cannot be written is done without, both with a warning.

    Args:
        name: of the file.
        read: the thing of a text; raises ValueError where it is none.
        make: the thing, which takes long.
        write: its text.
        cache_dir: by default `$CHTS_CACHE`, else `chts` in the user's cache folder.
    """
    path = (cache_dir or _cache_folder()) / name
    try:
        return read(path.read_text("utf-8"))
    except ValueError as error:
        warnings.warn(f"{path} is replaced: {error}", RuntimeWarning, stacklevel=3)
    except OSError:
        pass  # it is not there, or cannot be read, which writing will tell
    thing = make()
    try:
        _write(path, write(thing))
    except OSError as error:
        warnings.warn(
            f"{name} could not be kept in {path.parent} ({error}); the next run makes it anew. Set $CHTS_CACHE to a "
            "folder that can be written.",
            RuntimeWarning,
            stacklevel=3,
        )
    return thing


def _cache_folder() -> Path:
    if folder := os.environ.get("CHTS_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chts"


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, also where two runs write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
