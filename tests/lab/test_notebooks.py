import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chts_core.choices import Cosine
from chts_core.lab.data import IMAGE_SETS, TEXT_SETS, TRANSLATION_SETS
from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.forecast import Forecast
from chts_core.lab.notebook.notebooks import LIMITS, PROFILES, Choice, Range
from chts_core.lab.results import records
from chts_core.lab.train import language
from chts_core.lab.train.translation import RECIPES
from chts_core.methods import get_method

STAGES = [path.stem for path in notebooks.stages()]
FREE = {"data_dir", "out_dir", "comparison"}  # any text will do, or the notebook knows which
PAPER_ORDER = ("fc", "set", "rigl", "mest", "gmp", "granet", "cht", "chts", "chtss")
BY_RECIPE = {"recipe", "steps"}  # what the profile decides by data set


# --- finding ---


@pytest.mark.parametrize("name", ["6", "06", "06_mlp", "06_mlp.ipynb"])
def test_a_stage_is_found_by_number_and_name(name: str) -> None:
    assert notebooks.find(name) == notebooks.folder() / "06_mlp.ipynb"


def test_a_notebook_is_found_by_path(
    tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_notebook(tmp_path / "folder" / "mine.ipynb")
    assert notebooks.find(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert notebooks.find("folder/mine.ipynb").resolve() == path
    # A file of that name in the current folder comes before the stage.
    write_notebook(tmp_path / "06_mlp.ipynb")
    assert notebooks.find("06_mlp.ipynb").resolve() == tmp_path / "06_mlp.ipynb"
    assert notebooks.find("06_mlp") == notebooks.folder() / "06_mlp.ipynb"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("06_mpl", "06_mlp"), ("6_mlp.ipynb", "06_mlp"), ("networks_as_masks", "01_networks_as_masks")],
)
def test_an_unknown_name_is_told_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"no notebook '{name}' \(did you mean '{nearest}'\?\)"):
        notebooks.find(name)


@pytest.mark.parametrize("name", ["99", "", "\N{SUPERSCRIPT TWO}", "missing/folder/zzz.ipynb", "."])
def test_an_unknown_name_lists_all(name: str) -> None:
    with pytest.raises(ValueError, match="there is no notebook") as refused:
        notebooks.find(name)
    assert all(stage in str(refused.value) for stage in STAGES)


def test_stages_are_in_order_and_titled() -> None:
    assert sorted(STAGES) == STAGES
    assert {"01_networks_as_masks", "06_mlp"} <= set(STAGES)
    for path in notebooks.stages():
        assert notebooks.title(path).startswith(f"{path.stem.partition('_')[0]} · ")


def test_a_notebook_without_a_heading_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "plain.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("# a comment"), new_markdown_cell("## second level")]), path)
    assert notebooks.title(path) == "plain"


# --- the overview ---


def test_the_overview_tells_what_headers_and_profiles_say() -> None:
    overview = notebooks.overview("laptop")
    assert [stage.file for stage in overview] == [path.name for path in notebooks.stages()]
    stage = next(stage for stage in overview if stage.number == "06")
    profile = notebooks.profile_settings("06_mlp", "laptop")
    assert stage.title == notebooks.title(notebooks.find("06")).removeprefix("06 · ")
    assert (stage.minutes, stage.memory_mb) == (profile["minutes"], profile["memory_mb"])
    assert "01" in stage.prerequisites


@pytest.mark.parametrize("profile", PROFILES)
def test_the_overview_of_every_profile_is_whole(profile: str) -> None:
    for stage in notebooks.overview(profile):
        assert len(stage.goal.split()) > 5
        assert "\n" not in stage.goal
        assert "|" not in stage.goal + stage.title  # which would end the cell of a table
        assert len(stage.difficulty) == 3
        assert all(other < stage.number for other in stage.prerequisites)


