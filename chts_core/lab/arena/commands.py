"""The command `chts arena`. The module `contest` is imported only when the command runs."""

import argparse
import importlib
import sys
from pathlib import Path

from chts_core.lab.teach.commands import Commands
from chts_core.methods import Method


def add_arena(commands: Commands) -> None:
    """Add `arena` to the commands."""
    command = commands.add_parser(
        "arena",
        help="check your own method and race it against the nine methods of the paper; exit with 1 if it fails a check",
        description="The nine methods of the paper have recorded runs, so usually only your method trains. "
        "Importing MODULE runs its code.",
    )
    command.add_argument(
        "method", metavar="MODULE:NAME", help="my_module:MY_METHOD, a Method in my_module.py in this folder"
    )
    help_of_minutes = "a method of the paper trains only if it can finish within this many minutes (default: 10)"
    command.add_argument("--minutes", type=float, default=10.0, help=help_of_minutes)
    help_of_out = "the folder for the results; an interrupted arena continues there (default: runs/arena)"
    command.add_argument("--out", type=Path, default=Path("runs/arena"), metavar="DIR", help=help_of_out)
    command.set_defaults(command=_arena)


def _arena(options: argparse.Namespace) -> int:
    from chts_core.lab.arena import contest

    method = find_method(options.method)
    try:
        passed = contest.run(options.method.partition(":")[2], method, options.out, minutes=options.minutes)
    except KeyboardInterrupt:
        print(f"chts: stopped; {options.out} has the finished runs. Repeat the command to continue.", file=sys.stderr)
        return 130
    return 0 if passed else 1


def find_method(place: str) -> Method:
    """Import the module of `place` (MODULE:NAME) and return the method. The module may be in the current folder.

    Raises:
        ValueError: if `place` is not MODULE:NAME, if there is no such module, or if NAME is not a method in this
            module.
    """
    module_name, _, name = place.partition(":")
    if not name or module_name.endswith(".py") or not all(map(str.isidentifier, module_name.split("."))):
        raise ValueError(
            f"method is {place!r}; expected MODULE:NAME, for example my_module:MY_METHOD. Write the module as in an "
            "import: without a folder and without .py."
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports is missing
        raise ValueError(
            f"there is no module {error.name!r}; expected {error.name}.py in {here}, or an installed module."
        ) from error
    method = getattr(module, name, None)
    if not isinstance(method, Method):
        found = f"is of type {type(method).__name__}" if hasattr(module, name) else "does not exist"
        raise ValueError(
            f"{place} {found}; expected a chts_core.methods.Method, for example replace(METHODS['set'], ...)."
        )
    return method
