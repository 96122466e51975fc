import copy
import gc
import io
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, pairwise
from typing import Any

import oracles
import pytest
import tiers
import tiny
import torch
from torch import Tensor, nn
from torch.func import functional_call

import chts_core as chts
from chts_core import methods

STEPS, EVERY = 16, 2
LAST_UPDATE = 12  # 75 % of the run
DECAY_END = 6  # 37.5 % of the run, where the density of CHTss reaches its target
WIDTHS = {"square": (16, 16, 16, 3), "tall": (5, 30, 41, 3), "wide": (50, 9, 12, 3)}
METHODS = list(chts.METHODS)
SPARSE_METHODS = METHODS[1:]

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


# What this optimizer loses is told; here it is to be lost.
pytestmark = pytest.mark.filterwarnings("ignore:.* of a step of Drifting:RuntimeWarning")


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
    watch: Callable[[], None] = lambda: None  # called between the optimizer's step and the Sparsifier's
    infinite: frozenset[int] = frozenset()  # steps whose gradients overflow; the optimizer leaves them out

    def train(self, first: int = 0, last: int = STEPS) -> Iterator[int]:
        """Take the steps from `first` on; yield the number of each after it was taken."""
        for number, (x, y) in enumerate(self.batches[first:last], start=first + 1):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(x), y)
            (loss * math.inf if number in self.infinite else loss).backward()
            if self.clip < math.inf:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            if number not in self.infinite:
                self.optimizer.step()
            self.watch()
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


