import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chts_core.lab import notebooks, records
from chts_core.lab.tour import as_text, comparison, tour

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


def publish(methods: list[dict[str, Any]]) -> str:
    return f"""
from IPython.display import display

display({{"image/png": "{PICTURE}", "text/plain": ""}}, metadata={{"image/png": {{"alt": {HOSTILE!r}}}}}, raw=True)
display({{"{records.RESULTS_TYPE}": {{"methods": {methods!r}}}, "text/plain": profile}}, raw=True)
"""


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory, write_notebook: Callable[..., Path]) -> tuple[bool, Path]:
    """A tour of three stages, of which the first two fail; whether it succeeded, and where it wrote."""
    root = tmp_path_factory.mktemp("tour")
    fails = f"raise RuntimeError({HOSTILE!r})"
    stages = [
        write_notebook(root / "01_fails.ipynb", fails, parameters=PARAMETERS, title="01 · Fails"),
        write_notebook(root / "02_dies.ipynb", "import os\n\nos._exit(1)", parameters=PARAMETERS, title="02 · Dies"),
        write_notebook(
            root / "03_works.ipynb", publish([row(HOSTILE)]), parameters=PARAMETERS, title=f"03 · {HOSTILE}"
        ),
    ]
    (root / "current").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "stages", lambda: stages)
        patch.chdir(root / "current")
        return tour("ci", root / "out"), root / "out"


def test_a_stage_that_fails_does_not_stop_the_others(toured: tuple[bool, Path]) -> None:
    succeeded, out_dir = toured
    assert succeeded is False
    states = {path.stem: json.loads(path.read_text())["status"] for path in sorted(out_dir.glob("*.json"))}
    assert states == {"01_fails": "failed", "02_dies": "failed", "03_works": "done"}
    assert {path.stem for path in out_dir.glob("*.html")} == {"index", *states}


def test_the_profile_reaches_every_stage(toured: tuple[bool, Path]) -> None:
    for path in toured[1].glob("*.json"):
        assert json.loads(path.read_text())["parameters"]["profile"] == "ci"


def test_the_index_names_every_stage_and_what_failed(toured: tuple[bool, Path]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    articles = re.findall(r"<article>.*?</article>", index, re.DOTALL)
    assert len(articles) == 3
    for article, stage in zip(articles, ("01_fails", "02_dies", "03_works"), strict=True):
        for ending in ("html", "ipynb", "json"):
            assert f'href="{stage}.{ending}"' in article
        assert ('class="failed"' in article) == (stage != "03_works")
    assert "01 · Fails" in articles[0]
    assert "RuntimeError" in articles[0]
    assert "02 · Dies" in articles[1]
    assert f'src="data:image/png;base64,{PICTURE}"' in articles[2]
    assert "Profile ci" in index


def test_the_index_escapes_what_it_was_given(toured: tuple[bool, Path]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    assert "<script" not in index
    # In a title, an error, a text alternative and a row of the table.
    assert index.count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") >= 3


def test_the_index_needs_no_network(toured: tuple[bool, Path]) -> None:
    index = (toured[1] / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', index)
    assert "<link" not in index


def test_a_tour_without_failures_succeeds_and_prints_the_table(
    tmp_path: Path,
    write_notebook: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = write_notebook(tmp_path / "01_works.ipynb", publish([row("chts")]), parameters=PARAMETERS, title="01 · One")
    monkeypatch.setattr(notebooks, "stages", lambda: [stage])
    assert tour("ci", tmp_path / "out") is True
    shown = capsys.readouterr().out
    assert "01_works: 01 · One" in shown
    assert as_text(comparison([{"results": {"methods": [row("chts")]}}])) in shown
    assert str(tmp_path / "out" / "index.html") in shown
