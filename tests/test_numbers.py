"""Every figure that the READMEs and the notebooks state as a result is made anew from the records here."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from chts_core.lab import evidence, paper
from chts_core.lab.evidence import Row, best_test_epoch, differences, of_method, runs, score
from chts_core.lab.statistics import mean_and_interval, standard_error
from chts_core.methods import METHODS

ROOT = Path(__file__).parents[1]
README, RESULTS = "README.md", "results/README.md"
STAGE_08, STAGE_09 = "notebooks/08_translation_transformer.py", "notebooks/09_llama.py"
SPARSE = [method for method in METHODS if method != "fc"]


def text(file: str) -> str:
    """Its words, with one blank between; of a notebook those of its Markdown."""
    found = (ROOT / file).read_text("utf-8")
    if file.endswith(".py"):
        found = re.sub(r"^#( |$)", "", found, flags=re.MULTILINE)
    return " ".join(found.split())


# --- what the records say ---


def bench(topic: str, comparison: str, rival: str | None = None) -> Row:
    """A recorded row of a benchmark; the only one that has these words."""
    rows = [
        row
        for (compared, against), row in evidence.benchmark(topic).items()
        if comparison in compared and (rival is None or rival == against)
    ]
    assert len(rows) == 1
    return rows[0]


FASHION = [row for row in runs("images") if row["dataset"] == "fashion_mnist"]
DIGITS = [row for row in runs("images") if row["dataset"] == "digits"]
MULTI30K = [row for row in runs("translation") if row["dataset"] == "multi30k"]
NUMBER_WORDS = [row for row in runs("translation") if row["dataset"] == "number_words"]


def language(size: str, dataset: str) -> list[Row]:
    """Recorded language models."""
    return [row for row in runs("language") if (row["recipe"]["size"], row["dataset"]) == (size, dataset)]


def exact(row: Row) -> float:
    return float(row["test"]["exact"])


def bleu(row: Row) -> float:
    return float(row["test"]["bleu"])


def last_loss(row: Row) -> float:
    return float(row["validation"][-1]["loss"])


def gap(rows: list[Row], method: str, rival: str, sparsity: float, of: Callable[[Row], float]) -> tuple[float, float]:
    """Mean and interval of a method minus a rival, at a sparsity."""
    theirs = of_method(rows, rival, None if rival == "fc" else sparsity)
    return mean_and_interval(differences(of_method(rows, method, sparsity), theirs, of))


def gaps(size: str, sparsity: float, rival: str, methods: list[str]) -> list[tuple[float, float]]:
    """Of language models, on both corpora."""
    return [
        gap(language(size, dataset), method, rival, sparsity, last_loss)
        for dataset in ("tinyshakespeare", "books")
        for method in methods
    ]


def paper_bleu(method: str, sparsity: float) -> float:
    """The paper's difference from FC on Multi30k."""
    table = paper.PAPER_TABLE_1["multi30k"]
    return table[method][sparsity][0] - table["fc"][0.0][0]


def from_the_paper(*methods: str) -> list[float]:
    return [
        fmean(map(best_test_epoch, of_method(FASHION, method))) - paper.PAPER_MLP["fashion_mnist"][method][0]
        for method in methods
    ]


def below_the_paper() -> list[float]:
    """The four variants of CHTs against the paper's with the same link predictor: the nearest and the farthest."""
    found = [
        paper.PAPER_MLP["fashion_mnist"][method][0] - fmean(map(best_test_epoch, of_method(FASHION, ours)))
        for method, removal in (("chts", "chts/paper_magnitude"), ("chts/paper_l3p", "chts/paper_l3p_magnitude"))
        for ours in (method, removal)
    ]
    return [min(found), max(found)]


def ablated(variant: str, dataset: str = "digits") -> tuple[float, float]:
    groups = evidence.ablation_groups(dataset)
    return mean_and_interval(differences(groups[variant], groups[evidence.as_it_is(variant, groups)]))


