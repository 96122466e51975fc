"""Averages of a sparse model follow its links; PyTorch's own, which does not, is refused where it mixes links."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

import chts_core as chts
from chts_core.engine.linear import Execution, SparseLinear, to_dense

EVERY, DECAY = 5, 0.9
EXECUTIONS: list[Execution] = ["masked", "csr"]
EMA = swa_utils.get_ema_multi_avg_fn(DECAY)


def one_by_one(average: Tensor, present: Tensor, _: Any) -> Tensor:
    return DECAY * average + (1 - DECAY) * present


AVERAGES: dict[str, dict[str, Any]] = {
    "moving": {"multi_avg_fn": EMA},
    "moving, one by one": {"avg_fn": one_by_one},
    "equal": {},
}


class Run:
    def __init__(
        self,
        method: str = "set",
        execution: Execution = "masked",
        dtype: torch.dtype = torch.float32,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> None:
        self.model = (tiny.mlp((16, 24, 24, 3)) if model is None else model).to(dtype)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.settings = {"total_steps": 200, "update_every": EVERY, "execution": execution, **settings}
        self.sparsifier: chts.Sparsifier | None = None
        self.method = method
        self.generator = torch.Generator().manual_seed(0)

    def attach(self) -> "Run":
        self.sparsifier = chts.Sparsifier(self.model, self.optimizer, self.method, 0.8, **self.settings)
        return self

    def train(self, steps: int, after: Callable[[nn.Module], Any] = lambda _: None) -> "Run":
        for _ in range(steps):
            train_once(self.model, self.optimizer, self.generator)
            if self.sparsifier is not None:
                self.sparsifier.step()
            after(self.model)
        return self


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    optimizer.zero_grad()
    dtype = next(model.parameters()).dtype
    rows = torch.randn(8, 16, generator=generator).to(dtype)
    F.cross_entropy(model(rows), torch.arange(8) % 3).backward()
    optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The dense weights of linear layers, by their names."""
    return {
        path: layer.weight.detach().clone()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | SparseLinear)
    }


def assert_same_links(average: swa_utils.AveragedModel, model: nn.Module) -> None:
    present = weights(model)
    for path, weight in weights(average.module).items():
        assert torch.equal(weight != 0, present[path] != 0), path


# --- the average itself ---


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("method", ["set", "rigl", "granet"])
def test_each_link_is_averaged_since_it_came(method: str, execution: Execution) -> None:
    run = Run(method, execution).attach()
    average = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    expected = weights(run.model)
    fresh = {path: weight == 0 for path, weight in expected.items()}
    came: dict[str, Tensor] = {}
    run.sparsifier.register_regrowth_hook(lambda name, links: came.update({name.removesuffix(".weight"): links}))

    def update(model: nn.Module) -> None:
        average.update_parameters(model)
        for path, weight in weights(model).items():
            begins = fresh[path]
            if path in came:
                begins.view(-1)[came[path]] = True
            if average.n_averaged == 1:
                begins = torch.ones_like(begins)
            expected[path] = torch.where(begins, weight, DECAY * expected[path] + (1 - DECAY) * weight)
            mask = run.sparsifier.masks.get(f"{path}.weight", torch.ones_like(begins))
            expected[path][~mask] = 0
            fresh[path] = (weight == 0) | ~mask
        came.clear()

    run.train(6 * EVERY + 2, update)
    assert {row["removed"] > 0 and row["regrown"] > 0 for row in run.sparsifier.history} == {True}
    for path, weight in weights(average.module).items():
        torch.testing.assert_close(weight, expected[path])


