"""Does every method do what it is said to do?

`published` compares the presets of the authors' commands with numbers recorded from those commands
(:mod:`chts_core.lab.verify.published`): a misreading of theirs shows there. `conformance` trains small models by the
nine methods and compares with formulas written a second time below: a slip in one of the two shows there.
"""

import copy
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor, nn

from chts_core import link_prediction, sampling
from chts_core.choices import Constant, Cosine, Removal, Turnover
from chts_core.engine.linear import Execution
from chts_core.lab.verify.published import CHECKS as PUBLISHED_CHECKS
from chts_core.lab.verify.published import COMMANDS, Outcome
from chts_core.methods import METHODS, PRESETS, Method, get_method
from chts_core.percolation import LayerGraph
from chts_core.sparsifier import Sparsifier

STEPS, EVERY, STOP = 48, 2, 36
SPARSITY = 0.9
_DRAWS = 800  # repetitions of an update whose outcomes are counted
_AT_A_TIME = 16  # layers that are updated at a time, each with random numbers of its own

Links = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Spec:
    """What a method must do: a row of the paper's table in the plainest form.

    sparsity: at a step.
    zeta: share exchanged at the first update, or "excess": all links above the final number.
    removal: name of the score; temperature at a step, None for hard.
    prune: name of the score by which links go when there are to be fewer; None: that of the removal.
    regrowth: name of the score, or "random" or "gradient".
    history: whether a link that comes back has its last weight.
    returning: whether links that were pruned come back where they are among the largest.
    early_stop: whether all layers stop once each has come to an overlap of 0.9.
    """

    sparsity: Callable[[int], float]
    zeta: float | Literal["excess"]
    removal: str = "magnitude"
    temperature: Callable[[int], float] | None = None
    percolate: bool = False
    prune: str | None = None
    regrowth: str = "random"
    soft: bool = True
    history: bool = False
    returning: bool = False
    early_stop: bool = False


def _constant(_: int) -> float:
    return SPARSITY


def _cubic(step: int) -> float:
    return SPARSITY + (0.5 - SPARSITY) * (1 - min(step / STOP, 1)) ** 3


def _sigmoid(step: int) -> float:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    u = min(step / (STOP / 2), 1)
    return 0.5 + (SPARSITY - 0.5) * (0.5 + (sigma(6 * (2 * u - 1)) - 0.5) / (sigma(6) - sigma(-6)))


def _staged(step: int) -> float:
    return SPARSITY - (0.05 if step < 0.6 * STOP else 0.025 if step < STOP else 0)


def _one_to_three(step: int) -> float:
    return 1 + 2 * step / STOP


