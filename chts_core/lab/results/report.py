"""A page that shows recorded runs: tables with intervals and paired differences, and learning curves."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from chts_core.lab import figures
from chts_core.lab.figures.style import method_label
from chts_core.lab.notebook.pages import as_html, document, picture
from chts_core.lab.results import records
from chts_core.lab.results.statistics import mean_and_interval, score_differences, standard_error
from chts_core.lab.train import images, language, translation

Row = Mapping[str, Any]

# Settings of a recipe that change how a run is computed, but not its result.
_HOW = ("execution", "micro_batch", "compile", "watch_updates")
# For each task, the values of settings that an old record does not contain, because recipes did not have them yet.
_ONCE = {
    "images": asdict(images.Recipe()),
    "language": asdict(language.Recipe()),
    "translation": asdict(translation.Recipe()),
}


@dataclass(frozen=True)
class Score:
    """The score by which runs of a task are compared.

    of: returns the value of the score for a record.
    course: returns the points (step, value) of the validation score for a record.
    course_name: the name of the score on the validation data.
    digits: number of digits after the decimal point.
    higher_is_better: whether a higher score is better; this is False for a loss.
    """

    name: str
    of: Callable[[Row], float]
    course: Callable[[Row], list[tuple[float, float]]]
    course_name: str
    digits: int
    higher_is_better: bool = True


def _look(name: str, factor: float = 1.0) -> Callable[[Row], list[tuple[float, float]]]:
    return lambda row: [(look["step"], factor * look[name]) for look in row["validation"]]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


SCORES: dict[str, Score] = {
    "images": Score(
        "test accuracy of the last epoch (%)",
        lambda row: 100 * row["test"]["accuracy"],
        _look("accuracy", 100),
        "validation accuracy (%)",
        2,
    ),
    "translation": Score(
        "BLEU on the test pairs", lambda row: row["test"]["bleu"], _look("bleu"), "BLEU on validation pairs", 2
    ),
    "language": Score(
        "validation loss (nats per token)",
        lambda row: row["validation"][-1]["loss"],
        _look("loss"),
        "validation loss (nats per token)",
        3,
        higher_is_better=False,
    ),
}
# Other scores, shown next to the first; None if a run has no such score.
_ALSO: dict[str, dict[str, Callable[[Row], float | None]]] = {
    "images": {
        "of the epoch chosen on validation": lambda row: _percent(row["test"]["chosen"]),
        "of the best test epoch": lambda row: 100 * row["test"]["best"],
    },
    "translation": {"exact (%)": lambda row: row["test"]["exact"]},
    "language": {"perplexity": lambda row: row["validation"][-1]["perplexity"]},
}
_RIVALS = ("fc", "set")
# More learning curves than this cannot be read in one figure.
_MOST_CURVES = 5


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each comparison that is recorded in a folder. The name of a comparison consists of the name of
    the file, the data set and, if the recipe has a size, this size.

    Args:
        folder: a folder with files of JSON lines that `chts sweep` or a race wrote, or the folder `results`.

    Raises:
        FileNotFoundError: if the folder has no recorded runs.
        ValueError: if a line is damaged, was changed, or lacks a value that its task needs; the message gives the line
            number.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, row in enumerate(records.read_lines(path), start=1):
            if "fault" in row or "start" in row:  # a row of a drill, or of a trained model that became sparse
                continue
            run = row["record"] if "cell" in row else row  # a row of a sweep
            if run is None or "notebook" in run:  # a failed cell, or a notebook with other results
                continue
            records.check_run(run, f"{path}, line {number}")
            size = run["recipe"].get("size")
            comparison = f"{path.stem}: {run['dataset']}{f', {size}' if size else ''}"
            found.setdefault(comparison, []).append(records.as_named_today(run))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no recorded runs; expected a folder with files *.jsonl of recorded runs."
        )
    return found


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the table rows, as text. There is one row for each combination of the method, the sparsity, and the recipe
    settings that differ between the runs.

    A score is a mean ± its standard error. A difference from a rival is a mean over pairs of runs with equal seeds. The
    number after ± in a difference is the half-width of its 95 % confidence interval.

    Args:
        rows: recorded runs of one task.
    """
    task = rows[0]["task"]
    score = SCORES[task]
    settings = _varying(rows)

    def key(row: Row) -> tuple[str, ...]:
        return (row["method"], f"{row['sparsity']:g}", *(str(_recipe(row).get(name)) for name in settings))

    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    shown = []
    for values, mine in groups.items():
        line = dict(zip(("method", "sparsity", *settings), values, strict=True))
        if line["method"] == "fc":
            line["sparsity"] = ""
        line["runs"] = str(len(mine))
        for name, of in {score.name: score.of, **_ALSO[task]}.items():
            found = [value for row in mine if (value := of(row)) is not None]
            whole = len(found) == len(mine)
            line[name] = as_mean(found, score.digits if name == score.name else 2) if whole else ""
        for rival in _RIVALS:
            pairs = [] if line["method"] in (rival, "fc") else _paired(mine, rival, rows, settings)
            differences = [score.of(one) - score.of(other) for one, other in pairs]
            line[f"minus {rival}"] = as_difference(differences, score.digits) if differences else ""
        line["links"] = f"{median(row['links'] for row in mine):,.0f}"
        line["active neurons"] = f"{sum(row['active_neurons'] for row in mine) / len(mine):.0%}"
        line["seconds"] = f"{median(row['seconds'] for row in mine):.0f}"
        peaks = [row["peak_memory_mb"] for row in mine if row["peak_memory_mb"] is not None]
        line["peak MB"] = f"{max(peaks):,}" if peaks else ""
        shown.append(line)
    return shown


