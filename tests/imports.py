"""Imports every module where only those packages are installed that it may need.

`python tests/imports.py core`, with the dependencies alone: the core, without what adapts it to Colab and to
other packages.
`python tests/imports.py all`, with the extra `notebooks`: all modules. If Lightning is missing, its callback is left
out.
"""

import importlib
import pkgutil
import sys
from importlib.util import find_spec

import chts_core

_LIGHTNING = "chts_core.tools.lightning"
_NEED_MORE = ("chts_core.lab", "chts_core.cli", "chts_core.tools.huggingface", _LIGHTNING, "chts_core.colab")

names = ["chts_core", *(module.name for module in pkgutil.walk_packages(chts_core.__path__, "chts_core."))]
wanted = [name for name in names if sys.argv[1] == "all" or not name.startswith(_NEED_MORE)]
for name in wanted:
    if name == _LIGHTNING and find_spec("lightning") is None:
        continue
    importlib.import_module(name)
print(f"{len(wanted)} modules of {chts_core.__file__} were imported")
