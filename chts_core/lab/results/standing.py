"""Evidence for each main claim: the paper's result, our result, the verdict, and an experiment to settle the claim."""

import math
from collections.abc import Sequence
from typing import Any

from chts_core.lab.results import paper, tables
from chts_core.lab.results.statistics import mean_and_interval, seeds_needed

_HOW_SURE = {
    "holds": "ahead here: the interval is above 0",
    "does not hold": "behind here: the interval is below 0",
    "undecided": "open: the interval contains 0",
    "untested": "no runs here",
}
_TRANSLATOR = "a small translator of Multi30k, 95 %"
_DIGITS = "a small MLP on digits, 95 %"
_OF_FASHION = "chts/paper_mlp_fashion"
_FASHION = "the paper's MLP on Fashion-MNIST, 99 %"


def standing() -> list[dict[str, Any]]:
    """One row for each main claim. All numbers come from the paper's tables and from recorded runs.

    The keys of a row are claim, paper (the paper's result), where (the model, task and sparsity of our runs), unit,
    advantage (the mean over seeds), interval (the half-width of the mean's 95 % confidence interval), seeds, needed
    (how many seeds would be enough to show an advantage of this size), verdict, how_sure and settle (an experiment that
    would settle the claim). Without runs, advantage, interval and needed are None.
    """
    return [*_between_methods(), *_between_choices(), *_between_networks()]


def _on_fashion(file: str, method: str) -> list[tables.Row]:
    return [row for row in tables.of_method(tables.runs(file), method) if row["dataset"] == "fashion_mnist"]


def _between_methods() -> list[dict[str, Any]]:
    bleu, iwslt, perplexity = (
        paper.PAPER_TABLE_1["multi30k"],
        paper.PAPER_TABLE_1["iwslt14"],
        paper.PAPER_TABLE_2["60m"],
    )
    translators = [row for row in tables.runs("translation") if row["dataset"] == "multi30k"]
    language = [
        row for row in tables.runs("language") if (row["dataset"], row["recipe"]["size"]) == ("tinyshakespeare", "tiny")
    ]
    updated = [row for row in tables.runs("llama_warmup") if row["recipe"]["iterative_warmup"] == 0]
    chts, chtss = (tables.of_method(translators, method, 0.95) for method in ("chts", "chtss"))
    lower_loss = tables.differences(
        tables.of_method(language, "set", 0.9), tables.of_method(updated, "chts"), tables.last_loss
    )
    nats = math.log(perplexity["set"][0.9] / perplexity["chts"][0.9])
    accuracies = {method: accuracy for method, (accuracy, _) in paper.PAPER_MLP["fashion_mnist"].items()}
    return [
        _row(
            "CHTs is ahead of SET in an MLP",
            f"{accuracies[_OF_FASHION] - accuracies['set']:+.2f} points on Fashion-MNIST at 99 % (MLP table)",
            "ten seeds, and CIFAR10, where the paper's difference is seven points",
            (_FASHION, "points"),
            tables.differences(_on_fashion("mlp_paper", _OF_FASHION), _on_fashion("mlp_paper", "set")),
        ),
        _row(
            "CHTs is ahead of SET in translation",
            f"{bleu['chts'][0.95][0] - bleu['set'][0.95][0]:+.2f} BLEU on Multi30k and "
            f"{iwslt['chts'][0.95][0] - iwslt['set'][0.95][0]:+.2f} on IWSLT14, at 95 % (Table 1)",
            "the paper's Transformer, five seeds, and a second corpus",
            (_TRANSLATOR, "BLEU"),
            tables.differences(chts, tables.of_method(translators, "set", 0.95)),
        ),
        _row(
            "CHTs is ahead of SET in a language model",
            f"{nats:+.3f} nats with 60M weights at 90 % (Table 2)",
            "the 60M model with weights in float32, three seeds",
            ("a LLaMA of one million weights on Tiny Shakespeare, 90 %", "nats"),
            lower_loss,
        ),
        _row(
            "CHTss is ahead of FC in translation",
            f"{bleu['chtss'][0.95][0] - bleu['fc'][0.0][0]:+.2f} BLEU on Multi30k at 95 % (Table 1)",
            "the paper's Transformer, five seeds, with a learning rate that is tuned for FC too",
            (_TRANSLATOR, "BLEU"),
            tables.differences(chtss, tables.of_method(translators, "fc")),
        ),
    ]


