"""What else a training loop does: compiling, autocast, loss scaling, accumulation, groups, schedulers, accelerate."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import accelerate
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import chts_core as chts

STEPS, EVERY = 16, 2
METHODS = list(chts.METHODS)
SPARSE_METHODS = METHODS[1:]
SETTINGS: dict[str, Any] = {"sparsity": 0.8, "total_steps": STEPS, "update_every": EVERY}


def sgd(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **settings)


def copies(sparsifier: chts.Sparsifier) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: chts.Sparsifier, steps: int = STEPS
) -> Iterator[dict[str, Tensor]]:
    """The plainest loop; yields the masks after each step."""
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        tiny.loss_of_mlp(model, step).backward()
        optimizer.step()
        sparsifier.step()
        yield copies(sparsifier)


def plain_run(method: str, seed: int = 0) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A model after the plainest run, and its masks after each step."""
    model = tiny.mlp(seed=seed)
    optimizer = sgd(model)
    return model, list(train(model, optimizer, chts.Sparsifier(model, optimizer, method, **SETTINGS)))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


# --- torch.compile ---


# aot_eager traces the backward pass too, as the default backend does.
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("compiled_first", [True, False])
@pytest.mark.parametrize("method", ["chtss", "granet"])
def test_a_compiled_model_evolves_as_it_would_and_is_compiled_once(
    method: str, compiled_first: bool, backend: str
) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    model = tiny.mlp()
    optimizer = sgd(model)
    if compiled_first:
        compiled = torch.compile(model, backend=counter)
        sparsifier = chts.Sparsifier(compiled, optimizer, method, **SETTINGS)
    else:
        sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
        compiled = torch.compile(model, backend=counter)
    compilations = []
    masks = []
    for after in train(compiled, optimizer, sparsifier):
        compilations.append(counter.frame_count)
        masks.append(after)
    assert compilations == [1] * STEPS
    expected_model, expected = plain_run(method)
    for one, other in zip(masks, expected, strict=True):
        assert_same(one, other)
    assert_same(dict(model.named_parameters()), dict(expected_model.named_parameters()))
    assert len({tuple(int(mask.sum()) for mask in after.values()) for after in masks}) > 1, "no density to follow"


# --- autocast ---


@pytest.mark.parametrize("method", METHODS)
def test_a_step_inside_of_autocast_is_the_step_outside(method: str) -> None:
    runs = []
    for inside in (False, True):
        model = tiny.mlp()
        optimizer = sgd(model)
        sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
        masks = []
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = tiny.loss_of_mlp(model, step)
            loss.backward()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
                optimizer.step()
                sparsifier.step()
            masks.append(copies(sparsifier))
        runs.append((masks, dict(model.named_parameters())))
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        assert_same(one, other)
    assert_same(runs[0][1], runs[1][1])
    assert all(parameter.dtype == torch.float32 for parameter in runs[1][1].values())


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_attaching_inside_of_autocast_is_the_same(method: str) -> None:
    masks = []
    for inside in (False, True):
        model = tiny.mlp()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            masks.append(chts.Sparsifier(model, sgd(model), method, **SETTINGS).masks)
    assert_same(*masks)


# --- gradient scaling ---


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_scaled_gradients_make_no_difference(method: str, fused: bool) -> None:
    expected_model, expected = plain_run(method)
    model = tiny.mlp()
    optimizer = sgd(model, fused=fused)
    sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    masks = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        scaler.scale(tiny.loss_of_mlp(model, step)).backward()
        scaler.step(optimizer)
        sparsifier.step()
        scaler.update()
        masks.append(copies(sparsifier))
    assert scaler.get_scale() > 2.0**16
    if fused:  # another order of rounding
        assert all(
            {name: int(mask.sum()) for name, mask in one.items()}
            == {name: int(mask.sum()) for name, mask in other.items()}
            for one, other in zip(masks, expected, strict=True)
        )
    else:  # powers of two are exact
        for one, other in zip(masks, expected, strict=True):
            assert_same(one, other)
        assert_same(dict(model.named_parameters()), dict(expected_model.named_parameters()))


