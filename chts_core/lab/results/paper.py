"""The paper's numbers, for comparison with ours, and the verdict of recorded runs on each of the paper's claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from chts_core.lab.results.statistics import mean_and_interval, standard_error

Row = Mapping[str, Any]

# BLEU in the paper's Table 1 by data set, method and sparsity, as mean and ±. The paper does not explain the ±. The
# ± is None for a single run. FC has a sparsity of 0. The table has two rows named CHTs; the second is CHTss.
PAPER_TABLE_1: dict[str, dict[str, dict[float, tuple[float, float | None]]]] = {
    "multi30k": {
        "fc": {0.0: (31.38, 0.38)},
        "set": {0.95: (28.99, 0.28), 0.9: (29.73, 0.10)},
        "rigl": {0.95: (29.94, 0.27), 0.9: (30.26, 0.34)},
        "cht": {0.95: (27.79, None), 0.9: (28.38, None)},
        "chts": {0.95: (28.94, 0.57), 0.9: (29.81, 0.37)},
        "mest": {0.95: (28.89, 0.26), 0.9: (30.04, 0.52)},
        "gmp": {0.95: (30.51, 0.82), 0.9: (30.49, 0.40)},
        "granet": {0.95: (31.31, 0.31), 0.9: (31.62, 0.48)},
        "chtss": {0.95: (32.03, 0.29), 0.9: (32.86, 0.16)},
    },
    "iwslt14": {
        "fc": {0.0: (24.48, 0.30)},
        "set": {0.95: (18.53, 0.05), 0.9: (20.13, 0.08)},
        "rigl": {0.95: (20.53, 0.21), 0.9: (21.52, 0.15)},
        "cht": {0.95: (18.59, None), 0.9: (19.91, None)},
        "chts": {0.95: (21.15, 0.10), 0.9: (21.92, 0.17)},
        "mest": {0.95: (19.56, 0.10), 0.9: (21.05, 0.21)},
        "gmp": {0.95: (22.76, 0.82), 0.9: (22.82, 0.53)},
        "granet": {0.95: (22.53, 0.12), 0.9: (22.43, 0.09)},
        "chtss": {0.95: (24.51, 0.02), 0.9: (24.31, 0.04)},
    },
    "wmt17": {
        "fc": {0.0: (25.22, None)},
        "set": {0.95: (20.19, 0.12), 0.9: (21.52, 0.28)},
        "rigl": {0.95: (20.71, 0.21), 0.9: (22.22, 0.10)},
        "cht": {0.95: (19.03, None), 0.9: (21.08, None)},
        "chts": {0.95: (20.94, 0.63), 0.9: (22.40, 0.06)},
        "mest": {0.95: (20.70, 0.07), 0.9: (22.22, 0.10)},
        "gmp": {0.95: (22.47, 0.10), 0.9: (23.37, 0.08)},
        "granet": {0.95: (22.51, 0.21), 0.9: (23.46, 0.09)},
        "chtss": {0.95: (23.73, 0.43), 0.9: (24.61, 0.14)},
    },
}

# Test accuracy of the best epoch and active neurons of MLPs at 99 % sparsity, both in per cent, by data set and method,
# named as in our runs; None if the paper has no number. The two forms of CHTs differ in the link predictor.
PAPER_MLP: dict[str, dict[str, tuple[float, int | None]]] = {
    "mnist": {
        "fc": (98.78, None),
        "chts/paper_mlp_l3p": (98.81, 20),
        "chts/paper_mlp": (98.76, 27),
        "cht/paper_mlp": (98.48, 29),
        "rigl": (98.61, 29),
        "set": (98.14, 100),
        "chtss/paper_mlp": (98.83, 32),
        "granet": (98.81, 35),
        "gmp": (98.62, 58),
    },
    "fashion_mnist": {
        "fc": (90.88, None),
        "chts/paper_mlp_fashion_l3p": (90.93, 89),
        "chts/paper_mlp_fashion": (90.67, 73),
        "cht/paper_mlp": (88.70, 30),
        "rigl": (89.91, 55),
        "set": (89.00, 100),
        "chtss/paper_mlp_fashion": (90.81, 40),
        "granet": (89.98, 53),
        "gmp": (90.29, 69),
    },
    "emnist": {
        "fc": (87.13, None),
        "chts/paper_mlp_l3p": (87.61, 24),
        "chts/paper_mlp": (87.82, 28),
        "cht/paper_mlp": (86.35, 21),
        "rigl": (86.94, 28),
        "set": (86.31, 100),
        "chtss/paper_mlp": (87.52, 35),
        "granet": (86.94, 45),
        "gmp": (86.93, 75),
    },
    "cifar10": {
        "fc": (62.85, None),
        "chts/paper_mlp": (69.97, 54),
        "cht/paper_mlp": (59.10, 96),
        "rigl": (63.90, 59),
        "set": (62.70, 100),
        "chtss/paper_mlp": (71.29, 63),
        "granet": (69.31, 61),
        "gmp": (65.11, 75),
    },
}

# Validation perplexity on OpenWebText in the paper's Table 2, by size, method and sparsity, with weights in bfloat16.
PAPER_TABLE_2: dict[str, dict[str, dict[float, float]]] = {
    "60m": {
        "fc": {0.0: 26.56},
        "set": {0.7: 31.77, 0.8: 30.69, 0.9: 35.26, 0.95: 39.70},
        "rigl": {0.7: 39.96, 0.8: 41.33, 0.9: 45.34, 0.95: 51.49},
        "cht": {0.7: 31.02, 0.8: 32.99, 0.9: 35.01, 0.95: 41.87},
        "chts": {0.7: 28.12, 0.8: 29.84, 0.9: 33.03, 0.95: 36.47},
        "mest": {0.7: 28.26, 0.8: 29.94, 0.9: 33.60, 0.95: 37.87},
        "gmp": {0.7: 29.22, 0.8: 30.59, 0.9: 33.68, 0.95: 39.00},
        "granet": {0.7: 30.55, 0.8: 31.51, 0.9: 33.76, 0.95: 39.98},
        "chtss": {0.7: 27.62, 0.8: 29.00, 0.9: 31.42, 0.95: 35.10},
    },
    "130m": {
        "fc": {0.0: 19.27},
        "set": {0.7: 20.82, 0.8: 22.02, 0.9: 24.73, 0.95: 28.37},
        "rigl": {0.7: 25.85, 0.8: 66.35, 0.9: 37.18, 0.95: 49.39},
        "cht": {0.7: 21.02, 0.8: 22.82, 0.9: 26.27, 0.95: 30.01},
        "chts": {0.7: 20.10, 0.8: 21.33, 0.9: 23.71, 0.95: 26.45},
        "mest": {0.7: 21.32, 0.8: 22.21, 0.9: 24.98, 0.95: 27.96},
        "gmp": {0.7: 20.49, 0.8: 22.28, 0.9: 23.61, 0.95: 27.16},
        "granet": {0.7: 22.84, 0.8: 29.03, 0.9: 26.81, 0.95: 61.31},
        "chtss": {0.7: 19.85, 0.8: 20.70, 0.9: 22.51, 0.95: 25.07},
    },
    "1b": {
        "fc": {0.0: 14.62},
        "set": {0.7: 16.37},
        "rigl": {0.7: 149.17},
        "chts": {0.7: 14.53},
        "mest": {0.7: 60.36},
        "gmp": {0.7: 31.76},
        "granet": {0.7: 79.44},
        "chtss": {0.7: 15.41},
    },
}

# Validation perplexity of the paper's models of size 130M with weights in float32.
PAPER_FLOAT32: dict[str, dict[float, float]] = {
    "fc": {0.0: 17.07},
    "rigl": {0.7: 18.34, 0.8: 19.64},
    "granet": {0.7: 17.92, 0.8: 18.79},
    "chts": {0.7: 17.99, 0.8: 19.25},
    "chtss": {0.7: 17.76, 0.8: 18.69},
}

# BLEU on Multi30k at 90 % sparsity in the paper's Table 11: CHTss, and CHTss without soft sampling.
PAPER_SOFT_SAMPLING = {"soft": 32.79, "hard": 28.92}


def out_of_order(
    table: Mapping[str, Mapping[str, Mapping[float, float]]] = PAPER_TABLE_2,
) -> list[dict[str, Any]]:
    """Find the pairs of neighbouring cells in a table whose sparser network has the lower perplexity."""
    return [
        {
            "size": size,
            "method": method,
            "sparsity": low,
            "perplexity": cells[low],
            "next_sparsity": high,
            "next_perplexity": cells[high],
        }
        for size, methods in table.items()
        for method, cells in methods.items()
        for low, high in pairwise(sorted(cells))
        if cells[high] < cells[low]
    ]


def beside(rows: Sequence[Row], reported: Mapping[str, float], score: Callable[[Row], float]) -> list[dict[str, Any]]:
    """Compare recorded runs with the paper's numbers: one row per method, in the paper's order.

    "difference" is our mean minus the paper's score; "standard_errors" is this difference divided by the standard error
    of our mean.
    Standard errors cover only the variation among seeds, not the differences between our configuration and the paper's.
    Missing values are None.

    Args:
        rows: recorded runs of one comparison, at one sparsity.
        reported: the paper's score for each method.
        score: returns the score of a row.
    """
    found = []
    for method, theirs in reported.items():
        ours = [score(row) for row in rows if row["method"] == method]
        mean = sum(ours) / len(ours) if ours else None
        error = standard_error(ours) if len(ours) > 1 else None
        difference = None if mean is None else mean - theirs
        found.append(
            {
                "method": method,
                "paper": theirs,
                "runs": len(ours),
                "mean": mean,
                "standard_error": error,
                "difference": difference,
                "standard_errors": difference / error if difference is not None and error else None,
            }
        )
    return found


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: one method is ahead of another.

    source: the place in the paper.
    better, worse: the two methods, with the names that recorded runs use.
    task, dataset, size, sparsity: the recorded runs that test the claim; an empty task means that there are none.
    differs: how these runs differ from the paper's runs, or why there are no runs.
    """

    text: str
    source: str
    better: str = ""
    worse: str = ""
    task: str = ""
    dataset: str = ""
    size: str | None = None
    sparsity: float = 0.0
    differs: str = ""

    def advantages(self, rows: Sequence[Row]) -> list[float]:
        """The advantage of the method `better` over the method `worse`, for each seed that both methods
        used. An advantage is negative if `better` is behind.

        Raises:
            ValueError: if two runs that should be equal differ.
        """
        scores: dict[str, dict[int, float]] = {self.better: {}, self.worse: {}}
        for row in rows:
            place = row["task"], row["dataset"], row["recipe"].get("size")
            if place != (self.task, self.dataset, self.size):
                continue
            # FC has all links, whatever sparsity its row contains.
            if row["method"] in scores and (row["method"] == "fc" or row["sparsity"] == self.sparsity):
                value = _ADVANTAGE[self.task](row)
                if scores[row["method"]].setdefault(row["seed"], value) != value:
                    raise ValueError(
                        f"two runs of {row['method']} with seed {row['seed']} differ; give only runs of one recipe."
                    )
        return [
            scores[self.better][seed] - scores[self.worse][seed]
            for seed in sorted(scores[self.better].keys() & scores[self.worse].keys())
        ]


