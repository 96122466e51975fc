import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import Tensor, nn

import chts_core as chts
from chts_core.budget import Budget
from chts_core.distributions import DISTRIBUTIONS
from chts_core.engine.linear import Execution
from chts_core.tools.audit import REGROWN, Auditor, audit, moments

STEPS, EVERY = 16, 2
NAME = "0.weight"


class Run:
    def __init__(
        self,
        method: str = "set",
        execution: Execution = "masked",
        optimizer: str = "sgd",
        task: str = "mlp",
        per_head: bool = False,
        distribution: str = "uniform",
    ) -> None:
        self.task = tiny.TASKS[task]
        self.model = self.task.build(0)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
            if optimizer == "sgd"
            else torch.optim.Adam(self.model.parameters(), lr=0.01)
        )
        self.sparsifier = chts.Sparsifier(
            self.model,
            self.optimizer,
            method,
            0.8,
            total_steps=STEPS,
            update_every=EVERY,
            execution=execution,
            per_head=per_head,
            distribution=distribution,
        )
        self.auditor = Auditor(self.sparsifier)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.task.loss(self.model, self.sparsifier.steps).backward()
        self.optimizer.step()
        self.sparsifier.step()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.auditor.check()

    @property
    def weight(self) -> Tensor:
        return self.model.get_parameter(NAME).data

    @property
    def mask(self) -> Tensor:
        """That of the Sparsifier itself."""
        return self.sparsifier.masks[NAME]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("execution", ["masked", "csr", "auto"])
@pytest.mark.parametrize("method", chts.METHODS)
def test_a_healthy_run_has_no_findings(method: str, execution: Execution, optimizer: str) -> None:
    run = Run(method, execution, optimizer)
    assert audit(run.sparsifier) == []
    run.train(STEPS)
    assert run.auditor.findings == []
    assert method == "fc" or run.sparsifier.history


@pytest.mark.parametrize("task", ["transformer", "llama"])
@pytest.mark.parametrize("per_head", [False, True])
def test_packed_weights_and_heads_count_by_themselves(task: str, per_head: bool) -> None:
    run = Run("chts", task=task, per_head=per_head)
    run.train(STEPS)
    assert run.auditor.findings == []
    name, part = next(iter(run.sparsifier.network.parts.items()))
    part.matrix(run.sparsifier.masks[part.parameter])[0].logical_not_()
    assert [finding.layer for finding in audit(run.sparsifier) if finding.check == "links"] == [name]


def test_absent_weights() -> None:
    run = Run()
    run.train(3)
    run.weight[~run.mask] = torch.tensor([0.5, -2.0, float("nan")] + [0.0] * (int((~run.mask).sum()) - 3))
    first, second = audit(run.sparsifier)
    assert (first.check, first.layer) == ("absent weights", NAME)
    assert first.message.startswith(
        f"3 of {int((~run.mask).sum())} absent links have a weight, up to nan, after step 3;"
    )
    assert second.check == "finite"


@pytest.mark.parametrize(("optimizer", "key"), [("sgd", "momentum_buffer"), ("adam", "exp_avg")])
def test_absent_moments(optimizer: str, key: str) -> None:
    run = Run(optimizer=optimizer)
    run.train(3)
    state = moments(run.sparsifier, NAME)[key]
    state[~run.mask] = torch.tensor([0.25, -0.5] + [0.0] * (int((~run.mask).sum()) - 2))
    (finding,) = audit(run.sparsifier)
    assert (finding.check, finding.layer) == ("absent moments", NAME)
    assert finding.message.startswith(
        f"2 of {int((~run.mask).sum())} absent links have an optimizer state {key}, up to 0.5, after step 3;"
    )


