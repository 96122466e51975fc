from collections.abc import Callable
from typing import Any

import torch

import chts_core as chts
from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]
Page = Callable[[str], tuple[dict[str, Any], str, str]]


def test_stage_07_measures_layers_and_training(executed: Executed) -> None:
    record, _ = executed("07")
    results, settings = record["results"], notebooks.profile_settings("07_truly_sparse", "ci")
    assert results["hidden"] == settings["hidden"]
    assert 0 <= results["crossover"] <= 1
    assert {row["samples"] for row in results["layers"]} == {32, 256}
    assert all(row[kind] > 0 for row in results["layers"] for kind in ("dense", "masked", "links"))
    costs = {row["name"]: row for row in results["training"]}
    assert list(costs) == ["FC", "CHTs, masked", "CHTs, csr", "CHTss, csr"]
    fc, masked, links, decaying = costs.values()
    assert masked["flops"] == links["flops"] < decaying["flops"] < fc["flops"] == 1
    assert links["memory"] < 0.1 * fc["memory"] < 0.2 * masked["memory"]


def test_the_text_of_stage_07_has_the_densities_that_the_page_prints(committed: Page) -> None:
    results, text, printed = committed("07_truly_sparse")
    assert f"auto multiplies densely above {results['crossover']:.0%} density and link by link below" in printed
    assert (
        f"On the published page, this density is {100 * results['crossover']:.0f} %, "
        "which is less than the density of 50 % in the first step"
    ) in text
    assert results["crossover"] < 0.5
    won = {
        samples: max(
            row["density"] for row in results["layers"] if row["samples"] == samples and row["links"] < row["dense"]
        )
        for samples in (256, 32)
    }
    assert won[256] == won[32]
    assert f"densities up to {100 * won[32]:.0f} %, for batches of 256 samples and of 32 samples" in text


def test_the_crossovers_that_stage_07_predicts_are_compared_with_measured_ones(committed: Page) -> None:
    results, text, _ = committed("07_truly_sparse")
    predicted = {}
    for samples, (below, above) in ((256, (0.2, 0.3)), (32, (0.2, 0.3))):
        rows = [row for row in results["layers"] if row["samples"] == samples]
        slope = (rows[1]["links"] - rows[0]["links"]) / (rows[1]["density"] - rows[0]["density"])
        predicted[samples] = rows[0]["density"] + (rows[0]["dense"] - rows[0]["links"]) / slope
        faster = {row["density"]: row["links"] < row["dense"] for row in rows}
        assert faster[below]
        assert not faster[above]
    assert 0.2 < predicted[256] < 0.3
    assert 0.2 < predicted[32] < 0.3
    assert (
        f"this function predicts {100 * predicted[256]:.0f} % for 256 samples "
        f"and {100 * predicted[32]:.0f} % for 32 samples. "
        "On that page, the measured lines cross between 20 and 30 % for both numbers of samples. "
        "So both predictions fit."
    ) in text
    assert "the lines cross between 20 and 30 % for both numbers of samples" in text


def test_half_of_the_links_take_the_memory_of_all_weights() -> None:
    # Links of a layer without bias keep value, gradient and momentum, and 12 bytes of places; see the self-check.
    links = chts.linear.compress(torch.ones(4, 4, dtype=torch.bool).triu(1) | torch.eye(4, dtype=torch.bool))
    places = sum(t.nbytes for t in links if t.numel() == 10)
    assert (10 * 3 * 4 + places) / 10 == 24 == 2 * 3 * 4
