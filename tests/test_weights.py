"""A run whose layers store only their links is the run under masks, up to rounding."""

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tiers
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine import weights
from chts_core.engine.kernels import COMPILED, DENSE
from chts_core.engine.linear import SparseLinear

STEPS, EVERY = 16, 2
SPARSE_METHODS = [name for name in chts.METHODS if name != "fc"]
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


@dataclass
class Run:
    """A model under sparse training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sparsifier: chts.Sparsifier
    task: tiny.Task
    losses: list[float]

    def train(self, first: int = 0, last: int = STEPS) -> "Run":
        for step in range(first + 1, last + 1):
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model, step)
            loss.backward()
            self.optimizer.step()
            self.sparsifier.step()
            self.losses.append(loss.item())
        return self

    def dense_state(self) -> dict[str, Tensor]:
        return linear_of(self.model).state_dict()

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer keeps of sparse weights, in dense tensors."""
        dense = {}
        for name, mask in self.sparsifier.masks.items():
            for key, value in self.optimizer.state[self.sparsifier.network.weights[name].parameter].items():
                if value.shape == mask.shape:
                    dense[f"{name} {key}"] = value
                elif value.ndim == 1:
                    dense[f"{name} {key}"] = torch.zeros(mask.shape).masked_scatter(mask, value)
        return dense


def linear_of(model: nn.Module) -> nn.Module:
    return chts.linear.to_dense(copy.deepcopy(model))


def start(
    execution: str = "csr",
    method: str | chts.Method = "chts",
    task: str = "mlp",
    optimizer: str = "momentum",
    sparsity: float = 0.9,
    seed: int = 0,
    **settings: Any,
) -> Run:
    model = tiny.TASKS[task].build(seed)
    own = OPTIMIZERS[optimizer](list(model.parameters()))
    settings = {"total_steps": STEPS, "update_every": EVERY} | settings
    sparsifier = chts.Sparsifier(model, own, method, sparsity, execution=execution, **settings)
    return Run(model, own, sparsifier, tiny.TASKS[task], [])


