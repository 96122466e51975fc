"""What is fetched from a hub: cut downloads go on, a proxy is used, offline means offline, other data are told apart.

A server here plays the hub.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest

from chts_core.lab.data import IMAGE_SETS, TRANSLATION_SETS, TextData, load_translation, sources, train_tokenizer
from chts_core.lab.results import records

# Blanks, so that the file is larger than the pieces (10 MB) in which the hub's library reads it.
TOKENIZER = train_tokenizer(TextData("some", ["abcdefgh"], []), 257).to_json().encode().ljust(24_000_000)
FETCH = (
    "import sys\n"
    "from chts_core.lab.data import TextData, load_tokenizer\n"
    "for name in sys.argv[1:]:\n"
    "    print(load_tokenizer(TextData('some', ['a'], ['b']), 300, name).digest)"
)


class Hub(ThreadingHTTPServer):
    """One file on a hub; the first answer that has it breaks off after `cut` bytes.

    asked: method, path and range of all requests.
    """

    def __init__(self, cut: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.cut = cut
        self.asked: list[tuple[str, str, str | None]] = []

    def environment(self, folder: Path) -> dict[str, str]:
        """Of a process that takes this for the hub, with an empty cache."""
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
        return os.environ | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(b"", len(TOKENIZER))

    def do_GET(self) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        cut, self.server.cut = self.server.cut, None
        self.answer(TOKENIZER[start : None if cut is None else start + cut], len(TOKENIZER) - start, start)

    def answer(self, content: bytes, length: int, start: int = 0) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Range"]))
        if not self.path.startswith("/some/tokenizer/resolve/main/tokenizer.json"):
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(TOKENIZER).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(TOKENIZER) - 1}/{len(TOKENIZER)}")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(cut=15_000_000)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(environment: dict[str, str], *names: str) -> "subprocess.CompletedProcess[str]":
    """One process loads tokenizers, one after the other."""
    command = [sys.executable, "-c", FETCH, *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_download_that_is_cut_goes_on_where_it_was_and_offline_means_offline(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub.environment(tmp_path), "some/tokenizer")
    assert done.returncode == 0, done.stderr[-2000:]
    ranges = [given for method, path, given in hub.asked if method == "GET" and "resolve" in path]
    assert len(ranges) == 2
    assert ranges[1] is not None
    start = int(ranges[1].removeprefix("bytes=").partition("-")[0])
    assert 0 < start <= 15_000_000
    # Once it is there, nobody is asked, and offline will do. What is not there is not found.
    hub.asked.clear()
    again = fetch(hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}, "some/tokenizer", "other/tokenizer")
    assert len(done.stdout.split()) == 1
    assert again.stdout == done.stdout
    assert again.returncode == 1
    assert "DataNotFoundError: the tokenizer 'other/tokenizer' was not found" in again.stderr
    assert "or tokenizer='' to train one on the corpus" in again.stderr
    assert hub.asked == []


def test_a_proxy_is_used(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path) | {
        "HF_ENDPOINT": "http://hub.invalid",
        "HTTP_PROXY": f"http://127.0.0.1:{hub.server_port}",
        "http_proxy": f"http://127.0.0.1:{hub.server_port}",
    }
    fetch(environment, "some/tokenizer")
    assert any(path.startswith("http://hub.invalid/some/tokenizer/") for _, path, _ in hub.asked)


# --- is it the same data? ---


SETS = {**IMAGE_SETS, **TRANSLATION_SETS}


@pytest.mark.parametrize(("name", "file"), [("fashion_mnist", "mlp_paper"), ("multi30k", "translation")])
def test_the_known_digests_are_those_of_the_recorded_runs(name: str, file: str) -> None:
    rows = records.read_runs(records.results_folder() / f"{file}.jsonl")
    assert {row["data"] for row in rows if row["dataset"] == name} == {SETS[name].sha256}
    assert [
        other for other, source in SETS.items() if source.sha256 and other not in ("fashion_mnist", "multi30k")
    ] == []


def test_other_data_than_that_of_the_recorded_runs_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {split: [{"en": "a", "de": "b"}] for split in ("train", "validation", "test")}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", ())
    monkeypatch.delenv("CHTS_DATA", raising=False)
    expected = (
        r"Multi30k from the hub \(bentrevett/multi30k\) has the SHA-256 \w{16}…, "
        r"but the data set of the recorded runs has dc7654c"
    )
    with pytest.warns(RuntimeWarning, match=expected):
        loaded = load_translation("multi30k")
    known = replace(TRANSLATION_SETS["multi30k"], sha256=loaded.digest)
    monkeypatch.setitem(TRANSLATION_SETS, "multi30k", known)
    assert load_translation("multi30k").digest == loaded.digest  # without a warning, which would be an error here
