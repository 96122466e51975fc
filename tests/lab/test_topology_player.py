from itertools import product
from typing import Any

import ipywidgets
import numpy as np
import pytest
import torch
from torch import Tensor

from chts_core.engine.weights import pack_bits
from chts_core.lab import figures
from chts_core.lab.train.images import Run
from chts_core.lab.widgets import TopologyPlayer, TopologyPlayerState
from chts_core.lab.widgets.topology_player import example_run

BEFORE, FIRST, SECOND = (
    torch.tensor(rows, dtype=torch.bool)
    for rows in ([[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 0]])
)


def row(step: int, removed: int, regrown: int, overlap: float, itop: float) -> dict[str, Any]:
    return {
        "step": step,
        "layer": "0.weight",
        "links": 3,
        "removed": removed,
        "regrown": regrown,
        "overlap": overlap,
        "anp": 0.5,
        "itop": itop,
        "seconds": 0.0,
    }


@pytest.fixture
def run() -> Run:
    """Two updates of a layer; the first also removed and regrew one and the same link."""
    return Run(
        method="chts",
        seed=0,
        sparsity=0.5,
        validation_accuracy=[0.5],
        test_by_epoch=[0.5],
        density=0.5,
        active_neurons=1.0,
        itop=5 / 6,
        train_loss=[],
        skipped_steps=[],
        seconds=0.0,
        total_seconds=0.0,
        peak_memory_mb=None,
        history=[row(10, 2, 2, 0.5, 4 / 6), row(20, 2, 2, 0.0, 5 / 6)],  # type: ignore[list-item]
        first_masks={"0.weight": BEFORE},
        last_masks={"0.weight": SECOND},
        snapshots=[{"0.weight": pack_bits(FIRST)}, {"0.weight": pack_bits(SECOND)}],
    )


def entries(mask: Tensor) -> set[tuple[int, int]]:
    return {(output, source) for output, source in mask.nonzero().tolist()}


def test_what_changed_is_told_by_the_masks(run: Run) -> None:
    links = TopologyPlayer.compute(TopologyPlayerState(1, run=run)).links
    assert {name: entries(mask) for name, mask in links.items()} == {
        "kept": {(0, 0), (1, 2)},
        "removed": {(0, 1)},
        "new": {(0, 2)},
    }
    links = TopologyPlayer.compute(TopologyPlayerState(2, run=run)).links
    assert {name: entries(mask) for name, mask in links.items()} == {
        "kept": {(0, 2)},
        "removed": {(0, 0), (1, 2)},
        "new": {(0, 1), (1, 1)},
    }


def test_links_so_far_are_all_that_were_ever_active(run: Run) -> None:
    links = TopologyPlayer.compute(TopologyPlayerState(2, view="links so far", run=run)).links
    assert entries(links["active"]) == entries(SECOND)
    assert entries(links["gone"]) == {(0, 0), (1, 2)}


def test_the_sentence_has_the_numbers_of_the_update(run: Run) -> None:
    said = TopologyPlayer.compute(TopologyPlayerState(1, run=run)).description
    assert said == (
        "Update 1 of 2 (step 10, layer 0.weight) removed 2 links and regrew 2 links, of which 1 had just been "
        "removed (overlap 50%). "
        "The layer now has 3 links. So far, 66.7% of all possible links have been active (ITOP), and 50% of the output "
        "neurons are active now. The picture compares the masks before and after the update, so a link that the "
        "update removed and regrew counts as kept."
    )
    said = TopologyPlayer.compute(TopologyPlayerState(2, view="links so far", run=run)).description
    assert said.startswith("Update 2 of 2 (step 20")
    assert said.endswith("2 links were active earlier but are gone now.")


def test_before_the_first_update_nothing_has_changed(run: Run) -> None:
    result = TopologyPlayer.compute(TopologyPlayerState(0, run=run))
    assert {name: int(mask.sum()) for name, mask in result.links.items()} == {"kept": 3, "removed": 0, "new": 0}
    assert result.updates == []
    assert (
        "Before the first update, layer 0.weight has 3 links, which are 50.0% of all possible links"
        in result.description
    )


def test_the_picture_shows_the_links_and_the_curves_up_to_now(run: Run) -> None:
    left, right = TopologyPlayer.figure(TopologyPlayerState(2, run=run)).axes
    drawn = {
        str(line.get_label()).partition(":")[0]: set(
            zip(np.asarray(line.get_ydata()).tolist(), np.asarray(line.get_xdata()).tolist(), strict=True)
        )
        for line in left.lines
        if ":" in str(line.get_label())
    }
    assert drawn == {"kept": {(0, 2)}, "removed": {(0, 0), (1, 2)}, "new": {(0, 1), (1, 1)}}
    assert len({(line.get_color(), line.get_marker()) for line in left.lines[1:]}) == 3
    assert len({line.get_marker() for line in left.lines[1:]}) == 3  # told apart without colour
    curves = {str(line.get_label()): line for line in right.lines}
    np.testing.assert_allclose(np.asarray(curves["overlap"].get_data()), [[10, 20], [50, 0]])
    np.testing.assert_allclose(np.asarray(curves["ITOP"].get_data()), [[10, 20], [400 / 6, 500 / 6]])
    first = TopologyPlayer.figure(TopologyPlayerState(1, run=run)).axes[1]
    assert np.asarray(first.lines[0].get_xdata()).tolist() == [10]
    assert first.get_xlim() == right.get_xlim() == (0, 20)  # the axis stands still while it plays


def test_the_example_adds_up_with_its_history() -> None:
    run = example_run()
    assert run is example_run()
    for layer, update in product(run.first_masks, range(1, len(run.snapshots) + 1)):
        result = TopologyPlayer.compute(TopologyPlayerState(update, layer, "links so far", run))
        now = result.updates[-1]
        ever = int(result.links["active"].sum()) + int(result.links["gone"].sum())
        assert ever / result.links["active"].numel() == now["itop"]
        assert int(result.links["active"].sum()) == now["links"]


def test_the_ends_of_all_controls_can_be_drawn() -> None:
    player = TopologyPlayer()
    options = [player.controls[name].options for name in ("layer", "view")]
    for update, layer, view in product((0, player.controls["update"].max), *options):
        assert figures.to_png(TopologyPlayer.figure(TopologyPlayerState(update, layer, view)))


def test_play_moves_the_slider_over_its_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    linked: list[Any] = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda *ends: linked.append(ends))
    player = TopologyPlayer(TopologyPlayerState(3))
    (play,) = [widget for widget in player.view.children if isinstance(widget, ipywidgets.Play)]
    slider = player.controls["update"]
    assert linked == [((play, "value"), (slider, "value"))]
    assert (play.min, play.max, play.value) == (slider.min, slider.max, slider.value)
    assert slider.max == len(example_run().snapshots)
    assert "chts-topology-player-play" in play._dom_classes


def test_a_player_of_a_run_begins_halfway(run: Run) -> None:
    player = TopologyPlayer.of(run)
    assert (player.state.update, player.state.layer, player.state.run) == (1, "0.weight", run)
    assert player.controls["update"].max == 2
    player.controls["update"].value = 2
    assert "Update 2 of 2" in player.picture.value


def test_a_run_without_snapshots_is_refused(run: Run) -> None:
    run.snapshots.clear()
    with pytest.raises(ValueError, match=r"the run of chts kept no masks of its updates; .*snapshots=True"):
        TopologyPlayer.of(run)