_CHTS = Spec(_constant, 0.3, temperature=_one_to_three, percolate=True, regrowth="ch2_l3n", history=True)
SPECS: dict[str, Spec] = {
    "fc": Spec(lambda _: 0.0, zeta=0),
    "set": Spec(_constant, zeta=0.3),
    "rigl": Spec(_constant, zeta=0.3, regrowth="gradient", soft=False),
    "mest": Spec(_staged, zeta="excess", removal="mest"),
    "gmp": Spec(_cubic, zeta=0, history=True, returning=True),
    "granet": Spec(_cubic, zeta=0.3, regrowth="gradient", soft=False),
    "cht": Spec(_constant, zeta=0.3, percolate=True, regrowth="ch3_l3p", soft=False, early_stop=True),
    "chts": _CHTS,
    "chtss": replace(_CHTS, sparsity=_sigmoid, prune="relative_importance"),
}


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one method; passed is None where it does not apply."""

    method: str
    check: str
    passed: bool | None
    detail: str


def conformance(methods: Mapping[str, Method] = METHODS) -> list[Check]:
    """Check methods against their specification; an exception counts as a failure.

    Args:
        methods: by a name in `SPECS`; by default the nine of the paper.

    Raises:
        ValueError: for a name without a specification.
    """
    unknown = methods.keys() - SPECS.keys()
    if unknown:
        raise ValueError(f"there is no specification of {', '.join(sorted(unknown))}; expected {', '.join(SPECS)}.")
    return [checked(name, method, check) for name, method in methods.items() for check in CHECKS]


def checked(name: str, method: Method, check: str) -> Check:
    """One check of a method, against the specification of that name."""
    return _outcome(name, check, lambda: CHECKS[check](method, SPECS[name]))


def published() -> list[Check]:
    """Check the presets of the published commands against the numbers recorded from those commands."""
    known = METHODS | PRESETS
    return [checked_by_numbers(name, known[name], check) for name in COMMANDS for check in PUBLISHED_CHECKS]


def checked_by_numbers(name: str, method: Method, check: str) -> Check:
    """One check of a method, against the published command of that name."""
    return _outcome(name, check, lambda: PUBLISHED_CHECKS[check](get_method(method), COMMANDS[name]))


def _outcome(name: str, check: str, compare: Callable[[], Outcome]) -> Check:
    try:
        passed, detail = compare()
    except Exception as error:  # a broken method may fail in any way
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, check, passed, detail)


def as_table(results: Sequence[Check]) -> str:
    """One line per method, one column per check, and what failed."""
    marks = {True: "ok", False: "FAIL", None: "-"}
    found = {(result.method, result.check): marks[result.passed] for result in results}
    methods, checks = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True))
    first, width = max(map(len, ("method", *methods))) + 2, max(map(len, checks)) + 2
    lines = ["method".ljust(first) + "".join(check.rjust(width) for check in checks)]
    for method in methods:
        lines.append(method.ljust(first) + "".join(found[method, check].rjust(width) for check in checks))
    failures = [result for result in results if result.passed is False]
    lines += ["", *(f"{result.method}, {result.check}: {result.detail}" for result in failures)]
    passed = sum(result.passed is True for result in results)
    return "\n".join([*lines, f"{passed} passed, {len(failures)} failed"])


def as_record(results: Sequence[Check]) -> list[dict[str, Any]]:
    """The results as JSON takes them."""
    return [asdict(result) for result in results]


# --- a small run, watched ---


class _Run:
    """A small perceptron in training; the seed decides its topology alone."""

    def __init__(self, method: Method, *, seed: int = 0, weight_seed: int = 0, execution: Execution = "masked") -> None:
        generator = torch.Generator().manual_seed(weight_seed)
        self.model = nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            SPARSITY,
            total_steps=STEPS,
            update_every=EVERY,
            seed=seed,
            execution=execution,
        )
        data = torch.Generator().manual_seed(0)
        self.images = torch.randn(STEPS, 8, 20, generator=data)
        self.labels = torch.randint(3, (STEPS, 8), generator=data)

    def weight(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    def gradient(self, name: str) -> Tensor:
        gradient = self.weight(name).grad
        assert gradient is not None
        return gradient

    def backward_and_step(self, step: int) -> None:
        """All of a training step but the Sparsifier's part."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images[step - 1]), self.labels[step - 1]).backward()
        self.optimizer.step()

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.backward_and_step(step)
            self.sparsifier.step()

    def masks(self) -> dict[str, Tensor]:
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}


