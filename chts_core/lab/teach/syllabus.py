"""Teaching plans, with the measured run time of each part."""

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from chts_core.lab.notebook import notebooks
from chts_core.lab.notebook.notebooks import as_markdown

_PROFILES = ("binder", "laptop")


@dataclass(frozen=True)
class Part:
    """A part of a session, with its length in minutes; `stage` is the number of its notebook, or ""."""

    minutes: int
    what: str
    stage: str = ""


@dataclass(frozen=True)
class Session:
    """The parts of a plan between two long breaks."""

    title: str
    parts: tuple[Part, ...]

    @property
    def minutes(self) -> int:
        """The length of the session in minutes."""
        return sum(part.minutes for part in self.parts)


@dataclass(frozen=True)
class Plan:
    """A teaching plan: `name` is the name of its file, and `audience` says who it is for."""

    name: str
    title: str
    audience: str
    sessions: tuple[Session, ...]


def plans() -> list[Plan]:
    """All plans from notebooks/teaching/plans.yaml."""
    text = (notebooks.folder() / "teaching" / "plans.yaml").read_text("utf-8")
    return [
        Plan(
            name,
            plan["title"],
            plan["for"],
            tuple(
                Session(session["title"], tuple(Part(**part) for part in session["parts"]))
                for session in plan["sessions"]
            ),
        )
        for name, plan in yaml.safe_load(text).items()
    ]


def as_page(plan: Plan) -> str:
    """A plan in Markdown: a table for each session, with the minutes of each part and the run times of its notebook."""
    lines = [
        f"# {plan.title}\n",
        f"For {plan.audience}.\n",
        f"We measured the runs on two cores, with the profiles `{'` and `'.join(_PROFILES)}`. Start each notebook "
        "before its part, so that it has finished when you need it.\n",
    ]
    for session in plan.sessions:
        lines.append(f"## {session.title}\n")
        lines.append(f"{as_markdown(list(_rows(session)))}\n")
    return "\n".join(lines)


def _rows(session: Session) -> Iterator[dict[str, str]]:
    clock = 0
    for part in session.parts:
        end = clock + part.minutes
        yield {
            "minutes": f"{clock}–{end}",
            "stage": part.stage or "–",
            "what": part.what,
            "runs (min)": " / ".join(f"{minutes:g}" for minutes in running(part)) or "–",
        }
        clock = end


def running(part: Part) -> list[float]:
    """The measured run times of a part's notebook in minutes, one for each of `_PROFILES`; empty without a notebook."""
    if not part.stage:
        return []
    stem = notebooks.find(part.stage).stem
    return [float(notebooks.profile_settings(stem, profile)["minutes"]) for profile in _PROFILES]
