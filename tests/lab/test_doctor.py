from collections.abc import Callable
from pathlib import Path

import pytest

from chts_core.lab.data import IMAGE_SETS, TRANSLATION_SETS
from chts_core.lab.notebook import doctor


@pytest.mark.usefixtures("no_fashion")
def test_places_are_told_only_where_they_are_asked_for(
    tmp_path: Path, write_fashion: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHTS_DATA", str(write_fashion(tmp_path)))
    told, kept = doctor.report(places=True), doctor.report(places=False)
    assert f"30 MB: found, {tmp_path / 'fashion-mnist'}" in told
    assert "30 MB: found\n" in f"{kept}\n"
    assert str(tmp_path) not in kept
    assert "found, comes with scikit-learn" in kept
    assert "\n  number_words  11,000 pairs: found, made here by num2words" in kept


@pytest.mark.usefixtures("no_fashion")
def test_translation_sets_are_found_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TRANSLATION_SETS["multi30k"]
    monkeypatch.setenv("CHTS_DATA", str(tmp_path))
    (tmp_path / "multi30k").mkdir()
    for file in source.files:
        assert f"{source.size}: missing" in doctor.report(places=True)
        (tmp_path / "multi30k" / f"{file}.gz").touch()
    assert f"\n  multi30k      {source.size}: found, {tmp_path / 'multi30k'}\n" in doctor.report(places=True)


@pytest.mark.usefixtures("no_fashion")
def test_what_is_missing_is_told_with_its_remedy() -> None:
    told = doctor.report(places=False)
    assert "30 MB: missing; on Debian" in told
    for name, source in {**IMAGE_SETS, **TRANSLATION_SETS}.items():
        if source.folder is not None:
            assert f"\n  {name:<13} {source.size}: missing; {source.remedy}" in told
