import ast
import importlib
from functools import reduce
from pathlib import Path

import latex2mathml.converter
import pytest

from chts_core.lab.notebook import glossary, notebooks
from chts_core.lab.notebook.glossary import GLOSSARY, Term

TESTS = Path(__file__).parents[1]
each_term = pytest.mark.parametrize("term", GLOSSARY, ids=lambda term: term.name)


@each_term
def test_what_computes_a_term_exists(term: Term) -> None:
    package, module, *names = term.function.split(".")
    assert callable(reduce(getattr, names, importlib.import_module(f"{package}.{module}"))) or "masks" in names


@each_term
def test_the_test_of_a_term_exists(term: Term) -> None:
    file, _, name = term.test.partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert name in functions


@each_term
def test_the_formula_of_a_term_can_be_shown_in_a_table(term: Term) -> None:
    assert "|" not in term.formula  # which would end the cell
    assert "$" not in term.formula
    if term.formula:
        assert "\\" not in latex2mathml.converter.convert(term.formula)


@each_term
def test_a_term_is_explained(term: Term) -> None:
    assert term.meaning[0].isupper()
    assert term.meaning.endswith(".")
    assert term.source


def test_every_term_is_there_once_and_taught_by_a_stage() -> None:
    assert len({term.name for term in GLOSSARY}) == len(GLOSSARY) >= 25
    known = {stage.number for stage in notebooks.overview("ci")}
    assert {term.stage for term in GLOSSARY} <= known


def test_the_rows_of_the_glossary() -> None:
    rows = {row["term, stage"]: row for row in glossary.rows()}
    assert len(rows) == len(GLOSSARY)
    assert rows["**degree** <br> 01"] == {
        "term, stage": "**degree** <br> 01",
        "meaning": "Number of links of a neuron. A neuron with far more links than the others is a hub.",
        "formula, source": r"$d_i = \sum_j A_{ij}$ <br> notation",
        "function, test": (
            "<code>diagnostics.<wbr>degrees</code> <br> "
            "<code>test_<wbr>diagnostics.<wbr>py::<wbr>test_<wbr>degrees_<wbr>by_<wbr>hand</code>"
        ),
    }
    assert rows["**ER** <br> 01"]["formula, source"] == "initial networks"
