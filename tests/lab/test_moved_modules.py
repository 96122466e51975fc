"""Modules that have moved: their names of before stay for one release, with a warning."""

import importlib
import subprocess
import sys

import pytest

from chts_core._moved import MOVED


@pytest.mark.parametrize("before", MOVED)
def test_the_name_of_before_is_that_module(before: str) -> None:
    now = importlib.import_module(MOVED[before])
    spec = now.__spec__
    sys.modules.pop(before, None)
    with pytest.warns(DeprecationWarning, match=f"{before} is {MOVED[before]} now"):
        assert importlib.import_module(before) is now
    assert now.__spec__ is spec
    assert now.__name__ == MOVED[before]


def test_the_warning_points_at_the_import_of_the_user() -> None:
    program = "import warnings\nwarnings.simplefilter('error')\nimport chts_core.weights\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "line 3, in <module>" in result.stderr
    assert "DeprecationWarning: chts_core.weights is chts_core.engine.weights now" in result.stderr


def test_other_modules_are_still_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"chts_core\.wight"):
        __import__("chts_core.wight")
