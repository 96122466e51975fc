from collections.abc import Callable
from pathlib import Path

import pytest

from chts_core.lab import doctor
from chts_core.lab.data import IMAGE_SETS


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


@pytest.mark.usefixtures("no_fashion")
def test_what_is_missing_is_told_with_its_remedy() -> None:
    told = doctor.report(places=False)
    assert "30 MB: missing; on Debian" in told
    for name, source in IMAGE_SETS.items():
        if source.folder is not None:
            assert f"\n  {name:<13} {source.size}: missing; {source.remedy}" in told
