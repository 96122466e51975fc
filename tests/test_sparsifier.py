import copy
import gc
import io
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import chts_core as chts
from chts_core import methods

STEPS, EVERY = 16, 2
LAST_UPDATE = 12  # 75 % of the run
DECAY_END = 6  # 37.5 % of the run, where the density of CHTss reaches its target
WIDTHS = {"square": (16, 16, 16, 3), "tall": (5, 30, 41, 3), "wide": (50, 9, 12, 3)}
METHODS = ["fc", "set", "chts", "chtss"]
SPARSE_METHODS = ["set", "chts", "chtss"]

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class SignMomentum(torch.optim.Optimizer):
    """No optimizer of torch's: its state has names of its own and no value is ever divided by another."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                fast = state.setdefault("fast", torch.zeros_like(parameter))
                slow = state.setdefault("slow", torch.zeros_like(parameter))
                fast.lerp_(parameter.grad, 0.5)
                slow.lerp_(fast, 0.1)
                parameter.sub_(fast.sign() + slow.sign(), alpha=group["lr"])


class Drifting(torch.optim.SGD):
    """Derived from a well-known one, but moves every weight and its momentum, whatever the gradient."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1, momentum=0.9)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"].add_(0.01)
                parameter.sub_(0.001)


OPTIMIZERS: dict[str, OptimizerFactory] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "unknown": SignMomentum,
    "drifting": Drifting,
}


@dataclass
class Run:
    """A model under sparse training, and the batches it will see."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sparsifier: chts.Sparsifier
    batches: list[tuple[Tensor, Tensor]]
    clip: float = math.inf

    def train(self, first: int = 0, last: int = STEPS) -> Iterator[int]:
        """Take the steps from `first` on; yield the number of each after it was taken."""
        for number, (x, y) in enumerate(self.batches[first:last], start=first + 1):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            if self.clip < math.inf:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.sparsifier.step()
            yield number

    def finish(self, first: int = 0, last: int = STEPS) -> "Run":
        """Take the steps without looking."""
        for _ in self.train(first, last):
            pass
        return self

    def weight(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    def state(self, name: str) -> list[Tensor]:
        """The optimizer's state tensors of the shape of a weight."""
        weight = self.weight(name)
        return [value for value in self.optimizer.state[weight].values() if value.shape == weight.shape]


