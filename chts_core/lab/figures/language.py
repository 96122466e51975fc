"""A figure of the losses of language models."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from chts_core.lab.figures.runs import draw_race
from chts_core.lab.train.language import Run


def loss_race(runs: Sequence[Run]) -> Figure:
    """Draw the loss on the validation tokens by training step, in the style of :func:`race`. Lower is better."""
    losses = [look.loss for run in runs for look in run.looks]
    room = 0.05 * (max(losses) - min(losses))
    return draw_race(
        runs,
        lambda run: [(look.step, look.loss) for look in run.looks],
        "training step",
        "validation loss per token (nats)",
        max(losses) + room,
        room,
    )
