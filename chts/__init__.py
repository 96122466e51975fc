"""`import chts` gives what `import chts_core as chts` does: the package that pip installs is called chts."""

from chts_core import *  # noqa: F403
from chts_core import __all__ as __all__
from chts_core import __version__ as __version__