def mlp(widths: tuple[int, ...] = WIDTHS["square"], weight_seed: int = 0) -> nn.Sequential:
    """A perceptron of these widths; its weights are named "0.weight", "2.weight" and so on."""
    with torch.random.fork_rng():
        torch.manual_seed(weight_seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        return nn.Sequential(*layers[:-1])


def batches_for(inputs: int, classes: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(8, inputs, generator=generator).to(dtype),
            torch.randint(classes, (8,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def start(
    method: str | chts.Method = "chts",
    sparsity: float = 0.8,
    *,
    widths: tuple[int, ...] = WIDTHS["square"],
    optimizer: str = "momentum",
    seed: int = 0,
    weight_seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Run:
    model = mlp(widths, weight_seed).to(dtype)
    optim = OPTIMIZERS[optimizer](list(model.parameters()))
    sparsifier = chts.Sparsifier(
        model, optim, method=method, sparsity=sparsity, total_steps=STEPS, update_every=EVERY, seed=seed
    )
    return Run(model, optim, sparsifier, batches_for(widths[0], widths[-1], dtype))


def wanted_links(method: str, sparsity: float, shape: tuple[int, ...], step: int) -> int:
    """The scheduled number of links after a step, from the definition of the four methods."""
    size = shape[0] * shape[1]
    if method == "fc":
        return size
    if method == "chtss":
        u = min(step // EVERY * EVERY, DECAY_END) / DECAY_END
        sparsity = 0.5 + (sparsity - 0.5) * (1 + math.tanh(3 * (2 * u - 1)) / math.tanh(3)) / 2
    return round((1 - sparsity) * size)


def copies(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in masks.items()}


def assert_same_masks(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, mask in one.items():
        assert torch.equal(mask, other[name]), name


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(mask, other[name]) for name, mask in one.items())


# --- the number of links, and zeros everywhere else ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("method", METHODS)
def test_exact_links_and_clean_absent_links_after_every_step(
    method: str, sparsity: float, shape: str, optimizer: str
) -> None:
    run = start(method, sparsity, widths=WIDTHS[shape], optimizer=optimizer)
    assert list(run.sparsifier.masks) == ["0.weight", "2.weight"]
    for name, mask in run.sparsifier.masks.items():
        assert int(mask.sum()) == wanted_links(method, sparsity, mask.shape, 0)
        assert not run.weight(name)[~mask].any()
    for step in run.train():
        for name, mask in run.sparsifier.masks.items():
            assert int(mask.sum()) == wanted_links(method, sparsity, mask.shape, step), (step, name)
            weight = run.weight(name)
            assert weight.grad is not None
            assert not weight[~mask].any(), (step, name)
            assert not weight.grad[~mask].any(), (step, name)
            assert run.state(name)
            for state in run.state(name):
                assert not state[~mask].any(), (step, name)


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_exact_links_with_bfloat16_weights(method: str) -> None:
    run = start(method, 0.9, widths=(64, 48, 80, 3), optimizer="momentum", dtype=torch.bfloat16)
    for step in run.train():
        for name, mask in run.sparsifier.masks.items():
            assert int(mask.sum()) == wanted_links(method, 0.9, mask.shape, step)
            assert not run.weight(name)[~mask].any()


@pytest.mark.parametrize("method", METHODS)
def test_the_output_layer_and_biases_stay_dense(method: str) -> None:
    run = start(method, 0.99).finish()
    assert run.sparsifier.masks.keys() == {"0.weight", "2.weight"}
    assert run.weight("4.weight").all()
    assert run.weight("0.bias").all()


def test_constant_weights_are_tied_and_still_counted() -> None:
    run = start("set", 0.9)
    with torch.no_grad():
        for name in run.sparsifier.masks:
            run.weight(name).fill_(0.5)
    for _ in range(STEPS):
        run.sparsifier.step()
        for mask in run.sparsifier.masks.values():
            assert int(mask.sum()) == wanted_links("set", 0.9, mask.shape, 0)


# --- what an update does to the weights ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_updates_reset_regrown_links_and_leave_survivors_alone(method: str, optimizer: str) -> None:
    run = start(method, 0.7, optimizer=optimizer)
    optimizer_step = run.optimizer.step
    before: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def remember_what_it_did(*args: Any) -> None:
        optimizer_step(*args)
        for name in run.sparsifier.masks:
            before[name] = (run.weight(name).detach().clone(), [state.clone() for state in run.state(name)])

    run.optimizer.step = remember_what_it_did  # type: ignore[method-assign]
    old = copies(run.sparsifier.masks)
    for step in run.train():
        rows = {row["layer"]: row for row in run.sparsifier.history if row["step"] == step}
        for name, new in run.sparsifier.masks.items():
            weight, states = run.weight(name), run.state(name)
            old_weight, old_states = before[name]
            stayed, arrived = old[name] & new, new & ~old[name]
            reset = torch.zeros_like(new)
            empty = stayed.clone()
            for now, then in [(weight, old_weight), *zip(states, old_states, strict=True)]:
                assert not now[arrived].any()
                reset |= stayed & (now != then)
                empty &= then == 0
            for now in (weight, *states):
                assert not now[reset].any(), "a link was changed without being reset"
            if rows:
                # Of the links that stayed, exactly those are reset that the update removed and then drew again; a link
                # that held nothing but zeros shows no difference.
                returned = round(rows[name]["overlap"] * rows[name]["regrown"])
                assert int(arrived.sum()) == rows[name]["regrown"] - returned
                assert int((old[name] & ~new).sum()) == rows[name]["removed"] - returned
                assert returned - int(empty.sum()) <= int(reset.sum()) <= returned
            else:
                assert torch.equal(old[name], new)
                assert not reset.any()
        old = copies(run.sparsifier.masks)
    assert run.sparsifier.history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_static_mask_trains_as_a_mask_multiplied_by_hand(optimizer: str) -> None:
    static = replace(chts.METHODS["chts"], turnover=methods.Turnover(zeta=0.0))
    run = start(static, 0.8, optimizer=optimizer)
    model = mlp()
    optim = OPTIMIZERS[optimizer](list(model.parameters()))
    masks = copies(run.sparsifier.masks)
    for step in run.train():
        x, y = run.batches[step - 1]
        parameters = {name: p * masks[name] if name in masks else p for name, p in model.named_parameters()}
        optim.zero_grad()
        nn.functional.cross_entropy(functional_call(model, parameters, (x,)), y).backward()
        optim.step()
        for name, parameter in model.named_parameters():
            expected = parameter * masks[name] if name in masks else parameter
            assert torch.equal(run.weight(name), expected), (step, name)
    assert_same_masks(run.sparsifier.masks, masks)
    assert run.sparsifier.history == []


def test_fully_connected_trains_as_without_a_sparsifier() -> None:
    run = start("fc", 0.9).finish()
    model = mlp()
    optim = OPTIMIZERS["momentum"](list(model.parameters()))
    for x, y in run.batches:
        optim.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optim.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(run.weight(name), parameter)


# --- gradients ---


def test_clipping_sees_the_sparse_gradient() -> None:
    run = start("chts", 0.9)
    x, y = run.batches[0]
    nn.functional.cross_entropy(run.model(x), y).backward()
    dense = copy.deepcopy(run.model)
    dense.zero_grad()
    nn.functional.cross_entropy(dense(x), y).backward()
    masks = run.sparsifier.masks
    squares = [
        float((p.grad * masks[name] if name in masks else p.grad).square().sum())
        for name, p in dense.named_parameters()
    ]
    assert float(nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)) == pytest.approx(math.sqrt(sum(squares)))
    assert any(p.grad[~masks[name]].any() for name, p in dense.named_parameters() if name in masks)


def test_gradients_of_several_batches_add_up_sparsely() -> None:
    run = start("chts", 0.9)
    for x, y in run.batches[:3]:
        nn.functional.cross_entropy(run.model(x), y).backward()
    dense = copy.deepcopy(run.model)
    dense.zero_grad()
    for x, y in run.batches[:3]:
        nn.functional.cross_entropy(dense(x), y).backward()
    for name, mask in run.sparsifier.masks.items():
        torch.testing.assert_close(run.weight(name).grad, dense.get_parameter(name).grad * mask)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_nan_gradient_at_an_absent_link_does_not_spread(method: str, optimizer: str) -> None:
    run = start(method, 0.8, optimizer=optimizer)
    run.clip = 1.0  # the norm of all gradients would be NaN, and then all of them
    for name in run.sparsifier.masks:
        run.weight(name).register_hook(
            lambda gradient, name=name: gradient.masked_fill(~run.sparsifier.masks[name], math.nan)
        )
    run.finish()
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    for name in run.sparsifier.masks:
        assert all(tensor.isfinite().all() for tensor in (run.weight(name).grad, *run.state(name)))


def test_an_absent_weight_that_became_nan_is_zero_again() -> None:
    run = start("chts", 0.8)
    for _ in range(STEPS):
        with torch.no_grad():
            for name, mask in run.sparsifier.masks.items():
                run.weight(name)[~mask] = math.nan
        run.sparsifier.step()
        assert all(run.weight(name).isfinite().all() for name in run.sparsifier.masks)


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_diverged_weight_is_named_instead_of_sampled(method: str) -> None:
    run = start(method, 0.8)
    name, mask = next(iter(run.sparsifier.masks.items()))
    with torch.no_grad():
        run.weight(name)[tuple(mask.nonzero()[0])] = math.nan
    run.sparsifier.step()
    with pytest.raises(ValueError, match=r"scores hold a negative, infinite or NaN value.*divergence"):
        run.sparsifier.step()


# --- which links go and come ---


def plain(**choices: Any) -> chts.Method:
    """A method without chance: a fixed network, a hard removal by magnitude, a hard regrowth; then your choices."""
    method = chts.Method(
        topology=methods.ReceptiveField(r=0.0),
        removal=methods.Removal("magnitude"),
        regrowth=methods.Regrowth("ch2_l3n", soft=False),
        sparsity=methods.Constant(),
        turnover=methods.Turnover(zeta=0.3),
    )
    return replace(method, **choices)


@dataclass
class FirstUpdate:
    """The first update of a fresh model: its weights are all nonzero, so that only survivors keep a weight."""

    run: Run
    weights: dict[str, Tensor]
    before: dict[str, Tensor]
    survivors: dict[str, Tensor]
    after: dict[str, Tensor]

    def exchanged(self, name: str) -> int:
        """How many links the cosine exchanges at the first update, of those that there are after it."""
        zeta = self.run.sparsifier.method.turnover.zeta / 2 * (1 + math.cos(math.pi * EVERY / (0.75 * STEPS)))
        return round(zeta * int(self.after[name].sum()))


def first_update(method: chts.Method, sparsity: float = 0.8, seed: int = 0, **settings: Any) -> FirstUpdate:
    run = start(method, sparsity, seed=seed, **settings)
    names = list(run.sparsifier.masks)
    weights = {name: run.weight(name).detach().clone() for name in names}
    before = copies(run.sparsifier.masks)
    for _ in range(EVERY):
        run.sparsifier.step()
    survivors = {name: run.weight(name).detach() != 0 for name in names}
    return FirstUpdate(run, weights, before, survivors, copies(run.sparsifier.masks))


REMOVAL_SCORES = {"magnitude": torch.abs, "relative_importance": oracles.relative_importance}


@pytest.mark.parametrize("score", REMOVAL_SCORES)
@pytest.mark.parametrize("shape", WIDTHS)
def test_hard_removal_keeps_the_highest_scores(score: str, shape: str) -> None:
    update = first_update(plain(removal=methods.Removal(score)), widths=WIDTHS[shape])
    for name, mask in update.before.items():
        num = int(mask.sum()) - update.exchanged(name)
        assert num < int(mask.sum())
        scores = REMOVAL_SCORES[score](update.weights[name])
        assert torch.equal(update.survivors[name], oracles.top(scores, mask, num))


def test_magnitude_and_relative_importance_choose_differently() -> None:
    updates = [first_update(plain(removal=methods.Removal(score))) for score in REMOVAL_SCORES]
    assert_same_masks(updates[0].before, updates[1].before)
    assert differ(updates[0].survivors, updates[1].survivors)


@pytest.mark.parametrize("score", REMOVAL_SCORES)
def test_decay_prunes_hard_and_then_removes_by_scores_of_what_is_left(score: str) -> None:
    method = plain(removal=methods.Removal(score), sparsity=methods.Cubic(initial=0.2, end=0.3))
    update = first_update(method, 0.7)
    for name, mask in update.before.items():
        target = int(update.after[name].sum())
        assert target < int(mask.sum())
        left = oracles.top(REMOVAL_SCORES[score](update.weights[name]), mask, target)
        rescored = REMOVAL_SCORES[score](update.weights[name] * left)
        expected = oracles.top(rescored, left, target - update.exchanged(name))
        assert torch.equal(update.survivors[name], expected)


def test_decay_without_turnover_only_removes() -> None:
    method = plain(sparsity=methods.Sigmoid(), turnover=methods.Turnover(zeta=0.0))
    run = start(method, 0.9)
    old = copies(run.sparsifier.masks)
    for _ in run.train():
        for name, mask in run.sparsifier.masks.items():
            assert not (mask & ~old[name]).any()
        old = copies(run.sparsifier.masks)
    assert {row["step"] for row in run.sparsifier.history} == {2, 4, 6}
    assert {row["regrown"] for row in run.sparsifier.history} == {0}


def test_decay_may_start_from_a_dense_network() -> None:
    run = start(replace(chts.METHODS["chtss"], sparsity=methods.Cubic(initial=0.0, end=0.375)), 0.9)
    for step in run.train():
        u = min(step // EVERY * EVERY, DECAY_END) / DECAY_END
        for name, mask in run.sparsifier.masks.items():
            assert int(mask.sum()) == round((0.1 + 0.9 * (1 - u) ** 3) * 256)
            for tensor in (run.weight(name), run.weight(name).grad, *run.state(name)):
                assert not tensor[~mask].any()


def test_soft_removal_samples() -> None:
    method = plain(removal=methods.Removal("magnitude", methods.Ramp(1.0, 1.0)))
    one, other = (first_update(method, seed=seed) for seed in (0, 1))
    assert_same_masks(one.before, other.before)
    assert differ(one.survivors, other.survivors)
    for update in (one, other):
        for name, survivors in update.survivors.items():
            assert int(survivors.sum()) == int(update.before[name].sum()) - update.exchanged(name)
            assert not (survivors & ~update.before[name]).any()


def test_soft_removal_follows_its_temperature() -> None:
    hard = first_update(plain()).survivors
    cold = plain(removal=methods.Removal("magnitude", methods.Ramp(1e5, 1e5)))
    assert_same_masks(first_update(cold).survivors, hard)

    # From 0 at the first step to very hard at the last update: late updates leave nothing to chance.
    rising = replace(cold, removal=methods.Removal("magnitude", methods.Ramp(0.0, 1e9)))
    assert_same_masks(first_update(rising).survivors, hard)
    falling = replace(cold, removal=methods.Removal("magnitude", methods.Ramp(0.0, 0.0)))
    assert differ(first_update(falling).survivors, hard)


def test_hard_regrowth_takes_the_highest_scores_of_the_survivors() -> None:
    update = first_update(plain())
    for name, survivors in update.survivors.items():
        scores = chts.link_prediction.ch2_l3n(survivors)
        regrown = update.after[name] & ~survivors
        left = ~update.after[name]
        assert int(regrown.sum()) == update.exchanged(name) > 0
        assert float(scores[regrown].min()) >= float(scores[left].max())


def test_soft_regrowth_samples() -> None:
    one, other = (first_update(plain(regrowth=methods.Regrowth("ch2_l3n")), seed=seed) for seed in (0, 1))
    hard = first_update(plain())
    assert_same_masks(one.survivors, other.survivors)
    assert differ(one.after, other.after)
    assert differ(one.after, hard.after)


def test_regrowth_by_score_stays_on_l3_paths_and_random_regrowth_does_not() -> None:
    # r = 0 gives a band: far from it there is no L3 path.
    predicted = first_update(plain(regrowth=methods.Regrowth("ch2_l3n")))
    random = first_update(plain(regrowth=methods.Regrowth("random")))
    assert_same_masks(predicted.survivors, random.survivors)
    unlikely = {}
    for label, update in (("predicted", predicted), ("random", random)):
        scores = {name: chts.link_prediction.ch2_l3n(mask) for name, mask in update.survivors.items()}
        unlikely[label] = sum(
            int((update.after[name] & ~mask & (scores[name] == 0)).sum()) for name, mask in update.survivors.items()
        )
    assert unlikely["predicted"] == 0
    assert unlikely["random"] > 0


def test_random_regrowth_is_uniform() -> None:
    method = plain(regrowth=methods.Regrowth("random"))
    counts = torch.zeros(16, 16)
    updates = [first_update(method, seed=seed) for seed in range(150)]
    for update in updates:
        counts += update.after["0.weight"] & ~update.survivors["0.weight"]
    # Those that the update has just removed are drawn like any other.
    survivors, before = updates[0].survivors["0.weight"], updates[0].before["0.weight"]
    groups = [counts[before & ~survivors], *counts[~before].split(8)]
    sizes = [group.numel() for group in groups]
    oracles.assert_fits([int(group.sum()) for group in groups], [size / sum(sizes) for size in sizes])


def test_removal_percolates_before_regrowth() -> None:
    # Sparse enough that an update by magnitude leaves neurons with links on one side only.
    method = plain(removal=methods.Removal("magnitude", percolate=True))
    update = first_update(method, 0.93)
    kept = {
        name: oracles.top(weight.abs(), update.before[name], int(update.before[name].sum()) - update.exchanged(name))
        for name, weight in update.weights.items()
    }
    expected = oracles.percolate(kept, [("0.weight", "2.weight")])
    assert all(int(expected[name].sum()) < int(mask.sum()) for name, mask in kept.items()), "nothing to percolate"
    assert_same_masks(update.survivors, expected)
    rows = {row["layer"]: row for row in update.run.sparsifier.history}
    for name, mask in update.before.items():
        assert rows[name]["removed"] == int((mask & ~expected[name]).sum())
        assert rows[name]["regrown"] == rows[name]["removed"]


def test_a_method_without_percolation_leaves_incomplete_links() -> None:
    update = first_update(plain(), 0.93)
    assert differ(update.survivors, oracles.percolate(update.survivors, [("0.weight", "2.weight")]))
    for name, mask in update.survivors.items():
        assert int(mask.sum()) == int(update.before[name].sum()) - update.exchanged(name)


# --- history and measures ---


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_history_has_one_row_per_update_and_layer(method: str) -> None:
    run = start(method, 0.8)
    names = list(run.sparsifier.masks)
    old = copies(run.sparsifier.masks)
    ever = copies(run.sparsifier.masks)
    expected_rows = []
    for step in run.train():
        if step % EVERY == 0 and step < LAST_UPDATE:
            expected_rows += [(step, name) for name in names]
        for name, mask in run.sparsifier.masks.items():
            ever[name] |= mask
        for row in [row for row in run.sparsifier.history if row["step"] == step]:
            name = row["layer"]
            mask = run.sparsifier.masks[name]
            survivors_of_all = oracles.percolate(run.sparsifier.masks, [names])
            assert row["links"] == int(mask.sum())
            assert row["removed"] - row["regrown"] == int(old[name].sum()) - row["links"]
            assert 0 < row["removed"] <= int(old[name].sum())
            assert 0 <= row["overlap"] <= 1
            assert row["anp"] == pytest.approx(float(survivors_of_all[name].any(1).double().mean()))
            assert row["itop"] == int(ever[name].sum()) / mask.numel()
            assert row["seconds"] > 0
        old = copies(run.sparsifier.masks)
    # At the last update the cosine has come down to 0: nothing is exchanged, and there is no row.
    assert [(row["step"], row["layer"]) for row in run.sparsifier.history] == expected_rows
    for name in names:
        itop = [row["itop"] for row in run.sparsifier.history if row["layer"] == name]
        assert itop == sorted(itop)
        assert itop[-1] > itop[0]


def test_measures_over_all_layers() -> None:
    run = start("chts", 0.97, widths=WIDTHS["tall"])
    ever = copies(run.sparsifier.masks)
    for _ in run.train():
        for name, mask in run.sparsifier.masks.items():
            ever[name] |= mask
    masks = run.sparsifier.masks
    sizes = 5 * 30 + 30 * 41
    active = oracles.percolate(masks, [list(masks)])
    assert run.sparsifier.density() == sum(int(mask.sum()) for mask in masks.values()) / sizes
    assert run.sparsifier.itop_rate() == sum(int(mask.sum()) for mask in ever.values()) / sizes
    assert run.sparsifier.itop_rate() > run.sparsifier.density()
    assert run.sparsifier.active_neurons() == sum(int(mask.any(1).sum()) for mask in active.values()) / (30 + 41)


def test_no_update_after_the_stop() -> None:
    run = start("chts").finish(last=LAST_UPDATE)
    masks = copies(run.sparsifier.masks)
    for _ in run.train(first=LAST_UPDATE):
        assert_same_masks(run.sparsifier.masks, masks)


def test_an_optimizer_step_returns_what_it_always_did() -> None:
    run = start("chts")
    x, y = run.batches[0]

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run.model(x), y)
        loss.backward()
        return loss

    loss = run.optimizer.step(closure)  # type: ignore[func-returns-value, arg-type]
    assert torch.equal(loss, nn.functional.cross_entropy(start("chts").model(x), y))


# --- randomness ---


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_masks_depend_on_the_seed_alone(method: str) -> None:
    finals = []
    initials = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        run = start(method, seed=seed)
        initials.append(copies(run.sparsifier.masks))
        finals.append(run.finish().sparsifier.masks)
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_masks(initials[0], initials[1])
    assert_same_masks(finals[0], finals[1])
    assert differ(initials[0], initials[2])
    assert differ(finals[0], finals[2])


def test_layers_of_one_shape_get_masks_of_their_own() -> None:
    masks = start("set", widths=(16, 16, 16, 16)).sparsifier.masks
    assert not torch.equal(masks["0.weight"], masks["2.weight"])


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_masks_of_a_layer_do_not_depend_on_other_layers(method: str) -> None:
    layer = mlp((12, 20, 3))[0]
    masks = []
    for names in (("extra", "layer", "head"), ("layer", "head")):
        modules = {"extra": nn.Linear(5, 12), "layer": copy.deepcopy(layer), "head": nn.Linear(20, 3)}
        model = nn.Sequential(OrderedDict((name, modules[name]) for name in names))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = chts.Sparsifier(
            model, optimizer, method, 0.8, total_steps=STEPS, update_every=EVERY, graph=chts.LayerGraph()
        )
        history = [sparsifier.masks["layer.weight"].clone()]
        for _ in range(STEPS):
            sparsifier.step()
            history.append(sparsifier.masks["layer.weight"].clone())
        masks.append(torch.stack(history))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0][0], masks[0][-1])


# --- saving and going on ---


def snapshot(run: Run) -> io.BytesIO:
    file = io.BytesIO()
    parts = {"model": run.model, "optimizer": run.optimizer, "sparsifier": run.sparsifier}
    torch.save({key: part.state_dict() for key, part in parts.items()}, file)
    file.seek(0)
    return file


def same(one: Any, other: Any) -> bool:
    """Whether two states, nested in dicts and lists, are equal to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def without_seconds(history: list[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


# After the first step; at an update amid the decay; between two updates amid the decay; at the end of the decay; after
# the last update.
@pytest.mark.parametrize("cut", [1, 4, 5, 6, 14])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uncut_run_to_the_bit(method: str, optimizer: str, cut: int) -> None:
    uncut = start(method, optimizer=optimizer).finish()
    saved = snapshot(start(method, optimizer=optimizer).finish(last=cut))

    resumed = start(method, optimizer=optimizer, weight_seed=1)
    state = torch.load(saved, weights_only=True)
    resumed.model.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.sparsifier.load_state_dict(state["sparsifier"])
    resumed.finish(first=cut)

    assert_same_masks(resumed.sparsifier.masks, uncut.sparsifier.masks)
    for name, parameter in uncut.model.named_parameters():
        assert torch.equal(resumed.weight(name), parameter), name
        for one, other in zip(resumed.state(name), uncut.state(name), strict=True):
            assert torch.equal(one, other), name
    assert without_seconds(resumed.sparsifier.history) == without_seconds(uncut.sparsifier.history)
    assert resumed.sparsifier.itop_rate() == uncut.sparsifier.itop_rate()


def test_a_state_goes_into_an_already_training_sparsifier() -> None:
    first = start("chtss").finish(last=5)
    state = copy.deepcopy(first.sparsifier.state_dict())
    other = start("chtss", seed=7).finish()
    other.sparsifier.load_state_dict(state)
    assert_same_masks(other.sparsifier.masks, first.sparsifier.masks)
    for name, mask in other.sparsifier.masks.items():
        assert not other.weight(name)[~mask].any()
        assert not any(moment[~mask].any() for moment in other.state(name))


def test_a_state_does_not_change_while_training_goes_on() -> None:
    run = start("chts").finish(last=3)
    state = run.sparsifier.state_dict()
    before = copy.deepcopy(state)
    run.finish(first=3)
    assert state["steps"] == 3
    assert same(state, before)

    # Nor does training on change a state that was loaded.
    other = start("chts")
    other.sparsifier.load_state_dict(state)
    other.finish(first=3)
    assert same(state, before)


def rename(state: dict[str, Any]) -> None:
    state["masks"]["9.weight"] = state["masks"].pop("0.weight")


def misshape(state: dict[str, Any]) -> None:
    state["masks"]["2.weight"] = state["masks"]["2.weight"][:, 1:]


def misshape_ever_active(state: dict[str, Any]) -> None:
    state["ever_active"]["2.weight"] = torch.ones(2, 2, dtype=torch.bool)


def make_float(state: dict[str, Any]) -> None:
    state["masks"]["2.weight"] = state["masks"]["2.weight"].float()


def add_link(state: dict[str, Any]) -> None:
    absent = (~state["masks"]["0.weight"]).nonzero()[0]
    state["masks"]["0.weight"][tuple(absent)] = True


def truncate_generator(state: dict[str, Any]) -> None:
    state["generators"]["2.weight"] = state["generators"]["2.weight"][:100]


BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "other method": (
        lambda s: s.update(method="Method(mine)"),
        ValueError,
        r"saved state has method 'Method\(mine\)' but this Sparsifier has .*ReceptiveField",
    ),
    "other sparsity": (lambda s: s.update(sparsity=0.7), ValueError, r"has sparsity 0\.7 but .* has 0\.8"),
    "other length": (lambda s: s.update(total_steps=99), ValueError, r"has total_steps 99 but .* has 16"),
    "other interval": (lambda s: s.update(update_every=5), ValueError, r"has update_every 5 but .* has 2"),
    "layer missing": (lambda s: s["masks"].pop("2.weight"), ValueError, r"masks.*0\.weight.*0\.weight.*2\.weight"),
    "layer unknown": (
        lambda s: s["masks"].update(extra=torch.ones(1, 1, dtype=torch.bool)),
        ValueError,
        r"masks.*extra.*2\.weight",
    ),
    "layer renamed": (rename, ValueError, r"masks.*9\.weight.*0\.weight"),
    "ever_active missing": (lambda s: s["ever_active"].clear(), ValueError, r"ever_active.*2\.weight"),
    "generator missing": (lambda s: s["generators"].pop("0.weight"), ValueError, r"generators.*2\.weight"),
    "mask misshapen": (misshape, ValueError, r"2\.weight.*\(16, 15\).*\(16, 16\)"),
    "ever_active misshapen": (misshape_ever_active, ValueError, r"2\.weight.*\(2, 2\).*\(16, 16\)"),
    "mask not Boolean": (make_float, TypeError, r"2\.weight.*float32.*torch\.bool"),
    "a link too many": (add_link, ValueError, r"0\.weight.* links; expected exactly"),
    "generator truncated": (truncate_generator, (ValueError, TypeError, RuntimeError), r"(?i)generator|RNG"),
    **{
        f"no {key}": (lambda s, key=key: s.pop(key), ValueError, key)
        for key in (
            "method",
            "sparsity",
            "total_steps",
            "update_every",
            "steps",
            "masks",
            "ever_active",
            "generators",
            "history",
        )
    },
}


@pytest.mark.parametrize("bad", BAD_STATES)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(bad: str) -> None:
    spoil, error, message = BAD_STATES[bad]
    state = copy.deepcopy(start("chts").finish(last=5).sparsifier.state_dict())
    spoil(state)
    run = start("chts", seed=3, optimizer="adam").finish(last=2)
    before = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()])
    with pytest.raises(error, match=message):
        run.sparsifier.load_state_dict(state)
    assert same([run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()], before)


def test_a_state_of_another_layer_graph_is_refused() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"method": "chts", "sparsity": 0.8, "total_steps": STEPS, "update_every": EVERY}
    unconnected = chts.Sparsifier(model, optimizer, graph=chts.LayerGraph(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="graph"):
        start("chts").sparsifier.load_state_dict(unconnected.state_dict())


# --- other models ---


def test_a_newer_sparsifier_takes_over_and_the_older_one_refuses_to_step() -> None:
    model = mlp((16, 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    old, new = (
        chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=10, seed=seed) for seed in (0, 1)
    )
    model(torch.randn(8, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert bool((model[0].weight.grad[new.masks["0.weight"]] != 0).any())
    only_new = new.masks["0.weight"] & ~old.masks["0.weight"]
    assert bool((model[0].weight.grad[only_new] != 0).any())  # the older hook would have cleared these
    assert bool((model[0].weight.grad[~new.masks["0.weight"]] == 0).all())
    with pytest.raises(RuntimeError, match="another Sparsifier has been attached"):
        old.step()
    new.step()
    assert (old.steps, new.steps) == (0, 1)


def test_a_new_sparsifier_replaces_one_that_is_gone() -> None:
    model = mlp((16, 16, 3))
    initial = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    old = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=10, seed=0)
    old_mask = old.masks["0.weight"].clone()
    del old
    gc.collect()
    with torch.no_grad():
        model[0].weight.copy_(initial)
    new = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=10, seed=1)
    model(torch.randn(8, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    gradient = model[0].weight.grad
    assert gradient is not None
    assert (new.masks["0.weight"] & ~old_mask).any()
    assert torch.equal(gradient != 0, new.masks["0.weight"])


class Parallel(nn.Module):
    """Two branches and a sum: no nn.Sequential tells which layers feed each other."""

    def __init__(self) -> None:
        super().__init__()
        self.left_in, self.left_out = nn.Linear(6, 8), nn.Linear(8, 5)
        self.right_in, self.right_out = nn.Linear(6, 8), nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left_out(torch.tanh(self.left_in(x)))
        return self.head(torch.tanh(left + self.right_out(torch.tanh(self.right_in(x)))))


PARALLEL_GRAPH = chts.LayerGraph(
    chains=(("left_in.weight", "left_out.weight"), ("right_in.weight", "right_out.weight"))
)


@pytest.mark.parametrize("method", ["chts", "chtss"])
@pytest.mark.parametrize("graph", [PARALLEL_GRAPH, chts.LayerGraph()])
def test_a_declared_graph_is_percolated(method: str, graph: chts.LayerGraph) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Parallel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, 0.8, total_steps=STEPS, update_every=EVERY, graph=graph)
    assert list(sparsifier.masks) == ["left_in.weight", "left_out.weight", "right_in.weight", "right_out.weight"]
    run = Run(model, optimizer, sparsifier, batches_for(6, 3))
    for step in run.train():
        for mask in sparsifier.masks.values():
            assert int(mask.sum()) == wanted_links(method, 0.8, mask.shape, step)
    percolated = oracles.percolate(sparsifier.masks, graph.chains)
    active = sum(int(mask.any(1).sum()) for mask in percolated.values()) / 26
    assert sparsifier.active_neurons() == active


def test_declared_graphs_make_a_difference() -> None:
    removed = []
    for graph in (PARALLEL_GRAPH, chts.LayerGraph()):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Parallel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.9, total_steps=STEPS, update_every=EVERY, graph=graph)
        for _ in range(EVERY):
            sparsifier.step()
        removed.append(sum(row["removed"] for row in sparsifier.history))
    assert removed[0] > removed[1]


def test_methods_without_percolation_need_no_graph() -> None:
    model = Parallel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=STEPS, update_every=EVERY)
    assert len(sparsifier.masks) == 4


def test_frozen_layers_are_left_alone() -> None:
    model = mlp((16, 16, 16, 3))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.8, total_steps=STEPS, update_every=EVERY)
    assert list(sparsifier.masks) == ["2.weight"]
    assert torch.equal(model[0].weight, before)


def test_an_optimizer_that_has_already_trained_starts_clean() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = batches_for(16, 3)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    before = model[0].weight.detach().clone()
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.8, total_steps=STEPS, update_every=EVERY)
    run = Run(model, optimizer, sparsifier, [])
    for name, mask in sparsifier.masks.items():
        assert run.weight(name).grad is not None
        for tensor in (run.weight(name), run.weight(name).grad, *run.state(name)):
            assert not tensor[~mask].any()
            assert tensor[mask].any()
    mask = sparsifier.masks["0.weight"]
    assert torch.equal(model[0].weight[mask], before[mask])


def test_rescaled_weights_are_divided_by_the_root_of_the_density() -> None:
    run = start("chts", 0.75)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.fill_(1.0)
    run.sparsifier.step()  # takes the absent weights back to zero
    run.sparsifier.rescale_weights()
    for name, mask in run.sparsifier.masks.items():
        assert torch.equal(run.weight(name), mask * 2.0)
    assert torch.equal(run.weight("4.weight"), torch.ones(3, 16))


def test_rescaled_layers_keep_the_variance_of_the_dense_ones() -> None:
    model = mlp((400, 400, 3))
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense = float(model[0](x).var())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.95, total_steps=STEPS, update_every=EVERY)
    sparsifier.rescale_weights()
    with torch.no_grad():
        assert float(model[0](x).var()) == pytest.approx(dense, rel=0.1)
