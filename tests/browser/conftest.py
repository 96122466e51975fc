"""Pages with every explorer on them: one in JupyterLab and one in Voilà, in a browser that reaches no other host.

Environment variables:
    CHTS_BROWSER_PYTHON: the interpreters of the servers and kernels, separated as in PATH; by default the one that
        runs the tests.
    CHTS_CHROMIUM: the browser, by default the Chromium or Chrome on the PATH.
    CHTS_BROWSER: "required" to fail where there is no browser, instead of skipping.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Page, Playwright, Route, sync_playwright
from xdist.scheduler import LoadScopeScheduling, Scheduling

from chts_core.lab.widgets import EXPLORERS

PYTHONS = os.environ.get("CHTS_BROWSER_PYTHON", sys.executable).split(os.pathsep)
REPORTS = Path("runs/reports/screenshots")
SECONDS = 180  # until a server answers and until a page has run its cells, also on a busy machine
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FRONT_ENDS = ("jupyterlab", "voila")

# Below each explorer a button leads back to its first state, so that no test depends on the one before.
CELL = """
import ipywidgets
from IPython.display import display
from chts_core.lab import widgets

def show(explorer):
    first = {{field: control.value for field, control in explorer.controls.items()}}
    def reset(_):
        for field, control in explorer.controls.items():
            control.value = first[field]
    button = ipywidgets.Button(description="first state").add_class(f"reset-{{explorer.name}}")
    button.on_click(reset)
    display(button)
    display(explorer)

{explorer}
""".strip()
READY = re.compile(r"^\s*all cells have run\s*$")

# What must not pass: a picture that does not follow its controls, a view that no front end has, a cell that raises.
INERT = """
class Inert(widgets.ReceptiveFieldExplorer):
    name = "inert"
    render = staticmethod(lambda state: widgets.ReceptiveFieldExplorer.render(widgets.ReceptiveFieldState()))
show(Inert())
""".strip()
UNKNOWN = """
class Unknown(ipywidgets.DOMWidget):
    _model_name, _model_module, _model_module_version = (
        traitlets.Unicode(text).tag(sync=True) for text in ("UnknownModel", "chts-unknown", "1.0.0")
    )
    _view_name, _view_module, _view_module_version = (
        traitlets.Unicode(text).tag(sync=True) for text in ("UnknownView", "chts-unknown", "1.0.0")
    )
