"""Plans of teaching: what they say adds up, and follows the order of the stages."""

import pytest

from chts_core.lab.notebook import notebooks
from chts_core.lab.teach import syllabus
from chts_core.lab.teach.syllabus import Part, Plan, Session

PLANS = {plan.name: plan for plan in syllabus.plans()}


def test_there_are_the_plans_that_are_promised() -> None:
    assert list(PLANS) == ["ninety_minutes", "two_weeks"]
    assert [session.minutes for session in PLANS["ninety_minutes"].sessions] == [90]
    assert [session.minutes for session in PLANS["two_weeks"].sessions] == [90] * 10


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_part_is_shorter_than_its_notebook_runs(plan: Plan) -> None:
    for session in plan.sessions:
        for part in session.parts:
            assert all(minutes < part.minutes / 2 for minutes in syllabus.running(part)), part


def test_two_weeks_teach_every_stage_but_two_after_what_it_builds_on() -> None:
    known = {stage.number: stage for stage in notebooks.overview("laptop")}
    taught: list[str] = []
    for session in PLANS["two_weeks"].sessions:
        for part in session.parts:
            if part.stage:
                taught.append(part.stage)
                assert set(known[part.stage].prerequisites) <= set(taught), part.stage
    assert set(known) - set(taught) == {"08b", "10"}


def test_a_page_has_the_clock_and_what_was_measured() -> None:
    plan = Plan("x", "A plan", "those who tell", (Session("1 · One", (Part(10, "talk"), Part(80, "do", "06"))),))
    measured = [notebooks.profile_settings("06_mlp", profile)["minutes"] for profile in ("binder", "laptop")]
    assert syllabus.as_page(plan).splitlines() == [
        "# A plan",
        "",
        "For those who tell.",
        "",
        "We measured the runs on two cores, with the profiles `binder` and `laptop`. Start each notebook before its "
        "part, so that it has finished when you need it.",
        "",
        "## 1 · One",
        "",
        "| minutes | stage | what | runs (min) |",
        "| --- | --- | --- | --- |",
        "| 0–10 | – | talk | – |",
        f"| 10–90 | 06 | do | {measured[0]:g} / {measured[1]:g} |",
    ]
