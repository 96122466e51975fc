"""Colab: what is missing is added with what it needs itself, what is there stays."""

import subprocess
from typing import Any

import pytest
import torch

from chts_core import colab

# Requirements of distributions that the tests pretend to have, or that can be had.
REQUIRES = {
    "chts": [
        "here>=1.0",
        "old>=3",
        'absent>=2; extra == "notebooks"',
        'tests-alone; extra == "test"',
        'jupyterlab>=3.6; extra == "notebooks"',
        'windows-alone; sys_platform == "win32"',
    ],
    "absent": ["here", "deeper<9", 'colour; extra == "pretty"'],
    "deeper": ["deepest[pretty]"],
    "deepest": ['colour; extra == "pretty"', 'plain; extra == "ugly"'],
    "colour": [],
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed on a machine where pip installs whatever is asked for, except `unobtainable`."""
    versions = {"chts": "0.1", "here": "1.2rc1", "old": "2.0"}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:6] == ["-m", "pip", "install", "--quiet", "--no-deps"]
        for plain in command[6:]:
            name = plain.partition(">")[0].partition("<")[0]
            if name == "unobtainable":
                return subprocess.CompletedProcess(command, 1, "", "No matching distribution found\n")
            versions[name] = "5.0"
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(colab.metadata, "requires", lambda name: REQUIRES[name])
    monkeypatch.setattr(colab, "_version", versions.get)
    monkeypatch.setattr(colab.subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return versions


def test_what_is_missing_comes_with_what_it_needs(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    colab.prepare()
    assert machine == {
        **{"chts": "0.1", "here": "1.2rc1", "old": "2.0"},
        **dict.fromkeys(("absent", "deeper", "deepest", "colour"), "5.0"),
    }
    assert capsys.readouterr().out.splitlines() == [
        "old 2.0 is installed and stays, although chts expects >=3.",
        "Added absent, colour, deeper, deepest; nothing else was changed.",
    ]


def test_nothing_is_done_twice(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    machine |= {"absent": "2.0", "old": "3.0"}
    colab.prepare()
    assert "deeper" not in machine  # what is there is taken as whole
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("machine")
def test_a_package_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REQUIRES, "chts", ["unobtainable>=1"])
    message = r"^unobtainable>=1 could not be installed; run this cell again\. No matching distribution found$"
    with pytest.raises(RuntimeError, match=message):
        colab.prepare()


@pytest.mark.usefixtures("machine")
def test_a_gpu_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    colab.prepare()
    assert capsys.readouterr().out.endswith(
        'A GPU is available (Tesla T4). Set profile = "gpu" below for a larger run.\n'
    )