def behind(variant: str) -> list[float]:
    """How far a variant of CHTs on Fashion-MNIST is below CHTs, with the interval."""
    mean, interval = ablated(variant, "fashion_mnist")
    return [-mean, interval]


def rate(method: str, learning_rate: float) -> float:
    (row,) = (
        row
        for row in runs("language_rates")
        if row["method"] == method
        and (row["recipe"]["size"], row["recipe"]["learning_rate"], row["recipe"]["steps"])
        == ("tiny", learning_rate, 200)
    )
    return last_loss(row)


def first_weights(method: str, deviation: float | None) -> float:
    (row,) = (
        row
        for row in runs("language_rates")
        if (row["method"], row["recipe"]["deviation"], row["recipe"]["steps"]) == (method, deviation, 120)
    )
    return last_loss(row)


def seconds(method: str, sparsity: float | None = None) -> float:
    """Of a run on Multi30k, the median."""
    return median(row["seconds"] for row in of_method(MULTI30K, method, sparsity))


# --- what the texts say: file, words with {} for each figure, the figures ---

CLAIMS: list[tuple[str, str, Callable[[], list[float]]]] = [
    (
        README,
        "A redraw of the first seven takes {:.0f} to {:.0f} ms on 2 cores",
        lambda: [1000 * pick(row["seconds"] for row in evidence.benchmark("widgets").values()) for pick in (min, max)],
    ),
    (
        README,
        "links alone | {:.1f} | FC of the same size: {:.1f} s | {:.0f}× |",
        lambda: [bench("epoch", "links alone")[name] for name in ("seconds", "rival_seconds", "times_faster")],
    ),
    (
        README,
        "the same under masks | {:.1f} | | {:.1f}× |",
        lambda: [bench("epoch", "masked")[name] for name in ("seconds", "times_faster")],
    ),
    (
        README,
        "links alone, one core ([records](results)) | {:.0f} | FC of the same size: {:.0f} s | {:.1f}× |",
        lambda: [seconds("chts", 0.9), seconds("fc"), seconds("fc") / seconds("chts", 0.9)],
    ),
    (
        README,
        "5 % / 30 % | {:.1f} / {:.1f} | NumPy loop over neurons: {:.0f} / {:.0f} s | {:.0f}× / {:.0f}× |",
        lambda: [
            bench("topology", f"all 168 receptive fields of LLaMA-1B at {share}%")[name]
            for name in ("seconds", "rival_seconds", "times_faster")
            for share in (5, 30)
        ],
    ),
    (
        README,
        "70 % / 95 % | {:.3f} / {:.3f} | a training step on 1024 tokens: {:.1f} / {:.1f} s | {:.1f} % / {:.1f} % of it",
        lambda: [
            factor * bench("llama", f"masks and updates, LLaMA-60M at {share}%")[name]
            for name, factor in (("seconds", 1), ("rival_seconds", 1), ("share", 100))
            for share in (70, 95)
        ],
    ),
    (
        README,
        "take {:.1f} MB instead of FC's {:.0f} MB ({:.1f} %), and the memory of which links there ever were another "
        "{:.1f} MB. An update of it takes {:.2f} s, one of LLaMA-60M {:.1f} s at 70 % and {:.1f} s at 95 % sparsity, "
        "and {:.0f} MB of memory beyond the model's",
        lambda: [
            bench("epoch", "links alone")["state_bytes"] / 1e6,
            bench("epoch", "links alone")["rival_state_bytes"] / 1e6,
            100 * bench("epoch", "links alone")["state_share"],
            bench("epoch", "links alone")["mask_bytes"] / 1e6,
            bench("epoch", "links alone")["update_seconds"],
            bench("llama", "one update, LLaMA-60M at 70%")["seconds"],
            bench("llama", "one update, LLaMA-60M at 95%")["seconds"],
            bench("llama", "one update, LLaMA-60M at 70%")["peak_bytes"] / 1e6,
        ],
    ),
    (
        RESULTS,
        "which are lower, by up to {:.2f} (MEST)",
        lambda: [max(best_test_epoch(row) - 100 * row["test"]["chosen"] for row in FASHION if row["method"] == "mest")],
    ),
    (
        RESULTS,
        "CHTs is ahead of SET by {:.2f} ± {:.2f} points in the last epoch ({:.2f} ± {:.2f} by magnitude;",
        lambda: [
            *gap(FASHION, "chts", "set", 0.99, score),
            *gap(FASHION, "chts/paper_magnitude", "set", 0.99, score),
        ],
    ),
    (RESULTS, "are below the paper's two, by {:.1f} to {:.1f} points", below_the_paper),
    (
        RESULTS,
        "CHTss, by relative importance, is {:.2f} below, GMP {:.2f} below and GraNet {:.2f} above",
        lambda: [factor * from_the_paper(name)[0] for name, factor in (("chtss", -1), ("gmp", -1), ("granet", 1))],
    ),
    (
        RESULTS,
        "differs from SET by more than its interval (by {:.2f} ± {:.2f})",
        lambda: [*gap(DIGITS, "chts", "set", 0.95, score)],
    ),
    (
        RESULTS,
        "instead of drawing them costs {:.1f} points",
        lambda: [-ablated("chts with regrowth=Regrowth('ch2_l3n', soft=False)")[0]],
    ),
    (
        RESULTS,
        "ahead at equal training FLOPs, by {:.2f} ± {:.2f}",
        lambda: [*ablated("chtss with sparsity=Cubic(initial=0.5, end=0.75)")],
    ),
    (
        RESULTS,
        "taking the best-scored links costs {:.2f} ± {:.2f} points here",
        lambda: behind("chts with regrowth=Regrowth('ch2_l3n', soft=False)"),
    ),
    (
        RESULTS,
        "ahead of ER, by {:.2f} ± {:.2f}, and of nearest neighbours alone (r = 0), by {:.2f} ± {:.2f}",
        lambda: [
            *behind("chts with topology=ErdosRenyi()"),
            *behind("chts with topology=ReceptiveField(r=0.0)"),
        ],
    ),
    (
        RESULTS,
        "0.04 was lower by {:.2f} to {:.2f} for CHTs and SET",
        lambda: sorted(rate(method, 0.02) - rate(method, 0.04) for method in ("chts", "set")),
    ),
    (
        RESULTS,
        "CHTs would have been ahead of FC by {:.2f} nats",
        lambda: [first_weights("fc", 0.02) - first_weights("chts", 0.02)],
    ),
    (
        STAGE_08,
        "At 90 % sparsity these lie {:.1f} to {:.1f} points below it",
        lambda: [-pick(gap(NUMBER_WORDS, method, "fc", 0.9, exact)[0] for method in SPARSE) for pick in (max, min)],
    ),
    (
        STAGE_08,
        "SET, which regrows at random, is {:.1f} ± {:.1f} points ahead of it",
        lambda: [*gap(NUMBER_WORDS, "set", "chts", 0.95, exact)],
    ),
    (
        STAGE_08,
        "CHTss *beats* FC, by {:.1f} and {:.1f} BLEU at 90 and 95 %",
        lambda: [paper_bleu("chtss", share) + 1e-9 for share in (0.9, 0.95)],
    ),
    (
        STAGE_08,
        "There CHTs loses {:.1f} and {:.1f} BLEU against FC",
        lambda: [-paper_bleu("chts", share) for share in (0.9, 0.95)],
    ),
    (
        STAGE_09,
        "FC stood at {:.2f} nats and CHTs with a tenth of the links at {:.2f}; from 1 in the embedding and "
        "$1/\\sqrt n$ elsewhere, FC stood at {:.2f} and CHTs at {:.2f}",
        lambda: [first_weights(method, deviation) for deviation in (0.02, None) for method in ("fc", "chts")],
    ),
    (
        STAGE_09,
        "RigL and GraNet have the highest means, {:.2f} to {:.2f} nats behind FC",
        lambda: sorted(mean for mean, _ in gaps("tiny", 0.7, "fc", ["rigl", "granet"]))[::3],
    ),
    (
        STAGE_09,
        "all are behind FC**, by {:.2f} to {:.2f} and by {:.2f} to {:.2f}",
        lambda: [
            pick(mean for mean, _ in gaps("tiny", share, "fc", SPARSE)) for share in (0.9, 0.95) for pick in (min, max)
        ],
    ),
    (
        STAGE_09,
        "At 90 % all but GMP have means ahead of FC's**, by {:.2f} to {:.2f} nats",
        lambda: [
            -pick(mean for mean, _ in gaps("small", 0.9, "fc", [name for name in SPARSE if name != "gmp"]))
            for pick in (max, min)
        ],
    ),
    (
        STAGE_09,
        "At 70 % RigL, MEST and CHTss are ahead, by {:.2f} to {:.2f}",
        lambda: [-pick(mean for mean, _ in gaps("small", 0.7, "fc", ["rigl", "mest", "chtss"])) for pick in (max, min)],
    ),
    (
        STAGE_09,
        "its mean is behind in all six comparisons, by {:.2f} to {:.2f}",
        lambda: [
            pick(mean for share in (0.7, 0.9, 0.95) for mean, _ in gaps("small", share, "set", ["chts"]))
            for pick in (min, max)
        ],
    ),
]


