"""Make the tables of README.md and other pages from records: `python -m chts_core.lab.results.tables FILE ...`.

In a file, a table is between `<!-- table NAME -->` and `<!-- end of table -->`. The command replaces each table in the
file with a table that it makes from the records.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from chts_core.lab import bench
from chts_core.lab.figures.style import EARLIER_LABELS, METHOD_LABELS
from chts_core.lab.notebook.notebooks import as_markdown
from chts_core.lab.results import records, reproduction, trained_models
from chts_core.lab.results.report import SCORES, as_difference, as_mean
from chts_core.lab.results.statistics import seed_differences
from chts_core.lab.verify import drill

Row = Mapping[str, Any]

_NAMES = METHOD_LABELS | EARLIER_LABELS
_OLD_CHTS = "chts/ri_zeros"
_DIGITS_AT = (0.9, 0.95, 0.97)
# The recorded drill has the old name of a scenario.
_NEW_NAMES = {"classifier, links alone": "classifier that stores only the links"}


@cache
def runs(name: str) -> tuple[Row, ...]:
    """The recorded runs of a file in `results`, by the file's name without its extension."""
    return tuple(records.read_runs(records.results_folder() / f"{name}.jsonl"))


@cache
def benchmark(topic: str) -> dict[tuple[str, str], Row]:
    """The recorded rows of a benchmark, by the comparison and the name of the rival."""
    path = bench.folder() / "results" / f"{topic}.json"
    return {(row["comparison"], row["rival"]): row for row in json.loads(path.read_text("utf-8"))["rows"]}


def score(row: Row) -> float:
    """The score by which runs of the task are compared; accuracies are in per cent, from the last epoch."""
    return SCORES[row["task"]].of(row)


def of_method(rows: Sequence[Row], method: str, sparsity: float | None = None) -> list[Row]:
    """The runs of a method at one sparsity, or at all sparsities if `sparsity` is None; FC has no sparsity."""
    return [row for row in rows if row["method"] == method and sparsity in (None, row["sparsity"])]


def differences(mine: Sequence[Row], theirs: Sequence[Row], of: Callable[[Row], float] = score) -> list[float]:
    """For each seed that both sides have, the score of `mine` minus the score of `theirs`."""
    return list(seed_differences(mine, theirs, of).values())


def digits() -> str:
    """The results of the nine methods on the digits."""
    rows = [row for row in runs("images") if row["dataset"] == "digits"]
    lines = []
    for method, name in METHOD_LABELS.items():
        found = {share: of_method(rows, method, 0.0 if method == "fc" else share) for share in _DIGITS_AT}
        line = {"": name} | {f"{share:.0%}": as_mean(list(map(score, found[share])), 2) for share in _DIGITS_AT}
        if method == "fc":
            line |= {"95%": "", "97%": ""}
        for rival in ("set", "fc"):
            theirs = of_method(rows, rival, 0.0 if rival == "fc" else 0.97)
            pairs = [] if method in ("fc", rival) else differences(found[0.97], theirs)
            line[f"difference from {METHOD_LABELS[rival]} at 97%"] = as_difference(pairs, 2) if pairs else ""
        lines.append(line)
    found = {share: small_dense(share) for share in _DIGITS_AT}
    line = {"": "FC with as many weights as the sparse networks"}
    line |= {f"{share:.0%}": as_mean(list(map(score, mine)), 2) for share, mine in found.items()}
    for rival, sparsity in (("set", 0.97), ("fc", None)):
        pairs = differences(found[0.97], of_method(rows, rival, sparsity))
        line[f"difference from {METHOD_LABELS[rival]} at 97%"] = as_difference(pairs, 2)
    return as_markdown([*lines, line])


def multi30k() -> str:
    """The results of small translators on Multi30k."""
    rows = [row for row in runs("translation") if row["dataset"] == "multi30k"]
    lines = []
    for share in (0.9, 0.95):
        for method in ("fc", "set", "chts", "chtss"):
            mine = of_method(rows, method, None if method == "fc" else share)
            line = {"": f"{METHOD_LABELS[method]}, {share:.0%}" if method != "fc" else "FC"}
            for name, of, digits in (("BLEU", bleu, 2), ("loss", last_loss, 3)):
                line[name] = as_mean(list(map(of, mine)), digits)
                for rival in ("set", "fc"):
                    theirs = of_method(rows, rival, share if rival == "set" else None)
                    pairs = [] if method in ("fc", rival) else differences(mine, theirs, of)
                    line[f"{name} minus {METHOD_LABELS[rival]}"] = as_difference(pairs, digits) if pairs else ""
            if line not in lines:
                lines.append(line)
    return as_markdown(lines)


