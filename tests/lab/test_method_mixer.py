from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

from chts_core.lab import figures
from chts_core.lab.train import images
from chts_core.lab.widgets import MethodMixer, MethodMixerState, method_mixer
from chts_core.lab.widgets.method_mixer import CHOICES, in_words
from chts_core.methods import METHODS, Constant, ErdosRenyi, Method, Regrowth, Removal, Turnover


@pytest.fixture(scope="module")
def remembered() -> Any:
    """What trains for four epochs instead of eight, and remembers it."""
    return cache(method_mixer._trained.__wrapped__)


@pytest.fixture
def short_runs(remembered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of four epochs."""
    monkeypatch.setattr(method_mixer, "_RECIPE", replace(method_mixer._RECIPE, epochs=4))
    monkeypatch.setattr(method_mixer, "_trained", remembered)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_mixed(name: str) -> None:
    words = in_words(METHODS[name])
    mixed = Method(**{field: CHOICES[field][word] for field, word in words.items()})
    assert mixed == METHODS[name]


def test_no_two_words_mean_the_same() -> None:
    for choices in CHOICES.values():
        assert len({repr(choice) for choice in choices.values()}) == len(choices)


def test_a_choice_without_words_is_told_as_it_is() -> None:
    mine = Method(ErdosRenyi(), Removal("mest", percolate=True), Regrowth("random"), Constant(), Turnover(0.1))
    words = in_words(mine)
    assert words["topology"] == "Erdős–Rényi"
    assert words["removal"] == repr(mine.removal)


def test_the_first_mix_differs_from_chts_in_one_choice() -> None:
    result = MethodMixer.compute(MethodMixerState())
    theirs, mine = result.runs
    assert result.description == (
        "The mix differs from CHTs in topology (Erdős–Rényi). After 8 epochs, the mix has "
        f"{mine.validation_accuracy[-1]:.1%} validation accuracy with 10% of the links, and CHTs "
        f"has {theirs.validation_accuracy[-1]:.1%} with 10%. Each method has only one run, and both runs have the "
        "same seed, so the comparison proves nothing."
    )
    assert theirs.validation_accuracy != mine.validation_accuracy


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_mixed_anew_is_that_method(name: str) -> None:
    result = MethodMixer.compute(MethodMixerState(**in_words(METHODS[name]), rival=name))
    theirs, mine = result.runs
    assert theirs.validation_accuracy == mine.validation_accuracy
    assert theirs.density == mine.density
    assert result.description.startswith("The mix is the same method as ")


@pytest.mark.usefixtures("short_runs")
def test_all_that_differs_is_named() -> None:
    said = MethodMixer.compute(MethodMixerState(regrowth="random", rival="chtss")).description
    differing = said.partition(". After")[0]
    assert differing == (
        "The mix differs from CHTss in topology (Erdős–Rényi), removal (smallest, soft, percolate), regrowth (random) "
        "and number of links (constant)"
    )


@pytest.mark.usefixtures("short_runs")
def test_a_mix_that_cannot_work_is_explained_and_only_that() -> None:
    for topology, sparsity in product(CHOICES["topology"], CHOICES["sparsity"]):
        result = MethodMixer.compute(MethodMixerState(topology=topology, sparsity=sparsity))
        fits = topology != "all links" or sparsity == "all links"
        assert len(result.runs) == (2 if fits else 1)
        assert ("cannot work" in result.description) == (not fits)
        assert len(result.description.split()) <= 90
    said = MethodMixer.compute(MethodMixerState(topology="all links")).description
    assert "gave layer '0.weight' 4096 links; expected exactly 410" in said
    assert figures.to_png(MethodMixer.figure(MethodMixerState(topology="all links")))


@pytest.mark.usefixtures("short_runs")
def test_a_mix_is_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    train = images.train

    def counting(*arguments: Any, **settings: Any) -> Any:
        trained.append(arguments)
        return train(*arguments, **settings)

    monkeypatch.setattr(images, "train", counting)
    method_mixer._trained.cache_clear()
    state = MethodMixerState(removal="smallest")
    before = torch.get_rng_state()
    first = MethodMixer.compute(state)
    assert len(trained) == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert MethodMixer.compute(state).runs[1] is first.runs[1]
    assert len(trained) == 2
    MethodMixer.compute(MethodMixerState(removal="smallest", rival="set"))
    assert len(trained) == 3  # the mix is known, SET is new


def test_both_curves_are_in_one_panel() -> None:
    (axes,) = MethodMixer.figure(MethodMixerState(sparsity="sigmoid fall from half")).axes
    assert [line.get_label() for line in axes.lines] == ["CHTs", "your mix"]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
