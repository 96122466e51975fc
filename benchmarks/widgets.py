"""A redraw of each widget, as after moving a control, against the same figure printed by IPython."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from IPython.core.pylabtools import print_figure

from chts_core.lab.widgets import EXPLORERS, Explorer

from .common import compare


def rows() -> Iterator[dict[str, Any]]:
    """Compute and draw every explorer's first state, and write it as PNG.

    The rival computes and draws the same, then passes the figure to IPython, which crops it as the inline backend does
    whenever `interact` redraws. An explorer keeps some results, for example training runs; both sides use them.
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
