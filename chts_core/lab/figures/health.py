"""Figures of the health of a run: its curves beside the curves of a healthy run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chts_core.lab.figures.style import (
    BLUE,
    PALE,
    VERMILION,
    before_and_after,
    is_flat,
    new_figure,
    use_percent_axis,
)
from chts_core.lab.verify.injected_bugs import Patient

_SMOOTHED = 10  # number of steps whose mean is a point of the loss curve


def vital_signs(healthy: Patient, patient: Patient) -> Figure:
    """Draw the loss, the share of weights that are not zero, and the share of active neurons by training step.

    Dashed lines show the healthy run, and solid lines show the patient. Each point of the loss is the mean of 10 steps.
    Each point of the curve of active neurons belongs to one update and shows the layer with the smallest share. If this
    share is nearly constant in both runs, the figure shows its first and last values as numbers.
    """
    with new_figure(11, 3.3, columns=3) as (figure, (loss, weights, neurons)):
        courses: dict[str, tuple[str, list[float]]] = {}
        for run, label, colour, style in ((patient, "patient", VERMILION, "-"), (healthy, "healthy", BLUE, "--")):
            drawn: dict[str, Any] = {"color": colour, "linestyle": style, "label": label}
            points = np.array(run.loss[: len(run.loss) // _SMOOTHED * _SMOOTHED]).reshape(-1, _SMOOTHED).mean(axis=1)
            loss.plot((np.arange(len(points)) + 1) * _SMOOTHED, points, **drawn)
            weights.plot(range(1, len(run.nonzero) + 1), np.array(run.nonzero) * 100, **drawn)
            lowest: dict[int, float] = {}
            for row in run.sparsifier.history:
                lowest[row["step"]] = min(row["anp"] * 100, lowest.get(row["step"], 100.0))
            courses[label] = colour, list(lowest.values())
            neurons.plot(list(lowest), list(lowest.values()), **drawn)
        loss.set_ylabel("training loss (nats)")
        weights.set_ylabel("weights that are not zero (%)")
        neurons.set_ylabel("active neurons of the\nworst layer (%)")
        loss.set_ylim(bottom=0)
        for axes in (weights, neurons):
            use_percent_axis(axes)
        for axes in (loss, weights, neurons):
            axes.set_xlim(left=0)
            axes.set_xlabel("training step")
        if all(is_flat(course) for _, course in courses.values()):
            changes = {label: (colour, course[0], course[-1]) for label, (colour, course) in courses.items()}
            before_and_after(neurons, neurons.get_ylabel(), changes)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def update_courses(patients: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw the overlap (above) and the ITOP rate (below) of a layer after each update, with a column for each patient.

    In each column, the curves of the other patients are grey. The title of a column shows the patient's
    share of active neurons at the first and at the last update.

    Args:
        patients: for each name, rows with step, overlap, itop and anp, as in `Sparsifier.history`.
    """
    columns = {"overlap": "regrown links that were\njust removed (%)", "itop": "links ever active (%)"}
    highest = {"overlap": 100, "itop": 100 * max(row["itop"] for rows in patients.values() for row in rows)}
    look: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 4, "clip_on": False}
    behind: dict[str, Any] = {"color": PALE, "linewidth": 1}
    with new_figure(11, 4.6, rows=2, columns=len(patients)) as (figure, panels):
        places = [(column, name) for column in columns for name in patients]
        for axes, (column, name) in zip(panels, places, strict=True):
            for other in sorted(patients, key=lambda other: other == name):  # its own curve on top
                steps, shares = zip(*((row["step"], 100 * row[column]) for row in patients[other]), strict=True)
                axes.plot(steps, shares, label=other, **(look if other == name else behind))
            axes.set_ylim(0, highest[column])
            axes.set_xlim(left=0)
            axes.set_xlabel("training step")
            axes.set_ylabel(columns[column])
            axes.yaxis.label.set_visible(name == next(iter(patients)))
            axes.xaxis.label.set_visible(column == "itop")
            if column == "overlap":
                first, last = patients[name][0]["anp"], patients[name][-1]["anp"]
                axes.set_title(f"{name}\nactive neurons:\n{first:.0%} → {last:.0%}")
    return figure
