"""The page of methods by source says what the code has: every choice of ours, every preset, all numbers of recipes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from chts_core.choices import (
    Constant,
    Correlated,
    Cosine,
    Cubic,
    Dense,
    ErdosRenyi,
    FullyConnected,
    Ramp,
    ReceptiveField,
    Regrowth,
    Removal,
    ScaleFree,
    Sigmoid,
    SmallWorld,
    Staged,
    Turnover,
)
from chts_core.lab.models import LLAMA_SIZES, TRANSFORMER_SIZES
from chts_core.lab.train import images, language, translation
from chts_core.methods import METHODS, PRESETS, Method

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "methods_by_source.md"
CHOICES = ("topology", "removal", "regrowth", "sparsity", "turnover")
SCORES = {
    "magnitude": "WM",
    "relative_importance": "RI",
    "mest": "WM + 0.01·gradient",
    "random": "at random",
    "gradient": "gradient",
    "ch2_l3n": "CH2-L3n",
    "ch3_l3n": "CH3-L3n",
    "ch2_l3p": "CH2-L3p",
    "ch3_l3p": "CH3-L3p",
}


# --- a choice in the words of the page ---


def in_words(choice: Any) -> str:
    match choice:
        case FullyConnected():
            return "all links"
        case ErdosRenyi():
            return "ER"
        case ReceptiveField(r=r, degree=degree):
            return f"BRF, r = {r:g}, {degree} degrees"
        case SmallWorld(beta=beta):
            return f"BSW, β = {beta:g}"
        case ScaleFree(equal_partition=equal, resort=resort):
            return f"BSF{', equal partition' if equal else ''}{f', {resort} resorting' if resort else ''}"
        case Correlated():
            return "CSTI"
        case Removal():
            return removal_in_words(choice)
        case Regrowth(score=score, soft=soft, history=history):
            past = "past WM" if score == "magnitude" else SCORES[score]
            drawn = {True: ", sampled", False: ", the highest"}[soft]
            weight = "last weight" if history else "from zero"
            return f"{past}{'' if score == 'random' and soft else drawn}; {weight}"
        case Dense():
            return "all links"
        case Constant():
            return "constant"
        case Sigmoid(initial=initial, start=start, end=end, k=k):
            return f"sigmoid from {initial:g}, between {start:g} and {end:g} of the run, k = {k:g}"
        case Cubic(initial=initial, start=start, end=end):
            return f"cubic from {initial:g}, between {start:g} and {end:g} of the run"
        case Staged(excess=(first, second), switch=switch):
            return f"target density + {first:g}, + {second:g} from {switch:g} of the updates on, the target at the last"
        case Turnover():
            return turnover_in_words(choice)
    raise TypeError(f"{choice!r} has no words")


def removal_in_words(removal: Removal) -> str:
    match removal.temperature:
        case None:
            drawn = "hard"
        case Ramp(initial=initial, final=final):
            drawn = f"soft, T {initial:g} → {final:g}"
        case number:
            drawn = f"soft, T = {number:g}"
    words = [f"{SCORES[removal.score]}, {drawn}"]
    if removal.prune is not None:
        words.append(f"prunes by {SCORES[removal.prune]}")
    if removal.percolate:
        words.append("percolation")
    if removal.returning:
        words.append("removed links may return")
    return "; ".join(words)


def turnover_in_words(turnover: Turnover) -> str:
    match turnover.zeta:
        case "excess":
            zeta = "the whole excess"
        case Cosine(initial=initial):
            zeta = f"ζ = {initial:g}, cosine"
        case number:
            zeta = f"ζ = {number:g}"
    words = [f"{zeta}, until {turnover.stop:g} of the run"]
    if turnover.early_stop is not None:
        who = "all layers stop together" if turnover.together else "a layer stops"
        words.append(f"{who} at overlap {turnover.early_stop:g}")
    if turnover.skip_optimizer:
        words.append("no optimizer step before an update")
    return "; ".join(words)


def ours(method: Method, choice: str) -> str:
    """A cell: a dash where the method has no use for the choice."""
    if choice in ("removal", "regrowth") and method == METHODS["fc"]:
        return "–"
    return in_words(getattr(method, choice))


def differs(preset: Method, method: Method, choice: str) -> bool:
    return getattr(preset, choice) != getattr(method, choice)


def as_number(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value < 0.001:
        return f"{value:.4f}".rstrip("0")
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


# --- the tables of the page ---


@cache
def tables(level: str) -> dict[str, list[dict[str, str]]]:
    """The rows of the first table below each heading of a level, by the heading."""
    found = {}
    for part in re.split(rf"^{level} ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        lines = re.search(r"(?:^\|.*\n?)+", body.split(f"\n{level[1:] or '#'} ")[0], re.MULTILINE)
        if lines is None:
            continue
        head, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[0].splitlines())
        found[title] = [dict(zip(head, row, strict=True)) for row in rows]
    return found


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def table_of(method: str) -> list[dict[str, str]]:
    (rows,) = (rows for title, rows in tables("##").items() if names_in(title) == [method])
    return rows


# --- methods and presets ---

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_ours_is_what_the_method_has(name: str) -> None:
    found = {row["choice"]: row["ours"] for row in table_of(name)}
    assert found == {choice: ours(METHODS[name], choice) for choice in CHOICES}


@every_method
def test_a_row_names_the_presets_that_differ_in_its_choice(name: str) -> None:
    for row in table_of(name):
        expected = [
            preset
            for preset, method in PRESETS.items()
            if preset.startswith(f"{name}/") and differs(method, METHODS[name], row["choice"])
        ]
        assert names_in(row["presets"]) == expected, row["choice"]
        assert row["presets"] == (", ".join(f"`{preset}`" for preset in expected) or "–")


def test_the_table_of_presets() -> None:
    rows = tables("##")["The presets"]
    found = {names_in(row["preset"])[0]: row["difference from the method"] for row in rows}
    expected = {}
    for preset, method in PRESETS.items():
        base = METHODS[preset.partition("/")[0]]
        changes = [
            f"{choice}: {in_words(getattr(method, choice))}" for choice in CHOICES if differs(method, base, choice)
        ]
        expected[preset] = "<br>".join(changes) or "nothing"
    assert found == expected


def test_every_cell_of_every_method_says_something() -> None:
    for name in METHODS:
        for row in table_of(name):
            assert all(row.values()), (name, row["choice"])


@pytest.mark.parametrize(
    "choice",
    [
        ReceptiveField(), SmallWorld(), Removal("magnitude"), Removal("magnitude", temperature=Ramp(1.0, 3.0)),
        Regrowth("gradient"), Regrowth("random"), Sigmoid(), Cubic(), Staged(), Turnover(Cosine(0.3), early_stop=0.9),
        Turnover(0.3), ScaleFree(),
    ],
    ids=in_words,
)  # fmt: skip
def test_another_setting_has_other_words(choice: Any) -> None:
    """No setting is left out of the words, so that a change of any of them is seen."""
    others = {
        "r": 0.5, "degree": "uniform", "beta": 0.5, "score": "mest", "temperature": Ramp(1.0, 9.0), "percolate": True,
        "prune": "relative_importance", "returning": True, "soft": False, "history": True, "initial": 0.6, "start": 0.1,
        "end": 0.5, "k": 2.0, "excess": (0.1, 0.025), "switch": 0.5, "zeta": "excess", "stop": 0.8, "early_stop": 0.8,
        "together": True, "skip_optimizer": True, "equal_partition": True, "resort": "soft",
    }  # fmt: skip
    for field in fields(choice):
        value = others[field.name]
        if isinstance(choice, Regrowth) and field.name == "score":
            value = "ch2_l3n"
        if field.name == "together" and choice.early_stop is None:
            continue
        assert in_words(replace(choice, **{field.name: value})) != in_words(choice), field.name


# --- recipes ---

RECIPES: dict[str, tuple[Sequence[str], Mapping[str, Any], Mapping[str, Any]]] = {
    "Images": (("mlp_paper", "mlp_paper_cifar10"), images.RECIPES, {}),
    "Translation": (("multi30k", "iwslt", "wmt"), translation.RECIPES, TRANSFORMER_SIZES),
    "Language": (("60m", "130m", "1b"), language.RECIPES, LLAMA_SIZES),
}


@pytest.mark.parametrize("task", RECIPES)
def test_ours_is_what_the_recipe_has(task: str) -> None:
    names, recipes, sizes = RECIPES[task]
    settings = []
    for name in names:
        recipe = asdict(recipes[name])
        size = sizes.get(str(recipe.pop("size", "")))
        settings.append(
            recipe | ({} if size is None else {f"size.{key}": value for key, value in asdict(size).items()})
        )
    expected = {}
    for field in settings[0]:
        values = [as_number(setting[field]) for setting in settings]
        expected[field] = values[0] if len(set(values)) == 1 else " / ".join(values)
    rows = tables("###")[task]
    assert {names_in(row["setting"])[0]: row["ours"] for row in rows if names_in(row["setting"])} == expected


@pytest.mark.parametrize("task", RECIPES)
def test_where_ours_is_of_neither_source_a_reason_is_given(task: str) -> None:
    for row in tables("###")[task]:
        as_code = row["paper"] == "not stated" and row["ours"] == row["published code"]
        assert as_code or row["ours"] == row["paper"] or len(row["why"]) > 1, row["setting"]


def test_the_words_are_explained() -> None:
    """Every short name that the tables use is in the legend."""
    legend = PAGE.read_text("utf-8").partition("\n## ")[0]
    words = "R1", "R2", "WM", "RI", "ER", "BRF", "BSW", "BSF", "CSTI", "hard", "soft", "percolation", "not stated"
    for word in words:
        assert word in legend
