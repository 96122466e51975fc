"""The checks that `conformance` runs on a method."""

import copy
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chts_core import link_prediction, sampling
from chts_core.choices import Correlated, MissingLinkScore
from chts_core.lab.verify.formulas import (
    DEFINITIONS,
    best,
    fits,
    links_of,
    mask_of,
    missing_scores,
    ranked,
    removal_scores,
    successive,
    successive_in_blocks,
    wants_gradient,
)
from chts_core.lab.verify.published.recordings import Outcome
from chts_core.lab.verify.small_runs import (
    SMALL_GRADIENT,
    SMALL_KEPT,
    SMALL_MASK,
    Run,
    from_zero,
    small_updates,
    small_weights,
    with_constant_sparsity,
)
from chts_core.lab.verify.specification import EVERY, STEPS, STOP, Spec, constant, exchanged_at, links_at
from chts_core.methods import Method

# A check recognises a new link by its weight: only new links that start from zero have weight zero.
_NOT_TOLD_APART = "new links start from their last weight, so they look like survivors"


def _exact_links(method: Method, spec: Spec, device: str) -> Outcome:
    """Every layer has its scheduled number of links after every step."""
    run = Run(method, device=device)
    counts = 0
    for step in range(STEPS + 1):
        if step:
            run.train(step, step)
        for name, mask in run.sparsifier.masks.items():
            expected = links_at(spec, step, mask.numel())
            if int(mask.sum()) != expected:
                return False, f"{name} has {int(mask.sum())} links after step {step}; expected {expected}"
            counts += 1
    return True, f"{counts} counts"


def _weights(method: Method, spec: Spec, device: str) -> Outcome:
    """Absent links have zero weight, gradient and moments. New links start with zero gradient and moments. Their
    weights start from zero, or from their last weights if the method remembers these. An update does not change the
    weights of surviving links.
    """
    run = Run(method, device=device)
    past: dict[str, dict[tuple[int, int], float]] = {name: {} for name in run.sparsifier.masks}
    returned = 0
    for step in range(1, STEPS + 1):
        run.backward_and_step(step)
        old, trained = run.masks(), {name: run.weight(name).detach().clone() for name in run.sparsifier.masks}
        run.sparsifier.step()
        for name, mask in run.sparsifier.masks.items():
            weight = run.weight(name)
            moments = [value for value in run.optimizer.state[weight].values() if value.shape == weight.shape]
            for tensor in (weight.detach(), run.gradient(name), *moments):
                if tensor[~mask].any():
                    return False, f"an absent link of {name} has a weight, gradient or moment after step {step}"
            for tensor in (run.gradient(name), *moments):
                if tensor[mask & ~old[name]].any():
                    return False, f"a new link of {name} has a gradient or a moment at step {step}"
            known = past[name] if spec.history else {}
            for link in links_of(mask & ~old[name]):
                returned += link in known
                if (first := weight[link].item()) != known.get(link, 0.0):
                    return False, f"a new link of {name} starts from {first:.3g} at step {step}"
            changed = (weight.detach() != trained[name]) & mask & old[name]
            if (changed & (weight.detach() != 0)).any() or (spec.history and changed.any()):
                return False, f"an update changed the weight of a surviving link of {name} at step {step}"
            past[name] |= {link: float(trained[name][link]) for link in links_of(old[name] & ~mask)}
    if spec.history and spec.shows and not returned:
        return False, "no link was ever regrown after its removal"
    return True, f"{STEPS} steps" + (f", {returned} links came back" if spec.history else "")


def _exchange(method: Method, spec: Spec, device: str) -> Outcome:
    """An update removes and regrows as many links as the turnover says.

    It exchanges more links than this number if percolation removes links, or if pruned links return. It exchanges no
    links after the turnover has stopped.
    """
    run = Run(method, device=device)
    run.train(1, STEPS)
    shapes = {name: mask.numel() for name, mask in run.sparsifier.masks.items()}
    rows = {(row["step"], row["layer"]): row for row in run.sparsifier.history}
    stopped: set[str] = set()
    total = 0
    for step in range(EVERY, STEPS + 1, EVERY):
        waits = spec.together and stopped != shapes.keys()
        over = set() if waits else stopped.copy()
        for name, size in shapes.items():
            target = links_at(spec, step, size)
            expected = 0 if name in over else exchanged_at(spec, step, size)
            row = rows.get((step, name))
            removed, regrown = (row["removed"], row["regrown"]) if row else (0, 0)
            pruned = links_at(spec, step - EVERY, size) - target
            expected += max(-pruned, 0)  # the links that the layer gains
            more = spec.percolate or spec.returning
            if removed - regrown != pruned or regrown < expected or (regrown > expected and not more):
                return (
                    False,
                    f"{name}: {removed} removed, {regrown} regrown at step {step}; expected {expected} regrown",
                )
            is_last = target == links_at(spec, spec.stop, size)  # no layer stops before its final number of links
            if row and is_last and name not in over and spec.early_stop is not None:
                stopped |= {name} if row["overlap"] > spec.early_stop else set()
            total += regrown
    return True, f"{total} links exchanged"


