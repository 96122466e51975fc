"""The conformance report is green, and every kind of fault turns the right column red."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import chts_core as chts
from chts_core import choices, cli, link_prediction, methods, sampling
from chts_core.engine import weights
from chts_core.engine.network import SparseNetwork
from chts_core.lab.verify import conformance, formulas, published, specification
from chts_core.removal import WeightedLinks
from chts_core.schedules import Timeline

METHODS = chts.METHODS


@pytest.fixture(scope="module")
def report() -> list[conformance.Check]:
    return conformance.conformance()


def test_all_nine_methods_conform(report: list[conformance.Check]) -> None:
    assert {result.method for result in report} == set(METHODS) == set(conformance.SPECS)
    assert [result for result in report if result.passed is False] == []


def test_what_does_not_apply_is_said_and_nothing_else_is_left_out(report: list[conformance.Check]) -> None:
    skipped = {(result.method, result.check) for result in report if result.passed is None}
    evolving = {"set", "rigl", "mest", "granet", "cht", "chts", "chtss"}
    predicting = {"cht", "chts", "chtss"}
    expected = {("fc", "removal"), ("fc", "regrowth"), ("gmp", "regrowth")}
    expected |= {(name, check) for name in METHODS.keys() - predicting for check in ("percolation", "scores")}
    if not torch.cuda.is_available():
        expected |= {(name, "devices") for name in METHODS}
    assert skipped == expected
    assert not skipped & {(name, "removal") for name in evolving}


def test_the_table_has_a_line_per_method_and_names_what_failed(report: list[conformance.Check]) -> None:
    table = conformance.as_table(report).splitlines()
    assert table[0].split() == ["method", *conformance.CHECKS]
    assert [line.split()[0] for line in table[1:10]] == list(METHODS)
    passed = sum(result.passed is True for result in report)
    assert table[-1] == f"{passed} passed, 0 failed"
    broken = [replace(report[0], passed=False, detail="7 links instead of 8"), *report[1:]]
    table = conformance.as_table(broken).splitlines()
    assert table[1].split()[:2] == ["fc", "FAIL"]
    assert "fc, links: 7 links instead of 8" in table
    assert table[-1] == f"{passed - 1} passed, 1 failed"


@dataclass(frozen=True)
class Linear:
    """A decay that is not the cubic one."""

    def at(self, step: int, timeline: Timeline, final: float) -> float:
        return 0.5 + (final - 0.5) * min(step / timeline.last_update, 1)


def with_choice(name: str, **choices: Any) -> chts.Method:
    return replace(METHODS[name], **choices)


def removal(**changes: Any) -> methods.Removal:
    return replace(METHODS["chtss"].removal, **changes)


HARD_WITH_HISTORY = methods.Regrowth("ch2_l3n", soft=False, history=True)


BROKEN_METHODS: dict[str, tuple[str, chts.Method, str]] = {
    "another decay": ("gmp", with_choice("gmp", sparsity=Linear()), "links"),
    "a sigmoid of another steepness": ("chtss", with_choice("chtss", sparsity=methods.Sigmoid(k=7.0)), "links"),
    "less excess": ("mest", with_choice("mest", sparsity=methods.Staged((0.05, 0.02))), "links"),
    "less turnover": ("set", with_choice("set", turnover=methods.Turnover(methods.Cosine(0.2))), "exchange"),
    "constant turnover": ("rigl", with_choice("rigl", turnover=methods.Turnover(0.3)), "exchange"),
    "pruning that regrows": ("gmp", METHODS["granet"], "removal"),
    "magnitude for MEST": ("mest", with_choice("mest", removal=methods.Removal("relative_importance")), "removal"),
    "RI for RigL": ("rigl", with_choice("rigl", removal=methods.Removal("relative_importance")), "removal"),
    "RI for magnitude": ("chts", with_choice("chts", removal=removal(score="relative_importance")), "removal"),
    "another temperature": ("chts", with_choice("chts", removal=removal(temperature=0.2)), "removal"),
    "hard for soft": ("chtss", with_choice("chtss", removal=removal(temperature=None)), "removal"),
    "pruning by the score that removes": ("chtss", with_choice("chtss", removal=removal(prune=None)), "removal"),
    "a share for the excess": ("mest", chts.PRESETS["mest/exchange"], "exchange"),
    "pruned links that stay away": ("gmp", chts.PRESETS["gmp/no_return"], "removal"),
    "zeros for the last weights": ("chts", chts.PRESETS["chts/zeros"], "weights"),
    "last weights for zeros": ("cht", with_choice("cht", regrowth=methods.Regrowth("random", history=True)), "weights"),
    "no percolation": ("cht", with_choice("cht", removal=methods.Removal("magnitude")), "percolation"),
    "predicted for random": ("set", with_choice("set", regrowth=methods.Regrowth("ch2_l3n")), "regrowth"),
    "random for gradient": ("granet", with_choice("granet", regrowth=methods.Regrowth("random")), "regrowth"),
    "sampled gradient": ("rigl", with_choice("rigl", regrowth=methods.Regrowth("gradient")), "regrowth"),
    "top k for soft": ("chts", with_choice("chts", regrowth=HARD_WITH_HISTORY), "regrowth"),
    "soft for top k": ("cht", with_choice("cht", regrowth=methods.Regrowth("ch3_l3p")), "regrowth"),
    "another predictor": ("cht", with_choice("cht", regrowth=methods.Regrowth("ch2_l3n", soft=False)), "scores"),
}


@pytest.mark.parametrize("fault", BROKEN_METHODS)
def test_a_wrong_choice_turns_its_column_red(fault: str) -> None:
    name, method, check = BROKEN_METHODS[fault]
    found = conformance.checked(name, method, check)
    assert found.passed is False
    assert "Error" not in found.detail  # it was seen, not stumbled over


GROW = choices.Regrowth.__call__


def grow_one_more(regrowth: choices.Regrowth, mask: Tensor, num: int, *args: Any, **kwargs: Any) -> Tensor:
    return GROW(regrowth, mask, min(num + 1, int((~mask).sum())), *args, **kwargs)


def remove_anything(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return sampling.choose(torch.ones_like(scores), *args, **kwargs)


def keep_moments(self: weights.MaskedWeight) -> list[Tensor]:
    return [self.parameter.data]


def forget_generators(original: Callable[..., None]) -> Callable[..., None]:
    def load(self: chts.Sparsifier, state: dict[str, Any]) -> None:
        original(self, state)
        for generator in self.progress.generators.values():
            generator.manual_seed(0)

    return load


FAULTS: dict[str, tuple[str, str, Any, str, Any]] = {
    "a link too many": ("set", "links", choices.Regrowth, "__call__", grow_one_more),
    "removal at random": ("gmp", "removal", choices, "choose", remove_anything),
    "soft removal at random": ("chts", "removal", choices, "choose", remove_anything),
    "moments kept": ("granet", "weights", weights.MaskedWeight, "_tensors", keep_moments),
    "moments lost": ("set", "csr", weights, "moments", lambda *_: []),
    "no percolation": ("chts", "percolation", SparseNetwork, "percolated", lambda _, links: dict(links)),
    "generators lost": (
        "chts",
        "resume",
        chts.Sparsifier,
        "load_state_dict",
        forget_generators(chts.Sparsifier.load_state_dict),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_core_turns_its_column_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, check, where, attribute, wrong = FAULTS[fault]
    monkeypatch.setattr(where, attribute, wrong)
    assert conformance.checked(name, METHODS[name], check).passed is False


def test_a_wrong_score_turns_its_column_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(link_prediction.PREDICTORS, "ch2_l3n", lambda mask: 1.001 * link_prediction.ch3_l3n(mask))
    assert conformance.checked("chts", METHODS["chts"], "scores").passed is False


def test_an_exception_is_a_failure_with_its_message() -> None:
    broken = with_choice("set", removal=methods.Removal("size"))
    results = conformance.conformance({"set": broken})
    failed = [result for result in results if result.passed is False]
    assert {result.check for result in failed} >= {"links", "weights", "exchange", "removal", "resume"}
    assert failed[0].detail.startswith("ValueError: the method has score 'size'")


# --- methods of one's own, held to what their choices say ---


@pytest.mark.parametrize("name", METHODS)
def test_what_the_choices_of_the_nine_say_is_what_is_written_of_them(name: str) -> None:
    written, said = conformance.SPECS[name], specification.of_choices(METHODS[name])
    for size in (20 * 24, 24 * 16, 7):
        for step in range(specification.STEPS + 1):
            assert specification.links_at(said, step, size) == specification.links_at(written, step, size)
        for step in range(specification.EVERY, specification.STEPS + 1, specification.EVERY):
            assert specification.exchanged_at(said, step, size) == specification.exchanged_at(written, step, size)
            if written.temperature is not None and step <= specification.STOP:
                assert said.temperature is not None
                assert said.temperature(step) == pytest.approx(written.temperature(step))
    same = ("removal", "percolate", "prune", "history", "returning", "early_stop", "stop")
    same += () if written.zeta == 0 else ("regrowth", "soft")
    assert [getattr(said, field) for field in same] == [getattr(written, field) for field in same]
    assert said.together == written.together or written.early_stop is None


@dataclass(frozen=True)
class Diagonals:
    """Links along diagonals; `missing` of them are forgotten."""

    missing: int = 0

    def __call__(self, out_features: int, in_features: int, density: float, *, generator: torch.Generator) -> Tensor:
        order = (torch.arange(out_features)[:, None] * 5 + torch.arange(in_features)).flatten() % in_features
        order = order + 0.5 * torch.rand(len(order), generator=generator)
        mask = torch.zeros(out_features * in_features, dtype=torch.bool)
        links = chts.topology.link_count(out_features, in_features, density) - self.missing
        mask[order.argsort()[:links]] = True
        return mask.view(out_features, in_features)


@dataclass(frozen=True)
class Sensitive:
    """|W · gradient|; with `noise` another one each time."""

    noise: float = 0.0
    needs_gradient: bool = True

    def __call__(self, links: WeightedLinks, /) -> Tensor:
        assert links.gradients is not None
        return (links.values * links.gradients).abs() + self.noise * torch.rand(len(links.values))


@dataclass(frozen=True)
class NearDiagonal:
    """Links near the diagonal come; `shift` is below 0 for what must not be."""

    shift: float = 0.0

    def __call__(self, mask: Tensor, gradient: Tensor | None, /) -> Tensor:
        assert gradient is None
        outputs, inputs = (torch.arange(size) for size in mask.shape)
        return 1 / (1.0 + (outputs[:, None] - inputs).abs()) + self.shift


@dataclass(frozen=True)
class Squared:
    """RigL's, by the square; `how` says what is wrong with it."""

    how: str = ""
    needs_gradient: bool = True

    def __call__(self, mask: Tensor, gradient: Tensor | None, /) -> Tensor:
        assert gradient is not None
        if self.how == "of inputs":
            return gradient.square().sum(dim=0)
        return gradient.square() + (torch.rand(mask.shape) if self.how == "noisy" else 0)


