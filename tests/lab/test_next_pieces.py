import math

import pytest

from chts_core.lab import next_pieces

ENDS = {"</s>": 1.0}
TREE = {"<s>": {"a": 0.6, "b": 0.4}, "a": {"c": 0.5, "d": 0.5}, "b": {"d": 1.0}, "c": ENDS, "d": ENDS}


@pytest.mark.parametrize(("beam", "pieces", "chance"), [(1, ["a", "c"], 0.3), (2, ["b", "d"], 0.4)])
def test_a_table_is_searched_as_by_hand(beam: int, pieces: list[str], chance: float) -> None:
    found, hypothesis = next_pieces.search(TREE, beam)
    assert found == pieces
    assert hypothesis.log_probability == pytest.approx(math.log(chance), rel=1e-5)
    assert hypothesis.score == pytest.approx(math.log(chance) / (8 / 6) ** 0.6, rel=1e-5)  # two pieces and the end
    assert hypothesis.finished


def test_a_translation_is_cut_off_at_its_most_pieces() -> None:
    found, hypothesis = next_pieces.search({"<s>": {"a": 1.0}, "a": {"a": 0.9, "</s>": 0.1}}, 1, max_length=3)
    assert found == ["a"] * 3
    assert not hypothesis.finished


@pytest.mark.parametrize("row", [{"a": 0.5}, {"z": 1.0}])
def test_a_table_that_is_none_is_refused(row: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r"^'<s>' is followed by .* expected chances that sum to 1, for pieces that have"
    ):
        next_pieces.search({"<s>": row, "a": ENDS}, 1)