def _removal(method: Method, spec: Spec, device: str) -> Outcome:
    """A hard removal takes the links with the lowest scores. In a soft removal, every outcome of an update has the
    right frequency.
    """
    if spec.zeta == 0 and spec.sparsity(spec.stop) == spec.sparsity(0):
        return None, "no link is ever removed"
    if spec.returning:
        return _returning(method, spec, device)
    if spec.regrowth == "magnitude":
        return None, _NOT_TOLD_APART
    if spec.temperature is None:
        return _lowest_go(method, spec, device)
    if spec.prune is not None:  # with a turnover of zero, an update only prunes
        stays = replace(method.turnover, zeta=0.0, early_stop=None, together=False)
        only_pruned = replace(method, turnover=stays, removal=replace(method.removal, percolate=False))
        passed, detail = _lowest_go(only_pruned, replace(spec, zeta=0, removal=spec.prune, percolate=False), device)
        if not passed:
            return passed, f"pruning: {detail}"
    if spec.removes_by_block:
        return None, "this check has no formula for a soft removal by blocks"
    scores = removal_scores(spec.removal, small_weights(), SMALL_GRADIENT, SMALL_MASK)
    exponent = spec.temperature(EVERY)
    odds = {link: float(scores[link]) ** exponent for link in links_of(SMALL_MASK)}
    outcomes = small_updates(method, device)
    return fits(Counter(survivors for survivors, _ in outcomes), successive(odds, SMALL_KEPT))


def _lowest_go(method: Method, spec: Spec, device: str) -> Outcome:
    """The first update removes the links with the lowest scores. If several links have the same score, it may remove
    any of them.
    """
    run = Run(from_zero(method), device=device)
    run.train(1, EVERY - 1)
    run.backward_and_step(EVERY)
    old = run.masks()
    trained = {name: (run.weight(name).detach().clone(), run.gradient(name).clone()) for name in old}
    run.sparsifier.step()
    for name, mask in old.items():
        rows, columns = mask.shape
        shares = spec.shares(links_at(spec, EVERY, mask.numel()), (rows, columns))
        there = mask.reshape(len(shares), -1).sum(1).tolist()
        nums = list(map(min, shares, there))
        possible, _ = ranked(removal_scores(spec.prune or spec.removal, *trained[name], mask), mask, nums)
        kept = sum(nums) - exchanged_at(spec, EVERY, mask.numel())
        certain = torch.zeros_like(mask)
        if int(possible.sum()) == sum(nums):  # pruning is deterministic
            scores = removal_scores(spec.removal, *trained[name], possible)
            by_block = list(map(min, spec.shares(kept, (rows, columns)), nums)) if spec.removes_by_block else [kept]
            possible, certain = ranked(scores, possible, by_block)
        survivors = mask & (run.weight(name).detach() != 0)
        # Percolation removes more links and never adds any.
        if (survivors & ~possible).any() or (
            not spec.percolate and (int(survivors.sum()) != kept or (certain & ~survivors).any())
        ):
            return False, f"the surviving links of {name} are not the links with the highest scores"
    return True, "the links with the highest scores survive"


def _returning(method: Method, spec: Spec, device: str) -> Outcome:
    """After every update, the network has the links with the largest weights among all links that ever existed."""
    run = Run(method, device=device)
    past = {name: torch.zeros(mask.shape, device=device) for name, mask in run.sparsifier.masks.items()}
    returned = 0
    for step in range(1, STEPS + 1):
        run.backward_and_step(step)
        old = run.masks()
        for name, mask in old.items():
            past[name][mask] = run.weight(name).detach()[mask]
        run.sparsifier.step()
        if step % EVERY or step > spec.stop:
            continue
        for name, mask in run.sparsifier.masks.items():
            num = links_at(spec, step, mask.numel())
            expected = best(past[name].abs(), past[name] != 0, num)
            new = mask.cpu() & ~expected  # only a layer that gains links needs links that never existed
            if (expected & ~mask.cpu()).any() or int(new.sum()) != num - int(expected.sum()):
                return False, f"the links of {name} are not the links with the largest weights at step {step}"
            returned += int((mask & ~old[name]).sum())
    return returned > 0, f"the largest weights survive, and {returned} links came back"


