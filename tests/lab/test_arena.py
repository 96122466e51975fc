"""The arena: which records count, what trains, and what the page says; the races here are tiny."""

import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chts_core import cli
from chts_core.lab.arena import contest, page, races
from chts_core.lab.data import ImageData, sources
from chts_core.lab.train import images, language, translation
from chts_core.lab.train.runs import Trainer
from chts_core.lab.verify import conformance
from chts_core.methods import METHODS, Method, SmallWorld

MINE = replace(METHODS["set"], topology=SmallWorld(beta=0.25))
TASK = races.Task("Tiny digits", "digits", images.Recipe(hidden=8, epochs=2, batch_size=256), 0.5, seeds=2)
MISSING = replace(races.TASKS[2], title="No such text")
ACCURACY = "test accuracy of the last epoch (%)"


def row(method: str, seed: int, accuracy: float, **given: Any) -> dict[str, Any]:
    """A record of a run of `TASK`."""
    return {
        "task": "images",
        "dataset": "digits",
        "data": "ab" * 32,
        "method": method,
        "sparsity": 0.5,
        "seed": seed,
        "recipe": asdict(TASK.recipe),
        "validation": [{"step": step, "accuracy": accuracy} for step in (4, 8)],
        "test": {"accuracy": accuracy},
        "links": 1234,
        "device": {"name": "a <fast> one", "threads": 1},
        "versions": {"torch": "2.13.0"},
        "git": "0" * 40,
        "finished": "2026-11-25T12:00:00+00:00",
    } | given


# --- which records count ---


@pytest.mark.parametrize(
    ("task", "trainer"),
    list(zip(races.TASKS, (images.TRAINER, translation.TRAINER, language.TRAINER), strict=True)),
    ids=["digits", "number_words", "tinyshakespeare"],
)
def test_the_recorded_runs_of_the_nine_are_used(task: races.Task, trainer: Trainer[Any, Any]) -> None:
    rows = races.recorded()
    (digest,) = {row["data"] for row in rows if row["dataset"] == task.dataset}
    race = races.Race(task, SimpleNamespace(digest=digest), trainer)
    found = race.matching(rows, METHODS)
    assert {(row["method"], row["seed"]) for row in found} == {(m, seed) for m in METHODS for seed in range(task.seeds)}
    assert len(found) == len(METHODS) * task.seeds
    assert race.lacking(found, "set") == []
    assert race.lacking(found[1:], found[0]["method"]) == [found[0]["seed"]]


def test_the_digits_are_still_those_of_the_records(digits: ImageData) -> None:
    assert {row["data"] for row in races.recorded() if row["dataset"] == "digits"} == {digits.digest}


RACE = races.Race(TASK, SimpleNamespace(digest="ab" * 32), images.TRAINER)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"recipe": {**asdict(TASK.recipe), "execution": "csr"}}, True),  # the same run up to rounding
        ({"method": "fc", "sparsity": 0.0}, True),
        ({"sparsity": 0.0}, False),
        ({"seed": 2}, False),
        ({"data": "cd" * 32}, False),
        ({"dataset": "mnist"}, False),
        ({"method": "chts/zeros"}, False),
        ({"recipe": {**asdict(TASK.recipe), "epochs": 3}}, False),
    ],
)
def test_a_record_counts_only_with_the_same_data_recipe_sparsity_and_seeds(
    changes: dict[str, Any], counts: bool
) -> None:
    assert len(RACE.matching([row("set", 0, 0.5) | changes], METHODS)) == counts


def test_the_first_of_two_records_with_one_seed_counts() -> None:
    (found,) = RACE.matching([row("set", 0, 0.5), row("set", 0, 0.75)], METHODS)
    assert found["test"]["accuracy"] == 0.5


# --- the table ---