def batches_for(inputs: int, classes: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    batches = [tiny.rows_and_classes(step, inputs, classes) for step in range(STEPS)]
    return [(x.to(dtype), y) for x, y in batches]


def start(
    method: str | chts.Method = "chts",
    sparsity: float = 0.8,
    *,
    widths: tuple[int, ...] = WIDTHS["square"],
    optimizer: str = "momentum",
    seed: int = 0,
    weight_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Run:
    model = tiny.mlp(widths, weight_seed).to(dtype)
    optim = OPTIMIZERS[optimizer](list(model.parameters()))
    sparsifier = chts.Sparsifier(
        model, optim, method=method, sparsity=sparsity, total_steps=STEPS, update_every=EVERY, seed=seed, **settings
    )
    return Run(model, optim, sparsifier, batches_for(widths[0], widths[-1], dtype))


def wanted_sparsity(method: str, final: float, step: int) -> float:
    """The scheduled sparsity after an update at this step, from the definition of the nine methods."""
    if method == "fc":
        return 0.0
    if method == "chtss":
        u = min(step, DECAY_END) / DECAY_END
        return 0.5 + (final - 0.5) * (1 + math.tanh(3 * (2 * u - 1)) / math.tanh(3)) / 2
    if method in ("gmp", "granet"):
        u = min(step, LAST_UPDATE) / LAST_UPDATE
        return final - (final - 0.5) * (1 - u) ** 3
    if method == "mest" and step < LAST_UPDATE:  # 5 % more links at first, 2.5 % from 60 % of the 12 steps on
        return final - (0.05 if step < 7 else 0.025)
    return final


def wanted_links(method: str, sparsity: float, shape: tuple[int, ...], step: int) -> int:
    """The number of links after a step of a run whose updates all came in time."""
    updated_at = min(step // EVERY * EVERY, LAST_UPDATE)
    return round((1 - wanted_sparsity(method, sparsity, updated_at)) * shape[0] * shape[1])


def push(run: Run, gradients: Mapping[str, Tensor] | float = 1.0) -> None:
    """A backward pass with these gradients, or this gradient for all sparse weights."""
    names = run.sparsifier.masks if isinstance(gradients, float) else gradients
    total = torch.zeros(())
    for name in names:
        total = total + (run.weight(name) * (gradients if isinstance(gradients, float) else gradients[name])).sum()
    total.backward()


def copies(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in masks.items()}


def assert_same_masks(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, mask in one.items():
        assert torch.equal(mask, other[name]), name


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(mask, other[name]) for name, mask in one.items())


# --- the number of links, and zeros everywhere else ---


def assert_exact_and_clean(run: Run, method: str, sparsity: float, step: int) -> None:
    for name, mask in run.sparsifier.masks.items():
        assert int(mask.sum()) == wanted_links(method, sparsity, mask.shape, step), (step, name)
        weight = run.weight(name)
        assert not weight[~mask].any(), (step, name)
        if step:
            assert weight.grad is not None
            assert not weight.grad[~mask].any(), (step, name)
            assert run.state(name)
            for state in run.state(name):
                assert not state[~mask].any(), (step, name)


@pytest.mark.parametrize(("method", "sparsity", "shape"), tiers.every_pair(METHODS, [0.5, 0.9, 0.99], WIDTHS))
def test_exact_links_and_clean_absent_links_after_every_step(method: str, sparsity: float, shape: str) -> None:
    run = start(method, sparsity, widths=WIDTHS[shape])
    assert list(run.sparsifier.masks) == ["0.weight", "2.weight"]
    assert_exact_and_clean(run, method, sparsity, 0)
    for step in run.train():
        assert_exact_and_clean(run, method, sparsity, step)


@pytest.mark.parametrize(("method", "optimizer"), tiers.every_second(METHODS, OPTIMIZERS))
def test_exact_links_and_clean_absent_links_with_any_optimizer(method: str, optimizer: str) -> None:
    run = start(method, 0.9, widths=WIDTHS["tall"], optimizer=optimizer)
    for step in run.train():
        assert_exact_and_clean(run, method, 0.9, step)


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_exact_links_with_bfloat16_weights(method: str) -> None:
    message = r"the weights have the dtype torch\.bfloat16, .* Keep the weights in float32"
    with pytest.warns(UserWarning, match=message) as warned:
        run = start(method, 0.9, widths=(64, 48, 80, 3), optimizer="momentum", dtype=torch.bfloat16)
    assert len(warned) == 1
    for step in run.train():
        for name, mask in run.sparsifier.masks.items():
            assert int(mask.sum()) == wanted_links(method, 0.9, mask.shape, step)
            assert not run.weight(name)[~mask].any()


@pytest.mark.parametrize("method", ["chts", "gmp"])
@pytest.mark.parametrize("before", [0, 4])  # the first updates are at steps 2 and 4
def test_a_cast_of_the_model_is_followed(method: str, before: int) -> None:
    run = start(method, 0.9, widths=(64, 48, 80, 3))
    list(run.train(last=before))
    run.model.bfloat16()
    run.optimizer.load_state_dict(run.optimizer.state_dict())  # casts the momentum
    run.batches = [(x.bfloat16(), y) for x, y in run.batches]
    for step in run.train(before):
        assert_exact_and_clean(run, method, 0.9, step)
    assert run.weight("0.weight").dtype == torch.bfloat16


def test_bfloat16_weights_that_stay_dense_are_no_reason_to_warn() -> None:
    start("fc", 0.9, dtype=torch.bfloat16).finish()


@pytest.mark.parametrize("method", METHODS)
def test_the_output_layer_and_biases_stay_dense(method: str) -> None:
    run = start(method, 0.99).finish()
    assert run.sparsifier.masks.keys() == {"0.weight", "2.weight"}
    assert run.weight("4.weight").all()
    assert run.weight("0.bias").all()


def test_constant_weights_are_tied_and_still_counted() -> None:
    run = start("set", 0.9)
    with torch.no_grad():
        for name, mask in run.sparsifier.masks.items():
            run.weight(name).copy_(0.5 * mask)
    for _ in range(STEPS):
        run.sparsifier.step()
        for mask in run.sparsifier.masks.values():
            assert int(mask.sum()) == wanted_links("set", 0.9, mask.shape, 0)


# --- what an update does to the weights ---


# New links start from zero; of those that have their last weight, see "weights that come back".
FROM_ZERO = ["set", "rigl", "mest", "gmp/no_return", "granet", "cht", "chts/zeros", "chtss/ri_zeros"]


@pytest.mark.parametrize(("method", "optimizer"), tiers.every_second(FROM_ZERO, OPTIMIZERS))
def test_updates_reset_regrown_links_and_leave_survivors_alone(method: str, optimizer: str) -> None:
    run = start(method, 0.7, optimizer=optimizer)
    before: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def remember() -> None:
        for name in run.sparsifier.masks:
            before[name] = (run.weight(name).detach().clone(), [state.clone() for state in run.state(name)])

    run.watch = remember
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
    model = tiny.mlp()
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
    model = tiny.mlp()
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


@pytest.mark.parametrize(("method", "optimizer"), tiers.every_second(METHODS, OPTIMIZERS))
def test_a_nan_gradient_at_an_absent_link_does_not_spread(method: str, optimizer: str) -> None:
    run = start(method, 0.8, optimizer=optimizer)
    run.clip = 1.0  # the norm of all gradients would be NaN, and then all of them
    by_gradient = run.sparsifier.method.regrowth.score == "gradient"

    def spoil(gradient: Tensor, name: str) -> Tensor:
        # Methods that choose among absent links by their gradient want it finite at an update.
        if by_gradient and run.sparsifier.update_due:
            return gradient
        return gradient.masked_fill(~run.sparsifier.masks[name], math.nan)

    for name in run.sparsifier.masks:
        run.weight(name).register_hook(lambda gradient, name=name: spoil(gradient, name))
    run.finish()
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    for name in run.sparsifier.masks:
        assert all(tensor.isfinite().all() for tensor in (run.weight(name).grad, *run.state(name)))
    assert run.sparsifier.postponed == []


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_an_absent_weight_that_became_nan_is_zero_again(method: str) -> None:
    run = start(method, 0.8)
    for _ in range(STEPS):
        push(run)
        with torch.no_grad():
            for name, mask in run.sparsifier.masks.items():
                run.weight(name)[~mask] = math.nan
        run.sparsifier.step()
        assert all(run.weight(name).isfinite().all() for name in run.sparsifier.masks)


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_diverged_weight_is_named_instead_of_sampled(method: str) -> None:
    run = start(method, 0.8)
    before = copies(run.sparsifier.masks)
    push(run)
    name, mask = next(iter(run.sparsifier.masks.items()))
    with torch.no_grad():
        run.weight(name)[tuple(mask.nonzero()[0])] = math.nan
    run.sparsifier.step()
    push(run)
    message = rf"before the update of step {EVERY}, links of {name} have infinite or NaN weights: the run has diverged"
    with pytest.raises(RuntimeError, match=message):
        run.sparsifier.step()
    assert_same_masks(run.sparsifier.masks, before)
    assert run.sparsifier.steps == EVERY - 1


# --- which links go and come ---


def plain(**choices: Any) -> chts.Method:
    """A method without chance: a fixed network, a hard removal by magnitude, a hard regrowth; then your choices."""
    method = chts.Method(
        topology=methods.ReceptiveField(r=0.0),
        removal=methods.Removal("magnitude"),
        regrowth=methods.Regrowth("ch2_l3n", soft=False),
        sparsity=methods.Constant(),
        turnover=methods.Turnover(zeta=methods.Cosine(0.3)),
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
        zeta = 0.3 / 2 * (1 + math.cos(math.pi * EVERY / (0.75 * STEPS)))
        return round(zeta * int(self.after[name].sum()))


def first_update(method: chts.Method, sparsity: float = 0.8, seed: int = 0, **settings: Any) -> FirstUpdate:
    run = start(method, sparsity, seed=seed, **settings)
    names = list(run.sparsifier.masks)
    weights = {name: run.weight(name).detach().clone() for name in names}
    before = copies(run.sparsifier.masks)
    for _ in range(EVERY):
        push(run)
        run.sparsifier.step()
    survivors = {name: run.weight(name).detach() != 0 for name in names}
    return FirstUpdate(run, weights, before, survivors, copies(run.sparsifier.masks))


REMOVAL_SCORES = {
    "magnitude": torch.abs,
    "relative_importance": oracles.relative_importance,
    "relative_importance_mlp_code": oracles.relative_importance_of_mlp_code,
}


@pytest.mark.parametrize("score", REMOVAL_SCORES)
@pytest.mark.parametrize("shape", WIDTHS)
def test_hard_removal_keeps_the_highest_scores(score: str, shape: str) -> None:
    update = first_update(plain(removal=methods.Removal(score)), widths=WIDTHS[shape])
    for name, mask in update.before.items():
        num = int(mask.sum()) - update.exchanged(name)
        assert num < int(mask.sum())
        scores = REMOVAL_SCORES[score](update.weights[name])
        assert torch.equal(update.survivors[name], oracles.top(scores, mask, num))


def masks_of(topology: methods.Topology, **settings: Any) -> dict[str, Tensor]:
    return start(plain(topology=topology), 0.8, **settings).sparsifier.masks


@pytest.mark.parametrize("shape", WIDTHS)
def test_scale_free_layers_are_placed_behind_those_that_feed_them(shape: str) -> None:
    widths = WIDTHS[shape]
    usual = masks_of(methods.ScaleFree(), widths=widths)
    equal, rigid, soft = (
        masks_of(topology, widths=widths)
        for topology in (
            methods.ScaleFree(equal_partition=True),
            methods.ScaleFree(resort="rigid"),
            methods.ScaleFree(resort="soft"),
        )
    )
    first, second = usual
    assert int(equal[first].sum(0).max() - equal[first].sum(0).min()) <= 1
    assert torch.equal(equal[first].sum(1), usual[first].sum(1))
    assert torch.equal(equal[second], usual[second])
    for resorted in (rigid, soft):
        assert torch.equal(resorted[first], usual[first])
        assert not torch.equal(resorted[second], usual[second])
        assert sorted(resorted[second].T.tolist()) == sorted(usual[second].T.tolist())
    order = rigid[first].sum(1).argsort()
    for low, high in pairwise(order.tolist()):
        if rigid[first][low].sum() < rigid[first][high].sum():
            assert rigid[second][:, low].sum() <= rigid[second][:, high].sum()


def test_a_mask_that_was_given_is_not_placed() -> None:
    topology = methods.ScaleFree(equal_partition=True, resort="rigid")
    given = masks_of(methods.ScaleFree())
    placed = masks_of(topology, initial_masks=given)
    assert_same_masks(placed, given)


def test_a_layer_that_values_feed_is_not_equally_partitioned() -> None:
    first, second = masks_of(methods.ScaleFree())
    attention = chts.percolation.Attention(None, None, first, second, heads=1, key_heads=1)
    masks = masks_of(methods.ScaleFree(equal_partition=True), graph=chts.LayerGraph(attentions=(attention,)))
    apart = masks_of(methods.ScaleFree(equal_partition=True), graph=chts.LayerGraph())
    assert torch.equal(masks[second], masks_of(methods.ScaleFree())[second])
    assert int(apart[second].sum(0).max() - apart[second].sum(0).min()) <= 1


def test_a_graph_of_unknown_layers_is_refused_before_layers_are_placed() -> None:
    with pytest.raises(ValueError, match="the graph contains layer 'mine', which has no mask"):
        masks_of(methods.ScaleFree(resort="rigid"), graph=chts.LayerGraph(chains=(("mine", "0.weight"),)))


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


@pytest.mark.parametrize(
    ("prune", "score"), [("magnitude", "relative_importance"), ("relative_importance", "magnitude")]
)
def test_pruning_and_removal_each_go_by_their_own_score(prune: str, score: str) -> None:
    removal = methods.Removal(score, prune=prune)
    update = first_update(
        plain(removal=removal, sparsity=methods.Cubic(initial=0.2, end=0.3)), 0.7, widths=WIDTHS["wide"]
    )
    by_one_score = {}
    for name, mask in update.before.items():
        target = int(update.after[name].sum())
        left = oracles.top(REMOVAL_SCORES[prune](update.weights[name]), mask, target)
        num = target - update.exchanged(name)
        expected = oracles.top(REMOVAL_SCORES[score](update.weights[name] * left), left, num)
        assert torch.equal(update.survivors[name], expected)
        by_one_score[name] = oracles.top(REMOVAL_SCORES[score](update.weights[name]), mask, num)
    assert differ(update.survivors, by_one_score)


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


# --- methods that go by the gradient ---

HARD_GRADIENT = methods.Regrowth("gradient", soft=False)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise(run: Run, seed: int) -> dict[str, Tensor]:
    """A random number for every link, absent or not."""
    return {name: normal(mask.shape, seed) for name, mask in run.sparsifier.masks.items()}


def wait(run: Run) -> Run:
    """Steps without a gradient until the next update is due."""
    for _ in range(STEPS):
        if run.sparsifier.update_due:
            return run
        run.sparsifier.step()
    raise AssertionError("no update comes")


def regrown_by_name(run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Survivors and regrown links of an update after which all weights but the survivors' are zero."""
    survivors = {name: run.weight(name).detach() != 0 for name in run.sparsifier.masks}
    return {name: (survivors[name], mask & ~survivors[name]) for name, mask in run.sparsifier.masks.items()}


def test_regrowth_takes_the_highest_mean_gradient_over_micro_batches() -> None:
    run = wait(start(plain(regrowth=HARD_GRADIENT), 0.5))
    one, two, three = (noise(run, seed) for seed in (1, 2, 3))
    for name, other in noise(run, 4).items():  # about half of the gradients nearly cancel
        three[name] = torch.where(other > 0, three[name] / 100 - one[name] - two[name], three[name])
    for gradients in (one, two, three):
        push(run, gradients)
    run.sparsifier.step()
    for name, (survivors, regrown) in regrown_by_name(run).items():
        micro_batches = torch.stack([one[name], two[name], three[name]])
        num = int(regrown.sum())
        assert torch.equal(regrown, oracles.top(micro_batches.mean(0).abs(), ~survivors, num))
        assert not torch.equal(regrown, oracles.top(micro_batches.abs().mean(0), ~survivors, num))
    # Some of the links have just been removed: their gradient counts like any other.
    assert all(row["overlap"] > 0 for row in run.sparsifier.history)


def test_only_the_gradients_since_the_last_step_count() -> None:
    run = start(plain(regrowth=HARD_GRADIENT))
    misleading, telling = noise(run, 99), noise(run, 1)
    updates = 0
    while run.sparsifier.steps < LAST_UPDATE - EVERY:
        with torch.no_grad():
            for name, mask in run.sparsifier.masks.items():
                run.weight(name).copy_(normal(mask.shape, 2) * mask)
        if run.sparsifier.update_due:
            push(run, telling)
            run.sparsifier.step()
            updates += 1
            for name, (survivors, regrown) in regrown_by_name(run).items():
                assert torch.equal(regrown, oracles.top(telling[name].abs(), ~survivors, int(regrown.sum())))
        else:
            push(run, {name: 100 * gradient for name, gradient in misleading.items()})
            run.sparsifier.step()
        run.optimizer.zero_grad()
    assert updates == 5


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("method", ["rigl", "granet"])
def test_clipped_or_zeroed_gradients_do_not_disturb_gradient_regrowth(method: str, set_to_none: bool) -> None:
    masks = []
    for disturb in (False, True):
        run = start(method)
        for x, y in run.batches:
            nn.functional.cross_entropy(run.model(x), y).backward()
            if disturb:
                nn.utils.clip_grad_norm_(run.model.parameters(), 1e-4)
                run.optimizer.zero_grad(set_to_none)
            run.sparsifier.step()
            run.optimizer.zero_grad()
        masks.append(run.sparsifier.masks)
    assert_same_masks(*masks)
    assert differ(masks[0], start(method).sparsifier.masks)


@pytest.mark.parametrize("method", ["rigl", "granet"])
def test_rigl_and_granet_by_their_definitions(method: str) -> None:
    # The dense gradient is that of a dense model whose absent weights are zero.
    run = start(method, 0.8)
    updates = []
    for step, (x, y) in enumerate(run.batches, start=1):
        dense = copy.deepcopy(run.model)
        for model in (dense, run.model):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
        run.optimizer.step()
        weights = {name: run.weight(name).detach().clone() for name in run.sparsifier.masks}
        before = copies(run.sparsifier.masks)
        run.sparsifier.step()
        if step % EVERY or step > LAST_UPDATE:
            assert_same_masks(run.sparsifier.masks, before)
            continue
        updates.append(step)
        zeta = 0.3 / 2 * (1 + math.cos(math.pi * step / LAST_UPDATE))
        for name, mask in run.sparsifier.masks.items():
            target = wanted_links(method, 0.8, mask.shape, step)
            pruned = oracles.top(weights[name].abs(), before[name], target)
            survivors = oracles.top(weights[name].abs(), pruned, target - round(zeta * target))
            gradient = dense.get_parameter(name).grad
            regrown = oracles.top(gradient.abs(), ~survivors, round(zeta * target))
            assert torch.equal(mask, survivors | regrown), (step, name)
            rows = [row for row in run.sparsifier.history if (row["step"], row["layer"]) == (step, name)]
            assert [row["regrown"] for row in rows] == ([round(zeta * target)] if rows else [])
            assert [row["removed"] - row["regrown"] for row in rows] == (
                [int(before[name].sum()) - target] if rows else []
            )
    assert updates == [2, 4, 6, 8, 10, 12]


def test_pruning_alone_takes_the_smallest_weights_and_never_regrows() -> None:
    run = start("gmp/no_return", 0.8)
    weights: dict[str, Tensor] = {}
    run.watch = lambda: weights.update({name: run.weight(name).detach().clone() for name in run.sparsifier.masks})
    before = copies(run.sparsifier.masks)
    assert {int(mask.sum()) for mask in before.values()} == {128}
    for step in run.train():
        for name, mask in run.sparsifier.masks.items():
            target = wanted_links("gmp", 0.8, mask.shape, step)
            assert torch.equal(mask, oracles.top(weights[name].abs(), before[name], target))
            assert torch.equal(run.weight(name), weights[name] * mask)
        before = copies(run.sparsifier.masks)
    assert {row["regrown"] for row in run.sparsifier.history} == {0}
    assert {int(mask.sum()) for mask in before.values()} == {51}


def test_mest_spares_weights_of_a_large_gradient() -> None:
    run = wait(start(plain(removal=methods.Removal("mest"))))
    weights = {name: run.weight(name).detach().clone() for name in run.sparsifier.masks}
    before = copies(run.sparsifier.masks)
    gradients = {name: 10 * gradient for name, gradient in noise(run, 1).items()}
    for share in (0.25, 0.75):
        push(run, {name: share * gradient for name, gradient in gradients.items()})
    run.sparsifier.step()
    for name, (survivors, regrown) in regrown_by_name(run).items():
        num = int(before[name].sum()) - int(regrown.sum())
        scores = weights[name].abs() + 0.01 * gradients[name].abs()
        assert torch.equal(survivors, oracles.top(scores, before[name], num))
        assert not torch.equal(survivors, oracles.top(weights[name].abs(), before[name], num))


def test_mest_first_shrinks_then_exchanges_by_the_same_scores() -> None:
    run = start("mest", 0.8)
    seen: dict[str, Tensor] = {}

    def look() -> None:
        for name in run.sparsifier.masks:
            weight = run.weight(name)
            assert weight.grad is not None
            seen[name] = weight.detach().abs() + 0.01 * weight.grad.abs()

    run.watch = look
    before = copies(run.sparsifier.masks)
    links = []
    for step in run.train():
        rows = {row["layer"]: row for row in run.sparsifier.history if row["step"] == step}
        for name, mask in run.sparsifier.masks.items():
            if rows:
                regrown, returned = (rows[name]["regrown"], rows[name]["overlap"] * rows[name]["regrown"])
                kept = oracles.top(seen[name], before[name], int(mask.sum()) - regrown)
                assert not (kept & ~mask).any()
                assert int((mask & before[name]).sum()) == int(kept.sum()) + round(returned)
            else:
                assert torch.equal(mask, before[name])
        links.append(int(run.sparsifier.masks["0.weight"].sum()))
        before = copies(run.sparsifier.masks)
    assert links == [64] * 7 + [58] * 4 + [51] * 5  # 25 % until 60 % of the twelve steps, 22.5 %, then 20 %


def test_a_turnover_of_the_excess_keeps_the_final_number_and_regrows_the_rest() -> None:
    method = plain(
        regrowth=methods.Regrowth("random"), sparsity=methods.Staged(), turnover=methods.Turnover(zeta="excess")
    )
    run = start(method, 0.8)
    weights: dict[str, Tensor] = {}
    run.watch = lambda: weights.update({name: run.weight(name).detach().clone() for name in run.sparsifier.masks})
    before = copies(run.sparsifier.masks)
    for step in run.train():
        rows = {row["layer"]: row for row in run.sparsifier.history if row["step"] == step}
        for name, mask in run.sparsifier.masks.items():
            if rows:
                kept = oracles.top(weights[name].abs(), before[name], 51)
                assert not (kept & ~mask).any()
                assert torch.equal(run.weight(name) != 0, kept)  # the others start from zero
                assert rows[name]["regrown"] == int(mask.sum()) - 51
        before = copies(run.sparsifier.masks)
    first = [row for row in run.sparsifier.history if row["layer"] == "0.weight"]
    # 20 % of 256 links are 51; 25 % are 64, 22.5 % are 58.
    assert [(row["links"], row["removed"], row["regrown"]) for row in first] == [
        (64, 13, 13),
        (64, 13, 13),
        (64, 13, 13),
        (58, 13, 7),
        (58, 7, 7),
        (51, 7, 0),
    ]


def test_a_turnover_of_the_excess_ends_with_the_excess() -> None:
    run = start(plain(sparsity=methods.Cubic(), turnover=methods.Turnover(zeta="excess")), 0.8)
    assert run.sparsifier.progress.budget.zeta(LAST_UPDATE) == 0
    assert run.sparsifier.progress.budget.exchanged(0) == {"0.weight": 128 - 51, "2.weight": 128 - 51}


# In the test, weights shrink at every step; links that are gone keep theirs, and so they return.
RETURNING = plain(
    removal=methods.Removal("magnitude", returning=True),
    regrowth=methods.RETURNS,
    sparsity=methods.Cubic(initial=0.5),
    turnover=methods.Turnover(zeta=0.0),
)


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_links_return_with_the_weight_they_had_where_that_is_among_the_largest(execution: str) -> None:
    run = start(RETURNING, 0.8, execution=execution)
    last = {name: torch.zeros(mask.shape) for name, mask in run.sparsifier.masks.items()}

    def weight(name: str) -> Tensor:
        return run.sparsifier.network.weights[name].dense().clone()

    def shrink() -> None:
        with torch.no_grad():
            for name, mask in run.sparsifier.masks.items():
                run.sparsifier.network.weights[name].parameter.mul_(0.8)
                last[name] = torch.where(mask, weight(name), last[name])

    run.watch = shrink
    returned = 0
    for step in run.train(last=LAST_UPDATE):
        if step % EVERY == 0:
            for name, mask in run.sparsifier.masks.items():
                target = round(256 * (1 - methods.Cubic(0.5).at(step, run.sparsifier.timeline, 0.8)))
                assert torch.equal(mask, oracles.top(last[name].abs(), last[name] != 0, target))
                assert torch.equal(weight(name), last[name] * mask)
        rows = [row for row in run.sparsifier.history if row["step"] == step]
        returned += sum(row["regrown"] for row in rows)
        assert all(row["overlap"] == 0 for row in rows)  # what an update removes does not return in it
    assert returned > 0


def test_links_return_only_by_magnitude_with_their_weight() -> None:
    wrong = replace(RETURNING, regrowth=methods.Regrowth("random"))
    with pytest.raises(ValueError, match=r"removal\.returning is True.*'random'.*expected Removal.*and zeta 0"):
        start(wrong)


def test_where_no_link_can_return_others_come_at_random() -> None:
    run = wait(start(plain(regrowth=methods.RETURNS)))
    before = copies(run.sparsifier.masks)
    push(run, 0.0)
    run.sparsifier.step()
    rows = run.sparsifier.history
    assert [row["links"] for row in rows] == [int(mask.sum()) for mask in before.values()]
    assert all(row["regrown"] > 0 for row in rows)


@pytest.mark.parametrize("method", ["rigl", "granet", "mest"])
def test_an_update_by_gradient_without_a_gradient_is_refused_and_can_be_made_up_for(method: str) -> None:
    run = wait(start(method))
    before = copies(run.sparsifier.masks)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"by gradient, but .*0\.weight, 2\.weight"):
            run.sparsifier.step()
        assert run.sparsifier.steps == EVERY - 1
        assert_same_masks(run.sparsifier.masks, before)
    push(run, noise(run, 0))
    run.sparsifier.step()
    assert run.sparsifier.steps == EVERY
    assert differ(run.sparsifier.masks, before)


def test_mest_wants_its_gradients_before_they_are_zeroed() -> None:
    run = wait(start("mest"))
    push(run)
    run.optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"removes by gradient.*sparsifier\.step\(\) before optimizer\.zero_grad"):
        run.sparsifier.step()


@pytest.mark.parametrize("method", ["rigl", "granet", "mest"])
def test_a_layer_without_a_gradient_is_named(method: str) -> None:
    run = wait(start(method))
    push(run, {"0.weight": torch.ones(16, 16)})
    with pytest.raises(RuntimeError, match=r"by gradient, but [^0]*2\.weight.*exclude layers that the loss does not"):
        run.sparsifier.step()


# --- stopping early ---


def stopping(early_stop: float | None, **choices: Any) -> chts.Method:
    """Exchanges a quarter of the links; the gradient decides which come, and so how many come back."""
    turnover = methods.Turnover(zeta=0.25, early_stop=early_stop)
    return plain(regrowth=HARD_GRADIENT, turnover=turnover, **choices)


def update_with_overlap(run: Run, overlaps: Mapping[str, float]) -> dict[str, Tensor]:
    """The next update, in which this share of each layer's regrown links has just been removed; the masks before."""
    wait(run)
    before = copies(run.sparsifier.masks)
    gradients = {}
    for name, mask in before.items():
        with torch.no_grad():
            run.weight(name).copy_(mask * (1 + torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))))
        num = round(0.25 * int(mask.sum()))
        going = mask & ~oracles.top(run.weight(name).detach(), mask, int(mask.sum()) - num)
        links = going.nonzero()[: round(overlaps[name] * num)]
        back = oracles.mask_of({(output, source) for output, source in links.tolist()}, mask.shape)
        gradients[name] = 2.0 * back + 1.0 * ~mask
    push(run, gradients)
    run.sparsifier.step()
    run.optimizer.zero_grad()
    return before


def last_overlaps(run: Run) -> dict[str, float]:
    step = run.sparsifier.history[-1]["step"]
    return {row["layer"]: row["overlap"] for row in run.sparsifier.history if row["step"] == step}


def test_a_layer_stops_above_the_overlap_and_the_others_go_on() -> None:
    run = start(stopping(0.5), 0.75)
    for _ in range(2):  # at the threshold it goes on
        before = update_with_overlap(run, {"0.weight": 0.5, "2.weight": 0.0})
        assert last_overlaps(run) == {"0.weight": 0.5, "2.weight": 0.0}
        assert all(differ({name: mask}, before) for name, mask in run.sparsifier.masks.items())

    update_with_overlap(run, {"0.weight": 0.5625, "2.weight": 0.0})
    assert last_overlaps(run) == {"0.weight": 0.5625, "2.weight": 0.0}
    for _ in range(3):
        before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
        assert torch.equal(run.sparsifier.masks["0.weight"], before["0.weight"])
        assert torch.equal(run.weight("0.weight") != 0, before["0.weight"]), "a weight was reset"
        assert not torch.equal(run.sparsifier.masks["2.weight"], before["2.weight"])
        rows = run.sparsifier.history[-2:]
        assert [(row["removed"], row["regrown"]) for row in rows] == [(0, 0), (16, 16)]


def test_once_all_layers_have_stopped_there_are_no_more_updates() -> None:
    run = start(stopping(0.5), 0.75)
    update_with_overlap(run, {"0.weight": 1.0, "2.weight": 1.0})
    rows = len(run.sparsifier.history)
    before = copies(run.sparsifier.masks)
    update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert_same_masks(run.sparsifier.masks, before)
    assert len(run.sparsifier.history) == rows == 2


def test_an_early_stop_may_wait_until_all_layers_have_come_to_it() -> None:
    method = stopping(0.5)
    run = start(replace(method, turnover=replace(method.turnover, together=True)), 0.75)
    update_with_overlap(run, {"0.weight": 1.0, "2.weight": 0.0})
    before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert all(differ({name: mask}, before) for name, mask in run.sparsifier.masks.items())
    update_with_overlap(run, {"0.weight": 0.0, "2.weight": 1.0})  # the first layer's signal stays
    before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert_same_masks(run.sparsifier.masks, before)


def test_a_frozen_layer_is_not_waited_for() -> None:
    method = stopping(0.5)
    run = start(replace(method, turnover=replace(method.turnover, together=True)), 0.75)
    run.weight("0.weight").requires_grad_(False)
    update_with_overlap(run, {"0.weight": 0.0, "2.weight": 1.0})
    before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert_same_masks(run.sparsifier.masks, before)


def test_an_update_is_complete_whatever_a_hook_raises() -> None:
    run = start(stopping(None), 0.75)
    seen = []

    def broken(name: str, _: Tensor) -> None:
        seen.append(name)
        raise ZeroDivisionError

    run.sparsifier.register_regrowth_hook(broken)
    with pytest.raises(ZeroDivisionError):
        update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert seen == ["0.weight"]
    assert [row["regrown"] for row in run.sparsifier.history] == [16, 16]
    for name, mask in run.sparsifier.masks.items():
        assert int(mask.sum()) == 64
        assert not (run.weight(name)[~mask] != 0).any()
    run.sparsifier._regrowth_hooks.clear()
    run.optimizer.zero_grad()
    update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert chts.audit.audit(run.sparsifier) == []


def test_without_an_early_stop_no_overlap_is_too_much() -> None:
    run = start(stopping(None), 0.75)
    for _ in range(3):
        update_with_overlap(run, {"0.weight": 1.0, "2.weight": 1.0})
        assert last_overlaps(run) == {"0.weight": 1.0, "2.weight": 1.0}
    before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert all(differ({name: mask}, before) for name, mask in run.sparsifier.masks.items())


def test_no_layer_stops_before_its_final_density() -> None:
    falling = methods.Cubic(initial=0.5, end=0.5)  # reaches its end at step 8
    run = start(stopping(0.5, sparsity=falling), 0.75)
    for step in (2, 4, 6, 8):
        wait(run)
        before = copies(run.sparsifier.masks)
        push(run, {name: mask.float() for name, mask in before.items()})  # only what was removed comes back
        run.sparsifier.step()
        assert run.sparsifier.steps == step
        assert last_overlaps(run) == {"0.weight": 1.0, "2.weight": 1.0}
        assert differ(run.sparsifier.masks, before)  # the density fell
        assert [row["regrown"] > 0 for row in run.sparsifier.history[-2:]] == [True, True]
    assert {int(mask.sum()) for mask in run.sparsifier.masks.values()} == {64}
    before = update_with_overlap(run, {"0.weight": 0.0, "2.weight": 0.0})
    assert_same_masks(run.sparsifier.masks, before)


@pytest.mark.parametrize("early_stop", [0.5, None])
def test_percolation_does_not_cut_a_layer_that_has_stopped(early_stop: float | None) -> None:
    run = start(stopping(early_stop, removal=methods.Removal("magnitude", percolate=True)), 0.75)
    update_with_overlap(run, {"0.weight": 0.0, "2.weight": 1.0})
    assert last_overlaps(run) == {"0.weight": 0.0, "2.weight": 1.0}

    wait(run)
    before = copies(run.sparsifier.masks)
    first, second = before["0.weight"], before["2.weight"]
    dying = first.sum(1).cumsum(0) <= 16  # neurons that lose all their links
    assert second[:, dying].any()
    with torch.no_grad():
        run.weight("0.weight").copy_(first * torch.where(dying, 0.1, 1.0)[:, None])
        run.weight("2.weight").copy_(second * 1.0)
    push(run, {name: (~mask).float() for name, mask in before.items()})
    run.sparsifier.step()
    survivors = run.weight("2.weight") != 0
    if early_stop is None:
        assert not survivors[:, dying].any()
    else:
        assert torch.equal(survivors, second)
        assert torch.equal(run.sparsifier.masks["2.weight"], second)
        assert differ(run.sparsifier.masks, before)
    assert not run.weight("0.weight")[dying].any()


def test_a_stopped_layer_stays_so_after_resuming() -> None:
    run = start(stopping(0.5), 0.75)
    update_with_overlap(run, {"0.weight": 1.0, "2.weight": 0.0})
    resumed = resume(start(stopping(0.5), 0.75, weight_seed=1), snapshot(run))
    before = update_with_overlap(resumed, {"0.weight": 0.0, "2.weight": 0.0})
    assert torch.equal(resumed.sparsifier.masks["0.weight"], before["0.weight"])
    assert not torch.equal(resumed.sparsifier.masks["2.weight"], before["2.weight"])


# --- weights that come back ---


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw_fused", "unknown"])
@pytest.mark.parametrize("method", ["chts", "cht", "set"])
def test_a_link_that_comes_back_has_its_former_weight(method: str, optimizer: str) -> None:
    remembers = methods.get_method(method)
    remembers = replace(remembers, regrowth=replace(remembers.regrowth, history=True))
    run = start(remembers, 0.5, optimizer=optimizer)
    names = list(run.sparsifier.masks)
    before: dict[str, Tensor] = {}
    knew: dict[str, Tensor] = {}
    past = {name: torch.zeros(mask.shape) for name, mask in run.sparsifier.masks.items()}

    def remember() -> None:
        before.update({name: run.weight(name).detach().clone() for name in names})
        knew.update({name: run.state(name)[0] != 0 for name in names})

    run.watch = remember
    old = copies(run.sparsifier.masks)
    came_back = reset = returned = 0
    for step in run.train():
        rows = {row["layer"]: row for row in run.sparsifier.history if row["step"] == step}
        for name, new in run.sparsifier.masks.items():
            weight, states = run.weight(name), run.state(name)
            gone, arrived = old[name] & ~new, new & ~old[name]
            assert torch.equal(weight[old[name] & new], before[name][old[name] & new])
            assert torch.equal(weight[arrived], past[name][arrived])
            assert not any(state[arrived].any() for state in states)
            came_back += int(weight[arrived].count_nonzero())
            # Those that the same update has removed keep their weight too, but not what the optimizer knew of them.
            reset += int((knew[name] & (states[0] == 0) & new).sum())
            returned += round(rows[name]["overlap"] * rows[name]["regrown"]) if rows else 0
            past[name] = torch.where(gone, before[name], past[name])
        old = copies(run.sparsifier.masks)
    assert came_back > 0
    assert returned > 0
    assert reset == returned


# --- an optimizer that leaves out the steps that an update follows ---


SKIPPING = "chts with turnover=Turnover(Cosine(0.3), skip_optimizer=True)"


@pytest.mark.parametrize(
    "optimizer", ["momentum", "nesterov", "sgd_fused", "adam", "adamw", "adamw_foreach", "adamw_fused"]
)
def test_the_optimizer_leaves_out_the_steps_that_an_update_follows(optimizer: str) -> None:
    run = start(SKIPPING, optimizer=optimizer)
    ordinary = tiny.mlp()
    same_kind = OPTIMIZERS[optimizer](list(ordinary.parameters()))
    left_out = []
    for step, (x, y) in enumerate(run.batches, start=1):
        run.optimizer.zero_grad()
        nn.functional.cross_entropy(run.model(x), y).backward()
        ordinary.load_state_dict(run.model.state_dict())
        same_kind.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        gradients = [parameter.grad for parameter in run.model.parameters()]
        for mine, gradient in zip(ordinary.parameters(), gradients, strict=True):
            assert gradient is not None
            mine.grad = gradient.clone()
        before = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict()])

        run.optimizer.step()

        assert all(p.grad is gradient for p, gradient in zip(run.model.parameters(), gradients, strict=True))
        assert all(p.grad.equal(q.grad) for p, q in zip(run.model.parameters(), ordinary.parameters(), strict=True))
        if same([run.model.state_dict(), run.optimizer.state_dict()], before):
            left_out.append(step)
        else:
            same_kind.step()
            assert same(run.model.state_dict(), ordinary.state_dict())
            assert same(run.optimizer.state_dict(), same_kind.state_dict())
            assert all(
                not torch.equal(old, new)
                for old, new in zip(before[0].values(), run.model.state_dict().values(), strict=True)
            )
        run.sparsifier.step()
    assert left_out == [2, 4, 6, 8, 10, 12]


