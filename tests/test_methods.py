from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import chts_core as chts
from chts_core import methods
from chts_core.schedules import Timeline

TIMELINE = Timeline(total_steps=1000, update_every=100, stop=0.75)


# --- the table as published ---


def test_the_nine_methods() -> None:
    assert list(chts.METHODS) == ["fc", "set", "rigl", "mest", "gmp", "granet", "cht", "chts", "chtss"]


def test_set_removes_small_weights_and_regrows_at_random() -> None:
    assert chts.METHODS["set"] == chts.Method(
        topology=methods.ErdosRenyi(),
        removal=methods.Removal("magnitude", temperature=None, percolate=False),
        regrowth=methods.Regrowth("random", history=False),
        sparsity=methods.Constant(),
        turnover=methods.Turnover(zeta=methods.Cosine(0.3), stop=0.75, early_stop=None, skip_optimizer=False),
    )


def test_chts_is_softly_removed_percolated_and_softly_regrown_by_ch2_l3n_with_its_last_weights() -> None:
    assert chts.METHODS["chts"] == chts.Method(
        topology=methods.ReceptiveField(r=0.25, degree="fixed"),
        removal=methods.Removal(
            "magnitude", temperature=methods.Ramp(1.0, 3.0), percolate=True, prune=None, returning=False
        ),
        regrowth=methods.Regrowth("ch2_l3n", soft=True, history=True),
        sparsity=methods.Constant(),
        turnover=methods.Turnover(zeta=methods.Cosine(0.3), stop=0.75, early_stop=None, skip_optimizer=False),
    )


