"""A figure of the history of sparse networks: when each method chooses its links, and when it was published."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from chts_core.lab.figures.style import BLACK, GREY, METHOD_LABELS, method_label, method_look, new_figure

# When methods choose their links, in rows from the bottom of the figure to the top.
LANES = (
    "after training",
    "before training,\nnever changed",
    "during training,\nfewer links over time",
    "during training,\nconstant number",
)


@dataclass(frozen=True)
class Work:
    """One publication.

    name: one of the nine names in `chts_core.METHODS`, or another label.
    year: the year of its publication.
    lane: the number of its row in `LANES`.
    """

    name: str
    year: int
    lane: int


WORKS = (
    Work("Optimal Brain\nDamage", 1989, 0),
    Work("Han et al.", 2015, 0),
    Work("lottery ticket", 2019, 1),
    Work("gmp", 2017, 2),
    Work("mest", 2021, 2),
    Work("granet", 2021, 2),
    Work("chtss", 2025, 2),
    Work("set", 2018, 3),
    Work("rigl", 2020, 3),
    Work("cht", 2024, 3),
    Work("chts", 2025, 3),
)
_BREAK = 2012  # the position of years before 2015, left of a gap in the axis


def timeline() -> Figure:
    """Draw each work of `WORKS`. The x axis shows the year of publication, and the row shows when links are chosen."""
    with new_figure(9, 3.4) as (figure, (axes,)):
        taken: dict[tuple[int, int], int] = {}  # number of works at each place; the next work is below them
        for work in WORKS:
            colour, marker = method_look(work.name) if work.name in METHOD_LABELS else (BLACK, "h")
            x = max(work.year, _BREAK)
            below = taken.setdefault((x, work.lane), 0)
            taken[x, work.lane] += 1
            y = work.lane - 0.36 * below
            axes.plot(x, y, marker=marker, color=colour, markersize=9, linestyle="")
            followed = any((other.year, other.lane) == (work.year + 1, work.lane) for other in WORKS)
            side, offset = ("right", -9) if followed else ("left", 9)
            axes.annotate(
                method_label(work.name), (x, y), (offset, 0), textcoords="offset points", ha=side, va="center"
            )
        axes.axvline(_BREAK + 2.3, color=GREY, linestyle=(0, (2, 3)), linewidth=1.2)
        years = range(2015, 2026, 2)
        axes.set_xticks([_BREAK, *years], ["1989", *map(str, years)])
        axes.set_yticks(range(len(LANES)), LANES)
        axes.set_xlim(_BREAK - 0.5, 2026.6)
        axes.set_ylim(-0.6, len(LANES) - 0.4)
        axes.set_xlabel("year of publication (dotted line: 25 years left out)")
        axes.set_ylabel("when the links are chosen")
        axes.tick_params(axis="y", length=0)
    return figure
