import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from scipy import stats

import chts_core as chts
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.tour import comparison
from chts_core.lab.results import records
from chts_core.lab.results.statistics import mean_and_interval

Executed = Callable[[str], tuple[dict[str, Any], Any]]
Page = Callable[[str], tuple[dict[str, Any], str, str]]
METHODS = list(chts.METHODS)


def test_stage_06_races_nine_methods_at_their_exact_density(executed: Executed) -> None:
    record, _ = executed("06")
    settings, results = notebooks.profile_settings("06_mlp", "ci"), record["results"]
    hidden, seeds, sparsity = settings["hidden"], settings["seeds"], record["parameters"]["sparsity"]
    assert (results["dataset"], results["sparsity"]) == (settings["dataset"], sparsity)
    assert (results["recipe"]["hidden"], results["recipe"]["epochs"]) == (hidden, settings["epochs"])

    shapes = [(hidden, 64), (hidden, hidden), (hidden, hidden)]
    links = sum(chts.topology.link_count(*shape, 1 - sparsity) for shape in shapes)
    sparse = links / sum(rows * columns for rows, columns in shapes)
    densities = {method: 1 if method == "fc" else sparse for method in METHODS}
    assert {row["method"]: row["density"] for row in results["methods"]} == densities
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [
        (method, seed) for method in densities for seed in range(seeds)
    ]
    for run in results["runs"]:
        assert run["density"] == densities[run["method"]]
        assert len(run["validation_accuracy"]) == len(run["test_by_epoch"]) == settings["epochs"]
        assert run["test_accuracy"] == run["test_by_epoch"][-1]
    for row in results["methods"]:
        assert row["runs"] == seeds
        assert row["accuracy"] > (0.9 if row["method"] == "fc" else 0.2)  # chance is 0.1
        assert row["interval"] >= 0
    assert [row["method"] for row in comparison([record])] == METHODS


def test_stage_06_tells_what_equal_steps_cost(executed: Executed) -> None:
    rows = {row["method"]: row["flops"] for row in executed("06")[0]["results"]["methods"]}
    assert rows["fc"] == 1
    constant = [rows[method] for method in ("set", "cht", "chts")]
    assert len(set(constant)) == 1
    assert all(rows[method] > constant[0] for method in ("mest", "gmp", "granet", "chtss"))


def test_stage_06_pairs_its_differences(executed: Executed) -> None:
    results = executed("06")[0]["results"]
    tests = {(run["method"], run["seed"]): run["test_accuracy"] for run in results["runs"]}
    seeds = sorted({seed for _, seed in tests})
    assert [(row["rival"], row["method"]) for row in results["differences"]] == [
        (rival, method) for rival in ("fc", "chts") for method in METHODS if method != rival
    ]
    for row in results["differences"]:
        mean, interval = mean_and_interval([tests[row["method"], s] - tests[row["rival"], s] for s in seeds])
        assert row["difference"] == pytest.approx(mean, abs=1e-4)  # accuracies are recorded to five digits
        assert row["interval"] == pytest.approx(interval, abs=1e-3)


def test_stage_06_races_a_dense_network_of_as_few_weights(executed: Executed) -> None:
    record, _ = executed("06")
    small, links = record["results"]["small"], 164 + 2 * 655  # 1 % of 256 × 64 and of 256 × 256, twice
    assert record["parameters"]["sparsity"] == 0.99
    assert (small["hidden"], small["weights"]) == (15, 15 * 64 + 2 * 15**2)
    assert small["weights"] <= links < 16 * 64 + 2 * 16**2
    assert 0.2 < small["accuracy"] <= 1
    assert [(row["rival"], row["method"]) for row in small["beside"]] == [("small", method) for method in METHODS]
    runs = record["results"]["runs"]
    fc = mean_and_interval([run["test_accuracy"] for run in runs if run["method"] == "fc"])[0]
    assert small["beside"][0]["difference"] == pytest.approx(fc - small["accuracy"], abs=1e-4)