HARD_L3P = methods.Regrowth("ch3_l3p", soft=False)
PRUNED_BY_RI = methods.Removal("magnitude", methods.RAMP_TO_3, percolate=True, prune="relative_importance")
SIGMOID = methods.Sigmoid(initial=0.5, start=0.0, end=0.375, k=6.0)
# Each method as the one it comes from, with what it does otherwise.
RELATIVES = {
    "fc": (
        "set",
        {
            "topology": methods.FullyConnected(),
            "sparsity": methods.Dense(),
            "turnover": methods.Turnover(zeta=0.0),
        },
    ),
    "rigl": ("set", {"regrowth": methods.Regrowth("gradient", soft=False)}),
    "mest": (
        "set",
        {
            "removal": methods.Removal("mest"),
            "sparsity": methods.Staged((0.05, 0.025), switch=0.6),
            "turnover": methods.Turnover(zeta="excess"),
        },
    ),
    "gmp": (
        "set",
        {
            "removal": methods.Removal("magnitude", returning=True),
            "regrowth": methods.Regrowth("magnitude", soft=False, history=True),
            "sparsity": methods.Cubic(initial=0.5, start=0.0, end=0.75),
            "turnover": methods.Turnover(zeta=0.0),
        },
    ),
    "granet": ("rigl", {"sparsity": methods.Cubic(initial=0.5, start=0.0, end=0.75)}),
    "cht": (
        "chts",
        {
            "removal": methods.Removal("magnitude", percolate=True),
            "regrowth": HARD_L3P,
            "turnover": methods.Turnover(zeta=methods.Cosine(0.3), early_stop=0.9, together=True),
        },
    ),
    "chtss": ("chts", {"removal": PRUNED_BY_RI, "sparsity": SIGMOID}),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_what_a_method_does_otherwise_than_its_relative(name: str) -> None:
    relative, choices = RELATIVES[name]
    assert chts.METHODS[name] == replace(chts.METHODS[relative], **choices)


CSTI = {"topology": methods.Correlated()}
RI = methods.Removal("relative_importance", methods.RAMP_TO_3, percolate=True)
RI_TWICE = replace(RI, prune="relative_importance")
L3P = methods.Regrowth("ch3_l3p", history=True)
ZEROS = methods.Regrowth("ch2_l3n")
TENTH = methods.Turnover(methods.Cosine(0.1))
CODE = methods.Turnover(methods.Cosine(0.3), skip_optimizer=True)
STAGES = {
    "sparsity": methods.Staged((0.05, 0.025), switch=0.62),
    "turnover": methods.Turnover("excess", stop=0.74, skip_optimizer=True),
}
LLAMA_CODE = {
    "topology": methods.ReceptiveField(r=0.25, degree="uniform"),
    "regrowth": methods.Regrowth("ch2_l3n", soft=False),
    "turnover": methods.Turnover(methods.Cosine(0.1), skip_optimizer=True),
}
SOURCES = {
    "set/mlp_code": ("set", {"turnover": methods.Turnover(0.3, stop=0.99, skip_optimizer=True)}),
    "set/paper_llama": ("set", {"turnover": TENTH}),
    "rigl/paper_llama": ("rigl", {"turnover": TENTH}),
    "granet/paper_llama": ("granet", {"turnover": TENTH}),
    "cht/paper_llama": ("cht", {"turnover": methods.Turnover(methods.Cosine(0.1), early_stop=0.9, together=True)}),
    "mest/mlp_code": ("mest", STAGES),
    "mest/exchange": ("mest", {"turnover": methods.Turnover(methods.Cosine(0.3))}),
    "gmp/no_return": ("gmp", {"removal": methods.Removal("magnitude"), "regrowth": methods.Regrowth("random")}),
    "cht/paper_mlp": ("cht", CSTI),
    "cht/mlp_code": ("cht", {**CSTI, "turnover": replace(CODE, early_stop=0.9, together=True)}),
    "cht/by_layer": (
        "cht",
        {
            "topology": methods.ErdosRenyi(),
            "turnover": methods.Turnover(methods.Cosine(0.3), early_stop=0.9),
        },
    ),
    "chts/paper_mlp": ("chts", CSTI),
    "chts/paper_mlp_l3p": ("chts", {**CSTI, "regrowth": L3P}),
    "chts/paper_mlp_fashion": ("chts", {**CSTI, "removal": RI}),
    "chts/paper_mlp_fashion_l3p": ("chts", {**CSTI, "removal": RI, "regrowth": L3P}),
    "chts/paper_translation": ("chts", {}),
    "chts/paper_llama": ("chts", {"turnover": TENTH}),
    "chts/paper_to_9": ("chts", {"removal": methods.Removal("magnitude", methods.RAMP_TO_9, percolate=True)}),
    "chts/zeros": ("chts", {"regrowth": ZEROS}),
    "chts/ri_zeros": ("chts", {"removal": RI, "regrowth": ZEROS}),
    "chts/r1_readme": (
        "chts",
        {
            **CSTI,
            "removal": methods.Removal("magnitude", percolate=True),
            "regrowth": methods.Regrowth("ch3_l3p"),
            **STAGES,
        },
    ),
    "chts/mlp_code": (
        "chts",
        {"topology": methods.SmallWorld(0.25), "regrowth": ZEROS, "turnover": methods.Turnover(methods.Cosine(0.3))},
    ),
    "chts/llama_code": ("chts", {**LLAMA_CODE, "removal": methods.Removal("magnitude", methods.RAMP_TO_9)}),
    "chtss/paper_mlp": ("chtss", CSTI),
    "chtss/paper_mlp_fashion": ("chtss", {**CSTI, "removal": RI_TWICE}),
    "chtss/paper_translation": ("chtss", {}),
    "chtss/paper_llama": ("chtss", {"turnover": TENTH}),
    "chtss/paper_to_9": ("chtss", {"removal": replace(PRUNED_BY_RI, temperature=methods.RAMP_TO_9)}),
    "chtss/ri_zeros": ("chtss", {"removal": RI, "regrowth": ZEROS}),
    "chtss/llama_code": (
        "chtss",
        {
            **LLAMA_CODE,
            "removal": methods.Removal("magnitude", methods.RAMP_TO_9, prune="relative_importance"),
            "sparsity": methods.Sigmoid(initial=0.5, end=0.75),
        },
    ),
}


def test_presets_are_the_methods_by_source() -> None:
    assert {
        name: replace(chts.METHODS[method], **choices) for name, (method, choices) in SOURCES.items()
    } == chts.PRESETS


ALL = chts.METHODS | chts.PRESETS
# What the paper does in translation is what the methods do in general.
SAME = {"chts": "chts/paper_translation", "chtss": "chtss/paper_translation"}


def test_no_two_methods_are_the_same_but_those_that_say_so() -> None:
    assert all(ALL[one] == ALL[other] for one, other in SAME.items())
    assert len({repr(method) for method in ALL.values()}) == len(ALL) - len(SAME) == 37


@pytest.mark.parametrize("name", ALL)
def test_all_scores_exist(name: str) -> None:
    assert methods.get_method(ALL[name]) is ALL[name]


@pytest.mark.parametrize("name", ALL)
def test_initial_masks_have_the_links_of_the_density(name: str) -> None:
    build = ALL[name].topology
    if build == methods.Correlated():
        pytest.skip("it wants inputs")
    mask = build(20, 40, 1.0 if name == "fc" else 0.1, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (20, 40)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == (800 if name == "fc" else 80)


def test_topologies_pass_their_settings_on() -> None:
    # r = 0 and β = 0 leave nothing to chance; uniform degrees differ by far more than one.
    nearest, spread = methods.ReceptiveField(r=0.0), methods.ReceptiveField(r=1.0, degree="uniform")
    lattice, rewired = methods.SmallWorld(beta=0.0), methods.SmallWorld(beta=0.5)

    def build(topology: methods.Topology, seed: int) -> torch.Tensor:
        return topology(20, 40, 0.25, generator=torch.Generator().manual_seed(seed))

    for fixed in (nearest, lattice):
        assert torch.equal(build(fixed, 0), build(fixed, 1))
    for random in (rewired, methods.ScaleFree(), methods.ErdosRenyi()):
        assert not torch.equal(build(random, 0), build(random, 1))
    for kind in ("rigid", "soft", None):
        assert methods.ScaleFree(resort=kind).resort == kind
    with pytest.raises(ValueError, match="resort is 'by force'; expected 'rigid', 'soft' or None"):
        methods.get_method("set with topology=ScaleFree(resort='by force')")
    degrees = build(spread, 0).sum(1)
    assert int(degrees.max() - degrees.min()) > 10
    # A few neurons of a scale-free network have far more links than most.
    scale_free, uniform = (build(topology, 0).sum(0).double().std() for topology in (methods.ScaleFree(), nearest))
    assert scale_free > 3 * uniform


def test_a_method_is_found_by_name_or_taken_as_it_is() -> None:
    mine = replace(chts.METHODS["set"], regrowth=methods.Regrowth("ch2_l3n"))
    assert methods.get_method("set") is chts.METHODS["set"]
    assert methods.get_method("chts/mlp_code") is chts.PRESETS["chts/mlp_code"]
    assert methods.get_method(mine) is mine


def test_choices_can_be_replaced_in_words() -> None:
    removal = "Removal('mest', temperature=Ramp(1.0, 9.0))"
    words = f"topology=SmallWorld(0.5), removal={removal}, sparsity=Staged((0.1, 0.05))"
    assert methods.get_method(f"chts with {words}") == replace(
        chts.METHODS["chts"],
        topology=methods.SmallWorld(0.5),
        removal=methods.Removal("mest", temperature=methods.RAMP_TO_9),
        sparsity=methods.Staged((0.1, 0.05)),
    )
    assert (
        methods.get_method("chts/paper_mlp_l3p with turnover=Turnover(zeta=Cosine(initial=0.3))")
        == methods.get_method("chts with topology=Correlated(), regrowth=Regrowth('ch3_l3p', history=True)")
        == chts.PRESETS["chts/paper_mlp_l3p"]
    )


@pytest.mark.parametrize("name", ALL)
def test_the_repr_of_a_choice_is_how_it_is_written(name: str) -> None:
    mine = ALL[name]
    words = ", ".join(f"{choice}={getattr(mine, choice)!r}" for choice in mine.__dataclass_fields__)
    assert methods.get_method(f"set with {words}") == mine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sets with topology=ErdosRenyi()", "method is 'sets'; expected one of 'fc'"),
        (
            "set with topology=Erdos()",
            r"Erdos\(\) is not a valid value; expected .* one of FullyConnected",
        ),
        ("set with topology=Constant()", r"topology is Constant\(\); expected one of FullyConnected, ErdosRenyi"),
        ("set with wiring=ErdosRenyi()", "wiring is not a valid choice; expected one of topology, removal"),
        ("set with topology=ReceptiveField(radius=1)", "unexpected keyword argument 'radius'"),
        ("set with topology=ErdosRenyi(", "was never closed"),
        ("set with ErdosRenyi()", "expected CHOICE="),
        ("set with topology=ErdosRenyi()) or (1", "expected CHOICE="),
        ("set with topology=ErdosRenyi())(sparsity=Constant()", "expected CHOICE="),
        ("set with ", "expected CHOICE="),
        ("set with sparsity=Constant(), sparsity=Cubic()", "a choice is given twice: sparsity, sparsity"),
        ("set with topology=__import__('os').system('true')", "is not a valid value"),
        ("set with removal=Removal(open('secret'))", "is not a valid value"),
        ("set with topology=ReceptiveField(r=2)", r"the choices .* are not valid: r is 2"),
        ("set with topology=ReceptiveField(r='wide')", "the choices .* are not valid"),
        ("set with turnover=Turnover(Cosine('fast'))", "the choices .* are not valid"),
        ("set with turnover=Turnover(0.3, stop=2)", "the choices .* are not valid"),
        ("set with sparsity=Cubic(start=0.9, end=0.1)", "the decay goes from 0.9 to 0.1"),
        ("chts with removal=Removal('magnitude', temperature=1e999)", "inf is not finite"),
        ("set with removal=Removal('size')", "the method has score 'size'"),
        ("set with turnover=Turnover(0.3, early_stop=2)", "early_stop is 2"),
        ("set with topology=" + "(" * 5000, "the choices .* are not valid"),
    ],
)
def test_words_that_are_no_method_are_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get_method(words)


