"""Let new links start slowly after an update of the topology."""

from typing import Any

import torch
from torch import Tensor

from chts_core.engine.sharding import is_sharded
from chts_core.sparsifier import Sparsifier


class LinkWarmup:
    """Lets new links take only a share of the optimizer's step, in the first steps after each update of the topology.

        sparsifier = Sparsifier(model, optimizer, method="chts", sparsity=0.95, total_steps=1000)
        link_warmup = LinkWarmup(sparsifier, steps=20)  # the loop does not change

    A new link has no moments yet, but Adam corrects their bias as if they were as old as the run. So, late in a run,
    the first step of a new link is (1 - β1) / √(1 - β2) times the learning rate: 3.2 times, with β1 = 0.9 and β2 =
    0.999. With this class, step t after an update changes the weight of a new link by only t / `steps` of the
    optimizer's step, for t = 1, …, `steps`. All other weights take full steps. A link that one update removes and
    regrows also counts as new. The optimizer keeps the same moments as without this class.

    Xiao et al. (2026) describe this cold start of new links in *Memory-Efficient LLM Training with Dynamic Sparsity*
    (SMET, arXiv 2606.00888). Their remedy is different: each link has its own warm-up. Adam corrects the bias of
    each link with the link's own number of steps.

    Args:
        sparsifier: already attached to the model.
        steps: the number of steps that the warm-up takes; with 0 or 1, a new link takes full steps immediately.

    Raises:
        ValueError: if `steps` is below 0 or above the smallest number of steps between two updates, or if `steps` is
            above 0 and `fully_shard` has sharded the weights.
    """

    def __init__(self, sparsifier: Sparsifier, steps: int) -> None:
        longest = sparsifier.timeline.shortest_gap
        if not 0 <= steps <= longest:
            raise ValueError(
                f"link_warmup is {steps} steps; expected 0 for none, or at most {longest}, the smallest number of "
                "steps between two updates."
            )
        self._weights = sparsifier.network.weights
        if steps and any(is_sharded(weight.parameter) for weight in self._weights.values()):
            raise ValueError(
                f"link_warmup is {steps} steps, but fully_shard has sharded the weights; set link_warmup to 0, or give "
                "each process the whole model, as DistributedDataParallel does."
            )
        self.steps = steps
        self._sparsifier = sparsifier
        # The positions of each weight's new links while they warm up, and the step of the update that regrew them.
        self._links: dict[str, Tensor] = {}
        self._updated_at = 0
        self._before: dict[str, Tensor] = {}
        if steps:
            sparsifier.register_regrowth_hook(self._notice)
            sparsifier.optimizer.register_step_pre_hook(self._remember)
            sparsifier.optimizer.register_step_post_hook(self._blend)

    def state_dict(self) -> dict[str, Any]:
        """The state of the warm-up. To continue bit for bit, a run also needs the state of the sparsifier."""
        return {
            "steps": self.steps,
            "updated_at": self._updated_at,
            "links": {name: positions.cpu().clone() for name, positions in self._links.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict()`; load the sparsifier's state first.

        Raises:
            ValueError: if the state has a different number of steps or different links; in this case nothing is
                changed.
        """
        if state["steps"] != self.steps:
            raise ValueError(
                f"the saved state has a link_warmup of {state['steps']} steps but this LinkWarmup has {self.steps}; "
                "build it with the saved number."
            )
        masks = self._sparsifier.masks
        links = {name: positions.to(masks[name].device) for name, positions in state["links"].items() if name in masks}
        known = (torch.isin(positions, masks[name].flatten().nonzero()).all() for name, positions in links.items())
        if len(links) < len(state["links"]) or not all(known):
            raise ValueError(
                "the saved new links are not among the links of the sparsifier; load the sparsifier's state first, "
                "from the same step of the same run."
            )
        self._links, self._updated_at = links, state["updated_at"]

    def _notice(self, name: str, positions: Tensor) -> None:
        self._links[name], self._updated_at = positions, self._sparsifier.steps

    @property
    def _share(self) -> float:
        """The share of the optimizer's step that new links take now."""
        return (self._sparsifier.steps + 1 - self._updated_at) / self.steps

    @torch.no_grad()
    def _remember(self, *_: object) -> None:
        # Forget the links after the warm-up, after a return to an earlier step, or if a newer sparsifier took over.
        if not 0 < self._share < 1 or not self._sparsifier.is_attached:
            self._links.clear()
        self._before = {name: self._weights[name].weights_at(where) for name, where in self._links.items()}

    @torch.no_grad()
    def _blend(self, *_: object) -> None:
        for name, before in self._before.items():
            weight, where = self._weights[name], self._links[name]
            weight.set_weights(where, before + self._share * (weight.weights_at(where) - before))
        self._before.clear()
