"""Train classifiers, translators and language models from the name of a recipe and its parameters."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from chts_core.lab.data import IMAGE_SETS, TEXT_SETS, TRANSLATION_SETS, load_images, load_text, load_translation
from chts_core.lab.results import records
from chts_core.lab.train import images, language, translation
from chts_core.methods import get_method

Recipe = images.Recipe | translation.Recipe | language.Recipe

RECIPES: Mapping[str, Recipe] = {**images.RECIPES, **translation.RECIPES, **language.RECIPES}
_SETS: Mapping[type, Mapping[str, Any]] = {
    images.Recipe: IMAGE_SETS,
    translation.Recipe: TRANSLATION_SETS,
    language.Recipe: TEXT_SETS,
}
# The data sets of recipes that were made for one data set. Any other recipe uses the first data set of its kind, which
# needs no files.
_OWN_SETS = {
    "mlp_paper_cifar10": "cifar10",
    "multi30k_small": "multi30k",
    "multi30k": "multi30k",
    "iwslt": "iwslt14",
    "wmt": "wmt17",
}
# The parameters of a run that are not settings of its recipe, with their defaults. No setting has one of these names.
DEFAULTS: Mapping[str, Any] = {
    "dataset": "",  # by default, the recipe's data set, or one that needs no files
    "method": "chts",
    "sparsity": 0.9,
    "seed": 0,
    "data_dir": None,
    "device": "auto",
}


def changed_recipe(name: str, changes: Mapping[str, Any]) -> Recipe:
    """Return a copy of the recipe `name` in which some settings are changed.

    Args:
        name: a key of `RECIPES`.
        changes: for each setting to change, its new value, which may also be given as text.

    Raises:
        ValueError: for an unknown recipe or setting, or a value that the setting cannot have.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; expected one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    hints = get_type_hints(type(recipe))
    settled: dict[str, Any] = {}
    for setting, value in changes.items():
        if setting not in hints:
            names = (field.name for field in fields(recipe))
            raise ValueError(f"the recipe has no setting {setting!r}; expected one of {', '.join(names)}.")
        known = getattr(recipe, setting)
        if hints[setting] == float | None and value in (None, "null"):
            settled[setting] = None
            continue
        kind = float if hints[setting] == float | None else type(known)
        try:
            parsed = yaml.safe_load(value) if isinstance(value, str) and kind is not str else value
        except yaml.YAMLError:
            parsed = None
        if kind is float:
            parsed = _as_float(parsed)
        if type(parsed) is not kind:
            raise ValueError(f"{setting} is {value!r}; expected {kind.__name__}, such as {known!r}.")
        settled[setting] = parsed
    return replace(recipe, **settled)


def _as_float(value: Any) -> Any:
    """Turn a number into a float, even 1e-3, which YAML reads as text."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def checked(recipe: str, parameters: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Check the recipe and the parameters of one run, before anything is loaded.

    Args:
        recipe: a key of `RECIPES`.
        parameters: values for keys of `DEFAULTS` and for settings of the recipe; all others keep their defaults.

    Returns:
        The recipe with the changed settings, and a value for each key of `DEFAULTS`.

    Raises:
        ValueError: if no run can be trained with these settings.
    """
    found = changed_recipe(recipe, {name: value for name, value in parameters.items() if name not in DEFAULTS})
    settled = {name: parameters.get(name, default) for name, default in DEFAULTS.items()}
    if type(settled["seed"]) is not int:
        raise ValueError(f"seed is {settled['seed']!r}; expected a whole number.")
    known = _SETS[type(found)]
    settled["dataset"] = settled["dataset"] or _OWN_SETS.get(recipe, next(iter(known)))
    if settled["dataset"] not in known:
        raise ValueError(f"dataset is {settled['dataset']!r}; expected one of {', '.join(known)}.")
    if isinstance(found, language.Recipe):
        language.plan_run(settled["method"], settled["sparsity"], found)
    else:  # the plan needs the size of the images, or the number of subwords
        get_method(settled["method"])
        if not isinstance(settled["sparsity"], int | float) or not 0 <= settled["sparsity"] < 1:
            raise ValueError(f"sparsity is {settled['sparsity']!r}; expected a share of absent links in [0, 1).")
    if get_method(settled["method"]).is_dense:
        settled["sparsity"] = 0.0  # the record shows the actual sparsity, whatever was requested
    return found, settled


def train(
    recipe: str, parameters: Mapping[str, Any], folder: Path, *, save_every: int = 500, show: bool = False
) -> dict[str, Any]:
    """Train one run in one process, write its record and a checkpoint to the folder, and return the record.

    Args:
        recipe, parameters: as in `checked`.
        folder: the folder for the checkpoint and the record; an interrupted run continues from its checkpoint.
        save_every: steps between two checkpoints of a translator or language model.
        show: whether to show a progress bar; the bars of several parallel runs would be mixed up.

    Raises:
        ValueError: if no run can be trained with these settings.
    """
    found, settled = checked(recipe, parameters)
    chosen, place = (settled["method"], settled["sparsity"]), (settled["dataset"], settled["data_dir"])
    given = {"seed": settled["seed"], "device": records.choose_device(settled["device"]), "show": show}
    if isinstance(found, images.Recipe):
        record = images.train_and_record(load_images(*place), *chosen, found, folder, **given)
    elif isinstance(found, translation.Recipe):
        pairs = translation.prepare(load_translation(*place), found)
        record = translation.train_and_record(pairs, *chosen, found, folder, save_every=save_every, **given)
    else:
        text = language.prepare(load_text(*place), found)
        record = language.train_and_record(text, *chosen, found, folder, save_every=save_every, **given)
    assert record is not None  # there is only one process
    return record
