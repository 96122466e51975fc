"""Every figure that the READMEs and the notebooks state as a result is made anew from the records here."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch

import chts_core as chts
from chts_core.lab.results import paper, records, tables
from chts_core.lab.results.reproduction import best_test_epoch
from chts_core.lab.results.statistics import mean_and_interval
from chts_core.lab.results.tables import Row, differences, of_method, runs, score
from chts_core.methods import METHODS

ROOT = Path(__file__).parents[1]
README, RESULTS = "README.md", "results/README.md"
SPEED, RUNS = "docs/guides/speed.md", "docs/guides/runs.md"
TRAINED = "docs/guides/trained_model.md"
REPORT = "docs/guides/reproduction.md"
STAGE_06, STAGE_11 = "notebooks/06_mlp.py", "notebooks/11_paper_tables.py"
STAGE_08, STAGE_09 = "notebooks/08_translation_transformer.py", "notebooks/09_llama.py"
SPARSE = [method for method in METHODS if method != "fc"]
THREE = ["set", "rigl", "granet"]  # the sparse ones of the recorded language models


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
        for (compared, against), row in tables.benchmark(topic).items()
        if comparison in compared and (rival is None or rival == against)
    ]
    assert len(rows) == 1
    return rows[0]


FASHION = [row for row in runs("mlp_paper") if row["dataset"] == "fashion_mnist"]
OF_THE_PAPER = {method: accuracy for method, (accuracy, _) in paper.PAPER_MLP["fashion_mnist"].items()}
CHTS, CHTS_L3P, CHTSS = "chts/paper_mlp_fashion", "chts/paper_mlp_fashion_l3p", "chtss/paper_mlp_fashion"
CIFAR10 = [row for row in runs("mlp_paper") if row["dataset"] == "cifar10"]
(UNSHIFTED,) = runs("cifar10_unshifted")
LONG_CHT = "cht/paper_mlp with turnover=Turnover(zeta=Cosine(0.3))"
# A dense network with as many weights as the paper's MLP at 99 %.
NARROW = [row for row in runs("small_dense") if row["recipe"]["hidden"] == 81]
DIGITS = [row for row in runs("images") if row["dataset"] == "digits"]
MULTI30K = [row for row in runs("translation") if row["dataset"] == "multi30k"]
NUMBER_WORDS = [row for row in runs("translation") if row["dataset"] == "number_words"]
TRAINED_MODELS = records.read_lines(records.results_folder() / "trained_models.jsonl")


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


def best_on_fashion(method: str, *seeds: int) -> float:
    """The mean accuracy of the best epoch, with all recorded seeds or with these."""
    rows = of_method(FASHION, method)
    return fmean(best_test_epoch(row) for row in rows if row["seed"] in (seeds or (row["seed"],)))


def best_on_cifar10(method: str) -> float:
    (row,) = of_method(CIFAR10, method)
    return best_test_epoch(row)


def lead_on_cifar10(rival: str) -> list[float]:
    """How far CHTs is ahead of a rival in the best epoch, here and in the paper."""
    reported = {method: accuracy for method, (accuracy, _) in paper.PAPER_MLP["cifar10"].items()}
    chts = "chts/paper_mlp"
    return [best_on_cifar10(chts) - best_on_cifar10(rival), reported[chts] - reported[rival]]


def active_on_fashion(method: str, seed: int) -> float:
    (row,) = [row for row in of_method(FASHION, method) if row["seed"] == seed]
    return float(100 * row["active_neurons_published"])


def ablated(variant: str) -> tuple[float, float]:
    groups = tables.ablation_groups()
    return mean_and_interval(differences(groups[variant], groups[tables.as_it_is(variant)]))


def small_dense_ahead(rival: str, sparsity: float) -> tuple[float, float]:
    """Of a sparse method on digits."""
    return mean_and_interval(differences(tables.small_dense(sparsity), of_method(DIGITS, rival, sparsity)))


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


def starts(model: str, method: str, start: str, rival: str) -> tuple[float, float]:
    """Mean and interval of the accuracy after fine-tuning from a start minus the one from another start, in points."""
    mine, theirs = (
        {
            row["seed"]: 100 * row["accuracy"]["tuned"]
            for row in TRAINED_MODELS
            if (row["model"], row["method"], row["start"]) == (model, method, name)
        }
        for name in (start, rival)
    )
    assert mine.keys() == theirs.keys() == {0, 1, 2}
    return mean_and_interval([mine[seed] - theirs[seed] for seed in mine])


def seconds(method: str, sparsity: float | None = None) -> float:
    """Of a run on Multi30k, the median."""
    return median(row["seconds"] for row in of_method(MULTI30K, method, sparsity))


def test_stage_06_says_when_it_pays_to_store_only_the_links() -> None:
    found = re.search(
        r"1568 × 1568 processes 256 samples (\d+) times as fast .* With 5 % of the links, the layer is (\d+) times",
        text(STAGE_06),
    )
    assert found is not None
    one, five, thirty = (
        bench("layer", f"1568×1568, 256 samples, {share}% on cpu", "nn.Linear")["times_faster"] for share in (1, 5, 30)
    )
    assert (int(found[1]), int(found[2])) == (round(one), round(five))
    assert thirty < 1


# --- what the texts say: file, words with {} for each figure, the figures ---

CLAIMS: list[tuple[str, str, Callable[[], list[float]]]] = [
    (
        SPEED,
        "Each of the first seven widgets of the notebooks takes {:.0f} to {:.0f} ms to redraw.",
        lambda: [1000 * pick(row["seconds"] for row in tables.benchmark("widgets").values()) for pick in (min, max)],
    ),
    (
        SPEED,
        "only the links | {:.1f} | FC of the same size: {:.1f} s | {:.1f}× |",
        lambda: [bench("epoch", "links alone")[name] for name in ("seconds", "rival_seconds", "times_faster")],
    ),
    (
        SPEED,
        "the same epoch with masks | {:.1f} | | {:.1f}× |",
        lambda: [bench("epoch", "masked")[name] for name in ("seconds", "times_faster")],
    ),
    (
        SPEED,
        "only the links, one core ([records](../../results)) | {:.0f} | FC of the same size: {:.0f} s | {:.1f}× |",
        lambda: [seconds("set", 0.9), seconds("fc"), seconds("fc") / seconds("set", 0.9)],
    ),
    (
        SPEED,
        "5 % / 30 % | {:.1f} / {:.1f} | NumPy loop over neurons: {:.0f} / {:.0f} s | {:.0f}× / {:.0f}× |",
        lambda: [
            bench("topology", f"all 168 receptive fields of LLaMA-1B at {share}%")[name]
            for name in ("seconds", "rival_seconds", "times_faster")
            for share in (5, 30)
        ],
    ),
    (
        SPEED,
        "70 % / 95 % | {:.3f} / {:.3f} | a training step on 1024 tokens: {:.1f} / {:.1f} s | "
        "{:.1f} % / {:.1f} % of a step",
        lambda: [
            factor * bench("llama", f"masks and updates, LLaMA-60M at {share}%")[name]
            for name, factor in (("seconds", 1), ("rival_seconds", 1), ("share", 100))
            for share in (70, 95)
        ],
    ),
    (
        SPEED,
        "take {:.1f} MB instead of FC's {:.0f} MB ({:.1f} %). The record of all links that ever existed takes another "
        "{:.1f} MB. The last weights of removed links take additional memory. A plan counts this memory too. An "
        "update of this MLP takes {:.2f} s. An update of LLaMA-60M takes {:.1f} s and {:.0f} MB of additional memory "
        "at 70 % sparsity, and {:.1f} s and {:.0f} MB at 95 %",
        lambda: [
            bench("epoch", "links alone")["state_bytes"] / 1e6,
            bench("epoch", "links alone")["rival_state_bytes"] / 1e6,
            100 * bench("epoch", "links alone")["state_share"],
            bench("epoch", "links alone")["mask_bytes"] / 1e6,
            bench("epoch", "links alone")["update_seconds"],
            *(
                bench("llama", f"one update, LLaMA-60M at {share}%")[key] / unit
                for share in (70, 95)
                for key, unit in (("seconds", 1), ("peak_bytes", 1e6))
            ),
        ],
    ),
    (
        TRAINED,
        "by {:.2f} ± {:.2f} points in the MLP and by {:.2f} ± {:.2f} points in the convolutional network.",
        lambda: [
            abs(value) for model in ("MLP", "convolutional") for value in starts(model, "chts", "method", "dense")
        ],
    ),
    (
        RESULTS,
        "ahead of SET, by {:.2f} ± {:.2f} points at 95 % and {:.2f} ± {:.2f} at 97 %",
        lambda: [value for share in (0.95, 0.97) for value in small_dense_ahead("set", share)],
    ),
    (
        RESULTS,
        "random regrowth is ahead of CH2-L3n, by {:.2f} ± {:.2f} points",
        lambda: [*ablated("chts with regrowth=Regrowth('random', history=True)")],
    ),
    (
        RESULTS,
        "all sparse methods are behind FC, by {:.1f} to {:.1f} points",
        lambda: [-pick(gap(DIGITS, m, "fc", s, score)[0] for m in SPARSE for s in (0.95, 0.97)) for pick in (max, min)],
    ),
    (
        RESULTS,
        "With a rate of 0.04, the loss was lower by {:.2f} to {:.2f} nats for CHTs and SET",
        lambda: sorted(rate(method, 0.02) - rate(method, 0.04) for method in ("chts/ri_zeros", "set")),
    ),
    (
        RESULTS,
        "CHTs would have been ahead of FC by {:.2f} nats",
        lambda: [first_weights("fc", 0.02) - first_weights("chts/ri_zeros", 0.02)],
    ),
    (
        STAGE_08,
        "The other means are {:.1f} to {:.1f} points lower at 90 % sparsity, and {:.1f} to {:.1f} points lower at 95 %",
        lambda: [
            -pick(gap(NUMBER_WORDS, method, "fc", share, exact)[0] for method in SPARSE)
            for share in (0.9, 0.95)
            for pick in (max, min)
        ],
    ),
    (
        STAGE_08,
        "CHTss is ahead of CHTs at 90 %**, by {:.1f} ± {:.1f} points",
        lambda: [*gap(NUMBER_WORDS, "chtss", "chts", 0.9, exact)],
    ),
    (
        RESULTS,
        "relative importance is {:.1f} BLEU behind magnitude (Table 12)",
        lambda: [30.35 - 27.86],  # as the paper prints them
    ),
    (
        RESULTS,
        "the variant whose new links start from zero, by {:.2f} ± {:.2f} points, and the variant that also removes "
        "links by relative importance, by {:.2f} ± {:.2f} points",
        lambda: [
            figure
            for variant in ("chts/zeros", "chts/ri_zeros")
            for figure in gap([*runs("number_words"), *NUMBER_WORDS], variant, "chts", 0.95, exact)
        ],
    ),
    (
        STAGE_08,
        "CHTss is ahead of FC by {:.1f} BLEU with 10 % of the links and by {:.1f} BLEU with 5 %",
        lambda: [paper_bleu("chtss", share) + 1e-9 for share in (0.9, 0.95)],
    ),
    (
        STAGE_08,
        "It loses {:.1f} BLEU in the paper and {:.1f} ± {:.1f} here. Here the validation loss",
        lambda: [-paper_bleu("set", 0.95), *(abs(value) for value in gap(MULTI30K, "set", "fc", 0.95, bleu))],
    ),
    (
        STAGE_08,
        "SET loses {:.1f} BLEU in the paper and {:.1f} ± {:.1f} here",
        lambda: [-paper_bleu("set", 0.9) + 1e-9, *(abs(value) for value in gap(MULTI30K, "set", "fc", 0.9, bleu))],
    ),
    (
        STAGE_08,
        "Here CHTss is behind CHTs by {:.1f} ± {:.1f} BLEU with 5 % of the links, and its validation loss is higher by "
        "{:.2f} ± {:.2f}",
        lambda: [
            *(abs(value) for value in gap(MULTI30K, "chtss", "chts", 0.95, bleu)),
            *gap(MULTI30K, "chtss", "chts", 0.95, last_loss),
        ],
    ),
    (
        RESULTS,
        "In the last epoch, it is ahead of SET by {:.2f} ± {:.2f} points and ahead of RigL by {:.2f} ± {:.2f} points",
        lambda: [value for rival in ("set", "rigl") for value in gap(FASHION, CHTS, rival, 0.99, tables.score)],
    ),
    (
        RESULTS,
        "the mean of the best epoch is {:.2f} % here and {:.2f} % in the paper",
        lambda: [
            best_on_fashion(CHTS),
            OF_THE_PAPER[CHTS],
        ],
    ),
    (
        RESULTS,
        "FC is ahead of the mean of CHTs by {:.2f} points in the best epoch. "
        "In the paper, it is ahead by {:.2f} points.",
        lambda: [
            best_on_fashion("fc") - best_on_fashion(CHTS),
            OF_THE_PAPER["fc"] - OF_THE_PAPER[CHTS],
        ],
    ),
    (
        RESULTS,
        "It stays {:.2f} points below the paper's accuracy",
        lambda: [OF_THE_PAPER[CHTS_L3P] - best_on_fashion(CHTS_L3P)],
    ),
    (
        RESULTS,
        "with this command (seed 0) stays {:.2f} points below our run of CHTs with CH2-L3n and the same seed",
        lambda: [best_on_fashion(CHTS, 0) - best_on_fashion("chts/r1_readme", 0)],
    ),
    *(
        (
            page,
            sentence,
            lambda: lead_on_cifar10("set"),
        )
        for page, sentence in (
            (
                RESULTS,
                "is ahead of SET by {:.2f} points in the best epoch. In the paper, the difference is {:.2f} points.",
            ),
            (REPORT, "CHTs is ahead of SET by {:.2f} points in the best epoch, and by {:.2f} points in the paper."),
            (README, "one run of CHTs is ahead of one run of SET by {:.1f} points, and by {:.1f} points in the paper"),
            (STAGE_11, "is ahead of SET by {:.2f} points. In the paper, the difference is {:.2f} points."),
        )
    ),
    *(
        (
            page,
            sentence,
            lambda: lead_on_cifar10("rigl"),
        )
        for page, sentence in (
            (RESULTS, "is {:.2f} points behind CHTs, and {:.2f} points behind it in the paper"),
            (REPORT, "RigL is {:.2f} points behind CHTs, and {:.2f} points in the paper"),
        )
    ),
    (
        RESULTS,
        "GraNet is {:.2f} points above the paper's accuracy",
        lambda: [best_on_fashion("granet") - OF_THE_PAPER["granet"]],
    ),
    (
        RESULTS,
        "a run of CHTs with the same seed reached only {:.2f} % in its best epoch, {:.2f} points less",
        lambda: [best_test_epoch(UNSHIFTED), best_on_cifar10("chts/paper_mlp") - best_test_epoch(UNSHIFTED)],
    ),
    (
        REPORT,
        "Without shifted and mirrored images, CHTs loses {:.2f} points",
        lambda: [best_on_cifar10("chts/paper_mlp") - best_test_epoch(UNSHIFTED)],
    ),
    (
        RESULTS,
        "lowers the accuracy of the last epoch by {:.2f} ± {:.2f} points (three seeds) and leaves only {:.0f} % of the "
        "neurons active",
        lambda: [
            *gap(FASHION, CHTS, "chts/paper_mlp", 0.99, tables.score),
            fmean(100 * row["active_neurons_published"] for row in of_method(FASHION, "chts/paper_mlp")),
        ],
    ),
    *(
        (
            page,
            sentence,
            lambda: [best_on_fashion("cht/paper_mlp") - OF_THE_PAPER["cht/paper_mlp"]],
        )
        for page, sentence in (
            (RESULTS, "Its mean is {:.2f} points above the paper's accuracy"),
            (REPORT, "has three seeds and is {:.2f} points above the paper."),
        )
    ),
    (
        RESULTS,
        "(seed 0) has a best epoch of {:.2f} %, near the paper's {:.2f} %, and leaves {:.0f} % of the neurons active "
        "instead of {:.0f} %",
        lambda: [
            best_on_fashion(LONG_CHT),
            OF_THE_PAPER["cht/paper_mlp"],
            *(active_on_fashion(method, 0) for method in (LONG_CHT, "cht/paper_mlp")),
        ],
    ),
    (
        REPORT,
        "one run has a best epoch of {:.2f} %, near the paper's {:.2f} %",
        lambda: [best_on_fashion(LONG_CHT), OF_THE_PAPER["cht/paper_mlp"]],
    ),
    (
        RESULTS,
        "It stays {:.2f} points below the paper's accuracy, and {:.2f} points below our run of CHTs with the same "
        "seed. In the paper, CHTss is ahead of CHTs by {:.2f} points. All neurons of our CHTss stay active, but only "
        "{:.0f} % in the paper",
        lambda: [
            OF_THE_PAPER[CHTSS] - best_on_fashion(CHTSS, 0),
            best_on_fashion(CHTS, 0) - best_on_fashion(CHTSS, 0),
            OF_THE_PAPER[CHTSS] - OF_THE_PAPER[CHTS],
            paper.PAPER_MLP["fashion_mnist"][CHTSS][1] or 0,
        ],
    ),
    (
        REPORT,
        "is {:.2f} points below the paper and behind CHTs, with one seed. All its neurons stay active, but only "
        "{:.0f} % in the paper",
        lambda: [
            OF_THE_PAPER[CHTSS] - best_on_fashion(CHTSS, 0),
            paper.PAPER_MLP["fashion_mnist"][CHTSS][1] or 0,
        ],
    ),
    *(
        (
            page,
            sentence,
            lambda: [
                abs(value)
                for method in (CHTS, "set")
                for value in mean_and_interval(differences(of_method(FASHION, method), NARROW))
            ],
        )
        for page, sentence in (
            (
                RESULTS,
                "CHTs is ahead of the network with 81 units by {:.2f} ± {:.2f} points, and SET is behind it by "
                "{:.2f} ± {:.2f} points",
            ),
            (
                REPORT,
                "CHTs is ahead of the network with 81 units by {:.2f} ± {:.2f} points (95 % confidence interval), and "
                "SET is behind it by {:.2f} ± {:.2f} points",
            ),
        )
    ),
    (
        RESULTS,
        "In the paper, CHTss is ahead of CHTs by {:.1f} BLEU at both sparsities",
        lambda: [paper_bleu("chtss", 0.95) - paper_bleu("chts", 0.95)],
    ),
    (
        STAGE_08,
        "Here CHTs is ahead of SET by {:.1f} ± {:.1f} BLEU",
        lambda: list(gap(MULTI30K, "chts", "set", 0.95, bleu)),
    ),
    (
        STAGE_09,
        "FC reached a loss of {:.2f} nats, and the sparse network reached {:.2f}. With $\\sigma = 1$ in the embedding "
        "and $\\sigma = 1/\\sqrt n$ elsewhere, FC reached {:.2f} and the sparse network reached {:.2f}",
        lambda: [first_weights(method, deviation) for deviation in (0.02, None) for method in ("fc", "chts/ri_zeros")],
    ),
    (
        STAGE_09,
        "RigL and GraNet are {:.2f} to {:.2f} nats behind FC",
        lambda: sorted(mean for mean, _ in gaps("tiny", 0.7, "fc", ["rigl", "granet"]))[::3],
    ),
    (
        STAGE_09,
        "three sparse methods are behind FC**, by {:.2f} to {:.2f} nats at 90 % and by {:.2f} to {:.2f} nats at 95 %",
        lambda: [
            pick(mean for mean, _ in gaps("tiny", share, "fc", THREE)) for share in (0.9, 0.95) for pick in (min, max)
        ],
    ),
    (
        STAGE_09,
        "RigL is behind SET at 70 %**, by {:.2f} to {:.2f} nats",
        lambda: sorted(mean for mean, _ in gaps("tiny", 0.7, "set", ["rigl"])),
    ),
    (
        STAGE_09,
        "At 90 %, the mean losses of all three sparse methods are below FC's**, by {:.2f} to {:.2f} nats",
        lambda: [-pick(mean for mean, _ in gaps("small", 0.9, "fc", THREE)) for pick in (max, min)],
    ),
    (
        STAGE_09,
        "ahead of FC, by {:.2f} to {:.2f} nats",
        lambda: sorted(-mean for mean, _ in gaps("small", 0.7, "fc", ["rigl"])),
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


def test_what_results_say_of_the_digits() -> None:
    against = {
        rival: {(m, s): gap(DIGITS, m, rival, s, score) for m in SPARSE if m != rival for s in (0.9, 0.95, 0.97)}
        for rival in ("set", "fc")
    }
    assert [key for key, value in against["set"].items() if not includes_zero(value)] == [("gmp", 0.97)]
    behind = {key for key, value in against["fc"].items() if not includes_zero(value)}
    assert behind >= {(m, s) for m in SPARSE for s in (0.95, 0.97)}
    assert sorted(m for m, s in behind if s == 0.9) == ["chtss", "gmp", "granet", "set"]
    assert all(-1.4 < mean < 0 for mean, _ in against["fc"].values())
    better = {(m, s) for m in SPARSE for s in (0.9, 0.95, 0.97) if small_dense_ahead(m, s)[0] < 0}
    assert better == {("gmp", 0.97)}


def test_what_results_say_of_the_links_that_can_be_predicted_on_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for sparsity in (0.9, 0.95, 0.97, 0.99):
        mask = chts.topology.receptive_field(256, 64, 1 - sparsity, generator=generator)
        sizes = torch.rand(mask.shape, generator=generator) * mask
        kept = chts.sampling.keep(sizes, mask, round(0.7 * int(mask.sum())), soft=False, generator=generator)
        shares.append(float((chts.link_prediction.ch2_l3n(kept)[~kept] > 0).double().mean()))
    assert shares == pytest.approx([1 / 2, 1 / 6, 0.04, 0], abs=0.015)


def test_what_results_say_of_the_ablations() -> None:
    groups = tables.ablation_groups()
    variants = [name for name in groups if name != tables.as_it_is(name)]
    assert len(variants) == 24
    found = {name: ablated(name) for name in variants}
    assert {name: mean > 0 for name, (mean, interval) in found.items() if abs(mean) > interval} == {
        "chts with regrowth=Regrowth('random', history=True)": True,
        "chts with topology=ReceptiveField(r=0.1)": False,
        "chts with topology=ReceptiveField(r=0.25, degree='uniform')": False,
        "chts/paper_mlp": False,
        "chts/paper_mlp_fashion": False,
    }
    assert min(found, key=lambda name: found[name][0]) == "chts/paper_mlp"
    active = {name: fmean(row["active_neurons"] for row in rows) for name, rows in groups.items()}
    assert min(active, key=active.__getitem__) == "chts/paper_mlp"


def test_what_results_say_of_updates_of_a_small_language_model() -> None:
    def of(method: str, steps: int) -> list[Row]:
        return [row for row in of_method(runs("llama_warmup"), method) if row["recipe"]["iterative_warmup"] == steps]

    fast, slow = "chts", "chts/paper_llama"
    pairs = [((m, 2), (m, 0)) for m in (fast, slow)] + [((slow, steps), (fast, steps)) for steps in (0, 2)]
    for one, other in pairs:
        found = mean_and_interval(differences(of(*one), of(*other), last_loss))
        assert includes_zero(found)
        assert abs(found[0]) < 0.01


def test_what_results_say_of_the_loss_around_updates() -> None:
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in runs("update_warmup"):
        recipe = row["recipe"]
        groups.setdefault((row["method"], recipe["iterative_warmup"], recipe["link_warmup"]), []).append(row)
    assert {key: len(rows) for key, rows in groups.items()} == {
        (method, *warmup): 3 for method in ("chts", "chts/paper_llama") for warmup in ((0, 0), (2, 0), (0, 2))
    }
    for rows in groups.values():
        rise, fall = (fmean(tables.jump(row, until) for row in rows) for until in ("after", "next"))
        assert 0 < rise < 0.004
        assert -fall >= 3 * rise
    scores = {
        "after": lambda row: tables.jump(row, "after"),
        "next": lambda row: tables.jump(row, "next"),
        "end": last_loss,
    }
    told = {}
    for (method, *warmup), rows in groups.items():
        for when, of in scores.items():
            found = mean_and_interval(differences(rows, groups[method, 0, 0], of))
            if any(warmup) and not includes_zero(found):
                told[method, *warmup, when] = round(found[0], 3)
    assert told == {("chts", 0, 2, "next"): 0.004}


def test_what_stage_08_says_of_number_words() -> None:
    means = {method: fmean(map(exact, of_method(NUMBER_WORDS, method, 0.95))) for method in SPARSE}
    assert fmean(map(exact, of_method(NUMBER_WORDS, "fc"))) > max(means.values())
    assert set(sorted(means, key=means.__getitem__)[-4:]) == {"granet", "gmp", "mest", "chtss"}
    behind = {m for m in SPARSE if not includes_zero(gap(NUMBER_WORDS, m, "fc", 0.95, exact))}
    assert behind == {"set", "rigl", "cht", "chts"}
    against = {(m, s): gap(NUMBER_WORDS, m, "chts", s, exact) for m in SPARSE if m != "chts" for s in (0.9, 0.95)}
    assert [place for place, found in against.items() if not includes_zero(found)] == [("chtss", 0.9)]


def test_what_results_say_of_removal_and_weights_on_number_words() -> None:
    rows = [*runs("number_words"), *NUMBER_WORDS]
    variants = {row["method"] for row in runs("number_words")}
    assert len(variants - {"chts"}) == 3
    assert {row["seed"] for row in rows if row["method"] in variants} == set(range(10))
    found = {
        (variant, share, of): gap(rows, variant, "chts", share, of)
        for variant in variants - {"chts"}
        for share in (0.9, 0.95)
        for of in (last_loss, exact)
    }
    assert len(found) == 12
    told = {place: gained for place, gained in found.items() if not includes_zero(gained)}
    assert {place: tuple(round(number, 2) for number in gained) for place, gained in told.items()} == {
        ("chts/zeros", 0.95, exact): (0.90, 0.60),
        ("chts/ri_zeros", 0.95, exact): (0.88, 0.82),
    }


def test_what_stage_08_says_of_multi30k() -> None:
    for share in (0.9, 0.95):
        for method in ("set", "chts", "chtss"):
            assert includes_zero(gap(MULTI30K, method, "fc", share, bleu))
        for method in ("chts", "chtss"):
            assert gap(MULTI30K, method, "set", share, last_loss)[0] < 0
            assert not includes_zero(gap(MULTI30K, method, "set", share, last_loss))
            assert includes_zero(gap(MULTI30K, method, "set", share, bleu)) == (share == 0.9)
        table = paper.PAPER_TABLE_1["multi30k"]
        assert round(table["chtss"][share][0] - table["chts"][share][0] + 1e-9, 1) == 3.1
        assert includes_zero(gap(MULTI30K, "chtss", "chts", share, bleu))
        # Wider than what CHTss gains on FC in the paper.
        assert gap(MULTI30K, "chtss", "fc", share, bleu)[1] > table["chtss"][share][0] - table["fc"][0.0][0]
    assert abs(table["chts"][0.95][0] - table["set"][0.95][0]) < 0.1
    assert includes_zero(gap(MULTI30K, "chtss", "chts", 0.9, last_loss))
    mean, interval = gap(MULTI30K, "chts", "fc", 0.9, last_loss)
    assert mean < -interval
    mean, interval = gap(MULTI30K, "set", "fc", 0.95, last_loss)
    assert mean > interval


def test_what_the_guide_says_of_trained_models() -> None:
    models, methods = ("MLP", "convolutional"), ("gmp", "chtss", "chts")
    for model in models:
        for method in methods:
            assert includes_zero(starts(model, method, "magnitude", "dense"))
            for rival in ("magnitude", "dense"):
                found = starts(model, method, "method", rival)
                assert includes_zero(found) == (method != "chts")
                assert found[0] < 0 or method != "chts"
    lost: dict[tuple[str, str, str], list[float]] = {}
    for row in TRAINED_MODELS:
        scores = row["accuracy"]
        lost.setdefault((row["model"], row["method"], row["start"]), []).append(scores["before"] - scores["attached"])
    means = {place: 100 * fmean(found) for place, found in lost.items()}
    for model, many in zip(models, (3, 20), strict=True):
        for method in ("gmp", "chtss"):
            assert means[model, method, "magnitude"] < 1.5
            assert means[model, method, "method"] > many
        assert means[model, "chts", "magnitude"] > 15
        assert all(means[model, method, "dense"] == 0 for method in methods)


def test_what_stage_09_says_of_its_records() -> None:
    assert {row["method"] for row in runs("language")} == {"fc", *THREE}
    assert all(map(includes_zero, gaps("tiny", 0.7, "fc", ["set"])))
    for share in (0.9, 0.95):
        assert not any(map(includes_zero, gaps("tiny", share, "fc", THREE)))
    assert all(map(includes_zero, gaps("tiny", 0.95, "set", ["rigl"])))
    assert not any(map(includes_zero, gaps("small", 0.7, "fc", ["rigl"])))
    assert sum(map(includes_zero, gaps("small", 0.9, "fc", THREE))) < 3
    for dataset in ("tinyshakespeare", "books"):
        for share, best in ((0.7, "rigl"), (0.9, "set"), (0.95, "set")):
            means = {
                method: fmean(map(last_loss, of_method(language("small", dataset), method, share))) for method in THREE
            }
            assert min(means, key=means.__getitem__) == best
        means = {m: fmean(map(last_loss, of_method(language("tiny", dataset), m, 0.9))) for m in THREE}
        assert max(means, key=means.__getitem__) == "rigl"


def test_what_stage_11_says_of_ten_seeds() -> None:
    found = differences(of_method(DIGITS, "chts", 0.97), of_method(DIGITS, "set", 0.97))
    assert fmean(found) == pytest.approx(1 / 3, abs=0.05)
    assert [sum(sign(value) == wanted for value in found) for wanted in (1, 0, -1)] == [6, 2, 2]
    assert [round(value, 1) for value in found if value < 0] == [-0.6, -0.6]


def sign(value: float) -> int:
    return (value > 1e-9) - (value < -1e-9)


# --- tables ---


@pytest.mark.parametrize("file", [README, RESULTS, SPEED, RUNS, TRAINED, REPORT])
def test_tables_are_those_of_the_records(file: str) -> None:
    written = (ROOT / file).read_text("utf-8")
    assert tables.BLOCK.search(written)
    assert tables.filled(written) == written, f"run: python -m chts_core.lab.results.tables {file}"


def test_every_table_has_its_place() -> None:
    files = (README, RESULTS, SPEED, RUNS, TRAINED, REPORT)
    assert {name for file in files for name in tables.BLOCK.findall((ROOT / file).read_text("utf-8"))} == {
        *tables.TABLES
    }


# --- no figure without a record ---

# Figures that are no results: settings, versions, and what is said there to have been printed and not recorded.
NO_RESULTS = {
    README: ["arXiv 2501.19107", "Python 3.11"],
    SPEED: ["PyTorch 2.13"],
    TRAINED: [],
    REPORT: [],
    RESULTS: [
        "then 0.9 ",
        "then 0.95",
        "r = 0.1, with uniform",
        "a factor of 0.5 for FC",
        "a rate of 0.008 for FC and a rate of 0.02 for all sparse methods.",
        "usually have a standard deviation of 0.02",
        "With 0.02 everywhere",
        "a turnover ζ that starts at 0.1",
        "ζ from 0.1",
        "below 0.01 nats",
        # The bounds are checked in test_what_results_say_of_the_loss_around_updates.
        "less than 0.004 nats",
        "With ζ from 0.3",
        "by 0.004 nats",
    ],
}


def unproven(file: str) -> Iterator[str]:
    """Numbers with a decimal point that no claim above covers, each with the words around it."""
    found = tables.BLOCK.sub("", (ROOT / file).read_text("utf-8"))
    found = re.sub(r"but it did not\s+record them\..*?methods of revision 1", "", found, flags=re.DOTALL)
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


@pytest.mark.parametrize("file", [README, RESULTS, SPEED, TRAINED, REPORT])
def test_every_result_names_its_record(file: str) -> None:
    assert list(unproven(file)) == []


def test_a_figure_without_a_record_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = (ROOT / README).read_text("utf-8") + "\nAn epoch takes 0.7 s on our machine.\n"
    (tmp_path / README).write_text(words, "utf-8")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (found,) = unproven(README)
    assert found.endswith("An epoch takes 0.7 s on our machine.")


def test_the_difference_of_a_run_from_itself_is_nothing() -> None:
    rows: list[Any] = of_method(DIGITS, "set", 0.97)
    assert differences(rows, rows) == [0.0] * 10
    assert math.isclose(sum(differences(rows, rows[:5])), 0.0)
    assert len(differences(rows, rows[:5])) == 5


def test_without_the_sparse_products_both_steps_would_still_miss_their_aims() -> None:
    # What docs/guides/growth.md says below its table of shares.
    transformer = "Multi30k's Transformer at 95%, 1024 tokens"
    for name, step in (
        (transformer, f"step of CHTs, {transformer}, float32"),
        ("MLP 3×1568 at 99%, batch 32", "step of CHTs, MLP 3×1568 at 99 %, batch 32"),
    ):
        share = tables.benchmark("shares")[f"sparse products, {name}", "the whole step"]["share"]
        measured = tables.benchmark("step")[step, "FC"]
        assert measured["times_faster"] / (1 - share) < measured["aim"]
