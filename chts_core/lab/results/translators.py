"""Tables about translators: the weights that sparse translators keep, and comparisons of recorded runs with rivals."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from chts_core.engine.layers import sparse_layers
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer
from chts_core.lab.train import translation


def weights_kept(size: str, pieces: int, sparsity: float) -> dict[str, Any]:
    """The share of all weights that a sparse translator keeps.

    Args:
        size: a key of `TRANSFORMER_SIZES`.
        pieces: number of pieces in the vocabulary.
        sparsity: sparsity of the layers that can be sparse.

    Returns:
        A row. "pieces", "weights" (of the whole model), "embedding" (the weights of the embedding), "can be sparse"
        (the weights of layers that can be sparse) and "links" are counts. "kept" is the share of all weights that the
        sparse translator keeps.
    """
    with torch.device("meta"):  # only shapes, without values
        model = Transformer(pieces, TRANSFORMER_SIZES[size])
    total = sum(weight.numel() for weight in model.parameters())
    possible = sum(outputs * inputs for outputs, inputs in (layer.shape for layer in sparse_layers(model).values()))
    links = round((1 - sparsity) * possible)
    return {
        "pieces": pieces,
        "weights": total,
        "embedding": model.embedding.weight.numel(),
        "can be sparse": possible,
        "links": links,
        "kept": (total - possible + links) / total,
    }


def beside(rows: Sequence[Mapping[str, Any]], score: str, digits: int = 1) -> list[dict[str, str]]:
    """The mean score of each method and sparsity, and the mean differences from FC and CHTs over runs with equal seeds.

    Args:
        rows: recorded runs.
        score: as in `translation.mean_scores`.
        digits: number of digits after the decimal point.

    Returns:
        A row for each method and sparsity, with "method", "sparsity", "runs", the score, "minus fc" and "minus chts".
        The number after ± is the half-width of the 95 % confidence interval. A difference is "" if there is no run to
        compare with.
    """
    table: dict[tuple[str, float], dict[str, str]] = {}
    for row in translation.mean_scores(rows, score):
        dense = row["method"] == "fc"
        table[row["method"], row["sparsity"]] = {
            "method": "FC" if dense else row["method"],
            "sparsity": "" if dense else f"{row['sparsity']:.0%}",
            "runs": str(row["runs"]),
            score: _spread(row["mean"], row["interval"], "", digits),
            "minus fc": "",
            "minus chts": "",
        }
    for rival in ("fc", "chts"):
        for row in translation.score_differences(rows, score, rival):
            if row["method"] != "fc":
                cell = _spread(row["difference"], row["interval"], "+", digits)
                table[row["method"], row["sparsity"]][f"minus {rival}"] = cell
    return list(table.values())


def _spread(mean: float, interval: float | None, sign: str, digits: int) -> str:
    return f"{mean:{sign}.{digits}f}" + ("" if interval is None else f" ± {interval:.{digits}f}")


def times_as_fast(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each method and sparsity, the training seconds of the fastest run, and the speed of this run relative to the
    fastest run of FC."""
    fastest: dict[tuple[str, float], float] = {}
    for row in rows:
        key = row["method"], row["sparsity"]
        fastest[key] = min(row["seconds"], fastest.get(key, row["seconds"]))
    dense = min(seconds for (method, _), seconds in fastest.items() if method == "fc")
    return [
        {
            "method": method,
            "sparsity": "" if method == "fc" else f"{sparsity:.0%}",
            "seconds": f"{seconds:.0f}",
            "times as fast as FC": f"{dense / seconds:.2f}",
        }
        for (method, sparsity), seconds in fastest.items()
    ]