def test_the_table_by_hand() -> None:
    rows = [row("MINE", 0, 0.5), row("MINE", 1, 0.75), row("set", 0, 0.25), row("set", 1, 0.5), row("rigl", 0, 0.5)]
    rows += [row("chts", 0, 0.25), row("chts", 1, 0.75)]
    lines = {line["method"]: line for line in page.table("MINE", rows)}
    assert list(lines) == ["MINE", *METHODS]
    assert lines["MINE"] == {
        "method": "MINE",
        "runs": "2",
        ACCURACY: "62.50 ± 12.50",
        "MINE minus this method": "",
        "MINE is": "",
        "links": "1,234",
    }
    assert (lines["set"]["MINE minus this method"], lines["set"]["MINE is"]) == ("+25.00 ± 0.00", "ahead")
    # The differences are 25 and 0, with the standard error 12.5; t is 12.7062 with one degree of freedom.
    assert (lines["chts"]["MINE minus this method"], lines["chts"]["MINE is"]) == ("+12.50 ± 158.83", "undecided")
    # One seed has no interval.
    assert (lines["rigl"]["MINE minus this method"], lines["rigl"]["MINE is"]) == ("+0.00", "")
    assert set(lines["gmp"].values()) == {"gmp", "0", ""}


def test_the_picture_counts_the_standings() -> None:
    rows = [row("MINE", 0, 0.5), row("MINE", 1, 0.75), row("set", 0, 0.25), row("set", 1, 0.5), row("rigl", 0, 0.5)]
    rows += [row("chts", 0, 0.25), row("chts", 1, 0.75)]
    shown = page.drawn("MINE", rows)
    assert "MINE is ahead of 1 of these methods and behind 0; 2 are undecided." in shown  # one pair has no interval
    assert "MINE has a better mean than a method whose dot is to the right of 0." in shown
    assert page.drawn("MINE", rows[:2]) == ""


@pytest.mark.parametrize(
    ("differences", "higher_is_better", "expected"),
    [
        ([1.0, 1.1], True, "ahead"),
        ([1.0, 1.1], False, "behind"),
        ([-1.0, -1.1], True, "behind"),
        ([-1.0, -1.1], False, "ahead"),
        ([-1.0, 1.1], True, "undecided"),
        ([0.0, 0.0], True, "undecided"),
    ],
)
def test_a_low_loss_is_ahead_and_a_low_accuracy_is_behind(
    differences: list[float], higher_is_better: bool, expected: str
) -> None:
    assert page.standing(differences, higher_is_better=higher_is_better) == expected


# --- a tiny arena ---


@pytest.fixture
def one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks take long."""
    monkeypatch.setattr(conformance, "CHECKS", {"links": conformance.CHECKS["links"]})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The names and seeds of the trainings that were started."""
    started: list[tuple[str, list[int]]] = []
    train = races.Race.train

    def noted(self: races.Race, name: str, method: str | Method, seeds: list[int], folder: Path) -> None:
        started.append((name, seeds))
        train(self, name, method, seeds, folder)

    monkeypatch.setattr(races.Race, "train", noted)
    return started


@pytest.fixture
def records_without_set(monkeypatch: pytest.MonkeyPatch, digits: ImageData) -> None:
    """Records of all of the nine with both seeds, but of SET only with seed 0."""
    rows = [row(name, seed, 0.25 + seed / 4, data=digits.digest) for name in METHODS for seed in (0, 1)]
    monkeypatch.setattr(races, "recorded", lambda: [one for one in rows if (one["method"], one["seed"]) != ("set", 1)])