def _between_choices() -> list[dict[str, Any]]:
    groups = tables.ablation_groups()
    soft = paper.PAPER_SOFT_SAMPLING

    def ahead_of(changed: str, base: str = "chts") -> list[float]:
        return tables.differences(groups[base], groups[f"{base} with {changed}"])

    words = [
        *tables.runs("number_words"),
        *(row for row in tables.runs("translation") if row["dataset"] == "number_words"),
    ]
    restored, zeros = (tables.of_method(words, method, 0.95) for method in ("chts", "chts/zeros"))
    return [
        _row(
            "soft regrowth is ahead of regrowth of the links with the highest scores",
            f"{soft['soft'] - soft['hard']:+.2f} BLEU for CHTss on Multi30k at 90 % (Table 11)",
            "a task with many links per neuron, so that the scores differ",
            (_DIGITS, "points"),
            ahead_of("regrowth=Regrowth('ch2_l3n', soft=False, history=True)"),
        ),
        _row(
            "link prediction is ahead of random regrowth",
            "the paper's tables have no row in which only this choice differs",
            "CHTs with random regrowth, at the paper's sizes",
            (_DIGITS, "points"),
            ahead_of("regrowth=Regrowth('random', history=True)"),
        ),
        _row(
            "receptive fields are ahead of random networks",
            "r is tuned for each cell of Table 2 (Tables 8 and 9)",
            "larger images, in which neighbouring inputs of a layer are related",
            (_DIGITS, "points"),
            ahead_of("topology=ErdosRenyi()"),
        ),
        _row(
            "regrowth with the last weight is ahead of regrowth from zero in translation",
            "the paper uses the last weight (Appendix J)",
            "a second corpus, and more seeds",
            ("a tiny translator of number words, 95 %", "BLEU"),
            tables.differences(restored, zeros),
        ),
        _row(
            "sigmoid decay is ahead of cubic decay at equal training FLOPs",
            "perplexities that differ by at most 0.16 (Table 13)",
            "a sweep over the length of the decay, with equal FLOPs",
            (_DIGITS, "points"),
            ahead_of("sparsity=Cubic(initial=0.5, end=0.75)", "chtss"),
        ),
    ]


def _between_networks() -> list[dict[str, Any]]:
    digits = [row for row in tables.runs("images") if row["dataset"] == "digits"]
    half, whole = paper.PAPER_TABLE_2["130m"]["rigl"], paper.PAPER_FLOAT32["rigl"]
    return [
        _row(
            "a sparse network is ahead of a dense network with as many weights, on digits",
            "the paper's tables have no such rival",
            "a task with more links per neuron",
            (_DIGITS, "points"),
            tables.differences(tables.of_method(digits, "chts", 0.95), tables.small_dense(0.95)),
        ),
        _row(
            "a sparse network is ahead of a dense network with as many weights, on Fashion-MNIST",
            "the paper's tables have no such rival",
            "ten seeds, and a narrow dense rival on every task of the paper",
            (_FASHION, "points"),
            # With 81 units per layer, a dense network has as many weights in all its layers.
            tables.differences(
                _on_fashion("mlp_paper", _OF_FASHION),
                [row for row in _on_fashion("small_dense", "fc") if row["recipe"]["hidden"] == 81],
            ),
        ),
        _row(
            "weights in bfloat16 make RigL fall behind",
            f"perplexity {half[0.7]:.2f} in bfloat16, {whole[0.7]:.2f} in float32 (130M, 70 %)",
            "the same run in both precisions, three seeds, on a GPU",
        ),
    ]


def _row(
    claim: str, reported: str, settle: str, of: tuple[str, str] = ("", ""), advantages: Sequence[float] = ()
) -> dict[str, Any]:
    mean, half = mean_and_interval(advantages) if advantages else (None, None)
    verdict = paper.verdict(mean, half)
    return {
        "claim": claim,
        "paper": reported,
        "where": of[0],
        "unit": of[1],
        "advantage": mean,
        "interval": half,
        "seeds": len(advantages),
        "needed": seeds_needed(advantages, abs(mean)) if mean else None,
        "verdict": verdict,
        "how_sure": _HOW_SURE[verdict],
        "settle": settle,
    }
