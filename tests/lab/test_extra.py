"""The core works without the packages of the notebooks, and the lab says which it misses."""

import subprocess
import sys

# Hides a package as if it were not installed.
HIDE = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "papermill" else find(name, *rest)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{HIDE}\n{code}"], capture_output=True, text=True, check=False)


def test_the_core_needs_torch_alone() -> None:
    heavy = "{'papermill', 'matplotlib', 'pandas', 'sklearn', 'ipywidgets', 'psutil'}"
    done = run(f"import chts_core\nprint(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_lab_names_what_is_missing_and_how_to_get_it() -> None:
    done = run("import chts_core.lab.cli")
    assert done.returncode == 1
    assert "chts_core.lab needs papermill" in done.stderr
    assert "pip install 'chts[notebooks]'" in done.stderr