def test_objectives_are_the_items_of_a_list_or_one_sentence() -> None:
    several = "# T\n\n**You will be able to**\n\n1. see\n   it;\n2. do 1. and 2.\n\n| |"
    assert notebooks.objectives(several) == ["see it", "do 1. and 2"]
    assert notebooks.objectives("# T\n\n**You will be able to** see\nit.\n\n| |") == ["see it"]
    assert notebooks.objectives("# T\n\n| |") == []


def test_an_overview_of_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter profile is 'laptp' \(did you mean 'laptop'\?\)"):
        notebooks.overview("laptp")


def test_rows_become_a_table_of_markdown() -> None:
    rows = [{"stage": "01", "what": "$a$"}, {"stage": "06b", "what": "**b**"}]
    assert notebooks.as_markdown(rows) == "| stage | what |\n| --- | --- |\n| 01 | $a$ |\n| 06b | **b** |"


# --- parameters ---


def test_the_parameters_of_stage_06() -> None:
    found = notebooks.parameters(notebooks.find("06"))
    assert {name: parameter.type for name, parameter in found.items()} == {
        "profile": str,
        "seed": int,
        "device": str,
        "dataset": str,
        "sparsity": float,
        "epochs": int,
        "seeds": int,
        "hidden": int,
        "data_dir": str,
        "out_dir": str,
    }
    assert {name: parameter.default for name, parameter in found.items()} == {
        "profile": "",
        "seed": 0,
        "device": "auto",
        "dataset": "",
        "sparsity": 0.99,
        "epochs": 0,
        "seeds": 0,
        "hidden": 0,
        "data_dir": "",
        "out_dir": "",
    }


def test_the_parameters_of_stage_01() -> None:
    found = notebooks.parameters(notebooks.find("01"))
    assert {name: (parameter.type, parameter.default) for name, parameter in found.items()} == {
        "profile": (str, ""),
        "seed": (int, 0),
        "sparsity": (float, 0.95),
        "r": (float, 0.25),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_is_explained_and_limited(stage: str) -> None:
    for name, parameter in notebooks.parameters(notebooks.find(stage)).items():
        assert parameter.name == name
        assert type(parameter.default) is parameter.type
        assert len(parameter.help) > 5
        assert name in LIMITS or name in FREE
        if isinstance(LIMITS.get(name), Range):
            assert parameter.type in (int, float)
        elif isinstance(LIMITS.get(name), Choice):
            assert parameter.type is str


def test_no_limit_is_for_nothing() -> None:
    used = {name for stage in STAGES for name in notebooks.parameters(notebooks.find(stage))}
    assert set(LIMITS) <= used


def test_a_notebook_may_have_no_parameters(tmp_path: Path, write_notebook: Callable[..., Path]) -> None:
    path = write_notebook(tmp_path / "none.ipynb", "1 + 1")
    assert notebooks.parameters(path) == {}
    with pytest.raises(ValueError, match="none has no parameter 'seed'"):
        notebooks.checked_parameters(path, {"seed": "1"})


@pytest.mark.parametrize("cell", ["steps = 3", "steps: list = [1, 2]", "steps: int = 2 * 3", 'steps: str = "a # b"'])
def test_a_parameter_that_is_no_annotated_literal_is_refused_by_name(
    tmp_path: Path, write_notebook: Callable[..., Path], cell: str
) -> None:
    path = write_notebook(tmp_path / "loose.ipynb", parameters=cell)
    with pytest.raises(ValueError, match="steps"):
        notebooks.parameters(path)


TYPED = 'count: int = 3  # how many\nrate: float = 0.5\nword: str = "a: b"\nswitch: bool = False'


@pytest.fixture
def typed(tmp_path: Path, write_notebook: Callable[..., Path]) -> Path:
    return write_notebook(tmp_path / "typed.ipynb", parameters=TYPED)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "-7", -7),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("word", "1.5", "1.5"),
        ("word", "", ""),
        ("switch", "true", True),
        ("switch", "False", False),
    ],
)
def test_text_becomes_the_type_of_the_parameter(typed: Path, name: str, text: str, value: object) -> None:
    checked = notebooks.checked_parameters(typed, {name: text})
    assert checked == {name: value}
    assert type(checked[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "abc", "a whole number"),
        ("count", "1.5", "a whole number"),
        ("count", "", "a whole number"),
        ("rate", "half", "a number"),
        ("switch", "yes", "true or false"),
        ("switch", "1", "true or false"),
    ],
)
def test_text_of_another_type_is_refused(typed: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"parameter {name} is '{text}'; expected {expected}"):
        notebooks.checked_parameters(typed, {name: text})


