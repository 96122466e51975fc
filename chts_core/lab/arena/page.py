"""The results of the arena as text and as a page to share; both forms say what the results cannot show."""

import html
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chts_core.lab import figures
from chts_core.lab.notebook.pages import as_html, document, picture
from chts_core.lab.notebook.tour import as_text
from chts_core.lab.results.report import SCORES, Row, as_difference, as_mean, origin
from chts_core.lab.results.statistics import mean_and_interval, seed_differences
from chts_core.lab.verify.conformance import Check
from chts_core.methods import METHODS, Method

_HOW_TO_READ = (
    "In the tables, the number after ± is the standard error of a mean, or the half-width of the 95 % confidence "
    "interval of a mean difference. Each difference is between runs with the same seed. If the interval contains 0, "
    "the race does not show which method is better."
)


def table(name: str, rows: Sequence[Row]) -> list[dict[str, str]]:
    """One table row for the user's method and one for each of the nine methods of the paper, as text.

    Args:
        name: the user's method.
        rows: the runs of one task.
    """
    score = SCORES[rows[0]["task"]]
    lines = []
    for method in (name, *METHODS):
        theirs = [row for row in rows if row["method"] == method]
        differences = _differences(name, method, rows, score.of)
        line = {"method": method, "runs": str(len(theirs))}
        line[score.name] = as_mean([score.of(row) for row in theirs], score.digits) if theirs else ""
        line[f"{name} minus this method"] = as_difference(differences, score.digits) if differences else ""
        line[f"{name} is"] = standing(differences, higher_is_better=score.higher_is_better)
        line["links"] = f"{theirs[0]['links']:,}" if theirs else ""
        lines.append(line)
    return lines


def drawn(name: str, rows: Sequence[Row]) -> str:
    """A picture of the differences in the table, for the page; "" if none of the nine methods has runs.

    Args:
        name: the user's method.
        rows: the runs of one task.
    """
    score = SCORES[rows[0]["task"]]
    points, found = [], Counter[str]()
    for method in METHODS:
        differences = _differences(name, method, rows, score.of)
        if differences:
            mean, half = mean_and_interval(differences)
            points.append({"method": method, "difference": mean, "interval": None if math.isnan(half) else half})
            found[standing(differences, higher_is_better=score.higher_is_better)] += 1
    if not points:
        return ""
    figure = figures.draw_differences(
        points, f"{score.name}: {name} minus this method", score.digits, score.higher_is_better
    )
    undecided = len(points) - found["ahead"] - found["behind"]
    return picture(
        figures.to_png(figure),
        f"{name} is ahead of {found['ahead']} of these methods and behind {found['behind']}; {undecided} are "
        f"undecided. Bars are 95 % intervals. {name} has a better mean than a method whose dot is "
        f"to the {'right' if score.higher_is_better else 'left'} of 0.",
    )


def _differences(name: str, method: str, rows: Sequence[Row], of: Callable[[Row], float]) -> list[float]:
    """The score of the user's method minus the score of another method, for each seed that both methods have."""
    mine, theirs = ([row for row in rows if row["method"] == one] for one in (name, method))
    return [] if method == name else list(seed_differences(mine, theirs, of).values())


def standing(differences: Sequence[float], *, higher_is_better: bool) -> str:
    """Whether the user's method is "ahead", "behind" or "undecided" at the 95 % level, from paired differences.

    With fewer than two differences, the result is "".
    """
    if len(differences) < 2:
        return ""
    mean, half = mean_and_interval(differences)
    if abs(mean) <= half:
        return "undecided"
    return "ahead" if (mean > 0) == higher_is_better else "behind"


def limits(name: str, results: Mapping[str, Sequence[Row]]) -> str:
    """A paragraph about what these results cannot show."""
    tables = {title: table(name, rows) for title, rows in results.items()}
    intervals = sum(line[f"{name} is"] != "" for lines in tables.values() for line in lines)
    seeds = ", ".join(f"{lines[0]['runs']} ({title})" for title, lines in tables.items())
    return (
        "The tasks are small. With large models and long runs, the order of the methods may differ. "
        f"There are few seeds: {seeds}. With three seeds, the half-width of an interval is 4.3 standard errors, so the "
        "race can only detect large differences. Undecided does not mean equal. "
        f"The tables have {intervals} intervals at the 95 % level. If all methods were equally good, about "
        f"{intervals / 20:.1f} of these intervals would still not contain 0, by chance. All intervals use the same "
        f"runs of {name}, so they are not independent. "
        "All sparse methods have the same learning rate, and another rate may suit some of them better. "
        "All methods have the same number of steps and batches and, except fc, the same number of final links. They "
        "need different times, and some methods, for example gmp and granet, have more links during training. "
        "The records come from other machines and versions. Because of rounding, their runs differ from new runs, and "
        "such differences grow during training. "
        "The scores of digits and translation come from the test data. If you change your method after you have seen "
        "these scores, use new data for your final comparison."
    )


def text(name: str, results: Mapping[str, Sequence[Row]], left_out: Sequence[str]) -> str:
    """The text for the console: the tables, what was left out, and what the results cannot show."""
    parts = [_HOW_TO_READ, *(f"{title}\n{as_text(table(name, rows))}" for title, rows in results.items())]
    if left_out:
        parts.append("Left out:\n" + "\n".join(left_out))
    return "\n\n".join([*parts, f"What these results cannot show: {limits(name, results)}"])


def write(
    name: str,
    method: Method,
    checks: Sequence[Check],
    results: Mapping[str, Sequence[Row]],
    left_out: Sequence[str],
    folder: Path,
) -> Path:
    """Write the page, `index.html`, which needs no other file; return its path.

    Args:
        name, method: the user's method.
        checks: the outcomes of the method's checks.
        results: the runs of each task, by the title of the task.
        left_out: the reasons why methods or tasks were left out.
        folder: folder for the page.
    """
    passed = ", ".join(check.check for check in checks if check.passed)
    parts = [
        f"<p>{html.escape(name)} is this method:</p><p><code>{html.escape(repr(method))}</code></p>",
        f"<p>It passed these checks: {html.escape(passed)}. All methods have an equal number of steps and batches, and "
        f"an equal number of links at the end, except fc, which has all links. {_HOW_TO_READ}</p>",
    ]
    for title, rows in results.items():
        (sparsity,) = {row["sparsity"] for row in rows if row["method"] == name}
        parts.append(f"<h2>{html.escape(title)}, {sparsity:.0%} sparsity</h2>{as_html(table(name, rows))}")
        parts.append(drawn(name, rows))
        parts.append(f"<p><small>{html.escape(origin(rows))}</small></p>")
    if left_out:
        # The first line gives the reason; the lines after it may name folders on this machine.
        items = "".join(f"<li>{html.escape(reason.partition(chr(10))[0])}</li>" for reason in left_out)
        parts.append(f"<h2>What was left out</h2><ul>{items}</ul>")
    parts.append(f"<h2>What this page cannot show</h2><p>{html.escape(limits(name, results))}</p>")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    page.write_text(document(f"chts arena: {name} and the nine methods", "".join(parts)), encoding="utf-8")
    return page
