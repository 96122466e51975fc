"""Compare a method with the published command of the same name, using numbers recorded from that command.

The files in this folder contain the results of the authors' two code bases for fixed weights, networks and seeds.
`tests/published/README.md` in the repository says how each file was made. The files contain only numbers and no code.
Random results are compared as distributions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from chts_core import link_prediction, removal, topology
from chts_core.choices import Correlated, value_at
from chts_core.engine.weights import PastWeights
from chts_core.lab.verify.published.recordings import Outcome, budget_of, links_of, mask_of, recorded, wrong_skips
from chts_core.lab.verify.published.runs import excess, returns, same_counts, stops_together
from chts_core.methods import Method
from chts_core.percolation import LayerGraph, percolate
from chts_core.schedules import Timeline


@dataclass(frozen=True)
class Command:
    """A published command, described by the names of its recordings.

    counts: a function that compares, with the recordings, how many links a method removes and regrows at each update,
        and which steps the optimizer skips.
    removal: recorded scores by which links are removed.
    odds: recorded probabilities with which links survive a soft removal; None for a hard removal.
    prune: recorded scores by which links are pruned when the density falls; None for the scores of `removal`.
    percolates: whether incomplete links are removed.
    regrowth: recorded scores of missing links, or "random"; None if there are no new links.
    sampled: True if the command draws links by these scores, and False if it takes the links with the highest scores;
        None if the command does not run, or has no such scores.
    csti: whether the command starts from the correlations of its inputs.
    """

    counts: Callable[[Method], Outcome]
    removal: str
    odds: str | None = None
    prune: str | None = None
    percolates: bool = False
    regrowth: str | None = "random"
    sampled: bool | None = None
    csti: bool = False


# --- numbers of removed and regrown links ---


def _of_transformer(method: Method) -> Outcome:
    """The method has as many links as the Transformer script.

    If rounding makes a product of floats fall just below a whole number, the script has one link fewer. The script's
    soft regrowth draws at least one link, so a layer that should exchange no links gains one link.
    """
    content = recorded("transformer")
    budget = budget_of(method, content["shapes"], content["steps"], content["every"])
    for step, layer, before, planned, removed, regrown, after in content["updates"]:
        links = budget.links(step)[str(layer)]
        if planned != math.floor(budget.zeta(step) * before) or (removed and not before == after == links - 1):
            zeta = budget.zeta(step)
            return False, f"at step {step}, layer {layer} has {links} links and ζ {zeta}; the recording has {after}"
        assert planned <= removed == regrown or (removed, planned, regrown) == (0, 0, 1)
    steps = {step for step in budget.updates() if budget.zeta(step) > 0}
    if steps != {step for step, *_ in content["updates"]}:
        return False, f"updates at {sorted(steps)}"
    if method.turnover.skip_optimizer:
        return False, "the optimizer skips the step before an update; the script takes it with a learning rate of 0"
    return True, f"{len(content['updates'])} updates"


def _of_llama(method: Method, name: str) -> Outcome:
    """The method has as many links as the LLaMA script, except that the script rounds down."""
    content = recorded("llama")[name]
    budget = budget_of(method, content["shapes"], content["steps"], content["every"])
    first = [budget.links(0)[str(layer)] for layer in range(len(content["shapes"]))]
    if first != content["initial"]:
        return False, f"the run starts with {first} links; the recording has {content['initial']}"
    for step, layer, _, pruned, kept, after, *_ in content["updates"]:
        links, exchanged = budget.links(step)[str(layer)], budget.exchanged(step)[str(layer)]
        if not (0 <= pruned - after <= 1 and 0 <= links - after <= 2):
            return False, f"layer {layer} has {links} links after step {step}; the recording has {after}"
        if pruned - kept != math.floor(budget.zeta(step) * pruned) or not 0 <= exchanged - (pruned - kept) <= 1:
            wanted = pruned - kept
            return False, f"{exchanged} links of layer {layer} are removed at step {step}; the recording has {wanted}"
    wrong = wrong_skips(method, budget, content["optimizer skips"])
    return wrong is None, wrong or f"{len(content['updates'])} updates"


def _counts(method: Method, command: Command) -> Outcome:
    """Compare the numbers of removed and regrown links at every update. A method with an early stop fails, unless the
    recorded command has an early stop, too.
    """
    if method.turnover.early_stop is not None and command.counts is not stops_together:
        return False, "layers may stop early; in the recording, no layer does"
    return command.counts(method)


# --- removed links ---


def temperature_of(method: Method, step: int, end: int) -> float | None:
    """The temperature of the removal at a step, if the turnover ends at step `end`; None for a hard removal."""
    given = method.removal.temperature
    return None if given is None else value_at(given, step, Timeline(end, 1, 1.0))


def _scores_of(score: str | removal.LinkScore, recording: str) -> float:
    """The largest relative difference between a score and its recorded values, over the recorded links."""
    content = recorded("removal")
    weights = [torch.tensor(weight) for weight in content["weights"]]
    gradient = torch.tensor(content["gradient"])
    theirs = [content[recording]] if recording == "mlp mest" else content[recording]
    worst = 0.0
    for number, (weight, expected) in enumerate(zip(weights, map(torch.tensor, theirs), strict=False)):
        ours = removal.scores_of(links_of(weight, gradient if number == 0 else torch.zeros_like(weight)), score).float()
        expected = expected[weight != 0]
        worst = max(worst, float(((ours - expected).abs() / expected).max()))
    return worst


def _removal(method: Method, command: Command) -> Outcome:
    """The removal uses the recorded scores. In a soft removal, links survive with the recorded probabilities."""
    if method.removal.returning or command.regrowth is None:
        return None, "the check 'counts' covers the links that return"
    pruning = method.removal.prune or method.removal.score
    for score, recording in ((method.removal.score, command.removal), (pruning, command.prune or command.removal)):
        if _scores_of(score, recording) > 1e-5:
            return False, f"{score} differs from the recorded {recording}"
    if command.odds is None:
        soft = method.removal.temperature is not None
        return not soft, "the removal is soft; it is hard in the recording" if soft else "scores"
    content = recorded("removal")
    weight = torch.tensor(content["weights"][0])
    asked: list[tuple[float | None, float, Any]]  # our temperature, the recorded one, and the recorded probabilities
    if command.odds.startswith("mlp"):
        steps = zip(content["steps"], content[command.odds], strict=True)
        asked = [(temperature_of(method, step, 100), theirs, odds) for step, (theirs, odds) in steps]
    else:
        steps = recorded("schedules")["llama temperature"]
        asked = [(temperature_of(method, step, int(end)), theirs, None) for step, end, theirs in steps]
        asked += [(temperature, temperature, odds) for temperature, odds in content[command.odds]]
    for ours, theirs, odds in asked:
        if ours is None or not math.isclose(ours, theirs, rel_tol=1e-12):
            return False, f"the temperature is {ours}; the recording has {theirs}"
        if odds is not None:
            links = removal.scores_of(links_of(weight), method.removal.score).double()
            expected = torch.tensor(odds, dtype=torch.float64)[weight != 0]
            if not torch.allclose(links**ours / (links**ours).sum(), expected, rtol=1e-4, atol=1e-12):
                return False, f"probabilities differ at temperature {ours}"
    return True, f"scores, {len(asked)} temperatures"


def _percolation(method: Method, command: Command) -> Outcome:
    """The method removes the same incomplete links as the command, or none if the command removes none."""
    if command.regrowth is None:
        return None, "not recorded"
    if method.removal.percolate != command.percolates:
        return False, f"incomplete links {'are removed' if method.removal.percolate else 'stay'}; the recording differs"
    if not command.percolates:
        return True, "incomplete links stay"
    networks = recorded("percolation")["mlp"]
    for given, theirs in networks:
        masks = {str(layer): mask_of(rows) for layer, rows in enumerate(given)}
        ours = percolate(masks, LayerGraph(chains=(tuple(masks),)))
        if not all(torch.equal(ours[str(layer)], mask_of(rows)) for layer, rows in enumerate(theirs)):
            return False, "the removed links differ from the recording"
    return True, f"{len(networks)} networks"


# --- regrown links ---


def chances(odds: Tensor, counts: Mapping[str, int]) -> dict[str, float]:
    """Probability of each recorded set of links, if links with these odds are drawn one by one, without replacement."""
    flat = odds.flatten().tolist()

    def chance(links: Sequence[int]) -> float:
        found = 0.0
        for order in permutations(links):
            left, product = sum(flat), 1.0
            for link in order:
                product *= flat[link] / left
                left -= flat[link]
            found += product
        return found

    positions = {name: mask_of(name.split("/")).flatten().nonzero().squeeze(1).tolist() for name in counts}
    return {name: chance(links) for name, links in positions.items()}


def drawn_so(odds: Tensor, counts: Mapping[str, int]) -> bool:
    """Whether a chi-square test accepts that the recorded sets were drawn with these odds; rare sets form one group."""
    total = sum(counts.values())
    expected = chances(odds, counts)
    if not math.isclose(
        sum(expected.values()), 1, abs_tol=1e-3
    ):  # the recordings lack possible sets, or contain impossible sets
        return False
    common = [name for name, chance in expected.items() if chance * total >= 5]
    *common, least = sorted(common, key=lambda name: -expected[name])
    rest = [name for name in expected if name not in common]
    assert least in rest
    observed = [counts[name] for name in common] + [sum(counts[name] for name in rest)]
    wanted = [expected[name] for name in common] + [sum(expected[name] for name in rest)]
    scale = total / sum(wanted)
    return float(stats.chisquare(observed, [value * scale for value in wanted]).pvalue) > 1e-4


def _regrowth(method: Method, command: Command) -> Outcome:
    """Missing links have the recorded scores. As in the command, the new links are either drawn by their scores, or are
    the links with the highest scores.
    """
    if command.regrowth in (None, "random"):
        if command.regrowth is None:
            return None, "not recorded"
        return method.regrowth.score == "random" and method.regrowth.soft, f"by {method.regrowth.score}"
    if method.regrowth.score not in link_prediction.PREDICTORS:
        return False, f"regrowth by {method.regrowth.score}; the recording has {command.regrowth}"
    predictor = link_prediction.PREDICTORS[method.regrowth.score]
    content = recorded("scores")
    for rows, theirs in zip(content["masks"], content[command.regrowth], strict=True):
        if not torch.allclose(predictor(mask_of(rows)), torch.tensor(theirs), rtol=1e-5, atol=0):
            return False, f"{method.regrowth.score} differs from the recorded {command.regrowth}"
    if command.sampled is None:
        return not method.regrowth.soft, "scores; the command itself does not run"
    if method.regrowth.soft != command.sampled:
        return False, (
            "the links have the highest scores, but the command draws them"
            if command.sampled
            else "the links are drawn, but the command takes the highest scores"
        )
    if command.sampled:
        counts = recorded("draws")[f"regrowth {command.regrowth.split()[1]}"]
        survivors = torch.tensor(recorded("draws")["eleven"]) > 0.5
        return drawn_so(predictor(survivors), counts), f"scores, {sum(counts.values())} draws"
    content = recorded("llama")["regrowth"]
    mask, theirs = mask_of(content["mask"]), mask_of(content["new"][0])
    ours = link_prediction.sample_links(
        mask, int(theirs.sum()), method.regrowth.score, soft=False, generator=torch.Generator().manual_seed(0)
    )
    level = predictor(mask) > predictor(mask)[theirs].min()  # the two programs break ties at the last link differently
    return torch.equal(ours & level, theirs & level), f"scores, the {int(theirs.sum())} highest"


def _weights(method: Method, command: Command) -> Outcome:
    """Regrown links start from the same weights as in the authors' code without `--history_weights`. No published
    command uses this option.

    For links that the same update removes and regrows, see `tests/test_published.py`.
    """
    if command.regrowth is None:
        return None, "the check 'counts' covers the links that return"
    past = PastWeights(torch.float32, torch.device("cpu"))
    came = 0
    for update in recorded("history")["zeros"]:
        before, survivors, after = (mask_of(update[name]) for name in ("before", "survivors", "after"))
        gone, come = before & ~survivors, after & ~survivors & ~before
        past.remember(gone.flatten().nonzero().squeeze(1), torch.tensor(update["weights before"])[gone])
        ours = past.recall(come.flatten().nonzero().squeeze(1))
        if not method.regrowth.history:
            ours = torch.zeros_like(ours)
        if not torch.equal(ours, torch.tensor(update["weights after"])[come]):
            return False, "links come back with their last weight; in the recording, they start from zero"
        came += len(ours)
    return True, f"{came} links from zero"


# --- the first network ---


def correlations() -> Tensor:
    """Absolute correlations |r| of the recorded inputs."""
    correlation = topology.Correlation()
    for batch in torch.tensor(recorded("csti")["data"]).split(7):
        correlation.update(batch)
    return correlation.matrix()


def _first_network(method: Method, command: Command) -> Outcome:
    """The network has the links for the most correlated pairs of inputs. The MLP script takes one link too many, and
    also all links with the same score as this link.
    """
    if isinstance(method.topology, Correlated) != command.csti:
        return False, f"the method starts from {method.topology}; the recorded command does not"
    if not command.csti:
        return None, "at random; not recorded"
    networks = recorded("csti")["networks"]
    matrix = correlations()
    for _, _, wanted, rows in networks:
        theirs = mask_of(rows)
        outputs, inputs = theirs.shape
        generator = torch.Generator().manual_seed(0)
        ours = topology.correlated(outputs, inputs, wanted / theirs.numel(), matrix, generator=generator)
        if int(ours.sum()) != wanted or (ours & ~theirs).any():
            return False, "the links at the start differ from the recording"
    return True, f"{len(networks)} networks"


CHECKS: dict[str, Callable[[Method, Command], Outcome]] = {
    "counts": _counts,
    "removal": _removal,
    "percolation": _percolation,
    "regrowth": _regrowth,
    "weights": _weights,
    "first network": _first_network,
}

# The commands by the names of their presets, or of their methods if they have no preset.
COMMANDS: dict[str, Command] = {
    "set/mlp_code": Command(partial(same_counts, name="set"), "mlp wm"),
    "mest/mlp_code": Command(partial(same_counts, name="mest"), "mlp mest"),
    "cht/mlp_code": Command(stops_together, "mlp wm", percolates=True, regrowth="mlp CH3_L3p", csti=True),
    "chts/r1_readme": Command(
        excess, "mlp wm", percolates=True, regrowth="mlp CH3_L3p", sampled=True, csti=True
    ),
    "chts/mlp_code": Command(
        _of_transformer, "mlp wm", "mlp wm_soft", percolates=True, regrowth="mlp CH2_L3n", sampled=True
    ),
    "chts/llama_code": Command(
        partial(_of_llama, name="chts"), "mlp wm", "llama probabilities", regrowth="llama CH2_L3n", sampled=False
    ),
    "chtss/llama_code": Command(
        partial(_of_llama, name="chtss"), "mlp wm", "llama probabilities", "llama ri", regrowth="llama CH2_L3n",
        sampled=False,
    ),
    "gmp": Command(returns, "mlp wm", regrowth=None),
}  # fmt: skip