@dataclass(frozen=True)
class Halving:
    """A share that halves at every update."""

    def at(self, step: int, timeline: Timeline) -> float:
        return 0.4 * 0.5 ** (step / timeline.update_every)


OWN = chts.Method(
    topology=Diagonals(),
    removal=methods.Removal(Sensitive(), temperature=2.0, percolate=True, prune=Sensitive()),
    regrowth=methods.Regrowth(NearDiagonal(), history=True),
    sparsity=Linear(),
    turnover=methods.Turnover(Halving(), stop=0.5, early_stop=0.5),
)
OWN_HARD = replace(OWN, removal=methods.Removal(Sensitive()), regrowth=methods.Regrowth(NearDiagonal(), soft=False))


def test_methods_of_ones_own_conform_to_what_they_say() -> None:
    words = "set with topology=SmallWorld(0.25), turnover=Turnover('excess'), sparsity=Staged((0.2, 0.1), 0.3)"
    found = conformance.conformance({"soft": OWN, "hard": OWN_HARD, words: methods.get_method(words)})
    assert [result for result in found if result.passed is False] == []
    applied = {(result.method, result.check) for result in found if result.passed}
    assert {check for name, check in applied if name == "soft"} >= conformance.CHECKS.keys() - {"devices"}
    assert {check for name, check in applied if name == "hard"} >= conformance.CHECKS.keys() - {
        "devices",
        "percolation",
    }
    assert {"links", "exchange", "removal", "regrowth", "resume"} <= {check for name, check in applied if name == words}


