"""The core works without the packages of the notebooks, and the lab says which it misses."""

import subprocess
import sys

import pytest

# Hides a package as if it were not installed.
HIDE = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "papermill" else find(name, *rest)
"""


# Imports the core, prints what came with it, then imports the lab.
IMPORT = """
import chts_core
print(sorted({'papermill', 'matplotlib', 'pandas', 'sklearn', 'ipywidgets', 'psutil'} & set(sys.modules)))
import chts_core.cli
"""


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDE + IMPORT], capture_output=True, text=True, check=False)


def test_the_core_needs_torch_alone(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout == "[]\n", done.stderr


def test_the_lab_names_what_is_missing_and_how_to_get_it(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert "chts_core.lab needs papermill" in done.stderr
    assert "pip install 'chts[notebooks]'" in done.stderr
