"""The commands `chts teach ...`. A command imports its modules only when it runs."""

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_teach(commands: Commands) -> None:
    """Add the command `teach` and its subcommands."""
    parser = commands.add_parser("teach", help="teach a course: make an assignment, grade a class, make slides")
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_course, _add_grade, _add_slides):
        add(inner)


def _add_course(commands: Commands) -> None:
    command = commands.add_parser(
        "course",
        help="make a folder for teaching: an assignment, the stages with and without solutions, and timetables",
        description="If you run the command again, it keeps nbgrader_config.py and source/, and writes the rest again.",
    )
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument(
        "--students",
        type=Path,
        metavar="CSV",
        help="CSV file with the column id, and optional columns first_name, last_name and email",
    )
    command.set_defaults(command=_course)


def _course(options: argparse.Namespace) -> int:
    from chts_core.lab.teach import classes

    made = classes.make_course(options.folder, options.students)
    for name, path in zip(("hand out", "source", "stages", "solved stages", "plans"), made, strict=True):
        print(f"{name + ':':<14} {path}")
    return 0


def _add_grade(commands: Commands) -> None:
    command = commands.add_parser(
        "grade",
        help="run and grade the submissions, and report on the class; exit status 1 if a student has no grade",
        description="The command runs the code of your students with all permissions of your account. Use a container.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="the course")
    command.add_argument("submissions", type=Path, metavar="SUBMISSIONS", help="a folder with a notebook per student")
    command.set_defaults(command=_grade)


def _grade(options: argparse.Namespace) -> int:
    from chts_core.lab.teach import classes

    page, graded = classes.grade(options.folder, options.submissions)
    lacking = [one for one in graded if one.points is None]
    for one in lacking:
        print(f"chts: {one.student}: {one.remark}", file=sys.stderr)
    print(f"{len(graded) - len(lacking)} of {len(graded)} students are graded: {page}")
    return 1 if lacking else 0


def _add_slides(commands: Commands) -> None:
    command = commands.add_parser(
        "slides",
        help="make slides from executed notebooks, as pages that need no internet connection",
        description="Each section begins a new column of slides. Answers appear when you go forward.",
    )
    command.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="stage number (06), name (06_mlp) or path")
    command.add_argument("--out", type=Path, default=Path("slides"), metavar="DIR", help="default: slides")
    command.set_defaults(command=_slides)


def _slides(options: argparse.Namespace) -> int:
    from chts_core.lab.notebook import notebooks
    from chts_core.lab.teach import slides

    for path in [notebooks.find(name) for name in options.notebooks]:
        print(slides.write_slides(path, options.out))
    return 0