@pytest.mark.parametrize(
    ("file", "words", "figures"), CLAIMS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_figure_in_the_text_is_that_of_the_records(file: str, words: str, figures: Callable[[], list[float]]) -> None:
    assert words.format(*figures()) in text(file)


# --- what the texts say without a figure ---


def includes_zero(found: tuple[float, float]) -> bool:
    mean, interval = found
    return abs(mean) <= interval


def test_what_results_say_of_fashion_mnist() -> None:
    assert max(map(abs, from_the_paper("rigl", "set", "cht"))) < 0.3
    assert fmean(map(score, of_method(FASHION, "chts/paper_magnitude"))) > fmean(map(score, of_method(FASHION, "rigl")))
    assert includes_zero(gap(FASHION, "chts", "rigl", 0.99, score))
    lower = {row["method"]: best_test_epoch(row) - 100 * row["test"]["chosen"] for row in FASHION}
    assert max(lower, key=lower.__getitem__) == "mest"


def test_what_results_say_of_the_digits() -> None:
    found = {(m, s): gap(DIGITS, m, "set", s, score) for m in SPARSE if m != "set" for s in (0.9, 0.95, 0.99)}
    assert [key for key, value in found.items() if key[1] < 0.99 and not includes_zero(value)] == [("chts", 0.95)]
    assert [key for key, value in found.items() if key[1] == 0.99 and includes_zero(value)] == [("chts", 0.99)]
    losses = {method: gap(DIGITS, method, "fc", 0.99, score)[0] for method in SPARSE}
    assert sorted(losses, key=losses.__getitem__)[-2:] == ["gmp", "granet"]
    assert all(abs(gap(DIGITS, m, "fc", s, score)[0]) < 1.2 for m in SPARSE for s in (0.9, 0.95))


def test_what_results_say_of_the_ablations() -> None:
    groups = evidence.ablation_groups("digits")
    variants = [name for name in groups if name != evidence.as_it_is(name, groups)]
    decided = {name for name in variants if not includes_zero(ablated(name))}
    assert decided == {
        "chts with topology=ScaleFree()",
        "chts with regrowth=Regrowth('ch2_l3n', soft=False)",
        "chtss with sparsity=Cubic(initial=0.5, end=0.75)",
        "chts, csti",
    }
    assert len(variants) == 21
    active = {name: fmean(row["active_neurons"] for row in rows) for name, rows in groups.items()}
    assert min(active, key=active.__getitem__) == "chts, csti"


def test_what_results_say_of_the_ablations_of_fashion_mnist() -> None:
    groups = evidence.ablation_groups("fashion_mnist")
    thrice = {name for name, rows in groups.items() if len(rows) == 3 and name != "chts"}
    assert {name for name in thrice if not includes_zero(ablated(name, "fashion_mnist"))} == {
        "chts with regrowth=Regrowth('ch2_l3n', soft=False)",
        "chts with topology=ErdosRenyi()",
        "chts with topology=ReceptiveField(r=0.0)",
    }
    once = {name: ablated(name, "fashion_mnist")[0] for name, rows in groups.items() if len(rows) == 1}
    level = once.pop("chts with removal=Removal('relative_importance', temperature=3.0, percolate=True)")
    assert abs(level) < 0.05
    assert {name: difference > 0 for name, difference in once.items()} == {
        "chts with regrowth=Regrowth('random')": False,
        "chts, csti": True,
        "chts with topology=ReceptiveField(r=0.25, degree='uniform')": True,
        "chts with removal=Removal('relative_importance', percolate=True)": True,
        "chts with removal=Removal('relative_importance', temperature=1.0, percolate=True)": True,
        "chts with removal=Removal('relative_importance', temperature=Ramp(1.0, 9.0), percolate=True)": True,
    }
    sigmoid, cubic = evidence.ablation_groups("fashion_mnist", "ablations_decay").values()
    assert {row["recipe"]["epochs"] for row in (*sigmoid, *cubic)} == {30}
    assert [difference > 0 for difference in evidence.differences(cubic, sigmoid)] == [True]


def test_what_stage_08_says_of_its_records() -> None:
    means = {method: fmean(map(exact, of_method(NUMBER_WORDS, method, 0.95))) for method in SPARSE}
    assert fmean(map(exact, of_method(NUMBER_WORDS, "fc"))) > max(means.values())
    assert min(means, key=means.__getitem__) == "chts"
    assert set(sorted(means, key=means.__getitem__)[-4:]) == {"granet", "gmp", "mest", "chtss"}
    behind = {m for m in SPARSE if not includes_zero(gap(NUMBER_WORDS, m, "fc", 0.95, exact))}
    assert behind == {"set", "rigl", "cht", "chts", "chtss"}
    assert sum(includes_zero(gap(NUMBER_WORDS, method, "fc", 0.9, exact)) for method in SPARSE) > 4
    for share in (0.9, 0.95):
        assert includes_zero(gap(MULTI30K, "chtss", "chts", share, bleu))
        mean, interval = gap(MULTI30K, "chts", "set", share, last_loss)
        assert mean + interval < 0
        assert includes_zero(gap(MULTI30K, "chts", "set", share, bleu))
        assert includes_zero(gap(MULTI30K, "chts", "fc", share, bleu))
        assert 2.9 < paper_bleu("chtss", share) - paper_bleu("chts", share) < 3.2
    assert gap(MULTI30K, "chts", "fc", 0.9, last_loss)[0] < 0


def test_what_stage_09_says_of_its_records() -> None:
    for share in (0.9, 0.95):
        assert not any(map(includes_zero, gaps("tiny", share, "fc", SPARSE)))
        for dataset in ("tinyshakespeare", "books"):
            rows = language("tiny", dataset)
            means = {method: fmean(map(last_loss, of_method(rows, method, share))) for method in SPARSE}
            assert min(means, key=means.__getitem__) in ("mest", "chtss")
    for share in (0.7, 0.9, 0.95):
        assert all(map(includes_zero, gaps("tiny", share, "set", ["chts"])))
    assert not any(map(includes_zero, gaps("small", 0.7, "fc", ["rigl", "mest", "chtss"])))
    assert all(mean > 0 for mean, _ in gaps("small", 0.9, "fc", ["gmp"]))
    six = [found for share in (0.7, 0.9, 0.95) for found in gaps("small", share, "set", ["chts"])]
    assert sum(map(includes_zero, six)) == 5
    for share, best in ((0.7, "mest"), (0.95, "set")):
        for dataset in ("tinyshakespeare", "books"):
            means = {
                method: fmean(map(last_loss, of_method(language("small", dataset), method, share))) for method in SPARSE
            }
            assert min(means, key=means.__getitem__) == best


def test_what_stage_11_says_of_ten_seeds() -> None:
    found = differences(of_method(DIGITS, "granet", 0.99), of_method(DIGITS, "chts", 0.99))
    assert round(fmean(found)) == 3
    assert 0 < min(found) < 1
    assert round(max(found)) == 9


def test_what_stage_11_says_of_fashion_mnist() -> None:
    for method in ("rigl", "set", "cht", "chts", "chts/paper_l3p"):
        ours = list(map(best_test_epoch, of_method(FASHION, method)))
        away = abs(fmean(ours) - paper.PAPER_MLP["fashion_mnist"][method][0]) / standard_error(ours)
        assert away > 20 if method.startswith("chts") else away < 2.01, method


# --- tables ---


@pytest.mark.parametrize("file", [README, RESULTS])
def test_tables_are_those_of_the_records(file: str) -> None:
    written = (ROOT / file).read_text("utf-8")
    assert evidence.BLOCK.search(written)
    assert evidence.filled(written) == written, f"run: python -m chts_core.lab.evidence {file}"


def test_every_table_has_its_place() -> None:
    placed = [name for file in (README, RESULTS) for name in evidence.BLOCK.findall((ROOT / file).read_text("utf-8"))]
    assert sorted(placed) == sorted(evidence.TABLES)


# --- no figure without a record ---

# Figures that are no results: settings, versions, and what is said there to have been printed and not recorded.
NO_RESULTS = {
    README: ["arXiv 2501.19107", "Python 3.11", "and 7.7.1", "PyTorch 2.13"],
    RESULTS: [
        "then 0.9 ",
        "then 0.95",
        "r = 0.25",
        "FC took 0.5",
        "FC took 0.008, all sparse methods 0.02:",
        "LLaMA's usual 0.02",
        "With 0.02 everywhere",
        "are within 0.3 points of the paper",  # in test_what_results_say_of_fashion_mnist
    ],
}


def unproven(file: str) -> Iterator[str]:
    """Numbers with a decimal point that no claim above covers, each with the words around it."""
    found = evidence.BLOCK.sub("", (ROOT / file).read_text("utf-8"))
    found = re.sub(r"They were printed, not\s+recorded;.*?Number words at 95 %", "", found, flags=re.DOTALL)
    for pattern in (r"```.*?```", r"`[^`]*`", r"(?<=\])\([^)]*\)"):
        found = re.sub(pattern, "", found, flags=re.DOTALL)
    found = " ".join(found.split())
    for place, words, figures in CLAIMS:
        if place == file:
            claim = re.sub(r"(?<=\])\([^)]*\)", "", words.format(*figures()))
            found = found.replace(claim, "")
    for words in NO_RESULTS[file]:
        found = found.replace(words, "")
    for number in re.finditer(r"\d+\.\d+", found):
        yield found[max(number.start() - 40, 0) : number.end() + 20]


@pytest.mark.parametrize("file", [README, RESULTS])
def test_every_result_names_its_record(file: str) -> None:
    assert list(unproven(file)) == []


def test_a_figure_without_a_record_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = (ROOT / README).read_text("utf-8") + "\nAn epoch takes 0.7 s on our machine.\n"
    (tmp_path / README).write_text(words, "utf-8")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (found,) = unproven(README)
    assert found.endswith("An epoch takes 0.7 s on our machine.")


def test_the_difference_of_a_run_from_itself_is_nothing() -> None:
    rows: list[Any] = of_method(DIGITS, "set", 0.99)
    assert differences(rows, rows) == [0.0] * 10
    assert math.isclose(sum(differences(rows, rows[:5])), 0.0)
    assert len(differences(rows, rows[:5])) == 5
