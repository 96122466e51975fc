"""Tables of the reproducibility report: the paper's MLP, the verdict on each claim, and what the recorded runs cost."""

from collections.abc import Mapping
from functools import cache
from statistics import fmean
from typing import Any

from chts_core.lab.figures.style import METHOD_LABELS
from chts_core.lab.notebook.notebooks import as_markdown
from chts_core.lab.results import paper, records, report

_NAMES = METHOD_LABELS | {
    "chts/paper_mlp_fashion": "CHTs with CH2-L3n",
    "chts/paper_mlp_fashion_l3p": "CHTs with CH3-L3p",
    "chts/paper_mlp": "CHTs with CH2-L3n",
    "chts/paper_mlp_l3p": "CHTs with CH3-L3p",
    "chts/r1_readme": "CHTs, README of the published code",
    "cht/paper_mlp": "CHT",
    "cht/paper_mlp with turnover=Turnover(zeta=Cosine(0.3))": "CHT without an early stop",
    "chtss/paper_mlp_fashion": "CHTss",
    "chtss/paper_mlp": "CHTss",
}


@cache
def _recorded() -> dict[str, list[dict[str, Any]]]:
    """The recorded runs, by comparison; read only once, because five tables need them."""
    return report.read(records.results_folder())


def best_test_epoch(row: Mapping[str, Any]) -> float:
    """Test accuracy (in per cent) of the best test epoch, which the paper's code reports."""
    return 100.0 * float(row["test"]["best"])


def paper_mlp(dataset: str) -> str:
    """The runs of the paper's MLP next to the paper's numbers, as a Markdown table with a row for each method.

    Raises:
        ValueError: for a recorded method without a name here.
    """
    names = dict(_NAMES)
    if dataset == "fashion_mnist":  # where the paper's own form removes links by relative importance
        names["chts/paper_mlp"] = "CHTs with CH2-L3n, removal by magnitude"
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in _recorded()[f"mlp_paper: {dataset}"]:
        by_method.setdefault(row["method"], []).append(row)
    reported = paper.PAPER_MLP[dataset]
    groups = [
        (names[method], by_method[method], *reported.get(method, (None, None)))
        for method in sorted(by_method, key=list(names).index)
    ]
    narrow = _recorded().get(f"small_dense: {dataset}", [])
    for width in sorted({row["recipe"]["hidden"] for row in narrow}):
        rows = [row for row in narrow if row["recipe"]["hidden"] == width]
        groups.append((f"FC with {width} units per layer", rows, None, None))
    lines = []
    for name, rows, accuracy, active in groups:
        line = {"": name, "seeds": str(len(rows))}
        line["best epoch in the paper"] = "–" if accuracy is None else f"{accuracy:.2f} %"
        line["best epoch here"] = report.as_mean([best_test_epoch(row) for row in rows], 2) + " %"
        line["last epoch here"] = report.as_mean([100 * row["test"]["accuracy"] for row in rows], 2) + " %"
        line["active neurons in the paper"] = "–" if active is None else f"{active} %"
        counted = fmean(100 * row["active_neurons_published"] for row in rows)
        lines.append(line | {"active neurons here, counted as in the published code": f"{counted:.0f} %"})
    return as_markdown(lines)


def claims(verdict: str) -> str:
    """The claims with one verdict, as a Markdown table, or "None." if there are none.

    Args:
        verdict: "holds", "does not hold", "undecided" or "untested"; see :func:`chts_core.lab.results.paper.weigh`.
    """
    rows = [row for runs in _recorded().values() for row in runs]
    lines = []
    for row in paper.by_claim(paper.weigh(paper.CLAIMS, rows)):
        if row["verdict"] != verdict:
            continue
        line = {"claim": row["claim"], "source": row["source"]}
        if verdict != "untested":
            line["difference"] = "; ".join(
                f"{one['advantage']:+.3f} ± {one['interval']:.3f} ({one['seeds']} seeds)"
                for one in row["comparisons"]
                if one["advantage"] is not None
            )
        differs = "; ".join(one["differs"] for one in row["comparisons"])
        lines.append(line | {"why" if verdict == "untested" else "how our runs differ": differs})
    return as_markdown(lines) if lines else "None."


def costs() -> str:
    """The number of recorded runs of each comparison and the hours that they took together, as a Markdown table."""
    lines = []
    for name, rows in _recorded().items():
        hours = sum(row.get("total_seconds") or row["seconds"] for row in rows) / 3600
        methods = len({row["method"] for row in rows})
        lines.append({"runs": name, "methods": str(methods), "number": str(len(rows)), "hours": f"{hours:.1f}"})
    return as_markdown(lines)
