"""Infinite and NaN values are found, named and survived: nine methods in three precisions. And layers of odd shapes."""

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import tiers
import tiny
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import chts_core as chts
from chts_core.tools.numerics import NonFinite, find_nonfinite

METHODS = list(chts.METHODS)
SPARSE_METHODS = METHODS[1:]
STEPS, EVERY = 12, 2
BAD, DUE = 5, 6  # a step without an update after it, and one with
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def autocast(precision: str) -> AbstractContextManager[Any]:
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


class Run:
    """A perceptron that trains as one would who expects the worst: a GradScaler leaves out what is not finite."""

    def __init__(self, method: str, precision: str = "float32", execution: Any = "masked") -> None:
        self.method, self.precision = method, precision
        self.model = tiny.mlp()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.sparsifier = chts.Sparsifier(
            self.model, self.optimizer, method, 0.8, total_steps=STEPS, update_every=EVERY, execution=execution
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1.0 if precision != "float16" else 2.0**10)

    def loss(self, step: int, inputs: Callable[[Tensor], Tensor] | None = None, factor: float = 1.0) -> Tensor:
        x, y = tiny.rows_and_classes(step)
        with autocast(self.precision):
            logits = self.model(x if inputs is None else inputs(x))
        return nn.functional.cross_entropy(logits.float(), y) * factor

    def step(self, step: int, **bad: Any) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(step, **bad)).backward()
        self.scaler.step(self.optimizer)
        self.sparsifier.step()
        self.scaler.update()

    def links(self) -> list[int]:
        return [int(mask.sum()) for mask in self.sparsifier.masks.values()]

    def assert_in_order(self) -> None:
        """It has ended with finite weights and the links it was to have."""
        assert self.sparsifier.steps == STEPS
        assert self.links() == [256 if self.method == "fc" else 51] * 2
        assert find_nonfinite(self.model) == []
        assert chts.audit.audit(self.sparsifier) == []


def spoil(value: float) -> Callable[[Tensor], Tensor]:
    """One value of a batch of inputs becomes another."""

    def spoiled(x: Tensor) -> Tensor:
        x = x.clone()
        x[3, 7] = value
        return x

    return spoiled


# --- one bad step is survived ---


@pytest.mark.parametrize(
    ("method", "precision", "at", "where"),
    tiers.every_pair(METHODS, PRECISIONS, [BAD, DUE], ["input", "loss", "gradient"]),
)
def test_a_step_that_is_not_finite_is_left_out_and_named(method: str, precision: str, at: int, where: str) -> None:
    run = Run(method, precision)
    warned: list[str] = []
    for step in range(1, STEPS + 1):
        bad: dict[str, Any] = {}
        handle = None
        if step == at:
            before = copy.deepcopy(run.model.state_dict())
            if where == "input":
                bad["inputs"] = spoil(math.nan)
            elif where == "loss":
                bad["factor"] = math.nan
            else:
                handle = run.model[2].weight.register_hook(lambda grad: grad * math.inf)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.step(step, **bad)
        warned += [str(warning.message) for warning in caught]
        if handle is not None:
            handle.remove()
        if step == at:
            changed = [name for name, now in run.model.state_dict().items() if not torch.equal(now, before[name])]
            assert changed == [], "the optimizer went on with what is no number"
    waits = method != "fc" and at == DUE
    names = "2.weight" if where == "gradient" else "0.weight, 2.weight"
    assert run.sparsifier.postponed == ([DUE] if waits else [])
    assert warned == (
        [f"a gradient at step {DUE} is infinite or NaN ({names}); the update of the topology waits for the next step."]
        if waits
        else []
    )
    run.assert_in_order()