def _paired(mine: Sequence[Row], rival: str, rows: Sequence[Row], settings: Sequence[str]) -> list[tuple[Row, Row]]:
    """Pair each run with the rival's run that has the same seed and sparsity. If the rival has several such runs, take
    the run with the same settings. Leave out a run if it has no partner, or if several partners are possible.
    """
    pairs = []
    for row in mine:
        theirs = [
            other
            for other in rows
            if (other["method"], other["seed"]) == (rival, row["seed"])
            and (rival == "fc" or other["sparsity"] == row["sparsity"])  # FC is always dense
        ]
        same = [other for other in theirs if _same(other, row, settings)]
        for chosen in (same, theirs):
            if len(chosen) == 1:
                pairs.append((row, chosen[0]))
                break
    return pairs


def _varying(rows: Sequence[Row]) -> list[str]:
    """The names of the recipe settings that differ between runs, except settings that change only the computation."""
    recipes = [_recipe(row) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row["recipe"] if name not in _HOW)
    # If an old record lacks a setting, only the other records decide whether this setting differs.
    return [name for name in names if len({json.dumps(recipe[name]) for recipe in recipes if name in recipe}) > 1]


def _recipe(row: Row) -> dict[str, Any]:
    """All settings of a run; settings that an old record lacks have their default values."""
    return {**_ONCE.get(row["task"], {}), **row["recipe"]}


def has_recipe(row: Row, recipe: Any) -> bool:
    """Whether a recorded run used a recipe; settings that change only the computation do not count."""
    found, expected = (
        {name: value for name, value in settings.items() if name not in _HOW}
        for settings in (_recipe(row), asdict(recipe))
    )
    return found == expected


def _same(one: Row, other: Row, settings: Sequence[str]) -> bool:
    return all(_recipe(one).get(name) == _recipe(other).get(name) for name in settings)


def as_mean(values: Sequence[float], digits: int) -> str:
    """A mean ± its standard error; a single value has no standard error."""
    mean, _ = mean_and_interval(values)
    return f"{mean:.{digits}f}" + (f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else "")


def as_difference(values: Sequence[float], digits: int) -> str:
    """A mean with its sign. The number after ± is the half-width of the mean's 95 % confidence interval."""
    mean, interval = mean_and_interval(values)
    return f"{mean:+.{digits}f}" + (f" ± {interval:.{digits}f}" if len(values) > 1 else "")


def beside(rows: Sequence[Row], rivals: Sequence[str]) -> dict[str, dict[str, str]]:
    """Differences from rivals, as text. For each sparsity and rival, there is a column with an entry for each method
    except FC.

    A difference is a mean over pairs of runs with equal seeds. The number after ± is the half-width of its 95 %
    confidence interval.

    Args:
        rows: recorded runs of one task.
        rivals: names of methods.
    """
    score = SCORES[rows[0]["task"]]
    columns: dict[str, dict[str, str]] = {}
    for rival in rivals:
        for row in score_differences(rows, score.of, rival):
            if row["method"] != "fc":
                width = "" if row["interval"] is None else f" ± {row['interval']:.{score.digits}f}"
                column = columns.setdefault(f"{row['sparsity']:.0%} minus {rival}", {})
                column[row["method"]] = f"{row['difference']:+.{score.digits}f}{width}"
    return columns


