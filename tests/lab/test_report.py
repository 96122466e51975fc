"""The report of recorded runs: every number of it can be worked out by hand from the records."""

import copy
import html
import math
import re
from pathlib import Path
from typing import Any

import pytest

from chts_core.cli import main
from chts_core.lab import figures
from chts_core.lab.results import records, report

SHA = "ab" * 32


def run(method: str, seed: int, accuracy: float, **given: Any) -> dict[str, Any]:
    """A record of a classifier with a test accuracy in the last epoch."""
    return {
        "schema": records.SCHEMA,
        "task": "images",
        "dataset": "digits",
        "data": SHA,
        "method": method,
        "sparsity": 0.0 if method == "fc" else 0.9,
        "seed": seed,
        "recipe": {"hidden": 16, "epochs": 2, "execution": "masked"},
        "train_loss": [[10, 2.0], [20, 1.0]],
        "validation": [{"step": 10, "accuracy": 0.25}, {"step": 20, "accuracy": 0.5}],
        "test": {"accuracy": accuracy, "chosen": accuracy, "best": 0.875},
        "test_by_epoch": [0.875, accuracy],
        "best_had_more_links": False,
        "links": 1234,
        "density": 0.1,
        "active_neurons": 0.5,
        "itop": 0.25,
        "seconds": 10.0 + seed,
        "total_seconds": 20.0,
        "evolution_seconds": 0.1,
        "peak_memory_mb": 1500 + seed,
        "device": {"type": "cpu", "name": "a <fast> one", "threads": 1, "memory_mb": 1, "platform": "Linux"},
        "versions": {"python": "3.11", "chts": "0.1.0", "torch": "2.13.0"},
        "git": "0" * 40,
        "finished": "2026-11-25T12:00:00+00:00",
    } | given


ROWS = [
    *(run("fc", seed, accuracy) for seed, accuracy in enumerate((0.75, 0.5, 0.25))),
    *(run("set", seed, accuracy) for seed, accuracy in enumerate((0.5, 0.375, 0.25))),
    run("chts", 0, 0.625),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records.write_lines(tmp_path / "runs.jsonl", ROWS)
    return tmp_path


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[dict[str, Any]]]:
    """The runs that are recorded here, by comparison; checking them all takes long."""
    return report.read(records.results_folder())


# --- the table ---


def test_methods_stand_beside_their_rivals() -> None:
    # SET minus FC is -25, -12.5 and 0 points, whose deviation is 12.5; t is 4.303 with two degrees of freedom.
    assert report.beside(ROWS, ("fc", "set")) == {
        "90% minus fc": {"set": "-12.50 ± 31.05", "chts": "-12.50"},
        "90% minus set": {"chts": "+12.50"},
    }
    assert report.beside(ROWS, ("rigl",)) == {}


def test_means_and_differences_by_hand() -> None:
    fc, set_, chts = report.table(ROWS)
    score = "test accuracy of the last epoch (%)"
    # Deviations 25, 0, -25 of the mean 50: standard error 25/√3. Differences -25, -12.5, 0: ± 4.3027 · 12.5/√3.
    assert fc[score] == f"50.00 ± {25 / math.sqrt(3):.2f}" == "50.00 ± 14.43"
    assert set_["minus fc"] == f"-12.50 ± {4.302652729749464 * 12.5 / math.sqrt(3):.2f}" == "-12.50 ± 31.05"
    assert (fc["minus fc"], fc["minus set"], set_["minus set"]) == ("", "", "")
    # One seed has no standard error, and is compared with the rivals' run of that seed alone.
    assert (chts[score], chts["minus fc"], chts["minus set"]) == ("62.50", "-12.50", "+12.50")
    assert [row["runs"] for row in (fc, set_, chts)] == ["3", "3", "1"]
    assert (fc["sparsity"], set_["sparsity"]) == ("", "0.9")
    assert (set_["of the best test epoch"], chts["of the best test epoch"]) == ("87.50 ± 0.00", "87.50")
    assert (fc["links"], fc["active neurons"], fc["seconds"], fc["peak MB"]) == ("1,234", "50%", "11", "1,502")


