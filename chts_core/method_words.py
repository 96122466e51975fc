"""Read the choices of a method from words: "topology=ErdosRenyi(), turnover=Turnover(Cosine(0.1))"."""

import ast
import math
from collections.abc import Mapping
from typing import Any

import torch

from chts_core import balance, choices
from chts_core.schedules import Timeline

# The possible values of each choice.
_CHOICES: dict[str, tuple[type, ...]] = {
    "topology": (
        choices.FullyConnected,
        choices.ErdosRenyi,
        choices.ReceptiveField,
        choices.SmallWorld,
        choices.ScaleFree,
        choices.Correlated,
        balance.Balanced,
    ),
    "removal": (choices.Removal, balance.BalancedRemoval),
    "regrowth": (choices.Regrowth, balance.BalancedRegrowth),
    "sparsity": (
        choices.Dense,
        choices.Constant,
        choices.Sigmoid,
        choices.Cubic,
        choices.Exponential,
        choices.Cycling,
        choices.DenseEnd,
        choices.Staged,
    ),
    "turnover": (choices.Turnover,),
}
_WORDS = {kind.__name__: kind for kinds in (*_CHOICES.values(), (choices.Ramp, choices.Cosine)) for kind in kinds}


def choices_in_words(words: str, others: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that the words give, by name. The words are not executed as code.

    Args:
        others: the five choices of the method. The words replace some of them.

    Raises:
        ValueError: if the words give no choice, an unknown choice, or a choice that cannot work.
    """
    try:
        call = ast.parse(f"changed({words})", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.keywords) or call.args:
            raise ValueError("expected CHOICE=..., CHOICE=...")
        names = [keyword.arg for keyword in call.keywords]
        if len(set(names)) < len(names):
            raise ValueError(f"a choice is given twice: {', '.join(map(str, names))}")
        chosen = {str(keyword.arg): _built(keyword.value) for keyword in call.keywords}
        for name, choice in chosen.items():
            if name not in _CHOICES:
                raise ValueError(f"{name} is not a valid choice; expected one of {', '.join(_CHOICES)}")
            if not isinstance(choice, _CHOICES[name]):
                kinds = ", ".join(kind.__name__ for kind in _CHOICES[name])
                raise ValueError(f"{name} is {choice!r}; expected one of {kinds}")
        _try(**{**others, **chosen})
        return chosen
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the choices {words!r} are not valid: {error}.") from error


def _try(*, topology: Any, removal: choices.Removal, sparsity: Any, turnover: choices.Turnover, **_: Any) -> None:
    """Call the choices with these settings, so that invalid settings raise an error before the run, not during it."""
    timeline = Timeline(10_000, 1, turnover.stop)
    if not isinstance(topology, choices.Correlated):  # needs the correlations of inputs
        topology(32, 32, 0.5, generator=torch.Generator())
    sparsity.at(0, timeline, 0.99)
    for value in (turnover.zeta, removal.temperature):
        if value is not None and not isinstance(value, str) and not math.isfinite(choices.value_at(value, 0, timeline)):
            raise ValueError(f"{value!r} is not finite")


def _built(node: ast.expr) -> Any:
    """The value of an expression: a number, a string, None, True, False, a tuple, or a choice with such values."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple():
            return tuple(map(_built, node.elts))
        case ast.Call(func=ast.Name(id=name)) if name in _WORDS:
            return _WORDS[name](
                *map(_built, node.args), **{str(word.arg): _built(word.value) for word in node.keywords}
            )
    raise ValueError(
        f"{ast.unparse(node)} is not a valid value; expected a number, a string in quotes, None, True, False, a tuple, "
        f"or one of {', '.join(_WORDS)}"
    )