def _percolation(method: Method, spec: Spec, device: str) -> Outcome:
    """Before regrowth, each neuron between the two sparse layers has links on both sides or on neither."""
    if not spec.percolate:
        return None, "the method leaves incomplete links"
    if spec.regrowth == "magnitude":
        return None, _NOT_TOLD_APART
    cut = planned = 0
    for seed in range(10):
        sparse = with_constant_sparsity(method)  # sparse from the start
        run = Run(from_zero(sparse), seed=seed, device=device)
        sizes = {name: mask.numel() for name, mask in run.sparsifier.masks.items()}
        goes = {name: exchanged_at(replace(spec, sparsity=constant), EVERY, size) for name, size in sizes.items()}
        if not any(goes.values()):
            return None, "the first update exchanges no link"
        run.train(1, EVERY)
        first, second = (run.weight(name).detach() != 0 for name in run.sparsifier.masks)
        incomplete = first.any(dim=1) != second.any(dim=0)
        if incomplete.any():
            return False, f"{int(incomplete.sum())} hidden neurons have links on only one side"
        planned += sum(goes.values())
        cut += sum(row["removed"] for row in run.sparsifier.history)
    return cut > planned or not spec.shows, f"{cut} links removed, {planned} of them by their scores"


def _regrowth(method: Method, spec: Spec, device: str) -> Outcome:
    """A hard regrowth takes the links with the highest scores. In a soft or random regrowth, every outcome has the
    right frequency.
    """
    if spec.zeta == 0:
        return None, "no link is ever regrown"
    if spec.regrowth == "magnitude":
        return None, _NOT_TOLD_APART
    if not spec.soft and wants_gradient(spec.regrowth):
        return _regrowth_by_gradient(method, spec, device)
    # A hard removal leaves the same survivors every time.
    hard = replace(method.removal, score="magnitude", temperature=None, percolate=False, prune=None)
    outcomes = small_updates(replace(method, removal=hard), device)
    (survivors,) = {survivors for survivors, _ in outcomes}
    alive = mask_of(survivors, SMALL_MASK.shape)
    scores = missing_scores(spec.regrowth, alive, SMALL_GRADIENT)
    nums = _regrown(spec, int(SMALL_MASK.sum()), alive)
    if spec.soft:
        return fits(Counter(regrown for _, regrown in outcomes), successive_in_blocks(scores, ~alive, nums))
    possible, certain = ranked(scores, ~alive, nums)
    for _, regrown in outcomes:
        if not links_of(certain) <= regrown <= links_of(possible) or len(regrown) != sum(nums):
            return (
                False,
                f"the links {sorted(regrown)} were regrown; {sorted(links_of(possible))} have the highest scores",
            )
    return True, "the links with the highest scores are regrown"


def _regrown(spec: Spec, total: int, survivors: Tensor) -> list[int]:
    """The number of links that each block regrows."""
    rows, columns = survivors.shape
    shares = spec.shares(total, (rows, columns))
    there = survivors.reshape(len(shares), -1).sum(1).tolist()
    return [share - links for share, links in zip(shares, there, strict=True)]


def _regrowth_by_gradient(method: Method, spec: Spec, device: str) -> Outcome:
    """The first update regrows the links with the largest gradients. If several links have the same gradient, it may
    regrow any of them.
    """
    run = Run(from_zero(method), device=device)
    run.train(1, EVERY - 1)
    dense = copy.deepcopy(run.model)
    dense.zero_grad()
    nn.functional.cross_entropy(dense(run.images[EVERY - 1]), run.labels[EVERY - 1]).backward()
    run.train(EVERY, EVERY)
    for name, mask in run.sparsifier.masks.items():
        gradient = dense.get_parameter(name).grad
        assert gradient is not None
        survivors = mask & (run.weight(name).detach() != 0)
        nums = _regrown(spec, links_at(spec, EVERY, mask.numel()), survivors)
        scores, come = missing_scores(spec.regrowth, survivors, gradient), mask & ~survivors
        possible, certain = ranked(scores, ~survivors, nums)
        if (come & ~possible).any() or (certain & ~come).any() or int(come.sum()) != sum(nums):
            return False, f"the regrown links of {name} are not the links with the largest gradients"
    return True, "the links with the largest gradients are regrown"


def _scores(method: Method, spec: Spec, device: str) -> Outcome:
    """On random networks, the link predictor agrees with its definition in terms of sets."""
    if not isinstance(spec.regrowth, str):
        return _own_scores(spec.regrowth)
    if spec.regrowth not in DEFINITIONS:
        known = spec.regrowth in link_prediction.PREDICTORS
        return None, f"this check has no formula for {spec.regrowth}" if known else "no link prediction"
    worst = 0.0
    for mask in _networks():
        expected = DEFINITIONS[spec.regrowth](mask)
        given = link_prediction.PREDICTORS[str(method.regrowth.score)](mask.to(device)).double().cpu()
        worst = max(worst, float(((given - expected).abs() / expected.clamp_min(1e-12)).max()))
    return worst < 1e-6, f"relative error {worst:.1e}"


