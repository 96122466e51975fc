"""The health of a run: what would be noted at its bed, beside that of a healthy one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chts_core.lab.figures.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, use_percent_axis
from chts_core.lab.verify.injected_bugs import Patient

_SMOOTHED = 10  # steps that a point of the loss curve is the mean of


def vital_signs(healthy: Patient, patient: Patient) -> Figure:
    """Loss, weights that are not zero, and active neurons over the steps: a healthy run dashed, the patient's solid.

    The loss is a mean over 10 steps. The active neurons are those of the layer that has the smallest share of them.
    """
    with new_figure(11, 3.3, columns=3) as (figure, (loss, weights, neurons)):
        for run, label, colour, style in ((patient, "patient", VERMILION, "-"), (healthy, "healthy", BLUE, "--")):
            drawn: dict[str, Any] = {"color": colour, "linestyle": style, "label": label}
            points = np.array(run.loss[: len(run.loss) // _SMOOTHED * _SMOOTHED]).reshape(-1, _SMOOTHED).mean(axis=1)
            loss.plot((np.arange(len(points)) + 1) * _SMOOTHED, points, **drawn)
            weights.plot(range(1, len(run.nonzero) + 1), np.array(run.nonzero) * 100, **drawn)
            lowest: dict[int, float] = {}
            for row in run.sparsifier.history:
                lowest[row["step"]] = min(row["anp"] * 100, lowest.get(row["step"], 100.0))
            neurons.plot(list(lowest), list(lowest.values()), **drawn)
        loss.set_ylabel("training loss (nats)")
        weights.set_ylabel("weights that are not zero (%)")
        neurons.set_ylabel("active neurons of the\nworst layer (%)")
        loss.set_ylim(bottom=0)
        for axes in (weights, neurons):
            use_percent_axis(axes)
        for axes in (loss, weights, neurons):
            axes.set_xlabel("training step")
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def update_courses(patients: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Overlap, ITOP rate and active neurons of one layer after each update, a line for each patient.

    Args:
        patients: by name, up to six; rows with step, overlap, itop and anp, as in `Sparsifier.history`.
    """
    looks = zip((BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY), "osv^DX", strict=True)
    columns = {
        "overlap": "regrown links that were\njust removed (%)",
        "itop": "links ever active (%)",
        "anp": "active neurons (%)",
    }
    with new_figure(11, 3.3, columns=3) as (figure, panels):
        for (name, rows), (colour, marker) in zip(patients.items(), looks, strict=False):
            for axes, column in zip(panels, columns, strict=True):
                steps, shares = [row["step"] for row in rows], [row[column] * 100 for row in rows]
                axes.plot(steps, shares, color=colour, marker=marker, markersize=5, label=name)
        for axes, label in zip(panels, columns.values(), strict=True):
            axes.set_ylabel(label)
            axes.set_xlabel("training step")
            use_percent_axis(axes)
        panels[1].set_ylim(0, max(row["itop"] for rows in patients.values() for row in rows) * 100)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure
