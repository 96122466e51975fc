import math
from collections.abc import Callable
from typing import Any

import pytest

from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.glossary import GLOSSARY
from chts_core.schedules import cosine_turnover, sigmoid_sparsity

Executed = Callable[[str], tuple[dict[str, Any], Any]]
Page = Callable[[str], tuple[dict[str, Any], str, str]]


def test_stage_05_publishes_what_its_text_says(executed: Executed) -> None:
    results = executed("05")[0]["results"]
    assert results["sigmoid missed"] == pytest.approx(0.45 * 0.0024726, abs=1e-6)
    assert results["literal sign"] == 0.05
    assert results["llama sparsity"] == 0.8989
    assert "ends at step 8000" in results["refused"]
    assert "stop at step 7500" in results["refused"]


def test_the_flops_of_stage_05_can_be_had_by_hand(executed: Executed) -> None:
    results = executed("05")[0]["results"]
    flops, planned = results["flops"], {row["method"]: row["flops"] for row in results["planned"]}
    # 80 updates' worth of steps in a run; each of two decays adds half of an update's fall to the area.
    size, dense = 147456 + 2560, 2560

    def share(excess: float) -> float:
        return (147456 * (0.05 + excess) + dense) / size

    start = 0.45 / 80 / 2
    assert flops["cubic to 75 %"] == pytest.approx(share(0.45 / 4 * 0.75 + start), abs=1e-4)
    assert flops["sigmoid to 75 %"] == pytest.approx(share(0.45 / 2 * 0.75 + start), abs=1e-4)
    assert flops["sigmoid to 37.5 %"] == pytest.approx(flops["cubic to 75 %"], abs=1e-4)
    assert planned["fc"] == 1
    assert planned["set"] == pytest.approx(share(0), abs=1e-4)
    assert planned["mest"] == pytest.approx(share(0.03), abs=1e-4)
    assert planned["gmp"] == pytest.approx(flops["cubic to 75 %"], abs=1e-6)
    assert planned["chtss"] == pytest.approx(flops["sigmoid to 37.5 %"], abs=1e-6)


def test_the_two_decays_of_stage_05_prune_alike_in_number_and_unlike_in_time(executed: Executed) -> None:
    settings = notebooks.profile_settings("05_density_decay", "ci")
    rows = {row["schedule"]: row for row in executed("05")[0]["results"]["pruning"]}
    assert set(rows) == {"cubic", "sigmoid"}
    cubic, sigmoid = rows["cubic"], rows["sigmoid"]
    hidden = settings["hidden"]
    half = (64 * hidden + 2 * hidden**2) // 2
    # 20 updates of the cubic decay, the first three of which leave (1 - 3/20)³ of the excess.
    first_three = 0.9 * half * (1 - (1 - 3 / 20) ** 3)
    assert cubic["links removed by the first three updates"] == pytest.approx(first_three, abs=4)
    assert sigmoid["links removed by the first three updates"] < first_three / 4
    assert cubic["step that removes most links"] == settings["steps"] // 4 + 20
    assert (
        sigmoid["largest share of the links removed by one update (%)"]
        > cubic["largest share of the links removed by one update (%)"]
    )
    for row in rows.values():
        assert row["final accuracy (%)"] > 85  # chance is 10
        assert row["95 % interval of the final accuracy (±)"] > 0


def test_the_exercises_of_stage_05_are_solved_by_their_solutions(executed: Executed) -> None:
    _, notebook = executed("05")
    checks = [cell for cell in notebook.cells if "check" in cell.metadata.get("tags", [])]
    said = ["".join(output.get("text", "") for output in cell.outputs) for cell in checks]
    assert said == ["Correct.\n"] * 7


def test_stage_05_prints_the_cosine_of_the_turnover(committed: Page) -> None:
    _, text, printed = committed("05_density_decay")
    for step, share in ((0, 0.3), (250, 0.15 * 1.5), (375, 0.15), (750, 0.0)):
        assert cosine_turnover(step, 750, 0.3) == pytest.approx(share, abs=1e-12)
        assert f"step {step:<3} exchanges {share:.1%} of the links" in printed
    assert r"exchanges $0.15 \cdot 1.5 = 22.5\,\%$ of the links" in text


def test_the_text_of_stage_05_has_the_losses_that_it_measured(committed: Page) -> None:
    results, text, _ = committed("05_density_decay")
    cubic, sigmoid = results["pruning"]
    lost, worst = "accuracy lost by the first three updates (points)", "accuracy lost by the worst update (points)"
    first = f"together cost {sigmoid[lost]:.2f} points of accuracy. The first three updates of the cubic schedule"
    assert f"{first} cost {cubic[lost]:.2f} points" in text
    steepest = f"This update costs {sigmoid[worst]:.2f} points, while the worst update of the cubic schedule costs"
    assert f"{steepest} {cubic[worst]:.2f} points." in text
    assert (
        abs(cubic["final accuracy (%)"] - sigmoid["final accuracy (%)"])
        < cubic["95 % interval of the final accuracy (±)"]
    )


def test_the_glossary_has_the_formulas_of_stage_05(committed: Page) -> None:
    _, text, _ = committed("05_density_decay")
    taught = {term.name: term for term in GLOSSARY if term.stage == "05"}
    for name in ("sigmoid decay", "cubic decay", "turnover ζ"):
        assert bare(taught[name].formula) in bare(text), name


def bare(formula: str) -> str:
    """LaTeX without what changes only its looks."""
    for looks in (r"\,", r"\left", r"\right", " ", "{", "}"):
        formula = formula.replace(looks, "")
    return formula.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")


def test_the_bare_sigmoid_misses_the_ends_that_the_rescaled_one_meets() -> None:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for u, k in ((0.0, 6.0), (0.3, 6.0), (1.0, 6.0), (0.7, 3.0)):
        share = 0.5 + (sigma(k * (2 * u - 1)) - 0.5) / (sigma(k) - sigma(-k))  # the glossary's formula
        assert sigmoid_sparsity(round(10 * u), 0, 10, 0.5, 0.95, k) == pytest.approx(0.5 + 0.45 * share, abs=1e-12)
    assert 0.5 + 0.45 * sigma(-6) == pytest.approx(0.5011, abs=5e-5)
    assert sigmoid_sparsity(0, 0, 10, 0.5, 0.95, 6.0) == 0.5