BAD_TEXTS = {
    "sparsity": ("1.0", r"parameter sparsity is 1\.0; expected a number in \[0, 1\)"),
    "seed": ("-1", r"parameter seed is -1; expected a whole number in \[0, 9223372036854775807\]"),
    "epochs": ("-1", "parameter epochs is -1; expected a (whole )?number of at least 0"),
    "hidden": ("x", "parameter hidden is 'x'; expected a whole number"),
    "profile": ("laptp", r"parameter profile is 'laptp' \(did you mean 'laptop'\?\); expected one of '', ci, binder"),
    "device": ("gpu", "parameter device is 'gpu'.*; expected one of auto, cpu, cuda"),
    "dataset": ("fashion-mnist", r"'fashion-mnist' \(did you mean 'fashion_mnist'\?\); expected one of ''"),
    "sparsty": ("0.9", r"06_mlp has no parameter 'sparsty' \(did you mean 'sparsity'\?\); its parameters are profile"),
    "zzz": ("1", "06_mlp has no parameter 'zzz'; its parameters are profile, seed"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
@pytest.mark.parametrize("copied", [False, True])
def test_bad_parameters_are_refused_wherever_the_notebook_is(tmp_path: Path, name: str, copied: bool) -> None:
    path = notebooks.find("06")
    if copied:
        path = Path(shutil.copy(path, tmp_path))
    text, message = BAD_TEXTS[name]
    with pytest.raises(ValueError, match=message):
        notebooks.checked_parameters(path, {name: text})


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_every_image_data_set_may_be_asked_for(name: str) -> None:
    path = notebooks.find("06")
    assert notebooks.checked_parameters(path, {"dataset": name})["dataset"] == name
    assert re.search(rf"\b{name}\b", notebooks.parameters(path)["dataset"].help)


# --- profiles ---


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_profile_has_settings_for_every_stage(stage: str, profile: str) -> None:
    settings = notebooks.profile_settings(stage, profile)
    assert {"minutes", "memory_mb"} <= set(settings)
    common = set(notebooks.profile_settings(stage, "laptop")) - {"threads"}
    assert set(settings) - {"threads"} == common
    # A default of 0 or "" says that the profile decides, so the profile must.
    for name, parameter in notebooks.parameters(notebooks.find(stage)).items():
        if parameter.default in (0, "") and name not in {"profile", "seed", *FREE, *BY_RECIPE}:
            assert settings[name] not in (0, "", None)
    for name in settings.keys() & LIMITS.keys():
        assert LIMITS[name].accepts(settings[name])


@pytest.mark.parametrize("profile", notebooks.PROFILES)
def test_every_profile_has_a_recipe_for_every_translation_set(profile: str) -> None:
    recipes = notebooks.profile_settings("08_translation_transformer", profile)["recipes"]
    assert recipes.keys() == TRANSLATION_SETS.keys()
    assert set(recipes.values()) <= RECIPES.keys()


@pytest.mark.parametrize("profile", notebooks.PROFILES)
def test_every_profile_has_a_recipe_for_every_text(profile: str) -> None:
    recipes = notebooks.profile_settings("09_llama", profile)["recipes"]
    assert recipes.keys() == TEXT_SETS.keys()
    assert set(recipes.values()) <= language.RECIPES.keys()


def test_the_paper_profile_asks_for_the_papers_language_model() -> None:
    settings = notebooks.profile_settings("09_llama", "paper")
    methods = settings["methods"].split(",")
    assert (settings["dataset"], settings["seeds"]) == ("openwebtext", 3)
    assert [name.partition("/")[0] for name in methods] == [*PAPER_ORDER]
    assert {name: get_method(name).turnover.zeta for name in methods} == {
        name: 0.0 if name in ("fc", "gmp") else "excess" if name == "mest" else Cosine(0.1) for name in methods
    }
    assert settings["method"] in methods
    recipe = language.RECIPES[settings["recipes"]["openwebtext"]]
    assert (recipe.size, recipe.context, recipe.batch, recipe.steps) == ("60m", 256, 512, 10_000)
    assert (recipe.learning_rate, recipe.dense_learning_rate, recipe.tokenizer) == (3e-3, 1e-3, "t5-base")


def test_the_paper_profile_is_the_papers_configuration() -> None:
    settings = notebooks.profile_settings("08_translation_transformer", "paper")
    assert (settings["dataset"], settings["seeds"], settings["methods"].split(",")) == ("multi30k", 3, [*PAPER_ORDER])
    recipe = RECIPES[settings["recipes"]["multi30k"]]
    assert (recipe.steps, recipe.batch_tokens, recipe.learning_rate, recipe.warmup) == (5000, 1024, 0.25, 1000)
    assert (recipe.update_every, recipe.iterative_warmup, recipe.beam) == (100, 20, 2)


@pytest.mark.parametrize("words", ["fc", "fc,chts", "chts/paper_to_9,set", ""])
def test_some_methods_are_named_with_commas(words: str) -> None:
    notebooks.check_value("methods", words)


@pytest.mark.parametrize("stage", ["08_translation_transformer", "09_llama", "10_scaling_out"])
def test_a_method_may_have_choices_replaced(stage: str) -> None:
    notebooks.check_value("method", "set with topology=SmallWorld(0.25)", stage)
    for wrong in ("set with topology=Small()", "sets with topology=ErdosRenyi()"):
        with pytest.raises(ValueError, match=r"parameter method is .*; expected one of"):
            notebooks.check_value("method", wrong, stage)


@pytest.mark.parametrize("words", ["fc,", "fc, chts", "fc,fc", "fc;chts", "fv"])
def test_what_names_no_methods_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"parameter methods is .* separated by commas without spaces"):
        notebooks.check_value("methods", words)


@pytest.mark.parametrize(
    ("stage", "right", "wrong"),
    [
        ("06_mlp", "fashion_mnist", "multi30k"),
        ("08_translation_transformer", "multi30k", "digits"),
        ("09_llama", "books", "multi30k"),
    ],
)
def test_a_stage_takes_data_of_its_own_kind_alone(stage: str, right: str, wrong: str) -> None:
    path = notebooks.find(stage)
    assert notebooks.checked_parameters(path, {"dataset": right}) == {"dataset": right}
    with pytest.raises(ValueError, match=rf"parameter dataset is '{wrong}'.*expected one of .*{right}") as refused:
        notebooks.checked_parameters(path, {"dataset": wrong})
    assert wrong not in str(refused.value).split("expected", 1)[1]


@pytest.mark.parametrize("profile", ["ci", "binder", "laptop"])
@pytest.mark.parametrize("stage", STAGES)
def test_profiles_for_a_cpu_predict_what_a_run_takes(stage: str, profile: str) -> None:
    settings = notebooks.profile_settings(stage, profile)
    assert 0 < settings["minutes"] <= 10
    assert 0 < settings["memory_mb"] <= 2000


def test_the_profile_is_the_laptop_s_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebooks.chosen_profile() == "laptop"
    assert notebooks.chosen_profile("ci") == "ci"
    monkeypatch.setenv("CHTS_PROFILE", "binder")
    assert (notebooks.chosen_profile(), notebooks.chosen_profile("ci")) == ("binder", "ci")
    for profile, epochs in (("", "binder"), ("ci", "ci")):
        settings = start_06(profile=profile)
        assert settings.epochs == notebooks.profile_settings("06_mlp", epochs)["epochs"]
        assert settings.profile == epochs
    monkeypatch.setenv("CHTS_PROFILE", "bidner")
    with pytest.raises(ValueError, match=r"profile is 'bidner' \(did you mean 'binder'\?\)"):
        notebooks.chosen_profile()


def test_a_record_has_the_profile_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_notebook: Callable[..., Path]
) -> None:
    monkeypatch.setenv("CHTS_PROFILE", "binder")
    monkeypatch.setattr(papermill, "execute_notebook", lambda path, out, **_: shutil.copy(path, out))
    path = write_notebook(tmp_path / "one.ipynb", "pass", parameters='profile: str = ""  # how large')
    assert notebooks.run(path, tmp_path / "out", {})["parameters"] == {"profile": "binder"}