@pytest.mark.usefixtures("one_check", "records_without_set")
def test_an_arena_trains_what_no_record_has_and_continues(
    tmp_path: Path, trained: list[tuple[str, list[int]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert contest.run("MINE", MINE, tmp_path, minutes=0, tasks=[TASK])
    assert trained == [("MINE", [0, 1])]
    reason = "Tiny digits: set has no matching record for 1 of 2 seeds, and there was no time to train it."
    assert reason in capsys.readouterr().out
    shown = (tmp_path / "index.html").read_text("utf-8")
    assert reason in shown

    assert contest.run("MINE", MINE, tmp_path, minutes=60, tasks=[TASK])
    assert trained[1:] == [("set", [1])]
    printed = capsys.readouterr().out
    assert "Left out" not in printed
    shown = (tmp_path / "index.html").read_text("utf-8")

    assert contest.run("MINE", MINE, tmp_path, minutes=0, tasks=[TASK])
    assert trained[2:] == []
    assert (tmp_path / "index.html").read_text("utf-8") == shown

    changed = replace(MINE, topology=SmallWorld(beta=0.5))
    assert contest.run("MINE", changed, tmp_path, minutes=0, tasks=[TASK])
    assert trained[2:] == [("MINE", [0, 1])]


@pytest.mark.usefixtures("one_check", "records_without_set")
def test_the_page_stands_alone_and_states_its_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contest.run("MINE", MINE, tmp_path / "new", minutes=0, tasks=[TASK])
    shown = (tmp_path / "new" / "index.html").read_text("utf-8")
    assert "<title>chts arena: MINE and the nine methods</title>" in shown
    assert "SmallWorld(beta=0.25)" in shown
    assert "It passed these checks: links." in shown
    assert "<h2>Tiny digits, 50% sparsity</h2>" in shown
    assert 'src="data:image/png;base64,' in shown
    assert 'src="http' not in shown
    assert "<link" not in shown
    assert "a &lt;fast&gt; one" in shown
    # The new runs and the records of a method differ by equal amounts or by chance, so only the sum is known.
    standings = re.search(r"MINE is ahead of (\d) of these methods and behind (\d); (\d) are undecided\.", shown)
    assert standings is not None
    assert sum(map(int, standings.groups())) == 9
    # SET has one pair, and each of the other eight has two.
    limits = "There are few seeds: 2 (Tiny digits)."
    assert limits in shown
    assert (
        "The tables have 8 intervals at the 95 % level. If all methods were equally good, about 0.4 of these" in shown
    )
    printed = capsys.readouterr().out
    assert limits in printed
    assert printed.endswith(f"page: {tmp_path / 'new' / 'index.html'}\n")


@pytest.mark.usefixtures("no_fashion", "one_check", "records_without_set")
def test_a_task_without_data_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contest.run("MINE", MINE, tmp_path, minutes=0, tasks=[TASK, MISSING])
    reason = "No such text: Tiny Shakespeare (1.1 million characters) was not found. Tried:"
    assert reason in capsys.readouterr().out
    shown = (tmp_path / "index.html").read_text("utf-8")
    assert reason in shown
    assert "CHTS_DATA" not in shown  # the other lines are for this machine
    with pytest.raises(ValueError, match=r"the arena has no task for this method\.\nNo such text: Tiny Shakespeare"):
        contest.run("MINE", MINE, tmp_path, tasks=[MISSING])
    assert sources.SYSTEM_FOLDERS == ()


def test_a_method_that_fails_a_check_does_not_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "CHECKS", {"links": lambda *_: (False, "one link too many")})
    assert not contest.run("MINE", MINE, tmp_path, tasks=[TASK])
    printed = capsys.readouterr().out
    assert "MINE, links: one link too many" in printed
    assert "MINE failed a check, so a race would not be fair." in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["chts", "my idea", ""])
def test_a_name_that_would_mislead_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"name is '{name}'; expected a Python name that none of the nine built-in methods has"
    ):
        contest.run(name, MINE, tmp_path, tasks=[TASK])


# --- a changed method ---


MODULE = """
from dataclasses import dataclass, replace
from chts_core.methods import METHODS, Regrowth

@dataclass(frozen=True)
class Score:
    def __call__(self, mask, gradient):
        return 1.0 + mask.float()

MY_METHOD = replace(METHODS["set"], regrowth=Regrowth(Score()))
NUMBER = 3
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes my_module.py into the folder of work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> Path:
        monkeypatch.delitem(sys.modules, "my_module", raising=False)
        path = tmp_path / "my_module.py"
        path.write_text(text, "utf-8")
        return path

    return write


def test_the_fingerprint_changes_with_the_text_and_the_code_of_a_method(
    write_module: Callable[[str], Path],
) -> None:
    from chts_core.lab.arena.commands import find_method

    write_module(MODULE)
    first = races.fingerprint(find_method("my_module:MY_METHOD"))
    assert races.fingerprint(find_method("my_module:MY_METHOD")) == first
    write_module(MODULE.replace("1.0 +", "2.5 *"))
    assert races.fingerprint(find_method("my_module:MY_METHOD")) != first
    assert races.fingerprint(MINE) != races.fingerprint(replace(MINE, topology=SmallWorld(beta=0.5)))


CHANGEABLE = """
from dataclasses import dataclass, replace
from chts_core.choices import Regrowth, SmallWorld, Turnover
from chts_core.methods import METHODS

