"""Whatever a user does to the model and the optimizer between two steps is followed, or refused in words."""

import copy
import io
import math
import re
import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.engine.linear import Execution, to_dense
from chts_core.engine.network import SparseNetwork
from chts_core.tools.audit import audit
from chts_core.update import TopologyUpdate

EVERY = 5
EXECUTIONS: list[Execution] = ["masked", "csr"]


class Run:
    def __init__(
        self,
        method: str = "set",
        execution: Execution = "masked",
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr: float = 0.01,
    ) -> None:
        self.model = tiny.mlp((16, 24, 24, 3))
        self.optimizer = optimizer(self.model.parameters(), lr=lr)
        self.sparsifier = chts.Sparsifier(
            self.model, self.optimizer, method, 0.8, total_steps=200, update_every=EVERY, execution=execution
        )
        self.generator = torch.Generator().manual_seed(0)

    def backward(self, model: nn.Module | None = None) -> None:
        images = torch.randn(8, 16, generator=self.generator)
        F.cross_entropy((model or self.model)(images), torch.arange(8) % 3).backward()

    def train(self, steps: int) -> "Run":
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.backward()
            self.optimizer.step()
            self.sparsifier.step()
        return self

    def links(self) -> dict[str, Tensor]:
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}


def share_of_nonzero(run: Run) -> float:
    weights = [run.model.get_parameter(name) for name in run.sparsifier.masks]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_every_mask_is_that_of_the_weights() -> None:
    run = Run("chts").train(23)
    assert run.sparsifier.density() == pytest.approx(share_of_nonzero(run), abs=0.02)  # some links have weight 0 yet
    assert audit(run.sparsifier) == []


# --- parameters, optimizers and frozen layers ---


def replace_by_assigning(run: Run) -> None:
    run.model.load_state_dict(copy.deepcopy(run.model.state_dict()), assign=True)


def replace_a_module(run: Run) -> None:
    run.model[0] = nn.Linear(16, 24)


def replace_a_parameter(run: Run) -> None:
    run.model[0].weight = nn.Parameter(run.model[0].weight.detach().clone())


def tie_two_layers(run: Run) -> None:
    run.model[2].weight = run.model[0].weight = nn.Parameter(torch.zeros(24, 24))


@pytest.mark.promise(
    "replace parameters: `load_state_dict(assign=True)`, tying, a new module", "refused at the next step"
)
@pytest.mark.parametrize("replace", [replace_by_assigning, replace_a_module, replace_a_parameter, tie_two_layers])
def test_replaced_parameters_are_refused(replace: Callable[[Run], None]) -> None:
    run = Run().train(7)
    replace(run)
    with pytest.raises(RuntimeError, match=r"parameters 0\.weight.* are not the ones that the Sparsifier"):
        run.sparsifier.step()
    assert run.sparsifier.steps == 7