def test_other_optimizers_of_the_model_are_left_alone() -> None:
    run = start(SKIPPING)
    other = torch.optim.SGD(run.model.parameters(), lr=0.1)
    wait(run)
    push(run)
    before = run.weight("0.weight").detach().clone()
    other.step()
    assert not torch.equal(run.weight("0.weight"), before)


def test_a_newer_sparsifier_ends_the_older_ones_leaving_out() -> None:
    run = start(SKIPPING)
    wait(run)
    settings: dict[str, Any] = {"total_steps": STEPS, "update_every": EVERY}
    newer = chts.Sparsifier(run.model, run.optimizer, "set", 0.8, **settings)
    nn.functional.cross_entropy(run.model(run.batches[0][0]), run.batches[0][1]).backward()
    before = run.weight("0.weight").detach().clone()
    run.optimizer.step()
    newer.step()
    assert not torch.equal(run.weight("0.weight"), before)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_closure_cannot_be_left_out(by_name: bool) -> None:
    run = start(SKIPPING)

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run.model(run.batches[0][0]), run.batches[0][1])
        loss.backward()
        return loss

    run.optimizer.step(closure)  # type: ignore[arg-type]  # no update follows
    wait(run)
    before = run.weight("0.weight").detach().clone()
    with pytest.raises(RuntimeError, match=r"a closure that computes the gradients; call backward\(\) first"):
        run.optimizer.step(closure=closure) if by_name else run.optimizer.step(closure)  # type: ignore[arg-type]
    assert torch.equal(run.weight("0.weight"), before)


