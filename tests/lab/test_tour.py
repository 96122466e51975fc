import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from chts_core.lab.notebook.tour import as_text, comparison, tour
from chts_core.lab.results import records

HOSTILE = '<script>alert("&")</script>'


def row(method: str, **given: Any) -> dict[str, Any]:
    usual = {"accuracy": 0.9, "interval": 0.01, "density": 0.01, "active_neurons": 0.5, "itop": 0.2, "seconds": 1.0}
    return {"method": method, "runs": 2} | usual | given


# --- the table ---


def test_the_comparison_is_ready_to_print() -> None:
    stages = [
        {"results": {}},
        {
            "results": {
                "dataset": "digits",
                "methods": [
                    row("fc", accuracy=0.97256, interval=0.00512, density=1.0, active_neurons=1.0, seconds=1.26),
                    row("chtss", accuracy=0.9, interval=0.1049, density=0.010009765625, active_neurons=0.954),
                ],
            }
        },
        {"results": {"dataset": "number_words", "methods": [row("set", bleu=99.96, interval=0.04, seconds=123.0)]}},
    ]
    rows = comparison(stages)
    assert rows == [
        {
            "method": "fc",
            "data": "digits",
            "score": "97.3% ± 0.5%",
            "density": "100.00%",
            "active neurons": "100%",
            "seconds": "1.3",
        },
        {
            "method": "chtss",
            "data": "digits",
            "score": "90.0% ± 10.5%",
            "density": "1.00%",
            "active neurons": "95%",
            "seconds": "1.0",
        },
        {
            "method": "set",
            "data": "number_words",
            "score": "BLEU 100.0 ± 0.0",
            "density": "1.00%",
            "active neurons": "50%",
            "seconds": "123.0",
        },
    ]
    assert as_text(rows) == (
        "method          data             score  density  active neurons  seconds\n"
        "fc            digits      97.3% ± 0.5%  100.00%            100%      1.3\n"
        "chtss         digits     90.0% ± 10.5%    1.00%             95%      1.0\n"
        "set     number_words  BLEU 100.0 ± 0.0    1.00%             50%    123.0"
    )


def test_one_run_has_no_interval() -> None:
    (alone,) = comparison([{"results": {"methods": [row("chts", interval=None)]}}])
    assert alone["score"] == "90.0%"
    (alone,) = comparison([{"results": {"methods": [row("chts", bleu=31.26, interval=None)]}}])
    assert alone["score"] == "BLEU 31.3"
    (alone,) = comparison([{"results": {"methods": [row("chts", perplexity=61.26, interval=None)]}}])
    assert alone["score"] == "perplexity 61.3"


def test_without_a_race_there_is_no_comparison() -> None:
    assert comparison([{"results": {}}, {"results": {"links": 3}}]) == []


def test_columns_are_as_wide_as_what_they_hold() -> None:
    rows = [{"method": "a long name", "x": "1"}, {"method": "b", "x": "12345"}]
    assert as_text(rows) == "method           x\na long name      1\nb            12345"


# --- the tour ---

PARAMETERS = 'profile: str = "laptop"'
PICTURE = "iVBORw0KGgo="
GOAL = f"01 · One\n\n**You will be able to** count\n$2^n$ links. {HOSTILE}\n\n| | |"


def publish(methods: list[dict[str, Any]]) -> str:
    return f"""
from IPython.display import display

display({{"image/png": "{PICTURE}", "text/plain": ""}}, metadata={{"image/png": {{"alt": {HOSTILE!r}}}}}, raw=True)
display({{"{records.RESULTS_TYPE}": {{"methods": {methods!r}}}, "text/plain": profile}}, raw=True)
"""


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory, write_notebook: Callable[..., Path]) -> tuple[bool, Path, str]:
    """A tour of three stages, of which the last two fail; whether it succeeded, where it wrote, and what it printed."""
    root = tmp_path_factory.mktemp("tour")
    # A record of an earlier run must not stand for that of a stage that dies before it writes one.
    dies = "import os, signal\n\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(1)"
    threads = 'import os\n\nprint("threads", os.environ["OMP_NUM_THREADS"])'
    stages = [
        write_notebook(root / "01_works.ipynb", threads, publish([row(HOSTILE)]), parameters=PARAMETERS, title=GOAL),
        write_notebook(
            root / "02_fails.ipynb", f"raise RuntimeError({HOSTILE!r})", parameters=PARAMETERS, title="02 · Fails"
        ),
        write_notebook(root / "03_dies.ipynb", dies, parameters=PARAMETERS, title="03 · Dies"),
    ]
    (root / "out").mkdir()
    (root / "out" / "03_dies.json").write_text('{"notebook": "03_dies", "error": null, "seconds": 1, "results": {}}')
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.delenv("OMP_NUM_THREADS", raising=False)
        succeeded = tour("ci", root / "out", stages)
    return succeeded, root / "out", printed.getvalue()