def test_stage_06_shows_what_choosing_the_test_epoch_does(executed: Executed) -> None:
    results = executed("06")[0]["results"]
    assert results["chosen"] in ("r = 0.0", "r = 0.25", "r = 1.0")
    assert [row["method"] for row in results["epoch_choices"]] == METHODS
    for row in results["epoch_choices"]:
        assert row["best test epoch"] >= max(row["last epoch"], row["chosen on validation"])
        if row["method"] in ("fc", "set", "rigl", "cht", "chts"):
            assert row["best had more links"] == 0
    chtss = next(row for row in results["epoch_choices"] if row["method"] == "chtss")
    assert chtss["best had more links"] > 0  # it falls to its final number of links where the sigmoid is steep


def test_stage_06_keeps_its_races_in_a_folder(executed: Executed) -> None:
    record, _ = executed("06")
    kept = Path(record["parameters"]["out_dir"])
    runs = record["results"]["runs"]
    rows = records.read_runs(kept / "runs.jsonl")
    assert [row["method"] for row in rows] == [run["method"] for run in runs]
    assert [row["test_by_epoch"] for row in rows] == [run["test_by_epoch"] for run in runs]
    trials = records.read_runs(kept / "trials" / "runs.jsonl")
    assert {row["method"] for row in trials} == {"r = 0.0", "r = 0.25", "r = 1.0"}
    checkpoints = [path for path in kept.rglob("*.safetensors") if not path.stem.endswith(".previous")]
    small = records.read_runs(kept / "small" / "runs.jsonl")
    assert {(row["method"], row["recipe"]["hidden"]) for row in small} == {("small", 15)}
    assert len(checkpoints) == len(rows) + len(trials) + len(small)


# --- the conclusion, as it is published ---


def points(row: Mapping[str, Any]) -> str:
    """What a method loses, as the text writes it."""
    return f"{-100 * row['difference']:.1f} ± {100 * row['interval']:.1f}"


def test_the_conclusion_of_stage_06_says_what_each_method_loses(committed: Page) -> None:
    results, text, _ = committed("06_mlp")
    rows = {row["method"]: row for row in results["answer"]}
    assert [row["difference"] for row in rows.values()] == sorted(
        (row["difference"] for row in rows.values()), reverse=True
    )
    behind = {name for name, row in rows.items() if row["difference"] + row["interval"] < 0}
    assert behind == {"rigl", "chtss", "mest", "cht", "set"}
    lost = {name: points(row) for name, row in rows.items()}
    assert (
        f"**Five of the eight sparse methods are behind FC.** RigL loses {lost['rigl']} points, CHTss {lost['chtss']}, "
        f"MEST {lost['mest']}, CHT {lost['cht']} and SET {lost['set']}. GraNet loses {lost['granet']}, "
        f"GMP {lost['gmp']} and CHTs {lost['chts']}: these three intervals contain 0."
    ) in text
    of_chts = [row for row in results["differences"] if row["rival"] == "chts" and row["method"] != "fc"]
    assert len(of_chts) == 7
    assert all(abs(row["difference"]) < row["interval"] for row in of_chts)
    assert "**No sparse method is clearly better or worse than CHTs.** All seven intervals" in text


def test_the_conclusion_of_stage_06_says_who_stumbled_and_what_it_cost(committed: Page) -> None:
    results, text, _ = committed("06_mlp")
    falls = {row["method"]: row for row in results["falls"]}
    assert max(falls.values(), key=lambda row: row["fall"])["method"] == "chtss"
    fall = {name: f"{100 * row['fall']:.1f}" for name, row in falls.items()}
    assert (
        f"falls by {fall['chtss']} points and reaches {100 * falls['chtss']['to']:.1f} % in epoch "
        f"{falls['chtss']['in epoch']}. GMP falls by {fall['gmp']} points and GraNet by {fall['granet']}. "
        f"MEST also starts with extra links, but its accuracy falls by only {fall['mest']} point."
    ) in text
    flops = {row["method"]: f"{row['flops']:.1%}".replace("%", " %") for row in results["methods"]}
    assert (
        f"GraNet costs {flops['granet']} of FC's training FLOPs and GMP {flops['gmp']}. RigL costs {flops['rigl']} "
        f"and CHTs {flops['chts']}."
    ) in text
    cheap = {row["method"]: row["flops"] for row in results["methods"]}
    assert cheap["granet"] > 4 * cheap["set"]  # "more than four times as long"
    assert cheap["set"] == cheap["chts"]