WRONG: dict[str, tuple[chts.Method, str]] = {
    "a topology of a link too few": (replace(OWN, topology=Diagonals(missing=1)), "links"),
    "removal at random": (replace(OWN_HARD, removal=methods.Removal(Sensitive(noise=9.0))), "removal"),
    "a score of another generator": (replace(OWN_HARD, removal=methods.Removal(Sensitive(noise=9.0))), "resume"),
    "a negative score": (replace(OWN, regrowth=methods.Regrowth(NearDiagonal(shift=-0.5))), "scores"),
    "a score of another shape": (replace(OWN, regrowth=methods.Regrowth(Squared("of inputs"))), "scores"),
    "a score that differs each time": (replace(OWN, regrowth=methods.Regrowth(Squared("noisy"))), "scores"),
    "regrowth at random": (replace(OWN, regrowth=methods.Regrowth(Squared("noisy"), soft=False)), "regrowth"),
}


SET = METHODS["set"]
BY_WEIGHT = replace(
    SET,
    removal=methods.Removal("magnitude", percolate=True),
    regrowth=methods.Regrowth("magnitude", soft=False, history=True),
)
ASKED: dict[str, tuple[chts.Method, str, bool | None]] = {
    "soft, by a gradient": (replace(SET, regrowth=methods.Regrowth(Squared())), "regrowth", True),
    "hard, by a gradient": (replace(SET, regrowth=methods.Regrowth(Squared(), soft=False)), "regrowth", True),
    "another predictor": (replace(SET, regrowth=methods.Regrowth("ch2_l3p")), "regrowth", True),
    "its scores": (replace(SET, regrowth=methods.Regrowth("ch2_l3p")), "scores", None),
    "from correlations": (chts.PRESETS["cht/mlp_code"], "links", True),
    "new links alike": (chts.PRESETS["cht/mlp_code"], "csr", True),
    "all go": (replace(SET, turnover=methods.Turnover(1.0)), "removal", True),
    "by weight, removal": (BY_WEIGHT, "removal", None),
    "by weight, percolation": (BY_WEIGHT, "percolation", None),
    "by weight, regrowth": (BY_WEIGHT, "regrowth", None),
    "by weight, weights": (BY_WEIGHT, "weights", True),
    "none goes at first": (replace(METHODS["cht"], turnover=methods.Turnover(0.001)), "percolation", None),
}