def test_methods_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        chts.METHODS["set"].turnover = methods.Turnover(0.5)  # type: ignore[misc]


# --- schedules ---


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (methods.Dense(), {0: 0.0, 500: 0.0, 1000: 0.0}),
        (methods.Constant(), {0: 0.9, 500: 0.9, 1000: 0.9}),
        # u = 1/3: 0.9 - 0.4 (2/3)³ in a window of [0, 600]
        (methods.Cubic(end=0.6), {0: 0.5, 200: 0.9 - 0.4 * 8 / 27, 300: 0.85, 600: 0.9, 1000: 0.9}),
        # The window of [0, 375] ends at the update before, 300; the middle of a sigmoid is half way.
        (methods.Sigmoid(), {0: 0.5, 150: 0.7, 300: 0.9, 1000: 0.9}),
        (methods.Sigmoid(initial=0.1, start=0.2, end=0.6), {100: 0.1, 200: 0.1, 400: 0.5, 600: 0.9, 700: 0.9}),
        # 60 % of the 750 steps in which the topology changes; the last update comes at 700.
        (methods.Staged(), {0: 0.85, 449: 0.85, 450: 0.875, 699: 0.875, 700: 0.9, 1000: 0.9}),
        (methods.Staged((0.2, 0.1), switch=0.4), {299: 0.7, 300: 0.8, 699: 0.8, 700: 0.9}),
        (methods.Staged(switch=1.0), {0: 0.85, 699: 0.85, 700: 0.9}),  # the second stage would come too late
    ],
)
def test_sparsity_at_a_step(schedule: methods.Sparsity, expected: dict[int, float]) -> None:
    assert {step: schedule.at(step, TIMELINE, 0.9) for step in expected} == pytest.approx(expected, rel=1e-12)