@pytest.mark.parametrize("stage", STAGES)
def test_binder_is_expected_to_take_less_than_800_mb_but_where_a_library_or_several_processes_need_more(
    stage: str,
) -> None:
    most = {"09_llama": 1000, "10_scaling_out": 1800}.get(stage, 800)
    assert notebooks.profile_settings(stage, "binder")["memory_mb"] < most


def test_settings_may_be_changed_without_changing_the_profile() -> None:
    notebooks.profile_settings("06_mlp", "ci")["epochs"] = -5
    assert notebooks.profile_settings("06_mlp", "ci")["epochs"] > 0


# --- start ---


def start_06(**given: Any) -> Any:
    """Start stage 06 as its own cell does, every parameter at its default but those given."""
    sentinels = {"seed": 0, "device": "cpu", "dataset": "", "sparsity": 0.99, "epochs": 0, "seeds": 0, "hidden": 0}
    return notebooks.start("06_mlp", **({"profile": "ci"} | sentinels | given))


def test_the_profile_fills_in_what_is_left_open(capsys: pytest.CaptureFixture[str]) -> None:
    profile = notebooks.profile_settings("06_mlp", "ci")
    settings = start_06()
    for name in ("dataset", "epochs", "seeds", "hidden", "recipe"):
        assert getattr(settings, name) == profile[name]
    assert settings.device == torch.device("cpu")
    assert (settings.seed, settings.sparsity) == (0, 0.99)
    for name in ("minutes", "memory_mb", "threads"):  # a forecast and a duty, no settings
        assert not hasattr(settings, name)
    printed = capsys.readouterr().out
    assert printed == (f"profile ci: about {profile['minutes']:g} min and {profile['memory_mb']} MB on 2 cores\n")