@pytest.mark.parametrize(
    ("method", "precision", "execution", "value"),
    tiers.every_pair(SPARSE_METHODS, PRECISIONS, ["masked", "csr"], VALUES),
)
def test_a_weight_that_is_no_number_is_named_and_the_run_goes_on_from_before(
    method: str, precision: str, execution: str, value: str
) -> None:
    run, uncut = Run(method, precision, execution), Run(method, precision, execution)
    for step in range(1, BAD):
        run.step(step)
    states = [copy.deepcopy(part.state_dict()) for part in (run.model, run.optimizer, run.sparsifier)]
    weight = run.model[2].values if execution == "csr" else run.model[2].weight
    link = (0,) if execution == "csr" else tuple(run.sparsifier.masks["2.weight"].nonzero()[0])
    with torch.no_grad():
        weight[link] = VALUES[value]
    assert [(entry.what, entry.count) for entry in find_nonfinite(run.model)] == [("weight", 1)]
    masks = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step(BAD)  # no update follows: nothing is asked of the weights
        message = rf"before the update of step {DUE}, links of 2\.weight have infinite or NaN weights"
        for _ in range(2):  # it stays so
            with pytest.raises(RuntimeError, match=message):
                run.sparsifier.step()
    assert run.sparsifier.steps == BAD
    assert all(torch.equal(mask, masks[name]) for name, mask in run.sparsifier.masks.items())

    for part, state in zip((run.model, run.optimizer, run.sparsifier), states, strict=True):
        part.load_state_dict(state)
    for step in range(BAD, STEPS + 1):
        run.step(step)
    for step in range(1, STEPS + 1):
        uncut.step(step)
    run.assert_in_order()
    for name, tensor in uncut.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor), name


def test_many_layers_are_counted_instead_of_listed() -> None:
    model = tiny.mlp((8,) * 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.5, total_steps=4, update_every=1)
    nn.functional.cross_entropy(model(torch.full((2, 8), math.nan)), torch.tensor([0, 1])).backward()
    with pytest.warns(RuntimeWarning, match=r"NaN \(0\.weight and 4 others\); the update of the topology"):
        sparsifier.step()


# --- finding where it begins ---


def test_a_network_in_order_has_nothing_to_find() -> None:
    model = tiny.mlp()
    tiny.loss_of_mlp(model, 1).backward()
    assert find_nonfinite(model, lambda: tiny.loss_of_mlp(model, 1)) == []
    assert find_nonfinite(nn.Identity(), lambda: torch.zeros(3)) == []


def found(model: nn.Module, x: Tensor) -> list[tuple[str, str, int, int]]:
    return [(entry.what, entry.name, entry.count, entry.of) for entry in find_nonfinite(model, lambda: model(x).sum())]


def test_a_bad_input_is_found_at_the_first_layer() -> None:
    model = tiny.mlp()
    assert found(model, spoil(math.nan)(torch.zeros(8, 16)))[:2] == [("input", "0", 1, 128), ("input", "1", 16, 128)]
    assert find_nonfinite(model, lambda: model(spoil(math.inf)(torch.zeros(8, 16))).sum())[0].what == "input"


def test_a_layer_that_makes_it_is_named_by_its_output() -> None:
    class Reciprocal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 / x

    model = nn.Sequential(nn.Linear(2, 2), Reciprocal(), nn.Linear(2, 1))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.ones_(model[2].weight)
    assert found(model, torch.ones(4, 2)) == [
        ("output", "1", 8, 8),
        ("input", "2", 8, 8),
        ("output", "", 4, 4),
        ("loss", "", 1, 1),
    ]
    assert str(find_nonfinite(model, lambda: model(torch.ones(4, 2)).sum())[0]) == "the output of 1 (8 of 8 values)"


def test_a_weight_comes_before_what_it_does() -> None:
    model = tiny.mlp()
    with torch.no_grad():
        model[2].weight[1, 2] = math.inf
    entries = found(model, torch.ones(4, 16))
    assert entries[0] == ("weight", "2.weight", 1, 256)
    assert entries[1][:2] == ("output", "2")


def test_buffers_and_gradients_are_looked_at() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].running_mean[0] = math.nan
    model[0].bias.grad = torch.tensor([math.inf, 0.0])
    assert find_nonfinite(model) == [
        NonFinite("buffer", "1.running_mean", 1, 2),
        NonFinite("gradient", "0.bias", 1, 2),
    ]
    assert list(map(str, find_nonfinite(model))) == [
        "the buffer 1.running_mean (1 of 2 values)",
        "the gradient of 0.bias (1 of 2 values)",
    ]