@pytest.mark.parametrize("method", ["fc", "chts", SKIPPING])
def test_when_an_update_is_due(method: str) -> None:
    run = start(method)
    due = []
    for step in range(1, STEPS + 1):
        if run.sparsifier.update_due:
            due.append(step)
        run.sparsifier.step()
    assert due == [2, 4, 6, 8, 10, 12]


# --- gradients that overflow ---

OVERFLOWS = frozenset({4, 5, 8, 12, 13})
UPDATES_IN_SPITE_OF_THEM = [2, 6, 9, 10, 14]


@pytest.mark.parametrize("method", METHODS)
def test_an_update_waits_for_finite_gradients(method: str) -> None:
    run = start(method, 0.9)
    run.infinite = OVERFLOWS
    enforced = method != "fc"  # dense layers' gradients are nobody's business
    updated_at = 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for step in run.train():
            if step in UPDATES_IN_SPITE_OF_THEM:
                updated_at = step
            for name, mask in run.sparsifier.masks.items():
                wanted = wanted_sparsity(method, 0.9, updated_at)
                assert int(mask.sum()) == round((1 - wanted) * mask.numel()), (step, name)
                assert run.weight(name).isfinite().all()
    assert run.sparsifier.postponed == (sorted(OVERFLOWS) if enforced else [])
    assert [str(warning.message).split(";")[0] for warning in warned] == [
        f"a gradient at step {step} is infinite or NaN (0.weight, 2.weight)" for step in run.sparsifier.postponed
    ]
    assert {(warning.category, warning.filename) for warning in warned} <= {(RuntimeWarning, __file__)}
    assert {row["step"] for row in run.sparsifier.history} <= set(UPDATES_IN_SPITE_OF_THEM)
    final = 1.0 if method == "fc" else 0.1
    assert {int(mask.sum()) for mask in run.sparsifier.masks.values()} == {round(final * 256)}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("method", "waits"), [("rigl", True), ("granet", True), ("set", False), ("mest", False)])