@pytest.mark.parametrize("unscaled_first", [False, True])
@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_an_overflow_puts_the_update_off_until_the_scale_has_come_down(method: str, unscaled_first: bool) -> None:
    model = tiny.mlp()
    optimizer = sgd(model)
    sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    updated = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for step in range(1, STEPS + 1):
            if step == 6:
                scaler.update(2.0**127)
            elif step == 8:
                scaler.update(2.0**10)
            before = copies(sparsifier)
            weights = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.zero_grad()
            # The scale still overflows at step 7, when it has been halved once.
            scaler.scale(tiny.loss_of_mlp(model, step) * 1000).backward()
            if unscaled_first:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            if step in (6, 7):
                assert all(map(torch.equal, weights, model.parameters()))
            sparsifier.step()
            scaler.update()
            if any(not torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items()):
                updated.append(step)
    assert [(warning.category, str(warning.message).split(" is ")[0]) for warning in warned] == [
        (RuntimeWarning, "a gradient at step 6"),
        (RuntimeWarning, "a gradient at step 7"),
    ]
    assert sparsifier.postponed == [6, 7]
    assert 8 in updated
    assert 6 not in updated
    assert 7 not in updated
    assert {int(mask.sum()) for mask in sparsifier.masks.values()} == {51}
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# --- several backward passes per step ---


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_micro_batches_are_one_batch(method: str) -> None:
    """Two runs, one in float64 by whole batches, one by quarters of them, update alike."""
    runs = []
    for parts in (1, 4):
        model = tiny.mlp().double()
        optimizer = sgd(model)
        sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
        masks = []
        for step in range(1, STEPS + 1):
            x, y = tiny.rows_and_classes(step)
            optimizer.zero_grad()
            for inputs, classes in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(inputs), classes) / parts).backward()
            optimizer.step()
            sparsifier.step()
            masks.append(copies(sparsifier))
        runs.append((masks, dict(model.named_parameters())))
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        assert_same(one, other)
    for name, parameter in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], parameter)


def test_a_graph_that_is_kept_may_be_gone_through_twice() -> None:
    model = tiny.mlp()
    optimizer = sgd(model)
    sparsifier = chts.Sparsifier(model, optimizer, "rigl", **SETTINGS)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = tiny.loss_of_mlp(model, step)
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        sparsifier.step()
    assert {int(mask.sum()) for mask in sparsifier.masks.values()} == {51}


# --- optimizers and schedulers ---


