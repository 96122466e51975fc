"""Play the topology of a training run: which links each update removed and regrew."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

import ipywidgets
from matplotlib.figure import Figure
from torch import Tensor

from chts_core.engine.progress import Update
from chts_core.lab import figures
from chts_core.lab.data import load_images
from chts_core.lab.train import images
from chts_core.lab.train.images import Recipe, Run
from chts_core.lab.widgets.explorer import Explorer, menu, whole_slider

_MILLISECONDS = 800  # between two updates; drawing a picture takes about 200 ms


@cache
def example_run() -> Run:
    """Train CHTs on the handwritten digits for about a second, and keep the masks after each update."""
    recipe = Recipe(hidden=48, epochs=16, learning_rate=0.05)
    return images.train(load_images("digits"), "chts", 0.9, recipe, snapshots=True)


@dataclass(frozen=True)
class TopologyPlayerState:
    """What the topology player shows. `update` counts from 1; 0 is the network before the first update."""

    update: int = 6
    layer: str = "0.weight"
    view: Literal["what changed", "links so far"] = "what changed"
    run: Run = field(default_factory=example_run, repr=False, compare=False)


@dataclass(frozen=True)
class TopologyPlayerResult:
    """A layer's links in groups, the layer's updates so far, and a text that describes both.

    links: masks named "kept", "removed" and "new", from the masks before and after the update; or masks named "active"
        (links now) and "gone" (links that were active earlier, but are not active now).
    """

    links: dict[str, Tensor]
    updates: list[Update]
    description: str


class TopologyPlayer(Explorer[TopologyPlayerState, TopologyPlayerResult]):
    """Play the topology of a training run: which links each update removed and regrew, and which were ever active."""

    name = "topology-player"
    State = TopologyPlayerState
    recorded: ClassVar = {
        "layer": ("0.weight", "2.weight"),
        "view": ("what changed", "links so far"),
        "update": range(12),
    }
    played = "update"

    @classmethod
    def of(cls, run: Run) -> "TopologyPlayer":
        """Make a player for your own run.

        Raises:
            ValueError: if the run kept no masks of its updates.
        """
        return cls(cls.state_of(run))

    @staticmethod
    def state_of(run: Run) -> TopologyPlayerState:
        """The state in which a player of a run begins: halfway through the run's updates, with the first layer.

        Raises:
            ValueError: if the run kept no masks of its updates.
        """
        if not run.snapshots:
            raise ValueError(
                f"the run of {run.method} kept no masks of its updates; "
                "train a method that changes its topology, with snapshots=True."
            )
        return TopologyPlayerState((len(run.snapshots) + 1) // 2, next(iter(run.first_masks)), run=run)

    @staticmethod
    def compute(state: TopologyPlayerState) -> TopologyPlayerResult:
        """Find out what an update did to a layer."""
        run, layer = state.run, state.layer
        masks = [run.mask_after(update, layer) for update in range(state.update + 1)]
        updates = [row for row in run.history if row["layer"] == layer][: state.update]
        now = masks[-1]
        before = masks[-2] if updates else now
        if state.view == "what changed":
            links = {"kept": before & now, "removed": before & ~now, "new": now & ~before}
        else:
            ever = now.clone()
            for mask in masks:
                ever |= mask
            links = {"active": now, "gone": ever & ~now}
        return TopologyPlayerResult(links, updates, _sentence(state, now, links, updates))

    @staticmethod
    def draw(state: TopologyPlayerState, result: TopologyPlayerResult) -> Figure:
        """Draw the links beside the overlap and the ITOP rate so far."""
        last_step = state.run.history[-1]["step"]
        return figures.topology_update(
            result.links, result.updates, f"layer {state.layer}, update {state.update}", last_step
        )

    def make_controls(self, state: TopologyPlayerState) -> dict[str, Any]:
        """A slider for the update, and menus of layers and views."""
        return {
            "update": whole_slider("update", state.update, 0, len(state.run.snapshots)),
            "layer": menu("layer", state.layer, list(state.run.first_masks)),
            "view": menu("show", state.view, ["what changed", "links so far"]),
        }

    def arrange(self) -> Any:
        """Put a Play button, which moves the slider in the browser, above the controls and the picture."""
        slider = self.controls["update"]
        play = ipywidgets.Play(
            value=slider.value, min=slider.min, max=slider.max, interval=_MILLISECONDS, description="play"
        )
        play.add_class(f"chts-{self.name}-play")
        ipywidgets.jslink((play, "value"), (slider, "value"))
        return ipywidgets.VBox([play, *self.controls.values(), self.picture])


def _sentence(state: TopologyPlayerState, now: Tensor, links: dict[str, Tensor], updates: list[Update]) -> str:
    total = f"{int(now.sum())} links"
    if not updates:
        share = f"{int(now.sum()) / now.numel():.1%}"
        said = f"Before the first update, layer {state.layer} has {total}, which are {share} of all possible links"
    else:
        row = updates[-1]
        back = row["removed"] - int((state.run.mask_after(state.update - 1, state.layer) & ~now).sum())
        said = (
            f"Update {state.update} of {len(state.run.snapshots)} (step {row['step']}, layer {state.layer}) "
            f"removed {row['removed']} links and regrew {row['regrown']} links, of which {back} had just been "
            f"removed (overlap {row['overlap']:.0%}). The layer now has {total}. So far, {row['itop']:.1%} of all "
            f"possible links have been active (ITOP), and {row['anp']:.0%} of the output neurons are active now"
        )
    if state.view == "what changed":
        return (
            f"{said}. The picture compares the masks before and after the update, so a link that the "
            "update removed and regrew counts as kept."
        )
    return f"{said}. {int(links['gone'].sum())} links were active earlier but are gone now."