def test_methods_that_choose_among_absent_links_wait_for_their_gradients(
    method: str, waits: bool, value: float
) -> None:
    run = wait(start(method))
    gradients = noise(run, 0)
    absent = (~run.sparsifier.masks["2.weight"]).nonzero()[0]
    gradients["2.weight"][tuple(absent)] = value
    push(run, gradients)
    if waits:
        before = copies(run.sparsifier.masks)
        with pytest.warns(RuntimeWarning, match=r"NaN \(2\.weight\); .* waits for the next step"):
            run.sparsifier.step()
        assert_same_masks(run.sparsifier.masks, before)
        assert run.sparsifier.update_due
        run.optimizer.zero_grad()
        push(run, noise(run, 0))  # what overflowed is forgotten
        run.sparsifier.step()
        assert run.sparsifier.steps == 3
    else:
        run.sparsifier.step()
    assert run.sparsifier.postponed == ([2] if waits else [])
    assert {row["step"] for row in run.sparsifier.history} == ({3} if waits else {2})


def test_an_overflow_where_no_update_is_due_is_not_its_business() -> None:
    run = start("rigl")
    run.infinite = frozenset({1, 3, 13})
    run.finish()
    assert run.sparsifier.postponed == []


@pytest.mark.filterwarnings("ignore:a gradient at step:RuntimeWarning")
@pytest.mark.parametrize("cut", [4, 5, 6, 12, 13, 14])
@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_run_resumes_amid_postponed_updates(method: str, cut: int) -> None:
    uncut, saved = uncut_and_saved(method, "momentum", OVERFLOWS)
    second = start(method, weight_seed=1)
    second.infinite = OVERFLOWS
    resumed = resume(second, io.BytesIO(saved[cut]))
    assert resumed.sparsifier.update_due == (cut in OVERFLOWS)
    assert_same_run(resumed.finish(first=cut), uncut)


