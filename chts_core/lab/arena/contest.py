"""Check your own method, and race it against the nine methods of the paper. All sparse methods have the same budget."""

import time
from collections.abc import Sequence
from pathlib import Path

from chts_core.lab.arena import page, races
from chts_core.lab.data.sources import DataNotFoundError
from chts_core.lab.results.report import Row
from chts_core.lab.verify import conformance
from chts_core.methods import METHODS, Method


def run(
    name: str, method: Method, folder: Path, *, minutes: float = 10.0, tasks: Sequence[races.Task] = races.TASKS
) -> bool:
    """Check a method, race it against the nine methods of the paper, print the results, and write them to `index.html`.

    Your method always trains. The nine methods usually use recorded runs. If one of the nine has no matching record for
    some seeds, it trains with these seeds, but only if there is enough time. A second call with the same folder
    continues an interrupted race. If you change your method, only the runs of your method start again.

    Args:
        name: the name of your method on the page.
        method: your method.
        folder: the folder for the page, the records and the checkpoints.
        minutes: the time limit, counted from the call. One of the nine methods trains only if its runs would probably
            end within this limit.
        tasks: the tasks; there is one race for each task.

    Returns:
        Whether the method passed its checks. If it failed a check, there is no race.

    Raises:
        ValueError: if `name` is not a Python name or belongs to one of the nine methods, or if the method fits no task.
    """
    end = time.perf_counter() + 60 * minutes
    if not name.isidentifier() or name in METHODS:
        raise ValueError(
            f"name is {name!r}; expected a Python name that none of the nine built-in methods has, like MY_METHOD."
        )
    print(f"Checking that {name} does what its choices say ...", flush=True)
    checks = conformance.conformance({name: method})
    print(conformance.as_table(checks))
    if any(check.passed is False for check in checks):
        print(f"\n{name} failed a check, so a race would not be fair. Correct the method and call the arena again.")
        return False
    entered, left_out = _enter(method, tasks)
    own = folder / f"{name}-{races.fingerprint(method)}"
    results: dict[str, list[Row]] = {}
    for race in entered:
        place = own / race.task.dataset
        if seeds := race.lacking(race.matching(races.finished(place), [name]), name):
            print(f"\n{race.task.title}: {len(seeds)} runs of {name}", flush=True)
            race.train(name, method, seeds, place)
        results[race.task.title] = race.matching(races.finished(place), [name])
    recorded = races.recorded()
    for race in entered:  # the nine methods train after the user's method has trained on all tasks
        rows = results[race.task.title]
        left_out += _train_lacking(race, recorded, folder / "nine", end, max(row["total_seconds"] for row in rows))
        rows += race.matching([*recorded, *races.finished(folder / "nine" / race.task.dataset)], METHODS)
    written = page.write(name, method, checks, results, left_out, folder)
    print(f"\n{page.text(name, results, left_out)}\n\npage: {written}")
    return True


def _enter(method: Method, tasks: Sequence[races.Task]) -> tuple[list[races.Race], list[str]]:
    """Return the races that a method can enter and, for every other task, the reason why it is left out."""
    entered, left_out = [], []
    for task in tasks:
        try:
            race = races.prepared(task)
            race.trainer.plan(race.data, method, task.sparsity, task.recipe)
        except (DataNotFoundError, ValueError) as error:
            left_out.append(f"{task.title}: {error}")
        else:
            entered.append(race)
    if not entered:
        raise ValueError("the arena has no task for this method.\n" + "\n".join(left_out))
    return entered, left_out


def _train_lacking(
    race: races.Race, recorded: Sequence[Row], folder: Path, end: float, seconds_per_run: float
) -> list[str]:
    """Train each of the nine methods with the seeds for which it has no record, if there is time. Return a reason for
    each method that is left out.
    """
    place = folder / race.task.dataset
    known = race.matching([*recorded, *races.finished(place)], METHODS)
    left_out = []
    for method in METHODS:
        seeds = race.lacking(known, method)
        if seeds and time.perf_counter() + len(seeds) * seconds_per_run > end:
            left_out.append(
                f"{race.task.title}: {method} has no matching record for {len(seeds)} of {race.task.seeds} seeds, and "
                "there was no time to train it. Run the arena again with the same folder, or with more minutes."
            )
        elif seeds:
            print(f"\n{race.task.title}: {len(seeds)} runs of {method}, which are not recorded yet", flush=True)
            race.train(method, method, seeds, place)
    return left_out
