"""Widgets to explore with: move a control, see the picture and the sentence change.

`EXPLORERS` holds all of them by name.
"""

from typing import Any

from chts_core.lab.widgets.explorer import Explorer
from chts_core.lab.widgets.receptive_field import ReceptiveFieldExplorer, ReceptiveFieldState

EXPLORERS: dict[str, type[Explorer[Any, Any]]] = {explorer.name: explorer for explorer in (ReceptiveFieldExplorer,)}

__all__ = ["EXPLORERS", "Explorer", "ReceptiveFieldExplorer", "ReceptiveFieldState"]