def test_steepness_of_the_sigmoid_is_passed_on() -> None:
    early = [methods.Sigmoid(k=k).at(100, TIMELINE, 0.9) for k in (2.0, 6.0, 12.0)]
    assert early == sorted(early, reverse=True)
    assert early[0] > early[1] > early[2]


def test_default_windows_cost_the_same_training_flops() -> None:
    # One update per step, so that windows are not rounded to updates.
    timeline = Timeline(total_steps=8000, update_every=1, stop=0.75)
    excess = [
        sum(0.9 - schedule.at(step, timeline, 0.9) for step in range(8000))
        for schedule in (methods.Cubic(), methods.Sigmoid())
    ]
    assert excess[0] == pytest.approx(excess[1], rel=1e-3)


def test_the_cosine_falls_to_0_at_the_stop() -> None:
    zeta = [methods.Cosine(0.4).at(step, TIMELINE) for step in (0, 250, 375, 500, 750, 1000)]
    assert zeta == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], abs=1e-15)


@pytest.mark.parametrize(("ramp", "end"), [(methods.RAMP_TO_3, 3.0), (methods.RAMP_TO_9, 9.0)])
def test_the_ramp_rises_to_the_stop(ramp: methods.Ramp, end: float) -> None:
    temperatures = [ramp.at(step, TIMELINE) for step in (0, 375, 750, 1000)]
    assert temperatures == [1.0, (1 + end) / 2, end, end]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.3, [0.3, 0.3, 0.3]),
        (0, [0, 0, 0]),
        (methods.Cosine(0.4), [0.4, 0.2, 0.0]),
        (methods.Ramp(1.0, 9.0), [1.0, 5.0, 9.0]),
    ],
)
def test_a_hyperparameter_is_a_number_or_a_schedule(value: float | methods.Schedule, expected: list[float]) -> None:
    values = [methods.value_at(value, step, TIMELINE) for step in (0, 375, 750)]
    assert values == pytest.approx(expected, abs=1e-15)