""".strip()


def write_notebooks(folder: Path) -> None:
    """Writes `explorers.ipynb`, one cell per explorer, and notebooks that have something wrong with them."""
    show = CELL.format(explorer="")
    cells = {
        "explorers": [show, *(f'show(widgets.EXPLORERS["{name}"]())' for name in EXPLORERS)],
        "inert": [show, INERT],
        "unknown": [f"import ipywidgets, traitlets\n\n{UNKNOWN}\n\nUnknown().add_class('chts-unknown-view')"],
        "raising": ['raise RuntimeError("from a cell")'],
    }
    for name, sources in cells.items():
        notebook = new_notebook(
            cells=[new_code_cell(source) for source in (*sources, 'print("all cells have run")')],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, folder / f"{name}.ipynb")


class FrontEnd:
    """A server of notebooks and the browser that looks at them.

    Attributes:
        name: "jupyterlab" or "voila".
        shots: the folder of its screenshots.
    """

    def __init__(self, name: str, address: str, browser: Browser, shots: Path) -> None:
        self.name, self._address, self._browser, self.shots = name, address, browser, shots

    def open(self, notebook: str, wait: re.Pattern[str] = READY) -> Page:
        """A notebook in a page of its own, when the text to wait for is there: by default, when all cells have run."""
        page = self._browser.new_page(viewport={"width": 1300, "height": 900 + 800 * len(EXPLORERS)})
        page.set_default_timeout(1000 * SECONDS)
        page.complaints = []  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: page.complaints.append(str(error)))  # type: ignore[attr-defined]
        page.on(
            "console",
            lambda message: message.type == "error" and page.complaints.append(message.text),  # type: ignore[attr-defined]
        )
        page.route("**/*", _only_here)
        # JupyterLab brings back what a workspace had open, so each page has a workspace of its own.
        path = f"lab/workspaces/{notebook}/tree" if self.name == "jupyterlab" else "voila/render"
        page.goto(f"{self._address}/{path}/{notebook}.ipynb", wait_until="commit")
        if self.name == "jupyterlab":
            page.wait_for_function(
                "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
            )
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        page.get_by_text(wait).first.wait_for()
        return page


def _only_here(route: Route) -> None:
    """Lets a page ask its own server alone."""
    if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
        route.continue_()
    else:
        route.abort()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = os.environ.get("CHTS_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = (
            f"there is none of {', '.join(BROWSERS)} on the PATH; install one (apt-get install chromium) or name it in "
            "CHTS_CHROMIUM"
        )
        (pytest.fail if os.environ.get("CHTS_BROWSER") == "required" else pytest.skip)(reason)
    playwright: Playwright
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class ByInterpreter(LoadScopeScheduling):
    """All pages of an interpreter for one process of the tests, so that each page is opened once."""

    def _split_scope(self, nodeid: str) -> str:
        number = re.search(r"\[\w+-(\d+)", nodeid)  # "...[jupyterlab-0-...]"
        return number[1] if number else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Instead of xdist's own groups, which version 3.8 does not find under pytest 9.2."""
    return ByInterpreter(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By keyboard the same widgets are moved in JupyterLab; in Voilà only in the full tier."""
    for item in items:
        if "voila" in item.nodeid.lower() and "by_keyboard" in item.nodeid:
            item.add_marker(pytest.mark.full)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param((python, name), id=f"{name}-{number}")
        for number, python in enumerate(PYTHONS)
        for name in FRONT_ENDS
    ],
)
def front_end(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """JupyterLab, then Voilà, serving the notebooks."""
    python, name = request.param
    folder = tmp_path_factory.mktemp(name)
    write_notebooks(folder)
    with _server(python, name, folder, tmp_path_factory.mktemp("home")) as address:
        shots = REPORTS / f"ipywidgets-{_version_of_ipywidgets(python)}" / name
        shots.mkdir(parents=True, exist_ok=True)
        yield FrontEnd(name, address, browser, shots)


@pytest.fixture(scope="session")
def explorers(front_end: FrontEnd) -> Iterator[Page]:
    """The page of all explorers."""
    page = front_end.open("explorers")
    yield page
    page.close()


@pytest.fixture
def open_page(front_end: FrontEnd) -> Iterator[Callable[..., Page]]:
    """Opens a page that is closed when the test is over."""
    pages: list[Page] = []

    def open_one(notebook: str, wait: re.Pattern[str] = READY) -> Page:
        pages.append(front_end.open(notebook, wait))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()


def pytest_report_header() -> list[str]:
    """Which ipywidgets the pages have."""
    return [f"pages of the browser tests: {python}, ipywidgets {_version_of_ipywidgets(python)}" for python in PYTHONS]


def _version_of_ipywidgets(python: str) -> str:
    code = "from importlib.metadata import version; print(version('ipywidgets'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _server(python: str, name: str, folder: Path, home: Path) -> Iterator[str]:
    """A server of a folder, with settings of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = home / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    lab = [
        "--allow-root",
        "--ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={folder}",
    ]
    voila = ["--Voila.ip=127.0.0.1", f"--port={port}", str(folder)]
    module, options = ("jupyterlab", lab) if name == "jupyterlab" else ("voila", voila)
    ours = {"JUPYTER_CONFIG_DIR": home, "JUPYTER_DATA_DIR": home / "data", "IPYTHONDIR": home / "ipython"}
    with (home / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", module, "--no-browser", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            # One thread: on a busy machine, threads that wait for each other make a second of training a minute.
            env={**os.environ, "OMP_NUM_THREADS": "1", **{key: str(path) for key, path in ours.items()}},
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, home / "log.txt")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server answers; fails with its log if it ends or stays silent."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy there is for other hosts
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            direct.open(address, timeout=SECONDS).close()
            return
        except OSError:  # not yet
            time.sleep(0.1)
    pytest.fail(f"{' '.join(map(str, process.args))} does not answer:\n{log.read_text()}")
