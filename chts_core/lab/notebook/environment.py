"""Change variables of this process's environment for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Set some variables; at the end restore them all, even if other code changed them."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