@pytest.mark.parametrize("asked", ASKED)
def test_checks_apply_as_the_choices_say(asked: str) -> None:
    method, check, passed = ASKED[asked]
    found = conformance.checked("mine", method, check)
    assert found.passed is passed, found.detail


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_choice_of_ones_own_turns_its_column_red(fault: str) -> None:
    method, check = WRONG[fault]
    assert conformance.checked("mine", method, check).passed is False


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_core_turns_the_column_of_ones_own_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, check, where, attribute, wrong = FAULTS[fault]
    monkeypatch.setattr(where, attribute, wrong)
    method = OWN_HARD if fault == "removal at random" else OWN
    assert conformance.checked("mine", method, check).passed is False


def test_the_command_takes_methods_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conformance", "set with topology=SmallWorld(0.25)"]) == 0
    shown = capsys.readouterr().out
    assert "set with topology=SmallWorld(0.25)" in shown
    assert "chtss" not in shown
    assert "published commands" not in shown
    assert cli.main(["conformance", "set with topology=Small(0.25)"]) == 2
    assert "Small(0.25) is not a valid value" in capsys.readouterr().err


# --- against numbers recorded from the published commands ---


@pytest.fixture(scope="module")
def by_numbers() -> list[conformance.Check]:
    return conformance.published()


def test_presets_do_what_their_published_commands_do(by_numbers: list[conformance.Check]) -> None:
    assert {result.method for result in by_numbers} == set(published.COMMANDS)
    assert [result for result in by_numbers if result.passed is False] == []
    skipped = {(result.method, result.check) for result in by_numbers if result.passed is None}
    wired_at_random = {"set/mlp_code", "mest/mlp_code", "chts/mlp_code", "chts/llama_code", "chtss/llama_code", "gmp"}
    expected = {(name, "first network") for name in wired_at_random}
    assert skipped == expected | {("gmp", check) for check in published.CHECKS if check != "counts"}


ALL = METHODS | chts.PRESETS


