import torch

import chts_core as chts
from chts_core.lab.widgets import ReceptiveFieldExplorer, ReceptiveFieldState


def test_the_description_counts_what_is_there() -> None:
    state = ReceptiveFieldState(r=0.4, sparsity=0.75, degree="uniform", out_features=12, in_features=20)
    result = ReceptiveFieldExplorer.compute(state)
    expected = chts.topology.receptive_field(12, 20, 0.25, 0.4, "uniform", generator=torch.Generator().manual_seed(0))
    assert torch.equal(result.mask, expected)
    outputs, inputs = result.mask.sum(dim=1), result.mask.sum(dim=0)
    assert result.description == (
        "This BRF network of 20 inputs and 12 outputs has 60 links (sparsity 0.75, r = 0.40). It has "
        f"{outputs.min()} to {outputs.max()} links per output, and {inputs.min()} to {inputs.max()} links per input."
    )


def test_it_begins_with_a_tenth_of_48_times_96_links() -> None:
    assert "has 461 links" in ReceptiveFieldExplorer.compute(ReceptiveFieldState()).description


def test_the_network_depends_on_the_seed() -> None:
    one, other = (ReceptiveFieldExplorer.compute(ReceptiveFieldState(seed=seed)).mask for seed in (0, 1))
    assert not torch.equal(one, other)


def test_what_has_no_control_stays_as_it_was_given() -> None:
    explorer = ReceptiveFieldExplorer(ReceptiveFieldState(0.5, 0.8, "uniform", 10, 20, 3))
    explorer.controls["r"].value = 0.25
    assert explorer.state == ReceptiveFieldState(0.25, 0.8, "uniform", 10, 20, 3)
