"""Cannistraci-Hebb training with a soft rule (CHTs) and its relatives, from 6-node graphs to language models."""

from importlib.metadata import PackageNotFoundError, version

from chts_core import (
    audit,
    diagnostics,
    distributions,
    linear,
    link_prediction,
    link_warmup,
    numerics,
    percolation,
    removal,
    sampling,
    schedules,
    topology,
)
from chts_core.averaging import AveragedModel
from chts_core.methods import METHODS, PRESETS, Method
from chts_core.percolation import Attention, LayerGraph
from chts_core.planner import plan
from chts_core.sparsifier import Sparsifier

try:
    __version__ = version("chts")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+unknown"

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
