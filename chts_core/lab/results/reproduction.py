"""Tables of the reproducibility report: the verdict on each claim of the paper, and what the recorded runs cost."""

from functools import cache
from typing import Any

from chts_core.lab.notebook.notebooks import as_markdown
from chts_core.lab.results import paper, records, report


@cache
def _recorded() -> dict[str, list[dict[str, Any]]]:
    """The recorded runs, by comparison; read only once, because five tables need them."""
    return report.read(records.results_folder())


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