def without_seconds(history: list[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def assert_same_run(one: Run, other: Run) -> None:
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert without_seconds(one.sparsifier.history) == without_seconds(other.sparsifier.history)
    assert one.sparsifier.masks.keys() == other.sparsifier.masks.keys()
    for name, mask in one.sparsifier.masks.items():
        assert torch.equal(mask, other.sparsifier.masks[name])
    for mine, theirs in ((one.dense_state(), other.dense_state()), (one.moments(), other.moments())):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.twin("engine.weights.LinkWeight", "engine.weights.MaskedWeight", "the links of a run")
@pytest.mark.parametrize("execution", ["csr", "auto"])
@pytest.mark.parametrize("method", [*SPARSE_METHODS, "chts/mlp_code"])
def test_every_method_runs_as_under_masks(method: str, execution: str) -> None:
    masked, own = (start(how, method).train() for how in ("masked", execution))
    layers = [module for module in own.model.modules() if isinstance(module, SparseLinear)]
    assert len(layers) == len(own.sparsifier.masks) == 2
    for name, mask in own.sparsifier.masks.items():
        assert len(own.sparsifier.network.weights[name].parameter) == int(mask.sum())
    assert own.moments()
    assert_same_run(own, masked)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_follow_their_links(optimizer: str) -> None:
    masked, own = (start(how, "chtss", optimizer=optimizer).train() for how in ("masked", "csr"))
    assert_same_run(own, masked)


@pytest.mark.parametrize(("method", "per_head"), tiers.every_second(["rigl", "chtss"], [False, True]))
def test_llama_runs_as_under_masks(method: str, per_head: bool) -> None:
    masked, own = (start(how, method, "llama", "adam", 0.8, per_head=per_head).train() for how in ("masked", "csr"))
    assert_same_run(own, masked)


@pytest.mark.parametrize("method", ["granet", "chts"])
def test_auto_leaves_the_layers_of_an_attention_masked(method: str) -> None:
    masked, own = (start(how, method, "transformer").train() for how in ("masked", "auto"))
    kinds = {name: type(weight) for name, weight in own.sparsifier.network.weights.items()}
    for name, kind in kinds.items():
        assert (kind is weights.MaskedWeight) == ("attn" in name or "attention" in name), name
    assert set(kinds.values()) == {weights.MaskedWeight, weights.LinkWeight}
    assert_same_run(own, masked)


def test_csr_refuses_the_layers_of_an_attention() -> None:
    with pytest.raises(ValueError, match=r"execution is 'csr' but .*in_proj_weight.* cannot store only their links"):
        start("csr", task="transformer")


def test_an_unknown_execution_is_refused() -> None:
    with pytest.raises(ValueError, match="execution is 'fast'; expected 'masked', 'csr' or 'auto'"):
        start("fast")


def test_a_dense_layer_stays_an_ordinary_one() -> None:
    run = start("csr", "fc").train()
    assert not any(isinstance(module, SparseLinear) for module in run.model.modules())


def test_decay_crosses_over_without_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chts_core.engine.linear.crossover_density", lambda *_: 0.3)
    own, masked = start("auto", "chtss", sparsity=0.95), start("masked", "chtss", sparsity=0.95).train()
    layer = next(module for module in own.model.modules() if isinstance(module, SparseLinear))
    assert (layer.density, layer.kernels()) == (0.5, DENSE)
    own.train()
    assert layer.density == pytest.approx(0.05, abs=1e-3)
    assert layer.kernels() is COMPILED
    assert_same_run(own, masked)


def save(run: Run) -> io.BytesIO:
    file = io.BytesIO()
    parts = {"model": run.model, "optimizer": run.optimizer, "sparsifier": run.sparsifier}
    torch.save({key: part.state_dict() for key, part in parts.items()}, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("method", "execution", "cut"),
    tiers.every_pair(["set", "rigl", "chtss", "gmp"], ["csr", "auto"], [1, 4, 7, 13]),
)
def test_a_run_that_was_cut_goes_on_to_the_same_bits(method: str, execution: str, cut: int) -> None:
    run = start(execution, method).train(last=cut)
    saved = torch.load(save(run), weights_only=True)
    run.train(first=cut)
    other = start(execution, method, seed=1)
    other.model.load_state_dict(saved["model"])
    other.optimizer.load_state_dict(saved["optimizer"])
    other.sparsifier.load_state_dict(saved["sparsifier"])
    other.train(first=cut)
    assert other.losses == run.losses[cut:]
    final, again = run.model.state_dict() | run.moments(), other.model.state_dict() | other.moments()
    assert final.keys() == again.keys()
    assert [name for name, tensor in final.items() if not torch.equal(again[name], tensor)] == []
    assert without_seconds(other.sparsifier.history) == without_seconds(run.sparsifier.history)


def test_a_resumed_run_keeps_the_crossover_it_measured() -> None:
    run = start("auto").train(last=3)
    for layer in run.sparsifier.network.stored().values():
        layer.crossover = 0.123
    other = start("auto", seed=1)
    other.model.load_state_dict(run.model.state_dict())
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    other.sparsifier.load_state_dict(run.sparsifier.state_dict())
    assert {layer.crossover for layer in other.sparsifier.network.stored().values()} == {0.123}


def test_resume_from_takes_a_dense_model_and_the_optimizer_of_the_links() -> None:
    run = start("csr", "chtss", optimizer="adam").train(last=7)
    state, moments = run.sparsifier.state_dict(), copy.deepcopy(run.optimizer.state_dict())
    model = linear_of(run.model)
    optimizer = OPTIMIZERS["adam"](list(model.parameters()))
    optimizer.load_state_dict(moments)
    sparsifier = chts.Sparsifier(
        model,
        optimizer,
        "chtss",
        0.9,
        total_steps=STEPS,
        update_every=EVERY,
        execution="csr",
        resume_from=state,
    )
    other = Run(model, optimizer, sparsifier, run.task, []).train(first=7)
    run.train(first=7)
    assert other.losses == run.losses[7:]
    assert_same_run(replace(run, losses=run.losses[7:]), other)


def test_a_state_of_another_execution_is_refused() -> None:
    state = start("masked").sparsifier.state_dict()
    with pytest.raises(ValueError, match="has execution 'masked' but this Sparsifier has 'csr'"):
        start("csr").sparsifier.load_state_dict(state)


def as_mask(saved: dict[str, Any]) -> Tensor:
    rows, columns = saved["shape"]
    return torch.from_numpy(np.unpackbits(saved["bits"].numpy())[: rows * columns].reshape(rows, columns)).bool()


def test_a_state_loaded_without_its_model_warns() -> None:
    saved = start("csr", seed=3).train(last=8).sparsifier.state_dict()
    other = start("csr", seed=1)
    with pytest.warns(RuntimeWarning, match="links of the saved masks have weight 0 in this model"):
        other.sparsifier.load_state_dict(saved)
    for name, mask in other.sparsifier.masks.items():
        assert torch.equal(mask, as_mask(saved["masks"][name]))


@pytest.mark.parametrize("method", ["rigl", "granet", "set"])
def test_dense_gradients_come_only_where_an_update_needs_them(method: str) -> None:
    run = start("csr", method)
    computed: list[int] = []
    for layer in run.sparsifier.network.stored().values():
        hook = layer.dense_gradient_hook
        assert (hook is None) == (method == "set")
        if hook is None:
            continue

        def spy(layer: SparseLinear, gradient: Any, hook: Any = hook) -> None:
            def note() -> Tensor:
                computed.append(run.sparsifier.steps + 1)
                return gradient()

            hook(layer, note)

        layer.dense_gradient_hook = spy
    run.train()
    updates = [step for step in range(EVERY, 13, EVERY) for _ in range(2)]
    assert computed == ([] if method == "set" else updates)


def test_micro_batches_add_up_to_their_gradient() -> None:
    runs = [start(how, "rigl") for how in ("masked", "csr")]
    for run in runs:
        for step in range(1, 7):
            run.optimizer.zero_grad()
            for part in (0, 100):
                run.task.loss(run.model, step + part).backward()
            run.optimizer.step()
            run.sparsifier.step()
    assert_same_run(*runs)


def test_an_infinite_gradient_puts_the_update_off() -> None:
    run = start("csr", "rigl").train(last=1)
    run.optimizer.zero_grad()
    (run.task.loss(run.model, 2) * math.inf).backward()
    with pytest.warns(RuntimeWarning, match="infinite or NaN"):
        run.sparsifier.step()
    assert run.sparsifier.postponed == [2]


def test_the_optimizer_holds_what_the_links_need_and_no_more() -> None:
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 10))
    optimizer = torch.optim.Adam(model.parameters())
    chts.Sparsifier(model, optimizer, "chts", 0.99, total_steps=10, update_every=1, execution="csr")
    model(torch.ones(2, 200)).sum().backward()
    optimizer.step()
    held = {parameter.shape for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {(600,), (300,), (10, 300), (10,)}
    assert {tuple(p.shape) for p in model.parameters()} == held
    assert max(p.numel() for p in optimizer.state if p.shape == (600,)) == 600


def test_moments_of_a_run_that_was_dense_are_kept() -> None:
    model = tiny.mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tiny.loss_of_mlp(model, 0).backward()
    optimizer.step()
    before = optimizer.state[model[0].weight]["exp_avg"].clone()
    gradient = model[0].weight.grad.clone()
    sparsifier = chts.Sparsifier(model, optimizer, "chts", 0.5, total_steps=10, update_every=1, execution="csr")
    mask = sparsifier.masks["0.weight"]
    assert torch.equal(optimizer.state[model[0].values]["exp_avg"], before[mask])
    assert torch.equal(model[0].values.grad, gradient[mask])


def test_compact_gives_ordinary_layers() -> None:
    run = start("csr", sparsity=0.97).train()
    x, _ = tiny.rows_and_classes(0)
    smaller = run.sparsifier.compact(x)
    assert not any(isinstance(module, SparseLinear) for module in smaller.modules())
    torch.testing.assert_close(smaller(x), run.model.eval()(x))
    assert any(isinstance(module, SparseLinear) for module in run.model.modules())


def test_a_newer_sparsifier_needs_linear_layers() -> None:
    run = start("csr")
    with pytest.raises(ValueError, match=r"0, 2 .*already store only their links.*to_dense"):
        chts.Sparsifier(run.model, run.optimizer, "set", 0.5, total_steps=10, update_every=1)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**30))