def test_what_is_given_wins_over_the_profile() -> None:
    settings = start_06(dataset="fashion_mnist", epochs=1, seeds=7, hidden=33, seed=4, sparsity=0.0)
    assert (settings.dataset, settings.epochs, settings.seeds, settings.hidden) == ("fashion_mnist", 1, 7, 33)
    assert (settings.seed, settings.sparsity) == (4, 0.0)


def test_what_nobody_has_measured_is_reckoned(capsys: pytest.CaptureFixture[str]) -> None:
    start_06(profile="paper")
    found = notebooks.expected(notebooks.find("06"), {"profile": "paper", "device": "cpu"})
    printed = capsys.readouterr().out
    assert printed == f"profile paper: {found}\n"
    assert re.search(r"about \d+ h and \d+ MB, estimated, not measured", printed)


def test_a_profile_may_limit_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    start_06(profile="ci")
    start_06(profile="gpu")
    assert asked == [notebooks.profile_settings("06_mlp", "ci")["threads"]]


BAD_VALUES = [
    ("sparsity", 1.0, r"parameter sparsity is 1\.0; expected a number in \[0, 1\)"),
    ("sparsity", -0.1, r"parameter sparsity is -0\.1; expected a number in \[0, 1\)"),
    ("sparsity", math.nan, r"parameter sparsity is nan; expected a number in \[0, 1\)"),
    ("sparsity", "abc", r"parameter sparsity is 'abc'; expected a number in \[0, 1\)"),
    ("sparsity", None, r"parameter sparsity is None; expected a number in \[0, 1\)"),
    ("sparsity", True, r"parameter sparsity is True; expected a number in \[0, 1\)"),
    ("r", 1.5, r"parameter r is 1\.5; expected a number in \[0, 1\]"),
    ("r", -0.1, r"parameter r is -0\.1; expected a number in \[0, 1\]"),
    ("epochs", -1, "parameter epochs is -1; expected a (whole )?number of at least 0"),
    ("epochs", 2.5, r"parameter epochs is 2\.5; expected a whole number"),
    ("epochs", math.inf, "parameter epochs is inf; expected"),
    ("seeds", -1, "parameter seeds is -1; expected a (whole )?number of at least 0"),
    ("seed", -1, r"parameter seed is -1; expected a whole number in \[0, 9223372036854775807\]"),
    ("seed", 2**63, "parameter seed is 9223372036854775808; expected a whole number in"),
    ("hidden", "128", "parameter hidden is '128'; expected a (whole )?number of at least 0"),
    ("profile", "laptp", r"parameter profile is 'laptp' \(did you mean 'laptop'\?\); expected one of '', ci, binder"),
    ("profile", "zzz", "parameter profile is 'zzz'; expected one of '', ci, binder, laptop, gpu, paper"),
    ("device", "gpu", "parameter device is 'gpu'.*; expected one of auto, cpu, cuda"),
    ("device", 0, "parameter device is 0; expected one of auto, cpu, cuda"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object, message: str) -> None:
    # Papermill hands over whatever it was given, so the notebook itself has to check.
    with pytest.raises(ValueError, match=message):
        start_06(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("r", 0), ("r", 1), ("r", 1.0), ("sparsity", 0), ("sparsity", 0.9999)])