@pytest.mark.promise(
    "average the weights (EMA, SWA) by `chts_core.AveragedModel`",
    "followed: the average has the model's links",
)
@pytest.mark.parametrize("method", ["set", "gmp", "chts", "chtss"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_the_average_is_as_sparse_as_the_model(method: str, execution: Execution) -> None:
    run = Run(method, execution).attach()
    average = chts.AveragedModel(run.model, multi_avg_fn=EMA)

    def update(model: nn.Module) -> None:
        average.update_parameters(model)
        assert_same_links(average, model)

    run.train(4 * EVERY + 2, update)


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("use_buffers", [False, True])
def test_masked_and_csr_have_one_average(kind: str, use_buffers: bool) -> None:
    found = []
    for execution in EXECUTIONS:
        run = Run(execution=execution).attach()
        average = chts.AveragedModel(run.model, **AVERAGES[kind], use_buffers=use_buffers)
        run.train(6 * EVERY + 2, average.update_parameters)
        found.append((average(torch.ones(2, 16)), weights(average.module)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["set", "chts"])
@pytest.mark.parametrize("execution", ["masked", "auto"])
def test_packed_weights_and_single_heads(method: str, execution: Execution) -> None:
    model = tiny.translator()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = chts.Sparsifier(
        model, optimizer, method, 0.7, total_steps=40, update_every=2, per_head=True, execution=execution
    )
    average = chts.AveragedModel(model, multi_avg_fn=EMA)
    for step in range(7):
        optimizer.zero_grad()
        tiny.loss_of_translator(model, step).backward()
        optimizer.step()
        sparsifier.step()
        average.update_parameters(model)
    assert sparsifier.history[-1]["regrown"] > 0
    packed = dict(average.module.named_parameters())
    names = [name for name in sparsifier.masks if "in_proj" in name]
    assert names
    for name in names:
        assert torch.equal(packed[name] != 0, model.get_parameter(name) != 0)
    assert_same_links(average, model)


class Normed(nn.Module):
    """With buffers to be averaged: numbers, and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Linear(24, 24), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_buffers_are_averaged_and_links_are_not(kind: str, execution: Execution) -> None:
    run = Run(execution=execution, model=tiny.seeded(Normed, 0)).attach()
    average = chts.AveragedModel(run.model, **AVERAGES[kind], use_buffers=True)
    other = swa_utils.AveragedModel(run.model.layers[1], **AVERAGES[kind], use_buffers=True)

    def update(model: nn.Module) -> None:
        average.update_parameters(model)
        other.update_parameters(model.layers[1])

    run.train(3 * EVERY, update)
    assert torch.equal(average.module.layers[1].running_mean, other.module.running_mean)
    assert not torch.equal(average.module.layers[1].running_mean, run.model.layers[1].running_mean)
    for path, layer in run.model.named_modules():
        if isinstance(layer, SparseLinear):
            assert all(map(torch.equal, layer.links, average.module.get_submodule(path).links))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_and_devices_stay(dtype: torch.dtype, execution: Execution) -> None:
    run = Run(execution=execution, dtype=dtype).attach()
    average = chts.AveragedModel(run.model, torch.device("cpu"), multi_avg_fn=EMA)
    run.train(2 * EVERY, average.update_parameters)
    assert {parameter.dtype for parameter in average.module.parameters()} == {dtype}
    assert_same_links(average, run.model)


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_made_before_the_sparsifier(before: int, execution: Execution) -> None:
    run = Run(execution=execution)
    average = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    run.train(before, average.update_parameters)
    dense = weights(average.module)
    run.attach()
    average.update_parameters(run.model)
    present = weights(run.model)
    for path, weight in weights(average.module).items():
        goes_on = DECAY * dense[path] + (1 - DECAY) * present[path] if before else present[path]
        torch.testing.assert_close(weight, torch.where(present[path] == 0, 0, goes_on))
    run.train(2 * EVERY, average.update_parameters)
    assert_same_links(average, run.model)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda model: compiled(nn.DataParallel(model))])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_wrapped_model_is_averaged_too(wrap: Callable[[nn.Module], nn.Module], execution: Execution) -> None:
    run = Run(execution=execution).attach()
    wrapped = wrap(run.model)
    inside = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    outside = chts.AveragedModel(wrapped, multi_avg_fn=EMA)

    def update(_: nn.Module) -> None:
        inside.update_parameters(wrapped)
        outside.update_parameters(wrapped)

    run.train(2 * EVERY + 2, update)
    assert_same_links(inside, run.model)
    for one, other in zip(inside.module.parameters(), outside.module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", AVERAGES)
def test_saved_and_loaded_it_goes_on(kind: str, execution: Execution) -> None:
    def states(run: Run, average: nn.Module) -> list[dict[str, Any]]:
        return [part.state_dict() for part in (run.model, run.optimizer, run.sparsifier, average)]

    run = Run(execution=execution).attach()
    average = chts.AveragedModel(run.model, **AVERAGES[kind])
    run.train(3 * EVERY + 2, average.update_parameters)
    saved = copy.deepcopy(states(run, average))

    again = Run(execution=execution).attach()
    twin = chts.AveragedModel(again.model, **AVERAGES[kind])
    for part, state in zip((again.model, again.optimizer, again.sparsifier, twin), saved, strict=True):
        part.load_state_dict(state)
    again.generator.set_state(run.generator.get_state())
    for one, mean in ((run, average), (again, twin)):
        one.train(2 * EVERY, mean.update_parameters)
    assert twin.n_averaged == 5 * EVERY + 2
    assert weights(average.module).keys() == weights(twin.module).keys()
    for path, weight in weights(average.module).items():
        assert torch.equal(weight, weights(twin.module)[path])
    assert_same_links(twin, again.model)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_the_model_may_take_its_average(execution: Execution) -> None:
    run = Run(execution=execution).attach()
    average = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    run.train(2 * EVERY, average.update_parameters)
    run.model.load_state_dict(average.module.state_dict())
    run.train(2 * EVERY, average.update_parameters)
    assert chts.audit.audit(run.sparsifier) == []
    assert_same_links(average, run.model)


@pytest.mark.parametrize("back", [True, False])
def test_links_changed_by_hand(back: bool) -> None:
    """Without a Sparsifier, also where the links are again what they were at the last update."""
    first = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    layer = SparseLinear(8, 6, first)
    average = chts.AveragedModel(nn.Sequential(layer), multi_avg_fn=EMA)
    for mask in (first, ~first, first, ~first):
        layer.rewire(mask)
        if back:
            layer.rewire(first)
        with torch.no_grad():
            layer.values.add_(1)
        average.update_parameters(nn.Sequential(layer))
        average(torch.ones(1, 8))
        assert torch.equal(average.module[0].mask, layer.mask)
        if not back:
            assert torch.equal(average.module[0].values, layer.values)  # all links are new each time


def narrower(_: nn.Module) -> nn.Module:
    return tiny.mlp((16, 24, 20, 3))


def longer(_: nn.Module) -> nn.Module:
    return tiny.mlp((16, 24, 24, 3, 3))


def shorter(_: nn.Module) -> nn.Module:
    return tiny.mlp((16, 24, 24))


def densified(model: nn.Module) -> nn.Module:
    return to_dense(copy.deepcopy(model))


@pytest.mark.parametrize(
    ("execution", "other", "said"),
    [
        ("masked", narrower, "has 6 parameters, and the average has 6; 2.weight has a different shape"),
        ("masked", longer, "has 8 parameters, and the average has 6. Expected"),
        ("masked", shorter, "has 4 parameters, and the average has 6. Expected"),
        (
            "csr",
            narrower,
            "has 6 parameters, and the average has 6; 0.weight has a different shape, or is dense in the model but "
            "stored as links in the average",
        ),
        (
            "csr",
            densified,
            "has 6 parameters, and the average has 6; 0.weight has a different shape, or is dense in the model but "
            "stored as links in the average",
        ),
    ],
)
def test_another_model_is_refused(execution: Execution, other: Callable[[nn.Module], nn.Module], said: str) -> None:
    run = Run(execution=execution).attach()
    average = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    run.train(EVERY, average.update_parameters)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(ValueError, match=said):
        average.update_parameters(other(run.model))
    after = average.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- what does not follow the links ---


def torchs(model: nn.Module, kind: str, **kwargs: Any) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    average = swa_utils.AveragedModel(model, **AVERAGES[kind], **kwargs)
    return average.module, average.update_parameters


def by_hand(model: nn.Module) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    average = copy.deepcopy(model)

    @torch.no_grad()
    def update(model: nn.Module) -> None:
        for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - DECAY)

    return average, update


def by_state(model: nn.Module) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    average = copy.deepcopy(model)

    def update(model: nn.Module) -> None:
        for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mine.copy_(DECAY * mine + (1 - DECAY) * theirs)

    return average, update


def in_inference_mode(model: nn.Module) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    average, update = by_hand(model)
    return average, torch.inference_mode()(update)


MIXING: dict[str, Callable[[nn.Module], tuple[nn.Module, Callable[[nn.Module], Any]]]] = {
    **{kind: (lambda model, kind=kind: torchs(model, kind)) for kind in AVERAGES},
    "on a device": lambda model: torchs(model, "moving", device=torch.device("cpu")),
    "with buffers": lambda model: torchs(model, "equal", use_buffers=True),
    "by hand": by_hand,
    "by its state": by_state,
    "in inference mode": in_inference_mode,
}


@pytest.mark.promise(
    "average a `csr` model by PyTorch's own `AveragedModel`",
    "refused as soon as values of different links are mixed",
)
@pytest.mark.parametrize("how", MIXING)
def test_an_average_that_mixes_links_is_refused(how: str) -> None:
    run = Run(execution="csr").attach()
    average, update = MIXING[how](run.model)
    try:
        run.train(2 * EVERY + 1, update)
        average(torch.ones(2, 16))
    except RuntimeError as error:
        assert "chts_core.AveragedModel" in str(error)  # noqa: PT017
    else:
        pytest.fail("the mixed average was used")


USES: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda model: model(torch.ones(2, 16)),
    "state_dict": lambda model: model.state_dict(),
    "weight": lambda model: model[2].weight,
    "mask": lambda model: model[2].mask,
    "dense": to_dense,
    "copy": copy.deepcopy,
    "save": lambda model: torch.save(model, io.BytesIO()),
}


@pytest.mark.parametrize("use", USES)
def test_no_use_of_a_mixed_average_is_silent(use: str) -> None:
    run = Run(execution="csr").attach()
    average, update = torchs(run.model, "moving")
    run.train(2 * EVERY + 1, update)
    with pytest.raises(RuntimeError, match=r"copy of a sparse layer.*use chts_core\.AveragedModel, which follows"):
        USES[use](average)


def test_a_mixed_average_is_itself_again_once_a_state_is_loaded() -> None:
    run = Run(execution="csr").attach()
    average, update = torchs(run.model, "moving")
    run.train(2 * EVERY + 1, update)
    average.load_state_dict(run.model.state_dict())
    assert torch.equal(average(torch.ones(2, 16)), run.model(torch.ones(2, 16)))


def trained(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)
    optimizer, generator = torch.optim.SGD(twin.parameters(), 0.1), torch.Generator().manual_seed(1)
    run.train(3 * EVERY, lambda _: train_once(twin, optimizer, generator))
    return twin


def loaded(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)
    run.train(3 * EVERY, lambda model: twin.load_state_dict(model.state_dict()))
    return twin


def compared_and_saved(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)

    def look(model: nn.Module) -> None:
        assert twin.state_dict().keys() == model.state_dict().keys()
        torch.save(twin, io.BytesIO())
        twin(torch.ones(2, 16))

    run.train(3 * EVERY, look)
    return twin


def moved(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)
    run.train(3 * EVERY, lambda _: twin.double().float())
    return twin


def perturbed_after(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)
    run.train(2 * EVERY)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
            parameter.add_(1)
    return twin


def perturbed_before(run: Run) -> nn.Module:
    twin = copy.deepcopy(run.model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    run.train(2 * EVERY)
    return twin


def averaged_between_two_updates(run: Run) -> nn.Module:
    twin, update = torchs(run.model, "moving")
    run.train(2 * EVERY)  # the first update of the average, which copies, comes later
    while not run.sparsifier.update_due:
        run.train(1, update)
    assert twin[0].density > 0
    return twin


def rewired_by_hand(run: Run) -> nn.Module:
    twin = perturbed_before(run)
    for layer in (twin[0], twin[2]):
        layer.rewire(~layer.mask)
        with torch.no_grad():
            layer.values.fill_(1)
    return twin


def copied_twice(run: Run) -> nn.Module:
    return copy.deepcopy(trained(run))


@pytest.mark.parametrize(
    "make",
    [
        trained,
        loaded,
        compared_and_saved,
        moved,
        perturbed_after,
        perturbed_before,
        averaged_between_two_updates,
        rewired_by_hand,
        copied_twice,
    ],
)
def test_other_copies_are_not_refused(make: Callable[[Run], nn.Module]) -> None:
    run = Run(execution="csr").attach()
    run.train(2)
    twin = make(run)
    for use in USES.values():
        use(copy.deepcopy(twin))
    assert twin(torch.ones(2, 16)).isfinite().all()


def test_an_average_over_links_that_stay_is_pytorchs() -> None:
    """After the last update of the topology both are one, also where the model is set back to a saved state."""
    run = Run(execution="csr", update_every=1000, total_steps=2000).attach()
    best = copy.deepcopy(run.model.state_dict())
    theirs, update = torchs(run.model, "moving")
    ours = chts.AveragedModel(run.model, multi_avg_fn=EMA)
    for _ in range(2):
        run.train(3, lambda model: (update(model), ours.update_parameters(model)))
        run.model.load_state_dict(best)
    theirs(torch.ones(2, 16))
    for one, other in zip(theirs.parameters(), ours.module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.promise(
    "average a masked model by PyTorch's own `AveragedModel`",
    "nothing is said: the average has links that the model has lost",
)
def test_pytorchs_average_of_masked_weights_is_denser_but_right() -> None:
    run = Run().attach()
    average, update = torchs(run.model, "moving")
    run.train(4 * EVERY, update)
    assert average[2].weight.count_nonzero() > run.model[2].weight.count_nonzero()