def test_an_overflow_in_half_precision_is_found_where_it_happens() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(200.0)
            layer.bias.zero_()

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return model(torch.ones(1, 4)).sum()

    assert [(entry.what, entry.name) for entry in find_nonfinite(model, loss)][:1] == [("output", "1")]
    assert find_nonfinite(model, lambda: model(torch.ones(1, 4)).sum()) == []


@pytest.mark.parametrize("task", tiny.TASKS)
def test_models_with_masks_of_their_own_are_in_order(task: str) -> None:
    """What attention leaves out, it leaves out by -inf."""
    model = tiny.TASKS[task].build(0)
    assert find_nonfinite(model, lambda: tiny.TASKS[task].loss(model, 1)) == []
    masked = nn.Transformer(8, 2, 1, 1, 8, batch_first=True)
    mask = masked.generate_square_subsequent_mask(3)
    rows = torch.zeros(1, 3, 8)
    assert find_nonfinite(masked, lambda: masked(rows, rows, mask, mask).sum()) == []


def test_looking_changes_nothing() -> None:
    model = tiny.mlp()
    tiny.loss_of_mlp(model, 1).backward()
    before = copy.deepcopy([(weight.detach(), weight.grad) for weight in model.parameters()])
    with pytest.raises(RuntimeError, match="shapes"):  # a loss that fails leaves no hook behind
        find_nonfinite(model, lambda: model(torch.ones(1, 3)).sum())
    find_nonfinite(model, lambda: tiny.loss_of_mlp(model, 2))
    for (weight, gradient), now in zip(before, model.parameters(), strict=True):
        assert torch.equal(weight, now.detach())
        assert torch.equal(gradient, now.grad)
    assert not any(module._forward_hooks for module in model.modules())


def test_looking_does_not_disturb_an_update_by_gradient() -> None:
    runs = []
    for look in (False, True):
        run = Run("rigl", execution="csr")
        for step in range(1, STEPS + 1):
            run.step(step)
            if look:
                find_nonfinite(run.model, partial(run.loss, step))
        runs.append(run)
    assert all(
        torch.equal(*pair)
        for pair in zip(runs[0].model.state_dict().values(), runs[1].model.state_dict().values(), strict=True)
    )


# --- layers of odd shapes, and what is not a plain layer ---


SHAPES = {"1x1": (1, 1), "1xN": (1, 9), "Nx1": (9, 1), "narrow": (7, 1, 7), "wide": (3, 200, 3)}


def train_all_layers(widths: tuple[int, ...], method: str, sparsity: float, **given: Any) -> list[int]:
    """Train a perceptron whose layers are all sparse; the links each has at the end."""
    model = tiny.mlp(widths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, sparsity, total_steps=8, update_every=2, exclude=(), **given)
    sparsifier.rescale_weights()
    for step in range(8):
        optimizer.zero_grad()
        model(tiny.rows_and_classes(step, widths[0])[0]).square().sum().backward()
        optimizer.step()
        sparsifier.step()
    assert find_nonfinite(model) == []
    return [int(mask.sum()) for mask in sparsifier.masks.values()]


def one_link(widths: tuple[int, ...]) -> float:
    """The sparsity at which the smallest of these layers has one link."""
    return 1 - 1 / min(before * after for before, after in pairwise(widths))