def test_limits_are_part_of_their_range(name: str, value: float) -> None:
    assert getattr(start_06(**{name: value}), name) == value


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda' but torch finds no CUDA device"):
        start_06(device="cuda")


# --- errors in widgets ---

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
FAILED_OUTPUT = {
    "model_name": "OutputModel",
    "state": {
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": "before"},
            {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []},
        ]
    },
}


def with_widgets(state: dict[str, Any] | None, *shown: str) -> Any:
    views = [new_output("display_data", data={VIEW: {"model_id": model}, "text/plain": "view"}) for model in shown]
    notebook = new_notebook(cells=[new_markdown_cell("text"), new_code_cell("show", outputs=views)])
    if state is not None:
        notebook.metadata["widgets"] = {STATE: {"state": state, "version_major": 2, "version_minor": 0}}
    return notebook


WIDGETS: dict[str, tuple[Any, list[str]]] = {
    "none": (with_widgets(None), []),
    "fine": (with_widgets({"a": {"model_name": "HTMLModel", "state": {"value": "error"}}}, "a"), []),
    "an output without errors": (with_widgets({"a": {"model_name": "OutputModel", "state": {"outputs": []}}}, "a"), []),
    "an error": (with_widgets({"a": FAILED_OUTPUT}, "a"), ["widget output: ZeroDivisionError: division by zero"]),
    "an error nobody saw": (with_widgets({"a": FAILED_OUTPUT}), ["widget output: ZeroDivisionError: division by zero"]),
    "a view without state": (with_widgets({}, "abc"), ["widget abc was shown, but its state is missing"]),
    "a view and no widgets at all": (with_widgets(None, "abc"), ["widget abc was shown, but its state is missing"]),
}