def test_the_conclusion_of_stage_06_sets_the_small_dense_network_beside(committed: Page) -> None:
    results, text, _ = committed("06_mlp")
    (row,) = [row for row in results["answer"] if row["method"] == "small dense"]
    share = (64 * 15 + 2 * 15**2 + 15 * 10) / (64 * 256 + 2 * 256**2 + 256 * 10)
    assert f"It is {points(row)} points behind FC and costs {100 * share:.1f} % of FC's training FLOPs." in text
    sparse = [row for row in results["small"]["beside"] if row["method"] != "fc"]
    assert {row["method"] for row in sparse if row["difference"] + row["interval"] < 0} == {"rigl", "cht", "set"}
    (ahead,) = [row for row in sparse if row["difference"] - row["interval"] > 0]
    assert ahead["method"] == "granet"
    gained = f"{100 * ahead['difference']:.1f} ± {100 * ahead['interval']:.1f}"
    assert (
        "The small network is clearly ahead of RigL, CHT and SET: the intervals of these three differences do not "
        f"contain 0. Only GraNet is clearly ahead of the small network: by {gained} points."
    ) in text


def test_the_conclusion_of_stage_06_says_what_recorded_runs_say(committed: Page) -> None:
    results, text, _ = committed("06_mlp")
    ten = {row["method"]: row for row in results["ten_seeds"]}
    assert {row["seeds"] for row in ten.values()} == {10}
    assert len(ten) == 8
    assert all(row["difference"] + row["interval"] < 0 for row in ten.values())
    ranked = sorted(ten, key=lambda name: -ten[name]["difference"])
    assert (ranked[0], ranked[-1]) == ("gmp", "chtss")
    first, last = (-ten[name]["difference"] for name in (ranked[0], ranked[-1]))
    assert f"All eight sparse methods are behind FC, by {first:.1f} to {last:.1f} points" in text
    full = {row["method"]: row for row in results["full_size"]}
    three = {name: row["mean"] for name, row in full.items() if row["runs"] == 3}
    assert three.keys() == {"chts/paper_mlp_fashion", "rigl", "set", "cht/paper_mlp", "chts/paper_mlp"}
    assert "Five rows have three seeds. Among these rows, CHTs (`chts/paper_mlp_fashion`) is ahead of RigL, SET" in text
    assert max(three, key=three.__getitem__) == "chts/paper_mlp_fashion"
    assert {row["runs"] for name, row in full.items() if name not in three} == {1}


def test_ten_seeds_make_the_interval_as_much_narrower_as_stage_06_says(committed: Page) -> None:
    _, text, printed = committed("06_mlp")
    three, ten = (stats.t.ppf(0.975, n - 1) / n**0.5 for n in (3, 10))
    assert (round(three, 2), f"{2.26 / 10**0.5:.2f}", round(three / ten, 1)) == (2.48, "0.71", 3.5)
    assert "ten seeds instead of three make an interval 3.5 times narrower" in text
    assert "   3 runs: t = 4.30" in printed
    assert "  10 runs: t = 2.26" in printed


def test_the_table_of_methods_has_a_dash_where_fc_does_nothing() -> None:
    notebook = nbformat.read(notebooks.find("06"), as_version=4)
    (table,) = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "CH3-L3p, highest" in output.get("data", {}).get("text/html", "")
    ]
    (row,) = re.findall(r"<th>fc</th>(.*?)</tr>", table, re.DOTALL)
    assert re.findall("<td>(.*?)</td>", row) == ["all links", "–", "–", "all links", "none"]


def test_stage_06_names_each_method_with_its_paper(committed: Page) -> None:
    _, text, _ = committed("06_mlp")
    for name, number in (
        ("SET", "1707.04780"),
        ("RigL", "1911.11134"),
        ("GMP", "1710.01878"),
        ("GraNet", "2106.10404"),
    ):
        first = text.index(f"**{name}**")
        assert f"https://arxiv.org/abs/{number}" in text[first : first + 250]
    assert text.index("**MEST**, *memory-economic") < text.index("https://arxiv.org/abs/2110.14032")


def test_stage_06_says_which_share_its_column_anp_is(committed: Page) -> None:
    _, text, _ = committed("06_mlp")
    assert "`anp` is the share of the layer's output neurons that are active after the update" in text
    assert (
        "The paper's ANP is a different share: the number of neurons active after an update, divided by the number "
        "active before it"
    ) in text