def test_bits_hold_the_mask(rows: int, columns: int, seed: int) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    bits = weights.pack_bits(mask)
    assert bits.nbytes == math.ceil(rows * columns / 8)
    assert torch.equal(weights.unpack_bits(bits, mask.shape), mask)
    assert torch.equal(weights.unpack_bits(weights.pack_bits(mask.T), mask.T.shape), mask.T)


@pytest.mark.twin("compiled.products.zero_absent", "torch.where", "numbers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["rows", "columns", "some rows"])
def test_absent_links_become_zero_whatever_they_held(layout: str, dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False, False, True], [False, True, False, True]])
    held = torch.tensor([[1.0, math.nan, -0.0, math.inf], [-math.inf, 2.0, 3.0, math.nan]], dtype=dtype)
    tensor = held.clone()
    if layout == "columns":
        tensor = tensor.T.contiguous().T
    elif layout == "some rows":
        tensor = torch.cat([tensor, tensor])[2:]
    weights.zero_absent(tensor, mask)
    assert tensor[mask].nan_to_num(9).tolist() == held[mask].nan_to_num(9).tolist()
    assert tensor[~mask].tolist() == [0.0] * 4
    assert not tensor[~mask].signbit().any()


# --- past weights ---


def test_past_weights_are_the_latest_of_each_link() -> None:
    past = weights.PastWeights(torch.float32, torch.device("cpu"))
    assert past.recall(torch.tensor([0, 7])).tolist() == [0.0, 0.0]
    past.remember(torch.tensor([1, 6]), torch.tensor([0.5, -2.0]))
    past.remember(torch.tensor([0, 6]), torch.tensor([3.0, 4.0]))
    assert past.positions.tolist() == [0, 1, 6]
    assert past.values.tolist() == [3.0, 0.5, 4.0]
    assert past.recall(torch.tensor([0, 2, 6, 7])).tolist() == [3.0, 0.0, 4.0, 0.0]


