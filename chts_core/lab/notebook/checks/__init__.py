"""Checks of the exercises, with a module for each stage and a function for each exercise.

A check gets a learner's answers and, as keyword arguments, the values that it needs from the notebook. If the answers
are right, the check returns. Otherwise, it raises an AssertionError that says what is wrong. `exercises.check` runs
the check, so a notebook shows no assertions and no answers.
"""

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module

_PREFIX = "stage_"


def of_stage(stage: str) -> dict[str, Callable[..., None]]:
    """The checks of a stage, each under the name of its exercise, in the order of the notebook.

    Args:
        stage: the number of the stage, such as "06b".

    Raises:
        ValueError: if no stage with exercises has this number.
    """
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    stages = sorted(name.removeprefix(_PREFIX) for name in modules if name.startswith(_PREFIX))
    if stage not in stages:
        raise ValueError(f"stage {stage!r} has no exercises; expected one of {', '.join(stages)}.")
    module = import_module(f"{__name__}.{_PREFIX}{stage}")
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