@pytest.mark.parametrize("method", METHODS)
def test_parameter_groups_keep_their_settings(method: str) -> None:
    model = tiny.mlp()
    groups = [
        {"params": [model[0].weight, model[0].bias], "lr": 0.1},
        {"params": [model[2].weight, model[2].bias], "lr": 0.0},
        {"params": [model[4].weight, model[4].bias], "lr": 0.01, "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups)
    frozen = model[2].weight.detach().clone()
    sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    seen = sparsifier.masks["2.weight"].clone()
    for _ in train(model, optimizer, sparsifier):
        # At a learning rate of 0 a link that was always there has its initial weight, and any other none.
        seen &= sparsifier.masks["2.weight"]
        assert ((model[2].weight == frozen) | (model[2].weight == 0)).all()
        assert not model[2].weight[~sparsifier.masks["2.weight"]].any()
    assert not torch.equal(model[0].weight, tiny.mlp()[0].weight)
    assert [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups] == (
        settings
    )


def test_a_group_added_later_is_no_trouble() -> None:
    model = tiny.mlp()
    optimizer = sgd(model[:4])
    sparsifier = chts.Sparsifier(model, optimizer, "chts", **SETTINGS)
    for number, _ in enumerate(train(model, optimizer, sparsifier)):
        if number == 5:
            optimizer.add_param_group({"params": list(model[4].parameters())})
    assert {int(mask.sum()) for mask in sparsifier.masks.values()} == {51}


def test_a_learning_rate_scheduler_does_not_notice() -> None:
    rates = []
    for sparse in (False, True):
        model = tiny.mlp()
        optimizer = sgd(model)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        sparsifier = chts.Sparsifier(model, optimizer, "chts/llama_code", **SETTINGS) if sparse else None
        seen = []
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            tiny.loss_of_mlp(model, step).backward()
            optimizer.step()
            if sparsifier is not None:
                sparsifier.step()
            scheduler.step()
            seen.append(scheduler.get_last_lr())
        rates.append(seen)
    assert rates[0] == rates[1]


def test_two_optimizers_are_refused_and_the_weights_that_one_lacks_are_named() -> None:
    model = tiny.mlp()
    first, second = sgd(model[0]), sgd(model[2:])
    with pytest.raises(ValueError, match=r"optimizer does not hold the model's weights 2\.weight; build it from"):
        chts.Sparsifier(model, first, "set", **SETTINGS)
    with pytest.raises(ValueError, match=r"optimizer does not hold the model's weights 0\.weight; build it from"):
        chts.Sparsifier(model, second, "set", **SETTINGS)
    # One Sparsifier takes one optimizer; of a model with two, each may rule its own layers.
    sparsifiers = [
        chts.Sparsifier(model, optimizer, "chts", include=name, graph=chts.LayerGraph(), **SETTINGS)
        for optimizer, name in ((first, "0"), (second, "2"))
    ]
    for step in range(1, STEPS + 1):
        model.zero_grad()
        tiny.loss_of_mlp(model, step).backward()
        for optimizer, sparsifier in zip((first, second), sparsifiers, strict=True):
            optimizer.step()
            sparsifier.step()
    for sparsifier, name in zip(sparsifiers, ("0.weight", "2.weight"), strict=True):
        mask = sparsifier.masks[name]
        assert list(sparsifier.masks) == [name]
        assert int(mask.sum()) == 51
        assert not model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("method", ["chts", "rigl"])
def test_evaluation_between_steps_changes_nothing(method: str) -> None:
    _, expected = plain_run(method)
    model = tiny.mlp()
    optimizer = sgd(model)
    sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
    for number, masks in enumerate(train(model, optimizer, sparsifier)):
        with torch.no_grad():
            tiny.loss_of_mlp(model.eval(), 99)
        model.train()
        copy.deepcopy(model)
        sparsifier.density(), sparsifier.active_neurons(), sparsifier.itop_rate()
        assert_same(masks, expected[number])


# --- accelerate ---


class Accelerated:
    """A loop with accelerate: accumulation, bf16, and clipping that matters."""

    def __init__(self, execution: Any, seed: int = 0) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
        model = tiny.mlp(seed=seed)
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2))
        self.sparsifier = chts.Sparsifier(self.model, self.optimizer, "chtss", execution=execution, **SETTINGS)
        self.accelerator.register_for_checkpointing(self.sparsifier)

    def train(self, first: int, last: int) -> None:
        for batch in range(2 * first, 2 * last):
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(tiny.loss_of_mlp(self.model, batch))
                if self.accelerator.sync_gradients:
                    assert self.accelerator.clip_grad_norm_(self.model.parameters(), 0.1) > 0.1
                self.optimizer.step()
                self.sparsifier.step()
                self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


@pytest.fixture
def _new_accelerator() -> Iterator[None]:
    """Accelerators share their settings; no other test gets these."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.mark.usefixtures("_new_accelerator")
@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_accelerate_does_what_the_plain_loop_does(execution: Any) -> None:
    run = Accelerated(execution)
    run.train(0, STEPS)
    model = tiny.mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    sparsifier = chts.Sparsifier(model, optimizer, "chtss", execution=execution, **SETTINGS)
    for step in range(STEPS):
        for batch in (2 * step, 2 * step + 1):
            x, y = tiny.rows_and_classes(batch)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(x)
            (nn.functional.cross_entropy(outputs.float(), y) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert_same(run.weights(), model.state_dict())
    assert_same(copies(run.sparsifier), copies(sparsifier))
    assert run.sparsifier.steps == STEPS
    assert chts.audit.audit(run.sparsifier) == []


@pytest.mark.usefixtures("_new_accelerator")
@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_accelerate_goes_back_to_a_saved_state_and_ends_at_the_same_bits(execution: Any, tmp_path: Any) -> None:
    run = Accelerated(execution)
    run.train(0, 5)
    run.accelerator.save_state(tmp_path)
    saved, masks = run.weights(), copies(run.sparsifier)
    run.train(5, STEPS)
    end = run.weights(), copies(run.sparsifier)
    # as after early stopping: back to the best weights, with their masks
    run.accelerator.load_state(tmp_path)
    assert_same(run.weights(), saved)
    assert_same(copies(run.sparsifier), masks)
    assert chts.audit.audit(run.sparsifier) == []
    other = Accelerated(execution, seed=1)  # as in a new process
    other.accelerator.load_state(tmp_path)
    for again in (run, other):
        again.train(5, STEPS)
        assert_same(again.weights(), end[0])
        assert_same(copies(again.sparsifier), end[1])