@pytest.mark.twin("engine.weights.PastWeights", "a dictionary", "numbers")
@given(st.lists(st.dictionaries(st.integers(0, 20), st.integers(-9, 9)), max_size=6), st.sets(st.integers(0, 20)))
def test_past_weights_are_a_dictionary(removals: list[dict[int, int]], wanted: set[int]) -> None:
    past, expected = weights.PastWeights(torch.float32, torch.device("cpu")), {}
    for removed in removals:
        positions = sorted(removed)
        values = torch.tensor([float(removed[position]) for position in positions])
        past.remember(torch.tensor(positions, dtype=torch.int64), values)
        expected |= removed
    assert past.positions.tolist() == sorted(expected)
    asked = sorted(wanted)
    assert past.recall(torch.tensor(asked, dtype=torch.int64)).tolist() == [expected.get(one, 0) for one in asked]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_past_weights_follow_a_cast(dtype: torch.dtype) -> None:
    past = weights.PastWeights(torch.float32, torch.device("cpu"))
    past.remember(torch.tensor([1, 6]), torch.tensor([0.5, -2.0]))
    past.remember(torch.tensor([0, 6]), torch.tensor([3.0, 4.0], dtype=dtype))
    recalled = past.recall(torch.tensor([0, 1, 2, 6]))
    assert recalled.dtype == dtype
    assert recalled.tolist() == [3.0, 0.5, 0.0, 4.0]


def test_a_saved_state_takes_two_bits_for_each_possible_link() -> None:
    run = start("csr").train(last=8)
    state = run.sparsifier.state_dict()
    for name, mask in run.sparsifier.masks.items():
        saved, ever = state["masks"][name], state["ever_active"][name]
        assert saved["bits"].nbytes == ever["bits"].nbytes == -(-mask.numel() // 8)
        assert torch.equal(as_mask(saved), mask)
        assert bool((as_mask(ever) | ~mask).all())


@pytest.mark.parametrize("method", ["chts", "gmp"])
def test_a_state_with_boolean_masks_of_links_loads_as_earlier_versions_saved_it(method: str) -> None:
    run = start("csr", method).train(last=8)
    states = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()])
    for key in ("masks", "ever_active"):
        states[2][key] = {name: as_mask(saved) for name, saved in states[2][key].items()}
    other = start("csr", method)
    for part, state in zip((other.model, other.optimizer, other.sparsifier), states, strict=True):
        part.load_state_dict(state)
    assert other.sparsifier.itop_rate() == run.sparsifier.itop_rate()
    other.train(8)
    run.train(8)
    assert all(torch.equal(mask, run.sparsifier.masks[name]) for name, mask in other.sparsifier.masks.items())


def test_a_saved_state_does_not_change_while_training_goes_on() -> None:
    run = start("csr").train(last=8)
    states = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict()])
    state = run.sparsifier.state_dict()
    before = copy.deepcopy(state)
    other = start("csr")
    for part, loaded in zip((other.model, other.optimizer, other.sparsifier), (*states, state), strict=True):
        part.load_state_dict(loaded)
    for going_on in (run, other):
        going_on.train(8)
    for key in ("masks", "ever_active"):
        for name, saved in state[key].items():
            assert torch.equal(saved["bits"], before[key][name]["bits"]), (key, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda bits, _: {"bits": bits[:-1]},
        lambda bits, _: {"bits": bits.repeat(2)},
        lambda bits, _: {"bits": bits.bool()},
        lambda *_: {"bits": None},
        lambda _, shape: {"shape": (shape[0] * 2, shape[1] // 2)},
    ],
)
@pytest.mark.parametrize("key", ["masks", "ever_active"])
def test_bits_of_another_layer_are_refused(key: str, change: Callable[[Tensor, Any], dict[str, Any]]) -> None:
    state = start("csr").train(last=8).sparsifier.state_dict()
    name, saved = next(iter(state[key].items()))
    state[key][name] = saved | change(saved["bits"], saved["shape"])
    with pytest.raises(ValueError, match=f"the saved mask '{name}' is not a valid packed mask; expected shape"):
        start("csr").sparsifier.load_state_dict(state)


def test_bits_beyond_the_mask_are_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.5, total_steps=10, update_every=1, execution="csr")
    state = sparsifier.state_dict()
    state["masks"]["0.weight"]["bits"][-1] |= 1  # five bytes for 35 links
    with pytest.raises(ValueError, match=r"expected shape \(7, 5\) and 5 bytes \(torch\.uint8\) with zeros"):
        sparsifier.load_state_dict(state)