def write(folder: Path, out_dir: Path) -> Path:
    """Write `index.html`, a page that shows the recorded runs of a folder, and return its path.

    The page needs no other file. The function trains nothing, and the same records give the same page.

    Args:
        folder: as in :func:`read`.
        out_dir: folder for the page.

    Raises:
        FileNotFoundError, ValueError: as in :func:`read`; in this case nothing is written.
    """
    comparisons = read(folder)
    parts = [
        "<p>In the tables, the number after ± is the standard error of a mean score, or the half-width of the 95 % "
        "confidence interval of a mean difference. Each difference is between runs with the same seed. If the interval "
        "contains 0, the runs do not show a difference. Seconds are medians of the training time.</p>"
    ]
    for name, rows in comparisons.items():
        parts.append(f"<h2>{html.escape(name)}</h2>{as_html(table(rows))}")
        parts += [curves(name, sparsity, rows) for sparsity in sorted({row["sparsity"] for row in rows})]
        parts.append(f"<p><small>{html.escape(origin(rows))}</small></p>")
    out_dir.mkdir(parents=True, exist_ok=True)
    page = out_dir / "index.html"
    page.write_text(document("chts: recorded runs", "".join(parts)), encoding="utf-8")
    return page


def courses(rows: Sequence[Row], sparsity: float) -> dict[str, list[list[tuple[float, float]]]]:
    """The learning curves of all methods at a sparsity, and of FC, in the form that `figures.learning_curves` needs.

    If a method has runs with several recipes, only the recipe of its first run at this sparsity counts. The function
    leaves out runs without validation data. It also leaves out methods with changed choices ("chts with ..."), because
    their long names would leave no room for the curves. The table contains these methods.
    """
    course = SCORES[rows[0]["task"]].course
    return {line: list(map(course, mine)) for line, mine in _shown(rows, sparsity).items()}


def _shown(rows: Sequence[Row], sparsity: float) -> dict[str, list[Row]]:
    """The runs whose curves `courses` returns, by the label of their curve."""
    settings = _varying(rows)
    found: dict[str, list[Row]] = {}
    for row in rows:
        if " with " in row["method"] or not row["validation"]:
            continue
        line = ", ".join([row["method"], *(setting for setting in settings if _recipe(row).get(setting) is True)])
        if row["sparsity"] == sparsity or row["method"] == "fc":
            mine = found.setdefault(line, [])
            if not mine or _same(row, mine[0], settings):
                mine.append(row)
    return found


def curves(name: str, sparsity: float, rows: Sequence[Row]) -> str:
    """The learning curves of `courses` as a picture for a page; "" if no method except FC has a curve.

    More than five curves would hide each other. If there are more, the picture instead shows the differences between
    the scores and SET's score. If SET has no runs, the picture shows the differences from the first method.
    """
    shown = _shown(rows, sparsity)
    if set(shown) <= {"fc"}:
        return ""
    score = SCORES[rows[0]["task"]]
    if len(shown) <= _MOST_CURVES:
        figure = figures.learning_curves(courses(rows, sparsity), score.course_name)
        return picture(
            figures.to_png(figure),
            f"{name}, {sparsity:.0%} sparsity: {score.course_name} of {', '.join(shown)} by step. Each line is a mean "
            "over seeds, and its band goes from the lowest to the highest score of a seed.",
        )
    rival = "set" if "set" in shown else next(iter(shown))
    lines = [{**row, "method": line, "sparsity": sparsity} for line, mine in shown.items() for row in mine]
    found = score_differences(lines, score.of, rival)
    name_of_rival = method_label(rival)
    xlabel = f"{score.name} minus {name_of_rival}"
    figure = figures.draw_differences(found, xlabel, score.digits, score.higher_is_better)
    return picture(
        figures.to_png(figure),
        f"{name}, {sparsity:.0%} sparsity: mean differences from {name_of_rival} over runs with equal seeds, with 95 % "
        "intervals. The best method is on top.",
    )


def origin(rows: Sequence[Row]) -> str:
    """The devices, versions and dates of a comparison's runs."""
    devices = sorted({f"{row['device']['name']} ({row['device']['threads']} threads)" for row in rows})
    revisions = sorted({row["git"][:12] for row in rows})
    data = sorted({row["data"][:12] for row in rows})
    days = sorted({row["finished"][:10] for row in rows})
    torches = sorted({row["versions"]["torch"] for row in rows})
    return (
        f"{len(rows)} runs on {', '.join(devices)}; torch {', '.join(torches)}; data {', '.join(data)}; "
        f"revision {', '.join(revisions)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    )