@pytest.mark.parametrize("case", WIDGETS)
def test_errors_that_hide_in_widgets_are_found(case: str) -> None:
    notebook, expected = WIDGETS[case]
    assert notebooks.widget_errors(notebook) == expected


def test_metadata_without_widget_state_is_no_error() -> None:
    notebook = with_widgets(None)
    notebook.metadata["widgets"] = {}
    assert notebooks.widget_errors(notebook) == []


# --- running ---

# Results as `records.publish` writes them, without the seconds that importing it takes.
PUBLISH = f"""
import os
from IPython.display import display

seen = {{"count": count, "rate": rate, "word": word, "switch": switch, "files": sorted(os.listdir())}}
display({{"{records.RESULTS_TYPE}": seen, "text/plain": "results"}}, raw=True)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, write_notebook: Callable[..., Path]) -> tuple[Path, Path, Any]:
    """A notebook that ran well: its path, where it wrote, the record."""
    root = tmp_path_factory.mktemp("done")
    path = write_notebook(root / "good.ipynb", PUBLISH, parameters=TYPED.replace("0.5", "5e-1"))
    (root / "current").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "current")
        record = notebooks.run(path, root / "out" / "deep", {"count": 8, "switch": True})
    return path, root / "out" / "deep", record


def test_a_run_is_recorded_as_it_is_returned(done: tuple[Path, Path, Any]) -> None:
    _, out_dir, record = done
    assert json.loads((out_dir / "good.json").read_text(encoding="utf-8")) == record
    assert list(record) == [
        "schema",
        "notebook",
        "status",
        "error",
        "parameters",
        "results",
        "methods",
        "versions",
        "device",
        "expected",
        "seconds",
        "peak_memory_mb",
        "started",
        "git",
    ]
    assert (record["schema"], record["notebook"]) == (records.SCHEMA, "good")
    assert (record["status"], record["error"]) == ("done", None)
    assert record["versions"] == records.versions()
    assert record["device"] == records.describe_device(records.choose_device("auto"))
    assert record["expected"] is None  # it is no stage
    assert 0 < record["seconds"] < 60
    started = datetime.fromisoformat(record["started"])
    assert started.tzinfo is not None
    assert abs((datetime.now(started.tzinfo) - started).total_seconds()) < 3600


def test_the_parameters_of_a_run_are_typed(done: tuple[Path, Path, Any]) -> None:
    parameters = done[2]["parameters"]
    assert parameters == {"count": 8, "rate": 0.5, "word": "a: b", "switch": True}
    assert {name: type(value) for name, value in parameters.items()} == {
        "count": int,
        "rate": float,
        "word": str,
        "switch": bool,
    }


def test_a_run_sees_its_parameters_and_publishes_its_results(done: tuple[Path, Path, Any]) -> None:
    results = dict(done[2]["results"])
    del results["files"]
    assert results == {"count": 8, "rate": 0.5, "word": "a: b", "switch": True}


def test_a_run_shares_nothing_through_the_current_folder(done: tuple[Path, Path, Any]) -> None:
    # Two runs started from one folder at once must not meet, and the folder may be one that cannot be written to.
    assert done[2]["results"]["files"] == []
    assert os.listdir(done[0].parent / "current") == []  # noqa: PTH208 - as the notebook did it


def test_a_run_changes_only_its_own_folder(done: tuple[Path, Path, Any]) -> None:
    path, out_dir, _ = done
    assert sorted(entry.name for entry in out_dir.iterdir()) == ["good.ipynb", "good.json"]
    source = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in source.cells)
    executed = nbformat.read(out_dir / "good.ipynb", as_version=4)
    assert any(cell.get("outputs") for cell in executed.cells)


def test_a_notebook_is_never_written_over_itself(
    tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_notebook(tmp_path / "mine.ipynb", "1 + 1", parameters="seed: int = 0")
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    for out_dir in (tmp_path, Path()):
        with pytest.raises(ValueError, match=r"mine\.ipynb"):
            notebooks.run(path, out_dir, {})
    assert path.read_bytes() == before


INTERACT = "import ipywidgets\n\nipywidgets.interact(lambda x: 1 / 0, x=3)"
OUTPUT = "import ipywidgets\n\noutput = ipywidgets.Output()\nwith output:\n    raise KeyError('hidden')\noutput"
FAILING = {
    "a cell": (("x = 1", "print('told')\nraise RuntimeError('no luck')", "x = 2"), "RuntimeError: no luck"),
    "interact": ((INTERACT,), "ZeroDivisionError: division by zero"),
    "an output widget": ((OUTPUT,), "KeyError: 'hidden'"),
    # As when memory runs out, which is when a record is needed most.
    "the kernel": (("import os\n\nos._exit(1)",), "died"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_run_that_fails_is_recorded_too(
    tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cells, message = FAILING[case]
    path = write_notebook(tmp_path / "bad.ipynb", *cells, parameters="seed: int = 0")
    record = notebooks.run(path, tmp_path / "out", {"seed": 3})
    assert record["status"] == "failed"
    assert message in record["error"]
    assert record["parameters"] == {"seed": 3}
    assert json.loads((tmp_path / "out" / "bad.json").read_text()) == record
    executed = nbformat.read(tmp_path / "out" / "bad.ipynb", as_version=4)
    if case == "a cell":
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        assert any(output.get("text") == "told\n" for output in outputs)
        assert any(output.get("ename") == "RuntimeError" for output in outputs)
        # Where to look: parameters, injected parameters, x = 1, and then the culprit.
        assert record["error"].startswith("In [4]: RuntimeError")


def test_a_device_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = write_notebook(tmp_path / "gpu.ipynb", "1 / 0", parameters='device: str = "auto"')
    with pytest.raises(ValueError, match="device is 'cuda' but torch finds no CUDA device"):
        notebooks.run(path, tmp_path / "out", {"device": "cuda"})
    assert not list(tmp_path.glob("out/*"))


# --- what a run takes ---


def test_what_a_run_is_expected_to_take() -> None:
    stage = notebooks.find("00")
    assert notebooks.expected(stage, {}) == Forecast(0.2, 650, measured=True)
    assert notebooks.expected(stage, {"profile": "ci"}) == Forecast(0.15, 650, measured=True)
    assert notebooks.expected(Path("mine.ipynb"), {}) is None


def test_what_a_run_took() -> None:
    assert notebooks.taken({"seconds": 93.0, "peak_memory_mb": 612}) == "1.6 min and 612 MB"


def test_the_peak_of_memory_is_that_of_all_processes_that_were_started(
    tmp_path: Path, write_notebook: Callable[..., Path], done: tuple[Path, Path, Any]
) -> None:
    little = done[2]["peak_memory_mb"]
    hungry = write_notebook(
        tmp_path / "hungry.ipynb",
        """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; kept = bytearray(b'x') * 300_000_000; time.sleep(1)"], check=True)
""",
        parameters="seed: int = 0  # any",
    )
    code = "kept = bytearray(b'x') * 300_000_000; print(); input()"
    with subprocess.Popen(  # that was there before, and does not count
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        much = notebooks.run(hungry, tmp_path / "hungry", {})["peak_memory_mb"]
        other.communicate(b"\n")
    assert 30 < little < 250
    assert 250 < much - little < 400


def test_a_run_of_a_stage_is_recorded_with_what_was_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papermill, "execute_notebook", lambda path, out, **_: shutil.copy(path, out))
    record = notebooks.run(notebooks.find("00"), tmp_path, {"profile": "ci"})
    assert record["expected"] == {"minutes": 0.15, "memory_mb": 650, "measured": True}
