"""The check of our wording finds what it should, where it is, and nothing else."""

from pathlib import Path

import prose
import pytest


@pytest.mark.parametrize("rule", prose.RULES, ids=lambda rule: rule["write"])
def test_a_rule_finds_its_bad_example_and_accepts_the_good_one(rule: dict[str, str]) -> None:
    assert [advice for _, _, advice in prose.complaints(rule["bad"])] == [f"write: {rule['write']}"]
    assert prose.complaints(rule["good"]) == []


def test_a_pattern_goes_on_in_the_next_line() -> None:
    ((line, words, _),) = prose.complaints("One line.\nIt multiplies the links\nalone.")
    assert (line, words) == (2, "links\nalone")


def test_proselint_finds_a_cliche_in_its_line() -> None:
    ((line, words, advice),) = prose.complaints("One line.\nThe links stay\nin a nutshell.")
    assert (line, words) == (3, "in a nutshell")
    assert "cliché" in advice


def test_markdown_is_searched_without_its_code() -> None:
    text = '# Title\n```\nlinks alone\n```\nSay `links alone`, "links alone" or [here](links_alone.md): links alone.\n'
    assert [line for line, *_ in prose.complaints(prose.of_markdown(text))] == [5]


def test_a_notebook_is_searched_in_its_markdown_cells() -> None:
    source = '# %%\n# links alone\nx = "links alone"\n\n# %% [markdown]\n# Two lines, the links\n# alone.\n'
    assert [line for line, *_ in prose.complaints(prose.of_notebook(source))] == [6]


def test_a_module_is_searched_in_its_docstrings_and_messages() -> None:
    source = (
        '"""First line.\n\nIt keeps the links alone."""\n\nlinks_alone = "links alone"\n'
        'raise ValueError(\n    f"{links_alone} keeps the "\n    "links alone"\n)  # links alone\n'
    )
    assert [line for line, *_ in prose.complaints(prose.of_module(source))] == [3, 7]


def test_all_prose_of_the_repository_is_read() -> None:
    names = {str(path.relative_to(prose.ROOT)) for path, _ in prose.files()}
    assert {"README.md", "docs/guides/speed.md", "notebooks/06_mlp.py", "chts_core/engine/guard.py"} <= names
    assert all(Path(name).suffix in (".md", ".py") for name in names)