def test_a_stage_that_fails_does_not_stop_the_others(toured: tuple[bool, Path, str]) -> None:
    succeeded, out_dir, printed = toured
    assert succeeded is False
    states = {path.stem: json.loads(path.read_text())["status"] for path in sorted(out_dir.glob("*.json"))}
    assert states == {"01_works": "done", "02_fails": "failed"}
    assert {"index", *states} <= {path.stem for path in out_dir.glob("*.html")}
    lines = printed.splitlines()
    assert sorted(line.partition(",")[0] for line in lines[1:4]) == [
        "01_works: done",
        "02_fails: failed",
        "03_dies: failed",
    ]
    assert any(re.match(r"02_fails failed: In \[\d\]: RuntimeError: <script>", line) for line in lines)
    assert lines[-1] == f"1 of 3 stages are done: {out_dir / 'index.html'}"


def test_each_stage_has_its_profile_and_one_thread(toured: tuple[bool, Path, str]) -> None:
    for path in toured[1].glob("*.json"):
        assert json.loads(path.read_text())["parameters"]["profile"] == "ci"
    assert "threads 1" in (toured[1] / "01_works.ipynb").read_text("utf-8")


def test_the_index_has_a_card_for_each_stage_then_the_table(toured: tuple[bool, Path, str]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    works, fails, dies = re.findall(r"<article>.*?</article>", index, re.DOTALL)
    for card, stage in ((works, "01_works"), (fails, "02_fails")):
        for ending in ("html", "ipynb", "json"):
            assert f'href="{stage}.{ending}"' in card
            assert (toured[1] / f"{stage}.{ending}").is_file()
    assert "You will be able to count <math" in works
    assert f'src="data:image/png;base64,{PICTURE}"' in works
    assert re.search(r"<small>\d+ s · ", works)
    assert 'class="failed"' not in works
    assert "02 · Fails" in fails
    assert "RuntimeError" in fails
    assert 'href="03_dies.log"' in dies
    assert 'href="03_dies.html"' not in dies
    assert "exit status -9 and wrote no record; see 03_dies.log" in dies
    assert 'class="failed"' in dies
    assert index.index("<table") > index.rindex("</article>")
    assert "Profile ci" in index


def test_the_index_escapes_what_it_was_given(toured: tuple[bool, Path, str]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    assert "<script" not in index
    # In an error, a text alternative and a row of the table; and in what you will be able to do.
    assert index.count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") >= 3
    assert "&lt;script&gt;alert" in index.partition("You will be able to")[2].partition("</p>")[0]


def test_the_index_needs_no_network(toured: tuple[bool, Path, str]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', index)
    assert "<link" not in index


def test_a_tour_prints_the_table_and_how_to_read_its_pages(toured: tuple[bool, Path, str]) -> None:
    assert as_text(comparison([{"results": {"methods": [row(HOSTILE)]}}])) in toured[2]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tour_stops_all_and_says_what_is_done(
    tmp_path: Path, write_notebook: Callable[..., Path], how: signal.Signals
) -> None:
    quick = write_notebook(tmp_path / "01_quick.ipynb", "1", parameters=PARAMETERS)
    waits = f"import os, pathlib, time\n\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    slow = write_notebook(tmp_path / "02_slow.ipynb", f"{waits}\ntime.sleep(600)", parameters=PARAMETERS)
    command = [sys.executable, "-m", "chts_core.cli", "tour", "--profile", "ci", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, str(quick), str(slow)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts with & ignores it
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("01_quick: done, ") for line in process.stdout)  # until it is
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
            time.sleep(0.05)
        # A record that an earlier tour left there.
        shutil.copy(tmp_path / "out" / "01_quick.json", tmp_path / "out" / "02_slow.json")
        process.send_signal(how)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.terminate()
    assert process.returncode == 130
    assert re.search("^02_slow: stopped, ", printed, re.MULTILINE)
    assert printed.splitlines()[-1] == f"1 of 2 stages are done: {tmp_path / 'out' / 'index.html'}"
    kernel = int((tmp_path / "pid").read_text())
    index = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert index.count("<article>") == 1
    assert not psutil.pid_exists(kernel)