def test_a_schedule_of_ones_own() -> None:
    class Halved:
        def at(self, step: int, timeline: Timeline) -> float:
            return 0.5 if step < timeline.stop_step / 2 else 0.25

    assert [methods.value_at(Halved(), step, TIMELINE) for step in (0, 374, 375)] == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("epochs", [2, 20, 100])
def test_the_mlp_script_updates_after_every_epoch_but_the_last(epochs: int) -> None:
    timeline = Timeline(epochs * 7, 7, chts.PRESETS["set/mlp_code"].turnover.stop)
    assert timeline.last_update == (epochs - 1) * 7


def test_with_more_links_than_the_target_the_mlp_script_updates_in_three_quarters_of_the_epochs() -> None:
    method = chts.PRESETS["mest/mlp_code"]
    timeline = Timeline(100 * 7, 7, method.turnover.stop)
    assert timeline.last_update == 74 * 7
    sparsity = [method.sparsity.at(7 * epoch, timeline, 0.99) for epoch in range(100)]
    stages = [0.94] * 46 + [0.965] * 28 + [0.99] * 26
    assert sparsity == pytest.approx(stages)


WITHOUT_EFFECT = {
    "regrowth without a memory": (
        {"regrowth": methods.Regrowth("magnitude")},
        "does not keep these weights.*history=True",
    ),
    "returning at a temperature": (
        {"removal": methods.Removal("magnitude", temperature=2.0, returning=True)},
        "removal.returning is True with .*temperature=2.0",
    ),
    "returning with a turnover": ({"turnover": methods.Turnover(0.3)}, "zeta 0.3; expected .* zeta 0"),
    "together without a stop": ({"turnover": methods.Turnover(0.0, together=True)}, "early_stop is None"),
    "a zeta that is no share": ({"turnover": methods.Turnover("exces")}, "zeta is 'exces'; expected"),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_choices_that_would_have_no_effect_are_refused(case: str) -> None:
    choices, message = WITHOUT_EFFECT[case]
    with pytest.raises(ValueError, match=message):
        methods.get_method(replace(chts.METHODS["gmp"], **choices))