@pytest.mark.promise(
    "step another optimizer than the one that was given", "refused; a new Sparsifier with `resume_from` keeps the links"
)
@pytest.mark.parametrize("other", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_another_optimizer_is_refused(other: Any, execution: Execution) -> None:
    run = Run(execution=execution).train(7)
    held = run.optimizer
    run.optimizer = other(run.model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=f"another optimizer, {other.__name__}, has changed the model's weights"):
        run.train(1)
    del held

    again = chts.Sparsifier(
        run.model,
        run.optimizer,
        "set",
        0.8,
        total_steps=200,
        update_every=EVERY,
        execution="masked",
        resume_from=run.sparsifier.state_dict(),
    ) if execution == "masked" else None  # fmt: skip
    if again is not None:
        run.sparsifier = again
        run.train(5)
        assert run.sparsifier.steps == 12


def test_an_optimizer_of_another_model_does_not_matter() -> None:
    run, other = Run().train(3), Run().train(3)
    run.train(1)
    other.train(2)
    run.train(1)
    assert (run.sparsifier.steps, other.sparsifier.steps) == (5, 5)


class Wrapper(torch.optim.Optimizer):
    """Steps another optimizer, as accelerate's does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.promise("wrap the optimizer, as accelerate does", "followed")
def test_the_optimizer_within_a_wrapper_is_found() -> None:
    model = tiny.mlp((16, 24, 24, 3))
    inner = torch.optim.Adam(model.parameters())
    sparsifier = chts.Sparsifier(model, Wrapper(inner), "set", 0.8, total_steps=100, update_every=2)
    assert sparsifier.optimizer is inner
    for _ in range(4):
        inner.zero_grad()
        model(torch.randn(4, 16)).square().sum().backward()
        Wrapper(inner).step()
        sparsifier.step()
    assert audit(sparsifier) == []


@pytest.mark.promise("take weights out of the optimizer's groups", "refused at the next update")
def test_an_optimizer_that_lost_the_weights_is_refused() -> None:
    run = Run().train(EVERY - 1)
    run.optimizer.param_groups[0]["params"] = [run.model[4].weight]
    with pytest.raises(RuntimeError, match="no longer holds all sparse weights"):
        run.train(1)


@pytest.mark.promise("freeze a layer, and unfreeze it later", "followed: meanwhile it keeps links and weights")
@pytest.mark.parametrize("method", ["set", "rigl", "mest", "gmp", "granet", "chts", "chtss"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_frozen_layer_keeps_its_links_until_it_trains_again(method: str, execution: Execution) -> None:
    run = Run(method, execution).train(2 * EVERY)
    run.model[0].requires_grad_(False)
    weight = next(run.model[0].parameters()).detach().clone()
    before = run.links()
    run.train(6 * EVERY)
    assert torch.equal(run.sparsifier.masks["0.weight"], before["0.weight"])
    assert torch.equal(next(run.model[0].parameters()), weight)
    assert not torch.equal(run.sparsifier.masks["2.weight"], before["2.weight"])
    assert audit(run.sparsifier) == []

    state = run.sparsifier.state_dict()
    run.sparsifier.load_state_dict(state)
    run.model[0].requires_grad_(True)
    run.train(2 * EVERY)
    wanted = run.sparsifier.progress.budget.links(run.sparsifier.progress.updated_at)["0.weight"]
    assert int(run.sparsifier.masks["0.weight"].sum()) == wanted
    assert not torch.equal(run.sparsifier.masks["0.weight"], before["0.weight"])
    assert audit(run.sparsifier) == []


@pytest.mark.promise("train a layer that was frozen at first", "a warning names it; it stays dense")
@pytest.mark.parametrize("layers", [("0",), ("2",), ("0", "2")])
def test_a_layer_that_trains_later_is_named(layers: tuple[str, ...]) -> None:
    model = tiny.mlp((16, 24, 24, 24, 3))
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=2)

    def train() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 16)).square().sum().backward()
            optimizer.step()
            sparsifier.step()

    train()
    for layer in layers:
        model.get_submodule(layer).requires_grad_(True)
    names = ", ".join(f"{layer}.weight" for layer in layers)
    with pytest.warns(RuntimeWarning, match=rf"{names} were frozen .* but are trained now; they stay dense") as warned:
        train()
    assert len(warned) == 1
    again = chts.Sparsifier(
        model, optimizer, "set", 0.8, total_steps=100, update_every=2, initial_masks=sparsifier.masks
    )
    assert again.masks.keys() == {"0.weight", "2.weight", "4.weight"}
    assert all(torch.equal(again.masks[name], mask) for name, mask in sparsifier.masks.items())


@pytest.mark.promise("forget to call `step()`", "a warning; the masks hold")
def test_a_sparsifier_that_nobody_keeps_goes_on_and_complains() -> None:
    model = tiny.mlp((16, 24, 24, 3))
    optimizer = torch.optim.Adam(model.parameters())
    mask = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=10).masks["0.weight"].clone()

    def train() -> None:
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(4, 16)).square().sum().backward()
            optimizer.step()

    with pytest.warns(RuntimeWarning, match=r"made three steps without a call of sparsifier\.step\(\)") as warned:
        train()
    assert len(warned) == 1
    assert torch.equal(model[0].weight != 0, mask)


# --- weights without their masks ---


def load(run: Run, state: dict[str, Tensor]) -> None:
    run.model.load_state_dict(state)


def load_a_layer(run: Run, state: dict[str, Tensor]) -> None:
    run.model[0].load_state_dict({name: state[f"0.{name}"] for name in ("weight", "bias")})


@torch.no_grad()
def copy_into(run: Run, state: dict[str, Tensor]) -> None:
    for name, parameter in run.model.named_parameters():
        parameter.copy_(state[name])


@pytest.mark.promise("load or write weights without their masks", "refused until the masks are those of the weights")
@pytest.mark.parametrize("write", [load, load_a_layer, copy_into])
def test_weights_without_their_masks_are_refused(write: Callable[[Run, dict[str, Tensor]], None]) -> None:
    run = Run("chts").train(2 * EVERY)
    best = copy.deepcopy(run.model.state_dict())
    at_best = copy.deepcopy(run.sparsifier.state_dict())
    run.train(4 * EVERY)
    write(run, best)
    sparsifier = run.sparsifier
    for look in (
        sparsifier.density,
        sparsifier.active_neurons,
        sparsifier.state_dict,
        lambda: sparsifier.compact(torch.zeros(1, 16)),
        sparsifier.step,
        lambda: run.train(1),
    ):
        with pytest.raises(RuntimeError, match=r"weights outside the masks, in .*sparsifier\.load_state_dict"):
            look()
    if write is load:
        sparsifier.load_state_dict(at_best)
        assert sparsifier.density() == pytest.approx(0.2, abs=0.01)
        run.train(EVERY)


@pytest.mark.parametrize("load", [load, load_a_layer])
@pytest.mark.parametrize("dense", [False, True])
def test_links_or_dense_weights_loaded_into_layers_of_links_are_refused(load: Any, dense: bool) -> None:
    run = Run("set", "csr").train(EVERY)
    states = copy.deepcopy([part.state_dict() for part in (run.model, run.optimizer, run.sparsifier)])
    other = tiny.mlp((16, 24, 24, 3)) if dense else Run("set", "csr").train(3 * EVERY).model
    if load is load_a_layer:
        run.model[0].load_state_dict(other[0].state_dict())
    else:
        run.model.load_state_dict(other.state_dict())
    for look in (run.sparsifier.density, run.sparsifier.state_dict, run.sparsifier.step, lambda: run.train(1)):
        with pytest.raises(RuntimeError, match=r"weights outside the masks, in .*sparsifier\.load_state_dict"):
            look()
    for part, state in zip((run.model, run.optimizer, run.sparsifier), states, strict=True):
        part.load_state_dict(state)
    run.train(EVERY)
    assert audit(run.sparsifier) == []


@pytest.mark.parametrize("dense", [False, True])
def test_weights_that_fit_the_links_may_be_loaded(dense: bool) -> None:
    run = Run("set", "csr").train(EVERY + 1)
    saved = copy.deepcopy(run.model)
    run.train(2)
    run.model.load_state_dict(to_dense(saved).state_dict() if dense else saved.state_dict())
    run.train(EVERY)
    assert audit(run.sparsifier) == []


def test_rescaling_hides_no_weights_that_are_not_of_the_masks() -> None:
    run = Run("set")
    run.model.load_state_dict(tiny.mlp((16, 24, 24, 3)).state_dict())
    run.sparsifier.rescale_weights()
    with pytest.raises(RuntimeError, match="weights outside the masks"):
        run.sparsifier.density()


@pytest.mark.promise("load weights that fit the masks", "followed")
def test_weights_that_fit_the_masks_may_be_written() -> None:
    run = Run("set").train(EVERY + 1)
    saved = copy.deepcopy(run.model.state_dict())
    run.train(2)
    run.model.load_state_dict(saved)  # no update came in between
    run.train(EVERY)
    assert audit(run.sparsifier) == []


# --- steps are those of the optimizer ---


@pytest.mark.promise("call `step()` for each micro-batch", "a warning; only steps of the optimizer count")
@pytest.mark.parametrize("micro_batches", [2, 3, 4])
def test_calls_without_a_step_of_the_optimizer_do_not_count(micro_batches: int) -> None:
    run = Run()

    def accumulate() -> None:
        for _ in range(12):
            run.optimizer.zero_grad()
            for number in range(1, micro_batches + 1):
                run.backward()
                if number == micro_batches:
                    run.optimizer.step()
                run.sparsifier.step()

    with pytest.warns(RuntimeWarning, match="without a step of the optimizer") as warned:
        accumulate()
    assert len(warned) == 1
    assert run.sparsifier.steps == 12
    assert sorted({row["step"] for row in run.sparsifier.history}) == [5, 10]


@pytest.mark.promise("accumulate gradients by accelerate's `accumulate()`", "followed: micro-batches do not count")
@pytest.mark.parametrize(("micro_batches", "every", "method"), [(4, 2, "rigl"), (2, 1, "set"), (3, 5, "chts")])
def test_micro_batches_of_accelerate_do_not_count(micro_batches: int, every: int, method: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=micro_batches)
    model = tiny.mlp((16, 24, 24, 3))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    sparsifier = chts.Sparsifier(model, optimizer, method, 0.8, total_steps=12, update_every=every)
    for _ in range(12 * micro_batches):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.randn(4, 16)).square().sum())
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
    assert sparsifier.steps == 12
    assert sorted({row["step"] for row in sparsifier.history}) == list(range(every, 9, every))
    assert audit(sparsifier) == []


@pytest.mark.promise("leave out a step of the optimizer on purpose", "followed with `step(skipped=True)`")
def test_a_step_that_is_left_out_on_purpose_counts() -> None:
    run = Run().train(2)
    run.sparsifier.step(skipped=True)
    assert run.sparsifier.steps == 3


@pytest.mark.promise(
    "train longer than `total_steps`", "a warning; the links stay. Resume with `reschedule=True` to extend the schedule"
)
def test_steps_past_the_end_are_complained_of() -> None:
    model = tiny.mlp((16, 24, 24, 3))
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=6, update_every=2)

    def train() -> None:
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.randn(4, 16)).square().sum().backward()
            optimizer.step()
            sparsifier.step()

    with pytest.warns(RuntimeWarning, match="this is step 7 of a run of 6") as warned:
        train()
    assert len(warned) == 1
    assert sparsifier.steps == 9


# --- gradients that were dropped ---


def drop(run: Run) -> None:
    run.backward()
    run.optimizer.zero_grad()


def drop_in_place(run: Run) -> None:
    run.backward()
    run.optimizer.zero_grad(set_to_none=False)


def drop_twice(run: Run) -> None:
    drop(run)
    drop_in_place(run)


def look_only(run: Run) -> None:
    loss = run.model(torch.randn(4, 16)).square().sum()
    torch.autograd.grad(loss, [p for p in run.model.parameters() if p.requires_grad])


@pytest.mark.promise(
    "drop a gradient: `zero_grad`, a skipped batch, `autograd.grad`",
    "followed: regrowth sees the gradient that the optimizer sees",
)
@pytest.mark.parametrize("dropped", [drop, drop_in_place, drop_twice, look_only])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("method", ["rigl", "granet"])
def test_dropped_gradients_do_not_count(method: str, execution: Execution, dropped: Callable[[Run], None]) -> None:
    runs = [Run(method, execution, torch.optim.SGD), Run(method, execution, torch.optim.SGD)]
    for run in runs:
        run.train(EVERY - 1)
        run.optimizer.zero_grad()
    state = runs[1].generator.get_state()
    dropped(runs[1])
    runs[1].generator.set_state(state)
    for run in runs:
        for _ in range(2):  # two micro-batches, both of which count
            run.backward()
        run.optimizer.step()
        run.sparsifier.step()
    for name, mask in runs[0].sparsifier.masks.items():
        assert torch.equal(mask, runs[1].sparsifier.masks[name])


# --- interrupted updates ---


@pytest.mark.promise("interrupt an update, or let it fail", "followed: nothing of it is in the model")
@pytest.mark.parametrize("method", ["set", "rigl", "gmp", "cht", "chts", "chtss"])
@pytest.mark.parametrize("where", ["_remove", "percolated", "_regrow", "share_generators"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupted_update_leaves_all_as_it_was(
    method: str, where: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "percolated" and not chts.METHODS[method].removal.percolate:
        pytest.skip("it does not percolate")
    runs = [Run(method).train(3 * EVERY - 1) for _ in range(2)]
    run = runs[1]
    owner = TopologyUpdate if hasattr(TopologyUpdate, where) else SparseNetwork
    original = getattr(owner, where)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise error("now")

    before, state = run.links(), run.sparsifier.state_dict()
    for each in runs:
        each.optimizer.zero_grad()
        each.backward()
        each.optimizer.step()
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, interrupted)
        with pytest.raises(error, match="now"):
            run.sparsifier.step()
    assert all(torch.equal(mask, before[name]) for name, mask in run.sparsifier.masks.items())
    assert run.sparsifier.steps == state["steps"]
    for each in runs:
        each.sparsifier.step()
    for name, mask in runs[0].sparsifier.masks.items():  # the update that was made up for is the one that was planned
        assert torch.equal(mask, run.sparsifier.masks[name])
    run.sparsifier.load_state_dict(run.sparsifier.state_dict())
    run.train(2 * EVERY)
    assert audit(run.sparsifier) == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signal_while_the_links_change_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("chts").train(EVERY - 1)
    original = TopologyUpdate.apply

    def signalled(self: TopologyUpdate, *args: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)
        original(self, *args)

    monkeypatch.setattr(TopologyUpdate, "apply", signalled)
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)  # several processes of tests ignore Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            run.train(1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    monkeypatch.undo()
    assert run.sparsifier.steps == EVERY
    assert {row["step"] for row in run.sparsifier.history} == {EVERY}
    run.sparsifier.load_state_dict(run.sparsifier.state_dict())
    run.train(EVERY)
    assert audit(run.sparsifier) == []


# --- copies ---


@pytest.mark.promise("copy or save the model alone", "followed: the copy has no Sparsifier")
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("method", ["set", "rigl", "chts"])
def test_a_copy_of_the_model_is_free(method: str, execution: Execution) -> None:
    run = Run(method, execution).train(EVERY - 1)
    buffer = io.BytesIO()
    torch.save(run.model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(run.model), torch.load(buffer, weights_only=False)):
        images = torch.randn(4, 16)
        assert torch.equal(twin(images), run.model(images))
        run.backward(twin)
    run.train(2 * EVERY)
    assert audit(run.sparsifier) == []


def saved(parts: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.promise(
    "copy or save model, optimizer and Sparsifier together", "followed: the copy goes on to the same bits"
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("method", ["set", "rigl", "gmp", "chts", "chts/llama_code"])
def test_model_optimizer_and_sparsifier_are_copied_together(
    method: str, execution: Execution, duplicate: Callable[[Any], Any]
) -> None:
    run = Run(method, execution).train(EVERY + 2)
    twin = copy.copy(run)
    twin.model, twin.optimizer, twin.sparsifier = duplicate((run.model, run.optimizer, run.sparsifier))
    twin.generator = torch.Generator()
    twin.generator.set_state(run.generator.get_state())
    assert twin.sparsifier.optimizer is twin.optimizer
    twin.train(3 * EVERY)
    assert run.sparsifier.steps == EVERY + 2
    run.train(3 * EVERY)
    for name, mask in run.sparsifier.masks.items():
        assert torch.equal(mask, twin.sparsifier.masks[name])
    for one, other in zip(run.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert audit(twin.sparsifier) == []


# --- what zero is for an optimizer ---


class Codes(torch.optim.Optimizer):
    """Keeps a momentum of whole numbers."""

    def __init__(self, params: Any, lr: float, dtype: torch.dtype = torch.uint8) -> None:
        super().__init__(params, {"lr": lr, "dtype": dtype})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter].setdefault("codes", torch.full_like(parameter, 7, dtype=group["dtype"]))
                    parameter.sub_(parameter.grad, alpha=group["lr"])


class Sign(torch.optim.Optimizer):
    """Moves every weight of a matrix by what is best for the whole of it, also where there is no gradient."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(torch.ones_like(parameter), alpha=group["lr"])


@pytest.mark.promise("use an optimizer that moves weights without a gradient, such as Muon", "a warning with the share")
@pytest.mark.parametrize("kind", ["Sign", "Muon", "Adagrad", "RMSprop"])
def test_what_an_optimizer_loses_is_told(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    if kind == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this version of PyTorch has no Muon")
    model = tiny.mlp((16, 24, 24, 3))
    weights = [model[0].weight, model[2].weight]
    optimizer = Sign(weights, 0.1) if kind == "Sign" else getattr(torch.optim, kind)(weights, lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=100, update_every=50)
    warnings.simplefilter("always")
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
    told = [str(warning.message) for warning in recwarn.list]
    if kind in ("Sign", "Muon"):
        (message,) = told
        assert re.match(rf"\d+% of a step of {kind}", message)
        if kind == "Sign":  # each weight moves as far, and four fifths have no link
            assert message.startswith("80%")
    else:
        assert told == []
    assert audit(sparsifier) == []


@pytest.mark.parametrize("method", ["set", "chts/llama_code"])  # the second hooks into the optimizer itself
@pytest.mark.parametrize("optimizer", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_hooks_that_come_after_attaching_are_called(method: str, optimizer: Any) -> None:
    run = Run(method, optimizer=optimizer)
    called = []
    run.optimizer.register_step_pre_hook(lambda *_: called.append(1))
    run.train(3)
    assert called == [1, 1, 1]


@pytest.mark.promise("use an optimizer with state in whole numbers, such as 8-bit codes", "refused at the first update")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_state_in_codes_is_refused(dtype: torch.dtype, execution: Execution) -> None:
    run = Run(execution=execution, optimizer=lambda p, lr: Codes(p, lr, dtype))
    with pytest.raises(TypeError, match=r"the optimizer Codes keeps 'codes' of 0\.weight as torch\."):
        run.train(EVERY)


@pytest.mark.promise(
    "use an optimizer whose state begins elsewhere than at zero",
    "followed for Adagrad and Rprop: new links begin there",
)
@pytest.mark.parametrize(
    ("optimizer", "key", "first"),
    [
        (lambda p, lr: torch.optim.Rprop(p, lr), "step_size", 0.01),
        (lambda p, lr: torch.optim.Adagrad(p, lr, initial_accumulator_value=0.5), "sum", 0.5),
        (lambda p, lr: torch.optim.Adagrad(p, lr), "sum", 0.0),
        (lambda p, lr: torch.optim.AdamW(p, lr), "exp_avg_sq", 0.0),
    ],
)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_new_links_begin_as_the_optimizer_begins(
    optimizer: Callable[..., torch.optim.Optimizer], key: str, first: float, execution: Execution
) -> None:
    run = Run(execution=execution, optimizer=optimizer).train(2 * EVERY - 1)
    before = run.links()
    run.train(1)
    for name, mask in run.sparsifier.masks.items():
        weight = run.sparsifier.network.weights[name].parameter
        state = run.optimizer.state[weight][key]
        came = mask & ~before[name]
        values = state[came] if execution == "masked" else state[came[mask]]
        assert values.tolist() == pytest.approx([first] * int(came.sum()))
    assert audit(run.sparsifier) == []
    run.train(EVERY)
    assert math.isfinite(share_of_nonzero(run)) if execution == "masked" else True