_ADVANTAGE: dict[str, Callable[[Row], float]] = {
    "images": lambda row: 100 * row["test"]["accuracy"],
    "translation": lambda row: row["test"]["bleu"],
    "language": lambda row: -row["validation"][-1]["loss"],
}


def verdict(mean: float | None, half: float | None) -> str:
    """The verdict on a claim: "holds", "does not hold", "undecided", or "untested" if there is no interval.

    Args:
        mean: the mean of the advantages.
        half: the 95 % confidence interval of this mean is mean ± half. The claim holds if the interval is above 0, and
            does not hold if the interval is below 0. If the interval contains 0, the verdict is "undecided".
    """
    if mean is None or half is None:
        return "untested"
    if abs(mean) <= half:
        return "undecided"
    return "holds" if mean > 0 else "does not hold"


def weigh(claims: Sequence[Claim], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The verdict of recorded runs on each claim: "holds", "does not hold", "undecided" or "untested".

    A claim is decided if the 95 % confidence interval of the paired advantages does not contain 0. "advantage" is the
    mean advantage in points, BLEU or nats per token, and "interval" is the half-width of this confidence interval;
    "advantage" and "interval" are None if there are too few runs.
    """
    found = []
    for claim in claims:
        advantages = claim.advantages(rows) if claim.task else []
        mean, half = mean_and_interval(advantages) if len(advantages) > 1 else (None, None)
        found.append(
            {
                "claim": claim.text,
                "source": claim.source,
                "verdict": verdict(mean, half),
                "advantage": mean,
                "interval": half,
                "seeds": len(advantages),
                "differs": claim.differs,
            }
        )
    return found


def by_claim(weighed: Sequence[Row]) -> list[dict[str, Any]]:
    """Combine the comparisons of each claim into one verdict: rows with claim, source, verdict and comparisons.

    The verdict is "holds" or "does not hold" if at least one comparison has this verdict and none has the opposite
    verdict. If two comparisons contradict each other, or if no comparison decides the claim, the verdict is
    "undecided". A claim is untested if all its comparisons are untested.

    Args:
        weighed: rows of :func:`weigh`; the rows of one claim have the same text.
    """
    found: dict[str, list[Row]] = {}
    for row in weighed:
        found.setdefault(row["claim"], []).append(row)
    merged = []
    for text, rows in found.items():
        verdicts = {row["verdict"] for row in rows}
        decided = verdicts & {"holds", "does not hold"}
        undecided = "untested" if verdicts == {"untested"} else "undecided"
        one = decided.pop() if len(decided) == 1 else undecided
        merged.append({"claim": text, "source": rows[0]["source"], "verdict": one, "comparisons": rows})
    return merged


_ON_DIGITS: dict[str, Any] = {
    "task": "images",
    "dataset": "digits",
    "sparsity": 0.95,
    "differs": "digits at 95 % and a small MLP, with CHT, CHTs and CHTss in their form for translation",
}
_NUMBER_WORDS: dict[str, Any] = {
    "task": "translation",
    "dataset": "number_words",
    "size": "tiny",
    "sparsity": 0.95,
    "differs": "number words at 95 % and a tiny Transformer instead of Multi30k",
}
_MULTI30K: dict[str, Any] = {
    "task": "translation",
    "dataset": "multi30k",
    "size": "small",
    "sparsity": 0.95,
    "differs": "a tenth of the weights and a fifth of the steps",
}
_FASHION: dict[str, Any] = {
    "task": "images",
    "dataset": "fashion_mnist",
    "sparsity": 0.99,
    "differs": "the paper's recipe, but the last epoch instead of the best epoch",
}
_TINY_ALONE = "the methods have been run only at a tiny size; see stage 12"
_RI_TO_3 = "Removal('relative_importance', temperature=Ramp(1.0, 3.0), percolate=True)"

CLAIMS = (
    Claim("CHTs is ahead of SET on digits", "its design", "chts", "set", **_ON_DIGITS),
    Claim("CHTs is ahead of RigL on digits", "its design", "chts", "rigl", **_ON_DIGITS),
    Claim("CHTs is ahead of CHT on digits", "its design", "chts", "cht", **_ON_DIGITS),
    Claim(
        "soft regrowth is ahead of regrowth of the links with the highest scores",
        "Table 11",
        "chts",
        "chts with regrowth=Regrowth('ch2_l3n', soft=False, history=True)",
        **_ON_DIGITS,
    ),
    Claim(
        "soft removal is ahead of removal of the links with the lowest scores",
        "Table 12",
        "chts",
        "chts with removal=Removal('magnitude', percolate=True)",
        **_ON_DIGITS,
    ),
    Claim(
        "regrowth with the last weight is ahead of regrowth from zero", "its design", "chts", "chts/zeros", **_ON_DIGITS
    ),
    Claim(
        "receptive fields are ahead of Erdős–Rényi networks",
        "its design",
        "chts",
        "chts with topology=ErdosRenyi()",
        **_ON_DIGITS,
    ),
    Claim(
        "receptive fields are ahead of scale-free networks",
        "its design",
        "chts",
        "chts with topology=ScaleFree()",
        **_ON_DIGITS,
    ),
    Claim(
        "sigmoid decay is ahead of cubic decay at equal training FLOPs",
        "Table 13",
        "chtss",
        "chtss with sparsity=Cubic(initial=0.5, end=0.75)",
        **_ON_DIGITS,
    ),
    Claim(
        "removal by magnitude is ahead of relative importance in translation",
        "Table 12",
        "chts",
        f"chts with removal={_RI_TO_3}",
        **_NUMBER_WORDS,
    ),
    Claim(
        "regrowth with the last weight is ahead of regrowth from zero",
        "its design",
        "chts",
        "chts/zeros",
        **_NUMBER_WORDS,
    ),
    Claim("CHTs is ahead of SET on Fashion-MNIST", "MLP table", "chts/paper_mlp_fashion", "set", **_FASHION),
    Claim("CHTs is ahead of RigL on Fashion-MNIST", "MLP table", "chts/paper_mlp_fashion", "rigl", **_FASHION),
    Claim("CHTs is ahead of CHT on Fashion-MNIST", "MLP table", "chts/paper_mlp_fashion", "cht/paper_mlp", **_FASHION),
    Claim(
        "CHTss is ahead of CHTs on Fashion-MNIST",
        "MLP table",
        "chtss/paper_mlp_fashion",
        "chts/paper_mlp_fashion",
        **_FASHION | {"differs": "the paper's recipe, but only one seed so far"},
    ),
    Claim(
        "removal by relative importance is ahead of removal by magnitude on Fashion-MNIST",
        "text",
        "chts/paper_mlp_fashion",
        "chts/paper_mlp",
        **_FASHION,
    ),
    Claim(
        "CHTs is ahead of SET on CIFAR10",
        "MLP table",
        differs="images compressed as JPEG, and only one seed so far",
    ),
    Claim("CHTss is ahead of FC on Multi30k", "Table 1", "chtss", "fc", **_MULTI30K),
    Claim("CHTss is ahead of CHTs on Multi30k", "Table 1", "chtss", "chts", **_MULTI30K),
    Claim("CHTss is ahead of GraNet on Multi30k", "Table 1", differs="no run of GraNet on Multi30k so far"),
    Claim("CHTs is ahead of SET and RigL in LLaMA at 90 %", "Table 2", differs=_TINY_ALONE),
    Claim("CHTss is ahead of CHTs in LLaMA at 90 %", "Table 2", differs=_TINY_ALONE),
    Claim(
        "the methods rank as in the paper on IWSLT14 and WMT17",
        "Table 1",
        differs="no GPU and no access to the corpora so far",
    ),
    Claim(
        "the methods rank as in the paper on MNIST and EMNIST",
        "MLP table",
        differs="no run on these data sets so far",
    ),
    Claim("CHTs with 30 % of the links is level with FC at 1B", "Table 2", differs="no GPU so far"),
    Claim("weights in bfloat16 make RigL and GraNet collapse", "its numbers in float32", differs="no GPU so far"),
)
