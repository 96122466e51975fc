"""Change environment variables of this process in a `with` block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Set some variables. At the end of the block, restore all variables, even those that other code changed."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
