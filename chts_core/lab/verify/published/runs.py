"""Compare the numbers of removed and regrown links in our runs with the numbers recorded from the MLP script and
`--gmp`.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.budget import Budget
from chts_core.lab.verify.published.recordings import Outcome, budget_of, mask_of, recorded, wrong_skips
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier


def _of_mlp(method: Method) -> tuple[dict[str, Any], Budget]:
    content = recorded("mlp_runs")
    every = content["steps per epoch"]
    return content, budget_of(method, content["shapes"], content["epochs"] * every, every)


def same_counts(method: Method, name: str) -> Outcome:
    """At each update, our run removes and regrows as many links of each layer as the MLP script does."""
    content, budget = _of_mlp(method)
    run = content[name]
    ours = [(row["step"], row["removed"], row["regrown"], row["links"]) for row in _run_of(method).history]
    theirs = [(step, gone, come, after) for step, _, _, _, gone, come, after in run["updates"]]
    if ours != theirs:
        first = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), (len(ours), len(theirs)))
        return False, (
            "our run differs from the recording: (step, removed, regrown, links) of an update, or the number of "
            f"updates, is {first[0]}; the recording has {first[1]}"
        )
    wrong = wrong_skips(method, budget, run["optimizer skips"])
    return wrong is None, wrong or f"{len(theirs)} updates"


def _run_of(method: Method) -> Sparsifier:
    """Do a training run with the length and the layer shapes of the MLP script's recorded runs."""
    content, budget = _of_mlp(method)
    layers: list[nn.Module] = []
    for outputs, inputs in content["shapes"]:
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(content["shapes"][-1][0], 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9)
    timeline = budget.timeline
    sparsifier = Sparsifier(
        model, optimizer, method, budget.sparsity, total_steps=timeline.total_steps, update_every=timeline.update_every
    )
    images = torch.randn(16, content["shapes"][0][1], generator=torch.Generator().manual_seed(0))
    for _ in range(timeline.total_steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(16) % 10).backward()
        optimizer.step()
        sparsifier.step()
    return sparsifier


def stops_together(method: Method) -> Outcome:
    """The removal by scores takes as many links as it does in the MLP script for CHT, except that the script rounds
    down. When the overlap of a layer has exceeded the limit of the early stop, the updates of this layer continue
    until the overlaps of all layers have exceeded the limit.
    """
    content, budget = _of_mlp(method)
    run = content["cht, soft regrowth"]
    for step, layer, before, planned, removed, regrown, after in run["updates"]:
        links, exchanged = budget.links(step)[str(layer)], budget.exchanged(step)[str(layer)]
        if not before == after == links:
            return False, f"layer {layer} has {links} links at step {step}; the recording has {after}"
        if not (planned == math.floor(budget.zeta(step) * links) and 0 <= exchanged - planned <= 1):
            return (
                False,
                f"{exchanged} links of layer {layer} are exchanged at step {step}; the recording has {planned}",
            )
        assert planned <= removed == regrown  # percolation removes more
    stopped = content["cht, random regrowth, stops at 0"]
    signalled = [layer for step, layer, now, _ in stopped["stop signals"] if step == 2 and now]
    went_on = {layer for step, layer, *_ in stopped["updates"] if step == 4}
    together = bool(signalled) and went_on.issuperset(signalled)
    if method.turnover.early_stop is None or method.turnover.together != together:
        return False, "each layer stops on its own, or no layer stops early; in the recording, all layers stop together"
    wrong = wrong_skips(method, budget, run["optimizer skips"])
    return wrong is None, wrong or f"{len(run['updates'])} updates"


def excess(method: Method) -> Outcome:
    """As in the MLP script with `--EM_S`, each layer regrows as many links as it has in excess of its final number of
    links. Because of percolation, the script's numbers of links change over time.
    """
    content, budget = _of_mlp(method)
    run = content["chts"]
    for step, layer, before, _, removed, _, after in run["updates"]:
        ours, theirs = budget.exchanged(step)[str(layer)], after - before + removed
        above = budget.links(step)[str(layer)] - budget.links(budget.timeline.total_steps)[str(layer)]
        if not ours == above == theirs:
            return False, f"{ours} links of layer {layer} are regrown at step {step}; the recording has {theirs}"
    wrong = wrong_skips(method, budget, run["optimizer skips"])
    return wrong is None, wrong or f"{len(run['updates'])} updates"


def returning_run(method: Method, name: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Train one layer with the weights, the network and the gradients that were recorded from `--gmp`. For each update,
    return the weights before it, and the mask and the weights after it.
    """
    content = recorded("gmp")
    run = content[name]
    method = replace(method, turnover=replace(method.turnover, skip_optimizer=True))
    dense = torch.tensor(run["dense"])
    layer = nn.Linear(dense.shape[1], dense.shape[0], bias=False)
    layer.weight.data = dense
    optimizer = torch.optim.SGD(layer.parameters(), lr=content["lr"])
    sparsifier = Sparsifier(
        nn.Sequential(layer), optimizer, method, content["sparsity"],
        total_steps=content["steps"], update_every=content["every"], seed=0, exclude=(),
        initial_masks={"0.weight": mask_of(run["initial"])},
    )  # fmt: skip
    updates = []
    for step, gradient in enumerate(content["gradients"], 1):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        (layer.weight * torch.tensor(gradient)).sum().backward()
        optimizer.step()
        sparsifier.step()
        if step % content["every"] == 0:
            updates.append((before, sparsifier.masks["0.weight"].clone(), layer.weight.detach().clone()))
    return updates


def returns(method: Method) -> Outcome:
    """Our run has the same links as the LLaMA script with `--gmp` and a history of earlier links, until the first
    removed links return. Links return with weight 0 in the script, but with their last weight here (paper, Appendix
    G.2).
    """
    run = recorded("gmp")["history of links that were"]
    alive = mask_of(run["initial"])
    for (before, mask, after), (step, their_before, rows, _) in zip(
        returning_run(method, "history of links that were"), run["updates"], strict=True
    ):
        if not torch.allclose(before, torch.tensor(their_before), rtol=1e-5, atol=1e-6):
            return False, f"the weights before step {step} differ"
        if not torch.equal(mask, mask_of(rows)):
            return False, f"the links after step {step} differ"
        come = mask & ~alive
        if come.any():
            with_weight = int(after[come].count_nonzero())
            return with_weight == int(come.sum()), f"{with_weight} links return, at step {step}"
        alive = mask
    return False, "no link returned"