def test_the_order_of_the_records_does_not_matter() -> None:
    def by_method(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return sorted(rows, key=lambda row: row["method"])

    assert by_method(report.table(ROWS[::-1])) == by_method(report.table(ROWS))


def test_settings_that_differ_have_columns_and_are_compared_apart() -> None:
    def with_rate(row: dict[str, Any], rate: float) -> dict[str, Any]:
        return row | {"recipe": row["recipe"] | {"learning_rate": rate}}

    rows = [
        with_rate(run("set", 0, 0.5), 0.1),
        with_rate(run("set", 0, 0.75), 0.2),
        with_rate(run("chts", 0, 0.75), 0.1),
        with_rate(run("chts", 0, 0.75), 0.4),
    ]
    table = report.table(rows)
    assert [(row["method"], row["learning_rate"], row["minus set"]) for row in table] == [
        ("set", "0.1", ""),
        ("set", "0.2", ""),
        ("chts", "0.1", "+25.00"),
        ("chts", "0.4", ""),  # none of SET's two is its match
    ]
    # FC's only run is everybody's match, whatever its rate: each has the rate that suits it.
    (*_, last) = report.table([*rows, with_rate(run("fc", 0, 0.5), 0.9)])[:4]
    assert last["minus fc"] == "+25.00"


def test_how_a_run_was_computed_makes_no_column() -> None:
    rows = [run("set", 0, 0.5), run("set", 1, 0.5)]
    rows[1]["recipe"] = rows[1]["recipe"] | {"execution": "csr"}
    (row,) = report.table(rows)
    assert row["runs"] == "2"
    assert "execution" not in row


def test_the_number_of_lanes_makes_a_column_because_it_orders_the_texts() -> None:
    rows = [run("set", 0, 0.5), run("set", 1, 0.5)]
    for row, lanes in zip(rows, (8, 64), strict=True):
        row["recipe"] = row["recipe"] | {"lanes": lanes}
    assert [row["lanes"] for row in report.table(rows)] == ["8", "64"]


def test_other_sparsities_are_other_rows() -> None:
    rows = [run("set", 0, 0.5), run("set", 0, 0.25, sparsity=0.95), run("chts", 0, 0.5, sparsity=0.95)]
    assert [(row["method"], row["sparsity"], row["minus set"]) for row in report.table(rows)] == [
        ("set", "0.9", ""),
        ("set", "0.95", ""),
        ("chts", "0.95", "+25.00"),
    ]


def on_all_images(method: str, seed: int, accuracy: float) -> dict[str, Any]:
    row = run(method, seed, accuracy, validation=[])
    return row | {"recipe": row["recipe"] | {"all_images": True}, "test": row["test"] | {"chosen": None}}


def test_a_run_on_all_images_has_no_epoch_chosen_on_validation_and_no_curve(tmp_path: Path) -> None:
    rows = [on_all_images("set", 0, 0.5), on_all_images("rigl", 0, 0.75)]
    records.write_lines(tmp_path / "runs.jsonl", rows)
    (found,) = report.read(tmp_path).values()
    assert found == rows
    for line in report.table(found):
        assert line["of the epoch chosen on validation"] == ""
        assert line["of the best test epoch"] == "87.50"
    assert report.courses(found, 0.9) == {}
    page = report.write(tmp_path, tmp_path / "out").read_text("utf-8")
    assert "<td>+25.00</td>" in page
    assert "<img " not in page


def test_runs_on_all_images_are_told_from_earlier_ones_without_that_setting() -> None:
    rows = [on_all_images("chts", 0, 0.75), run("set", 0, 0.25), on_all_images("set", 0, 0.5), run("chts", 0, 0.5)]
    chosen = "of the epoch chosen on validation"
    assert [(row["method"], row["all_images"], row["minus set"], row[chosen]) for row in report.table(rows)] == [
        ("chts", "True", "+25.00", ""),
        ("set", "False", "", "25.00"),
        ("set", "True", "", ""),
        ("chts", "False", "+25.00", "50.00"),
    ]
    assert list(report.courses(rows, 0.9)) == ["set", "chts"]
    assert [len(lines) for lines in report.courses(rows, 0.9).values()] == [1, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (on_all_images("set", 0, 0.5) | {"validation": [{"step": 10, "accuracy": 0.5}]}, r"at \['validation'\]"),
        (on_all_images("set", 0, 0.5) | {"test": run("set", 0, 0.5)["test"]}, r"at \['test'\]\['chosen'\]"),
        (run("set", 0, 0.5) | {"test": on_all_images("set", 0, 0.5)["test"]}, r"at \['test'\]\['chosen'\]"),
    ],
)
def test_validation_where_there_can_be_none_and_none_where_there_must_be_some(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    records.write_lines(tmp_path / "runs.jsonl", [row])
    with pytest.raises(ValueError, match=f"is not a record of a run: {message}"):
        report.read(tmp_path)


def test_memory_that_was_not_recorded_is_left_blank() -> None:
    (row,) = report.table([run("set", 0, 0.5, peak_memory_mb=None)])
    assert row["peak MB"] == ""


# --- reading ---


def test_runs_are_grouped_by_file_and_data_set(folder: Path) -> None:
    records.write_lines(folder / "more.jsonl", [run("set", 0, 0.5, dataset="mnist")])
    found = report.read(folder)
    assert {name: len(rows) for name, rows in found.items()} == {"more: mnist": 1, "runs: digits": 7}


def test_a_sweep_is_read_without_what_failed(tmp_path: Path) -> None:
    def cell(record: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "schema": records.SCHEMA,
            "cell": "one",
            "status": "",
            "error": None,
            "parameters": {},
            "record": record,
        }

    records.write_lines(tmp_path / "sweep.jsonl", [cell(ROWS[0]), cell(None), cell({"notebook": "06_mlp"})])
    assert report.read(tmp_path) == {"sweep: digits": [ROWS[0]]}


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    for rows in (None, [], [{"schema": records.SCHEMA, "cell": "one", "record": None}]):  # the last has failed
        if rows is not None:
            records.write_lines(tmp_path / "sweep.jsonl", rows)
        with pytest.raises(FileNotFoundError, match=r"has no recorded runs; expected a folder with files \*\.jsonl"):
            report.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": {}}, r"at \['test'\], 'accuracy' is a required property"),
        ({"task": "speech"}, r"at \['task'\], 'speech' is not one of"),
        ({"seed": -1}, r"at \['seed'\], -1 is less than the minimum of 0"),
        ({"sparsity": 1.0}, r"at \['sparsity'\], 1.0"),
        ({"links": 12.5}, r"at \['links'\], 12.5 is not of type 'integer'"),
        ({"active_neurons": 1.5}, r"at \['active_neurons'\], 1.5 is greater than the maximum"),
        ({"git": "main"}, r"at \['git'\], 'main' does not match"),
        ({"finished": "yesterday"}, r"at \['finished'\], 'yesterday' does not match"),
        ({"data": "ab"}, r"at \['data'\], 'ab' does not match"),
        ({"validation": []}, r"at \['validation'\], "),
        ({"train_loss": [[10, 2.0, 3.0]]}, r"at \['train_loss'\]"),
        ({"surprise": 1}, r"'surprise' was unexpected"),
        ({"versions": None}, r"at \['versions'\], None is not of type 'object'"),
    ],
)
def test_what_is_no_record_of_a_run_is_refused_with_its_line(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    records.write_lines(folder / "runs.jsonl", [*ROWS, ROWS[0] | change])
    with pytest.raises(ValueError, match=rf"runs\.jsonl, line 8 is not a record of a run: .*{message}"):
        report.read(folder)


@pytest.mark.parametrize("key", [key for key in ROWS[0] if key != "schema"])
def test_a_record_that_lacks_something_is_refused(folder: Path, key: str) -> None:
    lacking = copy.deepcopy(ROWS[0])
    del lacking[key]
    records.write_lines(folder / "runs.jsonl", [lacking])
    with pytest.raises(
        ValueError, match=rf"runs\.jsonl, line 1 is not a record of a run: '{key}' is a required property"
    ):
        report.read(folder)


# --- the page and the command ---


def test_the_page_needs_nothing_else_and_tells_where_the_runs_are_from(folder: Path, tmp_path: Path) -> None:
    page = report.write(folder, tmp_path / "out").read_text("utf-8")
    assert "runs: digits" in page
    assert "<td>-12.50 ± 31.05</td>" in page
    assert "7 runs on a &lt;fast&gt; one (1 threads); torch 2.13.0; data abababababab; revision 000000000000" in page
    assert page.count("<img ") == 1  # of the one sparsity beside FC's
    assert re.search(r'<img src="data:image/png;base64,[^"]{1000,}" alt="runs: digits, 90% sparsity: validation', page)
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert report.write(folder, tmp_path / "again").read_text("utf-8") == page  # the same records, the same page


def test_the_command_prints_the_tables_and_writes_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "-12.50 ± 31.05" in printed
    assert (folder / "report" / "index.html").is_file()


def test_the_command_refuses_a_changed_line_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "runs.jsonl"
    path.write_text(path.read_text("utf-8").replace('"accuracy": 0.75', '"accuracy": 0.95', 1), "utf-8")
    assert main(["report", str(folder)]) == 2
    assert "line 1 does not match its sha256" in capsys.readouterr().err
    assert not (folder / "report").exists()


def test_the_curves_of_every_comparison_of_recorded_runs_can_be_drawn(
    recorded: dict[str, list[dict[str, Any]]],
) -> None:
    for rows in recorded.values():
        for sparsity in {row["sparsity"] for row in rows}:
            for lines in report.courses(rows, sparsity).values():
                steps = [[step for step, _ in line] for line in lines]
                assert all(one == steps[0] for one in steps)  # of one recipe


def test_the_recorded_runs_make_a_report(
    recorded: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "read", {records.results_folder(): recorded}.__getitem__)
    page = report.write(records.results_folder(), tmp_path).read_text("utf-8")
    for name in ("mlp_paper: fashion_mnist", "language: books, tiny", "translation: multi30k, small"):
        assert f"<h2>{name}</h2>" in page
    assert str(report.table(recorded["translation: multi30k, small"])[0]["BLEU on the test pairs"]) in page
    methods = {row["method"] for name, rows in recorded.items() if name.startswith("ablations: ") for row in rows}
    assert len(methods) > 9
    for method in methods:
        assert f"<td>{html.escape(method)}</td>" in page
    (caption,) = re.findall(r"<figcaption>ablations: digits, 95% sparsity: (.*?)</figcaption>", page)
    assert caption.startswith("mean differences from CHTs over runs with equal seeds")


@pytest.mark.parametrize("most", [2, 3])
def test_many_curves_give_way_to_differences(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    rows = [run("rigl", 0, 0.25), run("set", 0, 0.5), run("set", 1, 0.5), run("fc", 0, 0.75)]
    drawn: list[Any] = []
    monkeypatch.setattr(report, "_MOST_CURVES", most)
    draw = figures.draw_differences
    monkeypatch.setattr(figures, "draw_differences", lambda *given: drawn.append(given) or draw(*given))
    shown = report.curves("one", 0.9, rows)
    assert ("Each line is a mean" in shown) == (most == 3)
    if most == 2:
        ((points, xlabel, digits, higher_is_better),) = drawn
        assert [(point["method"], point["difference"], point["interval"]) for point in points] == [
            ("rigl", -25, None),
            ("fc", 25, None),
        ]
        assert (xlabel, digits, higher_is_better) == ("test accuracy of the last epoch (%) minus SET", 2, True)
        assert "mean differences from SET over runs with equal seeds" in shown
