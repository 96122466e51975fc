"""A redraw of each widget, as moving a control sets it off, against IPython's printing of the same figure."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from IPython.core.pylabtools import print_figure

from chts_core.lab.widgets import EXPLORERS, Explorer

from .common import compare


def rows() -> Iterator[dict[str, Any]]:
    """Every explorer's first state, computed, drawn and written as PNG.

    The rival computes and draws the same, then hands the figure to IPython, which crops it as the inline backend does
    whenever `interact` redraws. What an explorer remembers, as runs of training, is remembered on both sides.
    """
    for name, explorer in EXPLORERS.items():
        state = explorer.State()
        yield compare(
            f"redraw of {name}",
            partial(explorer.render, state),
            ("the figure printed by IPython", partial(_printed, explorer, state)),
        )


def _printed(explorer: type[Explorer[Any, Any]], state: Any) -> Any:
    return print_figure(explorer.figure(state))