def bleu(row: Row) -> float:
    """BLEU on the test pairs."""
    return float(row["test"]["bleu"])


def small_dense(sparsity: float) -> list[Row]:
    """Runs of narrow FC networks on digits. Their hidden layers have as many weights as sparse layers of width 256."""
    hidden = {0.9: 71, 0.95: 47, 0.97: 34}[sparsity]
    return [row for row in runs("small_dense") if row["dataset"] == "digits" and row["recipe"]["hidden"] == hidden]


def ablation_groups() -> dict[str, list[Row]]:
    """The runs of the ablations on digits, by the description of the variant, including unchanged CHTs and CHTss."""
    groups: dict[str, list[Row]] = {}
    for row in runs("ablations"):
        groups.setdefault(row["method"], []).append(row)
    return groups


def as_it_is(variant: str) -> str:
    """The method that a variant of the ablations changes."""
    return re.split("[/ ]", variant)[0]


def ablations() -> str:
    """CHTs and CHTss with one or two changed choices, next to unchanged CHTs and CHTss."""
    groups = ablation_groups()
    lines = []
    for variant, mine in groups.items():
        base = as_it_is(variant)
        lines.append(
            {
                "variant": f"`{variant}`",
                "accuracy": as_mean(list(map(score, mine)), 2),
                "difference": "" if variant == base else as_difference(differences(mine, groups[base]), 2),
                "active": f"{sum(row['active_neurons'] for row in mine) / len(mine):.0%}",
            }
        )
    return as_markdown(lines)


def number_words() -> str:
    """Results of a small translator for several removal scores and for two initial weights of regrown links."""
    rows = [*runs("number_words"), *(row for row in runs("translation") if row["dataset"] == "number_words")]
    lines = []
    for variant in dict.fromkeys(("chts", *(row["method"] for row in runs("number_words")))):
        line = {"variant": f"`{variant}`"}
        for sparsity in (0.9, 0.95):
            mine, base = of_method(rows, variant, sparsity), of_method(rows, "chts", sparsity)
            line[f"loss at {sparsity:.0%}"] = as_mean(list(map(last_loss, mine)), 4)
            line[f"loss difference from CHTs at {sparsity:.0%}"] = (
                "" if variant == "chts" else as_difference(differences(mine, base, last_loss), 4)
            )
            line[f"exactly right (%) at {sparsity:.0%}"] = as_mean([row["test"]["exact"] for row in mine], 2)
        lines.append(line)
    return as_markdown(lines)


def last_loss(row: Row) -> float:
    """Last loss on the validation data, in nats."""
    return float(row["validation"][-1]["loss"])


_TURNOVERS = {"chts": "ζ from 0.3", "chts/paper_llama": "ζ from 0.1"}


def llama_warmup() -> str:
    """Losses of a small language model for two turnovers, with and without a warm-up after each update."""
    lines = []
    for method, name in _TURNOVERS.items():
        line = {"validation loss": name}
        for steps in (0, 2):
            mine = [row for row in runs("llama_warmup") if row["recipe"]["iterative_warmup"] == steps]
            line[f"warm-up of {steps} steps"] = as_mean(list(map(last_loss, of_method(mine, method))), 3)
        lines.append(line)
    return as_markdown(lines)