# --- history and measures ---


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_history_has_one_row_per_update_and_layer(method: str) -> None:
    to_the_end = replace(chts.METHODS[method].turnover, early_stop=None, together=False)
    run = start(replace(chts.METHODS[method], turnover=to_the_end), 0.8)
    names = list(run.sparsifier.masks)
    old = copies(run.sparsifier.masks)
    ever = copies(run.sparsifier.masks)
    expected_rows = []
    for step in run.train():
        # The cosine has come down to 0 at the last update: then there is a row only if the density still falls.
        if step in range(EVERY, LAST_UPDATE + (method in ("mest", "gmp", "granet")), EVERY):
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
    assert [(row["step"], row["layer"]) for row in run.sparsifier.history] == expected_rows
    for name in names:
        itop = [row["itop"] for row in run.sparsifier.history if row["layer"] == name]
        assert itop == sorted(itop)
        assert (itop[-1] == itop[0]) == (method == "gmp")


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
    layer = tiny.mlp((12, 20, 3))[0]
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
            sum(parameter.square().sum() for parameter in model.parameters()).backward()
            sparsifier.step()
            optimizer.zero_grad()
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


@cache
def uncut_and_saved(
    method: str, optimizer: str, infinite: frozenset[int] = frozenset()
) -> tuple[Run, dict[int, bytes]]:
    """A run to its end, and what another saved after each of its steps. To look at, not to train on."""
    uncut, saved = start(method, optimizer=optimizer), start(method, optimizer=optimizer)
    uncut.infinite = saved.infinite = infinite
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a gradient at step", RuntimeWarning)
        return uncut.finish(), {step: snapshot(saved).getvalue() for step in saved.train()}


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


def resume(fresh: Run, saved: io.BytesIO) -> Run:
    state = torch.load(saved, weights_only=True)
    fresh.model.load_state_dict(state["model"])
    fresh.optimizer.load_state_dict(state["optimizer"])
    fresh.sparsifier.load_state_dict(state["sparsifier"])
    return fresh


def assert_same_run(one: Run, other: Run) -> None:
    assert_same_masks(one.sparsifier.masks, other.sparsifier.masks)
    for name, parameter in other.model.named_parameters():
        assert torch.equal(one.weight(name), parameter), name
        for mine, theirs in zip(one.state(name), other.state(name), strict=True):
            assert torch.equal(mine, theirs), name
    assert without_seconds(one.sparsifier.history) == without_seconds(other.sparsifier.history)
    assert one.sparsifier.itop_rate() == other.sparsifier.itop_rate()
    assert one.sparsifier.postponed == other.sparsifier.postponed


# After the first step; at an update amid the decay; between two updates amid the decay; at the end of the decay; at
# the last update; after it.
CUTS = [1, 4, 5, 6, 12, 14]
# With a memory of weights, with an optimizer that leaves steps out, and one that may stop early.
RESUMED = [*METHODS, "cht/by_layer", "mest/mlp_code", "chts/mlp_code", "chtss/ri_zeros"]


@pytest.mark.parametrize(("method", "optimizer", "cut"), tiers.every_pair(RESUMED, ["momentum", "adam"], CUTS))
def test_a_resumed_run_is_the_uncut_run_to_the_bit(method: str, optimizer: str, cut: int) -> None:
    uncut, saved = uncut_and_saved(method, optimizer)
    resumed = resume(start(method, optimizer=optimizer, weight_seed=1), io.BytesIO(saved[cut]))
    assert_same_run(resumed.finish(first=cut), uncut)


@pytest.mark.parametrize(("method", "cut"), tiers.every_second(RESUMED, CUTS))
def test_resuming_while_attaching_is_the_same(method: str, cut: int) -> None:
    uncut, saved = uncut_and_saved(method, "adam")
    state = torch.load(io.BytesIO(saved[cut]), weights_only=True)

    model = tiny.mlp(seed=1)
    optimizer = OPTIMIZERS["adam"](list(model.parameters()))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 0.8, total_steps=STEPS, update_every=EVERY, resume_from=state["sparsifier"]
    )
    assert_same_run(Run(model, optimizer, sparsifier, uncut.batches).finish(first=cut), uncut)


def test_weights_lost_by_loading_before_attaching_are_noticed() -> None:
    state = torch.load(snapshot(start("set").finish(last=5)), weights_only=True)
    model = tiny.mlp(seed=1)
    model.load_state_dict(state["model"])
    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=STEPS, update_every=EVERY)
    lost = sum(int((mask & ~sparsifier.masks[name]).sum()) for name, mask in state["sparsifier"]["masks"].items())
    assert lost > 0
    with pytest.warns(RuntimeWarning, match=rf"{lost} links of the saved masks have weight 0.*resume_from") as warned:
        sparsifier.load_state_dict(state["sparsifier"])
    assert warned[0].filename == __file__


def test_links_that_were_empty_when_they_were_saved_are_no_loss() -> None:
    run = start("set").finish(last=4)  # at an update: its regrown links are still zero
    assert run.sparsifier.state_dict()["empty_links"] > 0
    resume(start("set", weight_seed=1), snapshot(run))


def test_a_state_goes_into_an_already_training_sparsifier() -> None:
    first = start("chtss").finish(last=5)
    state = copy.deepcopy(first.sparsifier.state_dict())
    other = start("chtss", seed=7).finish()
    with pytest.warns(
        RuntimeWarning,
        match="of the saved masks have weight 0 in this model, but only 0 had weight 0 when they were saved",
    ):
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
    other.model.load_state_dict(run.model.state_dict())
    with pytest.warns(RuntimeWarning, match="of the saved masks have weight 0"):
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


def misshape_past(state: dict[str, Any]) -> None:
    state["past_weights"]["2.weight"]["values"] = state["past_weights"]["2.weight"]["values"][1:]


def disorder_past(state: dict[str, Any]) -> None:
    state["past_weights"]["2.weight"]["positions"] = state["past_weights"]["2.weight"]["positions"].flip(0)


def place_past_outside(state: dict[str, Any]) -> None:
    state["past_weights"]["2.weight"]["positions"][-1] = 256


def remove_generator_state(state: dict[str, Any]) -> None:
    state["generators"]["2.weight"] = None


BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "other method": (
        lambda s: s.update(method="Method(mine)"),
        ValueError,
        r"saved state has method 'Method\(mine\)' but this Sparsifier has .*ch2_l3n",
    ),
    "other sparsity": (lambda s: s.update(sparsity=0.7), ValueError, r"has sparsity 0\.7 but .* has 0\.8"),
    "other distribution": (
        lambda s: s.update(distribution="erdos_renyi"),
        ValueError,
        "has distribution 'erdos_renyi' but .* has 'uniform'",
    ),
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
    "generator truncated": (truncate_generator, ValueError, r"saved generator of layer '2\.weight' does not fit"),
    "generator none": (remove_generator_state, ValueError, r"saved generator of layer '2\.weight' does not fit"),
    "past weight missing": (lambda s: s["past_weights"].pop("0.weight"), ValueError, r"past_weights.*2\.weight"),
    "past weight misshapen": (misshape_past, ValueError, r"2\.weight.*are not valid; expected positions .*\(16, 16\)"),
    "past weights in disorder": (disorder_past, ValueError, r"2\.weight.*in ascending order"),
    "past weight outside": (
        place_past_outside,
        ValueError,
        r"2\.weight.*are not valid; expected positions .*\(16, 16\)",
    ),
    "past weights of an old version": (
        lambda s: s["past_weights"].update({"2.weight": torch.zeros(16, 16)}),
        ValueError,
        r"2\.weight.*from a version of chts that stored a dense weight",
    ),
    **{
        f"no {key}": (lambda s, key=key: s.pop(key), ValueError, key)
        for key in (
            "method",
            "sparsity",
            "total_steps",
            "update_every",
            "distribution",
            "graph",
            "steps",
            "updated_at",
            "stopped",
            "postponed",
            "empty_links",
            "masks",
            "ever_active",
            "past_weights",
            "generators",
            "history",
        )
    },
}


@pytest.mark.parametrize("bad", BAD_STATES)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(bad: str) -> None:
    spoil, error, message = BAD_STATES[bad]
    method = "chts"
    state = copy.deepcopy(start(method).finish(last=5).sparsifier.state_dict())
    spoil(state)
    run = start(method, seed=3, optimizer="adam").finish(last=2)
    before = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()])
    with pytest.raises(error, match=message):
        run.sparsifier.load_state_dict(state)
    assert same([run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()], before)


def test_a_state_without_past_weights_is_refused_by_a_method_that_has_them() -> None:
    state = start("chts/zeros").finish(last=5).sparsifier.state_dict()
    state["method"] = repr(chts.METHODS["chts"])
    with pytest.raises(ValueError, match=r"saved past_weights belong to layers \[\] but"):
        start("chts").sparsifier.load_state_dict(state)


@pytest.mark.parametrize("bad", ["other sparsity", "a link too many"])
def test_a_state_that_does_not_fit_is_refused_while_attaching_and_changes_nothing(bad: str) -> None:
    spoil, error, message = BAD_STATES[bad]
    state = copy.deepcopy(start("chts").finish(last=5).sparsifier.state_dict())
    spoil(state)
    model = tiny.mlp()
    before = copy.deepcopy(model.state_dict())
    optimizer = OPTIMIZERS["adam"](list(model.parameters()))
    with pytest.raises(error, match=message):
        chts.Sparsifier(model, optimizer, "chts", 0.8, total_steps=STEPS, update_every=EVERY, resume_from=state)
    assert same(model.state_dict(), before)


