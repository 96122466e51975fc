"""A class for cases of wrong files, and contents for such files."""

import gzip
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Unpickling these bytes would create a folder with the name "unpickled".
PICKLE = b"cos\nmkdir\n(S'unpickled'\ntR."
NESTED = b"[" * 100_000
# The name of a member that would be unpacked outside the archive's folder.
_OUTSIDE = b"../../outside"
ZIP = b"PK\x03\x04" + bytes(22) + struct.pack("<HH", len(_OUTSIDE), 0) + _OUTSIDE
TAR_GZ = gzip.compress(_OUTSIDE.ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0") + b"text".ljust(512, b"\0"))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@dataclass(frozen=True)
class Case:
    """Files, and the error message that chts must show for them.

    files: the content of each file, by the name of the file.
    says: a regular expression that the message of the ValueError must match.
    read: a function that reads the files in their folder.
    """

    files: Mapping[str, bytes]
    says: str
    read: Callable[[Path], Any]
