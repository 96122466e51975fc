import re
from collections.abc import Callable
from typing import Any

import nbformat
import pytest

from chts_core.lab.figures.history import WORKS
from chts_core.lab.figures.style import method_label
from chts_core.lab.notebook import notebooks

Executed = Callable[[str], tuple[dict[str, Any], Any]]
PUBLISHED = nbformat.read(notebooks.find("00"), as_version=4)


def tables(notebook: Any) -> list[str]:
    return [
        output["data"]["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result"
    ]


def printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def text_of(notebook: Any) -> str:
    """All of its text, a space for each end of a line."""
    return " ".join(" ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split())


def accuracies(notebook: Any) -> dict[str, float]:
    """Percent of the validation images by network, as printed."""
    found = re.findall(r"^(\w+) +[\d,]+ links .*?, validation accuracy ([\d.]+)%$", printed(notebook), re.MULTILINE)
    return {name: float(percent) for name, percent in found}


# --- what training costs ---


def test_the_published_costs_are_those_of_the_formula_and_of_the_text() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in tables(PUBLISHED)[0].splitlines()[2:]]
    # 100,000 steps of 512 · 256 tokens, 6 operations per link and token; 16 bytes per weight, 12 more per position.
    tokens = 13_107_200_000
    for (links, operations, days, memory), (count, size) in zip(rows, ((10**9, 16), (5 * 10**7, 28)), strict=True):
        assert int(links.replace(",", "")) == count
        assert float(operations) == pytest.approx(6 * count * tokens, rel=0.01)
        assert float(days) == pytest.approx(6 * count * tokens / 1e14 / 86_400, abs=0.05)
        assert float(memory) == pytest.approx(count * size / 1e9)
    (_, _, days, memory), (_, _, fewer_days, less_memory) = rows
    text = text_of(PUBLISHED)
    assert f"falls to 5 %, so the training time falls from {days} days to {fewer_days} days" in text
    assert f"from {float(memory):g} GB to {less_memory} GB. So the sparse model needs almost 9 % of the memory" in text
    assert 0.085 < float(less_memory) / float(memory) < 0.09


def test_the_text_names_each_work_of_the_timeline() -> None:
    (story,) = (cell.source for cell in PUBLISHED.cells if "## Why could fewer links be enough?" in cell.source)
    for work in WORKS:
        name = " ".join(method_label(work.name).split())
        assert re.search(rf"\b{re.escape(name)}(?!\w)", " ".join(story.split())), name


# --- the first experiment ---


def test_stage_00_trains_dense_sparse_and_static(executed: Executed) -> None:
    record, _ = executed("00")
    dense, sparse, static = record["results"]["runs"]
    assert (dense["method"], sparse["method"]) == ("fc", "chts")
    assert dense["density"] == 1
    for run in (sparse, static):
        assert abs(run["density"] - 0.05) < 0.001
    # A static mask tries no other link; CHTs does.
    assert static["itop"] == pytest.approx(static["density"], abs=1e-4)
    assert sparse["itop"] > 1.1 * sparse["density"]
    assert dense["validation_accuracy"][-1] > 0.9


def test_the_text_on_the_three_networks_holds(executed: Executed) -> None:
    small, text = executed("00")[1], text_of(PUBLISHED)
    lost = {}
    for profile, notebook in (("ci", small), ("laptop", PUBLISHED)):
        found = accuracies(notebook)
        assert list(found) == ["dense", "CHTs", "static"]
        assert abs(found["static"] - found["CHTs"]) < 2
        (points,) = re.findall(r"^CHTs loses (-?[\d.]+) percentage points$", printed(notebook), re.MULTILINE)
        assert float(points) == pytest.approx(found["dense"] - found["CHTs"], abs=0.11)
        lost[profile] = float(points)
    assert "static network does about as well as CHTs" in text
    assert f"CHTs loses {lost['laptop']} percentage points with the profile `laptop`" in text
    epochs = notebooks.profile_settings("00_start_here", "ci")["epochs"]
    assert f"With the profile `ci`, CHTs loses more, because it trains for only {epochs} epochs." in text
    assert lost["laptop"] < lost["ci"]
    assert epochs < notebooks.profile_settings("00_start_here", "laptop")["epochs"]


# --- the map ---


def test_stage_00_maps_all_stages(executed: Executed) -> None:
    record, notebook = executed("00")
    assert record["results"]["stages"] == [
        {"stage": stage.number, "minutes": stage.minutes} for stage in notebooks.overview("ci")
    ]
    assert all(f"]({path.name})" in tables(notebook)[1] for path in notebooks.stages())


def test_the_caption_of_the_map_is_true() -> None:
    needs: dict[str, set[str]] = {}
    for stage in notebooks.overview("ci"):
        known = [other for other in stage.prerequisites if other in needs]
        needs[stage.number] = set(known).union(*(needs[other] for other in known))
    numbers = list(needs)
    parts, later = numbers[1:6], numbers[numbers.index("06") + 1 :]
    assert parts == ["01", "02", "03", "04", "05"]
    assert set(parts) <= needs["06"]
    assert all("06" in needs[number] for number in later)


def test_the_page_on_using_the_notebooks_is_where_the_text_says() -> None:
    (link,) = re.findall(r"\[Using the notebooks\]\((.+?)\)", text_of(PUBLISHED))
    page = (notebooks.find("00").parent / link).resolve()
    assert page.is_file()
    assert f"`docs/guides/{page.name}`" in text_of(PUBLISHED)


# --- the exercise on storing ---


def test_the_solution_tells_what_the_solved_exercise_prints(executed: Executed) -> None:
    _, notebook = executed("00")
    line = r"^LLaMA-1B: ([\d,]+) of ([\d,]+) links, ([\d,]+) MB; all weights: ([\d,]+) MB$"
    ((links, possible, size, whole),) = re.findall(line, printed(notebook), re.MULTILINE)
    # 24 blocks of 4 · 2048² and 3 · 2048 · 5461 possible links.
    assert int(possible.replace(",", "")) == 24 * (4 * 2048**2 + 3 * 2048 * 5461) == 1_207_910_400
    assert int(links.replace(",", "")) == 60_395_520
    text = text_of(PUBLISHED)
    assert (
        f"keeps {links} of {possible} possible links. These links take {size} MB, while all weights of the dense model "
        f"take {whole} MB. " in text
    )
    assert "So 5 % of the links take 10 % of the bytes of the dense model." in text


# --- the other exercises ---


def test_the_solution_tells_the_share_of_a_step_that_the_solved_exercise_prints(executed: Executed) -> None:
    _, notebook = executed("00")
    line = r"^the MLP for MNIST at density ([\d.]+)%: ([\d.]+)% of the FLOPs of the dense network$"
    shares = re.findall(line, printed(notebook), re.MULTILINE)
    sparse, last = 784 * 1568 + 2 * 1568**2, 1568 * 10
    for density, share in shares:
        left = float(density) / 100 * sparse + last
        assert float(share) == pytest.approx(100 * left / (sparse + last), abs=0.01)
    text = text_of(PUBLISHED)
    assert [f"{float(density):g}" for density, _ in shares] == ["1", "0.1"]
    assert f"At a density of 1 %, a step needs {shares[0][1]} % of the FLOPs" in text
    assert f"At a density of 0.1 %, a step would need {shares[1][1]} %" in text
    assert last > 0.001 * sparse  # the dense last layer costs more than the others


def test_the_solution_names_the_stages_that_are_not_needed(executed: Executed) -> None:
    _, notebook = executed("00")
    (found,) = re.findall(r"^before stage 09: (.+)$", printed(notebook), re.MULTILINE)
    before = [stage.number for stage in notebooks.overview("ci")]
    before = before[: before.index("09")]
    left_out = [stage for stage in before if stage not in found.split()]
    *others, last = left_out
    assert f"needs all stages before it except {', '.join(others)} and {last}." in text_of(PUBLISHED)