@pytest.mark.parametrize(
    ("method", "shape", "execution", "links"),
    tiers.every_pair(METHODS, SHAPES, ["masked", "csr"], ["one", "half", "all"]),
)
def test_odd_layers_train(method: str, shape: str, execution: str, links: str) -> None:
    widths = SHAPES[shape]
    sparsity = {"one": one_link(widths), "half": 0.5, "all": 0.0}[links]
    sizes = [before * after for before, after in pairwise(widths)]
    decays = method in ("gmp", "granet", "chtss")
    if method != "fc" and any(round((1 - sparsity) * size) == 0 for size in sizes):
        with pytest.raises(ValueError, match=r"would have no link at sparsity .* at most 0 or a wider layer"):
            train_all_layers(widths, method, sparsity, execution=execution)
    elif decays and sparsity < 0.5:
        with pytest.raises(
            ValueError, match=r"the sparsity would fall from 0\.5 at step 0 to .*; choose a final sparsity above"
        ):
            train_all_layers(widths, method, sparsity, execution=execution)
    else:
        expected = sizes if method == "fc" else [round((1 - sparsity) * size) for size in sizes]
        assert train_all_layers(widths, method, sparsity, execution=execution) == expected


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_no_links_at_all_are_refused_with_the_most_sparse_there_may_be(method: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(16, 16\) would have no link at sparsity 0\.999.* at most 0\.996094"):
        train_all_layers((16, 16, 16), method, 0.999)
    assert train_all_layers((16, 16, 16), method, 0.996094) == [1, 1]


@pytest.mark.parametrize(
    ("method", "execution"),
    [
        ("set", "csr"),
        ("chtss", "masked"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (("rigl", "masked"), ("rigl", "csr"), ("chts", "csr"))
        ),
    ],
)
def test_a_layer_of_4096_squared_has_its_exact_links(method: str, execution: str) -> None:
    model = nn.Sequential(nn.Linear(4096, 4096, bias=False), nn.Linear(4096, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 0.99, total_steps=6, update_every=2, seed=1, execution=execution
    )
    for step in range(4):  # two updates; the second one is at the final sparsity
        optimizer.zero_grad()
        model(tiny.rows_and_classes(step, 4096)[0]).square().mean().backward()
        optimizer.step()
        sparsifier.step()
    assert [int(mask.sum()) for mask in sparsifier.masks.values()] == [round(0.01 * 4096**2)]
    assert sum(row["regrown"] for row in sparsifier.history) > 0
    assert find_nonfinite(model) == []


def weight_normed() -> nn.Module:
    model = tiny.mlp()
    parametrizations.weight_norm(model[2])
    return model


def parametrised() -> nn.Module:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    model = tiny.mlp()
    parametrize.register_parametrization(model[2], "weight", Halved())
    return model


def pruned() -> nn.Module:
    model = tiny.mlp()
    prune.random_unstructured(model[2], "weight", 0.5)
    return model


def tied() -> nn.Module:
    model = tiny.mlp()
    model[2].weight = model[0].weight
    return model


def frozen() -> nn.Module:
    model = tiny.mlp()
    model[2].weight.requires_grad_(False)
    return model


def shared_module() -> nn.Module:
    model = tiny.mlp()
    return nn.Sequential(model[0], model[1], model[0], model[3], model[4])


# What is not a plain layer: what is said of it, and the sparse layers when it is left out or handled.
UNUSUAL: dict[str, tuple[Callable[[], nn.Module], str | None, list[str]]] = {
    "weight-normalised": (
        weight_normed,
        r"'2\.weight' has no weight parameter .* for example by weight_norm",
        ["0.weight"],
    ),
    "parametrised": (parametrised, r"'2\.weight' has no weight parameter .* Remove the parametrization", ["0.weight"]),
    "pruned by torch": (pruned, r"'2\.weight' has no weight parameter .* or exclude the layer", ["0.weight"]),
    "tied": (tied, r"the layers 0\.weight and 2\.weight share one weight.* or exclude them", []),
    "frozen": (frozen, None, ["0.weight"]),
    "shared module": (shared_module, None, ["0.weight"]),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_plain_layer_is_handled_or_refused(method: str, kind: str) -> None:
    build, refusal, layers = UNUSUAL[kind]
    model = build()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    given: dict[str, Any] = {"sparsity": 0.8, "total_steps": STEPS, "update_every": EVERY}
    if refusal is not None:
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=refusal):
            chts.Sparsifier(model, optimizer, method, **given)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        if not layers:
            return
        given |= {"exclude": ["2", "4"], "graph": chts.LayerGraph()}
    sparsifier = chts.Sparsifier(model, optimizer, method, **given)
    kept = model[2].weight.detach().clone() if kind == "frozen" else None
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        tiny.loss_of_mlp(model, step).backward()
        optimizer.step()
        sparsifier.step()
    assert list(sparsifier.masks) == layers
    assert [int(mask.sum()) for mask in sparsifier.masks.values()] == [256 if method == "fc" else 51]
    assert find_nonfinite(model) == []
    assert kept is None or torch.equal(kept, model[2].weight)
