"""Cannistraci-Hebb training with a soft rule (CHTs) and its relatives, from 6-node graphs to language models."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from chts_core import (
    _moved,
    diagnostics,
    distributions,
    link_prediction,
    percolation,
    removal,
    sampling,
    schedules,
    topology,
)
from chts_core.engine import linear
from chts_core.methods import METHODS, PRESETS, Method
from chts_core.percolation import Attention, LayerGraph
from chts_core.sparsifier import Sparsifier
from chts_core.tools import audit, link_warmup, numerics
from chts_core.tools.averaging import AveragedModel
from chts_core.tools.planner import plan

try:
    __version__ = version("chts")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+unknown"

sys.meta_path.append(_moved.MovedModules())

__all__ = [
    "METHODS",
    "PRESETS",
    "Attention",
    "AveragedModel",
    "LayerGraph",
    "Method",
    "Sparsifier",
    "audit",
    "diagnostics",
    "distributions",
    "linear",
    "link_prediction",
    "link_warmup",
    "numerics",
    "percolation",
    "plan",
    "removal",
    "sampling",
    "schedules",
    "topology",
]


def __getattr__(name: str) -> ModuleType:
    """Return a module that has moved, given its old name."""
    if f"{__name__}.{name}" in _moved.MOVED:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