@pytest.mark.parametrize("steps", [3, 13])  # with updates to come, and after the last
def test_number_of_links(steps: int) -> None:
    run = Run()
    run.train(steps)
    links = int(run.mask.sum())
    run.mask.view(-1)[(~run.mask).flatten().nonzero()[:3]] = True
    (finding,) = audit(run.sparsifier)
    assert (finding.check, finding.layer) == ("links", NAME)
    assert finding.message.startswith(
        f"{links + 3} links after step {steps}; expected exactly {links} (difference +3)."
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("first", "second"), [(0, -1), (-1, 1)])
def test_a_budget_that_is_wrong_by_one_link(
    first: int, second: int, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Budget.links

    def wrong(budget: Budget, step: int) -> dict[str, int]:
        links = right(budget, step)
        return {NAME: links[NAME] + first, "2.weight": links["2.weight"] + second}

    run = Run("chtss", distribution=distribution)
    run.train(STEPS)
    assert run.auditor.findings == []
    monkeypatch.setattr(Budget, "links", wrong)
    for steps in (0, STEPS):
        run = Run("chtss", distribution=distribution)
        run.train(steps)
        found = {(f.check, f.layer): re.search(r"difference (\S+)\)\.", f.message) for f in audit(run.sparsifier)}
        expected = {("links", name): by for name, by in ((NAME, first), ("2.weight", second)) if by}
        assert {key: match and int(match[1]) for key, match in found.items()} == expected


def test_no_link_and_no_path() -> None:
    run = Run()
    first, second = run.sparsifier.masks.values()
    second.zero_()
    run.model.get_parameter("2.weight").data.zero_()
    found = {finding.layer: finding.message for finding in audit(run.sparsifier) if finding.check == "collapse"}
    assert found.keys() == {"0.weight", "2.weight"}
    assert found["2.weight"].startswith(f"none of the {second.numel()} possible links is left after step 0")
    assert found["0.weight"].startswith(f"none of its {int(first.sum())} links lies on a path")


def test_a_path_through_every_layer_is_asked_for() -> None:
    run = Run()
    first, second = run.sparsifier.masks.values()
    first.zero_()[0, 0] = True
    second.zero_()[0, 1] = True  # reads another neuron than the one that is fed
    assert {f.layer for f in audit(run.sparsifier) if f.check == "collapse"} == {"0.weight", "2.weight"}
    second[0, 0] = True
    assert not any(finding.check == "collapse" for finding in audit(run.sparsifier))


def test_a_density_that_no_update_will_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    run.train(11)
    links = {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    schedule = SimpleNamespace(at=lambda step, _, final: final if step < STEPS else final + 10 / run.mask.numel())
    monkeypatch.setattr(run.sparsifier, "method", replace(run.sparsifier.method, sparsity=schedule))
    assert audit(run.sparsifier) == []  # an update is left
    monkeypatch.setattr(run.sparsifier.progress, "steps", 12)
    first, _ = audit(run.sparsifier)
    size = run.mask.numel()
    assert (first.check, first.layer) == ("density", NAME)
    expected = f"{(links[NAME] - 10) / size:.2%}"
    assert first.message.startswith(
        f"density {links[NAME] / size:.2%} after step 12; expected {expected}, and no update"
    )


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_weights_that_are_not_finite(execution: Execution) -> None:
    run = Run(execution=execution)
    parameter = run.sparsifier.network.weights[NAME].parameter
    parameter.data.view(-1)[parameter.data.flatten().nonzero()[:2, 0]] = torch.tensor([float("inf"), float("nan")])
    (finding,) = audit(run.sparsifier)
    assert (finding.check, finding.layer) == ("finite", NAME)
    assert finding.message.startswith(f"2 of {parameter.numel()} weights are infinite or NaN after step 0;")


def fill_regrown(run: Run, regrown: Tensor) -> None:
    """Give links of the first layer a weight."""
    positions = regrown.flatten().nonzero().squeeze(1)
    run.sparsifier.network.weights[NAME].set_weights(positions, torch.full((len(positions),), 0.5))


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_a_regrown_link_that_starts_from_its_past(execution: Execution) -> None:
    run = Run(execution=execution)
    run.train(1)
    before = run.mask.clone()
    run.step()
    came = run.mask & ~before
    chosen = torch.zeros_like(came).view(-1)
    chosen[came.flatten().nonzero()[:2]] = True
    fill_regrown(run, chosen.view(came.shape))
    (finding,) = run.auditor.check()
    regrown = next(row["regrown"] for row in run.sparsifier.history if row["layer"] == NAME)
    assert (finding.check, finding.layer) == (REGROWN, NAME)
    assert finding.message.startswith(f"2 of {regrown} links regrown at step 2 do not start from zero")


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_links_removed_and_regrown_at_once_count(execution: Execution) -> None:
    run = Run("rigl", execution)
    run.train(1)
    before = run.mask.clone()
    run.step()
    returned = run.mask & before & (run.sparsifier.network.weights[NAME].dense() == 0)
    row = next(row for row in run.sparsifier.history if row["layer"] == NAME)
    assert 0 < int(returned.sum()) == round(row["overlap"] * row["regrown"])
    fill_regrown(run, returned)
    (finding,) = run.auditor.check()
    assert finding.message.startswith(f"{int(returned.sum())} of {row['regrown']} links regrown at step 2 do not")


def test_state_of_a_regrown_link_counts_as_well_as_its_weight() -> None:
    run = Run(optimizer="adam")
    run.train(1)
    before = run.mask.clone()
    run.step()
    moments(run.sparsifier, NAME)["exp_avg_sq"][run.mask & ~before] = 1e-9
    (finding,) = run.auditor.check()
    assert finding.message.startswith(f"{int((run.mask & ~before).sum())} of ")


def test_a_finding_is_reported_once() -> None:
    run = Run()
    run.weight[~run.mask] = 1.0
    assert [finding.check for finding in run.auditor.check()] == ["absent weights"]
    assert run.auditor.check() == []
    assert len(run.auditor.findings) == 1
    assert len(audit(run.sparsifier)) == 1


def test_a_step_left_out_is_refused() -> None:
    run = Run()
    run.step()
    run.step()
    with pytest.raises(RuntimeError, match=r"at step 2 but the last check came after step 0"):
        run.auditor.check()


def test_auditing_changes_nothing() -> None:
    watched, alone = Run("chts"), Run("chts")
    watched.train(STEPS)
    for _ in range(STEPS):
        alone.step()
    parameters = zip(watched.model.parameters(), alone.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in parameters)


def test_an_optimizer_without_state_has_no_moments() -> None:
    model = tiny.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = chts.Sparsifier(model, optimizer, "set", 0.8, total_steps=STEPS, update_every=EVERY)
    nn.functional.mse_loss(model(torch.ones(1, 16)), torch.zeros(1, 3)).backward()
    optimizer.step()
    sparsifier.step()
    assert moments(sparsifier, NAME) == {}
    assert audit(sparsifier) == []