def _links_at(spec: Spec, step: int, size: int) -> int:
    return round((1 - spec.sparsity(min(step // EVERY * EVERY, STOP))) * size)


def _exchanged_at(spec: Spec, step: int, size: int) -> int:
    """How many links an update removes and regrows by their scores."""
    target = _links_at(spec, step, size)
    if spec.zeta == "excess":
        return target - _links_at(spec, STOP, size)
    return round(spec.zeta / 2 * (1 + math.cos(math.pi * step / STOP)) * target) if step < STOP else 0


def _from_zero(method: Method) -> Method:
    """New links start from zero, to tell them from survivors. `_weights` checks the last weights."""
    return replace(method, regrowth=replace(method.regrowth, history=False))


# --- the checks ---


def _exact_links(method: Method, spec: Spec) -> Outcome:
    """The scheduled number of links in every layer after every step, from the first to the last."""
    run = _Run(method)
    counts = 0
    for step in range(STEPS + 1):
        if step:
            run.train(step, step)
        for name, mask in run.sparsifier.masks.items():
            expected = _links_at(spec, step, mask.numel())
            if int(mask.sum()) != expected:
                return False, f"{name} has {int(mask.sum())} links after step {step}; expected {expected}"
            counts += 1
    return True, f"{counts} counts"


def _weights(method: Method, spec: Spec) -> Outcome:
    """Absent links are zero in weight, gradient and moments. New links start from zero, or from the weight they last
    had where the method remembers it; gradients and moments start from zero. All other weights are left alone."""
    run = _Run(method)
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
                    return False, f"an absent link of {name} is not zero after step {step}"
            for tensor in (run.gradient(name), *moments):
                if tensor[mask & ~old[name]].any():
                    return False, f"a new link of {name} has a gradient or a moment at step {step}"
            known = past[name] if spec.history else {}
            for link in _links(mask & ~old[name]):
                returned += link in known
                if (first := weight[link].item()) != known.get(link, 0.0):
                    return False, f"a new link of {name} starts from {first:.3g} at step {step}"
            changed = (weight.detach() != trained[name]) & mask & old[name]
            if (changed & (weight.detach() != 0)).any() or (spec.history and changed.any()):
                return False, f"a link of {name} that stayed was changed at step {step}"
            past[name] |= {link: float(trained[name][link]) for link in _links(old[name] & ~mask)}
    if spec.history and not returned:
        return False, "no link ever came back"
    return True, f"{STEPS} steps" + (f", {returned} links came back" if spec.history else "")


def _exchange(method: Method, spec: Spec) -> Outcome:
    """As many links removed and regrown as the turnover says; more through percolation, or where pruned links return;
    none after the stop."""
    run = _Run(method)
    run.train(1, STEPS)
    shapes = {name: mask.numel() for name, mask in run.sparsifier.masks.items()}
    rows = {(row["step"], row["layer"]): row for row in run.sparsifier.history}
    overlapped: set[str] = set()
    total = 0
    for step in range(EVERY, STEPS + 1, EVERY):
        stopped = overlapped == shapes.keys()
        for name, size in shapes.items():
            target = _links_at(spec, step, size)
            expected = 0 if stopped else _exchanged_at(spec, step, size)
            row = rows.get((step, name))
            removed, regrown = (row["removed"], row["regrown"]) if row else (0, 0)
            pruned = _links_at(spec, step - EVERY, size) - target
            more = spec.percolate or spec.returning
            if removed - regrown != pruned or regrown < expected or (regrown > expected and not more):
                return (
                    False,
                    f"{name}: {removed} removed, {regrown} regrown at step {step}; expected {expected} regrown",
                )
            if row and spec.early_stop and row["overlap"] > 0.9:
                overlapped.add(name)
            total += regrown
    return True, f"{total} links exchanged"


def _removal(method: Method, spec: Spec) -> Outcome:
    """Hard: the lowest scores go. Soft: every outcome of an update is as frequent as its probability."""
    if spec.zeta == 0 and spec.sparsity(STOP) == spec.sparsity(0):
        return None, "nothing is ever removed"
    if spec.returning:
        return _returning(method, spec)
    if spec.temperature is None:
        return _lowest_go(method, spec)
    if spec.prune is not None:  # by this alone if nothing is exchanged
        only_pruned = replace(method, turnover=Turnover(0.0), removal=replace(method.removal, percolate=False))
        passed, detail = _lowest_go(only_pruned, replace(spec, zeta=0, removal=spec.prune, percolate=False))
        if not passed:
            return passed, f"pruning: {detail}"
    weight = _small_weights()
    scores = _removal_scores(spec, weight * SMALL_MASK, torch.zeros_like(weight))
    exponent = spec.temperature(EVERY)
    odds = {link: float(scores[link]) ** exponent for link in _links(SMALL_MASK)}
    outcomes = _small_updates(method)
    return _fits(Counter(survivors for survivors, _ in outcomes), _successive(odds, SMALL_KEPT))


def _lowest_go(method: Method, spec: Spec) -> Outcome:
    """At the first update."""
    run = _Run(_from_zero(method))
    run.train(1, EVERY - 1)
    run.backward_and_step(EVERY)
    old = run.masks()
    trained = {name: (run.weight(name).detach().clone(), run.gradient(name).clone()) for name in old}
    run.sparsifier.step()
    for name, mask in old.items():
        weight, gradient = trained[name]
        target = _links_at(spec, EVERY, mask.numel())
        pruned = _best(_removal_scores(spec, weight * mask, gradient * mask), mask, min(target, int(mask.sum())))
        scores = _removal_scores(spec, weight * pruned, gradient * pruned)
        expected = _best(scores, pruned, target - _exchanged_at(spec, EVERY, mask.numel()))
        survivors = mask & (run.weight(name).detach() != 0)
        # Percolation takes more away, and never puts any back.
        if (survivors & ~expected).any() or (not spec.percolate and not torch.equal(survivors, expected)):
            return False, f"the survivors in {name} are not those of the highest scores"
    return True, "the highest scores survive"


def _returning(method: Method, spec: Spec) -> Outcome:
    """At every update the largest weights make up the network: those of its links, and those that links had."""
    run = _Run(method)
    past = {name: torch.zeros(mask.shape) for name, mask in run.sparsifier.masks.items()}
    returned = 0
    for step in range(1, STEPS + 1):
        run.backward_and_step(step)
        old = run.masks()
        for name, mask in old.items():
            past[name][mask] = run.weight(name).detach()[mask]
        run.sparsifier.step()
        if step % EVERY or step > STOP:
            continue
        for name, mask in run.sparsifier.masks.items():
            expected = _best(past[name].abs(), past[name] != 0, _links_at(spec, step, mask.numel()))
            if not torch.equal(mask, expected):
                return False, f"the links of {name} are not those of the largest weights at step {step}"
            returned += int((mask & ~old[name]).sum())
    return returned > 0, f"the largest weights survive, {returned} links came back"


def _percolation(method: Method, spec: Spec) -> Outcome:
    """No survivor is incomplete: each hidden neuron has links on both sides or on none, before regrowth."""
    if not spec.percolate:
        return None, "the method leaves incomplete links"
    cut = planned = 0
    for seed in range(10):
        run = _Run(_from_zero(replace(method, sparsity=Constant())), seed=seed)  # sparse enough from the start
        run.train(1, EVERY)
        first, second = (run.weight(name).detach() != 0 for name in run.sparsifier.masks)
        incomplete = first.any(dim=1) != second.any(dim=0)
        if incomplete.any():
            return False, f"{int(incomplete.sum())} hidden neurons have links on one side only"
        for name, mask in run.sparsifier.masks.items():
            planned += _exchanged_at(replace(spec, sparsity=_constant), EVERY, mask.numel())
            cut += sum(row["removed"] for row in run.sparsifier.history if row["layer"] == name)
    return cut > planned, f"{cut} links removed, {planned} of them by their scores"


def _regrowth(method: Method, spec: Spec) -> Outcome:
    """Hard: the highest scores come. Soft or random: every outcome is as frequent as its probability."""
    if spec.zeta == 0:
        return None, "nothing is ever regrown"
    if spec.regrowth == "gradient":
        return _regrowth_by_gradient(method, spec)
    # A hard removal of some links leaves the same survivors every time.
    outcomes = _small_updates(replace(method, removal=Removal("magnitude"), turnover=Turnover(Cosine(0.3))))
    (survivors,) = {survivors for survivors, _ in outcomes}
    alive = _mask(survivors, SMALL_MASK.shape)
    candidates = _links(~alive)
    scores = torch.ones(alive.shape) if spec.regrowth == "random" else DEFINITIONS[spec.regrowth](alive)
    num = len(_links(SMALL_MASK)) - len(survivors)
    if spec.soft:
        return _fits(
            Counter(regrown for _, regrown in outcomes),
            _successive({link: float(scores[link]) for link in candidates}, num),
        )
    highest = sorted((float(scores[link]) for link in candidates), reverse=True)[:num]
    for _, regrown in outcomes:
        taken = sorted((float(scores[link]) for link in regrown), reverse=True)
        if taken != highest:
            return False, f"scores taken {taken}, highest scores {highest}"
    return True, "the highest scores come"


def _regrowth_by_gradient(method: Method, spec: Spec) -> Outcome:
    run = _Run(method)
    run.train(1, EVERY - 1)
    dense = copy.deepcopy(run.model)
    dense.zero_grad()
    nn.functional.cross_entropy(dense(run.images[EVERY - 1]), run.labels[EVERY - 1]).backward()
    run.train(EVERY, EVERY)
    for name, mask in run.sparsifier.masks.items():
        gradient = dense.get_parameter(name).grad
        assert gradient is not None
        survivors = mask & (run.weight(name).detach() != 0)
        expected = _best(gradient.abs(), ~survivors, _links_at(spec, EVERY, mask.numel()) - int(survivors.sum()))
        if not torch.equal(mask & ~survivors, expected):
            return False, f"the links regrown in {name} are not those of the largest gradients"
    return True, "the largest gradients come"


def _scores(method: Method, spec: Spec) -> Outcome:
    """The link predictor equals its definition by sets, on random networks."""
    if spec.regrowth not in DEFINITIONS:
        return None, "no link prediction"
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape, density in itertools.product(((6, 9), (12, 7), (1, 5), (10, 10)), (0.1, 0.3, 0.6)):
        mask = torch.rand(shape, generator=generator) < density
        expected = DEFINITIONS[spec.regrowth](mask)
        given = link_prediction.PREDICTORS[str(method.regrowth.score)](mask).double()
        worst = max(worst, float(((given - expected).abs() / expected.clamp_min(1e-12)).max()))
    return worst < 1e-6, f"relative error {worst:.1e}"


def _resume(method: Method, spec: Spec) -> Outcome:
    """A run cut anywhere and resumed in a fresh model is the uncut run to the bit."""
    uncut, saved = _Run(method), _Run(method)
    uncut.train(1, STEPS)
    files = {cut: io.BytesIO() for cut in (1, EVERY, 2 * EVERY + 1, STOP, STEPS - 1)}
    for step in range(1, STEPS + 1):
        saved.train(step, step)
        if step in files:
            torch.save([part.state_dict() for part in (saved.model, saved.optimizer, saved.sparsifier)], files[step])
    for cut, file in files.items():
        file.seek(0)
        resumed = _Run(method, weight_seed=1)
        parts: tuple[Any, ...] = (resumed.model, resumed.optimizer, resumed.sparsifier)
        for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        resumed.train(cut + 1, STEPS)
        same = all(torch.equal(uncut.sparsifier.masks[name], mask) for name, mask in resumed.sparsifier.masks.items())
        weights = zip(uncut.model.parameters(), resumed.model.parameters(), strict=True)
        same &= all(torch.equal(one, two) for one, two in weights)
        if not same:
            return False, f"a run cut at step {cut} goes on differently"
    return True, "5 cuts"


def _links_alone(method: Method, spec: Spec) -> Outcome:
    """A run whose layers store their links alone has the links of the masked run, and its outputs up to rounding."""
    masked, alone = _Run(method), _Run(method, execution="csr")
    for run in (masked, alone):
        run.train(1, STEPS)
    if not all(torch.equal(masked.sparsifier.masks[name], mask) for name, mask in alone.sparsifier.masks.items()):
        return False, "the links differ from those under masks"
    with torch.no_grad():
        difference = float((masked.model(masked.images) - alone.model(alone.images)).abs().max())
    return difference < 1e-3, f"outputs differ by {difference:.0e}"


def _devices(method: Method, spec: Spec) -> Outcome:
    """The same generator state gives the same links wherever the tensors are."""
    if not torch.cuda.is_available():
        return None, "no CUDA device"
    masks = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        mask = method.topology(64, 96, 0.1, generator=generator).to(device)
        scores = torch.linspace(0.1, 1, mask.numel(), device=device).view(mask.shape)
        kept = sampling.keep(scores, mask, int(mask.sum()) * 2 // 3, generator=generator)
        grown = sampling.draw(scores, ~kept, 100, soft=method.regrowth.soft, generator=generator)
        masks.append((kept | grown).cpu())
    return torch.equal(*masks), "CPU and CUDA"


CHECKS: dict[str, Callable[[Method, Spec], Outcome]] = {
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

# --- one update of a network so small that all of its outcomes can be counted ---

SMALL_MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
SMALL_KEPT = 6  # of the 8 links: 0.3 · 8 ≈ 2 go


def _small_weights() -> Tensor:
    return torch.linspace(0.2, 1.0, 12).view(3, 4) * torch.tensor([1, -1, 1, -1])


def _small_updates(method: Method) -> list[tuple[Links, Links]]:
    """Survivors and regrown links of the first update, for many seeds and layers, without percolation or decay."""
    method = _from_zero(replace(method, sparsity=Constant()))
    model = nn.Sequential(*(nn.Linear(4, 3) for _ in range(_AT_A_TIME)), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {f"{layer}.weight": model.get_parameter(f"{layer}.weight") for layer in range(_AT_A_TIME)}
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    outcomes = []
    for seed in range(_DRAWS // _AT_A_TIME):
        with torch.no_grad():
            for weight in weights.values():
                weight.copy_(_small_weights())
        sparsifier = Sparsifier(
            model,
            optimizer,
            method,
            sparsity=1 / 3,
            total_steps=STEPS,
            update_every=EVERY,
            seed=seed,
            graph=LayerGraph(),
            initial_masks=dict.fromkeys(weights, SMALL_MASK),
        )
        for _ in range(EVERY):
            sparsifier.step()
        for name, weight in weights.items():
            survivors = weight.detach() != 0
            outcomes.append((_links(survivors), _links(sparsifier.masks[name] & ~survivors)))
    return outcomes


def _successive(odds: Mapping[tuple[int, int], float], num: int) -> dict[Links, float]:
    """Probability of every set of `num` links under successive draws with these odds; zero odds come last."""
    probabilities: dict[Links, float] = {}
    for order in itertools.permutations(odds, num):
        probability, left = 1.0, dict(odds)
        for link in order:
            total = sum(left.values())
            probability *= left[link] / total if total > 0 else 1 / len(left)
            del left[link]
        probabilities[frozenset(order)] = probabilities.get(frozenset(order), 0.0) + probability
    return {links: probability for links, probability in probabilities.items() if probability > 0}


def _fits(counts: Counter[Links], probabilities: Mapping[Links, float]) -> Outcome:
    """Chi-square test of counted outcomes; those expected less than five times are one group."""
    impossible = counts.keys() - probabilities.keys()
    if impossible:
        return False, f"{sum(counts[links] for links in impossible)} of {counts.total()} outcomes are impossible"
    common = [links for links, probability in probabilities.items() if probability * counts.total() >= 5]
    observed = [counts[links] for links in common]
    expected = [probabilities[links] * counts.total() for links in common]
    if counts.total() - sum(expected) >= 5:
        observed.append(counts.total() - sum(observed))
        expected.append(counts.total() - sum(expected))
    scale = sum(observed) / sum(expected)
    pvalue = float(stats.chisquare(observed, [value * scale for value in expected]).pvalue)
    return pvalue > 1e-4, f"p = {pvalue:.3g} over {len(observed)} outcomes, {counts.total()} draws"


# --- plain definitions ---


def _links(mask: Tensor) -> Links:
    return frozenset((output, source) for output, source in mask.nonzero().tolist())


def _mask(links: Links, shape: Sequence[int]) -> Tensor:
    mask = torch.zeros(*shape, dtype=torch.bool)
    for link in links:
        mask[link] = True
    return mask


def _best(scores: Tensor, candidates: Tensor, num: int) -> Tensor:
    ranked = sorted(_links(candidates), key=lambda link: -float(scores[link]))
    return _mask(frozenset(ranked[:num]), candidates.shape)


def _removal_scores(spec: Spec, weight: Tensor, gradient: Tensor) -> Tensor:
    size = weight.detach().abs().double()
    if spec.removal == "mest":
        return size + 0.01 * gradient.abs()
    if spec.removal == "relative_importance":
        return size / (size.sum(dim=0) + 1e-5) + size / (size.sum(dim=1, keepdim=True) + 1e-5)
    return size


def _by_paths(mask: Tensor, score: Callable[[list[tuple[int, int]], list[tuple[int, int]]], float]) -> Tensor:
    """Score each missing link from its L3 paths; `score` gets (i, e) of the two inner nodes of every path,
    and of every node on any path."""
    outputs, inputs = range(mask.shape[0]), range(mask.shape[1])
    inputs_of = {u: {v for v in inputs if mask[u, v]} for u in outputs}
    outputs_of = {v: {u for u in outputs if mask[u, v]} for v in inputs}
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    for u, v in _links(~mask):
        paths = [(z1, z2) for z1 in inputs_of[u] for z2 in outputs_of[v] if z1 in inputs_of[z2]]
        near_u, near_v = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}
        first = {z: (len(outputs_of[z] & near_v), len(outputs_of[z] - near_v - {u})) for z in near_u}
        second = {z: (len(inputs_of[z] & near_u), len(inputs_of[z] - near_u - {v})) for z in near_v}
        on_paths = [node for z1, z2 in paths for node in (first[z1], second[z2])]
        scores[u, v] = score(on_paths, [*first.values(), *second.values()])
    return scores


def _ch2_l3n(mask: Tensor) -> Tensor:
    return _by_paths(mask, lambda _, nodes: sum((1 + i) / (1 + e) for i, e in nodes))


def _ch3_l3p(mask: Tensor) -> Tensor:
    def score(on_paths: list[tuple[int, int]], _: list[tuple[int, int]]) -> float:
        outside = [e for _, e in on_paths]
        return sum(1 / math.sqrt((1 + e1) * (1 + e2)) for e1, e2 in zip(outside[::2], outside[1::2], strict=True))

    return _by_paths(mask, score)


DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {"ch2_l3n": _ch2_l3n, "ch3_l3p": _ch3_l3p}
