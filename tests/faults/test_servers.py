"""`chts lab` answers on this machine alone and to whom has the token; pages show what they are given as text."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from chts_core.cli import main
from chts_core.lab.results import records

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, int]]:
    """The port, the token and the process of a server that `chts lab` has started."""
    folder = tmp_path_factory.mktemp("lab")
    # As root it would not start, and the command does not ask it to: who tests may be root.
    own = {"ServerApp": {"allow_root": True, "port": 0}}
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_server_config.json").write_text(json.dumps(own))
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder)}
    command = [sys.executable, "-m", "chts_core.cli", "lab", str(folder / "notebooks"), "--no-browser"]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://[^:/]+:(\d+)/lab\?token=(\w+)", log.read_text())) or not answers(
        int(found[1])
    ):
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)
    yield int(found[1]), found[2], process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def status(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["/api/contents", "/api/kernels", "/api/terminals", "/api/sessions"])
def test_without_the_token_nothing_is_given(lab: tuple[int, str, int], path: str) -> None:
    port, token, _ = lab
    assert status(port, path) == 403
    assert status(port, f"{path}?token={'0' * len(token)}") == 403
    assert status(port, path, Authorization=f"token {token}") == 200
    assert len(token) >= 32


def listens_at(process: psutil.Process) -> set[str]:
    try:
        connections = process.net_connections("tcp")
    except psutil.NoSuchProcess:  # Short-lived helpers of the server may end while we look at them.
        return set()
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_it_listens_to_this_machine_alone(lab: tuple[int, str, int]) -> None:
    _, _, pid = lab
    command = psutil.Process(pid)
    addresses = {address for process in (command, *command.children(recursive=True)) for address in listens_at(process)}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="is not root")
def test_root_is_refused_unless_root_says_otherwise(tmp_path: Path) -> None:
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "chts_core.cli", "lab", str(tmp_path / "notebooks"), "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode != 0
    assert "Running as root is not recommended. Use --allow-root to bypass." in done.stderr


# --- what is shown ---


def test_what_a_notebook_publishes_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))  # noqa: ARG005
    records.publish({HOSTILE: HOSTILE, "rows": [{HOSTILE: HOSTILE}]})
    assert "<img" not in shown[0]["text/html"]
    assert "<script" not in shown[0]["text/html"]


def test_what_a_record_says_is_shown_as_text(tmp_path: Path) -> None:
    rows = records.read_runs(records.results_folder() / "images.jsonl")[:2]
    for row in rows:
        row["method"] = row["dataset"] = HOSTILE
        row["device"]["name"] = HOSTILE
        row["recipe"][HOSTILE] = HOSTILE
    rows[1]["recipe"][HOSTILE] = HOSTILE[::-1]
    records.write_lines(tmp_path / "runs" / "runs.jsonl", rows)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    pages = list(tmp_path.glob("report*/*.html")) or list(tmp_path.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        assert "&lt;img" in text
        assert "<img src=x" not in text
        assert "<script>alert" not in text
