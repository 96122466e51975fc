"""Check that every method does what its description says.

`published` compares the presets of the authors' commands with numbers recorded from these commands
(:mod:`chts_core.lab.verify.published`). This comparison finds commands that we have misread. `conformance` trains small
models with the nine methods and compares each method with a second version of its formulas. This comparison finds an
error in one of the two versions. A custom method has no specification, so `conformance` compares it with its own
schedules, scores and shares.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chts_core.lab.verify.checks import CHECKS
from chts_core.lab.verify.published import CHECKS as PUBLISHED_CHECKS
from chts_core.lab.verify.published import COMMANDS
from chts_core.lab.verify.published.recordings import Outcome
from chts_core.lab.verify.specification import SPECS, of_choices
from chts_core.methods import METHODS, PRESETS, Method, get_method


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one method; passed is None if the check does not apply."""

    method: str
    check: str
    passed: bool | None
    detail: str


def conformance(methods: Mapping[str, Method] = METHODS, device: str = "cpu") -> list[Check]:
    """Check methods against their specifications; an exception counts as a failure.

    Args:
        methods: a mapping from names to methods, by default the nine methods of the paper. If `SPECS` has the name of a
            method, the method is compared with the specification of this name. Any other method is compared with its
            own schedules, scores and shares.
        device: the device of the small models, "cpu" or "cuda".
    """
    return [checked(name, method, check, device) for name, method in methods.items() for check in CHECKS]


def checked(name: str, method: Method, check: str, device: str = "cpu") -> Check:
    """Run one check, which compares a method with the specification `SPECS[name]`. If `SPECS` has no entry `name`,
    make a specification from the method's own schedules, scores and shares.
    """

    def compare() -> Outcome:
        known = get_method(method)  # raises an error if the method is not valid
        return CHECKS[check](known, SPECS[name] if name in SPECS else of_choices(known), device)

    return _outcome(name, check, compare)


def published(names: Collection[str] | None = None) -> list[Check]:
    """Check the presets of the published commands against the numbers recorded from these commands.

    Args:
        names: the presets to check; presets without a recording are left out. With None, all presets are checked.
    """
    known = METHODS | PRESETS
    chosen = [name for name in COMMANDS if names is None or name in names]
    return [checked_by_numbers(name, known[name], check) for name in chosen for check in PUBLISHED_CHECKS]


def checked_by_numbers(name: str, method: Method, check: str) -> Check:
    """Run one check, which compares a method with the published command `COMMANDS[name]`."""
    return _outcome(name, check, lambda: PUBLISHED_CHECKS[check](get_method(method), COMMANDS[name]))


def _outcome(name: str, check: str, compare: Callable[[], Outcome]) -> Check:
    try:
        passed, detail = compare()
    except Exception as error:  # a broken method may fail in any way
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, check, passed, detail)


def as_table(results: Sequence[Check]) -> str:
    """A table as text, with one line per method and one column per check, followed by the failures."""
    marks = {True: "ok", False: "FAIL", None: "-"}
    found = {(result.method, result.check): marks[result.passed] for result in results}
    methods, checks = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True))
    first, width = max(map(len, ("method", *methods))) + 2, max(map(len, checks)) + 2
    lines = ["method".ljust(first) + "".join(check.rjust(width) for check in checks)]
    for method in methods:
        lines.append(method.ljust(first) + "".join(found[method, check].rjust(width) for check in checks))
    failures = [result for result in results if result.passed is False]
    lines += ["", *(f"{result.method}, {result.check}: {result.detail}" for result in failures)]
    passed = sum(result.passed is True for result in results)
    return "\n".join([*lines, f"{passed} passed, {len(failures)} failed"])


def as_record(results: Sequence[Check]) -> list[dict[str, Any]]:
    """The results as JSON values."""
    return [asdict(result) for result in results]