def update_warmup(rows: Sequence[Row]) -> str:
    """How updates of the topology change the loss of a small language model, for each kind of warm-up after an update.

    The table has means ± standard errors over the seeds; the value of a seed is the mean over the updates of its run.

    Args:
        rows: recorded runs with `watch_updates`.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], _warmup(row["recipe"])), []).append(row)
    lines = []
    for (method, warmup), mine in groups.items():
        lines.append(
            {
                "turnover": _TURNOVERS.get(method, f"`{method}`"),
                "warm-up": warmup,
                "change of the loss at an update": as_mean([jump(row, "after") for row in mine], 4),
                "change after one more step": as_mean([jump(row, "next") for row in mine], 4),
                "validation loss": as_mean(list(map(last_loss, mine)), 3),
            }
        )
    return as_markdown(lines)


def jump(row: Row, until: str) -> float:
    """By how many nats the loss rises at an update of the topology, on average over a run's updates.

    Args:
        row: a recorded run with `watch_updates`.
        until: when to measure the loss: "after" the update, or at the "next" step of the optimizer.
    """
    return fmean(update[until] - update["before"] for update in row["updates"] if update[until] is not None)


def _warmup(recipe: Row) -> str:
    """Which weights a recipe warms up after an update, and for how many steps, in words."""
    kinds = {"iterative_warmup": "of all weights", "link_warmup": "of new links"}
    found = [f"{words}, {recipe[name]} steps" for name, words in kinds.items() if recipe[name]]
    return " and ".join(found) or "none"


def _rates(size: str, methods: Sequence[str]) -> str:
    """Validation losses by learning rate and method. Each loss comes from one run."""
    found: dict[float, dict[str, float]] = {}
    for row in runs("language_rates"):
        recipe = row["recipe"]
        if recipe["size"] == size and recipe["dense_learning_rate"] in (None, recipe["learning_rate"]):
            found.setdefault(recipe["learning_rate"], {})[row["method"]] = score(row)
    return as_markdown(
        [
            {"rate": f"{rate:g}"}
            | {_NAMES[method]: f"{losses[method]:.3f}" if method in losses else "" for method in methods}
            for rate, losses in sorted(found.items())
        ]
    )


def first_weights() -> str:
    """Losses after a short run, for two ways to draw the initial weights."""
    rows = [row for row in runs("language_rates") if row["recipe"]["steps"] == 120]
    words = {None: "1 in the embedding, inputs^-½ elsewhere", 0.02: "0.02 everywhere (`-s deviation 0.02`)"}
    lines = []
    for deviation, name in words.items():
        losses = {row["method"]: score(row) for row in rows if row["recipe"]["deviation"] == deviation}
        chts = {f"{_NAMES[_OLD_CHTS]}, 90 %": f"{losses[_OLD_CHTS]:.3f}"}
        lines.append({"loss after 120 steps": name, "FC": f"{losses['fc']:.3f}"} | chts)
    return as_markdown(lines)


def _times(row: Row) -> str:
    """The speedup over the rival, to two digits. A slowdown is in bold. If the speedup is below the aim, the aim
    follows in brackets."""
    ratio, aim = row["times_faster"], row.get("aim", 0)
    written = f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
    if float(written) >= aim > ratio:
        written = f"{ratio:.2f}"  # rounding must not hide that the aim is missed
    missed = f" ({aim:g}×)" if ratio < aim else ""
    return (f"**{written}×**" if ratio < 1 else f"{written}×") + missed


def regrowth() -> str:
    """The speed of our draws, divided by the speed of draws from a score matrix."""
    lines: dict[str, dict[str, str]] = {}
    for (comparison, rival), row in benchmark("regrowth").items():
        shape, share = re.search(r"(\d+×\d+) at (\d+)%", comparison).groups()  # type: ignore[union-attr]
        assert rival == "dense CH2-L3n + torch.multinomial"
        title = "regrowth, `sample_links` against dense CH2-L3n and `torch.multinomial`"
        lines.setdefault(shape, {title: shape})[f"{share} %"] = _times(row)
    return as_markdown(list(lines.values()))


def layers() -> str:
    """The speed of one sparse layer, compared with a dense layer and with a sparse layer of another library."""
    rivals = {"against `nn.Linear`": "nn.Linear", "against sparselab 0.2.2": "sparselab.SparseLinear"}
    # One line for densities below 30 %, and one for the others.
    shapes: dict[tuple[str, bool], list[str]] = {}
    for comparison, _ in benchmark("layer"):
        shape, share = re.search(r"(\d+×\d+, \d+ samples), (\d+)%", comparison).groups()  # type: ignore[union-attr]
        shares = shapes.setdefault((shape, int(share) < 30), [])
        shares += [share] if share not in shares else []
    lines = []
    for (shape, _), shares in shapes.items():
        line = {"one layer, forward and backward": f"{shape}, {' / '.join(f'{share} %' for share in shares)}"}
        for title, rival in rivals.items():
            rows = [benchmark("layer")[f"{shape}, {share}% on cpu", rival] for share in shares]
            line[title] = " / ".join(map(_times, rows))
        lines.append(line)
    return as_markdown(lines)


def steps() -> str:
    """How long a training step of each sparse model takes, and how long a step of FC takes."""
    lines = []
    for (comparison, rival), row in benchmark("step").items():
        if rival == "FC":
            lines.append(
                {
                    "a training step": comparison.replace("step of ", ""),
                    "ms": _milliseconds(row["seconds"]),
                    "ms of FC": _milliseconds(row["rival_seconds"]),
                    "ratio": _times(row),
                }
            )
    return as_markdown(lines)


def tokens() -> str:
    """The speed of sparse layers that get one token at a time, compared with dense layers and with torch's own sparse
    layers."""
    lines: dict[str, dict[str, str]] = {}
    for (comparison, rival), row in benchmark("token").items():
        ms = _milliseconds(row["seconds"])
        line = lines.setdefault(comparison, {"one token at a time": comparison, "ms": ms, "against dense": "–"})
        line["against torch's CSR" if "CSR" in rival else "against dense"] = _times(row)
    return as_markdown(
        [{**line, "against torch's CSR": line.get("against torch's CSR", "–")} for line in lines.values()]
    )


def updates() -> str:
    """How much time and memory the updates of one large layer take on one thread."""
    lines = []
    for (comparison, _), row in benchmark("update").items():
        line = {"update on one thread": comparison, "ms": _milliseconds(row["seconds"])}
        line["ratio to a training step (batch 32)"] = f"{row['seconds'] / row['rival_seconds']:.0f}"
        line["additional memory"] = "–" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:.0f} MB"
        lines.append(line | {"memory of the dense weight": f"{row['dense_bytes'] / 2**20:.0f} MB"})
    return as_markdown(lines)


def _milliseconds(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.2g}"


def faults() -> str:
    """How often runs of each scenario were killed or otherwise disturbed, and how many ended like an undisturbed
    run."""
    lines = []
    columns = {
        "killed": "killed",
        "no space for a checkpoint": "no space",
        "full disk": "full disk",
        "read-only folder": "read-only",
        "clock jumps": "clock",
    }
    for scenario, rows in recorded_faults(of_inputs=False).items():
        line = {"training": scenario}
        for name, fault in columns.items():
            of = [row for row in rows if row["fault"] == fault]
            line[name] = f"{sum(map(drill.survived, of))} of {len(of)}" if of else "–"
        line["clock jumps (hours)"] = f"{sum(row.get('hours', 0) for row in rows):,}"
        lines.append(line)
    return as_markdown(lines)


def inputs() -> str:
    """How many wrong or damaged files chts refused, by the kind of file."""
    found = recorded_faults(of_inputs=True).items()
    counts = {kind: f"{sum(map(drill.survived, rows))} of {len(rows)}" for kind, rows in found}
    return as_markdown([{"files": "refused"} | counts])


def recorded_faults(of_inputs: bool) -> dict[str, list[Row]]:
    """The recorded rows about damaged files (if `of_inputs`) or about disturbed runs, by the current name of the
    scenario."""
    found: dict[str, list[Row]] = {}
    for row in records.read_lines(records.results_folder() / "faults.jsonl"):
        if (row["fault"] == "input") == of_inputs:
            name = _NEW_NAMES.get(row["scenario"], row["scenario"])
            found.setdefault(name, []).append(row | {"scenario": name})
    return found


TABLES: dict[str, Callable[[], str]] = {
    "fashion_mnist": lambda: reproduction.paper_mlp("fashion_mnist"),
    "cifar10": lambda: reproduction.paper_mlp("cifar10"),
    "digits": digits,
    "ablations": ablations,
    "number_words": number_words,
    "multi30k": multi30k,
    "llama_warmup": llama_warmup,
    "update_warmup": lambda: update_warmup(runs("update_warmup")),
    "rates_tiny": lambda: _rates("tiny", ("fc", _OLD_CHTS, "set", "granet")),
    "rates_small": lambda: _rates("small", ("fc", *EARLIER_LABELS, "set", "rigl", "granet")),
    "first_weights": first_weights,
    "faults": faults,
    "trained_models": trained_models.table,
    "inputs": inputs,
    "regrowth": regrowth,
    "layers": layers,
    "steps": steps,
    "tokens": tokens,
    "updates": updates,
    "claims_that_hold": lambda: reproduction.claims("holds"),
    "claims_that_do_not_hold": lambda: reproduction.claims("does not hold"),
    "undecided_claims": lambda: reproduction.claims("undecided"),
    "untested_claims": lambda: reproduction.claims("untested"),
    "costs": reproduction.costs,
}
BLOCK = re.compile(r"<!-- table (\w+) -->\n.*?<!-- end of table -->\n", re.DOTALL)


def filled(text: str) -> str:
    """Make all tables in a text again from the records, and return the text.

    Raises:
        KeyError: for an unknown table.
    """
    return BLOCK.sub(lambda found: f"<!-- table {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end of table -->\n", text)


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        given.write_text(filled(given.read_text("utf-8")), encoding="utf-8")
