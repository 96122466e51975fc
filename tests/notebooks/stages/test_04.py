from collections.abc import Callable
from itertools import product
from typing import Any

import committed
import torch

import chts_core as chts
from chts_core.lab import figures
from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]


def test_stage_04_percolates_and_compacts(executed: Executed) -> None:
    record, _ = executed("04")
    results, settings = record["results"], notebooks.profile_settings("04_percolation", "ci")
    assert results["toy links"] == 7

    anp = {(row["score"], row["sparsity"]): row["anp"] for row in results["anp"]}
    sparsities = sorted({sparsity for _, sparsity in anp})
    assert all(0 < anp["WM", s] <= anp["RI", s] <= 1 for s in sparsities)
    assert anp["WM", 0.99] < anp["RI", 0.99]
    assert anp["WM", 0.9] == anp["RI", 0.9] == 1

    layers = {(row["score"], row["stage"]): row["neurons"] for row in results["layers"]}
    assert len(layers) == 6
    assert layers["WM", "before"] == layers["RI", "before"]
    for score in ("WM", "RI"):
        linked, active = (layers[score, s] for s in ("linked on both sides after removal", "active after percolation"))
        assert all(0 < after <= before for before, after in zip(linked, active, strict=True))

    assert [(row["removal"], row["seed"]) for row in results["compacted"]] == [
        (score, seed) for score in ("WM", "RI") for seed in (0, 1)
    ]
    for row in results["compacted"]:
        assert 0 < row["hidden after"] < row["hidden before"] == 3 * settings["hidden"]
        assert row["parameters after"] < row["parameters before"]
    assert results["seconds dense"] > 0
    assert results["seconds compacted"] > 0


def test_stage_04_draws_the_relations_that_its_caption_names() -> None:
    (caption,) = (caption for caption in committed.captions("04") if caption.startswith("Both models have a pair"))
    attention, chain, gated, _ = caption.split(". ")
    figure = figures.blocks(["transformer", "llama"])
    for axes, pairs, chains in (
        (figure.axes[0], {("q", "k")}, {("v", "o"), ("w1", "w2")}),
        (figure.axes[1], {("q", "k"), ("gate", "up")}, {("v", "o"), ("gate", "down"), ("up", "down")}),
    ):
        drawn = [str(artist.get_gid() or "").split() for artist in (*axes.lines, *axes.patches)]
        assert {(gid[1], gid[2]) for gid in drawn if gid[:1] == ["pair"]} == pairs
        assert {(gid[1], gid[2]) for gid in drawn if gid[:1] == ["chain"]} == chains
    assert "a pair (q, k) and a chain (v, o)" in attention
    assert "one chain (w1, w2)" in chain
    assert "a pair (gate, up) and two chains that end in down" in gated


def test_stage_04_says_what_percolation_is_here_and_what_it_is_elsewhere() -> None:
    words = committed.words("04")
    assert "the *percolation threshold* is the share of links at which a giant connected component appears" in words
    assert "cuts every link that lies on no path from an input to an output" in words
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(shape, generator=generator) < 0.3 for shape in ((6, 5), (7, 6), (4, 7))]
    names = ("a", "b", "c")
    left = chts.percolation.percolate(dict(zip(names, given, strict=True)), chts.LayerGraph(chains=(names,)))
    expected = [torch.zeros_like(mask) for mask in given]
    for i, j, k, o in product(range(5), range(6), range(7), range(4)):  # all paths, one by one
        if given[0][j, i] and given[1][k, j] and given[2][o, k]:
            expected[0][j, i] = expected[1][k, j] = expected[2][o, k] = True
    assert all(map(torch.equal, left.values(), expected))
    assert sum(int(mask.sum()) for mask in expected) < sum(int(mask.sum()) for mask in given)