def _networks() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for shape, density in itertools.product(((6, 9), (12, 7), (1, 5), (10, 10)), (0.1, 0.3, 0.6)):
        yield torch.rand(shape, generator=generator) < density


def _own_scores(score: MissingLinkScore) -> Outcome:
    """A custom predictor computes valid scores for layers of any shape, and the same scores when it runs again."""
    generator = torch.Generator().manual_seed(0)
    number = 0
    for number, mask in enumerate(_networks(), start=1):  # noqa: B007
        gradient = torch.randn(mask.shape, generator=generator)
        found, again = (missing_scores(score, mask, gradient) for _ in range(2))
        if found.shape != mask.shape:
            return False, f"scores of shape {tuple(found.shape)} for a layer of {tuple(mask.shape)}"
        missing = found[~mask]
        if not (missing.isfinite() & (missing >= 0)).all():
            return False, "a score is negative or not finite"
        if not torch.equal(missing, again[~mask]):
            return False, "two computations of the scores of one network differ"
    return True, f"for {number} networks, the scores are finite, at least 0, and the same when computed again"


def _resume(method: Method, spec: Spec, device: str) -> Outcome:
    """A run that is interrupted at any step and resumed in a new model equals the undisturbed run, bit for bit."""
    uncut, saved = Run(method, device=device), Run(method, device=device)
    uncut.train(1, STEPS)
    files = {cut: io.BytesIO() for cut in (1, EVERY, 2 * EVERY + 1, STOP, STEPS - 1)}
    for step in range(1, STEPS + 1):
        saved.train(step, step)
        if step in files:
            torch.save([part.state_dict() for part in (saved.model, saved.optimizer, saved.sparsifier)], files[step])
    for cut, file in files.items():
        file.seek(0)
        resumed = Run(method, weight_seed=1, device=device)
        parts: tuple[Any, ...] = (resumed.model, resumed.optimizer, resumed.sparsifier)
        for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        resumed.train(cut + 1, STEPS)
        same = all(torch.equal(uncut.sparsifier.masks[name], mask) for name, mask in resumed.sparsifier.masks.items())
        weights = zip(uncut.model.parameters(), resumed.model.parameters(), strict=True)
        same &= all(torch.equal(one, two) for one, two in weights)
        if not same:
            return False, f"a run that is interrupted at step {cut} continues differently"
    return True, "5 cuts"


def _links_alone(method: Method, spec: Spec, device: str) -> Outcome:
    """A run that stores only links has the same links as the masked run, and the same outputs up to rounding."""
    sgd = not spec.shows  # for the paper's methods, rounding is known not to matter
    masked, alone = Run(method, sgd=sgd, device=device), Run(method, execution="csr", sgd=sgd, device=device)
    for run in (masked, alone):
        run.train(1, STEPS)
    if not all(torch.equal(masked.sparsifier.masks[name], mask) for name, mask in alone.sparsifier.masks.items()):
        return False, "the links differ from the links of the masked run"
    with torch.no_grad():
        difference = float((masked.model(masked.images) - alone.model(alone.images)).abs().max())
    return difference < 1e-3, f"outputs differ by {difference:.0e}"


def _devices(method: Method, spec: Spec, device: str) -> Outcome:
    """The same generator state gives the same links on every device."""
    if not torch.cuda.is_available():
        return None, "no CUDA device"
    if isinstance(method.topology, Correlated):
        return None, "the first links depend on correlations of the inputs, and this check has no inputs"
    masks = []
    for place in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        mask = method.topology(64, 96, 0.1, generator=generator).to(place)
        scores = torch.linspace(0.1, 1, mask.numel(), device=place).view(mask.shape)
        kept = sampling.keep(scores, mask, int(mask.sum()) * 2 // 3, generator=generator)
        grown = sampling.draw(scores, ~kept, 100, soft=method.regrowth.soft, generator=generator)
        masks.append((kept | grown).cpu())
    return torch.equal(*masks), "CPU and CUDA"


CHECKS: dict[str, Callable[[Method, Spec, str], Outcome]] = {
    "links": _exact_links,
    "weights": _weights,
    "exchange": _exchange,
    "removal": _removal,
    "percolation": _percolation,
    "regrowth": _regrowth,
    "scores": _scores,
    "resume": _resume,
    "csr": _links_alone,
    "devices": _devices,
}