def turned() -> list[tuple[str, str, chts.Method]]:
    """Every preset of a command with one setting changed, and which."""
    found = []
    for name in published.COMMANDS:
        method, csti = ALL[name], published.COMMANDS[name].csti
        r, g, t = method.removal, method.regrowth, method.turnover
        shape = 0.3 if isinstance(t.zeta, methods.Cosine) else methods.Cosine(0.3)
        scores = [score for score in methods.REMOVAL_SCORES if score != r.score]
        changes: dict[str, dict[str, Any]] = {
            "zeta": {"turnover": replace(t, zeta=0.2)},
            "its shape": {"turnover": replace(t, zeta=shape)},
            "its end": {"turnover": replace(t, stop=0.5)},
            "the optimizer's step": {"turnover": replace(t, skip_optimizer=not t.skip_optimizer)},
            "an early stop": {"turnover": replace(t, early_stop=None if t.early_stop else 0.9, together=False)},
            "one stop for all": {"turnover": replace(t, together=not t.together)},
            "the score that removes": {"removal": replace(r, score=scores[0])},
            "another score that removes": {"removal": replace(r, score=scores[-1])},
            "hard or soft removal": {"removal": replace(r, temperature=None if r.temperature else 1.0)},
            "the temperature": {"removal": replace(r, temperature=methods.Ramp(1.0, 5.0))},
            "the score that prunes": {"removal": replace(r, prune="mest" if r.score != "mest" else "magnitude")},
            "percolation": {"removal": replace(r, percolate=not r.percolate)},
            "links that return": {"removal": replace(r, returning=not r.returning)},
            "the score that regrows": {"regrowth": replace(g, score="ch3_l3n")},
            "random regrowth": {"regrowth": replace(g, score="random")},
            "hard or soft regrowth": {"regrowth": replace(g, soft=not g.soft)},
            "the last weight": {"regrowth": replace(g, history=not g.history)},
            "the density": {"sparsity": methods.Sigmoid(end=0.5)},
            "another density": {"sparsity": methods.Staged((0.04, 0.02))},
            "a start from correlations": {"topology": methods.ErdosRenyi() if csti else methods.Correlated()},
        }
        found += [(name, change, replace(method, **chosen)) for change, chosen in changes.items()]
    found = [row for row in found if row[2] != ALL[row[0]]]
    # `gmp` is the paper's, which says nothing of the optimizer's step; its comparison leaves that out.
    return [row for row in found if row[:2] != ("gmp", "the optimizer's step")]


TURNED = {f"{name}, {change}": (name, method) for name, change, method in turned()}


@pytest.mark.parametrize("change", TURNED)
def test_a_setting_that_is_turned_turns_the_report_red(change: str) -> None:
    name, method = TURNED[change]
    found = [conformance.checked_by_numbers(name, method, check) for check in published.CHECKS]
    assert any(result.passed is False for result in found)


# --- the samplers' probabilities, by hand ---


def test_probabilities_of_successive_draws_by_hand() -> None:
    odds = {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 3.0}
    found = formulas.successive(odds, 2)
    first, second, third = odds
    # 1/6 · 2/5 + 2/6 · 1/4, and so on
    assert found[frozenset((first, second))] == pytest.approx(1 / 6 * 2 / 5 + 2 / 6 * 1 / 4)
    assert found[frozenset((first, third))] == pytest.approx(1 / 6 * 3 / 5 + 3 / 6 * 1 / 3)
    assert sum(found.values()) == pytest.approx(1)
    assert formulas.successive({first: 1.0, second: 0.0, third: 0.0}, 2) == {
        frozenset((first, second)): 0.5,
        frozenset((first, third)): 0.5,
    }


def test_the_command_prints_writes_and_tells_by_its_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    report: list[conformance.Check],
) -> None:
    monkeypatch.setattr(conformance, "conformance", lambda: report)
    assert cli.main(["conformance", "--out", str(tmp_path / "report.json")]) == 0
    assert "chtss" in capsys.readouterr().out
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["conformance"] == conformance.as_record(report)
    assert {"versions", "device", "git", "seconds"} <= record.keys()
    monkeypatch.setattr(conformance, "conformance", lambda: [replace(report[0], passed=False), *report[1:]])
    assert cli.main(["conformance"]) == 1
    assert "FAIL" in capsys.readouterr().out
