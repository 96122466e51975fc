"""Widgets for exploring: when you move a control, the picture and its description change.

`EXPLORERS` contains the class of each widget under the widget's name.
"""

from typing import Any

from chts_core.lab.widgets.curves import CurveExplorer, CurveState
from chts_core.lab.widgets.density import DensityDesigner, DensityState
from chts_core.lab.widgets.explorer import Explorer
from chts_core.lab.widgets.link_prediction import LinkPredictionState, LinkPredictionStepper
from chts_core.lab.widgets.method_mixer import MethodMixer, MethodMixerState
from chts_core.lab.widgets.percolation import PercolationSandbox, PercolationState
from chts_core.lab.widgets.receptive_field import ReceptiveFieldExplorer, ReceptiveFieldState
from chts_core.lab.widgets.soft_sampling import SoftSamplingExplorer, SoftSamplingState
from chts_core.lab.widgets.topology_player import TopologyPlayer, TopologyPlayerState
from chts_core.lab.widgets.translator import TranslationExplorer, TranslationState

EXPLORERS: dict[str, type[Explorer[Any, Any]]] = {
    explorer.name: explorer
    for explorer in (
        ReceptiveFieldExplorer,
        LinkPredictionStepper,
        MethodMixer,
        TopologyPlayer,
        DensityDesigner,
        SoftSamplingExplorer,
        PercolationSandbox,
        TranslationExplorer,
        CurveExplorer,
    )
}

__all__ = [
    "EXPLORERS",
    "CurveExplorer",
    "CurveState",
    "DensityDesigner",
    "DensityState",
    "Explorer",
    "LinkPredictionState",
    "LinkPredictionStepper",
    "MethodMixer",
    "MethodMixerState",
    "PercolationSandbox",
    "PercolationState",
    "ReceptiveFieldExplorer",
    "ReceptiveFieldState",
    "SoftSamplingExplorer",
    "SoftSamplingState",
    "TopologyPlayer",
    "TopologyPlayerState",
    "TranslationExplorer",
    "TranslationState",
]