def test_a_state_of_another_layer_graph_is_refused() -> None:
    model = tiny.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"method": "chts", "sparsity": 0.8, "total_steps": STEPS, "update_every": EVERY}
    unconnected = chts.Sparsifier(model, optimizer, graph=chts.LayerGraph(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="graph"):
        start("chts").sparsifier.load_state_dict(unconnected.state_dict())


# --- which layers ---


class Stack(nn.Module):
    """Layers of several names, one of them read twice, and tokens at either end."""

    def __init__(self, tie: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 16)
        self.encoder = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 24)])
        self.decoder = nn.Linear(24, 16)
        self.head = nn.Linear(16, 16, bias=False)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, token: Tensor) -> Tensor:
        x = self.embedding(token)
        for layer in (*self.encoder, self.decoder):
            x = torch.tanh(layer(x))
        return self.head(x)


def attach(model: nn.Module, method: str = "set", sparsity: float = 0.8, **settings: Any) -> Run:
    """A Sparsifier on a model without batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity, total_steps=STEPS, update_every=EVERY, **settings)
    return Run(model, optimizer, sparsifier, [])


FIRST, SECOND, DECODER, HEAD = "encoder.0.weight", "encoder.1.weight", "decoder.weight", "head.weight"
SELECTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all but the output": ({}, [FIRST, SECOND, DECODER]),
    "all": ({"exclude": ()}, [FIRST, SECOND, DECODER, HEAD]),
    "a layer's name": ({"include": "encoder.0.weight"}, [FIRST]),
    "a module's name": ({"include": "encoder.0"}, [FIRST]),
    "a pattern": ({"include": "encoder.*"}, [FIRST, SECOND]),
    "several": ({"include": ["decoder", "*.0"]}, [FIRST, DECODER]),
    "a test by name": ({"include": lambda name, module: name.endswith("1")}, [SECOND]),  # noqa: ARG005
    "a test by module": ({"include": lambda name, module: module.out_features == 16}, [FIRST, DECODER]),  # noqa: ARG005
    "the output after all": ({"include": ["decoder", "head"], "exclude": []}, [DECODER, HEAD]),
    "another one dense": ({"exclude": "encoder.0"}, [SECOND, DECODER, HEAD]),
    "several dense": ({"exclude": ["encoder.*", "head"]}, [DECODER]),
    "dense by a test": ({"exclude": lambda name, module: module.bias is None}, [FIRST, SECOND, DECODER]),  # noqa: ARG005
    "included and excluded": ({"include": "encoder.*", "exclude": "*.1"}, [FIRST]),
    "case matters": ({"include": "[!A-Z]ncoder.0"}, [FIRST]),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_layers_that_were_chosen_are_sparse_and_no_other_weight_is_touched(selection: str) -> None:
    settings, names = SELECTIONS[selection]
    model = tiny.seeded(Stack, 0)
    before = copy.deepcopy(model.state_dict())
    run = attach(model, **settings)
    assert list(run.sparsifier.masks) == names
    for name, weight in model.named_parameters():
        expected = before[name] * run.sparsifier.masks[name] if name in names else before[name]
        assert torch.equal(weight, expected)
    plain = Stack()
    plain.load_state_dict(model.state_dict())
    for either in (model, plain):
        either(torch.arange(16)).square().sum().backward()
    for (name, weight), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        expected = other.grad * run.sparsifier.masks[name] if name in names else other.grad
        assert torch.equal(weight.grad, expected)


def test_an_embedding_is_no_layer_to_choose() -> None:
    with pytest.raises(ValueError, match=r"include has the pattern 'embedding', which fits no layer"):
        attach(Stack(), include="embedding")


def test_an_output_tied_to_the_embedding_stays_dense() -> None:
    model = tiny.seeded(lambda: Stack(tie=True), 0)
    before = model.embedding.weight.detach().clone()
    run = attach(model)
    assert list(run.sparsifier.masks) == [FIRST, SECOND, DECODER]
    assert torch.equal(model.head.weight, before)


def test_a_part_of_a_packed_weight_is_sparse_and_the_rest_dense() -> None:
    model = tiny.seeded(lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 0)
    packed = "self_attn.in_proj_weight"
    before = model.get_parameter(packed).detach().clone()
    run = attach(model, "rigl", 0.75, include=f"{packed}:k")
    mask = run.sparsifier.masks[packed]
    assert list(run.sparsifier.masks) == [packed]
    assert [int(part.sum()) for part in mask.chunk(3)] == [64, 16, 64]
    assert torch.equal(run.weight(packed), before * mask)
    assert run.sparsifier.density() == 0.25
    for step in range(STEPS):
        run.optimizer.zero_grad()
        model(normal((2, 3, 8), step)).square().sum().backward()
        run.optimizer.step()
        run.sparsifier.step()
        query, _, value = run.weight(packed).detach().chunk(3)
        assert query.all()
        assert value.all()
        assert [int(part.sum()) for part in mask.chunk(3)] == [64, 16, 64]
    assert {row["layer"] for row in run.sparsifier.history} == {f"{packed}:k"}
    assert run.sparsifier.itop_rate() < 1


# --- where it starts ---


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_run_starts_from_masks_that_were_given(method: str) -> None:
    links = wanted_links(method, 0.8, (16, 16), 0)
    given = torch.arange(256).view(16, 16) < links
    run = start(method, initial_masks={"2.weight": given})
    assert torch.equal(run.sparsifier.masks["2.weight"], given)
    assert_same_masks(
        {"0.weight": run.sparsifier.masks["0.weight"]}, {"0.weight": start(method).sparsifier.masks["0.weight"]}
    )
    assert torch.equal(run.weight("2.weight") != 0, given)
    for step in run.train():
        assert_exact_and_clean(run, method, 0.8, step)
    assert given.sum() == links, "the mask that was given has been changed"
    assert torch.equal(given, torch.arange(256).view(16, 16) < links)


def test_a_run_starts_from_correlations_of_the_data() -> None:
    correlation = torch.corrcoef(normal((16, 50), 0)).abs().fill_diagonal_(0)
    mask = chts.topology.correlated(16, 16, 0.2, correlation, generator=torch.Generator().manual_seed(0))
    run = start("chts", initial_masks={"0.weight": mask})
    assert torch.equal(run.sparsifier.masks["0.weight"], mask)


@pytest.mark.parametrize("method", SPARSE_METHODS)
@pytest.mark.parametrize("distribution", ["erdos_renyi", "erdos_renyi_kernel"])
def test_links_are_shared_out_by_the_distribution(method: str, distribution: str) -> None:
    run = start(method, 0.8, widths=(40, 30, 10, 3), distribution=distribution)
    shapes = {name: tuple(mask.shape) for name, mask in run.sparsifier.masks.items()}
    assert shapes == {"0.weight": (30, 40), "2.weight": (10, 30)}
    for step in chain([0], run.train()):
        total = 0
        for name, mask in run.sparsifier.masks.items():
            total += int(mask.sum())
            density = int(mask.sum()) / mask.numel()
            wanted = 1 - wanted_sparsity(method, 0.8, min(step // EVERY * EVERY, LAST_UPDATE))
            # density ∝ (out + in) / (out · in), so that both layers' together are right
            share = (sum(shapes[name]) / 110) * wanted * 1500
            if share < mask.numel():
                assert int(mask.sum()) == pytest.approx(share, abs=1), (step, name)
            assert density > wanted or name == "0.weight"
        assert total == round(wanted * 1500)


NARROW = (4, 60, 60, 3)  # Erdős–Rényi has the first layer dense at half the links


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_layer_that_the_distribution_makes_dense_stays_so(method: str) -> None:
    run = start(method, 0.5, widths=NARROW, distribution="erdos_renyi")
    for _ in run.train():
        assert run.sparsifier.masks["0.weight"].all()
    assert int(run.sparsifier.masks["2.weight"].sum()) == round(0.5 * (4 * 60 + 60 * 60)) - 4 * 60


@pytest.mark.parametrize("method", ["set", "rigl", "chts"])
def test_the_weights_of_a_dense_layer_are_left_alone(method: str) -> None:
    run = start(method, 0.5, widths=NARROW, distribution="erdos_renyi").finish(last=EVERY)
    assert run.weight("0.weight").all()
    assert all(moment.any() for moment in run.state("0.weight"))
    assert [row["removed"] for row in run.sparsifier.history if row["layer"] == "0.weight"] == [0]


@pytest.mark.parametrize("method", ["set", "rigl", "mest", "cht", "chts"])  # the others begin at a half
def test_a_sparsity_of_0_keeps_all_links(method: str) -> None:
    run = start(method, 0.0).finish()
    assert all(mask.all() for mask in run.sparsifier.masks.values())


def test_parameter_groups_are_searched_for_the_weights() -> None:
    model = tiny.mlp()
    groups = [
        {"params": [model[0].weight], "lr": 0.1, "weight_decay": 0.1},
        {"params": [model[2].weight, model[4].weight], "lr": 0.01},
        {"params": [model[0].bias, model[2].bias, model[4].bias], "lr": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    sparsifier = chts.Sparsifier(model, optimizer, "chtss", 0.8, total_steps=STEPS, update_every=EVERY)
    run = Run(model, optimizer, sparsifier, batches_for(16, 3))
    biases = [model[layer].bias.detach().clone() for layer in (0, 2, 4)]
    for step in run.train():
        assert_exact_and_clean(run, "chtss", 0.8, step)
    assert all(torch.equal(model[layer].bias, bias) for layer, bias in zip((0, 2, 4), biases, strict=True))


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", ["chts", "granet"])
def test_a_wrapped_model_has_the_same_masks(method: str, wrapper: str) -> None:
    model = WRAPPERS[wrapper](tiny.mlp())
    run = attach(model, method)
    bare = start(method)
    assert_same_masks(run.sparsifier.masks, bare.sparsifier.masks)
    state = run.sparsifier.state_dict()
    bare.sparsifier.load_state_dict(state)
    assert state["graph"] == bare.sparsifier.state_dict()["graph"]


# --- every head by itself ---


def heads_of(name: str, mask: Tensor, heads: Mapping[str, int]) -> dict[str, Tensor]:
    """The networks that evolve by themselves in a parameter, by the number of heads that names end in."""
    if name.endswith("in_proj_weight"):
        return {
            f"{name}:{role}:{head}": rows
            for role, part in zip("qkv", mask.chunk(3), strict=True)
            for head, rows in enumerate(part.chunk(heads["in_proj_weight"]))
        }
    for ending, number in heads.items():
        if name.endswith(ending):
            return {f"{name}:{head}": rows for head, rows in enumerate(mask.chunk(number))}
    return {name: mask}


LLAMA_HEADS = {"q_proj.weight": 4, "k_proj.weight": 2, "v_proj.weight": 2}
ATTENTION_MODELS = {"transformer": {"in_proj_weight": 2}, "llama": LLAMA_HEADS}


def attention_run(task: str, method: str, seed: int = 0) -> Run:
    model = tiny.TASKS[task].build(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(model, optimizer, method, 0.8, total_steps=STEPS, update_every=EVERY, per_head=True)
    return Run(model, optimizer, sparsifier, [])


def train_on(task: str, run: Run, first: int = 0, last: int = STEPS) -> Iterator[int]:
    for step in range(first + 1, last + 1):
        run.optimizer.zero_grad()
        tiny.TASKS[task].loss(run.model, step).backward()
        run.optimizer.step()
        run.sparsifier.step()
        yield step


@pytest.mark.parametrize(("task", "method"), tiers.every_second(ATTENTION_MODELS, METHODS))
def test_each_head_has_its_exact_number_of_links(task: str, method: str) -> None:
    run = attention_run(task, method)
    names: set[str] = set()
    for step in chain([0], train_on(task, run)):
        for parameter, whole in run.sparsifier.masks.items():
            for name, mask in heads_of(parameter, whole, ATTENTION_MODELS[task]).items():
                assert int(mask.sum()) == wanted_links(method, 0.8, mask.shape, step), (step, name)
                names.add(name)
    history = run.sparsifier.history
    assert {row["layer"] for row in history} == (set() if method == "fc" else names)
    last = {row["layer"]: row for row in history}
    for parameter, whole in run.sparsifier.masks.items():
        for name, mask in heads_of(parameter, whole, ATTENTION_MODELS[task]).items():
            assert name not in last or last[name]["links"] == int(mask.sum())


def test_heads_of_grouped_query_attention_are_as_many_as_there_are() -> None:
    run = attention_run("llama", "set")
    for _ in train_on("llama", run, last=EVERY):
        pass
    attention = "model.layers.0.self_attn"
    layers = [row["layer"] for row in run.sparsifier.history if row["layer"].startswith(attention)]
    assert layers == [
        *(f"{attention}.q_proj.weight:{head}" for head in range(4)),
        *(f"{attention}.k_proj.weight:{head}" for head in range(2)),
        *(f"{attention}.v_proj.weight:{head}" for head in range(2)),
        f"{attention}.o_proj.weight",
    ]


def test_heads_are_left_together_unless_asked() -> None:
    run = attach(tiny.translator(), "set")
    for step in range(EVERY):
        tiny.loss_of_translator(run.model, step).backward()
        run.sparsifier.step()
    packed = "transformer.encoder.layers.0.self_attn.in_proj_weight"
    assert {f"{packed}:{role}" for role in "qkv"} <= {row["layer"] for row in run.sparsifier.history}
    assert not any(row["layer"].endswith(":0") for row in run.sparsifier.history)
    counts = [int(head.sum()) for head in run.sparsifier.masks[packed].chunk(6)]
    assert [sum(counts[first : first + 2]) for first in (0, 2, 4)] == [51, 51, 51]
    assert len(set(counts)) > 1


@pytest.mark.parametrize(
    ("task", "method", "cut"), tiers.every_pair(ATTENTION_MODELS, ["mest", "granet", "cht", "chtss"], [5, 6])
)
def test_heads_resume_to_the_bit(task: str, method: str, cut: int) -> None:
    uncut = attention_run(task, method)
    for step in train_on(task, uncut):
        if step == cut:
            saved = snapshot(uncut)
    resumed = resume(attention_run(task, method, seed=1), saved)
    for _ in train_on(task, resumed, first=cut):
        pass
    assert_same_run(resumed, uncut)


def test_a_run_by_heads_does_not_go_on_without_them() -> None:
    state = attention_run("transformer", "set").sparsifier.state_dict()
    model = tiny.translator()
    with pytest.raises(ValueError, match="saved generators belong to layers"):
        attach(model, "set").sparsifier.load_state_dict(state)


# --- other models ---


def test_a_newer_sparsifier_takes_over_and_the_older_one_refuses_to_step() -> None:
    model = tiny.mlp((16, 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    old, new = (
        chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=10, seed=seed) for seed in (0, 1)
    )
    model(torch.randn(8, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert bool((model[0].weight.grad[new.masks["0.weight"]] != 0).any())
    only_new = new.masks["0.weight"] & ~old.masks["0.weight"]
    assert bool((model[0].weight.grad[only_new] != 0).any())  # the older hook would have cleared these
    assert bool((model[0].weight.grad[~new.masks["0.weight"]] == 0).all())
    with pytest.raises(RuntimeError, match="a newer Sparsifier has been attached"):
        old.step()
    new.step()
    assert (old.steps, new.steps) == (0, 1)


def test_a_new_sparsifier_replaces_one_that_is_gone() -> None:
    model = tiny.mlp((16, 16, 3))
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
    """Two branches and a sum. No nn.Sequential shows how the layers are connected."""

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
    model = tiny.mlp((16, 16, 16, 3))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.8, total_steps=STEPS, update_every=EVERY)
    assert list(sparsifier.masks) == ["2.weight"]
    assert torch.equal(model[0].weight, before)


def test_an_optimizer_that_has_already_trained_starts_clean() -> None:
    model = tiny.mlp()
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
        for name, parameter in run.model.named_parameters():
            parameter.copy_(run.sparsifier.masks.get(name, torch.ones_like(parameter)))
    run.sparsifier.rescale_weights()
    for name, mask in run.sparsifier.masks.items():
        assert torch.equal(run.weight(name), mask * 2.0)
    assert torch.equal(run.weight("4.weight"), torch.ones(3, 16))


def test_rescaled_layers_keep_the_variance_of_the_dense_ones() -> None:
    model = tiny.mlp((400, 400, 3))
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(1))  # with seed 0 it would follow the weights
    with torch.no_grad():
        dense = float(model[0](x).var())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.95, total_steps=STEPS, update_every=EVERY)
    sparsifier.rescale_weights()
    with torch.no_grad():
        assert float(model[0](x).var()) == pytest.approx(dense, rel=0.1)


# --- a start from the correlations of the inputs ---


def of_inputs() -> Tensor:
    correlation = chts.topology.Correlation()
    correlation.update(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)))
    return correlation.matrix()


def test_the_most_correlated_inputs_are_linked_first() -> None:
    correlation = of_inputs()
    sparsifier = attach(tiny.mlp(), "chts/paper_mlp", correlation=correlation).sparsifier
    for mask in sparsifier.masks.values():
        assert mask.shape == (16, 16)
        assert correlation[mask].min() >= correlation[~mask].max()


def test_a_start_from_correlations_without_inputs_is_refused_and_changes_nothing() -> None:
    model = tiny.mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"starts from the correlations of the inputs \(CSTI\), but none were given"):
        attach(model, "chts/paper_mlp")
    assert same(model.state_dict(), before)
    masks = copies(attach(tiny.mlp(), "chts").sparsifier.masks)
    assert_same_masks(
        attach(tiny.mlp(), "chts/paper_mlp", initial_masks=masks).sparsifier.masks, masks
    )  # given by other means


def test_correlations_that_a_method_does_not_use_are_refused() -> None:
    with pytest.raises(ValueError, match=r"correlation is given, but the method starts from ReceptiveField\(r=0\.25"):
        attach(tiny.mlp(), "chts", correlation=of_inputs())


@pytest.mark.parametrize("features", [15, 17])
def test_correlations_of_other_inputs_are_refused(features: int) -> None:
    message = rf"correlation has {features} features, but the sparse layers have 16 inputs"
    with pytest.raises(ValueError, match=message):
        attach(tiny.mlp(), "chts/paper_mlp", correlation=torch.ones(features, features))