class Level:
    @property
    def level(self):
        return 0.9 - 0.0

@dataclass(frozen=True)
class Late:
    def at(self, *_):
        return 0.9 - 0.0

@dataclass(frozen=True)
class MyRegrowth(Regrowth):
    def scores(self, mask, gradient, past):
        return mask + 0.9 - 0.0

@dataclass(frozen=True)
class MyTopology(SmallWorld, Level):
    pass
"""


@pytest.mark.parametrize(
    "choice",
    ["turnover=Turnover(Late())", "sparsity=Late()", "regrowth=MyRegrowth('random')", "topology=MyTopology()"],
)
def test_the_fingerprint_changes_with_a_schedule_and_with_an_inherited_choice(
    choice: str, write_module: Callable[[str], Path]
) -> None:
    from chts_core.lab.arena.commands import find_method

    prints = []
    for number in ("0.0", "0.0", "0.5"):
        write_module(CHANGEABLE.replace("0.0", number) + f"MY_METHOD = replace(METHODS['set'], {choice})")
        prints.append(races.fingerprint(find_method("my_module:MY_METHOD")))
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_changes_with_a_cell_of_a_notebook() -> None:
    def of_cell(source: str) -> str:
        linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(source, "<cell>", "exec"), namespace)
        return races.fingerprint(namespace["MY_METHOD"])

    assert of_cell(MODULE) == of_cell(MODULE)
    assert of_cell(MODULE) != of_cell(MODULE.replace("1.0 +", "2.5 *"))
    del linecache.cache["<cell>"]


# --- the command ---


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("set", "method is 'set'; expected MODULE:NAME, for example my_module:MY_METHOD."),
        ("my_module.py:MY_METHOD", "method is 'my_module.py:MY_METHOD'; expected MODULE:NAME, for example"),
        ("./my_module:MY_METHOD", "method is './my_module:MY_METHOD'; expected MODULE:NAME, for example"),
        (".my_module:MY_METHOD", "method is '.my_module:MY_METHOD'; expected MODULE:NAME, for example"),
        (":MY_METHOD", "method is ':MY_METHOD'; expected MODULE:NAME, for example my_module:MY_METHOD."),
        ("no_module:MINE", "there is no module 'no_module'; expected no_module.py in "),
        ("my_module.inner:MINE", "there is no module 'my_module.inner'; expected my_module.inner.py in "),
        ("my_module:MINE", "my_module:MINE does not exist; expected a chts_core.methods.Method, for example"),
        ("my_module:NUMBER", "my_module:NUMBER is of type int; expected a chts_core.methods.Method, for example"),
    ],
)
def test_the_command_refuses_what_is_not_a_method(
    place: str, message: str, write_module: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(MODULE)
    assert cli.main(["arena", place]) == 2
    assert capsys.readouterr().err.startswith(f"chts: {message}")
    assert not Path("runs").exists()


def test_a_missing_import_of_the_module_is_shown_where_it_is(write_module: Callable[[str], Path]) -> None:
    write_module("import no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        cli.main(["arena", "my_module:MY_METHOD"])


@pytest.mark.parametrize("passed", [True, False])
def test_the_command_runs_the_arena(
    passed: bool, write_module: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def run(name: str, method: Method, folder: Path, *, minutes: float) -> bool:
        given.append((name, repr(method.regrowth), folder, minutes))
        return passed

    monkeypatch.setattr(contest, "run", run)
    write_module(MODULE)
    assert cli.main(["arena", "my_module:MY_METHOD", "--minutes", "3", "--out", "here"]) == (0 if passed else 1)
    assert cli.main(["arena", "my_module:MY_METHOD"]) == (0 if passed else 1)
    assert [(name, folder, minutes) for name, _, folder, minutes in given] == [
        ("MY_METHOD", Path("here"), 3.0),
        ("MY_METHOD", Path("runs/arena"), 10.0),
    ]
    assert "Score()" in given[0][1]


def test_the_command_says_how_to_continue_after_an_interruption(
    write_module: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(contest, "run", run)
    write_module(MODULE)
    assert cli.main(["arena", "my_module:MY_METHOD", "--out", "here"]) == 130
    assert capsys.readouterr().err == "chts: stopped; here has the finished runs. Repeat the command to continue.\n"
